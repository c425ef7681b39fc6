//! `compact`: has files written together, by the running hub, else by this program.

use jiff::Timestamp;
use protocol::ids::OrgId;
use serde_json::Value;

use super::local::told;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::{compaction, opening};

/// Compacts one organisation's file, or all.
///
/// # Errors
/// When there is no such organisation, or the store cannot be opened. A file that could not be
/// compacted is part of the answer, with exit code 1.
pub(super) async fn run(
    config: &Config,
    org: Option<OrgId>,
    format: Format,
) -> Result<Exit, Failure> {
    let rows: Vec<Value> = match admin::ask(&config.data_dir, &Question::Compact { org }).await? {
        Some(answer) => told(answer)?,
        None => {
            let opened = config.clone();
            let store = tokio::task::spawn_blocking(move || opening::open(&opened))
                .await
                .map_err(|error| {
                    Failure::new(Exit::Failed, "cannot open the store").caused_by(&error)
                })??;
            let rows = compaction::compact(&store, org, Timestamp::now()).await;
            store.close().await;
            rows?
        }
    };
    let columns = &["org", "name", "before_bytes", "after_bytes", "result"];
    output::print_list(format, columns, &rows)?;
    let is_done = |row: &Value| row.get("result").and_then(Value::as_str) == Some("compacted");
    Ok(if rows.iter().all(is_done) {
        Exit::Ok
    } else {
        Exit::Failed
    })
}
