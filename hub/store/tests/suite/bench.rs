//! A store in a directory of its own, and short ways to fill it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use protocol::document::{Document, Link, SetHash};
use protocol::ids::{AgentId, OrgId, SourceId, UserId};
use protocol::{Scope, Urn};
use serde_json::json;
use store::rows::Role;
use store::rows::access::User;
use store::rows::resource::{Coverage, Provenance, SweepEnd, SweepResult};
use store::{MasterKey, OrgStore, OrgWrite, SignedHeader, Store, StoreConfig, Stream};

pub(crate) const AGENT: AgentId = AgentId::from_bytes([1; 16]);
pub(crate) const SOURCE: SourceId = SourceId::from_bytes([2; 16]);
pub(crate) const ACCOUNT: &str = "123456789012";

/// A store with its files.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (data, key) = (dir.path().join("data"), dir.path().join("master"));
        let master = MasterKey::create(&key, &data).unwrap();
        let store = Store::create(StoreConfig::new(data), master).unwrap();
        Self { dir, store }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("master")
    }

    pub(crate) fn org_file(&self, org: OrgId) -> PathBuf {
        self.data().join("orgs").join(format!("{org}.redb"))
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopened(mut self) -> Self {
        self.store.close().await;
        self.store = self.open().unwrap();
        self
    }

    pub(crate) fn open(&self) -> Result<Store, store::OpenError> {
        self.open_with(StoreConfig::new(self.data()))
    }

    pub(crate) fn open_with(&self, config: StoreConfig) -> Result<Store, store::OpenError> {
        let master = MasterKey::load(&self.key(), &self.data()).unwrap();
        Store::open(config, master)
    }

    /// Makes an organisation and opens it.
    pub(crate) async fn org(&self, name: &str) -> OrgStore {
        let org = self
            .store
            .appliance()
            .create_org(name, at(0))
            .await
            .unwrap();
        self.org_again(org.id).await
    }

    pub(crate) async fn org_again(&self, org: OrgId) -> OrgStore {
        self.store.maintenance(org).await.unwrap().unwrap()
    }
}

/// Seconds after the beginning of the test's world.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(crate) fn stream(lane: u8) -> Stream {
    Stream {
        agent: AGENT,
        lane,
        epoch: [9; 16],
    }
}

pub(crate) fn header(text: &str) -> SignedHeader {
    SignedHeader {
        received_at: at(0),
        header: text.as_bytes().to_vec(),
        signature: vec![7; 64],
    }
}

pub(crate) fn scope(type_name: &str) -> Scope {
    Scope::of_type(type_name, ACCOUNT, "us-east-1")
}

pub(crate) fn vpcs() -> Scope {
    scope("aws.ec2.vpc")
}

/// A document whose content is `value`.
pub(crate) fn document(urn: &Urn, value: &str, links: &[(&str, Urn)]) -> Document {
    let links = links.iter().map(|(rel, urn)| Link {
        rel: (*rel).into(),
        urn: urn.clone(),
    });
    Document {
        type_name: urn.scope.type_name(),
        provider: urn.scope.provider.clone(),
        account: urn.scope.account.clone(),
        region: urn.scope.region.clone(),
        id: urn.id.clone(),
        native_id: format!("arn:aws:ec2:us-east-1:{ACCOUNT}:vpc/{}", urn.id),
        name: format!("name of {}", urn.id),
        tags: Some(BTreeMap::from([("env".into(), "prod".into())])),
        config: json!({ "Value": value }),
        gaps: BTreeMap::new(),
        links: links.collect(),
        collected_at: at(0),
        urn: urn.clone(),
    }
}

pub(crate) fn from(at: Timestamp) -> Provenance {
    Provenance {
        agent: AGENT,
        source: SOURCE,
        at,
    }
}

/// What the agent of the tests holds of one scope, and how it sweeps.
pub(crate) struct Sweeper {
    pub(crate) scope: Scope,
    pub(crate) generation: u64,
    pub(crate) holds: BTreeMap<String, String>,
    sent: BTreeMap<String, String>,
}

impl Sweeper {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            generation: 0,
            holds: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }

    pub(crate) fn holding(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.holds
            .extend(ids.into_iter().map(|id| (id, "1".to_owned())));
        self
    }

    pub(crate) fn set(&self) -> SetHash {
        let mut set = SetHash::default();
        for (id, value) in &self.holds {
            let document = document(&self.scope.urn(id), value, &[]);
            set.add(&document.urn.to_string(), &document.content_hash());
        }
        set
    }

    /// Writes begin, changes and gone.
    pub(crate) fn begin(&mut self, write: &mut OrgWrite, second: i64) {
        self.generation += 1;
        write.begin_sweep(&self.scope, AGENT, SOURCE, self.generation, at(second));
        for (id, value) in &self.holds {
            if self.sent.get(id) != Some(value) {
                let document = document(&self.scope.urn(id), value, &[]);
                write.put_resource(document, from(at(second)));
            }
        }
        for id in self.sent.keys().filter(|id| !self.holds.contains_key(*id)) {
            write.stage_gone(&self.scope.urn(id));
        }
        self.sent = self.holds.clone();
    }

    /// Forgets what the hub has, as after a mismatch.
    pub(crate) fn forget(&mut self) {
        self.sent.clear();
    }

    pub(crate) fn end(&self, coverage: Coverage, second: i64) -> SweepEnd {
        SweepEnd {
            scope: self.scope.clone(),
            generation: self.generation,
            claimed: self.set(),
            coverage,
            at: at(second),
        }
    }

    /// One whole sweep in one commit.
    pub(crate) async fn sweep(&mut self, org: &OrgStore, second: i64) -> SweepResult {
        let mut write = org.write();
        self.begin(&mut write, second);
        write.end_sweep(self.end(Coverage::Changes, second));
        let committed = write.commit().await.unwrap();
        assert_eq!(committed.sweeps.len(), 1);
        committed.sweeps[0].result
    }
}

pub(crate) fn user(n: u8, email: &str, roles: &[(OrgId, Role)]) -> User {
    User {
        id: UserId::from_bytes([n; 16]),
        email: email.into(),
        password_hash: "$argon2id$secret-hash".into(),
        roles: roles.iter().copied().collect(),
        hub_admin: false,
        created_at: at(0),
        disabled: false,
    }
}
