//! Every row key, and nothing else makes one ([`crate::tables`] says what each means).
//!
//! A name in a key is 16 bytes of HMAC-SHA-256 under a key of the file's owner. Account numbers
//! and addresses are guessable, so a plain hash would give them away; under a key of its own, the
//! same name has unrelated keys in two organisations.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use protocol::ids::{AgentId, FindingId, OrgId, ResourceId, SessionId, SourceId, TokenId, UserId};
use protocol::{Scope, Urn};
use sha2::Sha256;

use crate::engine::Key;
use crate::org::Stream;
use crate::rows::event::BlockKey;
use crate::rows::resource::Subject;
use crate::seal::Secret;

/// A keyed hash of a name.
type Hash = [u8; 16];

/// Makes the row keys of one owner.
pub(crate) struct Names {
    keyed: Hmac<Sha256>,
}

impl Names {
    pub(crate) fn new(key: &Secret) -> Self {
        let keyed = Hmac::new_from_slice(key.as_ref()).expect("HMAC takes keys of any length");
        Self { keyed }
    }

    /// Hashes a name of one kind: the kind is part of it, so a user never shares a key with a
    /// session of the same bytes.
    fn hash(&self, kind: &str, name: &[u8]) -> Hash {
        let mut keyed = self.keyed.clone();
        keyed.update(kind.as_bytes());
        keyed.update(&[0]);
        keyed.update(name);
        let full = keyed.finalize().into_bytes();
        let mut short = [0u8; 16];
        for (out, byte) in short.iter_mut().zip(full) {
            *out = byte;
        }
        short
    }

    pub(crate) fn meta(&self, name: &str) -> Key {
        self.hash("meta", name.as_bytes()).to_vec()
    }

    // -- inventory -----------------------------------------------------------------------------

    pub(crate) fn scope(&self, scope: &Scope) -> Key {
        self.hash("scope", scope.to_string().as_bytes()).to_vec()
    }

    /// `h(scope) h(urn)`, of every table that has it.
    pub(crate) fn resource(&self, urn: &Urn) -> Key {
        [self.scope(&urn.scope), self.urn(urn)].concat()
    }

    /// `h(urn)`: prefix of a resource's links.
    pub(crate) fn urn(&self, urn: &Urn) -> Key {
        self.hash("urn", urn.to_string().as_bytes()).to_vec()
    }

    pub(crate) fn resource_until(&self, urn: &Urn, until_ms: u64) -> Key {
        [self.resource(urn).as_slice(), &until_ms.to_be_bytes()].concat()
    }

    pub(crate) fn resource_id(&self, id: ResourceId) -> Key {
        self.hash("resource", id.as_bytes()).to_vec()
    }

    /// Prefix of a resource's links of one relation.
    pub(crate) fn links_by(&self, urn: &Urn, rel: &str) -> Key {
        [self.urn(urn).as_slice(), &self.hash("rel", rel.as_bytes())].concat()
    }

    pub(crate) fn link(&self, near: &Urn, rel: &str, far: &Urn) -> Key {
        [self.links_by(near, rel), self.urn(far)].concat()
    }

    // -- verdicts and findings -----------------------------------------------------------------

    pub(crate) fn subject(&self, subject: &Subject) -> Key {
        match subject {
            Subject::Resource(urn) => self.resource(urn),
            Subject::Scope(scope) => [self.scope(scope).as_slice(), &[0; 16]].concat(),
        }
    }

    pub(crate) fn due(&self, at: Timestamp, subject: &Subject) -> Key {
        [time(at).as_slice(), &self.subject(subject)].concat()
    }

    pub(crate) fn finding(&self, id: FindingId) -> Key {
        self.hash("finding", id.as_bytes()).to_vec()
    }

    pub(crate) fn transition(&self, id: FindingId, at_ms: u64, commit: u64) -> Key {
        [
            self.finding(id).as_slice(),
            &at_ms.to_be_bytes(),
            &commit.to_be_bytes(),
        ]
        .concat()
    }

    // -- streams -------------------------------------------------------------------------------

    /// Prefix of an agent's streams.
    pub(crate) fn streams(&self, agent: AgentId) -> Key {
        self.agent_status(agent)
    }

    pub(crate) fn stream(&self, stream: Stream) -> Key {
        [
            self.streams(stream.agent).as_slice(),
            &[stream.lane],
            &stream.epoch,
        ]
        .concat()
    }

    pub(crate) fn batch(&self, stream: Stream, last_seq: u64) -> Key {
        [self.stream(stream).as_slice(), &sequence(last_seq)].concat()
    }

    pub(crate) fn source(&self, id: SourceId) -> Key {
        self.hash("source", id.as_bytes()).to_vec()
    }

    pub(crate) fn agent_status(&self, id: AgentId) -> Key {
        self.hash("agent", id.as_bytes()).to_vec()
    }

    // -- the appliance -------------------------------------------------------------------------

    pub(crate) fn org(&self, id: OrgId) -> Key {
        self.hash("org", id.as_bytes()).to_vec()
    }

    pub(crate) fn org_name(&self, name: &str) -> Key {
        self.hash("org-name", name.to_lowercase().as_bytes())
            .to_vec()
    }

    pub(crate) fn user(&self, id: UserId) -> Key {
        self.hash("user", id.as_bytes()).to_vec()
    }

