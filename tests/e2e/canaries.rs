//! The hub is credential-blind, and its files tell a thief nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::canary::{Canary, in_files};
use tests::{Line, alerts};

use crate::sync::settled;

/// Planted in an instance's user data by the demo's seeder.
const USER_DATA: &str = "demo-correct-horse-battery";
/// Sealed in the agent's vault.
const VAULT: &str = "vault-canary-Zq81mPd0sW7x";
/// In a raw event, as CloudTrail logs the answer of AssumeRole.
const SESSION_TOKEN: &str = "IQoJb3JpZ2luX2VjEJ7canaryToken55AbCdEf";

fn event_with_a_token() -> Value {
    let mut alert = alerts::alert(0);
    alert["data"] = json!({"aws": {
        "eventName": "AssumeRole", "eventSource": "sts.amazonaws.com", "sourceIPAddress": "203.0.113.9",
        "responseElements": {"credentials": {
            "accessKeyId": "ASIADEMODEMODEMODEMO", "expiration": "Jan 1, 2026, 1:00:00 AM", "sessionToken": SESSION_TOKEN}},
    }});
    alert
}

#[test]
fn planted_secrets_and_names_are_in_no_file_and_no_answer_of_the_hub() -> Result<()> {
    let mut line = Line::start()?;
    let account = line.account()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::once(event_with_a_token()))?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    // The vaulted secret is one that is used: it signs every call of the sync.
    let keys = json!({"access_key_id": "demo", "secret_access_key": VAULT}).to_string();
    let endpoint = format!("endpoint={}", account.endpoint());
    agent.source_add_with_secret("aws", "shop", &[&endpoint], &keys)?;
    agent.run_once()?;
    let results = settled(&line.client)?;

    let secrets = [USER_DATA, VAULT, SESSION_TOKEN].map(Canary::new);
    let names = ["demo-shop-invoices", "arn:aws:s3:::", "123456789012"].map(Canary::new);

    // The planted things were met: what does not arrive proves nothing.
    let events = line.client.rows(&["event", "list"])?;
    assert!(
        events
            .iter()
            .any(|row| row.to_string().contains("burst-000000-end")),
        "{events:?}"
    );
    let resources = line.client.rows(&["resource", "list"])?;
    assert!(
        resources
            .iter()
            .any(|row| row.to_string().contains("demo-shop-invoices"))
    );
    let user_data = results.iter().find(|row| {
        row["check_id"]
            .as_str()
            .is_some_and(|id| id.contains("secrets-user-data"))
            && row["verdict"] == "fail"
    });
    assert!(
        user_data.is_some(),
        "the secret in the user data was not noticed"
    );

    // Every answer that the hub gives about this organisation.
    let mut answers = String::new();
    for kind in [
        "finding", "resource", "event", "agent", "source", "user", "org", "check",
    ] {
        answers += &line.client.text(&[kind, "list", "-o", "json"])?;
    }
    answers += &line.client.text(&["check", "results", "-o", "json"])?;
    // Each is a run of the program, and the provider's own policies are some 1,600 documents that hold nothing planted.
    for row in resources
        .iter()
        .filter(|row| row["type"] != "aws.iam.policy")
    {
        let id = row["resource_id"].as_str().unwrap_or_default();
        answers += &line.client.text(&["resource", "show", id, "-o", "json"])?;
    }
    for row in line.client.rows(&["finding", "list"])? {
        answers +=
            &line
                .client
                .text(&["finding", "show", row["id"].as_str().unwrap(), "-o", "json"])?;
    }
    for secret in &secrets {
        assert!(
            !secret.is_in(answers.as_bytes()),
            "an answer holds {}",
            secret.text()
        );
    }

    // The hub's memory, as a dump would show it.
    match memory(line.hub.pid().unwrap()) {
        Ok(bytes) => {
            assert!(
                bytes.len() > 1_000_000,
                "only {} bytes of memory were read",
                bytes.len()
            );
            for secret in &secrets {
                assert!(
                    !secret.is_in(&bytes),
                    "the hub's memory holds {}",
                    secret.text()
                );
            }
        }
        Err(error) => println!("skipped: the hub's memory: {error}"),
    }

    // Every file, as a thief of the disk finds it: while the hub runs, and after an orderly end.
    let all = [secrets.as_slice(), names.as_slice()].concat();
    assert_eq!(in_files(&line.hub.data_dir(), &all)?, Vec::<String>::new());
    assert_eq!(in_files(line.hub.folder(), &secrets)?, Vec::<String>::new());
    line.hub.stop()?;
    assert_eq!(in_files(&line.hub.data_dir(), &all)?, Vec::<String>::new());

    // The agent's own files do not show the vaulted secret either.
    assert_eq!(
        in_files(&agent.state_dir(), &[Canary::new(VAULT)])?,
        Vec::<String>::new()
    );
    Ok(())
}

/// The writable memory of a process. Source: proc(5), `maps` and `mem`.
fn memory(pid: u32) -> Result<Vec<u8>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut bytes = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().unwrap_or_default();
        let (from, to) = range.split_once('-').context("an unknown form of maps")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut part = vec![0; usize::try_from(to - from)?];
        // Some ranges belong to devices and cannot be read.
        if memory.read_exact_at(&mut part, from).is_ok() {
            bytes.extend_from_slice(&part);
        }
    }
    Ok(bytes)
}
