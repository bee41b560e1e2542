//! The INVITE server transaction, RFC 3261 section 17.2.1 and RFC 6026: timers G, H, I and L.

use gangway_shared::time::Time;

use super::{Backoff, Expiry, Timers, Transaction, earliest, is_due};
use crate::sip::message::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Proceeding,
    Completed,
    Confirmed,
    Accepted,
    Terminated,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct ServerInvite {
    state: State,
    reliable: bool,
    timers: Timers,
    timer_g: Option<Backoff>,
    timer_h: Option<Time>,
    timer_i: Option<Time>,
    timer_l: Option<Time>,
}

impl ServerInvite {
    /// The INVITE has arrived.
    #[must_use]
    pub const fn new(reliable: bool, timers: &Timers) -> Self {
        ServerInvite {
            state: State::Proceeding,
            reliable,
            timers: *timers,
            timer_g: None,
            timer_h: None,
            timer_i: None,
            timer_l: None,
        }
    }

    /// The user answers. False when it already did so finally: nothing is to be sent.
    pub fn handle_answer(&mut self, now: Time, status: Status) -> bool {
        if !self.is_pending() {
            return false;
        }
        if status.is_success() {
            self.state = State::Accepted;
            self.timer_l = Some(now + self.timers.l);
        } else if status.is_final() {
            self.state = State::Completed;
            self.timer_g = (!self.reliable).then(|| Backoff::new(now, self.timers.t1, self.timers.t2));
            self.timer_h = Some(now + self.timers.h);
        }
        true
    }

    /// The INVITE arrived again: whether to send the last answer again. Accepted absorbs it (RFC 6026 section 7.1): there the user
    /// repeats its 2xx by its own clock.
    #[must_use]
    pub fn repeats_answer(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed)
    }

    /// An ACK arrived for this transaction: true when it is the one for our 300-699 and goes no further.
    pub fn handle_ack(&mut self, now: Time) -> bool {
        match self.state {
            State::Completed => {
                self.state = if self.reliable { State::Terminated } else { State::Confirmed };
                (self.timer_g, self.timer_h) = (None, None);
                self.timer_i = (!self.reliable).then(|| now + self.timers.t4);
                true
            }
            State::Confirmed | State::Terminated => true,
            State::Proceeding | State::Accepted => false,
        }
    }

    /// Stops timer G: a source that nobody vouches for gets its answer once.
    pub const fn stop_repeating(&mut self) {
        self.timer_g = None;
    }

    /// A 2xx was sent.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.state == State::Accepted
    }

    fn end(&mut self) {
        self.state = State::Terminated;
        (self.timer_g, self.timer_h, self.timer_i, self.timer_l) = (None, None, None, None);
    }
}

impl Transaction for ServerInvite {
    fn handle_timeout(&mut self, now: Time) -> Option<Expiry> {
        if is_due(self.timer_h, now) {
            self.end();
            return Some(Expiry::TimedOut);
        }
        if is_due(self.timer_i, now) || is_due(self.timer_l, now) {
            self.end();
            return Some(Expiry::Terminated);
        }
        self.timer_g.as_mut().is_some_and(|timer_g| timer_g.fire(now)).then_some(Expiry::Retransmit)
    }

    fn poll_timeout(&self) -> Option<Time> {
        earliest([self.timer_g.map(|timer_g| timer_g.due()), self.timer_h, self.timer_i, self.timer_l])
    }

    fn is_pending(&self) -> bool {
        self.state == State::Proceeding
    }

    fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }
}
