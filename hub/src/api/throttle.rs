//! Slows guessing of passwords, and paces everybody's requests.
//!
//! Guessing is counted per account *and* the network it comes from, and per network over all
//! accounts. Never per account alone: a stranger who guesses from elsewhere must not be able to
//! lock its owner out. What remains to an attacker with very many networks is bounded by
//! [`crate::password::Hasher`] and by what [`crate::password::check`] lets through.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::ids::UserId;

use super::turn::{Turn, Turns};

/// Attempts on one account from one network that are free.
const FREE: u32 = 5;

/// Attempts from one network over all accounts that are free: an office behind one address.
const FREE_OF_NETWORK: u32 = 50;

/// The wait before the first attempt that is not free; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// After so long without an attempt, one is forgotten. Longer than the longest wait.
const MEMORY: Duration = Duration::from_secs(60 * 60);

/// So long after a sign-in its network is one that the account is known at.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Most pairs and networks that are remembered.
const REMEMBERED: usize = 20_000;

/// Refused sign-ins as one user are reported at most so often.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Requests that a caller may make at once, and what that refills to.
pub(super) const BURST: u32 = 600;

/// Requests per second that a caller may make for ever.
const PER_SECOND: f64 = 50.0;

/// Whom an attempt is counted for: a network, and the account it tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    network: [u8; 8],
    /// Hash of the e-mail address in lower case; absent for the network as a whole.
    account: Option<[u8; 16]>,
}

#[derive(Debug, Clone, Copy)]
struct Guesses {
    made: u32,
    next_at: Instant,
    forget_at: Instant,
}

/// Whose requests are paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// Those of a signed-in person, wherever they come from.
    User(UserId),
    /// Those of nobody in particular from a network.
    Network(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: f64,
    at: Instant,
}

/// How a caller stands after a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Requests left at once.
    pub(super) left: u32,
    /// Until the full burst is there again.
    pub(super) full_after: Duration,
}

/// Refused sign-ins as one user.
#[derive(Debug, Clone, Copy)]
struct Reported {
    at: Instant,
    /// Those since then.
    unheard: u32,
}

/// Attempts and requests of late. In memory alone: a restart forgives.
#[derive(Debug)]
pub(crate) struct Throttle {
    guesses: Mutex<BTreeMap<Key, Guesses>>,
    /// By users that there are: nobody can fill it with made-up ones.
    reports: Mutex<BTreeMap<UserId, Reported>>,
    allowances: Mutex<BTreeMap<Whose, Allowance>>,
    turns: Arc<Turns>,
    /// When somebody last signed in to an account from a network.
    known: Mutex<BTreeMap<Key, Instant>>,
}

/// Returns the part of an address that its owner cannot change at will: an IPv4 address, or the
/// 64-bit prefix that one IPv6 site gets at least (RFC 6177, section 2).
pub(super) fn network(address: IpAddr) -> [u8; 8] {
    let octets = match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (high, low) = octets.split_at(8);
    let is_v4 = high.iter().all(|byte| *byte == 0);
    let part = if is_v4 { low } else { high };
    part.try_into().unwrap_or([0; 8])
}

impl Key {
    fn of_network(address: IpAddr) -> Self {
        Self {
            network: network(address),
            account: None,
        }
    }

    fn of_account(address: IpAddr, email: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("zero-x sign-in attempts 1");
        hasher.update(email.trim().to_lowercase().as_bytes());
        let mut account = [0; 16];
        hasher.finalize_xof().fill(&mut account);
        Self {
            network: network(address),
            account: Some(account),
        }
    }

    const fn free(&self) -> u32 {
        match self.account {
            Some(_) => FREE,
            None => FREE_OF_NETWORK,
        }
    }
}

impl Throttle {
    /// Makes one that remembers nothing.
    pub(crate) fn new() -> Self {
        Self {
            guesses: Mutex::default(),
            reports: Mutex::default(),
            allowances: Mutex::default(),
            turns: Arc::default(),
            known: Mutex::default(),
        }
    }

    /// Counts an attempt to sign in, before it is known how it ends; see [`Throttle::forgive`].
    ///
    /// # Errors
    ///
    /// The time to wait when it must not be made. It is then not counted.
    pub(super) fn attempt(
        &self,
        address: IpAddr,
        email: &str,
        now: Instant,
    ) -> Result<(), Duration> {
        let (account, network) = (Key::of_account(address, email), Key::of_network(address));
        let keys = [account, network];
        // Who has signed in from there before does not wait for what neighbours do.
        let is_known = self.is_known(&account, now);
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = keys
            .iter()
            .filter(|key| !is_known || **key == account)
            .filter_map(|key| guesses.get(key))
            .map(|entry| entry.next_at.saturating_duration_since(now))
            .max()
            .unwrap_or_default();
        if !wait.is_zero() {
            return Err(wait);
        }
        for key in keys {
            make_room(&mut guesses, now);
            let entry = guesses
                .entry(key)
                .and_modify(|entry| {
                    if entry.forget_at <= now {
                        entry.made = 0;
                    }
                })
                .or_insert(Guesses {
                    made: 0,
                    next_at: now,
                    forget_at: now,
                });
            entry.made = entry.made.saturating_add(1);
            let wait = match entry.made.checked_sub(key.free()) {
                None => Duration::ZERO,
                Some(beyond) => FIRST_WAIT
                    .saturating_mul(1 << beyond.min(16))
                    .min(LONGEST_WAIT),
            };
            entry.next_at = now + wait;
            entry.forget_at = now + MEMORY;
        }
        Ok(())
    }

