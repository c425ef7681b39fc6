//! Lists: their elements, the stages on the way, and what is asked of them.

use std::ops::ControlFlow;
use std::rc::Rc;

use protocol::Document;
use serde_json::Value as Json;

use super::values::{Slot, Value};
use super::{Frame, Stop, Truth};
use crate::expression::recorder::Mark;
use crate::expression::tree::{Condition, List, Path, Source, Stage, Term};
use crate::ruleset::Direction;
use crate::verdict::Relation;

/// An element on its way through the stages.
struct Element<'a> {
    /// Whether it belongs to the list after all filters.
    belongs: Truth,
    value: Result<Slot<'a>, Stop>,
    /// The relation and document it came from.
    origin: Option<(usize, &'a Document)>,
    /// The notes before its stages were evaluated.
    before: Mark,
}

/// Whether all elements there are were visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coverage {
    Whole,
    /// The visitor needs no more.
    Stopped,
    /// There may be more; the gap has been noted.
    Partial,
}

impl<'a> Frame<'a> {
    /// Answers whether `condition` is `wanted` for an element.
    #[inline(never)]
    pub(super) fn exists(
        &mut self,
        list: &'a List,
        slot: usize,
        condition: &'a Condition,
        wanted: bool,
    ) -> Truth {
        self.any(list, |frame, value| {
            frame.bind(slot, value);
            let truth = frame.condition(condition);
            if wanted { truth } else { truth.not() }
        })
    }

