//! The way to the hub: TLS 1.3 with both sides' certificates, over QUIC or, where no UDP passes,
//! over TCP.
//!
//! [`drive`] moves bytes between the connection, the session's state machine and the spool;
//! [`tls`] says whom to trust; [`quic`] and [`tcp`] carry the lanes; this module dials and turns
//! the transports' errors into what an operator can act on.
//!
//! ```text
//! 0 s       QUIC ───────────────────────▶ up: taken
//! 1 s            TCP, beside it ────────▶ up first: taken, unless QUIC follows at once
//! ```

mod doubt;
mod drive;
mod home;
mod outbox;
mod probe;
pub(crate) mod proxy;
mod quic;
mod tcp;
pub(crate) mod tls;
mod way;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use protocol::frame::Lane;
use protocol::session::CloseCode;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

pub(crate) use drive::{Drive, LinkStatus, State, Stopped};
pub(crate) use probe::{Answer, Greeting, Path, probe};

use crate::exit::{Exit, Failure};

/// What may wait between a connection's readers and the session; when full, the transport's
/// windows slow the hub.
const HEARD: usize = 16;

/// Largest piece read from a stream at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How long a farewell may take: it is sent at once, and sent again when the hub still speaks.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long QUIC is tried alone. With it a session without UDP is up within two seconds.
const HEAD_START: Duration = Duration::from_secs(1);

/// How long one look for QUIC takes at most while the session is on TCP.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// How long QUIC may come after TCP and still be taken.
const MOMENT: Duration = Duration::from_millis(200);

/// Addresses of one name that are tried. A name with more is not a hub's.
const ADDRESSES: usize = 8;

/// Nobody's address, to which nothing is sent; where a host has a route out, there is one to it.
/// Source: RFC 5737 section 3, TEST-NET-1.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Time until the next address of a name is tried beside the ones before it. Source: RFC 8305
/// section 5, Connection Attempt Delay.
const STAGGER: Duration = Duration::from_millis(250);

/// How the hub is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Whether the kernel may cut datagrams.
    pub(crate) gso: bool,
    /// How long one attempt may take.
    pub(crate) connect_timeout: Duration,
    /// The way to the hub over TCP.
    pub(crate) proxy: Option<proxy::Proxy>,
    /// How long a session stays on TCP before QUIC is looked for.
    pub(crate) probe_quic_after: Duration,
    /// How long a session stays on another hub than the first before that is looked for.
    pub(crate) return_after: Duration,
    /// How often a QUIC connection on which nothing arrives is tried, for a look at the way.
    pub(crate) ping_every: Option<Duration>,
}

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Quic,
    Tcp,
}

impl Transport {
    /// Returns the word of the hub's API.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// Says why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LinkError {
    /// The name has no address.
    #[error("could not find an address of {address}: {reason}")]
    Resolve { address: String, reason: String },
    /// Nobody answers.
    #[error("{address} does not answer: {reason}")]
    Unreachable { address: String, reason: String },
    /// Nothing can leave this host in that direction.
    #[error("this host has no route to {address}: {reason}")]
    NoRoute { address: String, reason: String },
    /// The other side has a certificate of another CA.
    #[error("{address} is not this agent's hub: its certificate is not signed by the root that was pinned{}", by(issuer.as_deref()))]
    WrongHub {
        address: String,
        /// Who issued the certificate, where the transport tells.
        issuer: Option<String>,
    },
    /// The hub's certificate is not valid at this host's time.
    #[error("the certificate of the hub at {address} is not valid at this host's time")]
    Clock { address: String },
    /// It was reached and then not heard any more.
    #[error("{address} has fallen silent")]
    Silent { address: String },
    /// The proxy on the way lets nothing through.
    #[error("the proxy {proxy} {reason}")]
    Proxy {
        proxy: String,
        /// Its answer's status, where it gave one.
        status: Option<u16>,
        reason: String,
    },
    /// The other side is no hub, or one of another time.
    #[error("{address} speaks no protocol of this agent")]
    NoHub { address: String },
    /// The hub does not accept this agent's certificate.
    #[error("the hub at {address} does not accept this agent's certificate: {reason}")]
    Certificate {
        address: String,
        reason: &'static str,
    },
    /// The hub closed the connection with a code.
    #[error("{}", closed(address, *code, reason))]
    Closed {
        address: String,
        code: Option<CloseCode>,
        reason: String,
    },
    /// This side cannot make a connection at all.
    #[error("could not make a connection: {reason}")]
    Local { reason: String },
}

