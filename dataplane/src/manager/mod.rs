//! The one cold thread: control socket, registry, port pairs, DTLS, events, and the mailboxes of the workers.
//!
//! It never touches a media packet. Nothing in it waits: one poll, then everything that is there, then the next poll.

mod asked;
mod connections;
pub mod entropy;
mod programs;
mod requests;
mod start;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{SocketAddr, UdpSocket},
    thread::JoinHandle,
    time::Duration,
};

use gangway_shared::{
    ids::{EventSeq, LegId, RelayId},
    rcp::{DataplaneMessage, ErrorCode, Event, Hello, PROTOCOL, ReapReason, RelayError},
    time::Time,
};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use self::{
    asked::Asked,
    connections::{Connection, Ended},
    programs::Record,
    requests::{Busy, Pending},
};
use crate::{
    config::Config,
    dtls::{Action, Certificate, Handshakes, LegKey, Path},
    engine::clock,
    events::{EventLog, Next},
    keeper::{KeptFacts, Link, PairFacts},
    mailbox::{Receiver, Sender},
    registry::{CAPABILITIES, Digest, Registry},
    relay::{Adopted, PortId},
    sandbox,
    stats_map::StatsMap,
    worker::{Command, Report},
};

pub use start::{Running, StartError, adopt, publish_stats, start};

const LISTENER: Token = Token(0);
const WAKE: Token = Token(1);
const KEEPER: Token = Token(2);
const FIRST_CONNECTION: usize = 16;

/// Connections that may be open: the living control, its successor, and a few that are refused politely.
const CONNECTIONS_MAX: usize = 8;

/// A connection that has not said hello by then is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Events kept for a control that comes back.
const EVENTS_MAX: usize = 16_384;

/// How often leases of orphans and the reasons to leave are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Messages of one connection or worker that are worked off before others have their turn.
const TURN_MAX: usize = 256;

/// Readiness events taken from the kernel in one wait.
const POLL_EVENTS: usize = 64;

/// The manager's end of a worker.
struct WorkerLink {
    commands: Sender<Command<UdpSocket>>,
    reports: Receiver<Report>,
    /// Commands that must not be lost and did not fit the mailbox: ends of relays, bounded by the requests in flight, and what handshakes
    /// and leases want, bounded by the legs.
    backlog: VecDeque<Command<UdpSocket>>,
    thread: JoinHandle<()>,
    /// Addresses browsers reach it at.
    webrtc: Vec<SocketAddr>,
}

impl WorkerLink {
    /// Whether what may be refused finds room.
    fn has_room(&self) -> bool {
        self.backlog.is_empty() && !self.commands.is_full()
    }

    fn send(&mut self, command: Command<UdpSocket>) {
        self.backlog.push_back(command);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            if let Err(command) = self.commands.send(command) {
                self.backlog.push_front(command);
                return;
            }
        }
    }
}

/// How the program was started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Started by control: we leave when nobody needs us.
    pub managed: bool,
    /// This process is a relay and nothing else: once everything is open it gives up what it needs no more.
    pub is_confined: bool,
}

/// See the module text.
struct Manager {
    config: Config,
    mode: Mode,
    poll: Poll,
    listener: mio::net::UnixListener,
    instance: String,
    certificate: Certificate,
    registry: Registry,
    log: EventLog,
    handshakes: Handshakes,
    /// The keeper, from whom ports come.
    ports: Link,
    asked: Asked,
    facts: KeptFacts,
    /// Pairs of the process before that no relay has claimed yet.
    unclaimed: BTreeMap<u64, PairFacts>,
    /// Workers that have not told yet what they found in their arenas. Until then nobody is served.
    adopting: usize,
    /// Why this process cannot go on.
    failure: Option<io::Error>,
    workers: Vec<WorkerLink>,
    /// Others find the workers' counters by its descriptor.
    _map: Option<StatsMap>,
    relays: BTreeMap<RelayId, Record>,
    /// Whose leg a handle is, for what DTLS has to tell.
    legs: BTreeMap<LegKey, (RelayId, LegId)>,
    pending: BTreeMap<u64, Pending>,
    next_token: u64,
    busy: Busy,
    /// Requests refused for want of room.
    refused: BTreeMap<ErrorCode, u64>,
    /// Datagrams of handshakes for which a mailbox had no room.
    unsent: u64,
    connections: BTreeMap<usize, Connection>,
    next_connection: usize,
    /// The control that is obeyed.
    living: Option<usize>,
    next_tick: Time,
    /// Name of the workers' engine.
    engine: &'static str,
    /// The keeper wants us to leave when no relay is left; at the latest then, if there is a latest time.
    leave_by: Option<Option<Time>>,
    is_leaving: bool,
}

