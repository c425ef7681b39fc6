//! A policy document as its parts mean it.

use serde_json::{Map, Value};

use super::Malformed;
use super::condition::Condition;
use super::pattern;

/// Statements of a document at most; real ones have some dozens.
const STATEMENTS: usize = 1000;
/// Longest pattern, in bytes: beyond the longest name that AWS gives to anything.
const PATTERN_BYTES: usize = 4096;

/// A document.
#[derive(Debug)]
pub(super) struct Policy {
    statements: Vec<Statement>,
}

/// A statement.
#[derive(Debug)]
pub(super) struct Statement {
    allows: bool,
    pub(super) principals: Principals,
    pub(super) actions: Patterns,
    /// Everything where the statement names none, as in a trust policy.
    pub(super) resources: Patterns,
    pub(super) conditions: Vec<Condition>,
}

/// Whom a statement is about.
#[derive(Debug)]
pub(super) enum Principals {
    /// Whoever the policy is attached to.
    Holder,
    Only(Vec<Principal>),
    AllBut(Vec<Principal>),
}

#[derive(Debug)]
pub(super) enum Principal {
    Everyone,
    Aws(String),
    Service(String),
    /// An identity provider.
    Federated,
    /// An account under its other name.
    Canonical,
}

/// Patterns, or all but some.
#[derive(Debug)]
pub(super) struct Patterns {
    patterns: Vec<String>,
    is_not: bool,
}

impl Patterns {
    /// Whether everything that `inner` matches is meant.
    pub(super) fn cover(&self, inner: &str) -> bool {
        if self.is_not {
            !self.patterns.iter().any(|p| pattern::overlaps(p, inner))
        } else {
            self.patterns.iter().any(|p| pattern::covers(p, inner))
        }
    }

    /// Whether something that `inner` matches is meant.
    pub(super) fn touch(&self, inner: &str) -> bool {
        if self.is_not {
            !self.patterns.iter().any(|p| pattern::covers(p, inner))
        } else {
            self.patterns.iter().any(|p| pattern::overlaps(p, inner))
        }
    }

    /// Whether all of `other` is meant.
    pub(super) fn contain(&self, other: &Patterns) -> bool {
        match (self.is_not, other.is_not) {
            (_, false) => other.patterns.iter().all(|p| self.cover(p)),
            (false, true) => self.cover("*"),
            (true, true) => self
                .patterns
                .iter()
                .all(|p| other.patterns.iter().any(|o| pattern::covers(o, p))),
        }
    }

    /// The patterns that are left out, if they are what is written.
    pub(super) fn left_out(&self) -> Option<&[String]> {
        self.is_not.then_some(self.patterns.as_slice())
    }

    /// The patterns that are meant, if they are what is written.
    pub(super) fn named(&self) -> &[String] {
        if self.is_not { &[] } else { &self.patterns }
    }
}

impl Policy {
    /// Reads a document.
    pub(super) fn parse(document: &Value) -> Result<Self, Malformed> {
        let fields = document.as_object().ok_or(Malformed("not an object"))?;
        let statements = match fields.get("Statement") {
            Some(Value::Array(items)) if items.len() > STATEMENTS => {
                return Err(Malformed("too many statements"));
            }
            Some(Value::Array(items)) => {
                let read = items.iter().map(parse_statement);
                read.collect::<Result<_, _>>()?
            }
            Some(one @ Value::Object(_)) => vec![parse_statement(one)?],
            Some(_) => return Err(Malformed("Statement is neither a list nor an object")),
            None => return Err(Malformed("Statement is missing")),
        };
        Ok(Self { statements })
    }

    pub(super) fn allows(&self) -> impl Iterator<Item = &Statement> {
        self.statements.iter().filter(|s| s.allows)
    }

    pub(super) fn denies(&self) -> impl Iterator<Item = &Statement> {
        self.statements.iter().filter(|s| !s.allows)
    }
}

impl Statement {
    /// Whether it is about strangers: nobody in particular.
    pub(super) fn is_about_everyone(&self) -> bool {
        let is_everyone = |p: &Principal| matches!(p, Principal::Everyone);
        match &self.principals {
            Principals::Holder => false,
            Principals::Only(principals) => principals.iter().any(is_everyone),
            Principals::AllBut(principals) => !principals.iter().any(is_everyone),
        }
    }

