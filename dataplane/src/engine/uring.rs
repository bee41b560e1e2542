//! The ring engine: one io_uring for a worker, completions in, sends out, one system call a round.
//!
//! * **Receiving** is armed once for each port and goes on (multishot): with the sender's address (`recvmsg`) while a port hears
//!   everybody, without (`recv`, cheaper) while it is connected. The kernel takes a buffer for each datagram out of a ring of
//!   [`provided`] ones, and the packet leaves from the buffer that it came in.
//! * **Sending** never waits (`MSG_DONTWAIT`): what finds no room is a counted drop. Sends are queued and submitted by the call
//!   that waits for the next packets; a buffer comes back with its completion.
//! * **A receive that ends** (no buffer left, an error of the peer, a cancellation) is armed again at the next round, after buffers
//!   were given back, so that no port stays deaf. A port that is closed is used again only when its last operation is over.
//! * **Waiting** is for one packet, or for many when many come ([`Pace`]).
//!
//! The ring runs on the first thread that waits with it, and on no other from then on. It takes nothing but the operations above
//! ([`ring::Ring::enable`]), because a seccomp filter sees none of them. System calls of a running engine that a filter must allow:
//! `io_uring_enter`; `io_uring_register`, `getsockname`, `getpeername`, `ioctl` (FIONBIO), `setsockopt`, `getsockopt`, `connect`, `recvmmsg` and
//! `close` when ports come, go and change whom they hear; `clock_gettime` where the kernel has no vDSO; `write` by who wakes it; `nanosleep` before 6.12. Making one takes
//! `io_uring_setup`, `eventfd2`, `mmap` and `munmap` too.

mod port;
mod probe;
mod provided;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd},
    sync::Arc,
    time::Duration,
};

use gangway_shared::time::Time;
use io_uring::{
    cqueue, opcode,
    squeue::{Entry, Flags},
    types::Fd,
};
use thiserror::Error;

use self::{port::Slot, provided::Provided, ring::Ring};
pub use self::{probe::probe, ring::Features};
use super::{
    BATCH_MAX, Batch, BufferId, Buffers, Completion, Engine, EngineCounters, FAILURES_MAX, OpenError, Outgoing,
    PORTS_MAX, Wake, clock,
    pace::{Pace, sleep},
    socket::{NO_NAME, Name, encode_name, error_class},
};
use crate::{
    relay::{Now, PortId},
    wire::DropReason,
};

/// How much of everything an engine has.
#[derive(Clone, Copy, Debug)]
pub struct EngineSizes {
    /// Entries of the submission queue, a power of two.
    pub submissions: u32,
    /// Entries of the completion queue, a power of two. More completions are kept by the kernel until there is room.
    pub completions: u32,
    /// Entries of the ring of provided buffers, a power of two.
    pub provided: u16,
    /// Packet buffers.
    pub buffers: usize,
    /// Of them, those that are kept back for packets of our own making.
    pub reserve: usize,
}

impl EngineSizes {
    /// What measurements chose (`docs/decisions/018-the-ring-engine.md`).
    pub const STANDARD: EngineSizes = EngineSizes::of(4096);

    /// For so many packets: an eighth of their buffers is kept for our own.
    #[must_use]
    pub const fn of(buffers: usize) -> Self {
        let provided = if buffers < PROVIDED_MAX as usize { 1 << buffers.ilog2() } else { PROVIDED_MAX };
        EngineSizes { submissions: 1024, completions: 32_768, provided, buffers, reserve: buffers / 8 }
    }

    /// Hardly anything, for a probe and for tests of what runs out.
    pub const TINY: EngineSizes = EngineSizes { submissions: 4, completions: 8, provided: 8, buffers: 16, reserve: 8 };
}

/// Entries of a ring of provided buffers at most.
const PROVIDED_MAX: u16 = 1 << 15;

