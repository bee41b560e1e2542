//! The ring of provided buffers: the kernel takes one for each datagram that it receives.

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::types::BufRingEntry;

use super::{Missing, ring::Ring};
use crate::{
    engine::{
        BufferId,
        pool::{HEADROOM_BYTES, Memory, TAILROOM_BYTES},
    },
    wire::BUFFER_LEN_BYTES,
};

/// Bytes of a buffer that the kernel may fill.
pub(super) const ROOM_BYTES: usize = BUFFER_LEN_BYTES - HEADROOM_BYTES - TAILROOM_BYTES;

/// See the module text.
pub(super) struct Provided {
    memory: Memory,
    entries: u16,
    tail: u16,
    /// Buffers that the kernel has: provided, and not taken by a datagram that was told.
    there: usize,
}

impl Provided {
    /// Room for `entries` buffers, a power of two, none of them provided.
    pub(super) fn new(entries: u16) -> io::Result<Self> {
        assert!(entries.is_power_of_two(), "the kernel masks the index");
        let memory = Memory::map(usize::from(entries) * size_of::<BufRingEntry>())?;
        Ok(Provided { memory, entries, tail: 0, there: 0 })
    }

    pub(super) fn register(&self, ring: &Ring) -> Result<(), Missing> {
        // SAFETY: the mapping has room for the entries, starts on a page and is dropped after the ring by the engine's order of fields.
        unsafe { ring.register_buffers(self.memory.start().as_ptr() as u64, self.entries) }
    }

    /// Provides a buffer of which `start` is the first byte. The kernel sees it with the next [`publish`](Self::publish). No
    /// more than there are entries may be provided at a time.
    pub(super) fn add(&mut self, id: BufferId, start: *mut u8) {
        let place = usize::from(self.tail & (self.entries - 1));
        let entries = self.memory.start().as_ptr().cast::<BufRingEntry>();
        // SAFETY: the place lies within the mapping, and the kernel reads no entry at or behind its tail, which is not published yet.
        // Writing address, length and number leaves the tail alone, which shares the first entry's last two bytes.
        let entry = unsafe { &mut *entries.add(place) };
        entry.set_addr(start as u64 + HEADROOM_BYTES as u64);
        entry.set_len(ROOM_BYTES as u32);
        entry.set_bid(u16::try_from(id.index()).expect("buffers of a ring are numbered in 16 bits"));
        self.tail = self.tail.wrapping_add(1);
        self.there += 1;
    }

    /// The kernel has told that it took one.
    pub(super) fn note_taken(&mut self) {
        debug_assert!(self.there > 0, "the kernel took a buffer that it was not given");
        self.there = self.there.saturating_sub(1);
    }

    /// Buffers that the kernel has to receive into, or has received into without having been asked yet.
    pub(super) fn there(&self) -> usize {
        self.there
    }

    /// Shows the kernel what was added.
    pub(super) fn publish(&mut self) {
        let base = self.memory.start().as_ptr().cast::<BufRingEntry>();
        // SAFETY: the base is the first entry of the mapping; its tail is aligned to two bytes, and only this thread writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    pub(super) fn entries(&self) -> usize {
        usize::from(self.entries)
    }
}
