//! The only place that opens media sockets: the keeper's.
//!
//! Towards browsers each worker has one port per local address, shared by all calls. Towards SIP peers each leg has an even port
//! for RTP and the odd one above it for RTCP, from its worker's slice of the range. A pair that was given back rests before it is
//! used again, so that late packets of one call do not reach the next.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use gangway_shared::{
    rcp::{ErrorCode, RelayError},
    settings::Port,
    time::Time,
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Pairs of the range tried for one leg before it is refused. Others may hold ports of it, above all a dataplane that was killed a moment
/// ago: as many as a worker has calls by default (`dataplane_relays_max`), and the first ones.
const RANGE_TRIES_MAX: usize = 4096;

/// Pairs tried where the kernel says which are free.
const AUTO_TRIES_MAX: usize = 32;

/// From look to look at a port that is not free yet.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Pairs that may be open when the kernel chooses ports: half its usual range.
const AUTO_PAIRS_MAX: u64 = 8192;

/// One local address and what peers are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalAddress {
    /// Address that sockets are bound to.
    pub bind: IpAddr,
    /// Address that goes into SDP.
    pub advertised: IpAddr,
}

/// Where pairs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaRange {
    /// First and last port.
    Fixed(u16, u16),
    /// The kernel chooses.
    Auto,
}

/// Receive buffers of the kernel in bytes. They are what a worker that is kept from its core for a moment lives on; the kernel
/// counts some 700 bytes for a packet of audio and 2300 for one of video, and takes the memory only when packets wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveBuffers {
    /// Of a port that all browsers of a worker share (`webrtc_receive_buffer_kb`).
    pub browser: usize,
    /// Of a port towards a SIP peer (`media_receive_buffer_kb`).
    pub media: usize,
}

/// A pair somebody holds; to be given back by [`Ports::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    worker: u16,
    rtp: u16,
}

/// An open pair.
#[derive(Debug)]
pub struct Pair {
    /// For RTP, on the even port.
    pub rtp: UdpSocket,
    /// For RTCP, on the odd port above.
    pub rtcp: UdpSocket,
    /// Address that it is bound to.
    pub on: LocalAddress,
    /// The even port.
    pub port: u16,
    /// Gives the pair back.
    pub lease: Lease,
}

/// A browser port could not be opened.
#[derive(Debug, Error)]
#[error("webrtc_port: {address} cannot be bound: {source}")]
pub struct BrowserPortError {
    address: SocketAddr,
    source: io::Error,
}

/// All media ports of the dataplane.
#[derive(Debug)]
pub struct Ports {
    addresses: Vec<LocalAddress>,
    range: MediaRange,
    quarantine: Duration,
    /// Free pairs of each worker, by their RTP port; the one that rested longest first.
    free: Vec<VecDeque<u16>>,
    resting: VecDeque<(Time, Lease)>,
    used: u64,
    /// Absent: what the kernel gives of itself.
    buffers: Option<ReceiveBuffers>,
    /// How long a fixed port towards browsers is waited for.
    patience: Duration,
}

/// How many media ports there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    /// Held by legs.
    pub used: u64,
    /// Resting before reuse.
    pub quarantined: u64,
    /// In all.
    pub total: u64,
}

impl Ports {
    /// The ports of `workers` workers; each gets an equal slice of the pairs in `range`.
    #[must_use]
    pub fn new(addresses: Vec<LocalAddress>, range: MediaRange, workers: u16, quarantine: Duration) -> Self {
        let mut free = vec![VecDeque::new(); usize::from(workers)];
        if let MediaRange::Fixed(from, to) = range {
            let pairs: Vec<u16> = (from..to).filter(|port| port % 2 == 0).collect();
            let slice = pairs.len().div_ceil(usize::from(workers)).max(1);
            for (free, pairs) in free.iter_mut().zip(pairs.chunks(slice)) {
                free.extend(pairs);
            }
        }
        Ports {
            addresses,
            range,
            quarantine,
            free,
            resting: VecDeque::new(),
            used: 0,
            buffers: None,
            patience: Duration::ZERO,
        }
    }

