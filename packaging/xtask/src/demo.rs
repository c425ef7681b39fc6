//! `make demo`: from nothing to findings, on this machine alone.

use std::fs::{self, File, TryLockError};
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use line::agent::{Agent, Credentials};
use line::client::Client;
use line::emulator::Emulator;
use line::hub::Hub;
use line::{process, programs, python};

use crate::summary::Summary;

/// Names another folder for the demo's state.
const FOLDER_VARIABLE: &str = "ZERO_X_DEMO_DIR";
/// Lies in every folder that the demo has made, and allows it to clear that folder again.
const MARK: &str = "made-by-zero-x-demo";
/// Where AWS' own tools look for credentials in the environment.
const AWS_VARIABLES: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// Runs the demo; on a terminal it ends with the console, else or with `plain` with a summary.
pub(crate) fn run(plain: bool) -> Result<()> {
    let interactive = !plain && stdin().is_terminal() && stdout().is_terminal();
    let folder = folder()?;
    let _lock = claim(&folder)?;
    let run = fresh(&folder)?;

    let credentials = choose(interactive)?;
    step("building the three programs (the first time this takes some minutes)");
    let programs = programs::build()?;

    // Held until the end of the demo, which ends it.
    let mut emulator = None;
    let mut settings = Vec::new();
    if credentials == Credentials::Emulator {
        step("preparing the AWS emulator (moto, in a private Python environment)");
        let python = python::ensure(&folder.join("python"))?;
        let started = Emulator::start(&python, &run)?;
        let made = started.seed(&python, &run)?;
        say(&format!(
            "{} holds an invented shop: {}",
            started.endpoint(),
            counts(&made)
        ));
        settings.push(format!("endpoint={}", started.endpoint()));
        emulator = Some(started);
    }

    step("starting a hub");
    let mut hub = Hub::init(&programs.hub, &run.join("hub"), "demo")?;
    hub.serve()?;
    let client = Client::login(&programs.client, &run.join("client"), &hub)?;
    say(&format!(
        "{}, organisation {}, pinned by {}",
        hub.url(),
        hub.org_id,
        hub.ca_pin
    ));

    step("enrolling an agent");
    let token = client.text(&["agent", "token", "create", "--org", &hub.org_id])?;
    let agent = Agent::new(&programs.agent, &run.join("agent"), credentials)?;
    process::success(agent.enroll(token.trim())?, "zero-x-agent enroll")?;
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    agent.source_add("aws", "demo", &settings)?;

    step("reading the account in every region that is enabled");
    agent.run_once()?;
    client.wait_judged()?;
    let summary = Summary::ask(&client)?;
    print!("\n{}", summary.text());
    ensure!(
        summary.resources() > 0,
        "the agent has read no resource; its log is {}",
        agent.log().display()
    );

    if interactive {
        let daemon = agent.run()?;
        step("opening the console (q leaves it and ends the demo)");
        let left = client
            .command()
            .current_dir(&run)
            .status()
            .context("could not start zero-x")?;
        daemon.stop(std::time::Duration::from_secs(30))?;
        hub.stop()?;
        ensure!(left.success(), "the console ended with {left}");
    } else {
        hub.stop()?;
        println!(
            "\nOpen the same in the console: `make demo` on a terminal. Logs and data: {}",
            run.display()
        );
    }
    drop(emulator);
    Ok(())
}

/// The folder of the demo: `$ZERO_X_DEMO_DIR`, else below the user's state folder.
fn folder() -> Result<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = match variable(FOLDER_VARIABLE) {
        Some(folder) => folder,
        None => variable("XDG_STATE_HOME")
            .or_else(|| Some(variable("HOME")?.join(".local/state")))
            .with_context(|| {
                format!(
                    "neither HOME nor XDG_STATE_HOME is set; name a folder in {FOLDER_VARIABLE}"
                )
            })?
            .join("zero-x-demo"),
    };
    Ok(std::path::absolute(folder)?)
}

/// Makes the folder if need be and keeps other demos out of it for as long as the answer lives.
fn claim(folder: &Path) -> Result<File> {
    if !folder.join(MARK).is_file() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("could not make the demo's folder {}", folder.display()))?;
        let strange = fs::read_dir(folder)?.next().is_some();
        ensure!(
            !strange,
            "{} is not empty and was not made by the demo; name another folder in {FOLDER_VARIABLE}",
            folder.display()
        );
    }
    let lock = File::create(folder.join(MARK)).context("could not write to the demo's folder")?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another demo runs in {}; leave its console first, or name another folder in {FOLDER_VARIABLE}",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).context("could not lock the demo's folder"),
    }
}

/// Clears what an earlier demo, finished or killed, of this version or another, has left. The emulated account is new
/// with each run, so there is nothing to keep but the Python environment.
fn fresh(folder: &Path) -> Result<PathBuf> {
    let run = folder.join("run");
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("could not clear {}", run.display()))?;
    }
    fs::create_dir(&run).with_context(|| format!("could not make {}", run.display()))?;
    Ok(run)
}

/// Offers the account of the user's own credentials; without a clear yes it is the emulator.
fn choose(interactive: bool) -> Result<Credentials> {
    let Some(found) = AWS_VARIABLES
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    else {
        return Ok(Credentials::Emulator);
    };
    if !interactive {
        println!(
            "{found} is set, but there is no terminal to ask on: the demo leaves that account alone."
        );
        return Ok(Credentials::Emulator);
    }
    print!(
        "{found} is set. Read that AWS account? The calls only read, and what they find stays on this machine.\n\
         Otherwise the demo reads an emulated account. [y/N] "
    );
    stdout().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(match answer.trim() {
        "y" | "Y" | "yes" => Credentials::OfTheUser,
        _ => Credentials::Emulator,
    })
}

fn counts(made: &serde_json::Value) -> String {
    let kinds = made.as_object().into_iter().flatten();
    kinds
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn step(what: &str) {
    println!("==> {what}");
}

fn say(what: &str) {
    println!("    {what}");
}
