//! Regular expressions that see text as bytes.
//!
//! A class such as `[^"]` has 256 members then and not a million, so a bound on its repetition costs kilobytes of
//! compiled program and not megabytes. Letters, spaces and word borders are those of ASCII, which is all that the
//! shapes of secrets ask for.

use regex::bytes::{Captures, Regex, RegexBuilder};

/// A compiled expression.
pub(super) struct Expression(Regex);

/// Part of a text that a group matched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'t> {
    start: usize,
    text: &'t str,
}

impl<'t> Part<'t> {
    /// Returns the offset of its first byte in the whole text.
    pub(super) const fn start(self) -> usize {
        self.start
    }

    /// Returns the offset behind its last byte.
    pub(super) const fn end(self) -> usize {
        self.start + self.text.len()
    }

    /// Returns the part itself.
    pub(super) const fn as_str(self) -> &'t str {
        self.text
    }
}

/// What the groups of one match hold.
pub(super) struct Groups<'t> {
    captures: Captures<'t>,
    text: &'t str,
}

impl<'t> Groups<'t> {
    /// Returns what a numbered group matched.
    pub(super) fn get(&self, number: usize) -> Option<Part<'t>> {
        self.part(self.captures.get(number)?)
    }

    /// Returns what a named group matched.
    pub(super) fn name(&self, name: &str) -> Option<Part<'t>> {
        self.part(self.captures.name(name)?)
    }

    /// A bound on a repetition may have cut a character in two; then its rest belongs to the part.
    fn part(&self, found: regex::bytes::Match<'t>) -> Option<Part<'t>> {
        let start = self.text.floor_char_boundary(found.start());
        let end = self.text.ceil_char_boundary(found.end());
        let text = self.text.get(start..end)?;
        Some(Part { start, text })
    }
}

impl Expression {
    /// Compiles an expression of this crate.
    ///
    /// # Panics
    ///
    /// When it is none; a test compiles all of them.
    pub(super) fn new(expression: &str) -> Self {
        let built = RegexBuilder::new(expression).unicode(false).build();
        Self(built.expect("a test compiles every expression"))
    }

    /// Says whether it matches anywhere.
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text.as_bytes())
    }

    /// Returns the first match that begins at `from` or behind it.
    pub(super) fn captures_at<'t>(&self, text: &'t str, from: usize) -> Option<Groups<'t>> {
        let captures = self.0.captures_at(text.as_bytes(), from)?;
        Some(Groups { captures, text })
    }

    /// Returns every match, one behind the other.
    pub(super) fn captures_iter<'t>(&self, text: &'t str) -> impl Iterator<Item = Groups<'t>> {
        self.0
            .captures_iter(text.as_bytes())
            .map(move |captures| Groups { captures, text })
    }
}

#[cfg(test)]
mod tests {
    use super::Expression;

    #[test]
    fn a_character_that_a_bound_would_cut_is_kept_whole() {
        let expression = Expression::new(r#"x([^"]{1,3})"#);
        let groups = expression.captures_at("xaäöü", 0).unwrap();
        let part = groups.get(1).unwrap();
        assert_eq!((part.as_str(), part.start(), part.end()), ("aä", 1, 4));
        let groups = expression.captures_at("xäöü", 0).unwrap();
        assert_eq!(groups.get(1).unwrap().as_str(), "äö");
    }
}
