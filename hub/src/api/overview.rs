//! The first screen: counts, what needs a person, and news as they come.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Shared;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{
    Agent, AgentState, Attention, FindingStatus, Overview, SEVERITIES, Severity, Source,
};
use protocol::ids::{OrgId, SessionId, UserId};
use store::rows::resource::{ScopeState, ScopeStatus};
use store::{FindingList, FindingSort, FindingSummary, Order, OrgReader, ReadError};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::agents::agents_of;
use super::list::OrgQuery;
use super::problem::{Query, Refusal};
use super::sources::sources_of;
use crate::expiry::Warning;
use crate::live::Changed;

/// Most entries under "needs a person".
const ATTENTION: usize = 20;

/// An agent that was not heard for so long needs a person.
const SILENT: SignedDuration = SignedDuration::from_mins(15);

/// How often a stream says that it is alive, and looks whether its session still stands.
const BEAT: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(stream))
}

/// Numbers of findings by severity.
struct Counts<K: Ord> {
    /// Those that stand.
    open: BTreeMap<K, u64>,
    /// What changed in the last day: opened less resolved.
    change: BTreeMap<K, i64>,
}

fn count_findings(reader: &OrgReader, now: Timestamp) -> Result<Counts<String>, ReadError> {
    let mut counts = Counts {
        open: BTreeMap::<Severity, u64>::new(),
        change: BTreeMap::<Severity, i64>::new(),
    };
    let yesterday = now - SignedDuration::from_hours(24);
    reader.visit_findings(&mut |row| {
        if row.status == FindingStatus::Open {
            *counts.open.entry(row.severity).or_default() += 1;
        }
        let change = counts.change.entry(row.severity).or_default();
        *change += i64::from(row.first_seen >= yesterday);
        *change -= i64::from(row.resolved_at.is_some_and(|at| at >= yesterday));
    })?;
    let severities = || {
        SEVERITIES
            .iter()
            .filter_map(|word| Severity::from_word(word))
    };
    let open = severities().map(|severity| {
        let count = counts.open.get(&severity).copied();
        (severity.word().to_owned(), count.unwrap_or_default())
    });
    let change = severities().map(|severity| {
        let count = counts.change.get(&severity).copied();
        (severity.word().to_owned(), count.unwrap_or_default())
    });
    Ok(Counts {
        open: open.collect(),
        change: change.collect(),
    })
}

fn count_resources(reader: &OrgReader) -> Result<BTreeMap<String, u64>, ReadError> {
    let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    reader.visit_resources(&mut |row| match counts.get_mut(&row.type_name) {
        Some(count) => *count += 1,
        None => {
            counts.insert(Arc::clone(&row.type_name), 1);
        }
    })?;
    let counts = counts.into_iter();
    Ok(counts
        .map(|(name, count)| (name.to_string(), count))
        .collect())
}

fn count_verdicts(reader: &OrgReader) -> Result<BTreeMap<String, u64>, ReadError> {
    let counts = reader.verdict_counts()?;
    let some = counts.into_iter().filter(|(_, count)| *count > 0);
    Ok(some
        .map(|(verdict, count)| (verdict.word().to_owned(), count))
        .collect())
}

/// Says which findings need a person: the open ones that are high or critical, worst first.
fn findings_in_need(reader: &OrgReader) -> Result<Vec<Attention>, ReadError> {
    let list = FindingList {
        filter: Some(Arc::new(|row: &FindingSummary| {
            row.status == FindingStatus::Open && row.severity >= Severity::High
        })),
        sort: FindingSort::Severity,
        order: Order::Descending,
        limit: ATTENTION,
        after: None,
    };
    let page = reader.findings(&list)?;
    Ok(page
        .items
        .into_iter()
        .map(|row| Attention {
            kind: "finding".to_owned(),
            severity: row.severity,
            text: format!("{}: {}", row.name, row.title),
            target: row.id.to_string(),
            since: row.first_seen,
        })
        .collect())
}

/// Says which scopes need a person.
fn scopes_in_trouble(scopes: Vec<ScopeStatus>) -> Vec<Attention> {
    scopes
        .into_iter()
        .filter_map(|status| {
            let what = status.scope.type_name();
            let place = format!("{} {}", status.scope.account, status.scope.region);
            let (severity, text) = match &status.state {
                ScopeState::Failed(gap) => (
                    Severity::Medium,
                    format!(
                        "{what} in {place} cannot be listed: {}: {}",
                        gap.call, gap.error
                    ),
                ),
                ScopeState::Held(count) => (
                    Severity::High,
                    format!("{count} of {what} in {place} seem gone; look why, or `zero-x scope confirm`"),
                ),
                ScopeState::Mismatched => (
                    Severity::Medium,
                    format!("{what} in {place} differs from what the agent holds"),
                ),
                ScopeState::Sweeping | ScopeState::Complete => return None,
            };
            Some(Attention {
                kind: "scope".to_owned(),
                severity,
                text,
                target: status.scope.to_string(),
                since: status.last_complete_at.unwrap_or(status.last_begin_at),
            })
        })
        .collect()
}

