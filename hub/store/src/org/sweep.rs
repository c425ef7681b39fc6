//! Inventory: documents, sweeps, what is gone, links.
//!
//! A resource is retired only when both sides then hold the same set. So a lost item, a doubled
//! one or a sweep that was cut short can delay a retirement but never cause a wrong one.

use jiff::Timestamp;
use protocol::document::{ContentHash, Gap, Link, SetHash};
use protocol::ids::{AgentId, OrgId, SourceId};
use protocol::limits::{RETIRE_FREE, RETIRE_SHARE};
use protocol::{Document, Scope, Urn};

use super::columns::{Delta, document_summary};
use super::tally::{Counted, Over, Tallies};
use crate::draft::Draft;
use crate::engine::{Key, Range};
use crate::error::ReadError;
use crate::keys::{Names, millis};
use crate::list::ResourceSummary;
use crate::rows::resource::{
    Coverage, Provenance, Resource, ScopeState, ScopeStatus, StagedGone, StoredLink, StoredPast,
    StoredResource, SweepEnd, SweepOutcome, SweepResult,
};
use crate::tables::Table;

/// Decides an end of a sweep: `ours` is what the hub would hold once `retiring` of its `members`
/// are retired.
fn decide(members: u64, retiring: u64, ours: SetHash, claimed: SetHash) -> SweepResult {
    if ours != claimed {
        SweepResult::Mismatched { ours }
    } else if retiring > RETIRE_FREE && retiring.saturating_mul(RETIRE_SHARE) > members {
        SweepResult::Held { retiring }
    } else {
        SweepResult::Complete { retired: retiring }
    }
}

/// A document ready to be stored. What costs time is done before its turn comes.
pub(super) struct Incoming {
    urn: Urn,
    links: Vec<Link>,
    content_hash: ContentHash,
    text: String,
    summary: ResourceSummary,
    from: Provenance,
}

impl Incoming {
    pub(super) fn urn(&self) -> &Urn {
        &self.urn
    }

    pub(super) fn from(&self) -> Provenance {
        self.from
    }

    pub(super) fn new(org: OrgId, document: &Document, from: Provenance) -> Self {
        let text =
            serde_json::to_string(document).expect("documents have string keys and finite numbers");
        Self {
            content_hash: document.content_hash(),
            summary: document_summary(org, document, from.at),
            urn: document.urn.clone(),
            links: document.links.clone(),
            text,
            from,
        }
    }

    /// Returns about how much it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// The inventory as a write changes it.
pub(super) struct Inventory<'w, 'g> {
    pub(super) org: OrgId,
    pub(super) names: &'w Names,
    pub(super) draft: &'w mut Draft<'g>,
    pub(super) delta: &'w mut Delta,
    pub(super) tallies: &'w mut Tallies,
}

/// Resources that an end of a sweep would retire, and what the hub would hold then.
struct Retiring {
    rows: Vec<(Key, StoredResource)>,
    ours: SetHash,
}

impl Inventory<'_, '_> {
    fn scope(&self, scope: &Scope) -> Result<Option<ScopeStatus>, ReadError> {
        self.draft.get(Table::Scopes, &self.names.scope(scope))
    }

    /// Counts a scope that is new; says so if its agent may have no more.
    fn count_scope(&mut self, scope: &Scope, agent: AgentId) -> Result<Option<Over>, ReadError> {
        if self.draft.exists(Table::Scopes, &self.names.scope(scope))? {
            return Ok(None);
        }
        self.tallies
            .add(self.draft, self.names, agent, Counted::Scopes)
    }

    /// Stores a scope's status, and names it in the feed if what it proves has changed.
    fn put_scope(&mut self, status: &ScopeStatus) -> Result<(), ReadError> {
        fn proves(status: &ScopeStatus) -> (bool, Option<&Gap>) {
            let gap = match &status.state {
                ScopeState::Failed(gap) => Some(gap),
                ScopeState::Sweeping
                | ScopeState::Complete
                | ScopeState::Held(_)
                | ScopeState::Mismatched => None,
            };
            (status.is_known(), gap)
        }
        let key = self.names.scope(&status.scope);
        let before: Option<ScopeStatus> = self.draft.get(Table::Scopes, &key)?;
        if before.as_ref().map(proves) != Some(proves(status)) {
            self.draft.note(Table::Scopes, key.clone());
        }
        self.draft.put(Table::Scopes, key, status);
        Ok(())
    }

