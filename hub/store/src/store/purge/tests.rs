//! What somebody finds who has every byte of the disk, an older copy of it, and the new master key.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use protocol::ids::{AgentId, HoldId, OrgId, TokenId, UserId};

use crate::codec;
use crate::engine::Holder;
use crate::keys::Names;
use crate::rows::Role;
use crate::rows::access::{EnrolToken, User};
use crate::rows::finding::Actor;
use crate::rows::retention::Hold;
use crate::seal::{Owner, Sealer, Wrap};
use crate::store::{keyring_key, purpose_of};
use crate::tables::Table;
use crate::{
    CommitError, KeyError, MasterKey, ReadError, SignedHeader, Store, StoreConfig, Stream,
};

const APPLIANCE: Owner = [0; 16];

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn open(dir: &Path) -> Store {
    let master = MasterKey::load(&dir.join("master"), &dir.join("data")).unwrap();
    Store::open(StoreConfig::new(dir.join("data")), master).unwrap()
}

async fn with_two_orgs(dir: &Path) -> (Store, OrgId, OrgId) {
    let data = dir.join("data");
    let master = MasterKey::create(&dir.join("master"), &data).unwrap();
    let store = Store::create(StoreConfig::new(data), master).unwrap();
    let mut ids = Vec::new();
    for (n, name) in [(1u8, "kept"), (2, "gone")] {
        let org = store.appliance().create_org(name, at(0)).await.unwrap().id;
        let handle = store.maintenance(org).await.unwrap().unwrap();
        for seq in 1..=20 {
            let mut write = handle.write();
            let stream = Stream {
                agent: AgentId::from_bytes([n; 16]),
                lane: 1,
                epoch: [9; 16],
            };
            let header = SignedHeader {
                received_at: at(0),
                header: vec![n; 300],
                signature: vec![7; 64],
            };
            write.advance_high_water(stream, seq, seq, header);
            write.commit().await.unwrap();
        }
        let token = EnrolToken {
            id: TokenId::from_bytes([n; 16]),
            org,
            public_key: [n; 32],
            expires_at: at(1000),
            uses_left: 1,
            bound_name: None,
            bound_accounts: None,
            labels: Default::default(),
            made_by: None,
            made_at: at(0),
        };
        handle.put_token(token).await.unwrap();
        ids.push(org);
    }
    let user = User {
        id: UserId::from_bytes([5; 16]),
        email: "a@example.com".into(),
        password_hash: "hash".into(),
        roles: ids.iter().map(|org| (*org, Role::Admin)).collect(),
        hub_admin: false,
        created_at: at(0),
        disabled: false,
    };
    store.appliance().create_user(user).await.unwrap();
    (store, ids[0], ids[1])
}

/// Keyrings of an organisation that come to light in raw bytes: sealed rows of the appliance under
/// its keys at hand, and wrapped keyrings in the clear, opened by a master key.
fn carve(bytes: &[u8], org: OrgId, master: &Wrap, appliance: &Sealer, names: &Names) -> usize {
    let (purpose, key) = (purpose_of(Holder::Org(org)), names.org(org));
    let mut found = 0;
    for at in 0..bytes.len() {
        let rest = &bytes[at..];
        // Format, public name, nonce, name key, one to four data keys, tag.
        for keys in 1..=4 {
            let wrapped = rest.get(..1 + 8 + 12 + 32 + 33 * keys + 16);
            found += wrapped.map_or(0, |bytes| {
                usize::from(master.unwrap(&purpose, bytes).is_ok())
            });
        }
        if rest.first() != Some(&1) || !appliance.numbers().contains(rest.get(1).unwrap_or(&0)) {
            continue;
        }
        // Format, number, nonce, the organisation with its wrapped keyring, tag. Both have names of
        // four letters; the time has one form.
        for row in 120..150 {
            let sealed = rest.get(..1 + 1 + 24 + row + 16);
            let opened = sealed.and_then(|row| appliance.open(Table::Orgs, &key, row).ok());
            let Some(opened) = opened else { continue };
            let stored: crate::appliance::desk::StoredOrg =
                codec::decode(Table::Orgs, &opened).unwrap();
            found += usize::from(master.unwrap(&purpose, &stored.keyring).is_ok());
            break;
        }
    }
    found
}

