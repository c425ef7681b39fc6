//! An audit log under somebody who can write to the disk, with and without the key.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use protocol::ids::OrgId;

use super::apply::{audit_hash, meta};
use super::{OrgInner, OrgStore, Surroundings};
use crate::appliance::Shared;
use crate::codec;
use crate::door::Door;
use crate::engine::memory::MemoryEngine;
use crate::engine::{Engine, WriteSet};
use crate::error::OpenError;
use crate::keys::{Names, sequence};
use crate::rows::audit::{AuditAct, AuditEntry, AuditFault, AuditHead};
use crate::rows::finding::Actor;
use crate::seal::{Keyring, Sealer, Wrap, random_key};
use crate::tables::Table;
use crate::writer::{Alarm, Writer};

const ORG: OrgId = OrgId::from_bytes([7; 16]);

/// A new organisation's store on an engine that the test can reach behind its back.
pub(super) fn store_on(engine: &Arc<dyn Engine>) -> OrgStore {
    let keys = Keys::fresh();
    keys.make(&**engine);
    keys.open(engine).unwrap()
}

/// An organisation's keyring, to open its file with more than once.
pub(super) struct Keys {
    wrap: Wrap,
    wrapped: Vec<u8>,
}

impl Keys {
    pub(super) fn fresh() -> Self {
        let wrap = Wrap::new(&random_key());
        let wrapped = wrap.wrap(b"org", &Keyring::fresh());
        Self { wrap, wrapped }
    }

    fn parts(&self) -> (Names, Sealer) {
        let keyring = self.wrap.unwrap(b"org", &self.wrapped).unwrap();
        let names = Names::new(keyring.name_key());
        (names, keyring.into_sealer(*ORG.as_bytes()))
    }

    /// Stores the first rows.
    pub(super) fn make(&self, engine: &dyn Engine) {
        let (names, sealer) = self.parts();
        let first = OrgInner::first_rows(ORG, &names, &sealer);
        engine.apply(&first).unwrap().unwrap();
    }

    pub(super) fn open(&self, engine: &Arc<dyn Engine>) -> Result<OrgStore, OpenError> {
        let (names, sealer) = self.parts();
        let (alarm, door) = (Alarm::new(), Door::new());
        let beside: Arc<dyn Engine> = Arc::new(MemoryEngine::default());
        let appliance = Shared {
            names: Names::new(&random_key()),
            sealer: Keyring::fresh().into_sealer([0; 16]),
            writer: Writer::start(Arc::clone(&beside), alarm.clone(), Arc::default()).unwrap(),
            engine: beside,
            door: door.clone(),
            is_closed: AtomicBool::new(false),
        };
        let around = Surroundings {
            door,
            alarm,
            pulse: Arc::default(),
            appliance: Arc::new(appliance),
            bounds: super::AgentBounds::default(),
        };
        let path = std::path::Path::new("memory");
        OrgInner::open(ORG, path, Arc::clone(engine), names, sealer, around).map(OrgStore::of)
    }
}

pub(super) fn new_engine() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::default())
}

/// Writes five entries.
async fn write_log(store: &OrgStore) {
    for n in 0..5 {
        let mut write = store.write();
        write.audit(AuditAct {
            at: Timestamp::from_second(1_700_000_000 + n).unwrap(),
            actor: Actor::Hub,
            action: "finding.mute".into(),
            object: format!("object {n}"),
            detail: String::new(),
        });
        write.commit().await.unwrap();
    }
}

/// A row as it lies on the disk.
fn raw(engine: &dyn Engine, seq: u64) -> Vec<u8> {
    let found = engine
        .snapshot()
        .unwrap()
        .get(Table::Audit, &sequence(seq))
        .unwrap();
    found.unwrap().value
}

fn put(engine: &dyn Engine, seq: u64, value: Vec<u8>) {
    let mut set = WriteSet::default();
    set.put(Table::Audit, sequence(seq).to_vec(), value);
    engine.apply(&set).unwrap().unwrap();
}

fn delete(engine: &dyn Engine, seq: u64) {
    let mut set = WriteSet::default();
    set.delete(Table::Audit, sequence(seq).to_vec());
    engine.apply(&set).unwrap().unwrap();
}

