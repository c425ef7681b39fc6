//! Lists in memory: what sorting and filtering by text reads instead of rows.
//!
//! ```text
//! first list ─▶ Loading: commits keep their changes aside ─▶ read one snapshot ─▶ Warm
//! every commit, in order, on the writing thread ─▶ its changes are applied
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::ids::{FindingId, OrgId};
use protocol::{Document, Scope, Urn};

use crate::error::ReadError;
use crate::list::page::{Listed, SortKey};
use crate::list::{FindingSort, FindingSummary, OpenFindings, ResourceSort, ResourceSummary};
use crate::org::read::OrgReader;
use crate::rows::finding::Finding;
use crate::rows::resource::Resource;
use crate::rows::{FindingStatus, Verdict};

/// The longest text that is sorted by, in bytes; ties are broken by id. It bounds cursors.
const SORT_BYTES: usize = 512;

/// What one commit changes in the lists, in order.
#[derive(Default)]
pub(super) struct Delta {
    changes: Vec<Change>,
    /// How many verdicts more, or fewer, there are of each kind.
    verdicts: BTreeMap<Verdict, i64>,
}

enum Change {
    Resource(Box<ResourceSummary>),
    Retired(Urn),
    Swept(Scope, Timestamp),
    Finding(Box<FindingSummary>),
    NoFinding(FindingId),
}

impl Delta {
    pub(super) fn resource(&mut self, summary: ResourceSummary) {
        self.changes.push(Change::Resource(Box::new(summary)));
    }

    pub(super) fn retired(&mut self, urn: Urn) {
        self.changes.push(Change::Retired(urn));
    }

    pub(super) fn swept(&mut self, scope: &Scope, at: Timestamp) {
        self.changes.push(Change::Swept(scope.clone(), at));
    }

    pub(super) fn forget_finding(&mut self, id: FindingId) {
        self.changes.push(Change::NoFinding(id));
    }

    pub(super) fn judged(&mut self, verdict: Verdict) {
        *self.verdicts.entry(verdict).or_default() += 1;
    }

    pub(super) fn unjudged(&mut self, verdict: Verdict) {
        *self.verdicts.entry(verdict).or_default() -= 1;
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.verdicts.values().all(|change| *change == 0)
    }

    pub(super) fn finding(&mut self, finding: &Finding) {
        self.changes
            .push(Change::Finding(Box::new(finding_summary(finding))));
    }
}

/// The lists of one organisation, read when first asked for.
#[derive(Default)]
pub(super) struct Columns {
    state: RwLock<State>,
    /// Held while they are read, so that it happens once.
    loading: Mutex<()>,
    asked_at: Mutex<Option<Instant>>,
}

#[derive(Default)]
enum State {
    #[default]
    Cold,
    /// What was committed since the reading began.
    Loading(Vec<(u64, Delta)>),
    Warm(Lists),
}

impl Columns {
    /// Applies what a commit changed.
    pub(super) fn apply(&self, commit: u64, delta: Delta) {
        if delta.is_empty() {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Cold => {}
            State::Loading(aside) => aside.push((commit, delta)),
            State::Warm(lists) => lists.apply(delta),
        }
    }

    /// Forgets the lists if nobody asked for them for so long; who asks next reads them again.
    pub(super) fn forget(&self, idle: Duration) {
        let asked_at = *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if asked_at.is_none_or(|at| at.elapsed() < idle) {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Warm(_) = &*state {
            *state = State::Cold;
        }
    }

    /// Runs `work` on the lists, reading them first if need be. They show the last commit, which
    /// may be later than the snapshot of who asks.
    pub(super) fn with<R>(
        &self,
        snapshot: impl FnOnce() -> Result<OrgReader, ReadError>,
        work: impl FnOnce(&Lists) -> R,
    ) -> Result<R, ReadError> {
        let asked_at = &self.asked_at;
        *asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if let State::Warm(lists) = &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(work(lists));
        }
        let _once = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Warm(lists) = &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(work(lists));
        }
        // Before the snapshot is taken: what is committed from here on is in it, or aside, or
        // both, but never in neither.
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Loading(Vec::new());
        let loaded = snapshot().and_then(|reader| Ok((reader.commit()?, Lists::load(&reader)?)));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let aside = match std::mem::take(&mut *state) {
            State::Loading(aside) => aside,
            State::Cold | State::Warm(_) => Vec::new(),
        };
        let (seen, mut lists) = loaded?;
        for (commit, delta) in aside {
            if commit > seen {
                lists.apply(delta);
            }
        }
        let result = work(&lists);
        *state = State::Warm(lists);
        Ok(result)
    }
}

/// Every finding and every living resource, as lists show them.
#[derive(Default)]
pub(super) struct Lists {
    findings: BTreeMap<FindingId, FindingSummary>,
    /// By id within their scope, so that the end of a sweep touches one scope.
    resources: BTreeMap<Scope, BTreeMap<String, ResourceSummary>>,
    open: BTreeMap<Urn, OpenFindings>,
    /// How many verdicts there are of each kind.
    verdicts: BTreeMap<Verdict, u64>,
    /// Texts that many rows share.
    words: BTreeSet<Arc<str>>,
}

