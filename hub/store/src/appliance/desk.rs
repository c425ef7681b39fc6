//! Changes of the appliance's rows, each in its turn: what it reads cannot change before it is
//! written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::ids::{AgentId, OrgId, SessionId, TokenId, UserId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::draft::Draft;
use crate::engine::{Holder, Range};
use crate::error::{ApplianceError, ReadError, TokenError};
use crate::keys::Names;
use crate::rows::AgentState;
use crate::rows::access::{Agent, AgentCertificate, EnrolToken, Enrolment, Org, Session, User};
use crate::rows::audit::{CHECKPOINT_DAYS, Checkpoint, SignedCheckpoint};
use crate::seal::{Keyring, Wrap};
use crate::store::{keyring_key, purpose_of};
use crate::tables::Table;

/// Longest name of an organisation, an agent or a secret, in bytes.
pub(super) const NAME_BYTES: usize = 256;

/// Longest e-mail address, in bytes. Source: RFC 5321 section 4.5.3.1.3, a path of 256 octets with
/// its angle brackets.
const EMAIL_BYTES: usize = 254;

/// Longest certificate serial number, in bytes. Source: RFC 5280 section 4.1.2.2.
const SERIAL_BYTES: usize = 20;

/// Largest session or secret, in bytes.
const VALUE_BYTES: usize = 1 << 20;

/// An organisation as stored: with its wrapped keyring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredOrg {
    pub(crate) org: Org,
    pub(crate) keyring: Vec<u8>,
}

/// One change of the appliance's rows.
pub(crate) struct Desk<'d, 'g> {
    pub(super) names: &'d Names,
    pub(super) draft: &'d mut Draft<'g>,
}

impl Desk<'_, '_> {
    // -- organisations -------------------------------------------------------------------------

    pub(crate) fn create_org(&mut self, stored: &StoredOrg) -> Result<(), ApplianceError> {
        let name = self.names.org_name(&stored.org.name);
        if self.draft.exists(Table::OrgNames, &name)? {
            return Err(ApplianceError::NameTaken);
        }
        self.draft.put(Table::OrgNames, name, &stored.org.id);
        self.draft
            .put(Table::Orgs, self.names.org(stored.org.id), stored);
        Ok(())
    }

    /// Takes out everything that names an organisation. Its file is the caller's.
    pub(crate) fn forget_org(&mut self, org: &Org) -> Result<(), ApplianceError> {
        let all = Range::prefix(&self.names.org(org.id));
        let mut owned = Vec::new();
        self.draft.scan(Table::Agents, &all, |_, agent: Agent| {
            owned.push(self.names.agent_owner(agent.id));
        })?;
        self.draft
            .scan(Table::Tokens, &all, |_, token: EnrolToken| {
                owned.push(self.names.token_owner(token.id));
            })?;
        for key in owned {
            self.draft.delete(Table::Owners, key);
        }
        for table in [Table::Agents, Table::Tokens, Table::Checkpoints] {
            self.draft.delete_range(table, all.clone());
        }
        let mut members = Vec::new();
        self.draft
            .scan(Table::Users, &Range::all(), |_, user: User| {
                if user.roles.contains_key(&org.id) {
                    members.push(user);
                }
            })?;
        for mut user in members {
            user.roles.remove(&org.id);
            self.draft
                .put(Table::Users, self.names.user(user.id), &user);
        }
        self.draft
            .delete(Table::OrgNames, self.names.org_name(&org.name));
        self.draft.delete(Table::Orgs, self.names.org(org.id));
        Ok(())
    }

