//! Findings: what is wrong, on what facts, since when, and how to mend it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use jiff::Timestamp;
use protocol::api::{
    Cause, DataClass, FINDING_FIELDS, Finding, FindingStatus, Mute, Page, Problem, ResourceRef,
    Risk, RiskFactor, Transition, Verdict,
};
use protocol::ids::{FindingId, OrgId};
use rules::RuleSet;
use store::rows::finding as rows;
use store::{FindingList, FindingSort, Order};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::Member;
use super::checks::{controls_of, fix_of};
use super::fix;
use super::list::{OrgQuery, Size};
use super::past::{self, AsOfQuery};
use super::problem::{Query, Refusal, Segment};

/// What a list of findings can be sorted by.
const SORTS: &[(&str, FindingSort)] = &[
    ("severity", FindingSort::Severity),
    ("risk", FindingSort::Risk),
    ("first_seen", FindingSort::FirstSeen),
    ("last_seen", FindingSort::LastSeen),
    ("check", FindingSort::Check),
    ("status", FindingSort::Status),
    ("resource", FindingSort::Resource),
    ("account", FindingSort::Account),
];

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
}

/// Returns the word for a step in a finding's life; `before` is the verdict that it had.
fn event_of(step: &rows::Transition, before: Option<Verdict>) -> &'static str {
    match (step.from, step.to) {
        (None, FindingStatus::Open) => "opened",
        (Some(FindingStatus::Resolved), FindingStatus::Open) => "reopened",
        (Some(FindingStatus::Muted), FindingStatus::Open) => "unmuted",
        (None | Some(FindingStatus::Open | FindingStatus::Resolved), FindingStatus::Muted) => {
            "muted"
        }
        (_, FindingStatus::Resolved) => "resolved",
        (Some(FindingStatus::Open), FindingStatus::Open)
        | (Some(FindingStatus::Muted), FindingStatus::Muted) => {
            if step.verdict == Verdict::Unknown && before != Some(Verdict::Unknown) {
                "unknown"
            } else {
                "known"
            }
        }
    }
}

fn history_of(steps: Vec<rows::Transition>) -> Vec<Transition> {
    let mut before = None;
    steps
        .into_iter()
        .map(|step| {
            let event = event_of(&step, before);
            before = Some(step.verdict);
            Transition {
                at: step.at,
                event: event.to_owned(),
                reason: step.note,
            }
        })
        .collect()
}

/// Joins a finding's row with its history and with what its check says in general. A check that
/// is no longer in force says nothing.
pub(super) fn finding_of(
    org: OrgId,
    row: rows::Finding,
    history: Vec<rows::Transition>,
    rules: &RuleSet,
) -> Finding {
    let check = rules.get(&row.check_id);
    let cause = match row.cause {
        Some(cause) => Cause {
            urn: cause.urn.to_string(),
            id: cause.id.to_string(),
        },
        None => Cause {
            urn: row.resource.urn.to_string(),
            id: store::rows::resource::Resource::id_of(org, &row.resource.urn).to_string(),
        },
    };
    let factors = row.risk.factors.into_iter().map(|factor| RiskFactor {
        name: factor.name,
        points: i32::from(factor.points),
        reason: factor.why,
    });
    let resource = ResourceRef {
        urn: row.resource.urn.to_string(),
        type_name: row.resource.type_name,
        name: row.resource.name,
        account: row.resource.account,
        region: row.resource.region,
        provider: row.resource.provider,
    };
    let fix = check.map(|check| fix::for_resource(fix_of(check), &resource));
    let mute = row.mute.map(|mute| Mute {
        reason: mute.reason,
        by: mute.by.to_string(),
        until: mute.until.unwrap_or(Timestamp::MAX),
    });
    Finding {
        id: row.id,
        check_id: row.check_id,
        title: row.title,
        severity: row.severity,
        status: row.status,
        verdict: row.verdict,
        unknown_since: row.unknown_since,
        cause,
        resource,
        first_seen: row.first_seen,
        last_seen: row.last_seen,
        resolved_at: row.resolved_at,
        evidence: row.evidence,
        gaps: row.gaps,
        risk: Risk {
            score: row.risk.score,
            factors: factors.collect(),
        },
        controls: check.map(|check| controls_of(check)).unwrap_or_default(),
        why: check.map_or_else(String::new, |check| check.why().to_owned()),
        fix: fix.unwrap_or_default(),
        mute,
        owner: row.owner.map(|user| user.to_string()),
        history: history_of(history),
    }
}

