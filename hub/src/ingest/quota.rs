//! How much an agent and an organisation may send. Who sends more is read more slowly: its
//! acknowledgements come later, its spool holds what waits, and nothing is dropped.
//!
//! What is counted are the bytes of records before compression (of everything else that is sent,
//! the bytes on the wire) and events. Each limit is a bucket that fills at its rate and holds a
//! burst; a piece is counted once it has been read, so a bucket may go below empty, and its owner
//! then waits until it is not (the generic cell rate algorithm, ITU-T I.371, with debt). Debt
//! outlives a session: reconnecting buys nothing.
//!
//! The meters know no clock; [`Pace`] is one session's part in them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use protocol::ids::{AgentId, OrgId};
use tracing::warn;

use crate::live::Throttled;

/// How long after the last wait an agent still counts as throttled: the waits of a full bucket are
/// milliseconds apart.
const CALM: Duration = Duration::from_secs(5);

/// Time between two lines of the log about one session.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Sessions that an agent may begin: one a second, and so many at once after a quiet time. It
/// reconnects with pauses; whoever does not costs the hub a handshake and some reads each time.
const SESSIONS: u64 = 20;

/// Bytes a second of the control lane. A heartbeat takes some thirty, three times a minute.
const CONTROL_RATE: u64 = 4 << 10;

/// Time's worth of [`CONTROL_RATE`] that may come at once: one mebibyte.
const CONTROL_BURST: Duration = Duration::from_secs(256);

/// Number of agents from which those without debt are forgotten.
const KEPT: usize = 1024;

/// Rates of one agent or organisation; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Bytes a second.
    pub(crate) bytes: Option<NonZeroU64>,
    /// Events a second.
    pub(crate) events: Option<NonZeroU64>,
}

/// The limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quotas {
    /// Of each agent.
    pub(crate) agent: Rates,
    /// Of each organisation, all its agents together.
    pub(crate) org: Rates,
    /// What may come at once after a quiet time: so much time's worth of each rate.
    pub(crate) burst: Duration,
}

/// Which limit holds an agent back. Its name is the key of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    AgentBytes,
    AgentEvents,
    OrgBytes,
    OrgEvents,
}

impl Limit {
    /// Says in a clause what is exceeded.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::AgentBytes => {
                "the agent sends more bytes than quota.agent_bytes_per_second allows"
            }
            Self::AgentEvents => {
                "the agent sends more events than quota.agent_events_per_second allows"
            }
            Self::OrgBytes => {
                "its organisation sends more bytes than quota.org_bytes_per_second allows"
            }
            Self::OrgEvents => {
                "its organisation sends more events than quota.org_events_per_second allows"
            }
        }
    }
}

/// How long somebody has to wait, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    /// Until when.
    pub(super) until: Instant,
    /// The limit that takes longest.
    pub(super) limit: Limit,
}

/// What was received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Bytes.
    pub(super) bytes: u64,
    /// Events.
    pub(super) events: u64,
}

/// A bucket: the instant at which what was taken from it is paid for.
#[derive(Debug, Clone, Copy)]
struct Meter {
    paid_at: Instant,
}

impl Meter {
    fn charge(&mut self, amount: u64, rate: NonZeroU64, now: Instant) {
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(rate.get());
        let price = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = self.paid_at.max(now);
        // A debt that no clock can hold is beyond any life of a hub.
        self.paid_at = from.checked_add(price).unwrap_or(from);
    }

    /// Returns when something may be taken again, if not at once.
    fn free_at(self, burst: Duration, now: Instant) -> Option<Instant> {
        let free_at = self.paid_at.checked_sub(burst)?;
        (free_at > now).then_some(free_at)
    }
}

/// The buckets of one owner.
#[derive(Debug, Clone, Copy)]
struct Meters {
    bytes: Meter,
    events: Meter,
    sessions: Meter,
}

impl Meters {
    fn full(now: Instant) -> Self {
        let full = Meter { paid_at: now };
        Self {
            bytes: full,
            events: full,
            sessions: full,
        }
    }

    fn charge(&mut self, spent: Spent, rates: Rates, now: Instant) {
        if let Some(rate) = rates.bytes {
            self.bytes.charge(spent.bytes, rate, now);
        }
        if let Some(rate) = rates.events {
            self.events.charge(spent.events, rate, now);
        }
    }

    fn is_full(&self, now: Instant) -> bool {
        let of_records = self.bytes.paid_at.max(self.events.paid_at);
        of_records.max(self.sessions.paid_at) <= now
    }
}

/// Who has sent how much of late.
#[derive(Debug, Default)]
struct Ledger {
    agents: BTreeMap<AgentId, Meters>,
    orgs: BTreeMap<OrgId, Meters>,
    /// Number of agents after the last forgetting.
    kept: usize,
}

impl Ledger {
    fn charge(&mut self, org: OrgId, agent: AgentId, spent: Spent, quotas: &Quotas, now: Instant) {
        self.of_agent(agent, now).charge(spent, quotas.agent, now);
        let of_org = self.orgs.entry(org).or_insert_with(|| Meters::full(now));
        of_org.charge(spent, quotas.org, now);
    }

    /// Says whether an agent may begin a session, and counts it if so.
    fn may_begin(&mut self, agent: AgentId, now: Instant) -> bool {
        let sessions = &mut self.of_agent(agent, now).sessions;
        let may = sessions
            .free_at(Duration::from_secs(SESSIONS - 1), now)
            .is_none();
        if may {
            sessions.charge(1, NonZeroU64::MIN, now);
        }
        may
    }

