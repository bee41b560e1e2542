//! The mapped memory behind an arena: how it is divided, and the only places where bytes become records.

use std::{
    io,
    mem::size_of,
    os::fd::OwnedFd,
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::{
    ArenaError, Columns, Head, LegRecord, OUT_STREAMS_MAX, OutStream, ParameterSets, RETIRED_STREAMS_MAX,
    RX_STREAMS_MAX, RelayLimits, RelayRecord, RetiredSource, RouteRecord, RxSlot, Sections,
};

/// "GANGWAY" and a zero: this memory is an arena.
const MAGIC: u64 = u64::from_be_bytes(*b"GANGWAY\0");
/// Counts up when the meaning of a record changes without its size.
const LAYOUT_VERSION: u32 = 5;
/// Sections start on pages.
pub(super) const PAGE: usize = 4096;

/// At the start of the memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    magic: u64,
    version: u32,
    record_sizes: [u32; 7],
    pub(super) limits: RelayLimits,
    /// Records that were ever in use: those behind are zero, and nobody looks at them.
    pub(super) reached: RelayLimits,
    /// Leg record plus one whose packet is being walked: who was in hand at a crash.
    pub in_hand: u32,
}

impl Header {
    /// Of an empty arena.
    pub(super) fn new(limits: RelayLimits) -> Self {
        Header {
            magic: MAGIC,
            version: LAYOUT_VERSION,
            record_sizes: RECORD_SIZES,
            limits,
            reached: RelayLimits { relays: 0, legs: 0, routes: 0 },
            in_hand: 0,
        }
    }

    /// Whether memory of `len` bytes that begins with this is an arena of this program.
    pub(super) fn check(&self, len: usize) -> Result<(), ArenaError> {
        if self.magic != MAGIC || self.version != LAYOUT_VERSION {
            return Err(ArenaError::Foreign("magic or version"));
        }
        if self.record_sizes != RECORD_SIZES {
            return Err(ArenaError::Foreign("record sizes"));
        }
        if Layout::of(self.limits).end != len {
            return Err(ArenaError::Foreign("length"));
        }
        Ok(())
    }
}

/// What of the layout two programs must have in common to work on the same memory, in words.
#[must_use]
pub fn layout() -> String {
    let sizes = RECORD_SIZES.map(|size| size.to_string());
    // How many streams a leg has is told by how long an arena of a certain size is.
    let probe = RelayLimits { relays: PAGE as u32, legs: PAGE as u32, routes: PAGE as u32 };
    format!("arena {LAYOUT_VERSION} records {} of {}", sizes.join(" "), Layout::of(probe).end)
}

/// A record of the arena.
///
/// # Safety
/// `#[repr(C)]`, all-zero bytes are a valid value, and so is whatever the fields' own types can hold: integers and arrays of them
/// throughout, so that no bit pattern is invalid.
pub(super) unsafe trait Record: Copy {
    fn head(&mut self) -> &mut Head;
}

// SAFETY: integers, arrays of them, and records of the same kind.
unsafe impl Record for RelayRecord {
    fn head(&mut self) -> &mut Head {
        &mut self.head
    }
}

// SAFETY: integers, arrays of them, and records of the same kind; `MasterKey`, `RxStream`, `RetiredStream`, `TxStream`, `LocalCredentials`
// and `Consent` say of themselves that they are plain old data.
unsafe impl Record for LegRecord {
    fn head(&mut self) -> &mut Head {
        &mut self.head
    }
}

// SAFETY: integers, arrays of them, and records of the same kind; `Recipe` says of itself that it is plain old data.
unsafe impl Record for RouteRecord {
    fn head(&mut self) -> &mut Head {
        &mut self.head
    }
}

/// Where the sections start, in bytes, and where the last ends.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    limits: RelayLimits,
    relays: usize,
    legs: usize,
    routes: usize,
    parameters: usize,
    rx: usize,
    retired: usize,
    out: usize,
    pub(super) end: usize,
}

impl Layout {
    pub(super) fn of(limits: RelayLimits) -> Self {
        let after = |start: usize, count: u32, size: usize| (start + count as usize * size).next_multiple_of(PAGE);
        let relays = PAGE;
        let legs = after(relays, limits.relays, size_of::<RelayRecord>());
        let routes = after(legs, limits.legs, size_of::<LegRecord>());
        let parameters = after(routes, limits.routes, size_of::<RouteRecord>());
        let rx = after(parameters, limits.routes, size_of::<ParameterSets>());
        let retired = after(rx, limits.legs, RX_STREAMS_MAX * size_of::<RxSlot>());
        let out = after(retired, limits.legs, RETIRED_STREAMS_MAX * size_of::<RetiredSource>());
        let end = after(out, limits.legs, OUT_STREAMS_MAX * size_of::<OutStream>());
        Layout { limits, relays, legs, routes, parameters, rx, retired, out, end }
    }
}