impl Manager {
    /// Works until it is time to leave. Workers end their round first, whatever happened: a relay that is in hand at the end of the
    /// process is taken for its cause.
    fn run(mut self) -> io::Result<()> {
        let ended = self.work();
        self.stop_workers();
        ended
    }

    fn work(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(POLL_EVENTS);
        let mut has_more = false;
        while !self.is_leaving {
            let wait = if has_more { Duration::ZERO } else { self.next_deadline().since(clock::now().mono) };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = clock::now().mono;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(now),
                    WAKE | KEEPER => {}
                    Token(at) => {
                        if let Some(connection) = self.connections.get_mut(&at) {
                            connection.note_readable();
                        }
                    }
                }
            }
            has_more = self.read_reports(now) | self.read_connections(now);
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            self.read_keeper(now)?;
            self.stop_waiting_for_keeper(now);
            self.handshakes.handle_timeout(now);
            self.do_dtls();
            if self.next_tick <= now {
                self.tick(now)?;
            }
            self.write_connections(now);
            self.workers.iter_mut().for_each(WorkerLink::flush);
        }
        Ok(())
    }

    fn next_deadline(&self) -> Time {
        let others = self.handshakes.next_deadline().into_iter().chain(self.answer_due());
        others.fold(self.next_tick, Time::min)
    }

    fn accept(&mut self, now: Time) {
        while self.adopting == 0 {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    return;
                }
            };
            if !connections::may_control(&stream, self.config.control_uid) {
                continue;
            }
            if self.connections.len() >= CONNECTIONS_MAX {
                tracing::warn!("a connection was closed: {CONNECTIONS_MAX} are open");
                continue;
            }
            let at = self.next_connection;
            self.next_connection += 1;
            let mut connection = Connection::new(stream, now + HELLO_TIMEOUT);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.poll.registry().register(&mut connection.stream, Token(at), interest) {
                tracing::warn!(%error, "a connection could not be watched");
                continue;
            }
            connection.push(&DataplaneMessage::Hello(self.hello()));
            self.connections.insert(at, connection);
        }
    }

    fn hello(&self) -> Hello {
        let media = match self.config.media {
            crate::ports::MediaRange::Fixed(from, to) => Some((from, to)),
            crate::ports::MediaRange::Auto => None,
        };
        Hello {
            protocol: PROTOCOL,
            instance: self.instance.clone(),
            epoch: self.registry.epoch(),
            engine: Some(self.engine.to_owned()),
            workers: Some(u16::try_from(self.workers.len()).expect("at most 64 workers")),
            capabilities: CAPABILITIES.iter().map(|&name| name.to_owned()).collect(),
            webrtc: self.workers.iter().flat_map(|worker| worker.webrtc.iter().copied()).collect(),
            media_ports: media,
            resume_from: None,
        }
    }

    /// Reads requests; true when more may wait.
    fn read_connections(&mut self, now: Time) -> bool {
        let mut has_more = false;
        for at in self.connections.keys().copied().collect::<Vec<_>>() {
            for turn in 1..=TURN_MAX {
                let Some(connection) = self.connections.get_mut(&at) else { break };
                match connection.next_message() {
                    Ok(Some(message)) => self.handle_message(now, at, message),
                    Ok(None) => break,
                    Err(ended) => self.end_connection(now, at, &ended),
                }
                has_more |= turn == TURN_MAX;
            }
        }
        has_more
    }

    /// Ends one connection. Whatever it did wrong, nothing else ends with it.
    fn end_connection(&mut self, now: Time, at: usize, ended: &Ended) {
        let Some(mut connection) = self.connections.remove(&at) else { return };
        match ended {
            Ended::ByPeer => tracing::info!(connection = at, "a control connection was closed by its peer"),
            Ended::Frame(error) => {
                tracing::warn!(connection = at, %error, "a control connection is closed");
                let error = RelayError::new(ErrorCode::Invalid, "", error.to_string());
                connection.push(&DataplaneMessage::Error { id: 0, error });
                let _ = connection.flush();
            }
            Ended::Io(error) => tracing::warn!(connection = at, %error, "a control connection broke"),
        }
        self.close_connection(now, at, connection);
    }

    fn close_connection(&mut self, now: Time, at: usize, mut connection: Connection) {
        if let Err(error) = self.poll.registry().deregister(&mut connection.stream) {
            tracing::warn!(%error, "a connection could not be taken off the poll");
        }
        self.busy.forget_connection(at);
        if self.living == Some(at) {
            self.living = None;
            self.registry.control_left(now);
        }
    }

    fn write_connections(&mut self, now: Time) {
        if let Some(connection) = self.living.and_then(|at| self.connections.get_mut(&at)) {
            while !connection.is_slow() {
                match self.log.after(connection.seen) {
                    Next::Event(seq, event) => {
                        connection.push(&DataplaneMessage::Event { seq, event: event.clone() });
                        connection.seen = seq;
                    }
                    Next::Gap(resumes_at) => {
                        connection.push(&DataplaneMessage::Gap { resumes_at });
                        connection.seen = EventSeq(resumes_at.0 - 1);
                    }
                    Next::UpToDate => break,
                }
            }
        }
        for at in self.connections.keys().copied().collect::<Vec<_>>() {
            let flushed = self.connections.get_mut(&at).map_or(Ok(()), Connection::flush);
            if let Err(ended) = flushed {
                self.end_connection(now, at, &ended);
            }
        }
    }

    /// Reads what workers tell; true when more may wait.
    fn read_reports(&mut self, now: Time) -> bool {
        let mut has_more = false;
        for worker in 0..self.workers.len() {
            for turn in 0..TURN_MAX {
                let Some(report) = self.workers[worker].reports.receive() else { break };
                let number = u16::try_from(worker).expect("at most 64 workers");
                self.handle_report(now, number, report);
                has_more |= turn == TURN_MAX - 1;
            }
        }
        has_more
    }

    fn handle_report(&mut self, now: Time, worker: u16, report: Report) {
        match report {
            Report::Adopted { relays, lost } => {
                if let Err(error) = self.take_adopted(now, worker, relays, lost) {
                    self.failure.get_or_insert(error);
                }
            }
            Report::Event(event) => self.handle_event(now, event),
            Report::DtlsPath { leg, port, from } => {
                let key = LegKey { worker, leg };
                let Some((relay, leg)) = self.legs.get(&key) else { return };
                let expected = self.relays.get(relay).map_or(&[][..], |record| record.fingerprints(*leg));
                self.handshakes.handle_path(now, key, Path { port, remote: from }, expected);
            }
            Report::Dtls { leg, port, from, datagram } => {
                let path = Path { port, remote: from };
                self.handshakes.handle_datagram(now, LegKey { worker, leg }, path, &datagram);
                self.do_dtls();
            }
            Report::Put { .. }
            | Report::Removed { .. }
            | Report::Keyframe { .. }
            | Report::Relay { .. }
            | Report::Worker { .. }
            | Report::Failed { .. } => self.handle_answer(now, worker, report),
        }
    }

    fn handle_event(&mut self, now: Time, event: Event) {
        match &event {
            Event::WorkerLost { worker, relays } => {
                tracing::error!(worker, lost = relays.len(), "a worker was started again");
                for &relay in relays {
                    self.forget(now, relay);
                }
            }
            Event::RelayReaped { relay, reason } => {
                tracing::warn!(%relay, ?reason, "a relay was ended by its worker");
                self.forget(now, *relay);
            }
            _ => {}
        }
        self.log.push(event);
    }

    /// Does what the handshakes want.
    fn do_dtls(&mut self) {
        while let Some(action) = self.handshakes.poll_action() {
            match action {
                Action::Send { leg, path, datagram } => self.send_dtls(leg, path.port, path.remote, datagram),
                Action::Keys { leg, keys } => {
                    let keys = Box::new(keys);
                    self.workers[usize::from(leg.worker)].send(Command::Keys { leg: leg.leg, keys });
                }
                Action::Doubted { leg } => {
                    self.workers[usize::from(leg.worker)].send(Command::Doubt { leg: leg.leg });
                }
                Action::Failed { leg, cause } => {
                    if let Some(&(relay, leg)) = self.legs.get(&leg) {
                        self.log.push(Event::DtlsFailed { relay, leg, cause });
                    }
                }
                Action::Closed { leg } => {
                    if let Some(&(relay, leg)) = self.legs.get(&leg) {
                        self.log.push(Event::DtlsClosed { relay, leg });
                    }
                }
            }
        }
    }

    /// A full mailbox loses the datagram, counted; the flight is sent again.
    fn send_dtls(&mut self, leg: LegKey, port: PortId, to: SocketAddr, datagram: Vec<u8>) {
        let worker = &mut self.workers[usize::from(leg.worker)];
        if worker.has_room() {
            worker.send(Command::Send { port, to, datagram });
        } else {
            self.unsent += 1;
        }
    }

    fn tick(&mut self, now: Time) -> io::Result<()> {
        self.next_tick = now + TICK;
        if self.workers.iter().any(|worker| worker.thread.is_finished()) {
            return Err(io::Error::other("a worker thread ended"));
        }
        let late: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| !connection.greeted && connection.hello_by <= now)
            .map(|(&at, _)| at)
            .collect();
        for at in late {
            if let Some(connection) = self.connections.remove(&at) {
                tracing::warn!(connection = at, "a connection said no hello and is closed");
                self.close_connection(now, at, connection);
            }
        }
        if self.living.is_none() {
            self.look_after_orphans(now);
        }
        if self.mode.managed && self.registry.may_leave(now) {
            tracing::info!("no control and no relay for dataplane_linger_s: leaving");
            self.is_leaving = true;
        }
        let is_over = |at: Option<Time>| at.is_some_and(|at| at <= now) || self.registry.is_empty();
        if self.adopting == 0 && self.leave_by.is_some_and(is_over) {
            self.is_leaving = true;
        }
        Ok(())
    }

    /// Ends relays that nobody owns; the flows asked for here decide about the next tick's.
    fn look_after_orphans(&mut self, now: Time) {
        if self.registry.is_empty() {
            return;
        }
        for relay in self.registry.orphans(now) {
            if self.busy.is_busy(relay) {
                continue;
            }
            tracing::warn!(%relay, "an orphaned relay is ended");
            self.log.push(Event::RelayReaped { relay, reason: ReapReason::Orphaned });
            self.remove(relay, None);
        }
        self.gather_for_leases(now);
    }

    /// From now on new relays are refused, by the next process too.
    fn drain(&mut self) {
        self.registry.drain();
        self.facts.note_draining();
    }

    /// A worker says what it found in its arena. When all have, the rest of what was handed over goes back, and we serve.
    fn take_adopted(&mut self, now: Time, worker: u16, relays: Vec<Adopted>, lost: Vec<RelayId>) -> io::Result<()> {
        for adopted in relays {
            let Adopted { relay, generation, digest, .. } = adopted;
            for leg in &adopted.legs {
                if let Some(peer) = leg.agreed_with {
                    self.handshakes.adopt(LegKey { worker, leg: leg.handle }, peer);
                }
            }
            let record = Record::adopt(worker, adopted, &mut self.unclaimed);
            for &(id, leg) in &record.handles {
                self.legs.insert(LegKey { worker, leg }, (relay, id));
            }
            self.relays.insert(relay, record);
            self.registry.commit(now, relay, generation, Digest(digest), worker);
        }
        if !lost.is_empty() {
            tracing::error!(worker, lost = lost.len(), "relays could not be taken over");
        }
        for lost in lost.chunks(Event::WORKER_LOST_MAX) {
            self.log.push(Event::WorkerLost { worker, relays: lost.to_vec() });
        }
        self.adopting -= 1;
        if self.adopting == 0 {
            for (lease, _) in std::mem::take(&mut self.unclaimed) {
                self.ports.release(lease);
            }
            if self.mode.is_confined {
                sandbox::confine().map_err(io::Error::other)?;
            }
            tracing::info!(relays = self.registry.len(), "serving");
            self.ports.say_serving();
            self.accept(now);
        }
        Ok(())
    }

    /// Closes the workers' mailboxes, which says it to the busiest too: a message might find no room.
    fn stop_workers(&mut self) {
        let threads: Vec<JoinHandle<()>> = self.workers.drain(..).map(|worker| worker.thread).collect();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
    }

    fn watch_keeper(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        self.poll.registry().register(
            &mut SourceFd(&self.ports.as_raw_fd()),
            KEEPER,
            Interest::READABLE | Interest::WRITABLE,
        )
    }
}

#[cfg(test)]
mod tests;
