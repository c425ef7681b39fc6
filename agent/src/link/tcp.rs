//! The hub over TLS 1.3 on TCP, for networks that let no UDP through: all lanes share one byte
//! stream ([`protocol::mux`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::enroll::HUB_NAME;
use protocol::frame::Lane;
use protocol::mux::{Demux, Piece};
use protocol::session::CloseCode;
use protocol::wire::v1::{Close, Message};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::outbox::Outbox;
use super::{Alert, FAREWELL, Heard, LinkError, PIECE_BYTES, raised_here, tls};

/// Bytes that may wait in the kernel beyond what is under way. More would be bulk that events
/// cannot overtake any more.
const UNSENT_BYTES: u32 = 128 << 10;

/// Largest segment either side sends, in bytes: with IPv6's headers it is a packet of 1,240, which
/// every path carries. A firewall that swallows the messages by which TCP finds a smaller path
/// would swallow all larger ones, too (DESIGN 6: never rely on discovery).
const SEGMENT_BYTES: u32 = 1180;

/// How long a failed writer waits for what the reader has to say about it.
const READER_FIRST: Duration = Duration::from_millis(200);

/// A TLS session on one TCP connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
}

/// Connects to one address.
///
/// # Errors
///
/// [`LinkError::Unreachable`] with the system's words.
pub(super) async fn connect(address: &str, socket: SocketAddr) -> Result<TcpStream, LinkError> {
    let unmade = match socket {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let unmade = unmade.map_err(|error| unreachable(address, &error))?;
    // Without it, only paths on which discovery works are usable.
    let _ = SockRef::from(&unmade).set_tcp_mss(SEGMENT_BYTES);
    let connected = unmade.connect(socket).await;
    let stream = connected.map_err(|error| unreachable(address, &error))?;
    // Both only make it faster.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    Ok(stream)
}

/// Speaks TLS over a connection that stands.
///
/// # Errors
///
/// See [`LinkError`].
pub(super) async fn greet(
    address: &str,
    stream: TcpStream,
    tls: Arc<rustls::ClientConfig>,
) -> Result<Connection, LinkError> {
    let name = ServerName::try_from(HUB_NAME).expect("the hub's name is a name");
    let stream = TlsConnector::from(tls).connect(name, stream).await;
    let stream = stream.map_err(|error| explain(address, error))?;
    Ok(Connection { stream })
}

fn unreachable(address: &str, error: &io::Error) -> LinkError {
    LinkError::Unreachable {
        address: address.to_owned(),
        reason: error.to_string(),
    }
}

/// Turns an error of the stream into what an operator can act on.
fn explain(address: &str, error: io::Error) -> LinkError {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        // Raised on the other side.
        Some(rustls::Error::AlertReceived(alert)) => Alert(u8::from(*alert))
            .of_the_hub(address)
            .unwrap_or_else(|| unreachable(address, &error)),
        // Raised on this side: the certificate that was shown did not pass.
        Some(rustls::Error::InvalidCertificate(reason)) => {
            let alert = rustls::AlertDescription::from(reason.clone());
            let issuer = tls::issuer_of(reason);
            raised_here(address, Alert(u8::from(alert)), issuer)
        }
        // Something answers that speaks no TLS, or another version of it.
        Some(_) => LinkError::NoHub {
            address: address.to_owned(),
        },
        None if error.kind() == io::ErrorKind::UnexpectedEof => LinkError::Unreachable {
            address: address.to_owned(),
            reason: "the connection was cut".to_owned(),
        },
        None => unreachable(address, &error),
    }
}

