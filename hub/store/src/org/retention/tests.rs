//! The audit log's beginning goes, and what is left still proves itself.

use std::sync::Arc;

use jiff::Timestamp;

use super::plan::{Plan, Portion};
use super::{Act, AuditBase, DataClass, Op, SignedBase};
use crate::codec;
use crate::engine::{Engine, Range, Write, WriteSet};
use crate::error::{CommitError, ReadError};
use crate::keys::{sequence, time};
use crate::org::OrgStore;
use crate::org::apply::meta;
use crate::org::tamper::{new_engine, store_on};
use crate::rows::audit::{AuditAct, AuditFault, AuditHead};
use crate::rows::event::Quarantined;
use crate::rows::finding::Actor;
use crate::tables::Table;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// Writes entries, one a second.
async fn log(store: &OrgStore, seconds: std::ops::Range<i64>) {
    for second in seconds {
        let mut write = store.write();
        write.audit(AuditAct {
            at: at(second),
            actor: Actor::Hub,
            action: "finding.mute".into(),
            object: format!("object {second}"),
            detail: String::new(),
        });
        write.commit().await.unwrap();
    }
}

fn sign(message: &[u8]) -> Vec<u8> {
    blake3::hash(message).as_bytes().to_vec()
}

async fn cut(store: &OrgStore, line: i64) -> u64 {
    let gone = store.forget(DataClass::Audit, at(line), at(1000), Actor::Hub, &sign);
    gone.await.unwrap().rows
}

async fn verdict(store: &OrgStore) -> Result<AuditHead, AuditFault> {
    store.read(|reader| reader.verify_audit()).await.unwrap()
}

async fn base(store: &OrgStore) -> SignedBase {
    store.read(|r| r.audit_base()).await.unwrap().unwrap()
}

fn put_base(engine: &dyn Engine, store: &OrgStore, base: &SignedBase) {
    let key = store.inner.names.meta(meta::AUDIT_BASE);
    let value = codec::encode(base);
    let sealed = store.inner.sealer.seal(Table::Meta, &key, &value);
    let mut set = WriteSet::default();
    set.put(Table::Meta, key, sealed);
    engine.apply(&set).unwrap().unwrap();
}

#[tokio::test]
async fn a_log_whose_beginning_was_cut_still_follows_from_what_the_hub_signed() {
    let engine = new_engine();
    let store = store_on(&engine);
    log(&store, 0..10).await;
    assert_eq!(cut(&store, 4).await, 4);
    // The proof of the cut is the eleventh.
    assert_eq!(verdict(&store).await.unwrap().seq, 11);
    let signed = base(&store).await;
    assert_eq!(signed.base.head.seq, 4);
    assert_eq!(signed.signature, sign(&signed.base.message()));
    let left = store.audit(1, 100).await.unwrap();
    assert_eq!(left.first().unwrap().seq, 5);
    let proof = left.last().unwrap();
    assert_eq!(
        (
            proof.action.as_str(),
            proof.object.as_str(),
            proof.detail.as_str()
        ),
        (
            "retention.purge",
            "audit",
            format!("4 entries from before {}", at(4)).as_str()
        )
    );
    // Again, and on; the head always stays, however old.
    assert_eq!(cut(&store, 4).await, 0);
    assert_eq!(cut(&store, 7).await, 3);
    assert_eq!(cut(&store, 5000).await, 4);
    assert_eq!(verdict(&store).await.unwrap().seq, 13);
    assert_eq!(base(&store).await.base.head.seq, 11);
    log(&store, 20..22).await;
    assert_eq!(verdict(&store).await.unwrap().seq, 15);
}

