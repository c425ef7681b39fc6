//! When a connection on which nothing is heard is doubted. Pure: instants are arguments.
//!
//! A transport that was cut off tries again after ever longer pauses of its own, and would be as
//! late once the network is back. So the hub is asked when something is under way and nothing is
//! heard; if it says nothing to that, another connection is dialled beside the first. It takes over
//! only if it is up while the first is still silent.
//!
//! ```text
//! sent   nothing heard   asked   nothing heard   dialled beside   up ─▶ takes over
//! ```

use std::time::{Duration, Instant};

use super::Transport;

/// How long an answer may take over QUIC, where a hub answers whatever else it has to do.
const PATIENCE_QUIC: Duration = Duration::from_secs(4);

/// The same over TCP, where a hub that reads nothing says every five seconds that it is there.
const PATIENCE_TCP: Duration = Duration::from_secs(15);

/// Pause after an attempt that failed; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// How often the patience doubles at most, when one connection after the other falls silent.
const DOUBLINGS: u32 = 3;

/// From one takeover to the next: if it is longer, the next one is as quick as the first.
const LASTING: Duration = Duration::from_secs(10 * 60);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the hub whether it is there.
    Ask,
    /// Dial beside the connection.
    Dial,
}

/// What is known of the connection in use.
#[derive(Debug)]
pub(super) struct Doubt {
    transport: Transport,
    /// What comes next, and when; `None` while nothing is owed or an attempt is under way.
    next: Option<(Instant, Step)>,
    /// Whether something is under way since the hub was last heard.
    is_owed: bool,
    pause: Duration,
    doublings: u32,
    taken_over_at: Option<Instant>,
}

impl Doubt {
    pub(super) fn new() -> Self {
        Self {
            transport: Transport::Quic,
            next: None,
            is_owed: false,
            pause: PAUSE,
            doublings: 0,
            taken_over_at: None,
        }
    }

    /// Takes note of a new connection.
    pub(super) fn up(&mut self, transport: Transport) {
        self.transport = transport;
        self.heard();
    }

    /// Takes note that something was sent which the hub answers.
    pub(super) fn sent(&mut self, now: Instant) {
        if !self.is_owed {
            self.is_owed = true;
            self.next = Some((now + self.patience(), Step::Ask));
        }
    }

    /// Takes note that the hub was heard, or that there is no connection any more.
    pub(super) fn heard(&mut self) {
        self.is_owed = false;
        self.next = None;
        self.pause = PAUSE;
    }

    /// Returns what is to be done next, and when.
    pub(super) fn next(&self) -> Option<(Instant, Step)> {
        self.next
    }

    /// Takes note that the hub was asked.
    pub(super) fn asked(&mut self, now: Instant) {
        self.next = Some((now + self.patience(), Step::Dial));
    }

    /// Takes note that a connection is being dialled.
    pub(super) fn dialling(&mut self) {
        self.next = None;
    }

    /// Takes note that it was not made.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.is_owed {
            self.next = Some((now + self.pause, Step::Dial));
            self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// Returns whether a connection that was made may take over: nothing was heard meanwhile.
    pub(super) fn stands(&self) -> bool {
        self.is_owed
    }

    /// Takes note that it took over.
    pub(super) fn took_over(&mut self, now: Instant) {
        let last = self.taken_over_at.replace(now);
        let is_again = last.is_some_and(|last| now.duration_since(last) < LASTING);
        self.doublings = if is_again {
            (self.doublings + 1).min(DOUBLINGS)
        } else {
            0
        };
    }

    fn patience(&self) -> Duration {
        let patience = match self.transport {
            Transport::Quic => PATIENCE_QUIC,
            Transport::Tcp => PATIENCE_TCP,
        };
        patience.saturating_mul(1 << self.doublings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_hub_is_asked_first_and_then_dialled_with_growing_pauses() {
        let start = Instant::now();
        let mut doubt = Doubt::new();
        doubt.up(Transport::Quic);
        assert_eq!(doubt.next(), None, "nothing is owed");
        doubt.sent(start);
        doubt.sent(start + secs(3));
        assert_eq!(doubt.next(), Some((start + secs(4), Step::Ask)));
        doubt.asked(start + secs(4));
        doubt.sent(start + secs(4));
        assert_eq!(doubt.next(), Some((start + secs(8), Step::Dial)));
        let mut now = start + secs(8);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            doubt.dialling();
            assert_eq!(doubt.next(), None, "one at a time");
            doubt.failed(now);
            let (at, step) = doubt.next().unwrap();
            assert_eq!(step, Step::Dial);
            pauses.push(at.duration_since(now).as_secs());
            now = at;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8]);
    }

    #[test]
    fn a_hub_that_is_heard_is_not_doubted_and_what_was_dialled_for_it_is_given_up() {
        let now = Instant::now();
        let mut doubt = Doubt::new();
        doubt.up(Transport::Tcp);
        doubt.sent(now);
        assert_eq!(doubt.next(), Some((now + secs(15), Step::Ask)));
        doubt.asked(now + secs(15));
        doubt.dialling();
        assert!(doubt.stands());
        doubt.heard();
        assert!(!doubt.stands());
        doubt.failed(now + secs(31));
        assert_eq!(doubt.next(), None);
    }

    #[test]
    fn connections_that_fall_silent_one_after_the_other_are_given_ever_more_time() {
        let mut now = Instant::now();
        let mut doubt = Doubt::new();
        let mut patience = Vec::new();
        for _ in 0..6 {
            doubt.up(Transport::Quic);
            doubt.sent(now);
            let (at, _) = doubt.next().unwrap();
            patience.push(at.duration_since(now).as_secs());
            now = at;
            doubt.took_over(now);
        }
        assert_eq!(patience, [4, 4, 8, 16, 32, 32]);
        now += LASTING;
        doubt.took_over(now);
        doubt.up(Transport::Quic);
        doubt.sent(now);
        assert_eq!(doubt.next(), Some((now + secs(4), Step::Ask)));
    }
}