impl Connection {
    /// Returns keying material of the TLS session (RFC 8446 section 7.5).
    pub(super) fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        let session = self.stream.get_ref().1;
        session
            .export_keying_material([0; 32], label, Some(b""))
            .ok()
    }

    /// Returns the stream for one question and its answer.
    pub(super) fn stream(&mut self) -> &mut TlsStream<TcpStream> {
        &mut self.stream
    }

    /// Hangs up and waits a moment for the hub to do the same: what it has not read would be lost
    /// with a connection that is dropped.
    pub(super) async fn leave(mut self) {
        let farewell = async {
            self.stream.shutdown().await?;
            let mut rest = [0; 1024];
            while self.stream.read(&mut rest).await? > 0 {}
            Ok::<_, io::Error>(())
        };
        // The hub may be gone already, which is what is wanted.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// What this side says last.
type Farewell = Option<(CloseCode, String)>;

/// A connection with the tasks that read and write it.
#[derive(Debug)]
pub(super) struct Line {
    outbox: Arc<Outbox>,
    farewell: watch::Sender<Farewell>,
    ended: watch::Receiver<bool>,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl Line {
    pub(super) fn new(connection: Connection, address: String, heard: mpsc::Sender<Heard>) -> Self {
        let (receive, send) = tokio::io::split(connection.stream);
        let outbox = Arc::new(Outbox::default());
        let (farewell, asked) = watch::channel(None);
        let (end, ended) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(converse(
            receive,
            send,
            outbox.clone(),
            asked,
            Told {
                address,
                heard,
                end,
            },
        ));
        Self {
            outbox,
            farewell,
            ended,
            _tasks: tasks,
        }
    }

    pub(super) fn send(&self, lane: Lane, frames: Vec<u8>) {
        self.outbox.push(lane, frames);
    }

    /// Says farewell in the place of what still waits to be written.
    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        self.farewell.send_if_modified(|farewell| {
            let is_first = farewell.is_none();
            farewell.get_or_insert_with(|| (code, reason.to_owned()));
            is_first
        });
    }

    /// Closes the connection and waits until that is told.
    pub(super) async fn leave(&self, code: CloseCode, reason: &str) {
        self.close(code, reason);
        // Its sender is dropped with the task, which is an end, too. Bounded by the task.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

/// Whom the tasks tell of the end.
struct Told {
    address: String,
    heard: mpsc::Sender<Heard>,
    end: watch::Sender<bool>,
}

/// Reads and writes until one side says farewell or the connection ends.
async fn converse(
    mut receive: ReadHalf<TlsStream<TcpStream>>,
    mut send: WriteHalf<TlsStream<TcpStream>>,
    outbox: Arc<Outbox>,
    asked: watch::Receiver<Farewell>,
    told: Told,
) {
    let address = &told.address;
    let end = {
        // The branch that is cancelled has nothing to say any more: the connection has ended, or
        // what still arrives is read below.
        tokio::select! {
            error = read(address, &mut receive, &told.heard) => Err(error),
            end = write(address, &mut send, &outbox, asked) => end,
        }
    };
    let error = match end {
        Err(error) => error,
        Ok((code, reason)) => {
            let message = Message::Close(Close::new(code, &reason)).encode();
            let farewell = async {
                send.write_all(&message).await?;
                send.shutdown().await?;
                // What the hub still says would reset the connection if nobody took it, and the
                // farewell with it.
                let mut rest = vec![0; PIECE_BYTES];
                while receive.read(&mut rest).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
            LinkError::Closed {
                address: address.clone(),
                code: Some(code),
                reason,
            }
        }
    };
    told.end.send_replace(true);
    let _ = told.heard.send(Heard::Ended(error)).await;
}

/// Reads until the end and returns its reason.
async fn read(
    address: &str,
    stream: &mut ReadHalf<TlsStream<TcpStream>>,
    heard: &mpsc::Sender<Heard>,
) -> LinkError {
    let cut = |reason: String| LinkError::Unreachable {
        address: address.to_owned(),
        reason,
    };
    let mut demux = Demux::default();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) => return cut("the hub hung up".to_owned()),
            Ok(length) => length,
            Err(error) => return explain(address, error),
        };
        let pieces = match demux.push(buffer.get(..length).unwrap_or_default()) {
            Ok(pieces) => pieces,
            Err(error) => return cut(format!("what arrives are no frames: {error}")),
        };
        for piece in pieces {
            match piece {
                Piece::Bytes(lane, bytes) => {
                    if heard.send(Heard::Bytes(lane, bytes)).await.is_err() {
                        return cut("nobody listens".to_owned());
                    }
                }
                Piece::Close(close) => {
                    return LinkError::Closed {
                        address: address.to_owned(),
                        code: CloseCode::from_number(close.code.into()),
                        reason: close.reason,
                    };
                }
            }
        }
    }
}

/// Writes until a farewell is asked for.
async fn write(
    address: &str,
    stream: &mut WriteHalf<TlsStream<TcpStream>>,
    outbox: &Outbox,
    asked: watch::Receiver<Farewell>,
) -> Result<(CloseCode, String), LinkError> {
    loop {
        // Nothing is lost with a branch that is cancelled: frames are taken or they wait.
        let frames = tokio::select! {
            biased;
            farewell = farewell(asked.clone()) => return Ok(farewell),
            frames = outbox.next() => frames,
        };
        let written = async {
            stream.write_all(&frames).await?;
            stream.flush().await
        };
        // What has begun is written to its end, or the farewell would stand in its midst; but not
        // for ever to a hub that reads nothing.
        let result = tokio::select! {
            result = written => result,
            farewell = overdue(asked.clone()) => return Ok(farewell),
        };
        if let Err(error) = result {
            // The reader has the better words: an alert, or the hub's farewell.
            tokio::time::sleep(READER_FIRST).await;
            return Err(explain(address, error));
        }
    }
}

async fn farewell(mut asked: watch::Receiver<Farewell>) -> (CloseCode, String) {
    if let Ok(farewell) = asked.wait_for(Option::is_some).await
        && let Some(farewell) = farewell.clone()
    {
        return farewell;
    }
    // Whoever held the line has dropped it, and this task with it.
    std::future::pending().await
}

async fn overdue(asked: watch::Receiver<Farewell>) -> (CloseCode, String) {
    let farewell = farewell(asked).await;
    tokio::time::sleep(FAREWELL).await;
    farewell
}
