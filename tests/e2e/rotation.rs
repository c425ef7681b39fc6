//! The hub's certificate authority is replaced under agents that run, agents that are stopped, and a
//! hub that is killed in between.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use line::agent::Agent;
use line::client::Client;
use line::process;
use serde_json::Value;
use tests::{Line, wait_until};

/// Agents renew within a minute of being told.
const PATIENCE: Duration = Duration::from_secs(90);

/// sysexits' EX_NOPERM, which the contract uses for "forbidden".
const FORBIDDEN: Option<i32> = Some(77);

/// Runs `zero-x-hub ca …` and returns its exit status with what it printed on both outputs.
fn ca(line: &Line, args: &[&str]) -> Result<(bool, String, String)> {
    let mut command = line.hub.command("ca");
    command.args(args);
    let done = process::output(command, "", PATIENCE)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        done.status.success(),
        text(&done.stdout),
        text(&done.stderr),
    ))
}

fn done(line: &Line, args: &[&str]) -> Result<Value> {
    let (is_good, out, err) = ca(line, args)?;
    ensure!(is_good, "{err}");
    serde_json::from_str(&out).with_context(|| out.clone())
}

fn status(line: &Line) -> Result<Value> {
    done(line, &["status"])
}

fn refused(line: &Line, args: &[&str]) -> Result<String> {
    let (is_good, out, err) = ca(line, args)?;
    ensure!(!is_good, "{args:?} was not refused: {out}");
    Ok(err)
}

/// How many roots an agent trusts.
fn roots(agent: &Agent) -> Result<usize> {
    let pem = fs::read_to_string(agent.state_dir().join("identity/ca.pem"))?;
    Ok(pem.matches("BEGIN CERTIFICATE").count())
}

fn wait_roots(agent: &Agent, count: usize) -> Result<()> {
    wait_until("the agent learns the roots", PATIENCE, || {
        Ok((roots(agent)? == count).then_some(()))
    })
}

fn wait_behind(line: &Line, count: u64) -> Result<()> {
    wait_until("agents renew", PATIENCE, || {
        Ok((status(line)?["agents_behind"] == count).then_some(()))
    })
}

#[test]
fn a_rotation_keeps_the_agent_that_runs_and_the_one_that_comes_back_and_tells_the_one_shut_out()
-> Result<()> {
    let mut line = Line::start()?;
    let (live, away, lost) = (
        line.agent("live")?,
        line.agent("away")?,
        line.agent("lost")?,
    );
    let token = line.token()?;
    let running = live.run()?;
    let online = |client: &Client| {
        wait_until("the agent is online", PATIENCE, || {
            let rows = client.rows(&["agent", "list"])?;
            Ok(rows
                .iter()
                .any(|row| row["state"] == "online")
                .then_some(()))
        })
    };
    online(&line.client)?;
    let steady = status(&line)?;
    assert_eq!(
        (&steady["stage"], &steady["agents"]),
        (&"steady".into(), &3.into())
    );
    let told = refused(&line, &["rotate", "retire"])?;
    assert!(told.contains("zero-x-hub ca rotate begin"), "{told}");

    let begun = done(&line, &["rotate", "begin"])?;
    assert_eq!(
        (&begun["stage"], &begun["ca_pin"]),
        (&"begun".into(), &steady["ca_pin"])
    );
    wait_roots(&live, 2)?;
    // Whatever becomes of the hub, the step stands; and the next is taken without a hub.
    line.hub.kill()?;
    assert_eq!(status(&line)?["stage"], "begun");
    let issuing = done(&line, &["rotate", "issue"])?;
    assert_eq!(
        (&issuing["stage"], &issuing["agents_behind"]),
        (&"issuing".into(), &3.into())
    );
    assert_ne!(issuing["ca_pin"], steady["ca_pin"]);
    line.hub.serve()?;
    wait_behind(&line, 2)?;

    // The console's pin, and a token, of the old root.
    online(&line.client)?;
    let late = line.unenrolled("late")?;
    process::success(late.enroll(&token)?, "zero-x-agent enroll")?;
    assert_eq!(roots(&late)?, 2);
    let told = refused(&line, &["rotate", "retire"])?;
    assert!(told.contains("2 agents still hold"), "{told}");
    assert!(told.contains("--force 2"), "{told}");
    // One that was stopped since before the first step comes back by itself.
    assert_eq!(roots(&away)?, 1);
    away.run_once()?;
    assert_eq!(roots(&away)?, 2);
    wait_behind(&line, 1)?;
    let told = refused(&line, &["rotate", "retire", "--force", "2"])?;
    assert!(told.contains("1 agent would be shut out, not 2"), "{told}");

    let retired = done(&line, &["rotate", "retire", "--force", "1"])?;
    assert_eq!(
        (&retired["stage"], &retired["agents_shut_out"]),
        (&"steady".into(), &1.into())
    );
    assert!(
        retired["concerned"][0]["not_after"].is_string(),
        "{retired}"
    );
    wait_roots(&live, 1)?;
    away.run_once()?;
    assert_eq!(roots(&away)?, 1);
    // The one that is shut out is told what happened and what to do, by every command that asks.
    let asked = lost.output(&["run", "--once"], "")?;
    assert_eq!(asked.status.code(), FORBIDDEN, "{asked:?}");
    let asked_doctor = lost.output(&["doctor"], "")?;
    assert!(!asked_doctor.status.success());
    for said in [&asked.stderr, &asked_doctor.stdout] {
        let said = String::from_utf8_lossy(said);
        assert!(said.contains("has since replaced and retired"), "{said}");
        assert!(said.contains("zero-x-agent enroll --replace"), "{said}");
    }
    // So is the console, and it logs in with the new pin.
    let asked = line.client.output(&["agent", "list"], "")?;
    assert_eq!(asked.status.code(), FORBIDDEN, "the old pin is still good");
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(said.contains("another pin"), "{said}");
    let pin = retired["ca_pin"].as_str().context("no pin")?;
    line.hub.ca_pin = pin.to_owned();
    let console = Client::login(
        &line.programs().client,
        &line.folder().join("again"),
        &line.hub,
    )?;
    online(&console)?;
    let rows = console.rows(&["audit", "list"])?;
    for action in ["ca.begin", "ca.issue", "ca.retire"] {
        let entries = rows.iter().filter(|row| row["action"] == action);
        assert_eq!(entries.count(), 1, "{action}");
    }
    // A new enrolment mends it.
    let token = tests::token(&console, &line.hub.org_id)?;
    let again = lost.output(&["enroll", "--replace", "--token-file", "-"], &token)?;
    process::success(again, "zero-x-agent enroll --replace")?;
    lost.run_once()?;
    let listed = done(&line, &["list"])?;
    let roles = listed.as_array().context("no list")?.iter();
    let roles: Vec<&str> = roles.filter_map(|row| row["role"].as_str()).collect();
    assert_eq!(roles, ["signs", "signs", "retired", "shown"]);
    running.stop(Duration::from_secs(30))?;
    Ok(())
}
