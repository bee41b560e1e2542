use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use gangway_shared::ids::EventSeq;

use super::*;

/// A session whose only news is its number.
fn session(name: &str, number: u16) -> JournalEntry {
    let line = serde_json::json!({
        "entry": "session", "session": name,
        "record": {
            "session_id": format!("/192.0.2.9:{number}/192.0.2.1:8080"), "app_key": "defaultApp", "fields": {"custom": {"a": 1}},
            "remote": "192.0.2.9", "keep_alive": true,
            "account": {
                "login": "1001", "authentication_name": "1001", "domain": "sip:example.com", "proxy_host": "192.0.2.2",
                "proxy_port": null, "transport": null, "register": true,
            },
        },
    });
    serde_json::from_value(line).unwrap()
}

fn with_password(mut entry: JournalEntry, password: &str) -> JournalEntry {
    let JournalEntry::Session { record, .. } = &mut entry else { unreachable!("a session") };
    record.unseal(Secret::new(password.to_owned()));
    entry
}

fn ended(name: &str) -> JournalEntry {
    JournalEntry::SessionEnded { session: name.to_owned() }
}

fn write_all(dir: &Path, entries: &[JournalEntry]) -> Former {
    let (journal, former) = Journal::open(dir, Arc::default()).unwrap();
    for entry in entries {
        journal.append(entry.clone());
    }
    journal.finish();
    former
}

fn read_back(dir: &Path) -> Vec<JournalEntry> {
    let (content, _) = read(&dir.join("journal"), &Sealer::open(dir).unwrap()).unwrap();
    content.standing.entries().cloned().collect()
}

/// A writer of an empty file.
fn writer(dir: &Path, metrics: &Arc<Metrics>) -> Writer {
    let (path, sealer) = (dir.join("journal"), Sealer::open(dir).unwrap());
    let (file, compacted_bytes) = Fresh::whole(&path, &Content::default(), &sealer).unwrap();
    Writer {
        path,
        file,
        sealer,
        content: Content::default(),
        lines: Vec::new(),
        fresh: None,
        written_bytes: 0,
        compacted_bytes,
        is_lacking: false,
        told: None,
        rewrite_at: None,
        progress: Arc::default(),
        metrics: Arc::clone(metrics),
    }
}

/// A writer that does nothing until it is told to.
pub(crate) struct Stopped {
    writer: Writer,
    orders: mpsc::Receiver<Order>,
}

impl Stopped {
    /// A journal of an empty file that such a writer writes.
    pub(crate) fn journal(dir: &Path, patience: Duration, metrics: &Arc<Metrics>) -> (Journal, Self) {
        Self::of(writer(dir, metrics), QUEUE_MAX, patience)
    }

    fn of(writer: Writer, queue_max: usize, patience: Duration) -> (Journal, Self) {
        let (queue, orders) = mpsc::sync_channel(queue_max);
        let journal = Journal {
            queue,
            writer: Arc::default(),
            is_behind: Arc::default(),
            progress: Arc::clone(&writer.progress),
            queue_max,
            patience,
            metrics: Arc::clone(&writer.metrics),
        };
        (journal, Stopped { writer, orders })
    }

    /// Whether something waits for it.
    pub(crate) fn has_work(&self) -> bool {
        !self.writer.progress.is_settled()
    }

    /// Has it do what waits.
    pub(crate) fn work(&mut self) {
        if let Ok(first) = self.orders.try_recv() {
            self.writer.take(first, &self.orders);
        }
    }

    /// From now on the disk refuses everything: the file is open for reading only.
    pub(crate) fn refuse(&mut self) {
        self.writer.file = File::open(&self.writer.path).unwrap();
    }
}

/// Has it write these and end.
fn run(writer: Writer, entries: &[JournalEntry]) {
    let (queue, orders) = mpsc::sync_channel(entries.len());
    writer.progress.waiting.store(entries.len(), Ordering::Relaxed);
    for entry in entries {
        queue.send(Order::Line(Line::Core(entry.clone()))).unwrap();
    }
    drop(queue);
    writer.run(&orders);
}

