//! What the lists showed at an instant of the past: rows and their histories, put together anew.
//!
//! The documents of resources and the statuses and verdicts of findings have histories. What has
//! none is not passed off as the past: a finding's evidence, gaps and mute are left out, and its
//! title, severity, risk and owner are today's.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use protocol::Urn;
use protocol::document::ContentHash;
use protocol::ids::{FindingId, ResourceId};
use serde::de::DeserializeOwned;

use super::OrgReader;
use super::columns::{Lists, finding_summary, resource_summary};
use super::read::shown;
use super::sweep::document_of;
use crate::engine::{Direction, Range, each};
use crate::error::ReadError;
use crate::keys::millis;
use crate::list::page::page;
use crate::list::{FindingList, FindingSummary, Page, ResourceList, ResourceSummary};
use crate::rows::finding::{Finding, Transition};
use crate::rows::resource::{Resource, StoredPast, StoredResource};
use crate::rows::{FindingStatus, Verdict};
use crate::tables::Table;

/// The lists of one organisation at an instant of the past.
pub struct Past {
    lists: Lists,
    hashes: BTreeMap<ResourceId, ContentHash>,
}

/// What became of something between two instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// It was not there at the first.
    Added,
    /// It was there at both, and not the same.
    Changed,
    /// It was not there at the second.
    Removed,
}

impl Past {
    /// Returns a page of the resources that existed.
    ///
    /// # Errors
    ///
    /// When the cursor is another list's.
    pub fn resources(&self, list: &ResourceList) -> Result<Page<ResourceSummary>, ReadError> {
        page(self.lists.resources(), list)
    }

    /// Returns a page of the findings that there were.
    ///
    /// # Errors
    ///
    /// When the cursor is another list's.
    pub fn findings(&self, list: &FindingList) -> Result<Page<FindingSummary>, ReadError> {
        page(self.lists.findings(), list)
    }

