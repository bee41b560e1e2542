//! The program itself: its command line, its lock, its signals during the start.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]
#![allow(clippy::disallowed_methods, reason = "waiting for a process needs a clock")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(20);

/// Ends the child whatever the test's outcome is.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// A control that waits for a dataplane that never comes: it lies alone in a directory of its own.
    fn start(dir: &tempfile::TempDir, more: &[&str]) -> Self {
        let alone = dir.path().join("gangway-control");
        if !alone.exists() {
            fs::hard_link(env!("CARGO_BIN_EXE_gangway-control"), &alone)
                .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_gangway-control"), &alone).map(drop))
                .unwrap();
        }
        let mut command = Command::new(&alone);
        for key in ["ws.port", "wss.port", "http.port", "https.port", "sip_port", "webrtc_port"] {
            command.args(["--set", &format!("{key}=auto")]);
        }
        command.args(["--set", &format!("data_dir={}/data", dir.path().display())]).args(more);
        Program(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Reads the log until a line holds `wanted`.
    fn log_reaches(&mut self, wanted: &str) {
        let mut log = BufReader::new(self.0.stderr.as_mut().unwrap());
        let mut seen = String::new();
        while log.read_line(&mut seen).unwrap() > 0 {
            if seen.contains(wanted) {
                return;
            }
        }
        panic!("{wanted:?} is not in the log: {seen}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Exit code, `None` for a signal.
    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn all_stderr(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

const PATIENT: [&str; 2] = ["--set", "dataplane_start_timeout_ms=60000"];
const WAITING: &str = "the dataplane cannot be started";

#[test]
fn check_prints_every_key_and_tells_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let check = |more: &[&str]| {
        let mut program = Program::start(&dir, &[&["--check"], more].concat());
        let mut out = String::new();
        program.0.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
        (program.wait(), out)
    };
    let (code, out) = check(&["--set", "colour=blue"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("ring_timeout = 60  (default; used)"), "{out}");
    assert!(out.contains("colour = blue  (--set; unknown)"), "{out}");
    assert!(!dir.path().join("data").exists(), "--check has made something");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, out) = check(&["--set", &format!("http.port={}", taken.local_addr().unwrap().port())]);
    assert_eq!(code, Some(1));
    assert!(out.contains("problem: http.port: tcp 127.0.0.1:"), "{out}");
    let (code, out) = check(&["--set", "tls.cert=/nonexistent.pem", "--set", "tls.key=/nonexistent.pem"]);
    assert_eq!(code, Some(1));
    assert!(out.contains("problem: tls."), "{out}");
}

#[test]
fn a_bad_value_stops_the_start_and_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gangway.properties");
    fs::write(&file, "# ours\nring_timeout=soon\n").unwrap();
    let mut program = Program::start(&dir, &["--config", file.to_str().unwrap()]);
    assert_eq!(program.wait(), Some(1));
    let text = format!("{}:2: ring_timeout = \"soon\": a whole number from 1 to 3600 is allowed", file.display());
    let log = program.all_stderr();
    assert!(log.contains(&text), "{log}");
}

#[test]
fn without_a_dataplane_the_start_fails_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::start(&dir, &["--set", "dataplane_start_timeout_ms=300"]);
    assert_eq!(program.wait(), Some(1));
    let log = program.all_stderr();
    assert!(log.contains("no dataplane answered on ") && log.contains("within 300 ms"), "{log}");
}

#[test]
fn signals_during_the_start_end_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut program = Program::start(&dir, &PATIENT);
        program.log_reaches(WAITING);
        program.signal(signal);
        assert_eq!(program.wait(), Some(0));
    }
}

#[test]
fn one_control_a_data_dir_and_takeover_ends_the_one_that_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Program::start(&dir, &PATIENT);
    first.log_reaches(WAITING);
    let mut second = Program::start(&dir, &PATIENT);
    assert_eq!(second.wait(), Some(1));
    let log = second.all_stderr();
    assert!(log.contains(&format!("(pid {})", first.0.id())) && log.contains("--takeover"), "{log}");
    // Stopped, it hangs as hard as a program can.
    first.signal(Signal::STOP);
    let mut third = Program::start(&dir, &[&["--takeover"], &PATIENT[..]].concat());
    third.log_reaches(WAITING);
    assert_eq!(first.wait(), None, "the first was not killed");
    third.signal(Signal::TERM);
    assert_eq!(third.wait(), Some(0));
}
