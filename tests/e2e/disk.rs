//! A disk that is full, or out of order: words that say so, nothing damaged, and the agent goes on by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use line::agent::Agent;
use line::process::{self, Process};
use serde_json::Value;
use tests::{Line, alerts, wait_until};

/// How long the agent may take to go on by itself once it can.
const RECOVERY: Duration = Duration::from_secs(60);

/// A file system of a few megabytes, as long as this lives.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, which takes root and the right to mount.
    pub(crate) fn mount(at: &Path, bytes: u64) -> Option<Self> {
        let mut command = Command::new("mount");
        command
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={bytes},mode=0700"),
                "tmpfs",
            ])
            .arg(at);
        let done = process::output(command, "", Duration::from_secs(10)).ok()?;
        done.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.0);
        // Nothing more can be done about one that stays.
        let _left = process::output(command, "", Duration::from_secs(10));
    }
}

fn status(agent: &Agent) -> Result<Value> {
    let told = process::success(
        agent.output(&["status", "-o", "json"], "")?,
        "zero-x-agent status",
    )?;
    Ok(serde_json::from_str(&told)?)
}

pub(crate) fn stored(line: &Line) -> Result<BTreeMap<usize, usize>> {
    let mut counts = BTreeMap::new();
    for row in line.client.rows(&["event", "list"])? {
        let mut numbers = alerts::numbers(&row.to_string());
        numbers.dedup();
        for number in numbers {
            *counts.entry(number).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Appends alerts that hardly compress.
pub(crate) fn append_noise(file: &Path, numbers: std::ops::Range<usize>) -> Result<()> {
    let noisy = numbers.map(|number| {
        let mut alert = alerts::alert(number);
        let noise: Result<Vec<String>> = (0..60).map(|_| line::hub::random_hex(32)).collect();
        alert["data"]["noise"] = noise.unwrap_or_default().join("").into();
        alert
    });
    alerts::append(file, noisy)
}

#[test]
fn a_full_disk_makes_sources_wait_with_clear_words_and_all_arrives_when_there_is_space()
-> Result<()> {
    const ALL: usize = 2_000;
    let mut line = Line::start()?;
    let agent = line.unenrolled("agent")?;
    let Some(_disk) = SmallDisk::mount(&agent.state_dir(), 6 << 20) else {
        println!("skipped: a_full_disk: mounting is not permitted here");
        return Ok(());
    };
    process::success(agent.enroll(&line.token()?)?, "zero-x-agent enroll")?;
    let file = line.folder().join("alerts.json");
    append_noise(&file, 0..ALL)?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    line.hub.stop()?;
    let filler = agent.state_dir().join("filler");
    fs::write(&filler, vec![0; 3 << 20])?;
    let mut command = agent.command();
    command
        .args(["run"])
        .env("ZERO_X_SPOOL_KEEP_FREE_BYTES", "200000");
    let daemon = Process::start("the agent", command, &agent.log())?;
    let full = wait_until("the disk is full", Duration::from_secs(120), || {
        // The socket comes a moment after the process.
        let now = status(&agent).unwrap_or_default();
        let wait = &now["spool"]["waiting"][0];
        Ok((wait["wants"] == "disk").then_some(now))
    })?;
    let spool = &full["spool"];
    assert_eq!(spool["state"], "short", "{spool}");
    assert_eq!(spool["waiting"][0]["source"], "manager", "{spool}");
    assert!(spool["lanes"][0]["items"].as_u64() > Some(100), "{spool}");
    let doctor = agent.output(&["doctor", "-o", "json"], "")?;
    assert_eq!(doctor.status.code(), Some(1));
    let told = String::from_utf8(doctor.stdout)?;
    assert!(told.contains("free some space on the disk"), "{told}");
    let log = fs::read_to_string(agent.log())?;
    assert!(
        log.contains("the disk has no more free space than spool.keep_free_bytes"),
        "{log}"
    );

    fs::remove_file(&filler)?;
    let begun = Instant::now();
    line.hub.serve()?;
    wait_until("the source goes on", RECOVERY, || {
        let now = status(&agent)?;
        Ok((now["spool"]["state"] == "good").then_some(()))
    })?;
    assert!(begun.elapsed() < RECOVERY);
    let wanted: BTreeMap<usize, usize> = (0..ALL).map(|number| (number, 1)).collect();
    wait_until("every event is stored", Duration::from_secs(120), || {
        Ok((stored(&line)?.len() >= ALL).then_some(()))
    })?;
    assert_eq!(stored(&line)?, wanted);
    let after = status(&agent)?;
    assert_eq!(after["spool"]["losses"]["items"], 0);
    assert_eq!(after["spool"]["moved_aside"], serde_json::json!([]));
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}

/// Runs the agent with faults put into its system calls, until the spool has met them and works
/// again; everything then arrives once.
fn check_fault(name: &str, fault: &str) -> Result<()> {
    const ALL: usize = 600;
    let strace = Path::new("/usr/bin/strace");
    if !strace.exists() || !Path::new("/usr/bin/setpriv").exists() {
        println!("skipped: {name}: no strace, or no setpriv");
        return Ok(());
    }
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let mut command = process::command(strace, line.folder());
    command
        .args(["-f", "-qq", "--seccomp-bpf", "-o"])
        .arg(line.folder().join("strace.out"))
        .args(["-e", "trace=fsync,fdatasync,pwrite64"])
        .args(["-e", &format!("inject={fault}")])
        // The agent ends with the program that watches it.
        .args(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"])
        .arg(&line.programs().agent)
        .arg("--state-dir")
        .arg(agent.state_dir())
        .arg("run");
    let mut daemon = Process::start("the agent", command, &agent.log())?;
    let mut written = 0;
    // In many pieces: each is a commit of its own, some of them fail.
    while written < ALL {
        alerts::append(&file, (written..written + 20).map(alerts::alert))?;
        written += 20;
        std::thread::sleep(Duration::from_millis(150));
    }
    let log = || fs::read_to_string(agent.log()).context("the agent's log");
    wait_until("the fault is met", Duration::from_secs(60), || {
        Ok(log()?
            .contains("the spool cannot be used; sources wait")
            .then_some(()))
    })?;
    wait_until("the spool works again", RECOVERY, || {
        Ok(log()?
            .contains("the spool can be written again")
            .then_some(()))
    })?;
    let wanted: BTreeMap<usize, usize> = (0..ALL).map(|number| (number, 1)).collect();
    wait_until("every event is stored", Duration::from_secs(120), || {
        Ok((stored(&line)?.len() >= ALL).then_some(()))
    })?;
    let told = status(&agent)?;
    assert_eq!(told["spool"]["losses"]["items"], 0);
    assert_eq!(told["spool"]["moved_aside"], serde_json::json!([]));
    // The agent itself, not the program that watches it.
    let pid = told["pid"].to_string();
    Command::new("sh")
        .args(["-c", "kill -TERM \"$1\"", "sh", &pid])
        .status()?;
    daemon.wait_exit(Duration::from_secs(60))?;
    assert_eq!(stored(&line)?, wanted);
    Ok(())
}

#[test]
fn a_sync_that_fails_loses_and_doubles_nothing() -> Result<()> {
    check_fault("a_sync_that_fails", "fsync,fdatasync:error=EIO:when=12..14")
}

#[test]
fn a_write_without_space_loses_and_doubles_nothing() -> Result<()> {
    check_fault("a_write_without_space", "pwrite64:error=ENOSPC:when=40..46")
}

#[test]
fn a_spool_that_cannot_be_used_is_moved_aside_and_told_and_a_newer_one_is_left_alone() -> Result<()>
{
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, (0..10).map(alerts::alert))?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let there = |number: usize| {
        wait_until("the events are stored", Duration::from_secs(60), || {
            Ok((stored(&line)?.len() == number).then_some(()))
        })
    };
    let daemon = agent.run()?;
    there(10)?;
    daemon.stop(Duration::from_secs(30))?;
    let spool = agent.state_dir().join("spool/spool.redb");
    let whole = fs::read(&spool)?;
    fs::write(&spool, &whole[..whole.len() / 2])?;

    let daemon = agent.run()?;
    alerts::append(&file, (10..20).map(alerts::alert))?;
    there(20)?;
    let told = status(&agent)?;
    let aside = &told["spool"]["moved_aside"][0];
    let name = aside["file"].as_str().unwrap_or_default();
    assert!(name.contains("/spool/spool.damaged-2"), "{aside}");
    assert!(aside["reason"].is_string(), "{aside}");
    let doctor = String::from_utf8(agent.output(&["doctor", "-o", "json"], "")?.stdout)?;
    assert!(doctor.contains("was moved to"), "{doctor}");
    let held = wait_until("the hub is told", Duration::from_secs(60), || {
        let rows = line.client.rows(&["quarantine", "list"])?;
        Ok((!rows.is_empty()).then_some(rows))
    })?;
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(held[0].to_string().contains("was moved aside"), "{held:?}");
    daemon.stop(Duration::from_secs(30))?;

    // As a program with a later redb would leave it.
    let mut newer = fs::read(&spool)?;
    (newer[64], newer[192]) = (4, 4);
    fs::write(&spool, &newer)?;
    let mut daemon = agent.run()?;
    let ended = daemon.wait_exit(Duration::from_secs(30))?;
    assert_eq!(ended.code(), Some(65));
    let log = daemon.log_tail();
    let both = "has redb's format 4; this program knows format 1 and redb's format 3";
    assert!(log.contains(both), "{log}");
    assert!(fs::read(&spool)? == newer, "left alone");
    Ok(())
}
