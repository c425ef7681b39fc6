//! The systemd units: well formed, and as closed as the project promises, with each drop-in too.

use std::fs;

use anyhow::{Context, Result};

use crate::chores::{checkout, here, present, silent};

/// The most exposure that `systemd-analyze security` may find, in tenths: 2.0 of 10.
const THRESHOLD: &str = "--threshold=20";
const UNITS: [&str; 2] = ["zero-x-agent", "zero-x-hub"];

/// Verifies each unit alone and with each of its drop-ins.
pub(crate) fn run() -> Result<()> {
    if !present("systemd-analyze") {
        println!("skipped: systemd-analyze: not installed");
        return Ok(());
    }
    let folder = checkout().join("packaging/systemd");
    for unit in UNITS {
        verify(unit, None)?;
        let drop_ins = folder.join("drop-ins").join(format!("{unit}.service.d"));
        if !drop_ins.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&drop_ins)
            .with_context(|| format!("could not list {}", drop_ins.display()))?
        {
            verify(unit, Some(&entry?.path()))?;
        }
    }
    println!("units: verified, exposure at most 2.0");
    Ok(())
}

fn verify(unit: &str, drop_in: Option<&std::path::Path>) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let file = temporary.path().join(format!("{unit}.service"));
    let text = fs::read_to_string(checkout().join(format!("packaging/systemd/{unit}.service")))?;
    // The verifier wants an executable that exists, and this machine need not have ours installed.
    fs::write(
        &file,
        text.replace(&format!("/usr/bin/{unit}"), "/bin/true"),
    )?;
    let mut name = unit.to_owned();
    if let Some(drop_in) = drop_in {
        let folder = temporary.path().join(format!("{unit}.service.d"));
        fs::create_dir(&folder)?;
        let own = drop_in.file_name().context("a drop-in without a name")?;
        fs::copy(drop_in, folder.join(own))?;
        name = format!("{unit} with {}", own.display());
    }
    silent(
        &format!("systemd-analyze verify {name}"),
        here("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&file),
    )?;
    silent(
        &format!("systemd-analyze security {name}"),
        here("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", THRESHOLD])
            .arg(&file),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_unit_is_well_formed_and_closed_with_each_drop_in() -> anyhow::Result<()> {
        super::run()
    }
}