impl Lists {
    pub(super) fn findings(&self) -> impl Iterator<Item = &FindingSummary> {
        self.findings.values()
    }

    pub(super) fn resources(&self) -> impl Iterator<Item = &ResourceSummary> {
        self.resources.values().flat_map(BTreeMap::values)
    }

    pub(super) fn verdicts(&self) -> &BTreeMap<Verdict, u64> {
        &self.verdicts
    }

    fn load(reader: &OrgReader) -> Result<Self, ReadError> {
        let mut lists = Self::default();
        reader.each_verdict(&mut |verdict| *lists.verdicts.entry(verdict).or_default() += 1)?;
        reader.each_finding(&mut |finding| {
            lists.put_finding(finding_summary(&finding));
            true
        })?;
        let org = reader.org();
        reader.each_resource(&mut |resource| {
            lists.put_resource(resource_summary(org, &resource));
            true
        })?;
        Ok(lists)
    }

    /// Returns the one copy of a text.
    fn word(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.words.get(text) {
            return Arc::clone(known);
        }
        self.words.insert(Arc::clone(text));
        Arc::clone(text)
    }

    fn apply(&mut self, delta: Delta) {
        for (verdict, change) in delta.verdicts {
            let count = self.verdicts.entry(verdict).or_default();
            *count = count.saturating_add_signed(change);
        }
        for change in delta.changes {
            match change {
                Change::Resource(summary) => self.put_resource(*summary),
                Change::Retired(urn) => self.remove_resource(&urn),
                Change::Swept(scope, at) => {
                    for summary in self.resources.get_mut(&scope).into_iter().flatten() {
                        summary.1.last_seen = summary.1.last_seen.max(at);
                    }
                }
                Change::Finding(summary) => self.put_finding(*summary),
                Change::NoFinding(id) => self.remove_finding(id),
            }
        }
    }

    pub(super) fn put_finding(&mut self, mut finding: FindingSummary) {
        finding.check_id = self.word(&finding.check_id);
        finding.title = self.word(&finding.title);
        finding.type_name = self.word(&finding.type_name);
        self.remove_finding(finding.id);
        if finding.status == FindingStatus::Open {
            let open = self.open.entry(finding.urn.clone()).or_default();
            let count = open.count(finding.severity);
            *count = count.saturating_add(1);
            self.show_open(&finding.urn.clone());
        }
        self.findings.insert(finding.id, finding);
    }

    fn remove_finding(&mut self, id: FindingId) {
        let Some(before) = self.findings.remove(&id) else {
            return;
        };
        if before.status == FindingStatus::Open {
            let open = self.open.entry(before.urn.clone()).or_default();
            let count = open.count(before.severity);
            *count = count.saturating_sub(1);
            if open.total() == 0 {
                self.open.remove(&before.urn);
            }
            self.show_open(&before.urn);
        }
    }

    fn show_open(&mut self, urn: &Urn) {
        let open = self.open.get(urn).copied().unwrap_or_default();
        let scope = self.resources.get_mut(&urn.scope);
        if let Some(summary) = scope.and_then(|scope| scope.get_mut(&urn.id)) {
            summary.open_findings = open;
        }
    }

    pub(super) fn put_resource(&mut self, mut resource: ResourceSummary) {
        resource.type_name = self.word(&resource.type_name);
        resource.open_findings = self.open.get(&resource.urn).copied().unwrap_or_default();
        let scope = self
            .resources
            .entry(resource.urn.scope.clone())
            .or_default();
        scope.insert(resource.urn.id.clone(), resource);
    }

    fn remove_resource(&mut self, urn: &Urn) {
        if let Some(scope) = self.resources.get_mut(&urn.scope) {
            scope.remove(&urn.id);
            if scope.is_empty() {
                self.resources.remove(&urn.scope);
            }
        }
    }
}

pub(super) fn finding_summary(finding: &Finding) -> FindingSummary {
    FindingSummary {
        id: finding.id,
        check_id: finding.check_id.as_str().into(),
        title: finding.title.as_str().into(),
        severity: finding.severity,
        status: finding.status,
        verdict: finding.verdict,
        urn: finding.resource.urn.clone(),
        type_name: finding.resource.type_name.as_str().into(),
        name: finding.resource.name.as_str().into(),
        first_seen: finding.first_seen,
        last_seen: finding.last_seen,
        resolved_at: finding.resolved_at,
        risk: finding.risk.score,
        owner: finding.owner,
    }
}

pub(super) fn resource_summary(org: OrgId, resource: &Resource) -> ResourceSummary {
    document_summary(org, &resource.document, |summary| ResourceSummary {
        agent: resource.agent,
        source: resource.source,
        first_seen: resource.first_seen,
        last_seen: resource.last_seen,
        ..summary
    })
}

