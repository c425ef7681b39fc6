//! Keys are rotated by a process that is killed: at each step, and anywhere.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use store::{KeyStep, MasterKey, NewKeyPlace, Store, StoreConfig};

use crate::ALONE;
use crate::bench::{AGENT, Bench, at, document, from, header, stream, vpcs};

/// Environment of a child: the directory of its store.
const DIR: &str = "STORE_KEYS_CHILD";

/// Environment of a child: the step after which it is killed.
const STEP: &str = "STORE_KEYS_STEP";

const STEPS: [KeyStep; 5] = [
    KeyStep::Written,
    KeyStep::Rewrapped,
    KeyStep::Named,
    KeyStep::Replaced,
    KeyStep::Destroyed,
];

fn open(dir: &std::path::Path) -> Store {
    let master = MasterKey::load(&dir.join("master"), &dir.join("data")).unwrap();
    Store::open(StoreConfig::new(dir.join("data")), master).unwrap()
}

fn child(bench: &Bench, name: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture"])
        .env(DIR, bench.dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    child
}

/// Ends this process as `kill -9` does: nothing of it runs after.
fn die() {
    let status = Command::new("kill")
        .args(["-9", &std::process::id().to_string()])
        .status();
    assert!(status.unwrap().success());
    std::thread::sleep(Duration::from_secs(60));
}

/// Not a test of its own: rotates the master key, and dies after the step that it is told.
#[tokio::test]
async fn child_that_rotates_the_master_key() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let last: Option<usize> = std::env::var(STEP).ok().map(|n| n.parse().unwrap());
    let store = open(&PathBuf::from(dir));
    let told = move |step| {
        if last.is_some_and(|last| STEPS[last] == step) {
            die();
        }
    };
    loop {
        let rotated = store.rotate_master_key(NewKeyPlace::KeyFile, Arc::new(told));
        rotated.await.unwrap();
        if last.is_some() {
            return;
        }
    }
}

