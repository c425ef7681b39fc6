//! Resource types declared once, as data: which fields leave the network, what each means, and
//! which call and permission reads it.
//!
//! The agent keeps exactly the declared fields of what a provider answered
//! ([`Kind::keep`]); the hub compiles every check against the same declarations, so a
//! check cannot ask for a field that no agent sends. The files are
//! `protocol/types/<provider>/<service>.yaml`:
//!
//! ```yaml
//! provider: aws
//! service: ec2
//! types:
//!   aws.ec2.security-group:
//!     summary: A stateful packet filter attached to network interfaces.
//!     source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SecurityGroup.html
//!     scope: region            # or global
//!     call: ec2:DescribeSecurityGroups
//!     fields:
//!       GroupId: {type: string, required: true, meaning: Id of the group.}
//!       IpPermissions:
//!         type: list
//!         meaning: Inbound rules.
//!         of:                  # fields of one element; a list of scalars is `type: list<string>`
//!           FromPort: {type: int, meaning: First port; null for all.}
//!     links:
//!       in_vpc: {to: aws.ec2.vpc, meaning: The network it belongs to.}
//! ```
//! A field takes its `call` from the type unless it names its own; the permission is the call's
//! own name unless `permission` differs. Tags come with the list unless `tags_call` names a call,
//! and links do unless one names the `field` that it is read from. `required: true` means that the
//! provider always sends it, so that it can never be null. A provider whose answers leave empty
//! lists out is declared so with `leaves_out_empty_lists: true` above `types`: a required list that
//! is not in an answer is then empty, where it would else be unread.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use include_dir::{Dir, include_dir};
use serde::Deserialize;
use serde_json::{Map, Value};

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/types");

/// Says why a declaration file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeclareError {
    /// The file is not YAML of the declared shape.
    #[error("{file}: not a type declaration")]
    Shape {
        /// File name below `types/`.
        file: String,
        /// Line, column and reason.
        #[source]
        source: yaml_serde::Error,
    },
    /// A rule of this module is broken.
    #[error("{file}: {type_name}: {reason}")]
    Rule {
        /// File name below `types/`.
        file: String,
        /// The type at fault.
        type_name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// A whole number that fits 64 bits.
    Int,
    /// A number with a fraction.
    Double,
    /// An instant, as RFC 3339 text in UTC.
    Timestamp,
    /// A policy document: JSON with `Statement`, kept as an object.
    Policy,
    /// Text that never leaves the agent: its detectors' results take its place
    /// ([`Kind::secret_findings`]).
    Secret,
    /// Free-form JSON; checks may only ask whether it is null.
    Json,
    /// A true map from names to text, such as tags.
    StringMap,
    /// Named fields.
    Record(BTreeMap<String, Field>),
    /// Elements of one kind.
    List(Box<Kind>),
}

impl Kind {
    /// Returns the kind that stands in a document where a [`Kind::Secret`] field was examined: a
    /// list of `{kind, place, fingerprint}`.
    pub fn secret_findings() -> Kind {
        let text = |meaning: &str| Field {
            kind: Kind::String,
            required: true,
            call: String::new(),
            permission: String::new(),
            meaning: meaning.to_owned(),
        };
        Kind::List(Box::new(Kind::Record(BTreeMap::from([
            (
                "kind".to_owned(),
                text("What the detector found, such as aws-secret-access-key."),
            ),
            (
                "place".to_owned(),
                text("Where in the value: line number or variable name."),
            ),
            (
                "fingerprint".to_owned(),
                text("Keyed hash of the secret; equal for equal secrets."),
            ),
        ]))))
    }
}

/// One declared field.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// What it holds.
    pub kind: Kind,
    /// Whether the provider always sends it, so that it is never null once read.
    pub required: bool,
    /// The call that reads it, `s3:GetBucketPolicy`.
    pub call: String,
    /// The permission that the call needs, `s3:GetBucketPolicy`.
    pub permission: String,
    /// What it means, in a sentence.
    pub meaning: String,
}

