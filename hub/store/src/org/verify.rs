//! Whether a store is what was written: every row opened and decoded, every audit entry followed.
//!
//! What it finds by itself: a row that was changed, moved, put in from elsewhere or written by
//! another program; a block without its index and an index without its block; a stream whose mark
//! was moved; an audit log that was edited, reordered, cut or added to. What it finds with signed
//! checkpoints, which lie in another file: an organisation's file that was set back as a whole.
//! What it cannot find: a row that is missing and that nothing else names, and the whole data
//! directory set back, of which the agents know (they keep the last head that they were told).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use protocol::Urn;
use protocol::batch::{decode_item, open_payload};
use protocol::event::EventView;
use protocol::ids::{OrgId, UserId};
use serde::de::DeserializeOwned;

use super::apply::{LossCount, QuarantineCount, audit_hash, meta};
use super::tally::Tally;
use super::{OrgReader, StoredHeader, StoredStream};
use crate::appliance::desk::StoredOrg;
use crate::codec;
use crate::engine::{Direction, Entry, Range, Read, each};
use crate::error::ReadError;
use crate::keys;
use crate::reseal::Cursor;
use crate::rows::access::{Agent, AgentStatus, EnrolToken, Session, User};
use crate::rows::audit::{AuditEntry, AuditFault, AuditHead, Checkpoint, SignedCheckpoint};
use crate::rows::carried::Carried;
use crate::rows::event::{BlockHead, Loss, Quarantined};
use crate::rows::finding::{Finding, Transition};
use crate::rows::resource::{
    ScopeStatus, Source, StagedGone, StoredLink, StoredPast, StoredResource, Subject,
};
use crate::rows::retention::{Retention, SignedBase};
use crate::rows::verdict::StoredVerdicts;
use crate::seal::Sealer;
use crate::tables::Table;

/// What a store holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Rows of all tables.
    pub rows: u64,
    /// Rows by table.
    pub tables: BTreeMap<&'static str, u64>,
    /// Events in the blocks that open.
    pub events: u64,
    /// Place of the last good entry of the audit log.
    pub audit_entries: u64,
    /// What the audit log begins from, where retention has cut its beginning off. Whether the hub
    /// signed it, the caller finds out.
    pub audit_base: Option<SignedBase>,
    /// What is wrong: at most one line for each table and two for the audit log, each with the
    /// first bad row.
    pub faults: Vec<String>,
}

/// The bad rows of one table.
#[derive(Default)]
struct Bad {
    count: u64,
    first: String,
}

impl Bad {
    fn note(&mut self, key: &[u8], reason: &str) {
        self.count += 1;
        if self.count == 1 {
            self.first = format!("{}: {reason}", data_encoding::HEXLOWER.encode(key));
        }
    }

    fn told(self, table: Table, faults: &mut Vec<String>) {
        let (count, first) = (self.count, self.first);
        let name = table.name();
        match count {
            0 => {}
            1 => faults.push(format!("{name}: a bad row, {first}")),
            _ => faults.push(format!("{name}: {count} bad rows, the first {first}")),
        }
    }
}

impl Inspection {
    /// Reads every row of a table.
    pub(crate) fn table(
        &mut self,
        read: &dyn Read,
        table: Table,
        mut check: impl FnMut(&Entry) -> Result<u64, ReadError>,
    ) {
        let (mut rows, mut bad) = (0, Bad::default());
        let ended = each(read, table, &Range::all(), Direction::Forward, |entry| {
            rows += 1;
            match check(&entry) {
                Ok(events) => self.events += events,
                Err(ReadError::Engine(error)) => return Err(ReadError::Engine(error)),
                Err(error) => bad.note(&entry.key, &error.to_string()),
            }
            Ok::<_, ReadError>(ControlFlow::<()>::Continue(()))
        });
        bad.told(table, &mut self.faults);
        if let Err(error) = ended {
            let name = table.name();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.to_string());
            self.faults
                .push(format!("{name}: cannot be read further: {cause}"));
        }
        self.rows += rows;
        self.tables.insert(table.name(), rows);
    }
}