/// Returns what a list shows of a document; `with` says where it came from and when.
pub(super) fn document_summary(
    org: OrgId,
    document: &Document,
    with: impl FnOnce(ResourceSummary) -> ResourceSummary,
) -> ResourceSummary {
    let tags = document.tags.iter().flatten();
    with(ResourceSummary {
        id: Resource::id_of(org, &document.urn),
        urn: document.urn.clone(),
        type_name: document.type_name.as_str().into(),
        name: document.name.as_str().into(),
        native_id: document.native_id.as_str().into(),
        tags: tags
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect(),
        agent: protocol::ids::AgentId::from_bytes([0; 16]),
        source: protocol::ids::SourceId::from_bytes([0; 16]),
        first_seen: Timestamp::UNIX_EPOCH,
        last_seen: Timestamp::UNIX_EPOCH,
        open_findings: OpenFindings::default(),
    })
}

/// Returns the part of a text that is sorted by.
fn sorted_by(text: &str) -> SortKey<'_> {
    SortKey::Text(
        text.get(..text.floor_char_boundary(SORT_BYTES))
            .unwrap_or(text),
    )
}

impl Listed for FindingSummary {
    type Sort = FindingSort;

    fn id(&self) -> [u8; 16] {
        *self.id.as_bytes()
    }

    fn key(&self, sort: FindingSort) -> SortKey<'_> {
        match sort {
            FindingSort::Severity => SortKey::Urgency(
                self.severity as i64,
                i64::from(self.risk),
                self.last_seen.as_microsecond(),
            ),
            FindingSort::Risk => SortKey::Number(i64::from(self.risk)),
            FindingSort::FirstSeen => SortKey::Number(self.first_seen.as_microsecond()),
            FindingSort::LastSeen => SortKey::Number(self.last_seen.as_microsecond()),
            FindingSort::Check => sorted_by(&self.check_id),
            FindingSort::Status => SortKey::Number(self.status as i64),
            FindingSort::Resource => SortKey::Urn(&self.urn),
            FindingSort::Account => sorted_by(&self.urn.scope.account),
        }
    }

    fn sort_number(sort: FindingSort) -> u8 {
        sort as u8
    }
}

impl Listed for ResourceSummary {
    type Sort = ResourceSort;

    fn id(&self) -> [u8; 16] {
        *self.id.as_bytes()
    }

    fn key(&self, sort: ResourceSort) -> SortKey<'_> {
        match sort {
            ResourceSort::Urn => SortKey::Urn(&self.urn),
            ResourceSort::Name => sorted_by(&self.name),
            ResourceSort::Type => sorted_by(&self.type_name),
            ResourceSort::FirstSeen => SortKey::Number(self.first_seen.as_microsecond()),
            ResourceSort::LastSeen => SortKey::Number(self.last_seen.as_microsecond()),
            ResourceSort::Findings => SortKey::Number(i64::from(self.open_findings.total())),
        }
    }

    fn sort_number(sort: ResourceSort) -> u8 {
        sort as u8
    }
}

#[cfg(test)]
mod tests {
    use super::super::tamper::{new_engine, store_on};
    use super::super::{OrgReader, OrgStore};
    use crate::rows::resource::Provenance;
    use protocol::ids::{AgentId, SourceId};
    use protocol::{Document, Scope};

    async fn put(org: &OrgStore, id: &str) {
        let urn = Scope::of_type("aws.ec2.vpc", "1", "r").urn(id);
        let document: Document = serde_json::from_value(serde_json::json!({
            "urn": urn, "type": "aws.ec2.vpc", "provider": "aws", "account": "1", "region": "r",
            "id": id, "native_id": "", "name": id, "config": {},
            "collected_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let from = Provenance {
            agent: AgentId::from_bytes([1; 16]),
            source: SourceId::from_bytes([2; 16]),
            at: document.collected_at,
        };
        let mut write = org.write();
        write.put_resource(document, from);
        write.commit().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_committed_while_the_lists_are_read_is_in_them() {
        let org = store_on(&new_engine());
        put(&org, "before").await;
        let runtime = tokio::runtime::Handle::current();
        let reading = org.clone();
        let names = tokio::task::spawn_blocking(move || {
            let inner = &reading.inner;
            let snapshot = || {
                runtime.block_on(put(&reading, "before the snapshot"));
                let snapshot = OrgReader::open(inner);
                runtime.block_on(put(&reading, "after the snapshot"));
                snapshot
            };
            let names = inner.columns.with(snapshot, |lists| {
                lists
                    .resources()
                    .map(|item| item.name.to_string())
                    .collect::<Vec<_>>()
            });
            names.unwrap()
        })
        .await
        .unwrap();
        assert_eq!(
            names,
            ["after the snapshot", "before", "before the snapshot"]
        );
    }
}