/// How the name of who issues hubs' certificates begins. Anybody may say so: it is good for words
/// and nothing else.
const HUB_ISSUER: &str = "CN=Zero-X intermediate ";

impl LinkError {
    /// Returns whether the hub, or what stands in its place, refuses this agent.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::WrongHub { .. } | Self::Certificate { .. } => true,
            Self::Closed { code, .. } => code.is_some_and(CloseCode::is_final),
            Self::Resolve { .. }
            | Self::Unreachable { .. }
            | Self::NoRoute { .. }
            | Self::Silent { .. }
            | Self::Proxy { .. }
            | Self::NoHub { .. }
            | Self::Clock { .. }
            | Self::Local { .. } => false,
        }
    }

    /// Returns what an operator can do about it.
    pub(crate) fn fix(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "check the hub's name and this host's name service",
            Self::NoRoute { .. } => {
                "bring this host's network up: `ip -brief link` shows a link that is down, `ip \
                 route get ADDRESS` a route that is missing; the agent comes back by itself"
            }
            Self::Unreachable { .. } | Self::Silent { .. } => {
                "check that the hub runs and that its port is open from here, for UDP or for TCP; \
                 where only a proxy leads out, set hub.proxy"
            }
            Self::Proxy {
                status: Some(407), ..
            } => {
                "put the proxy's user:password into a file and name it in \
                 hub.proxy_credentials_file"
            }
            Self::Proxy {
                status: Some(_), ..
            } => "have the proxy allow CONNECT to the hub's address and port",
            Self::Proxy { status: None, .. } => "check hub.proxy and that the proxy runs",
            Self::Clock { .. } => {
                "set this host's clock, for example with chrony or systemd-timesyncd, and look at \
                 the hub's"
            }
            Self::WrongHub {
                issuer: Some(issuer),
                ..
            } if issuer.starts_with(HUB_ISSUER) => {
                "by that name it is a Zero-X hub: if it is this agent's own, its certificate \
                 authority was replaced while the agent was away, or the hub was made anew: enrol \
                 again with a new token, `zero-x-agent enroll --replace --token-file F`; if it is a \
                 TLS-inspecting proxy, it must exempt the hub from inspection; else check the \
                 address"
            }
            Self::WrongHub {
                issuer: Some(_), ..
            } => {
                "if that is a TLS-inspecting proxy, it must exempt the hub from inspection; else \
                 check the address; if the hub was made anew, enrol again with a token of the new \
                 one"
            }
            Self::WrongHub { issuer: None, .. } => {
                "check the address; if the hub was made anew, enrol again with a token of the new one"
            }
            Self::NoHub { .. } => "check the port: agents use 7443, UDP and TCP; the API 8443",
            Self::Certificate { .. } => {
                "enrol again with a new token: `zero-x-agent enroll --replace --token-file F`"
            }
            Self::Closed {
                code: Some(CloseCode::Unenrolled),
                ..
            } => "enrol again with a new token: `zero-x-agent enroll --replace --token-file F`",
            Self::Closed {
                code: Some(CloseCode::Revoked),
                ..
            } => {
                "if that was a mistake, enrol again with a new token: `zero-x-agent enroll \
                 --replace --token-file F`; else remove the agent: `zero-x-agent leave`"
            }
            Self::Closed {
                code: Some(CloseCode::Suspended),
                ..
            } => {
                "an operator decides: `zero-x agent show ID` tells why, `zero-x agent resume ID` \
                 lets it speak again, and it comes back by itself; the spool keeps what it finds"
            }
            Self::Closed { .. } => {
                "see the hub's log; `zero-x agent show` tells this agent's state"
            }
            Self::Local { .. } => "run `zero-x-agent doctor`",
        }
    }

    /// Returns the error that says most when both ways failed.
    pub(crate) fn telling(of_quic: Self, of_tcp: Self) -> Self {
        match (of_quic, of_tcp) {
            (Self::Unreachable { address, reason }, Self::Unreachable { reason: of_tcp, .. }) => {
                Self::Unreachable {
                    address,
                    reason: format!("{reason} over UDP, {of_tcp} over TCP"),
                }
            }
            (of_quic, Self::Unreachable { .. } | Self::NoRoute { .. }) => of_quic,
            (_, of_tcp) => of_tcp,
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let exit = if error.is_refusal() {
            Exit::Forbidden
        } else {
            Exit::Unreachable
        };
        let fix = error.fix();
        Failure::of(exit, "there is no link to the hub", error).fix(fix)
    }
}

