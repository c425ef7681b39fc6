//! Posture on a real store with built-in checks: what changes must be judged, and what must not
//! be concluded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use protocol::declare::{Declarations, Reach};
use protocol::document::{Gap, Link, SetHash};
use protocol::ids::{AgentId, SourceId};
use protocol::{Document, Scope, Urn};
use rules::RuleSet;
use serde_json::{Value, json};
use store::rows::finding::Finding;
use store::rows::resource::{Coverage, Provenance, Subject, SweepEnd};
use store::rows::{FindingStatus, Verdict};
use store::{MasterKey, OrgStore, Store, StoreConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Evaluator, Passed, Shared, explain, follow};
use crate::ruleset::Rules;

const ENCRYPTED: &str = "aws.ec2.ebs-volume-encryption";
const COPIED: &str = "aws.ec2.ebs-volume-snapshots-exists";
const OLD: &str = "aws.ec2.instance-older-than-specific-days";
const VOLUME: &str = "aws.ec2.volume";
const SNAPSHOT: &str = "aws.ec2.snapshot";
const INSTANCE: &str = "aws.ec2.instance";
const BUCKET: &str = "aws.s3.bucket";
const ACCESS_POINT: &str = "aws.s3.access-point";

#[tokio::test]
async fn absence_proves_nothing_before_a_complete_sweep_nor_after_a_denied_one() {
    let mut org = org(&[COPIED]).await;
    org.sweep(VOLUME, [volume("v1", json!(true))]).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Unknown));
    assert_eq!(org.finding(COPIED, "v1").await, None);

    org.deny(SNAPSHOT).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Unknown));
    let row = org.verdict(&Subject::Resource(volume_urn("v1"))).await;
    let gaps: Vec<&Gap> = row[0].gaps.iter().map(|(_, gap)| gap).collect();
    assert_eq!(gaps[0].error, "AccessDenied", "{gaps:?}");
    assert_eq!(org.finding(COPIED, "v1").await, None);

    org.sweep(SNAPSHOT, []).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
    let finding = org.finding(COPIED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Open);

    org.deny(SNAPSHOT).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Unknown));
    let finding = org.finding(COPIED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Open);
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert!(finding.unknown_since.is_some());

    // A sweep that has begun after the denied one has not read the list yet.
    org.begin(SNAPSHOT).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Unknown));
    org.sweep(SNAPSHOT, []).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
    org.begin(SNAPSHOT).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
}

#[tokio::test]
async fn a_neighbour_that_comes_or_goes_is_judged_at_once_and_reopens() {
    let mut org = org(&[COPIED]).await;
    org.sweep(VOLUME, [volume("v1", json!(true))]).await;
    org.sweep(SNAPSHOT, []).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));

    org.sweep(SNAPSHOT, [snapshot("s1", "v1", "completed")])
        .await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Pass));
    let finding = org.finding(COPIED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Resolved);

    org.sweep(SNAPSHOT, []).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
    let finding = org.finding(COPIED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Open);
    assert_eq!(finding.reopened, 1);
    let history = org.store.finding_history(finding.id).await.unwrap();
    let notes: Vec<&str> = history.iter().map(|step| step.note.as_str()).collect();
    assert_eq!(notes, ["the check fails", "", "the check fails again"]);
}

#[tokio::test]
async fn a_link_that_is_taken_away_leads_back_to_its_former_end() {
    let mut org = org(&[COPIED]).await;
    org.sweep(
        VOLUME,
        [volume("v1", json!(true)), volume("v2", json!(true))],
    )
    .await;
    org.sweep(SNAPSHOT, [snapshot("s1", "v1", "completed")])
        .await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Pass));
    assert_eq!(org.of_volume("v2", COPIED).await, Some(Verdict::Fail));

    org.sweep(SNAPSHOT, [snapshot("s1", "v2", "completed")])
        .await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
    assert_eq!(org.of_volume("v2", COPIED).await, Some(Verdict::Pass));
}

#[tokio::test]
async fn what_another_account_says_of_a_resource_proves_nothing() {
    let mut org = org(&[COPIED]).await;
    org.sweep(VOLUME, [volume("v1", json!(true))]).await;
    org.sweep(SNAPSHOT, []).await;
    // An agent that was approved for that account alone may send this.
    let mut foreign = snapshot("s1", "v1", "completed");
    foreign.urn.scope.account = "999999999999".to_owned();
    foreign.account = "999999999999".to_owned();
    let mut write = org.store.write();
    write.begin_sweep(&foreign.urn.scope, AGENT, SOURCE, 1, org.now);
    let from = Provenance {
        agent: AGENT,
        source: SOURCE,
        at: org.now,
    };
    write.put_resource(foreign, from);
    write.commit().await.unwrap();
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
}

