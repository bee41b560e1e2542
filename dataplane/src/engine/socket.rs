//! What both engines on the kernel's sockets need of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsRawFd, RawFd},
};

use gangway_shared::time::WallTime;

use super::pool::DATAGRAM_MAX_BYTES;
use crate::wire::DropReason;

/// Datagrams of one system call at most.
pub(super) const CALL_MAX: usize = 32;

/// Asks the kernel to say with each datagram how many of its socket were lost for want of room (socket(7)); the number of
/// `asm-generic/socket.h`, which the `libc` crate has for Android only.
const SO_RXQ_OVFL: libc::c_int = 40;

/// Place of the count of lost datagrams among the numbers of `SO_MEMINFO`, and how many there are (`linux/sock_diag.h`).
const MEMINFO_DROPS: usize = 8;
const MEMINFO_NUMBERS: usize = 9;

/// A count and a time, each behind a `cmsghdr` and padded to eight bytes.
pub(super) const CONTROL_BYTES: usize = 24 + 32;

/// The errors of one packet or one peer, told apart as far as they are counted apart.
pub(super) fn error_class(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => DropReason::SendRefused,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN) => DropReason::SendUnreachable,
        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::SendWouldBlock,
        Some(libc::EMSGSIZE) => DropReason::PacketTooLarge,
        _ => DropReason::SendFailed,
    }
}

/// Room for the address of either family: `sockaddr_in` lies in the first 16 bytes of a `sockaddr_in6`.
pub(super) type Name = libc::sockaddr_in6;

pub(super) const NO_NAME: Name = Name {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};

