//! Checks, and every verdict they gave.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use jiff::Timestamp;
use protocol::api::{
    CheckInfo, CheckResult, ControlRef, Fix, Page, Problem, RESULT_FIELDS, SEVERITIES, Severity,
    Verdict,
};
use protocol::filter::{FieldKind, FieldSpec, FieldValue, Filter, Row};
use protocol::urn::{Scope, Urn};
use rules::{Check, RuleSet};
use serde::Deserialize;
use store::rows::resource::Subject;
use store::rows::verdict::{Judged, VerdictRow};
use store::{OrgReader, ReadError};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::State;
use super::access::{Caller, Member};
use super::list::{ListQuery, OrgQuery, Size};
use super::problem::{Query, Refusal, Segment};
use crate::posture;

/// Rows of verdicts that are read at once.
const ROWS_AT_ONCE: usize = 256;

/// Rows that one request looks through at most; a filter that finds nothing in them gets an
/// empty page with a cursor.
const LOOKED_THROUGH: usize = 20_000;

/// Fields of a check that filters know.
const CHECK_FIELDS: &[FieldSpec] = &[
    FieldSpec {
        name: "id",
        kind: FieldKind::Text,
    },
    FieldSpec {
        name: "title",
        kind: FieldKind::Text,
    },
    FieldSpec {
        name: "severity",
        kind: FieldKind::Enum(SEVERITIES),
    },
    FieldSpec {
        name: "type",
        kind: FieldKind::Type,
    },
];

pub(super) fn routes() -> OpenApiRouter<Arc<State>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(results))
}

/// A check as filters see it.
struct Listed(CheckInfo);

impl Row for Listed {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "id" => Some(FieldValue::Text(&self.0.id)),
            "title" => Some(FieldValue::Text(&self.0.title)),
            "severity" => Some(FieldValue::Text(self.0.severity.word())),
            "type" => Some(FieldValue::Text(&self.0.type_name)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.0.id) || look(&self.0.title) || look(&self.0.type_name) || look(&self.0.why)
    }
}

/// Reads the controls that a check serves: `cis-aws-3.0.0/5.2` is framework, version and id.
pub(super) fn controls_of(check: &Check) -> Vec<ControlRef> {
    check
        .controls()
        .iter()
        .map(|text| {
            let (standard, id) = text.split_once('/').unwrap_or((text, ""));
            let (framework, version) = standard.rsplit_once('-').unwrap_or((standard, ""));
            ControlRef {
                framework: framework.to_owned(),
                version: version.to_owned(),
                id: id.to_owned(),
            }
        })
        .collect()
}

/// Returns how to mend what a check finds.
pub(super) fn fix_of(check: &Check) -> Fix {
    let fix = check.fix();
    Fix {
        console: fix.console.clone().unwrap_or_default(),
        cli: fix.cli.clone().unwrap_or_default(),
        terraform: fix.terraform.clone().unwrap_or_default(),
    }
}

const fn severity_of(severity: rules::Severity) -> Severity {
    match severity {
        rules::Severity::Info => Severity::Info,
        rules::Severity::Low => Severity::Low,
        rules::Severity::Medium => Severity::Medium,
        rules::Severity::High => Severity::High,
        rules::Severity::Critical => Severity::Critical,
    }
}

/// What is stored of a verdict. A broken check knows nothing.
const fn verdict_of(verdict: rules::Verdict) -> Verdict {
    match verdict {
        rules::Verdict::Pass => Verdict::Pass,
        rules::Verdict::Fail => Verdict::Fail,
        rules::Verdict::Unknown | rules::Verdict::Broken => Verdict::Unknown,
        rules::Verdict::NotApplicable => Verdict::NotApplicable,
    }
}

fn check_info(check: &Check) -> CheckInfo {
    CheckInfo {
        id: check.id().to_owned(),
        title: check.title().to_owned(),
        severity: severity_of(check.severity()),
        type_name: check.type_name().to_owned(),
        why: check.why().to_owned(),
        fix: fix_of(check),
        pass: check.pass_text().to_owned(),
        source: check.source().to_owned(),
        controls: controls_of(check),
    }
}

