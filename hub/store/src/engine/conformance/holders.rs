//! Making, opening, closing and removing; two holders beside each other.

use protocol::ids::OrgId;

use super::bench::{Bench, HOLDER};
use super::{apply, get, on_every_engine, put};
use crate::engine::{
    Entry, FORMAT, Holder, LoadError, Moment, Note, Piece, Row, Stopped, WriteSet,
};
use crate::error::{EngineError, OpenError};
use crate::tables::Table;

const OTHER: Holder = Holder::Org(OrgId::from_bytes([2; 16]));

on_every_engine! {
    super::run;
    first_rows_are_commit_one super::first_rows_are_commit_one;
    a_place_without_first_rows_is_at_commit_zero super::a_place_without_first_rows_is_at_commit_zero;
    what_exists_is_not_made_again super::what_exists_is_not_made_again;
    what_does_not_exist_is_not_opened_and_not_made super::what_does_not_exist_is_not_opened_and_not_made;
    what_is_open_is_not_opened_again super::what_is_open_is_not_opened_again;
    a_closed_engine_answers_with_an_error super::a_closed_engine_answers_with_an_error;
    closing_twice_is_closing_once super::closing_twice_is_closing_once;
    a_snapshot_outlives_the_closing super::a_snapshot_outlives_the_closing;
    a_row_is_peeked_at_without_a_change super::a_row_is_peeked_at_without_a_change;
    what_is_removed_is_gone super::what_is_removed_is_gone;
    what_was_removed_can_be_made_anew super::what_was_removed_can_be_made_anew;
    holders_do_not_see_each_other super::holders_do_not_see_each_other;
    a_group_of_one_holder_runs_inside_that_of_another super::a_group_of_one_holder_runs_inside_that_of_another;
    a_failed_group_of_one_holder_is_nothing_to_another super::a_failed_group_of_one_holder_is_nothing_to_another;
    removing_one_holder_leaves_the_others super::removing_one_holder_leaves_the_others;
    every_holder_has_a_place_of_its_own super::every_holder_has_a_place_of_its_own;
    the_appliance_has_its_own_tables super::the_appliance_has_its_own_tables;
    what_is_loaded_is_as_it_was super::what_is_loaded_is_as_it_was;
    what_is_loaded_goes_on_from_its_numbers super::what_is_loaded_goes_on_from_its_numbers;
    what_exists_is_not_loaded_over super::what_exists_is_not_loaded_over;
    pieces_that_stop_leave_nothing super::pieces_that_stop_leave_nothing;
    what_is_larger_than_a_step_is_loaded_whole super::what_is_larger_than_a_step_is_loaded_whole;
    nothing_is_loaded_as_nothing super::nothing_is_loaded_as_nothing;
    a_newer_format_is_not_opened_and_stays_as_it_is super::a_newer_format_is_not_opened_and_stays_as_it_is;
    an_older_format_is_opened_as_it_is super::an_older_format_is_opened_as_it_is;
}

fn run(bench: Bench, case: fn(&Bench)) {
    case(&bench);
}

fn first_rows_are_commit_one(bench: &Bench) {
    let made = bench.engines.create(HOLDER, &put("a", "one")).unwrap();
    assert_eq!(get(&*made, "a"), Some((1, "one".into())));
    made.close();
    drop(made);
    assert_eq!(get(&*bench.open(), "a"), Some((1, "one".into())));
}

fn a_place_without_first_rows_is_at_commit_zero(bench: &Bench) {
    bench.make().close();
    let again = bench.open();
    assert_eq!(again.snapshot().unwrap().last_commit().unwrap(), 0);
    assert_eq!(apply(&*again, &put("a", "one")), 1);
}

fn what_exists_is_not_made_again(bench: &Bench) {
    assert!(!bench.engines.exists(HOLDER));
    let made = bench.make();
    apply(&*made, &put("a", "one"));
    made.close();
    drop(made);
    assert!(bench.engines.exists(HOLDER));
    let again = bench.engines.create(HOLDER, &put("a", "two")).err();
    assert!(matches!(again, Some(OpenError::Exists { .. })), "{again:?}");
    assert_eq!(get(&*bench.open(), "a"), Some((1, "one".into())));
}

fn what_does_not_exist_is_not_opened_and_not_made(bench: &Bench) {
    assert!(matches!(
        bench.engines.open(HOLDER).err(),
        Some(OpenError::Io { .. })
    ));
    assert!(bench.engines.peek(HOLDER, Table::Meta, b"a").is_err());
    assert!(bench.engines.remove(HOLDER).is_err());
    assert!(!bench.engines.exists(HOLDER));
}

