//! Questions to the keeper: pairs of ports for programs, and how many ports there are. Nothing waits for it but what was asked for.

use std::{collections::VecDeque, io, time::Duration};

use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::{ErrorCode, RelayError, RelayProgram},
    time::Time,
};

use super::{
    Manager,
    programs::Prepared,
    requests::{Asker, Pending},
};
use crate::{
    keeper::{FromKeeper, HandedPair},
    ports::PortCounts,
    registry::Digest,
    worker::{Command, Put},
};

/// How long a question waits for its answer. The keeper answers within some 100 us; one that is stopped costs the requests that
/// need a new pair, and no others.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A program that goes to its worker when it has its ports.
pub(super) struct Waiting {
    pub(super) asker: Asker,
    pub(super) relay: RelayId,
    pub(super) generation: Generation,
    pub(super) digest: Digest,
    pub(super) worker: u16,
    pub(super) program: RelayProgram,
    pub(super) prepared: Prepared,
    /// The relay was in force when the request came.
    pub(super) is_update: bool,
}

/// Questions that were asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Until when they wait, by token. In order of time.
    until: VecDeque<(Time, u64)>,
    /// The last counts that came.
    pub(super) counts: PortCounts,
}

impl Manager {
    /// Asks for the pairs that a program lacks; it goes on at once when it lacks none.
    pub(super) fn ask_for_pairs(&mut self, now: Time, waiting: Waiting) {
        let waits = !waiting.prepared.wanted.is_empty();
        let token = self.remember(Pending::Ports(Box::new(waiting)));
        if waits {
            self.asked.until.push_back((now + ANSWER_WITHIN, token));
        }
        self.ask_for_next_pair(now, token);
    }

    /// One after the other, so that a refusal leaves no pair on the way.
    fn ask_for_next_pair(&mut self, now: Time, token: u64) {
        let Some(Pending::Ports(waiting)) = self.pending.get_mut(&token) else { return };
        match waiting.prepared.wanted.pop_front() {
            Some(on) => self.ports.ask_pair(token, waiting.worker, on),
            None => {
                let worker = waiting.worker;
                match self.room_at(worker) {
                    Ok(()) => self.go_to_worker(token),
                    Err(full) => self.give_up_program(now, token, full),
                }
            }
        }
    }

    /// Asks how many ports there are, for the gathering under this token.
    pub(super) fn ask_for_counts(&mut self, now: Time, token: u64) {
        self.ports.ask_counts(token);
        self.asked.until.push_back((now + ANSWER_WITHIN, token));
    }

    fn go_to_worker(&mut self, token: u64) {
        let Some(Pending::Ports(waiting)) = self.pending.remove(&token) else { return };
        let Waiting { asker, relay, generation, digest, worker, program, prepared, is_update } = *waiting;
        let (legs, fresh) = prepared.complete();
        let put = Put { relay, generation, digest, program, legs };
        let pending = Pending::Put { asker, relay, generation, digest, worker, fresh, is_update };
        self.pending.insert(token, pending);
        self.workers[usize::from(worker)].send(Command::Put { token, put });
    }

    /// Does what the keeper wants, and goes on with what waited for it.
    pub(super) fn read_keeper(&mut self, now: Time) -> io::Result<()> {
        while let Some(said) = self.ports.poll() {
            match said {
                FromKeeper::Pair { token, pair } => self.take_pair(now, token, pair),
                FromKeeper::Counts { token, counts } => {
                    self.asked.counts = counts;
                    self.counted(token);
                }
                FromKeeper::Drain { until } => {
                    tracing::info!(relays = self.registry.len(), "draining: no new relays");
                    self.drain();
                    self.leave_by = Some(until);
                    self.next_tick = now;
                }
                FromKeeper::Leave => self.is_leaving = true,
            }
        }
        if self.ports.is_closed() { Err(io::Error::other("the keeper is gone")) } else { Ok(()) }
    }

    fn take_pair(&mut self, now: Time, token: u64, pair: Result<HandedPair, RelayError>) {
        match (self.pending.get_mut(&token), pair) {
            (Some(Pending::Ports(waiting)), Ok(pair)) => {
                waiting.prepared.take_pair(pair);
                self.ask_for_next_pair(now, token);
            }
            (Some(Pending::Ports(_)), Err(error)) => self.give_up_program(now, token, error),
            // Nobody waits for it any more.
            (_, Ok(pair)) => {
                let lease = pair.facts.lease;
                drop(pair);
                self.ports.release(lease);
            }
            (_, Err(_)) => {}
        }
    }

    /// The program under this token gets no ports, or finds no room at its worker.
    fn give_up_program(&mut self, now: Time, token: u64, mut error: RelayError) {
        let Some(Pending::Ports(waiting)) = self.pending.remove(&token) else { return };
        let Waiting { asker, relay, prepared, .. } = *waiting;
        if let Some(at) = prepared.first_without() {
            error.field = format!("program.legs[{at}]");
        }
        self.ports.forget(token);
        prepared.discard(&mut self.ports);
        self.refuse(asker, error);
        self.go_on(now, relay);
    }

    /// When the oldest question has waited long enough.
    pub(super) fn answer_due(&self) -> Option<Time> {
        self.asked.until.front().map(|(until, _)| *until)
    }

    /// Goes on without answers that did not come in time. Questions that were answered are forgotten here too.
    pub(super) fn stop_waiting_for_keeper(&mut self, now: Time) {
        let mut given_up = 0;
        while let Some(&(until, token)) = self.asked.until.front() {
            let wants_ports = matches!(self.pending.get(&token), Some(Pending::Ports(_)));
            let wants_counts = matches!(self.pending.get(&token), Some(Pending::Gather(gather)) if gather.wants_counts);
            if (wants_ports || wants_counts) && until > now {
                break;
            }
            self.asked.until.pop_front();
            if wants_ports {
                let reason = "the keeper did not open a port pair in time";
                self.give_up_program(now, token, RelayError::new(ErrorCode::Internal, "", reason));
            } else if wants_counts {
                self.ports.forget(token);
                self.counted(token);
            }
            given_up += usize::from(wants_ports || wants_counts);
        }
        if given_up > 0 {
            tracing::error!(given_up, "the keeper does not answer");
        }
    }
}