#[test]
fn the_epoch_and_what_is_in_force_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, former) = Journal::open(dir.path(), Arc::default()).unwrap();
    assert_eq!(former, Former::default());
    journal.append_epoch(7);
    let seen = |seq| JournalEntry::RelaySeen { instance: "d".to_owned(), seq: EventSeq(seq) };
    for entry in [session("a", 1), session("b", 1), session("b", 2), seen(1), ended("a"), seen(2)] {
        journal.append(entry);
    }
    journal.finish();
    let expected = [seen(2), session("b", 2)];
    assert_eq!(write_all(dir.path(), &[]), Former { epoch: 7, entries: expected.to_vec() });
    assert_eq!(write_all(dir.path(), &[ended("b")]).entries, expected, "the compacted file says the same");
    assert_eq!(read_back(dir.path()), [seen(2)]);
    let mode = fs::metadata(dir.path().join("journal")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_password_comes_back_and_no_line_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let entry = with_password(session("a", 1), "hunter2");
    write_all(dir.path(), std::slice::from_ref(&entry));
    let text = fs::read_to_string(dir.path().join("journal")).unwrap();
    assert!(text.contains("sealed_password") && !text.contains("hunter2"), "{text}");
    assert!(!format!("{entry:?}").contains("hunter2"));
    for _ in 0..2 {
        assert_eq!(write_all(dir.path(), &[]).entries, std::slice::from_ref(&entry), "after a compaction too");
    }
    fs::remove_file(dir.path().join("journal.key")).unwrap();
    let stranger = write_all(dir.path(), &[]).entries;
    assert_eq!(stranger, [session("a", 1)], "without its key the session is there and its password is not");
}

#[test]
fn a_tail_torn_at_any_byte_loses_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[session("a", 1), session("b", 1)]);
    let path = dir.path().join("journal");
    let whole = fs::read(&path).unwrap();
    let last_line = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    for cut in last_line..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(read_back(dir.path()), [session("a", 1)], "cut at {cut}");
    }
}

#[test]
fn lines_of_rubbish_and_of_later_versions_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[session("a", 1)]);
    let path = dir.path().join("journal");
    let mut text = b"\xff\xfe{}\n{\"format\":999}\n{\"entry\":\"from_the_future\",\"x\":1}\n".to_vec();
    text.extend(fs::read(&path).unwrap());
    text.extend(
        b"{\"entry\":\"session_ended\",\"session\":\"nobody\",\"more\":[1]}\n{\"entry\":\"call\",\"call\":\"c\"}\n",
    );
    fs::write(&path, text).unwrap();
    assert_eq!(write_all(dir.path(), &[]).entries, [session("a", 1)]);
}

#[test]
fn a_full_queue_leaves_the_journal_behind_until_it_gets_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let (journal, stopped) = Stopped::of(writer(dir.path(), &metrics), 1, PATIENCE);
    for number in 0..3 {
        journal.append(session("a", number));
    }
    assert_eq!(metrics.journal_lost.value(), 2);
    assert!(!journal.wants_everything(), "there is no room for everything");
    journal.replace(vec![session("b", 1)]);
    let thread = std::thread::spawn(move || stopped.writer.run(&stopped.orders));
    *journal.writer.lock().unwrap() = Some(thread);
    while !journal.wants_everything() {
        std::thread::yield_now();
    }
    journal.replace(vec![session("b", 2), session("c", 1)]);
    assert!(!journal.wants_everything(), "it has everything");
    journal.finish();
    assert_eq!(read_back(dir.path()), [session("b", 2), session("c", 1)]);
}

#[test]
fn what_the_disk_refused_is_written_when_it_takes_lines_again() {
    let dir = tempfile::tempdir().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let mut writer = writer(dir.path(), &metrics);
    // A file that is open for reading only refuses every line.
    writer.file = File::open(&writer.path).unwrap();
    writer.line(Line::Core(session("a", 1)));
    writer.flush();
    assert_eq!((metrics.journal_lost.value(), read_back(dir.path())), (1, vec![]));
    run(writer, &[session("b", 1)]);
    assert_eq!(read_back(dir.path()), [session("a", 1), session("b", 1)]);
}

