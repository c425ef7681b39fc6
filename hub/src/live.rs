//! What is true of the running hub and of no row: open sessions, and news for those who watch.
//!
//! Ingest registers sessions and tells what changed; the API listens and shows; posture is told
//! of new organisations. Nothing in here survives a restart.

mod counts;
mod takeover;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;
use protocol::ids::{AgentId, OrgId};
use protocol::session::CloseCode;
use tokio::sync::{broadcast, oneshot, watch};

pub(crate) use counts::{Counts, Received};
use takeover::{Holder, Takeovers};

/// News that may wait for a slow listener. One that falls further behind misses the oldest; it
/// then reads the lists again, which hold the truth.
const NEWS: usize = 1024;

/// What kind of thing changed: the name of an event in `GET /api/v1/stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Agents,
    Sources,
    Resources,
    Findings,
    Events,
}

impl What {
    /// Returns the word of the API.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Sources => "sources",
            Self::Resources => "resources",
            Self::Findings => "findings",
            Self::Events => "events",
        }
    }
}

/// Says that something of an organisation changed; the listener reads what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Whose.
    pub(crate) org: OrgId,
    /// What kind.
    pub(crate) what: What,
}

/// An open session of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionInfo {
    /// Whose agent it is.
    pub(crate) org: OrgId,
    /// `quic` or `tcp`.
    pub(crate) transport: &'static str,
    /// Where it comes from.
    pub(crate) remote: SocketAddr,
    /// When it was admitted.
    pub(crate) since: Timestamp,
    /// When it was last heard.
    pub(crate) heard_at: Timestamp,
    /// Set while its quota slows it down.
    pub(crate) throttled: Option<Throttled>,
}

/// Since when and why an agent is slowed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Throttled {
    /// Since when, with no longer pause than some seconds.
    pub(crate) since: Timestamp,
    /// Which limit, in a clause.
    pub(crate) reason: &'static str,
}

/// Tells a session to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndSession {
    /// The code that the peer gets.
    pub(crate) code: CloseCode,
    /// Why, in a clause that the peer may see.
    pub(crate) reason: String,
}

#[derive(Debug)]
struct Entry {
    /// Distinguishes this session from a later one of the same agent.
    number: u64,
    info: SessionInfo,
    /// Who holds it; `None` before its greeting.
    holder: Option<Holder>,
    /// Who held the session that it replaced.
    displaced: Option<Holder>,
    end: Option<oneshot::Sender<EndSession>>,
}

/// What a greeting means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeted {
    /// The agent is back, or is there for the first time.
    Alone,
    /// Two machines take turns with the agent's identity.
    Copied,
}

#[derive(Debug, Default)]
struct Sessions {
    last_number: u64,
    by_agent: BTreeMap<AgentId, Entry>,
    takeovers: Takeovers,
}

/// The running hub's sessions and news.
#[derive(Debug)]
pub(crate) struct Live {
    sessions: Mutex<Sessions>,
    news: broadcast::Sender<Changed>,
    orgs_made: watch::Sender<u64>,
    /// What was taken from agents.
    pub(crate) counts: Counts,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            sessions: Mutex::default(),
            news: broadcast::Sender::new(NEWS),
            orgs_made: watch::Sender::new(0),
            counts: Counts::default(),
        }
    }
}

impl Live {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // A panic while it is held would leave the map whole: every change is one call.
        self.sessions
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Registers a session. An older one of the same agent is told that it was superseded.
    ///
    /// The receiver resolves with the reason when the session must end, and with an error never:
    /// the sender lives as long as the [`Registered`].
    pub(crate) fn register(
        self: &Arc<Self>,
        agent: AgentId,
        info: SessionInfo,
    ) -> (Registered, oneshot::Receiver<EndSession>) {
        let (end, ended) = oneshot::channel();
        let org = info.org;
        let (number, older) = {
            let mut sessions = self.sessions();
            sessions.last_number += 1;
            let number = sessions.last_number;
            let older = sessions.by_agent.remove(&agent);
            let entry = Entry {
                number,
                info,
                holder: None,
                // One that never greeted stands for the one before it.
                displaced: older
                    .as_ref()
                    .and_then(|older| older.holder.or(older.displaced)),
                end: Some(end),
            };
            sessions.by_agent.insert(agent, entry);
            (number, older)
        };
        if let Some(older) = older.and_then(|entry| entry.end) {
            // It may be ending by itself at this moment.
            let _ = older.send(EndSession {
                code: CloseCode::Superseded,
                reason: "a newer session of this agent took over".to_owned(),
            });
        }
        self.tell(Changed {
            org,
            what: What::Agents,
        });
        let registered = Registered {
            live: Arc::clone(self),
            agent,
            org,
            number,
        };
        (registered, ended)
    }

    /// Ends an agent's session, for example because it was revoked; says whether there was one.
    pub(crate) fn end(&self, agent: AgentId, why: EndSession) -> bool {
        let end = self
            .sessions()
            .by_agent
            .get_mut(&agent)
            .and_then(|entry| entry.end.take());
        end.is_some_and(|end| end.send(why).is_ok())
    }

    /// Returns an agent's open session.
    pub(crate) fn session(&self, agent: AgentId) -> Option<SessionInfo> {
        self.sessions()
            .by_agent
            .get(&agent)
            .map(|entry| entry.info.clone())
    }

    /// Returns how many sessions are open and how many of them are slowed down, by organisation
    /// and transport.
    pub(crate) fn sessions_by_org(&self) -> BTreeMap<(OrgId, &'static str), (u64, u64)> {
        let mut counts: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for entry in self.sessions().by_agent.values() {
            let (open, throttled) = counts
                .entry((entry.info.org, entry.info.transport))
                .or_default();
            *open += 1;
            *throttled += u64::from(entry.info.throttled.is_some());
        }
        counts
    }

