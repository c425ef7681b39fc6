//! A network of its own for a test: agent, router and hub, each in a network namespace of Linux.
//!
//! ```text
//! agent0 10.78.0.2 ─── inside 10.78.0.1 │ router │ outside 10.77.0.2 ─── hub0 10.77.0.1
//! ```
//! Faults are made on the router by `iptables`, or with the links, by `ip`. A test runs its own program once more in the
//! hub's namespace, so that everything which it starts is there, but for the agent. Packets are never longer than a link
//! carries, as on a real wire: a fault takes single packets and not bundles of them.

use std::any::type_name;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use line::agent::{Agent, Credentials};
use line::process;
use tempfile::TempDir;

use crate::{Line, built};

/// Where the hub listens.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Names the network of a test that runs in it.
const VARIABLE: &str = "ZERO_X_TEST_NETWORK";

/// No test takes that long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// One command of `ip` or `iptables`.
const MOMENT: Duration = Duration::from_secs(10);

/// Distinguishes the networks of one run.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// One end of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the agent is.
    Agent,
    /// On the way.
    Router,
    /// Where the hub is.
    Hub,
}

impl Place {
    const ALL: [Self; 3] = [Self::Agent, Self::Router, Self::Hub];

    const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Router => "router",
            Self::Hub => "hub",
        }
    }
}

/// A network.
#[derive(Debug)]
pub struct Network {
    name: String,
}

/// Runs a test in a network of its own, in the hub's place; where there can be none, says so and does not run it.
///
/// # Errors
/// When the test fails.
///
/// # Panics
/// When what is given is no closure of a test.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a test's output")]
pub fn within<F: FnOnce(&Network) -> Result<()>>(test: F) -> Result<()> {
    if let Some(network) = inside() {
        return test(&network);
    }
    let path = type_name::<F>();
    let path = path.split_once("::").map_or(path, |(_, path)| path);
    let path = path.strip_suffix("::{{closure}}");
    let path = path.expect("a closure of a test");
    let network = match Scaffold::put_up() {
        Ok(network) => network,
        Err(missing) => {
            println!("skipped: {path}: {missing:#}");
            return Ok(());
        }
    };
    built()?;
    let done = network.run_again(&[path, "--exact", "--nocapture", "--test-threads", "1"])?;
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    eprintln!("{}", String::from_utf8_lossy(&done.stderr));
    ensure!(
        done.status.success() && said.contains("1 passed"),
        "{path} failed in its network"
    );
    Ok(())
}

/// The network that this program runs in, where it does.
#[must_use]
pub fn inside() -> Option<Network> {
    let name = std::env::var(VARIABLE).ok()?;
    Some(Network { name })
}

impl Network {
    fn place(&self, place: Place) -> String {
        format!("{}-{}", self.name, place.word())
    }

    /// Starts a hub and an agent that is not enrolled, each in its place.
    ///
    /// # Errors
    /// When a program is missing or does not come up.
    pub fn line(&self) -> Result<(Line, Agent)> {
        self.line_with(&[])
    }

    /// The same with settings of the hub, by variables.
    ///
    /// # Errors
    /// When a program is missing or does not come up.
    pub fn line_with(&self, variables: &[(&str, &str)]) -> Result<(Line, Agent)> {
        let line = Line::start_on(HUB, variables)?;
        let agent = self.agent(&line, "agent")?;
        Ok((line, agent))
    }

