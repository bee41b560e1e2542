//! The fixed records that hold all per-leg state of one worker, in a memfd.
//!
//! A relay process that is upgraded, killed or crashes is replaced by one that maps the same memory (docs/ARCHITECTURE.md section
//! 5), so everything here is plain old data: fixed-size `#[repr(C)]` records with slot and generation, no pointer, no `Instant`,
//! no `SocketAddr`, no key schedule. What is derived (free lists here, tables and session keys in `relay`) is rebuilt.
//!
//! ```text
//! | header | relays ... | legs ... | routes ... | parameter sets, one a route | received, retired, sent streams: columns, as many a leg |
//! ```
//!
//! Each section starts on a page. A page that nobody touches has no memory behind it, so records are taken from the front, what only
//! some need lies in sections of its own, and nothing is cleared that was never used.

mod columns;
mod records;

use std::{
    fmt, io,
    mem::size_of,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{Ordering, compiler_fence},
};

use gangway_shared::ids::RelayId;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap},
};

pub use columns::{Column, ColumnMut, Columns};
pub use records::{
    Addr, Counters, Earliest, FINGERPRINTS_MAX, FillState, Head, KeyEpoch, Latch, LegRecord, OUT_STREAMS_MAX,
    OutStream, PARAMETER_BYTES_MAX, PARAMETER_SETS_MAX, PATHS_MAX, ParameterSets, Path, PayloadEntry, PictureState,
    RETIRED_STREAMS_MAX, RX_STREAMS_MAX, Reception, RelayRecord, RetiredSource, RouteRecord, RtxEntry, RxSlot,
    SourceMap, Traffic, kind,
};

/// "GANGWAY" and a zero: this memory is an arena.
const MAGIC: u64 = u64::from_be_bytes(*b"GANGWAY\0");
/// Counts up when the meaning of a record changes without its size.
const LAYOUT_VERSION: u32 = 4;
/// Sections start on pages.
const PAGE: usize = 4096;

/// How much one worker holds. All of it is allocated at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RelayLimits {
    /// Relays.
    pub relays: u32,
    /// Legs of all relays.
    pub legs: u32,
    /// Routes of all relays.
    pub routes: u32,
}

/// Names one leg of a worker for as long as it exists; a leg that goes takes its handle with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LegHandle {
    /// Index of the record.
    pub slot: u32,
    /// Generation of the record.
    pub generation: u32,
}

/// At the start of the memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    magic: u64,
    version: u32,
    record_sizes: [u32; 7],
    limits: RelayLimits,
    /// Records that were ever in use: those behind are zero, and nobody looks at them.
    reached: RelayLimits,
    /// Leg record plus one whose packet is being walked: who was in hand at a crash.
    pub in_hand: u32,
}

/// A record of the arena.
///
/// # Safety
/// `#[repr(C)]`, all-zero bytes are a valid value, and so is whatever the fields' own types can hold: integers and arrays of them
/// throughout, so that no bit pattern is invalid.
unsafe trait Record: Copy {
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

/// Every section at once, so that records of different ones can be used together.
pub struct Sections<'a> {
    /// The header.
    pub header: &'a mut Header,
    /// Relay records by slot.
    pub relays: &'a mut [RelayRecord],
    /// Leg records by slot.
    pub legs: &'a mut [LegRecord],
    /// Route records by slot.
    pub routes: &'a mut [RouteRecord],
    /// Parameter sets by route slot.
    pub parameters: &'a mut [ParameterSets],
    /// Sources received, by leg slot and place.
    pub rx: Columns<'a, RxSlot>,
    /// Sources whose places others have now.
    pub retired: Columns<'a, RetiredSource>,
    /// SSRCs sent.
    pub out: Columns<'a, OutStream>,
}

/// A leg with its streams, to be changed.
#[derive(Debug)]
pub struct WholeLeg<'a> {
    /// Its record.
    pub record: &'a mut LegRecord,
    /// Sources received.
    pub rx: ColumnMut<'a, RxSlot>,
    /// Sources whose places others have now.
    pub retired: ColumnMut<'a, RetiredSource>,
    /// SSRCs sent.
    pub out: ColumnMut<'a, OutStream>,
}

