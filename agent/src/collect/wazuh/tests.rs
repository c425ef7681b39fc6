//! A manager that writes, re-links, packs and rotates, against the reader.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use collect::Quarantined;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use protocol::batch::{BatchBuilder, decode_item};
use protocol::event::EventRecord;
use protocol::limits;
use tempfile::TempDir;

use super::follow::Follower;
use super::*;

/// Returns the line of an alert with a number for an id, without its end.
fn alert(number: usize, padding: usize) -> String {
    format!(
        r#"{{"timestamp":"2026-11-22T10:00:00.000+0000","rule":{{"level":3,"description":"d"}},"id":"{number}","full_log":"{}"}}"#,
        "x".repeat(padding)
    )
}

/// Writes as `wazuh-analysisd` does and packs as `wazuh-monitord` does.
struct Manager {
    folder: TempDir,
    /// Day of the month and part.
    day: (u32, u32),
    /// Files of past days that are still plain, oldest first.
    plain: Vec<PathBuf>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let day = (1, 0);
        let plain = Vec::new();
        let mut manager = Self { folder, day, plain };
        manager.link();
        manager
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("alerts.json")
    }

    fn day_file(&self) -> PathBuf {
        let month = self.folder.path().join("2026/Nov");
        fs::create_dir_all(&month).unwrap();
        match self.day {
            (day, 0) => month.join(format!("ossec-alerts-{day:02}.json")),
            (day, part) => month.join(format!("ossec-alerts-{day:02}-{part:03}.json")),
        }
    }

    fn link(&mut self) {
        let file = self.day_file();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .unwrap();
        let _ = fs::remove_file(self.path());
        fs::hard_link(file, self.path()).unwrap();
    }

    fn write(&self, text: &str) {
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.day_file())
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Begins the next file: the next part of the day, or the next day.
    fn rotate(&mut self, to_next_day: bool) {
        let old = self.day_file();
        if fs::metadata(&old).unwrap().len() == 0 {
            fs::remove_file(&old).unwrap();
        } else {
            self.plain.push(old);
        }
        self.day = match (to_next_day, self.day) {
            (true, (day, _)) => (day + 1, 0),
            (false, (day, part)) => (day, part + 1),
        };
        self.link();
    }

    /// Packs the oldest plain file of the past and returns the archive.
    fn compress(&mut self) -> Option<PathBuf> {
        if self.plain.is_empty() {
            return None;
        }
        let file = self.plain.remove(0);
        let archive = pack(&file);
        fs::remove_file(file).unwrap();
        Some(archive)
    }
}

/// Writes `file.gz` beside a file, with the file's time.
fn pack(file: &Path) -> PathBuf {
    let archive = PathBuf::from(format!("{}.gz", file.display()));
    let mut packed = GzEncoder::new(File::create(&archive).unwrap(), Compression::fast());
    packed.write_all(&fs::read(file).unwrap()).unwrap();
    let packed = packed.finish().unwrap();
    let written = fs::metadata(file).unwrap().modified().unwrap();
    packed.set_modified(written).unwrap();
    archive
}

/// A follower with what the spool would hold.
struct Reader {
    path: PathBuf,
    follower: Follower,
    cursor: Option<Vec<u8>>,
    ids: Vec<usize>,
    set_aside: Vec<Quarantined>,
}

impl Reader {
    fn new(path: PathBuf) -> Self {
        Self {
            follower: Follower::new(path.clone(), None),
            path,
            cursor: None,
            ids: Vec::new(),
            set_aside: Vec::new(),
        }
    }

    fn step(&mut self) -> bool {
        let step = self.follower.step().unwrap();
        let ids = native_ids(&step.events);
        self.ids
            .extend(ids.iter().map(|id| id.parse::<usize>().unwrap()));
        self.set_aside.extend(step.quarantined);
        self.cursor = Some(step.cursor);
        step.is_end
    }

    /// Steps until there is no more at present.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.step() {
                return;
            }
        }
        panic!("the reader comes to no end");
    }

    fn restart(&mut self) {
        self.follower = Follower::new(self.path.clone(), self.cursor.as_deref());
    }

    /// Returns whether the stored position can be recognised by content.
    fn is_under_way(&self) -> bool {
        let place = self.cursor.as_deref().and_then(input::Place::parse);
        place.is_some_and(|place| place.has_head())
    }

    fn reasons(&self) -> Vec<&str> {
        self.set_aside
            .iter()
            .map(|record| record.reason.as_str())
            .collect()
    }
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| alert(number, 0) + "\n").collect()
}

