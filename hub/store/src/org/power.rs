//! Power cuts under an organisation's store: its sealed rows, its marks and its audit log, on the
//! disk of the engine's own tests.
//!
//! The usual test makes 200 cuts; `ZERO_X_POWER_ORG_CUTS` asks for another number.

use std::sync::Arc;

use jiff::Timestamp;
use protocol::ids::{AgentId, SourceId};
use protocol::{Document, Scope};

use super::tamper::Keys;
use super::{OrgStore, SignedHeader, Stream};
use crate::engine::Engine;
use crate::engine::conformance::bench::repeating_engine;
use crate::engine::redb::power::platter::{Dice, Make, Platter, Sync};
use crate::engine::redb::power::{create, open_again};
use crate::error::CommitError;
use crate::rows::audit::AuditAct;
use crate::rows::finding::Actor;
use crate::rows::resource::Provenance;

const STREAM: Stream = Stream {
    agent: AgentId::from_bytes([1; 16]),
    lane: 2,
    epoch: [9; 16],
};

fn buckets() -> Scope {
    Scope::of_type("aws.s3.bucket", "123456789012", "us-east-1")
}

fn document(n: u64) -> Document {
    let urn = buckets().urn(&format!("bucket-{n}"));
    serde_json::from_value(serde_json::json!({
        "urn": urn, "type": "aws.s3.bucket", "provider": "aws", "account": "123456789012",
        "region": "us-east-1", "id": urn.id, "native_id": "", "name": urn.id,
        "config": { "Number": n }, "collected_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap()
}

/// Stores what batch `n` brings: its mark and signed header, a resource, an audit entry.
async fn store(org: &OrgStore, n: u64) -> Result<(), CommitError> {
    let mut write = org.write();
    let header = SignedHeader {
        received_at: Timestamp::UNIX_EPOCH,
        header: n.to_be_bytes().to_vec(),
        signature: vec![7; 64],
    };
    write.advance_high_water(STREAM, n, n, header);
    let document = document(n);
    let from = Provenance {
        agent: STREAM.agent,
        source: SourceId::from_bytes([2; 16]),
        at: document.collected_at,
    };
    write.put_resource(document, from);
    write.audit(AuditAct {
        at: Timestamp::UNIX_EPOCH,
        actor: Actor::Hub,
        action: "batch.store".into(),
        object: n.to_string(),
        detail: String::new(),
    });
    write.commit().await.map(drop)
}

/// Checks that what is stored is whole batches from the first on, and returns the last.
async fn stored(org: &OrgStore) -> Result<u64, String> {
    let marks = org.high_waters(STREAM.agent).await;
    let marks = marks.map_err(|error| error.to_string())?;
    let last = marks.first().map_or(0, |(_, last)| *last);
    let log = org.read(|reader| reader.verify_audit()).await;
    let log = log.map_err(|error| error.to_string())?;
    let log = log.map_err(|fault| fault.to_string())?;
    if log.seq != last {
        return Err(format!("mark {last}, {} audit entries", log.seq));
    }
    let found = org.resources_in(&buckets()).await;
    let found = found.map_err(|error| error.to_string())?.len();
    if u64::try_from(found).unwrap() != last {
        return Err(format!("mark {last}, {found} resources"));
    }
    for n in last.saturating_sub(3).max(1)..=last {
        let header = org.batch_header(STREAM, n).await;
        let header = header.map_err(|error| error.to_string())?;
        if header.map(|header| header.header) != Some(n.to_be_bytes().to_vec()) {
            return Err(format!("batch {n} of {last} has no header"));
        }
        let resource = org.resource(&document(n).urn).await;
        let resource = resource.map_err(|error| error.to_string())?;
        if resource.is_none_or(|found| found.document.config["Number"] != n) {
            return Err(format!("batch {n} of {last} has no resource"));
        }
    }
    Ok(last)
}

/// Lives through some cuts; says what was lost or torn.
async fn live(seed: u64, cuts: usize, sync: Sync) -> Result<u64, String> {
    let mut dice = Dice::new(seed);
    let platter = Platter::new(Make::of_seed(seed));
    let keys = Keys::fresh();
    {
        let engine = create(&platter).unwrap();
        keys.make(&engine);
    }
    platter.set_sync(sync);
    let mut acknowledged = 0;
    for cut in 0..=cuts {
        let engine = open_again(&platter).map_err(|error| error.to_string())?;
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let org = keys.open(&engine).map_err(|error| error.to_string())?;
        let found = stored(&org).await?;
        if found != acknowledged && found != acknowledged + 1 {
            return Err(format!("{found} stored of {acknowledged} acknowledged"));
        }
        acknowledged = found;
        if cut < cuts {
            platter.set_power(1 + dice.below(400));
            while store(&org, acknowledged + 1).await.is_ok() {
                acknowledged += 1;
            }
        }
        org.close();
        if cut < cuts && !platter.is_dark() {
            return Err("a write failed while there was power".into());
        }
        drop((org, engine));
        platter.cut(&mut dice);
    }
    Ok(acknowledged)
}

/// Cuts of one life.
const CUTS_OF_A_LIFE: usize = 10;

#[tokio::test]
async fn a_power_cut_loses_no_acknowledged_batch_and_tears_none() {
    let cuts = std::env::var("ZERO_X_POWER_ORG_CUTS").ok();
    let cuts = cuts.map_or(200, |cuts| cuts.parse().unwrap());
    let mut batches = 0;
    for seed in 0..cuts / u64::try_from(CUTS_OF_A_LIFE).unwrap() {
        let stored = live(seed, CUTS_OF_A_LIFE, Sync::Works).await;
        batches += stored.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(batches > cuts, "only {batches} batches over {cuts} cuts");
}

#[tokio::test]
async fn a_disk_whose_sync_lies_is_found_out_by_the_same_lives() {
    let mut found_out = 0;
    for seed in 0..20 {
        found_out += usize::from(live(seed, 6, Sync::Lies).await.is_err());
    }
    assert!(found_out > 15, "only {found_out} of 20 were found out");
}

#[tokio::test]
async fn what_an_engine_runs_twice_is_stored_once() {
    let engine = repeating_engine();
    let keys = Keys::fresh();
    keys.make(&*engine);
    let org = keys.open(&engine).unwrap();
    for n in 1..=20 {
        store(&org, n).await.unwrap();
        let again = store(&org, n).await;
        assert!(matches!(again, Err(CommitError::Repeat { high_water }) if high_water == n));
    }
    assert_eq!(stored(&org).await, Ok(20));
}
