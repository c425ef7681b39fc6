//! The replacement of the hub's certificate authority, step by step.
//!
//! ```text
//! what is stored ─▶ next stage ─▶ is anybody shut out? ─▶ one durable commit ─▶ audit logs
//!                                                             │ the running hub
//!                                                             ▼
//!                              authority at work ─▶ the hub's certificate ─▶ every session tells
//! ```
//! A step is stored before it takes effect, whole, in one commit: a hub that is cut off at any point
//! starts in the stage before or in the stage after, and both are good. The audit logs are written
//! behind the step; what a crash kept from them is written at the next start.

use std::sync::Arc;

use jiff::Timestamp;
use protocol::enroll::Pin;
use protocol::ids::{AgentId, OrgId};
use serde::{Deserialize, Serialize};
use store::Store;
use store::error::{ApplianceError, ReadError};
use store::rows::AgentState;
use store::rows::access::Agent;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::ca::{Authority, CaCertificate, CaError, Material, Step, Validity};
use crate::failure::{Exit, Explain};
use crate::identity::{self, IdentityError};
use crate::tls::{CurrentLeaf, TlsError};

/// Agents that are named in a refusal.
const NAMED: usize = 5;

/// Agents that are listed in a status.
const LISTED: usize = 100;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RotateError {
    /// The authority cannot take it.
    #[error("the certificate authority was not changed")]
    Ca(#[from] CaError),
    /// The hub's keys cannot be used.
    #[error("the certificate authority was not changed")]
    Identity(#[from] IdentityError),
    /// The agents cannot be read.
    #[error("the agents cannot be read")]
    Read(#[from] ReadError),
    /// The step cannot be stored.
    #[error("the step cannot be stored")]
    Write(#[from] ApplianceError),
    /// The step is taken, and the hub still shows its certificate of before.
    #[error("the step is taken, but the hub's own certificate could not be made anew yet")]
    Leaf(#[from] TlsError),
    /// Agents still hold certificates of the old authority.
    #[error(
        "{} still {} a certificate of the authority that is to go: {}",
        agents_in_words(*count),
        if *count == 1 { "holds" } else { "hold" },
        names.join(", ")
    )]
    Behind {
        /// How many.
        count: u64,
        /// The first of them.
        names: Vec<String>,
    },
    /// The operator named another number.
    #[error("{} would be shut out, not {asked}: {}", agents_in_words(*count), names.join(", "))]
    Miscounted {
        /// How many.
        count: u64,
        /// The first of them.
        names: Vec<String>,
        /// What was named.
        asked: u64,
    },
}

/// Returns a number of agents in words.
pub(crate) fn agents_in_words(count: u64) -> String {
    match count {
        1 => "1 agent".to_owned(),
        count => format!("{count} agents"),
    }
}

impl Explain for RotateError {
    fn exit(&self) -> Exit {
        match self {
            Self::Ca(error) => error.exit(),
            Self::Identity(error) => error.exit(),
            Self::Read(error) => error.exit(),
            Self::Leaf(error) => error.exit(),
            Self::Miscounted { .. } => Exit::Usage,
            Self::Write(_) | Self::Behind { .. } => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Ca(error) => error.fix(),
            Self::Identity(error) => error.fix(),
            Self::Behind { count, .. } => Some(format!(
                "nothing has changed; wait until they were connected and have renewed \
                 (`zero-x-hub ca status` lists them), or revoke those that are gone (`zero-x agent \
                 revoke`). `--force {count}` retires it all the same: these agents are shut out and \
                 must enrol again"
            )),
            Self::Miscounted { count, .. } => Some(format!(
                "nothing has changed; look at `zero-x-hub ca status`, and name {count} if these may \
                 be shut out"
            )),
            Self::Leaf(_) => Some("it is tried again every ten minutes, and at a restart".into()),
            Self::Read(_) | Self::Write(_) => None,
        }
    }
}

/// An agent that a step concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) org: OrgId,
    pub(crate) id: AgentId,
    pub(crate) name: String,
    /// When its newest certificate ends.
    pub(crate) not_after: Option<Timestamp>,
}

impl Holder {
    fn of(agent: &Agent) -> Self {
        Self {
            org: agent.org,
            id: agent.id,
            name: agent.name.clone(),
            not_after: agent.newest().map(|newest| newest.not_after),
        }
    }
}

/// A certificate of the authority, with those who live by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) certificate: CaCertificate,
    /// Of a root: agents whose newest certificate leads to it.
    pub(crate) agents: Option<u64>,
}

/// How the authority stands, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CaStatus {
    /// `steady`, `begun` or `issuing`.
    pub(crate) stage: String,
    /// The step that leads on: `begin`, `issue` or `retire`.
    pub(crate) next_step: String,
    /// Of the root that signs.
    pub(crate) ca_pin: String,
    /// Agents that are not revoked.
    pub(crate) agents: u64,
    /// Those that `retire` would shut out.
    pub(crate) agents_behind: u64,
    /// Those that are shut out: their certificates lead to a root that was retired.
    pub(crate) agents_shut_out: u64,
    /// The first of those behind and of those shut out.
    pub(crate) concerned: Vec<Holder>,
    pub(crate) certificates: Vec<Listed>,
}

