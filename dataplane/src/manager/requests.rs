//! Requests of control, from the message to the answer.
//!
//! A worker's part of a request is asked for by mailbox and remembered under a token. While a relay has one in flight, further
//! requests that change it wait their turn, so that their order is kept.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use gangway_shared::{
    ids::{EventSeq, Generation, LegId, RelayId},
    rcp::{
        ActAction, ControlMessage, DataplaneMessage, DtmfDigits, ErrorCode, Event, Hello, NodeStats, PROTOCOL,
        RelayError, RelayProgram, Reply, Request, WorkerStats,
    },
    time::Time,
};

use super::{
    Manager,
    asked::Waiting,
    programs::{Fresh, Known, Record, prepare},
};
use crate::{
    dtls::LegKey,
    registry::{Digest, PutDecision},
    relay::{DIGITS_MAX, DURATION_MS, Digits, LegHandle, event_of},
    stats,
    wire::DropReason,
    worker::{Command, Report},
};

/// Requests that wait for another one of the same relay.
const WAITING_MAX: usize = 8;

/// Whom to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    connection: usize,
    id: u64,
}

/// A request that waits for an answer.
pub(super) enum Pending {
    /// Not in the hands of a worker yet: the keeper is asked for ports.
    Ports(Box<Waiting>),
    Put {
        asker: Asker,
        relay: RelayId,
        generation: Generation,
        digest: Digest,
        worker: u16,
        fresh: Fresh,
        /// The relay was in force when the request was sent to its worker.
        is_update: bool,
    },
    /// Without asker: an orphan, or one that control knows to be gone.
    Remove {
        asker: Option<Asker>,
        relay: RelayId,
        /// Workers that have not answered.
        missing: usize,
    },
    Keyframe {
        relay: RelayId,
        action_id: u64,
    },
    Relay {
        asker: Asker,
    },
    Gather(Gather),
}

/// A question to all workers.
pub(super) struct Gather {
    purpose: Purpose,
    missing: usize,
    /// The keeper has not said how many ports there are.
    pub(super) wants_counts: bool,
    workers: Vec<WorkerStats>,
}

#[derive(Clone, Copy)]
enum Purpose {
    List { asker: Asker, after: Option<RelayId>, limit: u16 },
    Node { asker: Asker, from_worker: u16 },
    Leases,
}

/// Relays with a change in flight, and the requests that wait for it.
#[derive(Default)]
pub(super) struct Busy {
    waiting: BTreeMap<RelayId, VecDeque<(Asker, Request)>>,
    /// Requests in all queues.
    len: usize,
}

impl Busy {
    pub(super) fn is_busy(&self, relay: RelayId) -> bool {
        self.waiting.contains_key(&relay)
    }

    /// A change is in flight; what waits for the one before it waits on.
    fn begin(&mut self, relay: RelayId) {
        self.waiting.entry(relay).or_default();
    }

    /// The change is done; what waited for it.
    fn end(&mut self, relay: RelayId) -> VecDeque<(Asker, Request)> {
        let waited = self.waiting.remove(&relay).unwrap_or_default();
        self.len -= waited.len();
        waited
    }

    /// Another change is in flight before these had their turn.
    fn wait_on(&mut self, relay: RelayId, requests: VecDeque<(Asker, Request)>) {
        self.len += requests.len();
        self.waiting.entry(relay).or_default().extend(requests);
    }

    /// Nobody is left to be answered, and a newer control may want something else.
    pub(super) fn forget_connection(&mut self, connection: usize) {
        for waiting in self.waiting.values_mut() {
            waiting.retain(|(asker, _)| asker.connection != connection);
        }
        self.len = self.waiting.values().map(VecDeque::len).sum();
    }
}

impl Manager {
    pub(super) fn handle_message(&mut self, now: Time, at: usize, message: ControlMessage) {
        match message {
            ControlMessage::Hello(hello) => self.handle_hello(now, at, &hello),
            ControlMessage::Request { id, request } => {
                let asker = Asker { connection: at, id };
                if self.living == Some(at) {
                    self.handle_request(now, asker, request);
                } else {
                    self.refuse(asker, RelayError::new(ErrorCode::Invalid, "type", "say hello first"));
                }
            }
        }
    }

