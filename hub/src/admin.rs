//! The admin socket: how local commands ask the running hub, which alone has the store open.
//!
//! `D/admin.sock` takes one question a connection, a line of JSON, and answers with another. Only
//! root and the hub's own user are answered: the socket has mode 0600, and the kernel says who is
//! at the other end.

use std::fs::{self, File, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::{AgentId, OrgId};
use protocol::limits;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::RecoveryRecipient;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backup::LastBackup;
use crate::bundle::{Asked, Volume};
use crate::ca::Step;
use crate::failure::{Exit, Explain};
use crate::keys::KeyOwner;

/// Longest question, in bytes.
const QUESTION_BYTES: u64 = 4 << 10;

/// Longest answer, in bytes: every check with its texts stays below 1 MiB.
const ANSWER_BYTES: u64 = 64 << 20;

/// How long a command may take to ask.
const ASKING: Duration = Duration::from_secs(5);

/// How long a command waits for its answer: a large store takes a while to verify.
const ANSWERING: Duration = Duration::from_secs(600);

/// Free space of the data directory that a command's files leave alone: the store needs some.
const KEEP_FREE_BYTES: u64 = 512 << 20;

/// Bytes of a command's files that are copied at once.
const PIECE_BYTES: usize = 64 << 10;

/// How long a command may take in nothing of what it asked for.
const STALLED: Duration = Duration::from_secs(60);

/// Pieces of a backup that wait to be sent.
const PIECES: usize = 4;

/// Longest piece of a backup, in bytes.
const BACKUP_PIECE_BYTES: u32 = 1 << 20;

/// Commands that are answered at the same time; further ones wait to be accepted.
const CALLERS: usize = 16;

/// What a local command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(crate) enum Question {
    /// How the hub is doing.
    Status,
    /// Which checks are in force.
    Checks,
    /// Whether the store is whole.
    Verify,
    /// Everything, as a backup: it comes in pieces before the answer, each with its length before
    /// it (four bytes, big endian) and none behind the last, whose length is 0.
    Backup {
        /// Who can open it besides the master key.
        recipient: Option<RecoveryRecipient>,
    },
    /// Takes note that a backup has reached its file.
    BackedUp {
        /// Which.
        last: LastBackup,
    },
    /// Compacts files.
    Compact {
        /// Whose; everybody's when absent.
        org: Option<OrgId>,
    },
    /// Takes the bundle whose volumes follow the question, each as [`send`] writes it.
    Import {
        /// How many follow.
        volumes: u32,
        /// What to do with it.
        asked: Asked,
    },
    /// Writes a reply.
    Reply {
        /// For which agent; for the only one that waits for one when absent.
        agent: Option<AgentId>,
    },
    /// How the certificate authority stands.
    Authority,
    /// How the keys stand.
    Keys,
    /// Exchanges the master key.
    MasterKey {
        /// The new file that the new key goes to; into the key file when absent.
        file: Option<PathBuf>,
    },
    /// Gives an organisation, or the hub's own rows, another data key.
    DataKey {
        /// Whose.
        owner: KeyOwner,
    },
    /// Purges an organisation.
    Purge {
        /// Its id or its name.
        org: String,
        /// Its name, as the operator has typed it.
        confirm: String,
    },
    /// Takes a step of the authority's replacement.
    Rotate {
        /// Which.
        step: Step,
        /// How many agents may be shut out by it.
        force: Option<u64>,
    },
}

/// What the hub answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// What was asked for.
    Ok(Value),
    /// Why there is no answer.
    Error(String),
}

/// Who knows the answers.
pub(crate) trait Oracle: Send + Sync + 'static {
    /// Answers one question.
    fn answer(&self, question: Question) -> impl Future<Output = Answer> + Send;

    /// Takes a bundle.
    fn import(&self, volumes: Vec<Volume>, asked: Asked) -> impl Future<Output = Answer> + Send;

    /// Makes a backup and gives its bytes to `to`. Ends soon after nobody takes them any more.
    fn back_up(
        &self,
        recipient: Option<RecoveryRecipient>,
        to: mpsc::Sender<Vec<u8>>,
    ) -> impl Future<Output = Answer> + Send;

    /// Makes an empty file that nobody else sees, for what a command sends.
    ///
    /// # Errors
    /// When the data directory cannot be written.
    fn scratch(&self) -> io::Result<File>;
}