    /// Makes of the rows of a backup those of a hub that begins anew: with these organisations and
    /// keyrings alone, and without what a copy of the file would otherwise let in, sessions and
    /// enrolment tokens. Returns the organisations that were left out.
    pub(crate) fn restored(
        &mut self,
        keyrings: &BTreeMap<OrgId, Vec<u8>>,
    ) -> Result<Vec<OrgId>, ApplianceError> {
        let mut stored: Vec<StoredOrg> = Vec::new();
        self.draft
            .scan(Table::Orgs, &Range::all(), |_, org| stored.push(org))?;
        let mut left_out = Vec::new();
        for before in stored {
            match keyrings.get(&before.org.id) {
                None => {
                    self.forget_org(&before.org)?;
                    left_out.push(before.org.id);
                }
                Some(keyring) if *keyring != before.keyring => {
                    let key = self.names.org(before.org.id);
                    let keyring = keyring.clone();
                    let org = before.org;
                    self.draft
                        .put(Table::Orgs, key, &StoredOrg { org, keyring });
                }
                Some(_) => {}
            }
        }
        self.draft.delete_range(Table::Sessions, Range::all());
        let mut tokens = Vec::new();
        self.draft
            .scan(Table::Tokens, &Range::all(), |_, token: EnrolToken| {
                tokens.push(token.id);
            })?;
        for token in tokens {
            self.draft
                .delete(Table::Owners, self.names.token_owner(token));
        }
        self.draft.delete_range(Table::Tokens, Range::all());
        Ok(left_out)
    }

    // -- keyrings ------------------------------------------------------------------------------

    fn stored_org(&self, org: OrgId) -> Result<StoredOrg, ApplianceError> {
        let stored = self.draft.get(Table::Orgs, &self.names.org(org))?;
        stored.ok_or(ApplianceError::Missing {
            what: "the organisation",
        })
    }

    /// Removes an organisation with its keyring and everything that names it, and wraps every other
    /// keyring under another master key. Without effect on an organisation that is gone.
    pub(crate) fn purge(
        &mut self,
        org: OrgId,
        from: &Wrap,
        to: &Wrap,
    ) -> Result<usize, ApplianceError> {
        let stored: Option<StoredOrg> = self.draft.get(Table::Orgs, &self.names.org(org))?;
        if let Some(stored) = stored {
            self.forget_org(&stored.org)?;
        }
        self.rewrap(from, to)
    }

    /// Wraps every keyring under another master key; returns how many organisations' it were.
    pub(crate) fn rewrap(&mut self, from: &Wrap, to: &Wrap) -> Result<usize, ApplianceError> {
        let mut stored: Vec<StoredOrg> = Vec::new();
        self.draft
            .scan(Table::Orgs, &Range::all(), |_, org| stored.push(org))?;
        self.edit_keyring(Holder::Appliance, from, to, |_| Ok(()))?;
        for org in &stored {
            self.edit_keyring(Holder::Org(org.org.id), from, to, |_| Ok(()))?;
        }
        Ok(stored.len())
    }

    /// Changes a keyring, which was wrapped under `from`, and wraps it under `to`.
    pub(crate) fn edit_keyring(
        &mut self,
        holder: Holder,
        from: &Wrap,
        to: &Wrap,
        edit: impl FnOnce(&mut Keyring) -> Result<(), ApplianceError>,
    ) -> Result<Keyring, ApplianceError> {
        let purpose = purpose_of(holder);
        let broken = || ApplianceError::Keyring {
            whose: match holder {
                Holder::Appliance => "the hub".to_owned(),
                Holder::Org(org) => org.to_string(),
            },
        };
        let open = |wrapped: &[u8]| from.unwrap(&purpose, wrapped).map_err(|_| broken());
        match holder {
            Holder::Appliance => {
                let wrapped = self.draft.plain(Table::Meta, keyring_key())?;
                let mut keyring = open(&wrapped.ok_or_else(broken)?)?;
                edit(&mut keyring)?;
                let wrapped = to.wrap(&purpose, &keyring);
                self.draft
                    .put_plain(Table::Meta, keyring_key().to_vec(), wrapped);
                Ok(keyring)
            }
            Holder::Org(org) => {
                let stored = self.stored_org(org)?;
                let mut keyring = open(&stored.keyring)?;
                edit(&mut keyring)?;
                let stored = StoredOrg {
                    keyring: to.wrap(&purpose, &keyring),
                    ..stored
                };
                self.draft.put(Table::Orgs, self.names.org(org), &stored);
                Ok(keyring)
            }
        }
    }

