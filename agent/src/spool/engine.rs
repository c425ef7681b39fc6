//! The spool's file. All of it runs on the spool's own thread; the only user of redb.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use protocol::batch::{self, BatchBuilder, Place, SealedBatch, Signer};
use protocol::document::ContentHash;
use protocol::frame::{Decoder, Lane};
use protocol::ids::SourceId;
use protocol::session::agent::StoredBatch;
use protocol::wire::v1::{Epoch, Resent, Witness};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction,
};

use super::tables::{BATCHES, CONTENTS, CURSORS, FORMAT, GENERATIONS, LANES, META, REPAIRS};
use super::{Commit, Config, Effect, Fetched, Full, Gauges, Released, SpoolError, repair};
use crate::layout;
use crate::seal::{self, SealKey};
use crate::sync::sweep::Known;

/// Pages that redb keeps in memory. The agent should be small; the system caches the file.
const CACHE_BYTES: usize = 2 << 20;

const FILE: &str = "spool.redb";
const CHECK: &[u8] = b"zero-x-agent spool";

/// A value's plain head: when it was made and the sequence of its last item.
const HEAD_BYTES: usize = 16;

/// The open file and what is needed to seal and sign.
pub(crate) struct Engine {
    /// Empty after a failed write: redb refuses further work then, and the file is opened again.
    slot: Option<Database>,
    folder: PathBuf,
    config: Config,
    key: SealKey,
    signer: Box<dyn Signer + Send>,
    gauges: Arc<Gauges>,
    epoch: Epoch,
    witness: Option<Witness>,
}

/// A commit that has to wait, given back whole, or `Ok` once it is stored.
pub(super) type CommitResult = Result<(), (Full, Commit)>;

pub(super) fn storage<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> SpoolError {
    move |error| SpoolError::Storage {
        doing,
        source: Box::new(error.into()),
    }
}

