//! When the next sync of a source begins.

use std::time::Duration;

use jiff::Timestamp;

use super::Config;
use crate::sources::Pace;

/// First pause after a sync that could not run; doubles up to the source's own interval.
const RETRY_FIRST: Duration = Duration::from_secs(60);

/// Returns when the next sync begins, after one that ended `now`.
///
/// `failures` counts syncs in a row that could not run at all; `random` spreads agents.
pub(crate) fn next(
    pace: &Pace,
    config: &Config,
    now: Timestamp,
    failures: u32,
    random: u64,
) -> Timestamp {
    let jitter = pace.jitter.unwrap_or(config.jitter);
    let interval = pace.interval.unwrap_or(config.interval);
    let spread = |most: Duration| {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        let bound = most.saturating_add(1);
        Duration::from_millis(random.checked_rem(bound).unwrap_or(0))
    };
    if failures > 0 {
        let doubled = RETRY_FIRST.saturating_mul(1u32 << (failures - 1).min(16));
        let pause = doubled.min(interval.max(RETRY_FIRST));
        return later(now, pause / 2 + spread(pause / 2));
    }
    let start = match &pace.cron {
        Some(cron) => cron.next_after(now).unwrap_or_else(|| later(now, interval)),
        None => later(now, interval),
    };
    later(start, spread(jitter))
}

fn later(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::cron::Cron;
    use proptest::prelude::*;

    const CONFIG: Config = Config {
        interval: Duration::from_secs(900),
        jitter: Duration::from_secs(120),
        once_timeout: Duration::from_secs(60),
    };

    fn now() -> Timestamp {
        "2026-01-01T00:00:30Z".parse().unwrap()
    }

    fn seconds(pace: &Pace, failures: u32, random: u64) -> i64 {
        next(pace, &CONFIG, now(), failures, random)
            .duration_since(now())
            .as_secs()
    }

    #[test]
    fn a_sources_own_pace_beats_the_agents() {
        let own = Pace {
            interval: Some(Duration::from_secs(3600)),
            jitter: Some(Duration::ZERO),
            ..Pace::default()
        };
        assert_eq!(seconds(&own, 0, 77), 3600);
        let cron = Pace {
            cron: Some(Cron::parse("5 * * * *").unwrap()),
            jitter: Some(Duration::ZERO),
            ..Pace::default()
        };
        assert_eq!(seconds(&cron, 0, 77), 270);
    }

    proptest! {
        #[test]
        fn a_healthy_source_waits_its_interval_and_at_most_the_jitter_more(random: u64) {
            let pause = seconds(&Pace::default(), 0, random);
            prop_assert!((900..=1020).contains(&pause), "{}", pause);
        }

        #[test]
        fn a_failing_source_is_tried_more_seldom_but_never_less_than_its_interval(
            failures in 1u32..60, random: u64,
        ) {
            let pause = seconds(&Pace::default(), failures, random);
            let most = 60i64.saturating_mul(1 << (failures - 1).min(16)).min(900);
            prop_assert!((most / 2..=most).contains(&pause), "{} after {}", pause, failures);
        }
    }
}
