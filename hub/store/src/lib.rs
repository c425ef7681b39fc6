//! The hub's store: the only user of redb, every row sealed under its organisation's key.
//!
//! ```text
//! Store ─ open once, at start-up
//!  ├─ appliance()          organisations, users, agents, tokens, sessions, the hub's keys
//!  │   ├─ admit_agent(..)  ─▶ OrgStore     a verified certificate, checked against the positive list
//!  │   ├─ admit_user(..)   ─▶ OrgStore     a signed-in person with a role in that organisation
//!  │   └─ admit_administrator(..) ─▶ Administration   a hub administrator: enrolment, no data
//!  └─ maintenance(org)     ─▶ OrgStore     start-up, timers and offline commands only
//! OrgStore ─ the authority for one organisation
//!  ├─ read(|reader| ..)    one snapshot, typed rows
//!  └─ write() … commit()   all or nothing, durable, grouped with others of the organisation
//! ```
//! Who may call [`Store::maintenance`]: `main` (start-up, offline commands) and the tasks that
//! `main` starts for every organisation (evaluation, retention). No request handler: a request
//! has a certificate or a user, and goes through an admission.
//!
//! This crate reads no wall clock: instants are arguments.
#![warn(missing_docs)]

mod appliance;
mod backup;
mod codec;
mod door;
mod draft;
mod engine;
pub mod error;
mod keys;
mod list;
mod load;
mod master;
mod migrate;
mod org;
mod recovery;
mod reseal;
pub mod rows;
mod seal;
mod store;
mod tables;
mod view;
mod writer;

pub use appliance::{AdmittedAgent, AgentIdentity, Appliance, Member, VersionedSession};
pub use backup::{BackupContent, BackupError, BackupHeader, BackupNote, BackupSummary, Restored};
pub use engine::{Compacted, Usage};
pub use error::{
    AdmitAgentError, AdmitUserError, ApplianceError, CommitError, Fatal, KeyError, MasterKeyError,
    OpenError, ReadError, TokenError,
};
pub use list::{
    FindingList, FindingSort, FindingSummary, List, OpenFindings, Order, Page, Predicate,
    ResourceList, ResourceSort, ResourceSummary, SharedScope, SharedUrn, Tags,
};
pub use load::{Latency, Load};
pub use master::MasterKey;
pub use master::deletions::Deletions;
pub use master::exchange::{KeyStep, Told};
pub use org::{
    Administration, AgentBounds, Became, Committed, Inspection, OrgReader, OrgStore, OrgWrite,
    Past, SignBase, SignedHeader, StoredHeader, Stream,
};
pub use recovery::{NoRecipientError, RecoveryKey, RecoveryRecipient};
pub use store::{DataKeys, NewKeyPlace, Resealed, Rotated, Store, StoreConfig};
