//! The compiled form of an expression: every field resolved, every variable a numbered slot.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use crate::policy::Question;
use crate::ruleset::Direction;

/// Variables that may be in scope at once.
pub(crate) const SLOTS: usize = 8;

/// Something that is true, false or unknown.
#[derive(Debug)]
pub(crate) enum Condition {
    Constant(bool),
    /// A bool; null is false.
    Holds(Term),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Choose(Box<Choice<Condition>>),
    IsNull(Term),
    /// Equality; null equals null only.
    Same(Term, Term),
    Compare(Order, Term, Term),
    /// A comparison in which `now` stands once. `rising` says whether left minus right grows with
    /// time.
    CompareNow {
        order: Order,
        left: Term,
        right: Term,
        rising: bool,
    },
    Text(TextTest, Term, Term),
    Matches(Term, Regex),
    Contains {
        outer: Term,
        inner: Term,
    },
    IsPublic(Term),
    IsAny(Term),
    PortIn {
        from: Term,
        to: Term,
        port: Term,
    },
    Policy {
        question: Question,
        policy: Path,
        arguments: Vec<Term>,
    },
    HasKey(Path, Term),
    In(Term, List),
    /// Whether a text is one of constants: what `==` and `in` mostly ask.
    OneOf(Path, Vec<String>),
    /// Whether `condition` is `wanted` for at least one element: `exists`, and with false the
    /// opposite of `all`.
    Exists {
        list: List,
        slot: usize,
        condition: Box<Condition>,
        wanted: bool,
    },
    ExistsOne {
        list: List,
        slot: usize,
        condition: Box<Condition>,
    },
}

/// `test ? yes : no`.
#[derive(Debug)]
pub(crate) struct Choice<T> {
    pub(crate) test: Condition,
    /// Whether the test may turn out to have no answer once all facts are read: then sides that
    /// agree do not decide without it.
    pub(crate) can_break: bool,
    pub(crate) yes: T,
    pub(crate) no: T,
}

/// Something that has a value, null included.
#[derive(Debug)]
pub(crate) enum Term {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Instant(Timestamp),
    Span(SignedDuration),
    Path(Path),
    MapValue(Path, Box<Term>),
    Name(Root, NamePart),
    Now,
    Arithmetic(Operator, Box<Term>, Box<Term>),
    Negate(Box<Term>),
    Choose(Box<Choice<Term>>),
    Condition(Box<Condition>),
    TextSize(Box<Term>),
    MapSize(Path),
    ListSize(List),
    Recase(Case, Box<Term>),
    ToInt(Box<Term>),
    ToInstant(Box<Term>),
    Prefix(Box<Term>),
}

/// A document or variable at which a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    Subject,
    Account,
    Slot(usize),
}

/// The parts of a resource's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamePart {
    Id,
    Name,
    Region,
    Account,
}

/// A field, or a variable when there are no steps.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) root: Root,
    pub(crate) part: Part,
    pub(crate) steps: Vec<Step>,
    pub(crate) leaf: Leaf,
    /// The call that reads it.
    pub(crate) call: String,
}

/// The part of a document in which a path lies; of no meaning for variables that hold no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Config,
    Tags,
}

/// One step down a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Field { name: String, required: bool },
    Index(usize),
}

/// What stands at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    Bool,
    Int,
    Double,
    Text,
    Instant,
    Object,
    List,
    Json,
}

/// Elements, as a list macro, `in` and `size` see them.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) source: Source,
    pub(crate) stages: Vec<Stage>,
}

/// Where elements come from.
#[derive(Debug)]
pub(crate) enum Source {
    Field(Path),
    Keys(Path),
    Literal(Vec<Term>),
    Split {
        text: Box<Term>,
        separator: Box<Term>,
    },
    /// The relation of this number in [`super::Reads::relations`].
    Relation(usize),
}

/// What happens to each element on its way.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) slot: usize,
    /// The element goes on only where this holds.
    pub(crate) condition: Option<Condition>,
    /// What takes the element's place.
    pub(crate) value: Option<Term>,
}

/// A relation that is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RelationRead {
    pub(crate) direction: Direction,
    pub(crate) name: String,
    /// The type at the other end.
    pub(crate) type_name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Order {
    pub(crate) fn holds(self, found: Ordering) -> bool {
        match self {
            Order::Less => found.is_lt(),
            Order::LessEqual => found.is_le(),
            Order::Greater => found.is_gt(),
            Order::GreaterEqual => found.is_ge(),
        }
    }
}