/// What opens the appliance's rows, to who has this master key and its newest file.
fn appliance_of(dir: &Path) -> (Wrap, Sealer, Names) {
    let master = MasterKey::load(&dir.join("master"), &dir.join("data")).unwrap();
    let wrap = master.wrap();
    let store = Store::open(StoreConfig::new(dir.join("data")), master).unwrap();
    let shared = store.hub().shared();
    let read = shared.engine.snapshot().unwrap();
    let row = read.get(Table::Meta, keyring_key()).unwrap().unwrap();
    let keyring = wrap
        .unwrap(&purpose_of(Holder::Appliance), &row.value)
        .unwrap();
    let names = Names::new(keyring.name_key());
    drop(read);
    shared.close();
    (wrap, keyring.into_sealer(APPLIANCE), names)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_keyring_of_a_purged_organisation_comes_to_light_with_the_new_master_key() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let (store, kept, gone) = with_two_orgs(dir).await;
    store.close().await;
    let own_file = dir.join("data/appliance.redb");
    let gone_file = dir.join(format!("data/orgs/{gone}.redb"));
    // An older copy of the disk, and the key of that time.
    let copies = [fs::read(&own_file).unwrap(), fs::read(&gone_file).unwrap()];
    let (old_wrap, ..) = appliance_of(dir);

    let store = open(dir);
    let purged = store
        .purge_org(gone, at(9), Arc::new(|_| ()))
        .await
        .unwrap();
    assert_eq!(
        (purged.organisations, &purged.before),
        (1, &old_wrap.fingerprint())
    );
    store.close().await;
    assert!(!gone_file.exists());

    let (wrap, sealer, names) = appliance_of(dir);
    let now = fs::read(&own_file).unwrap();
    for bytes in [&now, &copies[0], &copies[1]] {
        assert_eq!(carve(bytes, gone, &wrap, &sealer, &names), 0);
    }
    // The control: with the key that is gone the carving finds it in the copy, and with the new one
    // it finds in the disk's bytes what is to be found there.
    assert!(carve(&copies[0], gone, &old_wrap, &sealer, &names) > 0);
    assert!(carve(&now, kept, &wrap, &sealer, &names) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_everything_of_one_organisation_and_nothing_of_another() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let (store, kept, gone) = with_two_orgs(dir).await;
    let held = store.maintenance(gone).await.unwrap().unwrap();
    // Under a legal hold nothing of it goes.
    let id = HoldId::from_bytes([7; 16]);
    let mut write = held.write();
    write.hold(Hold {
        id,
        class: None,
        reason: "case 7".into(),
        by: Actor::Local,
        since: at(1),
    });
    write.commit().await.unwrap();
    let key = fs::read(dir.join("master")).unwrap();
    let refused = store.purge_org(gone, at(9), Arc::new(|_| ())).await;
    assert!(matches!(refused, Err(KeyError::Held { .. })), "{refused:?}");
    assert_eq!(fs::read(dir.join("master")).unwrap(), key);
    assert_eq!(store.deletions().await.unwrap().all().count(), 0);
    let mut write = held.write();
    write.lift(id);
    write.commit().await.unwrap();
    store
        .purge_org(gone, at(9), Arc::new(|_| ()))
        .await
        .unwrap();
    // Whoever held it.
    let write = held.write().commit().await;
    assert!(matches!(write, Err(CommitError::Closed)), "{write:?}");
    let read = held.audit_head().await;
    assert!(matches!(read, Err(ReadError::Closed)), "{read:?}");
    let mut store = store;
    for _ in 0..2 {
        assert!(store.maintenance(gone).await.unwrap().is_none());
        let appliance = store.appliance();
        let orgs = appliance.orgs().await.unwrap();
        assert_eq!(orgs.iter().map(|org| org.id).collect::<Vec<_>>(), [kept]);
        let token = |n: u8| appliance.token(TokenId::from_bytes([n; 16]));
        assert!(token(2).await.unwrap().is_none());
        assert!(token(1).await.unwrap().is_some());
        let roles = &appliance.users().await.unwrap()[0].roles;
        assert_eq!(roles.keys().collect::<Vec<_>>(), [&kept]);
        let other = store.maintenance(kept).await.unwrap().unwrap();
        let agent = AgentId::from_bytes([1; 16]);
        assert_eq!(other.high_waters(agent).await.unwrap()[0].1, 20);
        let ledger = store.deletions().await.unwrap();
        assert_eq!(ledger.all().collect::<Vec<_>>(), [(gone, at(9))]);
        let again = store.purge_org(gone, at(10), Arc::new(|_| ())).await;
        assert!(matches!(again, Err(KeyError::NoOrg)), "{again:?}");
        assert_eq!(store.finish_purges().await.unwrap(), 0);
        store.close().await;
        store = open(dir);
    }
    // Its name is free.
    let other = store.appliance().create_org("GONE", at(11)).await.unwrap();
    assert_ne!(other.id, gone);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_that_an_older_copy_brings_back_goes_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let (store, kept, gone) = with_two_orgs(dir).await;
    store.close().await;
    let copied = |from: &Path, to: &Path| {
        fs::create_dir_all(to.join("orgs")).unwrap();
        for name in [
            "appliance.redb".to_owned(),
            format!("orgs/{kept}.redb"),
            format!("orgs/{gone}.redb"),
        ] {
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
    };
    let (data, copy) = (dir.join("data"), dir.join("copy"));
    copied(&data, &copy);
    let key = fs::read(dir.join("master")).unwrap();
    let store = open(dir);
    store
        .purge_org(gone, at(9), Arc::new(|_| ()))
        .await
        .unwrap();
    // Whoever keeps a copy of the old key can sign as the hub did then.
    let ledger = store.deletions().await.unwrap();
    store.close().await;
    copied(&copy, &data);
    fs::write(dir.join("master"), key).unwrap();
    let store = open(dir);
    let refused = store.finish_purges().await;
    assert!(matches!(refused, Err(KeyError::Ledger)), "{refused:?}");
    ledger
        .store(&dir.join("master"), &[&store.hub().wrap()])
        .unwrap();
    assert_eq!(store.finish_purges().await.unwrap(), 1);
    assert!(store.maintenance(gone).await.unwrap().is_none());
    assert!(store.maintenance(kept).await.unwrap().is_some());
    assert!(!data.join(format!("orgs/{gone}.redb")).exists());
    store.close().await;
}
