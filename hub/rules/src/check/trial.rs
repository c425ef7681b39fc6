//! A check's inline tests.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol::declare::{Declarations, Field, Kind, Reach, ResourceType};
use protocol::document::Gap;
use protocol::{Document, Scope};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Check;
use crate::expression::without_positions;
use crate::load_error::nearest;
use crate::ruleset::Direction;
use crate::verdict::{Completeness, Neighbours, Relation, Subject, Verdict};

/// One test as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    name: String,
    verdict: Expected,
    #[serde(default)]
    r: Map<String, Value>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    gaps: BTreeMap<String, TrialGap>,
    account: Option<Map<String, Value>>,
    account_id: Option<String>,
    now: Option<String>,
    #[serde(default)]
    linked: BTreeMap<String, TrialRelation>,
    #[serde(default)]
    linked_from: BTreeMap<String, TrialRelation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Pass,
    Fail,
    Unknown,
    NotApplicable,
}

impl Expected {
    fn verdict(self) -> Verdict {
        match self {
            Expected::Pass => Verdict::Pass,
            Expected::Fail => Verdict::Fail,
            Expected::Unknown => Verdict::Unknown,
            Expected::NotApplicable => Verdict::NotApplicable,
        }
    }
}

/// Why a field of a test was not read; without `call` it is the declared one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrialGap {
    call: Option<String>,
    #[serde(default = "denied")]
    error: String,
}

fn denied() -> String {
    "AccessDenied".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrialRelation {
    #[serde(default = "complete")]
    complete: bool,
    #[serde(default)]
    documents: Vec<TrialDocument>,
}

fn complete() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrialDocument {
    #[serde(rename = "type")]
    type_name: Option<String>,
    #[serde(default)]
    r: Map<String, Value>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    gaps: BTreeMap<String, TrialGap>,
    id: Option<String>,
    name: Option<String>,
    region: Option<String>,
}

/// What a test's check sees.
#[derive(Debug, Clone)]
struct World {
    document: Document,
    account: Option<Document>,
    now: Timestamp,
    linked: BTreeMap<String, Ends>,
    linked_from: BTreeMap<String, Ends>,
}

/// The other ends of a relation.
#[derive(Debug, Clone)]
struct Ends {
    documents: Vec<Document>,
    complete: Completeness,
}

impl Neighbours for World {
    fn linked(&self, rel: &str) -> Relation<'_> {
        self.linked.get(rel).map(Ends::relation).unwrap_or_default()
    }
    fn linked_from(&self, rel: &str) -> Relation<'_> {
        let ends = self.linked_from.get(rel);
        ends.map(Ends::relation).unwrap_or_default()
    }
}

impl Ends {
    fn relation(&self) -> Relation<'_> {
        Relation {
            documents: self.documents.iter().collect(),
            complete: self.complete.clone(),
        }
    }
}

impl World {
    fn subject(&self) -> Subject<'_> {
        Subject {
            document: &self.document,
            account: self.account.as_ref(),
            neighbours: self,
            now: self.now,
        }
    }
}

/// A test's name with what went wrong.
pub(crate) type Named = (String, Result<(), String>);

/// Runs the tests of a check, and those that every check must stand.
pub(crate) fn run(check: &Check, declarations: &Declarations) -> Vec<Named> {
    let mut results = Vec::new();
    let mut turned = Ok(());
    for trial in &check.tests {
        let world = trial.world(check, declarations);
        let result = world.and_then(|world| {
            if turned.is_ok() {
                turned = losses(check, trial, &world);
            }
            verify(check, trial, &world)
        });
        results.push((trial.name.clone(), result));
    }
    results.extend(required(check));
    let name = "no unread fact turns the verdict into another one";
    results.push((name.to_owned(), turned));
    results
}

fn verify(check: &Check, trial: &Trial, world: &World) -> Result<(), String> {
    let outcome = check.evaluate(&world.subject());
    let wanted = trial.verdict.verdict();
    if outcome.verdict == wanted {
        return Ok(());
    }
    let gaps: Vec<String> = outcome
        .gaps
        .iter()
        .map(|(path, gap)| format!("{path} ({}: {})", gap.call, gap.error))
        .collect();
    let mut reason = format!("expected {wanted}, found {}", outcome.verdict);
    if !gaps.is_empty() {
        reason.push_str("; unread: ");
        reason.push_str(&gaps.join(", "));
    }
    Err(reason)
}