fn what_is_open_is_not_opened_again(bench: &Bench) {
    let made = bench.make();
    let again = bench.engines.open(HOLDER).err();
    assert!(matches!(again, Some(OpenError::InUse { .. })), "{again:?}");
    apply(&*made, &put("a", "one"));
    drop(made);
    assert_eq!(get(&*bench.open(), "a"), Some((1, "one".into())));
}

fn a_closed_engine_answers_with_an_error(bench: &Bench) {
    let made = bench.make();
    made.close();
    assert!(matches!(made.snapshot().err(), Some(EngineError::Io(_))));
    assert!(matches!(
        made.apply(&put("a", "one")),
        Err(EngineError::Io(_))
    ));
    drop(made);
    assert_eq!(get(&*bench.open(), "a"), None);
}

fn closing_twice_is_closing_once(bench: &Bench) {
    let made = bench.make();
    apply(&*made, &put("a", "one"));
    made.close();
    made.close();
    drop(made);
    assert_eq!(get(&*bench.open(), "a"), Some((1, "one".into())));
}

fn a_snapshot_outlives_the_closing(bench: &Bench) {
    let made = bench.make();
    apply(&*made, &put("a", "one"));
    let held = made.snapshot().unwrap();
    made.close();
    drop(made);
    assert_eq!(super::row(&*held, super::T, "a"), Some((1, "one".into())));
}

fn a_row_is_peeked_at_without_a_change(bench: &Bench) {
    let made = bench.engines.create(HOLDER, &put("a", "one")).unwrap();
    made.close();
    drop(made);
    let found = bench.engines.peek(HOLDER, super::T, b"a").unwrap().unwrap();
    assert_eq!((found.version, found.value), (1, b"one".to_vec()));
    let missing = bench.engines.peek(HOLDER, super::T, b"b").unwrap();
    assert_eq!(missing, None);
    let again = bench.open();
    assert_eq!(again.snapshot().unwrap().last_commit().unwrap(), 1);
}

fn what_is_removed_is_gone(bench: &Bench) {
    bench.make().close();
    bench.engines.remove(HOLDER).unwrap();
    assert!(!bench.engines.exists(HOLDER));
    assert!(bench.engines.open(HOLDER).is_err());
}

fn what_was_removed_can_be_made_anew(bench: &Bench) {
    let made = bench.make();
    apply(&*made, &put("a", "one"));
    made.close();
    drop(made);
    bench.engines.remove(HOLDER).unwrap();
    let anew = bench.make();
    assert_eq!(get(&*anew, "a"), None);
    assert_eq!(anew.snapshot().unwrap().last_commit().unwrap(), 0);
}

fn holders_do_not_see_each_other(bench: &Bench) {
    let (one, other) = (
        bench.make(),
        bench.engines.create(OTHER, &WriteSet::default()).unwrap(),
    );
    let mut set = put("a", "one");
    set.marks.push((b"m".to_vec(), 7));
    set.notes.push((super::T, b"a".to_vec()));
    apply(&*one, &set);
    assert_eq!(get(&*other, "a"), None);
    let read = other.snapshot().unwrap();
    assert_eq!(read.mark(b"m").unwrap(), 0);
    assert_eq!(read.notes(0, 9).unwrap(), []);
    assert_eq!(read.last_commit().unwrap(), 0);
    assert_eq!(apply(&*other, &put("a", "two")), 1);
    assert_eq!(get(&*one, "a"), Some((1, "one".into())));
}

fn a_group_of_one_holder_runs_inside_that_of_another(bench: &Bench) {
    let (one, other) = (
        bench.make(),
        bench.engines.create(OTHER, &WriteSet::default()).unwrap(),
    );
    // Neither waits for the other: they share no lock and no transaction.
    let failed = one.group(&mut |group| {
        group.apply(&put("a", "one"))?.unwrap();
        apply(&*other, &put("b", "two"));
        Err(EngineError::Io("on purpose".into()))
    });
    assert!(failed.is_err());
    assert_eq!(get(&*one, "a"), None);
    assert_eq!(
        get(&*other, "b").map(|(_, value)| value),
        Some("two".into())
    );
}

