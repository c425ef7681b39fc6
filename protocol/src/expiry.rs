//! When operators are warned of certificates that end.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

/// Days before the end of a certificate at which operators are warned, the most urgent first; 0 is
/// the end itself.
pub const WARN_DAYS: [u16; 4] = [0, 7, 30, 90];

/// Who puts another certificate in the place of one that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The programs, from half of its life on. That less than a third of it is left says that they
    /// could not.
    ByItself,
    /// A person.
    ByHand,
}

/// A certificate whose end is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The nearest of [`WARN_DAYS`] that it has come to.
    pub within_days: u16,
    /// Whole days that are left; negative once it has ended.
    pub days_left: i64,
    /// Its end.
    pub not_after: Timestamp,
}

impl Ending {
    /// Looks at a certificate that is valid `from` and `until`; `None` while nobody need know.
    #[must_use]
    pub fn of(from: Timestamp, until: Timestamp, renewal: Renewal, now: Timestamp) -> Option<Self> {
        let left = until.duration_since(now);
        if renewal == Renewal::ByItself && left >= until.duration_since(from) / 3 {
            return None;
        }
        let has_come = |days: &u16| left <= SignedDuration::from_hours(24 * i64::from(*days));
        let within_days = WARN_DAYS.into_iter().find(has_come)?;
        Some(Self {
            within_days,
            days_left: left.as_secs().div_euclid(24 * 3600),
            not_after: until,
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.not_after;
        match (self.within_days, self.days_left) {
            (0, _) => write!(f, "ended at {at}"),
            (_, 0) => write!(f, "ends in less than a day, at {at}"),
            (_, 1) => write!(f, "ends in 1 day, at {at}"),
            (_, days) => write!(f, "ends in {days} days, at {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);
    const SECOND: SignedDuration = SignedDuration::from_secs(1);

    fn at(life: i64, left: SignedDuration, renewal: Renewal) -> Option<u16> {
        let until: Timestamp = "2027-03-01T10:00:00Z".parse().unwrap();
        Ending::of(
            until - DAY * i32::try_from(life).unwrap(),
            until,
            renewal,
            until - left,
        )
        .map(|ending| ending.within_days)
    }

    #[test]
    fn each_threshold_is_crossed_at_its_very_second() {
        for days in [90, 30, 7, 0] {
            let next = WARN_DAYS.into_iter().find(|more| *more > days);
            let left = DAY * i32::from(days);
            assert_eq!(at(7300, left + SECOND, Renewal::ByHand), next, "{days}");
            assert_eq!(at(7300, left, Renewal::ByHand), Some(days), "{days}");
        }
        assert_eq!(at(7300, -DAY * 400, Renewal::ByHand), Some(0));
    }

    #[test]
    fn what_renews_itself_is_no_matter_until_a_third_of_its_life_is_left() {
        // An agent's: due from 15 days left.
        let agents = |left| at(30, left, Renewal::ByItself);
        assert_eq!(agents(DAY * 15), None);
        assert_eq!(agents(DAY * 10), None);
        assert_eq!(agents(DAY * 10 - SECOND), Some(30));
        assert_eq!(agents(DAY * 7), Some(7));
        assert_eq!(agents(SignedDuration::ZERO), Some(0));
        // The hub's own, and an agent's behind a diode.
        assert_eq!(at(90, DAY * 31, Renewal::ByItself), None);
        assert_eq!(at(90, DAY * 29, Renewal::ByItself), Some(30));
        assert_eq!(at(3650, DAY * 90, Renewal::ByItself), Some(90));
    }

    #[test]
    fn an_ending_reads_as_a_clause() {
        let until: Timestamp = "2027-03-01T10:00:00Z".parse().unwrap();
        let told = |left| {
            let ending = Ending::of(until - DAY * 400, until, Renewal::ByHand, until - left);
            ending.unwrap().to_string()
        };
        assert_eq!(
            told(DAY * 29 + SECOND),
            "ends in 29 days, at 2027-03-01T10:00:00Z"
        );
        assert_eq!(told(DAY), "ends in 1 day, at 2027-03-01T10:00:00Z");
        assert_eq!(
            told(SECOND),
            "ends in less than a day, at 2027-03-01T10:00:00Z"
        );
        assert_eq!(told(-DAY), "ended at 2027-03-01T10:00:00Z");
    }
}
