//! `key`: shows the keys that the data is sealed under and replaces them. The running hub does it,
//! else this program on its store.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::Value;
use store::Store;

use super::KeyRotate;
use super::local::told;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::keys::{self, DataKeyStatus, KeyOwner, MasterKeyChanged};
use crate::opening;

/// Columns of `key status`.
const COLUMNS: &[&str] = &["org", "data_key", "older_keys", "rows_resealed"];

/// Replaces a key.
///
/// # Errors
/// When it was not replaced, or not to the end.
pub(super) async fn rotate(
    config: &Config,
    args: KeyRotate,
    format: Format,
) -> Result<Exit, Failure> {
    let KeyRotate {
        org,
        appliance,
        new_key_file,
    } = args;
    match org {
        Some(org) => rotate_data(config, KeyOwner::Org(org), format).await,
        None if appliance => rotate_data(config, KeyOwner::Appliance, format).await,
        None => rotate_master(config, new_key_file, format).await,
    }
}

/// Prints under which keys the data is sealed.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn status(config: &Config, format: Format) -> Result<Exit, Failure> {
    let keys: Vec<DataKeyStatus> = match admin::ask(&config.data_dir, &Question::Keys).await? {
        Some(answer) => told(answer)?,
        None => {
            let store = open(config).await?;
            let keys = keys::status(&store).await;
            store.close().await;
            keys?
        }
    };
    let rows: Vec<Value> = keys
        .iter()
        .map(|keys| serde_json::to_value(keys).expect("a status always serialises"))
        .collect();
    output::print_list(format, COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

async fn rotate_master(
    config: &Config,
    file: Option<PathBuf>,
    format: Format,
) -> Result<Exit, Failure> {
    // The hub's own folder is not this command's.
    let absolute = |file: PathBuf| std::path::absolute(&file).unwrap_or(file);
    let file = file.map(absolute);
    let is_elsewhere = file.is_some();
    let question = Question::MasterKey { file: file.clone() };
    let changed: MasterKeyChanged = match admin::ask(&config.data_dir, &question).await? {
        Some(answer) => told(answer)?,
        None => {
            let store = open(config).await?;
            let changed = keys::rotate_master(&store, file, Timestamp::now()).await;
            store.close().await;
            changed?
        }
    };
    output::note(if is_elsewhere {
        "the key that the hub was started with opens nothing any more. Before the next start, put \
         the new one where the hub finds its key (with a TPM: `systemd-creds encrypt \
         --name=master.key`), then destroy both plain files and the copies of the old one"
    } else {
        "the old key is overwritten and removed; a solid-state disk may keep its bytes for a while. \
         Copy the new key file to where you keep your copies, destroy those of the old one, and back \
         the hub up: backups made before need the old key"
    });
    let object = serde_json::to_value(&changed).expect("an answer always serialises");
    let lines = [
        ("master key", changed.master_key),
        ("before", changed.before),
        ("file", changed.file.display().to_string()),
        ("organisations", changed.organisations.to_string()),
    ];
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}

async fn rotate_data(config: &Config, owner: KeyOwner, format: Format) -> Result<Exit, Failure> {
    let question = Question::DataKey {
        owner: owner.clone(),
    };
    let (keys, note): (DataKeyStatus, _) = match admin::ask(&config.data_dir, &question).await? {
        Some(answer) => (
            told(answer)?,
            "new rows are sealed under the new key; the hub seals the others anew in the \
                 background and then forgets the old key (`zero-x-hub key status`). Rotate the \
                 master key when it is done: older copies of the keyring stay dark only then",
        ),
        None => {
            let store = open(config).await?;
            let done = offline(&store, &owner).await;
            store.close().await;
            (
                done?,
                "every row is sealed under the new key, and the old one is gone. Rotate the \
                     master key now: older copies of the keyring stay dark only then",
            )
        }
    };
    output::note(note);
    let object = serde_json::to_value(&keys).expect("a status always serialises");
    let lines = [
        ("org", keys.org),
        ("data key", keys.data_key.to_string()),
        ("older keys", keys.older_keys.to_string()),
        ("rows resealed", keys.rows_resealed.to_string()),
    ];
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}

/// Adds a data key and seals every row anew, on a store that no hub serves.
async fn offline(store: &Store, owner: &KeyOwner) -> Result<DataKeyStatus, Failure> {
    let added = keys::add_data_key(store, owner, Timestamp::now()).await?;
    let rows_resealed = keys::reseal_now(store, owner).await?;
    Ok(DataKeyStatus {
        older_keys: 0,
        rows_resealed,
        ..added
    })
}

async fn open(config: &Config) -> Result<Store, Failure> {
    let opened = config.clone();
    tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))?
}
