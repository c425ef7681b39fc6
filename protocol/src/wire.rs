//! Versioned wire types. A module is frozen once a release speaks it: a change is a new module,
//! and golden bytes in the repository hold each to its word.

pub mod v1;
