//! Where null would decide unsaid, and what a condition says about it.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};

/// Which outcome of a condition helps the check to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polarity {
    /// True helps.
    Positive,
    /// False helps.
    Negative,
    /// Either may.
    Both,
}

impl Polarity {
    /// Returns the polarity under a `!`.
    pub(crate) fn flip(self) -> Self {
        match self {
            Polarity::Positive => Polarity::Negative,
            Polarity::Negative => Polarity::Positive,
            Polarity::Both => Polarity::Both,
        }
    }

    pub(crate) fn false_helps(self) -> bool {
        self != Polarity::Positive
    }

    pub(crate) fn true_helps(self) -> bool {
        self != Polarity::Negative
    }
}

/// Returns a text that is equal for expressions that name the same field or variable.
pub(crate) fn key(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}['{}']", key(&select.operand)?, select.field))
        }
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let (of, index) = two(&call.args)?;
            match &index.expr {
                Expr::Literal(LiteralValue::String(name)) => {
                    Some(format!("{}['{}']", key(of)?, name.inner()))
                }
                Expr::Literal(LiteralValue::Int(at)) => {
                    Some(format!("{}[{}]", key(of)?, at.inner()))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn two(args: &[IdedExpr]) -> Option<(&IdedExpr, &IdedExpr)> {
    match args {
        [left, right] => Some((left, right)),
        _ => None,
    }
}

/// Functions whose answer is null where their only operand is.
const PASS_NULL_ON: [&str; 6] = [
    "timestamp",
    "int",
    "cidr_prefix",
    "lowerAscii",
    "upperAscii",
    operators::NEGATE,
];
const ARITHMETIC: [&str; 5] = [
    operators::ADD,
    operators::SUBSTRACT,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
];
/// Tests that are false where an operand is null.
const TESTS: [&str; 12] = [
    operators::LESS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::GREATER_EQUALS,
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "cidr_contains",
    "is_public_cidr",
    "is_any_cidr",
    operators::IN,
];

/// Adds the fields that must have a value for `expr` to have one.
fn add_operand(expr: &IdedExpr, known: &mut Vec<String>) {
    let mut at = expr;
    // A field with a value lies in records with values.
    while let Some(key) = key(at) {
        known.push(key);
        at = match &at.expr {
            Expr::Select(select) => &select.operand,
            Expr::Call(call) => match call.args.first() {
                Some(of) => of,
                None => return,
            },
            _ => return,
        };
    }
    if let Expr::Call(call) = &expr.expr {
        let name = call.func_name.as_str();
        if PASS_NULL_ON.contains(&name) || ARITHMETIC.contains(&name) {
            call.target.iter().for_each(|of| add_operand(of, known));
            call.args.iter().for_each(|of| add_operand(of, known));
        }
    }
}

pub(crate) fn is_null(expr: &IdedExpr) -> bool {
    matches!(expr.expr, Expr::Literal(LiteralValue::Null))
}

fn is_constant(expr: &IdedExpr) -> bool {
    matches!(expr.expr, Expr::Literal(_)) && !is_null(expr)
}

/// Adds what follows from `left == right` being `truth`.
fn from_equality(left: &IdedExpr, right: &IdedExpr, truth: bool, known: &mut Vec<String>) {
    match (left, right) {
        (of, other) | (other, of) if is_null(other) && !truth => add_operand(of, known),
        (of, other) | (other, of) if is_constant(other) && truth => add_operand(of, known),
        _ => {}
    }
}

/// Adds the keys of the fields that cannot be null where `expr` is `truth`.
pub(crate) fn known_where(expr: &IdedExpr, truth: bool, known: &mut Vec<String>) {
    let Expr::Call(call) = &expr.expr else {
        if truth {
            add_operand(expr, known);
        }
        return;
    };
    let name = call.func_name.as_str();
    match (name, call.args.as_slice()) {
        (operators::LOGICAL_NOT, [of]) => known_where(of, !truth, known),
        (operators::LOGICAL_AND, [left, right]) if truth => {
            known_where(left, truth, known);
            known_where(right, truth, known);
        }
        (operators::LOGICAL_OR, [left, right]) if !truth => {
            known_where(left, truth, known);
            known_where(right, truth, known);
        }
        (operators::EQUALS, [left, right]) => from_equality(left, right, truth, known),
        (operators::NOT_EQUALS, [left, right]) => from_equality(left, right, !truth, known),
        (operators::INDEX, _) if truth => add_operand(expr, known),
        ("exists" | "exists_one" | "existsOne", _) if truth => {
            call.target.iter().for_each(|of| add_operand(of, known));
        }
        (name, args) if truth && TESTS.contains(&name) => {
            call.target.iter().for_each(|of| add_operand(of, known));
            args.iter().for_each(|of| add_operand(of, known));
        }
        (name, [policy, ..]) if truth && name.starts_with("policy_") => {
            add_operand(policy, known);
        }
        _ => {}
    }
}
