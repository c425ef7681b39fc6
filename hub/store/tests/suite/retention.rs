//! What is older than its class's line goes, and nothing else; under a legal hold nothing does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use protocol::ids::{AgentId, FindingId, HoldId, UserId};
use protocol::wire::v1::LostReason;
use store::rows::event::{EventBlock, Loss, Quarantined};
use store::rows::finding::{Actor, Finding, FindingChange, Transition};
use store::rows::resource::{Resource, SweepResult};
use store::rows::retention::{DataClass, HOLDS, Hold, Tally, days_of};
use store::rows::{FindingStatus, Severity, Verdict};
use store::{CommitError, FindingList, OrgStore, SignedHeader};

use crate::bench::{AGENT, Bench, SOURCE, Sweeper, at, header, stream, vpcs};
use crate::events;
use crate::findings::finding;

const ADMIN: Actor = Actor::User(UserId::from_bytes([5; 16]));

fn unasked(_: &[u8]) -> Vec<u8> {
    panic!("only an audit log's base is signed")
}

async fn forget(org: &OrgStore, class: DataClass, line: i64) -> Result<Tally, CommitError> {
    let expected = org.expired(class, at(line)).await.unwrap();
    let gone = org
        .forget(class, at(line), at(9000), ADMIN, &unasked)
        .await?;
    // What a dry run says goes.
    let seen = |tally: &Tally| (tally.rows, tally.oldest, tally.newest);
    assert_eq!(seen(&gone), seen(&expected), "{class}");
    assert_eq!(expected.rows == 0, expected.bytes == 0, "{class}");
    Ok(gone)
}

async fn refuse(org: &OrgStore, seconds: std::ops::Range<i64>) {
    let mut write = org.write();
    for second in seconds {
        write.quarantine(Quarantined {
            at: at(second),
            agent: AGENT,
            source: Some(SOURCE),
            reason: "it is odd".into(),
            what: format!("record {second}"),
        });
        write.put_loss(Loss {
            at: at(second),
            agent: AGENT,
            source: SOURCE,
            lane: 1,
            epoch: [9; 16],
            first_seq: 1,
            last_seq: 2,
            unsequenced: 0,
            reason: LostReason::Source,
            from: None,
            to: None,
        });
    }
    write.commit().await.unwrap();
}

#[tokio::test]
async fn refused_records_and_losses_go_by_their_time_and_make_room_for_others() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    refuse(&org, 0..10_000).await;
    refuse(&org, 10_000..10_010).await;
    assert_eq!(
        org.quarantine(20_000).await.unwrap().len(),
        10_000,
        "it is full"
    );
    for class in [DataClass::Quarantine, DataClass::Losses] {
        let gone = forget(&org, class, 9_000).await.unwrap();
        assert_eq!((gone.oldest, gone.newest), (Some(at(0)), Some(at(8_999))));
        assert_eq!(gone.rows, 9_000);
        assert_eq!(forget(&org, class, 9_000).await.unwrap().rows, 0);
        let retention = org.retention().await.unwrap();
        assert_eq!(retention.forgotten_before(class), Some(at(9_000)));
        assert_eq!(retention.forgotten_before(DataClass::Events), None);
    }
    refuse(&org, 20_000..20_005).await;
    let kept = org.quarantine(20_000).await.unwrap();
    assert_eq!((kept.len(), kept[0].at), (1_005, at(20_004)));
    let lost = org.read(|reader| reader.losses(20_000)).await.unwrap();
    assert_eq!(lost.len(), 1_005);
    // How many there ever were is a fact that no retention changes.
    let ever = org.read(|r| Ok((r.quarantined()?, r.lost()?))).await;
    assert_eq!(ever.unwrap(), (10_015, 2 * 10_015));
    // There is room for exactly what went.
    refuse(&org, 30_000..39_500).await;
    assert_eq!(org.quarantine(20_000).await.unwrap().len(), 10_000);
    let lost = org.read(|reader| reader.losses(20_000)).await.unwrap();
    assert_eq!(lost.len(), 10_000);
}