    /// Returns the scope's status, or that of a scope whose first sweep begins.
    fn begun(
        &self,
        scope: &Scope,
        agent: AgentId,
        source: SourceId,
        at: Timestamp,
    ) -> Result<ScopeStatus, ReadError> {
        Ok(self.scope(scope)?.unwrap_or_else(|| ScopeStatus {
            scope: scope.clone(),
            agent,
            source,
            members: SetHash::default(),
            claimed: None,
            generation: 0,
            state: ScopeState::Sweeping,
            last_complete_at: None,
            last_begin_at: at,
        }))
    }

    /// A sweep begins. What is staged stays if the end that would have retired it is still open:
    /// an agent that was cut short, or whose end is held, does not name the same resource twice.
    pub(super) fn begin(
        &mut self,
        scope: &Scope,
        agent: AgentId,
        source: SourceId,
        generation: u64,
        at: Timestamp,
    ) -> Result<Option<Over>, ReadError> {
        if let Some(over) = self.count_scope(scope, agent)? {
            return Ok(Some(over));
        }
        let status = self.begun(scope, agent, source, at)?;
        let is_open = matches!(status.state, ScopeState::Sweeping | ScopeState::Held(_));
        if !is_open || status.agent != agent {
            self.clear_staged(scope);
        }
        self.put_scope(&ScopeStatus {
            agent,
            source,
            claimed: status.claimed.filter(|_| !status.is_doubtful()),
            generation,
            state: ScopeState::Sweeping,
            last_begin_at: at,
            ..status
        })?;
        Ok(None)
    }

    /// A list could not be read.
    pub(super) fn fail(
        &mut self,
        scope: &Scope,
        agent: AgentId,
        source: SourceId,
        generation: u64,
        gap: &Gap,
        at: Timestamp,
    ) -> Result<Option<Over>, ReadError> {
        if let Some(over) = self.count_scope(scope, agent)? {
            return Ok(Some(over));
        }
        let status = self.begun(scope, agent, source, at)?;
        self.clear_staged(scope);
        let state = ScopeState::Failed(gap.clone());
        self.put_scope(&ScopeStatus {
            agent,
            source,
            generation,
            state,
            ..status
        })?;
        Ok(None)
    }

    /// Stores a document: its row, its history, its links, its scope's set hash.
    pub(super) fn put(&mut self, document: &Incoming) -> Result<Option<Over>, ReadError> {
        let Incoming {
            urn,
            content_hash,
            text,
            from,
            ..
        } = document;
        let key = self.names.resource(urn);
        let before: Option<StoredResource> = self.draft.get(Table::Resources, &key)?;
        let living = before.as_ref().filter(|row| row.retired_at.is_none());
        let owner = living.map(|row| row.agent);
        if owner != Some(from.agent) {
            let over = match self.count_scope(&urn.scope, from.agent)? {
                Some(over) => Some(over),
                None => self
                    .tallies
                    .add(self.draft, self.names, from.agent, Counted::Resources)?,
            };
            if over.is_some() {
                return Ok(over);
            }
            if let Some(owner) = owner {
                self.tallies
                    .remove(self.draft, self.names, owner, Counted::Resources)?;
            }
        }
        let mut scope = self.begun(&urn.scope, from.agent, from.source, from.at)?;
        let is_changed = living.is_none_or(|row| row.content_hash != *content_hash);
        if is_changed {
            let name = urn.to_string();
            if let Some(old) = living {
                scope.members.remove(&name, &old.content_hash);
                self.keep_past(old, from.at)?;
            }
            scope.members.add(&name, content_hash);
            let old_links = living.map(links_of).transpose()?.unwrap_or_default();
            self.relink(urn, &old_links, &document.links);
            self.draft.note(Table::Resources, key.clone());
        }
        if before.is_none() {
            let id = self.names.resource_id(Resource::id_of(self.org, urn));
            self.draft.put(Table::ResourceIds, id, urn);
        }
        let row = StoredResource {
            urn: urn.clone(),
            document: text.clone(),
            content_hash: *content_hash,
            first_seen: before.as_ref().map_or(from.at, |row| row.first_seen),
            last_seen: from.at,
            changed_at: living
                .filter(|_| !is_changed)
                .map_or(from.at, |row| row.changed_at),
            retired_at: None,
            agent: from.agent,
            source: from.source,
            generation: scope.generation,
        };
        self.delta.resource(ResourceSummary {
            first_seen: row.first_seen,
            ..document.summary.clone()
        });
        self.draft.put(Table::Resources, key.clone(), &row);
        self.draft.delete(Table::Gone, key);
        self.put_scope(&scope)?;
        Ok(None)
    }