#[tokio::test]
async fn a_link_is_as_unread_as_the_field_that_it_is_read_from() {
    let mut org = org(&[COPIED]).await;
    org.rules = own_rule(BUCKET, "!linked_from('logs_to').exists(b, b.id != '')");
    let bucket = |id: &str| filled(BUCKET, id, json!({"Name": id}));
    let public = Subject::Resource(bucket("public").urn);
    org.sweep(BUCKET, [bucket("public"), bucket("other")]).await;
    org.judge().await;
    assert_eq!(org.verdict(&public).await[0].verdict, Verdict::Pass);

    // What no collector says in a gap of its own: where the logs of this bucket go.
    let mut silent = bucket("other");
    let config = silent.config.as_object_mut().unwrap();
    config.remove("LoggingEnabled");
    let gap = denied("s3:GetBucketLogging");
    let path = "config.LoggingEnabled".to_owned();
    silent.gaps.insert(path, gap.clone());
    org.sweep(BUCKET, [bucket("public"), silent]).await;
    org.judge().await;
    let judged = org.verdict(&public).await;
    assert_eq!(judged[0].verdict, Verdict::Unknown);
    assert_eq!(judged[0].gaps[0].1, gap);
}

#[tokio::test]
async fn a_region_that_nobody_sweeps_may_hold_what_links_to_a_global_resource() {
    let mut org = org(&[COPIED]).await;
    org.rules = own_rule(
        BUCKET,
        "linked_from('of_bucket').all(p, p.r.NetworkOrigin == 'VPC')",
    );
    let bucket = filled(BUCKET, "b", json!({"Name": "b"}));
    let about = Subject::Resource(bucket.urn.clone());
    org.sweep(BUCKET, [bucket]).await;
    org.sweep(ACCESS_POINT, []).await;
    org.judge().await;
    let judged = org.verdict(&about).await;
    assert_eq!(judged[0].verdict, Verdict::Unknown, "regions are not known");

    let account = |regions: Value| filled("aws.account", ACCOUNT, json!({"Regions": regions}));
    let here = json!({"RegionName": REGION, "OptInStatus": "opt-in-not-required"});
    let off = json!({"RegionName": "me-south-1", "OptInStatus": "not-opted-in"});
    org.sweep("aws.account", [account(json!([here, off]))])
        .await;
    org.judge().await;
    let judged = org.verdict(&about).await;
    assert_eq!(judged[0].verdict, Verdict::Pass, "{judged:?}");

    // The agent's settings name one region, the account uses two.
    let on = json!({"RegionName": "me-south-1", "OptInStatus": "opted-in"});
    org.sweep("aws.account", [account(json!([here, on]))]).await;
    org.judge().await;
    let judged = org.verdict(&about).await;
    assert_eq!(judged[0].verdict, Verdict::Unknown);
    assert_eq!(judged[0].gaps[0].1.error, "not swept in me-south-1");

    let mut unread = account(json!([]));
    unread.config.as_object_mut().unwrap().remove("Regions");
    let gap = denied("ec2:DescribeRegions");
    unread.gaps.insert("config.Regions".to_owned(), gap.clone());
    org.sweep("aws.account", [unread]).await;
    org.judge().await;
    assert_eq!(org.verdict(&about).await[0].gaps[0].1, gap);
}

#[tokio::test]
async fn links_that_were_not_read_prove_no_absence() {
    let mut org = org(&[COPIED]).await;
    org.sweep(VOLUME, [volume("v1", json!(true))]).await;
    org.sweep(SNAPSHOT, [snapshot("s1", "v2", "completed")])
        .await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));

    let mut unread = snapshot("s1", "v2", "completed");
    unread.links.clear();
    unread
        .gaps
        .insert("links".to_owned(), denied("ec2:DescribeSnapshots"));
    org.sweep(SNAPSHOT, [unread]).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Unknown));

    org.sweep(SNAPSHOT, [snapshot("s1", "v2", "completed")])
        .await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
}

