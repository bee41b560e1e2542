//! The relay's end of the channel: takes the handover, then asks for ports and gives them back.
//!
//! After the handover nothing here waits: a keeper that is slow, or stopped, costs those that wait for its answer and nobody else.

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

use gangway_shared::{
    rcp::{ErrorCode, RelayError},
    time::Time,
};

use super::{
    channel::{BrowserPort, Channel, PairFacts, Received, ToKeeper, ToRelay},
    facts::Facts,
};
use crate::ports::{LocalAddress, PortCounts, address_for};

/// How long the parts of a handover may take.
const HANDOVER_WITHIN: Duration = Duration::from_secs(30);

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

/// What the keeper says after the handover.
#[derive(Debug)]
pub(crate) enum FromKeeper {
    /// Answer to [`Link::ask_pair`].
    Pair {
        /// Of the question.
        token: u64,
        /// The pair, or why there is none: `NoPorts` when none is left that can be bound.
        pair: Result<HandedPair, RelayError>,
    },
    /// Answer to [`Link::ask_counts`].
    Counts {
        /// Of the question.
        token: u64,
        /// All ports.
        counts: PortCounts,
    },
    /// See [`ToRelay::Drain`].
    Drain {
        /// Leave at this time at the latest.
        until: Option<Time>,
    },
    /// See [`ToRelay::Leave`].
    Leave,
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    addresses: Vec<LocalAddress>,
    /// What the channel had no room for. Questions are as many as there are requests under way ([`forget`](Self::forget)), pairs that
    /// are given back as many as there were.
    unsent: VecDeque<ToKeeper>,
    /// What came with the handover.
    unread: VecDeque<FromKeeper>,
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
                (ToRelay::Drain { until }, _) => unread.push_back(FromKeeper::Drain { until }),
                (ToRelay::Leave, _) => unread.push_back(FromKeeper::Leave),
                (other, _) => return Err(broken(&format!("holds {other:?} with {} descriptors", descriptors.len()))),
            }
        }
        let Some((addresses, handover)) = begun else { return Err(broken("has no beginning")) };
        Ok((Link { unread, ..Link::over(channel, addresses) }, handover))
    }

    /// Over a channel that nothing is handed over by.
    pub(crate) fn over(channel: Channel, addresses: Vec<LocalAddress>) -> Self {
        Link { channel, addresses, unsent: VecDeque::new(), unread: VecDeque::new(), is_closed: false }
    }

    /// Says that everything is adopted.
    pub(crate) fn say_serving(&mut self) {
        self.send(ToKeeper::Serving);
    }

    /// Which address a leg gets; see [`address_for`].
    pub(crate) fn address_for(&self, wanted: Option<IpAddr>, peer: Option<IpAddr>) -> Result<LocalAddress, RelayError> {
        address_for(&self.addresses, wanted, peer)
    }

    /// Asks for a pair on `on` for a leg of `worker`; answered by [`FromKeeper::Pair`].
    pub(crate) fn ask_pair(&mut self, token: u64, worker: u16, on: LocalAddress) {
        self.send(ToKeeper::Open { token, worker, on });
    }

    /// Asks for the counts of ports; answered by [`FromKeeper::Counts`].
    pub(crate) fn ask_counts(&mut self, token: u64) {
        self.send(ToKeeper::Count { token });
    }

    /// Nobody waits for answers to these questions any more: those that have not left yet are not asked.
    pub(crate) fn forget(&mut self, token: u64) {
        self.unsent.retain(|message| match message {
            ToKeeper::Open { token: of, .. } | ToKeeper::Count { token: of } => *of != token,
            ToKeeper::Close { .. } | ToKeeper::Serving => true,
        });
    }

    /// Gives a pair back whose sockets are closed here.
    pub(crate) fn release(&mut self, lease: u64) {
        self.send(ToKeeper::Close { lease });
    }

    /// The next that the keeper said.
    pub(crate) fn poll(&mut self) -> Option<FromKeeper> {
        self.flush();
        while self.unread.is_empty() && !self.is_closed {
            match self.channel.receive(false) {
                Ok(Received::Message(message, descriptors)) => return self.understand(message, descriptors),
                Ok(Received::CutOff(message)) => return self.understand(message, Vec::new()),
                Ok(Received::Nothing) => break,
                Ok(Received::Closed) => self.is_closed = true,
                Err(error) => self.fail(&error),
            }
        }
        self.unread.pop_front()
    }

    fn understand(&mut self, message: ToRelay, descriptors: Vec<OwnedFd>) -> Option<FromKeeper> {
        match message {
            ToRelay::Opened { token, pair: facts } => {
                let pair = match <[OwnedFd; 2]>::try_from(descriptors) {
                    Ok([rtp, rtcp]) => Ok(HandedPair { facts, rtp: rtp.into(), rtcp: rtcp.into() }),
                    Err(_) => {
                        self.release(facts.lease);
                        Err(RelayError::new(ErrorCode::NoPorts, "", "the limit of open files is reached"))
                    }
                };
                Some(FromKeeper::Pair { token, pair })
            }
            ToRelay::Refused { token, error } => Some(FromKeeper::Pair { token, pair: Err(error) }),
            ToRelay::Counts { token, counts } => Some(FromKeeper::Counts { token, counts }),
            ToRelay::Drain { until } => Some(FromKeeper::Drain { until }),
            ToRelay::Leave => Some(FromKeeper::Leave),
            ToRelay::Settings | ToRelay::Begin { .. } | ToRelay::Browser(_) | ToRelay::Pairs(_) | ToRelay::End => {
                self.fail(&broken("goes on after its end"));
                None
            }
        }
    }

    /// The keeper is gone: nothing that was opened here would survive, and nobody would notice our end.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Questions and pairs that the channel has no room for.
    #[cfg(test)]
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    fn send(&mut self, message: ToKeeper) {
        self.unsent.push_back(message);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(message) = self.unsent.front()
            && !self.is_closed
        {
            match self.channel.send_now(message) {
                Ok(true) => drop(self.unsent.pop_front()),
                Ok(false) => return,
                Err(error) => self.fail(&error),
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the channel to the keeper broke");
        self.is_closed = true;
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
