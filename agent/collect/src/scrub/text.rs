//! Finds secrets in free text by what stands before them and by their own shape.
//!
//! One Aho-Corasick pass over the places where one can stand ([`super::ahead`]) finds the words that
//! can begin a secret; each hit is then looked at in place. A hit inside what was already removed is skipped, and every look is bounded or ends
//! where the next begins, so the work is linear in the length of the text.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input};

use super::MARK;
use super::ahead::Ahead;
use super::keys::{Class, class_of, is_harmless, is_header};

/// What a word begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// Part of a name that may promise a secret: `name=value`, `name: value`, `--name value`.
    Name,
    /// `Bearer <token>`.
    Bearer,
    /// A token that begins with the word and goes on for at least so many characters.
    Token(usize),
    /// A value that follows the word, of at least so many characters.
    Value(usize),
    /// `header.claims.signature`.
    Jwt,
    /// A block of key material.
    KeyBlock,
    /// `scheme://user:password@host`.
    Url,
    /// An access key id, which stays, and near which a secret key may stand.
    KeyId,
    /// A program that takes a password as an argument.
    Program(Program),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Program {
    /// `curl -u user:password`.
    Curl,
    /// `mysql -pPassword`.
    Mysql,
    /// `sshpass -p password`.
    Sshpass,
}

// Prefixes of tokens. Sources: the providers' pages that `secrets/pattern.rs` names; AWS session
// tokens as its STS returns them; Google, "OAuth 2.0 tokens"; HashiCorp Vault, "Tokens".
pub(super) const WORDS: &[(&str, Rule)] = &[
    ("passw", Rule::Name),
    ("passphrase", Rule::Name),
    ("passcode", Rule::Name),
    ("pwd", Rule::Name),
    ("secret", Rule::Name),
    ("token", Rule::Name),
    ("api_key", Rule::Name),
    ("api-key", Rule::Name),
    ("apikey", Rule::Name),
    ("access_key", Rule::Name),
    ("access-key", Rule::Name),
    ("accesskey", Rule::Name),
    ("account_key", Rule::Name),
    ("accountkey", Rule::Name),
    ("private_key", Rule::Name),
    ("private-key", Rule::Name),
    ("privatekey", Rule::Name),
    ("authorization", Rule::Name),
    ("cookie", Rule::Name),
    ("connectionstring", Rule::Name),
    ("connection_string", Rule::Name),
    ("bearer", Rule::Bearer),
    ("eyj", Rule::Jwt),
    ("-----begin", Rule::KeyBlock),
    ("://", Rule::Url),
    ("akia", Rule::KeyId),
    ("asia", Rule::KeyId),
    ("iqojb3jpz2lu", Rule::Token(40)),
    ("fwogzxivyxdz", Rule::Token(40)),
    ("fqogzxivyxdz", Rule::Token(40)),
    ("aqodyxdz", Rule::Token(40)),
    ("ghp_", Rule::Token(20)),
    ("gho_", Rule::Token(20)),
    ("ghu_", Rule::Token(20)),
    ("ghs_", Rule::Token(20)),
    ("ghr_", Rule::Token(20)),
    ("github_pat_", Rule::Token(20)),
    ("glpat-", Rule::Token(16)),
    ("xoxa-", Rule::Token(10)),
    ("xoxb-", Rule::Token(10)),
    ("xoxe-", Rule::Token(10)),
    ("xoxe.xox", Rule::Token(10)),
    ("xoxp-", Rule::Token(10)),
    ("xoxr-", Rule::Token(10)),
    ("xoxs-", Rule::Token(10)),
    ("xapp-", Rule::Token(20)),
    ("hooks.slack.com/services/", Rule::Token(16)),
    ("sk_live_", Rule::Token(16)),
    ("rk_live_", Rule::Token(16)),
    ("sk-ant-", Rule::Token(20)),
    ("sk-proj-", Rule::Token(20)),
    ("aiza", Rule::Token(35)),
    ("ya29.", Rule::Token(16)),
    ("gocspx-", Rule::Token(16)),
    ("hvs.", Rule::Token(20)),
    ("npm_", Rule::Token(36)),
    ("pypi-age", Rule::Token(40)),
    ("dckr_pat_", Rule::Token(16)),
    ("sg.", Rule::Token(50)),
    ("age-secret-key-", Rule::Token(40)),
    ("sig=", Rule::Value(16)),
    ("signature=", Rule::Value(32)),
    ("curl", Rule::Program(Program::Curl)),
    ("mysql", Rule::Program(Program::Mysql)),
    ("sshpass", Rule::Program(Program::Sshpass)),
];

