use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::encoded::GZIP;
use super::*;

fn detector() -> Detector {
    Detector::new([7; 32])
}

fn gzip(content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn summary(found: &Value) -> Vec<(&str, &str)> {
    found
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            (
                item["kind"].as_str().unwrap(),
                item["place"].as_str().unwrap(),
            )
        })
        .collect()
}

/// Checks the kinds and places that are found, in their order.
#[track_caller]
fn check(text: &str, want: &[(&str, &str)]) {
    let found = detector().examine(text);
    assert_eq!(summary(&found), want, "in {text:?}");
}

// Made up for these tests, in parts, so that no scanner takes this file for a leak.
const SECRET_KEY: &str = concat!("q7Xh2LwTz9Ka", "B4+mVn8Rd0Yf/C1gJs6UeP3oNiQt");
const ACCESS_KEY: &str = concat!("AKIA", "Q5RTZVNW2XKLHB7D");
const GITHUB: &str = concat!("ghp_", "A9dKz3LmQ7xVbN2cT8yRfW5hJ0sGpE4uXo1Z");
const GITLAB: &str = concat!("glpat-", "Zk3_x9QwLm7TnVb2RsYd");
const SLACK: &str = concat!(
    "xoxb-",
    "283764519283-8172635491827-Qa9ZkT3mVb7XcL2nRwYs8dFg"
);

#[test]
fn each_kind_is_found_where_it_stands() {
    check(
        &format!("a\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"),
        &[
            ("aws-access-key-id", "line 2"),
            ("aws-secret-access-key", "line 3"),
        ],
    );
    check(
        &format!("{{\"SecretAccessKey\": \"{SECRET_KEY}\"}}"),
        &[("aws-secret-access-key", "line 1")],
    );
    check(
        &format!("configure({ACCESS_KEY:?},\n {SECRET_KEY:?})"),
        &[
            ("aws-access-key-id", "line 1"),
            ("aws-secret-access-key", "line 2"),
        ],
    );
    check(
        &format!("git clone https://oauth2:{GITHUB}@github.com/a/b"),
        &[("github-token", "line 1")],
    );
    check(
        &format!("export CI={GITLAB}"),
        &[("gitlab-token", "line 1")],
    );
    check(&format!("slack: {SLACK}"), &[("slack-token", "line 1")]);
    let connection = [("connection-string", "line 1")];
    check(
        "DB=postgres://app:Tr0ub4dor@db.internal:5432/shop",
        &connection,
    );
    check(
        "Server=tcp:db,1433;User ID=sa;Password=Gr33n-Apple;Encrypt=true",
        &connection,
    );
    let key = format!("{SECRET_KEY}ZkW5").repeat(2);
    check(
        &format!(
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={}==;",
            &key[..86]
        ),
        &[("azure-storage-key", "line 1")],
    );
    let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\",\"typ\":\"JWT\"}");
    let claims = URL_SAFE_NO_PAD.encode("{\"sub\":\"1234567\",\"admin\":true}");
    check(
        &format!("t {header}.{claims}.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"),
        &[("jwt", "line 1")],
    );
    check(
        "curl -H 'Authorization: Bearer 9f8e7d6c5b4a3f2e1d0c9b8a' https://x",
        &[("authorization-header", "line 1")],
    );
}

#[test]
fn a_private_key_is_one_finding_and_one_of_a_service_account_is_named_so() {
    let body = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n".repeat(6);
    let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}-----END RSA PRIVATE KEY-----");
    check(
        &format!("write_files:\n  - content: |\n{pem}\n"),
        &[("private-key", "line 3")],
    );
    let json = json!({"type": "service_account", "private_key": pem, "client_email": "a@b"});
    check(&json.to_string(), &[("gcp-service-account-key", "line 1")]);
    let indented = pem.replace('\n', "\n      ");
    let plain = detector().examine(&pem);
    assert_eq!(
        plain[0]["fingerprint"],
        detector().examine(&indented)[0]["fingerprint"]
    );
    check(
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        &[],
    );
}

