//! The ring itself: made with what the kernel has, limited to what the engine uses, entered to submit and to wait.

use std::{io, os::fd::RawFd, time::Duration};

use io_uring::{
    EnterFlags, IoUring, Probe, cqueue, opcode,
    register::Restriction,
    squeue::{Entry, Flags},
    types::{SubmitArgs, Timespec},
};

use super::{EngineSizes, Missing};
use crate::engine::pace::sleep;

/// Buffer group of the ring of provided buffers.
pub(super) const GROUP: u16 = 0;

/// `IORING_REGISTER_FILES_UPDATE`: the one registration that is needed once the ring runs.
const REGISTER_FILES_UPDATE: u8 = 6;

/// How often a full submission queue is handed to the kernel in vain before a packet is given up.
const SUBMIT_TRIES: usize = 16;

/// Operations that the engine uses, by name. The ring takes no others.
const OPERATIONS: [(u8, &str); 5] = [
    (opcode::RecvMulti::CODE, "recv"),
    (opcode::RecvMsgMulti::CODE, "recvmsg"),
    (opcode::Send::CODE, "send"),
    (opcode::Read::CODE, "read"),
    (opcode::AsyncCancel::CODE, "cancel"),
];

/// What a kernel may lack without making the ring useless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The submission queue is the ring itself (6.6); else there is an array of indices beside it.
    pub no_sq_array: bool,
    /// A wait may ask for more than one completion for a short while (6.12); else the thread sleeps for that while.
    pub min_wait: bool,
    /// A registered file that is taken out is let go at once (6.13); before, one port that is closed stays bound until all that were
    /// armed before it have ended, so files are not registered.
    pub registered_files: bool,
}

impl Features {
    /// What the newest kernels have.
    pub const ALL: Features = Features { no_sq_array: true, min_wait: true, registered_files: true };
}

/// How long to wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// Completions that end it.
    pub want: u32,
    /// After so long fewer are enough; zero: it does not count.
    pub gather: Duration,
    /// It ends then; `None`: never.
    pub timeout: Option<Duration>,
}

impl Wait {
    /// Takes what is there.
    pub(super) const NONE: Wait = Wait { want: 0, gather: Duration::ZERO, timeout: Some(Duration::ZERO) };
}

/// See the module text.
pub(super) struct Ring {
    inner: IoUring,
    pub(super) features: Features,
    is_enabled: bool,
    /// Times that the submission queue was full and had to be handed over early.
    pub(super) submissions_full: u64,
    /// Times that the kernel had more completions than the queue has room for.
    pub(super) completions_full: u64,
    /// System calls to submit and to wait.
    pub(super) entered: u64,
}

impl Ring {
    /// Makes a ring that does not run yet, with at most the features of `allowed`.
    pub(super) fn new(sizes: &EngineSizes, allowed: Features) -> Result<Self, Missing> {
        let mut features = allowed;
        let built = loop {
            let mut builder = IoUring::builder();
            builder.dontfork().setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_r_disabled();
            builder.setup_cqsize(sizes.completions);
            if features.no_sq_array {
                builder.setup_no_sqarray();
            }
            match builder.build(sizes.submissions) {
                Err(error) if features.no_sq_array && error.raw_os_error() == Some(libc::EINVAL) => {
                    features.no_sq_array = false;
                }
                built => break built,
            }
        };
        let inner = built.map_err(Missing::setup)?;
        features.min_wait &= inner.params().is_feature_min_timeout();
        let ring = Ring { inner, features, is_enabled: false, submissions_full: 0, completions_full: 0, entered: 0 };
        ring.check_operations()?;
        Ok(ring)
    }

    fn check_operations(&self) -> Result<(), Missing> {
        let mut probe = Probe::new();
        self.inner
            .submitter()
            .register_probe(&mut probe)
            .map_err(|source| Missing::Register { what: "probe", source })?;
        let lacks = OPERATIONS.into_iter().find(|(code, _)| !probe.is_supported(*code));
        lacks.map_or(Ok(()), |(_, name)| Err(Missing::Operation { name }))
    }

