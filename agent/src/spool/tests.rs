use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Instant;

use proptest::prelude::*;
use protocol::batch::{self, SealedBatch};
use protocol::frame::Decoder;
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

async fn cursor_of(spool: &Spool) -> Option<Vec<u8>> {
    let cursor = spool.call(|engine| engine.cursor(source())).await;
    cursor.unwrap().unwrap()
}

#[tokio::test]
async fn a_batch_stays_until_it_is_released_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let epoch = opened.epoch;
    for items in [&["a", "b"][..], &["c"]] {
        let commit = commit_of(Lane::Events, items);
        opened.spool.commit(source(), commit).await.unwrap();
    }
    let before = opened.spool.waiting();
    assert!(before.bytes > 0 && before.oldest_ms > 0);
    close(opened);

    let opened = open(folder.path());
    let spool = &opened.spool;
    assert_eq!((opened.epoch, &opened.moved_aside), (epoch, &None));
    assert_eq!(spool.waiting(), before);
    assert_eq!(all_texts(spool, Lane::Events).await, ["a", "b", "c"]);
    let released = spool.release(Lane::Events, 2).await.unwrap();
    assert_eq!(released, Released::Done);
    let gap = spool.fetch(Lane::Events, 0).await.unwrap();
    assert_eq!(gap, Fetched::Missing);
    let rest = spool.fetch(Lane::Events, 2).await.unwrap();
    assert_eq!(texts(Lane::Events, &rest), ["c"]);
    let released = spool.release(Lane::Events, 3).await.unwrap();
    assert_eq!(released, Released::Done);
    assert_eq!(spool.waiting(), Waiting::default());
    let nothing = spool.fetch(Lane::Events, 3).await.unwrap();
    assert_eq!(nothing, Fetched::Nothing);
    let ahead = spool.release(Lane::Events, 4).await.unwrap();
    assert_eq!(ahead, Released::Ahead);
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
async fn a_full_spool_holds_inventory_back_before_events_and_lets_go_after_a_release() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        max_bytes: 400_000,
        keep_free_bytes: 0,
    };
    let opened = open_with(folder.path(), config, [7; 32]);
    let spool = &opened.spool;
    let noise = |seed: u64| {
        let hash = |n: u64| blake3::hash(&(seed * 10_000 + n).to_le_bytes());
        let text: String = (0..4000).map(|n| hash(n).to_hex().to_string()).collect();
        commit_of(Lane::Inventory, &[&text])
    };
    let brief = Duration::from_millis(300);
    let mut stored = 0;
    while tokio::time::timeout(brief, spool.commit(source(), noise(stored)))
        .await
        .is_ok()
    {
        stored += 1;
    }
    assert!((1..10).contains(&stored), "{stored}");
    assert!(spool.is_full());
    let urgent = commit_of(Lane::Events, &["urgent"]);
    spool.commit(source(), urgent).await.unwrap();
    let waiting = tokio::spawn({
        let (spool, commit) = (spool.clone(), noise(99));
        async move { spool.commit(source(), commit).await }
    });
    tokio::task::yield_now().await;
    spool.release(Lane::Inventory, 1).await.unwrap();
    spool.release(Lane::Inventory, stored).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert!(!spool.is_full());
}

#[tokio::test]
async fn free_space_of_the_disk_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        max_bytes: 1 << 30,
        keep_free_bytes: u64::MAX,
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
async fn a_damaged_or_foreign_file_is_moved_aside_and_the_spool_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let first = opened.epoch;
    let commit = commit_of(Lane::Events, &["a"]);
    opened.spool.commit(source(), commit).await.unwrap();
    close(opened);

    let opened = open_with(folder.path(), CONFIG, [8; 32]);
    let aside = opened.moved_aside.as_ref().unwrap();
    assert!(aside.exists(), "sealed under another key");
    assert_ne!(opened.epoch, first);
    assert!(all_texts(&opened.spool, Lane::Events).await.is_empty());
    let second = opened.epoch;
    close(opened);

    std::fs::write(folder.path().join("spool.redb"), vec![0x5a; 70_000]).unwrap();
    let opened = open_with(folder.path(), CONFIG, [8; 32]);
    let aside = opened.moved_aside.as_ref().unwrap();
    assert!(aside.exists(), "not a spool at all");
    assert_ne!(opened.epoch, second);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2, "one is kept aside");
}

