//! A write being collected.

use jiff::Timestamp;
use protocol::document::Gap;
use protocol::event::EventRecord;
use protocol::ids::{AgentId, FindingId, SourceId};
use protocol::{Document, Scope, Urn};

use super::{Committed, SignedHeader, Stream};
use crate::error::CommitError;
use crate::rows::access::AgentStatus;
use crate::rows::audit::AuditAct;
use crate::rows::event::{BlockKey, EventBlock, Quarantined};
use crate::rows::finding::{Finding, FindingChange};
use crate::rows::resource::{Provenance, Source, Subject, SweepEnd};
use crate::rows::verdict::VerdictRow;

/// A write being collected. Its parts take effect in the order of the calls; reads and
/// conditions are evaluated when it is its turn, so no other write can come between.
pub struct OrgWrite {
    _private: (),
}

macro_rules! todo_writes {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),*);)*) => {
        impl OrgWrite {$(
            $(#[$doc])*
            pub fn $name(&mut self, $($arg: $kind),*) { $(let _ = $arg;)* todo!() }
        )*}
    };
}
todo_writes! {
    /// Demands that items `first_seq..=last_seq` follow what was stored of the stream.
    fn advance_high_water(stream: Stream, first_seq: u64, last_seq: u64, header: SignedHeader);
    /// Notes that a sweep of a scope has begun.
    fn begin_sweep(
        scope: &Scope, agent: AgentId, source: SourceId, generation: u64, at: Timestamp
    );
    /// Notes that the list of a scope could not be read. Nothing is retired.
    fn fail_sweep(
        scope: &Scope, agent: AgentId, source: SourceId, generation: u64, gap: Gap, at: Timestamp
    );
    /// Stores a document as part of the current sweep of its scope.
    fn put_resource(document: Document, from: Provenance);
    /// Stages that a resource is gone.
    fn stage_gone(urn: &Urn);
    /// Ends a sweep.
    fn end_sweep(end: SweepEnd);
    /// Confirms a held end.
    fn confirm_retirement(scope: &Scope, at: Timestamp);
    /// Stores a source.
    fn put_source(source: Source);
    /// Stores what an agent last said about itself.
    fn put_agent_status(status: AgentStatus);
    /// Stores every verdict on a subject, in place of those before.
    fn put_verdicts(row: VerdictRow);
    /// Removes every verdict on a subject.
    fn delete_verdicts(subject: &Subject);
    /// Notes that the evaluator has judged every change up to and with a commit.
    fn changes_judged(up_to: u64);
    /// Forgets every event received before an instant.
    fn forget_events(before: Timestamp);
    /// Keeps a refused item.
    fn quarantine(item: Quarantined);
    /// Records an act in the audit log.
    fn audit(act: AuditAct);
}

impl OrgWrite {
    /// Changes a finding.
    pub fn update_finding(
        &mut self,
        id: FindingId,
        decide: impl Fn(Option<&Finding>) -> Option<FindingChange> + Send + Sync + 'static,
    ) {
        let _ = (id, decide);
        todo!()
    }

    /// Stores a block of events.
    pub fn put_events<'r>(
        &mut self,
        block: EventBlock,
        records: impl IntoIterator<Item = (u32, &'r EventRecord)>,
    ) -> BlockKey {
        let _ = (block, records.into_iter().count());
        todo!()
    }

    /// Says whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        todo!()
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
        todo!()
    }
}