/// Lists the checks in force.
#[utoipa::path(
    get, path = "/api/v1/checks", operation_id = "list_checks", tag = "checks", params(ListQuery),
    responses(
        (status = 200, body = Page<CheckInfo>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    Shared(state): Shared<Arc<State>>,
    _caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<CheckInfo>>, Refusal> {
    let rules = state.rules.now();
    let rows = rules.set.checks().map(|check| Listed(check_info(check)));
    let page = query.page_of(rows.collect(), CHECK_FIELDS, Timestamp::now())?;
    Ok(Json(Page {
        items: page.items.into_iter().map(|row| row.0).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
        forgotten_before: None,
    }))
}

/// Shows one check.
#[utoipa::path(
    get, path = "/api/v1/checks/{id}", operation_id = "show_check", tag = "checks",
    params(("id" = String, Path, description = "Its id"), OrgQuery),
    responses(
        (status = 200, body = CheckInfo),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn show(
    Shared(state): Shared<Arc<State>>,
    _caller: Caller,
    Segment(id): Segment,
    Query(_org): Query<OrgQuery>,
) -> Result<Json<CheckInfo>, Refusal> {
    let rules = state.rules.now();
    let check = rules.set.get(&id).map(|check| check_info(check));
    check.map(Json).ok_or_else(Refusal::not_found)
}

/// What a list of verdicts takes besides.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ResultQuery {
    /// Organisation, by id or name; the oldest of yours when absent.
    #[expect(
        dead_code,
        reason = "`access` reads it; here it is allowed and described"
    )]
    org: Option<String>,
    /// Terms such as `verdict=fail,unknown check~bucket`; see the manual for the grammar.
    filter: Option<String>,
    /// A list of verdicts has one order: this is refused.
    sort: Option<String>,
    /// Verdicts per page, 1 to 1000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this check.
    check: Option<String>,
    /// Only this resource, by URN; or a scope whose list was denied.
    resource: Option<String>,
}

/// A verdict before its evidence is looked up.
struct Bare<'r> {
    judged: &'r Judged,
    subject: &'r str,
}

impl Row for Bare<'_> {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "verdict" => Some(FieldValue::Text(self.judged.verdict.word())),
            "check" => Some(FieldValue::Text(&self.judged.check_id)),
            "resource" => Some(FieldValue::Text(self.subject)),
            "evaluated_at" => Some(FieldValue::Time(self.judged.evaluated_at)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look(&self.judged.check_id) || look(self.subject)
    }
}

fn subject_text(subject: &Subject) -> String {
    match subject {
        Subject::Resource(urn) => urn.to_string(),
        Subject::Scope(scope) => scope.to_string(),
    }
}

/// Joins verdicts on one subject with the facts that decided them. Facts that have changed since
/// and would decide otherwise are not shown as the evidence of what was decided before.
fn results_of(
    reader: &OrgReader,
    rules: &RuleSet,
    subject: &Subject,
    judged: &[&Judged],
) -> Result<Vec<CheckResult>, ReadError> {
    // Checks that were judged at one instant are judged together.
    let mut evidence = BTreeMap::new();
    if let Subject::Resource(urn) = subject {
        let mut by_instant: BTreeMap<Timestamp, Vec<&Check>> = BTreeMap::new();
        for one in judged {
            if let Some(check) = rules.get(&one.check_id) {
                by_instant.entry(one.evaluated_at).or_default().push(check);
            }
        }
        for (at, checks) in by_instant {
            let outcomes = posture::explain(reader, &checks, urn, at)?;
            for (check, outcome) in checks.iter().zip(outcomes) {
                evidence.insert(check.id().to_owned(), outcome);
            }
        }
    }
    let text = subject_text(subject);
    let results = judged.iter().map(|one| {
        let outcome = evidence
            .remove(&one.check_id)
            .filter(|outcome| verdict_of(outcome.verdict) == one.verdict);
        CheckResult {
            check_id: one.check_id.clone(),
            resource_urn: text.clone(),
            verdict: one.verdict,
            evidence: outcome.map(|outcome| outcome.evidence).unwrap_or_default(),
            gaps: one.gaps.iter().cloned().collect(),
            evaluated_at: one.evaluated_at,
            facts_hash: data_encoding::HEXLOWER.encode(&one.facts_hash),
        }
    });
    Ok(results.collect())
}

