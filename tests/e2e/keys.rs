//! The hub's keys are replaced under agents that run and a hub that is killed, an organisation is
//! purged, and a hub whose host was stolen gets other keys.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use line::client::Client;
use line::process;
use serde_json::Value;
use tests::{Line, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// sysexits' EX_NOPERM, which the contract uses for "forbidden".
const FORBIDDEN: Option<i32> = Some(77);

/// Runs a command of the hub and returns whether it did it, with what it printed on both outputs.
fn hub(line: &Line, verb: &str, args: &[&str]) -> Result<(bool, String, String)> {
    let mut command = line.hub.command(verb);
    command.args(args);
    let done = process::output(command, "", PATIENCE)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        done.status.success(),
        text(&done.stdout),
        text(&done.stderr),
    ))
}

fn done(line: &Line, verb: &str, args: &[&str]) -> Result<Value> {
    let (is_good, out, err) = hub(line, verb, args)?;
    ensure!(is_good, "{verb} {args:?}: {err}");
    serde_json::from_str(&out).with_context(|| out.clone())
}

fn refused(line: &Line, verb: &str, args: &[&str]) -> Result<String> {
    let (is_good, out, err) = hub(line, verb, args)?;
    ensure!(!is_good, "{verb} {args:?} was not refused: {out}");
    Ok(err)
}

fn key_file(line: &Line) -> PathBuf {
    line.hub.folder().join("master.key")
}

fn online(client: &Client, count: usize) -> Result<()> {
    wait_until("agents are online", PATIENCE, || {
        let rows = client.rows(&["agent", "list"])?;
        let online = rows.iter().filter(|row| row["state"] == "online").count();
        Ok((online == count).then_some(()))
    })
}

/// Waits until every row of everybody is under one data key.
fn resealed(line: &Line) -> Result<Value> {
    wait_until("rows are sealed anew", PATIENCE, || {
        let keys = done(line, "key", &["status"])?;
        let rows = keys.as_array().context("no list")?;
        let is_done = rows.iter().all(|row| row["older_keys"] == 0);
        Ok(is_done.then_some(keys.clone()))
    })
}

fn whole(line: &Line) -> Result<()> {
    let (is_good, _, err) = hub(line, "verify", &[])?;
    ensure!(is_good, "{err}");
    Ok(())
}

#[test]
fn keys_are_rotated_under_agents_that_run_and_a_hub_that_is_killed() -> Result<()> {
    let mut line = Line::start()?;
    let agent = line.agent("live")?;
    let running = agent.run()?;
    online(&line.client, 1)?;
    let org = line.hub.org_id.clone();
    let before = fs::read_to_string(key_file(&line))?;

    let rotated = done(&line, "key", &["rotate"])?;
    assert_eq!(rotated["organisations"], 1);
    assert_ne!(rotated["before"], rotated["master_key"]);
    let after = fs::read_to_string(key_file(&line))?;
    assert_ne!(after, before);
    let names = fs::read_dir(line.hub.folder())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("master.key"));
    assert_eq!(names.collect::<Vec<_>>(), ["master.key"]);
    // Nobody was disturbed, and the next life of the hub begins with the new key.
    online(&line.client, 1)?;
    line.hub.kill()?;
    // The old one opens nothing any more.
    fs::write(key_file(&line), &before)?;
    let told = refused(&line, "key", &["status"])?;
    assert!(told.contains("was sealed under master key"), "{told}");
    fs::write(key_file(&line), &after)?;
    line.hub.serve()?;
    online(&line.client, 1)?;

    // The organisation's data key, by its name, with kills in the middle of it.
    for round in 0..3u64 {
        let rotated = done(&line, "key", &["rotate", "--org", &org])?;
        assert_eq!(rotated["org"], org.as_str());
        done(&line, "key", &["rotate", "--appliance"])?;
        std::thread::sleep(Duration::from_millis(40 * round));
        line.hub.kill()?;
        line.hub.serve()?;
    }
    let keys = resealed(&line)?;
    assert!(keys[1]["data_key"].as_u64() > Some(3), "{keys}");
    online(&line.client, 1)?;
    whole(&line)?;
    let rows = line.client.rows(&["audit", "list"])?;
    for (action, count) in [("key.master", 1), ("key.rotate", 3)] {
        let entries = rows.iter().filter(|row| row["action"] == action);
        assert_eq!(entries.count(), count, "{action}");
    }
    let told = refused(&line, "key", &["rotate", "--org", "nobody"])?;
    assert!(told.contains("there is no such organisation"), "{told}");

    // Without a hub, to the end at once; and the master key where the operator says.
    line.hub.stop()?;
    let rotated = done(&line, "key", &["rotate", "--org", &org])?;
    assert_eq!(rotated["older_keys"], 0);
    assert!(rotated["rows_resealed"].as_u64() > Some(10), "{rotated}");
    let elsewhere = line.hub.folder().join("elsewhere.key");
    let path = elsewhere.to_str().context("no text")?;
    done(&line, "key", &["rotate", "--new-key-file", path])?;
    assert_eq!(fs::read_to_string(key_file(&line))?, after);
    refused(&line, "key", &["status"])?;
    fs::rename(&elsewhere, key_file(&line))?;
    line.hub.serve()?;
    online(&line.client, 1)?;
    whole(&line)?;
    running.stop(Duration::from_secs(30))?;
    Ok(())
}

