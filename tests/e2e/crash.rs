//! An acknowledged record is never lost and never counted twice.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use line::client::Client;
use line::process;
use tests::{Line, alerts, wait_until};

/// How often the hub is killed.
const KILLS: usize = 10;
/// How many alerts are written around each kill, half before and half after.
const PER_KILL: usize = 600;

/// How often each alert is stored.
fn stored(client: &Client) -> Result<BTreeMap<usize, usize>> {
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

#[test]
fn killing_the_hub_ten_times_in_a_burst_loses_no_event_and_stores_none_twice() -> Result<()> {
    let mut line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let mut daemon = agent.run()?;

    let mut written = 0;
    let burst = |written: &mut usize, number: usize| -> Result<()> {
        alerts::append(&file, (*written..*written + number).map(alerts::alert))?;
        *written += number;
        Ok(())
    };
    burst(&mut written, 10)?;
    wait_until("the first events arrive", Duration::from_secs(60), || {
        Ok((stored(&line.client)?.len() == 10).then_some(()))
    })?;
    for _ in 0..KILLS {
        burst(&mut written, PER_KILL / 2)?;
        // No pause: the agent is reading and sending while the hub dies.
        line.hub.kill()?;
        burst(&mut written, PER_KILL / 2)?;
        line.hub.serve()?;
        let before = written;
        // The next kill comes as soon as the agent is back and sending, not after it has sent everything.
        wait_until("the agent sends again", Duration::from_secs(120), || {
            let now = stored(&line.client)?;
            Ok((now.len() + PER_KILL > before).then_some(()))
        })?;
    }
    let wanted: BTreeMap<usize, usize> = (0..written).map(|number| (number, 1)).collect();
    let result = wait_until("every event is stored", Duration::from_secs(120), || {
        let now = stored(&line.client)?;
        Ok((now.len() >= wanted.len()).then_some(now))
    })?;
    let twice: Vec<_> = result.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "stored more than once: {twice:?}");
    assert_eq!(result.len(), wanted.len());
    assert!(
        daemon.wait_exit(Duration::ZERO).is_err(),
        "the agent has ended"
    );

    // A last, orderly restart finds the same in the files.
    daemon.stop(Duration::from_secs(30))?;
    line.hub.stop()?;
    line.hub.serve()?;
    assert_eq!(stored(&line.client)?, wanted);
    Ok(())
}

#[test]
fn killing_the_agent_in_a_burst_loses_no_event_and_stores_none_twice() -> Result<()> {
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let mut written = 0;
    for _ in 0..5 {
        let daemon = agent.run()?;
        let before = stored(&line.client)?.len();
        alerts::append(&file, (written..written + PER_KILL).map(alerts::alert))?;
        written += PER_KILL;
        wait_until("some events arrive", Duration::from_secs(60), || {
            Ok((stored(&line.client)?.len() > before).then_some(()))
        })?;
        daemon.kill()?;
    }
    let daemon = agent.run()?;
    let wanted: BTreeMap<usize, usize> = (0..written).map(|number| (number, 1)).collect();
    wait_until("every event is stored", Duration::from_secs(120), || {
        Ok((stored(&line.client)?.len() >= wanted.len()).then_some(()))
    })?;
    daemon.stop(Duration::from_secs(30))?;
    assert_eq!(stored(&line.client)?, wanted);
    Ok(())
}

/// How often either side is killed in the short form; `ZERO_X_KILLS=1000` makes it the long one.
const EITHER: usize = 50;
/// How many alerts are written in each round of it.
const PER_ROUND: usize = 60;