    /// Keeps a document that ceases to be the current one.
    fn keep_past(&mut self, row: &StoredResource, until: Timestamp) -> Result<(), ReadError> {
        if until == row.changed_at {
            // It never was the current one for any instant.
            return Ok(());
        }
        // Two changes within a millisecond, or a clock that steps back, must not share a key.
        let mut place = millis(until);
        let mut key = self.names.resource_until(&row.urn, place);
        while self.draft.exists(Table::ResourceHistory, &key)? {
            place += 1;
            key = self.names.resource_until(&row.urn, place);
        }
        let past = StoredPast {
            document: row.document.clone(),
            content_hash: row.content_hash,
            since: row.changed_at,
            until,
        };
        self.draft.put(Table::ResourceHistory, key, &past);
        Ok(())
    }

    /// Replaces the links of a resource, at both their ends.
    fn relink(&mut self, from: &Urn, old: &[Link], new: &[Link]) {
        for link in old.iter().filter(|link| !new.contains(link)) {
            self.draft
                .delete(Table::LinksOut, self.names.link(from, &link.rel, &link.urn));
            self.draft
                .delete(Table::LinksIn, self.names.link(&link.urn, &link.rel, from));
        }
        for link in new.iter().filter(|link| !old.contains(link)) {
            let end = |far: &Urn| StoredLink {
                rel: link.rel.clone(),
                far: far.clone(),
            };
            let out = self.names.link(from, &link.rel, &link.urn);
            self.draft.put(Table::LinksOut, out, &end(&link.urn));
            let back = self.names.link(&link.urn, &link.rel, from);
            self.draft.put(Table::LinksIn, back, &end(from));
        }
    }

    /// Notes that a sweep did not see a resource.
    pub(super) fn stage_gone(&mut self, urn: &Urn) -> Result<(), ReadError> {
        let key = self.names.resource(urn);
        // Only what lives can go; the rest would be staged for ever.
        let row: Option<StoredResource> = self.draft.get(Table::Resources, &key)?;
        if row.is_some_and(|row| row.retired_at.is_none()) {
            let generation = self.scope(&urn.scope)?.map_or(0, |scope| scope.generation);
            self.draft.put(
                Table::Gone,
                key,
                &StagedGone {
                    urn: urn.clone(),
                    generation,
                },
            );
        }
        Ok(())
    }