async fn verdict(store: &OrgStore) -> Result<AuditHead, AuditFault> {
    store.read(|reader| reader.verify_audit()).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_tampering_with_the_audit_log_is_named() {
    type Tamper = fn(&dyn Engine);
    let cases: [(Tamper, u64, &str); 8] = [
        (|engine| delete(engine, 1), 1, "it is missing"),
        (|engine| delete(engine, 3), 3, "it is missing"),
        (|engine| delete(engine, 5), 5, "it is missing"),
        (
            |engine| {
                let mut value = raw(engine, 2);
                *value.last_mut().unwrap() ^= 1;
                put(engine, 2, value);
            },
            2,
            "a row of table audit is damaged or does not belong where it is",
        ),
        (
            |engine| {
                let (second, third) = (raw(engine, 2), raw(engine, 3));
                put(engine, 2, third);
                put(engine, 3, second);
            },
            2,
            "a row of table audit is damaged or does not belong where it is",
        ),
        (
            |engine| put(engine, 6, raw(engine, 5)),
            6,
            "a row of table audit is damaged or does not belong where it is",
        ),
        (
            |engine| put(engine, 4, raw(engine, 1)),
            4,
            "a row of table audit is damaged or does not belong where it is",
        ),
        (
            |engine| put(engine, 0, raw(engine, 1)),
            1,
            "its key is malformed",
        ),
    ];
    for (tamper, seq, reason) in cases {
        let engine = new_engine();
        let store = store_on(&engine);
        write_log(&store).await;
        assert_eq!(verdict(&store).await.unwrap().seq, 5);
        tamper(&*engine);
        let fault = AuditFault {
            seq,
            reason: reason.into(),
        };
        assert_eq!(verdict(&store).await, Err(fault));
    }
}

#[tokio::test]
async fn with_the_key_in_hand_an_entry_still_cannot_be_changed_unnoticed() {
    type Change = fn(&mut AuditEntry);
    let cases: [(Change, u64, &str); 4] = [
        (
            |entry| entry.object = "another".into(),
            3,
            "it does not have the hash that it names",
        ),
        (
            |entry| entry.at = Timestamp::from_second(1).unwrap(),
            3,
            "it does not have the hash that it names",
        ),
        (|entry| entry.seq = 9, 3, "it names another place"),
        // Hashed again, the chain breaks one entry later.
        (
            |entry| {
                entry.object = "another".into();
                entry.hash = audit_hash(ORG, entry);
            },
            4,
            "it does not follow from the entry before",
        ),
    ];
    let seal = |store: &OrgStore, seq: u64, entry: &AuditEntry| {
        store
            .inner
            .sealer
            .seal(Table::Audit, &sequence(seq), &codec::encode(entry))
    };
    for (change, seq, reason) in cases {
        let engine = new_engine();
        let store = store_on(&engine);
        write_log(&store).await;
        let mut entry = store.audit(3, 1).await.unwrap().remove(0);
        change(&mut entry);
        put(&*engine, 3, seal(&store, 3, &entry));
        let fault = AuditFault {
            seq,
            reason: reason.into(),
        };
        assert_eq!(verdict(&store).await, Err(fault));
    }
    // The last entry has no successor; the head names it.
    let engine = new_engine();
    let store = store_on(&engine);
    write_log(&store).await;
    let mut entry = store.audit(5, 1).await.unwrap().remove(0);
    entry.object = "another".into();
    entry.hash = audit_hash(ORG, &entry);
    put(&*engine, 5, seal(&store, 5, &entry));
    let fault = AuditFault {
        seq: 5,
        reason: "the head names another entry".into(),
    };
    assert_eq!(verdict(&store).await, Err(fault));
    // A head that was set back is noticed too, and nothing is written over what it hides.
    let engine = new_engine();
    let store = store_on(&engine);
    write_log(&store).await;
    let third = store.audit(3, 1).await.unwrap().remove(0);
    let key = store.inner.names.meta(meta::AUDIT);
    let head = AuditHead {
        seq: 3,
        hash: third.hash,
    };
    let mut set = WriteSet::default();
    let sealed = store
        .inner
        .sealer
        .seal(Table::Meta, &key, &codec::encode(&head));
    set.put(Table::Meta, key, sealed);
    engine.apply(&set).unwrap().unwrap();
    let fault = AuditFault {
        seq: 4,
        reason: "it stands behind the head".into(),
    };
    assert_eq!(verdict(&store).await, Err(fault));
    let mut write = store.write();
    write.audit(AuditAct {
        at: Timestamp::UNIX_EPOCH,
        actor: Actor::Local,
        action: "any".into(),
        object: String::new(),
        detail: String::new(),
    });
    assert!(write.commit().await.is_err());
}
