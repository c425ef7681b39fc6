//! Settings of the hub: flag over `ZERO_X_*` variable over `hub.d/*.toml` over `hub.toml` over
//! default.
//!
//! Nothing else reads settings files or variables (but for the log filter of one-shot commands).
//! Every value keeps its origin, so that `config show` and every refusal can name it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use store::{NoRecipientError, RecoveryRecipient};
use toml::Spanned;
use tracing_subscriber::EnvFilter;

use crate::ca::life;
use crate::failure::{Exit, Explain};
use crate::ingest::{Quotas, Rates};

/// Largest settings file, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// Longest burst, in seconds.
const BURST_SECONDS: u64 = 3600;

const DEFAULT_FILE: &str = "/etc/zero-x-hub/hub.toml";

/// Why the settings were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file is not of the form.
    #[error("{}:{line}: {reason}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, with the nearest key where that helps.
        reason: String,
    },
    /// A setting has a value that it cannot have.
    #[error("{origin}: {key} = {value:?}: {reason}")]
    Value {
        /// Where it was given.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// A setting that has no default was not given.
    #[error("no {key} is set")]
    Missing {
        /// The setting.
        key: &'static str,
    },
}

impl Explain for ConfigError {
    fn exit(&self) -> Exit {
        match self {
            // What is missing can be given on the command line.
            Self::Missing { .. } => Exit::Usage,
            Self::Read { .. } | Self::Form { .. } | Self::Value { .. } => Exit::Config,
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::Missing { key } => format!(
                "give --{}, set {} or write {key} in {DEFAULT_FILE}",
                key.replace('_', "-"),
                variable(key)
            ),
            Self::Value { key, .. } if *key == "metrics_listen" => {
                "write 127.0.0.1:9464, or put a proxy with a login before it".to_owned()
            }
            Self::Value { key, .. } if key.ends_with("_listen") => {
                "write an address and a port, such as 0.0.0.0:7443 or [::]:7443".to_owned()
            }
            Self::Read { .. } | Self::Form { .. } | Self::Value { .. } => {
                "`zero-x-hub config show` prints every key with its value and origin".to_owned()
            }
        })
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody gave it.
    Default,
    /// A line of a file.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// A value with its origin.
#[derive(Debug, Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

impl<T> Deref for Setting<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The operator's own certificate for the API.
#[derive(Debug, Clone)]
pub(crate) struct OwnTls {
    /// PEM file with the certificate and its chain.
    pub(crate) certificate: PathBuf,
    /// PEM file with its private key.
    pub(crate) key: PathBuf,
}

/// The checked settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Folder of the store and the admin socket.
    pub(crate) data_dir: PathBuf,
    master_key_file: Option<PathBuf>,
    /// Where agents connect.
    pub(crate) agent_listen: Setting<SocketAddr>,
    /// Where the console and API clients connect.
    pub(crate) api_listen: Setting<SocketAddr>,
    /// Where metrics are asked for, on this machine alone; `None` for nowhere.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Folder with the operator's own checks.
    pub(crate) checks_dir: PathBuf,
    /// Names and addresses of this hub, besides those that `init` was told.
    pub(crate) public_hosts: Vec<String>,
    /// The API's own certificate; `None` for one from the hub's CA.
    pub(crate) tls: Option<OwnTls>,
    /// How much agents and organisations may send.
    pub(crate) quotas: Quotas,
    /// Life of an agent's certificate.
    pub(crate) agent_leaf: SignedDuration,
    /// Who can open backups besides the master key.
    pub(crate) recovery_recipient: Option<RecoveryRecipient>,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
    /// What is logged.
    pub(crate) log_level: String,
    shown: Vec<Shown>,
}

/// One setting as `config show` prints it.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Shown {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
    pub(crate) meaning: &'static str,
}

/// Settings that a command line gives.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// `--data-dir`.
    pub(crate) data_dir: Option<PathBuf>,
    /// `--master-key-file`.
    pub(crate) master_key_file: Option<PathBuf>,
    /// `--agent-listen`.
    pub(crate) agent_listen: Option<String>,
    /// `--api-listen`.
    pub(crate) api_listen: Option<String>,
    /// `--metrics-listen`.
    pub(crate) metrics_listen: Option<String>,
}

