//! Retention: forgets what is older than its class's line, a bounded part at a time.
//!
//! ```text
//! plan (a snapshot): which rows next ─▶ one commit: no hold stands? delete, count ─▶ … ─▶ proof in
//! the audit log
//! ```
//! Other writes come between two parts. What a run forgot is counted in the commit that forgot it;
//! if the run is cut off, the next one tells the audit log of both.

mod plan;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use protocol::ids::HoldId;

use self::plan::{Part, Plan, Portion};
use super::apply::{LossCount, QuarantineCount, Writing, meta};
use super::{OrgReader, OrgStore, OrgWrite};
use crate::engine::Range;
use crate::error::{CommitError, ReadError};
use crate::keys::sequence;
use crate::org::apply::Op;
use crate::rows::FindingStatus;
use crate::rows::audit::{AuditAct, AuditHead};
use crate::rows::finding::{Actor, Finding};
use crate::rows::resource::{Resource, StoredResource, Subject};
use crate::rows::retention::{
    AuditBase, DataClass, HOLD_REASON_BYTES, HOLDS, Hold, Retention, SignedBase, Tally,
};
use crate::tables::Table;

/// One part of a write that concerns retention.
pub(super) enum Act {
    Days(DataClass, u32),
    Hold(Hold),
    Lift(HoldId),
    Forget {
        line: Timestamp,
        portion: Portion,
        /// For the audit log.
        base: Option<SignedBase>,
    },
    Tell {
        class: DataClass,
        line: Timestamp,
        at: Timestamp,
        by: Actor,
    },
}

/// Signs the base of an audit log: the bytes of [`AuditBase::message`].
pub type SignBase<'s> = &'s (dyn Fn(&[u8]) -> Vec<u8> + Sync);

impl OrgStore {
    /// Returns how long everything is kept, and the legal holds.
    pub async fn retention(&self) -> Result<Retention, ReadError> {
        self.read(OrgReader::retention).await
    }

    /// Returns a legal hold that stands, on whatever it may be: the organisation cannot be purged
    /// then.
    pub async fn legal_hold(&self) -> Result<Option<Hold>, ReadError> {
        let retention = self.retention().await?;
        Ok(retention.holds.into_iter().next())
    }

    /// Counts what of a class is older than `line`. Changes nothing.
    pub async fn expired(&self, class: DataClass, line: Timestamp) -> Result<Tally, ReadError> {
        let mut plan = Plan::new(class, line).measuring();
        let mut all = Tally::default();
        loop {
            let (planned, rest) = self.plan(plan).await?;
            plan = rest;
            match planned {
                Some(portion) => all.and(&portion.tally),
                None => return Ok(all),
            }
        }
    }

    /// Forgets what of a class is older than `line`, part by part, with proof in the audit log.
    /// `sign` is asked for the audit log alone.
    ///
    /// # Errors
    ///
    /// `Held` under a legal hold. What was forgotten before an error is told of all the same, now or
    /// by the next run.
    pub async fn forget(
        &self,
        class: DataClass,
        line: Timestamp,
        at: Timestamp,
        by: Actor,
        sign: SignBase<'_>,
    ) -> Result<Tally, CommitError> {
        let gone = self.forget_parts(class, line, at, sign).await;
        let untold = self.retention().await?.untold(class);
        if untold > 0 {
            let mut write = self.write();
            write.push(Op::Retention(Box::new(Act::Tell {
                class,
                line,
                at,
                by,
            })));
            write.commit().await?;
        }
        gone
    }

    async fn forget_parts(
        &self,
        class: DataClass,
        line: Timestamp,
        at: Timestamp,
        sign: SignBase<'_>,
    ) -> Result<Tally, CommitError> {
        let mut plan = Plan::new(class, line);
        let mut gone = Tally::default();
        loop {
            let (planned, rest) = self.plan(plan).await?;
            plan = rest;
            let Some(portion) = planned else {
                return Ok(gone);
            };
            if portion.is_empty() {
                continue;
            }
            gone.and(&portion.tally);
            let base = portion.audit_head().map(|head| {
                let org = self.org();
                let base = AuditBase { org, head, at };
                let signature = sign(&base.message());
                SignedBase { base, signature }
            });
            let mut write = self.write();
            write.push(Op::Retention(Box::new(Act::Forget {
                line,
                portion,
                base,
            })));
            write.commit().await?;
        }
    }

    async fn plan(&self, mut plan: Plan) -> Result<(Option<Portion>, Plan), ReadError> {
        self.read(move |reader| Ok((plan.next(reader)?, plan)))
            .await
    }
}

