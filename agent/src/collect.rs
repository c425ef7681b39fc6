//! The agent's own sources: what it reads of the host that it runs on.
//!
//! Clouds have crates of their own (`aws`, `gcp`, `azure`), which hold their dependencies apart.

pub(crate) mod host;
pub(crate) mod wazuh;
