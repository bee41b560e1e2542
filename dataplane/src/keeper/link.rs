//! The relay's end of the channel: takes the handover, then asks for ports and gives them back.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    time::Duration,
};

use gangway_shared::rcp::{ErrorCode, RelayError};

use super::{
    channel::{BrowserPort, Channel, PairFacts, Received, ToKeeper, ToRelay},
    facts::Facts,
};
use crate::ports::{LocalAddress, PortCounts, address_for};

/// How long the parts of a handover may take.
const HANDOVER_WITHIN: Duration = Duration::from_secs(30);

/// How long the manager waits for an answer. The keeper does nothing but answer, within some 100 us; one that is stopped costs the
/// requests that need a new pair, and no others.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Messages that come while an answer is waited for. The keeper sends none unasked but those of its few signals.
const UNREAD_MAX: usize = 64;

/// A pair that was handed over.
#[derive(Debug)]
pub(crate) struct HandedPair {
    /// What it is.
    pub(crate) facts: PairFacts,
    /// For RTP.
    pub(crate) rtp: UdpSocket,
    /// For RTCP.
    pub(crate) rtcp: UdpSocket,
}

/// Everything that the keeper keeps.
#[derive(Debug)]
pub(crate) struct Handover {
    /// See [`ToRelay::Begin`].
    pub(crate) blame: bool,
    /// The manager's memory.
    pub(crate) facts: Facts,
    /// Where RCP is served.
    pub(crate) listener: UnixListener,
    /// One a worker.
    pub(crate) arenas: Vec<OwnedFd>,
    /// Browser ports, in the order of the addresses of each worker.
    pub(crate) browser: Vec<(BrowserPort, UdpSocket)>,
    /// Pairs of legs.
    pub(crate) pairs: Vec<HandedPair>,
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    addresses: Vec<LocalAddress>,
    next_token: u64,
    unread: VecDeque<ToRelay>,
    is_closed: bool,
}

impl Link {
    /// Takes the handover.
    ///
    /// # Errors
    /// When it does not come whole in time.
    pub(crate) fn take_over(channel: Channel) -> io::Result<(Link, Handover)> {
        channel.wait_at_most(Some(HANDOVER_WITHIN))?;
        let mut begun = None;
        let mut unread = VecDeque::new();
        loop {
            let (message, descriptors) = match channel.receive::<ToRelay>(true)? {
                Received::Message(message, descriptors) => (message, descriptors),
                Received::CutOff(_) => return Err(broken("did not fit the limit of open files")),
                Received::Nothing => return Err(broken("did not come in time")),
                Received::Closed => return Err(broken("ended early: the keeper is gone")),
            };
            match (message, &mut begun) {
                (ToRelay::Begin { addresses, blame }, None) => {
                    let mut descriptors = descriptors.into_iter();
                    let (Some(facts), Some(listener)) = (descriptors.next(), descriptors.next()) else {
                        return Err(broken("lacks a descriptor"));
                    };
                    let (facts, listener) = (Facts::over(facts), UnixListener::from(listener));
                    let arenas = descriptors.collect();
                    let (browser, pairs) = (Vec::new(), Vec::new());
                    begun = Some((addresses, Handover { blame, facts, listener, arenas, browser, pairs }));
                }
                (ToRelay::Browser(ports), Some((_, handover))) if ports.len() == descriptors.len() => {
                    handover.browser.extend(ports.into_iter().zip(descriptors.into_iter().map(UdpSocket::from)));
                }
                (ToRelay::Pairs(pairs), Some((_, handover))) if 2 * pairs.len() == descriptors.len() => {
                    let mut sockets = descriptors.into_iter().map(UdpSocket::from);
                    for facts in pairs {
                        let (Some(rtp), Some(rtcp)) = (sockets.next(), sockets.next()) else { break };
                        handover.pairs.push(HandedPair { facts, rtp, rtcp });
                    }
                }
                (ToRelay::End, Some(_)) => break,
                (message @ (ToRelay::Drain { .. } | ToRelay::Leave), _) => unread.push_back(message),
                (other, _) => return Err(broken(&format!("holds {other:?} with {} descriptors", descriptors.len()))),
            }
        }
        channel.wait_at_most(Some(ANSWER_WITHIN))?;
        let Some((addresses, handover)) = begun else { return Err(broken("has no beginning")) };
        Ok((Link { channel, addresses, next_token: 1, unread, is_closed: false }, handover))
    }

    /// Says that everything is adopted.
    pub(crate) fn say_serving(&mut self) {
        self.send(&ToKeeper::Serving);
    }

