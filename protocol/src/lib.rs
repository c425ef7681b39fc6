//! What the agent, the hub and the console agree on: ids, limits, resource types, documents,
//! the wire and the agent–hub session as a state machine.
//!
//! This crate performs no I/O and reads no clock: time, seeds and bytes are arguments. Everything
//! that could be decided without a socket is decided here, so that it can be tested without one.
#![warn(missing_docs)]

pub mod api;
pub mod batch;
pub mod bundle;
pub mod declare;
pub mod document;
pub mod enroll;
pub mod event;
pub mod expiry;
pub mod filter;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod mux;
pub mod parts;
pub mod session;
pub mod spiffe;
pub mod urn;
pub mod wire;

pub use document::Document;
pub use urn::{Scope, Urn};
