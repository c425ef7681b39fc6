//! Looks ahead for where a secret's word can stand, so that what lies between is not looked at.
//!
//! Most records hold no such word, or one in a single value. Their stems are sought in the whole
//! input with the processor's vector instructions (Teddy), a tenth of the cost of the automaton
//! that tells the words apart. It may only be wrong by a place too many.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::packed::Searcher;

/// Every word of [`super::text`] holds one of them, in this form: see [`fold`].
const STEMS: &[&str] = &[
    "pass",
    "pwd",
    "secr",
    "token",
    "api_key",
    "api-key",
    "apikey",
    "access_key",
    "access-key",
    "accesskey",
    "account_key",
    "accountkey",
    "private",
    "authoriz",
    "cookie",
    "connection",
    "bearer",
    "eyj",
    "-----b",
    "://",
    "akia",
    "asia",
    "iqoj",
    "fwogz",
    "fqogz",
    "aqody",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_p",
    "glpat",
    "xoxa-",
    "xoxb-",
    "xoxe",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "xapp-",
    "hooks.s",
    "sk_live_",
    "rk_live_",
    "sk-ant-",
    "sk-proj-",
    "aiza",
    "ya29.",
    "gocspx",
    "hvs.",
    "npm_",
    "pypi",
    "dckr_",
    "sg.",
    "sig=",
    "signature=",
    "curl",
    "mysql",
];

/// `None` where the processor has no such instructions.
static SEARCH: LazyLock<Option<Searcher>> =
    LazyLock::new(|| Searcher::new(STEMS.iter().map(|stem| fold(stem))));

/// Makes letters of both cases one, and of some other characters one too.
fn fold(text: &str) -> Vec<u8> {
    text.bytes().map(|b| b | 0x20).collect()
}

/// Most bytes of a word before its stem.
const BEFORE_STEM: usize = 4;

/// Most bytes of a word from its stem on.
const FROM_STEM: usize = 26;

/// The way ahead in one input.
#[derive(Debug)]
pub(super) struct Ahead {
    folded: Vec<u8>,
    /// The last place that was asked for, and the first stem that begins there or behind it.
    seen: Option<(usize, usize)>,
}

impl Ahead {
    pub(super) fn of(input: &str) -> Self {
        let folded = match &*SEARCH {
            Some(_) => fold(input),
            None => Vec::new(),
        };
        Self { folded, seen: None }
    }

    /// Returns the next part of a stretch of the input in which words can stand, each of them whole;
    /// `None` if none can. The next stretch to ask for begins behind it, and no other does before
    /// one that was asked for.
    pub(super) fn window(&mut self, stretch: Range<usize>) -> Option<Range<usize>> {
        let Some(search) = &*SEARCH else {
            return (!stretch.is_empty()).then_some(stretch);
        };
        let first = self.next(search, stretch.start);
        if first >= stretch.end {
            return None;
        }
        let mut end = first.saturating_add(FROM_STEM);
        let mut last = first;
        loop {
            last = self.next(search, last + 1);
            if last >= end.min(stretch.end) {
                break;
            }
            end = last.saturating_add(FROM_STEM);
        }
        // A word may begin before the stretch, in what was the part before.
        Some(first.saturating_sub(BEFORE_STEM)..end.min(stretch.end))
    }

    /// Returns where the first stem at or behind a place begins.
    fn next(&mut self, search: &Searcher, from: usize) -> usize {
        if let Some((asked, next)) = self.seen
            && asked <= from
            && from <= next
        {
            return next;
        }
        let rest = (from.min(self.folded.len())..self.folded.len()).into();
        let hit = search.find_in(&self.folded, rest);
        let next = hit.map_or(usize::MAX, |hit| hit.start());
        self.seen = Some((from, next));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::WORDS;
    use super::*;

    #[test]
    fn every_word_holds_a_stem_and_no_stem_is_of_no_word() {
        for (word, _) in WORDS {
            let stems = STEMS.iter().filter(|stem| word.contains(*stem));
            assert!(stems.count() > 0, "{word}");
        }
        for stem in STEMS {
            assert!(WORDS.iter().any(|(word, _)| word.contains(stem)), "{stem}");
        }
    }

    #[test]
    fn no_word_is_longer_than_what_is_looked_at_around_its_stem() {
        assert!(SEARCH.is_some() || cfg!(not(target_arch = "x86_64")));
        for (word, _) in WORDS {
            let stems = STEMS.iter().filter_map(|stem| word.find(stem));
            let first = stems.min().unwrap();
            assert!(first <= BEFORE_STEM, "{word}");
            assert!(word.len() - first <= FROM_STEM, "{word}");
        }
    }
}
