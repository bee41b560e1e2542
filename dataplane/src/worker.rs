//! The hot loop: receive batch -> relays -> send batch -> mailbox -> timers.
//!
//! A worker owns its engine, its arena and every relay in it; nobody else touches them. The manager talks to it by mailbox. A
//! panic costs one worker, and that for a moment: it takes its relays back from the arena and goes on.

mod messages;
mod output;
mod recovery;
mod rest;

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{ErrorCode, RelayError},
    time::{Time, WallTime},
};

use messages::InHand;
#[cfg(test)]
use messages::PutStage;
pub use messages::{Command, KeptPair, LegSource, Put, Report};
use output::{Beside, Free, Generated, Post};
use rest::Rests;

use crate::{
    arena::Arena,
    engine::{BATCH_MAX, Batch, Completion, Engine, OpenError, Outgoing},
    mailbox::{Receiver, Sender},
    registry::Digest,
    relay::{Installed, LegLocal, LegSetup, Now, Output, PortId, RelayConfig, RelaySetup, Relays, Verdict},
    stats::LoopCounters,
    stats_map::StatsPage,
    wire::Packet,
};

/// A report that the manager had no room for is tried again after so long.
const BACKLOG_RETRY: Duration = Duration::from_millis(5);

/// What is due by the clock waits until so long after what was due before it: thousands of streams of our own are a few packets in each of
/// thousands of rounds, and not a round for each packet.
const TIMER_ROUND: Duration = Duration::from_micros(500);

/// Commands worked off in one round, so that packets are not kept waiting.
const COMMANDS_PER_ROUND: usize = 64;

/// Of so many pairs towards SIP peers one has its packets' receive times told: enough for a histogram, and too few to cost.
const STAMPED_OF: u32 = 64;

/// A worker that has something to tell writes its counters for whoever maps them after so long.
const PUBLISH_AFTER: Duration = Duration::from_secs(1);

/// See the module text.
pub struct Worker<E: Engine> {
    engine: E,
    /// Taken out only while it is rebuilt.
    relays: Option<Relays>,
    config: RelayConfig,
    inbox: Receiver<Command<E::Socket>>,
    post: Post,
    batch: Batch,
    generated: Generated,
    /// When the round began that is under way, or the last one.
    now: Now,
    counters: LoopCounters,
    /// Nothing that is due by the clock is waited for before this.
    timers_from: Time,
    /// Receive times of the packets that this round forwards from stamped ports.
    stamps: Vec<WallTime>,
    /// Pairs opened so far.
    pairs: u32,
    /// Where the kernel leaves this thread a share of its core only.
    rests: Option<Rests>,
    /// Where others read the counters, and when they are written next.
    page: Option<StatsPage>,
    publish_at: Option<Time>,
    /// Ports of each relay's legs; also the list of relays there are.
    ports: BTreeMap<RelayId, Vec<LegPorts>>,
    /// The command that is being worked off.
    in_hand: Option<InHand>,
    #[cfg(test)]
    fails_at: Option<PutStage>,
}

#[derive(Clone, Copy, Debug)]
struct LegPorts {
    leg: LegId,
    rtp: PortId,
    rtcp: PortId,
    lease: u64,
}

impl<E: Engine> Worker<E> {
    /// A worker with the browser ports of `config.mux_ports` opened by the caller on `engine`.
    #[must_use]
    pub fn new(
        engine: E,
        arena: Arena,
        config: RelayConfig,
        inbox: Receiver<Command<E::Socket>>,
        outbox: Sender<Report>,
    ) -> Self {
        let relays = Relays::new(arena, config.clone());
        Self::with(engine, relays, config, inbox, Post { outbox, backlog: VecDeque::new() })
    }

