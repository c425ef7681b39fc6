//! The open store: one file for the appliance, one for each organisation.
//!
//! ```text
//! <data>/appliance.redb       the hub's own rows; its keyring, wrapped by the master key
//! <data>/orgs/<org id>.redb   one organisation; its keyring stands, wrapped, in the appliance
//! ```

mod data_keys;
mod masters;
mod purge;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::OrgId;

pub use self::data_keys::{DataKeys, Resealed};
use self::masters::Wraps;
pub use self::masters::{NewKeyPlace, Rotated};
use crate::appliance::desk::StoredOrg;
use crate::appliance::{Appliance, Shared};
use crate::backup::{self, BackupError, BackupNote, BackupSummary};
use crate::codec;
use crate::door::Door;
use crate::engine::redb::{Bounds, RedbFiles};
use crate::engine::{Engine, Engines, Holder, WriteSet};
use crate::error::{ApplianceError, Fatal, OpenError};
use crate::keys::Names;
use crate::load::{Load, Pulse};
use crate::master::MasterKey;
use crate::migrate;
use crate::org::{AgentBounds, OrgInner, OrgStore, Surroundings};
use crate::rows::access::Org;
use crate::rows::audit::{Checkpoint, SignedCheckpoint};
use crate::seal::{Keyring, Owner, Sealer, fill_random};
use crate::tables::Table;
use crate::writer::{Alarm, Writer};

/// Owner of the appliance's rows.
pub(crate) const APPLIANCE: Owner = [0; 16];

/// Where the store is and how much memory it may take.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The most files of organisations that are open at once. One more that is used closes the one
    /// that was used longest ago and is not in use.
    pub open_files: usize,
    /// Page caches of those files together, in bytes. The kernel's cache stands behind them.
    pub cache_bytes: usize,
    /// The most that one agent may have in its organisation's store.
    pub agent_bounds: AgentBounds,
}

impl StoreConfig {
    /// Makes the default configuration for a data directory: 512 files with 256 MiB of cache, so
    /// that a thousand organisations stay far below a gigabyte.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            open_files: 512,
            cache_bytes: 256 << 20,
            agent_bounds: AgentBounds::default(),
        }
    }
}

/// The one place that names an engine.
pub(crate) fn engines_of(config: &StoreConfig) -> Arc<dyn Engines> {
    let bounds = Bounds {
        open_files: config.open_files,
        cache_bytes: config.cache_bytes,
    };
    Arc::new(RedbFiles::new(config.data_dir.clone(), bounds))
}

/// The row of [`Table::Meta`] that holds the appliance's wrapped keyring. It is not sealed: it is
/// what opens the others. No keyed hash has its length.
pub(crate) fn keyring_key() -> &'static [u8] {
    b"keyring"
}

/// What a keyring is wrapped for.
pub(crate) fn purpose_of(holder: Holder) -> Vec<u8> {
    match holder {
        Holder::Appliance => b"appliance".to_vec(),
        Holder::Org(org) => [b"org ".as_slice(), org.as_bytes()].concat(),
    }
}