/// Returns every agent that is not revoked, of all organisations.
async fn agents(store: &Store) -> Result<Vec<Agent>, ReadError> {
    let agents = store.appliance().agents().await?;
    let lives = |agent: &Agent| agent.state != AgentState::Revoked;
    Ok(agents.into_iter().filter(lives).collect())
}

/// Says whether an agent would be shut out if a root were retired. One that was given a certificate
/// of another root and never showed it may not have it.
fn is_behind(agent: &Agent, root: Option<Pin>) -> bool {
    let mut held = agent.certificates.iter();
    held.any(|certificate| Some(certificate.root) == root)
}

/// Says whether an agent is shut out where these roots are trusted.
fn is_shut_out(agent: &Agent, trusted: &[Pin]) -> bool {
    let mut held = agent.certificates.iter();
    !held.any(|certificate| trusted.contains(&certificate.root))
}

/// Takes a step, durably. Retiring shuts out agents only where `force` is their number.
///
/// # Errors
///
/// Why it was not taken; nothing has changed then.
async fn take(
    store: &Store,
    step: Step,
    force: Option<u64>,
    now: Timestamp,
) -> Result<Material, RotateError> {
    let appliance = store.appliance();
    let mut material = identity::material(&appliance).await?;
    let mut behind = Vec::new();
    if step == Step::Retire {
        let previous = material.previous_pin()?;
        behind = agents(store).await?;
        behind.retain(|agent| is_behind(agent, previous));
    }
    let count = u64::try_from(behind.len()).unwrap_or(u64::MAX);
    material.advance(step, count, now)?;
    let names = behind.iter().take(NAMED);
    let mut names: Vec<String> = names
        .map(|agent| format!("{} ({})", agent.name, agent.id))
        .collect();
    if behind.len() > NAMED {
        names.push("…".to_owned());
    }
    match force {
        None if count > 0 => return Err(RotateError::Behind { count, names }),
        Some(asked) if asked != count => {
            return Err(RotateError::Miscounted {
                count,
                names,
                asked,
            });
        }
        None | Some(_) => {}
    }
    // What is stored must load.
    Authority::load(&material)?;
    identity::put_material(&appliance, &material).await?;
    info!(
        step = step.word(),
        shut_out = count,
        "the certificate authority has changed"
    );
    Ok(material)
}

/// Writes the last step to the audit log of every organisation, unless that was done. A crash in
/// between may leave it twice in some.
///
/// # Errors
///
/// When the hub's own store cannot be read or written.
pub(crate) async fn audit(store: &Store) -> Result<(), RotateError> {
    let appliance = store.appliance();
    let material = identity::material(&appliance).await?;
    let Some(taken) = material.taken() else {
        return Ok(());
    };
    if identity::audited_step(&appliance).await? >= taken.number {
        return Ok(());
    }
    let at = Timestamp::from_second(taken.at_second).unwrap_or(Timestamp::UNIX_EPOCH);
    let detail = material.describe()?;
    for org in appliance.orgs().await? {
        let written = async {
            let Some(store) = store.maintenance(org.id).await? else {
                return Ok(());
            };
            let mut write = store.write();
            write.audit(AuditAct {
                at,
                actor: Actor::Local,
                action: format!("ca.{}", taken.step.word()),
                object: "hub".to_owned(),
                detail: detail.clone(),
            });
            write.commit().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        };
        // An organisation whose store is out of order holds up no other.
        if let Err(error) = written.await {
            warn!(org = %org.id, error = &*error, "a step of the rotation could not be audited");
        }
    }
    identity::note_audited_step(&appliance, taken.number).await?;
    Ok(())
}

