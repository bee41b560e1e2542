//! A port of the ring engine: what is armed on it, whom it hears, and how it ends.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
};

use io_uring::{cqueue, opcode, types::Fd};

use super::{DETAIL_MAX, RETRY, UringEngine, kind, number, provided::ROOM_BYTES, ring};
use crate::{
    engine::{
        Batch, BufferId, Completion, OpenError, clock,
        pool::HEADROOM_BYTES,
        socket::{
            CALL_MAX, CONTROL_BYTES, NO_NAME, Name, Told, connect, count_losses, decode_name, error_class, lost_of,
            may_connect, newly_lost, receive_many, stamp_arrivals,
        },
    },
    relay::PortId,
    wire::DropReason,
};

/// Bytes that the kernel writes before a datagram of `recvmsg`: the lengths, the sender, and what it tells beside.
const LENGTHS_BYTES: usize = 16;
const BESIDE_BYTES: usize = LENGTHS_BYTES + size_of::<Name>() + CONTROL_BYTES;

/// How often a receive is cancelled before a port is left as it is: one that is being carried out is not found by the first.
const CANCEL_TRIES: usize = 64;

/// Buffers for each port that is armed: what may wait in it.
const WAITING_EACH: usize = 8;

/// Ports that are armed in a round, if there is any buffer at all.
const ARMED_MIN: usize = 4;

/// What is armed on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Armed {
    /// Nothing: the port is deaf until the next round.
    #[default]
    Nothing,
    /// `recvmsg`, with the sender of each datagram.
    Everybody,
    /// `recv`: everything is of this peer.
    Alone(SocketAddr),
}

/// A place for a port.
#[derive(Default)]
pub(super) struct Slot {
    socket: Option<UdpSocket>,
    armed: Armed,
    /// What was armed last; its completions may still come when it has ended.
    was: Armed,
    /// Of the receive that is armed, or was last.
    generation: u32,
    /// Whom the socket is connected to.
    pub(super) peer: Option<SocketAddr>,
    /// Datagrams of the receive that is armed.
    got: u32,
    /// Sends whose completion is not here yet.
    pub(super) sends: u32,
    /// Closed, and not to be used again before its operations are over.
    is_closing: bool,
    pub(super) is_ipv4: bool,
    may_connect: bool,
    /// It tells when its datagrams came, which only `recvmsg` can.
    is_stamped: bool,
    /// Connected, and what waited then has not been read yet: it may be of others.
    is_mixed: bool,
    /// What the kernel last said of lost datagrams; wraps.
    lost: u32,
}

impl Slot {
    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn hears_alone(&self) -> bool {
        self.peer.is_some()
    }

    /// The number by which an operation names its file.
    pub(super) fn file(&self, place: u32, is_registered: bool) -> RawFd {
        if is_registered { place as RawFd } else { self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd) }
    }

    pub(super) fn take_lost(&mut self) -> u32 {
        let Some(lost) = self.socket.as_ref().and_then(lost_of) else { return 0 };
        self.note_lost(lost)
    }

    #[cfg(test)]
    pub(super) fn pretend_armed(&mut self) {
        self.armed = Armed::Everybody;
    }

    fn note_lost(&mut self, lost: u32) -> u32 {
        newly_lost(&mut self.lost, lost)
    }
}

/// A header that says nothing; pads differ between C libraries, so it cannot be written as a literal.
pub(super) fn no_header() -> libc::msghdr {
    // SAFETY: `msghdr` is plain data of integers and raw pointers, for which all-zero bytes are a valid value.
    unsafe { std::mem::zeroed() }
}

impl UringEngine {
    pub(super) fn open_port(&mut self, socket: UdpSocket) -> Result<PortId, OpenError> {
        let local = socket.local_addr()?;
        // On a socket that does not block the ring does not wait either: a receive would end at once.
        socket.set_nonblocking(false)?;
        if socket.peer_addr().is_ok() {
            connect(socket.as_raw_fd(), None)?;
        }
        count_losses(&socket);
        let lost = lost_of(&socket).unwrap_or(0);
        let place = self.free.pop_front().ok_or(OpenError::Full)?;
        if self.ring.features.registered_files
            && let Err(error) = self.ring.set_file(place, socket.as_raw_fd())
        {
            self.free.push_front(place);
            return Err(error.into());
        }
        let generation = self.slots[place as usize].generation;
        self.slots[place as usize] = Slot {
            socket: Some(socket),
            generation,
            is_ipv4: local.is_ipv4(),
            may_connect: may_connect(local),
            lost,
            ..Slot::default()
        };
        self.deaf.push_back(place);
        Ok(PortId(place))
    }

