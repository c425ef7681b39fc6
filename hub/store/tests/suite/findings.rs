//! Verdicts, what falls due, findings, their history, their lists, the audit log.

use std::collections::BTreeMap;

use protocol::document::Gap;
use protocol::ids::FindingId;
use store::rows::audit::AuditAct;
use store::rows::finding::{Actor, Finding, FindingChange, ResourceRef, Risk, Transition};
use store::rows::resource::Subject;
use store::rows::verdict::{Judged, VerdictRow};
use store::rows::{FindingStatus, Severity, Verdict};
use store::{CommitError, FindingSort, List, Order, OrgStore, ResourceSort};

use crate::bench::{ACCOUNT, Bench, Sweeper, at, vpcs};

fn judged(check: &str, verdict: Verdict, due: Option<i64>) -> Judged {
    Judged {
        check_id: check.into(),
        verdict,
        evaluated_at: at(1),
        facts_hash: [3; 32],
        due_at: due.map(at),
        gaps: if verdict == Verdict::Unknown {
            let (call, error) = ("s3:GetBucketPolicy".into(), "AccessDenied".into());
            vec![("config.Policy".into(), Gap { call, error })]
        } else {
            Vec::new()
        },
    }
}

fn subject(n: usize) -> Subject {
    Subject::Resource(vpcs().urn(&format!("vpc-{n:04}")))
}

async fn put(org: &OrgStore, row: &VerdictRow) {
    let mut write = org.write();
    write.put_verdicts(row.clone());
    write.commit().await.unwrap();
}

#[tokio::test]
async fn verdicts_are_read_back_by_subject_and_page_by_page() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut want = Vec::new();
    for n in 0..25 {
        let verdicts = vec![
            judged("aws.ec2.a", Verdict::Pass, None),
            judged(&format!("aws.ec2.b{}", n % 3), Verdict::Unknown, Some(50)),
        ];
        let row = VerdictRow {
            subject: subject(n),
            verdicts,
        };
        put(&org, &row).await;
        want.push(row);
    }
    let denied = VerdictRow {
        subject: Subject::Scope(vpcs()),
        verdicts: want[0].verdicts.clone(),
    };
    put(&org, &denied).await;
    want.push(denied);
    for row in &want {
        assert_eq!(
            org.verdicts(&row.subject).await.unwrap().as_ref(),
            Some(row)
        );
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = org.scan_verdicts(after, 4).await.unwrap();
        seen.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    seen.sort_by(|a, b| a.subject.cmp(&b.subject));
    want.sort_by(|a, b| a.subject.cmp(&b.subject));
    assert_eq!(seen, want);
    assert!(org.scan_verdicts(Some("made up".into()), 4).await.is_err());
    let mut write = org.write();
    write.delete_verdicts(&subject(3));
    write.delete_verdicts(&subject(999));
    write.commit().await.unwrap();
    assert_eq!(org.verdicts(&subject(3)).await.unwrap(), None);
}

#[tokio::test]
async fn a_verdict_falls_due_once_and_at_its_last_date() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let row = |due: &[Option<i64>]| VerdictRow {
        subject: subject(1),
        verdicts: due
            .iter()
            .map(|due| judged("a", Verdict::Pass, *due))
            .collect(),
    };
    let due = async |second: i64| org.due(at(second), 10).await.unwrap();
    put(&org, &row(&[Some(30), None, Some(20)])).await;
    assert_eq!(due(19).await, []);
    assert_eq!(due(20).await, [subject(1)]);
    assert_eq!(org.next_due().await.unwrap(), Some(at(20)));
    put(&org, &row(&[Some(40)])).await;
    assert_eq!(org.next_due().await.unwrap(), Some(at(40)));
    assert_eq!(due(39).await, []);
    assert_eq!(due(40).await, [subject(1)]);
    put(&org, &row(&[None])).await;
    assert_eq!(org.next_due().await.unwrap(), None);
    assert_eq!(due(1000).await, []);
    put(&org, &row(&[Some(5)])).await;
    let mut write = org.write();
    write.delete_verdicts(&subject(1));
    write.commit().await.unwrap();
    assert_eq!(due(1000).await, []);
}

