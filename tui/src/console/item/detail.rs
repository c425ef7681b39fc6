//! What the detail of a row says, as labelled lines in tabs.

use jiff::Timestamp;
use protocol::api::{Agent, Event, Finding, Resource, Source};
use protocol::document::Gap;
use serde_json::Value;
use std::collections::BTreeMap;

use super::Item;
use super::columns::{age, finding_state, minute, open_findings, since};

/// Longest value that stays on its label's line, in characters of JSON; a longer one is spread.
const INLINE: usize = 60;

/// One labelled text of a detail; it may take several lines of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// What it is; empty for a continuation.
    pub(crate) label: String,
    /// What it says.
    pub(crate) text: String,
    /// Names somebody's things: hidden by the privacy mask.
    pub(crate) is_private: bool,
}

fn line(label: &str, text: impl Into<String>) -> Line {
    Line {
        label: label.to_owned(),
        text: text.into(),
        is_private: false,
    }
}

fn private(label: &str, text: impl Into<String>) -> Line {
    Line {
        is_private: true,
        ..line(label, text)
    }
}

impl Item {
    /// Returns the words that stand above the detail, and whether the privacy mask hides them.
    pub(crate) fn headline(&self) -> (String, bool) {
        match self {
            Self::Finding(finding) => (format!("Broken rule: {}", finding.title), false),
            Self::Resource(resource) => (resource.document.name.clone(), true),
            Self::Event(event) => (event.action.clone(), false),
            Self::Agent(agent) => (format!("Agent {}", agent.name), true),
            Self::Source(source) => (format!("Source {}", source.name), true),
        }
    }

    /// Returns the names of the parts of its detail.
    pub(crate) const fn tabs(&self) -> &'static [&'static str] {
        match self {
            Self::Finding(_) => &["summary", "evidence", "fix", "history"],
            Self::Resource(_) => &["summary", "config", "relations"],
            Self::Event(_) => &["summary", "raw"],
            Self::Agent(_) | Self::Source(_) => &["summary"],
        }
    }

    /// Returns one part of its detail, by its place in [`Item::tabs`].
    pub(crate) fn detail(&self, tab: usize, now: Timestamp) -> Vec<Line> {
        match self {
            Self::Finding(finding) => match tab {
                0 => finding_summary(finding, now),
                1 => evidence(finding),
                2 => fix(finding),
                _ => history(finding),
            },
            Self::Resource(resource) => match tab {
                0 => resource_summary(resource, now),
                1 => config(resource),
                _ => relations(resource),
            },
            Self::Event(event) => match tab {
                0 => event_summary(event),
                _ => raw(event),
            },
            Self::Agent(agent) => agent_summary(agent, now),
            Self::Source(source) => source_summary(source, now),
        }
    }
}

fn finding_summary(finding: &Finding, now: Timestamp) -> Vec<Line> {
    let (state, _) = finding_state(finding);
    let mut words = format!(
        "{state} since {} ({}), last seen {}",
        minute(finding.first_seen),
        age(finding.first_seen, now),
        minute(finding.last_seen)
    );
    if let Some(at) = finding.resolved_at {
        words.push_str(&format!(", resolved {}", minute(at)));
    }
    let mut lines = vec![line("State", words)];
    if let Some(at) = finding.unknown_since {
        lines.push(line(
            "Unknown",
            format!(
                "since {}: its facts can no longer be read, so nobody knows whether it still stands",
                minute(at)
            ),
        ));
    }
    if let Some(mute) = &finding.mute {
        lines.push(private(
            "Muted",
            format!(
                "until {} by {}: {}",
                minute(mute.until),
                mute.by,
                mute.reason
            ),
        ));
    }
    let factors: Vec<String> = finding
        .risk
        .factors
        .iter()
        .map(|factor| format!("{} {:+}", factor.name, factor.points))
        .collect();
    let why = if factors.is_empty() { "" } else { ": " };
    lines.push(line(
        "Risk",
        format!("{} of 100{why}{}", finding.risk.score, factors.join(", ")),
    ));
    lines.push(private("Resource", finding.resource.urn.clone()));
    if finding.cause.urn != finding.resource.urn {
        lines.push(private("Cause", finding.cause.urn.clone()));
    }
    if let Some(owner) = &finding.owner {
        lines.push(private("Owner", owner.clone()));
    }
    lines.push(line("Why", finding.why.clone()));
    if !finding.controls.is_empty() {
        let controls: Vec<String> = finding
            .controls
            .iter()
            .map(|control| format!("{} {} {}", control.framework, control.version, control.id))
            .collect();
        lines.push(line("Controls", controls.join(" · ")));
    }
    if !finding.fix.console.is_empty() {
        lines.push(line("Fix", finding.fix.console.clone()));
    }
    if !finding.gaps.is_empty() {
        let facts = match finding.gaps.len() {
            1 => "one fact".to_owned(),
            gaps => format!("{gaps} facts"),
        };
        lines.push(line("Not read", format!("{facts}; see the evidence")));
    }
    lines.push(line("Check", finding.check_id.clone()));
    lines.push(line("Id", finding.id.to_string()));
    lines
}

