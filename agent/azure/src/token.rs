//! Where access tokens for Azure come from.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Request};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{ClientOptions, ExponentialRetryOptions, RetryOptions};
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredentialOptions,
    ClientSecretCredential, ClientSecretCredentialOptions, ManagedIdentityCredential,
    ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use collect::CollectError;
use collect::http::{self, Endpoint, Http, query};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Settings;
use crate::transport::{client, transport};

/// All permissions on Resource Manager that the identity has been given.
const SCOPE: &str = "https://management.azure.com/.default";

/// Longest time for one way to credentials to give a token.
const LONGEST: Duration = Duration::from_secs(30);

/// How long before its end a token is no longer used.
const BEFORE_END: Duration = Duration::from_secs(300);

/// Longest life of a token that is believed, in seconds: one day.
const LIFE_LONGEST: u64 = 86_400;

/// Tokens of one identity.
pub(crate) enum Tokens {
    /// From a server on this host, which speaks no TLS; `azure_identity` refuses such.
    Plain(Box<Plain>),
    /// From one of the SDK's credentials, which keep their token and renew it.
    Credential(Arc<dyn TokenCredential>),
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Finds credentials and gets a first token.
    ///
    /// # Errors
    ///
    /// When a setting is missing or no credentials work.
    pub(crate) async fn find(
        settings: &Settings,
        secret: Option<SecretBox<str>>,
        endpoint: &Endpoint,
    ) -> Result<Self, CollectError> {
        let Some(secret) = secret else {
            return Self::ambient(settings).await;
        };
        let needed = |key: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| CollectError::Setting {
                key: key.to_owned(),
                reason: "a client secret needs it".to_owned(),
            })
        };
        let tenant = needed("tenant", &settings.tenant)?;
        let client_id = needed("client_id", &settings.client_id)?;
        let tokens = Self::of(tenant, client_id, secret, endpoint)?;
        tokens.bearer().await?;
        Ok(tokens)
    }

    pub(crate) fn of(
        tenant: String,
        client_id: String,
        secret: SecretBox<str>,
        endpoint: &Endpoint,
    ) -> Result<Self, CollectError> {
        if let Some(base) = endpoint.base().filter(|_| endpoint.is_plain()) {
            return Ok(Self::Plain(Box::new(Plain {
                http: client()?,
                url: format!("{base}/{tenant}/oauth2/v2.0/token"),
                client_id,
                secret,
                held: Mutex::new(None),
            })));
        }
        let options = ClientSecretCredentialOptions {
            client_options: client_options(client()?),
        };
        let secret = Secret::new(secret.expose_secret().to_owned());
        let credential = ClientSecretCredential::new(&tenant, client_id, secret, Some(options));
        let credential = credential.map_err(|error| refused(first_line(&error)))?;
        Ok(Self::Credential(credential))
    }

    async fn ambient(settings: &Settings) -> Result<Self, CollectError> {
        let mut tried = Vec::new();
        for (way, credential) in offered(settings, &client()?) {
            let reason = match credential {
                Err(error) => first_line(&error),
                Ok(credential) => {
                    let tokens = Self::Credential(credential);
                    match tokens.bearer().await {
                        Ok(_) => {
                            tracing::debug!(credential = way, "azure credentials found");
                            return Ok(tokens);
                        }
                        Err(CollectError::Credentials { reason }) => reason,
                        Err(other) => other.to_string(),
                    }
                }
            };
            tried.push(format!("{way}: {reason}"));
        }
        Err(refused(format!(
            "nothing on this host gave a token ({}); give the source tenant, client_id and a \
             client secret, or run the agent where an identity is attached",
            tried.join("; ")
        )))
    }

    /// Returns an `Authorization` header.
    pub(crate) async fn bearer(&self) -> Result<HeaderValue, CollectError> {
        let token = match tokio::time::timeout(LONGEST, self.fetch()).await {
            Ok(token) => token?,
            Err(_) => return Err(refused("no token came in time".to_owned())),
        };
        http::bearer(&token)
            .map_err(|_| refused("the token is not one that a header can carry".to_owned()))
    }

    async fn fetch(&self) -> Result<SecretString, CollectError> {
        match self {
            Self::Plain(plain) => plain.fetch().await,
            Self::Credential(credential) => {
                let token = credential.get_token(&[SCOPE], None).await;
                let token = token.map_err(|error| refused(first_line(&error)))?;
                Ok(SecretString::from(token.token.secret()))
            }
        }
    }
}

