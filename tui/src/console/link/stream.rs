//! The stream of changes: server-sent events (source: WHATWG HTML, "Server-sent events"), of
//! which only the names matter here.

use http_body_util::BodyExt;
use protocol::limits::IDLE_TIMEOUT;

use crate::client::{Client, ClientError, Stream};

/// Longest line, in bytes; the hub's are below 100.
const LINE_BYTES: usize = 64 << 10;

/// Most names that wait to be taken.
const NAMES: usize = 1_000;

/// Names of what changes, as the hub tells them.
pub(super) struct Changes {
    stream: Stream,
    lines: Lines,
}

/// Cuts what comes into lines and lines into events.
#[derive(Debug, Default)]
struct Lines {
    /// What came after the last line break.
    rest: Vec<u8>,
    /// Name of the event whose lines are coming in.
    name: Option<String>,
    /// Names of whole events, the oldest last.
    names: Vec<String>,
}

impl Changes {
    /// Opens the stream.
    ///
    /// # Errors
    ///
    /// When the hub cannot be reached or does not stream.
    pub(super) async fn open(client: &Client, path: &str) -> Result<Self, ClientError> {
        Ok(Self {
            stream: client.listen(path).await?,
            lines: Lines::default(),
        })
    }

    /// Returns the name of what changed next; `None` when the stream has ended, has been silent for
    /// longer than the hub ever is, or is no stream of events.
    pub(super) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(name) = self.lines.names.pop() {
                return Some(name);
            }
            let frame = tokio::time::timeout(IDLE_TIMEOUT, self.stream.body.frame());
            let frame = frame.await.ok()??.ok()?;
            if let Some(bytes) = frame.data_ref()
                && !self.lines.take(bytes)
            {
                return None;
            }
        }
    }
}

impl Lines {
    /// Takes bytes; returns whether they can be part of a stream of events.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            if *byte != b'\n' {
                self.rest.push(*byte);
                if self.rest.len() > LINE_BYTES {
                    return false;
                }
                continue;
            }
            let line = std::mem::take(&mut self.rest);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                if let Some(name) = self.name.take() {
                    self.names.insert(0, name);
                    self.names.truncate(NAMES);
                }
            } else if let Some(name) = line.strip_prefix("event:") {
                self.name = Some(name.trim().to_owned());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(parts: &[&str]) -> Vec<String> {
        let mut lines = Lines::default();
        for part in parts {
            assert!(lines.take(part.as_bytes()));
        }
        lines.names.into_iter().rev().collect()
    }

    #[test]
    fn events_are_read_however_they_are_cut_into_pieces() {
        let text = ":\n\nevent: findings\r\ndata: {}\r\n\r\nevent:all\ndata\n\nevent: agents\n";
        for at in 0..text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(names(&[a, b]), ["findings", "all"], "cut at {at}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::default();
        let endless = vec![b'x'; LINE_BYTES + 1];
        assert!(!lines.take(&endless));
    }
}