    // -- users ---------------------------------------------------------------------------------

    pub(super) fn create_user(&mut self, user: &User) -> Result<(), ApplianceError> {
        bounded("the e-mail address", user.email.len(), EMAIL_BYTES)?;
        let email = self.names.email(&user.email);
        if self.draft.exists(Table::Emails, &email)? {
            return Err(ApplianceError::EmailTaken);
        }
        let key = self.names.user(user.id);
        if self.draft.exists(Table::Users, &key)? {
            return Err(ApplianceError::Conflict { what: "the user" });
        }
        self.draft.put(Table::Emails, email, &user.id);
        self.draft.put(Table::Users, key, user);
        Ok(())
    }

    pub(super) fn update_user(
        &mut self,
        id: UserId,
        change: &dyn Fn(&mut User),
    ) -> Result<User, ApplianceError> {
        let key = self.names.user(id);
        let before: Option<User> = self.draft.get(Table::Users, &key)?;
        let before = before.ok_or(ApplianceError::Missing { what: "the user" })?;
        let mut after = before.clone();
        change(&mut after);
        let after = User {
            id: before.id,
            email: before.email,
            ..after
        };
        self.draft.put(Table::Users, key, &after);
        Ok(after)
    }

    // -- tokens and agents ---------------------------------------------------------------------

    pub(crate) fn put_token(&mut self, token: &EnrolToken) -> Result<(), ApplianceError> {
        let owner = self.names.token_owner(token.id);
        if self.draft.exists(Table::Owners, &owner)? {
            return Err(ApplianceError::Conflict { what: "the token" });
        }
        if !self.draft.exists(Table::Orgs, &self.names.org(token.org))? {
            return Err(ApplianceError::Missing {
                what: "the organisation",
            });
        }
        self.draft.put(Table::Owners, owner, &token.org);
        self.draft
            .put(Table::Tokens, self.names.token(token.org, token.id), token);
        Ok(())
    }

    pub(crate) fn delete_token(&mut self, org: OrgId, id: TokenId) -> Result<bool, ApplianceError> {
        let key = self.names.token(org, id);
        let is_there = self.draft.exists(Table::Tokens, &key)?;
        if is_there {
            self.draft.delete(Table::Tokens, key);
            self.draft.delete(Table::Owners, self.names.token_owner(id));
        }
        Ok(is_there)
    }

    pub(super) fn redeem_token(
        &mut self,
        id: TokenId,
        enrolment: &Enrolment,
        now: Timestamp,
    ) -> Result<Agent, ApplianceError> {
        let org = self
            .owner_of(&self.names.token_owner(id))?
            .ok_or(TokenError::Unknown)?;
        let key = self.names.token(org, id);
        let token: Option<EnrolToken> = self.draft.get(Table::Tokens, &key)?;
        let mut token = token.ok_or(TokenError::Unknown)?;
        if token.expires_at <= now {
            return Err(TokenError::Expired.into());
        }
        token.uses_left = token.uses_left.checked_sub(1).ok_or(TokenError::Used)?;
        let owner = self.names.agent_owner(enrolment.agent);
        if self.draft.exists(Table::Owners, &owner)? {
            return Err(ApplianceError::Conflict { what: "the agent" });
        }
        let name = token.bound_name.as_ref().unwrap_or(&enrolment.name);
        bounded("the agent's name", name.len(), NAME_BYTES)?;
        let agent = Agent {
            id: enrolment.agent,
            org,
            name: name.clone(),
            certificates: vec![bare(&enrolment.certificate)?],
            state: AgentState::Active,
            enrolled_at: now,
            token: Some(id),
            accounts: token.bound_accounts.clone(),
            labels: token.labels.clone(),
        };
        self.draft.put(Table::Owners, owner, &org);
        self.draft
            .put(Table::Agents, self.names.agent(org, agent.id), &agent);
        self.draft.put(Table::Tokens, key, &token);
        Ok(agent)
    }

