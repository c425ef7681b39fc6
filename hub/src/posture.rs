//! Posture: from changed facts to verdicts and findings.
//!
//! ```text
//! changes since the cursor ─▶ spread: who reads them ─▶ facts ─▶ checks ─▶ verdict row
//!                                                                    └──▶ finding: open, resolve, …
//! new rules ─▶ everything          a verdict falls due ─▶ its subject
//! ```
//! One task for each organisation; the cursor moves in the commit that holds the last of its
//! verdicts, so that a crash judges again and loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::OrgId;
use protocol::{Scope, Urn};
use rules::{Check, Outcome, RuleSet};
use store::error::{ApplianceError, CommitError, ReadError};
use store::rows::resource::{Change, Subject};
use store::{Appliance, OrgReader, OrgStore, Store};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::live::{Changed, Live, What};
use crate::ruleset::Rules;

mod facts;
mod finding;
mod judge;
mod risk;
mod spread;
#[cfg(test)]
mod tests;

use facts::{Library, UnreadLinks, is_living};
use judge::{Judgement, Row};

/// Changes that are read at a time.
const CHANGES: usize = 2000;

/// Subjects that are judged on one snapshot and written in one commit.
const SUBJECTS: usize = 250;

/// Subjects that fall due and are judged in one pass; the rest follows at once.
const DUE: usize = 5000;

/// How soon a pass that failed is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// How often who waits for an instant looks at the clock, which may be set. That is not asking the
/// store: an organisation without changes leaves its file alone until a verdict falls due.
const CLOCK_EVERY: Duration = Duration::from_secs(30);

/// Time in which commits gather before a pass: a sweep makes hundreds, and each pass is a commit of
/// its own, whose sync other organisations wait for.
const GATHER: Duration = Duration::from_millis(100);

/// How often the list of organisations is read again when nobody told of a new one.
const ORGS_EVERY: Duration = Duration::from_secs(300);

/// Why a pass over the checks failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PostureError {
    /// Facts cannot be read.
    #[error("facts cannot be read")]
    Read(#[from] ReadError),
    /// Verdicts cannot be written.
    #[error("verdicts cannot be written")]
    Commit(#[from] CommitError),
    /// The rules that were judged by cannot be noted.
    #[error("the rules in force cannot be noted")]
    Appliance(#[from] ApplianceError),
}

/// What the task of every organisation gets.
#[derive(Clone)]
struct Shared {
    appliance: Appliance,
    live: Arc<Live>,
    rules: watch::Receiver<Arc<Rules>>,
    stop: CancellationToken,
}

/// Returns what checks say of a living resource at an instant, with the evidence, in the order of
/// `checks`; nothing where the resource is not there.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn explain(
    reader: &OrgReader,
    checks: &[&Check],
    urn: &Urn,
    at: Timestamp,
) -> Result<Vec<Outcome>, ReadError> {
    // The checks are given, so the library has none to offer.
    let rules = RuleSet::default();
    let mut unread_links = UnreadLinks::new();
    let mut library = Library::new(reader, &rules, &mut unread_links);
    let Some(found) = library.resource(urn)?.filter(|found| is_living(found)) else {
        return Ok(Vec::new());
    };
    let facts = library.gather(&found.document, checks)?;
    let outcomes = checks
        .iter()
        .map(|check| judge::outcome(check, &found, &facts, at));
    Ok(outcomes.collect())
}

/// Judges every organisation until it is told to stop.
pub(crate) async fn run(
    store: Store,
    live: Arc<Live>,
    rules: watch::Receiver<Arc<Rules>>,
    stop: CancellationToken,
) {
    let shared = Shared {
        appliance: store.appliance(),
        live: Arc::clone(&live),
        rules,
        stop: stop.clone(),
    };
    let mut made = live.orgs_made();
    let mut again = interval(ORGS_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let followers = TaskTracker::new();
    let mut followed = BTreeSet::new();
    loop {
        // Cancel safe: a tick and a new organisation are told of again.
        tokio::select! {
            () = stop.cancelled() => break,
            _ = again.tick() => {}
            told = made.changed() => if told.is_err() { break },
        }
        let orgs = match shared.appliance.orgs().await {
            Ok(orgs) => orgs,
            Err(error) => {
                error!(%error, "organisations could not be listed");
                continue;
            }
        };
        for org in orgs {
            if followed.contains(&org.id) {
                continue;
            }
            match store.maintenance(org.id).await {
                Ok(Some(store)) => {
                    followed.insert(org.id);
                    followers.spawn(follow(store, shared.clone()));
                }
                // It was deleted since the list was made.
                Ok(None) => {}
                Err(error) => {
                    error!(org = %org.id, %error, "an organisation's store could not be opened");
                }
            }
        }
    }
    followers.close();
    followers.wait().await;
}

/// Judges one organisation whenever something changed, falls due, or the rules do.
async fn follow(store: OrgStore, shared: Shared) {
    let org = store.org();
    let mut commits = store.commits();
    let mut rules = shared.rules.clone();
    let mut evaluator = Evaluator::new(store, shared.appliance.clone());
    loop {
        // What is told of while a pass runs is taken with the next.
        commits.borrow_and_update();
        let in_force = Arc::clone(&rules.borrow_and_update());
        // Cut between commits at a stop: the cursor says where to go on.
        let passed = tokio::select! {
            () = shared.stop.cancelled() => return,
            passed = evaluator.pass(&in_force, Timestamp::now()) => passed,
        };
        let next = match passed {
            Ok((passed, next)) => {
                if passed.findings {
                    shared.live.tell(Changed {
                        org,
                        what: What::Findings,
                    });
                }
                if passed.more {
                    continue;
                }
                next
            }
            // Its organisation was purged, or the hub ends.
            Err(
                PostureError::Read(ReadError::Closed) | PostureError::Commit(CommitError::Closed),
            ) => return,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(%org, %error, cause, "a pass over the checks failed");
                Timestamp::now().checked_add(AGAIN).ok()
            }
        };
        // Cancel safe: each is told of again. Every commit comes by here, so the next instant that
        // is known is the next one there is.
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = fallen_due(next) => {}
            told = commits.changed() => {
                if told.is_err() {
                    return;
                }
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = sleep(GATHER) => {}
                }
            }
            told = rules.changed() => if told.is_err() { return },
        }
    }
}

