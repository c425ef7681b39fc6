//! How a row becomes bytes and back: a format byte, then postcard.
//!
//! The byte is the format of all rows of this program. A newer one is refused by name, so that an
//! older program says so instead of guessing.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ReadError;
use crate::tables::Table;

/// The newest row format that this program reads and the one that it writes.
const FORMAT: u8 = 1;

pub(crate) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    postcard::to_extend(row, vec![FORMAT])
        .expect("rows are plain data, and memory is no sink that fails")
}

/// Decodes a whole row.
pub(crate) fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, ReadError> {
    match decode_head(table, bytes)? {
        (row, []) => Ok(row),
        (_, rest) => Err(ReadError::Decode {
            table: table.name(),
            reason: format!("{} bytes are left over", rest.len()),
        }),
    }
}

/// Decodes the head of a row and returns the bytes behind it.
pub(crate) fn decode_head<T: DeserializeOwned>(
    table: Table,
    bytes: &[u8],
) -> Result<(T, &[u8]), ReadError> {
    let (format, body) = bytes.split_first().ok_or_else(|| ReadError::Decode {
        table: table.name(),
        reason: "the row is empty".into(),
    })?;
    if *format > FORMAT {
        let table = table.name();
        return Err(ReadError::Newer {
            table,
            found: *format,
            supported: FORMAT,
        });
    }
    if *format != FORMAT {
        let reason = format!("it has format {format}");
        return Err(ReadError::Decode {
            table: table.name(),
            reason,
        });
    }
    postcard::take_from_bytes(body).map_err(|error| ReadError::Decode {
        table: table.name(),
        reason: error.to_string(),
    })
}
