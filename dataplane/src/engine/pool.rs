//! The fixed pool of packet buffers, and who has them.
//!
//! All memory is taken at start. A buffer is either in the pool or with exactly one holder; `in pool + out == total` is asserted
//! in debug builds at each step.

use super::{BUFFERS, Outgoing};
use crate::wire::BUFFER_LEN_BYTES;

/// Bytes left free before a received packet.
pub const HEADROOM_BYTES: usize = 32;

/// Bytes left free after a received packet: an SRTCP index with the longest tag, twice over.
pub const TAILROOM_BYTES: usize = 64;

/// Largest datagram that is taken in; longer ones are dropped and counted. Firefox sends ClientHello fragments of 1408 bytes.
pub const DATAGRAM_MAX_BYTES: usize = BUFFER_LEN_BYTES - HEADROOM_BYTES - TAILROOM_BYTES;

/// One buffer of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BufferId(u32);

/// Fixed-size packet buffers in one piece of memory.
#[derive(Debug)]
pub struct Pool {
    memory: Vec<u8>,
    free: Vec<BufferId>,
    out: Vec<bool>,
}

impl Pool {
    /// A pool of `count` buffers of [`BUFFER_LEN_BYTES`].
    #[must_use]
    pub fn new(count: usize) -> Self {
        let last = u32::try_from(count).expect("a pool has fewer than 2^32 buffers");
        Pool {
            memory: vec![0; count * BUFFER_LEN_BYTES],
            free: (0..last).rev().map(BufferId).collect(),
            out: vec![false; count],
        }
    }

    /// Takes a buffer; `None` when all are out.
    pub fn take(&mut self) -> Option<BufferId> {
        let id = self.free.pop()?;
        self.out[id.0 as usize] = true;
        Some(id)
    }

    /// Takes a buffer back.
    ///
    /// # Panics
    /// In debug builds, when it was not out: two holders would write over each other.
    pub fn give(&mut self, id: BufferId) {
        let was_out = std::mem::replace(&mut self.out[id.0 as usize], false);
        debug_assert!(was_out, "buffer {id:?} was given back twice");
        if was_out {
            self.free.push(id);
        }
    }

    /// Takes back whatever is out. Only right when no holder is left.
    pub fn reclaim(&mut self) {
        for at in 0..self.out.len() {
            if self.out[at] {
                self.give(BufferId(u32::try_from(at).expect("a pool has fewer than 2^32 buffers")));
            }
        }
    }

    /// The buffer's bytes.
    ///
    /// # Panics
    /// When the id is none of this pool's.
    pub fn bytes(&mut self, id: BufferId) -> &mut [u8] {
        let start = id.0 as usize * BUFFER_LEN_BYTES;
        &mut self.memory[start..start + BUFFER_LEN_BYTES]
    }

    /// Buffers in the pool.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Buffers in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.out.len()
    }

    /// Checks `in pool + out == total`, given how many the caller knows to be out.
    ///
    /// # Panics
    /// In debug builds, when buffers were lost or doubled.
    pub fn assert_out(&self, known_out: usize) {
        debug_assert_eq!(self.available() + known_out, self.total(), "packet buffers were lost or doubled");
    }
}

/// The buffers of one engine: in the pool, with the worker, or in the send queue.
#[derive(Debug)]
pub struct Buffers {
    pool: Pool,
    /// How many the worker has.
    held: usize,
    queue: Vec<Outgoing>,
}

impl Buffers {
    /// [`BUFFERS`] of them, all in the pool.
    #[must_use]
    pub fn new() -> Self {
        Buffers::of(BUFFERS)
    }

    /// So many, all in the pool.
    #[must_use]
    pub fn of(count: usize) -> Self {
        Buffers { pool: Pool::new(count), held: 0, queue: Vec::with_capacity(count) }
    }

    /// See [`Pool::bytes`].
    ///
    /// # Panics
    /// When the id is none of these.
    pub fn bytes(&mut self, id: BufferId) -> &mut [u8] {
        self.pool.bytes(id)
    }

    /// Gives one to the worker; `None` when the pool is empty.
    pub fn take(&mut self) -> Option<BufferId> {
        let buffer = self.pool.take()?;
        self.held += 1;
        Some(buffer)
    }

    /// Takes one back from the worker.
    pub fn recycle(&mut self, id: BufferId) {
        self.held -= 1;
        self.pool.give(id);
    }

    /// Takes one from the worker, to be sent.
    pub fn send(&mut self, packet: Outgoing) {
        self.held -= 1;
        self.queue.push(packet);
    }

    /// What waits to be sent, oldest first.
    #[must_use]
    pub fn queue(&self) -> &[Outgoing] {
        &self.queue
    }

    /// Ends a flush: everything in the send queue was sent or failed.
    pub fn clear_queue(&mut self) {
        for packet in self.queue.drain(..) {
            self.pool.give(packet.buffer);
        }
    }

    /// Buffers in the pool.
    #[must_use]
    pub fn available(&self) -> usize {
        self.pool.available()
    }

    /// Buffers in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.pool.total()
    }

    /// See [`Pool::assert_out`].
    ///
    /// # Panics
    /// In debug builds, when buffers were lost or doubled.
    pub fn assert_whole(&self) {
        self.pool.assert_out(self.held + self.queue.len());
    }

    /// Takes back whatever is out, unsent too. Only right when no holder is left.
    pub fn reclaim(&mut self) {
        self.queue.clear();
        self.pool.reclaim();
        self.held = 0;
    }
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_pool_says_so_and_fills_again() {
        let mut pool = Pool::new(2);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert_ne!(first, second);
        assert_eq!(pool.take(), None);
        pool.assert_out(2);
        pool.bytes(first).fill(1);
        pool.bytes(second).fill(2);
        assert!(pool.bytes(first).iter().all(|&byte| byte == 1));
        pool.give(first);
        assert_eq!(pool.take(), Some(first));
        pool.reclaim();
        pool.assert_out(0);
    }

    #[test]
    fn an_engine_holds_as_many_packets_as_it_was_given_room_for() {
        let mut buffers = Buffers::of(256);
        let taken = std::iter::from_fn(|| buffers.take()).count();
        assert_eq!((taken, buffers.total(), buffers.available()), (256, 256, 0));
        buffers.assert_whole();
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn a_buffer_given_back_twice_is_noticed() {
        let mut pool = Pool::new(1);
        let buffer = pool.take().unwrap();
        pool.give(buffer);
        pool.give(buffer);
    }
}
