//! What survives control: one JSON line a change, one `write()` each, no fsync, mode 0600.
//!
//! A torn last line is ignored. The file is compacted at start and whenever it has grown far beyond what is in force. Taking over the
//! sessions and calls of a former control is not done yet: what it left is read, counted and dropped; the epoch stays.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use serde::{Deserialize, Serialize};

use crate::{gateway::journal::JournalEntry, metrics::Metrics};

/// Largest journal that is read at start.
const FILE_MAX_BYTES: u64 = 1 << 30;

/// Bytes beyond which a running journal is compacted, when less than half of it is in force.
const COMPACT_AT_BYTES: u64 = 16 << 20;

/// Lines waiting for the disk.
const QUEUE_MAX: usize = 8192;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Epoch { epoch: u32 },
    Core(JournalEntry),
}

/// Everything in force, by what an entry is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    epoch: u32,
    entries: BTreeMap<String, JournalEntry>,
}

impl Content {
    fn take(&mut self, line: Line) {
        let entry = match line {
            Line::Epoch { epoch } => {
                self.epoch = self.epoch.max(epoch);
                return;
            }
            Line::Core(entry) => entry,
        };
        let key = key(&entry);
        match entry {
            JournalEntry::SessionClosed { session } => {
                self.entries.remove(&key);
                // Its registration was taken back with it: nobody is left to hear of the answer.
                self.entries.remove(&registration_key(&session));
            }
            JournalEntry::Unregistered { .. } | JournalEntry::RelayEnded { .. } | JournalEntry::DialogEnded { .. } => {
                self.entries.remove(&key);
            }
            entry => {
                self.entries.insert(key, entry);
            }
        }
    }

    fn lines(&self) -> Vec<u8> {
        let mut bytes = line_bytes(&Line::Epoch { epoch: self.epoch });
        for entry in self.entries.values() {
            bytes.extend(line_bytes(&Line::Core(entry.clone())));
        }
        bytes
    }
}

/// What an entry is about: a later entry of the same key replaces it, its end removes it.
fn key(entry: &JournalEntry) -> String {
    match entry {
        JournalEntry::SessionOpened { session, .. } | JournalEntry::SessionClosed { session } => format!("s/{session}"),
        JournalEntry::Registered { session, .. } | JournalEntry::Unregistered { session } => registration_key(session),
        JournalEntry::Program { relay, .. } | JournalEntry::RelayEnded { relay } => format!("p/{relay}"),
        JournalEntry::Dialog { dialog, .. } => dialog_key(&dialog.id),
        JournalEntry::DialogEnded { dialog } => dialog_key(dialog),
    }
}

fn registration_key(session: &str) -> String {
    format!("r/{session}")
}

fn dialog_key(id: &crate::sip::dialog::DialogId) -> String {
    format!("d/{}/{}/{}", id.call_id, id.local_tag, id.remote_tag)
}

fn line_bytes(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("plain data with text keys always serialises");
    bytes.push(b'\n');
    bytes
}

/// What a former control left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Former {
    /// The highest epoch it knew.
    pub epoch: u32,
    /// Entries in force when it ended.
    pub entries: usize,
}

/// The journal's writing end. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    queue: mpsc::SyncSender<Line>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    metrics: Arc<Metrics>,
}

impl Journal {
    /// Reads what is there, writes the compacted file in its place and starts the writer.
    ///
    /// # Errors
    /// The file with what the system says.
    pub fn open(dir: &Path, metrics: Arc<Metrics>) -> io::Result<(Self, Former)> {
        let path = dir.join("journal");
        let content = read(&path)?;
        let former = Former { epoch: content.epoch, entries: content.entries.len() };
        let kept = Content { epoch: content.epoch, entries: BTreeMap::new() };
        let file = rewrite(&path, &kept)?;
        let (queue, lines) = mpsc::sync_channel(QUEUE_MAX);
        let lost = Arc::clone(&metrics);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || Writer { path, file, content: kept, written: 0, metrics: lost }.run(&lines))?;
        Ok((Journal { queue, writer: Arc::new(Mutex::new(Some(writer))), metrics }, former))
    }

    /// Writes an entry of the core. Never waits: a line that the disk cannot take in time is counted as lost.
    pub fn append(&self, entry: JournalEntry) {
        self.line(Line::Core(entry));
    }

    /// Writes our epoch.
    pub fn append_epoch(&self, epoch: u32) {
        self.line(Line::Epoch { epoch });
    }

    fn line(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            self.metrics.journal_lost.add(1);
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
    content: Content,
    written: u64,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn run(mut self, lines: &mpsc::Receiver<Line>) {
        while let Ok(line) = lines.recv() {
            let bytes = line_bytes(&line);
            self.content.take(line);
            match self.file.write_all(&bytes) {
                Ok(()) => self.written += bytes.len() as u64,
                Err(error) => {
                    self.metrics.journal_lost.add(1);
                    tracing::error!(%error, path = %self.path.display(), "the journal cannot be written");
                }
            }
            if self.written > COMPACT_AT_BYTES {
                self.compact();
            }
        }
    }

    fn compact(&mut self) {
        self.written = 0;
        match rewrite(&self.path, &self.content) {
            Ok(file) => self.file = file,
            Err(error) => tracing::error!(%error, path = %self.path.display(), "the journal cannot be compacted"),
        }
    }
}