impl OrgReader {
    /// See [`OrgStore::retention`].
    pub fn retention(&self) -> Result<Retention, ReadError> {
        let key = self.org.names.meta(meta::RETENTION);
        Ok(self.view().row(Table::Meta, &key)?.unwrap_or_default())
    }

    /// Returns what the audit log begins from; `None` where it is whole.
    pub fn audit_base(&self) -> Result<Option<SignedBase>, ReadError> {
        let key = self.org.names.meta(meta::AUDIT_BASE);
        self.view().row(Table::Meta, &key)
    }
}

impl OrgWrite {
    /// Sets how many full days a class is kept. [`CommitError::Days`] where it cannot be.
    pub fn keep_for(&mut self, class: DataClass, days: u32) {
        self.push(Op::Retention(Box::new(Act::Days(class, days))));
    }

    /// Sets a legal hold.
    pub fn hold(&mut self, hold: Hold) {
        self.push(Op::Retention(Box::new(Act::Hold(hold))));
    }

    /// Lifts a legal hold. [`CommitError::Missing`] where there is none.
    pub fn lift(&mut self, id: HoldId) {
        self.push(Op::Retention(Box::new(Act::Lift(id))));
    }
}

impl Retention {
    fn untold(&self, class: DataClass) -> u64 {
        self.classes.get(&class).map_or(0, |of| of.untold)
    }
}

