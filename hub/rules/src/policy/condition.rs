//! Conditions of a statement: whether they name somebody in particular.
//!
//! Source: IAM User Guide, "IAM JSON policy elements: Condition operators" and "AWS global
//! condition context keys"; Amazon S3 User Guide, "The meaning of public".

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::Malformed;
use crate::network;

/// One operator on one key.
#[derive(Debug)]
pub(super) struct Condition {
    /// In lower case, without what stands before and after it.
    operator: String,
    /// In lower case.
    key: String,
    values: Vec<String>,
    /// `…IfExists`: it holds where the request has no such key.
    if_exists: bool,
    set: Option<Set>,
}

/// How an operator looks at a key with several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// It holds where the request has no such key.
    All,
    Any,
}

const EQUALITIES: [&str; 6] = [
    "stringequals",
    "stringequalsignorecase",
    "stringlike",
    "arnequals",
    "arnlike",
    "ipaddress",
];
const INEQUALITIES: [&str; 6] = [
    "stringnotequals",
    "stringnotequalsignorecase",
    "stringnotlike",
    "arnnotequals",
    "arnnotlike",
    "notipaddress",
];

/// Keys that say for whose resources a service acts.
const SOURCES: [&str; 5] = [
    "aws:sourceaccount",
    "aws:sourceowner",
    "aws:sourcearn",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
];
/// Keys whose value is one account.
const ACCOUNTS: [&str; 5] = [
    "aws:principalaccount",
    "aws:sourceaccount",
    "aws:sourceowner",
    "kms:calleraccount",
    "s3:dataaccesspointaccount",
];
/// Keys whose value is a name with an account in it.
const ARNS: [&str; 3] = ["aws:principalarn", "aws:sourcearn", "s3:dataaccesspointarn"];
/// Other keys whose value a stranger cannot have.
const SOMEBODY: [&str; 8] = [
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
];
const ADDRESSES: [&str; 2] = ["aws:sourceip", "aws:vpcsourceip"];

impl Condition {
    /// Reads the conditions of a statement.
    pub(super) fn parse(operators: &Map<String, Value>) -> Result<Vec<Self>, Malformed> {
        let mut conditions = Vec::new();
        for (operator, keys) in operators {
            let keys = keys
                .as_object()
                .ok_or(Malformed("a condition operator holds no keys"))?;
            let lower = operator.to_lowercase();
            let (lower, set) = if let Some(rest) = lower.strip_prefix("forallvalues:") {
                (rest, Some(Set::All))
            } else if let Some(rest) = lower.strip_prefix("foranyvalue:") {
                (rest, Some(Set::Any))
            } else {
                (lower.as_str(), None)
            };
            let (operator, if_exists) = match lower.strip_suffix("ifexists") {
                Some(operator) => (operator, true),
                None => (lower, false),
            };
            for (key, values) in keys {
                conditions.push(Self {
                    operator: operator.to_owned(),
                    key: key.to_lowercase(),
                    values: values_of(values)?,
                    if_exists,
                    set,
                });
            }
        }
        Ok(conditions)
    }

    /// Whether no stranger's request can meet it.
    pub(super) fn excludes_strangers(&self) -> bool {
        if self.if_exists || self.set == Some(Set::All) {
            return false;
        }
        if self.key == "aws:principalisawsservice" {
            return self.is_bool(true);
        }
        self.is_equality() && self.names_somebody()
    }

    /// Whether every stranger's request meets it.
    pub(super) fn holds_for_strangers(&self) -> bool {
        if self.key == "aws:principalisawsservice" {
            return self.is_bool(false) && self.set.is_none();
        }
        // Where the request has no such key, an inequality holds, but not `ForAnyValue:`.
        INEQUALITIES.contains(&self.operator.as_str())
            && self.set != Some(Set::Any)
            && self.names_somebody()
    }

    /// Whether it says that the request is not encrypted, for every request that is not.
    pub(super) fn is_without_tls(&self) -> bool {
        self.key == "aws:securetransport" && self.is_bool(false) && self.set.is_none()
    }

    fn is_bool(&self, wanted: bool) -> bool {
        let wanted = if wanted { "true" } else { "false" };
        self.operator == "bool"
            && !self.values.is_empty()
            && self.values.iter().all(|v| v.eq_ignore_ascii_case(wanted))
    }

    fn is_equality(&self) -> bool {
        EQUALITIES.contains(&self.operator.as_str())
    }

    /// Whether each of its values stands for somebody in particular.
    fn names_somebody(&self) -> bool {
        if self.values.is_empty() {
            return false;
        }
        let key = self.key.as_str();
        if ADDRESSES.contains(&key) {
            let is_narrow =
                |text: &String| network::parse_range(text).is_some_and(|range| !is_wide(&range));
            return self.values.iter().all(is_narrow);
        }
        if ARNS.contains(&key) {
            let account = |arn: &String| arn.split(':').nth(4).map(str::to_owned);
            return self.values.iter().all(|arn| match account(arn) {
                // A bucket's name has no account in it, but is one bucket.
                Some(account) if account.is_empty() => arn.split(':').nth(5).is_some_and(is_fixed),
                Some(account) => is_fixed(&account),
                None => false,
            });
        }
        (SOMEBODY.contains(&key) || ACCOUNTS.contains(&key))
            && self.values.iter().all(|value| is_fixed(owner(key, value)))
    }

    /// Whether it lets only requests of one account through.
    pub(super) fn names_account(&self, account: &str) -> bool {
        if self.if_exists || self.set == Some(Set::All) || !self.is_equality() {
            return false;
        }
        if self.values.is_empty() {
            return false;
        }
        if ACCOUNTS.contains(&self.key.as_str()) {
            return self.values.iter().all(|value| value == account);
        }
        ARNS.contains(&self.key.as_str())
            && self
                .values
                .iter()
                .all(|arn| arn.split(':').nth(4) == Some(account))
    }

    /// Whether it says for whose resources a service acts.
    pub(super) fn names_source(&self) -> bool {
        !self.if_exists
            && self.set != Some(Set::All)
            && self.is_equality()
            && SOURCES.contains(&self.key.as_str())
            && self.names_somebody()
    }
}

fn values_of(values: &Value) -> Result<Vec<String>, Malformed> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Number(value) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(Malformed("an entry is not text")),
    };
    match values {
        Value::Array(items) => items.iter().map(one).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Ok(vec![one(values)?])
        }
    }
}

/// Whether a range is too wide to name anybody.
///
/// Source: Amazon S3 User Guide, "The meaning of public": broader than /8 (IPv4) or /32 (IPv6),
/// private ranges excepted.
fn is_wide(range: &IpNet) -> bool {
    let widest = match range {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 32,
    };
    range.prefix_len() < widest && network::is_public(range)
}

/// Returns the part of a value that says whose it is; what follows may be a pattern.
fn owner<'v>(key: &str, value: &'v str) -> &'v str {
    let end = match key {
        // AROAEXAMPLE:session
        "aws:userid" => ':',
        // o-example/r-example/ou-example/
        "aws:principalorgpaths" | "aws:sourceorgpaths" => '/',
        _ => return value,
    };
    value.split_once(end).map_or(value, |(owner, _)| owner)
}

/// Whether a value stands for something in particular: no wildcard, no policy variable. Every
/// organisation's id fits `o-*`.
fn is_fixed(value: &str) -> bool {
    !value.is_empty() && !value.contains("${") && !value.contains(['*', '?'])
}
