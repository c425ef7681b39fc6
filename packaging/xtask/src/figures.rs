//! The README's figures, measured on this machine: what one line costs in memory, processor time and network.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use line::agent::{Agent, Credentials};
use line::client::Client;
use line::emulator::Emulator;
use line::hub::Hub;
use line::process::{self, Process};
use line::programs::{self, Programs};
use line::python;
use line::relay::Relay;
use line::usage::{machine, memory_mib, times};

/// How long a program is left alone before its memory is called idle.
const SETTLE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(600);

/// What one run of a program used.
struct Usage {
    cpu_seconds: f64,
    wall_seconds: f64,
    peak_mib: f64,
    /// Session frames, without what QUIC and TLS put around them.
    frame_bytes: u64,
}

pub(crate) fn run(dev: bool) -> Result<()> {
    let programs = if dev {
        programs::build()?
    } else {
        programs::build_release()?
    };
    let folder = tempfile::tempdir()?;
    let python = python::ensure(&programs::folder()?.join("emulator-python"))?;
    let emulator = Emulator::start(&python, folder.path())?;
    let account = fill(&emulator, &python, folder.path())?;

    let mut hub = Hub::init(&programs.hub, &folder.path().join("hub"), "figures")?;
    hub.serve()?;
    let client = Client::login(&programs.client, &folder.path().join("client"), &hub)?;
    let relay = Relay::start(&hub.agent_address())?;
    let agent = Agent::new(
        &programs.agent,
        &folder.path().join("agent"),
        Credentials::Emulator,
    )?;
    let token = client.text(&["agent", "token", "create", "--org", &hub.org_id])?;
    let args = ["enroll", "--token-file", "-", "--hub", &relay.address()];
    process::success(agent.output(&args, token.trim())?, "zero-x-agent enroll")?;
    agent.source_add(
        "aws",
        "account",
        &[&format!("endpoint={}", emulator.endpoint())],
    )?;

    emulator.take_calls()?;
    let before = relay.traffic().up;
    let first = sync(&agent)?;
    let first_bytes = relay.traffic().up - before;
    let calls: u64 = emulator
        .take_calls()?
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, count)| count.as_u64())
        .sum();
    let before = relay.traffic().up;
    let second = sync(&agent)?;
    let second_bytes = relay.traffic().up - before;
    client.wait_judged()?;
    let resources = client.rows(&["resource", "list"])?.len();
    let findings = client
        .rows(&["finding", "list", "--filter", "status=open"])?
        .len();

    let daemon = agent.run()?;
    thread::sleep(SETTLE);
    let agent_idle = memory_mib(daemon.pid(), "VmRSS:").context("the agent is gone")?;
    let hub_idle = hub
        .pid()
        .and_then(|pid| memory_mib(pid, "VmRSS:"))
        .context("the hub is gone")?;
    daemon.stop(Duration::from_secs(30))?;
    hub.stop()?;

    println!("machine                         {}", machine());
    println!(
        "build                           {}",
        if dev { "dev" } else { "release" }
    );
    println!(
        "account                         {account}: {resources} resources, {findings} open findings"
    );
    println!("first sync, calls               {calls}");
    println!("first sync, CPU                 {:.2} s", first.cpu_seconds);
    println!(
        "first sync, wall                {:.1} s",
        first.wall_seconds
    );
    println!("first sync, peak memory         {:.1} MiB", first.peak_mib);
    println!(
        "first sync, sent                {} bytes of frames ({first_bytes} of UDP payload, handshake included)",
        first.frame_bytes
    );
    println!(
        "second sync, CPU                {:.2} s",
        second.cpu_seconds
    );
    println!(
        "second sync, sent               {} bytes of frames ({second_bytes} of UDP payload, handshake included)",
        second.frame_bytes
    );
    println!("agent, idle memory              {agent_idle:.1} MiB");
    println!("hub, idle memory                {hub_idle:.1} MiB");
    println!("size of the programs            {}", sizes(&programs)?);
    Ok(())
}

/// The research account where the project is developed, else the demo's small shop.
fn fill(emulator: &Emulator, python: &Path, folder: &Path) -> Result<String> {
    let shared = std::env::var_os("ZERO_X_SHARED").map_or_else(
        || programs::checkout().join("../shared"),
        std::path::PathBuf::from,
    );
    let seeder = shared.join("lab/aws/seed_aws.py");
    if !seeder.is_file() {
        emulator.seed(python, folder)?;
        return Ok("the demo's shop".to_owned());
    }
    let mut command = process::command(python, folder);
    command
        .arg(&seeder)
        .args(["--size", "1", "--seed", "7", "--out"])
        .arg(folder.join("truth.json.gz"))
        .env("AWS_ENDPOINT_URL", emulator.endpoint());
    process::success(process::output(command, "", PATIENCE)?, "the seeder")?;
    Ok("the size-1 research account".to_owned())
}

/// One `run --once`, measured from `/proc`.
fn sync(agent: &Agent) -> Result<Usage> {
    let mut command = agent.command();
    command.args(["run", "--once"]);
    let begun = Instant::now();
    let mut process = Process::start("the agent", command, &agent.log())?;
    let pid = process.pid();
    let mut peak_mib = 0.0;
    // An ended process keeps its times until it is waited for, but not its memory.
    let cpu_seconds = loop {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the sync does not end\n{}",
            process.log_tail()
        );
        let (state, seconds) = times(pid)?;
        if state == 'Z' {
            break seconds;
        }
        peak_mib = memory_mib(pid, "VmHWM:").unwrap_or(peak_mib);
        thread::sleep(Duration::from_millis(5));
    };
    let wall_seconds = begun.elapsed().as_secs_f64();
    let status = process.wait_exit(PATIENCE)?;
    ensure!(
        status.success(),
        "the sync ended with {status}\n{}",
        process.log_tail()
    );
    let log = fs::read_to_string(agent.log()).context("the agent has no log")?;
    Ok(Usage {
        cpu_seconds,
        wall_seconds,
        peak_mib,
        frame_bytes: frame_bytes(&log).context("the agent did not say what it sent")?,
    })
}

/// What the agent said last that it has sent.
fn frame_bytes(log: &str) -> Option<u64> {
    let (_, rest) = log.rsplit_once("frame_bytes=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn sizes(programs: &Programs) -> Result<String> {
    let mut shown = Vec::new();
    for path in [&programs.agent, &programs.hub, &programs.client] {
        let bytes = fs::metadata(path)?.len();
        let name = path.file_name().unwrap_or_default().display();
        shown.push(format!("{name} {} MiB", bytes / (1024 * 1024)));
    }
    Ok(shown.join(", "))
}
