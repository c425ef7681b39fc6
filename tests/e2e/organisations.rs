//! No organisation sees another's data.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use line::client::Client;
use serde_json::Value;
use tests::{Line, alerts};

use crate::sync::settled;

/// The answer of one API call: status line and body, without what is different in every answer.
fn ask(client: &Client, path: &str) -> Result<(String, Value)> {
    let done = client.output(&["api", "GET", path, "-i"], "")?;
    let text = String::from_utf8(done.stdout)?;
    let (status, rest) = text
        .split_once('\n')
        .with_context(|| format!("no status line for {path}: {text}"))?;
    let body = rest
        .find('{')
        .and_then(|at| rest.get(at..))
        .unwrap_or("null");
    let mut body: Value =
        serde_json::from_str(body.trim()).with_context(|| format!("no JSON for {path}: {text}"))?;
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
        fields.remove("instance");
    }
    Ok((status.trim().to_owned(), body))
}

/// An id of the same shape that no object has: four characters before the last four are others.
fn missing(id: &str) -> String {
    let from = id.chars().count().saturating_sub(8);
    let changed = id
        .chars()
        .enumerate()
        .map(|(index, character)| match character {
            _ if !(from..from + 4).contains(&index) => character,
            '2' => '3',
            '0'..='9' => '2',
            'a' => 'b',
            'a'..='z' => 'a',
            other => other,
        });
    changed.collect()
}

#[test]
fn a_foreign_id_answers_like_a_missing_one() -> Result<()> {
    let line = Line::start()?;
    let other = line.organisation("other")?;
    let account = line.account()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, (0..5).map(alerts::alert))?;
    agent.source_add(
        "aws",
        "shop",
        &[&format!("endpoint={}", account.endpoint())],
    )?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    agent.run_once()?;
    settled(&line.client)?;

    // Every path of the API with one id in it, as the API itself describes them.
    let (_, openapi) = ask(&line.client, "/api/v1/openapi.json")?;
    let paths = openapi["paths"]
        .as_object()
        .context("the API describes no paths")?;
    let mut tried = BTreeSet::new();
    for (path, verbs) in paths {
        let Some((list, _)) = path.split_once("/{") else {
            continue;
        };
        if verbs.get("get").is_none() || path.matches('{').count() != 1 {
            continue;
        }
        let (_, rows) = ask(&line.client, list)?;
        let rows = rows
            .get("items")
            .or(Some(&rows))
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        // Organisations and checks are not one organisation's data: a list of them holds no secret of anyone.
        let id = rows
            .first()
            .and_then(|row| row.get("resource_id").or(row.get("id")));
        let Some(id) = id.and_then(Value::as_str) else {
            continue;
        };
        let fill = |id: &str| {
            let (head, tail) = path.split_once('{').unwrap_or((path, ""));
            let tail = tail.split_once('}').map_or("", |(_, tail)| tail);
            format!("{head}{}{tail}", encoded(id))
        };
        let (status, _) = ask(&line.client, &fill(id))?;
        assert!(
            status.contains(" 200"),
            "{path} with the owner's login: {status}"
        );
        if path.contains("/checks/") || path.contains("/orgs/") || path.contains("/users/") {
            continue;
        }
        let foreign = ask(&other.client, &fill(id))?;
        let absent = ask(&other.client, &fill(&missing(id)))?;
        assert!(foreign.0.contains(" 404"), "{path}: {foreign:?}");
        assert_eq!(foreign, absent, "{path}");
        tried.insert(path.clone());
    }
    println!("asked with a foreign login: {tried:?}");
    for kind in ["findings", "resources", "agents", "events"] {
        assert!(
            tried.iter().any(|path| path.contains(kind)),
            "{kind} is not among {tried:?}"
        );
    }

    // And no list of the other organisation holds anything.
    for kind in ["finding", "resource", "agent", "source", "event"] {
        assert!(other.client.rows(&[kind, "list"])?.is_empty(), "{kind}");
    }
    assert!(other.client.rows(&["check", "results"])?.is_empty());
    Ok(())
}

#[test]
fn nothing_but_health_answers_without_a_login() -> Result<()> {
    let line = Line::start()?;
    let (_, openapi) = ask(&line.client, "/api/v1/openapi.json")?;
    let stranger = line.folder().join("stranger");
    // A copy of the session with its tokens spoiled: the same program, no valid login.
    copy(line.client.home(), &stranger)?;
    let mut files = Vec::new();
    tests::files(&stranger, &mut files)?;
    let mut spoiled = 0;
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let Ok(mut session) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        spoiled += spoil(&mut session);
        std::fs::write(&file, session.to_string())?;
    }
    assert!(spoiled > 0, "no token was found in the session");
    for (path, verbs) in openapi["paths"]
        .as_object()
        .context("the API describes no paths")?
    {
        if verbs.get("get").is_none() || path == "/healthz" || path == "/readyz" {
            continue;
        }
        let mut command = line::process::command(&line.programs().client, &stranger);
        let path = path.replace(['{', '}'], "");
        command.args(["api", "GET", &path, "-i"]);
        let done = line::process::output(command, "", std::time::Duration::from_secs(60))?;
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(said.contains(" 401"), "{path}: {said}");
    }
    Ok(())
}

/// Makes every long text of a session, which is where its tokens are, invalid.
fn spoil(value: &mut Value) -> usize {
    match value {
        Value::String(text)
            if text.len() >= 40 && !text.starts_with("sha256:") && !text.contains("://") =>
        {
            *text = text.chars().rev().collect();
            1
        }
        Value::Array(items) => items.iter_mut().map(spoil).sum(),
        Value::Object(fields) => fields.values_mut().map(spoil).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let mut files = Vec::new();
    tests::files(from, &mut files)?;
    for file in files {
        let target = to.join(file.strip_prefix(from)?);
        std::fs::create_dir_all(target.parent().context("a file without a folder")?)?;
        std::fs::copy(&file, &target)?;
    }
    Ok(())
}

/// An id as one part of a path.
fn encoded(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                (byte as char).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
