//! The session on every network: UDP blocked and open again, a proxy on the way, one that looks into TLS, a hub that goes
//! away. `doctor` names each of them.

use std::time::{Duration, Instant};

use anyhow::Result;
use line::agent::Agent;
use line::client::Client;
use line::process;
use line::relay::{Relay, Way};
use serde_json::Value;
use tests::proxy::Proxy;
use tests::told::{self, PATIENCE, wait_stored};
use tests::{Line, alerts, wait_until};

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

    fn run(&self, settings: &str) -> Result<process::Process> {
        told::run(&self.agent, self.line.folder(), settings)
    }

    /// Follows a file of alerts, and returns it.
    fn follow(&self) -> Result<std::path::PathBuf> {
        let file = self.line.folder().join("alerts.json");
        alerts::append(&file, std::iter::empty())?;
        let path = format!("path={}", file.display());
        self.agent.source_add("wazuh", "manager", &[&path])?;
        Ok(file)
    }

    fn link(&self) -> Result<Value> {
        told::link(&self.agent)
    }

    fn wait_online(&self, transport: &str) -> Result<()> {
        told::wait_online(&self.agent, transport)
    }

    fn doctor_says(&self, settings: &str, verdict: &str, words: &[&str]) -> Result<()> {
        told::doctor_says(&self.agent, self.line.folder(), settings, verdict, words)
    }
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

#[test]
fn over_a_way_of_200_ms_that_reorders_and_repeats_events_are_stored_once_and_at_speed() -> Result<()>
{
    let here = Behind::start()?;
    here.enroll()?;
    here.relay.lengthen(Way {
        delay: Duration::from_millis(200),
        overtaking: 10,
        twice: 10,
    });
    let file = here.follow()?;
    here.doctor_says("", "ok", &["a round trip takes", "over UDP within"])?;
    const EVENTS: usize = 10_000;
    alerts::append(&file, (0..EVENTS).map(alerts::alert))?;
    let begun = Instant::now();
    here.agent.run_once()?;
    let rate = EVENTS as f64 / begun.elapsed().as_secs_f64();
    println!("over 400 ms there and back: {rate:.0} durable events a second");
    wait_stored(&here.line.client, EVENTS)?;
    // Some 2,500 where nothing else runs; this is a build without optimisation beside other tests.
    assert!(rate >= 200.0, "{rate:.0} events a second");
    let log = std::fs::read_to_string(here.agent.log())?;
    assert!(log.contains("transport=\"quic\""), "{log}");
    Ok(())
}

#[test]
fn a_name_without_an_address_and_a_clock_that_is_off_are_named() -> Result<()> {
    let here = Behind::start()?;
    here.enroll()?;
    let settings = "hub.addresses = [\"hub.invalid:7443\"]\n";
    let words = [
        "could not find an address of hub.invalid:7443",
        "name service",
    ];
    here.doctor_says(settings, "fail", &words)?;
    let Some(faketime) = tests::network::tool("faketime").ok() else {
        println!(
            "skipped: a_name_without_an_address_and_a_clock_that_is_off_are_named: no faketime"
        );
        return Ok(());
    };
    for (offset, check, verdict, words) in [
        ("+2h", "clock and hub", "warn", "s ahead of the hub's"),
        ("-5m", "clock and hub", "warn", "s behind the hub's"),
        (
            "-2d",
            "clock",
            "fail",
            "before this agent's certificate begins",
        ),
    ] {
        let inner = here.agent.command();
        let mut command = std::process::Command::new(&faketime);
        command
            .args(["-f", offset])
            .arg(inner.get_program())
            .args(inner.get_args())
            .args(["doctor", "-o", "jsonl"]);
        let told = process::output(command, "", PATIENCE)?;
        let lines = String::from_utf8(told.stdout)?;
        let named = lines.lines().find(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            let detail = line["detail"].as_str().unwrap_or_default();
            line["check"] == check && line["verdict"] == verdict && detail.contains(words)
        });
        assert!(named.is_some(), "no {words:?} at {offset} in {lines}");
    }
    Ok(())
}

#[test]
fn a_suspended_agent_says_so_and_doctor_says_who_decides() -> Result<()> {
    let here = Behind::start()?;
    here.enroll()?;
    let file = here.follow()?;
    let daemon = here.run("")?;
    here.wait_online("quic")?;
    let agents = here.line.client.rows(&["agent", "list"])?;
    let id = agents[0]["id"].as_str().unwrap_or_default().to_owned();
    let suspend = ["agent", "suspend", &id, "--reason", "moved"];
    here.line.client.json(&suspend)?;
    // One that is refused at its greeting, and not in its session.
    daemon.stop(Duration::from_secs(30))?;
    let daemon = here.run("")?;
    let words = "sends this agent away for the time being: this agent is suspended";
    wait_until("it is told", PATIENCE, || {
        let error = here.link().unwrap_or_default()["error"].to_string();
        Ok(error.contains(words).then_some(()))
    })?;
    here.doctor_says("", "fail", &[words, "zero-x agent resume"])?;
    alerts::append(&file, (0..50).map(alerts::alert))?;
    let resume = ["agent", "resume", &id, "--reason", "arrived"];
    here.line.client.json(&resume)?;
    wait_stored(&here.line.client, 50)?;
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}

#[test]
fn a_session_on_the_second_hub_returns_to_the_first_when_that_is_back() -> Result<()> {
    let here = Behind::start()?;
    here.enroll()?;
    let file = here.follow()?;
    // Both lead to the same hub; the first is away.
    let first = Relay::start("127.0.0.1:9")?;
    let hubs = [first.address(), here.relay.address()];
    let settings = format!(
        "hub.addresses = [\"{}\", \"{}\"]\nhub.return_after = \"2s\"\n",
        hubs[0], hubs[1]
    );
    let daemon = here.run(&settings)?;
    here.wait_online("quic")?;
    assert_eq!(here.link()?["hub"], Value::from(hubs[1].clone()));
    alerts::append(&file, (0..100).map(alerts::alert))?;
    first.point_at(&here.line.hub.agent_address())?;
    wait_until("the session returns", PATIENCE, || {
        let link = here.link()?;
        let is_back = link["hub"] == hubs[0].as_str() && link["state"] == "online";
        Ok(is_back.then_some(()))
    })?;
    alerts::append(&file, (100..200).map(alerts::alert))?;
    wait_stored(&here.line.client, 200)?;
    daemon.stop(Duration::from_secs(30))?;
    Ok(())
}