/// Why the running hub was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AdminError {
    /// The socket could not be made.
    #[error("could not open {}", path.display())]
    Open {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The hub could not be asked.
    #[error("could not ask the running hub at {}", path.display())]
    Ask {
        /// The socket.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The hub refused to answer.
    #[error("the running hub refused: {0}")]
    Refused(String),
    /// What the hub sent could not be written.
    #[error("could not write what the running hub sent")]
    Take(#[source] io::Error),
    /// The answer has another form than this program knows.
    #[error("the running hub answered in a form that this program does not know")]
    Form,
}

impl Explain for AdminError {
    fn exit(&self) -> Exit {
        match self {
            Self::Ask { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::Forbidden
            }
            Self::Ask { .. } => Exit::Unreachable,
            Self::Form => Exit::Data,
            Self::Take(_) => Exit::Failed,
            Self::Open { .. } | Self::Refused(_) => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::Open { .. } => Some(
                "the data directory should belong to the hub's user, and its path have less than \
                 100 bytes"
                    .to_owned(),
            ),
            Self::Ask { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as root or as the hub's user".to_owned())
            }
            Self::Ask { .. } | Self::Take(_) | Self::Refused(_) | Self::Form => None,
        }
    }
}

/// Returns where the socket of a data directory is.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// Makes the socket. The caller holds the store's lock, so a socket that is there already is one
/// that a killed hub left behind.
///
/// # Errors
/// When it cannot be made, or something else than a socket has its name.
pub(crate) fn open(data_dir: &Path) -> Result<UnixListener, AdminError> {
    let path = path(data_dir);
    let failed = |source| AdminError::Open {
        path: path.clone(),
        source,
    };
    match fs::symlink_metadata(&path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(&path).map_err(failed)?,
        // `bind` refuses what is no socket.
        Ok(_) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    // Between the two calls the data directory's own mode, 0700, keeps others out.
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers until it is told to stop.
pub(crate) async fn serve<O: Oracle>(
    listener: UnixListener,
    owner: u32,
    oracle: Arc<O>,
    stop: CancellationToken,
) {
    let callers = Arc::new(Semaphore::new(CALLERS));
    let answering = TaskTracker::new();
    loop {
        // Both may be dropped at any time: a permit that was got is given back, and a connection
        // that was accepted is in hand at once.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async {
                let place = Arc::clone(&callers).acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (Ok(place), accepted) = accepted else {
            break;
        };
        match accepted {
            Ok((stream, _)) => {
                match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == owner => {}
                    Ok(_) | Err(_) => {
                        warn!("a stranger asked on the admin socket");
                        continue;
                    }
                }
                let oracle = Arc::clone(&oracle);
                let stop = stop.clone();
                answering.spawn(async move {
                    // Cut at a stop: the command sees the connection end.
                    let told = tokio::select! {
                        () = stop.cancelled() => Ok(()),
                        told = converse(stream, &*oracle) => told,
                    };
                    if let Err(error) = told {
                        debug!(%error, "a local command went away");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "the admin socket failed");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    answering.close();
    answering.wait().await;
}

/// Returns the user that files of a folder belong to.
///
/// # Errors
/// When the folder cannot be looked at.
pub(crate) fn owner_of(data_dir: &Path) -> Result<u32, AdminError> {
    let there = fs::metadata(data_dir).map_err(|source| AdminError::Open {
        path: data_dir.to_owned(),
        source,
    })?;
    Ok(there.uid())
}

async fn converse<O: Oracle>(mut stream: UnixStream, oracle: &O) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(QUESTION_BYTES));
    let answer = match tokio::time::timeout(ASKING, read.read_line(&mut line)).await {
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => no_question(),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) => match serde_json::from_str(&line) {
            Ok(Question::Import { volumes, asked }) => {
                // What was read ahead of the line's end stays in the buffer.
                read.get_mut().set_limit(u64::MAX);
                match receive(&mut read, volumes, oracle).await {
                    Ok(volumes) => oracle.import(volumes, asked).await,
                    Err(error) => Answer::Error(format!("the files did not come whole: {error}")),
                }
            }
            Ok(Question::Backup { recipient }) => {
                let (to, pieces) = mpsc::channel(PIECES);
                let (sent, answer) =
                    tokio::join!(forward(&mut write, pieces), oracle.back_up(recipient, to));
                sent?;
                write.write_u32(0).await?;
                answer
            }
            Ok(question) => oracle.answer(question).await,
            Err(_) => no_question(),
        },
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Sends pieces on as they come, until there are no more. A reader that takes nothing for too long
/// is given up: what a backup reads is held for it.
async fn forward(
    to: &mut (impl AsyncWrite + Unpin),
    mut pieces: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Some(piece) = pieces.recv().await {
        let sending = async {
            to.write_u32(u32::try_from(piece.len()).unwrap_or(u32::MAX))
                .await?;
            to.write_all(&piece).await
        };
        let sent = tokio::time::timeout(STALLED, sending).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    }
    Ok(())
}

/// Receives the volumes of a bundle into files that nobody else sees.
async fn receive<O: Oracle>(
    from: &mut (impl AsyncRead + Unpin),
    volumes: u32,
    oracle: &O,
) -> io::Result<Vec<Volume>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if volumes > limits::BUNDLE_VOLUMES {
        return Err(bad("too many volumes"));
    }
    let mut received = Vec::new();
    for _ in 0..volumes {
        let name_bytes = within(from.read_u16()).await?;
        let mut name = vec![0; usize::from(name_bytes)];
        within(from.read_exact(&mut name)).await?;
        let mut left = within(from.read_u64()).await?;
        if left > limits::BUNDLE_VOLUME_MAX_BYTES {
            return Err(bad("a volume is larger than any"));
        }
        let file = oracle.scratch()?;
        let disk = rustix::fs::fstatvfs(&file)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if left.saturating_add(KEEP_FREE_BYTES) > free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut file = tokio::fs::File::from_std(file);
        let mut buffer = vec![0; PIECE_BYTES];
        while left > 0 {
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = buffer.get_mut(..most).unwrap_or_default();
            let length = within(from.read(piece)).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.write_all(piece.get(..length).unwrap_or_default())
                .await?;
            left = left.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
        }
        file.flush().await?;
        let name = String::from_utf8_lossy(&name).into_owned();
        received.push(Volume::new(name, file.into_std().await));
    }
    Ok(received)
}

/// Waits for the command to send something.
async fn within<T>(read: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let read = tokio::time::timeout(ASKING, read).await;
    read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn no_question() -> Answer {
    Answer::Error("this hub does not know the question; its version differs".to_owned())
}

/// Asks the hub that runs on a data directory; `None` when none does.
///
/// # Errors
/// When it cannot be asked or refuses.
pub(crate) async fn ask(data_dir: &Path, question: &Question) -> Result<Option<Value>, AdminError> {
    send(data_dir, question, &mut []).await
}

/// Asks the hub that runs on a data directory, and sends files with the question: of each two
/// bytes length of its name, the name, eight bytes length of the file (both big endian), the file.
/// `None` when no hub runs.
///
/// # Errors
/// When it cannot be asked or refuses.
pub(crate) async fn send(
    data_dir: &Path,
    question: &Question,
    files: &mut [(String, File)],
) -> Result<Option<Value>, AdminError> {
    let failed = |source| AdminError::Ask {
        path: path(data_dir),
        source,
    };
    let Some(mut stream) = connect(data_dir).await? else {
        return Ok(None);
    };
    let mut text = serde_json::to_vec(question).expect("a question always serialises");
    text.push(b'\n');
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(&text).await?;
        for (name, file) in files {
            // A hub that has heard enough answers and hangs up.
            if let Err(error) = send_file(&mut stream, name, file).await
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                return Err(error);
            }
        }
        stream.take(ANSWER_BYTES).read_to_end(&mut answer).await
    };
    tokio::time::timeout(ANSWERING, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    answered(data_dir, &answer).map(Some)
}

/// Connects to the hub that runs on a data directory; `None` when none does.
async fn connect(data_dir: &Path) -> Result<Option<UnixStream>, AdminError> {
    let path = path(data_dir);
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        // No socket, no data directory, or one that a killed hub left behind.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(AdminError::Ask { path, source }),
    }
}

/// Reads an answer.
fn answered(data_dir: &Path, answer: &[u8]) -> Result<Value, AdminError> {
    if answer.is_empty() {
        let cause = "it ended the connection without an answer";
        return Err(AdminError::Ask {
            path: path(data_dir),
            source: io::Error::new(io::ErrorKind::UnexpectedEof, cause),
        });
    }
    match serde_json::from_slice(answer) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(reason)) => Err(AdminError::Refused(reason)),
        Err(_) => Err(AdminError::Form),
    }
}

/// Asks the hub that runs on a data directory for what comes in pieces, and writes them to `to`;
/// returns the answer behind them. `None` when no hub runs.
///
/// # Errors
/// When it cannot be asked or refuses, or `to` cannot be written.
pub(crate) async fn fetch(
    data_dir: &Path,
    question: &Question,
    to: &mut impl io::Write,
) -> Result<Option<Value>, AdminError> {
    let failed = |source| AdminError::Ask {
        path: path(data_dir),
        source,
    };
    let Some(mut stream) = connect(data_dir).await? else {
        return Ok(None);
    };
    let mut text = serde_json::to_vec(question).expect("a question always serialises");
    text.push(b'\n');
    stream.write_all(&text).await.map_err(failed)?;
    let mut piece = Vec::new();
    loop {
        let receiving = async {
            let length = stream.read_u32().await?;
            if length > BACKUP_PIECE_BYTES {
                return Ok(None);
            }
            piece.resize(usize::try_from(length).unwrap_or(0), 0);
            stream.read_exact(&mut piece).await.map(Some)
        };
        let received = tokio::time::timeout(ANSWERING, receiving).await;
        let received = received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match received.map_err(failed)? {
            // A hub that does not know the question answers with words.
            None => return Err(AdminError::Form),
            Some(0) => break,
            Some(_) => to.write_all(&piece).map_err(AdminError::Take)?,
        }
    }
    let mut answer = Vec::new();
    let mut rest = stream.take(ANSWER_BYTES);
    let reading = rest.read_to_end(&mut answer);
    tokio::time::timeout(ANSWERING, reading)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    answered(data_dir, &answer).map(Some)
}

async fn send_file(stream: &mut UnixStream, name: &str, file: &File) -> io::Result<()> {
    let end = name.floor_char_boundary(usize::from(u16::MAX));
    let name = name.get(..end).unwrap_or_default().as_bytes();
    let length = file.metadata()?.len();
    stream
        .write_u16(u16::try_from(name.len()).unwrap_or(0))
        .await?;
    stream.write_all(name).await?;
    stream.write_u64(length).await?;
    let mut file = tokio::fs::File::from_std(file.try_clone()?).take(length);
    tokio::io::copy(&mut file, stream).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_local_command_asks_the_running_hub_and_finds_none_when_it_has_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let none = ask(folder.path(), &Question::Status).await;
        assert_eq!(none.unwrap(), None);

        let (stop, served) = start(folder.path());
        assert_eq!(
            ask(folder.path(), &Question::Status).await.unwrap(),
            Some(json!("Status"))
        );
        let refused = ask(folder.path(), &Question::Verify).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the running hub refused: the store is closing"
        );
        let mode = fs::metadata(path(folder.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        stop.cancel();
        served.await.unwrap();
        // The socket file is still there, as after a crash.
        assert!(path(folder.path()).exists());
        let none = ask(folder.path(), &Question::Status).await;
        assert_eq!(none.unwrap(), None);

        let (stop, served) = start(folder.path());
        assert!(
            ask(folder.path(), &Question::Checks)
                .await
                .unwrap()
                .is_some()
        );
        stop.cancel();
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_question_that_is_none_is_answered_and_a_long_one_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let (stop, served) = start(folder.path());
        for question in [
            b"{\"ask\":\"everything\"}\n".to_vec(),
            b"\xff\xfe\n".to_vec(),
            vec![b'x'; 1 << 20],
        ] {
            let mut stream = UnixStream::connect(path(folder.path())).await.unwrap();
            // The hub may have stopped listening to a long question before its end.
            let _ = stream.write_all(&question).await;
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer).await;
            if question.len() < 100 {
                read.unwrap();
            }
            assert!(
                answer.is_empty() && question.len() > 100
                    || answer.contains("does not know the question"),
                "{answer}"
            );
        }
        // The hub goes on.
        assert!(
            ask(folder.path(), &Question::Status)
                .await
                .unwrap()
                .is_some()
        );
        stop.cancel();
        served.await.unwrap();
    }

    /// Counts the pieces that it could send.
    #[derive(Default)]
    struct Echo(AtomicU32);

    impl Oracle for Echo {
        async fn answer(&self, question: Question) -> Answer {
            match question {
                Question::Verify => Answer::Error("the store is closing".to_owned()),
                Question::Status | Question::Checks => Answer::Ok(json!(format!("{question:?}"))),
                Question::Import { .. }
                | Question::Backup { .. }
                | Question::BackedUp { .. }
                | Question::Compact { .. }
                | Question::Reply { .. }
                | Question::Authority
                | Question::Keys
                | Question::MasterKey { .. }
                | Question::DataKey { .. }
                | Question::Purge { .. }
                | Question::Rotate { .. } => no_question(),
            }
        }

        async fn import(&self, volumes: Vec<Volume>, asked: Asked) -> Answer {
            Answer::Ok(json!([volumes.len(), asked.accept_gap]))
        }

        async fn back_up(
            &self,
            recipient: Option<RecoveryRecipient>,
            to: mpsc::Sender<Vec<u8>>,
        ) -> Answer {
            if recipient.is_some() {
                return Answer::Error("not for that one".to_owned());
            }
            let mut sent = 0;
            for n in 0..1000u32 {
                let piece = vec![n.to_le_bytes()[0]; 64 << 10];
                if to.send(piece).await.is_err() {
                    break;
                }
                sent += 1;
            }
            self.0.store(sent, Ordering::Relaxed);
            Answer::Ok(json!(sent))
        }

        fn scratch(&self) -> io::Result<File> {
            tempfile::tempfile()
        }
    }

    /// Takes so many bytes and then fails.
    struct Room(usize);

    impl io::Write for Room {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let left = self.0.checked_sub(bytes.len());
            self.0 = left.ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_comes_in_pieces_comes_whole_before_its_answer_and_ends_with_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let question = Question::Backup { recipient: None };
        let mut all = Vec::new();
        let none = fetch(folder.path(), &question, &mut all).await;
        assert_eq!(none.unwrap(), None);

        let echo = Arc::new(Echo::default());
        let (stop, served) = start_with(folder.path(), Arc::clone(&echo));
        let answer = fetch(folder.path(), &question, &mut all).await.unwrap();
        assert_eq!(answer, Some(json!(1000)));
        assert_eq!(all.len(), 1000 * (64 << 10));
        let wrong = all.chunks(64 << 10).zip(0..1000u32);
        let wrong = wrong.filter(|(piece, n)| piece.iter().any(|b| *b != n.to_le_bytes()[0]));
        assert_eq!(wrong.count(), 0);

        let full = fetch(folder.path(), &question, &mut Room(200 << 10)).await;
        assert!(matches!(full, Err(AdminError::Take(_))), "{full:?}");
        // The hub notices, and goes on.
        let refused = Question::Backup {
            recipient: Some(format!("x25519:09{}", "0".repeat(62)).parse().unwrap()),
        };
        let words = fetch(folder.path(), &refused, &mut all).await.unwrap_err();
        assert_eq!(
            words.to_string(),
            "the running hub refused: not for that one"
        );
        while echo.0.load(Ordering::Relaxed) == 1000 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        served.await.unwrap();
    }

    fn start(folder: &Path) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        start_with(folder, Arc::default())
    }

    fn start_with(
        folder: &Path,
        echo: Arc<Echo>,
    ) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let stop = CancellationToken::new();
        let listener = open(folder).unwrap();
        let owner = owner_of(folder).unwrap();
        let served = tokio::spawn(serve(listener, owner, echo, stop.clone()));
        (stop, served)
    }
}
