//! What is true or false: connectives, comparisons, tests.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{Compiler, Typed};
use crate::expression::nullness::{Polarity, is_null};
use crate::expression::refusal::Refusal;
use crate::expression::tree::{Choice, Condition, List, Order, Source, Term};
use crate::expression::types::Type;

const SAY_NULL: &str = "write `x != null && …` or `x == null || …` before it";

impl<'d> Compiler<'d> {
    /// Compiles something that must be a condition.
    pub(super) fn condition(
        &mut self,
        expr: &IdedExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        match &expr.expr {
            Expr::Literal(LiteralValue::Boolean(value)) => {
                return Ok(Condition::Constant(*value.inner()));
            }
            Expr::Call(call) if Self::is_bool(call) => {
                return self.bool_call(expr, call, polarity);
            }
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
                return self.chosen_condition(expr, call, polarity);
            }
            _ => {}
        }
        let typed = self.term(expr)?;
        if typed.kind != Type::Bool {
            let reason = format!("expected a condition, found {}", typed.kind.name());
            return self.refuse(expr, reason);
        }
        if typed.nullable && polarity.false_helps() {
            let reason = format!(
                "this can be null, and {} null would decide unsaid; write `… == false` or `… != true`",
                under(polarity)
            );
            return self.refuse(expr, reason);
        }
        Ok(match typed.term {
            Term::Condition(condition) => *condition,
            term => Condition::Holds(term),
        })
    }

    /// Refuses an operand that can be null where the test being false would help to pass.
    pub(super) fn false_by_null(
        &self,
        expr: &IdedExpr,
        operand: &Typed<'d>,
        polarity: Polarity,
    ) -> Result<(), Refusal> {
        if !operand.nullable || !polarity.false_helps() {
            return Ok(());
        }
        let reason = match operand.kind {
            Type::Policy => {
                "say what a missing policy means: `x == null || …` or `x != null && …`".to_owned()
            }
            Type::List(_) => format!(
                "this can be null, and {} null would decide unsaid; write `list != null && list.exists(…)` or `list == null || …`",
                under(polarity)
            ),
            _ => format!(
                "this can be null, and {} null would decide unsaid; {SAY_NULL}",
                under(polarity)
            ),
        };
        self.refuse(expr, reason)
    }

    /// Compiles a call that answers true or false.
    fn bool_call(
        &mut self,
        expr: &IdedExpr,
        call: &CallExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (operators::LOGICAL_NOT, [of]) => {
                let of = self.condition(of, polarity.flip())?;
                Ok(Condition::Not(Box::new(of)))
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, _) => {
                self.connective(expr, name, polarity)
            }
            (operators::EQUALS, [left, right]) => self.equality(expr, left, right),
            (operators::NOT_EQUALS, [left, right]) => {
                let same = self.equality(expr, left, right)?;
                Ok(Condition::Not(Box::new(same)))
            }
            (operators::IN, [item, of]) => self.membership(item, of, polarity),
            (operators::LESS, [left, right]) => {
                self.ordering(expr, Order::Less, (left, right), polarity)
            }
            (operators::LESS_EQUALS, [left, right]) => {
                self.ordering(expr, Order::LessEqual, (left, right), polarity)
            }
            (operators::GREATER, [left, right]) => {
                self.ordering(expr, Order::Greater, (left, right), polarity)
            }
            (operators::GREATER_EQUALS, [left, right]) => {
                self.ordering(expr, Order::GreaterEqual, (left, right), polarity)
            }
            _ => self.named_condition(expr, call, polarity),
        }
    }

    /// Whether a call answers true or false, whatever its operands are.
    pub(super) fn is_bool(call: &CallExpr) -> bool {
        let name = call.func_name.as_str();
        match call.target {
            Some(_) => matches!(
                name,
                "exists"
                    | "all"
                    | "exists_one"
                    | "existsOne"
                    | "startsWith"
                    | "endsWith"
                    | "contains"
                    | "matches"
            ),
            None => {
                matches!(
                    name,
                    operators::LOGICAL_NOT
                        | operators::LOGICAL_AND
                        | operators::LOGICAL_OR
                        | operators::EQUALS
                        | operators::NOT_EQUALS
                        | operators::IN
                        | operators::LESS
                        | operators::LESS_EQUALS
                        | operators::GREATER
                        | operators::GREATER_EQUALS
                        | "cidr_contains"
                        | "is_public_cidr"
                        | "is_any_cidr"
                        | "port_in"
                ) || name.starts_with("policy_")
            }
        }
    }

    /// Compiles a chain of `&&` or of `||`; what is said on the left is known on the right.
    fn connective(
        &mut self,
        expr: &IdedExpr,
        name: &str,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let mut parts = Vec::new();
        flatten(expr, name, &mut parts);
        let is_and = name == operators::LOGICAL_AND;
        let mut facts: Vec<(&IdedExpr, bool)> = Vec::new();
        let mut compiled = Vec::with_capacity(parts.len());
        for part in parts {
            compiled.push(self.knowing(&facts, |c| c.condition(part, polarity))?);
            facts.push((part, is_and));
        }
        Ok(if is_and {
            Condition::All(compiled)
        } else {
            Condition::Any(compiled)
        })
    }

    fn chosen_condition(
        &mut self,
        expr: &IdedExpr,
        call: &CallExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let [test, yes, no] = call.args.as_slice() else {
            return self.refuse(expr, "expected test ? value : value");
        };
        let before = self.breakable;
        let compiled = self.condition(test, Polarity::Both)?;
        let can_break = self.breakable > before;
        let yes = self.knowing(&[(test, true)], |c| c.condition(yes, polarity))?;
        let no = self.knowing(&[(test, false)], |c| c.condition(no, polarity))?;
        Ok(Condition::Choose(Box::new(Choice {
            test: compiled,
            can_break,
            yes,
            no,
        })))
    }

    fn equality(
        &mut self,
        expr: &IdedExpr,
        left: &IdedExpr,
        right: &IdedExpr,
    ) -> Result<Condition, Refusal> {
        if is_null(right) {
            return self.null_test(left);
        }
        if is_null(left) {
            return self.null_test(right);
        }
        let (a, b) = (self.term_of(left)?, self.term_of(right)?);
        if a.slope != 0 || b.slope != 0 {
            return self.refuse(expr, "`now` is never equal twice; compare with < or >");
        }
        for side in [&a, &b] {
            match side.kind {
                Type::List(_) => {
                    let reason = "lists are not compared; use size(), exists() or all()";
                    return self.refuse(expr, reason);
                }
                Type::Record(_) | Type::Document(_) | Type::Map => {
                    let reason = format!(
                        "a {} can only be compared with null; compare its fields",
                        side.kind.name()
                    );
                    return self.refuse(expr, reason);
                }
                Type::Policy => {
                    return self.refuse(expr, "a policy is asked through policy_… functions");
                }
                Type::Json => {
                    let reason =
                        "free-form JSON has no declared fields; only `== null` can be asked";
                    return self.refuse(expr, reason);
                }
                Type::Null
                | Type::Bool
                | Type::Int
                | Type::Double
                | Type::String
                | Type::Timestamp
                | Type::Duration => {}
            }
        }
        if !a.kind.can_equal(&b.kind) {
            let (a, b) = (&a.kind, &b.kind);
            let reason = format!("{} is never equal to {}{}", a.name(), b.name(), hint(a, b));
            return self.refuse(expr, reason);
        }
        if a.nullable && b.nullable {
            let reason =
                "both sides can be null, and null equals null; test one of them with `!= null &&`";
            return self.refuse(expr, reason);
        }
        Ok(match (a.term, b.term) {
            (Term::Path(path), Term::Text(text)) | (Term::Text(text), Term::Path(path)) => {
                Condition::OneOf(path, vec![text])
            }
            (a, b) => Condition::Same(a, b),
        })
    }

    fn null_test(&mut self, of: &IdedExpr) -> Result<Condition, Refusal> {
        if matches!(&of.expr, Expr::Call(call) if Self::is_bool(call)) {
            return self.refuse(of, "a condition is never null");
        }
        let typed = self.term_of(of)?;
        if typed.slope != 0 {
            return self.refuse(of, "`now` stands only in comparisons");
        }
        if matches!(typed.kind, Type::Document(_)) {
            return self.refuse(of, "a linked document is never null");
        }
        Ok(Condition::IsNull(typed.term))
    }

    fn ordering(
        &mut self,
        expr: &IdedExpr,
        order: Order,
        (left, right): (&IdedExpr, &IdedExpr),
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let (a, b) = (self.term_of(left)?, self.term_of(right)?);
        if !a.kind.can_order(&b.kind) {
            let (a, b) = (&a.kind, &b.kind);
            let reason = format!("{} and {} have no order{}", a.name(), b.name(), hint(a, b));
            return self.refuse(expr, reason);
        }
        self.false_by_null(left, &a, polarity)?;
        self.false_by_null(right, &b, polarity)?;
        let rising = match (a.slope, b.slope) {
            (0, 0) => return Ok(Condition::Compare(order, a.term, b.term)),
            (slope, 0) => slope > 0,
            (0, slope) => slope < 0,
            _ => return self.refuse(expr, "`now` may stand once in a comparison"),
        };
        self.reads.now = true;
        Ok(Condition::CompareNow {
            order,
            left: a.term,
            right: b.term,
            rising,
        })
    }

    fn membership(
        &mut self,
        item: &IdedExpr,
        of: &IdedExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let typed = self.term(item)?;
        if !matches!(of.expr, Expr::List(_) | Expr::Call(_)) {
            let container = self.term_of(of)?;
            match &container.kind {
                Type::Map => {
                    if typed.kind != Type::String {
                        let reason = format!("a key is a string, not {}", typed.kind.name());
                        return self.refuse(item, reason);
                    }
                    self.false_by_null(item, &typed, polarity)?;
                    self.false_by_null(of, &container, polarity)?;
                    return match container.into_path() {
                        Some(map) => Ok(Condition::HasKey(map, typed.term)),
                        None => self.refuse(of, "a map must be a field"),
                    };
                }
                Type::List(_) => {}
                _ => {
                    let reason = "`in` looks into lists and maps; a field of a record is tested with `r.x != null`";
                    return self.refuse(of, reason);
                }
            }
        }
        let list = self.source(of, polarity)?;
        if !list.element.can_equal(&typed.kind) {
            let reason = format!(
                "a list of {} holds no {}",
                list.element.name(),
                typed.kind.name()
            );
            return self.refuse(of, reason);
        }
        self.false_by_null(item, &typed, polarity)?;
        if list.nullable && polarity.false_helps() {
            let reason = format!(
                "this can be null, and {} null would decide unsaid; {SAY_NULL}",
                under(polarity)
            );
            return self.refuse(of, reason);
        }
        Ok(match (typed.term, constant_texts(&list.list)) {
            (Term::Path(path), Some(texts)) => Condition::OneOf(path, texts),
            (item, _) => Condition::In(item, constants_first(list.list)),
        })
    }
}

