//! A write being collected.

use std::sync::Arc;

use jiff::Timestamp;
use protocol::document::Gap;
use protocol::ids::{AgentId, FindingId, SourceId};
use protocol::{Document, Scope, Urn};

use super::apply::{FailedSweep, Op, apply};
use super::search::EventIndex;
use super::sweep::Incoming;
use super::{Committed, OrgInner, SignedHeader, Stream};
use crate::codec;
use crate::error::CommitError;
use crate::rows::access::AgentStatus;
use crate::rows::audit::AuditAct;
use crate::rows::carried::Carried;
use crate::rows::event::{BlockHead, BlockKey, EventBlock, Loss, Quarantined};
use crate::rows::finding::{Finding, FindingChange};
use crate::rows::resource::{Provenance, Source, Subject, SweepEnd};
use crate::rows::verdict::VerdictRow;
use crate::tables::Table;

/// Most parts of one write: some full batches, or the verdicts of a large sweep.
const WRITE_PARTS: usize = 100_000;

/// Largest write, in bytes of documents and blocks. It is held in memory, sealed and plain.
const WRITE_BYTES: usize = 64 << 20;

/// A write being collected. Its parts take effect in the order of the calls; reads and
/// conditions are evaluated when it is its turn, so no other write can come between.
pub struct OrgWrite {
    org: Arc<OrgInner>,
    ops: Vec<Op>,
    bytes: usize,
}

