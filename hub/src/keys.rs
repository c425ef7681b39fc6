//! The keys that the data is sealed under: their rotation, and how they stand.
//!
//! ```text
//! key rotate          a new master key ─▶ every keyring wrapped anew (one commit) ─▶ key file ─▶ audit logs
//! key rotate --org    a new data key ─▶ audit log ─▶ rows sealed anew in the background ─▶ the old one goes
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::OrgId;
use serde::{Deserialize, Serialize};
use store::error::KeyError;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{KeyStep, NewKeyPlace, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long after a failure rows are sealed anew again, unless a rotation wakes it before.
const AGAIN: Duration = Duration::from_secs(600);

/// Whose data key is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyOwner {
    /// The hub's own rows.
    Appliance,
    /// An organisation, by its id or its name.
    Org(String),
}

/// What a rotation of the master key came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MasterKeyChanged {
    /// Public name of the key that opens nothing any more.
    pub(crate) before: String,
    /// Public name of the key in use.
    pub(crate) master_key: String,
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Organisations whose keyrings were wrapped anew.
    pub(crate) organisations: usize,
}

/// The data keys of one owner, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataKeyStatus {
    /// `the hub`, or an organisation's id.
    pub(crate) org: String,
    /// The number of the key that new rows are sealed under.
    pub(crate) data_key: u8,
    /// Older keys that rows may still be sealed under.
    pub(crate) older_keys: usize,
    /// Rows that were sealed anew since the newest was added; 0 once all are.
    pub(crate) rows_resealed: u64,
}

/// Returns how the keys stand: the hub's own first.
///
/// # Errors
/// When the hub's own rows cannot be read.
pub(crate) async fn status(store: &Store) -> Result<Vec<DataKeyStatus>, KeyError> {
    let all = store.data_keys().await?.into_iter();
    let shown = all.map(|keys| DataKeyStatus {
        org: keys
            .org
            .map_or_else(|| "the hub".to_owned(), |org| org.to_string()),
        data_key: keys.newest,
        older_keys: keys.keys.saturating_sub(1),
        rows_resealed: keys.resealed,
    });
    Ok(shown.collect())
}

/// Exchanges the master key, and says so in the audit log of every organisation.
///
/// # Errors
/// When it was not exchanged, or the key file could not be replaced.
pub(crate) async fn rotate_master(
    store: &Store,
    file: Option<PathBuf>,
    at: Timestamp,
) -> Result<MasterKeyChanged, KeyError> {
    let place = file.map_or(NewKeyPlace::KeyFile, NewKeyPlace::File);
    let told = |step: KeyStep| info!(?step, "the master key is being exchanged");
    let rotated = store.rotate_master_key(place, Arc::new(told)).await?;
    let detail = format!("from {} to {}", rotated.before, rotated.after);
    for org in store.appliance().orgs().await? {
        audit(store, org.id, "key.master", &detail, at).await;
    }
    Ok(MasterKeyChanged {
        before: rotated.before,
        master_key: rotated.after,
        file: rotated.file,
        organisations: rotated.organisations,
    })
}

/// Gives an owner another data key. Its rows are not sealed anew yet.
///
/// # Errors
/// Nothing has changed then.
pub(crate) async fn add_data_key(
    store: &Store,
    owner: &KeyOwner,
    at: Timestamp,
) -> Result<DataKeyStatus, KeyError> {
    let org = find(store, owner).await?;
    let number = store.add_data_key(org).await?;
    info!(org = ?org, number, "rows are sealed under another data key");
    if let Some(org) = org {
        audit(store, org, "key.rotate", &format!("data key {number}"), at).await;
    }
    let wanted = org.map_or_else(|| "the hub".to_owned(), |org| org.to_string());
    let all = status(store).await?;
    let found = all.into_iter().find(|keys| keys.org == wanted);
    found.ok_or(KeyError::NoOrg)
}

/// Seals the rows of an owner anew, to the end, on a store that no hub serves.
///
/// # Errors
/// Every row stays readable; the next call goes on.
pub(crate) async fn reseal_now(store: &Store, owner: &KeyOwner) -> Result<u64, KeyError> {
    let org = find(store, owner).await?;
    Ok(store.reseal(org, false).await?.rows)
}

/// Returns the organisation that is meant; `None` for the hub's own rows.
async fn find(store: &Store, owner: &KeyOwner) -> Result<Option<OrgId>, KeyError> {
    match owner {
        KeyOwner::Appliance => Ok(None),
        KeyOwner::Org(named) => org_named(store, named).await.map(Some),
    }
}

/// Returns the organisation of an id or a name.
///
/// # Errors
/// When there is none.
pub(crate) async fn org_named(store: &Store, named: &str) -> Result<OrgId, KeyError> {
    let id: Option<OrgId> = named.parse().ok();
    let wanted = named.to_lowercase();
    let orgs = store.appliance().orgs().await?;
    let found = orgs
        .into_iter()
        .find(|org| Some(org.id) == id || org.name.to_lowercase() == wanted);
    found.map(|org| org.id).ok_or(KeyError::NoOrg)
}

/// Says what was done in an organisation's audit log. What is done is not undone for a log that
/// cannot be written.
pub(crate) async fn audit(store: &Store, org: OrgId, action: &str, detail: &str, at: Timestamp) {
    let written = async {
        let Some(store) = store.maintenance(org).await? else {
            return Ok(());
        };
        let mut write = store.write();
        write.audit(AuditAct {
            at,
            actor: Actor::Local,
            action: action.to_owned(),
            object: "hub".to_owned(),
            detail: detail.to_owned(),
        });
        write.commit().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    if let Err(error) = written.await {
        warn!(%org, action, error = &*error, "it could not be audited");
    }
}

/// Seals anew what is sealed under older data keys: one owner after the other, behind all other
/// work. At the start it goes on where the last life of the hub was cut off.
pub(crate) async fn reseal_as_asked(store: Store, asked: Arc<Notify>, stop: CancellationToken) {
    loop {
        let all = tokio::select! {
            // Cut anywhere, no row is lost; the next start goes on.
            () = stop.cancelled() => return,
            all = reseal_all(&store) => all,
        };
        // A wake that came meanwhile is kept.
        tokio::select! {
            () = stop.cancelled() => return,
            () = asked.notified() => {}
            () = tokio::time::sleep(AGAIN), if !all => {}
        }
    }
}

/// Seals everybody's rows anew; says whether nothing is left to do.
async fn reseal_all(store: &Store) -> bool {
    let owners = match store.data_keys().await {
        Ok(owners) => owners,
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "the data keys cannot be read"
            );
            return false;
        }
    };
    let mut all = true;
    for keys in owners.into_iter().filter(|keys| keys.keys > 1) {
        match store.reseal(keys.org, true).await {
            Ok(done) => info!(
                org = ?keys.org,
                rows = done.rows,
                "every row is under the newest data key; the older ones are gone"
            ),
            Err(error) => {
                all = false;
                let error: &dyn std::error::Error = &error;
                warn!(org = ?keys.org, error, "rows could not be sealed anew; it is tried again");
            }
        }
    }
    all
}
