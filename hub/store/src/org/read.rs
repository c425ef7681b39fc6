//! Reads of one organisation at one commit.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use protocol::document::Link;
use protocol::ids::{AgentId, EventId, FindingId, OrgId, ResourceId, SourceId};
use protocol::limits::PAGE_ITEMS;
use protocol::parts::{self, Sums};
use protocol::{Scope, Urn};

use super::apply::{LossCount, QuarantineCount, meta};
use super::columns::Shown;
use super::sweep::document_of;
use super::{OrgInner, StoredHeader, StoredStream, Stream, search};
use crate::engine::{Direction, Key, PageSize, Range, Read, each};
use crate::error::ReadError;
use crate::keys;
use crate::list::page::page;
use crate::list::{FindingList, FindingSummary, OpenFindings, Page, ResourceList, ResourceSummary};
use crate::rows::Verdict;
use crate::rows::access::AgentStatus;
use crate::rows::audit::{AuditEntry, AuditHead};
use crate::rows::carried::Carried;
use crate::rows::event::{Event, EventPage, EventQuery, Loss, Quarantined};
use crate::rows::finding::{Finding, Transition};
use crate::rows::resource::{
    Change, PastResource, Resource, ScopeStatus, Source, StoredLink, StoredPast, StoredResource,
    Subject,
};
use crate::rows::verdict::{Judged, StoredVerdicts, VerdictRow};
use crate::seal::Sealer;
use crate::tables::Table;
use crate::view::View;

/// Entries of the feed that are read at once.
const NOTES: usize = 1024;

/// Most rows that [`OrgReader::resource_history`] and [`OrgReader::finding_history`] return.
const HISTORY_ROWS: usize = 1000;

/// What [`OrgReader::each_listed`] calls: name, what is shown, first and last seen.
type Visit<'v> = dyn FnMut(&Urn, &Shown<'_>, Timestamp, Timestamp) + 'v;

/// One organisation at one commit.
pub struct OrgReader {
    pub(super) org: Arc<OrgInner>,
    pub(super) read: Box<dyn Read>,
    /// The keys of the rows that it shows, also when one of them is taken out of use meanwhile.
    pub(super) sealer: Sealer,
}

