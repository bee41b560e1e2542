//! Engines: how packets get in and out.
//!
//! An [`Engine`] speaks port handles, buffers and completions, not file descriptors, so that a completion ring fits behind it
//! unchanged. It is statically dispatched: a worker is compiled for its engine. It owns the packet buffers ([`pool`]) and knows
//! nothing of what is in them.
//!
//! The flow of one round: [`Engine::receive`] fills a [`Batch`]; the worker changes packets in place in their buffers; each is
//! handed to [`Engine::send`] or [`Engine::recycle`]; [`Engine::flush`] ends the round. Errors of single sends come back as
//! completions and are counters: none of them ends a call.

pub mod choice;
pub mod clock;
pub mod epoll;
mod pace;
pub mod pool;
pub mod signals;
pub mod sim;
mod socket;
pub mod uring;

#[cfg(test)]
mod conformance;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use gangway_shared::time::{Time, WallTime};
use thiserror::Error;

use crate::{
    relay::{Now, PortId},
    wire::DropReason,
};

pub use pool::{BufferId, Buffers};

/// Ports one engine can hold open: two a SIP leg, so about 8000 legs a worker.
pub const PORTS_MAX: usize = 16_384;

/// Packets one round takes in at most (measurements: cap a round at 64 to 128).
pub const BATCH_MAX: usize = 128;

/// Packet buffers of an engine that nobody gave another number. All of them lie in the pool, in a batch or in the send queue.
pub const BUFFERS: usize = 1024;

/// Failed sends that one round reports at most: each buffer may have been sent twice. More are not reported.
pub const FAILURES_MAX: usize = 2 * BUFFERS;

/// A packet that waits for the end of the round on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Port it leaves by.
    pub port: PortId,
    /// Where it goes.
    pub to: SocketAddr,
    /// Buffer it lies in; the engine's again from here on.
    pub buffer: BufferId,
    /// First byte within the buffer.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

/// Something an engine finished.
#[derive(Clone, Copy, Debug)]
pub enum Completion {
    /// A datagram came in. The buffer is the caller's until it is sent or recycled.
    Received {
        /// Port it came in by.
        port: PortId,
        /// Sender.
        from: SocketAddr,
        /// Buffer it lies in.
        buffer: BufferId,
        /// First byte within the buffer.
        start: usize,
        /// Length in bytes.
        len: usize,
        /// When the kernel took it in; only on ports that were [stamped](Engine::stamp).
        received_at: Option<WallTime>,
    },
    /// A send, or the port itself, failed. The buffer is already back in the pool.
    Failed {
        /// Port.
        port: PortId,
        /// The errno, as the class that is counted.
        reason: DropReason,
    },
    /// The network had no room for datagrams of a port. Told with the next one that comes in by it.
    Lost {
        /// Port they were for.
        port: PortId,
        /// How many since the last time.
        count: u32,
    },
    /// Somebody used the [`Wake`]r: look at the mailbox.
    Woken,
}

/// What one round brought; reused round after round.
#[derive(Debug)]
pub struct Batch {
    completions: Vec<Completion>,
}

impl Batch {
    /// Room for one round.
    #[must_use]
    pub fn new() -> Self {
        Batch { completions: Vec::with_capacity(2 * BATCH_MAX + FAILURES_MAX + 1) }
    }

    /// Takes the completions out, oldest first, and leaves the room behind.
    pub fn drain(&mut self) -> impl Iterator<Item = Completion> + '_ {
        self.completions.drain(..)
    }

    /// Completions in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.completions.len()
    }

    /// True when the round brought nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.completions.is_empty()
    }

    fn push(&mut self, completion: Completion) {
        debug_assert!(self.completions.len() < self.completions.capacity(), "a batch never grows");
        self.completions.push(completion);
    }
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

/// What happened to an engine itself, each counted since it was made. None of it loses a packet by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// A receive ended because all buffers were in use; the packets waited in the kernel.
    pub out_of_buffers: u64,
    /// A receive ended for another reason, such as an error that the peer's host reported, and was armed again.
    pub armed_again: u64,
    /// A receive ended by an error that should not be, and was armed again a moment later.
    pub failed_receives: u64,
    /// A send that told of the refusal of a packet before it, and was tried once more.
    pub sent_again: u64,
    /// The submission queue was full and was submitted early.
    pub submissions_full: u64,
    /// The completion queue was full, and the kernel kept completions back.
    pub completions_full: u64,
}

impl EngineCounters {
    /// How many there are.
    pub const COUNT: usize = 6;

    const NAMES: [&str; Self::COUNT] =
        ["out_of_buffers", "armed_again", "failed_receives", "sent_again", "submissions_full", "completions_full"];

    /// One after the other, for a reader that does not stop them.
    #[must_use]
    pub fn to_array(&self) -> [u64; Self::COUNT] {
        let EngineCounters {
            out_of_buffers,
            armed_again,
            failed_receives,
            sent_again,
            submissions_full,
            completions_full,
        } = *self;
        [out_of_buffers, armed_again, failed_receives, sent_again, submissions_full, completions_full]
    }

