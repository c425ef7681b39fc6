//! The manager's files of past and present days.
//!
//! ```text
//! alerts/alerts.json                                  hard link to the file that is written
//! alerts/2026/Nov/ossec-alerts-22.json                the day's file
//! alerts/2026/Nov/ossec-alerts-22-001.json            its second part, when parts are bounded
//! alerts/2026/Nov/ossec-alerts-21.json.gz             packed some time after the day has ended
//! ```
//! Source: wazuh/wazuh 4.x, src/analysisd/alerts/getloglocation.c and src/monitord/compress_log.c:
//! an empty file is removed when its day ends; a packed file is whole before the plain one goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Folders of months, as the C locale names them.
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Most entries of one folder that are looked at: a month of a file each five minutes has 8,928.
const ENTRIES: usize = 20_000;

/// Which file: ordered as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Day {
    year: u16,
    month: u8,
    day: u8,
    part: u32,
}

impl Day {
    /// Returns the first file of the same date: parts can be renamed within it.
    pub(super) fn begin(self) -> Self {
        Self { part: 0, ..self }
    }

    /// Returns the plain file's name below `folder`.
    pub(super) fn path(self, folder: &Path) -> PathBuf {
        let month = MONTHS.get(usize::from(self.month).wrapping_sub(1));
        let name = match self.part {
            0 => format!("ossec-alerts-{:02}.json", self.day),
            part => format!("ossec-alerts-{:02}-{part:03}.json", self.day),
        };
        let folder = folder.join(format!("{:04}", self.year));
        folder.join(month.unwrap_or(&"")).join(name)
    }
}

/// A file under its names. While it is being packed, both exist, and the packed one is not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DayFile {
    pub(super) day: Day,
    pub(super) plain: Option<PathBuf>,
    pub(super) packed: Option<PathBuf>,
}

/// Returns the files from `from` on, in the order they were written.
///
/// # Errors
///
/// When a folder cannot be read; a missing one is empty.
pub(super) fn list(folder: &Path, from: Option<Day>) -> io::Result<Vec<DayFile>> {
    let mut files: Vec<DayFile> = Vec::new();
    let is_old =
        |year: u16, month: u8| from.is_some_and(|from| (year, month) < (from.year, from.month));
    for year_name in entries(folder)? {
        let year: u16 = match year_name.parse() {
            Ok(year) if year_name.len() == 4 => year,
            Ok(_) | Err(_) => continue,
        };
        for (month, month_name) in (1u8..).zip(MONTHS) {
            if is_old(year, month) {
                continue;
            }
            let inside = folder.join(&year_name).join(month_name);
            for name in entries(&inside)? {
                let Some((day, part, is_packed)) = parse(&name) else {
                    continue;
                };
                let day = Day {
                    year,
                    month,
                    day,
                    part,
                };
                if from.is_some_and(|from| day < from) {
                    continue;
                }
                let path = inside.join(&name);
                let at = files.binary_search_by_key(&day, |file| file.day);
                let at = at.unwrap_or_else(|at| {
                    let file = DayFile {
                        day,
                        plain: None,
                        packed: None,
                    };
                    files.insert(at, file);
                    at
                });
                if let Some(file) = files.get_mut(at) {
                    let place = if is_packed {
                        &mut file.packed
                    } else {
                        &mut file.plain
                    };
                    *place = Some(path);
                }
            }
        }
    }
    Ok(files)
}

/// Returns the names within a folder, sorted; none when there is no such folder.
fn entries(folder: &Path) -> io::Result<Vec<String>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unlisted(folder, &error)),
    };
    let mut names = Vec::new();
    for entry in listed.take(ENTRIES) {
        // A name that is not text is none of the manager's.
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Names the folder in an error: the file within it may well be readable.
pub(super) fn unlisted(folder: &Path, error: &io::Error) -> io::Error {
    let clause = format!("its folder {} cannot be listed: {error}", folder.display());
    io::Error::new(error.kind(), clause)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Reads day, part and whether it is packed from a file's name.
fn parse(name: &str) -> Option<(u8, u32, bool)> {
    let stem = name.strip_prefix("ossec-alerts-")?;
    let (stem, is_packed) = match stem.strip_suffix(".gz") {
        Some(stem) => (stem, true),
        None => (stem, false),
    };
    let stem = stem.strip_suffix(".json")?;
    let (day, part) = stem.split_once('-').unwrap_or((stem, "0"));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if day.len() != 2 || !is_number(day) || !is_number(part) {
        return None;
    }
    Some((day.parse().ok()?, part.parse().ok()?, is_packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_in_the_order_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "2026/Nov/ossec-alerts-02.json",
            "2026/Nov/ossec-alerts-02-001.json",
            "2026/Nov/ossec-alerts-02-010.json.gz",
            "2026/Nov/ossec-alerts-02-002.json.gz",
            "2026/Nov/ossec-alerts-02-002.json",
            "2026/Nov/ossec-alerts-02.json.sum",
            "2026/Nov/ossec-alerts-02.log",
            "2026/Nov/ossec-alerts-x.json",
            "2026/Apr/ossec-alerts-30.json.gz",
            "2025/Dec/ossec-alerts-31.json.gz",
            "2025/Brumaire/ossec-alerts-01.json",
            "old/Nov/ossec-alerts-01.json",
            "alerts.json",
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let shown = |from| {
            let files = list(folder.path(), from).unwrap();
            let shown = files.iter().map(|file| {
                let Day {
                    month, day, part, ..
                } = file.day;
                let plain = if file.plain.is_some() { "p" } else { "" };
                let packed = if file.packed.is_some() { "z" } else { "" };
                format!("{month}/{day}.{part}{plain}{packed}")
            });
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            shown(None),
            "12/31.0z 4/30.0z 11/2.0p 11/2.1p 11/2.2pz 11/2.10z"
        );
        let from = Day {
            year: 2026,
            month: 11,
            day: 2,
            part: 2,
        };
        assert_eq!(shown(Some(from)), "11/2.2pz 11/2.10z");
        assert_eq!(
            shown(Some(from.begin())),
            "11/2.0p 11/2.1p 11/2.2pz 11/2.10z"
        );
        assert_eq!(list(&folder.path().join("none"), None).unwrap(), []);
    }
}
