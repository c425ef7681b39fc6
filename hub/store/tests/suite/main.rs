//! The store as its callers see it: through its public face, on real files.

mod access;
mod bench;
mod disk;
mod events;
mod findings;
mod inventory;
mod isolation;
mod streams;
