//! How long agents' certificates live, as the settings write it.

use jiff::SignedDuration;

/// Reads how long an agent's certificate lives. Ten years is what one-way diodes ask for.
pub(crate) fn parse(text: &str) -> Result<SignedDuration, &'static str> {
    let reason = "a number with s, h or d, from 10s to 3650d";
    let (digits, seconds) = match (text.strip_suffix('s'), text.strip_suffix('h')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 3600),
        (None, None) => (text.strip_suffix('d').ok_or(reason)?, 86_400),
    };
    let count: i64 = digits.parse().map_err(|_| reason)?;
    let life = SignedDuration::from_secs(count.checked_mul(seconds).ok_or(reason)?);
    let bounds = SignedDuration::from_secs(10)..=SignedDuration::from_hours(3650 * 24);
    if bounds.contains(&life) {
        Ok(life)
    } else {
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_an_agents_certificate_has_a_unit_and_bounds() {
        let days = |days: i64| Ok(SignedDuration::from_hours(24 * days));
        assert_eq!(parse("30d"), days(30));
        assert_eq!(parse("48h"), days(2));
        assert_eq!(parse("20s"), Ok(SignedDuration::from_secs(20)));
        for bad in [
            "",
            "30",
            "d",
            "9s",
            "3651d",
            "-1d",
            "1.5h",
            "9223372036854775807d",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
