//! Every configuration key, once.

use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

use super::{Config, LogFormat};
use crate::link::proxy::Setting;

/// What the name of every variable begins with.
pub(super) const VARIABLE_PREFIX: &str = "ZERO_X_";

/// The TOML type that a key is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Number,
    /// An array of texts; in a variable, texts between commas.
    List,
}

/// One configuration key.
pub(crate) struct Key {
    /// Its name, with its table: `spool.max_bytes`.
    pub(crate) name: &'static str,
    /// How it is written in TOML.
    pub(crate) form: Form,
    /// What it takes, for errors and the manual.
    pub(crate) takes: &'static str,
    /// What it is for, in a sentence.
    pub(crate) meaning: &'static str,
    /// Reads a value into the configuration, or says what is wrong with it.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// Returns the value in force as it would be written.
    pub(crate) get: fn(&Config) -> String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Key {
    /// Returns the name of the variable that sets the key: `ZERO_X_SPOOL_MAX_BYTES`.
    pub(crate) fn variable(&self) -> String {
        format!(
            "{VARIABLE_PREFIX}{}",
            self.name.replace('.', "_").to_uppercase()
        )
    }
}

/// Smallest spool that still holds a few full frames per lane.
const SPOOL_MIN_BYTES: u64 = 16 << 20;

/// All keys, in the order in which they are shown.
pub(crate) static KEYS: &[Key] = &[
    Key {
        name: "state_dir",
        form: Form::Text,
        takes: "an absolute path",
        meaning: "Folder of identity, sources, vault and spool.",
        set: |config, text| {
            config.state_dir = path(text)?;
            Ok(())
        },
        get: |config| config.state_dir.display().to_string(),
    },
    Key {
        name: "runtime_dir",
        form: Form::Text,
        takes: "an absolute path",
        meaning: "Folder of the status socket.",
        set: |config, text| {
            config.runtime_dir = Some(path(text)?);
            Ok(())
        },
        get: |config| config.runtime_dir().display().to_string(),
    },
    Key {
        name: "hub.address",
        form: Form::Text,
        takes: "host:port",
        meaning: "Address of the hub; empty for the one that enrolment stored.",
        set: |config, text| {
            config.hub.addresses = address(text)?.into_iter().collect();
            Ok(())
        },
        get: |config| match config.hub.addresses.as_slice() {
            [one] => one.clone(),
            [] | [..] => String::new(),
        },
    },
    Key {
        name: "hub.addresses",
        form: Form::List,
        takes: "a list of host:port, 8 at most",
        meaning: "Addresses of the hub, tried in this order; takes the place of hub.address.",
        set: |config, text| {
            let found = addresses(text)?;
            if !found.is_empty() {
                config.hub.addresses = found;
            }
            Ok(())
        },
        get: |config| config.hub.addresses.join(","),
    },
    Key {
        name: "hub.proxy",
        form: Form::Text,
        takes: "http://host:port, environment, or nothing",
        meaning: "HTTP proxy on the way to the hub over TCP; `environment` takes the one in \
                  HTTPS_PROXY unless NO_PROXY names the hub.",
        set: |config, text| {
            config.hub.proxy = Setting::parse(text)?;
            Ok(())
        },
        get: |config| config.hub.proxy.text(),
    },
    Key {
        name: "hub.proxy_credentials_file",
        form: Form::Text,
        takes: "an absolute path",
        meaning: "File with user:password of the proxy, mode 0600; empty for none.",
        set: |config, text| {
            config.hub.proxy_credentials_file = if text.is_empty() {
                None
            } else {
                Some(path(text)?)
            };
            Ok(())
        },
        get: |config| {
            let path = config.hub.proxy_credentials_file.as_ref();
            path.map(|path| path.display().to_string())
                .unwrap_or_default()
        },
    },
    Key {
        name: "hub.probe_quic_after",
        form: Form::Text,
        takes: "a span of 1s to 24h, such as 1m",
        meaning: "How long a session stays on TCP before QUIC is looked for; doubles up to 30m.",
        set: |config, text| {
            config.transport.probe_quic_after = bounded(text, Duration::from_secs(1), DAY)?;
            Ok(())
        },
        get: |config| span_text(config.transport.probe_quic_after),
    },
    Key {
        name: "hub.return_after",
        form: Form::Text,
        takes: "a span of 1s to 24h, such as 5m",
        meaning: "How long a session stays on another hub than the first of hub.addresses before \
                  those before it are looked for; doubles up to 1h.",
        set: |config, text| {
            config.transport.return_after = bounded(text, Duration::from_secs(1), DAY)?;
            Ok(())
        },
        get: |config| span_text(config.transport.return_after),
    },
    Key {
        name: "log.level",
        form: Form::Text,
        takes: "error, warn, info, debug or trace",
        meaning: "How much is logged.",
        set: |config, text| {
            config.log.level = level(text)?;
            Ok(())
        },
        get: |config| config.log.level.to_string().to_lowercase(),
    },
    Key {
        name: "log.format",
        form: Form::Text,
        takes: "text or json",
        meaning: "How log lines look.",
        set: |config, text| {
            config.log.format = match text {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err("no such form".to_owned()),
            };
            Ok(())
        },
        get: |config| match config.log.format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
    },
    Key {
        name: "spool.max_bytes",
        form: Form::Number,
        takes: "a number of bytes, 16777216 (16 MiB) at least",
        meaning: "Most bytes of the spool; sources pause when their share of it is full.",
        set: |config, text| {
            let bytes = number(text)?;
            if bytes < SPOOL_MIN_BYTES {
                return Err("too small".to_owned());
            }
            config.spool.max_bytes = bytes;
            Ok(())
        },
        get: |config| config.spool.max_bytes.to_string(),
    },
    Key {
        name: "spool.keep_free_bytes",
        form: Form::Number,
        takes: "a number of bytes",
        meaning: "Free space of the disk that the spool leaves alone.",
        set: |config, text| {
            config.spool.keep_free_bytes = number(text)?;
            Ok(())
        },
        get: |config| config.spool.keep_free_bytes.to_string(),
    },
    Key {
        name: "spool.keep_acknowledged",
        form: Form::Text,
        takes: "a span of 0s to 7d, such as 24h",
        meaning: "How long batches that the hub has are kept, where there is room, for a hub that \
                  is restored from a backup.",
        set: |config, text| {
            config.spool.keep_acknowledged = bounded(text, Duration::ZERO, 7 * DAY)?;
            Ok(())
        },
        get: |config| span_text(config.spool.keep_acknowledged),
    },
    Key {
        name: "sync.interval",
        form: Form::Text,
        takes: "a span of 1m to 7d, such as 15m or 6h",
        meaning: "Pause between two syncs of a source that sets no interval of its own.",
        set: |config, text| {
            config.sync.interval = interval(text)?;
            Ok(())
        },
        get: |config| span_text(config.sync.interval),
    },
    Key {
        name: "sync.jitter",
        form: Form::Text,
        takes: "a span of at most 1h, such as 2m",
        meaning: "Longest random delay of a sync, so that many agents do not call at once.",
        set: |config, text| {
            config.sync.jitter = jitter(text)?;
            Ok(())
        },
        get: |config| span_text(config.sync.jitter),
    },
    Key {
        name: "sync.once_timeout",
        form: Form::Text,
        takes: "a span of 1s to 24h, such as 2m",
        meaning: "How long `run --once` waits without an acknowledgement before it gives up.",
        set: |config, text| {
            config.sync.once_timeout = bounded(text, Duration::from_secs(1), DAY)?;
            Ok(())
        },
        get: |config| span_text(config.sync.once_timeout),
    },
    Key {
        name: "transport.gso",
        form: Form::Text,
        takes: "auto or off",
        meaning: "Whether the kernel cuts QUIC datagrams; off for network drivers that lose them.",
        set: |config, text| {
            config.transport.gso = match text {
                "auto" => true,
                "off" => false,
                _ => return Err("no such value".to_owned()),
            };
            Ok(())
        },
        get: |config| if config.transport.gso { "auto" } else { "off" }.to_owned(),
    },
    Key {
        name: "transport.connect_timeout",
        form: Form::Text,
        takes: "a span of 1s to 2m, such as 10s",
        meaning: "How long one attempt to reach the hub may take.",
        set: |config, text| {
            let (least, most) = (Duration::from_secs(1), Duration::from_secs(120));
            config.transport.connect_timeout = bounded(text, least, most)?;
            Ok(())
        },
        get: |config| span_text(config.transport.connect_timeout),
    },
    Key {
        name: "vault.key_file",
        form: Form::Text,
        takes: "an absolute path",
        meaning: "File with the vault's key, 64 hexadecimal digits, mode 0600; empty for one that \
                  the agent makes beside the vault.",
        set: |config, text| {
            config.vault.key_file = if text.is_empty() {
                None
            } else {
                Some(path(text)?)
            };
            Ok(())
        },
        get: |config| {
            let path = config.vault.key_file.as_ref();
            path.map(|path| path.display().to_string())
                .unwrap_or_default()
        },
    },
];

const DAY: Duration = Duration::from_secs(86_400);

/// Reads a span such as `15m` or `1h 30m`.
///
/// # Errors
///
/// A clause that says what is wrong.
fn span(text: &str) -> Result<Duration, String> {
    let span: SignedDuration = text.parse().map_err(|_| "not a span of time".to_owned())?;
    Duration::try_from(span).map_err(|_| "a span cannot be negative".to_owned())
}

/// Returns a span as it would be written: `15m`.
fn span_text(span: Duration) -> String {
    SignedDuration::try_from(span)
        .map_or_else(|_| "for ever".to_owned(), |span| format!("{span:#}"))
}

fn bounded(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let span = span(text)?;
    if span < least {
        return Err("too short".to_owned());
    }
    if span > most {
        return Err("too long".to_owned());
    }
    Ok(span)
}

/// Reads the pause between two syncs.
///
/// # Errors
///
/// A clause that says what is wrong.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_secs(60), 7 * DAY)
}

/// Reads the longest random delay of a sync.
///
/// # Errors
///
/// A clause that says what is wrong.
pub(crate) fn jitter(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::ZERO, Duration::from_secs(3600))
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("not an absolute path".to_owned())
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "not a whole number".to_owned())
}

fn level(text: &str) -> Result<tracing::Level, String> {
    match text {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        _ => Err("no such level".to_owned()),
    }
}

/// Most addresses of a hub.
const HUBS: usize = 8;

/// Reads addresses between commas.
fn addresses(text: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for one in text.split(',').map(str::trim) {
        if let Some(address) = address(one)? {
            found.push(address);
        }
    }
    if found.len() > HUBS {
        return Err("too many".to_owned());
    }
    Ok(found)
}

/// Reads `host:port`; empty for none.
///
/// # Errors
///
/// A clause that says what is wrong.
pub(crate) fn address(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("the port is missing".to_owned());
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if host.is_empty() || (bare.is_none() && host.contains(':')) {
        return Err("an IPv6 address stands in brackets, [2001:db8::1]:7443".to_owned());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Some(text.to_owned())),
        Ok(_) | Err(_) => Err("the port is a number of 1 to 65535".to_owned()),
    }
}
