//! The agent: collects with credentials that stay on its host and streams facts to the hub.
//!
//! This file is the contents page: it reads the command line and the configuration, gives up
//! root, starts the runtime and hands over to the verb's own module.

mod bundle;
mod checks;
mod cli;
mod collect;
mod config;
mod connect;
mod doctor;
mod dump;
mod enroll;
mod exit;
mod expiry;
mod identity;
mod input;
mod layout;
mod link;
mod manage;
mod memory;
mod privilege;
mod renew;
mod rights;
mod run;
mod seal;
mod show;
mod sources;
mod spool;
mod status;
mod sync;
mod vault;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use serde::Serialize;

use cli::{Cli, ConfigVerb, SourceVerb, Verb};
use config::{Config, Settings};
use dump::DumpForm;
use exit::{Exit, Failure};
use identity::Identity;
use input::Input;
use layout::Layout;
use show::Format;

/// Threads of the runtime: the work is waiting, and each more costs memory.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return if asked { Exit::Ok } else { Exit::Usage }.into();
        }
    };
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            hint(&failure.lines());
            failure.exit().into()
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command's result")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "errors, and words beside a result")]
fn hint(line: &str) {
    eprintln!("{line}");
}

fn start(cli: Cli) -> Result<Exit, Failure> {
    // Everything this program writes is for its own user.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // A relative directory on the command line is meant from here.
    let state_dir = cli.global.state_dir.as_ref().map(|given| {
        let whole = std::path::absolute(given).unwrap_or_else(|_| given.clone());
        whole.display().to_string()
    });
    let flags = [
        ("state_dir", state_dir),
        ("log.level", cli.global.log_level.clone()),
    ];
    let (config, settings) = config::load(&flags, cli.global.config.as_deref())?;
    log(&config);
    let on_stdin = cli.global.input_on_stdin;
    if writes_state(&cli.verb) {
        let input = secret_of(&cli.verb, on_stdin);
        privilege::leave_root(&config.state_dir, input.as_ref())?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::of(Exit::No, "cannot start", error))?;
    let exit = runtime.block_on(dispatch(cli.verb, &config, &settings, &cli.global));
    // What a stop has abandoned is not waited for.
    runtime.shutdown_background();
    exit
}

/// Returns whether a verb may write the state directory, which is the service user's work.
fn writes_state(verb: &Verb) -> bool {
    match verb {
        Verb::Enroll(_)
        | Verb::Bundle(_)
        | Verb::Source(_)
        | Verb::Run(_)
        | Verb::Collect(_)
        | Verb::Leave
        | Verb::Doctor => true,
        Verb::Status | Verb::Config(_) | Verb::Check => false,
    }
}

/// Returns the secret that a verb reads.
fn secret_of(verb: &Verb, on_stdin: bool) -> Option<Input> {
    let path = match verb {
        Verb::Enroll(enroll) => Some(&enroll.token_file),
        Verb::Source(SourceVerb::Add(add)) => add.secret_file.as_ref(),
        Verb::Source(SourceVerb::Rotate(rotate)) => Some(&rotate.secret_file),
        Verb::Source(_)
        | Verb::Bundle(_)
        | Verb::Run(_)
        | Verb::Collect(_)
        | Verb::Leave
        | Verb::Doctor
        | Verb::Status
        | Verb::Config(_)
        | Verb::Check => None,
    };
    path.map(|path| Input::of_flag(path, on_stdin))
}

