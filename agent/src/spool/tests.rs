mod loss;
mod model;

use std::process::{Command, Stdio};
use std::time::Instant;

use protocol::batch::{self, SealedBatch};
use protocol::frame::Decoder;
use protocol::wire::v1::{Content, Lost};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use super::*;
use crate::sync::sweep::Known;

struct TestKey(EcdsaKeyPair);

impl TestKey {
    fn new() -> Self {
        let rng = SystemRandom::new();
        let alg = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &rng).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &rng).unwrap())
    }
}

impl Signer for TestKey {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        Ok(signature.as_ref().try_into().unwrap())
    }
}

const CONFIG: Config = Config {
    max_bytes: 64 << 20,
    keep_free_bytes: 0,
    keep_acknowledged: Duration::from_secs(24 * 60 * 60),
};

fn open_with(folder: &Path, config: Config, key: [u8; 32]) -> Opened {
    let signer = Box::new(TestKey::new());
    Spool::open(folder, config, SealKey::new(&key), signer).unwrap()
}

pub(crate) fn open(folder: &Path) -> Opened {
    open_with(folder, CONFIG, [7; 32])
}

pub(crate) fn close(opened: Opened) {
    drop(opened.spool);
    opened.thread.join().unwrap();
}

fn source() -> SourceId {
    SourceId::derived(&[b"test"])
}

fn batch_of(items: &[String]) -> BatchBuilder {
    let mut builder = BatchBuilder::default();
    for item in items {
        builder.push(item).unwrap();
    }
    builder
}

fn commit_of(lane: Lane, items: &[&str]) -> Commit {
    let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
    Commit {
        batches: vec![(lane, batch_of(&items))],
        effects: vec![],
    }
}

fn sealed_of(lane: Lane, frame: &[u8]) -> SealedBatch {
    let mut decoder = Decoder::new(lane);
    decoder.push(frame);
    SealedBatch::parse(&decoder.pop().unwrap().unwrap()).unwrap()
}

fn items_of_frame(lane: Lane, frame: &[u8]) -> Vec<Vec<u8>> {
    let sealed = sealed_of(lane, frame);
    let items = batch::open_payload(&sealed.payload, sealed.header.payload_bytes).unwrap();
    items.iter().map(<[u8]>::to_vec).collect()
}

/// Returns the encoded items of a batch that is being built.
pub(crate) fn items_of(builder: BatchBuilder) -> Vec<Vec<u8>> {
    let place = batch::Place {
        lane: Lane::Events,
        epoch: [0; 16],
        first_seq: 1,
        source: source(),
        made_at_ms: 0,
    };
    let (_, frame) = builder.seal(&place, &TestKey::new()).unwrap();
    items_of_frame(Lane::Events, &frame)
}

/// Returns the record of a batch that stands for lost items, and how many they are.
fn lost_of(lane: Lane, fetched: &Fetched) -> Option<(u32, Lost)> {
    let Fetched::Batch(stored) = fetched else {
        return None;
    };
    let header = sealed_of(lane, &stored.frame).header;
    let items = items_of_frame(lane, &stored.frame);
    let is_lost = header.content == Content::Lost;
    is_lost.then(|| (header.count, batch::decode_item(&items[0]).unwrap()))
}

fn texts(lane: Lane, fetched: &Fetched) -> Vec<String> {
    let Fetched::Batch(stored) = fetched else {
        panic!("expected a batch, found {fetched:?}");
    };
    let items = items_of_frame(lane, &stored.frame);
    let read = items.iter().map(|item| batch::decode_item(item).unwrap());
    read.collect()
}

/// Returns every text that waits on a lane, in order.
async fn all_texts(spool: &Spool, lane: Lane) -> Vec<String> {
    let mut found = Vec::new();
    let mut after = 0;
    loop {
        let fetched = spool.fetch(lane, after).await.unwrap();
        let Fetched::Batch(stored) = &fetched else {
            assert_eq!(fetched, Fetched::Nothing);
            return found;
        };
        after = stored.last_seq;
        found.extend(texts(lane, &fetched));
    }
}

fn lane_report(spool: &Spool, lane: Lane) -> LaneReport {
    let name = gauges::lane_name(lane);
    let mut lanes = spool.report().lanes.into_iter();
    lanes.find(|line| line.lane == name).unwrap()
}

