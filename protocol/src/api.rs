//! The objects of the HTTPS API, shared by hub and console (CONTRACT, "Objects").
//!
//! Field names are a promise to scripts. Times are RFC 3339 in UTC.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::document::Gap;
use crate::filter::{FieldKind, FieldSpec, FieldValue, Row};
use crate::ids::{AgentId, EventId, FindingId, OrgId, ResourceId, SourceId, UserId};

mod delivery;
mod past;

pub use delivery::{LOSS_FIELDS, Loss, SCOPE_FIELDS, ScopeConfirm, ScopeStatus};
pub use past::{
    CHANGES, FINDING_CHANGE_FIELDS, FindingChange, RESOURCE_CHANGE_FIELDS, ResourceChange,
};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $words:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)* }

        #[doc = concat!("The words of [`", stringify!($name), "`], lowest first.")]
        pub const $words: &[&str] = &[$($word),*];

        impl $name {
            /// Returns the word that stands for it in JSON, filters and tables.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
            /// Returns what a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.word()) }
        }
    };
}

mod retention;

pub use retention::{
    CLASS_FIELDS, ClassRetention, DATA_CLASSES, DataClass, HOLD_FIELDS, Hold, HoldCreate, HoldLift,
    Purged, RetentionRan, RetentionRun, RetentionSet,
};

words! {
    /// How bad a finding is, mildest first.
    Severity, SEVERITIES {
        /// Worth knowing.
        Info = "info",
        /// Hygiene.
        Low = "low",
        /// Should be mended.
        Medium = "medium",
        /// Should be mended soon.
        High = "high",
        /// Should be mended now.
        Critical = "critical",
    }
}

words! {
    /// What a check says of a resource.
    Verdict, VERDICTS {
        /// Every fact that decides it was read, and it is as it should be.
        Pass = "pass",
        /// Every fact that decides it was read, and it is not as it should be.
        Fail = "fail",
        /// A fact that decides it could not be read.
        Unknown = "unknown",
        /// The check does not concern this resource.
        NotApplicable = "not_applicable",
        /// A person decides.
        Manual = "manual",
    }
}

words! {
    /// State of a finding.
    FindingStatus, FINDING_STATUSES {
        /// It stands.
        Open = "open",
        /// A person set it aside, with a reason and an end.
        Muted = "muted",
        /// The check passes, or the resource is gone.
        Resolved = "resolved",
    }
}

words! {
    /// State of an agent.
    AgentState, AGENT_STATES {
        /// Connected.
        Online = "online",
        /// Enrolled, not connected.
        Stale = "stale",
        /// Told to stay away for the time being.
        Suspended = "suspended",
        /// Two machines took turns with its identity; told to stay away until an operator decides.
        Quarantined = "quarantined",
        /// Refused for good.
        Revoked = "revoked",
    }
}

words! {
    /// What a user may do in an organisation, least first.
    Role, ROLES {
        /// Reads.
        Viewer = "viewer",
        /// Reads, and the audit log.
        Auditor = "auditor",
        /// Works on findings.
        Analyst = "analyst",
        /// Runs agents and sources.
        Operator = "operator",
        /// Everything in the organisation.
        Admin = "admin",
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Rows that match the filter, over all pages.
    pub total: u64,
    /// Opaque; pass as `cursor` for the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
    /// For events: the search reaches back to where events are kept no longer. Those received before
    /// this were forgotten, so that none is shown from then proves nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub forgotten_before: Option<Timestamp>,
}

/// The resource that a finding or a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceRef {
    /// URN; for a denied list, the scope's.
    pub urn: String,
    /// Full resource type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Display name.
    pub name: String,
    /// Account.
    pub account: String,
    /// Region or `global`.
    pub region: String,
    /// Provider.
    pub provider: String,
}

/// What would have to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// URN of the resource whose change would resolve the finding.
    pub urn: String,
    /// Stable id of the cause, equal for all findings that share it.
    pub id: String,
}

/// One reason for a risk score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RiskFactor {
    /// `severity`, `exposure`, `age` …
    pub name: String,
    /// Points that it adds.
    pub points: i32,
    /// Why.
    pub reason: String,
}

/// Risk of a finding, with everything that went into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, Default)]
pub struct Risk {
    /// 0 to 100.
    pub score: u8,
    /// The parts of the score.
    pub factors: Vec<RiskFactor>,
}

