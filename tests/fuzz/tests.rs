//! Replays the corpus of every target, and mutates it a bounded number of times: `MUTATIONS=50`
//! does fifty times as many, `MUTATION_SEED=7` others, `TARGET=batch` one target only.
//!
//! `WRITE_CORPUS=1 cargo test -p fuzz` writes the corpus anew where the wire has changed.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod replay;
