//! Resources and findings, each as many as asked for: written, then listed as the API lists them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use protocol::api::{FINDING_FIELDS, RESOURCE_FIELDS};
use protocol::document::Document;
use protocol::filter::Filter;
use protocol::ids::{AgentId, SourceId};
use protocol::{Scope, Urn};
use serde_json::json;
use store::rows::finding::{Actor, Finding, FindingChange, ResourceRef, Risk, Transition};
use store::rows::resource::Provenance;
use store::rows::{FindingStatus, Severity, Verdict};
use store::{
    FindingList, FindingSort, FindingSummary, Order, OrgStore, OrgWrite, ResourceList,
    ResourceSort, ResourceSummary,
};

use crate::figure::{Figure, float, memory_mib, ms, percentile};
use crate::place::Place;

/// Rows of one write.
const WRITE_ROWS: u64 = 4_000;

/// Rows of a page: what the API shows when nobody says.
const PAGE_ROWS: usize = 100;

/// How often each question is asked.
const ROUNDS: usize = 5;

const TYPES: [(&str, &str); 8] = [
    ("aws.ec2.instance", "i-"),
    ("aws.ec2.security-group", "sg-"),
    ("aws.ec2.vpc", "vpc-"),
    ("aws.ec2.volume", "vol-"),
    ("aws.ec2.snapshot", "snap-"),
    ("aws.s3.bucket", "data-"),
    ("aws.iam.role", "role-"),
    ("aws.iam.user", "user-"),
];

const REGIONS: [&str; 5] = [
    "eu-central-1",
    "eu-west-1",
    "us-east-1",
    "us-west-2",
    "ap-southeast-1",
];

const ACCOUNTS: u64 = 25;
const TEAMS: [&str; 6] = ["payments", "search", "platform", "data", "identity", "web"];
const CHECKS: u64 = 140;

fn now() -> Timestamp {
    Timestamp::from_second(1_760_000_000).expect("a time")
}

/// One of several, picked by a number.
fn pick<T: Copy>(from: &[T], number: u64) -> T {
    let place = usize::try_from(number).unwrap_or(0) % from.len();
    *from.get(place).expect("within the list")
}

/// A number that looks like chance and is the same each time.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn urn(n: u64) -> Urn {
    let chance = mixed(n);
    let (type_name, prefix) = pick(&TYPES, chance);
    let account = format!("{:012}", 100_000_000_000 + chance / 8 % ACCOUNTS * 7_919);
    let scope = Scope::of_type(type_name, &account, pick(&REGIONS, chance / 1_000));
    scope.urn(&format!(
        "{prefix}{:017x}",
        mixed(n + 1) & 0xf_ffff_ffff_ffff
    ))
}

fn document(n: u64) -> Document {
    let (urn, chance) = (urn(n), mixed(n));
    let team = pick(&TEAMS, chance / 77);
    let name = format!("{team}-{}-{n}", pick(&["web", "api", "db", "job"], chance));
    Document {
        type_name: urn.scope.type_name(),
        provider: urn.scope.provider.clone(),
        account: urn.scope.account.clone(),
        region: urn.scope.region.clone(),
        id: urn.id.clone(),
        native_id: format!(
            "arn:aws:{}:{}:{}:thing/{}",
            urn.scope.kind.split('.').next().unwrap_or_default(),
            urn.scope.region,
            urn.scope.account,
            urn.id
        ),
        tags: Some(BTreeMap::from([
            ("Name".to_owned(), name.clone()),
            (
                "env".to_owned(),
                pick(&["prod", "stage", "dev"], chance / 5).to_owned(),
            ),
            ("team".to_owned(), team.to_owned()),
        ])),
        name,
        config: json!({
            "State": {"Name": "running", "Code": 16},
            "ImageId": format!("ami-{:017x}", chance % 400),
            "InstanceType": pick(&["t3.micro", "m6i.large", "r6g.xlarge"], chance / 9),
            "PrivateIpAddress": format!("10.{}.{}.{}", chance % 32, chance / 32 % 256, n % 256),
            "SecurityGroups": [{"GroupId": format!("sg-{:017x}", chance % 9_000)}],
            "SubnetId": format!("subnet-{:017x}", chance % 600),
            "VpcId": format!("vpc-{:017x}", chance % 60),
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 2},
            "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeId": format!("vol-{chance:017x}"), "DeleteOnTermination": true}}],
            "LaunchTime": "2026-01-01T00:00:00Z",
            "Monitoring": {"State": "disabled"},
            "EbsOptimized": true,
        }),
        gaps: BTreeMap::new(),
        links: Vec::new(),
        collected_at: now(),
        urn,
    }
}

