//! Where a bundle stands among those that came before: decided from what is remembered, without
//! the store and without a clock.
//!
//! A bundle names the one before it by its digest. When that one never came, the numbers between
//! say which; numbers may skip, since an export that broke off leaves none. Whether anything is
//! missing by that, sequences decide: an agent that waits for replies exports again what was not
//! acknowledged.

use jiff::Timestamp;
use protocol::bundle::{Digest, Header};
use store::rows::carried::Carried;

use super::RESYNC;

/// Most bundles that are remembered.
const TAKEN: usize = 256;

/// Most missing bundles that are remembered by number.
const MISSING: usize = 256;

/// Where a bundle stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether this very bundle was taken before.
    pub(super) is_repeat: bool,
    /// Bundles before it that have not come, and were not known to be missing.
    pub(super) missing: Vec<u64>,
}

/// Says where a bundle stands; `None` when another one was taken in its place.
pub(super) fn standing(carried: &Carried, header: &Header, last: Digest) -> Option<Standing> {
    let number = header.number;
    if let Some((_, taken)) = carried.taken.iter().find(|(taken, _)| *taken == number) {
        return (*taken == last).then_some(Standing {
            is_repeat: true,
            missing: Vec::new(),
        });
    }
    let (greatest, _) = carried.last();
    let is_first = carried.taken.is_empty() && header.previous == Digest::default();
    let follows = is_first || carried.taken.iter().any(|(_, d)| *d == header.previous);
    let missing = if follows || number <= greatest {
        Vec::new()
    } else {
        // The greatest ones say more than the smallest.
        let count = u64::try_from(MISSING).unwrap_or(u64::MAX);
        let from = (greatest + 1).max(number.saturating_sub(count));
        (from..number).collect()
    };
    Some(Standing {
        is_repeat: false,
        missing,
    })
}

/// Says whether something was in the missing bundles that no other bundle brings.
///
/// Items that are missing say so themselves. Of another life of the spool nothing can be counted:
/// there a missing bundle is a loss if its agent no longer keeps what it held.
pub(super) fn is_lost(
    carried: &Carried,
    header: &Header,
    missing: &[u64],
    has_holes: bool,
) -> bool {
    let is_new_epoch = carried.epoch != header.epoch;
    let is_released = missing.iter().any(|number| *number <= header.released);
    has_holes || (is_new_epoch && is_released)
}

/// Takes note of a bundle that was taken.
pub(super) fn note(
    carried: &mut Carried,
    header: &Header,
    last: Digest,
    missing: &[u64],
    gives_up: bool,
    now: Timestamp,
) {
    let number = header.number;
    let (greatest, _) = carried.last();
    carried.missing.retain(|known| *known != number);
    carried.missing.extend(missing);
    if gives_up {
        let (lost, open): (Vec<u64>, Vec<u64>) =
            carried.missing.drain(..).partition(|known| *known < number);
        carried.given_up.extend(lost);
        carried.missing = open;
    }
    for list in [&mut carried.missing, &mut carried.given_up] {
        list.sort_unstable();
        list.dedup();
        let excess = list.len().saturating_sub(MISSING);
        list.drain(..excess);
    }
    if !carried.taken.iter().any(|(taken, _)| *taken == number) {
        carried.taken.push((number, last));
    }
    let excess = carried.taken.len().saturating_sub(TAKEN);
    carried.taken.drain(..excess);
    if number >= greatest {
        carried.epoch = header.epoch;
    }
    carried.taken_at = now;
    carried.is_unanswered = true;
}

