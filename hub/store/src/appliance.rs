//! The hub's own store: organisations, people, agents, tokens, sessions, keys.

use jiff::Timestamp;
use protocol::ids::{AgentId, OrgId, SessionId, TokenId, UserId};
use zeroize::Zeroizing;

use crate::error::{AdmitAgentError, AdmitUserError, ApplianceError, ReadError};
use crate::org::{Administration, OrgStore};
use crate::rows::access::{Agent, EnrolToken, Enrolment, Org, Session, User};
use crate::rows::{AgentState, Role};

/// The hub's own store. It opens no organisation except through an admission.
#[derive(Debug, Clone)]
pub struct Appliance {
    _private: (),
}

/// Who a peer is, as its verified certificate says. Only code that has verified one should make
/// this; the positive list is asked all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// From the certificate's SPIFFE id.
    pub org: OrgId,
    /// From the certificate's SPIFFE id.
    pub agent: AgentId,
    /// The certificate's serial number, big endian; leading zeros are ignored.
    pub serial: Vec<u8>,
}

/// An admitted agent.
#[derive(Debug, Clone)]
pub struct AdmittedAgent {
    /// The store of its organisation.
    pub store: OrgStore,
    /// Its row on the positive list.
    pub agent: Agent,
}

/// A user admitted to an organisation.
#[derive(Debug, Clone)]
pub struct Member {
    /// The store of the organisation.
    pub store: OrgStore,
    /// What the user may do in it.
    pub role: Role,
}

/// A session with the version that a rotation must name.
#[derive(Debug, Clone)]
pub struct VersionedSession {
    /// The session.
    pub session: Session,
    /// Changes with every write of it.
    pub version: u64,
}

macro_rules! todo_async {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {
        impl Appliance {$(
            $(#[$doc])*
            pub async fn $name(&self, $($arg: $kind),*) -> $out { $(let _ = $arg;)* todo!() }
        )*}
    };
}
todo_async! {
    /// Admits an agent to its organisation's store.
    fn admit_agent(identity: &AgentIdentity) -> Result<AdmittedAgent, AdmitAgentError>;
    /// Admits a user to an organisation's store, with the user's role in it.
    fn admit_user(user: UserId, org: OrgId) -> Result<Member, AdmitUserError>;
    /// Admits a hub administrator to an organisation's enrolment, and to none of its data.
    fn admit_administrator(user: UserId, org: OrgId) -> Result<Administration, AdmitUserError>;
    /// Makes an organisation with a key of its own and an empty store.
    fn create_org(name: &str, at: Timestamp) -> Result<Org, ApplianceError>;
    /// Returns an organisation's name and date; no data.
    fn org(id: OrgId) -> Result<Option<Org>, ReadError>;
    /// Returns every organisation's name and date, by name; no data.
    fn orgs() -> Result<Vec<Org>, ReadError>;
    /// Stores a new user. The e-mail address is lower-cased.
    fn create_user(user: User) -> Result<(), ApplianceError>;
    /// Changes a user.
    fn update_user(
        id: UserId, change: impl Fn(&mut User) + Send + Sync + 'static
    ) -> Result<User, ApplianceError>;
    /// Returns a user.
    fn user(id: UserId) -> Result<Option<User>, ReadError>;
    /// Returns the user with an e-mail address, without regard to case.
    fn user_by_email(email: &str) -> Result<Option<User>, ReadError>;
    /// Returns every user, by e-mail address.
    fn users() -> Result<Vec<User>, ReadError>;
    /// Returns an enrolment token, also a spent or expired one.
    fn token(id: TokenId) -> Result<Option<EnrolToken>, ReadError>;
    /// Spends one use of a token and puts the agent on the positive list, in one commit.
    fn redeem_token(
        id: TokenId, enrolment: Enrolment, now: Timestamp
    ) -> Result<Agent, ApplianceError>;
    /// Returns an agent's row on the positive list.
    fn agent(id: AgentId) -> Result<Option<Agent>, ReadError>;
    /// Adds the serial number of a renewed certificate; older ones but the last are dropped.
    fn renew_agent(
        id: AgentId, serial: Vec<u8>, not_after: Timestamp
    ) -> Result<Agent, ApplianceError>;
    /// Changes whether an agent may speak, for the hub itself (a cloned identity).
    fn set_agent_state(id: AgentId, state: AgentState) -> Result<(), ApplianceError>;
    /// Stores a new session.
    fn put_session(session: Session) -> Result<(), ApplianceError>;
    /// Returns a session.
    fn session(id: SessionId) -> Result<Option<VersionedSession>, ReadError>;
    /// Replaces a session if it still has that version.
    fn replace_session(session: Session, version: u64) -> Result<(), ApplianceError>;
    /// Removes a session; says whether there was one.
    fn delete_session(id: SessionId) -> Result<bool, ApplianceError>;
    /// Removes every session of a user; returns how many.
    fn delete_sessions_of(user: UserId) -> Result<u64, ApplianceError>;
    /// Removes every session that ended before `now`; returns how many.
    fn expire_sessions(now: Timestamp) -> Result<u64, ApplianceError>;
    /// Returns one of the hub's own keys or settings.
    fn secret(name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError>;
    /// Stores one of the hub's own keys or settings.
    fn put_secret(name: &str, value: Zeroizing<Vec<u8>>) -> Result<(), ApplianceError>;
    /// Returns one of the hub's own keys; stores `fresh` as it where there is none.
    fn secret_or(
        name: &str, fresh: Zeroizing<Vec<u8>>
    ) -> Result<Zeroizing<Vec<u8>>, ApplianceError>;
}
