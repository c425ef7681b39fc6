//! The sources of this agent: what they are called, what they read, where their secret is.
//!
//! They stand in `sources.toml` of the state directory, which is replaced as a whole and holds
//! no secret: only whether the vault has one. The command line writes it; the daemon reads it
//! when it changes.

mod secrets;
mod settings;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use jiff::Timestamp;
use protocol::ids::SourceId;
use serde::{Deserialize, Serialize};

pub(crate) use secrets::{AwsKeys, SecretError, read_secret};
pub(crate) use settings::{Pace, Reads, SettingError, Settings};

use crate::config::nearest;
use crate::exit::{Exit, Failure};
use crate::layout::{self, Layout, LayoutError};

/// Version of `sources.toml`.
const FORMAT: u32 = 1;

/// Most sources of one agent; each costs a task and its collector's memory while it syncs.
const SOURCES: usize = 256;

/// Kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub(crate) enum Kind {
    /// Amazon Web Services.
    Aws,
    /// Google Cloud.
    Gcp,
    /// Microsoft Azure.
    Azure,
    /// This host: system, packages, ports, users.
    Host,
    /// Alerts of a Wazuh manager on this host.
    Wazuh,
}

impl Kind {
    /// Returns the word that names the kind in commands, files and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::Host => "host",
            Self::Wazuh => "wazuh",
        }
    }
}

/// Kinds of sources that a later version will read: known by name, so that asking for one is no
/// spelling mistake.
const PLANNED: [&str; 9] = [
    "github",
    "gitlab",
    "bitbucket",
    "dockerhub",
    "ecr",
    "bigquery",
    "cloudtrail",
    "syslog",
    "webhook",
];

/// A kind as `source add` is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One that this version reads.
    Read(Kind),
    /// One of [`PLANNED`].
    Planned(&'static str),
}

impl From<Kind> for Wanted {
    fn from(kind: Kind) -> Self {
        Self::Read(kind)
    }
}

impl ValueEnum for Wanted {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<Wanted>> = LazyLock::new(|| {
            let read = Kind::value_variants().iter().copied().map(Wanted::Read);
            read.chain(PLANNED.map(Wanted::Planned)).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Read(kind) => kind.to_possible_value(),
            Self::Planned(name) => Some(PossibleValue::new(*name).hide(true)),
        }
    }
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// Its id, which never changes.
    pub(crate) id: SourceId,
    /// The operator's name for it.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// When it was added.
    pub(crate) added_at: Timestamp,
    /// Whether the vault holds a secret for it; else the ambient credentials are used.
    #[serde(default)]
    pub(crate) sealed_secret: bool,
    /// Its settings as they were given; checked.
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    #[serde(default)]
    source: Vec<Source>,
}

/// Says why the list of sources cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SourcesError {
    /// The file could not be read or written.
    #[error("could not use the list of sources")]
    File(#[from] LayoutError),
    /// It is not what this program writes.
    #[error("{} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}; this program knows {FORMAT}", path.display())]
    Newer { path: PathBuf, found: u32 },
    /// The name is taken.
    #[error("there is already a source {name} ({id})")]
    Taken { name: String, id: SourceId },
    /// The name cannot be one.
    #[error("{name:?} cannot be a source's name: {reason}")]
    Name { name: String, reason: &'static str },
    /// There is no such source.
    #[error("there is no source {name}{}", nearest.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    Unknown {
        name: String,
        nearest: Option<String>,
    },
    /// There are too many.
    #[error("an agent has at most {SOURCES} sources")]
    TooMany,
    /// This version does not read such sources.
    #[error("this version reads no {kind} sources")]
    NotBuilt { kind: &'static str },
    /// A setting cannot be used.
    #[error("the settings of {name} cannot be used")]
    Setting {
        name: String,
        #[source]
        source: SettingError,
    },
    /// The secret is not of the shape that the kind needs.
    #[error("the secret of {name} cannot be used")]
    Secret {
        name: String,
        #[source]
        source: SecretError,
    },
}

impl From<SourcesError> for Failure {
    fn from(error: SourcesError) -> Self {
        let (exit, fix) = match &error {
            SourcesError::File(file) => {
                let fix = file.fix();
                return Failure::of(Exit::No, "cannot change or read the sources", error).fix(fix);
            }
            SourcesError::Damaged { .. } => (
                Exit::Data,
                "correct or remove the file; secrets stay in the vault",
            ),
            SourcesError::Newer { .. } => (
                Exit::Data,
                "install the version that wrote it, or a newer one",
            ),
            SourcesError::Taken { .. } => (
                Exit::Usage,
                "choose another --name, or remove that source first",
            ),
            SourcesError::Name { .. } => (
                Exit::Usage,
                "use letters, digits, `-`, `_` and `.`, 64 at most",
            ),
            SourcesError::Unknown { .. } => (Exit::Usage, "`zero-x-agent source list` shows all"),
            SourcesError::TooMany => (Exit::Usage, "remove one, or install a second agent"),
            SourcesError::NotBuilt { .. } => {
                (Exit::Usage, "it reads aws, gcp, azure, host and wazuh")
            }
            SourcesError::Setting { .. } => (
                Exit::Usage,
                "correct the setting; `zero-x-agent source add --help` shows the form",
            ),
            SourcesError::Secret { .. } => (
                Exit::Usage,
                "give it in the form named above, from a file or standard input",
            ),
        };
        Failure::of(exit, "cannot change or read the sources", error).fix(fix)
    }
}

/// The list of sources as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    all: Vec<Source>,
}

