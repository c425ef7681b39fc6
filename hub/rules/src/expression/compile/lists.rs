//! Lists: where elements come from, what happens to them, and the macros over them.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};

use super::{Compiler, Of, Place, Typed};
use crate::expression::nullness::Polarity;
use crate::expression::refusal::Refusal;
use crate::expression::tree::{Condition, List, RelationRead, Source, Stage};
use crate::expression::types::Type;
use crate::ruleset::Direction;

/// A compiled list with what it holds.
pub(super) struct Sourced<'d> {
    pub(super) list: List,
    pub(super) element: Type<'d>,
    pub(super) nullable: bool,
    place: Option<Place>,
}

impl<'d> Sourced<'d> {
    fn new(source: Source, element: Type<'d>) -> Self {
        Self {
            list: List {
                source,
                stages: Vec::new(),
            },
            element,
            nullable: false,
            place: None,
        }
    }
}

impl<'d> Compiler<'d> {
    /// Whether a call yields a list.
    pub(super) fn is_list(call: &CallExpr) -> bool {
        match call.target {
            Some(_) => matches!(call.func_name.as_str(), "filter" | "map" | "split"),
            None => matches!(call.func_name.as_str(), "linked" | "linked_from"),
        }
    }

    /// Compiles something that must be a list, or a map whose keys are meant.
    ///
    /// `polarity` is that of the question whether an element is among those that are looked at.
    pub(super) fn source(
        &mut self,
        expr: &IdedExpr,
        polarity: Polarity,
    ) -> Result<Sourced<'d>, Refusal> {
        self.breakable += 1;
        match &expr.expr {
            Expr::List(list) => {
                if !list.optional_indices.is_empty() {
                    return self.refuse(expr, "optional elements are not part of the language");
                }
                self.literal(expr, &list.elements)
            }
            Expr::Call(call) if Self::is_list(call) => {
                match (call.func_name.as_str(), call.target.as_deref()) {
                    ("filter", Some(target)) => self.filter(expr, target, &call.args, polarity),
                    ("map", Some(target)) => self.map(expr, target, &call.args, polarity),
                    ("split", Some(target)) => self.split(expr, target, &call.args),
                    _ => self.relation(expr, call),
                }
            }
            _ => self.list_field(expr),
        }
    }

    fn list_field(&mut self, expr: &IdedExpr) -> Result<Sourced<'d>, Refusal> {
        let typed = self.term_of(expr)?;
        let (nullable, place) = (typed.nullable, typed.place.clone());
        match typed.kind.clone() {
            Type::List(element) => {
                let Some(path) = typed.into_path() else {
                    return self.refuse(expr, "a list must be a field, or made by filter and map");
                };
                let mut list = Sourced::new(Source::Field(path), *element);
                list.nullable = nullable;
                list.place = place.map(|mut place| {
                    place.path.push_str("[]");
                    place
                });
                Ok(list)
            }
            Type::Map => {
                let Some(path) = typed.into_path() else {
                    return self.refuse(expr, "a map must be a field");
                };
                let mut list = Sourced::new(Source::Keys(path), Type::String);
                list.nullable = nullable;
                Ok(list)
            }
            Type::Record(_) | Type::Document(_) => {
                let reason =
                    "a record is not a list or map; its fields are declared, test them one by one";
                self.refuse(expr, reason)
            }
            other => self.refuse(expr, format!("expected a list, found {}", other.name())),
        }
    }

    fn literal(&mut self, expr: &IdedExpr, elements: &[IdedExpr]) -> Result<Sourced<'d>, Refusal> {
        let mut kind: Option<Type<'d>> = None;
        let mut terms = Vec::with_capacity(elements.len());
        for element in elements {
            let typed = self.term(element)?;
            if typed.slope != 0 {
                return self.refuse(element, "`now` stands only in comparisons");
            }
            if typed.nullable || typed.kind == Type::Null {
                return self.refuse(element, "an element of a list must not be null");
            }
            if !typed.kind.is_scalar() {
                let reason = format!(
                    "a list holds strings, numbers or bools, not {}",
                    typed.kind.name()
                );
                return self.refuse(element, reason);
            }
            match &kind {
                Some(kind) if !kind.can_equal(&typed.kind) => {
                    let reason =
                        format!("a list of {} holds no {}", kind.name(), typed.kind.name());
                    return self.refuse(element, reason);
                }
                // A list of int and double is one of double.
                Some(Type::Int) => kind = Some(typed.kind.clone()),
                Some(_) => {}
                None => kind = Some(typed.kind.clone()),
            }
            terms.push(typed.term);
        }
        match kind {
            Some(kind) => Ok(Sourced::new(Source::Literal(terms), kind)),
            None => self.refuse(expr, "an empty list says nothing; use size(…) == 0"),
        }
    }

    fn filter(
        &mut self,
        expr: &IdedExpr,
        target: &IdedExpr,
        args: &[IdedExpr],
        polarity: Polarity,
    ) -> Result<Sourced<'d>, Refusal> {
        let [variable, test] = args else {
            return self.wrong_arguments(expr, "filter");
        };
        let mut list = self.source(target, polarity)?;
        let (element, place) = (list.element.clone(), list.place.clone());
        let stage = self.bind(variable, element, place, |c, slot| {
            Ok(Stage {
                slot,
                condition: Some(c.condition(test, polarity)?),
                value: None,
            })
        })?;
        list.list.stages.push(stage);
        Ok(list)
    }

    fn map(
        &mut self,
        expr: &IdedExpr,
        target: &IdedExpr,
        args: &[IdedExpr],
        polarity: Polarity,
    ) -> Result<Sourced<'d>, Refusal> {
        let (variable, test, value) = match args {
            [variable, value] => (variable, None, value),
            [variable, test, value] => (variable, Some(test), value),
            _ => return self.wrong_arguments(expr, "map"),
        };
        let mut list = self.source(target, polarity)?;
        let (element, place) = (list.element.clone(), list.place.clone());
        let (stage, kind) = self.bind(variable, element, place, |c, slot| {
            let condition = match test {
                Some(test) => Some(c.condition(test, polarity)?),
                None => None,
            };
            let facts: Vec<_> = test.iter().map(|test| (*test, true)).collect();
            let typed = c.knowing(&facts, |c| c.term(value))?;
            if typed.slope != 0 {
                return c.refuse(value, "`now` stands only in comparisons");
            }
            if !typed.kind.is_scalar() {
                let reason = format!(
                    "a list holds strings, numbers or bools, not {}",
                    typed.kind.name()
                );
                return c.refuse(value, reason);
            }
            if typed.nullable {
                let reason = "an element of a list must not be null; leave null out with map(x, x.f != null, x.f)";
                return c.refuse(value, reason);
            }
            let stage = Stage {
                slot,
                condition,
                value: Some(typed.term),
            };
            Ok((stage, typed.kind))
        })?;
        list.list.stages.push(stage);
        list.element = kind;
        list.place = None;
        Ok(list)
    }

    fn split(
        &mut self,
        expr: &IdedExpr,
        target: &IdedExpr,
        args: &[IdedExpr],
    ) -> Result<Sourced<'d>, Refusal> {
        let [separator] = args else {
            return self.wrong_arguments(expr, "split");
        };
        let text = self.wanted(target, &Type::String)?;
        let by = self.wanted(separator, &Type::String)?;
        if by.nullable {
            return self.refuse(separator, "an argument must not be null");
        }
        let source = Source::Split {
            text: Box::new(text.term),
            separator: Box::new(by.term),
        };
        let mut list = Sourced::new(source, Type::String);
        list.nullable = text.nullable;
        Ok(list)
    }

    fn relation(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Sourced<'d>, Refusal> {
        let (rel, of_type) = match call.args.as_slice() {
            [rel] => (rel, None),
            [rel, of_type] if call.func_name == "linked_from" => (rel, Some(of_type)),
            _ => return self.wrong_arguments(expr, &call.func_name),
        };
        let Some(name) = literal_text(rel) else {
            return self.refuse(rel, "expected the name of a relation in quotes");
        };
        let (direction, other) = if call.func_name == "linked" {
            (Direction::Outgoing, self.linked_type(rel, name)?)
        } else {
            (Direction::Incoming, self.linking_type(rel, name, of_type)?)
        };
        let Some(found) = self.declarations.get(other) else {
            return self.refuse(rel, format!("the type {other} is not declared"));
        };
        let read = RelationRead {
            direction,
            name: name.to_owned(),
            type_name: other.to_owned(),
        };
        self.note(other, "");
        let known = self.reads.relations.iter().position(|r| *r == read);
        let number = known.unwrap_or_else(|| {
            self.reads.relations.push(read);
            self.reads.relations.len() - 1
        });
        let mut list = Sourced::new(Source::Relation(number), Type::Document(found));
        list.place = Some(Place {
            of: Of::Neighbour,
            path: String::new(),
            call: found.call.clone(),
        });
        Ok(list)
    }

    /// Returns the type that a relation of the subject leads to.
    fn linked_type(&self, rel: &IdedExpr, name: &str) -> Result<&'d str, Refusal> {
        let links = &self.subject.links;
        match links.get(name) {
            Some(link) => Ok(&link.to),
            None => {
                let reason = format!("{} has no link {name}", self.subject.name);
                let refusal = Refusal::new(self.start(rel), reason);
                Err(refusal.among(name, links.keys().map(String::as_str)))
            }
        }
    }

    /// Returns the type from which a relation leads to the subject.
    fn linking_type(
        &self,
        rel: &IdedExpr,
        name: &str,
        of_type: Option<&IdedExpr>,
    ) -> Result<&'d str, Refusal> {
        let subject = &self.subject.name;
        let linking = |rel: &str| -> Vec<&'d str> {
            let declarations: &'d _ = self.declarations;
            let leads = |t: &&'d protocol::declare::ResourceType| {
                t.links.get(rel).is_some_and(|link| link.to == *subject)
            };
            let found = declarations.iter().filter(leads);
            found.map(|t| t.name.as_str()).collect()
        };
        let types = linking(name);
        if types.is_empty() {
            let declarations: &'d _ = self.declarations;
            let known: std::collections::BTreeSet<&str> = declarations
                .iter()
                .flat_map(|t| &t.links)
                .filter(|(_, link)| link.to == *subject)
                .map(|(rel, _)| rel.as_str())
                .collect();
            let reason = format!("no type has a link {name} to {subject}");
            return Err(Refusal::new(self.start(rel), reason).among(name, known));
        }
        match (of_type, types.as_slice()) {
            (None, [one]) => Ok(one),
            (None, _) => {
                let reason = format!("several types have a link {name}; name one after it");
                let mut refusal = Refusal::new(self.start(rel), reason);
                refusal.allowed = types.iter().map(|t| (*t).to_owned()).collect();
                Err(refusal)
            }
            (Some(expr), _) => {
                let wanted = literal_text(expr).unwrap_or_default();
                match types.iter().find(|t| **t == wanted) {
                    Some(found) => Ok(found),
                    None => {
                        let reason = format!("'{wanted}' has no link {name} to {subject}");
                        let refusal = Refusal::new(self.start(expr), reason);
                        Err(refusal.among(wanted, types.iter().copied()))
                    }
                }
            }
        }
    }

    /// Compiles `exists`, `all` and `exists_one`.
    pub(super) fn list_macro(
        &mut self,
        expr: &IdedExpr,
        name: &str,
        (target, args): (&IdedExpr, &[IdedExpr]),
        polarity: Polarity,
    ) -> Result<Condition, Refusal> {
        let [variable, test] = args else {
            return self.wrong_arguments(expr, name);
        };
        // Whether an element is looked at works the other way round under `all`.
        let (inner, looked_at) = match name {
            "exists" => (polarity, polarity),
            "all" => (polarity, polarity.flip()),
            _ => (Polarity::Both, Polarity::Both),
        };
        let list = self.source(target, looked_at)?;
        let null_helps = match name {
            "all" => polarity.true_helps(),
            "exists" => polarity.false_helps(),
            // It is false for no element and for several.
            _ => polarity.false_helps(),
        };
        if list.nullable && null_helps {
            return self.refuse_null_list(target, name, polarity);
        }
        let (element, place) = (list.element.clone(), list.place.clone());
        let list = list.list;
        self.bind(variable, element, place, |c, slot| {
            let condition = Box::new(c.condition(test, inner)?);
            Ok(match name {
                "exists" => Condition::Exists {
                    list,
                    slot,
                    condition,
                    wanted: true,
                },
                "all" => Condition::Not(Box::new(Condition::Exists {
                    list,
                    slot,
                    condition,
                    wanted: false,
                })),
                _ => Condition::ExistsOne {
                    list,
                    slot,
                    condition,
                },
            })
        })
    }
}

/// Returns the text of a string literal.
fn literal_text(expr: &IdedExpr) -> Option<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

impl<'d> Typed<'d> {
    /// Returns it with the place it was declared at.
    pub(super) fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }
}