pub(crate) fn finding(org: &OrgStore, n: usize, check: &str, severity: Severity) -> Finding {
    let urn = vpcs().urn(&format!("vpc-{n:04}"));
    Finding {
        id: Finding::id_of(org.org(), check, &urn),
        check_id: check.into(),
        title: format!("title of {check}"),
        severity,
        status: FindingStatus::Open,
        verdict: Verdict::Fail,
        unknown_since: None,
        cause: None,
        resource: ResourceRef {
            type_name: urn.scope.type_name(),
            name: format!("name {n}"),
            account: ACCOUNT.into(),
            region: "us-east-1".into(),
            provider: "aws".into(),
            urn,
        },
        first_seen: at(1),
        last_seen: at(1),
        resolved_at: None,
        reopened: 0,
        evidence: BTreeMap::from([("config.Value".into(), serde_json::json!({"a": [1, null]}))]),
        gaps: BTreeMap::new(),
        facts_hash: [4; 32],
        risk: Risk {
            score: u8::try_from(n % 100).unwrap(),
            factors: Vec::new(),
        },
        mute: None,
        owner: None,
    }
}

fn step(second: i64, from: Option<FindingStatus>, to: FindingStatus) -> Transition {
    let note = String::new();
    Transition {
        at: at(second),
        from,
        to,
        verdict: Verdict::Fail,
        by: Actor::Hub,
        note,
    }
}

/// Opens the finding of one check on one resource.
pub(crate) async fn opened(org: &OrgStore, n: usize) -> FindingId {
    open(org, finding(org, n, "aws.a", Severity::High)).await
}

async fn open(org: &OrgStore, finding: Finding) -> FindingId {
    let id = finding.id;
    let mut write = org.write();
    write.update_finding(id, move |before| {
        assert!(before.is_none());
        let transition = Some(step(1, None, FindingStatus::Open));
        Some(FindingChange {
            finding: finding.clone(),
            transition,
        })
    });
    write.commit().await.unwrap();
    id
}

/// One finding with a step of its life.
pub(crate) async fn some(org: &OrgStore) {
    open(org, finding(org, 1, "aws.a", Severity::High)).await;
}

pub(crate) async fn resolve(org: &OrgStore, id: FindingId) {
    let mut write = org.write();
    write.update_finding(id, |before| {
        let mut finding = before.unwrap().clone();
        let transition = Some(step(2, Some(finding.status), FindingStatus::Resolved));
        finding.status = FindingStatus::Resolved;
        finding.resolved_at = Some(at(2));
        Some(FindingChange {
            finding,
            transition,
        })
    });
    write.commit().await.unwrap();
}

#[tokio::test]
async fn a_finding_keeps_every_step_of_its_life() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let id = open(&org, finding(&org, 1, "aws.a", Severity::High)).await;
    resolve(&org, id).await;
    let found = org.finding(id).await.unwrap().unwrap();
    assert_eq!(found.status, FindingStatus::Resolved);
    assert_eq!(
        found.evidence["config.Value"],
        serde_json::json!({"a": [1, null]})
    );
    // Two steps of one instant in one write, and one that decides to do nothing.
    let mut write = org.write();
    for (before, after) in [
        (FindingStatus::Resolved, FindingStatus::Open),
        (FindingStatus::Open, FindingStatus::Muted),
    ] {
        write.update_finding(id, move |found| {
            let mut finding = found.unwrap().clone();
            assert_eq!(finding.status, before);
            finding.status = after;
            Some(FindingChange {
                finding,
                transition: Some(step(3, Some(before), after)),
            })
        });
    }
    write.update_finding(id, |_| None);
    write.commit().await.unwrap();
    let steps: Vec<FindingStatus> = org
        .finding_history(id)
        .await
        .unwrap()
        .into_iter()
        .map(|step| step.to)
        .collect();
    use FindingStatus::{Muted, Open, Resolved};
    assert_eq!(steps, [Open, Resolved, Open, Muted]);
    let other = FindingId::from_bytes([1; 16]);
    assert_eq!(org.finding(other).await.unwrap(), None);
    assert_eq!(org.finding_history(other).await.unwrap(), []);
    // A row under another finding's key would never be found.
    let mut write = org.write();
    let wrong = finding(&org, 2, "aws.a", Severity::High);
    write.update_finding(other, move |_| {
        Some(FindingChange {
            finding: wrong.clone(),
            transition: None,
        })
    });
    assert!(matches!(
        write.commit().await,
        Err(CommitError::Conflict { .. })
    ));
}

