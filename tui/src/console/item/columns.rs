//! The columns of each kind's list, and what else distinguishes one kind from another.

use jiff::{SignedDuration, Timestamp};
use protocol::api::{
    self, Agent, AgentState, Event, Finding, FindingStatus, Resource, Severity, Source, Verdict,
};
use protocol::filter::FieldSpec;

use super::Item;
use crate::console::theme::severity_text;

/// How a cell is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As a severity.
    Severity(Severity),
    /// As something that is well.
    Good,
    /// As something that is not known.
    Unsure,
    /// As something that is not well.
    Bad,
    /// As text.
    Plain,
}

/// A column of a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Header.
    pub(crate) title: &'static str,
    /// Field to sort by at the hub; `None` when it sorts by none.
    pub(crate) sort: Option<&'static str>,
    /// Fewest cells.
    pub(crate) least: u16,
    /// Cells that it should have before a column that matters little is shown as well.
    pub(crate) want: u16,
    /// Most cells.
    pub(crate) most: u16,
    /// Order in which narrow screens drop columns, the highest first; 0 is never dropped.
    pub(crate) drop: u8,
    /// Names somebody's things: hidden by the privacy mask.
    pub(crate) is_private: bool,
    /// What a row says.
    pub(crate) read: fn(&Item, Timestamp) -> (String, Tone),
}

