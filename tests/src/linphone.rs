//! Linphone as the SIP phone of a test: `linphonec` without a terminal, a sound card or a screen. It plays and records WAV files, sends
//! a still picture as its camera's, and is steered by its own commands over stdin. What it decodes is told by its snapshots.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    deadline::Deadline,
    process::{Process, free_port, has_part, peer},
    sip_phone::{Picture, SipPhone},
    tone::Sound,
};

/// Every audio and video codec of Debian's build: what is not named in its configuration it adds by itself.
const AUDIO: [(&str, u32, u8); 7] = [
    ("opus", 48_000, 2),
    ("speex", 16_000, 1),
    ("speex", 8000, 1),
    ("PCMU", 8000, 1),
    ("PCMA", 8000, 1),
    ("G722", 8000, 1),
    ("G729", 8000, 1),
];

/// Length of the tone that it plays into a call, longer than any.
const TONE_LENGTH: Duration = Duration::from_secs(60);

/// What kind of phone is wanted. It answers by itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port of the registrar on 127.0.0.1, where it is account 2002 of [`crate::kamailio::Options`].
    pub registrar: u16,
    /// Its one audio codec, by its name in SDP; one of 8 kHz, in which it records.
    pub audio: &'static str,
    /// Its one video codec, if any.
    pub video: Option<Video>,
}

/// A video codec of Linphone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Video {
    /// VP8 by libvpx.
    Vp8,
    /// H.264 by OpenH264, a plugin: Baseline. It offers packetization mode 0, by naming none, and takes mode 1.
    H264,
}

/// A running phone.
pub struct Linphone {
    process: Process,
    recordings: u32,
    snapshots: u32,
    folder: TempDir,
}

impl Linphone {
    /// Starts the phone; `None` when it is not installed. It registers by itself and does not tell when it has done so.
    pub fn start(options: &Options) -> Option<Self> {
        let program = peer("linphonec")?;
        if options.video.is_some() {
            has_part("/usr/share/mediastreamer2/images/nowebcamCIF.jpg".as_ref()).then_some(())?;
        }
        if options.video == Some(Video::H264) {
            let plugin =
                format!("/usr/lib/{}-linux-gnu/mediastreamer/plugins/libmsopenh264.so", std::env::consts::ARCH);
            has_part(plugin.as_ref()).then_some(())?;
        }
        let folder = tempfile::Builder::new().prefix("linphone").tempdir().expect("a folder for linphone");
        // Without the folder of its database its core does not start.
        for name in [".local/share/linphone", ".config/linphone"] {
            fs::create_dir_all(folder.path().join(name)).expect("linphone's folders");
        }
        fs::write(folder.path().join("linphonerc"), configuration(options)).expect("linphonerc is written");
        let mut command = Command::new(program);
        command.env("HOME", folder.path()).env_remove("DISPLAY").current_dir(folder.path()).args([
            "-a",
            "-c",
            "linphonerc",
        ]);
        if options.video.is_some() {
            command.arg("-V");
        }
        let mut process = Process::start("linphonec", command);
        process.write_line("soundcard use files");
        process.wait_line("its answer", Deadline::seconds(20), |line| line.contains("Using wav files"));
        Some(Self { process, recordings: 0, snapshots: 0, folder })
    }

    fn recording(&self) -> PathBuf {
        self.folder.path().join(format!("recording-{}.wav", self.recordings))
    }
}

impl SipPhone for Linphone {
    const NUMBER: &'static str = "2002";
    const PICTURE_EVERY: Duration = Duration::from_secs(1);

    fn dial(&mut self, number: &str) {
        self.process.write_line(&format!("call {number}"));
    }

    fn hangup(&mut self) {
        self.process.write_line("terminate");
    }

    /// From then on it plays its tone and records what comes. Its still picture goes out 15 times a second instead of once.
    #[track_caller]
    fn wait_established(&mut self, deadline: Deadline) {
        self.process.wait_line("the streams of a call", deadline, |line| line.contains("Media streams established"));
        let tone = self.folder.path().join("tone.wav");
        let sine = Sound::sine(Self::TONE_HZ.into(), 8000, TONE_LENGTH);
        fs::write(&tone, sine.to_wav()).expect("the tone is written");
        self.recordings += 1;
        self.process.write_line("staticpic fps 15");
        let recording = self.recording();
        self.process.write_line(&format!("record {}", recording.display()));
        self.process.write_line(&format!("play {}", tone.display()));
    }

    #[track_caller]
    fn wait_closed(&mut self, deadline: Deadline) {
        self.process.wait_line("the end of a call", deadline, |line| line.contains(" ended ("));
    }

    #[track_caller]
    fn wait_heard(&self, hz: f64, length: Duration, deadline: Deadline) {
        deadline.poll(&format!("{hz} Hz in linphone's recording"), || {
            // Its recordings have no header until they are closed.
            let pcm = fs::read(self.recording()).unwrap_or_default();
            (Sound::from_pcm(8000, &pcm).heard(hz) >= length).then_some(())
        });
    }

    #[track_caller]
    fn wait_picture(&mut self, deadline: Deadline) -> Picture {
        self.snapshots += 1;
        let file = self.folder.path().join(format!("snapshot-{}.jpg", self.snapshots));
        self.process.write_line(&format!("snapshot {}", file.display()));
        let jpeg = deadline.poll("a picture that linphone decoded", || {
            fs::read(&file).ok().filter(|jpeg| jpeg.ends_with(&[0xff, 0xd9]))
        });
        Picture(jpeg)
    }
}

fn configuration(options: &Options) -> String {
    let registrar = options.registrar;
    // Its own watch over the network finds no way out of loopback; a ring tone without a sound card ends the program.
    let mut text = format!(
        "[sip]\nsip_port={port}\nsip_tcp_port=0\nsip_tls_port=0\nbind_address=127.0.0.1\nuse_ipv6=0\nipv6_migration_done=1\n\
         auto_net_state_mon=0\nregister_only_when_network_is_up=0\nsupported=replaces\ndefault_proxy=0\nmedia_encryption=none\n\
         [rtp]\naudio_rtp_port=-1\nvideo_rtp_port=-1\n[sound]\nechocancellation=0\nremote_ring=\nlocal_ring=\ndisable_ringing=1\n\
         [proxy_0]\nreg_proxy=<sip:127.0.0.1:{registrar}>\nreg_identity=\"2002\" <sip:2002@127.0.0.1>\nreg_expires=60\nreg_sendregister=1\n\
         [auth_info_0]\nusername=2002\npasswd=secret-2002\nrealm=127.0.0.1\n",
        port = free_port(),
    );
    for (at, (mime, rate, channels)) in AUDIO.into_iter().enumerate() {
        let enabled = u8::from(mime == options.audio);
        write!(text, "[audio_codec_{at}]\nmime={mime}\nrate={rate}\nchannels={channels}\nenabled={enabled}\n")
            .expect("a string takes everything");
    }
    let wanted = u8::from(options.video.is_some());
    write!(text, "[video]\nsize=cif\nautomatically_initiate={wanted}\nautomatically_accept={wanted}\nself_view=0\n")
        .expect("a string takes everything");
    for (at, (mime, codec)) in [("VP8", Video::Vp8), ("H264", Video::H264)].into_iter().enumerate() {
        let enabled = u8::from(options.video == Some(codec));
        write!(text, "[video_codec_{at}]\nmime={mime}\nrate=90000\nenabled={enabled}\n")
            .expect("a string takes everything");
    }
    text
}