#[tokio::test]
async fn a_newer_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    close(open(folder.path()));
    let database = redb::Database::create(folder.path().join("spool.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut meta = write.open_table(tables::META).unwrap();
        meta.insert("format", 9u32.to_le_bytes().as_slice())
            .unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let key = SealKey::new(&[7; 32]);
    let opened = Spool::open(folder.path(), CONFIG, key, Box::new(TestKey::new()));
    let error = opened.err();
    assert!(matches!(error, Some(SpoolError::Newer { found: 9, .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_new_epoch_numbers_what_waits_from_one_and_signs_it_anew() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let spool = &opened.spool;
    for items in [&["a", "b"][..], &["c"], &["d", "e"]] {
        let commit = commit_of(Lane::Events, items);
        spool.commit(source(), commit).await.unwrap();
    }
    let report = commit_of(Lane::Results, &["r"]);
    spool.commit(source(), report).await.unwrap();
    spool.release(Lane::Events, 2).await.unwrap();
    let gap = spool.fetch(Lane::Events, 0).await.unwrap();
    assert_eq!(gap, Fetched::Missing);
    let epoch = spool.roll_epoch().await.unwrap();
    assert_ne!(epoch, opened.epoch);
    assert_eq!(all_texts(spool, Lane::Events).await, ["c", "d", "e"]);
    assert_eq!(all_texts(spool, Lane::Results).await, ["r"]);
    let Fetched::Batch(stored) = spool.fetch(Lane::Events, 0).await.unwrap() else {
        panic!("the first batch of the new epoch");
    };
    assert_eq!((stored.first_seq, stored.last_seq), (1, 1));
    let sealed = sealed_of(Lane::Events, &stored.frame);
    assert_eq!(sealed.header.epoch, epoch);
    let commit = commit_of(Lane::Events, &["f"]);
    spool.commit(source(), commit).await.unwrap();
    assert_eq!(all_texts(spool, Lane::Events).await, ["c", "d", "e", "f"]);
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
            assert!(opened.moved_aside.is_none());
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

#[derive(Debug, Clone)]
enum Step {
    Commit(Lane, usize),
    Release(Lane, u64),
    Restart,
    Roll,
}

fn step() -> impl Strategy<Value = Step> {
    let lane = || {
        prop_oneof![
            Just(Lane::Events),
            Just(Lane::Inventory),
            Just(Lane::Results)
        ]
    };
    prop_oneof![
        5 => (lane(), 1usize..4).prop_map(|(lane, items)| Step::Commit(lane, items)),
        3 => (lane(), 0u64..12).prop_map(|(lane, through)| Step::Release(lane, through)),
        1 => Just(Step::Restart),
        1 => Just(Step::Roll),
    ]
}

fn count(texts: &[String]) -> u64 {
    u64::try_from(texts.len()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The spool against lists in memory: batches of `(last sequence, texts)` per lane.
    #[test]
    fn the_spool_is_what_a_plain_list_would_be(
        steps in proptest::collection::vec(step(), 1..25),
    ) {
        let folder = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let mut opened = open(folder.path());
            let mut model: BTreeMap<Lane, Vec<(u64, Vec<String>)>> = BTreeMap::new();
            let mut next: BTreeMap<Lane, u64> = BTreeMap::new();
            let mut serial = 0;
            for step in steps {
                match step {
                    Step::Commit(lane, items) => {
                        let texts: Vec<String> =
                            (0..items).map(|n| format!("{serial}.{n}")).collect();
                        serial += 1;
                        let commit = Commit {
                            batches: vec![(lane, batch_of(&texts))],
                            effects: vec![],
                        };
                        opened.spool.commit(source(), commit).await.unwrap();
                        let first = next.entry(lane).or_insert(1);
                        *first += count(&texts);
                        model.entry(lane).or_default().push((*first - 1, texts));
                    }
                    Step::Release(lane, through) => {
                        let ahead = through >= *next.entry(lane).or_insert(1);
                        let released = opened.spool.release(lane, through).await.unwrap();
                        let want = if ahead { Released::Ahead } else { Released::Done };
                        prop_assert_eq!(released, want);
                        if !ahead {
                            let batches = model.entry(lane).or_default();
                            batches.retain(|(last, _)| *last > through);
                        }
                    }
                    Step::Restart => {
                        close(opened);
                        opened = open(folder.path());
                    }
                    Step::Roll => {
                        opened.spool.roll_epoch().await.unwrap();
                        next.clear();
                        for (lane, batches) in &mut model {
                            let mut last = 0;
                            for (seq, texts) in batches.iter_mut() {
                                last += count(texts);
                                *seq = last;
                            }
                            next.insert(*lane, last + 1);
                        }
                    }
                }
                for (lane, batches) in &model {
                    let mut found = Vec::new();
                    let start = batches.first().map(|(last, texts)| last - count(texts));
                    let end = next.get(lane).copied().unwrap_or(1) - 1;
                    let mut after = start.unwrap_or(end);
                    loop {
                        let fetched = opened.spool.fetch(*lane, after).await.unwrap();
                        let Fetched::Batch(stored) = &fetched else { break };
                        after = stored.last_seq;
                        found.push((after, texts(*lane, &fetched)));
                    }
                    prop_assert_eq!(&found, batches);
                }
                let is_empty = model.values().all(Vec::is_empty);
                prop_assert_eq!(opened.spool.waiting().bytes == 0, is_empty);
            }
            Ok(())
        })?;
    }
}
