//! Every request of every client goes through here: it waits for its turn in the service's
//! budget, is counted, has a deadline, and its answer is read whole or not at all.
//!
//! The SDK retries above this layer, so that a retry takes a turn and is counted as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_smithy_async::rt::sleep::SharedAsyncSleep;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{
    RuntimeComponents, RuntimeComponentsBuilder,
};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use collect::Budget;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

/// Longest time for one attempt, from the moment it may start to the last byte of its answer.
/// The slowest call, `iam:GetAccountAuthorizationDetails`, answers a page within seconds.
const ATTEMPT: Duration = Duration::from_secs(60);

/// Largest answer that is read, in bytes. A page of a thousand instances is below 10 MiB.
const ANSWER_BYTES: usize = 32 << 20;

/// Longest time for a connection to be made.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// Most idle connections that are kept to one host.
const IDLE_CONNECTIONS: usize = 16;

/// An answer of which only a part arrived.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not whole")]
pub(crate) struct Truncated;

/// An answer beyond [`ANSWER_BYTES`].
#[derive(Debug, thiserror::Error)]
#[error("the answer is larger than {ANSWER_BYTES} bytes")]
pub(crate) struct TooLarge;

/// A web page with status 500 in an answer's place: no service of AWS answers so, but a program in
/// its place does that does not know the operation. Asking again would get the same page.
#[derive(Debug, thiserror::Error)]
#[error("a web page of status 500")]
pub(crate) struct ErrorPage;

/// Makes the HTTPS client that all clients share: ring, the system's roots, and the proxy that
/// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name.
pub(crate) fn https() -> SharedHttpClient {
    Builder::new().build_with_connector_fn(|settings, components| {
        let sleep = components.and_then(RuntimeComponents::sleep_impl);
        connector(settings.cloned().unwrap_or_else(timeouts), sleep)
    })
}

fn timeouts() -> HttpConnectorSettings {
    HttpConnectorSettings::builder()
        .connect_timeout(CONNECT)
        .build()
}

fn connector(settings: HttpConnectorSettings, sleep: Option<SharedAsyncSleep>) -> Connector {
    let mut connector = Connector::builder()
        .proxy_config(ProxyConfig::from_env())
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .connector_settings(settings);
    if sleep.is_some() {
        connector.set_sleep_impl(sleep);
    }
    connector
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build()
}

/// An HTTP client within a budget.
#[derive(Debug, Clone)]
pub(crate) struct Metered {
    inner: SharedHttpClient,
    budget: Budget,
    calls: Arc<AtomicU64>,
    drop_prefix: Option<String>,
}

impl Metered {
    /// Wraps a client; `calls` counts attempts.
    pub(crate) fn new(inner: SharedHttpClient, budget: Budget, calls: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            budget,
            calls,
            drop_prefix: None,
        }
    }

    /// Returns a connector for requests that no SDK client sends.
    pub(crate) fn connector(self) -> impl HttpConnector {
        MeteredConnector {
            inner: SharedHttpConnector::new(connector(timeouts(), None)),
            client: self,
        }
    }

    /// Removes `prefix` from the host of requests. S3 Control puts the account number in front
    /// of any host, which an address such as 127.0.0.1 does not survive.
    pub(crate) fn without_host_prefix(mut self, prefix: String) -> Self {
        self.drop_prefix = Some(prefix);
        self
    }
}

impl HttpClient for Metered {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(MeteredConnector {
            inner: self.inner.http_connector(settings, components),
            client: self.clone(),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, config)
    }
}

#[derive(Debug, Clone)]
struct MeteredConnector {
    inner: SharedHttpConnector,
    client: Metered,
}

impl HttpConnector for MeteredConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let this = self.clone();
        HttpConnectorFuture::new(async move {
            let _turn = this.client.budget.turn().await;
            this.client.calls.fetch_add(1, Ordering::Relaxed);
            match tokio::time::timeout(ATTEMPT, this.fetch(request)).await {
                Ok(answer) => answer,
                Err(elapsed) => Err(ConnectorError::timeout(elapsed.into())),
            }
        })
    }
}

impl MeteredConnector {
    async fn fetch(&self, mut request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        if let Some(prefix) = &self.client.drop_prefix {
            let bare = request.uri().replacen(&format!("://{prefix}"), "://", 1);
            request
                .set_uri(bare)
                .map_err(|error| ConnectorError::user(error.into()))?;
        }
        let mut response = self.inner.call(request).await?;
        let body = std::mem::replace(response.body_mut(), SdkBody::taken());
        let bytes = match Limited::new(body, ANSWER_BYTES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(ConnectorError::user(Box::new(TooLarge)));
            }
            // The connection ended inside the body.
            Err(_) => return Err(ConnectorError::io(Box::new(Truncated))),
        };
        if response.status().as_u16() == 500 && is_web_page(&bytes) {
            return Err(ConnectorError::other(Box::new(ErrorPage), None));
        }
        if response.status().is_success() && !is_whole(&bytes) {
            return Err(match bytes.trim_ascii().is_empty() {
                // Nobody meant to send anything, so that asking again is of no use.
                true => ConnectorError::other(Box::new(Truncated), None),
                false => ConnectorError::io(Box::new(Truncated)),
            });
        }
        let bytes = renamed(&bytes).map_or(bytes, Bytes::from);
        // The SDK compares the two.
        let length = bytes.len().to_string();
        response.headers_mut().insert("content-length", length);
        *response.body_mut() = SdkBody::from(bytes);
        Ok(response)
    }
}