fn evidence(finding: &Finding) -> Vec<Line> {
    let mut lines = Vec::new();
    for (path, value) in &finding.evidence {
        value_lines(path, value, &mut lines);
    }
    if finding.evidence.is_empty() {
        lines.push(line("", "no facts are kept with this finding"));
    }
    gap_lines(&finding.gaps, &mut lines);
    lines
}

fn gap_lines(gaps: &BTreeMap<String, Gap>, lines: &mut Vec<Line>) {
    for (path, gap) in gaps {
        lines.push(line(
            path,
            format!("not read: {} answered {}", gap.call, gap.error),
        ));
    }
}

/// A short value goes beside its name; a long one is spread below it as indented JSON.
fn value_lines(path: &str, value: &Value, lines: &mut Vec<Line>) {
    let short = match value {
        Value::Null => return lines.push(line(path, "null (read, and absent)")),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    let is_flat = !(value.is_array() || value.is_object());
    if is_flat || short.chars().count() <= INLINE {
        return lines.push(private(path, short));
    }
    let spread = serde_json::to_string_pretty(value).unwrap_or(short);
    for (index, text) in spread.lines().enumerate() {
        lines.push(private(if index == 0 { path } else { "" }, text));
    }
}

fn fix(finding: &Finding) -> Vec<Line> {
    let parts = [
        ("Console", &finding.fix.console),
        ("Command", &finding.fix.cli),
        ("Terraform", &finding.fix.terraform),
    ];
    let mut lines = Vec::new();
    for (label, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
        for (index, text) in text.lines().enumerate() {
            lines.push(line(if index == 0 { label } else { "" }, text));
        }
        lines.push(line("", ""));
    }
    if lines.is_empty() {
        lines.push(line("", "the rule names no fix"));
    }
    lines
}

fn history(finding: &Finding) -> Vec<Line> {
    // Newest first: what happened last is what people look for.
    finding
        .history
        .iter()
        .rev()
        // A reason may be a person's words.
        .map(|step| private(&minute(step.at), format!("{}: {}", step.event, step.reason)))
        .collect()
}

fn resource_summary(resource: &Resource, now: Timestamp) -> Vec<Line> {
    let document = &resource.document;
    let (open, _) = open_findings(resource);
    let open = if open.is_empty() {
        "no open findings".to_owned()
    } else {
        open
    };
    let mut lines = vec![
        line("Type", document.type_name.clone()),
        private("URN", document.urn.to_string()),
        private("Native id", document.native_id.clone()),
        private("Account", document.account.clone()),
        line("Region", document.region.clone()),
        line("Findings", open),
        line(
            "Seen",
            format!(
                "first {}, last {} ({})",
                minute(resource.first_seen),
                minute(resource.last_seen),
                age(resource.last_seen, now)
            ),
        ),
        line("Agent", resource.agent_id.to_string()),
        line("Id", resource.resource_id.to_string()),
    ];
    match &document.tags {
        None => lines.push(line("Tags", "not read")),
        Some(tags) if tags.is_empty() => lines.push(line("Tags", "none")),
        Some(tags) => {
            for (index, (name, value)) in tags.iter().enumerate() {
                let label = if index == 0 { "Tags" } else { "" };
                lines.push(private(label, format!("{name} = {value}")));
            }
        }
    }
    if !document.gaps.is_empty() {
        lines.push(line("", ""));
        lines.push(line("", "Could not be read:"));
        gap_lines(&document.gaps, &mut lines);
    }
    lines
}

fn config(resource: &Resource) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Value::Object(fields) = &resource.document.config {
        for (name, value) in fields {
            value_lines(name, value, &mut lines);
        }
    }
    gap_lines(&resource.document.gaps, &mut lines);
    if lines.is_empty() {
        lines.push(line("", "no fields"));
    }
    lines
}

