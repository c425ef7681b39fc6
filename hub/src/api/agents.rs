//! Agents and the tokens they enrol with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use data_encoding::HEXLOWER;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{
    AGENT_FIELDS, Agent, AgentState, CertificateInfo, Page, Problem, SpoolInfo, Throttled,
    TokenCreate, TokenCreated,
};
use protocol::enroll::Token;
use protocol::ids::{AgentId, SourceId, TokenId};
use store::rows::access::{AgentView, EnrolToken};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::{Administered, Member};
use super::list::{ListQuery, OrgQuery, WriteHeaders};
use super::orgs::check_name;
use super::problem::{Body, Query, Refusal, Segment};
use crate::live::Live;

/// Longest life of an enrolment token, in seconds.
const LONGEST_SECONDS: u64 = 30 * 24 * 3600;

/// Life of an enrolment token when the caller names none, in seconds.
const DEFAULT_SECONDS: u64 = 3600;

/// Most agents that one token enrols.
const MOST_USES: u32 = 10_000;

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(create_token))
}

/// Joins an agent's row with what is true of it at this moment.
fn agent_of(view: AgentView, sources: Vec<SourceId>, live: &Live) -> Agent {
    let AgentView { agent, status } = view;
    let session = live.session(agent.id);
    let state = match agent.state {
        store::rows::AgentState::Revoked => AgentState::Revoked,
        // Both are told to stay away; what sets them apart is in the audit log.
        store::rows::AgentState::Suspended | store::rows::AgentState::Quarantined => {
            AgentState::Suspended
        }
        store::rows::AgentState::Active if session.is_some() => AgentState::Online,
        store::rows::AgentState::Active => AgentState::Stale,
    };
    let heard_at = session.as_ref().map(|session| session.heard_at);
    let last_seen = heard_at.max(status.as_ref().map(|status| status.last_seen));
    let transport = match (&session, &status) {
        (Some(session), _) => session.transport.to_owned(),
        (None, Some(status)) => status.transport.clone(),
        (None, None) => String::new(),
    };
    let certificate = CertificateInfo {
        serial: agent
            .newest()
            .map_or_else(String::new, |newest| HEXLOWER.encode(&newest.serial)),
        not_after: agent
            .newest()
            .map_or(agent.enrolled_at, |newest| newest.not_after),
    };
    Agent {
        id: agent.id,
        name: agent.name,
        version: status
            .as_ref()
            .map_or_else(String::new, |status| status.version.clone()),
        state,
        transport,
        last_seen,
        spool: status
            .as_ref()
            .map_or_else(SpoolInfo::default, |status| SpoolInfo {
                bytes: status.spool_bytes,
                oldest: status.spool_oldest,
            }),
        sources,
        certificate,
        clock_skew_ms: status.as_ref().map(|status| status.clock_skew_ms),
        refused: status.as_ref().map_or(0, |status| status.refused_batches),
        throttled: session
            .and_then(|session| session.throttled)
            .map(|throttled| Throttled {
                since: throttled.since,
                reason: throttled.reason.to_owned(),
            }),
    }
}

/// Reads every agent of an organisation, by name.
pub(super) async fn agents_of(state: &State, member: &Member) -> Result<Vec<Agent>, Refusal> {
    let mut sources: BTreeMap<AgentId, Vec<SourceId>> = BTreeMap::new();
    for source in member.store.sources().await? {
        if source.state != store::rows::SourceState::Removed {
            sources.entry(source.agent).or_default().push(source.id);
        }
    }
    let views = member.store.agents().await?;
    let mut agents: Vec<Agent> = views
        .into_iter()
        .map(|view| {
            let own = sources.remove(&view.agent.id).unwrap_or_default();
            agent_of(view, own, &state.live)
        })
        .collect();
    agents.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(agents)
}

/// Lists agents, by name.
#[utoipa::path(
    get, path = "/api/v1/agents", operation_id = "list_agents", tag = "agents", params(ListQuery),
    responses(
        (status = 200, body = Page<Agent>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<Agent>>, Refusal> {
    let agents = agents_of(&state, &member).await?;
    query
        .page_of(agents, AGENT_FIELDS, Timestamp::now())
        .map(Json)
}

/// Shows one agent.
#[utoipa::path(
    get, path = "/api/v1/agents/{id}", operation_id = "show_agent", tag = "agents",
    params(("id" = String, Path, description = "Its id"), OrgQuery),
    responses(
        (status = 200, body = Agent),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<Agent>, Refusal> {
    let id: AgentId = id.parse().map_err(|_| Refusal::not_found())?;
    let agents = agents_of(&state, &member).await?;
    let agent = agents.into_iter().find(|agent| agent.id == id);
    agent.map(Json).ok_or_else(Refusal::not_found)
}

/// Makes an enrolment token. Its text is in this answer and nowhere else: the hub keeps only the
/// public half of its key.
#[utoipa::path(
    post, path = "/api/v1/agent-tokens", operation_id = "create_agent_token", tag = "agents",
    params(OrgQuery, WriteHeaders),
    request_body = TokenCreate,
    responses(
        (status = 201, body = TokenCreated),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 403, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_token(
    Shared(state): Shared<Arc<State>>,
    administered: Administered,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<TokenCreate>,
) -> Result<(StatusCode, Json<TokenCreated>), Refusal> {
    let seconds = request.ttl_seconds.unwrap_or(DEFAULT_SECONDS);
    if !(1..=LONGEST_SECONDS).contains(&seconds) {
        return Err(Refusal::bad_request(
            "bad_ttl",
            "a token lives 1 second to 30 days",
        ));
    }
    let uses = request.uses.unwrap_or(1);
    if !(1..=MOST_USES).contains(&uses) {
        return Err(Refusal::bad_request(
            "bad_uses",
            format!("a token enrols 1 to {MOST_USES} agents"),
        ));
    }
    let bound_name = request.name.as_deref().map(check_name).transpose()?;
    let now = Timestamp::now();
    let life = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0));
    let expires_at = now + life;
    let mut token = Token {
        id: TokenId::from_bytes(*uuid::Uuid::now_v7().as_bytes()),
        seed: [0; 32],
        hubs: state.agent_hubs.clone(),
        pins: vec![state.pin],
    };
    getrandom::fill(&mut token.seed).map_err(|error| Refusal::failed(&error))?;
    let public_key = ed25519_dalek::SigningKey::from_bytes(&token.seed)
        .verifying_key()
        .to_bytes();
    let text = token.to_text();
    zeroize::Zeroize::zeroize(&mut token.seed);
    administered
        .put_token(EnrolToken {
            id: token.id,
            org: administered.org(),
            public_key,
            expires_at,
            uses_left: uses,
            bound_name,
            bound_accounts: None,
            labels: BTreeMap::new(),
            made_by: Some(administered.caller.user.id),
            made_at: now,
        })
        .await?;
    let detail = format!("{uses} uses until {expires_at}");
    administered
        .audit("agent_token.create", token.id.to_string(), detail)
        .await?;
    let made = TokenCreated {
        id: token.id.to_string(),
        token: text,
        expires_at,
    };
    Ok((StatusCode::CREATED, Json(made)))
}
