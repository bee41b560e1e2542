//! The counters of all workers in memory that others map: whoever reads them costs the workers nothing.
//!
//! Each worker owns a page of numbers and writes it once a second while it has something to tell. A sequence number in front is odd
//! while it writes; a reader whose numbers were written meanwhile reads again. The memory is a memfd, so that no disk keeps a worker
//! waiting, and a symbolic link in `data_dir` leads to it.
//!
//! ```text
//! | magic | version | workers | words a worker | padding to 64 bytes | worker 0 | worker 1 | ...     words of 8 bytes, native order
//! worker: | sequence | written at | relays | received | sent | batches | busy | drops ... | latency ... | engine ... | padding to 64 bytes
//! ```

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use gangway_shared::{rcp::WorkerStats, time::WallTime};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use thiserror::Error;

use crate::{
    engine::EngineCounters,
    stats::{LATENCY_BUCKETS, LoopCounters, WorkerCounters},
    wire::DropReason,
};

/// Name of the link in `data_dir`.
pub const LINK_NAME: &str = "dataplane.stats";

/// "GWSTATS" and a zero.
const MAGIC: u64 = u64::from_be_bytes(*b"GWSTATS\0");
/// Counts up when the meaning of a word changes.
const VERSION: u64 = 2;
/// Words in front of the first worker.
const HEADER_WORDS: usize = 8;
/// Words of a worker before its drops: sequence, written at, relays, received, sent, batches, busy.
const FIXED_WORDS: usize = 7;
/// Place of the engine's counters behind the sequence number.
const ENGINE_AT: usize = FIXED_WORDS - 1 + DropReason::COUNT + LATENCY_BUCKETS;
/// Words of a worker, in whole cache lines: no two workers write to one.
const WORKER_WORDS: usize =
    (FIXED_WORDS + DropReason::COUNT + LATENCY_BUCKETS + EngineCounters::COUNT).next_multiple_of(8);
/// A reader that is overtaken so often gives up: the writer died while it wrote.
const TRIES_MAX: usize = 10_000;

/// Why the counters cannot be read.
#[derive(Debug, Error)]
pub enum StatsMapError {
    /// There are none: no dataplane runs here, or it belongs to somebody else.
    #[error("{path}: {source}")]
    Open {
        /// The link.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They were written by something else, or by another version of this program.
    #[error("{0}: these are no counters of this version")]
    Foreign(PathBuf),
    /// A worker ended while it wrote.
    #[error("the numbers of worker {0} are half written")]
    Torn(usize),
}

/// The counters of one worker as it last wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// When; zero: never yet.
    pub at: WallTime,
    /// What.
    pub stats: WorkerStats,
}

/// The memory that workers write to.
#[derive(Debug)]
pub struct StatsMap {
    memory: Arc<Mapping>,
    fd: OwnedFd,
    workers: usize,
}

/// One worker's part of a [`StatsMap`].
#[derive(Debug)]
pub struct StatsPage {
    memory: Arc<Mapping>,
    worker: usize,
}

impl StatsMap {
    /// Memory for so many workers, with zeros.
    ///
    /// # Errors
    /// What the kernel says to memfd_create, ftruncate or mmap.
    pub fn create(workers: u16) -> io::Result<Self> {
        let workers = usize::from(workers);
        let fd = memfd_create("gangway-stats", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let words = HEADER_WORDS + workers * WORKER_WORDS;
        ftruncate(&fd, (words * size_of::<u64>()) as u64)?;
        // Readers have the descriptor too, and must not take pages from under the workers.
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let memory = Mapping::new(&fd, words, ProtFlags::READ | ProtFlags::WRITE)?;
        for (word, value) in memory.words().iter().zip([MAGIC, VERSION, workers as u64, WORKER_WORDS as u64]) {
            word.store(value, Ordering::Relaxed);
        }
        Ok(StatsMap { memory: Arc::new(memory), fd, workers })
    }

    /// Makes `link` lead to the memory, in place of one that leads to another's.
    ///
    /// # Errors
    /// What the kernel says to symlink or rename.
    pub fn publish(&self, link: &Path) -> io::Result<()> {
        let target = format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_fd().as_raw_fd());
        let fresh = link.with_extension("stats-new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => std::os::unix::fs::symlink(target, &fresh)?,
        }
        fs::rename(fresh, link)
    }