fn a_failed_group_of_one_holder_is_nothing_to_another(bench: &Bench) {
    let (one, other) = (
        bench.make(),
        bench.engines.create(OTHER, &WriteSet::default()).unwrap(),
    );
    apply(&*other, &put("b", "two"));
    let failed = one.group(&mut |group| {
        group.apply(&put("a", "one"))?.unwrap();
        Err(EngineError::Io("on purpose".into()))
    });
    assert!(failed.is_err());
    assert_eq!(get(&*other, "b"), Some((1, "two".into())));
    assert_eq!(apply(&*other, &put("c", "three")), 2);
}

fn removing_one_holder_leaves_the_others(bench: &Bench) {
    bench.make().close();
    let other = bench.engines.create(OTHER, &put("b", "two")).unwrap();
    bench.engines.remove(HOLDER).unwrap();
    assert_eq!(get(&*other, "b"), Some((1, "two".into())));
    assert!(bench.engines.exists(OTHER));
}

fn every_holder_has_a_place_of_its_own(bench: &Bench) {
    let holders = [HOLDER, OTHER, Holder::Appliance];
    let mut places: Vec<_> = holders.map(|holder| bench.engines.place(holder)).into();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 3);
}

fn the_appliance_has_its_own_tables(bench: &Bench) {
    let made = bench
        .engines
        .create(Holder::Appliance, &WriteSet::default());
    let made = made.unwrap();
    let mut set = WriteSet::default();
    for table in Table::APPLIANCE {
        set.put(*table, b"a".to_vec(), table.name().into());
    }
    apply(&*made, &set);
    let read = made.snapshot().unwrap();
    for table in Table::APPLIANCE {
        let found = read.get(*table, b"a").unwrap().unwrap();
        assert_eq!(found.value, table.name().as_bytes());
    }
}

fn entry(key: &str, version: u64, value: &[u8]) -> Entry {
    Entry {
        key: super::key(key),
        row: Row {
            version,
            value: value.to_vec(),
        },
    }
}

/// Gives these pieces.
fn of(pieces: Vec<Piece>) -> impl FnMut() -> Result<Option<Piece>, Stopped> {
    let mut pieces = pieces.into_iter();
    move || Ok(pieces.next())
}

const AT_NINE: Moment = Moment {
    commit: 9,
    format: FORMAT,
};

fn some() -> Vec<Piece> {
    let note = |commit, key: &str| Note {
        commit,
        table: super::T,
        key: super::key(key),
    };
    vec![
        Piece::Rows(super::T, vec![entry("a", 3, b"one"), entry("b", 9, b"")]),
        Piece::Rows(Table::Meta, vec![entry("a", 4, b"two")]),
        Piece::Marks(vec![(b"m".to_vec(), 7), (b"n".to_vec(), 0)]),
        Piece::Notes(vec![note(8, "a"), note(8, "b"), note(9, "a")]),
        Piece::Rows(super::T, vec![entry("c", 5, b"three")]),
    ]
}

fn what_is_loaded_is_as_it_was(bench: &Bench) {
    let loaded = bench.engines.load(HOLDER, AT_NINE, &mut of(some()));
    assert!(loaded.is_ok(), "{loaded:?}");
    let engine = bench.open();
    for (key, want) in [("a", (3, "one")), ("b", (9, "")), ("c", (5, "three"))] {
        assert_eq!(get(&*engine, key), Some((want.0, want.1.into())));
    }
    let read = engine.snapshot().unwrap();
    assert_eq!(
        super::row(&*read, Table::Meta, "a"),
        Some((4, "two".into()))
    );
    let marks = read.marks(None, 9).unwrap();
    assert_eq!(marks, [(b"m".to_vec(), 7), (b"n".to_vec(), 0)]);
    let feed: Vec<(u64, Vec<u8>)> = read
        .notes(0, 9)
        .unwrap()
        .into_iter()
        .map(|note| (note.commit, note.key))
        .collect();
    let want = [(8, "a"), (8, "b"), (9, "a")].map(|(n, key)| (n, super::key(key)));
    assert_eq!(feed, want);
    assert_eq!(read.last_commit().unwrap(), 9);
}

