//! The one task that owns all call state: arrivals in, [`Gateway`] in the middle, outputs to the adapters.
//!
//! It goes by turns: what has arrived is taken, the lines for the journal are handed over, and what is to be sent leaves when they are
//! written. So a control that follows upon `kill -9` knows all that anybody was told.
//!
//! The clock and the source of entropy are here, so that the core stays replayable. Everything is bounded: a full queue is counted
//! and told to whoever wanted in, never waited for by the hub itself.

#![allow(clippy::disallowed_methods, reason = "the hub owns control's clock and entropy")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use gangway_shared::{
    entropy::Entropy,
    time::{Time, WallTime},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    api::{schema, socket::Outbox},
    gateway::{
        Gateway,
        effects::{Answer, Ask, AskId, Counts, Input, Output, RestCall, RestId, RestReply, SocketId, SocketPeer},
        journal::JournalEntry,
    },
    journal::Journal,
    relay_client::{RelayHandle, ReplyTo},
    transport::{SipHandle, resolver::Resolver},
};

/// The clock of control: microseconds since the program started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Clock { start: Instant::now() }
    }

    /// The time now.
    #[must_use]
    pub fn now(self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    /// What the clock on the wall showed when this one started.
    #[must_use]
    pub fn wall_at_start(self) -> WallTime {
        let since = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        WallTime::from_unix_micros(Clock::wall().as_unix_micros().saturating_sub(since))
    }

    /// The runtime's instant of `time`, for sleeping.
    #[must_use]
    pub fn instant(self, time: Time) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + time.since(Time::ZERO))
    }

    /// What the clock on the wall shows.
    #[must_use]
    pub fn wall() -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime::from_unix_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Random bytes of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("a machine without random bytes must not make keys");
    }
}

/// What arrives at the hub.
#[derive(Debug)]
enum Arrival {
    SocketOpened { socket: SocketId, peer: SocketPeer, outbox: Outbox },
    Rest { call: RestCall, reply: oneshot::Sender<RestReply> },
    Numbers(oneshot::Sender<Numbers>),
    Input(Input),
}

/// The core's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// What there is and was.
    pub counts: Counts,
    /// What the SIP core dropped or refused, by reason.
    pub sip: Vec<(&'static str, u64)>,
    /// SIP requests that were too long for a datagram, by what became of them.
    pub sip_long: Vec<(&'static str, u64)>,
}

/// The hub's queue is full: the caller's matter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway is overloaded")]
pub struct Overloaded;

/// The way into the hub, for every adapter.
#[derive(Clone, Debug)]
pub struct HubHandle {
    queue: mpsc::Sender<Arrival>,
    refused: Arc<AtomicU64>,
    next_socket: Arc<AtomicU64>,
}

impl HubHandle {
    /// Puts an input into the queue.
    ///
    /// # Errors
    /// [`Overloaded`] when the queue is full; it is counted.
    pub fn offer(&self, input: Input) -> Result<(), Overloaded> {
        self.offer_arrival(Arrival::Input(input))
    }

    /// Puts an input into the queue, waiting for room: for facts that must not be lost and for streams that can be slowed down.
    pub async fn deliver(&self, input: Input) {
        // An error means that the hub is gone: the program ends.
        let _ = self.queue.send(Arrival::Input(input)).await;
    }

    /// Makes a new socket known.
    ///
    /// # Errors
    /// [`Overloaded`]
    pub fn open_socket(&self, peer: SocketPeer, outbox: Outbox) -> Result<SocketId, Overloaded> {
        let socket = SocketId(self.next_socket.fetch_add(1, Ordering::Relaxed));
        self.offer_arrival(Arrival::SocketOpened { socket, peer, outbox })?;
        Ok(socket)
    }

    /// Asks the core and waits for its reply.
    ///
    /// # Errors
    /// [`Overloaded`] when the queue is full or the hub is gone.
    pub async fn rest(&self, call: RestCall) -> Result<RestReply, Overloaded> {
        let (reply, answer) = oneshot::channel();
        self.offer_arrival(Arrival::Rest { call, reply })?;
        answer.await.map_err(|_| Overloaded)
    }

    /// The core's numbers. What was delivered before is counted in.
    ///
    /// # Errors
    /// [`Overloaded`] when the queue is full or the hub is gone.
    pub async fn numbers(&self) -> Result<Numbers, Overloaded> {
        let (reply, answer) = oneshot::channel();
        self.offer_arrival(Arrival::Numbers(reply))?;
        answer.await.map_err(|_| Overloaded)
    }

    /// Arrivals refused because the queue was full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn offer_arrival(&self, arrival: Arrival) -> Result<(), Overloaded> {
        self.queue.try_send(arrival).map_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Overloaded
        })
    }
}

