//! Tests and lints.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use line::{programs, python};

/// Runs every test of the workspace, with the emulator's Python environment and the three programs made first: the
/// end-to-end tests would otherwise each make the one, and might find older ones of the other.
pub(crate) fn test(more: &[String]) -> Result<()> {
    let python = python::ensure(&programs::folder()?.join("emulator-python"))?;
    let _built = programs::build()?;
    step(
        "cargo test",
        programs::cargo()
            .args(["test", "--workspace"])
            .args(more)
            .env(python::VARIABLE, python),
    )
}

/// Checks everything that needs no running program.
pub(crate) fn lint() -> Result<()> {
    step(
        "formatting",
        programs::cargo().args(["fmt", "--all", "--check"]),
    )?;
    crate::sources::run()?;
    crate::units::run()?;
    if present("shellcheck") {
        step("shellcheck", here("shellcheck").arg(".ci/run"))?;
    } else {
        println!("skipped: shellcheck: not installed");
    }
    step(
        "clippy",
        programs::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )
}

/// Whether a program is on the path.
pub(crate) fn present(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

/// A program of the system, in the checkout.
pub(crate) fn here(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(checkout());
    command
}

pub(crate) fn checkout() -> &'static Path {
    programs::checkout()
}

/// Runs a command with the terminal's own outputs.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("could not start {name}"))?;
    ensure!(status.success(), "{name} failed");
    Ok(())
}

/// Runs a command that must succeed and say nothing.
pub(crate) fn silent(name: &str, command: &mut Command) -> Result<()> {
    let done = command
        .output()
        .with_context(|| format!("could not start {name}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() || !said.trim().is_empty() {
        bail!(
            "{name} failed: {}{}",
            String::from_utf8_lossy(&done.stdout).trim(),
            said.trim()
        );
    }
    Ok(())
}
