//! baresip as the SIP phone of a test: registers at a registrar, plays a sine, records what it hears, and is steered over
//! its control socket.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    deadline::Deadline,
    process::{Process, free_port, has_part, peer},
    sip_phone::{Picture, SipPhone},
    tone::Sound,
};

/// Where Debian keeps its modules.
const MODULES: &str = "/usr/lib/baresip/modules";

/// What kind of phone is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// User of the account.
    pub user: &'static str,
    /// Its password.
    pub password: &'static str,
    /// Port of the registrar on 127.0.0.1.
    pub registrar: u16,
    /// Codecs in order of preference, as baresip names them: `PCMU/8000/1`, `opus/48000/2`.
    pub codecs: Vec<&'static str>,
    /// Whether it answers by itself.
    pub answers: bool,
    /// Frequency of the tone it sends, Hz.
    pub tone_hz: u32,
    /// For a phone with a camera (a picture of its own making) and a screen: what it encodes and decodes.
    pub video: Option<Video>,
    /// Seconds without RTP after which it ends a call; absent: it waits for ever.
    pub rtp_timeout_s: Option<u32>,
}

/// The video codecs of a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Video {
    /// VP8 alone.
    Vp8,
    /// H.264, Constrained Baseline, in packetization mode 0 alone. Encoded by x264, decoded by FFmpeg.
    H264Mode0,
    /// H.264 in modes 0 and 1, in this order, and behind them H.263, MPEG-4 and H.265, which browsers do not have.
    H264,
}

impl Video {
    /// The module that has it.
    const fn module(self) -> &'static str {
        match self {
            Self::Vp8 => "vp8",
            Self::H264Mode0 | Self::H264 => "avcodec",
        }
    }

    /// What the account says of it.
    const fn parameter(self) -> &'static str {
        match self {
            Self::Vp8 => ";video_codecs=vp8",
            // By name it finds the first of the two variants.
            Self::H264Mode0 => ";video_codecs=H264",
            Self::H264 => "",
        }
    }
}

impl Options {
    /// A phone for account 2001 of [`crate::kamailio::Options`] with one codec, which answers by itself and sends 660 Hz.
    pub fn new(registrar: u16, codec: &'static str) -> Self {
        Self {
            user: "2001",
            password: "secret-2001",
            registrar,
            codecs: vec![codec],
            answers: true,
            tone_hz: 660,
            video: None,
            rtp_timeout_s: None,
        }
    }
}

/// A running phone.
pub struct Baresip {
    process: Process,
    control: TcpStream,
    messages: Receiver<Value>,
    kept: VecDeque<Value>,
    pictures: u32,
    folder: TempDir,
}

impl Baresip {
    /// Starts the phone and waits until it is registered; `None` when baresip is not installed.
    pub fn start(options: &Options) -> Option<Self> {
        let program = peer("baresip")?;
        if let Some(video) = options.video {
            has_part(&Path::new(MODULES).join(format!("{}.so", video.module()))).then_some(())?;
        }
        for attempt in 0..5 {
            let folder = tempfile::Builder::new().prefix("baresip").tempdir().expect("a folder for baresip");
            let port = free_port();
            write_configuration(&folder, options, port);
            let mut command = Command::new(&program);
            command.arg("-f").arg(folder.path()).arg("-v");
            let mut process = Process::start(&format!("baresip {}", options.user), command);
            let Some(control) = connect(&process, port) else {
                assert!(attempt < 4, "baresip did not start:\n{}", process.tail());
                continue;
            };
            // Its first REGISTER may leave before the control socket is up, so this is read from its log.
            process.wait_line("its registration", Deadline::seconds(10), |line| line.contains("200 OK"));
            let (sender, messages) = channel();
            let mut reader = control.try_clone().expect("a second handle of the control socket");
            thread::spawn(move || {
                while let Some(message) = read_netstring(&mut reader) {
                    if sender.send(message).is_err() {
                        return;
                    }
                }
            });
            return Some(Self { process, control, messages, kept: VecDeque::new(), pictures: 0, folder });
        }
        None
    }

    /// Answers the call that rings.
    pub fn accept(&mut self) {
        self.command("accept", "");
    }

    /// Calls `target`, a number at its registrar or a SIP URI.
    pub fn dial(&mut self, target: &str) {
        self.command("dial", target);
    }

    /// Ends or rejects the call.
    pub fn hangup(&mut self) {
        self.command("hangup", "");
    }

    /// Waits until it has heard `hz` for at least `length` in one call.
    #[track_caller]
    pub fn wait_heard(&self, hz: f64, length: Duration, deadline: Deadline) {
        deadline.poll(&format!("{hz} Hz in baresip's recording"), || {
            self.recordings().iter().any(|sound| sound.heard(hz) >= length).then_some(())
        });
    }

    /// Any command of its menu, e.g. `hold`.
    pub fn command(&mut self, command: &str, params: &str) {
        let body = json!({ "command": command, "params": params }).to_string();
        write!(self.control, "{}:{body},", body.len()).expect("baresip takes the command");
    }

    /// Waits for the next event of this type, e.g. `CALL_ESTABLISHED`; other events before it stay to be waited for.
    #[track_caller]
    pub fn wait_event(&mut self, kind: &str, deadline: Deadline) -> Value {
        if let Some(at) = self.kept.iter().position(|event| event["type"] == kind) {
            return self.kept.remove(at).expect("it was just found");
        }
        while let Some(left) = deadline.left() {
            let Ok(message) = self.messages.recv_timeout(left) else { break };
            if message["event"] == true {
                if message["type"] == kind {
                    return message;
                }
                self.kept.push_back(message);
            }
        }
        panic!("baresip: waited in vain for {kind}; had {:?}; it wrote:\n{}", self.kept, self.process.tail());
    }

