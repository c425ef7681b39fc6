//! Search over blocks of events: a small index per block says which ones need not be opened.
//!
//! The index holds times, the greatest severity, the source and a filter of words. The filter is
//! sealed like every row and may let a block through that holds no match; it never excludes one
//! that does.

use jiff::Timestamp;
use protocol::batch::{decode_item, open_payload};
use protocol::event::EventRecord;
use protocol::ids::{EventId, SourceId};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::engine::{Direction, PageSize, Range};
use crate::error::ReadError;
use crate::rows::event::{BlockHead, BlockKey, Event, EventPage, EventQuery};
use crate::tables::Table;
use crate::view::View;

/// Most events of one page.
const PAGE_EVENTS: usize = protocol::limits::PAGE_ITEMS;

/// Size at which a page ends, in bytes of the events' texts: one event may have 256 KiB.
const PAGE_BYTES: usize = 8 << 20;

/// Blocks that one page opens at most; it then ends where it is, and the next one goes on. A
/// block takes about a millisecond.
const PAGE_OPENED: u64 = 1_000;

/// Blocks whose index one page reads at most.
const PAGE_SEEN: u64 = 50_000;

/// Filter bits per word: one word in a hundred that is absent is let through.
const BITS_PER_WORD: usize = 10;

/// Bits that are set for each word.
const HASHES: u64 = 7;

/// Largest filter, in bytes. More words than it holds let more blocks through.
const FILTER_BYTES: usize = 64 << 10;

/// What is known of a block without opening it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BlockIndex {
    source: SourceId,
    /// Earliest and latest event, in milliseconds since 1970.
    times: Option<(i64, i64)>,
    /// The greatest severity.
    severity: u8,
    words: WordFilter,
}

impl BlockIndex {
    /// Makes the index of a block's records.
    pub(super) fn of<'r>(
        source: SourceId,
        records: impl IntoIterator<Item = &'r EventRecord>,
    ) -> Self {
        let mut times: Option<(i64, i64)> = None;
        let mut severity = 0;
        let mut hashes = Vec::new();
        for record in records {
            let at = record.time_ms;
            times = Some(times.map_or((at, at), |(from, to)| (from.min(at), to.max(at))));
            severity = severity.max(record.severity);
            for text in texts(record) {
                each_word(&lower(text), |word| hashes.push(hash(Kind::Word, word)));
            }
            for (kind, whole) in wholes(record) {
                hashes.push(hash(kind, &lower(whole)));
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        Self {
            source,
            times,
            severity,
            words: WordFilter::of(&hashes),
        }
    }

    /// Says whether the block may hold an event that is wanted.
    fn may_hold(&self, wanted: &Wanted) -> bool {
        let Some((earliest, latest)) = self.times else {
            return false;
        };
        wanted.until_ms.is_none_or(|until| earliest < until)
            && wanted.since_ms.is_none_or(|since| latest >= since)
            && self.severity >= wanted.severity_at_least
            && wanted.source.is_none_or(|source| source == self.source)
            && wanted.hashes.iter().all(|hash| self.words.may_hold(*hash))
    }
}

/// A Bloom filter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct WordFilter {
    bits: Vec<u8>,
}

impl WordFilter {
    fn of(hashes: &[u64]) -> Self {
        let bytes = (hashes.len() * BITS_PER_WORD).div_ceil(8).min(FILTER_BYTES);
        let mut filter = Self {
            bits: vec![0; bytes],
        };
        for hash in hashes {
            for n in 0..HASHES {
                let Some((place, mask)) = filter.bit(*hash, n) else {
                    continue;
                };
                if let Some(byte) = filter.bits.get_mut(place) {
                    *byte |= mask;
                }
            }
        }
        filter
    }

    /// Returns the place and mask of a word's n-th bit (double hashing: Kirsch and Mitzenmacher,
    /// "Less Hashing, Same Performance", 2006).
    fn bit(&self, hash: u64, n: u64) -> Option<(usize, u8)> {
        let bits = u64::try_from(self.bits.len()).ok()? * 8;
        let step = hash.rotate_left(32) | 1;
        let bit = hash.wrapping_add(step.wrapping_mul(n)).checked_rem(bits)?;
        Some((usize::try_from(bit / 8).ok()?, 1 << (bit % 8)))
    }

    fn may_hold(&self, hash: u64) -> bool {
        (0..HASHES).all(|n| {
            let bit = self.bit(hash, n);
            bit.is_some_and(|(place, mask)| {
                self.bits.get(place).is_some_and(|byte| byte & mask != 0)
            })
        })
    }
}

/// What a text in the filter is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Word,
    Actor,
    Resource,
    Address,
}