/// Says which tests a check lacks.
fn required(check: &Check) -> Vec<Named> {
    let has = |is_it: &dyn Fn(&Trial) -> bool| {
        if check.tests.iter().any(is_it) {
            Ok(())
        } else {
            Err("there is no such test".to_owned())
        }
    };
    let mut results = vec![
        (
            "a test that passes".to_owned(),
            has(&|t| t.verdict == Expected::Pass),
        ),
        (
            "a test that fails".to_owned(),
            has(&|t| t.verdict == Expected::Fail),
        ),
    ];
    // A call may be left to the tests of another one: a field below has its own.
    let calls: BTreeSet<&String> = check.reads.fields.values().collect();
    for call in calls {
        let name = format!("a test in which {call} is denied");
        let is_denied = |trial: &Trial| {
            trial.verdict == Expected::Unknown
                && trial.gaps.iter().any(|(path, gap)| match &gap.call {
                    Some(named) => named == call,
                    None => is_read_by(check, path, call),
                })
        };
        results.push((name, has(&is_denied)));
    }
    results
}

/// Whether a gap at `path` hides a field that the check reads by `call`.
fn is_read_by(check: &Check, path: &str, call: &str) -> bool {
    let path = without_positions(path);
    let Some(path) = path.strip_prefix("config.") else {
        return false;
    };
    check.reads.fields.iter().any(|(field, of)| {
        let field = without_positions(field);
        of == call && (is_part(&field, path) || is_part(path, &field))
    })
}

