//! Requests of one person that are served at once: the store's reads and the memory for answers
//! are shared by every organisation, so nobody may hold all of them.
//!
//! A request counts until its answer has been sent, and until its work is done when its sender
//! hangs up before. Streams, which have no end, are counted by themselves.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use protocol::ids::UserId;

/// Most requests of one person at once, and most streams: half of the store's reads at once.
pub(super) const AT_ONCE: usize = 16;

/// Who is served with what: the person, and whether it is a stream.
type Key = (UserId, bool);

/// Everybody who is being served.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<Key, usize>>);

/// One request that is being served; over when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: Key,
}

impl Turn {
    /// Begins one; `None` when as many are being served as may be.
    pub(super) fn begin(turns: &Arc<Turns>, user: UserId, is_stream: bool) -> Option<Self> {
        let key = (user, is_stream);
        let mut counts = turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_default();
        if *count >= AT_ONCE {
            return None;
        }
        *count += 1;
        drop(counts);
        let turns = Arc::clone(turns);
        Some(Self { turns, key })
    }

    /// Goes on until the answer has been sent.
    pub(super) fn until_sent(self, answer: Response) -> Response {
        answer.map(|body| Body::new(Held { body, _turn: self }))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// A body that holds its turn.
struct Held {
    body: Body,
    _turn: Turn,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_served_so_many_at_once_and_others_besides() {
        let turns = Arc::new(Turns::default());
        let begin = |n, is_stream| Turn::begin(&turns, UserId::from_bytes([n; 16]), is_stream);
        let mut held: Vec<Turn> = (0..AT_ONCE).map_while(|_| begin(1, false)).collect();
        assert_eq!(held.len(), AT_ONCE);
        assert!(begin(1, false).is_none());
        assert!(begin(1, true).is_some() && begin(2, false).is_some());
        let last = held.pop().unwrap();
        let answer = last.until_sent(Response::new(Body::from("text")));
        assert_eq!(answer.body().size_hint().exact(), Some(4));
        assert!(begin(1, false).is_none());
        drop(answer);
        assert!(begin(1, false).is_some());
        held.clear();
        assert!(turns.0.lock().unwrap().is_empty());
    }
}
