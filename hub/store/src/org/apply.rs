//! A write takes its turn: each part reads what stands, decides, and adds to one write set.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use protocol::document::Gap;
use protocol::ids::{AgentId, FindingId, OrgId, SourceId};
use protocol::{Scope, Urn};
use serde::{Deserialize, Serialize};

use super::columns::Delta;
use super::retention::Act;
use super::sweep::{Incoming, Inventory};
use super::tally::{Counted, Over, Tallies};
use super::{Committed, OrgInner, SignedHeader, StoredHeader, StoredStream, Stream};
use crate::draft::Draft;
use crate::engine::{Group, Refused, WriteSet};
use crate::error::{CommitError, EngineError, ReadError};
use crate::keys::{self, millis, moment, sequence};
use crate::rows::access::AgentStatus;
use crate::rows::audit::{AuditAct, AuditEntry, AuditHead};
use crate::rows::carried::Carried;
use crate::rows::event::{
    BlockKey, LOSS_ROWS, Loss, QUARANTINE_ROWS, QUARANTINE_TEXT_BYTES, Quarantined,
};
use crate::rows::finding::{Finding, FindingChange};
use crate::rows::resource::{Source, Subject, SweepEnd, SweepOutcome};
use crate::rows::verdict::{StoredJudged, StoredVerdicts, VerdictRow};
use crate::seal::Sealer;
use crate::tables::Table;

/// Single values of an organisation, by name in [`Table::Meta`].
pub(super) mod meta {
    /// The organisation's id: a file belongs to who can open this.
    pub(in crate::org) const IDENTITY: &str = "identity";
    /// The ids of checks, numbered by their place.
    pub(in crate::org) const CHECKS: &str = "checks";
    /// [`super::QuarantineCount`].
    pub(in crate::org) const QUARANTINE: &str = "quarantine";
    /// [`super::LossCount`].
    pub(in crate::org) const LOSSES: &str = "losses";
    /// [`super::AuditHead`].
    pub(in crate::org) const AUDIT: &str = "audit";
    /// [`Retention`](crate::rows::retention::Retention).
    pub(in crate::org) const RETENTION: &str = "retention";
    /// [`SignedBase`](crate::rows::retention::SignedBase), where the log's beginning was cut off.
    pub(in crate::org) const AUDIT_BASE: &str = "audit-base";
    /// [`crate::reseal::Cursor`].
    pub(in crate::org) const RESEAL: &str = "reseal";
    /// The commit up to which the evaluator has judged.
    pub(in crate::org) const JUDGED: &str = "judged";
}

/// Decides what becomes of a finding.
pub(super) type Decide = Arc<dyn Fn(Option<&Finding>) -> Option<FindingChange> + Send + Sync>;

/// One part of a write.
pub(super) enum Op {
    HighWater {
        stream: Stream,
        first_seq: u64,
        last_seq: u64,
        header: SignedHeader,
    },
    Begin {
        scope: Scope,
        agent: AgentId,
        source: SourceId,
        generation: u64,
        at: Timestamp,
    },
    Fail(Box<FailedSweep>),
    Put(Box<Incoming>),
    Gone(Urn),
    End(SweepEnd),
    Confirm(Scope, u64, Timestamp),
    Source(Source, Timestamp),
    AgentStatus(AgentStatus),
    Verdicts(VerdictRow),
    NoVerdicts(Subject),
    Finding(FindingId, Decide),
    Judged(u64),
    Events {
        key: BlockKey,
        block: Vec<u8>,
        index: Vec<u8>,
        /// What they are sealed with.
        sealer: Sealer,
    },
    Retention(Box<Act>),
    Quarantine(Quarantined),
    Loss(Loss),
    Carried(Box<Carried>),
    Audit(AuditAct),
}

/// A sweep whose list could not be read.
pub(super) struct FailedSweep {
    pub(super) scope: Scope,
    pub(super) agent: AgentId,
    pub(super) source: SourceId,
    pub(super) generation: u64,
    pub(super) gap: Gap,
    pub(super) at: Timestamp,
}

/// How many items were refused.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct QuarantineCount {
    /// Rows that stand in the quarantine.
    pub(super) kept: u64,
    /// Items that were ever refused.
    pub(super) refused: u64,
}