/// The open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) hub: Arc<Hub>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("data_dir", &self.hub.config.data_dir)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Makes an empty store. Blocks.
    ///
    /// # Errors
    ///
    /// `Exists` where there is one; it is not touched then.
    pub fn create(config: StoreConfig, master: MasterKey) -> Result<Self, OpenError> {
        let engines = engines_of(&config);
        if engines.exists(Holder::Appliance) {
            return Err(OpenError::Exists {
                path: config.data_dir,
            });
        }
        let wrap = master.wrap();
        let keyring = Keyring::fresh();
        let mut first = WriteSet::default();
        let wrapped = wrap.wrap(&purpose_of(Holder::Appliance), &keyring);
        first.put(Table::Meta, keyring_key().to_vec(), wrapped);
        let names = Names::new(keyring.name_key());
        let sealer = keyring.into_sealer(APPLIANCE);
        let identity = names.meta("identity");
        let sealed = sealer.seal(Table::Meta, &identity, &codec::encode(&APPLIANCE));
        first.put(Table::Meta, identity, sealed);
        let engine = engines.create(Holder::Appliance, &first)?;
        let wraps = Wraps::new(wrap, master.file());
        Self::on(config, wraps, engines, engine, names, sealer)
    }

    /// Opens the store, and ends an exchange of the master key that was cut off. Blocks.
    ///
    /// # Errors
    ///
    /// `Missing`, `WrongMasterKey`, `Newer`, `Damaged`, `InUse`; nothing is changed then.
    pub fn open(config: StoreConfig, master: MasterKey) -> Result<Self, OpenError> {
        let engines = engines_of(&config);
        if !engines.exists(Holder::Appliance) {
            return Err(OpenError::Missing {
                path: config.data_dir,
            });
        }
        let path = engines.place(Holder::Appliance);
        let damaged = |reason: String| OpenError::Damaged {
            path: path.clone(),
            reason,
        };
        // Asked before the file is opened for writing, which changes it.
        if let Some(row) = engines.peek(Holder::Appliance, Table::Meta, keyring_key())? {
            masters::unwrap(&master, &row.value, &path)?;
        }
        let engine = engines.open(Holder::Appliance)?;
        let (names, sealer, wrap) = {
            let snapshot = engine
                .snapshot()
                .map_err(|error| damaged(error.to_string()))?;
            let row = snapshot
                .get(Table::Meta, keyring_key())
                .map_err(|error| damaged(error.to_string()))?
                .ok_or_else(|| damaged("it has no keyring".into()))?;
            let (keyring, wrap) = masters::unwrap(&master, &row.value, &path)?;
            let names = Names::new(keyring.name_key());
            let sealer = keyring.into_sealer(APPLIANCE);
            let view = crate::view::View::new(&*snapshot, &sealer);
            let identity: Owner = view
                .row(Table::Meta, &names.meta("identity"))
                .map_err(|error| OpenError::of_row(&path, &error))?
                .ok_or_else(|| damaged("it does not say whose it is".into()))?;
            if identity != APPLIANCE {
                return Err(damaged("it is not the appliance's".into()));
            }
            (names, sealer, wrap)
        };
        migrate::bring_up(&*engine, Holder::Appliance, &path, &names, &sealer)?;
        // Nobody else has the store open, so nobody else exchanges the key.
        masters::settle(&master, &wrap);
        let wraps = Wraps::new(wrap, master.file());
        Self::on(config, wraps, engines, engine, names, sealer)
    }

    fn on(
        config: StoreConfig,
        wraps: Wraps,
        engines: Arc<dyn Engines>,
        engine: Arc<dyn Engine>,
        names: Names,
        sealer: Sealer,
    ) -> Result<Self, OpenError> {
        let (alarm, door, pulse) = (Alarm::new(), Door::new(), Arc::<Pulse>::default());
        let started = Writer::start(Arc::clone(&engine), alarm.clone(), Arc::clone(&pulse));
        let writer = started.map_err(|error| OpenError::Start {
            reason: error.to_string(),
        })?;
        let shared = Shared {
            names,
            sealer,
            engine,
            writer,
            door: door.clone(),
            is_closed: AtomicBool::new(false),
        };
        let hub = Hub {
            config,
            engines,
            wraps,
            turn_of_keys: tokio::sync::Mutex::new(()),
            alarm,
            pulse,
            door,
            shared: Arc::new(shared),
            orgs: Orgs::default(),
        };
        Ok(Self { hub: Arc::new(hub) })
    }

    #[cfg(test)]
    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Says whether there is a store in a data directory.
    pub fn exists(data_dir: &Path) -> bool {
        engines_of(&StoreConfig::new(data_dir)).exists(Holder::Appliance)
    }

    /// Returns the appliance's own store.
    pub fn appliance(&self) -> Appliance {
        Appliance::of(Arc::clone(&self.hub))
    }

    /// Opens an organisation's store for start-up, timers and offline commands (see the crate's
    /// documentation for who may call this). `None` if there is no such organisation.
    ///
    /// # Errors
    ///
    /// When its file cannot be opened; other organisations are not concerned.
    pub async fn maintenance(&self, org: OrgId) -> Result<Option<OrgStore>, Arc<OpenError>> {
        self.hub.open_org(org).await
    }

    /// Waits until durability is lost. The hub ends its process then.
    pub async fn failed(&self) -> Fatal {
        self.hub.alarm.wait().await
    }

    /// Returns how many reads wait for their turn.
    pub fn waiting_reads(&self) -> usize {
        self.hub.door.waiting()
    }

    /// Returns what the store has to do.
    pub fn load(&self) -> Load {
        let hub = &self.hub;
        let open = hub.open_orgs();
        let waiting = open.iter().map(|org| (org.org(), org.waiting_writes()));
        Load {
            waiting_reads: hub.door.waiting(),
            waiting_writes: hub.shared.writer.waiting(),
            waiting_writes_of: waiting.collect(),
            open_files: hub.engines.open_files(),
            open_files_bound: hub.config.open_files,
            cache_bytes: hub.engines.cache_bytes(),
            cache_bytes_bound: hub.config.cache_bytes,
            writes: hub.pulse.writes.read(),
            commits: hub.pulse.commits.read(),
            failed_writes: hub.pulse.failures(),
        }
    }

    /// Returns how many bytes an organisation takes on the disk; those of the hub's own rows
    /// without one. Blocks.
    ///
    /// # Errors
    ///
    /// When that cannot be looked at, for example since there is no such organisation.
    pub fn bytes_of(&self, org: Option<OrgId>) -> io::Result<u64> {
        let holder = org.map_or(Holder::Appliance, Holder::Org);
        self.hub.engines.bytes(holder)
    }

    /// Signs the end of every audit log that has grown since the last time and stores it beside the
    /// hub's own rows; returns how many it were. Only open organisations can have grown.
    ///
    /// # Errors
    ///
    /// When they cannot be stored; the next call signs them again.
    pub async fn checkpoint_audits(
        &self,
        at: Timestamp,
        sign: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Result<usize, ApplianceError> {
        let open = self.hub.open_orgs();
        let grown: Vec<(OrgStore, Checkpoint)> = open
            .into_iter()
            .filter_map(|store| {
                let head = store.unsigned_audit()?;
                let org = store.org();
                Some((store, Checkpoint { org, head, at }))
            })
            .collect();
        let signed: Vec<SignedCheckpoint> = grown
            .iter()
            .map(|(_, checkpoint)| SignedCheckpoint {
                checkpoint: *checkpoint,
                signature: sign(&checkpoint.message()),
            })
            .collect();
        if signed.is_empty() {
            return Ok(0);
        }
        let storing = self.hub.shared().change(move |desk| {
            for one in &signed {
                desk.put_checkpoint(one);
            }
            Ok(())
        });
        storing.await?;
        for (store, checkpoint) in &grown {
            store.audit_signed(checkpoint.head);
        }
        Ok(grown.len())
    }

    /// Writes a backup while the store is in use. Holds up no write, and a page at a time in
    /// memory. Blocks.
    ///
    /// # Errors
    ///
    /// When a part of the store cannot be read or `to` not written; what was written is no backup
    /// then.
    pub fn back_up(
        &self,
        note: &BackupNote,
        to: &mut dyn io::Write,
    ) -> Result<BackupSummary, BackupError> {
        backup::back_up(&self.hub, note, to)
    }

    /// Returns the public name of the master key in force: 16 hexadecimal characters.
    pub fn master_key(&self) -> String {
        self.hub.wrap().fingerprint()
    }

    /// Returns the size of an organisation's file, in bytes; 0 where there is none.
    pub fn file_bytes(&self, org: OrgId) -> u64 {
        let place = self.hub.engines.place(Holder::Org(org));
        std::fs::metadata(place).map_or(0, |file| file.len())
    }

    /// Returns how many organisations' files are open.
    pub fn open_files(&self) -> usize {
        self.hub.engines.open_files()
    }

    /// Gives back the files, caches and lists of organisations that were not used for so long;
    /// handles to them stay good. Returns how many files were closed. Blocks.
    pub fn rest_idle(&self, idle: Duration) -> usize {
        self.hub.rest_idle(idle)
    }

    /// Commits what is queued and closes every file. Later calls answer `Closed`.
    pub async fn close(&self) {
        let hub = Arc::clone(&self.hub);
        let closed = tokio::task::spawn_blocking(move || hub.close()).await;
        if let Err(error) = closed {
            tracing::error!(%error, "the store was not closed well");
        }
    }
}

