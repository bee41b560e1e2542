//! Requests that are too long for a datagram (RFC 3261 section 18.1.1): by TCP, or shorter by UDP to peers that take no TCP.

use std::{collections::BTreeMap, net::SocketAddr};

use gangway_shared::time::Time;

use super::{SendError, Ua};
use crate::sip::{
    Transport,
    dialog::{DialogId, Target},
    message::{Method, Request},
};

/// Most peers remembered: carriers have dozens of targets. Beyond, the one that would be forgotten first makes room.
const PEERS_MAX: usize = 256;
/// Room that a Via takes, for the size check before it is there.
const VIA_BYTES: usize = 100;

/// How often a request was too long for a datagram, since the agent was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LongRequests {
    /// It went by TCP.
    pub by_tcp: u64,
    /// Its connection could not be made in time, or broke.
    pub tcp_failed: u64,
    /// It went by UDP with a shorter body.
    pub shortened: u64,
    /// It went by UDP as long as it was: it has no shorter body and is no INVITE.
    pub as_it_was: u64,
    /// It was not sent: the shortest body is too long too.
    pub refused: u64,
}

impl LongRequests {
    /// Every number with its name, for metrics.
    #[must_use]
    pub const fn each(&self) -> [(&'static str, u64); 5] {
        [
            ("tcp", self.by_tcp),
            ("tcp_failed", self.tcp_failed),
            ("shortened", self.shortened),
            ("as_it_was", self.as_it_was),
            ("refused", self.refused),
        ]
    }
}

/// Peers that took no stream, each until when.
#[derive(Debug, Default)]
pub(super) struct NoStreams(BTreeMap<SocketAddr, Time>);

impl NoStreams {
    /// This peer took none; it is tried again at `until`. RFC 3261 section 18.1.1 would try the stream each time.
    pub(super) fn note(&mut self, until: Time, peer: SocketAddr) {
        if self.0.len() >= PEERS_MAX && !self.0.contains_key(&peer) {
            let first = self.0.iter().map(|(peer, until)| (*until, *peer)).min();
            first.and_then(|(_, first)| self.0.remove(&first));
        }
        self.0.insert(peer, until);
    }

    /// Whether this peer gets no stream now.
    fn has(&self, now: Time, peer: SocketAddr) -> bool {
        self.0.get(&peer).is_some_and(|until| now < *until)
    }
}

/// How a request of ours is made to fit a datagram.
#[derive(Clone, Debug, Default)]
pub(super) struct Fit {
    /// The bodies that it may have: best first, each shorter than the one before. None: it has one body or no body.
    bodies: Vec<Vec<u8>>,
    /// The one in use.
    used: usize,
    /// No stream carries it, however long it is.
    pub(super) udp_only: bool,
}

impl Fit {
    /// A body and its shorter forms.
    pub(super) fn new(body: &[u8], shorter: Vec<Vec<u8>>) -> Self {
        let bodies = if shorter.is_empty() { shorter } else { std::iter::once(body.to_vec()).chain(shorter).collect() };
        Fit { bodies, used: 0, udp_only: false }
    }

    /// The number of the one in use; 0 is the longest.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Gives the request its longest body.
    fn restore(&mut self, request: &mut Request) {
        self.used = 0;
        if let Some(body) = self.bodies.first() {
            request.body.clone_from(body);
        }
    }

    /// Gives the request its first body with which it has at most `limit` bytes. False when all are too long: it has the shortest.
    fn shorten(&mut self, request: &mut Request, limit: usize) -> bool {
        for (at, body) in self.bodies.iter().enumerate() {
            request.body.clone_from(body);
            self.used = at;
            if sent_len(request) <= limit {
                return true;
            }
        }
        false
    }
}

/// How many bytes a request without Via will have.
fn sent_len(request: &Request) -> usize {
    request.to_bytes().len() + VIA_BYTES
}

impl Ua {
    /// Long requests of a dialog go by UDP from now on, shortened where they can be, as after an INVITE that was [`Outgoing::udp_only`].
    ///
    /// [`Outgoing::udp_only`]: super::Outgoing::udp_only
    pub fn hold_to_udp(&mut self, dialog: &DialogId) {
        if let Some(entry) = self.dialogs.get_mut(dialog) {
            entry.udp_only = true;
        }
    }