    /// Ends a sweep.
    pub(super) fn end(&mut self, end: &SweepEnd) -> Result<SweepOutcome, ReadError> {
        let outcome = |result| {
            Ok(SweepOutcome {
                scope: end.scope.clone(),
                generation: end.generation,
                result,
            })
        };
        let status = self.scope(&end.scope)?;
        let is_current = status.as_ref().is_some_and(|status| {
            status.generation == end.generation && status.state == ScopeState::Sweeping
        });
        let Some(status) = status.filter(|_| is_current) else {
            let current = self
                .scope(&end.scope)?
                .map_or(0, |status| status.generation);
            return outcome(SweepResult::Superseded { current });
        };
        let mut retiring = self.retiring(&status, &end.coverage, Some(end.generation))?;
        if retiring.ours != end.claimed {
            // What an earlier sweep staged counts if it explains the difference.
            let wider = self.retiring(&status, &end.coverage, None)?;
            if wider.ours == end.claimed {
                retiring = wider;
            }
        }
        let result = self.judge(&status, &retiring, end.claimed);
        let status = ScopeStatus {
            claimed: Some(end.claimed),
            ..status
        };
        match result {
            SweepResult::Complete { .. } => self.complete(status, retiring, end.at)?,
            SweepResult::Held { retiring: count } => {
                // Staged by name: the confirmation may come long after.
                for (key, row) in retiring.rows {
                    let staged = StagedGone {
                        urn: row.urn,
                        generation: end.generation,
                    };
                    self.draft.put(Table::Gone, key, &staged);
                }
                self.put_scope(&ScopeStatus {
                    state: ScopeState::Held(count),
                    ..status
                })?;
            }
            SweepResult::Mismatched { .. } => {
                self.clear_staged(&end.scope);
                self.put_scope(&ScopeStatus {
                    state: ScopeState::Mismatched,
                    ..status
                })?;
            }
            SweepResult::Superseded { .. } => {}
        }
        outcome(result)
    }

    fn judge(&self, status: &ScopeStatus, retiring: &Retiring, claimed: SetHash) -> SweepResult {
        let count = u64::try_from(retiring.rows.len()).unwrap_or(u64::MAX);
        decide(status.members.count, count, retiring.ours, claimed)
    }

    /// A person confirms a held end.
    pub(super) fn confirm(
        &mut self,
        scope: &Scope,
        retiring: u64,
        at: Timestamp,
    ) -> Result<(), ReadError> {
        let status = self.scope(scope)?;
        let held = status.filter(|status| status.state == ScopeState::Held(retiring));
        let Some(status) = held else { return Ok(()) };
        let retiring = self.retiring(&status, &Coverage::Changes, None)?;
        // Documents that came since may have changed the set: then nothing is sure any more.
        if status.claimed == Some(retiring.ours) {
            self.complete(status, retiring, at)
        } else {
            self.clear_staged(scope);
            self.put_scope(&ScopeStatus {
                state: ScopeState::Mismatched,
                ..status
            })
        }
    }

    /// Retires, and notes that the scope is complete.
    fn complete(
        &mut self,
        status: ScopeStatus,
        retiring: Retiring,
        at: Timestamp,
    ) -> Result<(), ReadError> {
        for (key, row) in retiring.rows {
            self.retire(key, row, &status, at)?;
        }
        self.clear_staged(&status.scope);
        self.delta.swept(&status.scope, at);
        self.put_scope(&ScopeStatus {
            members: retiring.ours,
            state: ScopeState::Complete,
            last_complete_at: Some(at),
            ..status
        })
    }

    /// Returns the keys of what is staged, by one generation or by any.
    fn staged(&self, scope: &Scope, by: Option<u64>) -> Result<Vec<Key>, ReadError> {
        let mut keys = Vec::new();
        let range = Range::prefix(&self.names.scope(scope));
        self.draft
            .scan(Table::Gone, &range, |key, staged: StagedGone| {
                if by.is_none_or(|by| staged.generation == by) {
                    keys.push(key.to_vec());
                }
            })?;
        Ok(keys)
    }

    fn clear_staged(&mut self, scope: &Scope) {
        let range = Range::prefix(&self.names.scope(scope));
        self.draft.delete_range(Table::Gone, range);
    }