    /// The newest control of the highest epoch is obeyed; the one before it is closed first.
    fn handle_hello(&mut self, now: Time, at: usize, hello: &Hello) {
        let asker = Asker { connection: at, id: 0 };
        let accepted = if hello.protocol == PROTOCOL {
            self.registry.control_came(hello.epoch)
        } else {
            let reason = format!("protocol {} is not spoken, {PROTOCOL} is", hello.protocol);
            Err(RelayError::new(ErrorCode::Unsupported, "protocol", reason))
        };
        if let Err(error) = accepted {
            tracing::warn!(connection = at, %error, "a control was refused");
            self.refuse(asker, error);
            if let Some(mut connection) = self.connections.remove(&at) {
                let _ = connection.flush();
                self.close_connection(now, at, connection);
            }
            return;
        }
        if let Some(former) = self.living.take_if(|former| *former != at)
            && let Some(connection) = self.connections.remove(&former)
        {
            tracing::info!(connection = former, "the former control's connection is closed");
            self.close_connection(now, former, connection);
        }
        self.facts.note_epoch(self.registry.epoch());
        let newest = self.log.newest();
        let seen = match &hello.resume_from {
            Some((instance, seq)) if *instance == self.instance => *seq,
            // Events of another run are gone: from the future, so that a gap is announced.
            Some(_) => EventSeq(u64::MAX),
            None => newest,
        };
        if let Some(connection) = self.connections.get_mut(&at) {
            connection.greeted = true;
            connection.seen = seen;
        }
        self.living = Some(at);
        tracing::info!(connection = at, epoch = hello.epoch, instance = %hello.instance, "a control is here");
    }

    /// Takes a request in: refuses what is too much, and lets what changes a busy relay wait.
    fn handle_request(&mut self, now: Time, asker: Asker, request: Request) {
        if self.pending.len() + self.busy.len >= self.config.requests_max {
            let reason = format!("{} requests are in flight", self.config.requests_max);
            return self.refuse(asker, RelayError::new(ErrorCode::Full, "", reason));
        }
        if let Request::Put { relay, .. } | Request::Delete { relay } = &request
            && let Some(waiting) = self.busy.waiting.get_mut(relay)
        {
            if waiting.len() < WAITING_MAX {
                waiting.push_back((asker, request));
                self.busy.len += 1;
                return;
            }
            let reason = format!("{WAITING_MAX} requests wait for this relay");
            return self.refuse(asker, RelayError::new(ErrorCode::Full, "relay", reason));
        }
        self.start_request(now, asker, request);
    }

    fn start_request(&mut self, now: Time, asker: Asker, request: Request) {
        match request {
            Request::Put { relay, generation, program } => self.put(now, asker, relay, generation, program),
            Request::Delete { relay } => self.remove(relay, Some(asker)),
            Request::List { after, limit } => self.gather_for(now, asker, Purpose::List { asker, after, limit }),
            Request::Query { relay: Some(relay), .. } => match self.relays.get(&relay) {
                Some(record) => {
                    let worker = record.worker;
                    if let Err(full) = self.room_at(worker) {
                        return self.refuse(asker, full);
                    }
                    let token = self.remember(Pending::Relay { asker });
                    self.workers[usize::from(worker)].send(Command::QueryRelay { token, relay });
                }
                None => self.refuse(asker, not_found(relay)),
            },
            Request::Query { relay: None, from_worker } => {
                self.gather_for(now, asker, Purpose::Node { asker, from_worker });
            }
            Request::Act { relay, action_id, action } => self.act(asker, relay, action_id, &action),
            Request::Drain => {
                self.drain();
                self.answer(asker, Reply::Drain);
            }
            Request::Ping => self.answer(asker, Reply::Ping),
        }
    }