/// How a type's resources are swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Once in every enabled region.
    Region,
    /// Once in an account, project, subscription or host.
    Global,
}

/// A relation from one type to another.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    /// Full type name of the other end.
    pub to: String,
    /// The declared field that says where it leads, unless that comes with the list: while the
    /// field is not read, the links are not either.
    #[serde(default)]
    pub field: Option<String>,
    /// What it means, in a sentence.
    pub meaning: String,
}

/// One resource type.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceType {
    /// Full name, `aws.ec2.security-group`.
    pub name: String,
    /// What such a resource is, in a sentence.
    pub summary: String,
    /// The provider's page that documents the fields.
    pub source: String,
    /// How it is swept.
    pub reach: Reach,
    /// The call that lists the resources.
    pub call: String,
    /// The call that reads tags, where the list does not bring them; its permission has its name.
    pub tags_call: Option<String>,
    /// Whether a required list that an answer leaves out is empty.
    pub leaves_out_empty_lists: bool,
    /// Declared fields by their top-level name.
    pub fields: BTreeMap<String, Field>,
    /// Declared relations by name.
    pub links: BTreeMap<String, Relation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    provider: String,
    service: String,
    #[serde(default)]
    leaves_out_empty_lists: bool,
    types: BTreeMap<String, RawType>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawType {
    summary: String,
    source: String,
    scope: Reach,
    call: String,
    permission: Option<String>,
    tags_call: Option<String>,
    fields: BTreeMap<String, RawField>,
    #[serde(default)]
    links: BTreeMap<String, Relation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawField {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    required: bool,
    call: Option<String>,
    permission: Option<String>,
    #[serde(default)]
    meaning: String,
    #[serde(default)]
    of: BTreeMap<String, RawField>,
}

const KINDS: &str = "string, bool, int, double, timestamp, policy, secret, json, map, record, list, list<string>, list<int>";

fn read_field(raw: RawField, call: &str, permission: &str, path: &str) -> Result<Field, String> {
    let permission = match (&raw.permission, &raw.call) {
        (Some(own), _) => own.clone(),
        (None, Some(own)) => own.clone(),
        (None, None) => permission.to_owned(),
    };
    let call = raw.call.unwrap_or_else(|| call.to_owned());
    let has_fields = !raw.of.is_empty();
    let mut below = BTreeMap::new();
    for (name, field) in raw.of {
        let path = format!("{path}.{name}");
        below.insert(name, read_field(field, &call, &permission, &path)?);
    }
    let kind = match raw.kind.as_str() {
        "string" => Kind::String,
        "bool" => Kind::Bool,
        "int" => Kind::Int,
        "double" => Kind::Double,
        "timestamp" => Kind::Timestamp,
        "policy" => Kind::Policy,
        "secret" => Kind::Secret,
        "json" => Kind::Json,
        "map" => Kind::StringMap,
        "list<string>" => Kind::List(Box::new(Kind::String)),
        "list<int>" => Kind::List(Box::new(Kind::Int)),
        "record" if has_fields => Kind::Record(below.clone()),
        "list" if has_fields => Kind::List(Box::new(Kind::Record(below.clone()))),
        "record" | "list" => {
            return Err(format!(
                "{path}: a {} needs its fields under `of`",
                raw.kind
            ));
        }
        other => return Err(format!("{path}: unknown type {other:?}; one of {KINDS}")),
    };
    if has_fields && !matches!(kind, Kind::Record(_) | Kind::List(_)) {
        return Err(format!(
            "{path}: only a record or a list has fields under `of`"
        ));
    }
    if raw.meaning.is_empty() && !path.contains('.') {
        return Err(format!("{path}: say what the field means"));
    }
    Ok(Field {
        kind,
        required: raw.required,
        call,
        permission,
        meaning: raw.meaning,
    })
}

/// All declared resource types, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Declarations {
    types: BTreeMap<String, ResourceType>,
}