/// A control of a framework.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ControlRef {
    /// Framework, `cis-aws`.
    pub framework: String,
    /// Its version.
    pub version: String,
    /// The control's id.
    pub id: String,
}

/// How to mend a finding. Names from the cloud in commands are shell-quoted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Fix {
    /// Steps in the provider's console.
    #[serde(default)]
    pub console: String,
    /// Command lines.
    #[serde(default)]
    pub cli: String,
    /// Terraform.
    #[serde(default)]
    pub terraform: String,
}

/// A finding set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mute {
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}

/// One transition of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `opened`, `resolved`, `reopened`, `unknown`, `known`, `muted`, `unmuted`.
    pub event: String,
    /// Why: the check's verdict, the gap, or a person's words.
    pub reason: String,
}

/// A finding: a check that fails on a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Hash of organisation, check and URN.
    #[schema(value_type = String)]
    pub id: FindingId,
    /// The check.
    pub check_id: String,
    /// The check's title.
    pub title: String,
    /// The check's severity.
    pub severity: Severity,
    /// State.
    pub status: FindingStatus,
    /// `fail`, or `unknown` while its facts can no longer be read.
    pub verdict: Verdict,
    /// Since when the verdict is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub unknown_since: Option<Timestamp>,
    /// What would have to change.
    pub cause: Cause,
    /// The resource.
    pub resource: ResourceRef,
    /// First failing verdict.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Last failing verdict.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// When it was resolved.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resolved_at: Option<Timestamp>,
    /// Facts that decided, by path.
    #[schema(value_type = Object)]
    pub evidence: BTreeMap<String, Value>,
    /// Facts that are missing, by path.
    pub gaps: BTreeMap<String, Gap>,
    /// Risk with its factors.
    pub risk: Risk,
    /// Controls that the check serves.
    pub controls: Vec<ControlRef>,
    /// Why it matters.
    pub why: String,
    /// How to mend it.
    pub fix: Fix,
    /// Set while muted.
    pub mute: Option<Mute>,
    /// Who works on it.
    pub owner: Option<String>,
    /// Every transition, oldest first.
    pub history: Vec<Transition>,
}

/// A check as operators see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckInfo {
    /// Id.
    pub id: String,
    /// The state that passes.
    pub title: String,
    /// Severity of its findings.
    pub severity: Severity,
    /// Full resource type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Why it matters.
    pub why: String,
    /// How to mend it.
    pub fix: Fix,
    /// The expression.
    pub pass: String,
    /// Where the requirement comes from.
    pub source: String,
    /// Controls that it serves.
    pub controls: Vec<ControlRef>,
}

/// One verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    /// The check.
    pub check_id: String,
    /// The resource, or a denied scope.
    pub resource_urn: String,
    /// What the check says.
    pub verdict: Verdict,
    /// Facts that decided, by path.
    #[schema(value_type = Object)]
    pub evidence: BTreeMap<String, Value>,
    /// Facts that are missing, by path.
    pub gaps: BTreeMap<String, Gap>,
    /// When it was judged.
    #[schema(value_type = String, format = DateTime)]
    pub evaluated_at: Timestamp,
    /// Hash of the document it was judged from, hexadecimal.
    pub facts_hash: String,
}

/// A resource with its life at the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Resource {
    /// Hash of organisation and URN; `resource show` takes it or the URN.
    #[schema(value_type = String)]
    pub resource_id: ResourceId,
    /// What the agent read.
    #[serde(flatten)]
    pub document: crate::Document,
    /// When the hub first had it.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// When the hub last heard of it.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// The agent that speaks for it.
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    /// Open findings by severity.
    pub open_findings: BTreeMap<String, u64>,
}

/// What waits at an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct SpoolInfo {
    /// Bytes not yet acknowledged.
    pub bytes: u64,
    /// When the oldest of them was made.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Option<Timestamp>,
}

/// An agent's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateInfo {
    /// Serial number of the newest one, in hexadecimal digits.
    pub serial: String,
    /// End of validity.
    #[schema(value_type = String, format = DateTime)]
    pub not_after: Timestamp,
    /// In words, once it should have been renewed and its end is near.
    pub warning: Option<String>,
}

/// Since when and why the hub slows an agent down. Nothing is lost: its spool holds what waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Throttled {
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The limit that it exceeds, in a clause.
    pub reason: String,
}