fn is_part(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Loses each fact of a test in turn: the verdict may become unknown, never another one.
fn losses(check: &Check, trial: &Trial, world: &World) -> Result<(), String> {
    let whole = check.verdict(&world.subject());
    if matches!(whole, Verdict::Unknown | Verdict::Broken) {
        return Ok(());
    }
    let test = |lost: &World, fact: &str| {
        let found = check.verdict(&lost.subject());
        if found == whole || found == Verdict::Unknown {
            return Ok(());
        }
        let name = &trial.name;
        Err(format!(
            "{name}: without {fact} the verdict turns from {whole} into {found}"
        ))
    };
    for field in check.reads.fields.keys() {
        let mut lost = world.clone();
        lose(&mut lost.document.config, &without_positions(field));
        test(&lost, &format!("config.{field}"))?;
    }
    for field in check.reads.account.keys() {
        let mut lost = world.clone();
        if let Some(account) = &mut lost.account {
            lose(&mut account.config, &without_positions(field));
            test(&lost, &format!("account.{field}"))?;
        }
    }
    if check.reads.reads_account {
        let mut lost = world.clone();
        lost.account = None;
        test(&lost, "the account")?;
    }
    let mut lost = world.clone();
    lost.document.tags = None;
    test(&lost, "tags")?;
    for read in &check.reads.relations {
        let (side, name) = match read.direction {
            Direction::Outgoing => ("linked", &read.name),
            Direction::Incoming | Direction::Account => ("linked_from", &read.name),
        };
        let path = format!("{side}.{name}");
        let ends_of = |world: &mut World| -> Option<usize> {
            let ends = match read.direction {
                Direction::Outgoing => &mut world.linked,
                Direction::Incoming | Direction::Account => &mut world.linked_from,
            };
            let ends = ends.entry(name.clone()).or_insert_with(|| Ends {
                documents: Vec::new(),
                complete: Ok(()),
            });
            ends.complete = Err(Gap {
                call: "a call".to_owned(),
                error: denied(),
            });
            Some(ends.documents.len())
        };
        let mut lost = world.clone();
        let count = ends_of(&mut lost).unwrap_or_default();
        test(&lost, &path)?;
        // A scope that was not swept may lack any of its documents.
        for at in 0..count {
            let mut lost = world.clone();
            ends_of(&mut lost);
            let ends = match read.direction {
                Direction::Outgoing => lost.linked.get_mut(name),
                Direction::Incoming | Direction::Account => lost.linked_from.get_mut(name),
            };
            if let Some(ends) = ends {
                ends.documents.remove(at);
            }
            test(&lost, &format!("{path}[{at}]"))?;
            // And what is listed may not have been read.
            let mut lost = world.clone();
            let ends = match read.direction {
                Direction::Outgoing => lost.linked.get_mut(name),
                Direction::Incoming | Direction::Account => lost.linked_from.get_mut(name),
            };
            if let Some(document) = ends.and_then(|ends| ends.documents.get_mut(at)) {
                document.config = Value::Object(Map::new());
                document.tags = None;
            }
            test(&lost, &format!("the facts of {path}[{at}]"))?;
        }
    }
    Ok(())
}

/// Removes a field, in every element of the lists on the way.
fn lose(value: &mut Value, path: &str) {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| lose(item, path)),
        Value::Object(fields) => match (rest, fields.get_mut(name)) {
            (None, _) => {
                fields.remove(name);
            }
            (Some(rest), Some(below)) => lose(below, rest),
            (Some(_), None) => {}
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A document to be made.
struct Made<'t> {
    of_type: &'t ResourceType,
    account: &'t str,
    region: &'t str,
    id: &'t str,
    name: Option<&'t str>,
    r: &'t Map<String, Value>,
    tags: &'t BTreeMap<String, String>,
    gaps: &'t BTreeMap<String, TrialGap>,
    collected_at: Timestamp,
    /// What its fields are called in an error: `r`, `account`.
    called: &'t str,
}

impl Trial {
    fn world(&self, check: &Check, declarations: &Declarations) -> Result<World, String> {
        let type_of = |name: &str| {
            let found = declarations.get(name);
            found.ok_or_else(|| format!("the type {name} is not declared"))
        };
        let now = self.now.as_deref().unwrap_or("2026-01-01T00:00:00Z");
        let Ok(now) = now.parse::<Timestamp>() else {
            return Err(format!(
                "now: {now} is no instant such as 2026-01-01T00:00:00Z"
            ));
        };
        let of_type = type_of(&check.type_name)?;
        let account_id = self.account_id.as_deref().unwrap_or("123456789012");
        let none = BTreeMap::new();
        let region = region_of(of_type);
        let document = Made {
            of_type,
            account: account_id,
            region,
            id: "subject",
            name: None,
            r: &self.r,
            tags: &self.tags,
            gaps: &self.gaps,
            collected_at: now,
            called: "r",
        }
        .document()?;
        let account = match &self.account {
            Some(fields) => {
                let of_type = type_of(&format!("{}.account", of_type.provider()))?;
                let made = Made {
                    of_type,
                    account: account_id,
                    region: "global",
                    id: account_id,
                    name: None,
                    r: fields,
                    tags: &BTreeMap::new(),
                    gaps: &none,
                    collected_at: now,
                    called: "account",
                };
                Some(made.document()?)
            }
            None => None,
        };
        let ends = |given: &BTreeMap<String, TrialRelation>, direction| {
            let made = given.iter().map(|(name, relation)| {
                let read = check
                    .reads
                    .relations
                    .iter()
                    .find(|read| read.name == *name && read.direction == direction)
                    .ok_or_else(|| format!("the check does not read the relation {name}"))?;
                let ends = relation.ends(name, &read.type_name, declarations, (account_id, now))?;
                Ok((name.clone(), ends))
            });
            made.collect::<Result<BTreeMap<_, _>, String>>()
        };
        Ok(World {
            document,
            account,
            now,
            linked: ends(&self.linked, Direction::Outgoing)?,
            linked_from: ends(&self.linked_from, Direction::Incoming)?,
        })
    }
}

impl TrialRelation {
    fn ends(
        &self,
        name: &str,
        type_name: &str,
        declarations: &Declarations,
        (account, now): (&str, Timestamp),
    ) -> Result<Ends, String> {
        let of = |type_name: &str| {
            let found = declarations.get(type_name);
            found.ok_or_else(|| format!("the type {type_name} is not declared"))
        };
        let documents = self.documents.iter().enumerate().map(|(at, given)| {
            let of_type = of(given.type_name.as_deref().unwrap_or(type_name))?;
            Made {
                of_type,
                account,
                region: given
                    .region
                    .as_deref()
                    .unwrap_or_else(|| region_of(of_type)),
                id: given.id.as_deref().unwrap_or(&format!("{name}-{at}")),
                name: given.name.as_deref(),
                r: &given.r,
                tags: &given.tags,
                gaps: &given.gaps,
                collected_at: now,
                called: "r",
            }
            .document()
        });
        let documents = documents.collect::<Result<Vec<_>, String>>()?;
        let complete = if self.complete {
            Ok(())
        } else {
            Err(Gap {
                call: of(type_name)?.call.clone(),
                error: denied(),
            })
        };
        Ok(Ends {
            documents,
            complete,
        })
    }
}

fn region_of(of_type: &ResourceType) -> &'static str {
    match of_type.reach {
        Reach::Region => "us-east-1",
        Reach::Global => "global",
    }
}

