//! What can be set on each kind of source, and what the settings mean.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::nearest;
use crate::sync::cron::Cron;

use super::Kind;

/// Longest value of one setting, in bytes.
const VALUE_BYTES: usize = 4096;

/// Says why a setting cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SettingError {
    /// It is not `key=value`.
    #[error("{text:?} is not key=value")]
    Form { text: String },
    /// It is a secret, which does not belong on a command line.
    #[error("{key} is a secret: give it with --secret-file FILE, or - for standard input")]
    Secret { key: String },
    /// It stands twice.
    #[error("{key} stands twice")]
    Twice { key: String },
    /// The kind has no such key.
    #[error("{} sources have no key {key}{}; they have {known}", kind.name(), nearest.map(|near| format!(", did you mean {near}?")).unwrap_or_default())]
    Unknown {
        kind: Kind,
        key: String,
        nearest: Option<&'static str>,
        known: String,
    },
    /// The value does not fit the key.
    #[error("{key}={value}: {reason}")]
    Value {
        key: String,
        value: String,
        reason: String,
    },
    /// Two keys exclude each other, or one needs another.
    #[error("{reason}")]
    Together { reason: &'static str },
}

/// Splits `key=value` arguments.
///
/// # Errors
///
/// When one has another form, is a secret or stands twice.
pub(super) fn split(arguments: &[String]) -> Result<BTreeMap<String, String>, SettingError> {
    let mut settings = BTreeMap::new();
    for argument in arguments {
        let Some((key, value)) = argument.split_once('=') else {
            // It could be a secret by mistake, so it is repeated only where it looks like a key.
            let is_key = |c: char| c.is_ascii_lowercase() || c == '_';
            let text = if argument.len() <= 16 && argument.chars().all(is_key) {
                argument.clone()
            } else {
                "…".to_owned()
            };
            return Err(SettingError::Form { text });
        };
        let secret = [
            "secret",
            "password",
            "token",
            "access_key",
            "private_key",
            "credential",
        ];
        if secret.iter().any(|word| key.to_lowercase().contains(word)) {
            return Err(SettingError::Secret {
                key: key.to_owned(),
            });
        }
        if settings.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(SettingError::Twice {
                key: key.to_owned(),
            });
        }
    }
    Ok(settings)
}

/// When a source is synced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Pace {
    /// Its own interval, where it has one.
    pub(crate) interval: Option<Duration>,
    /// Or fixed times.
    pub(crate) cron: Option<Cron>,
    /// Its own jitter, where it has one.
    pub(crate) jitter: Option<Duration>,
}

/// What a source reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reads {
    Aws {
        regions: Vec<String>,
        profile: Option<String>,
        role_arn: Option<String>,
        external_id: Option<String>,
        endpoint: Option<String>,
    },
    Gcp {
        parent: gcp::Parent,
        regions: Vec<String>,
        endpoint: Option<String>,
    },
    Azure {
        tenant: Option<String>,
        client_id: Option<String>,
        subscriptions: Vec<String>,
        resource_groups: Vec<String>,
        endpoint: Option<String>,
    },
    Host,
    Wazuh {
        path: PathBuf,
    },
}

/// The checked settings of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) reads: Reads,
    pub(crate) pace: Pace,
}

/// Where a Wazuh manager writes its alerts.
/// Source: Wazuh documentation 4.x, "Alert management", `alerts.json`.
const WAZUH_ALERTS: &str = "/var/ossec/logs/alerts/alerts.json";

const PACE_KEYS: [&str; 3] = ["interval", "cron", "jitter"];

fn keys(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Aws => &["regions", "profile", "role_arn", "external_id", "endpoint"],
        Kind::Gcp => &["project", "folder", "organization", "regions", "endpoint"],
        Kind::Azure => &[
            "tenant",
            "client_id",
            "subscriptions",
            "resource_groups",
            "endpoint",
        ],
        Kind::Wazuh => &["path"],
        Kind::Host => &[],
    }
}

/// Takes settings out of a map one by one, with the checks that their keys ask for.
struct Taker<'a> {
    given: &'a BTreeMap<String, String>,
}

type Check = fn(&str) -> Result<(), &'static str>;

