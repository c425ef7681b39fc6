//! Values, and how they are found in documents.

use std::borrow::Cow;
use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};
use protocol::Document;
use protocol::document::Gap;
use serde_json::Value as Json;

use super::{Frame, Stop, Truth};
use crate::expression::recorder::explain;
use crate::expression::tree::{Case, Leaf, NamePart, Operator, Part, Path, Root, Step, Term};
use crate::network;

/// One scalar.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
    Instant(Timestamp),
    Span(SignedDuration),
}

/// What a variable holds.
#[derive(Debug, Clone)]
pub(super) enum Slot<'a> {
    Empty,
    /// An element of a list field, with its place.
    Json {
        value: &'a Json,
        list: &'a Path,
        index: usize,
    },
    Value(Value<'a>),
    Document(&'a Document),
}

impl Value<'_> {
    /// Says whether two values are equal; `None` if they cannot be compared.
    pub(super) fn equals(&self, other: &Value<'_>) -> Option<bool> {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a == b),
            // NaN equals nothing.
            (Value::Int(_) | Value::Double(_), Value::Int(_) | Value::Double(_)) => {
                Some(self.compare(other) == Some(Ordering::Equal))
            }
            (Value::Text(a), Value::Text(b)) => Some(a == b),
            (Value::Instant(a), Value::Instant(b)) => Some(a == b),
            (Value::Span(a), Value::Span(b)) => Some(a == b),
            _ => None,
        }
    }

    pub(super) fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Double(b)) => int_to_double(*a).partial_cmp(b),
            (Value::Double(a), Value::Int(b)) => a.partial_cmp(&int_to_double(*b)),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Instant(a), Value::Instant(b)) => Some(a.cmp(b)),
            (Value::Span(a), Value::Span(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Returns by how many nanoseconds an instant or span is beyond another.
    pub(super) fn nanos_since(&self, other: &Value<'_>) -> Option<i128> {
        match (self, other) {
            (Value::Instant(a), Value::Instant(b)) => Some(a.as_nanosecond() - b.as_nanosecond()),
            (Value::Span(a), Value::Span(b)) => a.as_nanos().checked_sub(b.as_nanos()),
            _ => None,
        }
    }
}

/// Returns the nearest double, as CEL compares int and double.
fn int_to_double(value: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
    let double = value as f64;
    double
}

/// Most members of an object that is searched from its start: they lie in one node of its tree.
const SMALL: usize = 11;

/// Returns a member of an object.
///
/// The tree compares texts on its way to a name; in a small object, lengths tell most names apart.
fn member<'a>(fields: &'a serde_json::Map<String, Json>, name: &str) -> Option<&'a Json> {
    if fields.len() > SMALL {
        return fields.get(name);
    }
    let mut fields = fields.iter();
    fields.find_map(|(key, value)| (key.len() == name.len() && key == name).then_some(value))
}