impl Engine {
    /// Opens or makes the file; moves a damaged or foreign one aside and begins anew.
    pub(super) fn open(
        folder: &Path,
        config: Config,
        key: SealKey,
        signer: Box<dyn Signer + Send>,
        gauges: Arc<Gauges>,
    ) -> Result<(Self, Option<PathBuf>), SpoolError> {
        layout::make_private_dir(folder).map_err(|error| SpoolError::Folder {
            path: folder.to_owned(),
            source: std::io::Error::other(error),
        })?;
        let mut engine = Self {
            slot: None,
            folder: folder.to_owned(),
            config,
            key,
            signer,
            gauges,
            epoch: Epoch::default(),
            witness: None,
        };
        let why = match engine.open_file() {
            Ok(()) => return Ok((engine, None)),
            Err(error) => error,
        };
        if !why.is_for_good() {
            return Err(why.into_error(folder));
        }
        engine.slot = None;
        let aside = engine.move_aside()?;
        tracing::error!(
            file = %aside.display(),
            reason = %why,
            "the spool was moved aside; sources are read anew"
        );
        engine
            .open_file()
            .map_err(|error| error.into_error(folder))?;
        Ok((engine, Some(aside)))
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    fn move_aside(&self) -> Result<PathBuf, SpoolError> {
        let folder = |source| SpoolError::Folder {
            path: self.folder.clone(),
            source,
        };
        // One is kept for whoever wants to look; older ones would only fill the disk.
        for entry in fs::read_dir(&self.folder).map_err(folder)? {
            let entry = entry.map_err(folder)?;
            if entry.file_name().to_string_lossy().starts_with("aside-") {
                fs::remove_file(entry.path()).map_err(folder)?;
            }
        }
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let aside = self.folder.join(format!("aside-{stamp}.redb"));
        fs::rename(self.path(), &aside).map_err(folder)?;
        Ok(aside)
    }

    /// Opens the file into the slot, checks format and key, and reads what is needed in memory.
    fn open_file(&mut self) -> Result<(), OpenError> {
        let path = self.path();
        // redb can panic on a file that a lying disk has torn.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(&path)
        }));
        let database = match opened {
            Ok(Ok(database)) => database,
            Ok(Err(error)) => return Err(OpenError::of(error.into())),
            Err(_) => return Err(OpenError::Torn),
        };
        let read = catch_unwind(AssertUnwindSafe(|| self.read_meta(&database)));
        match read {
            Ok(Ok(())) => {
                self.slot = Some(database);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(OpenError::Torn),
        }
    }

    fn read_meta(&mut self, database: &Database) -> Result<(), OpenError> {
        let write = database.begin_write().map_err(OpenError::of_any)?;
        {
            let mut meta = write.open_table(META).map_err(OpenError::of_any)?;
            let format = meta.get("format").map_err(OpenError::of_any)?;
            let format = format.map(|value| value.value().to_vec());
            match format.as_deref().map(<[u8; 4]>::try_from) {
                None => {
                    let epoch = seal::random::<16>();
                    let check = self.key.seal(b"check", CHECK);
                    for (name, value) in [
                        ("format", FORMAT.to_le_bytes().as_slice()),
                        ("epoch", epoch.as_slice()),
                        ("check", check.as_slice()),
                    ] {
                        meta.insert(name, value).map_err(OpenError::of_any)?;
                    }
                }
                Some(Ok(found)) if u32::from_le_bytes(found) > FORMAT => {
                    return Err(OpenError::Newer(u32::from_le_bytes(found)));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) => return Err(OpenError::Torn),
            }
            let get = |name: &str| -> Result<Option<Vec<u8>>, OpenError> {
                let value = meta.get(name).map_err(OpenError::of_any)?;
                Ok(value.map(|value| value.value().to_vec()))
            };
            let check = get("check")?.ok_or(OpenError::Torn)?;
            self.key
                .open(b"check", &check)
                .map_err(|_| OpenError::Foreign)?;
            let epoch = get("epoch")?.and_then(|bytes| Epoch::try_from(bytes).ok());
            self.epoch = epoch.ok_or(OpenError::Torn)?;
            // One that cannot be read is no worse than none: the hub is met as for the first time.
            self.witness = get("witness")?.and_then(|bytes| postcard::from_bytes(&bytes).ok());
            // Opened once here, so that every reader finds them.
            write.open_table(BATCHES).map_err(OpenError::of_any)?;
            write.open_table(LANES).map_err(OpenError::of_any)?;
            write.open_table(CURSORS).map_err(OpenError::of_any)?;
            write.open_table(CONTENTS).map_err(OpenError::of_any)?;
            write.open_table(GENERATIONS).map_err(OpenError::of_any)?;
            write.open_table(REPAIRS).map_err(OpenError::of_any)?;
        }
        commit(write, Durability::Immediate).map_err(|error| {
            if let SpoolError::Storage { source, .. } = error {
                OpenError::of(*source)
            } else {
                OpenError::Torn
            }
        })?;
        let read = database.begin_read().map_err(OpenError::of_any)?;
        let batches = read.open_table(BATCHES).map_err(OpenError::of_any)?;
        let (mut bytes, mut oldest_ms) = (0u64, 0i64);
        for entry in batches.iter().map_err(OpenError::of_any)? {
            let (_, value) = entry.map_err(OpenError::of_any)?;
            let (made_at_ms, _, _) = split_value(value.value()).ok_or(OpenError::Torn)?;
            bytes += length(value.value());
            oldest_ms = older(oldest_ms, made_at_ms);
        }
        self.gauges.set(bytes, oldest_ms);
        Ok(())
    }

    /// Returns the open file; opens it again after a failed write.
    fn database(&mut self) -> Result<&Database, SpoolError> {
        if self.slot.is_none() {
            let folder = self.folder.clone();
            self.open_file()
                .map_err(|error| error.into_error(&folder))?;
        }
        self.slot.as_ref().ok_or(SpoolError::Closed)
    }

    /// Runs `work`, and drops the file when it fails, so that the next call opens it again.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        let result = work(self);
        if let Err(SpoolError::Storage { .. }) = &result {
            self.slot = None;
        }
        result
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Returns how far the hub's store has come, as far as is known.
    pub(crate) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    /// Stores batches and effects in one transaction, or gives the commit back when it must wait.
    pub(super) fn commit(
        &mut self,
        source: SourceId,
        commit: Commit,
    ) -> Result<CommitResult, SpoolError> {
        if let Some(full) = self.full(&commit) {
            return Ok(Err((full, commit)));
        }
        self.guarded(|engine| engine.store(source, commit)).map(Ok)
    }

    /// Returns why a commit has no room now.
    ///
    /// Bulk may fill three quarters; reports and events the rest. A commit without batches always
    /// passes: it frees more than it takes.
    fn full(&self, commit: &Commit) -> Option<Full> {
        let held = self.gauges.waiting().bytes;
        let max = self.config.max_bytes;
        let share = |lane: Lane| match lane {
            Lane::Inventory | Lane::Cost => max / 4 * 3,
            Lane::Control | Lane::Events | Lane::Results => max,
        };
        let bound = commit.batches.iter().map(|(lane, _)| share(*lane)).min()?;
        if held >= bound {
            return Some(Full::Spool);
        }
        let free = free_bytes(&self.folder)?;
        (free < self.config.keep_free_bytes).then_some(Full::Disk)
    }

    fn store(&mut self, source: SourceId, stored: Commit) -> Result<(), SpoolError> {
        let made_at_ms = Timestamp::now().as_millisecond();
        let (epoch, key) = (self.epoch, self.key.clone());
        let write = begin(self.database()?)?;
        let mut added = 0;
        {
            let mut batches = write
                .open_table(BATCHES)
                .map_err(storage("open the batches"))?;
            let mut lanes = write.open_table(LANES).map_err(storage("open the lanes"))?;
            for (lane, builder) in stored.batches {
                let next = lanes.get(lane.number()).map_err(storage("read a lane"))?;
                let first_seq = next.map_or(1, |next| next.value());
                let place = Place {
                    lane,
                    epoch,
                    first_seq,
                    source,
                    made_at_ms,
                };
                let (header, frame) = builder.seal(&place, self.signer.as_ref())?;
                let value = seal_value(&key, &place, header.last_seq(), &frame);
                added += length(&value);
                let place = (lane.number(), first_seq);
                batches
                    .insert(place, value.as_slice())
                    .map_err(storage("write a batch"))?;
                let next = header.last_seq() + 1;
                lanes
                    .insert(lane.number(), next)
                    .map_err(storage("write a lane"))?;
            }
        }
        remember(&write, &key, stored.effects)?;
        commit(write, Durability::Immediate)?;
        let waiting = self.gauges.waiting();
        if added > 0 {
            let oldest_ms = older(waiting.oldest_ms, made_at_ms);
            self.gauges.set(waiting.bytes + added, oldest_ms);
        }
        Ok(())
    }

    /// Returns the first batch behind `after_seq`.
    pub(super) fn fetch(&mut self, lane: Lane, after_seq: u64) -> Result<Fetched, SpoolError> {
        self.guarded(|engine| {
            let (epoch, key) = (engine.epoch, engine.key.clone());
            let read = engine.read()?;
            let batches = read
                .open_table(BATCHES)
                .map_err(storage("open the batches"))?;
            let number = lane.number();
            let range = (number, after_seq + 1)..=(number, u64::MAX);
            let mut found = batches.range(range).map_err(storage("look for a batch"))?;
            let Some(entry) = found.next() else {
                let lanes = read.open_table(LANES).map_err(storage("open the lanes"))?;
                let next = lanes.get(number).map_err(storage("read a lane"))?;
                let next = next.map_or(1, |next| next.value());
                return Ok(if next > after_seq + 1 {
                    Fetched::Missing
                } else {
                    Fetched::Nothing
                });
            };
            let (place, value) = entry.map_err(storage("read a batch"))?;
            let (_, first_seq) = place.value();
            if first_seq != after_seq + 1 {
                return Ok(Fetched::Missing);
            }
            let (last_seq, frame) = open_value(&key, lane, epoch, first_seq, value.value())?;
            Ok(Fetched::Batch(StoredBatch {
                first_seq,
                last_seq,
                frame,
            }))
        })
    }

    /// Removes the batches up to `through_seq`.
    ///
    /// Not durable by itself: a crash only brings back what the hub says again to have.
    pub(super) fn release(&mut self, lane: Lane, through_seq: u64) -> Result<Released, SpoolError> {
        self.guarded(|engine| {
            let write = begin(engine.database()?)?;
            let mut freed = 0;
            {
                let lanes = write.open_table(LANES).map_err(storage("open the lanes"))?;
                let next = lanes.get(lane.number()).map_err(storage("read a lane"))?;
                if through_seq >= next.map_or(1, |next| next.value()) {
                    return Ok(Released::Ahead);
                }
                let mut batches = write
                    .open_table(BATCHES)
                    .map_err(storage("open the batches"))?;
                let range = (lane.number(), 0)..=(lane.number(), through_seq);
                batches
                    .retain_in(range, |_, value| {
                        let (_, last_seq, _) = split_value(value).unwrap_or_default();
                        let keep = last_seq > through_seq;
                        if !keep {
                            freed += length(value);
                        }
                        keep
                    })
                    .map_err(storage("remove batches"))?;
            }
            if freed == 0 {
                return Ok(Released::Done);
            }
            commit(write, Durability::None)?;
            let bytes = engine.gauges.waiting().bytes.saturating_sub(freed);
            let oldest_ms = engine.oldest_ms()?;
            engine.gauges.set(bytes, oldest_ms);
            Ok(Released::Done)
        })
    }

    fn oldest_ms(&mut self) -> Result<i64, SpoolError> {
        let read = self.read()?;
        let batches = read
            .open_table(BATCHES)
            .map_err(storage("open the batches"))?;
        let mut oldest_ms = 0;
        for lane in Lane::DATA {
            let range = (lane.number(), 0)..=(lane.number(), u64::MAX);
            let mut found = batches.range(range).map_err(storage("look for a batch"))?;
            if let Some(entry) = found.next() {
                let (_, value) = entry.map_err(storage("read a batch"))?;
                let (made_at_ms, _, _) = split_value(value.value()).unwrap_or_default();
                oldest_ms = older(oldest_ms, made_at_ms);
            }
        }
        Ok(oldest_ms)
    }

    fn read(&mut self) -> Result<ReadTransaction, SpoolError> {
        self.database()?
            .begin_read()
            .map_err(storage("read the spool"))
    }

    /// Returns the cursor of a tail as it was last committed.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn cursor(&mut self, source: SourceId) -> Result<Option<Vec<u8>>, SpoolError> {
        self.guarded(|engine| {
            let key = engine.key.clone();
            let read = engine.read()?;
            let cursors = read
                .open_table(CURSORS)
                .map_err(storage("open the cursors"))?;
            let sealed = cursors
                .get(source.as_bytes())
                .map_err(storage("read a cursor"))?;
            match sealed {
                None => Ok(None),
                Some(sealed) => {
                    let cursor = key.open(&cursor_place(source), sealed.value())?;
                    Ok(Some(cursor.to_vec()))
                }
            }
        })
    }

    /// Remembers how far the hub's store has come; durably at the latest with the next batch, and
    /// at once for another life of the store.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn remember(&mut self, witness: Witness) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let write = begin(engine.database()?)?;
            {
                let mut meta = write.open_table(META).map_err(storage("open the spool"))?;
                let bytes = postcard::to_stdvec(&witness).expect("a plain struct serialises");
                meta.insert("witness", bytes.as_slice())
                    .map_err(storage("write how far the hub has come"))?;
            }
            let known = engine.witness.map(|known| known.hub_epoch);
            commit(
                write,
                if known == Some(witness.hub_epoch) {
                    Durability::None
                } else {
                    Durability::Immediate
                },
            )?;
            engine.witness = Some(witness);
            Ok(())
        })
    }

    /// Forgets what the hub holds of a scope; of all scopes for an empty text.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn forget_scope(&mut self, scope: &str) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let write = begin(engine.database()?)?;
            forget(&write, scope)?;
            commit(write, Durability::Immediate)
        })
    }

    /// Compares the hub's sums of a scope with what it was told, and remembers what to send again.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub(crate) fn repair(&mut self, scope: &str, theirs: &[u64]) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let key = engine.key.clone();
            let database = engine.database()?;
            let read = database.begin_read().map_err(storage("read the spool"))?;
            let view = View { read, key };
            let resent = repair::compare(&view, scope, theirs)?;
            let write = begin(database)?;
            repair::remember(&write, scope, &resent)?;
            commit(write, Durability::Immediate)
        })
    }

    /// Forgets the cursor of a source that was removed.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn forget_cursor(&mut self, source: SourceId) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let write = begin(engine.database()?)?;
            {
                let mut cursors = write
                    .open_table(CURSORS)
                    .map_err(storage("open the cursors"))?;
                cursors
                    .remove(source.as_bytes())
                    .map_err(storage("remove a cursor"))?;
            }
            commit(write, Durability::Immediate)
        })
    }

    /// Numbers and signs everything that waits anew, under a new epoch.
    pub(super) fn roll_epoch(&mut self) -> Result<Epoch, SpoolError> {
        self.guarded(|engine| {
            let (old, fresh) = (engine.epoch, seal::random::<16>());
            let key = engine.key.clone();
            let write = begin(engine.database()?)?;
            let mut bytes = 0;
            {
                let mut batches = write
                    .open_table(BATCHES)
                    .map_err(storage("open the batches"))?;
                let mut lanes = write.open_table(LANES).map_err(storage("open the lanes"))?;
                for lane in Lane::DATA {
                    let number = lane.number();
                    let mut firsts = Vec::new();
                    let range = (number, 0)..=(number, u64::MAX);
                    for entry in batches.range(range).map_err(storage("look for batches"))? {
                        let (place, _) = entry.map_err(storage("read a batch"))?;
                        firsts.push(place.value().1);
                    }
                    let mut next = 1;
                    for first_seq in firsts {
                        let frame = {
                            let taken = batches
                                .remove((number, first_seq))
                                .map_err(storage("take a batch"))?;
                            let Some(taken) = taken else { continue };
                            open_value(&key, lane, old, first_seq, taken.value())?.1
                        };
                        let (value, last_seq) =
                            engine.sign_anew(&key, lane, fresh, next, &frame)?;
                        bytes += length(&value);
                        // New numbers start at 1 and old ones are never smaller: none is
                        // overwritten.
                        batches
                            .insert((number, next), value.as_slice())
                            .map_err(storage("write a batch"))?;
                        next = last_seq + 1;
                    }
                    lanes
                        .insert(number, next)
                        .map_err(storage("write a lane"))?;
                }
                let mut meta = write.open_table(META).map_err(storage("open the spool"))?;
                meta.insert("epoch", fresh.as_slice())
                    .map_err(storage("write the epoch"))?;
            }
            forget(&write, "")?;
            commit(write, Durability::Immediate)?;
            engine.epoch = fresh;
            let oldest_ms = engine.oldest_ms()?;
            engine.gauges.set(bytes, oldest_ms);
            Ok(fresh)
        })
    }

    fn sign_anew(
        &self,
        key: &SealKey,
        lane: Lane,
        epoch: Epoch,
        first_seq: u64,
        frame: &[u8],
    ) -> Result<(Vec<u8>, u64), SpoolError> {
        let torn = || SpoolError::Sealed(seal::SealError::Damaged);
        let mut decoder = Decoder::new(lane);
        decoder.push(frame);
        let frame = decoder.pop().ok().flatten().ok_or_else(torn)?;
        let sealed = SealedBatch::parse(&frame)?;
        let items = batch::open_payload(&sealed.payload, sealed.header.payload_bytes)?;
        let mut builder = BatchBuilder::default();
        for item in items.iter() {
            builder.push_bytes(item)?;
        }
        let place = Place {
            lane,
            epoch,
            first_seq,
            source: sealed.header.source,
            made_at_ms: sealed.header.made_at_ms,
        };
        let (header, frame) = builder.seal(&place, self.signer.as_ref())?;
        let last_seq = header.last_seq();
        Ok((seal_value(key, &place, last_seq, &frame), last_seq))
    }

    /// Returns a view of what the hub is known to hold, at this moment.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(crate) fn known(&mut self) -> Result<View, SpoolError> {
        let key = self.key.clone();
        self.guarded(Self::read).map(|read| View { read, key })
    }

    /// Writes what is not yet durable and closes the file.
    pub(super) fn close(mut self) {
        if let Some(database) = self.slot.take() {
            let written = begin(&database).and_then(|write| commit(write, Durability::Immediate));
            if let Err(error) = written {
                tracing::error!(%error, "the spool could not be closed cleanly");
            }
        }
    }
}

