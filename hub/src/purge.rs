//! An organisation is purged: its sessions end, its keys are destroyed, its rows and its file go.

use std::path::PathBuf;

use jiff::Timestamp;
use protocol::ids::OrgId;
use protocol::session::CloseCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use store::error::{KeyError, ReadError};
use store::{KeyStep, Store};
use tracing::info;

use crate::failure::{Exit, Explain};
use crate::keys;
use crate::live::{Changed, EndSession, Live, What};

/// Why an organisation was not purged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PurgeError {
    /// What was typed is not its name.
    #[error("the organisation's name is {name:?}, not {typed:?}; nothing was changed")]
    OtherName {
        /// Its name.
        name: String,
        /// What was typed.
        typed: String,
    },
    /// Its keys were not destroyed, or not to the end.
    #[error("the organisation could not be purged")]
    Key(#[from] KeyError),
    /// The hub's own rows cannot be read.
    #[error("the hub's own rows cannot be read")]
    Read(#[from] ReadError),
}

impl Explain for PurgeError {
    fn exit(&self) -> Exit {
        match self {
            Self::OtherName { .. } => Exit::Usage,
            Self::Key(error) => error.exit(),
            Self::Read(error) => error.exit(),
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::OtherName { .. } => Some("type the name with --confirm as it is".to_owned()),
            Self::Key(error) => error.fix(),
            Self::Read(error) => error.fix(),
        }
    }
}

/// What a purge came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purged {
    pub(crate) org_id: OrgId,
    pub(crate) name: String,
    /// Agents that are on no list any more.
    pub(crate) agents: usize,
    /// Sessions of them that were ended.
    pub(crate) sessions: usize,
    /// Public name of the new master key.
    pub(crate) master_key: String,
    /// Where it is; the ledger lies beside it.
    pub(crate) file: PathBuf,
    pub(crate) at: Timestamp,
}

/// Purges the organisation of an id or a name; `confirm` must be its name. `live` holds its agents'
/// sessions where the hub runs.
///
/// # Errors
/// When nothing was changed; or when it is decided, and the next start ends it.
pub(crate) async fn purge(
    store: &Store,
    live: Option<&Live>,
    org: &str,
    confirm: &str,
    at: Timestamp,
) -> Result<Purged, PurgeError> {
    let appliance = store.appliance();
    let id = keys::org_named(store, org).await?;
    let known = appliance.org(id).await?.ok_or(KeyError::NoOrg)?;
    if known.name != confirm {
        return Err(PurgeError::OtherName {
            name: known.name,
            typed: confirm.to_owned(),
        });
    }
    let mut agents = appliance.agents().await?;
    agents.retain(|agent| agent.org == id);
    let told = |step: KeyStep| info!(?step, "an organisation is being purged");
    let purged = store.purge_org(id, at, Arc::new(told)).await;
    // Also where the purge waits for the next start: its store is closed by then.
    let is_there = appliance.org(id).await?.is_some();
    let mut sessions = 0;
    if let Some(live) = live.filter(|_| purged.is_ok() || !is_there) {
        for agent in &agents {
            let why = EndSession {
                code: CloseCode::Revoked,
                reason: "the organisation of this agent was deleted".to_owned(),
            };
            sessions += usize::from(live.end(agent.id, why));
        }
        live.tell(Changed {
            org: id,
            what: What::Agents,
        });
    }
    let purged = purged?;
    info!(org = %id, agents = agents.len(), "an organisation was purged");
    Ok(Purged {
        org_id: id,
        name: known.name,
        agents: agents.len(),
        sessions,
        master_key: purged.after,
        file: purged.file,
        at,
    })
}