/// Returns the elements of a literal of texts.
fn constant_texts(list: &List) -> Option<Vec<String>> {
    let (Source::Literal(terms), []) = (&list.source, list.stages.as_slice()) else {
        return None;
    };
    let text = |term: &Term| match term {
        Term::Text(text) => Some(text.clone()),
        _ => None,
    };
    terms.iter().map(text).collect()
}

/// Puts the constants of a literal before what must be looked up: they may decide without it.
fn constants_first(mut list: List) -> List {
    if let Source::Literal(terms) = &mut list.source {
        terms.sort_by_key(|term| {
            !matches!(
                term,
                Term::Bool(_) | Term::Int(_) | Term::Double(_) | Term::Text(_)
            )
        });
    }
    list
}

/// Lists the parts of a chain of one connective from left to right.
fn flatten<'e>(expr: &'e IdedExpr, name: &str, parts: &mut Vec<&'e IdedExpr>) {
    match &expr.expr {
        Expr::Call(call) if call.func_name == name => {
            call.args.iter().for_each(|part| flatten(part, name, parts));
        }
        _ => parts.push(expr),
    }
}

/// Says where a part stands, for a refusal about null.
pub(super) fn under(polarity: Polarity) -> &'static str {
    match polarity {
        Polarity::Negative => "under `!`",
        Polarity::Positive | Polarity::Both => "here",
    }
}

fn hint(a: &Type<'_>, b: &Type<'_>) -> &'static str {
    match (a, b) {
        (Type::Timestamp, Type::String) | (Type::String, Type::Timestamp) => {
            "; write timestamp('…')"
        }
        (Type::Duration, Type::String) | (Type::String, Type::Duration) => {
            "; write duration('24h')"
        }
        _ => "",
    }
}