#[tokio::test]
async fn headers_go_stream_by_stream_and_a_stream_goes_on_where_it_was() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let put = async |lane: u8, seq: u64, second: i64| {
        let mut write = org.write();
        let received_at = at(second);
        let header = SignedHeader {
            received_at,
            ..header("h")
        };
        write.advance_high_water(stream(lane), seq, seq, header);
        write.commit().await.map(drop)
    };
    for seq in 1..=20 {
        for lane in [1, 2, 3] {
            let second = i64::from(lane) * 100 + i64::try_from(seq).unwrap();
            put(lane, seq, second).await.unwrap();
        }
    }
    // All of the first, half of the second, none of the third.
    let gone = forget(&org, DataClass::BatchHeaders, 211).await.unwrap();
    assert_eq!((gone.rows, gone.newest), (30, Some(at(210))));
    for (lane, first) in [(1, 21), (2, 11), (3, 1)] {
        for seq in 1..=20 {
            let found = org.batch_header(stream(lane), seq).await.unwrap();
            assert_eq!(found.is_some(), seq >= first, "{lane} {seq}");
        }
    }
    assert!(matches!(
        put(1, 20, 999).await,
        Err(CommitError::Repeat { high_water: 20 })
    ));
    put(1, 21, 999).await.unwrap();
}

#[tokio::test]
async fn what_a_resource_was_goes_but_for_what_it_was_at_the_line() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let ids = ["vpc-1", "vpc-2", "vpc-3"].map(str::to_owned);
    let mut sweeper = Sweeper::new(vpcs()).holding(ids);
    sweeper.sweep(&org, 0).await;
    for second in [10, 20, 30] {
        sweeper.holds.insert("vpc-1".into(), second.to_string());
        sweeper.sweep(&org, second).await;
    }
    sweeper.holds.remove("vpc-2");
    assert_eq!(
        sweeper.sweep(&org, 15).await,
        SweepResult::Complete { retired: 1 }
    );
    sweeper.holds.remove("vpc-3");
    assert_eq!(
        sweeper.sweep(&org, 40).await,
        SweepResult::Complete { retired: 1 }
    );
    let [first, second, third] = ["vpc-1", "vpc-2", "vpc-3"].map(|id| vpcs().urn(id));

    // The evaluator has not seen that the second is gone: its findings would stand for ever.
    org.forget(
        DataClass::ResourceHistory,
        at(25),
        at(9000),
        ADMIN,
        &unasked,
    )
    .await
    .unwrap();
    assert!(org.resource(&second).await.unwrap().is_some());
    let mut write = org.write();
    write.changes_judged(u64::MAX);
    write.commit().await.unwrap();

    let class = DataClass::ResourceHistory;
    assert_eq!(forget(&org, class, 25).await.unwrap().rows, 1);
    let spans = |past: Vec<store::rows::resource::PastResource>| {
        past.iter()
            .map(|past| (past.since, past.until))
            .collect::<Vec<_>>()
    };
    let past = org.resource_history(&first).await.unwrap();
    assert_eq!(spans(past), [(at(20), at(30))], "what it was at the line");
    assert!(org.resource(&first).await.unwrap().is_some());
    // Gone before the line, it is forgotten with everything that hangs on it.
    assert_eq!(org.resource(&second).await.unwrap(), None);
    let id = Resource::id_of(org.org(), &second);
    assert_eq!(org.resource_by_id(id).await.unwrap(), None);
    assert_eq!(org.resource_history(&second).await.unwrap(), []);
    // Gone after it, it stays.
    assert!(
        org.resource(&third)
            .await
            .unwrap()
            .unwrap()
            .retired_at
            .is_some()
    );
    // It may come back as if it were new.
    sweeper.holds.insert("vpc-2".into(), "1".into());
    assert_eq!(
        sweeper.sweep(&org, 50).await,
        SweepResult::Complete { retired: 0 }
    );
    let back = org.resource(&second).await.unwrap().unwrap();
    assert_eq!(back.first_seen, at(50));
}

