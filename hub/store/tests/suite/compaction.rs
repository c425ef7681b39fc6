//! Freed space is used again, and compacting gives it back while nothing is lost and nobody else
//! waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use protocol::ids::SourceId;
use store::rows::event::EventBlock;
use store::rows::finding::Actor;
use store::rows::retention::DataClass;
use store::{Compacted, OrgStore};

use crate::bench::{AGENT, Bench, SOURCE, at, header, stream};

/// Stores blocks that the store does not look into, received one a second.
async fn fill(org: &OrgStore, seconds: std::ops::Range<i64>, bytes: usize) {
    for second in seconds {
        let mut write = org.write();
        let block = EventBlock {
            agent: AGENT,
            source: SourceId::from_bytes([3; 16]),
            received_at: at(second),
            epoch: [9; 16],
            first_seq: 1,
            payload: vec![7; bytes],
            payload_bytes: 1,
        };
        write.put_events(block, &std::iter::empty().collect());
        write.commit().await.unwrap();
    }
}

async fn forget(org: &OrgStore, line: i64) {
    let sign = |_: &[u8]| Vec::new();
    org.forget(DataClass::Events, at(line), at(9000), Actor::Hub, &sign)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_does_not_grow_over_what_was_freed_and_shrinks_when_it_is_compacted() {
    let bench = Bench::new();
    let (org, other) = (bench.org("acme").await, bench.org("other").await);
    let length = || std::fs::metadata(bench.org_file(org.org())).unwrap().len();
    fill(&org, 0..400, 50_000).await;
    fill(&other, 0..10, 1000).await;
    let full = length();
    for round in 1..4 {
        forget(&org, round * 400).await;
        fill(&org, round * 400..round * 400 + 360, 50_000).await;
        assert!(length() <= full, "freed pages are not used again");
    }
    forget(&org, 5000).await;
    fill(&org, 6000..6010, 50_000).await;
    let usage = org.usage().await.unwrap().unwrap();
    let fragmented = length();
    assert_eq!(usage.file_bytes, fragmented);
    assert!(fragmented > full / 4, "{full} to {fragmented} by itself");
    assert!(
        (500_000..3_000_000).contains(&usage.live_bytes),
        "{usage:?}"
    );
    let Compacted {
        before_bytes,
        after_bytes,
    } = org.compact().await.unwrap().unwrap();
    assert_eq!((before_bytes, after_bytes), (fragmented, length()));
    assert!(after_bytes < full / 8, "{full} to {after_bytes}");
    assert_eq!(org.last_usage().unwrap().file_bytes, after_bytes);
    let counts = async |org: &OrgStore| {
        let found = org.read(|reader| Ok(reader.inspect(&[]))).await.unwrap();
        (
            found.tables["blocks"],
            found.tables["block-index"],
            found.tables["audit"],
        )
    };
    assert_eq!(counts(&org).await, (10, 10, 4));
    assert_eq!(counts(&other).await, (10, 10, 0));
    let id = org.org();
    let bench = bench.reopened().await;
    assert_eq!(counts(&bench.org_again(id).await).await, (10, 10, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn agents_and_readers_wait_for_a_compaction_and_lose_nothing() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    fill(&org, 0..200, 50_000).await;
    forget(&org, 1000).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for lane in 1..=4 {
        let (org, is_over) = (org.clone(), Arc::clone(&is_over));
        let acknowledged = Arc::clone(&acknowledged);
        tasks.push(tokio::spawn(async move {
            let mut seq = 0;
            while !is_over.load(Ordering::Relaxed) {
                seq += 1;
                let mut write = org.write();
                write.advance_high_water(stream(lane), seq, seq, header("h"));
                write.commit().await.unwrap();
                acknowledged.fetch_add(1, Ordering::Relaxed);
                // What is acknowledged can be read at once.
                let found = org.batch_header(stream(lane), seq).await.unwrap();
                assert!(found.is_some(), "{lane} {seq}");
            }
            seq
        }));
    }
    for round in 0..5 {
        let before = acknowledged.load(Ordering::Relaxed);
        let done = org.compact().await.unwrap();
        assert!(done.is_some(), "round {round}");
        while acknowledged.load(Ordering::Relaxed) < before + 8 {
            tokio::task::yield_now().await;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let mut written = Vec::new();
    for task in tasks {
        written.push(task.await.unwrap());
    }
    let marks = org.high_waters(AGENT).await.unwrap();
    let marks: Vec<u64> = marks.into_iter().map(|(_, mark)| mark).collect();
    assert_eq!(marks, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_is_left_in_peace_and_a_second_compaction_is_none() {
    let bench = Bench::new();
    let (org, other) = (bench.org("acme").await, bench.org("other").await);
    fill(&org, 0..10, 1000).await;
    let (begun, has_begun) = std::sync::mpsc::sync_channel(1);
    let (go, may_end) = std::sync::mpsc::sync_channel::<()>(1);
    let reading = {
        let org = org.clone();
        tokio::spawn(async move {
            org.read(move |reader| {
                begun.send(()).unwrap();
                may_end.recv().unwrap();
                reader.event(protocol::ids::EventId::from_bytes([1; 16]))
            })
            .await
        })
    };
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap())
        .await
        .unwrap();
    let mut compacting = Box::pin(org.compact());
    tokio::select! {
        biased;
        _ = &mut compacting => panic!("it did not wait for the read"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(org.compact().await.unwrap(), None, "one is enough");
    // Another organisation notices nothing, and this one still writes.
    fill(&other, 0..3, 1000).await;
    fill(&org, 20..22, 1000).await;
    assert_eq!(other.source(SOURCE).await.unwrap(), None);
    let waiting = {
        let org = org.clone();
        tokio::spawn(async move { org.quarantine(1).await })
    };
    // Not even while the compaction lets writers in: it takes no place from others' reads.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    go.send(()).unwrap();
    assert!(reading.await.unwrap().unwrap().is_none());
    assert!(compacting.await.unwrap().is_some());
    assert_eq!(waiting.await.unwrap().unwrap(), []);
}
