//! The console and the scripting client: talks HTTPS to the hub, and to nothing else.

mod cli;
mod client;
mod console;
mod exit;
mod session;
mod text;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A pipe that closes early is the reader's choice, not an error: writes then fail with
    // EPIPE, which `cli` turns into exit 0.
    cli::run(std::env::args_os())
}