/// Waits until an instant; for ever where there is none.
async fn fallen_due(at: Option<Timestamp>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    loop {
        let left = at.duration_since(Timestamp::now());
        if !left.is_positive() {
            return;
        }
        let left = Duration::try_from(left).unwrap_or(CLOCK_EVERY);
        sleep(left.min(CLOCK_EVERY)).await;
    }
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Passed {
    /// Whether a finding changed.
    findings: bool,
    /// Whether there is more to do, at a later instant.
    more: bool,
}

impl Passed {
    fn and(self, other: Self) -> Self {
        Self {
            findings: self.findings || other.findings,
            more: self.more || other.more,
        }
    }
}

/// Judges one organisation.
struct Evaluator {
    store: OrgStore,
    appliance: Appliance,
    unread_links: UnreadLinks,
}

impl Evaluator {
    fn new(store: OrgStore, appliance: Appliance) -> Self {
        Self {
            store,
            appliance,
            unread_links: UnreadLinks::new(),
        }
    }

    /// As [`Evaluator::catch_up`], and returns when the next verdict falls due.
    async fn pass(
        &mut self,
        rules: &Arc<Rules>,
        now: Timestamp,
    ) -> Result<(Passed, Option<Timestamp>), PostureError> {
        let passed = self.catch_up(rules, now).await?;
        Ok((passed, self.store.next_due().await?))
    }

    /// Judges what there is to judge, as much as one instant should stand for.
    async fn catch_up(
        &mut self,
        rules: &Arc<Rules>,
        now: Timestamp,
    ) -> Result<Passed, PostureError> {
        let mut passed = self.adopt(rules, now).await?;
        passed = passed.and(self.follow_changes(rules, now).await?);
        let due = self.store.due(now, DUE).await?;
        if !due.is_empty() {
            passed.more |= due.len() == DUE;
            passed = passed.and(self.judge_some(rules, due, now, None).await?);
        }
        Ok(passed)
    }

    /// Judges everything where the rules are not those that were judged by.
    async fn adopt(&mut self, rules: &Arc<Rules>, now: Timestamp) -> Result<Passed, PostureError> {
        let name = format!("posture/rules/{}", self.store.org());
        let judged_by = self.appliance.secret(&name).await?;
        if judged_by.is_some_and(|known| *known == rules.fingerprint) {
            return Ok(Passed::default());
        }
        let (passed, resources) = self.judge_all(rules, now).await?;
        let fingerprint = Zeroizing::new(rules.fingerprint.to_vec());
        self.appliance.put_secret(&name, fingerprint).await?;
        info!(org = %self.store.org(), resources, "judged everything by new rules");
        Ok(passed)
    }

    /// Judges what changed next after the cursor, and whoever reads it.
    async fn follow_changes(
        &mut self,
        rules: &Arc<Rules>,
        now: Timestamp,
    ) -> Result<Passed, PostureError> {
        let Some((changes, up_to)) = self.next_changes().await? else {
            return Ok(Passed::default());
        };
        let in_force = Arc::clone(rules);
        let subjects = self
            .read(move |reader, unread_links| {
                let mut library = Library::new(reader, &in_force.set, unread_links);
                spread::subjects(&mut library, &changes)
            })
            .await?;
        let subjects = subjects.into_iter().collect();
        let mut passed = self.judge_some(rules, subjects, now, Some(up_to)).await?;
        passed.more = true;
        Ok(passed)
    }

    /// Returns the next changes and the commit up to which they are all there are.
    async fn next_changes(&self) -> Result<Option<(Vec<Change>, u64)>, PostureError> {
        let since = self.store.judged_up_to().await?;
        let mut limit = CHANGES;
        loop {
            let mut changes = self.store.changes(since, limit).await?;
            let Some(last) = changes.last().map(|change| change.commit) else {
                return Ok(None);
            };
            if changes.len() < limit {
                return Ok(Some((changes, last)));
            }
            // The last commit may have been cut, so it waits for the next round.
            changes.retain(|change| change.commit < last);
            if let Some(whole) = changes.last() {
                let up_to = whole.commit;
                return Ok(Some((changes, up_to)));
            }
            // One commit has more; its size is bounded by the store.
            limit = limit.saturating_mul(2);
        }
    }

    /// Judges every living resource and every scope; returns how many resources.
    async fn judge_all(
        &mut self,
        rules: &Arc<Rules>,
        now: Timestamp,
    ) -> Result<(Passed, usize), PostureError> {
        let scopes: Vec<Scope> = self
            .store
            .read(|reader| {
                Ok(reader
                    .scopes()?
                    .into_iter()
                    .map(|status| status.scope)
                    .collect())
            })
            .await?;
        let mut passed = Passed::default();
        let mut count = 0;
        // A scope at a time: an organisation may have more resources than memory should hold.
        for scope in scopes {
            let mut subjects = vec![Subject::Scope(scope.clone())];
            let resources = self.store.resources_in(&scope).await?;
            count += resources.len();
            subjects.extend(
                resources
                    .into_iter()
                    .map(|resource| Subject::Resource(resource.document.urn)),
            );
            passed = passed.and(self.judge_some(rules, subjects, now, None).await?);
        }
        Ok((passed, count))
    }

    /// Judges subjects, some at a time; the last commit moves the cursor.
    async fn judge_some(
        &mut self,
        rules: &Arc<Rules>,
        subjects: Vec<Subject>,
        now: Timestamp,
        up_to: Option<u64>,
    ) -> Result<Passed, PostureError> {
        let mut passed = Passed::default();
        let mut rest = subjects.into_iter().peekable();
        loop {
            let some: Vec<Subject> = rest.by_ref().take(SUBJECTS).collect();
            let in_force = Arc::clone(rules);
            let org = self.store.org();
            let judgements = self
                .read(move |reader, unread_links| {
                    judge_on(org, reader, &in_force, unread_links, &some, now)
                })
                .await?;
            let mut write = self.store.write();
            for judgement in judgements {
                match judgement.row {
                    Row::Keep => {}
                    Row::Put(row) => write.put_verdicts(row),
                    Row::Delete(subject) => write.delete_verdicts(&subject),
                }
                for (id, seen) in judgement.findings {
                    passed.findings = true;
                    write.update_finding(id, move |current| finding::step(current, &seen));
                }
            }
            let is_last = rest.peek().is_none();
            if let Some(up_to) = up_to.filter(|_| is_last) {
                write.changes_judged(up_to);
            }
            if !write.is_empty() {
                write.commit().await?;
            }
            if is_last {
                return Ok(passed);
            }
        }
    }

    /// Reads at one snapshot, with what is remembered of unread links.
    ///
    /// # Cancel safety
    /// What was remembered is lost and found again.
    async fn read<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&OrgReader, &mut UnreadLinks) -> Result<R, ReadError> + Send + 'static,
    ) -> Result<R, ReadError> {
        let mut unread_links = std::mem::take(&mut self.unread_links);
        let (result, unread_links) = self
            .store
            .read(move |reader| {
                let result = work(reader, &mut unread_links)?;
                Ok((result, unread_links))
            })
            .await?;
        self.unread_links = unread_links;
        Ok(result)
    }
}

/// Judges subjects on one snapshot. Findings that the judgement leaves as they are, are left out.
fn judge_on(
    org: OrgId,
    reader: &OrgReader,
    rules: &Rules,
    unread_links: &mut UnreadLinks,
    subjects: &[Subject],
    now: Timestamp,
) -> Result<Vec<Judgement>, ReadError> {
    let mut library = Library::new(reader, &rules.set, unread_links);
    let mut judgements = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let mut judgement = judge::subject(org, &mut library, subject, now)?;
        let mut changed = Vec::with_capacity(judgement.findings.len());
        for (id, seen) in std::mem::take(&mut judgement.findings) {
            // Decided again when the write has its turn; a person may mute it in between.
            if finding::step(reader.finding(id)?.as_ref(), &seen).is_some() {
                changed.push((id, seen));
            }
        }
        judgement.findings = changed;
        judgements.push(judgement);
    }
    Ok(judgements)
}
