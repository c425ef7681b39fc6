//! Where a store of the benches lies.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use store::{AgentBounds, MasterKey, OrgStore, Store, StoreConfig};

/// A folder with a master key and the store's data.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn of(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    fn config(&self) -> StoreConfig {
        StoreConfig {
            // One agent stands for those of a large organisation.
            agent_bounds: AgentBounds {
                sources: u64::MAX,
                scopes: u64::MAX,
                resources: u64::MAX,
            },
            ..StoreConfig::new(self.0.join("data"))
        }
    }

    /// Makes a store with one organisation.
    pub(crate) async fn create(&self) -> (Store, OrgStore) {
        let config = self.config();
        let master = MasterKey::create(&self.0.join("master"), &config.data_dir);
        let store = Store::create(config, master.expect("a new key")).expect("a new store");
        let appliance = store.appliance();
        let made = appliance.create_org("bench", Timestamp::UNIX_EPOCH).await;
        let id = made.expect("a new organisation").id;
        let org = store.maintenance(id).await.expect("it opens");
        (store, org.expect("it is there"))
    }

    /// Opens what [`Place::create`] made.
    pub(crate) async fn open(&self) -> (Store, OrgStore) {
        let config = self.config();
        let master = MasterKey::load(&self.0.join("master"), &config.data_dir);
        let store = Store::open(config, master.expect("the key")).expect("the store opens");
        let orgs = store.appliance().orgs().await.expect("it has a list");
        let id = orgs.first().expect("it has an organisation").id;
        let org = store.maintenance(id).await.expect("it opens");
        (store, org.expect("it is there"))
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build();
    runtime.expect("a runtime")
}
