//! Frames that have begun to arrive: whoever sends a byte a second is given up.

use std::collections::BTreeMap;
use std::time::Instant;

use protocol::frame::Lane;
use protocol::limits::FRAME_TIME;

/// The unfinished frame of each lane, and since when it is waited for.
#[derive(Debug, Default)]
pub(super) struct Frames {
    begun: BTreeMap<Lane, (u64, Instant)>,
}

impl Frames {
    /// Takes note of which frame of a lane is unfinished after bytes of it were read.
    pub(super) fn heard(&mut self, lane: Lane, unfinished: Option<u64>, now: Instant) {
        match unfinished {
            None => {
                self.begun.remove(&lane);
            }
            Some(number) => {
                let begun = self.begun.entry(lane).or_insert((number, now));
                if begun.0 != number {
                    *begun = (number, now);
                }
            }
        }
    }

    /// Takes note that the hub itself does not read the data lanes: their time starts again.
    pub(super) fn held(&mut self, now: Instant) {
        for (lane, begun) in &mut self.begun {
            if *lane != Lane::Control {
                begun.1 = now;
            }
        }
    }

    /// Returns when the first of them is late.
    pub(super) fn due(&self) -> Option<Instant> {
        let since = self.begun.values().map(|(_, since)| *since).min()?;
        since.checked_add(FRAME_TIME)
    }

    /// Returns a lane whose frame is late.
    pub(super) fn late(&self, now: Instant) -> Option<Lane> {
        let mut begun = self.begun.iter();
        begun.find_map(|(lane, (_, since))| {
            let is_late = now.saturating_duration_since(*since) >= FRAME_TIME;
            is_late.then_some(*lane)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_frame_that_never_ends_is_late_and_one_that_the_hub_itself_held_up_is_not() {
        let began = Instant::now();
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let mut frames = Frames::default();
        assert_eq!(frames.due(), None);
        // A byte a second of the same frame gains nothing.
        for second in 0..300 {
            frames.heard(Lane::Events, Some(7), at(second));
            assert_eq!(frames.late(at(second)), None);
        }
        assert_eq!(frames.due(), Some(at(300)));
        assert_eq!(frames.late(at(300)), Some(Lane::Events));

        // The next frame has its own time.
        frames.heard(Lane::Events, Some(8), at(300));
        assert_eq!(frames.due(), Some(at(600)));
        frames.heard(Lane::Control, Some(1), at(310));
        frames.held(at(500));
        assert_eq!(frames.due(), Some(at(610)), "control is always read");
        assert_eq!(frames.late(at(700)), Some(Lane::Control));
        frames.heard(Lane::Control, None, at(700));
        assert_eq!(frames.late(at(799)), None);
        assert_eq!(frames.late(at(800)), Some(Lane::Events));
        frames.heard(Lane::Events, None, at(800));
        assert_eq!(frames.due(), None);
    }
}
