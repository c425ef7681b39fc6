//! The life of a finding: what a judgement makes of the row that is there.
//!
//! ```text
//!            fails                 passes, gone, …
//!  (none) ──────────▶ open ───────────────────────▶ resolved
//!                     │  ▲ the mute ends               │ fails again
//!          a person   ▼  │                             │
//!                    muted ◀── while the mute holds ───┴──▶ open
//! ```
//! Unknown opens nothing and closes nothing: it is noted on an open or muted finding, with the
//! facts that could not be read. Pure: the store calls [`step`] when the write has its turn.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::document::Gap;
use protocol::ids::FindingId;
use serde_json::Value;
use store::rows::finding::{Actor, Cause, Finding, FindingChange, ResourceRef, Risk, Transition};
use store::rows::{FindingStatus, Severity, Verdict};

/// What a judgement saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// When.
    pub(super) at: Timestamp,
    /// What.
    pub(super) state: State,
}

/// What a judgement says of a finding.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// The check fails.
    Fails(Box<Failing>),
    /// A fact that decides it was not read.
    Unknown(BTreeMap<String, Gap>),
    /// There is nothing to find any more.
    Ends {
        /// What the check says.
        verdict: Verdict,
        /// Why, where the verdict does not say it.
        note: &'static str,
    },
}

/// A failure with everything that a finding shows of it.
#[derive(Debug, Clone)]
pub(super) struct Failing {
    pub(super) id: FindingId,
    pub(super) check_id: String,
    pub(super) title: String,
    pub(super) severity: Severity,
    pub(super) resource: ResourceRef,
    pub(super) evidence: BTreeMap<String, Value>,
    pub(super) facts_hash: [u8; 32],
    pub(super) cause: Option<Cause>,
    pub(super) risk: Risk,
}

/// Decides what becomes of a finding; `None` where nothing changes.
pub(super) fn step(current: Option<&Finding>, seen: &Seen) -> Option<FindingChange> {
    match (current, &seen.state) {
        (None, State::Fails(failing)) => Some(open(failing, seen.at)),
        (None, State::Unknown(_) | State::Ends { .. }) => None,
        (Some(current), State::Fails(failing)) => fails(current, failing, seen.at),
        (Some(current), State::Unknown(gaps)) => unknown(current, gaps, seen.at),
        (Some(current), State::Ends { verdict, note }) => ends(current, *verdict, note, seen.at),
    }
}

fn transition(
    from: Option<FindingStatus>,
    to: FindingStatus,
    verdict: Verdict,
    at: Timestamp,
    note: &str,
) -> Transition {
    Transition {
        at,
        from,
        to,
        verdict,
        by: Actor::Hub,
        note: note.to_owned(),
    }
}

fn open(failing: &Failing, at: Timestamp) -> FindingChange {
    let mut finding = Finding {
        id: failing.id,
        check_id: failing.check_id.clone(),
        title: String::new(),
        severity: failing.severity,
        status: FindingStatus::Open,
        verdict: Verdict::Fail,
        unknown_since: None,
        cause: None,
        resource: failing.resource.clone(),
        first_seen: at,
        last_seen: at,
        resolved_at: None,
        reopened: 0,
        evidence: BTreeMap::new(),
        gaps: BTreeMap::new(),
        facts_hash: failing.facts_hash,
        risk: failing.risk.clone(),
        mute: None,
        owner: None,
    };
    fill(&mut finding, failing);
    FindingChange {
        finding,
        transition: Some(transition(
            None,
            FindingStatus::Open,
            Verdict::Fail,
            at,
            "the check fails",
        )),
    }
}

/// Writes what the failure shows into the row, and nothing that belongs to its history.
fn fill(finding: &mut Finding, failing: &Failing) {
    finding.title.clone_from(&failing.title);
    finding.severity = failing.severity;
    finding.resource.clone_from(&failing.resource);
    finding.evidence.clone_from(&failing.evidence);
    finding.facts_hash = failing.facts_hash;
    finding.cause.clone_from(&failing.cause);
    finding.risk.clone_from(&failing.risk);
    finding.verdict = Verdict::Fail;
    finding.unknown_since = None;
    finding.gaps.clear();
}

/// Says whether a person's mute holds at an instant.
fn in_force(finding: &Finding, at: Timestamp) -> bool {
    let holds = |until: Option<Timestamp>| until.is_none_or(|until| at < until);
    finding.mute.as_ref().is_some_and(|mute| holds(mute.until))
}

/// Returns the status of a finding that is not resolved: muted while a mute holds.
fn standing(finding: &Finding, at: Timestamp) -> FindingStatus {
    if in_force(finding, at) {
        FindingStatus::Muted
    } else {
        FindingStatus::Open
    }
}