/// What the hub was told, as of one moment.
pub(crate) struct View {
    read: ReadTransaction,
    key: SealKey,
}

impl Known for View {
    type Error = SpoolError;

    fn content(&self, scope: &str, id: &str) -> Result<Option<ContentHash>, SpoolError> {
        let contents = self
            .read
            .open_table(CONTENTS)
            .map_err(storage("open the contents"))?;
        let sealed = contents
            .get((scope, id))
            .map_err(storage("read a content"))?;
        let Some(sealed) = sealed else {
            return Ok(None);
        };
        let content = self.key.open(&content_place(scope, id), sealed.value())?;
        Ok(ContentHash::try_from(content.as_slice()).ok())
    }

    fn ids(&self, scope: &str) -> Result<Vec<String>, SpoolError> {
        let contents = self
            .read
            .open_table(CONTENTS)
            .map_err(storage("open the contents"))?;
        let mut ids = Vec::new();
        for entry in contents
            .range((scope, "")..)
            .map_err(storage("list a scope"))?
        {
            let (place, _) = entry.map_err(storage("list a scope"))?;
            let (of, id) = place.value();
            if of != scope {
                break;
            }
            ids.push(id.to_owned());
        }
        Ok(ids)
    }

    fn asked(&self, scope: &str) -> Result<Option<Resent>, SpoolError> {
        repair::asked(&self.read, scope)
    }