impl Declarations {
    /// Returns the types that Zero-X ships with.
    ///
    /// # Panics
    ///
    /// If a built-in file is broken, which a test of this module excludes.
    pub fn builtin() -> &'static Declarations {
        static BUILTIN: OnceLock<Declarations> = OnceLock::new();
        BUILTIN.get_or_init(|| Self::load_builtin().expect("the built-in declarations load"))
    }

    fn load_builtin() -> Result<Self, DeclareError> {
        let mut files = Vec::new();
        let mut folders = vec![&FILES];
        while let Some(folder) = folders.pop() {
            folders.extend(folder.dirs());
            for file in folder.files() {
                let name = file.path().to_string_lossy().into_owned();
                if name.ends_with(".yaml") {
                    files.push((name, file.contents_utf8().unwrap_or_default().to_owned()));
                }
            }
        }
        files.sort();
        Self::parse(
            files
                .iter()
                .map(|(name, text)| (name.as_str(), text.as_str())),
        )
    }

    /// Reads declarations from `(file name, YAML text)` pairs.
    ///
    /// # Errors
    ///
    /// The first file that is not of the declared shape, names a type twice, links to a type that
    /// none of the files declares, or breaks another rule of this module.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, DeclareError> {
        let mut types = BTreeMap::new();
        let mut relations = Vec::new();
        for (file, text) in files {
            let raw: RawFile =
                yaml_serde::from_str(text).map_err(|source| DeclareError::Shape {
                    file: file.to_owned(),
                    source,
                })?;
            let prefix = format!("{}.{}", raw.provider, raw.service);
            let leaves_out_empty_lists = raw.leaves_out_empty_lists;
            for (name, raw) in raw.types {
                let broken = |reason: String| DeclareError::Rule {
                    file: file.to_owned(),
                    type_name: name.clone(),
                    reason,
                };
                if name != prefix && !name.starts_with(&format!("{prefix}.")) {
                    return Err(broken(format!("a type of this file begins with {prefix}")));
                }
                let permission = raw.permission.as_deref().unwrap_or(&raw.call);
                let mut fields = BTreeMap::new();
                for (field, body) in raw.fields {
                    let read = read_field(body, &raw.call, permission, &field).map_err(broken)?;
                    fields.insert(field, read);
                }
                for (relation, body) in &raw.links {
                    if let Some(field) = &body.field
                        && !fields.contains_key(field)
                    {
                        let reason =
                            format!("the link {relation} names no declared field: {field}");
                        return Err(broken(reason));
                    }
                    relations.push((
                        file.to_owned(),
                        name.clone(),
                        relation.clone(),
                        body.to.clone(),
                    ));
                }
                let read = ResourceType {
                    name: name.clone(),
                    summary: raw.summary,
                    source: raw.source,
                    reach: raw.scope,
                    call: raw.call,
                    tags_call: raw.tags_call,
                    leaves_out_empty_lists,
                    fields,
                    links: raw.links,
                };
                if types.insert(name.clone(), read).is_some() {
                    return Err(broken("declared twice".to_owned()));
                }
            }
        }
        for (file, type_name, relation, to) in relations {
            if !types.contains_key(&to) {
                let reason = format!("the link {relation} leads to {to}, which no file declares");
                return Err(DeclareError::Rule {
                    file,
                    type_name,
                    reason,
                });
            }
        }
        Ok(Self { types })
    }

    /// Returns one type.
    pub fn get(&self, name: &str) -> Option<&ResourceType> {
        self.types.get(name)
    }

    /// Iterates over all types in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &ResourceType> {
        self.types.values()
    }
}

