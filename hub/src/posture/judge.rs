//! Judges one subject: every check on it, the row of its verdicts, and what becomes of its
//! findings.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use protocol::document::Gap;
use protocol::ids::{FindingId, OrgId};
use protocol::{Scope, Urn};
use rules::{Check, Direction, Outcome};
use store::error::ReadError;
use store::rows::finding::{Cause, Finding, ResourceRef};
use store::rows::resource::{Resource, ScopeState, Subject};
use store::rows::verdict::{Judged, VerdictRow};
use store::rows::{FindingStatus, Severity, Verdict};

use super::facts::{Ends, Facts, Library, is_living};
use super::finding::{Failing, Seen, State};
use super::risk;

/// What a judgement changes.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// The row of verdicts.
    pub(super) row: Row,
    /// What was seen of findings that are there or begin.
    pub(super) findings: Vec<(FindingId, Seen)>,
}

/// What becomes of a row of verdicts.
#[derive(Debug, Default)]
pub(super) enum Row {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is written.
    Put(VerdictRow),
    /// It is removed.
    Delete(Subject),
}

/// Judges a subject.
pub(super) fn subject(
    org: OrgId,
    library: &mut Library<'_>,
    subject: &Subject,
    now: Timestamp,
) -> Result<Judgement, ReadError> {
    match subject {
        Subject::Scope(scope) => denied(library, scope, now),
        Subject::Resource(urn) => match library.resource(urn)? {
            Some(found) if is_living(&found) => resource(org, library, &found, now),
            Some(_) | None => gone(org, library, urn, now),
        },
    }
}

/// Judges a living resource.
fn resource(
    org: OrgId,
    library: &mut Library<'_>,
    found: &Arc<Resource>,
    now: Timestamp,
) -> Result<Judgement, ReadError> {
    let document = &found.document;
    let urn = &document.urn;
    let about = Subject::Resource(urn.clone());
    let before = library.reader.verdicts(&about)?;
    let rules = library.rules;
    let checks: Vec<&Check> = rules
        .for_type(&document.type_name)
        .iter()
        .map(|check| &**check)
        .collect();
    if checks.is_empty() && before.is_none() {
        return Ok(Judgement::default());
    }
    let facts = library.gather(document, &checks)?;
    let mut judgement = Judgement::default();
    let mut verdicts = Vec::with_capacity(checks.len());
    for check in &checks {
        let outcome = outcome(check, found, &facts, now);
        let hash = facts_hash(check, found, &facts);
        let id = Finding::id_of(org, check.id(), urn);
        let seen = state(org, check, found, &outcome, hash);
        // A finding that is not resolved has a row that says so, since both are written in one
        // commit. Most resources pass most checks, and need no look at findings that are not there.
        let may_stand = former(before.as_ref(), check)
            .is_some_and(|former| matches!(former.verdict, Verdict::Fail | Verdict::Unknown));
        let known = if may_stand || matches!(seen, State::Fails(_)) {
            library.reader.finding(id)?
        } else {
            None
        };
        verdicts.push(entry(check, &outcome, hash, known.as_ref(), now));
        if matches!(seen, State::Fails(_)) || known.is_some() {
            let seen = Seen {
                at: now,
                state: seen,
            };
            judgement.findings.push((id, seen));
        }
    }
    for former in before.iter().flat_map(|row| &row.verdicts) {
        if checks.iter().all(|check| check.id() != former.check_id) {
            let id = Finding::id_of(org, &former.check_id, urn);
            let ended = ended("the check is no longer in force", now);
            judgement.findings.push((id, ended));
        }
    }
    judgement.row = row(about, verdicts, before.as_ref());
    Ok(judgement)
}

/// Returns what a check said before.
fn former<'r>(before: Option<&'r VerdictRow>, check: &Check) -> Option<&'r Judged> {
    before?
        .verdicts
        .iter()
        .find(|former| former.check_id == check.id())
}

