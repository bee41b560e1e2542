//! Deadlines of the core: set, cleared and found in order, each at most once.

use std::collections::{BTreeMap, BTreeSet};

use gangway_shared::time::Time;

use super::{
    call::CallKey,
    effects::{AskId, SocketId},
    session::SessionKey,
};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The socket has not sent `connection`.
    Hello(SocketId),
    /// The next `ping`.
    Ping(SocketId),
    /// Nobody answered the ask.
    Ask(AskId),
    /// The session's registration: refresh or another attempt.
    Register(SessionKey),
    /// The session's former token ends.
    OldToken(SessionKey),
    /// A departed session's credentials are no longer needed.
    Linger(SessionKey),
    /// A `Delete` or a `List` was refused: look for what nobody owns.
    Relist,
    /// Relays that nobody owns have had their grace.
    Orphans,
    /// Look for detached sessions that are too old.
    Sweep,
    /// A call's patience.
    Call(CallKey, CallTimer),
}

/// The deadlines of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CallTimer {
    /// An incoming call rings too long, or our INVITE or re-INVITE has no final answer.
    Answer,
    /// A re-INVITE of ours met one of the peer's: it is sent again (RFC 3261 section 14.1).
    Glare,
    /// The browser has a description and no keys yet.
    Path,
    /// The relay has not answered a `Put`.
    Put,
    /// The browser's DTLS is closed; its `hangup` may be on its way.
    Closed,
}

/// Deadlines by what is due and by when.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<Timer, Time>,
    order: BTreeSet<(Time, Timer)>,
}

impl Timers {
    /// Sets a deadline in place of its former one.
    pub(super) fn set(&mut self, timer: Timer, at: Time) {
        self.clear(timer);
        self.due.insert(timer, at);
        self.order.insert((at, timer));
    }

    /// Clears a deadline if there is one.
    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.due.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// When it is due, if it is set.
    pub(super) fn due(&self, timer: Timer) -> Option<Time> {
        self.due.get(&timer).copied()
    }

    /// Whether it is set.
    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.due.contains_key(&timer)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest deadline that is not after `now`.
    pub(super) fn expire(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }

    /// Every timer that is set.
    pub(super) fn iter(&self) -> impl Iterator<Item = Timer> {
        self.due.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_again_fires_once_at_the_later_time() {
        let mut timers = Timers::default();
        timers.set(Timer::Sweep, Time::from_millis(1));
        timers.set(Timer::Sweep, Time::from_millis(2));
        assert_eq!(timers.expire(Time::from_millis(1)), None);
        assert_eq!(timers.next(), Some(Time::from_millis(2)));
        assert_eq!(timers.expire(Time::from_millis(2)), Some(Timer::Sweep));
        assert_eq!(timers.expire(Time::from_millis(9)), None);
    }
}
