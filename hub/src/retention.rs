//! Retention: forgets, once a day for each organisation, what is older than its class is kept.
//!
//! Lines move at midnight (UTC), so an organisation has nothing to do until the next one: its file
//! is opened once a day for it and rests otherwise. Each part of a run is a commit of its own, and
//! what other writers have to wait for is one part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use protocol::api::{DataClass, Purged};
use protocol::ids::OrgId;
use store::error::CommitError;
use store::rows::finding::Actor;
use store::rows::retention::{self, Tally};
use store::{OrgStore, ReadError, Store};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::checkpoints::Signer;
use crate::compaction;

/// How often is looked for organisations whose lines have moved.
const EVERY: Duration = Duration::from_secs(600);

/// What forgets.
pub(crate) struct Retention {
    store: Store,
    signer: Arc<Signer>,
    /// When each organisation has something to do again.
    due: Mutex<BTreeMap<OrgId, Timestamp>>,
}

impl Retention {
    pub(crate) fn new(store: Store, signer: Arc<Signer>) -> Self {
        Self {
            store,
            signer,
            due: Mutex::default(),
        }
    }

    /// Has an organisation looked at in the next round: something about it was set.
    pub(crate) fn changed(&self, org: OrgId) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.remove(&org);
    }

    fn done_until(&self, org: OrgId, next: Timestamp) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.insert(org, next);
    }

    fn is_due(&self, org: OrgId, now: Timestamp) -> bool {
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.get(&org).is_none_or(|at| *at <= now)
    }

    /// Runs where lines have moved since the last time. An organisation that fails is tried again in
    /// the next round.
    pub(crate) async fn round(&self, now: Timestamp) {
        let orgs = match self.store.appliance().orgs().await {
            Ok(orgs) => orgs,
            Err(error) => {
                error!(%error, "organisations could not be listed for retention");
                return;
            }
        };
        for org in orgs.into_iter().map(|org| org.id) {
            if !self.is_due(org, now) {
                continue;
            }
            let next = retention::Retention::next_purge(now);
            // Before it runs: what is set meanwhile shall be seen by the next round.
            self.done_until(org, next);
            let ran = match self.store.maintenance(org).await {
                Ok(Some(store)) => self.forget_and_tidy(&store, now).await,
                Ok(None) => Ok(()),
                Err(error) => Err(CommitError::Read(ReadError::Open(error))),
            };
            if let Err(error) = ran {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                error!(%org, %error, cause, "retention could not forget what is due");
                self.changed(org);
            }
        }
    }

    async fn forget_and_tidy(&self, store: &OrgStore, now: Timestamp) -> Result<(), CommitError> {
        let all = self.run(store, Actor::Hub, now).await?;
        // Measuring reads the whole file, and only what went can have made space.
        if all.iter().any(|purged| purged.rows > 0) {
            compaction::if_fragmented(store).await;
        }
        Ok(())
    }

    /// Forgets what is due of an organisation. What a legal hold keeps is not an error.
    ///
    /// # Errors
    /// The first; the classes behind it are tried all the same.
    pub(crate) async fn run(
        &self,
        store: &OrgStore,
        by: Actor,
        now: Timestamp,
    ) -> Result<Vec<Purged>, CommitError> {
        let retention = store.retention().await?;
        let sign = |message: &[u8]| self.signer.sign(message);
        let (mut all, mut failed) = (Vec::new(), None);
        for class in DataClass::ALL {
            let before = retention.line(class, now);
            let (gone, held) = match store.forget(class, before, now, by.clone(), &sign).await {
                Ok(gone) => (gone, None),
                Err(CommitError::Held { hold }) => (Tally::default(), Some(hold.reason)),
                Err(error) => {
                    failed = failed.or(Some(error));
                    continue;
                }
            };
            if gone.rows > 0 {
                info!(org = %store.org(), %class, %before, rows = gone.rows, "forgot what is old");
            }
            all.push(purged(class, before, gone, held, None));
        }
        failed.map_or(Ok(all), Err)
    }

    /// Says what a run would forget.
    ///
    /// # Errors
    /// When the organisation cannot be read.
    pub(crate) async fn dry_run(
        &self,
        store: &OrgStore,
        now: Timestamp,
    ) -> Result<Vec<Purged>, ReadError> {
        let retention = store.retention().await?;
        let mut all = Vec::new();
        for class in DataClass::ALL {
            let before = retention.line(class, now);
            let held = retention.hold_on(class).map(|hold| hold.reason.clone());
            let due = store.expired(class, before).await?;
            let bytes = Some(due.bytes);
            all.push(purged(class, before, due, held, bytes));
        }
        Ok(all)
    }
}

