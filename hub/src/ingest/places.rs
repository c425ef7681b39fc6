//! Who may have a TLS handshake on TCP under way. Pure: instants are arguments.
//!
//! Whoever opens a connection and says nothing holds a place until the handshake's time is over.
//! So once half of the places are taken no one address gets more than a share of them, and when
//! none is left the oldest handshake of whoever has most makes room, if it has had time enough for
//! an honest one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Handshakes that one address may have under way once places are scarce. Many agents may stand behind one: at 50 ms each
/// this many make 1,280 a second.
const SHARE: usize = 64;

/// Time that an honest handshake has in any case: several round trips of 300 ms.
const GRACE: Duration = Duration::from_secs(2);

/// Names a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It may go on.
    Free(Ticket),
    /// It may go on, and another's handshake is given up for it.
    InsteadOf(Ticket, Ticket),
    /// It is turned away.
    None,
}

/// The handshakes under way.
#[derive(Debug)]
pub(super) struct Places {
    capacity: usize,
    next: u64,
    taken: BTreeMap<Ticket, (IpAddr, Instant)>,
    counts: BTreeMap<IpAddr, usize>,
}

impl Places {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            next: 0,
            taken: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Gives a newcomer a place, if there is one or one can be made.
    pub(super) fn take(&mut self, address: IpAddr, now: Instant) -> Place {
        let address = prefix(address);
        let own = self.counts.get(&address).copied().unwrap_or(0);
        let under_way = self.taken.len();
        let of = if own >= SHARE && under_way >= self.capacity / 2 {
            address
        } else if under_way >= self.capacity {
            let most = self.counts.iter().max_by_key(|(_, count)| **count);
            let Some((most, _)) = most else {
                return Place::None;
            };
            *most
        } else {
            return Place::Free(self.give(address, now));
        };
        // The first is the oldest.
        let oldest = self.taken.iter().find(|(_, (holder, _))| *holder == of);
        match oldest.map(|(ticket, (_, since))| (*ticket, *since)) {
            Some((oldest, since)) if now.saturating_duration_since(since) >= GRACE => {
                self.give_back(oldest);
                Place::InsteadOf(self.give(address, now), oldest)
            }
            Some(_) | None => Place::None,
        }
    }

    /// Takes note that a handshake has ended, in whatever way.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        let Some((address, _)) = self.taken.remove(&ticket) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }

    fn give(&mut self, address: IpAddr, now: Instant) -> Ticket {
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(1);
        self.taken.insert(ticket, (address, now));
        *self.counts.entry(address).or_default() += 1;
        ticket
    }
}

/// Returns what stands for one peer: an address, or the network that one is given with IPv6.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            std::net::Ipv6Addr::from_bits(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn fill(places: &mut Places, address: IpAddr, count: usize, now: Instant) {
        for _ in 0..count {
            assert!(matches!(places.take(address, now), Place::Free(_)));
        }
    }

    #[test]
    fn once_places_are_scarce_one_address_has_no_more_than_its_share_and_the_others_go_on() {
        let now = Instant::now();
        let mut places = Places::new(256);
        fill(&mut places, address(1), 128, now);
        assert_eq!(places.take(address(1), now), Place::None);
        fill(&mut places, address(2), SHARE, now);
        assert_eq!(places.take(address(2), now), Place::None);
        fill(&mut places, address(3), 1, now);
        // Once its oldest has had its time it makes room for its own next.
        let Place::InsteadOf(_, oldest) = places.take(address(1), now + GRACE) else {
            panic!("no room was made")
        };
        assert_eq!(oldest, Ticket(0));
        places.give_back(oldest);
        assert_eq!(places.counts[&address(1)], 128, "given back once");
    }

    #[test]
    fn when_no_place_is_left_whoever_has_most_makes_room() {
        let now = Instant::now();
        let mut places = Places::new(128);
        fill(&mut places, address(1), 10, now);
        fill(&mut places, address(2), SHARE, now);
        for last in 3..57 {
            fill(&mut places, address(last), 1, now);
        }
        assert_eq!(places.take(address(99), now), Place::None, "all are young");
        let Place::InsteadOf(_, oldest) = places.take(address(99), now + GRACE) else {
            panic!("no room was made")
        };
        assert_eq!(oldest, Ticket(10), "the first of the second address");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_and_what_is_given_back_leaves_nothing() {
        let now = Instant::now();
        let mut places = Places::new(2 * SHARE);
        let host = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, host]);
        for number in 0..64 {
            assert!(matches!(places.take(host(number), now), Place::Free(_)));
        }
        assert_eq!(places.take(host(64), now), Place::None);
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201]);
        assert_eq!(prefix(mapped), address(1));
        for number in 0..64 {
            places.give_back(Ticket(number));
        }
        assert!(places.counts.is_empty() && places.taken.is_empty());
    }
}
