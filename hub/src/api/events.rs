//! Events: search, newest receipt first.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{DataClass, EVENT_FIELDS, EVENT_SEVERITIES, Event, Page, Problem};
use protocol::filter::{FieldValue, Filter, Row};
use protocol::ids::{EventId, SourceId};
use protocol::limits;
use store::rows::event::{EventQuery, holds_words};
use store::{OrgReader, ReadError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::{ListQuery, OrgQuery, Size};
use super::problem::{Query, Refusal, Segment};

/// Events that one request filters at most; a filter that finds nothing in them gets an empty page
/// with a cursor.
const LOOKED_THROUGH: usize = 20_000;

/// Blocks of events that one request opens at most, and whose index it reads at most.
const BLOCKS_OPENED: u64 = 2_000;
const BLOCKS_SEEN: u64 = 100_000;

/// Fewest events that the store is first asked for where a filter may drop some. Whoever needs
/// more asks for full pages: to go on in a block is to open it again.
const FIRST_ASKED: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
}

fn event_of(row: store::rows::event::Event, sources: &BTreeMap<SourceId, String>) -> Event {
    let record = row.record;
    let severity = EVENT_SEVERITIES.get(usize::from(record.severity));
    Event {
        id: row.id,
        // A time that no calendar holds was refused at the door.
        time: Timestamp::from_millisecond(record.time_ms).unwrap_or(row.received_at),
        received_at: row.received_at,
        source: sources
            .get(&row.source)
            .cloned()
            .unwrap_or_else(|| row.source.to_string()),
        class_uid: record.class_uid,
        activity: record.activity,
        actor: record.actor,
        action: record.action,
        resource: record.resource,
        src_ip: record.src_ip,
        severity: severity.copied().unwrap_or("unknown").to_owned(),
        native_id: record.native_id,
        raw: record.raw,
    }
}

fn source_names(reader: &OrgReader) -> Result<BTreeMap<SourceId, String>, ReadError> {
    let sources = reader.sources()?;
    Ok(sources
        .into_iter()
        .map(|source| (source.id, source.name))
        .collect())
}

/// An event as filters see it: bare text is looked for in it as whole words, as the store's index
/// finds them, be it wanted or not wanted (`!text`).
struct Searched<'e>(&'e Event);

impl Row for Searched<'_> {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        self.0.field(name)
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        let event = self.0;
        look(&event.raw)
            || look(&event.action)
            || look(&event.activity)
            || look(&event.actor)
            || look(&event.resource)
            || look(&event.src_ip)
            || look(&event.native_id)
    }

    fn holds_text(&self, lower: &str) -> bool {
        self.any_text(&mut |own| holds_words(own, lower))
    }
}

/// Returns what the store's index can be asked of a filter: no more than every match must have.
/// The filter has the last word on what is found.
fn query_of(filter: &Filter, limit: usize, before: Option<EventId>) -> EventQuery {
    let (since, until) = filter.time_bounds("time");
    // The store's bound is exclusive, the filter's is not.
    let until = until.and_then(|until| until.checked_add(SignedDuration::from_secs(1)).ok());
    let whole = |field| filter.required_value(field).map(str::to_owned);
    EventQuery {
        since,
        until,
        severity_at_least: filter
            .least_rank("severity")
            .and_then(|rank| u8::try_from(rank).ok()),
        text: filter.required_texts().map(str::to_owned).collect(),
        actor: whole("actor"),
        resource: whole("resource"),
        src_ip: whole("src_ip"),
        source: None,
        limit: if filter.is_empty() {
            limit
        } else {
            limit.max(FIRST_ASKED)
        },
        before,
    }
}

/// What a search has found.
pub(super) struct Found {
    pub(super) events: Vec<Event>,
    /// Where to go on; `None` at the end.
    pub(super) next: Option<EventId>,
    /// Blocks that were opened for it.
    pub(super) blocks_opened: u64,
}

