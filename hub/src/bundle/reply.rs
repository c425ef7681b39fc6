//! Replies: what the hub has taken of an agent, signed, to be carried back.
//!
//! The key that signs belongs to a certificate of the hub's own authority, made for this one
//! reply: the agent checks it as it checks the hub in a handshake.

use jiff::Timestamp;
use protocol::bundle::{BundleError, Envelope, Issued, Reply, ReplyKey};
use protocol::ids::{AgentId, OrgId};
use protocol::wire::v1::HighWater;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde::{Deserialize, Serialize};
use store::error::{CommitError, OpenError, ReadError};
use store::rows::AgentState;
use store::rows::audit::AuditAct;
use store::rows::carried::Carried;
use store::rows::finding::Actor;
use store::{OrgStore, Store};

use super::Importer;
use crate::ca::{self, CaError};
use crate::failure::{Exit, Explain};

/// Says why no reply is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReplyError {
    /// Nothing was imported since the last reply.
    #[error("no bundle waits for a reply")]
    Nobody,
    /// Several agents wait.
    #[error("several agents wait for a reply: {}", list(agents))]
    Several {
        /// Which.
        agents: Vec<AgentId>,
    },
    /// No bundle of this agent ever came.
    #[error("no bundle of the agent {agent} ever came")]
    Unknown {
        /// Which.
        agent: AgentId,
    },
    /// It is revoked.
    #[error("the agent {agent} is revoked")]
    Revoked {
        /// Which.
        agent: AgentId,
    },
    /// The key that signs could not be made.
    #[error("the reply could not be signed")]
    Sign(#[source] CaError),
    /// The key that signs is none.
    #[error("the reply could not be signed")]
    Key,
    /// The reply is no good.
    #[error("the reply could not be written")]
    Write(#[from] BundleError),
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    /// An organisation's store cannot be opened.
    #[error("an organisation's store cannot be opened")]
    Open(#[source] std::sync::Arc<OpenError>),
    /// The store cannot be written.
    #[error("the reply could not be noted")]
    Commit(#[from] CommitError),
    /// The system has no randomness.
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
}

fn list(agents: &[AgentId]) -> String {
    let words: Vec<String> = agents.iter().map(ToString::to_string).collect();
    words.join(", ")
}

impl Explain for ReplyError {
    fn exit(&self) -> Exit {
        match self {
            Self::Several { .. } => Exit::Usage,
            Self::Revoked { .. } => Exit::Forbidden,
            Self::Read(error) => error.exit(),
            Self::Nobody
            | Self::Unknown { .. }
            | Self::Sign(_)
            | Self::Key
            | Self::Write(_)
            | Self::Open(_)
            | Self::Commit(_)
            | Self::Random(_) => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Nobody | Self::Unknown { .. } => Some(
                "import a bundle first; `--agent A` writes the reply for an agent once more"
                    .to_owned(),
            ),
            Self::Several { .. } => Some("say which with --agent".to_owned()),
            Self::Revoked { .. }
            | Self::Sign(_)
            | Self::Key
            | Self::Write(_)
            | Self::Read(_)
            | Self::Open(_)
            | Self::Commit(_)
            | Self::Random(_) => None,
        }
    }
}

/// A reply, ready to be put into a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) org: OrgId,
    pub(crate) agent: AgentId,
    /// The last bundle that it answers; 0 for the answer to an enrolment request.
    pub(crate) bundle: u64,
    /// Bundles that never came.
    pub(crate) missing: Vec<u64>,
    /// Until when the certificate is good that it carries; `None` where it carries none.
    pub(crate) certificate: Option<Timestamp>,
    /// More to know, in clauses.
    pub(crate) notes: Vec<String>,
    /// The file, base64.
    pub(crate) file: String,
}

impl Importer {
    /// Writes the reply for an agent, or for the only one that waits for one.
    ///
    /// # Errors
    ///
    /// See [`ReplyError`].
    pub(crate) async fn reply(
        &self,
        store: &Store,
        agent: Option<AgentId>,
        now: Timestamp,
    ) -> Result<Written, ReplyError> {
        let _turn = self.one_at_a_time.lock().await;
        let (org, mut carried) = find(store, agent).await?;
        let agent = carried.agent;
        let row = self.appliance.agent(agent).await?;
        let row = row.filter(|row| row.state != AgentState::Revoked);
        let row = row.ok_or(ReplyError::Revoked { agent })?;
        let mut notes = Vec::new();
        if let Err(reason) = self.renew(&org, &row, &mut carried, now).await {
            notes.push(format!("no new certificate is in it: {reason}"));
        }
        let high_water = org.high_waters(agent).await?;
        let high_water = high_water.into_iter().map(|(stream, seq)| HighWater {
            lane: stream.lane,
            epoch: stream.epoch,
            seq,
        });
        let issued = (!carried.issued.is_empty()).then(|| Issued {
            chain: carried.issued.clone(),
            roots: self
                .authority
                .roots()
                .iter()
                .map(|der| der.to_vec())
                .collect(),
            bundle_key: *self.secret.public().as_bytes(),
        });
        let reply = Reply {
            hub_epoch: self.epoch,
            last: carried.last(),
            missing: carried.missing.clone(),
            high_water: high_water.collect(),
            resync: carried.resync.clone(),
            issued,
        };
        let leaf = self.authority.issue_hub_leaf(&[], now);
        let leaf = leaf.map_err(ReplyError::Sign)?;
        let PrivateKeyDer::Pkcs8(pkcs8) = &leaf.key else {
            return Err(ReplyError::Key);
        };
        let rng = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pkcs8.secret_pkcs8_der(),
            &rng,
        );
        let key = key.map_err(|_| ReplyError::Key)?;
        let envelope = Envelope {
            org: org.org(),
            agent,
            made_at_ms: now.as_millisecond(),
            chain: leaf.chain.iter().map(|der| der.to_vec()).collect(),
        };
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(ReplyError::Random)?;
        let reply_key = carried.reply_key.map(ReplyKey);
        let file = reply.encode(
            envelope,
            reply_key.as_ref().map(|key| (key, nonce)),
            |message| -> Result<[u8; 64], ReplyError> {
                let signature = key.sign(&rng, message).map_err(|_| ReplyError::Key)?;
                signature.as_ref().try_into().map_err(|_| ReplyError::Key)
            },
        )?;
        let written = Written {
            org: org.org(),
            agent,
            bundle: reply.last.0,
            missing: reply.missing,
            certificate: carried.issued.first().and_then(|leaf| {
                let validity = ca::validity_of(leaf)?;
                Some(validity.until)
            }),
            notes,
            file: data_encoding::BASE64.encode(&file),
        };
        let mut write = org.write();
        write.put_carried(Carried {
            is_unanswered: false,
            // Should the reply get lost: the next sweep that differs asks again.
            resync: Vec::new(),
            ..carried
        });
        write.audit(AuditAct {
            at: now,
            actor: Actor::Local,
            action: "bundle.reply".to_owned(),
            object: agent.to_string(),
            detail: format!("up to bundle {}", written.bundle),
        });
        write.commit().await?;
        Ok(written)
    }
}

/// Finds whom to answer.
async fn find(store: &Store, agent: Option<AgentId>) -> Result<(OrgStore, Carried), ReplyError> {
    let mut waiting = Vec::new();
    for org in store.appliance().orgs().await? {
        let handle = store.maintenance(org.id).await.map_err(ReplyError::Open)?;
        let Some(handle) = handle else { continue };
        for carried in handle.read(|reader| reader.all_carried()).await? {
            let is_wanted = match agent {
                Some(agent) => carried.agent == agent,
                None => carried.is_unanswered,
            };
            if is_wanted {
                waiting.push((handle.clone(), carried));
            }
        }
    }
    match (waiting.pop(), agent) {
        (None, Some(agent)) => Err(ReplyError::Unknown { agent }),
        (None, None) => Err(ReplyError::Nobody),
        (Some(one), _) if waiting.is_empty() => Ok(one),
        (Some(one), _) => {
            waiting.push(one);
            let agents = waiting.iter().map(|(_, carried)| carried.agent);
            Err(ReplyError::Several {
                agents: agents.collect(),
            })
        }
    }
}
