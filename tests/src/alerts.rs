//! Writes what a Wazuh 4.x manager writes: one alert a line in `alerts.json`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The words that a test finds its alert `number` by.
#[must_use]
pub fn mark(number: usize) -> String {
    format!("burst-{number:06}-end")
}

/// The numbers of the alerts that `text` mentions.
#[must_use]
pub fn numbers(text: &str) -> Vec<usize> {
    text.match_indices("burst-")
        .filter_map(|(at, word)| {
            let digits = text.get(at + word.len()..)?;
            let (number, rest) = digits.split_at_checked(6)?;
            rest.starts_with("-end")
                .then(|| number.parse().ok())
                .flatten()
        })
        .collect()
}

/// An alert as a manager writes it; `number` makes it unlike any other.
#[must_use]
pub fn alert(number: usize) -> Value {
    json!({
        "timestamp": format!("2026-01-01T00:{:02}:{:02}.{:03}+0000", number / 60_000 % 60, number / 1000 % 60, number % 1000),
        "rule": {"level": 5, "description": "sshd: authentication failed", "id": "5760", "groups": ["syslog", "sshd"]},
        "agent": {"id": "001", "name": "web-1", "ip": "10.20.0.5"},
        "manager": {"name": "manager"},
        "id": format!("1767225600.{number}"),
        "full_log": format!("Jan  1 00:00:00 web-1 sshd[812]: Failed password for root, {}", mark(number)),
        "data": {"srcip": "203.0.113.7", "srcuser": "root"},
        "location": "/var/log/auth.log",
    })
}

/// Appends alerts to the file, each with its line end in one write as the manager does.
///
/// # Errors
/// When the file cannot be written.
pub fn append(file: &Path, alerts: impl Iterator<Item = Value>) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| format!("could not open {}", file.display()))?;
    for alert in alerts {
        file.write_all(format!("{alert}\n").as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{alert, numbers};

    #[test]
    fn an_alert_is_found_again_by_its_number() {
        assert_eq!(numbers(&alert(4711).to_string()), [4711]);
        assert_eq!(numbers("burst-12-end burst-000001-end burst-000002"), [1]);
    }
}