/// The adapters that outputs go to.
#[derive(Debug)]
pub struct Adapters {
    /// SIP sockets.
    pub sip: SipHandle,
    /// Names.
    pub resolver: Resolver,
    /// The wall.
    pub relay: RelayHandle,
    /// The disk.
    pub journal: Journal,
}

/// The queue's other end.
#[derive(Debug)]
pub struct HubQueue(mpsc::Receiver<Arrival>);

#[cfg(test)]
impl HubQueue {
    /// The next plain input, for tests of adapters.
    pub(crate) async fn next_input(&mut self) -> Option<Input> {
        loop {
            match self.0.recv().await? {
                Arrival::Input(input) => return Some(input),
                other => tracing::debug!(?other, "passed over"),
            }
        }
    }
}

/// A queue of `capacity` arrivals and its handle. Adapters need the handle before the hub can run.
#[must_use]
pub fn queue(capacity: usize) -> (HubHandle, HubQueue) {
    let (sender, receiver) = mpsc::channel(capacity);
    let handle = HubHandle { queue: sender, refused: Arc::default(), next_socket: Arc::new(AtomicU64::new(1)) };
    (handle, HubQueue(receiver))
}

/// The hub itself.
pub struct Hub {
    gateway: Gateway,
    clock: Clock,
    queue: mpsc::Receiver<Arrival>,
    handle: HubHandle,
    adapters: Adapters,
    outboxes: BTreeMap<SocketId, Outbox>,
    rest: BTreeMap<RestId, oneshot::Sender<RestReply>>,
    next_rest: u64,
    /// Inputs that outputs caused at once: answers that need no world.
    pending: VecDeque<Input>,
    /// What leaves when the journal's lines of this turn are written.
    held: VecDeque<Output>,
    /// Who asked for numbers in this turn.
    numbers_for: Vec<oneshot::Sender<Numbers>>,
    idle: watch::Sender<bool>,
    /// When a journal that was behind got everything again.
    caught_up: Time,
}

/// Between two times that the journal gets everything because it lost lines.
const CATCH_UP_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Arrivals of one turn. They share one write of the journal; what they have to say to one websocket must find room in its queue.
const TURN_MAX: usize = 32;

impl Hub {
    /// A hub around `gateway`. The receiver tells when the core is idle (no call left, everybody told), for the end of the program.
    #[must_use]
    pub fn new(
        gateway: Gateway,
        clock: Clock,
        queue: HubQueue,
        handle: HubHandle,
        adapters: Adapters,
    ) -> (Self, watch::Receiver<bool>) {
        let (idle, watched) = watch::channel(true);
        let hub = Hub {
            gateway,
            clock,
            queue: queue.0,
            handle,
            adapters,
            outboxes: BTreeMap::new(),
            rest: BTreeMap::new(),
            next_rest: 1,
            pending: VecDeque::new(),
            held: VecDeque::new(),
            numbers_for: Vec::new(),
            idle,
            caught_up: Time::ZERO,
        };
        (hub, watched)
    }

    /// Runs until every handle is gone.
    pub async fn run(mut self) {
        self.drain().await;
        loop {
            let wake = self.gateway.poll_timeout().map(|time| self.clock.instant(time));
            let arrival = tokio::select! {
                arrival = self.queue.recv() => match arrival {
                    Some(arrival) => Some(arrival),
                    None => return,
                },
                () = sleep_until(wake) => None,
            };
            match arrival {
                None => self.gateway.handle_timeout(self.clock.now()),
                Some(arrival) => self.take_turn(arrival),
            }
            self.drain().await;
            self.catch_up();
            let idle = self.gateway.is_idle();
            self.idle.send_if_modified(|was| std::mem::replace(was, idle) != idle);
            self.tell_numbers();
            if !self.queue.is_empty() {
                // Queues to sockets are emptied before more is put into them.
                tokio::task::yield_now().await;
            }
        }
    }

    /// This arrival and those that wait behind it.
    fn take_turn(&mut self, first: Arrival) {
        self.take(first);
        for _ in 1..TURN_MAX {
            let Ok(arrival) = self.queue.try_recv() else { return };
            self.take(arrival);
        }
    }