    /// A worker's part. To be given out once each.
    ///
    /// # Panics
    /// When there is no such worker.
    #[must_use]
    pub fn page(&self, worker: u16) -> StatsPage {
        let worker = usize::from(worker);
        assert!(worker < self.workers, "the memory was made for {} workers", self.workers);
        StatsPage { memory: self.memory.clone(), worker }
    }
}

impl StatsPage {
    /// Writes the worker's numbers. Nothing is allocated, and no reader is waited for.
    pub fn write(
        &mut self,
        at: WallTime,
        relays: u64,
        counters: &WorkerCounters,
        around: &LoopCounters,
        (busy, engine): (Duration, EngineCounters),
    ) {
        let [sequence, words @ ..] = self.memory.of_worker(self.worker) else { unreachable!("a worker has words") };
        let number = sequence.load(Ordering::Relaxed);
        sequence.store(number.wrapping_add(1), Ordering::Relaxed);
        // What follows is not seen before the odd number.
        fence(Ordering::Release);
        let busy_us = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        let fixed = [at.as_unix_micros(), relays, counters.received, counters.sent, around.batches, busy_us];
        let values = fixed.iter().chain(&counters.drops).chain(around.latency.counts());
        words.iter().zip(values).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        words[ENGINE_AT..].iter().zip(engine.to_array()).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        sequence.store(number.wrapping_add(2), Ordering::Release);
    }
}

/// Reads the counters of all workers of the dataplane that `link` leads to.
///
/// # Errors
/// [`StatsMapError`].
pub fn read(link: &Path) -> Result<Vec<Published>, StatsMapError> {
    let open = |source| StatsMapError::Open { path: link.to_owned(), source };
    let file = fs::File::open(link).map_err(open)?;
    let bytes = usize::try_from(fstat(&file).map_err(|error| open(error.into()))?.st_size).unwrap_or(0);
    let words = bytes / size_of::<u64>();
    let foreign = || StatsMapError::Foreign(link.to_owned());
    if words < HEADER_WORDS {
        return Err(foreign());
    }
    let memory = Mapping::new(&file, words, ProtFlags::READ).map_err(open)?;
    let [magic, version, workers, worker_words] = [0, 1, 2, 3].map(|at| memory.words()[at].load(Ordering::Relaxed));
    let workers = usize::try_from(workers).unwrap_or(usize::MAX);
    let is_whole = workers.checked_mul(WORKER_WORDS).is_some_and(|all| HEADER_WORDS + all == words);
    if (magic, version, worker_words) != (MAGIC, VERSION, WORKER_WORDS as u64) || !is_whole {
        return Err(foreign());
    }
    (0..workers).map(|worker| read_worker(&memory, worker).ok_or(StatsMapError::Torn(worker))).collect()
}

fn read_worker(memory: &Mapping, worker: usize) -> Option<Published> {
    let [sequence, words @ ..] = memory.of_worker(worker) else { unreachable!("a worker has words") };
    for _ in 0..TRIES_MAX {
        let before = sequence.load(Ordering::Acquire);
        let values: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        // The number is read after all that it stands for.
        fence(Ordering::Acquire);
        if before.is_multiple_of(2) && sequence.load(Ordering::Relaxed) == before {
            return Some(decode(worker, &values));
        }
        std::thread::yield_now();
    }
    None
}

fn decode(worker: usize, values: &[u64]) -> Published {
    let [at, relays, received, sent, batches, busy_us, rest @ ..] = values else {
        unreachable!("a worker has more words than these")
    };
    let (drops, rest) = rest.split_at(DropReason::COUNT);
    let (latency, rest) = rest.split_at(LATENCY_BUCKETS);
    let engine = rest.first_chunk().copied().map(EngineCounters::from_array).unwrap_or_default();
    let stats = WorkerStats {
        worker: u16::try_from(worker).expect("maps are made for a u16 of workers"),
        relays: *relays,
        received: *received,
        sent: *sent,
        drops: drops.to_vec(),
        batches: *batches,
        busy_us: *busy_us,
        latency: latency.to_vec(),
        engine: engine.named(),
    };
    Published { at: WallTime::from_unix_micros(*at), stats }
}

