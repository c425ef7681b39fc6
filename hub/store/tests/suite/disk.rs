//! Files: made once, opened whole or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use store::{CommitError, MasterKey, OpenError, ReadError, Store, StoreConfig};

use crate::bench::{Bench, at, header, stream};

#[tokio::test]
async fn a_store_is_made_once_and_is_private() {
    let bench = Bench::new();
    let org = bench.org("acme").await.org();
    bench.store.close().await;
    assert!(Store::exists(&bench.data()));
    let master = || MasterKey::load(&bench.key(), &bench.data()).unwrap();
    let again = Store::create(StoreConfig::new(bench.data()), master()).unwrap_err();
    assert!(matches!(again, OpenError::Exists { .. }));
    let elsewhere = bench.dir.path().join("elsewhere");
    let missing = Store::open(StoreConfig::new(&elsewhere), master()).unwrap_err();
    assert!(matches!(missing, OpenError::Missing { .. }));
    assert!(!elsewhere.exists());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.data()), 0o700);
    assert_eq!(mode(&bench.data().join("appliance.redb")), 0o600);
    assert_eq!(mode(&bench.org_file(org)), 0o600);
}

#[tokio::test]
async fn a_store_that_is_open_is_not_opened_twice() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    assert!(matches!(bench.open().unwrap_err(), OpenError::InUse { .. }));
    // Many that ask at once get the same one.
    let id = org.org();
    let bench = bench.reopened().await;
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.maintenance(id).await.unwrap().unwrap().org() })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), id);
    }
}

#[tokio::test]
async fn a_closed_store_answers_closed() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let appliance = bench.store.appliance();
    bench.store.close().await;
    bench.store.close().await;
    assert!(matches!(org.scopes().await, Err(ReadError::Closed)));
    let mut write = org.write();
    write.advance_high_water(stream(1), 1, 1, header("1-1"));
    assert!(matches!(write.commit().await, Err(CommitError::Closed)));
    assert!(matches!(appliance.orgs().await, Err(ReadError::Closed)));
    let refused = appliance.create_org("late", at(0)).await;
    assert!(refused.is_err());
    assert!(bench.store.maintenance(org.org()).await.is_err());
}

#[tokio::test]
async fn a_damaged_or_cut_file_is_named_and_others_go_on() {
    let bench = Bench::new();
    let (sound, cut, empty, foreign, gone) = (
        bench.org("sound").await.org(),
        bench.org("cut").await.org(),
        bench.org("empty").await.org(),
        bench.org("foreign").await.org(),
        bench.org("gone").await.org(),
    );
    bench.store.close().await;
    let whole = fs::read(bench.org_file(cut)).unwrap();
    fs::write(bench.org_file(cut), &whole[..whole.len() / 3]).unwrap();
    fs::write(bench.org_file(empty), b"").unwrap();
    fs::write(bench.org_file(foreign), "not a store\n".repeat(1000)).unwrap();
    fs::remove_file(bench.org_file(gone)).unwrap();
    let bench = bench.reopened().await;
    for org in [cut, empty, foreign] {
        let refused = bench.store.maintenance(org).await.unwrap_err();
        assert!(
            matches!(&*refused, OpenError::Damaged { .. }),
            "{refused:?}"
        );
        assert!(refused.is_data_error());
        assert!(refused.to_string().contains(&org.to_string()));
    }
    let refused = bench.store.maintenance(gone).await.unwrap_err();
    assert!(matches!(&*refused, OpenError::Io { .. }), "{refused:?}");
    // Nothing is made in its place: an empty organisation would be taken for the truth.
    assert!(!bench.org_file(gone).exists());
    assert_eq!(bench.org_again(sound).await.scopes().await.unwrap(), []);
}

#[tokio::test]
async fn a_newer_file_is_named_as_such_and_left_as_it_is() {
    let bench = Bench::new();
    let org = bench.org("acme").await.org();
    bench.store.close().await;
    {
        let table: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("#engine");
        let database = redb::Database::open(bench.org_file(org)).unwrap();
        let write = database.begin_write().unwrap();
        write
            .open_table(table)
            .unwrap()
            .insert("format", 2)
            .unwrap();
        write.commit().unwrap();
    }
    let before = fs::read(bench.org_file(org)).unwrap();
    let bench = bench.reopened().await;
    let refused = bench.store.maintenance(org).await.unwrap_err();
    assert!(
        matches!(
            &*refused,
            OpenError::Newer {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(
        fs::read(bench.org_file(org)).unwrap() == before,
        "it was changed"
    );
}
