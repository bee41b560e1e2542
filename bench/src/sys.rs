//! The few system calls that no safe crate offers: many datagrams a call with the kernel's time of arrival, and the CPU time of a
//! thread. All of bench's `unsafe` is here. IPv4 only.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Bytes of one datagram's buffer: the largest datagram of any workload with room for a tag.
pub const BUFFER_LEN_BYTES: usize = 2048;

/// Datagrams that one system call takes or gives at most.
pub const CALL_MAX: usize = 32;

/// Nanoseconds of CPU that this thread has used: unlike wall time it does not count what the neighbours do.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    to_ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// Nanoseconds of the wall clock, in which the kernel stamps arrivals.
#[must_use]
pub fn wall_ns() -> u64 {
    to_ns(clock_gettime(ClockId::Realtime))
}

fn to_ns(time: Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Asks the kernel to stamp each datagram of `socket` when it comes (socket(7), `SO_TIMESTAMPNS`).
///
/// # Errors
/// What the kernel says.
pub fn stamp_arrivals(socket: &UdpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: pointer and length are those of `on`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The one control message that is asked for, as the kernel writes it (`CMSG_LEN(sizeof(struct timespec))`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    time: libc::timespec,
}

fn no_header() -> libc::mmsghdr {
    // SAFETY: `mmsghdr` is integers and raw pointers, for which all-zero bytes are a valid value.
    unsafe { std::mem::zeroed() }
}

fn no_control() -> Control {
    // SAFETY: integers only, for which all-zero bytes are a valid value; pads differ between C libraries.
    unsafe { std::mem::zeroed() }
}

const NO_NAME: libc::sockaddr_in =
    libc::sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: libc::in_addr { s_addr: 0 }, sin_zero: [0; 8] };

fn encode(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn decode(name: &libc::sockaddr_in) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes()), u16::from_be(name.sin_port))
}

/// Buffers for datagrams that come in.
pub struct Inbox {
    memory: Box<[[u8; BUFFER_LEN_BYTES]; CALL_MAX]>,
    names: [libc::sockaddr_in; CALL_MAX],
    controls: [Control; CALL_MAX],
    lens: [usize; CALL_MAX],
}

/// One datagram that came.
pub struct Datagram<'a> {
    /// Who sent it.
    pub from: SocketAddrV4,
    /// When the kernel took it, in nanoseconds of the wall clock; 0 on a socket without [`stamp_arrivals`].
    pub at_ns: u64,
    /// Its whole buffer.
    pub buffer: &'a mut [u8],
    /// Its length in bytes.
    pub len: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox {
            memory: Box::new([[0; BUFFER_LEN_BYTES]; CALL_MAX]),
            names: [NO_NAME; CALL_MAX],
            controls: [no_control(); CALL_MAX],
            lens: [0; CALL_MAX],
        }
    }
}

impl Inbox {
    /// Takes up to `max` datagrams off `socket` without waiting; 0 when there are none, or when an error of an earlier send was
    /// waiting on the socket.
    pub fn receive(&mut self, socket: &UdpSocket, max: usize) -> usize {
        let max = max.min(CALL_MAX);
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; CALL_MAX];
        let mut headers = [no_header(); CALL_MAX];
        for at in 0..max {
            pieces[at] = libc::iovec { iov_base: self.memory[at].as_mut_ptr().cast(), iov_len: BUFFER_LEN_BYTES };
            let header = &mut headers[at].msg_hdr;
            header.msg_iov = &raw mut pieces[at];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_control = (&raw mut self.controls[at]).cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: the first `max` headers point into `pieces`, `names`, `controls` and `memory`, each with its own length; all of
        // them outlive the call and are borrowed by nobody else.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                max as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).unwrap_or(0);
        for (len, header) in self.lens.iter_mut().zip(&headers[..got]) {
            *len = header.msg_len as usize;
        }
        got
    }