const RECORD_SIZES: [u32; 7] = [
    size_of::<RelayRecord>() as u32,
    size_of::<LegRecord>() as u32,
    size_of::<RouteRecord>() as u32,
    size_of::<ParameterSets>() as u32,
    size_of::<RxSlot>() as u32,
    size_of::<RetiredSource>() as u32,
    size_of::<OutStream>() as u32,
];

/// Begins a use: zero but for the head, whose generation is a new one.
pub(super) fn renew<R: Record>(record: &mut R) {
    let generation = record.head().generation.wrapping_add(1);
    debug_assert_eq!(record.head().used, 0, "a free record is not in use");
    wipe(record);
    *record.head() = Head { generation, used: 1 };
}

/// Ends a use. The generation stays, so that old handles stay old.
pub(super) fn wipe<R: Record>(record: &mut R) {
    let generation = record.head().generation;
    // SAFETY: the reference is valid for writes of one record, and all-zero is a valid value of every `Record`.
    unsafe { ptr::write_bytes(ptr::from_mut(record), 0, 1) };
    record.head().generation = generation;
}

/// The memory, mapped. Unmapped when it goes.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Lies inside the mapping: [`Mapping::divide`] checked it.
    layout: Layout,
}

// SAFETY: the memory is owned by this value alone (a memfd that nothing else in this process maps, see `Arena::into_fd`), and is
// reached through `&self` and `&mut self` only.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file: a page or more.
    pub(super) fn new(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping { start, len, layout: Layout::of(RelayLimits { relays: 0, legs: 0, routes: 0 }) };
        // SAFETY: the range is the mapping just made; the advice changes what a core dump holds and nothing else.
        unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxDontDump)? };
        Ok(mapping)
    }

    /// Says what the memory is divided into; before that it has no sections.
    ///
    /// # Panics
    /// When it is not as long as its sections.
    pub(super) fn divide(&mut self, limits: RelayLimits) {
        let layout = Layout::of(limits);
        assert_eq!(layout.end, self.len, "limits are those the memory was made with");
        self.layout = layout;
    }

    pub(super) fn header(&mut self) -> &mut Header {
        // SAFETY: the mapping is at least a page, page-aligned, and any bytes are a valid `Header`.
        unsafe { self.start.cast::<Header>().as_mut() }
    }

    pub(super) fn header_view(&self) -> &Header {
        // SAFETY: as `header`; `&self` allows no reference that could change it.
        unsafe { self.start.cast::<Header>().as_ref() }
    }

    #[inline]
    pub(super) fn sections(&mut self) -> Sections<'_> {
        let Layout { limits, relays, legs, routes, parameters, rx, retired, out, .. } = self.layout;
        let [relay_count, leg_count, route_count] =
            [limits.relays, limits.legs, limits.routes].map(|count| count as usize);
        // SAFETY: `Layout` puts the sections one behind the other, each on a page boundary and thus aligned; `divide` checked that
        // they end with the mapping, and before it there are none; any bytes are valid records; `&mut self` makes these the
        // only references.
        unsafe {
            let at = |offset: usize| self.start.as_ptr().add(offset);
            Sections {
                header: self.start.cast::<Header>().as_mut(),
                relays: slice::from_raw_parts_mut(at(relays).cast(), relay_count),
                legs: slice::from_raw_parts_mut(at(legs).cast(), leg_count),
                routes: slice::from_raw_parts_mut(at(routes).cast(), route_count),
                parameters: slice::from_raw_parts_mut(at(parameters).cast(), route_count),
                rx: Columns::new(slice::from_raw_parts_mut(at(rx).cast(), RX_STREAMS_MAX * leg_count), limits.legs),
                retired: Columns::new(
                    slice::from_raw_parts_mut(at(retired).cast(), RETIRED_STREAMS_MAX * leg_count),
                    limits.legs,
                ),
                out: Columns::new(slice::from_raw_parts_mut(at(out).cast(), OUT_STREAMS_MAX * leg_count), limits.legs),
            }
        }
    }

    /// A section of records, or of columns.
    fn section<T>(&self, offset: usize, count: usize) -> &[T] {
        // SAFETY: as `sections`, whose offsets and counts the callers pass; `&self` allows no reference that could change it.
        unsafe { slice::from_raw_parts(self.start.as_ptr().add(offset).cast_const().cast(), count) }
    }

    fn section_mut<T>(&mut self, offset: usize, count: usize) -> &mut [T] {
        // SAFETY: as `section`; `&mut self` makes it the only reference.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().add(offset).cast(), count) }
    }

    pub(super) fn relays(&self) -> &[RelayRecord] {
        self.section(self.layout.relays, self.layout.limits.relays as usize)
    }

    pub(super) fn relays_mut(&mut self) -> &mut [RelayRecord] {
        self.section_mut(self.layout.relays, self.layout.limits.relays as usize)
    }

    pub(super) fn legs(&self) -> &[LegRecord] {
        self.section(self.layout.legs, self.layout.limits.legs as usize)
    }

    pub(super) fn legs_mut(&mut self) -> &mut [LegRecord] {
        self.section_mut(self.layout.legs, self.layout.limits.legs as usize)
    }

    pub(super) fn routes(&self) -> &[RouteRecord] {
        self.section(self.layout.routes, self.layout.limits.routes as usize)
    }

    pub(super) fn routes_mut(&mut self) -> &mut [RouteRecord] {
        self.section_mut(self.layout.routes, self.layout.limits.routes as usize)
    }

    pub(super) fn parameters(&self) -> &[ParameterSets] {
        self.section(self.layout.parameters, self.layout.limits.routes as usize)
    }

    pub(super) fn rx(&self) -> &[RxSlot] {
        self.section(self.layout.rx, RX_STREAMS_MAX * self.layout.limits.legs as usize)
    }

    pub(super) fn retired(&self) -> &[RetiredSource] {
        self.section(self.layout.retired, RETIRED_STREAMS_MAX * self.layout.limits.legs as usize)
    }

    pub(super) fn out(&self) -> &[OutStream] {
        self.section(self.layout.out, OUT_STREAMS_MAX * self.layout.limits.legs as usize)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and no reference into it outlives `self`. A failure would leak address space only.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;
    use crate::arena::Arena;

    const LIMITS: RelayLimits = RelayLimits { relays: 2, legs: 3, routes: 4 };

    #[test]
    fn memory_is_looked_at_as_far_as_it_was_used() {
        let limits = RelayLimits { relays: 4096, legs: 16_384, routes: 24_576 };
        let resident = |arena: &Arena| {
            let mut pages = vec![0u8; arena.memory.len.div_ceil(PAGE)];
            // SAFETY: the range is the mapping, and `pages` has a byte for each of its pages.
            let done =
                unsafe { libc::mincore(arena.memory.start.as_ptr().cast(), arena.memory.len, pages.as_mut_ptr()) };
            assert_eq!(done, 0);
            pages.iter().filter(|page| **page & 1 == 1).count()
        };
        let mut arena = Arena::create(limits).unwrap();
        let (relay, leg, route) = (arena.take_relay().unwrap(), arena.take_leg().unwrap(), arena.take_route().unwrap());
        let before = resident(&arena);
        assert!(before < 10, "{before} pages for one record of each kind");
        assert_eq!(arena.reached(), RelayLimits { relays: 1, legs: 1, routes: 1 });
        let mut arena = Arena::map(arena.into_fd()).unwrap();
        arena.rebuild();
        assert_eq!(resident(&arena), before);
        arena.free_relay(relay);
        arena.free_leg(leg);
        arena.free_route(route);
        assert_eq!((resident(&arena), arena.free()), (before, limits));
    }

    #[test]
    fn nobody_who_holds_the_memory_can_take_pages_from_it() {
        let arena = Arena::create(LIMITS).unwrap();
        assert!(ftruncate(arena.fd(), 0).is_err());
    }

    #[test]
    fn memory_of_another_layout_is_refused() {
        let mut arena = Arena::create(LIMITS).unwrap();
        arena.sections().header.version += 1;
        assert!(matches!(Arena::map(arena.into_fd()), Err(ArenaError::Foreign(_))));
        let mut arena = Arena::create(LIMITS).unwrap();
        arena.sections().header.limits.legs += 1000;
        assert!(matches!(Arena::map(arena.into_fd()), Err(ArenaError::Foreign(_))));
        let tiny = memfd_create("tiny", MemfdFlags::CLOEXEC).unwrap();
        assert!(matches!(Arena::map(tiny), Err(ArenaError::Foreign(_))));
    }
}