/// One organisation's place among those that are open: `None` until it is opened.
type Slot = Arc<Mutex<Option<OrgStore>>>;

/// The organisations that were asked for since the start.
#[derive(Default)]
struct Orgs {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_id: BTreeMap<OrgId, Slot>,
    /// Organisations that are being purged: there are none of these any more.
    purged: BTreeSet<OrgId>,
    is_closed: bool,
}

/// Everything that is open.
pub(crate) struct Hub {
    config: StoreConfig,
    engines: Arc<dyn Engines>,
    wraps: Wraps,
    /// Held by whoever makes or changes a keyring: none may be made under a master key that goes.
    turn_of_keys: tokio::sync::Mutex<()>,
    alarm: Alarm,
    pulse: Arc<Pulse>,
    door: Door,
    shared: Arc<Shared>,
    orgs: Orgs,
}

impl Hub {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn is_purged(&self, org: OrgId) -> bool {
        let slots = &self.orgs.slots;
        let slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.purged.contains(&org)
    }

    fn slot_of(&self, org: OrgId) -> Result<Slot, OpenError> {
        let mut slots = self
            .orgs
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if slots.is_closed {
            let reason = "the store is closing".into();
            return Err(OpenError::Start { reason });
        }
        Ok(Arc::clone(slots.by_id.entry(org).or_default()))
    }

