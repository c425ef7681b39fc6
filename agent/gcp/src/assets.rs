//! `assets.list` of Cloud Asset Inventory: one page, all pages, and what its refusals say.
//!
//! Source: <https://cloud.google.com/asset-inventory/docs/listing-assets> (permissions),
//! <https://cloud.google.com/php/docs/reference/cloud-asset/1.16.1/V1.ListAssetsRequest> (fields).

use bytes::Bytes;
use collect::CollectError;
use collect::http::{Answer, Endpoint, Failure, FailureKind, Http, query};
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::token::Tokens;

/// The API's host.
const HOST: &str = "cloudasset.googleapis.com";

/// Assets in one answer; at most 1,000 may be asked for. A bucket with its settings has about
/// 2 KiB, a policy up to a quarter of a megabyte, so that half of it stays far from the limit of a
/// body.
const PAGE: &str = "500";

/// Most pages of one list: five million assets. A server that goes on for ever must not hold a
/// sync for ever.
const PAGES_MOST: u32 = 10_000;

/// Longest code that is passed on, in characters.
/// Source: https://cloud.google.com/bigquery/docs/reference/migration/rpc/google.rpc (`ErrorInfo`)
const CODE_CHARS: usize = 63;

/// What a list says of each asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Its settings.
    Resource,
    /// The IAM policy that is set on it; assets without one are not listed.
    IamPolicy,
}

impl Content {
    fn parameter(self) -> &'static str {
        match self {
            Self::Resource => "RESOURCE",
            Self::IamPolicy => "IAM_POLICY",
        }
    }

    /// Returns the call as the declarations name it.
    pub(crate) fn call(self) -> &'static str {
        match self {
            Self::Resource => "cloudasset:assets.list:RESOURCE",
            Self::IamPolicy => "cloudasset:assets.list:IAM_POLICY",
        }
    }

    /// Returns the permission that the call needs.
    pub(crate) fn permission(self) -> &'static str {
        match self {
            Self::Resource => "cloudasset.assets.listResource",
            Self::IamPolicy => "cloudasset.assets.listIamPolicy",
        }
    }
}

/// One asset, as far as this crate reads it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asset {
    /// Full resource name, `//storage.googleapis.com/logs`.
    pub(crate) name: String,
    pub(crate) asset_type: String,
    /// The resource's project, its folders and its organisation, nearest first.
    pub(crate) ancestors: Option<Vec<String>>,
    pub(crate) resource: Option<Resource>,
    pub(crate) iam_policy: Option<Value>,
}

/// The settings of an asset.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Resource {
    /// Full resource name of the parent.
    pub(crate) parent: Option<String>,
    /// The resource as its own API shows it.
    pub(crate) data: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    assets: Option<Vec<Asset>>,
    next_page_token: Option<String>,
    /// Always there: an answer without it is not one of this API, and an empty object must not
    /// read as an empty list.
    read_time: Timestamp,
}

/// The API as one source uses it.
#[derive(Debug)]
pub(crate) struct Assets {
    http: Http,
    endpoint: Endpoint,
    tokens: Tokens,
    parent: String,
}

impl Assets {
    pub(crate) fn new(http: Http, endpoint: Endpoint, tokens: Tokens, parent: String) -> Self {
        Self {
            http,
            endpoint,
            tokens,
            parent,
        }
    }

    /// Returns how many requests were sent so far, retries included.
    pub(crate) fn attempts_made(&self) -> u64 {
        self.http.attempts_made()
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Tries a list with the smallest page.
    pub(crate) async fn probe(&self, content: Content) -> Result<(), Failure> {
        let parameters = [
            ("contentType", content.parameter()),
            ("assetTypes", "cloudresourcemanager.googleapis.com/Project"),
            ("pageSize", "1"),
        ];
        self.page(content, &parameters).await.map(|_| ())
    }

    async fn page(&self, content: Content, parameters: &[(&str, &str)]) -> Result<Page, Failure> {
        let call = content.call();
        let bearer = self.tokens.bearer().await.map_err(|error| {
            tracing::warn!(call, %error, "no token");
            Failure::unusable(call, "no_token")
        })?;
        let path = format!("/v1/{}/assets?{}", self.parent, query(parameters));
        let mut request = Request::get(self.endpoint.url(HOST, &path))
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, bearer);
        if let Some(project) = self.tokens.quota_project() {
            request = request.header("x-goog-user-project", project);
        }
        let request = request.body(Bytes::new());
        let request = request.map_err(|_| Failure::unusable(call, "bad_url"))?;
        let answer = self.http.call(call, &request, error_code).await?;
        serde_json::from_slice(&answer.body).map_err(|_| Failure::unusable(call, "unreadable"))
    }
}

/// Where a list stands.
#[derive(Debug)]
enum Next {
    First,
    /// Pages so far, and the token of the one after them.
    After(u32, String),
    Done,
}