static SEARCH: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(WORDS.iter().map(|(word, _)| word))
        .expect("the words are few and short")
});

/// Characters on each side of a found word that may belong to the same name.
const NAME_BYTES: usize = 64;

/// How far a program's password may stand behind its name.
const ARGUMENTS_BYTES: usize = 300;

/// Shortest text that can be an AWS secret access key.
const KEY_BYTES: usize = 40;

/// Returns a text without its secrets.
pub(super) fn scrub(text: &str) -> Cow<'_, str> {
    scrub_at(text, 0, &mut Ahead::of(text))
}

/// Does the same with a text that stands at a place of a larger input, of which `ahead` is.
pub(super) fn scrub_at<'t>(text: &'t str, at: usize, ahead: &mut Ahead) -> Cow<'t, str> {
    let spans = find(text, at, ahead);
    if spans.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for span in spans {
        if span.start < done {
            continue;
        }
        out.push_str(text.get(done..span.start).unwrap_or_default());
        out.push_str(MARK);
        done = span.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(out)
}

/// Returns where secrets stand, sorted; all bounds are character boundaries.
fn find(text: &str, at: usize, ahead: &mut Ahead) -> Vec<Range<usize>> {
    let look = Look { text };
    let mut spans: Vec<Range<usize>> = Vec::new();
    let (mut done, mut name_end, mut near_aws) = (0, 0, false);
    let mut seen = at;
    let windows = std::iter::from_fn(|| {
        let window = ahead.window(seen..at + text.len())?;
        seen = window.end;
        Some(window.start.saturating_sub(at)..window.end - at)
    });
    let hits =
        windows.flat_map(|window| SEARCH.find_overlapping_iter(Input::new(text).range(window)));
    for hit in hits {
        let Some((word, rule)) = WORDS.get(hit.pattern().as_usize()) else {
            continue;
        };
        near_aws |= matches!(rule, Rule::KeyId) || *word == "secret";
        if hit.start() < done || (matches!(rule, Rule::Name) && hit.start() < name_end) {
            continue;
        }
        let span = match rule {
            Rule::Name => {
                let name = look.name(hit.start(), hit.end());
                name_end = name.end;
                look.assigned(name)
            }
            Rule::Bearer => look.bearer(hit.start(), hit.end()),
            Rule::Token(least) => look.token(hit.start(), hit.end(), *least),
            Rule::Value(least) => look.follows(hit.start(), hit.end(), *least),
            Rule::Jwt => look.jwt(hit.start()),
            Rule::KeyBlock => look.key_block(hit.start()),
            Rule::Url => look.url(hit.end()),
            Rule::Program(program) => look.argument(hit.start(), hit.end(), *program),
            Rule::KeyId => None,
        };
        if let Some(span) = span {
            done = done.max(span.end);
            spans.push(span);
        }
    }
    look.secret_keys(near_aws, &mut spans);
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    spans
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-".contains(&byte)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.~+/=%".contains(&byte)
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// What ends a value without quotes.
fn ends_value(byte: u8) -> bool {
    byte.is_ascii_whitespace() || b"\"',;&)}]<>|".contains(&byte)
}

/// Whether a mark stands here already.
fn is_marked(rest: &str) -> bool {
    rest.trim_start_matches(['\\', '"', '\'']).starts_with(MARK)
}

struct Look<'t> {
    text: &'t str,
}

