//! The records in the sealed stream of a backup.
//!
//! ```text
//! record       size  (numbers are little-endian)
//!                 1  kind
//!                 4  n, at most 80 MiB
//!                 n  body
//!
//! kind         body
//! 1 appliance  commit 8 ‖ format 4
//! 2 org        its id 16 ‖ commit 8 ‖ format 4 ‖ its wrapped keyring, as it was with these rows
//! 3 rows       table 1 ‖ ( key length 2 ‖ key ‖ version 8 ‖ value length 4 ‖ sealed value )*
//! 4 marks      ( key length 2 ‖ key ‖ number 8 )*
//! 5 feed       ( commit 8 ‖ table 1 ‖ key length 2 ‖ key )*
//! 6 whole      rows 8: how many rows of this holder came before; its end
//! 7 gone       id 16 of an organisation that was purged while the backup was made
//! 8 end        organisations 8: how many came before; the backup's end
//! ```

use protocol::ids::OrgId;

use super::BackupError;
use super::stream::{OpeningReader, SealingWriter};
use crate::engine::{Entry, Moment, Note, Piece, Row};
use crate::tables::Table;

/// Longest body: a page of 4 MiB, and a row of 64 MiB that ended it.
const BODY_BYTES: usize = 80 << 20;
const HEAD_BYTES: usize = 5;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Appliance(Moment),
    Org {
        org: OrgId,
        moment: Moment,
        keyring: Vec<u8>,
    },
    Piece(Piece),
    Whole {
        rows: u64,
    },
    Gone(OrgId),
    End {
        organisations: u64,
    },
}

const APPLIANCE: u8 = 1;
const ORG: u8 = 2;
const ROWS: u8 = 3;
const MARKS: u8 = 4;
const FEED: u8 = 5;
const WHOLE: u8 = 6;
const GONE: u8 = 7;
const END: u8 = 8;

fn put_short(body: &mut Vec<u8>, key: &[u8]) {
    // The seam bounds keys at 3,000 bytes.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(key);
}

fn put_moment(body: &mut Vec<u8>, moment: Moment) {
    body.extend_from_slice(&moment.commit.to_le_bytes());
    body.extend_from_slice(&moment.format.to_le_bytes());
}

impl Record {
    fn encode(&self) -> (u8, Vec<u8>) {
        let mut body = Vec::new();
        let kind = match self {
            Self::Appliance(moment) => {
                put_moment(&mut body, *moment);
                APPLIANCE
            }
            Self::Org {
                org,
                moment,
                keyring,
            } => {
                body.extend_from_slice(org.as_bytes());
                put_moment(&mut body, *moment);
                body.extend_from_slice(keyring);
                ORG
            }
            Self::Piece(Piece::Rows(table, rows)) => {
                body.push(table.number());
                for Entry { key, row } in rows {
                    put_short(&mut body, key);
                    body.extend_from_slice(&row.version.to_le_bytes());
                    let length = u32::try_from(row.value.len()).unwrap_or(u32::MAX);
                    body.extend_from_slice(&length.to_le_bytes());
                    body.extend_from_slice(&row.value);
                }
                ROWS
            }
            Self::Piece(Piece::Marks(marks)) => {
                for (key, value) in marks {
                    put_short(&mut body, key);
                    body.extend_from_slice(&value.to_le_bytes());
                }
                MARKS
            }
            Self::Piece(Piece::Notes(notes)) => {
                for note in notes {
                    body.extend_from_slice(&note.commit.to_le_bytes());
                    body.push(note.table.number());
                    put_short(&mut body, &note.key);
                }
                FEED
            }
            Self::Whole { rows } => {
                body.extend_from_slice(&rows.to_le_bytes());
                WHOLE
            }
            Self::Gone(org) => {
                body.extend_from_slice(org.as_bytes());
                GONE
            }
            Self::End { organisations } => {
                body.extend_from_slice(&organisations.to_le_bytes());
                END
            }
        };
        (kind, body)
    }

    /// Appends the record to a stream.
    pub(super) fn write(&self, to: &mut SealingWriter<'_>) -> Result<(), BackupError> {
        let (kind, body) = self.encode();
        if body.len() > BODY_BYTES {
            let error = std::io::Error::other("a row is larger than the store takes");
            return Err(error.into());
        }
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        to.write(&[kind])?;
        to.write(&length.to_le_bytes())?;
        Ok(to.write(&body)?)
    }

    /// Reads the next record of a stream.
    pub(super) fn read(from: &mut OpeningReader<'_>) -> Result<Self, BackupError> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        from.read(HEAD_BYTES, &mut head)?;
        let mut head = Body(&head);
        let (Some(kind), Some(length)) = (head.byte(), head.u32()) else {
            return Err(from.nonsense("a record has no head"));
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > BODY_BYTES {
            return Err(from.nonsense("a record is longer than any"));
        }
        let mut body = Vec::new();
        from.read(length, &mut body)?;
        Self::decode(kind, &body)
            .ok_or_else(|| from.nonsense(format!("a record of kind {kind} is malformed")))
    }

    fn decode(kind: u8, body: &[u8]) -> Option<Self> {
        let mut body = Body(body);
        let record = match kind {
            APPLIANCE => Self::Appliance(body.moment()?),
            ORG => Self::Org {
                org: body.org()?,
                moment: body.moment()?,
                keyring: std::mem::take(&mut body.0).to_vec(),
            },
            ROWS => {
                let table = Table::from_number(body.byte()?)?;
                let mut rows = Vec::new();
                while !body.0.is_empty() {
                    let key = body.short()?.to_vec();
                    let version = body.u64()?;
                    let length = usize::try_from(body.u32()?).ok()?;
                    let value = body.bytes(length)?.to_vec();
                    let row = Row { version, value };
                    rows.push(Entry { key, row });
                }
                Self::Piece(Piece::Rows(table, rows))
            }
            MARKS => {
                let mut marks = Vec::new();
                while !body.0.is_empty() {
                    marks.push((body.short()?.to_vec(), body.u64()?));
                }
                Self::Piece(Piece::Marks(marks))
            }
            FEED => {
                let mut notes = Vec::new();
                while !body.0.is_empty() {
                    notes.push(Note {
                        commit: body.u64()?,
                        table: Table::from_number(body.byte()?)?,
                        key: body.short()?.to_vec(),
                    });
                }
                Self::Piece(Piece::Notes(notes))
            }
            WHOLE => Self::Whole { rows: body.u64()? },
            GONE => Self::Gone(body.org()?),
            END => Self::End {
                organisations: body.u64()?,
            },
            _ => return None,
        };
        body.0.is_empty().then_some(record)
    }
}

/// What is left of a body.
struct Body<'b>(&'b [u8]);

impl<'b> Body<'b> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn org(&mut self) -> Option<OrgId> {
        self.array().map(OrgId::from_bytes)
    }

    fn moment(&mut self) -> Option<Moment> {
        Some(Moment {
            commit: self.u64()?,
            format: self.u32()?,
        })
    }

    fn bytes(&mut self, length: usize) -> Option<&'b [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn short(&mut self) -> Option<&'b [u8]> {
        let length = self.array().map(u16::from_le_bytes)?;
        self.bytes(usize::from(length))
    }
}
