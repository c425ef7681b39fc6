//! Typed rows: what callers read and write. How each is encoded is `codec`'s business.
//!
//! Instants are UTC with microsecond precision. Nothing in here is a secret; what is (keys,
//! password hashes, session values) lives in [`access`] and has a masked `Debug`.

pub mod access;
pub mod audit;
pub mod carried;
pub mod event;
pub mod finding;
pub mod resource;
pub mod retention;
pub mod verdict;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Words that API, filters and stored rows share. Their order is part of the row format: a golden
/// row in the tests fails when it changes.
pub use protocol::api::{FindingStatus, Role, Severity, Verdict};

/// Says that a text is not one of the allowed words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}", allowed.join(", "))]
pub struct WordError {
    /// The allowed words.
    pub allowed: &'static [&'static str],
}

/// Makes an enum whose text form is the same in JSON, in `Display` and in `FromStr`.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the word that CONTRACT uses.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.word()) }
        }

        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(WordError { allowed: &[$($word,)*] }),
                }
            }
        }
    )*};
}

words! {
    /// Whether an agent may speak.
    AgentState {
        /// It may.
        Active = "active",
        /// It is told to go away and to try again later.
        Suspended = "suspended",
        /// It is refused for good.
        Revoked = "revoked",
        /// Two machines spoke with its identity; a person must decide.
        Quarantined = "quarantined",
    }
    /// Whether a source works.
    SourceState {
        /// Registered, not synchronised yet.
        New = "new",
        /// The last sync read everything it wanted.
        Ok = "ok",
        /// Some calls of the last sync failed.
        Partial = "partial",
        /// The last sync could not run.
        Failed = "failed",
        /// Removed at the agent; its data stays until retention or purge.
        Removed = "removed",
    }
}

/// Postcard carries no free-form JSON, so such a part travels as its text.
pub(crate) mod json_text {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(value).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}

/// Shorthand for the two ways an instant is stored: microseconds since 1970 as an integer.
pub(crate) use jiff::fmt::serde::timestamp::microsecond::{optional as maybe_at, required as at};
