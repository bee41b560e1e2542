//! The INVITE client transaction, RFC 3261 section 17.1.1 and RFC 6026: timers A, B, D and M.

use std::time::Duration;

use gangway_shared::time::Time;

use super::{Backoff, Expiry, Timers, Transaction, earliest, is_due};
use crate::sip::message::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Calling,
    Proceeding,
    Completed,
    Accepted,
    Terminated,
}

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it to the user. A 2xx is handed over each time it comes: the user repeats its ACK.
    Deliver,
    /// Acknowledge it and hand it to the user.
    DeliverAndAck,
    /// A repeated final answer: acknowledge it again.
    Ack,
    /// Drop it.
    Absorb,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct ClientInvite {
    state: State,
    reliable: bool,
    timers: Timers,
    timer_a: Option<Backoff>,
    timer_b: Option<Time>,
    timer_d: Option<Time>,
    timer_m: Option<Time>,
}

impl ClientInvite {
    /// The INVITE was sent at `now`.
    #[must_use]
    pub fn new(now: Time, reliable: bool, timers: &Timers) -> Self {
        ClientInvite {
            state: State::Calling,
            reliable,
            timers: *timers,
            // A doubles without limit until B ends it.
            timer_a: (!reliable).then(|| Backoff::new(now, timers.t1, Duration::MAX)),
            timer_b: Some(now + timers.b),
            timer_d: None,
            timer_m: None,
        }
    }

    /// An INVITE that an earlier life of the program sent and that was not finally answered.
    #[must_use]
    pub const fn restored(reliable: bool, timers: &Timers) -> Self {
        ClientInvite {
            state: State::Proceeding,
            reliable,
            timers: *timers,
            timer_a: None,
            timer_b: None,
            timer_d: None,
            timer_m: None,
        }
    }

    /// A response arrived.
    pub fn handle_response(&mut self, now: Time, status: Status) -> Verdict {
        match self.state {
            State::Calling | State::Proceeding => {
                (self.timer_a, self.timer_b) = (None, None);
                if status.is_provisional() {
                    self.state = State::Proceeding;
                    Verdict::Deliver
                } else if status.is_success() {
                    self.state = State::Accepted;
                    self.timer_m = Some(now + self.timers.m);
                    Verdict::Deliver
                } else {
                    self.state = if self.reliable { State::Terminated } else { State::Completed };
                    self.timer_d = (!self.reliable).then(|| now + self.timers.d);
                    Verdict::DeliverAndAck
                }
            }
            State::Completed if status.is_final() && !status.is_success() => Verdict::Ack,
            State::Accepted if status.is_success() => Verdict::Deliver,
            State::Completed | State::Accepted | State::Terminated => Verdict::Absorb,
        }
    }

    /// Nothing was heard from the peer yet.
    #[must_use]
    pub fn is_calling(&self) -> bool {
        self.state == State::Calling
    }

    fn end(&mut self) {
        self.state = State::Terminated;
        (self.timer_a, self.timer_b, self.timer_d, self.timer_m) = (None, None, None, None);
    }
}

impl Transaction for ClientInvite {
    fn handle_timeout(&mut self, now: Time) -> Option<Expiry> {
        if is_due(self.timer_b, now) {
            self.end();
            return Some(Expiry::TimedOut);
        }
        if is_due(self.timer_d, now) || is_due(self.timer_m, now) {
            self.end();
            return Some(Expiry::Terminated);
        }
        self.timer_a.as_mut().is_some_and(|timer_a| timer_a.fire(now)).then_some(Expiry::Retransmit)
    }

    fn poll_timeout(&self) -> Option<Time> {
        earliest([self.timer_a.map(|timer_a| timer_a.due()), self.timer_b, self.timer_d, self.timer_m])
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }

    fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }
}
