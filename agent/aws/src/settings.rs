//! What an operator sets for an AWS source.

use std::collections::BTreeMap;

use collect::CollectError;
use secrecy::SecretString;

/// A key pair from the agent's vault, for where there are no ambient credentials.
#[derive(Debug, Clone)]
pub struct StaticCredentials {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: SecretString,
    /// Present with temporary credentials only.
    pub session_token: Option<SecretString>,
}

/// The settings of `source add aws`.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Regions to read; `None` for all that the account has enabled.
    pub regions: Option<Vec<String>>,
    /// Profile of the shared configuration files; `None` for the default chain.
    pub profile: Option<String>,
    /// Role to assume with the credentials that were found.
    pub role_arn: Option<String>,
    /// What the role's trust policy wants to hear.
    pub external_id: Option<String>,
    /// Base URL of all services: a private endpoint, an emulator. `AWS_ENDPOINT_URL` without it.
    pub endpoint: Option<String>,
    /// Credentials from the vault; they come before the ambient ones.
    pub static_credentials: Option<StaticCredentials>,
}

/// Keys that [`Settings::parse`] knows.
pub const KEYS: &[&str] = &["endpoint", "external_id", "profile", "regions", "role_arn"];

impl Settings {
    /// Reads the `key=value` pairs of `source add aws`, without the keys that every source has.
    ///
    /// # Errors
    ///
    /// The first key that is unknown or whose value cannot be used, with what would be right.
    pub fn parse(pairs: &BTreeMap<String, String>) -> Result<Self, CollectError> {
        let mut settings = Self::default();
        for (key, value) in pairs {
            let wrong = |reason: &str| CollectError::Setting {
                key: key.clone(),
                reason: reason.to_owned(),
            };
            let value = value.trim();
            if value.is_empty() {
                return Err(wrong("it is empty; leave the key out instead"));
            }
            match key.as_str() {
                "regions" if value == "all" => {}
                "regions" => {
                    settings.regions = Some(regions(value).ok_or_else(|| {
                        wrong("write region names with commas, such as eu-west-1,us-east-1, or all")
                    })?);
                }
                "profile" => settings.profile = Some(value.to_owned()),
                "role_arn" if is_role(value) => settings.role_arn = Some(value.to_owned()),
                "role_arn" => {
                    let form = "write the ARN of a role, arn:aws:iam::123456789012:role/NAME";
                    return Err(wrong(form));
                }
                "external_id" => settings.external_id = Some(value.to_owned()),
                "endpoint" if is_base(value) => settings.endpoint = Some(value.to_owned()),
                "endpoint" => {
                    return Err(wrong("write a URL with http or https, a host and no query"));
                }
                _ => {
                    let known = format!("an AWS source has the keys {}", KEYS.join(", "));
                    return Err(wrong(&known));
                }
            }
        }
        if settings.external_id.is_some() && settings.role_arn.is_none() {
            return Err(CollectError::Setting {
                key: "external_id".to_owned(),
                reason: "it goes with role_arn, which is not set".to_owned(),
            });
        }
        Ok(settings)
    }
}

fn regions(list: &str) -> Option<Vec<String>> {
    let mut regions = Vec::new();
    for name in list.split(',').map(str::trim) {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !name.bytes().all(allowed) || name.matches('-').count() < 2 {
            return None;
        }
        if !regions.iter().any(|known| known == name) {
            regions.push(name.to_owned());
        }
    }
    Some(regions)
}

fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    matches!(parts.as_slice(), ["arn", partition, "iam", "", account, resource]
        if partition.starts_with("aws")
            && account.len() == 12
            && account.bytes().all(|b| b.is_ascii_digit())
            && resource.starts_with("role/"))
}

fn is_base(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Settings::parse(&pairs.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_key_is_read() {
        let settings = parse(&[
            ("regions", "eu-west-1, us-gov-east-1,eu-west-1"),
            ("profile", "audit"),
            ("role_arn", "arn:aws-cn:iam::123456789012:role/path/zero-x"),
            ("external_id", "x"),
            ("endpoint", "http://127.0.0.1:5000"),
        ])
        .unwrap();
        assert_eq!(settings.regions.unwrap(), ["eu-west-1", "us-gov-east-1"]);
        assert_eq!(settings.profile.as_deref(), Some("audit"));
        assert_eq!(settings.external_id.as_deref(), Some("x"));
        assert!(parse(&[("regions", "all")]).unwrap().regions.is_none());
    }

    #[test]
    fn a_setting_that_cannot_be_used_says_what_would_be_right() {
        let role = "arn:aws:iam::123456789012:role/NAME";
        for (key, value, hint) in [
            ("regions", "Frankfurt", "eu-west-1,us-east-1"),
            ("regions", "", "leave the key out"),
            ("role_arn", "zero-x", role),
            ("role_arn", "arn:aws:iam::1:role/x", role),
            ("endpoint", "localhost:5000", "http or https"),
            ("external_id", "x", "role_arn"),
            (
                "region",
                "eu-west-1",
                "endpoint, external_id, profile, regions, role_arn",
            ),
        ] {
            let error = parse(&[(key, value)]).unwrap_err();
            assert!(
                error.starts_with(&format!("{key} cannot be used")),
                "{error}"
            );
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let settings = Settings {
            static_credentials: Some(StaticCredentials {
                access_key_id: "AKIA".to_owned(),
                secret_access_key: "hunter2".into(),
                session_token: Some("hunter3".into()),
            }),
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter"));
    }
}
