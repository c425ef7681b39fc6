//! The shapes of secrets: what each kind of source takes from `--secret-file`.

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Kind;

/// Says why a secret cannot be used. Never repeats a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SecretError {
    /// The kind needs none.
    #[error("{} sources take no secret", kind.name())]
    None { kind: Kind },
    /// It is not of the shape that the kind needs.
    #[error("expected {expected}")]
    Shape { expected: &'static str },
}

/// A long-lived or temporary AWS key.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(crate) struct AwsKeys {
    /// The key's id, which is not secret.
    #[serde(alias = "aws_access_key_id", alias = "AccessKeyId")]
    pub(crate) access_key_id: String,
    /// The key.
    #[serde(alias = "aws_secret_access_key", alias = "SecretAccessKey")]
    pub(crate) secret_access_key: String,
    /// The token of a temporary key.
    #[serde(default, alias = "aws_session_token", alias = "SessionToken")]
    pub(crate) session_token: Option<String>,
}

const AWS: &str = "access_key_id and secret_access_key (and session_token), as JSON or as \
                   `name = value` lines";
const GCP: &str = "a Google credentials file: JSON with a \"type\"";
const AZURE: &str = "a client secret: one line of text";

/// Checks a secret for a source of `kind` and returns it in the form in which the vault keeps it.
///
/// # Errors
///
/// When the kind takes none or another shape.
pub(crate) fn read_secret(
    kind: Kind,
    given: &SecretSlice<u8>,
) -> Result<SecretSlice<u8>, SecretError> {
    let shape = |expected| SecretError::Shape { expected };
    match kind {
        Kind::Aws => {
            let keys = aws_keys(given.expose_secret()).ok_or(shape(AWS))?;
            let json = serde_json::to_vec(&keys).expect("plain structs always serialise");
            Ok(SecretSlice::from(json))
        }
        Kind::Gcp => {
            #[derive(Deserialize)]
            struct Typed {
                #[serde(rename = "type")]
                _kind: String,
            }
            match serde_json::from_slice::<Typed>(given.expose_secret()) {
                Ok(_) => Ok(SecretSlice::from(given.expose_secret().to_vec())),
                Err(_) => Err(shape(GCP)),
            }
        }
        Kind::Azure => {
            let text = std::str::from_utf8(given.expose_secret());
            let text = text.map_err(|_| shape(AZURE))?.trim();
            if text.is_empty() || text.contains(char::is_whitespace) {
                return Err(shape(AZURE));
            }
            Ok(SecretSlice::from(text.as_bytes().to_vec()))
        }
        Kind::Host | Kind::Wazuh => Err(SecretError::None { kind }),
    }
}

fn aws_keys(bytes: &[u8]) -> Option<AwsKeys> {
    if let Ok(keys) = AwsKeys::from_vault(bytes) {
        return Some(keys);
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let mut keys = AwsKeys {
        access_key_id: String::new(),
        secret_access_key: String::new(),
        session_token: None,
    };
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let (name, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let name = name.trim().trim_start_matches("export ").to_lowercase();
        match name.trim_start_matches("aws_") {
            "access_key_id" => keys.access_key_id = value.to_owned(),
            "secret_access_key" => keys.secret_access_key = value.to_owned(),
            "session_token" => keys.session_token = Some(value.to_owned()),
            "region" | "output" => {}
            _ => return None,
        }
    }
    (!keys.access_key_id.is_empty() && !keys.secret_access_key.is_empty()).then_some(keys)
}

impl AwsKeys {
    /// Reads what [`read_secret`] made.
    ///
    /// # Errors
    ///
    /// When the bytes are something else.
    pub(crate) fn from_vault(bytes: &[u8]) -> Result<Self, SecretError> {
        serde_json::from_slice(bytes).map_err(|_| SecretError::Shape { expected: AWS })
    }

    /// Returns the key as a secret text.
    pub(crate) fn secret(&self) -> SecretString {
        SecretString::from(Zeroizing::new(self.secret_access_key.clone()).as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> SecretSlice<u8> {
        SecretSlice::from(text.as_bytes().to_vec())
    }

    #[test]
    fn a_key_is_read_from_json_from_a_profile_and_from_shell_lines() {
        for text in [
            r#"{"access_key_id":"AKIA","secret_access_key":"s"}"#,
            r#"{"AccessKeyId":"AKIA","SecretAccessKey":"s"}"#,
            "[default]\naws_access_key_id = AKIA\naws_secret_access_key = s\nregion = x\n",
            "export AWS_ACCESS_KEY_ID=AKIA\nexport AWS_SECRET_ACCESS_KEY=\"s\"\n",
        ] {
            let kept = read_secret(Kind::Aws, &given(text)).unwrap();
            let keys = AwsKeys::from_vault(kept.expose_secret()).unwrap();
            let read = (keys.access_key_id.as_str(), keys.secret_access_key.as_str());
            assert_eq!(read, ("AKIA", "s"), "{text}");
        }
    }

    #[test]
    fn a_secret_of_another_shape_is_refused_without_repeating_it() {
        for (kind, text) in [
            (Kind::Aws, "canary"),
            (Kind::Aws, "access_key_id=canary"),
            (Kind::Gcp, "canary"),
            (Kind::Azure, "canary canary"),
            (Kind::Host, "canary"),
        ] {
            let error = read_secret(kind, &given(text)).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