#[test]
fn a_line_without_its_end_waits_and_bad_lines_are_counted() {
    let manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    let whole = alert(2, 0);
    let (first, second) = whole.split_at(40);
    manager.write(&format!("{}no alert\n\n{first}", lines(0..2)));
    reader.run();
    assert_eq!(reader.ids, [0, 1]);
    manager.write(&format!("{second}\n"));
    reader.restart();
    reader.run();
    assert_eq!(reader.ids, [0, 1, 2]);
    let record = &reader.set_aside[0];
    let place = format!("{}:{}", manager.path().display(), lines(0..2).len());
    assert_eq!((&record.place, record.bytes), (&place, 8));
    assert_eq!(reader.reasons(), ["not JSON"]);
}

#[test]
fn a_line_beyond_the_bound_is_dropped_with_its_length_and_the_next_one_is_read() {
    let manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    for padding in [limits::EVENT_RAW_BYTES, 5 * limits::EVENT_RAW_BYTES] {
        manager.write(&(alert(0, padding) + "\n"));
    }
    let exact = limits::EVENT_RAW_BYTES - alert(7, 0).len();
    manager.write(&format!("{}\n{}\n", alert(7, exact), alert(8, exact + 1)));
    // Half of one that is too long: a restart must not take its middle for a line.
    manager.write(&alert(9, 2 * limits::EVENT_RAW_BYTES));
    reader.run();
    reader.restart();
    reader.run();
    manager.write(&format!("\n{}", lines(10..11)));
    reader.run();
    assert_eq!(reader.ids, [7, 10]);
    let lengths: Vec<u64> = reader.set_aside.iter().map(|record| record.bytes).collect();
    let plain = u64::try_from(alert(0, 0).len()).unwrap();
    let bound = u64::try_from(limits::EVENT_RAW_BYTES).unwrap();
    assert_eq!(
        lengths,
        [
            bound + plain,
            5 * bound + plain,
            bound + 1,
            2 * bound + plain
        ]
    );
}

#[test]
fn a_step_stays_near_the_size_of_a_batch() {
    let manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    let text: String = (0..1000).map(|number| alert(number, 2000) + "\n").collect();
    manager.write(&text);
    manager.write(&"\n".repeat(20_000));
    manager.write(&lines(1000..1001));
    let mut steps = 0;
    loop {
        let before = reader.ids.len();
        let is_end = reader.step();
        let bytes = (reader.ids.len() - before) * alert(100, 2000).len();
        assert!(bytes < limits::BATCH_TARGET_BYTES + 4096, "{bytes}");
        steps += 1;
        if is_end {
            break;
        }
    }
    assert_eq!(reader.ids, (0..1001).collect::<Vec<_>>());
    // Two megabytes in steps of 512 KiB, and the empty lines in some more.
    assert!((8..=12).contains(&steps), "{steps}");
}

#[test]
fn a_file_that_is_cut_is_read_from_its_start_and_said() {
    let manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    manager.write(&lines(0..5));
    reader.run();
    let file = OpenOptions::new().write(true).open(manager.path()).unwrap();
    file.set_len(0).unwrap();
    // As long as it was: only its beginning is another.
    manager.write(&lines(5..10));
    reader.run();
    assert_eq!(reader.ids, (0..10).collect::<Vec<_>>());
    let said = "the file was cut; lines written just before may be missing";
    assert_eq!(reader.reasons(), [said]);
}

#[test]
fn a_file_that_was_cut_while_nobody_read_is_said_too() {
    let manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    manager.write(&lines(0..5));
    reader.run();
    let file = OpenOptions::new().write(true).open(manager.path()).unwrap();
    file.set_len(0).unwrap();
    manager.write(&lines(5..7));
    reader.restart();
    reader.run();
    assert_eq!(reader.ids, (0..7).collect::<Vec<_>>());
    let said = "the file was cut or replaced while nobody read it; lines may be missing";
    assert_eq!(reader.reasons(), [said]);
}

