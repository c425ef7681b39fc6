//! `zero-x-hub init`.

use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use line::hub::Hub;
use line::process;

#[test]
fn a_second_init_changes_nothing_and_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let hub = Hub::init(&tests::built()?.hub, folder.path(), "first")?;
    let key = folder.path().join("master.key");
    assert_eq!(key.metadata()?.permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&key)?;
    assert_eq!(
        String::from_utf8(before.clone())?.trim().len(),
        64,
        "32 bytes in hexadecimal"
    );

    let again = hub.run_init("first")?;
    assert!(again.status.success(), "{again:?}");
    assert_eq!(std::fs::read(&key)?, before);
    let said = String::from_utf8_lossy(&again.stderr) + String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("already"), "{said}");
    assert!(hub.org_id.starts_with("org_"), "{}", hub.org_id);
    assert!(hub.ca_pin.starts_with("sha256:"), "{}", hub.ca_pin);
    Ok(())
}

#[test]
fn a_master_key_inside_the_data_directory_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut command = process::command(&tests::built()?.hub, folder.path());
    command
        .arg("init")
        .arg("--data-dir")
        .arg(&data)
        .arg("--master-key-file")
        .arg(data.join("master.key"))
        .args([
            "--org",
            "first",
            "--admin-email",
            "a@example.com",
            "--admin-password-stdin",
        ]);
    let done = process::output(
        command,
        "a long enough pass phrase 42",
        std::time::Duration::from_secs(60),
    )?;
    assert!(matches!(done.status.code(), Some(64 | 78)), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("inside"), "{said}");
    assert!(!data.join("master.key").exists());
    Ok(())
}
