//! The spool's file, its state in memory and what is written to it. All of it runs on the spool's
//! own thread.
//!
//! After a failed write redb refuses further work: the file is let go and opened again by the next
//! call, which reads its state anew. What the failed write has become is decided by what is in
//! the file then, so that a commit that is tried again is not stored twice.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use protocol::batch::{BatchBuilder, Place, Signer};
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::session::agent::Waiting;
use protocol::wire::v1::{Epoch, ReportItem, Witness};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::gauges::{Gauges, LaneReport, lane_name};
use super::ledger::{LaneState, Lanes, Ledger, Row};
use super::losses;
use super::memory::{self, View};
use super::row::RowPlace;
use super::shares::{self, Full, Room};
use super::tables::META;
use super::{Commit, Config, SpoolError, repair};
use crate::seal::{self, SealKey};

/// The open file and what is needed to seal and sign.
pub(crate) struct Engine {
    /// Empty after a failed write.
    pub(super) slot: Option<Database>,
    pub(super) folder: PathBuf,
    pub(super) config: Config,
    pub(super) key: SealKey,
    pub(super) signer: Box<dyn Signer + Send>,
    pub(super) gauges: Arc<Gauges>,
    /// Names the file.
    pub(super) birth: Epoch,
    pub(super) epoch: Epoch,
    pub(super) witness: Option<Witness>,
    pub(super) lanes: Lanes,
    /// The most bytes that batches have taken: pages that the file has.
    pub(super) reached: u64,
    /// Whether something was written that a power cut would undo.
    pub(super) is_unsynced: bool,
    /// The commit whose write failed last: its number, and where a lane would stand behind it.
    pub(super) doubt: Option<(u64, Lane, u64)>,
    /// Commits whose write failed, and which are in the file all the same.
    pub(super) landed: BTreeSet<u64>,
    /// What redb found wrong with what is in the file: it is not opened again.
    pub(super) condemned: Option<String>,
    /// What the hub is to be told about the spool itself.
    pub(super) untold: Vec<ReportItem>,
    /// What was lost with a file that was put aside: lane, items, when the first was made.
    pub(super) owed: Vec<(Lane, u64, i64)>,
}

/// Turns an error of redb into one of the spool.
pub(super) fn storage<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> SpoolError {
    move |error| SpoolError::Storage {
        doing,
        source: Box::new(error.into()),
    }
}

pub(super) fn begin(database: &Database) -> Result<WriteTransaction, SpoolError> {
    database.begin_write().map_err(storage("write the spool"))
}

pub(super) fn finish(
    mut write: WriteTransaction,
    durability: Durability,
) -> Result<(), SpoolError> {
    // Opening after a crash then takes milliseconds, whatever the size.
    write.set_quick_repair(matches!(durability, Durability::Immediate));
    write
        .set_durability(durability)
        .map_err(storage("write the spool"))?;
    write.commit().map_err(storage("write the spool"))
}

impl Engine {
    /// Opens or makes the file; moves a damaged or foreign one aside and begins anew.
    pub(super) fn open(
        folder: &Path,
        config: Config,
        key: SealKey,
        signer: Box<dyn Signer + Send>,
        gauges: Arc<Gauges>,
    ) -> Result<Self, SpoolError> {
        let mut engine = Self {
            slot: None,
            folder: folder.to_owned(),
            config,
            key,
            signer,
            gauges,
            birth: Epoch::default(),
            epoch: Epoch::default(),
            witness: None,
            lanes: Lanes::new(),
            reached: 0,
            is_unsynced: false,
            doubt: None,
            landed: BTreeSet::new(),
            condemned: None,
            untold: Vec::new(),
            owed: Vec::new(),
        };
        engine.ready()?;
        Ok(engine)
    }

