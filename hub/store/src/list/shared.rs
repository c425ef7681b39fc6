//! What rows of a list share, so that a million of them fit into memory: scopes, and the texts of
//! tags in one piece.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use protocol::{Scope, Urn};

/// A scope that all of its rows point to.
#[derive(Debug, PartialEq, Eq)]
pub struct SharedScope {
    scope: Scope,
    text: String,
}

impl SharedScope {
    /// Makes one.
    pub(crate) fn new(scope: Scope) -> Arc<Self> {
        let text = scope.to_string();
        Arc::new(Self { scope, text })
    }
}

impl Deref for SharedScope {
    type Target = Scope;
    fn deref(&self) -> &Scope {
        &self.scope
    }
}

/// A URN as a list holds it. Its order is that of [`Urn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedUrn {
    /// Where the resource lives and what it is.
    pub scope: Arc<SharedScope>,
    /// Its id within the scope.
    pub id: Arc<str>,
}

impl SharedUrn {
    /// Makes one that shares nothing yet.
    pub(crate) fn of(urn: &Urn) -> Self {
        Self {
            scope: SharedScope::new(urn.scope.clone()),
            id: urn.id.as_str().into(),
        }
    }

    /// Returns the URN itself.
    pub fn to_urn(&self) -> Urn {
        self.scope.urn(&self.id)
    }

    /// Returns its text, which is that of the URN.
    pub fn text(&self) -> String {
        Urn::text_of(&self.scope.text, &self.id)
    }
}

impl fmt::Display for SharedUrn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl PartialOrd for SharedUrn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SharedUrn {
    fn cmp(&self, other: &Self) -> Ordering {
        compare((&self.scope, &self.id), (&other.scope, &other.id))
    }
}

/// Compares two URNs by their parts, without a look at a scope that is the same.
pub(crate) fn compare(one: (&Scope, &str), other: (&Scope, &str)) -> Ordering {
    let scopes = if std::ptr::eq(one.0, other.0) {
        Ordering::Equal
    } else {
        one.0.cmp(other.0)
    };
    scopes.then_with(|| one.1.cmp(other.1))
}

/// Tags in one piece of memory.
///
/// ```text
/// length of key, u32 LE ‖ length of value ‖ key ‖ value ‖ the next
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tags(Option<Arc<[u8]>>);

impl Tags {
    /// Packs tags.
    pub(crate) fn of<'t>(tags: impl Iterator<Item = (&'t str, &'t str)>) -> Self {
        let mut packed = Vec::new();
        for (key, value) in tags {
            let lengths = (u32::try_from(key.len()), u32::try_from(value.len()));
            // Longer than any document.
            let (Ok(key_bytes), Ok(value_bytes)) = lengths else {
                continue;
            };
            packed.extend_from_slice(&key_bytes.to_le_bytes());
            packed.extend_from_slice(&value_bytes.to_le_bytes());
            packed.extend_from_slice(key.as_bytes());
            packed.extend_from_slice(value.as_bytes());
        }
        Self((!packed.is_empty()).then(|| packed.into()))
    }

    /// Returns every key with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.0.as_deref().unwrap_or_default();
        std::iter::from_fn(move || {
            let (key_bytes, after) = length(rest)?;
            let (value_bytes, after) = length(after)?;
            let (key, after) = after.split_at_checked(key_bytes)?;
            let (value, after) = after.split_at_checked(value_bytes)?;
            rest = after;
            Some((
                std::str::from_utf8(key).ok()?,
                std::str::from_utf8(value).ok()?,
            ))
        })
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter()
            .find_map(|(own, value)| (own == key).then_some(value))
    }
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn tags_are_what_was_packed(tags in proptest::collection::btree_map(".{0,9}", ".{0,9}", 0..6)) {
            let packed = Tags::of(tags.iter().map(|(k, v)| (k.as_str(), v.as_str())));
            let found: BTreeMap<String, String> =
                packed.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(&found, &tags);
            for (key, value) in &tags {
                prop_assert_eq!(packed.get(key), Some(value.as_str()));
            }
            prop_assert_eq!(packed.get("no such key"), None);
        }

        #[test]
        fn a_shared_urn_reads_and_sorts_as_the_urn(
            one in ("[a-c]{1,2}", "[ab/%é]{1,3}"), other in ("[a-c]{1,2}", "[ab/%é]{1,3}"),
        ) {
            let [one, other] = [one, other].map(|(account, id)| {
                Scope::of_type("aws.ec2.vpc", &account, "r").urn(&id)
            });
            let shared = [&one, &other].map(SharedUrn::of);
            prop_assert_eq!(shared[0].to_string(), one.to_string());
            prop_assert_eq!(shared[0].to_urn(), one.clone());
            prop_assert_eq!(shared[0].cmp(&shared[1]), one.cmp(&other));
            let same = SharedUrn { scope: Arc::clone(&shared[0].scope), id: shared[1].id.clone() };
            let urn = one.scope.urn(&other.id);
            prop_assert_eq!(same.cmp(&shared[0]), urn.cmp(&one));
        }
    }
}
