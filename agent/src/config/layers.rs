//! Settings from flags, variables and files, each with where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{Form, KEYS, Key, VARIABLE_PREFIX};
use super::{Config, ConfigError};

/// Largest configuration file, in bytes; a commented one has some 3,000.
const FILE_BYTES: u64 = 1 << 20;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No layer sets it.
    Default,
    /// A line of a file.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One file's path and text.
pub(super) type FileText = (PathBuf, String);

/// Reads a file that was asked for and what lies in `agent.d` beside it.
pub(super) fn read_named(path: &Path) -> Result<Vec<FileText>, ConfigError> {
    let mut files = vec![(path.to_owned(), read(path)?)];
    files.extend(read_drop_ins(path)?);
    Ok(files)
}

/// Reads the default file, if it is there, and what lies in `agent.d` beside it.
pub(super) fn read_default(path: &Path) -> Result<Vec<FileText>, ConfigError> {
    let mut files = match read(path) {
        Ok(text) => vec![(path.to_owned(), text)],
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    files.extend(read_drop_ins(path)?);
    Ok(files)
}

fn read_drop_ins(path: &Path) -> Result<Vec<FileText>, ConfigError> {
    let folder = path.with_file_name("agent.d");
    let failed = |source| ConfigError::Read {
        path: folder.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| read(&path).map(|text| (path, text)))
        .collect()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > FILE_BYTES {
        let reason = format!("{size} bytes are more than a configuration file may have");
        return Err(failed(io::Error::other(reason)));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// The layers laid over each other: for every key that is set, the value that wins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Settings {
    /// Lays files, then variables, then flags over each other.
    ///
    /// # Errors
    ///
    /// When a file is not TOML, or names a key that does not exist or has another type.
    pub(super) fn gather(
        flags: &[(&'static str, Option<String>)],
        variables: &[(String, String)],
        files: &[FileText],
    ) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for (path, text) in files {
            settings.add_file(path, text)?;
        }
        for (name, value) in variables {
            let key = KEYS.iter().find(|key| key.variable() == *name);
            if let Some(key) = key {
                let origin = Origin::Variable(name.clone());
                settings.values.insert(key.name, (value.clone(), origin));
            } else if let Some(near) = KEYS.iter().find(|key| is_slip(name, &key.variable())) {
                // Other programs of the product have variables of their own; a near miss is none.
                return Err(ConfigError::Unknown {
                    origin: Origin::Variable(name.clone()),
                    key: name.clone(),
                    nearest: Some(near.name),
                });
            }
        }
        for (name, value) in flags {
            if let Some(value) = value {
                let flag = format!("--{}", name.replace(['_', '.'], "-"));
                settings
                    .values
                    .insert(name, (value.clone(), Origin::Flag(flag)));
            }
        }
        Ok(settings)
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let (line, column) = position(text, error.span().map_or(0, |span| span.start));
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                column,
                reason: error.message().replace('\n', "; "),
            }
        })?;
        self.add_table(path, text, "", table.get_ref())
    }

    fn add_table(
        &mut self,
        path: &Path,
        text: &str,
        prefix: &str,
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let origin = Origin::File {
                path: path.to_owned(),
                line: position(text, name.span().start).0,
            };
            let key = KEYS.iter().find(|key| key.name == full);
            match (key, value.get_ref()) {
                (None, DeValue::Table(below)) if KEYS.iter().any(|key| in_table(key, &full)) => {
                    self.add_table(path, text, &format!("{full}."), below)?;
                }
                (None, _) => {
                    let nearest = nearest(&full, KEYS.iter().map(|key| key.name));
                    return Err(ConfigError::Unknown {
                        origin,
                        key: full,
                        nearest,
                    });
                }
                (Some(key), value) => {
                    let text = scalar(key, value).map_err(|found| ConfigError::Value {
                        origin: origin.clone(),
                        key: key.name,
                        value: found.to_owned(),
                        reason: "another type".to_owned(),
                        takes: key.takes,
                    })?;
                    self.values.insert(key.name, (text, origin));
                }
            }
        }
        Ok(())
    }

    /// Checks every value and returns the configuration.
    ///
    /// # Errors
    ///
    /// The first value that does not fit its key.
    pub(super) fn check(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        for key in KEYS {
            if let Some((value, origin)) = self.values.get(key.name) {
                (key.set)(&mut config, value).map_err(|reason| ConfigError::Value {
                    origin: origin.clone(),
                    key: key.name,
                    value: without_password(value).to_owned(),
                    reason,
                    takes: key.takes,
                })?;
            }
        }
        Ok(config)
    }

    /// Returns where the value of a key came from.
    pub(crate) fn origin(&self, key: &Key) -> Origin {
        let set = self.values.get(key.name);
        set.map_or(Origin::Default, |(_, origin)| origin.clone())
    }
}

