//! `verify`: opens and decodes every row, and follows every audit chain to its signed checkpoints.

use protocol::ids::OrgId;
use serde_json::{Value, json};
use store::error::ReadError;
use store::rows::audit::Checkpoint;
use store::{Inspection, Store};

use super::local::rows_of;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::checkpoints::{is_base_signed, is_signed, verifying_key};
use crate::config::Config;
use crate::failure::{Exit, Failure, chain};
use crate::opening;

/// Verifies the store: through the running hub, else by opening it.
///
/// # Errors
/// When the store cannot be opened at all. Faults in it are the answer, with exit code 65.
pub(super) async fn run(config: &Config, format: Format) -> Result<Exit, Failure> {
    let rows = match admin::ask(&config.data_dir, &Question::Verify).await? {
        Some(answer) => rows_of(answer)?,
        None => {
            let opened = config.clone();
            let store = tokio::task::spawn_blocking(move || opening::open(&opened))
                .await
                .map_err(|error| {
                    Failure::new(Exit::Failed, "cannot open the store").caused_by(&error)
                })??;
            let rows = verify(&store).await?;
            store.close().await;
            rows
        }
    };
    output::print_list(
        format,
        &[
            "org",
            "rows",
            "resources",
            "findings",
            "events",
            "audit_begins",
            "audit_entries",
            "checkpoint",
            "faults",
        ],
        &rows,
    )?;
    let faults: usize = rows
        .iter()
        .filter_map(|row| row.get("faults").and_then(Value::as_array))
        .map(Vec::len)
        .sum();
    if faults > 0 {
        let what = if faults == 1 {
            "a fault in the store".to_owned()
        } else {
            format!("{faults} faults in the store")
        };
        return Err(Failure::new(Exit::Data, what).with_fix(
            "keep the files as they are for an investigation, and restore a backup of the \
             organisations named above",
        ));
    }
    Ok(Exit::Ok)
}

/// Verifies the hub's own rows, then every organisation; a store that does not open is a fault of
/// that organisation.
///
/// # Errors
/// When the list of organisations cannot be read.
pub(crate) async fn verify(store: &Store) -> Result<Vec<Value>, ReadError> {
    let appliance = store.appliance();
    let own = appliance.inspect().await?;
    let mut rows = vec![row("the hub", &own, None)];
    for org in appliance.orgs().await? {
        let (checkpoints, mut faults) = signed_checkpoints(store, org.id).await;
        let Some(mut found) = inspect(store, org.id, &checkpoints).await else {
            continue;
        };
        found.faults.append(&mut faults);
        found.faults.extend(unsigned_base(store, &found).await);
        let last = checkpoints
            .iter()
            .map(|checkpoint| checkpoint.head.seq)
            .max();
        rows.push(row(&org.id.to_string(), &found, last));
    }
    Ok(rows)
}

fn row(whose: &str, found: &Inspection, checkpoint: Option<u64>) -> Value {
    let of = |table: &str| found.tables.get(table).copied().unwrap_or(0);
    json!({
        "org": whose,
        "rows": found.rows,
        "resources": of("resources"),
        "findings": of("findings"),
        "events": found.events,
        // Where retention has cut the log, the hub has signed what it begins from.
        "audit_begins": found.audit_base.as_ref().map_or(1, |base| base.base.head.seq + 1),
        "audit_entries": found.audit_entries,
        "checkpoint": checkpoint,
        "faults": found.faults,
    })
}

/// Says what is wrong with the base of an audit log: without the hub's signature, somebody else has
/// cut the log.
async fn unsigned_base(store: &Store, found: &Inspection) -> Option<String> {
    let base = found.audit_base.as_ref()?;
    let seq = base.base.head.seq;
    match verifying_key(&store.appliance()).await {
        Ok(Some(key)) if is_base_signed(base, &key) => None,
        Ok(_) => Some(format!(
            "audit: it begins behind entry {seq}, which the hub has not signed"
        )),
        Err(error) => Some(format!("audit: its base: {}", chain(&error).join(": "))),
    }
}

/// Returns the checkpoints of an organisation that the hub has signed, and what is wrong with others.
async fn signed_checkpoints(store: &Store, org: OrgId) -> (Vec<Checkpoint>, Vec<String>) {
    let appliance = store.appliance();
    let read = async {
        Ok((
            verifying_key(&appliance).await?,
            appliance.checkpoints(org).await?,
        ))
    };
    let (key, known) = match read.await {
        Ok(read) => read,
        Err(error) => {
            let error: ReadError = error;
            return (
                Vec::new(),
                vec![format!("checkpoints: {}", chain(&error).join(": "))],
            );
        }
    };
    let (mut good, mut faults) = (Vec::new(), Vec::new());
    for signed in known {
        let checkpoint = signed.checkpoint;
        let is_ours = key.as_ref().is_some_and(|key| is_signed(&signed, key));
        if is_ours && checkpoint.org == org {
            good.push(checkpoint);
        } else if faults.is_empty() {
            let at = checkpoint.at;
            faults.push(format!(
                "the checkpoint of {at} does not bear the hub's signature"
            ));
        }
    }
    (good, faults)
}

async fn inspect(store: &Store, org: OrgId, checkpoints: &[Checkpoint]) -> Option<Inspection> {
    let faulty = |fault: String| Inspection {
        faults: vec![fault],
        ..Inspection::default()
    };
    let handle = match store.maintenance(org).await {
        Ok(handle) => handle?,
        Err(error) => return Some(faulty(chain(&*error).join(": "))),
    };
    let checkpoints = checkpoints.to_vec();
    match handle
        .read(move |reader| Ok(reader.inspect(&checkpoints)))
        .await
    {
        Ok(found) => Some(found),
        Err(error) => Some(faulty(chain(&error).join(": "))),
    }
}
