//! Health, and the description of the API by itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{StatusCode, header};
use protocol::ids::OrgId;
use serde_json::json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, RefOr};
use utoipa::{Modify, OpenApi};

use super::State;

/// Reads that may wait before the hub says that it is not ready.
const WAITING_READS: usize = 256;

/// An organisation that there is not: anybody may ask whether the hub is ready, so it looks for one
/// row and reads no list.
const NOBODYS: OrgId = OrgId::from_bytes([0; 16]);

/// What stands in the document beside the endpoints.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Zero-X hub",
        description = "Errors are RFC 9457 problem documents; lists take filter, sort, limit and \
            cursor. Another organisation's id and a missing id answer alike.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    modifiers(&Bearer),
    security(("bearer" = [])),
    components(schemas(protocol::api::Problem)),
)]
pub(super) struct Frame;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut Document) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("JWT".to_owned());
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", SecurityScheme::Http(http));
    }
}

/// Gives each answer the words that its status has in HTTP where it has none of its own: the
/// format demands some.
pub(super) fn describe_answers(document: &mut Document) {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put];
        let operations = operations.into_iter().flatten();
        for (status, answer) in operations.flat_map(|one| one.responses.responses.iter_mut()) {
            let words = status.parse::<u16>().ok().and_then(|code| {
                StatusCode::from_u16(code)
                    .ok()
                    .and_then(|status| status.canonical_reason())
            });
            if let (RefOr::T(answer), Some(words)) = (answer, words)
                && answer.description.is_empty()
            {
                answer.description = words.to_owned();
            }
        }
    }
}

/// Returns the routes that are in no document: health, and the document.
pub(super) fn routes(document: &Document) -> axum::Router<Arc<State>> {
    let text = Bytes::from(serde_json::to_vec(document).expect("the document has text keys"));
    axum::Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route(
            "/api/v1/openapi.json",
            get(move || std::future::ready(serve(text.clone()))),
        )
}

fn serve(text: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Says that the process answers.
async fn alive() -> Json<serde_json::Value> {
    std::future::ready(Json(json!({"status": "ok"}))).await
}

/// Says whether requests can be served: the store reads, and not too many wait for it.
async fn ready(Shared(state): Shared<Arc<State>>) -> Response {
    let reason = if state.stop.is_cancelled() {
        "the hub is stopping"
    } else if state.store.waiting_reads() > WAITING_READS {
        "too many requests wait for the store"
    } else if let Err(error) = state.appliance.org(NOBODYS).await {
        tracing::error!(%error, "not ready: the store cannot be read");
        "the store cannot be read"
    } else {
        return Json(json!({"status": "ready"})).into_response();
    };
    let body = Json(json!({"status": "not ready", "reason": reason}));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}