    /// A worker on the arena of a process that is gone, with `pairs` of its legs; reports what it found. `blame` says that the
    /// process failed by itself.
    ///
    /// # Panics
    /// When the engine has given the browser ports other numbers than the first ones, which are those they had.
    #[must_use]
    pub fn adopt(
        mut engine: E,
        arena: Arena,
        config: RelayConfig,
        inbox: Receiver<Command<E::Socket>>,
        outbox: Sender<Report>,
        (pairs, blame): (Vec<KeptPair<E::Socket>>, bool),
    ) -> Self {
        assert!(
            config.mux_ports.iter().zip(0..).all(|(port, number)| port.0 == number),
            "browser ports are opened first"
        );
        let mut post = Post { outbox, backlog: VecDeque::new() };
        let mut opened = BTreeMap::new();
        for KeptPair { lease, rtp, rtcp } in pairs {
            match open_pair(&mut engine, rtp, rtcp) {
                Ok((rtp, rtcp)) => {
                    // The socket counts from its beginning; the process before has told most of that.
                    for port in [rtp, rtcp] {
                        engine.take_lost(port);
                    }
                    opened.insert(lease, (rtp, rtcp));
                }
                Err(error) => tracing::error!(lease, %error, "a pair of ports could not be taken over"),
            }
        }
        let now = engine.now();
        let mut out = Free { engine: &mut engine, post: &mut post };
        let everything = arena.relay_ids();
        let again = arena.fd().try_clone_to_owned();
        let adopted = catch_unwind(AssertUnwindSafe(|| {
            let (relays, lost) = Relays::adopt(arena, config.clone(), now, &opened, blame, &mut out);
            (relays.adopted(), relays, lost)
        }));
        let (found, relays, lost) = adopted.unwrap_or_else(|_| {
            // The other workers' relays must not go with these.
            tracing::error!(worker = config.worker, "the arena could not be taken over; its relays are lost");
            (Vec::new(), Relays::new(recovery::emptied(again), config.clone()), everything)
        });
        post.post(Report::Adopted { relays: found.clone(), lost });
        let mut worker = Self::with(engine, relays, config, inbox, post);
        opened.values().for_each(|(rtp, _)| stamp_some(&mut worker.engine, &mut worker.pairs, *rtp));
        for relay in found {
            let relays = worker.relays.as_ref().expect("relays are out only during recovery");
            let legs = relays.ports_of(relay.relay).map(|(leg, lease, rtp, rtcp)| LegPorts { leg, rtp, rtcp, lease });
            worker.ports.insert(relay.relay, legs.collect());
        }
        worker.close_unnamed();
        worker
    }

    fn with(
        mut engine: E,
        relays: Relays,
        config: RelayConfig,
        inbox: Receiver<Command<E::Socket>>,
        post: Post,
    ) -> Self {
        config.mux_ports.iter().for_each(|port| engine.stamp(*port));
        let now = engine.now();
        Worker {
            engine,
            relays: Some(relays),
            config,
            inbox,
            post,
            batch: Batch::new(),
            generated: Generated::new(),
            now,
            counters: LoopCounters::default(),
            timers_from: Time::ZERO,
            stamps: Vec::with_capacity(BATCH_MAX),
            pairs: 0,
            rests: None,
            page: None,
            publish_at: None,
            ports: BTreeMap::new(),
            in_hand: None,
            #[cfg(test)]
            fails_at: None,
        }
    }

    /// Writes its counters there too, a second after they changed.
    #[must_use]
    pub fn with_stats(self, page: StatsPage) -> Self {
        Worker { page: Some(page), ..self }
    }

    /// Stands back from its core for moments, as far as it uses more than this share of it, from 0 to 1; for a thread that
    /// [goes first](crate::affinity::go_first).
    #[must_use]
    pub fn within(self, share: f64) -> Self {
        Worker { rests: Some(Rests::new(share)), ..self }
    }

