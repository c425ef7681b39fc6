//! One organisation's store: the handle, its reads by name, its writes.

mod apply;
mod as_of;
mod columns;
mod compaction;
#[cfg(test)]
mod power;
mod read;
mod retention;
pub(crate) mod search;
mod sweep;
mod tally;
#[cfg(test)]
mod tamper;
pub(crate) mod verify;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::{AgentId, EventId, FindingId, OrgId, ResourceId, SourceId, TokenId};
use protocol::wire::v1::Epoch;
use protocol::{Scope, Urn};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::apply::{Applied, meta};
pub use self::as_of::{Became, Past};
use self::columns::{Columns, Lists};
use self::compaction::Space;
pub use self::read::OrgReader;
pub use self::retention::SignBase;
pub use self::tally::AgentBounds;
pub use self::verify::Inspection;
pub use self::write::OrgWrite;
use crate::appliance::Shared;
use crate::codec;
use crate::door::Door;
use crate::engine::{Engine, Key, WriteSet};
use crate::error::{ApplianceError, CommitError, Fatal, OpenError, ReadError};
use crate::keys::{self, Names};
use crate::list::{FindingList, FindingSummary, Page, ResourceList, ResourceSummary};
use crate::load::Pulse;
use crate::reseal::Owned;
use crate::rows::access::{Agent, AgentView, EnrolToken};
use crate::rows::audit::{AuditAct, AuditEntry, AuditHead};
use crate::rows::carried::Carried;
use crate::rows::event::{BlockKey, Event, EventPage, EventQuery, Quarantined};
use crate::rows::finding::{Finding, Transition};
use crate::rows::resource::{
    Change, PastResource, Resource, ScopeStatus, Source, Subject, SweepOutcome,
};
use crate::rows::verdict::VerdictRow;
use crate::rows::{AgentState, at};
use crate::seal::{Sealer, fill_random};
use crate::tables::Table;
use crate::writer::{Alarm, Writer};

/// One sequence space: an agent's lane in one life of its spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The agent.
    pub agent: AgentId,
    /// The lane's number on the wire.
    pub lane: u8,
    /// Drawn at random when the spool was made, so that a restored disk cannot collide.
    pub epoch: Epoch,
}

/// A batch header as its agent signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeader {
    /// The hub's clock at receipt.
    pub received_at: Timestamp,
    /// The bytes that were signed.
    pub header: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// The signed header of one stored batch: the evidence that needs no trust in the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHeader {
    /// First sequence number of the batch.
    pub first_seq: u64,
    /// Last sequence number of the batch.
    pub last_seq: u64,
    /// The hub's clock at receipt.
    #[serde(with = "at")]
    pub received_at: Timestamp,
    /// The header as it was signed.
    pub header: Vec<u8>,
    /// The agent's signature over it.
    pub signature: Vec<u8>,
}

/// What a commit came to. It is durable when the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The commit's number within the organisation. Later commits have greater numbers.
    pub commit: u64,
    /// The end of the audit log after it.
    pub audit: AuditHead,
    /// What each [`OrgWrite::end_sweep`] came to, in order.
    pub sweeps: Vec<SweepOutcome>,
    /// Resources that were refused because their agent has as many as it may have.
    pub refused: Vec<Urn>,
}

/// One organisation's store: the authority to read and write it.
///
/// Only [`Appliance::admit_agent`](crate::Appliance::admit_agent),
/// [`Appliance::admit_user`](crate::Appliance::admit_user) and
/// [`Store::maintenance`](crate::Store::maintenance) make one. Nobody can forge one:
///
/// ```compile_fail
/// fn forge(admitted: store::OrgStore, org: protocol::ids::OrgId) -> store::OrgStore {
///     store::OrgStore { inner: todo!() }
/// }
/// ```
/// Its compiling twin, which differs in how the handle is obtained and in nothing else:
/// ```
/// fn forge(admitted: store::OrgStore, org: protocol::ids::OrgId) -> store::OrgStore {
///     admitted
/// }
/// ```
#[derive(Clone)]
pub struct OrgStore {
    inner: Arc<OrgInner>,
}

impl fmt::Debug for OrgStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrgStore")
            .field("org", &self.org())
            .finish_non_exhaustive()
    }
}

/// [`Stream`] as stored, with the number that its mark must have.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredStream {
    agent: AgentId,
    lane: u8,
    epoch: Epoch,
    high_water: u64,
}