/// Hashes a text of the filter. The filter is sealed, so the hash needs no key.
fn hash(kind: Kind, text: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(text.as_bytes());
    let mut short = [0u8; 8];
    hasher.finalize_xof().fill(&mut short);
    u64::from_le_bytes(short)
}

/// Lowers every letter on its own, so that a word is lowered alike wherever it stands; the small
/// sigma has one form here.
fn lower(text: &str) -> String {
    let lowered = text.chars().flat_map(char::to_lowercase);
    lowered.map(|c| if c == 'ς' { 'σ' } else { c }).collect()
}

/// Says whether a text holds a term as a search for it means: as whole words (runs of letters and
/// digits) that stand together, without regard to case. An empty term is in every text.
pub fn holds_words(text: &str, term: &str) -> bool {
    let term = lower(term.trim());
    term.is_empty() || holds_term(&lower(text), &term)
}

/// The texts that terms are looked for in.
fn texts(record: &EventRecord) -> [&str; 7] {
    [
        &record.action,
        &record.activity,
        &record.actor,
        &record.resource,
        &record.src_ip,
        &record.native_id,
        &record.raw,
    ]
}

/// The texts that are looked for whole.
fn wholes(record: &EventRecord) -> [(Kind, &str); 3] {
    [
        (Kind::Actor, &record.actor),
        (Kind::Resource, &record.resource),
        (Kind::Address, &record.src_ip),
    ]
}

/// Calls `look` with every word of a lowered text: runs of letters and digits.
fn each_word(lowered: &str, mut look: impl FnMut(&str)) {
    for word in lowered.split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() {
            look(word);
        }
    }
}

/// Says whether a lowered text holds a lowered term as whole words.
fn holds_term(lowered: &str, term: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    lowered.match_indices(term).any(|(at, _)| {
        let before = lowered.get(..at).and_then(|text| text.chars().next_back());
        let after = lowered
            .get(at + term.len()..)
            .and_then(|text| text.chars().next());
        let cuts_before = is_word(before) && is_word(term.chars().next());
        let cuts_after = is_word(after) && is_word(term.chars().next_back());
        !cuts_before && !cuts_after
    })
}

/// A query, prepared.
struct Wanted {
    since_ms: Option<i64>,
    until_ms: Option<i64>,
    severity_at_least: u8,
    terms: Vec<String>,
    actor: Option<String>,
    resource: Option<String>,
    src_ip: Option<String>,
    source: Option<SourceId>,
    /// What the filter of a block must hold.
    hashes: Vec<u64>,
}

impl Wanted {
    fn new(query: &EventQuery) -> Self {
        let terms: Vec<String> = query
            .text
            .iter()
            .map(|term| lower(term.trim()))
            .filter(|term| !term.is_empty())
            .collect();
        let mut hashes = Vec::new();
        for term in &terms {
            each_word(term, |word| hashes.push(hash(Kind::Word, word)));
        }
        let mut whole = |kind, text: &Option<String>| {
            let lowered = text.as_deref().map(lower);
            hashes.extend(lowered.as_deref().map(|text| hash(kind, text)));
            lowered
        };
        let actor = whole(Kind::Actor, &query.actor);
        let resource = whole(Kind::Resource, &query.resource);
        let src_ip = whole(Kind::Address, &query.src_ip);
        // An event has whole milliseconds: it is at or after an instant between two of them only
        // from the later one on.
        let ceil = |at: Timestamp| {
            let nanos = at.as_nanosecond();
            i64::try_from(nanos.div_euclid(1_000_000) + i128::from(nanos.rem_euclid(1_000_000) > 0))
                .unwrap_or(i64::MAX)
        };
        Self {
            since_ms: query.since.map(ceil),
            until_ms: query.until.map(ceil),
            severity_at_least: query.severity_at_least.unwrap_or(0),
            terms,
            actor,
            resource,
            src_ip,
            source: query.source,
            hashes,
        }
    }

    fn matches(&self, record: &EventRecord) -> bool {
        let is = |want: &Option<String>, text: &str| {
            want.as_ref().is_none_or(|want| *want == lower(text))
        };
        if self.since_ms.is_some_and(|since| record.time_ms < since)
            || self.until_ms.is_some_and(|until| record.time_ms >= until)
            || record.severity < self.severity_at_least
            || !is(&self.actor, &record.actor)
            || !is(&self.resource, &record.resource)
            || !is(&self.src_ip, &record.src_ip)
        {
            return false;
        }
        if self.terms.is_empty() {
            return true;
        }
        let lowered: Vec<String> = texts(record).into_iter().map(lower).collect();
        self.terms
            .iter()
            .all(|term| lowered.iter().any(|text| holds_term(text, term)))
    }
}

