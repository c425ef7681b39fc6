//! The configuration: flag > `ZERO_X_*` variable > `agent.d/*.toml` > `agent.toml` > default.
//!
//! Every key stands once, in [`keys`]: its name, what it takes, how it is read and shown. That
//! table makes the parser, the variables' names, `config show` and the man page, so that none of
//! them can know a key that another does not. Nothing else in the agent reads configuration
//! files or variables.

mod keys;
mod layers;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use keys::{KEYS, address, interval, jitter};
pub(crate) use layers::{Origin, Settings, nearest};

use crate::exit::{Exit, Failure};
use crate::link::proxy::{self, Proxy};

/// Where the agent keeps what it writes, unless told otherwise.
const STATE_DIR: &str = "/var/lib/zero-x-agent";
/// Where the status socket is made, next to the default state directory.
const RUNTIME_DIR: &str = "/run/zero-x-agent";
/// The configuration file, unless `--config` or `ZERO_X_CONFIG` names another.
const FILE: &str = "/etc/zero-x-agent/agent.toml";

/// The checked configuration, made of each part's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Identity, sources, vault and spool.
    pub(crate) state_dir: PathBuf,
    /// Where the status socket is; `None` for the default, which depends on the state directory.
    pub(crate) runtime_dir: Option<PathBuf>,
    pub(crate) hub: Hub,
    pub(crate) log: Log,
    pub(crate) spool: crate::spool::Config,
    pub(crate) sync: crate::sync::Config,
    pub(crate) transport: crate::link::Config,
    pub(crate) vault: crate::vault::Config,
}

/// Where the hub is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hub {
    /// Each `host:port`, in the order to try; none for those that enrolment stored.
    pub(crate) addresses: Vec<String>,
    /// The proxy on the way to it over TCP.
    pub(crate) proxy: proxy::Setting,
    /// File with `user:password` of the proxy.
    pub(crate) proxy_credentials_file: Option<PathBuf>,
}

impl Hub {
    /// Returns the addresses to try when enrolment stored these.
    pub(crate) fn addresses_or(&self, enrolled: &[String]) -> Vec<String> {
        if self.addresses.is_empty() {
            enrolled.to_vec()
        } else {
            self.addresses.clone()
        }
    }
}

/// What is logged, to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: tracing::Level,
    pub(crate) format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: STATE_DIR.into(),
            runtime_dir: None,
            hub: Hub::default(),
            log: Log {
                level: tracing::Level::INFO,
                format: LogFormat::Text,
            },
            spool: crate::spool::Config {
                max_bytes: 1 << 30,
                keep_free_bytes: 256 << 20,
                keep_acknowledged: Duration::from_secs(24 * 60 * 60),
            },
            sync: crate::sync::Config {
                interval: Duration::from_secs(15 * 60),
                jitter: Duration::from_secs(2 * 60),
                once_timeout: Duration::from_secs(2 * 60),
            },
            transport: crate::link::Config {
                gso: true,
                connect_timeout: Duration::from_secs(10),
                proxy: None,
                probe_quic_after: Duration::from_secs(60),
                return_after: Duration::from_secs(5 * 60),
                ping_every: None,
            },
            vault: crate::vault::Config::default(),
        }
    }
}

impl Config {
    /// Returns the folder of the status socket.
    ///
    /// A state directory of one's own choosing gets the socket inside it, so that two agents on
    /// one host do not share one.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        match &self.runtime_dir {
            Some(folder) => folder.clone(),
            None if self.state_dir == Path::new(STATE_DIR) => RUNTIME_DIR.into(),
            None => self.state_dir.clone(),
        }
    }
}

/// Where a setting stands and why it was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// A file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        column: usize,
        reason: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key {key}{}", nearest.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    Unknown {
        origin: Origin,
        key: String,
        nearest: Option<&'static str>,
    },
    /// A value does not fit its key.
    #[error("{origin}: {key} = {value:?}: {reason}; takes {takes}")]
    Value {
        origin: Origin,
        key: &'static str,
        value: String,
        reason: String,
        takes: &'static str,
    },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let fix = match &error {
            ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "there is no such file: name one that is there with --config or ZERO_X_CONFIG, or \
                 leave both out for /etc/zero-x-agent/agent.toml"
            }
            ConfigError::Read { .. } => {
                "run as root or as zero-x-agent, who may read it, or name another with --config"
            }
            ConfigError::Syntax { .. } => "correct the line, then run `zero-x-agent check`",
            ConfigError::Unknown { .. } | ConfigError::Value { .. } => {
                "correct or remove it; `zero-x-agent config show` lists every key with its value"
            }
        };
        Failure::of(Exit::Config, "the configuration cannot be used", error).fix(fix)
    }
}

/// Loads the configuration from this process's flags, variables and files.
///
/// # Errors
///
/// The first setting that cannot be used, with its place.
pub(crate) fn load(
    flags: &[(&'static str, Option<String>)],
    file: Option<&Path>,
) -> Result<(Config, Settings), ConfigError> {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with(keys::VARIABLE_PREFIX))
        .collect();
    let named = file.map(Path::to_owned).or_else(|| {
        let named = variables.iter().find(|(name, _)| name == "ZERO_X_CONFIG");
        named.map(|(_, path)| PathBuf::from(path))
    });
    let files = match named {
        Some(path) => layers::read_named(&path)?,
        None => layers::read_default(Path::new(FILE))?,
    };
    let settings = Settings::gather(flags, &variables, &files)?;
    let mut config = settings.check()?;
    let hub = &config.hub;
    let file = hub.proxy_credentials_file.as_deref();
    let proxy = Proxy::of(&hub.proxy, file, |name| std::env::var(name).ok());
    config.transport.proxy = proxy.map_err(|(name, reason)| ConfigError::Value {
        origin: Origin::Variable(name.to_owned()),
        key: "hub.proxy",
        value: "environment".to_owned(),
        reason,
        takes: "http://host:port in that variable",
    })?;
    Ok((config, settings))
}

/// Returns the path of a systemd credential of this service, if the unit passes it.
pub(crate) fn systemd_credential(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(Path::new(&folder).join(name)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_another_state_directory_lies_inside_it() {
        let mut config = Config::default();
        assert_eq!(config.runtime_dir(), Path::new("/run/zero-x-agent"));
        config.state_dir = "/tmp/a".into();
        assert_eq!(config.runtime_dir(), Path::new("/tmp/a"));
        config.runtime_dir = Some("/tmp/b".into());
        assert_eq!(config.runtime_dir(), Path::new("/tmp/b"));
    }

    #[test]
    fn a_named_file_must_be_there_and_the_default_one_need_not() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("none.toml");
        assert!(matches!(
            layers::read_named(&absent),
            Err(ConfigError::Read { .. })
        ));
        assert!(layers::read_default(&absent).unwrap().is_empty());
        let told = Failure::from(layers::read_named(&absent).unwrap_err()).lines();
        assert!(told.contains("to fix: there is no such file"), "{told}");
    }
}