/// Returns who issued a certificate, as part of a sentence.
pub(crate) fn by(issuer: Option<&str>) -> String {
    issuer.map_or_else(String::new, |issuer| format!(" but issued by {issuer:?}"))
}

/// Returns what a hub has closed a connection with, as a sentence.
fn closed(address: &str, code: Option<CloseCode>, reason: &str) -> String {
    if code == Some(CloseCode::Suspended) {
        return format!("the hub at {address} sends this agent away for the time being: {reason}");
    }
    let code = code.map_or("unknown code".to_owned(), |code| code.to_string());
    let reason = match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!("the hub at {address} closed the connection: {code}{reason}")
}

/// An alert of TLS by its number (RFC 8446 section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alert(u8);

impl Alert {
    const CERTIFICATE_EXPIRED: Alert = Alert(45);
    const NO_APPLICATION_PROTOCOL: Alert = Alert(120);

    /// Returns what it means when the hub sends it.
    fn of_the_hub(self, address: &str) -> Option<LinkError> {
        let address = address.to_owned();
        if self == Self::NO_APPLICATION_PROTOCOL {
            return Some(LinkError::NoHub { address });
        }
        let reason = match self.0 {
            44 => "it is revoked",
            45 => "it has expired",
            48 => "another hub issued it",
            116 => "none was shown",
            42 | 43 | 46 | 51 => "it is not valid",
            _ => return None,
        };
        Some(LinkError::Certificate { address, reason })
    }
}

/// Returns what it means when this side raises an alert over what the other showed.
fn raised_here(address: &str, alert: Alert, issuer: Option<String>) -> LinkError {
    let address = address.to_owned();
    match alert {
        Alert::NO_APPLICATION_PROTOCOL => LinkError::NoHub { address },
        Alert::CERTIFICATE_EXPIRED => LinkError::Clock { address },
        Alert(_) => LinkError::WrongHub { address, issuer },
    }
}

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The next bytes of a lane.
    Bytes(Lane, Vec<u8>),
    /// It has ended; nothing follows.
    Ended(LinkError),
}

/// A question got no answer: the connection broke, in the transport's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);

/// A connection that stands and carries nothing yet.
#[derive(Debug)]
pub(crate) struct Connection {
    address: String,
    kind: Dialled,
}

/// One of each transport's.
#[derive(Debug)]
enum Kind<Q, T> {
    Quic(Q),
    Tcp(T),
}

// Boxed: a TLS session is a kilobyte.
type Dialled = Kind<quic::Connection, Box<tcp::Connection>>;

impl<Q, T> Kind<Q, T> {
    fn transport(&self) -> Transport {
        match self {
            Self::Quic(_) => Transport::Quic,
            Self::Tcp(_) => Transport::Tcp,
        }
    }
}

impl Connection {
    pub(crate) fn transport(&self) -> Transport {
        self.kind.transport()
    }

