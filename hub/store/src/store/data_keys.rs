//! Data keys: an owner gets another, its rows are sealed anew, and the older ones go.

use std::sync::{Arc, PoisonError};

use protocol::ids::OrgId;

use super::masters::blocking;
use super::{Hub, Store};
use crate::engine::{Engine, Holder, Key};
use crate::error::{ApplianceError, KeyError};
use crate::reseal::{self, Owned, Pace};
use crate::seal::{Keyring, Sealer};
use crate::tables::Table;
use crate::writer::Writer;

/// The data keys of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeys {
    /// The organisation; `None` for the hub's own rows.
    pub org: Option<OrgId>,
    /// Keys that rows are sealed under. More than one while rows are sealed anew.
    pub keys: usize,
    /// The number of the newest, under which every new row is sealed.
    pub newest: u8,
    /// Rows that were sealed anew since the newest was added.
    pub resealed: u64,
}

/// What sealing anew came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// Rows that were sealed anew.
    pub rows: u64,
}

fn holder(org: Option<OrgId>) -> Holder {
    org.map_or(Holder::Appliance, Holder::Org)
}

impl Store {
    /// Gives an organisation, or the hub's own rows, a new data key. Every row that is written from
    /// then on is sealed under it; [`Store::reseal`] seals the others anew. Returns its number.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub async fn add_data_key(&self, org: Option<OrgId>) -> Result<u8, KeyError> {
        let _turn = self.hub.turn_of_keys.lock().await;
        let add = |keyring: &mut Keyring| {
            let added = keyring.add_data_key();
            added.map(drop).ok_or(ApplianceError::DataKeys)
        };
        let keyring = self.hub.edit_keyring(holder(org), add).await?;
        let newest = keyring.data_keys().last();
        Ok(newest.map_or(0, |(number, _)| *number))
    }

    /// Seals anew what is sealed under older data keys, and then takes these out of the keyring.
    /// In the background it leaves room for other work. Cut off anywhere, the next call goes on.
    ///
    /// # Errors
    ///
    /// Every row stays readable, under one key or the other.
    pub async fn reseal(
        &self,
        org: Option<OrgId>,
        in_background: bool,
    ) -> Result<Resealed, KeyError> {
        let pace = if in_background {
            Pace::Background
        } else {
            Pace::Foreground
        };
        loop {
            let keys = self.hub.data_keys(org).await?;
            if keys.keys < 2 {
                return Ok(Resealed { rows: 0 });
            }
            let under = keys.newest;
            let rows = match org {
                None => reseal::reseal(self.hub.shared(), under, pace).await?,
                Some(org) => {
                    let store = self.hub.open_org(org).await?.ok_or(KeyError::NoOrg)?;
                    reseal::reseal(store.inner(), under, pace).await?
                }
            };
            let _turn = self.hub.turn_of_keys.lock().await;
            let keep = move |keyring: &mut Keyring| match keyring.keep_newest(under) {
                true => Ok(()),
                false => Err(ApplianceError::Conflict {
                    what: "the keyring",
                }),
            };
            match self.hub.edit_keyring(holder(org), keep).await {
                Ok(_) => return Ok(Resealed { rows }),
                // Another key was added meanwhile: the rows are to be under that one.
                Err(KeyError::Store(ApplianceError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the data keys of the hub's own rows and of every organisation.
    ///
    /// # Errors
    ///
    /// When the hub's own rows cannot be read. An organisation whose keyring does not open is left
    /// out: it cannot be opened for anything else either.
    pub async fn data_keys(&self) -> Result<Vec<DataKeys>, KeyError> {
        let mut all = vec![self.hub.data_keys(None).await?];
        for org in self.appliance().orgs().await? {
            match self.hub.data_keys(Some(org.id)).await {
                Ok(keys) => all.push(keys),
                Err(error) => {
                    tracing::warn!(org = %org.id, %error, "its keyring cannot be looked at");
                }
            }
        }
        Ok(all)
    }
}

impl Hub {
    async fn data_keys(self: &Arc<Self>, org: Option<OrgId>) -> Result<DataKeys, KeyError> {
        let sealed_with = |numbers: &[u8]| DataKeys {
            org,
            keys: numbers.len(),
            newest: numbers.last().copied().unwrap_or(0),
            resealed: 0,
        };
        let Some(id) = org else {
            let mut found = sealed_with(&self.shared().sealer.numbers());
            if found.keys > 1 {
                let shared = Arc::clone(self.shared());
                let looked = self.shared().door.run(move || reseal::cursor(&*shared));
                found.resealed = looked.await?.total;
            }
            return Ok(found);
        };
        let hub = Arc::clone(self);
        let keyring = blocking(move || hub.keyring_of(id)).await?;
        let keyring = keyring.map_err(Arc::new)?.ok_or(KeyError::NoOrg)?;
        let numbers = keyring.data_keys().iter().map(|(number, _)| *number);
        let mut found = sealed_with(&numbers.collect::<Vec<u8>>());
        if found.keys > 1
            && let Some(store) = self.open_org(id).await?
        {
            let inner = Arc::clone(store.inner());
            let looked = self.shared().door.run(move || reseal::cursor(&*inner));
            found.resealed = looked.await?.total;
        }
        Ok(found)
    }

    /// Changes a keyring, durably, and has its owner use it. The caller holds the turn of keys.
    async fn edit_keyring(
        self: &Arc<Self>,
        holder: Holder,
        edit: impl Fn(&mut Keyring) -> Result<(), ApplianceError> + Send + 'static,
    ) -> Result<Keyring, KeyError> {
        let wrap = self.wraps.current();
        let changed = self
            .shared
            .change(move |desk| desk.edit_keyring(holder, &wrap, &wrap, &edit));
        let keyring = changed.await?;
        match holder {
            Holder::Appliance => {
                self.shared.sealer.exchange(&keyring);
                Ok(keyring)
            }
            Holder::Org(org) => {
                let slot = self.slot_of(org).map_err(Arc::new)?;
                let exchanging = move || {
                    // Who is opening it may have read the keyring of before, and holds the slot
                    // until it is open. Who opens it after this reads the new one.
                    let open = slot.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(open) = &*open {
                        open.inner().sealer().exchange(&keyring);
                    }
                    drop(open);
                    keyring
                };
                Ok(blocking(exchanging).await?)
            }
        }
    }
}

impl Owned for crate::appliance::Shared {
    fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    fn writer(&self) -> &Writer {
        &self.writer
    }

    fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    fn door(&self) -> &crate::door::Door {
        &self.door
    }

    fn tables(&self) -> &'static [Table] {
        Table::APPLIANCE
    }

    fn cursor_key(&self) -> Key {
        self.names.meta("reseal")
    }
}