    fn generation(&self, scope: &str) -> Result<u64, SpoolError> {
        let generations = self
            .read
            .open_table(GENERATIONS)
            .map_err(storage("open the generations"))?;
        let generation = generations
            .get(scope)
            .map_err(storage("read a generation"))?;
        Ok(generation.map_or(0, |generation| generation.value()))
    }
}

fn begin(database: &Database) -> Result<WriteTransaction, SpoolError> {
    database.begin_write().map_err(storage("write the spool"))
}

fn commit(mut write: WriteTransaction, durability: Durability) -> Result<(), SpoolError> {
    // Opening after a crash then takes milliseconds, whatever the size.
    write.set_quick_repair(matches!(durability, Durability::Immediate));
    write
        .set_durability(durability)
        .map_err(storage("write the spool"))?;
    write.commit().map_err(storage("write the spool"))
}

fn remember(
    write: &WriteTransaction,
    key: &SealKey,
    effects: Vec<Effect>,
) -> Result<(), SpoolError> {
    let mut contents = write
        .open_table(CONTENTS)
        .map_err(storage("open the contents"))?;
    let mut generations = write
        .open_table(GENERATIONS)
        .map_err(storage("open the generations"))?;
    let mut cursors = write
        .open_table(CURSORS)
        .map_err(storage("open the cursors"))?;
    for effect in effects {
        match effect {
            Effect::Content { scope, id, content } => {
                let place = (scope.as_str(), id.as_str());
                let sealed = key.seal(&content_place(&scope, &id), &content);
                contents
                    .insert(place, sealed.as_slice())
                    .map_err(storage("write a content"))?;
            }
            Effect::Forgotten { scope, id } => {
                contents
                    .remove((scope.as_str(), id.as_str()))
                    .map_err(storage("remove a content"))?;
            }
            Effect::Generation { scope, generation } => {
                generations
                    .insert(scope.as_str(), generation)
                    .map_err(storage("write a generation"))?;
            }
            Effect::Resent { scope, resent } => repair::done(write, &scope, &resent)?,
            Effect::Cursor { source, cursor } => {
                let sealed = key.seal(&cursor_place(source), &cursor);
                cursors
                    .insert(source.as_bytes(), sealed.as_slice())
                    .map_err(storage("write a cursor"))?;
            }
        }
    }
    Ok(())
}

