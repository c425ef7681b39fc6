//! Puts batches of one agent into its organisation's store: one durable transaction each.
//!
//! ```text
//! batch ─▶ admit (every item on its own) ─▶ stage ─▶ commit {high-water mark, rows, refusals}
//!                                             ▲          │ another write came between: once more
//!                                             └──────────┘
//! ```
//! Refused documents spoil the sweep they belong to. Such a sweep ends as failed, with the gap
//! `hub:ingest`, so that what is missing proves nothing; its agent is not asked to send it again,
//! as that would end alike. What was refused is remembered in [`Spoiled`] until it comes in a form
//! that may be stored, or is gone. If that memory is lost, a set that differs says the same: the
//! sweep is then asked for once, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use protocol::batch::{SealedBatch, VerifiedBatch};
use protocol::document::{Gap, SetHash};
use protocol::frame::Lane;
use protocol::ids::{AgentId, SourceId};
use protocol::session::SessionError;
use protocol::wire::v1::{BatchHeader, Lost, LostReason, Resent};
use protocol::{Scope, Urn};
use store::error::{CommitError, ReadError};
use store::rows::AgentState;
use store::rows::event::{EventBlock, Loss, Quarantined};
use store::rows::resource::{Coverage, Provenance, ScopeState, SweepEnd, SweepResult};
use store::{Committed, OrgStore, OrgWrite, SignedHeader, Stream};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use super::admit::{self, Admitted, Item, Refusal, Spoils, Terms};
use crate::live::{Changed, Live, Received, What};

/// How often a batch meets another write before its session is given up.
const ATTEMPTS: u32 = 5;

/// Most sweeps that an agent may have under way.
const OPEN_SWEEPS: usize = 16_384;

/// Most refused resources that are remembered, over all agents. One that is not costs its scope
/// to be sent whole once in a while, and nothing else.
const SPOILED: usize = 100_000;

/// Most refused resources of one agent that are remembered, so that no agent takes the memory of
/// the others.
const SPOILED_OF_AGENT: usize = 10_000;

/// Most sources of which is remembered whose they are.
const SOURCES: usize = 1024;

/// Time after which a scope is asked for again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// Bytes of a batch, decompressed, above which it is a large one: an agent closes a batch at half
/// of them.
const LARGE_BYTES: u32 = 1 << 20;

/// Large batches are examined one at a time over all organisations: each takes a processor for up
/// to some ten milliseconds, and small ones should find another.
static LARGE: Semaphore = Semaphore::const_new(1);

/// The call in the gap of a spoiled sweep.
const SPOILED_CALL: &str = "hub:ingest";