#[test]
fn a_purged_organisation_is_gone_and_its_agents_are_told() -> Result<()> {
    let mut line = Line::start()?;
    let other = line.organisation("other")?;
    let (kept, gone) = (line.agent("kept")?, line.agent_of(&other, "gone")?);
    let running = kept.run()?;
    let mut lost = gone.run()?;
    online(&line.client, 1)?;
    online(&other.client, 1)?;
    let token = tests::token(&other.client, &other.id)?;
    let file = line.hub.data_dir().join(format!("orgs/{}.redb", other.id));
    assert!(file.exists());
    let before = fs::read_to_string(key_file(&line))?;

    let told = refused(&line, "org", &["purge", "other", "--confirm", "Other"])?;
    assert!(told.contains(r#"name is "other", not "Other""#), "{told}");
    assert!(file.exists());
    let purged = done(&line, "org", &["purge", "OTHER", "--confirm", "other"])?;
    assert_eq!(
        (&purged["org_id"], &purged["agents"], &purged["sessions"]),
        (&other.id.as_str().into(), &1.into(), &1.into())
    );
    assert!(!file.exists());
    assert_ne!(fs::read_to_string(key_file(&line))?, before);
    let ledger = fs::read_to_string(line.hub.folder().join("master.key.deletions"))?;
    assert!(ledger.contains(&other.id), "{ledger}");
    // Its agent ends as a revoked one does, and its token and its people's roles are worth nothing.
    assert_eq!(lost.wait_exit(PATIENCE)?.code(), FORBIDDEN);
    let late = line.unenrolled("late")?;
    assert!(!late.enroll(&token)?.status.success());
    let asked = other.client.output(&["agent", "list"], "")?;
    assert!(!asked.status.success(), "{asked:?}");
    let orgs = line.client.rows(&["org", "list"])?;
    assert!(orgs.iter().all(|org| org["id"] != other.id.as_str()));
    // The other goes on, in this life of the hub and in the next.
    online(&line.client, 1)?;
    line.hub.kill()?;
    line.hub.serve()?;
    online(&line.client, 1)?;
    whole(&line)?;
    let told = refused(&line, "org", &["purge", "other", "--confirm", "other"])?;
    assert!(told.contains("there is no such organisation"), "{told}");
    // Its name is free.
    line.client.json(&["org", "create", "other"])?;
    running.stop(Duration::from_secs(30))?;
    Ok(())
}

#[test]
fn a_hub_whose_host_was_stolen_gets_other_keys_and_its_agents_follow() -> Result<()> {
    let mut line = Line::start()?;
    let agents = [line.agent("one")?, line.agent("two")?];
    let mut running = Vec::new();
    for agent in &agents {
        running.push(agent.run()?);
    }
    online(&line.client, 2)?;
    let token = line.token()?;
    let told = refused(&line, "rekey", &[])?;
    assert!(told.contains("the hub runs"), "{told}");
    line.hub.stop()?;
    let before = fs::read_to_string(key_file(&line))?;
    let rekeyed = done(&line, "rekey", &[])?;
    assert_ne!(fs::read_to_string(key_file(&line))?, before);
    assert_eq!(
        (
            &rekeyed["data_keys"],
            &rekeyed["people_signed_out"],
            &rekeyed["agents"],
            &rekeyed["agents_behind"]
        ),
        (&2.into(), &1.into(), &2.into(), &2.into())
    );
    assert!(rekeyed["tokens_void"].as_u64() >= Some(1), "{rekeyed}");
    assert_ne!(rekeyed["ca_pin"], line.hub.ca_pin.as_str());
    line.hub.serve()?;
    // Sessions and tokens of before are worth nothing.
    let asked = line.client.output(&["agent", "list"], "")?;
    assert!(!asked.status.success(), "{asked:?}");
    let late = line.unenrolled("late")?;
    assert!(!late.enroll(&token)?.status.success());
    // Agents come back by themselves and renew, and rows get their new keys.
    wait_until("agents renew", PATIENCE, || {
        Ok((done(&line, "ca", &["status"])?["agents_behind"] == 0).then_some(()))
    })?;
    resealed(&line)?;
    let retired = done(&line, "ca", &["rotate", "retire"])?;
    assert_eq!(retired["agents_shut_out"], 0);
    let pin = retired["ca_pin"].as_str().context("no pin")?;
    line.hub.ca_pin = pin.to_owned();
    let console = Client::login(
        &line.programs().client,
        &line.folder().join("again"),
        &line.hub,
    )?;
    online(&console, 2)?;
    whole(&line)?;
    for agent in running {
        agent.stop(Duration::from_secs(30))?;
    }
    Ok(())
}