    /// Makes room for `files` registered files, the first that are given here.
    pub(super) fn register_files(&self, files: u32) -> Result<(), Missing> {
        let registered = self.inner.submitter().register_files_sparse(files);
        registered.map_err(|source| Missing::Register { what: "files", source })
    }

    /// Puts a file into its place, or takes it out (`-1`).
    pub(super) fn set_file(&self, place: u32, fd: RawFd) -> io::Result<()> {
        self.inner.submitter().register_files_update(place, &[fd]).map(drop)
    }

    /// Gives the kernel a ring of `entries` provided buffers.
    ///
    /// # Safety
    /// The memory at `start` must be room for so many entries, aligned to a page, and outlive the ring.
    pub(super) unsafe fn register_buffers(&self, start: u64, entries: u16) -> Result<(), Missing> {
        // SAFETY: passed on to the caller.
        let registered = unsafe { self.inner.submitter().register_buf_ring_with_flags(start, entries, GROUP, 0) };
        registered.map_err(|source| Missing::Register { what: "buffers", source })
    }

    /// Limits the ring to the operations of this engine, for a seccomp filter does not see them, and lets it run. The thread that
    /// calls this is the only one that may use the ring from here on.
    pub(super) fn enable(&mut self) -> Result<(), Missing> {
        if std::mem::replace(&mut self.is_enabled, true) {
            return Ok(());
        }
        let mut allowed: Vec<Restriction> = OPERATIONS.iter().map(|(code, _)| Restriction::sqe_op(*code)).collect();
        allowed.push(Restriction::register_op(REGISTER_FILES_UPDATE));
        allowed.push(Restriction::sqe_flags_allowed((Flags::FIXED_FILE | Flags::BUFFER_SELECT).bits()));
        if self.features.registered_files {
            allowed.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
        }
        let submitter = self.inner.submitter();
        submitter
            .register_restrictions(&mut allowed)
            .map_err(|source| Missing::Register { what: "restrictions", source })?;
        submitter.register_enable_rings().map_err(|source| Missing::Register { what: "start", source })
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Puts an operation into the submission queue; a full one is submitted first. False when the kernel takes nothing.
    ///
    /// # Safety
    /// What the entry points to must stay valid until its last completion.
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> bool {
        for _ in 0..SUBMIT_TRIES {
            // SAFETY: passed on to the caller.
            if unsafe { self.inner.submission().push(entry) }.is_ok() {
                return true;
            }
            self.submissions_full += 1;
            let _ = self.enter(Wait::NONE);
        }
        false
    }

    /// Submits what is queued and waits. Errors of the kernel end the wait: what could not be submitted stays queued.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<usize> {
        if !self.is_enabled {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if !wait.gather.is_zero() && !self.features.min_wait {
            self.enter_once(Wait::NONE)?;
            let rest = wait.timeout.map_or(wait.gather, |timeout| timeout.min(wait.gather));
            if self.inner.completion().len() < wait.want as usize {
                sleep(rest);
            }
            let timeout = wait.timeout.map(|timeout| timeout.saturating_sub(rest));
            return self.enter_once(Wait { want: 1, gather: Duration::ZERO, timeout });
        }
        self.enter_once(wait)
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<usize> {
        let (submitter, mut submissions, _) = self.inner.split();
        submissions.sync();
        self.completions_full += u64::from(submissions.cq_overflow());
        let queued = u32::try_from(submissions.len()).expect("a queue of 32 bits");
        drop(submissions);
        let timeout = wait.timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        if !wait.gather.is_zero() {
            args = args.min_wait_usec(u32::try_from(wait.gather.as_micros()).unwrap_or(u32::MAX));
        }
        self.entered += 1;
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: `args` is what EXT_ARG says it is, and it and `timeout` outlive the call.
        let entered = unsafe { submitter.enter(queued, wait.want, flags.bits(), Some(&args)) };
        match entered {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(0),
            entered => entered,
        }
    }

    /// The oldest completion.
    pub(super) fn pop(&mut self) -> Option<cqueue::Entry> {
        self.inner.completion().next()
    }

    /// Whether completions wait to be taken.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.inner.completion().is_empty()
    }
}