/// There is no room for another file while a folder has its name.
#[test]
fn without_room_for_a_new_file_control_starts_and_lines_go_on_in_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[session("a", 1)]);
    let path = dir.path().join("journal");
    let mut torn = fs::read(&path).unwrap();
    torn.extend(b"{\"entry\":\"session_en");
    fs::write(&path, torn).unwrap();
    fs::create_dir(dir.path().join("journal.new")).unwrap();
    assert_eq!(write_all(dir.path(), &[session("b", 1)]).entries, [session("a", 1)]);
    assert_eq!(write_all(dir.path(), &[ended("a")]).entries, [session("a", 1), session("b", 1)]);
    fs::remove_dir(dir.path().join("journal.new")).unwrap();
    assert_eq!(write_all(dir.path(), &[]).entries, [session("b", 1)]);
    let first = tempfile::tempdir().unwrap();
    fs::create_dir(first.path().join("journal.new")).unwrap();
    write_all(first.path(), &[session("c", 1)]);
    assert_eq!(read_back(first.path()), [session("c", 1)]);
    assert_eq!(fs::metadata(first.path().join("journal")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_compaction_without_room_loses_no_line_and_leaves_no_half_file() {
    let dir = tempfile::tempdir().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let mut full = writer(dir.path(), &metrics);
    fs::create_dir(dir.path().join("journal.new")).unwrap();
    full.written_bytes = COMPACT_AT_BYTES;
    run(full, &[session("a", 1), session("b", 1)]);
    assert_eq!(read_back(dir.path()), [session("a", 1), session("b", 1)]);
    assert_eq!(metrics.journal_lost.value(), 0);

    fs::remove_dir(dir.path().join("journal.new")).unwrap();
    let mut again = writer(dir.path(), &metrics);
    again.rewrite_at = Some(Instant::now());
    let before = fs::metadata(&again.path).unwrap().ino();
    run(again, &[session("c", 1)]);
    assert_ne!(fs::metadata(dir.path().join("journal")).unwrap().ino(), before, "it is tried again");
    assert_eq!(read_back(dir.path()), [session("c", 1)]);

    // A folder in the place of the file itself cannot be replaced by one.
    let other = tempfile::tempdir().unwrap();
    fs::create_dir_all(other.path().join("journal/x")).unwrap();
    let sealer = Sealer::open(other.path()).unwrap();
    assert!(Fresh::whole(&other.path().join("journal"), &Content::default(), &sealer).is_err());
    assert!(!other.path().join("journal.new").exists());
}

#[test]
fn a_large_journal_is_compacted_when_it_has_doubled() {
    let large = 3 * COMPACT_AT_BYTES;
    for (compacted_bytes, written_bytes, is_due) in
        [(0, COMPACT_AT_BYTES, true), (large, COMPACT_AT_BYTES, false), (large, large, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), &Arc::default());
        (writer.compacted_bytes, writer.written_bytes) = (compacted_bytes, written_bytes);
        let before = fs::metadata(&writer.path).unwrap().ino();
        run(writer, &[session("a", 1)]);
        let after = fs::metadata(dir.path().join("journal")).unwrap();
        assert_eq!(after.ino() != before, is_due, "{written_bytes} after {compacted_bytes}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), &Arc::default());
    writer.content.take(Line::Core(session("a", 1)));
    writer.renew();
    assert_eq!(writer.compacted_bytes, fs::metadata(&writer.path).unwrap().len());
}

/// Sessions whose lines take some pieces of a new file.
fn many(pieces: usize) -> Vec<JournalEntry> {
    let len =
        line_bytes(Line::Core(session("s00000", 1)), &Sealer::open(tempfile::tempdir().unwrap().path()).unwrap()).len();
    (0..pieces * PIECE_BYTES / len).map(|number| session(&format!("s{number:05}"), 1)).collect()
}

#[test]
fn lines_that_come_while_the_file_is_written_anew_stand_in_both() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), &Arc::default());
    let before = many(3);
    writer.content.standing = Standing::of(before.clone());
    (writer.is_lacking, writer.rewrite_at) = (true, None);
    writer.renew();
    assert_eq!(read_back(dir.path()), before, "all of it at once where lines are lacking");
    let inode = || fs::metadata(dir.path().join("journal")).unwrap().ino();
    let (former, last) = (inode(), before.len() - 1);
    let name = |number: usize| format!("s{number:05}");
    let mut expected = before;
    let mut pieces = 0;
    writer.written_bytes = COMPACT_AT_BYTES + writer.compacted_bytes;
    while writer.renew_at().is_some() {
        writer.renew();
        pieces += 1;
        // One that a piece has passed and one that none has, changed; and the same of those that end.
        let changed = [session(&name(pieces), 2), session(&name(last - pieces), 2)];
        let gone = [ended(&name(10 + pieces)), ended(&name(last - 10 - pieces))];
        for entry in changed.iter().chain(&gone) {
            writer.line(Line::Core(entry.clone()));
        }
        writer.line(Line::Epoch { epoch: pieces as u32 });
        writer.flush();
        expected = Standing::of(expected.into_iter().chain(changed).chain(gone)).entries().cloned().collect();
        assert_eq!(read_back(dir.path()), expected, "after piece {pieces}");
        assert_eq!(inode() == former, pieces < 3, "after piece {pieces}");
    }
    assert_eq!(pieces, 3);
    let (content, whole_bytes) = read(&writer.path, &writer.sealer).unwrap();
    assert_eq!((content.epoch, whole_bytes), (3, fs::metadata(&writer.path).unwrap().len()));
    assert!(!dir.path().join("journal.new").exists());
}

