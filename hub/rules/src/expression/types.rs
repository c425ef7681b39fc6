//! The types that an expression's parts have while it is compiled.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use protocol::declare::{Field, Kind, ResourceType};

/// A type; records and documents borrow their fields from the declarations.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type<'d> {
    Null,
    Bool,
    Int,
    Double,
    String,
    Timestamp,
    Duration,
    Policy,
    Json,
    Map,
    Record(&'d BTreeMap<String, Field>),
    /// A resource, as `linked(…)` gives it.
    Document(&'d ResourceType),
    List(Box<Type<'d>>),
}

/// What stands in a document where a secret was examined.
fn secret_findings() -> &'static Kind {
    static FINDINGS: OnceLock<Kind> = OnceLock::new();
    FINDINGS.get_or_init(Kind::secret_findings)
}

impl<'d> Type<'d> {
    /// Returns the type of a declared field.
    pub(crate) fn of(kind: &'d Kind) -> Self {
        match kind {
            Kind::String => Type::String,
            Kind::Bool => Type::Bool,
            Kind::Int => Type::Int,
            Kind::Double => Type::Double,
            Kind::Timestamp => Type::Timestamp,
            Kind::Policy => Type::Policy,
            Kind::Secret => Type::of(secret_findings()),
            Kind::Json => Type::Json,
            Kind::StringMap => Type::Map,
            Kind::Record(fields) => Type::Record(fields),
            Kind::List(of) => Type::List(Box::new(Type::of(of))),
        }
    }

    /// Returns the name as refusals print it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Double => "double",
            Type::String => "string",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Policy => "policy",
            Type::Json => "json",
            Type::Map => "map",
            Type::Record(_) => "record",
            Type::Document(_) => "document",
            Type::List(_) => "list",
        }
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Double)
    }

    /// Whether it is one value that can be compared and put into a list.
    pub(crate) fn is_scalar(&self) -> bool {
        matches!(
            self,
            Type::Bool | Type::Int | Type::Double | Type::String | Type::Timestamp | Type::Duration
        )
    }

    pub(crate) fn can_equal(&self, other: &Type<'_>) -> bool {
        self.is_scalar() && self.name() == other.name() || self.is_number() && other.is_number()
    }

    pub(crate) fn can_order(&self, other: &Type<'_>) -> bool {
        self.can_equal(other) && *self != Type::Bool
    }
}
