//! `verify`: reads every row of every organisation and follows every audit chain.

use protocol::ids::OrgId;
use serde_json::{Value, json};
use store::error::ReadError;
use store::rows::audit::AuditHead;
use store::{OrgReader, Store};

use super::local::rows_of;
use super::output::{self, Format};
use crate::admin::{self, Question};
use crate::config::Config;
use crate::failure::{Exit, Failure, chain};
use crate::opening;

/// Rows of verdicts that are held at a time.
const PAGE: usize = 1000;

/// What one organisation's store holds, and what is wrong with it.
#[derive(Debug)]
struct Verified {
    resources: u64,
    findings: u64,
    audit_entries: u64,
    faults: Vec<String>,
}

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
        &["org", "resources", "findings", "audit_entries", "faults"],
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

/// Verifies every organisation; a store that does not open is a fault of that organisation.
///
/// # Errors
/// When the list of organisations cannot be read.
pub(crate) async fn verify(store: &Store) -> Result<Vec<Value>, ReadError> {
    let mut rows = Vec::new();
    for org in store.appliance().orgs().await? {
        let Some(found) = verify_org(store, org.id).await else {
            continue;
        };
        rows.push(json!({
            "org": org.id,
            "resources": found.resources,
            "findings": found.findings,
            "audit_entries": found.audit_entries,
            "faults": found.faults,
        }));
    }
    Ok(rows)
}

async fn verify_org(store: &Store, org: OrgId) -> Option<Verified> {
    let handle = match store.maintenance(org).await {
        Ok(handle) => handle?,
        Err(error) => return Some(faulty(chain(&*error).join(": "))),
    };
    match handle.read(|reader| Ok(read_all(reader))).await {
        Ok(found) => Some(found),
        Err(error) => Some(faulty(chain(&error).join(": "))),
    }
}

fn faulty(fault: String) -> Verified {
    Verified {
        resources: 0,
        findings: 0,
        audit_entries: 0,
        faults: vec![fault],
    }
}

/// Reads one organisation. A row that does not open ends the reading of its table alone.
fn read_all(reader: &OrgReader) -> Verified {
    let mut found = Verified {
        resources: 0,
        findings: 0,
        audit_entries: 0,
        faults: Vec::new(),
    };
    let mut resources = 0;
    let read = reader.each_resource(&mut |_| {
        resources += 1;
        true
    });
    note(&mut found.faults, "resources", read);
    found.resources = resources;

    let mut findings = 0;
    let read = reader.each_finding(&mut |_| {
        findings += 1;
        true
    });
    note(&mut found.faults, "findings", read);
    found.findings = findings;

    let mut after = None;
    loop {
        match reader.scan_verdicts(after.as_deref(), PAGE) {
            Ok(page) => match page.next {
                Some(next) => after = Some(next),
                None => break,
            },
            Err(error) => {
                note(&mut found.faults, "verdicts", Err(error));
                break;
            }
        }
    }
    note(&mut found.faults, "scopes", reader.scopes().map(drop));
    note(&mut found.faults, "sources", reader.sources().map(drop));
    match reader.verify_audit() {
        Ok(Ok(AuditHead { seq, .. })) => found.audit_entries = seq,
        Ok(Err(fault)) => found
            .faults
            .push(format!("audit entry {}: {}", fault.seq, fault.reason)),
        Err(error) => note(&mut found.faults, "audit", Err(error)),
    }
    found
}

fn note(faults: &mut Vec<String>, what: &str, read: Result<(), ReadError>) {
    if let Err(error) = read {
        faults.push(format!("{what}: {}", chain(&error).join(": ")));
    }
}
