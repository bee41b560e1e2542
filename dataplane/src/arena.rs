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
mod memory;
mod records;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{Ordering, compiler_fence},
};

use gangway_shared::ids::RelayId;
use memory::{Layout, Mapping, PAGE, Record, renew, wipe};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

pub use columns::{Column, ColumnMut, Columns};
pub use memory::{Header, layout};
pub use records::{
    ACTIONS_MAX, Addr, Counters, Earliest, FINGERPRINTS_MAX, FillState, Head, HeldKeys, KeyPlace, Latch, LegRecord,
    OUT_STREAMS_MAX, OutStream, PARAMETER_BYTES_MAX, PARAMETER_SETS_MAX, PATHS_MAX, ParameterSets, Path, PayloadEntry,
    PictureState, RETIRED_STREAMS_MAX, RX_STREAMS_MAX, Reception, RelayRecord, RetiredSource, RouteRecord, RtxEntry,
    RxSlot, SourceMap, Traffic, kind,
};

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
        *memory.header() = Header::new(limits);
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
        header.check(len)?;
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

#[cfg(test)]
mod tests;
