//! Tells a secret from what merely stands in its place: variables, templates, examples.

use std::collections::BTreeMap;

/// Values that people write where a secret will be.
const WORDS: &[&str] = &[
    "changeme",
    "change-me",
    "change_me",
    "changeit",
    "replaceme",
    "replace-me",
    "replace_me",
    "placeholder",
    "example",
    "dummy",
    "todo",
    "tbd",
    "redacted",
    "masked",
    "hidden",
    "sensitive",
    "none",
    "null",
    "nil",
    "undefined",
    "unset",
    "empty",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "string",
    "required",
    "optional",
    "default",
    "prompt",
    "password",
    "passwd",
    "secret",
    "token",
    "secure",
    "xxx",
];

/// Beginnings of a reference to a secret that is kept elsewhere.
const REFERENCES: &[&str] = &[
    "arn:",
    "ssm:",
    "ssm-secure:",
    "secretsmanager:",
    "vault:",
    "op://",
    "sops:",
    "kms:",
    "file://",
    "!ref",
    "!sub",
    "!getatt",
    "fn::",
    "data.",
    "var.",
    "local.",
    "module.",
    "process.env",
    "os.environ",
    "os.getenv",
    "getenv",
    "env.",
    "env(",
    "secrets.",
    "sm://",
    "projects/",
    "@microsoft.keyvault",
    "resolve:",
];

/// Returns whether a value stands in for a secret instead of being one.
pub(super) fn is_placeholder(value: &str) -> bool {
    let value = value.trim();
    let lower = value.to_ascii_lowercase();
    let plain = lower.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    value.len() < 4
        || refers_elsewhere(value, &lower)
        || WORDS.contains(&plain)
        || is_written_as_example(&lower)
        || is_repetitive(value)
}

fn refers_elsewhere(value: &str, lower: &str) -> bool {
    let braces = ["${", "$(", "{{", "<%", "#{", "`"];
    let percent = value.len() > 2 && value.starts_with('%') && value.ends_with('%');
    let bracketed = value.starts_with(['<', '[', '{']);
    braces.iter().any(|brace| value.contains(brace))
        || percent
        || bracketed
        || is_shell_variable(value)
        || REFERENCES.iter().any(|start| lower.starts_with(start))
        || is_path_or_link(value)
        || is_call(value)
}

/// `$DB_PASSWORD`, `$env:TOKEN`, `$1`.
fn is_shell_variable(value: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    value
        .strip_prefix('$')
        .is_some_and(|rest| rest.chars().all(name))
}

/// A path to a file or a link without credentials in it.
fn is_path_or_link(value: &str) -> bool {
    let relative = value.starts_with("./") || value.starts_with("~/") || value.starts_with("../");
    let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let rooted = value.starts_with('/')
        && value.matches('/').count() >= 2
        && value.chars().all(sign)
        && entropy(value) < 4.2;
    let link = value.contains("://") && !value.contains('@');
    relative || rooted || link
}

/// `getSecret("db")`, `config.get('x')`: code that fetches the value.
fn is_call(value: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':');
    value
        .split_once('(')
        .is_some_and(|(called, _)| !called.is_empty() && called.chars().all(name))
}

fn is_written_as_example(lower: &str) -> bool {
    let marks = [
        "example",
        "placeholder",
        "changeme",
        "change-me",
        "change_me",
        "replace_with",
        "replace-with",
        "replaceme",
        "insert_",
        "insert-",
        "dummy",
        "redacted",
        "your_",
        "your-",
        "yourpass",
        "yoursecret",
        "yourtoken",
        "my_secret",
        "notreal",
        "not-real",
        "fake",
    ];
    let masked = ["xxxx", "****", "....", "----", "____"];
    let sequences = ["abcdefghijkl", "0123456789", "1234567890"];
    let mut all = marks.iter().chain(&masked).chain(&sequences);
    all.any(|mark| lower.contains(mark))
}

/// One or two characters over and over.
fn is_repetitive(value: &str) -> bool {
    let mut seen: Vec<char> = value.chars().collect();
    seen.sort_unstable();
    seen.dedup();
    seen.len() <= 2
}

/// Returns the Shannon entropy of a text, in bits per character: 0 for one repeated character,
/// about 3.7 to 4.8 for random base64 of 20 to 40 characters.
pub(super) fn entropy(text: &str) -> f64 {
    let mut counts: BTreeMap<char, f64> = BTreeMap::new();
    let mut total = 0.0;
    for c in text.chars() {
        *counts.entry(c).or_default() += 1.0;
        total += 1.0;
    }
    counts
        .values()
        .map(|count| -(count / total) * (count / total).log2())
        .sum()
}
