//! `cargo xtask`: the one door to the repository's chores.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command's output"
)]

mod chores;
mod demo;
mod figures;
mod outage;
mod sources;
mod store;
mod summary;
mod transport;
mod units;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The repository's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build, start a hub and an agent, read a cloud account and show what is wrong in it
    Demo {
        /// Print a summary and end, also on a terminal
        #[arg(long)]
        plain: bool,
    },
    /// Set up what the tests need and run all of them
    Test {
        /// Passed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
    /// Formatting, lints, rule sources, units and scripts
    Lint,
    /// What continuous integration runs: `lint` and `test`
    Ci,
    /// List rules that do not name their source
    Sources,
    /// Measure the figures of the README on this machine, with a release build
    Figures {
        /// Measure the development build, to try the command
        #[arg(long)]
        dev: bool,
    },
    /// Measure an outage: how fast events are spooled while the hub is away, how fast they leave, in how much memory
    Outage {
        /// Measure the development build, to try the command
        #[arg(long)]
        dev: bool,
        /// Events of the outage; a week at five a second are three million
        #[arg(long, default_value_t = 3_000_000)]
        events: u64,
    },
    /// Measure the way of events from file to disk, and ten thousand agents at once, with a release build
    BenchTransport {
        /// Measure the development build, to try the command
        #[arg(long)]
        dev: bool,
        /// How many events are sent
        #[arg(long, default_value_t = 1_000_000)]
        events: u32,
        /// How many agents are connected at once
        #[arg(long, default_value_t = 10_000)]
        agents: u32,
    },
    /// Measure the store at scale with a release build: lists, searches, a dropped day, an opening, many organisations
    BenchStore {
        /// Measure the development build, to try the command
        #[arg(long)]
        dev: bool,
        /// How many resources, and as many findings; 0 leaves them out
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
        /// How many events in one day; 0 leaves them out
        #[arg(long, default_value_t = 10_000_000)]
        events: u64,
        /// How many organisations; 0 leaves them out
        #[arg(long, default_value_t = 1_000)]
        organisations: u64,
    },
}

fn main() -> ExitCode {
    let chore = Arguments::parse().chore;
    match run(chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Demo { plain } => demo::run(plain),
        Chore::Test { more } => chores::test(&more),
        Chore::Lint => chores::lint(),
        Chore::Ci => {
            chores::lint()?;
            chores::test(&[])
        }
        Chore::Sources => sources::run(),
        Chore::Figures { dev } => figures::run(dev),
        Chore::Outage { dev, events } => outage::run(dev, events),
        Chore::BenchTransport {
            dev,
            events,
            agents,
        } => transport::run(dev, events, agents),
        Chore::BenchStore {
            dev,
            rows,
            events,
            organisations,
        } => store::run(dev, rows, events, organisations),
    }
}