    fn put(&mut self, now: Time, asker: Asker, relay: RelayId, generation: Generation, program: RelayProgram) {
        let (digest, owner) = match self.registry.decide_put(relay, generation, &program) {
            PutDecision::Repeat => return self.answer_put(asker, relay),
            PutDecision::Refuse(error) => return self.refuse(asker, error),
            PutDecision::Apply { digest, worker } => (digest, worker),
        };
        let worker = owner.unwrap_or_else(|| self.least_loaded());
        let before = self.relays.get(&relay);
        let is_update = before.is_some();
        let prepared = match prepare(&self.ports, before, &program) {
            Ok(prepared) => prepared,
            Err(error) => return self.refuse(asker, error),
        };
        self.busy.begin(relay);
        let waiting = Waiting { asker, relay, generation, digest, worker, program, prepared, is_update };
        self.ask_for_pairs(now, waiting);
    }

    fn least_loaded(&self) -> u16 {
        let mut load = self.registry.load(self.workers.len());
        for pending in self.pending.values() {
            let (relay, worker) = match pending {
                Pending::Put { relay, worker, .. } => (relay, *worker),
                Pending::Ports(waiting) => (&waiting.relay, waiting.worker),
                _ => continue,
            };
            if !self.relays.contains_key(relay) {
                load[usize::from(worker)] += 1;
            }
        }
        let least = load.iter().enumerate().min_by_key(|&(_, load)| load).map_or(0, |(worker, _)| worker);
        u16::try_from(least).expect("at most 64 workers")
    }

    /// Ends a relay that no change is in flight for. One that is in no record is looked for by every worker: what this thread
    /// does not know of must not live on for ever.
    pub(super) fn remove(&mut self, relay: RelayId, asker: Option<Asker>) {
        let workers = match self.relays.get(&relay) {
            Some(record) => usize::from(record.worker)..usize::from(record.worker) + 1,
            None => 0..self.workers.len(),
        };
        let token = self.remember(Pending::Remove { asker, relay, missing: workers.len() });
        self.busy.begin(relay);
        for worker in &mut self.workers[workers] {
            worker.send(Command::Remove { token, relay });
        }
    }

    fn act(&mut self, asker: Asker, relay: RelayId, action_id: u64, action: &ActAction) {
        let Some(record) = self.relays.get(&relay) else { return self.refuse(asker, not_found(relay)) };
        let (ActAction::Keyframe { leg } | ActAction::Dtmf { leg, .. }) = *action;
        let digits = match action {
            ActAction::Keyframe { .. } => None,
            ActAction::Dtmf { digits, duration_ms, .. } => match digits_of(action_id, digits, *duration_ms) {
                Ok(digits) => Some(digits),
                Err(error) => return self.refuse(asker, error),
            },
        };
        if record.handles.iter().all(|(id, _)| *id != leg) {
            let error = RelayError::new(ErrorCode::NotFound, "action.leg", format!("the relay has no leg {leg}"));
            return self.refuse(asker, error);
        }
        let worker = record.worker;
        if let Err(full) = self.room_at(worker) {
            return self.refuse(asker, full);
        }
        let Some(record) = self.relays.get_mut(&relay) else { return self.refuse(asker, not_found(relay)) };
        let known = record.note_action(action_id);
        if known == Known::Not {
            let command = match digits {
                Some(digits) => Command::Digits { relay, leg, digits },
                None => {
                    let token = self.remember(Pending::Keyframe { relay, action_id });
                    Command::Keyframe { token, relay, leg, action_id }
                }
            };
            self.workers[usize::from(worker)].send(command);
        }
        self.answer(asker, Reply::Act);
        if known == Known::BegunBefore {
            let reason = "it was begun by a process that is gone, and is not done again";
            let error = Some(RelayError::new(ErrorCode::Internal, "action_id", reason));
            self.log.push(Event::ActDone { relay, action_id, error });
        }
    }

    pub(super) fn gather_for_leases(&mut self, now: Time) {
        let is_asked = |pending: &Pending| matches!(pending, Pending::Gather(Gather { purpose: Purpose::Leases, .. }));
        if !self.pending.values().any(is_asked) {
            self.gather(now, Purpose::Leases);
        }
    }

