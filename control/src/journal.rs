//! What survives control: one JSON line a change, one `write()` for all that wait, no fsync, mode 0600.
//!
//! What the lines are about leaves the program behind them: the hub waits for [`Journal::settled`] before it sends. A `write()` that is
//! over survives `kill -9`; only the machine's end takes it. A disk that does not come to its end holds nobody up for longer than
//! [`PATIENCE`].
//!
//! A torn last line is ignored, and so is a line that means nothing here. The file is written anew at start, whenever it has grown far
//! beyond what is in force, and when lines could not be written: then it is behind until it holds everything again. One that has grown is
//! written anew in pieces, between the lines that come meanwhile, so that nothing waits for all of it. Where there is no room for a new
//! file, the old one is gone on with. Passwords are sealed on their way to the disk ([`Sealer`]).

#![allow(clippy::disallowed_methods, reason = "the writer owns the pause after a full disk")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gangway_shared::secret::Secret;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    gateway::journal::{FORMAT, JournalEntry, Standing},
    metrics::Metrics,
    seal::Sealer,
};

/// Largest journal that is read at start.
const FILE_MAX_BYTES: u64 = 1 << 30;

/// Bytes of lines after which a running journal is compacted; more where the file held more when it was written anew, so that at most
/// half of what is written is written a second time.
const COMPACT_AT_BYTES: u64 = 16 << 20;

/// Bytes of a file that is written anew between two batches of lines: a few milliseconds of words and disk.
const PIECE_BYTES: usize = 256 << 10;

/// Lines waiting for the disk.
const QUEUE_MAX: usize = 8192;

/// Lines that one `write()` takes.
const BATCH_MAX: usize = 512;

/// What is to be sent waits so long for its lines: half of SIP's T1 (RFC 3261 section 17.1.1.1), so that nobody repeats a request because
/// of a slow disk.
const PATIENCE: Duration = Duration::from_millis(250);

/// Between attempts to write the file anew after the disk refused a line.
const REWRITE_PAUSE: Duration = Duration::from_secs(1);

/// Between attempts to write a file anew that lacks nothing: each takes the last room of a full disk for a moment.
const COMPACT_PAUSE: Duration = Duration::from_secs(60);

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Format { format: u16 },
    Epoch { epoch: u32 },
    Core(JournalEntry),
}

/// What the writer is asked for.
enum Order {
    Line(Line),
    /// This and nothing else is in force.
    All(Vec<JournalEntry>),
}

/// Everything in force.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    epoch: u32,
    standing: Standing,
}

impl Content {
    fn take(&mut self, line: Line) {
        match line {
            Line::Format { format } if format > FORMAT => {
                tracing::warn!(format, "the journal is of a later version: what means nothing here is passed over");
            }
            Line::Format { .. } => {}
            Line::Epoch { epoch } => self.epoch = self.epoch.max(epoch),
            Line::Core(entry) => self.standing.take(entry),
        }
    }
}

fn line_bytes(mut line: Line, sealer: &Sealer) -> Vec<u8> {
    if let Line::Core(entry) = &mut line {
        seal(entry, sealer);
    }
    let mut bytes = serde_json::to_vec(&line).expect("plain data with text keys always serialises");
    bytes.push(b'\n');
    bytes
}

fn seal(entry: &mut JournalEntry, sealer: &Sealer) {
    let password = entry.password().filter(|password| !password.expose().is_empty()).cloned();
    if let (JournalEntry::Session { session, record }, Some(password)) = (entry, password) {
        record.sealed_password = Some(sealer.seal(session, &password));
    }
}

fn unseal(line: &mut Line, sealer: &Sealer) {
    let Line::Core(JournalEntry::Session { session, record }) = line else { return };
    let Some(sealed) = record.sealed_password.take() else { return };
    let password = sealer.unseal(session, &sealed).unwrap_or_else(|| {
        tracing::warn!(%session, "a password of the journal was sealed with another key: its session cannot authenticate");
        Secret::default()
    });
    record.unseal(password);
}