fn what_is_loaded_goes_on_from_its_numbers(bench: &Bench) {
    let loaded = bench.engines.load(HOLDER, AT_NINE, &mut of(some()));
    assert!(loaded.is_ok(), "{loaded:?}");
    let engine = bench.open();
    let stale = super::with(
        crate::engine::Condition::Version {
            table: super::T,
            key: super::key("a"),
            version: 4,
        },
        put("a", "no"),
    );
    super::refused(&*engine, &stale);
    let mut next = super::with(
        crate::engine::Condition::Mark {
            key: b"m".to_vec(),
            value: 7,
        },
        put("a", "next"),
    );
    next.notes.push((super::T, super::key("a")));
    assert_eq!(apply(&*engine, &next), 10);
    let feed = engine.snapshot().unwrap().notes(8, 9).unwrap();
    assert_eq!(
        feed.iter().map(|note| note.commit).collect::<Vec<_>>(),
        [9, 10]
    );
}

fn what_exists_is_not_loaded_over(bench: &Bench) {
    let made = bench.make();
    apply(&*made, &put("a", "mine"));
    made.close();
    drop(made);
    let refused = bench.engines.load(HOLDER, AT_NINE, &mut of(some()));
    let is_there = matches!(refused, Err(LoadError::Open(OpenError::Exists { .. })));
    assert!(is_there, "{refused:?}");
    assert_eq!(get(&*bench.open(), "a"), Some((1, "mine".into())));
}

fn pieces_that_stop_leave_nothing(bench: &Bench) {
    let mut given = of(some());
    let mut left = 3;
    let mut stopping = || {
        left -= 1;
        if left == 0 { Err(Stopped) } else { given() }
    };
    let stopped = bench.engines.load(HOLDER, AT_NINE, &mut stopping);
    assert!(matches!(stopped, Err(LoadError::Stopped)), "{stopped:?}");
    assert!(!bench.engines.exists(HOLDER));
    assert!(bench.engines.open(HOLDER).is_err());
    // The place is as good as new.
    let loaded = bench.engines.load(HOLDER, AT_NINE, &mut of(some()));
    assert!(loaded.is_ok(), "{loaded:?}");
    assert_eq!(get(&*bench.open(), "b"), Some((9, String::new())));
}

fn what_is_larger_than_a_step_is_loaded_whole(bench: &Bench) {
    const ROWS: u8 = 40;
    let large = |n: u8| entry(&format!("{n:03}"), 1 + u64::from(n), &vec![n; 1 << 20]);
    let pieces = (0..ROWS).map(|n| Piece::Rows(super::T, vec![large(n)]));
    let moment = Moment {
        commit: 40,
        format: FORMAT,
    };
    let loaded = bench
        .engines
        .load(HOLDER, moment, &mut of(pieces.collect()));
    assert!(loaded.is_ok(), "{loaded:?}");
    let read = bench.open().snapshot().unwrap();
    for n in 0..ROWS {
        let want = large(n);
        let found = read.get(super::T, &want.key).unwrap();
        assert!(found == Some(want.row), "{n}");
    }
}

fn nothing_is_loaded_as_nothing(bench: &Bench) {
    let moment = Moment {
        commit: 0,
        format: FORMAT,
    };
    let loaded = bench.engines.load(HOLDER, moment, &mut of(Vec::new()));
    assert!(loaded.is_ok(), "{loaded:?}");
    let engine = bench.open();
    assert_eq!(engine.snapshot().unwrap().last_commit().unwrap(), 0);
    assert_eq!(apply(&*engine, &put("a", "one")), 1);
}

fn a_newer_format_is_not_opened_and_stays_as_it_is(bench: &Bench) {
    let moment = Moment {
        commit: 9,
        format: FORMAT + 1,
    };
    let loaded = bench.engines.load(HOLDER, moment, &mut of(some()));
    assert!(loaded.is_ok(), "{loaded:?}");
    let place = bench.engines.place(HOLDER);
    let before = std::fs::read(&place).ok();
    for _ in 0..2 {
        let newer = bench.engines.open(HOLDER).err();
        let is_named = matches!(
            newer,
            Some(OpenError::Newer { found, supported, .. })
                if (found, supported) == (FORMAT + 1, FORMAT)
        );
        assert!(is_named, "{newer:?}");
    }
    assert!(std::fs::read(&place).ok() == before, "the file was changed");
}

fn an_older_format_is_opened_as_it_is(bench: &Bench) {
    let moment = Moment {
        commit: 9,
        format: FORMAT - 1,
    };
    let loaded = bench.engines.load(HOLDER, moment, &mut of(some()));
    assert!(loaded.is_ok(), "{loaded:?}");
    for _ in 0..2 {
        let engine = bench.open();
        assert_eq!(engine.snapshot().unwrap().format().unwrap(), FORMAT - 1);
        engine.close();
    }
}