/// Reads the address that the kernel wrote. `sin_port` and `sin6_port` share their place; `sin_addr` is where
/// `sin6_flowinfo` is.
pub(super) fn decode_name(name: &Name) -> Option<SocketAddr> {
    let port = u16::from_be(name.sin6_port);
    match i32::from(name.sin6_family) {
        libc::AF_INET => Some((IpAddr::V4(Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes())), port).into()),
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Writes an address for the kernel and returns its length.
pub(super) fn encode_name(to: SocketAddr, name: &mut Name) -> libc::socklen_t {
    name.sin6_port = to.port().to_be();
    let len = match to {
        SocketAddr::V4(to) => {
            name.sin6_family = libc::AF_INET as libc::sa_family_t;
            name.sin6_flowinfo = u32::from_ne_bytes(to.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(to) => {
            name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            name.sin6_flowinfo = to.flowinfo();
            name.sin6_addr.s6_addr = to.ip().octets();
            name.sin6_scope_id = to.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    len as libc::socklen_t
}

/// Switches a boolean option of sockets on.
fn switch_on(socket: &UdpSocket, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length are those of `on`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Switches [`SO_RXQ_OVFL`] on. A kernel that does not know it forwards as well, without that counter.
pub(super) fn count_losses(socket: &UdpSocket) {
    if let Err(error) = switch_on(socket, SO_RXQ_OVFL) {
        tracing::debug!(%error, "datagrams that find no room are not counted");
    }
}

/// Asks for the time at which each datagram came in, by the wall clock.
pub(super) fn stamp_arrivals(socket: &UdpSocket) {
    if let Err(error) = switch_on(socket, libc::SO_TIMESTAMPNS) {
        tracing::debug!(%error, "datagrams come without their receive time");
    }
}

/// How many of `lost` are not in `known` yet, which then holds them. A datagram that waited in the queue says what was lost when it
/// came, and that may be less than what the socket itself has said since.
pub(super) fn newly_lost(known: &mut u32, lost: u32) -> u32 {
    let ahead = lost.wrapping_sub(*known);
    if ahead > u32::MAX / 2 {
        return 0;
    }
    *known = lost;
    ahead
}

/// Datagrams that a socket has lost for want of room so far; wraps, and counts what [`SO_RXQ_OVFL`] counts.
pub(super) fn lost_of(socket: &UdpSocket) -> Option<u32> {
    let mut numbers = [0u32; MEMINFO_NUMBERS];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the pointer and length are those of `numbers`, which outlives the call; the kernel writes at most `len` bytes, and
    // any bytes are valid integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let is_told = result == 0 && len as usize >= (MEMINFO_DROPS + 1) * size_of::<u32>();
    is_told.then(|| numbers[MEMINFO_DROPS])
}

/// What the kernel tells beside a datagram.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) len: usize,
    pub(super) flags: i32,
    /// How many datagrams the socket had lost when this one came.
    pub(super) lost: Option<u32>,
    pub(super) received_at: Option<WallTime>,
}

/// Room for the two control messages that are asked for: a count (`CMSG_SPACE(4)`) and a time (`CMSG_SPACE(16)`).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL_BYTES]);

impl Told {
    /// Reads the control messages that the kernel wrote to the front of `control`.
    pub(super) fn note_control(&mut self, control: &[u8]) {
        let head = size_of::<libc::cmsghdr>();
        let mut rest = control;
        while rest.len() >= head {
            let len = usize::from_ne_bytes(rest[..8].try_into().expect("eight bytes of a longer slice"));
            let int =
                |at: usize| i32::from_ne_bytes(rest[at..at + 4].try_into().expect("four bytes of a longer slice"));
            let (level, kind) = (int(8), int(12));
            let Some(data) = rest.get(head..len) else { return };
            match (level, kind, data.len()) {
                (libc::SOL_SOCKET, SO_RXQ_OVFL, 4) => self.lost = Some(int(head).cast_unsigned()),
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, 16) => {
                    let number =
                        |at: usize| u64::from_ne_bytes(data[at..at + 8].try_into().expect("half of sixteen bytes"));
                    self.received_at = Some(WallTime::from_unix_micros(number(0) * 1_000_000 + number(8) / 1000));
                }
                _ => {}
            }
            rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
        }
    }
}

/// An empty message header; pads differ between C libraries, so it cannot be written as a literal.
pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: `mmsghdr` is plain data of integers and raw pointers, for which all-zero bytes are a valid value.
    unsafe { std::mem::zeroed() }
}

/// `recvmmsg` without waiting: fills `memory[i]` (room for [`DATAGRAM_MAX_BYTES`] each), `names[i]` and `told[i]`.
pub(super) fn receive_many<const N: usize>(
    fd: RawFd,
    memory: &[*mut u8],
    names: &mut [Name; N],
    told: &mut [Told; N],
) -> io::Result<usize> {
    assert!(memory.len() <= N, "there is room for {N} datagrams");
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; N];
    let mut headers = [empty_header(); N];
    let mut controls = [Control([0; CONTROL_BYTES]); N];
    for (at, &start) in memory.iter().enumerate() {
        pieces[at] = libc::iovec { iov_base: start.cast(), iov_len: DATAGRAM_MAX_BYTES };
        let header = &mut headers[at].msg_hdr;
        header.msg_control = controls[at].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        header.msg_name = (&raw mut names[at]).cast();
        header.msg_namelen = size_of::<Name>() as libc::socklen_t;
        header.msg_iov = &raw mut pieces[at];
        header.msg_iovlen = 1;
    }
    // SAFETY: the first `memory.len()` headers point into `names`, `controls` and `pieces`, which outlive the call, with their
    // lengths, and each piece at DATAGRAM_MAX_BYTES of a pool buffer behind its headroom, which the caller took out of the pool: nobody else has it.
    let got = unsafe { receive_headers(fd, &mut headers[..memory.len()]) }?;
    for ((told, header), control) in told.iter_mut().zip(&headers[..got]).zip(&controls) {
        *told = Told { len: header.msg_len as usize, flags: header.msg_hdr.msg_flags, ..Told::default() };
        told.note_control(&control.0[..CONTROL_BYTES.min(header.msg_hdr.msg_controllen as _)]);
    }
    Ok(got)
}

/// The same for a socket that hears one peer alone and is asked for nothing beside its datagrams.
pub(super) fn receive_many_alone<const N: usize>(
    fd: RawFd,
    memory: &[*mut u8],
    told: &mut [Told; N],
) -> io::Result<usize> {
    assert!(memory.len() <= N, "there is room for {N} datagrams");
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; N];
    let mut headers = [empty_header(); N];
    for (at, &start) in memory.iter().enumerate() {
        pieces[at] = libc::iovec { iov_base: start.cast(), iov_len: DATAGRAM_MAX_BYTES };
        headers[at].msg_hdr.msg_iov = &raw mut pieces[at];
        headers[at].msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `memory.len()` headers point into `pieces`, and those at the memory that `receive_many` asks for as well.
    let got = unsafe { receive_headers(fd, &mut headers[..memory.len()]) }?;
    for (told, header) in told.iter_mut().zip(&headers[..got]) {
        *told = Told { len: header.msg_len as usize, flags: header.msg_hdr.msg_flags, ..Told::default() };
    }
    Ok(got)
}

/// `recvmmsg` without waiting.
///
/// # Safety
/// What the headers point to must be there for the kernel to write, in the lengths that they say.
unsafe fn receive_headers(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = headers.len() as libc::c_uint;
    // SAFETY: pointer and count are those of `headers`; the rest is passed on to the caller.
    let got = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Makes a socket hear `peer` alone, or everybody (connect(2)).
pub(super) fn connect(fd: RawFd, peer: Option<SocketAddr>) -> io::Result<()> {
    let mut name = NO_NAME;
    name.sin6_family = libc::AF_UNSPEC as libc::sa_family_t;
    let len = peer.map_or(size_of::<Name>() as libc::socklen_t, |peer| encode_name(peer, &mut name));
    // SAFETY: pointer and length are those of `name`, which outlives the call; the kernel only reads it.
    let result = unsafe { libc::connect(fd, (&raw const name).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a socket may be connected: one that is bound to all addresses would be bound to one by it, and miss what comes to the others.
pub(super) fn may_connect(local: SocketAddr) -> bool {
    !local.ip().is_unspecified()
}

/// An address that the kernel chose is the socket's only until it is disconnected.
#[cfg(test)]
pub(super) fn bind_by_number(ip: IpAddr) -> UdpSocket {
    for _ in 0..100 {
        let chosen = UdpSocket::bind((ip, 0)).and_then(|socket| socket.local_addr());
        if let Ok(socket) = chosen.and_then(UdpSocket::bind) {
            return socket;
        }
    }
    panic!("no port of {ip} can be bound");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_late_datagram_says_of_losses_is_not_counted_again() {
        let mut known = u32::MAX - 5;
        let said = [u32::MAX, u32::MAX - 3, u32::MAX, 4, u32::MAX, 4, 5].map(|lost| newly_lost(&mut known, lost));
        assert_eq!((said, known), ([5, 0, 0, 5, 0, 0, 1], 5));
    }
}
