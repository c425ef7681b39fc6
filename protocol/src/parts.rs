//! Parts of a scope: how two sides that hold different sets find out where they differ.
//!
//! Members are dealt into parts by a hash of their URN. A [`SetHash`](crate::document::SetHash)
//! of the whole scope is the root of a hash tree of two levels, the sums of the parts are its
//! leaves. Where the roots differ, the hub sends its leaves once, and the agent sends again what
//! lies in the parts whose sums are not its own: of 10,000 resources of which one differs, some
//! ten. A deeper tree would send fewer bytes and take a round trip a level.

use crate::document::ContentHash;
use crate::wire::v1::Resent;

/// Most parts of a scope: 32 KiB of sums.
pub const MOST: usize = 4096;

/// Members that a part should have, about.
const MEMBERS: u64 = 8;

/// Returns into how many parts a scope of so many members is dealt: a power of two.
pub fn count_for(members: u64) -> usize {
    let wanted = usize::try_from(members / MEMBERS).unwrap_or(MOST);
    wanted.next_power_of_two().min(MOST)
}

/// Says whether a scope may be dealt into so many parts.
pub fn is_count(parts: usize) -> bool {
    parts.is_power_of_two() && parts <= MOST
}

fn hash(text: &str, content: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("zero-x scope part 1");
    hasher.update(text.as_bytes());
    hasher.update(content);
    let mut lane = [0; 8];
    hasher.finalize_xof().fill(&mut lane);
    u64::from_le_bytes(lane)
}

/// Returns the part that a resource lies in, of a count that [`is_count`].
pub fn part_of(urn: &str, parts: usize) -> u16 {
    let mask = u64::try_from(parts.min(MOST))
        .unwrap_or(1)
        .saturating_sub(1);
    u16::try_from(hash(urn, &[]) & mask).unwrap_or_default()
}

/// The sums of a scope's parts: of each, the hashes of its members, added with wrap-around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(Vec<u64>);

impl Sums {
    /// Makes the sums of an empty scope in so many parts; `None` for a count that cannot be.
    pub fn new(parts: usize) -> Option<Self> {
        is_count(parts).then(|| Self(vec![0; parts]))
    }

    /// Adds a member.
    pub fn add(&mut self, urn: &str, content: &ContentHash) {
        let part = usize::from(part_of(urn, self.0.len()));
        if let Some(sum) = self.0.get_mut(part) {
            *sum = sum.wrapping_add(hash(urn, content));
        }
    }

    /// Returns the sums as they travel.
    pub fn into_vec(self) -> Vec<u64> {
        self.0
    }

    /// Names the parts in which another side's sums differ.
    pub fn differing(&self, other: &[u64]) -> Resent {
        let differ = |(part, (a, b)): (u16, (&u64, &u64))| (a != b).then_some(part);
        Resent {
            parts: u16::try_from(self.0.len()).unwrap_or(u16::MAX),
            which: (0..)
                .zip(self.0.iter().zip(other))
                .filter_map(differ)
                .collect(),
        }
    }
}

impl Resent {
    /// Says whether a resource lies in one of the parts.
    pub fn covers(&self, urn: &str) -> bool {
        let part = part_of(urn, usize::from(self.parts));
        self.which.binary_search(&part).is_ok()
    }

    /// Says whether the parts are parts, each named once, in order.
    pub fn is_well_formed(&self) -> bool {
        let is_rising = self.which.is_sorted_by(|a, b| a < b);
        is_count(usize::from(self.parts))
            && is_rising
            && self.which.last().is_none_or(|last| *last < self.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums(members: &[(String, u8)], parts: usize) -> Sums {
        let mut sums = Sums::new(parts).unwrap();
        for (urn, content) in members {
            sums.add(urn, &[*content; 32]);
        }
        sums
    }

    #[test]
    fn a_scope_is_dealt_into_a_bounded_power_of_two() {
        assert_eq!([0, 7, 8, 100, 10_000].map(count_for), [1, 1, 1, 16, 2048]);
        assert_eq!(count_for(u64::MAX), MOST);
        assert!(!is_count(0) && !is_count(3) && !is_count(2 * MOST) && is_count(MOST));
        assert!(Sums::new(5).is_none());
    }

    #[test]
    fn golden_parts() {
        // Both sides of every release must agree on these.
        assert_eq!(part_of("urn:a", 4096), 474);
        assert_eq!(part_of("urn:a", 16), 10);
        let mut one = Sums::new(1).unwrap();
        one.add("urn:a", &[7; 32]);
        assert_eq!(one.into_vec(), [5_512_298_425_163_716_855]);
    }

    #[test]
    fn parts_that_are_none_are_not_well_formed() {
        let check = |parts: u16, which: &[u16], want: bool| {
            let resent = Resent {
                parts,
                which: which.to_vec(),
            };
            assert_eq!(resent.is_well_formed(), want, "{parts} {which:?}");
        };
        check(16, &[], true);
        check(16, &[0, 3, 15], true);
        check(16, &[16], false);
        check(16, &[3, 3], false);
        check(16, &[4, 3], false);
        check(15, &[1], false);
        check(0, &[], false);
        check(8192, &[1], false);
    }

    proptest! {
        /// Whatever differs lies in a part that is named, and few others are named.
        #[test]
        fn differences_are_found_in_their_parts(
            ours in proptest::collection::btree_map("[a-z]{1,6}", 0u8..3, 0..60),
            theirs in proptest::collection::btree_map("[a-z]{1,6}", 0u8..3, 0..60),
        ) {
            let list = |of: &std::collections::BTreeMap<String, u8>| {
                of.iter().map(|(urn, content)| (urn.clone(), *content)).collect::<Vec<_>>()
            };
            let (a, b) = (sums(&list(&ours), 64), sums(&list(&theirs), 64));
            let resent = a.differing(&b.clone().into_vec());
            prop_assert!(resent.is_well_formed());
            let mut differ = 0;
            for urn in ours.keys().chain(theirs.keys()) {
                if ours.get(urn) != theirs.get(urn) {
                    differ += 1;
                    prop_assert!(resent.covers(urn), "{}", urn);
                }
            }
            prop_assert!(resent.which.len() <= differ);
            prop_assert_eq!(a == b, resent.which.is_empty());
        }
    }
}
