//! The epoll engine: mio for readiness, `recvmmsg` and `sendmmsg` for packets.
//!
//! Containers and hardened hosts refuse the completion ring, so this is a full peer of it. Readiness is edge-triggered: a port
//! that was not read empty stays in a ready list and gets its next turn after all others, so that one flooded port cannot
//! starve the rest. A port that is connected is read without senders as soon as it was read empty once: until then, what others sent
//! before may wait in it. Under load packets are gathered for a moment, as the ring does ([`Pace`]).

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use gangway_shared::time::Time;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    BATCH_MAX, BUFFERS, Batch, Buffers, Completion, Engine, FAILURES_MAX, OpenError, PORTS_MAX, Wake, clock,
    pace::{Pace, sleep},
    pool::HEADROOM_BYTES,
    socket::{
        CALL_MAX, NO_NAME, Name, Told, connect, count_losses, decode_name, empty_header, encode_name, error_class,
        lost_of, may_connect, newly_lost, receive_many, receive_many_alone, stamp_arrivals,
    },
};
use crate::{
    relay::{Now, PortId},
    wire::DropReason,
};

/// Datagrams asked of a port that was quiet last time. Two, because a read that comes back short proves the port empty and
/// saves the second call.
const WANT_MIN: usize = 2;

/// Datagrams of one system call up to which it is made with little room beside: preparing that of [`CALL_MAX`] costs as much as
/// walking a packet.
const FEW: usize = 4;

/// Readiness events taken from the kernel in one wait.
const EVENTS_MAX: usize = 256;

/// A wait for longer than this may end up to a millisecond late.
const COARSE: Duration = Duration::from_millis(50);

const WAKE_TOKEN: Token = Token(usize::MAX);

/// See the module text.
pub struct EpollEngine {
    poll: Poll,
    events: Events,
    waker: Arc<mio::Waker>,
    buffers: Buffers,
    slots: Vec<Option<Slot>>,
    free: VecDeque<u32>,
    ready: VecDeque<u32>,
    order: Vec<u16>,
    failures: Vec<Completion>,
    pace: Pace,
}

struct Slot {
    socket: UdpSocket,
    is_ipv4: bool,
    is_ready: bool,
    want: usize,
    may_connect: bool,
    /// Whom alone the socket hears.
    peer: Option<SocketAddr>,
    /// Nothing waits in the socket that came before it was connected.
    is_alone: bool,
    is_stamped: bool,
    /// What the kernel last said of lost datagrams; wraps.
    lost: u32,
}

impl EpollEngine {
    /// An engine without ports.
    ///
    /// # Errors
    /// When the kernel gives no epoll or eventfd.
    pub fn new() -> io::Result<Self> {
        EpollEngine::with_buffers(BUFFERS)
    }

