//! The seam between a source and the rest of the agent.
//!
//! A collector turns a provider's answers into [`Fact`]s and sends them through an [`Output`].
//! It never sees the spool, the session or the hub, and it cannot build a document by hand:
//! [`Draft`] keeps the declared fields, fills in null for what was read and is absent, and writes
//! a gap for everything that was not read. Called by the agent's scheduler; implemented by the
//! crates `aws`, `gcp`, `azure` and by the agent's own `host` and `wazuh` sources.
#![warn(missing_docs)]

pub mod budget;
pub mod draft;
pub mod http;
pub mod output;
pub mod pick;
mod required;
pub mod scrub;
pub mod secrets;
pub mod source;

pub use budget::Budget;
pub use draft::Draft;
pub use output::{Fact, Output, Quarantined};
pub use secrets::Detector;
pub use source::{CollectError, Fault, Inventory, Probe, Summary, Tail, Until};