#[test]
fn assignments_to_telling_names_are_found_in_the_ways_people_write_them() {
    for line in [
        "export DB_PASSWORD=hunter2hunter2",
        "DB_PASSWORD='correct horse'",
        "password: s3cr3t",
        "  password: winter  # change later",
        "\"password\": \"Pa55w0rd!\",",
        "\\\"adminPassword\\\": \\\"Pa55w0rd!\\\"",
        "$adminPassword = \"Summer2024!\"",
        "'passphrase' => 'open sesame'",
        "app --db-password Xk29fj2k --verbose",
        "mysql -h db -u root -pS3cretRoot shop",
        "echo 'root:Vagr4nt!' | chpasswd",
        "sshpass -p 'Wint3r' ssh host",
        "curl -u admin:Adm1n99 https://x",
        "net user Administrator \"S0mething!\" /add",
        "PGPASSWORD=abcd1234 psql -h db",
        "passwd: $6$rounds=4096$abcdefgh$Zk3x9QwLm7TnVb2RsYd",
        "<password>Tr0ub4dor</password>",
    ] {
        check(line, &[("password", "line 1")]);
    }
    for line in [
        "api_key = 'a8f5f167f44f4964e6c998dee827110c'",
        "SECRET_KEY=Zk3x9QwLm7TnVb2RsYd",
        "client_secret: \"8Q~Zk3x9QwLm7TnVb2RsYd\"",
        "auth-token=9f8e7d6c5b4a3f2e1d0c9b8a",
    ] {
        check(line, &[("token", "line 1")]);
    }
}

#[test]
fn what_stands_for_a_secret_or_is_about_one_is_left_alone() {
    for line in [
        "PASSWORD=changeme",
        "PASSWORD=${DB_PASSWORD}",
        "PASSWORD=$DB_PASSWORD",
        "PASSWORD=$(aws secretsmanager get-secret-value --secret-id db)",
        "password: {{ vault_password }}",
        "password = <your password>",
        "api_key = xxxxxxxxxxxxxxxxxxxx",
        "api_key: YOUR_API_KEY_HERE1",
        "secret: arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf",
        "PASSWORD_FILE=/run/secrets/db-password1",
        "SECRET_NAME=prod/db/1234abcd",
        "TOKEN_URL=https://login.example.org/oauth2/token",
        "token_ttl: 3600s00s",
        "passwordPolicy: strict99",
        "password = os.getenv('DB_PASSWORD')",
        "password: use at least twelve characters",
        "if [ \"$PASSWORD\" == \"\" ]; then",
        "PasswordAuthentication no",
        "max_tokens: 4096",
        "imageTag: a8f5f167f44f4964e6c998dee827110c",
        "sha256sum = 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "postgres://app:${PASS}@db/shop",
        "postgres://app:password@db/shop",
        "https://example.org/a:b@c",
        "AKIAIOSFODNN7EXAMPLE",
        "#!/bin/bash\nyum update -y\nsystemctl enable --now httpd",
    ] {
        check(line, &[]);
    }
}

#[test]
fn encoded_and_compressed_parts_are_opened() {
    let script = format!("#!/bin/sh\nexport API={GITHUB}\nexport DB_PASSWORD=hunter2hunter2\n");
    let once = STANDARD.encode(&script);
    let both = |place: &'static str| [("github-token", place), ("password", place)];
    check(
        &format!("a: 1\ncontent: {once}\n"),
        &both("line 2, encoded"),
    );
    let twice = STANDARD.encode(format!("{once}\n{script}"));
    let folded: String = twice
        .as_bytes()
        .chunks(76)
        .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
        .collect();
    let mime = format!("Content-Transfer-Encoding: base64\n\n{folded}--==\n");
    check(&mime, &both("line 3, encoded"));

    let zipped = detector().examine_bytes(&gzip(&script)).unwrap();
    assert_eq!(
        summary(&zipped),
        [("github-token", "line 2"), ("password", "line 3")]
    );
    let part = format!(
        "encoding: gz+b64\ncontent: {}\n",
        STANDARD.encode(gzip(&script))
    );
    let found = detector().examine_bytes(part.as_bytes()).unwrap();
    assert_eq!(summary(&found), both("line 2, encoded"));
}