    /// Forgets the attempts on an account from a network: the last one was its owner's. The
    /// network gets that one attempt back and no more, or whoever owns one account could guess
    /// at others without end.
    pub(super) fn forgive(&self, address: IpAddr, email: &str, now: Instant) {
        self.remember(Key::of_account(address, email), now);
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.remove(&Key::of_account(address, email));
        if let Some(entry) = guesses.get_mut(&Key::of_network(address)) {
            entry.made = entry.made.saturating_sub(1);
        }
    }

    fn is_known(&self, key: &Key, now: Instant) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let since = known.get(key);
        since.is_some_and(|at| now.saturating_duration_since(*at) < KNOWN)
    }

    fn remember(&self, key: Key, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(&key) {
            let oldest = known.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                known.remove(&oldest);
            }
        }
        known.insert(key, now);
    }

    /// Says whether a refused sign-in as a user is to be reported now, and how many were not since
    /// the last that was.
    pub(super) fn report(&self, user: UserId, now: Instant) -> Option<u32> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Reported {
            at: now,
            unheard: 0,
        };
        let Some(entry) = reports.get_mut(&user) else {
            reports.insert(user, fresh);
            return Some(0);
        };
        if now.saturating_duration_since(entry.at) < REPORT_EVERY {
            entry.unheard = entry.unheard.saturating_add(1);
            return None;
        }
        Some(std::mem::replace(entry, fresh).unheard)
    }

    /// Begins to serve a request of a person; `None` when too many are being served.
    pub(super) fn begin(&self, user: UserId, is_stream: bool) -> Option<Turn> {
        Turn::begin(&self.turns, user, is_stream)
    }

    /// Takes one request from a caller's allowance.
    ///
    /// # Errors
    ///
    /// The time until the next one.
    pub(super) fn take(&self, whose: Whose, now: Instant) -> Result<Pace, Duration> {
        let whose = match whose {
            // All addresses of a network share one allowance.
            Whose::Network(address) => {
                let part = u64::from_be_bytes(network(address));
                let octets = (u128::from(part) << 64).to_be_bytes();
                Whose::Network(IpAddr::from(octets))
            }
            user @ Whose::User(_) => user,
        };
        let mut allowances = self
            .allowances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if allowances.len() >= REMEMBERED && !allowances.contains_key(&whose) {
            // Whoever has been quiet long enough has a full allowance, as a newcomer does.
            allowances.retain(|_, entry| entry.refilled(now) < f64::from(BURST));
            if allowances.len() >= REMEMBERED {
                allowances.pop_first();
            }
        }
        let entry = allowances.entry(whose).or_insert(Allowance {
            left: f64::from(BURST),
            at: now,
        });
        let left = entry.refilled(now);
        if left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left) / PER_SECOND));
        }
        *entry = Allowance {
            left: left - 1.0,
            at: now,
        };
        let missing = f64::from(BURST) - entry.left;
        Ok(Pace {
            left: whole(entry.left),
            full_after: Duration::from_secs_f64(missing / PER_SECOND),
        })
    }
}

impl Allowance {
    fn refilled(&self, now: Instant) -> f64 {
        let quiet = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + quiet * PER_SECOND).min(f64::from(BURST))
    }
}

fn whole(left: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an allowance lies between zero and the burst"
    )]
    let whole = left as u32;
    whole
}

