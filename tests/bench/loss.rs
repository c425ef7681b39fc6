//! Durable events a second where every third packet is lost: agent, router and hub in network namespaces.

use std::time::Instant;

use anyhow::{Result, ensure};
use line::process;
use tests::network::{Network, Scaffold};

use crate::throughput::write_events;

/// How many events each agent gets.
pub(crate) const EVENTS: u32 = 50_000;

/// How many agents, one after the other: what the first packets meet is chance.
const AGENTS: u32 = 5;

/// Runs the measurement in a network of its own, where there can be one.
pub(crate) fn run_apart(folder: &str, events: u32) -> Result<()> {
    if events == 0 {
        return Ok(());
    }
    let network = match Scaffold::put_up() {
        Ok(network) => network,
        Err(missing) => {
            println!("skipped: at 30 % loss both ways: {missing:#}");
            return Ok(());
        }
    };
    let done = network.run_again(&[folder, &events.to_string(), "0"])?;
    print!(
        "{}",
        process::success(done, "the measurement at 30 % loss")?
    );
    Ok(())
}

/// Prints the slowest and the fastest of some agents.
pub(crate) fn run(network: &Network, events: u32) -> Result<()> {
    let no_quota = [
        ("ZERO_X_QUOTA_AGENT_BYTES_PER_SECOND", "0"),
        ("ZERO_X_QUOTA_AGENT_EVENTS_PER_SECOND", "0"),
        ("ZERO_X_QUOTA_ORG_BYTES_PER_SECOND", "0"),
        ("ZERO_X_QUOTA_ORG_EVENTS_PER_SECOND", "0"),
    ];
    let (line, _) = network.line_with(&no_quota)?;
    let hub = line.hub.agent_address();
    let file = line.folder().join("alerts.json");
    write_events(&file, events)?;
    let mut rates = Vec::new();
    for number in 0..AGENTS {
        let agent = network.agent(&line, &format!("agent-{number}"))?;
        let args = ["enroll", "--token-file", "-", "--hub", &hub];
        process::success(agent.output(&args, &line.token()?)?, "zero-x-agent enroll")?;
        agent.source_add("wazuh", "alerts", &[&format!("path={}", file.display())])?;
        network.lose(30)?;
        let begun = Instant::now();
        agent.run_once()?;
        rates.push(f64::from(events) / begun.elapsed().as_secs_f64());
        network.mend()?;
    }
    rates.sort_by(f64::total_cmp);
    ensure!(!rates.is_empty(), "nothing was measured");
    let text: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    println!(
        "at 30 % loss both ways          {} events a second ({events} events each)",
        text.join(", ")
    );
    Ok(())
}
