//! The four transaction machines of RFC 3261 section 17, with the Accepted states of RFC 6026.
//!
//! A machine holds states and timers only; the agent holds the messages and does what a machine says.

use std::time::Duration;

use gangway_shared::time::Time;

pub mod client;
pub mod client_invite;
pub mod key;
pub mod server;
pub mod server_invite;

/// What a machine wants after one of its timers fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Send the last message again (timers A, E, G).
    Retransmit,
    /// Tell the user that nothing came (timers B, F, H); the transaction is over.
    TimedOut,
    /// The transaction is over (timers D, I, J, K, L, M).
    Terminated,
}

/// What the four machines have in common.
pub trait Transaction {
    /// Runs one timer that is due; call again until `None`.
    fn handle_timeout(&mut self, now: Time) -> Option<Expiry>;

    /// The next timer.
    fn poll_timeout(&self) -> Option<Time>;

    /// No final answer yet: none received, or none given.
    fn is_pending(&self) -> bool;

    /// The machine is done.
    fn is_terminated(&self) -> bool;
}

/// The machine of an INVITE, or that of another request.
#[derive(Clone, Debug)]
pub enum ByMethod<I, O> {
    /// Of an INVITE.
    Invite(I),
    /// Of another request.
    Other(O),
}

impl<I: Transaction, O: Transaction> ByMethod<I, O> {
    fn machine(&self) -> &dyn Transaction {
        match self {
            ByMethod::Invite(machine) => machine,
            ByMethod::Other(machine) => machine,
        }
    }

    fn machine_mut(&mut self) -> &mut dyn Transaction {
        match self {
            ByMethod::Invite(machine) => machine,
            ByMethod::Other(machine) => machine,
        }
    }
}

impl<I: Transaction, O: Transaction> Transaction for ByMethod<I, O> {
    fn handle_timeout(&mut self, now: Time) -> Option<Expiry> {
        self.machine_mut().handle_timeout(now)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.machine().poll_timeout()
    }

    fn is_pending(&self) -> bool {
        self.machine().is_pending()
    }

    fn is_terminated(&self) -> bool {
        self.machine().is_terminated()
    }
}

/// A timer that doubles from one interval up to a limit: A, E and G, and the repetition of 2xx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backoff {
    due: Time,
    interval: Duration,
    limit: Duration,
}

impl Backoff {
    /// First due `interval` from `now`.
    pub(super) fn new(now: Time, interval: Duration, limit: Duration) -> Self {
        Backoff { due: now + interval, interval, limit }
    }

    pub(super) const fn due(&self) -> Time {
        self.due
    }

    /// When due: sets the next time and tells so. A clock that jumped costs one repetition, not a burst.
    pub(super) fn fire(&mut self, now: Time) -> bool {
        if now < self.due {
            return false;
        }
        self.interval = self.interval.saturating_mul(2).min(self.limit);
        self.due = (self.due + self.interval).max(now);
        true
    }

    /// From now on at the limit's interval, as E does after a provisional answer.
    pub(super) const fn at_limit(&mut self) {
        self.interval = self.limit;
    }
}

/// The earliest of some deadlines.
fn earliest<const N: usize>(deadlines: [Option<Time>; N]) -> Option<Time> {
    deadlines.into_iter().flatten().min()
}

fn is_due(deadline: Option<Time>, now: Time) -> bool {
    deadline.is_some_and(|due| due <= now)
}

/// Every transaction timer by the name RFC 3261 gives it (table 4 in its appendix A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Round-trip estimate: first interval of A, E and G. 500 ms.
    pub t1: Duration,
    /// Largest interval of E and G. 4 s.
    pub t2: Duration,
    /// Longest life of a message in the network: I and K. 5 s.
    pub t4: Duration,
    /// INVITE client gives up: 64*T1.
    pub b: Duration,
    /// INVITE client keeps answering repeated finals, unreliable transports: over 32 s.
    pub d: Duration,
    /// Non-INVITE client gives up: 64*T1.
    pub f: Duration,
    /// INVITE server gives up waiting for ACK: 64*T1.
    pub h: Duration,
    /// Non-INVITE server keeps answering repeats, unreliable transports: 64*T1.
    pub j: Duration,
    /// INVITE server stays Accepted, RFC 6026: 64*T1.
    pub l: Duration,
    /// INVITE client stays Accepted, RFC 6026: 64*T1.
    pub m: Duration,
}

impl Timers {
    /// All timers for a round trip of `t1`, in the proportions of RFC 3261.
    #[must_use]
    pub const fn from_t1(t1: Duration) -> Self {
        let long = t1.saturating_mul(64);
        Timers {
            t1,
            t2: t1.saturating_mul(8),
            t4: t1.saturating_mul(10),
            b: long,
            d: long,
            f: long,
            h: long,
            j: long,
            l: long,
            m: long,
        }
    }
}

impl Default for Timers {
    fn default() -> Self {
        Timers::from_t1(Duration::from_millis(500))
    }
}

#[cfg(test)]
mod tests;