async fn push(spool: &Spool, lane: Lane, items: &[&str]) {
    let commit = commit_of(lane, items);
    spool.commit(source(), commit).await.unwrap();
}

/// Returns a text that does not compress.
fn noise(seed: u64, bytes: usize) -> String {
    let hash = |n: usize| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&n.to_le_bytes());
        hasher.finalize()
    };
    let words = (0..bytes / 43 + 1).map(|n| data_encoding::BASE64_NOPAD.encode(hash(n).as_bytes()));
    let mut text: String = words.collect();
    text.truncate(bytes);
    text
}

async fn cursor_of(spool: &Spool) -> Option<Vec<u8>> {
    let cursor = spool.call(|engine| engine.cursor(source())).await;
    cursor.unwrap().unwrap()
}

#[tokio::test]
async fn a_batch_waits_until_it_is_acknowledged_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let epoch = opened.spool.epoch();
    push(&opened.spool, Lane::Events, &["a", "b"]).await;
    push(&opened.spool, Lane::Events, &["c"]).await;
    let before = opened.spool.waiting();
    assert!(before.bytes > 0 && before.oldest_ms > 0);
    close(opened);

    let opened = open(folder.path());
    let spool = &opened.spool;
    assert_eq!(spool.epoch(), epoch);
    assert!(spool.report().moved_aside.is_empty());
    assert_eq!(spool.waiting(), before);
    assert_eq!(all_texts(spool, Lane::Events).await, ["a", "b", "c"]);
    let released = spool.release(Lane::Events, 2).await.unwrap();
    assert_eq!(released, Released::Done);
    let line = lane_report(spool, Lane::Events);
    assert_eq!(line.items, 1);
    assert!(line.kept_bytes > 0 && line.acknowledged_at.is_some());
    let released = spool.release(Lane::Events, 3).await.unwrap();
    assert_eq!(released, Released::Done);
    assert_eq!(spool.waiting(), Waiting::default());
    let nothing = spool.fetch(Lane::Events, 3).await.unwrap();
    assert_eq!(nothing, Fetched::Nothing);
    let ahead = spool.release(Lane::Events, 4).await.unwrap();
    assert_eq!(ahead, Released::Ahead);
}

#[tokio::test]
async fn a_restored_hub_gets_again_what_it_had_acknowledged_and_lost() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    for text in ["a", "b", "c"] {
        push(&opened.spool, Lane::Events, &[text]).await;
    }
    all_texts(&opened.spool, Lane::Events).await;
    opened.spool.release(Lane::Events, 3).await.unwrap();
    assert_eq!(opened.spool.waiting().bytes, 0);
    close(opened);

    let opened = open(folder.path());
    let spool = &opened.spool;
    let again = spool.fetch(Lane::Events, 1).await.unwrap();
    assert_eq!(texts(Lane::Events, &again), ["b"]);
    assert_eq!(lane_report(spool, Lane::Events).items, 2, "they wait again");
    // What waits again is not let go when its time as acknowledged would be over.
    let later = Timestamp::now() + Duration::from_secs(25 * 3600);
    let tended = spool.call(move |engine| engine.tend(later)).await;
    tended.unwrap().unwrap();
    let again = spool.fetch(Lane::Events, 2).await.unwrap();
    assert_eq!(texts(Lane::Events, &again), ["c"]);
}

#[tokio::test]
async fn acknowledged_batches_go_when_their_time_is_over_and_before_new_ones_wait() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let spool = &opened.spool;
    push(spool, Lane::Events, &["a"]).await;
    all_texts(spool, Lane::Events).await;
    spool.release(Lane::Events, 1).await.unwrap();
    let tend = |hours: u64| {
        let at = Timestamp::now() + Duration::from_secs(hours * 3600);
        spool.call(move |engine| engine.tend(at))
    };
    tend(23).await.unwrap().unwrap();
    assert!(lane_report(spool, Lane::Events).kept_bytes > 0);
    tend(25).await.unwrap().unwrap();
    assert_eq!(lane_report(spool, Lane::Events).kept_bytes, 0);
    close(opened);

    let config = Config {
        max_bytes: 8 << 20,
        ..CONFIG
    };
    let opened = open_with(folder.path(), config, [7; 32]);
    let spool = &opened.spool;
    for round in 0..40 {
        push(spool, Lane::Events, &[&noise(round, 200_000)]).await;
        spool.fetch(Lane::Events, round + 1).await.unwrap();
        spool.release(Lane::Events, round + 2).await.unwrap();
        let kept = lane_report(spool, Lane::Events).kept_bytes;
        assert!(kept > 0 && kept <= 7 << 20, "{kept}");
    }
    assert!(spool.report().waiting.is_empty());
    let last = spool.fetch(Lane::Events, 40).await.unwrap();
    assert_eq!(texts(Lane::Events, &last), [noise(39, 200_000)]);
}

