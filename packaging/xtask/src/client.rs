//! `zero-x` as scripts use it, with a session of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::hub::Hub;
use crate::process;

/// Long enough for a debug build on a loaded machine; no answer takes that long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long counts stand still before they are taken as final. A pass of the evaluator commits every 200 subjects, which
/// takes a debug build on a loaded machine well under this.
const REST: Duration = Duration::from_secs(2);

/// A logged-in client.
#[derive(Debug)]
pub struct Client {
    program: PathBuf,
    home: PathBuf,
}

impl Client {
    /// Logs in at `hub` as its first admin; the session is kept below `home`.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn login(program: &Path, home: &Path, hub: &Hub) -> Result<Self> {
        Self::login_as(program, home, hub, &hub.email, &hub.password)
    }

    /// Logs in at `hub` as any user.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn login_as(
        program: &Path,
        home: &Path,
        hub: &Hub,
        email: &str,
        password: &str,
    ) -> Result<Self> {
        fs::create_dir_all(home).with_context(|| format!("could not make {}", home.display()))?;
        let client = Self {
            program: program.to_owned(),
            home: home.to_owned(),
        };
        let args = [
            "login",
            &hub.url(),
            "--ca-pin",
            &hub.ca_pin,
            "--email",
            email,
            "--password-stdin",
        ];
        process::success(client.output(&args, password)?, "zero-x login")?;
        Ok(client)
    }

    /// Runs any verb; its exit status is the caller's to judge.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn output(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut command = self.command();
        command.args(args);
        process::output(command, input, PATIENCE)
    }

    /// Runs a verb that must succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        process::success(
            self.output(args, "")?,
            &format!("zero-x {}", args.join(" ")),
        )
    }

    /// Runs a list verb and returns its rows.
    ///
    /// # Errors
    /// When it fails or a line is no JSON.
    pub fn rows(&self, args: &[&str]) -> Result<Vec<Value>> {
        let text = self.text(&[args, &["-o", "jsonl"]].concat())?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
            .collect()
    }

    /// Runs a verb and returns its one JSON answer.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.text(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    /// Waits until the hub has judged what it has received: it does so after it has acknowledged it.
    ///
    /// No answer says so outright; this waits until the counts of verdicts and findings have stood still for a while.
    ///
    /// # Errors
    /// When they do not come to rest, or a call fails.
    pub fn wait_judged(&self) -> Result<()> {
        let begun = Instant::now();
        let mut last = (Value::Null, begun);
        loop {
            let overview: Value =
                serde_json::from_str(&self.text(&["api", "GET", "/api/v1/overview"])?)
                    .context("the overview is no JSON")?;
            let counts =
                serde_json::json!([overview.get("verdicts"), overview.get("open_by_severity")]);
            let is_empty = overview
                .get("verdicts")
                .and_then(Value::as_object)
                .is_none_or(serde_json::Map::is_empty);
            if is_empty || counts != last.0 {
                last = (counts, Instant::now());
            } else if last.1.elapsed() > REST {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the hub does not finish judging: {overview}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The program with this client's session.
    #[must_use]
    pub fn command(&self) -> Command {
        process::command(&self.program, &self.home)
    }

    /// Where the session lies.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }
}
