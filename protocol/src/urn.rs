//! Resource names and the scopes that contain them.
//!
//! ```text
//! scope   provider/account/region/type            aws/123456789012/us-east-1/ec2.security-group
//! urn     provider/account/region/type/id         aws/123456789012/us-east-1/ec2.security-group/sg-0abc
//! ```
//! `region` is `global` where a type has none; `type` is the resource type without its provider.
//! Each part is percent-encoded, so a slash inside an id never reads as a separator.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

/// What is encoded inside a part: separators, the escape itself, white space and controls.
const PART: &AsciiSet = &CONTROLS
    .add(b'/')
    .add(b'%')
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'?')
    .add(b'#');

/// Says why a text is neither a URN nor a scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrnError {
    /// The number of parts is wrong.
    #[error("expected {expected}, separated by slashes; found {found} parts")]
    Parts {
        /// The form that was expected.
        expected: &'static str,
        /// How many parts the text has.
        found: usize,
    },
    /// A part is empty.
    #[error("the part {part} is empty")]
    Empty {
        /// Which part.
        part: &'static str,
    },
    /// A part is not percent-encoded UTF-8.
    #[error("the part {part} is not percent-encoded UTF-8")]
    Encoding {
        /// Which part.
        part: &'static str,
    },
    /// The provider is not lower-case letters.
    #[error("the provider must be lower-case letters")]
    Provider,
    /// The text is longer than [`limits::URN_BYTES`].
    #[error("longer than {} bytes", limits::URN_BYTES)]
    TooLong,
}

/// An account × region × resource type: what one sweep covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Cloud or host family, lower case: `aws`, `gcp`, `azure`, `host`.
    pub provider: String,
    /// Account number, project id, subscription id or host name.
    pub account: String,
    /// Region, or `global`.
    pub region: String,
    /// Resource type without its provider: `ec2.security-group`.
    pub kind: String,
}

impl Scope {
    /// Makes a scope of a full resource type name such as `aws.ec2.security-group`.
    pub fn of_type(type_name: &str, account: &str, region: &str) -> Self {
        let (provider, kind) = type_name.split_once('.').unwrap_or((type_name, ""));
        Self {
            provider: provider.to_owned(),
            account: account.to_owned(),
            region: region.to_owned(),
            kind: kind.to_owned(),
        }
    }

    /// Returns the full resource type name, `aws.ec2.security-group`.
    pub fn type_name(&self) -> String {
        format!("{}.{}", self.provider, self.kind)
    }

    /// Returns the URN of a resource of this scope.
    pub fn urn(&self, id: &str) -> Urn {
        Urn {
            scope: self.clone(),
            id: id.to_owned(),
        }
    }
}

/// The name of one resource, stable for its life.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Urn {
    /// Where the resource lives and what it is.
    pub scope: Scope,
    /// Its id within the scope, as the provider gives it.
    pub id: String,
}

fn write_part(f: &mut fmt::Formatter<'_>, part: &str) -> fmt::Result {
    fmt::Display::fmt(&utf8_percent_encode(part, PART), f)
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_part(f, &self.provider)?;
        for part in [&self.account, &self.region, &self.kind] {
            f.write_str("/")?;
            write_part(f, part)?;
        }
        Ok(())
    }
}

impl Urn {
    /// Returns the text of the URN of an id in a scope whose text is known.
    pub fn text_of(scope_text: &str, id: &str) -> String {
        let mut text = String::with_capacity(scope_text.len() + 1 + id.len());
        text.push_str(scope_text);
        text.push('/');
        text.extend(utf8_percent_encode(id, PART));
        text
    }
}

impl fmt::Display for Urn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.scope)?;
        write_part(f, &self.id)
    }
}

fn read_part(text: &str, part: &'static str) -> Result<String, UrnError> {
    if text.is_empty() {
        return Err(UrnError::Empty { part });
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| UrnError::Encoding { part })
}

fn read_scope(parts: [&str; 4]) -> Result<Scope, UrnError> {
    let [provider, account, region, kind] = parts;
    let provider = read_part(provider, "provider")?;
    if !provider.bytes().all(|b| b.is_ascii_lowercase()) {
        return Err(UrnError::Provider);
    }
    Ok(Scope {
        provider,
        account: read_part(account, "account")?,
        region: read_part(region, "region")?,
        kind: read_part(kind, "type")?,
    })
}

impl FromStr for Scope {
    type Err = UrnError;
    fn from_str(text: &str) -> Result<Self, UrnError> {
        if text.len() > limits::URN_BYTES {
            return Err(UrnError::TooLong);
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            &[provider, account, region, kind] => read_scope([provider, account, region, kind]),
            other => Err(UrnError::Parts {
                expected: "provider/account/region/type",
                found: other.len(),
            }),
        }
    }
}

impl FromStr for Urn {
    type Err = UrnError;
    fn from_str(text: &str) -> Result<Self, UrnError> {
        if text.len() > limits::URN_BYTES {
            return Err(UrnError::TooLong);
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            &[provider, account, region, kind, id] => Ok(Self {
                scope: read_scope([provider, account, region, kind])?,
                id: read_part(id, "id")?,
            }),
            other => Err(UrnError::Parts {
                expected: "provider/account/region/type/id",
                found: other.len(),
            }),
        }
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Scope, Urn);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slash_inside_an_id_is_not_a_separator() {
        let urn = Scope::of_type("aws.iam.role", "123456789012", "global").urn("path/to role");
        assert_eq!(
            urn.to_string(),
            "aws/123456789012/global/iam.role/path%2Fto%20role"
        );
        assert_eq!(urn.to_string().parse::<Urn>().unwrap(), urn);
    }

    #[test]
    fn malformed_names_are_refused_with_the_reason() {
        let check = |text: &str, want: &str| {
            assert_eq!(text.parse::<Urn>().unwrap_err().to_string(), want);
        };
        check(
            "aws/1/r/t",
            "expected provider/account/region/type/id, separated by slashes; found 4 parts",
        );
        check("aws//r/t/i", "the part account is empty");
        check("AWS/1/r/t/i", "the provider must be lower-case letters");
        check("aws/1/r/t/%ff", "the part id is not percent-encoded UTF-8");
        check(
            &format!("aws/1/r/t/{}", "a".repeat(5000)),
            "longer than 4096 bytes",
        );
    }

    proptest! {
        #[test]
        fn every_urn_survives_its_text(account in ".{1,40}", region in ".{1,20}", id in ".{1,200}") {
            let urn = Urn {
                scope: Scope { provider: "aws".into(), account, region, kind: "ec2.vpc".into() },
                id,
            };
            prop_assume!(urn.to_string().len() <= limits::URN_BYTES);
            prop_assert_eq!(urn.to_string().parse::<Urn>().unwrap(), urn);
        }
    }
}
