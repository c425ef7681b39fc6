//! `make demo`, as a newcomer without a terminal runs it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use line::{process, programs, python};

fn demo(state: &Path) -> Result<Command> {
    tests::built()?;
    let python = python::ensure(&programs::folder()?.join("emulator-python"))?;
    let mut command = Command::new(programs::folder()?.join("xtask"));
    command
        .args(["demo", "--plain"])
        .env("ZERO_X_DEMO_DIR", state)
        .env(python::VARIABLE, python)
        // Someone else's account; the demo must not touch it unasked.
        .env("AWS_ACCESS_KEY_ID", "AKIADEMODEMODEMODEMO")
        .env("AWS_SECRET_ACCESS_KEY", "not-for-the-demo");
    Ok(command)
}

#[test]
fn the_demo_ends_with_a_summary_of_findings_whatever_was_there_before() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("demo");
    // Twice in a row; then over the remains of one that was killed, with strange files in place of its own.
    for round in 0..3 {
        if round == 2 {
            let mut half = demo(&state)?;
            half.stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null());
            let mut half = half.spawn()?;
            tests::wait_until("the third demo has a hub", Duration::from_secs(120), || {
                Ok(state.join("run/hub/data").is_dir().then_some(()))
            })?;
            half.kill()?;
            half.wait()?;
            std::fs::write(state.join("run/hub/data/strange"), b"of another version")?;
        }
        let done = process::output(demo(&state)?, "", Duration::from_secs(600))?;
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(said.contains("leaves that account alone"), "{said}");
        for word in [
            "Findings",
            "critical",
            "high",
            "Resources by type",
            "aws.s3.bucket",
            "make demo",
        ] {
            assert!(said.contains(word), "no {word} in {said}");
        }
        assert!(
            remaining(&state)?.is_empty(),
            "still running: {:?}",
            remaining(&state)?
        );
    }
    Ok(())
}

#[test]
fn the_demo_clears_no_folder_that_it_has_not_made() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("thesis.txt"), "three years of work")?;
    let done = process::output(demo(folder.path())?, "", Duration::from_secs(60))?;
    assert!(!done.status.success());
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("was not made by the demo"),
        "{done:?}"
    );
    assert!(folder.path().join("thesis.txt").exists());
    Ok(())
}

/// The processes whose command line names the demo's folder.
fn remaining(state: &Path) -> Result<Vec<String>> {
    let state = state.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        // Processes come and go while this looks.
        let Ok(bytes) = std::fs::read(entry?.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if line.contains(&state) {
            found.push(line);
        }
    }
    Ok(found)
}
