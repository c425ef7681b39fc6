//! How long data is kept, what goes when, and legal holds.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use http::StatusCode;
use jiff::Timestamp;
use protocol::api::{
    CLASS_FIELDS, ClassRetention, DataClass, HOLD_FIELDS, Hold, HoldCreate, HoldLift, Page,
    Problem, RetentionRan, RetentionRun, RetentionSet,
};
use protocol::ids::HoldId;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::rows::retention::{self, HOLD_REASON_BYTES, HOLDS, Retention, days_of};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::list::{ListQuery, OrgQuery, WriteHeaders};
use super::orgs::is_bidi;
use super::problem::{Body, Query, Refusal, Segment};

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list, set))
        .routes(routes!(run))
        .routes(routes!(holds, hold))
        .routes(routes!(lift))
}

fn class_of(retention: &Retention, class: DataClass, now: Timestamp) -> ClassRetention {
    let days = days_of(class);
    ClassRetention {
        class,
        days: retention.days(class),
        default_days: days.usual,
        least_days: days.least,
        most_days: days.most,
        before: retention.line(class, now),
        next_purge: Retention::next_purge(now),
        forgotten_before: retention.forgotten_before(class),
        held: retention.hold_on(class).is_some(),
    }
}

fn hold_of(row: &retention::Hold) -> Hold {
    Hold {
        id: row.id,
        class: row.class,
        reason: row.reason.clone(),
        by: match row.by {
            Actor::User(user) => Some(user),
            Actor::Hub | Actor::Agent(_) | Actor::Local => None,
        },
        since: row.since,
    }
}

fn act(member: &Member, at: Timestamp, action: &str, object: String, detail: String) -> AuditAct {
    AuditAct {
        at,
        actor: Actor::User(member.caller.user.id),
        action: action.to_owned(),
        object,
        detail,
    }
}

/// Returns a reason without white space around it.
fn check_reason(reason: &str) -> Result<String, Refusal> {
    let reason = reason.trim();
    let is_shown = |letter: char| !letter.is_control() && !is_bidi(letter);
    if (1..=HOLD_REASON_BYTES).contains(&reason.len()) && reason.chars().all(is_shown) {
        return Ok(reason.to_owned());
    }
    Err(Refusal::bad_request(
        "bad_reason",
        "a reason has 1 to 1024 bytes of printable characters",
    ))
}

/// Lists how long each class of data is kept, and since when something of it is forgotten.
#[utoipa::path(
    get, path = "/api/v1/retention", operation_id = "list_retention", tag = "retention",
    params(ListQuery),
    responses(
        (status = 200, body = Page<ClassRetention>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<ClassRetention>>, Refusal> {
    let (retention, now) = (member.store.retention().await?, Timestamp::now());
    let rows = DataClass::ALL.map(|class| class_of(&retention, class, now));
    query.page_of(rows.to_vec(), CLASS_FIELDS, now).map(Json)
}

/// Sets how many full days a class of data is kept. What is older then goes within minutes.
#[utoipa::path(
    put, path = "/api/v1/retention", operation_id = "set_retention", tag = "retention",
    params(OrgQuery, WriteHeaders),
    request_body = RetentionSet,
    responses(
        (status = 200, body = ClassRetention),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn set(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<RetentionSet>,
) -> Result<Json<ClassRetention>, Refusal> {
    let RetentionSet { class, days } = request;
    let now = Timestamp::now();
    let before = member.store.retention().await?.days(class);
    let mut write = member.store.write();
    write.keep_for(class, days);
    let detail = format!("{days} days instead of {before}");
    let object = class.word().to_owned();
    write.audit(act(&member, now, "retention.set", object, detail));
    write.commit().await?;
    state.retention.changed(member.store.org());
    let retention = member.store.retention().await?;
    Ok(Json(class_of(&retention, class, now)))
}

/// Forgets what is due, or says with `dry_run` what would go.
///
/// A class that a legal hold keeps is left out, and says so.
#[utoipa::path(
    post, path = "/api/v1/retention/run", operation_id = "run_retention", tag = "retention",
    params(OrgQuery, WriteHeaders),
    request_body = RetentionRun,
    responses((status = 200, body = RetentionRan)),
)]
async fn run(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<RetentionRun>,
) -> Result<Json<RetentionRan>, Refusal> {
    let now = Timestamp::now();
    let items = if request.dry_run {
        state.retention.dry_run(&member.store, now).await?
    } else {
        let by = Actor::User(member.caller.user.id);
        state.retention.run(&member.store, by, now).await?
    };
    Ok(Json(RetentionRan {
        dry_run: request.dry_run,
        items,
    }))
}

/// Lists the legal holds that stand, oldest first.
#[utoipa::path(
    get, path = "/api/v1/holds", operation_id = "list_holds", tag = "retention",
    params(ListQuery),
    responses(
        (status = 200, body = Page<Hold>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn holds(
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Hold>>, Refusal> {
    let retention = member.store.retention().await?;
    let rows = retention.holds().iter().map(hold_of).collect();
    query.page_of(rows, HOLD_FIELDS, Timestamp::now()).map(Json)
}

/// Sets a legal hold on a class of data, or on everything: nothing of it is forgotten while it
/// stands.
#[utoipa::path(
    post, path = "/api/v1/holds", operation_id = "set_hold", tag = "retention",
    params(OrgQuery, WriteHeaders),
    request_body = HoldCreate,
    responses(
        (status = 201, body = Hold),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn hold(
    member: Member,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<HoldCreate>,
) -> Result<(StatusCode, Json<Hold>), Refusal> {
    let reason = check_reason(&request.reason)?;
    if member.store.retention().await?.holds().len() >= HOLDS {
        let detail = format!("{HOLDS} legal holds stand already; lift one first");
        return Err(Refusal::conflict("too_many_holds", detail));
    }
    let now = Timestamp::now();
    let row = retention::Hold {
        id: HoldId::from_bytes(*uuid::Uuid::now_v7().as_bytes()),
        class: request.class,
        reason,
        by: Actor::User(member.caller.user.id),
        since: now,
    };
    let mut write = member.store.write();
    write.hold(row.clone());
    let of = row.class.map_or("everything", DataClass::word);
    let detail = format!("{of}: {:?}", row.reason);
    write.audit(act(&member, now, "hold.set", row.id.to_string(), detail));
    write.commit().await?;
    Ok((StatusCode::CREATED, Json(hold_of(&row))))
}

/// Lifts a legal hold. What fell due under it goes within minutes, unless another one stands.
#[utoipa::path(
    post, path = "/api/v1/holds/{id}/lift", operation_id = "lift_hold", tag = "retention",
    params(("id" = String, Path, description = "Its id"), OrgQuery, WriteHeaders),
    request_body = HoldLift,
    responses(
        (status = 200, body = Hold),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn lift(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<HoldLift>,
) -> Result<Json<Hold>, Refusal> {
    let id: HoldId = id.parse().map_err(|_| Refusal::not_found())?;
    let retention = member.store.retention().await?;
    let row = retention.holds().iter().find(|hold| hold.id == id);
    let row = row.ok_or_else(Refusal::not_found)?;
    let reason = check_reason(&request.reason)?;
    let now = Timestamp::now();
    let mut write = member.store.write();
    write.lift(id);
    let detail = format!("{reason:?}; it was set for {:?}", row.reason);
    write.audit(act(&member, now, "hold.lift", id.to_string(), detail));
    write.commit().await?;
    state.retention.changed(member.store.org());
    Ok(Json(hold_of(row)))
}