    /// An engine without ports that can hold so many packets, 65,535 at most.
    ///
    /// # Errors
    /// As [`EpollEngine::new`].
    pub fn with_buffers(count: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE_TOKEN)?);
        Ok(EpollEngine {
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            buffers: Buffers::of(count),
            slots: (0..PORTS_MAX).map(|_| None).collect(),
            free: (0..u32::try_from(PORTS_MAX).expect("ports are counted in 32 bits")).collect(),
            ready: VecDeque::with_capacity(PORTS_MAX),
            order: Vec::with_capacity(count),
            failures: Vec::with_capacity(FAILURES_MAX),
            pace: Pace::default(),
        })
    }

    /// Waits for readiness; true when a wake was among it.
    fn wait(&mut self, deadline: Option<Time>) -> bool {
        let idle = self.ready.is_empty() && self.failures.is_empty();
        let mut timeout = match deadline {
            _ if !idle => Some(Duration::ZERO),
            Some(Time::ZERO) => Some(Duration::ZERO),
            deadline => deadline.map(|at| at.since(clock::mono())),
        };
        let gather = self.pace.gather(clock::mono());
        let gather = timeout.map_or(gather, |timeout| timeout.min(gather));
        if !gather.is_zero() {
            sleep(gather);
            timeout = timeout.map(|timeout| timeout - gather);
        }
        if let Some(fine) = timeout.filter(|timeout| !timeout.is_zero() && *timeout < COARSE) {
            self.wait_finely(fine);
            timeout = Some(Duration::ZERO);
        }
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            debug_assert_eq!(error.kind(), io::ErrorKind::Interrupted, "epoll_wait failed: {error}");
            return false;
        }
        let mut woken = false;
        for event in &self.events {
            if event.token() == WAKE_TOKEN {
                woken = true;
            } else if let Some(slot) = self.slots.get_mut(event.token().0).and_then(Option::as_mut)
                && !slot.is_ready
            {
                slot.is_ready = true;
                self.ready.push_back(event.token().0 as u32);
            }
        }
        woken
    }

    /// Waits until something is ready, at most for `timeout`, which epoll(7) would round up to milliseconds.
    fn wait_finely(&self, timeout: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        // SAFETY: the descriptor is that of `self.poll`, which outlives this call.
        let poll_fd = unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) };
        let mut readiness = [PollFd::new(&poll_fd, PollFlags::IN)];
        // A signal ends it early, and nothing else can be wrong: the caller looks what is ready either way.
        let _ = poll(&mut readiness, Some(&timeout));
    }

    /// One call on one port; false when the port is empty.
    fn read_port(&mut self, port: u32, room: usize, batch: &mut Batch) -> bool {
        let Some(slot) = self.slots[port as usize].as_ref() else { return false };
        let wanted = slot.want.min(room);
        if wanted <= FEW {
            self.read_up_to::<FEW>(port, wanted, batch)
        } else {
            self.read_up_to::<CALL_MAX>(port, wanted, batch)
        }
    }

    fn read_up_to<const N: usize>(&mut self, port: u32, wanted: usize, batch: &mut Batch) -> bool {
        let Some(slot) = self.slots[port as usize].as_mut() else { return false };
        let mut buffers = [None; N];
        let mut memory = [std::ptr::null_mut(); N];
        let mut count = 0;
        while count < wanted
            && let Some(buffer) = self.buffers.take()
        {
            buffers[count] = Some(buffer);
            memory[count] = self.buffers.bytes(buffer)[HEADROOM_BYTES..].as_mut_ptr();
            count += 1;
        }
        if count == 0 {
            return true;
        }
        let mut names = [NO_NAME; N];
        let mut told = [Told::default(); N];
        let alone = slot.peer.filter(|_| slot.is_alone && !slot.is_stamped);
        let got = match alone {
            Some(_) => receive_many_alone(slot.socket.as_raw_fd(), &memory[..count], &mut told),
            None => receive_many(slot.socket.as_raw_fd(), &memory[..count], &mut names, &mut told),
        };
        let last = got.as_ref().ok().and_then(|got| got.checked_sub(1)).and_then(|last| told[last].lost);
        let newly_lost = last.map_or(0, |lost| newly_lost(&mut slot.lost, lost));
        let full = matches!(got, Ok(got) if got == count);
        let is_empty = got.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |_| !full);
        slot.is_alone |= is_empty && slot.peer.is_some();
        slot.want = if full { (slot.want * 2).min(CALL_MAX) } else { (slot.want / 2).max(WANT_MIN) };
        let port = PortId(port);
        if newly_lost > 0 {
            batch.push(Completion::Lost { port, count: newly_lost });
        }
        for (at, &buffer) in buffers[..count].iter().flatten().enumerate() {
            let received = at < *got.as_ref().unwrap_or(&0);
            let Told { len, flags, received_at, .. } = told[at];
            match alone.or_else(|| decode_name(&names[at])).filter(|_| received) {
                Some(from) if flags & libc::MSG_TRUNC == 0 => {
                    batch.push(Completion::Received { port, from, buffer, start: HEADROOM_BYTES, len, received_at });
                }
                Some(_) => {
                    self.buffers.recycle(buffer);
                    batch.push(Completion::Failed { port, reason: DropReason::PacketTooLarge });
                }
                None => self.buffers.recycle(buffer),
            }
        }
        match got {
            Ok(_) => full,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            // An error that waited on the socket, such as a port that nobody listens on. Reading it took it off.
            Err(error) => {
                batch.push(Completion::Failed { port, reason: error_class(&error) });
                true
            }
        }
    }

    fn fail(&mut self, port: PortId, reason: DropReason) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Completion::Failed { port, reason });
        }
    }

    /// Sends `run`, indices into the queue that share a port.
    fn send_run(&mut self, run: &[u16]) {
        if run.len() <= FEW { self.send_up_to::<FEW>(run) } else { self.send_up_to::<CALL_MAX>(run) }
    }

    fn send_up_to<const N: usize>(&mut self, run: &[u16]) {
        let port = self.buffers.queue()[usize::from(run[0])].port;
        let Some((fd, is_ipv4, peer)) = self
            .slots
            .get(port.0 as usize)
            .and_then(Option::as_ref)
            .map(|slot| (slot.socket.as_raw_fd(), slot.is_ipv4, slot.peer))
        else {
            run.iter().for_each(|_| self.fail(port, DropReason::PortUnknown));
            return;
        };
        let mut memory = [(std::ptr::null_mut(), 0); N];
        let mut names = [NO_NAME; N];
        let mut name_lens = [0; N];
        let mut count = 0;
        for &at in run {
            let packet = self.buffers.queue()[usize::from(at)];
            if packet.to.is_ipv4() != is_ipv4 {
                self.fail(port, DropReason::WrongFamily);
                continue;
            }
            let bytes = &mut self.buffers.bytes(packet.buffer)[packet.start..packet.start + packet.len];
            memory[count] = (bytes.as_mut_ptr(), bytes.len());
            // Without a name the kernel takes the way it found when the socket was connected.
            if peer != Some(packet.to) {
                name_lens[count] = encode_name(packet.to, &mut names[count]);
            }
            count += 1;
        }
        let mut sent = 0;
        let mut is_refused = false;
        while sent < count {
            match send_many::<N>(fd, &memory[sent..count], &mut names[sent..count], &name_lens[sent..count]) {
                Ok(0) => break,
                Ok(more) => (sent, is_refused) = (sent + more, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (sent..count).for_each(|_| self.fail(port, DropReason::SendWouldBlock));
                    return;
                }
                // A connected socket says so of a packet before this one, which has not left yet.
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) && peer.is_some() && !is_refused => {
                    is_refused = true;
                }
                Err(error) => {
                    self.fail(port, error_class(&error));
                    (sent, is_refused) = (sent + 1, false);
                }
            }
        }
    }
}