#[tokio::test]
async fn cursor_contents_and_batch_are_stored_together() {
    let content = |scope: &str, id: &str, n: u8| Effect::Content {
        scope: scope.into(),
        id: id.into(),
        content: [n; 32],
    };
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let mut commit = commit_of(Lane::Inventory, &["x"]);
    commit.effects = vec![
        Effect::Cursor {
            source: source(),
            cursor: b"here".to_vec(),
        },
        content("aws/1/r/t", "a", 1),
        content("aws/1/r/t", "b", 2),
        content("aws/1/r/t2", "c", 3),
        Effect::Generation {
            scope: "aws/1/r/t".into(),
            generation: 4,
        },
    ];
    opened.spool.commit(source(), commit).await.unwrap();
    close(opened);
    let opened = open(folder.path());
    assert_eq!(cursor_of(&opened.spool).await, Some(b"here".to_vec()));
    let view = opened.spool.call(Engine::known).await.unwrap().unwrap();
    assert_eq!(view.content("aws/1/r/t", "a").unwrap(), Some([1; 32]));
    assert_eq!(view.ids("aws/1/r/t").unwrap(), ["a", "b"]);
    assert_eq!(view.generation("aws/1/r/t").unwrap(), 4);
    assert_eq!(view.generation("aws/1/r/t2").unwrap(), 0);
    drop(view);
    let forget = |engine: &mut Engine| engine.forget_scope("aws/1/r/t");
    opened.spool.call(forget).await.unwrap().unwrap();
    let view = opened.spool.call(Engine::known).await.unwrap().unwrap();
    assert!(view.ids("aws/1/r/t").unwrap().is_empty());
    assert_eq!(view.ids("aws/1/r/t2").unwrap(), ["c"]);
    let kept = view.generation("aws/1/r/t").unwrap();
    assert_eq!(kept, 4, "generations only rise");
}

#[tokio::test]
async fn a_full_lane_makes_its_sources_wait_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        max_bytes: 8 << 20,
        ..CONFIG
    };
    let opened = open_with(folder.path(), config, [7; 32]);
    let spool = &opened.spool;
    let bulk = |seed| commit_of(Lane::Inventory, &[&noise(seed, 200_000)]);
    let brief = Duration::from_millis(300);
    let mut stored = 0;
    while tokio::time::timeout(brief, spool.commit(source(), bulk(stored)))
        .await
        .is_ok()
    {
        stored += 1;
    }
    assert_eq!(
        stored, 7,
        "a quarter of seven eighths of 8 MiB, in pages of 256 KiB"
    );
    push(spool, Lane::Events, &["urgent"]).await;
    let waiting = tokio::spawn({
        let (spool, commit) = (spool.clone(), bulk(99));
        async move { spool.commit(source(), commit).await }
    });
    let patience = Instant::now() + Duration::from_secs(5);
    while spool.report().waiting.is_empty() && Instant::now() < patience {
        tokio::task::yield_now().await;
    }
    let wait = spool.report().waiting.pop().unwrap();
    assert_eq!(wait.source, source());
    assert_eq!(wait.why, "lane inventory holds its share of the spool");
    spool.fetch(Lane::Inventory, 0).await.unwrap();
    spool.release(Lane::Inventory, 1).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert!(spool.report().waiting.is_empty());
    assert_eq!(lane_report(spool, Lane::Inventory).items, stored);
}