/// Where a list of verdicts goes on: after a row, with that many verdicts of the next one done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    done: usize,
    after: Option<String>,
}

/// Reads a cursor: `<verdicts done>~<cursor of the rows>`.
fn read_cursor(text: &str) -> Option<Place> {
    let (done, after) = text.split_once('~')?;
    Some(Place {
        done: done.parse().ok()?,
        after: (!after.is_empty()).then(|| after.to_owned()),
    })
}

impl Place {
    fn text(&self) -> String {
        format!("{}~{}", self.done, self.after.as_deref().unwrap_or(""))
    }
}

/// What a list of verdicts asks for.
struct Asked {
    filter: Filter,
    check: Option<String>,
    limit: usize,
}

impl Asked {
    fn wants(&self, judged: &Judged, subject: &str) -> bool {
        let is_check = self.check.as_ref().is_none_or(|id| *id == judged.check_id);
        is_check && self.filter.matches(&Bare { judged, subject })
    }

    /// Takes what is wanted of a row, beyond `done` and up to `room`; returns also how many
    /// verdicts of it are done then.
    fn take<'r>(&self, row: &'r VerdictRow, done: usize, room: usize) -> (Vec<&'r Judged>, usize) {
        let subject = subject_text(&row.subject);
        let mut taken = Vec::new();
        let mut seen = done.min(row.verdicts.len());
        for judged in row.verdicts.iter().skip(done) {
            if taken.len() == room {
                break;
            }
            seen += 1;
            if self.wants(judged, &subject) {
                taken.push(judged);
            }
        }
        (taken, seen)
    }
}

/// Lists the verdicts on one subject; the cursor is their number.
fn results_on(
    reader: &OrgReader,
    rules: &RuleSet,
    asked: &Asked,
    subject: &Subject,
    place: &Place,
) -> Result<Page<CheckResult>, ReadError> {
    let Some(row) = reader.verdicts(subject)? else {
        return Ok(page_of(Vec::new(), None));
    };
    let (taken, seen) = asked.take(&row, place.done, asked.limit);
    let items = results_of(reader, rules, subject, &taken)?;
    let next = (seen < row.verdicts.len()).then_some(Place {
        done: seen,
        after: None,
    });
    Ok(page_of(items, next))
}

fn page_of(items: Vec<CheckResult>, next: Option<Place>) -> Page<CheckResult> {
    Page {
        total: items.len() as u64,
        items,
        next_cursor: next.map(|place| place.text()),
        forgotten_before: None,
    }
}

