//! The hub's own store: organisations, people, agents, tokens, sessions, keys.

pub(crate) mod desk;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use protocol::ids::{AgentId, OrgId, SessionId, TokenId, UserId};
use zeroize::Zeroizing;

use self::desk::{Desk, NAME_BYTES, StoredOrg, bounded, without_zeros};
use crate::door::Door;
use crate::draft::Draft;
use crate::engine::{Engine, Range, WriteSet};
use crate::error::{AdmitAgentError, AdmitUserError, ApplianceError, ReadError};
use crate::keys::Names;
use crate::org::verify::{Inspection, check_row};
use crate::org::{Administration, OrgStore};
use crate::rows::access::{Agent, AgentCertificate, EnrolToken, Enrolment, Org, Session, User};
use crate::rows::audit::SignedCheckpoint;
use crate::rows::{AgentState, Role};
use crate::seal::Sealer;
use crate::store::{Hub, keyring_key};
use crate::tables::Table;
use crate::view::View;
use crate::writer::Writer;

/// The hub's own store. It opens no organisation except through an admission.
#[derive(Clone)]
pub struct Appliance {
    hub: Arc<Hub>,
}

impl fmt::Debug for Appliance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appliance").finish_non_exhaustive()
    }
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

/// The appliance's open file with what reads and writes it.
pub(crate) struct Shared {
    pub(crate) names: Names,
    pub(crate) sealer: Sealer,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) writer: Writer,
    pub(crate) door: Door,
    pub(crate) is_closed: AtomicBool,
}

/// The appliance's rows as a snapshot shows them.
pub(crate) struct Records<'r> {
    names: &'r Names,
    view: View<'r>,
}

impl Shared {
    /// Makes a change: all or nothing, durable on return.
    pub(crate) async fn change<R: Send + 'static>(
        self: &Arc<Self>,
        mut work: impl FnMut(&mut Desk<'_, '_>) -> Result<R, ApplianceError> + Send + 'static,
    ) -> Result<R, ApplianceError> {
        let shared = Arc::clone(self);
        let turn = self.writer.submit(
            move |group| {
                let drafted = Draft::new(group, &shared.sealer)
                    .map_err(ApplianceError::Read)
                    .and_then(|mut draft| {
                        let names = &shared.names;
                        let done = work(&mut Desk {
                            names,
                            draft: &mut draft,
                        })?;
                        Ok((draft.finish(), done))
                    });
                let (set, done) = match drafted {
                    Ok(drafted) => drafted,
                    Err(ApplianceError::Read(ReadError::Engine(error))) => return Err(error),
                    Err(error) => return Ok(Err(error)),
                };
                if set == WriteSet::default() {
                    return Ok(Ok(done));
                }
                let applied = group.apply(&set)?;
                let refused = |_| ApplianceError::Conflict { what: "a row" };
                Ok(applied.map(|_| done).map_err(refused))
            },
            |_| (),
        );
        turn.await?
    }

    /// Reads on this thread. For blocking threads only.
    pub(crate) fn look<R>(
        &self,
        work: impl FnOnce(&Records<'_>) -> Result<R, ReadError>,
    ) -> Result<R, ReadError> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(ReadError::Closed);
        }
        let (snapshot, sealer) = self.sealer.with(|| self.engine.snapshot())?;
        work(&Records {
            names: &self.names,
            view: View::new(&*snapshot, &sealer),
        })
    }

    /// Reads on a blocking thread.
    pub(crate) async fn ask<R: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Records<'_>) -> Result<R, ReadError> + Send + 'static,
    ) -> Result<R, ReadError> {
        let shared = Arc::clone(self);
        self.door.run(move || shared.look(work)).await
    }

    /// Commits what is queued and closes the file. Blocks.
    pub(crate) fn close(&self) {
        self.writer.close();
        self.is_closed.store(true, Ordering::Release);
        self.engine.close();
    }
}

impl Records<'_> {
    pub(crate) fn org(&self, id: OrgId) -> Result<Option<StoredOrg>, ReadError> {
        self.view.row(Table::Orgs, &self.names.org(id))
    }

    pub(crate) fn is_name_taken(&self, name: &str) -> Result<bool, ReadError> {
        Ok(self
            .view
            .read
            .get(Table::OrgNames, &self.names.org_name(name))?
            .is_some())
    }

    fn user(&self, id: UserId) -> Result<Option<User>, ReadError> {
        self.view.row(Table::Users, &self.names.user(id))
    }

    pub(crate) fn agent_of(&self, org: OrgId, id: AgentId) -> Result<Option<Agent>, ReadError> {
        self.view.row(Table::Agents, &self.names.agent(org, id))
    }

    /// Returns an organisation's agents by name.
    pub(crate) fn agents_of(&self, org: OrgId) -> Result<Vec<Agent>, ReadError> {
        let range = Range::prefix(&self.names.org(org));
        let mut agents: Vec<Agent> = self.view.all(Table::Agents, &range)?;
        agents.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(agents)
    }

    /// Returns an organisation's tokens, newest first.
    pub(crate) fn tokens_of(&self, org: OrgId) -> Result<Vec<EnrolToken>, ReadError> {
        let range = Range::prefix(&self.names.org(org));
        let mut tokens: Vec<EnrolToken> = self.view.all(Table::Tokens, &range)?;
        tokens.sort_by_key(|token| std::cmp::Reverse((token.made_at, token.id)));
        Ok(tokens)
    }

    fn owner_of(&self, key: &[u8]) -> Result<Option<OrgId>, ReadError> {
        self.view.row(Table::Owners, key)
    }
}

