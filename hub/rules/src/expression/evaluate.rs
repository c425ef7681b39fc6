//! Evaluates compiled conditions on facts that may be null or unread.

mod lists;
mod values;

use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use protocol::Document;
use protocol::document::Gap;

use self::values::{Slot, Value};
use super::recorder::Recorder;
use super::tree::{Choice, Condition, Order, Path, RelationRead, SLOTS, Term, TextTest};
use crate::network;
use crate::policy::{self, Question};
use crate::verdict::{Relation, Subject};

/// List elements that one evaluation may visit.
const STEPS: u32 = 1_000_000;

/// Kleene's three values, and the mark of a check that cannot be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    /// A fact that decides has not been read.
    Unknown,
    /// An operation that decides has no answer.
    Broken,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Truth::True } else { Truth::False }
    }
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Unread,
    Broken,
}

impl From<Stop> for Truth {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Unread => Truth::Unknown,
            Stop::Broken => Truth::Broken,
        }
    }
}

impl Truth {
    fn not(self) -> Self {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            Truth::Unknown | Truth::Broken => self,
        }
    }

    /// Of two parts of which none decides, what the whole is.
    ///
    /// Unknown prevails: whether the check breaks is known only once all facts are.
    fn undecided(self, other: Self) -> Self {
        match (self, other) {
            (Truth::Unknown, _) | (_, Truth::Unknown) => Truth::Unknown,
            (Truth::Broken, _) | (_, Truth::Broken) => Truth::Broken,
            (other, _) => other,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Truth::False, _) | (_, Truth::False) => Truth::False,
            (Truth::True, other) | (other, Truth::True) => other,
            _ => self.undecided(other),
        }
    }
}

/// The facts and the notes of one evaluation.
pub(crate) struct Frame<'a> {
    subject: Subject<'a>,
    relation_reads: &'a [RelationRead],
    relations: Vec<Option<Rc<Relation<'a>>>>,
    slots: [Slot<'a>; SLOTS],
    steps: u32,
    pub(crate) recorder: Recorder<'a>,
}

impl<'a> Frame<'a> {
    /// Begins an evaluation; without `notes` only its answer will be asked for.
    pub(crate) fn new(
        subject: Subject<'a>,
        relation_reads: &'a [RelationRead],
        notes: bool,
    ) -> Self {
        Self {
            subject,
            relation_reads,
            relations: Vec::new(),
            slots: [const { Slot::Empty }; SLOTS],
            steps: 0,
            recorder: Recorder::new(notes),
        }
    }

    fn broken(&mut self, reason: &'static str) -> Stop {
        self.recorder.break_with(reason);
        Stop::Broken
    }

    fn gap(&mut self, path: impl FnOnce() -> String, gap: impl FnOnce() -> Gap) -> Stop {
        if self.recorder.is_on {
            self.recorder.add_gap(path(), gap());
        }
        Stop::Unread
    }

    /// Counts a visit of a list element.
    fn step(&mut self) -> Result<(), Stop> {
        self.steps += 1;
        if self.steps > STEPS {
            return Err(self.broken("the check visits too many list elements"));
        }
        Ok(())
    }

    /// Answers a condition.
    ///
    /// It calls itself for each part. What the kinds of conditions need stays out of it, so that
    /// its own frame is small.
    pub(crate) fn condition(&mut self, condition: &'a Condition) -> Truth {
        match condition {
            Condition::Constant(value) => (*value).into(),
            Condition::Holds(term) => self.holds(term),
            Condition::Not(of) => self.condition(of).not(),
            Condition::All(parts) => self.joined(parts, Truth::False),
            Condition::Any(parts) => self.joined(parts, Truth::True),
            Condition::Choose(choice) => self.chosen(choice),
            Condition::IsNull(term) => match self.is_null(term) {
                Ok(is_null) => is_null.into(),
                Err(stop) => stop.into(),
            },
            Condition::Same(left, right) => self.same(left, right),
            Condition::Compare(order, left, right) => self.compare(*order, left, right),
            Condition::CompareNow {
                order,
                left,
                right,
                rising,
            } => self.compare_now(*order, (left, right), *rising),
            Condition::Text(test, subject, part) => self.text(*test, subject, part),
            Condition::Matches(subject, regex) => self.matches(subject, regex),
            Condition::Contains { outer, inner } => self.ranges(outer, inner, |outer, inner| {
                network::contains(&outer, &inner)
            }),
            Condition::IsPublic(of) => self.range(of, |range| network::is_public(&range)),
            Condition::IsAny(of) => self.range(of, |range| range.prefix_len() == 0),
            Condition::PortIn { from, to, port } => match self.port_in(from, to, port) {
                Ok(is_in) => is_in.into(),
                Err(stop) => stop.into(),
            },
            Condition::Policy {
                question,
                policy,
                arguments,
            } => self.policy(*question, policy, arguments),
            Condition::HasKey(map, key) => self.has_key(map, key),
            Condition::In(item, list) => self.within(item, list),
            Condition::OneOf(path, texts) => self.one_of(path, texts),
            Condition::Exists {
                list,
                slot,
                condition,
                wanted,
            } => self.exists(list, *slot, condition, *wanted),
            Condition::ExistsOne {
                list,
                slot,
                condition,
            } => self.exists_one(list, *slot, condition),
        }
    }

