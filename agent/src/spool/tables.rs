//! The spool's tables: key, value, meaning.

use redb::TableDefinition;

/// Version of the file. A newer one is refused; an older one would be migrated here.
pub(super) const FORMAT: u32 = 1;

/// Small facts about the spool itself: `format` (u32, little-endian), `epoch` (16 bytes),
/// `witness` (postcard: how far the hub has come), `check` (a known text, sealed: tells whether the
/// key is the right one).
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Waiting batches. Key: lane number, sequence of the first item. Value: when it was made
/// (milliseconds, i64) ‖ sequence of its last item (u64), both little-endian ‖ the sealed frame,
/// bound to both and to its key and epoch.
pub(super) const BATCHES: TableDefinition<'static, (u8, u64), &[u8]> =
    TableDefinition::new("batches");

/// Per lane number: the sequence of the next item.
pub(super) const LANES: TableDefinition<'static, u8, u64> = TableDefinition::new("lanes");

/// Sealed cursors of tails, by source id.
pub(super) const CURSORS: TableDefinition<'static, &[u8; 16], &[u8]> =
    TableDefinition::new("cursors");

/// What the hub was told of each resource. Key: scope, id. Value: sealed content hash.
pub(super) const CONTENTS: TableDefinition<'static, (&str, &str), &[u8]> =
    TableDefinition::new("contents");

/// Per scope: the parts that the hub asked for and that no sweep has sent since, postcard.
pub(super) const REPAIRS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("repairs");

/// Per scope: the generation of its last sweep.
pub(super) const GENERATIONS: TableDefinition<'static, &str, u64> =
    TableDefinition::new("generations");
