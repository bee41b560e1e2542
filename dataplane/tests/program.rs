//! The program itself: its command line, its signals, how it leaves.

#![allow(clippy::disallowed_methods, reason = "a test of a real program in real time owns a clock")]

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use gangway_shared::rcp::{ControlMessage, Hello, PROTOCOL, frame};
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

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
        ("dataplane_engine=fast", "auto, uring or epoll is allowed"),
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

/// Scheduling policy of a thread of the relay process (proc(5), field 41 of `stat`).
fn policy_of(dataplane: &Child, thread: &str) -> u32 {
    let children = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process of ours");
        text.split_whitespace().map(|child| child.parse::<u32>().expect("a number")).collect::<Vec<_>>()
    };
    let relay = children(dataplane.id())[0];
    let tasks = std::fs::read_dir(format!("/proc/{relay}/task")).expect("the relay lives").flatten();
    let mut stats = tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).expect("a thread of ours"));
    let stat = stats.find(|stat| stat.contains(&format!("({thread})"))).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("proc(5)");
    fields.split_whitespace().nth(38).and_then(|policy| policy.parse().ok()).expect("a policy")
}

#[test]
fn a_worker_goes_first_on_its_core_when_it_may_and_takes_turns_when_it_is_told() {
    let may = std::thread::spawn(|| gangway_dataplane::affinity::go_first().is_ok()).join().expect("it only asks");
    let core = gangway_dataplane::affinity::allowed_cores().expect("there are cores")[0];
    let core = format!("dataplane_cores={core}");
    for (scheduling, wanted) in [("realtime", if may { 2 } else { 0 }), ("fair", 0)] {
        let data = tempfile::tempdir().expect("a folder");
        let scheduling = format!("dataplane_scheduling={scheduling}");
        // 2 is SCHED_RR; who started it has the right, and the relay, which has none, has it all the same.
        let mut dataplane = start(data.path(), false, &["dataplane_workers=1", &core, &scheduling]);
        // The keeper's socket listens before there is a relay; the relay's greeting comes when its workers run.
        connect(data.path()).read_exact(&mut [0]).expect("the relay greets");
        assert_eq!(policy_of(&dataplane, "worker-0"), wanted, "{scheduling}");
        for other in ["gangway-relay", "manager"] {
            assert_eq!(policy_of(&dataplane, other), 0, "{other} takes its turns, {scheduling}");
        }
        signal(&dataplane, Signal::TERM);
        assert!(wait_end(&mut dataplane).success());
    }
}

/// What the program wrote to its log until it was ended.
fn log_of(command: &mut Command, data: &Path) -> String {
    let mut child = command.spawn().expect("the program starts");
    connect(data);
    signal(&child, Signal::TERM);
    let mut said = String::new();
    let mut log = child.stderr.take().expect("its log is piped");
    log.read_to_string(&mut said).expect("its log is text");
    assert!(wait_end(&mut child).success(), "{said}");
    said
}

/// As the default filter of containers: to this thread and all that it starts.
fn refuse_io_uring() {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().expect("an architecture that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("a filter of one call");
    let program: BpfProgram = filter.try_into().expect("a filter of one call");
    seccompiler::apply_filter(&program).expect("the kernel takes the filter");
}

#[test]
fn where_io_uring_is_refused_auto_takes_epoll_and_uring_does_not_start() {
    refuse_io_uring();
    let data = tempfile::tempdir().unwrap();
    let said = log_of(&mut command(data.path(), &[]), data.path());
    assert!(said.contains("no io_uring: epoll is used") && said.contains("kernel.io_uring_disabled"), "{said}");
    assert!(said.lines().any(|line| line.contains("ready") && line.contains("epoll")), "{said}");
    let Output { status, stderr, .. } = command(data.path(), &["dataplane_engine=uring"]).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(!status.success() && said.contains("dataplane_engine=uring: io_uring is refused"), "{said}");
    // Said by the relay, whose user may be allowed less than who starts it; the keeper does not try again.
    assert!(said.contains("kernel.io_uring_group") && said.contains("the relay did not start"), "{said}");
}

#[test]
fn too_few_files_are_told_in_calls() {
    let data = tempfile::tempdir().unwrap();
    let with_limit = |limits: &str| {
        let program = command(data.path(), &["dataplane_workers=1"]);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{limits} && exec \"$@\""), "sh"])
            .arg(program.get_program())
            .args(program.get_args());
        shell.stderr(Stdio::piped());
        log_of(&mut shell, data.path())
    };
    let said = with_limit("ulimit -n 473");
    assert!(said.lines().any(|line| line.contains("WARN") && line.contains("calls=200")), "{said}");
    // Only the soft limit is low: it is raised.
    let said = with_limit("ulimit -S -n 100");
    let raised = said.lines().find(|line| line.contains("raised the limit of open files"));
    assert!(raised.is_some_and(|line| line.contains("from=Some(100)")), "{said}");
}
