//! What a session and an enrolment see of a connection, whatever carries it.

use std::net::SocketAddr;

use bytes::Bytes;
use protocol::frame::Lane;
use protocol::session::CloseCode;
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;

use super::{quic, tcp};

/// Largest piece read from a stream at once, in bytes.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// Pieces that may wait between readers and session, per kind of lane.
const PIECES: usize = 4;

/// Frames that may wait for the way back. An agent that reads nothing is given up.
const CONTROL_FRAMES: usize = 1024;

/// A connection after its handshake.
#[derive(Debug)]
pub(super) enum Connection {
    Quic(quic::Connection),
    // Boxed: a TLS session is a kilobyte.
    Tcp(Box<tcp::Connection>),
}

impl Connection {
    /// Returns the word of the API.
    pub(super) const fn transport(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
            Self::Tcp(_) => "tcp",
        }
    }

    pub(super) fn remote(&self) -> SocketAddr {
        match self {
            Self::Quic(connection) => connection.remote(),
            Self::Tcp(connection) => connection.remote(),
        }
    }

    /// Returns what the peer wants to speak.
    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        match self {
            Self::Quic(connection) => connection.alpn(),
            Self::Tcp(connection) => connection.alpn(),
        }
    }

    /// Returns the certificate that the peer has shown and proved, leaf first.
    pub(super) fn peer_chain(&self) -> Option<Vec<CertificateDer<'static>>> {
        match self {
            Self::Quic(connection) => connection.peer_chain(),
            Self::Tcp(connection) => connection.peer_chain(),
        }
    }

    /// Returns keying material of the TLS session (RFC 8446 section 7.5).
    pub(super) fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        match self {
            Self::Quic(connection) => connection.keying_material(label),
            Self::Tcp(connection) => connection.keying_material(label),
        }
    }

    /// Waits until the peer hangs up.
    pub(super) async fn hung_up(&mut self) {
        match self {
            Self::Quic(connection) => connection.hung_up().await,
            Self::Tcp(connection) => connection.hung_up().await,
        }
    }

    /// Makes it a line of a session and returns what it brings.
    pub(super) fn open(self) -> (Line, Ears) {
        let (control, from_control) = mpsc::channel(PIECES);
        let (data, from_data) = mpsc::channel(PIECES);
        let mouths = Mouths { control, data };
        let ears = Ears {
            control: from_control,
            data: from_data,
        };
        let (back, frames) = mpsc::channel(CONTROL_FRAMES);
        let kind = match self {
            Self::Quic(connection) => Kind::Quic(connection.open(mouths, frames)),
            Self::Tcp(connection) => Kind::Tcp(connection.open(mouths, frames)),
        };
        (Line { back, kind }, ears)
    }

    /// Ends it with a code and words.
    pub(super) async fn close(self, code: CloseCode, reason: &str) {
        self.open().0.close(code, reason).await;
    }
}

/// What a reader has to say.
#[derive(Debug)]
pub(super) enum Heard {
    /// Bytes of a lane.
    Bytes(Lane, Bytes),
    /// The peer breaks the protocol.
    Broken(String),
}

/// What the readers bring. The control lane is apart, so that it is heard while data lanes wait.
#[derive(Debug)]
pub(super) struct Ears {
    pub(super) control: mpsc::Receiver<Heard>,
    pub(super) data: mpsc::Receiver<Heard>,
}

/// What readers speak into.
#[derive(Debug, Clone)]
pub(super) struct Mouths {
    pub(super) control: mpsc::Sender<Heard>,
    data: mpsc::Sender<Heard>,
}

impl Mouths {
    pub(super) fn of(&self, lane: Lane) -> &mpsc::Sender<Heard> {
        match lane {
            Lane::Control => &self.control,
            Lane::Events | Lane::Inventory | Lane::Cost | Lane::Results => &self.data,
        }
    }
}

/// The agent reads nothing of what is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// A connection that carries a session.
#[derive(Debug)]
pub(super) struct Line {
    back: mpsc::Sender<Vec<u8>>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Quic(quic::Line),
    Tcp(tcp::Line),
}

impl Line {
    /// Sends a frame of the control lane; to a connection that has ended, nothing.
    ///
    /// # Errors
    ///
    /// When too many wait already.
    pub(super) fn send(&self, frame: Vec<u8>) -> Result<(), Full> {
        match self.back.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Full),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Waits until the peer has ended it and says in words why.
    pub(super) async fn closed(&self) -> String {
        match &self.kind {
            Kind::Quic(line) => line.closed().await,
            Kind::Tcp(line) => line.closed().await,
        }
    }

    /// Ends it with a code and words.
    pub(super) async fn close(self, code: CloseCode, reason: &str) {
        match self.kind {
            Kind::Quic(line) => line.close(code, reason),
            Kind::Tcp(line) => line.close(code, reason).await,
        }
    }
}