/// Judges a resource that is there no more.
fn gone(
    org: OrgId,
    library: &Library<'_>,
    urn: &Urn,
    now: Timestamp,
) -> Result<Judgement, ReadError> {
    let about = Subject::Resource(urn.clone());
    let before = library.reader.verdicts(&about)?;
    let rules = library.rules;
    let mut ids: Vec<FindingId> = rules
        .for_type(&urn.scope.type_name())
        .iter()
        .map(|check| Finding::id_of(org, check.id(), urn))
        .collect();
    let former = before.iter().flat_map(|row| &row.verdicts);
    ids.extend(former.map(|former| Finding::id_of(org, &former.check_id, urn)));
    ids.sort_unstable();
    ids.dedup();
    Ok(Judgement {
        findings: ids
            .into_iter()
            .map(|id| (id, ended("the resource is gone", now)))
            .collect(),
        row: match before {
            Some(_) => Row::Delete(about),
            None => Row::Keep,
        },
    })
}

/// Judges a scope: one UNKNOWN a check where its list was denied. It opens no finding, and it
/// stays until a sweep is complete.
fn denied(
    library: &mut Library<'_>,
    scope: &Scope,
    now: Timestamp,
) -> Result<Judgement, ReadError> {
    let about = Subject::Scope(scope.clone());
    let before = library.reader.verdicts(&about)?;
    let scopes = library.scopes()?;
    let state = scopes.get(scope).map(|status| &status.state);
    let Some(gap) = unreadable(state, before.as_ref()) else {
        return Ok(Judgement {
            row: match before {
                Some(_) => Row::Delete(about),
                None => Row::Keep,
            },
            findings: Vec::new(),
        });
    };
    let hash = denied_hash(scope, &gap);
    let verdicts: Vec<Judged> = library
        .rules
        .for_type(&scope.type_name())
        .iter()
        .map(|check| entry(check, &check.for_denied_scope(&gap), hash, None, now))
        .collect();
    Ok(Judgement {
        row: row(about, verdicts, before.as_ref()),
        findings: Vec::new(),
    })
}

/// Returns why a scope's list cannot be read. A sweep that has begun anew proves nothing yet, so
/// that what was said before stands.
fn unreadable(state: Option<&ScopeState>, before: Option<&VerdictRow>) -> Option<Gap> {
    match state {
        Some(ScopeState::Failed(gap)) => Some(gap.clone()),
        Some(ScopeState::Sweeping | ScopeState::Mismatched) => {
            let former = before?.verdicts.first()?;
            former.gaps.first().map(|(_, gap)| gap.clone())
        }
        Some(ScopeState::Complete | ScopeState::Held(_)) | None => None,
    }
}

/// Returns what becomes of a row. A judgement that says the same again is not written: it would
/// be a million rows after each sweep.
fn row(about: Subject, verdicts: Vec<Judged>, before: Option<&VerdictRow>) -> Row {
    let Some(before) = before else {
        return if verdicts.is_empty() {
            Row::Keep
        } else {
            Row::Put(VerdictRow {
                subject: about,
                verdicts,
            })
        };
    };
    if verdicts.is_empty() {
        return Row::Delete(about);
    }
    let says_the_same = |one: &Judged, other: &Judged| {
        let timeless = Judged {
            evaluated_at: other.evaluated_at,
            ..one.clone()
        };
        timeless == *other
    };
    let is_same = verdicts.len() == before.verdicts.len()
        && verdicts
            .iter()
            .zip(&before.verdicts)
            .all(|(one, other)| says_the_same(one, other));
    if is_same {
        Row::Keep
    } else {
        Row::Put(VerdictRow {
            subject: about,
            verdicts,
        })
    }
}

/// Asks one check.
pub(super) fn outcome(check: &Check, found: &Resource, facts: &Facts, now: Timestamp) -> Outcome {
    check.evaluate(&rules::Subject {
        document: &found.document,
        account: facts.account.as_ref().map(|account| &account.document),
        neighbours: facts,
        now,
    })
}

fn entry(
    check: &Check,
    outcome: &Outcome,
    facts_hash: [u8; 32],
    finding: Option<&Finding>,
    now: Timestamp,
) -> Judged {
    // The end of a mute is an instant at which what is shown changes, too.
    let mute_ends = finding
        .filter(|finding| finding.status == FindingStatus::Muted)
        .and_then(|finding| finding.mute.as_ref()?.until);
    // What is due is in the future, or the same subject would fall due for ever.
    let due_at = [outcome.due_at, mute_ends]
        .into_iter()
        .flatten()
        .map(storable)
        .filter(|due| *due > now)
        .min();
    Judged {
        check_id: check.id().to_owned(),
        verdict: verdict(outcome),
        evaluated_at: now,
        facts_hash,
        due_at,
        gaps: outcome
            .gaps
            .iter()
            .map(|(path, gap)| (path.clone(), gap.clone()))
            .collect(),
    }
}

