//! Cases in one line: what is applied, what is then read.
//!
//! ```text
//! a=one b=*5000 -c -d..f #g      one write set: put, delete, delete a range, note
//! a:=two                         other bytes for the row that is there
//! meta/a=one                     in another table (findings where none is named)
//! ?a  ?a@3  $m?4                 conditions: absent, version, mark
//! $m:5  forget:2  format:2       set a mark, forget the feed, hold another format
//! A | B -> 1 !meta               a group of two sets, and what they come to: numbers, or what refused
//! A -> error                     a group that fails in the end
//! get a = one@2                  a row and its version, or `none`
//! scan a..c rows 2 = a ab        keys in order; `back` from the end; `bytes 9` bounds a page
//! mark m = 5 ; marks = m:5 n:6   a mark; all of them, `behind m limit 2` some
//! feed 0 limit 2 = 1#a 3#meta/b ; last = 3 ; format = 1
//! hold ; held get a = none       reads of a snapshot taken before
//! reopen                         close and open again
//! ```
//! `~` in a key is the byte 255, `^` the byte 0, `()` the empty key; `_` is an empty set; `*n` is a value of n bytes.

use std::sync::Arc;

use super::bench::Bench;
use crate::engine::{
    Condition, Direction, Engine, Key, PageSize, Range, Read, Refused, Write, WriteSet,
};
use crate::error::EngineError;
use crate::tables::Table;

/// Runs a case.
pub(super) fn run(bench: Bench, script: &str) {
    let mut engine = bench.make();
    let mut held: Option<Box<dyn Read>> = None;
    for line in script.split(';').map(str::trim) {
        match line {
            "hold" => held = Some(engine.snapshot().unwrap()),
            "reopen" => {
                engine.close();
                drop(engine);
                engine = bench.open();
            }
            _ if line.contains("->") => apply(&engine, line),
            _ => match line.strip_prefix("held ") {
                Some(line) => check(&**held.as_ref().unwrap(), line),
                None => check(&*engine.snapshot().unwrap(), line),
            },
        }
    }
}

fn apply(engine: &Arc<dyn Engine>, line: &str) {
    let (sets, want) = line.split_once("->").unwrap();
    let sets: Vec<WriteSet> = sets.split('|').map(set).collect();
    let fails = want.trim() == "error";
    let mut outcomes = Vec::new();
    let done = engine.group(&mut |group| {
        outcomes.clear();
        for set in &sets {
            outcomes.push(match group.apply(set)? {
                Ok(number) => number.to_string(),
                Err(Refused::Row { table }) => format!("!{}", table.name()),
                Err(Refused::Mark { current }) => format!("!{current}"),
            });
        }
        if fails {
            Err(EngineError::Io("on purpose".into()))
        } else {
            Ok(())
        }
    });
    assert_eq!(done.is_err(), fails, "{line}: {done:?}");
    if !fails {
        let want: Vec<&str> = want.split_whitespace().collect();
        assert_eq!(outcomes, want, "{line}");
    }
}

/// Splits `meta/key`.
fn placed(text: &str) -> (Table, Key) {
    let (table, key) = match text.split_once('/') {
        Some((name, key)) => {
            let mut all = Table::ORG.iter();
            let found = all.find(|table| table.name() == name);
            (*found.unwrap_or_else(|| panic!("no table {name}")), key)
        }
        None => (Table::Findings, text),
    };
    (table, bytes(key))
}

fn bytes(key: &str) -> Key {
    let byte = |byte: u8| match byte {
        b'~' => 255,
        b'^' => 0,
        other => other,
    };
    key.trim_matches(['(', ')']).bytes().map(byte).collect()
}

fn text(key: &[u8]) -> String {
    let character = |byte: &u8| match byte {
        255 => '~',
        0 => '^',
        other => char::from(*other),
    };
    if key.is_empty() {
        return "()".into();
    }
    key.iter().map(character).collect()
}

fn value(text: &str) -> Vec<u8> {
    match text.strip_prefix('*') {
        Some(size) => vec![b'*'; size.parse().unwrap()],
        None => text.as_bytes().to_vec(),
    }
}

/// Reads `a..c`, `a..`, `..c`, `..`, or `a*` for a prefix.
fn range(text: &str) -> (Table, Range) {
    let (table, rest) = match text.split_once('/') {
        Some((name, rest)) => (placed(&format!("{name}/")).0, rest),
        None => (Table::Findings, text),
    };
    if let Some(prefix) = rest.strip_suffix('*') {
        return (table, Range::prefix(&bytes(prefix)));
    }
    let (from, to) = rest.split_once("..").unwrap();
    let to = (!to.is_empty()).then(|| bytes(to));
    let from = bytes(from);
    (table, Range { from, to })
}

fn number(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        other => other.parse().unwrap(),
    }
}

