//! Signed ends of the audit logs: witnesses that lie in another file than the logs.
//!
//! The hub signs with a key of its own (Ed25519) and stores the checkpoint beside its own rows, one
//! for each organisation and day. `verify` holds every log against them, so that an organisation's
//! file cannot be set back or written anew unseen while the hub's own file stands.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use store::error::{ApplianceError, ReadError};
use store::rows::audit::SignedCheckpoint;
use store::rows::retention::SignedBase;
use store::{Appliance, Store};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use zeroize::Zeroizing;

/// The seed of the signing key, among the hub's own keys.
const SEED: &str = "audit/ed25519-seed";

/// How often logs that have grown are signed.
const EVERY: Duration = Duration::from_secs(60);

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    /// The system has no randomness.
    #[error("the system has no randomness to give")]
    Random(#[source] getrandom::Error),
    /// It cannot be stored or read.
    #[error("the key that signs audit logs cannot be stored")]
    Store(#[from] ApplianceError),
    /// It has another form than this program writes.
    #[error("the key that signs audit logs has not 32 bytes")]
    Form,
}

/// What signs the ends of audit logs.
pub(crate) struct Signer(SigningKey);

impl Signer {
    /// Reads the key, or makes it.
    ///
    /// # Errors
    /// When it cannot be made, read or stored.
    pub(crate) async fn load(appliance: &Appliance) -> Result<Self, SignerError> {
        let mut fresh = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut fresh).map_err(SignerError::Random)?;
        let seed = appliance.secret_or(SEED, fresh).await?;
        let seed: &[u8; 32] = seed.as_slice().try_into().map_err(|_| SignerError::Form)?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// Makes one of a seed.
    #[cfg(test)]
    pub(crate) fn of_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Signs a message.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).to_bytes().to_vec()
    }
}

/// Returns the key that checkpoints are verified with; `None` where none was ever made.
///
/// # Errors
/// When the hub's own rows cannot be read.
pub(crate) async fn verifying_key(
    appliance: &Appliance,
) -> Result<Option<VerifyingKey>, ReadError> {
    let seed = appliance.secret(SEED).await?;
    let seed = seed.and_then(|seed| <[u8; 32]>::try_from(seed.as_slice()).ok());
    Ok(seed.map(|seed| SigningKey::from_bytes(&seed).verifying_key()))
}

/// Says whether the hub signed a checkpoint.
pub(crate) fn is_signed(checkpoint: &SignedCheckpoint, key: &VerifyingKey) -> bool {
    is_signature(&checkpoint.checkpoint.message(), &checkpoint.signature, key)
}

/// Says whether the hub signed what an audit log begins from.
pub(crate) fn is_base_signed(base: &SignedBase, key: &VerifyingKey) -> bool {
    is_signature(&base.base.message(), &base.signature, key)
}

fn is_signature(message: &[u8], signature: &[u8], key: &VerifyingKey) -> bool {
    Signature::from_slice(signature)
        .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
}

/// Signs every minute, and once more at the end.
pub(crate) async fn run(store: Store, signer: Arc<Signer>, stop: CancellationToken) {
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            _ = rounds.tick() => false,
        };
        let signed = store.checkpoint_audits(Timestamp::now(), |message| signer.sign(message));
        match signed.await {
            Ok(0) => {}
            Ok(count) => debug!(count, "audit logs were signed"),
            Err(error) => warn!(%error, "audit logs could not be signed"),
        }
        if is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::rows::audit::AuditAct;
    use store::rows::finding::Actor;
    use store::{MasterKey, OrgStore, StoreConfig};

    async fn act(org: &OrgStore, object: &str) {
        let mut write = org.write();
        write.audit(AuditAct {
            at: Timestamp::UNIX_EPOCH,
            actor: Actor::Hub,
            action: "finding.mute".into(),
            object: object.into(),
            detail: String::new(),
        });
        write.commit().await.unwrap();
    }

    async fn sign(store: &Store, second: i64) -> usize {
        let signer = Signer::load(&store.appliance()).await.unwrap();
        let at = Timestamp::from_second(second).unwrap();
        let sign = |message: &[u8]| signer.sign(message);
        store.checkpoint_audits(at, sign).await.unwrap()
    }

    #[tokio::test]
    async fn a_log_that_was_set_back_as_a_whole_is_found_out_by_its_checkpoint() {
        const DAY: i64 = 86_400;
        let dir = tempfile::tempdir().unwrap();
        let (data, key) = (dir.path().join("data"), dir.path().join("key"));
        let master = MasterKey::create(&key, &data).unwrap();
        let store = Store::create(StoreConfig::new(&data), master).unwrap();
        let appliance = store.appliance();
        let made = appliance.create_org("acme", Timestamp::UNIX_EPOCH).await;
        let id = made.unwrap().id;
        let org = store.maintenance(id).await.unwrap().unwrap();
        let file = data.join("orgs").join(format!("{id}.redb"));
        act(&org, "one").await;
        assert_eq!(sign(&store, DAY).await, 1);
        assert_eq!(sign(&store, 2 * DAY).await, 0, "it has not grown");
        store.close().await;
        let before = std::fs::read(&file).unwrap();

        let open = || {
            let master = MasterKey::load(&key, &data).unwrap();
            Store::open(StoreConfig::new(&data), master).unwrap()
        };
        let store = open();
        let org = store.maintenance(id).await.unwrap().unwrap();
        act(&org, "two").await;
        act(&org, "three").await;
        assert_eq!(sign(&store, 3 * DAY).await, 1);
        let known = store.appliance().checkpoints(id).await.unwrap();
        let places: Vec<u64> = known.iter().map(|c| c.checkpoint.head.seq).collect();
        assert_eq!(places, [1, 3]);
        let public = verifying_key(&store.appliance()).await.unwrap().unwrap();
        assert!(
            known
                .iter()
                .all(|checkpoint| is_signed(checkpoint, &public))
        );
        let mut forged = known[1].clone();
        forged.checkpoint.head.seq = 2;
        assert!(!is_signed(&forged, &public));
        let rows = crate::cli::verify::verify(&store).await.unwrap();
        assert!(
            rows.iter()
                .all(|row| row["faults"] == serde_json::json!([])),
            "{rows:?}"
        );
        assert_eq!(rows[1]["checkpoint"], 3, "{rows:?}");
        store.close().await;

        std::fs::write(&file, before).unwrap();
        let store = open();
        let rows = crate::cli::verify::verify(&store).await.unwrap();
        let faults = rows[1]["faults"].to_string();
        let want = "audit entry 2: it is missing: the signed checkpoint of 1970-01-04T00:00:00Z \
                    names entry 3";
        assert!(faults.contains(want), "{faults}");
        // Written anew, it has as many entries, and other ones.
        let org = store.maintenance(id).await.unwrap().unwrap();
        act(&org, "other").await;
        act(&org, "another").await;
        let rows = crate::cli::verify::verify(&store).await.unwrap();
        let faults = rows[1]["faults"].to_string();
        let want = "audit entry 3: the signed checkpoint of 1970-01-04T00:00:00Z names another";
        assert!(faults.contains(want), "{faults}");
    }
}