impl Appliance {
    pub(crate) fn of(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.hub.shared()
    }

    // -- admissions ----------------------------------------------------------------------------

    /// Admits an agent to its organisation's store. When it shows its newest certificate, the one
    /// before it is in force no longer.
    ///
    /// # Errors
    ///
    /// When it is not on that organisation's positive list with this certificate, or may not
    /// speak.
    pub async fn admit_agent(
        &self,
        identity: &AgentIdentity,
    ) -> Result<AdmittedAgent, AdmitAgentError> {
        let (org, id) = (identity.org, identity.agent);
        let agent = self
            .shared()
            .ask(move |records| records.agent_of(org, id))
            .await?;
        let agent = agent.ok_or(AdmitAgentError::Unknown)?;
        if agent.state == AgentState::Revoked {
            return Err(AdmitAgentError::Revoked);
        }
        let serial = without_zeros(&identity.serial);
        let known = |certificate: &AgentCertificate| certificate.serial == serial;
        if !agent.certificates.iter().any(known) {
            return Err(AdmitAgentError::WrongSerial);
        }
        match agent.state {
            AgentState::Active => {}
            AgentState::Suspended => return Err(AdmitAgentError::Suspended),
            AgentState::Quarantined => return Err(AdmitAgentError::Quarantined),
            AgentState::Revoked => return Err(AdmitAgentError::Revoked),
        }
        let store = self
            .hub
            .open_org(org)
            .await
            .map_err(AdmitAgentError::Open)?;
        let store = store.ok_or(AdmitAgentError::Unknown)?;
        let is_newest = agent.newest().is_some_and(known);
        let agent = if is_newest && agent.certificates.len() > 1 {
            let shown = serial.to_vec();
            let settled = self
                .shared()
                .change(move |desk| desk.settle_agent(org, id, &shown));
            settled.await.map_err(AdmitAgentError::Settle)?
        } else {
            agent
        };
        Ok(AdmittedAgent { store, agent })
    }

    /// Admits a user to an organisation's store, with the user's role in it.
    ///
    /// # Errors
    ///
    /// `NoMembership` alike for an unknown user or organisation, a disabled user and one without
    /// a role: a stranger must not learn which organisations exist.
    pub async fn admit_user(&self, user: UserId, org: OrgId) -> Result<Member, AdmitUserError> {
        let found = self.shared().ask(move |records| records.user(user)).await?;
        let active = found.filter(|user| !user.disabled);
        let role = active.and_then(|user| user.roles.get(&org).copied());
        let role = role.ok_or(AdmitUserError::NoMembership)?;
        let store = self.hub.open_org(org).await.map_err(AdmitUserError::Open)?;
        let store = store.ok_or(AdmitUserError::NoMembership)?;
        Ok(Member { store, role })
    }

    /// Admits a hub administrator to an organisation's enrolment, and to none of its data.
    ///
    /// # Errors
    ///
    /// `NoMembership` alike for an unknown user or organisation, a disabled user and one who does
    /// not run the hub.
    pub async fn admit_administrator(
        &self,
        user: UserId,
        org: OrgId,
    ) -> Result<Administration, AdmitUserError> {
        let found = self.shared().ask(move |records| records.user(user)).await?;
        if !found.is_some_and(|user| user.hub_admin && !user.disabled) {
            return Err(AdmitUserError::NoMembership);
        }
        let store = self.hub.open_org(org).await.map_err(AdmitUserError::Open)?;
        store
            .map(Administration::of)
            .ok_or(AdmitUserError::NoMembership)
    }

    // -- organisations -------------------------------------------------------------------------

    /// Makes an organisation with a key of its own and an empty store.
    ///
    /// # Errors
    ///
    /// `NameTaken`, without regard to case.
    pub async fn create_org(&self, name: &str, at: Timestamp) -> Result<Org, ApplianceError> {
        bounded("the organisation's name", name.len(), NAME_BYTES)?;
        self.hub.create_org(name, at).await
    }

