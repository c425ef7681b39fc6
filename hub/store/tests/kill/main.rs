//! Nothing acknowledged is lost over a kill. A program of its own: a child holds copies of its
//! parent's locked files for a moment, and tests beside it would find their stores in use.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers of tests: one that cannot go on should stop"
)]

#[expect(dead_code, reason = "the suite uses the rest")]
#[path = "../suite/bench.rs"]
mod bench;
mod keys;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use store::{MasterKey, Store, StoreConfig};

use crate::bench::{AGENT, Bench, at, document, from, header, stream, vpcs};

/// Held by a test while it starts children: one that is just being started holds copies of every file
/// that is open here, and of their locks.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Environment of the child that is killed: the directory of its store.
const CHILD: &str = "STORE_KILL_CHILD";

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
    let _alone = ALONE.lock().await;
    let bench = Bench::new();
    let org = bench.org("acme").await.org();
    bench.store.close().await;
    let mut acknowledged = 0u64;
    for round in 1..=5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_that_writes_until_it_is_killed",
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