/// Lists verdicts on everything.
fn results_everywhere(
    reader: &OrgReader,
    rules: &RuleSet,
    asked: &Asked,
    place: Place,
) -> Result<Page<CheckResult>, ReadError> {
    let (mut items, mut size) = (Vec::new(), Size::default());
    let Place {
        mut done,
        mut after,
    } = place;
    for _ in 0..LOOKED_THROUGH / ROWS_AT_ONCE {
        let page = reader.scan_verdicts(after.as_deref(), ROWS_AT_ONCE)?;
        for (index, row) in page.items.iter().enumerate() {
            let room = asked.limit.saturating_sub(items.len());
            let (taken, seen) = asked.take(row, done, room);
            let mut is_full = false;
            for result in results_of(reader, rules, &row.subject, &taken)? {
                is_full = size.is_full_with(&result);
                items.push(result);
            }
            done = 0;
            is_full |= items.len() >= asked.limit;
            if is_full && seen < row.verdicts.len() {
                // The rows of a page have no cursor each: ask again for those before this one.
                let after = match index {
                    0 => after,
                    before => reader.scan_verdicts(after.as_deref(), before)?.next,
                };
                return Ok(page_of(items, Some(Place { done: seen, after })));
            }
            if is_full {
                let is_last = index + 1 == page.items.len();
                let after = if is_last {
                    page.next
                } else {
                    reader.scan_verdicts(after.as_deref(), index + 1)?.next
                };
                let next = after.map(|after| Place {
                    done: 0,
                    after: Some(after),
                });
                return Ok(page_of(items, next));
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(page_of(items, None));
        }
    }
    Ok(page_of(items, Some(Place { done: 0, after })))
}

/// Lists every verdict, the passes too, with the facts that decided.
///
/// `total` counts this page only, and a page may be short or empty and yet not the last: how many
/// match in all is not known before all have been read.
#[utoipa::path(
    get, path = "/api/v1/check-results", operation_id = "list_check_results", tag = "checks",
    params(ResultQuery),
    responses(
        (status = 200, body = Page<CheckResult>),
        (status = 400, body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn results(
    Shared(state): Shared<Arc<State>>,
    member: Member,
    Query(query): Query<ResultQuery>,
) -> Result<Json<Page<CheckResult>>, Refusal> {
    let list = ListQuery {
        org: None,
        filter: query.filter,
        sort: query.sort,
        limit: query.limit,
        cursor: query.cursor,
    };
    list.unsorted()?;
    let asked = Asked {
        filter: list.filter(RESULT_FIELDS, Timestamp::now())?,
        check: query.check,
        limit: list.limit()?,
    };
    let place = match &list.cursor {
        None => Place::default(),
        Some(cursor) => read_cursor(cursor).ok_or(ReadError::Cursor)?,
    };
    let subject = query.resource.as_deref().map(read_subject).transpose()?;
    let rules = state.rules.now();
    let page = member
        .store
        .read(move |reader| match subject {
            Some(subject) => results_on(reader, &rules.set, &asked, &subject, &place),
            None => results_everywhere(reader, &rules.set, &asked, place),
        })
        .await?;
    Ok(Json(page))
}

/// Reads a resource's URN, or a scope.
fn read_subject(text: &str) -> Result<Subject, Refusal> {
    if let Ok(scope) = text.parse::<Scope>() {
        return Ok(Subject::Scope(scope));
    }
    text.parse::<Urn>()
        .map(Subject::Resource)
        .map_err(|error| Refusal::bad_request("bad_urn", format!("resource, {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        for place in [
            Place::default(),
            Place {
                done: 3,
                after: Some("AgAA~x".into()),
            },
        ] {
            assert_eq!(read_cursor(&place.text()), Some(place));
        }
        for bad in ["", "3", "x~y", "-1~"] {
            assert_eq!(read_cursor(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_scope_and_a_resource_are_told_apart_by_their_parts() {
        let scope = read_subject("aws/1/us-east-1/ec2.vpc").ok();
        assert!(matches!(scope, Some(Subject::Scope(_))));
        let urn = read_subject("aws/1/us-east-1/ec2.vpc/vpc-1").ok();
        assert!(matches!(urn, Some(Subject::Resource(_))));
        assert!(read_subject("vpc-1").is_err());
    }

    #[test]
    fn pages_within_a_row_follow_each_other_without_gap_or_repeat() {
        let urn: Urn = "aws/1/us-east-1/ec2.vpc/vpc-1".parse().unwrap();
        let judged = |n: usize| Judged {
            check_id: format!("aws.ec2.check-{n}"),
            verdict: if n.is_multiple_of(2) {
                Verdict::Pass
            } else {
                Verdict::Fail
            },
            evaluated_at: Timestamp::UNIX_EPOCH,
            facts_hash: [0; 32],
            due_at: None,
            gaps: vec![],
        };
        let row = VerdictRow {
            subject: Subject::Resource(urn),
            verdicts: (0..10).map(judged).collect(),
        };
        let asked = Asked {
            filter: Filter::parse("verdict=fail", RESULT_FIELDS, Timestamp::UNIX_EPOCH).unwrap(),
            check: None,
            limit: 2,
        };
        let (mut done, mut all) = (0, Vec::new());
        while done < row.verdicts.len() {
            let (taken, seen) = asked.take(&row, done, 2);
            assert!(seen > done, "no progress");
            all.extend(taken.into_iter().map(|one| one.check_id.clone()));
            done = seen;
        }
        let wanted: Vec<String> = [1, 3, 5, 7, 9]
            .map(|n| format!("aws.ec2.check-{n}"))
            .to_vec();
        assert_eq!(all, wanted);
    }
}