/// An organisation's open file with what reads and writes it.
pub(crate) struct OrgInner {
    org: OrgId,
    names: Names,
    sealer: Sealer,
    engine: Arc<dyn Engine>,
    writer: Writer,
    door: Door,
    alarm: Alarm,
    appliance: Arc<Shared>,
    bounds: AgentBounds,
    columns: Columns,
    space: Space,
    last_commit: watch::Sender<u64>,
    /// The end of the audit log as the last commit left it, and the last place that was signed.
    audited: Mutex<(AuditHead, u64)>,
    block_salt: [u8; 2],
    blocks: AtomicU32,
    is_closed: AtomicBool,
}

impl OrgStore {
    /// Returns the organisation that this handle is the authority for.
    pub fn org(&self) -> OrgId {
        self.inner.org
    }

    /// Begins a write. Nothing happens before [`OrgWrite::commit`].
    pub fn write(&self) -> OrgWrite {
        OrgWrite::new(Arc::clone(&self.inner))
    }

    /// Runs `work` on a blocking thread, on one consistent snapshot.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the answer; the thread finishes its work.
    pub async fn read<R: Send + 'static>(
        &self,
        work: impl FnOnce(&OrgReader) -> Result<R, ReadError> + Send + 'static,
    ) -> Result<R, ReadError> {
        let inner = Arc::clone(&self.inner);
        self.inner.space.settled().await?;
        self.inner
            .door
            .run(move || work(&OrgReader::open(&inner)?))
            .await
    }

    /// Returns a receiver that holds the number of the last commit and wakes at each new one.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.last_commit.subscribe()
    }

    /// Returns a resource, retired ones too.
    pub async fn resource(&self, urn: &Urn) -> Result<Option<Resource>, ReadError> {
        let urn = urn.clone();
        self.read(move |reader| reader.resource(&urn)).await
    }

    /// Returns a resource by its id, retired ones too.
    pub async fn resource_by_id(&self, id: ResourceId) -> Result<Option<Resource>, ReadError> {
        self.read(move |reader| reader.resource_by_id(id)).await
    }

    /// Returns the documents that a resource had before, newest first.
    pub async fn resource_history(&self, urn: &Urn) -> Result<Vec<PastResource>, ReadError> {
        let urn = urn.clone();
        self.read(move |reader| reader.resource_history(&urn)).await
    }

    /// Returns a page of the list of resources.
    pub async fn resources(&self, list: ResourceList) -> Result<Page<ResourceSummary>, ReadError> {
        self.read(move |reader| reader.resources(&list)).await
    }

    /// Returns every living resource of a scope.
    pub async fn resources_in(&self, scope: &Scope) -> Result<Vec<Resource>, ReadError> {
        let scope = scope.clone();
        self.read(move |reader| reader.resources_in(&scope)).await
    }

    /// Returns how far the sweep of a scope has come; `None` if none ever began.
    pub async fn scope(&self, scope: &Scope) -> Result<Option<ScopeStatus>, ReadError> {
        let scope = scope.clone();
        self.read(move |reader| reader.scope(&scope)).await
    }

    /// Returns every scope.
    pub async fn scopes(&self) -> Result<Vec<ScopeStatus>, ReadError> {
        self.read(OrgReader::scopes).await
    }

    /// Returns the URNs that a resource's links of a relation lead to, whether or not the hub
    /// holds them.
    pub async fn linked(&self, urn: &Urn, rel: &str) -> Result<Vec<Urn>, ReadError> {
        let (urn, rel) = (urn.clone(), rel.to_owned());
        self.read(move |reader| reader.linked(&urn, &rel)).await
    }

    /// Returns the resources whose links of a relation lead to this one.
    pub async fn linked_from(&self, urn: &Urn, rel: &str) -> Result<Vec<Urn>, ReadError> {
        let (urn, rel) = (urn.clone(), rel.to_owned());
        self.read(move |reader| reader.linked_from(&urn, &rel))
            .await
    }

    /// Returns every verdict on a subject.
    pub async fn verdicts(&self, subject: &Subject) -> Result<Option<VerdictRow>, ReadError> {
        let subject = subject.clone();
        self.read(move |reader| reader.verdicts(&subject)).await
    }

    /// Returns a page of all verdicts: at most `limit` rows (not verdicts), and the cursor of the
    /// next page.
    pub async fn scan_verdicts(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<VerdictRow>, ReadError> {
        self.read(move |reader| reader.scan_verdicts(after.as_deref(), limit))
            .await
    }

    /// Returns at most `limit` subjects that have a verdict due at or before `now`.
    pub async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Subject>, ReadError> {
        self.read(move |reader| reader.due(now, limit)).await
    }

    /// Returns when the next verdict falls due; `None` where none will.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, ReadError> {
        self.read(OrgReader::next_due).await
    }

    /// Returns a finding.
    pub async fn finding(&self, id: FindingId) -> Result<Option<Finding>, ReadError> {
        self.read(move |reader| reader.finding(id)).await
    }

    /// Returns the life of a finding, oldest step first.
    pub async fn finding_history(&self, id: FindingId) -> Result<Vec<Transition>, ReadError> {
        self.read(move |reader| reader.finding_history(id)).await
    }

    /// Returns a page of the list of findings.
    pub async fn findings(&self, list: FindingList) -> Result<Page<FindingSummary>, ReadError> {
        self.read(move |reader| reader.findings(&list)).await
    }

    /// Returns every high-water mark of an agent with its last sequence number.
    pub async fn high_waters(&self, agent: AgentId) -> Result<Vec<(Stream, u64)>, ReadError> {
        self.read(move |reader| reader.high_waters(agent)).await
    }

    /// Returns the signed header of the batch that holds a sequence number.
    pub async fn batch_header(
        &self,
        stream: Stream,
        seq: u64,
    ) -> Result<Option<StoredHeader>, ReadError> {
        self.read(move |reader| reader.batch_header(stream, seq))
            .await
    }

    /// Searches events, newest receipt first.
    pub async fn search_events(&self, query: EventQuery) -> Result<EventPage, ReadError> {
        self.read(move |reader| reader.search_events(&query)).await
    }

    /// Returns an event.
    pub async fn event(&self, id: EventId) -> Result<Option<Event>, ReadError> {
        self.read(move |reader| reader.event(id)).await
    }

    /// Returns at most `limit` refused items, newest first.
    pub async fn quarantine(&self, limit: usize) -> Result<Vec<Quarantined>, ReadError> {
        self.read(move |reader| reader.quarantine(limit)).await
    }

    /// Returns what is known of an agent's bundles; `None` when none ever came.
    pub async fn carried(&self, agent: AgentId) -> Result<Option<Carried>, ReadError> {
        self.read(move |reader| reader.carried(agent)).await
    }

    /// Returns a source.
    pub async fn source(&self, id: SourceId) -> Result<Option<Source>, ReadError> {
        self.read(move |reader| reader.source(id)).await
    }

    /// Returns every source.
    pub async fn sources(&self) -> Result<Vec<Source>, ReadError> {
        self.read(OrgReader::sources).await
    }

    /// Returns what changed after a commit, oldest first, each subject once with its last commit;
    /// at most `limit`, but a commit is never cut, so that the last one named is seen whole.
    pub async fn changes(&self, since: u64, limit: usize) -> Result<Vec<Change>, ReadError> {
        self.read(move |reader| reader.changes(since, limit)).await
    }

    /// Returns the commit up to which the evaluator has judged ([`OrgWrite::changes_judged`]).
    pub async fn judged_up_to(&self) -> Result<u64, ReadError> {
        self.read(OrgReader::judged_up_to).await
    }

    /// Returns audit entries from a place in the log on, oldest first, at most `limit`.
    pub async fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>, ReadError> {
        self.read(move |reader| reader.audit(from, limit)).await
    }

    /// Returns the end of the audit log.
    pub async fn audit_head(&self) -> Result<AuditHead, ReadError> {
        self.read(OrgReader::audit_head).await
    }

    /// Returns the organisation's agents with what they last said.
    pub async fn agents(&self) -> Result<Vec<AgentView>, ReadError> {
        let (org, appliance) = (self.org(), Arc::clone(&self.inner.appliance));
        self.read(move |reader| {
            let agents = appliance.look(|desk| desk.agents_of(org))?;
            agents
                .into_iter()
                .map(|agent| with_status(reader, agent))
                .collect()
        })
        .await
    }

    /// Returns one of the organisation's agents.
    pub async fn agent(&self, id: AgentId) -> Result<Option<AgentView>, ReadError> {
        let (org, appliance) = (self.org(), Arc::clone(&self.inner.appliance));
        self.read(move |reader| {
            let agent = appliance.look(|desk| desk.agent_of(org, id))?;
            agent.map(|agent| with_status(reader, agent)).transpose()
        })
        .await
    }

    /// Changes whether one of the organisation's agents may speak. The caller closes its session.
    ///
    /// # Errors
    ///
    /// `Missing` when the organisation has no such agent; `Conflict` when it is revoked, which is
    /// for good.
    pub async fn set_agent_state(
        &self,
        id: AgentId,
        state: AgentState,
    ) -> Result<(), ApplianceError> {
        let org = self.org();
        let changed = self
            .inner
            .appliance
            .change(move |desk| desk.set_agent_state(org, id, state));
        changed.await.map(drop)
    }

    /// Stores an enrolment token of this organisation.
    ///
    /// # Errors
    ///
    /// `Conflict` when the token names another organisation or its id exists.
    pub async fn put_token(&self, token: EnrolToken) -> Result<(), ApplianceError> {
        if token.org != self.org() {
            return Err(ApplianceError::Conflict { what: "the token" });
        }
        self.inner
            .appliance
            .change(move |desk| desk.put_token(&token))
            .await
    }

    /// Returns this organisation's enrolment tokens.
    pub async fn tokens(&self) -> Result<Vec<EnrolToken>, ReadError> {
        let org = self.org();
        self.inner
            .appliance
            .ask(move |desk| desk.tokens_of(org))
            .await
    }

    /// Removes one of this organisation's enrolment tokens; says whether there was one.
    pub async fn delete_token(&self, id: TokenId) -> Result<bool, ApplianceError> {
        let org = self.org();
        self.inner
            .appliance
            .change(move |desk| desk.delete_token(org, id))
            .await
    }

    /// Returns the error that ended durability, if one has.
    pub fn fatal(&self) -> Option<Fatal> {
        self.inner.alarm.raised()
    }

    pub(crate) fn inner(&self) -> &Arc<OrgInner> {
        &self.inner
    }

    /// Makes a handle. Only an admission and [`Store::maintenance`](crate::Store::maintenance)
    /// come here.
    pub(crate) fn of(inner: Arc<OrgInner>) -> Self {
        Self { inner }
    }

    /// Returns the engine, for what reads or replaces all of it.
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.inner.engine
    }

    /// Returns the end of the audit log if it has grown since it was signed.
    pub(crate) fn unsigned_audit(&self) -> Option<AuditHead> {
        let (head, signed) = *self.inner.audited();
        (head.seq > signed).then_some(head)
    }

    /// Notes that this end of the audit log is signed.
    pub(crate) fn audit_signed(&self, head: AuditHead) {
        self.inner.audited().1 = head.seq;
    }

    /// Returns how many writes wait for their turn.
    pub(crate) fn waiting_writes(&self) -> usize {
        self.inner.writer.waiting()
    }

    /// Forgets the lists in memory if nobody asked for them for so long.
    pub(crate) fn forget_lists(&self, idle: Duration) {
        self.inner.columns.forget(idle);
    }

    /// Commits what is queued and closes the file. Blocks.
    pub(crate) fn close(&self) {
        self.inner.close();
    }
}

