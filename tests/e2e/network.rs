//! Faults of a real network, made by the kernel between the real programs: loss, UDP that is blocked, a link that goes
//! down, paths that carry less than they say, address translation that changes its mind. Nothing is lost, nothing comes
//! twice, and `doctor` names the fault from where the agent is.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use line::agent::Agent;
use line::process::{self, Process};
use tests::network::{Network, Place, within};
use tests::told::{self, PATIENCE, wait_stored};
use tests::{Line, alerts, wait_until};

/// An enrolled agent that follows a file of alerts, in a network.
struct Site {
    line: Line,
    agent: Agent,
    file: PathBuf,
    events: usize,
}

impl Site {
    fn start(network: &Network) -> Result<Self> {
        Self::start_with(network, &[])
    }

    fn start_with(network: &Network, variables: &[(&str, &str)]) -> Result<Self> {
        let (line, agent) = network.line_with(variables)?;
        let address = line.hub.agent_address();
        let args = ["enroll", "--token-file", "-", "--hub", &address];
        let enrolled = agent.output(&args, &line.token()?)?;
        process::success(enrolled, "zero-x-agent enroll")?;
        let file = line.folder().join("alerts.json");
        alerts::append(&file, std::iter::empty())?;
        agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
        Ok(Self {
            line,
            agent,
            file,
            events: 0,
        })
    }

    fn run(&self, settings: &str) -> Result<Process> {
        told::run(&self.agent, self.line.folder(), settings)
    }

    /// Has the manager write so many more alerts.
    fn happen(&mut self, count: usize) -> Result<()> {
        let numbers = self.events..self.events + count;
        self.events += count;
        alerts::append(&self.file, numbers.map(alerts::alert))
    }

    /// Waits until the hub holds every alert, and each once.
    fn wait_stored(&self) -> Result<()> {
        wait_stored(&self.line.client, self.events)
    }

    fn wait_online(&self, transport: &str) -> Result<Duration> {
        let begun = Instant::now();
        told::wait_online(&self.agent, transport)?;
        Ok(begun.elapsed())
    }

    fn doctor_says(&self, verdict: &str, words: &[&str]) -> Result<()> {
        told::doctor_says(&self.agent, self.line.folder(), "", verdict, words)
    }

    /// How often the agent's log holds words.
    fn logged(&self, words: &str) -> Result<usize> {
        Ok(fs::read_to_string(self.agent.log())?.matches(words).count())
    }
}

fn stop(daemon: Process) -> Result<()> {
    daemon.stop(Duration::from_secs(30)).map(drop)
}

/// How much longer events may take where three in ten packets are lost, and how long the first packets may besides: they
/// are waited for one after the other, and where TCP was up first, QUIC is looked for from there. Relative, since this is a build without optimisation beside other tests;
/// `cargo xtask bench-transport` measures the programs as they are installed.
const SLOWER: (u32, Duration) = (5, Duration::from_secs(10));

#[test]
fn at_a_loss_of_thirty_percent_both_ways_events_are_stored_once_and_at_speed_and_doctor_says_so()
-> Result<()> {
    within(|network| {
        let mut site = Site::start(network)?;
        const EVENTS: usize = 5_000;
        site.happen(EVENTS)?;
        let begun = Instant::now();
        site.agent.run_once()?;
        let clean = begun.elapsed();
        network.lose(30)?;
        site.doctor_says("warn", &["loses packets", "did not arrive", "faulty"])?;
        site.happen(EVENTS)?;
        let begun = Instant::now();
        site.agent.run_once()?;
        let took = begun.elapsed();
        let rate = EVENTS as f64 / took.as_secs_f64();
        println!(
            "at 30 % loss both ways: {rate:.0} durable events a second; {took:?}, and {clean:?} without loss"
        );
        site.wait_stored()?;
        let (times, at_first) = SLOWER;
        ensure!(
            took <= clean * times + at_first,
            "{took:?}, and {clean:?} without loss"
        );
        Ok(())
    })
}

#[test]
fn udp_that_is_dropped_or_rejected_costs_two_seconds_at_first_and_some_in_a_session_and_quic_returns()
-> Result<()> {
    within(|network| {
        let mut site = Site::start(network)?;
        network.forward("-p udp -j DROP")?;
        let daemon = site.run("hub.probe_quic_after = \"3s\"\n")?;
        wait_until("the agent starts", PATIENCE, || {
            Ok(told::link(&site.agent).is_ok().then_some(()))
        })?;
        let took = site.wait_online("tcp")?;
        println!(
            "without UDP the session was up after {} ms",
            took.as_millis()
        );
        ensure!(took < Duration::from_secs(2), "{took:?}");
        site.happen(100)?;
        site.wait_stored()?;
        site.doctor_says("warn", &["UDP is blocked", "runs over TCP", "/udp"])?;
        network.mend()?;
        site.wait_online("quic")?;

        // In the midst of a session, with a word from the router.
        network.forward("-p udp -j REJECT")?;
        site.happen(100)?;
        let took = site.wait_online("tcp")?;
        println!(
            "a session without UDP had moved to TCP after {} ms",
            took.as_millis()
        );
        ensure!(took < Duration::from_secs(20), "{took:?}");
        site.happen(100)?;
        site.wait_stored()?;
        site.doctor_says("warn", &["UDP is blocked", "runs over TCP", "/udp"])?;
        network.mend()?;
        site.wait_online("quic")?;
        site.happen(100)?;
        site.wait_stored()?;
        let returns = site.logged("QUIC works again")?;
        ensure!(returns == 2, "QUIC came back {returns} times");
        stop(daemon)
    })
}