#[tokio::test]
async fn verdicts_are_counted_as_they_come_change_and_go() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let row = |n, verdicts: &[Verdict]| VerdictRow {
        subject: subject(n),
        verdicts: (0..)
            .zip(verdicts)
            .map(|(place, verdict)| judged(&format!("aws.ec2.c{place}"), *verdict, None))
            .collect(),
    };
    let counts = async || {
        let counts = org.read(|reader| reader.verdict_counts()).await.unwrap();
        let scanned = org.scan_verdicts(None, 1000).await.unwrap();
        let mut told = BTreeMap::new();
        for judged in scanned.items.iter().flat_map(|row| &row.verdicts) {
            *told.entry(judged.verdict).or_insert(0u64) += 1;
        }
        let some: BTreeMap<_, _> = counts.into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(some, told);
        some
    };
    // Before they are first asked for, in one write and over several, and twice the same.
    put(&org, &row(1, &[Verdict::Pass, Verdict::Fail])).await;
    assert_eq!(counts().await.values().sum::<u64>(), 2);
    put(
        &org,
        &row(1, &[Verdict::Pass, Verdict::Pass, Verdict::Unknown]),
    )
    .await;
    put(&org, &row(2, &[Verdict::Fail])).await;
    put(&org, &row(2, &[Verdict::Fail])).await;
    let want = [
        (Verdict::Pass, 2),
        (Verdict::Fail, 1),
        (Verdict::Unknown, 1),
    ];
    assert_eq!(counts().await, BTreeMap::from(want));
    let mut write = org.write();
    write.put_verdicts(row(3, &[Verdict::Pass]));
    write.put_verdicts(row(3, &[Verdict::Fail]));
    write.delete_verdicts(&subject(1));
    write.delete_verdicts(&subject(9));
    write.commit().await.unwrap();
    assert_eq!(counts().await, BTreeMap::from([(Verdict::Fail, 2)]));
}

#[tokio::test]
async fn within_a_severity_the_riskier_finding_stands_first_and_then_the_later_one() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    // Name, severity, risk score, when it last failed.
    let rows = [
        ("aws.critical-60", Severity::Critical, 60, 9),
        ("aws.critical-90-old", Severity::Critical, 90, 1),
        ("aws.high-99", Severity::High, 99, 9),
        ("aws.critical-90-new", Severity::Critical, 90, 2),
        ("aws.high-5", Severity::High, 5, 9),
    ];
    for (n, (check, severity, score, seen)) in rows.into_iter().enumerate() {
        let mut row = finding(&org, n, check, severity);
        row.risk.score = score;
        row.last_seen = at(seen);
        open(&org, row).await;
    }
    let want = [
        "aws.critical-90-new",
        "aws.critical-90-old",
        "aws.critical-60",
        "aws.high-99",
        "aws.high-5",
    ];
    for limit in [1, 2, 100] {
        let mut list = store::FindingList {
            order: Order::Descending,
            limit,
            ..List::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = org.findings(list.clone()).await.unwrap();
            seen.extend(page.items.iter().map(|item| item.check_id.to_string()));
            match page.next {
                Some(next) => list.after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, want, "in pages of {limit}");
    }
}