fn with_status(reader: &OrgReader, agent: Agent) -> Result<AgentView, ReadError> {
    let status = reader.agent_status(agent.id)?;
    Ok(AgentView { agent, status })
}

/// What an organisation's file needs from the hub around it.
pub(crate) struct Surroundings {
    pub(crate) door: Door,
    pub(crate) alarm: Alarm,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) appliance: Arc<Shared>,
    pub(crate) bounds: AgentBounds,
}

impl OrgInner {
    /// Returns the rows that a new organisation's file begins with.
    pub(crate) fn first_rows(org: OrgId, names: &Names, sealer: &Sealer) -> WriteSet {
        let mut set = WriteSet::default();
        let key = names.meta(meta::IDENTITY);
        let sealed = sealer.seal(Table::Meta, &key, &codec::encode(&org));
        set.put(Table::Meta, key, sealed);
        set
    }

    /// Takes an open file into use. `path` names it in errors.
    pub(crate) fn open(
        org: OrgId,
        path: &Path,
        engine: Arc<dyn Engine>,
        names: Names,
        sealer: Sealer,
        around: Surroundings,
    ) -> Result<Arc<Self>, OpenError> {
        let foreign = || OpenError::Foreign {
            path: path.to_owned(),
            org,
        };
        let damaged = |reason: String| OpenError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let (last_commit, identity) = {
            let snapshot = engine
                .snapshot()
                .map_err(|error| damaged(error.to_string()))?;
            let view = crate::view::View::new(&*snapshot, &sealer);
            let identity = view.row::<OrgId>(Table::Meta, &names.meta(meta::IDENTITY));
            let last = snapshot
                .last_commit()
                .map_err(|error| damaged(error.to_string()))?;
            (last, identity)
        };
        // Another organisation's file has no row under this key, and none that opens.
        match identity {
            Ok(Some(found)) if found == org => {}
            Ok(_) | Err(ReadError::Seal { .. }) => return Err(foreign()),
            Err(error) => return Err(OpenError::of_row(path, &error)),
        }
        let started = Writer::start(Arc::clone(&engine), around.alarm.clone(), around.pulse);
        let writer = started.map_err(|error| OpenError::Start {
            reason: error.to_string(),
        })?;
        let mut block_salt = [0u8; 2];
        fill_random(&mut block_salt);
        Ok(Arc::new(Self {
            org,
            names,
            sealer,
            engine,
            writer,
            door: around.door,
            alarm: around.alarm,
            appliance: around.appliance,
            bounds: around.bounds,
            columns: Columns::default(),
            space: Space::default(),
            last_commit: watch::Sender::new(last_commit),
            audited: Mutex::default(),
            block_salt,
            blocks: AtomicU32::new(0),
            is_closed: AtomicBool::new(false),
        }))
    }

