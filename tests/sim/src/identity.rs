//! Certificates: what the hub has on its positive list, what agents show, and renewals between.
//!
//! A certificate is a number with a validity. The list is in the hub's backups, the agent's files
//! are not: a hub that is restored has forgotten what it issued since, and must still let in every
//! agent that is its own.

use std::collections::{BTreeMap, VecDeque};

use protocol::session::CloseCode;
use protocol::session::agent::Certificate;
use protocol::session::hub::Duty;

use crate::world::{Event, World};
use crate::{Checked, violated};

/// Chains from before its renewals that an agent keeps.
const KEPT: usize = 4;

/// How long a session lasts in which an agent may only renew.
const RENEWAL_MS: u64 = 60_000;

/// An agent's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) number: u64,
    /// Virtual time at which it begins and ends to be valid.
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
}

impl Card {
    /// Writes it as a chain of one certificate.
    pub(crate) fn chain(self) -> Vec<Vec<u8>> {
        let numbers = [self.number, self.from_ms, self.until_ms];
        vec![numbers.iter().flat_map(|n| n.to_le_bytes()).collect()]
    }

    fn of(chain: &[Vec<u8>]) -> Option<Self> {
        let (words, rest) = chain.first()?.as_chunks::<8>();
        match (words, rest) {
            (&[number, from_ms, until_ms], []) => Some(Self {
                number: u64::from_le_bytes(number),
                from_ms: u64::from_le_bytes(from_ms),
                until_ms: u64::from_le_bytes(until_ms),
            }),
            _ => None,
        }
    }

    /// Returns until when it may be renewed: its own life once more.
    fn renewable_until_ms(self) -> u64 {
        2 * self.until_ms - self.from_ms
    }
}

/// An agent's identity folder.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub(crate) newest: Card,
    /// From before the last renewals, newest first.
    pub(crate) earlier: VecDeque<Card>,
    /// How many of all were found unknown to the hub since the session began or one was stored.
    pub(crate) passed_over: usize,
}

impl Folder {
    /// Returns the card that the next connection shows.
    pub(crate) fn shown(&self) -> Card {
        let older = self.passed_over.checked_sub(1);
        let older = older.and_then(|index| self.earlier.get(index));
        older.copied().unwrap_or(self.newest)
    }
}

/// The cards of each agent that are in force, the newest last.
pub(crate) type List = BTreeMap<usize, Vec<Card>>;

impl World {
    /// Makes a certificate that is valid from now on.
    pub(crate) fn card(&mut self) -> Card {
        self.last_card += 1;
        Card {
            number: self.last_card,
            from_ms: self.now_ms,
            until_ms: self.now_ms + self.plan.card_ms,
        }
    }

    /// Enrols every agent.
    pub(crate) fn enrol(&mut self) {
        for index in 0..self.agents.len() {
            let card = self.card();
            self.hub.list.insert(index, vec![card]);
            if let Some(agent) = self.agents.get_mut(index) {
                agent.folder = Some(Folder {
                    newest: card,
                    earlier: VecDeque::new(),
                    passed_over: 0,
                });
            }
        }
    }

    /// What the core of an agent is told of its certificate.
    pub(crate) fn certificate(&self, folder: &Folder) -> Certificate {
        let wall = |ms: u64| {
            self.now(0).wall_ms + i64::try_from(ms).unwrap_or(0)
                - i64::try_from(self.now_ms).unwrap_or(0)
        };
        Certificate {
            csr: b"request".to_vec(),
            from_ms: wall(folder.newest.from_ms),
            until_ms: wall(folder.newest.until_ms),
            older: folder.earlier.len(),
        }
    }

    /// Decides what an agent may do with the card that it shows, and notes that it was seen.
    pub(crate) fn recognise(
        &mut self,
        agent: usize,
    ) -> Result<(Card, Duty), (CloseCode, &'static str)> {
        let unknown = (CloseCode::Unenrolled, "not the agent's current certificate");
        let folder = self
            .agents
            .get(agent)
            .and_then(|agent| agent.folder.as_ref());
        let shown = folder.map(Folder::shown).ok_or(unknown)?;
        if shown.renewable_until_ms() < self.now_ms {
            // The handshake ends so, and the agent takes it alike.
            return Err(unknown);
        }
        let list = self.hub.list.entry(agent).or_default();
        if !list.contains(&shown) {
            return Err(unknown);
        }
        if list.last() == Some(&shown) {
            *list = vec![shown];
        }
        let is_valid = self.now_ms < shown.until_ms;
        Ok((shown, if is_valid { Duty::All } else { Duty::RenewOnly }))
    }

    /// Plans the end of a session: that of its certificate, or of the time to renew it.
    pub(crate) fn plan_end(&mut self, wire: u64, shown: Card, duty: Duty) {
        let at = match duty {
            Duty::All => shown.until_ms,
            Duty::RenewOnly => self.now_ms + RENEWAL_MS,
        };
        self.at(at, Event::CardEnds(wire));
    }

    pub(crate) fn card_ends(&mut self, wire: u64) {
        if self.hub.conns.contains_key(&wire) {
            self.close_from_hub(wire, CloseCode::Done, "the certificate has ended");
        }
    }

    /// A certificate that an agent asked for is on the list, or is not.
    pub(crate) fn certified(&mut self, wire: u64, agent: usize, shown: Card) -> Checked {
        let refuses = self.now_ms < self.hub.full_until_ms || self.chance.is_one_in(8);
        let list = self.hub.list.entry(agent).or_default();
        let fresh = if refuses || !list.contains(&shown) {
            None
        } else {
            let fresh = self.card();
            self.hub.list.insert(agent, vec![shown, fresh]);
            self.summary.renewals += 1;
            Some(fresh)
        };
        let Some(conn) = self.hub.conns.get_mut(&wire) else {
            return Ok(());
        };
        match fresh {
            Some(fresh) => conn.core.handle_renewed(fresh.chain()),
            None => conn.core.handle_not_renewed("not now".to_owned()),
        }
        self.run_hub(wire)
    }

    /// The agent stores a certificate, or cannot.
    pub(crate) fn store_card(&mut self, index: usize, chain: &[Vec<u8>]) -> Checked {
        let card = Card::of(chain).ok_or_else(|| violated("the hub sends no certificate"))?;
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(index) else {
            return Ok(());
        };
        let now_skewed = agent.skew_ms;
        let is_full = now_ms < agent.spool.full_until_ms;
        if let Some(folder) = agent.folder.as_mut().filter(|_| !is_full) {
            folder.earlier.push_front(folder.newest);
            folder.earlier.truncate(KEPT);
            folder.newest = card;
            folder.passed_over = 0;
        }
        let now = self.now(now_skewed);
        let Some(folder) = self
            .agents
            .get(index)
            .and_then(|agent| agent.folder.clone())
        else {
            return Ok(());
        };
        let stored = self.certificate(&folder);
        if let Some(session) = self.session_of(index) {
            match is_full {
                true => session.handle_not_renewed(now),
                false => session.handle_certificate(stored, now),
            }
        }
        Ok(())
    }
}
