//! Exports and replies.