fn forget(write: &WriteTransaction, scope: &str) -> Result<(), SpoolError> {
    let mut contents = write
        .open_table(CONTENTS)
        .map_err(storage("open the contents"))?;
    // Generations stay: they only ever rise.
    contents
        .retain(|(of, _), _| !scope.is_empty() && of != scope)
        .map_err(storage("forget a scope"))
}

/// Returns the older of two instants, of which 0 is none.
fn older(one: i64, other: i64) -> i64 {
    if one == 0 { other } else { one.min(other) }
}

/// Binds a content to its resource. The length keeps scope and id apart.
fn content_place(scope: &str, id: &str) -> Vec<u8> {
    format!("content {} {scope} {id}", scope.len()).into_bytes()
}

fn cursor_place(source: SourceId) -> Vec<u8> {
    [b"cursor ".as_slice(), source.as_bytes()].concat()
}

fn batch_place(lane: Lane, epoch: Epoch, first_seq: u64, head: &[u8]) -> Vec<u8> {
    let mut place = b"batch ".to_vec();
    place.push(lane.number());
    place.extend_from_slice(&epoch);
    place.extend_from_slice(&first_seq.to_le_bytes());
    place.extend_from_slice(head);
    place
}

fn seal_value(key: &SealKey, place: &Place, last_seq: u64, frame: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + frame.len() + 64);
    value.extend_from_slice(&place.made_at_ms.to_le_bytes());
    value.extend_from_slice(&last_seq.to_le_bytes());
    let bound = batch_place(place.lane, place.epoch, place.first_seq, &value);
    let sealed = key.seal(&bound, frame);
    value.extend_from_slice(&sealed);
    value
}