impl OrgWrite {
    pub(super) fn new(org: Arc<OrgInner>) -> Self {
        Self {
            org,
            ops: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    // -- streams -------------------------------------------------------------------------------

    /// Demands that items `first_seq..=last_seq` follow what was stored of the stream, and marks
    /// them as stored. The first item of a stream is number 1.
    pub fn advance_high_water(
        &mut self,
        stream: Stream,
        first_seq: u64,
        last_seq: u64,
        header: SignedHeader,
    ) {
        self.push(Op::HighWater {
            stream,
            first_seq,
            last_seq,
            header,
        });
    }

    // -- inventory -----------------------------------------------------------------------------

    /// Notes that a sweep of a scope has begun.
    pub fn begin_sweep(
        &mut self,
        scope: &Scope,
        agent: AgentId,
        source: SourceId,
        generation: u64,
        at: Timestamp,
    ) {
        self.push(Op::Begin {
            scope: scope.clone(),
            agent,
            source,
            generation,
            at,
        });
    }

    /// Notes that the list of a scope could not be read. Nothing is retired.
    pub fn fail_sweep(
        &mut self,
        scope: &Scope,
        agent: AgentId,
        source: SourceId,
        generation: u64,
        gap: Gap,
        at: Timestamp,
    ) {
        let scope = scope.clone();
        let failed = FailedSweep {
            scope,
            agent,
            source,
            generation,
            gap,
            at,
        };
        self.push(Op::Fail(Box::new(failed)));
    }

    /// Stores a document as part of the current sweep of its scope: the resource row, its
    /// history, its links, its scope's set hash. Where its agent has as much as it may have
    /// ([`AgentBounds`](crate::AgentBounds)), it goes to the quarantine and [`Committed::refused`]
    /// names it.
    pub fn put_resource(&mut self, document: Document, from: Provenance) {
        let incoming = Incoming::new(self.org.org, &document, from);
        self.bytes = self.bytes.saturating_add(incoming.bytes());
        self.push(Op::Put(Box::new(incoming)));
    }

    /// Stages that a resource is gone; it takes effect when the current sweep of its scope ends
    /// well.
    pub fn stage_gone(&mut self, urn: &Urn) {
        self.push(Op::Gone(urn.clone()));
    }

    /// Ends a sweep: retires what is staged if both sides then agree. [`Committed::sweeps`] says
    /// what it came to.
    pub fn end_sweep(&mut self, end: SweepEnd) {
        self.push(Op::End(end));
    }

    /// Confirms a held end: retires what it held. Without effect if the scope does not hold as many
    /// resources as the person has seen.
    pub fn confirm_retirement(&mut self, scope: &Scope, retiring: u64, at: Timestamp) {
        self.push(Op::Confirm(scope.clone(), retiring, at));
    }

    /// Stores a source that was reported at `at`.
    pub fn put_source(&mut self, source: Source, at: Timestamp) {
        self.push(Op::Source(source, at));
    }

    /// Stores what an agent last said about itself.
    pub fn put_agent_status(&mut self, status: AgentStatus) {
        self.push(Op::AgentStatus(status));
    }

    // -- verdicts and findings -----------------------------------------------------------------

    /// Stores every verdict on a subject, in place of those before.
    pub fn put_verdicts(&mut self, row: VerdictRow) {
        self.push(Op::Verdicts(row));
    }

    /// Removes every verdict on a subject.
    pub fn delete_verdicts(&mut self, subject: &Subject) {
        self.push(Op::NoVerdicts(subject.clone()));
    }

    /// Changes a finding: `decide` sees the row as it stands at that moment (`None` for a new one)
    /// and returns the row to store, or `None` to leave it. It may be called more than once.
    pub fn update_finding(
        &mut self,
        id: FindingId,
        decide: impl Fn(Option<&Finding>) -> Option<FindingChange> + Send + Sync + 'static,
    ) {
        self.push(Op::Finding(id, Arc::new(decide)));
    }

    /// Notes that the evaluator has judged every change up to and with a commit; the feed may
    /// forget them.
    pub fn changes_judged(&mut self, up_to: u64) {
        self.push(Op::Judged(up_to));
    }

    // -- events --------------------------------------------------------------------------------

    /// Stores a block of events. `records` are those records of `block.payload` that decoded, each
    /// with its place in the batch; the index is made from them, so a search finds no other.
    /// Returns the block's key, hence every event's id.
    ///
    /// It is sealed here, on the caller's thread.
    pub fn put_events(&mut self, block: EventBlock, index: &EventIndex) -> BlockKey {
        let key = self.org.next_block(block.received_at);
        let head = BlockHead {
            agent: block.agent,
            source: block.source,
            received_at: block.received_at,
            epoch: block.epoch,
            first_seq: block.first_seq,
            payload_bytes: block.payload_bytes,
        };
        let mut row = codec::encode(&head);
        row.extend_from_slice(&block.payload);
        let sealer = self.org.sealer.pinned();
        let index = sealer.seal(Table::BlockIndex, &key.0, &index.encode(block.source));
        let block = sealer.seal(Table::Blocks, &key.0, &row);
        self.bytes = self.bytes.saturating_add(block.len() + index.len());
        self.push(Op::Events {
            key,
            block,
            index,
            sealer,
        });
        key
    }

    /// Keeps a refused item; its text is cut to
    /// [`QUARANTINE_TEXT_BYTES`](crate::rows::event::QUARANTINE_TEXT_BYTES).
    pub fn quarantine(&mut self, item: Quarantined) {
        self.push(Op::Quarantine(item));
    }

    /// Keeps what an agent says it can no longer send.
    pub fn put_loss(&mut self, loss: Loss) {
        self.push(Op::Loss(loss));
    }

    /// Stores what is known of an agent's bundles, in place of what was.
    pub fn put_carried(&mut self, carried: Carried) {
        self.push(Op::Carried(Box::new(carried)));
    }

    // -- audit ---------------------------------------------------------------------------------

    /// Records an act in the audit log.
    pub fn audit(&mut self, act: AuditAct) {
        self.push(Op::Audit(act));
    }

    /// Says whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Commits: atomic, and durable on return. Several writes of one organisation share one sync.
    ///
    /// # Errors
    ///
    /// Nothing of this write has happened. `Gap` and `Repeat` come from
    /// [`OrgWrite::advance_high_water`]; after `Fatal` the process must end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop a write that was queued.
    pub async fn commit(self) -> Result<Committed, CommitError> {
        let Self { org, ops, bytes } = self;
        if ops.len() > WRITE_PARTS {
            return Err(CommitError::TooLarge {
                what: "the write's parts",
                bound: WRITE_PARTS,
            });
        }
        if bytes > WRITE_BYTES {
            return Err(CommitError::TooLarge {
                what: "the write's bytes",
                bound: WRITE_BYTES,
            });
        }
        let (applying, done) = (Arc::clone(&org), Arc::clone(&org));
        let applied = org
            .writer
            .submit(
                move |group| apply(&applying, &ops, group),
                move |applied| done.committed(applied),
            )
            .await??;
        Ok(applied.committed)
    }
}
