//! The collector against recordings of a real organisation.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::google::{source, source_of, told_of};
use super::replay::{Replay, answer, gate};
use crate::*;

fn recorded_organisation() -> Parent {
    Parent::Organization("111222333".to_owned())
}

/// Returns the recorded assets of a type by name, the first of each, with one of their parts.
fn recorded(folder: &Path, files: &str, part: &str, kind: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut paths: Vec<_> = std::fs::read_dir(folder.join("recorded/gcp_cai"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with(&format!("{files}.ndjson")) && !name.contains("additional")
        })
        .collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let asset: Value = serde_json::from_str(line).unwrap();
            if asset["asset_type"] == kind {
                let name = asset["name"].as_str().unwrap().to_owned();
                found.entry(name).or_insert_with(|| asset[part].clone());
            }
        }
    }
    found
}

/// Checks that what was told is what was recorded: each value is the same, and each null is a
/// value that the recording does not have.
#[track_caller]
fn same(told: &Value, recorded: &Value, path: &str) {
    match (told, recorded) {
        (Value::Object(told), Value::Object(recorded)) => {
            for (name, value) in told {
                let there = recorded.get(name).unwrap_or(&Value::Null);
                same(value, there, &format!("{path}.{name}"));
            }
        }
        (Value::Array(told), Value::Array(recorded)) => {
            assert_eq!(told.len(), recorded.len(), "{path}");
            for (told, recorded) in told.iter().zip(recorded) {
                same(told, recorded, path);
            }
        }
        (told, recorded) => assert_eq!(told, recorded, "{path}"),
    }
}

async fn check(replay: &Replay) {
    let told = told_of(&source(&replay.base, recorded_organisation())).await;
    assert_eq!(told.summary.faults, []);
    let mut documents = 0;
    for kind in [
        "cloudresourcemanager.googleapis.com/Project",
        "storage.googleapis.com/Bucket",
    ] {
        let resources = recorded(&replay.folder, "resources", "resource", kind);
        // Of a policy that is listed twice, the last one counts; none of these differ.
        let policies = recorded(&replay.folder, "iam_policies", "iam_policy", kind);
        for (name, resource) in resources {
            documents += 1;
            let document = told
                .documents
                .iter()
                .find(|document| document.native_id == name);
            let document = document.unwrap_or_else(|| panic!("{name} was not told"));
            let mut want = resource["data"].clone();
            want["iamPolicy"] = policies.get(&name).cloned().unwrap_or(Value::Null);
            same(&document.config, &want, &name);
            assert!(document.gaps.is_empty(), "{name}: {:?}", document.gaps);
            let ended = format!("ended {}", document.urn.scope);
            assert!(told.outline.contains(&ended), "{name}");
        }
    }
    assert_eq!(told.documents.len(), documents);
    assert!(documents >= 6, "{documents}");
    let failed = |line: &&String| line.starts_with("failed");
    assert_eq!(told.outline.iter().find(failed), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_organisation_is_told_as_it_was_recorded() {
    let name = "a_recorded_organisation_is_told_as_it_was_recorded";
    if let Some(replay) = Replay::start(name, &[]).await {
        check(&replay).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_organisation_behind_throttling_is_told_just_the_same() {
    let name = "a_recorded_organisation_behind_throttling_is_told_just_the_same";
    let faults = ["--fault", "429:0.15,503:0.1", "--seed", "7"];
    let Some(replay) = Replay::start(name, &faults).await else {
        return;
    };
    // Eight attempts, as a real source has.
    let told = told_of(&source_of(&replay.base, recorded_organisation(), 8)).await;
    assert_eq!(told.summary.faults, []);
    assert_eq!(told.documents.len(), 6);
    assert!(told.summary.calls > 7, "{}", told.summary.calls);
}

/// Returns a service account's key with this token address, or `None` after saying that `test` is
/// skipped.
fn key(test: &str, token_uri: &str) -> Option<SecretString> {
    let made = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .output();
    let Ok(made) = made else {
        #[expect(clippy::print_stdout, reason = "a skip is printed")]
        {
            println!("skipped: {test}: no openssl");
        }
        return None;
    };
    let key = json!({
        "type": "service_account", "project_id": "p101", "token_uri": token_uri,
        "client_email": "zero-x@p101.example", "private_key": String::from_utf8(made.stdout).unwrap(),
    });
    Some(SecretString::from(key.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_accounts_key_gets_a_token_from_its_own_address() {
    let name = "a_service_accounts_key_gets_a_token_from_its_own_address";
    let rule = |request: &http::Request<bytes::Bytes>| match request.uri().path() {
        "/token" => {
            let body = String::from_utf8(request.body().to_vec()).unwrap();
            assert!(body.contains("assertion="), "{body}");
            let token =
                json!({"access_token": "granted", "expires_in": 3600, "token_type": "Bearer"});
            Some(answer(200, &token))
        }
        _ => {
            assert_eq!(request.headers()["authorization"], "Bearer granted");
            Some(answer(200, &json!({"readTime": "2026-01-02T03:04:05Z"})))
        }
    };
    let base = gate("http://127.0.0.1:1", Box::new(rule)).await;
    let Some(key) = key(name, &format!("{base}/token")) else {
        return;
    };
    let settings = Settings {
        parent: Parent::Project("p101".to_owned()),
        regions: Vec::new(),
        endpoint: Some(base),
    };
    let source = Gcp::connect(settings, Credentials::Key(key)).await.unwrap();
    let probes = source.probe().await.unwrap();
    assert!(probes.iter().all(|probe| probe.refused.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_refused_says_so_before_any_sweep() {
    let name = "a_key_that_is_refused_says_so_before_any_sweep";
    let base = gate(
        "http://127.0.0.1:1",
        Box::new(|_| Some(answer(400, &json!({"error": "invalid_grant"})))),
    )
    .await;
    let Some(key) = key(name, &format!("{base}/token")) else {
        return;
    };
    let settings = Settings {
        parent: Parent::Project("p101".to_owned()),
        regions: Vec::new(),
        endpoint: Some(base),
    };
    let refused = Gcp::connect(settings, Credentials::Key(key)).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, CollectError::Credentials { .. }), "{error}");
}
