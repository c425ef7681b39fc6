//! The air gap: what is carried in files ends as what is sent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};
use line::agent::Agent;
use line::client::Client;
use line::hub::Hub;
use line::process;
use serde_json::Value;
use tests::{Line, alerts};

use crate::sync::settled;

/// A debug build on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a `bundle` verb of the hub's program.
fn at_hub(hub: &Hub, args: &[&str]) -> Result<Output> {
    let mut command = hub.command("bundle");
    command.args(args);
    process::output(command, "", PATIENCE)
}

fn import(hub: &Hub, file: &Path) -> Result<Value> {
    let done = at_hub(hub, &["import", &file.display().to_string()])?;
    let said = process::success(done, "zero-x-hub bundle import")?;
    serde_json::from_str(&said).context("the report is no JSON")
}

/// Imports what is to be refused; returns what was said.
fn refused(hub: &Hub, file: &Path, code: i32) -> Result<String> {
    let done = at_hub(hub, &["import", &file.display().to_string()])?;
    assert_eq!(done.status.code(), Some(code), "{done:?}");
    Ok(String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Syncs and exports; returns the file and what was said.
fn export(agent: &Agent, folder: &Path, name: &str, more: &[&str]) -> Result<(PathBuf, Value)> {
    let file = folder.join(name);
    let mut command = agent.command();
    command
        .args(["bundle", "export", "--sync"])
        .arg(&file)
        .args(more);
    let done = process::output(command, "", PATIENCE)?;
    let said = process::success(done, "zero-x-agent bundle export")?;
    Ok((file, serde_json::from_str(&said)?))
}

/// The same on every machine and at every time: what does not depend on who brought it and when.
fn end_state(client: &Client) -> Result<BTreeSet<String>> {
    let pick = |row: &Value, fields: &[&str]| -> String {
        let values = fields
            .iter()
            .map(|field| row.pointer(field).unwrap_or(&Value::Null));
        values
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut state = BTreeSet::new();
    for row in settled(client)? {
        state.insert(pick(&row, &["/check_id", "/resource_urn", "/verdict"]));
    }
    for row in client.rows(&["resource", "list"])? {
        state.insert(pick(
            &row,
            &["/urn", "/type", "/name", "/account", "/region"],
        ));
    }
    for row in client.rows(&["finding", "list"])? {
        let fields = [
            "/check_id",
            "/resource/urn",
            "/status",
            "/verdict",
            "/severity",
        ];
        state.insert(pick(&row, &fields));
    }
    for row in client.rows(&["event", "list"])? {
        let fields = ["/time", "/actor", "/action", "/src_ip", "/severity", "/raw"];
        state.insert(pick(&row, &fields));
    }
    Ok(state)
}

/// An alert that hardly compresses, some 60 KB: volumes of the smallest size fill.
fn bulky(number: usize) -> Value {
    let mut alert = alerts::alert(number);
    let mut state = number as u64 + 1;
    let mut text = format!("sshd: {}", alerts::mark(number));
    while text.len() < 60_000 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.push_str(&format!(" {}", state >> 32));
    }
    alert["full_log"] = Value::from(text);
    alert
}

#[test]
fn what_is_carried_ends_as_what_is_sent() -> Result<()> {
    let line = Line::start()?;
    let account = line.account()?;
    let away = line.organisation("away")?;
    let (sent, carried) = (line.agent("sent")?, line.agent_of(&away, "carried")?);
    let alerts_file = line.folder().join("alerts.json");
    alerts::append(&alerts_file, (0..180).map(bulky))?;
    let endpoint = format!("endpoint={}", account.endpoint());
    let path = format!("path={}", alerts_file.display());
    for agent in [&sent, &carried] {
        agent.source_add("aws", "shop", &[&endpoint])?;
        agent.source_add("wazuh", "manager", &[&path])?;
    }
    let stick = line.folder().join("stick");
    fs::create_dir_all(&stick)?;

    sent.run_once()?;
    let small = ["--volume-size", "4M"];
    let (first, said) = export(&carried, &stick, "one", &small)?;
    let volumes = said["files"].as_array().unwrap().len();
    assert!(volumes > 1, "one volume only: {said}");
    // Whole, as far as one can tell without the hub's key; and not when a byte of it changes.
    let done = carried.output(&["bundle", "verify", &first.display().to_string()], "")?;
    process::success(done, "zero-x-agent bundle verify")?;
    let second_volume = stick.join("one.2");
    let aside = fs::read(&second_volume)?;
    let mut changed = aside.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(&second_volume, &changed)?;
    let done = carried.output(&["bundle", "verify", &first.display().to_string()], "")?;
    assert_eq!(done.status.code(), Some(65), "{done:?}");
    assert!(refused(&line.hub, &first, 65)?.contains("one.2 is not taken"));
    fs::remove_file(&second_volume)?;
    assert!(refused(&line.hub, &first, 1)?.contains("volume 2 of"));
    fs::write(&second_volume, &aside)?;
    assert!(away.client.rows(&["event", "list"])?.is_empty());

    let report = import(&line.hub, &first)?;
    assert_eq!(report["outcome"], "taken", "{report}");
    assert_eq!(report["volumes"], volumes, "{report}");
    assert_eq!(import(&line.hub, &first)?["outcome"], "repeat");

    // Only what is new, so that a lost one leaves a hole.
    account.delete_bucket("demo-shop-uploads")?;
    alerts::append(&alerts_file, (180..200).map(alerts::alert))?;
    let new = ["--since", "exported"];
    let (second, _) = export(&carried, &stick, "two", &new)?;
    alerts::append(&alerts_file, (200..220).map(alerts::alert))?;
    let (third, _) = export(&carried, &stick, "three", &new)?;
    let told = refused(&line.hub, &third, 1)?;
    assert!(told.contains("bundle 2 never came, and bundle 3"), "{told}");
    import(&line.hub, &second)?;
    let report = import(&line.hub, &third)?;
    assert_eq!(report["missing"], Value::Array(vec![]), "{report}");

    // The reply lets the agent forget what the hub has.
    let reply = stick.join("reply");
    let done = at_hub(&line.hub, &["reply", &reply.display().to_string()])?;
    process::success(done, "zero-x-hub bundle reply")?;
    let done = sent.output(&["bundle", "import", &reply.display().to_string()], "")?;
    assert_eq!(
        done.status.code(),
        Some(77),
        "it is for the other agent: {done:?}"
    );
    let done = carried.output(&["bundle", "import", &reply.display().to_string()], "")?;
    let said = process::success(done, "zero-x-agent bundle import")?;
    let taken: Value = serde_json::from_str(&said)?;
    assert_eq!(taken["bundle"], 3, "{taken}");
    assert!(taken["released_bytes"].as_u64() > Some(1 << 20), "{taken}");
    let (fourth, said) = export(&carried, &stick, "four", &[])?;
    assert!(
        said["bytes"].as_u64() < Some(1 << 20),
        "all of it once more: {said}"
    );
    import(&line.hub, &fourth)?;

    sent.run_once()?;
    let (sent, carried) = (end_state(&line.client)?, end_state(&away.client)?);
    assert!(sent.len() > 300, "only {} lines to compare", sent.len());
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
        let differ = one.difference(other);
        differ
            .take(5)
            .map(|line| line.chars().take(300).collect())
            .collect()
    };
    assert!(
        sent == carried,
        "only sent: {:#?}\nonly carried: {:#?}",
        only(&sent, &carried),
        only(&carried, &sent)
    );
    let agents = away.client.rows(&["agent", "list"])?;
    assert_eq!(agents[0]["transport"], "bundle", "{agents:?}");
    Ok(())
}

#[test]
fn an_agent_enrols_and_sends_without_ever_reaching_the_hub() -> Result<()> {
    let line = Line::start()?;
    let agent = line.unenrolled("agent")?;
    let token = line.token()?;
    let (request, reply) = (line.folder().join("request"), line.folder().join("reply"));
    let (request_text, reply_text) = (request.display().to_string(), reply.display().to_string());
    let args = ["enroll", "--token-file", "-", "--bundle", &request_text];
    process::success(agent.output(&args, &token)?, "zero-x-agent enroll --bundle")?;
    assert!(!agent.state_dir().join("identity/agent.pem").exists());
    // It holds no secret of the token.
    let bytes = fs::read(&request)?;
    assert!(!String::from_utf8_lossy(&bytes).contains("zxt1_"));
    let other = Line::start()?;
    assert!(refused(&other.hub, &request, 65)?.contains("another hub"));
    let mut changed = bytes.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let forged = line.folder().join("forged");
    fs::write(&forged, &changed)?;
    assert!(refused(&line.hub, &forged, 77)?.contains("not signed by the token's key"));

    let report = import(&line.hub, &request)?;
    assert_eq!(report["outcome"], "enrolled", "{report}");
    let again = import(&line.hub, &request)?;
    assert_eq!(
        (&again["outcome"], &again["agent"]),
        (&Value::from("repeat"), &report["agent"])
    );
    let done = at_hub(&line.hub, &["reply", &reply_text])?;
    process::success(done, "zero-x-hub bundle reply")?;
    let stranger = line.unenrolled("stranger")?;
    let done = stranger.output(&["bundle", "import", &reply_text], "")?;
    assert_eq!(done.status.code(), Some(77), "{done:?}");
    let done = agent.output(&["bundle", "import", &reply_text], "")?;
    process::success(done, "zero-x-agent bundle import")?;
    assert!(agent.state_dir().join("identity/agent.pem").exists());
    assert!(!agent.state_dir().join("enrolling.json").exists());

    let alerts_file = line.folder().join("alerts.json");
    alerts::append(&alerts_file, (0..10).map(alerts::alert))?;
    agent.source_add(
        "wazuh",
        "manager",
        &[&format!("path={}", alerts_file.display())],
    )?;
    let (file, _) = export(&agent, line.folder(), "one", &[])?;
    assert_eq!(import(&line.hub, &file)?["outcome"], "taken");
    assert_eq!(line.client.rows(&["event", "list"])?.len(), 10);
    Ok(())
}

#[test]
fn a_certificate_is_renewed_by_files_alone() -> Result<()> {
    let line = Line::start_with(&[("ZERO_X_CA_AGENT_LEAF", "40s")])?;
    let agent = line.agent("agent")?;
    let chain = || fs::read_to_string(agent.state_dir().join("identity/agent.pem"));
    let carry = |name: &str| -> Result<Value> {
        let (file, _) = export(&agent, line.folder(), name, &[])?;
        assert_eq!(import(&line.hub, &file)?["outcome"], "taken");
        let reply = line.folder().join(format!("{name}.reply"));
        let reply = reply.display().to_string();
        process::success(at_hub(&line.hub, &["reply", &reply])?, "bundle reply")?;
        let done = agent.output(&["bundle", "import", &reply], "")?;
        Ok(serde_json::from_str(&process::success(
            done,
            "bundle import",
        )?)?)
    };
    let first = chain()?;
    assert_eq!(carry("one")?["certificate"], Value::Null);
    assert_eq!(chain()?, first);
    std::thread::sleep(Duration::from_secs(21));
    let taken = carry("two")?;
    assert!(taken["certificate"].is_string(), "{taken}");
    let second = chain()?;
    assert_ne!(second, first);
    // The old one ends, and the new one is known.
    let taken = carry("three")?;
    assert_eq!(taken["certificate"], Value::Null, "{taken}");
    agent.run_once()
}

/// What the running daemon says of itself.
fn told(agent: &Agent) -> Result<Value> {
    let said = process::success(agent.output(&["status"], "")?, "zero-x-agent status")?;
    Ok(serde_json::from_str(&said)?)
}

fn wait_link(agent: &Agent, state: &str) -> Result<Value> {
    tests::wait_until(state, Duration::from_secs(60), || {
        // It may just be starting.
        let status = told(agent).ok();
        Ok(status.filter(|status| status["link"]["state"] == state))
    })
}

#[test]
fn a_daemon_without_a_link_lends_its_spool_and_one_with_a_link_does_not() -> Result<()> {
    let mut line = Line::start()?;
    let agent = line.agent("agent")?;
    let alerts_file = line.folder().join("alerts.json");
    alerts::append(&alerts_file, (0..10).map(alerts::alert))?;
    let path = format!("path={}", alerts_file.display());
    agent.source_add("wazuh", "manager", &[&path])?;
    line.hub.stop()?;
    let running = agent.run()?;
    tests::wait_until(
        "the alerts are in the spool",
        Duration::from_secs(60),
        || {
            let status = told(&agent).ok();
            let waits = status.and_then(|status| status["spool"]["bytes"].as_u64());
            Ok(waits.filter(|bytes| *bytes > 0))
        },
    )?;
    let begun = wait_link(&agent, "offline")?;
    let file = line.folder().join("one");
    let args = ["bundle", "export", &file.display().to_string()];
    process::success(agent.output(&args, "")?, "zero-x-agent bundle export")?;
    let again = wait_link(&agent, "offline")?;
    assert_eq!(again["pid"], begun["pid"], "the daemon went on");
    assert_ne!(again["started_at"], begun["started_at"], "it began anew");

    // What happens while a command has it, and when that is killed.
    let socket = agent.state_dir().join("status.sock");
    let mut loan = std::os::unix::net::UnixStream::connect(&socket)?;
    std::io::Write::write_all(&mut loan, b"lend\n")?;
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(&loan), &mut answer)?;
    assert_eq!(answer.trim(), "\"lent\"");
    assert_eq!(told(&agent)?["link"]["state"], "lent");
    let mut second = std::os::unix::net::UnixStream::connect(&socket)?;
    std::io::Write::write_all(&mut second, b"lend\n")?;
    answer.clear();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(&second), &mut answer)?;
    assert_eq!(answer.trim(), "\"taken\"");
    drop(loan);
    wait_link(&agent, "offline")?;

    import(&line.hub, &file)?;
    let reply = line.folder().join("reply").display().to_string();
    process::success(at_hub(&line.hub, &["reply", &reply])?, "bundle reply")?;
    let done = agent.output(&["bundle", "import", &reply], "")?;
    let taken = process::success(done, "zero-x-agent bundle import")?;
    let taken: Value = serde_json::from_str(&taken)?;
    assert!(taken["released_bytes"].as_u64() > Some(0), "{taken}");

    line.hub.serve()?;
    wait_link(&agent, "online")?;
    let file = line.folder().join("two").display().to_string();
    for args in [["bundle", "export", &file], ["bundle", "import", &reply]] {
        let done = agent.output(&args, "")?;
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains("has a link to its hub"), "{said}");
    }
    running.stop(Duration::from_secs(60))?;
    assert_eq!(line.client.rows(&["event", "list"])?.len(), 10);
    Ok(())
}

