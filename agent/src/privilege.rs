//! Root gives itself up: what writes the state directory runs as the service user.
//!
//! Started by root, the program starts itself again as `zero-x-agent`, with no other group. A
//! secret that only root may read is read first and handed on through a pipe.

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

/// Continues as the service user when root runs this and that user is there.
///
/// Stays root where the state directory belongs to somebody else: whoever chose another directory
/// chose its owner too. Does not return when it continues as another user.
///
/// # Errors
///
/// When the secret cannot be read or the program cannot be started again.
pub(crate) fn leave_root(state_dir: &Path, input: Option<&Input>) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let Some((uid, gid)) = find_user(&passwd, USER) else {
        return Ok(());
    };
    let failed = |error: std::io::Error| {
        Failure::of(
            Exit::No,
            format!("cannot continue as the user {USER}"),
            error,
        )
    };
    match layout::owner(state_dir) {
        Some(owner) if owner == uid => {}
        Some(_) => return Ok(()),
        None => {
            let mut folder = std::fs::DirBuilder::new();
            folder.recursive(true).mode(0o700);
            folder.create(state_dir).map_err(failed)?;
            chown(state_dir, Some(uid), Some(gid)).map_err(failed)?;
        }
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
}
