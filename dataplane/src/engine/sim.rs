//! The simulated engine: a virtual network in virtual time.
//!
//! Loss, delay, reordering and duplication come from a seed: the same seed and the same calls give the same run. Waiting for a
//! packet moves the network's clock, nothing sleeps.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gangway_shared::{
    entropy::{Entropy, SeededEntropy},
    time::{Time, WallTime},
};

use super::{
    BATCH_MAX, Batch, Buffers, Completion, Engine, FAILURES_MAX, OpenError, PORTS_MAX, Wake,
    pool::{DATAGRAM_MAX_BYTES, HEADROOM_BYTES},
};
use crate::{
    relay::{Now, PortId},
    wire::DropReason,
};

/// Datagrams that wait at one address; more are lost, as in a socket's receive queue.
const QUEUE_MAX: usize = 1024;

/// Wall clock of a simulation when its monotonic clock shows zero: 2026-01-01T00:00:00Z.
const WALL_START: u64 = 1_767_225_600_000_000;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Datagrams lost, in thousandths.
    pub loss_permille: u32,
    /// Datagrams that arrive twice, in thousandths.
    pub duplicate_permille: u32,
    /// Datagrams held back for `reorder_delay`, in thousandths.
    pub reorder_permille: u32,
    /// Time on the way.
    pub delay: Duration,
    /// Extra time of held back and doubled datagrams, at most.
    pub reorder_delay: Duration,
}

impl Conditions {
    /// Everything arrives, in order, after a millisecond.
    pub const CLEAN: Conditions = Conditions {
        loss_permille: 0,
        duplicate_permille: 0,
        reorder_permille: 0,
        delay: Duration::from_millis(1),
        reorder_delay: Duration::ZERO,
    };
}

/// A virtual network. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    now: Time,
    conditions: Conditions,
    entropy: SeededEntropy,
    sequence: u64,
    on_the_way: BTreeMap<(Time, u64), Datagram>,
    arrived: BTreeMap<SocketAddr, Arrivals>,
}