/// How much was lost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct LossCount {
    /// Rows that stand in the table.
    pub(super) kept: u64,
    /// Rows there ever were.
    pub(super) told: u64,
    /// Records that were ever lost.
    pub(super) records: u64,
}

/// What a turn came to: the answer, and what it changes in the lists.
pub(super) struct Applied {
    pub(super) committed: Committed,
    pub(super) delta: Delta,
}

/// Applies a write in its turn. The outer error ends the group, the inner one only this write.
pub(super) fn apply(
    org: &OrgInner,
    ops: &[Op],
    group: &mut dyn Group,
) -> Result<Result<Applied, CommitError>, EngineError> {
    let (set, mut applied) = match draft(org, ops, group) {
        Ok(drafted) => drafted,
        Err(CommitError::Read(ReadError::Engine(error))) => return Err(error),
        Err(error) => return Ok(Err(error)),
    };
    if set == WriteSet::default() {
        applied.committed.commit = group.last_commit()?;
        return Ok(Ok(applied));
    }
    match group.apply(&set)? {
        Ok(commit) => {
            applied.committed.commit = commit;
            Ok(Ok(applied))
        }
        // What the draft read cannot have changed since; a block's key may be taken all the same.
        Err(Refused::Row { table }) => Ok(Err(CommitError::Conflict {
            table: table.name(),
        })),
        Err(Refused::Mark { current }) => Ok(Err(CommitError::Gap {
            expected: current.saturating_add(1),
        })),
    }
}

fn draft(
    org: &OrgInner,
    ops: &[Op],
    group: &dyn Group,
) -> Result<(WriteSet, Applied), CommitError> {
    let mut writing = Writing {
        org,
        draft: Draft::new(group, &org.sealer)?,
        delta: Delta::default(),
        sweeps: Vec::new(),
        tallies: Tallies::new(org.bounds),
        refused: Vec::new(),
        checks: None,
    };
    for op in ops {
        writing.op(op)?;
    }
    let audit = writing.audit_head()?;
    let commit = writing.draft.commit_number();
    let Writing {
        mut draft,
        delta,
        sweeps,
        tallies,
        refused,
        ..
    } = writing;
    tallies.store(&mut draft, &org.names);
    let committed = Committed {
        commit,
        audit,
        sweeps,
        refused,
    };
    Ok((draft.finish(), Applied { committed, delta }))
}

impl From<ReadError> for CommitError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// A write in its turn.
pub(super) struct Writing<'g> {
    pub(super) org: &'g OrgInner,
    pub(super) draft: Draft<'g>,
    pub(super) delta: Delta,
    sweeps: Vec<SweepOutcome>,
    tallies: Tallies,
    refused: Vec<Urn>,
    /// The list of checks, once it was read.
    checks: Option<Checks>,
}

/// The list of checks, by number and by id.
struct Checks {
    ids: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

impl Checks {
    fn of(stored: Option<Vec<String>>) -> Self {
        let ids = stored.unwrap_or_default();
        let numbers = ids.iter().cloned().zip(0..).collect();
        Self { ids, numbers }
    }
}

impl<'g> Writing<'g> {
    fn inventory(&mut self) -> Inventory<'_, 'g> {
        Inventory {
            org: self.org.org,
            names: &self.org.names,
            draft: &mut self.draft,
            delta: &mut self.delta,
            tallies: &mut self.tallies,
        }
    }