    /// Whether an event of this type has come and was not waited for.
    pub fn has_event(&mut self, kind: &str) -> bool {
        self.kept.extend(self.messages.try_iter().filter(|message| message["event"] == true));
        self.kept.iter().any(|event| event["type"] == kind)
    }

    /// What it has heard so far in all of its calls, the last one last.
    pub fn recordings(&self) -> Vec<Sound> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.folder.path().join("recordings"))
            .expect("the recordings' folder")
            .flatten()
            .map(|entry| entry.path())
            .filter(|file| file.to_string_lossy().ends_with("-dec.wav"))
            .collect();
        files.sort();
        files.iter().filter_map(|file| Sound::read_wav(file)).collect()
    }

    /// Waits until it decodes the next picture and hands that back.
    #[track_caller]
    pub fn wait_picture(&mut self, deadline: Deadline) -> Picture {
        self.pictures += 1;
        let file = self.folder.path().join(format!("screen-{}.png", self.pictures));
        self.command("snapshot_recv", &file.display().to_string());
        let png = deadline.poll("a picture on baresip's screen", || {
            fs::read(&file).ok().filter(|png| png.ends_with(b"IEND\xaeB`\x82"))
        });
        Picture(png)
    }

    /// Vanishes without a word.
    pub fn vanish(&self) {
        self.process.kill();
    }
}

impl SipPhone for Baresip {
    const NUMBER: &'static str = "2001";
    const PICTURE_EVERY: Duration = Duration::from_millis(67);

    fn dial(&mut self, number: &str) {
        self.dial(number);
    }

    fn hangup(&mut self) {
        self.hangup();
    }

    #[track_caller]
    fn wait_established(&mut self, deadline: Deadline) {
        self.wait_event("CALL_ESTABLISHED", deadline);
    }

    #[track_caller]
    fn wait_closed(&mut self, deadline: Deadline) {
        self.wait_event("CALL_CLOSED", deadline);
    }

    #[track_caller]
    fn wait_heard(&self, hz: f64, length: Duration, deadline: Deadline) {
        self.wait_heard(hz, length, deadline);
    }

    #[track_caller]
    fn wait_picture(&mut self, deadline: Deadline) -> Picture {
        self.wait_picture(deadline)
    }
}

/// Connects to the control socket as soon as it is up; `None` when the program ended or the port was taken.
fn connect(process: &Process, port: u16) -> Option<TcpStream> {
    let deadline = Deadline::seconds(10);
    while !deadline.is_over() && process.wait_end(Deadline::after(Duration::from_millis(20))).is_none() {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return Some(stream);
        }
    }
    None
}

/// One `length:json,` of the control socket; `None` at its end.
fn read_netstring(stream: &mut TcpStream) -> Option<Value> {
    let mut length = 0_usize;
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).ok()?;
        match byte[0] {
            digit @ b'0'..=b'9' => length = length.checked_mul(10)? + usize::from(digit - b'0'),
            b':' => break,
            _ => return None,
        }
    }
    let mut body = vec![0; length + 1];
    stream.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body[..length]).ok()
}

fn write_configuration(folder: &TempDir, options: &Options, control_port: u16) {
    let path = folder.path();
    fs::create_dir(path.join("recordings")).expect("the recordings' folder");
    let mut config = format!(
        "poll_method epoll\nsip_listen 127.0.0.1:0\ncall_local_timeout 120\ncall_max_calls 4\n\
         audio_player aubridge,ear\naudio_source ausine,{}\naudio_alert aubridge,bell\n\
         ausrc_srate 48000\nauplay_srate 48000\nausrc_channels 2\nauplay_channels 2\n\
         jitter_buffer_delay 2-10\nrtp_ports 20000-31000\nnet_interface 127.0.0.1\n\
         module_path {MODULES}\nsnd_path {}\nctrl_tcp_listen 127.0.0.1:{control_port}\n",
        options.tone_hz,
        path.join("recordings").display(),
    );
    if let Some(seconds) = options.rtp_timeout_s {
        writeln!(config, "rtp_timeout {seconds}").expect("a string takes everything");
    }
    for module in ["g711", "g722", "opus", "ausine", "aubridge", "sndfile", "ctrl_tcp"] {
        writeln!(config, "module {module}.so").expect("a string takes everything");
    }
    let video = match options.video {
        Some(video) => {
            config.push_str(
                "video_source fakevideo,nil\nvideo_display fakevideo,nil\nvideo_size 320x240\nvideo_fps 15\n",
            );
            for module in ["fakevideo", video.module(), "snapshot"] {
                writeln!(config, "module {module}.so").expect("a string takes everything");
            }
            video.parameter()
        }
        None => "",
    };
    config.push_str("module_tmp account.so\nmodule_app menu.so\n");
    let account = format!(
        "<sip:{user}@127.0.0.1:{port}>;auth_user={user};auth_pass={password};regint=60;answermode={mode};audio_codecs={codecs}{video}\n",
        user = options.user,
        port = options.registrar,
        password = options.password,
        mode = if options.answers { "auto" } else { "manual" },
        codecs = options.codecs.join(","),
    );
    for (file, text) in [("config", config.as_str()), ("accounts", account.as_str()), ("contacts", "")] {
        fs::write(path.join(file), text).expect("baresip's configuration is written");
    }
}
