//! Carries questions to the hub and brings answers and changes back as events.
//!
//! Tasks are never cut off while a question is under way: the one that renews the session spends
//! a token that can be used once.

use std::error::Error;
use std::sync::Arc;

use http::StatusCode;
use protocol::api::{Overview, Page, WhoAmI};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::event::{Event, FetchError, News, Payload, Question, Rows};
use super::item::{Item, Kind};
use crate::client::{Client, ClientError, segment, with_query};

mod stream;

/// Most rows of a list that are held: enough to work with, little enough to keep for hours.
pub(crate) const ROWS: usize = 5_000;

/// Rows of the first page: they come at once, the others in larger pages.
const FIRST_ROWS: usize = 200;

/// Most pages asked for one list: a search may find nothing on many pages in a row.
const PAGES: usize = 20;

/// Events that wait for the console; while it is full, answers wait.
const WAITING: usize = 64;

/// The way to the hub.
pub(super) struct Link {
    client: Arc<Client>,
    events: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
    listener: Option<AbortHandle>,
}

impl Link {
    /// Makes a link and the end at which its events come out.
    pub(super) fn new(client: Arc<Client>) -> (Self, mpsc::Receiver<Event>) {
        let (events, out) = mpsc::channel(WAITING);
        let link = Self {
            client,
            events,
            tasks: JoinSet::new(),
            listener: None,
        };
        (link, out)
    }

    /// Asks the hub; the answer comes as an event.
    pub(super) fn fetch(&mut self, ask: u64, org: Option<String>, question: Question) {
        let (client, events) = (Arc::clone(&self.client), self.events.clone());
        self.tasks.spawn(async move {
            let parts = Parts {
                ask,
                events: events.clone(),
            };
            let answer = answer(&client, org, question, &parts).await;
            // Nobody listens any more once the console is being left.
            let _ = events.send(Event::Reply { ask, answer }).await;
        });
    }

    /// Listens to changes, in place of any earlier listener.
    pub(super) fn listen(&mut self, listener: u64, org: Option<String>) {
        if let Some(earlier) = self.listener.take() {
            earlier.abort();
        }
        let (client, events) = (Arc::clone(&self.client), self.events.clone());
        let path = in_org("/api/v1/stream", org);
        let task = self.tasks.spawn(async move {
            let send = |news| events.send(Event::News { listener, news });
            if let Ok(mut changes) = stream::Changes::open(&client, &path).await {
                let _ = send(News::Opened).await;
                while let Some(name) = changes.next().await {
                    let _ = send(News::Changed(name)).await;
                }
            }
            let _ = send(News::Closed).await;
        });
        self.listener = Some(task);
    }

    /// Waits for the next task to end; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the task panicked.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the wait is given up.
    pub(super) async fn ended(&mut self) -> Option<Result<(), JoinError>> {
        match self.tasks.join_next().await? {
            // A listener that was replaced.
            Err(error) if error.is_cancelled() => Some(Ok(())),
            ended => Some(ended),
        }
    }

    /// Returns whether no task is running.
    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Where the first rows of a list go.
struct Parts {
    ask: u64,
    events: mpsc::Sender<Event>,
}

impl Parts {
    async fn send(&self, rows: Rows) {
        let ask = self.ask;
        // Nobody listens any more once the console is being left.
        let _ = self.events.send(Event::Part { ask, rows }).await;
    }
}

fn in_org(path: &str, org: Option<String>) -> String {
    match org {
        Some(org) => with_query(path, &[("org", org)]),
        None => path.to_owned(),
    }
}

async fn answer(
    client: &Client,
    org: Option<String>,
    question: Question,
    parts: &Parts,
) -> Result<Payload, FetchError> {
    match question {
        Question::Who => {
            let who: WhoAmI = client.get("/api/v1/whoami").await?;
            Ok(Payload::Who(who))
        }
        Question::Overview => {
            let path = in_org("/api/v1/overview", org);
            let overview: Overview = client.get(&path).await?;
            Ok(Payload::Overview(overview))
        }
        Question::Rows { kind, filter, sort } => {
            let mut query = Vec::new();
            query.extend(org.map(|org| ("org", org)));
            if !filter.trim().is_empty() {
                query.push(("filter", filter));
            }
            query.extend(sort.map(|sort| ("sort", sort)));
            rows(client, kind, query, parts).await.map(Payload::Rows)
        }
        Question::One { kind, id } => {
            let path = in_org(&format!("{}/{}", kind.path(), segment(&id)), org);
            let value: Value = client.get(&path).await?;
            read(kind, value).map(Payload::One)
        }
    }
}

async fn rows(
    client: &Client,
    kind: Kind,
    query: Vec<(&str, String)>,
    parts: &Parts,
) -> Result<Rows, FetchError> {
    let mut rows = Rows::default();
    let mut cursor: Option<String> = None;
    for page in 0..PAGES {
        let most = if page == 0 {
            FIRST_ROWS
        } else {
            protocol::limits::PAGE_ITEMS
        };
        let left = ROWS.saturating_sub(rows.items.len());
        let mut query = query.clone();
        query.push(("limit", left.min(most).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let answer: Page<Value> = client.get(&with_query(kind.path(), &query)).await?;
        if page == 0 {
            rows.total = answer.total;
        }
        for value in answer.items {
            rows.items.push(read(kind, value)?);
        }
        cursor = answer.next_cursor;
        rows.is_cut = cursor.is_some();
        if !rows.is_cut || rows.items.len() >= ROWS {
            break;
        }
        if page == 0 {
            parts.send(rows.clone()).await;
        }
    }
    Ok(rows)
}

fn read(kind: Kind, value: Value) -> Result<Item, FetchError> {
    kind.read(value)
        .map_err(|error| FetchError::Refused(format!("the hub's answer cannot be read: {error}")))
}

/// Returns an error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl From<ClientError> for FetchError {
    fn from(error: ClientError) -> Self {
        let words = chain(&error);
        match error {
            ClientError::Connect { .. }
            | ClientError::Tls { .. }
            | ClientError::Time { .. }
            | ClientError::Broken { .. } => Self::Unreachable(words),
            ClientError::Problem { problem } => match StatusCode::from_u16(problem.status) {
                Ok(StatusCode::UNAUTHORIZED) => Self::SignedOut,
                Ok(StatusCode::FORBIDDEN) => Self::Forbidden(words),
                Ok(StatusCode::NOT_FOUND) => Self::Gone,
                Ok(StatusCode::TOO_MANY_REQUESTS) => Self::Busy(words),
                Ok(StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE) => {
                    Self::Unreachable(words)
                }
                Ok(_) | Err(_) => Self::Refused(words),
            },
            ClientError::SignedOut => Self::SignedOut,
            ClientError::Url { .. }
            | ClientError::Pin { .. }
            | ClientError::Answer { .. }
            | ClientError::Session(_) => Self::Refused(words),
        }
    }
}