fn relations(resource: &Resource) -> Vec<Line> {
    if resource.document.links.is_empty() {
        return vec![line("", "refers to no other resource")];
    }
    resource
        .document
        .links
        .iter()
        .map(|link| private(&link.rel, link.urn.to_string()))
        .collect()
}

fn event_summary(event: &Event) -> Vec<Line> {
    vec![
        line("Time", event.time.to_string()),
        line("Received", event.received_at.to_string()),
        line("Severity", event.severity.clone()),
        line(
            "Class",
            format!("OCSF {}, {}", event.class_uid, event.activity),
        ),
        line("Action", event.action.clone()),
        private("Actor", event.actor.clone()),
        private("Resource", event.resource.clone()),
        private("Address", event.src_ip.clone()),
        line("Source", event.source.clone()),
        private("Native id", event.native_id.clone()),
        line("Id", event.id.to_string()),
    ]
}

fn raw(event: &Event) -> Vec<Line> {
    let spread = serde_json::from_str::<Value>(&event.raw)
        .and_then(|value| serde_json::to_string_pretty(&value));
    spread
        .as_ref()
        .unwrap_or(&event.raw)
        .lines()
        .map(|text| private("", text))
        .collect()
}

fn agent_summary(agent: &Agent, now: Timestamp) -> Vec<Line> {
    let spool = match (agent.spool.bytes, agent.spool.oldest) {
        (0, _) => "nothing waits".to_owned(),
        (bytes, None) => format!("{bytes} bytes wait"),
        (bytes, Some(at)) => format!(
            "{bytes} bytes wait, the oldest from {} ({})",
            minute(at),
            age(at, now)
        ),
    };
    let clock = match agent.clock_skew_ms {
        None => "not known".to_owned(),
        Some(ms @ ..0) => format!("{} ms behind the hub's", ms.unsigned_abs()),
        Some(ms) => format!("{ms} ms ahead of the hub's"),
    };
    let sources: Vec<String> = agent.sources.iter().map(ToString::to_string).collect();
    let seen = match agent.last_seen {
        None => "never".to_owned(),
        Some(at) => format!("{} ({})", minute(at), age(at, now)),
    };
    let pace = match &agent.throttled {
        None => "not slowed down".to_owned(),
        Some(throttled) => format!(
            "slowed down since {} ({}): {}; nothing is lost",
            minute(throttled.since),
            age(throttled.since, now),
            throttled.reason
        ),
    };
    vec![
        line("State", agent.state.word()),
        line("Last seen", seen),
        line("Transport", agent.transport.clone()),
        line("Version", agent.version.clone()),
        line("Spool", spool),
        line("Pace", pace),
        line("Clock", clock),
        line(
            "Certificate",
            match &agent.certificate.warning {
                Some(warning) => format!("{warning}; it was not renewed"),
                None => format!("valid to {}", minute(agent.certificate.not_after)),
            },
        ),
        line("Serial", agent.certificate.serial.clone()),
        line("Refused", format!("{} batches", agent.refused)),
        line("Sources", sources.join(", ")),
        line("Id", agent.id.to_string()),
    ]
}

fn source_summary(source: &Source, now: Timestamp) -> Vec<Line> {
    let mut lines = vec![
        line("Kind", source.kind.clone()),
        line("State", source.state.clone()),
        line("Last sync", since(source.last_sync, now)),
        line("Agent", source.agent_id.to_string()),
        line("Id", source.id.to_string()),
    ];
    for (index, error) in source.errors.iter().enumerate() {
        lines.push(line(
            if index == 0 { "What failed" } else { "" },
            error.clone(),
        ));
    }
    lines
}
