//! `rekey`: replaces every key of a store that no hub serves.

use std::path::PathBuf;

use jiff::Timestamp;

use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::{opening, rekey};

/// Replaces every key, and prints what is left to do.
///
/// # Errors
/// When a hub runs on the store, or a key could not be replaced.
pub(super) async fn run(
    config: &Config,
    file: Option<PathBuf>,
    format: Format,
) -> Result<Exit, Failure> {
    if admin::ask(&config.data_dir, &Question::Status)
        .await?
        .is_some()
    {
        return Err(Failure::new(
            Exit::Failed,
            "the hub runs, and holds keys in memory that are to be replaced",
        )
        .with_fix("stop it, run `zero-x-hub rekey`, and start it again"));
    }
    let opened = config.clone();
    let store = tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))??;
    let done = rekey::rekey(&store, file, config.tls.is_some(), Timestamp::now()).await;
    store.close().await;
    let done = done?;
    let object = serde_json::to_value(&done).expect("an answer always serialises");
    let mut lines = vec![
        ("master key", done.master_key),
        ("file", done.file.display().to_string()),
        ("data keys", done.data_keys.to_string()),
        ("people signed out", done.people_signed_out.to_string()),
        ("tokens void", done.tokens_void.to_string()),
        ("CA pin", done.ca_pin),
        (
            "behind",
            format!("{} of {} agents", done.agents_behind, done.agents),
        ),
    ];
    lines.extend(done.remains.into_iter().map(|clause| ("to do", clause)));
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}