/// The memory, mapped. Unmapped when it goes.
#[derive(Debug)]
struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is reached through atomic operations only, which any thread may do at any time.
unsafe impl Send for Mapping {}

// SAFETY: as `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `words` words of a file that has as many.
    fn new(fd: impl AsFd, words: usize, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { mmap(ptr::null_mut(), words * size_of::<u64>(), protection, MapFlags::SHARED, fd, 0)? };
        let start = NonNull::new(start.cast()).ok_or(ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, words })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is so long, page-aligned, lives as long as `self`, any bytes are a valid `AtomicU64`, and nobody reaches
        // it but by atomic operations; a memfd of ours is sealed against becoming shorter. A reader's mapping is read-only, and only
        // loaded from.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    fn of_worker(&self, worker: usize) -> &[AtomicU64] {
        &self.words()[HEADER_WORDS + worker * WORKER_WORDS..][..WORKER_WORDS]
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and no reference into it outlives `self`. A failure would leak address space only.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn all(number: u64) -> (WorkerCounters, LoopCounters) {
        let counters = WorkerCounters { received: number, sent: number, drops: [number; DropReason::COUNT] };
        let mut around = LoopCounters { batches: number, ..LoopCounters::default() };
        around.latency.note(Duration::from_micros(number % 100));
        (counters, around)
    }

    /// Each another one.
    fn engine(number: u64) -> EngineCounters {
        EngineCounters::from_array(std::array::from_fn(|at| number * (at as u64 + 1)))
    }

    fn write(page: &mut StatsPage, number: u64) {
        let (counters, around) = all(number);
        let own = (Duration::from_micros(number), engine(number));
        page.write(WallTime::from_unix_micros(number), number, &counters, &around, own);
    }

    #[test]
    fn what_a_worker_wrote_is_read_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join(LINK_NAME);
        assert!(matches!(read(&link), Err(StatsMapError::Open { .. })));
        let map = StatsMap::create(2).unwrap();
        map.publish(&link).unwrap();
        map.publish(&link).unwrap();
        write(&mut map.page(1), 7);
        let [first, second] = read(&link).unwrap().try_into().unwrap();
        assert_eq!((first.at, first.stats.received), (WallTime::default(), 0));
        let (counters, around) = all(7);
        let expected = around.complete(counters.snapshot(1, 7), Duration::from_micros(7), engine(7));
        assert_eq!((expected.engine["out_of_buffers"], expected.engine["completions_full"]), (7, 42));
        assert_eq!(second, Published { at: WallTime::from_unix_micros(7), stats: expected });
        drop(map);
        assert!(read(&link).is_err(), "nobody is there any more");
    }

    #[test]
    fn a_reader_never_sees_half_of_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join(LINK_NAME);
        let map = StatsMap::create(1).unwrap();
        map.publish(&link).unwrap();
        let mut page = map.page(0);
        write(&mut page, 1);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 2;
                while !is_over.load(Ordering::Relaxed) {
                    write(&mut page, number);
                    number += 1;
                    // One that never rests would leave a reader no moment.
                    (0..100).for_each(|_| std::hint::spin_loop());
                }
            });
            let mut newest = 0;
            while newest < 2000 {
                let Published { at, stats } = read(&link).unwrap().remove(0);
                let number = at.as_unix_micros();
                assert!(
                    stats.drops.iter().chain([&stats.relays, &stats.batches, &stats.busy_us]).all(|at| *at == number)
                );
                newest = newest.max(number);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn half_written_and_foreign_numbers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join(LINK_NAME);
        let map = StatsMap::create(1).unwrap();
        map.publish(&link).unwrap();
        map.memory.of_worker(0)[0].store(5, Ordering::Relaxed);
        assert!(matches!(read(&link), Err(StatsMapError::Torn(0))));
        map.memory.words()[1].store(VERSION + 1, Ordering::Relaxed);
        assert!(matches!(read(&link), Err(StatsMapError::Foreign(_))));
        fs::remove_file(&link).unwrap();
        fs::write(&link, "no numbers").unwrap();
        assert!(matches!(read(&link), Err(StatsMapError::Foreign(_))));
    }
}