impl Sources {
    /// Reads the list; an absent file is an empty list.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is damaged or of a newer format.
    pub(crate) fn load(layout: &Layout) -> Result<Self, SourcesError> {
        let path = layout.sources();
        let bytes = match layout::read_private(&path) {
            Ok(bytes) => bytes,
            Err(LayoutError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error.into()),
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| SourcesError::Damaged {
            path: path.clone(),
            source: error.into(),
        })?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Result<Format, _> = toml::from_str(text);
        if let Ok(Format { format: found }) = format
            && found > FORMAT
        {
            return Err(SourcesError::Newer { path, found });
        }
        let file: File = toml::from_str(text).map_err(|error| SourcesError::Damaged {
            path,
            source: error.into(),
        })?;
        Ok(Self { all: file.source })
    }

    /// Writes the list in the old one's place.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the old list then stays.
    pub(crate) fn store(&self, layout: &Layout) -> Result<(), SourcesError> {
        let file = File {
            format: FORMAT,
            source: self.all.clone(),
        };
        let text = toml::to_string(&file).expect("plain structs always serialise");
        layout::write_private(&layout.sources(), text.as_bytes())?;
        Ok(())
    }

    /// Iterates over the sources in the order they were added.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Source> {
        self.all.iter()
    }

    /// Returns the source of a name or an id.
    ///
    /// # Errors
    ///
    /// [`SourcesError::Unknown`] with the nearest name.
    pub(crate) fn find(&self, name: &str) -> Result<&Source, SourcesError> {
        let id: Option<SourceId> = name.parse().ok();
        let found = self
            .all
            .iter()
            .find(|source| source.name == name || Some(source.id) == id);
        found.ok_or_else(|| SourcesError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, self.all.iter().map(|source| source.name.as_str()))
                .map(str::to_owned),
        })
    }

    /// Adds a source, whose settings are checked first.
    ///
    /// # Errors
    ///
    /// When the name, the kind or a setting cannot be used.
    pub(crate) fn add(
        &mut self,
        kind: Wanted,
        name: &str,
        settings: &[String],
        now: Timestamp,
    ) -> Result<&mut Source, SourcesError> {
        let kind = match kind {
            Wanted::Read(kind) => kind,
            Wanted::Planned(kind) => return Err(SourcesError::NotBuilt { kind }),
        };
        check_name(name)?;
        if let Some(taken) = self.all.iter().find(|source| source.name == name) {
            return Err(SourcesError::Taken {
                name: name.to_owned(),
                id: taken.id,
            });
        }
        if self.all.len() >= SOURCES {
            return Err(SourcesError::TooMany);
        }
        let setting = |source| SourcesError::Setting {
            name: name.to_owned(),
            source,
        };
        let settings = settings::split(settings).map_err(setting)?;
        Settings::parse(kind, &settings).map_err(setting)?;
        self.all.push(Source {
            id: SourceId::from_bytes(uuid::Uuid::now_v7().into_bytes()),
            name: name.to_owned(),
            kind,
            added_at: now,
            sealed_secret: false,
            settings,
        });
        Ok(self.all.last_mut().expect("just pushed"))
    }

    /// Removes a source and returns it.
    ///
    /// # Errors
    ///
    /// [`SourcesError::Unknown`].
    pub(crate) fn remove(&mut self, name: &str) -> Result<Source, SourcesError> {
        let id = self.find(name)?.id;
        let at = self.all.iter().position(|source| source.id == id);
        Ok(self.all.remove(at.expect("found above")))
    }

    /// Marks that the vault holds a secret for a source.
    pub(crate) fn mark_sealed(&mut self, id: SourceId) {
        for source in self.all.iter_mut().filter(|source| source.id == id) {
            source.sealed_secret = true;
        }
    }
}