#[tokio::test]
async fn lists_sort_filter_and_count_open_findings_by_resource() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding((0..4).map(|n| format!("vpc-{n:04}")));
    sweeper.sweep(&org, 1).await;
    let severities = [
        Severity::Low,
        Severity::Critical,
        Severity::Medium,
        Severity::High,
        Severity::Info,
    ];
    let mut ids = Vec::new();
    for (n, severity) in severities.into_iter().enumerate() {
        ids.push(
            open(
                &org,
                finding(&org, n % 4, &format!("aws.check-{n}"), severity),
            )
            .await,
        );
    }
    let list = |sort, order| List {
        sort,
        order,
        ..List::default()
    };
    let order = async |sort, order| -> Vec<String> {
        let page = org.findings(list(sort, order)).await.unwrap();
        page.items
            .iter()
            .map(|item| item.check_id.to_string())
            .collect()
    };
    let by_severity = order(FindingSort::Severity, Order::Descending).await;
    let want = [
        "aws.check-1",
        "aws.check-3",
        "aws.check-2",
        "aws.check-0",
        "aws.check-4",
    ];
    assert_eq!(by_severity, want);
    let by_check = order(FindingSort::Check, Order::Ascending).await;
    assert!(by_check.is_sorted());
    assert_eq!(
        order(FindingSort::Resource, Order::Ascending).await.len(),
        5
    );

    resolve(&org, ids[0]).await;
    let filter = protocol::filter::Filter::parse(
        "status=open severity>=medium",
        protocol::api::FINDING_FIELDS,
        at(0),
    )
    .unwrap();
    let page = org
        .findings(List {
            filter: Some(std::sync::Arc::new(move |item| filter.matches(item))),
            ..list(FindingSort::Severity, Order::Ascending)
        })
        .await
        .unwrap();
    assert_eq!(page.total, Some(3));

    let resources = org
        .resources(List {
            sort: ResourceSort::Findings,
            order: Order::Descending,
            ..List::default()
        })
        .await
        .unwrap();
    let counts: Vec<(String, u32)> = resources
        .items
        .iter()
        .map(|item| (item.urn.id.to_string(), item.open_findings.total()))
        .collect();
    let resolved = counts.iter().find(|(id, _)| id == "vpc-0000").unwrap();
    assert_eq!(
        resolved.1, 1,
        "the resolved one no longer counts, the other does"
    );
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u32>(), 4);
    let critical = resources
        .items
        .iter()
        .find(|item| &*item.urn.id == "vpc-0001")
        .unwrap();
    assert_eq!(critical.open_findings.of(Severity::Critical), 1);
    assert_eq!(critical.open_findings.of(Severity::High), 0);

    // The same from disk.
    let id = org.org();
    drop(org);
    let bench = bench.reopened().await;
    let org = bench.org_again(id).await;
    let again = org
        .resources(List {
            sort: ResourceSort::Findings,
            order: Order::Descending,
            ..List::default()
        })
        .await
        .unwrap();
    assert_eq!(again, resources);
}

#[tokio::test]
async fn the_audit_log_grows_with_each_act_and_only_with_those_that_were_committed() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let act = |n: i64| AuditAct {
        at: at(n),
        actor: Actor::Local,
        action: "org.create".into(),
        object: n.to_string(),
        detail: String::new(),
    };
    let mut heads = vec![org.audit_head().await.unwrap()];
    assert_eq!(heads[0].seq, 0);
    for n in 0..3 {
        let mut write = org.write();
        write.audit(act(n));
        write.audit(act(n + 100));
        let committed = write.commit().await.unwrap();
        assert_eq!(committed.audit, org.audit_head().await.unwrap());
        heads.push(committed.audit);
    }
    let mut refused = org.write();
    refused.audit(act(7));
    refused.advance_high_water(crate::bench::stream(1), 5, 5, crate::bench::header("5-5"));
    assert!(refused.commit().await.is_err());
    assert_eq!(
        heads.iter().map(|head| head.seq).collect::<Vec<_>>(),
        [0, 2, 4, 6]
    );
    let entries = org.audit(2, 3).await.unwrap();
    let seen: Vec<(u64, &str)> = entries
        .iter()
        .map(|entry| (entry.seq, entry.object.as_str()))
        .collect();
    assert_eq!(seen, [(2, "100"), (3, "1"), (4, "101")]);
    assert_eq!(entries[1].prev_hash, entries[0].hash);
    let verified = org.read(|reader| reader.verify_audit()).await.unwrap();
    assert_eq!(verified.unwrap(), heads[3]);
}