/// A run of numbers that a seed decides (xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Reads a number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn killing_either_side_at_random_moments_loses_nothing_doubles_nothing_and_leaves_all_readable()
-> Result<()> {
    let kills = setting("ZERO_X_KILLS").map_or(EITHER, |kills| usize::try_from(kills).unwrap());
    let seed = setting("ZERO_X_SEED").unwrap_or(0x5eed_2026);
    println!("ZERO_X_SEED={seed} ZERO_X_KILLS={kills}");
    let mut chance = Chance(seed | 1);
    let mut line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let mut daemon = Some(agent.run()?);
    let mut written = 0;
    for _ in 0..kills {
        alerts::append(&file, (written..written + PER_ROUND).map(alerts::alert))?;
        written += PER_ROUND;
        // Somewhere between starting, reading, storing, sending and acknowledging.
        thread::sleep(Duration::from_millis(chance.below(700)));
        if chance.below(3) == 0 {
            line.hub.kill()?;
            line.hub.serve()?;
        } else {
            if let Some(daemon) = daemon.take() {
                daemon.kill()?;
            }
            daemon = Some(agent.run()?);
        }
    }
    let wanted: BTreeMap<usize, usize> = (0..written).map(|number| (number, 1)).collect();
    wait_until("every event is stored", Duration::from_secs(180), || {
        Ok((stored(&line.client)?.len() >= wanted.len()).then_some(()))
    })?;
    let status: serde_json::Value = serde_json::from_str(&process::success(
        agent.output(&["status", "-o", "json"], "")?,
        "zero-x-agent status",
    )?)?;
    if let Some(daemon) = daemon {
        daemon.stop(Duration::from_secs(30))?;
    }
    assert_eq!(stored(&line.client)?, wanted);
    let spool = &status["spool"];
    assert_eq!(spool["losses"]["items"], 0, "{spool}");
    assert_eq!(spool["moved_aside"], serde_json::json!([]), "{spool}");
    assert!(line.client.rows(&["quarantine", "list"])?.is_empty());
    line.hub.stop()?;
    let verify = line.hub.command("verify");
    let verified = process::output(verify, "", Duration::from_secs(120))?;
    process::success(verified, "zero-x-hub verify")?;
    Ok(())
}

#[test]
fn a_hub_set_back_to_its_backup_gets_again_what_it_had_acknowledged() -> Result<()> {
    let mut line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, (0..200).map(alerts::alert))?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let daemon = agent.run()?;
    let all_there = |line: &Line, number: usize| {
        wait_until("every event is stored", Duration::from_secs(120), || {
            Ok((stored(&line.client)?.len() == number).then_some(()))
        })
    };
    all_there(&line, 200)?;
    let (data, backup) = (line.hub.data_dir(), line.folder().join("backup"));
    line.hub.stop()?;
    copy(&data, &backup)?;
    line.hub.serve()?;
    alerts::append(&file, (200..500).map(alerts::alert))?;
    all_there(&line, 500)?;
    // Acknowledged, and not in the backup.
    line.hub.kill()?;
    std::fs::rename(&data, line.folder().join("lost"))?;
    std::fs::rename(&backup, &data)?;
    alerts::append(&file, (500..600).map(alerts::alert))?;
    line.hub.serve()?;
    all_there(&line, 600)?;
    let wanted: BTreeMap<usize, usize> = (0..600).map(|number| (number, 1)).collect();
    assert_eq!(stored(&line.client)?, wanted);
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    process::success(process::output(command, "", Duration::from_secs(60))?, "cp").map(drop)
}

#[test]
fn a_line_that_is_no_json_is_counted_and_the_rest_arrives() -> Result<()> {
    let line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, (0..3).map(alerts::alert))?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let daemon = agent.run()?;
    wait_until("the first events arrive", Duration::from_secs(60), || {
        Ok(stored(&line.client)?.contains_key(&2).then_some(()))
    })?;
    std::fs::OpenOptions::new()
        .append(true)
        .open(&file)?
        .write_all(b"{\"timestamp\": \"2026-01-01\", :oops}\n")?;
    alerts::append(&file, (3..6).map(alerts::alert))?;
    wait_until("the last event arrives", Duration::from_secs(60), || {
        Ok(stored(&line.client)?.contains_key(&5).then_some(()))
    })?;
    daemon.stop(Duration::from_secs(30))?;
    assert!(stored(&line.client)?.values().all(|count| *count == 1));
    let quarantined = line.client.rows(&["quarantine", "list"])?;
    assert!(
        !quarantined.is_empty(),
        "nobody is told of the line that could not be read"
    );
    Ok(())
}
