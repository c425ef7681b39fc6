//! Walks JSON where it stands and replaces single values.

use std::borrow::Cow;
use std::ops::Range;

use super::ahead::Ahead;
use super::keys::{Class, class_of, is_harmless, is_sibling_value, names_a_sibling};
use super::{MARK, NotJson, text};
use crate::pick::{Found, Node, Picks};

/// Deepest nesting, as in `serde_json`: the walk is recursive.
const DEPTH: usize = 128;

/// How often JSON inside a string is opened: EventBridge in SNS in SQS makes three.
const NESTED: usize = 4;

/// A stretch of the input and what takes its place, with quotes.
#[derive(Debug)]
struct Edit {
    span: Range<usize>,
    with: String,
}

/// Returns the text without its secrets, and what was picked if nothing was replaced.
pub(crate) fn scrub<'t>(
    raw: &'t str,
    nested: usize,
    picks: Option<&Picks>,
) -> Result<(Cow<'t, str>, Option<Vec<Found<'t>>>), NotJson> {
    let mut walk = Walk {
        text: raw,
        at: 0,
        depth: 0,
        nested,
        edits: Vec::new(),
        ahead: Some(Ahead::of(raw)),
        found: picks.map(Picks::nothing).unwrap_or_default(),
    };
    walk.whole(picks)?;
    let mut edits = walk.edits;
    if edits.is_empty() {
        return Ok((Cow::Borrowed(raw), picks.map(|_| walk.found)));
    }
    // An outer edit swallows those inside it.
    edits.sort_by_key(|edit| (edit.span.start, std::cmp::Reverse(edit.span.end)));
    let mut out = String::with_capacity(raw.len());
    let mut done = 0;
    for edit in edits {
        if edit.span.start < done {
            continue;
        }
        out.push_str(raw.get(done..edit.span.start).unwrap_or_default());
        out.push_str(&edit.with);
        done = edit.span.end;
    }
    out.push_str(raw.get(done..).unwrap_or_default());
    Ok((Cow::Owned(out), None))
}

/// Returns how many bytes of a string's rest stand before its end, an escape or a control
/// character (RFC 8259 section 7). Most strings are shorter than the way into a vector search, so
/// the first bytes are looked at eight at a time.
fn plain_bytes(rest: &[u8]) -> usize {
    const SHORT: usize = 32;
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (eights, _) = rest
        .get(..SHORT.min(rest.len()))
        .unwrap_or_default()
        .as_chunks::<8>();
    for (number, eight) in eights.iter().enumerate() {
        let word = u64::from_le_bytes(*eight);
        // The lowest bit that is set is the first byte's that is looked for; those above it may
        // be wrong (H. S. Warren, "Hacker's Delight", section 6-1).
        let is_zero = |word: u64| word.wrapping_sub(EACH) & !word;
        let quote = is_zero(word ^ (EACH * 0x22));
        let escape = is_zero(word ^ (EACH * 0x5c));
        let control = word.wrapping_sub(EACH * 0x20) & !word;
        let found = (quote | escape | control) & HIGH;
        if found != 0 {
            return number * 8 + usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
        }
    }
    let done = eights.len() * 8;
    let rest = rest.get(done..).unwrap_or_default();
    let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    let plain = rest.get(..end).unwrap_or_default();
    // Over all of it rather than to the first: that is done on many bytes at once.
    if plain.iter().fold(u8::MAX, |least, b| least.min(*b)) < 0x20 {
        let control = plain.iter().position(|b| *b < 0x20);
        return done + control.unwrap_or(end);
    }
    done + end
}

/// Returns what is picked of a text that was scrubbed before.
pub(crate) fn read<'t>(text: &'t str, picks: &Picks) -> Result<Vec<Found<'t>>, NotJson> {
    let mut walk = Walk {
        text,
        at: 0,
        depth: 0,
        nested: 0,
        edits: Vec::new(),
        ahead: None,
        found: picks.nothing(),
    };
    walk.whole(Some(picks))?;
    Ok(walk.found)
}

