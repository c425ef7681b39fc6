//! The way to the hub: QUIC with TLS 1.3 and both sides' certificates. The only user of quinn.
//!
//! [`drive`] moves bytes between the connection, the session's state machine and the spool;
//! [`tls`] says whom to trust; this module dials and turns the transport's errors into what an
//! operator can act on.

mod drive;
pub(crate) mod tls;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use protocol::enroll::HUB_NAME;
use protocol::limits;
use protocol::session::CloseCode;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, TransportConfig, VarInt,
};

pub(crate) use drive::{Drive, LinkStatus, State, Stopped};

use crate::exit::{Exit, Failure};

/// Initial size of a packet (DESIGN 6: never rely on discovery).
const INITIAL_MTU: u16 = 1200;

/// Window of a stream from the hub: acknowledgements are small.
const RECEIVE_WINDOW: u32 = 256 << 10;

/// How the hub is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Whether the kernel may cut datagrams.
    pub(crate) gso: bool,
    /// How long one attempt may take.
    pub(crate) connect_timeout: Duration,
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
    /// The other side has a certificate of another CA.
    #[error(
        "{address} is not this agent's hub: its certificate is not signed by the root that was pinned"
    )]
    WrongHub { address: String },
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
    #[error("the hub at {address} closed the connection: {}{}", code.map_or("unknown code".to_owned(), |code| code.to_string()), if reason.is_empty() { String::new() } else { format!(" ({reason})") })]
    Closed {
        address: String,
        code: Option<CloseCode>,
        reason: String,
    },
    /// This side cannot make a connection at all.
    #[error("could not make a connection: {reason}")]
    Local { reason: String },
}

impl LinkError {
    /// Returns whether the hub, or what stands in its place, refuses this agent.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::WrongHub { .. } | Self::Certificate { .. } => true,
            Self::Closed { code, .. } => code.is_some_and(CloseCode::is_final),
            Self::Resolve { .. }
            | Self::Unreachable { .. }
            | Self::NoHub { .. }
            | Self::Local { .. } => false,
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
        let fix = match &error {
            LinkError::Resolve { .. } => "check the hub's name, or set hub.address",
            LinkError::Unreachable { .. } => {
                "check that the hub runs and that its UDP port is open from here"
            }
            LinkError::WrongHub { .. } => {
                "check the address; if the hub was made anew, enrol again with a token of the new one"
            }
            LinkError::NoHub { .. } => "check the port: agents use 7443/udp, the API 8443/tcp",
            LinkError::Certificate { .. } => {
                "enrol again with a new token: `zero-x-agent enroll --replace --token-file F`"
            }
            LinkError::Closed { .. } => {
                "see the hub's log; `zero-x agent show` tells this agent's state"
            }
            LinkError::Local { .. } => "run `zero-x-agent doctor`",
        };
        Failure::of(exit, "there is no link to the hub", error).fix(fix)
    }
}

/// How long a farewell may take: it is sent at once, and sent again when the hub still speaks.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection with the socket it goes through.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) connection: Connection,
    endpoint: Endpoint,
}

