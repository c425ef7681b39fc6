//! Which required field is missing from an answer.
//!
//! A declaration says which fields a provider always sends. When one of them is absent, the answer
//! is not the one that was asked for, and null in its place would be a fact that nobody read: a
//! packet filter without `securityRules` is not a packet filter without rules.

use std::collections::BTreeMap;

use protocol::declare::{Field, Kind};
use serde_json::{Map, Value};

/// Returns the path of the first required field that `call` reads and `answer` lacks or has as
/// null, `properties.securityRules[3].name`; inside lists and records too.
pub fn missing(
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
    fn what_is_optional_or_of_another_call_may_be_absent() {
        check(&json!({"properties": {"rules": []}}), None);
        check(&json!({"properties": {"rules": [{"name": "a"}]}}), None);
    }
}