/// Takes a finding through its steps, by second.
async fn live(org: &OrgStore, id: FindingId, steps: &[(i64, FindingStatus)]) {
    for (second, status) in steps {
        let (second, status) = (*second, *status);
        let new = Finding {
            id,
            ..finding(org, 1, "aws.ec2.a", Severity::High)
        };
        let mut write = org.write();
        write.update_finding(id, move |current| {
            let mut row = current.unwrap_or(&new).clone();
            let from = current.map(|row: &Finding| row.status);
            row.status = status;
            row.resolved_at = (status == FindingStatus::Resolved).then_some(at(second));
            Some(FindingChange {
                finding: row,
                transition: Some(Transition {
                    at: at(second),
                    from,
                    to: status,
                    verdict: Verdict::Fail,
                    by: Actor::Hub,
                    note: String::new(),
                }),
            })
        });
        write.commit().await.unwrap();
    }
}

#[tokio::test]
async fn resolved_findings_go_and_open_ones_keep_how_they_stood_at_the_line() {
    use FindingStatus::{Muted, Open, Resolved};
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let ids: Vec<FindingId> = (1..=4).map(|n| FindingId::from_bytes([n; 16])).collect();
    live(&org, ids[0], &[(1, Open), (5, Resolved)]).await;
    live(
        &org,
        ids[1],
        &[
            (1, Open),
            (5, Resolved),
            (6, Open),
            (7, Resolved),
            (8, Open),
        ],
    )
    .await;
    live(
        &org,
        ids[2],
        &[(1, Open), (5, Resolved), (20, Open), (30, Resolved)],
    )
    .await;
    live(&org, ids[3], &[(1, Open), (2, Muted)]).await;
    let listed = async || {
        let list = FindingList {
            limit: 10,
            ..FindingList::default()
        };
        org.findings(list).await.unwrap().items.len()
    };
    assert_eq!(listed().await, 4);
    // The first with its step, and five steps that others followed.
    let gone = forget(&org, DataClass::Findings, 10).await.unwrap();
    assert_eq!(gone.rows, 1 + 4 + 1 + 1 + 1);
    assert_eq!(listed().await, 3, "the list in memory has it no more");
    let mut left = Vec::new();
    for id in &ids {
        let steps = org.finding_history(*id).await.unwrap();
        left.push(steps.iter().map(|step| step.at).collect::<Vec<_>>());
        assert_eq!(org.finding(*id).await.unwrap().is_some(), *id != ids[0]);
    }
    assert_eq!(
        left,
        [
            vec![],
            vec![at(8)],
            vec![at(5), at(20), at(30)],
            vec![at(2)]
        ]
    );
    // A finding that was forgotten begins anew.
    live(&org, ids[0], &[(50, Open)]).await;
    assert_eq!(org.finding_history(ids[0]).await.unwrap().len(), 1);
    assert_eq!(listed().await, 4);
}

fn hold(n: u8, class: Option<DataClass>) -> Hold {
    Hold {
        id: HoldId::from_bytes([n; 16]),
        class,
        reason: format!("matter {n}"),
        by: ADMIN,
        since: at(1),
    }
}

#[tokio::test]
async fn nothing_is_forgotten_while_a_hold_stands() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    assert_eq!(org.legal_hold().await.unwrap(), None);
    refuse(&org, 0..10).await;
    events::fill(&org, 3).await;
    let set = async |hold: Hold| {
        let mut write = org.write();
        write.hold(hold);
        write.commit().await.unwrap();
    };
    let lift = async |n: u8| {
        let mut write = org.write();
        write.lift(HoldId::from_bytes([n; 16]));
        write.commit().await.map(drop)
    };
    set(hold(1, Some(DataClass::Quarantine))).await;
    set(hold(2, None)).await;
    assert_eq!(
        org.legal_hold().await.unwrap(),
        Some(hold(1, Some(DataClass::Quarantine)))
    );
    for class in [DataClass::Quarantine, DataClass::Losses, DataClass::Events] {
        let held = forget(&org, class, 9).await;
        assert!(matches!(held, Err(CommitError::Held { .. })), "{held:?}");
        assert_eq!(org.retention().await.unwrap().forgotten_before(class), None);
    }
    assert_eq!(org.audit(1, 10).await.unwrap().len(), 0, "nothing went");
    lift(2).await.unwrap();
    assert!(matches!(lift(2).await, Err(CommitError::Missing { .. })));
    let bench = bench.reopened().await;
    let org = bench.org_again(org.org()).await;
    assert_eq!(forget(&org, DataClass::Events, 2).await.unwrap().rows, 2);
    let held = forget(&org, DataClass::Quarantine, 9).await;
    assert!(matches!(held, Err(CommitError::Held { hold: by }) if by.reason == "matter 1"));
    assert_eq!(org.quarantine(100).await.unwrap().len(), 10);
    let mut write = org.write();
    write.lift(HoldId::from_bytes([1; 16]));
    write.commit().await.unwrap();
    assert_eq!(
        forget(&org, DataClass::Quarantine, 9).await.unwrap().rows,
        9
    );
    assert_eq!(org.legal_hold().await.unwrap(), None);
}

