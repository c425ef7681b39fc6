//! A small invented organisation to draw.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use protocol::api::{
    Agent, AgentState, Attention, Cause, CertificateInfo, ControlRef, Finding, FindingStatus, Fix,
    Org, Overview, ResourceRef, Risk, RiskFactor, Role, Severity, SpoolInfo, Transition, Verdict,
    WhoAmI,
};
use protocol::document::Gap;
use protocol::ids::{AgentId, FindingId, OrgId, UserId};
use serde_json::json;

use crate::console::event::Rows;
use crate::console::item::Item;

pub(crate) fn now() -> Timestamp {
    "2026-11-22T14:02:10Z".parse().unwrap()
}

fn hours_ago(hours: i64) -> Timestamp {
    now() - SignedDuration::from_hours(hours)
}

fn org(name: &str, role: Role) -> Org {
    Org {
        id: OrgId::derived(&[name.as_bytes()]),
        name: name.into(),
        created_at: hours_ago(1000),
        role: Some(role),
    }
}

pub(crate) fn who() -> WhoAmI {
    WhoAmI {
        user_id: UserId::derived(&[b"mira"]),
        email: "mira@acme.test".into(),
        hub_admin: false,
        orgs: vec![
            org("acme-prod", Role::Analyst),
            org("acme-lab", Role::Viewer),
        ],
    }
}

