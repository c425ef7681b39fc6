//! Random expressions on random boxes, beside the interpreter of the crate `cel`.
//!
//! The interpreter knows a missing key as an error that `&&` and `||` absorb, which is what an
//! unread fact is to us. It has no order on null; expressions that mention null exclude it first,
//! as checks must.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Program};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rules::{Check, Verdict};
use serde_json::{Value, json};

use crate::world::{Around, a_box, file_of, types};

/// Cases of each property: the parser is slow without optimisation.
const CASES: u32 = 600;

fn order() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["<", "<=", ">", ">=", "==", "!="])
}

fn text() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "ab", "ba", ""])
}

fn int() -> impl Strategy<Value = i64> {
    -2i64..4
}

/// Arithmetic that may overflow or divide by zero.
fn number() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("r.Size".to_owned()),
        Just("size(r.Ports)".to_owned()),
        Just("size(r.Kind)".to_owned()),
        int().prop_map(|n| n.to_string()),
        Just("9223372036854775807".to_owned()),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        let sign = prop::sample::select(vec!["+", "-", "*", "/", "%"]);
        prop_oneof![
            (inner.clone(), sign, inner.clone()).prop_map(|(a, s, b)| format!("({a} {s} {b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("(r.On ? {a} : {b})")),
        ]
    })
    .boxed()
}

/// Conditions that answer on whole boxes as the interpreter does.
fn leaf() -> BoxedStrategy<String> {
    let fixed = prop::sample::select(vec![
        "true",
        "false",
        "r.On",
        "r.Flag == true",
        "r.Flag != true",
        "r.Name == null",
        "r.Lid != null",
        "(r.Lid != null && r.Lid.Locked)",
        "(r.Lid == null || r.Lid.Colour == null)",
        "'env' in tags",
        "'none' in tags",
        "tags.exists(k, k == 'env')",
        "(r.Words != null && r.Words.exists(v, v == 'a'))",
        "(r.Words == null || r.Words.all(v, v == 'a'))",
        "(r.Words != null && r.Words.exists_one(v, v == 'a'))",
        "(r.Ratio != null && r.Ratio > 1.5)",
        "r.Ratio == 1.0",
        "80 in r.Ports",
        "(r.Words != null && 'a' in r.Words)",
        "r.Rules.exists(x, x.From == null)",
        "r.Rules.exists(x, x.From != null && x.From > r.Size)",
        "r.Rules.all(x, x.Proto == r.Kind || x.Open)",
        "r.Rules.exists_one(x, x.Open)",
        "r.Rules.filter(x, x.Open).size() == 1",
        "r.Rules.map(x, x.Proto).exists(p, p == 'a')",
        "'b' in r.Rules.map(x, x.Open, x.Proto)",
        "r.Ports.map(p, p * 2).exists(p, p == 2)",
        "r.Ports.exists(p, r.Rules.exists(x, x.From != null && x.From == p))",
    ])
    .prop_map(str::to_owned);
    let test = prop::sample::select(vec!["startsWith", "endsWith", "contains", "matches"]);
    prop_oneof![
        4 => fixed,
        2 => (number(), order(), number()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
        1 => (test, text()).prop_map(|(t, s)| format!("r.Kind.{t}('{s}')")),
        1 => (order(), text()).prop_map(|(o, s)| format!("r.Kind {o} '{s}'")),
        1 => (text(), text()).prop_map(|(a, b)| format!("r.Kind in ['{a}', '{b}']")),
        1 => (order(), int()).prop_map(|(o, n)| {
            format!("(r.Count != null && r.Count {o} {n})")
        }),
        1 => (int(), order()).prop_map(|(n, o)| format!("r.Ports.exists(p, p {o} {n})")),
        1 => (int(), order()).prop_map(|(n, o)| format!("r.Ports.all(p, p {o} {n})")),
    ]
    .boxed()
}

fn condition(leaf: BoxedStrategy<String>) -> BoxedStrategy<String> {
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            2 => inner.clone().prop_map(|a| format!("!({a})")),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("(({a}) ? ({b}) : ({c}))")),
            1 => inner.clone().prop_map(|a| {
                format!("r.Rules.exists(x, x.Open && {})", a.replace("x.", "x0.").replace("(x,", "(x0,"))
            }),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) == ({b})")),
        ]
    })
    .boxed()
}

fn maybe(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(Value::Null), 3 => value].boxed()
}