/// Every key: name, default, meaning. An empty default stands for none.
///
/// The quotas stop nobody who is well. An agent that drains a full spool (1 GiB) at its default
/// takes half a minute, and one core of a hub stores about as many events a second as an
/// organisation may send; what is shared out under load is the work of the fair queue. They bound
/// what one agent that is broken or stolen costs the others, and how fast it fills the disk.
const KEYS: [(&str, &str, &str); 18] = [
    (
        "data_dir",
        "/var/lib/zero-x-hub",
        "folder of the store and the admin socket",
    ),
    (
        "master_key_file",
        "",
        "file with the master key, outside data_dir",
    ),
    (
        "agent_listen",
        "0.0.0.0:7443",
        "where agents connect (UDP and TCP)",
    ),
    (
        "api_listen",
        "0.0.0.0:8443",
        "where the console and API clients connect (TCP)",
    ),
    (
        "metrics_listen",
        "",
        "where Prometheus asks for metrics, such as 127.0.0.1:9464; default: nowhere",
    ),
    (
        "checks_dir",
        "/etc/zero-x-hub/checks.d",
        "folder with your own checks",
    ),
    (
        "public_hosts",
        "",
        "names and addresses by which others reach this hub, besides those of init",
    ),
    (
        "tls.cert",
        "",
        "PEM file with the API's certificate and chain; default: from the hub's CA",
    ),
    ("tls.key", "", "PEM file with the private key of tls.cert"),
    (
        "quota.agent_bytes_per_second",
        "33554432",
        "bytes that one agent may send before it is slowed down, uncompressed; 0 for no limit",
    ),
    (
        "quota.agent_events_per_second",
        "100000",
        "events that one agent may send before it is slowed down; 0 for no limit",
    ),
    (
        "quota.org_bytes_per_second",
        "134217728",
        "the same of an organisation, all its agents together; 0 for no limit",
    ),
    (
        "quota.org_events_per_second",
        "400000",
        "the same of an organisation, all its agents together; 0 for no limit",
    ),
    (
        "quota.burst_seconds",
        "10",
        "what may come at once after a quiet time: so many seconds' worth, 1 to 3600",
    ),
    (
        "ca.agent_leaf",
        "30d",
        "life of an agent's certificate, renewed from half of it: 30d, 12h, 20s",
    ),
    (
        "recovery_recipient",
        "",
        "public half of the recovery key that opens backups too: x25519:…, from key recovery generate",
    ),
    ("log.format", "text", "text or json"),
    (
        "log.level",
        "info",
        "error, warn, info, debug, trace, or a filter such as zero_x_hub=debug",
    ),
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    data_dir: Option<Spanned<String>>,
    master_key_file: Option<Spanned<String>>,
    agent_listen: Option<Spanned<String>>,
    api_listen: Option<Spanned<String>>,
    metrics_listen: Option<Spanned<String>>,
    checks_dir: Option<Spanned<String>>,
    public_hosts: Option<Spanned<Vec<String>>>,
    recovery_recipient: Option<Spanned<String>>,
    #[serde(default)]
    tls: RawTls,
    #[serde(default)]
    quota: RawQuota,
    #[serde(default)]
    ca: RawCa,
    #[serde(default)]
    log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    agent_bytes_per_second: Option<Spanned<u64>>,
    agent_events_per_second: Option<Spanned<u64>>,
    org_bytes_per_second: Option<Spanned<u64>>,
    org_events_per_second: Option<Spanned<u64>>,
    burst_seconds: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCa {
    agent_leaf: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    format: Option<Spanned<String>>,
    level: Option<Spanned<String>>,
}

/// Returns the variable of a key.
fn variable(key: &str) -> String {
    format!("ZERO_X_{}", key.replace('.', "_").to_uppercase())
}

impl Config {
    /// Reads every layer.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub(crate) fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let given = flags
            .config
            .clone()
            .or_else(|| std::env::var_os("ZERO_X_CONFIG").map(PathBuf::from));
        let mut layers = Layers::default();
        match &given {
            Some(path) => layers.read(path)?,
            None => match layers.read(Path::new(DEFAULT_FILE)) {
                Err(ConfigError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            },
        }
        let file = given.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        for path in beside(&file)? {
            layers.read(&path)?;
        }
        layers.variables(|name| std::env::var_os(name))?;
        layers.flags(flags);
        layers.finish()
    }

    /// Returns every setting with its value and origin.
    pub(crate) fn shown(&self) -> &[Shown] {
        &self.shown
    }

    /// Returns the file with the master key.
    ///
    /// # Errors
    /// When none is set.
    pub(crate) fn master_key_file(&self) -> Result<&Path, ConfigError> {
        self.master_key_file.as_deref().ok_or(ConfigError::Missing {
            key: "master_key_file",
        })
    }
}

/// Returns the files `<name>.d/*.toml` beside a settings file, in the order of their names.
fn beside(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = file.with_extension("d");
    let failed = |source| ConfigError::Read {
        path: folder.clone(),
        source,
    };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Values as they were given, later layers over earlier ones.
#[derive(Debug, Default)]
struct Layers {
    values: BTreeMap<&'static str, Setting<String>>,
}

impl Layers {
    fn read(&mut self, path: &Path) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(failed)?;
        let mut text = String::new();
        file.take(FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > FILE_BYTES {
            return Err(failed(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it is larger than 1 MiB",
            )));
        }
        self.parse(path, &text)
    }

    fn parse(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let line_of = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            before.bytes().filter(|byte| *byte == b'\n').count() + 1
        };
        let raw: RawFile = toml::from_str(text).map_err(|error| ConfigError::Form {
            path: path.to_owned(),
            line: line_of(error.span().map_or(0, |span| span.start)),
            reason: with_nearest(error.message()),
        })?;
        let hosts = raw.public_hosts.map(|hosts| {
            let span = hosts.span();
            (span.start, hosts.into_inner().join(","))
        });
        let plain = |value: Option<Spanned<String>>| {
            value.map(|value| (value.span().start, value.into_inner()))
        };
        let number = |value: Option<Spanned<u64>>| {
            value.map(|value| (value.span().start, value.into_inner().to_string()))
        };
        let quota = raw.quota;
        let given = [
            ("data_dir", plain(raw.data_dir)),
            ("master_key_file", plain(raw.master_key_file)),
            ("agent_listen", plain(raw.agent_listen)),
            ("api_listen", plain(raw.api_listen)),
            ("metrics_listen", plain(raw.metrics_listen)),
            ("checks_dir", plain(raw.checks_dir)),
            ("public_hosts", hosts),
            ("tls.cert", plain(raw.tls.cert)),
            ("tls.key", plain(raw.tls.key)),
            (
                "quota.agent_bytes_per_second",
                number(quota.agent_bytes_per_second),
            ),
            (
                "quota.agent_events_per_second",
                number(quota.agent_events_per_second),
            ),
            (
                "quota.org_bytes_per_second",
                number(quota.org_bytes_per_second),
            ),
            (
                "quota.org_events_per_second",
                number(quota.org_events_per_second),
            ),
            ("quota.burst_seconds", number(quota.burst_seconds)),
            ("ca.agent_leaf", plain(raw.ca.agent_leaf)),
            ("recovery_recipient", plain(raw.recovery_recipient)),
            ("log.format", plain(raw.log.format)),
            ("log.level", plain(raw.log.level)),
        ];
        for (key, value) in given {
            if let Some((offset, value)) = value {
                let origin = Origin::File(path.to_owned(), line_of(offset));
                self.values.insert(key, Setting { value, origin });
            }
        }
        Ok(())
    }

    fn variables(&mut self, lookup: impl Fn(&str) -> Option<OsString>) -> Result<(), ConfigError> {
        for (key, _, _) in KEYS {
            let name = variable(key);
            let Some(value) = lookup(&name) else {
                continue;
            };
            let origin = Origin::Variable(name);
            let value = value.into_string().map_err(|value| ConfigError::Value {
                origin: origin.clone(),
                key,
                value: value.to_string_lossy().into_owned(),
                reason: "not UTF-8".to_owned(),
            })?;
            self.values.insert(key, Setting { value, origin });
        }
        Ok(())
    }

    fn flags(&mut self, flags: &Flags) {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let given = [
            ("data_dir", "data-dir", path(&flags.data_dir)),
            (
                "master_key_file",
                "master-key-file",
                path(&flags.master_key_file),
            ),
            ("agent_listen", "agent-listen", flags.agent_listen.clone()),
            ("api_listen", "api-listen", flags.api_listen.clone()),
            (
                "metrics_listen",
                "metrics-listen",
                flags.metrics_listen.clone(),
            ),
        ];
        for (key, flag, value) in given {
            if let Some(value) = value {
                let origin = Origin::Flag(flag);
                self.values.insert(key, Setting { value, origin });
            }
        }
    }

    /// Returns what was given for a key, else its default; `None` where that is empty too.
    fn get(&self, key: &'static str) -> Option<Setting<String>> {
        let default = || {
            let (_, default, _) = KEYS.iter().find(|(name, _, _)| *name == key)?;
            Some(Setting {
                value: (*default).to_owned(),
                origin: Origin::Default,
            })
        };
        self.values
            .get(key)
            .cloned()
            .or_else(default)
            .filter(|setting| !setting.value.is_empty() || setting.origin != Origin::Default)
    }

    /// Returns a value that must not be empty.
    fn text(&self, key: &'static str) -> Result<Option<Setting<String>>, ConfigError> {
        match self.get(key) {
            Some(setting) if setting.value.is_empty() => Err(refused(key, &setting, "it is empty")),
            setting => Ok(setting),
        }
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text(key)?.map(|setting| PathBuf::from(setting.value)))
    }

    fn address(&self, key: &'static str) -> Result<Setting<SocketAddr>, ConfigError> {
        let setting = self.text(key)?.ok_or(ConfigError::Missing { key })?;
        let value = setting
            .value
            .parse()
            .map_err(|_| refused(key, &setting, "not an address with a port"))?;
        Ok(Setting {
            value,
            origin: setting.origin,
        })
    }

    /// Metrics tell ids of organisations and how busy they are, and are asked for without a login.
    fn metrics_listen(&self) -> Result<Option<SocketAddr>, ConfigError> {
        const KEY: &str = "metrics_listen";
        if self.text(KEY)?.is_none() {
            return Ok(None);
        }
        let address = self.address(KEY)?;
        if address.ip().is_loopback() {
            return Ok(Some(address.value));
        }
        let setting = Setting {
            value: address.value.to_string(),
            origin: address.origin,
        };
        let reason = "not an address of this machine alone (127.0.0.1 or [::1])";
        Err(refused(KEY, &setting, reason))
    }

    fn number(&self, key: &'static str) -> Result<(u64, Setting<String>), ConfigError> {
        let setting = self.text(key)?.ok_or(ConfigError::Missing { key })?;
        match setting.value.parse() {
            Ok(number) => Ok((number, setting)),
            Err(_) => Err(refused(key, &setting, "not a whole number")),
        }
    }

    fn quotas(&self) -> Result<Quotas, ConfigError> {
        let rate = |key| Ok::<_, ConfigError>(NonZeroU64::new(self.number(key)?.0));
        let (burst, setting) = self.number("quota.burst_seconds")?;
        if !(1..=BURST_SECONDS).contains(&burst) {
            return Err(refused("quota.burst_seconds", &setting, "1 to 3600"));
        }
        Ok(Quotas {
            agent: Rates {
                bytes: rate("quota.agent_bytes_per_second")?,
                events: rate("quota.agent_events_per_second")?,
            },
            org: Rates {
                bytes: rate("quota.org_bytes_per_second")?,
                events: rate("quota.org_events_per_second")?,
            },
            burst: Duration::from_secs(burst),
        })
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let shown = KEYS
            .iter()
            .map(|(key, _, meaning)| {
                let setting = self.get(key);
                Shown {
                    key,
                    value: setting
                        .as_ref()
                        .map(|setting| setting.value.clone())
                        .unwrap_or_default(),
                    origin: setting
                        .map_or(Origin::Default, |setting| setting.origin)
                        .to_string(),
                    meaning,
                }
            })
            .collect();
        let log_format = match self.text("log.format")? {
            Some(setting) => match setting.value.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(refused("log.format", &setting, "one of text, json")),
            },
            None => LogFormat::Text,
        };
        let log_level = match self.text("log.level")? {
            Some(setting) if EnvFilter::try_new(&setting.value).is_err() => {
                let allowed = "one of error, warn, info, debug, trace, off, or a filter such as \
                               zero_x_hub=debug";
                return Err(refused("log.level", &setting, allowed));
            }
            Some(setting) => setting.value,
            None => "info".to_owned(),
        };
        let public_hosts = match self.text("public_hosts")? {
            Some(setting) => check_hosts(&setting.value)
                .map_err(|reason| refused("public_hosts", &setting, &reason))?,
            None => Vec::new(),
        };
        let tls = match (self.text("tls.cert")?, self.text("tls.key")?) {
            (Some(certificate), Some(key)) => Some(OwnTls {
                certificate: certificate.value.into(),
                key: key.value.into(),
            }),
            (None, None) => None,
            (Some(certificate), None) => return Err(lonely("tls.cert", &certificate, "tls.key")),
            (None, Some(key)) => return Err(lonely("tls.key", &key, "tls.cert")),
        };
        let recovery_recipient = self.text("recovery_recipient")?;
        let recovery_recipient = recovery_recipient
            .map(|setting| {
                let parsed = setting.value.parse();
                parsed.map_err(|error: NoRecipientError| {
                    refused("recovery_recipient", &setting, &error.to_string())
                })
            })
            .transpose()?;
        let agent_leaf = self.text("ca.agent_leaf")?.ok_or(ConfigError::Missing {
            key: "ca.agent_leaf",
        })?;
        let agent_leaf = life::parse(&agent_leaf.value)
            .map_err(|reason| refused("ca.agent_leaf", &agent_leaf, reason))?;
        Ok(Config {
            data_dir: self
                .path("data_dir")?
                .ok_or(ConfigError::Missing { key: "data_dir" })?,
            master_key_file: self.path("master_key_file")?,
            agent_listen: self.address("agent_listen")?,
            api_listen: self.address("api_listen")?,
            metrics_listen: self.metrics_listen()?,
            checks_dir: self
                .path("checks_dir")?
                .ok_or(ConfigError::Missing { key: "checks_dir" })?,
            public_hosts,
            tls,
            quotas: self.quotas()?,
            agent_leaf,
            recovery_recipient,
            log_format,
            log_level,
            shown,
        })
    }
}

