//! Scopes: how the sweeps of account × region × type stand, and the confirmation of those that
//! would retire too much.

use std::sync::Arc;

use axum::Json;
use jiff::Timestamp;
use protocol::Scope;
use protocol::api::{Page, Problem, SCOPE_FIELDS, ScopeConfirm, ScopeStatus};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::rows::resource::{self, ScopeState};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::{ListQuery, OrgQuery, WriteHeaders};
use super::problem::{Body, Query, Refusal};

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(confirm))
}

fn status_of(row: resource::ScopeStatus) -> ScopeStatus {
    let (state, retiring, gap) = match row.state {
        ScopeState::Sweeping => ("sweeping", None, None),
        ScopeState::Complete => ("complete", None, None),
        ScopeState::Failed(gap) => ("failed", None, Some(gap)),
        ScopeState::Held(count) => ("held", Some(count), None),
        ScopeState::Mismatched => ("mismatched", None, None),
    };
    ScopeStatus {
        scope: row.scope.to_string(),
        type_name: row.scope.type_name(),
        account: row.scope.account,
        region: row.scope.region,
        agent_id: row.agent,
        source_id: row.source,
        state: state.to_owned(),
        resources: row.members.count,
        retiring,
        gap,
        last_complete_at: row.last_complete_at,
        last_begin_at: row.last_begin_at,
    }
}

/// Lists scopes and how their last sweeps stand, by name.
#[utoipa::path(
    get, path = "/api/v1/scopes", operation_id = "list_scopes", tag = "resources",
    params(ListQuery),
    responses(
        (status = 200, body = Page<ScopeStatus>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<ScopeStatus>>, Refusal> {
    let rows = member.store.read(|reader| reader.scopes()).await?;
    let mut scopes: Vec<ScopeStatus> = rows.into_iter().map(status_of).collect();
    scopes.sort_by(|a, b| a.scope.cmp(&b.scope));
    query
        .page_of(scopes, SCOPE_FIELDS, Timestamp::now())
        .map(Json)
}

/// Confirms that what seems gone of a held scope is gone: it is retired.
///
/// If documents came since that change the set, nothing is retired and the scope is compared anew.
#[utoipa::path(
    post, path = "/api/v1/scopes/confirm", operation_id = "confirm_scope", tag = "resources",
    params(OrgQuery, WriteHeaders),
    request_body = ScopeConfirm,
    responses(
        (status = 200, body = ScopeStatus),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn confirm(
    member: Member,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<ScopeConfirm>,
) -> Result<Json<ScopeStatus>, Refusal> {
    let scope: Scope = request.scope.parse().map_err(|_| Refusal::not_found())?;
    let status = read(&member, &scope).await?;
    match status.state {
        ScopeState::Held(count) if count == request.retiring => {}
        ScopeState::Held(count) => {
            return Err(Refusal::conflict(
                "retiring_changed",
                format!("{count} resources would be retired by now; look again and confirm that"),
            ));
        }
        ScopeState::Sweeping
        | ScopeState::Complete
        | ScopeState::Failed(_)
        | ScopeState::Mismatched => {
            return Err(Refusal::conflict(
                "not_held",
                "this scope holds nothing back; its next sweep may",
            ));
        }
    }
    let now = Timestamp::now();
    let mut write = member.store.write();
    write.confirm_retirement(&scope, request.retiring, now);
    write.audit(AuditAct {
        at: now,
        actor: Actor::User(member.caller.user.id),
        action: "scope.confirm".to_owned(),
        object: scope.to_string(),
        detail: format!("{} resources to retire", request.retiring),
    });
    write.commit().await?;
    Ok(Json(status_of(read(&member, &scope).await?)))
}

async fn read(member: &Member, scope: &Scope) -> Result<resource::ScopeStatus, Refusal> {
    let scope = scope.clone();
    let found = member
        .store
        .read(move |reader| reader.scope(&scope))
        .await?;
    found.ok_or_else(Refusal::not_found)
}
