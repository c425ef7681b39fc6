//! What is damaged, moved aside or no longer kept: told exactly, and never in the way of the rest.

use std::path::Path;

use protocol::wire::v1::{LostReason, ReportItem};
use redb::{Database, ReadableTable};

use super::*;
use crate::spool::tables::BATCHES;

/// Changes the stored values of a closed spool.
fn change(folder: &Path, change: impl FnOnce(&mut redb::Table<'_, (u8, u64), &'static [u8]>)) {
    let database = Database::create(file(folder)).unwrap();
    let write = database.begin_write().unwrap();
    change(&mut write.open_table(BATCHES).unwrap());
    write.commit().unwrap();
}

async fn three(folder: &Path) {
    let opened = open(folder);
    for items in [&["a", "b"][..], &["c", "d", "e"], &["f"]] {
        push(&opened.spool, Lane::Events, items).await;
    }
    close(opened);
}

fn asides_of(folder: &Path) -> usize {
    asides(folder).unwrap().len()
}

#[tokio::test]
async fn a_damaged_batch_becomes_a_record_of_exactly_its_items_and_the_rest_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path()).await;
    change(folder.path(), |batches| {
        let mut value = batches.get((1, 3)).unwrap().unwrap().value().to_vec();
        value[60] ^= 1;
        batches.insert((1, 3), value.as_slice()).unwrap();
    });
    for _ in 0..2 {
        // The same record after a restart.
        let opened = open(folder.path());
        let spool = &opened.spool;
        let first = spool.fetch(Lane::Events, 0).await.unwrap();
        assert_eq!(texts(Lane::Events, &first), ["a", "b"]);
        let lost = spool.fetch(Lane::Events, 2).await.unwrap();
        let (count, record) = lost_of(Lane::Events, &lost).unwrap();
        assert_eq!((count, record.reason), (3, LostReason::Damaged));
        let last = spool.fetch(Lane::Events, 5).await.unwrap();
        assert_eq!(texts(Lane::Events, &last), ["f"]);
        let losses = spool.report().losses;
        assert_eq!((losses.records, losses.items), (1, 3));
        let shown = &losses.last[0];
        assert_eq!((shown.first_seq, shown.last_seq), (3, 5));
        close(opened);
    }
}

#[tokio::test]
async fn a_row_in_the_place_of_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    // Alike in length, number of items and lane: only their places differ.
    for text in ["a", "b"] {
        push(&opened.spool, Lane::Events, &[text]).await;
    }
    push(&opened.spool, Lane::Results, &["c"]).await;
    close(opened);
    change(folder.path(), |batches| {
        let value = |at: (u8, u64)| batches.get(at).unwrap().unwrap().value().to_vec();
        let (a, b, c) = (value((1, 1)), value((1, 2)), value((4, 1)));
        batches.insert((1, 1), b.as_slice()).unwrap();
        batches.insert((1, 2), a.as_slice()).unwrap();
        batches.insert((4, 1), a.as_slice()).unwrap();
        drop(c);
    });
    let opened = open(folder.path());
    for (lane, after) in [(Lane::Events, 0), (Lane::Events, 1), (Lane::Results, 0)] {
        let fetched = opened.spool.fetch(lane, after).await.unwrap();
        let (count, record) = lost_of(lane, &fetched).unwrap();
        assert_eq!((count, record.reason), (1, LostReason::Damaged));
    }
}

#[tokio::test]
async fn a_row_of_another_spool_with_the_same_key_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    three(one.path()).await;
    three(other.path()).await;
    let mut foreign = Vec::new();
    change(other.path(), |batches| {
        foreign = batches.get((1, 1)).unwrap().unwrap().value().to_vec();
    });
    change(one.path(), |batches| {
        batches.insert((1, 1), foreign.as_slice()).unwrap();
    });
    let opened = open(one.path());
    let fetched = opened.spool.fetch(Lane::Events, 0).await.unwrap();
    assert!(lost_of(Lane::Events, &fetched).is_some());
}

