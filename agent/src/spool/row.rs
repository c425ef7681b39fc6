//! Batches as rows: sealed, and bound to their place.

use protocol::frame::Lane;
use protocol::wire::v1::Epoch;

use crate::seal::{SealError, SealKey};

/// Where a row belongs, and what its head says of it. All of it is bound to the sealed value: a
/// row that is put in another's place, or whose head is changed, does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowPlace {
    /// The file's name of itself: a row of another spool under the same key does not open.
    pub(super) birth: Epoch,
    pub(super) lane: Lane,
    /// Positions of the first and the last item.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) made_at_ms: i64,
}

impl RowPlace {
    fn bound(&self) -> Vec<u8> {
        let mut bound = b"batch ".to_vec();
        bound.extend_from_slice(&self.birth);
        bound.push(self.lane.number());
        bound.extend_from_slice(&self.first.to_le_bytes());
        bound.extend_from_slice(&self.last.to_le_bytes());
        bound.extend_from_slice(&self.made_at_ms.to_le_bytes());
        bound
    }

    /// Seals a frame for this place.
    pub(super) fn seal(&self, key: &SealKey, frame: &[u8]) -> Vec<u8> {
        key.seal(&self.bound(), frame)
    }

    /// Opens what [`RowPlace::seal`] made for this place.
    ///
    /// # Errors
    ///
    /// When it was changed or belongs elsewhere.
    pub(super) fn open(&self, key: &SealKey, value: &[u8]) -> Result<Vec<u8>, SealError> {
        key.open(&self.bound(), value).map(|frame| frame.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_opens_in_its_own_place_only() {
        let key = SealKey::new(&[1; 32]);
        let own = RowPlace {
            birth: [1; 16],
            lane: Lane::Events,
            first: 3,
            last: 5,
            made_at_ms: 7,
        };
        let sealed = own.seal(&key, b"frame");
        assert_eq!(own.open(&key, &sealed).unwrap(), b"frame");
        let others = [
            RowPlace {
                birth: [2; 16],
                ..own
            },
            RowPlace {
                lane: Lane::Results,
                ..own
            },
            RowPlace { first: 4, ..own },
            RowPlace { last: 6, ..own },
            RowPlace {
                made_at_ms: 8,
                ..own
            },
        ];
        for other in others {
            assert_eq!(other.open(&key, &sealed), Err(SealError::Damaged));
        }
    }
}
