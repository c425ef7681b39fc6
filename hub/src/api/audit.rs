//! Who did what, and what was refused.

use std::sync::Arc;

use axum::Json;
use jiff::Timestamp;
use protocol::api::{AuditLine, Page, Problem, QuarantinedItem};
use protocol::filter::{FieldKind, FieldSpec, FieldValue, Row};
use protocol::limits;
use store::rows::audit::AuditEntry;
use store::rows::event::QUARANTINE_ROWS;
use store::rows::finding::Actor;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::ListQuery;
use super::problem::{Query, Refusal};

/// Entries that one request looks through at most; a filter that finds nothing in them gets an
/// empty page with a cursor.
const LOOKED_THROUGH: usize = 20_000;

const fn field(name: &'static str, kind: FieldKind) -> FieldSpec {
    FieldSpec { name, kind }
}

/// Fields of an audit entry that filters know.
const AUDIT_FIELDS: &[FieldSpec] = &[
    field("seq", FieldKind::Number),
    field("at", FieldKind::Time),
    field("actor", FieldKind::Text),
    field("action", FieldKind::Text),
    field("object", FieldKind::Text),
    field("detail", FieldKind::Text),
];

/// Fields of a refused record that filters know.
const QUARANTINE_FIELDS: &[FieldSpec] = &[
    field("at", FieldKind::Time),
    field("agent", FieldKind::Text),
    field("source", FieldKind::Text),
    field("reason", FieldKind::Text),
    field("what", FieldKind::Text),
];

struct Entry(AuditLine);

impl Row for Entry {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a log has fewer than 2^52 entries"
            )]
            "seq" => Some(FieldValue::Number(self.0.seq as f64)),
            "at" => Some(FieldValue::Time(self.0.at)),
            "actor" => Some(FieldValue::Text(&self.0.actor)),
            "action" => Some(FieldValue::Text(&self.0.action)),
            "object" => Some(FieldValue::Text(&self.0.object)),
            "detail" => Some(FieldValue::Text(&self.0.detail)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.0.actor) || look(&self.0.action) || look(&self.0.object) || look(&self.0.detail)
    }
}

struct Item(QuarantinedItem);

impl Row for Item {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "at" => Some(FieldValue::Time(self.0.at)),
            "agent" => Some(FieldValue::Owned(self.0.agent_id.to_string())),
            "source" => Some(FieldValue::Owned(self.0.source_id?.to_string())),
            "reason" => Some(FieldValue::Text(&self.0.reason)),
            "what" => Some(FieldValue::Text(&self.0.what)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.0.reason) || look(&self.0.what)
    }
}

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(quarantine))
}

/// Returns what stands for an actor in the API.
pub(super) fn actor_text(actor: Actor) -> String {
    match actor {
        Actor::Hub => "hub".to_owned(),
        Actor::User(user) => user.to_string(),
        Actor::Agent(agent) => agent.to_string(),
        Actor::Local => "local".to_owned(),
    }
}

fn line_of(entry: AuditEntry) -> AuditLine {
    AuditLine {
        seq: entry.seq,
        at: entry.at,
        actor: actor_text(entry.actor),
        action: entry.action,
        object: entry.object,
        detail: entry.detail,
        hash: data_encoding::HEXLOWER.encode(&entry.hash),
    }
}

/// Lists the audit log, oldest first. The cursor is the number of the next entry. A log that begins
/// with a later entry than the first was cut there by retention.
///
/// With a filter, `total` counts this page only, and a page may be short or empty and yet not the
/// last.
#[utoipa::path(
    get, path = "/api/v1/audit", operation_id = "list_audit", tag = "audit", params(ListQuery),
    responses(
        (status = 200, body = Page<AuditLine>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<AuditLine>>, Refusal> {
    query.unsorted()?;
    let limit = query.limit()?;
    let filter = query.filter(AUDIT_FIELDS, Timestamp::now())?;
    let bad_cursor = |_| Refusal::bad_request("bad_cursor", "the cursor is an entry's number");
    let first: u64 = match &query.cursor {
        None => 1,
        Some(cursor) => cursor.parse().map_err(bad_cursor)?,
    };
    let page = member
        .store
        .read(move |reader| {
            let head = reader.audit_head()?.seq;
            // What retention has cut off is counted no more.
            let cut = reader.audit_base()?.map_or(0, |base| base.base.head.seq);
            let (mut next, mut items) = (first, Vec::new());
            let mut looked_through = 0;
            while items.len() < limit && looked_through < LOOKED_THROUGH {
                let entries = reader.audit(next, limits::PAGE_ITEMS)?;
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    if items.len() == limit {
                        break;
                    }
                    looked_through += 1;
                    next = entry.seq + 1;
                    let entry = Entry(line_of(entry));
                    if filter.matches(&entry) {
                        items.push(entry.0);
                    }
                }
            }
            let total = if filter.is_empty() {
                head.saturating_sub(cut)
            } else {
                items.len() as u64
            };
            Ok(Page {
                items,
                total,
                next_cursor: (next <= head).then(|| next.to_string()),
                forgotten_before: None,
            })
        })
        .await?;
    Ok(Json(page))
}

/// Lists records that were refused, newest first, with the reason.
#[utoipa::path(
    get, path = "/api/v1/quarantine", operation_id = "list_quarantine", tag = "audit",
    params(ListQuery),
    responses(
        (status = 200, body = Page<QuarantinedItem>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn quarantine(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<QuarantinedItem>>, Refusal> {
    let most = usize::try_from(QUARANTINE_ROWS).unwrap_or(usize::MAX);
    let rows = member.store.quarantine(most).await?;
    let items = rows
        .into_iter()
        .map(|row| {
            Item(QuarantinedItem {
                at: row.at,
                agent_id: row.agent,
                source_id: row.source,
                reason: row.reason,
                what: row.what,
            })
        })
        .collect();
    let page = query.page_of(items, QUARANTINE_FIELDS, Timestamp::now())?;
    Ok(Json(Page {
        items: page.items.into_iter().map(|item| item.0).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
        forgotten_before: None,
    }))
}