    /// Returns an organisation's name and date; no data.
    pub async fn org(&self, id: OrgId) -> Result<Option<Org>, ReadError> {
        let found = self.shared().ask(move |records| records.org(id)).await?;
        Ok(found.map(|stored| stored.org))
    }

    /// Returns every organisation's name and date, by name; no data.
    pub async fn orgs(&self) -> Result<Vec<Org>, ReadError> {
        let found: Vec<StoredOrg> = self
            .shared()
            .ask(|records| records.view.all(Table::Orgs, &Range::all()))
            .await?;
        let mut orgs: Vec<Org> = found.into_iter().map(|stored| stored.org).collect();
        orgs.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(orgs)
    }

    /// Returns the name and date of those of some organisations that exist; no data.
    pub async fn orgs_among(
        &self,
        ids: impl IntoIterator<Item = OrgId>,
    ) -> Result<Vec<Org>, ReadError> {
        let ids: Vec<OrgId> = ids.into_iter().collect();
        let found = self.shared().ask(move |records| {
            let found = ids.into_iter().map(|id| records.org(id));
            found.filter_map(Result::transpose).collect()
        });
        let found: Vec<StoredOrg> = found.await?;
        Ok(found.into_iter().map(|stored| stored.org).collect())
    }

    // -- users ---------------------------------------------------------------------------------

    /// Stores a new user. The e-mail address is lower-cased.
    ///
    /// # Errors
    ///
    /// `EmailTaken`, without regard to case.
    pub async fn create_user(&self, user: User) -> Result<(), ApplianceError> {
        let user = User {
            email: user.email.to_lowercase(),
            ..user
        };
        self.shared()
            .change(move |desk| desk.create_user(&user))
            .await
    }

    /// Changes a user: `change` edits the row as it stands at that moment. The id and the
    /// e-mail address stay as they are.
    ///
    /// # Errors
    ///
    /// `Missing` when there is no such user.
    pub async fn update_user(
        &self,
        id: UserId,
        change: impl Fn(&mut User) + Send + Sync + 'static,
    ) -> Result<User, ApplianceError> {
        self.shared()
            .change(move |desk| desk.update_user(id, &change))
            .await
    }

    /// Returns a user.
    pub async fn user(&self, id: UserId) -> Result<Option<User>, ReadError> {
        self.shared().ask(move |records| records.user(id)).await
    }

    /// Returns the user with an e-mail address, without regard to case.
    pub async fn user_by_email(&self, email: &str) -> Result<Option<User>, ReadError> {
        let email = email.to_owned();
        let found = self.shared().ask(move |records| {
            let id: Option<UserId> = records
                .view
                .row(Table::Emails, &records.names.email(&email))?;
            id.map_or(Ok(None), |id| records.user(id))
        });
        found.await
    }

    /// Returns every user, by e-mail address.
    pub async fn users(&self) -> Result<Vec<User>, ReadError> {
        let mut users: Vec<User> = self
            .shared()
            .ask(|records| records.view.all(Table::Users, &Range::all()))
            .await?;
        users.sort_by(|a, b| (&a.email, a.id).cmp(&(&b.email, b.id)));
        Ok(users)
    }

    // -- tokens and agents ---------------------------------------------------------------------

    /// Returns an enrolment token, also a spent or expired one.
    pub async fn token(&self, id: TokenId) -> Result<Option<EnrolToken>, ReadError> {
        let found = self.shared().ask(move |records| {
            let owner = records.owner_of(&records.names.token_owner(id))?;
            owner.map_or(Ok(None), |org| {
                records
                    .view
                    .row(Table::Tokens, &records.names.token(org, id))
            })
        });
        found.await
    }

    /// Spends one use of a token and puts the agent on the positive list, in one commit.
    ///
    /// # Errors
    ///
    /// `Token` when it is unknown, expired or used; `Conflict` when the agent's id exists.
    pub async fn redeem_token(
        &self,
        id: TokenId,
        enrolment: Enrolment,
        now: Timestamp,
    ) -> Result<Agent, ApplianceError> {
        self.shared()
            .change(move |desk| desk.redeem_token(id, &enrolment, now))
            .await
    }

    /// Returns an agent's row on the positive list.
    pub async fn agent(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        let found = self.shared().ask(move |records| {
            let owner = records.owner_of(&records.names.agent_owner(id))?;
            owner.map_or(Ok(None), |org| records.agent_of(org, id))
        });
        found.await
    }

    /// Returns every agent on the positive list, of all organisations; no data.
    pub async fn agents(&self) -> Result<Vec<Agent>, ReadError> {
        self.shared()
            .ask(|records| records.view.all(Table::Agents, &Range::all()))
            .await
    }

