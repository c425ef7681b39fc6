//! What every engine must pass: each sentence on every engine, and random histories on each beside
//! the model.
//!
//! ```text
//! bench      the engines that are tried: one line for each
//! (here)     what needs Rust to say: groups, errors, large values
//! cases      what one line of a script says
//! script     how such a line is read
//! holders    making, opening, closing, removing; two holders beside each other
//! histories  properties over random histories
//! ```

pub(crate) mod bench;
mod cases;
mod histories;
mod holders;
mod script;

use super::{
    Condition, Direction, Engine, Entry, Key, Note, PageSize, Range, Read, Refused, Write,
    WriteSet, each,
};
use crate::error::EngineError;
use crate::tables::Table;

/// Makes one test of each case and engine.
macro_rules! on_every_engine {
    ($run:path; $($name:ident $case:expr;)*) => {
        mod on_the_model {
            $(#[test] fn $name() { $run(crate::engine::conformance::bench::model(), $case) })*
        }
        mod on_a_model_that_runs_groups_again {
            $(#[test] fn $name() { $run(crate::engine::conformance::bench::repeating(), $case) })*
        }
        mod on_redb {
            $(#[test] fn $name() { $run(crate::engine::conformance::bench::redb(), $case) })*
        }
    };
}
use on_every_engine;

macro_rules! conformance {
    ($($name:ident)*) => {
        on_every_engine! { super::run; $($name super::$name;)* }
    };
}

fn run(bench: bench::Bench, case: fn(&dyn Engine)) {
    case(&*bench.make());
}

conformance! {
    a_new_engine_is_empty_at_commit_zero
    a_row_is_read_back_with_the_commit_that_wrote_it
    a_later_row_takes_the_place_and_the_version
    a_deleted_row_is_gone_and_deleting_nothing_is_fine
    a_delete_in_the_same_set_as_its_put_wins_by_order
    tables_do_not_share_keys
    empty_values_and_long_keys_are_kept
    a_large_value_is_kept
    a_row_rewritten_by_the_same_set_has_one_version
    an_absent_condition_refuses_an_existing_row
    a_version_condition_refuses_a_changed_row_and_a_missing_one
    a_refused_set_changes_nothing_and_takes_no_number
    a_refused_set_in_a_group_leaves_the_others_alone
    a_mark_starts_at_zero_and_moves_only_from_where_it_stands
    a_condition_sees_what_the_group_applied_before
    a_group_reads_what_it_applied_and_snapshots_do_not
    a_failed_group_stores_nothing
    a_group_without_sets_takes_no_number
    a_snapshot_does_not_change
    a_scan_is_in_key_order_both_ways
    a_scan_keeps_within_its_range
    a_scan_ends_at_its_page_in_rows
    a_scan_ends_at_its_page_in_bytes_after_at_least_one_row
    a_scan_of_an_empty_or_inverted_range_is_empty
    pages_together_are_the_whole_range
    a_prefix_of_highest_bytes_runs_to_the_end
    a_range_is_deleted_whole_and_nothing_beside_it
    a_range_without_end_deletes_the_rest_of_the_table
    a_delete_range_sees_the_puts_before_it_in_its_set
    notes_come_in_commit_order_after_the_given_one
    notes_end_at_their_limit
    notes_are_forgotten_up_to_a_commit
}

const T: Table = Table::Findings;

fn key(text: &str) -> Key {
    text.as_bytes().to_vec()
}

fn put(text: &str, value: &str) -> WriteSet {
    let mut set = WriteSet::default();
    set.put(T, key(text), value.as_bytes().to_vec());
    set
}

fn with(condition: Condition, set: WriteSet) -> WriteSet {
    WriteSet {
        conditions: vec![condition],
        ..set
    }
}

#[track_caller]
fn apply(engine: &dyn Engine, set: &WriteSet) -> u64 {
    engine.apply(set).unwrap().unwrap()
}

#[track_caller]
fn refused(engine: &dyn Engine, set: &WriteSet) -> Refused {
    engine.apply(set).unwrap().unwrap_err()
}

fn get(engine: &dyn Engine, text: &str) -> Option<(u64, String)> {
    row(&*engine.snapshot().unwrap(), T, text)
}

fn row(read: &dyn Read, table: Table, text: &str) -> Option<(u64, String)> {
    let found = read.get(table, text.as_bytes()).unwrap();
    found.map(|row| (row.version, String::from_utf8(row.value).unwrap()))
}

fn keys(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| String::from_utf8(entry.key.clone()).unwrap())
        .collect()
}

fn scan(engine: &dyn Engine, range: &Range, direction: Direction, page: PageSize) -> Vec<String> {
    keys(
        &engine
            .snapshot()
            .unwrap()
            .scan(T, range, direction, page)
            .unwrap(),
    )
}

/// Puts one row per word.
fn fill(engine: &dyn Engine, words: &str) {
    let mut set = WriteSet::default();
    for word in words.split_whitespace() {
        set.put(T, key(word), key(word));
    }
    apply(engine, &set);
}

fn between(from: &str, to: &str) -> Range {
    Range {
        from: key(from),
        to: Some(key(to)),
    }
}

// -- rows --------------------------------------------------------------------------------------

fn a_new_engine_is_empty_at_commit_zero(engine: &dyn Engine) {
    let snapshot = engine.snapshot().unwrap();
    assert_eq!(snapshot.last_commit().unwrap(), 0);
    assert_eq!(snapshot.mark(b"any").unwrap(), 0);
    assert_eq!(snapshot.notes(0, 10).unwrap(), []);
    for table in Table::ORG {
        let all = snapshot.scan(*table, &Range::all(), Direction::Forward, PageSize::USUAL);
        assert_eq!(all.unwrap(), []);
    }
}

fn a_row_is_read_back_with_the_commit_that_wrote_it(engine: &dyn Engine) {
    assert_eq!(apply(engine, &put("a", "one")), 1);
    assert_eq!(apply(engine, &put("b", "two")), 2);
    assert_eq!(get(engine, "a"), Some((1, "one".into())));
    assert_eq!(get(engine, "b"), Some((2, "two".into())));
    assert_eq!(engine.snapshot().unwrap().last_commit().unwrap(), 2);
}

fn a_later_row_takes_the_place_and_the_version(engine: &dyn Engine) {
    apply(engine, &put("a", "one"));
    apply(engine, &put("a", "another, longer than the first"));
    assert_eq!(
        get(engine, "a"),
        Some((2, "another, longer than the first".into()))
    );
    apply(engine, &put("a", ""));
    assert_eq!(get(engine, "a"), Some((3, String::new())));
}

fn a_deleted_row_is_gone_and_deleting_nothing_is_fine(engine: &dyn Engine) {
    apply(engine, &put("a", "one"));
    let mut set = WriteSet::default();
    set.delete(T, key("a"));
    set.delete(T, key("never there"));
    assert_eq!(apply(engine, &set), 2);
    assert_eq!(get(engine, "a"), None);
}

fn a_delete_in_the_same_set_as_its_put_wins_by_order(engine: &dyn Engine) {
    let mut set = put("gone", "one");
    set.delete(T, key("gone"));
    set.delete(T, key("stays"));
    set.put(T, key("stays"), key("two"));
    apply(engine, &set);
    assert_eq!(get(engine, "gone"), None);
    assert_eq!(get(engine, "stays"), Some((1, "two".into())));
}

fn tables_do_not_share_keys(engine: &dyn Engine) {
    apply(engine, &put("a", "finding"));
    let snapshot = engine.snapshot().unwrap();
    let others = Table::ORG.iter().filter(|table| **table != T);
    assert!(
        others
            .into_iter()
            .all(|table| row(&*snapshot, *table, "a").is_none())
    );
}

fn empty_values_and_long_keys_are_kept(engine: &dyn Engine) {
    let long = "k".repeat(3000);
    apply(engine, &put(&long, ""));
    assert_eq!(get(engine, &long), Some((1, String::new())));
}

fn a_large_value_is_kept(engine: &dyn Engine) {
    let large = "v".repeat(3 << 20);
    apply(engine, &put("a", &large));
    assert!(get(engine, "a") == Some((1, large)));
}

fn a_row_rewritten_by_the_same_set_has_one_version(engine: &dyn Engine) {
    let mut set = put("a", "one");
    set.put(T, key("a"), key("two"));
    apply(engine, &set);
    assert_eq!(get(engine, "a"), Some((1, "two".into())));
    assert_eq!(
        scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL),
        ["a"]
    );
}

// -- conditions --------------------------------------------------------------------------------

fn absent(text: &str) -> Condition {
    Condition::Absent {
        table: T,
        key: key(text),
    }
}

fn version(text: &str, version: u64) -> Condition {
    Condition::Version {
        table: T,
        key: key(text),
        version,
    }
}

fn an_absent_condition_refuses_an_existing_row(engine: &dyn Engine) {
    apply(engine, &with(absent("a"), put("a", "one")));
    let second = with(absent("a"), put("a", "two"));
    assert_eq!(refused(engine, &second), Refused::Row { table: T });
    assert_eq!(get(engine, "a"), Some((1, "one".into())));
    apply(engine, &with(absent("b"), put("b", "free")));
}

fn a_version_condition_refuses_a_changed_row_and_a_missing_one(engine: &dyn Engine) {
    apply(engine, &put("a", "one"));
    apply(engine, &with(version("a", 1), put("a", "two")));
    let stale = with(version("a", 1), put("a", "three"));
    assert_eq!(refused(engine, &stale), Refused::Row { table: T });
    let ahead = with(version("a", 9), put("a", "three"));
    assert_eq!(refused(engine, &ahead), Refused::Row { table: T });
    let missing = with(version("b", 0), put("b", "three"));
    assert_eq!(refused(engine, &missing), Refused::Row { table: T });
    assert_eq!(get(engine, "a"), Some((2, "two".into())));
    assert_eq!(get(engine, "b"), None);
}

fn a_refused_set_changes_nothing_and_takes_no_number(engine: &dyn Engine) {
    apply(engine, &put("a", "one"));
    let mut set = with(absent("a"), put("b", "two"));
    set.delete(T, key("a"));
    set.marks.push((key("mark"), 7));
    set.notes.push((T, key("b")));
    refused(engine, &set);
    let snapshot = engine.snapshot().unwrap();
    assert_eq!(row(&*snapshot, T, "a"), Some((1, "one".into())));
    assert_eq!(row(&*snapshot, T, "b"), None);
    assert_eq!(snapshot.mark(b"mark").unwrap(), 0);
    assert_eq!(snapshot.notes(0, 10).unwrap(), []);
    assert_eq!(snapshot.last_commit().unwrap(), 1);
    assert_eq!(apply(engine, &put("c", "three")), 2);
}

fn a_refused_set_in_a_group_leaves_the_others_alone(engine: &dyn Engine) {
    let mut outcomes = Vec::new();
    engine
        .group(&mut |group| {
            outcomes.clear();
            outcomes.push(group.apply(&put("a", "one"))?);
            outcomes.push(group.apply(&with(absent("a"), put("b", "two")))?);
            outcomes.push(group.apply(&put("c", "three"))?);
            Ok(())
        })
        .unwrap();
    assert_eq!(outcomes, [Ok(1), Err(Refused::Row { table: T }), Ok(2)]);
    assert_eq!(get(engine, "a"), Some((1, "one".into())));
    assert_eq!(get(engine, "b"), None);
    assert_eq!(get(engine, "c"), Some((2, "three".into())));
}

fn move_mark(from: u64, to: u64) -> WriteSet {
    let set = WriteSet {
        marks: vec![(key("mark"), to)],
        ..WriteSet::default()
    };
    with(
        Condition::Mark {
            key: key("mark"),
            value: from,
        },
        set,
    )
}

fn a_mark_starts_at_zero_and_moves_only_from_where_it_stands(engine: &dyn Engine) {
    assert_eq!(
        refused(engine, &move_mark(1, 2)),
        Refused::Mark { current: 0 }
    );
    apply(engine, &move_mark(0, 5));
    assert_eq!(
        refused(engine, &move_mark(0, 9)),
        Refused::Mark { current: 5 }
    );
    assert_eq!(engine.snapshot().unwrap().mark(b"mark").unwrap(), 5);
    apply(engine, &move_mark(5, u64::MAX));
    assert_eq!(engine.snapshot().unwrap().mark(b"mark").unwrap(), u64::MAX);
    assert_eq!(engine.snapshot().unwrap().mark(b"other").unwrap(), 0);
}

// -- groups and snapshots ----------------------------------------------------------------------

fn a_condition_sees_what_the_group_applied_before(engine: &dyn Engine) {
    let mut outcomes = Vec::new();
    engine
        .group(&mut |group| {
            outcomes.clear();
            outcomes.push(group.apply(&move_mark(0, 3))?);
            outcomes.push(group.apply(&move_mark(0, 3))?);
            outcomes.push(group.apply(&move_mark(3, 4))?);
            outcomes.push(group.apply(&with(absent("a"), put("a", "x")))?);
            outcomes.push(group.apply(&with(version("a", 3), put("a", "y")))?);
            Ok(())
        })
        .unwrap();
    assert_eq!(
        outcomes,
        [
            Ok(1),
            Err(Refused::Mark { current: 3 }),
            Ok(2),
            Ok(3),
            Ok(4)
        ]
    );
}

fn a_group_reads_what_it_applied_and_snapshots_do_not(engine: &dyn Engine) {
    apply(engine, &put("a", "before"));
    engine
        .group(&mut |group| {
            group.apply(&put("a", "after"))?.unwrap();
            assert_eq!(row(&*group, T, "a"), Some((2, "after".into())));
            assert_eq!(group.last_commit()?, 2);
            let outside = engine.snapshot()?;
            assert_eq!(row(&*outside, T, "a"), Some((1, "before".into())));
            assert_eq!(outside.last_commit()?, 1);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(get(engine, "a"), Some((2, "after".into())));
}

fn a_failed_group_stores_nothing(engine: &dyn Engine) {
    let failed = engine.group(&mut |group| {
        group.apply(&put("a", "one"))?.unwrap();
        Err(EngineError::Io("on purpose".into()))
    });
    assert!(matches!(failed, Err(EngineError::Io(_))));
    assert_eq!(get(engine, "a"), None);
    assert_eq!(apply(engine, &put("b", "two")), 1);
}

fn a_group_without_sets_takes_no_number(engine: &dyn Engine) {
    engine.group(&mut |_| Ok(())).unwrap();
    assert_eq!(engine.snapshot().unwrap().last_commit().unwrap(), 0);
}

fn a_snapshot_does_not_change(engine: &dyn Engine) {
    apply(engine, &put("a", "one"));
    apply(engine, &move_mark(0, 1));
    let mut noting = put("b", "two");
    noting.notes.push((T, key("b")));
    apply(engine, &noting);
    let held = engine.snapshot().unwrap();
    let mut set = put("a", "changed");
    set.delete(T, key("b"));
    set.forget_notes = Some(9);
    apply(engine, &set);
    apply(engine, &move_mark(1, 2));
    assert_eq!(row(&*held, T, "a"), Some((1, "one".into())));
    assert_eq!(row(&*held, T, "b"), Some((3, "two".into())));
    assert_eq!(held.mark(b"mark").unwrap(), 1);
    assert_eq!(held.last_commit().unwrap(), 3);
    assert_eq!(held.notes(0, 9).unwrap().len(), 1);
    assert_eq!(get(engine, "b"), None);
}

// -- scans -------------------------------------------------------------------------------------

fn a_scan_is_in_key_order_both_ways(engine: &dyn Engine) {
    fill(engine, "b aa c a ab");
    let forward = scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL);
    assert_eq!(forward, ["a", "aa", "ab", "b", "c"]);
    let backward = scan(engine, &Range::all(), Direction::Backward, PageSize::USUAL);
    assert_eq!(backward, ["c", "b", "ab", "aa", "a"]);
}

fn a_scan_keeps_within_its_range(engine: &dyn Engine) {
    fill(engine, "a aa ab b ba c");
    let check = |range: Range, want: &[&str]| {
        assert_eq!(
            scan(engine, &range, Direction::Forward, PageSize::USUAL),
            want
        );
        let mut want = want.to_vec();
        want.reverse();
        assert_eq!(
            scan(engine, &range, Direction::Backward, PageSize::USUAL),
            want
        );
    };
    check(between("aa", "b"), &["aa", "ab"]);
    check(
        Range {
            from: key("b"),
            to: None,
        },
        &["b", "ba", "c"],
    );
    check(Range::prefix(b"a"), &["a", "aa", "ab"]);
    check(Range::prefix(b"a").after(b"a"), &["aa", "ab"]);
    check(Range::prefix(b"a").before(b"ab"), &["a", "aa"]);
    check(Range::all().before(b"aa"), &["a"]);
    check(Range::prefix(b"x"), &[]);
}

fn a_scan_ends_at_its_page_in_rows(engine: &dyn Engine) {
    fill(engine, "a b c d");
    let two = PageSize::rows(2);
    assert_eq!(
        scan(engine, &Range::all(), Direction::Forward, two),
        ["a", "b"]
    );
    assert_eq!(
        scan(engine, &Range::all(), Direction::Backward, two),
        ["d", "c"]
    );
    let none = PageSize::rows(0);
    assert!(scan(engine, &Range::all(), Direction::Forward, none).is_empty());
}

fn a_scan_ends_at_its_page_in_bytes_after_at_least_one_row(engine: &dyn Engine) {
    let mut set = WriteSet::default();
    for name in ["a", "b", "c"] {
        set.put(T, key(name), vec![0; 100]);
    }
    apply(engine, &set);
    let check = |bytes: usize, want: usize| {
        let page = PageSize { rows: 10, bytes };
        assert_eq!(
            scan(engine, &Range::all(), Direction::Forward, page).len(),
            want,
            "{bytes}"
        );
    };
    check(0, 1);
    check(1, 1);
    check(101, 1);
    check(102, 2);
    check(1000, 3);
}

fn a_scan_of_an_empty_or_inverted_range_is_empty(engine: &dyn Engine) {
    fill(engine, "a b c");
    for range in [
        between("b", "b"),
        between("c", "a"),
        Range::all().before(b""),
    ] {
        assert!(scan(engine, &range, Direction::Forward, PageSize::USUAL).is_empty());
        assert!(scan(engine, &range, Direction::Backward, PageSize::USUAL).is_empty());
    }
}

fn pages_together_are_the_whole_range(engine: &dyn Engine) {
    let mut set = WriteSet::default();
    let count = PageSize::USUAL.rows + 100;
    for n in 0..count {
        set.put(T, key(&format!("{n:06}")), vec![1]);
    }
    apply(engine, &set);
    let snapshot = engine.snapshot().unwrap();
    for direction in [Direction::Forward, Direction::Backward] {
        let mut seen = Vec::new();
        let end = each(&*snapshot, T, &Range::all(), direction, |entry| {
            seen.push(entry.key);
            Ok::<_, EngineError>(std::ops::ControlFlow::<()>::Continue(()))
        });
        assert_eq!(end.unwrap(), None);
        let mut want: Vec<Key> = (0..count).map(|n| key(&format!("{n:06}"))).collect();
        if direction == Direction::Backward {
            want.reverse();
        }
        assert!(seen == want);
    }
}

fn a_prefix_of_highest_bytes_runs_to_the_end(engine: &dyn Engine) {
    let mut set = WriteSet::default();
    let rows: [&[u8]; 5] = [
        &[0xfe, 0xff],
        &[0xff],
        &[0xff, 0x00],
        &[0xff, 0xff],
        &[0xff, 0xff, 1],
    ];
    for name in rows {
        set.put(T, name.to_vec(), vec![]);
    }
    apply(engine, &set);
    let check = |prefix: &[u8], want: &[&[u8]]| {
        let snapshot = engine.snapshot().unwrap();
        let range = Range::prefix(prefix);
        let found = snapshot
            .scan(T, &range, Direction::Forward, PageSize::USUAL)
            .unwrap();
        let found: Vec<&[u8]> = found.iter().map(|entry| entry.key.as_slice()).collect();
        assert_eq!(found, want);
    };
    check(&[0xff], &rows[1..]);
    check(&[0xff, 0xff], &rows[3..]);
    check(&[0xfe], &rows[..1]);
    check(&[0xfe, 0xff], &rows[..1]);
    check(&[], &rows);
}

// -- ranges ------------------------------------------------------------------------------------

fn delete_range(range: Range) -> WriteSet {
    let writes = vec![Write::DeleteRange { table: T, range }];
    WriteSet {
        writes,
        ..WriteSet::default()
    }
}

fn a_range_is_deleted_whole_and_nothing_beside_it(engine: &dyn Engine) {
    fill(engine, "a aa ab b c");
    let mut other = WriteSet::default();
    other.put(Table::Meta, key("aa"), key("stays"));
    apply(engine, &other);
    apply(engine, &delete_range(between("aa", "b")));
    let left = scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL);
    assert_eq!(left, ["a", "b", "c"]);
    assert!(row(&*engine.snapshot().unwrap(), Table::Meta, "aa").is_some());
}

fn a_range_without_end_deletes_the_rest_of_the_table(engine: &dyn Engine) {
    fill(engine, "a b c");
    apply(
        engine,
        &delete_range(Range {
            from: key("b"),
            to: None,
        }),
    );
    assert_eq!(
        scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL),
        ["a"]
    );
    apply(engine, &delete_range(between("z", "b")));
    assert_eq!(
        scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL),
        ["a"]
    );
    apply(engine, &delete_range(Range::all()));
    assert!(scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL).is_empty());
}