    /// Opens sockets with receive buffers of these sizes from now on, as far as the kernel allows.
    #[must_use]
    pub fn with_receive_buffers(self, buffers: ReceiveBuffers) -> Self {
        Ports { buffers: Some(buffers), ..self }
    }

    /// Waits so long for a port towards browsers that somebody has: the kernel lets the sockets of a ring go a while after the process
    /// that had it.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Ports { patience, ..self }
    }

    /// The configured addresses.
    #[must_use]
    pub fn addresses(&self) -> &[LocalAddress] {
        &self.addresses
    }

    /// Opens the port of one worker towards all browsers, on every address. With [`Port::Auto`] the kernel chooses and all
    /// addresses get the same number where they can.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn open_browser_ports(
        &self,
        worker: u16,
        port: Port,
    ) -> Result<Vec<(UdpSocket, SocketAddr)>, BrowserPortError> {
        let mut opened: Vec<(UdpSocket, SocketAddr)> = Vec::new();
        for local in &self.addresses {
            let number = match (port, opened.first()) {
                (Port::Fixed(port), _) => port.saturating_add(worker),
                (Port::Auto, Some((_, first))) => first.port(),
                (Port::Auto, None) => 0,
            };
            let mut address = SocketAddr::new(local.bind, number);
            let bound = match port {
                Port::Fixed(_) => bind_when_free(address, self.patience, || thread::park_timeout(LOOK_AGAIN)),
                Port::Auto => bind(address).or_else(|error| {
                    if number == 0 {
                        return Err(error);
                    }
                    address.set_port(0);
                    bind(address)
                }),
            };
            let socket = bound.map_err(|source| BrowserPortError { address, source })?;
            if let Some(ReceiveBuffers { browser: wanted, .. }) = self.buffers {
                let got = size_receive_buffer(&socket, wanted);
                if got < wanted {
                    let (wanted_kb, got_kb) = (wanted >> 10, got >> 10);
                    let advice = "webrtc_receive_buffer_kb: the kernel gave less; net.core.rmem_max limits it";
                    tracing::warn!(%address, wanted_kb, got_kb, advice);
                }
            }
            let socket: UdpSocket = socket.into();
            let bound = socket.local_addr().map_err(|source| BrowserPortError { address, source })?;
            opened.push((socket, SocketAddr::new(local.advertised, bound.port())));
        }
        Ok(opened)
    }

    /// Opens a pair on `local` for a leg of `worker`.
    ///
    /// # Errors
    /// `NoPorts` when none is left that can be bound.
    pub fn open_pair(&mut self, now: Time, worker: u16, local: LocalAddress) -> Result<Pair, RelayError> {
        self.wake_rested(now);
        let opened = match self.range {
            MediaRange::Fixed(..) => self.open_from_slice(worker, local),
            MediaRange::Auto => self.open_auto(local),
        };
        let Some((rtp, rtcp, port)) = opened else {
            let reason = format!("no media port of worker {worker} is free on {}", local.bind);
            return Err(RelayError::new(ErrorCode::NoPorts, "", reason));
        };
        self.used += 1;
        Ok(Pair { rtp, rtcp, on: local, port, lease: Lease { worker, rtp: port } })
    }

    fn open_from_slice(&mut self, worker: u16, local: LocalAddress) -> Option<(UdpSocket, UdpSocket, u16)> {
        let worker = usize::from(worker);
        for _ in 0..RANGE_TRIES_MAX.min(self.free.get(worker)?.len()) {
            let port = self.free[worker].pop_front()?;
            if let Ok((rtp, rtcp)) = self.bind_pair(local.bind, port) {
                return Some((rtp, rtcp, port));
            }
            // Somebody else has it; it may be free later.
            self.free[worker].push_back(port);
        }
        None
    }

    fn open_auto(&self, local: LocalAddress) -> Option<(UdpSocket, UdpSocket, u16)> {
        if self.used + self.resting.len() as u64 >= AUTO_PAIRS_MAX {
            return None;
        }
        (0..AUTO_TRIES_MAX).find_map(|_| {
            // The kernel only says which are free. A port that is not bound by its number is lost when the socket, after it was
            // connected, is to hear everybody again.
            let port = bind(SocketAddr::new(local.bind, 0)).ok()?.local_addr().ok()?.as_socket()?.port() & !1;
            if self.resting.iter().any(|(_, lease)| lease.rtp == port) {
                return None;
            }
            let (rtp, rtcp) = self.bind_pair(local.bind, port).ok()?;
            Some((rtp, rtcp, port))
        })
    }

    fn bind_pair(&self, ip: IpAddr, port: u16) -> io::Result<(UdpSocket, UdpSocket)> {
        Ok((self.bind_media(SocketAddr::new(ip, port))?, self.bind_media(SocketAddr::new(ip, port + 1))?))
    }

    fn bind_media(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = bind(address)?;
        if let Some(ReceiveBuffers { media, .. }) = self.buffers {
            // Less than that is no reason to refuse a call.
            size_receive_buffer(&socket, media);
        }
        Ok(socket.into())
    }

    /// Takes a pair back whose sockets are closed. It rests before it is used again.
    pub fn release(&mut self, now: Time, lease: Lease) {
        self.used -= 1;
        self.resting.push_back((now + self.quarantine, lease));
        self.wake_rested(now);
    }

    fn wake_rested(&mut self, now: Time) {
        while let Some((until, _)) = self.resting.front()
            && *until <= now
            && let Some((_, lease)) = self.resting.pop_front()
        {
            if let MediaRange::Fixed(..) = self.range
                && let Some(free) = self.free.get_mut(usize::from(lease.worker))
            {
                free.push_back(lease.rtp);
            }
        }
    }

    /// Counts of ports (two a pair).
    pub fn counts(&mut self, now: Time) -> PortCounts {
        self.wake_rested(now);
        let free: u64 = self.free.iter().map(|free| free.len() as u64).sum();
        let resting = self.resting.len() as u64;
        let total = match self.range {
            MediaRange::Fixed(..) => free + resting + self.used,
            MediaRange::Auto => AUTO_PAIRS_MAX,
        };
        PortCounts { used: 2 * self.used, quarantined: 2 * resting, total: 2 * total }
    }
}