    fn op(&mut self, op: &Op) -> Result<(), CommitError> {
        match op {
            Op::HighWater {
                stream,
                first_seq,
                last_seq,
                header,
            } => {
                self.high_water(*stream, *first_seq, *last_seq, header)?;
            }
            Op::Begin {
                scope,
                agent,
                source,
                generation,
                at,
            } => {
                let over = self
                    .inventory()
                    .begin(scope, *agent, *source, *generation, *at)?;
                if let Some(over) = over {
                    self.refuse(*agent, *source, *at, scope.to_string(), over)?;
                }
            }
            Op::Fail(failed) => {
                let FailedSweep {
                    scope,
                    agent,
                    source,
                    generation,
                    gap,
                    at,
                } = &**failed;
                let over = self
                    .inventory()
                    .fail(scope, *agent, *source, *generation, gap, *at)?;
                if let Some(over) = over {
                    self.refuse(*agent, *source, *at, scope.to_string(), over)?;
                }
            }
            Op::Put(document) => {
                if let Some(over) = self.inventory().put(document)? {
                    let (urn, from) = (document.urn(), document.from());
                    self.refuse(from.agent, from.source, from.at, urn.to_string(), over)?;
                    self.refused.push(urn.clone());
                }
            }
            Op::Gone(urn) => self.inventory().stage_gone(urn)?,
            Op::End(end) => {
                let outcome = self.inventory().end(end)?;
                self.sweeps.push(outcome);
            }
            Op::Confirm(scope, retiring, at) => {
                self.inventory().confirm(scope, *retiring, *at)?;
            }
            Op::Source(source, at) => self.put_source(source, *at)?,
            Op::AgentStatus(status) => {
                let key = self.org.names.agent_status(status.agent);
                self.draft.put(Table::AgentStatus, key, status);
            }
            Op::Verdicts(row) => self.put_verdicts(row)?,
            Op::NoVerdicts(subject) => self.delete_verdicts(subject)?,
            Op::Finding(id, decide) => self.update_finding(*id, decide)?,
            Op::Judged(up_to) => self.changes_judged(*up_to)?,
            Op::Events {
                key,
                block,
                index,
                sealer,
            } => {
                for (table, row) in [(Table::Blocks, block), (Table::BlockIndex, index)] {
                    let row = self.org.sealer.renewed(sealer, table, &key.0, row)?;
                    self.draft
                        .put_sealed(table, key.0.to_vec(), row.into_owned());
                }
            }
            Op::Retention(act) => self.retain(act)?,
            Op::Quarantine(item) => self.quarantine(item)?,
            Op::Loss(loss) => self.loss(loss)?,
            Op::Carried(carried) => {
                let key = self.org.names.agent_status(carried.agent);
                self.draft.put(Table::Carried, key, &**carried);
            }
            Op::Audit(act) => self.audit(act)?,
        }
        Ok(())
    }

    // -- streams -------------------------------------------------------------------------------

    /// Moves a high-water mark. The number stands in the clear for the engine's condition and
    /// sealed in the stream's row: a mark that was moved on disk would have agents throw away
    /// what the hub never stored, so the two must agree.
    fn high_water(
        &mut self,
        stream: Stream,
        first_seq: u64,
        last_seq: u64,
        header: &SignedHeader,
    ) -> Result<(), CommitError> {
        let names = &self.org.names;
        let key = names.stream(stream);
        let high_water = self.draft.mark(&key)?;
        let stored: Option<StoredStream> = self.draft.get(Table::Streams, &key)?;
        if stored.as_ref().map_or(0, |stored| stored.high_water) != high_water {
            return Err(CommitError::Read(ReadError::Seal {
                table: Table::Streams.name(),
            }));
        }
        let expected = high_water.saturating_add(1);
        if last_seq <= high_water && first_seq <= last_seq {
            return Err(CommitError::Repeat { high_water });
        }
        if first_seq != expected || last_seq < first_seq {
            return Err(CommitError::Gap { expected });
        }
        let stored = StoredStream {
            agent: stream.agent,
            lane: stream.lane,
            epoch: stream.epoch,
            high_water: last_seq,
        };
        let proof = StoredHeader {
            first_seq,
            last_seq,
            received_at: header.received_at,
            header: header.header.clone(),
            signature: header.signature.clone(),
        };
        self.draft.put(Table::Streams, key.clone(), &stored);
        self.draft
            .put(Table::Batches, names.batch(stream, last_seq), &proof);
        self.draft.advance(key, high_water, last_seq);
        Ok(())
    }

    // -- verdicts and findings -----------------------------------------------------------------

    /// Returns a check's number, giving it one if it is new.
    fn check_number(&mut self, check_id: &str) -> Result<u32, CommitError> {
        let key = self.org.names.meta(meta::CHECKS);
        let checks = match &mut self.checks {
            Some(checks) => checks,
            none @ None => none.insert(Checks::of(self.draft.get(Table::Meta, &key)?)),
        };
        if let Some(number) = checks.numbers.get(check_id) {
            return Ok(*number);
        }
        let bound = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let number = u32::try_from(checks.ids.len()).map_err(|_| CommitError::TooLarge {
            what: "the list of checks",
            bound,
        })?;
        checks.ids.push(check_id.to_owned());
        checks.numbers.insert(check_id.to_owned(), number);
        self.draft.put(Table::Meta, key, &checks.ids);
        Ok(number)
    }

