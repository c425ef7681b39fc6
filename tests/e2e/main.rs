//! The promises of the first slice, held by the real programs on loopback.

#![expect(clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod backup;
mod bad_input;
mod bundle;
mod canaries;
mod crash;
mod demo;
mod disk;
mod enrolment;
mod hostile;
mod hub_disk;
mod identity;
mod init;
mod keys;
mod metrics;
mod network;
mod organisations;
mod restricted;
mod retention;
mod rotation;
mod sync;
mod transport;
mod verdicts;