    /// What [`to_array`](Self::to_array) gave.
    #[must_use]
    pub fn from_array(all: [u64; Self::COUNT]) -> Self {
        let [out_of_buffers, armed_again, failed_receives, sent_again, submissions_full, completions_full] = all;
        EngineCounters { out_of_buffers, armed_again, failed_receives, sent_again, submissions_full, completions_full }
    }

    /// By name, for `Query`; none when nothing ever happened.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, u64> {
        let all = self.to_array();
        let happened = all.iter().any(|count| *count > 0);
        let named = Self::NAMES.into_iter().zip(all).filter(|_| happened);
        named.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// Ends an engine's wait from another thread.
pub trait Wake: Send + Sync {
    /// The next or running [`Engine::receive`] reports [`Completion::Woken`]. Several wakes may be reported as one.
    fn wake(&self);
}

impl Wake for mio::Waker {
    fn wake(&self) {
        if let Err(error) = mio::Waker::wake(self) {
            tracing::error!(%error, "a thread could not be woken");
        }
    }
}

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// [`PORTS_MAX`] are open.
    #[error("all {PORTS_MAX} ports of the engine are open")]
    Full,
    /// The kernel refused.
    #[error("the kernel refused the port: {0}")]
    Io(#[from] std::io::Error),
}

/// Moves datagrams between ports and buffers. See the module text for the flow.
pub trait Engine {
    /// A bound socket, made elsewhere.
    type Socket;

    /// Name for logs and `Hello`.
    const NAME: &'static str;

    /// Monotonic and wall clock of the network this engine is on. Read once per batch, and once more behind a batch in which a
    /// [stamped](Engine::stamp) packet was sent.
    fn now(&self) -> Now;

    /// Processor time that the calling thread has used.
    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Leaves the core to others for so long, less than a second. In virtual time nobody else wants it.
    fn rest(&mut self, time: Duration) {
        let _ = time;
    }

    /// Takes a bound socket under a handle. Handles of closed ports are used again, oldest first.
    ///
    /// # Errors
    /// [`OpenError`]; the socket is dropped.
    fn open(&mut self, socket: Self::Socket) -> Result<PortId, OpenError>;

    /// Asks for the kernel's receive time of what comes in by a port from now on (`SO_TIMESTAMPNS`). An engine or a kernel that
    /// has none leaves [`Completion::Received`] without.
    fn stamp(&mut self, port: PortId) {
        let _ = port;
    }

    /// Datagrams of a port that the network had no room for and that no [`Completion::Lost`] has told yet; they are told by this
    /// (`SO_MEMINFO`). For cold paths: it may ask the kernel.
    fn take_lost(&mut self, port: PortId) -> u32 {
        let _ = port;
        0
    }

    /// The open ports. For cold paths: it allocates.
    fn ports(&self) -> Vec<PortId>;

    /// Gives the socket of a port back; `None` when no such port is open. Packets queued by [`Engine::send`] on it still leave
    /// when [`Engine::flush`] was called before.
    fn close(&mut self, port: PortId) -> Option<Self::Socket>;

    /// What happened to the engine itself. Engines that have nothing of the kind count nothing.
    fn counters(&self) -> EngineCounters {
        EngineCounters::default()
    }

    /// Makes a port hear `peer` alone, which is cheaper, or everybody again (connect(2)). What waits in the port already comes with
    /// its own sender, whoever that is. A port that is bound to all addresses of the machine, or of another family than `peer`,
    /// stays as it is: the kernel would bind it to one address. The socket must have been bound to a port by its number: one that the
    /// kernel chose at bind(2) is lost when the port hears everybody again.
    fn connect(&mut self, port: PortId, peer: Option<SocketAddr>);

    /// Waits until something is there, `deadline` has passed (`None`: for ever; [`Time::ZERO`]: it does not wait, and reads no
    /// clock to know) or a wake came, then fills `batch` with what
    /// is there, at most [`BATCH_MAX`] datagrams and losses, every ready port getting its turn.
    fn receive(&mut self, deadline: Option<Time>, batch: &mut Batch);

    /// The packet buffers.
    fn buffers(&mut self) -> &mut Buffers;

    /// The whole buffer.
    ///
    /// # Panics
    /// When the id is none of this engine's.
    fn buffer(&mut self, id: BufferId) -> &mut [u8] {
        self.buffers().bytes(id)
    }

    /// A buffer to build a packet in; `None` when all are in use, which is a counted drop.
    fn take_buffer(&mut self) -> Option<BufferId> {
        self.buffers().take()
    }

    /// Queues a packet. Its buffer is the engine's from here on.
    fn send(&mut self, packet: Outgoing) {
        self.buffers().send(packet);
    }

    /// Gives a buffer back unsent.
    fn recycle(&mut self, buffer: BufferId) {
        self.buffers().recycle(buffer);
    }

    /// Sends what is queued, at the latest with the next [`receive`](Self::receive), or when the engine is dropped. A send that would
    /// block is a counted drop.
    fn flush(&mut self);

    /// Ends this engine's wait.
    fn waker(&self) -> Arc<dyn Wake>;

    /// After a panic of the worker: drops the send queue and takes back every buffer the worker still held.
    fn reclaim(&mut self) {
        self.buffers().reclaim();
    }
}
