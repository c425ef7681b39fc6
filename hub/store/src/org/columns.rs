//! Lists in memory: what sorting and filtering by text reads instead of rows.
//!
//! ```text
//! first list ─▶ Loading: commits keep their changes aside ─▶ read one snapshot ─▶ Warm
//! every commit, in order, on the writing thread ─▶ its changes are applied
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::ids::{FindingId, OrgId, ResourceId};
use protocol::{Document, Scope, Urn};
use serde::Deserialize;

use crate::error::ReadError;
use crate::list::page::{Listed, SortKey, UrnKey};
use crate::list::slab::Slab;
use crate::list::{
    FindingSort, FindingSummary, OpenFindings, ResourceSort, ResourceSummary, SharedScope,
    SharedUrn, Tags,
};
use crate::org::read::OrgReader;
use crate::rows::finding::Finding;
use crate::rows::resource::Resource;
use crate::rows::{FindingStatus, Verdict};
use crate::tables::Table;

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
    Retired(Scope, ResourceId),
    Swept(Scope, Timestamp),
    Finding(Box<FindingSummary>),
    NoFinding(FindingId),
}

impl Delta {
    pub(super) fn resource(&mut self, summary: ResourceSummary) {
        self.changes.push(Change::Resource(Box::new(summary)));
    }

    pub(super) fn retired(&mut self, org: OrgId, urn: &Urn) {
        let id = Resource::id_of(org, urn);
        self.changes.push(Change::Retired(urn.scope.clone(), id));
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

    pub(super) fn finding(&mut self, org: OrgId, finding: &Finding) {
        let summary = finding_summary(org, finding);
        self.changes.push(Change::Finding(Box::new(summary)));
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
    Warm(Box<Lists>),
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
        *state = State::Warm(Box::new(lists));
        Ok(result)
    }
}

/// Every finding and every living resource, as lists show them.
#[derive(Default)]
pub(super) struct Lists {
    findings: Slab<FindingId, FindingSummary>,
    resources: Slab<ResourceId, ResourceSummary>,
    scopes: BTreeMap<Scope, Members>,
    /// Open findings on what is no living resource.
    open_elsewhere: BTreeMap<ResourceId, OpenFindings>,
    /// How many verdicts there are of each kind.
    verdicts: BTreeMap<Verdict, u64>,
    /// Texts that many rows share.
    words: BTreeSet<Arc<str>>,
}

/// A scope that rows are in, and the places of its living resources, so that the end of a sweep
/// touches them alone.
struct Members {
    scope: Arc<SharedScope>,
    resources: BTreeSet<usize>,
}

impl Lists {
    /// Returns the findings, among free places.
    pub(super) fn findings(&self) -> &[Option<FindingSummary>] {
        self.findings.rows()
    }

    /// Returns the living resources, among free places.
    pub(super) fn resources(&self) -> &[Option<ResourceSummary>] {
        self.resources.rows()
    }

    pub(super) fn verdicts(&self) -> &BTreeMap<Verdict, u64> {
        &self.verdicts
    }

    /// Returns how many open findings there are on a resource.
    pub(super) fn open_on(&self, id: ResourceId) -> OpenFindings {
        let listed = self.resources.get(&id).map(|found| found.open_findings);
        let elsewhere = || self.open_elsewhere.get(&id).copied();
        listed.or_else(elsewhere).unwrap_or_default()
    }

