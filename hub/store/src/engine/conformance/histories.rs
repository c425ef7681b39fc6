//! Random histories: each engine beside the model, and what must hold of any history.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::bench::{self, Bench, HOLDER};
use crate::engine::pieces::Parts;
use crate::engine::{
    Condition, Direction, Engine, Entry, Key, Note, PageSize, Range, Read, Refused, Row, Stopped,
    Write, WriteSet, each,
};
use crate::error::EngineError;
use crate::tables::Table;

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    Group(Vec<WriteSet>),
    Failed(Vec<WriteSet>),
    Reopen,
}

fn any_key() -> impl Strategy<Value = Key> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..4)
}

fn any_table() -> impl Strategy<Value = Table> {
    prop_oneof![Just(Table::Findings), Just(Table::Resources)]
}

fn any_range() -> impl Strategy<Value = Range> {
    (any_key(), proptest::option::of(any_key())).prop_map(|(from, to)| Range { from, to })
}

fn any_set() -> impl Strategy<Value = WriteSet> {
    let condition = prop_oneof![
        (any_table(), any_key()).prop_map(|(table, key)| Condition::Absent { table, key }),
        (any_table(), any_key(), 0u64..6).prop_map(|(table, key, version)| Condition::Version {
            table,
            key,
            version
        }),
        (any_key(), 0u64..3).prop_map(|(key, value)| Condition::Mark { key, value }),
    ];
    let value = || proptest::collection::vec(any::<u8>(), 0..40);
    let write = prop_oneof![
        5 => (any_table(), any_key(), value())
            .prop_map(|(table, key, value)| Write::Put { table, key, value }),
        1 => (any_table(), any_key(), value())
            .prop_map(|(table, key, value)| Write::Reseal { table, key, value }),
        2 => (any_table(), any_key()).prop_map(|(table, key)| Write::Delete { table, key }),
        1 => (any_table(), any_range())
            .prop_map(|(table, range)| Write::DeleteRange { table, range }),
    ];
    (
        prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(condition, 1..3)],
        proptest::collection::vec(write, 0..6),
        proptest::collection::vec((any_key(), 0u64..3), 0..2),
        proptest::collection::vec((any_table(), any_key()), 0..3),
        proptest::option::weighted(0.1, 0u64..8),
    )
        .prop_map(
            |(conditions, writes, marks, notes, forget_notes)| WriteSet {
                conditions,
                writes,
                marks,
                notes,
                forget_notes,
                format: None,
            },
        )
}

fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let sets = || proptest::collection::vec(any_set(), 0..4);
    let step = prop_oneof![
        8 => sets().prop_map(Step::Group),
        1 => sets().prop_map(Step::Failed),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..12)
}

type Whole = (u64, Vec<(Table, Entry)>, Vec<Note>, Vec<(Key, u64)>);

/// Everything that can be read, for comparison.
fn whole(engine: &dyn Engine) -> Whole {
    whole_of(&*engine.snapshot().unwrap())
}

fn whole_of(read: &dyn Read) -> Whole {
    let mut rows = Vec::new();
    for table in [Table::Findings, Table::Resources] {
        let usual = PageSize::USUAL;
        let found = read
            .scan(table, &Range::all(), Direction::Forward, usual)
            .unwrap();
        for entry in &found {
            let again: Option<Row> = read.get(table, &entry.key).unwrap();
            assert_eq!(again.as_ref(), Some(&entry.row));
        }
        rows.extend(found.into_iter().map(|entry| (table, entry)));
    }
    let marks = read.marks(None, usize::MAX).unwrap();
    for (key, value) in &marks {
        assert_eq!(read.mark(key).unwrap(), *value);
    }
    (
        read.last_commit().unwrap(),
        rows,
        read.notes(0, 1000).unwrap(),
        marks,
    )
}

fn outcomes(engine: &dyn Engine, sets: &[WriteSet], fails: bool) -> Vec<Result<u64, Refused>> {
    let mut outcomes = Vec::new();
    let done = engine.group(&mut |group| {
        outcomes.clear();
        for set in sets {
            outcomes.push(group.apply(set)?);
        }
        if fails {
            Err(EngineError::Io("on purpose".into()))
        } else {
            Ok(())
        }
    });
    assert_eq!(done.is_err(), fails);
    outcomes
}

/// Applies a history to an engine and to the model, comparing after every step.
fn beside_the_model(tried: &Bench, history: Vec<Step>) -> Result<(), TestCaseError> {
    let plain = bench::model();
    let model = plain.make();
    let mut engine = tried.make();
    for step in history {
        match step {
            Step::Group(sets) => {
                let ours = outcomes(&*engine, &sets, false);
                prop_assert_eq!(ours, outcomes(&*model, &sets, false));
            }
            Step::Failed(sets) => {
                let ours = outcomes(&*engine, &sets, true);
                prop_assert_eq!(ours, outcomes(&*model, &sets, true));
            }
            Step::Reopen => {
                engine.close();
                drop(engine);
                engine = tried.open();
            }
        }
        prop_assert_eq!(whole(&*engine), whole(&*model));
    }
    Ok(())
}

/// Snapshots taken on the way show in the end what they showed when they were taken.
fn snapshots_hold(tried: &Bench, history: Vec<Step>) -> Result<(), TestCaseError> {
    let engine = tried.make();
    let mut taken = Vec::new();
    for step in history {
        if let Step::Group(sets) = step {
            outcomes(&*engine, &sets, false);
            taken.push((engine.snapshot().unwrap(), whole(&*engine)));
        }
    }
    for (held, want) in taken {
        prop_assert_eq!(whole_of(&*held), want);
    }
    Ok(())
}

