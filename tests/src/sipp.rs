//! SIPp as a scripted SIP peer: one scenario of `tests/scenarios` with its `@WORDS@` filled in.

use std::{fs, net::Ipv4Addr, path::Path, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    deadline::Deadline,
    namespace::Namespace,
    process::{Process, free_port, peer},
    source::root,
};

/// What to play.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// File of `tests/scenarios` without its ending.
    pub scenario: &'a str,
    /// Port of 127.0.0.1 to call, for a scenario that calls.
    pub target: Option<u16>,
    /// What the scenario's `@WORDS@` are replaced with; what is not named here is as in `DEFAULT_WORDS`.
    pub words: &'a [(&'a str, &'a str)],
    /// Calls after which it ends. A scenario that calls makes ten at a time and ten a second; see [`Sipp::start_at`].
    pub calls: u32,
}

/// New calls a second, and calls at once, where a test does not say.
const RATE: u32 = 10;

const DEFAULT_WORDS: [(&str, &str); 8] = [
    ("CODEC", "PCMU/8000"),
    ("PAYLOAD", "0"),
    ("MORE", ""),
    ("RING_MS", "200"),
    ("TALK_MS", "1000"),
    ("CALLEE", "1001"),
    ("STATUS", "180"),
    ("REASON", "Ringing"),
];

/// A running SIPp.
pub struct Sipp {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Sipp {
    /// Starts it; `None` when SIPp is not installed. A scenario that answers is ready when this returns.
    pub fn start(options: &Options<'_>) -> Option<Self> {
        Self::start_at(options, RATE, RATE)
    }

    /// The same with `per_s` new calls a second and `at_once` at a time.
    pub fn start_at(options: &Options<'_>, per_s: u32, at_once: u32) -> Option<Self> {
        Self::launch(options, (per_s, at_once), None)
    }

    /// A peer that answers one call, in another network. It has UDP alone.
    pub fn uas_in(namespace: &Namespace, scenario: &str, words: &[(&str, &str)]) -> Option<Self> {
        Self::launch(&Options { scenario, target: None, words, calls: 1 }, (RATE, RATE), Some(namespace))
    }

    fn launch(options: &Options<'_>, (per_s, at_once): (u32, u32), namespace: Option<&Namespace>) -> Option<Self> {
        let program = peer("sipp")?;
        for attempt in 0..5 {
            let folder = tempfile::Builder::new().prefix("sipp").tempdir().expect("a folder for sipp");
            let port = free_port();
            let mut command = command(&program, &folder, options, port, namespace);
            command.args(["-r", &per_s.to_string(), "-l", &at_once.to_string()]);
            let process = Process::start(&format!("sipp {}", options.scenario), command);
            let sipp = Self { process, port, folder };
            if sipp.is_up(options.target.is_some()) {
                return Some(sipp);
            }
            assert!(attempt < 4, "sipp did not start:\n{}\n{}", sipp.process.tail(), sipp.file("errors.log"));
        }
        None
    }

    /// A peer that answers, with the words as given.
    pub fn uas(scenario: &str, words: &[(&str, &str)]) -> Option<Self> {
        Self::start(&Options { scenario, target: None, words, calls: 1 })
    }

    /// Its port on 127.0.0.1, UDP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When the deadline passes, or a message came that the scenario does not have.
    #[track_caller]
    pub fn finish(&self, deadline: Deadline) {
        let status = self.process.wait_end(deadline);
        assert!(
            status.is_some_and(|status| status.success()),
            "sipp: {status:?}\n{}\n{}",
            self.file("errors.log"),
            self.file("messages.log")
        );
    }

    /// Every SIP message so far, sent and received, as SIPp logs it.
    pub fn messages(&self) -> String {
        self.file("messages.log")
    }

    /// How often a message that starts with `start` was received.
    pub fn received(&self, start: &str) -> usize {
        let received = |block: &&str| block.contains("message received") && block.contains(&format!("\n\n{start}"));
        self.messages().split("-----------------------------------------------").filter(received).count()
    }

    /// The bytes of each message received that starts with `start`.
    pub fn lens_received(&self, start: &str) -> Vec<usize> {
        let messages = self.messages();
        let received = messages.split("-----------------------------------------------").filter_map(|block| {
            let (_, rest) = block.split_once("message received [")?;
            let (len, text) = rest.split_once(']')?;
            text.contains(&format!("\n\n{start}")).then(|| len.parse().ok())?
        });
        received.collect()
    }

    /// Waits until a message that starts with `start` was received.
    #[track_caller]
    pub fn wait_received(&self, start: &str, deadline: Deadline) {
        deadline.poll(&format!("{start} at sipp"), || (self.received(start) > 0).then_some(()));
    }

    /// Vanishes without a word.
    pub fn vanish(&self) {
        self.process.kill();
    }

    /// Whether the port is bound by now, as the kernel tells of the program's network.
    fn is_up(&self, calls: bool) -> bool {
        let deadline = Deadline::seconds(10);
        while !deadline.is_over() {
            if self.process.wait_end(Deadline::after(Duration::from_millis(10))).is_some() {
                // A caller may be through with its one call already.
                return calls && !self.messages().is_empty();
            }
            let sockets = fs::read_to_string(format!("/proc/{}/net/udp", self.process.pid())).unwrap_or_default();
            if sockets.contains(&format!(":{:04X} 00000000:0000", self.port)) {
                return true;
            }
        }
        false
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

fn command(
    program: &Path,
    folder: &TempDir,
    options: &Options<'_>,
    port: u16,
    namespace: Option<&Namespace>,
) -> Command {
    let file = folder.path().join("scenario.xml");
    fs::write(&file, scenario(options)).expect("the scenario is written");
    let mut command = namespace.map_or_else(|| Command::new(program), |namespace| namespace.command(program));
    let own = namespace.map_or(Ipv4Addr::LOCALHOST, Namespace::far).to_string();
    command.current_dir(folder.path()).arg("-sf").arg(&file);
    command.args(["-i", &own, "-mi", &own, "-p", &port.to_string(), "-mp", &free_port().to_string()]);
    command.args(["-m", &options.calls.to_string(), "-nostdin", "-rtp_echo"]);
    command.args(["-timeout", "60s", "-timeout_error", "-trace_msg", "-message_file", "messages.log"]);
    command.args(["-trace_err", "-error_file", "errors.log"]);
    if let Some(target) = options.target {
        command.arg(format!("127.0.0.1:{target}"));
    }
    command
}

fn scenario(options: &Options<'_>) -> String {
    let file = root().join("tests/scenarios").join(format!("{}.xml", options.scenario));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let words = options.words.iter().chain(&DEFAULT_WORDS);
    words.fold(text, |text, (word, value)| text.replace(&format!("@{word}@"), value))
}
