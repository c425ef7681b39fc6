//! Agents over TLS 1.3 on TCP, for networks that let no UDP through: all lanes share one byte
//! stream ([`protocol::mux`]).
//!
//! One stream cannot be held back for some lanes only: while the session takes no more of the data
//! lanes, nothing is read and TCP's window holds the agent back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use protocol::mux::{Demux, Piece};
use protocol::session::CloseCode;
use protocol::wire::v1::{Close, Message};
use rustls_pki_types::CertificateDer;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::{Heard, Mouths, PIECE_BYTES};

/// Connections that the kernel may hold while all handshakes are taken.
const BACKLOG: u32 = 1024;

/// Bytes that may wait in the kernel beyond what is under way.
const UNSENT_BYTES: u32 = 64 << 10;

/// Time for a farewell to be read.
const FAREWELL: Duration = Duration::from_secs(2);

/// Time for an alert to be read by a peer whose handshake failed.
const ALERT_TIME: Duration = Duration::from_secs(1);

/// Opens the listener. Must be called within the runtime.
///
/// # Errors
///
/// When the address cannot be bound.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Connections of the hub's last life do not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes a connection through its handshake.
///
/// # Errors
///
/// When the handshake fails; the peer has been told why.
pub(super) async fn accept(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
) -> io::Result<Connection> {
    // Both only make it faster.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => Ok(Connection { stream, remote }),
        Err((error, mut stream)) => {
            // Closing over what the peer has sent since would reset the connection, and the alert
            // that says what is wrong would be lost.
            let _ = tokio::time::timeout(ALERT_TIME, async {
                stream.shutdown().await?;
                discard(&mut stream).await
            })
            .await;
            Err(error)
        }
    }
}

/// Reads until the peer hangs up.
async fn discard(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<()> {
    let mut rest = vec![0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A TLS session on one TCP connection, after its handshake.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    remote: SocketAddr,
}

impl Connection {
    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        self.stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }

    pub(super) fn peer_chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        let chain = self.stream.get_ref().1.peer_certificates()?;
        Some(chain.iter().map(|der| der.clone().into_owned()).collect())
    }

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

    /// Waits until the peer hangs up.
    pub(super) async fn hung_up(&mut self) {
        let _ = discard(&mut self.stream).await;
    }

    /// Starts to read and write.
    pub(super) fn open(self, mouths: Mouths, frames: mpsc::Receiver<Vec<u8>>) -> Line {
        let (receive, send) = tokio::io::split(self.stream);
        let (farewell, asked) = watch::channel(None);
        let (end, ended) = watch::channel(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let why = converse(receive, send, mouths, frames, asked).await;
            end.send_replace(Some(why));
        });
        Line {
            farewell,
            ended,
            tasks,
        }
    }
}

/// What this side says last.
type Farewell = Option<(CloseCode, String)>;

/// A TCP connection with the task that reads and writes it.
#[derive(Debug)]
pub(super) struct Line {
    farewell: watch::Sender<Farewell>,
    ended: watch::Receiver<Option<String>>,
    /// Aborted when this is dropped.
    tasks: JoinSet<()>,
}

impl Line {
    pub(super) async fn closed(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the connection's task has ended".to_owned(),
        }
    }

    /// Says what is still to be said and then farewell, and waits until the peer has hung up.
    pub(super) async fn close(mut self, code: CloseCode, reason: &str) {
        self.farewell.send_replace(Some((code, reason.to_owned())));
        // A peer that takes nothing is left.
        let _ = tokio::time::timeout(FAREWELL, self.tasks.join_next()).await;
    }
}

/// Reads and writes until one side says farewell or the connection ends; returns why in words.
async fn converse(
    mut receive: ReadHalf<TlsStream<TcpStream>>,
    mut send: WriteHalf<TlsStream<TcpStream>>,
    mouths: Mouths,
    frames: mpsc::Receiver<Vec<u8>>,
    asked: watch::Receiver<Farewell>,
) -> String {
    // The branch that is cancelled has nothing to say any more: the connection has ended, or what
    // still arrives is read below.
    let (code, reason) = tokio::select! {
        why = read(&mut receive, &mouths) => return why,
        said = write(&mut send, frames, asked) => match said {
            Ok(farewell) => farewell,
            Err(error) => return error.to_string(),
        },
    };
    let message = Message::Close(Close::new(code, &reason)).encode();
    let farewell = async {
        send.write_all(&message).await?;
        send.shutdown().await?;
        // What the agent still says would reset the connection if nobody took it, and the
        // farewell with it.
        discard(&mut receive).await
    };
    match farewell.await {
        Ok(()) => "this side closed it".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Reads until the end and returns its reason.
async fn read(stream: &mut ReadHalf<TlsStream<TcpStream>>, mouths: &Mouths) -> String {
    let mut demux = Demux::default();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) => return "the agent hung up".to_owned(),
            Ok(length) => length,
            Err(error) => return error.to_string(),
        };
        let pieces = match demux.push(buffer.get(..length).unwrap_or_default()) {
            Ok(pieces) => pieces,
            Err(error) => {
                // The session says farewell; nothing more can be read.
                let _ = mouths.control.send(Heard::Broken(error.to_string())).await;
                return std::future::pending().await;
            }
        };
        for piece in pieces {
            match piece {
                // The session has ended where nobody listens, and says farewell.
                Piece::Bytes(lane, bytes) => {
                    let heard = Heard::Bytes(lane, Bytes::from(bytes));
                    if mouths.of(lane).send(heard).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Piece::Close(close) => {
                    return format!("the agent left: {}", close.reason.escape_debug());
                }
            }
        }
    }
}

/// Writes until a farewell is asked for and what was said before it is written.
async fn write(
    stream: &mut WriteHalf<TlsStream<TcpStream>>,
    mut frames: mpsc::Receiver<Vec<u8>>,
    asked: watch::Receiver<Farewell>,
) -> io::Result<(CloseCode, String)> {
    loop {
        // Nothing is lost with a branch that is cancelled: a frame is taken or it waits.
        let frame = tokio::select! {
            biased;
            Some(frame) = frames.recv() => frame,
            farewell = farewell(asked.clone()) => return Ok(farewell),
        };
        stream.write_all(&frame).await?;
        stream.flush().await?;
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