    /// The `at`-th datagram of the last [`receive`](Self::receive).
    pub fn datagram(&mut self, at: usize) -> Datagram<'_> {
        let control = &self.controls[at];
        let is_stamp =
            (control.header.cmsg_level, control.header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS);
        let at_ns = if is_stamp {
            control.time.tv_sec.cast_unsigned() * 1_000_000_000 + control.time.tv_nsec.cast_unsigned()
        } else {
            0
        };
        Datagram { from: decode(&self.names[at]), at_ns, buffer: &mut self.memory[at], len: self.lens[at] }
    }
}

/// Datagrams that wait to be sent by one socket.
pub struct Outbox {
    memory: Box<[[u8; BUFFER_LEN_BYTES]; CALL_MAX]>,
    names: [libc::sockaddr_in; CALL_MAX],
    lens: [usize; CALL_MAX],
    count: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox {
            memory: Box::new([[0; BUFFER_LEN_BYTES]; CALL_MAX]),
            names: [NO_NAME; CALL_MAX],
            lens: [0; CALL_MAX],
            count: 0,
        }
    }
}

impl Outbox {
    /// Whether [`flush`](Self::flush) must come before the next [`push`](Self::push).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count == CALL_MAX
    }

    /// Lets `build` write a datagram for `to`; it returns the length, 0 for none.
    ///
    /// # Panics
    /// When it is full.
    pub fn push(&mut self, to: SocketAddrV4, build: impl FnOnce(&mut [u8; BUFFER_LEN_BYTES]) -> usize) {
        let len = build(&mut self.memory[self.count]);
        assert!(len <= BUFFER_LEN_BYTES, "a datagram lies in its buffer");
        if len > 0 {
            self.names[self.count] = encode(to);
            self.lens[self.count] = len;
            self.count += 1;
        }
    }

    /// Sends what waits, without waiting; how many the kernel did not take.
    pub fn flush(&mut self, socket: &UdpSocket) -> usize {
        let count = std::mem::take(&mut self.count);
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; CALL_MAX];
        let mut headers = [no_header(); CALL_MAX];
        for at in 0..count {
            pieces[at] = libc::iovec { iov_base: self.memory[at].as_mut_ptr().cast(), iov_len: self.lens[at] };
            let header = &mut headers[at].msg_hdr;
            header.msg_iov = &raw mut pieces[at];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut self.names[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        let (mut at, mut refused) = (0, 0);
        while at < count {
            // SAFETY: headers `at..count` point into `pieces`, `names` and `memory`, which outlive the call; the kernel only reads.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    headers[at..].as_mut_ptr(),
                    (count - at) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => at += sent,
                // An error of an earlier datagram, or no room: this one is given up, the next may pass.
                _ => (at, refused) = (at + 1, refused + 1),
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = thread_cpu_ns();
        let mut sum = 0u64;
        while thread_cpu_ns() < before + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }

    #[test]
    fn datagrams_come_as_they_were_sent_with_their_sender_and_a_time() {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        stamp_arrivals(&b).unwrap();
        let address = |socket: &UdpSocket| match socket.local_addr().unwrap() {
            std::net::SocketAddr::V4(address) => address,
            std::net::SocketAddr::V6(_) => unreachable!("bound to IPv4"),
        };
        let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
        let before = wall_ns();
        for n in 1..=CALL_MAX {
            outbox.push(address(&b), |buffer| {
                buffer[..n].fill(n as u8);
                n
            });
        }
        assert!(outbox.is_full());
        assert_eq!(outbox.flush(&a), 0);
        assert_eq!(inbox.receive(&b, 4), 4, "loopback delivers before the send returns");
        assert_eq!(inbox.receive(&b, CALL_MAX), CALL_MAX - 4);
        let last = inbox.datagram(CALL_MAX - 5);
        assert_eq!((last.from, last.len), (address(&a), CALL_MAX));
        assert!(last.buffer[..last.len].iter().all(|byte| usize::from(*byte) == CALL_MAX));
        assert!((before..=wall_ns()).contains(&last.at_ns), "{before} {}", last.at_ns);
        assert_eq!(inbox.receive(&b, CALL_MAX), 0);
    }
}
