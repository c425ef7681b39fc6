//! The hub's store: the only user of redb, every row sealed under its organisation's key.
