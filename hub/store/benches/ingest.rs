//! Events per second into sealed, indexed, durable blocks.
//!
//! ```text
//! cargo bench -p store --bench ingest
//! ```
//! Each block holds 200 events of about 300 bytes, some hundred kilobytes before compression, as
//! an agent sends them. `one_writer` commits one block after the other, each with a sync of its
//! own; `eight_writers` shares syncs, as eight sessions do.

use divan::Bencher;
use divan::counter::ItemsCount;
use jiff::Timestamp;
use protocol::event::EventRecord;
use protocol::ids::{AgentId, SourceId};
use store::rows::event::EventBlock;
use store::{MasterKey, OrgStore, Store, StoreConfig};

const EVENTS: u32 = 200;
const WRITERS: usize = 8;

fn main() {
    divan::main();
}

struct Bench {
    _dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    org: OrgStore,
    records: Vec<EventRecord>,
    payload: Vec<u8>,
    payload_bytes: u32,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (data, key) = (dir.path().join("data"), dir.path().join("master"));
        let master = MasterKey::create(&key, &data).expect("a new key");
        let store = Store::create(StoreConfig::new(data), master).expect("a new store");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let org = runtime.block_on(async {
            let org = store
                .appliance()
                .create_org("bench", Timestamp::UNIX_EPOCH)
                .await;
            let org = org.expect("a new organisation").id;
            store
                .maintenance(org)
                .await
                .expect("it opens")
                .expect("it is there")
        });
        let records: Vec<EventRecord> = (0..EVENTS).map(record).collect();
        let mut bytes = Vec::new();
        for record in &records {
            let item = postcard::to_stdvec(record).expect("plain data");
            let length = u32::try_from(item.len()).expect("a short record");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&item);
        }
        let payload = zstd::bulk::compress(&bytes, 1).expect("compresses");
        let payload_bytes = u32::try_from(bytes.len()).expect("a short block");
        Self {
            _dir: dir,
            runtime,
            org,
            records,
            payload,
            payload_bytes,
        }
    }

    async fn store(&self) {
        let mut write = self.org.write();
        let block = EventBlock {
            agent: AgentId::from_bytes([1; 16]),
            source: SourceId::from_bytes([2; 16]),
            received_at: Timestamp::UNIX_EPOCH,
            epoch: [3; 16],
            first_seq: 1,
            payload: self.payload.clone(),
            payload_bytes: self.payload_bytes,
        };
        let index = self.records.iter().map(EventRecord::view).collect();
        write.put_events(block, &index);
        write.commit().await.expect("it commits");
    }
}

fn record(n: u32) -> EventRecord {
    // Ids differ from event to event as real ones do, and repeat nowhere.
    let id = blake3::hash(&n.to_le_bytes()).to_hex();
    EventRecord {
        time_ms: 1_700_000_000_000 + i64::from(n),
        class_uid: 3002,
        severity: 3,
        action: "ConsoleLogin".into(),
        activity: "Logon".into(),
        actor: format!("arn:aws:iam::123456789012:user/user-{}", n % 40),
        resource: format!("host-{}", n % 25),
        src_ip: format!("10.1.{}.{}", n % 7, n % 250),
        native_id: id.get(..32).unwrap_or_default().to_owned(),
        raw: format!(
            r#"{{"eventName":"ConsoleLogin","eventID":"{id}","userAgent":"Mozilla/5.0","result":"Success","n":{n}}}"#
        ),
    }
}

#[divan::bench]
fn one_writer(bencher: Bencher<'_, '_>) {
    let bench = Bench::new();
    bencher
        .counter(ItemsCount::new(EVENTS))
        .bench_local(|| bench.runtime.block_on(bench.store()));
}

#[divan::bench]
fn eight_writers(bencher: Bencher<'_, '_>) {
    let bench = std::sync::Arc::new(Bench::new());
    let events = WRITERS * usize::try_from(EVENTS).unwrap_or(0);
    bencher.counter(ItemsCount::new(events)).bench_local(|| {
        bench.runtime.block_on(async {
            let writers: Vec<_> = (0..WRITERS)
                .map(|_| {
                    let bench = std::sync::Arc::clone(&bench);
                    tokio::spawn(async move { bench.store().await })
                })
                .collect();
            for writer in writers {
                writer.await.expect("it stores");
            }
        });
    });
}