    pub(crate) fn email(&self, email: &str) -> Key {
        self.hash("email", email.to_lowercase().as_bytes()).to_vec()
    }

    pub(crate) fn agent(&self, org: OrgId, id: AgentId) -> Key {
        [self.org(org), self.agent_owner(id)].concat()
    }

    pub(crate) fn agent_owner(&self, id: AgentId) -> Key {
        self.hash("agent", id.as_bytes()).to_vec()
    }

    pub(crate) fn token(&self, org: OrgId, id: TokenId) -> Key {
        [self.org(org), self.token_owner(id)].concat()
    }

    pub(crate) fn token_owner(&self, id: TokenId) -> Key {
        self.hash("token", id.as_bytes()).to_vec()
    }

    pub(crate) fn session(&self, id: SessionId) -> Key {
        self.hash("session", id.as_bytes()).to_vec()
    }

    /// `h(org) day`: days since 1970, so that their order is the keys'.
    pub(crate) fn checkpoint(&self, org: OrgId, day: u32) -> Key {
        [self.org(org).as_slice(), &day.to_be_bytes()].concat()
    }

    pub(crate) fn secret(&self, name: &str) -> Key {
        self.hash("secret", name.as_bytes()).to_vec()
    }
}

/// Milliseconds since 1970; what came before counts as 1970.
pub(crate) fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// An instant whose byte order is its order.
pub(crate) fn time(at: Timestamp) -> [u8; 8] {
    millis(at).to_be_bytes()
}

/// The instant's six bytes in a block key: until the year 10889.
pub(crate) fn block_time(at: Timestamp) -> [u8; 6] {
    let [_, _, time @ ..] = time(at);
    time
}

/// The key of the block with a counter, received then.
pub(crate) fn block(at: Timestamp, salt: [u8; 2], counter: u32) -> BlockKey {
    let mut key = [0u8; 12];
    let parts = block_time(at)
        .into_iter()
        .chain(salt)
        .chain(counter.to_be_bytes());
    for (out, byte) in key.iter_mut().zip(parts) {
        *out = byte;
    }
    BlockKey(key)
}

/// An instant and a counter whose byte order is their order.
pub(crate) fn moment(at: Timestamp, counter: u64) -> Key {
    [time(at), counter.to_be_bytes()].concat()
}

/// A number whose byte order is its order.
pub(crate) fn sequence(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The first key behind those of an instant.
pub(crate) fn after(at: Timestamp) -> Key {
    millis(at).saturating_add(1).to_be_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Range;
    use crate::seal::random_key;
    use std::collections::BTreeSet;

    fn names() -> Names {
        Names::new(&random_key())
    }

    #[test]
    fn one_name_has_different_keys_in_two_organisations() {
        let urn = Scope::of_type("aws.ec2.vpc", "123456789012", "us-east-1").urn("vpc-1");
        let (ours, theirs) = (names(), names());
        assert_eq!(ours.resource(&urn), ours.resource(&urn));
        assert_ne!(ours.resource(&urn), theirs.resource(&urn));
        let shown = ours.resource(&urn);
        assert!(
            !shown
                .windows(4)
                .any(|part| b"123456789012".windows(4).any(|name| name == part))
        );
    }

    #[test]
    fn the_resources_of_a_scope_are_one_range() {
        let names = names();
        let scope = Scope::of_type("aws.ec2.vpc", "123456789012", "us-east-1");
        let other = Scope::of_type("aws.ec2.vpc", "123456789012", "us-east-2");
        let range = Range::prefix(&names.scope(&scope));
        let within = |key: &Key| range.from <= *key && range.to.as_ref().is_none_or(|to| key < to);
        for id in ["vpc-1", "vpc-2", "a/b"] {
            assert!(within(&names.resource(&scope.urn(id))));
            assert!(!within(&names.resource(&other.urn(id))));
        }
        assert!(within(&names.subject(&Subject::Scope(scope))));
    }

    #[test]
    fn names_of_two_kinds_never_share_a_key() {
        let names = names();
        let id = [5u8; 16];
        let keys = [
            names.resource_id(ResourceId::from_bytes(id)),
            names.finding(FindingId::from_bytes(id)),
            names.source(SourceId::from_bytes(id)),
            names.org(OrgId::from_bytes(id)),
            names.user(UserId::from_bytes(id)),
            names.agent_owner(AgentId::from_bytes(id)),
            names.token_owner(TokenId::from_bytes(id)),
            names.session(SessionId::from_bytes(id)),
            names.org_name("same"),
            names.email("same"),
            names.secret("same"),
            names.meta("same"),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn time_orders_keys() {
        let instants: Vec<Timestamp> = [
            "1960-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.001Z",
            "2100-01-01T00:00:00Z",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec();
        for pair in instants.windows(2) {
            assert!(time(pair[0]) <= time(pair[1]));
            assert!(block_time(pair[0]) <= block_time(pair[1]));
            assert!(block(pair[0], [0xff; 2], u32::MAX) > block(pair[0], [0; 2], 0));
        }
        assert!(moment(instants[2], u64::MAX) < moment(instants[3], 0));
        assert!(moment(instants[2], u64::MAX) < after(instants[2]));
        assert!(after(instants[2]) <= moment(instants[3], 0));
    }
}