/// An application's secret, and who is asked for tokens in the clear on this host.
pub(crate) struct Plain {
    http: Http,
    url: String,
    client_id: String,
    secret: SecretBox<str>,
    held: Mutex<Option<Held>>,
}

struct Held {
    token: SecretString,
    until: Instant,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: u64,
}

impl Plain {
    async fn fetch(&self) -> Result<SecretString, CollectError> {
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.until > Instant::now()) {
            return Ok(held.token.clone());
        }
        let body = query(&[
            ("client_id", self.client_id.as_str()),
            ("client_secret", self.secret.expose_secret()),
            ("grant_type", "client_credentials"),
            ("scope", SCOPE),
        ]);
        let request = Request::post(&self.url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.into())
            .map_err(|_| refused("the token address is not a URL".to_owned()))?;
        let answer = self.http.call("token", &request, |answer| {
            let body = answer.json()?;
            let code = body.get("error")?.as_str()?;
            let is_code = code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            is_code.then(|| code.to_owned())
        });
        let answer = answer
            .await
            .map_err(|failure| refused(failure.to_string()))?;
        let granted: Granted = serde_json::from_slice(&answer.body)
            .map_err(|_| refused("the token answer has another shape".to_owned()))?;
        let life = Duration::from_secs(granted.expires_in.min(LIFE_LONGEST));
        *held = Some(Held {
            token: granted.access_token.clone(),
            until: Instant::now() + life.saturating_sub(BEFORE_END),
        });
        Ok(granted.access_token)
    }
}

type Offer = (
    &'static str,
    Result<Arc<dyn TokenCredential>, azure_core::Error>,
);

/// Returns what a host may offer, in the order of preference.
fn offered(settings: &Settings, http: &Http) -> [Offer; 3] {
    let workload = WorkloadIdentityCredential::new(Some(WorkloadIdentityCredentialOptions {
        credential_options: ClientAssertionCredentialOptions {
            client_options: client_options(http.clone()),
        },
        client_id: settings.client_id.clone(),
        tenant_id: settings.tenant.clone(),
        token_file_path: None,
    }));
    let managed = ManagedIdentityCredential::new(Some(ManagedIdentityCredentialOptions {
        user_assigned_id: settings.client_id.clone().map(UserAssignedId::ClientId),
        client_options: client_options(http.clone()),
    }));
    let cli = AzureCliCredential::new(Some(AzureCliCredentialOptions {
        tenant_id: settings.tenant.clone(),
        ..AzureCliCredentialOptions::default()
    }));
    [
        ("workload identity", workload.map(|found| found as _)),
        ("managed identity", managed.map(|found| found as _)),
        ("azure cli", cli.map(|found| found as _)),
    ]
}

fn client_options(http: Http) -> ClientOptions {
    ClientOptions {
        transport: Some(transport(http)),
        // The default goes on for more than a minute when nobody is there.
        retry: RetryOptions::exponential(ExponentialRetryOptions {
            max_retries: 2,
            ..ExponentialRetryOptions::default()
        }),
        ..ClientOptions::default()
    }
}

fn refused(reason: String) -> CollectError {
    CollectError::Credentials { reason }
}

/// Returns the first line of what the SDK says: the rest is where to read more.
fn first_line(error: &azure_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_needs_tenant_and_application_and_stays_hidden() {
        let tenant = Some("contoso.example".to_owned());
        for (settings, missing) in [
            (Settings::default(), "tenant"),
            (
                Settings {
                    tenant,
                    ..Settings::default()
                },
                "client_id",
            ),
        ] {
            let secret = SecretString::from("canary");
            let found = Tokens::find(&settings, Some(secret), &Endpoint::default()).await;
            let error = found.unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{missing} cannot be used: a client secret needs it")
            );
        }
    }

    #[test]
    fn tokens_show_nothing_in_debug() {
        let endpoint = Endpoint::parse("http://127.0.0.1:1").unwrap();
        let tokens = Tokens::of(
            "contoso.example".to_owned(),
            "1b2c3d4e-0000-0000-0000-000000000000".to_owned(),
            SecretString::from("canary"),
            &endpoint,
        );
        assert_eq!(format!("{:?}", tokens.unwrap()), "Tokens { .. }");
    }
}