/// Opens a row and decodes it as what its table holds; returns how many events are in it.
pub(crate) fn check_row(sealer: &Sealer, table: Table, entry: &Entry) -> Result<u64, ReadError> {
    let row = sealer.open(table, &entry.key, &entry.row.value)?;
    match table {
        // By name, or with a form of their own.
        Table::Meta | Table::Secrets | Table::BlockIndex => Ok(0),
        Table::Blocks => block(&row),
        Table::Scopes => is::<ScopeStatus>(table, &row),
        Table::Resources => is::<StoredResource>(table, &row),
        Table::ResourceHistory => is::<StoredPast>(table, &row),
        Table::ResourceIds => is::<Urn>(table, &row),
        Table::Gone => is::<StagedGone>(table, &row),
        Table::LinksOut | Table::LinksIn => is::<StoredLink>(table, &row),
        Table::Verdicts => is::<StoredVerdicts>(table, &row),
        Table::Due => is::<Subject>(table, &row),
        Table::Findings => is::<Finding>(table, &row),
        Table::FindingHistory => is::<Transition>(table, &row),
        Table::Streams => is::<StoredStream>(table, &row),
        Table::Batches => is::<StoredHeader>(table, &row),
        Table::Quarantine => is::<Quarantined>(table, &row),
        Table::Sources => is::<Source>(table, &row),
        Table::AgentStatus => is::<AgentStatus>(table, &row),
        Table::Audit => is::<AuditEntry>(table, &row),
        Table::Losses => is::<Loss>(table, &row),
        Table::Carried => is::<Carried>(table, &row),
        Table::Tallies => is::<Tally>(table, &row),
        Table::Orgs => is::<StoredOrg>(table, &row),
        Table::OrgNames | Table::Owners => is::<OrgId>(table, &row),
        Table::Users => is::<User>(table, &row),
        Table::Emails => is::<UserId>(table, &row),
        Table::Agents => is::<Agent>(table, &row),
        Table::Tokens => is::<EnrolToken>(table, &row),
        Table::Sessions => is::<Session>(table, &row),
        Table::Checkpoints => is::<SignedCheckpoint>(table, &row),
    }
}

fn is<T: DeserializeOwned>(table: Table, row: &[u8]) -> Result<u64, ReadError> {
    codec::decode::<T>(table, row).map(|_| 0)
}