#[tokio::test]
async fn a_log_that_was_cut_further_than_its_base_says_is_found_out() {
    type Tamper = fn(&dyn Engine, &OrgStore, SignedBase);
    let cases: [(Tamper, u64, &str); 4] = [
        (
            |engine, _, _| {
                let mut set = WriteSet::default();
                let range = Range::all().before(&sequence(7));
                let table = Table::Audit;
                set.writes.push(Write::DeleteRange { table, range });
                engine.apply(&set).unwrap().unwrap();
            },
            5,
            "it is missing",
        ),
        (
            |engine, store, _| {
                let mut set = WriteSet::default();
                set.delete(Table::Meta, store.inner.names.meta(meta::AUDIT_BASE));
                engine.apply(&set).unwrap().unwrap();
            },
            1,
            "it is missing",
        ),
        // A base moved by who has the organisation's key; whether it is signed, the hub says.
        (
            |engine, store, signed| {
                let head = AuditHead {
                    seq: 4,
                    hash: [9; 32],
                };
                let base = AuditBase {
                    head,
                    ..signed.base
                };
                put_base(engine, store, &SignedBase { base, ..signed });
            },
            5,
            "it does not follow from the entry before",
        ),
        (
            |engine, store, signed| {
                let org = protocol::ids::OrgId::from_bytes([8; 16]);
                let base = AuditBase { org, ..signed.base };
                put_base(engine, store, &SignedBase { base, ..signed });
            },
            5,
            "its base is another log's",
        ),
    ];
    for (tamper, seq, reason) in cases {
        let engine = new_engine();
        let store = store_on(&engine);
        log(&store, 0..10).await;
        cut(&store, 4).await;
        tamper(&*engine, &store, base(&store).await);
        let fault = AuditFault {
            seq,
            reason: reason.into(),
        };
        assert_eq!(verdict(&store).await, Err(fault));
    }
}

async fn next(store: &OrgStore, class: DataClass, line: i64) -> Portion {
    let planned = store.plan(Plan::new(class, at(line))).await;
    planned.unwrap().0.unwrap()
}

async fn forget_without_telling(
    store: &OrgStore,
    line: i64,
    portion: Portion,
    base: Option<SignedBase>,
) -> Result<(), CommitError> {
    let line = at(line);
    let mut write = store.write();
    write.push(Op::Retention(Box::new(Act::Forget {
        line,
        portion,
        base,
    })));
    write.commit().await.map(drop)
}

#[tokio::test]
async fn a_beginning_is_cut_off_only_with_its_signed_base() {
    let engine = new_engine();
    let store = store_on(&engine);
    log(&store, 0..10).await;
    let portion = next(&store, DataClass::Audit, 4).await;
    let refused = forget_without_telling(&store, 4, portion, None).await;
    assert!(matches!(refused, Err(CommitError::Conflict { .. })));
    assert_eq!(verdict(&store).await.unwrap().seq, 10);
}

async fn refuse(store: &OrgStore, second: i64) {
    let mut write = store.write();
    write.quarantine(Quarantined {
        at: at(second),
        agent: protocol::ids::AgentId::from_bytes([1; 16]),
        source: None,
        reason: "it is odd".into(),
        what: "x".into(),
    });
    write.commit().await.unwrap();
}

#[tokio::test]
async fn what_a_run_forgot_before_it_was_cut_off_is_told_of_by_the_next() {
    let engine = new_engine();
    let store = store_on(&engine);
    for second in 0..6 {
        refuse(&store, second).await;
    }
    let portion = next(&store, DataClass::Quarantine, 4).await;
    forget_without_telling(&store, 4, portion, None)
        .await
        .unwrap();
    refuse(&store, 10).await;
    let run = store.forget(DataClass::Quarantine, at(6), at(100), Actor::Hub, &sign);
    assert_eq!(run.await.unwrap().rows, 2);
    let told = store.audit(1, 10).await.unwrap();
    assert_eq!(told.len(), 1);
    let want = format!("6 refused records from before {}", at(6));
    assert_eq!(told[0].detail, want);
}

#[tokio::test]
async fn a_row_whose_key_holds_no_instant_stays_and_is_named_by_verify() {
    let engine: Arc<dyn Engine> = new_engine();
    let store = store_on(&engine);
    let mut set = WriteSet::default();
    set.put(Table::ResourceHistory, time(at(0)).to_vec(), vec![1]);
    engine.apply(&set).unwrap().unwrap();
    let class = DataClass::ResourceHistory;
    let run = store.forget(class, at(5000), at(6000), Actor::Hub, &sign);
    assert_eq!(run.await.unwrap().rows, 0);
    let found = store.read(|r| Ok::<_, ReadError>(r.inspect(&[]))).await;
    assert!(found.unwrap().faults[0].starts_with("resource-history: a bad row"));
}
