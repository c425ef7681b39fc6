//! Texts and documents made to cost too much.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rules::{Check, Verdict};
use serde_json::json;

use crate::world::{Around, a_box, check_of, file_of, refusal, types};

/// What a thread has unless somebody says otherwise: 2 MiB, in std and in tokio.
const STACK: usize = 2 << 20;

/// Time in which anything must be refused, on a slow machine without optimisation.
const SOON: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "the time is what is tested")]
fn quickly<T>(run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    result
}

#[test]
fn too_much_is_refused_quickly() {
    let nested = |open: &str, close: &str| format!("{}r.On{}", open.repeat(400), close.repeat(400));
    let variables = (0..9).fold("r.On".to_owned(), |inner, n| {
        format!("r.Ports.exists(v{n}, {inner})")
    });
    for (text, want) in [
        (nested("(", ")"), "nested deeper"),
        (nested("[", "]"), "nested deeper"),
        (nested("(1 + ", ")"), "nested deeper"),
        (nested("!(", ")"), "nested deeper"),
        (
            format!("r.On || {}", "a".repeat(9000)),
            "longer than 8192 bytes",
        ),
        (
            format!("r.Size in [{}1]", "1,".repeat(1200)),
            "more than 1000 elements",
        ),
        (vec!["1 == 1"; 800].join("&&"), "more than 2000 parts"),
        (format!("{}r.On", "!".repeat(1000)), "one upon the other"),
        (
            format!("r.Size == {}1", "1+".repeat(1000)),
            "one upon the other",
        ),
        (format!("r{}", ".a".repeat(1000)), "one upon the other"),
        (
            format!("{}true", "r.On ? r.On : ".repeat(300)),
            "one upon the other",
        ),
        (
            "r.Kind.matches('(a{1000}){1000}')".to_owned(),
            "too large when compiled",
        ),
        (
            format!("r.Kind.matches('{}')", "a".repeat(1001)),
            "longer than 1000 characters",
        ),
        (variables, "brackets within each other"),
    ] {
        let found = quickly(|| refusal(&text));
        assert!(found.contains(want), "{want}: {found}");
    }
}

#[test]
fn a_choice_within_choices_is_compiled_once_per_level() {
    // Compiled twice at each level, this would take 2^40 steps.
    let mut text = "r.On".to_owned();
    for _ in 0..40 {
        text.push_str(" ? r.On : r.On");
    }
    quickly(|| check_of("lab.yard.box", &text, ""));
    let brackets = (0..7).fold("r.On".to_owned(), |inner, _| {
        format!("({inner} ? {inner} : r.On)")
    });
    let (text, _) = brackets.split_at(brackets.len().min(8000));
    quickly(|| Check::read("probe.yaml", &file_of("lab.yard.box", text, ""), types()).is_ok());
}

#[test]
fn the_deepest_shapes_that_are_accepted_fit_a_small_stack() {
    let mut accepted = Vec::new();
    for brackets in 1..=8 {
        for (open, close, last) in [
            ("(", ")", "r.On"),
            ("!(", ")", "r.On"),
            ("(true && ", ")", "r.On"),
            ("(r.On ? r.On : ", ")", "r.On"),
            ("(1 + ", ")", "1"),
            ("-(", ")", "1"),
        ] {
            for links in [0, 10, 20, 30, 40, 47] {
                let mut text = format!("{}{last}", open.repeat(brackets));
                if last == "1" {
                    text.push_str(&" + 1".repeat(links));
                } else {
                    text.push_str(&" ? r.On : r.On".repeat(links));
                }
                text.push_str(&close.repeat(brackets));
                if last == "1" {
                    text.push_str(" == 3");
                }
                accepted.push(text);
            }
        }
    }
    let judged = std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(move || {
            let read = accepted.iter().filter_map(|text| {
                Check::read("probe.yaml", &file_of("lab.yard.box", text, ""), types()).ok()
            });
            let judge = |check| Around::default().judge(&check, &a_box(json!({}))).verdict;
            read.map(judge).filter(|v| *v != Verdict::Broken).count()
        })
        .unwrap()
        .join()
        .unwrap();
    assert!(judged > 100, "{judged}");
}

#[test]
fn a_file_of_a_megabyte_and_an_alias_bomb_are_refused() {
    let long = file_of(
        "lab.yard.box",
        "r.On",
        &format!("# {}\n", "x".repeat(1 << 20)),
    );
    let errors = quickly(|| Check::read("long.yaml", &long, types()).unwrap_err());
    assert!(
        errors[0]
            .to_string()
            .contains("the file is longer than 65536 bytes")
    );
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in ["b", "c", "d", "e", "f", "g", "h", "i"]
        .iter()
        .zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        writeln!(
            bomb,
            "{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]"
        )
        .unwrap();
    }
    assert!(quickly(|| Check::read("bomb.yaml", &bomb, types()).is_err()));
    let inside = bomb.replace("a: &a", "tests: &a");
    assert!(quickly(
        || Check::read("bomb.yaml", &inside, types()).is_err()
    ));
    let deep = "[".repeat(20_000);
    assert!(quickly(|| Check::read("deep.yaml", &deep, types()).is_err()));
}

#[test]
fn a_cross_product_of_long_lists_is_broken_not_endless() {
    let ports: Vec<u32> = (1..=2000).collect();
    let document = a_box(json!({"Ports": ports}));
    let pass = "r.Ports.exists(a, r.Ports.exists(b, r.Ports.exists(c, a + b + c == 1)))";
    let found = Around::default().judge(&check_of("lab.yard.box", pass, ""), &document);
    assert_eq!(found.verdict, Verdict::Broken);
    assert_eq!(
        found.gaps["check"].error,
        "the check visits too many list elements"
    );
}
