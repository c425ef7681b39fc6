//! The AWS emulator, `packaging/demo/emulator.py`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Process, append};
use crate::programs::checkout;

/// The most that one answer of the emulator's control may hold.
const ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// A running emulator; dropping it ends it.
#[derive(Debug)]
pub struct Emulator {
    process: Process,
    address: String,
}

impl Emulator {
    /// Starts an empty emulated account on a free port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(python: &Path, folder: &Path) -> Result<Self> {
        let log = folder.join("emulator.log");
        let mut command = isolated(python, folder);
        command
            .arg(checkout().join("packaging/demo/emulator.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(append(&log)?);
        let mut process = Process::spawn("the AWS emulator", command, &log)?;
        let output = process
            .child()
            .stdout
            .take()
            .context("the emulator has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("the AWS emulator did not start\n{}", process.log_tail()))?;
        let address = ready
            .get("endpoint")
            .and_then(Value::as_str)
            .and_then(|endpoint| endpoint.strip_prefix("http://"))
            .context("the emulator named no endpoint")?
            .to_owned();
        Ok(Self { process, address })
    }

    /// The process id, for reading `/proc`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The base URL of every AWS service.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Fills the account with the demo's small company; returns how many resources of each kind were made.
    ///
    /// # Errors
    /// When the seeder fails.
    pub fn seed(&self, python: &Path, folder: &Path) -> Result<Value> {
        let done = isolated(python, folder)
            .arg(checkout().join("packaging/demo/seed.py"))
            .arg(self.endpoint())
            .output()
            .context("could not start the seeder")?;
        ensure!(
            done.status.success(),
            "could not fill the emulated account: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        serde_json::from_slice(&done.stdout).context("the seeder's answer is no JSON")
    }

    /// Refuses one call from here on, as IAM would: `s3:GetBucketPolicy`.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub fn deny(&self, call: &str) -> Result<()> {
        self.control(&format!("deny?call={call}")).map(drop)
    }

    /// Answers the call again.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub fn allow(&self, call: &str) -> Result<()> {
        self.control(&format!("deny?call={call}&action=allow"))
            .map(drop)
    }

    /// How often each call was made since the last time this was asked.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub fn take_calls(&self) -> Result<Value> {
        self.control("calls?reset=true")
    }

    /// Deletes an empty bucket of the account.
    ///
    /// # Errors
    /// When there is none, or the emulator does not answer.
    pub fn delete_bucket(&self, name: &str) -> Result<()> {
        // moto takes an unsigned request for one to S3.
        self.request("DELETE", &format!("/{name}")).map(drop)
    }

    fn control(&self, path: &str) -> Result<Value> {
        let body = self.request("POST", &format!("/_emulator/{path}"))?;
        serde_json::from_str(&body).context("the emulator's answer is no JSON")
    }

    fn request(&self, method: &str, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address).context("the emulator is gone")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
            self.address
        )?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("the emulator's answer has no end of headers")?;
        ensure!(
            head.contains(" 200 ") || head.contains(" 204 "),
            "the emulator refused {path}: {head} {body}"
        );
        Ok(body.to_owned())
    }
}

/// A Python of the private environment that sees none of the caller's cloud credentials.
fn isolated(python: &Path, folder: &Path) -> Command {
    let mut command = crate::process::command(python, folder);
    command.arg("-I").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