    /// Returns keying material of the TLS session (RFC 8446 section 7.5).
    pub(crate) fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        match &self.kind {
            Kind::Quic(connection) => connection.keying_material(label),
            Kind::Tcp(connection) => connection.keying_material(label),
        }
    }

    /// Asks one question and returns its answer of at most `limit` bytes, each behind its length,
    /// a little-endian u32.
    ///
    /// # Errors
    ///
    /// When the connection breaks before the whole answer is here, or the answer is longer.
    pub(crate) async fn ask(&mut self, question: &[u8], limit: usize) -> Result<Vec<u8>, Broken> {
        match &mut self.kind {
            Kind::Quic(connection) => ask(&mut connection.stream().await?, question, limit).await,
            Kind::Tcp(connection) => ask(connection.stream(), question, limit).await,
        }
    }

    /// Makes it a line of a session and returns what it brings.
    pub(crate) fn open(self) -> (Line, mpsc::Receiver<Heard>) {
        let (heard, hearing) = mpsc::channel(HEARD);
        let line = match self.kind {
            Kind::Quic(connection) => Kind::Quic(quic::Line::new(connection, self.address, heard)),
            Kind::Tcp(connection) => Kind::Tcp(tcp::Line::new(*connection, self.address, heard)),
        };
        (Line(line), hearing)
    }

    /// Hangs up and waits until that is told.
    pub(crate) async fn leave(self) {
        match self.kind {
            Kind::Quic(connection) => connection.leave(CloseCode::Done, "").await,
            Kind::Tcp(connection) => connection.leave().await,
        }
    }
}

async fn ask(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    question: &[u8],
    limit: usize,
) -> Result<Vec<u8>, Broken> {
    let broken = |error: std::io::Error| Broken(error.to_string());
    let length = u32::try_from(question.len()).map_err(|error| Broken(error.to_string()))?;
    stream.write_u32_le(length).await.map_err(broken)?;
    stream.write_all(question).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let bytes = stream.read_u32_le().await.map_err(broken)?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    if length > limit {
        return Err(Broken(format!("an answer of {bytes} bytes is too long")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.map_err(broken)?;
    Ok(answer)
}

/// A connection that carries a session.
#[derive(Debug)]
pub(crate) struct Line(Kind<quic::Line, tcp::Line>);

impl Line {
    pub(crate) fn transport(&self) -> Transport {
        self.0.transport()
    }

    /// Returns what was seen of the way, where the transport tells.
    pub(crate) fn path(&self) -> Option<Path> {
        match &self.0 {
            Kind::Quic(line) => Some(line.path()),
            Kind::Tcp(_) => None,
        }
    }

    /// Puts whole frames on a lane. A more urgent lane overtakes what waits.
    pub(crate) fn send(&mut self, lane: Lane, frames: Vec<u8>) {
        match &mut self.0 {
            Kind::Quic(line) => line.send(lane, frames),
            Kind::Tcp(line) => line.send(lane, frames),
        }
    }

    /// Begins to close it; [`Heard::Ended`] follows.
    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        match &self.0 {
            Kind::Quic(line) => line.close(code, reason),
            Kind::Tcp(line) => line.close(code, reason),
        }
    }

    /// Closes it and waits until that is told.
    pub(crate) async fn leave(&self, code: CloseCode, reason: &str) {
        match &self.0 {
            Kind::Quic(line) => line.leave(code, reason).await,
            Kind::Tcp(line) => line.leave(code, reason).await,
        }
    }
}

/// Which transports are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// QUIC, and TCP beside it when it has not answered for [`HEAD_START`].
    QuicFirst,
    /// TCP, and QUIC when that fails.
    TcpFirst,
    /// One alone.
    Only(Transport),
}

/// Dials one address of a hub.
///
/// # Errors
///
/// See [`LinkError`].
///
/// # Cancel safety
///
/// Cancelled, the attempt is given up.
pub(crate) async fn dial(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
    config: &Config,
    order: Order,
) -> Result<Connection, LinkError> {
    let quic = within(address, config, over_quic(address, tls.clone(), config));
    let tcp = within(address, config, over_tcp(address, tls, config));
    let kind = match order {
        Order::QuicFirst => race(quic, tcp).await,
        Order::TcpFirst => match tcp.await {
            Ok(tcp) => Ok(tcp),
            // Even where something else answers in the hub's place, QUIC may get past it.
            Err(of_tcp) => quic
                .await
                .map_err(|of_quic| LinkError::telling(of_quic, of_tcp)),
        },
        Order::Only(Transport::Quic) => quic.await,
        Order::Only(Transport::Tcp) => tcp.await,
    }?;
    Ok(Connection {
        address: address.to_owned(),
        kind,
    })
}

async fn within(
    address: &str,
    config: &Config,
    attempt: impl Future<Output = Result<Dialled, LinkError>>,
) -> Result<Dialled, LinkError> {
    match tokio::time::timeout(config.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::Unreachable {
            address: address.to_owned(),
            reason: format!("no answer within {} s", config.connect_timeout.as_secs()),
        }),
    }
}