/// Why there is no ring.
#[derive(Debug, Error)]
pub enum Missing {
    /// The kernel is too old.
    #[error("the kernel has no io_uring with deferred task work (Linux 6.1)")]
    Kernel,
    /// The kernel has it and gives it to nobody, or not to us.
    #[error(
        "io_uring is refused: {0} (kernel.io_uring_disabled: where it is 1, the user of the relay must be in the group kernel.io_uring_group; or a seccomp \
             filter of the container)"
    )]
    Refused(io::Error),
    /// Memory or files.
    #[error("no ring can be made: {0}")]
    Resources(io::Error),
    /// An operation.
    #[error("the kernel's ring does not know {name}")]
    Operation {
        /// Which.
        name: &'static str,
    },
    /// A registration.
    #[error("the ring does not take {what}: {source}")]
    Register {
        /// Of what.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A packet that went by loopback did not come, or not unchanged.
    #[error("the ring does not work: {what}")]
    Broken {
        /// What was tried.
        what: &'static str,
    },
}

impl Missing {
    fn setup(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => Missing::Kernel,
            Some(libc::EPERM | libc::EACCES) => Missing::Refused(error),
            _ => Missing::Resources(error),
        }
    }
}

/// What a completion is of: the upper four bits of its number.
mod kind {
    pub(super) const RECEIVE: u64 = 1;
    pub(super) const SEND: u64 = 2;
    pub(super) const WAKE: u64 = 3;
    pub(super) const CANCEL: u64 = 4;
}

/// `kind:4 | detail:28 | slot:32`. The detail of a receive is its generation, that of a send its buffer.
fn number(kind: u64, detail: u32, slot: u32) -> u64 {
    debug_assert!(detail <= DETAIL_MAX, "28 bits");
    kind << 60 | u64::from(detail) << 32 | u64::from(slot)
}

const DETAIL_MAX: u32 = (1 << 28) - 1;

/// Buffers that the kernel gets at first. Twice as many when they were not enough, up to what its ring holds.
const LENT_FIRST: usize = 1024;

/// As soon as so many packets are there, they are not gathered any longer.
const ENOUGH: u32 = 64;

/// A receive that failed for no reason that would pass is tried again after so long.
const RETRY: Duration = Duration::from_millis(10);

/// See the module text.
pub struct UringEngine {
    // Dropped first: the kernel uses what is below.
    ring: Ring,
    provided: Provided,
    buffers: Buffers,
    sizes: EngineSizes,
    /// Buffers that the kernel gets to receive into. It takes them in turns, so each of them is touched sooner or later: no more than a round
    /// has needed so far.
    lent_max: usize,
    slots: Vec<Slot>,
    free: VecDeque<u32>,
    /// Slots whose receive is to be armed.
    deaf: VecDeque<u32>,
    /// The same, not before `retry_at`.
    failing: Vec<u32>,
    /// Ports whose receive did not end when they were to be connected, and to whom.
    unmet: Vec<(u32, Option<SocketAddr>)>,
    retry_at: Time,
    /// Receive completions that were taken out of the queue to find another.
    stash: VecDeque<cqueue::Entry>,
    failures: Vec<Completion>,
    /// Destination of the packet in each buffer that flies; the kernel reads it.
    names: Vec<Name>,
    /// The packet in each buffer that flies, and whether it was tried a second time.
    flights: Vec<Flight>,
    /// Those whose completion is not here yet.
    flying: usize,
    /// What the kernel is told of the buffers of `recvmsg`; it lies still.
    shape: Box<libc::msghdr>,
    pace: Pace,
    waker: Arc<Waker>,
    /// Where the kernel puts the count of wakes.
    wakes: Box<u64>,
    is_wake_armed: bool,
    counters: EngineCounters,
}

#[derive(Clone, Copy)]
struct Flight {
    packet: Option<Outgoing>,
    is_second: bool,
}

// SAFETY: `shape` holds raw pointers, all of them null; everything else may move between threads.
unsafe impl Send for UringEngine {}

/// An eventfd that the ring reads.
struct Waker(File);

impl Wake for Waker {
    fn wake(&self) {
        if let Err(error) = (&self.0).write(&1u64.to_ne_bytes()) {
            tracing::error!(%error, "a thread could not be woken");
        }
    }
}

