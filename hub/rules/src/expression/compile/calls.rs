//! Functions and methods.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use jiff::{SignedDuration, Timestamp};
use regex::RegexBuilder;

use super::conditions::under;
use super::{Compiler, Typed};
use crate::expression::nullness::Polarity;
use crate::expression::refusal::Refusal;
use crate::expression::tree::{Case, Condition, Term, TextTest};
use crate::expression::types::Type;
use crate::network;
use crate::policy::Question;

/// Longest regular expression, in characters.
const PATTERN_CHARS: usize = 1000;
/// Memory that a compiled regular expression may take, in bytes.
const PATTERN_BYTES: usize = 1 << 20;

impl<'d> Compiler<'d> {
    /// Compiles a function or method that answers true or false.
    pub(super) fn named_condition(
        &mut self,
        expr: &IdedExpr,
        call: &CallExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            ("exists" | "all" | "exists_one" | "existsOne", Some(target), args) => {
                self.list_macro(expr, name, (target, args), polarity)
            }
            ("startsWith", Some(target), [argument]) => {
                self.text_test(TextTest::StartsWith, target, argument, polarity)
            }
            ("endsWith", Some(target), [argument]) => {
                self.text_test(TextTest::EndsWith, target, argument, polarity)
            }
            ("contains", Some(target), [argument]) => {
                self.text_test(TextTest::Contains, target, argument, polarity)
            }
            ("matches", Some(target), [pattern]) => self.matches(target, pattern, polarity),
            ("cidr_contains", None, [outer, inner]) => Ok(Condition::Contains {
                outer: self.range(outer, polarity)?,
                inner: self.range(inner, polarity)?,
            }),
            ("is_public_cidr", None, [of]) => Ok(Condition::IsPublic(self.range(of, polarity)?)),
            ("is_any_cidr", None, [of]) => Ok(Condition::IsAny(self.range(of, polarity)?)),
            ("port_in", None, [from, to, port]) => {
                let from = self.wanted(from, &Type::Int)?;
                let to = self.wanted(to, &Type::Int)?;
                let wanted = self.wanted(port, &Type::Int)?;
                if wanted.nullable {
                    return self.refuse(port, "the port must not be null");
                }
                Ok(Condition::PortIn {
                    from: from.term,
                    to: to.term,
                    port: wanted.term,
                })
            }
            (name, None, args) if name.starts_with("policy_") => {
                self.policy(expr, name, args, polarity)
            }
            _ => self.wrong_arguments(expr, name),
        }
    }

    /// Refuses a known function that was given too much or too little.
    pub(super) fn wrong_arguments<T>(&self, expr: &IdedExpr, name: &str) -> Result<T, Refusal> {
        let usage = match name {
            "exists" | "all" | "exists_one" | "existsOne" | "filter" => {
                return self.refuse_at(expr, format!("{name} takes a variable and a condition"));
            }
            "map" => return self.refuse_at(expr, "map takes a variable and a value"),
            "split" => return self.refuse_at(expr, "split takes a separator"),
            "startsWith" | "endsWith" | "contains" | "matches" => {
                return self.refuse_at(expr, format!("{name} takes one string"));
            }
            "lowerAscii" | "upperAscii" => {
                return self.refuse_at(expr, format!("{name} takes nothing"));
            }
            "size" => "size(x)",
            "timestamp" => "timestamp(x)",
            "duration" => "duration('24h')",
            "int" => "int(x)",
            "cidr_contains" => "cidr_contains(outer, inner)",
            "is_public_cidr" => "is_public_cidr(range)",
            "is_any_cidr" => "is_any_cidr(range)",
            "cidr_prefix" => "cidr_prefix(range)",
            "port_in" => "port_in(from, to, port)",
            "linked" => "linked('relation')",
            "linked_from" => "linked_from('relation', 'type')",
            _ => return self.unknown_function(expr, name),
        };
        self.refuse_at(expr, format!("expected {usage}"))
    }

    fn text_test(
        &mut self,
        test: TextTest,
        target: &IdedExpr,
        argument: &IdedExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let subject = self.term_of(target)?;
        if matches!(subject.kind, Type::List(_)) && test == TextTest::Contains {
            return self.refuse(target, "a list has no contains(); write `x in list`");
        }
        let subject = self.want(target, subject, &Type::String)?;
        let part = self.wanted(argument, &Type::String)?;
        self.false_by_null(target, &subject, polarity)?;
        self.false_by_null(argument, &part, polarity)?;
        Ok(Condition::Text(test, subject.term, part.term))
    }

    fn matches(
        &mut self,
        target: &IdedExpr,
        pattern: &IdedExpr,
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let subject = self.wanted(target, &Type::String)?;
        let Expr::Literal(LiteralValue::String(text)) = &pattern.expr else {
            return self.refuse(pattern, "a regular expression stands in quotes");
        };
        if text.inner().chars().count() > PATTERN_CHARS {
            let reason =
                format!("the regular expression is longer than {PATTERN_CHARS} characters");
            return self.refuse(pattern, reason);
        }
        self.false_by_null(target, &subject, polarity)?;
        let built = RegexBuilder::new(text.inner())
            .size_limit(PATTERN_BYTES)
            .build();
        match built {
            Ok(regex) => Ok(Condition::Matches(subject.term, regex)),
            Err(regex::Error::CompiledTooBig(_)) => {
                self.refuse(pattern, "the regular expression is too large when compiled")
            }
            Err(error) => {
                // The last line says what is wrong, those before it draw the place.
                let text = error.to_string();
                let reason = text.lines().next_back().unwrap_or_default();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                self.refuse(pattern, format!("not a regular expression: {reason}"))
            }
        }
    }

    /// Compiles an address range; a literal must be one.
    fn range(&mut self, expr: &IdedExpr, polarity: Polarity) -> Result<Term, Refusal> {
        let typed = self.wanted(expr, &Type::String)?;
        self.check_range(expr, &typed)?;
        self.breakable += 1;
        self.false_by_null(expr, &typed, polarity)?;
        Ok(typed.term)
    }

    fn check_range(&self, expr: &IdedExpr, typed: &Typed<'d>) -> Result<(), Refusal> {
        match &typed.term {
            Term::Text(text) if network::parse_range(text).is_none() => self.refuse(
                expr,
                format!("'{text}' is no address range such as 10.0.0.0/8"),
            ),
            _ => Ok(()),
        }
    }

    fn policy(
        &mut self,
        expr: &IdedExpr,
        name: &str,
        args: &[IdedExpr],
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let Some(question) = Question::named(name) else {
            return self.unknown_function(expr, name);
        };
        let Some((first, rest)) = args.split_first() else {
            return self.refuse_at(expr, format!("expected {}", question.usage()));
        };
        let typed = self.term(first)?;
        let typed = self.want(first, typed, &Type::Policy)?;
        if !question.takes(rest.len()) {
            return self.refuse_at(expr, format!("expected {}", question.usage()));
        }
        self.false_by_null(first, &typed, polarity)?;
        let mut arguments = Vec::with_capacity(rest.len());
        for argument in rest {
            let typed = self.wanted(argument, &Type::String)?;
            if typed.nullable {
                return self.refuse(argument, "an argument must not be null");
            }
            arguments.push(typed.term);
        }
        let Some(policy) = typed.into_path() else {
            return self.refuse(first, "a policy must be a field");
        };
        Ok(Condition::Policy {
            question,
            policy,
            arguments,
        })
    }

    /// Compiles a function or method that has a value.
    pub(super) fn function(
        &mut self,
        expr: &IdedExpr,
        call: &CallExpr,
    ) -> Result<Typed<'d>, Refusal> {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            ("size", Some(of), []) | ("size", None, [of]) => self.size(of),
            ("timestamp", None, [of]) => self.timestamp(of),
            ("duration", None, [of]) => match &of.expr {
                Expr::Literal(LiteralValue::String(text)) => match parse_duration(text.inner()) {
                    Some(span) => Ok(Typed::plain(Term::Span(span), Type::Duration)),
                    None => self.refuse(of, "expected a duration such as '24h', '90m' or '30s'"),
                },
                _ => self.refuse(of, "expected a duration such as '24h', '90m' or '30s'"),
            },
            ("int", None, [of]) => {
                let typed = self.term(of)?;
                if typed.kind != Type::String {
                    let reason = format!("int() takes a string, not {}", typed.kind.name());
                    return self.refuse(of, reason);
                }
                self.breakable += 1;
                let term = Term::ToInt(Box::new(typed.term));
                Ok(Typed::plain(term, Type::Int).nullable(typed.nullable))
            }
            ("cidr_prefix", None, [of]) => {
                let typed = self.wanted(of, &Type::String)?;
                self.check_range(of, &typed)?;
                self.breakable += 1;
                let term = Term::Prefix(Box::new(typed.term));
                Ok(Typed::plain(term, Type::Int).nullable(typed.nullable))
            }
            ("lowerAscii" | "upperAscii", Some(of), []) => {
                let typed = self.wanted(of, &Type::String)?;
                let case = if name == "lowerAscii" {
                    Case::Lower
                } else {
                    Case::Upper
                };
                let term = Term::Recase(case, Box::new(typed.term));
                Ok(Typed::plain(term, Type::String).nullable(typed.nullable))
            }
            ("filter" | "map", Some(_), _) | ("split", Some(_), _) => {
                let reason = "a list is used through exists(), all(), exists_one(), size() or `in`";
                self.refuse(expr, reason)
            }
            ("linked" | "linked_from", None, _) => {
                let reason = "a list is used through exists(), all(), exists_one(), size() or `in`";
                self.refuse(expr, reason)
            }
            ("has", None, _) => {
                let reason = "has() would decide on an unread field; write `x != null`, or `'k' in tags` for a map";
                self.refuse_at(expr, reason)
            }
            ("size" | "timestamp" | "duration" | "int" | "cidr_prefix", None, _)
            | ("size" | "lowerAscii" | "upperAscii", Some(_), _) => {
                self.wrong_arguments(expr, name)
            }
            _ => self.unknown_function(expr, name),
        }
    }

    /// Compiles a condition that is used as a value: both outcomes matter.
    pub(super) fn condition_value(&mut self, expr: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        let condition = self.condition(expr, Polarity::Both)?;
        let term = Term::Condition(Box::new(condition));
        Ok(Typed::plain(term, Type::Bool))
    }

    fn size(&mut self, of: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        let is_path = !matches!(of.expr, Expr::List(_) | Expr::Call(_));
        let no_size = format!(
            "this can be null, and null has no size; write {}",
            "`x != null && …` or `x == null || …` before it"
        );
        if is_path || matches!(&of.expr, Expr::Call(call) if !Self::is_list(call)) {
            let typed = self.term_of(of)?;
            let term = match (&typed.kind, typed.nullable) {
                (Type::String | Type::Map | Type::List(_), true) => {
                    return self.refuse(of, no_size);
                }
                (Type::String, false) => Term::TextSize(Box::new(typed.term)),
                (Type::Map, false) => match typed.into_path() {
                    Some(map) => Term::MapSize(map),
                    None => return self.refuse(of, "a map must be a field"),
                },
                (Type::List(_), false) => return self.list_size(of, &no_size),
                (Type::Record(_), _) => {
                    return self.refuse(of, "a record has no size; its fields are declared");
                }
                (other, _) => {
                    return self.refuse(of, format!("{} has no size", other.name()));
                }
            };
            return Ok(Typed::plain(term, Type::Int));
        }
        self.list_size(of, &no_size)
    }

    fn list_size(&mut self, of: &IdedExpr, no_size: &str) -> Result<Typed<'d>, Refusal> {
        // What a filter leaves out changes the size, and either may help.
        let list = self.source(of, Polarity::Both)?;
        if list.nullable {
            return self.refuse(of, no_size);
        }
        Ok(Typed::plain(Term::ListSize(list.list), Type::Int))
    }

    fn timestamp(&mut self, of: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        if let Expr::Literal(LiteralValue::String(text)) = &of.expr {
            return match text.inner().parse::<Timestamp>() {
                Ok(at) => Ok(Typed::plain(Term::Instant(at), Type::Timestamp)),
                Err(_) => self.refuse(of, "expected an instant such as '2026-01-31T00:00:00Z'"),
            };
        }
        let typed = self.term(of)?;
        match typed.kind {
            Type::Timestamp => Ok(typed),
            Type::String => {
                self.breakable += 1;
                let term = Term::ToInstant(Box::new(typed.term));
                Ok(Typed::plain(term, Type::Timestamp).nullable(typed.nullable))
            }
            _ => {
                let reason = format!("timestamp() takes a string, not {}", typed.kind.name());
                self.refuse(of, reason)
            }
        }
    }

    /// Refuses what names no function, with those there are.
    pub(super) fn unknown_function<T>(&self, expr: &IdedExpr, name: &str) -> Result<T, Refusal> {
        let is_method = matches!(&expr.expr, Expr::Call(call) if call.target.is_some());
        let at = self.at(expr);
        if is_method {
            let refusal = Refusal::new(at, format!("unknown method {name}"));
            return Err(refusal.among(name, super::METHODS));
        }
        let known = super::FUNCTIONS.into_iter().chain(Question::names());
        let refusal = Refusal::new(at, format!("unknown function {name}"));
        Err(refusal.among(name, known))
    }

    /// Refuses at the name of a call rather than at its beginning.
    pub(super) fn refuse_at<T>(
        &self,
        expr: &IdedExpr,
        reason: impl Into<String>,
    ) -> Result<T, Refusal> {
        Err(Refusal::new(self.at(expr), reason))
    }

    /// Compiles a value that must be of one type.
    pub(super) fn wanted(
        &mut self,
        expr: &IdedExpr,
        kind: &Type<'_>,
    ) -> Result<Typed<'d>, Refusal> {
        let typed = self.term(expr)?;
        self.want(expr, typed, kind)
    }

    fn want(
        &self,
        expr: &IdedExpr,
        typed: Typed<'d>,
        kind: &Type<'_>,
    ) -> Result<Typed<'d>, Refusal> {
        if typed.slope != 0 {
            return self.refuse(expr, "`now` stands only in comparisons");
        }
        if typed.kind.name() == kind.name() {
            return Ok(typed);
        }
        let reason = format!("expected {}, found {}", kind.name(), typed.kind.name());
        self.refuse(expr, reason)
    }

    /// Refuses a list that can be null where that would help a macro to pass.
    pub(super) fn refuse_null_list<T>(
        &self,
        target: &IdedExpr,
        name: &str,
        polarity: Polarity,
    ) -> Result<T, Refusal> {
        let reason = if name == "all" {
            "this list can be null, and all() holds for null; write `list != null && list.all(…)` (null fails) or `list == null || list.all(…)` (null passes)".to_owned()
        } else {
            format!(
                "this can be null, and {} null would decide unsaid; write `list != null && list.exists(…)` or `list == null || …`",
                under(polarity)
            )
        };
        self.refuse(target, reason)
    }
}

/// Reads a duration of whole hours, minutes, seconds and milliseconds: `24h`, `1h30m`.
fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1i64, rest),
        None => (1, text),
    };
    let mut millis: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let (unit, after) = if let Some(after) = rest.strip_prefix("ms") {
            (1, after)
        } else if let Some(after) = rest.strip_prefix('h') {
            (3_600_000, after)
        } else if let Some(after) = rest.strip_prefix('m') {
            (60_000, after)
        } else {
            (1000, rest.strip_prefix('s')?)
        };
        millis = millis.checked_add(number.checked_mul(unit)?)?;
        rest = after;
    }
    Some(SignedDuration::from_millis(sign.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units() {
        let read = |text: &str| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(read("24h"), Some(86_400_000));
        assert_eq!(read("1h30m"), Some(5_400_000));
        assert_eq!(read("5ms"), Some(5));
        assert_eq!(read("-2s"), Some(-2000));
        for text in [
            "",
            "-",
            "24",
            "h",
            "1d",
            "1.5h",
            "9223372036854775807h",
            "1h x",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