#[test]
fn a_file_that_was_copied_and_cut_is_read_on_in_the_copy() {
    for restarts in [false, true] {
        let mut manager = Manager::new();
        let mut reader = Reader::new(manager.path());
        manager.write(&lines(0..3));
        reader.run();
        manager.write(&lines(3..6));
        let copy = manager.folder.path().join("alerts.json.1");
        fs::copy(manager.path(), copy).unwrap();
        let file = OpenOptions::new().write(true).open(manager.path()).unwrap();
        file.set_len(0).unwrap();
        // The cut file goes on and its day ends.
        manager.write(&lines(6..8));
        manager.rotate(true);
        manager.write(&lines(8..9));
        if restarts {
            reader.restart();
        }
        reader.run();
        assert_eq!(reader.ids, (0..9).collect::<Vec<_>>(), "{restarts}");
    }
}

#[test]
fn lines_of_a_file_that_is_gone_are_reported_and_later_days_are_read() {
    let mut manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    manager.write(&lines(0..3));
    reader.run();
    let offset = lines(0..3).len();
    let gone = manager.day_file();
    manager.rotate(true);
    manager.write(&lines(3..5));
    manager.rotate(true);
    manager.write(&lines(5..7));
    fs::remove_file(&gone).unwrap();
    manager.plain.remove(0);
    manager.compress();
    reader.restart();
    reader.run();
    assert_eq!(reader.ids, (0..7).collect::<Vec<_>>());
    assert_eq!(reader.set_aside.len(), 1);
    let record = &reader.set_aside[0];
    assert_eq!(record.place, format!("{}:{offset}", gone.display()));
    assert!(
        record.reason.starts_with("the file is gone"),
        "{}",
        record.reason
    );
}

#[test]
fn of_a_file_that_is_gone_before_it_was_read_the_known_bytes_are_told() {
    let mut manager = Manager::new();
    let text = lines(0..8000);
    assert!(text.len() > limits::BATCH_TARGET_BYTES * 3 / 2);
    manager.write(&text);
    let step = Follower::new(manager.path(), None).step().unwrap();
    assert!(!step.is_end, "only the first part was read");
    let read = lines(0..step.events.len()).len();
    let gone = manager.day_file();
    manager.rotate(true);
    manager.write(&lines(8000..8001));
    fs::remove_file(&gone).unwrap();
    let mut later = Follower::new(manager.path(), Some(&step.cursor));
    let record = later.step().unwrap().quarantined.pop().unwrap();
    assert_eq!(record.place, format!("{}:{read}", gone.display()));
    let unread = u64::try_from(text.len() - read).unwrap();
    assert_eq!(record.bytes, unread);
}

#[test]
fn an_archive_that_was_copied_elsewhere_is_known_by_its_content() {
    let mut manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    manager.write(&lines(0..3));
    reader.run();
    manager.write(&lines(3..5));
    manager.rotate(true);
    manager.write(&lines(5..6));
    let archive = manager.compress().unwrap();
    let elsewhere = manager.folder.path().join("alerts.json-20261101.gz");
    fs::copy(&archive, elsewhere).unwrap();
    fs::remove_file(archive).unwrap();
    reader.restart();
    reader.run();
    assert_eq!(reader.ids, (0..6).collect::<Vec<_>>());
    assert!(reader.set_aside.is_empty(), "{:?}", reader.reasons());
}

#[test]
fn a_damaged_archive_is_reported_and_the_present_file_is_read() {
    let mut manager = Manager::new();
    let mut reader = Reader::new(manager.path());
    manager.write(&lines(0..1));
    reader.run();
    manager.rotate(true);
    manager.write(&lines(1..200));
    manager.rotate(true);
    manager.write(&lines(200..202));
    manager.compress();
    let archive = manager.compress().unwrap();
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    reader.restart();
    reader.run();
    reader.restart();
    reader.run();
    assert!(reader.ids.starts_with(&[0, 1]) && reader.ids.ends_with(&[200, 201]));
    assert!(reader.ids.len() < 202 && reader.ids.is_sorted());
    let said = reader.reasons();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("the archive cannot be read to its end"),
        "{said:?}"
    );
}

#[test]
fn a_file_that_another_program_renamed_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("alerts.json");
    let renamed = folder.path().join("alerts.json.1");
    fs::write(&path, lines(0..2)).unwrap();
    let mut reader = Reader::new(path.clone());
    reader.run();
    fs::rename(&path, &renamed).unwrap();
    reader.run();
    // The writer has not noticed yet.
    let mut old = OpenOptions::new().append(true).open(&renamed).unwrap();
    old.write_all(lines(2..3).as_bytes()).unwrap();
    fs::write(&path, "").unwrap();
    reader.run();
    old.write_all(lines(3..4).as_bytes()).unwrap();
    old.write_all(b"{\"cut in its mid").unwrap();
    fs::write(&path, lines(4..5)).unwrap();
    reader.restart();
    reader.run();
    assert_eq!(reader.ids, (0..5).collect::<Vec<_>>());
    assert_eq!(
        reader.reasons(),
        ["the last line of a finished file has no end"]
    );
}