    #[inline(never)]
    fn holds(&mut self, term: &'a Term) -> Truth {
        match self.value(term) {
            Ok(Some(Value::Bool(value))) => value.into(),
            Ok(None) => Truth::False,
            Ok(Some(_)) => self.broken("a bool was expected").into(),
            Err(stop) => stop.into(),
        }
    }

    /// Answers a chain: one part that is `deciding` decides alone.
    fn joined(&mut self, parts: &'a [Condition], deciding: Truth) -> Truth {
        let start = self.recorder.mark();
        let mut whole = deciding.not();
        for part in parts {
            let before = self.recorder.begin();
            let truth = self.condition(part);
            if truth == deciding {
                self.recorder.decided_by(&start, &before);
                return deciding;
            }
            self.recorder.join(&before);
            whole = whole.undecided(truth);
        }
        whole
    }

    /// Answers a choice; where the test is unknown, both sides may still agree.
    #[inline(never)]
    fn chosen(&mut self, choice: &'a Choice<Condition>) -> Truth {
        let start = self.recorder.mark();
        match self.condition(&choice.test) {
            Truth::True => self.condition(&choice.yes),
            Truth::False => self.condition(&choice.no),
            Truth::Broken => Truth::Broken,
            Truth::Unknown if choice.can_break => Truth::Unknown,
            Truth::Unknown => {
                let yes = self.condition(&choice.yes);
                let no = self.condition(&choice.no);
                if yes == no && matches!(yes, Truth::True | Truth::False) {
                    self.recorder.forget_gaps(&start);
                    self.recorder.forget_witnesses(&start);
                    return yes;
                }
                Truth::Unknown
            }
        }
    }

    #[inline(never)]
    fn same(&mut self, left: &'a Term, right: &'a Term) -> Truth {
        let (left, right) = (self.value(left), self.value(right));
        match (left, right) {
            (Ok(Some(left)), Ok(Some(right))) => match left.equals(&right) {
                Some(same) => same.into(),
                None => self.broken("values of other types were expected").into(),
            },
            (Ok(left), Ok(right)) => (left.is_none() && right.is_none()).into(),
            (Err(a), Err(b)) => Truth::from(a).undecided(b.into()),
            (Err(stop), Ok(_)) | (Ok(_), Err(stop)) => stop.into(),
        }
    }

    /// Returns two values, or `None` where one of them is null: then the other does not matter.
    fn both(
        &mut self,
        left: &'a Term,
        right: &'a Term,
    ) -> Result<Option<(Value<'a>, Value<'a>)>, Stop> {
        let start = self.recorder.mark();
        let left = self.value(left);
        if let Ok(None) = left {
            return Ok(None);
        }
        let right = self.value(right);
        match (left, right) {
            (Ok(None), _) | (_, Ok(None)) => {
                self.recorder.forget_gaps(&start);
                Ok(None)
            }
            (Ok(Some(left)), Ok(Some(right))) => Ok(Some((left, right))),
            (Err(Stop::Unread), _) | (_, Err(Stop::Unread)) => Err(Stop::Unread),
            (Err(Stop::Broken), _) | (_, Err(Stop::Broken)) => Err(Stop::Broken),
        }
    }

    #[inline(never)]
    fn compare(&mut self, order: Order, left: &'a Term, right: &'a Term) -> Truth {
        match self.both(left, right) {
            Ok(Some((left, right))) => match left.compare(&right) {
                Some(found) => order.holds(found).into(),
                None => self.broken("values without an order were compared").into(),
            },
            Ok(None) => Truth::False,
            Err(stop) => stop.into(),
        }
    }

    #[inline(never)]
    fn compare_now(
        &mut self,
        order: Order,
        (left, right): (&'a Term, &'a Term),
        rising: bool,
    ) -> Truth {
        match self.both(left, right) {
            Ok(Some((left, right))) => match left.nanos_since(&right) {
                Some(ahead) => {
                    let due = turning_point(self.subject.now, order, ahead, rising);
                    self.recorder.add_due(due);
                    order.holds(ahead.cmp(&0)).into()
                }
                None => self.broken("values without an order were compared").into(),
            },
            Ok(None) => Truth::False,
            Err(stop) => stop.into(),
        }
    }

    #[inline(never)]
    fn text(&mut self, test: TextTest, subject: &'a Term, part: &'a Term) -> Truth {
        match self.both(subject, part) {
            Ok(Some((Value::Text(text), Value::Text(part)))) => match test {
                TextTest::StartsWith => text.starts_with(part.as_ref()),
                TextTest::EndsWith => text.ends_with(part.as_ref()),
                TextTest::Contains => text.contains(part.as_ref()),
            }
            .into(),
            Ok(None) => Truth::False,
            Ok(Some(_)) => self.broken("a text was expected").into(),
            Err(stop) => stop.into(),
        }
    }

