//! Certificates that end: the hub's own, those above it, and those that agents did not renew.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use protocol::expiry::{Ending, Renewal};
use protocol::ids::AgentId;
use serde::{Deserialize, Serialize};
use store::rows::AgentState;
use store::rows::access::Agent;

use crate::ca::{Authority, Validity};
use crate::tls::CurrentLeaf;

/// Agents that are named in a warning.
const NAMED: usize = 5;

const ROTATE: &str = "replace the certificate authority: `zero-x-hub ca rotate begin`";
const RENEWED: &str =
    "it is renewed by itself: look for the reason in the hub's log, and restart it";
const REPLACE: &str = "put a new one in the place of tls.cert and tls.key, and restart the hub";
const AGENTS: &str = "agents renew by themselves once they reach the hub: start them, or revoke those \
                      that are gone";

/// Something that a person should know of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Warning {
    /// Whose certificate, and when it ends.
    pub(crate) text: String,
    /// What the operator can do.
    pub(crate) fix: String,
    /// The threshold in days that it has come to: 90, 30, 7, or 0 once it has ended.
    pub(crate) within_days: u16,
    /// When the first of those it tells of ends.
    pub(crate) not_after: Timestamp,
}

impl Warning {
    /// Looks at the certificate that the operator has given the API.
    pub(crate) fn of_api(validity: Validity, now: Timestamp) -> Option<Self> {
        Own::of_api(validity).warning(now)
    }
}

/// One certificate that the hub lives by.
struct Own {
    what: &'static str,
    validity: Validity,
    renewal: Renewal,
    fix: &'static str,
}

impl Own {
    fn of_api(validity: Validity) -> Self {
        Self {
            what: "the API's certificate (tls.cert)",
            validity,
            renewal: Renewal::ByHand,
            fix: REPLACE,
        }
    }

    fn warning(&self, now: Timestamp) -> Option<Warning> {
        let Validity { from, until } = self.validity;
        let ending = Ending::of(from, until, self.renewal, now)?;
        Some(Warning {
            text: format!("{} {ending}", self.what),
            fix: self.fix.to_owned(),
            within_days: ending.within_days,
            not_after: until,
        })
    }
}

/// The certificates that the hub lives by.
pub(crate) struct HubCertificates {
    authority: Arc<Authority>,
    leaf: Option<Arc<CurrentLeaf>>,
    own_api: Option<Validity>,
}

impl HubCertificates {
    /// Takes what is to be watched: the hub's own certificate while it serves, and the operator's
    /// for the API, where there is one.
    pub(crate) fn new(
        authority: Arc<Authority>,
        leaf: Option<Arc<CurrentLeaf>>,
        own_api: Option<Validity>,
    ) -> Self {
        Self {
            authority,
            leaf,
            own_api,
        }
    }

    fn all(&self) -> Vec<Own> {
        let by_hand = |what, validity, fix| Own {
            what,
            validity,
            renewal: Renewal::ByHand,
            fix,
        };
        let (root, intermediate) = self.authority.validities();
        let leaf = self.leaf.as_ref().map(|leaf| Own {
            what: "the hub's own certificate",
            validity: leaf.validity(),
            renewal: Renewal::ByItself,
            fix: RENEWED,
        });
        let own = [
            root.map(|validity| by_hand("the hub's root CA", validity, ROTATE)),
            intermediate.map(|validity| by_hand("the hub's intermediate CA", validity, ROTATE)),
            leaf,
            self.own_api.map(Own::of_api),
        ];
        own.into_iter().flatten().collect()
    }

    /// Returns what ends soon, the most urgent first.
    pub(crate) fn warnings(&self, now: Timestamp) -> Vec<Warning> {
        let all = self.all();
        let mut warnings: Vec<Warning> = all.iter().filter_map(|own| own.warning(now)).collect();
        warnings.sort_by_key(|warning| warning.not_after);
        warnings
    }
}

/// An agent whose certificate ends soon and was not renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overdue {
    agent: AgentId,
    name: String,
    ending: Ending,
}