#[tokio::test]
async fn a_denied_list_says_unknown_once_a_check_until_a_sweep_is_complete() {
    let mut org = org(&[ENCRYPTED, COPIED]).await;
    org.deny(VOLUME).await;
    org.judge().await;
    let about = Subject::Scope(scope(VOLUME));
    let row = org.verdict(&about).await;
    let said: Vec<(&str, Verdict)> = row
        .iter()
        .map(|judged| (judged.check_id.as_str(), judged.verdict))
        .collect();
    assert_eq!(
        said,
        [(ENCRYPTED, Verdict::Unknown), (COPIED, Verdict::Unknown)]
    );
    assert_eq!(row[0].gaps[0].1, denied("ec2:DescribeVolumes"));
    let count = org.store.read(|reader| {
        let mut count = 0;
        reader.each_finding(&mut |_| {
            count += 1;
            true
        })?;
        Ok(count)
    });
    assert_eq!(count.await.unwrap(), 0, "unknown opens no finding");

    // A sweep that has begun has read nothing yet.
    org.begin(VOLUME).await;
    org.judge().await;
    assert_eq!(org.verdict(&about).await.len(), 2);

    org.sweep(VOLUME, [volume("v1", json!(true))]).await;
    org.judge().await;
    assert!(org.verdict(&about).await.is_empty());
    assert_eq!(org.of_volume("v1", ENCRYPTED).await, Some(Verdict::Pass));
}

#[tokio::test]
async fn losing_the_right_to_read_a_field_resolves_nothing() {
    let mut org = org(&[ENCRYPTED]).await;
    org.sweep(VOLUME, [volume("v1", json!(false))]).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", ENCRYPTED).await, Some(Verdict::Fail));

    let mut unread = volume("v1", Value::Null);
    unread.config.as_object_mut().unwrap().remove("Encrypted");
    let gap = denied("ec2:DescribeVolumes");
    unread
        .gaps
        .insert("config.Encrypted".to_owned(), gap.clone());
    org.sweep(VOLUME, [unread]).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", ENCRYPTED).await, Some(Verdict::Unknown));
    let finding = org.finding(ENCRYPTED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Open);
    assert_eq!(finding.verdict, Verdict::Unknown);
    assert_eq!(finding.gaps.values().collect::<Vec<_>>(), [&gap]);
    assert_eq!(finding.evidence["Encrypted"], json!(false));

    org.sweep(VOLUME, [volume("v1", json!(true))]).await;
    org.judge().await;
    let finding = org.finding(ENCRYPTED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Resolved);
    assert_eq!(finding.unknown_since, None);
}

#[tokio::test]
async fn a_resource_that_is_gone_ends_its_findings_and_verdicts() {
    let mut org = org(&[ENCRYPTED]).await;
    org.sweep(
        VOLUME,
        [volume("v1", json!(false)), volume("v2", json!(false))],
    )
    .await;
    org.judge().await;
    org.sweep(VOLUME, [volume("v2", json!(false))]).await;
    org.judge().await;
    assert_eq!(org.of_volume("v1", ENCRYPTED).await, None);
    let finding = org.finding(ENCRYPTED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Resolved);
    let history = org.store.finding_history(finding.id).await.unwrap();
    assert_eq!(history.last().unwrap().note, "the resource is gone");
    let other = org.finding(ENCRYPTED, "v2").await.unwrap();
    assert_eq!(other.status, FindingStatus::Open);
}

#[tokio::test]
async fn a_full_sweep_and_a_judgement_of_everything_find_nothing_new() {
    let mut org = org(&[ENCRYPTED, COPIED]).await;
    let volumes = || [volume("v1", json!(false)), volume("v2", json!(true))];
    let snapshots = || [snapshot("s1", "v1", "completed")];
    org.sweep(VOLUME, volumes()).await;
    org.sweep(SNAPSHOT, snapshots()).await;
    org.deny(INSTANCE).await;
    assert!(org.judge().await);
    let before = everything(&org.store).await;
    assert!(!before.is_empty());

    let commits = *org.store.commits().borrow();
    let (passed, resources) = org.evaluator.judge_all(&org.rules, org.now).await.unwrap();
    assert_eq!((passed, resources), (Passed::default(), 3));
    assert_eq!(
        *org.store.commits().borrow(),
        commits,
        "something was written"
    );

    org.sweep(VOLUME, volumes()).await;
    org.sweep(SNAPSHOT, snapshots()).await;
    assert!(!org.judge().await);
    assert_eq!(everything(&org.store).await, before);
}

