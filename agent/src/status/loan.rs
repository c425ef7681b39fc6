//! The daemon lends its state directory to a command on the same host.
//!
//! ```text
//! command  ── "lend" ─▶  daemon: no link to the hub? stops sources, link and spool, lets the lock go
//!          ◀─ Answer ───
//!   works under the lock, and hangs up, however it ends ─▶ starts anew
//! ```
//! While there is a link nothing has to be carried, and the daemon does not lend. The connection is
//! the loan: one that ends without a word, with the command that held it, gives everything back.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{PATIENCE, socket};

/// What a command writes that wants a loan; whoever writes nothing is told the status.
pub(super) const WORD: &[u8] = b"lend\n";

/// How long a command waits until the daemon has stopped: both of its deadlines, and some.
const STOPS: Duration = Duration::from_secs(30);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES: u64 = 1 << 10;

/// What the daemon answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The state directory is free until the connection ends.
    Lent,
    /// There is a link to the hub.
    Online,
    /// Another command has it.
    Taken,
    /// Who asks is neither the daemon's user nor root.
    Stranger,
}

/// A loan, on either side; it ends when either drops it.
#[derive(Debug)]
pub(crate) struct Loan(UnixStream);

async fn say(stream: &mut UnixStream, answer: Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(&answer).expect("a word always serialises");
    text.push(b'\n');
    stream.write_all(&text).await
}

/// Says no.
pub(super) async fn refuse(mut stream: UnixStream, answer: Answer) {
    // Whoever asked may have gone away.
    let _ = tokio::time::timeout(PATIENCE, say(&mut stream, answer)).await;
}

/// Says whether the other end runs as this process's user, or as root.
pub(super) fn is_own(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let peer = stream.peer_cred().map(|peer| peer.uid());
    peer.is_ok_and(|uid| uid == own || uid == 0)
}

impl Loan {
    pub(super) fn of(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Asks the daemon for a loan.
    ///
    /// # Errors
    ///
    /// When none answers.
    pub(crate) async fn ask(folder: &Path) -> io::Result<Result<Self, Answer>> {
        let asking = async {
            let mut stream = UnixStream::connect(socket(folder)).await?;
            stream.write_all(WORD).await?;
            let mut text = Vec::new();
            // One line, one byte at a time: it is short, and what follows it is the loan.
            while text.last() != Some(&b'\n') {
                let mut byte = [0];
                let is_end = stream.read(&mut byte).await? == 0;
                if is_end || u64::try_from(text.len()).unwrap_or(u64::MAX) > ANSWER_BYTES {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                text.extend_from_slice(&byte);
            }
            let answer = serde_json::from_slice(&text)?;
            Ok(match answer {
                Answer::Lent => Ok(Self(stream)),
                no @ (Answer::Online | Answer::Taken | Answer::Stranger) => Err(no),
            })
        };
        let answered = tokio::time::timeout(STOPS, asking).await;
        answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Tells the command that the state directory is free.
    ///
    /// # Errors
    ///
    /// When it has gone away.
    pub(crate) async fn begin(&mut self) -> io::Result<()> {
        let said = tokio::time::timeout(PATIENCE, say(&mut self.0, Answer::Lent)).await;
        said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until the command has hung up.
    ///
    /// # Cancel safety
    ///
    /// What is read is of no interest.
    pub(crate) async fn returned(&mut self) {
        let mut more = [0; 64];
        while matches!(self.0.read(&mut more).await, Ok(read) if read > 0) {}
    }
}