#[test]
fn a_compressed_part_that_cannot_be_opened_is_not_called_clean() {
    let broken = [&GZIP[..], &[8, 0, 1, 2, 3]].concat();
    assert_eq!(
        detector().examine_bytes(&broken),
        Err(Unexamined::Compressed)
    );
    let part = STANDARD.encode([&GZIP[..], &[9; 60]].concat());
    let inside = format!("encoding: gz+b64\ncontent: {part}\n");
    let refused = detector().examine_bytes(inside.as_bytes());
    assert_eq!(refused, Err(Unexamined::Compressed));
    let beside = format!("{inside}password: s3cr3t\n");
    let found = detector().examine_bytes(beside.as_bytes()).unwrap();
    assert_eq!(summary(&found), [("password", "line 3")]);
    // Ten mebibytes of nothing in ten kibibytes, and a nest deeper than anybody writes.
    let bomb = gzip(vec![b' '; 10 << 20]);
    assert_eq!(detector().examine_bytes(&bomb), Err(Unexamined::TooLong));
    let nest = (0..8).fold(b"nothing to see here".to_vec(), |inner, _| gzip(inner));
    assert_eq!(detector().examine_bytes(&nest), Err(Unexamined::Compressed));
}

#[test]
fn a_text_too_long_to_examine_is_not_called_clean() {
    let long = "a b\n".repeat(TEXT_BYTES / 4 + 1);
    let refused = detector().examine_bytes(long.as_bytes());
    assert_eq!(refused, Err(Unexamined::TooLong));
    let early = format!("password: s3cr3t\n{long}");
    let found = detector().examine_bytes(early.as_bytes()).unwrap();
    assert_eq!(found[0]["kind"], "password");
}

#[test]
fn utf_16_scripts_of_windows_and_binary_with_text_in_it_are_read() {
    let script = "$adminPassword = \"Summer2024!\"\n";
    let wide = [0xfeff].into_iter().chain(script.encode_utf16());
    let wide: Vec<u8> = wide.flat_map(u16::to_le_bytes).collect();
    let found = detector().examine_bytes(&wide).unwrap();
    assert_eq!(found[0]["kind"], "password");
    let binary = [&[0, 159, 146, 150][..], b"\npassword: s3cr3t\n"].concat();
    let found = detector().examine_bytes(&binary).unwrap();
    assert_eq!(summary(&found), [("password", "line 2")]);
}

#[test]
fn fingerprints_are_equal_for_equal_secrets_and_only_under_one_key() {
    let first = detector().examine("password: hunter2hunter2");
    let second = detector().examine("\n\nDB_PASSWORD=\"hunter2hunter2\"");
    assert_eq!(first[0]["fingerprint"], second[0]["fingerprint"]);
    assert_eq!(first[0]["fingerprint"].as_str().unwrap().len(), 32);
    let other = Detector::new([8; 32]).examine("password: hunter2hunter2");
    assert_ne!(first[0]["fingerprint"], other[0]["fingerprint"]);
}

#[test]
fn no_secret_is_in_the_result_nor_the_key_in_debug() {
    let text = format!(
        "a={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\nx={SLACK}\nDB_PASSWORD=hunter2hunter2\n"
    );
    let result = detector().examine(&text).to_string();
    for secret in [ACCESS_KEY, SECRET_KEY, SLACK, "hunter2"] {
        assert!(!result.contains(secret));
    }
    assert_eq!(format!("{:?}", detector()), "Detector { .. }");
}

#[test]
fn variables_are_judged_by_their_name_and_named_as_the_place() {
    let found = detector().examine_variables([
        ("STAGE", "production"),
        ("DB_PASSWORD", "hunter2hunter2"),
        ("GREETING", "password please"),
        ("TOKEN_FILE", "/var/run/token/aaaa1111"),
        ("CI", GITLAB),
    ]);
    assert_eq!(
        summary(&found),
        [("password", "DB_PASSWORD"), ("gitlab-token", "CI")]
    );
}

#[test]
fn the_list_of_findings_is_bounded() {
    let text: String = (0..1000)
        .map(|i| format!("password{i}: s3cr3t{i}\n"))
        .collect();
    let found = detector().examine(&text);
    assert_eq!(found.as_array().unwrap().len(), FINDINGS);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_detector_panic(text in "\\PC{0,300}") {
        detector().examine(&text);
        let _result = detector().examine_bytes(text.as_bytes());
    }
}
