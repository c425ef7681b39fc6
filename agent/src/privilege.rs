//! Root gives itself up: what writes the state directory runs as the user that it belongs to.
//!
//! Started by root, the program starts itself again as that user, or as `zero-x-agent` where there
//! is no such directory yet, with no other group: a file of root's in there would be one that the
//! service cannot read. A secret that only root may read is read first and handed on through a pipe.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use secrecy::ExposeSecret;

use crate::exit::{Exit, Failure};
use crate::input::Input;
use crate::layout;

/// The user that the packages make.
const USER: &str = "zero-x-agent";

/// Continues as the owner of the state directory when root runs this; makes the directory for the
/// service user where it is not there and that user is.
///
/// Stays root where the state directory is root's: whoever made it chose its owner too. Does not return when it continues as another user.
///
/// # Errors
///
/// When the secret cannot be read or the program cannot be started again.
pub(crate) fn leave_root(state_dir: &Path, input: Option<&Input>) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = layout::owner_and_group(state_dir);
    let Some((uid, gid)) = successor(found, &passwd) else {
        return Ok(());
    };
    let failed = |error: std::io::Error| {
        Failure::of(
            Exit::No,
            format!("cannot continue as the user of {}", state_dir.display()),
            error,
        )
        .fix("run this as that user")
    };
    if found.is_none() {
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(state_dir).map_err(failed)?;
        chown(state_dir, Some(uid), Some(gid)).map_err(failed)?;
    }
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).uid(uid).gid(gid);
    if let Some(input) = input {
        let secret = input.read()?;
        let (reader, mut writer) = std::io::pipe().map_err(failed)?;
        // A pipe holds 64 KiB, as much as a secret may have, so this does not wait for a reader.
        writer.write_all(secret.expose_secret()).map_err(failed)?;
        command.arg("--input-on-stdin").stdin(reader);
    }
    Err(failed(command.exec()))
}

/// Returns as whom root should continue: `found` is owner and group of the state directory.
fn successor(found: Option<(u32, u32)>, passwd: &str) -> Option<(u32, u32)> {
    match found {
        None => find_user(passwd, USER),
        Some((0, _)) => None,
        // Its own group rather than the folder's, which may be root's.
        Some((uid, gid)) => Some((uid, group_of(passwd, uid).unwrap_or(gid))),
    }
}

/// Returns the group number of a user number in the text of `/etc/passwd`.
fn group_of(passwd: &str, uid: u32) -> Option<u32> {
    let uid = uid.to_string();
    let mut lines = passwd.lines();
    let line = lines.find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').nth(3)?.parse().ok()
}

/// Returns user and group number of a name in the text of `/etc/passwd`.
fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut lines = passwd.lines();
    let line = lines.find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nzero-x-agent2:x:7:8::/:/x\n\
                      zero-x-agent:x:990:991:Zero-X agent:/var/lib/zero-x-agent:/usr/sbin/nologin\n";
        assert_eq!(find_user(passwd, USER), Some((990, 991)));
        assert_eq!(find_user("root:x:0:0::/root:/bin/sh\n", USER), None);
    }

    #[test]
    fn root_continues_as_the_owner_of_the_state_directory() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n\
                      zero-x-agent:x:990:991::/var/lib/zero-x-agent:/usr/sbin/nologin\n";
        for (found, want) in [
            (None, Some((990, 991))),
            (Some((0, 0)), None),
            (Some((990, 0)), Some((990, 991))),
            (Some((1000, 0)), Some((1000, 1001))),
            // A user of a directory service, or of a container.
            (Some((4242, 4243)), Some((4242, 4243))),
        ] {
            assert_eq!(successor(found, passwd), want, "{found:?}");
        }
        assert_eq!(successor(None, "root:x:0:0::/root:/bin/sh\n"), None);
    }
}
