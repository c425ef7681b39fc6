//! CEL expressions: parsed by the crate `cel`, type-checked and compiled to a tree of our own,
//! evaluated on facts that may be null or unread.
//!
//! The language is set down in [`crate::check`].
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each place takes some forms of the tree and refuses all others alike"
)]

mod compile;
mod evaluate;
mod nullness;
mod recorder;
mod refusal;
mod shape;
mod tree;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use cel::Env;
use cel::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};
use protocol::declare::{Declarations, ResourceType};

pub(crate) use evaluate::{Frame, Truth};
pub(crate) use nullness::Polarity;
pub(crate) use recorder::without_positions;
pub(crate) use refusal::Refusal;
pub(crate) use tree::{Condition, RelationRead};

/// Parts that an expression may have: what keeps evaluating one element cheap.
const PARTS: usize = 2000;
/// Elements of a list literal.
const ELEMENTS: usize = 1000;

/// What expressions read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Declared fields of the resource, `IpPermissions[].FromPort`, with their calls.
    pub(crate) fields: BTreeMap<String, String>,
    /// Declared fields of the account's document, with their calls.
    pub(crate) account: BTreeMap<String, String>,
    pub(crate) reads_account: bool,
    /// Relations; the compiled expressions know them by their place here.
    pub(crate) relations: Vec<RelationRead>,
    /// Names of tags, and whether the tags are read as a whole.
    pub(crate) tags: BTreeSet<String>,
    pub(crate) all_tags: bool,
    pub(crate) now: bool,
    /// Types with an outermost field each, `tags`, or nothing for which resources there are.
    pub(crate) facts: BTreeSet<(String, String)>,
}

/// Compiles an expression that is a condition.
///
/// `reads` grows by what it reads, so that several expressions of a check share the numbers of
/// their relations.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub(crate) fn compile(
    text: &str,
    polarity: Polarity,
    subject: &ResourceType,
    declarations: &Declarations,
    reads: &mut Reads,
) -> Result<Condition, Refusal> {
    let (expr, places) = parse(text)?;
    compile::Compiler::new(text, &places, subject, declarations, reads).finish(&expr, polarity)
}

/// Parses a text without expanding macros.
fn parse(text: &str) -> Result<(IdedExpr, SourceInfo), Refusal> {
    shape::check(text)?;
    // The parser's recovery after an error can be long; one error is told anyway.
    let parser = Env::default().parser().error_recovery_limit(1);
    let (expr, places) =
        parser
            .parse_with_source_info(text)
            .map_err(|errors| match errors.errors.first() {
                Some(error) => Refusal::new(offset(text, error.pos), plain(&error.msg)),
                None => Refusal::new(0, "not an expression"),
            })?;
    let mut parts = 0;
    count(&expr, &mut parts).map_err(|reason| Refusal::new(0, reason))?;
    Ok((expr, places))
}

/// Returns the parser's message in words for somebody who does not know its grammar.
fn plain(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    if message.starts_with("mismatched input '<EOF>'") {
        return "the expression ends too early".to_owned();
    }
    if let Some(found) = message.strip_prefix("token recognition error at: ") {
        return format!("unexpected {found}");
    }
    let end = message
        .find(" expecting ")
        .filter(|_| message.starts_with("mismatched input ") || message.starts_with("extraneous "));
    let message = end.and_then(|end| message.get(..end)).unwrap_or(message);
    message
        .strip_prefix("mismatched input ")
        .or_else(|| message.strip_prefix("extraneous input "))
        .map_or_else(|| message.to_owned(), |found| format!("unexpected {found}"))
}

/// Returns the byte offset of a line and column (in characters), both from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let line = usize::try_from(line - 1).unwrap_or_default();
    let column = usize::try_from(column - 1).unwrap_or_default();
    let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    let within: usize = rest.chars().take(column).map(char::len_utf8).sum();
    before + within
}

/// Counts the parts of an expression.
fn count(expr: &IdedExpr, parts: &mut usize) -> Result<(), String> {
    *parts += 1;
    if *parts > PARTS {
        return Err(format!("the expression has more than {PARTS} parts"));
    }
    match &expr.expr {
        Expr::Call(call) => call
            .target
            .iter()
            .map(AsRef::as_ref)
            .chain(&call.args)
            .try_for_each(|part| count(part, parts)),
        Expr::Select(select) => count(&select.operand, parts),
        Expr::List(list) => {
            if list.elements.len() > ELEMENTS {
                return Err(format!("a list has more than {ELEMENTS} elements"));
            }
            list.elements.iter().try_for_each(|part| count(part, parts))
        }
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                count(&entry.key, parts)?;
                count(&entry.value, parts)
            }
            EntryExpr::StructField(field) => count(&field.value, parts),
        }),
        Expr::Unspecified
        | Expr::Comprehension(_)
        | Expr::Ident(_)
        | Expr::Literal(_)
        | Expr::Struct(_) => Ok(()),
    }
}
