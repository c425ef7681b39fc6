//! Every key that was on a hub's host is replaced, after the host was stolen.
//!
//! ```text
//! master key ─▶ data keys ─▶ keys of API sessions and QUIC ─▶ sessions and tokens void
//!   ─▶ certificate authority: begin, issue ─▶ [the hub serves] rows sealed anew, agents renew ─▶ retire
//! ```
//! Each step is durable by itself and can be taken twice, so a command that was cut off is run again.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;
use store::Store;
use store::error::{ApplianceError, KeyError, OpenError, ReadError};
use tracing::info;

use crate::ca::Step;
use crate::failure::{Exit, Explain};
use crate::identity::{self, IdentityError};
use crate::keys::{self, KeyOwner};
use crate::rotation::{self, CaStatus, RotateError, agents_in_words};

/// Why the keys were not replaced, or not all of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RekeyError {
    /// The master key or a data key was not replaced.
    #[error("the keys that the data is sealed under were not all replaced")]
    Key(#[from] KeyError),
    /// The keys of sessions were not replaced.
    #[error("the keys of sessions were not all replaced")]
    Identity(#[from] IdentityError),
    /// Sessions or tokens were not all removed.
    #[error("sessions and tokens were not all made void")]
    Write(#[from] ApplianceError),
    /// The hub's own rows cannot be read.
    #[error("the hub's own rows cannot be read")]
    Read(#[from] ReadError),
    /// An organisation's store cannot be opened.
    #[error("an organisation's store cannot be opened")]
    Open(#[from] std::sync::Arc<OpenError>),
    /// The certificate authority was not replaced.
    #[error("the certificate authority was not replaced")]
    Authority(#[from] RotateError),
}

impl Explain for RekeyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Key(error) => error.exit(),
            Self::Identity(error) => error.exit(),
            Self::Write(error) => error.exit(),
            Self::Read(error) => error.exit(),
            Self::Open(error) => error.exit(),
            Self::Authority(error) => error.exit(),
        }
    }

    fn fix(&self) -> Option<String> {
        let cause = match self {
            Self::Key(error) => error.fix(),
            Self::Identity(error) => error.fix(),
            Self::Write(error) => error.fix(),
            Self::Read(error) => error.fix(),
            Self::Open(error) => error.fix(),
            Self::Authority(error) => error.fix(),
        };
        let again = "do not start the hub; run `zero-x-hub rekey` again once this is mended";
        Some(cause.map_or_else(|| again.to_owned(), |cause| format!("{cause}; {again}")))
    }
}

/// What was replaced, and what is left to do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rekeyed {
    /// Public name of the new master key.
    pub(crate) master_key: String,
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Owners that got another data key: the hub itself and every organisation.
    pub(crate) data_keys: usize,
    /// People whose sessions ended.
    pub(crate) people_signed_out: usize,
    /// Enrolment tokens that are void.
    pub(crate) tokens_void: usize,
    /// Pin of the root that signs from now on.
    pub(crate) ca_pin: String,
    /// Agents, of all organisations.
    pub(crate) agents: u64,
    /// Those that hold no certificate of the new authority yet.
    pub(crate) agents_behind: u64,
    /// What is left to do, one clause each.
    pub(crate) remains: Vec<String>,
}

/// Replaces every key, on a store that no hub serves.
///
/// # Errors
/// Some keys may be replaced then; running it again replaces the others.
pub(crate) async fn rekey(
    store: &Store,
    file: Option<PathBuf>,
    has_own_tls: bool,
    now: Timestamp,
) -> Result<Rekeyed, RekeyError> {
    let master = keys::rotate_master(store, file, now).await?;
    let data_keys = new_data_keys(store, now).await?;
    let appliance = store.appliance();
    identity::renew_session_keys(&appliance).await?;
    let mut people_signed_out = 0;
    for user in appliance.users().await? {
        let ended = appliance.delete_sessions_of(user.id).await?;
        people_signed_out += usize::from(ended > 0);
    }
    let tokens_void = void_tokens(store).await?;
    let (status, was_under_way) = replace_authority(store, now).await?;
    info!(data_keys, tokens_void, "every key was replaced");
    Ok(Rekeyed {
        master_key: master.master_key,
        file: master.file,
        data_keys,
        people_signed_out,
        tokens_void,
        remains: remains(&status, was_under_way, has_own_tls),
        ca_pin: status.ca_pin,
        agents: status.agents,
        agents_behind: status.agents_behind,
    })
}

async fn new_data_keys(store: &Store, now: Timestamp) -> Result<usize, KeyError> {
    let orgs = store.appliance().orgs().await?;
    keys::add_data_key(store, &KeyOwner::Appliance, now).await?;
    for org in &orgs {
        let owner = KeyOwner::Org(org.id.to_string());
        keys::add_data_key(store, &owner, now).await?;
    }
    Ok(orgs.len() + 1)
}

/// Removes every enrolment token; returns how many.
async fn void_tokens(store: &Store) -> Result<usize, RekeyError> {
    let mut void = 0;
    for org in store.appliance().orgs().await? {
        let Some(handle) = store.maintenance(org.id).await? else {
            continue;
        };
        for token in handle.tokens().await? {
            void += usize::from(handle.delete_token(token.id).await?);
        }
    }
    Ok(void)
}

/// Makes another authority that signs from now on. Says whether a replacement was under way.
async fn replace_authority(store: &Store, now: Timestamp) -> Result<(CaStatus, bool), RotateError> {
    let material = identity::material(&store.appliance()).await?;
    let mut step = material.stage().next();
    let was_under_way = step != Step::Begin;
    if step == Step::Begin {
        rotation::step_offline(store, Step::Begin, None, now).await?;
        step = Step::Issue;
    }
    if step == Step::Issue {
        rotation::step_offline(store, Step::Issue, None, now).await?;
    }
    let material = identity::material(&store.appliance()).await?;
    let authority = crate::ca::Authority::load(&material)?;
    Ok((rotation::status(store, &authority).await?, was_under_way))
}

fn remains(status: &CaStatus, was_under_way: bool, has_own_tls: bool) -> Vec<String> {
    let behind = agents_in_words(status.agents_behind);
    let mut left = vec![
        "start the hub: it seals every row anew in the background, and then forgets the old data \
         keys (`zero-x-hub key status`)"
            .to_owned(),
        format!(
            "{behind} of {} still on the old authority: each renews within a minute of connecting. \
             Whoever has the old one can pretend to be this hub until \
             `zero-x-hub ca rotate retire`; take that step as soon as `zero-x-hub ca status` counts \
             nobody as behind",
            status.agents
        ),
        "consoles log in again: `zero-x login --ca-pin` with the new pin".to_owned(),
        "have people choose new passwords: their hashes were on the host".to_owned(),
        "the keys that sign audit logs and open carried bundles stay as they are".to_owned(),
    ];
    if was_under_way {
        left.push(
            "a replacement of the authority was under way already: if it began before the host was \
             stolen, retire the old root and then replace this one too (`zero-x-hub ca rotate begin`)"
                .to_owned(),
        );
    }
    if has_own_tls {
        left.push(
            "get another certificate and key for the API (`tls.cert`, `tls.key`) and have the old \
             one revoked"
                .to_owned(),
        );
    }
    left
}