    /// Which address a leg gets; see [`address_for`].
    pub(crate) fn address_for(&self, wanted: Option<IpAddr>, peer: Option<IpAddr>) -> Result<LocalAddress, RelayError> {
        address_for(&self.addresses, wanted, peer)
    }

    /// Asks for a pair on `on` for a leg of `worker`.
    ///
    /// # Errors
    /// `NoPorts` when none is left that can be bound, `Internal` when the keeper does not answer in time.
    pub(crate) fn open_pair(&mut self, worker: u16, on: LocalAddress) -> Result<HandedPair, RelayError> {
        let token = self.token();
        self.send(&ToKeeper::Open { token, worker, on });
        let is_answer = |message: &ToRelay| match message {
            ToRelay::Opened { token: of, .. } | ToRelay::Refused { token: of, .. } => *of == token,
            _ => false,
        };
        match self.answer(is_answer) {
            Some((ToRelay::Opened { pair, .. }, descriptors)) => match <[OwnedFd; 2]>::try_from(descriptors) {
                Ok([rtp, rtcp]) => Ok(HandedPair { facts: pair, rtp: rtp.into(), rtcp: rtcp.into() }),
                Err(_) => {
                    self.release(pair.lease);
                    Err(RelayError::new(ErrorCode::NoPorts, "", "the limit of open files is reached"))
                }
            },
            Some((ToRelay::Refused { error, .. }, _)) => Err(error),
            _ => Err(RelayError::new(ErrorCode::Internal, "", "the keeper did not open a port pair in time")),
        }
    }

    /// Gives a pair back whose sockets are closed here.
    pub(crate) fn release(&mut self, lease: u64) {
        self.send(&ToKeeper::Close { lease });
    }

    /// Counts of ports; none when the keeper does not answer in time.
    pub(crate) fn counts(&mut self) -> PortCounts {
        let token = self.token();
        self.send(&ToKeeper::Count { token });
        match self.answer(|message| matches!(message, ToRelay::Counts { token: of, .. } if *of == token)) {
            Some((ToRelay::Counts { counts, .. }, _)) => counts,
            _ => PortCounts::default(),
        }
    }

    /// What the keeper wants by itself: [`ToRelay::Drain`] and [`ToRelay::Leave`].
    pub(crate) fn poll_message(&mut self) -> Option<ToRelay> {
        while self.unread.is_empty() && !self.is_closed {
            match self.channel.receive(false) {
                Ok(Received::Message(message, _) | Received::CutOff(message)) => self.set_aside(message),
                Ok(Received::Nothing) => break,
                Ok(Received::Closed) => self.is_closed = true,
                Err(error) => self.fail(&error),
            }
        }
        self.unread.pop_front()
    }

    /// The keeper is gone: nothing that was opened here would survive, and nobody would notice our end.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn send(&mut self, message: &ToKeeper) {
        if let Err(error) = self.channel.send(message, &[]) {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the channel to the keeper broke");
        self.is_closed = true;
    }

    fn answer(&mut self, is_answer: impl Fn(&ToRelay) -> bool) -> Option<(ToRelay, Vec<OwnedFd>)> {
        while !self.is_closed {
            match self.channel.receive(true) {
                Ok(Received::Message(message, descriptors)) if is_answer(&message) => {
                    return Some((message, descriptors));
                }
                Ok(Received::CutOff(message)) if is_answer(&message) => return Some((message, Vec::new())),
                Ok(Received::Message(message, _) | Received::CutOff(message)) => self.set_aside(message),
                Ok(Received::Nothing) => {
                    tracing::error!("the keeper does not answer");
                    return None;
                }
                Ok(Received::Closed) => self.is_closed = true,
                Err(error) => self.fail(&error),
            }
        }
        None
    }

    /// What came beside an answer. A pair that came too late goes back.
    fn set_aside(&mut self, message: ToRelay) {
        match message {
            ToRelay::Opened { pair, .. } => self.release(pair.lease),
            ToRelay::Drain { .. } | ToRelay::Leave if self.unread.len() < UNREAD_MAX => self.unread.push_back(message),
            _ => tracing::debug!("a message of the keeper came too late"),
        }
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.channel.as_raw_fd()
    }
}

impl PairFacts {
    /// Address for `c=` and `m=`.
    pub(crate) fn rtp_address(&self) -> SocketAddr {
        SocketAddr::new(self.on.advertised, self.port)
    }

    /// Address for `a=rtcp`.
    pub(crate) fn rtcp_address(&self) -> SocketAddr {
        SocketAddr::new(self.on.advertised, self.port + 1)
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the handover {what}"))
}