/// Decompresses a block and reads its events. An item that does not decode was refused when it
/// came; its place stays empty.
fn block(row: &[u8]) -> Result<u64, ReadError> {
    let (head, payload): (BlockHead, &[u8]) = codec::decode_head(Table::Blocks, row)?;
    let items = open_payload(payload, head.payload_bytes)
        .map_err(|error| broken(Table::Blocks, error.to_string()))?;
    let events = items
        .iter()
        .filter(|item| decode_item::<EventView<'_>>(item).is_ok());
    Ok(u64::try_from(events.count()).unwrap_or(u64::MAX))
}

fn broken(table: Table, reason: String) -> ReadError {
    ReadError::Decode {
        table: table.name(),
        reason,
    }
}

impl OrgReader {
    /// Reads every row, and the audit log against its chain and against `checkpoints`, whose
    /// signatures the caller has verified.
    pub fn inspect(&self, checkpoints: &[Checkpoint]) -> Inspection {
        let mut found = Inspection::default();
        let (read, sealer) = (&*self.read, &self.sealer);
        for table in Table::ORG {
            found.table(read, *table, |entry| {
                let events = check_row(sealer, *table, entry)?;
                self.check_beside(*table, entry)?;
                Ok(events)
            });
        }
        // One that does not open is a bad row of its table.
        found.audit_base = self.audit_base().ok().flatten();
        match self.verify_audit_against(checkpoints) {
            Ok(Ok(head)) => found.audit_entries = head.seq,
            Ok(Err(fault)) => {
                found.audit_entries = fault.seq.saturating_sub(1);
                found.faults.push(fault.to_string());
            }
            Err(error) => found.faults.push(format!("audit: {error}")),
        }
        found
    }

    /// Checks a row against what must stand beside it.
    fn check_beside(&self, table: Table, entry: &Entry) -> Result<(), ReadError> {
        let view = self.view();
        let key = entry.key.as_slice();
        if table == Table::Blocks && self.read.get(Table::BlockIndex, key)?.is_none() {
            return Err(broken(table, "its index is missing".into()));
        }
        if table == Table::BlockIndex && self.read.get(Table::Blocks, key)?.is_none() {
            return Err(broken(table, "its block is missing".into()));
        }
        if table == Table::Streams {
            let stream: StoredStream = view.found(table, entry)?;
            let mark = self.read.mark(key)?;
            if mark != stream.high_water {
                let said = stream.high_water;
                return Err(broken(table, format!("its mark is {mark}, it says {said}")));
            }
        }
        if table == Table::Meta {
            let names = &self.org.names;
            let row = view.opened(table, entry)?;
            let named = |name: &str| names.meta(name) == key;
            if named(meta::IDENTITY) {
                is::<OrgId>(table, &row)?;
            } else if named(meta::CHECKS) {
                is::<Vec<String>>(table, &row)?;
            } else if named(meta::QUARANTINE) {
                is::<QuarantineCount>(table, &row)?;
            } else if named(meta::LOSSES) {
                is::<LossCount>(table, &row)?;
            } else if named(meta::AUDIT) {
                is::<AuditHead>(table, &row)?;
            } else if named(meta::RETENTION) {
                is::<Retention>(table, &row)?;
            } else if named(meta::AUDIT_BASE) {
                is::<SignedBase>(table, &row)?;
            } else if named(meta::RESEAL) {
                is::<Cursor>(table, &row)?;
            } else if named(meta::JUDGED) {
                is::<u64>(table, &row)?;
            } else {
                return Err(broken(table, "nothing has this name".into()));
            }
        }
        Ok(())
    }

    /// Reads the whole audit log against its chain; the inner error names the first bad entry.
    pub fn verify_audit(&self) -> Result<Result<AuditHead, AuditFault>, ReadError> {
        self.verify_audit_against(&[])
    }

    /// As [`OrgReader::verify_audit`], and against checkpoints whose signatures were verified.
    pub fn verify_audit_against(
        &self,
        checkpoints: &[Checkpoint],
    ) -> Result<Result<AuditHead, AuditFault>, ReadError> {
        let witnessed: BTreeMap<u64, &Checkpoint> = checkpoints
            .iter()
            .map(|checkpoint| (checkpoint.head.seq, checkpoint))
            .collect();
        let view = self.view();
        let base = match self.audit_base() {
            Ok(base) => base.map(|signed| signed.base),
            Err(ReadError::Engine(error)) => return Err(ReadError::Engine(error)),
            Err(error) => return Ok(Err(fault(1, &format!("the base: {error}")))),
        };
        let mut end = base.map(|base| base.head).unwrap_or_default();
        if let Some(base) = base {
            if base.org != self.org.org {
                return Ok(Err(fault(end.seq + 1, "its base is another log's")));
            }
            if let Some(witness) = witnessed.get(&end.seq)
                && witness.head.hash != end.hash
            {
                let reason = format!("the signed checkpoint of {} names another base", witness.at);
                return Ok(Err(fault(end.seq + 1, &reason)));
            }
        }
        let found = each(
            &*self.read,
            Table::Audit,
            &Range::all(),
            Direction::Forward,
            |row| {
                let seq = end.seq + 1;
                let bad = |reason: &str| Ok(ControlFlow::Break(fault(seq, reason)));
                if row.key != keys::sequence(seq) {
                    let is_behind = row.key.as_slice() > keys::sequence(seq).as_slice();
                    return bad(if is_behind {
                        "it is missing"
                    } else {
                        "its key is malformed"
                    });
                }
                let entry: AuditEntry = match view.found(Table::Audit, &row) {
                    Ok(entry) => entry,
                    Err(ReadError::Engine(error)) => return Err(ReadError::Engine(error)),
                    Err(error) => return bad(&error.to_string()),
                };
                if entry.seq != seq {
                    return bad("it names another place");
                }
                if entry.prev_hash != end.hash {
                    return bad("it does not follow from the entry before");
                }
                if entry.hash != audit_hash(self.org.org, &entry) {
                    return bad("it does not have the hash that it names");
                }
                if let Some(witness) = witnessed.get(&seq)
                    && witness.head.hash != entry.hash
                {
                    let at = witness.at;
                    return bad(&format!(
                        "the signed checkpoint of {at} names another entry"
                    ));
                }
                end = AuditHead {
                    seq,
                    hash: entry.hash,
                };
                Ok(ControlFlow::Continue(()))
            },
        )?;
        if let Some(fault) = found {
            return Ok(Err(fault));
        }
        let head = match self.audit_head() {
            Ok(head) => head,
            Err(ReadError::Engine(error)) => return Err(ReadError::Engine(error)),
            Err(error) => return Ok(Err(fault(end.seq + 1, &format!("the head: {error}")))),
        };
        if let Some((last, witness)) = witnessed.last_key_value()
            && *last > end.seq
        {
            let at = witness.at;
            let reason = format!("it is missing: the signed checkpoint of {at} names entry {last}");
            return Ok(Err(fault(end.seq + 1, &reason)));
        }
        Ok(match head.seq.cmp(&end.seq) {
            std::cmp::Ordering::Greater => Err(fault(end.seq + 1, "it is missing")),
            std::cmp::Ordering::Less => Err(fault(head.seq + 1, "it stands behind the head")),
            std::cmp::Ordering::Equal if head.hash != end.hash => {
                Err(fault(end.seq, "the head names another entry"))
            }
            std::cmp::Ordering::Equal => Ok(end),
        })
    }
}

fn fault(seq: u64, reason: &str) -> AuditFault {
    AuditFault {
        seq,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tamper::{new_engine, store_on};
    use super::super::{OrgStore, SignedHeader, Stream};
    use super::*;
    use crate::engine::{Engine, WriteSet};
    use jiff::Timestamp;
    use protocol::ids::AgentId;

    async fn inspect(store: &OrgStore) -> Inspection {
        store.read(|reader| Ok(reader.inspect(&[]))).await.unwrap()
    }

    fn put(engine: &Arc<dyn Engine>, table: Table, key: &[u8], value: Vec<u8>) {
        let mut set = WriteSet::default();
        set.put(table, key.to_vec(), value);
        engine.apply(&set).unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_row_of_any_table_that_does_not_open_or_decode_is_named() {
        for table in Table::ORG {
            let engine = new_engine();
            let store = store_on(&engine);
            assert_eq!(inspect(&store).await.faults, Vec::<String>::new());
            // As another organisation's row, or a damaged one.
            put(&engine, *table, b"odd", vec![7; 80]);
            let found = inspect(&store).await;
            let name = table.name();
            assert!(
                found.faults[0].starts_with(&format!("{name}: a bad row, 6f6464: ")),
                "{found:?}"
            );
            // Sealed for its place, and not what belongs there.
            let sealed = store.inner.sealer.seal(*table, b"odd", &[1; 3]);
            put(&engine, *table, b"odd", sealed);
            let found = inspect(&store).await;
            assert!(found.faults[0].starts_with(name), "{found:?}");
            assert_eq!(found.tables[name], 1 + u64::from(*table == Table::Meta));
        }
    }

    #[tokio::test]
    async fn a_mark_that_was_moved_is_named() {
        let engine = new_engine();
        let store = store_on(&engine);
        let stream = Stream {
            agent: AgentId::from_bytes([1; 16]),
            lane: 2,
            epoch: [9; 16],
        };
        let mut write = store.write();
        let header = SignedHeader {
            received_at: Timestamp::UNIX_EPOCH,
            header: vec![1],
            signature: vec![2],
        };
        write.advance_high_water(stream, 1, 4, header);
        write.commit().await.unwrap();
        assert_eq!(inspect(&store).await.faults, Vec::<String>::new());
        let set = WriteSet {
            marks: vec![(store.inner.names.stream(stream), 9)],
            ..WriteSet::default()
        };
        engine.apply(&set).unwrap().unwrap();
        let found = inspect(&store).await;
        assert_eq!(found.faults.len(), 1, "{found:?}");
        assert!(
            found.faults[0].contains("its mark is 9, it says 4"),
            "{found:?}"
        );
    }
}