/// Returns what may be shown of a value that was refused: of an address, what follows the
/// password that somebody may have put before it.
fn without_password(value: &str) -> &str {
    value.rsplit_once('@').map_or(value, |(_, rest)| rest)
}

fn in_table(key: &Key, table: &str) -> bool {
    key.name
        .strip_prefix(table)
        .is_some_and(|rest| rest.starts_with('.'))
}

fn scalar(key: &Key, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (key.form, value) {
        (Form::Text, DeValue::String(text)) => Ok(text.to_string()),
        (Form::Number, DeValue::Integer(number)) if number.radix() == 10 => {
            Ok(number.as_str().replace('_', ""))
        }
        (Form::List, DeValue::Array(items)) => {
            let mut texts = Vec::new();
            for item in items {
                let DeValue::String(text) = item.get_ref() else {
                    return Err(item.get_ref().type_str());
                };
                texts.push(text.to_string());
            }
            Ok(texts.join(","))
        }
        (Form::Text | Form::Number | Form::List, other) => Err(other.type_str()),
    }
}

/// Returns line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// Returns the known name that is most like `name`, if one is like it at all.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|(one, _), (two, _)| one.total_cmp(two));
    // Below this, suggestions mislead more often than they help (as clap judges it, too).
    best.filter(|(likeness, _)| *likeness > 0.7)
        .map(|(_, known)| known)
}

