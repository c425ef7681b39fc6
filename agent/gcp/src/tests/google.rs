//! A small Google: two projects, two buckets, one page for each asset.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use collect::Fact;
use gcp_auth::{Token, TokenProvider};
use http::{Request, Response};
use protocol::document::Document;
use serde_json::{Value, json};

use super::replay::{answer, gate, outline, sync};
use crate::token::Tokens;
use crate::*;

pub(super) const MOMENT: &str = "2026-01-02T03:04:05.678901Z";

/// A token that is always there.
struct Granted;

#[async_trait]
impl TokenProvider for Granted {
    async fn token(&self, _: &[&str]) -> Result<Arc<Token>, gcp_auth::Error> {
        let token = r#"{"access_token": "canary", "expires_in": 3600}"#;
        Ok(Arc::new(serde_json::from_str(token).unwrap()))
    }

    async fn project_id(&self) -> Result<Arc<str>, gcp_auth::Error> {
        Err(gcp_auth::Error::Str("none"))
    }
}

/// Returns a source that does not wait between attempts.
pub(super) fn source(base: &str, parent: Parent) -> Gcp {
    source_of(base, parent, 3)
}

/// Returns a source that makes this many attempts.
pub(super) fn source_of(base: &str, parent: Parent, attempts: u32) -> Gcp {
    let fast = NonZeroU32::new(1000).unwrap();
    let limits = Limits {
        attempts,
        attempt: Duration::from_secs(10),
        pause_first: Duration::from_millis(1),
        pause_longest: Duration::from_millis(2),
        ..Limits::default()
    };
    let http = Http::new(Budget::new(fast, fast, 2), limits).unwrap();
    let provider: Arc<dyn TokenProvider> = Arc::new(Granted);
    let endpoint = Endpoint::parse(base).unwrap();
    Gcp {
        assets: Assets::new(http, endpoint, Tokens::from(provider), parent.name()),
        parent,
    }
}

pub(super) fn organisation() -> Parent {
    Parent::Organization("9".to_owned())
}

/// One request for a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// `RESOURCE` or `IAM_POLICY`.
    pub(super) content: String,
    /// `Project` or `Bucket`.
    pub(super) kind: String,
    /// The page, from 0.
    pub(super) page: usize,
    pub(super) moment: Option<String>,
    pub(super) size: String,
}

impl Asked {
    fn of(request: &Request<Bytes>) -> Self {
        let query = request.uri().query().unwrap();
        let get = |name: &str| {
            let pair = query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key == name).then_some(value)
            });
            pair.map(|value| value.replace("%2F", "/").replace("%3A", ":"))
        };
        Self {
            content: get("contentType").unwrap(),
            kind: get("assetTypes")
                .unwrap()
                .rsplit_once('/')
                .unwrap()
                .1
                .to_owned(),
            page: get("pageToken").map_or(0, |token| token.parse().unwrap()),
            moment: get("readTime"),
            size: get("pageSize").unwrap(),
        }
    }

    /// `RESOURCE Bucket 1`.
    pub(super) fn text(&self) -> String {
        format!("{} {} {}", self.content, self.kind, self.page)
    }
}

/// The asset of a project, `p101` of number 101.
pub(super) fn project(number: u32) -> Value {
    json!({
        "name": format!("//cloudresourcemanager.googleapis.com/projects/{number}"),
        "assetType": "cloudresourcemanager.googleapis.com/Project",
        "ancestors": [format!("projects/{number}"), "organizations/9"],
        "resource": {"version": "v1", "data": {
            "projectId": format!("p{number}"), "projectNumber": number.to_string(),
            "name": format!("Project {number}"), "lifecycleState": "ACTIVE",
            "createTime": "2020-01-01T00:00:00Z", "labels": {"env": "prod"},
        }},
    })
}