/// Lists findings, worst first, as they are or were at an instant.
#[utoipa::path(
    get, path = "/api/v1/findings", operation_id = "list_findings", tag = "findings",
    params(AsOfQuery),
    responses(
        (status = 200, body = Page<Finding>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(query): Query<AsOfQuery>,
) -> Result<Json<Page<Finding>>, Refusal> {
    let (query, as_of) = query.split()?;
    let filter = query.filter(FINDING_FIELDS, Timestamp::now())?;
    let sort = query.sort(SORTS)?;
    let (sort, order) = sort.unwrap_or((FindingSort::Severity, Order::Descending));
    let list = FindingList {
        filter: (!filter.is_empty()).then(|| -> store::Predicate<_> {
            Arc::new(move |row: &store::FindingSummary| filter.matches(row))
        }),
        sort,
        order,
        limit: query.limit()?,
        after: query.cursor,
    };
    let rules = state.rules.now();
    let turn = past::turn(as_of).await;
    let page = member
        .store
        .read(move |reader| {
            let _turn = turn;
            let forgotten_before = past::forgotten_before(reader, DataClass::Findings, as_of)?;
            let page = match as_of {
                Some(at) => reader.as_of(at)?.findings(&list)?,
                None => reader.findings(&list)?,
            };
            let mut items = Vec::with_capacity(page.items.len());
            let (mut size, mut next) = (Size::default(), page.next);
            let mut rest = page.items.into_iter();
            while let Some(summary) = rest.next() {
                // The columns follow the commits; a row may have gone between the two.
                let found = match as_of {
                    Some(at) => reader.finding_as_of(summary.id, at)?,
                    None => match reader.finding(summary.id)? {
                        Some(row) => Some((row, reader.finding_history(summary.id)?)),
                        None => None,
                    },
                };
                if let Some((row, history)) = found {
                    let item = finding_of(reader.org(), row, history, &rules.set);
                    let is_full = size.is_full_with(&item);
                    items.push(item);
                    if is_full && !rest.as_slice().is_empty() {
                        next = Some(list.cursor_after(&summary));
                        break;
                    }
                }
            }
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

/// Shows one finding.
#[utoipa::path(
    get, path = "/api/v1/findings/{id}", operation_id = "show_finding", tag = "findings",
    params(("id" = String, Path, description = "Its id"), OrgQuery),
    responses(
        (status = 200, body = Finding),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<Finding>, Refusal> {
    let id: FindingId = id.parse().map_err(|_| Refusal::not_found())?;
    let rules = state.rules.now();
    let finding = member
        .store
        .read(move |reader| {
            let Some(row) = reader.finding(id)? else {
                return Ok(None);
            };
            let history = reader.finding_history(id)?;
            Ok(Some(finding_of(reader.org(), row, history, &rules.set)))
        })
        .await?;
    finding.map(Json).ok_or_else(Refusal::not_found)
}

#[cfg(test)]
mod tests {
    use store::rows::finding::Actor;

    use super::*;

    fn step(from: Option<FindingStatus>, to: FindingStatus, verdict: Verdict) -> rows::Transition {
        rows::Transition {
            at: Timestamp::UNIX_EPOCH,
            from,
            to,
            verdict,
            by: Actor::Hub,
            note: String::new(),
        }
    }

    #[test]
    fn every_step_of_a_findings_life_has_its_word() {
        use FindingStatus::{Muted, Open, Resolved};
        use Verdict::{Fail, Pass, Unknown};
        let life = vec![
            step(None, Open, Fail),
            step(Some(Open), Open, Unknown),
            step(Some(Open), Open, Fail),
            step(Some(Open), Muted, Fail),
            step(Some(Muted), Muted, Unknown),
            step(Some(Muted), Open, Fail),
            step(Some(Open), Resolved, Pass),
            step(Some(Resolved), Open, Fail),
        ];
        let history = history_of(life);
        let words: Vec<&str> = history.iter().map(|step| step.event.as_str()).collect();
        assert_eq!(
            words,
            [
                "opened", "unknown", "known", "muted", "unknown", "unmuted", "resolved", "reopened"
            ]
        );
    }
}
