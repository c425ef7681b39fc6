//! Removes secret-bearing content from raw records before they are spooled.
//!
//! A raw event is kept as evidence, so everything that is not a secret stays byte for byte: JSON
//! is walked where it stands and only the offending values are replaced by [`MARK`]. A value goes
//! when its key promises a secret (`sessionToken`, `masterUserPassword`, `{"name":
//! "DB_PASSWORD", "value": …}`), or when the text itself shows one (`password=…`, bearer tokens,
//! key blocks, provider tokens, passwords in URLs). JSON inside a string is walked as JSON.
//!
//! This is the opposite bias of [`crate::secrets`]: there a false alarm costs an operator's time,
//! here a false alarm costs one word of a log line and a miss costs a secret. Access key *ids*
//! stay: they name who acted and open nothing by themselves.
//!
//! Called by the sources of events; pure, linear in the length of its input.

mod ahead;
pub(crate) mod json;
mod keys;
mod text;

use std::borrow::Cow;

use crate::pick::{Picked, Picks};

/// What stands where a secret was.
pub const MARK: &str = "[scrubbed]";

/// The text is not one JSON value, or nests deeper than 128 levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON at byte {at}")]
pub struct NotJson {
    /// Where reading stopped, in bytes from the start.
    pub at: usize,
}

/// Returns `raw`, one JSON value, without its secrets. The result is JSON with the same structure;
/// everything that is kept is byte-identical.
///
/// # Errors
///
/// When `raw` is not JSON: its structure is then unknown, so nothing can be promised about it.
pub fn scrub_json(raw: &str) -> Result<Cow<'_, str>, NotJson> {
    Ok(json::scrub(raw, 0, None)?.0)
}

/// Does the same, and picks values on the way. Where something was replaced none are picked: read
/// them out of the result then, which never holds what was replaced.
///
/// # Errors
///
/// As [`scrub_json`].
pub fn scrub_and_pick<'t, 'p>(
    raw: &'t str,
    picks: &'p Picks,
) -> Result<(Cow<'t, str>, Option<Picked<'p, 't>>), NotJson> {
    let (scrubbed, found) = json::scrub(raw, 0, Some(picks))?;
    Ok((scrubbed, found.map(|found| picks.picked(found))))
}

/// Returns `raw`, free text such as a log line, without its secrets.
pub fn scrub_text(raw: &str) -> Cow<'_, str> {
    text::scrub(raw)
}

#[cfg(test)]
mod tests;
