//! What the agent can no longer send, as it is told to the hub and kept for `status`.
//!
//! A record stands in the place of the items: it is a batch of content `Lost`, stored, sent and
//! acknowledged like any other, so that the hub neither waits for them nor takes them for never
//! made.

use std::fmt::Write as _;

use jiff::Timestamp;
use protocol::batch::{self, BatchBuilder, Place, SealedBatch, Signer};
use protocol::frame::{Decoder, Frame, Lane};
use protocol::ids::SourceId;
use protocol::wire::v1::{Content, Epoch, Lost, LostReason};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::SpoolError;
use super::engine::storage;
use super::gauges::lane_name;
use super::tables::{LOSSES, META};
use crate::seal::SealError;

/// Records that the file keeps for `status`. The hub keeps all.
const KEPT: u64 = 100;

/// Records that `status` shows.
const SHOWN: usize = 20;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loss {
    pub(crate) lane: String,
    /// Sequences of the first and the last item that are lost, and the epoch that counts them.
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) epoch: String,
    pub(crate) items: u64,
    pub(crate) reason: String,
    pub(crate) at: Timestamp,
}

/// All records of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Losses {
    pub(crate) records: u64,
    pub(crate) items: u64,
    /// The last ones, oldest first.
    pub(crate) last: Vec<Loss>,
}

/// Makes the record of items that are lost.
pub(super) fn loss(lane: Lane, epoch: Epoch, sequences: (u64, u64), reason: LostReason) -> Loss {
    let (first_seq, last_seq) = sequences;
    let mut text = String::new();
    for byte in epoch {
        let _ = write!(text, "{byte:02x}");
    }
    Loss {
        lane: lane_name(lane).to_owned(),
        first_seq,
        last_seq,
        epoch: text,
        items: (last_seq + 1).saturating_sub(first_seq),
        reason: reason.as_str().to_owned(),
        at: Timestamp::now(),
    }
}

/// Keeps a record for `status`.
pub(super) fn note(write: &WriteTransaction, loss: &Loss) -> Result<(), SpoolError> {
    let mut losses = write
        .open_table(LOSSES)
        .map_err(storage("open the losses"))?;
    let number = {
        let last = losses.last().map_err(storage("read a loss"))?;
        last.map_or(0, |(number, _)| number.value() + 1)
    };
    let bytes = postcard::to_stdvec(loss).expect("a plain struct serialises");
    losses
        .insert(number, bytes.as_slice())
        .map_err(storage("write a loss"))?;
    if let Some(old) = number.checked_sub(KEPT) {
        losses.remove(old).map_err(storage("remove a loss"))?;
    }
    let mut meta = write.open_table(META).map_err(storage("open the spool"))?;
    let before = {
        let found = meta.get("lost").map_err(storage("read the losses"))?;
        found.map_or(0, |found| items(found.value()))
    };
    let after = (before + loss.items).to_le_bytes();
    meta.insert("lost", after.as_slice())
        .map(drop)
        .map_err(storage("write the losses"))
}

/// Reads what [`note`] kept.
pub(super) fn read(read: &ReadTransaction) -> Result<Losses, SpoolError> {
    let losses = read
        .open_table(LOSSES)
        .map_err(storage("open the losses"))?;
    let mut found = Losses::default();
    for entry in losses.iter().map_err(storage("read a loss"))?.rev() {
        let (number, bytes) = entry.map_err(storage("read a loss"))?;
        found.records = found.records.max(number.value() + 1);
        if found.last.len() < SHOWN {
            found.last.extend(postcard::from_bytes(bytes.value()).ok());
        }
    }
    found.last.reverse();
    let meta = read.open_table(META).map_err(storage("open the spool"))?;
    let total = meta.get("lost").map_err(storage("read the losses"))?;
    found.items = total.map_or(0, |total| items(total.value()));
    Ok(found)
}

fn items(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Returns the source that records of this spool are told under: they can be of several.
pub(super) fn source(birth: Epoch) -> SourceId {
    SourceId::derived(&[b"spool", &birth])
}

/// Returns a frame as it is sent under `epoch` with its first item at `first_seq`: itself, or the
/// same items signed anew when it was made under another.
///
/// # Errors
///
/// When the frame is not one, or the key cannot sign.
pub(super) fn for_epoch(
    lane: Lane,
    epoch: Epoch,
    first_seq: u64,
    stored: Vec<u8>,
    signer: &dyn Signer,
) -> Result<Vec<u8>, SpoolError> {
    let frame = parse(lane, &stored)?;
    let sealed = SealedBatch::parse(&frame)?;
    let header = &sealed.header;
    if header.epoch == epoch && header.first_seq == first_seq {
        return Ok(stored);
    }
    let place = Place {
        lane,
        epoch,
        first_seq,
        source: header.source,
        made_at_ms: header.made_at_ms,
    };
    let items = batch::open_payload(&sealed.payload, header.payload_bytes)?;
    let (_, frame) = match header.content {
        Content::Items => {
            let mut builder = BatchBuilder::default();
            for item in items.iter() {
                builder.push_bytes(item)?;
            }
            builder.seal(&place, signer)?
        }
        Content::Lost => {
            let lost = items.iter().next().unwrap_or_default();
            let lost: Lost = batch::decode_item(lost).map_err(|_| torn())?;
            batch::seal_lost(&place, header.count, &lost, signer)?
        }
    };
    Ok(frame)
}

fn torn() -> SpoolError {
    SpoolError::Sealed(SealError::Damaged)
}

fn parse(lane: Lane, bytes: &[u8]) -> Result<Frame, SpoolError> {
    let mut decoder = Decoder::new(lane);
    decoder.push(bytes);
    decoder.pop().ok().flatten().ok_or_else(torn)
}
