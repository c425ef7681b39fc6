//! Which sessions of one identity take turns: how two machines with one identity are told from one
//! that moves.
//!
//! An honest agent is one process that holds one session. It may lose its connection, come from
//! another address, change from QUIC to TCP or be restarted while the hub still believes the old
//! session alive: each of these replaces a session once, and who was replaced does not come back.
//! A machine with a copy of the identity does come back, as its own session is replaced in turn:
//!
//! ```text
//! restarts   A ▶ B ▶ C ▶ D       none comes back
//! a copy     A ▶ B ▶ A ▶ B       A came back after B, and B after A
//! ```
//! A copy of a running machine's memory has the process's number too; then the addresses take turns.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use protocol::ids::AgentId;

/// Who holds a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    /// The number that the agent's process gave itself.
    pub(super) process: u64,
    pub(super) address: IpAddr,
}

/// How long a replaced session is remembered. Two machines that replace each other come back
/// within seconds; ten minutes also catch those that the hub paces.
const WINDOW: Duration = Duration::from_secs(600);

/// How often a process may come back after another one replaced it. It never should; once may be
/// a machine that was moved while it ran and whose old place had not stopped yet.
const PROCESSES: usize = 2;

/// How often an address may come back after another one replaced it, with the same process on
/// both. A host with two ways out that loses its connection again and again does that, at most
/// once in the time that it takes to notice a dead connection (a minute); copies do it several
/// times a minute.
const ADDRESSES: usize = 12;

/// Replacements that are remembered of one agent: enough for every bound above.
const REMEMBERED: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Takeover {
    at: Instant,
    lost: Holder,
    won: Holder,
}

/// The replacements of the last minutes.
#[derive(Debug, Default)]
pub(super) struct Takeovers {
    by_agent: BTreeMap<AgentId, VecDeque<Takeover>>,
}

impl Takeovers {
    /// Takes note that one session replaced another one that was alive; says whether the identity
    /// must have been copied. What led to that is then forgotten.
    pub(super) fn note(&mut self, agent: AgentId, lost: Holder, won: Holder, at: Instant) -> bool {
        if lost == won {
            return false;
        }
        // Bounded by the agents whose sessions were replaced within the window.
        self.by_agent.retain(|_, takeovers| {
            takeovers
                .back()
                .is_some_and(|last| at.saturating_duration_since(last.at) < WINDOW)
        });
        let takeovers = self.by_agent.entry(agent).or_default();
        takeovers.retain(|old| at.saturating_duration_since(old.at) < WINDOW);
        takeovers.push_back(Takeover { at, lost, won });
        if takeovers.len() > REMEMBERED {
            takeovers.pop_front();
        }
        let is_copied = is_copied(takeovers);
        if is_copied {
            self.by_agent.remove(&agent);
        }
        is_copied
    }
}

fn is_copied(takeovers: &VecDeque<Takeover>) -> bool {
    let (mut processes, mut addresses) = (0, 0);
    for (index, now) in takeovers.iter().enumerate() {
        let mut before = takeovers.iter().take(index);
        if now.lost.process != now.won.process {
            let replaced = |old: &Takeover| {
                old.lost.process == now.won.process && old.won.process != old.lost.process
            };
            processes += usize::from(before.any(replaced));
        } else {
            addresses += usize::from(before.any(|old| old.lost == now.won));
        }
    }
    processes >= PROCESSES || addresses >= ADDRESSES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentId {
        AgentId::from_bytes([1; 16])
    }

    fn holder(process: u64, host: u8) -> Holder {
        Holder {
            process,
            address: IpAddr::from([192, 0, 2, host]),
        }
    }

    /// Returns after how many replacements the identity counts as copied. Sessions follow one
    /// another as listed, every `seconds`.
    fn copied_after(holders: impl IntoIterator<Item = Holder>, seconds: u64) -> Option<usize> {
        let mut takeovers = Takeovers::default();
        let mut at = Instant::now();
        let mut last = None;
        for (index, holder) in holders.into_iter().enumerate() {
            at += Duration::from_secs(seconds);
            if let Some(lost) = last.replace(holder)
                && takeovers.note(agent(), lost, holder, at)
            {
                return Some(index);
            }
        }
        None
    }

    #[test]
    fn two_processes_that_take_turns_are_a_copy_wherever_they_are() {
        let turns = |hosts: [u8; 2]| {
            (0..20u64).map(move |n| holder(n % 2, hosts[usize::try_from(n % 2).unwrap()]))
        };
        assert_eq!(copied_after(turns([1, 2]), 1), Some(3));
        assert_eq!(copied_after(turns([1, 1]), 1), Some(3));
        assert_eq!(copied_after(turns([1, 2]), 120), Some(3));
        // Three of them, too.
        let three = (0..20u64).map(|n| holder(n % 3, 1));
        assert_eq!(copied_after(three, 1), Some(4));
    }

    #[test]
    fn an_agent_that_is_restarted_moves_or_changes_its_way_is_not_a_copy() {
        let restarts = (0..1000u64).map(|n| holder(n, 1));
        assert_eq!(copied_after(restarts, 1), None);
        let restarts_elsewhere = (0..1000u64).map(|n| holder(n, u8::try_from(n % 2).unwrap()));
        assert_eq!(copied_after(restarts_elsewhere, 1), None);
        // QUIC and TCP in turn, from one address.
        assert_eq!(copied_after((0..1000).map(|_| holder(7, 1)), 1), None);
        let roams = (0..200u8).map(|n| holder(7, n));
        assert_eq!(copied_after(roams, 1), None);
        // Two ways out that fail in turn, noticed by silence.
        let two_ways = (0..1000u64).map(|n| holder(7, u8::try_from(n % 2).unwrap()));
        assert_eq!(copied_after(two_ways, 70), None);
        // One that came back once.
        let once = [
            holder(1, 1),
            holder(2, 2),
            holder(1, 1),
            holder(3, 3),
            holder(4, 3),
        ];
        assert_eq!(copied_after(once, 1), None);
    }

    #[test]
    fn a_copied_process_is_known_by_addresses_that_take_turns_fast() {
        let turns = (0..100u64).map(|n| holder(7, u8::try_from(n % 2).unwrap()));
        assert_eq!(copied_after(turns, 1), Some(ADDRESSES + 1));
    }

    #[test]
    fn what_is_long_ago_is_forgotten_and_memory_is_bounded() {
        let turns = (0..50u64).map(|n| holder(n % 2, 1));
        assert_eq!(copied_after(turns, WINDOW.as_secs()), None);
        let mut takeovers = Takeovers::default();
        let at = Instant::now();
        for n in 0..1000u64 {
            takeovers.note(agent(), holder(n, 1), holder(n + 1, 1), at);
        }
        assert_eq!(takeovers.by_agent[&agent()].len(), REMEMBERED);
        let other = AgentId::from_bytes([2; 16]);
        takeovers.note(other, holder(1, 1), holder(2, 1), at + WINDOW);
        assert_eq!(takeovers.by_agent.len(), 1);
    }
}