#[tokio::test]
async fn a_restored_hub_is_told_what_is_no_longer_kept_and_gets_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let spool = &opened.spool;
    push(spool, Lane::Events, &["a", "b"]).await;
    push(spool, Lane::Events, &["c"]).await;
    all_texts(spool, Lane::Events).await;
    spool.release(Lane::Events, 3).await.unwrap();
    let later = Timestamp::now() + Duration::from_secs(25 * 3600);
    let tended = spool.call(move |engine| engine.tend(later)).await;
    tended.unwrap().unwrap();
    push(spool, Lane::Events, &["d"]).await;
    // The hub's backup ends behind the first item: within a batch that is no longer here.
    let gap = spool.fetch(Lane::Events, 1).await.unwrap();
    let (count, record) = lost_of(Lane::Events, &gap).unwrap();
    assert_eq!((count, record.reason), (2, LostReason::Released));
    let Fetched::Batch(stored) = &gap else {
        panic!("a record");
    };
    assert_eq!((stored.first_seq, stored.last_seq), (2, 3));
    let rest = spool.fetch(Lane::Events, 3).await.unwrap();
    assert_eq!(texts(Lane::Events, &rest), ["d"]);
    // The record itself is acknowledged and kept like a batch.
    spool.release(Lane::Events, 4).await.unwrap();
    assert_eq!(lane_report(spool, Lane::Events).items, 0);
    let again = spool.fetch(Lane::Events, 1).await.unwrap();
    assert_eq!(lost_of(Lane::Events, &again).unwrap().0, 2);
    assert_eq!(spool.report().losses.records, 1, "told once");
}

#[tokio::test]
async fn a_record_of_a_loss_goes_over_into_a_new_epoch() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path()).await;
    change(folder.path(), |batches| {
        batches.insert((1, 3), b"torn".as_slice()).unwrap();
    });
    let opened = open(folder.path());
    let spool = &opened.spool;
    spool.fetch(Lane::Events, 0).await.unwrap();
    spool.release(Lane::Events, 2).await.unwrap();
    spool.fetch(Lane::Events, 2).await.unwrap();
    let epoch = spool.roll_epoch().await.unwrap();
    let lost = spool.fetch(Lane::Events, 0).await.unwrap();
    assert_eq!(lost_of(Lane::Events, &lost).unwrap().0, 3);
    let Fetched::Batch(stored) = &lost else {
        panic!("a record");
    };
    let header = sealed_of(Lane::Events, &stored.frame).header;
    assert_eq!(
        (header.epoch, header.first_seq, header.count),
        (epoch, 1, 3)
    );
    let rest = spool.fetch(Lane::Events, 3).await.unwrap();
    assert_eq!(texts(Lane::Events, &rest), ["f"]);
}

#[track_caller]
fn reported(fetched: &Fetched) -> String {
    let Fetched::Batch(stored) = fetched else {
        panic!("expected a report, found {fetched:?}");
    };
    let items = items_of_frame(Lane::Results, &stored.frame);
    match batch::decode_item(&items[0]).unwrap() {
        ReportItem::Quarantined { place, reason, .. } => format!("{place}: {reason}"),
        ReportItem::Source(source) => panic!("a source's: {source:?}"),
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_moved_aside_and_told_and_the_spool_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path()).await;
    let opened = open(folder.path());
    let mut before = opened.spool.epoch();
    close(opened);
    let whole = std::fs::read(file(folder.path())).unwrap();
    let cut = whole[..whole.len() / 2].to_vec();
    let mut torn = whole.clone();
    torn[9..4000].fill(0xff);
    let cases = [
        ("not a spool at all", vec![0x5a; 70_000]),
        ("cut off", cut),
        ("torn", torn),
        ("cut to its magic number", whole[..9].to_vec()),
    ];
    for (name, content) in cases {
        std::fs::write(file(folder.path()), content).unwrap();
        let opened = open(folder.path());
        let spool = &opened.spool;
        assert_ne!(spool.epoch(), before, "{name}");
        before = spool.epoch();
        let aside = spool.report().moved_aside.pop().unwrap();
        assert!(aside.file.exists(), "{name}");
        assert_eq!(
            spool.fetch(Lane::Events, 0).await.unwrap(),
            Fetched::Nothing
        );
        let told = reported(&spool.fetch(Lane::Results, 0).await.unwrap());
        assert!(told.starts_with("spool.damaged-2"), "{name}: {told}");
        assert!(told.ends_with("how many is not known"), "{name}: {told}");
        push(spool, Lane::Events, &["on"]).await;
        close(opened);
    }
    assert_eq!(asides_of(folder.path()), 3, "a few are kept");
}