/// What distinguishes one kind from another.
pub(super) struct Facts {
    /// Name of screen, stream event and, in the singular, command.
    pub(super) name: &'static str,
    /// Noun of the command line.
    pub(super) noun: &'static str,
    pub(super) path: &'static str,
    pub(super) fields: &'static [FieldSpec],
    /// Filter of a list that nobody has filtered yet.
    pub(super) filter: &'static str,
    /// Order of a list that nobody has sorted yet.
    pub(super) sort: Option<(&'static str, bool)>,
    pub(super) columns: &'static [Column],
}

pub(super) const FINDING: Facts = Facts {
    name: "findings",
    noun: "finding",
    path: "/api/v1/findings",
    fields: api::FINDING_FIELDS,
    filter: "status=open",
    sort: Some(("severity", true)),
    columns: &[
        Column {
            sort: Some("severity"),
            ..column("SEV", 7, 7, 0, |item, _| {
                item.severity().map_or_else(none, |severity| {
                    (severity_text(severity).to_owned(), Tone::Severity(severity))
                })
            })
        },
        Column {
            sort: Some("status"),
            ..column("STATE", 8, 8, 0, |item, _| finding(item, finding_state))
        },
        Column {
            sort: Some("first_seen"),
            ..column("AGE", 4, 4, 2, |item, now| {
                finding(item, |finding| plain(age(finding.first_seen, now)))
            })
        },
        Column {
            sort: Some("risk"),
            ..column("RISK", 4, 4, 3, |item, _| {
                finding(item, |finding| plain(finding.risk.score.to_string()))
            })
        },
        Column {
            sort: Some("check"),
            want: 39,
            ..column("BROKEN RULE", 26, 80, 0, |item, _| {
                finding(item, |finding| plain(finding.title.clone()))
            })
        },
        Column {
            sort: Some("resource"),
            want: 22,
            is_private: true,
            ..column("RESOURCE", 18, 36, 1, |item, _| {
                finding(item, |finding| plain(finding.resource.name.clone()))
            })
        },
        Column {
            sort: Some("account"),
            is_private: true,
            ..column("ACCOUNT", 12, 20, 4, |item, _| {
                finding(item, |finding| plain(finding.resource.account.clone()))
            })
        },
        column("REGION", 14, 15, 5, |item, _| {
            finding(item, |finding| plain(finding.resource.region.clone()))
        }),
        Column {
            is_private: true,
            ..column("OWNER", 8, 20, 6, |item, _| {
                finding(item, |finding| {
                    plain(finding.owner.clone().unwrap_or_default())
                })
            })
        },
    ],
};

pub(super) const RESOURCE: Facts = Facts {
    name: "resources",
    noun: "resource",
    path: "/api/v1/resources",
    fields: api::RESOURCE_FIELDS,
    filter: "",
    sort: Some(("findings", true)),
    columns: &[
        Column {
            sort: Some("type"),
            ..column("TYPE", 22, 30, 0, |item, _| {
                resource(item, |resource| plain(resource.document.type_name.clone()))
            })
        },
        Column {
            sort: Some("name"),
            want: 32,
            is_private: true,
            ..column("NAME", 20, 60, 0, |item, _| {
                resource(item, |resource| plain(resource.document.name.clone()))
            })
        },
        Column {
            sort: Some("findings"),
            want: 26,
            ..column("OPEN FINDINGS", 16, 26, 1, |item, _| {
                resource(item, open_findings)
            })
        },
        column("GAPS", 4, 4, 2, |item, _| {
            resource(item, |resource| match resource.document.gaps.len() {
                0 => none(),
                gaps => (gaps.to_string(), Tone::Unsure),
            })
        }),
        Column {
            is_private: true,
            ..column("ACCOUNT", 12, 20, 4, |item, _| {
                resource(item, |resource| plain(resource.document.account.clone()))
            })
        },
        column("REGION", 14, 15, 3, |item, _| {
            resource(item, |resource| plain(resource.document.region.clone()))
        }),
        Column {
            sort: Some("last_seen"),
            ..column("SEEN", 4, 4, 5, |item, now| {
                resource(item, |resource| plain(age(resource.last_seen, now)))
            })
        },
    ],
};

pub(super) const EVENT: Facts = Facts {
    name: "events",
    noun: "event",
    path: "/api/v1/events",
    fields: api::EVENT_FIELDS,
    filter: "",
    sort: None,
    columns: &[
        column("TIME UTC", 14, 14, 0, |item, _| {
            event(item, |event| {
                plain(event.time.strftime("%m-%d %H:%M:%S").to_string())
            })
        }),
        column("SEV", 8, 8, 0, |item, _| {
            event(item, |event| {
                (
                    event.severity.clone(),
                    item.severity().map_or(Tone::Plain, Tone::Severity),
                )
            })
        }),
        column("ACTION", 22, 80, 0, |item, _| {
            event(item, |event| plain(event.action.clone()))
        }),
        Column {
            is_private: true,
            ..column("ACTOR", 12, 30, 1, |item, _| {
                event(item, |event| plain(event.actor.clone()))
            })
        },
        Column {
            is_private: true,
            ..column("RESOURCE", 12, 30, 3, |item, _| {
                event(item, |event| plain(event.resource.clone()))
            })
        },
        Column {
            is_private: true,
            ..column("ADDRESS", 10, 24, 2, |item, _| {
                event(item, |event| plain(event.src_ip.clone()))
            })
        },
        column("SOURCE", 10, 16, 4, |item, _| {
            event(item, |event| plain(event.source.clone()))
        }),
    ],
};

pub(super) const AGENT: Facts = Facts {
    name: "agents",
    noun: "agent",
    path: "/api/v1/agents",
    fields: api::AGENT_FIELDS,
    filter: "",
    sort: None,
    columns: &[
        Column {
            is_private: true,
            ..column("NAME", 14, 40, 0, |item, _| {
                agent(item, |agent| plain(agent.name.clone()))
            })
        },
        column("STATE", 9, 9, 0, |item, _| {
            agent(item, |agent| agent_state(agent.state))
        }),
        column("SEEN", 5, 5, 1, |item, now| {
            agent(item, |agent| plain(since(agent.last_seen, now)))
        }),
        column("SPOOL B", 9, 12, 2, |item, _| {
            agent(item, |agent| plain(agent.spool.bytes.to_string()))
        }),
        column("REFUSED", 7, 7, 3, |item, _| {
            agent(item, |agent| match agent.refused {
                0 => plain("0".to_owned()),
                refused => (refused.to_string(), Tone::Bad),
            })
        }),
        column("SKEW MS", 7, 9, 5, |item, _| {
            agent(item, |agent| {
                plain(
                    agent
                        .clock_skew_ms
                        .map_or_else(String::new, |ms| ms.to_string()),
                )
            })
        }),
        column("CERTIFICATE TO", 17, 17, 4, |item, _| {
            agent(item, |agent| plain(minute(agent.certificate.not_after)))
        }),
        column("VERSION", 7, 14, 6, |item, _| {
            agent(item, |agent| plain(agent.version.clone()))
        }),
    ],
};

pub(super) const SOURCE: Facts = Facts {
    name: "sources",
    noun: "source",
    path: "/api/v1/sources",
    fields: api::SOURCE_FIELDS,
    filter: "",
    sort: None,
    columns: &[
        Column {
            is_private: true,
            ..column("NAME", 12, 30, 0, |item, _| {
                source(item, |source| plain(source.name.clone()))
            })
        },
        column("KIND", 6, 8, 2, |item, _| {
            source(item, |source| plain(source.kind.clone()))
        }),
        column("STATE", 8, 8, 0, |item, _| {
            source(item, |source| source_state(&source.state))
        }),
        column("SYNCED", 6, 6, 1, |item, now| {
            source(item, |source| plain(since(source.last_sync, now)))
        }),
        column("WHAT FAILED", 20, 120, 0, |item, _| {
            source(item, |source| plain(source.errors.join("; ")))
        }),
    ],
};

const fn column(
    title: &'static str,
    least: u16,
    most: u16,
    drop: u8,
    read: fn(&Item, Timestamp) -> (String, Tone),
) -> Column {
    Column {
        title,
        sort: None,
        least,
        want: least,
        most,
        drop,
        is_private: false,
        read,
    }
}

macro_rules! readers {
    ($($name:ident: $variant:ident($what:ty);)*) => {$(
        fn $name(item: &Item, read: impl FnOnce(&$what) -> (String, Tone)) -> (String, Tone) {
            if let Item::$variant(inner) = item { read(inner) } else { none() }
        }
    )*};
}

// A column reads rows of its own kind; of any other it says nothing.
readers! {
    finding: Finding(Finding);
    resource: Resource(Resource);
    event: Event(Event);
    agent: Agent(Agent);
    source: Source(Source);
}

fn none() -> (String, Tone) {
    plain(String::new())
}

fn plain(text: String) -> (String, Tone) {
    (text, Tone::Plain)
}

/// The question mark says that the facts of an open finding can no longer be read.
pub(super) fn finding_state(finding: &Finding) -> (String, Tone) {
    let is_unknown = finding.verdict == Verdict::Unknown;
    match finding.status {
        FindingStatus::Open if is_unknown => ("open?".to_owned(), Tone::Unsure),
        FindingStatus::Open | FindingStatus::Muted => plain(finding.status.word().to_owned()),
        FindingStatus::Resolved => (finding.status.word().to_owned(), Tone::Good),
    }
}

fn agent_state(state: AgentState) -> (String, Tone) {
    let tone = match state {
        AgentState::Online => Tone::Good,
        AgentState::Stale | AgentState::Suspended => Tone::Unsure,
        AgentState::Revoked | AgentState::Quarantined => Tone::Bad,
    };
    (state.word().to_owned(), tone)
}

fn source_state(state: &str) -> (String, Tone) {
    let tone = match state {
        "ok" => Tone::Good,
        "partial" => Tone::Unsure,
        "failed" => Tone::Bad,
        _ => Tone::Plain,
    };
    (state.to_owned(), tone)
}

/// `2 high 1 low`, worst first.
pub(super) fn open_findings(resource: &Resource) -> (String, Tone) {
    let counts: Vec<(Severity, u64)> = api::SEVERITIES
        .iter()
        .rev()
        .filter_map(|word| {
            let count = resource.open_findings.get(*word).copied()?;
            Some((Severity::from_word(word)?, count))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    let tone = counts
        .first()
        .map_or(Tone::Plain, |(severity, _)| Tone::Severity(*severity));
    let words: Vec<String> = counts
        .iter()
        .map(|(severity, count)| {
            let text = severity_text(*severity);
            let word = text.rsplit(' ').next().unwrap_or(text);
            format!("{count} {word}")
        })
        .collect();
    (words.join(" "), tone)
}

/// Returns how long ago something was, in its two or three most useful characters.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).max(SignedDuration::ZERO).as_secs();
    match seconds {
        // Nobody sees the seconds pass: a screen without news is drawn anew once a minute.
        0..60 => "<1m".to_owned(),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn since(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "never".to_owned(), |at| age(at, now))
}

/// Returns an instant to the minute, in UTC.
pub(super) fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%MZ").to_string()
}