#[tokio::test]
async fn free_space_of_the_disk_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        keep_free_bytes: u64::MAX,
        ..CONFIG
    };
    let opened = open_with(folder.path(), config, [7; 32]);
    let commit = opened
        .spool
        .commit(source(), commit_of(Lane::Events, &["a"]));
    let outcome = tokio::time::timeout(Duration::from_millis(200), commit).await;
    assert!(outcome.is_err());
    assert_eq!(opened.spool.waiting(), Waiting::default());
}

#[tokio::test]
async fn the_file_never_takes_more_of_the_disk_than_it_may() {
    use std::os::unix::fs::MetadataExt;
    const MAX: u64 = 16 << 20;
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        max_bytes: MAX,
        ..CONFIG
    };
    let opened = open_with(folder.path(), config, [7; 32]);
    let spool = &opened.spool;
    let lanes = [Lane::Events, Lane::Inventory, Lane::Results];
    let mut marks = [0u64; 3];
    let mut serial = 0;
    for round in 0..6u64 {
        for (lane, mark) in lanes.into_iter().zip(&mut marks) {
            loop {
                serial += 1;
                // Sizes that fit pages badly, and other ones in every round.
                let bytes = [300, 5_000, 33_000, 70_000, 140_000, 260_000];
                let bytes = bytes[usize::try_from((serial + round) % 6).unwrap()];
                let commit = commit_of(lane, &[&noise(serial, bytes)]);
                let stored =
                    spool.call(move |engine| engine.commit(serial + 1_000_000, source(), &commit));
                if stored.await.unwrap().unwrap().is_err() {
                    break;
                }
                *mark += 1;
            }
            let blocks = std::fs::metadata(file(folder.path())).unwrap().blocks();
            assert!(blocks * 512 <= MAX, "round {round}: {}", blocks * 512);
        }
        for (lane, mark) in lanes.into_iter().zip(marks) {
            spool.fetch(lane, mark - 1).await.unwrap();
            spool.release(lane, mark).await.unwrap();
        }
    }
    assert!(serial > 600, "{serial}");
}

#[tokio::test]
async fn a_new_epoch_numbers_what_waits_from_one_and_signs_it_anew() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let spool = &opened.spool;
    for items in [&["a", "b"][..], &["c"], &["d", "e"]] {
        push(spool, Lane::Events, items).await;
    }
    push(spool, Lane::Results, &["r"]).await;
    let before = spool.epoch();
    spool.fetch(Lane::Events, 0).await.unwrap();
    spool.release(Lane::Events, 2).await.unwrap();
    let epoch = spool.roll_epoch().await.unwrap();
    assert_ne!(epoch, before);
    assert_eq!(spool.epoch(), epoch);
    assert_eq!(all_texts(spool, Lane::Events).await, ["c", "d", "e"]);
    assert_eq!(all_texts(spool, Lane::Results).await, ["r"]);
    let Fetched::Batch(stored) = spool.fetch(Lane::Events, 0).await.unwrap() else {
        panic!("the first batch of the new epoch");
    };
    assert_eq!((stored.first_seq, stored.last_seq), (1, 1));
    let sealed = sealed_of(Lane::Events, &stored.frame);
    assert_eq!((sealed.header.epoch, sealed.header.first_seq), (epoch, 1));
    push(spool, Lane::Events, &["f"]).await;
    assert_eq!(all_texts(spool, Lane::Events).await, ["c", "d", "e", "f"]);
    spool.release(Lane::Events, 4).await.unwrap();
    assert_eq!(lane_report(spool, Lane::Events).items, 0);
}

#[tokio::test]
async fn a_disk_that_was_set_back_is_noticed_also_when_it_has_overtaken_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let opened = open(folder.path());
    push(&opened.spool, Lane::Events, &["a", "b"]).await;
    all_texts(&opened.spool, Lane::Events).await;
    opened.spool.release(Lane::Events, 2).await.unwrap();
    close(opened);
    std::fs::copy(file(folder.path()), &saved).unwrap();
    let opened = open(folder.path());
    push(&opened.spool, Lane::Events, &["c", "d"]).await;
    assert_eq!(all_texts(&opened.spool, Lane::Events).await.len(), 4);
    close(opened);

    // The hub has stored four. Two lives of the old disk later there are five here again, of
    // which it has two.
    std::fs::copy(&saved, file(folder.path())).unwrap();
    for text in ["x", "y", "z"] {
        let opened = open(folder.path());
        push(&opened.spool, Lane::Events, &[text]).await;
        close(opened);
    }
    let opened = open(folder.path());
    let spool = &opened.spool;
    let released = spool.release(Lane::Events, 4).await.unwrap();
    assert_eq!(released, Released::Ahead);
    spool.roll_epoch().await.unwrap();
    assert_eq!(all_texts(spool, Lane::Events).await, ["x", "y", "z"]);
}

