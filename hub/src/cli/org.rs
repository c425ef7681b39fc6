//! `org purge`: the running hub does it, else this program on its store.

use jiff::Timestamp;

use super::Org;
use super::local::told;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::opening;
use crate::purge::{self, Purged};

/// Runs one verb.
///
/// # Errors
/// When it could not do what was asked.
pub(super) async fn run(config: &Config, what: Org, format: Format) -> Result<Exit, Failure> {
    let Org::Purge { org, confirm } = what;
    let question = Question::Purge {
        org: org.clone(),
        confirm: confirm.clone(),
    };
    let purged: Purged = match admin::ask(&config.data_dir, &question).await? {
        Some(answer) => told(answer)?,
        None => {
            let opened = config.clone();
            let store = tokio::task::spawn_blocking(move || opening::open(&opened))
                .await
                .map_err(|error| {
                    Failure::new(Exit::Failed, "cannot open the store").caused_by(&error)
                })??;
            let now = Timestamp::now();
            let purged = purge::purge(&store, None, &org, &confirm, now).await;
            store.close().await;
            purged?
        }
    };
    output::note(
        "its keys and everything that was sealed under them are gone. The master key is a new one: \
         copy it and its ledger (the file with the ending .deletions beside it) to where you keep \
         your copies, destroy the copies of the old key, and back the hub up: who holds an older \
         backup and the old key can still read what was in it",
    );
    let object = serde_json::to_value(&purged).expect("an answer always serialises");
    let lines = [
        ("org_id", purged.org_id.to_string()),
        ("name", purged.name),
        ("agents", purged.agents.to_string()),
        ("sessions", purged.sessions.to_string()),
        ("master key", purged.master_key),
        ("file", purged.file.display().to_string()),
        ("at", purged.at.to_string()),
    ];
    output::print_object(format, &object, &lines)?;
    Ok(Exit::Ok)
}