struct Walk<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    nested: usize,
    edits: Vec<Edit>,
    /// `None` where nothing is examined.
    ahead: Option<Ahead>,
    /// What was picked.
    found: Vec<Found<'t>>,
}

/// What a value was.
enum Seen<'t> {
    Text(Cow<'t, str>),
    Other,
}

impl<'t> Walk<'t> {
    /// Reads one value and nothing behind it.
    fn whole(&mut self, picks: Option<&Picks>) -> Result<(), NotJson> {
        self.value(Class::Open, "", picks.map(Picks::root))?;
        self.space();
        if self.at != self.text.len() {
            return Err(self.stop());
        }
        Ok(())
    }

    fn stop(&self) -> NotJson {
        NotJson { at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.peek() != Some(byte) {
            return Err(self.stop());
        }
        self.at += 1;
        Ok(())
    }

    fn mark(&mut self, span: Range<usize>) {
        let with = format!("\"{MARK}\"");
        self.edits.push(Edit { span, with });
    }

    /// Picks a value, if it is one that is wanted.
    fn pick(&mut self, node: Option<&Node>, value: Found<'t>) {
        if let Some(node) = node {
            node.put(&mut self.found, value);
        }
    }

    /// Reads one value that stands under `key`, below a name of `class` and at `node`.
    fn value(&mut self, class: Class, key: &str, node: Option<&Node>) -> Result<Seen<'t>, NotJson> {
        self.space();
        let start = self.at;
        match self.peek() {
            Some(b'{') => {
                self.pick(node, Found::Object);
                self.nest(|walk| walk.object(class, node))?;
                Ok(Seen::Other)
            }
            Some(b'[') => {
                self.pick(node, Found::Other);
                self.nest(|walk| walk.array(class, key))?;
                Ok(Seen::Other)
            }
            Some(b'"') => {
                let text = self.string()?;
                if node.is_some() {
                    self.pick(node, Found::Text(text.clone()));
                }
                if class == Class::Open {
                    self.examine(start, &text);
                } else if !is_harmless(key, &text) {
                    self.mark(start..self.at);
                }
                Ok(Seen::Text(text))
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = self.number()?;
                self.pick(node, number);
                if class != Class::Open {
                    self.mark(start..self.at);
                }
                Ok(Seen::Other)
            }
            Some(b't' | b'f' | b'n') => {
                self.run(|b| b.is_ascii_lowercase());
                self.pick(node, Found::Other);
                match self.text.get(start..self.at) {
                    Some("true" | "false" | "null") => Ok(Seen::Other),
                    _ => Err(self.stop()),
                }
            }
            _ => Err(self.stop()),
        }
    }

    fn run(&mut self, belongs: fn(u8) -> bool) {
        while self.peek().is_some_and(belongs) {
            self.at += 1;
        }
    }

    /// Reads at least one digit.
    fn digits(&mut self) -> Result<(), NotJson> {
        let start = self.at;
        self.run(|b| b.is_ascii_digit());
        if self.at == start {
            return Err(self.stop());
        }
        Ok(())
    }

