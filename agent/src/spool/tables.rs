//! The spool's tables: key, value, meaning.
//!
//! A *position* counts the items of a lane since the file was made. It never repeats, whatever
//! happens to epochs; a sequence on the wire is a position minus the lane's base ([`LANES`]).

use redb::TableDefinition;

/// Version of the file. A newer one is refused; an older one would be migrated here.
pub(super) const FORMAT: u32 = 1;

/// Small facts about the spool itself: `format` (u32, little-endian), `birth` and `epoch` (16
/// bytes; `birth` names the file and never changes), `witness` (postcard: how far the hub has
/// come), `lost` (u64, little-endian: items lost since the file was made), `check` (a known text,
/// sealed: tells whether the key is the right one).
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// What is known of a stored batch without opening it. Key: lane number, position of its first
/// item. Value: position of its last item, bytes that it is counted with, when it was made
/// (milliseconds). Apart from [`BATCHES`], so that a walk over all of them reads little.
pub(super) const HEADS: TableDefinition<'static, (u8, u64), (u64, u64, i64)> =
    TableDefinition::new("heads");

/// The sealed frame of each batch, by the same key; bound to it, to the head and to the file.
pub(super) const BATCHES: TableDefinition<'static, (u8, u64), &[u8]> =
    TableDefinition::new("batches");

/// Per lane number: position of the next item, of the last acknowledged one, of the last that may
/// have been sent, and the base of the epoch.
pub(super) const LANES: TableDefinition<'static, u8, (u64, u64, u64, u64)> =
    TableDefinition::new("lanes");

/// When the hub acknowledged. Key: lane number, position of the last item. Value: milliseconds.
pub(super) const ACKS: TableDefinition<'static, (u8, u64), i64> = TableDefinition::new("acks");

/// The last records of items that are lost, by number. Value: postcard.
pub(super) const LOSSES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("losses");

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
