//! Looks for planted secrets in whatever encoding they may have been written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// A planted text that must not be found.
#[derive(Debug, Clone)]
pub struct Canary {
    text: String,
    needles: Vec<Vec<u8>>,
}

impl Canary {
    /// Prepares the forms in which `text` could hide.
    ///
    /// # Panics
    /// When `text` is shorter than 8 bytes: it would be found by chance.
    #[must_use]
    pub fn new(text: &str) -> Self {
        assert!(text.len() >= 8, "too short to be a canary: {text}");
        let bytes = text.as_bytes();
        let mut needles = vec![
            bytes.to_vec(),
            HEXLOWER.encode(bytes).into_bytes(),
            HEXUPPER.encode(bytes).into_bytes(),
            text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ];
        // Base64 depends on where in its group of three bytes the text starts; the characters that hold only bits of the
        // text are the same whatever stands around it.
        for shift in 0..3 {
            let padded = [vec![0_u8; shift], bytes.to_vec()].concat();
            let whole = padded.get(..padded.len() / 3 * 3).unwrap_or_default();
            for encoding in [&BASE64, &BASE64URL_NOPAD] {
                let encoded = encoding.encode(whole);
                needles.push(
                    encoded
                        .get(if shift == 0 { 0 } else { 4 }..)
                        .unwrap_or_default()
                        .into(),
                );
            }
        }
        Self {
            text: text.to_owned(),
            needles,
        }
    }

    /// Whether the canary is in `bytes`, in any form.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.needles.iter().any(|needle| contains(bytes, needle))
    }

    /// The planted text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Names the files below `folder` that hold one of `canaries`, and which.
///
/// # Errors
/// When a file cannot be read.
pub fn in_files(folder: &Path, canaries: &[Canary]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    crate::files(folder, &mut files)?;
    anyhow::ensure!(!files.is_empty(), "no file below {}", folder.display());
    let mut found = Vec::new();
    for file in files {
        let bytes =
            fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
        for canary in canaries.iter().filter(|canary| canary.is_in(&bytes)) {
            found.push(format!("{} holds {}", file.display(), canary.text));
        }
    }
    Ok(found)
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((&first, rest)) = needle.split_first() else {
        return false;
    };
    let mut left = bytes;
    while let Some(at) = left.iter().position(|&byte| byte == first) {
        left = left.get(at + 1..).unwrap_or_default();
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, HEXLOWER};

    use super::{Canary, in_files};

    #[test]
    fn a_canary_is_found_in_every_encoding_and_at_every_offset() {
        let canary = Canary::new("s3cret-canary");
        for before in ["", "x", "xy", "xyz"] {
            let text = format!("{before}s3cret-canary, and more");
            assert!(canary.is_in(text.as_bytes()), "{text}");
            assert!(
                canary.is_in(BASE64.encode(text.as_bytes()).as_bytes()),
                "base64 of {text}"
            );
            assert!(
                canary.is_in(HEXLOWER.encode(text.as_bytes()).as_bytes()),
                "hex of {text}"
            );
        }
        assert!(!canary.is_in(b"s3cret-canarx"));
        assert!(!canary.is_in(BASE64.encode(b"s3cret-kanary and more").as_bytes()));
    }

    #[test]
    fn a_file_with_a_canary_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("deep/file"), b"..s3cret-canary..").unwrap();
        std::fs::write(folder.path().join("other"), b"nothing").unwrap();
        let found = in_files(folder.path(), &[Canary::new("s3cret-canary")]).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("deep/file"), "{found:?}");
    }
}
