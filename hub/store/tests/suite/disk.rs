//! Files: made once, opened whole or not at all, and nothing acknowledged is lost over a kill.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use store::{CommitError, MasterKey, OpenError, ReadError, Store, StoreConfig};

use crate::bench::{AGENT, Bench, at, document, from, header, stream, vpcs};

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

/// Environment of the child that is killed: the directory of its store.
const CHILD: &str = "STORE_SUITE_CHILD";

/// Not a test of its own: the process that [`killing_a_writer_loses_nothing_it_acknowledged`]
/// kills. It stores batch after batch and says each number once it is durable.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    use std::io::Write;
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let dir = std::path::PathBuf::from(dir);
    let master = MasterKey::load(&dir.join("master"), &dir.join("data")).unwrap();
    let store = Store::open(StoreConfig::new(dir.join("data")), master).unwrap();
    let org = store.appliance().orgs().await.unwrap()[0].id;
    let org = store.maintenance(org).await.unwrap().unwrap();
    let mut next = org
        .high_waters(AGENT)
        .await
        .unwrap()
        .first()
        .map_or(1, |(_, last)| last + 1);
    loop {
        let mut write = org.write();
        write.advance_high_water(stream(2), next, next, header(&next.to_string()));
        let urn = vpcs().urn(&format!("vpc-{next}"));
        write.put_resource(document(&urn, &next.to_string(), &[]), from(at(1)));
        write.commit().await.unwrap();
        let mut out = std::io::stderr().lock();
        writeln!(out, "stored {next}").unwrap();
        next += 1;
    }
}

#[tokio::test]
async fn killing_a_writer_loses_nothing_it_acknowledged() {
    let bench = Bench::new();
    let org = bench.org("acme").await.org();
    bench.store.close().await;
    let mut acknowledged = 0u64;
    for round in 1..=5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "disk::child_that_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD, bench.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(number) = line.strip_prefix("stored ") {
                acknowledged = number.parse().unwrap();
            }
            if acknowledged >= round * 15 {
                break;
            }
        }
        // SIGKILL: nothing of the process runs after it.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(
        acknowledged >= 75,
        "the children stored only {acknowledged}"
    );
    let store = bench.open().unwrap();
    let reader = store.maintenance(org).await.unwrap().unwrap();
    let marks = reader.high_waters(AGENT).await.unwrap();
    let last = marks[0].1;
    assert!(
        last >= acknowledged,
        "{last} stored of {acknowledged} acknowledged"
    );
    // The mark and the rows are one: each number has its row and its proof, and no other does.
    assert_eq!(
        reader.resources_in(&vpcs()).await.unwrap().len(),
        usize::try_from(last).unwrap()
    );
    for n in 1..=last {
        let urn = vpcs().urn(&format!("vpc-{n}"));
        let found = reader.resource(&urn).await.unwrap().unwrap();
        assert_eq!(found.document.config["Value"], n.to_string());
        assert!(reader.batch_header(stream(2), n).await.unwrap().is_some());
    }
    let members = reader.scope(&vpcs()).await.unwrap().unwrap().members;
    assert_eq!(members.count, last);
}
