//! The appliance's rows: organisations, people, agents, tokens, sessions.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use protocol::enroll::Pin;
use protocol::ids::{AgentId, OrgId, SessionId, TokenId, UserId};
use serde::{Deserialize, Serialize};

use super::{AgentState, Role, at, maybe_at};

/// An organisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Org {
    /// Id.
    pub id: OrgId,
    /// Display name, unique without regard to case.
    pub name: String,
    /// When it was made.
    #[serde(with = "at")]
    pub created_at: Timestamp,
}

/// A person who may sign in.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// E-mail address, lower case, unique.
    pub email: String,
    /// Argon2 hash in its text form; made and checked by the API.
    pub password_hash: String,
    /// Role per organisation.
    pub roles: BTreeMap<OrgId, Role>,
    /// Whether the person runs the hub itself. This alone gives access to no data.
    pub hub_admin: bool,
    /// When the account was made.
    #[serde(with = "at")]
    pub created_at: Timestamp,
    /// Whether sign-in is refused.
    pub disabled: bool,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("id", &self.id)
            .field("roles", &self.roles)
            .field("hub_admin", &self.hub_admin)
            .field("disabled", &self.disabled)
            .finish_non_exhaustive()
    }
}

/// A certificate of an agent that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentCertificate {
    /// Serial number, big endian, without leading zeros.
    pub serial: Vec<u8>,
    /// When it ends.
    #[serde(with = "at")]
    pub not_after: Timestamp,
    /// The root that it leads to.
    pub root: Pin,
}

/// An agent on the positive list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Id.
    pub id: AgentId,
    /// The organisation it speaks for.
    pub org: OrgId,
    /// Display name.
    pub name: String,
    /// Its certificates that are in force, the newest last: two from a renewal until the new one
    /// was seen.
    pub certificates: Vec<AgentCertificate>,
    /// Whether it may speak.
    pub state: AgentState,
    /// When it was enrolled.
    #[serde(with = "at")]
    pub enrolled_at: Timestamp,
    /// The token it enrolled with.
    pub token: Option<TokenId>,
    /// Accounts it may speak for; `None` for any.
    pub accounts: Option<Vec<String>>,
    /// Labels, for operators.
    pub labels: BTreeMap<String, String>,
}

impl Agent {
    /// Returns the newest certificate.
    pub fn newest(&self) -> Option<&AgentCertificate> {
        self.certificates.last()
    }
}

/// What an agent last said about itself. Lives with the organisation's data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Which agent.
    pub agent: AgentId,
    /// When the hub last heard from it.
    #[serde(with = "at")]
    pub last_seen: Timestamp,
    /// Its program's version.
    pub version: String,
    /// `quic`, `tcp` or `bundle`.
    pub transport: String,
    /// Bytes waiting in its spool.
    pub spool_bytes: u64,
    /// Time of the oldest record in its spool.
    #[serde(with = "maybe_at")]
    pub spool_oldest: Option<Timestamp>,
    /// Its clock minus the hub's, in milliseconds.
    pub clock_skew_ms: i64,
    /// Batches that were refused since it was enrolled.
    pub refused_batches: u64,
}

/// An agent with what it last said.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// What it last said; `None` before its first session.
    pub status: Option<AgentStatus>,
}

/// An enrolment token. The hub holds only the public half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrolToken {
    /// Id.
    pub id: TokenId,
    /// The organisation that an agent enrolled with it will speak for.
    pub org: OrgId,
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    /// When it ends.
    #[serde(with = "at")]
    pub expires_at: Timestamp,
    /// How many agents may still enrol with it.
    pub uses_left: u32,
    /// The name the agent gets, if bound.
    pub bound_name: Option<String>,
    /// The accounts the agent may speak for, if bound.
    pub bound_accounts: Option<Vec<String>>,
    /// Labels the agent gets.
    pub labels: BTreeMap<String, String>,
    /// Who made it; `None` for the hub's own commands.
    pub made_by: Option<UserId>,
    /// When it was made.
    #[serde(with = "at")]
    pub made_at: Timestamp,
}

/// An agent that enrols: what the hub decided about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrolment {
    /// The agent's new id.
    pub agent: AgentId,
    /// The name it asked for; a name bound to the token wins.
    pub name: String,
    /// Its certificate.
    pub certificate: AgentCertificate,
}

/// A session as the API keeps it: an opaque value that the store seals.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Id.
    pub id: SessionId,
    /// Whose it is, so that all of a person's sessions can be ended.
    pub user: UserId,
    /// When it may be forgotten.
    #[serde(with = "at")]
    pub expires_at: Timestamp,
    /// The API's own encoding.
    pub value: Vec<u8>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