fn agents_in_need(agents: &[Agent], now: Timestamp) -> Vec<Attention> {
    let needs = |agent: &Agent| match (agent.state, agent.last_seen) {
        (AgentState::Quarantined, at) => Some((
            Severity::Critical,
            "has a cloned identity: two machines took turns with it; find out which is yours, then \
             resume it, or revoke it and enrol anew",
            at,
        )),
        (AgentState::Suspended, at) => Some((Severity::High, "is suspended", at)),
        (AgentState::Stale, Some(at)) if at < now - SILENT => {
            Some((Severity::Medium, "has gone silent", Some(at)))
        }
        (AgentState::Stale | AgentState::Online | AgentState::Revoked, _) => None,
    };
    let ending = agents.iter().filter_map(|agent| {
        let warning = agent.certificate.warning.as_ref()?;
        Some(Attention {
            kind: "agent".to_owned(),
            severity: Severity::Medium,
            text: format!(
                "{}: its certificate {warning}; it was not renewed",
                agent.name
            ),
            target: agent.id.to_string(),
            since: agent.last_seen.unwrap_or(now),
        })
    });
    agents
        .iter()
        .filter_map(|agent| {
            let (severity, what, since) = needs(agent)?;
            Some(Attention {
                kind: "agent".to_owned(),
                severity,
                text: format!("{} {what}", agent.name),
                target: agent.id.to_string(),
                since: since.unwrap_or(now),
            })
        })
        .chain(ending)
        .collect()
}

/// Says which of the hub's own certificates end soon.
fn certificates_in_need(warnings: &[Warning], now: Timestamp) -> Vec<Attention> {
    warnings
        .iter()
        .map(|warning| Attention {
            kind: "certificate".to_owned(),
            severity: match warning.within_days {
                0..=7 => Severity::High,
                8..=30 => Severity::Medium,
                _ => Severity::Low,
            },
            text: warning.text.clone(),
            target: String::new(),
            since: now,
        })
        .collect()
}

fn sources_in_need(sources: &[Source], now: Timestamp) -> Vec<Attention> {
    sources
        .iter()
        .filter_map(|source| {
            let (severity, what) = match source.state.as_str() {
                "failed" => (Severity::High, "cannot be read"),
                "partial" => (Severity::Medium, "is read in part"),
                _ => return None,
            };
            let why = source.errors.first().map_or("", String::as_str);
            Some(Attention {
                kind: "source".to_owned(),
                severity,
                text: format!("{} {what}: {why}", source.name),
                target: source.id.to_string(),
                since: source.last_sync.unwrap_or(now),
            })
        })
        .collect()
}

/// Says that records were refused.
fn refusals(reader: &OrgReader) -> Result<Option<Attention>, ReadError> {
    let count = reader.quarantined()?;
    let Some(last) = reader.quarantine(1)?.into_iter().next() else {
        return Ok(None);
    };
    Ok(Some(Attention {
        kind: "quarantine".to_owned(),
        severity: Severity::Low,
        text: format!("{count} records were refused; the last: {}", last.reason),
        target: last.agent.to_string(),
        since: last.at,
    }))
}

/// Says that agents lost records.
fn losses(reader: &OrgReader) -> Result<Option<Attention>, ReadError> {
    let count = reader.lost()?;
    let Some(last) = reader.losses(1)?.into_iter().next() else {
        return Ok(None);
    };
    let why = last.reason.as_str();
    Ok(Some(Attention {
        kind: "loss".to_owned(),
        severity: Severity::High,
        text: format!(
            "{count} records are lost; the last {}: {why}",
            last.records()
        ),
        target: last.agent.to_string(),
        since: last.at,
    }))
}