#[tokio::test]
async fn holds_and_days_have_their_bounds() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    for n in 0..=HOLDS {
        let mut write = org.write();
        write.hold(hold(u8::try_from(n).unwrap(), None));
        let set = write.commit().await;
        assert_eq!(set.is_ok(), n < HOLDS);
    }
    let keep = async |class: DataClass, days: u32| {
        let mut write = org.write();
        write.keep_for(class, days);
        write.commit().await
    };
    for class in DataClass::ALL {
        let days = days_of(class);
        for refused in [days.least - 1, days.most + 1] {
            let set = keep(class, refused).await;
            assert!(matches!(set, Err(CommitError::Days { .. })), "{class}");
        }
        assert_eq!(org.retention().await.unwrap().days(class), days.usual);
    }
    keep(DataClass::Audit, 365).await.unwrap();
    assert_eq!(org.retention().await.unwrap().days(DataClass::Audit), 365);
    let agent = AgentId::from_bytes([1; 16]);
    assert_eq!(
        org.agent(agent).await.unwrap(),
        None,
        "and nothing else was written"
    );
}

/// `ZERO_X_DAY=50000 cargo test --release -p store --test suite ten_million -- --nocapture`: so many
/// blocks of 200 events in 20 KB each, received within a day. Without it, a hundredth of that.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what was measured")]
async fn a_day_of_ten_million_events_goes_while_others_write() {
    let asked = std::env::var("ZERO_X_DAY").ok();
    let blocks: usize = asked.as_ref().map_or(500, |text| text.parse().unwrap());
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut random = 1u64;
    let mut payload = vec![0u8; 20_000];
    for byte in &mut payload {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = random.to_be_bytes()[0];
    }
    let records: Vec<_> = (0..200).map(events::record).collect();
    let index = records.iter().map(|record| record.view()).collect();
    for first in (0..blocks).step_by(500) {
        let mut write = org.write();
        for n in first..(first + 500).min(blocks) {
            let block = EventBlock {
                agent: AGENT,
                source: SOURCE,
                received_at: at(i64::try_from(n * 86_000 / blocks).unwrap()),
                epoch: [9; 16],
                first_seq: 1,
                payload: payload.clone(),
                payload_bytes: 1,
            };
            write.put_events(block, &index);
        }
        write.commit().await.unwrap();
    }
    let (stop, other) = (Arc::new(AtomicBool::new(false)), org.clone());
    let stopped = Arc::clone(&stop);
    let writing = tokio::spawn(async move {
        let (mut longest, mut seq) = (Duration::ZERO, 0);
        while !stopped.load(Ordering::Relaxed) {
            seq += 1;
            let began = Instant::now();
            let mut write = other.write();
            write.advance_high_water(stream(7), seq, seq, header("h"));
            write.commit().await.unwrap();
            longest = longest.max(began.elapsed());
        }
        (longest, seq)
    });
    let began = Instant::now();
    let gone = org.forget(DataClass::Events, at(86_400), at(90_000), ADMIN, &unasked);
    let gone = gone.await.unwrap();
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let (longest, writes) = writing.await.unwrap();
    assert_eq!(gone.rows, u64::try_from(blocks).unwrap());
    println!(
        "{blocks} blocks went in {took:?}; of {writes} other writes the longest took {longest:?}"
    );
    if asked.is_some() {
        assert!(took <= Duration::from_secs(1), "{took:?}");
    }
}