/// Whether an answer is whole as far as its end shows. The SDK's XML reader takes a document that
/// breaks off between two elements for a shorter list, and an empty body for an empty answer;
/// either would turn unread facts into absent ones. No call of this crate answers without a body.
fn is_whole(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    if body.first() != Some(&b'<') {
        return !body.is_empty();
    }
    let Some(root) = root_of(body) else {
        return false;
    };
    let closing = [b"</", root, b">"].concat();
    let closed_at_once = || {
        let tags = body.iter().filter(|byte| **byte == b'<').count();
        let prolog = usize::from(body.starts_with(b"<?"));
        body.ends_with(b"/>") && tags == 1 + prolog
    };
    body.ends_with(&closing) || closed_at_once()
}

/// Whether a body is HTML, as far as its beginning shows.
fn is_web_page(body: &[u8]) -> bool {
    let start = body.trim_ascii_start().iter().take(14);
    let start: Vec<u8> = start.map(u8::to_ascii_lowercase).collect();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

/// Root elements that emulators name after the operation, and what S3 names them. The SDK refuses
/// any other name; boto3 does not look. Source: what moto 5.2.5 answers, and the response syntax of
/// GetBucketVersioning, GetBucketNotificationConfiguration and of the access point calls.
const RENAMED_ROOTS: &[(&str, &str)] = &[
    ("GetBucketVersioningResponse", "VersioningConfiguration"),
    ("GetBucketNotificationResponse", "NotificationConfiguration"),
    (
        "GetBucketNotificationConfigurationResponse",
        "NotificationConfiguration",
    ),
    ("ListAccessPointsResponse", "ListAccessPointsResult"),
    ("GetAccessPointResponse", "GetAccessPointResult"),
    ("GetAccessPointPolicyResponse", "GetAccessPointPolicyResult"),
];

/// Returns an answer with S3's own name of its root element, where it has another.
fn renamed(body: &[u8]) -> Option<String> {
    let root = root_of(body.trim_ascii())?;
    let (found, name) = RENAMED_ROOTS
        .iter()
        .find(|(found, _)| found.as_bytes() == root)?;
    let text = std::str::from_utf8(body).ok()?;
    Some(text.replace(found, name))
}

/// Returns the name of the first element, behind the XML declaration and comments.
fn root_of(mut body: &[u8]) -> Option<&[u8]> {
    while body.starts_with(b"<?") || body.starts_with(b"<!") {
        let end = body.iter().position(|byte| *byte == b'>')?;
        body = body.get(end + 1..)?.trim_ascii_start();
    }
    let name = body.strip_prefix(b"<")?;
    let end = name
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || matches!(byte, b'>' | b'/'))?;
    name.get(..end).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::{is_web_page, is_whole, renamed};

    #[test]
    fn a_web_page_is_told_from_an_answer() {
        for page in [
            "<!DOCTYPE html>\n<html>",
            " \n<html lang=en>",
            "<!doctype HTML PUBLIC",
        ] {
            assert!(is_web_page(page.as_bytes()), "{page}");
        }
        for answer in [
            "<?xml version=\"1.0\"?><Error/>",
            "<Response/>",
            "{}",
            "",
            "<!doctype",
        ] {
            assert!(!is_web_page(answer.as_bytes()), "{answer}");
        }
    }

    #[test]
    fn only_the_root_elements_of_emulators_are_renamed() {
        let check = |from: &str, to: Option<&str>| {
            assert_eq!(renamed(from.as_bytes()).as_deref(), to);
        };
        check(
            "<?xml version=\"1.0\"?>\n<GetBucketVersioningResponse a=\"b\"><Status/></GetBucketVersioningResponse>",
            Some(
                "<?xml version=\"1.0\"?>\n<VersioningConfiguration a=\"b\"><Status/></VersioningConfiguration>",
            ),
        );
        check(
            "<GetBucketNotificationResponse/>",
            Some("<NotificationConfiguration/>"),
        );
        check("<VersioningConfiguration/>", None);
        check("<A>GetBucketVersioningResponse</A>", None);
        check("{}", None);
    }

    #[test]
    fn an_answer_that_breaks_off_is_not_whole() {
        for whole in [
            "<A><b/></A>",
            "<?xml version=\"1.0\"?>\n<A xmlns=\"x\">\n</A>\n",
            "<?xml version=\"1.0\"?><A/>",
            "<A xmlns=\"x\" />",
            "{\"Version\":1}",
        ] {
            assert!(is_whole(whole.as_bytes()), "{whole}");
        }
        for cut in [
            "",
            " \n",
            "<?xml version=\"1.0\"?>",
            "<A><b></b>",
            "<A><b/>",
            "<A><item>x</item",
            "<A",
            "<?xml version=\"1.0\"?><A><c/>",
        ] {
            assert!(!is_whole(cut.as_bytes()), "{cut}");
        }
    }
}
