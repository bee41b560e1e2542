//! Until when a test waits. Every wait of the harness has one, so that a test that hangs says what it waited for.

#![allow(clippy::disallowed_methods, reason = "the harness runs against real programs in real time: it owns a clock")]

use std::time::{Duration, Instant};

/// A point in time after which waiting is given up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline that is `after` from now.
    pub fn after(after: Duration) -> Self {
        Self(Instant::now() + after)
    }

    /// The deadline that is so many seconds from now.
    pub fn seconds(seconds: u64) -> Self {
        Self::after(Duration::from_secs(seconds))
    }

    /// What is left; `None` when it is over.
    pub fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.left().is_none()
    }

    /// Calls `probe` every 20 ms until it has a value. It polls because what is waited for lies in other programs (a counter behind
    /// HTTP, a line in a phone's log, a row of a registrar, a process that ends), and none of them tells when it changes.
    ///
    /// # Panics
    /// When the deadline passes first, naming `what` was waited for.
    #[track_caller]
    pub fn poll<T>(self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(value) = probe() {
                return value;
            }
            match self.left() {
                Some(left) => pause(left.min(Duration::from_millis(20))),
                None => panic!("waited in vain for {what}"),
            }
        }
    }
}

/// Lets `duration` pass: between two polls, and where a test must show that something does *not* happen meanwhile.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
