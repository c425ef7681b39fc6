//! Typed ids: one type per noun, printed with a prefix that operators can grep.
//!
//! An id is 16 bytes. It prints as `<prefix>_<26 characters>` in lower-case base32 (RFC 4648
//! section 6 alphabet, no padding), for example `org_mfzwizlnobuxe43fmrqxiylcme`. Parsing is
//! strict: another prefix, another length or an upper-case letter is refused.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Says why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text does not begin with the noun's prefix.
    #[error("expected an id that begins with {expected}_")]
    Prefix {
        /// The prefix that this noun's ids carry.
        expected: &'static str,
    },
    /// The part after the prefix is not 26 base32 characters.
    #[error("expected 26 characters of a-z and 2-7 after {prefix}_")]
    Body {
        /// The prefix that this noun's ids carry.
        prefix: &'static str,
    },
}

fn alphabet() -> Encoding {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.encoding()
        .expect("the alphabet has 32 distinct symbols")
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident => $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The text that every id of this noun begins with, without the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from its 16 bytes, for example those of a UUID version 7.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self { Self(bytes) }

            /// Makes an id that is always the same for the same parts (a truncated BLAKE3 of
            /// their lengths and bytes).
            pub fn derived(parts: &[&[u8]]) -> Self {
                let mut hasher = blake3::Hasher::new_derive_key(concat!("zero-x id ", $prefix));
                for part in parts {
                    hasher.update(&(part.len() as u64).to_le_bytes());
                    hasher.update(part);
                }
                let mut bytes = [0u8; 16];
                hasher.finalize_xof().fill(&mut bytes);
                Self(bytes)
            }

            /// Returns the 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, alphabet().encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let body = text
                    .strip_prefix(concat!($prefix, "_"))
                    .ok_or(IdError::Prefix { expected: $prefix })?;
                let bad = || IdError::Body { prefix: $prefix };
                let bytes = alphabet().decode(body.as_bytes()).map_err(|_| bad())?;
                Ok(Self(bytes.try_into().map_err(|_| bad())?))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    )*};
}

ids! {
    /// An organisation: the border that no data crosses.
    OrgId => "org";
    /// An enrolled agent.
    AgentId => "agt";
    /// A source that one agent reads.
    SourceId => "src";
    /// A resource, derived from its organisation and URN.
    ResourceId => "res";
    /// A finding, derived from organisation, check and URN.
    FindingId => "fnd";
    /// An event, derived from its block and place in it.
    EventId => "evt";
    /// A person who signs in.
    UserId => "usr";
    /// An enrolment token.
    TokenId => "tok";
    /// A legal hold.
    HoldId => "hld";
    /// A signed-in session.
    SessionId => "ses";
    /// One request to the API, printed in errors and logs.
    RequestId => "req";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_refuses_every_other_noun() {
        let id = OrgId::derived(&[b"acme"]);
        let text = id.to_string();
        assert_eq!(text.len(), "org_".len() + 26);
        assert_eq!(text.parse::<OrgId>().unwrap(), id);
        assert_eq!(
            text.parse::<AgentId>(),
            Err(IdError::Prefix { expected: "agt" })
        );
        assert!(text.to_uppercase().parse::<OrgId>().is_err());
        assert!(text[..text.len() - 1].parse::<OrgId>().is_err());
    }

    #[test]
    fn parts_cannot_be_shifted_between_each_other() {
        assert_ne!(
            FindingId::derived(&[b"ab", b"c"]),
            FindingId::derived(&[b"a", b"bc"])
        );
    }

    #[test]
    fn an_id_takes_sixteen_bytes_on_the_wire() {
        let id = AgentId::from_bytes([7; 16]);
        assert_eq!(postcard::to_stdvec(&id).unwrap().len(), 16);
    }
}
