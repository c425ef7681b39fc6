//! Blocks of events: stored as they came, found by what is in them, forgotten by time.

use protocol::event::EventRecord;
use protocol::ids::{AgentId, EventId, SourceId};
use store::rows::event::{BlockKey, EventBlock, EventQuery, QUARANTINE_TEXT_BYTES, Quarantined};
use store::rows::finding::Actor;
use store::rows::retention::DataClass;
use store::{CommitError, OrgStore};

use crate::bench::{AGENT, Bench, SOURCE, at, document, from, vpcs};

pub(crate) fn record(n: i64) -> EventRecord {
    EventRecord {
        time_ms: at(n).as_millisecond(),
        class_uid: 3002,
        severity: u8::try_from(n % 7).unwrap(),
        action: "ConsoleLogin".into(),
        actor: format!("user-{}", n % 10),
        src_ip: format!("10.0.0.{}", n % 200),
        raw: format!(r#"{{"n":"serial{n}","what":"failed login of root"}}"#),
        ..EventRecord::default()
    }
}

/// Items as an agent lays them out, compressed. `None` is an item that does not decode.
fn payload(records: &[Option<EventRecord>]) -> (Vec<u8>, u32) {
    let mut bytes = Vec::new();
    for record in records {
        let item = record
            .as_ref()
            .map_or(vec![0xff; 3], |r| postcard::to_stdvec(r).unwrap());
        bytes.extend_from_slice(&u32::try_from(item.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&item);
    }
    (
        zstd::bulk::compress(&bytes, 1).unwrap(),
        u32::try_from(bytes.len()).unwrap(),
    )
}

fn block(records: &[Option<EventRecord>], received: i64, source: SourceId) -> EventBlock {
    let (payload, payload_bytes) = payload(records);
    EventBlock {
        agent: AGENT,
        source,
        received_at: at(received),
        epoch: [9; 16],
        first_seq: 1,
        payload,
        payload_bytes,
    }
}

async fn put(org: &OrgStore, records: &[Option<EventRecord>], received: i64) -> BlockKey {
    let mut write = org.write();
    let index = records.iter().flatten().map(EventRecord::view).collect();
    let key = write.put_events(block(records, received, SOURCE), &index);
    write.commit().await.unwrap();
    key
}

/// Blocks of 20 events, numbered on.
pub(crate) async fn fill(org: &OrgStore, blocks: i64) -> Vec<BlockKey> {
    let mut keys = Vec::new();
    for n in 0..blocks {
        let records: Vec<_> = (n * 20..n * 20 + 20).map(|n| Some(record(n))).collect();
        keys.push(put(org, &records, n).await);
    }
    keys
}

/// Follows the pages to the end; returns the events' times in seconds.
async fn search(org: &OrgStore, mut query: EventQuery) -> Vec<i64> {
    let mut found = Vec::new();
    for _ in 0..1000 {
        let page = org.search_events(query.clone()).await.unwrap();
        assert!(page.events.len() <= query.limit);
        found.extend(
            page.events
                .iter()
                .map(|event| event.record.time_ms / 1000 - at(0).as_second()),
        );
        match page.next {
            Some(next) => query.before = Some(next),
            None => return found,
        }
    }
    panic!("the search does not end");
}

#[tokio::test]
async fn pages_of_a_search_are_every_match_once_newest_receipt_first() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    fill(&org, 10).await;
    for limit in [1, 7, 20, 1000] {
        let all = search(
            &org,
            EventQuery {
                limit,
                ..EventQuery::default()
            },
        )
        .await;
        assert_eq!(all, (0..200).rev().collect::<Vec<i64>>());
        let some = EventQuery {
            actor: Some("USER-3".into()),
            limit,
            ..EventQuery::default()
        };
        let want: Vec<i64> = (0..200).rev().filter(|n| n % 10 == 3).collect();
        assert_eq!(search(&org, some).await, want);
    }
    let query = EventQuery {
        text: vec!["root".into(), "failed login".into()],
        severity_at_least: Some(5),
        since: Some(at(30)),
        until: Some(at(60)),
        limit: 3,
        ..EventQuery::default()
    };
    let want: Vec<i64> = (30..60).rev().filter(|n| n % 7 >= 5).collect();
    assert_eq!(search(&org, query).await, want);
}

#[tokio::test]
async fn a_rare_word_opens_only_the_block_that_holds_it() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    fill(&org, 30).await;
    let query = EventQuery {
        text: vec!["serial123".into()],
        limit: 10,
        ..EventQuery::default()
    };
    let page = org.search_events(query).await.unwrap();
    assert_eq!(page.events.len(), 1);
    assert_eq!(page.blocks_seen, 30);
    assert!(
        page.blocks_opened <= 3,
        "{} blocks were opened",
        page.blocks_opened
    );
    let other = EventQuery {
        source: Some(SourceId::from_bytes([77; 16])),
        limit: 10,
        ..EventQuery::default()
    };
    let page = org.search_events(other).await.unwrap();
    assert_eq!(
        (page.events.len(), page.blocks_opened, page.next),
        (0, 0, None)
    );
}