/// An enrolled agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Id.
    #[schema(value_type = String)]
    pub id: AgentId,
    /// The operator's name for it.
    pub name: String,
    /// Program version.
    pub version: String,
    /// State.
    pub state: AgentState,
    /// `quic`, `tcp` or `bundle`.
    pub transport: String,
    /// When the hub last heard of it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// What waits at it.
    pub spool: SpoolInfo,
    /// Its sources.
    #[schema(value_type = Vec<String>)]
    pub sources: Vec<SourceId>,
    /// Its certificate.
    pub certificate: CertificateInfo,
    /// Its clock less the hub's, in milliseconds.
    pub clock_skew_ms: Option<i64>,
    /// Batches refused for breaking the protocol.
    pub refused: u64,
    /// Set while a quota slows it down.
    pub throttled: Option<Throttled>,
}

/// Suspends, resumes or revokes an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentAct {
    /// Why, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A source that an agent reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Source {
    /// Id.
    #[schema(value_type = String)]
    pub id: SourceId,
    /// The operator's name for it.
    pub name: String,
    /// `aws`, `gcp`, `azure`, `host`, `wazuh`.
    pub kind: String,
    /// Its agent.
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    /// `new`, `ok`, `partial` (some calls failed), `failed` or `removed`.
    pub state: String,
    /// End of the last sync.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_sync: Option<Timestamp>,
    /// What failed in the last sync: calls with their codes, or why it could not run at all.
    pub errors: Vec<String>,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditLine {
    /// Place in the chain, from 1.
    pub seq: u64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who: a user's or an agent's id, `hub`, or `local` for the hub's own command line.
    pub actor: String,
    /// What, `agent_token.create`.
    pub action: String,
    /// To what.
    pub object: String,
    /// More words.
    pub detail: String,
    /// The entry's hash, which covers the one before, hexadecimal.
    pub hash: String,
}

/// A record that was kept apart because it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuarantinedItem {
    /// When the hub took note.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The agent that it came from.
    #[schema(value_type = String)]
    pub agent_id: AgentId,
    /// The source that it came from.
    #[schema(value_type = Option<String>)]
    pub source_id: Option<SourceId>,
    /// Why.
    pub reason: String,
    /// What, shortened.
    pub what: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Block and place in it.
    #[schema(value_type = String)]
    pub id: EventId,
    /// When it happened, by the source's clock.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// When the hub stored it.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// Name of the source.
    pub source: String,
    /// OCSF class uid.
    pub class_uid: u32,
    /// Activity or outcome.
    pub activity: String,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub resource: String,
    /// From where.
    pub src_ip: String,
    /// `unknown`, `info`, `low`, `medium`, `high`, `critical`, `fatal`.
    pub severity: String,
    /// The source's own id.
    pub native_id: String,
    /// The scrubbed raw record.
    pub raw: String,
}

/// An organisation as its members see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Org {
    /// Id.
    #[schema(value_type = String)]
    pub id: OrgId,
    /// Name.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The asking user's role in it.
    pub role: Option<Role>,
}

/// Credentials of a sign-in.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// E-mail address, letter case ignored.
    pub email: String,
    /// Password.
    pub password: String,
}

/// A signed-in session.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginResponse {
    /// JWT for `Authorization: Bearer`, ten minutes.
    pub access_token: String,
    /// Single-use token for the next access token.
    pub refresh_token: String,
    /// Seconds until the access token ends.
    pub expires_in: u64,
}

/// A refresh.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// The last refresh token.
    pub refresh_token: String,
}

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// Id.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// E-mail address.
    pub email: String,
    /// May administer the hub; gives no access to data.
    pub hub_admin: bool,
    /// Organisations and roles.
    pub orgs: Vec<Org>,
}

/// A user as an admin sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Id.
    #[schema(value_type = String)]
    pub id: UserId,
    /// E-mail address.
    pub email: String,
    /// Role in the organisation asked about.
    pub role: Role,
}

/// Asks for an organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrgCreate {
    /// Its name, unique on the hub.
    pub name: String,
}

/// Asks for a user.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    /// E-mail address.
    pub email: String,
    /// Role in the organisation.
    pub role: Role,
    /// First password, at least twelve characters.
    pub password: String,
}