fn refused(key: &'static str, setting: &Setting<String>, reason: &str) -> ConfigError {
    ConfigError::Value {
        origin: setting.origin.clone(),
        key,
        value: setting.value.clone(),
        reason: reason.to_owned(),
    }
}

fn lonely(key: &'static str, setting: &Setting<String>, other: &str) -> ConfigError {
    refused(key, setting, &format!("{other} must be set with it"))
}

/// Checks names and addresses, given with commas between them.
///
/// # Errors
/// Which one is none, and why.
pub(crate) fn check_hosts(text: &str) -> Result<Vec<String>, String> {
    let mut hosts = Vec::new();
    for host in text.split(',').map(str::trim) {
        // RFC 1123 section 2.1, RFC 1035 section 2.3.4.
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        // A name of digits and dots alone is a mistyped address.
        let is_name = host.len() <= 253
            && host.split('.').all(is_label)
            && host.bytes().any(|byte| byte.is_ascii_alphabetic());
        if !is_name && host.parse::<IpAddr>().is_err() {
            return Err(format!(
                "{host:?} is neither a DNS name nor an IP address (no port, no scheme)"
            ));
        }
        hosts.push(host.to_ascii_lowercase());
    }
    Ok(hosts)
}

/// Adds the nearest key to serde's refusal of an unknown one. Its wording is read with care: where
/// it has another form, the text stays as it is.
fn with_nearest(message: &str) -> String {
    let message = message.trim_end();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted
        .next()
        .filter(|_| message.starts_with("unknown field"))
    else {
        return message.to_owned();
    };
    let nearest = quoted
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    match nearest {
        Some((_, key)) => format!("{message}; did you mean {key}?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests;