/// The asset of a bucket.
pub(super) fn bucket(name: &str, number: u32) -> Value {
    json!({
        "name": format!("//storage.googleapis.com/{name}"),
        "assetType": "storage.googleapis.com/Bucket",
        "ancestors": [format!("projects/{number}"), "organizations/9"],
        "resource": {"version": "v1", "data": {
            "id": name, "name": name, "projectNumber": number, "location": "EU",
            "iamConfiguration": {"publicAccessPrevention": "inherited",
                "uniformBucketLevelAccess": {"enabled": true}},
        }},
    })
}

pub(super) fn policy(name: &str, kind: &str) -> Value {
    json!({
        "name": name, "assetType": kind,
        "iamPolicy": {"bindings": [{"role": "roles/viewer", "members": ["allUsers"]}], "etag": "x"},
    })
}

/// All pages of a list.
pub(super) fn pages(asked: &Asked) -> Vec<Value> {
    match (asked.content.as_str(), asked.kind.as_str()) {
        ("RESOURCE", "Project") => vec![project(101), project(102)],
        ("RESOURCE", "Bucket") => vec![bucket("logs", 101), bucket("data", 102)],
        ("IAM_POLICY", "Project") => vec![policy(
            "//cloudresourcemanager.googleapis.com/projects/101",
            "cloudresourcemanager.googleapis.com/Project",
        )],
        ("IAM_POLICY", "Bucket") => vec![policy(
            "//storage.googleapis.com/logs",
            "storage.googleapis.com/Bucket",
        )],
        other => panic!("{other:?}"),
    }
}

/// An answer with these assets and no page behind it.
pub(super) fn last_page(assets: &[Value]) -> Value {
    json!({"readTime": MOMENT, "assets": assets})
}

/// The page that Google would answer with.
pub(super) fn page(asked: &Asked) -> Value {
    let all = pages(asked);
    let mut page = last_page(&all[asked.page..=asked.page]);
    if asked.page + 1 < all.len() {
        page["nextPageToken"] = json!((asked.page + 1).to_string());
    }
    page
}

pub(super) fn refusal(status: u16, code: &str) -> Response<Bytes> {
    let error = json!({"code": status, "status": code, "message": "canary@example.com may not"});
    answer(status, &json!({"error": error}))
}

pub(super) type Change = dyn Fn(&Asked) -> Option<Response<Bytes>> + Send + Sync;

/// Starts Google; `change` answers in its place where it wants to. Returns the base URL and what
/// was asked.
pub(super) async fn google(change: Box<Change>) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let rule = move |request: &Request<Bytes>| {
        let asked = Asked::of(request);
        let host = request.uri().path().split('/').nth(1);
        assert_eq!(host, Some("cloudasset.googleapis.com"));
        assert_eq!(request.headers()["authorization"], "Bearer canary");
        log.lock().unwrap().push(asked.clone());
        let page = || answer(200, &page(&asked));
        Some(change(&asked).unwrap_or_else(page))
    };
    (gate("http://127.0.0.1:1", Box::new(rule)).await, seen)
}

/// What one sync of the organisation told.
pub(super) struct Told {
    pub(super) outline: Vec<String>,
    pub(super) documents: Vec<Document>,
    pub(super) summary: Summary,
}

impl Told {
    pub(super) fn document(&self, id: &str) -> &Document {
        self.documents
            .iter()
            .find(|document| document.id == id)
            .unwrap()
    }
}

/// Syncs the organisation once against a Google that `change` bends.
pub(super) async fn told(
    change: impl Fn(&Asked) -> Option<Response<Bytes>> + Send + Sync + 'static,
) -> Told {
    let (base, _) = google(Box::new(change)).await;
    told_of(&source(&base, organisation())).await
}

pub(super) async fn told_of(source: &Gcp) -> Told {
    let (summary, facts) = sync(source).await;
    Told {
        outline: outline(&facts),
        summary: summary.unwrap(),
        documents: facts
            .into_iter()
            .filter_map(|fact| match fact {
                Fact::Document(document) => Some(*document),
                Fact::Began { .. }
                | Fact::Ended { .. }
                | Fact::Failed { .. }
                | Fact::Events { .. } => None,
            })
            .collect(),
    }
}