/// The facts of a whole box, as far as expressions ask for them.
fn config() -> BoxedStrategy<Value> {
    let words = || prop::collection::vec(text().prop_map(Value::from), 0..3);
    let lid = (any::<bool>(), maybe(text().prop_map(Value::from)))
        .prop_map(|(locked, colour)| json!({"Locked": locked, "Colour": colour}));
    let rule = (maybe(int().prop_map(Value::from)), text(), any::<bool>()).prop_map(
        |(from, proto, open)| {
            json!({"From": from, "To": null, "Proto": proto, "Open": open, "Cidr": null,
                   "Ranges": null})
        },
    );
    (
        any::<bool>(),
        maybe(any::<bool>().prop_map(Value::from)),
        maybe(int().prop_map(Value::from)),
        int(),
        maybe(prop::sample::select(vec![0.5, 1.0, 2.0]).prop_map(Value::from)),
        maybe(text().prop_map(Value::from)),
        text(),
        maybe(words().prop_map(Value::from)),
        prop::collection::vec(int().prop_map(Value::from), 0..3),
        (maybe(lid), prop::collection::vec(rule, 0..3)),
    )
        .prop_map(
            |(on, flag, count, size, ratio, name, kind, words, ports, (lid, rules))| {
                json!({"On": on, "Flag": flag, "Count": count, "Size": size, "Ratio": ratio,
                       "Name": name, "Kind": kind, "Words": words, "Ports": ports, "Lid": lid,
                       "Rules": rules})
            },
        )
        .boxed()
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(n) if n.is_i64() => cel::Value::Int(n.as_i64().unwrap()),
        Value::Number(n) => cel::Value::Float(n.as_f64().unwrap()),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(k, v)| (Key::String(Arc::new(k.clone())), to_cel(v)));
            cel::Value::Map(Map {
                map: Arc::new(fields.collect::<HashMap<_, _>>()),
            })
        }
    }
}

/// What the interpreter says; nothing where it ends in an error.
fn oracle(expression: &str, config: &Value) -> Option<Verdict> {
    let program = Program::compile(expression).unwrap();
    let mut context = Context::default();
    context.add_variable_from_value("r", to_cel(config));
    context.add_variable_from_value("tags", to_cel(&json!({"env": "prod"})));
    match program.execute(&context) {
        Ok(cel::Value::Bool(true)) => Some(Verdict::Pass),
        Ok(cel::Value::Bool(false)) => Some(Verdict::Fail),
        Ok(other) => panic!("{expression} is {other:?}"),
        Err(_) => None,
    }
}

fn compile(expression: &str) -> Option<Check> {
    Check::read(
        "probe.yaml",
        &file_of("lab.yard.box", expression, ""),
        types(),
    )
    .ok()
}

fn verdict(check: &Check, config: &Value) -> Verdict {
    let mut document = a_box(json!({}));
    let whole = document.config.as_object_mut().unwrap();
    for name in [
        "On", "Flag", "Count", "Size", "Ratio", "Name", "Kind", "Words", "Ports", "Lid", "Rules",
    ] {
        whole.remove(name);
    }
    whole.extend(config.as_object().unwrap().clone());
    Around::default().judge(check, &document).verdict
}

/// A run whose cases are the same each time.
fn runner(cases: u32) -> TestRunner {
    let config = Config {
        cases,
        failure_persistence: None,
        max_global_rejects: cases * 50,
        ..Config::default()
    };
    let seed = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    TestRunner::new_with_rng(config, seed)
}

#[test]
fn verdicts_are_those_of_the_interpreter() {
    let (decided, broke) = (Cell::new(0u32), Cell::new(0u32));
    let run = runner(CASES).run(&(condition(leaf()), config()), |(expression, config)| {
        let Some(check) = compile(&expression) else {
            return Err(TestCaseError::reject("refused"));
        };
        let ours = verdict(&check, &config);
        match oracle(&expression, &config) {
            Some(cel) => {
                decided.set(decided.get() + 1);
                prop_assert_eq!(ours, cel, "{}", expression);
            }
            None => {
                broke.set(broke.get() + 1);
                prop_assert_eq!(ours, Verdict::Broken, "{}", expression);
            }
        }
        Ok(())
    });
    run.unwrap();
    assert!(
        decided.get() > CASES / 2 && broke.get() > CASES / 60,
        "{decided:?} {broke:?}"
    );
}

/// Removes the fields of some numbers, inside rules too.
fn lose(config: &Value, lost: &[usize]) -> Value {
    let mut config = config.clone();
    let names: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
    for number in lost {
        match names.get(*number) {
            Some(name) => {
                config.as_object_mut().unwrap().remove(name);
            }
            None => {
                let rules = config.get_mut("Rules").and_then(Value::as_array_mut);
                for rule in rules.into_iter().flatten().take(1) {
                    let name = ["From", "Proto", "Open"][number % 3];
                    rule.as_object_mut().unwrap().remove(name);
                }
            }
        }
    }
    config
}

