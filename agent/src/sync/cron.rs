//! Fixed times for a source: the five fields of crontab(5), in UTC.
//!
//! ```text
//! minute 0-59 │ hour 0-23 │ day 1-31 │ month 1-12 │ weekday 0-7, 0 and 7 are Sunday
//! ```
//! Each is `*`, numbers, ranges `1-5` and steps `*/15`, separated by commas. As in crontab(5),
//! when both day and weekday are restricted, a day that fits either will do.

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

/// Says why a text is not five crontab fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CronError {
    /// The number of fields is wrong.
    #[error("expected five fields (minute hour day month weekday), found {found}")]
    Fields { found: usize },
    /// A field cannot be read.
    #[error("{field:?} is no {name}: expected numbers of {least} to {most}, `*`, ranges and steps")]
    Field {
        name: &'static str,
        field: String,
        least: u8,
        most: u8,
    },
    /// No day of the next years fits.
    #[error("no day fits day and month")]
    Never,
}

/// Fixed times.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    either_day: bool,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// Reads five fields.
    ///
    /// # Errors
    ///
    /// The first field that cannot be read, or a date that never comes.
    pub(crate) fn parse(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(CronError::Fields {
                found: fields.len(),
            });
        };
        let mut weekdays = read("weekday", weekday, 0, 7)?;
        if weekdays & (1 << 7) != 0 {
            weekdays |= 1;
        }
        let cron = Self {
            text: fields.join(" "),
            minutes: read("minute", minute, 0, 59)?,
            hours: read("hour", hour, 0, 23)?,
            days: read("day", day, 1, 31)?,
            months: read("month", month, 1, 12)?,
            weekdays,
            either_day: day != "*" && weekday != "*",
        };
        match cron.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(CronError::Never),
        }
    }

    /// Returns the first time after `after` that fits.
    pub(crate) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.to_zoned(TimeZone::UTC);
        let start = start.checked_add(1.minute()).ok()?;
        let start = start.with().second(0).subsec_nanosecond(0).build().ok()?;
        let mut day = start.clone();
        // 29 February is at most eight years away (2096 to 2104).
        for _ in 0..(366 * 9) {
            if self.fits_day(&day) {
                let is_first = day.date() == start.date();
                let from = if is_first {
                    (start.hour(), start.minute())
                } else {
                    (0, 0)
                };
                if let Some((hour, minute)) = self.first_time(from) {
                    let at = day.date().at(hour, minute, 0, 0);
                    return Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp());
                }
            }
            day = day.date().tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
        }
        None
    }

    fn fits_day(&self, day: &Zoned) -> bool {
        // Sunday is 0, and `read` has set that bit for 7 too.
        let weekday = day.weekday().to_sunday_zero_offset();
        let by_day = has(self.days, day.day());
        let by_weekday = has(self.weekdays, weekday);
        let fits = if self.either_day {
            by_day || by_weekday
        } else {
            by_day && by_weekday
        };
        fits && has(self.months, day.month())
    }

    fn first_time(&self, (from_hour, from_minute): (i8, i8)) -> Option<(i8, i8)> {
        let hours = (from_hour..24).filter(|hour| has(self.hours, *hour));
        hours.into_iter().find_map(|hour| {
            let from = if hour == from_hour { from_minute } else { 0 };
            let minute = (from..60).find(|minute| has(self.minutes, *minute));
            minute.map(|minute| (hour, minute))
        })
    }
}

fn has(set: u64, number: i8) -> bool {
    let bit = u32::try_from(number)
        .ok()
        .and_then(|number| 1u64.checked_shl(number));
    bit.is_some_and(|bit| set & bit != 0)
}

fn read(name: &'static str, field: &str, least: u8, most: u8) -> Result<u64, CronError> {
    let refused = || CronError::Field {
        name,
        field: field.to_owned(),
        least,
        most,
    };
    let number = |text: &str| {
        let number = text.parse::<u8>().ok();
        number.filter(|n| (least..=most).contains(n))
    };
    let mut set = 0u64;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| *step > 0);
                (range, step.ok_or_else(refused)?)
            }
            None => (part, 1u8),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (
                number(from).ok_or_else(refused)?,
                number(to).ok_or_else(refused)?,
            ),
            None => {
                let from = number(range).ok_or_else(refused)?;
                (from, if part.contains('/') { most } else { from })
            }
        };
        if from > to {
            return Err(refused());
        }
        for number in (from..=to).step_by(usize::from(step)) {
            set |= 1 << number;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cron: &str, after: &str, want: &str) {
        let next = Cron::parse(cron)
            .unwrap()
            .next_after(after.parse().unwrap());
        assert_eq!(next.unwrap().to_string(), want);
    }

    #[test]
    fn the_next_time_is_the_first_that_fits_and_never_now() {
        check(
            "*/15 * * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:15:00Z",
        );
        check("0 3 * * *", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z");
        check(
            "30 23 31 12 *",
            "2026-12-31T23:30:01Z",
            "2027-12-31T23:30:00Z",
        );
        check("0 0 29 2 *", "2097-01-01T00:00:00Z", "2104-02-29T00:00:00Z");
        check(
            "5-10/5,40 8 * * 1-5",
            "2026-08-01T00:00:00Z",
            "2026-08-03T08:05:00Z",
        );
    }

    #[test]
    fn a_restricted_day_and_a_restricted_weekday_fit_either() {
        check("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        check("0 0 13 * *", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z");
        check("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "0 0 31 2 *",
        ] {
            assert!(Cron::parse(text).is_err(), "{text}");
        }
    }
}
