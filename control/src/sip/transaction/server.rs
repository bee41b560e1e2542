//! The non-INVITE server transaction, RFC 3261 section 17.2.2: timer J.

use gangway_shared::time::Time;

use super::{Expiry, Timers, Transaction, is_due};
use crate::sip::message::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    Terminated,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Server {
    state: State,
    reliable: bool,
    timers: Timers,
    timer_j: Option<Time>,
}

impl Server {
    /// The request has arrived.
    #[must_use]
    pub const fn new(reliable: bool, timers: &Timers) -> Self {
        Server { state: State::Trying, reliable, timers: *timers, timer_j: None }
    }

    /// The user answers. False when it already did so finally: nothing is to be sent.
    pub fn handle_answer(&mut self, now: Time, status: Status) -> bool {
        if !self.is_pending() {
            return false;
        }
        if status.is_provisional() {
            self.state = State::Proceeding;
        } else {
            self.state = if self.reliable { State::Terminated } else { State::Completed };
            self.timer_j = (!self.reliable).then(|| now + self.timers.j);
        }
        true
    }

    /// The request arrived again: whether to send the last answer again.
    #[must_use]
    pub fn repeats_answer(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }
}

impl Transaction for Server {
    fn handle_timeout(&mut self, now: Time) -> Option<Expiry> {
        is_due(self.timer_j, now).then(|| {
            self.timer_j = None;
            self.state = State::Terminated;
            Expiry::Terminated
        })
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.timer_j
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }
}
