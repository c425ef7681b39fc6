//! Rows get another key under writers that go on, and nothing of the old one is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use protocol::event::EventRecord;
use protocol::ids::{AgentId, OrgId, SourceId};

use super::*;
use crate::engine::{Holder, each};
use crate::rows::event::{EventBlock, EventQuery};
use crate::seal::Keyring;
use crate::store::purpose_of;
use crate::{MasterKey, OrgStore, SignedHeader, Store, StoreConfig, Stream};

struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    org: OrgStore,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let master = MasterKey::create(&dir.path().join("master"), &data).unwrap();
        let store = Store::create(StoreConfig::new(data), master).unwrap();
        let org = store.appliance().create_org("acme", at(0)).await.unwrap();
        let org = store.maintenance(org.id).await.unwrap().unwrap();
        Self {
            _dir: dir,
            store,
            org,
        }
    }

    fn id(&self) -> OrgId {
        self.org.org()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn stream(lane: u8) -> Stream {
    Stream {
        agent: AgentId::from_bytes([1; 16]),
        lane,
        epoch: [9; 16],
    }
}

async fn put(org: &OrgStore, lane: u8, seq: u64) {
    let mut write = org.write();
    let header = SignedHeader {
        received_at: at(0),
        header: vec![lane; 300],
        signature: vec![7; 64],
    };
    write.advance_high_water(stream(lane), seq, seq, header);
    write.commit().await.unwrap();
}

/// Every row of an owner with its version and the number of its key.
fn rows(owner: &impl Owned) -> Vec<(Table, Key, u64, u8)> {
    let read = owner.engine().snapshot().unwrap();
    let mut all = Vec::new();
    for table in owner.tables() {
        each(&*read, *table, &Range::all(), Direction::Forward, |entry| {
            if entry.key != keyring_key() {
                let number = entry.row.value[1];
                all.push((*table, entry.key, entry.row.version, number));
            }
            Ok::<_, ReadError>(std::ops::ControlFlow::<()>::Continue(()))
        })
        .unwrap();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_sealed_anew_in_its_place_while_others_write() {
    let bench = Bench::new().await;
    for seq in 1..=40 {
        put(&bench.org, 1, seq).await;
    }
    let before = rows(&**bench.org.inner());
    assert!(before.iter().all(|(.., number)| *number == 1));
    assert_eq!(bench.store.add_data_key(Some(bench.id())).await.unwrap(), 2);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (2..5u8)
        .map(|lane| {
            let (org, stop) = (bench.org.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut seq = 0;
                while !stop.load(Ordering::Relaxed) {
                    seq += 1;
                    put(&org, lane, seq).await;
                    assert!(org.batch_header(stream(lane), seq).await.unwrap().is_some());
                }
                seq
            })
        })
        .collect();
    let done = bench.store.reseal(Some(bench.id()), true).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(done.rows >= before.len() as u64, "{done:?}");
    for (lane, writer) in (2u8..).zip(writers) {
        let written = writer.await.unwrap();
        for seq in 1..=written {
            let found = bench.org.batch_header(stream(lane), seq).await.unwrap();
            assert_eq!(found.unwrap().header, [lane; 300]);
        }
    }
    let after = rows(&**bench.org.inner());
    assert!(after.iter().all(|(.., number)| *number == 2));
    // Nobody has written these since, and their versions say so.
    for (table, key, version, _) in &before {
        let kept = after.iter().find(|row| row.0 == *table && row.1 == *key);
        let is_batch = *table == Table::Batches;
        assert!(!is_batch || kept.unwrap().2 == *version, "{table:?}");
    }
    let keys = bench.store.data_keys().await.unwrap();
    assert!(keys.iter().all(|keys| keys.keys == 1), "{keys:?}");
    assert_eq!(keys[1].newest, 2);
    let found = bench.org.read(|reader| Ok(reader.inspect(&[]))).await;
    assert_eq!(found.unwrap().faults, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_sealed_before_a_rotation_and_stored_after_it_are_under_the_new_key() {
    let bench = Bench::new().await;
    let record = EventRecord {
        time_ms: at(5).as_millisecond(),
        raw: "kept".into(),
        ..EventRecord::default()
    };
    let item = postcard::to_stdvec(&record).unwrap();
    let mut bytes = u32::try_from(item.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(&item);
    let block = EventBlock {
        agent: AgentId::from_bytes([1; 16]),
        source: SourceId::from_bytes([2; 16]),
        received_at: at(5),
        epoch: [9; 16],
        first_seq: 1,
        payload: zstd::bulk::compress(&bytes, 1).unwrap(),
        payload_bytes: u32::try_from(bytes.len()).unwrap(),
    };
    let mut late = bench.org.write();
    late.put_events(block, &[record.view()].into_iter().collect());
    // A reader of before, too.
    put(&bench.org, 1, 1).await;
    let reader = crate::OrgReader::open(bench.org.inner()).unwrap();
    for number in [2, 3] {
        let id = Some(bench.id());
        assert_eq!(bench.store.add_data_key(id).await.unwrap(), number);
        bench.store.reseal(id, false).await.unwrap();
    }
    late.commit().await.unwrap();
    let rows = rows(&**bench.org.inner());
    assert!(rows.iter().all(|(.., number)| *number == 3), "{rows:?}");
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    let found = bench.org.search_events(query).await.unwrap();
    assert_eq!(found.events.len(), 1);
    assert_eq!(
        reader
            .batch_header(stream(1), 1)
            .unwrap()
            .unwrap()
            .first_seq,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_is_cut_off_goes_on_and_a_key_added_meanwhile_wins() {
    let bench = Bench::new().await;
    let id = Some(bench.id());
    for seq in 1..=700 {
        // Two pages of one table.
        if seq % 50 == 0 {
            put(&bench.org, 1, seq / 50).await;
        }
    }
    let mut write = bench.org.write();
    for n in 0..5000u32 {
        write.quarantine(crate::rows::event::Quarantined {
            at: at(1),
            agent: AgentId::from_bytes([1; 16]),
            source: None,
            reason: "odd".into(),
            what: n.to_string(),
        });
    }
    write.commit().await.unwrap();
    bench.store.add_data_key(id).await.unwrap();
    // Dropped in the middle of its way, again and again.
    let mut seen = 0;
    for round in 0..100 {
        let wait = Duration::from_millis(15 + 2 * round);
        let cut = tokio::time::timeout(wait, bench.store.reseal(id, true)).await;
        if cut.is_ok() {
            break;
        }
        let keys = bench.store.data_keys().await.unwrap();
        assert!(keys[1].resealed >= seen, "it began again");
        seen = keys[1].resealed;
        if seen > 1000 {
            break;
        }
    }
    assert!(seen > 0, "it was never cut off");
    assert_eq!(bench.store.add_data_key(id).await.unwrap(), 3);
    bench.store.reseal(id, true).await.unwrap();
    let rows = rows(&**bench.org.inner());
    assert!(rows.len() > 5000);
    assert!(rows.iter().all(|(.., number)| *number == 3));
    assert_eq!(bench.store.data_keys().await.unwrap()[1].keys, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_own_rows_get_another_key_and_numbers_go_round() {
    let bench = Bench::new().await;
    let user = crate::rows::access::User {
        id: protocol::ids::UserId::from_bytes([5; 16]),
        email: "a@example.com".into(),
        password_hash: "hash".into(),
        roles: Default::default(),
        hub_admin: true,
        created_at: at(0),
        disabled: false,
    };
    bench.store.appliance().create_user(user).await.unwrap();
    for round in 0..300u32 {
        let number = bench.store.add_data_key(None).await.unwrap();
        assert_eq!(u32::from(number), (round + 1) % 255 + 1);
        bench.store.reseal(None, false).await.unwrap();
    }
    let rows = rows(&**bench.store.hub().shared());
    assert!(rows.len() > 4);
    assert!(rows.iter().all(|(.., number)| *number == 46), "{rows:?}");
    assert_eq!(bench.store.appliance().users().await.unwrap().len(), 1);
    assert!(
        bench
            .store
            .appliance()
            .inspect()
            .await
            .unwrap()
            .faults
            .is_empty()
    );
}

/// The keyring as it is stored holds the newest key alone, so what was sealed under another is dark.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_before_does_not_open_with_the_keyring_of_after() {
    let bench = Bench::new().await;
    put(&bench.org, 1, 1).await;
    let old = {
        let read = bench.org.inner().engine().snapshot().unwrap();
        let page = read.scan(Table::Batches, &Range::all(), Direction::Forward, PAGE);
        page.unwrap().remove(0)
    };
    let keyring = || {
        let shared = bench.store.hub().shared();
        let stored = shared.look(|records| records.org(bench.id())).unwrap();
        let wrap = bench.store.hub().wrap();
        let purpose = purpose_of(Holder::Org(bench.id()));
        wrap.unwrap(&purpose, &stored.unwrap().keyring).unwrap()
    };
    let opens = |keyring: Keyring| {
        let sealer = keyring.into_sealer(*bench.id().as_bytes());
        sealer
            .open(Table::Batches, &old.key, &old.row.value)
            .is_ok()
    };
    assert!(opens(keyring()));
    let before = keyring();
    bench.store.add_data_key(Some(bench.id())).await.unwrap();
    assert!(
        opens(keyring()),
        "it was taken out before its rows were sealed anew"
    );
    bench.store.reseal(Some(bench.id()), false).await.unwrap();
    assert!(!opens(keyring()));
    assert!(opens(before));
}