    /// Returns how many sessions are open.
    pub(crate) fn session_count(&self) -> usize {
        self.sessions().by_agent.len()
    }

    /// Tells everybody who listens.
    pub(crate) fn tell(&self, changed: Changed) {
        // An error means that nobody listens.
        let _ = self.news.send(changed);
    }

    /// Listens to what changes from here on, in every organisation; the caller filters.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Changed> {
        self.news.subscribe()
    }

    /// Says that an organisation was made.
    pub(crate) fn tell_org_made(&self) {
        self.orgs_made.send_modify(|count| *count += 1);
    }

    /// Returns a receiver that wakes at each new organisation.
    pub(crate) fn orgs_made(&self) -> watch::Receiver<u64> {
        self.orgs_made.subscribe()
    }
}

/// A registered session; dropping it takes it off the list.
#[derive(Debug)]
pub(crate) struct Registered {
    live: Arc<Live>,
    agent: AgentId,
    org: OrgId,
    number: u64,
}

impl Registered {
    /// Notes which run of the agent's program holds the session; says whether its identity is
    /// used by two machines in turn.
    pub(crate) fn greeted(&self, process: u64, at: Instant) -> Greeted {
        let mut sessions = self.live.sessions();
        let Some(entry) = sessions.by_agent.get_mut(&self.agent) else {
            return Greeted::Alone;
        };
        if entry.number != self.number {
            return Greeted::Alone;
        }
        let won = Holder {
            process,
            address: entry.info.remote.ip(),
        };
        entry.holder = Some(won);
        let lost = entry.displaced;
        match lost {
            Some(lost) if sessions.takeovers.note(self.agent, lost, won, at) => Greeted::Copied,
            Some(_) | None => Greeted::Alone,
        }
    }

    /// Notes that the agent was heard.
    pub(crate) fn heard(&self, at: Timestamp) {
        self.note(|info| info.heard_at = at);
    }

    /// Notes that the agent is slowed down, or is no more, and tells so.
    pub(crate) fn throttled(&self, throttled: Option<Throttled>) {
        self.note(|info| info.throttled = throttled);
        self.live.tell(Changed {
            org: self.org,
            what: What::Agents,
        });
    }

    fn note(&self, change: impl FnOnce(&mut SessionInfo)) {
        if let Some(entry) = self.live.sessions().by_agent.get_mut(&self.agent)
            && entry.number == self.number
        {
            change(&mut entry.info);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        {
            let mut sessions = self.live.sessions();
            if sessions
                .by_agent
                .get(&self.agent)
                .is_some_and(|entry| entry.number == self.number)
            {
                sessions.by_agent.remove(&self.agent);
            }
        }
        self.live.tell(Changed {
            org: self.org,
            what: What::Agents,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_session_of_an_agent_wins_and_the_older_ones_end_leaves_it_in_place() {
        let live = Arc::new(Live::default());
        let agent = AgentId::from_bytes([1; 16]);
        let (older, mut older_ends) = live.register(agent, info("quic"));
        assert!(
            older_ends.try_recv().is_err(),
            "it was told to end too early"
        );

        let (newer, mut newer_ends) = live.register(agent, info("tcp"));
        assert_eq!(older_ends.try_recv().unwrap().code, CloseCode::Superseded);
        assert_eq!(live.session_count(), 1);

        drop(older);
        assert_eq!(live.session(agent).unwrap().transport, "tcp");
        assert!(newer_ends.try_recv().is_err());
        drop(newer);
        assert_eq!(live.session(agent), None);
        assert_eq!(live.session_count(), 0);
    }

    #[test]
    fn a_revoked_agent_is_told_why_its_session_ends() {
        let live = Arc::new(Live::default());
        let agent = AgentId::from_bytes([2; 16]);
        let why = EndSession {
            code: CloseCode::Revoked,
            reason: "this agent was revoked".to_owned(),
        };
        assert!(!live.end(agent, why.clone()), "there was no session");

        let (_registered, mut ends) = live.register(agent, info("quic"));
        assert!(live.end(agent, why.clone()));
        assert_eq!(ends.try_recv().unwrap(), why);
    }

    #[test]
    fn two_processes_that_take_turns_are_found_and_one_that_is_restarted_is_not() {
        let live = Arc::new(Live::default());
        let agent = AgentId::from_bytes([5; 16]);
        let mut held = Vec::new();
        let mut greet = |process| {
            let (registered, ends) = live.register(agent, info("quic"));
            let verdict = registered.greeted(process, Instant::now());
            // One that never greets, as a probe, stands in nobody's way.
            let silent = live.register(agent, info("quic"));
            held.push((registered, ends, silent));
            verdict
        };
        for process in 1..20 {
            assert_eq!(greet(process), Greeted::Alone, "{process}");
        }
        assert_eq!(greet(18), Greeted::Alone);
        assert_eq!(greet(19), Greeted::Copied);
        // A session that was ended in order is no rival.
        held.clear();
        for process in [1, 2, 1, 2, 1, 2] {
            let (registered, _ends) = live.register(agent, info("quic"));
            assert_eq!(registered.greeted(process, Instant::now()), Greeted::Alone);
        }
    }

    fn info(transport: &'static str) -> SessionInfo {
        let now = Timestamp::UNIX_EPOCH;
        SessionInfo {
            org: OrgId::from_bytes([9; 16]),
            transport,
            remote: "127.0.0.1:1".parse().unwrap(),
            since: now,
            heard_at: now,
            throttled: None,
        }
    }
}