impl Engine for EpollEngine {
    type Socket = UdpSocket;

    const NAME: &'static str = "epoll";

    fn now(&self) -> Now {
        clock::now()
    }

    fn cpu_time(&self) -> Duration {
        clock::thread_cpu_time()
    }

    fn rest(&mut self, time: Duration) {
        sleep(time);
    }

    fn stamp(&mut self, port: PortId) {
        if let Some(slot) = self.slots.get_mut(port.0 as usize).and_then(Option::as_mut) {
            stamp_arrivals(&slot.socket);
            slot.is_stamped = true;
        }
    }

    fn take_lost(&mut self, port: PortId) -> u32 {
        let Some(slot) = self.slots.get_mut(port.0 as usize).and_then(Option::as_mut) else { return 0 };
        let Some(lost) = lost_of(&slot.socket) else { return 0 };
        newly_lost(&mut slot.lost, lost)
    }

    fn open(&mut self, socket: UdpSocket) -> Result<PortId, OpenError> {
        let local = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        if socket.peer_addr().is_ok() {
            connect(socket.as_raw_fd(), None)?;
        }
        count_losses(&socket);
        let lost = lost_of(&socket).unwrap_or(0);
        let port = self.free.pop_front().ok_or(OpenError::Full)?;
        let registered =
            self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(port as usize), Interest::READABLE);
        if let Err(error) = registered {
            self.free.push_front(port);
            return Err(error.into());
        }
        self.slots[port as usize] = Some(Slot {
            socket,
            is_ipv4: local.is_ipv4(),
            is_ready: false,
            want: WANT_MIN,
            may_connect: may_connect(local),
            peer: None,
            is_alone: false,
            is_stamped: false,
            lost,
        });
        Ok(PortId(port))
    }

    fn ports(&self) -> Vec<PortId> {
        let slots = self.slots.iter().zip(0..);
        slots.filter(|(slot, _)| slot.is_some()).map(|(_, port)| PortId(port)).collect()
    }

    fn close(&mut self, port: PortId) -> Option<UdpSocket> {
        let slot = self.slots.get_mut(port.0 as usize)?.take()?;
        if slot.is_ready {
            self.ready.retain(|&ready| ready != port.0);
        }
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&slot.socket.as_raw_fd())) {
            tracing::warn!(%error, "a port could not be taken off epoll");
        }
        self.free.push_back(port.0);
        Some(slot.socket)
    }

    fn connect(&mut self, port: PortId, peer: Option<SocketAddr>) {
        let Some(slot) = self.slots.get_mut(port.0 as usize).and_then(Option::as_mut) else { return };
        let fits = slot.may_connect && peer.is_none_or(|peer| peer.is_ipv4() == slot.is_ipv4);
        if !fits || slot.peer == peer {
            return;
        }
        match connect(slot.socket.as_raw_fd(), peer) {
            Ok(()) => (slot.peer, slot.is_alone) = (peer, false),
            // It hears whom it heard before; the relay judges all of them.
            Err(error) => tracing::debug!(?peer, %error, "a port could not be connected"),
        }
    }

    fn receive(&mut self, deadline: Option<Time>, batch: &mut Batch) {
        debug_assert!(batch.is_empty(), "the last round was not worked off");
        self.buffers.assert_whole(0, 0);
        if self.wait(deadline) {
            batch.push(Completion::Woken);
        }
        batch.completions.append(&mut self.failures);
        let full = batch.len() + BATCH_MAX;
        // Each ready port gets one call before any gets its second.
        while batch.len() < full
            && let Some(port) = self.ready.pop_front()
        {
            if self.read_port(port, full - batch.len(), batch) {
                self.ready.push_back(port);
            } else if let Some(slot) = self.slots[port as usize].as_mut() {
                slot.is_ready = false;
            }
            if self.buffers.available() == 0 {
                break;
            }
        }
        self.pace.note(clock::mono(), batch.len());
    }

    fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn flush(&mut self) {
        let mut order = std::mem::take(&mut self.order);
        order.extend(0..u16::try_from(self.buffers.queue().len()).expect("a queue is no longer than the pool"));
        order.sort_unstable_by_key(|&at| (self.buffers.queue()[usize::from(at)].port, at));
        let mut rest = order.as_slice();
        while let Some(&first) = rest.first() {
            let port = self.buffers.queue()[usize::from(first)].port;
            let len = rest
                .iter()
                .take(CALL_MAX)
                .take_while(|&&at| self.buffers.queue()[usize::from(at)].port == port)
                .count();
            let (run, after) = rest.split_at(len);
            self.send_run(run);
            rest = after;
        }
        self.buffers.clear_queue();
        order.clear();
        self.order = order;
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn reclaim(&mut self) {
        self.order = Vec::with_capacity(self.buffers.total());
        self.buffers.reclaim();
    }
}