fn a_delete_range_sees_the_puts_before_it_in_its_set(engine: &dyn Engine) {
    let mut set = put("a", "goes");
    set.writes.push(Write::DeleteRange {
        table: T,
        range: Range::all(),
    });
    set.put(T, key("b"), key("stays"));
    apply(engine, &set);
    assert_eq!(
        scan(engine, &Range::all(), Direction::Forward, PageSize::USUAL),
        ["b"]
    );
}

// -- the feed ----------------------------------------------------------------------------------

fn noting(names: &str) -> WriteSet {
    let notes = names
        .split_whitespace()
        .map(|name| (T, key(name)))
        .collect();
    WriteSet {
        notes,
        ..WriteSet::default()
    }
}

fn noted(engine: &dyn Engine, since: u64, limit: usize) -> Vec<(u64, String)> {
    let notes = engine.snapshot().unwrap().notes(since, limit).unwrap();
    let text = |note: Note| (note.commit, String::from_utf8(note.key).unwrap());
    notes.into_iter().map(text).collect()
}

fn notes_come_in_commit_order_after_the_given_one(engine: &dyn Engine) {
    apply(engine, &noting("b a"));
    apply(engine, &noting(""));
    apply(engine, &noting("c"));
    let all: Vec<(u64, String)> = vec![(1, "b".into()), (1, "a".into()), (3, "c".into())];
    assert_eq!(noted(engine, 0, 10), all);
    assert_eq!(noted(engine, 1, 10), all[2..]);
    assert_eq!(noted(engine, 3, 10), []);
    assert_eq!(noted(engine, u64::MAX, 10), []);
}

fn notes_end_at_their_limit(engine: &dyn Engine) {
    apply(engine, &noting("a b c"));
    assert_eq!(noted(engine, 0, 2), [(1, "a".into()), (1, "b".into())]);
    assert_eq!(noted(engine, 0, 0), []);
}

fn notes_are_forgotten_up_to_a_commit(engine: &dyn Engine) {
    for name in ["a", "b", "c"] {
        apply(engine, &noting(name));
    }
    let forget = WriteSet {
        forget_notes: Some(2),
        ..noting("d")
    };
    apply(engine, &forget);
    assert_eq!(noted(engine, 0, 10), [(3, "c".into()), (4, "d".into())]);
    let all = WriteSet {
        forget_notes: Some(u64::MAX),
        ..WriteSet::default()
    };
    apply(engine, &all);
    assert_eq!(noted(engine, 0, 10), []);
}