/// What a former control left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Former {
    /// The highest epoch it knew.
    pub epoch: u32,
    /// What was in force when it ended.
    pub entries: Vec<JournalEntry>,
}

/// The journal's writing end. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: mpsc::SyncSender<Order>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    is_behind: Arc<AtomicBool>,
    progress: Arc<Progress>,
    /// How many orders the queue takes.
    queue_max: usize,
    patience: Duration,
    metrics: Arc<Metrics>,
}

/// How far the writer has come.
#[derive(Debug, Default)]
struct Progress {
    /// Orders that are neither written nor refused by the disk.
    waiting: AtomicUsize,
    /// Nobody waits for the writer until it has done all that waits: somebody waited in vain.
    is_late: AtomicBool,
    /// Told when orders are done.
    done: Notify,
}

impl Progress {
    fn is_settled(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    fn done(&self, orders: usize) {
        let before = self.waiting.fetch_sub(orders, Ordering::Release);
        if before == orders && self.is_late.swap(false, Ordering::Relaxed) {
            tracing::info!("the journal keeps up again");
        }
        self.done.notify_one();
    }
}

impl Journal {
    /// Reads what is there, writes the compacted file in its place and starts the writer. Where that file cannot be written, lines go on
    /// in the old one.
    ///
    /// # Errors
    /// What the system says of a file that cannot be read, or of one that cannot be opened for writing either.
    pub fn open(dir: &Path, metrics: Arc<Metrics>) -> io::Result<(Self, Former)> {
        let path = dir.join("journal");
        let sealer = Sealer::open(dir)?;
        let (content, whole_bytes) = read(&path, &sealer)?;
        let former = Former { epoch: content.epoch, entries: content.standing.entries().cloned().collect() };
        let (file, compacted_bytes, rewrite_at) = match Fresh::whole(&path, &content, &sealer) {
            Ok((file, len_bytes)) => (file, len_bytes, None),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the journal cannot be written anew: lines go on in the old file");
                (go_on_with(&path, whole_bytes).map_err(|_| error)?, 0, Some(Instant::now() + COMPACT_PAUSE))
            }
        };
        let (queue, orders) = mpsc::sync_channel(QUEUE_MAX);
        let progress: Arc<Progress> = Arc::default();
        let writer = Writer {
            path,
            file,
            sealer,
            content,
            written_bytes: 0,
            compacted_bytes,
            lines: Vec::new(),
            fresh: None,
            is_lacking: false,
            told: None,
            rewrite_at,
            progress: Arc::clone(&progress),
            metrics: Arc::clone(&metrics),
        };
        let writer = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&orders))?;
        let writer = Arc::new(Mutex::new(Some(writer)));
        let is_behind = Arc::default();
        let journal = Journal { queue, writer, is_behind, progress, queue_max: QUEUE_MAX, patience: PATIENCE, metrics };
        Ok((journal, former))
    }

    /// Writes an entry of the core. Never waits: a line that finds no room is counted, and the journal is behind.
    pub fn append(&self, entry: JournalEntry) {
        self.order(Order::Line(Line::Core(entry)));
    }

    /// Writes our epoch.
    pub fn append_epoch(&self, epoch: u32) {
        self.order(Order::Line(Line::Epoch { epoch }));
    }

    /// Whether lines were lost and the writer has come so far since that [`Journal::replace`] finds room: to put everything into words for
    /// a full queue would cost the calls, and be in vain.
    #[must_use]
    pub fn wants_everything(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed) && self.progress.waiting.load(Ordering::Relaxed) <= self.queue_max / 2
    }

    /// Writes everything in force in place of what was written before. Never waits, as [`Journal::append`].
    pub fn replace(&self, entries: Vec<JournalEntry>) {
        self.is_behind.store(false, Ordering::Relaxed);
        self.order(Order::All(entries));
    }

    /// Waits until all that was asked for so far stands in the file or was refused by the disk. A writer that does not come to it within
    /// [`PATIENCE`] is counted and said once, and then waited for by nobody until it has done everything: calls go on without it.
    pub async fn settled(&self) {
        if self.progress.is_late.load(Ordering::Relaxed) {
            return;
        }
        let settled = async {
            while !self.progress.is_settled() {
                self.progress.done.notified().await;
            }
        };
        if tokio::time::timeout(self.patience, settled).await.is_err() {
            self.metrics.journal_late.add(1);
            self.progress.is_late.store(!self.progress.is_settled(), Ordering::Relaxed);
            tracing::error!(
                waited_ms = self.patience.as_millis(),
                "the disk is too slow for the journal: calls go on without waiting for it"
            );
        }
    }

    fn order(&self, order: Order) {
        self.progress.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(order).is_err() {
            self.progress.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.journal_lost.add(1);
            self.is_behind.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, once every other clone is gone.
    pub fn finish(self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(self.queue);
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    sealer: Sealer,
    content: Content,
    /// Lines that are not written yet.
    lines: Vec<u8>,
    /// Bytes of lines since the file was written anew, and its bytes then.
    written_bytes: u64,
    compacted_bytes: u64,
    /// The file that takes its place when it is whole. It gets every line that this one gets.
    fresh: Option<Fresh>,
    /// The disk refused a line: the file lacks what came since, until it is written anew.
    is_lacking: bool,
    /// The log has said that the file cannot be written, and whether it lacked lines.
    told: Option<bool>,
    /// When that is tried again.
    rewrite_at: Option<Instant>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            // The file is written anew also when nothing more comes.
            let order = match self.renew_at() {
                Some(at) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => orders.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(first) => self.take(first, orders),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if self.renew_at().is_some_and(|at| at <= Instant::now()) {
                self.renew();
            }
        }
        if self.is_lacking {
            self.renew();
        }
    }

    /// This order and those that wait behind it, with one `write()`.
    fn take(&mut self, first: Order, orders: &mpsc::Receiver<Order>) {
        let mut done = 0;
        for order in std::iter::once(first).chain(orders.try_iter()).take(BATCH_MAX) {
            done += 1;
            match order {
                Order::Line(line) => self.line(line),
                Order::All(entries) => {
                    self.flush();
                    self.content.standing = Standing::of(entries);
                    self.is_lacking = true;
                    self.renew();
                }
            }
        }
        self.flush();
        self.progress.done(done);
    }

    fn line(&mut self, line: Line) {
        if !self.is_lacking {
            self.lines.extend(line_bytes(line.clone(), &self.sealer));
        }
        self.content.take(line);
    }

    fn flush(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        match self.file.write_all(&self.lines) {
            Ok(()) => self.written_bytes += self.lines.len() as u64,
            Err(error) => {
                (self.is_lacking, self.fresh) = (true, None);
                self.refused(&error);
            }
        }
        if let Some(fresh) = &mut self.fresh
            && let Err(error) = fresh.write(&self.lines)
        {
            self.fresh = None;
            self.refused(&error);
        }
        self.lines.clear();
    }

    /// When there is something to do about a new file; `None` while there is no need of one.
    fn renew_at(&self) -> Option<Instant> {
        let is_long = || self.written_bytes > self.compacted_bytes.max(COMPACT_AT_BYTES);
        self.rewrite_at.or_else(|| (self.fresh.is_some() || is_long()).then(Instant::now))
    }

    /// Writes the file anew: a piece of it, or all of it where it lacks lines.
    fn renew(&mut self) {
        self.rewrite_at = None;
        match self.renewed() {
            Ok(Some((file, len_bytes))) => {
                (self.file, self.compacted_bytes, self.written_bytes) = (file, len_bytes, 0);
                self.is_lacking = false;
                if self.told.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the journal is written again and holds everything");
                }
            }
            Ok(None) => {}
            Err(error) => self.refused(&error),
        }
    }

    /// The new file in the place of the old one, with its bytes, once it is whole.
    fn renewed(&mut self) -> io::Result<Option<(File, u64)>> {
        if self.is_lacking {
            self.fresh = None;
            return Fresh::whole(&self.path, &self.content, &self.sealer).map(Some);
        }
        let mut fresh = match self.fresh.take() {
            Some(fresh) => fresh,
            None => Fresh::begin(&self.path, &self.content, &self.sealer)?,
        };
        if fresh.piece(&self.content, &self.sealer)? {
            return fresh.take_place(&self.path).map(Some);
        }
        self.fresh = Some(fresh);
        Ok(None)
    }

    fn refused(&mut self, error: &io::Error) {
        let pause = if self.is_lacking {
            self.metrics.journal_lost.add(1);
            REWRITE_PAUSE
        } else {
            COMPACT_PAUSE
        };
        self.rewrite_at = Some(Instant::now() + pause);
        // Once, and not at each attempt: a disk may stay full for hours.
        if self.told.replace(self.is_lacking) != Some(self.is_lacking) {
            let path = self.path.display();
            tracing::error!(%error, %path, lacks_lines = self.is_lacking, "the journal cannot be written");
        }
    }
}

