//! What an agent and its hub tell about their session.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use line::agent::Agent;
use line::client::Client;
use line::process::{self, Process};
use serde_json::Value;

use crate::{alerts, wait_until};

/// Longer than anything takes that is not stuck.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the daemon with settings as an operator would write them into a file.
///
/// # Errors
/// When it cannot be started.
pub fn run(agent: &Agent, folder: &Path, settings: &str) -> Result<Process> {
    let file = folder.join("agent.toml");
    std::fs::write(&file, settings)?;
    let mut command = agent.command();
    command.arg("--config").arg(&file).arg("run");
    Process::start("the agent", command, &agent.log())
}

/// What the daemon says of its link.
///
/// # Errors
/// When it does not answer.
pub fn link(agent: &Agent) -> Result<Value> {
    let told = agent.output(&["status", "-o", "json"], "")?;
    let status: Value = serde_json::from_str(&process::success(told, "zero-x-agent status")?)?;
    Ok(status.get("link").cloned().unwrap_or_default())
}

/// Waits until a session stands over a transport.
///
/// # Errors
/// When it does not.
pub fn wait_online(agent: &Agent, transport: &str) -> Result<()> {
    wait_until(&format!("a session over {transport}"), PATIENCE, || {
        let link = link(agent).unwrap_or_default();
        let says = |name: &str, word: &str| link.get(name).is_some_and(|told| *told == word);
        Ok((says("state", "online") && says("transport", transport)).then_some(()))
    })
}

/// What `doctor` ends with and its lines about one thing, with settings.
///
/// # Errors
/// When it cannot be run or prints no JSON.
pub fn doctor(
    agent: &Agent,
    folder: &Path,
    settings: &str,
    check: &str,
) -> Result<(ExitStatus, Vec<Value>)> {
    let file = folder.join("doctor.toml");
    std::fs::write(&file, settings)?;
    let mut command = agent.command();
    command
        .arg("--config")
        .arg(&file)
        .args(["doctor", "-o", "jsonl"]);
    let told = process::output(command, "", PATIENCE)?;
    let text = String::from_utf8(told.stdout)?;
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let mut lines = lines.with_context(|| text.clone())?;
    lines.retain(|line| line.get("check").is_some_and(|name| name == check));
    Ok((told.status, lines))
}

/// Has `doctor` say one line about the hub, with these words, and nothing else that is broken.
///
/// # Errors
/// When it says something else.
pub fn doctor_says(
    agent: &Agent,
    folder: &Path,
    settings: &str,
    verdict: &str,
    words: &[&str],
) -> Result<()> {
    let (status, lines) = doctor(agent, folder, settings, "hub")?;
    let [line] = lines.as_slice() else {
        anyhow::bail!("not one line about the hub: {lines:?}")
    };
    let told = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
    ensure!(told("verdict") == verdict, "{line}");
    // Nothing else is broken, so the exit code is that of this line.
    ensure!(
        status.code() == Some(i32::from(verdict == "fail")),
        "{status}: {line}"
    );
    let text = format!("{} {}", told("detail"), told("fix"));
    for word in words {
        ensure!(text.contains(word), "no {word:?} in {text}");
    }
    Ok(())
}

/// How often the hub holds each numbered event.
///
/// # Errors
/// When it cannot be asked.
pub fn stored(client: &Client) -> Result<BTreeMap<usize, usize>> {
    let mut counts = BTreeMap::new();
    for row in client.rows(&["event", "list"])? {
        let mut numbers = alerts::numbers(&row.to_string());
        // One event may hold its mark in several fields.
        numbers.dedup();
        for number in numbers {
            *counts.entry(number).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Waits until the hub holds the first `number` events, each once.
///
/// # Errors
/// When one is held twice, or they are not all there in the end.
pub fn wait_stored(client: &Client, number: usize) -> Result<()> {
    let wanted: BTreeMap<usize, usize> = (0..number).map(|number| (number, 1)).collect();
    wait_until(&format!("{number} events are stored"), PATIENCE, || {
        let now = stored(client)?;
        let twice: Vec<_> = now.iter().filter(|(_, count)| **count != 1).collect();
        ensure!(twice.is_empty(), "stored more than once: {twice:?}");
        Ok((now == wanted).then_some(()))
    })
}
