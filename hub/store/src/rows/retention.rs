//! How long each class of data is kept, what was forgotten, and the legal holds.
//!
//! ```text
//! line of a class = the last midnight (UTC) − its days     what is older is due
//! ```
//! So a class is kept for its full days and at most one more, and a day goes in one run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::ids::{HoldId, OrgId};
use serde::{Deserialize, Serialize};

pub use protocol::api::DataClass;

use super::audit::AuditHead;
use super::finding::Actor;
use super::{at, maybe_at};

/// Most legal holds of an organisation at once.
pub const HOLDS: usize = 64;

/// Longest reason of a legal hold, in bytes.
pub const HOLD_REASON_BYTES: usize = 1024;

const DAY_SECONDS: i64 = 86_400;

/// The days that can be set for a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    /// Fewest.
    pub least: u32,
    /// Where nobody has set any.
    pub usual: u32,
    /// Most: ten years, which no rule that we know of exceeds for such data.
    pub most: u32,
}

/// Returns the days that can be set for a class.
///
/// The audit log has 400 by default: the year that PCI DSS 4.0.1, requirement 10.5.1, asks for, and
/// a month in which the audit of that year can still look at its beginning. It cannot be cut below a
/// year: whoever may set it would have their own acts forgotten.
pub const fn days_of(class: DataClass) -> Days {
    let (least, usual) = match class {
        DataClass::Events
        | DataClass::ResourceHistory
        | DataClass::Findings
        | DataClass::Losses
        | DataClass::BatchHeaders => (1, 90),
        DataClass::Quarantine => (1, 30),
        DataClass::Audit => (365, 400),
    };
    Days {
        least,
        usual,
        most: 3660,
    }
}

/// A legal hold: nothing of what it covers is forgotten while it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Id.
    pub id: HoldId,
    /// The class; `None` for the whole organisation, which then cannot be purged either.
    pub class: Option<DataClass>,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub by: Actor,
    /// Since when.
    #[serde(with = "at")]
    pub since: Timestamp,
}

/// What is kept of an organisation's data, and how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    pub(crate) classes: BTreeMap<DataClass, OfClass>,
    pub(crate) holds: Vec<Hold>,
}

/// One class's part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfClass {
    pub(crate) days: Option<u32>,
    /// The greatest line behind which something was forgotten.
    #[serde(with = "maybe_at")]
    pub(crate) forgotten_before: Option<Timestamp>,
    /// Rows that a run has forgotten and that the audit log does not tell of yet.
    pub(crate) untold: u64,
}

impl Retention {
    /// Returns how many full days a class is kept.
    pub fn days(&self, class: DataClass) -> u32 {
        let set = self.classes.get(&class).and_then(|of| of.days);
        set.unwrap_or(days_of(class).usual)
    }

    /// Returns the line of a class at an instant: what is older is due.
    pub fn line(&self, class: DataClass, now: Timestamp) -> Timestamp {
        let back = i64::from(self.days(class)) * DAY_SECONDS;
        Timestamp::from_second((midnight(now) - back).max(0)).unwrap_or_default()
    }

    /// Returns when the lines move next.
    pub fn next_purge(now: Timestamp) -> Timestamp {
        Timestamp::from_second(midnight(now) + DAY_SECONDS).unwrap_or(now)
    }

    /// Returns the instant from before which something of a class was forgotten; `None` while
    /// everything there ever was is kept.
    pub fn forgotten_before(&self, class: DataClass) -> Option<Timestamp> {
        self.classes.get(&class)?.forgotten_before
    }

    /// Returns the legal holds, oldest first.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Returns a legal hold under which nothing of a class is forgotten.
    pub fn hold_on(&self, class: DataClass) -> Option<&Hold> {
        let covers = |hold: &&Hold| hold.class.is_none_or(|held| held == class);
        self.holds.iter().find(covers)
    }

