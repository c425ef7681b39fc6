//! The hub's metrics, as Prometheus would ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use line::process;
use tests::{Line, alerts, wait_until};

#[test]
fn a_scrape_tells_queues_commits_bytes_and_sessions_by_organisation_and_no_name() -> Result<()> {
    let address = free()?;
    let line = Line::start_with(&[("ZERO_X_METRICS_LISTEN", &address.to_string())])?;
    let second = line.organisation("hidden-name")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, (0..25).map(alerts::alert))?;
    let agent = line.agent("shy-agent")?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let _running = agent.run()?;
    let events = [("org", line.hub.org_id.as_str()), ("lane", "events")];
    let scrape = wait_until("25 events are counted", Duration::from_secs(60), || {
        let scrape = Scrape::of(address)?;
        let count = scrape.value("zero_x_hub_received_items_total", &events);
        Ok((count == Some(25.0)).then_some(scrape))
    })?;

    let own = [("org", line.hub.org_id.as_str())];
    let other = [("org", second.id.as_str())];
    let session = [("org", line.hub.org_id.as_str()), ("transport", "quic")];
    let at_least = |name: &str, labels: &[(&str, &str)], least: f64| -> Result<()> {
        let value = scrape.value(name, labels);
        ensure!(
            value >= Some(least),
            "{name}{labels:?} is {value:?}, not {least}"
        );
        Ok(())
    };
    at_least("zero_x_hub_received_batches_total", &events, 1.0)?;
    at_least("zero_x_hub_received_bytes_total", &events, 100.0)?;
    at_least("zero_x_hub_quarantined_total", &events, 0.0)?;
    at_least("zero_x_hub_lost_records_total", &events, 0.0)?;
    at_least("zero_x_hub_sessions", &session, 1.0)?;
    at_least("zero_x_hub_queue_batches", &own, 0.0)?;
    at_least("zero_x_hub_store_queue_writes", &own, 0.0)?;
    for org in [&own, &other] {
        at_least("zero_x_hub_store_bytes", org, 10_000.0)?;
    }
    assert_eq!(scrape.value("zero_x_hub_agents", &own), Some(1.0));
    assert_eq!(scrape.value("zero_x_hub_agents", &other), Some(0.0));
    assert_eq!(scrape.value("zero_x_hub_organisations", &[]), Some(2.0));
    at_least("zero_x_hub_store_own_bytes", &[], 10_000.0)?;
    at_least("zero_x_hub_store_queue_reads", &[], 0.0)?;
    at_least("zero_x_hub_store_open_files", &[], 1.0)?;
    at_least("zero_x_hub_store_cache_bytes", &[], 1.0)?;
    at_least("zero_x_hub_store_write_seconds_count", &[], 5.0)?;
    at_least("zero_x_hub_store_commit_seconds_count", &[], 5.0)?;
    at_least("zero_x_hub_store_commit_seconds_sum", &[], 0.000_001)?;
    at_least("zero_x_hub_checks", &[], 100.0)?;
    at_least("process_resident_memory_bytes", &[], 10e6)?;
    at_least("process_cpu_seconds_total", &[], 0.01)?;
    at_least("process_open_fds", &[], 10.0)?;
    assert_eq!(
        scrape
            .families
            .get("zero_x_hub_build_info")
            .map(String::as_str),
        Some("gauge")
    );

    // The manual names every family, whole or as the end of its first name.
    let manual = include_str!("../../docs/metrics.md");
    for family in scrape.families.keys() {
        let is_end = |at: usize| {
            let end = family.get(at..).unwrap_or_default();
            manual.contains(&format!("`…{end}`"))
        };
        let mut ends = family.match_indices('_').map(|(at, _)| at);
        let is_named = manual.contains(&format!("`{family}`")) || ends.any(is_end);
        assert!(is_named, "docs/metrics.md says nothing of {family}");
    }

    // Nothing of an organisation but its id, nothing of an agent or a source.
    for name in [
        "first",
        "hidden-name",
        "shy-agent",
        "manager",
        "agt_",
        "src_",
    ] {
        assert!(!scrape.text.contains(name), "{name}:\n{}", scrape.text);
    }

    let status = process::success(
        process::output(line.hub.command("status"), "", Duration::from_secs(30))?,
        "zero-x-hub status",
    )?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert!(status["work"]["writes"].as_u64() >= Some(5), "{status}");
    assert!(
        status["work"]["write_p50_ms"].as_f64() > Some(0.0),
        "{status}"
    );
    Ok(())
}