    /// Answers whether an element passes a test.
    fn any(&mut self, list: &'a List, mut test: impl FnMut(&mut Self, Slot<'a>) -> Truth) -> Truth {
        let start = self.recorder.mark();
        let mut whole = Truth::False;
        let covered = self.each(list, &mut |frame: &mut Self, element| {
            let holds = match element.value {
                Ok(value) => test(frame, value),
                Err(stop) => stop.into(),
            };
            match element.belongs.and(holds) {
                Truth::True => {
                    frame.recorder.decided_by(&start, &element.before);
                    if let Some((relation, document)) = element.origin {
                        frame.recorder.add_witness(relation, document);
                    }
                    whole = Truth::True;
                    return ControlFlow::Break(());
                }
                Truth::False => frame.recorder.forget_gaps(&element.before),
                undecided => whole = whole.undecided(undecided),
            }
            ControlFlow::Continue(())
        });
        match covered {
            Ok(Coverage::Stopped | Coverage::Whole) => {}
            Ok(Coverage::Partial) => whole = whole.undecided(Truth::Unknown),
            Err(stop) => whole = whole.undecided(stop.into()),
        }
        if whole == Truth::False {
            self.recorder.forget_gaps(&start);
            self.recorder.forget_witnesses(&start);
        }
        whole
    }

    /// Answers whether `condition` holds for exactly one element.
    #[inline(never)]
    pub(super) fn exists_one(
        &mut self,
        list: &'a List,
        slot: usize,
        condition: &'a Condition,
    ) -> Truth {
        let start = self.recorder.mark();
        let mut certain = 0;
        let mut whole = Truth::True;
        let covered = self.each(list, &mut |frame: &mut Self, element| {
            let holds = match element.value {
                Ok(value) => {
                    frame.bind(slot, value);
                    frame.condition(condition)
                }
                Err(stop) => stop.into(),
            };
            match element.belongs.and(holds) {
                Truth::True => certain += 1,
                Truth::False => frame.recorder.forget_gaps(&element.before),
                undecided => whole = whole.undecided(undecided),
            }
            // Two are too many, whatever the others are.
            if certain > 1 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if certain > 1 {
            self.recorder.forget_gaps(&start);
            self.recorder.forget_witnesses(&start);
            return Truth::False;
        }
        match covered {
            Ok(Coverage::Stopped | Coverage::Whole) => {}
            Ok(Coverage::Partial) => whole = whole.undecided(Truth::Unknown),
            Err(stop) => whole = whole.undecided(stop.into()),
        }
        match whole {
            Truth::True => (certain == 1).into(),
            undecided => undecided,
        }
    }

    /// Answers whether a value is among the elements.
    #[inline(never)]
    pub(super) fn within(&mut self, item: &'a Term, list: &'a List) -> Truth {
        let start = self.recorder.mark();
        let item = match self.value(item) {
            Ok(Some(item)) => item,
            Ok(None) => return Truth::False,
            Err(stop) => return stop.into(),
        };
        // It has a value, whatever was missing on the way to it.
        self.recorder.forget_gaps(&start);
        // The common case, a list of constants, needs no visitor.
        if let (Source::Literal(terms), []) = (&list.source, list.stages.as_slice())
            && let Some(found) = among(&item, terms)
        {
            return found.into();
        }
        self.any(list, |frame, slot| match frame.equals(slot, &item) {
            Ok(same) => same.into(),
            Err(stop) => stop.into(),
        })
    }

    /// Counts the elements.
    #[inline(never)]
    pub(super) fn count(&mut self, list: &'a List) -> Result<i64, Stop> {
        if let (Source::Field(path), []) = (&list.source, list.stages.as_slice()) {
            return match self.json(path)? {
                Some(Json::Array(items)) => Ok(i64::try_from(items.len()).unwrap_or(i64::MAX)),
                _ => Err(self.broken("values of other types were expected")),
            };
        }
        let mut count = 0;
        let mut whole = Truth::True;
        let covered = self.each(list, &mut |_: &mut Self, element| {
            match element.belongs {
                Truth::True => count += 1,
                Truth::False => {}
                undecided => whole = whole.undecided(undecided),
            }
            ControlFlow::Continue(())
        })?;
        match (whole, covered) {
            (Truth::Broken, Coverage::Whole) => Err(Stop::Broken),
            (Truth::Unknown | Truth::Broken, _) | (_, Coverage::Partial) => Err(Stop::Unread),
            _ => Ok(count),
        }
    }

    /// Visits the elements that belong to a list or may belong to it.
    ///
    /// A null list has none.
    fn each(
        &mut self,
        list: &'a List,
        visit: &mut impl FnMut(&mut Self, Element<'a>) -> ControlFlow<()>,
    ) -> Result<Coverage, Stop> {
        match &list.source {
            Source::Field(path) => {
                let Some(Json::Array(items)) = self.json(path)? else {
                    return Ok(Coverage::Whole);
                };
                for (index, value) in items.iter().enumerate() {
                    let value = if value.is_null() {
                        Err(self.null_element(path, index))
                    } else {
                        Ok(Slot::Json {
                            value,
                            list: path,
                            index,
                        })
                    };
                    if self.visit(list, value, None, visit)?.is_break() {
                        return Ok(Coverage::Stopped);
                    }
                }
                Ok(Coverage::Whole)
            }
            Source::Keys(path) => {
                let keys = self.map(path)?.map_or_else(Vec::new, |map| map.keys());
                for key in keys {
                    let value = Ok(Slot::Value(Value::Text(key.into())));
                    if self.visit(list, value, None, visit)?.is_break() {
                        return Ok(Coverage::Stopped);
                    }
                }
                Ok(Coverage::Whole)
            }
            Source::Literal(terms) => {
                for term in terms {
                    let value = self.element(term);
                    if self.visit(list, value, None, visit)?.is_break() {
                        return Ok(Coverage::Stopped);
                    }
                }
                Ok(Coverage::Whole)
            }
            Source::Split { text, separator } => {
                let (text, separator) = match self.both(text, separator)? {
                    Some((Value::Text(text), Value::Text(separator))) => (text, separator),
                    Some(_) => return Err(self.broken("a text was expected")),
                    None => return Ok(Coverage::Whole),
                };
                for part in split(&text, &separator) {
                    let value = Ok(Slot::Value(Value::Text(part.to_owned().into())));
                    if self.visit(list, value, None, visit)?.is_break() {
                        return Ok(Coverage::Stopped);
                    }
                }
                Ok(Coverage::Whole)
            }
            Source::Relation(number) => self.each_document(*number, list, visit),
        }
    }

    fn each_document(
        &mut self,
        number: usize,
        list: &'a List,
        visit: &mut impl FnMut(&mut Self, Element<'a>) -> ControlFlow<()>,
    ) -> Result<Coverage, Stop> {
        let relation = self.relation(number)?;
        for document in &relation.documents {
            let document: &'a Document = document;
            let value = Ok(Slot::Document(document));
            if self
                .visit(list, value, Some((number, document)), visit)?
                .is_break()
            {
                return Ok(Coverage::Stopped);
            }
        }
        match &relation.complete {
            Ok(()) => Ok(Coverage::Whole),
            Err(gap) => {
                let reads: &'a [_] = self.relation_reads;
                let path = reads.get(number).map(relation_path).unwrap_or_default();
                self.recorder.add_gap(path, gap.clone());
                Ok(Coverage::Partial)
            }
        }
    }

    /// Returns a relation of the subject; it is asked for once in an evaluation.
    fn relation(&mut self, number: usize) -> Result<Rc<Relation<'a>>, Stop> {
        if let Some(Some(known)) = self.relations.get(number) {
            return Ok(Rc::clone(known));
        }
        let reads: &'a [_] = self.relation_reads;
        let Some(read) = reads.get(number) else {
            return Err(self.broken("values of other types were expected"));
        };
        let found = match read.direction {
            Direction::Outgoing => self.subject.neighbours.linked(&read.name),
            Direction::Incoming | Direction::Account => {
                let mut found = self.subject.neighbours.linked_from(&read.name);
                // Several types may have a relation of that name.
                found.documents.retain(|d| d.type_name == read.type_name);
                found
            }
        };
        let found = Rc::new(found);
        if self.relations.len() < reads.len() {
            self.relations.resize_with(reads.len(), || None);
        }
        if let Some(place) = self.relations.get_mut(number) {
            *place = Some(Rc::clone(&found));
        }
        Ok(found)
    }

    /// Takes an element through the stages, and to the visitor if it may belong.
    fn visit(
        &mut self,
        list: &'a List,
        value: Result<Slot<'a>, Stop>,
        origin: Option<(usize, &'a Document)>,
        visit: &mut impl FnMut(&mut Self, Element<'a>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Stop> {
        self.step()?;
        let before = self.recorder.begin();
        let mut belongs = Truth::True;
        let mut value = value;
        for stage in &list.stages {
            (belongs, value) = self.pass(stage, belongs, value);
            if belongs == Truth::False {
                self.recorder.forget_gaps(&before);
                self.recorder.join(&before);
                return Ok(ControlFlow::Continue(()));
            }
        }
        let element = Element {
            belongs,
            value,
            origin,
            before,
        };
        let flow = visit(self, element);
        if flow.is_continue() {
            self.recorder.join(&before);
        }
        Ok(flow)
    }

    /// Takes an element through one stage.
    fn pass(
        &mut self,
        stage: &'a Stage,
        belongs: Truth,
        value: Result<Slot<'a>, Stop>,
    ) -> (Truth, Result<Slot<'a>, Stop>) {
        let slot = match value {
            Ok(slot) => slot,
            Err(stop) if stage.condition.is_some() => return (belongs.and(stop.into()), value),
            Err(_) => return (belongs, value),
        };
        self.bind(stage.slot, slot.clone());
        let belongs = match &stage.condition {
            Some(condition) => belongs.and(self.condition(condition)),
            None => belongs,
        };
        match &stage.value {
            Some(_) if belongs == Truth::False => (belongs, Ok(slot)),
            Some(term) => (belongs, self.element(term)),
            None => (belongs, Ok(slot)),
        }
    }

    /// Returns the value of a term that the compiler found to be never null.
    fn element(&mut self, term: &'a Term) -> Result<Slot<'a>, Stop> {
        match self.value(term)? {
            Some(value) => Ok(Slot::Value(value)),
            // Only where the condition that excludes null is unknown.
            None => Err(Stop::Unread),
        }
    }

    /// Says whether an element is a value.
    fn equals(&mut self, slot: Slot<'a>, item: &Value<'_>) -> Result<bool, Stop> {
        let (found, place) = match slot {
            Slot::Value(value) => (Some(value), None),
            Slot::Json { value, list, index } => {
                let found = match value {
                    Json::Bool(value) => Some(Value::Bool(*value)),
                    Json::String(text) => Some(Value::Text(text.as_str().into())),
                    Json::Number(number) => number
                        .as_i64()
                        .map(Value::Int)
                        .or_else(|| number.as_f64().map(Value::Double)),
                    Json::Null | Json::Array(_) | Json::Object(_) => None,
                };
                (found, Some((list, index)))
            }
            Slot::Document(_) | Slot::Empty => (None, None),
        };
        match (found.and_then(|value| value.equals(item)), place) {
            (Some(same), _) => Ok(same),
            (None, Some((list, index))) => Err(self.null_element(list, index)),
            (None, None) => Err(self.broken("values of other types were expected")),
        }
    }

    /// Notes an element that does not fit what the list holds.
    fn null_element(&mut self, path: &'a Path, index: usize) -> Stop {
        let reason = format!("the value at position {index} does not fit its declaration");
        self.misfit(path, path.steps.len(), reason)
    }

    fn bind(&mut self, slot: usize, value: Slot<'a>) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = value;
        }
    }
}

/// Says whether a value is among constants; `None` if the list holds anything else.
fn among(item: &Value<'_>, terms: &[Term]) -> Option<bool> {
    let mut is_among = false;
    for term in terms {
        is_among |= match (term, item) {
            (Term::Text(a), Value::Text(b)) => a == b,
            (Term::Int(a), Value::Int(b)) => a == b,
            (Term::Bool(a), Value::Bool(b)) => a == b,
            _ => return None,
        };
    }
    Some(is_among)
}

/// Splits a text as CEL does: by an empty separator into its characters.
fn split<'t>(text: &'t str, separator: &str) -> Vec<&'t str> {
    if separator.is_empty() {
        return text.split("").filter(|part| !part.is_empty()).collect();
    }
    text.split(separator).collect()
}

fn relation_path(read: &crate::expression::tree::RelationRead) -> String {
    let side = match read.direction {
        Direction::Outgoing => "linked",
        Direction::Incoming | Direction::Account => "linked_from",
    };
    format!("{side}.{}", read.name)
}