#[tokio::test]
async fn what_is_stored_while_batches_flow_may_be_acknowledged_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    opened.spool.set_linked(true);
    push(&opened.spool, Lane::Events, &["a"]).await;
    close(opened);
    let opened = open(folder.path());
    let released = opened.spool.release(Lane::Events, 1).await.unwrap();
    assert_eq!(released, Released::Done);
}

#[tokio::test]
async fn a_commit_that_landed_although_its_write_failed_is_not_stored_twice() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let attempt = || {
        opened.spool.call(|engine| {
            let commit = commit_of(Lane::Events, &["once"]);
            engine.commit(7, source(), &commit)
        })
    };
    attempt().await.unwrap().unwrap().unwrap();
    // As a sync leaves it that fails after the pages were written.
    let fail = opened.spool.call(|engine| {
        engine.doubt = Some((7, Lane::Events, 2));
        engine.slot = None;
    });
    fail.await.unwrap();
    attempt().await.unwrap().unwrap().unwrap();
    assert_eq!(all_texts(&opened.spool, Lane::Events).await, ["once"]);
    attempt().await.unwrap().unwrap().unwrap();
    let all = all_texts(&opened.spool, Lane::Events).await;
    assert_eq!(all, ["once", "once"], "another commit is another");
}

#[tokio::test]
async fn nothing_of_a_batch_is_on_the_disk_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let mut commit = commit_of(Lane::Events, &["canary-in-an-event"]);
    commit.effects.push(Effect::Cursor {
        source: source(),
        cursor: b"canary-in-a-cursor".to_vec(),
    });
    opened.spool.commit(source(), commit).await.unwrap();
    close(opened);
    let bytes = std::fs::read(folder.path().join("spool.redb")).unwrap();
    assert!(!bytes.windows(6).any(|part| part == b"canary"));
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

async fn cursor_number(spool: &Spool) -> u64 {
    let cursor = cursor_of(spool).await;
    cursor.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
}

/// Started by the test below in a process of its own, which it kills.
#[test]
fn child_that_spools_until_it_is_killed() {
    let Ok(folder) = std::env::var("ZERO_X_TEST_SPOOL_CHILD") else {
        return;
    };
    let folder = Path::new(&folder);
    runtime().block_on(async {
        let opened = open(folder);
        loop {
            let next = cursor_number(&opened.spool).await + 1;
            let mut commit = commit_of(Lane::Events, &[&format!("event {next}")]);
            commit.effects.push(Effect::Cursor {
                source: source(),
                cursor: next.to_le_bytes().to_vec(),
            });
            opened.spool.commit(source(), commit).await.unwrap();
            std::fs::write(folder.join("progress"), next.to_string()).unwrap();
        }
    });
}

#[test]
fn a_kill_at_any_moment_loses_no_committed_batch_and_keeps_the_cursor_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let progress = folder.path().join("progress");
    let test = "spool::tests::child_that_spools_until_it_is_killed";
    let mut last = 0u64;
    for round in 0..5u64 {
        let _ = std::fs::remove_file(&progress);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("ZERO_X_TEST_SPOOL_CHILD", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while !progress.exists() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Another moment of its work in every round.
        std::thread::sleep(Duration::from_millis(20 + 13 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = std::fs::read_to_string(&progress).unwrap();
        let told: u64 = told.parse().unwrap_or(0);
        runtime().block_on(async {
            let opened = open(folder.path());
            assert!(opened.spool.report().moved_aside.is_empty());
            let cursor = cursor_number(&opened.spool).await;
            assert!(
                cursor >= told && cursor > last,
                "committed {told}, found {cursor}, before {last}"
            );
            let want: Vec<String> = (1..=cursor).map(|n| format!("event {n}")).collect();
            assert_eq!(all_texts(&opened.spool, Lane::Events).await, want);
            last = cursor;
            close(opened);
        });
    }
}
