//! One resource document: what an agent read about one resource, and what it could not read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::urn::Urn;

/// A resource as its agent saw it (CONTRACT, "Facts").
///
/// A declared field is in exactly one of three states: it has a value; it was read and is absent
/// (`null`); or it was not read, and then it is missing from `config` and explained in `gaps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Document {
    /// Stable name of the resource.
    #[schema(value_type = String)]
    pub urn: Urn,
    /// Full resource type, `aws.ec2.security-group`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// `aws`, `gcp`, `azure`, `host`.
    pub provider: String,
    /// Account number, project, subscription or host.
    pub account: String,
    /// Region, or `global`.
    pub region: String,
    /// Id within account, region and type.
    pub id: String,
    /// The provider's own full name (ARN, self link, resource id).
    pub native_id: String,
    /// Display name; the id where there is none.
    pub name: String,
    /// Tags or labels; `None` when they were not read (then `gaps` has `tags`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// Declared fields under the provider's own names.
    #[schema(value_type = Object)]
    pub config: Value,
    /// Why fields are missing, by path (`config.Policy`, `tags`).
    #[serde(default)]
    pub gaps: BTreeMap<String, Gap>,
    /// Resources this one refers to.
    #[serde(default)]
    pub links: Vec<Link>,
    /// When the agent had read the whole document.
    #[schema(value_type = String, format = DateTime)]
    pub collected_at: Timestamp,
}

/// A field that could not be read: which call, and what the provider answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// Service and operation, `s3:GetBucketPolicy`.
    pub call: String,
    /// The provider's error code, `AccessDenied`, or our own lower-case reason.
    pub error: String,
}

/// A reference from one resource to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// The relation as the type declares it, `in_vpc`.
    pub rel: String,
    /// The resource referred to.
    #[schema(value_type = String)]
    pub urn: Urn,
}

/// 32 bytes that name the content of a document.
pub type ContentHash = [u8; 32];

impl Document {
    /// Returns the hash of everything but `collected_at`: two reads of an unchanged resource
    /// hash alike.
    ///
    /// The input is the JSON text with keys sorted (`serde_json`'s map is ordered) and gaps
    /// included, so losing the right to read a field is a change.
    pub fn content_hash(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key("zero-x document content 1");
        let parts: [&dyn erased::Json; 10] = [
            &self.urn,
            &self.type_name,
            &self.native_id,
            &self.name,
            &self.tags,
            &self.config,
            &self.gaps,
            &self.links,
            &self.account,
            &self.region,
        ];
        for part in parts {
            let text = part.json();
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

mod erased {
    /// JSON text of any part of a document; none of them can fail to serialise.
    pub(super) trait Json {
        fn json(&self) -> String;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> String {
            serde_json::to_string(self).expect("documents have string keys and finite numbers")
        }
    }
}

/// An order-free hash of a set of resources, with its size.
///
/// The sum, in four 64-bit lanes with wrap-around, of the hash of each member's URN and content.
/// Members can be added and removed in any order; two sets with equal size and sum are the same
/// set unless somebody found a collision on purpose, and an agent speaks only for its own
/// accounts, so it would deceive nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetHash {
    /// Members.
    pub count: u64,
    /// Sum of the members' hashes.
    pub sum: [u64; 4],
}

impl SetHash {
    fn member(urn: &str, content: &ContentHash) -> [u64; 4] {
        let mut hasher = blake3::Hasher::new_derive_key("zero-x set member 1");
        hasher.update(urn.as_bytes());
        hasher.update(content);
        let mut lanes = [0u64; 4];
        let hash = hasher.finalize();
        for (lane, bytes) in lanes.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            *lane = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        }
        lanes
    }

    /// Adds a member.
    pub fn add(&mut self, urn: &str, content: &ContentHash) {
        self.count += 1;
        for (lane, value) in self.sum.iter_mut().zip(Self::member(urn, content)) {
            *lane = lane.wrapping_add(value);
        }
    }

    /// Removes a member that was added before.
    pub fn remove(&mut self, urn: &str, content: &ContentHash) {
        self.count = self.count.saturating_sub(1);
        for (lane, value) in self.sum.iter_mut().zip(Self::member(urn, content)) {
            *lane = lane.wrapping_sub(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document() -> Document {
        let urn: Urn = "aws/123456789012/us-east-1/ec2.vpc/vpc-1".parse().unwrap();
        Document {
            type_name: "aws.ec2.vpc".into(),
            provider: "aws".into(),
            account: "123456789012".into(),
            region: "us-east-1".into(),
            id: "vpc-1".into(),
            native_id: "arn:aws:ec2:us-east-1:123456789012:vpc/vpc-1".into(),
            name: "main".into(),
            tags: Some(BTreeMap::new()),
            config: serde_json::json!({"CidrBlock": "10.0.0.0/16"}),
            gaps: BTreeMap::new(),
            links: vec![],
            collected_at: Timestamp::UNIX_EPOCH,
            urn,
        }
    }

    #[test]
    fn a_later_read_of_the_same_facts_has_the_same_hash() {
        let first = document();
        let mut second = first.clone();
        second.collected_at = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(first.content_hash(), second.content_hash());
    }

    #[test]
    fn losing_the_right_to_read_a_field_is_a_change() {
        let first = document();
        let mut second = first.clone();
        let gap = Gap {
            call: "ec2:DescribeVpcs".into(),
            error: "AccessDenied".into(),
        };
        second.gaps.insert("config.CidrBlock".into(), gap);
        assert_ne!(first.content_hash(), second.content_hash());
    }

    proptest! {
        #[test]
        fn a_set_hash_forgets_the_order_and_what_was_removed(
            names in proptest::collection::btree_set("[a-z]{1,8}", 1..20),
        ) {
            let content = |name: &str| *blake3::hash(name.as_bytes()).as_bytes();
            let mut forwards = SetHash::default();
            for name in &names { forwards.add(name, &content(name)); }
            forwards.add("extra", &content("extra"));
            let mut backwards = SetHash::default();
            for name in names.iter().rev() { backwards.add(name, &content(name)); }
            prop_assert_ne!(forwards, backwards);
            forwards.remove("extra", &content("extra"));
            prop_assert_eq!(forwards, backwards);
        }
    }
}
