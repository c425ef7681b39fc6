//! `key recovery generate`: makes the key that can open every backup.

use std::path::Path;

use serde_json::json;
use store::RecoveryKey;

use super::output::{self, Format};
use crate::failure::{Exit, Failure};

/// Makes a recovery key and prints its public half.
///
/// # Errors
/// When the file exists or cannot be written.
pub(super) fn generate(file: &Path, format: Format) -> Result<Exit, Failure> {
    let recipient = RecoveryKey::create(file)?.recipient().to_string();
    output::note(&format!(
        "keep {} offline, apart from the hub and its backups: with it and a backup, everything in \
         the backup can be read. Write the public half to hub.toml: recovery_recipient = \
         \"{recipient}\"",
        file.display()
    ));
    let object = json!({ "recovery_recipient": recipient, "file": file.display().to_string() });
    output::print_object(format, &object, &[("recovery_recipient", recipient)])?;
    Ok(Exit::Ok)
}