    /// Says why a class cannot be kept for so many days.
    pub fn objection(&self, class: DataClass, days: u32) -> Option<String> {
        let Days { least, most, .. } = days_of(class);
        if !(least..=most).contains(&days) {
            return Some(format!("{class} are kept for {least} to {most} days"));
        }
        // An event without the header that its agent signed could not be shown to be theirs.
        let (events, headers) = match class {
            DataClass::Events => (days, self.days(DataClass::BatchHeaders)),
            DataClass::BatchHeaders => (self.days(DataClass::Events), days),
            DataClass::ResourceHistory
            | DataClass::Findings
            | DataClass::Quarantine
            | DataClass::Losses
            | DataClass::Audit => return None,
        };
        (headers < events).then(|| {
            format!(
                "batch_headers, kept for {headers} days, are the evidence of events, kept for \
                 {events}: they cannot go first"
            )
        })
    }
}

/// The second of the last midnight, UTC.
fn midnight(now: Timestamp) -> i64 {
    now.as_second().div_euclid(DAY_SECONDS) * DAY_SECONDS
}

/// What there is of a class behind its line, or what went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows; blocks, for events.
    pub rows: u64,
    /// Sealed bytes, where they were measured.
    pub bytes: u64,
    /// When the oldest is from.
    pub oldest: Option<Timestamp>,
    /// When the newest is from.
    pub newest: Option<Timestamp>,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: usize, from: Timestamp) {
        self.rows += 1;
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        self.oldest = Some(self.oldest.map_or(from, |at| at.min(from)));
        self.newest = Some(self.newest.map_or(from, |at| at.max(from)));
    }

    pub(crate) fn and(&mut self, other: &Self) {
        let least = |a: Option<Timestamp>, b: Option<Timestamp>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        self.rows += other.rows;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.oldest = least(self.oldest, other.oldest);
        self.newest = self.newest.max(other.newest);
    }
}

/// The last entry that was cut off the beginning of an audit log: what the chain now begins from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditBase {
    /// Whose log.
    pub org: OrgId,
    /// The place and hash of that entry.
    pub head: AuditHead,
    /// When it was cut, by the hub's clock.
    #[serde(with = "at")]
    pub at: Timestamp,
}

impl AuditBase {
    /// Returns the bytes that are signed. They differ from a checkpoint's: a checkpoint says that an
    /// entry was there, this that everything up to it may be missing.
    ///
    /// ```text
    /// "zero-x audit base 1" ‖ organisation 16 ‖ sequence u64 BE ‖ hash 32 ‖ milliseconds i64 BE
    /// ```
    pub fn message(&self) -> Vec<u8> {
        [
            b"zero-x audit base 1".as_slice(),
            self.org.as_bytes(),
            &self.head.seq.to_be_bytes(),
            &self.head.hash,
            &self.at.as_millisecond().to_be_bytes(),
        ]
        .concat()
    }
}

/// An audit log's base with the hub's signature over [`AuditBase::message`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBase {
    /// What is signed.
    pub base: AuditBase,
    /// The signature.
    pub signature: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_class_is_kept_for_its_full_days_and_goes_at_midnight() {
        let retention = Retention::default();
        for (now, line) in [
            ("2026-11-22T00:00:00Z", "2026-08-24T00:00:00Z"),
            ("2026-11-22T23:59:59Z", "2026-08-24T00:00:00Z"),
            ("1970-01-02T00:00:00Z", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(retention.line(DataClass::Events, at(now)), at(line));
        }
        let next = Retention::next_purge(at("2026-11-22T00:00:00Z"));
        assert_eq!(next, at("2026-11-23T00:00:00Z"));
    }

    #[test]
    fn what_cannot_be_set_is_refused_with_the_reason() {
        let retention = Retention::default();
        for class in DataClass::ALL {
            let Days { least, usual, most } = days_of(class);
            assert_eq!(retention.objection(class, usual), None);
            for days in [least - 1, most + 1] {
                let objection = retention.objection(class, days).unwrap();
                assert!(objection.contains(&format!("{least} to {most}")));
            }
        }
        for (class, days) in [(DataClass::Events, 91), (DataClass::BatchHeaders, 89)] {
            let objection = retention.objection(class, days).unwrap();
            assert!(objection.contains("evidence"), "{objection}");
        }
    }
}