    /// Returns an organisation's store, opening it if need be; `None` if there is none.
    pub(crate) async fn open_org(
        self: &Arc<Self>,
        org: OrgId,
    ) -> Result<Option<OrgStore>, Arc<OpenError>> {
        let slot = self.slot_of(org).map_err(Arc::new)?;
        match slot.try_lock() {
            Ok(open) => {
                if let Some(open) = &*open {
                    return Ok(Some(open.clone()));
                }
            }
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {}
        }
        let hub = Arc::clone(self);
        // The slot is held on the blocking thread, so that a caller who goes away leaves nobody
        // to open the file a second time.
        let opening = tokio::task::spawn_blocking(move || hub.open_slot(org, &slot));
        match opening.await {
            Ok(opened) => opened.map_err(Arc::new),
            Err(error) => Err(Arc::new(OpenError::Start {
                reason: error.to_string(),
            })),
        }
    }

    /// As [`Hub::open_org`], on this thread.
    pub(crate) fn open_org_blocking(&self, org: OrgId) -> Result<Option<OrgStore>, OpenError> {
        let slot = self.slot_of(org)?;
        self.open_slot(org, &slot)
    }

    fn open_slot(&self, org: OrgId, slot: &Slot) -> Result<Option<OrgStore>, OpenError> {
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked with the slot in hand: a purge takes it before it goes on.
        if open.is_none() && !self.is_purged(org) {
            *open = self.open_org_now(org)?;
        }
        let found = open.clone();
        if found.is_none() {
            self.forget_slot(org);
        }
        Ok(found)
    }

    /// An id that names nothing takes no memory.
    fn forget_slot(&self, org: OrgId) {
        let mut slots = self
            .orgs
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        slots.by_id.remove(&org);
    }

    fn open_org_now(&self, org: OrgId) -> Result<Option<OrgStore>, OpenError> {
        let Some(keyring) = self.keyring_of(org)? else {
            return Ok(None);
        };
        let engine = self.engines.open(Holder::Org(org))?;
        self.take_into_use(org, engine, keyring).map(Some)
    }