#[test]
fn a_diode_that_lost_a_bundle_is_told_so_and_goes_on_when_the_gap_is_accepted() -> Result<()> {
    let mut line = Line::start()?;
    let agent = line.agent("agent")?;
    let alerts_file = line.folder().join("alerts.json");
    alerts::append(&alerts_file, std::iter::empty())?;
    agent.source_add(
        "wazuh",
        "manager",
        &[&format!("path={}", alerts_file.display())],
    )?;
    let mut files = Vec::new();
    for number in 0..3 {
        alerts::append(
            &alerts_file,
            (number * 10..number * 10 + 10).map(alerts::alert),
        )?;
        let name = format!("bundle-{number}");
        let (file, said) = export(&agent, line.folder(), &name, &["--diode"])?;
        assert_eq!(said["released"], true, "{said}");
        files.push(file);
    }
    // A bundle is never written over.
    let done = agent.output(&["bundle", "export", &files[0].display().to_string()], "")?;
    assert_eq!(done.status.code(), Some(64), "{done:?}");

    // Without a running hub the command opens the store itself.
    line.hub.stop()?;
    import(&line.hub, &files[0])?;
    line.hub.serve()?;
    let told = refused(&line.hub, &files[2], 1)?;
    assert!(told.contains("bundle 2 never came, and bundle 3"), "{told}");
    assert!(told.contains("--accept-gap"), "{told}");
    let done = at_hub(
        &line.hub,
        &["import", "--accept-gap", &files[2].display().to_string()],
    )?;
    process::success(done, "zero-x-hub bundle import --accept-gap")?;
    let events = line.client.rows(&["event", "list"])?;
    let stored: BTreeSet<usize> = events
        .iter()
        .flat_map(|row| alerts::numbers(&row.to_string()))
        .collect();
    let want: BTreeSet<usize> = (0..10).chain(20..30).collect();
    assert_eq!(stored, want);
    let losses = line.client.rows(&["loss", "list"])?;
    let told = serde_json::to_string(&losses)?;
    assert!(told.contains("bundle"), "{told}");
    Ok(())
}
