//! A program under test as a child: its output line by line, its end, and that nothing of it outlives the test.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::deadline::Deadline;

/// How long a program may take to leave after SIGTERM before it is killed.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// Lines of a program's output that a failed test prints.
const SHOWN_LINES: usize = 80;

/// A running child in a process group of its own. Dropping it ends the whole group; when the test is failing it prints the
/// end of what the child wrote.
pub struct Process {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
    stdin: Option<ChildStdin>,
    cursor: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    status: Option<ExitStatus>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read_lines(self: &Arc<Self>, mark: &'static str, pipe: impl Read + Send + 'static) {
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                shared.lock().lines.push(format!("{mark}{line}"));
                shared.changed.notify_all();
                bytes.clear();
            }
        });
    }
}

impl Process {
    /// Starts `command` with piped standard streams. `name` is how it appears in messages.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[track_caller]
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} did not start ({command:?}): {error}"));
        let shared = Arc::new(Shared::default());
        shared.read_lines("", child.stdout.take().expect("stdout is piped"));
        shared.read_lines("! ", child.stderr.take().expect("stderr is piped"));
        let stdin = child.stdin.take();
        let pid = Pid::from_child(&child);
        let waiter = Arc::clone(&shared);
        thread::spawn(move || {
            let status = child.wait().ok();
            waiter.lock().status = status;
            waiter.changed.notify_all();
        });
        Self { name: name.to_owned(), pid, shared, stdin, cursor: 0 }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for a line that `is_wanted`, looking only behind the line the last call found. Lines of stderr begin with `! `.
    ///
    /// # Panics
    /// When the deadline passes, or the program ends, before such a line.
    #[track_caller]
    pub fn wait_line(&mut self, what: &str, deadline: Deadline, mut is_wanted: impl FnMut(&str) -> bool) -> String {
        let mut state = self.shared.lock();
        loop {
            while self.cursor < state.lines.len() {
                self.cursor += 1;
                if is_wanted(&state.lines[self.cursor - 1]) {
                    return state.lines[self.cursor - 1].clone();
                }
            }
            let ended = state.status;
            let left = deadline.left().filter(|_| ended.is_none());
            let Some(left) = left else {
                let shown = tail(&state.lines);
                drop(state);
                panic!("{}: waited in vain for {what} (ended: {ended:?}). It wrote:\n{shown}", self.name);
            };
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Every line so far that contains `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.shared.lock().lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Writes one line to the program's stdin.
    ///
    /// # Panics
    /// When the program no longer reads.
    #[track_caller]
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Sends a signal to the program alone. Nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.shared.lock().status.is_none() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// SIGKILL for the whole group: the program vanishes without a word.
    pub fn kill(&self) {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }

    /// Waits for the program's end; `None` when the deadline passes first.
    pub fn wait_end(&self, deadline: Deadline) -> Option<ExitStatus> {
        let mut state = self.shared.lock();
        while state.status.is_none() {
            let left = deadline.left()?;
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        state.status
    }

    /// The end of what the program wrote.
    pub fn tail(&self) -> String {
        tail(&self.shared.lock().lines)
    }
}

fn tail(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        self.signal(Signal::TERM);
        self.wait_end(Deadline::after(LEAVE_WITHIN));
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} wrote:\n{}\n---", self.name, self.tail());
        }
    }
}

/// What a process holds of the machine at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Memory that is resident, KiB.
    pub resident_kb: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
}

/// Reads what the process holds from `/proc`.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn held(pid: i32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of every process");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count();
    Held { resident_kb: field("VmRSS:"), descriptors, threads: field("Threads:") }
}

/// CPU time of all threads that the process has now, user and system.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn cpu_time(pid: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let of_each = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(of_each.sum())
}

/// The processes that `pid` started and that are still there.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// Where a peer's program is; `None` on a machine without it, where the test says so and is skipped.
///
/// # Panics
/// When it is missing and the environment says `CI`: there a missing peer is a failure.
#[track_caller]
pub fn peer(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed: in CI that is a failure (run ./test)");
        eprintln!("*** SKIPPED: {program} is not installed (./test installs it) ***");
    }
    found
}

/// Whether a peer's part that has no command of its own, a module or a plugin, is there; `false` on a machine without it, where the
/// test says so and is skipped.
///
/// # Panics
/// When it is missing and the environment says `CI`.
#[track_caller]
pub fn has_part(file: &Path) -> bool {
    let found = file.is_file();
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{} is not installed: in CI that is a failure (run ./test)",
            file.display()
        );
        eprintln!("*** SKIPPED: {} is not installed (./test installs it) ***", file.display());
    }
    found
}

/// A port of 127.0.0.1 that is free for UDP and TCP right now, for programs that cannot let the kernel choose.
///
/// # Panics
/// When the machine has no free port.
pub fn free_port() -> u16 {
    for _ in 0..50 {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free UDP port");
        let port = udp.local_addr().expect("a bound socket has an address").port();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of 127.0.0.1 is free for both UDP and TCP");
}

/// Refuses `io_uring_setup` to this thread and to all that it starts from now on, as the default filter of containers does.
///
/// # Panics
/// When the kernel takes no filter.
pub fn refuse_io_uring() {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).expect("a filter of one rule");
    let program: BpfProgram = filter.try_into().expect("a filter of one rule");
    seccompiler::apply_filter(&program).expect("the kernel takes filters");
}