    /// Returns the resources that were another set or other documents at a later instant, by URN.
    pub fn resources_until<'p>(&'p self, later: &'p Self) -> Vec<(Became, &'p ResourceSummary)> {
        let (before, after) = (by_id(&self.lists), by_id(&later.lists));
        let mut changes = Vec::new();
        for (id, now) in &after {
            match (self.hashes.get(id), later.hashes.get(id)) {
                (None, _) => changes.push((Became::Added, *now)),
                (before, now_hash) if before != now_hash => changes.push((Became::Changed, *now)),
                _ => {}
            }
        }
        for (id, then) in &before {
            if !after.contains_key(id) {
                changes.push((Became::Removed, *then));
            }
        }
        changes.sort_by(|a, b| a.1.urn.cmp(&b.1.urn));
        changes
    }

    /// Returns the findings whose status or verdict was another at a later instant, with what they
    /// were at this one; by id. No finding goes away.
    pub fn findings_until<'p>(
        &'p self,
        later: &'p Self,
    ) -> Vec<(Option<&'p FindingSummary>, &'p FindingSummary)> {
        let before = self.lists.findings().iter().flatten();
        let before: BTreeMap<FindingId, &FindingSummary> =
            before.map(|row| (row.id, row)).collect();
        let after = later.lists.findings().iter().flatten();
        let changes = after.filter_map(|now| {
            let then = before.get(&now.id).copied();
            let is_same =
                then.is_some_and(|then| (then.status, then.verdict) == (now.status, now.verdict));
            (!is_same).then_some((then, now))
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_unstable_by_key(|(_, now)| now.id);
        changes
    }
}

fn by_id(lists: &Lists) -> BTreeMap<ResourceId, &ResourceSummary> {
    let rows = lists.resources().iter().flatten();
    rows.map(|row| (row.id, row)).collect()
}

impl OrgReader {
    /// Puts together what the lists showed at an instant. Reads every row once.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn as_of(&self, at: Timestamp) -> Result<Past, ReadError> {
        let mut lists = Lists::default();
        self.each_of(Table::Findings, |finding, _| {
            if let Some((finding, _)) = self.at_instant(finding, at)? {
                lists.put_finding(finding_summary(self.org(), &finding));
            }
            Ok(())
        })?;
        let mut hashes = BTreeMap::new();
        self.each_of(Table::Resources, |row, commit| {
            if let Some(resource) = self.document_at(row, commit, at)? {
                let summary = resource_summary(self.org(), &resource);
                hashes.insert(summary.id, resource.content_hash);
                lists.put_resource(summary);
            }
            Ok(())
        })?;
        Ok(Past { lists, hashes })
    }

    /// Returns a resource as it was at an instant; `None` when it did not exist then.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn resource_as_of(&self, urn: &Urn, at: Timestamp) -> Result<Option<Resource>, ReadError> {
        let key = self.org.names.resource(urn);
        let row: Option<(StoredResource, u64)> = self.view().versioned(Table::Resources, &key)?;
        row.map_or(Ok(None), |(row, commit)| self.document_at(row, commit, at))
    }

    /// Returns a finding as it was at an instant with its history up to then; `None` when there was
    /// none.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn finding_as_of(
        &self,
        id: FindingId,
        at: Timestamp,
    ) -> Result<Option<(Finding, Vec<Transition>)>, ReadError> {
        match self.finding(id)? {
            Some(finding) => self.at_instant(finding, at),
            None => Ok(None),
        }
    }

    /// Calls `visit` with every row of a table and the commit that wrote it.
    fn each_of<T: DeserializeOwned>(
        &self,
        table: Table,
        mut visit: impl FnMut(T, u64) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let (view, all) = (self.view(), Range::all());
        each(&*self.read, table, &all, Direction::Forward, |entry| {
            visit(view.found(table, &entry)?, entry.row.version)?;
            Ok::<_, ReadError>(ControlFlow::<()>::Continue(()))
        })?;
        Ok(())
    }

    fn at_instant(
        &self,
        finding: Finding,
        at: Timestamp,
    ) -> Result<Option<(Finding, Vec<Transition>)>, ReadError> {
        if finding.first_seen > at {
            return Ok(None);
        }
        let mut steps = self.finding_history(finding.id)?;
        steps.retain(|step| step.at <= at);
        let Some(last) = steps.last() else {
            return Ok(None);
        };
        let is = |status| last.to == status;
        let finding = Finding {
            status: last.to,
            verdict: last.verdict,
            last_seen: finding.last_seen.min(at),
            resolved_at: is(FindingStatus::Resolved).then_some(last.at),
            unknown_since: (last.verdict == Verdict::Unknown).then_some(last.at),
            mute: None,
            evidence: BTreeMap::new(),
            gaps: BTreeMap::new(),
            ..finding
        };
        Ok(Some((finding, steps)))
    }

    /// Returns the document that a row, or its history, held at an instant.
    fn document_at(
        &self,
        row: StoredResource,
        commit: u64,
        at: Timestamp,
    ) -> Result<Option<Resource>, ReadError> {
        if row.changed_at <= at && row.retired_at.is_none_or(|gone| gone > at) {
            let last_seen = known_at(row.last_seen, row.changed_at, at);
            let now = shown(row, commit, None)?;
            return Ok(Some(Resource {
                last_seen,
                retired_at: None,
                ..now
            }));
        }
        let of_resource = Range::prefix(&self.org.names.resource(&row.urn));
        let from = self.org.names.resource_until(&row.urn, millis(at));
        let range = Range {
            from,
            to: of_resource.to,
        };
        let mut past = None;
        self.view().each(
            Table::ResourceHistory,
            &range,
            Direction::Forward,
            |_, _, found: StoredPast| {
                if found.until <= at {
                    return ControlFlow::Continue(());
                }
                past = (found.since <= at).then_some(found);
                ControlFlow::Break(())
            },
        )?;
        let Some(past) = past else {
            return Ok(None);
        };
        Ok(Some(Resource {
            document: document_of(Table::ResourceHistory, &past.document)?,
            content_hash: past.content_hash,
            first_seen: row.first_seen.min(past.since),
            last_seen: past.since,
            changed_at: past.since,
            retired_at: None,
            agent: row.agent,
            source: row.source,
            generation: row.generation,
            commit,
        }))
    }
}

/// Returns the last instant, up to `at`, at which a document is known to have been confirmed.
fn known_at(last_seen: Timestamp, since: Timestamp, at: Timestamp) -> Timestamp {
    if last_seen <= at { last_seen } else { since }
}