    /// Whether a command that may be refused finds room in a worker's mailbox. The end of a relay is never refused.
    ///
    /// # Errors
    /// `full`.
    pub(super) fn room_at(&self, worker: u16) -> Result<(), RelayError> {
        if self.workers[usize::from(worker)].has_room() {
            return Ok(());
        }
        let reason = format!("{} messages wait for worker {worker}", self.config.mailbox_max);
        Err(RelayError::new(ErrorCode::Full, "", reason))
    }

    fn gather_for(&mut self, now: Time, asker: Asker, purpose: Purpose) {
        let workers = u16::try_from(self.workers.len()).expect("at most 64 workers");
        match (0..workers).try_for_each(|worker| self.room_at(worker)) {
            Ok(()) => self.gather(now, purpose),
            Err(full) => self.refuse(asker, full),
        }
    }

    fn gather(&mut self, now: Time, purpose: Purpose) {
        let wants_counts = matches!(purpose, Purpose::Node { .. });
        let gather = Gather { purpose, missing: self.workers.len(), wants_counts, workers: Vec::new() };
        let token = self.remember(Pending::Gather(gather));
        if wants_counts {
            self.ask_for_counts(now, token);
        }
        for worker in &mut self.workers {
            worker.send(Command::QueryWorker { token });
        }
    }

