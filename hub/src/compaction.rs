//! Compaction: files that hold little for their size are written together.
//!
//! By itself where retention has made a file mostly free, or by `zero-x-hub compact`. One file at a
//! time; what its agents send meanwhile waits for it, and other organisations notice nothing.

use jiff::Timestamp;
use protocol::ids::OrgId;
use serde_json::{Value, json};
use store::error::{ApplianceError, ReadError};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{Compacted, OrgStore, Store, Usage};
use tracing::{info, warn};

/// From which size on a file is worth it, in bytes: below, the system gains next to nothing.
const WORTH_BYTES: u64 = 64 << 20;

/// Says whether a file holds so little that it is compacted unasked: more than half of it is free. A
/// file grows by doubling, so less would be written together again and again.
fn is_fragmented(usage: Usage) -> bool {
    usage.file_bytes >= WORTH_BYTES && usage.live_bytes < usage.file_bytes / 2
}

/// Compacts an organisation's file if it is mostly free. A failure is left for the next time.
pub(crate) async fn if_fragmented(store: &OrgStore) {
    let org = store.org();
    match store.usage().await {
        Ok(Some(usage)) if is_fragmented(usage) => {}
        Ok(_) => return,
        Err(error) => {
            warn!(%org, %error, "an organisation's file could not be measured");
            return;
        }
    }
    match store.compact().await {
        Ok(Some(Compacted {
            before_bytes,
            after_bytes,
        })) => info!(%org, before_bytes, after_bytes, "a file that was mostly free was compacted"),
        Ok(None) => info!(%org, "a file is in use for too long to be compacted"),
        Err(error) => warn!(%org, %error, "a file could not be compacted"),
    }
}

/// Why nothing was compacted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactError {
    /// There is no such organisation.
    #[error("there is no organisation {0}")]
    Missing(OrgId),
    /// The organisations cannot be listed.
    #[error("the organisations cannot be listed")]
    Read(#[from] ReadError),
}

impl crate::failure::Explain for CompactError {
    fn exit(&self) -> crate::failure::Exit {
        match self {
            Self::Missing(_) => crate::failure::Exit::Usage,
            Self::Read(error) => error.exit(),
        }
    }
}

/// Compacts one organisation's file, or all of them; a row says what came of each.
///
/// # Errors
/// When there is no such organisation. One whose file cannot be compacted is a row.
pub(crate) async fn compact(
    store: &Store,
    only: Option<OrgId>,
    at: Timestamp,
) -> Result<Vec<Value>, CompactError> {
    let orgs = store.appliance().orgs().await?;
    let mut rows = Vec::new();
    for org in orgs {
        if only.is_some_and(|only| only != org.id) {
            continue;
        }
        let (result, sizes) = match one(store, org.id, at).await {
            Ok(Some(sizes)) => ("compacted".to_owned(), Some(sizes)),
            Ok(None) => ("in use for too long; try again".to_owned(), None),
            Err(error) => (crate::failure::chain(&error).join(": "), None),
        };
        rows.push(json!({
            "org": org.id,
            "name": org.name,
            "before_bytes": sizes.map(|sizes| sizes.before_bytes),
            "after_bytes": sizes.map(|sizes| sizes.after_bytes),
            "result": result,
        }));
    }
    match only {
        Some(org) if rows.is_empty() => Err(CompactError::Missing(org)),
        Some(_) | None => Ok(rows),
    }
}

async fn one(
    store: &Store,
    org: OrgId,
    at: Timestamp,
) -> Result<Option<Compacted>, ApplianceError> {
    let opened = store.maintenance(org).await;
    let Some(store) = opened.map_err(ApplianceError::Open)? else {
        return Ok(None);
    };
    let Some(sizes) = store.compact().await? else {
        return Ok(None);
    };
    let mut write = store.write();
    let (before, after) = (sizes.before_bytes, sizes.after_bytes);
    write.audit(AuditAct {
        at,
        actor: Actor::Local,
        action: "store.compact".to_owned(),
        object: org.to_string(),
        detail: format!("{after} bytes instead of {before}"),
    });
    if let Err(error) = write.commit().await {
        warn!(%org, %error, "a compaction could not be recorded");
    }
    Ok(Some(sizes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_compacted_unasked_when_it_is_large_and_mostly_free() {
        let of = |file_bytes: u64, live_bytes: u64| {
            is_fragmented(Usage {
                file_bytes: file_bytes << 20,
                live_bytes: live_bytes << 20,
            })
        };
        assert!(of(64, 31) && of(1000, 0));
        assert!(!of(64, 32) && !of(63, 0) && !of(1000, 600));
    }
}
