//! What a table shows of each kind of object, and the columns of its CSV. JSON carries every field.

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    /// Header.
    pub(super) title: &'static str,
    /// JSON pointer (RFC 6901) into a row.
    pub(super) pointer: &'static str,
    /// Most cells.
    pub(super) width: usize,
}

/// A kind of object: where its list is and what a table shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Path of the list.
    pub(super) path: &'static str,
    /// Columns of the table.
    pub(super) columns: &'static [Column],
    /// Columns of CSV: every field, `a.b` for `b` in `a`; what has names of its own is one cell.
    pub(super) fields: &'static [&'static str],
}

impl Kind {
    /// Returns what a table calls a field of one object. A check's title states what it demands:
    /// under `title` it would read as if the demand were met.
    pub(super) fn shown_name<'n>(&self, field: &'n str) -> &'n str {
        if self.path == FINDING.path && field == "title" {
            return "broken_rule";
        }
        field
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $path:literal { $($title:literal $pointer:literal $width:literal)* } [ $($field:literal)* ])*) => {$(
        $(#[$doc])*
        pub(super) const $name: Kind = Kind {
            path: $path,
            columns: &[$(Column { title: $title, pointer: $pointer, width: $width }),*],
            fields: &[$($field),*],
        };
    )*};
}

// Header, pointer, most cells; in the order of the table, what tells rows apart first.
kinds! {
    /// Findings.
    FINDING "/api/v1/findings" {
        "SEVERITY"       "/severity"              8
        "STATUS"         "/status"                8
        "VERDICT"        "/verdict"               7
        "RISK"           "/risk/score"            4
        "ACCOUNT"        "/resource/account"     20
        "REGION"         "/resource/region"      14
        "RESOURCE"       "/resource/name"        32
        "BROKEN RULE"    "/title"                60
        "ID"             "/id"                   30
    } [
        "id" "severity" "status" "verdict" "check_id" "title" "resource.urn"
        "resource.type" "resource.name" "resource.account" "resource.region"
        "resource.provider" "risk.score" "risk.factors" "first_seen" "last_seen"
        "resolved_at" "unknown_since" "cause.urn" "cause.id" "evidence" "gaps"
        "controls" "why" "fix.console" "fix.cli" "fix.terraform" "mute.reason" "mute.by"
        "mute.until" "owner" "history"
    ]
    /// Resources.
    RESOURCE "/api/v1/resources" {
        "TYPE"           "/type"                 36
        "NAME"           "/name"                 32
        "ACCOUNT"        "/account"              20
        "REGION"         "/region"               14
        "LAST SEEN"      "/last_seen"            20
        "URN"            "/urn"                  90
    } [
        "resource_id" "urn" "type" "name" "provider" "account" "region" "id" "native_id"
        "tags" "config" "gaps" "links" "open_findings" "agent_id" "first_seen"
        "last_seen" "collected_at"
    ]
    /// What became of resources.
    RESOURCE_CHANGE "/api/v1/resources/changes" {
        "CHANGE"         "/change"                8
        "TYPE"           "/type"                 36
        "NAME"           "/name"                 32
        "ACCOUNT"        "/account"              20
        "REGION"         "/region"               14
        "FIELDS"         "/fields"               60
    } [
        "change" "resource_id" "urn" "type" "name" "account" "region" "fields"
    ]
    /// What became of findings.
    FINDING_CHANGE "/api/v1/findings/changes" {
        "SEVERITY"       "/severity"              8
        "WAS"            "/status_before"         8
        "STATUS"         "/status"                8
        "VERDICT"        "/verdict"               7
        "BROKEN RULE"    "/title"                60
        "RESOURCE"       "/resource_urn"         60
        "ID"             "/id"                   30
    } [
        "id" "severity" "check_id" "title" "resource_urn" "status_before" "status"
        "verdict_before" "verdict" "first_seen"
    ]
    /// Agents.
    AGENT "/api/v1/agents" {
        "NAME"           "/name"                 24
        "STATE"          "/state"                11
        "VERSION"        "/version"               8
        "LAST SEEN"      "/last_seen"            20
        "SPOOL"          "/spool/bytes"          10
        "CERTIFICATE TO" "/certificate/not_after" 20
        "ID"             "/id"                   30
    } [
        "id" "name" "state" "version" "transport" "last_seen" "spool.bytes"
        "spool.oldest" "sources" "certificate.serial" "certificate.not_after"
        "certificate.warning" "clock_skew_ms" "refused"
        "throttled.since" "throttled.reason"
    ]
    /// Sources.
    SOURCE "/api/v1/sources" {
        "NAME"           "/name"                 24
        "KIND"           "/kind"                  8
        "STATE"          "/state"                 8
        "LAST SYNC"      "/last_sync"            20
        "ERRORS"         "/errors"               60
        "ID"             "/id"                   30
    } [
        "id" "name" "kind" "agent_id" "state" "last_sync" "errors"
    ]
    /// Checks.
    CHECK "/api/v1/checks" {
        "SEVERITY"       "/severity"              8
        "TYPE"           "/type"                 32
        "ID"             "/id"                   56
        "TITLE"          "/title"                80
    } [
        "id" "severity" "type" "title" "why" "pass" "source" "controls" "fix.console"
        "fix.cli" "fix.terraform"
    ]
    /// Verdicts.
    RESULT "/api/v1/check-results" {
        "VERDICT"        "/verdict"              14
        "CHECK"          "/check_id"             56
        "RESOURCE"       "/resource_urn"         90
    } [
        "verdict" "check_id" "resource_urn" "evaluated_at" "evidence" "gaps"
        "facts_hash"
    ]
    /// Events.
    EVENT "/api/v1/events" {
        "TIME"           "/time"                 20
        "SEVERITY"       "/severity"              8
        "SOURCE"         "/source"               16
        "ACTOR"          "/actor"                24
        "ADDRESS"        "/src_ip"               16
        "RESOURCE"       "/resource"             24
        "ACTION"         "/action"               70
    } [
        "id" "time" "received_at" "severity" "source" "class_uid" "activity" "actor"
        "src_ip" "resource" "action" "native_id" "raw"
    ]
    /// Organisations.
    ORG "/api/v1/orgs" {
        "NAME"           "/name"                 40
        "ROLE"           "/role"                  8
        "CREATED"        "/created_at"           20
        "ID"             "/id"                   30
    } [
        "id" "name" "role" "created_at"
    ]
    /// Users.
    USER "/api/v1/users" {
        "EMAIL"          "/email"                40
        "ROLE"           "/role"                  8
        "ID"             "/id"                   30
    } [
        "id" "email" "role"
    ]
    /// The audit log.
    AUDIT "/api/v1/audit" {
        "SEQ"            "/seq"                   8
        "AT"             "/at"                   20
        "ACTOR"          "/actor"                30
        "ACTION"         "/action"               24
        "OBJECT"         "/object"               36
        "DETAIL"         "/detail"               60
    } [
        "seq" "at" "actor" "action" "object" "detail" "hash"
    ]
    /// Records that agents lost.
    LOSS "/api/v1/losses" {
        "AT"             "/at"                   20
        "AGENT"          "/agent_id"             30
        "LANE"           "/lane"                  9
        "RECORDS"        "/records"              10
        "REASON"         "/reason"               60
    } [
        "at" "agent_id" "source_id" "lane" "records" "reason" "from" "to"
    ]
    /// Scopes.
    SCOPE "/api/v1/scopes" {
        "STATE"          "/state"                10
        "RESOURCES"      "/resources"             9
        "RETIRING"       "/retiring"              8
        "COMPLETE"       "/last_complete_at"     20
        "SCOPE"          "/scope"                80
    } [
        "scope" "type" "account" "region" "agent_id" "source_id" "state" "resources" "retiring" "gap" "last_complete_at" "last_begin_at"
    ]
    /// How long each class of data is kept.
    RETENTION "/api/v1/retention" {
        "CLASS"          "/class"                18
        "DAYS"           "/days"                  5
        "DEFAULT"        "/default_days"          7
        "HELD"           "/held"                  5
        "NEXT PURGE"     "/next_purge"           20
        "FORGOTTEN BEFORE" "/forgotten_before"   20
    } [
        "class" "days" "default_days" "least_days" "most_days" "before" "next_purge" "forgotten_before" "held"
    ]
    /// What a run of retention came to; it has no list.
    PURGED "/api/v1/retention/run" {
        "CLASS"          "/class"                18
        "BEFORE"         "/before"               20
        "ROWS"           "/rows"                 10
        "BYTES"          "/bytes"                14
        "OLDEST"         "/oldest"               20
        "HELD BY"        "/held"                 40
    } [
        "class" "before" "rows" "bytes" "oldest" "newest" "held"
    ]
    /// Legal holds.
    HOLD "/api/v1/holds" {
        "SINCE"          "/since"                20
        "CLASS"          "/class"                18
        "BY"             "/by"                   30
        "REASON"         "/reason"               40
        "ID"             "/id"                   30
    } [
        "id" "class" "reason" "by" "since"
    ]
    /// Records that could not be read.
    QUARANTINE "/api/v1/quarantine" {
        "AT"             "/at"                   20
        "AGENT"          "/agent_id"             30
        "REASON"         "/reason"               60
        "WHAT"           "/what"                 60
    } [
        "at" "agent_id" "source_id" "reason" "what"
    ]
}
