use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A 40-character key, built here so that no scanner takes this file for a leak.
fn secret_key() -> String {
    ["wJalrXUtnFEMI", "/K7MDENG/", "bPxRfiCYzQ7pLmT2vA"].concat()
}

#[track_caller]
fn check_json(raw: &Value, want: &Value) {
    let raw = raw.to_string();
    let scrubbed = scrub_json(&raw).unwrap();
    assert_eq!(
        &serde_json::from_str::<Value>(&scrubbed).unwrap(),
        want,
        "{scrubbed}"
    );
    assert_eq!(
        scrub_json(&scrubbed).unwrap(),
        scrubbed,
        "a second pass changes nothing"
    );
}

#[track_caller]
fn check_text(raw: &str, want: &str) {
    assert_eq!(scrub_text(raw), want);
    assert_eq!(scrub_text(want), want, "a second pass changes nothing");
}

#[test]
fn the_credentials_that_sts_returns_are_removed_and_who_got_them_stays() {
    check_json(
        &json!({
            "eventName": "AssumeRole",
            "responseElements": {
                "credentials": {
                    "accessKeyId": "ASIAIOSFODNN7ABCDEFG",
                    "expiration": "Nov 21, 2026, 1:02:03 PM",
                    "sessionToken": "IQoJb3JpZ2luX2VjEXAMPLE",
                    "secretAccessKey": secret_key(),
                },
                "assumedRoleUser": {"arn": "arn:aws:sts::123456789012:assumed-role/a/b"},
            },
        }),
        &json!({
            "eventName": "AssumeRole",
            "responseElements": {
                "credentials": {
                    "accessKeyId": "ASIAIOSFODNN7ABCDEFG",
                    "expiration": "Nov 21, 2026, 1:02:03 PM",
                    "sessionToken": MARK,
                    "secretAccessKey": MARK,
                },
                "assumedRoleUser": {"arn": "arn:aws:sts::123456789012:assumed-role/a/b"},
            },
        }),
    );
}

#[test]
fn keys_are_known_in_any_spelling_and_values_in_any_form() {
    check_json(
        &json!({"SecretString": "a", "x-api-key": "b", "Set-Cookie": ["c", {"d": "e"}],
            "masterUserPassword": 12345, "client_secret": {"v": "f"}, "PRIVATE_KEY": "g"}),
        &json!({"SecretString": MARK, "x-api-key": MARK, "Set-Cookie": [MARK, {"d": MARK}],
            "masterUserPassword": MARK, "client_secret": {"v": MARK}, "PRIVATE_KEY": MARK}),
    );
    check_json(
        &json!([{"name": "DB_PASSWORD", "value": "a"}, {"Value": "b", "Key": "api-key"},
            {"name": "authorization", "value": "Basic YTpi"}, {"name": "host", "value": "c"}]),
        &json!([{"name": "DB_PASSWORD", "value": MARK}, {"Value": MARK, "Key": "api-key"},
            {"name": "authorization", "value": MARK}, {"name": "host", "value": "c"}]),
    );
    check_json(
        &json!({"kind": "Secret", "metadata": {"name": "db"}, "data": {"tls.key": "YQ=="}}),
        &json!({"kind": "Secret", "metadata": {"name": "db"}, "data": MARK}),
    );
    check_json(
        &json!({"token": {"issuer": "x", "value": "a"}, "accessToken": "b"}),
        &json!({"token": {"issuer": "x", "value": MARK}, "accessToken": MARK}),
    );
}

#[test]
fn what_only_speaks_about_a_secret_stays() {
    let benign = json!({
        "nextToken": "AAAA", "clientRequestToken": "3d9f", "hashed_token": "zz",
        "passwordLastUsed": "2026-01-01", "hasPassword": true, "password": null,
        "maxPasswordAge": 90, "accessKeyId": "AKIAIOSFODNN7ABCDEFG", "tokenIssuer": "x",
        "secretId": "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/db-AbCdEf",
        "secret": {"secretName": "tls"}, "secretArn": "arn:aws:x",
        "authorization": {"action": "Microsoft.Storage/write", "scope": "/subscriptions/1"},
        "data": {"pwd": "/home/anna", "command": "/usr/bin/passwd root"},
        "text": "arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/db-AbCdEf",
        "sha1": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "path": "/aws/AWSLogs/123456789012/CloudTrail/eu-w1",
    });
    check_json(&benign, &benign);
    for line in [
        "Failed password for invalid user root from 10.0.0.1 port 22 ssh2",
        "Access denied for user 'root'@'10.0.0.1' (using password: YES)",
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 ruser= rhost=10.0.0.1 user=root",
        "sudo: anna : PWD=/home/anna ; USER=root ; COMMAND=/usr/bin/passwd root",
        "/etc/passwd: integrity checksum changed",
        "GET /oauth/token HTTP/1.1",
        "invalid token: unexpected end of input",
        "Bearer authentication is required",
        "https://example.org:8443/a@b",
        "Password: the field is required",
        "system:serviceaccount:kube-system:token-cleaner",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ] {
        check_text(line, line);
    }
}