    /// Reads a number (RFC 8259 section 6).
    fn number(&mut self) -> Result<Found<'t>, NotJson> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let whole = self.text.get(start..self.at).unwrap_or_default();
        let mut found = whole.parse().map_or(Found::Other, Found::Number);
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            found = Found::Other;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
            found = Found::Other;
        }
        Ok(found)
    }

    fn nest(&mut self, body: impl FnOnce(&mut Self) -> Result<(), NotJson>) -> Result<(), NotJson> {
        if self.depth == DEPTH {
            return Err(self.stop());
        }
        self.depth += 1;
        self.at += 1;
        body(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self, class: Class, key: &str) -> Result<(), NotJson> {
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(class, key, None)?;
            self.space();
            if self.peek() == Some(b',') {
                self.at += 1;
            } else {
                return self.expect(b']');
            }
        }
    }

    fn object(&mut self, below: Class, node: Option<&Node>) -> Result<(), NotJson> {
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        // `{"name": "DB_PASSWORD", "value": …}` in either order.
        let mut names_secret = false;
        let mut values = Vec::new();
        // A Kubernetes Secret has its values in `data` or `stringData`.
        let mut is_secret = false;
        let mut contents = Vec::new();
        loop {
            self.space();
            let key_start = self.at;
            let key = self.string()?;
            self.examine(key_start, &key);
            self.space();
            self.expect(b':')?;
            let own = class_of(&key);
            let class = match below {
                Class::Strong => Class::Strong,
                Class::Weak if is_sibling_value(&key) => Class::Strong,
                Class::Weak | Class::Open => own,
            };
            self.space();
            let start = self.at;
            let seen = self.value(class, &key, node.and_then(|node| node.find(&key)))?;
            let literal = matches!(self.text.as_bytes().get(start), Some(b't' | b'f' | b'n'));
            if let Seen::Text(text) = &seen {
                names_secret |= names_a_sibling(&key) && class_of(text) != Class::Open;
                is_secret |= key == "kind" && text == "Secret";
            }
            if is_sibling_value(&key) && !literal {
                values.push(start..self.at);
            }
            if (key == "data" || key == "stringData") && !literal {
                contents.push(start..self.at);
            }
            self.space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect(b'}')?;
            if names_secret {
                values.into_iter().for_each(|span| self.mark(span));
            }
            if is_secret {
                contents.into_iter().for_each(|span| self.mark(span));
            }
            return Ok(());
        }
    }

    /// Reads a string and returns what it says.
    fn string(&mut self) -> Result<Cow<'t, str>, NotJson> {
        let start = self.at;
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            self.at += plain_bytes(rest);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) | None => return Err(self.stop()),
            }
        }
        self.at += 1;
        let quoted = self.text.get(start..self.at).unwrap_or_default();
        if escaped {
            return serde_json::from_str(quoted)
                .map(Cow::Owned)
                .map_err(|_| NotJson { at: start });
        }
        Ok(Cow::Borrowed(
            quoted.get(1..quoted.len() - 1).unwrap_or_default(),
        ))
    }

    /// Looks at the text of a string that ends here, and replaces what shows a secret.
    fn examine(&mut self, start: usize, text: &str) {
        let Some(ahead) = &mut self.ahead else {
            return;
        };
        let opens = text.trim_start().starts_with(['{', '[', '"']);
        let inner = (opens && self.nested < NESTED).then(|| scrub(text, self.nested + 1, None));
        let scrubbed = match inner {
            Some(Ok((scrubbed, _))) => scrubbed,
            Some(Err(_)) | None => {
                // Escapes say something else than what stands there.
                let is_as_written = text.len() + 2 == self.at - start;
                if is_as_written {
                    text::scrub_at(text, start + 1, ahead)
                } else {
                    text::scrub(text)
                }
            }
        };
        if let Cow::Owned(scrubbed) = scrubbed {
            let span = start..self.at;
            let with = serde_json::Value::String(scrubbed).to_string();
            self.edits.push(Edit { span, with });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_string_ends_at_its_first_quote_escape_or_control_character(
            bytes in prop::collection::vec(
                prop_oneof![8 => 0x20u8.., 1 => Just(b'"'), 1 => Just(b'\\'), 1 => ..0x20u8],
                0..80,
            ),
            plain in 0..64usize,
        ) {
            let rest = [vec![b'x'; plain], bytes].concat();
            let ends = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
            let want = rest.iter().position(ends).unwrap_or(rest.len());
            prop_assert_eq!(plain_bytes(&rest), want, "{:?}", rest);
        }
    }
}
