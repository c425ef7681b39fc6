//! Where access tokens for Google Cloud come from.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use collect::CollectError;
use collect::http::{self, Endpoint};
use gcp_auth::{
    ConfigDefaultCredentials, CustomServiceAccount, Error, GCloudAuthorizedUser,
    MetadataServiceAccount, TokenProvider,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::Credentials;

/// The scope that Cloud Asset Inventory asks for; what a token may do is up to the roles of its
/// account. Source: https://byron.github.io/google-apis-rs/google_cloudasset1_cli/assets_list
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Longest time for one way to credentials to give a token.
const LONGEST: Duration = Duration::from_secs(30);

/// Largest key file that is read, in bytes. A key has about 2,400.
const KEY_BYTES: u64 = 64 << 10;

/// Tokens of one identity, fetched again before they expire.
pub(crate) struct Tokens {
    provider: Arc<dyn TokenProvider>,
    /// The project that a person's calls count against; service accounts have their own.
    quota_project: Option<HeaderValue>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Finds credentials.
    ///
    /// # Errors
    ///
    /// When there are none or they cannot be used. A key that was named must work: nothing else is
    /// tried in its place.
    pub(crate) async fn find(credentials: Credentials) -> Result<Self, CollectError> {
        match credentials {
            Credentials::Key(key) => of_key(key.expose_secret()),
            Credentials::KeyFile(path) => of_file(&path),
            Credentials::Ambient => match std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS") {
                Some(path) => of_file(Path::new(&path)),
                None => ambient().await,
            },
        }
    }

    /// Returns an `Authorization` header.
    pub(crate) async fn bearer(&self) -> Result<HeaderValue, CollectError> {
        let token = tokio::time::timeout(LONGEST, self.provider.token(&[SCOPE])).await;
        let token = token.map_err(|_| refused("no token came in time".to_owned()))?;
        let token = token.map_err(|error| refused(explain(&error)))?;
        let token = SecretString::from(token.as_str());
        http::bearer(&token)
            .map_err(|_| refused("the token is not one that a header can carry".to_owned()))
    }

    /// Returns the project that calls are to be counted against, where it is not the identity's.
    pub(crate) fn quota_project(&self) -> Option<&HeaderValue> {
        self.quota_project.as_ref()
    }
}

impl From<Arc<dyn TokenProvider>> for Tokens {
    fn from(provider: Arc<dyn TokenProvider>) -> Self {
        Self {
            provider,
            quota_project: None,
        }
    }
}

/// What stands in a key file, as far as it is judged here.
#[derive(Deserialize)]
struct Key {
    #[serde(rename = "type")]
    kind: Option<String>,
    token_uri: Option<String>,
}

fn of_file(path: &Path) -> Result<Tokens, CollectError> {
    let file = |source| CollectError::File {
        path: path.display().to_string(),
        source,
    };
    if std::fs::metadata(path).map_err(file)?.len() > KEY_BYTES {
        return Err(refused(format!("{} is no key file", path.display())));
    }
    let text = SecretString::from(std::fs::read_to_string(path).map_err(file)?);
    of_key(text.expose_secret())
}

fn of_key(text: &str) -> Result<Tokens, CollectError> {
    // What the parser says may quote the text, so that only the place is passed on.
    let key: Key = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        refused(format!(
            "the key is not a service account's key as JSON (line {line}, column {column})"
        ))
    })?;
    match key.kind.as_deref() {
        None | Some("service_account") => {}
        Some("external_account") => {
            return Err(refused(
                "workload identity federation (external_account) is not supported; attach a \
                 service account to the host, or give the source a service account's key"
                    .to_owned(),
            ));
        }
        Some(_) => {
            return Err(refused(
                "the key is of another type than service_account".to_owned(),
            ));
        }
    }
    // The token comes back from there.
    if let Some(uri) = &key.token_uri
        && Endpoint::parse(uri).is_err()
    {
        return Err(refused(
            "the key's token_uri is not an https:// address".to_owned(),
        ));
    }
    let account = CustomServiceAccount::from_json(text).map_err(|error| {
        let reason = explain(&error);
        refused(format!(
            "the service account's key cannot be used: {reason}"
        ))
    })?;
    let account: Arc<dyn TokenProvider> = Arc::new(account);
    Ok(Tokens::from(account))
}