#[tokio::test]
async fn new_rules_judge_everything_again_and_end_what_withdrawn_checks_found() {
    let mut org = org(&[ENCRYPTED]).await;
    org.sweep(VOLUME, [volume("v1", json!(false))]).await;
    org.sweep(SNAPSHOT, []).await;
    org.judge().await;
    assert_eq!(org.finding(COPIED, "v1").await, None);

    org.rules = rules(&[COPIED]);
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, Some(Verdict::Fail));
    assert!(org.finding(COPIED, "v1").await.is_some());
    assert_eq!(org.of_volume("v1", ENCRYPTED).await, None);
    let finding = org.finding(ENCRYPTED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Resolved);
    let history = org.store.finding_history(finding.id).await.unwrap();
    assert_eq!(
        history.last().unwrap().note,
        "the check is no longer in force"
    );

    // Rules that are known, as after a restart, judge nothing.
    assert!(!org.judge().await);
    org.rules = rules(&[]);
    org.judge().await;
    assert_eq!(org.of_volume("v1", COPIED).await, None);
    let finding = org.finding(COPIED, "v1").await.unwrap();
    assert_eq!(finding.status, FindingStatus::Resolved);
}

#[tokio::test]
async fn a_verdict_that_falls_due_is_judged_again_although_no_fact_changed() {
    let mut org = org(&[OLD]).await;
    let launched = org.now;
    org.sweep(INSTANCE, [instance("i1", launched)]).await;
    org.judge().await;
    let about = Subject::Resource(scope(INSTANCE).urn("i1"));
    let young = org.verdict(&about).await.remove(0);
    assert_eq!(young.verdict, Verdict::Pass);
    let due = young.due_at.expect("it grows older");

    org.now = due + SignedDuration::from_secs(1);
    org.judge().await;
    let old = org.verdict(&about).await.remove(0);
    assert_eq!(old.verdict, Verdict::Fail);
    assert!(old.due_at.is_none_or(|due| due > org.now));
    let id = Finding::id_of(org.store.org(), OLD, &scope(INSTANCE).urn("i1"));
    assert!(org.store.finding(id).await.unwrap().is_some());
}