/// Counts for the first screen.
#[utoipa::path(
    get, path = "/api/v1/overview", operation_id = "show_overview", tag = "overview",
    params(OrgQuery),
    responses((status = 200, body = Overview)),
)]
async fn show(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<Overview>, Refusal> {
    let now = Timestamp::now();
    let agents = agents_of(&state, &member).await?;
    let sources = sources_of(&member).await?;
    let mut by_state: BTreeMap<String, u64> = BTreeMap::new();
    for agent in &agents {
        *by_state.entry(agent.state.word().to_owned()).or_default() += 1;
    }
    let mut attention = agents_in_need(&agents, now);
    attention.extend(certificates_in_need(&state.certificates.warnings(now), now));
    attention.extend(sources_in_need(&sources, now));
    let overview = member
        .store
        .read(move |reader| {
            let findings = count_findings(reader, now)?;
            attention.extend(findings_in_need(reader)?);
            attention.extend(scopes_in_trouble(reader.scopes()?));
            attention.extend(refusals(reader)?);
            attention.extend(losses(reader)?);
            // The sort is stable: among equals, agents and sources come first, since without
            // them nothing else can be trusted.
            attention.sort_by_key(|entry| std::cmp::Reverse(entry.severity));
            attention.truncate(ATTENTION);
            Ok(Overview {
                open_by_severity: findings.open,
                change_24h: findings.change,
                verdicts: count_verdicts(reader)?,
                resources_by_type: count_resources(reader)?,
                agents: by_state,
                // The store counts no events by minute; no figure is better than a wrong one.
                events_per_minute: Vec::new(),
                attention,
            })
        })
        .await?;
    Ok(Json(overview))
}

/// One listener.
struct Listener {
    state: Arc<State>,
    news: broadcast::Receiver<Changed>,
    org: OrgId,
    user: UserId,
    session: SessionId,
    check_at: tokio::time::Instant,
}

impl Listener {
    /// Waits for the next news of its organisation; `None` when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            // Each branch may be cancelled: what was not received yet stays in the channel.
            tokio::select! {
                () = self.state.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.check_at) => {
                    if !self.still_may().await {
                        return None;
                    }
                    self.check_at = tokio::time::Instant::now() + BEAT;
                }
                news = self.news.recv() => match news {
                    Ok(changed) if changed.org == self.org => return Some(named(changed.what.word())),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return Some(named("all")),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    /// Says whether session and role are still there: a stream must not outlive its right.
    async fn still_may(&self) -> bool {
        let now = Timestamp::now();
        let appliance = &self.state.appliance;
        let session = appliance.session(self.session).await;
        let stands = matches!(session, Ok(Some(row)) if row.session.expires_at > now);
        stands && appliance.admit_user(self.user, self.org).await.is_ok()
    }
}

fn named(word: &str) -> Event {
    // A client ignores an event that has no data.
    Event::default().event(word).data("{}")
}

/// Streams news: one event per kind of rows that changed, named after it. Who missed some gets
/// the event `all` and should read everything again.
#[utoipa::path(
    get, path = "/api/v1/stream", operation_id = "stream", tag = "overview", params(OrgQuery),
    responses((
        status = 200, description = "Server-sent events", content_type = "text/event-stream",
        body = String,
    )),
)]
async fn stream(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(_org): Query<OrgQuery>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let listener = Listener {
        news: state.live.listen(),
        org: member.store.org(),
        user: member.caller.user.id,
        session: member.caller.session,
        check_at: tokio::time::Instant::now() + BEAT,
        state,
    };
    let events = futures::stream::unfold(listener, async |mut listener: Listener| {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    std::future::ready(Sse::new(events).keep_alive(KeepAlive::new().interval(BEAT))).await
}

#[cfg(test)]
mod tests {
    use protocol::document::Gap;
    use protocol::ids::{AgentId, SourceId};
    use protocol::urn::Scope;

    use super::*;

    #[test]
    fn a_scope_that_could_not_be_listed_is_said_with_its_call() {
        let status = |state| ScopeStatus {
            scope: Scope::of_type("aws.ec2.volume", "123456789012", "us-east-1"),
            agent: AgentId::from_bytes([1; 16]),
            source: SourceId::from_bytes([2; 16]),
            members: protocol::document::SetHash::default(),
            claimed: None,
            generation: 1,
            state,
            last_complete_at: None,
            last_begin_at: Timestamp::UNIX_EPOCH,
        };
        let denied = ScopeState::Failed(Gap {
            call: "ec2:DescribeVolumes".into(),
            error: "AccessDenied".into(),
        });
        let entries = scopes_in_trouble(vec![
            status(ScopeState::Complete),
            status(denied),
            status(ScopeState::Held(42)),
        ]);
        assert_eq!(entries.len(), 2);
        assert!(
            entries[0]
                .text
                .contains("ec2:DescribeVolumes: AccessDenied")
        );
        assert!(entries[1].text.contains("42 of aws.ec2.volume"));
    }
}