/// Looks at a certificate that lives for so long.
pub(crate) fn ending_of_agent(
    life: SignedDuration,
    not_after: Timestamp,
    now: Timestamp,
) -> Option<Ending> {
    let from = not_after.saturating_sub(life).unwrap_or(Timestamp::MIN);
    Ending::of(from, not_after, Renewal::ByItself, now)
}

/// Returns the agents that are not revoked and whose certificate should have been renewed.
pub(crate) fn overdue(agents: &[Agent], life: SignedDuration, now: Timestamp) -> Vec<Overdue> {
    let lives = agents
        .iter()
        .filter(|agent| agent.state != AgentState::Revoked);
    lives
        .filter_map(|agent| {
            Some(Overdue {
                agent: agent.id,
                name: agent.name.clone(),
                ending: ending_of_agent(life, agent.newest()?.not_after, now)?,
            })
        })
        .collect()
}

/// Sums agents up, one warning for each threshold, the most urgent first.
pub(crate) fn of_agents(overdue: &[Overdue]) -> Vec<Warning> {
    let mut by_days: BTreeMap<u16, Vec<&Overdue>> = BTreeMap::new();
    for one in overdue {
        by_days.entry(one.ending.within_days).or_default().push(one);
    }
    let warning = |(within_days, mut list): (u16, Vec<&Overdue>)| {
        list.sort_by_key(|one| one.ending.not_after);
        let not_after = list.first()?.ending.not_after;
        let named = list.iter().take(NAMED);
        let mut names: Vec<String> = named
            .map(|one| format!("{} ({})", one.name, one.agent))
            .collect();
        if list.len() > NAMED {
            names.push("…".to_owned());
        }
        let names = names.join(", ");
        let text = match (list.as_slice(), within_days) {
            ([one], 0) => format!("the certificate of the agent {names} {}", one.ending),
            ([one], _) => format!(
                "the certificate of the agent {names} {}, and was not renewed",
                one.ending
            ),
            (many, 0) => format!(
                "the certificates of {} agents have ended: {names}",
                many.len()
            ),
            (many, days) => format!(
                "the certificates of {} agents end within {days} days and were not renewed: {names}",
                many.len()
            ),
        };
        Some(Warning {
            text,
            fix: AGENTS.to_owned(),
            within_days,
            not_after,
        })
    };
    by_days.into_iter().filter_map(warning).collect()
}

/// Remembers what was said, so that each threshold of each certificate is said once.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// By what each is.
    hub: BTreeMap<&'static str, (Timestamp, u16)>,
    agents: BTreeMap<AgentId, (Timestamp, u16)>,
}

/// Notes what is being said; returns whether it is new: another certificate, or a nearer threshold.
fn is_news<K: Ord>(
    said: &mut BTreeMap<K, (Timestamp, u16)>,
    key: K,
    not_after: Timestamp,
    within_days: u16,
) -> bool {
    let before = said.insert(key, (not_after, within_days));
    before.is_none_or(|(end, days)| end != not_after || within_days < days)
}

impl Said {
    /// Returns what was not said yet.
    pub(crate) fn news(
        &mut self,
        hub: &HubCertificates,
        agents: &[Agent],
        now: Timestamp,
    ) -> Vec<Warning> {
        let mut news: Vec<Warning> = Vec::new();
        for own in hub.all() {
            let Some(warning) = own.warning(now) else {
                continue;
            };
            if is_news(
                &mut self.hub,
                own.what,
                warning.not_after,
                warning.within_days,
            ) {
                news.push(warning);
            }
        }
        let mut overdue = overdue(agents, hub.authority.agent_leaf(), now);
        // What became of the others is no matter: they renewed, or are gone.
        let mut said = std::mem::take(&mut self.agents);
        overdue.retain(|one| {
            let Ending {
                within_days,
                not_after,
                ..
            } = one.ending;
            if let Some(before) = said.remove(&one.agent) {
                self.agents.insert(one.agent, before);
            }
            is_news(&mut self.agents, one.agent, not_after, within_days)
        });
        news.extend(of_agents(&overdue));
        news
    }
}

#[cfg(test)]
mod tests;
