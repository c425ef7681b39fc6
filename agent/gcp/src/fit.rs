//! Makes the values of an asset fit their declared kinds.

use protocol::declare::Kind;
use serde_json::Value;

/// Returns `value` with numbers written as text where text is declared, and the reverse.
///
/// Asset data is JSON of another API inside JSON: the same 64-bit field is text in one asset and a
/// number in the next, since the inner form has doubles only. Whole numbers up to 2^53 survive
/// that, larger ones are left as they are and become gaps.
pub(crate) fn fit(kind: &Kind, value: Value) -> Value {
    match (kind, value) {
        (Kind::String, Value::Number(number)) => match whole(&number) {
            Some(whole) => Value::String(whole.to_string()),
            None => Value::Number(number),
        },
        (Kind::Int, Value::Number(number)) => match whole(&number) {
            Some(whole) => Value::from(whole),
            None => Value::Number(number),
        },
        (Kind::Int, Value::String(text)) => match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => Value::String(text),
        },
        (Kind::Record(fields), Value::Object(map)) => {
            let fitted = map.into_iter().map(|(name, value)| {
                let value = match fields.get(&name) {
                    Some(field) => fit(&field.kind, value),
                    None => value,
                };
                (name, value)
            });
            Value::Object(fitted.collect())
        }
        (Kind::List(of), Value::Array(items)) => {
            Value::Array(items.into_iter().map(|item| fit(of, item)).collect())
        }
        (_, value) => value,
    }
}

/// Returns a number that is whole and was not rounded.
fn whole(number: &serde_json::Number) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = number.as_i64() {
        return Some(number);
    }
    let number = number.as_f64()?;
    if number.fract() != 0.0 || number.abs() > EXACT {
        return None;
    }
    // Without an exponent or a fraction, so that it reads as a whole number.
    format!("{number:.0}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(kind: &Kind, value: Value, want: Value) {
        assert_eq!(fit(kind, value), want);
    }

    #[test]
    fn a_number_becomes_text_where_text_is_declared_if_it_is_exact() {
        check(&Kind::String, json!(1043), json!("1043"));
        check(
            &Kind::String,
            json!(1.098_479_648_729e12),
            json!("1098479648729"),
        );
        check(&Kind::String, json!(0.5), json!(0.5));
        check(&Kind::String, json!(1e300), json!(1e300));
        check(&Kind::String, json!(true), json!(true));
        check(&Kind::Int, json!("7"), json!(7));
        check(&Kind::Int, json!(7.0), json!(7));
        check(&Kind::Int, json!("seven"), json!("seven"));
    }

    #[test]
    fn lists_and_records_are_fitted_inside() {
        let kind = crate::declared(crate::sweep::BUCKET)
            .fields
            .get("retentionPolicy")
            .map(|field| field.kind.clone())
            .unwrap();
        check(
            &kind,
            json!({"retentionPeriod": 86400, "isLocked": true, "other": 1}),
            json!({"retentionPeriod": "86400", "isLocked": true, "other": 1}),
        );
        let kind = Kind::List(Box::new(Kind::String));
        check(&kind, json!([1, "2"]), json!(["1", "2"]));
    }
}