/// Says why a batch was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum IntakeError {
    /// The store cannot be read.
    #[error("the organisation's store cannot be read")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("the organisation's store cannot be written")]
    Commit(#[source] CommitError),
    /// No space is left.
    #[error("the hub's disk is full")]
    Full,
    /// It is not the agent's batch, or not whole.
    #[error("the batch is refused")]
    Breach(#[source] SessionError),
    /// The batch made a thread panic.
    #[error("the batch could not be examined")]
    Examined(#[source] tokio::task::JoinError),
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is durably stored.
    Stored {
        /// Its last item.
        seq: u64,
        /// The commit that holds it.
        commit: u64,
        /// Head of the audit log after it.
        audit_head: [u8; 32],
        /// Scopes that the agent must repair, with what the hub holds of them; without sums it
        /// must send them whole.
        resync: Vec<(Scope, Vec<u64>)>,
    },
    /// It was stored before.
    Repeat {
        /// The last item that is stored.
        high_water: u64,
    },
    /// Items before it are missing.
    Gap {
        /// The next item that fits.
        expected: u64,
    },
}

/// A URN in eight bytes: two that collide cost a sweep its end, and only until one of them changes.
type Short = [u8; 8];

fn short_hash(urn: &Urn) -> Short {
    let hash = blake3::hash(urn.to_string().as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    [a, b, c, d, e, f, g, h]
}

#[derive(Debug, Default)]
struct Remembered {
    total: usize,
    by_agent: BTreeMap<AgentId, usize>,
    by_scope: BTreeMap<(AgentId, Scope), BTreeSet<Short>>,
}

/// The resources whose documents were refused, by agent and scope. One for the whole hub.
#[derive(Debug, Default)]
pub(crate) struct Spoiled(Mutex<Remembered>);

impl Spoiled {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Whatever a panic leaves behind costs a sweep its end and no more.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hashes(&self, agent: AgentId, scope: &Scope) -> BTreeSet<Short> {
        let remembered = self.lock();
        let found = remembered.by_scope.get(&(agent, scope.clone()));
        found.cloned().unwrap_or_default()
    }

    fn replace(&self, agent: AgentId, scope: Scope, hashes: BTreeSet<Short>) {
        let mut remembered = self.lock();
        let key = (agent, scope);
        let before = remembered.by_scope.remove(&key);
        let before = before.map_or(0, |hashes| hashes.len());
        let of_agent = remembered.by_agent.remove(&agent).unwrap_or_default();
        let (others, own) = (remembered.total - before, of_agent - before);
        let has_room = others + hashes.len() <= SPOILED && own + hashes.len() <= SPOILED_OF_AGENT;
        let kept = if has_room { hashes.len() } else { 0 };
        remembered.total = others + kept;
        if own + kept > 0 {
            remembered.by_agent.insert(agent, own + kept);
        }
        if kept > 0 {
            remembered.by_scope.insert(key, hashes);
        }
    }
}

/// A sweep under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sweep {
    generation: u64,
    /// What this sweep has sent and the hub has taken.
    sent: SetHash,
    /// Refused items that could have been documents of it.
    unknown: u64,
}

/// Takes the batches of one session.
#[derive(Debug)]
pub(super) struct Intake {
    store: OrgStore,
    terms: Arc<Terms>,
    live: Arc<Live>,
    spoiled: Arc<Spoiled>,
    sweeps: BTreeMap<Scope, Sweep>,
    /// Whether a source is this agent's, or nobody's yet.
    sources: BTreeMap<SourceId, bool>,
    /// When a scope was last asked for, while it has not become complete.
    asked: BTreeMap<Scope, Timestamp>,
}

impl Intake {
    /// Makes the intake of a session.
    pub(super) fn new(
        store: OrgStore,
        terms: Terms,
        live: Arc<Live>,
        spoiled: Arc<Spoiled>,
    ) -> Self {
        Self {
            store,
            terms: Arc::new(terms),
            live,
            spoiled,
            sweeps: BTreeMap::new(),
            sources: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Stores a batch, whole or not at all, but for the items that are refused one by one.
    ///
    /// # Errors
    ///
    /// When the store fails; nothing of the batch is stored then.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the batch may be stored or not; its sender will ask.
    pub(super) async fn take(
        &mut self,
        batch: Box<SealedBatch>,
        now: Timestamp,
    ) -> Result<Taken, IntakeError> {
        let (batch, mut admitted) = self.examine(batch).await?;
        let mut attempt = 1;
        loop {
            self.resume(&admitted).await?;
            let kinds = kinds(&admitted);
            let staging = self.stage(&batch, admitted, now);
            let (write, staged) = staging.done();
            let error = match write.commit().await {
                Ok(committed) => {
                    self.count(&batch, &staged, &committed);
                    let asked = self.remember(staged, &committed, now);
                    let resync = self.sums(asked).await?;
                    self.tell(&kinds);
                    return Ok(Taken::Stored {
                        seq: batch.header().last_seq(),
                        commit: committed.commit,
                        audit_head: committed.audit.hash,
                        resync,
                    });
                }
                Err(CommitError::Repeat { high_water }) => {
                    self.note(batch.header().lane, Received::REPEAT);
                    return Ok(Taken::Repeat { high_water });
                }
                Err(CommitError::Gap { expected }) => {
                    self.note(batch.header().lane, Received::GAP);
                    return Ok(Taken::Gap { expected });
                }
                Err(CommitError::Full) => return Err(IntakeError::Full),
                Err(error) => error,
            };
            if attempt >= ATTEMPTS {
                return Err(IntakeError::Commit(error));
            }
            admitted = match &error {
                CommitError::Conflict { table } => {
                    debug!(table, attempt, "a batch met another write");
                    self.check(&batch).await?
                }
                CommitError::Missing { what } => {
                    debug!(what, attempt, "a batch met another write");
                    self.check(&batch).await?
                }
                CommitError::TooLarge { what, bound } => {
                    // It would be too large for ever, and nothing behind it could come in.
                    admit::refuse_all(batch.header(), &format!("{what} is larger than {bound}"))
                }
                CommitError::Fatal(_)
                | CommitError::Read(_)
                | CommitError::Closed
                | CommitError::Full
                | CommitError::Gap { .. }
                | CommitError::Repeat { .. }
                | _ => return Err(IntakeError::Commit(error)),
            };
            // What was remembered of the sweeps under way may be what changed.
            self.sweeps.clear();
            attempt += 1;
        }
    }

    /// Gives items up that are missing before what came: the mark goes on behind them, and the
    /// store keeps how many there were. An operator decided it; no agent signed it.
    ///
    /// # Errors
    ///
    /// When the store fails; nothing is given up then.
    pub(super) async fn give_up(
        &mut self,
        stream: Stream,
        (first_seq, last_seq): (u64, u64),
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let unsigned = SignedHeader {
            received_at: now,
            header: Vec::new(),
            signature: Vec::new(),
        };
        let mut write = self.store.write();
        write.advance_high_water(stream, first_seq, last_seq, unsigned);
        let loss = Loss {
            at: now,
            agent: stream.agent,
            source: SourceId::from_bytes([0; 16]),
            lane: stream.lane,
            epoch: stream.epoch,
            first_seq,
            last_seq,
            unsequenced: 0,
            reason: LostReason::Bundle,
            from: None,
            to: None,
        };
        let lost = loss.records();
        write.put_loss(loss);
        write.commit().await.map_err(IntakeError::Commit)?;
        let more = Received {
            lost,
            ..Received::NOTHING
        };
        self.note(stream.lane, more);
        if stream.lane == Lane::Inventory.number() {
            // They could have been documents of any sweep under way.
            for sweep in self.sweeps.values_mut() {
                sweep.unknown = sweep.unknown.saturating_add(1);
            }
        }
        self.tell(&[What::Agents]);
        Ok(())
    }

    /// Verifies a batch and examines its items, off the runtime's threads: it takes some
    /// milliseconds.
    async fn examine(
        &mut self,
        batch: Box<SealedBatch>,
    ) -> Result<(Arc<VerifiedBatch>, Admitted), IntakeError> {
        let is_foreign = self.is_foreign(batch.header.source).await?;
        let terms = Arc::clone(&self.terms);
        let is_large = batch.header.payload_bytes > LARGE_BYTES;
        let turn = if is_large {
            LARGE.acquire().await.ok()
        } else {
            None
        };
        let examined = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let lane = Lane::from_number(batch.header.lane).unwrap_or(Lane::Control);
            let batch = batch
                .verify(&terms.public_key)
                .map_err(|source| SessionError::Batch { lane, source })?;
            let admitted = judge(&batch, &terms, is_foreign);
            Ok((Arc::new(batch), admitted))
        });
        examined
            .await
            .map_err(IntakeError::Examined)?
            .map_err(IntakeError::Breach)
    }

    /// Examines the items of a verified batch once more.
    async fn check(&mut self, batch: &Arc<VerifiedBatch>) -> Result<Admitted, IntakeError> {
        let is_foreign = self.is_foreign(batch.header().source).await?;
        let (batch, terms) = (Arc::clone(batch), Arc::clone(&self.terms));
        tokio::task::spawn_blocking(move || judge(&batch, &terms, is_foreign))
            .await
            .map_err(IntakeError::Examined)
    }

    /// Says whether a source is another agent's: an agent names its sources itself. Those of a
    /// revoked agent are nobody's: a host that enrols again keeps its sources, and what it sends
    /// is acknowledged, so a refusal would lose it.
    async fn is_foreign(&mut self, source: SourceId) -> Result<bool, ReadError> {
        if let Some(is_foreign) = self.sources.get(&source) {
            return Ok(*is_foreign);
        }
        let owner = self.store.source(source).await?.map(|row| row.agent);
        let is_foreign = match owner.filter(|owner| *owner != self.terms.agent) {
            None => false,
            Some(owner) => {
                let owner = self.store.agent(owner).await?;
                owner.is_some_and(|view| view.agent.state != AgentState::Revoked)
            }
        };
        if self.sources.len() >= SOURCES {
            self.sources.clear();
        }
        self.sources.insert(source, is_foreign);
        Ok(is_foreign)
    }

    /// Reads how far sweeps have come that were begun in an earlier session.
    async fn resume(&mut self, admitted: &Admitted) -> Result<(), ReadError> {
        let mut begun = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        for item in &admitted.items {
            let scope = match item {
                Item::Begin { scope, .. } => {
                    begun.insert(scope);
                    continue;
                }
                Item::Changed(document) => &document.urn.scope,
                Item::Gone(urn) => &urn.scope,
                Item::End { scope, .. } => scope,
                Item::Failed { .. } | Item::Source(_) => continue,
            };
            if !begun.contains(scope) && !self.sweeps.contains_key(scope) {
                wanted.insert(scope.clone());
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let agent = self.terms.agent;
        let found = self.store.read(move |reader| {
            let mut found = Vec::new();
            for scope in wanted {
                let Some(status) = reader.scope(&scope)? else {
                    continue;
                };
                if status.agent != agent || status.state != ScopeState::Sweeping {
                    continue;
                }
                let mut sweep = Sweep {
                    generation: status.generation,
                    ..Sweep::default()
                };
                for resource in reader.resources_in(&scope)? {
                    if resource.generation == status.generation && resource.agent == agent {
                        let urn = resource.document.urn.to_string();
                        sweep.sent.add(&urn, &resource.content_hash);
                    }
                }
                found.push((scope, sweep));
            }
            Ok(found)
        });
        self.sweeps.extend(found.await?);
        Ok(())
    }

    /// Collects the write of a batch.
    fn stage(&self, batch: &VerifiedBatch, admitted: Admitted, now: Timestamp) -> Staging<'_> {
        let header = batch.header();
        let mut staging = Staging {
            intake: self,
            source: header.source,
            now,
            write: self.store.write(),
            sweeps: BTreeMap::new(),
            spoiled: BTreeMap::new(),
            unknown: 0,
            refused: 0,
            lost: 0,
            ends: Vec::new(),
        };
        let agent = self.terms.agent;
        let stream = Stream {
            agent,
            lane: header.lane,
            epoch: header.epoch,
        };
        let (header_bytes, signature) = batch.proof();
        let signed = SignedHeader {
            received_at: now,
            header: header_bytes.to_vec(),
            signature: signature.to_vec(),
        };
        let (first_seq, last_seq) = (header.first_seq, header.last_seq());
        let write = &mut staging.write;
        write.advance_high_water(stream, first_seq, last_seq, signed);
        if let Some(events) = &admitted.events {
            let block = EventBlock {
                agent,
                source: header.source,
                received_at: now,
                epoch: header.epoch,
                first_seq,
                payload: events.payload.clone(),
                payload_bytes: events.payload_bytes,
            };
            write.put_events(block, &events.index);
        }
        if let Some(lost) = &admitted.lost {
            staging.lost(header, lost);
        }
        // Before the items: a refused document counts at the end of its sweep wherever in the
        // batch it stood.
        for refusal in admitted.refused {
            staging.refuse(refusal);
        }
        for item in admitted.items {
            staging.item(item);
        }
        staging
    }

    /// Adds what the hub holds of the scopes to ask for, where only the difference is wanted.
    async fn sums(&self, asked: Vec<Ask>) -> Result<Vec<(Scope, Vec<u64>)>, ReadError> {
        let mut resync = Vec::new();
        for ask in asked {
            resync.push(match ask {
                Ask::Whole(scope) => (scope, Vec::new()),
                Ask::Difference(scope) => {
                    let of = scope.clone();
                    let sums = self.store.read(move |reader| reader.sums(&of)).await?;
                    (scope, sums)
                }
            });
        }
        Ok(resync)
    }

    /// Takes note of what a commit made true; returns the scopes to ask for.
    fn remember(&mut self, staged: Staged, committed: &Committed, now: Timestamp) -> Vec<Ask> {
        let agent = self.terms.agent;
        for (scope, sweep) in staged.sweeps {
            match sweep {
                Some(sweep) => self.sweeps.insert(scope, sweep),
                None => self.sweeps.remove(&scope),
            };
        }
        if staged.unknown > 0 {
            for sweep in self.sweeps.values_mut() {
                sweep.unknown = sweep.unknown.saturating_add(staged.unknown);
            }
        }
        for (scope, hashes) in staged.spoiled {
            self.spoiled.replace(agent, scope, hashes);
        }
        // Of these the agent has more than it may have, so its sweeps cannot be complete.
        let mut over: BTreeMap<Scope, BTreeSet<Short>> = BTreeMap::new();
        for urn in &committed.refused {
            let hashes = over.entry(urn.scope.clone());
            hashes.or_default().insert(short_hash(urn));
        }
        for (scope, mut hashes) in over {
            hashes.extend(self.spoiled.hashes(agent, &scope));
            self.spoiled.replace(agent, scope, hashes);
        }
        let refused = staged
            .refused
            .saturating_add(u64::try_from(committed.refused.len()).unwrap_or(u64::MAX));
        if refused > 0 {
            warn!(%agent, count = refused, "items quarantined");
        }
        let mut resync = Vec::new();
        for (outcome, coverage) in committed.sweeps.iter().zip(staged.ends) {
            let (scope, generation) = (&outcome.scope, outcome.generation);
            match outcome.result {
                SweepResult::Complete { retired } => {
                    debug!(%scope, generation, retired, "sweep complete");
                    self.asked.remove(scope);
                }
                SweepResult::Held { retiring } => warn!(
                    %scope, generation, retiring,
                    "a sweep would retire too much and waits for confirmation"
                ),
                SweepResult::Mismatched { .. } => {
                    info!(%scope, generation, "a sweep ended with another set than the hub's");
                    let asked = self.asked.get(scope);
                    let is_due = asked.is_none_or(|at| now.duration_since(*at) >= ASK_AGAIN);
                    let ask = match coverage {
                        Coverage::Changes if is_due => Ask::Difference(scope.clone()),
                        // The parts that differed were sent, and it was not that.
                        Coverage::Parts(_) => Ask::Whole(scope.clone()),
                        // One that sent everything would send the same again.
                        Coverage::Changes | Coverage::Everything => continue,
                    };
                    if self.asked.len() < OPEN_SWEEPS {
                        self.asked.insert(scope.clone(), now);
                        resync.push(ask);
                    }
                }
                SweepResult::Superseded { current } => {
                    info!(%scope, generation, current, "the end of an older sweep was ignored");
                }
            }
        }
        resync
    }

    /// Counts what a stored batch brought.
    fn count(&self, batch: &VerifiedBatch, staged: &Staged, committed: &Committed) {
        let header = batch.header();
        let refused = u64::try_from(committed.refused.len()).unwrap_or(u64::MAX);
        let more = Received {
            batches: 1,
            items: u64::try_from(batch.items().len()).unwrap_or(u64::MAX),
            bytes: u64::try_from(batch.payload().len()).unwrap_or(u64::MAX),
            quarantined: staged.refused.saturating_add(refused),
            lost: staged.lost,
            ..Received::NOTHING
        };
        self.note(header.lane, more);
    }

    fn note(&self, lane: u8, more: Received) {
        if let Some(lane) = Lane::from_number(lane) {
            self.live.counts.add(self.store.org(), lane, more);
        }
    }

    fn tell(&self, kinds: &[What]) {
        let org = self.store.org();
        for what in kinds {
            self.live.tell(Changed { org, what: *what });
        }
    }
}

/// Decides item by item what of a batch may be stored.
fn judge(batch: &VerifiedBatch, terms: &Terms, is_foreign: bool) -> Admitted {
    if is_foreign {
        let reason = "this source belongs to another agent";
        return admit::refuse_all(batch.header(), reason);
    }
    admit::admit(batch, terms)
}

/// A scope of which the two sides hold different sets.
enum Ask {
    /// What differs is to be sent again.
    Difference(Scope),
    /// Everything is.
    Whole(Scope),
}

/// Returns what kinds of rows a batch changes.
fn kinds(admitted: &Admitted) -> Vec<What> {
    let is_source = |item: &Item| matches!(item, Item::Source(_));
    let mut kinds = Vec::new();
    if admitted.items.iter().any(|item| !is_source(item)) {
        kinds.push(What::Resources);
    }
    if admitted.items.iter().any(is_source) {
        kinds.push(What::Sources);
    }
    if admitted.lost.is_some() {
        kinds.push(What::Agents);
    }
    if admitted.events.is_some() {
        kinds.push(What::Events);
    }
    kinds
}

/// A write being collected, with what is to be remembered if it happens.
struct Staging<'a> {
    intake: &'a Intake,
    source: SourceId,
    now: Timestamp,
    write: OrgWrite,
    /// The sweeps that this batch goes on with; `None` for one that it ends.
    sweeps: BTreeMap<Scope, Option<Sweep>>,
    /// The scopes whose refused resources were looked at, with what is refused now.
    spoiled: BTreeMap<Scope, BTreeSet<Short>>,
    /// Refused items of this batch that could have been documents of any sweep.
    unknown: u64,
    refused: u64,
    /// Records that are told to be lost.
    lost: u64,
    /// What each end covers, in order.
    ends: Vec<Coverage>,
}

/// What is to be remembered when a write has happened.
struct Staged {
    sweeps: BTreeMap<Scope, Option<Sweep>>,
    /// Refused items that could have been documents of any sweep.
    unknown: u64,
    spoiled: BTreeMap<Scope, BTreeSet<Short>>,
    refused: u64,
    lost: u64,
    ends: Vec<Coverage>,
}

impl Staging<'_> {
    fn done(self) -> (OrgWrite, Staged) {
        let staged = Staged {
            sweeps: self.sweeps,
            unknown: self.unknown,
            spoiled: self.spoiled,
            refused: self.refused,
            lost: self.lost,
            ends: self.ends,
        };
        (self.write, staged)
    }

    fn agent(&self) -> AgentId {
        self.intake.terms.agent
    }

    /// Returns a sweep as this batch has left it so far.
    fn sweep(&self, scope: &Scope) -> Option<&Sweep> {
        match self.sweeps.get(scope) {
            Some(here) => here.as_ref(),
            None => self.intake.sweeps.get(scope),
        }
    }

    fn spoiled(&mut self, scope: &Scope) -> &mut BTreeSet<Short> {
        let (memory, agent) = (&self.intake.spoiled, self.agent());
        self.spoiled
            .entry(scope.clone())
            .or_insert_with(|| memory.hashes(agent, scope))
    }

    fn refuse(&mut self, refusal: Refusal) {
        match &refusal.spoils {
            Spoils::Nothing => {}
            Spoils::Unknown => self.unknown += 1,
            Spoils::Resource(urn) => {
                let hash = short_hash(urn);
                self.spoiled(&urn.scope).insert(hash);
            }
        }
        self.refused += 1;
        self.write.quarantine(Quarantined {
            at: self.now,
            agent: self.agent(),
            source: Some(self.source),
            reason: refusal.reason,
            what: refusal.what,
        });
    }

    /// Takes note of items that the agent can no longer send.
    fn lost(&mut self, header: &BatchHeader, lost: &Lost) {
        if header.lane == Lane::Inventory.number() {
            // They could have been documents of any sweep under way.
            self.unknown += 1;
        }
        let known = |ms: i64| Some(ms).filter(|ms| *ms != 0);
        let time = |ms| known(ms).and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let loss = Loss {
            at: self.now,
            agent: self.agent(),
            source: self.source,
            lane: header.lane,
            epoch: header.epoch,
            first_seq: header.first_seq,
            last_seq: header.last_seq(),
            unsequenced: lost.unsequenced,
            reason: lost.reason,
            from: time(lost.from_ms),
            to: time(lost.to_ms),
        };
        let (agent, records) = (loss.agent, loss.records());
        self.lost = self.lost.saturating_add(records);
        warn!(%agent, lane = loss.lane, records, reason = lost.reason.as_str(), "records are lost");
        self.write.put_loss(loss);
    }

    /// Refuses an item that has no place in the order of things.
    fn refuse_order(&mut self, what: String, reason: &str, spoils: Spoils) {
        self.refuse(Refusal {
            what,
            reason: reason.to_owned(),
            spoils,
        });
    }

    fn item(&mut self, item: Item) {
        let not_begun = "its sweep has not begun";
        match item {
            Item::Begin { scope, generation } => self.begin(scope, generation),
            Item::Changed(document) => {
                let urn = document.urn.clone();
                if self.sent(&urn, &document.content_hash()) {
                    let from = Provenance {
                        agent: self.agent(),
                        source: self.source,
                        at: self.now,
                    };
                    self.write.put_resource(*document, from);
                } else {
                    // Its agent holds that it has told it. It is not remembered as spoiled, so that
                    // the next sweep ends with a set that differs and is asked for whole.
                    self.refuse_order(urn.to_string(), not_begun, Spoils::Nothing);
                }
            }
            Item::Gone(urn) => {
                if self.sweep(&urn.scope).is_some() {
                    self.spoiled(&urn.scope).remove(&short_hash(&urn));
                    self.write.stage_gone(&urn);
                } else {
                    self.refuse_order(urn.to_string(), not_begun, Spoils::Nothing);
                }
            }
            Item::End {
                scope,
                generation,
                set,
                resent,
            } => match self.sweep(&scope) {
                Some(sweep) if sweep.generation == generation => self.end(scope, set, resent),
                Some(_) | None => {
                    self.refuse_order(scope.to_string(), not_begun, Spoils::Nothing);
                }
            },
            Item::Failed {
                scope,
                generation,
                gap,
            } => {
                self.sweeps.insert(scope.clone(), None);
                let (agent, source) = (self.agent(), self.source);
                let write = &mut self.write;
                write.fail_sweep(&scope, agent, source, generation, gap, self.now);
            }
            Item::Source(source) => self.write.put_source(*source, self.now),
        }
    }

    fn begin(&mut self, scope: Scope, generation: u64) {
        // Those that this batch ends are counted too: it matters to nobody honest.
        let open = self.intake.sweeps.len() + self.sweeps.len();
        if open >= OPEN_SWEEPS && self.sweep(&scope).is_none() {
            let reason = "too many sweeps of this agent are under way";
            return self.refuse_order(scope.to_string(), reason, Spoils::Nothing);
        }
        let (agent, source) = (self.agent(), self.source);
        let write = &mut self.write;
        write.begin_sweep(&scope, agent, source, generation, self.now);
        let sweep = Sweep {
            generation,
            ..Sweep::default()
        };
        self.sweeps.insert(scope, Some(sweep));
    }

    fn sweep_mut(&mut self, scope: &Scope) -> Option<&mut Sweep> {
        if !self.sweeps.contains_key(scope) {
            let before = self.intake.sweeps.get(scope)?.clone();
            self.sweeps.insert(scope.clone(), Some(before));
        }
        self.sweeps.get_mut(scope)?.as_mut()
    }

    /// Counts a document that its sweep sent; says whether there is such a sweep.
    fn sent(&mut self, urn: &Urn, content: &[u8; 32]) -> bool {
        let Some(sweep) = self.sweep_mut(&urn.scope) else {
            return false;
        };
        sweep.sent.add(&urn.to_string(), content);
        self.spoiled(&urn.scope).remove(&short_hash(urn));
        true
    }

    fn end(&mut self, scope: Scope, claimed: SetHash, resent: Option<Resent>) {
        let sweep = self.sweep(&scope).cloned().unwrap_or_default();
        self.sweeps.insert(scope.clone(), None);
        let coverage = Self::coverage(&sweep, claimed, resent);
        let unknown = sweep.unknown.saturating_add(self.unknown);
        let spoiled = self.spoiled(&scope);
        if coverage == Coverage::Everything {
            // All that the agent holds has been taken: what was refused is no more.
            spoiled.clear();
        }
        let named = u64::try_from(spoiled.len()).unwrap_or(u64::MAX);
        let refused = named.saturating_add(unknown);
        let generation = sweep.generation;
        if coverage != Coverage::Everything && refused > 0 {
            let gap = Gap {
                call: SPOILED_CALL.to_owned(),
                error: format!(
                    "{refused} documents were refused or lost; see quarantine and losses"
                ),
            };
            let (agent, source) = (self.agent(), self.source);
            let write = &mut self.write;
            write.fail_sweep(&scope, agent, source, generation, gap, self.now);
            return;
        }
        self.ends.push(coverage.clone());
        self.write.end_sweep(SweepEnd {
            scope,
            generation,
            claimed,
            coverage,
            at: self.now,
        });
    }

    /// Says whether a sweep sent all that its agent holds: then the hub holds nothing else.
    fn coverage(sweep: &Sweep, claimed: SetHash, resent: Option<Resent>) -> Coverage {
        if sweep.sent == claimed {
            Coverage::Everything
        } else {
            resent.map_or(Coverage::Changes, Coverage::Parts)
        }
    }
}