#[test]
fn secrets_are_found_in_log_lines() {
    check_text(
        "login user=a password=hunter2 ok",
        "login user=a password=[scrubbed] ok",
    );
    check_text("db.password: 'hunter 2', x", "db.password: '[scrubbed]', x");
    check_text(
        r#"body {\"token\":\"abc\",\"n\":1}"#,
        r#"body {\"token\":\"[scrubbed]\",\"n\":1}"#,
    );
    check_text(
        "run --db-password hunter2 -v",
        "run --db-password [scrubbed] -v",
    );
    check_text(
        "<password>hunter2</password>",
        "<password>[scrubbed]</password>",
    );
    check_text(
        "Authorization: Basic YTpi\nHost: x",
        "Authorization: [scrubbed]\nHost: x",
    );
    check_text(
        "got bearer abc.def-123456 here",
        "got bearer [scrubbed] here",
    );
    check_text("GET /x?token=abc&y=1", "GET /x?token=[scrubbed]&y=1");
    check_text(
        "https://anna:hunter2@db.example/x",
        "https://anna:[scrubbed]@db.example/x",
    );
    check_text(
        "curl -s -u anna:hunter2 https://x",
        "curl -s -u anna:[scrubbed] https://x",
    );
    check_text(
        "mysql -u root -phunter2 shop",
        "mysql -u root -p[scrubbed] shop",
    );
    check_text(
        "sshpass -p hunter2 ssh a@b",
        "sshpass -p [scrubbed] ssh a@b",
    );
    check_text(
        "a -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- b",
        "a [scrubbed] b",
    );
    check_text("cut -----BEGIN PRIVATE KEY-----\nMIIE", "cut [scrubbed]");
    let jwt = [
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJzdWIiOiIxMjM0NTYifQ",
        "c2lnbmF0dXJl",
    ]
    .join(".");
    check_text(&format!("({jwt})"), "([scrubbed])");
    let key = secret_key();
    check_text(
        &format!("keys AKIAIOSFODNN7ABCDEFG {key} end"),
        "keys AKIAIOSFODNN7ABCDEFG [scrubbed] end",
    );
    check_text(&format!("found {key}"), "found [scrubbed]");
    check_text(
        "AccountName=a;AccountKey=bXk=;x",
        "AccountName=a;AccountKey=[scrubbed];x",
    );
    let hook = [
        "https://hooks.slack.com",
        "services/T00000000/B00000000/XXXXXXXX",
    ]
    .join("/");
    check_text(&format!("post {hook}"), "post https://[scrubbed]");
}

#[test]
fn json_inside_strings_is_walked_as_json() {
    let inner = json!({"user": "a", "password": "b\"c", "list": [{"secretKey": "d"}]}).to_string();
    let middle = json!({"Message": inner}).to_string();
    let want_inner = json!({"user": "a", "password": MARK, "list": [{"secretKey": MARK}]});
    let want_middle = json!({"Message": want_inner.to_string()}).to_string();
    check_json(
        &json!({"full_log": middle}),
        &json!({"full_log": want_middle}),
    );
}

#[test]
fn everything_that_is_kept_is_kept_byte_for_byte() {
    let raw = "{ \"a\" : 1.10e+3,\t\"a\":12345678901234567890123, \"\\u0070assword\":\"x\" ,\n\"b\":\"\\/\\u00e9\" }";
    let want = "{ \"a\" : 1.10e+3,\t\"a\":12345678901234567890123, \"\\u0070assword\":\"[scrubbed]\" ,\n\"b\":\"\\/\\u00e9\" }";
    assert_eq!(scrub_json(raw).unwrap(), want);
}

