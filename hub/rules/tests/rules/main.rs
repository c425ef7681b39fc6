//! Tests of the language, of refusals and of the shipped checks.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod builtin;
mod differential;
mod evaluation;
mod hostile;
mod refusals;
mod world;
