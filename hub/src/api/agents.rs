//! Agents and the tokens they enrol with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use data_encoding::HEXLOWER;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{
    AGENT_FIELDS, Agent, AgentAct, AgentState, CertificateInfo, Page, Problem, SpoolInfo,
    Throttled, TokenCreate, TokenCreated,
};
use protocol::enroll::Token;
use protocol::ids::{AgentId, SourceId, TokenId};
use protocol::session::CloseCode;
use store::rows::access::{AgentView, EnrolToken};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::{Administered, Member};
use super::list::{ListQuery, OrgQuery, WriteHeaders};
use super::orgs::check_name;
use super::problem::{Body, Query, Refusal, Segment};
use crate::expiry::ending_of_agent;
use crate::live::{Changed, EndSession, Live, What};

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
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(revoke))
        .routes(routes!(create_token))
}

/// Joins an agent's row with what is true of it at this moment.
fn agent_of(view: AgentView, sources: Vec<SourceId>, live: &Live, life: SignedDuration) -> Agent {
    let AgentView { agent, status } = view;
    let session = live.session(agent.id);
    let state = match agent.state {
        store::rows::AgentState::Revoked => AgentState::Revoked,
        store::rows::AgentState::Suspended => AgentState::Suspended,
        store::rows::AgentState::Quarantined => AgentState::Quarantined,
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
        warning: match agent.state {
            store::rows::AgentState::Revoked => None,
            store::rows::AgentState::Active
            | store::rows::AgentState::Suspended
            | store::rows::AgentState::Quarantined => agent
                .newest()
                .and_then(|newest| ending_of_agent(life, newest.not_after, Timestamp::now()))
                .map(|ending| ending.to_string()),
        },
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
            agent_of(view, own, &state.live, state.authority.agent_leaf())
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

/// What an operator does about an agent.
#[derive(Debug, Clone, Copy)]
struct Act {
    /// In the audit log.
    name: &'static str,
    becomes: store::rows::AgentState,
    /// How its sessions end; `None` where they go on.
    ends: Option<(CloseCode, &'static str)>,
}

const SUSPEND: Act = Act {
    name: "agent.suspend",
    becomes: store::rows::AgentState::Suspended,
    ends: Some((CloseCode::Suspended, "this agent was suspended")),
};

const RESUME: Act = Act {
    name: "agent.resume",
    becomes: store::rows::AgentState::Active,
    ends: None,
};

const REVOKE: Act = Act {
    name: "agent.revoke",
    becomes: store::rows::AgentState::Revoked,
    ends: Some((CloseCode::Revoked, "this agent was revoked")),
};

/// Longest reason that an operator gives, in bytes.
const REASON_BYTES: usize = 1000;

impl Act {
    /// Does it. An agent that is in that state already stays as it is, without another entry in
    /// the audit log.
    async fn on(
        self,
        state: &State,
        member: &Member,
        id: &str,
        request: AgentAct,
    ) -> Result<Json<Agent>, Refusal> {
        let id: AgentId = id.parse().map_err(|_| Refusal::not_found())?;
        let reason = request.reason.unwrap_or_default();
        let reason = reason.trim();
        if reason.len() > REASON_BYTES {
            let detail = format!("a reason has {REASON_BYTES} bytes at most");
            return Err(Refusal::bad_request("bad_reason", detail));
        }
        let view = member.store.agent(id).await?;
        let before = view.ok_or_else(Refusal::not_found)?.agent.state;
        if before == store::rows::AgentState::Revoked && self.becomes != before {
            return Err(Refusal::conflict(
                "agent_revoked",
                "this agent was revoked, which is for good: its key may be in other hands; enrol \
                 the host again with a new token",
            ));
        }
        if before != self.becomes {
            member.store.set_agent_state(id, self.becomes).await?;
            // Before anything that could fail: whoever is to go is gone.
            if let Some((code, reason)) = self.ends {
                let reason = reason.to_owned();
                state.live.end(id, EndSession { code, reason });
            }
            let mut write = member.store.write();
            write.audit(AuditAct {
                at: Timestamp::now(),
                actor: Actor::User(member.caller.user.id),
                action: self.name.to_owned(),
                object: id.to_string(),
                detail: if reason.is_empty() {
                    format!("was {before}")
                } else {
                    format!("was {before}; reason: {reason}")
                },
            });
            write.commit().await?;
            state.live.tell(Changed {
                org: member.store.org(),
                what: What::Agents,
            });
        }
        let agents = agents_of(state, member).await?;
        let agent = agents.into_iter().find(|agent| agent.id == id);
        agent.map(Json).ok_or_else(Refusal::not_found)
    }
}

/// Suspends an agent: its session ends, and it is told to come back later until it is resumed. Its
/// data stays.
#[utoipa::path(
    post, path = "/api/v1/agents/{id}/suspend", operation_id = "suspend_agent", tag = "agents",
    params(("id" = String, Path, description = "Its id"), OrgQuery, WriteHeaders),
    request_body = AgentAct,
    responses(
        (status = 200, body = Agent),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn suspend(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<AgentAct>,
) -> Result<Json<Agent>, Refusal> {
    SUSPEND.on(&state, &member, &id, request).await
}

/// Lets a suspended agent speak again, or one that was quarantined because its identity was copied.
#[utoipa::path(
    post, path = "/api/v1/agents/{id}/resume", operation_id = "resume_agent", tag = "agents",
    params(("id" = String, Path, description = "Its id"), OrgQuery, WriteHeaders),
    request_body = AgentAct,
    responses(
        (status = 200, body = Agent),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn resume(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<AgentAct>,
) -> Result<Json<Agent>, Refusal> {
    RESUME.on(&state, &member, &id, request).await
}

/// Revokes an agent for good: its session ends, its certificate is worth nothing any more and is
/// not renewed. Its data stays.
#[utoipa::path(
    post, path = "/api/v1/agents/{id}/revoke", operation_id = "revoke_agent", tag = "agents",
    params(("id" = String, Path, description = "Its id"), OrgQuery, WriteHeaders),
    request_body = AgentAct,
    responses(
        (status = 200, body = Agent),
        (status = 403, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn revoke(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
    Body(request): Body<AgentAct>,
) -> Result<Json<Agent>, Refusal> {
    REVOKE.on(&state, &member, &id, request).await
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
        pins: state.authority.pins(),
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