impl Taker<'_> {
    fn one(&self, key: &str, check: Check) -> Result<Option<String>, SettingError> {
        let Some(value) = self.given.get(key) else {
            return Ok(None);
        };
        checked(key, value, check)?;
        Ok(Some(value.clone()))
    }

    fn list(&self, key: &str, check: Check) -> Result<Vec<String>, SettingError> {
        let Some(value) = self.given.get(key).filter(|value| *value != "all") else {
            return Ok(Vec::new());
        };
        let parts = value.split(',').map(str::trim);
        parts
            .map(|part| checked(key, part, check).map(|()| part.to_owned()))
            .collect()
    }

    fn span(
        &self,
        key: &str,
        read: fn(&str) -> Result<Duration, String>,
    ) -> Result<Option<Duration>, SettingError> {
        let Some(value) = self.given.get(key) else {
            return Ok(None);
        };
        read(value).map(Some).map_err(|reason| SettingError::Value {
            key: key.to_owned(),
            value: value.clone(),
            reason,
        })
    }
}

fn checked(key: &str, value: &str, check: Check) -> Result<(), SettingError> {
    let refused = |reason: &str| SettingError::Value {
        key: key.to_owned(),
        // A URL may carry a password by mistake.
        value: collect::scrub::scrub_text(value).into_owned(),
        reason: reason.to_owned(),
    };
    if value.is_empty() || value.len() > VALUE_BYTES {
        return Err(refused("a value has 1 to 4096 bytes"));
    }
    if value.chars().any(char::is_control) {
        return Err(refused("a value holds no control characters"));
    }
    check(value).map_err(refused)
}

fn any(_: &str) -> Result<(), &'static str> {
    Ok(())
}

/// Refuses what has not the form of a region's name, `us-gov-west-1` or `eusc-de-east-1`: which
/// ones there are changes, so an unknown one passes and AWS is asked.
fn region(text: &str) -> Result<(), &'static str> {
    let is_word = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase()) && !part.is_empty();
    let parts: Vec<&str> = text.split('-').collect();
    let is_region = match parts.as_slice() {
        [area, words @ .., number] => {
            is_word(area)
                && (2..=4).contains(&area.len())
                && (1..=2).contains(&words.len())
                && words.iter().all(|word| is_word(word))
                && (1..=2).contains(&number.len())
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        _ => false,
    };
    if is_region {
        return Ok(());
    }
    Err(
        if text.starts_with("us-gov") || text.starts_with("us-iso") {
            "not a region, which is written like us-gov-west-1"
        } else {
            "not a region, which is written like eu-central-1: area, word, number"
        },
    )
}

fn location(text: &str) -> Result<(), &'static str> {
    let is_location = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if is_location {
        Ok(())
    } else {
        Err("not a location such as europe-west3")
    }
}

fn role_arn(text: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", _, "iam", "", account, role]
            if account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && role.starts_with("role/") =>
        {
            Ok(())
        }
        _ => Err("not a role such as arn:aws:iam::123456789012:role/zero-x"),
    }
}

fn uuid(text: &str) -> Result<(), &'static str> {
    match uuid::Uuid::try_parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err("not an id such as 00000000-0000-0000-0000-000000000000"),
    }
}

fn tenant(text: &str) -> Result<(), &'static str> {
    let is_domain = text.contains('.') && location(&text.replace('.', "-")).is_ok();
    if uuid(text).is_ok() || is_domain {
        Ok(())
    } else {
        Err("not a tenant id or domain")
    }
}

fn endpoint(text: &str) -> Result<(), &'static str> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Err("not a URL that begins with https:// or http://");
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() {
        return Err("the host is missing");
    }
    if authority.contains('@') {
        return Err("a URL here carries no user or password");
    }
    if rest.contains(['?', '#']) {
        return Err("a base URL has no query");
    }
    // Credentials would travel in the clear; only this host may be asked that way.
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let is_here = host == "localhost" || address.is_ok_and(|ip| ip.is_loopback());
    if text.starts_with("http://") && !is_here {
        return Err("http:// is for this host alone; use https://");
    }
    Ok(())
}

fn absolute_path(text: &str) -> Result<(), &'static str> {
    if text.starts_with('/') {
        Ok(())
    } else {
        Err("not an absolute path")
    }
}

impl Settings {
    /// Checks the settings of a source of `kind`.
    ///
    /// # Errors
    ///
    /// The first one that cannot be used.
    pub(crate) fn parse(
        kind: Kind,
        given: &BTreeMap<String, String>,
    ) -> Result<Self, SettingError> {
        let known = || keys(kind).iter().chain(&PACE_KEYS).copied();
        let stranger = given
            .keys()
            .find(|key| known().all(|known| known != key.as_str()));
        if let Some(key) = stranger {
            return Err(SettingError::Unknown {
                kind,
                key: key.clone(),
                nearest: nearest(key, known()),
                known: known().collect::<Vec<_>>().join(", "),
            });
        }
        let take = Taker { given };
        Ok(Self {
            reads: reads(kind, &take)?,
            pace: pace(&take)?,
        })
    }
}