    pub(super) fn stamp_port(&mut self, port: PortId) {
        let Some(slot) = self.slots.get_mut(port.0 as usize) else { return };
        if let Some(socket) = &slot.socket {
            stamp_arrivals(socket);
            slot.is_stamped = true;
        }
    }

    pub(super) fn close_port(&mut self, port: PortId) -> Option<UdpSocket> {
        let place = port.0;
        self.slots.get(place as usize).filter(|slot| slot.is_open())?;
        // What was queued names the file by its place, so it leaves first.
        let _ = self.ring.enter(ring::Wait::NONE);
        self.disarm(place);
        if self.ring.features.registered_files
            && let Err(error) = self.ring.set_file(place, -1)
        {
            tracing::warn!(%error, "a port could not be taken off the ring");
        }
        let slot = &mut self.slots[place as usize];
        (slot.is_closing, slot.peer) = (true, None);
        let socket = slot.socket.take();
        self.deaf.retain(|&deaf| deaf != place);
        self.failing.retain(|&failing| failing != place);
        self.unmet.retain(|&(unmet, _)| unmet != place);
        self.release(place);
        socket
    }

    /// Lets a closed port's place be used again when nothing of it is left with the kernel.
    pub(super) fn release(&mut self, place: u32) {
        let slot = &mut self.slots[place as usize];
        if slot.is_closing && slot.sends == 0 && slot.armed == Armed::Nothing {
            slot.is_closing = false;
            self.free.push_back(place);
        }
    }

    pub(super) fn connect_port(&mut self, port: PortId, peer: Option<SocketAddr>) {
        let place = port.0;
        let Some(slot) = self.slots.get(place as usize).filter(|slot| slot.is_open()) else { return };
        let fits = slot.may_connect && peer.is_none_or(|peer| peer.is_ipv4() == slot.is_ipv4);
        if !fits || slot.peer == peer {
            self.unmet.retain(|&(unmet, _)| unmet != place);
            return;
        }
        // `recv` does not tell whom a datagram is of: it must have ended before others are heard.
        if !self.disarm(place) {
            self.unmet.retain(|&(unmet, _)| unmet != place);
            self.unmet.push((place, peer));
            return;
        }
        let slot = &mut self.slots[place as usize];
        let Some(socket) = &slot.socket else { return };
        match connect(socket.as_raw_fd(), peer) {
            Ok(()) => (slot.peer, slot.is_mixed) = (peer, peer.is_some()),
            // It hears whom it heard before; the relay judges all of them.
            Err(error) => tracing::debug!(?peer, %error, "a port could not be connected"),
        }
    }

    /// Tries again what could not be done because a receive did not end.
    pub(super) fn connect_unmet(&mut self) {
        for (place, peer) in std::mem::take(&mut self.unmet) {
            self.connect_port(PortId(place), peer);
        }
    }

    /// Ends the receive of a port and waits for its end. What it received before waits in the stash. False when it goes on.
    pub(super) fn disarm(&mut self, place: u32) -> bool {
        if self.slots[place as usize].armed != Armed::Nothing {
            // It may have ended by itself while another port was waited for.
            self.stash_until_end(place);
        }
        for _ in 0..CANCEL_TRIES {
            let slot = &self.slots[place as usize];
            if slot.armed == Armed::Nothing {
                return true;
            }
            if !self.ring.is_enabled() {
                // Queued and never submitted: it goes with the first round, and is cancelled then.
                return false;
            }
            let target = number(kind::RECEIVE, slot.generation, place);
            let entry = opcode::AsyncCancel::new(target).build();
            let entry = self.with_file(entry).user_data(number(kind::CANCEL, 0, place));
            // SAFETY: the entry points to nothing.
            let is_queued = unsafe { self.ring.push(&entry) };
            let _ = self.ring.enter(ring::Wait { want: 1, ..ring::Wait::NONE });
            self.stash_until_end(place);
            if !is_queued {
                break;
            }
        }
        self.slots[place as usize].armed == Armed::Nothing
    }

    /// Empties the completion queue into the stash, and sees whether the receive of a port has ended in it.
    fn stash_until_end(&mut self, place: u32) {
        self.reap_sends();
        let last = number(kind::RECEIVE, self.slots[place as usize].generation, place);
        let is_last = |done: &cqueue::Entry| done.user_data() == last && !cqueue::more(done.flags());
        if self.stash.iter().any(is_last) {
            self.over(place, 0);
        }
    }

