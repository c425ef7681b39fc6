//! Versioned wire types. A module is frozen once a release speaks it: a change is a new module,
//! and golden bytes in the repository hold each to its word.

//!
//! Of all versions only a greeting's place is the same for ever: the first frame of an agent is a
//! [`v1::Hello`] in the lowest version that it speaks, and the hub answers in that.

pub mod v1;

/// Lowest and highest wire version that this build speaks.
pub const VERSIONS: (u8, u8) = (v1::SCHEMA, v1::SCHEMA);

/// Returns the highest version that both speak, given each side's lowest and highest.
pub fn agree(ours: (u8, u8), theirs: (u8, u8)) -> Option<u8> {
    let is_range = |(lowest, highest): (u8, u8)| lowest <= highest;
    let (lowest, highest) = (ours.0.max(theirs.0), ours.1.min(theirs.1));
    (is_range(ours) && is_range(theirs) && lowest <= highest).then_some(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        #[track_caller]
        fn check(agent: (u8, u8), hub: (u8, u8), want: Option<u8>) {
            assert_eq!(agree(hub, agent), want);
            assert_eq!(agree(agent, hub), want);
        }
        check((1, 1), (1, 1), Some(1));
        check((1, 2), (2, 3), Some(2));
        check((1, 3), (1, 2), Some(2));
        check((2, 2), (1, 3), Some(2));
        check((1, 1), (2, 3), None);
        check((4, 5), (2, 3), None);
        // No range at all.
        check((3, 1), (1, 3), None);
        check((255, 0), (0, 255), None);
    }
}
