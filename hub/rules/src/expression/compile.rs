//! Compiles a parsed expression against the declared types.

mod calls;
mod conditions;
mod lists;
mod terms;

use cel::common::ast::{Expr, IdedExpr, SourceInfo};
use protocol::declare::{Declarations, ResourceType};

use super::Reads;
use super::nullness::{self, Polarity};
use super::refusal::Refusal;
use super::tree::{Condition, Path, SLOTS, Term};
use super::types::Type;

/// Names that no variable may have.
const TAKEN: [&str; 8] = [
    "r",
    "tags",
    "account",
    "account_id",
    "region",
    "now",
    "linked",
    "linked_from",
];

/// Functions, as refusals list them; those of policies follow.
const FUNCTIONS: [&str; 12] = [
    "size",
    "timestamp",
    "duration",
    "int",
    "linked",
    "linked_from",
    "cidr_contains",
    "is_public_cidr",
    "is_any_cidr",
    "cidr_prefix",
    "port_in",
    "has",
];

const METHODS: [&str; 14] = [
    "exists",
    "all",
    "exists_one",
    "filter",
    "map",
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "lowerAscii",
    "upperAscii",
    "split",
    "existsOne",
];

/// A compiled part with its type.
#[derive(Debug)]
struct Typed<'d> {
    term: Term,
    kind: Type<'d>,
    nullable: bool,
    /// 1 where it grows with `now`, -1 where it shrinks, 0 where `now` is not in it.
    slope: i8,
    place: Option<Place>,
}

/// Where a field is declared, for the list of what the check reads.
#[derive(Debug, Clone)]
struct Place {
    of: Of,
    /// `IpPermissions[].FromPort`.
    path: String,
    call: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Subject,
    Account,
    /// A linked document: its fields are not the check's own.
    Neighbour,
}

impl<'d> Typed<'d> {
    /// A value that is never null and does not depend on `now`.
    fn plain(term: Term, kind: Type<'d>) -> Self {
        Self {
            term,
            kind,
            nullable: false,
            slope: 0,
            place: None,
        }
    }

    fn nullable(mut self, nullable: bool) -> Self {
        self.nullable = nullable;
        self
    }

    /// Returns the path, if it is one.
    fn into_path(self) -> Option<Path> {
        match self.term {
            Term::Path(path) => Some(path),
            _ => None,
        }
    }
}

/// A variable of a list macro; its slot is its place in the scope.
#[derive(Debug)]
struct Variable<'d> {
    name: String,
    kind: Type<'d>,
    place: Option<Place>,
}

/// Compiles one expression.
pub(super) struct Compiler<'d> {
    text: &'d str,
    places: &'d SourceInfo,
    subject: &'d ResourceType,
    declarations: &'d Declarations,
    scope: Vec<Variable<'d>>,
    /// Keys of what is not null here.
    known: Vec<String>,
    /// How many operations were compiled that may have no answer: arithmetic, readings of text,
    /// and lists, which may be too long.
    breakable: usize,
    reads: &'d mut Reads,
}

impl<'d> Compiler<'d> {
    pub(super) fn new(
        text: &'d str,
        places: &'d SourceInfo,
        subject: &'d ResourceType,
        declarations: &'d Declarations,
        reads: &'d mut Reads,
    ) -> Self {
        Self {
            text,
            places,
            subject,
            declarations,
            scope: Vec::new(),
            known: Vec::new(),
            breakable: 0,
            reads,
        }
    }

    pub(super) fn finish(
        mut self,
        expr: &IdedExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        self.note(&self.subject.name, "");
        self.condition(expr, polarity)
    }

    /// Returns the byte offset of the token that names a part: the field of a selection, the
    /// function of a call, the sign of an operation.
    fn at(&self, expr: &IdedExpr) -> usize {
        let (token, _) = self.places.offset_for(expr.id).unwrap_or_default();
        let token = usize::try_from(token).unwrap_or_default();
        match &expr.expr {
            Expr::Select(_) => {
                let rest = self.text.get(token + 1..).unwrap_or_default();
                token + 1 + (rest.len() - rest.trim_start().len())
            }
            Expr::Call(call) if is_name(&call.func_name) => {
                let before = self.text.get(..token).unwrap_or_default().trim_end();
                before.len().saturating_sub(call.func_name.len())
            }
            _ => token,
        }
    }

    /// Returns the byte offset at which a part begins.
    fn start(&self, expr: &IdedExpr) -> usize {
        let own = self.at(expr);
        let first = match &expr.expr {
            Expr::Select(select) => Some(select.operand.as_ref()),
            Expr::Call(call) => call.target.as_deref().or_else(|| call.args.first()),
            _ => None,
        };
        first.map_or(own, |first| own.min(self.start(first)))
    }

    fn refuse<T>(&self, expr: &IdedExpr, reason: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal::new(self.start(expr), reason))
    }

    /// Whether an expression cannot be null here, whatever its declaration says.
    fn is_known(&self, expr: &IdedExpr) -> bool {
        nullness::key(expr).is_some_and(|key| self.known.contains(&key))
    }

    /// Compiles with what follows from `expr` being `truth`.
    fn knowing<T>(
        &mut self,
        facts: &[(&IdedExpr, bool)],
        compile: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let before = self.known.len();
        for (expr, truth) in facts {
            nullness::known_where(expr, *truth, &mut self.known);
        }
        let compiled = compile(self);
        self.known.truncate(before);
        compiled
    }

    /// Compiles with a variable in scope.
    fn bind<T>(
        &mut self,
        name: &IdedExpr,
        kind: Type<'d>,
        place: Option<Place>,
        compile: impl FnOnce(&mut Self, usize) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Expr::Ident(variable) = &name.expr else {
            return self.refuse(name, "expected the name of a variable");
        };
        if TAKEN.contains(&variable.as_str()) || self.scope.iter().any(|v| v.name == *variable) {
            let reason = format!("the name {variable} is taken; choose another");
            return self.refuse(name, reason);
        }
        let slot = self.scope.len();
        if slot == SLOTS {
            return self.refuse(name, format!("more than {SLOTS} variables at once"));
        }
        self.scope.push(Variable {
            name: variable.clone(),
            kind,
            place,
        });
        let known = self.known.len();
        let compiled = compile(self, slot);
        self.known.truncate(known);
        self.scope.truncate(slot);
        compiled
    }

    /// Notes that something of a type is read: an outermost field, `tags`, or nothing for which
    /// resources there are.
    fn note(&mut self, of: &str, what: &str) {
        let fact = (of.to_owned(), what.to_owned());
        self.reads.facts.insert(fact);
    }

    /// Notes that a field is read.
    fn read(&mut self, place: Option<&Place>) {
        let Some(place) = place else { return };
        if place.path.is_empty() {
            return;
        }
        let fields = match place.of {
            Of::Subject => &mut self.reads.fields,
            Of::Account => &mut self.reads.account,
            Of::Neighbour => return,
        };
        fields.insert(place.path.clone(), place.call.clone());
    }
}

/// Whether a function has a name, rather than a sign.
fn is_name(function: &str) -> bool {
    function.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.')
}