/// What stands at the end of a path.
enum Found<'a> {
    Null,
    Json(&'a Json),
    Value(Value<'a>),
    Document,
}

impl<'a> Frame<'a> {
    /// Returns the value of a term; `None` is null.
    pub(super) fn value(&mut self, term: &'a Term) -> Result<Option<Value<'a>>, Stop> {
        Ok(Some(match term {
            Term::Null => return Ok(None),
            Term::Bool(value) => Value::Bool(*value),
            Term::Int(value) => Value::Int(*value),
            Term::Double(value) => Value::Double(*value),
            Term::Text(value) => Value::Text(Cow::Borrowed(value)),
            Term::Instant(value) => Value::Instant(*value),
            Term::Span(value) => Value::Span(*value),
            Term::Now => Value::Instant(self.subject.now),
            Term::Path(path) => return self.field(path),
            Term::MapValue(map, key) => return self.map_value(map, key),
            Term::Name(root, part) => Value::Text(self.name(*root, *part)?),
            Term::Arithmetic(operator, left, right) => {
                return self.arithmetic(*operator, left, right);
            }
            Term::Negate(of) => match self.value(of)? {
                None => return Ok(None),
                Some(Value::Int(value)) => match value.checked_neg() {
                    Some(value) => Value::Int(value),
                    None => return Err(self.broken("a number is out of range")),
                },
                Some(Value::Double(value)) => Value::Double(-value),
                Some(_) => return Err(self.broken("a number was expected")),
            },
            Term::Choose(choice) => {
                return match self.condition(&choice.test) {
                    Truth::True => self.value(&choice.yes),
                    Truth::False => self.value(&choice.no),
                    Truth::Unknown if choice.can_break => Err(Stop::Unread),
                    Truth::Unknown => self.undecided_choice(&choice.yes, &choice.no),
                    Truth::Broken => Err(Stop::Broken),
                };
            }
            Term::Condition(condition) => match self.condition(condition) {
                Truth::True => Value::Bool(true),
                Truth::False => Value::Bool(false),
                Truth::Unknown => return Err(Stop::Unread),
                Truth::Broken => return Err(Stop::Broken),
            },
            Term::TextSize(of) => match self.value(of)? {
                Some(Value::Text(text)) => length(text.chars().count()),
                _ => return Err(self.broken("a text was expected")),
            },
            Term::MapSize(map) => match self.map(map)? {
                Some(map) => length(map.len()),
                None => return Err(self.broken("values of other types were expected")),
            },
            Term::ListSize(list) => Value::Int(self.count(list)?),
            Term::Recase(case, of) => match self.value(of)? {
                None => return Ok(None),
                Some(Value::Text(text)) => Value::Text(recase(*case, text)),
                Some(_) => return Err(self.broken("a text was expected")),
            },
            Term::ToInt(of) => match self.value(of)? {
                None => return Ok(None),
                Some(Value::Text(text)) => match text.parse() {
                    Ok(value) => Value::Int(value),
                    Err(_) => {
                        return Err(self.broken("a text is no number; test its form first"));
                    }
                },
                Some(_) => return Err(self.broken("a text was expected")),
            },
            Term::ToInstant(of) => match self.value(of)? {
                None => return Ok(None),
                Some(Value::Text(text)) => match text.parse() {
                    Ok(value) => Value::Instant(value),
                    Err(_) => {
                        return Err(self.broken("a text is no instant; test its form first"));
                    }
                },
                Some(_) => return Err(self.broken("a text was expected")),
            },
            Term::Prefix(of) => match self.value(of)? {
                None => return Ok(None),
                Some(Value::Text(text)) => match network::parse_range(&text) {
                    Some(range) => Value::Int(i64::from(range.prefix_len())),
                    None => {
                        let reason = "a text is no address range; test its form first";
                        return Err(self.broken(reason));
                    }
                },
                Some(_) => return Err(self.broken("a text was expected")),
            },
        }))
    }

    /// Returns the value of a choice whose test is unknown: both sides may be equal.
    #[inline(never)]
    fn undecided_choice(&mut self, yes: &'a Term, no: &'a Term) -> Result<Option<Value<'a>>, Stop> {
        match (self.value(yes), self.value(no)) {
            (Ok(yes), Ok(no)) if yes == no => Ok(yes),
            _ => Err(Stop::Unread),
        }
    }

    #[inline(never)]
    fn arithmetic(
        &mut self,
        operator: Operator,
        left: &'a Term,
        right: &'a Term,
    ) -> Result<Option<Value<'a>>, Stop> {
        let Some(pair) = self.both(left, right)? else {
            return Ok(None);
        };
        let found = match (operator, pair) {
            (_, (Value::Int(a), Value::Int(b))) => match operator {
                Operator::Add => a.checked_add(b),
                Operator::Subtract => a.checked_sub(b),
                Operator::Multiply => a.checked_mul(b),
                Operator::Divide => a.checked_div(b),
                Operator::Remainder => a.checked_rem(b),
            }
            .map(Value::Int),
            (_, (Value::Double(a), Value::Double(b))) => Some(Value::Double(match operator {
                Operator::Add => a + b,
                Operator::Subtract => a - b,
                Operator::Multiply => a * b,
                Operator::Divide => a / b,
                Operator::Remainder => a % b,
            })),
            (Operator::Add, (Value::Text(a), Value::Text(b))) => {
                let mut text = a.into_owned();
                text.push_str(&b);
                Some(Value::Text(Cow::Owned(text)))
            }
            (Operator::Subtract, (Value::Instant(a), Value::Instant(b))) => {
                Some(Value::Span(a.duration_since(b)))
            }
            (Operator::Add, (Value::Instant(at), Value::Span(span)))
            | (Operator::Add, (Value::Span(span), Value::Instant(at))) => {
                return match at.checked_add(span) {
                    Ok(at) => Ok(Some(Value::Instant(at))),
                    Err(_) => Err(self.broken("an instant is out of range")),
                };
            }
            (Operator::Subtract, (Value::Instant(at), Value::Span(span))) => {
                return match at.checked_sub(span) {
                    Ok(at) => Ok(Some(Value::Instant(at))),
                    Err(_) => Err(self.broken("an instant is out of range")),
                };
            }
            (Operator::Add, (Value::Span(a), Value::Span(b))) => a.checked_add(b).map(Value::Span),
            (Operator::Subtract, (Value::Span(a), Value::Span(b))) => {
                a.checked_sub(b).map(Value::Span)
            }
            _ => return Err(self.broken("values of other types were expected")),
        };
        match found {
            Some(value) => Ok(Some(value)),
            None => Err(self.broken("a number is out of range")),
        }
    }

    /// Returns part of the name of a document.
    #[inline(never)]
    fn name(&mut self, root: Root, part: NamePart) -> Result<Cow<'a, str>, Stop> {
        let document = match root {
            Root::Subject => self.subject.document,
            Root::Account => match self.subject.account {
                Some(document) => document,
                None => return Err(Stop::Unread),
            },
            Root::Slot(slot) => match self.slots.get(slot) {
                Some(Slot::Document(document)) => document,
                _ => return Err(self.broken("a document was expected")),
            },
        };
        Ok(Cow::Borrowed(match part {
            NamePart::Id => &document.id,
            NamePart::Name => &document.name,
            NamePart::Region => &document.region,
            NamePart::Account => &document.account,
        }))
    }

    /// Whether a term is null, exactly.
    pub(super) fn is_null(&mut self, term: &'a Term) -> Result<bool, Stop> {
        let Term::Path(path) = term else {
            return Ok(self.value(term)?.is_none());
        };
        if path.part == Part::Tags {
            return Ok(self.map(path)?.is_none());
        }
        match self.find(path)? {
            Found::Null => Ok(true),
            // A value that does not fit its declaration is no value.
            Found::Json(found) if fits(found, path.leaf) => Ok(false),
            Found::Json(_) => Err(self.misfit(path, path.steps.len(), does_not_fit())),
            Found::Value(_) | Found::Document => Ok(false),
        }
    }

    /// Returns the JSON at the end of a path; `None` is null.
    pub(super) fn json(&mut self, path: &'a Path) -> Result<Option<&'a Json>, Stop> {
        match self.find(path)? {
            Found::Null => Ok(None),
            Found::Json(found) if fits(found, path.leaf) => Ok(Some(found)),
            Found::Json(_) => Err(self.misfit(path, path.steps.len(), does_not_fit())),
            Found::Value(_) | Found::Document => {
                Err(self.broken("values of other types were expected"))
            }
        }
    }

    /// Returns the scalar at the end of a path; `None` is null.
    fn field(&mut self, path: &'a Path) -> Result<Option<Value<'a>>, Stop> {
        let found = match self.find(path)? {
            Found::Null => return Ok(None),
            Found::Value(value) => return Ok(Some(value)),
            Found::Document => return Err(self.broken("values of other types were expected")),
            Found::Json(found) => found,
        };
        let value = match (path.leaf, found) {
            (Leaf::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
            (Leaf::Int, Json::Number(value)) => value.as_i64().map(Value::Int),
            (Leaf::Double, Json::Number(value)) => value.as_f64().map(Value::Double),
            (Leaf::Text, Json::String(value)) => Some(Value::Text(Cow::Borrowed(value))),
            (Leaf::Instant, Json::String(value)) => value.parse().ok().map(Value::Instant),
            _ => None,
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => Err(self.misfit(path, path.steps.len(), does_not_fit())),
        }
    }

    /// Says whether the text at the end of a path is one of `texts`; null is none.
    #[inline(never)]
    pub(super) fn one_of(&mut self, path: &'a Path, texts: &[String]) -> Truth {
        let found = match self.find(path) {
            Ok(Found::Json(Json::String(text))) => text.as_str(),
            Ok(Found::Value(Value::Text(text))) => {
                return texts.iter().any(|of| *of == text).into();
            }
            Ok(Found::Null) => return Truth::False,
            Ok(Found::Json(_)) => {
                return self.misfit(path, path.steps.len(), does_not_fit()).into();
            }
            Ok(Found::Value(_) | Found::Document) => {
                return self.broken("values of other types were expected").into();
            }
            Err(stop) => return stop.into(),
        };
        texts.iter().any(|of| of == found).into()
    }

    /// Returns the integer that a term stands for; `None` is null.
    pub(super) fn int(&mut self, term: &'a Term) -> Result<Option<i64>, Stop> {
        if let Term::Int(value) = term {
            return Ok(Some(*value));
        }
        if let Term::Path(path) = term
            && let Found::Json(Json::Number(number)) = self.find(path)?
            && let Some(number) = number.as_i64()
        {
            return Ok(Some(number));
        }
        match self.value(term)? {
            None => Ok(None),
            Some(Value::Int(value)) => Ok(Some(value)),
            Some(_) => Err(self.broken("a whole number was expected")),
        }
    }

    /// Walks a path.
    fn find(&mut self, path: &'a Path) -> Result<Found<'a>, Stop> {
        let mut at: &'a Json = match path.root {
            Root::Subject => &self.subject.document.config,
            Root::Account => match self.subject.account {
                Some(document) => &document.config,
                None => {
                    let gap = || Gap {
                        call: path.call.clone(),
                        error: "the account's document has not been read".to_owned(),
                    };
                    return Err(self.gap(|| "account".to_owned(), gap));
                }
            },
            Root::Slot(slot) => match self.slots.get(slot) {
                Some(Slot::Json { value, .. }) => value,
                Some(Slot::Value(value)) => return Ok(Found::Value(value.clone())),
                Some(Slot::Document(_)) if path.steps.is_empty() => return Ok(Found::Document),
                Some(Slot::Document(document)) => &document.config,
                Some(Slot::Empty) | None => {
                    return Err(self.broken("values of other types were expected"));
                }
            },
        };
        for (depth, step) in path.steps.iter().enumerate() {
            match (step, at) {
                (Step::Field { name, required }, Json::Object(fields)) => {
                    match member(fields, name) {
                        None => return Err(self.unread(path, depth + 1)),
                        Some(Json::Null) if *required => {
                            return Err(self.misfit(path, depth + 1, does_not_fit()));
                        }
                        Some(Json::Null) => return Ok(Found::Null),
                        Some(found) => at = found,
                    }
                }
                (Step::Index(index), Json::Array(items)) => match items.get(*index) {
                    None => return Ok(Found::Null),
                    // A list holds no null.
                    Some(Json::Null) => {
                        return Err(self.misfit(path, depth + 1, does_not_fit()));
                    }
                    Some(found) => at = found,
                },
                _ => return Err(self.misfit(path, depth, does_not_fit())),
            }
        }
        Ok(Found::Json(at))
    }

    /// Notes that a field was not read.
    fn unread(&mut self, path: &'a Path, depth: usize) -> Stop {
        self.missing(path, depth, || "not read".to_owned())
    }

    /// Notes that a value cannot be used.
    #[inline(never)]
    pub(super) fn misfit(&mut self, path: &'a Path, depth: usize, reason: String) -> Stop {
        if !self.recorder.is_on {
            return Stop::Unread;
        }
        let place = self.place_of(path, depth);
        let gap = Gap {
            call: path.call.clone(),
            error: reason,
        };
        let name = self.gap_name(path, &place);
        self.recorder.add_gap(name, gap);
        Stop::Unread
    }

    #[inline(never)]
    fn missing(&mut self, path: &'a Path, depth: usize, reason: impl FnOnce() -> String) -> Stop {
        if !self.recorder.is_on {
            return Stop::Unread;
        }
        let place = self.place_of(path, depth);
        let known = self
            .document_of(path)
            .and_then(|document| explain(&document.gaps, &place))
            .cloned();
        let gap = known.unwrap_or_else(|| Gap {
            call: path.call.clone(),
            error: reason(),
        });
        let name = self.gap_name(path, &place);
        self.recorder.add_gap(name, gap);
        Stop::Unread
    }

    /// Returns where the first `depth` steps of a path lead within its document:
    /// `config.Rules[2].From`, `tags`.
    #[inline(never)]
    fn place_of(&self, path: &Path, depth: usize) -> String {
        let mut place = match path.root {
            Root::Slot(slot) => match self.slots.get(slot) {
                Some(Slot::Json { list, index, .. }) => {
                    format!("{}[{index}]", self.place_of(list, list.steps.len()))
                }
                _ => "config".to_owned(),
            },
            Root::Subject | Root::Account => "config".to_owned(),
        };
        if path.part == Part::Tags && path.steps.is_empty() {
            return "tags".to_owned();
        }
        for step in path.steps.iter().take(depth) {
            match step {
                Step::Field { name, .. } => {
                    place.push('.');
                    place.push_str(name);
                }
                Step::Index(index) => place.push_str(&format!("[{index}]")),
            }
        }
        place
    }

    /// Returns the name of a gap at `place` of the document in which a path lies.
    fn gap_name(&self, path: &Path, place: &str) -> String {
        let Some(document) = self.document_of(path) else {
            return place.to_owned();
        };
        if std::ptr::eq(document, self.subject.document) {
            return place.to_owned();
        }
        if self
            .subject
            .account
            .is_some_and(|a| std::ptr::eq(a, document))
        {
            return match place.strip_prefix("config") {
                Some(rest) => format!("account{rest}"),
                None => format!("account.{place}"),
            };
        }
        format!("{}#{place}", document.urn)
    }

    #[inline(never)]
    fn map_value(&mut self, path: &'a Path, key: &'a Term) -> Result<Option<Value<'a>>, Stop> {
        let Some(map) = self.map(path)? else {
            return Ok(None);
        };
        match self.value(key)? {
            Some(Value::Text(key)) => match map.get(&key) {
                Ok(value) => Ok(value.map(|text| Value::Text(Cow::Borrowed(text)))),
                Err(_) => Err(self.misfit(path, path.steps.len(), does_not_fit())),
            },
            _ => Err(self.broken("a text was expected")),
        }
    }

    pub(super) fn has_key(&mut self, map: &'a Path, key: &'a Term) -> Truth {
        let start = self.recorder.mark();
        match (self.map(map), self.value(key)) {
            // Null on either side is false, whatever the other is.
            (Ok(None), _) | (_, Ok(None)) => {
                self.recorder.forget_gaps(&start);
                Truth::False
            }
            (Ok(Some(map)), Ok(Some(Value::Text(key)))) => map.has(&key).into(),
            (Ok(_), Ok(_)) => self.broken("a text was expected").into(),
            (Err(a), Err(b)) => Truth::from(a).undecided(b.into()),
            (Err(stop), _) | (_, Err(stop)) => stop.into(),
        }
    }

    /// Returns a map; `None` is null.
    pub(super) fn map(&mut self, path: &'a Path) -> Result<Option<Map<'a>>, Stop> {
        if path.part == Part::Tags && path.steps.is_empty() {
            let Some(document) = self.document_of(path) else {
                return Err(self.broken("a document was expected"));
            };
            return match &document.tags {
                Some(tags) => Ok(Some(Map::Tags(tags))),
                None => Err(self.unread(path, 0)),
            };
        }
        match self.json(path)? {
            None => Ok(None),
            Some(Json::Object(fields)) => Ok(Some(Map::Field(fields))),
            Some(_) => Err(self.misfit(path, path.steps.len(), does_not_fit())),
        }
    }
}

/// A true map.
#[derive(Debug, Clone, Copy)]
pub(super) enum Map<'a> {
    Tags(&'a std::collections::BTreeMap<String, String>),
    Field(&'a serde_json::Map<String, Json>),
}

impl<'a> Map<'a> {
    fn get(self, key: &str) -> Result<Option<&'a str>, Stop> {
        match self {
            Map::Tags(tags) => Ok(tags.get(key).map(String::as_str)),
            Map::Field(fields) => match fields.get(key) {
                None | Some(Json::Null) => Ok(None),
                Some(Json::String(text)) => Ok(Some(text)),
                Some(_) => Err(Stop::Unread),
            },
        }
    }

    fn has(self, key: &str) -> bool {
        match self {
            Map::Tags(tags) => tags.contains_key(key),
            Map::Field(fields) => fields.contains_key(key),
        }
    }

    fn len(self) -> usize {
        match self {
            Map::Tags(tags) => tags.len(),
            Map::Field(fields) => fields.len(),
        }
    }

    pub(super) fn keys(self) -> Vec<&'a str> {
        match self {
            Map::Tags(tags) => tags.keys().map(String::as_str).collect(),
            Map::Field(fields) => fields.keys().map(String::as_str).collect(),
        }
    }
}

/// Whether JSON that is not null is of the kind that a path should end at.
fn fits(found: &Json, leaf: Leaf) -> bool {
    match leaf {
        Leaf::Bool => found.is_boolean(),
        Leaf::Int => found.as_i64().is_some(),
        Leaf::Double => found.is_number(),
        Leaf::Text => found.is_string(),
        Leaf::Instant => found
            .as_str()
            .is_some_and(|text| text.parse::<Timestamp>().is_ok()),
        Leaf::Object => found.is_object(),
        Leaf::List => found.is_array(),
        Leaf::Json => true,
    }
}

fn does_not_fit() -> String {
    "the value does not fit its declaration".to_owned()
}

fn length(length: usize) -> Value<'static> {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn recase(case: Case, text: Cow<'_, str>) -> Cow<'_, str> {
    let differs = match case {
        Case::Lower => text.bytes().any(|b| b.is_ascii_uppercase()),
        Case::Upper => text.bytes().any(|b| b.is_ascii_lowercase()),
    };
    match (differs, case) {
        (false, _) => text,
        (true, Case::Lower) => Cow::Owned(text.to_ascii_lowercase()),
        (true, Case::Upper) => Cow::Owned(text.to_ascii_uppercase()),
    }
}