#[test]
fn a_link_that_was_down_is_used_again_within_seconds_and_doctor_tells_no_route_from_a_hub_that_is_away()
-> Result<()> {
    within(|network| {
        let mut site = Site::start(network)?;
        let daemon = site.run("")?;
        site.wait_online("quic")?;
        site.happen(100)?;
        site.wait_stored()?;
        network.unplug()?;
        site.happen(500)?;
        thread::sleep(Duration::from_secs(5));
        site.doctor_says("fail", &["this host has no route to", "ip -brief link"])?;
        network.plug_in()?;
        let back = Instant::now();
        site.wait_stored()?;
        println!(
            "everything was stored {} ms after the link was back",
            back.elapsed().as_millis()
        );
        ensure!(
            back.elapsed() < Duration::from_secs(15),
            "{:?}",
            back.elapsed()
        );

        // The agent's link is up, and the way ends further on.
        network.at(Place::Router, "ip link set outside down")?;
        site.happen(500)?;
        thread::sleep(Duration::from_secs(5));
        let words = ["does not answer", "over UDP", "over TCP", "hub runs"];
        site.doctor_says("fail", &words)?;
        network.at(Place::Router, "ip link set outside up")?;
        let back = Instant::now();
        site.wait_stored()?;
        println!(
            "everything was stored {} ms after the way was back",
            back.elapsed().as_millis()
        );
        ensure!(
            back.elapsed() < Duration::from_secs(15),
            "{:?}",
            back.elapsed()
        );
        stop(daemon)
    })
}

#[test]
fn paths_of_1280_bytes_carry_a_session_over_quic_and_tcp_even_if_nobody_says_how_small_they_are()
-> Result<()> {
    within(|network| {
        let mut site = Site::start(network)?;
        // The router's side alone: whoever sends more is told so by it, or loses what it sends.
        network.at(Place::Router, "ip link set outside mtu 1280")?;
        let daemon = site.run("hub.probe_quic_after = \"24h\"\n")?;
        site.wait_online("quic")?;
        site.happen(500)?;
        site.wait_stored()?;
        site.doctor_says("ok", &["over UDP within", "over TCP within"])?;

        // A black hole: nobody tells.
        network.at(Place::Router, "iptables -w -A OUTPUT -p icmp -j DROP")?;
        site.happen(500)?;
        site.wait_stored()?;
        site.doctor_says("ok", &["over UDP within", "over TCP within"])?;
        network.forward("-p udp -j DROP")?;
        site.happen(500)?;
        site.wait_online("tcp")?;
        site.wait_stored()?;
        site.doctor_says("warn", &["UDP is blocked", "runs over TCP"])?;
        stop(daemon)
    })
}

#[test]
fn an_address_translation_that_forgets_and_changes_address_and_port_costs_no_event_and_no_session()
-> Result<()> {
    within(|network| {
        let mut site = Site::start(network)?;
        let masquerade = "iptables -w -t nat -A POSTROUTING -o outside -p PROTOCOL -j MASQUERADE --to-ports 20000-60000 --random";
        for protocol in ["udp", "tcp"] {
            network.at(Place::Router, &masquerade.replace("PROTOCOL", protocol))?;
        }
        let daemon = site.run("")?;
        site.wait_online("quic")?;
        site.happen(300)?;
        site.wait_stored()?;
        for address in ["10.77.0.3", "10.77.0.4"] {
            site.happen(300)?;
            // The kernel forgets what it translated to an address that is gone.
            network.at(Place::Router, "ip addr flush dev outside")?;
            network.at(
                Place::Router,
                &format!("ip addr add {address}/24 dev outside"),
            )?;
            let begun = Instant::now();
            site.happen(300)?;
            site.wait_stored()?;
            let took = begun.elapsed();
            println!(
                "stored {} ms after the agent came from {address}",
                took.as_millis()
            );
            ensure!(took < Duration::from_secs(15), "{took:?}");
        }
        ensure!(site.logged("link up")? == 1, "a session was made anew");
        site.doctor_says("ok", &["over UDP within"])?;

        // Over TCP no connection survives it, and the next is there in seconds.
        network.forward("-p udp -j DROP")?;
        site.happen(100)?;
        site.wait_online("tcp")?;
        site.wait_stored()?;
        network.at(Place::Router, "ip addr flush dev outside")?;
        network.at(Place::Router, "ip addr add 10.77.0.5/24 dev outside")?;
        let begun = Instant::now();
        site.happen(300)?;
        site.wait_stored()?;
        let took = begun.elapsed();
        println!(
            "over TCP: stored {} ms after the agent came from another address",
            took.as_millis()
        );
        ensure!(took < Duration::from_secs(40), "{took:?}");
        stop(daemon)
    })
}
