//! The store as its callers see it: through its public face, on real files.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "the helpers of tests: one that cannot go on should stop"
)]

mod access;
mod backup;
mod bench;
mod compaction;
mod disk;
mod events;
mod findings;
mod format;
mod inventory;
mod isolation;
mod past;
mod retention;
mod streams;
