//! Builds a document so that nothing unread can look read.
//!
//! A collector hands over what each call answered, or that it failed. `finish` then goes through
//! the declaration: a field whose call answered has its value or null; a field whose call failed,
//! or was never made, has no key and a gap. A call whose answer lacks a field that the provider
//! always sends did not answer what was asked.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol::declare::{Field, Kind, ResourceType};
use protocol::document::{Document, Gap, Link};
use protocol::urn::{Scope, Urn};
use serde_json::{Map, Value};

use crate::required::{fill_lists, missing};
use crate::source::Fault;

/// The error that a gap carries when a collector never made the call.
pub const NOT_CALLED: &str = "not called";

/// The error that a gap carries when an answer lacked a required field.
pub const INCOMPLETE: &str = "incomplete";

/// Returns the calls whose answers about a document lacked a required field, for the summary of a
/// sync.
pub fn incomplete(document: &Document) -> impl Iterator<Item = Fault> {
    let gaps = document.gaps.values();
    let calls = gaps.filter(|gap| gap.error == INCOMPLETE);
    let calls: BTreeSet<&str> = calls.map(|gap| gap.call.as_str()).collect();
    calls.into_iter().map(|call| Fault {
        call: call.to_owned(),
        code: INCOMPLETE.to_owned(),
    })
}

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
        self.judge_answers();
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

    /// Makes failures of the calls whose answers lack a required field.
    fn judge_answers(&mut self) {
        let declared = self.declared;
        for (call, answer) in &mut self.answered {
            if declared.leaves_out_empty_lists {
                fill_lists(&declared.fields, call, answer);
            }
            if missing(&declared.fields, call, answer).is_some() {
                let failed = self.failed.entry(call.clone());
                failed.or_insert_with(|| INCOMPLETE.to_owned());
            }
        }
        let call = declared.tags_call.as_ref().unwrap_or(&declared.call);
        if matches!(self.tags, Some(Ok(_)))
            && self.failed.get(call).is_some_and(|e| e == INCOMPLETE)
        {
            self.tags = Some(Err(Gap {
                call: call.clone(),
                error: INCOMPLETE.to_owned(),
            }));
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
        draft_of("leaves_out_empty_lists: false")
    }

    fn draft_of(lists: &str) -> Draft {
        const FILE: &str = "
provider: aws
service: s3
LISTS
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
      Targets:
        type: record
        required: true
        call: s3:GetBucketNotificationConfiguration
        meaning: Who is told.
        of:
          Topics: {type: list, required: true, of: {Arn: {type: string, required: true}}}
          Bridge: {type: list<string>}
";
        let file = FILE.replace("LISTS", lists);
        let types = Declarations::parse([("s3.yaml", file.as_str())]).unwrap();
        let types: &'static Declarations = Box::leak(Box::new(types));
        let declared = types.get("aws.s3.bucket").unwrap();
        let scope = Scope::of_type("aws.s3.bucket", "123456789012", "global");
        Draft::new(declared, &scope, "logs", "arn:aws:s3:::logs")
    }

    const NOTIFICATIONS: &str = "s3:GetBucketNotificationConfiguration";

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
                ("config.Targets".to_owned(), gap(NOTIFICATIONS, NOT_CALLED)),
                ("tags".to_owned(), gap("s3:ListBuckets", NOT_CALLED)),
            ])
        );
    }

    /// What a document says of a call that answered so.
    fn targets(lists: &str, answer: Value) -> (Option<Value>, Option<String>) {
        let mut draft = draft_of(lists);
        draft
            .answered("s3:ListBuckets", json!({"Name": "logs"}))
            .answered(NOTIFICATIONS, answer)
            .tags(BTreeMap::new());
        let document = draft.finish(Timestamp::UNIX_EPOCH);
        let gap = document.gaps.get("config.Targets");
        assert!(document.tags.is_some());
        assert_eq!(document.config["Name"], "logs");
        let told: Vec<Fault> = incomplete(&document).collect();
        let error = gap.map(|gap| gap.error.clone());
        assert_eq!(told.is_empty(), error.is_none());
        (document.config.get("Targets").cloned(), error)
    }

    #[test]
    fn a_required_list_that_was_left_out_is_empty_or_unread_as_the_declaration_says() {
        let none = || json!({"Targets": {}});
        let empty = json!({"Topics": [], "Bridge": null});
        let is = targets("leaves_out_empty_lists: true", none());
        assert_eq!(is, (Some(empty.clone()), None));
        let is = targets(
            "leaves_out_empty_lists: true",
            json!({"Targets": {"Topics": null}}),
        );
        assert_eq!(is, (Some(empty), None));
        let is = targets("leaves_out_empty_lists: false", none());
        assert_eq!(is, (None, Some("incomplete".to_owned())));
    }

    #[test]
    fn an_answer_without_a_required_field_is_none_and_its_tags_are_none() {
        for answer in [
            json!({}),
            json!({"Targets": null}),
            json!({"Targets": {"Topics": [{}]}}),
        ] {
            let is = targets("leaves_out_empty_lists: true", answer);
            assert_eq!(is, (None, Some("incomplete".to_owned())));
        }
        let mut draft = draft();
        draft
            .answered("s3:ListBuckets", json!({}))
            .tags(BTreeMap::new());
        let document = draft.finish(Timestamp::UNIX_EPOCH);
        let want = gap("s3:ListBuckets", INCOMPLETE);
        assert_eq!(document.tags, None);
        assert_eq!(
            (&document.gaps["tags"], &document.gaps["config.Name"]),
            (&want, &want)
        );
        // The call's own error says more.
        let mut draft = draft_of("leaves_out_empty_lists: true");
        draft.answered("s3:ListBuckets", json!({}));
        draft.failed(&Fault {
            call: "s3:ListBuckets".into(),
            code: "AccessDenied".into(),
        });
        let document = draft.finish(Timestamp::UNIX_EPOCH);
        assert_eq!(document.gaps["config.Name"].error, "AccessDenied");
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
