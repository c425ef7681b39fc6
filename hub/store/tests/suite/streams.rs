//! High-water marks: an item is stored once, in order, with the proof of who sent it.

use store::{CommitError, OrgStore, Stream};

use crate::bench::{AGENT, Bench, at, document, from, header, stream, vpcs};

/// Stores a batch of one document per item.
async fn batch(org: &OrgStore, stream: Stream, first: u64, last: u64) -> Result<u64, CommitError> {
    let mut write = org.write();
    write.advance_high_water(stream, first, last, header(&format!("{first}-{last}")));
    for n in first..=last.min(first + 100) {
        let urn = vpcs().urn(&format!("vpc-{n}"));
        write.put_resource(document(&urn, "1", &[]), from(at(1)));
    }
    write.commit().await.map(|committed| committed.commit)
}

async fn stored(org: &OrgStore) -> usize {
    org.resources_in(&vpcs()).await.unwrap().len()
}

#[tokio::test]
async fn a_repeat_and_a_gap_store_nothing_and_say_what_is_wanted() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    batch(&org, stream(2), 1, 10).await.unwrap();
    let mut answers = Vec::new();
    for (first, last) in [
        (1, 10),
        (3, 5),
        (12, 20),
        (0, 0),
        (5, 15),
        (11, 10),
        (1, 11),
    ] {
        answers.push(
            match batch(&org, stream(2), first, last).await.unwrap_err() {
                CommitError::Repeat { high_water } => format!("repeat {high_water}"),
                CommitError::Gap { expected } => format!("gap {expected}"),
                other => panic!("{other:?}"),
            },
        );
    }
    let want = [
        "repeat 10",
        "repeat 10",
        "gap 11",
        "repeat 10",
        "gap 11",
        "gap 11",
        "gap 11",
    ];
    assert_eq!(answers, want);
    assert_eq!(stored(&org).await, 10);
    batch(&org, stream(2), 11, 11).await.unwrap();
    assert_eq!(stored(&org).await, 11);
}

#[tokio::test]
async fn every_lane_and_every_life_of_a_spool_counts_on_its_own() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let other_life = Stream {
        epoch: [8; 16],
        ..stream(2)
    };
    batch(&org, stream(2), 1, 10).await.unwrap();
    batch(&org, stream(3), 1, 4).await.unwrap();
    batch(&org, other_life, 1, 2).await.unwrap();
    let marks = org.high_waters(AGENT).await.unwrap();
    assert_eq!(marks, [(other_life, 2), (stream(2), 10), (stream(3), 4)]);
    let stranger = protocol::ids::AgentId::from_bytes([200; 16]);
    assert_eq!(org.high_waters(stranger).await.unwrap(), []);
}

#[tokio::test]
async fn the_signed_header_of_every_item_is_kept() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    for (first, last) in [(1, 10), (11, 11), (12, 300)] {
        batch(&org, stream(2), first, last).await.unwrap();
    }
    for (seq, want) in [
        (1, "1-10"),
        (10, "1-10"),
        (11, "11-11"),
        (12, "12-300"),
        (300, "12-300"),
    ] {
        let found = org.batch_header(stream(2), seq).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(found.header).unwrap(), want);
        assert_eq!(found.signature, [7; 64]);
    }
    for seq in [0, 301, u64::MAX] {
        assert_eq!(org.batch_header(stream(2), seq).await.unwrap(), None);
    }
    assert_eq!(org.batch_header(stream(3), 1).await.unwrap(), None);
}

#[tokio::test]
async fn a_write_that_is_refused_leaves_nothing_of_itself() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    batch(&org, stream(2), 1, 3).await.unwrap();
    let mut commits = org.commits();
    let before = *commits.borrow_and_update();
    // The part that is refused comes last.
    let mut write = org.write();
    write.put_resource(document(&vpcs().urn("vpc-99"), "1", &[]), from(at(1)));
    write.advance_high_water(stream(3), 1, 1, header("1-1"));
    write.advance_high_water(stream(2), 9, 9, header("9-9"));
    assert!(matches!(
        write.commit().await,
        Err(CommitError::Gap { expected: 4 })
    ));
    assert_eq!(stored(&org).await, 3);
    assert_eq!(org.high_waters(AGENT).await.unwrap(), [(stream(2), 3)]);
    assert_eq!(org.batch_header(stream(3), 1).await.unwrap(), None);
    assert!(!commits.has_changed().unwrap());
    assert_eq!(*commits.borrow(), before);
}

#[tokio::test]
async fn two_batches_of_one_stream_in_one_write_follow_each_other() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut write = org.write();
    write.advance_high_water(stream(2), 1, 5, header("1-5"));
    write.advance_high_water(stream(2), 6, 9, header("6-9"));
    write.commit().await.unwrap();
    assert_eq!(org.high_waters(AGENT).await.unwrap(), [(stream(2), 9)]);
}

#[tokio::test]
async fn of_many_that_send_the_same_batch_at_once_one_stores_it() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let racers: Vec<_> = (0..40)
        .map(|_| {
            let org = org.clone();
            tokio::spawn(async move { batch(&org, stream(2), 1, 3).await })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => won += 1,
            Err(CommitError::Repeat { high_water: 3 }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(stored(&org).await, 3);
}

#[tokio::test]
async fn commits_wake_who_waits_and_an_empty_write_takes_no_number() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut commits = org.commits();
    commits.borrow_and_update();
    let first = batch(&org, stream(2), 1, 1).await.unwrap();
    commits.changed().await.unwrap();
    assert_eq!(*commits.borrow_and_update(), first);
    let write = org.write();
    assert!(write.is_empty());
    assert_eq!(write.commit().await.unwrap().commit, first);
    assert!(!commits.has_changed().unwrap());
}