fn log(config: &Config) {
    use std::io::IsTerminal;
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    // Other crates log what they handle; only their warnings are wanted.
    let ours = LevelFilter::from_level(config.log.level);
    let others = ours.min(LevelFilter::WARN);
    let mut filter = Targets::new().with_default(others);
    for target in ["zero_x_agent", "aws", "gcp", "azure", "collect", "protocol"] {
        filter = filter.with_target(target, ours);
    }
    // A target is a prefix, and the SDKs begin like our crates. What they warn of comes back as
    // an error, which is logged once and with the source it belongs to.
    for target in ["aws_", "azure_", "gcp_"] {
        filter = filter.with_target(target, LevelFilter::ERROR.min(ours));
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    match config.log.format {
        config::LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(lines.with_ansi(colours)).init();
        }
        config::LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}

async fn dispatch(
    verb: Verb,
    config: &Config,
    settings: &Settings,
    global: &cli::Global,
) -> Result<Exit, Failure> {
    let on_stdin = global.input_on_stdin;
    let format = Format::or_default(global.output);
    match verb {
        Verb::Enroll(verb) => enroll(verb, config, on_stdin).await,
        Verb::Source(verb) => manage::run(verb, config, format, on_stdin).await,
        Verb::Bundle(verb) => bundle::run(verb, config, format).await,
        Verb::Run(verb) if verb.once => run::once(config).await,
        Verb::Run(_) => run::daemon(config).await,
        Verb::Collect(verb) => collect_once(verb, config, global.output).await,
        Verb::Status => status(config, format).await,
        Verb::Doctor => doctor::run(config, format).await,
        Verb::Config(ConfigVerb::Show) => show_config(config, settings, format),
        Verb::Config(ConfigVerb::Check) | Verb::Check => check(config),
        Verb::Leave => leave(config),
    }
}

async fn enroll(verb: cli::Enroll, config: &Config, on_stdin: bool) -> Result<Exit, Failure> {
    let layout = Layout::new(&config.state_dir);
    Identity::recover(&layout)?;
    if Identity::exists(&layout) && !verb.replace {
        let identity = Identity::load(&layout)?;
        say(&format!("already enrolled as {}", identity.agent));
        return Ok(Exit::Ok);
    }
    let hubs = match verb.hub.as_deref().map(config::address) {
        None => config.hub.addresses.clone(),
        Some(Ok(hub)) => hub.into_iter().collect(),
        Some(Err(reason)) => {
            let failure = Failure::of(Exit::Usage, "--hub cannot be used", reason);
            return Err(failure.fix("write it as host:port"));
        }
    };
    let wish = enroll::Wish {
        token: Input::of_flag(&verb.token_file, on_stdin).read()?,
        hubs,
        name: host_name(),
    };
    let _lock = layout.lock()?;
    if let Some(file) = &verb.bundle {
        enroll::request(&layout, wish, file)?;
        say(&format!("wrote the request to {}", file.display()));
        hint("next, at the hub: zero-x-hub bundle import FILE, then zero-x-hub bundle reply REPLY");
        hint("then, here: zero-x-agent bundle import REPLY");
        return Ok(Exit::Ok);
    }
    let enrolled = enroll::enroll(&layout, wish, &config.transport).await?;
    say(&format!(
        "enrolled as {} of {}",
        enrolled.agent, enrolled.org
    ));
    hint(&format!(
        "the certificate is good until {}",
        enrolled.not_after
    ));
    hint("next: zero-x-agent source add aws --name NAME");
    hint("then: sudo systemctl enable --now zero-x-agent");
    Ok(Exit::Ok)
}

fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if name.is_empty() {
        "agent".to_owned()
    } else {
        name
    }
}

