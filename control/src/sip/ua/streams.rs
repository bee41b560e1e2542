//! Peers that took no connection when a request was too long for a datagram.

use std::{collections::BTreeMap, net::SocketAddr};

use gangway_shared::time::Time;

/// Most peers remembered: carriers have dozens of targets. Beyond, the one that would be forgotten first makes room.
const PEERS_MAX: usize = 256;

/// Until when each of them gets long requests by UDP at once (RFC 3261 section 18.1.1 would try the stream each time).
#[derive(Debug, Default)]
pub(super) struct NoStreams(BTreeMap<SocketAddr, Time>);

impl NoStreams {
    /// This peer took none; it is tried again at `until`.
    pub(super) fn note(&mut self, until: Time, peer: SocketAddr) {
        if self.0.len() >= PEERS_MAX
            && !self.0.contains_key(&peer)
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            self.0.remove(&first);
        }
        self.0.insert(peer, until);
    }

    /// Whether this peer's time is not over.
    pub(super) fn is_noted(&self, now: Time, peer: SocketAddr) -> bool {
        self.0.get(&peer).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_peer_is_remembered_until_its_time_and_the_first_to_go_makes_room() {
        let mut peers = NoStreams::default();
        peers.note(Time::from_millis(10), peer(1));
        assert!(peers.is_noted(Time::from_millis(9), peer(1)) && !peers.is_noted(Time::from_millis(10), peer(1)));
        for port in 2..=PEERS_MAX as u16 + 1 {
            peers.note(Time::from_millis(20 + u64::from(port)), peer(port));
        }
        assert_eq!(peers.0.len(), PEERS_MAX);
        let now = Time::from_millis(1);
        assert!(!peers.is_noted(now, peer(1)) && peers.is_noted(now, peer(2)));
        peers.note(Time::from_millis(500), peer(2));
        peers.note(Time::from_millis(400), peer(9_999));
        assert!(peers.is_noted(now, peer(2)) && !peers.is_noted(now, peer(3)), "what was noted again stays");
    }
}