    fn owner_of(&self, key: &[u8]) -> Result<Option<OrgId>, ReadError> {
        self.draft.get(Table::Owners, key)
    }

    /// Changes an agent of an organisation.
    fn edit_agent(
        &mut self,
        org: OrgId,
        id: AgentId,
        change: impl FnOnce(&mut Agent) -> Result<(), ApplianceError>,
    ) -> Result<Agent, ApplianceError> {
        let key = self.names.agent(org, id);
        let agent: Option<Agent> = self.draft.get(Table::Agents, &key)?;
        let mut agent = agent.ok_or(ApplianceError::Missing { what: "the agent" })?;
        change(&mut agent)?;
        self.draft.put(Table::Agents, key, &agent);
        Ok(agent)
    }

    pub(super) fn owner_of_agent(&self, id: AgentId) -> Result<OrgId, ApplianceError> {
        let owner = self.owner_of(&self.names.agent_owner(id))?;
        owner.ok_or(ApplianceError::Missing { what: "the agent" })
    }

    /// Changes whether an agent may speak. Revoked is for good: a key that may be stolen is not
    /// trusted again.
    pub(crate) fn set_agent_state(
        &mut self,
        org: OrgId,
        id: AgentId,
        state: AgentState,
    ) -> Result<Agent, ApplianceError> {
        self.edit_agent(org, id, |agent| {
            if agent.state == AgentState::Revoked && state != AgentState::Revoked {
                return Err(ApplianceError::Conflict { what: "the agent" });
            }
            agent.state = state;
            Ok(())
        })
    }

    /// Puts a renewed certificate beside the one that it was asked for with. Any other goes: one
    /// that was made before and never seen did not reach the agent.
    pub(super) fn renew_agent(
        &mut self,
        org: OrgId,
        id: AgentId,
        shown: &[u8],
        fresh: &AgentCertificate,
    ) -> Result<Agent, ApplianceError> {
        let fresh = bare(fresh)?;
        let shown = without_zeros(shown);
        self.edit_agent(org, id, |agent| {
            let conflict = ApplianceError::Conflict { what: "the agent" };
            if agent.state != AgentState::Active {
                return Err(conflict);
            }
            let known = |certificate: &AgentCertificate| certificate.serial == shown;
            let at = agent.certificates.iter().position(known);
            let shown = agent.certificates.swap_remove(at.ok_or(conflict)?);
            agent.certificates = vec![shown, fresh];
            Ok(())
        })
    }

    /// Takes note that the newest certificate was seen: the one before it goes.
    pub(super) fn settle_agent(
        &mut self,
        org: OrgId,
        id: AgentId,
        shown: &[u8],
    ) -> Result<Agent, ApplianceError> {
        self.edit_agent(org, id, |agent| {
            let newest = agent.certificates.pop();
            // A renewal may have come between the look and this change.
            if let Some(newest) = newest {
                if newest.serial == without_zeros(shown) {
                    agent.certificates.clear();
                }
                agent.certificates.push(newest);
            }
            Ok(())
        })
    }

    // -- sessions ------------------------------------------------------------------------------

    pub(super) fn put_session(&mut self, session: &Session) -> Result<(), ApplianceError> {
        bounded("the session", session.value.len(), VALUE_BYTES)?;
        let key = self.names.session(session.id);
        if self.draft.exists(Table::Sessions, &key)? {
            return Err(ApplianceError::Conflict {
                what: "the session",
            });
        }
        self.draft.put(Table::Sessions, key, session);
        Ok(())
    }

