//! The bench of the store at scale, small: what it measures is there, and found. Its times are told
//! by `cargo xtask bench-store`.

#![expect(clippy::print_stdout, reason = "a bench's output")]

#[expect(dead_code, reason = "the bench uses the rest")]
#[path = "../../benches/scale/events.rs"]
mod events;
#[path = "../../benches/scale/figure.rs"]
mod figure;
#[path = "../../benches/scale/lists.rs"]
mod lists;
#[path = "../../benches/scale/place.rs"]
mod place;
#[path = "../../benches/scale/trail.rs"]
mod trail;

use place::{Place, runtime};

const ROWS: u64 = 6_000;
const EVENTS: u64 = 20_000;

#[test]
fn every_list_of_the_bench_finds_something_and_counts_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::of(folder.path());
    figure::print(runtime().block_on(lists::write(&place, ROWS)));
    let (figures, asked) = runtime().block_on(lists::read(&place));
    figure::print(figures);
    for one in &asked {
        assert!(one.total > 0, "{}", one.question);
        let all = usize::try_from(one.total).unwrap();
        assert_eq!(one.shown, all.min(100), "{}", one.question);
    }
    let whole = asked.iter().filter(|one| one.question.contains("\"\""));
    assert_eq!(whole.filter(|one| one.total == ROWS).count(), 2);
}

#[test]
fn events_take_few_bytes_are_found_and_a_day_of_them_goes() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::of(folder.path());
    let written = figure::print(runtime().block_on(events::write(&place, EVENTS)));
    let live = written
        .iter()
        .find(|one| one.what.starts_with("live bytes"));
    // Blocks are full, so an event takes what it takes among ten million.
    assert!(live.unwrap().value <= 220.0, "{live:?}");
    let (figures, searched) = runtime().block_on(events::read(&place, EVENTS));
    figure::print(figures);
    for one in &searched {
        let (least, most) = match one.what {
            what if what.starts_with("one event") => (1, 1),
            what if what.starts_with("nothing") || what.contains("never") => (0, 0),
            what if what.contains("nowhere") => (0, 0),
            _ => (1, usize::MAX),
        };
        assert!(
            (least..=most).contains(&one.found),
            "{}: {}",
            one.what,
            one.found
        );
    }
    runtime().block_on(events::open(&place)).print();
    let (dropped, left) = runtime().block_on(events::drop_day(&place, EVENTS));
    dropped.print();
    assert_eq!(left, 0, "events of the day are left");
}