/// Returns a configuration with every declared field: null where it is not given.
fn declared(
    fields: &BTreeMap<String, Field>,
    given: &Map<String, Value>,
    called: &str,
) -> Result<Map<String, Value>, String> {
    undeclared(fields, given, called)?;
    let mut config = Map::new();
    for (name, field) in fields {
        let value = given.get(name).cloned().unwrap_or(Value::Null);
        let kept = field.kind.keep(value, &format!("{called}.{name}"));
        config.insert(name.clone(), kept.map_err(|misfit| misfit.to_string())?);
    }
    Ok(config)
}

impl Made<'_> {
    fn document(&self) -> Result<Document, String> {
        let config = declared(&self.of_type.fields, self.r, self.called)?;
        let mut config = Value::Object(config);
        let mut tags = Some(self.tags.clone());
        let mut gaps = BTreeMap::new();
        for (path, gap) in self.gaps {
            let call = match path.strip_prefix("config.") {
                Some(field) => {
                    let field = without_positions(field);
                    let field = field.trim_end_matches('.');
                    let Some(call) = call_of(&self.of_type.fields, field) else {
                        return Err(format!("gaps: no declared field {path}"));
                    };
                    lose(&mut config, field);
                    call
                }
                None if path == "tags" => {
                    tags = None;
                    &self.of_type.call
                }
                None => return Err(format!("gaps: {path} is neither tags nor config.<field>")),
            };
            let gap = Gap {
                call: gap.call.clone().unwrap_or_else(|| call.to_owned()),
                error: gap.error.clone(),
            };
            gaps.insert(path.clone(), gap);
        }
        let scope = Scope::of_type(&self.of_type.name, self.account, self.region);
        let urn = scope.urn(self.id);
        Ok(Document {
            type_name: self.of_type.name.clone(),
            provider: self.of_type.provider().to_owned(),
            account: self.account.to_owned(),
            region: self.region.to_owned(),
            id: self.id.to_owned(),
            native_id: urn.to_string(),
            name: self.name.unwrap_or(self.id).to_owned(),
            tags,
            config,
            gaps,
            links: Vec::new(),
            collected_at: self.collected_at,
            urn,
        })
    }
}

/// Returns the call behind a declared field.
fn call_of<'d>(fields: &'d BTreeMap<String, Field>, path: &str) -> Option<&'d str> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let field = fields.get(name)?;
    match (rest, &field.kind) {
        (None, _) => Some(&field.call),
        (Some(rest), Kind::Record(below)) => call_of(below, rest),
        (Some(rest), Kind::List(of)) => match of.as_ref() {
            Kind::Record(below) => call_of(below, rest),
            Kind::String
            | Kind::Bool
            | Kind::Int
            | Kind::Double
            | Kind::Timestamp
            | Kind::Policy
            | Kind::Secret
            | Kind::Json
            | Kind::StringMap
            | Kind::List(_) => None,
        },
        (Some(_), _) => None,
    }
}

/// Refuses fields that are not declared, at every level.
fn undeclared(
    fields: &BTreeMap<String, Field>,
    given: &Map<String, Value>,
    called: &str,
) -> Result<(), String> {
    for (name, value) in given {
        let Some(field) = fields.get(name) else {
            let near = nearest(name, fields.keys().map(String::as_str));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            return Err(format!("{called} has no declared field {name}{hint}"));
        };
        let below = format!("{called}.{name}");
        match (&field.kind, value) {
            (Kind::Record(fields), Value::Object(given)) => undeclared(fields, given, &below)?,
            (Kind::List(of), Value::Array(items)) => {
                if let Kind::Record(fields) = of.as_ref() {
                    for item in items.iter().filter_map(Value::as_object) {
                        undeclared(fields, item, &below)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
