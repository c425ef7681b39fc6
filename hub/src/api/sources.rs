//! Sources: what agents read.

use std::sync::Arc;

use axum::Json;
use jiff::Timestamp;
use protocol::api::{Page, Problem, SOURCE_FIELDS, Source};
use protocol::ids::SourceId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::{ListQuery, OrgQuery};
use super::problem::{Query, Refusal, Segment};

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
}

fn source_of(row: store::rows::resource::Source) -> Source {
    let calls = row
        .faults
        .into_iter()
        .map(|fault| format!("{}: {}", fault.call, fault.error));
    Source {
        id: row.id,
        name: row.name,
        kind: row.kind,
        agent_id: row.agent,
        state: row.state.word().to_owned(),
        last_sync: row.last_sync,
        errors: row.error.into_iter().chain(calls).collect(),
    }
}

/// Reads every source of an organisation, by name.
pub(super) async fn sources_of(member: &Member) -> Result<Vec<Source>, Refusal> {
    let rows = member.store.sources().await?;
    let mut sources: Vec<Source> = rows.into_iter().map(source_of).collect();
    sources.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(sources)
}

/// Lists sources, by name.
#[utoipa::path(
    get, path = "/api/v1/sources", operation_id = "list_sources", tag = "sources",
    params(ListQuery),
    responses(
        (status = 200, body = Page<Source>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Source>>, Refusal> {
    let sources = sources_of(&member).await?;
    query
        .page_of(sources, SOURCE_FIELDS, Timestamp::now())
        .map(Json)
}

/// Shows one source.
#[utoipa::path(
    get, path = "/api/v1/sources/{id}", operation_id = "show_source", tag = "sources",
    params(("id" = String, Path, description = "Its id"), OrgQuery),
    responses(
        (status = 200, body = Source),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show(
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<Source>, Refusal> {
    let id: SourceId = id.parse().map_err(|_| Refusal::not_found())?;
    let sources = sources_of(&member).await?;
    let source = sources.into_iter().find(|source| source.id == id);
    source.map(Json).ok_or_else(Refusal::not_found)
}