impl UringEngine {
    /// An engine without ports, with at most these features of the kernel.
    ///
    /// # Errors
    /// What is missing.
    pub fn new(sizes: EngineSizes, allowed: Features) -> Result<Self, Missing> {
        assert!(sizes.buffers <= 1 << 16 && sizes.buffers <= DETAIL_MAX as usize, "buffers are numbered in 16 bits");
        let ring = Ring::new(&sizes, allowed)?;
        let provided = Provided::new(sizes.provided).map_err(Missing::Resources)?;
        provided.register(&ring)?;
        let waker = Arc::new(Waker(eventfd().map_err(Missing::Resources)?));
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let ports =
            files.map_or(PORTS_MAX, |files| usize::try_from(files).unwrap_or(PORTS_MAX)).clamp(2, PORTS_MAX + 1) - 1;
        let places = u32::try_from(ports).expect("ports are counted in 32 bits");
        if ring.features.registered_files {
            ring.register_files(places + 1)?;
            ring.set_file(places, waker.0.as_raw_fd()).map_err(|source| Missing::Register { what: "files", source })?;
        }
        let mut shape = Box::new(port::no_header());
        shape.msg_namelen = size_of::<Name>() as libc::socklen_t;
        shape.msg_controllen = super::socket::CONTROL_BYTES as _;
        Ok(UringEngine {
            ring,
            lent_max: LENT_FIRST.min(provided.entries()),
            provided,
            buffers: Buffers::of(sizes.buffers),
            sizes,
            slots: (0..ports).map(|_| Slot::default()).collect(),
            free: (0..places).collect(),
            deaf: VecDeque::with_capacity(ports),
            failing: Vec::with_capacity(ports),
            unmet: Vec::new(),
            retry_at: Time::ZERO,
            stash: VecDeque::with_capacity(2 * sizes.buffers + ports),
            failures: Vec::with_capacity(FAILURES_MAX),
            names: vec![NO_NAME; sizes.buffers],
            flights: vec![Flight { packet: None, is_second: false }; sizes.buffers],
            flying: 0,
            shape,
            pace: Pace::default(),
            waker,
            wakes: Box::new(0),
            is_wake_armed: false,
            counters: EngineCounters::default(),
        })
    }

    /// What it uses of the kernel.
    #[must_use]
    pub fn features(&self) -> Features {
        self.ring.features
    }

    fn start(&mut self) {
        if let Err(missing) = self.ring.enable() {
            // The probe did the same at start. A worker that is taken back from its arena would fail in the same way for ever.
            tracing::error!(%missing, "the ring does not start");
            std::process::abort();
        }
    }

    /// Names the file of a slot for an operation.
    fn with_file(&self, entry: Entry) -> Entry {
        if self.ring.features.registered_files { entry.flags(Flags::FIXED_FILE) } else { entry }
    }

    /// Gives the kernel as many buffers as it may have.
    fn provide(&mut self) {
        let mut added = false;
        while self.buffers.available() > self.sizes.reserve
            && self.buffers.in_ring() < self.lent_max
            && let Some(id) = self.buffers.lend()
        {
            let start = self.buffers.bytes(id).as_mut_ptr();
            self.provided.add(id, start);
            added = true;
        }
        if added {
            self.provided.publish();
        }
    }

    fn arm_wake(&mut self) {
        if self.is_wake_armed {
            return;
        }
        let fd = if self.ring.features.registered_files { self.slots.len() as i32 } else { self.waker.0.as_raw_fd() };
        let entry = opcode::Read::new(Fd(fd), (&raw mut *self.wakes).cast(), size_of::<u64>() as u32).build();
        let entry = self.with_file(entry).user_data(number(kind::WAKE, 0, 0));
        // SAFETY: `wakes` lies on the heap and is dropped after the ring.
        self.is_wake_armed = unsafe { self.ring.push(&entry) };
    }

