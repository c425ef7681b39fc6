//! An agent of its own state folder.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{self, Process, Rights, SERVICE_ID};

/// One sync of a small account by a debug build on a loaded machine.
const SYNC_PATIENCE: Duration = Duration::from_secs(300);
const PATIENCE: Duration = Duration::from_secs(60);

/// Which AWS credentials the agent's ambient chain finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// A key pair that only the emulator takes, and no file or metadata service beside it.
    Emulator,
    /// Those of whoever runs this program.
    OfTheUser,
}

/// An agent; each verb is a run of its program.
#[derive(Debug)]
pub struct Agent {
    program: PathBuf,
    folder: PathBuf,
    credentials: Credentials,
    rights: Rights,
}

impl Agent {
    /// Makes the folder of an agent that has not enrolled.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(program: &Path, folder: &Path, credentials: Credentials) -> Result<Self> {
        // Made here, since the agent of an installed package would give a new one to the service's user.
        let state = folder.join("state");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&state)
            .with_context(|| format!("could not make {}", state.display()))?;
        Ok(Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            credentials,
            rights: Rights::Own,
        })
    }

    /// Runs every further verb with other rights; the folder goes to the user that they belong to.
    ///
    /// # Errors
    /// When the folder cannot be given away, which takes root.
    pub fn set_rights(&mut self, rights: Rights) -> Result<()> {
        if rights != Rights::Own {
            for folder in [&self.folder, &self.state_dir()] {
                chown(folder, Some(SERVICE_ID), Some(SERVICE_ID))
                    .with_context(|| format!("could not give {} away", folder.display()))?;
            }
        }
        self.rights = rights;
        Ok(())
    }

    /// Enrols with a token, which goes through standard input.
    ///
    /// # Errors
    /// When the program cannot be started or hangs; a refusal is in the output.
    pub fn enroll(&self, token: &str) -> Result<Output> {
        self.output(&["enroll", "--token-file", "-"], token)
    }

    /// Adds a source: `source_add("aws", "demo", &["endpoint=http://…"])`.
    ///
    /// # Errors
    /// When it is refused.
    pub fn source_add(&self, kind: &str, name: &str, settings: &[&str]) -> Result<()> {
        let args = [&["source", "add", kind, "--name", name], settings].concat();
        process::success(self.output(&args, "")?, "zero-x-agent source add").map(drop)
    }

    /// Adds a source whose secret is sealed in the agent's vault; the secret goes through standard input.
    ///
    /// # Errors
    /// When it is refused.
    pub fn source_add_with_secret(
        &self,
        kind: &str,
        name: &str,
        settings: &[&str],
        secret: &str,
    ) -> Result<()> {
        let args = [
            &["source", "add", kind, "--name", name, "--secret-file", "-"],
            settings,
        ]
        .concat();
        process::success(self.output(&args, secret)?, "zero-x-agent source add").map(drop)
    }

    /// Runs any verb to its end.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn output(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut command = self.command();
        command.args(args);
        process::output(command, input, PATIENCE)
    }

    /// Syncs every source once and waits for the hub's acknowledgement.
    ///
    /// # Errors
    /// When the program fails; the message holds the end of its log.
    pub fn run_once(&self) -> Result<()> {
        let mut command = self.command();
        command.args(["run", "--once"]);
        let mut process = Process::start("the agent", command, &self.log())?;
        let status = process.wait_exit(SYNC_PATIENCE)?;
        anyhow::ensure!(
            status.success(),
            "zero-x-agent run --once ended with {status}\n{}",
            process.log_tail()
        );
        Ok(())
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self) -> Result<Process> {
        let mut command = self.command();
        command.arg("run");
        Process::start("the agent", command, &self.log())
    }

    /// Everything the agent keeps.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What the agent has written to its outputs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// The program with this agent's state and credentials.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = process::command_with(&self.program, &self.folder, &self.rights);
        command.arg("--state-dir").arg(self.state_dir());
        match self.credentials {
            Credentials::Emulator => {
                command
                    .env("AWS_ACCESS_KEY_ID", "demo")
                    .env("AWS_SECRET_ACCESS_KEY", "demo")
                    .env("AWS_EC2_METADATA_DISABLED", "true");
            }
            Credentials::OfTheUser => {
                for (name, value) in std::env::vars_os() {
                    if name == "HOME" || name.to_string_lossy().starts_with("AWS_") {
                        command.env(name, value);
                    }
                }
            }
        }
        command
    }
}
