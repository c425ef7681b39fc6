//! Text inside text: base64 in scripts and MIME parts, gzip in user data.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use flate2::read::MultiGzDecoder;

use super::{TEXT_BYTES, Unexamined};

/// Shortest run of base64 that is opened, in characters. Shorter ones hold too little to matter
/// and are often plain words.
const BASE64_CHARS: usize = 40;

/// First bytes of a gzip stream. Source: RFC 1952, 2.3.1.
pub(super) const GZIP: [u8; 2] = [0x1f, 0x8b];

/// How often gzip directly inside gzip is opened.
const GZIP_DEPTH: usize = 2;

/// What decoded bytes are.
#[derive(Debug, PartialEq)]
pub(super) enum Part {
    /// Text that can be examined.
    Text(String),
    /// Something that nobody wrote: an image, a key in binary, chance.
    Binary,
    /// Compressed, and it cannot be opened within bounds.
    Sealed(Unexamined),
}

/// Returns what bytes are, with gzip opened.
pub(super) fn open(bytes: &[u8]) -> Part {
    let mut unpacked: Option<Vec<u8>> = None;
    for _ in 0..=GZIP_DEPTH {
        let bytes = unpacked.as_deref().unwrap_or(bytes);
        if !bytes.starts_with(&GZIP) {
            return match readable(bytes) {
                Some(text) => Part::Text(text),
                None => Part::Binary,
            };
        }
        let mut plain = Vec::new();
        let bound = u64::try_from(TEXT_BYTES).unwrap_or(u64::MAX);
        let mut reader = MultiGzDecoder::new(bytes).take(bound + 1);
        if reader.read_to_end(&mut plain).is_err() {
            return Part::Sealed(Unexamined::Compressed);
        }
        if plain.len() > TEXT_BYTES {
            return Part::Sealed(Unexamined::TooLong);
        }
        unpacked = Some(plain);
    }
    Part::Sealed(Unexamined::Compressed)
}

/// Returns bytes as the text that a person wrote. PowerShell scripts are often UTF-16 with a byte
/// order mark. Random bytes are practically never all printable.
fn readable(bytes: &[u8]) -> Option<String> {
    let wide = |to: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).skip(1);
        let units = units.filter_map(|pair| pair.try_into().ok().map(to));
        String::from_utf16(&units.collect::<Vec<u16>>()).ok()
    };
    let text = match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        bytes => std::str::from_utf8(bytes).ok().map(str::to_owned),
    }?;
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    text.chars().all(printable).then_some(text)
}

/// Returns the decoded runs of base64 in a text, with the offset of each. Runs go on over line
/// breaks when every line of them is nothing but base64, as MIME writes them.
pub(super) fn parts(text: &str) -> Vec<(usize, Part)> {
    let is_sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let mut runs: Vec<(usize, String)> = Vec::new();
    let mut open_run: Option<(usize, String)> = None;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let whole = !trimmed.is_empty() && trimmed.chars().all(is_sign);
        match (&mut open_run, whole) {
            (Some((_, run)), true) => run.push_str(trimmed),
            (None, true) if trimmed.len() >= BASE64_CHARS => {
                open_run = Some((offset, trimmed.to_owned()));
            }
            (_, _) => {
                runs.extend(open_run.take());
                let mut at = 0;
                for part in line.split(|c: char| !is_sign(c)) {
                    // `NAME=cGF5bG9hZA==`: only what stands behind the sign is encoded.
                    let unpadded = part.trim_end_matches('=');
                    let run = unpadded.rsplit('=').next().unwrap_or_default();
                    if run.len() >= BASE64_CHARS {
                        runs.push((offset + at, run.to_owned()));
                    }
                    at += part.len() + 1;
                }
            }
        }
        offset += line.len();
    }
    runs.extend(open_run);
    let decode = |(at, run): (usize, String)| {
        let bytes = STANDARD_NO_PAD.decode(run.trim_end_matches('=')).ok()?;
        Some((at, open(&bytes)))
    };
    runs.into_iter().filter_map(decode).collect()
}
