//! A small Azure: two subscriptions, a storage account and a network security group in each, one
//! page for each row.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use collect::http::{Http, Limits};
use collect::{Budget, Fact};
use http::{Method, Request, Response};
use protocol::document::Document;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::replay::{answer, gate, outline, sync};
use crate::*;

pub(super) const ONE: &str = "11111111-0000-0000-0000-000000000001";
pub(super) const TWO: &str = "22222222-0000-0000-0000-000000000002";
pub(super) const APPLICATION: &str = "aaaaaaaa-0000-0000-0000-00000000000a";

pub(super) fn settings(base: &str, subscriptions: &[&str]) -> Settings {
    Settings {
        tenant: Some("contoso.example".to_owned()),
        client_id: Some(APPLICATION.to_owned()),
        subscriptions: subscriptions.iter().map(|id| (*id).to_owned()).collect(),
        resource_groups: Vec::new(),
        endpoint: Some(base.to_owned()),
    }
}

/// Returns a source that does not wait between attempts.
pub(super) async fn source(settings: Settings, attempts: u32) -> Azure {
    let settings = settings.checked().unwrap();
    let endpoint = Endpoint::parse(settings.endpoint.as_ref().unwrap()).unwrap();
    let secret = Some(SecretString::from("canary-secret"));
    let tokens = Tokens::find(&settings, secret, &endpoint).await.unwrap();
    let client = || {
        let fast = NonZeroU32::new(1000).unwrap();
        let limits = Limits {
            attempts,
            attempt: Duration::from_secs(10),
            pause_first: Duration::from_millis(1),
            pause_longest: Duration::from_millis(2),
            ..Limits::default()
        };
        Http::new(Budget::new(fast, fast, 2), limits).unwrap()
    };
    let graph = Graph::over(client(), client(), endpoint, tokens);
    Azure { graph, settings }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    Token,
    /// All subscriptions; the page, from 0.
    Subscriptions(usize),
    Subscription(String),
    Query(Query),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Query {
    pub(super) kind: String,
    pub(super) subscriptions: Vec<String>,
    /// The page, from 0.
    pub(super) page: usize,
    pub(super) top: u64,
    pub(super) text: String,
}

impl Asked {
    fn of(request: &Request<Bytes>) -> Self {
        let path = request.uri().path();
        if path == "/contoso.example/oauth2/v2.0/token" {
            return Self::Token;
        }
        assert_eq!(request.headers()["authorization"], "Bearer canary-token");
        let path = path.strip_prefix("/management.azure.com").unwrap();
        let query = request.uri().query().unwrap();
        assert!(query.contains("api-version="), "{query}");
        if path == "/providers/Microsoft.ResourceGraph/resources" {
            assert_eq!(request.method(), Method::POST);
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            let text = body["query"].as_str().unwrap().to_owned();
            let subscriptions = body["subscriptions"].as_array().cloned();
            let page = body["options"]["$skipToken"].as_str();
            return Self::Query(Query {
                kind: text.split('\'').nth(1).unwrap().to_owned(),
                subscriptions: subscriptions
                    .unwrap_or_default()
                    .iter()
                    .map(|id| id.as_str().unwrap().to_owned())
                    .collect(),
                page: page.map_or(0, |token| token.parse().unwrap()),
                top: body["options"]["$top"].as_u64().unwrap(),
                text,
            });
        }
        assert_eq!(request.method(), Method::GET);
        match path.strip_prefix("/subscriptions/") {
            Some(id) => Self::Subscription(id.to_owned()),
            None => {
                assert_eq!(path, "/subscriptions");
                let page = query.split('&').find_map(|pair| pair.strip_prefix("page="));
                Self::Subscriptions(page.map_or(0, |page| page.parse().unwrap()))
            }
        }
    }
}

/// A row of a type in a subscription's group `rg`.
pub(super) fn row(kind: &str, subscription: &str, name: &str) -> Value {
    let (provider, properties) = match kind {
        "microsoft.storage/storageaccounts" => (
            "Microsoft.Storage/storageAccounts",
            json!({"supportsHttpsTrafficOnly": true, "primaryLocation": "not declared"}),
        ),
        "microsoft.network/networksecuritygroups" => (
            "Microsoft.Network/networkSecurityGroups",
            json!({"securityRules": []}),
        ),
        other => panic!("{other}"),
    };
    json!({
        "id": format!("/subscriptions/{subscription}/resourceGroups/RG/providers/{provider}/{name}"),
        "name": name, "subscriptionId": subscription, "resourceGroup": "rg",
        "tags": {"env": "prod"}, "location": "westeurope", "kind": "StorageV2",
        "sku": {"name": "Standard_LRS", "tier": "Standard"}, "properties": properties,
    })
}

/// All rows of a query, in the order of subscriptions.
pub(super) fn rows(query: &Query) -> Vec<Value> {
    let rows = query.subscriptions.iter().enumerate();
    rows.map(|(index, id)| row(&query.kind, id, &format!("Thing{index}")))
        .collect()
}

/// An answer with these rows and no page behind it.
pub(super) fn last_page(rows: &[Value]) -> Value {
    json!({
        "totalRecords": rows.len(), "count": rows.len(), "data": rows, "facets": [],
        "resultTruncated": "false",
    })
}

/// The page that Resource Graph would answer with.
pub(super) fn page(query: &Query) -> Value {
    let all = rows(query);
    let here = all.get(query.page).cloned();
    let mut page = last_page(here.as_slice());
    page["totalRecords"] = json!(all.len());
    if query.page + 1 < all.len() {
        page["$skipToken"] = json!((query.page + 1).to_string());
        page["resultTruncated"] = json!("true");
    }
    page
}

pub(super) fn refusal(status: u16, code: &str) -> Response<Bytes> {
    let error = json!({"code": code, "message": "canary@example.com may not"});
    answer(status, &json!({"error": error}))
}

fn usual(asked: &Asked) -> Response<Bytes> {
    let subscription = |id: &str| json!({"subscriptionId": id, "state": "Enabled"});
    match asked {
        Asked::Token => answer(
            200,
            &json!({"access_token": "canary-token", "expires_in": 3599, "token_type": "Bearer"}),
        ),
        Asked::Subscriptions(0) => answer(
            200,
            &json!({"value": [subscription(ONE)],
                "nextLink": "https://management.azure.com/subscriptions?api-version=2022-12-01&page=1"}),
        ),
        Asked::Subscriptions(_) => answer(200, &json!({"value": [subscription(TWO)]})),
        Asked::Subscription(id) => answer(200, &subscription(id)),
        Asked::Query(query) => answer(200, &page(query)),
    }
}

pub(super) type Log = Arc<Mutex<Vec<Asked>>>;

/// Starts Azure; `change` answers in its place where it wants to. Returns the base URL and what
/// was asked.
pub(super) async fn azure(
    change: impl Fn(&Asked) -> Option<Response<Bytes>> + Send + Sync + 'static,
) -> (String, Log) {
    let seen = Log::default();
    let log = Arc::clone(&seen);
    let rule = move |request: &Request<Bytes>| {
        let asked = Asked::of(request);
        log.lock().unwrap().push(asked.clone());
        Some(change(&asked).unwrap_or_else(|| usual(&asked)))
    };
    (gate("http://127.0.0.1:1", Box::new(rule)).await, seen)
}

/// What one sync told.
pub(super) struct Told {
    pub(super) outline: Vec<String>,
    pub(super) documents: Vec<Document>,
    pub(super) summary: Summary,
}

impl Told {
    pub(super) fn document(&self, urn: &str) -> &Document {
        self.documents
            .iter()
            .find(|document| document.urn.to_string() == urn)
            .unwrap_or_else(|| panic!("{urn}: {:?}", self.outline))
    }

    /// Returns the lines that close a scope.
    pub(super) fn closed(&self) -> Vec<String> {
        let closed = |line: &&String| line.starts_with("ended") || line.starts_with("failed");
        self.outline.iter().filter(closed).cloned().collect()
    }
}

/// Syncs the two subscriptions once against an Azure that `change` bends.
pub(super) async fn told(
    change: impl Fn(&Asked) -> Option<Response<Bytes>> + Send + Sync + 'static,
) -> Told {
    let (base, _) = azure(change).await;
    told_of(&source(settings(&base, &[ONE, TWO]), 3).await).await
}

pub(super) async fn told_of(source: &Azure) -> Told {
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