    fn load(reader: &OrgReader) -> Result<Self, ReadError> {
        let mut lists = Self::default();
        let org = reader.org();
        reader.each_verdict(&mut |verdict| *lists.verdicts.entry(verdict).or_default() += 1)?;
        // Before the findings, which then share the texts of theirs.
        reader.each_listed(&mut |urn, shown, first_seen, last_seen| {
            lists.put_resource(ResourceSummary {
                first_seen,
                last_seen,
                ..listed(org, urn, shown)
            });
        })?;
        reader.each_finding(&mut |finding| {
            lists.put_finding(finding_summary(org, &finding));
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

    /// Returns a scope with its one copy.
    fn members(&mut self, scope: &Arc<SharedScope>) -> &mut Members {
        // Two looks: an entry would take a copy of the scope each time.
        if !self.scopes.contains_key(&***scope) {
            let members = Members {
                scope: Arc::clone(scope),
                resources: BTreeSet::new(),
            };
            self.scopes.insert((***scope).clone(), members);
        }
        self.scopes.get_mut(&***scope).expect("it was put in above")
    }

    fn apply(&mut self, delta: Delta) {
        for (verdict, change) in delta.verdicts {
            let count = self.verdicts.entry(verdict).or_default();
            *count = count.saturating_add_signed(change);
        }
        for change in delta.changes {
            match change {
                Change::Resource(summary) => self.put_resource(*summary),
                Change::Retired(scope, id) => self.remove_resource(&scope, id),
                Change::Swept(scope, at) => {
                    let members = self.scopes.get(&scope);
                    for place in members.iter().flat_map(|members| &members.resources) {
                        if let Some(resource) = self.resources.at_mut(*place) {
                            resource.last_seen = resource.last_seen.max(at);
                        }
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
        finding.urn.scope = Arc::clone(&self.members(&finding.urn.scope).scope);
        if let Some(resource) = self.resources.get(&finding.resource_id) {
            finding.urn.id = Arc::clone(&resource.urn.id);
            share(&mut finding.name, &resource.name);
        }
        self.remove_finding(finding.id);
        if finding.status == FindingStatus::Open {
            self.count_open(finding.resource_id, |open| {
                let count = open.count(finding.severity);
                *count = count.saturating_add(1);
            });
        }
        self.findings.put(finding.id, finding);
    }

    fn remove_finding(&mut self, id: FindingId) {
        let Some((_, before)) = self.findings.remove(&id) else {
            return;
        };
        if before.status == FindingStatus::Open {
            self.count_open(before.resource_id, |open| {
                let count = open.count(before.severity);
                *count = count.saturating_sub(1);
            });
        }
    }

    fn count_open(&mut self, on: ResourceId, change: impl FnOnce(&mut OpenFindings)) {
        if let Some(resource) = self.resources.get_mut(&on) {
            return change(&mut resource.open_findings);
        }
        let open = self.open_elsewhere.entry(on).or_default();
        change(open);
        if open.total() == 0 {
            self.open_elsewhere.remove(&on);
        }
    }

    pub(super) fn put_resource(&mut self, mut resource: ResourceSummary) {
        resource.type_name = self.word(&resource.type_name);
        let before = self.resources.get(&resource.id);
        resource.open_findings = before.map_or_else(OpenFindings::default, |before| {
            resource.urn.id = Arc::clone(&before.urn.id);
            share(&mut resource.name, &before.name);
            before.open_findings
        });
        if before.is_none() {
            let elsewhere = self.open_elsewhere.remove(&resource.id);
            resource.open_findings = elsewhere.unwrap_or_default();
        }
        let (name, id) = (&mut resource.name, &resource.urn.id);
        share(name, id);
        let scope = Arc::clone(&self.members(&resource.urn.scope).scope);
        resource.urn.scope = Arc::clone(&scope);
        let place = self.resources.put(resource.id, resource);
        self.members(&scope).resources.insert(place);
    }

    fn remove_resource(&mut self, scope: &Scope, id: ResourceId) {
        let Some((place, resource)) = self.resources.remove(&id) else {
            return;
        };
        if let Some(members) = self.scopes.get_mut(scope) {
            members.resources.remove(&place);
        }
        if resource.open_findings.total() > 0 {
            self.open_elsewhere.insert(id, resource.open_findings);
        }
    }
}

/// Takes the memory of another text that is the same.
fn share(own: &mut Arc<str>, other: &Arc<str>) {
    if **own == **other {
        *own = Arc::clone(other);
    }
}

pub(super) fn finding_summary(org: OrgId, finding: &Finding) -> FindingSummary {
    FindingSummary {
        id: finding.id,
        check_id: finding.check_id.as_str().into(),
        title: finding.title.as_str().into(),
        severity: finding.severity,
        status: finding.status,
        verdict: finding.verdict,
        urn: SharedUrn::of(&finding.resource.urn),
        resource_id: Resource::id_of(org, &finding.resource.urn),
        type_name: finding.resource.type_name.as_str().into(),
        name: finding.resource.name.as_str().into(),
        first_seen: finding.first_seen,
        last_seen: finding.last_seen,
        resolved_at: finding.resolved_at,
        risk: finding.risk.score,
        owner: finding.owner,
    }
}

/// Returns what a list shows of a resource.
pub(super) fn resource_summary(org: OrgId, resource: &Resource) -> ResourceSummary {
    ResourceSummary {
        last_seen: resource.last_seen,
        ..document_summary(org, &resource.document, resource.first_seen)
    }
}

/// The parts of a stored document that a list shows.
#[derive(Debug, Deserialize)]
pub(super) struct Shown<'d> {
    #[serde(rename = "type", borrow)]
    type_name: Cow<'d, str>,
    #[serde(borrow)]
    name: Cow<'d, str>,
    #[serde(borrow)]
    native_id: Cow<'d, str>,
    #[serde(default, borrow)]
    tags: Option<BTreeMap<Cow<'d, str>, Cow<'d, str>>>,
}

impl<'d> Shown<'d> {
    /// Reads them from a document's text; the rest of it is passed over.
    pub(super) fn of(text: &'d str) -> Result<Self, ReadError> {
        serde_json::from_str(text).map_err(|error| ReadError::Decode {
            table: Table::Resources.name(),
            reason: error.to_string(),
        })
    }
}

fn listed(org: OrgId, urn: &Urn, shown: &Shown<'_>) -> ResourceSummary {
    let tags = shown.tags.iter().flatten();
    ResourceSummary {
        id: Resource::id_of(org, urn),
        urn: SharedUrn::of(urn),
        type_name: (*shown.type_name).into(),
        name: (*shown.name).into(),
        native_id: (*shown.native_id).into(),
        tags: Tags::of(tags.map(|(key, value)| (&**key, &**value))),
        first_seen: Timestamp::UNIX_EPOCH,
        last_seen: Timestamp::UNIX_EPOCH,
        open_findings: OpenFindings::default(),
    }
}

/// Returns what a list shows of a document that came in at `at`.
pub(super) fn document_summary(org: OrgId, document: &Document, at: Timestamp) -> ResourceSummary {
    let tags = document.tags.iter().flatten();
    ResourceSummary {
        id: Resource::id_of(org, &document.urn),
        urn: SharedUrn::of(&document.urn),
        type_name: document.type_name.as_str().into(),
        name: document.name.as_str().into(),
        native_id: document.native_id.as_str().into(),
        tags: Tags::of(tags.map(|(key, value)| (key.as_str(), value.as_str()))),
        first_seen: at,
        last_seen: at,
        open_findings: OpenFindings::default(),
    }
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
            FindingSort::Resource => SortKey::Urn(UrnKey::of(&self.urn)),
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
            ResourceSort::Urn => SortKey::Urn(UrnKey::of(&self.urn)),
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
                let resources = lists.resources().iter().flatten();
                let mut names: Vec<_> = resources.map(|item| item.name.to_string()).collect();
                names.sort_unstable();
                names
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
