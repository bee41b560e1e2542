//! The program itself: its command line, its signals, how it leaves.

#![allow(clippy::disallowed_methods, reason = "a test of a real program in real time owns a clock")]

use std::{
    io::Read,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use gangway_shared::rcp::{ControlMessage, Hello, PROTOCOL, frame};
use rustix::process::{Pid, Signal, kill_process};

const WITHIN: Duration = Duration::from_secs(10);

fn command(data: &Path, sets: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gangway-dataplane"));
    let data = format!("data_dir={}", data.display());
    let fixed = ["ip=127.0.0.1", "webrtc_port=auto", "media_port_from=auto", "dataplane_cores=none", &data];
    for set in fixed.into_iter().chain(sets.iter().copied()) {
        command.args(["--set", set]);
    }
    command.stderr(Stdio::piped());
    command
}

/// Starts the program and waits until its socket listens.
fn start(data: &Path, managed: bool, sets: &[&str]) -> Child {
    let mut command = command(data, sets);
    if managed {
        command.arg("--managed");
    }
    let child = command.spawn().expect("the program was built with this test");
    connect(data);
    child
}

fn connect(data: &Path) -> UnixStream {
    let socket = data.join("dataplane.sock");
    let end = Instant::now() + WITHIN;
    loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{}: {error}", socket.display()),
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the child lives");
}

fn wait_end(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + WITHIN;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        if Instant::now() > end {
            child.kill().expect("a child of ours");
            panic!("the dataplane did not end");
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn greet(stream: &mut UnixStream) {
    let hello = Hello {
        protocol: PROTOCOL,
        instance: "test".to_owned(),
        epoch: 1,
        engine: None,
        workers: None,
        capabilities: Vec::new(),
        webrtc: Vec::new(),
        media_ports: None,
        resume_from: None,
    };
    let mut bytes = Vec::new();
    frame::encode(&ControlMessage::Hello(hello), &mut bytes).expect("a greeting fits a frame");
    std::io::Write::write_all(stream, &bytes).expect("the dataplane reads");
}

#[test]
fn sigterm_ends_an_idle_dataplane_at_once_and_removes_its_socket() {
    let data = tempfile::tempdir().unwrap();
    let mut child = start(data.path(), false, &[]);
    assert_eq!(data.path().join("dataplane.sock").metadata().unwrap().permissions().mode() & 0o777, 0o660);
    signal(&child, Signal::TERM);
    assert!(wait_end(&mut child).success());
    assert!(!data.path().join("dataplane.sock").exists());
}

#[test]
fn the_counters_of_a_running_dataplane_are_printed_beside_it() {
    let data = tempfile::tempdir().unwrap();
    let mut child = start(data.path(), false, &["dataplane_workers=2"]);
    let print = || command(data.path(), &["dataplane_workers=2"]).arg("--stats").output().unwrap();
    // The socket listens before the relay process has taken over.
    let end = Instant::now() + WITHIN;
    let stdout = loop {
        let Output { status, stdout, stderr } = print();
        if status.success() {
            break stdout;
        }
        assert!(Instant::now() < end, "{}", String::from_utf8_lossy(&stderr));
    };
    let printed: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    let workers = printed["workers"].as_array().unwrap();
    assert_eq!(workers.iter().map(|worker| worker["worker"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1]);
    let bounds = printed["latency_bounds_us"].as_array().unwrap().len();
    assert_eq!(workers[0]["latency"].as_array().unwrap().len(), bounds + 1);
    signal(&child, Signal::TERM);
    assert!(wait_end(&mut child).success());
    let Output { status, stderr, .. } = print();
    assert!(!status.success() && String::from_utf8_lossy(&stderr).contains("dataplane.stats"));
}

#[test]
fn a_managed_dataplane_ignores_the_terminal_and_leaves_when_nobody_needs_it() {
    let data = tempfile::tempdir().unwrap();
    let mut child = start(data.path(), true, &["dataplane_linger_s=1"]);
    let mut control = connect(data.path());
    greet(&mut control);
    signal(&child, Signal::INT);
    signal(&child, Signal::HUP);
    control.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
    let mut byte = [0; 4096];
    while control.read(&mut byte).is_ok_and(|len| len > 0) {}
    assert!(child.try_wait().unwrap().is_none(), "it stays while it has a control");
    drop(control);
    assert!(wait_end(&mut child).success());
}

#[test]
fn a_second_dataplane_does_not_take_the_socket_of_the_first_and_a_dead_ones_is_replaced() {
    let data = tempfile::tempdir().unwrap();
    let mut first = start(data.path(), false, &[]);
    let Output { status, stderr, .. } = command(data.path(), &[]).output().unwrap();
    assert!(!status.success());
    assert!(
        String::from_utf8_lossy(&stderr).contains("another dataplane serves"),
        "{}",
        String::from_utf8_lossy(&stderr)
    );
    first.kill().unwrap();
    first.wait().unwrap();
    let socket = data.path().join("dataplane.sock");
    assert!(socket.exists());
    // Its relay is a process too, and goes a moment later: who connects to that one meets no second dataplane.
    let end = Instant::now() + WITHIN;
    while UnixStream::connect(&socket).is_ok() {
        assert!(Instant::now() < end, "the relay of a keeper that is gone serves on");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let mut second = start(data.path(), false, &[]);
    signal(&second, Signal::TERM);
    assert!(wait_end(&mut second).success());
}

#[test]
fn bad_settings_stop_the_start_and_say_what_is_allowed() {
    let data = tempfile::tempdir().unwrap();
    let long = format!("dataplane_socket=/{}", "x".repeat(110));
    let cases = [
        ("dataplane_engine=uring", "uring is not built yet"),
        ("dataplane_workers=many", "a whole number from 1 to 64"),
        ("webrtc_port=0", "a port above 0"),
        (&long, "at most 100 are allowed"),
        ("nonsense", "key=value is expected"),
    ];
    for (set, wanted) in cases {
        let Output { status, stderr, .. } = command(data.path(), &[set]).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(!status.success() && said.contains(wanted), "{set}: {said}");
    }
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_gangway-dataplane")).args(["--config", "/nowhere/at.all"]).output().unwrap();
    assert!(!status.success() && String::from_utf8_lossy(&stderr).contains("/nowhere/at.all"));
}
