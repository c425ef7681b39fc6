//! Agents that send more than they may, and agents that wait for each other.

use std::num::NonZeroU64;
use std::time::Instant;

use super::*;
use crate::ingest::{Quotas, Rates};

#[tokio::test]
async fn an_agent_above_its_quota_is_slowed_down_and_shown_and_loses_nothing() {
    let hub = hub_with(Quotas {
        agent: Rates {
            bytes: None,
            events: NonZeroU64::new(100),
        },
        ..NO_QUOTAS
    })
    .await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let batch: Vec<EventRecord> = (0..50).map(|_| record("login")).collect();
    let throttled = || hub.live.session(agent.id).unwrap().throttled;
    let began = Instant::now();
    talk.send(Lane::Events, &batch).await;
    assert!(throttled().is_none(), "a burst is free");
    for _ in 0..6 {
        talk.send(Lane::Events, &batch).await;
    }
    // 350 events: 100 at once; the last batch may be read once the ones before it are paid for.
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "it took {:?}",
        began.elapsed()
    );
    let shown = throttled().expect("it is shown");
    assert!(shown.reason.contains("quota.agent_events_per_second"));
    assert!(shown.since <= Timestamp::now());
    assert_eq!(events(&hub).await.len(), 100, "of the newest hundred");
    let waters = hub.org_store().await.high_waters(agent.id).await.unwrap();
    assert_eq!(waters[0].1, 350);
    assert!(talk.unheard.is_empty(), "{:?}", talk.unheard);

    // Reconnecting buys nothing, and another agent of the organisation owes nothing.
    let most: Vec<EventRecord> = (0..2_000).map(|_| record("login")).collect();
    talk.send(Lane::Events, &most).await;
    let other = hub.agent().await;
    let other_id = other.id;
    let mut other = Talk::open(&hub, &other).await;
    other.source = SourceId::from_bytes([4; 16]);
    let mut talk = Talk::open(&hub, &agent).await;
    let next = talk.batch(Lane::Events, 2_351, &batch);
    talk.write(Lane::Events, &next).await;
    let waited = tokio::time::timeout(PATIENCE, async {
        while throttled().is_none() {
            tokio::task::yield_now().await;
        }
    });
    waited
        .await
        .expect("the new session waits for the old one's debt");
    other.send(Lane::Events, &batch).await;
    assert_eq!(hub.live.session(other_id).unwrap().throttled, None);
    hub.stop().await;
}

#[tokio::test]
async fn what_agents_of_an_organisation_send_together_is_bounded_too() {
    let hub = hub_with(Quotas {
        org: Rates {
            bytes: NonZeroU64::new(100_000),
            events: None,
        },
        ..NO_QUOTAS
    })
    .await;
    let text = "x".repeat(1_000);
    let mut talks = Vec::new();
    for n in 0..3 {
        let agent = hub.agent().await;
        let mut talk = Talk::open(&hub, &agent).await;
        talk.source = SourceId::from_bytes([10 + n; 16]);
        talks.push(talk);
    }
    let batch: Vec<EventRecord> = (0..50).map(|_| record(&text)).collect();
    let began = Instant::now();
    // Each batch has over 100,000 bytes before compression.
    for talk in &mut talks {
        talk.send(Lane::Events, &batch).await;
    }
    // The first two take the burst and its debt, so the last waits for what they owe.
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "it took {:?}",
        began.elapsed()
    );
    assert_eq!(events(&hub).await.len(), 100, "of the newest hundred");
    hub.stop().await;
}