/// Takes note of scopes to ask for.
pub(super) fn ask(carried: &mut Carried, scopes: Vec<String>) {
    for scope in scopes {
        if !carried.resync.contains(&scope) {
            carried.resync.push(scope);
        }
    }
    if carried.resync.len() > RESYNC {
        carried.resync = vec![String::new()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::{AgentId, OrgId};

    fn header(number: u64, previous: u8, released: u64, epoch: u8) -> Header {
        Header {
            org: OrgId::from_bytes([1; 16]),
            agent: AgentId::from_bytes([2; 16]),
            epoch: [epoch; 16],
            number,
            volume: 1,
            volumes: 1,
            made_at_ms: 0,
            released,
            previous: [previous; 32],
            certificates: vec![],
        }
    }

    fn taken(numbers: &[u64]) -> Carried {
        let mut carried = Carried::none(AgentId::from_bytes([2; 16]));
        for number in numbers {
            let digest = [u8::try_from(*number).unwrap(); 32];
            let header = header(*number, 0, 0, 1);
            note(
                &mut carried,
                &header,
                digest,
                &[],
                false,
                Timestamp::UNIX_EPOCH,
            );
        }
        carried
    }

    fn missing(carried: &Carried, header: &Header) -> Vec<u64> {
        standing(carried, header, [99; 32]).unwrap().missing
    }

    #[test]
    fn the_numbers_between_two_bundles_are_missing_unless_the_digest_says_that_there_are_none() {
        let none = Vec::<u64>::new();
        assert_eq!(missing(&taken(&[]), &header(1, 0, 0, 1)), none);
        assert_eq!(missing(&taken(&[]), &header(3, 7, 0, 1)), [1, 2]);
        assert_eq!(missing(&taken(&[1, 2]), &header(3, 2, 0, 1)), none);
        assert_eq!(missing(&taken(&[1, 2]), &header(6, 5, 0, 1)), [3, 4, 5]);
        // An export that broke off took a number and left no bundle.
        assert_eq!(missing(&taken(&[1, 2]), &header(4, 2, 0, 1)), none);
        // Late: what is missing around it is known.
        assert_eq!(missing(&taken(&[1, 4]), &header(2, 1, 0, 1)), none);
    }

    #[test]
    fn the_same_bundle_is_a_repeat_and_another_with_its_number_a_fork() {
        let carried = taken(&[1, 2]);
        assert!(
            standing(&carried, &header(2, 1, 0, 1), [2; 32])
                .unwrap()
                .is_repeat
        );
        assert_eq!(standing(&carried, &header(2, 1, 0, 1), [9; 32]), None);
    }

    #[test]
    fn a_missing_bundle_is_a_loss_only_if_nothing_else_brings_what_it_held() {
        let carried = taken(&[1]);
        assert!(!is_lost(&carried, &header(3, 9, 0, 1), &[2], false));
        assert!(is_lost(&carried, &header(3, 9, 0, 1), &[2], true));
        assert!(!is_lost(&carried, &header(3, 9, 3, 1), &[2], false));
        assert!(is_lost(&carried, &header(3, 9, 3, 2), &[2], false));
        assert!(!is_lost(&carried, &header(3, 9, 1, 2), &[2], false));
    }

    #[test]
    fn a_missing_bundle_is_remembered_until_it_comes_or_is_given_up() {
        let mut carried = taken(&[1]);
        let now = Timestamp::UNIX_EPOCH;
        note(
            &mut carried,
            &header(4, 3, 0, 1),
            [4; 32],
            &[2, 3],
            false,
            now,
        );
        assert_eq!(carried.missing, [2, 3]);
        note(&mut carried, &header(3, 2, 0, 1), [3; 32], &[], false, now);
        assert_eq!(
            (carried.missing.as_slice(), carried.last().0),
            ([2].as_slice(), 4)
        );
        note(&mut carried, &header(6, 5, 6, 2), [6; 32], &[5], true, now);
        assert!(carried.missing.is_empty());
        assert_eq!(
            (carried.given_up.as_slice(), carried.epoch),
            ([2, 5].as_slice(), [2; 16])
        );
        for number in 7..1000 {
            let digest = [7; 32];
            note(
                &mut carried,
                &header(number, 7, 0, 2),
                digest,
                &[],
                false,
                now,
            );
        }
        assert_eq!((carried.taken.len(), carried.last().0), (TAKEN, 999));
        ask(&mut carried, (0..=RESYNC).map(|n| n.to_string()).collect());
        assert_eq!(carried.resync, [""]);
    }
}