#[tokio::test]
async fn a_file_of_another_identity_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path()).await;
    let opened = open_with(folder.path(), CONFIG, [8; 32]);
    let aside = opened.spool.report().moved_aside.pop().unwrap();
    assert_eq!(
        aside.reason,
        "the file belongs to another identity, or is no spool"
    );
    assert_eq!(asides_of(folder.path()), 1);
    let fetched = opened.spool.fetch(Lane::Events, 0).await.unwrap();
    assert_eq!(fetched, Fetched::Nothing);
}

#[tokio::test]
async fn a_file_that_breaks_in_use_is_told_with_exact_counts() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path()).await;
    let opened = open(folder.path());
    let spool = &opened.spool;
    let epoch = spool.epoch();
    spool.fetch(Lane::Events, 0).await.unwrap();
    spool.release(Lane::Events, 2).await.unwrap();
    let path = file(folder.path());
    let torn = spool.call(move |engine| {
        engine.slot = None;
        std::fs::write(path, vec![0x5a; 70_000]).unwrap();
    });
    torn.await.unwrap();
    push(spool, Lane::Events, &["g"]).await;
    assert_ne!(spool.epoch(), epoch);
    let lost = spool.fetch(Lane::Events, 0).await.unwrap();
    let (count, record) = lost_of(Lane::Events, &lost).unwrap();
    assert_eq!((count, record.reason), (4, LostReason::Damaged));
    let rest = spool.fetch(Lane::Events, 4).await.unwrap();
    assert_eq!(texts(Lane::Events, &rest), ["g"]);
    let told = reported(&spool.fetch(Lane::Results, 0).await.unwrap());
    assert!(told.ends_with("are lost: 4 of lane events"), "{told}");
}

#[tokio::test]
async fn a_file_in_which_redb_finds_damage_is_not_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    three(folder.path()).await;
    let opened = open(folder.path());
    let spool = &opened.spool;
    let found = spool.call(|engine| {
        engine.guarded(|_| -> Result<(), SpoolError> {
            Err(SpoolError::Storage {
                doing: "read a batch",
                source: Box::new(redb::Error::Corrupted("a page".to_owned())),
            })
        })
    });
    assert!(found.await.unwrap().is_err());
    assert!(spool.report().trouble.is_some());
    push(spool, Lane::Events, &["g"]).await;
    assert!(spool.report().trouble.is_none());
    assert_eq!(asides_of(folder.path()), 1);
    let lost = spool.fetch(Lane::Events, 0).await.unwrap();
    let (count, record) = lost_of(Lane::Events, &lost).unwrap();
    assert_eq!((count, record.reason), (6, LostReason::Damaged));
    assert!(record.from_ms > 0);
}

#[track_caller]
fn refused_as_newer(folder: &Path, want: &str) {
    let key = SealKey::new(&[7; 32]);
    let error = Spool::open(folder, CONFIG, key, Box::new(TestKey::new())).err();
    let error = error.unwrap();
    assert!(error.to_string().ends_with(want), "{error}");
    assert_eq!(Failure::from(error).exit(), Exit::Data);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
}

#[tokio::test]
async fn a_newer_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    close(open(folder.path()));
    let database = Database::create(file(folder.path())).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut meta = write.open_table(tables::META).unwrap();
        meta.insert("format", 9u32.to_le_bytes().as_slice())
            .unwrap();
    }
    write.commit().unwrap();
    drop(database);
    let want = "has format 9; this program knows format 1 and redb's format 3";
    refused_as_newer(folder.path(), want);
    refused_as_newer(folder.path(), want);
}

#[tokio::test]
async fn a_file_of_a_newer_redb_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    close(open(folder.path()));
    let mut bytes = std::fs::read(file(folder.path())).unwrap();
    // Source: redb 4.5.0, design.md: the commit slots begin at bytes 64 and 192, with the version.
    assert_eq!((bytes[64], bytes[192]), (3, 3));
    (bytes[64], bytes[192]) = (4, 4);
    std::fs::write(file(folder.path()), &bytes).unwrap();
    let want = "has redb's format 4; this program knows format 1 and redb's format 3";
    refused_as_newer(folder.path(), want);
    assert!(std::fs::read(file(folder.path())).unwrap() == bytes);
}