    /// An agent that is not enrolled, in its place.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn agent(&self, line: &Line, name: &str) -> Result<Agent> {
        let program = self.script(&line.programs().agent, line.folder())?;
        Agent::new(&program, &line.folder().join(name), Credentials::Emulator)
    }

    /// Writes a script that runs a program in the agent's place.
    fn script(&self, program: &Path, folder: &Path) -> Result<PathBuf> {
        let script = folder.join("agent-in-its-network");
        let text = format!(
            "#!/bin/sh\nexec {} netns exec {} {} \"$@\"\n",
            tool("ip")?.display(),
            self.place(Place::Agent),
            program.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
        Ok(script)
    }

    /// Runs a command in a place, words apart by spaces: `at(Place::Router, "iptables -A FORWARD -p udp -j DROP")`.
    ///
    /// # Errors
    /// When it fails; the message holds what it said.
    pub fn at(&self, place: Place, words: &str) -> Result<()> {
        let mut words = words.split_whitespace();
        let program = tool(words.next().context("no command")?)?;
        let mut command = Command::new(tool("ip")?);
        command
            .args(["netns", "exec", &self.place(place)])
            .arg(program)
            .args(words);
        told(command).map(drop)
    }

    /// Adds a rule for what the router passes on.
    ///
    /// # Errors
    /// When it is refused.
    pub fn forward(&self, rule: &str) -> Result<()> {
        self.at(Place::Router, &format!("iptables -w -A FORWARD {rule}"))
    }

    /// Loses so many of a hundred packets, both ways.
    ///
    /// # Errors
    /// When the rule is refused.
    pub fn lose(&self, of_hundred: u8) -> Result<()> {
        let chance = format!("0.{of_hundred:02}");
        self.forward(&format!(
            "-m statistic --mode random --probability {chance} -j DROP"
        ))
    }

    /// Lets everything pass again.
    ///
    /// # Errors
    /// When the rules cannot be removed.
    pub fn mend(&self) -> Result<()> {
        self.at(Place::Router, "iptables -w -F FORWARD")
    }

    /// Takes the agent's link down.
    ///
    /// # Errors
    /// When it stays.
    pub fn unplug(&self) -> Result<()> {
        self.at(Place::Agent, "ip link set agent0 down")
    }

    /// Brings the agent's link up again, with its route.
    ///
    /// # Errors
    /// When it stays down.
    pub fn plug_in(&self) -> Result<()> {
        self.at(Place::Agent, "ip link set agent0 up")?;
        self.at(Place::Agent, "ip route add default via 10.78.0.1")
    }

    fn put_up(&self) -> Result<()> {
        for place in Place::ALL {
            ip(&format!("netns add {}", self.place(place)))?;
            ip(&format!("-n {} link set lo up", self.place(place)))?;
        }
        let link = |(place, name, address): (Place, &str, &str),
                    (other, peer, peers): (Place, &str, &str)|
         -> Result<()> {
            let (place, other) = (self.place(place), self.place(other));
            ip(&format!(
                "link add {name} netns {place} type veth peer name {peer} netns {other}"
            ))?;
            for (place, name, address) in [(place, name, address), (other, peer, peers)] {
                // A bundle of packets would be lost as one.
                ip(&format!("-n {place} link set {name} gso_max_segs 1"))?;
                ip(&format!("-n {place} addr add {address}/24 dev {name}"))?;
                ip(&format!("-n {place} link set {name} up"))?;
            }
            Ok(())
        };
        link(
            (Place::Agent, "agent0", "10.78.0.2"),
            (Place::Router, "inside", "10.78.0.1"),
        )?;
        link(
            (Place::Hub, "hub0", "10.77.0.1"),
            (Place::Router, "outside", "10.77.0.2"),
        )?;
        self.at(Place::Agent, "ip route add default via 10.78.0.1")?;
        self.at(Place::Hub, "ip route add default via 10.77.0.2")?;
        let mut command = Command::new(tool("ip")?);
        command
            .args(["netns", "exec", &self.place(Place::Router), "sh", "-c"])
            .arg("echo 1 > /proc/sys/net/ipv4/ip_forward");
        told(command)?;
        // Whether there is what the tests need.
        self.lose(30)?;
        self.mend()
    }
}

/// Takes a network down when it is dropped.
#[derive(Debug)]
pub struct Scaffold(Network);

impl Scaffold {
    /// Makes the namespaces and what is between them.
    ///
    /// # Errors
    /// What is missing: it takes root, `ip` and `iptables`.
    pub fn put_up() -> Result<Self> {
        let is_root = fs::metadata("/proc/self")?.uid() == 0;
        ensure!(is_root, "network namespaces take root");
        for program in ["ip", "iptables"] {
            tool(program)?;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("zero-x-{}-{number}", std::process::id());
        let scaffold = Self(Network { name });
        scaffold.0.put_up()?;
        Ok(scaffold)
    }

    /// Runs this program once more, in the hub's place, where it finds itself [`inside`].
    ///
    /// # Errors
    /// When it cannot be started or hangs; its exit status is the caller's to judge.
    pub fn run_again(&self, args: &[&str]) -> Result<Output> {
        let home = TempDir::with_prefix("zero-x-")?;
        let mut command = process::command(&tool("ip")?, home.path());
        command
            .args(["netns", "exec", &self.0.place(Place::Hub)])
            .arg(std::env::current_exe()?)
            .args(args)
            .env(VARIABLE, &self.0.name);
        process::output(command, "", PATIENCE)
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        for place in Place::ALL {
            // One that was never made cannot be removed.
            let _absent = ip(&format!("netns del {}", self.0.place(place)));
        }
    }
}

/// Where a program lies; a user's path often lacks the folders of the system's.
///
/// # Errors
/// When it is nowhere.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let mut found = folders.map(|folder| Path::new(folder).join(name));
    found
        .find(|program| program.is_file())
        .ok_or_else(|| anyhow!("there is no `{name}`"))
}

fn ip(words: &str) -> Result<()> {
    let mut command = Command::new(tool("ip")?);
    command.args(words.split_whitespace());
    told(command).map(drop)
}

fn told(command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    process::success(process::output(command, "", MOMENT)?, &shown)
}
