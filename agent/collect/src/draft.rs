//! Builds a document so that nothing unread can look read.
//!
//! A collector hands over what each call answered, or that it failed. `finish` then goes through
//! the declaration: a field whose call answered has its value or null; a field whose call failed,
//! or was never made, has no key and a gap.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::declare::{Field, Kind, ResourceType};
use protocol::document::{Document, Gap, Link};
use protocol::urn::{Scope, Urn};
use serde_json::{Map, Value};

use crate::source::Fault;

/// The error that a gap carries when a collector never made the call.
pub const NOT_CALLED: &str = "not called";

/// A document in the making.
#[derive(Debug)]
pub struct Draft {
    declared: &'static ResourceType,
    urn: Urn,
    native_id: String,
    name: Option<String>,
    answered: BTreeMap<String, Map<String, Value>>,
    failed: BTreeMap<String, String>,
    tags: Option<Result<BTreeMap<String, String>, Gap>>,
    links: Vec<Link>,
}

impl Draft {
    /// Starts a document of `declared` type with the provider's own full name.
    pub fn new(declared: &'static ResourceType, scope: &Scope, id: &str, native_id: &str) -> Self {
        Self {
            declared,
            urn: scope.urn(id),
            native_id: native_id.to_owned(),
            name: None,
            answered: BTreeMap::new(),
            failed: BTreeMap::new(),
            tags: None,
            links: Vec::new(),
        }
    }

    /// Returns the resource's URN.
    pub fn urn(&self) -> &Urn {
        &self.urn
    }

