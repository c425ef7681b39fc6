//! A hub of its own data folder and free ports.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, Process};

/// A debug build derives keys and migrates slowly on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A hub that has been initialised; it serves while `process` is there.
#[derive(Debug)]
pub struct Hub {
    program: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
    settings: Option<PathBuf>,
    variables: Vec<(String, String)>,
    agent_host: Ipv4Addr,
    agent_port: u16,
    api_port: u16,
    /// The organisation that `init` made.
    pub org_id: String,
    /// `sha256:…` of the root CA's key.
    pub ca_pin: String,
    /// Who may log in.
    pub email: String,
    /// With which password; made anew for each hub.
    pub password: String,
}

impl Hub {
    /// Makes a hub's keys, CA, first organisation and its admin below `folder`.
    ///
    /// # Errors
    /// When `zero-x-hub init` fails.
    pub fn init(program: &Path, folder: &Path, org: &str) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        let mut hub = Self {
            program: program.to_owned(),
            folder: folder.to_owned(),
            process: None,
            settings: None,
            variables: Vec::new(),
            agent_host: Ipv4Addr::LOCALHOST,
            agent_port: free_udp_and_tcp_port()?,
            api_port: free_tcp_port()?,
            org_id: String::new(),
            ca_pin: String::new(),
            email: "admin@example.com".to_owned(),
            password: random_hex(16)?,
        };
        let made: Value =
            serde_json::from_str(&process::success(hub.run_init(org)?, "zero-x-hub init")?)
                .context("zero-x-hub init printed no JSON")?;
        let field = |name: &str| -> Result<String> {
            let value = made.get(name).and_then(Value::as_str);
            Ok(value
                .with_context(|| format!("zero-x-hub init printed no {name}"))?
                .to_owned())
        };
        hub.org_id = field("org_id")?;
        hub.ca_pin = field("ca_pin")?;
        Ok(hub)
    }

    /// Runs `init` and returns what it said; the second time it should change nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_init(&self, org: &str) -> Result<Output> {
        let mut command = self.command("init");
        command
            .args([
                "--org",
                org,
                "--admin-email",
                &self.email,
                "--admin-password-stdin",
            ])
            .args(["--public-host", "127.0.0.1"]);
        process::output(command, &self.password, PATIENCE)
    }

    /// Names the file of settings that the hub is served with.
    pub fn configure(&mut self, file: &Path) {
        self.settings = Some(file.to_owned());
    }

    /// Gives every further command a variable, by which a setting can be changed.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts serving on the hub's ports, the same ones after each start.
    ///
    /// # Errors
    /// When it does not come up; the message holds the end of its log.
    pub fn serve(&mut self) -> Result<()> {
        let mut command = self.command("serve");
        command
            .args(["--agent-listen", &self.agent_address()])
            .args(["--api-listen", &format!("127.0.0.1:{}", self.api_port)]);
        if let Some(settings) = &self.settings {
            command.arg("--config").arg(settings);
        }
        let mut process = Process::start("the hub", command, &self.log())?;
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, self.api_port));
        process.wait_ready(PATIENCE, || {
            TcpStream::connect_timeout(&api, Duration::from_secs(1)).ok()
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the hub as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::kill)
    }

    /// Ends the hub in order.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop(Duration::from_secs(30))?;
        }
        Ok(())
    }

    /// The process id while it serves.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Where the API answers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    /// Where agents connect.
    #[must_use]
    pub fn agent_address(&self) -> String {
        format!("{}:{}", self.agent_host, self.agent_port)
    }

    /// Listens for agents on another address of this host from the next start on.
    pub fn listen_on(&mut self, host: Ipv4Addr) {
        self.agent_host = host;
    }

    /// The folder with everything the hub writes, its key file too.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything below the data directory, which is what a thief of the disk would have.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What the hub has written to its outputs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("hub.log")
    }

    /// A command of the hub's own, with its data directory and key file.
    #[must_use]
    pub fn command(&self, verb: &str) -> Command {
        let mut command = process::command(&self.program, &self.folder);
        command
            .arg(verb)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--master-key-file")
            .arg(self.folder.join("master.key"))
            .envs(self.variables.iter().cloned());
        command
    }
}

/// A port that is free for UDP and TCP alike, since the same session runs on both.
fn free_udp_and_tcp_port() -> Result<u16> {
    for _ in 0..64 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = udp.local_addr()?.port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no port is free for both UDP and TCP")
}

fn free_tcp_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Returns `bytes` random bytes in hexadecimal.
///
/// # Errors
/// When the system has no randomness to give.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut buffer)?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
