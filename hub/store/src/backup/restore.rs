//! Reads a backup: into an empty place, or to see whether it is whole.

use std::collections::BTreeMap;
use std::io::Read;

use protocol::ids::OrgId;

use super::header::BackupHeader;
use super::record::Record;
use super::stream::OpeningReader;
use super::{BackupError, BackupSummary};
use crate::engine::{Engines, Entry, Holder, LoadError, Moment, Piece, Stopped};
use crate::error::OpenError;
use crate::master::MasterKey;
use crate::org::verify::check_row;
use crate::seal::{Sealer, Wrap};
use crate::store::{APPLIANCE, Store, StoreConfig, engines_of, keyring_key, purpose_of};
use crate::tables::Table;

/// A store that was made from a backup, open. Its sessions, its enrolment tokens and what it had of
/// organisations that were left out are gone.
#[derive(Debug)]
pub struct Restored {
    /// The store.
    pub store: Store,
    /// Organisations with all of their rows.
    pub organisations: Vec<OrgId>,
    /// Organisations that were purged: while the backup was made, or since.
    pub left_out: Vec<OrgId>,
}

/// What a backup holds that was read to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupContent {
    /// How much there is.
    pub summary: BackupSummary,
    /// Rows of the hub's own that do not open or decode, and the first of them.
    pub faults: Vec<String>,
}

impl Store {
    /// Makes a store from a backup whose header was read, with the rows as they were, and opens it.
    /// Organisations that `is_purged` names are left out. Blocks.
    ///
    /// # Errors
    ///
    /// `Exists` where there is a store, which is not touched. What was made before an error stays:
    /// the caller gives a place that is thrown away then.
    pub async fn restore(
        config: StoreConfig,
        master: MasterKey,
        header: BackupHeader,
        mut from: impl Read + Send + 'static,
        is_purged: impl Fn(OrgId) -> bool + Send + 'static,
    ) -> Result<Restored, BackupError> {
        let loading = tokio::task::spawn_blocking(move || {
            let loaded = load(&config, &master, &header, &mut from, &is_purged)?;
            let store = Self::open(config, master)?;
            Ok::<_, BackupError>((store, loaded))
        });
        let (store, loaded) = loading.await.map_err(|error| OpenError::Start {
            reason: error.to_string(),
        })??;
        let keyrings = loaded.keyrings.clone();
        let left_out = store
            .hub
            .shared()
            .change(move |desk| desk.restored(&keyrings));
        let left_out = left_out.await?;
        Ok(Restored {
            store,
            organisations: loaded.keyrings.into_keys().collect(),
            left_out,
        })
    }

    /// Reads a backup whose header was read to its end, and opens and decodes every row. Blocks.
    ///
    /// # Errors
    ///
    /// When it is not whole, or `master` is another key.
    pub fn inspect_backup(
        master: &MasterKey,
        header: &BackupHeader,
        from: &mut dyn Read,
    ) -> Result<BackupContent, BackupError> {
        let wrap = header.wants(master)?;
        let key = header.chunk_key(&wrap);
        let mut stream = OpeningReader::new(from, &key, header.bytes().len());
        let mut inspector = Inspector {
            wrap,
            found: BackupContent::default(),
            faults: BTreeMap::new(),
        };
        let ended = read(&mut stream, &mut inspector)?;
        let mut found = inspector.found;
        found.summary.organisations = ended.keyrings.into_keys().collect();
        found.summary.gone = ended.gone;
        found.summary.bytes = stream.offset();
        found.faults = inspector
            .faults
            .into_iter()
            .map(|((whose, table), (count, first))| match count {
                1 => format!("{whose}, {table}: a bad row, {first}"),
                _ => format!("{whose}, {table}: {count} bad rows, the first {first}"),
            })
            .collect();
        Ok(found)
    }
}

/// What a backup that was read to its end has named.
#[derive(Default)]
struct Ended {
    keyrings: BTreeMap<OrgId, Vec<u8>>,
    gone: Vec<OrgId>,
}

/// Takes the holders of a backup, one after another.
trait Taker {
    /// Takes one: reads its pieces to their end.
    fn take(
        &mut self,
        holder: Holder,
        keyring: &[u8],
        moment: Moment,
        pieces: &mut HolderPieces<'_, '_>,
    ) -> Result<bool, BackupError>;
}

/// The pieces of one holder.
struct HolderPieces<'s, 'r> {
    stream: &'s mut OpeningReader<'r>,
    rows: u64,
    is_over: bool,
}

impl HolderPieces<'_, '_> {
    fn next(&mut self, holder: Holder) -> Result<Option<Piece>, BackupError> {
        match Record::read(self.stream)? {
            Record::Piece(piece) => {
                if let Piece::Rows(table, entries) = &piece {
                    if !holder.tables().contains(table) {
                        let reason = format!("table {} is not one of its holder", table.name());
                        return Err(self.stream.nonsense(reason));
                    }
                    self.rows += u64::try_from(entries.len()).unwrap_or(u64::MAX);
                }
                Ok(Some(piece))
            }
            Record::Whole { rows } if rows == self.rows => {
                self.is_over = true;
                Ok(None)
            }
            Record::Whole { rows } => {
                let reason = format!("{} rows of {rows} came", self.rows);
                Err(self.stream.nonsense(reason))
            }
            Record::Appliance(_) | Record::Org { .. } | Record::Gone(_) | Record::End { .. } => {
                Err(self.stream.nonsense("a holder begins within another"))
            }
        }
    }
}