#[test]
fn what_is_not_json_is_refused_where_it_breaks() {
    let check = |raw: &str, at: usize| assert_eq!(scrub_json(raw), Err(NotJson { at }), "{raw}");
    check("", 0);
    check(r#"{"a":1"#, 6);
    check(r#"{"a":1} x"#, 8);
    check(r#"{"a",:1}"#, 4);
    check("{\"a\":\"\n\"}", 6);
    check(r#"{"a":"x"#, 7);
    check("nul", 3);
    check(&"[".repeat(200), 128);
}

#[test]
fn hostile_text_takes_linear_time() {
    for piece in [
        "password=",
        "password=\"",
        "eyJ",
        "eyJ.",
        "://a",
        "://a:",
        "-----BEGIN PRIVATE KEY",
        "-----BEGIN",
        "authorization:",
        "bearer ",
        "curl ",
        "curl -u ",
        "mysql ",
        "token: ",
        "\\\"",
        "password='\\",
        "sig=",
        "ghp_",
        "A/",
        "secret:\\\\\\",
        "curl-",
        "token",
        "token=[scrubbed]",
        "{\"a\":",
        "[\"",
        "password=\"[scrubbed]",
        "eyJaaaaaaaa",
        "https://a:",
        "-----BEGIN OPENSSH",
    ] {
        // The same number of bytes in one text and in sixteen, so that a busy machine slows both alike.
        let time = |bytes: usize| {
            let text = piece.repeat(bytes / piece.len());
            let raw = json!({"a": [text]}).to_string();
            let begun = std::time::Instant::now();
            for _ in 0..(128 << 10) / bytes {
                let _ = scrub_text(&text);
                let _ = scrub_json(&raw).unwrap();
            }
            begun.elapsed()
        };
        // Linear takes once as long, quadratic sixteen times.
        let best = |bytes: usize| (0..3).map(|_| time(bytes)).min().unwrap();
        let (short, long) = (best(8 << 10), best(128 << 10));
        assert!(
            long < short * 5,
            "{piece:?}: {short:?} in pieces of 8 KiB, {long:?} in one of 128 KiB"
        );
    }
}

fn shared(test: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let folder = std::env::var_os("ZERO_X_SHARED").map_or_else(|| beside.into(), PathBuf::from);
    if !folder.join("corpora/events").exists() {
        #[expect(clippy::print_stdout, reason = "a skipped test says so by name")]
        {
            println!("skipped: {test}: no shared data");
        }
        return None;
    }
    Some(folder.join("corpora/events"))
}

/// The events of a corpus file, as raw JSON text.
fn events(file: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .filter_map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row.get("event").map(Value::to_string)
        })
        .collect()
}

/// The paths whose values differ.
fn differences(path: &str, a: &Value, b: &Value, out: &mut Vec<(String, String)>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()), "{path}: keys changed");
            for (key, value) in a {
                differences(&format!("{path}.{key}"), value, b.get(key).unwrap(), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, out);
            }
        }
        (a, b) if a != b => out.push((path.to_owned(), format!("{a} -> {b}"))),
        _ => {}
    }
}

#[test]
fn ordinary_events_keep_their_text() {
    let Some(folder) = shared("ordinary_events_keep_their_text") else {
        return;
    };
    let files = [
        "benign_cloudtrail.jsonl",
        "stratus_cloudtrail.jsonl",
        "traildiscover_cloudtrail.jsonl",
        "panther_cloudtrail.jsonl",
        "wazuh_alerts_4x_upstream.jsonl",
        "wazuh_alerts_4x_derived.jsonl",
        "benign_gcp_audit.jsonl",
        "panther_azure_activity.jsonl",
        "benign_okta.jsonl",
        "panther_k8s_audit.jsonl",
        "panther_github_audit.jsonl",
    ];
    let (mut count, mut changed) = (0, Vec::new());
    for file in files {
        for raw in events(&folder.join(file)) {
            let scrubbed = scrub_json(&raw).unwrap();
            let a = serde_json::from_str(&raw).unwrap();
            let b = serde_json::from_str(&scrubbed).unwrap();
            differences(file, &a, &b, &mut changed);
            count += 1;
        }
    }
    assert!(count > 1500, "{count}");
    // Each of these holds a secret or a token of its own; all other text is untouched.
    let known = [
        "sessionToken",
        "userData",
        "referer",
        "ClientRequestURI",
        "certPrivateKey",
    ];
    changed.retain(|(path, _)| !known.iter().any(|end| path.ends_with(end)));
    assert!(changed.len() <= 3, "{changed:#?}");
}

/// A secret that no other text of these tests contains.
const PLANTED: &str = "Qz7xPlanted9vK";