    /// Submits everything and waits, at most until `deadline`, unless there is something already.
    fn wait(&mut self, deadline: Option<Time>, is_busy: bool) {
        let is_busy = is_busy
            || !self.stash.is_empty()
            || !self.failures.is_empty()
            || !self.deaf.is_empty()
            || self.ring.has_completions()
            || deadline == Some(Time::ZERO);
        let wait = if is_busy {
            ring::Wait::NONE
        } else {
            let retry = (!self.failing.is_empty()).then_some(self.retry_at);
            let until = [deadline, retry].into_iter().flatten().min();
            let now = clock::mono();
            let timeout = until.map(|at| at.since(now));
            let sure = u32::try_from(self.buffers.in_flight()).expect("fewer than 2^32 buffers");
            let gather = self.pace.gather(now);
            ring::Wait { want: sure + if gather.is_zero() { 1 } else { ENOUGH }, gather, timeout }
        };
        if let Err(error) = self.ring.enter(wait) {
            // EBUSY and EAGAIN: completions are taken now, the rest is submitted by the next round.
            tracing::debug!(%error, "the ring was entered in vain");
        }
    }

    /// One turn: arms what is deaf, waits, and takes completions until `batch` has a round's worth.
    fn turn(&mut self, deadline: Option<Time>, batch: &mut Batch) {
        batch.completions.append(&mut self.failures);
        let full = batch.len() + BATCH_MAX;
        // What came by a receive that has ended goes before what comes by the next one.
        while batch.len() < full
            && let Some(done) = self.stash.pop_front()
        {
            self.finish(&done, Some(batch));
        }
        self.provide();
        if self.stash.is_empty() {
            self.arm_wake();
            self.connect_unmet();
            self.arm_deaf(full, batch);
        }
        self.wait(deadline, !batch.is_empty());
        while batch.len() < full
            && self.stash.is_empty()
            && let Some(done) = self.ring.pop()
        {
            self.finish(&done, Some(batch));
        }
    }

    /// Takes all completions out of the queue. Receives wait in the stash, as far as it has room; everything else is done with.
    fn reap_sends(&mut self) {
        while self.stash.len() < self.stash.capacity()
            && let Some(done) = self.ring.pop()
        {
            if done.user_data() >> 60 == kind::RECEIVE {
                self.stash.push_back(done);
            } else {
                self.finish(&done, None);
            }
        }
    }

    fn finish(&mut self, done: &cqueue::Entry, batch: Option<&mut Batch>) {
        let (detail, slot) = ((done.user_data() >> 32) as u32 & DETAIL_MAX, done.user_data() as u32);
        match (done.user_data() >> 60, batch) {
            (kind::RECEIVE, Some(batch)) => self.received(slot, detail, done, batch),
            (kind::SEND, _) => self.sent(slot, detail, done.result()),
            (kind::WAKE, batch) => {
                self.is_wake_armed = false;
                match batch {
                    Some(batch) => batch.push(Completion::Woken),
                    None => self.fail(Completion::Woken),
                }
            }
            _ => {}
        }
    }

    fn fail(&mut self, completion: Completion) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(completion);
        }
    }

    /// A send is over.
    fn sent(&mut self, slot: u32, buffer: u32, result: i32) {
        let at = buffer as usize;
        let Flight { packet: Some(packet), is_second } = self.flights[at] else {
            debug_assert!(false, "a send that nobody queued is over");
            return;
        };
        let is_alone = self.slots[slot as usize].hears_alone();
        if result == -libc::ECONNREFUSED && is_alone && !is_second && self.slots[slot as usize].is_open() {
            // A connected socket says so of a packet before this one, which has not left yet.
            self.counters.sent_again += 1;
            self.flights[at].is_second = true;
            if self.push_send(packet) {
                return;
            }
        }
        if result < 0 {
            let reason = error_class(&io::Error::from_raw_os_error(-result));
            self.fail(Completion::Failed { port: packet.port, reason });
        }
        self.flights[at].packet = None;
        self.flying -= 1;
        self.buffers.landed(packet.buffer);
        self.slots[slot as usize].sends -= 1;
        self.release(slot);
    }

    fn push_send(&mut self, packet: Outgoing) -> bool {
        let at = packet.buffer.index();
        let slot = &self.slots[packet.port.0 as usize];
        let fd = slot.file(packet.port.0, self.ring.features.registered_files);
        let start = self.buffers.bytes(packet.buffer)[packet.start..packet.start + packet.len].as_ptr();
        let mut send = opcode::Send::new(Fd(fd), start, packet.len as u32).flags(libc::MSG_DONTWAIT);
        if slot.peer != Some(packet.to) {
            let len = encode_name(packet.to, &mut self.names[at]);
            send = send.dest_addr((&raw const self.names[at]).cast()).dest_addr_len(len);
        }
        let detail = u32::try_from(at).expect("buffers are numbered in 16 bits");
        let entry = self.with_file(send.build()).user_data(number(kind::SEND, detail, packet.port.0));
        // SAFETY: the packet's bytes lie in a buffer that flies, and its name in the room of that buffer: neither is touched before
        // the completion of the send gives the buffer back, and both are dropped after the ring.
        unsafe { self.ring.push(&entry) }
    }

    fn queue_send(&mut self, packet: Outgoing) {
        let failed = match self.slots.get(packet.port.0 as usize).filter(|slot| slot.is_open()) {
            None => Some(DropReason::PortUnknown),
            Some(slot) if slot.is_ipv4 != packet.to.is_ipv4() => Some(DropReason::WrongFamily),
            Some(_) => (!self.push_send(packet)).then_some(DropReason::SendWouldBlock),
        };
        if let Some(reason) = failed {
            self.fail(Completion::Failed { port: packet.port, reason });
            return;
        }
        self.flights[packet.buffer.index()] = Flight { packet: Some(packet), is_second: false };
        self.flying += 1;
        self.slots[packet.port.0 as usize].sends += 1;
        self.buffers.fly(packet.buffer);
    }
}