/// Folds the lines of the file; with the bytes that they take without a torn one at the end. A line that cannot be read is such a tail or
/// a later version's: it is passed over.
fn read(path: &Path, sealer: &Sealer) -> io::Result<(Content, u64)> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_MAX_BYTES).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    Ok((fold(&text, sealer), whole as u64))
}

/// The file as it is, for more lines; a torn one at its end is cut off, or the next line would be torn too.
fn go_on_with(path: &Path, whole_bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > whole_bytes {
        file.set_len(whole_bytes)?;
    }
    Ok(file)
}

fn fold(text: &[u8], sealer: &Sealer) -> Content {
    let mut content = Content::default();
    for line in text.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
        match serde_json::from_slice(line) {
            Ok(mut line) => {
                unseal(&mut line, sealer);
                content.take(line);
            }
            Err(error) => tracing::warn!(%error, "a line of the journal cannot be read"),
        }
    }
    content
}

/// A file that is to take the journal's place, so that a crash leaves one or the other: what is in force in the order of its keys, and
/// between the pieces of that the lines that came meanwhile. Of one thing the last line counts, so it does no harm that some things
/// stand in both.
struct Fresh {
    file: File,
    len_bytes: u64,
    /// The key of the last thing that a piece held.
    key: String,
    unfinished: Unfinished,
}