    /// Whether a long request to this target may go by a stream: it is one, or it may be tried by TCP.
    #[must_use]
    pub fn may_stream(&self, now: Time, target: Target, udp_only: bool) -> bool {
        target.transport != Transport::Udp || self.why_no_stream(now, target.remote, udp_only).is_none()
    }

    /// In words why a long request gets no stream; `None`: it may get one.
    fn why_no_stream(&self, now: Time, remote: SocketAddr, udp_only: bool) -> Option<&'static str> {
        if udp_only {
            Some("its trunk is UDP only")
        } else if !self.config.serves(Transport::Tcp, remote.ip()) {
            Some("we have no TCP address")
        } else {
            self.no_streams.has(now, remote).then_some("it took no TCP connection")
        }
    }

    /// How often a request was too long for a datagram, for metrics.
    #[must_use]
    pub const fn long_requests(&self) -> &LongRequests {
        &self.long_requests
    }

    /// How a request without Via goes to its target: as it says, or, when it is too long for a datagram, by TCP or with a shorter body.
    ///
    /// # Errors
    /// [`SendError::TooLong`]: there is no TCP and the shortest body is too long too. Of an INVITE that body may be the only one; other
    /// requests without shorter bodies, a REGISTER above all, go as they are.
    pub(super) fn way(
        &mut self,
        now: Time,
        request: &mut Request,
        fit: &mut Fit,
        target: Target,
    ) -> Result<Target, SendError> {
        fit.restore(request);
        let limit = self.config.udp_request_limit_bytes;
        let len = sent_len(request);
        if target.transport != Transport::Udp || limit == 0 || len <= limit {
            return Ok(target);
        }
        let (method, remote) = (request.method.clone(), target.remote);
        let Some(why) = self.why_no_stream(now, remote, fit.udp_only) else {
            self.long_requests.by_tcp += 1;
            tracing::info!(%method, %remote, len, limit, "a request too long for a datagram goes by TCP");
            return Ok(Target { transport: Transport::Tcp, remote, flow: None });
        };
        if fit.bodies.is_empty() && method != Method::Invite {
            self.long_requests.as_it_was += 1;
            tracing::warn!(%method, %remote, len, limit, why, "a request too long for a datagram goes by UDP all the same");
            return Ok(target);
        }
        if !fit.shorten(request, limit) {
            self.long_requests.refused += 1;
            let len = sent_len(request);
            tracing::warn!(%method, %remote, len, limit, why, "a request is too long for a datagram and cannot be shortened");
            return Err(SendError::TooLong);
        }
        self.long_requests.shortened += 1;
        let shortened = sent_len(request);
        tracing::info!(%method, %remote, len, shortened, limit, why, "a request too long for a datagram goes shortened by UDP");
        Ok(target)
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
        let is_noted = |peers: &NoStreams, ms, port| peers.has(Time::from_millis(ms), peer(port));
        peers.note(Time::from_millis(10), peer(1));
        assert!(is_noted(&peers, 9, 1) && !is_noted(&peers, 10, 1));
        for port in 2..=PEERS_MAX as u16 + 1 {
            peers.note(Time::from_millis(20 + u64::from(port)), peer(port));
        }
        assert_eq!(peers.0.len(), PEERS_MAX);
        assert!(!is_noted(&peers, 1, 1) && is_noted(&peers, 1, 2));
        peers.note(Time::from_millis(500), peer(2));
        peers.note(Time::from_millis(400), peer(9_999));
        assert!(is_noted(&peers, 1, 2) && !is_noted(&peers, 1, 3), "what was noted again stays");
    }

    #[test]
    fn the_first_body_that_fits_is_taken() {
        let mut request = Request::new(Method::Invite, "sip:a@example.com".parse().unwrap());
        request.body = vec![b'x'; 300];
        let mut fit = Fit::new(&request.body, vec![vec![b'y'; 200], vec![b'z'; 100]]);
        let bare = sent_len(&Request { body: Vec::new(), ..request.clone() });
        for (limit, used, len) in [(bare + 310, 0, 300), (bare + 210, 1, 200), (bare + 110, 2, 100)] {
            assert!(fit.shorten(&mut request, limit));
            assert_eq!((fit.used(), request.body.len()), (used, len));
            assert!(sent_len(&request) <= limit);
        }
        assert!(!fit.shorten(&mut request, bare + 50));
        assert_eq!(fit.used(), 2);
        fit.restore(&mut request);
        assert_eq!((fit.used(), request.body.len()), (0, 300));
    }
}