/// Asks for an enrolment token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Life in seconds; one hour when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// How many agents it may enrol; one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The only agent name it is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A new enrolment token. Its text is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// Id.
    pub id: String,
    /// The secret text.
    pub token: String,
    /// End of its life.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// Counts for the first screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema, Default)]
pub struct Overview {
    /// Open findings by severity.
    pub open_by_severity: BTreeMap<String, u64>,
    /// Opened less resolved in the last 24 hours, by severity.
    pub change_24h: BTreeMap<String, i64>,
    /// Verdicts by word.
    pub verdicts: BTreeMap<String, u64>,
    /// Resources by type.
    pub resources_by_type: BTreeMap<String, u64>,
    /// Agents by state.
    pub agents: BTreeMap<String, u64>,
    /// Events received per minute, the last 60, oldest first.
    pub events_per_minute: Vec<u64>,
    /// What needs a person, most urgent first, at most 20.
    pub attention: Vec<Attention>,
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attention {
    /// `finding`, `scope`, `agent`, `source`, `quarantine`, `loss`, `certificate`.
    pub kind: String,
    /// Severity.
    pub severity: Severity,
    /// One line.
    pub text: String,
    /// Id or URN to open; empty for the hub itself.
    pub target: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// An error (RFC 9457), with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// Short and general.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong here and what to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Stable word for programs.
    pub code: String,
    /// Found in the hub's log.
    pub request_id: String,
}

const fn text(name: &'static str) -> FieldSpec {
    FieldSpec {
        name,
        kind: FieldKind::Text,
    }
}

const fn time(name: &'static str) -> FieldSpec {
    FieldSpec {
        name,
        kind: FieldKind::Time,
    }
}

/// Fields of a finding that filters know.
pub const FINDING_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "severity",
        kind: FieldKind::Enum(SEVERITIES),
    },
    FieldSpec {
        name: "status",
        kind: FieldKind::Enum(FINDING_STATUSES),
    },
    FieldSpec {
        name: "verdict",
        kind: FieldKind::Enum(VERDICTS),
    },
    text("check"),
    text("title"),
    text("provider"),
    text("account"),
    text("region"),
    FieldSpec {
        name: "type",
        kind: FieldKind::Type,
    },
    text("resource"),
    text("name"),
    text("owner"),
    FieldSpec {
        name: "risk",
        kind: FieldKind::Number,
    },
    time("first_seen"),
    time("last_seen"),
    text("id"),
];

impl Row for Finding {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "severity" => FieldValue::Text(self.severity.word()),
            "status" => FieldValue::Text(self.status.word()),
            "verdict" => FieldValue::Text(self.verdict.word()),
            "check" => FieldValue::Text(&self.check_id),
            "title" => FieldValue::Text(&self.title),
            "provider" => FieldValue::Text(&self.resource.provider),
            "account" => FieldValue::Text(&self.resource.account),
            "region" => FieldValue::Text(&self.resource.region),
            "type" => FieldValue::Text(&self.resource.type_name),
            "resource" => FieldValue::Text(&self.resource.urn),
            "name" => FieldValue::Text(&self.resource.name),
            "owner" => FieldValue::Text(self.owner.as_deref()?),
            "id" => FieldValue::Owned(self.id.to_string()),
            "risk" => FieldValue::Number(f64::from(self.risk.score)),
            "first_seen" => FieldValue::Time(self.first_seen),
            "last_seen" => FieldValue::Time(self.last_seen),
            _ => return None,
        })
    }

    fn any_value(&self, name: &str, meets: &mut dyn FnMut(&FieldValue<'_>) -> bool) -> bool {
        if name != "resource" {
            return self.field(name).as_ref().is_some_and(meets);
        }
        let resource = &self.resource;
        meets(&FieldValue::Text(&resource.urn))
            || meets(&FieldValue::Text(&resource.name))
            || (self.cause.urn == resource.urn && meets(&FieldValue::Text(&self.cause.id)))
            || resource
                .urn
                .parse::<crate::Urn>()
                .is_ok_and(|urn| meets(&FieldValue::Owned(urn.id)))
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.title)
            || look(&self.check_id)
            || look(&self.resource.urn)
            || look(&self.resource.name)
            || look(&self.id.to_string())
    }
}

/// Fields of a check result that filters know.
pub const RESULT_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "verdict",
        kind: FieldKind::Enum(VERDICTS),
    },
    text("check"),
    text("resource"),
    time("evaluated_at"),
];

