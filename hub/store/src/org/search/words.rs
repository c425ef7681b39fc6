//! What a word is, and what it means that a text holds a term.
//!
//! A word is a run of letters and digits, without regard to case.

use std::borrow::Cow;

use memchr::memmem::Finder;

/// Lowers every letter on its own, so that a word is lowered alike wherever it stands; the small
/// sigma has one form here.
pub(super) fn lower(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Cow::Owned(text.to_ascii_lowercase());
        }
        return Cow::Borrowed(text);
    }
    let lowered = text.chars().flat_map(char::to_lowercase);
    Cow::Owned(lowered.map(|c| if c == 'ς' { 'σ' } else { c }).collect())
}

/// Calls `look` with the bytes of every word of a text, lowered. `scratch` is memory to work in.
pub(super) fn each_word(text: &str, scratch: &mut Vec<u8>, mut look: impl FnMut(&[u8])) {
    if text.is_ascii() {
        scratch.clear();
        scratch.extend(text.bytes().map(|b| b.to_ascii_lowercase()));
        scratch
            .split(|b| !b.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .for_each(look);
        return;
    }
    for word in lower(text).split(|c: char| !c.is_alphanumeric()) {
        if !word.is_empty() {
            look(word.as_bytes());
        }
    }
}

/// Says whether a text is another one, without regard to case; `lowered` is lowered already.
pub(super) fn is_same(text: &str, lowered: &str) -> bool {
    if text.is_ascii() {
        return text.len() == lowered.len()
            && text
                .bytes()
                .zip(lowered.bytes())
                .all(|(a, b)| a.to_ascii_lowercase() == b);
    }
    lower(text) == lowered
}

/// Says whether a text holds a term as a search for it means: as whole words that stand together,
/// without regard to case. An empty term is in every text.
pub fn holds_words(text: &str, term: &str) -> bool {
    Term::new(term).is_none_or(|term| term.is_in(&lower(text)))
}

/// A term that is looked for.
#[derive(Debug, Clone)]
pub(super) struct Term {
    lowered: String,
    finder: Finder<'static>,
}

impl Term {
    /// Prepares a term; `None` is one that every text holds.
    pub(super) fn new(term: &str) -> Option<Self> {
        let lowered = lower(term.trim()).into_owned();
        let finder = Finder::new(lowered.as_bytes()).into_owned();
        (!lowered.is_empty()).then_some(Self { lowered, finder })
    }

    pub(super) fn lowered(&self) -> &str {
        &self.lowered
    }

    /// Says whether a lowered text holds the term as whole words.
    pub(super) fn is_in(&self, lowered: &str) -> bool {
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let begins_word = is_word(self.lowered.chars().next());
        let ends_word = is_word(self.lowered.chars().next_back());
        // Bytes of UTF-8 that are found begin where a character does.
        let mut at = 0;
        while let Some(rest) = lowered.get(at..)
            && let Some(found) = self.finder.find(rest.as_bytes())
        {
            let start = at + found;
            let end = start + self.lowered.len();
            let before = lowered
                .get(..start)
                .and_then(|text| text.chars().next_back());
            let after = lowered.get(end..).and_then(|text| text.chars().next());
            let cuts_before = begins_word && is_word(before);
            let cuts_after = ends_word && is_word(after);
            if !cuts_before && !cuts_after {
                return true;
            }
            at = end;
        }
        false
    }
}