    /// At the end of a turn: whoever has them sees what became of everything that came before the question, and whether that left us idle.
    fn tell_numbers(&mut self) {
        for reply in self.numbers_for.drain(..) {
            let sip = self.gateway.sip_counters().each().to_vec();
            let sip_long = self.gateway.long_requests().each().to_vec();
            let _ = reply.send(Numbers { counts: self.gateway.counts(), sip, sip_long });
        }
    }

    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Input(input) => self.input(input),
            Arrival::SocketOpened { socket, peer, outbox } => {
                self.outboxes.insert(socket, outbox);
                self.input(Input::SocketOpened { socket, peer });
            }
            Arrival::Rest { call, reply } => {
                let request = RestId(self.next_rest);
                self.next_rest += 1;
                // Callers that gave up leave a closed channel behind; the core answers REST at once, so the map stays small.
                self.rest.retain(|_, waiting| !waiting.is_closed());
                self.rest.insert(request, reply);
                self.input(Input::Rest { request, call });
            }
            Arrival::Numbers(reply) => self.numbers_for.push(reply),
        }
    }

    fn input(&mut self, input: Input) {
        if let Input::SocketClosed { socket } = &input {
            self.outboxes.remove(socket);
        }
        self.gateway.handle_input(self.clock.now(), input);
    }

    /// Takes over what a former control left, before anything else.
    pub fn restore(&mut self, entries: Vec<JournalEntry>) {
        for registrar in entries.iter().filter_map(JournalEntry::registrar_by_datagrams) {
            self.adapters.sip.resume_keep_alives(registrar);
        }
        self.gateway.set_wall_clock(self.clock.wall_at_start());
        self.gateway.restore(self.clock.now(), entries);
        self.adapters.journal.replace(self.gateway.journal_all());
    }

    /// A journal that lost lines gets everything again when it has room for that, with a pause in between for the calls.
    fn catch_up(&mut self) {
        if self.adapters.journal.wants_everything() && self.clock.now().since(self.caught_up) >= CATCH_UP_PAUSE {
            self.adapters.journal.replace(self.gateway.journal_all());
            self.caught_up = self.clock.now();
        }
    }

    /// Writes down what has changed and sends what is to be sent, in this order, until nothing is left to do.
    async fn drain(&mut self) {
        loop {
            self.gather();
            if self.held.is_empty() {
                return;
            }
            self.adapters.journal.settled().await;
            while let Some(output) = self.held.pop_front() {
                self.output(output);
            }
        }
    }

    /// Hands lines to the journal, asks what tells the world nothing of a call, and holds the rest.
    fn gather(&mut self) {
        loop {
            while let Some(output) = self.gateway.poll_output() {
                let leaves = !matches!(
                    output,
                    Output::Journal(_) | Output::Ask { what: Ask::Authorize(_) | Ask::Resolve { .. }, .. }
                );
                if leaves {
                    self.held.push_back(output);
                } else {
                    self.output(output);
                }
            }
            let Some(input) = self.pending.pop_front() else { return };
            self.input(input);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::SocketSend { socket, message } => {
                if let Some(outbox) = self.outboxes.get(&socket)
                    && outbox.send(schema::encode(&message)).is_err()
                {
                    // Its queue is full: the browser does not read. The adapter tells SocketClosed.
                    tracing::warn!(socket = socket.0, "websocket does not read: closed");
                    self.outboxes.remove(&socket);
                }
            }
            Output::SocketClose { socket, code } => {
                if let Some(outbox) = self.outboxes.remove(&socket) {
                    outbox.close(code);
                }
            }
            Output::RestReply { request, reply } => {
                if let Some(waiting) = self.rest.remove(&request) {
                    let _ = waiting.send(reply);
                }
            }
            Output::SipTransmit(transmit) => {
                let (transport, remote, flow) = (transmit.transport, transmit.remote, transmit.flow);
                if self.adapters.sip.send(transmit).is_err() {
                    self.pending.push_back(Input::SipFailed { transport, remote, flow });
                }
            }
            Output::Relay { id, request } => {
                if let Err(error) = self.adapters.relay.request(request, ReplyTo::Core(id)) {
                    self.pending.push_back(Input::RelayReply { id, result: Err(error) });
                }
            }
            Output::Ask { ask, deadline, what } => self.ask(ask, deadline, what),
            Output::Journal(entry) => self.adapters.journal.append(entry),
        }
    }

    fn ask(&mut self, ask: AskId, deadline: Time, what: Ask) {
        match what {
            // The first adapter says yes; REST hooks and a token store come in here.
            Ask::Authorize(_) => self.pending.push_back(Input::Answer { ask, answer: Answer::Authorized }),
            Ask::Resolve { host, port, transport } => {
                if let Some(answer) = self.adapters.resolver.literal(&host, port, transport) {
                    self.pending.push_back(Input::Answer { ask, answer });
                    return;
                }
                let handle = self.handle.clone();
                let resolver = self.adapters.resolver.clone();
                let until = self.clock.instant(deadline);
                tokio::spawn(async move {
                    let answer = resolver.look_up(&host, port, transport, until).await;
                    handle.deliver(Input::Answer { ask, answer }).await;
                });
            }
            Ask::AllocateRelay { relay, program } => {
                if let Err(error) = self.adapters.relay.allocate(relay, program, ask) {
                    self.pending.push_back(Input::Answer { ask, answer: Answer::NotAllocated(error) });
                }
            }
        }
    }
}

async fn sleep_until(wake: Option<tokio::time::Instant>) {
    match wake {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "hub/tests.rs"]
mod tests;