impl OrgReader {
    /// Takes a snapshot.
    pub(crate) fn open(org: &Arc<OrgInner>) -> Result<Self, ReadError> {
        if org.is_closed() {
            return Err(ReadError::Closed);
        }
        let (read, sealer) = org.sealer.with(|| org.engine.snapshot())?;
        Ok(Self {
            org: Arc::clone(org),
            read,
            sealer,
        })
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&*self.read, &self.sealer)
    }

    /// Returns the organisation that is read.
    pub fn org(&self) -> OrgId {
        self.org.org
    }

    /// Returns the number of the commit that this snapshot shows.
    pub fn commit(&self) -> Result<u64, ReadError> {
        Ok(self.read.last_commit()?)
    }

    // -- inventory -----------------------------------------------------------------------------

    /// See [`OrgStore::resource`](super::OrgStore::resource).
    pub fn resource(&self, urn: &Urn) -> Result<Option<Resource>, ReadError> {
        Ok(self.resources_named([urn])?.pop().flatten())
    }

    /// Returns the resources of those names, each `None` where there is none, in their order. What
    /// [`OrgReader::resource`] reads of a scope is read once for all of its resources.
    pub fn resources_named<'u>(
        &self,
        urns: impl IntoIterator<Item = &'u Urn>,
    ) -> Result<Vec<Option<Resource>>, ReadError> {
        let mut completed: BTreeMap<&'u Scope, Option<Timestamp>> = BTreeMap::new();
        let mut resources = Vec::new();
        for urn in urns {
            let key = self.org.names.resource(urn);
            let found = self
                .view()
                .versioned::<StoredResource>(Table::Resources, &key)?;
            let Some((row, commit)) = found else {
                resources.push(None);
                continue;
            };
            let at = match completed.get(&urn.scope) {
                Some(at) => *at,
                None => {
                    let scope = self.scope(&urn.scope)?;
                    let at = scope.and_then(|scope| scope.last_complete_at);
                    *completed.entry(&urn.scope).or_insert(at)
                }
            };
            resources.push(Some(shown(row, commit, at)?));
        }
        Ok(resources)
    }

    /// See [`OrgStore::resource_by_id`](super::OrgStore::resource_by_id).
    pub fn resource_by_id(&self, id: ResourceId) -> Result<Option<Resource>, ReadError> {
        let key = self.org.names.resource_id(id);
        let urn: Option<Urn> = self.view().row(Table::ResourceIds, &key)?;
        urn.map_or(Ok(None), |urn| self.resource(&urn))
    }

    /// See [`OrgStore::resource_history`](super::OrgStore::resource_history).
    pub fn resource_history(&self, urn: &Urn) -> Result<Vec<PastResource>, ReadError> {
        let range = Range::prefix(&self.org.names.resource(urn));
        let rows: Vec<StoredPast> = self.view().first(
            Table::ResourceHistory,
            &range,
            Direction::Backward,
            HISTORY_ROWS,
        )?;
        let past = rows.into_iter().map(|row| {
            Ok(PastResource {
                document: document_of(Table::ResourceHistory, &row.document)?,
                content_hash: row.content_hash,
                since: row.since,
                until: row.until,
            })
        });
        past.collect()
    }

    /// See [`OrgStore::resources`](super::OrgStore::resources).
    pub fn resources(&self, list: &ResourceList) -> Result<Page<ResourceSummary>, ReadError> {
        self.org.lists(|lists| page(lists.resources(), list))?
    }

    /// See [`OrgStore::resources_in`](super::OrgStore::resources_in).
    pub fn resources_in(&self, scope: &Scope) -> Result<Vec<Resource>, ReadError> {
        let mut resources = Vec::new();
        let completed = self.scope(scope)?.and_then(|scope| scope.last_complete_at);
        let range = Range::prefix(&self.org.names.scope(scope));
        self.living(&range, |_| completed, &mut |resource| {
            resources.push(resource);
            true
        })?;
        Ok(resources)
    }

    /// Returns the sums of a scope's parts ([`protocol::parts`]).
    pub fn sums(&self, scope: &Scope) -> Result<Vec<u64>, ReadError> {
        let members = self.scope(scope)?.map_or(0, |status| status.members.count);
        let Some(mut sums) = Sums::new(parts::count_for(members)) else {
            return Ok(Vec::new());
        };
        let range = Range::prefix(&self.org.names.scope(scope));
        self.living(&range, |_| None, &mut |resource| {
            sums.add(&resource.document.urn.to_string(), &resource.content_hash);
            true
        })?;
        Ok(sums.into_vec())
    }

    /// Calls `visit` with what lists show of every living resource, in no order: like the lists, it
    /// shows the last commit, which may be later than this snapshot.
    pub fn visit_resources(
        &self,
        visit: &mut dyn FnMut(&ResourceSummary),
    ) -> Result<(), ReadError> {
        self.org
            .lists(|lists| lists.resources().iter().flatten().for_each(visit))
    }

    /// The same of every finding.
    pub fn visit_findings(&self, visit: &mut dyn FnMut(&FindingSummary)) -> Result<(), ReadError> {
        self.org
            .lists(|lists| lists.findings().iter().flatten().for_each(visit))
    }

    /// Returns how many open findings there are on a resource, as the lists show it.
    pub fn open_findings(&self, id: ResourceId) -> Result<OpenFindings, ReadError> {
        self.org.lists(|lists| lists.open_on(id))
    }

    /// Calls `visit` with what a list shows of each living resource, and when it was first and last
    /// seen.
    pub(super) fn each_listed(&self, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let mut completed = BTreeMap::new();
        for scope in self.scopes()? {
            completed.extend(scope.last_complete_at.map(|at| (scope.scope, at)));
        }
        let view = self.view();
        let all = Range::all();
        each(
            &*self.read,
            Table::Resources,
            &all,
            Direction::Forward,
            |entry| {
                let row: StoredResource = view.found(Table::Resources, &entry)?;
                if row.retired_at.is_none() {
                    let confirmed = completed.get(&row.urn.scope).copied();
                    let last_seen = confirmed.map_or(row.last_seen, |at| row.last_seen.max(at));
                    let shown = Shown::of(&row.document)?;
                    visit(&row.urn, &shown, row.first_seen, last_seen);
                }
                Ok::<ControlFlow<()>, ReadError>(ControlFlow::Continue(()))
            },
        )?;
        Ok(())
    }

    /// Calls `visit` with every living resource until it returns false.
    pub fn each_resource(&self, visit: &mut dyn FnMut(Resource) -> bool) -> Result<(), ReadError> {
        let mut completed = BTreeMap::new();
        for scope in self.scopes()? {
            completed.extend(scope.last_complete_at.map(|at| (scope.scope, at)));
        }
        self.living(&Range::all(), |scope| completed.get(scope).copied(), visit)
    }

    fn living(
        &self,
        range: &Range,
        completed: impl Fn(&Scope) -> Option<Timestamp>,
        visit: &mut dyn FnMut(Resource) -> bool,
    ) -> Result<(), ReadError> {
        let view = self.view();
        each(
            &*self.read,
            Table::Resources,
            range,
            Direction::Forward,
            |entry| {
                let row: StoredResource = view.found(Table::Resources, &entry)?;
                if row.retired_at.is_some() {
                    return Ok(ControlFlow::Continue(()));
                }
                let at = completed(&row.urn.scope);
                let goes_on = visit(shown(row, entry.row.version, at)?);
                Ok::<_, ReadError>(if goes_on {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            },
        )?;
        Ok(())
    }

    /// See [`OrgStore::scope`](super::OrgStore::scope).
    pub fn scope(&self, scope: &Scope) -> Result<Option<ScopeStatus>, ReadError> {
        self.view().row(Table::Scopes, &self.org.names.scope(scope))
    }

    /// See [`OrgStore::scopes`](super::OrgStore::scopes).
    pub fn scopes(&self) -> Result<Vec<ScopeStatus>, ReadError> {
        self.view().all(Table::Scopes, &Range::all())
    }

    /// See [`OrgStore::linked`](super::OrgStore::linked).
    pub fn linked(&self, urn: &Urn, rel: &str) -> Result<Vec<Urn>, ReadError> {
        self.far_ends(Table::LinksOut, &self.org.names.links_by(urn, rel))
    }

    /// See [`OrgStore::linked_from`](super::OrgStore::linked_from).
    pub fn linked_from(&self, urn: &Urn, rel: &str) -> Result<Vec<Urn>, ReadError> {
        self.far_ends(Table::LinksIn, &self.org.names.links_by(urn, rel))
    }

    /// Returns every link from a resource, with its relation and other end.
    pub fn links(&self, urn: &Urn) -> Result<Vec<Link>, ReadError> {
        self.all_links(Table::LinksOut, &self.org.names.urn(urn))
    }

    /// Returns every link to a resource, with its relation and origin.
    pub fn links_to(&self, urn: &Urn) -> Result<Vec<Link>, ReadError> {
        self.all_links(Table::LinksIn, &self.org.names.urn(urn))
    }

    fn far_ends(&self, table: Table, prefix: &[u8]) -> Result<Vec<Urn>, ReadError> {
        let links = self.all_links(table, prefix)?;
        Ok(links.into_iter().map(|link| link.urn).collect())
    }

    /// Keys are hashes, so the order of rows is nobody's; sorted, it is the same for everybody.
    fn all_links(&self, table: Table, prefix: &[u8]) -> Result<Vec<Link>, ReadError> {
        let rows: Vec<StoredLink> = self.view().all(table, &Range::prefix(prefix))?;
        let mut links: Vec<Link> = rows
            .into_iter()
            .map(|row| Link {
                rel: row.rel,
                urn: row.far,
            })
            .collect();
        links.sort();
        Ok(links)
    }

    /// See [`OrgStore::sources`](super::OrgStore::sources).
    pub fn sources(&self) -> Result<Vec<Source>, ReadError> {
        let mut sources: Vec<Source> = self.view().all(Table::Sources, &Range::all())?;
        sources.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(sources)
    }

    /// See [`OrgStore::source`](super::OrgStore::source).
    pub fn source(&self, id: SourceId) -> Result<Option<Source>, ReadError> {
        self.view().row(Table::Sources, &self.org.names.source(id))
    }

    /// Returns what an agent last said about itself.
    pub fn agent_status(&self, agent: AgentId) -> Result<Option<AgentStatus>, ReadError> {
        self.view()
            .row(Table::AgentStatus, &self.org.names.agent_status(agent))
    }

    // -- verdicts and findings -----------------------------------------------------------------

    /// See [`OrgStore::verdicts`](super::OrgStore::verdicts).
    pub fn verdicts(&self, subject: &Subject) -> Result<Option<VerdictRow>, ReadError> {
        let key = self.org.names.subject(subject);
        let row: Option<StoredVerdicts> = self.view().row(Table::Verdicts, &key)?;
        let checks = if row.is_some() {
            self.checks()?
        } else {
            Vec::new()
        };
        row.map(|row| named(row, &checks)).transpose()
    }

    /// See [`OrgStore::scan_verdicts`](super::OrgStore::scan_verdicts).
    pub fn scan_verdicts(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<VerdictRow>, ReadError> {
        let mut range = Range::all();
        if let Some(cursor) = after {
            let key = BASE64URL_NOPAD
                .decode(cursor.as_bytes())
                .map_err(|_| ReadError::Cursor)?;
            // `h(scope) h(urn)`; anything else is not a cursor of this list.
            if key.len() != 32 {
                return Err(ReadError::Cursor);
            }
            range = range.after(&key);
        }
        let limit = limit.clamp(1, PAGE_ITEMS);
        let checks = self.checks()?;
        let view = self.view();
        let mut items = Vec::new();
        let mut last: Option<Key> = None;
        let mut has_more = false;
        each(
            &*self.read,
            Table::Verdicts,
            &range,
            Direction::Forward,
            |entry| {
                if items.len() == limit {
                    has_more = true;
                    return Ok(ControlFlow::Break(()));
                }
                items.push(named(view.found(Table::Verdicts, &entry)?, &checks)?);
                last = Some(entry.key);
                Ok::<_, ReadError>(ControlFlow::Continue(()))
            },
        )?;
        let next = last
            .filter(|_| has_more)
            .map(|key| BASE64URL_NOPAD.encode(&key));
        Ok(Page {
            items,
            next,
            total: None,
        })
    }

    /// Calls `visit` with every verdict.
    pub(super) fn each_verdict(&self, visit: &mut dyn FnMut(Verdict)) -> Result<(), ReadError> {
        self.view().each(
            Table::Verdicts,
            &Range::all(),
            Direction::Forward,
            |_, _, row: StoredVerdicts| {
                for judged in row.verdicts {
                    visit(judged.verdict);
                }
                ControlFlow::Continue(())
            },
        )
    }

    /// Returns how many verdicts there are of each kind, without a look at them: like the lists,
    /// it shows the last commit, which may be later than this snapshot.
    pub fn verdict_counts(&self) -> Result<BTreeMap<Verdict, u64>, ReadError> {
        self.org.lists(|lists| lists.verdicts().clone())
    }

    fn checks(&self) -> Result<Vec<String>, ReadError> {
        let key = self.org.names.meta(meta::CHECKS);
        Ok(self.view().row(Table::Meta, &key)?.unwrap_or_default())
    }

    /// See [`OrgStore::due`](super::OrgStore::due).
    pub fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Subject>, ReadError> {
        let range = Range::all().before(&keys::after(now));
        self.view()
            .first(Table::Due, &range, Direction::Forward, limit)
    }

    /// See [`OrgStore::next_due`](super::OrgStore::next_due).
    pub fn next_due(&self) -> Result<Option<Timestamp>, ReadError> {
        let (range, one) = (Range::all(), PageSize::rows(1));
        let first = self
            .read
            .scan(Table::Due, &range, Direction::Forward, one)?;
        let at = first
            .first()
            .and_then(|row| row.key.first_chunk::<8>())
            .and_then(|time| i64::try_from(u64::from_be_bytes(*time)).ok())
            .and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Ok(at)
    }

    /// See [`OrgStore::finding`](super::OrgStore::finding).
    pub fn finding(&self, id: FindingId) -> Result<Option<Finding>, ReadError> {
        self.view()
            .row(Table::Findings, &self.org.names.finding(id))
    }

    /// Calls `visit` with every finding until it returns false.
    pub fn each_finding(&self, visit: &mut dyn FnMut(Finding) -> bool) -> Result<(), ReadError> {
        let view = self.view();
        view.each(
            Table::Findings,
            &Range::all(),
            Direction::Forward,
            |_, _, finding| {
                if visit(finding) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )
    }

    /// See [`OrgStore::finding_history`](super::OrgStore::finding_history).
    pub fn finding_history(&self, id: FindingId) -> Result<Vec<Transition>, ReadError> {
        let range = Range::prefix(&self.org.names.finding(id));
        let view = self.view();
        // The newest are kept when there are too many.
        let mut steps: Vec<Transition> = view.first(
            Table::FindingHistory,
            &range,
            Direction::Backward,
            HISTORY_ROWS,
        )?;
        steps.reverse();
        Ok(steps)
    }

    /// See [`OrgStore::findings`](super::OrgStore::findings).
    pub fn findings(&self, list: &FindingList) -> Result<Page<FindingSummary>, ReadError> {
        self.org.lists(|lists| page(lists.findings(), list))?
    }

    // -- the feed of changes -------------------------------------------------------------------

    /// See [`OrgStore::changes`](super::OrgStore::changes).
    pub fn changes(&self, since: u64, limit: usize) -> Result<Vec<Change>, ReadError> {
        let mut last_of: BTreeMap<(Table, Key), u64> = BTreeMap::new();
        let (mut at, mut size) = (since, NOTES);
        'feed: loop {
            let mut page = self.read.notes(at, size)?;
            let is_last = page.len() < size;
            if !is_last {
                // It may end within a commit; that one is read again, whole.
                let cut = page.last().map_or(0, |note| note.commit);
                page.retain(|note| note.commit < cut);
                if page.is_empty() {
                    size = size.saturating_mul(2);
                    continue;
                }
            }
            for note in page {
                if note.commit > at && last_of.len() >= limit {
                    break 'feed;
                }
                at = note.commit;
                last_of.insert((note.table, note.key), note.commit);
            }
            if is_last {
                break;
            }
        }
        let view = self.view();
        let mut changes = Vec::with_capacity(last_of.len());
        for ((table, key), commit) in last_of {
            let subject = if table == Table::Scopes {
                let scope: Option<ScopeStatus> = view.row(table, &key)?;
                scope.map(|status| Subject::Scope(status.scope))
            } else {
                let row: Option<StoredResource> = view.row(table, &key)?;
                row.map(|row| Subject::Resource(row.urn))
            };
            // Without a row it is forgotten, and there is nothing to judge.
            changes.extend(subject.map(|subject| Change { commit, subject }));
        }
        changes.sort_by(|a, b| (a.commit, &a.subject).cmp(&(b.commit, &b.subject)));
        Ok(changes)
    }

    /// See [`OrgStore::judged_up_to`](super::OrgStore::judged_up_to).
    pub fn judged_up_to(&self) -> Result<u64, ReadError> {
        let key = self.org.names.meta(meta::JUDGED);
        Ok(self.view().row(Table::Meta, &key)?.unwrap_or(0))
    }

    // -- streams -------------------------------------------------------------------------------

    /// See [`OrgStore::high_waters`](super::OrgStore::high_waters).
    pub fn high_waters(&self, agent: AgentId) -> Result<Vec<(Stream, u64)>, ReadError> {
        let range = Range::prefix(&self.org.names.streams(agent));
        let rows: Vec<StoredStream> = self.view().all(Table::Streams, &range)?;
        let mut marks = Vec::with_capacity(rows.len());
        for row in rows {
            let stream = Stream {
                agent: row.agent,
                lane: row.lane,
                epoch: row.epoch,
            };
            let mark = self.read.mark(&self.org.names.stream(stream))?;
            if mark != row.high_water {
                return Err(ReadError::Seal {
                    table: Table::Streams.name(),
                });
            }
            marks.push((stream, mark));
        }
        marks.sort();
        Ok(marks)
    }

    /// See [`OrgStore::batch_header`](super::OrgStore::batch_header).
    pub fn batch_header(
        &self,
        stream: Stream,
        seq: u64,
    ) -> Result<Option<StoredHeader>, ReadError> {
        let names = &self.org.names;
        // Keys end with the last number of each batch: the first at or behind `seq` holds it.
        let within = Range::prefix(&names.stream(stream));
        let range = Range {
            from: names.batch(stream, seq),
            to: within.to,
        };
        let found: Vec<StoredHeader> =
            self.view()
                .first(Table::Batches, &range, Direction::Forward, 1)?;
        Ok(found
            .into_iter()
            .find(|batch| (batch.first_seq..=batch.last_seq).contains(&seq)))
    }

    // -- events --------------------------------------------------------------------------------

    /// See [`OrgStore::search_events`](super::OrgStore::search_events).
    pub fn search_events(&self, query: &EventQuery) -> Result<EventPage, ReadError> {
        search::search(&self.view(), query)
    }

    /// See [`OrgStore::event`](super::OrgStore::event).
    pub fn event(&self, id: EventId) -> Result<Option<Event>, ReadError> {
        search::event(&self.view(), id)
    }

    /// Returns at most `limit` losses, newest first.
    pub fn losses(&self, limit: usize) -> Result<Vec<Loss>, ReadError> {
        self.view()
            .first(Table::Losses, &Range::all(), Direction::Backward, limit)
    }

    /// See [`OrgStore::carried`](super::OrgStore::carried).
    pub fn carried(&self, agent: AgentId) -> Result<Option<Carried>, ReadError> {
        self.view()
            .row(Table::Carried, &self.org.names.agent_status(agent))
    }

    /// Returns what is known of every agent whose batches come in bundles.
    pub fn all_carried(&self) -> Result<Vec<Carried>, ReadError> {
        self.view().all(Table::Carried, &Range::all())
    }

    /// Returns how many records were ever lost.
    pub fn lost(&self) -> Result<u64, ReadError> {
        let key = self.org.names.meta(meta::LOSSES);
        let count: Option<LossCount> = self.view().row(Table::Meta, &key)?;
        Ok(count.map_or(0, |count| count.records))
    }

    /// See [`OrgStore::quarantine`](super::OrgStore::quarantine).
    pub fn quarantine(&self, limit: usize) -> Result<Vec<Quarantined>, ReadError> {
        self.view()
            .first(Table::Quarantine, &Range::all(), Direction::Backward, limit)
    }

    /// Returns how many items were ever refused, kept or not.
    pub fn quarantined(&self) -> Result<u64, ReadError> {
        let key = self.org.names.meta(meta::QUARANTINE);
        let count: Option<QuarantineCount> = self.view().row(Table::Meta, &key)?;
        Ok(count.unwrap_or_default().refused)
    }

    // -- audit ---------------------------------------------------------------------------------

    /// See [`OrgStore::audit`](super::OrgStore::audit).
    pub fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>, ReadError> {
        let range = Range {
            from: keys::sequence(from).to_vec(),
            to: None,
        };
        self.view()
            .first(Table::Audit, &range, Direction::Forward, limit)
    }

    /// See [`OrgStore::audit_head`](super::OrgStore::audit_head).
    pub fn audit_head(&self) -> Result<AuditHead, ReadError> {
        let key = self.org.names.meta(meta::AUDIT);
        Ok(self.view().row(Table::Meta, &key)?.unwrap_or_default())
    }
}

/// Returns a resource as callers see it: a living one was last confirmed by the last complete
/// sweep of its scope.
pub(super) fn shown(
    row: StoredResource,
    commit: u64,
    completed: Option<Timestamp>,
) -> Result<Resource, ReadError> {
    let confirmed = completed.filter(|_| row.retired_at.is_none());
    Ok(Resource {
        document: document_of(Table::Resources, &row.document)?,
        content_hash: row.content_hash,
        first_seen: row.first_seen,
        last_seen: confirmed.map_or(row.last_seen, |at| row.last_seen.max(at)),
        changed_at: row.changed_at,
        retired_at: row.retired_at,
        agent: row.agent,
        source: row.source,
        generation: row.generation,
        commit,
    })
}

/// Puts the checks' names in the place of their numbers.
fn named(row: StoredVerdicts, checks: &[String]) -> Result<VerdictRow, ReadError> {
    let mut verdicts = Vec::with_capacity(row.verdicts.len());
    for judged in row.verdicts {
        let place = usize::try_from(judged.check).unwrap_or(usize::MAX);
        let check_id = checks
            .get(place)
            .cloned()
            .ok_or_else(|| ReadError::Decode {
                table: Table::Verdicts.name(),
                reason: format!("there is no check of number {}", judged.check),
            })?;
        verdicts.push(Judged {
            check_id,
            verdict: judged.verdict,
            evaluated_at: judged.evaluated_at,
            facts_hash: judged.facts_hash,
            due_at: judged.due_at,
            gaps: judged.gaps,
        });
    }
    Ok(VerdictRow {
        subject: row.subject,
        verdicts,
    })
}