    /// Sets the display name. Without one, the id is shown.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(name.into()).filter(|name| !name.is_empty());
        self
    }

    /// Records what `call` answered, as the fields it holds under their declared top-level names.
    /// Undeclared fields are dropped in [`Draft::finish`]. May be given in several parts.
    pub fn answered(&mut self, call: &str, fields: Value) -> &mut Self {
        let known = self.answered.entry(call.to_owned()).or_default();
        if let Value::Object(fields) = fields {
            known.extend(fields);
        }
        self
    }

    /// Records that a call failed: every field that it reads becomes a gap.
    pub fn failed(&mut self, fault: &Fault) -> &mut Self {
        self.failed.insert(fault.call.clone(), fault.code.clone());
        self
    }

    /// Records what `outcome` holds: [`Draft::answered`] or [`Draft::failed`].
    pub fn outcome(&mut self, call: &str, outcome: Result<Value, Fault>) -> &mut Self {
        match outcome {
            Ok(fields) => self.answered(call, fields),
            Err(fault) => self.failed(&Fault {
                call: call.to_owned(),
                code: fault.code,
            }),
        }
    }

    /// Sets the tags that were read; an empty map for a type that has none.
    pub fn tags(&mut self, tags: BTreeMap<String, String>) -> &mut Self {
        self.tags = Some(Ok(tags));
        self
    }

    /// Records that the tags could not be read.
    pub fn tags_failed(&mut self, fault: Fault) -> &mut Self {
        self.tags = Some(Err(fault.into()));
        self
    }

    /// Adds a reference under a relation that the type declares. `id` is an id within the same
    /// account; `region` is the other end's.
    ///
    /// # Panics
    ///
    /// If the type declares no such relation: a programming error that every test of the
    /// collector meets.
    pub fn link(&mut self, rel: &str, region: &str, id: &str) -> &mut Self {
        let relation = self.declared.links.get(rel);
        let relation = relation.unwrap_or_else(|| {
            panic!("{} declares no relation {rel}", self.declared.name);
        });
        let scope = Scope::of_type(&relation.to, &self.urn.scope.account, region);
        self.links.push(Link {
            rel: rel.to_owned(),
            urn: scope.urn(id),
        });
        self
    }

    /// Finishes the document.
    ///
    /// A value whose shape is not the declared one becomes a gap that says so: what cannot be
    /// understood was not read.
    pub fn finish(mut self, collected_at: Timestamp) -> Document {
        let mut gaps = BTreeMap::new();
        let mut config = Map::new();
        for (name, field) in &self.declared.fields {
            let value = self
                .answered
                .get_mut(&field.call)
                .map(|fields| fields.remove(name).unwrap_or(Value::Null));
            if let Some(value) = self.read(field, value, name, &mut gaps) {
                config.insert(name.clone(), value);
            }
        }
        let tags = match self.tags.take() {
            Some(Ok(tags)) => Some(tags),
            Some(Err(gap)) => {
                gaps.insert("tags".to_owned(), gap);
                None
            }
            None => {
                let call = self.declared.tags_call.as_ref();
                let gap = Gap {
                    call: call.unwrap_or(&self.declared.call).clone(),
                    error: NOT_CALLED.to_owned(),
                };
                gaps.insert("tags".to_owned(), gap);
                None
            }
        };
        self.links.sort();
        self.links.dedup();
        let scope = &self.urn.scope;
        Document {
            type_name: self.declared.name.clone(),
            provider: scope.provider.clone(),
            account: scope.account.clone(),
            region: scope.region.clone(),
            id: self.urn.id.clone(),
            native_id: self.native_id,
            name: self.name.unwrap_or_else(|| self.urn.id.clone()),
            tags,
            config: Value::Object(config),
            gaps,
            links: self.links,
            collected_at,
            urn: self.urn,
        }
    }

    /// Returns the kept value of a field, or `None` after writing its gap.
    fn read(
        &self,
        field: &Field,
        value: Option<Value>,
        path: &str,
        gaps: &mut BTreeMap<String, Gap>,
    ) -> Option<Value> {
        let mut gap = |error: &str| {
            let gap = Gap {
                call: field.call.clone(),
                error: error.to_owned(),
            };
            gaps.insert(format!("config.{path}"), gap);
        };
        if let Some(error) = self.failed.get(&field.call) {
            gap(error);
            return None;
        }
        let Some(value) = value else {
            gap(NOT_CALLED);
            return None;
        };
        let (Kind::Record(fields), Value::Object(_)) = (&field.kind, &value) else {
            return match field.kind.keep(value, path) {
                Ok(value) => Some(value),
                Err(misfit) => {
                    gap(&format!("unexpected shape: {misfit}"));
                    None
                }
            };
        };
        let Value::Object(mut map) = value else {
            return None;
        };
        let mut kept = Map::new();
        for (name, below) in fields {
            let value = if below.call == field.call || self.answered.contains_key(&below.call) {
                Some(map.remove(name).unwrap_or(Value::Null))
            } else {
                None
            };
            if let Some(value) = self.read(below, value, &format!("{path}.{name}"), gaps) {
                kept.insert(name.clone(), value);
            }
        }
        Some(Value::Object(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::declare::Declarations;
    use serde_json::json;

    fn draft() -> Draft {
        const FILE: &str = "
provider: aws
service: s3
types:
  aws.s3.bucket:
    summary: A bucket.
    source: https://example.org
    scope: global
    call: s3:ListBuckets
    fields:
      Name: {type: string, required: true, meaning: Its name.}
      Policy: {type: policy, call: 's3:GetBucketPolicy', meaning: Who may do what.}
      Versioning:
        type: record
        call: s3:GetBucketVersioning
        meaning: Kept versions.
        of:
          Status: {type: string}
          MFADelete: {type: string}
";
        let types = Declarations::parse([("s3.yaml", FILE)]).unwrap();
        let types: &'static Declarations = Box::leak(Box::new(types));
        let declared = types.get("aws.s3.bucket").unwrap();
        let scope = Scope::of_type("aws.s3.bucket", "123456789012", "global");
        Draft::new(declared, &scope, "logs", "arn:aws:s3:::logs")
    }

    fn gap(call: &str, error: &str) -> Gap {
        Gap {
            call: call.into(),
            error: error.into(),
        }
    }

    #[test]
    fn read_and_absent_is_null_denied_is_a_gap_and_not_called_is_a_gap() {
        let mut draft = draft();
        draft.answered("s3:ListBuckets", json!({"Name": "logs", "Undeclared": 1}));
        draft.answered(
            "s3:GetBucketVersioning",
            json!({"Versioning": {"Status": "Enabled"}}),
        );
        draft.failed(&Fault {
            call: "s3:GetBucketPolicy".into(),
            code: "AccessDenied".into(),
        });
        let document = draft.finish(Timestamp::UNIX_EPOCH);
        assert_eq!(
            document.config,
            json!({"Name": "logs", "Versioning": {"Status": "Enabled", "MFADelete": null}})
        );
        assert_eq!(
            document.gaps,
            BTreeMap::from([
                (
                    "config.Policy".to_owned(),
                    gap("s3:GetBucketPolicy", "AccessDenied")
                ),
                ("tags".to_owned(), gap("s3:ListBuckets", NOT_CALLED)),
            ])
        );
    }

    #[test]
    fn a_value_of_an_unexpected_shape_is_a_gap_and_its_text_stays_here() {
        let mut draft = draft();
        draft
            .answered("s3:ListBuckets", json!({"Name": "logs"}))
            .tags(BTreeMap::new());
        draft.answered("s3:GetBucketPolicy", json!({}));
        draft.answered("s3:GetBucketVersioning", json!({"Versioning": "hunter2"}));
        let document = draft.finish(Timestamp::UNIX_EPOCH);
        assert_eq!(document.config, json!({"Name": "logs", "Policy": null}));
        let error = &document.gaps.get("config.Versioning").unwrap().error;
        assert_eq!(
            error,
            "unexpected shape: Versioning should be a record, but is text"
        );
    }
}