/// Half a file: it would take the room that the next lines need.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Fresh {
    fn begin(path: &Path, content: &Content, sealer: &Sealer) -> io::Result<Self> {
        let unfinished = Unfinished(path.with_extension("new"));
        // That of a control which was killed meanwhile.
        let _ = fs::remove_file(&unfinished.0);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&unfinished.0)?;
        let mut fresh = Fresh { file, len_bytes: 0, key: String::new(), unfinished };
        let mut lines = line_bytes(Line::Format { format: FORMAT }, sealer);
        lines.extend(line_bytes(Line::Epoch { epoch: content.epoch }, sealer));
        fresh.write(&lines)?;
        Ok(fresh)
    }

    /// Writes `content` at once and puts it in the place of the file; with its bytes.
    fn whole(path: &Path, content: &Content, sealer: &Sealer) -> io::Result<(File, u64)> {
        let mut fresh = Fresh::begin(path, content, sealer)?;
        while !fresh.piece(content, sealer)? {}
        fresh.take_place(path)
    }

    /// Another piece of what is in force; true when that was the last one.
    fn piece(&mut self, content: &Content, sealer: &Sealer) -> io::Result<bool> {
        let mut lines = Vec::new();
        for (key, entry) in content.standing.after(&self.key) {
            lines.extend(line_bytes(Line::Core(entry.clone()), sealer));
            if lines.len() >= PIECE_BYTES {
                key.clone_into(&mut self.key);
                return self.write(&lines).map(|()| false);
            }
        }
        self.write(&lines).map(|()| true)
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.file.write_all(lines)?;
        self.len_bytes += lines.len() as u64;
        Ok(())
    }

    fn take_place(self, path: &Path) -> io::Result<(File, u64)> {
        fs::rename(&self.unfinished.0, path)?;
        Ok((self.file, self.len_bytes))
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
pub(crate) mod tests;