/// Why a file is no arena of this program.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel refused.
    #[error("arena memory: {0}")]
    Io(#[from] io::Error),
    /// It was made by something else, or by another version of this program.
    #[error("the memory is no arena of this program's layout ({0})")]
    Foreign(&'static str),
}

impl From<rustix::io::Errno> for ArenaError {
    fn from(errno: rustix::io::Errno) -> Self {
        ArenaError::Io(errno.into())
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

/// A point between two stores: everything above it is in memory before anything below. A process that is killed here leaves the
/// records as they are now, and every such point is one at which the tests stop ([`fail_at_step`]).
#[inline]
pub fn step() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(debug_assertions)]
    faults::count();
}

/// Stops a test at the n-th [`step`] from now on by a panic, `None`: at none. Says how many steps were made since the last call.
#[cfg(debug_assertions)]
pub fn fail_at_step(step: Option<u32>) -> u32 {
    faults::set(step)
}

#[cfg(debug_assertions)]
mod faults {
    use std::cell::Cell;

    thread_local! {
        static MADE: Cell<u32> = const { Cell::new(0) };
        static FAILS_AT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    pub(super) fn set(step: Option<u32>) -> u32 {
        FAILS_AT.set(step.unwrap_or(u32::MAX));
        MADE.replace(0)
    }

    pub(super) fn count() {
        let made = MADE.get();
        MADE.set(made + 1);
        assert!(made != FAILS_AT.get(), "a test stops here");
    }
}

/// One worker's records.
pub struct Arena {
    memory: Mapping,
    fd: OwnedFd,
    limits: RelayLimits,
    free_relays: Vec<u32>,
    free_legs: Vec<u32>,
    free_routes: Vec<u32>,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Where the sections start, in bytes, and where the last ends.
#[derive(Clone, Copy)]
struct Layout {
    limits: RelayLimits,
    relays: usize,
    legs: usize,
    routes: usize,
    parameters: usize,
    rx: usize,
    retired: usize,
    out: usize,
    end: usize,
}

impl Layout {
    fn of(limits: RelayLimits) -> Self {
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

impl Arena {
    /// Makes an empty arena of this size. It is kept out of core dumps: it holds keys.
    ///
    /// # Errors
    /// What the kernel says to memfd_create, ftruncate, mmap or madvise.
    pub fn create(limits: RelayLimits) -> io::Result<Self> {
        let fd = memfd_create("gangway-arena", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let len = Layout::of(limits).end;
        ftruncate(&fd, len as u64)?;
        // Whoever else holds the descriptor cannot take pages from under us.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mut memory = Mapping::new(&fd, len)?;
        memory.divide(limits);
        *memory.header() = Header {
            magic: MAGIC,
            version: LAYOUT_VERSION,
            record_sizes: RECORD_SIZES,
            limits,
            reached: RelayLimits { relays: 0, legs: 0, routes: 0 },
            in_hand: 0,
        };
        Ok(Arena::over(memory, fd, limits))
    }

    /// Maps an arena that another process, or a former life of this one, made. Its records are as they were left.
    ///
    /// # Errors
    /// [`ArenaError::Foreign`] when header, sizes or length are not this program's.
    pub fn map(fd: OwnedFd) -> Result<Self, ArenaError> {
        let len = usize::try_from(fstat(&fd)?.st_size).map_err(|_| ArenaError::Foreign("length"))?;
        if len < PAGE {
            return Err(ArenaError::Foreign("length"));
        }
        let mut memory = Mapping::new(&fd, len)?;
        let header = *memory.header();
        if header.magic != MAGIC || header.version != LAYOUT_VERSION {
            return Err(ArenaError::Foreign("magic or version"));
        }
        if header.record_sizes != RECORD_SIZES {
            return Err(ArenaError::Foreign("record sizes"));
        }
        if Layout::of(header.limits).end != len {
            return Err(ArenaError::Foreign("length"));
        }
        memory.divide(header.limits);
        let mut arena = Arena::over(memory, fd, header.limits);
        arena.rebuild();
        Ok(arena)
    }

    /// Unmaps the arena and gives its memory, to be mapped again. Taking the arena apart is what makes sure that there are never
    /// two of one memory in a process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The memory's descriptor, to be handed to the next process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn over(memory: Mapping, fd: OwnedFd, limits: RelayLimits) -> Self {
        let free = |count: u32| (0..count).rev().collect();
        let (free_relays, free_legs, free_routes) = (free(limits.relays), free(limits.legs), free(limits.routes));
        Arena { memory, fd, limits, free_relays, free_legs, free_routes }
    }

    /// Derives the free lists from the records that were ever in use.
    pub fn rebuild(&mut self) {
        fn free<R: Record>(records: &mut [R], reached: u32) -> Vec<u32> {
            let all = 0..records.len() as u32;
            all.rev().filter(|slot| *slot >= reached || records[*slot as usize].head().used == 0).collect()
        }
        let sections = self.sections();
        let reached = sections.header.reached;
        let relays = free(sections.relays, reached.relays);
        let legs = free(sections.legs, reached.legs);
        let routes = free(sections.routes, reached.routes);
        (self.free_relays, self.free_legs, self.free_routes) = (relays, legs, routes);
    }

    /// Ids of all relays, whatever else is in their records.
    #[must_use]
    pub fn relay_ids(&self) -> Vec<RelayId> {
        let records = (0..self.reached().relays).map(|slot| self.relay(slot)).filter(|relay| relay.head.used == 1);
        records.map(|relay| RelayId::from_u128(u128::from(relay.id[0]) << 64 | u128::from(relay.id[1]))).collect()
    }

    /// Gives every record back, whatever is in it. Relays go first: what they leave behind belongs to nobody.
    pub fn clear(&mut self) {
        let reached = self.reached();
        let is_used = |head: Head| head.used == 1;
        for slot in (0..reached.relays).filter(|slot| is_used(self.relay(*slot).head)).collect::<Vec<_>>() {
            self.free_relay(slot);
        }
        for slot in (0..reached.legs).filter(|slot| is_used(self.leg(*slot).head)).collect::<Vec<_>>() {
            self.free_leg(slot);
        }
        for slot in (0..reached.routes).filter(|slot| is_used(self.route(*slot).head)).collect::<Vec<_>>() {
            self.free_route(slot);
        }
        self.sections().header.in_hand = 0;
    }

    /// Records that were ever in use, from the front; none behind them is.
    #[must_use]
    pub fn reached(&self) -> RelayLimits {
        let RelayLimits { relays, legs, routes } = self.memory.header_view().reached;
        let limits = self.limits;
        // What another process wrote is no reason to look beyond the end.
        RelayLimits {
            relays: relays.min(limits.relays),
            legs: legs.min(limits.legs),
            routes: routes.min(limits.routes),
        }
    }

    /// Its size in records.
    #[must_use]
    pub fn limits(&self) -> RelayLimits {
        self.limits
    }

    /// Records not in use: relays, legs, routes.
    #[must_use]
    pub fn free(&self) -> RelayLimits {
        let count = |list: &Vec<u32>| list.len() as u32;
        RelayLimits { relays: count(&self.free_relays), legs: count(&self.free_legs), routes: count(&self.free_routes) }
    }

    /// The header.
    pub fn header(&mut self) -> &mut Header {
        self.memory.header()
    }

    /// Everything, to work on.
    #[inline]
    pub fn sections(&mut self) -> Sections<'_> {
        self.memory.sections()
    }

    /// The relay record of a slot.
    ///
    /// # Panics
    /// When there is no such slot, as the other accessors: slots come from records and handles of this arena.
    #[must_use]
    pub fn relay(&self, slot: u32) -> &RelayRecord {
        &self.memory.relays()[slot as usize]
    }

    /// The leg record of a slot.
    #[must_use]
    pub fn leg(&self, slot: u32) -> &LegRecord {
        &self.memory.legs()[slot as usize]
    }

    /// The route record of a slot.
    #[must_use]
    pub fn route(&self, slot: u32) -> &RouteRecord {
        &self.memory.routes()[slot as usize]
    }

    /// The parameter sets of a route.
    #[must_use]
    pub fn parameters(&self, route: u32) -> &ParameterSets {
        &self.memory.parameters()[route as usize]
    }

    /// The sources that a leg receives.
    #[must_use]
    pub fn rx(&self, leg: u32) -> Column<'_, RxSlot> {
        let len = self.leg(leg).rx_len.min(RX_STREAMS_MAX as u8);
        Column::new(self.memory.rx(), self.limits.legs, leg, len)
    }

    /// The sources of a leg whose places others have now.
    #[must_use]
    pub fn retired(&self, leg: u32) -> Column<'_, RetiredSource> {
        let len = self.leg(leg).retired_len.min(RETIRED_STREAMS_MAX as u8);
        Column::new(self.memory.retired(), self.limits.legs, leg, len)
    }

    /// The SSRCs that a leg sends.
    #[must_use]
    pub fn out(&self, leg: u32) -> Column<'_, OutStream> {
        let len = self.leg(leg).out_len.min(OUT_STREAMS_MAX as u8);
        Column::new(self.memory.out(), self.limits.legs, leg, len)
    }

    /// A leg with its streams, to be changed.
    pub fn whole_leg(&mut self, slot: u32) -> WholeLeg<'_> {
        let Sections { legs, rx, retired, out, .. } = self.sections();
        let record = &mut legs[slot as usize];
        let rx = rx.into_leg(slot, record.rx_len.min(RX_STREAMS_MAX as u8));
        let retired = retired.into_leg(slot, record.retired_len.min(RETIRED_STREAMS_MAX as u8));
        let out = out.into_leg(slot, record.out_len.min(OUT_STREAMS_MAX as u8));
        WholeLeg { record, rx, retired, out }
    }

    /// The relay record of a slot, to be changed.
    pub fn relay_mut(&mut self, slot: u32) -> &mut RelayRecord {
        &mut self.memory.relays_mut()[slot as usize]
    }

    /// The leg record of a slot, to be changed.
    pub fn leg_mut(&mut self, slot: u32) -> &mut LegRecord {
        &mut self.memory.legs_mut()[slot as usize]
    }

    /// The route record of a slot, to be changed.
    pub fn route_mut(&mut self, slot: u32) -> &mut RouteRecord {
        &mut self.memory.routes_mut()[slot as usize]
    }

    /// The slot of a leg that still exists.
    #[must_use]
    pub fn resolve(&self, leg: LegHandle) -> Option<u32> {
        let record = self.memory.legs().get(leg.slot as usize)?;
        (record.head.used == 1 && record.head.generation == leg.generation).then_some(leg.slot)
    }

    /// The handle of the leg in a slot.
    #[must_use]
    pub fn handle(&self, slot: u32) -> LegHandle {
        LegHandle { slot, generation: self.leg(slot).head.generation }
    }

    /// Leases of all legs, in the order of their records.
    pub fn leases(&self) -> impl Iterator<Item = u64> + '_ {
        let legs = (0..self.reached().legs).map(|slot| self.leg(slot));
        legs.filter(|leg| leg.head.used == 1 && leg.lease != 0).map(|leg| leg.lease)
    }

    /// Takes a free relay record, all zero but for its head.
    pub fn take_relay(&mut self) -> Option<u32> {
        let slot = self.free_relays.pop()?;
        let reached = &mut self.memory.header().reached;
        reached.relays = reached.relays.max(slot + 1);
        renew(self.relay_mut(slot));
        Some(slot)
    }

    /// Takes a free leg record.
    pub fn take_leg(&mut self) -> Option<u32> {
        let slot = self.free_legs.pop()?;
        let reached = &mut self.memory.header().reached;
        reached.legs = reached.legs.max(slot + 1);
        renew(self.leg_mut(slot));
        Some(slot)
    }

    /// Takes a free route record.
    pub fn take_route(&mut self) -> Option<u32> {
        let slot = self.free_routes.pop()?;
        let reached = &mut self.memory.header().reached;
        reached.routes = reached.routes.max(slot + 1);
        renew(self.route_mut(slot));
        Some(slot)
    }

    /// Gives a relay record back.
    pub fn free_relay(&mut self, slot: u32) {
        wipe(self.relay_mut(slot));
        self.free_relays.push(slot);
    }

    /// Gives a leg record back; its keys are overwritten. Its streams go first: while one of them is left the record is in use.
    pub fn free_leg(&mut self, slot: u32) {
        let mut leg = self.whole_leg(slot);
        leg.rx.iter_mut().for_each(|stream| *stream = RxSlot::default());
        leg.retired.iter_mut().for_each(|source| *source = RetiredSource::default());
        leg.out.iter_mut().for_each(|stream| *stream = OutStream::default());
        wipe(self.leg_mut(slot));
        self.free_legs.push(slot);
    }

    /// Gives a route record back.
    pub fn free_route(&mut self, slot: u32) {
        let sections = self.sections();
        if sections.routes[slot as usize].has_parameters == 1 {
            sections.parameters[slot as usize] = ParameterSets::default();
        }
        wipe(self.route_mut(slot));
        self.free_routes.push(slot);
    }
}

