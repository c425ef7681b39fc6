//! The agent with the rights that its unit leaves it.
//!
//! A user of its own, no capability, no way to gain one, and the groups of the drop-ins: that is what decides whether a
//! file can be read. The unit's file-system and system-call walls take systemd, which a build machine need not run.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use line::process::{self, Rights, SERVICE_ID};
use tests::{Line, alerts};

/// Stands for the group `wazuh`.
const WAZUH_GROUP: u32 = 54_321;

/// Whether the service's user can run the agent's program at all; a target folder below /root keeps it out.
fn is_possible(program: &Path) -> bool {
    let mut command = process::command_with(
        program,
        Path::new("/"),
        &Rights::Service { groups: Vec::new() },
    );
    command.arg("--version");
    process::output(command, "", Duration::from_secs(30)).is_ok_and(|done| done.status.success())
}

#[test]
fn the_services_user_reads_alerts_with_the_drop_ins_group_and_says_so_without_it() -> Result<()> {
    let line = Line::start()?;
    if !is_possible(&line.programs().agent) {
        println!("skipped: restricted: this machine does not let the tests change user");
        return Ok(());
    }
    // The line's folder is private to its owner; the service's user has to pass through it.
    std::fs::set_permissions(line.folder(), Permissions::from_mode(0o711))?;
    // As a manager's installation leaves folder and file.
    let folder = line.folder().join("alerts");
    std::fs::create_dir(&folder)?;
    let file = folder.join("alerts.json");
    alerts::append(&file, (0..3).map(alerts::alert))?;
    for (path, mode) in [(&file, 0o640), (&folder, 0o750)] {
        chown(path, Some(0), Some(WAZUH_GROUP))?;
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }

    let mut agent = line.unenrolled("agent")?;
    agent.set_rights(Rights::Service { groups: Vec::new() })?;
    process::success(agent.enroll(&line.token()?)?, "zero-x-agent enroll")?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;

    // Without the group: the reason is named, and where to get the right.
    let done = agent.output(&["source", "test", "manager"], "")?;
    assert!(!done.status.success(), "{done:?}");
    let said =
        String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    assert!(said.to_lowercase().contains("permission denied"), "{said}");
    assert!(
        said.contains("the group wazuh"),
        "nothing says where to get the right: {said}"
    );

    agent.set_rights(Rights::Service {
        groups: vec![WAZUH_GROUP],
    })?;
    // A file that can be read in a folder that cannot be listed: a rotation would be missed.
    std::fs::set_permissions(&folder, Permissions::from_mode(0o710))?;
    let done = agent.output(&["source", "test", "manager"], "")?;
    assert!(!done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("cannot be listed"), "{said}");
    std::fs::set_permissions(&folder, Permissions::from_mode(0o750))?;

    process::success(
        agent.output(&["source", "test", "manager"], "")?,
        "zero-x-agent source test",
    )?;
    agent.run_once()?;
    let events = line.client.rows(&["event", "list"])?;
    assert_eq!(events.len(), 3, "{events:?}");
    assert_eq!(
        std::fs::metadata(agent.state_dir())?.permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(agent.state_dir())?),
        SERVICE_ID
    );
    Ok(())
}