fn is_slip(name: &str, known: &str) -> bool {
    name.len() > VARIABLE_PREFIX.len() && strsim::osa_distance(name, known) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(file: &str) -> Result<Settings, ConfigError> {
        let file = ("/etc/zero-x-agent/agent.toml".into(), file.to_owned());
        Settings::gather(&[], &[], &[file])
    }

    #[track_caller]
    fn refused(file: &str, want: &str) {
        let error = gather(file)
            .and_then(|settings| settings.check())
            .unwrap_err();
        assert_eq!(error.to_string(), want);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_key_value_and_what_is_allowed() {
        refused(
            "# first\n[spool]\nmax_byte = 1\n",
            "/etc/zero-x-agent/agent.toml:3: unknown key spool.max_byte; did you mean spool.max_bytes?",
        );
        refused("zzz = 1", "/etc/zero-x-agent/agent.toml:1: unknown key zzz");
        refused(
            "[spool]\nmax_bytes = \"1GB\"",
            "/etc/zero-x-agent/agent.toml:2: spool.max_bytes = \"string\": another type; takes a \
             number of bytes, 16777216 (16 MiB) at least",
        );
        refused(
            "[log]\nlevel = \"loud\"",
            "/etc/zero-x-agent/agent.toml:2: log.level = \"loud\": no such level; takes error, \
             warn, info, debug or trace",
        );
        refused(
            "[sync]\ninterval = \"3s\"",
            "/etc/zero-x-agent/agent.toml:2: sync.interval = \"3s\": too short; takes a span of \
             1m to 7d, such as 15m or 6h",
        );
        refused(
            "hub.proxy = \"http://joe:hunter2@proxy:3128\"",
            "/etc/zero-x-agent/agent.toml:1: hub.proxy = \"proxy:3128\": user and password stand \
             in a file of their own, hub.proxy_credentials_file; takes http://host:port, \
             environment, or nothing",
        );
        refused(
            "hub.addresses = [\"a:1\", 2]",
            "/etc/zero-x-agent/agent.toml:1: hub.addresses = \"integer\": another type; takes a \
             list of host:port, 8 at most",
        );
        refused(
            "hub.address = \"2001:db8::1:7443\"",
            "/etc/zero-x-agent/agent.toml:1: hub.address = \"2001:db8::1:7443\": an IPv6 address \
             stands in brackets, [2001:db8::1]:7443; takes host:port",
        );
    }

    #[test]
    fn hubs_are_tried_in_the_order_of_their_list() {
        let hubs = |text: &str| gather(text).unwrap().check().unwrap().hub.addresses;
        let list = "hub.addresses = [\"b:1\", \"a:2\"]";
        assert_eq!(hubs(list), ["b:1", "a:2"]);
        assert_eq!(hubs("hub.address = \"c:3\""), ["c:3"]);
        assert_eq!(
            hubs(&format!("hub.address = \"c:3\"\n{list}")),
            ["b:1", "a:2"]
        );
        let variables = [("ZERO_X_HUB_ADDRESSES".to_owned(), "x:1, y:2".to_owned())];
        let settings = Settings::gather(&[], &variables, &[]).unwrap();
        assert_eq!(settings.check().unwrap().hub.addresses, ["x:1", "y:2"]);
    }

    #[test]
    fn broken_toml_is_told_with_line_and_column() {
        let error = gather("[spool]\nmax_bytes =\n").unwrap_err().to_string();
        assert!(
            error.starts_with("/etc/zero-x-agent/agent.toml:2:"),
            "{error}"
        );
    }

    #[test]
    fn a_flag_beats_a_variable_beats_a_drop_in_beats_the_file_beats_the_default() {
        let files = [
            (
                "/etc/a.toml".into(),
                "state_dir = \"/file\"\nhub.address = \"file:1\"\n[log]\nlevel = \"warn\"\n\
                 format = \"json\""
                    .to_owned(),
            ),
            (
                "/etc/agent.d/x.toml".into(),
                "state_dir = \"/drop\"\nhub.address = \"drop:1\"\n[log]\nlevel = \"error\""
                    .to_owned(),
            ),
        ];
        let variables = [
            ("ZERO_X_STATE_DIR".to_owned(), "/variable".to_owned()),
            ("ZERO_X_HUB_ADDRESS".to_owned(), "variable:1".to_owned()),
            ("ZERO_X_SHARED".to_owned(), "of another program".to_owned()),
        ];
        let flags = [("state_dir", Some("/flag".to_owned())), ("log.level", None)];
        let settings = Settings::gather(&flags, &variables, &files).unwrap();
        let config = settings.check().unwrap();
        let shown: Vec<String> = KEYS
            .iter()
            .map(|key| {
                let value = (key.get)(&config);
                format!("{} = {value} ({})", key.name, settings.origin(key))
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn a_variable_that_misses_a_key_by_one_letter_is_refused() {
        let variables = [("ZERO_X_STATE_DIRS".to_owned(), "/x".to_owned())];
        let error = Settings::gather(&[], &variables, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ZERO_X_STATE_DIRS: unknown key ZERO_X_STATE_DIRS; did you mean state_dir?"
        );
    }

    #[test]
    fn every_default_is_written_as_its_own_key_reads_it() {
        let config = Config::default();
        for key in KEYS {
            let mut again = Config::default();
            (key.set)(&mut again, &(key.get)(&config))
                .unwrap_or_else(|reason| panic!("{}: {reason}", key.name));
            assert_eq!((key.get)(&again), (key.get)(&config), "{}", key.name);
        }
    }
}
