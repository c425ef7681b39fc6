//! Two organisations, one disk: nothing crosses, nothing lies open.

use std::fs;

use protocol::ids::OrgId;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::rows::resource::Resource;
use store::{CommitError, MasterKey, OpenError, ReadError, Store, StoreConfig};
use zeroize::Zeroizing;

use crate::bench::{
    ACCOUNT, AGENT, Bench, Sweeper, at, document, from, header, stream, user, vpcs,
};

type Raw = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Changes a table of a closed file, as somebody with the disk could.
pub(crate) fn tamper(
    path: &std::path::Path,
    table: &'static str,
    change: impl Fn(&mut Vec<(Vec<u8>, Vec<u8>)>),
) {
    let definition: Raw = TableDefinition::new(table);
    let database = Database::open(path).unwrap();
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    {
        let read = database.begin_read().unwrap();
        let table = read.open_table(definition).unwrap();
        for row in table.iter().unwrap() {
            let (key, value) = row.unwrap();
            rows.push((key.value().to_vec(), value.value().to_vec()));
        }
    }
    change(&mut rows);
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(definition).unwrap();
        table.retain(|_, _| false).unwrap();
        for (key, value) in &rows {
            table.insert(key.as_slice(), value.as_slice()).unwrap();
        }
    }
    write.commit().unwrap();
}

async fn filled(bench: &Bench, name: &str) -> OrgId {
    let org = bench.org(name).await;
    let mut sweeper = Sweeper::new(vpcs()).holding((0..3).map(|n| format!("vpc-{n}")));
    sweeper.sweep(&org, 1).await;
    let mut write = org.write();
    write.advance_high_water(stream(2), 1, 5, header("1-5"));
    write.commit().await.unwrap();
    org.org()
}