/// Searches for at most `limit` events, newest receipt first, from behind `before`.
///
/// # Errors
///
/// When the store cannot be read.
pub(super) fn search(
    reader: &OrgReader,
    filter: &Filter,
    limit: usize,
    before: Option<EventId>,
) -> Result<Found, ReadError> {
    let names = source_names(reader)?;
    let mut asked = query_of(filter, limit, before);
    let mut found = Found {
        events: Vec::new(),
        next: None,
        blocks_opened: 0,
    };
    let (mut looked_through, mut blocks_seen, mut size) = (0, 0, Size::default());
    loop {
        let page = reader.search_events(&asked)?;
        found.blocks_opened += page.blocks_opened;
        blocks_seen += page.blocks_seen;
        let count = page.events.len();
        looked_through += count;
        for (index, row) in page.events.into_iter().enumerate() {
            let id = row.id;
            let event = event_of(row, &names);
            let mut is_full = false;
            if filter.matches(&Searched(&event)) {
                is_full = size.is_full_with(&event);
                found.events.push(event);
            }
            if is_full || found.events.len() == limit {
                let is_last = index + 1 == count && page.next.is_none();
                found.next = (!is_last).then_some(id);
                return Ok(found);
            }
        }
        found.next = page.next;
        if found.next.is_none()
            || looked_through >= LOOKED_THROUGH
            || found.blocks_opened >= BLOCKS_OPENED
            || blocks_seen >= BLOCKS_SEEN
        {
            return Ok(found);
        }
        asked.before = found.next;
        asked.limit = limits::PAGE_ITEMS;
    }
}

/// Returns from before when events are forgotten, if a filter asks as far back as that.
fn forgotten_before(reader: &OrgReader, filter: &Filter) -> Result<Option<Timestamp>, ReadError> {
    let (since, _) = filter.time_bounds("time");
    let line = reader.retention()?.forgotten_before(DataClass::Events);
    Ok(line.filter(|line| since.is_none_or(|since| since < *line)))
}

/// Searches events, newest receipt first. Bare text of the filter is found as whole words, letter
/// case ignored: `root` finds `login of root` and not `chroot`, `"failed login"` both words
/// together, `10.0.0.1` not `10.0.0.12`. `field~text` finds parts of words in one field, and
/// `~text` letters in their order; both read every event and take longer. `total` counts this page
/// only: how many match in all is not known before all have been read. A page may be short or
/// empty and yet not the last. Where retention has forgotten events that might have matched,
/// `forgotten_before` says from when.
#[utoipa::path(
    get, path = "/api/v1/events", operation_id = "list_events", tag = "events", params(ListQuery),
    responses(
        (status = 200, body = Page<Event>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Event>>, Refusal> {
    query.unsorted()?;
    let limit = query.limit()?;
    let filter = query.filter(EVENT_FIELDS, Timestamp::now())?;
    let before: Option<EventId> = match &query.cursor {
        None => None,
        Some(cursor) => Some(cursor.parse().map_err(|_| ReadError::Cursor)?),
    };
    let (found, forgotten_before) = member
        .store
        .read(move |reader| {
            let forgotten = forgotten_before(reader, &filter)?;
            Ok((search(reader, &filter, limit, before)?, forgotten))
        })
        .await?;
    Ok(Json(Page {
        total: found.events.len() as u64,
        items: found.events,
        next_cursor: found.next.map(|id| id.to_string()),
        forgotten_before,
    }))
}

/// Shows one event.
#[utoipa::path(
    get, path = "/api/v1/events/{id}", operation_id = "show_event", tag = "events",
    params(("id" = String, Path, description = "Its id"), OrgQuery),
    responses(
        (status = 200, body = Event),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show(
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<Event>, Refusal> {
    let id: EventId = id.parse().map_err(|_| Refusal::not_found())?;
    let event = member
        .store
        .read(move |reader| {
            let names = source_names(reader)?;
            Ok(reader.event(id)?.map(|row| event_of(row, &names)))
        })
        .await?;
    event.map(Json).ok_or_else(Refusal::not_found)
}
