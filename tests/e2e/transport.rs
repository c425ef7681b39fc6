//! The session on every network: UDP blocked and open again, a proxy on the way, one that looks into TLS, a hub that goes
//! away. `doctor` names each of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use line::agent::Agent;
use line::client::Client;
use line::process;
use line::relay::Relay;
use serde_json::Value;
use tests::proxy::Proxy;
use tests::{Line, alerts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// An agent whose way to the hub is the relay.
struct Behind {
    line: Line,
    relay: Relay,
    agent: Agent,
}

impl Behind {
    fn start() -> Result<Self> {
        let line = Line::start()?;
        let relay = Relay::start(&line.hub.agent_address())?;
        let agent = line.unenrolled("agent")?;
        Ok(Self { line, relay, agent })
    }

    fn enroll(&self) -> Result<()> {
        let args = [
            "enroll",
            "--token-file",
            "-",
            "--hub",
            &self.relay.address(),
        ];
        let enrolled = self.agent.output(&args, &self.line.token()?)?;
        process::success(enrolled, "zero-x-agent enroll").map(drop)
    }

    /// Starts the daemon with settings as an operator would write them into a file.
    fn run(&self, settings: &str) -> Result<process::Process> {
        let file = self.line.folder().join("agent.toml");
        std::fs::write(&file, settings)?;
        let mut command = self.agent.command();
        command.arg("--config").arg(&file).arg("run");
        process::Process::start("the agent", command, &self.agent.log())
    }

    /// Follows a file of alerts, and returns it.
    fn follow(&self) -> Result<std::path::PathBuf> {
        let file = self.line.folder().join("alerts.json");
        alerts::append(&file, std::iter::empty())?;
        let path = format!("path={}", file.display());
        self.agent.source_add("wazuh", "manager", &[&path])?;
        Ok(file)
    }

    /// What the daemon says of its link.
    fn link(&self) -> Result<Value> {
        let told = self.agent.output(&["status", "-o", "json"], "")?;
        let status: Value = serde_json::from_str(&process::success(told, "zero-x-agent status")?)?;
        Ok(status["link"].clone())
    }

    fn wait_online(&self, transport: &str) -> Result<()> {
        wait_until(&format!("a session over {transport}"), PATIENCE, || {
            let link = self.link().unwrap_or_default();
            let is_up = link["state"] == "online" && link["transport"] == transport;
            Ok(is_up.then_some(()))
        })
    }

    /// The lines of `doctor` about the hub, with settings.
    fn doctor(&self, settings: &str) -> Result<(Option<i32>, Vec<Value>)> {
        let file = self.line.folder().join("doctor.toml");
        std::fs::write(&file, settings)?;
        let mut command = self.agent.command();
        command
            .arg("--config")
            .arg(&file)
            .args(["doctor", "-o", "jsonl"]);
        let told = process::output(command, "", PATIENCE)?;
        let text = String::from_utf8(told.stdout)?;
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let lines = lines.with_context(|| text.clone())?;
        let of_hub = lines.into_iter().filter(|line| line["check"] == "hub");
        Ok((told.status.code(), of_hub.collect()))
    }

    #[track_caller]
    fn doctor_says(&self, settings: &str, verdict: &str, words: &[&str]) -> Result<()> {
        let (code, lines) = self.doctor(settings)?;
        let [line] = lines.as_slice() else {
            panic!("one line about the hub: {lines:?}")
        };
        assert_eq!(line["verdict"], verdict, "{line}");
        // Nothing else is broken here, so the exit code is that of this line.
        assert_eq!(code, Some(i32::from(verdict == "fail")), "{line}");
        let text = format!("{} {}", line["detail"], line["fix"]);
        for word in words {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
        Ok(())
    }
}

fn stored(client: &Client) -> Result<BTreeMap<usize, usize>> {
    let mut counts = BTreeMap::new();
    for row in client.rows(&["event", "list"])? {
        let mut numbers = alerts::numbers(&row.to_string());
        // One event may hold its mark in several fields.
        numbers.dedup();
        for number in numbers {
            *counts.entry(number).or_default() += 1;
        }
    }
    Ok(counts)
}

fn wait_stored(client: &Client, number: usize) -> Result<()> {
    let wanted: BTreeMap<usize, usize> = (0..number).map(|number| (number, 1)).collect();
    wait_until(&format!("{number} events are stored"), PATIENCE, || {
        let now = stored(client)?;
        let twice: Vec<_> = now.iter().filter(|(_, count)| **count != 1).collect();
        assert!(twice.is_empty(), "stored more than once: {twice:?}");
        Ok((now == wanted).then_some(()))
    })
}

fn transport_at_the_hub(client: &Client) -> Result<String> {
    let agents = client.rows(&["agent", "list"])?;
    let transport = agents.first().and_then(|agent| agent["transport"].as_str());
    Ok(transport.unwrap_or_default().to_owned())
}

#[test]
fn without_udp_the_session_is_up_over_tcp_within_two_seconds_and_moves_to_quic_once_that_works()
-> Result<()> {
    let here = Behind::start()?;
    here.relay.block_udp(true);
    here.enroll()?;
    let file = here.follow()?;
    let daemon = here.run("hub.probe_quic_after = \"2s\"\n")?;
    let started = wait_until("the agent starts", PATIENCE, || {
        Ok(here.link().is_ok().then(Instant::now))
    })?;
    here.wait_online("tcp")?;
    let took = started.elapsed();
    println!(
        "without UDP the session was up {} ms after the status socket",
        took.as_millis()
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
    alerts::append(&file, (0..100).map(alerts::alert))?;
    wait_stored(&here.line.client, 100)?;
    assert_eq!(transport_at_the_hub(&here.line.client)?, "tcp");
    here.doctor_says("", "warn", &["UDP is blocked", "runs over TCP", "/udp"])?;
    assert_eq!(
        here.link()?["transport"],
        "tcp",
        "doctor left the session alone"
    );

    // Looked for before, and not found.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(here.link()?["transport"], "tcp");
    here.relay.block_udp(false);
    alerts::append(&file, (100..400).map(alerts::alert))?;
    here.wait_online("quic")?;
    alerts::append(&file, (400..500).map(alerts::alert))?;
    wait_stored(&here.line.client, 500)?;
    assert_eq!(transport_at_the_hub(&here.line.client)?, "quic");
    here.doctor_says("", "ok", &["over UDP within", "over TCP within"])?;
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}

#[test]
fn a_hub_that_restarts_under_a_session_over_tcp_is_found_again_and_nothing_is_lost() -> Result<()> {
    let mut here = Behind::start()?;
    here.relay.block_udp(true);
    here.enroll()?;
    let file = here.follow()?;
    let daemon = here.run("")?;
    here.wait_online("tcp")?;
    alerts::append(&file, (0..200).map(alerts::alert))?;
    // In order: the hub says farewell.
    here.line.hub.stop()?;
    alerts::append(&file, (200..400).map(alerts::alert))?;
    here.doctor_says("", "fail", &["over UDP", "over TCP", "hub runs"])?;
    here.line.hub.serve()?;
    wait_stored(&here.line.client, 400)?;
    // As a crash.
    alerts::append(&file, (400..500).map(alerts::alert))?;
    here.line.hub.kill()?;
    alerts::append(&file, (500..600).map(alerts::alert))?;
    here.line.hub.serve()?;
    wait_stored(&here.line.client, 600)?;
    assert_eq!(here.link()?["transport"], "tcp");
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}

#[test]
fn a_session_runs_through_a_proxy_with_credentials_from_a_file_and_doctor_names_what_it_refuses()
-> Result<()> {
    let here = Behind::start()?;
    let hub = here.relay.address();
    here.enroll()?;
    here.relay.block_udp(true);
    let proxy = Proxy::start(&hub, Some("agent:hunter2"))?;
    let credentials = here.line.folder().join("proxy-credentials");
    std::fs::write(&credentials, "agent:hunter2\n")?;
    let named = format!("hub.proxy = \"{}\"\n", proxy.url());
    let settings = format!(
        "{named}hub.proxy_credentials_file = \"{}\"\n",
        credentials.display()
    );
    here.doctor_says(&named, "fail", &["407", "hub.proxy_credentials_file"])?;
    let file = here.follow()?;
    let daemon = here.run(&settings)?;
    here.wait_online("tcp")?;
    alerts::append(&file, (0..100).map(alerts::alert))?;
    wait_stored(&here.line.client, 100)?;
    assert!(proxy.tunnels() > 0, "the agent went around the proxy");
    here.doctor_says(&settings, "warn", &["UDP is blocked"])?;
    proxy.allow("elsewhere:1")?;
    here.doctor_says(&settings, "fail", &["403", "CONNECT"])?;
    daemon.stop(Duration::from_secs(30))?;
    drop(proxy);
    here.doctor_says(
        &settings,
        "fail",
        &["the proxy", "does not answer", "hub.proxy"],
    )?;
    let log = std::fs::read_to_string(here.agent.log())?;
    assert!(!log.contains("hunter2"), "the password is in the log");
    Ok(())
}

#[test]
fn who_answers_with_another_certificate_is_named_and_an_agent_takes_the_next_hub() -> Result<()> {
    let here = Behind::start()?;
    here.enroll()?;
    here.relay.block_udp(true);
    // What looks into TLS answers in the hub's place with a certificate of its own; here it is another hub.
    let stranger = Line::start()?;
    here.relay.point_at(&stranger.hub.agent_address())?;
    here.doctor_says("", "fail", &["issued by", "exempt the hub"])?;
    let token = here.line.token()?;
    let late = here.line.unenrolled("late")?;
    let args = [
        "enroll",
        "--token-file",
        "-",
        "--hub",
        &here.relay.address(),
    ];
    let refused = late.output(&args, &token)?;
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("issued by") && said.contains("exempt the hub"),
        "{said}"
    );

    let hubs = [here.relay.address(), here.line.hub.agent_address()];
    let settings = format!("hub.addresses = [\"{}\", \"{}\"]\n", hubs[0], hubs[1]);
    let daemon = here.run(&settings)?;
    here.wait_online("quic")?;
    assert_eq!(here.link()?["hub"], Value::from(hubs[1].clone()));
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}