/// The clock of timers is the test's own: an hour of it takes no time.
#[tokio::test]
async fn an_organisation_without_changes_is_not_opened_until_a_verdict_falls_due() {
    let mut org = org(&[OLD]).await;
    org.sweep(INSTANCE, [instance("i1", Timestamp::now())])
        .await;
    let (_rules, in_force) = watch::channel(Arc::clone(&org.rules));
    let stop = CancellationToken::new();
    let shared = Shared {
        appliance: org.whole.appliance(),
        live: Arc::default(),
        rules: in_force,
        stop: stop.clone(),
    };
    let following = tokio::spawn(follow(org.store.clone(), shared));
    let about = Subject::Resource(scope(INSTANCE).urn("i1"));
    while org.store.verdicts(&about).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(org.store.next_due().await.unwrap().is_some());
    // Its own commits bring about another pass, a while later.
    let mut quiet = 0;
    while quiet < 300 {
        org.whole.rest_idle(Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(5)).await;
        quiet = if org.whole.open_files() == 0 {
            quiet + 1
        } else {
            0
        };
    }
    tokio::time::pause();
    for _ in 0..120 {
        tokio::time::advance(Duration::from_secs(30)).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // Whoever reads does so on a thread of its own.
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(org.whole.open_files(), 0, "it was opened for nothing");
    }
    tokio::time::resume();
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn an_explanation_has_the_evidence_of_a_verdict() {
    let mut org = org(&[ENCRYPTED, COPIED]).await;
    org.sweep(VOLUME, [volume("v1", json!(false))]).await;
    org.sweep(SNAPSHOT, [snapshot("s1", "v1", "completed")])
        .await;
    org.judge().await;
    let rules = Arc::clone(&org.rules);
    let now = org.now;
    let explained = org.store.read(move |reader| {
        let checks = [
            &**rules.set.get(ENCRYPTED).unwrap(),
            &**rules.set.get(COPIED).unwrap(),
        ];
        let there = explain(reader, &checks, &volume_urn("v1"), now)?;
        assert!(explain(reader, &checks, &volume_urn("v9"), now)?.is_empty());
        Ok(there)
    });
    let explained = explained.await.unwrap();
    assert_eq!(explained[0].verdict, rules::Verdict::Fail);
    assert_eq!(explained[0].evidence["Encrypted"], json!(false));
    assert_eq!(explained[1].verdict, rules::Verdict::Pass);
    let text = serde_json::to_string(&explained[1].evidence).unwrap();
    assert!(text.contains("ec2.snapshot/s1"), "{text}");
}

const AGENT: AgentId = AgentId::from_bytes([3; 16]);
const SOURCE: SourceId = SourceId::from_bytes([4; 16]);
const ACCOUNT: &str = "123456789012";
const REGION: &str = "eu-west-1";

struct Org {
    store: OrgStore,
    evaluator: Evaluator,
    rules: Arc<Rules>,
    now: Timestamp,
    generation: u64,
    whole: Store,
    _folder: tempfile::TempDir,
}

/// Loads some of the built-in checks.
fn rules(ids: &[&str]) -> Arc<Rules> {
    let files: Vec<(&str, &str)> = RuleSet::builtin_files()
        .into_iter()
        .filter(|(_, text)| {
            let is_wanted = |id: &&str| text.lines().any(|line| line == format!("id: {id}"));
            ids.iter().any(is_wanted)
        })
        .collect();
    assert_eq!(files.len(), ids.len(), "a check has another name");
    let set = RuleSet::load(files, Declarations::builtin()).unwrap();
    let mut hasher = blake3::Hasher::new();
    ids.iter().for_each(|id| {
        hasher.update(id.as_bytes());
    });
    Arc::new(Rules {
        set,
        fingerprint: *hasher.finalize().as_bytes(),
    })
}

/// Loads one check of a user's own.
fn own_rule(type_name: &str, pass: &str) -> Arc<Rules> {
    let text = format!(
        "
id: aws.s3.own
title: What must hold
severity: low
type: {type_name}
pass: \"{pass}\"
why: It matters.
fix: {{console: Mend it.}}
source: https://example.org
tests:
  - {{name: it holds, verdict: pass, r: {{Name: a}}}}
"
    );
    let set = RuleSet::load(vec![("own.yaml", text.as_str())], Declarations::builtin());
    Arc::new(Rules {
        set: set.unwrap(),
        fingerprint: [7; 32],
    })
}

async fn org(checks: &[&str]) -> Org {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let master = MasterKey::create(&folder.path().join("key"), &data_dir).unwrap();
    let whole = Store::create(StoreConfig::new(&data_dir), master).unwrap();
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let made = whole.appliance().create_org("Acme", now).await.unwrap();
    let store = whole.maintenance(made.id).await.unwrap().unwrap();
    let evaluator = Evaluator::new(
        whole.maintenance(made.id).await.unwrap().unwrap(),
        whole.appliance(),
    );
    Org {
        store,
        evaluator,
        rules: rules(checks),
        now,
        generation: 0,
        whole,
        _folder: folder,
    }
}

fn scope(type_name: &str) -> Scope {
    let declared = Declarations::builtin().get(type_name).unwrap();
    let region = match declared.reach {
        Reach::Global => "global",
        Reach::Region => REGION,
    };
    Scope::of_type(type_name, ACCOUNT, region)
}

fn volume_urn(id: &str) -> Urn {
    scope(VOLUME).urn(id)
}

fn document(type_name: &str, id: &str, config: Value) -> Document {
    Document {
        urn: scope(type_name).urn(id),
        type_name: type_name.to_owned(),
        provider: "aws".to_owned(),
        account: ACCOUNT.to_owned(),
        region: scope(type_name).region,
        id: id.to_owned(),
        native_id: format!("arn:aws:ec2:{REGION}:{ACCOUNT}:{id}"),
        name: id.to_owned(),
        tags: Some(BTreeMap::new()),
        config,
        gaps: BTreeMap::new(),
        links: Vec::new(),
        collected_at: Timestamp::UNIX_EPOCH,
    }
}

/// Makes a document with every declared field: those not given are null.
fn filled(type_name: &str, id: &str, given: Value) -> Document {
    let declared = Declarations::builtin().get(type_name).unwrap();
    let mut config: serde_json::Map<String, Value> = declared
        .fields
        .keys()
        .map(|field| (field.clone(), Value::Null))
        .collect();
    let Value::Object(given) = given else {
        panic!("a config is an object")
    };
    config.extend(given);
    document(type_name, id, Value::Object(config))
}

fn volume(id: &str, encrypted: Value) -> Document {
    let given =
        json!({"VolumeId": id, "Encrypted": encrypted, "State": "in-use", "Attachments": []});
    filled(VOLUME, id, given)
}

fn snapshot(id: &str, of: &str, state: &str) -> Document {
    let given = json!({
        "SnapshotId": id,
        "VolumeId": of,
        "Encrypted": true,
        "State": state,
        "CreateVolumePermissions": [],
    });
    let mut document = filled(SNAPSHOT, id, given);
    document.links.push(Link {
        rel: "of_volume".to_owned(),
        urn: volume_urn(of),
    });
    document
}

fn instance(id: &str, launched: Timestamp) -> Document {
    let given = json!({
        "InstanceId": id,
        "LaunchTime": launched.to_string(),
        "State": {"Name": "running"},
    });
    filled(INSTANCE, id, given)
}

fn denied(call: &str) -> Gap {
    Gap {
        call: call.to_owned(),
        error: "AccessDenied".to_owned(),
    }
}

/// Returns everything that judging wrote, as text.
async fn everything(store: &OrgStore) -> Vec<String> {
    let read = store.read(|reader| {
        let mut found = Vec::new();
        let page = reader.scan_verdicts(None, 1000)?;
        found.extend(page.items.iter().map(|row| format!("{row:?}")));
        let mut ids = Vec::new();
        reader.each_finding(&mut |finding| {
            ids.push(finding.id);
            found.push(format!("{finding:?}"));
            true
        })?;
        for id in ids {
            found.push(format!("{:?}", reader.finding_history(id)?));
        }
        Ok(found)
    });
    read.await.unwrap()
}

impl Org {
    /// Sweeps a scope: these are all the resources it has.
    async fn sweep<const N: usize>(&mut self, type_name: &str, documents: [Document; N]) {
        self.tick();
        let scope = scope(type_name);
        let mut claimed = SetHash::default();
        let mut write = self.store.write();
        write.begin_sweep(&scope, AGENT, SOURCE, self.generation, self.now);
        for document in documents {
            claimed.add(&document.urn.to_string(), &document.content_hash());
            let from = Provenance {
                agent: AGENT,
                source: SOURCE,
                at: self.now,
            };
            write.put_resource(document, from);
        }
        write.end_sweep(SweepEnd {
            scope,
            generation: self.generation,
            claimed,
            coverage: Coverage::Everything,
            at: self.now,
        });
        let committed = write.commit().await.unwrap();
        let result = committed.sweeps[0].result;
        assert!(
            matches!(result, store::rows::resource::SweepResult::Complete { .. }),
            "{result:?}"
        );
    }

    /// Begins a sweep and leaves it open.
    async fn begin(&mut self, type_name: &str) {
        self.tick();
        let mut write = self.store.write();
        write.begin_sweep(&scope(type_name), AGENT, SOURCE, self.generation, self.now);
        write.commit().await.unwrap();
    }

    /// Notes that a scope's list was denied.
    async fn deny(&mut self, type_name: &str) {
        self.tick();
        let scope = scope(type_name);
        let call = &Declarations::builtin().get(type_name).unwrap().call;
        let mut write = self.store.write();
        write.begin_sweep(&scope, AGENT, SOURCE, self.generation, self.now);
        write.fail_sweep(
            &scope,
            AGENT,
            SOURCE,
            self.generation,
            denied(call),
            self.now,
        );
        write.commit().await.unwrap();
    }

    fn tick(&mut self) {
        self.now += SignedDuration::from_secs(1);
        self.generation += 1;
    }

    /// Judges until nothing is left; says whether a finding changed.
    async fn judge(&mut self) -> bool {
        let mut findings = false;
        loop {
            let passed = self
                .evaluator
                .catch_up(&self.rules, self.now)
                .await
                .unwrap();
            findings |= passed.findings;
            if !passed.more {
                return findings;
            }
        }
    }

    async fn verdict(&self, about: &Subject) -> Vec<store::rows::verdict::Judged> {
        let row = self.store.verdicts(about).await.unwrap();
        row.map(|row| row.verdicts).unwrap_or_default()
    }

    async fn of_volume(&self, id: &str, check: &str) -> Option<Verdict> {
        let row = self.verdict(&Subject::Resource(volume_urn(id))).await;
        let judged = row.into_iter().find(|judged| judged.check_id == check);
        judged.map(|judged| judged.verdict)
    }

    async fn finding(&self, check: &str, volume: &str) -> Option<Finding> {
        let id = Finding::id_of(self.store.org(), check, &volume_urn(volume));
        self.store.finding(id).await.unwrap()
    }
}
