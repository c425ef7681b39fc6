//! From the SDK's types to JSON under the provider's own names.

use std::collections::BTreeMap;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// Returns an enum of the SDK as the word that the API uses; unknown words stay as they are.
pub(crate) fn word<T: AsRef<str>>(value: Option<&T>) -> Option<&str> {
    value.map(AsRef::as_ref)
}

/// Returns an instant as RFC 3339 text.
pub(crate) fn at(value: Option<&DateTime>) -> Value {
    match value.map(|instant| instant.fmt(Format::DateTime)) {
        None => Value::Null,
        Some(Ok(text)) => Value::String(text),
        // Outside the years that the text can hold: kept as what it is not, so that it is a gap.
        Some(Err(_)) => Value::Bool(false),
    }
}

/// Returns a list; an absent one is empty.
pub(crate) fn items<T>(items: &[T], one: impl Fn(&T) -> Value) -> Value {
    items.iter().map(one).collect()
}

/// Returns a list, or null where the provider sent none.
pub(crate) fn items_or_null<T>(list: Option<&Vec<T>>, one: impl Fn(&T) -> Value) -> Value {
    list.map_or(Value::Null, |list| items(list, one))
}

/// Returns a record, or null where the provider sent none.
pub(crate) fn record<T>(value: Option<T>, one: impl Fn(T) -> Value) -> Value {
    value.map_or(Value::Null, one)
}

/// Returns tags as a map. A tag without a value has an empty one, as AWS defines it.
pub(crate) fn tags<'t>(
    tags: impl IntoIterator<Item = (Option<&'t str>, Option<&'t str>)>,
) -> BTreeMap<String, String> {
    tags.into_iter()
        .filter_map(|(key, value)| Some((key?.to_owned(), value.unwrap_or_default().to_owned())))
        .collect()
}

/// Returns a policy document as an object. Text that is no JSON stays text, which a field of
/// class policy refuses: what cannot be understood was not read.
pub(crate) fn policy(text: Option<&str>) -> Value {
    text.map_or(Value::Null, |text| {
        serde_json::from_str(text).unwrap_or_else(|_| Value::String(String::new()))
    })
}

/// Returns a policy document that arrived URL-encoded, as all of IAM's do.
pub(crate) fn encoded_policy(text: Option<&str>) -> Value {
    let decoded = text.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
    policy(decoded.as_deref())
}

/// Returns one field on its own, as an answer of a call that reads just this.
pub(crate) fn only(name: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(name.to_owned(), value)]))
}
