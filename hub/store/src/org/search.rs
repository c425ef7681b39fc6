//! Search over blocks of events: a small index per block says which ones need not be opened.
//!
//! The index holds times, the greatest severity, the source and a filter of words. It is
//! sealed like every row and may let a block through that holds no match; it never excludes one
//! that does.

mod index;
mod words;

use std::ops::Range as Span;

use jiff::Timestamp;
use protocol::batch::{Items, decode_item, open_payload};
use protocol::event::EventView;
use protocol::ids::{EventId, SourceId};

pub use self::index::{EventIndex, IndexBuilder};
use self::index::{Kind, hash};
pub use self::words::holds_words;
use self::words::{Term, each_word, is_same, lower};
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

/// The texts that terms are looked for in.
fn texts<'a>(event: &EventView<'a>) -> [&'a str; 7] {
    [
        event.action,
        event.activity,
        event.actor,
        event.resource,
        event.src_ip,
        event.native_id,
        event.raw,
    ]
}

/// The texts that are looked for whole.
fn wholes<'a>(event: &EventView<'a>) -> [(Kind, &'a str); 3] {
    [
        (Kind::Actor, event.actor),
        (Kind::Resource, event.resource),
        (Kind::Address, event.src_ip),
    ]
}

/// A query, prepared.
struct Wanted {
    since_ms: Option<i64>,
    until_ms: Option<i64>,
    severity_at_least: u8,
    terms: Vec<Term>,
    actor: Option<String>,
    resource: Option<String>,
    src_ip: Option<String>,
    source: Option<SourceId>,
    /// What the filter of a block must hold.
    hashes: Vec<u64>,
}

impl Wanted {
    fn new(query: &EventQuery) -> Self {
        let terms: Vec<Term> = query
            .text
            .iter()
            .filter_map(|term| Term::new(term))
            .collect();
        let mut hashes = Vec::new();
        let mut scratch = Vec::new();
        for term in &terms {
            each_word(term.lowered(), &mut scratch, |word| {
                hashes.push(hash(Kind::Word, word));
            });
        }
        let mut whole = |kind, text: &Option<String>| {
            let lowered = text.as_deref().map(|text| lower(text).into_owned());
            hashes.extend(lowered.as_deref().map(|text| hash(kind, text.as_bytes())));
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

    /// Says whether an event is wanted. `scratch` is memory to work in.
    fn matches(&self, event: &EventView<'_>, scratch: &mut String) -> bool {
        let is = |want: &Option<String>, text: &str| {
            want.as_ref().is_none_or(|want| is_same(text, want))
        };
        if self.since_ms.is_some_and(|since| event.time_ms < since)
            || self.until_ms.is_some_and(|until| event.time_ms >= until)
            || event.severity < self.severity_at_least
            || !is(&self.actor, event.actor)
            || !is(&self.resource, event.resource)
            || !is(&self.src_ip, event.src_ip)
        {
            return false;
        }
        if self.terms.is_empty() {
            return true;
        }
        scratch.clear();
        let lowered: [Span<usize>; 7] = texts(event).map(|text| {
            let start = scratch.len();
            scratch.push_str(&lower(text));
            start..scratch.len()
        });
        let mut lowered = lowered.iter().filter_map(|span| scratch.get(span.clone()));
        let texts: [&str; 7] = std::array::from_fn(|_| lowered.next().unwrap_or_default());
        self.terms
            .iter()
            .all(|term| texts.iter().any(|text| term.is_in(text)))
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
    let mut scratch = String::new();
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
            let row = view.opened(Table::BlockIndex, entry)?;
            if !EventIndex::may_hold(&row, &wanted)? {
                continue;
            }
            page.blocks_opened += 1;
            let end = before
                .take()
                .filter(|(block, _)| *block == key)
                .map(|(_, place)| place);
            let block = Block::open(view, key)?;
            let matching: Vec<(u32, EventView<'_>)> = block
                .events()
                .filter(|(place, _)| end.is_none_or(|end| *place < end))
                .filter(|(_, event)| wanted.matches(event, &mut scratch))
                .collect();
            for (place, event) in matching.into_iter().rev() {
                if page.events.len() >= limit || bytes >= PAGE_BYTES {
                    page.next = page.events.last().map(|last: &Event| last.id);
                    return Ok(page);
                }
                bytes = texts(&event)
                    .iter()
                    .fold(bytes, |sum, text| sum.saturating_add(text.len()));
                page.events.push(block.event(place, &event));
            }
        }
    }
    Ok(page)
}

/// Returns one event.
pub(super) fn event(view: &View<'_>, id: EventId) -> Result<Option<Event>, ReadError> {
    let (key, place) = BlockKey::of(id);
    if view.read.get(Table::Blocks, &key.0)?.is_none() {
        return Ok(None);
    }
    let block = Block::open(view, key)?;
    let found = block.events().find(|(at, _)| *at == place);
    Ok(found.map(|(place, event)| block.event(place, &event)))
}

fn block_key(key: &[u8]) -> Result<BlockKey, ReadError> {
    let broken = |_| ReadError::Decode {
        table: Table::BlockIndex.name(),
        reason: "its key is not that of a block".into(),
    };
    key.try_into().map(BlockKey).map_err(broken)
}

/// A block, decompressed.
struct Block {
    key: BlockKey,
    head: BlockHead,
    items: Items,
}

impl Block {
    fn open(view: &View<'_>, key: BlockKey) -> Result<Self, ReadError> {
        let broken = |reason: String| ReadError::Decode {
            table: Table::Blocks.name(),
            reason,
        };
        let Some(bytes) = view.bytes(Table::Blocks, &key.0)? else {
            return Err(broken("its index stands without it".into()));
        };
        let (head, payload): (BlockHead, &[u8]) = codec::decode_head(Table::Blocks, &bytes)?;
        let items = open_payload(payload, head.payload_bytes).map_err(|e| broken(e.to_string()))?;
        Ok(Self { key, head, items })
    }

    /// Returns its events with their places. An item that does not decode was refused when it
    /// came; its place stays empty.
    fn events(&self) -> impl Iterator<Item = (u32, EventView<'_>)> {
        let placed = (0u32..).zip(self.items.iter());
        placed.filter_map(|(place, item)| Some((place, decode_item(item).ok()?)))
    }

    fn event(&self, place: u32, event: &EventView<'_>) -> Event {
        Event {
            id: self.key.event(place),
            agent: self.head.agent,
            source: self.head.source,
            received_at: self.head.received_at,
            record: event.to_record(),
        }
    }
}

#[cfg(test)]
mod tests;
