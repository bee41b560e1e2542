//! Makes sure that a dataplane runs: attaches to one that listens, else starts the one beside our own executable.
//!
//! The dataplane outlives control on purpose: it is put into its own process group, so that neither a terminal's Ctrl-C nor our end
//! takes it down, and leaves by itself when nobody needs it.

#![allow(clippy::disallowed_methods, reason = "the supervisor owns the back-off of a process")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use std::os::unix::process::CommandExt as _;

use rustix::process::{Pid, Signal, kill_process};

use crate::config::Config;

/// Starts the dataplane when asked, not more often than its back-off allows.
#[derive(Debug)]
pub struct Supervisor {
    program: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    first_pause: Duration,
    pause: Duration,
    next_start: Option<Instant>,
    started: Option<Instant>,
}

/// Longest pause between starts.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A process that lived this long was well: its end is not counted against the next one.
const WELL_AFTER: Duration = Duration::from_secs(10);

impl Supervisor {
    /// A supervisor for the dataplane beside our own executable, with our settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let own = std::env::current_exe().unwrap_or_default();
        let program = own.parent().unwrap_or(Path::new(".")).join("gangway-dataplane");
        let mut arguments = config.dataplane_arguments();
        arguments.push("--managed".to_owned());
        Self::of(program, arguments, config.millis("dataplane_restart_ms"))
    }

    /// A supervisor for `program`. `pause` is the first wait after a failure; it doubles.
    #[must_use]
    pub fn of(program: PathBuf, arguments: Vec<String>, pause: Duration) -> Self {
        Supervisor { program, arguments, child: None, first_pause: pause, pause, next_start: None, started: None }
    }

    /// Called whenever nobody listens on the dataplane's socket. True when a process was started now.
    pub fn ensure(&mut self) -> bool {
        let now = Instant::now();
        self.reap(now);
        if self.child.is_some() || self.next_start.is_some_and(|next| now < next) {
            return false;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        match command.spawn() {
            Ok(child) => {
                tracing::info!(program = %self.program.display(), pid = child.id(), "started the dataplane");
                self.child = Some(child);
                self.started = Some(now);
                true
            }
            Err(error) => {
                tracing::error!(program = %self.program.display(), %error, "the dataplane cannot be started");
                self.delay(now);
                false
            }
        }
    }

    /// Asks the process that was started here to end: nobody needs it any more.
    pub fn stop(&mut self) {
        let Some(child) = &mut self.child else { return };
        if matches!(child.try_wait(), Ok(None))
            && let Ok(raw) = i32::try_from(child.id())
            && let Some(pid) = Pid::from_raw(raw)
        {
            // Not reaped yet, so the number is still this process's.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn reap(&mut self, now: Instant) {
        let Some(child) = &mut self.child else { return };
        if let Ok(Some(status)) = child.try_wait() {
            tracing::warn!(%status, "the dataplane has ended");
            self.child = None;
            if self.started.is_some_and(|started| now.duration_since(started) > WELL_AFTER) {
                self.pause = self.first_pause;
            }
            self.delay(now);
        }
    }

    fn delay(&mut self, now: Instant) {
        self.next_start = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ensure_until(supervisor: &mut Supervisor, wanted: usize) -> usize {
        let end = Instant::now() + Duration::from_secs(10);
        let mut starts = 0;
        while starts < wanted && Instant::now() < end {
            starts += usize::from(supervisor.ensure());
            std::thread::yield_now();
        }
        starts
    }

    #[test]
    fn a_process_that_ends_is_started_again_later_and_later() {
        let mut supervisor = Supervisor::of("/bin/true".into(), Vec::new(), Duration::from_millis(5));
        let begin = Instant::now();
        assert_eq!(ensure_until(&mut supervisor, 4), 4);
        assert!(begin.elapsed() >= Duration::from_millis(5 + 10 + 20), "no back-off: {:?}", begin.elapsed());
    }

    #[test]
    fn one_process_is_enough_and_stop_ends_it() {
        let mut supervisor = Supervisor::of("/bin/sleep".into(), vec!["600".to_owned()], Duration::from_millis(5));
        assert!(supervisor.ensure());
        assert!(!supervisor.ensure());
        supervisor.stop();
        let status = supervisor.child.as_mut().unwrap().wait().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn a_missing_program_is_tried_again_and_never_counted_as_started() {
        let mut supervisor = Supervisor::of("/nonexistent".into(), Vec::new(), Duration::from_millis(1));
        assert!(!supervisor.ensure());
        assert!(!supervisor.ensure());
    }
}