#[test]
fn nothing_waits_for_a_whole_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, mut stopped) = Stopped::journal(dir.path(), PATIENCE, &Arc::default());
    stopped.writer.content.standing = Standing::of(many(8));
    stopped.writer.written_bytes = COMPACT_AT_BYTES + 1;
    for number in 0..5 {
        stopped.writer.renew();
        journal.append(session("a", number));
        stopped.work();
        assert!(!stopped.has_work() && stopped.writer.fresh.is_some(), "{number}");
        assert!(read_back(dir.path()).contains(&session("a", number)));
    }
}

#[test]
fn half_a_new_file_goes_when_the_disk_refuses_and_when_control_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let (journal, mut stopped) = Stopped::journal(dir.path(), PATIENCE, &metrics);
    let half = dir.path().join("journal.new");
    let begin = |stopped: &mut Stopped| {
        stopped.writer.content.standing = Standing::of(many(3));
        stopped.writer.written_bytes = COMPACT_AT_BYTES + 1;
        stopped.writer.renew();
        assert!(half.exists());
    };
    // The new file takes no more.
    begin(&mut stopped);
    stopped.writer.fresh.as_mut().unwrap().file = File::open(&half).unwrap();
    journal.append(session("a", 1));
    stopped.work();
    assert_eq!((half.exists(), metrics.journal_lost.value()), (false, 0));
    assert_eq!(read_back(dir.path()), [session("a", 1)], "the old one goes on");
    assert!(stopped.writer.renew_at().is_some_and(|at| at > Instant::now()), "it is tried again after a while");
    // The old file takes no more: the new one lacks what that could not take.
    begin(&mut stopped);
    stopped.refuse();
    journal.append(session("b", 1));
    stopped.work();
    assert_eq!((half.exists(), metrics.journal_lost.value()), (false, 1));
    stopped.writer.renew();
    assert!(read_back(dir.path()).contains(&session("b", 1)));
    // Killed: nobody has removed anything.
    begin(&mut stopped);
    std::mem::forget(stopped.writer.fresh.take());
    assert!(half.exists());
    write_all(dir.path(), &[session("c", 1)]);
    assert!(!half.exists() && read_back(dir.path()).contains(&session("c", 1)));
}

/// A file that cannot be replaced, because a folder has its name, and is open for reading only.
#[test]
fn a_disk_that_stays_full_is_said_once_and_so_is_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let (journal, mut stopped) = Stopped::journal(dir.path(), PATIENCE, &metrics);
    stopped.refuse();
    fs::create_dir(dir.path().join("journal.new")).unwrap();
    let log = Log::default();
    let logged = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logged.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        for number in 0..5 {
            journal.append(session("a", number));
            stopped.work();
            stopped.writer.renew();
        }
        assert_eq!((log.lines("cannot be written"), metrics.journal_lost.value()), (1, 6));
        assert!(!stopped.has_work(), "nobody waits for a disk that refuses");
        fs::remove_dir(dir.path().join("journal.new")).unwrap();
        stopped.writer.renew();
        assert_eq!(log.lines("is written again"), 1);
        assert_eq!(read_back(dir.path()), [session("a", 4)]);
        stopped.refuse();
        journal.append(session("b", 1));
        stopped.work();
        assert_eq!(log.lines("cannot be written"), 2, "the next time is said again");
    });
}

#[test]
fn all_that_waits_is_written_at_once_and_done_with_in_one_go() {
    let dir = tempfile::tempdir().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let (journal, mut stopped) = Stopped::journal(dir.path(), PATIENCE, &metrics);
    for entry in [session("a", 1), session("b", 1), ended("a")] {
        journal.append(entry);
    }
    journal.replace(vec![session("c", 1)]);
    journal.append(session("d", 1));
    assert!(stopped.has_work());
    assert_eq!(read_back(dir.path()), []);
    stopped.work();
    assert!(!stopped.has_work());
    assert_eq!(
        read_back(dir.path()),
        [session("c", 1), session("d", 1)],
        "what came behind everything stands behind it"
    );
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self, text: &str) -> usize {
        let bytes = self.0.lock().unwrap();
        String::from_utf8_lossy(&bytes).lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
