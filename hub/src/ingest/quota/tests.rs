use proptest::prelude::*;

use super::*;

fn rate(n: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(n)
}

/// An agent may send 1,000 bytes and 10 events a second, an organisation twice that, and two
/// seconds' worth at once.
fn quotas() -> Quotas {
    let rates = |times: u64| Rates {
        bytes: rate(1_000 * times),
        events: rate(10 * times),
    };
    Quotas {
        agent: rates(1),
        org: rates(2),
        burst: Duration::from_secs(2),
    }
}

fn org() -> OrgId {
    OrgId::from_bytes([1; 16])
}

fn agent(n: u64) -> AgentId {
    AgentId::derived(&[&n.to_le_bytes()])
}

fn bytes(bytes: u64) -> Spent {
    Spent { bytes, events: 0 }
}

fn events(events: u64) -> Spent {
    Spent { bytes: 0, events }
}

struct Bench {
    ledger: Ledger,
    quotas: Quotas,
    began: Instant,
}

impl Bench {
    fn new(quotas: Quotas) -> Self {
        Self {
            ledger: Ledger::default(),
            quotas,
            began: Instant::now(),
        }
    }

    fn charge(&mut self, at_ms: u64, n: u64, spent: Spent) {
        let now = self.began + Duration::from_millis(at_ms);
        self.ledger
            .charge(org(), agent(n), spent, &self.quotas, now);
    }

    /// Returns how long an agent has to wait, in milliseconds, and why.
    fn hold(&self, at_ms: u64, n: u64) -> Option<(u128, Limit)> {
        let now = self.began + Duration::from_millis(at_ms);
        let hold = self.ledger.hold(org(), agent(n), &self.quotas, now)?;
        Some(((hold.until - now).as_millis(), hold.limit))
    }
}

#[test]
fn a_burst_passes_and_what_exceeds_it_waits_for_as_long_as_its_rate_takes() {
    let mut bench = Bench::new(quotas());
    bench.charge(0, 1, bytes(2_000));
    assert_eq!(bench.hold(0, 1), None);
    bench.charge(0, 1, bytes(500));
    assert_eq!(bench.hold(0, 1), Some((500, Limit::AgentBytes)));
    assert_eq!(bench.hold(499, 1), Some((1, Limit::AgentBytes)));
    assert_eq!(bench.hold(500, 1), None);
    // After a quiet time the burst is there again, and not more than that.
    bench.charge(60_000, 1, bytes(2_600));
    assert_eq!(bench.hold(60_000, 1), Some((600, Limit::AgentBytes)));
}

#[test]
fn the_limit_that_takes_longest_is_the_reason() {
    let mut bench = Bench::new(quotas());
    bench.charge(0, 1, bytes(2_500));
    bench.charge(0, 1, events(26));
    assert_eq!(bench.hold(0, 1), Some((600, Limit::AgentEvents)));
    assert_eq!(bench.hold(0, 2), None, "the organisation has some left");
    bench.charge(0, 2, bytes(1_900));
    assert_eq!(bench.hold(0, 2), Some((200, Limit::OrgBytes)));
    bench.charge(0, 3, events(19));
    assert_eq!(bench.hold(0, 3), Some((250, Limit::OrgEvents)));
}

#[test]
fn an_agent_begins_some_sessions_at_once_and_then_one_a_second() {
    let mut bench = Bench::new(quotas());
    let mut begin = |at_ms: u64, n: u64| {
        let now = bench.began + Duration::from_millis(at_ms);
        bench.ledger.may_begin(agent(n), now)
    };
    let at_once = (0..100).filter(|_| begin(0, 1)).count();
    assert_eq!(u64::try_from(at_once).unwrap(), SESSIONS);
    assert!(begin(0, 2), "another agent may");
    assert!(!begin(999, 1));
    // Those that were refused cost nothing.
    assert!(begin(1_000, 1));
    assert!(!begin(1_001, 1));
    assert!(begin(60_000, 1));
}

