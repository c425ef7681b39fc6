//! The store at scale: lists over a million resources and findings, ten million events.
//!
//! ```text
//! cargo xtask bench-store                                       builds and runs all of it
//! cargo bench -p store --bench scale -- lists 1000000
//! cargo bench -p store --bench scale -- events 10000000
//! ```
//! Each part runs in a process of its own, so that memory and caches are those of a hub that was
//! started for it. The files lie in the folder for temporary ones (`TMPDIR`): some 4 GB.

#![expect(clippy::print_stdout, reason = "a command's output")]

mod events;
mod figure;
mod lists;
mod place;
mod trail;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use place::{Place, runtime};

fn main() {
    // `cargo bench` puts a flag of its own behind them.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<u64>().expect("a number");
    match words.as_slice() {
        ["lists", rows] => {
            let folder = folder();
            part(&["lists-write", folder.path().to_str().expect("text"), rows]);
            part(&["lists-read", folder.path().to_str().expect("text")]);
        }
        ["events", events] => {
            let folder = folder();
            let dir = folder.path().to_str().expect("text");
            part(&["events-write", dir, events]);
            part(&["events-read", dir, events]);
            kill_a_writer(folder.path());
            part(&["events-open", dir]);
            part(&["events-drop", dir, events]);
        }
        ["lists-write", dir, rows] => {
            let place = Place::of(Path::new(dir));
            figure::print(runtime().block_on(lists::write(&place, number(rows))));
        }
        ["lists-read", dir] => {
            let place = Place::of(Path::new(dir));
            figure::print(runtime().block_on(lists::read(&place)).0);
        }
        ["events-write", dir, events] => {
            let place = Place::of(Path::new(dir));
            figure::print(runtime().block_on(events::write(&place, number(events))));
        }
        ["events-read", dir, events] => {
            let place = Place::of(Path::new(dir));
            figure::print(runtime().block_on(events::read(&place, number(events))).0);
        }
        ["events-write-on", dir] => {
            runtime().block_on(events::write_on(&Place::of(Path::new(dir))));
        }
        ["events-open", dir] => {
            let place = Place::of(Path::new(dir));
            runtime().block_on(events::open(&place)).print();
        }
        ["events-drop", dir, events] => {
            let place = Place::of(Path::new(dir));
            let dropped = runtime().block_on(events::drop_day(&place, number(events)));
            dropped.0.print();
        }
        _ => println!(
            "skipped: scale: say lists ROWS or events EVENTS, or `cargo xtask bench-store`"
        ),
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn program() -> Command {
    Command::new(std::env::current_exe().expect("this program"))
}

/// Runs a part in a process of its own.
fn part(words: &[&str]) {
    let ended = program().args(words).status().expect("it runs");
    assert!(ended.success(), "{words:?}: {ended}");
}

/// Kills a process in the middle of its writes.
fn kill_a_writer(dir: &Path) {
    let mut child = program()
        .arg("events-write-on")
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let out = child.stdout.take().expect("its output is read");
    let stored = BufReader::new(out).lines().take(20).filter(Result::is_ok);
    assert_eq!(stored.count(), 20, "it writes");
    child.kill().expect("it is killed");
    child.wait().expect("it has ended");
}