fn secret_name() -> impl Strategy<Value = String> {
    const NAMES: &[&str] = &[
        "password",
        "Passwd",
        "session_token",
        "sessionToken",
        "SecretAccessKey",
        "api-key",
        "x-api-key",
        "X-Api-Key",
        "client_secret",
        "SecretString",
        "privateKey",
        "connectionString",
        "Cookie",
        "authorization",
        "token",
        "DB_PASSWORD",
        "access.token",
    ];
    prop::sample::select(NAMES).prop_map(str::to_owned)
}

/// A value that holds the planted secret in one of the forms that must be found.
fn planted() -> impl Strategy<Value = Value> {
    prop_oneof![
        secret_name().prop_map(|name| json!({name: PLANTED})),
        secret_name().prop_map(|name| json!({name: [PLANTED, 1]})),
        secret_name().prop_map(|name| json!({"name": name, "value": PLANTED})),
        secret_name().prop_map(|name| json!({"value": PLANTED, "Key": name})),
        secret_name().prop_map(|name| json!(format!("a {name}={PLANTED} b"))),
        secret_name().prop_map(|name| json!(format!("a --{name} {PLANTED}"))),
        secret_name().prop_map(|name| json!(format!(r#"x "{name}": "{PLANTED}", y"#))),
        secret_name().prop_map(|name| json!(format!(r#"x \"{name}\":\"{PLANTED}\" y"#))),
        Just(json!(format!("see postgres://shop:{PLANTED}@db/x"))),
        Just(json!(format!("Bearer {PLANTED}"))),
        Just(json!(format!("-----BEGIN PRIVATE KEY-----\n{PLANTED}"))),
    ]
}

/// Text of words that can begin a secret, in either case, and of what can stand around them.
fn telling_text() -> impl Strategy<Value = String> {
    let words: Vec<&str> = super::text::WORDS.iter().map(|(word, _)| *word).collect();
    let word = prop::sample::select(words).prop_map(ToOwned::to_owned);
    let loud = word.clone().prop_map(|word| word.to_uppercase());
    let piece = prop_oneof![
        word,
        loud,
        "[ =:/@.é\"\\\\-]{1,3}",
        "[a-zA-Z0-9_]{1,50}",
        Just(format!(" {} ", secret_key())),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("x{}", pieces.concat()))
}

/// Random structure around the secret: objects, lists, siblings, JSON in strings.
fn around() -> impl Strategy<Value = Value> {
    planted().prop_recursive(6, 24, 2, |inner| {
        let key = "[a-z\"\\\\é]{1,6}".prop_filter("no telling name", |key| {
            super::keys::class_of(key) == super::keys::Class::Open
        });
        (inner, key, "\\PC{0,12}", 0..4u8).prop_map(|(inner, key, other, form)| match form {
            0 => json!({key: inner, "other": other}),
            1 => json!([other, inner, null, 1.5]),
            2 => json!({key: inner.to_string(), "n": -1}),
            _ => json!({"a": {key: [inner]}}),
        })
    })
}

proptest! {
    #[test]
    fn a_planted_secret_never_survives(value in around()) {
        let raw = value.to_string();
        let scrubbed = scrub_json(&raw).unwrap();
        prop_assert!(!scrubbed.contains(PLANTED), "{raw}\n{scrubbed}");
        prop_assert!(serde_json::from_str::<Value>(&scrubbed).is_ok(), "{scrubbed}");
    }

    #[test]
    fn any_text_is_survived_and_scrubbing_twice_changes_nothing(text in "\\PC{0,200}") {
        let once = scrub_text(&text).into_owned();
        prop_assert_eq!(scrub_text(&once).into_owned(), once);
        let raw = json!({"k": text}).to_string();
        prop_assert!(serde_json::from_str::<Value>(&scrub_json(&raw).unwrap()).is_ok());
    }

    #[test]
    fn texts_side_by_side_are_scrubbed_as_each_alone(
        texts in prop::collection::vec(telling_text(), 1..12),
    ) {
        let raw = json!(texts).to_string();
        let alone: Vec<Cow<'_, str>> = texts.iter().map(|text| scrub_text(text)).collect();
        prop_assert_eq!(scrub_json(&raw).unwrap(), json!(alone).to_string());
    }

    #[test]
    fn json_without_a_secret_comes_back_unchanged(
        keys in prop::collection::vec("[a-f]{1,4}", 1..6),
        number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()),
        word in "[a-m ,.]{0,30}",
    ) {
        let mut value = json!([number, word, true]);
        for key in keys {
            value = json!({key: value});
        }
        let raw = value.to_string();
        prop_assert_eq!(scrub_json(&raw).unwrap(), raw.clone());
    }
}