/// Pages of any size, in either direction, are together the whole range and nothing beside it.
fn pages_are_the_range(
    tried: &Bench,
    sets: &[WriteSet],
    (table, range): (Table, Range),
    page: PageSize,
) -> Result<(), TestCaseError> {
    let engine = tried.make();
    outcomes(&*engine, sets, false);
    let read = engine.snapshot().unwrap();
    let usual = PageSize::USUAL;
    let all = read.scan(table, &Range::all(), Direction::Forward, usual);
    let all: Vec<Entry> = all.unwrap();
    let mut want: Vec<Entry> = all
        .into_iter()
        .filter(|entry| range.contains(&entry.key))
        .collect();
    for direction in [Direction::Forward, Direction::Backward] {
        let mut found: Vec<Entry> = Vec::new();
        let mut rest = range.clone();
        loop {
            let next = read.scan(table, &rest, direction, page).unwrap();
            prop_assert!(next.len() <= page.rows);
            let Some(last) = next.last() else { break };
            rest = match direction {
                Direction::Forward => rest.after(&last.key),
                Direction::Backward => rest.before(&last.key),
            };
            found.extend(next);
        }
        prop_assert_eq!(&found, &want);
        let mut visited = Vec::new();
        each(&*read, table, &range, direction, |entry| {
            visited.push(entry);
            Ok::<_, EngineError>(ControlFlow::<()>::Continue(()))
        })
        .unwrap();
        prop_assert_eq!(visited, found);
        want.reverse();
    }
    Ok(())
}

/// Pieces of the feed, each after the last number of the one before, are the feed.
fn pieces_are_the_feed(tried: &Bench, sets: &[WriteSet]) -> Result<(), TestCaseError> {
    let engine = tried.make();
    outcomes(&*engine, sets, false);
    let read = engine.snapshot().unwrap();
    let all = read.notes(0, usize::MAX).unwrap();
    let last = read.last_commit().unwrap();
    prop_assert!(all.iter().all(|note| (1..=last).contains(&note.commit)));
    prop_assert!(all.is_sorted_by_key(|note| note.commit));
    for since in 0..=last + 1 {
        let after: Vec<Note> = all.iter().filter(|n| n.commit > since).cloned().collect();
        prop_assert_eq!(&read.notes(since, usize::MAX).unwrap(), &after);
        for limit in 0..3 {
            let some = &after[..after.len().min(limit)];
            let found = read.notes(since, limit).unwrap();
            prop_assert_eq!(found.as_slice(), some);
        }
    }
    Ok(())
}

/// A group of sets comes to the same as the sets alone.
fn a_group_is_its_sets(tried: &Bench, sets: &[WriteSet]) -> Result<(), TestCaseError> {
    let plain = bench::model();
    let (together, alone) = (tried.make(), plain.make());
    let ours = outcomes(&*together, sets, false);
    let singly: Vec<_> = sets.iter().map(|set| alone.apply(set).unwrap()).collect();
    prop_assert_eq!(ours, singly);
    prop_assert_eq!(whole(&*together), whole(&*alone));
    Ok(())
}

/// What is made of the pieces of a snapshot, of any size, is what the snapshot shows, and goes on
/// as its original does.
fn pieces_are_the_whole(
    tried: &Bench,
    history: Vec<Step>,
    page: PageSize,
    next: &[WriteSet],
) -> Result<(), TestCaseError> {
    let (from, to) = (tried.make(), tried.another());
    for step in history {
        if let Step::Group(sets) = step {
            outcomes(&*from, &sets, false);
        }
    }
    {
        let read = from.snapshot().unwrap();
        let mut parts = Parts::of(&*read, HOLDER.tables(), page);
        let moment = parts.moment().unwrap();
        let mut pieces = || parts.next_piece().map_err(|_| Stopped);
        to.engines.load(HOLDER, moment, &mut pieces).unwrap();
    }
    let copy = to.open();
    prop_assert_eq!(whole(&*copy), whole(&*from));
    prop_assert_eq!(outcomes(&*copy, next, false), outcomes(&*from, next, false));
    prop_assert_eq!(whole(&*copy), whole(&*from));
    Ok(())
}

fn sets() -> impl Strategy<Value = Vec<WriteSet>> {
    proptest::collection::vec(any_set(), 0..10)
}

macro_rules! histories {
    ($($name:ident $bench:path;)*) => { $(
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
                #[test]
                fn any_history_comes_to_what_the_model_says(history in any_history()) {
                    beside_the_model(&$bench(), history)?;
                }
                #[test]
                fn no_later_commit_changes_a_snapshot(history in any_history()) {
                    snapshots_hold(&$bench(), history)?;
                }
                #[test]
                fn pages_of_any_size_are_together_the_range(
                    sets in sets(), place in (any_table(), any_range()),
                    rows in 1usize..5, bytes in 0usize..80,
                ) {
                    pages_are_the_range(&$bench(), &sets, place, PageSize { rows, bytes })?;
                }
                #[test]
                fn the_feed_from_any_number_is_the_end_of_the_feed(sets in sets()) {
                    pieces_are_the_feed(&$bench(), &sets)?;
                }
                #[test]
                fn pieces_of_any_size_are_together_the_whole(
                    history in any_history(), next in sets(),
                    rows in 1usize..5, bytes in 0usize..80,
                ) {
                    pieces_are_the_whole(&$bench(), history, PageSize { rows, bytes }, &next)?;
                }
                #[test]
                fn a_group_comes_to_what_its_sets_come_to_alone(sets in sets()) {
                    a_group_is_its_sets(&$bench(), &sets)?;
                }
            }
        }
    )* };
}

histories! {
    on_a_model_that_runs_groups_again bench::repeating;
    on_redb bench::redb;
}
