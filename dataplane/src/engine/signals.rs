//! Signals as a readable file, so that the manager's poll waits for them like for everything else.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, RawFd},
};

/// Blocked signals that are read one by one.
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// Blocks `signals` in this thread and in all threads it starts from now on, and makes them readable here. Call it before
    /// any thread is started: a thread that does not block a signal may be killed by it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: `sigset_t` is plain integers, for which all-zero bytes are valid; sigemptyset then makes it a set, and the two
        // calls after it only read it. signalfd with -1 makes a new descriptor that nobody else owns.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for &signal in signals {
                libc::sigaddset(&raw mut set, signal);
            }
            if libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was made above and is owned by nobody else.
        Ok(Signals(unsafe { File::from_raw_fd(fd) }))
    }

    /// The next signal that came; `None` when there is none.
    pub fn read(&mut self) -> Option<i32> {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        self.0.read_exact(&mut record).ok()?;
        // `ssi_signo` is the first field of the record.
        Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]]))
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
