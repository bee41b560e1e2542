//! The four transaction machines of RFC 3261 section 17, with the Accepted states of RFC 6026.

use std::time::Duration;

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
