//! The way of events from a file on the agent's host to the hub's disk, and many agents at once: the real programs on
//! loopback.
//!
//! `cargo xtask bench-transport` builds the programs and runs this; its arguments are the programs' folder, a number of
//! events and a number of agents.

#![expect(clippy::print_stdout, reason = "a command's output")]

mod crowd;
mod loss;
mod relp;
mod throughput;

use std::path::PathBuf;

use anyhow::{Context, Result};
use line::programs;
use line::usage::machine;

fn main() -> Result<()> {
    // `cargo bench` puts a flag of its own behind them.
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let Some(folder) = words.next() else {
        println!("skipped: transport: run it by `cargo xtask bench-transport`");
        return Ok(());
    };
    let programs = programs::find_in(&PathBuf::from(&folder))?;
    let mut number = |what: &str| -> Result<u32> {
        let word = words
            .next()
            .with_context(|| format!("no number of {what}"))?;
        Ok(word.parse()?)
    };
    let (events, agents) = (number("events")?, number("agents")?);
    if let Some(network) = tests::network::inside() {
        return loss::run(&network, events);
    }
    println!("machine                         {}", machine());
    let rate = if events > 0 {
        Some(throughput::run(&programs, events)?)
    } else {
        None
    };
    loss::run_apart(&folder, events.min(loss::EVENTS))?;
    relp::run(events.min(relp::EVENTS), rate)?;
    if agents > 0 {
        crowd::run(&programs, agents)?;
    }
    Ok(())
}
