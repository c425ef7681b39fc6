//! Durable events a second, and what each side spends on a million of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use line::agent::{Agent, Credentials};
use line::client::Client;
use line::hub::Hub;
use line::process::{self, Process};
use line::programs::Programs;
use line::usage::{memory_mib, times, times_by_thread};

/// Bytes of an event, as its source writes it, with its line end.
pub(crate) const EVENT_BYTES: usize = 300;

/// No run takes that long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(1800);

/// How often the agent's threads are looked at: what a thread used after the last look is not named.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An event as a Wazuh manager writes it, of exactly [`EVENT_BYTES`] with its line end.
fn event(number: u32) -> String {
    let head = format!(
        r#"{{"timestamp":"2026-01-01T00:00:00.000+0000","rule":{{"level":5,"description":"sshd: authentication failed","id":"5760"}},"agent":{{"id":"001","name":"web-{}"}},"id":"1767225600.{number}","full_log":"sshd[{}]: Failed password for root from 203.0.113.{} port {} "#,
        number % 50,
        number % 30_000,
        number % 250,
        1024 + number % 60_000,
    );
    let rest = EVENT_BYTES.saturating_sub(head.len() + 3);
    let filling = "abcdefghijklmnopqrstuvwxyz0123456789".repeat(8);
    let filling = filling.get(..rest).unwrap_or_default();
    format!("{head}{filling}\"}}\n")
}

/// Writes so many events.
pub(crate) fn write_events(file: &Path, count: u32) -> Result<()> {
    let mut file = BufWriter::new(File::create(file)?);
    for number in 0..count {
        file.write_all(event(number).as_bytes())?;
    }
    Ok(file.flush()?)
}

/// Runs the bench and returns the events a second.
pub(crate) fn run(programs: &Programs, events: u32) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    ensure!(event(7).len() == EVENT_BYTES, "{}", event(7).len());
    let file = folder.path().join("alerts.json");
    let mut hub = Hub::init(&programs.hub, &folder.path().join("hub"), "bench")?;
    // The quotas of one agent are below what one can send.
    let settings = folder.path().join("hub/hub.toml");
    std::fs::write(
        &settings,
        "[quota]\nagent_bytes_per_second = 0\nagent_events_per_second = 0\norg_bytes_per_second = 0\norg_events_per_second = 0\n",
    )?;
    hub.configure(&settings);
    hub.serve()?;
    let client = Client::login(&programs.client, &folder.path().join("client"), &hub)?;
    let agent = Agent::new(
        &programs.agent,
        &folder.path().join("agent"),
        Credentials::Emulator,
    )?;
    let token = client.text(&["agent", "token", "create", "--org", &hub.org_id])?;
    process::success(agent.enroll(token.trim())?, "zero-x-agent enroll")?;
    write_events(&file, events)?;
    agent.source_add("wazuh", "alerts", &[&format!("path={}", file.display())])?;

    let pid = hub.pid().context("the hub is gone")?;
    let (_, hub_before) = times(pid)?;
    let parts_before = times_by_thread(pid)?;
    let mut command = agent.command();
    command.args(["run", "--once"]);
    let begun = Instant::now();
    let mut process = Process::start("the agent", command, &agent.log())?;
    let mut agent_parts = BTreeMap::new();
    let mut agent_peak = 0.0;
    let agent_cpu = loop {
        ensure!(begun.elapsed() < PATIENCE, "{}", process.log_tail());
        let (state, seconds) = times(process.pid())?;
        if state == 'Z' {
            break seconds;
        }
        agent_parts = times_by_thread(process.pid()).unwrap_or(agent_parts);
        agent_peak = memory_mib(process.pid(), "VmHWM:").unwrap_or(agent_peak);
        thread::sleep(LOOK_EVERY);
    };
    let wall = begun.elapsed().as_secs_f64();
    let status = process.wait_exit(PATIENCE)?;
    ensure!(status.success(), "{status}\n{}", process.log_tail());
    let (_, hub_after) = times(pid)?;
    let mut hub_parts = times_by_thread(pid)?;
    for (name, seconds) in &mut hub_parts {
        *seconds -= parts_before.get(name).copied().unwrap_or_default();
    }
    let found = client.text(&["api", "GET", "/api/v1/events?limit=1"])?;
    ensure!(found.contains("port"), "no event is stored: {found}");
    let rate = f64::from(events) / wall;
    let millions = f64::from(events) / 1e6;
    println!("events                          {events} of {EVENT_BYTES} bytes");
    println!("durable events a second         {rate:.0}");
    println!(
        "hub, CPU s per million          {:.2}",
        (hub_after - hub_before) / millions
    );
    parts(&hub_parts, millions);
    println!(
        "agent, CPU s per million        {:.2}",
        agent_cpu / millions
    );
    parts(&agent_parts, millions);
    println!("agent, peak memory              {agent_peak:.1} MiB");
    if let Some(peak) = memory_mib(pid, "VmHWM:") {
        println!("hub, peak memory                {peak:.1} MiB");
    }
    hub.stop()?;
    Ok(rate)
}

fn parts(parts: &BTreeMap<String, f64>, millions: f64) {
    for (name, seconds) in parts {
        if *seconds > 0.0 {
            println!("  thread {name:<22} {:.2}", seconds / millions);
        }
    }
}
