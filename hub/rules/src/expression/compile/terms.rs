//! What has a value: literals, fields, variables, arithmetic.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};
use protocol::declare::ResourceType;

use super::{Compiler, Of, Place, Typed};
use crate::expression::nullness::Polarity;
use crate::expression::refusal::Refusal;
use crate::expression::tree::{Choice, Leaf, NamePart, Operator, Part, Path, Root, Step, Term};
use crate::expression::types::Type;

const USE_LIST: &str = "a list is used through exists(), all(), exists_one(), size() or `in`";

impl<'d> Compiler<'d> {
    /// Compiles a value that is used as one: no list.
    pub(super) fn term(&mut self, expr: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        let typed = self.term_of(expr)?;
        if matches!(typed.kind, Type::List(_)) {
            return self.refuse(expr, USE_LIST);
        }
        Ok(typed)
    }

    /// Compiles a value of any type, and notes what it reads.
    pub(super) fn term_of(&mut self, expr: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        let typed = self.part(expr)?;
        self.read(typed.place.as_ref());
        Ok(typed)
    }

    fn part(&mut self, expr: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal_term(expr, literal),
            Expr::Ident(_) | Expr::Select(_) => self.chain(expr),
            Expr::Call(call) => self.call_term(expr, call),
            Expr::List(_) => {
                let reason = "a list stands only after `in` or before a list macro";
                self.refuse(expr, reason)
            }
            Expr::Map(_) | Expr::Struct(_) => {
                self.refuse(expr, "map and record literals are not part of the language")
            }
            Expr::Unspecified | Expr::Comprehension(_) => {
                self.refuse(expr, "not part of the language")
            }
        }
    }

    fn literal_term(&self, expr: &IdedExpr, literal: &LiteralValue) -> Result<Typed<'d>, Refusal> {
        Ok(match literal {
            LiteralValue::Null => Typed::plain(Term::Null, Type::Null).nullable(true),
            LiteralValue::Boolean(value) => Typed::plain(Term::Bool(*value.inner()), Type::Bool),
            LiteralValue::Int(value) => Typed::plain(Term::Int(*value.inner()), Type::Int),
            LiteralValue::Double(value) => Typed::plain(Term::Double(*value.inner()), Type::Double),
            LiteralValue::String(value) => {
                Typed::plain(Term::Text(value.inner().to_owned()), Type::String)
            }
            LiteralValue::UInt(_) => {
                let reason = "unsigned numbers are not part of the language; leave out u";
                return self.refuse(expr, reason);
            }
            LiteralValue::Bytes(_) => {
                return self.refuse(expr, "bytes are not part of the language; leave out b");
            }
        })
    }

    /// Compiles a variable or a field, without noting that it is read: more may follow.
    fn chain(&mut self, expr: &IdedExpr) -> Result<Typed<'d>, Refusal> {
        let mut typed = match &expr.expr {
            Expr::Ident(name) => self.ident(expr, name)?,
            Expr::Select(select) => self.select(expr, &select.operand, &select.field)?,
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [of, index] => self.index(expr, of, index)?,
                _ => return self.refuse(expr, "an index is one value"),
            },
            Expr::Map(_) | Expr::Struct(_) | Expr::List(_) | Expr::Literal(_) => {
                return self.part(expr);
            }
            Expr::Call(call)
                if call.func_name.starts_with("_?") || call.func_name == operators::OPT_INDEX =>
            {
                return self.call_term(expr, call);
            }
            _ => return self.refuse(expr, "a field is selected from a path only"),
        };
        if typed.nullable && self.is_known(expr) {
            typed.nullable = false;
        }
        Ok(typed)
    }

    fn ident(&mut self, expr: &IdedExpr, name: &str) -> Result<Typed<'d>, Refusal> {
        let place = |of: Of, of_type: &ResourceType| Place {
            of,
            path: String::new(),
            call: of_type.call.clone(),
        };
        let document = |root: Root, call: &str| Path {
            root,
            part: Part::Config,
            steps: Vec::new(),
            leaf: Leaf::Object,
            call: call.to_owned(),
        };
        match name {
            "r" => {
                let path = document(Root::Subject, &self.subject.call);
                let typed = Typed::plain(Term::Path(path), Type::Record(&self.subject.fields));
                Ok(typed.at(Some(place(Of::Subject, self.subject))))
            }
            "tags" => {
                self.reads.all_tags = true;
                self.note(&self.subject.name, "tags");
                Ok(tags_of(Root::Subject, &self.subject.call))
            }
            "account" => {
                let name = format!("{}.account", self.subject.provider());
                let Some(found) = self.declarations.get(&name) else {
                    return self.refuse(expr, format!("the type {name} is not declared"));
                };
                self.reads.reads_account = true;
                self.note(&found.name, "");
                // Where the account's document is missing, any of its calls is to blame; the
                // field's own is set with the field.
                let path = document(Root::Account, &found.call);
                let typed = Typed::plain(Term::Path(path), Type::Record(&found.fields));
                Ok(typed.at(Some(place(Of::Account, found))))
            }
            "account_id" => Ok(Typed::plain(
                Term::Name(Root::Subject, NamePart::Account),
                Type::String,
            )),
            "region" => Ok(Typed::plain(
                Term::Name(Root::Subject, NamePart::Region),
                Type::String,
            )),
            "now" => {
                let mut typed = Typed::plain(Term::Now, Type::Timestamp);
                typed.slope = 1;
                Ok(typed)
            }
            _ => {
                let found = self.scope.iter().enumerate().find(|(_, v)| v.name == name);
                let Some((slot, variable)) = found else {
                    let mut known: Vec<&str> =
                        vec!["r", "tags", "account", "account_id", "region", "now"];
                    known.extend(self.scope.iter().map(|v| v.name.as_str()));
                    let refusal = Refusal::new(self.start(expr), format!("unknown name {name}"));
                    return Err(refusal.among(name, known));
                };
                let call = variable.place.as_ref().map(|p| p.call.clone());
                let path = Path {
                    root: Root::Slot(slot),
                    part: Part::Config,
                    steps: Vec::new(),
                    leaf: leaf(&variable.kind),
                    call: call.unwrap_or_default(),
                };
                let typed = Typed::plain(Term::Path(path), variable.kind.clone());
                Ok(typed.at(variable.place.clone()))
            }
        }
    }

    fn select(
        &mut self,
        expr: &IdedExpr,
        operand: &IdedExpr,
        name: &str,
    ) -> Result<Typed<'d>, Refusal> {
        if let (Expr::Ident(of), true) = (&operand.expr, !self.reads.all_tags)
            && of == "tags"
        {
            // One tag is read, not all of them.
            let typed = self.map_value(expr, operand, Term::Text(name.to_owned()))?;
            self.reads.all_tags = false;
            self.reads.tags.insert(name.to_owned());
            return Ok(typed);
        }
        let of = self.chain(operand)?;
        match of.kind.clone() {
            Type::Record(fields) => self.field(expr, of, fields, name),
            Type::Map => self.map_value(expr, operand, Term::Text(name.to_owned())),
            Type::Document(found) => self.document_part(expr, of, found, name),
            Type::Json => self.refuse_at(
                expr,
                "free-form JSON has no declared fields; only `== null` can be asked",
            ),
            Type::Policy => self.refuse_at(expr, "a policy is asked through policy_… functions"),
            Type::List(_) => {
                let reason = format!("a list has no field {name}; use .exists(x, …) or .all(x, …)");
                self.refuse_at(expr, reason)
            }
            other => {
                let reason = format!("{} has no field {name}", other.name());
                self.refuse_at(expr, reason)
            }
        }
    }

    fn document_part(
        &mut self,
        expr: &IdedExpr,
        of: Typed<'d>,
        found: &'d ResourceType,
        name: &str,
    ) -> Result<Typed<'d>, Refusal> {
        let place = of.place.clone();
        let Some(path) = of.into_path() else {
            return self.refuse(expr, "expected a linked document");
        };
        let root = path.root;
        let part = |part| Ok(Typed::plain(Term::Name(root, part), Type::String));
        match name {
            "r" => {
                let typed = Typed::plain(Term::Path(path), Type::Record(&found.fields));
                Ok(typed.at(place))
            }
            "tags" => {
                self.note(&found.name, "tags");
                Ok(tags_of(root, &found.call))
            }
            "id" => part(NamePart::Id),
            "name" => part(NamePart::Name),
            "region" => part(NamePart::Region),
            "account" => part(NamePart::Account),
            _ => {
                let refusal =
                    Refusal::new(self.at(expr), format!("a linked document has no {name}"));
                let mut refusal =
                    refusal.among(name, ["r", "tags", "id", "name", "region", "account"]);
                if found.fields.contains_key(name) {
                    refusal.nearest = Some(format!("r.{name}"));
                }
                Err(refusal)
            }
        }
    }

    fn field(
        &mut self,
        expr: &IdedExpr,
        of: Typed<'d>,
        fields: &'d std::collections::BTreeMap<String, protocol::declare::Field>,
        name: &str,
    ) -> Result<Typed<'d>, Refusal> {
        let place = of.place.clone();
        let Some(field) = fields.get(name) else {
            let whose = match &place {
                Some(place) if !place.path.is_empty() => place.path.clone(),
                Some(place) if place.of == Of::Subject => self.subject.name.clone(),
                Some(place) if place.of == Of::Account => {
                    format!("{}.account", self.subject.provider())
                }
                _ => "this record".to_owned(),
            };
            let reason = format!("{whose} has no declared field {name}");
            let refusal = Refusal::new(self.at(expr), reason);
            return Err(refusal.among(name, fields.keys().map(String::as_str)));
        };
        let mut types = self.declarations.iter();
        if let Some(outermost) = types.find(|found| std::ptr::eq(&found.fields, fields)) {
            self.note(&outermost.name, name);
        }
        let nullable = of.nullable || !field.required;
        let Some(mut path) = of.into_path() else {
            return self.refuse(expr, "a field is selected from a path only");
        };
        let kind = Type::of(&field.kind);
        path.steps.push(Step::Field {
            name: name.to_owned(),
            required: field.required,
        });
        path.leaf = leaf(&kind);
        path.call.clone_from(&field.call);
        let place = place.map(|mut place| {
            if !place.path.is_empty() {
                place.path.push('.');
            }
            place.path.push_str(name);
            place.call.clone_from(&field.call);
            place
        });
        let typed = Typed::plain(Term::Path(path), kind);
        Ok(typed.nullable(nullable).at(place))
    }

    fn index(
        &mut self,
        expr: &IdedExpr,
        of: &IdedExpr,
        index: &IdedExpr,
    ) -> Result<Typed<'d>, Refusal> {
        if let Expr::Call(call) = &of.expr
            && Self::is_list(call)
        {
            return self.refuse(of, USE_LIST);
        }
        if let Expr::List(_) = &of.expr {
            return self.refuse(of, "a list stands only after `in` or before a list macro");
        }
        let all_tags = self.reads.all_tags;
        let typed = self.chain(of)?;
        match typed.kind.clone() {
            Type::List(element) => {
                let place = typed.place.clone();
                let at = match &index.expr {
                    Expr::Literal(LiteralValue::Int(at)) => usize::try_from(*at.inner()),
                    _ => {
                        let reason = "an index into a list is a whole number";
                        return self.refuse(index, reason);
                    }
                };
                let Ok(at) = at else {
                    return self.refuse(index, "an index begins at 0");
                };
                let Some(mut path) = typed.into_path() else {
                    return self.refuse(of, "a list must be a field, or made by filter and map");
                };
                path.steps.push(Step::Index(at));
                path.leaf = leaf(&element);
                let place = place.map(|mut place| {
                    place.path.push_str("[]");
                    place
                });
                let typed = Typed::plain(Term::Path(path), *element);
                Ok(typed.nullable(true).at(place))
            }
            Type::Map => {
                let key = self.term(index)?;
                if key.kind != Type::String {
                    let reason = format!("a key is a string, not {}", key.kind.name());
                    return self.refuse(index, reason);
                }
                if key.nullable {
                    return self.refuse(index, "a key must not be null");
                }
                if let (Expr::Ident(_), Term::Text(name)) = (&of.expr, &key.term) {
                    let is_own = matches!(&of.expr, Expr::Ident(of) if of == "tags");
                    if is_own {
                        self.reads.all_tags = all_tags;
                        self.reads.tags.insert(name.clone());
                    }
                }
                let place = typed.place.clone();
                let nullable = true;
                let Some(map) = typed.into_path() else {
                    return self.refuse(of, "a map must be a field");
                };
                let term = Term::MapValue(map, Box::new(key.term));
                Ok(Typed::plain(term, Type::String)
                    .nullable(nullable)
                    .at(place))
            }
            Type::Record(_) => {
                self.refuse(expr, "a record is not a map; write its field after a dot")
            }
            other => self.refuse(expr, format!("{} has no index", other.name())),
        }
    }

    fn map_value(
        &mut self,
        expr: &IdedExpr,
        map: &IdedExpr,
        key: Term,
    ) -> Result<Typed<'d>, Refusal> {
        let typed = self.chain(map)?;
        let place = typed.place.clone();
        match typed.into_path() {
            Some(path) => {
                let term = Term::MapValue(path, Box::new(key));
                Ok(Typed::plain(term, Type::String).nullable(true).at(place))
            }
            None => self.refuse(expr, "a map must be a field"),
        }
    }

    /// Compiles a call that has a value.
    fn call_term(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Typed<'d>, Refusal> {
        if Self::is_bool(call) {
            return self.condition_value(expr);
        }
        let operator = match call.func_name.as_str() {
            operators::ADD => Operator::Add,
            operators::SUBSTRACT => Operator::Subtract,
            operators::MULTIPLY => Operator::Multiply,
            operators::DIVIDE => Operator::Divide,
            operators::MODULO => Operator::Remainder,
            operators::INDEX => return self.chain(expr),
            operators::NEGATE => return self.negate(expr, call),
            operators::CONDITIONAL => return self.choice(expr, call),
            operators::OPT_INDEX | operators::OPT_SELECT => {
                let reason = "`?.` and `[?]` are not part of the language; a field of null is null";
                return self.refuse(expr, reason);
            }
            _ => return self.function(expr, call),
        };
        let [left, right] = call.args.as_slice() else {
            return self.refuse(expr, "an operator stands between two values");
        };
        let (a, b) = (self.term(left)?, self.term(right)?);
        let kind = match (operator, &a.kind, &b.kind) {
            (Operator::Remainder, Type::Int, Type::Int) => Type::Int,
            (Operator::Remainder, _, _) => return self.no_operator(expr, call, &a, &b),
            (_, Type::Int, Type::Int) => Type::Int,
            (_, Type::Double, Type::Double) => Type::Double,
            (Operator::Add, Type::String, Type::String) => Type::String,
            (Operator::Subtract, Type::Timestamp, Type::Timestamp) => Type::Duration,
            (Operator::Add | Operator::Subtract, Type::Timestamp, Type::Duration)
            | (Operator::Add, Type::Duration, Type::Timestamp) => Type::Timestamp,
            (Operator::Add | Operator::Subtract, Type::Duration, Type::Duration) => Type::Duration,
            _ => return self.no_operator(expr, call, &a, &b),
        };
        if a.slope != 0 && b.slope != 0 {
            return self.refuse(expr, "`now` may stand once in a comparison");
        }
        let nullable = a.nullable || b.nullable;
        let slope = if operator == Operator::Subtract {
            a.slope - b.slope
        } else {
            a.slope + b.slope
        };
        self.breakable += 1;
        let term = Term::Arithmetic(operator, Box::new(a.term), Box::new(b.term));
        let mut typed = Typed::plain(term, kind).nullable(nullable);
        typed.slope = slope;
        Ok(typed)
    }

    fn no_operator(
        &self,
        expr: &IdedExpr,
        call: &CallExpr,
        a: &Typed<'d>,
        b: &Typed<'d>,
    ) -> Result<Typed<'d>, Refusal> {
        let sign = call.func_name.trim_matches('_');
        self.refuse(
            expr,
            format!("no {} {sign} {}", a.kind.name(), b.kind.name()),
        )
    }

    fn negate(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Typed<'d>, Refusal> {
        let [of] = call.args.as_slice() else {
            return self.refuse(expr, "a sign stands before one value");
        };
        let typed = self.term(of)?;
        if !typed.kind.is_number() {
            let reason = format!("expected a number after -, found {}", typed.kind.name());
            return self.refuse(expr, reason);
        }
        self.breakable += 1;
        let term = Term::Negate(Box::new(typed.term));
        Ok(Typed::plain(term, typed.kind).nullable(typed.nullable))
    }

    fn choice(&mut self, expr: &IdedExpr, call: &CallExpr) -> Result<Typed<'d>, Refusal> {
        let [test, yes, no] = call.args.as_slice() else {
            return self.refuse(expr, "expected test ? value : value");
        };
        let before = self.breakable;
        let compiled = self.condition(test, Polarity::Both)?;
        let can_break = self.breakable > before;
        let a = self.knowing(&[(test, true)], |c| c.term(yes))?;
        let b = self.knowing(&[(test, false)], |c| c.term(no))?;
        if a.slope != 0 || b.slope != 0 {
            return self.refuse(expr, "`now` stands only in comparisons");
        }
        let kind = if a.kind == Type::Null {
            b.kind.clone()
        } else {
            a.kind.clone()
        };
        if b.kind != Type::Null && kind.name() != b.kind.name() {
            let reason = format!(
                "both values must be of one type, not {} and {}",
                a.kind.name(),
                b.kind.name()
            );
            return self.refuse(expr, reason);
        }
        if !kind.is_scalar() {
            let reason = format!("? : yields no {}; test inside it", kind.name());
            return self.refuse(expr, reason);
        }
        let term = Term::Choose(Box::new(Choice {
            test: compiled,
            can_break,
            yes: a.term,
            no: b.term,
        }));
        Ok(Typed::plain(term, kind).nullable(a.nullable || b.nullable))
    }
}

/// Returns what stands in a document for a type.
fn leaf(kind: &Type<'_>) -> Leaf {
    match kind {
        Type::Bool => Leaf::Bool,
        Type::Int => Leaf::Int,
        Type::Double => Leaf::Double,
        Type::String => Leaf::Text,
        Type::Timestamp => Leaf::Instant,
        Type::Map | Type::Record(_) | Type::Policy | Type::Document(_) => Leaf::Object,
        Type::List(_) => Leaf::List,
        Type::Null | Type::Duration | Type::Json => Leaf::Json,
    }
}

fn tags_of<'d>(root: Root, call: &str) -> Typed<'d> {
    let path = Path {
        root,
        part: Part::Tags,
        steps: Vec::new(),
        leaf: Leaf::Object,
        call: call.to_owned(),
    };
    Typed::plain(Term::Path(path), Type::Map)
}