    pub(super) fn replace_session(
        &mut self,
        session: &Session,
        version: u64,
    ) -> Result<(), ApplianceError> {
        bounded("the session", session.value.len(), VALUE_BYTES)?;
        let key = self.names.session(session.id);
        let found = self.draft.versioned::<Session>(Table::Sessions, &key)?;
        let conflict = ApplianceError::Conflict {
            what: "the session",
        };
        match found {
            None => Err(ApplianceError::Missing {
                what: "the session",
            }),
            Some((before, at)) if at != version || before.user != session.user => Err(conflict),
            Some(_) => {
                self.draft.replace(Table::Sessions, key, version, session);
                Ok(())
            }
        }
    }

    pub(super) fn delete_session(&mut self, id: SessionId) -> Result<bool, ApplianceError> {
        let key = self.names.session(id);
        let is_there = self.draft.exists(Table::Sessions, &key)?;
        if is_there {
            self.draft.delete(Table::Sessions, key);
        }
        Ok(is_there)
    }

    /// Removes every session that is to go; returns how many.
    pub(super) fn delete_sessions(
        &mut self,
        goes: impl Fn(&Session) -> bool,
    ) -> Result<u64, ApplianceError> {
        let mut keys = Vec::new();
        self.draft
            .scan(Table::Sessions, &Range::all(), |key, session: Session| {
                if goes(&session) {
                    keys.push(key.to_vec());
                }
            })?;
        let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        for key in keys {
            self.draft.delete(Table::Sessions, key);
        }
        Ok(count)
    }

    // -- checkpoints ---------------------------------------------------------------------------

    /// Stores a checkpoint in place of the one before of its day, and forgets old ones.
    pub(crate) fn put_checkpoint(&mut self, signed: &SignedCheckpoint) {
        let Checkpoint { org, at, .. } = signed.checkpoint;
        let day = u32::try_from(at.as_second() / 86_400).unwrap_or_default();
        let kept = self
            .names
            .checkpoint(org, day.saturating_sub(CHECKPOINT_DAYS));
        let old = Range::prefix(&self.names.org(org)).before(&kept);
        self.draft.delete_range(Table::Checkpoints, old);
        let key = self.names.checkpoint(org, day);
        self.draft.put(Table::Checkpoints, key, signed);
    }

    // -- secrets -------------------------------------------------------------------------------

    /// Stores a secret as it is: no encoder keeps a copy of it.
    pub(super) fn put_secret(&mut self, name: &str, value: &[u8]) -> Result<(), ApplianceError> {
        bounded("the secret's name", name.len(), NAME_BYTES)?;
        bounded("the secret", value.len(), VALUE_BYTES)?;
        self.draft
            .put_bytes(Table::Secrets, self.names.secret(name), value);
        Ok(())
    }

    pub(super) fn secret_or(
        &mut self,
        name: &str,
        fresh: &Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, ApplianceError> {
        if let Some(found) = self.draft.bytes(Table::Secrets, &self.names.secret(name))? {
            return Ok(Zeroizing::new(found));
        }
        self.put_secret(name, fresh)?;
        Ok(fresh.clone())
    }
}

/// Refuses what is larger than its bound.
pub(crate) fn bounded(what: &'static str, size: usize, bound: usize) -> Result<(), ApplianceError> {
    if size > bound {
        Err(ApplianceError::TooLarge { what, bound })
    } else {
        Ok(())
    }
}

/// Returns a certificate with its serial number without leading zeros, of which DER may add one.
fn bare(certificate: &AgentCertificate) -> Result<AgentCertificate, ApplianceError> {
    let serial = without_zeros(&certificate.serial);
    bounded("the serial number", serial.len(), SERIAL_BYTES)?;
    Ok(AgentCertificate {
        serial: serial.to_vec(),
        ..certificate.clone()
    })
}

pub(super) fn without_zeros(serial: &[u8]) -> &[u8] {
    let start = serial
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(serial.len());
    serial.get(start..).unwrap_or_default()
}
