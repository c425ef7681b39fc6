//! Runs seeds: twenty by default, one with `SEED=7`, more with `SEEDS=5000`, from another start
//! with `FROM=100000`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sim::{Summary, run};

/// Seeds of a normal run.
const SEEDS: u64 = 20;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// Runs a seed; a panic of a core counts as a failure of that seed.
fn check(seed: u64) -> Result<Summary, String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_) => Err(format!(
            "seed {seed} panics; again: SEED={seed} cargo test -p sim"
        )),
    }
}

#[test]
fn whatever_fails_everything_acknowledged_is_stored_once_and_nothing_waits_for_ever() {
    let (from, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("FROM").unwrap_or(1),
            number("SEEDS").unwrap_or(SEEDS),
        ),
    };
    let failed: Vec<String> = (from..from + count)
        .filter_map(|seed| check(seed).err())
        .collect();
    let each: Vec<&str> = failed
        .iter()
        .filter_map(|text| text.lines().nth_back(1))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed:\n{}\nthe first:\n{}",
        failed.len(),
        each.join("\n"),
        failed.first().map_or("", String::as_str)
    );
}

#[test]
fn certificates_are_renewed_and_hubs_that_were_set_back_are_shown_older_ones() {
    let runs = (1..=60).map(|seed| check(seed).unwrap_or_else(|failure| panic!("{failure}")));
    let (mut renewals, mut older) = (0, 0);
    for run in runs {
        renewals += run.renewals;
        older += run.older_shown;
    }
    assert!(
        renewals > 50 && older > 3,
        "{renewals} renewals, {older} older ones"
    );
}

#[test]
fn a_seed_repeats_its_run_and_another_makes_another() {
    let one = check(1).unwrap_or_else(|failure| panic!("{failure}"));
    let again = check(1).unwrap_or_else(|failure| panic!("{failure}"));
    let other = check(2).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert!(one.items > 50 && one.batches > 20, "{one:?}");
}