    /// Works until the manager closes its mailbox.
    pub fn run(mut self) {
        let worker = self.config.worker;
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| while self.turn() {})) {
            let cause = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(worker, cause = cause.unwrap_or("?"), "the worker panicked; it takes its relays back");
            self.recover();
        }
    }

    /// One round; false when the worker is to stop: its mailbox is closed, and what still waits in it is of no use to anybody.
    ///
    /// # Panics
    /// When the relay core does; [`run`](Self::run) recovers.
    pub fn turn(&mut self) -> bool {
        let relays = self.relays.as_mut().expect("relays are out only during recovery");
        let due = relays.next_deadline().map(|at| at.max(self.timers_from));
        let retry = (!self.post.backlog.is_empty()).then_some(self.now.mono + BACKLOG_RETRY);
        let mail = (!self.inbox.is_empty()).then_some(Time::ZERO);
        let deadline = [due, retry, mail, self.publish_at].into_iter().flatten().min();
        self.engine.receive(deadline, &mut self.batch);
        let now = self.engine.now();
        self.now = now;
        let (mut is_batch, is_news) = (false, !self.batch.is_empty());
        for completion in self.batch.drain() {
            match completion {
                Completion::Received { port, from, buffer, start, len, received_at } => {
                    is_batch = true;
                    let mut packet = Packet::new(self.engine.buffer(buffer), start, len);
                    let mut out = Beside { generated: &mut self.generated, post: &mut self.post };
                    let verdict = relays.on_datagram(now, port, from, &mut packet, &mut out);
                    let (start, len) = (packet.start(), packet.len());
                    // What goes before a packet leaves before it.
                    self.generated.send(&mut self.engine, relays);
                    for (port, peer) in self.generated.heard.drain(..) {
                        self.engine.connect(port, peer);
                    }
                    match verdict {
                        Verdict::Forward { port, to } => {
                            self.engine.send(Outgoing { port, to, buffer, start, len });
                            self.stamps.extend(received_at.filter(|_| self.stamps.len() < BATCH_MAX));
                        }
                        Verdict::Consumed | Verdict::Drop(_) => self.engine.recycle(buffer),
                    }
                }
                Completion::Failed { reason, .. } => relays.count_drop(reason),
                Completion::Lost { port, count } => relays.count_lost(port, count),
                Completion::Woken => {}
            }
        }
        if relays.next_deadline().is_some_and(|at| at <= now.mono) {
            relays.on_timer(now, &mut Free { engine: &mut self.engine, post: &mut self.post });
            self.timers_from = now.mono + TIMER_ROUND;
        }
        self.read_mail(now);
        self.engine.flush();
        self.counters.batches += u64::from(is_batch);
        if !self.stamps.is_empty() {
            let sent_at = self.engine.now().wall;
            self.stamps.drain(..).for_each(|at| self.counters.latency.note(sent_at.since(at)));
        }
        self.publish(is_news);
        self.post.flush();
        if let Some(rest) = self.rests.as_mut().and_then(|rests| rests.due(now.mono, || self.engine.cpu_time())) {
            self.engine.rest(rest);
        }
        !self.inbox.is_closed()
    }

    /// Writes the counters when it is time, and sets that time when there is news.
    fn publish(&mut self, is_news: bool) {
        let (Some(page), Some(relays)) = (&mut self.page, &self.relays) else { return };
        if self.publish_at.is_some_and(|at| at <= self.now.mono) {
            self.publish_at = None;
            let own = (self.engine.cpu_time(), self.engine.counters());
            page.write(self.now.wall, relays.len() as u64, relays.counters(), &self.counters, own);
        } else if is_news && self.publish_at.is_none() {
            self.publish_at = Some(self.now.mono + PUBLISH_AFTER);
        }
    }

    fn read_mail(&mut self, now: Now) {
        for _ in 0..COMMANDS_PER_ROUND {
            let Some(command) = self.inbox.receive() else { break };
            self.in_hand = command.in_hand();
            let relays = self.relays.as_mut().expect("relays are out only during recovery");
            let mut out = Free { engine: &mut self.engine, post: &mut self.post };
            match command {
                Command::Put { token, put } => {
                    let result = self.put(now, put);
                    self.post.post(Report::Put { token, result });
                }
                Command::Remove { token, relay } => {
                    count_lost(out.engine, relays, self.ports.get(&relay));
                    relays.remove(relay, &mut out);
                    for leg in self.ports.remove(&relay).into_iter().flatten() {
                        close(&mut self.engine, leg);
                    }
                    self.post.post(Report::Removed { token });
                }
                Command::Keys { leg, keys } => {
                    relays.install_keys(now, leg, &keys, &mut out);
                }
                Command::Doubt { leg } => relays.doubt_consent(now, leg),
                Command::Send { port, to, datagram } => {
                    out.transmit(port, to, |buffer| {
                        let Some(room) = buffer.get_mut(..datagram.len()) else { return 0 };
                        room.copy_from_slice(&datagram);
                        datagram.len()
                    });
                }
                Command::Keyframe { token, relay, leg, action_id } => {
                    relays.note_action(relay, action_id);
                    let asked = relays.request_keyframe(now, relay, leg, &mut out);
                    self.post.post(Report::Keyframe { token, asked });
                }
                Command::Digits { relay, leg, digits } => relays.play_digits(now, relay, leg, digits, &mut out),
                Command::QueryRelay { token, relay } => {
                    count_lost(out.engine, relays, self.ports.get(&relay));
                    let stats = relays.stats(relay).map(Box::new);
                    self.post.post(Report::Relay { token, stats });
                }
                Command::QueryWorker { token } => {
                    for &port in &self.config.mux_ports {
                        relays.count_lost(port, self.engine.take_lost(port));
                    }
                    let stats =
                        self.counters.complete(relays.worker_stats(), self.engine.cpu_time(), self.engine.counters());
                    let flows = relays.flows().collect();
                    self.post.post(Report::Worker { token, stats: Box::new(stats), flows });
                }
                #[cfg(test)]
                Command::Crash { .. } => panic!("a test wants this worker to fail"),
            }
            self.in_hand = None;
        }
    }

    /// Opens the ports of new legs, puts the relay, and closes the ports of legs that are gone; or the new ones when it is refused.
    fn put(&mut self, now: Now, mut put: Put<E::Socket>) -> Result<Installed, RelayError> {
        let before = self.ports.get(&put.relay).cloned().unwrap_or_default();
        let mut after = Vec::new();
        let mut fresh = Vec::new();
        let mut legs = Vec::new();
        let mut refused = None;
        for (id, source) in std::mem::take(&mut put.legs) {
            let ports =
                match source {
                    LegSource::IceDtls(credentials) => {
                        legs.push(LegSetup { id, local: LegLocal::IceDtls { credentials } });
                        continue;
                    }
                    LegSource::Open { rtp, rtcp, lease } => {
                        self.open(id, rtp, rtcp, lease).inspect(|ports| fresh.push(*ports))
                    }
                    LegSource::Kept => before.iter().copied().find(|ports| ports.leg == id).ok_or_else(|| {
                        RelayError::new(ErrorCode::Internal, "", format!("leg {id} has no ports to keep"))
                    }),
                };
            match ports {
                Ok(ports) => {
                    legs.push(LegSetup {
                        id,
                        local: LegLocal::Rtp { rtp: ports.rtp, rtcp: ports.rtcp, lease: ports.lease },
                    });
                    after.push(ports);
                }
                Err(error) => refused = Some(error),
            }
        }
        let Put { relay, generation, digest: Digest(digest), program, .. } = put;
        let setup = RelaySetup { relay, generation, digest, program, legs };
        #[cfg(test)]
        assert_ne!(self.fails_at, Some(PutStage::Opened), "a test wants this worker to fail");
        let relays = self.relays.as_mut().expect("relays are out only during recovery");
        let mut out = Free { engine: &mut self.engine, post: &mut self.post };
        let result = refused.map_or_else(|| relays.put(now, &setup, &mut out), Err);
        #[cfg(test)]
        assert_ne!(self.fails_at, Some(PutStage::Applied), "a test wants this worker to fail");
        let unused = match &result {
            Ok(_) => {
                let kept = |old: &LegPorts| after.iter().any(|new| new.rtp == old.rtp);
                let gone = before.into_iter().filter(|old| !kept(old)).collect();
                self.ports.insert(put.relay, after);
                gone
            }
            Err(_) => fresh,
        };
        unused.into_iter().for_each(|leg| close(&mut self.engine, leg));
        result
    }

    fn open(&mut self, leg: LegId, rtp: E::Socket, rtcp: E::Socket, lease: u64) -> Result<LegPorts, RelayError> {
        let refuse = |error: OpenError| RelayError::new(ErrorCode::Full, "", error.to_string());
        let (rtp, rtcp) = open_pair(&mut self.engine, rtp, rtcp).map_err(refuse)?;
        stamp_some(&mut self.engine, &mut self.pairs, rtp);
        Ok(LegPorts { leg, rtp, rtcp, lease })
    }
}

