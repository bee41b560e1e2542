//! A system under test as a process: started on its core, its CPU time and memory with all it started, and its end.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use gangway_dataplane::affinity;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// How the threads of a system share their core with the rest of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduling {
    /// They take turns with everybody.
    Fair,
    /// They go before everything else there (`SCHED_RR`), where the kernel allows it.
    #[default]
    RealTime,
}

impl Scheduling {
    /// The class of this name: `fair` or `real-time`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "fair" => Some(Scheduling::Fair),
            "real-time" => Some(Scheduling::RealTime),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scheduling::Fair => "fair",
            Scheduling::RealTime => "real-time",
        }
    }

    /// What this class comes to here: who may not go first takes turns.
    #[must_use]
    pub fn allowed(self) -> Self {
        let may = || thread::spawn(|| affinity::go_first().is_ok()).join().unwrap_or(false);
        if self == Scheduling::RealTime && may() { Scheduling::RealTime } else { Scheduling::Fair }
    }
}

/// Where a system runs, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its one core; without it runs anywhere, in turns.
    pub core: Option<usize>,
    /// Its class on that core.
    pub scheduling: Scheduling,
}

impl Place {
    /// Whether it is to go before everything else.
    #[must_use]
    pub fn goes_first(&self) -> bool {
        self.core.is_some() && self.scheduling == Scheduling::RealTime
    }
}

impl From<Option<usize>> for Place {
    fn from(core: Option<usize>) -> Self {
        Place { core, scheduling: Scheduling::default() }
    }
}

/// A running program. Dropping it kills it.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts `command` at its place with both its standard streams piped.
    ///
    /// # Errors
    /// What the kernel says of the core or the program.
    ///
    /// # Panics
    /// When a thread cannot be made.
    pub fn start(mut command: Command, place: Place) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A child inherits the affinity of the thread that made it; this one is made for that.
        let mut child = thread::scope(|scope| {
            let starter = scope.spawn(|| {
                if let Some(core) = place.core {
                    affinity::pin_to(core)?;
                }
                if place.goes_first() {
                    // Who may not measures the rest of the machine too; each point tells.
                    let _ = affinity::go_first_with_all();
                }
                command.spawn()
            });
            starter.join().expect("starting a program does not panic")
        })?;
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(Running { child, stdout })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input.
    ///
    /// # Panics
    /// When it was taken before.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin is taken once")
    }

    /// The next line of its output.
    ///
    /// # Errors
    /// When it ended before.
    pub fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the program ended without an answer"));
        }
        Ok(line)
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let descendants = tree(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for &pid in &descendants[1..] {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        // Their sockets go with them, and whoever is started next may want the same ports.
        let deadline = Instant::now() + Duration::from_secs(5);
        while descendants.iter().any(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok())
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A process and everything that descends from it, itself first.
#[must_use]
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        at += 1;
        for task in tasks(pid) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// CPU time of a process tree up to a moment.
#[derive(Clone, Debug, Default)]
pub struct CpuMark {
    /// Nanoseconds by thread, from the scheduler (`/proc/PID/task/TID/schedstat`).
    run_ns: BTreeMap<u32, u64>,
    user_ticks: u64,
    system_ticks: u64,
}

/// CPU time between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUsed {
    /// Nanoseconds on a core, of all threads.
    pub run_ns: u64,
    /// The part of it in user space, from 0 to 1, by the kernel's ticks: coarse for short times.
    pub user_share: f64,
    /// Threads that ended in between: what they used after the first moment is missing.
    pub vanished_threads: usize,
}

impl CpuMark {
    /// Reads the figures of now.
    #[must_use]
    pub fn read(pid: u32) -> Self {
        let mut mark = CpuMark::default();
        for pid in tree(pid) {
            for task in tasks(pid) {
                let path = format!("/proc/{pid}/task/{task}/schedstat");
                let run = fs::read_to_string(path).ok().and_then(|text| text.split(' ').next()?.parse().ok());
                mark.run_ns.insert(task, run.unwrap_or(0));
            }
            let (user, system) = ticks(pid).unwrap_or((0, 0));
            mark.user_ticks += user;
            mark.system_ticks += system;
        }
        mark
    }

    /// What was used since `before`.
    #[must_use]
    pub fn since(&self, before: &CpuMark) -> CpuUsed {
        let spent = |(task, now): (&u32, &u64)| now.saturating_sub(before.run_ns.get(task).copied().unwrap_or(0));
        let user = self.user_ticks.saturating_sub(before.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(before.system_ticks) as f64;
        CpuUsed {
            run_ns: self.run_ns.iter().map(spent).sum(),
            user_share: if user + system > 0.0 { user / (user + system) } else { 0.0 },
            vanished_threads: before.run_ns.keys().filter(|task| !self.run_ns.contains_key(task)).count(),
        }
    }
}

/// User and system ticks of a process (proc(5), fields 14 and 15 of `stat`).
fn ticks(pid: u32) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Memory of a process tree in KiB; shared pages count for each process by its share.
#[must_use]
pub fn memory_kb(pid: u32) -> u64 {
    let of = |pid: u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default().to_owned();
        line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    tree(pid).into_iter().map(of).sum()
}

/// Raises the limit of open files as far as it goes, for this process and those it starts: thousands of calls have four sockets each.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let most = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse::<u64>().ok());
    // Who may not raise the hard limit raises the soft one to it; a socket that cannot be opened says so.
    if setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// A program that was built beside this one.
///
/// # Errors
/// When it is not there: it must be built first.
pub fn sibling(name: &str) -> io::Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder: &Path| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{name} is not built: cargo build --workspace --bins"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_of_a_busy_child_and_its_child_are_seen() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'echo ready; while :; do :; done' & wait"]);
        let mut busy = Running::start(command, Place::default()).unwrap();
        assert_eq!(busy.read_line().unwrap(), "ready\n");
        assert_eq!(tree(busy.pid()).len(), 2, "the shell and the one that it started");
        let before = CpuMark::read(busy.pid());
        let used = loop {
            let used = CpuMark::read(busy.pid()).since(&before);
            if used.run_ns > 0 {
                break used;
            }
            std::thread::yield_now();
        };
        assert_eq!(used.vanished_threads, 0);
        assert!(memory_kb(busy.pid()) > 0 && busy.is_alive());
        let all = tree(busy.pid());
        drop(busy);
        assert!(tasks(all[0]).is_empty());
    }
}