fn names(bench: &Bench) -> Vec<String> {
    let entries = fs::read_dir(bench.dir.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What must hold whatever happened: the store opens with what is in the key file's place, with all
/// its rows, and once it was open there is one key.
async fn check(bench: &Bench, rows: usize) {
    let store = open(bench.dir.path());
    let orgs = store.appliance().orgs().await.unwrap();
    assert_eq!(orgs.len(), 3);
    for org in orgs {
        let org = store.maintenance(org.id).await.unwrap().unwrap();
        assert_eq!(org.resources_in(&vpcs()).await.unwrap().len(), rows);
    }
    store.close().await;
    let names = names(bench);
    assert!(!names.contains(&"master.old".to_owned()), "{names:?}");
}

async fn filled() -> Bench {
    let bench = Bench::new();
    for name in ["one", "two", "three"] {
        let org = bench.org(name).await;
        let mut write = org.write();
        for n in 0..5 {
            let urn = vpcs().urn(&format!("vpc-{n}"));
            write.put_resource(document(&urn, "1", &[]), from(at(1)));
        }
        write.commit().await.unwrap();
    }
    bench.store.close().await;
    bench
}

#[tokio::test]
async fn a_rotation_of_the_master_key_killed_after_any_step_leaves_one_key_that_opens() {
    let _alone = ALONE.lock().await;
    for (n, step) in STEPS.iter().enumerate() {
        let bench = filled().await;
        let before = fs::read_to_string(bench.key()).unwrap();
        let mut child = child(&bench, "keys::child_that_rotates_the_master_key");
        let status: ExitStatus = child.env(STEP, n.to_string()).status().unwrap();
        assert!(!status.success(), "{step:?}: it was not killed");
        let left = names(&bench);
        check(&bench, 5).await;
        let after = fs::read_to_string(bench.key()).unwrap();
        let is_old = *step == KeyStep::Written;
        assert_eq!(after == before, is_old, "{step:?} left {left:?}");
        // And the next one goes through.
        let store = open(bench.dir.path());
        let told = Arc::new(|_| ());
        let rotated = store.rotate_master_key(NewKeyPlace::KeyFile, told).await;
        assert_eq!(rotated.unwrap().organisations, 3);
        store.close().await;
        assert_eq!(names(&bench), ["data", "master"], "{step:?}");
        check(&bench, 5).await;
        // The key of before opens nothing.
        fs::write(bench.key(), &before).unwrap();
        let old = MasterKey::load(&bench.key(), &bench.data()).unwrap();
        let refused = Store::open(StoreConfig::new(bench.data()), old).unwrap_err();
        let words = refused.to_string();
        assert!(words.contains("was sealed under master key"), "{words}");
    }
}

#[tokio::test]
async fn rotations_of_the_master_key_killed_anywhere_leave_one_key_that_opens() {
    let _alone = ALONE.lock().await;
    let bench = filled().await;
    let mut keys = std::collections::BTreeSet::new();
    for round in 0..12u64 {
        let mut child = child(&bench, "keys::child_that_rotates_the_master_key")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From before its first rotation to the middle of its tenth.
        tokio::time::sleep(Duration::from_millis(60 + 37 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        check(&bench, 5).await;
        keys.insert(fs::read_to_string(bench.key()).unwrap());
    }
    assert!(keys.len() > 3, "they were killed before they began");
}

const PURGE: [KeyStep; 8] = [
    KeyStep::Written,
    KeyStep::Recorded,
    KeyStep::Rewrapped,
    KeyStep::Named,
    KeyStep::Replaced,
    KeyStep::Destroyed,
    KeyStep::Signed,
    KeyStep::Removed,
];

/// Not a test of its own: purges an organisation, and dies after the step that it is told.
#[tokio::test]
async fn child_that_purges() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let last: usize = std::env::var(STEP).unwrap().parse().unwrap();
    let store = open(&PathBuf::from(dir));
    let orgs = store.appliance().orgs().await.unwrap();
    let two = orgs.iter().find(|org| org.name == "two").unwrap().id;
    let told = move |step| {
        if PURGE[last] == step {
            die();
        }
    };
    store.purge_org(two, at(5), Arc::new(told)).await.unwrap();
}

#[tokio::test]
async fn a_purge_killed_after_any_step_is_undecided_or_comes_to_its_end() {
    let _alone = ALONE.lock().await;
    for (n, step) in PURGE.iter().enumerate() {
        let bench = filled().await;
        let mut child = child(&bench, "keys::child_that_purges");
        let status = child.env(STEP, n.to_string()).status().unwrap();
        assert!(!status.success(), "{step:?}: it was not killed");
        let store = open(bench.dir.path());
        store.finish_purges().await.unwrap();
        let is_decided = *step != KeyStep::Written;
        let orgs = store.appliance().orgs().await.unwrap();
        let names: Vec<&str> = orgs.iter().map(|org| org.name.as_str()).collect();
        let wanted: &[&str] = if is_decided {
            &["one", "three"]
        } else {
            &["one", "three", "two"]
        };
        assert_eq!(names, wanted, "{step:?}");
        let files = fs::read_dir(bench.data().join("orgs")).unwrap().count();
        assert_eq!(files, wanted.len(), "{step:?}");
        let recorded = store.deletions().await.unwrap().all().count();
        assert_eq!(recorded, usize::from(is_decided), "{step:?}");
        for org in orgs {
            let org = store.maintenance(org.id).await.unwrap().unwrap();
            assert_eq!(org.resources_in(&vpcs()).await.unwrap().len(), 5);
        }
        store.close().await;
        let left = self::names(&bench);
        assert!(!left.contains(&"master.old".to_owned()), "{left:?}");
    }
}

/// Not a test of its own: adds data keys and seals anew, over and over, while it writes.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_rotates_data_keys_and_writes() {
    use std::io::Write;
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let store = open(&PathBuf::from(dir));
    let id = store.appliance().orgs().await.unwrap()[0].id;
    let org = store.maintenance(id).await.unwrap().unwrap();
    let rotating = store.clone();
    tokio::spawn(async move {
        for round in 0u64.. {
            for owner in [None, Some(id)] {
                rotating.reseal(owner, round % 3 == 2).await.unwrap();
                rotating.add_data_key(owner).await.unwrap();
            }
        }
    });
    let marks = org.high_waters(AGENT).await.unwrap();
    let mut next = marks.first().map_or(1, |(_, last)| last + 1);
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
async fn data_keys_rotated_under_writes_and_kills_lose_nothing_that_was_acknowledged() {
    let _alone = ALONE.lock().await;
    let bench = Bench::new();
    let id = bench.org("acme").await.org();
    bench.store.close().await;
    let (mut acknowledged, mut newest) = (0u64, std::collections::BTreeSet::new());
    for round in 1..=6u64 {
        let mut child = child(&bench, "keys::child_that_rotates_data_keys_and_writes")
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            if let Some(number) = line.unwrap().strip_prefix("stored ") {
                acknowledged = number.parse().unwrap();
            }
            if acknowledged >= round * 25 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(bench.dir.path());
        let org = store.maintenance(id).await.unwrap().unwrap();
        let last = org.high_waters(AGENT).await.unwrap()[0].1;
        assert!(last >= acknowledged, "{last} of {acknowledged}");
        for n in 1..=last {
            let urn = vpcs().urn(&format!("vpc-{n}"));
            let found = org.resource(&urn).await.unwrap().unwrap();
            assert_eq!(found.document.config["Value"], n.to_string());
            assert!(org.batch_header(stream(2), n).await.unwrap().is_some());
        }
        let inspected = org.read(|reader| Ok(reader.inspect(&[]))).await.unwrap();
        assert_eq!(inspected.faults, Vec::<String>::new());
        let own = store.appliance().inspect().await.unwrap();
        assert_eq!(own.faults, Vec::<String>::new());
        newest.insert(store.data_keys().await.unwrap()[1].newest);
        store.close().await;
    }
    assert!(
        acknowledged >= 150,
        "the children stored only {acknowledged}"
    );
    assert!(newest.len() > 2, "no key was rotated: {newest:?}");
    let store = open(bench.dir.path());
    for owner in [None, Some(id)] {
        store.reseal(owner, false).await.unwrap();
    }
    let keys = store.data_keys().await.unwrap();
    assert!(keys.iter().all(|keys| keys.keys == 1), "{keys:?}");
}
