//! Purges an organisation: its keyring, every copy of it, its rows and its file.
//!
//! ```text
//! new master key ─▶ ledger beside the key: decided ─▶ its store is closed ─▶ one commit: its rows go
//!   from the appliance, every other keyring is wrapped anew ─▶ the old master key is destroyed ─▶ file
//! ```
//! Older pages of the appliance's file, and older copies of it, hold the keyring under the master key
//! that is gone. From the ledger on the purge is decided: cut off, the next start ends it.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use protocol::ids::OrgId;

use super::masters::{NewKeyPlace, Rotated, blocking};
use super::{Hub, Store};
use crate::engine::Holder;
use crate::error::KeyError;
use crate::master::deletions::Deletions;
use crate::master::exchange::{KeyStep, Told};
use crate::seal::Wrap;

impl Store {
    /// Purges an organisation for good. Whoever holds its store gets `Closed` from then on.
    ///
    /// # Errors
    ///
    /// `Unfinished` and `FileLeft` when the next opening, or the next call, ends it; otherwise
    /// nothing has changed: `Held` under a legal hold, `Open` where nobody can say whether there is
    /// one.
    pub async fn purge_org(
        &self,
        org: OrgId,
        at: Timestamp,
        told: Arc<Told>,
    ) -> Result<Rotated, KeyError> {
        self.hub.may_be_purged(org).await?;
        self.hub.purge(org, at, told).await
    }

    /// Ends what purges were cut off: of organisations that the ledger names, no row and no file
    /// stays. Returns how many there were.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be used, or as [`Store::purge_org`].
    pub async fn finish_purges(&self) -> Result<usize, KeyError> {
        let ledger = self.hub.ledger().await?;
        let mut ended = 0;
        for (org, at) in ledger.all() {
            if self.appliance().org(org).await?.is_some() {
                self.hub.purge(org, at, Arc::new(|_| ())).await?;
                ended += 1;
            } else if self.hub.engines.exists(Holder::Org(org)) {
                self.hub.remove_file(org).await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Returns the ledger of purged organisations.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or was changed by somebody without the master key.
    pub async fn deletions(&self) -> Result<Deletions, KeyError> {
        self.hub.ledger().await
    }
}

impl Hub {
    /// Refuses what keeps an organisation from being purged.
    async fn may_be_purged(self: &Arc<Self>, org: OrgId) -> Result<(), KeyError> {
        let store = self.open_org(org).await?.ok_or(KeyError::NoOrg)?;
        match store.legal_hold().await? {
            Some(hold) => Err(KeyError::Held {
                hold: Box::new(hold),
            }),
            None => Ok(()),
        }
    }

    /// Purges an organisation, whatever is in it.
    async fn purge(
        self: &Arc<Self>,
        org: OrgId,
        at: Timestamp,
        told: Arc<Told>,
    ) -> Result<Rotated, KeyError> {
        let _turn = self.turn_of_keys.lock().await;
        let mut ledger = self.ledger().await?;
        let key = self.write_new_key(&NewKeyPlace::KeyFile).await?;
        told(KeyStep::Written);
        let next = Arc::new(Wrap::new(&key));
        ledger.add(org, at);
        self.store_ledger(&ledger, Some(&next)).await?;
        told(KeyStep::Recorded);
        let unfinished = |error| {
            if matches!(error, KeyError::FileLeft { .. }) {
                error
            } else {
                KeyError::Unfinished(Box::new(error))
            }
        };
        let purged = self.end_purge(org, &ledger, next, told).await;
        purged.map_err(unfinished)
    }

    async fn end_purge(
        self: &Arc<Self>,
        org: OrgId,
        ledger: &Deletions,
        next: Arc<Wrap>,
        told: Arc<Told>,
    ) -> Result<Rotated, KeyError> {
        self.take_out_of_use(org).await?;
        let (before, to) = (self.wraps.current(), Arc::clone(&next));
        let from = Arc::clone(&before);
        let organisations = self
            .exchange_wraps(Arc::clone(&next), move |desk| desk.purge(org, &from, &to))
            .await?;
        told(KeyStep::Rewrapped);
        self.put_key_in_place(Arc::clone(&told)).await?;
        self.store_ledger(ledger, None).await?;
        told(KeyStep::Signed);
        self.remove_file(org).await?;
        told(KeyStep::Removed);
        Ok(Rotated {
            before: before.fingerprint(),
            after: next.fingerprint(),
            file: self.wraps.file().to_owned(),
            organisations,
        })
    }

    /// Closes an organisation's store; nobody opens it from then on.
    async fn take_out_of_use(self: &Arc<Self>, org: OrgId) -> Result<(), KeyError> {
        let slot = {
            let slots = &self.orgs.slots;
            let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.purged.insert(org);
            slots.by_id.remove(&org)
        };
        let closing = move || {
            let Some(slot) = slot else { return };
            // Who is opening it holds the slot until it is open.
            let open = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(open) = open {
                open.close();
            }
        };
        Ok(blocking(closing).await?)
    }

    async fn remove_file(self: &Arc<Self>, org: OrgId) -> Result<(), KeyError> {
        let hub = Arc::clone(self);
        let removing = move || {
            let holder = Holder::Org(org);
            match hub.engines.remove(holder) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    let path = hub.engines.place(holder);
                    Err(KeyError::FileLeft { path, source })
                }
                Ok(()) | Err(_) => Ok(()),
            }
        };
        blocking(removing).await?
    }
}
