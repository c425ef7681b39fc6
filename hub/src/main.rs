//! The hub: stores every organisation apart, judges, answers the API.
//!
//! ```text
//! settings → store → identity → rules → agents' port │ API │ posture │ admin socket │ upkeep → drain
//! ```

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

mod admin;
mod api;
mod backup;
mod bundle;
mod ca;
mod checkpoints;
mod cli;
mod compaction;
mod config;
mod enroll;
mod expiry;
mod failure;
mod identity;
mod ingest;
mod keys;
mod live;
mod memory;
mod metrics;
mod opening;
mod password;
mod posture;
mod purge;
mod rekey;
mod renew;
mod retention;
mod rotation;
mod ruleset;
mod serve;
mod status;
mod tls;

use cli::Cli;
use failure::{Exit, Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not mistakes. A closed pipe is nobody's fault.
            let _ = error.print();
            return if error.use_stderr() {
                code(Exit::Usage)
            } else {
                code(Exit::Ok)
            };
        }
    };
    match run(cli) {
        Ok(exit) => code(exit),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{}", failure.lines());
            code(failure.exit())
        }
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit.code())
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    if !matches!(cli.verb, cli::Verb::Serve(_)) {
        log_to_stderr();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(Exit::Failed, "cannot start the runtime").caused_by(&error)
        })?;
    runtime.block_on(cli::run(cli))
}

/// Sends warnings of the one-shot commands to standard error, so that standard output stays data.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("ZERO_X_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // Only a second subscriber could fail here, and there is none.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