#[test]
fn losing_facts_never_turns_a_verdict_and_never_hides_what_still_decides() {
    let became_unknown = Cell::new(0u32);
    let lost = prop::collection::vec(0usize..14, 1..4);
    let cases = (condition(leaf()), config(), lost);
    let run = runner(CASES).run(&cases, |(expression, config, lost)| {
        let Some(check) = compile(&expression) else {
            return Err(TestCaseError::reject("refused"));
        };
        let whole = verdict(&check, &config);
        let partial = lose(&config, &lost);
        let found = verdict(&check, &partial);
        if found == Verdict::Unknown {
            became_unknown.set(became_unknown.get() + 1);
        } else {
            prop_assert_eq!(found, whole, "{} without {:?}", expression, lost);
        }
        if let Some(cel) = oracle(&expression, &partial) {
            prop_assert_eq!(found, cel, "{}: cel {}, ours {}", expression, cel, found);
        }
        Ok(())
    });
    run.unwrap();
    assert!(became_unknown.get() > CASES / 10, "{became_unknown:?}");
}

/// Conditions on fields that may be null which do not speak of it: no equality, which is exact
/// on null by definition.
fn silent() -> BoxedStrategy<String> {
    let fixed = prop::sample::select(vec![
        "r.On",
        "r.Flag",
        "r.Lid.Locked",
        "r.Lid.Colour > 'a'",
        "r.Words.exists(v, v == 'a')",
        "r.Words.all(v, v == 'a')",
        "r.Words.exists_one(v, v == 'a')",
        "'a' in r.Words",
        "r.Ratio > 1.5",
        "r.Name.startsWith('a')",
        "r.Name.contains('b')",
        "r.Name.lowerAscii().endsWith('a')",
        "r.Name in ['a', 'b']",
        "r.Name < r.Kind",
        "r.Count + 1 > r.Size",
        "-r.Count < 1",
        "r.Words.filter(v, v == 'a').exists(v, r.Flag)",
        "r.Words.map(v, v + 'b').all(v, v == 'ab')",
        "size(r.Words) == 0",
        "r.Rules.exists(x, x.From > 0)",
        "r.Rules.all(x, x.From > 0)",
        "r.Rules.exists_one(x, x.From > 0)",
        "r.Rules.filter(x, x.From > 0).all(x, x.Open)",
        "r.Rules.filter(x, x.From > 0).size() == 0",
        "r.Rules.map(x, x.From).exists(p, p == 1)",
    ])
    .prop_map(str::to_owned);
    prop_oneof![
        3 => fixed,
        1 => (order(), int()).prop_filter_map("an equality is exact on null", |(o, n)| {
            (o != "!=" && o != "==").then(|| format!("r.Count {o} {n}"))
        }),
    ]
    .boxed()
}

/// Makes one field null, or removes it.
fn without(config: &Value, at: usize, how: Option<Value>) -> Value {
    let mut config = config.clone();
    let names = ["Flag", "Count", "Ratio", "Name", "Words", "Lid"];
    let set = |of: &mut Value, name: &str| {
        let fields = of.as_object_mut().unwrap();
        match &how {
            Some(value) => fields.insert(name.to_owned(), value.clone()),
            None => fields.remove(name),
        };
    };
    match names.get(at) {
        Some(name) => set(&mut config, name),
        None if at == names.len() => {
            if config["Lid"].is_object() {
                set(&mut config["Lid"], "Colour");
            }
        }
        None => {
            for rule in config["Rules"].as_array_mut().unwrap() {
                set(rule, "From");
            }
        }
    }
    config
}

#[test]
fn null_never_passes_where_an_unread_fact_would_not_unless_the_check_speaks_of_null() {
    let passed = Cell::new(0u32);
    let cases = (condition(silent()), config(), 0usize..8);
    let run = runner(CASES).run(&cases, |(expression, config, at)| {
        // Equality of two conditions looks at both outcomes; it is as if null were spoken of
        // only where an operand can be null, which is refused.
        let Some(check) = compile(&expression) else {
            return Err(TestCaseError::reject("refused"));
        };
        let null = verdict(&check, &without(&config, at, Some(Value::Null)));
        if null == Verdict::Pass {
            passed.set(passed.get() + 1);
            let unread = verdict(&check, &without(&config, at, None));
            prop_assert_eq!(unread, Verdict::Pass, "{} at {}", expression, at);
        }
        Ok(())
    });
    run.unwrap();
    assert!(passed.get() > CASES / 15, "{passed:?}");
}
