//! A deterministic simulation of agents and a hub: the real session cores, the real signed frames,
//! everything around them a small model with virtual time.
//!
//! ```text
//!  sources ─▶ spool (model) ─▶ session::agent ─▶ wire (model) ─▶ session::hub ─▶ store (model)
//!                 └────────────── ledger: where is every item, may it be there? ───┘
//! ```
//! One `u64` decides everything that happens: how many organisations and agents there are, what
//! they send, which faults the run may have, and when each of them strikes. After a phase with
//! faults comes one without, in which everything must drain.
//!
//! | model | what is real about it |
//! |---|---|
//! | `spool` | what is durable, what a crash brings back, bounded keeping of what was acknowledged |
//! | `wire` | ordered streams per lane or one for all, delay, stalls, cuts at any byte, half-open |
//! | `store` | one transaction for rows and mark, delay, full disk, backup and restore |
//! | `identity` | the positive list with its backups, renewals that get lost at any point, ended certificates |
//!
//! What is checked stands in `ledger`. Signatures hold random numbers of the operating system; no
//! decision depends on them, so a seed repeats its run.

mod agent;
mod chance;
mod fault;
mod hub;
mod identity;
mod ledger;
mod plan;
mod spool;
mod store;
mod wire;
mod world;

use std::fmt;

/// What a run did, so that a test can see that it did something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Items that sources gave to spools.
    pub items: u64,
    /// Batches that the store took.
    pub batches: u64,
    /// Batches that came again and had no effect.
    pub repeats: u64,
    /// Refusals that the store or a core gave.
    pub refusals: u64,
    /// Attempts to connect.
    pub dials: u64,
    /// Faults that struck.
    pub faults: u64,
    /// New epochs of spools, the first of each not counted.
    pub rolls: u64,
    /// Records of items that are gone.
    pub losses: u64,
    /// Certificates that the hub made for agents that asked.
    pub renewals: u64,
    /// Times that an agent showed a certificate from before, since the hub did not know a later one.
    pub older_shown: u64,
    /// Virtual milliseconds from the first to the last event.
    pub virtual_ms: u64,
    /// Virtual milliseconds from the end of the faults until everything was drained.
    pub drain_ms: u64,
}

/// An invariant that did not hold, with what led to it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed that repeats it.
    pub seed: u64,
    /// Virtual milliseconds since the start.
    pub at_ms: u64,
    /// What did not hold.
    pub what: String,
    /// The last events before it.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "    {line}")?;
        }
        writeln!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.what)?;
        write!(f, "again: SEED={} cargo test -p sim", self.seed)
    }
}

/// Runs one seed to its end.
///
/// # Errors
///
/// The first invariant that does not hold.
pub fn run(seed: u64) -> Result<Summary, Box<Failure>> {
    world::World::new(seed).run()
}

/// An invariant that did not hold, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Violation(String);

type Checked = Result<(), Violation>;

/// Returns a violation in words.
fn violated(what: impl Into<String>) -> Violation {
    Violation(what.into())
}