/// Reads a backup to its end.
fn read(stream: &mut OpeningReader<'_>, taker: &mut dyn Taker) -> Result<Ended, BackupError> {
    let mut ended = Ended::default();
    let mut organisations = 0u64;
    let mut has_appliance = false;
    loop {
        let (holder, moment, keyring) = match Record::read(stream)? {
            Record::Appliance(moment) if !has_appliance => {
                has_appliance = true;
                (Holder::Appliance, moment, Vec::new())
            }
            Record::Org {
                org,
                moment,
                keyring,
            } if has_appliance && !ended.keyrings.contains_key(&org) => {
                organisations += 1;
                (Holder::Org(org), moment, keyring)
            }
            Record::Gone(org) if has_appliance => {
                ended.gone.push(org);
                continue;
            }
            Record::End {
                organisations: said,
            } if has_appliance && said == organisations => {
                stream.end()?;
                return Ok(ended);
            }
            Record::Appliance(_)
            | Record::Org { .. }
            | Record::Gone(_)
            | Record::Piece(_)
            | Record::Whole { .. }
            | Record::End { .. } => return Err(stream.nonsense("a record is out of its place")),
        };
        let mut pieces = HolderPieces {
            stream,
            rows: 0,
            is_over: false,
        };
        let is_taken = taker.take(holder, &keyring, moment, &mut pieces)?;
        while !pieces.is_over {
            pieces.next(holder)?;
        }
        if let (Holder::Org(org), true) = (holder, is_taken) {
            ended.keyrings.insert(org, keyring);
        }
    }
}

/// Puts holders where they belong.
struct Loader<'l> {
    engines: &'l dyn Engines,
    is_purged: &'l dyn Fn(OrgId) -> bool,
}

impl Taker for Loader<'_> {
    fn take(
        &mut self,
        holder: Holder,
        _keyring: &[u8],
        moment: Moment,
        pieces: &mut HolderPieces<'_, '_>,
    ) -> Result<bool, BackupError> {
        if let Holder::Org(org) = holder
            && (self.is_purged)(org)
        {
            return Ok(false);
        }
        let mut failed = None;
        let mut give = || {
            pieces.next(holder).map_err(|error| {
                failed = Some(error);
                Stopped
            })
        };
        match self.engines.load(holder, moment, &mut give) {
            Ok(()) => Ok(true),
            Err(LoadError::Open(error)) => Err(error.into()),
            Err(LoadError::Stopped) => {
                let unknown = || pieces.stream.nonsense("it ended without a reason");
                Err(failed.unwrap_or_else(unknown))
            }
        }
    }
}

fn load(
    config: &StoreConfig,
    master: &MasterKey,
    header: &BackupHeader,
    from: &mut dyn Read,
    is_purged: &dyn Fn(OrgId) -> bool,
) -> Result<Ended, BackupError> {
    let wrap = header.wants(master)?;
    let engines = engines_of(config);
    if engines.exists(Holder::Appliance) {
        let path = config.data_dir.clone();
        return Err(OpenError::Exists { path }.into());
    }
    let key = header.chunk_key(&wrap);
    let mut stream = OpeningReader::new(from, &key, header.bytes().len());
    let mut loader = Loader {
        engines: &*engines,
        is_purged,
    };
    read(&mut stream, &mut loader)
}

/// Opens every row.
struct Inspector {
    wrap: Wrap,
    found: BackupContent,
    faults: BTreeMap<(String, &'static str), (u64, String)>,
}

impl Inspector {
    fn sealer(&self, holder: Holder, keyring: &[u8]) -> Option<Sealer> {
        let (purpose, owner) = match holder {
            Holder::Appliance => (purpose_of(holder), APPLIANCE),
            Holder::Org(org) => (purpose_of(holder), *org.as_bytes()),
        };
        let keyring = self.wrap.unwrap(&purpose, keyring).ok()?;
        Some(keyring.into_sealer(owner))
    }

    fn note(&mut self, holder: Holder, table: Table, entry: &Entry, reason: String) {
        let whose = match holder {
            Holder::Appliance => "the hub".to_owned(),
            Holder::Org(org) => org.to_string(),
        };
        let fault = self.faults.entry((whose, table.name())).or_default();
        fault.0 += 1;
        if fault.0 == 1 {
            let key = data_encoding::HEXLOWER.encode(&entry.key);
            fault.1 = format!("{key}: {reason}");
        }
    }
}

impl Taker for Inspector {
    fn take(
        &mut self,
        holder: Holder,
        keyring: &[u8],
        _moment: Moment,
        pieces: &mut HolderPieces<'_, '_>,
    ) -> Result<bool, BackupError> {
        let mut sealer = match holder {
            Holder::Appliance => None,
            Holder::Org(_) => self.sealer(holder, keyring),
        };
        while let Some(piece) = pieces.next(holder)? {
            let Piece::Rows(table, entries) = piece else {
                continue;
            };
            if holder == Holder::Appliance && table == Table::Meta {
                let ring = entries.iter().find(|entry| entry.key == keyring_key());
                let opened = ring.and_then(|ring| self.sealer(holder, &ring.row.value));
                sealer = sealer.or(opened);
            }
            for entry in &entries {
                if holder == Holder::Appliance && entry.key == keyring_key() {
                    continue;
                }
                match &sealer {
                    None => self.note(holder, table, entry, "its keyring does not open".into()),
                    Some(sealer) => {
                        if let Err(error) = check_row(sealer, table, entry) {
                            self.note(holder, table, entry, error.to_string());
                        }
                    }
                }
            }
            self.found.summary.rows += u64::try_from(entries.len()).unwrap_or(u64::MAX);
        }
        Ok(true)
    }
}