impl ResourceType {
    /// Returns the provider, the part of the name before the first dot.
    pub fn provider(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Returns the distinct calls of the type with the permission each needs.
    pub fn calls(&self) -> BTreeMap<String, String> {
        fn walk(field: &Field, calls: &mut BTreeMap<String, String>) {
            calls.insert(field.call.clone(), field.permission.clone());
            match &field.kind {
                Kind::Record(fields) => fields.values().for_each(|f| walk(f, calls)),
                Kind::List(of) => {
                    if let Kind::Record(fields) = of.as_ref() {
                        fields.values().for_each(|f| walk(f, calls));
                    }
                }
                Kind::String
                | Kind::Bool
                | Kind::Int
                | Kind::Double
                | Kind::Timestamp
                | Kind::Policy
                | Kind::Secret
                | Kind::Json
                | Kind::StringMap => {}
            }
        }
        let mut calls = BTreeMap::from([(self.call.clone(), self.call.clone())]);
        if let Some(call) = &self.tags_call {
            calls.insert(call.clone(), call.clone());
        }
        self.fields
            .values()
            .for_each(|field| walk(field, &mut calls));
        calls
    }
}

/// Why a value does not fit its declared kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} should be {want}, but is {found}")]
pub struct Misfit {
    /// Where, `IpPermissions[2].FromPort`.
    pub path: String,
    /// The declared kind.
    pub want: &'static str,
    /// What was found instead: a JSON type name, never the value.
    pub found: &'static str,
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Kind {
    /// Returns `value` cut down to what is declared: undeclared fields of records are dropped and
    /// declared ones that are absent become null, inside list elements too.
    ///
    /// A null stays null at every level. An empty or single-quoted policy text must have been
    /// parsed to an object before.
    ///
    /// # Errors
    ///
    /// Where a value has another JSON type than declared. A [`Kind::Secret`] accepts only the
    /// detectors' list, so that secret text cannot pass by mistake.
    pub fn keep(&self, value: Value, path: &str) -> Result<Value, Misfit> {
        let misfit = |want: &'static str, value: &Value| Misfit {
            path: path.to_owned(),
            want,
            found: json_type(value),
        };
        match (self, value) {
            (_, Value::Null) => Ok(Value::Null),
            (Kind::String, value @ Value::String(_))
            | (Kind::Bool, value @ Value::Bool(_))
            | (Kind::Double, value @ Value::Number(_))
            | (Kind::Policy, value @ Value::Object(_))
            | (Kind::Json, value) => Ok(value),
            (Kind::Int, Value::Number(n)) if n.is_i64() => Ok(Value::Number(n)),
            (Kind::Timestamp, Value::String(text)) => match text.parse::<jiff::Timestamp>() {
                Ok(at) => Ok(Value::String(at.to_string())),
                Err(_) => Err(misfit("an RFC 3339 instant", &Value::String(text))),
            },
            (Kind::StringMap, Value::Object(map)) => {
                match map.values().find(|v| !v.is_string() && !v.is_null()) {
                    Some(other) => Err(misfit("a map of text", other)),
                    None => Ok(Value::Object(map)),
                }
            }
            (Kind::Secret, value) => Kind::secret_findings().keep(value, path),
            (Kind::Record(fields), Value::Object(mut map)) => {
                let mut kept = Map::new();
                for (name, field) in fields {
                    let value = map.remove(name).unwrap_or(Value::Null);
                    let below = format!("{path}.{name}");
                    kept.insert(name.clone(), field.kind.keep(value, &below)?);
                }
                Ok(Value::Object(kept))
            }
            (Kind::List(of), Value::Array(items)) => {
                let mut kept = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    kept.push(of.keep(item, &format!("{path}[{index}]"))?);
                }
                Ok(Value::Array(kept))
            }
            (Kind::String, other) => Err(misfit("text", &other)),
            (Kind::Bool, other) => Err(misfit("true or false", &other)),
            (Kind::Int, other) => Err(misfit("a whole number of 64 bits", &other)),
            (Kind::Double, other) => Err(misfit("a number", &other)),
            (Kind::Timestamp, other) => Err(misfit("an RFC 3339 instant", &other)),
            (Kind::Policy, other) => Err(misfit("a policy document", &other)),
            (Kind::StringMap, other) => Err(misfit("a map of text", &other)),
            (Kind::Record(_), other) => Err(misfit("a record", &other)),
            (Kind::List(_), other) => Err(misfit("a list", &other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = "
provider: aws
service: ec2
types:
  aws.ec2.thing:
    summary: A thing.
    source: https://example.org
    scope: region
    call: ec2:DescribeThings
    fields:
      Id: {type: string, required: true, meaning: Its id.}
      UserData: {type: secret, call: 'ec2:DescribeThingAttribute', meaning: Examined here.}
      Rules:
        type: list
        meaning: Its rules.
        of:
          Port: {type: int}
          Cidrs: {type: list<string>}
    links:
      twin: {to: aws.ec2.thing, meaning: Another.}
";

    fn thing() -> ResourceType {
        let types = Declarations::parse([("ec2.yaml", FILE)]).unwrap();
        types.get("aws.ec2.thing").unwrap().clone()
    }

    #[test]
    fn the_builtin_declarations_load() {
        assert!(Declarations::load_builtin().unwrap().iter().count() > 0);
    }

    #[test]
    fn undeclared_fields_are_dropped_and_absent_ones_become_null_inside_lists_too() {
        let rules = &thing().fields["Rules"].kind;
        let kept = rules.keep(
            json!([{"Port": 22, "Secret": "x"}, {"Cidrs": ["a"]}]),
            "Rules",
        );
        assert_eq!(
            kept.unwrap(),
            json!([{"Port": 22, "Cidrs": null}, {"Port": null, "Cidrs": ["a"]}])
        );
    }

    #[test]
    fn a_value_of_another_type_is_named_without_its_content() {
        let rules = &thing().fields["Rules"].kind;
        let misfit = rules
            .keep(json!([{"Port": "hunter2"}]), "Rules")
            .unwrap_err();
        assert_eq!(
            misfit.to_string(),
            "Rules[0].Port should be a whole number of 64 bits, but is text"
        );
    }

    #[test]
    fn secret_text_cannot_pass_as_a_field() {
        let user_data = &thing().fields["UserData"];
        assert!(
            user_data
                .kind
                .keep(json!("export PASSWORD=hunter2"), "UserData")
                .is_err()
        );
        let found = json!([{"kind": "password", "place": "line 1", "fingerprint": "ab"}]);
        assert_eq!(
            user_data.kind.keep(found.clone(), "UserData").unwrap(),
            found
        );
        assert_eq!(user_data.call, "ec2:DescribeThingAttribute");
    }

    #[test]
    fn what_reads_tags_is_among_the_calls() {
        let with = "call: ec2:DescribeThings\n    tags_call: ec2:DescribeTags";
        let text = FILE.replace("call: ec2:DescribeThings", with);
        let types = Declarations::parse([("ec2.yaml", text.as_str())]).unwrap();
        let calls = types.get("aws.ec2.thing").unwrap().calls();
        assert_eq!(calls["ec2:DescribeTags"], "ec2:DescribeTags");
        assert!(!thing().calls().contains_key("ec2:DescribeTags"));
    }

    #[test]
    fn a_bad_declaration_names_its_place_and_the_allowed_values() {
        let refused = |from: &str, to: &str| {
            let text = FILE.replace(from, to);
            let error = Declarations::parse([("ec2.yaml", text.as_str())]).unwrap_err();
            match &error {
                DeclareError::Shape { source, .. } => source.to_string(),
                DeclareError::Rule { .. } => error.to_string(),
            }
        };
        assert!(
            refused("type: int", "type: integer")
                .contains("Rules.Port: unknown type \"integer\"; one of string")
        );
        assert!(
            refused("to: aws.ec2.thing", "to: aws.ec2.other").contains("which no file declares")
        );
        assert!(
            refused("{to: aws.ec2.thing", "{field: Twin, to: aws.ec2.thing")
                .contains("the link twin names no declared field: Twin")
        );
        assert!(refused("scope: region", "scope: planet").contains("line"));
        assert!(refused("meaning: Its id.", "meening: Its id.").contains("unknown field"));
    }
}