    /// Runs `work` with the file open, and lets the file go when it fails.
    pub(super) fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        // redb can panic on a file that a lying disk has torn.
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            self.ready()?;
            work(self)
        }));
        let result = attempt.unwrap_or(Err(SpoolError::Torn));
        if let Err(error) = &result
            && error.passes()
        {
            if let SpoolError::Storage { source, .. } = error
                && let redb::Error::Corrupted(words) = source.as_ref()
            {
                self.condemned = Some(words.clone());
            }
            let held = self.slot.take();
            // The file's own end can fail like the work did.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(held)));
            let words = crate::sync::chain(error);
            if self.gauges.set_trouble(words, error.is_out_of_space()) {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "the spool cannot be used; sources wait, and it is tried again"
                );
            }
        }
        result
    }

    /// Returns the open file.
    pub(super) fn database(&self) -> Result<&Database, SpoolError> {
        self.slot.as_ref().ok_or(SpoolError::Closed)
    }

    pub(super) fn begin(&self) -> Result<WriteTransaction, SpoolError> {
        begin(self.database()?)
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, SpoolError> {
        self.database()?
            .begin_read()
            .map_err(storage("read the spool"))
    }

    /// Commits so that a power cut undoes nothing.
    pub(super) fn durably(&mut self, write: WriteTransaction) -> Result<(), SpoolError> {
        finish(write, Durability::Immediate)?;
        self.is_unsynced = false;
        self.gauges.clear_trouble();
        Ok(())
    }

    /// Commits what the next durable commit makes durable: a crash undoes only what the hub says
    /// again.
    pub(super) fn lightly(&mut self, write: WriteTransaction) -> Result<(), SpoolError> {
        finish(write, Durability::None)?;
        self.is_unsynced = true;
        Ok(())
    }

    /// Returns how far the hub's store has come, as far as is known.
    pub(crate) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    pub(super) fn lane(&self, lane: Lane) -> LaneState {
        self.lanes.get(&lane).copied().unwrap_or_default()
    }

    /// Shows the lanes as they are by now.
    pub(super) fn publish(&mut self) {
        let held = self.lanes.values().map(|state| state.waiting + state.kept);
        self.reached = self.reached.max(held.sum());
        let mut waiting = Waiting::default();
        let time = |ms: i64| Some(ms).filter(|ms| *ms > 0);
        let time = |ms| time(ms).and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let mut lines = Vec::new();
        for (lane, state) in &self.lanes {
            waiting.bytes += state.waiting;
            if state.oldest_ms > 0
                && (waiting.oldest_ms == 0 || state.oldest_ms < waiting.oldest_ms)
            {
                waiting.oldest_ms = state.oldest_ms;
            }
            lines.push(LaneReport {
                lane: lane_name(*lane).to_owned(),
                items: (state.marks.next - 1).saturating_sub(state.marks.acked),
                bytes: state.waiting,
                share_bytes: shares::share(self.config.max_bytes, *lane),
                oldest: time(state.oldest_ms),
                kept_bytes: state.kept,
                acknowledged_at: time(state.acked_at_ms),
            });
        }
        self.gauges.set_epoch(self.epoch);
        self.gauges.set_lanes(lines, waiting);
    }

    /// Stores batches and effects in one transaction, or says why they must wait.
    ///
    /// `serial` names the commit: the same one is not stored twice, also when the first attempt
    /// was told to have failed.
    pub(super) fn commit(
        &mut self,
        serial: u64,
        source: SourceId,
        commit: &Commit,
    ) -> Result<Result<(), Full>, SpoolError> {
        self.guarded(|engine| engine.store(serial, source, commit))
    }

    fn store(
        &mut self,
        serial: u64,
        source: SourceId,
        commit: &Commit,
    ) -> Result<Result<(), Full>, SpoolError> {
        if self.landed.remove(&serial) {
            return Ok(Ok(()));
        }
        // Looked at first, so that a lane that stays full costs no compression.
        let least = commit.batches.iter().map(|(lane, _)| *lane);
        let least: BTreeSet<Lane> = least.collect();
        let at_least = least
            .iter()
            .map(|lane| (*lane, self.lane(*lane).waiting, 1));
        if let Err(full) = shares::admit(&self.room(), at_least) {
            return Ok(Err(full));
        }
        let mut lanes = self.lanes.clone();
        let rows = self.seal_rows(source, &commit.batches, &mut lanes)?;
        let added = least.iter().map(|lane| {
            let before = self.lane(*lane).waiting;
            let after = lanes.get(lane).map_or(before, |state| state.waiting);
            (*lane, before, after - before)
        });
        let evicted = match shares::admit(&self.room(), added) {
            Ok(evicted) => evicted,
            Err(full) => return Ok(Err(full)),
        };
        let write = self.begin()?;
        {
            let mut ledger = Ledger::open(&write)?;
            ledger.evict(&mut lanes, evicted)?;
            for row in &rows {
                ledger.insert(row)?;
            }
            for lane in &least {
                if let Some(state) = lanes.get(lane) {
                    ledger.mark(*lane, state.marks)?;
                }
            }
        }
        memory::remember(&write, &self.key, &commit.effects)?;
        self.doubt = rows
            .last()
            .map(|row| (serial, row.place.lane, row.place.last + 1));
        self.durably(write)?;
        self.doubt = None;
        self.lanes = lanes;
        self.publish();
        Ok(Ok(()))
    }

    /// Seals batches behind what the lanes hold, and counts them there.
    fn seal_rows(
        &self,
        source: SourceId,
        batches: &[(Lane, BatchBuilder)],
        lanes: &mut Lanes,
    ) -> Result<Vec<Row>, SpoolError> {
        let made_at_ms = Timestamp::now().as_millisecond();
        let is_linked = self.gauges.is_linked();
        let mut rows = Vec::new();
        for (lane, builder) in batches {
            let state = lanes.entry(*lane).or_default();
            let first = state.marks.next;
            let place = Place {
                lane: *lane,
                epoch: self.epoch,
                first_seq: first - state.marks.base,
                source,
                made_at_ms,
            };
            let (header, frame) = builder.seal(&place, self.signer.as_ref())?;
            let last = first + u64::from(header.count) - 1;
            let row = self.row(*lane, (first, last), made_at_ms, &frame);
            state.marks.next = last + 1;
            if is_linked {
                state.marks.sent = last;
            }
            if state.waiting == 0 {
                state.oldest_ms = made_at_ms;
            }
            state.waiting += row.bytes;
            rows.push(row);
        }
        Ok(rows)
    }

    pub(super) fn row(
        &self,
        lane: Lane,
        (first, last): (u64, u64),
        made_at_ms: i64,
        frame: &[u8],
    ) -> Row {
        let place = RowPlace {
            birth: self.birth,
            lane,
            first,
            last,
            made_at_ms,
        };
        let value = place.seal(&self.key, frame);
        Row {
            place,
            bytes: shares::charge(value.len()),
            value,
        }
    }

    fn room(&self) -> Room {
        let sum = |part: fn(&LaneState) -> u64| self.lanes.values().map(part).sum();
        Room {
            waiting: sum(|state| state.waiting),
            kept: sum(|state| state.kept),
            reached: self.reached,
            disk_free: self.disk_free(),
            keep_free: self.config.keep_free_bytes,
            max: self.config.max_bytes,
        }
    }

    /// Returns the bytes of the disk that are free for everybody.
    pub(super) fn disk_free(&self) -> Option<u64> {
        super::free_bytes(&self.folder)
    }

    /// Removes acknowledged batches whose time is over, makes durable what is not, tells the hub
    /// what it is to know of the spool itself, and tries a file that could not be used again.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(super) fn tend(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            engine.tell();
            let span = i64::try_from(engine.config.keep_acknowledged.as_millis());
            let until_ms = now
                .as_millisecond()
                .saturating_sub(span.unwrap_or(i64::MAX));
            let write = engine.begin()?;
            let mut lanes = engine.lanes.clone();
            let mut is_changed = engine.is_unsynced || engine.gauges.has_trouble();
            {
                let mut ledger = Ledger::open(&write)?;
                for (lane, state) in &mut lanes {
                    if let Some(through) = ledger.expired(*lane, until_ms)? {
                        ledger.drop_kept(*lane, state, through)?;
                        is_changed = true;
                    }
                }
            }
            if !is_changed {
                return write.abort().map_err(storage("read the spool"));
            }
            engine.durably(write)?;
            engine.lanes = lanes;
            engine.publish();
            engine.gauges.released.notify_waiters();
            Ok(())
        })
    }

    /// Stores what the hub is to be told; what cannot be stored yet is tried again.
    pub(super) fn tell(&mut self) {
        while let Some((lane, items, from_ms)) = self.owed.first().copied() {
            if let Err(error) = self.lose_more(lane, items, from_ms) {
                let error = &error as &dyn std::error::Error;
                return tracing::warn!(error, "the hub cannot be told about the spool yet");
            }
            self.owed.remove(0);
        }
        while let Some(item) = self.untold.first() {
            let mut builder = BatchBuilder::default();
            let serial = self.gauges.next_serial();
            let source = losses::source(self.birth);
            let pushed = builder.push(item).map_err(SpoolError::from);
            let stored = pushed.and_then(|()| {
                let commit = Commit {
                    batches: vec![(Lane::Results, builder)],
                    effects: Vec::new(),
                };
                self.store(serial, source, &commit)
            });
            match stored {
                Ok(Ok(())) => drop(self.untold.remove(0)),
                Ok(Err(_)) => return,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the hub cannot be told about the spool yet");
                    return;
                }
            }
        }
    }

    /// Returns the cursor of a tail as it was last committed.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn cursor(&mut self, source: SourceId) -> Result<Option<Vec<u8>>, SpoolError> {
        self.guarded(|engine| memory::cursor(&engine.read()?, &engine.key, source))
    }

    /// Remembers how far the hub's store has come; durably at the latest with the next batch, and
    /// at once for another life of the store.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn remember(&mut self, witness: Witness) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let write = engine.begin()?;
            {
                let mut meta = write.open_table(META).map_err(storage("open the spool"))?;
                let bytes = postcard::to_stdvec(&witness).expect("a plain struct serialises");
                meta.insert("witness", bytes.as_slice())
                    .map_err(storage("write how far the hub has come"))?;
            }
            let known = engine.witness.map(|known| known.hub_epoch);
            if known == Some(witness.hub_epoch) {
                engine.lightly(write)?;
            } else {
                engine.durably(write)?;
            }
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
            let write = engine.begin()?;
            memory::forget(&write, scope)?;
            engine.durably(write)
        })
    }

    /// Compares the hub's sums of a scope with what it was told, and remembers what to send again.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub(crate) fn repair(&mut self, scope: &str, theirs: &[u64]) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let view = View::new(engine.read()?, engine.key.clone());
            let resent = repair::compare(&view, scope, theirs)?;
            let write = engine.begin()?;
            repair::remember(&write, scope, &resent)?;
            engine.durably(write)
        })
    }

    /// Forgets the cursor of a source that was removed.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn forget_cursor(&mut self, source: SourceId) -> Result<(), SpoolError> {
        self.guarded(|engine| {
            let write = engine.begin()?;
            memory::forget_cursor(&write, source)?;
            engine.durably(write)
        })
    }

    /// Begins a new epoch: what waits is counted from 1 and signed anew when it is sent, what the
    /// hub holds is forgotten. Acknowledged batches belong to the old epoch and go.
    pub(super) fn roll_epoch(&mut self) -> Result<Epoch, SpoolError> {
        self.guarded(|engine| {
            let fresh = seal::random::<16>();
            let mut lanes = engine.lanes.clone();
            let write = engine.begin()?;
            {
                let mut ledger = Ledger::open(&write)?;
                for (lane, state) in &mut lanes {
                    ledger.drop_kept(*lane, state, u64::MAX)?;
                    state.marks.base = state.marks.acked;
                    state.marks.sent = state.marks.acked;
                    ledger.mark(*lane, state.marks)?;
                }
                let mut meta = write.open_table(META).map_err(storage("open the spool"))?;
                meta.insert("epoch", fresh.as_slice())
                    .map_err(storage("write the epoch"))?;
            }
            memory::forget(&write, "")?;
            engine.durably(write)?;
            engine.epoch = fresh;
            engine.lanes = lanes;
            engine.publish();
            Ok(fresh)
        })
    }

    /// Returns a view of what the hub is known to hold, at this moment.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(crate) fn known(&mut self) -> Result<View, SpoolError> {
        self.guarded(|engine| Ok(View::new(engine.read()?, engine.key.clone())))
    }

    /// Writes what is not yet durable and closes the file.
    pub(super) fn close(mut self) {
        let closed = match &self.slot {
            Some(database) => {
                begin(database).and_then(|write| finish(write, Durability::Immediate))
            }
            None => Ok(()),
        };
        if let Err(error) = closed {
            tracing::error!(%error, "the spool could not be closed cleanly");
        }
        let held = self.slot.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(held)));
    }
}