/// Which address a leg gets: the wanted one, else the first of the peer's family, else the first.
///
/// # Errors
/// `NoAddress` when the wanted one is not configured, or none fits the family of the peer.
pub fn address_for(
    addresses: &[LocalAddress],
    wanted: Option<IpAddr>,
    peer: Option<IpAddr>,
) -> Result<LocalAddress, RelayError> {
    let no_address = |reason: String| RelayError::new(ErrorCode::NoAddress, "", reason);
    let found = match (wanted, peer) {
        (Some(ip), _) => addresses.iter().find(|local| local.advertised == ip || local.bind == ip),
        (None, Some(peer)) => addresses.iter().find(|local| local.bind.is_ipv4() == peer.is_ipv4()),
        (None, None) => addresses.first(),
    };
    found.copied().ok_or_else(|| match (wanted, peer) {
        (Some(ip), _) => no_address(format!("{ip} is none of the configured addresses")),
        (None, Some(peer)) => no_address(format!("no configured address has the family of {peer}")),
        (None, None) => no_address("no address is configured".to_owned()),
    })
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Binds a port that somebody may be about to let go.
fn bind_when_free(address: SocketAddr, patience: Duration, mut pause: impl FnMut()) -> io::Result<Socket> {
    let looks_max = patience.as_micros() / LOOK_AGAIN.as_micros();
    let mut looks = 0;
    loop {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && looks < looks_max => {
                if looks == 0 {
                    let patience_ms = patience.as_millis();
                    let advice =
                        "webrtc_port: somebody has it; a dataplane that was killed a moment ago lets it go soon";
                    tracing::warn!(%address, patience_ms, advice);
                }
                looks += 1;
                pause();
            }
            Ok(socket) if looks > 0 => {
                tracing::info!(%address, looks, "webrtc_port: it is free now");
                return Ok(socket);
            }
            done => return done,
        }
    }
}

