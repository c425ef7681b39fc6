//! What is known of a block of events without opening it: times, the greatest severity, the
//! source, and a filter of words.

use protocol::event::EventView;
use protocol::ids::SourceId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::words::{each_word, lower};
use super::{Wanted, texts, wholes};
use crate::codec;
use crate::error::ReadError;
use crate::tables::Table;

/// Filter bits per word: one word in a hundred that is absent is let through.
const BITS_PER_WORD: usize = 10;

/// Bits that are set for each word.
const HASHES: u64 = 7;

/// Largest filter, in bytes. More words than it holds let more blocks through.
const FILTER_BYTES: usize = 64 << 10;

/// Places that remember which words came last. Most words of a block come again and again.
const RECENT: usize = 4096;

/// What a text in the filter is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Word,
    Actor,
    Resource,
    Address,
}

/// Hashes a lowered text of the filter. The filter is sealed and excludes blocks of its own agent
/// only, so the hash needs no key; that it is the same in every release is what counts.
pub(super) fn hash(kind: Kind, text: &[u8]) -> u64 {
    xxh3_64_with_seed(text, kind as u64)
}

/// Makes the index of a block, event by event.
#[derive(Debug)]
pub struct IndexBuilder {
    times: Option<(i64, i64)>,
    severity: u8,
    hashes: Vec<u64>,
    /// By its low bits, a hash that was seen; one that belongs to another place is none.
    recent: Vec<u64>,
    scratch: Vec<u8>,
}

impl Default for IndexBuilder {
    fn default() -> Self {
        Self {
            times: None,
            severity: 0,
            hashes: Vec::new(),
            recent: (0..).map(|place: u64| !place).take(RECENT).collect(),
            scratch: Vec::new(),
        }
    }
}

impl IndexBuilder {
    /// Adds an event.
    pub fn add(&mut self, event: &EventView<'_>) {
        let at = event.time_ms;
        let times = self.times;
        self.times = Some(times.map_or((at, at), |(from, to)| (from.min(at), to.max(at))));
        self.severity = self.severity.max(event.severity);
        let mut scratch = std::mem::take(&mut self.scratch);
        for text in texts(event) {
            each_word(text, &mut scratch, |word| self.note(hash(Kind::Word, word)));
        }
        self.scratch = scratch;
        for (kind, whole) in wholes(event) {
            self.note(hash(kind, lower(whole).as_bytes()));
        }
    }

    fn note(&mut self, hash: u64) {
        let place = usize::try_from(hash).unwrap_or(0) % RECENT;
        if let Some(recent) = self.recent.get_mut(place)
            && *recent != hash
        {
            *recent = hash;
            self.hashes.push(hash);
        }
    }

    /// Returns the index of the events that were added.
    #[must_use]
    pub fn done(mut self) -> EventIndex {
        self.hashes.sort_unstable();
        self.hashes.dedup();
        EventIndex {
            times: self.times,
            severity: self.severity,
            words: WordFilter::of(&self.hashes),
        }
    }
}

impl<'a> FromIterator<EventView<'a>> for EventIndex {
    fn from_iter<T: IntoIterator<Item = EventView<'a>>>(events: T) -> Self {
        let mut builder = IndexBuilder::default();
        events.into_iter().for_each(|event| builder.add(&event));
        builder.done()
    }
}

/// The index of a block's events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventIndex {
    times: Option<(i64, i64)>,
    severity: u8,
    words: WordFilter,
}

/// [`EventIndex`] as stored: this head, then the filter's bits.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    source: SourceId,
    /// Earliest and latest event, in milliseconds since 1970.
    times: Option<(i64, i64)>,
    /// The greatest severity.
    severity: u8,
}

impl EventIndex {
    /// Returns the row of a block's index.
    pub(crate) fn encode(&self, source: SourceId) -> Vec<u8> {
        let mut row = codec::encode(&Head {
            source,
            times: self.times,
            severity: self.severity,
        });
        row.extend_from_slice(&self.words.bits);
        row
    }

    /// Says whether a block may hold an event that is wanted, by the row of its index.
    pub(super) fn may_hold(row: &[u8], wanted: &Wanted) -> Result<bool, ReadError> {
        let (head, bits): (Head, &[u8]) = codec::decode_head(Table::BlockIndex, row)?;
        let Some((earliest, latest)) = head.times else {
            return Ok(false);
        };
        Ok(wanted.until_ms.is_none_or(|until| earliest < until)
            && wanted.since_ms.is_none_or(|since| latest >= since)
            && head.severity >= wanted.severity_at_least
            && wanted.source.is_none_or(|source| source == head.source)
            && wanted.hashes.iter().all(|hash| may_hold(bits, *hash)))
    }
}

/// A Bloom filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct WordFilter {
    bits: Vec<u8>,
}

impl WordFilter {
    fn of(hashes: &[u64]) -> Self {
        let bytes = (hashes.len() * BITS_PER_WORD).div_ceil(8).min(FILTER_BYTES);
        let mut bits = vec![0; bytes];
        for hash in hashes {
            for (place, mask) in places(*hash, bytes) {
                if let Some(byte) = bits.get_mut(place) {
                    *byte |= mask;
                }
            }
        }
        Self { bits }
    }
}

fn may_hold(bits: &[u8], hash: u64) -> bool {
    !bits.is_empty()
        && places(hash, bits.len())
            .all(|(place, mask)| bits.get(place).is_some_and(|byte| byte & mask != 0))
}

/// Returns the places and masks of a word's bits in a filter of so many bytes (double hashing:
/// Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006).
fn places(hash: u64, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
    let bits = u128::try_from(bytes).unwrap_or(0) * 8;
    let step = hash.rotate_left(32) | 1;
    (0..HASHES).filter_map(move |n| {
        let mixed = u128::from(hash.wrapping_add(step.wrapping_mul(n)));
        // The high half of the product: a number below `bits`, without a division.
        let bit = usize::try_from((mixed * bits) >> 64).ok()?;
        Some((bit / 8, 1 << (bit % 8)))
    })
}