impl Source {
    /// Returns the checked settings.
    ///
    /// # Errors
    ///
    /// When the file was edited by hand and holds what `source add` would have refused.
    pub(crate) fn parsed(&self) -> Result<Settings, SourcesError> {
        Settings::parse(self.kind, &self.settings).map_err(|source| SourcesError::Setting {
            name: self.name.clone(),
            source,
        })
    }
}

fn check_name(name: &str) -> Result<(), SourcesError> {
    let refused = |reason| {
        Err(SourcesError::Name {
            name: name.to_owned(),
            reason,
        })
    };
    if name.is_empty() || name.len() > 64 {
        return refused("it has 1 to 64 characters");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(allowed) {
        return refused("it has other characters than letters, digits, `-`, `_` and `.`");
    }
    if name.starts_with("src_") || name.starts_with(['-', '.']) {
        return refused("it begins like an id or a flag");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        (folder, layout)
    }

    fn add(
        sources: &mut Sources,
        kind: impl Into<Wanted>,
        name: &str,
        settings: &[&str],
    ) -> Result<SourceId, String> {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        let added = sources.add(kind.into(), name, &settings, Timestamp::UNIX_EPOCH);
        added.map(|source| source.id).map_err(|error| {
            let below = std::error::Error::source(&error).map(|below| format!(": {below}"));
            format!("{error}{}", below.unwrap_or_default())
        })
    }

    #[test]
    fn a_source_survives_its_file_and_is_found_by_name_and_id() {
        let (_folder, layout) = layout();
        let mut sources = Sources::load(&layout).unwrap();
        let settings = ["regions=eu-west-1,us-east-1"];
        let id = add(&mut sources, Kind::Aws, "prod", &settings).unwrap();
        sources.store(&layout).unwrap();
        let again = Sources::load(&layout).unwrap();
        assert_eq!(again, sources);
        assert_eq!(again.find("prod").unwrap().id, id);
        assert_eq!(again.find(&id.to_string()).unwrap().name, "prod");
        let unknown = again.find("prot").unwrap_err().to_string();
        assert_eq!(unknown, "there is no source prot; did you mean prod?");
    }

    #[test]
    fn what_cannot_be_a_source_is_refused_and_says_why() {
        let mut sources = Sources::default();
        add(&mut sources, Kind::Host, "here", &[]).unwrap();
        let mut told = Vec::new();
        for (kind, name, settings) in [
            (Kind::Host.into(), "here", &[][..]),
            (Kind::Host.into(), "a/b", &[]),
            (Kind::Host.into(), "src_x", &[]),
            (Wanted::Planned("github"), "code", &[]),
            (Kind::Aws.into(), "a", &["region=eu-west-1"]),
            (Kind::Aws.into(), "a", &["regions"]),
            (Kind::Aws.into(), "a", &["regions=Europe"]),
            (Kind::Aws.into(), "a", &["role_arn=admin"]),
            (Kind::Aws.into(), "a", &["external_id=x"]),
            (Kind::Aws.into(), "a", &["secret_access_key=abc"]),
            (Kind::Aws.into(), "a", &["endpoint=http://user:pass@h"]),
            (Kind::Aws.into(), "a", &["interval=5m", "cron=0 * * * *"]),
            (Kind::Aws.into(), "a", &["cron=* * *"]),
            (Kind::Gcp.into(), "g", &["project=p", "folder=1"]),
            (Kind::Wazuh.into(), "w", &["path=alerts.json"]),
        ] {
            told.push(add(&mut sources, kind, name, settings).unwrap_err());
        }
        insta::with_settings!({filters => vec![(r"src_[a-z2-7]{26}", "src_…")]}, {
            insta::assert_snapshot!(told.join("\n"));
        });
    }

    #[test]
    fn a_newer_list_is_told_from_a_damaged_one() {
        let (_folder, layout) = layout();
        let write = |text: &[u8]| layout::write_private(&layout.sources(), text).unwrap();
        write(b"format = 2\nnews = true\n");
        let newer = Sources::load(&layout);
        assert!(matches!(newer, Err(SourcesError::Newer { found: 2, .. })));
        write(b"format = 1\nnews = true\n");
        let damaged = Sources::load(&layout);
        assert!(matches!(damaged, Err(SourcesError::Damaged { .. })));
    }
}
