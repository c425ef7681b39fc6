//! Resource Graph and the reads of Resource Manager that stand beside it.
//!
//! Source: <https://learn.microsoft.com/azure/governance/resource-graph/concepts/work-with-data>
//! (paging), …/guidance-for-throttled-requests (quota headers, limit of subscriptions),
//! <https://learn.microsoft.com/azure/azure-resource-manager/management/request-limits-and-throttling>.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use collect::http::{Answer, Endpoint, Failure, FailureKind, Http, Limits, query};
use collect::{Budget, CollectError};
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::is_guid;
use crate::token::Tokens;

/// Resource Manager's host.
const HOST: &str = "management.azure.com";

/// The call of every query, as the declarations name it.
pub(crate) const CALL: &str = "resourcegraph:Resources";

/// The call that finds subscriptions.
pub const SUBSCRIPTIONS: &str = "subscription:Subscriptions_Get";

/// Queries a second, and at once after a pause: 15 in five seconds is what a user has.
const QUERIES: (NonZeroU32, NonZeroU32) = (
    NonZeroU32::new(2).expect("not zero"),
    NonZeroU32::new(5).expect("not zero"),
);

/// Other reads a second, and at once: far from the 25 and 250 that an identity has, which it may
/// share with other tools.
const READS: (NonZeroU32, NonZeroU32) = (
    NonZeroU32::new(10).expect("not zero"),
    NonZeroU32::new(20).expect("not zero"),
);

/// Rows in one answer; the most that may be asked for.
const ROWS: u32 = 1000;

/// Most pages of one query or list. A server that goes on for ever must not hold a sync for ever.
const PAGES_MOST: u32 = 10_000;

/// Longest pause that the quota headers are believed.
const QUOTA_PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// Longest code that is passed on, in characters.
const CODE_CHARS: usize = 100;

/// The two APIs as one source uses them.
#[derive(Debug)]
pub(crate) struct Graph {
    queries: Http,
    reads: Http,
    endpoint: Endpoint,
    tokens: Tokens,
    /// When the next query may be sent, if the last one used the quota up.
    refilled_at: Mutex<Option<Instant>>,
}