    /// Returns the key of the next block.
    fn next_block(&self, received_at: Timestamp) -> BlockKey {
        let counter = self.blocks.fetch_add(1, Ordering::Relaxed);
        keys::block(received_at, self.block_salt, counter)
    }

    /// Makes a commit known. Called in the order of the commits, by the writing thread.
    fn committed(&self, applied: &mut Applied) {
        let commit = applied.committed.commit;
        self.audited().0 = applied.committed.audit;
        self.columns
            .apply(commit, std::mem::take(&mut applied.delta));
        self.last_commit.send_if_modified(|last| {
            let is_new = *last < commit;
            *last = commit.max(*last);
            is_new
        });
    }

    fn audited(&self) -> MutexGuard<'_, (AuditHead, u64)> {
        self.audited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the lists in memory.
    fn lists<R>(self: &Arc<Self>, work: impl FnOnce(&Lists) -> R) -> Result<R, ReadError> {
        self.columns.with(|| OrgReader::open(self), work)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.writer.close();
        self.is_closed.store(true, Ordering::Release);
        self.engine.close();
    }
}

impl Owned for OrgInner {
    fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    fn writer(&self) -> &Writer {
        &self.writer
    }

    fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    fn door(&self) -> &Door {
        &self.door
    }

    fn tables(&self) -> &'static [Table] {
        Table::ORG
    }

    fn cursor_key(&self) -> Key {
        self.names.meta(meta::RESEAL)
    }
}

