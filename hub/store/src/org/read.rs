//! Reads of one organisation at one commit.

use jiff::Timestamp;
use protocol::document::Link;
use protocol::ids::{AgentId, EventId, FindingId, OrgId, ResourceId};
use protocol::{Scope, Urn};

use super::{StoredHeader, Stream};
use crate::error::ReadError;
use crate::list::{FindingList, FindingSummary, Page, ResourceList, ResourceSummary};
use crate::rows::access::AgentStatus;
use crate::rows::audit::{AuditEntry, AuditFault, AuditHead};
use crate::rows::event::{Event, EventPage, EventQuery, Quarantined};
use crate::rows::finding::{Finding, Transition};
use crate::rows::resource::{Change, PastResource, Resource, ScopeStatus, Source, Subject};
use crate::rows::verdict::VerdictRow;

/// One organisation at one commit.
pub struct OrgReader {
    _read: Box<dyn crate::engine::Read>,
}

macro_rules! todo_reads {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        impl OrgReader {$(
            $(#[$doc])*
            pub fn $name(&self, $($arg: $kind),*) -> $out { $(let _ = $arg;)* todo!() }
        )*}
    };
}
todo_reads! {
    /// Returns the organisation that is read.
    fn org() -> OrgId;
    /// Returns the number of the commit that this snapshot shows.
    fn commit() -> Result<u64, ReadError>;
    /// See [`OrgStore::resource`](super::OrgStore::resource).
    fn resource(urn: &Urn) -> Result<Option<Resource>, ReadError>;
    /// See `OrgStore`.
    fn resource_by_id(id: ResourceId) -> Result<Option<Resource>, ReadError>;
    /// See `OrgStore`.
    fn resource_history(urn: &Urn) -> Result<Vec<PastResource>, ReadError>;
    /// See `OrgStore`.
    fn resources(list: &ResourceList) -> Result<Page<ResourceSummary>, ReadError>;
    /// See `OrgStore`.
    fn resources_in(scope: &Scope) -> Result<Vec<Resource>, ReadError>;
    /// Calls `visit` with every living resource until it returns false.
    fn each_resource(visit: &mut dyn FnMut(Resource) -> bool) -> Result<(), ReadError>;
    /// See `OrgStore`.
    fn scope(scope: &Scope) -> Result<Option<ScopeStatus>, ReadError>;
    /// See `OrgStore`.
    fn scopes() -> Result<Vec<ScopeStatus>, ReadError>;
    /// See `OrgStore`.
    fn linked(urn: &Urn, rel: &str) -> Result<Vec<Urn>, ReadError>;
    /// See `OrgStore`.
    fn linked_from(urn: &Urn, rel: &str) -> Result<Vec<Urn>, ReadError>;
    /// Returns every link from a resource, with its relation and other end.
    fn links(urn: &Urn) -> Result<Vec<Link>, ReadError>;
    /// Returns every link to a resource, with its relation and origin.
    fn links_to(urn: &Urn) -> Result<Vec<Link>, ReadError>;
    /// See `OrgStore`.
    fn sources() -> Result<Vec<Source>, ReadError>;
    /// Returns what an agent last said about itself.
    fn agent_status(agent: AgentId) -> Result<Option<AgentStatus>, ReadError>;
    /// See `OrgStore`.
    fn verdicts(subject: &Subject) -> Result<Option<VerdictRow>, ReadError>;
    /// See `OrgStore`.
    fn scan_verdicts(after: Option<&str>, limit: usize) -> Result<Page<VerdictRow>, ReadError>;
    /// See `OrgStore`.
    fn due(now: Timestamp, limit: usize) -> Result<Vec<Subject>, ReadError>;
    /// See `OrgStore`.
    fn finding(id: FindingId) -> Result<Option<Finding>, ReadError>;
    /// Calls `visit` with every finding until it returns false.
    fn each_finding(visit: &mut dyn FnMut(Finding) -> bool) -> Result<(), ReadError>;
    /// See `OrgStore`.
    fn finding_history(id: FindingId) -> Result<Vec<Transition>, ReadError>;
    /// See `OrgStore`.
    fn findings(list: &FindingList) -> Result<Page<FindingSummary>, ReadError>;
    /// See `OrgStore`.
    fn changes(since: u64, limit: usize) -> Result<Vec<Change>, ReadError>;
    /// See `OrgStore`.
    fn judged_up_to() -> Result<u64, ReadError>;
    /// See `OrgStore`.
    fn high_waters(agent: AgentId) -> Result<Vec<(Stream, u64)>, ReadError>;
    /// See `OrgStore`.
    fn batch_header(stream: Stream, seq: u64) -> Result<Option<StoredHeader>, ReadError>;
    /// See `OrgStore`.
    fn search_events(query: &EventQuery) -> Result<EventPage, ReadError>;
    /// See `OrgStore`.
    fn event(id: EventId) -> Result<Option<Event>, ReadError>;
    /// See `OrgStore`.
    fn quarantine(limit: usize) -> Result<Vec<Quarantined>, ReadError>;
    /// Returns how many items were ever refused, kept or not.
    fn quarantined() -> Result<u64, ReadError>;
    /// See `OrgStore`.
    fn audit(from: u64, limit: usize) -> Result<Vec<AuditEntry>, ReadError>;
    /// See `OrgStore`.
    fn audit_head() -> Result<AuditHead, ReadError>;
    /// Reads the whole audit log against its chain; the inner error names the first bad entry.
    fn verify_audit() -> Result<Result<AuditHead, AuditFault>, ReadError>;
}
