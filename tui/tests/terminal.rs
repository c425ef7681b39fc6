//! The console in a true terminal, and without one.
//!
//! The terminal comes from `script`, which every Debian has (package `bsdutils`, essential). The
//! hub is an address where nothing listens: the console must open all the same.

#![expect(clippy::unwrap_used, reason = "a test may stop where it cannot go on")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zero-x");

/// Longest wait for anything; a frame takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// To the other screen, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("TERM", "xterm-256color")
        .env("LANG", "C.UTF-8");
    command
}

/// A session of a hub that cannot be reached: nothing listens on port 1.
fn sign_in(home: &Path) {
    let folder = home.join(".local/state/zero-x");
    fs::create_dir_all(&folder).unwrap();
    let session = r#"{"url": "https://127.0.0.1:1", "ca_pin": null, "email": "mira@acme.test",
        "access_token": "a", "refresh_token": "r", "expires_at": "2100-01-01T00:00:00Z"}"#;
    fs::write(folder.join("session.json"), session).unwrap();
}

/// The console in a terminal of 80 columns and 24 rows.
struct Console {
    script: Child,
    seen: std::sync::mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Console {
    fn open(home: &Path) -> Self {
        let line = format!("stty cols 80 rows 24; echo $$ > pid; exec {PROGRAM}");
        let mut script = command("script", home)
            .args(["-qefc", &line, "/dev/null"])
            .current_dir(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`script` of bsdutils");
        let mut output = script.stdout.take().unwrap();
        let (sender, seen) = std::sync::mpsc::sync_channel(1_000);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender
                    .send(bytes.iter().take(count).copied().collect())
                    .is_err()
                {
                    return;
                }
            }
        });
        Self {
            script,
            seen,
            text: String::new(),
        }
    }

    #[track_caller]
    fn wait_for(&mut self, words: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text.contains(words) {
            let left = until.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{words:?} did not come; what came: {:?}", self.text),
            }
        }
    }

    fn typed(&mut self, text: &str) {
        let input = self.script.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Waits for the end and returns the exit code and all that was written.
    fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.script.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end: {:?}", self.text);
            std::thread::sleep(Duration::from_millis(10));
        };
        while let Ok(bytes) = self.seen.recv_timeout(Duration::from_secs(1)) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        (status.code(), std::mem::take(&mut self.text))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // A test that failed must not leave it behind; one that is gone needs no end.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let refused =
        |command: &mut Command| -> Output { command.stdin(Stdio::null()).output().unwrap() };
    let output = refused(&mut command(PROGRAM, home.path()));
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("needs a terminal"), "{words}");
    assert!(words.contains("zero-x finding list"), "{words}");

    let output = refused(command(PROGRAM, home.path()).args(["-o", "json"]));
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn it_opens_without_its_hub_and_gives_the_terminal_back_when_it_is_left() {
    let home = tempfile::tempdir().unwrap();
    sign_in(home.path());
    let mut console = Console::open(home.path());
    console.wait_for("offline since");
    console.wait_for("no data yet");
    console.typed("2");
    console.wait_for("BROKEN RULE");
    console.typed("q");
    let (code, text) = console.end();
    assert_eq!(code, Some(0));
    assert_eq!(text.matches(ENTER).count(), 1);
    assert_eq!(text.matches(LEAVE).count(), 1);
}

#[test]
fn a_signal_gives_the_terminal_back_and_is_told() {
    let home = tempfile::tempdir().unwrap();
    sign_in(home.path());
    let mut console = Console::open(home.path());
    console.wait_for("offline since");
    let pid = fs::read_to_string(home.path().join("pid")).unwrap();
    let killed = Command::new("sh")
        .args(["-c", "kill -TERM \"$1\"", "sh", pid.trim()])
        .status();
    assert!(killed.unwrap().success());
    let (code, text) = console.end();
    assert_eq!(code, Some(143), "{text:?}");
    let (_, after) = text
        .rsplit_once(LEAVE)
        .expect("the terminal was given back");
    assert!(after.contains("ended by SIGTERM"), "{after:?}");
}

#[test]
fn a_person_who_has_not_signed_in_is_told_so_before_the_screen_changes() {
    let home = tempfile::tempdir().unwrap();
    let console = Console::open(home.path());
    let (code, text) = console.end();
    assert_eq!(code, Some(77), "{text:?}");
    assert!(text.contains("zero-x login"), "{text:?}");
    assert!(!text.contains(ENTER));
}
