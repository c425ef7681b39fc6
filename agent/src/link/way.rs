//! Which transport is tried, and when a session on TCP looks for QUIC again. Pure: instants are
//! arguments.
//!
//! QUIC is always preferred, but a network may let its first packets through and lose the rest. A
//! QUIC session that fell silent is therefore not trusted for a pause: TCP is dialled first, and a
//! session that is up on TCP stays there as long. Each return that does not last doubles the
//! pause, one that lasts forgets it. A session that is on TCP only because that was up first looks
//! for QUIC soon: over a network that loses packets a handshake can take its time.

use std::time::{Duration, Instant};

use super::{Order, Transport};

/// Longest pause before QUIC is looked for again.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long a session that is on TCP by chance waits before it looks for QUIC.
const EARLY: Duration = Duration::from_secs(1);

/// How long a QUIC session has to stand for a return that lasted.
const LASTING: Duration = Duration::from_secs(10 * 60);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Somebody said so: the hub, this side, the system.
    Told,
    /// Nothing was heard any more.
    Silent,
}

/// What is known of the ways to the hub.
#[derive(Debug)]
pub(super) struct Way {
    first_pause: Duration,
    pause: Duration,
    /// Since when a session stands on QUIC.
    quic_since: Option<Instant>,
    /// Until when TCP is dialled first.
    tcp_first_until: Option<Instant>,
    probe_at: Option<Instant>,
    /// Whether the next look is an early one, which says little when it fails.
    is_early: bool,
}

impl Way {
    /// Starts with QUIC; `first_pause` is the shortest time on TCP before QUIC is looked for.
    pub(super) fn new(first_pause: Duration) -> Self {
        Self {
            first_pause,
            pause: first_pause,
            quic_since: None,
            tcp_first_until: None,
            probe_at: None,
            is_early: false,
        }
    }

    /// Returns which transports a new connection tries.
    pub(super) fn order(&self, now: Instant) -> Order {
        match self.tcp_first_until {
            Some(until) if now < until => Order::TcpFirst,
            Some(_) | None => Order::QuicFirst,
        }
    }

    /// Takes note that a connection stands.
    pub(super) fn up(&mut self, transport: Transport, now: Instant) {
        match transport {
            Transport::Quic => {
                self.quic_since = Some(now);
                self.probe_at = None;
            }
            Transport::Tcp => {
                self.quic_since = None;
                self.is_early = self.order(now) == Order::QuicFirst && EARLY < self.pause;
                let pause = if self.is_early { EARLY } else { self.pause };
                self.probe_at = Some(now + pause);
            }
        }
    }

    /// Takes note that the connection has ended.
    pub(super) fn down(&mut self, end: End, now: Instant) {
        self.probe_at = None;
        let Some(since) = self.quic_since.take() else {
            return;
        };
        if now.duration_since(since) >= LASTING {
            self.pause = self.first_pause;
        }
        if end == End::Silent {
            self.tcp_first_until = Some(now + self.pause);
            self.lengthen();
        }
    }

    /// Takes note that nothing answers, over either transport: a silence before was the hub's or
    /// the network's, and not QUIC's fault.
    pub(super) fn nothing_answers(&mut self) {
        self.tcp_first_until = None;
    }

    /// Returns when QUIC is to be looked for while the session is on TCP.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    /// Takes note that QUIC is being looked for.
    pub(super) fn probing(&mut self) {
        self.probe_at = None;
    }

    /// Takes note that QUIC did not answer.
    pub(super) fn probe_failed(&mut self, now: Instant) {
        if !std::mem::take(&mut self.is_early) {
            self.lengthen();
        }
        self.probe_at = Some(now + self.pause);
    }

    fn lengthen(&mut self) {
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn quic_is_looked_for_soon_and_then_after_pauses_that_double_up_to_half_an_hour() {
        let start = Instant::now();
        let mut way = Way::new(MINUTE);
        way.up(Transport::Tcp, start);
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..8 {
            let due = way.probe_at().unwrap();
            pauses.push(due.duration_since(now).as_secs());
            now = due;
            way.probing();
            assert_eq!(way.probe_at(), None, "one at a time");
            way.probe_failed(now);
        }
        assert_eq!(pauses, [1, 60, 120, 240, 480, 960, 1800, 1800]);
        way.down(End::Told, now);
        assert_eq!(
            way.order(now),
            Order::QuicFirst,
            "a new connection tries both"
        );
        assert_eq!(way.probe_at(), None);
    }

    #[test]
    fn a_return_to_quic_that_falls_silent_is_followed_by_a_longer_stay_on_tcp() {
        let mut now = Instant::now();
        let mut way = Way::new(MINUTE);
        let mut stays = Vec::new();
        way.up(Transport::Quic, now);
        for _ in 0..3 {
            now += MINUTE;
            way.down(End::Silent, now);
            assert_eq!(way.order(now), Order::TcpFirst);
            way.up(Transport::Tcp, now);
            let due = way.probe_at().unwrap();
            stays.push(due.duration_since(now).as_secs() / 60);
            now = due;
            way.up(Transport::Quic, now);
        }
        assert_eq!(stays, [2, 4, 8]);

        // It lasts, and the network goes away: as at the beginning.
        now += LASTING;
        way.down(End::Silent, now);
        assert_eq!(way.order(now), Order::TcpFirst);
        assert_eq!(way.order(now + MINUTE), Order::QuicFirst);
    }

    #[test]
    fn a_hub_that_was_away_altogether_is_not_held_against_quic() {
        let now = Instant::now();
        let mut way = Way::new(MINUTE);
        way.up(Transport::Quic, now);
        way.down(End::Silent, now + MINUTE);
        assert_eq!(way.order(now + MINUTE), Order::TcpFirst);
        way.nothing_answers();
        assert_eq!(way.order(now + MINUTE), Order::QuicFirst);
    }

    #[test]
    fn a_hub_that_says_farewell_or_restarts_costs_quic_no_trust() {
        let now = Instant::now();
        let mut way = Way::new(MINUTE);
        way.up(Transport::Quic, now);
        way.down(End::Told, now + MINUTE);
        assert_eq!(way.order(now + MINUTE), Order::QuicFirst);
        // Nor does a silence on TCP say anything of QUIC.
        way.up(Transport::Tcp, now);
        way.down(End::Silent, now);
        assert_eq!(way.order(now), Order::QuicFirst);
    }
}
