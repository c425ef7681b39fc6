//! How the spool's bytes are divided, and whether a commit has room. Decides; does not look at
//! the disk and removes nothing itself.
//!
//! ```text
//! max_bytes ├─ 1/8 the engine's own: indexes, hashes, cursors, pages that are being replaced
//!           └─ 7/8 batches ├─ 4/8 events  2/8 inventory  1/8 cost  1/8 results: what waits
//!                          └─ acknowledged ones fill what of that is not in use
//! ```
//! The shares add up to the whole, so that no lane can take another's place.

use protocol::frame::Lane;

/// Size of the engine's pages, in bytes.
const PAGE_BYTES: u64 = 4096;

/// What a value takes beside its bytes: key, head, lengths.
const ROW_BYTES: u64 = 96;

/// Bytes of acknowledged batches that are removed together at least, so that a spool which stays
/// full does not look for one at every commit.
const EVICT_BYTES: u64 = 1 << 20;

/// Returns how many eighths of the batches' bytes a lane may fill with what waits for the hub.
const fn eighths(lane: Lane) -> u64 {
    match lane {
        // Happen once, and their files are rotated away: the longest outage should fit.
        Lane::Events => 4,
        // A state, not a history: the next sweep finds again what had to wait.
        Lane::Inventory => 2,
        // Few rows a day, which the provider keeps for months.
        Lane::Cost => 1,
        // One report a sync, and records that were set aside.
        Lane::Results => 1,
        // Carries no batches.
        Lane::Control => 0,
    }
}

/// Returns the bytes that batches may take altogether.
pub(super) const fn budget(max_bytes: u64) -> u64 {
    max_bytes / 8 * 7
}

/// Returns the bytes that waiting batches of a lane may take.
pub(super) const fn share(max_bytes: u64, lane: Lane) -> u64 {
    budget(max_bytes) / 8 * eighths(lane)
}

/// Returns how many bytes of the file a value is counted with.
///
/// redb gives a value that does not share a page the next power of two of pages, and leaves pages
/// of small values half empty when they arrive in order.
pub(super) fn charge(value_bytes: usize) -> u64 {
    let bytes = u64::try_from(value_bytes).unwrap_or(u64::MAX / 4) + ROW_BYTES;
    if bytes <= PAGE_BYTES / 2 {
        return 2 * bytes;
    }
    bytes.div_ceil(PAGE_BYTES).next_power_of_two() * PAGE_BYTES
}

/// Why a commit has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The lane holds its share.
    Lane(Lane),
    /// All lanes together hold as much as they may.
    Spool,
    /// The disk has no more to spare.
    Disk,
}

/// What the decision is made from, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Of waiting and of acknowledged batches.
    pub(super) waiting: u64,
    pub(super) kept: u64,
    /// The most that both have been together: pages that the file has already.
    pub(super) reached: u64,
    /// Free on the disk; `None` where it cannot be asked.
    pub(super) disk_free: Option<u64>,
    pub(super) keep_free: u64,
    pub(super) max: u64,
}

/// Decides about a commit: how many bytes of acknowledged batches have to go for it.
///
/// `lanes` holds, for each lane that it writes to, the bytes that wait there and those it adds. A
/// lane in which nothing waits takes a commit of any size, or one larger than the share would
/// wait for ever.
///
/// # Errors
///
/// Why it has to wait.
pub(super) fn admit(
    room: &Room,
    lanes: impl IntoIterator<Item = (Lane, u64, u64)>,
) -> Result<u64, Full> {
    let mut added = 0;
    for (lane, waiting, more) in lanes {
        if waiting > 0 && waiting + more > share(room.max, lane) {
            return Err(Full::Lane(lane));
        }
        added += more;
    }
    if added == 0 {
        return Ok(0);
    }
    let held = room.waiting + room.kept;
    let over = (held + added).saturating_sub(budget(room.max));
    if over > room.kept && room.waiting > 0 {
        return Err(Full::Spool);
    }
    let is_short = room
        .disk_free
        .is_some_and(|free| free < room.keep_free.saturating_add(added));
    let mut evicted = over.min(room.kept);
    if is_short {
        // Pages of removed batches are used again a commit later: twice the room is asked for.
        let grown = (held + 2 * added).saturating_sub(room.reached);
        if grown > room.kept {
            return Err(Full::Disk);
        }
        evicted = evicted.max(grown);
    }
    if evicted > 0 {
        evicted = evicted.max(EVICT_BYTES).min(room.kept);
    }
    Ok(evicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1 << 30;

    fn room() -> Room {
        Room {
            waiting: 0,
            kept: 0,
            reached: 0,
            disk_free: Some(u64::MAX),
            keep_free: 0,
            max: MAX,
        }
    }

    #[test]
    fn the_shares_of_all_lanes_are_the_whole_budget() {
        let all: u64 = Lane::DATA.into_iter().map(|lane| share(MAX, lane)).sum();
        assert_eq!(all, budget(MAX));
        assert!(budget(MAX) < MAX);
    }

    #[test]
    fn a_lane_waits_at_its_own_share_and_no_other_lane_does() {
        let share = share(MAX, Lane::Inventory);
        let full = Room {
            waiting: share,
            ..room()
        };
        let refused = admit(&full, [(Lane::Inventory, share, 1)]);
        assert_eq!(refused, Err(Full::Lane(Lane::Inventory)));
        assert_eq!(admit(&full, [(Lane::Events, 0, 1 << 20)]), Ok(0));
        assert_eq!(admit(&full, [(Lane::Inventory, share - 1, 1)]), Ok(0));
    }

    #[test]
    fn acknowledged_batches_go_before_anything_waits() {
        let full = Room {
            waiting: 1 << 20,
            kept: budget(MAX) - (1 << 20),
            ..room()
        };
        let lanes = [(Lane::Events, 1 << 20, 4 << 20)];
        assert_eq!(admit(&full, lanes), Ok(4 << 20));
        assert_eq!(admit(&full, [(Lane::Events, 0, 1)]), Ok(EVICT_BYTES));
    }

    #[test]
    fn a_short_disk_takes_only_what_fits_pages_that_the_file_has() {
        let short = Room {
            waiting: 10 << 20,
            kept: 8 << 20,
            reached: 18 << 20,
            disk_free: Some(0),
            keep_free: 1,
            ..room()
        };
        assert_eq!(admit(&short, [(Lane::Events, 0, 1 << 20)]), Ok(2 << 20));
        let nothing_kept = Room {
            waiting: 18 << 20,
            kept: 0,
            ..short
        };
        let refused = admit(&nothing_kept, [(Lane::Events, 0, 1)]);
        assert_eq!(refused, Err(Full::Disk));
        let drained = Room {
            waiting: 0,
            ..nothing_kept
        };
        assert_eq!(admit(&drained, [(Lane::Events, 0, 1)]), Ok(0));
    }

    #[test]
    fn a_commit_larger_than_its_share_passes_when_its_lane_is_empty() {
        let share = share(MAX, Lane::Cost);
        let lanes = [(Lane::Cost, 0, share + 1)];
        assert_eq!(admit(&room(), lanes), Ok(0));
        let lanes = [(Lane::Cost, 1, share)];
        assert_eq!(admit(&room(), lanes), Err(Full::Lane(Lane::Cost)));
    }
}
