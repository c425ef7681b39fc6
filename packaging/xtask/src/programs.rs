//! Where the three programs lie: beside the running one, in cargo's target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// The three installed programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `zero-x-agent`
    pub agent: PathBuf,
    /// `zero-x-hub`
    pub hub: PathBuf,
    /// `zero-x`
    pub client: PathBuf,
}

/// The folder of the checkout.
///
/// # Panics
/// Never: this crate lies two folders below it.
#[must_use]
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("packaging/xtask lies two folders below the checkout")
}

/// The folder with the built programs, `target/debug` for a development build.
///
/// # Errors
/// When the running program's own place is unknown.
pub fn folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not tell where this program lies")?;
    let parent = own.parent().context("this program lies in no folder")?;
    // Tests lie one folder deeper.
    Ok(match parent.file_name() {
        Some(name) if name == "deps" => parent.parent().unwrap_or(parent).to_owned(),
        _ => parent.to_owned(),
    })
}

/// Builds the three programs as `cargo test --workspace` does. Cargo's own progress goes to the terminal.
///
/// # Errors
/// When cargo cannot be started or the build fails.
pub fn build() -> Result<Programs> {
    // The same selection as the tests', so that neither rebuilds what the other has built.
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    find()
}

/// Builds the three programs as they are installed.
///
/// # Errors
/// When cargo cannot be started or the build fails.
pub fn build_release() -> Result<Programs> {
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "agent",
        "-p",
        "hub",
        "-p",
        "tui",
    ]))?;
    find_in(&folder()?.with_file_name("release"))
}

fn run(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("could not start cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

/// Finds the three programs in the folder that `ZERO_X_PROGRAMS` names, such as that of a release
/// build, or else beside the running one.
///
/// # Errors
/// When one of them has not been built.
pub fn find() -> Result<Programs> {
    match std::env::var_os("ZERO_X_PROGRAMS") {
        Some(folder) => find_in(Path::new(&folder)),
        None => find_in(&folder()?),
    }
}

/// Finds the three programs in a folder.
///
/// # Errors
/// When one of them is not there.
pub fn find_in(folder: &Path) -> Result<Programs> {
    let place = |name: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        if !path.is_file() {
            bail!(
                "{} is not there: this workspace does not build it, or has not yet",
                path.display()
            );
        }
        Ok(path)
    };
    Ok(Programs {
        agent: place("zero-x-agent")?,
        hub: place("zero-x-hub")?,
        client: place("zero-x")?,
    })
}

/// The cargo that runs this program, in the checkout.
///
/// It sees none of the variables that `cargo run` sets for this program: build scripts of dependencies ask for some of
/// them, so cargo would build those anew each time a person's call and one from here take turns.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command.current_dir(checkout());
    command
}