fn finding(org: &OrgStore, n: u64) -> FindingChange {
    let (urn, chance) = (urn(n), mixed(n + 7));
    let check = chance % CHECKS;
    let check_id = format!("{}.rule-{check:03}", urn.scope.type_name());
    let severities = [
        Severity::Low,
        Severity::Medium,
        Severity::Medium,
        Severity::High,
        Severity::Critical,
    ];
    let status = match chance / 3 % 20 {
        0..17 => FindingStatus::Open,
        17..19 => FindingStatus::Resolved,
        _ => FindingStatus::Muted,
    };
    let age = SignedDuration::from_mins(i64::try_from(chance / 11 % 250_000).unwrap_or(0));
    let finding = Finding {
        id: Finding::id_of(org.org(), &check_id, &urn),
        title: format!("Rule {check} of things that should not be open to everybody"),
        severity: pick(&severities, check),
        status,
        verdict: Verdict::Fail,
        unknown_since: None,
        cause: None,
        resource: ResourceRef {
            type_name: urn.scope.type_name(),
            name: document(n).name,
            account: urn.scope.account.clone(),
            region: urn.scope.region.clone(),
            provider: urn.scope.provider.clone(),
            urn,
        },
        check_id,
        first_seen: now() - age,
        last_seen: now() - age / 4,
        resolved_at: (status == FindingStatus::Resolved).then(|| now() - age / 5),
        reopened: 0,
        evidence: BTreeMap::from([(
            "config.MetadataOptions.HttpTokens".to_owned(),
            json!("optional"),
        )]),
        gaps: BTreeMap::new(),
        facts_hash: [4; 32],
        risk: Risk {
            score: u8::try_from(chance / 13 % 101).unwrap_or(0),
            factors: Vec::new(),
        },
        mute: None,
        owner: None,
    };
    let transition = Transition {
        at: finding.first_seen,
        from: None,
        to: FindingStatus::Open,
        verdict: Verdict::Fail,
        by: Actor::Hub,
        note: String::new(),
    };
    FindingChange {
        finding,
        transition: Some(transition),
    }
}

/// Writes as many resources as asked for, and a finding on each.
pub(crate) async fn write(place: &Place, rows: u64) -> Vec<Figure> {
    let (store, org) = place.create().await;
    let began = Instant::now();
    let from = Provenance {
        agent: AgentId::from_bytes([1; 16]),
        source: SourceId::from_bytes([2; 16]),
        at: now(),
    };
    in_writes(&org, rows, |write, n| write.put_resource(document(n), from)).await;
    let resources = began.elapsed();
    let began = Instant::now();
    let of = org.clone();
    in_writes(&org, rows, move |write, n| {
        let change = finding(&of, n);
        let id = change.finding.id;
        write.update_finding(id, move |_| Some(change.clone()));
    })
    .await;
    let findings = began.elapsed();
    store.close().await;
    let rate = |took: Duration| float(rows) / took.as_secs_f64();
    vec![
        Figure::told(format!("{rows} resources written"), rate(resources), "/s"),
        Figure::told(format!("{rows} findings written"), rate(findings), "/s"),
    ]
}

/// Collects a write while the one before is committed.
async fn in_writes(org: &OrgStore, rows: u64, put: impl Fn(&mut OrgWrite, u64)) {
    let mut before: Option<tokio::task::JoinHandle<()>> = None;
    for first in (0..rows).step_by(usize::try_from(WRITE_ROWS).unwrap_or(1)) {
        let mut write = org.write();
        for n in first..rows.min(first + WRITE_ROWS) {
            put(&mut write, n);
        }
        if let Some(before) = before.take() {
            before.await.expect("it is not cancelled");
        }
        before = Some(tokio::spawn(async move {
            write.commit().await.expect("it commits");
        }));
    }
    if let Some(before) = before {
        before.await.expect("it is not cancelled");
    }
}

/// What was found and how long it took.
pub(crate) struct Asked {
    pub(crate) question: String,
    pub(crate) total: u64,
    pub(crate) shown: usize,
    pub(crate) times: Vec<Duration>,
}

/// Lists rows as the API does: a page of summaries, then the row of each.
async fn findings(org: &OrgStore, filter: &str, sort: FindingSort, order: Order) -> Asked {
    let question = format!("findings {filter:?} by {sort:?}, {order:?}");
    let parsed = Filter::parse(filter, FINDING_FIELDS, now()).expect("a filter");
    let mut list = FindingList {
        filter: (!parsed.is_empty()).then(|| -> store::Predicate<_> {
            Arc::new(move |row: &FindingSummary| parsed.matches(row))
        }),
        sort,
        order,
        limit: PAGE_ROWS,
        after: None,
    };
    let mut asked = Asked::new(question);
    for _ in 0..ROUNDS {
        let (began, wanted) = (Instant::now(), list.clone());
        let read = org.read(move |reader| {
            let page = reader.findings(&wanted)?;
            for row in &page.items {
                reader.finding(row.id)?;
                reader.finding_history(row.id)?;
            }
            Ok(page)
        });
        let page = read.await.expect("it reads");
        asked.times.push(began.elapsed());
        asked.total = page.total.unwrap_or(0);
        asked.shown = asked.shown.max(page.items.len());
        // The next page, or the first again.
        list.after = page.next;
    }
    asked
}