fn set(text: &str) -> WriteSet {
    let mut set = WriteSet::default();
    for word in text.split_whitespace().filter(|word| *word != "_") {
        if let Some(up_to) = word.strip_prefix("forget:") {
            set.forget_notes = Some(number(up_to));
        } else if let Some(format) = word.strip_prefix("format:") {
            set.format = Some(format.parse().unwrap());
        } else if let Some(note) = word.strip_prefix('#') {
            set.notes.push(placed(note));
        } else if let Some(mark) = word.strip_prefix('$') {
            match mark.split_once('?') {
                Some((key, value)) => set.conditions.push(Condition::Mark {
                    key: bytes(key),
                    value: number(value),
                }),
                None => {
                    let (key, value) = mark.split_once(':').unwrap();
                    set.marks.push((bytes(key), number(value)));
                }
            }
        } else if let Some(row) = word.strip_prefix('?') {
            set.conditions.push(match row.split_once('@') {
                Some((row, version)) => {
                    let (table, key) = placed(row);
                    let version = number(version);
                    Condition::Version {
                        table,
                        key,
                        version,
                    }
                }
                None => {
                    let (table, key) = placed(row);
                    Condition::Absent { table, key }
                }
            });
        } else if let Some(gone) = word.strip_prefix('-') {
            set.writes
                .push(if gone.contains("..") || gone.ends_with('*') {
                    let (table, range) = range(gone);
                    Write::DeleteRange { table, range }
                } else {
                    let (table, key) = placed(gone);
                    Write::Delete { table, key }
                });
        } else if let Some((row, stored)) = word.split_once(":=") {
            let (table, key) = placed(row);
            let value = value(stored);
            set.writes.push(Write::Reseal { table, key, value });
        } else {
            let (row, stored) = word.split_once('=').unwrap_or_else(|| panic!("{word}"));
            let (table, key) = placed(row);
            set.put(table, key, value(stored));
        }
    }
    set
}

fn check(read: &dyn Read, line: &str) {
    let (asked, want) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
    let words: Vec<&str> = asked.split_whitespace().collect();
    let want = want.trim();
    match words.as_slice() {
        ["get", row] => {
            let (table, key) = placed(row);
            let found = read.get(table, &key).unwrap();
            match want.rsplit_once('@') {
                None => assert_eq!((found, want), (None, "none"), "{line}"),
                Some((stored, version)) => {
                    let found = found.unwrap_or_else(|| panic!("{line}: none"));
                    assert_eq!(found.version, number(version), "{line}");
                    assert!(found.value == value(stored), "{line}");
                }
            }
        }
        [way @ ("scan" | "back"), place, bounds @ ..] => {
            let mut page = PageSize::USUAL;
            for bound in bounds.chunks(2) {
                match bound {
                    ["rows", rows] => page.rows = rows.parse().unwrap(),
                    ["bytes", bytes] => page.bytes = bytes.parse().unwrap(),
                    _ => panic!("{line}"),
                }
            }
            let direction = match *way {
                "scan" => Direction::Forward,
                _ => Direction::Backward,
            };
            let (table, range) = range(place);
            let found = read.scan(table, &range, direction, page).unwrap();
            let found: Vec<String> = found.iter().map(|entry| text(&entry.key)).collect();
            let want: Vec<&str> = want.split_whitespace().collect();
            assert_eq!(found, want, "{line}");
        }
        ["mark", key] => assert_eq!(read.mark(&bytes(key)).unwrap(), number(want), "{line}"),
        ["marks", bounds @ ..] => {
            let (mut after, mut limit) = (None, 100);
            for bound in bounds.chunks(2) {
                match bound {
                    ["behind", key] => after = Some(bytes(key)),
                    ["limit", most] => limit = most.parse().unwrap(),
                    _ => panic!("{line}"),
                }
            }
            let found = read.marks(after.as_deref(), limit).unwrap();
            let shown = |(key, value): &(Key, u64)| format!("{}:{value}", text(key));
            let found: Vec<String> = found.iter().map(shown).collect();
            let want: Vec<&str> = want.split_whitespace().collect();
            assert_eq!(found, want, "{line}");
        }
        ["format"] => assert_eq!(u64::from(read.format().unwrap()), number(want), "{line}"),
        ["last"] => assert_eq!(read.last_commit().unwrap(), number(want), "{line}"),
        ["feed", since, bound @ ..] => {
            let limit = match bound {
                ["limit", limit] => limit.parse().unwrap(),
                _ => 100,
            };
            let found = read.notes(number(since), limit).unwrap();
            let shown = |note: &crate::engine::Note| {
                let key = text(&note.key);
                if note.table == Table::Findings {
                    format!("{}#{key}", note.commit)
                } else {
                    format!("{}#{}/{key}", note.commit, note.table.name())
                }
            };
            let found: Vec<String> = found.iter().map(shown).collect();
            let want: Vec<&str> = want.split_whitespace().collect();
            assert_eq!(found, want, "{line}");
        }
        _ => panic!("{line}"),
    }
}