#[tokio::test]
async fn an_event_is_found_by_its_id_with_where_it_came_from() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let records = [Some(record(1)), None, Some(record(3))];
    let key = put(&org, &records, 50).await;
    let event = org.event(key.event(2)).await.unwrap().unwrap();
    assert_eq!(event.record, record(3));
    assert_eq!(
        (event.agent, event.source, event.received_at),
        (AGENT, SOURCE, at(50))
    );
    // A refused item keeps its place empty.
    assert_eq!(org.event(key.event(1)).await.unwrap(), None);
    assert_eq!(org.event(key.event(3)).await.unwrap(), None);
    assert_eq!(
        org.event(EventId::from_bytes([0xff; 16])).await.unwrap(),
        None
    );
    let all = search(
        &org,
        EventQuery {
            limit: 10,
            ..EventQuery::default()
        },
    )
    .await;
    assert_eq!(all, [3, 1]);
}

#[tokio::test]
async fn events_are_forgotten_by_receipt_and_nothing_else_is() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let keys = fill(&org, 10).await;
    let unasked = |_: &[u8]| -> Vec<u8> { panic!("only an audit log's base is signed") };
    let gone = org.forget(DataClass::Events, at(4), at(100), Actor::Hub, &unasked);
    let gone = gone.await.unwrap();
    assert_eq!(
        (gone.rows, gone.oldest, gone.newest),
        (4, Some(at(0)), Some(at(3)))
    );
    let all = search(
        &org,
        EventQuery {
            limit: 1000,
            ..EventQuery::default()
        },
    )
    .await;
    assert_eq!(all, (80..200).rev().collect::<Vec<i64>>());
    assert_eq!(org.event(keys[3].event(0)).await.unwrap(), None);
    assert!(org.event(keys[4].event(0)).await.unwrap().is_some());
}

#[tokio::test]
async fn blocks_of_one_millisecond_have_keys_of_their_own() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let first = put(&org, &[Some(record(1))], 5).await;
    let second = put(&org, &[Some(record(2))], 5).await;
    assert!(first < second);
    // A write that is committed twice by its caller stores its block once.
    let id = org.org();
    let bench = bench.reopened().await;
    let org = bench.org_again(id).await;
    let third = put(&org, &[Some(record(3))], 5).await;
    assert!(third != first && third != second);
    let all = search(
        &org,
        EventQuery {
            limit: 10,
            ..EventQuery::default()
        },
    )
    .await;
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn a_refused_item_is_kept_short_and_counted() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    for n in 0..3 {
        let mut write = org.write();
        write.quarantine(Quarantined {
            at: at(n),
            agent: AgentId::from_bytes([1; 16]),
            source: None,
            reason: "not a document".into(),
            what: "ü".repeat(1000),
        });
        write.commit().await.unwrap();
    }
    let kept = org.quarantine(2).await.unwrap();
    assert_eq!(
        kept.iter().map(|item| item.at).collect::<Vec<_>>(),
        [at(2), at(1)]
    );
    assert_eq!(kept[0].what.len(), QUARANTINE_TEXT_BYTES);
    assert_eq!(org.read(|reader| reader.quarantined()).await.unwrap(), 3);
}

#[tokio::test]
async fn a_write_beyond_its_bound_is_refused() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let before = org.read(|reader| reader.commit()).await.unwrap();
    let mut write = org.write();
    for n in 0..9 {
        let urn = vpcs().urn(&format!("vpc-{n}"));
        write.put_resource(document(&urn, &"x".repeat(8 << 20), &[]), from(at(1)));
    }
    let refused = write.commit().await.unwrap_err();
    assert!(matches!(
        refused,
        CommitError::TooLarge {
            what: "the write's bytes",
            ..
        }
    ));
    let mut write = org.write();
    for _ in 0..100_001 {
        write.changes_judged(0);
    }
    let refused = write.commit().await.unwrap_err();
    assert!(matches!(
        refused,
        CommitError::TooLarge {
            what: "the write's parts",
            ..
        }
    ));
    assert_eq!(org.read(|reader| reader.commit()).await.unwrap(), before);
}
