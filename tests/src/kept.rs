//! The dataplane as a program of its own: a keeper and its relay, which tests kill.

use std::{fs, os::unix::fs::FileExt, path::PathBuf, process::Command};

use gangway_shared::rcp::{Hello, Reply, Request};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    dataplane::{Control, engine_setting},
    deadline::Deadline,
    gateway::binary,
    process::{Process, children},
};

/// Makes the arenas of a keeper such that no relay can go on with them, as a fault of a relay might.
///
/// # Panics
/// When it has none.
#[track_caller]
pub fn damage_arenas(keeper: i32) {
    let is_arena = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:gangway-arena"))
    };
    let files = fs::read_dir(format!("/proc/{keeper}/fd")).expect("the keeper runs").flatten();
    let arenas: Vec<PathBuf> = files.map(|entry| entry.path()).filter(is_arena).collect();
    assert!(!arenas.is_empty(), "a keeper has arenas");
    for path in arenas {
        let arena = fs::File::options().write(true).open(path).expect("memory of our own child");
        // Over the word that says what it is.
        arena.write_all_at(&[0xff; 8], 0).expect("it is not sealed against it");
    }
}

/// A running `gangway-dataplane` with everything on loopback and ports that the kernel chose.
pub struct KeptDataplane {
    /// The keeper.
    pub process: Process,
    data: TempDir,
}

impl KeptDataplane {
    /// Starts one with one worker, not pinned, on the engine of this test, and further settings as `key=value`; returns when it serves.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(sets: &[&str]) -> Self {
        Self::start_program(&binary("gangway-dataplane"), sets)
    }

    /// The same from another file.
    #[track_caller]
    pub fn start_program(program: &std::path::Path, sets: &[&str]) -> Self {
        let data = tempfile::Builder::new().prefix("kept").tempdir().expect("a temporary directory");
        let mut command = Command::new(program);
        let data_dir = format!("data_dir={}", data.path().join("data").display());
        let engine = format!("dataplane_engine={}", engine_setting());
        let fixed = [
            "ip=127.0.0.1",
            "webrtc_port=auto",
            "media_port_from=auto",
            "dataplane_cores=none",
            "dataplane_relays_max=64",
            "dataplane_workers=1",
            &engine,
            &data_dir,
        ];
        for set in fixed.into_iter().chain(sets.iter().copied()) {
            command.args(["--set", set]);
        }
        let mut process = Process::start("gangway-dataplane", command);
        process.wait_line("the relay's word that it serves", Deadline::seconds(20), |line| line.contains("serving"));
        KeptDataplane { process, data }
    }

    /// Path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.data.path().join("data/dataplane.sock")
    }

    /// A control of this epoch, accepted.
    #[track_caller]
    pub fn control(&self, epoch: u32) -> Control {
        let mut control = Control::connect(&self.socket());
        control.hello(epoch, None);
        assert_eq!(control.ask(Request::Ping), Ok(Reply::Ping));
        control
    }

    /// What it says to who connects.
    #[track_caller]
    pub fn greeting(&self) -> Hello {
        Control::connect(&self.socket()).greeting
    }

    /// Process id of the relay; `None` while there is none.
    pub fn relay(&self) -> Option<i32> {
        children(self.process.pid()).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "gangway-relay")
        })
    }

    /// Waits for a relay other than `former`.
    #[track_caller]
    pub fn next_relay(&self, former: i32) -> i32 {
        Deadline::seconds(20).poll("another relay", || self.relay().filter(|pid| *pid != former))
    }

    /// Kills the relay and returns its process id when no thread of it is left: nobody takes packets out of the sockets any more, unless the
    /// next relay does already.
    #[track_caller]
    pub fn kill_relay(&self) -> i32 {
        let killed = self.signal_relay(Signal::KILL).expect("a relay runs");
        // It may be asked for, or not yet, by who started it.
        let deadline = Deadline::seconds(10);
        while !all_threads_are(killed, "ZX") {
            assert!(!deadline.is_over(), "the relay does not end");
            std::thread::yield_now();
        }
        killed
    }

    /// Stops the relay (SIGSTOP); returns when each of its threads stands still.
    #[track_caller]
    pub fn stop_relay(&self) {
        let relay = self.signal_relay(Signal::STOP).expect("a relay runs");
        Deadline::seconds(10).poll("the relay to stand still", || all_threads_are(relay, "T").then_some(()));
    }

    /// Sends a signal to the relay alone, and nothing when there is none.
    pub fn signal_relay(&self, signal: Signal) -> Option<i32> {
        let relay = self.relay()?;
        kill_process(Pid::from_raw(relay)?, signal).ok()?;
        Some(relay)
    }
}

/// Whether every thread of a process is in one of these states of proc(5). A process that is gone has none.
fn all_threads_are(pid: i32, states: &str) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name in brackets may hold anything.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(|state| states.contains(state)))
    })
}