#[test]
fn metrics_are_asked_for_at_one_path_by_reading_on_this_machine() -> Result<()> {
    let address = free()?;
    let line = Line::start_with(&[("ZERO_X_METRICS_LISTEN", &address.to_string())])?;
    let begin = |request: &str| -> Result<String> {
        let answer = ask(address, request)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    };
    assert_eq!(begin("GET / HTTP/1.1")?, "HTTP/1.1 404 Not Found");
    assert_eq!(
        begin("POST /metrics HTTP/1.1")?,
        "HTTP/1.1 405 Method Not Allowed"
    );
    assert_eq!(begin("GET /metrics HTTP/1.1")?, "HTTP/1.1 200 OK");
    // Eight that say nothing take every place, and give it back.
    let silent: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(address))
        .collect::<Result<_, _>>()?;
    wait_until(
        "silent ones are hung up on",
        Duration::from_secs(30),
        || {
            let answer = begin("GET /metrics HTTP/1.1");
            Ok(answer.ok().filter(|first| first == "HTTP/1.1 200 OK"))
        },
    )?;
    drop(silent);

    let mut command = line.hub.command("serve");
    command.args(["--metrics-listen", "0.0.0.0:9464"]);
    let done = process::output(command, "", Duration::from_secs(30))?;
    assert_eq!(done.status.code(), Some(78), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        said.contains("not an address of this machine alone"),
        "{said}"
    );
    assert!(said.contains("127.0.0.1:9464"), "{said}");
    Ok(())
}

/// A port of this machine that is free at this moment.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Asks in HTTP/1.1 and returns the whole answer.
fn ask(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "{request}\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Figures that were read strictly by Prometheus' text format 0.0.4.
struct Scrape {
    text: String,
    /// Kind of each family.
    families: BTreeMap<String, String>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Scrape {
    fn of(address: SocketAddr) -> Result<Self> {
        let answer = ask(address, "GET /metrics HTTP/1.1")?;
        let (head, text) = answer
            .split_once("\r\n\r\n")
            .context("no end of the head")?;
        let head = head.to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "{answer}");
        ensure!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        let mut scrape = Self {
            text: text.to_owned(),
            families: BTreeMap::new(),
            samples: BTreeMap::new(),
        };
        let mut explained = BTreeSet::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').context("no help")?;
                ensure!(is_name(name) && !help.is_empty(), "{line}");
                ensure!(explained.insert(name.to_owned()), "{name} comes twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("no type")?;
                ensure!(explained.contains(name), "{name} has no help");
                ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                ensure!((kind == "counter") == name.ends_with("_total"), "{line}");
                name.clone_into(&mut family);
                scrape.families.insert(name.to_owned(), kind.to_owned());
            } else {
                scrape.sample(&family, line)?;
            }
        }
        ensure!(text.ends_with('\n'), "the last line has no end");
        scrape.histograms()?;
        Ok(scrape)
    }

    fn sample(&mut self, family: &str, line: &str) -> Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let value = match value {
            "+Inf" => f64::INFINITY,
            number => number.parse().with_context(|| line.to_owned())?,
        };
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, rest)) => {
                let labels = rest.strip_suffix('}').context("labels without an end")?;
                ensure!(!labels.is_empty(), "{line}");
                (name, labels)
            }
        };
        let is_histogram = self
            .families
            .get(family)
            .is_some_and(|kind| kind == "histogram");
        let own = match is_histogram {
            true => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|end| name.strip_suffix(end) == Some(family)),
            false => name == family,
        };
        ensure!(is_name(name) && own, "{line:?} stands in {family}");
        let mut found = BTreeMap::new();
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once('=').context("a label without a value")?;
            let value = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            let value = value.context("a value without quotes")?;
            let is_known = match key {
                "org" => value.starts_with("org_"),
                "lane" => ["events", "inventory", "cost", "results"].contains(&value),
                "transport" => ["quic", "tcp"].contains(&value),
                "le" | "version" => true,
                _ => false,
            };
            ensure!(is_known, "{line}");
            found.insert(key.to_owned(), value.to_owned());
        }
        let key = (name.to_owned(), found);
        ensure!(
            self.samples.insert(key, value).is_none(),
            "{line} comes twice"
        );
        Ok(())
    }

    /// Buckets grow up to the count.
    fn histograms(&self) -> Result<()> {
        let histograms = self
            .families
            .iter()
            .filter(|(_, kind)| *kind == "histogram");
        for (name, _) in histograms {
            let mut buckets: Vec<(f64, f64)> = Vec::new();
            for ((sample, labels), value) in &self.samples {
                if sample.strip_suffix("_bucket") == Some(name) {
                    let bound = match labels.get("le").context("no bound")?.as_str() {
                        "+Inf" => f64::INFINITY,
                        number => number.parse()?,
                    };
                    buckets.push((bound, *value));
                }
            }
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            ensure!(
                buckets.is_sorted_by(|a, b| a.1 <= b.1),
                "{name}: {buckets:?}"
            );
            let Some((bound, last)) = buckets.last() else {
                bail!("{name} has no buckets");
            };
            let count = self.value(&format!("{name}_count"), &[]);
            ensure!(
                bound.is_infinite() && Some(*last) == count,
                "{name}: {last} of {count:?}"
            );
        }
        Ok(())
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let labels = labels.iter().map(own).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }
}

/// Source: Prometheus, "Metric names and labels": `[a-zA-Z_:][a-zA-Z0-9_:]*`, without the colons,
/// which are for rules.
fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let mut bytes = name.bytes();
    bytes.next().is_some_and(is_letter)
        && bytes.all(|byte| is_letter(byte) || byte.is_ascii_digit())
}