/// Folds the lines of the file. A line that cannot be read is a torn tail or a later version's: it is passed over.
fn read(path: &Path) -> io::Result<Content> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_MAX_BYTES).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let mut content = Content::default();
    for line in text.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
        match serde_json::from_slice(line) {
            Ok(line) => content.take(line),
            Err(error) => tracing::warn!(%error, "a line of the journal cannot be read"),
        }
    }
    Ok(content)
}

/// Writes `content` beside the file and puts it in its place, so that a crash leaves one or the other.
fn rewrite(path: &Path, content: &Content) -> io::Result<File> {
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&content.lines())?;
    fs::rename(&fresh, path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use gangway_shared::{
        ids::{Generation, RelayId},
        rcp::RelayProgram,
    };

    use super::*;

    fn opened(session: &str) -> JournalEntry {
        JournalEntry::SessionOpened { session: session.to_owned(), address_of_record: None, keep_alive: true }
    }

    fn program(counter: u64, generation: u32) -> JournalEntry {
        JournalEntry::Program {
            relay: RelayId::new(0, 1, counter),
            session: "s".to_owned(),
            call: "c".to_owned(),
            generation: Generation(generation),
            program: RelayProgram { cname: format!("g{generation}"), ..RelayProgram::default() },
        }
    }

    fn write_all(dir: &Path, entries: &[JournalEntry]) -> Former {
        let (journal, former) = Journal::open(dir, Arc::default()).unwrap();
        for entry in entries {
            journal.append(entry.clone());
        }
        journal.finish();
        former
    }

    #[test]
    fn the_epoch_and_what_is_in_force_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, former) = Journal::open(dir.path(), Arc::default()).unwrap();
        assert_eq!(former, Former::default());
        journal.append_epoch(7);
        for entry in [opened("a"), opened("b"), program(1, 1), program(1, 2), program(2, 1)] {
            journal.append(entry);
        }
        journal.append(JournalEntry::SessionClosed { session: "a".to_owned() });
        journal.append(JournalEntry::RelayEnded { relay: RelayId::new(0, 1, 2) });
        journal.finish();
        let content = read(&dir.path().join("journal")).unwrap();
        assert_eq!(content.epoch, 7);
        assert_eq!(content.entries.into_values().collect::<Vec<_>>(), [program(1, 2), opened("b")]);
        assert_eq!(write_all(dir.path(), &[]), Former { epoch: 7, entries: 2 });
        let mode = fs::metadata(dir.path().join("journal")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_closed_session_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let registered =
            JournalEntry::Registered { session: "a".to_owned(), call_id: "c".to_owned(), cseq: 2, expires_s: 60 };
        write_all(dir.path(), &[opened("a"), registered, JournalEntry::SessionClosed { session: "a".to_owned() }]);
        assert_eq!(write_all(dir.path(), &[]).entries, 0);
    }

    #[test]
    fn a_tail_torn_at_any_byte_loses_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), &[opened("a"), opened("b")]);
        let path = dir.path().join("journal");
        let whole = fs::read(&path).unwrap();
        let last_line = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
        for cut in last_line..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let content = read(&path).unwrap();
            assert_eq!(content.entries.into_values().collect::<Vec<_>>(), [opened("a")], "cut at {cut}");
        }
    }

    #[test]
    fn a_line_of_rubbish_in_the_middle_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), &[opened("a")]);
        let path = dir.path().join("journal");
        let mut text = b"\xff\xfe{}\n{\"entry\":\"from_the_future\"}\n".to_vec();
        text.extend(fs::read(&path).unwrap());
        fs::write(&path, text).unwrap();
        assert_eq!(write_all(dir.path(), &[]).entries, 1);
    }

    #[test]
    fn compaction_keeps_what_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut content = Content { epoch: 3, ..Content::default() };
        content.take(Line::Core(opened("a")));
        rewrite(&path, &content).unwrap();
        assert_eq!(read(&path).unwrap(), content);
    }
}