/// Searches, newest receipt first.
pub(super) fn search(view: &View<'_>, query: &EventQuery) -> Result<EventPage, ReadError> {
    let wanted = Wanted::new(query);
    let limit = query.limit.clamp(1, PAGE_EVENTS);
    let mut page = EventPage {
        events: Vec::new(),
        next: None,
        blocks_seen: 0,
        blocks_opened: 0,
    };
    let mut bytes = 0usize;
    let mut rest = Range::all();
    let mut before = query.before.map(BlockKey::of);
    if let Some((block, _)) = before {
        rest = rest.before(&[block.0.as_slice(), &[0]].concat());
    }
    while !rest.is_empty() {
        let wide = PageSize::USUAL;
        let found = view
            .read
            .scan(Table::BlockIndex, &rest, Direction::Backward, wide)?;
        let Some(last) = found.last() else { break };
        rest = rest.before(&last.key);
        for entry in &found {
            let key = block_key(&entry.key)?;
            if page.events.len() >= limit
                || bytes >= PAGE_BYTES
                || page.blocks_opened >= PAGE_OPENED
                || page.blocks_seen >= PAGE_SEEN
            {
                // The highest place that a block can have, so the whole block is still to come.
                page.next = Some(key.event(u32::MAX));
                return Ok(page);
            }
            page.blocks_seen += 1;
            let index: BlockIndex = view.found(Table::BlockIndex, entry)?;
            if !index.may_hold(&wanted) {
                continue;
            }
            page.blocks_opened += 1;
            let end = before
                .take()
                .filter(|(block, _)| *block == key)
                .map(|(_, place)| place);
            let events = open_block(view, key)?;
            let matching = events
                .into_iter()
                .rev()
                .filter(|event| end.is_none_or(|end| BlockKey::of(event.id).1 < end))
                .filter(|event| wanted.matches(&event.record));
            for event in matching {
                if page.events.len() >= limit || bytes >= PAGE_BYTES {
                    page.next = page.events.last().map(|last: &Event| last.id);
                    return Ok(page);
                }
                let texts = texts(&event.record);
                bytes = texts
                    .iter()
                    .fold(bytes, |sum, text| sum.saturating_add(text.len()));
                page.events.push(event);
            }
        }
    }
    Ok(page)
}

/// Returns one event.
pub(super) fn event(view: &View<'_>, id: EventId) -> Result<Option<Event>, ReadError> {
    let (key, _) = BlockKey::of(id);
    if view.read.get(Table::Blocks, &key.0)?.is_none() {
        return Ok(None);
    }
    Ok(open_block(view, key)?
        .into_iter()
        .find(|event| event.id == id))
}

fn block_key(key: &[u8]) -> Result<BlockKey, ReadError> {
    let broken = |_| ReadError::Decode {
        table: Table::BlockIndex.name(),
        reason: "its key is not that of a block".into(),
    };
    key.try_into().map(BlockKey).map_err(broken)
}

