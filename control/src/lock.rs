//! `data_dir` and its lock: one living control for each.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use thiserror::Error;

/// Why the lock was not taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// The directory or the file cannot be used.
    #[error("data_dir: {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another control lives.
    #[error("data_dir: {path}: another gangway-control holds it (pid {pid}); --takeover ends it if it hangs")]
    Held {
        /// The lock.
        path: PathBuf,
        /// Its holder.
        pid: u32,
    },
    /// The holder was not ended.
    #[error("data_dir: {path}: its holder (pid {pid}) could not be ended: {reason}")]
    NotEnded {
        /// The lock.
        path: PathBuf,
        /// Its holder.
        pid: u32,
        /// Why.
        reason: String,
    },
}

/// Held while control lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// How long a killed holder may take to be gone.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(10);

/// Makes `dir` (mode 0700) and takes its lock. With `takeover` a living holder is killed first: media goes on without it.
///
/// # Errors
/// [`LockError`]
pub async fn acquire(dir: &Path, takeover: bool) -> Result<Lock, LockError> {
    make_dir(dir).map_err(|source| LockError::File { path: dir.to_owned(), source })?;
    let path = dir.join("lock");
    let failed = |source| LockError::File { path: path.clone(), source };
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    if !try_lock(&file).map_err(failed)? {
        let holder = read_holder(&mut file).unwrap_or_default();
        if !takeover {
            return Err(LockError::Held { path, pid: holder.pid });
        }
        end(&path, holder)?;
        let deadline = tokio::time::Instant::now() + TAKEOVER_PATIENCE;
        while !try_lock(&file).map_err(failed)? {
            if tokio::time::Instant::now() > deadline {
                return Err(LockError::NotEnded { path, pid: holder.pid, reason: "it is still there".to_owned() });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    write_holder(&mut file).map_err(failed)?;
    Ok(Lock { _file: file })
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // It may have been there with another mode: keys and the journal lie in it.
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A process: its number, and when it started in clock ticks after boot, so that a reused number is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Holder {
    pid: u32,
    start: u64,
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    Some(Holder { pid: pid.parse().ok()?, start: start.parse().ok()? })
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let pid = std::process::id();
    let start = start_of(pid).unwrap_or_default();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{pid} {start}\n").as_bytes())
}

/// Field 22 of `/proc/<pid>/stat`. The name in field 2 may hold anything, so counting starts behind its last bracket.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn end(path: &Path, holder: Holder) -> Result<(), LockError> {
    let failed = |reason: String| LockError::NotEnded { path: path.to_owned(), pid: holder.pid, reason };
    let raw = i32::try_from(holder.pid).ok().and_then(Pid::from_raw);
    let pid = raw.ok_or_else(|| failed("the lock does not say who holds it".to_owned()))?;
    // The handle is opened first: from then on the start time cannot become another process's.
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| failed(error.to_string()))?;
    if start_of(holder.pid) != Some(holder.start) {
        return Err(failed("another process has its number".to_owned()));
    }
    pidfd_send_signal(&handle, Signal::KILL).map_err(|error| failed(error.to_string()))?;
    tracing::warn!(pid = holder.pid, "ended the control that held the lock");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_control_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = acquire(&data, false).await.unwrap();
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        let error = acquire(&data, false).await.unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        acquire(&data, false).await.unwrap();
    }

    #[test]
    fn a_reused_process_number_is_not_killed() {
        let holder = Holder { pid: std::process::id(), start: 1 };
        let error = end(Path::new("lock"), holder).unwrap_err().to_string();
        assert!(error.contains("another process has its number"), "{error}");
        assert!(start_of(std::process::id()).unwrap() > 1);
    }
}