#[tokio::test]
async fn two_rows_that_are_swapped_on_disk_are_refused() {
    let bench = Bench::new();
    let org = filled(&bench, "acme").await;
    bench.store.close().await;
    tamper(&bench.org_file(org), "resources", |rows| {
        let first = rows[0].1.clone();
        rows[0].1 = std::mem::replace(&mut rows[1].1, first);
    });
    let bench = bench.reopened().await;
    let org = bench.org_again(org).await;
    let mut refused = 0;
    for n in 0..3 {
        match org.resource(&vpcs().urn(&format!("vpc-{n}"))).await {
            Ok(found) => assert!(found.is_some()),
            Err(ReadError::Seal { table }) => {
                assert_eq!(table, "resources");
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 2);
    assert!(matches!(
        org.resources_in(&vpcs()).await,
        Err(ReadError::Seal { .. })
    ));
    assert!(org.resources(store::ResourceList::default()).await.is_err());
    // What does not build on them goes on.
    let mut write = org.write();
    write.advance_high_water(stream(2), 6, 6, header("6-6"));
    write.commit().await.unwrap();
}

#[tokio::test]
async fn a_row_of_another_organisation_is_refused_in_this_one() {
    let bench = Bench::new();
    let (ours, theirs) = (filled(&bench, "ours").await, filled(&bench, "theirs").await);
    bench.store.close().await;
    let stolen = std::sync::Mutex::new(Vec::new());
    tamper(&bench.org_file(theirs), "scopes", |rows| {
        stolen.lock().unwrap().push(rows[0].1.clone());
    });
    tamper(&bench.org_file(ours), "scopes", |rows| {
        rows[0].1 = stolen.lock().unwrap()[0].clone();
    });
    let bench = bench.reopened().await;
    let refused = bench
        .org_again(ours)
        .await
        .scope(&vpcs())
        .await
        .unwrap_err();
    assert!(matches!(refused, ReadError::Seal { table: "scopes" }));
}

#[tokio::test]
async fn a_high_water_mark_that_was_moved_on_disk_is_noticed() {
    let bench = Bench::new();
    let org = filled(&bench, "acme").await;
    bench.store.close().await;
    {
        let marks: TableDefinition<'_, &[u8], u64> = TableDefinition::new("#marks");
        let database = Database::open(bench.org_file(org)).unwrap();
        let write = database.begin_write().unwrap();
        {
            let mut table = write.open_table(marks).unwrap();
            let key = table.first().unwrap().unwrap().0.value().to_vec();
            table.insert(key.as_slice(), 1_000_000).unwrap();
        }
        write.commit().unwrap();
    }
    let bench = bench.reopened().await;
    let org = bench.org_again(org).await;
    // To say a million would have the agent throw away what was never stored.
    assert!(matches!(
        org.high_waters(AGENT).await,
        Err(ReadError::Seal { .. })
    ));
    let mut write = org.write();
    // Nor is a batch of those numbers taken for a repeat, which would acknowledge it.
    write.advance_high_water(stream(2), 6, 6, header("6-6"));
    let refused = write.commit().await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Read(ReadError::Seal { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn another_organisations_file_in_the_place_of_this_one_is_refused() {
    let bench = Bench::new();
    let (ours, theirs) = (filled(&bench, "ours").await, filled(&bench, "theirs").await);
    bench.store.close().await;
    fs::copy(bench.org_file(theirs), bench.org_file(ours)).unwrap();
    let bench = bench.reopened().await;
    let refused = bench.store.maintenance(ours).await.unwrap_err();
    assert!(
        matches!(&*refused, OpenError::Foreign { org, .. } if *org == ours),
        "{refused:?}"
    );
    assert!(refused.is_data_error());
    // The other is not concerned.
    let theirs = bench.org_again(theirs).await;
    assert_eq!(theirs.resources_in(&vpcs()).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_same_urn_in_two_organisations_is_two_resources() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.org("ours").await, bench.org("theirs").await);
    let urn = vpcs().urn("vpc-1");
    let mut write = ours.write();
    write.put_resource(document(&urn, "ours", &[]), from(at(1)));
    write.commit().await.unwrap();
    assert_eq!(theirs.resource(&urn).await.unwrap(), None);
    let id = Resource::id_of(ours.org(), &urn);
    assert!(ours.resource_by_id(id).await.unwrap().is_some());
    // A foreign id answers like a missing one.
    assert_eq!(theirs.resource_by_id(id).await.unwrap(), None);
    assert_ne!(id, Resource::id_of(theirs.org(), &urn));
}

#[tokio::test]
async fn no_name_and_no_secret_lies_open_on_the_disk() {
    let bench = Bench::new();
    let org = bench.org("Canary Organisation").await;
    let appliance = bench.store.appliance();
    appliance
        .create_user(user(1, "canary@example.org", &[]))
        .await
        .unwrap();
    let secret = Zeroizing::new(b"canary-secret-value".to_vec());
    appliance
        .put_secret("canary-secret-name", secret)
        .await
        .unwrap();
    let mut write = org.write();
    let (urn, far) = (vpcs().urn("canary-urn"), vpcs().urn("canary-far"));
    let linked = [("canary-relation", far)];
    write.put_resource(document(&urn, "canary-value", &linked), from(at(1)));
    write.stage_gone(&urn);
    write.audit(AuditAct {
        at: at(1),
        actor: Actor::Local,
        action: "canary.action".into(),
        object: "canary-object".into(),
        detail: String::new(),
    });
    write.commit().await.unwrap();
    bench.store.close().await;
    let mut files = vec![bench.data().join("appliance.redb")];
    files.extend(
        fs::read_dir(bench.data().join("orgs"))
            .unwrap()
            .map(|file| file.unwrap().path()),
    );
    assert_eq!(files.len(), 2);
    let needles = [
        "canary",
        "Canary",
        "argon2id",
        ACCOUNT,
        "ec2.vpc",
        "us-east-1",
        "example.org",
        "prod",
    ];
    for path in files {
        let bytes = fs::read(&path).unwrap();
        for needle in needles {
            let found = bytes
                .windows(needle.len())
                .any(|part| part == needle.as_bytes());
            assert!(!found, "{needle} lies open in {}", path.display());
        }
        // The test can fail: the engine's own words are there.
        assert!(bytes.windows(6).any(|part| part == b"format"));
    }
}

#[tokio::test]
async fn another_master_key_opens_nothing_and_says_which_is_wanted() {
    let bench = Bench::new();
    let org = filled(&bench, "acme").await;
    bench.store.close().await;
    let before = fs::read(bench.data().join("appliance.redb")).unwrap();
    let wanted = MasterKey::load(&bench.key(), &bench.data())
        .unwrap()
        .fingerprint();
    let other = MasterKey::create(&bench.dir.path().join("other"), &bench.data()).unwrap();
    let given = other.fingerprint();
    let refused = Store::open(StoreConfig::new(bench.data()), other).unwrap_err();
    match &refused {
        OpenError::WrongMasterKey {
            wanted: w,
            given: g,
            ..
        } => {
            assert_eq!((w, g), (&wanted, &given));
        }
        other => panic!("{other:?}"),
    }
    assert!(!refused.is_data_error());
    assert!(
        fs::read(bench.data().join("appliance.redb")).unwrap() == before,
        "it was changed"
    );
    let bench = bench.reopened().await;
    bench.org_again(org).await;
}