    fn put_verdicts(&mut self, row: &VerdictRow) -> Result<(), CommitError> {
        self.delete_verdicts(&row.subject)?;
        let mut verdicts = Vec::with_capacity(row.verdicts.len());
        for judged in &row.verdicts {
            verdicts.push(StoredJudged {
                check: self.check_number(&judged.check_id)?,
                verdict: judged.verdict,
                evaluated_at: judged.evaluated_at,
                facts_hash: judged.facts_hash,
                due_at: judged.due_at,
                gaps: judged.gaps.clone(),
            });
        }
        let stored = StoredVerdicts {
            subject: row.subject.clone(),
            verdicts,
        };
        let names = &self.org.names;
        if let Some(due) = due_at(&stored) {
            self.draft
                .put(Table::Due, names.due(due, &row.subject), &row.subject);
        }
        for judged in &stored.verdicts {
            self.delta.judged(judged.verdict);
        }
        self.draft
            .put(Table::Verdicts, names.subject(&row.subject), &stored);
        Ok(())
    }

    pub(super) fn delete_verdicts(&mut self, subject: &Subject) -> Result<(), CommitError> {
        let names = &self.org.names;
        let key = names.subject(subject);
        let before: Option<StoredVerdicts> = self.draft.get(Table::Verdicts, &key)?;
        if let Some(before) = before {
            if let Some(due) = due_at(&before) {
                self.draft.delete(Table::Due, names.due(due, subject));
            }
            for judged in &before.verdicts {
                self.delta.unjudged(judged.verdict);
            }
            self.draft.delete(Table::Verdicts, key);
        }
        Ok(())
    }

    fn update_finding(&mut self, id: FindingId, decide: &Decide) -> Result<(), CommitError> {
        let names = &self.org.names;
        let key = names.finding(id);
        let before: Option<Finding> = self.draft.get(Table::Findings, &key)?;
        let Some(change) = decide(before.as_ref()) else {
            return Ok(());
        };
        if change.finding.id != id {
            // It would stand under a key where nobody finds it.
            return Err(CommitError::Conflict {
                table: Table::Findings.name(),
            });
        }
        if let Some(step) = &change.transition {
            // Two steps of one finding may share an instant and a commit, but not a key.
            let mut place = millis(step.at);
            let commit = self.draft.commit_number();
            let mut step_key = names.transition(id, place, commit);
            while self.draft.exists(Table::FindingHistory, &step_key)? {
                place += 1;
                step_key = names.transition(id, place, commit);
            }
            self.draft.put(Table::FindingHistory, step_key, step);
        }
        self.delta.finding(self.org.org, &change.finding);
        self.draft.put(Table::Findings, key, &change.finding);
        Ok(())
    }

    fn changes_judged(&mut self, up_to: u64) -> Result<(), CommitError> {
        let key = self.org.names.meta(meta::JUDGED);
        let before: Option<u64> = self.draft.get(Table::Meta, &key)?;
        // Never beyond what is committed: what this very write changes is still to be judged.
        let up_to = up_to.min(self.draft.commit_number().saturating_sub(1));
        if before.is_none_or(|before| before < up_to) {
            self.draft.put(Table::Meta, key, &up_to);
            self.draft.forget_notes(up_to);
        }
        Ok(())
    }

    // -- quarantine and audit ------------------------------------------------------------------

    fn quarantine(&mut self, item: &Quarantined) -> Result<(), CommitError> {
        let count_key = self.org.names.meta(meta::QUARANTINE);
        let mut count: QuarantineCount =
            self.draft.get(Table::Meta, &count_key)?.unwrap_or_default();
        if count.kept < QUARANTINE_ROWS {
            let cut = |text: &str| {
                let end = text.floor_char_boundary(QUARANTINE_TEXT_BYTES);
                text.get(..end).unwrap_or_default().to_owned()
            };
            let item = Quarantined {
                what: cut(&item.what),
                reason: cut(&item.reason),
                ..item.clone()
            };
            self.draft
                .put(Table::Quarantine, moment(item.at, count.refused), &item);
            count.kept += 1;
        }
        count.refused = count.refused.saturating_add(1);
        self.draft.put(Table::Meta, count_key, &count);
        Ok(())
    }