    fn take_into_use(
        &self,
        org: OrgId,
        engine: Arc<dyn Engine>,
        keyring: Keyring,
    ) -> Result<OrgStore, OpenError> {
        let names = Names::new(keyring.name_key());
        let sealer = keyring.into_sealer(*org.as_bytes());
        let around = Surroundings {
            door: self.door.clone(),
            alarm: self.alarm.clone(),
            pulse: Arc::clone(&self.pulse),
            appliance: Arc::clone(&self.shared),
            bounds: self.config.agent_bounds,
        };
        let holder = Holder::Org(org);
        let path = self.engines.place(holder);
        migrate::bring_up(&*engine, holder, &path, &names, &sealer)?;
        OrgInner::open(org, &path, engine, names, sealer, around).map(OrgStore::of)
    }

    /// Makes an organisation: its file first, then its row. A crash between leaves a file that no
    /// row names and that nothing opens.
    pub(crate) async fn create_org(
        self: &Arc<Self>,
        name: &str,
        at: Timestamp,
    ) -> Result<Org, ApplianceError> {
        let _turn = self.turn_of_keys.lock().await;
        let wanted = name.to_owned();
        if self
            .shared
            .ask(move |records| records.is_name_taken(&wanted))
            .await?
        {
            return Err(ApplianceError::NameTaken);
        }
        let mut id = [0u8; 16];
        fill_random(&mut id);
        let id = OrgId::from_bytes(id);
        let org = Org {
            id,
            name: name.to_owned(),
            created_at: at,
        };
        let hub = Arc::clone(self);
        let making = tokio::task::spawn_blocking(move || hub.make_file(id)).await;
        let keyring = making
            .map_err(|error| OpenError::Start {
                reason: error.to_string(),
            })
            .and_then(|made| made)
            .map_err(|error| ApplianceError::Open(Arc::new(error)))?;
        let stored = StoredOrg {
            org: org.clone(),
            keyring,
        };
        let named = self
            .shared
            .change(move |desk| desk.create_org(&stored))
            .await;
        if let Err(error) = named {
            // Without its row the file is nobody's. It is not in use: nothing has opened it.
            if matches!(error, ApplianceError::NameTaken) {
                let engines = Arc::clone(&self.engines);
                let removed =
                    tokio::task::spawn_blocking(move || engines.remove(Holder::Org(id))).await;
                if !matches!(removed, Ok(Ok(()))) {
                    tracing::warn!(org = %id, "an organisation's file without a name was left");
                }
            }
            return Err(error);
        }
        Ok(org)
    }

    /// Makes an organisation's file and returns its wrapped keyring.
    fn make_file(&self, org: OrgId) -> Result<Vec<u8>, OpenError> {
        let keyring = Keyring::fresh();
        let wrap = self.wraps.current();
        let wrapped = wrap.wrap(&purpose_of(Holder::Org(org)), &keyring);
        let names = Names::new(keyring.name_key());
        let sealer = keyring.into_sealer(*org.as_bytes());
        let first = OrgInner::first_rows(org, &names, &sealer);
        let made = self.engines.create(Holder::Org(org), &first)?;
        made.close();
        Ok(wrapped)
    }

    /// Returns the organisations that are open; one that is being opened is not yet.
    fn open_orgs(&self) -> Vec<OrgStore> {
        let slots: Vec<Slot> = {
            let slots = &self.orgs.slots;
            let slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.by_id.values().cloned().collect()
        };
        let open = slots
            .iter()
            .filter_map(|slot| slot.try_lock().ok()?.clone());
        open.collect()
    }

    fn rest_idle(&self, idle: Duration) -> usize {
        for open in self.open_orgs() {
            open.forget_lists(idle);
        }
        self.engines.rest_idle(idle)
    }

    /// Commits what is queued and closes every file. Blocks.
    fn close(&self) {
        let slots = {
            let mut slots = self
                .orgs
                .slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            slots.is_closed = true;
            std::mem::take(&mut slots.by_id)
        };
        for slot in slots.into_values() {
            let open = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(open) = open {
                open.close();
            }
        }
        self.shared.close();
    }
}