impl Writing<'_> {
    pub(super) fn retention(&self) -> Result<Retention, CommitError> {
        let key = self.org.names.meta(meta::RETENTION);
        Ok(self.draft.get(Table::Meta, &key)?.unwrap_or_default())
    }

    pub(super) fn retain(&mut self, act: &Act) -> Result<(), CommitError> {
        let mut retention = self.retention()?;
        match act {
            Act::Days(class, days) => {
                if let Some(reason) = retention.objection(*class, *days) {
                    return Err(CommitError::Days { reason });
                }
                retention.classes.entry(*class).or_default().days = Some(*days);
            }
            Act::Hold(hold) => hold_on(&mut retention, hold)?,
            Act::Lift(id) => {
                let count = retention.holds.len();
                retention.holds.retain(|hold| hold.id != *id);
                if retention.holds.len() == count {
                    let what = "the legal hold";
                    return Err(CommitError::Missing { what });
                }
            }
            Act::Forget {
                line,
                portion,
                base,
            } => {
                if let Some(hold) = retention.hold_on(portion.class) {
                    let hold = Box::new(hold.clone());
                    return Err(CommitError::Held { hold });
                }
                let rows = self.forget(*line, portion, base.as_ref())?;
                let of = retention.classes.entry(portion.class).or_default();
                of.untold = of.untold.saturating_add(rows);
                of.forgotten_before = of.forgotten_before.max(Some(*line));
            }
            Act::Tell {
                class,
                line,
                at,
                by,
            } => {
                let of = retention.classes.entry(*class).or_default();
                let (rows, what) = (std::mem::take(&mut of.untold), row_word(*class));
                self.audit(&AuditAct {
                    at: *at,
                    actor: by.clone(),
                    action: "retention.purge".to_owned(),
                    object: class.word().to_owned(),
                    detail: format!("{rows} {what} from before {line}"),
                })?;
            }
        }
        let key = self.org.names.meta(meta::RETENTION);
        self.draft.put(Table::Meta, key, &retention);
        Ok(())
    }

    /// Deletes a part; returns how many rows went. What may have changed since the plan was made is
    /// looked at again.
    fn forget(
        &mut self,
        line: Timestamp,
        portion: &Portion,
        base: Option<&SignedBase>,
    ) -> Result<u64, CommitError> {
        let rows = portion.tally.rows;
        match &portion.part {
            Part::Ranges(ranges) => {
                for (table, range) in ranges {
                    self.draft.delete_range(*table, range.clone());
                }
            }
            Part::Rows(table, keys) => {
                for key in keys {
                    self.draft.delete(*table, key.clone());
                }
            }
            Part::Findings(keys) => return self.forget_findings(line, keys),
            Part::Resources(keys) => return self.forget_resources(line, keys),
            Part::Audit(head) => self.cut_audit(*head, base)?,
        }
        match portion.class {
            DataClass::Quarantine => {
                let key = self.org.names.meta(meta::QUARANTINE);
                let count: Option<QuarantineCount> = self.draft.get(Table::Meta, &key)?;
                if let Some(mut count) = count {
                    count.kept = count.kept.saturating_sub(rows);
                    self.draft.put(Table::Meta, key, &count);
                }
            }
            DataClass::Losses => {
                let key = self.org.names.meta(meta::LOSSES);
                let count: Option<LossCount> = self.draft.get(Table::Meta, &key)?;
                if let Some(mut count) = count {
                    count.kept = count.kept.saturating_sub(rows);
                    self.draft.put(Table::Meta, key, &count);
                }
            }
            DataClass::Events
            | DataClass::ResourceHistory
            | DataClass::Findings
            | DataClass::BatchHeaders
            | DataClass::Audit => {}
        }
        Ok(rows)
    }

    /// Forgets findings that are resolved, with their lives.
    fn forget_findings(&mut self, line: Timestamp, keys: &[Vec<u8>]) -> Result<u64, CommitError> {
        let mut rows = 0;
        for key in keys {
            let finding: Option<Finding> = self.draft.get(Table::Findings, key)?;
            let Some(finding) = finding.filter(|finding| is_forgettable(finding, line)) else {
                continue;
            };
            self.draft.delete(Table::Findings, key.clone());
            self.draft
                .delete_range(Table::FindingHistory, Range::prefix(key));
            self.delta.forget_finding(finding.id);
            rows += 1;
        }
        Ok(rows)
    }

    /// Forgets resources that are gone, with what is left of their history.
    fn forget_resources(&mut self, line: Timestamp, keys: &[Vec<u8>]) -> Result<u64, CommitError> {
        let judged = self.org.names.meta(meta::JUDGED);
        let judged: u64 = self.draft.get(Table::Meta, &judged)?.unwrap_or(0);
        let mut rows = 0;
        for key in keys {
            let found = self
                .draft
                .versioned::<StoredResource>(Table::Resources, key)?;
            // One that the evaluator has not seen go would leave its findings open for ever.
            let gone = found.filter(|(row, version)| {
                row.retired_at.is_some_and(|at| at < line) && *version <= judged
            });
            let Some((row, _)) = gone else { continue };
            let id = Resource::id_of(self.org.org, &row.urn);
            self.draft.delete(Table::Resources, key.clone());
            self.draft
                .delete(Table::ResourceIds, self.org.names.resource_id(id));
            self.draft
                .delete_range(Table::ResourceHistory, Range::prefix(key));
            self.delete_verdicts(&Subject::Resource(row.urn))?;
            rows += 1;
        }
        Ok(rows)
    }

    /// Cuts the beginning of the audit log off, up to and with an entry. The head stays.
    fn cut_audit(&mut self, head: AuditHead, base: Option<&SignedBase>) -> Result<(), CommitError> {
        let is_its = |base: &&SignedBase| base.base.head == head && base.base.org == self.org.org;
        let last = self.audit_head()?;
        let Some(base) = base.filter(is_its).filter(|_| head.seq < last.seq) else {
            let table = Table::Audit.name();
            return Err(CommitError::Conflict { table });
        };
        let range = Range::all().before(&sequence(head.seq.saturating_add(1)));
        self.draft.delete_range(Table::Audit, range);
        let key = self.org.names.meta(meta::AUDIT_BASE);
        self.draft.put(Table::Meta, key, base);
        Ok(())
    }
}

fn hold_on(retention: &mut Retention, hold: &Hold) -> Result<(), CommitError> {
    if retention.holds.len() >= HOLDS {
        return Err(CommitError::TooLarge {
            what: "the number of legal holds",
            bound: HOLDS,
        });
    }
    if hold.reason.len() > HOLD_REASON_BYTES {
        return Err(CommitError::TooLarge {
            what: "the reason of a legal hold",
            bound: HOLD_REASON_BYTES,
        });
    }
    retention.holds.push(hold.clone());
    Ok(())
}

/// Says whether a finding is over for longer than findings are kept.
fn is_forgettable(finding: &Finding, line: Timestamp) -> bool {
    finding.status == FindingStatus::Resolved && finding.resolved_at.is_some_and(|at| at < line)
}

/// What a row of a class is called.
const fn row_word(class: DataClass) -> &'static str {
    match class {
        DataClass::Events => "blocks of events",
        DataClass::ResourceHistory => "documents and resources",
        DataClass::Findings => "findings and steps of findings",
        DataClass::Quarantine => "refused records",
        DataClass::Losses => "records of losses",
        DataClass::BatchHeaders => "headers of batches",
        DataClass::Audit => "entries",
    }
}
