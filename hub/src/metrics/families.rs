//! The families of figures: their names, kinds and meanings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use protocol::frame::Lane;
use protocol::ids::OrgId;
use store::{Latency, Load};

use super::process::Process;
use crate::ingest::Length;
use crate::live::Received;

/// Figures as they are collected. A family without any is left out.
#[derive(Default)]
pub(super) struct Families {
    done: Vec<MetricFamily>,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// What a figure is, in Prometheus' words.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// It goes up and down.
    Gauge,
    /// It counts from the start of the hub on.
    Counter,
}

const fn lane_word(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Events => "events",
        Lane::Inventory => "inventory",
        Lane::Cost => "cost",
        Lane::Results => "results",
    }
}

/// A number as Prometheus has them: exact up to 2⁵³.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format knows no other numbers"
)]
fn float(number: u64) -> f64 {
    number as f64
}

fn size(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn labelled(labels: Labels<'_>) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

impl Families {
    /// Returns them all.
    pub(super) fn done(self) -> Vec<MetricFamily> {
        self.done
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.done.push(family);
    }

    /// Adds a family; each figure has its labels.
    fn each<'a, L: AsRef<[(&'a str, &'a str)]>>(
        &mut self,
        (name, kind): (&str, Kind),
        help: &str,
        figures: impl IntoIterator<Item = (L, f64)>,
    ) {
        let metrics = figures.into_iter().map(|(labels, value)| {
            let mut metric = labelled(labels.as_ref());
            match kind {
                Kind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
            }
            metric
        });
        let metrics = metrics.collect();
        let kind = match kind {
            Kind::Gauge => MetricType::GAUGE,
            Kind::Counter => MetricType::COUNTER,
        };
        self.push(name, help, kind, metrics);
    }

    /// Adds a family of one figure without labels.
    fn one(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.each((name, kind), help, [([], value)]);
    }

    /// Adds a family with a figure for each organisation.
    fn by_org(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        figures: impl IntoIterator<Item = (OrgId, u64)>,
    ) {
        let metrics: Vec<(String, u64)> = figures
            .into_iter()
            .map(|(org, value)| (org.to_string(), value))
            .collect();
        let metrics = metrics
            .iter()
            .map(|(org, value)| ([("org", org.as_str())], float(*value)));
        self.each((name, kind), help, metrics);
    }

    fn histogram(&mut self, name: &str, help: &str, latency: &Latency) {
        let buckets = latency.buckets().map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound.as_secs_f64());
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(latency.count());
        histogram.set_sample_sum(latency.sum().as_secs_f64());
        let mut metric = labelled(&[]);
        metric.set_histogram(histogram);
        self.push(name, help, MetricType::HISTOGRAM, vec![metric]);
    }

    /// What the hub is.
    pub(super) fn hub(&mut self, started_at: Timestamp, checks: usize) {
        self.each(
            ("zero_x_hub_build_info", Kind::Gauge),
            "The running program; always 1.",
            [([("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        );
        self.one(
            "zero_x_hub_start_time_seconds",
            Kind::Gauge,
            "When the hub began to serve, seconds since 1970 UTC.",
            started_at.as_duration().as_secs_f64(),
        );
        self.one(
            "zero_x_hub_checks",
            Kind::Gauge,
            "Checks in force.",
            float(size(checks)),
        );
    }

    /// What each organisation has.
    pub(super) fn organisations(
        &mut self,
        bytes: &BTreeMap<OrgId, u64>,
        agents: &BTreeMap<OrgId, u64>,
    ) {
        self.one(
            "zero_x_hub_organisations",
            Kind::Gauge,
            "Organisations of this hub.",
            float(size(bytes.len())),
        );
        self.by_org(
            "zero_x_hub_store_bytes",
            Kind::Gauge,
            "Bytes of an organisation's file.",
            bytes.iter().map(|(org, bytes)| (*org, *bytes)),
        );
        self.by_org(
            "zero_x_hub_agents",
            Kind::Gauge,
            "Agents that are enrolled and not revoked.",
            bytes
                .keys()
                .map(|org| (*org, agents.get(org).copied().unwrap_or(0))),
        );
    }

    /// Who is connected.
    pub(super) fn sessions(&mut self, sessions: &BTreeMap<(OrgId, &'static str), (u64, u64)>) {
        let rows: Vec<(String, &str, u64, u64)> = sessions
            .iter()
            .map(|((org, transport), (open, slow))| (org.to_string(), *transport, *open, *slow))
            .collect();
        self.each(
            ("zero_x_hub_sessions", Kind::Gauge),
            "Sessions of agents that are open, by transport: quic or tcp.",
            rows.iter().map(|(org, transport, open, _)| {
                (
                    [("org", org.as_str()), ("transport", *transport)],
                    float(*open),
                )
            }),
        );
        self.each(
            ("zero_x_hub_sessions_throttled", Kind::Gauge),
            "Those of them that are read more slowly because of a quota.",
            rows.iter().map(|(org, transport, _, slow)| {
                (
                    [("org", org.as_str()), ("transport", *transport)],
                    float(*slow),
                )
            }),
        );
    }

    /// What agents have sent.
    pub(super) fn received(&mut self, counts: &BTreeMap<(OrgId, Lane), Received>) {
        type Part = fn(&Received) -> u64;
        let families: [(&str, &str, Part); 7] = [
            (
                "zero_x_hub_received_batches_total",
                "Batches that were stored.",
                |sum| sum.batches,
            ),
            (
                "zero_x_hub_received_items_total",
                "Items of the batches that were stored, refused ones included.",
                |sum| sum.items,
            ),
            (
                "zero_x_hub_received_bytes_total",
                "Bytes of the batches that were stored, compressed.",
                |sum| sum.bytes,
            ),
            (
                "zero_x_hub_repeated_batches_total",
                "Batches that had been stored before and met the store again, without effect.",
                |sum| sum.repeats,
            ),
            (
                "zero_x_hub_refused_batches_total",
                "Batches after a gap, which their agents are asked for again.",
                |sum| sum.gaps,
            ),
            (
                "zero_x_hub_quarantined_total",
                "Refusals of items that were put into quarantine.",
                |sum| sum.quarantined,
            ),
            (
                "zero_x_hub_lost_records_total",
                "Records that agents, or an operator, have told to be lost.",
                |sum| sum.lost,
            ),
        ];
        let orgs: Vec<(String, Lane, &Received)> = counts
            .iter()
            .map(|((org, lane), sum)| (org.to_string(), *lane, sum))
            .collect();
        for (name, help, part) in families {
            let figures = orgs.iter().map(|(org, lane, sum)| {
                let labels = [("org", org.as_str()), ("lane", lane_word(*lane))];
                (labels, float(part(sum)))
            });
            self.each((name, Kind::Counter), help, figures);
        }
    }

    /// The queue before the store.
    pub(super) fn queues(&mut self, lengths: &BTreeMap<OrgId, Length>) {
        self.by_org(
            "zero_x_hub_queue_batches",
            Kind::Gauge,
            "Batches that wait for their turn before the store, of organisations with sessions.",
            lengths.iter().map(|(org, length)| (*org, length.waiting)),
        );
        self.by_org(
            "zero_x_hub_queue_batches_at_work",
            Kind::Gauge,
            "Batches in the store's hands, of organisations with sessions.",
            lengths.iter().map(|(org, length)| (*org, length.at_work)),
        );
    }

    /// What the store has to do.
    pub(super) fn store(&mut self, load: &Load, own_bytes: u64) {
        self.by_org(
            "zero_x_hub_store_queue_writes",
            Kind::Gauge,
            "Writes that wait for the next commit, of organisations that were used since the start.",
            load.waiting_writes_of
                .iter()
                .map(|(org, waiting)| (*org, size(*waiting))),
        );
        let figures = [
            (
                "zero_x_hub_store_own_queue_writes",
                "Writes of the hub's own rows that wait for the next commit.",
                size(load.waiting_writes),
            ),
            (
                "zero_x_hub_store_queue_reads",
                "Reads that wait for their turn.",
                size(load.waiting_reads),
            ),
            (
                "zero_x_hub_store_own_bytes",
                "Bytes of the hub's own file.",
                own_bytes,
            ),
            (
                "zero_x_hub_store_open_files",
                "Organisations' files that are open.",
                size(load.open_files),
            ),
            (
                "zero_x_hub_store_open_files_limit",
                "Organisations' files from which the one that was used longest ago is closed.",
                size(load.open_files_bound),
            ),
            (
                "zero_x_hub_store_cache_bytes",
                "Most bytes that the page caches of the open files may take.",
                size(load.cache_bytes),
            ),
            (
                "zero_x_hub_store_cache_bytes_limit",
                "Most bytes that the page caches of all files together may take.",
                size(load.cache_bytes_bound),
            ),
        ];
        for (name, help, value) in figures {
            self.one(name, Kind::Gauge, help, float(value));
        }
        self.one(
            "zero_x_hub_store_failed_writes_total",
            Kind::Counter,
            "Writes that were not stored because the disk or the store failed.",
            float(load.failed_writes),
        );
        self.histogram(
            "zero_x_hub_store_write_seconds",
            "From when a write came until it was durable, its wait in the queue included.",
            &load.writes,
        );
        self.histogram(
            "zero_x_hub_store_commit_seconds",
            "From the beginning of a group of writes until its sync.",
            &load.commits,
        );
    }

    /// What the process takes, under the names that Prometheus' own libraries use.
    pub(super) fn process(&mut self, process: &Process) {
        if let Some(seconds) = process.cpu_seconds {
            let help = "Processor time, user and system.";
            self.one("process_cpu_seconds_total", Kind::Counter, help, seconds);
        }
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Memory that is resident.",
                process.resident_bytes,
            ),
            (
                "process_open_fds",
                "File descriptors that are open.",
                process.open_fds,
            ),
            (
                "process_max_fds",
                "Most file descriptors that may be open.",
                process.max_fds,
            ),
            ("process_threads", "Threads.", process.threads),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                self.one(name, Kind::Gauge, help, float(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn text(fill: impl FnOnce(&mut Families)) -> String {
        let mut families = Families::default();
        fill(&mut families);
        TextEncoder::new()
            .encode_to_string(&families.done())
            .unwrap()
    }

    #[test]
    fn what_agents_sent_is_counted_by_organisation_and_lane() {
        let org = OrgId::from_bytes([7; 16]);
        let sum = Received {
            batches: 2,
            items: 300,
            quarantined: 1,
            ..Received::NOTHING
        };
        let counts = BTreeMap::from([((org, Lane::Events), sum)]);
        let text = text(|families| families.received(&counts));
        let want = format!(
            "# HELP zero_x_hub_received_items_total Items of the batches that were stored, refused \
             ones included.\n\
             # TYPE zero_x_hub_received_items_total counter\n\
             zero_x_hub_received_items_total{{org=\"{org}\",lane=\"events\"}} 300\n"
        );
        assert!(text.contains(&want), "{text}");
        let quarantined =
            format!("zero_x_hub_quarantined_total{{org=\"{org}\",lane=\"events\"}} 1\n");
        assert!(text.contains(&quarantined), "{text}");
    }

    #[test]
    fn a_family_without_figures_is_left_out() {
        assert_eq!(text(|families| families.received(&BTreeMap::new())), "");
    }
}