    pub(super) fn remember(&mut self, pending: Pending) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, pending);
        token
    }

    /// A worker answered.
    pub(super) fn handle_answer(&mut self, now: Time, worker: u16, report: Report) {
        match report {
            Report::Put { token, result } => {
                let Some(Pending::Put { asker, relay, generation, digest, fresh, is_update, .. }) =
                    self.pending.remove(&token)
                else {
                    return;
                };
                match result {
                    Ok(installed) => {
                        let before = self.relays.remove(&relay);
                        let is_from_the_dead = is_update && before.is_none();
                        if let Some(before) = &before {
                            self.forget_legs(worker, &before.handles, &installed.legs);
                        }
                        for &(id, leg) in &installed.legs {
                            self.legs.insert(LegKey { worker, leg }, (relay, id));
                        }
                        let record = Record::commit(&mut self.ports, before, fresh, worker, generation, installed.legs);
                        self.relays.insert(relay, record);
                        if is_from_the_dead {
                            // Its worker gave it up while the update was on its way, and control was told so.
                            let reason = "the relay ended while it was changed";
                            self.refuse(asker, RelayError::new(ErrorCode::Internal, "relay", reason));
                            return self.remove(relay, None);
                        }
                        self.registry.commit(now, relay, generation, digest, worker);
                        self.answer_put(asker, relay);
                    }
                    Err(error) => {
                        fresh.discard(&mut self.ports);
                        self.refuse(asker, error);
                    }
                }
                self.go_on(now, relay);
            }
            Report::Removed { token } => self.removed(now, token),
            Report::Keyframe { token, asked } => {
                let Some(Pending::Keyframe { relay, action_id }) = self.pending.remove(&token) else { return };
                let reason = "the leg's peer cannot be asked now";
                let error = (!asked).then(|| RelayError::new(ErrorCode::NotFound, "action.leg", reason));
                self.log.push(Event::ActDone { relay, action_id, error });
            }
            Report::Relay { token, stats } => {
                let Some(Pending::Relay { asker }) = self.pending.remove(&token) else { return };
                match stats {
                    Some(stats) => self.answer(asker, Reply::QueryRelay(*stats)),
                    None => {
                        let error = RelayError::new(ErrorCode::NotFound, "relay", "the relay has just gone");
                        self.refuse(asker, error);
                    }
                }
            }
            Report::Worker { token, stats, flows } => {
                for flow in flows {
                    self.registry.note_flow(now, flow.relay, flow.forwarded);
                }
                self.gathered(token, Some(*stats));
            }
            Report::Failed { token } => self.fail(now, worker, token),
            Report::Adopted { .. } | Report::Event(_) | Report::DtlsPath { .. } | Report::Dtls { .. } => {
                unreachable!("no answers to requests")
            }
        }
    }

    /// One worker answered a question to all, or never will.
    fn gathered(&mut self, token: u64, stats: Option<WorkerStats>) {
        let Some(Pending::Gather(gather)) = self.pending.get_mut(&token) else { return };
        gather.workers.extend(stats);
        gather.missing -= 1;
        self.conclude(token);
    }

    /// The keeper said how many ports there are, or does not in time: then the last counts are told.
    pub(super) fn counted(&mut self, token: u64) {
        let Some(Pending::Gather(gather)) = self.pending.get_mut(&token) else { return };
        gather.wants_counts = false;
        self.conclude(token);
    }

    /// Answers a question to all when nothing is missing any more.
    fn conclude(&mut self, token: u64) {
        let is_whole = |gather: &Gather| gather.missing == 0 && !gather.wants_counts;
        if !matches!(self.pending.get(&token), Some(Pending::Gather(gather)) if is_whole(gather)) {
            return;
        }
        let Some(Pending::Gather(Gather { purpose, mut workers, .. })) = self.pending.remove(&token) else { return };
        workers.sort_by_key(|stats| stats.worker);
        match purpose {
            Purpose::Leases => {}
            Purpose::List { asker, after, limit } => {
                let (relays, more) = self.registry.list(after, limit);
                self.answer(asker, Reply::List { relays, more });
            }
            Purpose::Node { asker, from_worker } => {
                workers.retain(|stats| stats.worker >= from_worker);
                let more_workers = workers.len() > NodeStats::WORKERS_PAGE;
                workers.truncate(NodeStats::WORKERS_PAGE);
                let ports = self.asked.counts;
                let filtered = (DropReason::DtlsFiltered.name().to_owned(), self.handshakes.filtered());
                let unsent = (DropReason::MailboxFull.name().to_owned(), self.unsent);
                let refused = self.refused.iter().map(|(code, count)| (refusal_name(*code).to_owned(), *count));
                let stats = NodeStats {
                    drop_reasons: stats::drop_reasons(),
                    latency_bounds_us: stats::latency_bounds_us(),
                    workers,
                    more_workers,
                    relays: self.registry.len() as u64,
                    media_ports_used: ports.used,
                    media_ports_quarantined: ports.quarantined,
                    media_ports_total: ports.total,
                    dtls_handshakes: self.handshakes.in_progress(),
                    drops: refused.chain([filtered, unsent]).collect(),
                    draining: self.registry.is_draining(),
                };
                self.answer(asker, Reply::QueryNode(stats));
            }
        }
    }

    /// One of the workers that were asked to end a relay has none of it any more.
    fn removed(&mut self, now: Time, token: u64) {
        let Some(Pending::Remove { missing, .. }) = self.pending.get_mut(&token) else { return };
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let Some(Pending::Remove { asker, relay, .. }) = self.pending.remove(&token) else { return };
        self.forget(now, relay);
        if let Some(asker) = asker {
            self.answer(asker, Reply::Delete);
        }
        self.go_on(now, relay);
    }

    /// A change of a relay is done: what waited for it has its turn, until something changes the relay again.
    pub(super) fn go_on(&mut self, now: Time, relay: RelayId) {
        let mut waiting = self.busy.end(relay);
        while let Some((asker, request)) = waiting.pop_front() {
            self.start_request(now, asker, request);
            if self.busy.is_busy(relay) {
                return self.busy.wait_on(relay, waiting);
            }
        }
    }

    /// The worker failed with this request in hand.
    fn fail(&mut self, now: Time, worker: u16, token: u64) {
        let error = RelayError::new(ErrorCode::Internal, "", format!("worker {worker} failed and was started again"));
        match self.pending.remove(&token) {
            Some(Pending::Put { asker, relay, fresh, .. }) => {
                fresh.discard(&mut self.ports);
                self.refuse(asker, error);
                self.go_on(now, relay);
            }
            Some(remove @ Pending::Remove { .. }) => {
                self.pending.insert(token, remove);
                self.removed(now, token);
            }
            Some(Pending::Keyframe { relay, action_id }) => {
                self.log.push(Event::ActDone { relay, action_id, error: Some(error) });
            }
            Some(Pending::Relay { asker }) => self.refuse(asker, error),
            Some(gather @ Pending::Gather(_)) => {
                self.pending.insert(token, gather);
                self.gathered(token, None);
            }
            // No worker has it yet.
            Some(waiting @ Pending::Ports(_)) => drop(self.pending.insert(token, waiting)),
            None => {}
        }
    }

    /// The relay is gone: everything that was its goes back.
    pub(super) fn forget(&mut self, now: Time, relay: RelayId) {
        self.registry.forget(now, relay);
        let Some(record) = self.relays.remove(&relay) else { return };
        self.forget_legs(record.worker, &record.handles, &[]);
        record.release(&mut self.ports);
    }

    /// Legs that are gone: nobody asks whose they were, and their sessions go.
    fn forget_legs(&mut self, worker: u16, handles: &[(LegId, LegHandle)], kept: &[(LegId, LegHandle)]) {
        for &(_, leg) in handles.iter().filter(|&&(_, leg)| kept.iter().all(|&(_, other)| other != leg)) {
            let key = LegKey { worker, leg };
            self.legs.remove(&key);
            self.handshakes.remove(key);
        }
    }

    fn answer_put(&mut self, asker: Asker, relay: RelayId) {
        let Some(record) = self.relays.get(&relay) else { return self.refuse(asker, not_found(relay)) };
        let candidates = &self.workers[usize::from(record.worker)].webrtc;
        let reply = record.reply(relay, candidates, self.certificate.fingerprint());
        self.answer(asker, Reply::Put(reply));
    }

    fn answer(&mut self, asker: Asker, reply: Reply) {
        self.push(asker, &DataplaneMessage::Ok { id: asker.id, reply });
    }

    pub(super) fn refuse(&mut self, asker: Asker, error: RelayError) {
        if let Some(count) = self.refused.get_mut(&error.code) {
            *count += 1;
        }
        self.push(asker, &DataplaneMessage::Error { id: asker.id, error });
    }

    /// A connection that went in between gets nothing.
    fn push(&mut self, asker: Asker, message: &DataplaneMessage) {
        if let Some(connection) = self.connections.get_mut(&asker.connection) {
            connection.push(message);
        }
    }
}

