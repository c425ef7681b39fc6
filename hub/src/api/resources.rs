//! Resources: what exists, as the agents read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use jiff::Timestamp;
use protocol::api::{DataClass, Page, Problem, RESOURCE_FIELDS, Resource, Severity};
use protocol::ids::ResourceId;
use protocol::urn::Urn;
use store::{
    OpenFindings, Order, OrgReader, ReadError, ResourceList, ResourceSort, ResourceSummary,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::{OrgQuery, Size};
use super::past::{self, AsOfQuery};
use super::problem::{Query, Refusal, Segment};

/// Severities, worst first.
const WORST_FIRST: [Severity; 5] = [
    Severity::Critical,
    Severity::High,
    Severity::Medium,
    Severity::Low,
    Severity::Info,
];

/// Documents that are read at once: one may have a megabyte.
const ROWS_AT_ONCE: usize = 16;

/// What a list of resources can be sorted by.
const SORTS: &[(&str, ResourceSort)] = &[
    ("urn", ResourceSort::Urn),
    ("name", ResourceSort::Name),
    ("type", ResourceSort::Type),
    ("first_seen", ResourceSort::FirstSeen),
    ("last_seen", ResourceSort::LastSeen),
    ("findings", ResourceSort::Findings),
];

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
}

fn by_severity(count: impl Fn(Severity) -> u64) -> BTreeMap<String, u64> {
    WORST_FIRST
        .into_iter()
        .map(|severity| (severity.word().to_owned(), count(severity)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn from_summary(open: OpenFindings) -> BTreeMap<String, u64> {
    by_severity(|severity| u64::from(open.of(severity)))
}

fn resource_of(
    id: ResourceId,
    row: store::rows::resource::Resource,
    open_findings: BTreeMap<String, u64>,
) -> Resource {
    Resource {
        resource_id: id,
        document: row.document,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        agent_id: row.agent,
        open_findings,
    }
}

/// Lists the resources that exist, or existed at an instant.
#[utoipa::path(
    get, path = "/api/v1/resources", operation_id = "list_resources", tag = "resources",
    params(AsOfQuery),
    responses(
        (status = 200, body = Page<Resource>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    member: Member,
    Query(query): Query<AsOfQuery>,
) -> Result<Json<Page<Resource>>, Refusal> {
    let (query, as_of) = query.split()?;
    let filter = query.filter(RESOURCE_FIELDS, Timestamp::now())?;
    let sort = query.sort(SORTS)?;
    let (sort, order) = sort.unwrap_or((ResourceSort::Urn, Order::Ascending));
    let list = ResourceList {
        filter: (!filter.is_empty()).then(|| -> store::Predicate<_> {
            Arc::new(move |row: &ResourceSummary| filter.matches(row))
        }),
        sort,
        order,
        limit: query.limit()?,
        after: query.cursor,
    };
    let turn = past::turn(as_of).await;
    let page = member
        .store
        .read(move |reader| {
            let _turn = turn;
            let forgotten_before =
                past::forgotten_before(reader, DataClass::ResourceHistory, as_of)?;
            let page = match as_of {
                Some(at) => reader.as_of(at)?.resources(&list)?,
                None => reader.resources(&list)?,
            };
            let (mut items, mut size, mut shown) = (Vec::new(), Size::default(), 0);
            'page: for part in page.items.chunks(ROWS_AT_ONCE) {
                let urns: Vec<Urn> = part.iter().map(|item| item.urn.to_urn()).collect();
                let rows = match as_of {
                    Some(at) => urns
                        .iter()
                        .map(|urn| reader.resource_as_of(urn, at))
                        .collect::<Result<Vec<_>, _>>()?,
                    None => reader.resources_named(&urns)?,
                };
                for (summary, row) in part.iter().zip(rows) {
                    shown += 1;
                    // The columns follow the commits; a row may have gone between the two.
                    let Some(row) = row else { continue };
                    let open = from_summary(summary.open_findings);
                    let item = resource_of(summary.id, row, open);
                    let is_full = size.is_full_with(&item);
                    items.push(item);
                    if is_full {
                        break 'page;
                    }
                }
            }
            let next = match page.items.get(..shown).and_then(<[_]>::last) {
                Some(last) if shown < page.items.len() => Some(list.cursor_after(last)),
                Some(_) | None => page.next,
            };
            Ok(Page {
                total: page.total.unwrap_or(items.len() as u64),
                items,
                next_cursor: next,
                forgotten_before,
            })
        })
        .await?;
    Ok(Json(page))
}

/// What a name stands for.
enum Named {
    None,
    One(Box<store::rows::resource::Resource>),
    /// The URNs of two of them.
    Many(Box<(Urn, Urn)>),
}

/// Finds a resource by its id, its URN, or an id of the provider's that only one has.
fn named(reader: &OrgReader, name: &str) -> Result<Named, ReadError> {
    let row = match (name.parse::<ResourceId>(), name.parse::<Urn>()) {
        (Ok(id), _) => reader.resource_by_id(id)?,
        (Err(_), Ok(urn)) => reader.resource(&urn)?,
        (Err(_), Err(_)) => None,
    };
    if let Some(row) = row {
        return Ok(Named::One(Box::new(row)));
    }
    let wanted = name.to_owned();
    let page = reader.resources(&ResourceList {
        filter: Some(Arc::new(move |row: &ResourceSummary| {
            *row.urn.id == *wanted || *row.native_id == *wanted
        })),
        limit: 2,
        ..ResourceList::default()
    })?;
    Ok(match page.items.as_slice() {
        [] => Named::None,
        [only] => reader
            .resource(&only.urn.to_urn())?
            .map_or(Named::None, |row| Named::One(Box::new(row))),
        [first, second, ..] => Named::Many(Box::new((first.urn.to_urn(), second.urn.to_urn()))),
    })
}

/// Shows one resource, by id, by URN (percent-encoded in the path), or by an id of the provider's
/// that no other resource of the organisation has.
#[utoipa::path(
    get, path = "/api/v1/resources/{id}", operation_id = "show_resource", tag = "resources",
    params(("id" = String, Path, description = "Its id, its URN, or its provider's id where only one has it"), OrgQuery),
    responses(
        (status = 200, body = Resource),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show(
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<Resource>, Refusal> {
    let resource = member
        .store
        .read(move |reader| {
            let row = match named(reader, &id)? {
                Named::One(row) => *row,
                Named::None => return Ok(Ok(None)),
                Named::Many(urns) => return Ok(Err(urns)),
            };
            // What is gone is no longer shown: its findings and history still are.
            if row.retired_at.is_some() {
                return Ok(Ok(None));
            }
            let urn = row.document.urn.clone();
            let id = store::rows::resource::Resource::id_of(reader.org(), &urn);
            let open = from_summary(reader.open_findings(id)?);
            Ok(Ok(Some(resource_of(id, row, open))))
        })
        .await?;
    let resource = resource.map_err(|urns| {
        let (first, second) = *urns;
        let detail = format!(
            "several resources have this id, such as {first} and {second}; name one by its URN"
        );
        Refusal::bad_request("ambiguous_id", detail)
    })?;
    resource.map(Json).ok_or_else(Refusal::not_found)
}
