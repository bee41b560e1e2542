//! The fixed pool of packet buffers, and who has them.
//!
//! All memory is taken at start. A buffer is either in the pool or with exactly one holder: the worker, the send queue, or the kernel,
//! which has some in flight and some to receive into. At the start of a round neither worker nor send queue may have
//! any, and the kernel those that the engine knows of by its own count: debug builds assert it.

use std::{io, ptr::NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::{BUFFERS, Outgoing};
use crate::wire::BUFFER_LEN_BYTES;

/// Bytes left free before a received packet.
pub const HEADROOM_BYTES: usize = 32;

/// Bytes left free after a received packet: an SRTCP index with the longest tag, twice over.
pub const TAILROOM_BYTES: usize = 64;

/// Largest datagram that is taken in; longer ones are dropped and counted. Firefox sends ClientHello fragments of 1408 bytes.
pub const DATAGRAM_MAX_BYTES: usize = BUFFER_LEN_BYTES - HEADROOM_BYTES - TAILROOM_BYTES;

/// From one buffer to the next: an odd number of cache lines, or the first lines of all packets would share a few sets of each cache.
const STRIDE_BYTES: usize = BUFFER_LEN_BYTES + 64;

/// One buffer of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BufferId(u32);

impl BufferId {
    /// Its place in the pool's memory, counted in buffers.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Who has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nobody.
    Pool,
    /// The worker.
    Worker,
    /// The send queue.
    Queue,
    /// The kernel, to send it.
    Flight,
    /// The kernel, to receive into it.
    Ring,
}

const HOLDERS: usize = 5;

/// Fixed-size packet buffers in one mapping, each with exactly one holder.
#[derive(Debug)]
pub struct Buffers {
    memory: Memory,
    free: Vec<BufferId>,
    holders: Vec<Holder>,
    counts: [usize; HOLDERS],
    queue: Vec<Outgoing>,
}

impl Buffers {
    /// [`BUFFERS`] of them, all in the pool.
    ///
    /// # Panics
    /// When there is no memory for them.
    #[must_use]
    pub fn new() -> Self {
        Buffers::of(BUFFERS)
    }

    /// `count` of them, all in the pool.
    ///
    /// # Panics
    /// When there is no memory for them.
    #[must_use]
    pub fn of(count: usize) -> Self {
        let last = u32::try_from(count).expect("a pool has fewer than 2^32 buffers");
        let mut counts = [0; HOLDERS];
        counts[Holder::Pool as usize] = count;
        Buffers {
            memory: Memory::map(count * STRIDE_BYTES).expect("memory for packet buffers"),
            free: (0..last).rev().map(BufferId).collect(),
            holders: vec![Holder::Pool; count],
            counts,
            queue: Vec::with_capacity(count),
        }
    }

    /// Hands a buffer on. What comes back to the pool is used again first: it is still in the cache.
    fn pass(&mut self, id: BufferId, from: Holder, to: Holder) {
        let holder = &mut self.holders[id.index()];
        debug_assert_eq!(*holder, from, "buffer {id:?} is handed on by somebody who does not have it");
        if *holder != from {
            return;
        }
        *holder = to;
        self.counts[from as usize] -= 1;
        self.counts[to as usize] += 1;
        if to == Holder::Pool {
            self.free.push(id);
        }
    }

    fn take_for(&mut self, holder: Holder) -> Option<BufferId> {
        let id = self.free.pop()?;
        self.pass(id, Holder::Pool, holder);
        Some(id)
    }

    /// The buffer's bytes.
    ///
    /// # Panics
    /// When the id is none of these.
    pub fn bytes(&mut self, id: BufferId) -> &mut [u8] {
        self.memory.part(id.index() * STRIDE_BYTES, BUFFER_LEN_BYTES)
    }

    /// The buffer whose place is `index`, as the kernel names it; `None` when it does not have that one.
    pub fn in_ring_at(&self, index: u16) -> Option<BufferId> {
        let id = BufferId(index.into());
        (self.holders.get(id.index()) == Some(&Holder::Ring)).then_some(id)
    }

    /// Gives one to the worker; `None` when the pool is empty.
    pub fn take(&mut self) -> Option<BufferId> {
        self.take_for(Holder::Worker)
    }

    /// Takes one back from the worker.
    pub fn recycle(&mut self, id: BufferId) {
        self.pass(id, Holder::Worker, Holder::Pool);
    }

    /// Takes one from the worker, to be sent.
    pub fn send(&mut self, packet: Outgoing) {
        self.pass(packet.buffer, Holder::Worker, Holder::Queue);
        self.queue.push(packet);
    }

    /// What waits to be sent, oldest first.
    #[must_use]
    pub fn queue(&self) -> &[Outgoing] {
        &self.queue
    }

    /// Ends a flush: everything in the send queue was sent or failed, or is with the kernel.
    pub fn clear_queue(&mut self) {
        for at in 0..self.queue.len() {
            let id = self.queue[at].buffer;
            if self.holders[id.index()] == Holder::Queue {
                self.pass(id, Holder::Queue, Holder::Pool);
            }
        }
        self.queue.clear();
    }

    /// Gives one of the send queue to the kernel, until [`landed`](Self::landed).
    pub fn fly(&mut self, id: BufferId) {
        self.pass(id, Holder::Queue, Holder::Flight);
    }

    /// Takes one back that the kernel has sent, or could not send.
    pub fn landed(&mut self, id: BufferId) {
        self.pass(id, Holder::Flight, Holder::Pool);
    }

    /// Gives one to the kernel to receive into; `None` when the pool is empty.
    pub fn lend(&mut self) -> Option<BufferId> {
        self.take_for(Holder::Ring)
    }

    /// Gives one to the worker that the kernel received into.
    pub fn filled(&mut self, id: BufferId) {
        self.pass(id, Holder::Ring, Holder::Worker);
    }

    /// Buffers in the pool.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Buffers in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Buffers that the kernel has to receive into.
    #[must_use]
    pub fn in_ring(&self) -> usize {
        self.counts[Holder::Ring as usize]
    }

    /// Buffers that the kernel has to send.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.counts[Holder::Flight as usize]
    }

    /// Checks at the start of a round that every buffer is where it should be: `in_flight` with the kernel to be sent, `in_ring` to be
    /// received into, by the engine's own counts, and all others in the pool.
    ///
    /// # Panics
    /// In debug builds, when the worker or the send queue kept one, or the kernel has more or fewer.
    pub fn assert_whole(&self, in_flight: usize, in_ring: usize) {
        let of = |holder: Holder| self.counts[holder as usize];
        let kept = [of(Holder::Worker), of(Holder::Queue), self.queue.len()];
        debug_assert_eq!(kept, [0; 3], "worker or send queue kept packet buffers of the last round");
        debug_assert_eq!(
            (of(Holder::Flight), of(Holder::Ring)),
            (in_flight, in_ring),
            "the kernel has other packet buffers than it was given"
        );
        debug_assert_eq!(self.free.len(), self.total() - in_flight - in_ring, "packet buffers were lost or doubled");
    }

    /// Takes back whatever the worker and the send queue have. Only right when neither holds on to it.
    pub fn reclaim(&mut self) {
        self.queue.clear();
        for at in 0..self.holders.len() {
            let holder = self.holders[at];
            if matches!(holder, Holder::Worker | Holder::Queue) {
                self.pass(
                    BufferId(u32::try_from(at).expect("a pool has fewer than 2^32 buffers")),
                    holder,
                    Holder::Pool,
                );
            }
        }
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers::new()
    }
}