/// The rows of one page.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    total_records: u64,
    /// `"true"` and `"false"`, as text.
    result_truncated: Flag,
    #[serde(rename = "$skipToken")]
    skip_token: Option<String>,
    data: Vec<Map<String, Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Flag {
    #[serde(rename = "true")]
    True,
    #[serde(rename = "false")]
    False,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscriptions {
    value: Vec<Subscription>,
    next_link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    subscription_id: String,
}

impl Graph {
    pub(crate) fn new(endpoint: Endpoint, tokens: Tokens) -> Result<Self, CollectError> {
        let queries = Http::new(Budget::new(QUERIES.0, QUERIES.1, 2), Limits::default())?;
        let reads = Http::new(Budget::new(READS.0, READS.1, 4), Limits::default())?;
        Ok(Self::over(queries, reads, endpoint, tokens))
    }

    /// Makes the two APIs over a client for each.
    pub(crate) fn over(queries: Http, reads: Http, endpoint: Endpoint, tokens: Tokens) -> Self {
        Self {
            queries,
            reads,
            endpoint,
            tokens,
            refilled_at: Mutex::new(None),
        }
    }

    /// Returns how many requests were sent so far, retries included.
    pub(crate) fn attempts_made(&self) -> u64 {
        self.queries.attempts_made() + self.reads.attempts_made()
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Tries a query of one type with the smallest page.
    pub(crate) async fn probe(&self, kind: &str, subscriptions: &[String]) -> Result<(), Failure> {
        let mut body = json!({
            "query": format!("resources | where type =~ '{kind}' | project id"),
            "options": {"$top": 1, "resultFormat": "objectArray"},
        });
        if let Value::Object(map) = &mut body
            && !subscriptions.is_empty()
        {
            map.insert("subscriptions".to_owned(), json!(subscriptions));
        }
        self.page(&body).await.map(|_| ())
    }

    /// Tries to see each of these subscriptions; any at all where none is named.
    pub(crate) async fn probe_subscriptions(&self, ids: &[String]) -> Result<(), Failure> {
        if ids.is_empty() && self.subscriptions().await?.is_empty() {
            return Err(Failure::unusable(SUBSCRIPTIONS, "none_seen"));
        }
        for id in ids {
            self.subscription(id).await?;
        }
        Ok(())
    }

    /// Checks that the identity can see a subscription: Resource Graph has no answer for one that
    /// it cannot, and no row would look like no resource.
    pub(crate) async fn subscription(&self, id: &str) -> Result<(), Failure> {
        let path = format!("/subscriptions/{id}?{}", api_version("2022-12-01"));
        let answer = self.get(&self.endpoint.url(HOST, &path)).await?;
        let found: Result<Subscription, _> = serde_json::from_slice(&answer.body);
        match found {
            Ok(found) if found.subscription_id.eq_ignore_ascii_case(id) => Ok(()),
            Ok(_) | Err(_) => Err(Failure::unusable(SUBSCRIPTIONS, "unreadable")),
        }
    }

    /// Lists every subscription that the identity can see, in lower case.
    pub(crate) async fn subscriptions(&self) -> Result<BTreeSet<String>, Failure> {
        let unusable = |code: &str| Failure::unusable(SUBSCRIPTIONS, code);
        let mut found = BTreeSet::new();
        let path = format!("/subscriptions?{}", api_version("2022-12-01"));
        let mut next = Some(self.endpoint.url(HOST, &path));
        let mut pages = 0;
        while let Some(url) = next {
            let answer = self.get(&url).await?;
            let page: Subscriptions =
                serde_json::from_slice(&answer.body).map_err(|_| unusable("unreadable"))?;
            for subscription in page.value {
                let id = subscription.subscription_id.to_lowercase();
                if !is_guid(&id) {
                    return Err(unusable("unreadable"));
                }
                found.insert(id);
            }
            pages += 1;
            next = match page.next_link.filter(|link| !link.is_empty()) {
                None => None,
                Some(_) if pages >= PAGES_MOST => return Err(unusable("too_many")),
                Some(link) => Some(self.own(&link).ok_or_else(|| unusable("foreign_link"))?),
            };
            if next.as_ref() == Some(&url) {
                return Err(unusable("repeated_page"));
            }
        }
        Ok(found)
    }

    /// Returns a link of an answer as it is reached from here; `None` where it leads to another
    /// host, which must not see the token.
    fn own(&self, link: &str) -> Option<String> {
        let there = self.endpoint.url(HOST, "/");
        if link.starts_with(&there) {
            return Some(link.to_owned());
        }
        let path = link.strip_prefix(&Endpoint::default().url(HOST, "/"))?;
        Some(format!("{there}{path}"))
    }

    async fn get(&self, url: &str) -> Result<Answer, Failure> {
        let request = self.request(Request::get(url), SUBSCRIPTIONS).await?;
        let request = request.body(Bytes::new());
        let request = request.map_err(|_| Failure::unusable(SUBSCRIPTIONS, "bad_url"))?;
        self.reads.call(SUBSCRIPTIONS, &request, error_code).await
    }

    async fn page(&self, body: &Value) -> Result<Page, Failure> {
        let answer = self.send(body).await?;
        if answer.header("x-ms-tenant-subscription-limit-hit") == Some("true") {
            return Err(Failure::unusable(CALL, "truncated"));
        }
        serde_json::from_slice(&answer.body).map_err(|_| Failure::unusable(CALL, "unreadable"))
    }

    async fn send(&self, body: &Value) -> Result<Answer, Failure> {
        self.wait_for_quota().await;
        let path = "/providers/Microsoft.ResourceGraph/resources";
        let path = format!("{path}?{}", api_version("2022-10-01"));
        let url = self.endpoint.url(HOST, &path);
        let request = self.request(Request::post(url), CALL).await?;
        let request = request
            .body(Bytes::from(body.to_string()))
            .map_err(|_| Failure::unusable(CALL, "bad_url"))?;
        let answer = self.queries.call(CALL, &request, error_code).await?;
        self.note_quota(&answer);
        Ok(answer)
    }

    async fn request(
        &self,
        request: http::request::Builder,
        call: &str,
    ) -> Result<http::request::Builder, Failure> {
        let bearer = self.tokens.bearer().await.map_err(|error| {
            tracing::warn!(call, %error, "no token");
            Failure::unusable(call, "no_token")
        })?;
        Ok(request
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json"))
    }

    async fn wait_for_quota(&self) {
        let refilled_at = *self.quota();
        if let Some(at) = refilled_at {
            tokio::time::sleep_until(at).await;
        }
    }

    fn note_quota(&self, answer: &Answer) {
        let remaining = answer.header("x-ms-user-quota-remaining");
        let resets = answer
            .header("x-ms-user-quota-resets-after")
            .and_then(clock);
        let used_up = remaining.is_some_and(|left| left.trim() == "0");
        let pause = resets.filter(|_| used_up);
        *self.quota() = pause.map(|pause| Instant::now() + pause.min(QUOTA_PAUSE_LONGEST));
    }

    fn quota(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.refilled_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn api_version(version: &str) -> String {
    query(&[("api-version", version)])
}

/// Reads a span as the quota headers write it, `hh:mm:ss`.
fn clock(text: &str) -> Option<Duration> {
    let mut parts = text.trim().split(':');
    let mut part = |most: u64| {
        let number = parts.next()?.parse::<u64>().ok()?;
        (number <= most).then_some(number)
    };
    let (hours, minutes, seconds) = (part(99)?, part(59)?, part(59)?);
    let rest = parts.next();
    let span = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
    rest.is_none().then_some(span)
}

/// A query for the resources of one type.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    body: Map<String, Value>,
}

impl Query {
    /// Makes the query. `columns` are the row's fields beside id, name, place and tags. Names of
    /// resource groups have been checked: none of them can end the text that it stands in.
    pub(crate) fn of(
        kind: &str,
        columns: &[&str],
        subscriptions: &[String],
        resource_groups: &[String],
    ) -> Self {
        let mut text = format!("resources | where type =~ '{kind}'");
        if !resource_groups.is_empty() {
            let groups = resource_groups.iter().map(|name| format!("'{name}'"));
            let groups = groups.collect::<Vec<_>>().join(", ");
            text.push_str(&format!(" | where resourceGroup in~ ({groups})"));
        }
        let fixed = ["id", "name", "subscriptionId", "resourceGroup", "tags"];
        let more = columns.iter().filter(|column| !fixed.contains(column));
        let columns: Vec<&str> = fixed.iter().chain(more).copied().collect();
        // Pages of rows in no order may repeat one and leave out another.
        text.push_str(&format!(
            " | project {} | order by id asc",
            columns.join(", ")
        ));
        let mut body = Map::new();
        body.insert("query".to_owned(), Value::from(text));
        body.insert("subscriptions".to_owned(), json!(subscriptions));
        Self { body }
    }
}

/// Where a query stands.
#[derive(Debug)]
enum Next {
    First,
    /// Pages so far, and the token of the one after them.
    After(u32, String),
    Done,
}

/// The pages of one query.
#[derive(Debug)]
pub(crate) struct Pages<'a> {
    graph: &'a Graph,
    query: Query,
    next: Next,
    /// Rows that the last page says there are.
    total: u64,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(graph: &'a Graph, query: Query) -> Self {
        Self {
            graph,
            query,
            next: Next::First,
            total: 0,
        }
    }

    /// Returns how many rows the last page said there are in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the rows of the next page, `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Map<String, Value>>>, Failure> {
        let unusable = |code: &str| Failure::unusable(CALL, code);
        let (so_far, token) = match &self.next {
            Next::First => (0, None),
            Next::After(so_far, token) => (*so_far, Some(token.as_str())),
            Next::Done => return Ok(None),
        };
        let mut options = json!({"$top": ROWS, "resultFormat": "objectArray"});
        if let (Value::Object(options), Some(token)) = (&mut options, token) {
            options.insert("$skipToken".to_owned(), Value::from(token));
        }
        let mut body = self.query.body.clone();
        body.insert("options".to_owned(), options);
        let page = self.graph.page(&Value::Object(body)).await?;
        let next = match page.skip_token.filter(|token| !token.is_empty()) {
            // More rows than were sent, and no way to ask for them.
            None if page.result_truncated == Flag::True => return Err(unusable("truncated")),
            None => Next::Done,
            Some(again) if Some(again.as_str()) == token => {
                return Err(unusable("repeated_page"));
            }
            Some(_) if so_far + 1 >= PAGES_MOST => return Err(unusable("too_many")),
            Some(token) => Next::After(so_far + 1, token),
        };
        self.next = next;
        self.total = page.total_records;
        Ok(Some(page.data))
    }
}

/// Returns the error of a whole sync where a failure leaves no hope for any other call.
pub(crate) fn fatal(failure: &Failure, endpoint: &Endpoint) -> Option<CollectError> {
    match &failure.kind {
        FailureKind::Status(401) => Some(CollectError::Credentials {
            reason: format!("Azure refused the token ({})", failure.fault.code),
        }),
        FailureKind::Transport(reason) => Some(CollectError::Unreachable {
            endpoint: endpoint.base().unwrap_or(HOST).to_owned(),
            reason: reason.clone(),
        }),
        FailureKind::Status(_) | FailureKind::Unusable => None,
    }
}

/// Finds the code of a refusal, `AuthorizationFailed`: codes leave this host, messages do not.
fn error_code(answer: &Answer) -> Option<String> {
    let body = answer.json()?;
    let code = body.get("error")?.get("code")?.as_str()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let is_code = !code.is_empty() && code.len() <= CODE_CHARS && code.bytes().all(allowed);
    is_code.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_of_a_quota_is_read_or_nothing_is() {
        let seconds = |text| clock(text).map(|span| span.as_secs());
        assert_eq!(seconds("00:00:05"), Some(5));
        assert_eq!(seconds("01:02:03"), Some(3723));
        for bad in [
            "",
            "5",
            "00:05",
            "00:00:05.1",
            "00:00:61",
            "1:2:3:4",
            "-1:00:00",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_query_names_type_groups_columns_and_an_order() {
        let subscriptions = ["1b2c3d4e-0000-0000-0000-000000000000".to_owned()];
        let groups = ["rg1".to_owned(), "rg(2)".to_owned()];
        let columns = ["location", "properties", "resourceGroup"];
        let query = Query::of("microsoft.x/ys", &columns, &subscriptions, &groups);
        let body = Value::Object(query.body);
        let text = "resources | where type =~ 'microsoft.x/ys' | where resourceGroup in~ \
                    ('rg1', 'rg(2)') | project id, name, subscriptionId, resourceGroup, tags, \
                    location, properties | order by id asc";
        assert_eq!(body, json!({"query": text, "subscriptions": subscriptions}));
        let query = Query::of("microsoft.x/ys", &[], &subscriptions, &[]);
        let text = "resources | where type =~ 'microsoft.x/ys' | project id, name, \
                    subscriptionId, resourceGroup, tags | order by id asc";
        assert_eq!(query.body.get("query"), Some(&json!(text)));
    }
}
