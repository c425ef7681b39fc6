//! Events: one compact record each, carried and stored in compressed blocks.
//!
//! An agent parses a raw record once: it scrubs secrets, normalises the fields below to OCSF's
//! classes and keeps the scrubbed raw text. The payload of an event batch is the zstd-compressed
//! run of its records; the hub stores exactly those bytes.

use serde::{Deserialize, Serialize};

/// One event, normalised (OCSF 1.8 class uids; an unknown class is 0, "Base Event").
///
/// Frozen with wire version 1: a change is a new type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventRecord {
    /// When it happened by the source's clock, in milliseconds since 1970 UTC.
    pub time_ms: i64,
    /// OCSF class uid, for example 3002 (Authentication) or 2004 (Detection Finding).
    pub class_uid: u32,
    /// Severity, 0 (unknown) to 6 (fatal), as OCSF `severity_id` numbers them.
    pub severity: u8,
    /// What was done, in the source's words: `sshd: brute force`, `ConsoleLogin`.
    pub action: String,
    /// OCSF activity name or the source's outcome; empty when there is none.
    pub activity: String,
    /// Who did it; empty when unknown.
    pub actor: String,
    /// What it was done to: host, ARN, file; empty when unknown.
    pub resource: String,
    /// Source address as text; empty when unknown.
    pub src_ip: String,
    /// The source's own id of the record, for de-duplication; empty when it has none.
    pub native_id: String,
    /// The scrubbed raw record.
    pub raw: String,
}

/// OCSF severity ids that checks, filters and screens share.
/// Source: OCSF 1.8 schema, attribute `severity_id`.
pub mod severity {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// Informational.
    pub const INFO: u8 = 1;
    /// Low.
    pub const LOW: u8 = 2;
    /// Medium.
    pub const MEDIUM: u8 = 3;
    /// High.
    pub const HIGH: u8 = 4;
    /// Critical.
    pub const CRITICAL: u8 = 5;
    /// Fatal.
    pub const FATAL: u8 = 6;
}