/// Opens a block. An item that does not decode was refused when it came; its place stays empty.
fn open_block(view: &View<'_>, key: BlockKey) -> Result<Vec<Event>, ReadError> {
    let broken = |reason: String| ReadError::Decode {
        table: Table::Blocks.name(),
        reason,
    };
    let Some(bytes) = view.bytes(Table::Blocks, &key.0)? else {
        return Err(broken("its index stands without it".into()));
    };
    let (head, payload): (BlockHead, &[u8]) = codec::decode_head(Table::Blocks, &bytes)?;
    let items = open_payload(payload, head.payload_bytes).map_err(|e| broken(e.to_string()))?;
    let decoded = (0u32..).zip(items.iter()).filter_map(|(place, item)| {
        let record: EventRecord = decode_item(item).ok()?;
        Some(Event {
            id: key.event(place),
            agent: head.agent,
            source: head.source,
            received_at: head.received_at,
            record,
        })
    });
    Ok(decoded.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(raw: &str) -> EventRecord {
        EventRecord {
            raw: raw.into(),
            ..EventRecord::default()
        }
    }

    #[track_caller]
    fn check(raw: &str, term: &str, want: bool) {
        let query = EventQuery {
            text: vec![term.into()],
            ..EventQuery::default()
        };
        let wanted = Wanted::new(&query);
        let record = record(raw);
        assert_eq!(wanted.matches(&record), want, "{raw:?} {term:?}");
        assert_eq!(holds_words(raw, term), want, "{raw:?} {term:?}");
        let index = BlockIndex::of(SourceId::from_bytes([0; 16]), [&record]);
        assert!(index.may_hold(&wanted) || !want, "{raw:?} {term:?}");
    }

    #[test]
    fn a_term_is_found_as_whole_words_only() {
        check("Failed login of root", "root", true);
        check("Failed login of root", "ROOT", true);
        check("chroot jail", "root", false);
        check("rooted", "root", false);
        check("sshd: brute_force", "brute", true);
        check("login of root", "login of", true);
        check("login for root of", "login of", false);
        check("from 10.0.0.1 port 22", "10.0.0.1", true);
        check("from 110.0.0.1 port 22", "10.0.0.1", false);
        check("from 10.0.0.12 port 22", "10.0.0.1", false);
        check("aroot root", "root", true);
        check("path /etc/shadow read", "/etc/shadow", true);
        check("path /etc/shadows read", "/etc/shadow", false);
        check("ΟΔΟΣ", "οδοσ", true);
        check("ΟΔΟΣ", "οδος", true);
        check("οδός", "ΟΔΌΣ", true);
        check("a -- b", "--", true);
        check("anything", "", true);
        check("", "root", false);
    }

    #[test]
    fn an_actor_a_resource_and_an_address_are_looked_for_whole() {
        let held = EventRecord {
            actor: "arn:aws:iam::1:user/Ann".into(),
            resource: "web-1".into(),
            src_ip: "10.0.0.1".into(),
            severity: 3,
            time_ms: 1_000,
            ..EventRecord::default()
        };
        let check = |query: EventQuery, want: bool| {
            let wanted = Wanted::new(&query);
            assert_eq!(wanted.matches(&held), want, "{query:?}");
            let index = BlockIndex::of(SourceId::from_bytes([0; 16]), [&held]);
            assert!(index.may_hold(&wanted) || !want, "{query:?}");
        };
        let none = EventQuery::default;
        check(none(), true);
        check(
            EventQuery {
                actor: Some("ARN:aws:iam::1:user/ann".into()),
                ..none()
            },
            true,
        );
        check(
            EventQuery {
                actor: Some("ann".into()),
                ..none()
            },
            false,
        );
        check(
            EventQuery {
                resource: Some("web-1".into()),
                ..none()
            },
            true,
        );
        check(
            EventQuery {
                resource: Some("web".into()),
                ..none()
            },
            false,
        );
        check(
            EventQuery {
                src_ip: Some("10.0.0.1".into()),
                ..none()
            },
            true,
        );
        check(
            EventQuery {
                src_ip: Some("10.0.0".into()),
                ..none()
            },
            false,
        );
        check(
            EventQuery {
                severity_at_least: Some(3),
                ..none()
            },
            true,
        );
        check(
            EventQuery {
                severity_at_least: Some(4),
                ..none()
            },
            false,
        );
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        check(
            EventQuery {
                since: at("1970-01-01T00:00:01Z"),
                ..none()
            },
            true,
        );
        check(
            EventQuery {
                since: at("1970-01-01T00:00:01.0001Z"),
                ..none()
            },
            false,
        );
        check(
            EventQuery {
                until: at("1970-01-01T00:00:01Z"),
                ..none()
            },
            false,
        );
        check(
            EventQuery {
                until: at("1970-01-01T00:00:01.0001Z"),
                ..none()
            },
            true,
        );
    }

    #[test]
    fn the_filter_lets_few_absent_words_through() {
        let present: Vec<String> = (0..5_000).map(|n| format!("word{n}")).collect();
        let record = record(&present.join(" "));
        let index = BlockIndex::of(SourceId::from_bytes([0; 16]), [&record]);
        let asks = |word: String| {
            Wanted::new(&EventQuery {
                text: vec![word],
                ..EventQuery::default()
            })
        };
        assert!(present.into_iter().all(|word| index.may_hold(&asks(word))));
        let through = (0..10_000)
            .filter(|n| index.may_hold(&asks(format!("absent{n}"))))
            .count();
        assert!(
            through < 200,
            "{through} of 10,000 absent words are let through"
        );
    }

    proptest! {
        #[test]
        fn the_index_never_excludes_a_block_that_holds_a_match(
            texts in proptest::collection::vec(
                proptest::string::string_regex("[aAbBİßΣς0-9._/ \u{301}-]{0,12}").unwrap(), 1..5),
            term in proptest::string::string_regex("[aAbBİßΣς0-9._/ -]{0,4}").unwrap(),
            by_actor: bool,
            severity in 0u8..7,
        ) {
            let records: Vec<EventRecord> = texts
                .iter()
                .map(|text| EventRecord {
                    actor: text.clone(), raw: text.clone(), severity, ..EventRecord::default()
                })
                .collect();
            let index = BlockIndex::of(SourceId::from_bytes([0; 16]), &records);
            let mut query = EventQuery::default();
            if by_actor {
                query.actor = Some(term);
            } else {
                query.text = vec![term];
            }
            let wanted = Wanted::new(&query);
            if records.iter().any(|record| wanted.matches(record)) {
                prop_assert!(index.may_hold(&wanted));
            }
        }
    }
}