    /// Whether this denial takes all of `action` on all resources of `allowed` away, from whoever
    /// it is that `allowed` is about.
    pub(super) fn takes_away(&self, action: &str, allowed: &Statement) -> bool {
        let from_all = match &self.principals {
            Principals::Holder => true,
            Principals::Only(_) | Principals::AllBut(_) => self.is_about_everyone(),
        };
        from_all
            && !matches!(self.principals, Principals::AllBut(_))
            && self.conditions.is_empty()
            && self.actions.cover(action)
            && self.resources.contain(&allowed.resources)
    }
}

fn parse_statement(statement: &Value) -> Result<Statement, Malformed> {
    let fields = statement
        .as_object()
        .ok_or(Malformed("a statement is not an object"))?;
    let allows = match fields.get("Effect") {
        Some(Value::String(effect)) if effect == "Allow" => true,
        Some(Value::String(effect)) if effect == "Deny" => false,
        Some(_) => return Err(Malformed("Effect is neither Allow nor Deny")),
        None => return Err(Malformed("Effect is missing")),
    };
    let actions = parse_patterns(fields, "Action", "NotAction")?.map(|mut actions| {
        for action in &mut actions.patterns {
            *action = action.to_lowercase();
        }
        actions
    });
    let resources = parse_patterns(fields, "Resource", "NotResource")?;
    let conditions = match fields.get("Condition") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(operators)) => Condition::parse(operators)?,
        Some(_) => return Err(Malformed("Condition is not an object")),
    };
    Ok(Statement {
        allows,
        principals: parse_principals(fields)?,
        actions: actions.ok_or(Malformed("neither Action nor NotAction"))?,
        resources: resources.unwrap_or(Patterns {
            patterns: vec!["*".to_owned()],
            is_not: false,
        }),
        conditions,
    })
}

/// Reads a text or a list of texts.
pub(super) fn texts(value: &Value) -> Result<Vec<&str>, Malformed> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().ok_or(Malformed("an entry is not text")))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(Malformed("neither text nor a list of texts"))
        }
    }
}

fn parse_patterns(
    fields: &Map<String, Value>,
    key: &str,
    opposite: &str,
) -> Result<Option<Patterns>, Malformed> {
    let (value, is_not) = match (fields.get(key), fields.get(opposite)) {
        (Some(_), Some(_)) => return Err(Malformed("an element and its opposite")),
        (Some(value), None) => (value, false),
        (None, Some(value)) => (value, true),
        (None, None) => return Ok(None),
    };
    let patterns = texts(value)?;
    if patterns.iter().any(|p| p.len() > PATTERN_BYTES) {
        return Err(Malformed("a pattern is too long"));
    }
    Ok(Some(Patterns {
        patterns: patterns.into_iter().map(str::to_owned).collect(),
        is_not,
    }))
}

fn parse_principals(fields: &Map<String, Value>) -> Result<Principals, Malformed> {
    let (value, is_not) = match (fields.get("Principal"), fields.get("NotPrincipal")) {
        (Some(_), Some(_)) => return Err(Malformed("both Principal and NotPrincipal")),
        (Some(value), None) => (value, false),
        (None, Some(value)) => (value, true),
        (None, None) => return Ok(Principals::Holder),
    };
    let mut principals = Vec::new();
    match value {
        Value::String(text) => principals.push(principal("AWS", text)?),
        Value::Object(kinds) => {
            for (kind, names) in kinds {
                for name in texts(names)? {
                    principals.push(principal(kind, name)?);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            return Err(Malformed("Principal is neither text nor an object"));
        }
    }
    Ok(if is_not {
        Principals::AllBut(principals)
    } else {
        Principals::Only(principals)
    })
}

fn principal(kind: &str, name: &str) -> Result<Principal, Malformed> {
    match kind {
        "AWS" if has_any_account(name) => Ok(Principal::Everyone),
        "AWS" => Ok(Principal::Aws(name.to_owned())),
        "Service" => Ok(Principal::Service(name.to_lowercase())),
        "Federated" => Ok(Principal::Federated),
        "CanonicalUser" => Ok(Principal::Canonical),
        _ => Err(Malformed("a principal of an unknown kind")),
    }
}

/// Whether a name stands for principals of any account.
fn has_any_account(name: &str) -> bool {
    if !name.starts_with("arn:") {
        return name.contains(['*', '?']);
    }
    // arn:partition:iam::account:…
    name.split(':')
        .nth(4)
        .is_some_and(|account| account.contains(['*', '?']))
}