fn counts<T: Copy>(pairs: &[(&str, T)]) -> BTreeMap<String, T> {
    pairs
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

fn row(kind: &str, severity: Severity, text: &str, target: &str, hours: i64) -> Attention {
    Attention {
        kind: kind.into(),
        severity,
        text: text.into(),
        target: target.into(),
        since: hours_ago(hours),
    }
}

pub(crate) fn overview() -> Overview {
    let scope = "aws/123456789012/eu-central-1/s3.bucket";
    Overview {
        open_by_severity: counts(&[("critical", 3), ("high", 27), ("medium", 141), ("low", 241)]),
        change_24h: counts(&[("critical", 1), ("high", -4), ("medium", 2), ("low", 0)]),
        verdicts: counts(&[
            ("pass", 3120),
            ("fail", 412),
            ("unknown", 18),
            ("not_applicable", 12_725),
        ]),
        resources_by_type: counts(&[
            ("aws.iam.role", 210),
            ("aws.ec2.instance", 120),
            ("aws.ec2.security-group", 88),
            ("aws.s3.bucket", 64),
            ("gcp.storage.bucket", 12),
            ("host.machine", 9),
        ]),
        agents: counts(&[("online", 42), ("stale", 1), ("revoked", 0)]),
        events_per_minute: (0..60_u64)
            .map(|minute| if minute % 7 == 0 { 0 } else { minute * 3 })
            .collect(),
        attention: vec![
            row(
                "finding",
                Severity::Critical,
                "Root user has no access key — 123456789012",
                &finding(0).id.to_string(),
                2,
            ),
            row(
                "finding",
                Severity::Critical,
                "Snapshots are not public — snap-0f21d7",
                &finding(1).id.to_string(),
                5,
            ),
            row(
                "agent",
                Severity::High,
                "Agent eu-west-1b is silent: what it reads is no longer known",
                &agent().id.to_string(),
                30,
            ),
            row(
                "scope",
                Severity::Medium,
                "s3:GetBucketPolicy answers AccessDenied: 3 scopes unknown",
                scope,
                1,
            ),
        ],
    }
}

pub(crate) fn agent() -> Agent {
    Agent {
        id: AgentId::derived(&[b"eu-west-1b"]),
        name: "eu-west-1b".into(),
        version: "0.0.0".into(),
        state: AgentState::Stale,
        transport: "quic".into(),
        last_seen: Some(hours_ago(30)),
        spool: SpoolInfo {
            bytes: 4096,
            oldest: Some(hours_ago(31)),
        },
        sources: Vec::new(),
        certificate: CertificateInfo {
            serial: "5e11a1".into(),
            not_after: hours_ago(-700),
            warning: None,
        },
        clock_skew_ms: Some(-31),
        refused: 0,
        throttled: None,
    }
}

pub(crate) fn findings() -> Rows {
    rows((0..12).map(finding).collect())
}

pub(crate) fn rows(findings: Vec<Finding>) -> Rows {
    Rows {
        total: u64::try_from(findings.len()).unwrap(),
        items: findings
            .into_iter()
            .map(|finding| Item::Finding(Box::new(finding)))
            .collect(),
        is_cut: false,
    }
}

/// Three critical, three high, three medium, the rest low; the facts of the fifth are unknown.
pub(crate) fn finding(number: u8) -> Finding {
    let name = format!("bucket-{number:02}");
    let urn = format!("aws/123456789012/global/s3.bucket/{name}");
    let severity = match number {
        0..3 => Severity::Critical,
        3..6 => Severity::High,
        6..9 => Severity::Medium,
        _ => Severity::Low,
    };
    let is_unknown = number == 4;
    let gap = Gap {
        call: "s3:GetBucketPolicy".into(),
        error: "AccessDenied".into(),
    };
    Finding {
        id: FindingId::derived(&[urn.as_bytes()]),
        check_id: "aws.s3.bucket-public-access".into(),
        title: "Bucket is not public".into(),
        severity,
        status: FindingStatus::Open,
        verdict: if is_unknown {
            Verdict::Unknown
        } else {
            Verdict::Fail
        },
        unknown_since: is_unknown.then(|| hours_ago(3)),
        cause: Cause {
            urn: urn.clone(),
            id: "res_cause".into(),
        },
        resource: ResourceRef {
            urn,
            type_name: "aws.s3.bucket".into(),
            name,
            account: "123456789012".into(),
            region: "global".into(),
            provider: "aws".into(),
        },
        first_seen: hours_ago(2 + i64::from(number) * 7),
        last_seen: now(),
        resolved_at: None,
        evidence: BTreeMap::from([
            (
                "Policy".into(),
                json!({"Statement": [{"Effect": "Allow", "Principal": "*"}]}),
            ),
            ("PublicAccessBlockConfiguration".into(), json!(null)),
            (
                "Grants".into(),
                json!([
                    {"Grantee": {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}, "Permission": "READ"}
                ]),
            ),
        ]),
        gaps: if is_unknown {
            BTreeMap::from([("config.Policy".into(), gap)])
        } else {
            BTreeMap::new()
        },
        risk: Risk {
            score: 90,
            factors: vec![
                RiskFactor {
                    name: "severity".into(),
                    points: 80,
                    reason: "the check is of severity critical".into(),
                },
                RiskFactor {
                    name: "exposure".into(),
                    points: 10,
                    reason: "strangers can reach it".into(),
                },
            ],
        },
        controls: vec![ControlRef {
            framework: "cis-aws".into(),
            version: "3.0.0".into(),
            id: "2.1.4".into(),
        }],
        why: "Anybody on the internet can read what the bucket holds. Most leaks of cloud data \
              began with a bucket that was opened for a test and never closed."
            .into(),
        fix: Fix {
            console: "S3 > Buckets > Permissions > Block public access: switch all four on.".into(),
            cli: "aws s3api put-public-access-block --bucket <name> \\\n  --public-access-block-configuration BlockPublicAcls=true\n".into(),
            terraform: String::new(),
        },
        mute: None,
        owner: None,
        history: vec![
            Transition {
                at: hours_ago(2 + i64::from(number) * 7),
                event: "opened".into(),
                reason: "the check fails".into(),
            },
            Transition {
                at: hours_ago(1),
                event: "unknown".into(),
                reason: "s3:GetBucketPolicy answered AccessDenied".into(),
            },
        ],
    }
}