#[test]
fn an_unreadable_cursor_is_reported_and_a_missing_file_is_said_to_be_missing() {
    let manager = Manager::new();
    manager.write(&lines(0..2));
    let mut reader = Reader::new(manager.path());
    reader.cursor = Some(vec![9, 9, 9]);
    reader.restart();
    reader.run();
    assert_eq!(reader.ids, [0, 1]);
    let said = "the stored cursor cannot be read; the file is read again";
    assert_eq!(reader.reasons(), [said]);
    let mut lost = Follower::new(manager.folder.path().join("none.json"), None);
    let missing = lost.step();
    let is_missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    assert!(
        matches!(&missing, Err(CollectError::File { source, .. }) if is_missing(source)),
        "{missing:?}"
    );
}

/// One thing that manager or reader does.
#[derive(Debug, Clone)]
enum Do {
    Write {
        lines: usize,
        padding: usize,
    },
    /// Begins a line that the next write ends.
    Begin,
    Rotate {
        to_next_day: bool,
    },
    Compress,
    Step,
    Restart,
}

fn deed() -> impl Strategy<Value = Do> {
    prop_oneof![
        4 => (1usize..30, prop_oneof![8 => 0usize..500, 1 => Just(40_000usize)])
            .prop_map(|(lines, padding)| Do::Write { lines, padding }),
        1 => Just(Do::Begin),
        2 => any::<bool>().prop_map(|to_next_day| Do::Rotate { to_next_day }),
        2 => Just(Do::Compress),
        4 => Just(Do::Step),
        2 => Just(Do::Restart),
    ]
}

/// What is to be written: numbered lines, the last perhaps begun only.
#[derive(Default)]
struct Text {
    next: usize,
    begun: Option<String>,
}

impl Text {
    fn lines(&mut self, count: usize, padding: usize) -> String {
        let mut text = self.line_end();
        for _ in 0..count {
            text += &(alert(self.next, padding) + "\n");
            self.next += 1;
        }
        text
    }

    /// Returns the rest of a line that was begun.
    fn line_end(&mut self) -> String {
        self.begun
            .take()
            .map(|rest| rest + "\n")
            .unwrap_or_default()
    }

