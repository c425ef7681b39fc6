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

/// An [`EventRecord`] whose texts lie in the bytes it is decoded from: the two have one encoding.
///
/// Who only looks at events, such as an index or a search, makes no copy of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventView<'a> {
    /// See [`EventRecord::time_ms`].
    pub time_ms: i64,
    /// See [`EventRecord::class_uid`].
    pub class_uid: u32,
    /// See [`EventRecord::severity`].
    pub severity: u8,
    /// See [`EventRecord::action`].
    pub action: &'a str,
    /// See [`EventRecord::activity`].
    pub activity: &'a str,
    /// See [`EventRecord::actor`].
    pub actor: &'a str,
    /// See [`EventRecord::resource`].
    pub resource: &'a str,
    /// See [`EventRecord::src_ip`].
    pub src_ip: &'a str,
    /// See [`EventRecord::native_id`].
    pub native_id: &'a str,
    /// See [`EventRecord::raw`].
    pub raw: &'a str,
}

impl EventRecord {
    /// Returns the record without its texts' memory.
    #[must_use]
    pub fn view(&self) -> EventView<'_> {
        let Self {
            time_ms,
            class_uid,
            severity,
            action,
            activity,
            actor,
            resource,
            src_ip,
            native_id,
            raw,
        } = self;
        EventView {
            time_ms: *time_ms,
            class_uid: *class_uid,
            severity: *severity,
            action,
            activity,
            actor,
            resource,
            src_ip,
            native_id,
            raw,
        }
    }
}

impl EventView<'_> {
    /// Returns a record with memory of its own.
    #[must_use]
    pub fn to_record(&self) -> EventRecord {
        EventRecord {
            time_ms: self.time_ms,
            class_uid: self.class_uid,
            severity: self.severity,
            action: self.action.to_owned(),
            activity: self.activity.to_owned(),
            actor: self.actor.to_owned(),
            resource: self.resource.to_owned(),
            src_ip: self.src_ip.to_owned(),
            native_id: self.native_id.to_owned(),
            raw: self.raw.to_owned(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::decode_item;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_and_its_view_have_one_encoding(
            time_ms: i64, class_uid: u32, severity: u8, texts in prop::array::uniform7(".{0,12}"),
        ) {
            let [action, activity, actor, resource, src_ip, native_id, raw] = texts;
            let record = EventRecord {
                time_ms, class_uid, severity, action, activity, actor, resource, src_ip, native_id, raw,
            };
            let bytes = postcard::to_stdvec(&record).unwrap();
            prop_assert_eq!(&postcard::to_stdvec(&record.view()).unwrap(), &bytes);
            let view: EventView<'_> = decode_item(&bytes).unwrap();
            prop_assert_eq!(view, record.view());
            prop_assert_eq!(view.to_record(), record);
        }
    }
}