/// Returns an instant at the precision of the store, never before the given one.
fn storable(instant: Timestamp) -> Timestamp {
    let up = TimestampRound::new()
        .smallest(Unit::Microsecond)
        .mode(RoundMode::Ceil);
    instant.round(up).unwrap_or(instant)
}

/// Returns the verdict as it is stored. A check that broke on a resource says nothing of it.
fn verdict(outcome: &Outcome) -> Verdict {
    match outcome.verdict {
        rules::Verdict::Pass => Verdict::Pass,
        rules::Verdict::Fail => Verdict::Fail,
        rules::Verdict::Unknown | rules::Verdict::Broken => Verdict::Unknown,
        rules::Verdict::NotApplicable => Verdict::NotApplicable,
    }
}

fn severity(check: &Check) -> Severity {
    match check.severity() {
        rules::Severity::Info => Severity::Info,
        rules::Severity::Low => Severity::Low,
        rules::Severity::Medium => Severity::Medium,
        rules::Severity::High => Severity::High,
        rules::Severity::Critical => Severity::Critical,
    }
}

/// Returns what an outcome says of the finding.
fn state(
    org: OrgId,
    check: &Check,
    found: &Resource,
    outcome: &Outcome,
    facts_hash: [u8; 32],
) -> State {
    let document = &found.document;
    match verdict(outcome) {
        Verdict::Pass => State::Ends {
            verdict: Verdict::Pass,
            note: "",
        },
        Verdict::NotApplicable | Verdict::Manual => State::Ends {
            verdict: Verdict::NotApplicable,
            note: "the check does not apply any more",
        },
        Verdict::Unknown => State::Unknown(outcome.gaps.clone()),
        Verdict::Fail => {
            let cause = outcome.cause.as_ref().map(|urn| Cause {
                id: Resource::id_of(org, urn),
                urn: urn.clone(),
            });
            State::Fails(Box::new(Failing {
                id: Finding::id_of(org, check.id(), &document.urn),
                check_id: check.id().to_owned(),
                title: check.title().to_owned(),
                severity: severity(check),
                resource: reference(found),
                evidence: outcome.evidence.clone(),
                facts_hash,
                cause,
                risk: risk::score(check.id(), severity(check), document.tags.as_ref()),
            }))
        }
    }
}

fn reference(found: &Resource) -> ResourceRef {
    let document = &found.document;
    ResourceRef {
        urn: document.urn.clone(),
        type_name: document.type_name.clone(),
        name: document.name.clone(),
        account: document.account.clone(),
        region: document.region.clone(),
        provider: document.provider.clone(),
    }
}

fn ended(note: &'static str, now: Timestamp) -> Seen {
    Seen {
        at: now,
        state: State::Ends {
            verdict: Verdict::NotApplicable,
            note,
        },
    }
}

/// Returns the hash of the facts that a check reads: the content of the resource, of the account
/// where it is read, and of each neighbour.
fn facts_hash(check: &Check, found: &Resource, facts: &Facts) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("zero-x facts of a verdict 1");
    hasher.update(&found.content_hash);
    if check.reads_account() {
        hasher.update(b"account");
        if let Some(account) = &facts.account {
            hasher.update(&account.content_hash);
        }
    }
    let relations: BTreeMap<(Option<bool>, &str), Option<&Ends>> = check
        .relations()
        .map(|(rel, direction, _)| match direction {
            Direction::Outgoing => ((Some(true), rel), facts.outgoing.get(rel)),
            Direction::Incoming => ((Some(false), rel), facts.incoming.get(rel)),
            Direction::Account => ((None, rel), None),
        })
        .collect();
    for ((direction, rel), ends) in relations {
        hasher.update(match direction {
            Some(true) => b"outgoing",
            Some(false) => b"incoming",
            None => b"account ",
        });
        hasher.update(&(rel.len() as u64).to_le_bytes());
        hasher.update(rel.as_bytes());
        for end in ends.into_iter().flat_map(|ends| &ends.resources) {
            hasher.update(&end.content_hash);
        }
    }
    *hasher.finalize().as_bytes()
}

fn denied_hash(scope: &Scope, gap: &Gap) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("zero-x denied scope 1");
    for text in [&scope.to_string(), &gap.call, &gap.error] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
