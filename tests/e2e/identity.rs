//! An agent's certificate through its life: renewed, ended, revoked, suspended, copied.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use line::agent::Agent;
use line::process::Process;
use serde_json::Value;
use tests::{Line, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// sysexits' EX_NOPERM, which the contract uses for "forbidden".
const FORBIDDEN: Option<i32> = Some(77);

/// A hub whose agents' certificates live for some seconds.
fn short_lived(seconds: u64) -> Result<Line> {
    Line::start_with(&[("ZERO_X_CA_AGENT_LEAF", &format!("{seconds}s"))])
}

/// The one agent of the first organisation, as the client sees it.
fn shown(line: &Line) -> Result<Value> {
    let rows = line.client.rows(&["agent", "list"])?;
    ensure!(rows.len() == 1, "{rows:?}");
    Ok(rows[0].clone())
}

fn text(row: &Value, pointer: &str) -> String {
    let found = row.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

fn wait_state(line: &Line, state: &str) -> Result<Value> {
    wait_until(state, PATIENCE, || {
        let row = shown(line)?;
        Ok((text(&row, "/state") == state).then_some(row))
    })
}

fn ended(process: &mut Process, log: &Path) -> Result<String> {
    let status = process.wait_exit(PATIENCE)?;
    ensure!(status.code() == FORBIDDEN, "{status}");
    Ok(fs::read_to_string(log)?)
}

fn audited(line: &Line, action: &str) -> Result<Vec<Value>> {
    let rows = line.client.rows(&["audit", "list"])?;
    let of = |row: &Value| row["action"] == action;
    Ok(rows.into_iter().filter(of).collect())
}

#[test]
fn a_certificate_is_renewed_over_the_live_session_and_again() -> Result<()> {
    let line = short_lived(24)?;
    let agent = line.agent("agent")?;
    let enrolled = text(&shown(&line)?, "/certificate/serial");
    ensure!(!enrolled.is_empty(), "no serial is shown");
    let key = fs::read(agent.state_dir().join("identity/agent.key"))?;
    let running = agent.run()?;
    let renewed = |before: &str| {
        wait_until("a new certificate", PATIENCE, || {
            let row = shown(&line)?;
            let serial = text(&row, "/certificate/serial");
            let is_online = text(&row, "/state") == "online";
            Ok((serial != before && is_online).then_some(serial))
        })
    };
    let second = renewed(&enrolled)?;
    let third = renewed(&second)?;
    assert_ne!(third, enrolled);
    assert!(audited(&line, "agent.renew")?.len() >= 2);
    // The key stays.
    assert_eq!(fs::read(agent.state_dir().join("identity/agent.key"))?, key);
    // What is on the disk lets it in.
    running.stop(PATIENCE)?;
    agent.run_once()
}

#[test]
fn an_agent_that_only_ever_runs_for_a_moment_renews_when_it_is_time() -> Result<()> {
    let line = short_lived(30)?;
    let agent = line.agent("agent")?;
    let chain = || fs::read_to_string(agent.state_dir().join("identity/agent.pem"));
    let first = chain()?;
    agent.run_once()?;
    assert_eq!(chain()?, first, "half of its life is not over");
    thread::sleep(Duration::from_secs(16));
    agent.run_once()?;
    assert_ne!(chain()?, first, "nothing was renewed");
    assert_eq!(audited(&line, "agent.renew")?.len(), 1);
    // Ended, unlike the one after it.
    thread::sleep(Duration::from_secs(31));
    let second = chain()?;
    agent.run_once()?;
    assert_ne!(chain()?, second);
    Ok(())
}

/// Copies a folder with all that is in it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[test]
fn a_hub_set_back_behind_a_renewal_lets_the_agent_in_and_it_renews_again() -> Result<()> {
    let mut line = short_lived(60)?;
    let agent = line.agent("agent")?;
    let chain = || fs::read_to_string(agent.state_dir().join("identity/agent.pem"));
    let (enrolled, backup) = (chain()?, line.folder().join("backup"));
    line.hub.stop()?;
    copy_folder(&line.hub.data_dir(), &backup)?;
    line.hub.serve()?;
    thread::sleep(Duration::from_secs(32));
    agent.run_once()?;
    let lost = chain()?;
    assert_ne!(lost, enrolled, "nothing was renewed");
    line.hub.stop()?;
    fs::rename(line.hub.data_dir(), line.folder().join("lost"))?;
    fs::rename(&backup, line.hub.data_dir())?;
    line.hub.serve()?;
    agent.run_once()?;
    let log = fs::read_to_string(agent.log())?;
    assert!(log.contains("the one from before it is tried"), "{log}");
    assert_ne!(chain()?, lost, "it still shows what the hub lost");
    // The hub knows the new one and no other.
    agent.run_once()?;
    assert_eq!(audited(&line, "agent.renew")?.len(), 1);
    Ok(())
}

#[test]
fn an_agent_that_is_killed_at_any_point_of_its_renewals_still_gets_in() -> Result<()> {
    let line = short_lived(12)?;
    let agent = line.agent("agent")?;
    let first = text(&shown(&line)?, "/certificate/serial");
    for round in 0..12u64 {
        let running = agent.run()?;
        wait_state(&line, "online")?;
        // Renewals come some five seconds after a certificate was made.
        thread::sleep(Duration::from_millis(300 + 457 * round % 4000));
        running.kill()?;
    }
    agent.run_once()?;
    let last = text(&shown(&line)?, "/certificate/serial");
    assert_ne!(first, last, "nothing was renewed");
    Ok(())
}

#[test]
fn a_revoked_agents_session_ends_at_once_and_the_agent_stops() -> Result<()> {
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    let mut running = agent.run()?;
    let id = text(&wait_state(&line, "online")?, "/id");
    line.client
        .json(&["agent", "revoke", &id, "--reason", "the host was sold"])?;
    let begun = Instant::now();
    let log = ended(&mut running, &agent.log())?;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let hub_log = fs::read_to_string(line.hub.log())?;
    assert!(hub_log.contains("code=revoked"), "{hub_log}");
    assert!(log.contains("this agent was revoked"), "{log}");
    assert_eq!(text(&shown(&line)?, "/state"), "revoked");

    let entries = audited(&line, "agent.revoke")?;
    assert_eq!(entries.len(), 1);
    assert!(entries[0].to_string().contains("the host was sold"));
    // For good, and said so.
    let again = agent.output(&["run", "--once"], "")?;
    assert_eq!(again.status.code(), FORBIDDEN, "{again:?}");
    let resumed = line.client.output(&["agent", "resume", &id], "")?;
    assert!(!resumed.status.success());
    let said = String::from_utf8_lossy(&resumed.stderr);
    assert!(said.contains("enrol"), "{said}");
    Ok(())
}

#[test]
fn a_suspended_agent_is_sent_away_and_comes_back_when_it_is_resumed() -> Result<()> {
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    let running = agent.run()?;
    let id = text(&wait_state(&line, "online")?, "/id");
    line.client.json(&["agent", "suspend", &id])?;
    wait_state(&line, "suspended")?;
    let told = wait_until("the agent is told", PATIENCE, || {
        let log = fs::read_to_string(agent.log())?;
        Ok(log.contains("suspended").then_some(log))
    })?;
    assert!(!told.contains("revoked"), "{told}");
    thread::sleep(Duration::from_secs(1));
    line.client.json(&["agent", "resume", &id])?;
    wait_state(&line, "online")?;
    let acts = [
        audited(&line, "agent.suspend")?,
        audited(&line, "agent.resume")?,
    ];
    assert_eq!(acts.map(|rows| rows.len()), [1, 1]);
    running.stop(PATIENCE)?;
    Ok(())
}

/// Copies an agent's state, but for what belongs to its running process.
fn copied(agent: &Agent, line: &Line) -> Result<Agent> {
    let copy = line.unenrolled("copy")?;
    for folder in ["identity"] {
        let (from, to) = (
            agent.state_dir().join(folder),
            copy.state_dir().join(folder),
        );
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name())).context("could not copy")?;
        }
    }
    Ok(copy)
}

#[test]
fn a_copied_identity_is_quarantined_and_an_operator_decides() -> Result<()> {
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    // Restarts, with the hub believing the old session alive, are no copy.
    for _ in 0..4 {
        let running = agent.run()?;
        wait_state(&line, "online")?;
        running.kill()?;
    }
    let running = agent.run()?;
    let id = text(&wait_state(&line, "online")?, "/id");
    let copy = copied(&agent, &line)?;
    let thief = copy.run()?;
    wait_state(&line, "quarantined")?;
    assert_eq!(audited(&line, "agent.quarantine")?.len(), 1);
    let overview = line.client.json(&["api", "GET", "/api/v1/overview"])?;
    let attention = overview["attention"].to_string();
    assert!(attention.contains("cloned identity"), "{attention}");
    thief.kill()?;
    line.client.json(&["agent", "resume", &id])?;
    wait_state(&line, "online")?;
    running.stop(PATIENCE)?;
    Ok(())
}