/// Begins a use: zero but for the head, whose generation is a new one.
fn renew<R: Record>(record: &mut R) {
    let generation = record.head().generation.wrapping_add(1);
    debug_assert_eq!(record.head().used, 0, "a free record is not in use");
    wipe(record);
    *record.head() = Head { generation, used: 1 };
}

/// Ends a use. The generation stays, so that old handles stay old.
fn wipe<R: Record>(record: &mut R) {
    let generation = record.head().generation;
    // SAFETY: the reference is valid for writes of one record, and all-zero is a valid value of every `Record`.
    unsafe { ptr::write_bytes(ptr::from_mut(record), 0, 1) };
    record.head().generation = generation;
}

/// The memory, mapped. Unmapped when it goes.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
    /// Lies inside the mapping: [`Mapping::divide`] checked it.
    layout: Layout,
}

// SAFETY: the memory is owned by this value alone (a memfd that nothing else in this process maps, see `Arena::into_fd`), and is
// reached through `&self` and `&mut self` only.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, len: usize) -> io::Result<Self> {
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
    fn divide(&mut self, limits: RelayLimits) {
        let layout = Layout::of(limits);
        assert_eq!(layout.end, self.len, "limits are those the memory was made with");
        self.layout = layout;
    }

    fn header(&mut self) -> &mut Header {
        // SAFETY: the mapping is at least a page, page-aligned, and any bytes are a valid `Header`.
        unsafe { self.start.cast::<Header>().as_mut() }
    }

    fn header_view(&self) -> &Header {
        // SAFETY: as `header`; `&self` allows no reference that could change it.
        unsafe { self.start.cast::<Header>().as_ref() }
    }

    #[inline]
    fn sections(&mut self) -> Sections<'_> {
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

    fn relays(&self) -> &[RelayRecord] {
        self.section(self.layout.relays, self.layout.limits.relays as usize)
    }

    fn relays_mut(&mut self) -> &mut [RelayRecord] {
        self.section_mut(self.layout.relays, self.layout.limits.relays as usize)
    }

    fn legs(&self) -> &[LegRecord] {
        self.section(self.layout.legs, self.layout.limits.legs as usize)
    }

    fn legs_mut(&mut self) -> &mut [LegRecord] {
        self.section_mut(self.layout.legs, self.layout.limits.legs as usize)
    }

    fn routes(&self) -> &[RouteRecord] {
        self.section(self.layout.routes, self.layout.limits.routes as usize)
    }

    fn routes_mut(&mut self) -> &mut [RouteRecord] {
        self.section_mut(self.layout.routes, self.layout.limits.routes as usize)
    }

    fn parameters(&self) -> &[ParameterSets] {
        self.section(self.layout.parameters, self.layout.limits.routes as usize)
    }

    fn rx(&self) -> &[RxSlot] {
        self.section(self.layout.rx, RX_STREAMS_MAX * self.layout.limits.legs as usize)
    }

    fn retired(&self) -> &[RetiredSource] {
        self.section(self.layout.retired, RETIRED_STREAMS_MAX * self.layout.limits.legs as usize)
    }

    fn out(&self) -> &[OutStream] {
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
    use std::mem::offset_of;

    use super::*;

    const LIMITS: RelayLimits = RelayLimits { relays: 2, legs: 3, routes: 4 };

    #[test]
    fn records_survive_the_arena_that_wrote_them() {
        let mut arena = Arena::create(LIMITS).unwrap();
        let first = arena.take_leg().unwrap();
        let second = arena.take_leg().unwrap();
        arena.leg_mut(second).media_at = 77;
        let handle = arena.handle(second);
        arena.free_leg(first);
        let mut arena = Arena::map(arena.into_fd()).unwrap();
        assert_eq!(arena.free(), RelayLimits { relays: 2, legs: 2, routes: 4 });
        assert_eq!(arena.resolve(handle), Some(second));
        assert_eq!(arena.leg(second).media_at, 77);
        let taken = [arena.take_leg(), arena.take_leg(), arena.take_leg()];
        assert_eq!(taken.iter().flatten().count(), 2, "two of three records were free");
        assert!(!taken.contains(&Some(second)));
    }

    #[test]
    fn a_handle_is_void_once_its_record_was_freed_and_stays_so() {
        let mut arena = Arena::create(LIMITS).unwrap();
        let slot = arena.take_leg().unwrap();
        let old = arena.handle(slot);
        arena.free_leg(slot);
        assert_eq!(arena.resolve(old), None);
        assert_eq!(arena.take_leg(), Some(slot));
        assert_eq!(arena.resolve(old), None);
        assert_eq!(arena.resolve(arena.handle(slot)), Some(slot));
        assert_eq!(arena.resolve(LegHandle { slot: 99, generation: 1 }), None);
    }

    #[test]
    fn what_every_packet_touches_lies_in_two_cache_lines_of_each_record() {
        const LINES: usize = 128;
        assert_eq!(
            [align_of::<LegRecord>(), align_of::<RouteRecord>(), align_of::<RxSlot>(), align_of::<OutStream>()],
            [64; 4]
        );
        macro_rules! ends {
            ($record:ty: $($field:ident).+ of $kind:ty) => {
                (stringify!($record.$($field).+), offset_of!($record, $($field).+) + size_of::<$kind>())
            };
        }
        let hot = [
            ends!(LegRecord: nominated of u32),
            ends!(LegRecord: may_rearm of u8),
            ends!(LegRecord: is_silence_told of u8),
            ends!(LegRecord: media_at of u64),
            ends!(LegRecord: traffic of Traffic),
            ends!(LegRecord: rtp_latch.latched of Addr),
            ends!(LegRecord: rtp_latch.is_held of u8),
            ends!(LegRecord: rtp_latch.heard_at of u64),
            ends!(RouteRecord: is_kept of u8),
            ends!(RouteRecord: source of SourceMap),
            ends!(RouteRecord: fill of FillState),
            ends!(RouteRecord: source_rtx_count of u8),
            ("the first payload type", offset_of!(RouteRecord, payloads) + size_of::<PayloadEntry>()),
            ends!(RxSlot: stream of crate::srtp::RxStream),
            ends!(RxSlot: heard_at of u64),
            ends!(RxSlot: reception.clock of u32),
            ends!(RxSlot: reception.reordered of u64),
            ends!(OutStream: tx of crate::srtp::TxStream),
            ends!(OutStream: octets of u64),
            ends!(OutStream: lead of u32),
        ];
        for (field, end) in hot {
            assert!(end <= LINES, "{field} ends at byte {end}");
        }
        assert_eq!(size_of::<Addr>(), 18, "addresses are packed closely");
    }

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
    fn streams_go_with_their_leg_and_its_record_is_lost_last() {
        let mut arena = Arena::create(LIMITS).unwrap();
        let slot = arena.take_leg().unwrap();
        let mut leg = arena.whole_leg(slot);
        let (place, len) = leg.rx.extend().unwrap();
        leg.rx[place].heard_at = 7;
        leg.record.rx_len = len;
        let (place, len) = leg.out.extend().unwrap();
        leg.out[place].packets = 7;
        leg.record.out_len = len;
        assert_eq!((arena.rx(slot).len(), arena.out(slot)[0].packets), (1, 7));
        arena.free_leg(slot);
        assert_eq!((arena.rx(slot).len(), arena.rx(slot)[0].heard_at, arena.out(slot)[0].packets), (0, 0, 0));
    }

    #[test]
    fn nobody_who_holds_the_memory_can_take_pages_from_it() {
        let arena = Arena::create(LIMITS).unwrap();
        assert!(ftruncate(arena.fd(), 0).is_err());
    }

    #[test]
    fn freed_records_hold_nothing_of_their_past() {
        let mut arena = Arena::create(LIMITS).unwrap();
        let slot = arena.take_leg().unwrap();
        arena.leg_mut(slot).fingerprints[0] = [7; 32];
        arena.free_leg(slot);
        assert_eq!(arena.leg(slot).fingerprints[0], [0; 32]);
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

    #[test]
    fn addresses_of_both_families_survive_being_plain_data() {
        for text in ["192.0.2.1:5004", "[2001:db8::1]:5004"] {
            let addr: std::net::SocketAddr = text.parse().unwrap();
            assert_eq!(Addr::from(addr).to_socket(), Some(addr));
        }
        assert_eq!(Addr::NONE.to_socket(), None);
        assert!(!Addr::from("0.0.0.0:9".parse::<std::net::SocketAddr>().unwrap()).is_target());
    }
}