fn purged(
    class: DataClass,
    before: Timestamp,
    tally: Tally,
    held: Option<String>,
    bytes: Option<u64>,
) -> Purged {
    Purged {
        class,
        before,
        rows: tally.rows,
        bytes,
        oldest: tally.oldest,
        newest: tally.newest,
        held,
    }
}

/// Forgets until it is told to stop.
pub(crate) async fn serve(retention: Arc<Retention>, stop: CancellationToken) {
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Cut between two commits: the next start goes on, and tells the audit log of both.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = retention.round(Timestamp::now()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::rows::audit::AuditAct;
    use store::rows::event::Quarantined;
    use store::{MasterKey, StoreConfig};

    fn day(n: i64) -> Timestamp {
        Timestamp::from_second(1_700_006_400 + n * 86_400).unwrap()
    }

    async fn refuse(org: &OrgStore, at: Timestamp) {
        let mut write = org.write();
        write.quarantine(Quarantined {
            at,
            agent: protocol::ids::AgentId::from_bytes([1; 16]),
            source: None,
            reason: "it is odd".to_owned(),
            what: "x".to_owned(),
        });
        write.audit(AuditAct {
            at,
            actor: Actor::Hub,
            action: "test".to_owned(),
            object: String::new(),
            detail: String::new(),
        });
        write.commit().await.unwrap();
    }

    #[tokio::test]
    async fn an_organisation_is_looked_at_once_a_day_and_its_log_still_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let (data, key) = (dir.path().join("data"), dir.path().join("key"));
        let master = MasterKey::create(&key, &data).unwrap();
        let store = Store::create(StoreConfig::new(&data), master).unwrap();
        let appliance = store.appliance();
        let id = appliance.create_org("acme", day(0)).await.unwrap().id;
        let org = store.maintenance(id).await.unwrap().unwrap();
        for n in 0..10 {
            refuse(&org, day(n)).await;
        }
        let signer = Arc::new(Signer::load(&appliance).await.unwrap());
        let retention = Retention::new(store.clone(), signer);
        let kept = async || org.quarantine(100).await.unwrap().len();
        let noon = Duration::from_secs(43_200);

        retention.round(day(32) + noon).await;
        assert_eq!(kept().await, 8);
        // Nothing is due before midnight, so the file may rest.
        store.rest_idle(Duration::ZERO);
        assert_eq!(store.open_files(), 0);
        retention.round(day(33) - Duration::from_secs(1)).await;
        assert_eq!(store.open_files(), 0, "it was opened for nothing");
        retention.round(day(33)).await;
        assert_eq!(kept().await, 7);
        // Unless something was set.
        let mut write = org.write();
        write.keep_for(DataClass::Quarantine, 28);
        write.commit().await.unwrap();
        retention.changed(id);
        retention.round(day(33)).await;
        assert_eq!(kept().await, 5);

        retention.round(day(405)).await;
        assert_eq!(kept().await, 0);
        let rows = crate::cli::verify::verify(&store).await.unwrap();
        let row = &rows[1];
        assert_eq!(row["faults"], serde_json::json!([]), "{row}");
        assert_eq!(row["audit_begins"], 6, "{row}");
        let left = org.audit(1, 100).await.unwrap();
        let proofs: Vec<String> = left
            .into_iter()
            .filter(|entry| entry.action == "retention.purge")
            .map(|entry| format!("{} {}", entry.object, entry.detail))
            .collect();
        let want = [
            format!("quarantine 2 refused records from before {}", day(2)),
            format!("quarantine 1 refused records from before {}", day(3)),
            format!("quarantine 2 refused records from before {}", day(5)),
            format!("quarantine 5 refused records from before {}", day(377)),
            format!("audit 5 entries from before {}", day(5)),
        ];
        assert_eq!(proofs, want);

        // A base that the hub has not signed is a fault.
        let other = Arc::new(Signer::of_seed([7; 32]));
        Retention::new(store.clone(), other).round(day(406)).await;
        let rows = crate::cli::verify::verify(&store).await.unwrap();
        let faults = rows[1]["faults"].to_string();
        let want = "begins behind entry 6, which the hub has not signed";
        assert!(faults.contains(want), "{faults}");
    }
}