async fn resources(org: &OrgStore, filter: &str, sort: ResourceSort, order: Order) -> Asked {
    let question = format!("resources {filter:?} by {sort:?}, {order:?}");
    let parsed = Filter::parse(filter, RESOURCE_FIELDS, now()).expect("a filter");
    let mut list = ResourceList {
        filter: (!parsed.is_empty()).then(|| -> store::Predicate<_> {
            Arc::new(move |row: &ResourceSummary| parsed.matches(row))
        }),
        sort,
        order,
        limit: PAGE_ROWS,
        after: None,
    };
    let mut asked = Asked::new(question);
    for _ in 0..ROUNDS {
        let (began, wanted) = (Instant::now(), list.clone());
        let read = org.read(move |reader| {
            let page = reader.resources(&wanted)?;
            let urns: Vec<Urn> = page.items.iter().map(|row| row.urn.to_urn()).collect();
            reader.resources_named(&urns)?;
            Ok(page)
        });
        let page = read.await.expect("it reads");
        asked.times.push(began.elapsed());
        asked.total = page.total.unwrap_or(0);
        asked.shown = asked.shown.max(page.items.len());
        list.after = page.next;
    }
    asked
}

impl Asked {
    fn new(question: String) -> Self {
        Self {
            question,
            total: 0,
            shown: 0,
            times: Vec::new(),
        }
    }
}

/// Asks for lists in every order, with filters that pass much and little.
pub(crate) async fn read(place: &Place) -> (Vec<Figure>, Vec<Asked>) {
    use FindingSort::{Account, Check, FirstSeen, LastSeen, Resource, Risk, Severity, Status};
    use Order::{Ascending, Descending};
    let (store, org) = place.open().await;
    let began = Instant::now();
    let first = findings(&org, "", Severity, Descending).await;
    let cold = first.times.first().copied().unwrap_or_default();
    let loaded = began.elapsed();
    let mut all = Vec::new();
    let of_findings = [
        ("", Severity, Descending),
        ("severity>=high status=open", Severity, Descending),
        ("status=open account=100000007919", LastSeen, Descending),
        ("region=eu-west-1 type=aws.s3.bucket", Risk, Descending),
        ("check~rule-017", FirstSeen, Ascending),
        ("name~payments", Resource, Ascending),
        ("resource~vpc-00", Account, Ascending),
        ("everybody", Check, Ascending),
        ("risk>=90 first_seen>=30d", Status, Ascending),
        ("!status=resolved", Resource, Descending),
    ];
    for (filter, sort, order) in of_findings {
        all.push(findings(&org, filter, sort, order).await);
    }
    let of_resources = [
        ("", ResourceSort::Urn, Ascending),
        ("type=aws.ec2.instance", ResourceSort::Name, Ascending),
        ("tag:env=prod", ResourceSort::Findings, Descending),
        (
            "account=100000007919 region=us-east-1",
            ResourceSort::LastSeen,
            Descending,
        ),
        ("search-api", ResourceSort::Type, Ascending),
        ("name~platform-db", ResourceSort::FirstSeen, Descending),
        ("id~sg-0000", ResourceSort::Urn, Descending),
    ];
    for (filter, sort, order) in of_resources {
        all.push(resources(&org, filter, sort, order).await);
    }
    let times: Vec<Duration> = all.iter().flat_map(|asked| asked.times.clone()).collect();
    let rows = first.total;
    let mut figures: Vec<Figure> = all
        .iter()
        .map(|asked| {
            let what = format!("  {}: {} of them", asked.question, asked.total);
            Figure::told(what, ms(percentile(&asked.times, 50)), "ms")
        })
        .collect();
    figures.extend([
        Figure::told("the first list after a start", ms(cold), "ms"),
        Figure::told("with the pages after it", ms(loaded), "ms"),
        Figure::told(
            format!("lists over {rows} rows each, p50"),
            ms(percentile(&times, 50)),
            "ms",
        ),
        Figure::told(
            format!("lists over {rows} rows each, p95"),
            ms(percentile(&times, 95)),
            "ms",
        )
        .at_most(100.0),
        Figure::told("memory after it", memory_mib("VmRSS"), "MiB").at_most(953.7),
        Figure::told("memory at its peak", memory_mib("VmHWM"), "MiB"),
    ]);
    store.close().await;
    (figures, all)
}