    /// Keeps something in the quarantine of which its agent has too many.
    fn refuse(
        &mut self,
        agent: AgentId,
        source: SourceId,
        at: Timestamp,
        what: String,
        over: Over,
    ) -> Result<(), CommitError> {
        self.quarantine(&Quarantined {
            at,
            agent,
            source: Some(source),
            reason: over.to_string(),
            what,
        })
    }

    fn put_source(&mut self, source: &Source, at: Timestamp) -> Result<(), CommitError> {
        let names = &self.org.names;
        let key = names.source(source.id);
        let before: Option<Source> = self.draft.get(Table::Sources, &key)?;
        let owner = before.map(|before| before.agent);
        if owner != Some(source.agent) {
            let counted = Counted::Sources;
            let over = self
                .tallies
                .add(&self.draft, names, source.agent, counted)?;
            if let Some(over) = over {
                return self.refuse(source.agent, source.id, at, source.name.clone(), over);
            }
            if let Some(owner) = owner {
                self.tallies.remove(&self.draft, names, owner, counted)?;
            }
        }
        self.draft.put(Table::Sources, key, source);
        Ok(())
    }

    fn loss(&mut self, loss: &Loss) -> Result<(), CommitError> {
        let count_key = self.org.names.meta(meta::LOSSES);
        let mut count: LossCount = self.draft.get(Table::Meta, &count_key)?.unwrap_or_default();
        if count.kept < LOSS_ROWS {
            self.draft
                .put(Table::Losses, moment(loss.at, count.told), loss);
            count.kept += 1;
        }
        count.told = count.told.saturating_add(1);
        count.records = count.records.saturating_add(loss.records());
        self.draft.put(Table::Meta, count_key, &count);
        Ok(())
    }

    pub(super) fn audit_head(&self) -> Result<AuditHead, CommitError> {
        let head = self
            .draft
            .get(Table::Meta, &self.org.names.meta(meta::AUDIT))?;
        Ok(head.unwrap_or_default())
    }

    pub(super) fn audit(&mut self, act: &AuditAct) -> Result<(), CommitError> {
        let head = self.audit_head()?;
        let mut entry = AuditEntry {
            seq: head.seq + 1,
            at: act.at,
            actor: act.actor.clone(),
            action: act.action.clone(),
            object: act.object.clone(),
            detail: act.detail.clone(),
            prev_hash: head.hash,
            hash: [0; 32],
        };
        entry.hash = audit_hash(self.org.org, &entry);
        let key = sequence(entry.seq).to_vec();
        if self.draft.exists(Table::Audit, &key)? {
            // The head was set back: to go on would overwrite what was recorded.
            return Err(CommitError::Read(ReadError::Seal {
                table: Table::Audit.name(),
            }));
        }
        self.draft.put(Table::Audit, key, &entry);
        let head = AuditHead {
            seq: entry.seq,
            hash: entry.hash,
        };
        self.draft
            .put(Table::Meta, self.org.names.meta(meta::AUDIT), &head);
        Ok(())
    }
}

/// When the first of a subject's verdicts falls due.
fn due_at(row: &StoredVerdicts) -> Option<Timestamp> {
    row.verdicts.iter().filter_map(|judged| judged.due_at).min()
}

/// Returns the hash that binds an audit entry to its organisation and to the entry before.
pub(super) fn audit_hash(org: OrgId, entry: &AuditEntry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("zero-x audit entry 1");
    let at = entry.at.as_microsecond().to_be_bytes();
    let actor = postcard::to_stdvec(&entry.actor).expect("an actor is plain data");
    let parts: [&[u8]; 8] = [
        org.as_bytes(),
        &entry.prev_hash,
        &entry.seq.to_be_bytes(),
        &at,
        &actor,
        entry.action.as_bytes(),
        entry.object.as_bytes(),
        entry.detail.as_bytes(),
    ];
    for part in parts {
        hasher.update(&keys::sequence(
            u64::try_from(part.len()).unwrap_or(u64::MAX),
        ));
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