/// Counts what a relay's ports lost and the engine has not told yet.
fn count_lost<E: Engine>(engine: &mut E, relays: &mut Relays, ports: Option<&Vec<LegPorts>>) {
    for port in ports.into_iter().flatten().flat_map(|leg| [leg.rtp, leg.rtcp]) {
        relays.count_lost(port, engine.take_lost(port));
    }
}

/// One pair in so many is stamped.
fn stamp_some<E: Engine>(engine: &mut E, pairs: &mut u32, rtp: PortId) {
    if pairs.is_multiple_of(STAMPED_OF) {
        engine.stamp(rtp);
    }
    *pairs = pairs.wrapping_add(1);
}

fn open_pair<E: Engine>(engine: &mut E, rtp: E::Socket, rtcp: E::Socket) -> Result<(PortId, PortId), OpenError> {
    let rtp = engine.open(rtp)?;
    match engine.open(rtcp) {
        Ok(rtcp) => Ok((rtp, rtcp)),
        Err(error) => {
            engine.close(rtp);
            Err(error)
        }
    }
}

fn close<E: Engine>(engine: &mut E, leg: LegPorts) {
    // What was sent by these ports in this round, such as an RTCP BYE, leaves first.
    engine.flush();
    drop(engine.close(leg.rtp));
    drop(engine.close(leg.rtcp));
}

#[cfg(test)]
mod tests;
