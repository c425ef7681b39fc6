//! `Idempotency-Key`: a write that is sent twice, because its answer was lost, happens once.
//!
//! The first answer is kept for a while and given again to the same person for the same key and
//! the same request. It is kept in memory: after a restart a repeat is a new request. Answers may
//! hold a secret shown once (an enrolment token), so they are zeroed when forgotten.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header-07, sections 2.2 to 2.7.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use protocol::ids::UserId;
use zeroize::Zeroizing;

use super::access::Caller;
use super::problem::Refusal;

/// How long an answer is kept.
const MEMORY: Duration = Duration::from_secs(3600);

/// Most answers that are kept; beyond it the oldest is forgotten.
const KEPT: usize = 1000;

/// Largest answer that is kept, in bytes: a write answers with one object.
const ANSWER_BYTES: usize = 16 << 10;

/// Longest key, in bytes.
const KEY_BYTES: usize = 255;

type Key = (UserId, [u8; 32]);

enum Answer {
    /// The first request is still being served.
    Awaited,
    Given {
        status: StatusCode,
        body: Zeroizing<Vec<u8>>,
    },
}

struct Entry {
    /// Hash of method, path, query and body.
    request: [u8; 32],
    answer: Answer,
    since: Instant,
}

/// Answers of late, by person and key.
#[derive(Default)]
pub(super) struct Repeats(Mutex<BTreeMap<Key, Entry>>);

/// Forgets a request that was not served to its end.
struct Awaiting<'r> {
    repeats: &'r Repeats,
    key: Key,
}

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        let mut entries = self.repeats.entries();
        if let Some(entry) = entries.get(&self.key)
            && matches!(entry.answer, Answer::Awaited)
        {
            entries.remove(&self.key);
        }
    }
}

impl Repeats {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request: `None` when it is to be served, else what it gets.
    fn begin(&self, key: Key, request: [u8; 32], now: Instant) -> Option<Response> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&key)
            && now.saturating_duration_since(entry.since) < MEMORY
        {
            return Some(match &entry.answer {
                _ if entry.request != request => Refusal::unprocessable(
                    "key_reused",
                    "this Idempotency-Key came with another request before",
                )
                .into_response(),
                Answer::Awaited => Refusal::conflict(
                    "in_progress",
                    "the first request with this Idempotency-Key is still being served",
                )
                .into_response(),
                Answer::Given { status, body } => again(*status, body),
            });
        }
        if entries.len() >= KEPT {
            entries.retain(|_, entry| now.saturating_duration_since(entry.since) < MEMORY);
        }
        if entries.len() >= KEPT {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.since);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                entries.remove(&oldest);
            }
        }
        let entry = Entry {
            request,
            answer: Answer::Awaited,
            since: now,
        };
        entries.insert(key, entry);
        None
    }

    fn end(&self, key: &Key, status: StatusCode, body: &[u8]) {
        if let Some(entry) = self.entries().get_mut(key) {
            entry.answer = Answer::Given {
                status,
                body: Zeroizing::new(body.to_vec()),
            };
        }
    }
}

/// Gives an answer once more.
fn again(status: StatusCode, body: &[u8]) -> Response {
    let mut response = (status, body.to_vec()).into_response();
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

fn read_key(request: &Request) -> Result<Option<[u8; 32]>, Refusal> {
    let mut values = request.headers().get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let is_good = (1..=KEY_BYTES).contains(&value.len()) && values.next().is_none();
    if !is_good {
        return Err(Refusal::bad_request(
            "bad_key",
            format!("an Idempotency-Key has 1 to {KEY_BYTES} bytes and is given once"),
        ));
    }
    Ok(Some(*blake3::hash(value.as_bytes()).as_bytes()))
}

/// Serves a write once per key. Stands behind [`super::access::gate`], which says who asks.
pub(super) async fn once(
    Shared(repeats): Shared<Arc<Repeats>>,
    request: Request,
    next: Next,
) -> Response {
    let caller = request
        .extensions()
        .get::<Caller>()
        .map(|caller| caller.user.id);
    let (Some(user), true) = (caller, request.method() == Method::POST) else {
        return next.run(request).await;
    };
    let key = match read_key(&request) {
        Ok(Some(key)) => (user, key),
        Ok(None) => return next.run(request).await,
        Err(refusal) => return refusal.into_response(),
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, super::BODY_BYTES).await else {
        return Refusal::of_status(StatusCode::PAYLOAD_TOO_LARGE).into_response();
    };
    let mut hasher = blake3::Hasher::new_derive_key("zero-x idempotent request 1");
    for part in [
        parts.method.as_str().as_bytes(),
        parts.uri.to_string().as_bytes(),
        &body,
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let request = *hasher.finalize().as_bytes();
    if let Some(answer) = repeats.begin(key, request, Instant::now()) {
        return answer;
    }
    let awaiting = Awaiting {
        repeats: &repeats,
        key,
    };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if !response.status().is_success() {
        // A refusal changed nothing: the next attempt may fare better.
        drop(awaiting);
        return response;
    }
    let (parts, body) = response.into_parts();
    match axum::body::to_bytes(body, ANSWER_BYTES).await {
        Ok(body) => {
            repeats.end(&key, parts.status, &body);
            Response::from_parts(parts, Body::from(body))
        }
        Err(error) => Refusal::failed(&error).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        (
            UserId::from_bytes([1; 16]),
            *blake3::hash(&n.to_le_bytes()).as_bytes(),
        )
    }

    #[test]
    fn an_answer_is_forgotten_in_time_and_the_memory_has_an_end() {
        let repeats = Repeats::default();
        let now = Instant::now();
        for n in 0..2000 {
            assert!(repeats.begin(key(n), [0; 32], now).is_none());
            repeats.end(&key(n), StatusCode::CREATED, b"{}");
        }
        assert_eq!(repeats.entries().len(), KEPT);
        assert!(repeats.begin(key(1999), [0; 32], now).is_some());
        assert!(repeats.begin(key(1999), [0; 32], now + MEMORY).is_none());
    }

    #[test]
    fn a_request_that_was_not_served_to_its_end_may_be_sent_again() {
        let repeats = Repeats::default();
        let now = Instant::now();
        assert!(repeats.begin(key(1), [0; 32], now).is_none());
        let second = repeats.begin(key(1), [0; 32], now).unwrap();
        assert_eq!(second.status(), StatusCode::CONFLICT);
        drop(Awaiting {
            repeats: &repeats,
            key: key(1),
        });
        assert!(repeats.begin(key(1), [0; 32], now).is_none());
    }
}
