//! Events: search, newest receipt first.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use jiff::Timestamp;
use protocol::api::{EVENT_FIELDS, EVENT_SEVERITIES, Event, Page, Problem};
use protocol::ids::{EventId, SourceId};
use protocol::limits;
use store::rows::event::EventQuery;
use store::{OrgReader, ReadError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::{ListQuery, OrgQuery};
use super::problem::{Query, Refusal, Segment};

/// Events that one request looks through at most; a filter that finds nothing in them gets an
/// empty page with a cursor.
const LOOKED_THROUGH: usize = 20_000;

/// Pages of the store that one request asks for at most: each opens a bounded number of blocks,
/// and may find nothing in them.
const STORE_PAGES: usize = 32;

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

/// Searches events, newest receipt first. `total` counts this page only: how many match in all is
/// not known before all have been read. A page may be short or empty and yet not the last.
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
    let (since, until) = filter.time_bounds("time");
    // The store's bound is exclusive, the filter's is not; the filter has the last word.
    let until = until.and_then(|until| until.checked_add(jiff::SignedDuration::from_secs(1)).ok());
    // The index of words finds whole words, the filter also parts of them: it cannot be asked.
    let mut asked = EventQuery {
        since,
        until,
        limit: if filter.is_empty() {
            limit
        } else {
            limits::PAGE_ITEMS
        },
        before,
        ..EventQuery::default()
    };
    let page = member
        .store
        .read(move |reader| {
            let names = source_names(reader)?;
            let mut items = Vec::new();
            let mut looked_through = 0;
            let mut next = None;
            for _ in 0..STORE_PAGES {
                let page = reader.search_events(&asked)?;
                let count = page.events.len();
                for (index, row) in page.events.into_iter().enumerate() {
                    let id = row.id;
                    let event = event_of(row, &names);
                    if filter.matches(&event) {
                        items.push(event);
                    }
                    if items.len() == limit {
                        let is_last = index + 1 == count && page.next.is_none();
                        next = (!is_last).then_some(id);
                        break;
                    }
                }
                if items.len() == limit {
                    break;
                }
                looked_through += count;
                next = page.next;
                if next.is_none() || looked_through >= LOOKED_THROUGH {
                    break;
                }
                asked.before = next;
            }
            Ok(Page {
                total: items.len() as u64,
                items,
                next_cursor: next.map(|id| id.to_string()),
            })
        })
        .await?;
    Ok(Json(page))
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