/// What waits at one address.
#[derive(Debug, Default)]
struct Arrivals {
    queue: VecDeque<(WallTime, SocketAddr, Vec<u8>)>,
    /// Datagrams that found no room since somebody asked.
    lost: u32,
    /// Nobody else is heard.
    peer: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

fn wall(mono: Time) -> WallTime {
    WallTime::from_unix_micros(WALL_START + mono.as_micros())
}

/// An address bound on a virtual network; unbound when it is dropped.
#[derive(Debug)]
pub struct SimSocket {
    network: Network,
    address: SocketAddr,
}

impl Network {
    /// A network whose clock shows zero.
    #[must_use]
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Network(Arc::new(Mutex::new(State {
            now: Time::ZERO,
            conditions,
            entropy: SeededEntropy::new(seed),
            sequence: 0,
            on_the_way: BTreeMap::new(),
            arrived: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network's clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono = self.state().now;
        Now { mono, wall: wall(mono) }
    }

    /// Changes what happens to datagrams sent from now on.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.state().conditions = conditions;
    }

    /// Binds an address; `None` when it is taken.
    #[must_use]
    pub fn bind(&self, address: SocketAddr) -> Option<SimSocket> {
        let mut state = self.state();
        if state.arrived.contains_key(&address) {
            return None;
        }
        state.arrived.insert(address, Arrivals::default());
        Some(SimSocket { network: self.clone(), address })
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Time> {
        self.state().on_the_way.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Moves the clock to `to`, never backwards, and lets everything due arrive.
    pub fn advance_to(&self, to: Time) {
        let mut state = self.state();
        while let Some(entry) = state.on_the_way.first_entry()
            && entry.key().0 <= to
        {
            let (at, datagram) = (entry.key().0, entry.remove());
            match state.arrived.get_mut(&datagram.to) {
                Some(arrivals) if arrivals.peer.is_some_and(|peer| peer != datagram.from) => {}
                Some(arrivals) if arrivals.queue.len() < QUEUE_MAX => {
                    arrivals.queue.push_back((wall(at), datagram.from, datagram.bytes));
                }
                Some(arrivals) => arrivals.lost += 1,
                None => {}
            }
        }
        state.now = state.now.max(to);
    }
}

impl State {
    fn chance(&mut self, permille: u32) -> bool {
        self.entropy.below(1000) < permille
    }

    fn send(&mut self, datagram: Datagram) {
        if self.chance(self.conditions.loss_permille) {
            return;
        }
        let copies = if self.chance(self.conditions.duplicate_permille) { 2 } else { 1 };
        for copy in 0..copies {
            let mut at = self.now + self.conditions.delay;
            if copy == 1 || self.chance(self.conditions.reorder_permille) {
                let most = u32::try_from(self.conditions.reorder_delay.as_micros()).unwrap_or(u32::MAX);
                at = at + Duration::from_micros(u64::from(self.entropy.below(most.max(1))));
            }
            self.sequence += 1;
            self.on_the_way.insert((at, self.sequence), datagram.clone());
        }
    }
}

impl SimSocket {
    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Puts a datagram on its way.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) {
        self.network.state().send(Datagram { from: self.address, to, bytes: bytes.to_vec() });
    }

    /// The oldest datagram that has arrived.
    #[must_use]
    pub fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        self.take_arrival().map(|(_, from, bytes)| (from, bytes))
    }

    fn take_arrival(&self) -> Option<(WallTime, SocketAddr, Vec<u8>)> {
        self.network.state().arrived.get_mut(&self.address)?.queue.pop_front()
    }

    fn connect(&self, peer: Option<SocketAddr>) {
        if let Some(arrivals) = self.network.state().arrived.get_mut(&self.address) {
            arrivals.peer = peer;
        }
    }

    fn take_lost(&self) -> u32 {
        self.network.state().arrived.get_mut(&self.address).map_or(0, |arrivals| std::mem::take(&mut arrivals.lost))
    }

    fn has_arrivals(&self) -> bool {
        self.network.state().arrived.get(&self.address).is_some_and(|arrivals| !arrivals.queue.is_empty())
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.state().arrived.remove(&self.address);
    }
}

/// An engine on a [`Network`].
pub struct SimEngine {
    network: Network,
    buffers: Buffers,
    slots: Vec<Option<SimSocket>>,
    free: VecDeque<u32>,
    stamped: BTreeSet<PortId>,
    turn: usize,
    failures: Vec<Completion>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl SimEngine {
    /// An engine without ports.
    #[must_use]
    pub fn new(network: Network) -> Self {
        SimEngine {
            network,
            buffers: Buffers::new(),
            slots: Vec::new(),
            free: VecDeque::new(),
            stamped: BTreeSet::new(),
            turn: 0,
            failures: Vec::with_capacity(FAILURES_MAX),
            woken: Arc::default(),
        }
    }

    fn something_waits(&self) -> bool {
        self.woken.0.load(Ordering::Acquire)
            || !self.failures.is_empty()
            || self.slots.iter().flatten().any(SimSocket::has_arrivals)
    }

    /// Lets virtual time pass until something is there or the deadline has come.
    fn wait(&self, deadline: Option<Time>) {
        while !self.something_waits() {
            let next = self.network.next_arrival().filter(|&at| deadline.is_none_or(|deadline| at <= deadline));
            match next.or(deadline) {
                Some(at) => self.network.advance_to(at),
                None => return,
            }
            if next.is_none() {
                return;
            }
        }
    }

    /// Takes one datagram of one port; false when the port is empty.
    fn read_port(&mut self, at: usize, batch: &mut Batch) -> bool {
        let Some(socket) = &self.slots[at] else { return false };
        let Some((received_at, from, bytes)) = socket.take_arrival() else { return false };
        let port = PortId(u32::try_from(at).expect("ports are counted in 32 bits"));
        let received_at = self.stamped.contains(&port).then_some(received_at);
        match socket.take_lost() {
            0 => {}
            count => batch.push(Completion::Lost { port, count }),
        }
        if bytes.len() > DATAGRAM_MAX_BYTES {
            batch.push(Completion::Failed { port, reason: DropReason::PacketTooLarge });
            return true;
        }
        match self.take_buffer() {
            Some(buffer) => {
                self.buffers.bytes(buffer)[HEADROOM_BYTES..HEADROOM_BYTES + bytes.len()].copy_from_slice(&bytes);
                let (start, len) = (HEADROOM_BYTES, bytes.len());
                batch.push(Completion::Received { port, from, buffer, start, len, received_at });
            }
            None => batch.push(Completion::Failed { port, reason: DropReason::BuffersExhausted }),
        }
        true
    }
}

impl Engine for SimEngine {
    type Socket = SimSocket;

    const NAME: &'static str = "sim";

    fn now(&self) -> Now {
        self.network.now()
    }

    fn stamp(&mut self, port: PortId) {
        self.stamped.insert(port);
    }

    fn take_lost(&mut self, port: PortId) -> u32 {
        self.slots.get(port.0 as usize).and_then(Option::as_ref).map_or(0, SimSocket::take_lost)
    }

    fn open(&mut self, socket: SimSocket) -> Result<PortId, OpenError> {
        let port = match self.free.pop_front() {
            Some(port) => port,
            None if self.slots.len() < PORTS_MAX => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).expect("ports are counted in 32 bits")
            }
            None => return Err(OpenError::Full),
        };
        self.slots[port as usize] = Some(socket);
        Ok(PortId(port))
    }

    fn ports(&self) -> Vec<PortId> {
        let slots = self.slots.iter().zip(0..);
        slots.filter(|(slot, _)| slot.is_some()).map(|(_, port)| PortId(port)).collect()
    }

    fn close(&mut self, port: PortId) -> Option<SimSocket> {
        let socket = self.slots.get_mut(port.0 as usize)?.take()?;
        self.free.push_back(port.0);
        self.stamped.remove(&port);
        Some(socket)
    }

    fn connect(&mut self, port: PortId, peer: Option<SocketAddr>) {
        if let Some(Some(socket)) = self.slots.get(port.0 as usize) {
            socket.connect(peer);
        }
    }

    fn receive(&mut self, deadline: Option<Time>, batch: &mut Batch) {
        debug_assert!(batch.is_empty(), "the last round was not worked off");
        self.buffers.assert_whole(0, 0);
        self.wait(deadline);
        if self.woken.0.swap(false, Ordering::AcqRel) {
            batch.push(Completion::Woken);
        }
        batch.completions.append(&mut self.failures);
        let full = batch.len() + BATCH_MAX;
        let mut empty = 0;
        while batch.len() < full && empty < self.slots.len() {
            self.turn = (self.turn + 1) % self.slots.len();
            empty = if self.read_port(self.turn, batch) { 0 } else { empty + 1 };
        }
    }

    fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn flush(&mut self) {
        for packet in self.buffers.queue().to_vec() {
            let reason = match self.slots.get(packet.port.0 as usize).and_then(Option::as_ref) {
                Some(socket) if socket.address.is_ipv4() == packet.to.is_ipv4() => {
                    let bytes = &self.buffers.bytes(packet.buffer)[packet.start..packet.start + packet.len];
                    socket.send_to(bytes, packet.to);
                    None
                }
                Some(_) => Some(DropReason::WrongFamily),
                None => Some(DropReason::PortUnknown),
            };
            if let Some(reason) = reason.filter(|_| self.failures.len() < FAILURES_MAX) {
                self.failures.push(Completion::Failed { port: packet.port, reason });
            }
        }
        self.buffers.clear_queue();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.woken.clone()
    }
}