    /// Returns the beginning of a line.
    fn begin(&mut self) -> String {
        let text = self.line_end();
        let whole = alert(self.next, 20);
        self.next += 1;
        let (first, rest) = whole.split_at(90);
        self.begun = Some(rest.to_owned());
        text + first
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_line_arrives_once_and_in_order(deeds in proptest::collection::vec(deed(), 1..60)) {
        let mut manager = Manager::new();
        let mut reader = Reader::new(manager.path());
        let mut text = Text::default();
        // The reader has met the manager once; before that it knows of no file to miss.
        reader.step();
        for deed in deeds {
            match deed {
                Do::Write { lines, padding } => manager.write(&text.lines(lines, padding)),
                Do::Begin => manager.write(&text.begin()),
                Do::Rotate { to_next_day } => {
                    manager.write(&text.line_end());
                    manager.rotate(to_next_day);
                }
                Do::Compress => {
                    manager.compress();
                }
                Do::Step => {
                    reader.step();
                }
                Do::Restart => reader.restart(),
            }
        }
        manager.write(&text.line_end());
        reader.run();
        prop_assert_eq!(&reader.ids, &(0..text.next).collect::<Vec<_>>());
        prop_assert!(reader.set_aside.is_empty(), "{:?}", reader.reasons());
    }

    #[test]
    fn every_line_arrives_once_where_another_program_rotates(
        deeds in proptest::collection::vec(
            prop_oneof![
                4 => (1usize..20).prop_map(|lines| (0, lines)),
                2 => (1usize..4).prop_map(|kind| (kind, 0)),
                3 => Just((4, 0)),
                2 => Just((5, 0)),
            ],
            1..50,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.json");
        let numbered = |number: usize| folder.path().join(format!("alerts.json.{number}"));
        let (mut text, mut rotations, mut seconds) = (Text::default(), 0usize, 0u64);
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::write(&path, text.lines(1, 0)).unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_modified(begin).unwrap();
        let mut reader = Reader::new(path.clone());
        reader.step();
        for (kind, count) in deeds {
            // Rotations lie far apart, whatever the clock's grain.
            seconds += 60;
            let now = begin + Duration::from_secs(seconds);
            let stamp = |path: &Path| {
                let file = OpenOptions::new().append(true).open(path).unwrap();
                file.set_modified(now).unwrap();
            };
            let is_empty = fs::metadata(&path).unwrap().len() == 0;
            match kind {
                0 => {
                    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(text.lines(count, 0).as_bytes()).unwrap();
                    stamp(&path);
                }
                1 | 2 if !is_empty && reader.is_under_way() => {
                    rotations += 1;
                    if kind == 1 {
                        fs::rename(&path, numbered(rotations)).unwrap();
                        File::create_new(&path).unwrap();
                    } else {
                        fs::copy(&path, numbered(rotations)).unwrap();
                        stamp(&numbered(rotations));
                        File::create(&path).unwrap();
                    }
                    stamp(&path);
                }
                3 if rotations > 0 && numbered(rotations).exists() => {
                    pack(&numbered(rotations));
                    fs::remove_file(numbered(rotations)).unwrap();
                }
                4 => {
                    reader.step();
                }
                5 => reader.restart(),
                _ => {}
            }
        }
        reader.run();
        prop_assert_eq!(&reader.ids, &(0..text.next).collect::<Vec<_>>());
    }
}

fn native_ids(events: &BatchBuilder) -> Vec<String> {
    let events = events.items().map(|item| decode_item(item).unwrap());
    events.map(|event: EventRecord| event.native_id).collect()
}

/// Receives ids until there are `count` of them.
async fn receive(facts: &mut tokio::sync::mpsc::Receiver<Fact>, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        if let Fact::Events { events, .. } = facts.recv().await.unwrap() {
            ids.extend(native_ids(&events));
        }
    }
    ids
}

#[tokio::test]
async fn what_is_written_through_the_days_name_wakes_the_reader() {
    let mut manager = Manager::new();
    manager.write(&lines(0..1));
    let (out, mut facts) = Output::channel(8);
    let stop = CancellationToken::new();
    let (path, stopped) = (manager.path(), stop.clone());
    let following = tokio::spawn(async move {
        Wazuh::new(path)
            .follow(None, &out, Until::Stopped, &stopped)
            .await
    });
    assert_eq!(receive(&mut facts, 1).await, ["0"]);
    // Long before the slow look: only the watch can have woken it.
    let soon = LOOK_EVERY / 2;
    for number in 1..4 {
        // Whatever was going on has come to rest.
        tokio::time::sleep(Duration::from_millis(200)).await;
        manager.write(&lines(number..number + 1));
        let received = tokio::time::timeout(soon, receive(&mut facts, 1)).await;
        assert_eq!(received.unwrap(), [number.to_string()]);
        manager.rotate(true);
    }
    stop.cancel();
    let summary = following.await.unwrap().unwrap();
    assert_eq!(summary.documents, 4);
}

#[tokio::test]
async fn a_single_run_reads_to_the_end_and_a_wrong_path_is_an_error() {
    let manager = Manager::new();
    manager.write(&lines(0..1000));
    let (out, mut facts) = Output::channel(8);
    let stop = CancellationToken::new();
    let wazuh = Wazuh::new(manager.path());
    let following = async {
        let summary = wazuh.follow(None, &out, Until::CaughtUp, &stop).await;
        drop(out);
        summary
    };
    let (summary, ids) = tokio::join!(following, receive(&mut facts, 1000));
    assert_eq!((summary.unwrap().documents, ids.len()), (1000, 1000));
    // A pipe must not be waited for.
    let pipe = manager.folder.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    assert!(Wazuh::try_open(&pipe).is_err());
    for wrong in ["none.json", "2026", "pipe"] {
        let wazuh = Wazuh::new(manager.folder.path().join(wrong));
        let (out, _facts) = Output::channel(8);
        let failed = wazuh.follow(None, &out, Until::CaughtUp, &stop).await;
        assert!(matches!(failed, Err(CollectError::File { .. })), "{wrong}");
    }
}