/// Returns how an authority stands.
///
/// # Errors
///
/// When the agents cannot be read.
pub(crate) async fn status(store: &Store, authority: &Authority) -> Result<CaStatus, ReadError> {
    let agents = agents(store).await?;
    let (stage, trusted) = (authority.stage(), authority.pins());
    let previous = authority.previous_pin();
    let behind = || agents.iter().filter(|agent| is_behind(agent, previous));
    let shut_out = || agents.iter().filter(|agent| is_shut_out(agent, &trusted));
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let holds = |agent: &&Agent, pin: &str| {
        let newest = agent.newest();
        newest.is_some_and(|newest| newest.root.to_string() == pin)
    };
    let certificates = authority.certificates().into_iter();
    let certificates = certificates.map(|certificate| {
        let held = agents
            .iter()
            .filter(|agent| holds(agent, &certificate.pin))
            .count();
        let is_root = certificate.what == "root";
        Listed {
            agents: is_root.then(|| number(held)),
            certificate,
        }
    });
    Ok(CaStatus {
        stage: stage.word().to_owned(),
        next_step: stage.next().word().to_owned(),
        ca_pin: authority.pin().to_string(),
        agents: number(agents.len()),
        agents_behind: number(behind().count()),
        agents_shut_out: number(shut_out().count()),
        concerned: behind()
            .chain(shut_out())
            .take(LISTED)
            .map(Holder::of)
            .collect(),
        certificates: certificates.collect(),
    })
}

/// Takes a step in a store that no hub serves.
///
/// # Errors
///
/// Why it was not taken.
pub(crate) async fn step_offline(
    store: &Store,
    step: Step,
    force: Option<u64>,
    now: Timestamp,
) -> Result<CaStatus, RotateError> {
    let material = take(store, step, force, now).await?;
    audit(store).await?;
    Ok(status(store, &Authority::load(&material)?).await?)
}

/// Rotates the authority of the hub that runs.
pub(crate) struct Rotation {
    store: Store,
    authority: Arc<Authority>,
    leaf: Arc<CurrentLeaf>,
    one_at_a_time: Mutex<()>,
}

impl Rotation {
    /// Takes the parts that a step changes.
    pub(crate) fn new(store: Store, authority: Arc<Authority>, leaf: Arc<CurrentLeaf>) -> Self {
        Self {
            store,
            authority,
            leaf,
            one_at_a_time: Mutex::new(()),
        }
    }

    /// Takes a step and goes on with what it has made.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub(crate) async fn step(
        &self,
        step: Step,
        force: Option<u64>,
        now: Timestamp,
    ) -> Result<CaStatus, RotateError> {
        let _turn = self.one_at_a_time.lock().await;
        let taken = take(&self.store, step, force, now).await;
        // Whether or not it was: what is stored is what counts.
        let stored = identity::material(&self.store.appliance()).await?;
        if (stored.stage(), stored.pin()?) != (self.authority.stage(), self.authority.pin()) {
            self.authority.replace(&stored)?;
        }
        taken?;
        audit(&self.store).await?;
        self.leaf.renew_if_due(now)?;
        Ok(self.status().await?)
    }

    /// Returns how the authority stands.
    ///
    /// # Errors
    ///
    /// When the agents cannot be read.
    pub(crate) async fn status(&self) -> Result<CaStatus, ReadError> {
        let mut status = status(&self.store, &self.authority).await?;
        let Validity { from, until } = self.leaf.validity();
        status.certificates.push(Listed {
            certificate: CaCertificate {
                what: "hub".to_owned(),
                role: "shown".to_owned(),
                pin: status.ca_pin.clone(),
                not_before: from,
                not_after: until,
            },
            agents: None,
        });
        Ok(status)
    }
}