#[test]
fn no_session_needs_a_megabyte_of_control_messages() {
    let quota = Arc::new(Quota::new(quotas()));
    let (mut pace, began) = (quota.pace(org(), agent(1)), Instant::now());
    // A heartbeat every second for a day.
    for second in 0..86_400 {
        assert!(!pace.floods(100, began + Duration::from_secs(second)));
    }
    let now = began + Duration::from_secs(86_400);
    let flood = (0..).take_while(|_| !pace.floods(4_096, now)).count();
    assert_eq!(flood, 256);
}

#[test]
fn without_a_limit_nobody_waits() {
    let none = Rates {
        bytes: None,
        events: None,
    };
    let mut bench = Bench::new(Quotas {
        agent: none,
        org: none,
        burst: Duration::from_secs(1),
    });
    bench.charge(0, 1, bytes(u64::MAX));
    bench.charge(0, 1, events(u64::MAX));
    assert_eq!(bench.hold(0, 1), None);
}

#[test]
fn who_owes_nothing_is_forgotten_and_who_does_is_not() {
    let mut bench = Bench::new(Quotas {
        org: Rates {
            bytes: None,
            events: None,
        },
        ..quotas()
    });
    bench.charge(0, 0, bytes(100_000));
    for n in 1..5_000 {
        bench.charge(10 * n, n, bytes(100));
        assert!(bench.ledger.agents.len() <= KEPT.max(2 * bench.ledger.kept));
    }
    // A burst is two seconds: 100,000 bytes are paid for after 98.
    assert!(bench.ledger.agents.len() <= KEPT);
    let (wait, limit) = bench.hold(50_000, 0).unwrap();
    assert_eq!((wait, limit), (48_000, Limit::AgentBytes));
}

#[test]
fn a_throttled_agent_is_shown_until_it_is_calm_and_told_of_once_a_minute() {
    let (began, at) = (Instant::now(), Timestamp::UNIX_EPOCH);
    let mut watch = Watch::default();
    let mut lines = Vec::new();
    // It waits every 100 ms for 50 ms, for two and a half minutes.
    for step in 0..1500 {
        let now = began + Duration::from_millis(100 * step);
        let hold = Hold {
            until: now + Duration::from_millis(50),
            limit: Limit::OrgEvents,
        };
        let wall = at + jiff::SignedDuration::from_millis(i64::try_from(100 * step).unwrap());
        if let Some(line) = watch.waits(hold, now, wall) {
            lines.push((step / 10, line.waited));
        }
        watch.goes(hold.until);
        let shown = watch.shown.unwrap();
        assert_eq!((shown.since, shown.reason), (at, Limit::OrgEvents.reason()));
    }
    let waited = Duration::from_millis;
    assert_eq!(
        lines,
        [(0, waited(50)), (60, waited(30_000)), (120, waited(30_000))]
    );
    let last = began + Duration::from_millis(149_950);
    watch.goes(last + CALM - Duration::from_millis(1));
    assert!(watch.shown.is_some());
    watch.goes(last + CALM);
    assert!(watch.shown.is_none());
}

proptest! {
    /// Whatever comes, no more than the burst, the rate and one piece passes in any time.
    #[test]
    fn nobody_sends_more_than_the_rate_a_burst_and_a_piece(
        pieces in proptest::collection::vec((1u64..5_000, 0u64..800), 1..200),
    ) {
        let mut bench = Bench::new(Quotas {
            org: Rates { bytes: None, events: None },
            ..quotas()
        });
        let (mut at_ms, mut sent) = (0, 0);
        for (size, pause_ms) in pieces {
            at_ms += pause_ms;
            if let Some((wait, _)) = bench.hold(at_ms, 1) {
                // Times are whole milliseconds here.
                at_ms += u64::try_from(wait).unwrap() + 1;
            }
            prop_assert!(bench.hold(at_ms, 1).is_none(), "it waits once");
            bench.charge(at_ms, 1, bytes(size));
            sent += size;
            prop_assert!(sent <= 1_000 * at_ms / 1_000 + 2_000 + size, "{sent} by {at_ms} ms");
        }
    }
}