/// The pages of one list.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    assets: &'a Assets,
    content: Content,
    asset_type: &'static str,
    /// The moment to list; now, where none is given.
    asked: Option<Timestamp>,
    /// The moment that the first answer is of.
    listed: Option<Timestamp>,
    next: Next,
}

impl<'a> Pages<'a> {
    /// Starts a list of the assets of one type, as they were at `read_time`.
    pub(crate) fn new(
        assets: &'a Assets,
        content: Content,
        asset_type: &'static str,
        read_time: Option<Timestamp>,
    ) -> Self {
        Self {
            assets,
            content,
            asset_type,
            asked: read_time,
            listed: None,
            next: Next::First,
        }
    }

    /// Returns the moment that is listed, once a page has come.
    pub(crate) fn read_time(&self) -> Option<Timestamp> {
        self.listed
    }

    /// Returns the assets of the next page, `None` behind the last. Assets of other types, which a
    /// server that ignores the filter sends, are left out.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Asset>>, Failure> {
        let call = self.content.call();
        let (so_far, token) = match &self.next {
            Next::First => (0, None),
            Next::After(so_far, token) => (*so_far, Some(token.as_str())),
            Next::Done => return Ok(None),
        };
        let moment = self.asked.map(|moment| moment.to_string());
        let mut parameters = vec![
            ("contentType", self.content.parameter()),
            ("assetTypes", self.asset_type),
            ("pageSize", PAGE),
        ];
        // A token belongs to the request that it came from, so that these stay the same on all
        // pages of a list.
        if let Some(moment) = &moment {
            parameters.push(("readTime", moment));
        }
        if let Some(token) = token {
            parameters.push(("pageToken", token));
        }
        let page = self.assets.page(self.content, &parameters).await?;
        let next = match page.next_page_token.filter(|token| !token.is_empty()) {
            None => Next::Done,
            Some(again) if Some(again.as_str()) == token => {
                return Err(Failure::unusable(call, "repeated_page"));
            }
            Some(_) if so_far + 1 >= PAGES_MOST => {
                return Err(Failure::unusable(call, "too_many"));
            }
            Some(token) => Next::After(so_far + 1, token),
        };
        self.next = next;
        self.listed.get_or_insert(page.read_time);
        let mut assets = page.assets.unwrap_or_default();
        assets.retain(|asset| asset.asset_type == self.asset_type);
        Ok(Some(assets))
    }
}

/// Returns the error of a whole sync where a failure leaves no hope for any other call.
pub(crate) fn fatal(failure: &Failure, endpoint: &Endpoint) -> Option<CollectError> {
    match &failure.kind {
        FailureKind::Status(401) => Some(CollectError::Credentials {
            reason: format!("Google refused the token ({})", failure.fault.code),
        }),
        FailureKind::Transport(reason) => Some(CollectError::Unreachable {
            endpoint: endpoint.base().unwrap_or(HOST).to_owned(),
            reason: reason.clone(),
        }),
        FailureKind::Status(_) | FailureKind::Unusable => None,
    }
}

/// Finds the code of a refusal: the reason of an `ErrorInfo`, which is the more exact one
/// (`SERVICE_DISABLED`), else the status (`PERMISSION_DENIED`).
fn error_code(answer: &Answer) -> Option<String> {
    let body = answer.json()?;
    let error = body.get("error")?;
    let details = error.get("details").and_then(Value::as_array);
    let reasons = details.into_iter().flatten();
    let mut reasons = reasons.filter_map(|detail| detail.get("reason")?.as_str());
    let reason = reasons.find(|reason| is_plain(reason));
    let status = error.get("status").and_then(Value::as_str);
    let code = reason.or(status.filter(|status| is_plain(status)))?;
    Some(code.to_owned())
}

/// Whether a text is a code: codes leave this host, messages do not.
fn is_plain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    !text.is_empty() && text.len() <= CODE_CHARS && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};
    use serde_json::json;

    #[track_caller]
    fn check(body: &Value, want: Option<&str>) {
        let answer = Answer {
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_string()),
        };
        assert_eq!(error_code(&answer).as_deref(), want, "{body}");
    }

    #[test]
    fn a_code_is_the_reason_else_the_status_and_never_a_message() {
        let status = json!({"error": {"code": 403, "message": "m", "status": "PERMISSION_DENIED"}});
        check(&status, Some("PERMISSION_DENIED"));
        check(
            &json!({"error": {"status": "PERMISSION_DENIED", "details": [
                {"@type": "type.googleapis.com/google.rpc.Help"},
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"},
            ]}}),
            Some("SERVICE_DISABLED"),
        );
        check(
            &json!({"error": {"status": "user a@b.example may not", "details": "x"}}),
            None,
        );
        check(&json!({"error": "invalid_grant"}), None);
        check(&json!([]), None);
    }
}