/// Sizes a receive buffer and says what it has now, both in bytes. Beyond `net.core.rmem_max` the kernel goes only for who may
/// administer the network.
fn size_receive_buffer(socket: &Socket, wanted: usize) -> usize {
    let forced = set_socket_recv_buffer_size_force(socket, wanted);
    if forced.is_err()
        && let Err(error) = socket.set_recv_buffer_size(wanted)
    {
        tracing::debug!(%error, "a receive buffer stays as it is");
    }
    // The kernel doubles what is asked for, for its own bookkeeping (socket(7)).
    socket.recv_buffer_size().map_or(0, |size| size / 2)
}

/// The address this machine uses towards the outside; `None` without a default route. Sends nothing.
#[must_use]
pub fn default_route_address() -> Option<IpAddr> {
    let outside: [(SocketAddr, SocketAddr); 2] = [
        ((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into()),
        ((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into()),
    ];
    outside.into_iter().find_map(|(any, outside)| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(outside).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Whether `ip` is an address of this machine.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: LocalAddress =
        LocalAddress { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), advertised: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)) };

    /// A range of `pairs` pairs that was free a moment ago; no port is fixed.
    fn free_range(pairs: u16) -> MediaRange {
        let probe = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let from = probe.min(u16::MAX - 2 * pairs) & !1;
        MediaRange::Fixed(from, from + 2 * pairs - 1)
    }

    fn ports(pairs: u16, workers: u16) -> Ports {
        Ports::new(vec![LOOPBACK], free_range(pairs), workers, Duration::from_secs(10))
    }

    #[test]
    fn rtp_is_even_and_rtcp_the_odd_port_above() {
        for mut ports in [ports(20, 1), Ports::new(vec![LOOPBACK], MediaRange::Auto, 1, Duration::ZERO)] {
            let pair = ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap();
            let (rtp, rtcp) = (pair.rtp.local_addr().unwrap(), pair.rtcp.local_addr().unwrap());
            assert_eq!((rtp.port() % 2, rtcp.port()), (0, rtp.port() + 1));
            assert_eq!((pair.on, pair.port), (LOOPBACK, rtp.port()));
        }
    }

    #[test]
    fn a_pair_stays_bound_when_it_was_connected() {
        for mut ports in [ports(20, 1), Ports::new(vec![LOOPBACK], MediaRange::Auto, 1, Duration::ZERO)] {
            let pair = ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap();
            let before = pair.rtp.local_addr().unwrap();
            pair.rtp.connect("127.0.0.1:9").unwrap();
            rustix::net::connect_unspec(&pair.rtp).unwrap();
            assert_eq!(pair.rtp.local_addr().unwrap(), before);
        }
    }

    #[test]
    fn a_pair_rests_before_it_is_used_again_and_counts_come_back() {
        let mut ports = Ports { range: MediaRange::Fixed(40000, 40001), ..ports(1, 1) };
        let total = ports.counts(Time::ZERO).total;
        let pair = ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap();
        assert_eq!(ports.counts(Time::ZERO), PortCounts { used: 2, quarantined: 0, total });
        assert_eq!(ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap_err().code, ErrorCode::NoPorts);
        let Pair { lease, rtp, rtcp, .. } = pair;
        drop((rtp, rtcp));
        ports.release(Time::ZERO, lease);
        assert_eq!(ports.counts(Time::from_millis(9_999)), PortCounts { used: 0, quarantined: 2, total });
        assert!(ports.open_pair(Time::from_millis(9_999), 0, LOOPBACK).is_err());
        assert!(ports.open_pair(Time::from_millis(10_000), 0, LOOPBACK).is_ok());
    }

    #[test]
    fn a_port_that_somebody_else_holds_is_skipped() {
        let mut ports = ports(40, 1);
        let taken = ports.free[0][0];
        let _foreign = UdpSocket::bind(("127.0.0.1", taken + 1));
        let pair = ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap();
        assert_ne!(pair.port, taken);
    }

    #[test]
    fn a_port_that_is_let_go_is_waited_for_and_no_longer_than_patience_lasts() {
        let address = SocketAddr::new(LOOPBACK.bind, 0);
        let mut held = Some(bind(address).unwrap());
        let address = held.as_ref().and_then(|held| held.local_addr().ok()?.as_socket()).unwrap();
        let mut looks = 0;
        let refused = bind_when_free(address, 7 * LOOK_AGAIN, || looks += 1).unwrap_err();
        assert_eq!((refused.kind(), looks), (io::ErrorKind::AddrInUse, 7));
        let mut looks = 0;
        let let_go = || {
            looks += 1;
            held.take_if(|_| looks == 3);
        };
        assert!(bind_when_free(address, 7 * LOOK_AGAIN, let_go).is_ok());
        assert_eq!(looks, 3);
        let elsewhere = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 7).into(), 0);
        assert!(bind_when_free(elsewhere, LOOK_AGAIN, || panic!("no time makes it ours")).is_err());
    }

    #[test]
    fn ports_that_many_calls_of_one_before_hold_are_no_reason_to_refuse() {
        let mut ports = ports(400, 1);
        let taken: Vec<u16> = ports.free[0].iter().copied().take(200).collect();
        let held: Vec<_> = taken.iter().map(|port| UdpSocket::bind(("127.0.0.1", *port))).collect();
        let pair = ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap();
        assert!(!taken.contains(&pair.port), "{held:?}");
    }

    #[test]
    fn workers_have_slices_that_do_not_meet() {
        let ports = ports(10, 3);
        let mut all: Vec<u16> = ports.free.iter().flatten().copied().collect();
        assert_eq!(ports.free.iter().map(VecDeque::len).collect::<Vec<_>>(), [4, 4, 2]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 10);
    }

    #[test]
    fn a_leg_gets_the_wanted_address_or_one_of_its_peers_family() {
        let v6 = LocalAddress { bind: Ipv6Addr::LOCALHOST.into(), advertised: Ipv6Addr::LOCALHOST.into() };
        let addresses = [LOOPBACK, v6];
        assert_eq!(address_for(&addresses, None, None), Ok(LOOPBACK));
        assert_eq!(address_for(&addresses, None, Some(v6.bind)), Ok(v6));
        assert_eq!(address_for(&addresses, Some(LOOPBACK.advertised), Some(v6.bind)), Ok(LOOPBACK));
        let error = address_for(&addresses, Some("198.51.100.1".parse().unwrap()), None).unwrap_err();
        assert_eq!(
            (error.code, error.reason.as_str()),
            (ErrorCode::NoAddress, "198.51.100.1 is none of the configured addresses")
        );
    }

    #[test]
    fn receive_buffers_are_sized_as_wanted() {
        let buffers = ReceiveBuffers { browser: 96 << 10, media: 48 << 10 };
        let mut ports = ports(20, 1).with_receive_buffers(buffers);
        let browser = ports.open_browser_ports(0, Port::Auto).unwrap().remove(0).0;
        let pair = ports.open_pair(Time::ZERO, 0, LOOPBACK).unwrap();
        for (socket, wanted) in [(&browser, buffers.browser), (&pair.rtp, buffers.media), (&pair.rtcp, buffers.media)] {
            assert_eq!(socket2::SockRef::from(socket).recv_buffer_size().unwrap(), 2 * wanted);
        }
    }

    #[test]
    fn browser_ports_are_numbered_by_worker_and_told_by_their_advertised_address() {
        let ports = Ports::new(vec![LOOPBACK], MediaRange::Auto, 1, Duration::ZERO);
        let opened = ports.open_browser_ports(0, Port::Auto).unwrap();
        assert_eq!(opened[0].1, SocketAddr::new(LOOPBACK.advertised, opened[0].0.local_addr().unwrap().port()));
        let error = ports.open_browser_ports(0, Port::Fixed(opened[0].1.port())).unwrap_err();
        assert!(error.to_string().starts_with("webrtc_port: 127.0.0.1:"), "{error}");
    }
}
