//! An outage, measured: the hub is away while events of a week arrive, then comes back.
//!
//! A week at a few events a second is simulated by its volume: the agent reads them as fast as it can.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use line::agent::{Agent, Credentials};
use line::client::Client;
use line::hub::Hub;
use line::process;
use line::programs;
use line::usage::{machine, memory_mib, times};
use serde_json::Value;

const LOOK_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(1800);

pub(crate) fn run(dev: bool, events: u64) -> Result<()> {
    let programs = if dev {
        programs::build()?
    } else {
        programs::build_release()?
    };
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::init(&programs.hub, &folder.path().join("hub"), "outage")?;
    hub.serve()?;
    let client = Client::login(&programs.client, &folder.path().join("client"), &hub)?;
    let agent = Agent::new(
        &programs.agent,
        &folder.path().join("agent"),
        Credentials::Emulator,
    )?;
    let token = client.text(&["agent", "token", "create", "--org", &hub.org_id])?;
    process::success(agent.enroll(token.trim())?, "zero-x-agent enroll")?;
    let alerts = folder.path().join("alerts.json");
    let bytes = write(&alerts, events)?;
    let path = format!("path={}", alerts.display());
    agent.source_add("wazuh", "manager", &[&path])?;
    hub.stop()?;

    let daemon = agent.run()?;
    let pid = daemon.pid();
    let begun = Instant::now();
    let spooled = wait(&agent, |spool| spool.items >= events)?;
    let (spooled_seconds, (_, spooled_cpu)) = (begun.elapsed().as_secs_f64(), times(pid)?);
    let outage_peak = memory_mib(pid, "VmHWM:").context("the agent is gone")?;

    hub.serve()?;
    // From the first acknowledgement on: what the agent waits before it dials again is not its speed.
    let first = wait(&agent, |spool| spool.items < events)?;
    let begun = Instant::now();
    wait(&agent, |spool| spool.items == 0)?;
    let (drain_seconds, (_, cpu)) = (begun.elapsed().as_secs_f64(), times(pid)?);
    let peak = memory_mib(pid, "VmHWM:").context("the agent is gone")?;
    daemon.stop(Duration::from_secs(30))?;
    hub.stop()?;

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of events are far below 2^52"
    )]
    let (all, drained) = (events as f64, first.items as f64);
    println!("machine                         {}", machine());
    println!(
        "build                           {}",
        if dev { "dev" } else { "release" }
    );
    println!(
        "events                          {events}, {} bytes each",
        bytes / events.max(1)
    );
    println!(
        "read and spooled                {:.0} events/s",
        all / spooled_seconds
    );
    println!(
        "spooled, agent CPU              {:.2} s per million",
        spooled_cpu / all * 1e6
    );
    println!("spool                           {} bytes", spooled.bytes);
    println!("agent, peak memory, hub away    {outage_peak:.1} MiB");
    println!(
        "drained                         {:.0} events/s",
        drained / drain_seconds
    );
    println!(
        "drained, agent CPU              {:.2} s per million",
        (cpu - spooled_cpu) / all * 1e6
    );
    println!("agent, peak memory              {peak:.1} MiB");
    Ok(())
}

/// What waits in the spool.
struct Waiting {
    items: u64,
    bytes: u64,
}

/// Waits until the events that wait are as many as `done` asks for.
fn wait(agent: &Agent, done: impl Fn(&Waiting) -> bool) -> Result<Waiting> {
    let begun = Instant::now();
    loop {
        let told = agent.output(&["status", "-o", "json"], "")?;
        // The socket comes a moment after the process.
        let status: Value = serde_json::from_slice(&told.stdout).unwrap_or_default();
        let lanes = status.pointer("/spool/lanes").and_then(Value::as_array);
        let events = lanes
            .into_iter()
            .flatten()
            .find(|lane| lane.get("lane").and_then(Value::as_str) == Some("events"));
        if let Some(lane) = events {
            let number = |name: &str| lane.get(name).and_then(Value::as_u64).unwrap_or_default();
            let waiting = Waiting {
                items: number("items"),
                bytes: number("bytes"),
            };
            if done(&waiting) {
                return Ok(waiting);
            }
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the outage does not end: {status}"
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// Writes alerts of some 300 bytes, as a manager does; returns their bytes.
fn write(file: &Path, events: u64) -> Result<u64> {
    let mut out = BufWriter::new(File::create(file)?);
    let mut bytes = 0;
    for number in 0..events {
        let (minute, second, milli) = (number / 60_000 % 60, number / 1000 % 60, number % 1000);
        let (host, port) = (number % 254 + 1, 1024 + number.wrapping_mul(7919) % 60_000);
        let line = format!(
            "{{\"timestamp\":\"2026-01-01T00:{minute:02}:{second:02}.{milli:03}+0000\",\
             \"rule\":{{\"level\":5,\"description\":\"sshd: authentication failed\",\"id\":\"5760\"}},\
             \"agent\":{{\"id\":\"001\",\"name\":\"web-1\"}},\"id\":\"1767225600.{number}\",\
             \"full_log\":\"sshd[812]: Failed password for root from 203.0.113.{host} port {port}\",\
             \"data\":{{\"srcip\":\"203.0.113.{host}\"}},\"location\":\"/var/log/auth.log\"}}\n"
        );
        bytes += u64::try_from(line.len())?;
        out.write_all(line.as_bytes())?;
    }
    out.flush()?;
    Ok(bytes)
}
