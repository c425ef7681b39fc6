//! Writes a backup of an open store.

use std::io::Write;
use std::sync::Arc;

use protocol::ids::OrgId;

use super::header::BackupHeader;
use super::record::Record;
use super::stream::SealingWriter;
use super::{BackupError, BackupNote, BackupSummary};
use crate::appliance::desk::StoredOrg;
use crate::engine::pieces::Parts;
use crate::engine::{Holder, Moment, PageSize, Piece, Range, Read};
use crate::error::EngineError;
use crate::store::Hub;
use crate::tables::Table;
use crate::view::View;

/// How often an organisation is read anew whose keys were changed meanwhile.
const ATTEMPTS: usize = 8;

fn unreadable(holder: Holder) -> impl Fn(EngineError) -> BackupError {
    move |source| BackupError::Engine {
        whose: match holder {
            Holder::Appliance => "the hub's own rows".into(),
            Holder::Org(org) => org.to_string(),
        },
        source,
    }
}

/// Writes everything. Blocks; holds one snapshot at a time, and one page in memory.
pub(crate) fn back_up(
    hub: &Arc<Hub>,
    note: &BackupNote,
    to: &mut dyn Write,
) -> Result<BackupSummary, BackupError> {
    let wrap = hub.wrap();
    let header = BackupHeader::new(note, &wrap)?;
    to.write_all(header.bytes())?;
    let key = header.chunk_key(&wrap);
    let mut stream = SealingWriter::new(to, &key, header.bytes().len());
    let mut summary = BackupSummary::default();

    let orgs = {
        let shared = hub.shared();
        let holder = Holder::Appliance;
        let taken = shared.sealer.with(|| shared.engine.snapshot());
        let (snapshot, sealer) = taken.map_err(unreadable(holder))?;
        let view = View::new(&*snapshot, &sealer);
        let orgs: Vec<StoredOrg> = view.all(Table::Orgs, &Range::all())?;
        summary.rows += write(&*snapshot, holder, Record::Appliance, &mut stream)?;
        orgs
    };
    for stored in orgs {
        let org = stored.org.id;
        match organisation(hub, org, &mut stream)? {
            Some(rows) => {
                summary.organisations.push(org);
                summary.rows += rows;
            }
            None => {
                Record::Gone(org).write(&mut stream)?;
                summary.gone.push(org);
            }
        }
    }
    // Under the key of the header's fingerprint nothing of it could be opened any more.
    if hub.wrap().fingerprint_bytes() != wrap.fingerprint_bytes() {
        return Err(BackupError::Rotated);
    }
    let organisations = u64::try_from(summary.organisations.len()).unwrap_or(u64::MAX);
    Record::End { organisations }.write(&mut stream)?;
    summary.bytes = stream.finish()?;
    Ok(summary)
}

/// Writes an organisation and returns how many rows it has; `None` where it is no more.
fn organisation(
    hub: &Arc<Hub>,
    org: OrgId,
    stream: &mut SealingWriter<'_>,
) -> Result<Option<u64>, BackupError> {
    let holder = Holder::Org(org);
    for _ in 0..ATTEMPTS {
        let opened = hub.open_org_blocking(org);
        let opened = opened.map_err(|source| BackupError::OpenOrg { org, source })?;
        let keyring = || hub.shared().look(|records| records.org(org));
        let (Some(store), Some(before)) = (opened, keyring()?) else {
            return Ok(None);
        };
        let snapshot = store.engine().snapshot().map_err(unreadable(holder))?;
        // A key is on the ring before a row is sealed under it, and goes after the last one did: a
        // ring that was the same before and after the snapshot opens all of it.
        let Some(after) = keyring()? else {
            return Ok(None);
        };
        if before.keyring != after.keyring {
            continue;
        }
        let begin = |moment| Record::Org {
            org,
            moment,
            keyring: after.keyring,
        };
        return write(&*snapshot, holder, begin, stream).map(Some);
    }
    Err(BackupError::Restless { org })
}

/// Writes a holder and returns how many rows it has.
fn write(
    snapshot: &dyn Read,
    holder: Holder,
    begin: impl FnOnce(Moment) -> Record,
    stream: &mut SealingWriter<'_>,
) -> Result<u64, BackupError> {
    let failed = unreadable(holder);
    let mut parts = Parts::of(snapshot, holder.tables(), PageSize::USUAL);
    begin(parts.moment().map_err(&failed)?).write(stream)?;
    let mut rows = 0;
    while let Some(piece) = parts.next_piece().map_err(&failed)? {
        if let Piece::Rows(_, entries) = &piece {
            rows += u64::try_from(entries.len()).unwrap_or(u64::MAX);
        }
        Record::Piece(piece).write(stream)?;
    }
    Record::Whole { rows }.write(stream)?;
    Ok(rows)
}