/// Fields of a resource that filters know.
pub const RESOURCE_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "type",
        kind: FieldKind::Type,
    },
    text("provider"),
    text("account"),
    text("region"),
    text("name"),
    text("id"),
    text("resource_id"),
    text("urn"),
    time("first_seen"),
    time("last_seen"),
];

/// Severities of events by OCSF `severity_id`, 0 to 6.
pub const EVENT_SEVERITIES: &[&str] = &[
    "unknown", "info", "low", "medium", "high", "critical", "fatal",
];

/// Fields of an event that filters know.
pub const EVENT_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "severity",
        kind: FieldKind::Enum(EVENT_SEVERITIES),
    },
    time("time"),
    time("received_at"),
    text("source"),
    FieldSpec {
        name: "class_uid",
        kind: FieldKind::Number,
    },
    text("activity"),
    text("actor"),
    text("action"),
    text("resource"),
    text("src_ip"),
    text("native_id"),
];

impl Row for Event {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "severity" => FieldValue::Text(&self.severity),
            "time" => FieldValue::Time(self.time),
            "received_at" => FieldValue::Time(self.received_at),
            "source" => FieldValue::Text(&self.source),
            "class_uid" => FieldValue::Number(f64::from(self.class_uid)),
            "activity" => FieldValue::Text(&self.activity),
            "actor" => FieldValue::Text(&self.actor),
            "action" => FieldValue::Text(&self.action),
            "resource" => FieldValue::Text(&self.resource),
            "src_ip" => FieldValue::Text(&self.src_ip),
            "native_id" => FieldValue::Text(&self.native_id),
            _ => return None,
        })
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.raw)
            || look(&self.action)
            || look(&self.actor)
            || look(&self.resource)
            || look(&self.src_ip)
    }
}

impl Row for Resource {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        let document = &self.document;
        Some(match name {
            "type" => FieldValue::Text(&document.type_name),
            "provider" => FieldValue::Text(&document.provider),
            "account" => FieldValue::Text(&document.account),
            "region" => FieldValue::Text(&document.region),
            "name" => FieldValue::Text(&document.name),
            "id" => FieldValue::Text(&document.id),
            "resource_id" => FieldValue::Owned(self.resource_id.to_string()),
            "urn" => FieldValue::Owned(document.urn.to_string()),
            "first_seen" => FieldValue::Time(self.first_seen),
            "last_seen" => FieldValue::Time(self.last_seen),
            _ => return None,
        })
    }

    fn any_value(&self, name: &str, meets: &mut dyn FnMut(&FieldValue<'_>) -> bool) -> bool {
        if !matches!(name, "id" | "resource_id") {
            return self.field(name).as_ref().is_some_and(meets);
        }
        meets(&FieldValue::Text(&self.document.id))
            || meets(&FieldValue::Text(&self.document.native_id))
            || meets(&FieldValue::Owned(self.resource_id.to_string()))
    }

    fn tag(&self, name: &str) -> Option<&str> {
        self.document.tags.as_ref()?.get(name).map(String::as_str)
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        let document = &self.document;
        look(&document.name)
            || look(&document.id)
            || look(&document.native_id)
            || look(&document.type_name)
    }
}

/// Fields of an agent that filters know.
pub const AGENT_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "state",
        kind: FieldKind::Enum(AGENT_STATES),
    },
    text("name"),
    text("version"),
    time("last_seen"),
];

impl Row for Agent {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "state" => FieldValue::Text(self.state.word()),
            "name" => FieldValue::Text(&self.name),
            "version" => FieldValue::Text(&self.version),
            "last_seen" => FieldValue::Time(self.last_seen?),
            _ => return None,
        })
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.name) || look(&self.id.to_string())
    }
}

/// Fields of a source that filters know.
pub const SOURCE_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "state",
        kind: FieldKind::Enum(&["ok", "new", "partial", "failed", "removed"]),
    },
    text("name"),
    text("kind"),
    time("last_sync"),
];

impl Row for Source {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        Some(match name {
            "state" => FieldValue::Text(&self.state),
            "name" => FieldValue::Text(&self.name),
            "kind" => FieldValue::Text(&self.kind),
            "last_sync" => FieldValue::Time(self.last_sync?),
            _ => return None,
        })
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.name) || look(&self.id.to_string()) || look(&self.kind)
    }
}
