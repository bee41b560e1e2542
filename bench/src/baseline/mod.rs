//! Relays that do only what they must: what a packet costs at least, or with another library. None of them looks at what it carries.

pub mod bare;
pub mod tokio_ring;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
};

use crate::{
    call::{Answer, CallSpec},
    systems::MEDIA_PORTS,
};

/// A socket of the relay and where what comes to it goes.
pub struct Leg {
    /// Bound to a media port.
    pub socket: UdpSocket,
    /// Where its own peer is.
    pub peer: SocketAddrV4,
    /// Index of the leg whose peer gets it.
    pub other: usize,
}

/// Opens an even port for RTP and the odd one above it for RTCP, for both ends of all calls: as many sockets as a relay has that follows
/// RFC 3550 section 11. Legs of a call: RTP of both ends, then RTCP of both ends.
///
/// # Errors
/// When the ports run out.
pub fn open(calls: &[CallSpec]) -> io::Result<(Vec<Leg>, Vec<[Answer; 2]>)> {
    let (mut legs, mut answers) = (Vec::new(), Vec::new());
    let mut ports = (MEDIA_PORTS.0..MEDIA_PORTS.1).step_by(2);
    let mut pair = || {
        let bound = ports.by_ref().find_map(|port| {
            let bind = |port: u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok();
            Some((bind(port)?, bind(port + 1)?))
        });
        bound.ok_or_else(|| io::Error::other("no media port is free"))
    };
    for call in calls {
        let ((a_rtp, a_rtcp), (b_rtp, b_rtcp)) = (pair()?, pair()?);
        let at = |socket: &UdpSocket| match socket.local_addr()? {
            SocketAddr::V4(address) => Ok(address),
            SocketAddr::V6(_) => Err(io::Error::other("bound to IPv4, told IPv6")),
        };
        answers.push([
            Answer { rtp: at(&a_rtp)?, rtcp: at(&a_rtcp)?, key: None, ice: None },
            Answer { rtp: at(&b_rtp)?, rtcp: at(&b_rtcp)?, key: None, ice: None },
        ]);
        let first = legs.len();
        let [a, b] = &call.ends;
        for (socket, peer, other) in [(a_rtp, a.rtp, 1), (b_rtp, b.rtp, 0), (a_rtcp, a.rtcp, 3), (b_rtcp, b.rtcp, 2)] {
            socket.set_nonblocking(true)?;
            legs.push(Leg { socket, peer, other: first + other });
        }
    }
    Ok((legs, answers))
}