    #[inline(never)]
    fn matches(&mut self, subject: &'a Term, regex: &regex::Regex) -> Truth {
        match self.value(subject) {
            Ok(Some(Value::Text(text))) => regex.is_match(&text).into(),
            Ok(None) => Truth::False,
            Ok(Some(_)) => self.broken("a text was expected").into(),
            Err(stop) => stop.into(),
        }
    }

    fn parse_range(&mut self, value: &Value<'_>) -> Result<ipnet::IpNet, Stop> {
        let Value::Text(text) = value else {
            return Err(self.broken("a text was expected"));
        };
        match network::parse_range(text) {
            Some(range) => Ok(range),
            None => Err(self.broken("a text is no address range; test its form first")),
        }
    }

    #[inline(never)]
    fn range(&mut self, of: &'a Term, test: impl FnOnce(ipnet::IpNet) -> bool) -> Truth {
        match self.value(of) {
            Ok(Some(value)) => match self.parse_range(&value) {
                Ok(range) => test(range).into(),
                Err(stop) => stop.into(),
            },
            Ok(None) => Truth::False,
            Err(stop) => stop.into(),
        }
    }

    #[inline(never)]
    fn ranges(
        &mut self,
        outer: &'a Term,
        inner: &'a Term,
        test: impl FnOnce(ipnet::IpNet, ipnet::IpNet) -> bool,
    ) -> Truth {
        match self.both(outer, inner) {
            Ok(Some((outer, inner))) => {
                match (self.parse_range(&outer), self.parse_range(&inner)) {
                    (Ok(outer), Ok(inner)) => test(outer, inner).into(),
                    (Err(stop), _) | (_, Err(stop)) => stop.into(),
                }
            }
            Ok(None) => Truth::False,
            Err(stop) => stop.into(),
        }
    }

    #[inline(never)]
    fn port_in(&mut self, from: &'a Term, to: &'a Term, port: &'a Term) -> Result<bool, Stop> {
        let (from, to, port) = (self.int(from), self.int(to), self.int(port));
        let stops = [&from, &to, &port].map(|end| end.as_ref().err().copied());
        if stops.contains(&Some(Stop::Unread)) {
            return Err(Stop::Unread);
        }
        let (from, to) = (from?, to?);
        Ok(port?.is_some_and(|port| network::port_in(from, to, port)))
    }

    #[inline(never)]
    fn policy(&mut self, question: Question, path: &'a Path, arguments: &'a [Term]) -> Truth {
        let document = match self.json(path) {
            Ok(Some(document)) => document,
            Ok(None) => return Truth::False,
            Err(stop) => return stop.into(),
        };
        let mut texts = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match self.value(argument) {
                Ok(Some(Value::Text(text))) => texts.push(text),
                Ok(_) => return self.broken("a text was expected").into(),
                Err(stop) => return stop.into(),
            }
        }
        match policy::ask(question, document, &texts) {
            Ok(answer) => answer.into(),
            Err(malformed) => {
                let reason = format!("malformed policy: {malformed}");
                self.misfit(path, path.steps.len(), reason).into()
            }
        }
    }

    /// Returns the document in which a path lies, where it lies in one.
    fn document_of(&self, path: &Path) -> Option<&'a Document> {
        match path.root {
            super::tree::Root::Subject => Some(self.subject.document),
            super::tree::Root::Account => self.subject.account,
            super::tree::Root::Slot(slot) => match self.slots.get(slot) {
                Some(Slot::Document(document)) => Some(document),
                Some(Slot::Json { list, .. }) => self.document_of(list),
                _ => None,
            },
        }
    }
}

/// Returns the first instant after `now` at which `left order right` turns, where left is `ahead`
/// nanoseconds beyond right and the distance grows (or shrinks) as time passes.
fn turning_point(now: Timestamp, order: Order, ahead: i128, rising: bool) -> Option<Timestamp> {
    // Seen from the side that grows: at which distance the comparison has turned.
    let (ahead, order) = if rising {
        (ahead, order)
    } else {
        let mirrored = match order {
            Order::Less => Order::Greater,
            Order::LessEqual => Order::GreaterEqual,
            Order::Greater => Order::Less,
            Order::GreaterEqual => Order::LessEqual,
        };
        (ahead.checked_neg()?, mirrored)
    };
    let turned_at = match order {
        Order::Less | Order::GreaterEqual => 0,
        Order::LessEqual | Order::Greater => 1,
    };
    let wait = i128::from(turned_at).checked_sub(ahead)?;
    if wait <= 0 {
        return None;
    }
    let span = SignedDuration::try_from_nanos_i128(wait)?;
    now.checked_add(span).ok()
}