impl Line {
    /// Closes the connection and waits until that is told, so that it is told even when the
    /// program ends right after: a close is only queued, and what is queued dies with the runtime.
    pub(crate) async fn leave(&self, code: CloseCode, reason: &str) {
        let number = VarInt::from_u32(code.number());
        self.connection.close(number, reason.as_bytes());
        // A hub that does not hear it notices the silence.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }
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
    config: Config,
) -> Result<Line, LinkError> {
    let resolve = |reason: String| LinkError::Resolve {
        address: address.to_owned(),
        reason,
    };
    let attempt = async {
        let found = tokio::net::lookup_host(address)
            .await
            .map_err(|error| resolve(error.to_string()))?;
        // A name with more addresses than this is not a hub's.
        let addresses: Vec<SocketAddr> = found.take(8).collect();
        let mut last = resolve("the name has none".to_owned());
        for socket in addresses {
            match dial_socket(address, socket, tls.clone(), config).await {
                Ok(line) => return Ok(line),
                Err(error @ LinkError::Unreachable { .. }) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    };
    match tokio::time::timeout(config.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::Unreachable {
            address: address.to_owned(),
            reason: format!("no answer within {} s", config.connect_timeout.as_secs()),
        }),
    }
}

async fn dial_socket(
    address: &str,
    socket: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    config: Config,
) -> Result<Line, LinkError> {
    let local = |reason: String| LinkError::Local { reason };
    let any: SocketAddr = match socket {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = Endpoint::client(any).map_err(|error| local(error.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| local(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport(config)));
    let connecting = endpoint
        .connect_with(client, socket, HUB_NAME)
        .map_err(|error| local(error.to_string()))?;
    let connection = connecting.await.map_err(|error| explain(address, error))?;
    Ok(Line {
        connection,
        endpoint,
    })
}

fn transport(config: Config) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits::IDLE_TIMEOUT).expect("a minute fits the field");
    transport
        // The hub opens no streams.
        .max_concurrent_bidi_streams(VarInt::from(0u8))
        .max_concurrent_uni_streams(VarInt::from(0u8))
        .stream_receive_window(VarInt::from(RECEIVE_WINDOW))
        .receive_window(VarInt::from(RECEIVE_WINDOW))
        .send_window(limits::CREDIT_BYTES)
        .max_idle_timeout(Some(idle))
        .initial_mtu(INITIAL_MTU)
        .enable_segmentation_offload(config.gso)
        .datagram_receive_buffer_size(None)
        // CUBIC stalls on links with loss (DESIGN 6).
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    transport
}

/// TLS alerts as QUIC carries them (RFC 9001 section 4.8; the numbers are RFC 8446 section 6's).
fn alert_of(code: u64) -> Option<u64> {
    (0x100..0x200).contains(&code).then(|| code - 0x100)
}

const NO_APPLICATION_PROTOCOL: u64 = 120;

/// Turns the transport's error into what an operator can act on.
pub(crate) fn explain(address: &str, error: ConnectionError) -> LinkError {
    let address = address.to_owned();
    let reason = error.to_string();
    match error {
        // Raised on this side: the hub's certificate did not pass.
        ConnectionError::TransportError(error) => match alert_of(error.code.into()) {
            Some(NO_APPLICATION_PROTOCOL) => LinkError::NoHub { address },
            Some(_) => LinkError::WrongHub { address },
            None => LinkError::Unreachable { address, reason },
        },
        // Raised on the other side.
        ConnectionError::ConnectionClosed(close) => {
            let certificate = |reason| LinkError::Certificate {
                address: address.clone(),
                reason,
            };
            match alert_of(close.error_code.into()) {
                Some(NO_APPLICATION_PROTOCOL) => LinkError::NoHub { address },
                Some(44) => certificate("it is revoked"),
                Some(45) => certificate("it has expired"),
                Some(48) => certificate("another hub issued it"),
                Some(116) => certificate("none was shown"),
                Some(42 | 43 | 46 | 51) => certificate("it is not valid"),
                Some(_) | None => LinkError::Unreachable { address, reason },
            }
        }
        ConnectionError::ApplicationClosed(close) => LinkError::Closed {
            address,
            code: CloseCode::from_number(close.error_code.into_inner()),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::TimedOut => LinkError::Unreachable {
            address,
            reason: "no answer".to_owned(),
        },
        ConnectionError::VersionMismatch => LinkError::NoHub { address },
        ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => LinkError::Unreachable { address, reason },
    }
}

/// Dials a hub, and hangs up; returns how long its answer took.
///
/// # Errors
///
/// See [`LinkError`]. A certificate that the hub does not accept shows only after the handshake,
/// so a moment is waited for that.
pub(crate) async fn probe(
    address: &str,
    tls: Arc<rustls::ClientConfig>,
    config: Config,
) -> Result<Duration, LinkError> {
    /// One round trip and the hub's look into its list.
    const VERDICT: Duration = Duration::from_millis(500);
    let began = std::time::Instant::now();
    let line = dial(address, tls, config).await?;
    let took = began.elapsed();
    match tokio::time::timeout(VERDICT, line.connection.closed()).await {
        Ok(error) => Err(explain(address, error)),
        Err(_) => {
            line.leave(CloseCode::Done, "").await;
            Ok(took)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::crypto::rustls::QuicServerConfig;
    use rustls::crypto::ring::default_provider;

    const ALPN: &[u8] = b"test";

    fn one_thread() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    /// Returns both sides' TLS settings.
    fn tls() -> (rustls::ServerConfig, rustls::ClientConfig) {
        let made = rcgen::generate_simple_self_signed([HUB_NAME.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.unwrap())
            .unwrap();
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        (server, client)
    }

    #[test]
    fn the_hub_hears_of_a_leave_though_the_program_ends_right_after() {
        let (server, client) = tls();
        let hub = one_thread();
        let endpoint = hub.block_on(async {
            let crypto = QuicServerConfig::try_from(server).unwrap();
            let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
            Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
        });
        let address = endpoint.local_addr().unwrap().to_string();
        let heard = std::thread::spawn(move || {
            hub.block_on(async {
                let connection = endpoint.accept().await.unwrap().await.unwrap();
                tokio::time::timeout(Duration::from_secs(10), connection.closed()).await
            })
        });
        let agent = one_thread();
        let config = Config {
            gso: false,
            connect_timeout: Duration::from_secs(10),
        };
        agent.block_on(async {
            let line = dial(&address, Arc::new(client), config).await.unwrap();
            line.leave(CloseCode::Done, "the agent is stopping").await;
        });
        // Nothing of the agent runs from here on.
        let error = heard.join().unwrap().expect("the hub hears it at once");
        let ConnectionError::ApplicationClosed(close) = error else {
            panic!("{error}");
        };
        assert_eq!(
            close.error_code.into_inner(),
            u64::from(CloseCode::Done.number())
        );
        assert_eq!(close.reason.as_ref(), b"the agent is stopping");
        drop(agent);
    }
}
