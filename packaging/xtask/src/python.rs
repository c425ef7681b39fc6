//! The private Python environment with the AWS emulator.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::programs::checkout;

/// Names the interpreter of a ready environment, so that one is made per test run and not one per test.
pub const VARIABLE: &str = "ZERO_X_MOTO_PYTHON";
/// The oldest Python that moto 5.2 runs on.
const OLDEST: (u32, u32) = (3, 10);

/// Returns the interpreter of an environment with the pinned packages, making it in `folder` if need be.
///
/// # Errors
/// When Python, its `venv` module or the package registry is missing; the message says what to do.
pub fn ensure(folder: &Path) -> Result<PathBuf> {
    if let Some(ready) = std::env::var_os(VARIABLE) {
        let ready = PathBuf::from(ready);
        ensure!(
            ready.is_file(),
            "{VARIABLE} names {}, which is no file",
            ready.display()
        );
        return Ok(ready);
    }
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    // Two runs at once: the second waits and then finds the work done.
    let lock =
        File::create(folder.join("lock")).context("could not lock the Python environment")?;
    lock.lock()
        .context("could not lock the Python environment")?;
    let requirements = checkout().join("packaging/demo/requirements.txt");
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("could not read {}", requirements.display()))?;
    let environment = folder.join("env");
    let python = environment.join("bin/python");
    let stamp = folder.join("installed.txt");
    let usable = fs::read_to_string(&stamp).is_ok_and(|done| done == wanted)
        && run(Command::new(&python).args(["-c", "import moto, flask, boto3"])).is_ok();
    if !usable {
        let _absent = fs::remove_file(&stamp);
        make(&environment)?;
        run(Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ])
            .args(["--require-hashes", "--only-binary", ":all:", "-r"])
            .arg(&requirements))
        .context(
            "could not install the AWS emulator with pip; is the package registry reachable?",
        )?;
        fs::write(&stamp, wanted).context("could not note what was installed")?;
    }
    Ok(python)
}

fn make(environment: &Path) -> Result<()> {
    let version = Command::new("python3")
        .args(["-c", "import sys; print(*sys.version_info[:2])"])
        .output()
        .context(
            "there is no python3 here; on Debian and Ubuntu: apt install python3 python3-venv",
        )?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let mut numbers = version.split_whitespace().map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => {}
        _ => bail!(
            "the AWS emulator needs Python {}.{} or newer; python3 is {}",
            OLDEST.0,
            OLDEST.1,
            version.trim()
        ),
    }
    run(Command::new("python3").args(["-c", "import venv, ensurepip"]))
        .context("python3 has no venv module; on Debian and Ubuntu: apt install python3-venv")?;
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(environment))
    .context("could not make a Python environment")
}

fn run(command: &mut Command) -> Result<()> {
    let done = command
        .output()
        .with_context(|| format!("could not start {}", command.get_program().display()))?;
    if !done.status.success() {
        bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
