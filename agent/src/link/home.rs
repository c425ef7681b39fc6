//! Which of several hubs is dialled first, and when a session that runs on a later one looks for
//! those before it. Pure: instants are arguments.
//!
//! The list of hubs is an order of preference. One that takes a connection and then does not take
//! the session is tried last the next time. A return that does not last doubles the pause before
//! the next.

use std::time::{Duration, Instant};

/// Longest pause before the hubs that are preferred are looked for again.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// How long a session has to stand for a return that lasted.
const LASTING: Duration = Duration::from_secs(10 * 60);

/// The hubs, in their order.
#[derive(Debug)]
pub(super) struct Home {
    hubs: Vec<String>,
    /// One that took a connection and not the session.
    shunned: Option<String>,
    first_pause: Duration,
    pause: Duration,
    /// Since when a session stands on a hub to which it returned.
    returned_at: Option<Instant>,
    look_at: Option<Instant>,
}

impl Home {
    /// Starts with the first; `first_pause` is the shortest time on another.
    pub(super) fn new(hubs: Vec<String>, first_pause: Duration) -> Self {
        Self {
            hubs,
            shunned: None,
            first_pause,
            pause: first_pause,
            returned_at: None,
            look_at: None,
        }
    }

    /// Returns the hubs in the order in which they are dialled.
    pub(super) fn order(&self) -> Vec<String> {
        let is_shunned = |hub: &&String| Some(*hub) == self.shunned.as_ref();
        let last = self.hubs.iter().filter(is_shunned);
        let first = self.hubs.iter().filter(|hub| !is_shunned(hub));
        first.chain(last).cloned().collect()
    }

    /// Takes note that a session is open on a hub.
    pub(super) fn open(&mut self, hub: &str, now: Instant) {
        if self.shunned.as_deref() == Some(hub) {
            self.shunned = None;
        }
        let is_first = self.hubs.first().is_none_or(|first| first == hub);
        self.look_at = (!is_first).then(|| now + self.pause);
    }

    /// Takes note that the session's connection has ended.
    pub(super) fn down(&mut self, now: Instant) {
        self.look_at = None;
        if let Some(since) = self.returned_at.take() {
            if now.duration_since(since) < LASTING {
                self.lengthen();
            } else {
                self.pause = self.first_pause;
            }
        }
    }

    /// Takes note that a hub took a connection and did not take the session.
    pub(super) fn shun(&mut self, hub: &str) {
        self.shunned = Some(hub.to_owned());
    }

    /// Returns when the hubs before the one in use are to be looked for.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Takes note that they are being looked for, and returns them.
    pub(super) fn looking(&mut self, hub: &str) -> Vec<String> {
        self.look_at = None;
        let before = self.hubs.iter().take_while(|other| *other != hub);
        before.cloned().collect()
    }

    /// Takes note that none of them answers.
    pub(super) fn failed(&mut self, now: Instant) {
        self.lengthen();
        self.look_at = Some(now + self.pause);
    }

    /// Takes note that the session moves to one of them.
    pub(super) fn returned(&mut self, now: Instant) {
        self.returned_at = Some(now);
    }

    fn lengthen(&mut self) {
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn home() -> Home {
        let hubs = ["a", "b", "c"].map(str::to_owned);
        Home::new(hubs.to_vec(), MINUTE)
    }

    #[test]
    fn a_session_on_a_later_hub_looks_for_those_before_it_with_growing_pauses() {
        let start = Instant::now();
        let mut home = home();
        home.open("a", start);
        assert_eq!(home.look_at(), None, "it is at home");
        home.down(start);
        home.open("c", start);
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..8 {
            let due = home.look_at().unwrap();
            pauses.push(due.duration_since(now).as_secs() / 60);
            now = due;
            assert_eq!(home.looking("c"), ["a", "b"]);
            assert_eq!(home.look_at(), None, "one at a time");
            home.failed(now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_return_that_does_not_last_is_followed_by_a_longer_stay_away() {
        let mut now = Instant::now();
        let mut home = home();
        let mut stays = Vec::new();
        for lasted in [MINUTE, MINUTE, LASTING] {
            home.open("b", now);
            let due = home.look_at().unwrap();
            stays.push(due.duration_since(now).as_secs() / 60);
            now = due;
            home.looking("b");
            home.returned(now);
            home.open("a", now);
            now += lasted;
            home.down(now);
        }
        home.open("b", now);
        stays.push(home.look_at().unwrap().duration_since(now).as_secs() / 60);
        assert_eq!(stays, [1, 2, 4, 1]);
    }

    #[test]
    fn a_hub_that_takes_the_connection_and_not_the_session_is_tried_last_until_it_does() {
        let mut home = home();
        assert_eq!(home.order(), ["a", "b", "c"]);
        home.shun("a");
        assert_eq!(home.order(), ["b", "c", "a"]);
        home.open("b", Instant::now());
        assert_eq!(home.order(), ["b", "c", "a"]);
        home.open("a", Instant::now());
        assert_eq!(home.order(), ["a", "b", "c"]);
    }
}