/// Tries what the host offers. Each way gets a token at once, so that the first that stands here
/// is one that works.
async fn ambient() -> Result<Tokens, CollectError> {
    let mut tried = Vec::new();
    let mut note = |way: &str, reason: String| tried.push(format!("{way}: {reason}"));
    match within(ConfigDefaultCredentials::new()).await {
        Ok(person) => {
            let project = person.project_id().await.ok();
            let project = project.and_then(|project| HeaderValue::from_str(&project).ok());
            let provider: Arc<dyn TokenProvider> = Arc::new(person);
            return Ok(Tokens {
                provider,
                quota_project: project,
            });
        }
        Err(reason) => note("application-default credentials", reason),
    }
    match within(MetadataServiceAccount::new()).await {
        Ok(account) => {
            let provider: Arc<dyn TokenProvider> = Arc::new(account);
            return Ok(Tokens::from(provider));
        }
        Err(reason) => note("metadata server", reason),
    }
    match within(gcloud()).await {
        Ok(person) => {
            let provider: Arc<dyn TokenProvider> = Arc::new(person);
            return Ok(Tokens::from(provider));
        }
        Err(reason) => note("gcloud", reason),
    }
    Err(refused(format!(
        "GOOGLE_APPLICATION_CREDENTIALS is not set, and nothing else gave a token ({}); give the \
         source a service account's key, or run the agent where an identity is attached",
        tried.join("; ")
    )))
}

/// Runs `gcloud`. Its crate waits for the process on the thread that it was called on.
async fn gcloud() -> Result<GCloudAuthorizedUser, Error> {
    let runtime = tokio::runtime::Handle::current();
    let found = tokio::task::spawn_blocking(move || runtime.block_on(GCloudAuthorizedUser::new()));
    found
        .await
        .unwrap_or(Err(Error::Str("running it broke off")))
}

async fn within<T>(way: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(LONGEST, way).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn refused(reason: String) -> CollectError {
    CollectError::Credentials { reason }
}

/// Returns what went wrong without any text of a file or an answer: a parser quotes what it could
/// not read, and here that is a key.
fn explain(error: &Error) -> String {
    match error {
        Error::NoAuthMethod(..) => "no credentials were found".to_owned(),
        Error::Http(what, cause) => format!("{what}: {cause}"),
        Error::Io(what, cause) => format!("{what}: {cause}"),
        Error::Json(what, cause) => {
            format!("{what} (line {}, column {})", cause.line(), cause.column())
        }
        Error::Other(what, cause) => {
            let mut text = format!("{what}: {cause}");
            let mut cause = cause.source();
            while let Some(inner) = cause {
                text.push_str(": ");
                text.push_str(&inner.to_string());
                cause = inner.source();
            }
            text
        }
        Error::Str(what) => (*what).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &str, want: &str) {
        let error = of_key(key).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn a_key_that_cannot_be_used_says_why_and_keeps_its_text() {
        check("\"canary\"", "not a service account's key");
        check("canary", "not a service account's key");
        check(
            r#"{"type": "external_account", "audience": "canary"}"#,
            "workload identity federation",
        );
        check(
            r#"{"type": "authorized_user", "refresh_token": "canary"}"#,
            "another type",
        );
        check(
            r#"{"type": "service_account", "private_key": "canary"}"#,
            "cannot be used",
        );
        check(
            r#"{"private_key": "canary", "client_email": "a@b", "token_uri": "https://t.example"}"#,
            "cannot be used",
        );
    }

    #[test]
    fn a_token_is_not_fetched_in_the_clear() {
        check(
            r#"{"private_key": "canary", "client_email": "a@b", "token_uri": "http://t.example/t"}"#,
            "not an https:// address",
        );
    }

    #[tokio::test]
    async fn a_key_file_that_cannot_be_read_is_named() {
        let error = Tokens::find(Credentials::KeyFile("/nonexistent/key.json".into())).await;
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "could not read /nonexistent/key.json");
    }
}