/// Refusals for want of room, which are counted, by their names in `NodeStats::drops`.
pub(super) const COUNTED_REFUSALS: [ErrorCode; 3] = [ErrorCode::Full, ErrorCode::NoPorts, ErrorCode::Draining];

fn refusal_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Full => "request_full",
        ErrorCode::NoPorts => "request_no_ports",
        _ => "request_draining",
    }
}

/// Digits as a worker takes them.
fn digits_of(action_id: u64, digits: &DtmfDigits, duration_ms: u16) -> Result<Digits, RelayError> {
    let invalid = |field: &str, reason: String| RelayError::new(ErrorCode::Invalid, field, reason);
    let events: Option<VecDeque<u8>> = digits.0.chars().map(event_of).collect();
    let events = events.filter(|events| (1..=DIGITS_MAX).contains(&events.len()));
    let reason = || format!("1 to {DIGITS_MAX} of 0-9, *, #, A-D and ! are allowed");
    let events = events.ok_or_else(|| invalid("action.digits", reason()))?;
    if !DURATION_MS.contains(&duration_ms) {
        let reason = format!("{} to {} are allowed", DURATION_MS.start(), DURATION_MS.end());
        return Err(invalid("action.duration_ms", reason));
    }
    Ok(Digits { action_id, events, duration: Duration::from_millis(duration_ms.into()) })
}

fn not_found(relay: RelayId) -> RelayError {
    RelayError::new(ErrorCode::NotFound, "relay", format!("there is no relay {relay}"))
}