    /// Puts a renewed certificate on the positive list. The one that the agent showed stays in
    /// force until the new one was seen; every other goes.
    ///
    /// # Errors
    ///
    /// `Missing` when there is no such agent; `Conflict` when it may not speak, or the
    /// certificate it showed is not in force.
    pub async fn renew_agent(
        &self,
        shown: &AgentIdentity,
        fresh: AgentCertificate,
    ) -> Result<Agent, ApplianceError> {
        let shown = shown.clone();
        self.shared()
            .change(move |desk| desk.renew_agent(shown.org, shown.agent, &shown.serial, &fresh))
            .await
    }

    /// Changes whether an agent may speak, for the hub itself (a cloned identity).
    ///
    /// # Errors
    ///
    /// `Missing` when there is no such agent; `Conflict` when it is revoked, which is for good.
    pub async fn set_agent_state(
        &self,
        id: AgentId,
        state: AgentState,
    ) -> Result<(), ApplianceError> {
        let changed = self.shared().change(move |desk| {
            let org = desk.owner_of_agent(id)?;
            desk.set_agent_state(org, id, state)
        });
        changed.await.map(drop)
    }

    // -- sessions ------------------------------------------------------------------------------

    /// Stores a new session.
    ///
    /// # Errors
    ///
    /// `Conflict` when its id exists.
    pub async fn put_session(&self, session: Session) -> Result<(), ApplianceError> {
        self.shared()
            .change(move |desk| desk.put_session(&session))
            .await
    }

    /// Returns a session.
    pub async fn session(&self, id: SessionId) -> Result<Option<VersionedSession>, ReadError> {
        let found = self.shared().ask(move |records| {
            records
                .view
                .versioned(Table::Sessions, &records.names.session(id))
        });
        Ok(found
            .await?
            .map(|(session, version)| VersionedSession { session, version }))
    }

    /// Replaces a session if it still has that version.
    ///
    /// # Errors
    ///
    /// `Conflict` when it has another; of two that rotate the same session one wins. `Missing`
    /// when it was ended meanwhile.
    pub async fn replace_session(
        &self,
        session: Session,
        version: u64,
    ) -> Result<(), ApplianceError> {
        self.shared()
            .change(move |desk| desk.replace_session(&session, version))
            .await
    }

    /// Removes a session; says whether there was one.
    pub async fn delete_session(&self, id: SessionId) -> Result<bool, ApplianceError> {
        self.shared()
            .change(move |desk| desk.delete_session(id))
            .await
    }

    /// Removes every session of a user; returns how many.
    pub async fn delete_sessions_of(&self, user: UserId) -> Result<u64, ApplianceError> {
        self.shared()
            .change(move |desk| desk.delete_sessions(|session| session.user == user))
            .await
    }

    /// Removes every session that ended before `now`; returns how many.
    pub async fn expire_sessions(&self, now: Timestamp) -> Result<u64, ApplianceError> {
        let expired = move |session: &Session| session.expires_at < now;
        self.shared()
            .change(move |desk| desk.delete_sessions(expired))
            .await
    }

    // -- audit ---------------------------------------------------------------------------------

    /// Returns the signed checkpoints of an organisation's audit log, oldest first.
    pub async fn checkpoints(&self, org: OrgId) -> Result<Vec<SignedCheckpoint>, ReadError> {
        let found = self.shared().ask(move |records| {
            let range = Range::prefix(&records.names.org(org));
            records.view.all(Table::Checkpoints, &range)
        });
        found.await
    }

    /// Reads every row of the hub's own store.
    pub async fn inspect(&self) -> Result<Inspection, ReadError> {
        let found = self.shared().ask(|records| {
            let mut found = Inspection::default();
            let View { read, sealer } = records.view;
            for table in Table::APPLIANCE {
                found.table(read, *table, |entry| {
                    // The keyring is what opens the others.
                    if *table == Table::Meta && entry.key == keyring_key() {
                        return Ok(0);
                    }
                    check_row(sealer, *table, entry)
                });
            }
            Ok(found)
        });
        found.await
    }

    // -- secrets -------------------------------------------------------------------------------

    /// Returns one of the hub's own keys or settings.
    pub async fn secret(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, ReadError> {
        let name = name.to_owned();
        let found = self.shared().ask(move |records| {
            let bytes = records
                .view
                .bytes(Table::Secrets, &records.names.secret(&name))?;
            Ok(bytes.map(Zeroizing::new))
        });
        found.await
    }

    /// Stores one of the hub's own keys or settings.
    pub async fn put_secret(
        &self,
        name: &str,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<(), ApplianceError> {
        let name = name.to_owned();
        self.shared()
            .change(move |desk| desk.put_secret(&name, &value))
            .await
    }

    /// Returns one of the hub's own keys; stores `fresh` as it where there is none.
    pub async fn secret_or(
        &self,
        name: &str,
        fresh: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, ApplianceError> {
        let name = name.to_owned();
        self.shared()
            .change(move |desk| desk.secret_or(&name, &fresh))
            .await
    }
}
