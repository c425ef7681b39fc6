//! A thousand organisations on one hub: their memory and their file descriptors. A program of its
//! own, since it looks at its own process.
//!
//! ```text
//! ZERO_X_ORGS=1000 cargo test -p store --test thousand -- --nocapture
//! ```
//! Without `ZERO_X_ORGS` they are a hundred. The first pass allows a quarter of the files that the
//! second does.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "the helpers of tests: one that cannot go on should stop"
)]

#[expect(dead_code, reason = "the suite uses the rest")]
#[path = "../suite/bench.rs"]
mod bench;

use std::time::{Duration, Instant};

use store::{FindingList, OrgStore, ResourceList, Store, StoreConfig};

use crate::bench::{AGENT, Bench, at, document, from, header, stream, vpcs};

/// Memory of this process, in KiB. Source: proc(5), `VmRSS`.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Stores one batch of twenty resources.
async fn write(org: &OrgStore, n: u64) {
    let mut write = org.write();
    write.advance_high_water(stream(2), n, n, header(&n.to_string()));
    for id in 0..20 {
        let urn = vpcs().urn(&format!("vpc-{n}-{id}"));
        write.put_resource(document(&urn, &"value ".repeat(40), &[]), from(at(1)));
    }
    write.commit().await.unwrap();
}

struct Figures {
    files: usize,
    descriptors: usize,
    resident_kib: u64,
}

/// Writes to every organisation and reads all of its lists, twice round, all handles held.
async fn use_all(store: &Store, orgs: &[OrgStore], first: u64) -> Figures {
    let began = Instant::now();
    let mut most = 0;
    for n in [first, first + 1] {
        for org in orgs {
            write(org, n).await;
            let found = org.resources(ResourceList::default()).await.unwrap();
            assert_eq!(found.total, Some(n * 20));
            org.findings(FindingList::default()).await.unwrap();
            assert_eq!(org.high_waters(AGENT).await.unwrap()[0].1, n);
            most = most.max(store.open_files());
        }
    }
    let figures = Figures {
        files: most,
        descriptors: descriptors(),
        resident_kib: resident_kib(),
    };
    println!(
        "{} organisations in use: {} files open at most, {} descriptors, {} MiB, {:.1} ms a visit",
        orgs.len(),
        figures.files,
        figures.descriptors,
        figures.resident_kib / 1024,
        began.elapsed().as_secs_f64() * 500.0 / f64::from(u32::try_from(orgs.len()).unwrap()),
    );
    figures
}

async fn handles(store: &Store) -> Vec<OrgStore> {
    let mut handles = Vec::new();
    for org in store.appliance().orgs().await.unwrap() {
        handles.push(store.maintenance(org.id).await.unwrap().unwrap());
    }
    handles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_organisations_stay_within_a_gigabyte_and_the_bound_on_files() {
    let count: u64 = std::env::var("ZERO_X_ORGS").map_or(100, |n| n.parse().unwrap());
    let mut bench = Bench::new();
    let began = Instant::now();
    for n in 0..count {
        let name = format!("org {n}");
        bench
            .store
            .appliance()
            .create_org(&name, at(0))
            .await
            .unwrap();
    }
    println!("{count} organisations made in {:.1?}", began.elapsed());
    let kept = usize::try_from(count).unwrap();

    // As the hub opens it.
    let files = usize::try_from(count / 4).unwrap();
    let usual = StoreConfig::new(bench.data());
    for open_files in [files, kept] {
        bench.store.close().await;
        let config = StoreConfig {
            open_files,
            ..usual.clone()
        };
        bench.store = bench.open_with(config).unwrap();
        assert_eq!(bench.store.open_files(), 0, "files are opened when used");
        let orgs = handles(&bench.store).await;
        let first = orgs[0].high_waters(AGENT).await.unwrap();
        let first = first.first().map_or(1, |(_, last)| last + 1);
        let figures = use_all(&bench.store, &orgs, first).await;
        assert!(figures.files <= open_files, "{} files", figures.files);
        assert!(figures.descriptors <= open_files + 32);
        assert!(
            figures.resident_kib <= 1 << 20,
            "{} KiB",
            figures.resident_kib
        );

        bench.store.rest_idle(Duration::ZERO);
        println!(
            "at rest: {} files, {} descriptors, {} MiB",
            bench.store.open_files(),
            descriptors(),
            resident_kib() / 1024
        );
        assert_eq!(bench.store.open_files(), 0);
        assert!(descriptors() <= 32);
        // Handles are good after it.
        let found = orgs[0].resources(ResourceList::default()).await.unwrap();
        assert_eq!(found.total, Some((first + 1) * 20));
        assert_eq!(bench.store.open_files(), 1);
    }
}