impl Look<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn before(&self, at: usize) -> Option<u8> {
        self.byte(at.checked_sub(1)?)
    }

    /// Returns the end of the run of bytes from `at` that belong.
    fn run(&self, at: usize, belongs: impl Fn(u8) -> bool) -> usize {
        self.run_within(at, usize::MAX, belongs)
    }

    /// The same, over at most `most` bytes.
    fn run_within(&self, at: usize, most: usize, belongs: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.as_bytes().get(at..).unwrap_or_default();
        at + rest
            .iter()
            .take(most)
            .take_while(|byte| belongs(**byte))
            .count()
    }

    fn slice(&self, span: Range<usize>) -> &str {
        self.text.get(span).unwrap_or_default()
    }

    /// Returns the whole name around a found word.
    fn name(&self, start: usize, end: usize) -> Range<usize> {
        let head = self.text.as_bytes().get(..start).unwrap_or_default();
        let back = head.iter().rev().take(NAME_BYTES);
        let start = start - back.take_while(|byte| is_name(**byte)).count();
        start..self.run_within(end, NAME_BYTES, is_name)
    }

    /// Returns the value that is assigned to a telling name.
    fn assigned(&self, name: Range<usize>) -> Option<Range<usize>> {
        let written = self.slice(name.clone());
        let class = class_of(written);
        if class == Class::Open {
            return None;
        }
        let before = self.before(name.start);
        // Quotes and brackets that close the name, escaped or not.
        let at = self.run_within(name.end, 8, |b| b"\\\"']".contains(&b));
        let closed = at > name.end;
        let blanks = self.run_within(at, 8, is_blank);
        let flag = written.starts_with('-');
        let (colon, value) = match self.byte(blanks) {
            Some(b'=') => (false, self.run(blanks, |b| b"=>~".contains(&b))),
            Some(b':') => (true, self.run(blanks, |b| b":=".contains(&b))),
            Some(b'>') if before == Some(b'<') => {
                let end = self.run(blanks + 1, |b| b != b'<');
                return self.checked(written, blanks + 1..end);
            }
            _ if flag && blanks > at => (false, blanks),
            _ => return None,
        };
        // A path (`/etc/passwd: changed`) or part of an ARN (`…:secret:name`) is no name.
        if colon && matches!(before, Some(b'/' | b':' | b'\\')) && !closed {
            return None;
        }
        let start = self.run(value, is_blank);
        if is_marked(self.slice(start..self.text.len())) {
            return None;
        }
        let spaced = start > value;
        let slashes = self.run(start, |b| b == b'\\');
        if let Some(quote @ (b'"' | b'\'')) = self.byte(slashes) {
            let inner = slashes + 1;
            let end = self.closing(inner, quote, slashes - start);
            return self.checked(written, inner..end);
        }
        if is_header(written) {
            let end = self.run(start, |b| !b"\r\n\"'\\".contains(&b));
            return self.checked(written, start..end);
        }
        let end = self.run(start, |b| !ends_value(b));
        let bare = self.slice(start..end);
        // Prose: `token: unexpected end`, `invalid secret: try again`.
        let telling = bare.len() >= 8 && bare.bytes().any(|b| b.is_ascii_digit());
        if colon && class == Class::Weak && !telling && bare.len() < 20 {
            return None;
        }
        if colon && spaced && is_prose(bare) && !self.ends_line(end) {
            return None;
        }
        self.checked(written, start..end)
    }

    fn ends_line(&self, at: usize) -> bool {
        let at = self.run(at, |b| is_blank(b) || b",;\"')}]".contains(&b));
        matches!(self.byte(at), None | Some(b'\n' | b'\r'))
    }

    /// Returns where the quote that was opened behind `slashes` backslashes closes, or the end.
    fn closing(&self, start: usize, quote: u8, slashes: usize) -> usize {
        let mut run = 0;
        for (offset, byte) in self.text.as_bytes().iter().skip(start).enumerate() {
            if *byte == b'\\' {
                run += 1;
            } else if *byte == quote && run <= slashes {
                return start + offset - run;
            } else {
                run = 0;
            }
        }
        self.text.len()
    }

    fn checked(&self, name: &str, span: Range<usize>) -> Option<Range<usize>> {
        (!is_harmless(name, self.slice(span.clone()))).then_some(span)
    }

    fn bearer(&self, start: usize, end: usize) -> Option<Range<usize>> {
        if self.before(start).is_some_and(is_word) {
            return None;
        }
        let value = self.run(end, |b| is_blank(b) || b == b':' || b == b'+');
        let stop = self.run(value, is_token);
        let bare = self.slice(value..stop);
        let telling = bare.bytes().any(|b| b.is_ascii_digit()) || bare.len() >= 20;
        (value > end && bare.len() >= 8 && telling).then_some(value..stop)
    }

    fn token(&self, start: usize, end: usize, least: usize) -> Option<Range<usize>> {
        if self
            .before(start)
            .is_some_and(|b| is_base64url(b) || b == b'+')
        {
            return None;
        }
        let stop = self.run(end, is_token);
        let bare = self.slice(end..stop).trim_end_matches('.');
        (bare.len() >= least).then_some(start..end + bare.len())
    }

    fn follows(&self, start: usize, end: usize, least: usize) -> Option<Range<usize>> {
        if self.before(start).is_some_and(is_word) {
            return None;
        }
        let stop = self.run(end, is_token);
        (stop - end >= least).then_some(end..stop)
    }

    fn jwt(&self, start: usize) -> Option<Range<usize>> {
        let word = self.slice(start..start + 3);
        if word != "eyJ" || self.before(start).is_some_and(is_base64url) {
            return None;
        }
        let header = self.run(start, is_base64url);
        if header - start < 10 || self.byte(header) != Some(b'.') {
            return None;
        }
        let claims = self.run(header + 1, is_base64url);
        let stop = self.run(claims, |b| is_base64url(b) || b == b'.');
        (claims - header > 8).then_some(start..stop)
    }

    /// A block goes to its last line, or to the end of the text where that is missing.
    fn key_block(&self, start: usize) -> Option<Range<usize>> {
        const HEAD: usize = 64;
        let mut head = (start + HEAD).min(self.text.len());
        while !self.text.is_char_boundary(head) {
            head -= 1;
        }
        let title = self.slice(start..head);
        if !title.contains("PRIVATE KEY") && !title.contains("OPENSSH") {
            return None;
        }
        let rest = self.slice(start..self.text.len());
        let Some(last) = rest.find("-----END") else {
            return Some(start..self.text.len());
        };
        let tail = start + last + "-----END".len();
        let stop = self.run(tail, |b| {
            b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' '
        });
        Some(start..self.run(stop, |b| b == b'-'))
    }

    /// The password of `user:password@host`; the user's name stays.
    fn url(&self, start: usize) -> Option<Range<usize>> {
        let ends = |b: u8| b.is_ascii_whitespace() || b"/\"'<>?#".contains(&b);
        let authority = self.run(start, |b| !ends(b));
        let userinfo = start + self.slice(start..authority).rfind('@')?;
        let colon = start + self.slice(start..userinfo).find(':')?;
        self.checked("password", colon + 1..userinfo)
    }

    fn argument(&self, start: usize, end: usize, program: Program) -> Option<Range<usize>> {
        if self.before(start).is_some_and(is_word) {
            return None;
        }
        let stop = self.run_within(end, ARGUMENTS_BYTES, |b| !b"\n|;".contains(&b));
        let parts = |b: u8| b.is_ascii_whitespace() || b"\"'".contains(&b);
        let mut at = end;
        let mut asked = false;
        while at < stop {
            let from = self.run_within(at, stop - at, parts);
            let to = self.run_within(from, stop - from, |b| !parts(b));
            if to == from {
                return None;
            }
            // A password that goes on behind the bound is removed whole.
            let to = if to == stop && asked {
                self.run(to, |b| !parts(b))
            } else {
                to
            };
            let word = self.slice(from..to);
            at = to;
            match program {
                Program::Curl if asked => {
                    let colon = from + word.find(':')?;
                    return self.checked("password", colon + 1..to);
                }
                Program::Sshpass if asked => return self.checked("password", from..to),
                Program::Curl => asked = word == "-u" || word == "--user",
                Program::Sshpass => asked = word == "-p",
                Program::Mysql => {
                    if word.starts_with("-p") && word.len() > 2 {
                        return self.checked("password", from + 2..to);
                    }
                }
            }
        }
        None
    }

    /// Adds runs of exactly 40 base64 characters that look random: AWS secret access keys. Away
    /// from an access key id or the word secret, only those that no name or hash could be.
    fn secret_keys(&self, near_aws: bool, spans: &mut Vec<Range<usize>>) {
        let belongs = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        // No run goes on from before `at`. So a run of this length covers all of the window, and
        // from what does not belong there, the last of it, the next one can begin.
        let mut at = 0;
        while let Some(window) = self.text.as_bytes().get(at..at + KEY_BYTES) {
            if let Some(last) = window.iter().rposition(|b| !belongs(*b)) {
                at += last + 1;
                continue;
            }
            let end = self.run(at + KEY_BYTES, belongs);
            if end - at == KEY_BYTES && is_secret_key(self.slice(at..end), near_aws) {
                spans.push(at..end);
            }
            at = end + 1;
        }
    }
}

