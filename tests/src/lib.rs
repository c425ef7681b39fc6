//! The bench that end-to-end tests stand on: the real programs on loopback, one line per test.
//!
//! A test owns its hub, its agents and its emulated account, in a folder of its own and on free ports, so that tests run
//! beside one another. What the programs have written is printed when the line is dropped; the test runner shows it for
//! failed tests only.

pub mod alerts;
pub mod canary;
pub mod network;
pub mod proxy;
pub mod raw;
pub mod told;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use line::agent::{Agent, Credentials};
use line::client::Client;
use line::emulator::Emulator;
use line::hub::Hub;
use line::process;
use line::programs::{self, Programs};
use line::python;
use tempfile::TempDir;

/// A hub that serves, with its first admin logged in.
pub struct Line {
    /// The first organisation's hub.
    pub hub: Hub,
    /// The session of the first admin.
    pub client: Client,
    programs: Programs,
    folder: TempDir,
}

/// A second organisation on the same hub, as its own admin sees it.
pub struct Organisation {
    /// `org_…`
    pub id: String,
    /// The session of its admin.
    pub client: Client,
}

impl Line {
    /// Starts a hub.
    ///
    /// # Errors
    /// When a program is missing or does not come up.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts a hub with settings that it takes from these variables.
    ///
    /// # Errors
    /// When a program is missing or does not come up.
    pub fn start_with(variables: &[(&str, &str)]) -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST, variables)
    }

    /// Starts a hub that listens for agents on this address.
    ///
    /// # Errors
    /// When a program is missing or does not come up.
    pub fn start_on(host: Ipv4Addr, variables: &[(&str, &str)]) -> Result<Self> {
        let programs = built()?;
        let folder = TempDir::with_prefix("zero-x-")?;
        let mut hub = Hub::init(&programs.hub, &folder.path().join("hub"), "first")?;
        hub.listen_on(host);
        for (name, value) in variables {
            hub.set_variable(name, value);
        }
        hub.serve()?;
        let client = Client::login(&programs.client, &folder.path().join("client"), &hub)?;
        Ok(Self {
            hub,
            client,
            programs,
            folder,
        })
    }

    /// A folder for a test's own files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The three programs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Starts an emulated account with the demo's small company in it.
    ///
    /// # Errors
    /// When Python or the emulator is missing.
    pub fn account(&self) -> Result<Emulator> {
        account(self.folder.path())
    }

    /// An agent with a folder but no identity.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn unenrolled(&self, name: &str) -> Result<Agent> {
        Agent::new(
            &self.programs.agent,
            &self.folder.path().join(name),
            Credentials::Emulator,
        )
    }

    /// A fresh enrolment token of the first organisation.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub fn token(&self) -> Result<String> {
        token(&self.client, &self.hub.org_id)
    }

    /// An agent enrolled in the first organisation.
    ///
    /// # Errors
    /// When the enrolment fails.
    pub fn agent(&self, name: &str) -> Result<Agent> {
        let agent = self.unenrolled(name)?;
        process::success(agent.enroll(&self.token()?)?, "zero-x-agent enroll")?;
        Ok(agent)
    }

    /// Makes a second organisation with an admin of its own.
    ///
    /// # Errors
    /// When the hub refuses either.
    pub fn organisation(&self, name: &str) -> Result<Organisation> {
        let made = self.client.json(&["org", "create", name])?;
        let id = made
            .get("id")
            .and_then(|id| id.as_str())
            .context("org create named no id")?
            .to_owned();
        let email = format!("admin@{name}.example");
        let password = line::hub::random_hex(16)?;
        let args = [
            "user",
            "create",
            &email,
            "--org",
            &id,
            "--role",
            "admin",
            "--password-stdin",
        ];
        process::success(self.client.output(&args, &password)?, "zero-x user create")?;
        let home = self.folder.path().join(format!("client-{name}"));
        let client = Client::login_as(&self.programs.client, &home, &self.hub, &email, &password)?;
        Ok(Organisation { id, client })
    }

    /// An agent enrolled in `organisation`.
    ///
    /// # Errors
    /// When the enrolment fails.
    pub fn agent_of(&self, organisation: &Organisation, name: &str) -> Result<Agent> {
        let agent = self.unenrolled(name)?;
        let token = token(&organisation.client, &organisation.id)?;
        process::success(agent.enroll(&token)?, "zero-x-agent enroll")?;
        Ok(agent)
    }
}

impl Drop for Line {
    #[expect(
        clippy::print_stderr,
        reason = "the test runner captures it and shows it for failed tests"
    )]
    fn drop(&mut self) {
        let mut logs = Vec::new();
        let _unreadable = files(self.folder.path(), &mut logs);
        for log in logs
            .iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        {
            eprintln!("---- {}", process::tail(log));
        }
    }
}

/// A fresh enrolment token.
///
/// # Errors
/// When the hub refuses it.
pub fn token(client: &Client, org: &str) -> Result<String> {
    Ok(client
        .text(&["agent", "token", "create", "--org", org])?
        .trim()
        .to_owned())
}

/// Starts an emulated account with the demo's small company in it.
///
/// # Errors
/// When Python or the emulator is missing.
pub fn account(folder: &Path) -> Result<Emulator> {
    let python = python::ensure(&programs::folder()?.join("emulator-python"))?;
    let emulator = Emulator::start(&python, folder)?;
    emulator.seed(&python, folder)?;
    Ok(emulator)
}

/// The three programs; built once per run where they are missing.
///
/// # Errors
/// When the build fails.
pub fn built() -> Result<Programs> {
    static BUILT: OnceLock<std::result::Result<Programs, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            programs::find()
                .or_else(|_| programs::build())
                .map_err(|error| format!("{error:#}"))
        })
        .clone()
        .map_err(anyhow::Error::msg)
}

/// Waits until `look` answers with a value, for conditions that no program announces.
///
/// # Errors
/// When `look` fails, or has no value after `patience`.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        ensure!(
            begun.elapsed() < patience,
            "{what}: not after {} s",
            patience.as_secs()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Every file below `folder`.
///
/// # Errors
/// When a folder cannot be listed.
pub fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(())
}

/// The folder with research data, which exists only where the project is developed.
///
/// # Errors
/// When it is absent; the caller says so and skips.
pub fn shared() -> Result<PathBuf> {
    let folder = match std::env::var_os("ZERO_X_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => programs::checkout().join("../shared"),
    };
    if !folder.is_dir() {
        bail!("no shared data at {}", folder.display());
    }
    Ok(folder)
}