/// Returns when a batch was made, the sequence of its last item, and the sealed frame.
fn split_value(value: &[u8]) -> Option<(i64, u64, &[u8])> {
    let (made_at_ms, rest) = value.split_first_chunk::<8>()?;
    let (last_seq, sealed) = rest.split_first_chunk::<8>()?;
    Some((
        i64::from_le_bytes(*made_at_ms),
        u64::from_le_bytes(*last_seq),
        sealed,
    ))
}

fn open_value(
    key: &SealKey,
    lane: Lane,
    epoch: Epoch,
    first_seq: u64,
    value: &[u8],
) -> Result<(u64, Vec<u8>), SpoolError> {
    let short = seal::SealError::Short;
    let (head, _) = value.split_at_checked(HEAD_BYTES).ok_or(short.clone())?;
    let (_, last_seq, sealed) = split_value(value).ok_or(short)?;
    let frame = key.open(&batch_place(lane, epoch, first_seq, head), sealed)?;
    Ok((last_seq, frame.to_vec()))
}

fn length(value: &[u8]) -> u64 {
    u64::try_from(value.len()).unwrap_or(u64::MAX)
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Why a file does not open, and whether it ever will.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the file is torn")]
    Torn,
    #[error("the file belongs to another identity")]
    Foreign,
    #[error("a newer program wrote it")]
    Newer(u32),
    #[error("{0}")]
    Damaged(redb::Error),
    #[error("{0}")]
    System(redb::Error),
}

impl OpenError {
    fn of(error: redb::Error) -> Self {
        // redb answers InvalidData for a file that does not begin as its own do.
        let is_foreign = if let redb::Error::Io(io) = &error {
            io.kind() == std::io::ErrorKind::InvalidData
        } else {
            false
        };
        let is_damage = is_foreign
            || matches!(
                error,
                redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_)
            );
        if is_damage {
            Self::Damaged(error)
        } else {
            Self::System(error)
        }
    }

    fn of_any(error: impl Into<redb::Error>) -> Self {
        Self::of(error.into())
    }

    fn is_for_good(&self) -> bool {
        matches!(self, Self::Torn | Self::Foreign | Self::Damaged(_))
    }

    fn into_error(self, folder: &Path) -> SpoolError {
        let path = folder.join(FILE);
        let source = match self {
            Self::Newer(found) => return SpoolError::Newer { path, found },
            Self::Damaged(error) | Self::System(error) => error,
            Self::Torn | Self::Foreign => redb::Error::Corrupted(self.to_string()),
        };
        SpoolError::Open {
            path,
            source: Box::new(source),
        }
    }
}