async fn over_quic(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
    config: &Config,
) -> Result<Dialled, LinkError> {
    let attempt = |socket| quic::dial(address, socket, tls.clone(), config);
    first_of(address, attempt).await.map(Kind::Quic)
}

async fn over_tcp(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
    config: &Config,
) -> Result<Dialled, LinkError> {
    let stream = match &config.proxy {
        Some(proxy) if proxy.is_for(address) => proxy::connect(proxy, address).await?,
        Some(_) | None => first_of(address, |socket| tcp::connect(address, socket)).await?,
    };
    let greeted = tcp::greet(address, stream, tls).await?;
    Ok(Kind::Tcp(Box::new(greeted)))
}

/// Asks the system for a route; sends nothing. QUIC would wait for an answer to what never left.
fn routed(address: &str, socket: SocketAddr) -> Result<(), LinkError> {
    let asking = Socket::new(Domain::for_address(socket), Type::DGRAM, None);
    match asking.and_then(|asking| asking.connect(&socket.into())) {
        Err(error) if is_unrouted(&error) => Err(LinkError::NoRoute {
            address: address.to_owned(),
            reason: error.to_string(),
        }),
        // What else is wrong shows when it is dialled.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Returns whether the system has said that it knows no way.
fn is_unrouted(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown
    )
}

/// Takes the first that is up, QUIC if both are at once.
async fn race(
    quic: impl Future<Output = Result<Dialled, LinkError>>,
    tcp: impl Future<Output = Result<Dialled, LinkError>>,
) -> Result<Dialled, LinkError> {
    tokio::pin!(quic);
    let alone = tokio::time::timeout(HEAD_START, &mut quic).await;
    match alone {
        Ok(Err(error)) if !error.is_refusal() => tcp
            .await
            .map_err(|of_tcp| LinkError::telling(error, of_tcp)),
        Ok(result) => result,
        Err(_) => {
            tokio::pin!(tcp);
            // Both may be cancelled: an attempt that is dropped is given up.
            tokio::select! {
                result = &mut quic => match result {
                    Err(error) if !error.is_refusal() => {
                        tcp.await.map_err(|of_tcp| LinkError::telling(error, of_tcp))
                    }
                    result => result,
                },
                result = &mut tcp => match result {
                    Ok(tcp) => match tokio::time::timeout(MOMENT, quic).await {
                        Ok(Ok(quic)) => Ok(quic),
                        Ok(Err(_)) | Err(_) => Ok(tcp),
                    },
                    Err(of_tcp) => quic.await.map_err(|error| LinkError::telling(error, of_tcp)),
                },
            }
        }
    }
}

/// Tries the addresses of a name, the next one beside those before it when they take their time.
async fn first_of<T, A: Future<Output = Result<T, LinkError>>>(
    address: &str,
    attempt: impl Fn(SocketAddr) -> A,
) -> Result<T, LinkError> {
    let resolve = |reason: String| LinkError::Resolve {
        address: address.to_owned(),
        reason,
    };
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|error| match routed(address, ANYWHERE) {
        Ok(()) => resolve(error.to_string()),
        Err(_) => resolve(format!(
            "{error}; this host has no route out of its network"
        )),
    })?;
    let mut next: VecDeque<SocketAddr> = found.take(ADDRESSES).collect();
    let mut under_way = FuturesUnordered::new();
    let mut last = resolve("the name has none".to_owned());
    loop {
        match next.pop_front() {
            Some(socket) => match routed(address, socket) {
                Ok(()) => under_way.push(attempt(socket)),
                Err(error) => {
                    last = error;
                    continue;
                }
            },
            None if under_way.is_empty() => return Err(last),
            None => {}
        }
        // Both may be cancelled: what is under way stays there.
        tokio::select! {
            Some(result) = under_way.next() => match result {
                Err(error @ (LinkError::Unreachable { .. } | LinkError::NoRoute { .. })) => {
                    last = error;
                }
                result => return result,
            },
            () = tokio::time::sleep(STAGGER), if !next.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests;