    /// A receive has ended: the port is armed again by the next round.
    pub(super) fn over(&mut self, place: u32, result: i32) {
        let slot = &mut self.slots[place as usize];
        if slot.armed == Armed::Nothing {
            return;
        }
        slot.armed = Armed::Nothing;
        if !slot.is_open() {
            self.release(place);
            return;
        }
        match -result {
            libc::ENOBUFS => {
                self.counters.out_of_buffers += 1;
                if self.buffers.in_ring() == 0 {
                    self.lent_max = (2 * self.lent_max).min(self.provided.entries());
                }
                // Who got nothing is the first to be armed again, before who took all there was.
                if std::mem::take(&mut slot.got) == 0 {
                    self.deaf.push_front(place);
                    return;
                }
            }
            0 | libc::ECANCELED | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH => {
                self.counters.armed_again += 1;
            }
            _ => {
                self.counters.failed_receives += 1;
                if self.failing.is_empty() {
                    self.retry_at = clock::mono() + RETRY;
                }
                self.failing.push(place);
                return;
            }
        }
        self.deaf.push_back(place);
    }

    /// Arms what is deaf, as far as there are buffers to receive into. After a hold-up datagrams wait in all of them: a port that is armed for
    /// a buffer that others took goes deaf again, and thousands of those would cost more than the datagrams.
    pub(super) fn arm_deaf(&mut self, full: usize, batch: &mut Batch) {
        if !self.failing.is_empty() && self.retry_at <= clock::mono() {
            self.deaf.extend(self.failing.drain(..));
        }
        if self.buffers.in_ring() == 0 {
            // They come back with the sends that fly; until then there is nothing to arm with.
            return;
        }
        let room = (self.buffers.in_ring() / WAITING_EACH).max(ARMED_MIN);
        for _ in 0..self.deaf.len().min(room) {
            let Some(place) = self.deaf.pop_front() else { return };
            let is_ready = !self.slots[place as usize].is_mixed || self.drain(place, full, batch);
            if !is_ready || !self.arm(place) {
                self.deaf.push_back(place);
            }
        }
    }

    fn arm(&mut self, place: u32) -> bool {
        let is_registered = self.ring.features.registered_files;
        let slot = &mut self.slots[place as usize];
        slot.generation = (slot.generation + 1) & DETAIL_MAX;
        let file = Fd(slot.file(place, is_registered));
        let (armed, entry) = match slot.peer {
            // With MSG_TRUNC the result is the datagram's length, so that a cut one is seen.
            Some(peer) if !slot.is_stamped => {
                let entry = opcode::RecvMulti::new(file, ring::GROUP).flags(libc::MSG_TRUNC).build();
                (Armed::Alone(peer), entry)
            }
            _ => (Armed::Everybody, opcode::RecvMsgMulti::new(file, &raw const *self.shape, ring::GROUP).build()),
        };
        let number = number(kind::RECEIVE, slot.generation, place);
        let entry = self.with_file(entry).user_data(number);
        // SAFETY: `shape` lies on the heap and is dropped after the ring; the buffers are the ring's own until they are filled.
        let is_armed = unsafe { self.ring.push(&entry) };
        if is_armed {
            let slot = &mut self.slots[place as usize];
            (slot.armed, slot.was, slot.got) = (armed, armed, 0);
        }
        is_armed
    }

    /// Reads what waited in a port when it was connected, each datagram with its sender. False when more may wait.
    fn drain(&mut self, place: u32, full: usize, batch: &mut Batch) -> bool {
        let port = PortId(place);
        while batch.len() + CALL_MAX < full {
            let mut buffers = [None; CALL_MAX];
            let mut memory = [std::ptr::null_mut(); CALL_MAX];
            let mut count = 0;
            while count < CALL_MAX
                && let Some(buffer) = self.buffers.take()
            {
                buffers[count] = Some(buffer);
                memory[count] = self.buffers.bytes(buffer)[HEADROOM_BYTES..].as_mut_ptr();
                count += 1;
            }
            let slot = &mut self.slots[place as usize];
            let Some(socket) = slot.socket.as_ref().filter(|_| count > 0) else { return false };
            let mut names = [NO_NAME; CALL_MAX];
            let mut told = [Told::default(); CALL_MAX];
            let got = receive_many(socket.as_raw_fd(), &memory[..count], &mut names, &mut told);
            let received = *got.as_ref().unwrap_or(&0);
            let fresh = received.checked_sub(1).and_then(|last| told[last].lost).map_or(0, |lost| slot.note_lost(lost));
            if fresh > 0 {
                batch.push(Completion::Lost { port, count: fresh });
            }
            for (at, &buffer) in buffers[..count].iter().flatten().enumerate() {
                match decode_name(&names[at]).filter(|_| at < received) {
                    Some(from) if told[at].flags & libc::MSG_TRUNC == 0 => {
                        let Told { len, received_at, .. } = told[at];
                        batch.push(Completion::Received {
                            port,
                            from,
                            buffer,
                            start: HEADROOM_BYTES,
                            len,
                            received_at,
                        });
                    }
                    Some(_) => {
                        self.buffers.recycle(buffer);
                        batch.push(Completion::Failed { port, reason: DropReason::PacketTooLarge });
                    }
                    None => self.buffers.recycle(buffer),
                }
            }
            match got {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.slots[place as usize].is_mixed = false;
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // An error that waited on the socket. Reading it took it off.
                Err(error) => batch.push(Completion::Failed { port, reason: error_class(&error) }),
                Ok(_) => {}
            }
        }
        false
    }

