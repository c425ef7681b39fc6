//! Signed calls of REST-JSON services that need no SDK crate: the SDK's credentials, signature
//! and HTTP client around a path and a JSON body.
//!
//! The seed of the caller that the long tail of services goes through: a service is a row, an
//! operation a path.

use std::time::{Duration, SystemTime};

use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::HttpConnector as _;
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use serde_json::Value;

use crate::clients::{Clients, Service};
use crate::fault::{is_code, reason_in};

/// Attempts of one call.
const ATTEMPTS: u32 = 3;

/// Pause before the second attempt; doubles.
const PAUSE: Duration = Duration::from_millis(500);

/// One REST-JSON service.
pub(crate) struct RestJson {
    service: Service,
    /// Name in the signature and in the host.
    name: &'static str,
    /// Region of its only endpoint in each partition, with the domain.
    /// Source: botocore 1.44.5, `endpoints.json`, service `account`, read 2026-11.
    homes: &'static [(&'static str, &'static str, &'static str)],
}

/// AWS Account Management.
pub(crate) const ACCOUNT: RestJson = RestJson {
    service: Service::Account,
    name: "account",
    homes: &[
        ("aws", "us-east-1", "amazonaws.com"),
        ("aws-cn", "cn-northwest-1", "amazonaws.com.cn"),
    ],
};

/// An answer that is worth another attempt, or is final.
enum Refused {
    Later(String),
    Now(String),
}

impl RestJson {
    /// Posts `body` and returns the answer.
    ///
    /// # Errors
    ///
    /// The provider's code, or our own lower-case reason.
    pub(crate) async fn post(
        &self,
        clients: &Clients,
        partition: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let home = self.homes.iter().find(|(name, _, _)| *name == partition);
        let (_, region, domain) = home.ok_or("no endpoint in this partition")?;
        let base = match clients.config.endpoint_url() {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://{}.{region}.{domain}", self.name),
        };
        let uri = format!("{base}{path}");
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            match self.once(clients, region, &uri, body).await {
                Ok(answer) => return Ok(answer),
                Err(Refused::Later(_)) if attempt < ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    attempt += 1;
                }
                Err(Refused::Later(code) | Refused::Now(code)) => return Err(code),
            }
        }
    }

    async fn once(
        &self,
        clients: &Clients,
        region: &str,
        uri: &str,
        body: &Value,
    ) -> Result<Value, Refused> {
        let request = self.signed(clients, region, uri, body).await?;
        let client = clients.metered(self.service, region).connector();
        let answer = client.call(request).await.map_err(|error| {
            if error.is_timeout() {
                return Refused::Later("timeout".to_owned());
            }
            let reason = reason_in(&error, "dispatch failure");
            match error.is_io() {
                true => Refused::Later(reason),
                false => Refused::Now(reason),
            }
        })?;
        read(&answer)
    }

    async fn signed(
        &self,
        clients: &Clients,
        region: &str,
        uri: &str,
        body: &Value,
    ) -> Result<HttpRequest, Refused> {
        let provider = clients.config.credentials_provider();
        let provider = provider.ok_or_else(|| Refused::Now("no credentials".to_owned()))?;
        let credentials = provider.provide_credentials().await;
        let credentials = credentials.map_err(|_| Refused::Later("no credentials".to_owned()))?;
        let not_sent = || Refused::Now("not sent".to_owned());
        let body = body.to_string();
        let identity: Identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(self.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|_| not_sent())?
            .into();
        let headers = [("content-type", "application/json")];
        let content = SignableBody::Bytes(body.as_bytes());
        let signable = SignableRequest::new("POST", uri, headers.into_iter(), content)
            .map_err(|_| not_sent())?;
        let (instructions, _) = sign(signable, &parameters)
            .map_err(|_| not_sent())?
            .into_parts();
        let mut request = http::Request::post(uri)
            .header("content-type", "application/json")
            .body(SdkBody::from(body))
            .map_err(|_| not_sent())?;
        instructions.apply_to_request_http1x(&mut request);
        HttpRequest::try_from(request).map_err(|_| not_sent())
    }
}

/// Reads an answer: its JSON, or the code of its refusal.
fn read(answer: &HttpResponse) -> Result<Value, Refused> {
    let status = answer.status();
    let body = answer.body().bytes().unwrap_or_default();
    let json: Option<Value> = serde_json::from_slice(body).ok();
    if status.is_success() {
        return json.ok_or_else(|| Refused::Now("unreadable answer".to_owned()));
    }
    let in_body = |name| {
        let json = json.as_ref()?;
        json.get(name)?.as_str()
    };
    let named = answer
        .headers()
        .get("x-amzn-errortype")
        .or(in_body("__type"))
        .or(in_body("code"));
    let code = named.map(bare_code).filter(|code| is_code(code));
    let code = code.map_or_else(|| format!("http status {}", status.as_u16()), str::to_owned);
    let passing = matches!(status.as_u16(), 500 | 502 | 503 | 504);
    let later = passing || code.contains("Throttl") || code.starts_with("TooMany");
    Err(match later {
        true => Refused::Later(code),
        false => Refused::Now(code),
    })
}

/// Returns an error code without its name space and without what follows a colon.
///
/// Source: AWS SDK for Go v2, package restjson, `SanitizeErrorCode`, read 2026-11.
fn bare_code(code: &str) -> &str {
    let code = code.split(':').next().unwrap_or_default();
    code.rsplit('#').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::bare_code;

    #[test]
    fn an_error_code_is_bared_of_name_space_and_link() {
        for written in [
            "ResourceNotFoundException",
            "ResourceNotFoundException:http://internal.amazon.com/coral/",
            "aws.account#ResourceNotFoundException",
        ] {
            assert_eq!(bare_code(written), "ResourceNotFoundException");
        }
    }
}