/// What a hub administrator without a role may do in an organisation: run its enrolment. Of the
/// organisation's data it shows only what agents say about themselves, and it writes only the
/// audit log, which says what was done.
#[derive(Clone)]
pub struct Administration {
    store: OrgStore,
}

impl fmt::Debug for Administration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Administration")
            .field("org", &self.org())
            .finish_non_exhaustive()
    }
}

impl Administration {
    /// Makes a handle. Only an admission comes here.
    pub(crate) fn of(store: OrgStore) -> Self {
        Self { store }
    }

    /// Returns the organisation that is administered.
    pub fn org(&self) -> OrgId {
        self.store.org()
    }

    /// See [`OrgStore::agents`].
    pub async fn agents(&self) -> Result<Vec<AgentView>, ReadError> {
        self.store.agents().await
    }

    /// See [`OrgStore::agent`].
    pub async fn agent(&self, id: AgentId) -> Result<Option<AgentView>, ReadError> {
        self.store.agent(id).await
    }

    /// See [`OrgStore::set_agent_state`].
    ///
    /// # Errors
    ///
    /// `Missing` when the organisation has no such agent.
    pub async fn set_agent_state(
        &self,
        id: AgentId,
        state: AgentState,
    ) -> Result<(), ApplianceError> {
        self.store.set_agent_state(id, state).await
    }

    /// See [`OrgStore::put_token`].
    ///
    /// # Errors
    ///
    /// `Conflict` when the token names another organisation or its id exists.
    pub async fn put_token(&self, token: EnrolToken) -> Result<(), ApplianceError> {
        self.store.put_token(token).await
    }

    /// See [`OrgStore::tokens`].
    pub async fn tokens(&self) -> Result<Vec<EnrolToken>, ReadError> {
        self.store.tokens().await
    }

    /// See [`OrgStore::delete_token`].
    pub async fn delete_token(&self, id: TokenId) -> Result<bool, ApplianceError> {
        self.store.delete_token(id).await
    }

    /// Records an act in the organisation's audit log.
    ///
    /// # Errors
    ///
    /// As [`OrgWrite::commit`].
    pub async fn audit(&self, act: AuditAct) -> Result<Committed, CommitError> {
        let mut write = self.store.write();
        write.audit(act);
        write.commit().await
    }
}