/// `sendmmsg` without waiting, or the cheaper `sendto` for a single packet; how many of the packets left.
fn send_many<const N: usize>(
    fd: RawFd,
    memory: &[(*mut u8, usize)],
    names: &mut [Name],
    name_lens: &[libc::socklen_t],
) -> io::Result<usize> {
    if let &[(start, len)] = memory {
        let name = if name_lens[0] > 0 { (&raw const names[0]).cast() } else { std::ptr::null() };
        // SAFETY: the packet's bytes lie in a pool buffer that stands in the send queue, which the pool does not give out, and `name`
        // is none or of that length. The kernel only reads.
        let sent = unsafe { libc::sendto(fd, start.cast(), len, libc::MSG_DONTWAIT, name, name_lens[0]) };
        return if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) };
    }
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; N];
    let mut headers = [empty_header(); N];
    for (at, &(start, len)) in memory.iter().enumerate() {
        pieces[at] = libc::iovec { iov_base: start.cast(), iov_len: len };
        let header = &mut headers[at].msg_hdr;
        if name_lens[at] > 0 {
            header.msg_name = (&raw mut names[at]).cast();
            header.msg_namelen = name_lens[at];
        }
        header.msg_iov = &raw mut pieces[at];
        header.msg_iovlen = 1;
    }
    // SAFETY: the first `memory.len()` headers point into `names` and `pieces`, which outlive the call, and each piece at the
    // packet's bytes in a pool buffer that stands in the send queue, which the pool does not give out. The kernel only reads.
    let sent =
        unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), memory.len() as libc::c_uint, libc::MSG_DONTWAIT as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