    /// A completion of a receive: a datagram, an error, the end, or two of them.
    pub(super) fn received(&mut self, place: u32, generation: u32, done: &cqueue::Entry, batch: &mut Batch) {
        let slot = &mut self.slots[place as usize];
        let is_current = slot.generation == generation;
        let armed = slot.last_armed(is_current);
        let selected = cqueue::buffer_select(done.flags());
        if selected.is_some() {
            self.provided.note_taken();
        }
        let buffer = selected.and_then(|index| self.buffers.in_ring_at(index));
        if let Some(buffer) = buffer {
            self.buffers.filled(buffer);
            slot.got = slot.got.saturating_add(u32::from(is_current));
            match armed.filter(|_| done.result() >= 0) {
                Some(armed) => self.deliver(place, armed, buffer, done.result() as usize, batch),
                None => self.buffers.recycle(buffer),
            }
        } else if armed.is_some() && !matches!(-done.result(), libc::ENOBUFS | libc::ECANCELED) {
            let reason = match done.result() {
                // An empty datagram ends a `recv`.
                0 => DropReason::TooShort,
                error => error_class(&io::Error::from_raw_os_error(-error)),
            };
            batch.push(Completion::Failed { port: PortId(place), reason });
        }
        if is_current && !cqueue::more(done.flags()) {
            self.over(place, done.result().min(0));
        }
    }

    fn deliver(&mut self, place: u32, armed: Armed, buffer: BufferId, len: usize, batch: &mut Batch) {
        let port = PortId(place);
        let too_large = Completion::Failed { port, reason: DropReason::PacketTooLarge };
        let from = match armed {
            Armed::Alone(_) if len > ROOM_BYTES => None,
            Armed::Alone(peer) => Some((peer, HEADROOM_BYTES, len, None)),
            _ => {
                let told = read_beside(&self.buffers.bytes(buffer)[HEADROOM_BYTES..HEADROOM_BYTES + ROOM_BYTES]);
                let slot = &mut self.slots[place as usize];
                let fresh = told.and_then(|(_, told)| told.lost).map_or(0, |lost| slot.note_lost(lost));
                if fresh > 0 {
                    batch.push(Completion::Lost { port, count: fresh });
                }
                told.filter(|(_, told)| told.flags & libc::MSG_TRUNC == 0)
                    .map(|(from, told)| (from, HEADROOM_BYTES + BESIDE_BYTES, told.len, told.received_at))
            }
        };
        match from {
            Some((from, start, len, received_at)) => {
                batch.push(Completion::Received { port, from, buffer, start, len, received_at });
            }
            None => {
                self.buffers.recycle(buffer);
                batch.push(too_large);
            }
        }
    }
}

impl Slot {
    /// What the receive that a completion is of was, if its port is still open.
    fn last_armed(&self, is_current: bool) -> Option<Armed> {
        (is_current && self.is_open()).then_some(self.was)
    }
}

/// Reads what the kernel wrote before the datagram: four numbers, the sender's address and the control messages.
fn read_beside(bytes: &[u8]) -> Option<(SocketAddr, Told)> {
    let number = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes of a longer slice"));
    let (control_len, payload_len, flags) = (number(4) as usize, number(8) as usize, number(12));
    let name_at = LENGTHS_BYTES;
    let mut name = NO_NAME;
    let half = |at: usize| u16::from_ne_bytes([bytes[name_at + at], bytes[name_at + at + 1]]);
    (name.sin6_family, name.sin6_port) = (half(0), half(2));
    (name.sin6_flowinfo, name.sin6_scope_id) = (number(name_at + 4), number(name_at + 24));
    name.sin6_addr.s6_addr.copy_from_slice(&bytes[name_at + 8..name_at + 24]);
    let control_at = name_at + size_of::<Name>();
    let mut told = Told { len: payload_len, flags: flags.cast_signed(), ..Told::default() };
    told.note_control(&bytes[control_at..control_at + control_len.min(CONTROL_BYTES)]);
    Some((decode_name(&name)?, told))
}