/// Drops what is over; if that is not enough, the half that would be forgotten first.
fn make_room(guesses: &mut BTreeMap<Key, Guesses>, now: Instant) {
    if guesses.len() < REMEMBERED {
        return;
    }
    guesses.retain(|_, entry| entry.forget_at > now);
    if guesses.len() < REMEMBERED {
        return;
    }
    let mut ends: Vec<(u32, Instant)> = guesses
        .values()
        .map(|entry| (entry.made, entry.forget_at))
        .collect();
    ends.sort_unstable();
    if let Some(&middle) = ends.get(ends.len() / 2) {
        // Those with the fewest attempts go first, so that a crowd of networks that each tried
        // once does not make the hub forget the one that tries for hours.
        guesses.retain(|_, entry| (entry.made, entry.forget_at) > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "mira@example.org";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn guessing_is_slowed_and_the_owner_elsewhere_is_not() {
        let throttle = Throttle::new();
        let (thief, home) = (address("198.51.100.7"), address("203.0.113.9"));
        let start = Instant::now();
        let mut now = start;
        for _ in 0..FREE {
            throttle.attempt(thief, OWNER, now).unwrap();
        }
        assert_eq!(throttle.attempt(thief, OWNER, now), Err(FIRST_WAIT));
        // Another account is not slowed by that: people share addresses.
        throttle.attempt(thief, "other@example.org", now).unwrap();
        let mut made = 0_u32;
        let day = Duration::from_secs(24 * 3600);
        while now.duration_since(start) < day {
            match throttle.attempt(thief, &OWNER.to_uppercase(), now) {
                Ok(()) => made += 1,
                Err(wait) => now += wait,
            }
        }
        assert!(made < 110, "{made} attempts in a day");
        let _ = throttle.attempt(thief, OWNER, now);
        // The owner signs in from elsewhere at the same moment, and the thief's wait stays.
        throttle.attempt(home, OWNER, now).unwrap();
        throttle.forgive(home, OWNER, now);
        assert!(throttle.attempt(thief, OWNER, now).is_err());
    }

    #[test]
    fn one_network_cannot_try_one_password_on_every_account() {
        let throttle = Throttle::new();
        let now = Instant::now();
        let tried = (0..1000)
            .filter(|n| {
                // Another address of the same IPv6 site each time.
                let from = address(&format!("2001:db8:1:2::{n:x}"));
                let email = format!("user{n}@example.org");
                throttle.attempt(from, &email, now).is_ok()
            })
            .count();
        assert_eq!(tried, usize::try_from(FREE_OF_NETWORK).unwrap());
        let elsewhere = address("2001:db8:1:3::1");
        assert!(throttle.attempt(elsewhere, OWNER, now).is_ok());
    }

    #[test]
    fn a_success_does_not_buy_free_guesses_at_others() {
        let throttle = Throttle::new();
        let (now, from) = (Instant::now(), address("198.51.100.7"));
        let mut guesses = 0;
        for n in 0..1000 {
            if throttle.attempt(from, "own@example.org", now).is_ok() {
                throttle.forgive(from, "own@example.org", now);
            }
            let other = format!("user{n}@example.org");
            guesses += u32::from(throttle.attempt(from, &other, now).is_ok());
        }
        assert!(guesses <= FREE_OF_NETWORK, "{guesses}");
    }

    #[test]
    fn many_strangers_do_not_grow_the_map_without_bound() {
        let throttle = Throttle::new();
        let now = Instant::now();
        let thief = address("198.51.100.7");
        while throttle.attempt(thief, OWNER, now).is_ok() {}
        for n in 0..30_000_u32 {
            let from = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            let _ = throttle.attempt(from, OWNER, now);
            let _ = throttle.take(Whose::Network(from), now);
        }
        assert!(throttle.guesses.lock().unwrap().len() <= REMEMBERED);
        assert!(throttle.allowances.lock().unwrap().len() <= REMEMBERED);
        // And the crowd did not wash away the one who keeps trying.
        assert!(throttle.attempt(thief, OWNER, now).is_err());
    }

    #[test]
    fn refused_sign_ins_as_one_user_are_reported_once_a_minute_and_counted() {
        let throttle = Throttle::new();
        let (user, other) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let now = Instant::now();
        assert_eq!(throttle.report(user, now), Some(0));
        for second in 1..60 {
            let at = now + Duration::from_secs(second);
            assert_eq!(throttle.report(user, at), None);
        }
        assert_eq!(throttle.report(other, now), Some(0));
        let later = now + REPORT_EVERY;
        assert_eq!(throttle.report(user, later), Some(59));
        assert_eq!(throttle.report(user, later), None);
        assert_eq!(throttle.report(user, later + REPORT_EVERY), Some(1));
    }

    #[test]
    fn a_neighbour_who_guesses_does_not_lock_out_who_is_known_there() {
        let throttle = Throttle::new();
        let (office, now) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
        throttle.attempt(office, OWNER, now).unwrap();
        throttle.forgive(office, OWNER, now);
        for n in 0..FREE_OF_NETWORK {
            let _ = throttle.attempt(office, &format!("{n}@example.org"), now);
        }
        let another = "another@example.org";
        assert!(throttle.attempt(office, another, now).is_err());
        // It is no leave to guess, and it has an end.
        for _ in 0..FREE {
            throttle.attempt(office, OWNER, now).unwrap();
        }
        assert!(throttle.attempt(office, OWNER, now).is_err());
        let later = now + KNOWN;
        for n in 0..FREE_OF_NETWORK {
            let _ = throttle.attempt(office, &format!("{n}@example.net"), later);
        }
        assert!(throttle.attempt(office, OWNER, later).is_err());
    }

    #[test]
    fn an_allowance_runs_out_and_comes_back() {
        let throttle = Throttle::new();
        let whose = Whose::User(UserId::from_bytes([1; 16]));
        let now = Instant::now();
        for left in (0..BURST).rev() {
            assert_eq!(throttle.take(whose, now).unwrap().left, left);
        }
        let wait = throttle.take(whose, now).unwrap_err();
        assert!(wait <= Duration::from_millis(20), "{wait:?}");
        assert!(throttle.take(whose, now + wait).is_ok());
        let other = Whose::User(UserId::from_bytes([2; 16]));
        assert!(throttle.take(other, now).is_ok());
    }
}