/// A lower-case word, or one with a capital, as in a sentence.
fn is_prose(bare: &str) -> bool {
    let mut letters = bare.trim_end_matches(['.', '!', '?', ':']).chars();
    letters.next().is_some_and(char::is_alphabetic) && letters.all(char::is_lowercase)
}

fn is_secret_key(run: &str, near_aws: bool) -> bool {
    let has = |test: fn(&u8) -> bool| run.bytes().any(|b| test(&b));
    if !has(u8::is_ascii_uppercase) || !has(u8::is_ascii_lowercase) || !has(u8::is_ascii_digit) {
        return false;
    }
    if near_aws {
        return entropy(run) >= 4.0;
    }
    // A path has short plain parts; a key's parts are mixed.
    let mixed = run.split('/').any(|part| {
        part.len() >= 10
            && part.bytes().any(|b| b.is_ascii_uppercase())
            && part.bytes().any(|b| b.is_ascii_lowercase())
            && part.bytes().any(|b| b.is_ascii_digit())
    });
    mixed && run.contains(['/', '+']) && entropy(run) >= 4.5
}

/// Bits per character, by Shannon.
fn entropy(text: &str) -> f64 {
    let mut counts = [0u32; 128];
    for byte in text.bytes() {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
    }
    let total: f64 = counts.iter().map(|count| f64::from(*count)).sum();
    let part = |count: &u32| {
        let share = f64::from(*count) / total;
        -share * share.log2()
    };
    counts.iter().filter(|count| **count > 0).map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What one pass of the automaton over all of a text finds.
    fn hits(text: &str) -> Vec<(usize, usize)> {
        let hits = SEARCH.find_overlapping_iter(text);
        hits.map(|hit| (hit.start(), hit.end())).collect()
    }

    fn hits_ahead(text: &str, at: usize, ahead: &mut Ahead) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut seen = at;
        while let Some(window) = ahead.window(seen..at + text.len()) {
            seen = window.end;
            let window = window.start.saturating_sub(at)..window.end - at;
            let hits = SEARCH.find_overlapping_iter(Input::new(text).range(window));
            found.extend(hits.map(|hit| (hit.start(), hit.end())));
        }
        found
    }

    fn word() -> impl Strategy<Value = String> {
        let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
        let word = prop::sample::select(words).prop_map(ToOwned::to_owned);
        (
            word,
            any::<bool>(),
            any::<prop::sample::Index>(),
            any::<bool>(),
        )
            .prop_map(|(word, is_loud, cut, is_whole)| {
                let word = if is_loud { word.to_uppercase() } else { word };
                let cut = if is_whole {
                    word.len()
                } else {
                    cut.index(word.len())
                };
                word.get(..cut).unwrap_or(&word).to_owned()
            })
    }

    proptest! {
        #[test]
        fn the_way_ahead_misses_no_word_and_meets_none_twice(
            parts in prop::collection::vec(
                prop::collection::vec(prop_oneof![word(), "[a-z0-9_.:=/é -]{0,30}"], 0..8),
                1..4,
            ),
        ) {
            let parts: Vec<String> = parts.iter().map(|pieces| pieces.concat()).collect();
            let mut ahead = Ahead::of(&parts.concat());
            let mut at = 0;
            for part in &parts {
                prop_assert_eq!(hits_ahead(part, at, &mut ahead), hits(part), "{:?}", parts);
                at += part.len();
            }
        }
    }
}