async fn collect_once(
    verb: cli::Collect,
    config: &Config,
    asked: Option<Format>,
) -> Result<Exit, Failure> {
    let form = match asked {
        None | Some(Format::Jsonl) => DumpForm::Lines,
        Some(Format::Json) => DumpForm::Array,
        Some(Format::Table | Format::Csv) => {
            let failure = Failure::new(Exit::Usage, "documents have no table form");
            return Err(failure.fix("use -o jsonl or -o json"));
        }
    };
    let layout = Layout::new(&config.state_dir);
    let sources = sources::Sources::load(&layout)?;
    let source = sources.find(&verb.name)?;
    let connector = connect::Connector::new(layout, config.vault.clone());
    let stop = run::stop_on_signal()?;
    let dumped = dump::dump(&connector, source, form, &stop).await?;
    let summary = &dumped.summary;
    hint(&format!(
        "{} documents with {} calls in {:.1} s; {} calls failed, {} records set aside",
        summary.documents,
        summary.calls,
        summary.took.as_secs_f64(),
        summary.faults.len(),
        dumped.quarantined,
    ));
    let more = |count: usize| {
        if count > dump::SHOWN {
            hint(&format!("… and {} more", count - dump::SHOWN));
        }
    };
    for fault in summary.faults.iter().take(dump::SHOWN) {
        hint(&format!(
            "failed: {} ({})",
            fault.call,
            show::neutral(&fault.code)
        ));
    }
    more(summary.faults.len());
    for (place, reason) in &dumped.set_aside {
        hint(&format!("set aside: {} ({reason})", show::neutral(place)));
    }
    more(usize::try_from(dumped.quarantined).unwrap_or(usize::MAX));
    for (scope, call, error) in &dumped.failed {
        hint(&format!(
            "not read whole: {} ({call}: {error})",
            show::neutral(scope)
        ));
    }
    Ok(Exit::Ok)
}

async fn status(config: &Config, format: Format) -> Result<Exit, Failure> {
    let status = status::ask(&config.runtime_dir()).await?;
    let columns = status::SOURCE_COLUMNS;
    let printed = match format {
        Format::Json | Format::Jsonl => show::object(&status, format),
        Format::Csv => show::list(&status.sources, columns, format),
        Format::Table => status_tables(&status),
    };
    written(printed)?;
    Ok(Exit::Ok)
}

/// Prints what there is to say: a list without lines is left out.
fn status_tables(status: &status::Status) -> std::io::Result<()> {
    fn part<T: serde::Serialize>(rows: &[T], columns: &[&str]) -> std::io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        show::list(rows, columns, Format::Table)
    }
    let spool = &status.spool;
    show::object(&status.summary(), Format::Table)?;
    part(&spool.lanes, status::LANE_COLUMNS)?;
    part(&spool.waiting, status::WAIT_COLUMNS)?;
    part(&spool.losses.last, status::LOSS_COLUMNS)?;
    part(&spool.moved_aside, status::ASIDE_COLUMNS)?;
    show::list(&status.sources, status::SOURCE_COLUMNS, Format::Table)
}

#[derive(Serialize)]
struct SettingRow {
    key: &'static str,
    value: String,
    origin: String,
    variable: String,
    meaning: &'static str,
}

fn show_config(config: &Config, settings: &Settings, format: Format) -> Result<Exit, Failure> {
    let rows: Vec<SettingRow> = config::KEYS
        .iter()
        .map(|key| SettingRow {
            key: key.name,
            value: (key.get)(config),
            origin: settings.origin(key).to_string(),
            variable: key.variable(),
            meaning: key.meaning,
        })
        .collect();
    written(show::list(&rows, &["key", "value", "origin"], format))?;
    Ok(Exit::Ok)
}

fn check(config: &Config) -> Result<Exit, Failure> {
    let sources = sources::Sources::load(&Layout::new(&config.state_dir))?;
    for source in sources.iter() {
        source.parsed()?;
    }
    let count = sources.iter().len();
    say(&format!("configuration and {count} sources are good"));
    Ok(Exit::Ok)
}

fn leave(config: &Config) -> Result<Exit, Failure> {
    let layout = Layout::new(&config.state_dir);
    let _lock = layout.lock()?;
    let identity = Identity::load(&layout)?;
    Identity::remove(&layout)?;
    // Sealed under a key that is gone now.
    match std::fs::remove_dir_all(layout.spool()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let clause = "the spool could not be removed";
            return Err(Failure::of(Exit::No, clause, error));
        }
        Ok(()) | Err(_) => {}
    }
    say(&format!(
        "{} has left: its key and spool are removed, sources stay",
        identity.agent
    ));
    hint("the hub shows it as silent until it is revoked there: `zero-x agent revoke`");
    Ok(Exit::Ok)
}

fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => {
            other.map_err(|error| Failure::of(Exit::No, "cannot write to standard output", error))
        }
    }
}
