//! Secrets that are recognised by the name of the variable, key or option they are given to.

use std::sync::LazyLock;

use super::Hit;
use super::expression::Expression;
use super::placeholder::{entropy, is_placeholder};

/// What kind of value a name promises.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// A password: people choose weak ones, so any value that is no placeholder counts.
    Password,
    /// A token or key: made by a machine, so the value must look random.
    Token,
}

/// Shortest token, in characters.
const TOKEN_CHARS: usize = 8;

/// Least entropy of a token, in bits per character.
const TOKEN_ENTROPY: f64 = 3.0;

/// Words at the end of a name that make it something about a secret, not the secret.
const ABOUT: &[&str] = &[
    "name",
    "arn",
    "url",
    "uri",
    "file",
    "path",
    "dir",
    "directory",
    "length",
    "len",
    "ttl",
    "policy",
    "expiry",
    "expiration",
    "expires",
    "age",
    "days",
    "min",
    "max",
    "count",
    "size",
    "type",
    "version",
    "header",
    "field",
    "prefix",
    "suffix",
    "enabled",
    "required",
    "authentication",
    "algorithm",
    "endpoint",
    "region",
    "keyid",
    "username",
    "user",
    "group",
    "rotation",
    "store",
    "manager",
    "provider",
    "class",
    "format",
    "regex",
    "pattern",
    "hint",
    "label",
    "column",
    "table",
    "env",
    "var",
    "ref",
    "selector",
    "mount",
    "volume",
    "reset",
    "change",
    "changed",
    "attempts",
    "timeout",
    "cache",
    "service",
    "host",
    "port",
    "issuer",
    "audience",
    "scope",
    "exists",
    "id",
];

// name, operator, value: `export DB_PASSWORD='x'`, `"token": "x"`, `password => x`, `$Pwd := "x"`.
static ASSIGNMENT: LazyLock<Expression> = LazyLock::new(|| {
    Expression::new(concat!(
        r#"(?i)(?P<name>[A-Za-z0-9_.\-]{0,60}(?:passw(?:or)?d|passwd|passphrase|passcode|pwd|secret|token|credential|"#,
        r#"api[_.\-]?key|access[_.\-]?key|private[_.\-]?key|auth[_.\-]?key|account[_.\-]?key|encryption[_.\-]?key|"#,
        r#"signing[_.\-]?key|master[_.\-]?key|service[_.\-]?key|license[_.\-]?key)[A-Za-z0-9_.\-]{0,40})"#,
        r#"(?:\\?["'])?\]?[ \t]{0,8}(?P<operator>:=|=>|==?|:)[ \t]{0,8}"#,
        r#"(?:\\?"(?P<double>[^"\n]{1,400}?)\\?"|'(?P<single>[^'\n]{1,400})'|(?P<bare>[^\s"',;)\]}]{1,400}))"#,
    ))
});

// `--password x`, `-Password x`, `/password:x`, `<password>x</password>`.
static OPTION: LazyLock<Expression> = LazyLock::new(|| {
    Expression::new(concat!(
        r#"(?i)(?:[\s/(]--?|\s/|<)(?P<name>[A-Za-z0-9_.\-]{0,40}(?:passw(?:or)?d|passphrase|secret|token|api[_\-]?key|secret[_\-]?key))"#,
        r#"(?:[ \t:]+|>)(?:"(?P<double>[^"\n]{1,400})"|'(?P<single>[^'\n]{1,400})'|(?P<bare>[^\s"'<>;|&]{1,400}))"#,
    ))
});

/// Returns every value that is assigned to a telling name.
pub(super) fn find(text: &str) -> Vec<Hit<'_>> {
    let mut hits = Vec::new();
    for expression in [&*ASSIGNMENT, &*OPTION] {
        // A value may hold the next name (`TOKEN=$(get --token x)`), so the search goes on behind
        // the name and not behind the whole match.
        let mut from = 0;
        while let Some(captures) = expression.captures_at(text, from) {
            let Some(name) = captures.name("name") else {
                break;
            };
            from = name.end().max(from + 1);
            while !text.is_char_boundary(from) {
                from += 1;
            }
            let quoted = captures.name("double").or(captures.name("single"));
            let Some(value) = quoted.or(captures.name("bare")) else {
                continue;
            };
            let operator = captures.name("operator").map_or("", |found| found.as_str());
            let Some(promise) = promise_of(name.as_str()) else {
                continue;
            };
            let alone = quoted.is_some() || stands_alone(text, value.end());
            if keeps(promise, value.as_str(), operator, alone) {
                hits.push(Hit {
                    kind: match promise {
                        Promise::Password => "password",
                        Promise::Token => "token",
                    },
                    start: value.start(),
                    end: value.end(),
                    secret: value.as_str(),
                });
            }
        }
    }
    hits
}

/// Returns what a name promises, or `None` when it is about a secret (`PASSWORD_FILE`).
fn promise_of(name: &str) -> Option<Promise> {
    let lower = name.to_ascii_lowercase();
    let words: Vec<&str> = lower
        .split(['_', '-', '.'])
        .filter(|word| !word.is_empty())
        .collect();
    let last = words.last().copied().unwrap_or_default();
    let hump = last_hump(name);
    if ABOUT.contains(&last) || ABOUT.contains(&hump.as_str()) {
        return None;
    }
    // `no_password`, `disable-token`, and plurals such as `max_tokens`.
    let first = words.first().copied().unwrap_or_default();
    if matches!(first, "no" | "disable" | "enable" | "require") || last == "tokens" {
        return None;
    }
    let password = ["passw", "passphrase", "passcode", "pwd"];
    Some(if password.iter().any(|word| lower.contains(word)) {
        Promise::Password
    } else {
        Promise::Token
    })
}

/// Returns the last word of a name in camel case, in lower case: `passwordFile` gives `file`.
fn last_hump(name: &str) -> String {
    if name.chars().all(|c| !c.is_ascii_lowercase()) {
        return String::new();
    }
    let humps = name.char_indices().rev();
    let start = humps.into_iter().find(|(_, c)| c.is_ascii_uppercase());
    let start = start.map_or(0, |(at, _)| at);
    name.get(start..).unwrap_or_default().to_ascii_lowercase()
}

/// Whether nothing but a comment or a separator follows on the line.
fn stands_alone(text: &str, end: usize) -> bool {
    let rest = text.get(end..).unwrap_or_default();
    let rest = rest.split('\n').next().unwrap_or_default().trim();
    rest.is_empty() || rest.starts_with([',', ';', '#', '&', '|', ')', '}', ']', '\\'])
}

fn keeps(promise: Promise, value: &str, operator: &str, alone: bool) -> bool {
    // `if [ "$PASSWORD" == "" ]` compares; it assigns nothing.
    if operator == "==" || is_placeholder(value) {
        return false;
    }
    let digits = value.chars().any(|c| c.is_ascii_digit());
    let letters = value.chars().any(char::is_alphabetic);
    match promise {
        // Prose (`password: use at least…`) is a bare word with more words behind it.
        Promise::Password => alone || (operator == "=" && !letters) || (digits && letters),
        Promise::Token => {
            value.chars().count() >= TOKEN_CHARS
                && !value.contains(' ')
                && entropy(value) >= TOKEN_ENTROPY
                && (digits || value.chars().any(|c| c.is_ascii_uppercase()))
                && letters
        }
    }
}