    /// Returns what would be retired.
    fn retiring(
        &self,
        status: &ScopeStatus,
        coverage: &Coverage,
        staged_by: Option<u64>,
    ) -> Result<Retiring, ReadError> {
        let staged = self.staged(&status.scope, staged_by)?;
        let mut rows = Vec::new();
        match coverage {
            Coverage::Changes => {
                for key in staged {
                    let row: Option<StoredResource> = self.draft.get(Table::Resources, &key)?;
                    rows.extend(
                        row.filter(|row| row.retired_at.is_none())
                            .map(|row| (key, row)),
                    );
                }
            }
            Coverage::Everything | Coverage::Parts(_) => {
                let is_covered = |urn: &Urn| match coverage {
                    Coverage::Parts(resent) => resent.covers(&urn.to_string()),
                    Coverage::Everything | Coverage::Changes => true,
                };
                let staged: std::collections::BTreeSet<Key> = staged.into_iter().collect();
                let range = Range::prefix(&self.names.scope(&status.scope));
                self.draft
                    .scan(Table::Resources, &range, |key, row: StoredResource| {
                        if row.retired_at.is_some() {
                            return;
                        }
                        let is_unsent = row.generation != status.generation;
                        if staged.contains(key) || is_unsent && is_covered(&row.urn) {
                            rows.push((key.to_vec(), row));
                        }
                    })?;
            }
        }
        let mut ours = status.members;
        for (_, row) in &rows {
            ours.remove(&row.urn.to_string(), &row.content_hash);
        }
        Ok(Retiring { rows, ours })
    }

    /// Retires one resource: its row and history stay readable, its links end.
    fn retire(
        &mut self,
        key: Key,
        row: StoredResource,
        status: &ScopeStatus,
        at: Timestamp,
    ) -> Result<(), ReadError> {
        self.keep_past(&row, at)?;
        self.relink(&row.urn, &links_of(&row)?, &[]);
        self.tallies
            .remove(self.draft, self.names, row.agent, Counted::Resources)?;
        self.draft.note(Table::Resources, key.clone());
        self.delta.retired(self.org, &row.urn);
        // The last sweep that confirmed it is a fact of the row from here on.
        let last_seen = status
            .last_complete_at
            .map_or(row.last_seen, |at| row.last_seen.max(at));
        let row = StoredResource {
            retired_at: Some(at),
            last_seen,
            ..row
        };
        self.draft.put(Table::Resources, key, &row);
        Ok(())
    }
}

/// Returns a stored document.
pub(super) fn document_of(table: Table, text: &str) -> Result<Document, ReadError> {
    serde_json::from_str(text).map_err(|error| ReadError::Decode {
        table: table.name(),
        reason: error.to_string(),
    })
}

/// Returns the links of a stored document.
fn links_of(row: &StoredResource) -> Result<Vec<Link>, ReadError> {
    #[derive(serde::Deserialize)]
    struct Linked {
        #[serde(default)]
        links: Vec<Link>,
    }
    let parsed: Result<Linked, _> = serde_json::from_str(&row.document);
    let decode = |error: serde_json::Error| ReadError::Decode {
        table: Table::Resources.name(),
        reason: error.to_string(),
    };
    Ok(parsed.map_err(decode)?.links)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: std::ops::Range<u64>) -> SetHash {
        let mut set = SetHash::default();
        for n in members {
            set.add(&n.to_string(), &[0; 32]);
        }
        set
    }

    #[track_caller]
    fn check(members: u64, retiring: u64, claimed: SetHash, want: SweepResult) {
        assert_eq!(
            decide(members, retiring, set(retiring..members), claimed),
            want
        );
    }

    #[test]
    fn an_end_retires_only_what_both_sides_agree_on_and_only_a_bounded_share() {
        let complete = |retired| SweepResult::Complete { retired };
        let held = |retiring| SweepResult::Held { retiring };
        check(0, 0, set(0..0), complete(0));
        check(5, 0, set(0..5), complete(0));
        check(5, 5, set(5..5), complete(5));
        // Twenty may always go; more only up to a tenth.
        check(20, 20, set(20..20), complete(20));
        check(21, 21, set(21..21), held(21));
        check(210, 21, set(21..210), complete(21));
        check(209, 21, set(21..209), held(21));
        check(10_000, 1_000, set(1_000..10_000), complete(1_000));
        check(10_000, 1_001, set(1_001..10_000), held(1_001));
        // A difference outweighs both.
        let differ = |ours| SweepResult::Mismatched { ours };
        check(5, 1, set(0..5), differ(set(1..5)));
        check(5, 1, set(2..6), differ(set(1..5)));
        check(100, 50, set(0..100), differ(set(50..100)));
    }
}
