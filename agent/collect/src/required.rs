//! What of the required fields is missing from an answer.
//!
//! A declaration says which fields a provider always sends. When one of them is absent, the answer
//! is not the one that was asked for, and null in its place would be a fact that nobody read: a
//! packet filter without `securityRules` is not a packet filter without rules. Of a provider that
//! leaves empty lists out of its answers, a list that is absent is an empty one.

use std::collections::BTreeMap;

use protocol::declare::{Field, Kind};
use serde_json::{Map, Value};

/// Returns the path of the first required field that `call` reads and `answer` lacks or has as
/// null, `properties.securityRules[3].name`; inside lists and records too.
pub(crate) fn missing(
    fields: &BTreeMap<String, Field>,
    call: &str,
    answer: &Map<String, Value>,
) -> Option<String> {
    fields
        .iter()
        .filter(|(_, field)| field.call == call)
        .find_map(|(name, field)| {
            let value = answer.get(name).unwrap_or(&Value::Null);
            if field.required && value.is_null() {
                return Some(name.clone());
            }
            inside(&field.kind, call, value, name)
        })
}

/// Puts an empty list in the place of each required list that `call` reads and `answer` lacks or
/// has as null; inside lists and records too.
pub(crate) fn fill_lists(
    fields: &BTreeMap<String, Field>,
    call: &str,
    answer: &mut Map<String, Value>,
) {
    for (name, field) in fields.iter().filter(|(_, field)| field.call == call) {
        if field.required && matches!(field.kind, Kind::List(_)) {
            let value = answer.entry(name.clone()).or_insert(Value::Null);
            if value.is_null() {
                *value = Value::Array(Vec::new());
            }
        }
        if let Some(value) = answer.get_mut(name) {
            fill_inside(&field.kind, call, value);
        }
    }
}

fn fill_inside(kind: &Kind, call: &str, value: &mut Value) {
    match (kind, value) {
        (Kind::Record(fields), Value::Object(map)) => fill_lists(fields, call, map),
        (Kind::List(of), Value::Array(items)) => {
            for item in items {
                fill_inside(of, call, item);
            }
        }
        // Other shapes are judged by `Draft::finish`.
        _ => {}
    }
}

fn inside(kind: &Kind, call: &str, value: &Value, path: &str) -> Option<String> {
    match (kind, value) {
        (Kind::Record(fields), Value::Object(map)) => {
            missing(fields, call, map).map(|below| format!("{path}.{below}"))
        }
        (Kind::List(of), Value::Array(items)) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| inside(of, call, item, &format!("{path}[{index}]"))),
        // Other shapes are judged by `Draft::finish`.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::declare::Declarations;
    use serde_json::json;

    const FILE: &str = "
provider: azure
service: network
types:
  azure.network.filter:
    summary: A filter.
    source: https://example.org
    scope: global
    call: graph:List
    fields:
      properties:
        type: record
        required: true
        meaning: Its settings.
        of:
          kind: {type: string}
          rules:
            type: list
            required: true
            of:
              name: {type: string, required: true}
              ports: {type: list<string>}
      policy: {type: json, required: true, call: 'graph:Policy', meaning: Of another call.}
";

    #[track_caller]
    fn check(answer: &Value, want: Option<&str>) {
        let types = Declarations::parse([("network.yaml", FILE)]).unwrap();
        let declared = types.get("azure.network.filter").unwrap();
        let got = missing(&declared.fields, "graph:List", answer.as_object().unwrap());
        assert_eq!(got.as_deref(), want, "{answer}");
    }

    #[test]
    fn a_missing_required_field_is_named_at_every_depth() {
        check(&json!({}), Some("properties"));
        check(&json!({"properties": null}), Some("properties"));
        check(&json!({"properties": {}}), Some("properties.rules"));
        check(
            &json!({"properties": {"rules": [{"name": "a"}, {"ports": []}]}}),
            Some("properties.rules[1].name"),
        );
    }

    #[test]
    fn required_lists_that_were_left_out_are_filled_in_at_every_depth_and_nothing_else_is() {
        let types = Declarations::parse([("network.yaml", FILE)]).unwrap();
        let declared = types.get("azure.network.filter").unwrap();
        let mut answer = json!({"properties": {"rules": null, "kind": null}});
        let map = answer.as_object_mut().unwrap();
        fill_lists(&declared.fields, "graph:List", map);
        assert_eq!(answer, json!({"properties": {"rules": [], "kind": null}}));
        let mut answer = json!({"properties": {"rules": [{"name": "a"}]}});
        let whole = answer.clone();
        let map = answer.as_object_mut().unwrap();
        fill_lists(&declared.fields, "graph:List", map);
        assert_eq!(answer, whole, "an optional list stays absent");
        let mut none = Map::new();
        fill_lists(&declared.fields, "graph:List", &mut none);
        fill_lists(&declared.fields, "graph:Policy", &mut none);
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn what_is_optional_or_of_another_call_may_be_absent() {
        check(&json!({"properties": {"rules": []}}), None);
        check(&json!({"properties": {"rules": [{"name": "a"}]}}), None);
    }
}
