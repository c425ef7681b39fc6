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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{AgentState, FindingStatus, Role, Severity, SourceState, Verdict};

    #[test]
    fn words_keep_their_numbers_in_rows() {
        // Golden: rows of every release hold these numbers.
        #[track_caller]
        fn check<T: Serialize + DeserializeOwned + std::fmt::Display>(words: &str) {
            for (number, word) in (0u8..).zip(words.split_whitespace()) {
                let row: T = decode(Table::Meta, &[FORMAT, number]).unwrap();
                assert_eq!(row.to_string(), word);
                assert_eq!(encode(&row), [FORMAT, number]);
            }
            let count = u8::try_from(words.split_whitespace().count()).unwrap();
            assert!(
                decode::<T>(Table::Meta, &[FORMAT, count]).is_err(),
                "{words}"
            );
        }
        check::<Severity>("info low medium high critical");
        check::<Verdict>("pass fail unknown not_applicable manual");
        check::<FindingStatus>("open muted resolved");
        check::<Role>("viewer auditor analyst operator admin");
        check::<AgentState>("active suspended revoked quarantined");
        check::<SourceState>("new ok partial failed removed");
    }

    #[test]
    fn a_row_of_another_format_or_length_is_refused_by_name() {
        let check = |bytes: &[u8], want: &str| {
            let error = decode::<(u8, u8)>(Table::Audit, bytes).unwrap_err();
            assert_eq!(error.to_string(), want);
        };
        let does_not = "a row of table audit does not decode: ";
        check(
            &[2, 1, 2],
            "a row of table audit has format 2; this program reads up to 1",
        );
        check(&[], &format!("{does_not}the row is empty"));
        check(&[0, 1, 2], &format!("{does_not}it has format 0"));
        check(&[1, 1, 2, 3], &format!("{does_not}1 bytes are left over"));
        assert!(decode::<(u8, u8)>(Table::Audit, &[1, 1]).is_err());
    }
}