fn reads(kind: Kind, take: &Taker<'_>) -> Result<Reads, SettingError> {
    match kind {
        Kind::Aws => {
            let role_arn = take.one("role_arn", role_arn)?;
            let external_id = take.one("external_id", any)?;
            if external_id.is_some() && role_arn.is_none() {
                return Err(SettingError::Together {
                    reason: "external_id goes with role_arn",
                });
            }
            Ok(Reads::Aws {
                regions: take.list("regions", region)?,
                profile: take.one("profile", any)?,
                role_arn,
                external_id,
                endpoint: take.one("endpoint", endpoint)?,
            })
        }
        Kind::Gcp => {
            let project = take.one("project", any)?;
            let folder = take.one("folder", any)?;
            let organization = take.one("organization", any)?;
            let parent = match (project, folder, organization) {
                (Some(project), None, None) => gcp::Parent::Project(project),
                (None, Some(folder), None) => gcp::Parent::Folder(folder),
                (None, None, Some(organization)) => gcp::Parent::Organization(organization),
                _ => {
                    return Err(SettingError::Together {
                        reason: "a gcp source takes exactly one of project, folder and organization",
                    });
                }
            };
            Ok(Reads::Gcp {
                parent,
                regions: take.list("regions", location)?,
                endpoint: take.one("endpoint", endpoint)?,
            })
        }
        Kind::Azure => Ok(Reads::Azure {
            tenant: take.one("tenant", tenant)?,
            client_id: take.one("client_id", uuid)?,
            subscriptions: take.list("subscriptions", uuid)?,
            resource_groups: take.list("resource_groups", any)?,
            endpoint: take.one("endpoint", endpoint)?,
        }),
        Kind::Wazuh => {
            let path = take.one("path", absolute_path)?;
            Ok(Reads::Wazuh {
                path: path.unwrap_or_else(|| WAZUH_ALERTS.to_owned()).into(),
            })
        }
        Kind::Host => Ok(Reads::Host),
    }
}

fn pace(take: &Taker<'_>) -> Result<Pace, SettingError> {
    let interval = take.span("interval", crate::config::interval)?;
    let cron = match take.given.get("cron") {
        None => None,
        Some(text) => Some(Cron::parse(text).map_err(|reason| SettingError::Value {
            key: "cron".to_owned(),
            value: text.clone(),
            reason: reason.to_string(),
        })?),
    };
    if interval.is_some() && cron.is_some() {
        return Err(SettingError::Together {
            reason: "a source takes interval or cron, not both",
        });
    }
    Ok(Pace {
        interval,
        cron,
        jitter: take.span("jitter", crate::config::jitter)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_region_passes_and_what_is_none_does_not() {
        for good in [
            "eu-central-1",
            "us-gov-west-1",
            "us-isob-east-1",
            "eusc-de-east-1",
            "ap-southeast-12",
            "zz-nowhere-9",
        ] {
            assert_eq!(region(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "mars-1",
            "eu-central",
            "eu-central-1a",
            "eu--1",
            "-central-1",
            "EU-central-1",
            "eu_central_1",
            "europe-west3",
            "eu-central-1-",
            "a-b-c-d-1",
            "eu-central-123",
        ] {
            assert!(region(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_travel_in_the_clear_to_this_host_only() {
        for good in [
            "http://127.0.0.1:5000",
            "http://localhost:1",
            "http://[::1]:4566",
            "https://sts.example",
        ] {
            assert_eq!(endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "http://10.0.0.1:5000",
            "http://127.0.0.1.evil.example",
            "ftp://x",
            "https://",
            "https://a@b",
            "https://a?b=c",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused_without_repeating_it() {
        let given = ["aws_secret_access_key=canary".to_owned()];
        let error = split(&given).map_err(|error| error.to_string());
        let want = "aws_secret_access_key is a secret: give it with --secret-file FILE, or - for \
                    standard input";
        assert_eq!(error, Err(want.to_owned()));
        for given in ["AKIAIOSFODNN7EXAMPLE:canary", "Canary"] {
            let error = split(&[given.to_owned()]).map_err(|error| error.to_string());
            assert_eq!(error, Err("\"…\" is not key=value".to_owned()));
        }
        let url = BTreeMap::from([("endpoint".to_owned(), "https://u:canary@h".to_owned())]);
        let error = Settings::parse(Kind::Aws, &url).map_err(|error| error.to_string());
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
