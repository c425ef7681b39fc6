//! How many sources, scopes and living resources each agent has, and the most it may have: an
//! agent that invents names for ever fills its own measure and nothing else.
//!
//! The counts are rows, changed in the write that makes them true.

use std::collections::BTreeMap;
use std::fmt;

use protocol::ids::AgentId;
use protocol::limits;
use serde::{Deserialize, Serialize};

use crate::draft::Draft;
use crate::error::ReadError;
use crate::keys::Names;
use crate::tables::Table;

/// The most that one agent may have in its organisation's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentBounds {
    /// Sources that it has reported.
    pub sources: u64,
    /// Scopes that it was the first to sweep.
    pub scopes: u64,
    /// Living resources that it sent last.
    pub resources: u64,
}

impl Default for AgentBounds {
    fn default() -> Self {
        Self {
            sources: limits::AGENT_SOURCES,
            scopes: limits::AGENT_SCOPES,
            resources: limits::AGENT_RESOURCES,
        }
    }
}

/// Says that an agent has as many of something as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Over {
    what: &'static str,
    most: u64,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its agent has {} {} and may have no more",
            self.most, self.what
        )
    }
}

/// What an agent has, as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) sources: u64,
    pub(super) scopes: u64,
    pub(super) resources: u64,
}

/// The tallies that a write has to do with.
#[derive(Debug)]
pub(super) struct Tallies {
    bounds: AgentBounds,
    /// As they stand, and as they stood.
    by_agent: BTreeMap<AgentId, (Tally, Tally)>,
}

impl Tallies {
    pub(super) fn new(bounds: AgentBounds) -> Self {
        Self {
            bounds,
            by_agent: BTreeMap::new(),
        }
    }

    fn of(
        &mut self,
        draft: &Draft<'_>,
        names: &Names,
        agent: AgentId,
    ) -> Result<&mut Tally, ReadError> {
        let entry = match self.by_agent.entry(agent) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let key = names.agent_status(agent);
                let stored: Tally = draft.get(Table::Tallies, &key)?.unwrap_or_default();
                entry.insert((stored, stored))
            }
        };
        Ok(&mut entry.0)
    }

    /// Counts one more of something, if the agent may have it.
    pub(super) fn add(
        &mut self,
        draft: &Draft<'_>,
        names: &Names,
        agent: AgentId,
        what: Counted,
    ) -> Result<Option<Over>, ReadError> {
        let most = what.most(&self.bounds);
        let count = what.of(self.of(draft, names, agent)?);
        if *count >= most {
            let what = what.word();
            return Ok(Some(Over { what, most }));
        }
        *count += 1;
        Ok(None)
    }

    /// Counts one less.
    pub(super) fn remove(
        &mut self,
        draft: &Draft<'_>,
        names: &Names,
        agent: AgentId,
        what: Counted,
    ) -> Result<(), ReadError> {
        let count = what.of(self.of(draft, names, agent)?);
        *count = count.saturating_sub(1);
        Ok(())
    }

    /// Stores what has changed.
    pub(super) fn store(self, draft: &mut Draft<'_>, names: &Names) {
        for (agent, (now, before)) in self.by_agent {
            if now != before {
                draft.put(Table::Tallies, names.agent_status(agent), &now);
            }
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    Sources,
    Scopes,
    Resources,
}

impl Counted {
    const fn word(self) -> &'static str {
        match self {
            Self::Sources => "sources",
            Self::Scopes => "scopes",
            Self::Resources => "resources",
        }
    }

    const fn most(self, bounds: &AgentBounds) -> u64 {
        match self {
            Self::Sources => bounds.sources,
            Self::Scopes => bounds.scopes,
            Self::Resources => bounds.resources,
        }
    }

    fn of(self, tally: &mut Tally) -> &mut u64 {
        match self {
            Self::Sources => &mut tally.sources,
            Self::Scopes => &mut tally.scopes,
            Self::Resources => &mut tally.resources,
        }
    }
}