    fn of_agent(&mut self, agent: AgentId, now: Instant) -> &mut Meters {
        if !self.agents.contains_key(&agent) && self.agents.len() >= KEPT.max(2 * self.kept) {
            self.agents.retain(|_, meters| !meters.is_full(now));
            self.orgs.retain(|_, meters| !meters.is_full(now));
            self.kept = self.agents.len();
        }
        let meters = self.agents.entry(agent);
        meters.or_insert_with(|| Meters::full(now))
    }

    fn hold(&self, org: OrgId, agent: AgentId, quotas: &Quotas, now: Instant) -> Option<Hold> {
        let (agent, org) = (self.agents.get(&agent), self.orgs.get(&org));
        let meters = [
            (Limit::AgentBytes, agent.map(|meters| meters.bytes)),
            (Limit::AgentEvents, agent.map(|meters| meters.events)),
            (Limit::OrgBytes, org.map(|meters| meters.bytes)),
            (Limit::OrgEvents, org.map(|meters| meters.events)),
        ];
        let holds = meters.into_iter().filter_map(|(limit, meter)| {
            let until = meter?.free_at(quotas.burst, now)?;
            Some(Hold { until, limit })
        });
        holds.max_by_key(|hold| hold.until)
    }
}

/// The limits of the hub, and who has used how much of them.
#[derive(Debug)]
pub(super) struct Quota {
    quotas: Quotas,
    ledger: Mutex<Ledger>,
}

impl Quota {
    /// Makes a ledger of these limits in which nobody has sent anything.
    pub(super) fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            ledger: Mutex::default(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Whatever a panic left behind is a debt too many or too few.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether an agent may begin a session, and counts it if so.
    pub(super) fn may_begin(&self, agent: AgentId, now: Instant) -> bool {
        self.ledger().may_begin(agent, now)
    }

    /// Takes part for a session.
    pub(super) fn pace(self: &Arc<Self>, org: OrgId, agent: AgentId) -> Pace {
        Pace {
            quota: Arc::clone(self),
            org,
            agent,
            watch: Watch::default(),
            control: None,
        }
    }
}

/// One session's waits: what is shown and said of them.
#[derive(Debug, Default)]
struct Watch {
    shown: Option<Throttled>,
    /// The wait that is under way, or was last.
    waits_until: Option<Instant>,
    /// Time waited since the last line of the log.
    waited: Duration,
    said_at: Option<Instant>,
}

/// What is to be written into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    reason: &'static str,
    waited: Duration,
}

impl Watch {
    /// Takes note that the session waits.
    fn waits(&mut self, hold: Hold, now: Instant, at: Timestamp) -> Option<Line> {
        let begins = self.waits_until.map_or(now, |until| until.max(now));
        self.waited += hold.until.saturating_duration_since(begins);
        self.waits_until = self.waits_until.max(Some(hold.until));
        let reason = hold.limit.reason();
        let since = self.shown.map_or(at, |shown| shown.since);
        self.shown = Some(Throttled { since, reason });
        let is_due = self
            .said_at
            .is_none_or(|said_at| now.saturating_duration_since(said_at) >= SAY_EVERY);
        is_due.then(|| {
            self.said_at = Some(now);
            Line {
                reason,
                waited: std::mem::take(&mut self.waited),
            }
        })
    }

    /// Takes note that the session need not wait.
    fn goes(&mut self, now: Instant) {
        let is_calm = self
            .waits_until
            .is_none_or(|until| now.saturating_duration_since(until) >= CALM);
        if is_calm {
            self.shown = None;
        }
    }
}

/// A session's part in the quotas.
#[derive(Debug)]
pub(super) struct Pace {
    quota: Arc<Quota>,
    org: OrgId,
    agent: AgentId,
    watch: Watch,
    control: Option<Meter>,
}

impl Pace {
    /// Counts bytes of the control lane; says whether they are more than any session needs.
    pub(super) fn floods(&mut self, bytes: usize, now: Instant) -> bool {
        let control = self.control.get_or_insert(Meter { paid_at: now });
        let rate = NonZeroU64::MIN.saturating_add(CONTROL_RATE - 1);
        control.charge(u64::try_from(bytes).unwrap_or(u64::MAX), rate, now);
        control.free_at(CONTROL_BURST, now).is_some()
    }

    /// Counts what the session received.
    pub(super) fn spend(&self, spent: Spent, now: Instant) {
        let quotas = &self.quota.quotas;
        let mut ledger = self.quota.ledger();
        ledger.charge(self.org, self.agent, spent, quotas, now);
    }

    /// Returns until when no more may be read, if it has to wait. Called when there is something
    /// to read.
    pub(super) fn hold(&mut self, now: Instant, at: Timestamp) -> Option<Instant> {
        let (org, agent) = (self.org, self.agent);
        let hold = self
            .quota
            .ledger()
            .hold(org, agent, &self.quota.quotas, now);
        let Some(hold) = hold else {
            self.watch.goes(now);
            return None;
        };
        if let Some(Line { reason, waited }) = self.watch.waits(hold, now, at) {
            let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            warn!(%agent, %org, reason, waited_ms, "an agent is slowed down; nothing is lost");
        }
        Some(hold.until)
    }

    /// Returns since when and why the agent is slowed down.
    pub(super) fn throttled(&mut self, now: Instant) -> Option<Throttled> {
        self.watch.goes(now);
        self.watch.shown
    }
}

#[cfg(test)]
mod tests;