fn fails(current: &Finding, failing: &Failing, at: Timestamp) -> Option<FindingChange> {
    let mut finding = current.clone();
    fill(&mut finding, failing);
    finding.status = standing(current, at);
    finding.resolved_at = None;
    if finding.status == FindingStatus::Open {
        finding.mute = None;
    }
    let note = match current.status {
        FindingStatus::Resolved => {
            finding.reopened = finding.reopened.saturating_add(1);
            Some("the check fails again")
        }
        FindingStatus::Muted if finding.status == FindingStatus::Open => Some("the mute has ended"),
        FindingStatus::Open | FindingStatus::Muted => {
            (current.verdict == Verdict::Unknown).then_some("its facts can be read again")
        }
    };
    if note.is_none() && says_the_same(&finding, current) {
        return None;
    }
    finding.last_seen = at;
    let transition = note.map(|note| {
        transition(
            Some(current.status),
            finding.status,
            Verdict::Fail,
            at,
            note,
        )
    });
    Some(FindingChange {
        finding,
        transition,
    })
}

/// Says whether two rows show the same failure. The instant of the judgement is evidence of a
/// check that reads the clock, and no news.
fn says_the_same(finding: &Finding, current: &Finding) -> bool {
    let mut timeless = finding.clone();
    if let (Some(now), Some(then)) = (
        timeless.evidence.get_mut("now"),
        current.evidence.get("now"),
    ) {
        now.clone_from(then);
    }
    timeless == *current
}

fn unknown(
    current: &Finding,
    gaps: &BTreeMap<String, Gap>,
    at: Timestamp,
) -> Option<FindingChange> {
    if current.status == FindingStatus::Resolved {
        return None;
    }
    let mut finding = current.clone();
    finding.status = standing(current, at);
    if finding.status == FindingStatus::Open {
        finding.mute = None;
    }
    finding.verdict = Verdict::Unknown;
    finding.unknown_since = current.unknown_since.or(Some(at));
    finding.gaps.clone_from(gaps);
    let note = if current.verdict != Verdict::Unknown {
        Some("a fact that decides it can no longer be read")
    } else {
        (current.status != finding.status).then_some("the mute has ended")
    };
    if note.is_none() && finding == *current {
        return None;
    }
    let transition = note.map(|note| {
        transition(
            Some(current.status),
            finding.status,
            Verdict::Unknown,
            at,
            note,
        )
    });
    Some(FindingChange {
        finding,
        transition,
    })
}

/// Resolves. A mute stays in the row: it holds over a failure that comes back before its end.
fn ends(current: &Finding, verdict: Verdict, note: &str, at: Timestamp) -> Option<FindingChange> {
    if current.status == FindingStatus::Resolved {
        return None;
    }
    let mut finding = current.clone();
    finding.status = FindingStatus::Resolved;
    finding.resolved_at = Some(at);
    // The row tells what was found. That it is no more is its status.
    finding.verdict = Verdict::Fail;
    finding.unknown_since = None;
    finding.gaps.clear();
    Some(FindingChange {
        transition: Some(transition(
            Some(current.status),
            FindingStatus::Resolved,
            verdict,
            at,
            note,
        )),
        finding,
    })
}

#[cfg(test)]
mod tests {
    use protocol::ids::{OrgId, UserId};
    use serde_json::json;
    use store::rows::finding::Mute;

    use super::*;

    #[test]
    fn a_failing_check_opens_passes_resolve_and_a_second_failure_reopens() {
        let (finding, steps) = play(None, [fails_with(1), passes(), passes(), fails_with(1)]);
        assert_eq!(
            steps,
            [
                "open fail: the check fails",
                "resolved pass: ",
                "nothing",
                "open fail: the check fails again",
            ]
        );
        let finding = finding.unwrap();
        assert_eq!(finding.reopened, 1);
        assert_eq!(finding.first_seen, at(0));
        assert_eq!(finding.last_seen, at(3));
        assert_eq!(finding.resolved_at, None);
    }

    #[test]
    fn unknown_opens_nothing_and_closes_nothing() {
        let (finding, steps) = play(None, [unreadable("A"), passes(), unreadable("A")]);
        assert_eq!(steps, ["nothing", "nothing", "nothing"]);
        assert_eq!(finding, None);

        let (finding, steps) = play(
            None,
            [
                fails_with(1),
                unreadable("A"),
                unreadable("A"),
                unreadable("B"),
            ],
        );
        assert_eq!(
            steps,
            [
                "open fail: the check fails",
                "open unknown: a fact that decides it can no longer be read",
                "nothing",
                "the row alone",
            ]
        );
        let finding = finding.unwrap();
        assert_eq!(finding.status, FindingStatus::Open);
        assert_eq!(finding.unknown_since, Some(at(1)));
        assert_eq!(finding.last_seen, at(0));
        assert_eq!(finding.evidence, [("A".to_owned(), json!(1))].into());

        let (finding, steps) = play(None, [fails_with(1), passes(), unreadable("A")]);
        assert_eq!(steps.last().unwrap(), "nothing");
        assert_eq!(finding.unwrap().status, FindingStatus::Resolved);
    }

