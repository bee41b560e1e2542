//! The non-INVITE client transaction, RFC 3261 section 17.1.2: timers E, F and K.

use gangway_shared::time::Time;

use super::{Backoff, Expiry, Timers, Transaction, earliest, is_due};
use crate::sip::message::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// What to do with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it to the user.
    Deliver,
    /// A repeat: drop it.
    Absorb,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Client {
    state: State,
    reliable: bool,
    timers: Timers,
    timer_e: Option<Backoff>,
    timer_f: Option<Time>,
    timer_k: Option<Time>,
}

impl Client {
    /// The request was sent at `now`.
    #[must_use]
    pub fn new(now: Time, reliable: bool, timers: &Timers) -> Self {
        Client {
            state: State::Trying,
            reliable,
            timers: *timers,
            timer_e: (!reliable).then(|| Backoff::new(now, timers.t1, timers.t2)),
            timer_f: Some(now + timers.f),
            timer_k: None,
        }
    }

    /// A response arrived.
    pub fn handle_response(&mut self, now: Time, status: Status) -> Verdict {
        match self.state {
            State::Trying | State::Proceeding if status.is_final() => {
                self.state = if self.reliable { State::Terminated } else { State::Completed };
                (self.timer_e, self.timer_f) = (None, None);
                self.timer_k = (!self.reliable).then(|| now + self.timers.t4);
                Verdict::Deliver
            }
            State::Trying | State::Proceeding => {
                self.state = State::Proceeding;
                if let Some(timer_e) = &mut self.timer_e {
                    timer_e.at_limit();
                }
                Verdict::Deliver
            }
            State::Completed | State::Terminated => Verdict::Absorb,
        }
    }

    /// Nothing was heard from the peer yet.
    #[must_use]
    pub fn is_trying(&self) -> bool {
        self.state == State::Trying
    }

    fn end(&mut self) {
        self.state = State::Terminated;
        (self.timer_e, self.timer_f, self.timer_k) = (None, None, None);
    }
}

impl Transaction for Client {
    fn handle_timeout(&mut self, now: Time) -> Option<Expiry> {
        if is_due(self.timer_f, now) {
            self.end();
            return Some(Expiry::TimedOut);
        }
        if is_due(self.timer_k, now) {
            self.end();
            return Some(Expiry::Terminated);
        }
        self.timer_e.as_mut().is_some_and(|timer_e| timer_e.fire(now)).then_some(Expiry::Retransmit)
    }

    fn poll_timeout(&self) -> Option<Time> {
        earliest([self.timer_e.map(|timer_e| timer_e.due()), self.timer_f, self.timer_k])
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }
}