/// Private pages. A slice is only ever made of the part that is asked for, because the kernel writes to others meanwhile.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pages belong to this value alone, whichever thread has it.
unsafe impl Send for Memory {}

impl Memory {
    /// `len` bytes of zeroes, aligned to a page. Pages are taken when they are touched.
    pub(super) fn map(len: usize) -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of anybody.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a mapping at address 0"))?;
        Ok(Memory { start, len })
    }

    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn part(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.len), "a part within the mapping");
        // SAFETY: the part lies within the mapping, which lives as long as `self`, is initialised by the kernel and borrowed
        // uniquely through `self`. What the kernel writes lies in buffers that it has, which the pool gives to nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(at), len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping made in `map`; no slice of it outlives `self`.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "packet buffers could not be unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_says_so_and_fills_again() {
        let mut pool = Buffers::of(2);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_ne!(first, second);
        assert_eq!(pool.take(), None);
        pool.bytes(first).fill(1);
        pool.bytes(second).fill(2);
        assert!(pool.bytes(first).iter().all(|&byte| byte == 1));
        pool.recycle(first);
        assert_eq!(pool.take(), Some(first));
        pool.reclaim();
        pool.assert_whole(0, 0);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    #[should_panic(expected = "worker or send queue kept")]
    fn a_buffer_that_the_worker_keeps_over_a_round_is_noticed() {
        let mut pool = Buffers::of(2);
        let _kept = pool.take();
        pool.assert_whole(0, 0);
    }

    #[test]
    #[should_panic(expected = "than it was given")]
    fn a_buffer_that_never_comes_back_from_the_kernel_is_noticed() {
        let mut pool = Buffers::of(2);
        let _lent = pool.lend();
        pool.assert_whole(0, 0);
    }

    #[test]
    fn what_the_kernel_has_is_not_reclaimed() {
        let mut pool = Buffers::of(4);
        let (lent, held, sent) = (pool.lend().unwrap(), pool.take().unwrap(), pool.take().unwrap());
        let to = "192.0.2.1:9".parse().unwrap();
        pool.send(Outgoing { port: crate::relay::PortId(0), to, buffer: sent, start: 0, len: 1 });
        pool.fly(sent);
        pool.clear_queue();
        pool.reclaim();
        pool.assert_whole(1, 1);
        assert_eq!((pool.available(), pool.in_ring(), pool.in_flight()), (2, 1, 1));
        assert_eq!(pool.in_ring_at(u16::try_from(held.index()).unwrap()), None);
        assert_eq!(pool.in_ring_at(u16::try_from(lent.index()).unwrap()), Some(lent));
        pool.filled(lent);
        pool.recycle(lent);
        pool.landed(sent);
        assert_eq!(pool.available(), 4);
    }

    #[test]
    #[should_panic(expected = "by somebody who does not have it")]
    fn a_buffer_given_back_twice_is_noticed() {
        let mut pool = Buffers::of(1);
        let buffer = pool.take().unwrap();
        pool.recycle(buffer);
        pool.recycle(buffer);
    }
}
