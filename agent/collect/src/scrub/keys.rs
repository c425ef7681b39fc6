//! Which names promise a secret.

use std::sync::LazyLock;

/// What a name promises about its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Nothing.
    Open,
    /// A secret when the value is text; an object below such a name often only describes one
    /// (`"token": {"issuer": …}`, `"secret": {"secretName": …}`, Azure's `"authorization"`).
    Weak,
    /// A secret, and so is every text below.
    Strong,
}

/// Longest name that is looked at, in bytes of its normal form; longer ones promise nothing.
const NAME_BYTES: usize = 96;

/// Ends of names, in lower case without separators.
const STRONG_ENDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secretaccesskey",
    "secretkey",
    "privatekey",
    "apikey",
    "accountkey",
    "storagekey",
    "sharedkey",
    "sharedaccesskey",
    "sharedaccesssignature",
    "clientsecret",
    "sharedsecret",
    "consumersecret",
    "connectionstring",
    "connstr",
    "cookie",
    "cookies",
];

/// Whole names, in lower case without separators.
const STRONG: &[&str] = &[
    "passwordhash",
    "privatekeydata",
    "privatekeypem",
    "keymaterial",
    "secretstring",
    "secretbinary",
    "secretvalue",
    "sastoken",
    "tokencode",
    "mfacode",
    "otp",
    "otpcode",
    "totp",
    "plaintext",
    "userdata",
    "samlassertion",
    "clientassertion",
];

const WEAK_ENDS: &[&str] = &["token", "secret", "accesskey", "authorization"];

/// What stands before `token` where it marks a place in a list, a repetition or a version.
const PLACE_MARKS: &[&str] = &[
    "next",
    "page",
    "pagination",
    "continuation",
    "client",
    "request",
    "idempotency",
    "skip",
    "sync",
    "creation",
    "change",
    "lock",
    "starting",
    "forward",
    "backward",
    "resume",
    "delta",
    "consistency",
    "hashed",
];

/// The last two letters of every name that promises something: a bit for the last one, in the word
/// of the one before it. Most names are told apart by them.
static ENDS: LazyLock<[u32; 26]> = LazyLock::new(|| {
    let mut ends = [0; 26];
    for name in [STRONG_ENDS, STRONG, WEAK_ENDS].concat() {
        if let Some((word, bit)) = last_letters(name)
            && let Some(word) = ends.get_mut(word)
        {
            *word |= bit;
        }
    }
    ends
});

/// Returns where [`ENDS`] has the end of a name; `None` when it ends in no two letters.
fn last_letters(name: &str) -> Option<(usize, u32)> {
    let mut ends = name.bytes().rev().filter(u8::is_ascii_alphanumeric);
    let mut letter = || {
        let letter = ends.next()?.to_ascii_lowercase();
        letter.is_ascii_lowercase().then(|| letter - b'a')
    };
    let last = letter()?;
    Some((usize::from(letter()?), 1 << last))
}

/// Returns what `name` promises, in any case and with any separators.
pub(super) fn class_of(name: &str) -> Class {
    let may_promise =
        |(word, bit): (usize, u32)| ENDS.get(word).is_some_and(|ends| ends & bit != 0);
    if last_letters(name).is_some_and(may_promise) {
        class_by_lists(name)
    } else {
        Class::Open
    }
}

fn class_by_lists(name: &str) -> Class {
    // On the stack: this runs for every key of every event.
    let mut buffer = [0u8; NAME_BYTES];
    let mut length = 0;
    for byte in name.bytes().filter(u8::is_ascii_alphanumeric) {
        let Some(slot) = buffer.get_mut(length) else {
            return Class::Open;
        };
        *slot = byte.to_ascii_lowercase();
        length += 1;
    }
    let plain = buffer
        .get(..length)
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    let Some(plain) = plain.filter(|plain| plain.len() >= 3) else {
        return Class::Open;
    };
    if STRONG.contains(&plain) || STRONG_ENDS.iter().any(|end| plain.ends_with(end)) {
        return Class::Strong;
    }
    let Some(before) = WEAK_ENDS.iter().find_map(|end| plain.strip_suffix(end)) else {
        return Class::Open;
    };
    let place = plain.ends_with("token") && PLACE_MARKS.iter().any(|mark| before.ends_with(mark));
    if place { Class::Open } else { Class::Weak }
}

/// Returns whether `name` is one whose value runs to the end of its line, as in an HTTP header.
pub(super) fn is_header(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with("authorization") || lower.ends_with("cookie")
}

/// Returns whether `value` under a telling name is no secret: nothing, a yes or no, the mark, or
/// the name of a resource.
pub(super) fn is_harmless(name: &str, value: &str) -> bool {
    const WORDS: &[&str] = &[
        "yes",
        "no",
        "true",
        "false",
        "null",
        "none",
        "nil",
        "required",
        "expired",
        "incorrect",
        "invalid",
        "failed",
        "enabled",
        "disabled",
        "unknown",
    ];
    let value = value.trim();
    value.is_empty()
        || value == super::MARK
        || value.bytes().all(|b| b == b'*')
        || WORDS.iter().any(|word| value.eq_ignore_ascii_case(word))
        || is_arn(value)
        // The working directory in what sudo logs.
        || (name.to_ascii_lowercase().ends_with("pwd") && value.starts_with(['/', '~']))
}

/// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html.
fn is_arn(value: &str) -> bool {
    let mut parts = value.split(':');
    let plain = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_lowercase() || b"-0123456789".contains(&b))
    };
    let account = |part: &str| {
        part.is_empty() || part.len() == 12 && part.bytes().all(|b| b.is_ascii_digit())
    };
    parts.next() == Some("arn")
        && parts
            .next()
            .is_some_and(|part| part.starts_with("aws") && plain(part))
        && parts
            .next()
            .is_some_and(|part| !part.is_empty() && plain(part))
        && parts.next().is_some_and(plain)
        && parts.next().is_some_and(account)
        && parts.next().is_some()
        && !value.contains(char::is_whitespace)
}

/// Returns whether a member names its sibling, as in `{"name": "DB_PASSWORD", "value": "x"}`.
pub(super) fn names_a_sibling(key: &str) -> bool {
    let keys = [
        "name",
        "key",
        "field",
        "header",
        "parameter",
        "param",
        "attribute",
        "variable",
    ];
    keys.iter().any(|known| key.eq_ignore_ascii_case(known))
}

/// Returns whether a member is what such a name is about.
pub(super) fn is_sibling_value(key: &str) -> bool {
    let keys = [
        "value",
        "values",
        "newvalue",
        "oldvalue",
        "stringvalue",
        "val",
        "data",
        "content",
        "raw",
    ];
    keys.iter().any(|known| key.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_end_of_a_name_hides_no_promise(
            before in "[A-Za-z0-9_. é-]{0,6}",
            name in prop::sample::select([STRONG_ENDS, STRONG, WEAK_ENDS].concat()),
            after in "[A-Za-z0-9_. é-]{0,2}",
            upper: bool,
        ) {
            let name = if upper { name.to_uppercase() } else { name.to_owned() };
            for name in [format!("{before}{name}{after}"), before] {
                prop_assert_eq!(class_of(&name), class_by_lists(&name), "{}", name);
            }
        }
    }
}
