//! Detectors of secrets, run on the agent over text that must not leave it.
//!
//! A field of class `secret` (user data, environments, parameters) is handed to a [`Detector`];
//! what it returns, a list of `{kind, place, fingerprint}`, takes the text's place in the
//! document. The fingerprint is a keyed hash, so equal secrets can be recognised as equal and
//! nobody without the agent's key can try guesses against it.
//!
//! Looks for what the field's own tools look for (provider tokens by their prefixes, key blocks,
//! connection strings, assignments to names like `*_PASSWORD`), in the text, in base64 inside it
//! and in gzip inside that. Deliberately does not verify a secret against its provider.

mod assignment;
mod encoded;
mod expression;
mod pattern;
mod placeholder;

use std::fmt;

use serde_json::{Value, json};

use encoded::{Part, parts};

/// Most findings of one text. A text with more is one big leak; the list is cut there.
const FINDINGS: usize = 200;

/// Largest text that is examined, in bytes, after decompression. EC2 user data is at most 16 KiB
/// before base64, an SSM document 64 KiB.
pub const TEXT_BYTES: usize = 1 << 20;

/// How often base64 or gzip inside another is opened: a compressed MIME part that holds a script
/// that holds a file.
const DEPTH: usize = 4;

/// Says why a text could not be examined: the field is then a gap, not an empty list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unexamined {
    /// It holds a compressed part that cannot be opened, and nothing was found in the rest.
    #[error("compressed")]
    Compressed,
    /// It is longer than [`TEXT_BYTES`], or deeper than is opened, and nothing was found in the
    /// part that was examined.
    #[error("too long")]
    TooLong,
}

/// One secret within a text, while it is still known where it stands.
struct Hit<'t> {
    kind: &'static str,
    start: usize,
    end: usize,
    secret: &'t str,
}

/// Finds secrets and replaces them by their fingerprints.
pub struct Detector {
    fingerprint_key: [u8; 32],
}

impl fmt::Debug for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detector").finish_non_exhaustive()
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.fingerprint_key);
    }
}

/// What a walk through a text and its encoded parts has found.
#[derive(Default)]
struct Findings {
    found: Vec<Value>,
    unexamined: Option<Unexamined>,
    /// Bytes examined so far, all parts together: what bounds a nest of bombs.
    examined: usize,
}

/// Where a text stands in the one that was handed over.
#[derive(Clone, Copy)]
struct Place<'p> {
    outer: Option<&'p str>,
    depth: usize,
}

impl Detector {
    /// Makes a detector whose fingerprints only holders of the same key can compare.
    pub fn new(fingerprint_key: [u8; 32]) -> Self {
        Self { fingerprint_key }
    }

    /// Returns what was found in `text`, in the order of its lines: a list of
    /// `{"kind", "place", "fingerprint"}`. The place is `line 3`, with `, encoded` where the
    /// secret stood inside base64 or gzip on that line.
    ///
    /// Skips what cannot be examined; [`Detector::examine_bytes`] tells when that hid something.
    pub fn examine(&self, text: &str) -> Value {
        let mut findings = Findings::default();
        let place = Place {
            outer: None,
            depth: 0,
        };
        self.walk(text, place, &mut findings);
        Value::Array(findings.found)
    }

    /// Returns what was found in bytes that a provider keeps, such as decoded user data.
    ///
    /// # Errors
    ///
    /// When a part could not be examined and nothing was found in the rest: an empty list would
    /// then say more than is known.
    pub fn examine_bytes(&self, bytes: &[u8]) -> Result<Value, Unexamined> {
        let mut findings = Findings::default();
        match encoded::open(bytes) {
            Part::Text(text) => {
                let place = Place {
                    outer: None,
                    depth: 0,
                };
                self.walk(&text, place, &mut findings);
            }
            Part::Sealed(unexamined) => return Err(unexamined),
            // No part of a text: what was handed over is binary, and holds what strings show.
            Part::Binary => {
                let text = String::from_utf8_lossy(bytes);
                let place = Place {
                    outer: None,
                    depth: 0,
                };
                self.walk(&text, place, &mut findings);
            }
        }
        match findings.unexamined {
            Some(unexamined) if findings.found.is_empty() => Err(unexamined),
            _ => Ok(Value::Array(findings.found)),
        }
    }

    /// Returns what was found in named values, such as a function's environment. The place is the
    /// variable's name.
    pub fn examine_variables<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, &'v str)>,
    ) -> Value {
        let mut list = Vec::new();
        for (name, value) in variables {
            // The name takes part in the decision, and quotes keep a value of several words whole.
            let quoted = format!("{name}=\"{}\"", value.replace('"', "'"));
            let mut findings = Findings::default();
            let place = Place {
                outer: Some(name),
                depth: 0,
            };
            self.walk(&quoted, place, &mut findings);
            list.extend(findings.found);
        }
        list.truncate(FINDINGS);
        Value::Array(list)
    }

    /// Returns the fingerprint of a secret: 16 bytes of a keyed BLAKE3 hash, in hex.
    pub fn fingerprint(&self, secret: &str) -> String {
        let hash = blake3::keyed_hash(&self.fingerprint_key, secret.as_bytes());
        hash.to_hex().chars().take(32).collect()
    }

    fn walk(&self, whole: &str, place: Place<'_>, findings: &mut Findings) {
        let left = TEXT_BYTES.saturating_sub(findings.examined);
        let text = head(whole, left);
        findings.examined += text.len();
        if text.len() < whole.len() {
            findings.unexamined = Some(Unexamined::TooLong);
        }
        let mut hits = pattern::find(text);
        for hit in assignment::find(text) {
            let taken = |known: &Hit<'_>| known.start < hit.end && hit.start < known.end;
            if !hits.iter().any(taken) {
                hits.push(hit);
            }
        }
        hits.sort_by_key(|hit| hit.start);
        let lines = Lines::of(text);
        for hit in hits {
            let at = place.at(lines.number(hit.start));
            // A key block reads the same with other line breaks; everything else has none.
            let secret: String = hit.secret.split_whitespace().collect();
            let found = json!({
                "kind": hit.kind,
                "place": at,
                "fingerprint": self.fingerprint(&secret),
            });
            if !findings.found.contains(&found) && findings.found.len() < FINDINGS {
                findings.found.push(found);
            }
        }
        for (start, part) in parts(text) {
            match part {
                Part::Binary => {}
                Part::Sealed(unexamined) => findings.unexamined = Some(unexamined),
                Part::Text(_) if place.depth == DEPTH => {
                    findings.unexamined = Some(Unexamined::TooLong);
                }
                Part::Text(inner) => {
                    let line = format!("line {}", lines.number(start));
                    let inside = Place {
                        outer: Some(place.outer.unwrap_or(&line)),
                        depth: place.depth + 1,
                    };
                    self.walk(&inner, inside, findings);
                }
            }
        }
    }
}

impl Place<'_> {
    fn at(&self, line: usize) -> String {
        match (self.outer, self.depth) {
            (Some(outer), 0) => outer.to_owned(),
            (Some(outer), _) => format!("{outer}, encoded"),
            (None, _) => format!("line {line}"),
        }
    }
}

/// Byte offsets at which lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(breaks).collect())
    }

    /// Returns the number of the line that holds the byte at `offset`, from 1.
    fn number(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}

/// Returns the first `bytes` of a text, cut between characters.
fn head(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
#[path = "secrets/tests.rs"]
mod tests;
