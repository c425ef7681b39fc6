//! The processes of one line on loopback: AWS emulator, hub, agent and client, as separate programs.
//!
//! `cargo xtask demo` and the end-to-end tests start the same line from here, so that what the demo shows is what the
//! tests hold. Each process ends with the value that owns it, and also when the starter is killed.

pub mod agent;
pub mod client;
pub mod emulator;
pub mod hub;
pub mod process;
pub mod programs;
pub mod python;
pub mod relay;
pub mod usage;