    #[test]
    fn facts_that_can_be_read_again_end_the_unknown_without_reopening() {
        let (finding, steps) = play(None, [fails_with(1), unreadable("A"), fails_with(1)]);
        assert_eq!(
            steps.last().unwrap(),
            "open fail: its facts can be read again"
        );
        let finding = finding.unwrap();
        assert_eq!(finding.reopened, 0);
        assert_eq!(finding.unknown_since, None);
        assert!(finding.gaps.is_empty());
    }

    #[test]
    fn the_same_failure_again_changes_nothing_and_other_facts_change_the_row_alone() {
        let (finding, steps) = play(None, [fails_with(1), fails_with(1), fails_with(2)]);
        assert_eq!(
            steps,
            ["open fail: the check fails", "nothing", "the row alone"]
        );
        assert_eq!(finding.unwrap().last_seen, at(2));

        let at_instant = |instant: &str| {
            let State::Fails(mut failing) = fails_with(1) else {
                unreachable!()
            };
            failing.evidence.insert("now".to_owned(), json!(instant));
            State::Fails(failing)
        };
        let (_, steps) = play(None, [at_instant("1"), at_instant("2")]);
        assert_eq!(steps, ["open fail: the check fails", "nothing"]);
    }

    #[test]
    fn a_mute_holds_over_resolution_until_its_end() {
        let mut finding = play(None, [fails_with(1)]).0.unwrap();
        finding.status = FindingStatus::Muted;
        finding.mute = Some(Mute {
            reason: "accepted".to_owned(),
            by: UserId::from_bytes([7; 16]),
            at: at(0),
            until: Some(at(3)),
        });
        let (finding, steps) = play(
            Some(finding),
            [
                fails_with(1),
                passes(),
                fails_with(1),
                fails_with(1),
                fails_with(1),
            ],
        );
        assert_eq!(
            steps,
            [
                "nothing",
                "resolved pass: ",
                "muted fail: the check fails again",
                "open fail: the mute has ended",
                "nothing",
            ]
        );
        assert_eq!(finding.unwrap().mute, None);
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn fails_with(value: u8) -> State {
        let urn: protocol::Urn = "aws/1/eu-west-1/ec2.volume/v".parse().unwrap();
        let org = OrgId::from_bytes([1; 16]);
        State::Fails(Box::new(Failing {
            id: Finding::id_of(org, "aws.ec2.c", &urn),
            check_id: "aws.ec2.c".to_owned(),
            title: "T".to_owned(),
            severity: Severity::High,
            resource: ResourceRef {
                urn,
                type_name: "aws.ec2.volume".to_owned(),
                name: "v".to_owned(),
                account: "1".to_owned(),
                region: "eu-west-1".to_owned(),
                provider: "aws".to_owned(),
            },
            evidence: [("A".to_owned(), json!(value))].into(),
            facts_hash: [value; 32],
            cause: None,
            risk: Risk {
                score: 0,
                factors: Vec::new(),
            },
        }))
    }

    fn unreadable(path: &str) -> State {
        let gap = Gap {
            call: "ec2:DescribeVolumes".to_owned(),
            error: "AccessDenied".to_owned(),
        };
        State::Unknown([(path.to_owned(), gap)].into())
    }

    fn passes() -> State {
        State::Ends {
            verdict: Verdict::Pass,
            note: "",
        }
    }

    /// Plays states a second apart; returns the row at the end and what each step did.
    fn play<const N: usize>(
        mut finding: Option<Finding>,
        states: [State; N],
    ) -> (Option<Finding>, Vec<String>) {
        let mut steps = Vec::new();
        for (second, state) in (0..).zip(states) {
            let seen = Seen {
                at: at(second),
                state,
            };
            steps.push(match step(finding.as_ref(), &seen) {
                None => "nothing".to_owned(),
                Some(change) => {
                    finding = Some(change.finding);
                    match change.transition {
                        None => "the row alone".to_owned(),
                        Some(step) => {
                            let (to, verdict) = (step.to.word(), step.verdict.word());
                            format!("{to} {verdict}: {}", step.note)
                        }
                    }
                }
            });
        }
        (finding, steps)
    }
}
