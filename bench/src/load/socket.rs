//! The generator's sockets, and whose a datagram is.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};

use crate::sys::stamp_arrivals;

/// Room for what comes while this thread is kept from its core, bytes; as far as the kernel allows.
const SHARED_BUFFER_BYTES: usize = 64 << 20;
const OWN_BUFFER_BYTES: usize = 1 << 20;

struct Port {
    socket: UdpSocket,
    address: SocketAddrV4,
    /// Ends by the relay's port: 1 and the index.
    ends: Ends,
    /// Something may be there. On shared sockets it always may: those are looked at each time and not watched, because each watched
    /// socket costs who sends to it, in the sender's own time, half a microsecond a datagram.
    is_ready: bool,
}

enum Ends {
    /// Shared by many.
    ByPort(Box<[u32]>),
    /// Of one alone.
    One(Option<usize>),
}

/// All sockets.
pub(super) struct Sockets {
    ports: Vec<Port>,
    /// Where sockets of one end are.
    own_at: Ipv4Addr,
    poll: Poll,
    events: Events,
    ready: Vec<usize>,
}

impl Sockets {
    /// No sockets yet. Those of one end will be at `own_at`, shared ones at 127.0.0.1.
    pub(super) fn new(own_at: Ipv4Addr) -> io::Result<Self> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
        Ok(Sockets { ports: Vec::new(), own_at, poll, events, ready: Vec::new() })
    }

    /// A socket for the ends of many calls, and one for their RTCP.
    pub(super) fn open_pair(&mut self) -> io::Result<(usize, usize)> {
        let mut shared = || {
            let ends = Ends::ByPort(vec![0; 1 << 16].into());
            self.add(ends, Ipv4Addr::LOCALHOST, SHARED_BUFFER_BYTES)
        };
        Ok((shared()?, shared()?))
    }

    /// A socket for one end.
    pub(super) fn open(&mut self) -> io::Result<usize> {
        self.add(Ends::One(None), self.own_at, OWN_BUFFER_BYTES)
    }

    fn add(&mut self, ends: Ends, ip: Ipv4Addr, buffer_bytes: usize) -> io::Result<usize> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        stamp_arrivals(&socket)?;
        // Only who may administer the network gets more than net.core.rmem_max; own drops are reported either way.
        let _ = set_socket_recv_buffer_size_force(&socket, buffer_bytes);
        let _ = set_socket_send_buffer_size_force(&socket, buffer_bytes);
        let SocketAddr::V4(address) = socket.local_addr()? else {
            return Err(io::Error::other("bound to IPv4, told IPv6"));
        };
        let at = self.ports.len();
        let is_ready = matches!(ends, Ends::ByPort(_));
        if is_ready {
            self.ready.push(at);
        } else {
            self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(at), Interest::READABLE)?;
        }
        self.ports.push(Port { socket, address, ends, is_ready });
        Ok(at)
    }

    pub(super) fn address(&self, port: usize) -> SocketAddrV4 {
        self.ports[port].address
    }

    pub(super) fn socket(&self, port: usize) -> &UdpSocket {
        &self.ports[port].socket
    }

    /// What comes from `relay` to `port` is for `end`.
    pub(super) fn expect(&mut self, port: usize, relay: SocketAddrV4, end: usize) {
        match &mut self.ports[port].ends {
            Ends::ByPort(ends) => ends[usize::from(relay.port())] = end as u32 + 1,
            Ends::One(one) => *one = Some(end),
        }
    }

    /// Whose a datagram is that came to `port` from this address.
    pub(super) fn end_of(&self, port: usize, from: SocketAddrV4) -> Option<usize> {
        match &self.ports[port].ends {
            Ends::ByPort(ends) => ends[usize::from(from.port())].checked_sub(1).map(|end| end as usize),
            Ends::One(end) => *end,
        }
    }

    /// Looks which sockets of one end have something, for at most `timeout`, in steps of a millisecond.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if self.poll.poll(&mut self.events, Some(timeout)).is_err() {
            return;
        }
        for event in &self.events {
            let at = event.token().0;
            if !std::mem::replace(&mut self.ports[at].is_ready, true) {
                self.ready.push(at);
            }
        }
    }

    /// Sockets with something, and the shared ones; a socket of one end stays so until [`empty`](Self::empty) is said.
    pub(super) fn ready(&self) -> Vec<usize> {
        self.ready.clone()
    }

    /// Nothing is left on these.
    pub(super) fn empty(&mut self, ports: &[usize]) {
        for &at in ports {
            let port = &mut self.ports[at];
            port.is_ready = matches!(port.ends, Ends::ByPort(_));
        }
        self.ready.retain(|&port| self.ports[port].is_ready);
    }

    /// Datagrams that found no room on them so far.
    pub(super) fn drops(&self) -> u64 {
        let own: BTreeSet<u16> = self.ports.iter().map(|port| port.address.port()).collect();
        drops_at(|port| own.contains(&port))
    }
}

/// Datagrams that found no room at sockets of this machine with such ports (`/proc/net/udp`, last column).
pub(crate) fn drops_at(is_own: impl Fn(u16) -> bool) -> u64 {
    udp_sockets().iter().filter(|(port, _)| is_own(*port)).map(|(_, drops)| drops).sum()
}

/// Port and lost datagrams of each UDP socket of this machine, IPv4.
pub(crate) fn udp_sockets() -> Vec<(u16, u64)> {
    let table = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let sockets = table.lines().skip(1).filter_map(|line| {
        let local = line.split_whitespace().nth(1)?.rsplit_once(':')?.1;
        Some((u16::from_str_radix(local, 16).ok()?, line.split_whitespace().last()?.parse().ok()?))
    });
    sockets.collect()
}

/// The next datagram and who sent it, if there is one.
pub(super) fn next_datagram(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddrV4)> {
    match socket.recv_from(buffer).ok()? {
        (len, SocketAddr::V4(from)) => Some((len, from)),
        (_, SocketAddr::V6(_)) => None,
    }
}