impl Engine for UringEngine {
    type Socket = UdpSocket;

    const NAME: &'static str = "io_uring";

    fn now(&self) -> Now {
        clock::now()
    }

    fn cpu_time(&self) -> Duration {
        clock::thread_cpu_time()
    }

    fn rest(&mut self, time: Duration) {
        sleep(time);
    }

    fn counters(&self) -> EngineCounters {
        EngineCounters {
            submissions_full: self.ring.submissions_full,
            completions_full: self.ring.completions_full,
            ..self.counters
        }
    }

    fn stamp(&mut self, port: PortId) {
        self.stamp_port(port);
    }

    fn take_lost(&mut self, port: PortId) -> u32 {
        self.slots.get_mut(port.0 as usize).map_or(0, Slot::take_lost)
    }

    fn open(&mut self, socket: UdpSocket) -> Result<PortId, OpenError> {
        self.open_port(socket)
    }

    fn ports(&self) -> Vec<PortId> {
        let slots = self.slots.iter().zip(0..);
        slots.filter(|(slot, _)| slot.is_open()).map(|(_, port)| PortId(port)).collect()
    }

    fn close(&mut self, port: PortId) -> Option<UdpSocket> {
        self.close_port(port)
    }

    fn connect(&mut self, port: PortId, peer: Option<SocketAddr>) {
        self.connect_port(port, peer);
    }

    fn receive(&mut self, deadline: Option<Time>, batch: &mut Batch) {
        debug_assert!(batch.is_empty(), "the last round was not worked off");
        self.start();
        loop {
            self.buffers.assert_whole(self.flying, self.provided.there());
            self.turn(deadline, batch);
            let now = clock::mono();
            self.pace.note(now, batch.len());
            if !batch.is_empty() || deadline.is_some_and(|at| at <= now) {
                return;
            }
        }
    }

    fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn take_buffer(&mut self) -> Option<BufferId> {
        self.buffers.take().or_else(|| {
            // What flies lands when it is submitted.
            let _ = self.ring.enter(ring::Wait::NONE);
            self.reap_sends();
            self.buffers.take()
        })
    }

    /// They leave with the next round, or at once when the queue is full.
    fn flush(&mut self) {
        for at in 0..self.buffers.queue().len() {
            let packet = self.buffers.queue()[at];
            self.queue_send(packet);
        }
        self.buffers.clear_queue();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        // What was flushed leaves.
        let _ = self.ring.enter(ring::Wait::NONE);
    }
}

fn eventfd() -> io::Result<File> {
    // SAFETY: makes a new file and touches no memory. Without EFD_NONBLOCK: the ring waits for what it reads.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the file was made for us just now and nobody else closes it.
    Ok(unsafe { File::from_raw_fd(fd) })
}
