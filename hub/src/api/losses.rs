//! What agents had and cannot send any more.

use std::sync::Arc;

use axum::Json;
use jiff::Timestamp;
use protocol::api::{LOSS_FIELDS, Loss, Page, Problem};
use protocol::frame::Lane;
use store::rows::event::{self, LOSS_ROWS};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::ListQuery;
use super::problem::{Query, Refusal};

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new().routes(routes!(list))
}

fn lane_word(number: u8) -> &'static str {
    match Lane::from_number(number) {
        Some(Lane::Events) => "events",
        Some(Lane::Inventory) => "inventory",
        Some(Lane::Cost) => "cost",
        Some(Lane::Results) => "results",
        Some(Lane::Control) | None => "control",
    }
}

pub(super) fn loss_of(row: &event::Loss) -> Loss {
    Loss {
        at: row.at,
        agent_id: row.agent,
        source_id: row.source,
        lane: lane_word(row.lane).to_owned(),
        records: row.records(),
        reason: row.reason.as_str().to_owned(),
        from: row.from,
        to: row.to,
    }
}

/// Lists what agents lost, newest first: how many records, of which source, and why.
#[utoipa::path(
    get, path = "/api/v1/losses", operation_id = "list_losses", tag = "agents",
    params(ListQuery),
    responses(
        (status = 200, body = Page<Loss>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(member: Member, Query(query): Query<ListQuery>) -> Result<Json<Page<Loss>>, Refusal> {
    let most = usize::try_from(LOSS_ROWS).unwrap_or(usize::MAX);
    let rows = member.store.read(move |reader| reader.losses(most)).await?;
    let losses = rows.iter().map(loss_of).collect();
    query
        .page_of(losses, LOSS_FIELDS, Timestamp::now())
        .map(Json)
}
