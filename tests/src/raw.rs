//! An agent that is driven by hand: a real identity from a real enrolment, and whatever bytes a test wants to send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ed25519_dalek::{Signer as _, SigningKey};
use protocol::batch::{BatchBuilder, BatchError, Place, Signer};
use protocol::enroll::{self, EXPORTER_LABEL, HUB_NAME, Reply, Request, Token, signed_message};
use protocol::frame::{Decoder, Lane};
use protocol::ids::{AgentId, SourceId};
use protocol::session::CloseCode;
use protocol::wire::v1::{self, Message, Welcome};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde::Serialize;

/// Longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// An identity, and where its hub is.
pub struct Peer {
    /// `agt_…`
    pub agent: AgentId,
    hub: SocketAddr,
    chain: Vec<CertificateDer<'static>>,
    pkcs8: Vec<u8>,
}

/// Says why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// The code, where the hub gave one.
    pub code: Option<CloseCode>,
    /// Its words, or the network's.
    pub reason: String,
}

impl Peer {
    /// Enrols as an agent does.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn enroll(endpoint: &Endpoint, token: &str, name: &str) -> Result<Self> {
        let token = Token::parse(token.trim())?;
        let hub = token.hubs.first().context("the token names no hub")?;
        let hub: SocketAddr = hub.parse().context("the hub of the token is no address")?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let csr = csr.der().to_vec();
        let connection = dial(endpoint, hub, client(None, enroll::ALPN)?).await?;
        let mut exporter = [0; 32];
        connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .map_err(|error| anyhow::anyhow!("no keying material: {error:?}"))?;
        let signer = SigningKey::from_bytes(&token.seed);
        let signature = signer.sign(&signed_message(&csr, &exporter)).to_vec();
        let request = postcard::to_stdvec(&Request {
            token: token.id,
            csr,
            signature,
            name: name.to_owned(),
            agent_version: "raw".to_owned(),
        })?;
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&u32::try_from(request.len())?.to_le_bytes())
            .await?;
        send.write_all(&request).await?;
        let reply = receive.read_to_end(enroll::MESSAGE_BYTES).await?;
        let reply: Reply = postcard::from_bytes(reply.get(4..).context("the answer is cut off")?)?;
        match reply {
            Reply::Issued { agent, chain, .. } => Ok(Self {
                agent,
                hub,
                chain: chain.into_iter().map(CertificateDer::from).collect(),
                pkcs8: key.serialize_der(),
            }),
            Reply::Refused { code, reason } => bail!("refused: {code}: {reason}"),
        }
    }

    /// Shakes hands with the hub and says nothing.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Connection> {
        dial(endpoint, self.hub, client(Some(self), v1::ALPN)?).await
    }

    /// Begins a session.
    ///
    /// # Errors
    /// When the hub does not welcome it.
    pub async fn talk(&self, endpoint: &Endpoint) -> Result<Talk> {
        let connection = self.connect(endpoint).await?;
        let (mut send, control) = connection.open_bi().await?;
        let mut epoch = [0; 16];
        epoch.copy_from_slice(self.agent.as_bytes());
        let hello = v1::Hello {
            versions: (v1::SCHEMA, v1::SCHEMA),
            agent_version: "raw".to_owned(),
            epoch,
            process: 1,
            witness: None,
            wall_ms: 0,
        };
        send.write_all(&Message::Hello(hello).encode()).await?;
        let mut talk = Talk {
            connection,
            signer: self.signer()?,
            epoch,
            source: SourceId::derived(&[self.agent.as_bytes()]),
            lanes: BTreeMap::from([(Lane::Control, send)]),
            control,
            decoder: Decoder::new(Lane::Control),
            next_seq: BTreeMap::new(),
        };
        let said = talk.hear().await?;
        let Message::Welcome(welcome) = said else {
            bail!("no welcome: {said:?}");
        };
        talk.resume(&welcome)?;
        Ok(talk)
    }

    fn signer(&self) -> Result<Key> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8, &SystemRandom::new());
        Ok(Key(
            pair.map_err(|error| anyhow::anyhow!("no key: {error}"))?
        ))
    }
}

/// Makes an endpoint that many peers can share.
///
/// # Errors
/// When there is no socket.
pub fn endpoint() -> Result<Endpoint> {
    Ok(Endpoint::client("127.0.0.1:0".parse()?)?)
}

async fn dial(endpoint: &Endpoint, hub: SocketAddr, config: ClientConfig) -> Result<Connection> {
    let connecting = endpoint.connect_with(config, hub, HUB_NAME)?;
    let connected = tokio::time::timeout(PATIENCE, connecting).await;
    Ok(connected.context("the handshake takes too long")??)
}

fn client(peer: Option<&Peer>, alpn: &[u8]) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyHub(provider)));
    let mut config = match peer {
        Some(peer) => {
            let key = PrivatePkcs8KeyDer::from(peer.pkcs8.clone()).into();
            config.with_client_auth_cert(peer.chain.clone(), key)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(
        config,
    )?)))
}

/// Trusts any hub: the tests of trust are elsewhere, and these start their hub themselves.
#[derive(Debug)]
struct AnyHub(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyHub {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

struct Key(EcdsaKeyPair);

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| BatchError::Sign)?;
        signature.as_ref().try_into().map_err(|_| BatchError::Sign)
    }
}

/// A session, by hand.
pub struct Talk {
    /// The connection, for what a session does not do.
    pub connection: Connection,
    /// Of which source the items are.
    pub source: SourceId,
    signer: Key,
    epoch: v1::Epoch,
    lanes: BTreeMap<Lane, SendStream>,
    control: RecvStream,
    decoder: Decoder,
    next_seq: BTreeMap<Lane, u64>,
}

impl Talk {
    fn resume(&mut self, welcome: &Welcome) -> Result<()> {
        for stored in &welcome.high_water {
            let lane = Lane::from_number(stored.lane).context("there is no such lane")?;
            self.next_seq.insert(lane, stored.seq + 1);
        }
        Ok(())
    }

    /// The next message of the hub.
    ///
    /// # Errors
    /// When it says nothing more.
    pub async fn hear(&mut self) -> Result<Message> {
        loop {
            if let Some(frame) = self.decoder.pop()? {
                let message = Message::decode(&frame)?.context("an unknown message")?;
                // Every agent is told the hub's roots once; that answers nothing.
                if !matches!(message, Message::Authority(_)) {
                    return Ok(message);
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.control.read_chunk(4096, true)).await;
            let chunk = match chunk.context("the hub says nothing")? {
                Ok(chunk) => chunk.context("the stream has ended")?,
                // What it said when it hung up says more than that the connection is lost.
                Err(error) => match self.connection.close_reason() {
                    Some(closed) => anyhow::bail!("{}", farewell(&closed).reason),
                    None => return Err(error.into()),
                },
            };
            self.decoder.push(&chunk.bytes);
        }
    }

    /// Items that follow what was sent before, as a frame.
    ///
    /// # Errors
    /// When they do not fit into one.
    pub fn next_batch<T: Serialize>(&mut self, lane: Lane, items: &[T]) -> Result<(Vec<u8>, u64)> {
        let first_seq = *self.next_seq.entry(lane).or_insert(1);
        let frame = self.batch(lane, first_seq, items)?;
        let next = first_seq + u64::try_from(items.len())?;
        self.next_seq.insert(lane, next);
        Ok((frame, next - 1))
    }

    /// Items from any sequence on, as a frame.
    ///
    /// # Errors
    /// When they do not fit into one.
    pub fn batch<T: Serialize>(&self, lane: Lane, first_seq: u64, items: &[T]) -> Result<Vec<u8>> {
        let mut builder = BatchBuilder::default();
        for item in items {
            builder.push(item)?;
        }
        let place = Place {
            lane,
            epoch: self.epoch,
            first_seq,
            source: self.source,
            made_at_ms: 0,
        };
        Ok(builder.seal(&place, &self.signer)?.1)
    }

    /// Writes bytes to a lane's stream.
    ///
    /// # Errors
    /// When the hub has ended it.
    pub async fn write(&mut self, lane: Lane, bytes: &[u8]) -> Result<()> {
        let stream = match self.lanes.entry(lane) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(self.connection.open_bi().await?.0)
            }
        };
        Ok(stream.write_all(bytes).await?)
    }

    /// Waits until everything of a lane up to a sequence is acknowledged.
    ///
    /// # Errors
    /// When it is refused, or the hub says nothing more.
    pub async fn acknowledged(&mut self, lane: Lane, seq: u64) -> Result<()> {
        loop {
            let said = self.hear().await?;
            if let Message::Ack(ack) = &said
                && ack.lane == lane.number()
                && ack.seq >= seq
            {
                return Ok(());
            }
            ensure!(!matches!(said, Message::Refused(_)), "{said:?}");
        }
    }

    /// Sends items and waits for their acknowledgement.
    ///
    /// # Errors
    /// As [`Talk::acknowledged`].
    pub async fn send<T: Serialize>(&mut self, lane: Lane, items: &[T]) -> Result<()> {
        let (frame, seq) = self.next_batch(lane, items)?;
        self.write(lane, &frame).await?;
        self.acknowledged(lane, seq).await
    }

    /// Waits until the hub ends the session.
    ///
    /// # Errors
    /// When it does not.
    pub async fn farewell(&self) -> Result<Farewell> {
        let closed = tokio::time::timeout(PATIENCE, self.connection.closed()).await;
        Ok(farewell(&closed.context("the hub does not hang up")?))
    }
}

/// What a connection ended with.
#[must_use]
pub fn farewell(error: &ConnectionError) -> Farewell {
    match error {
        ConnectionError::ApplicationClosed(close) => Farewell {
            code: CloseCode::from_number(close.error_code.into_inner()),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => Farewell {
            code: None,
            reason: error.to_string(),
        },
    }
}

/// The largest memory that a process has had, in MiB.
///
/// # Errors
/// When it is gone.
pub fn peak_memory_mib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("no VmHWM")?.parse()?;
    ensure!(kib > 0, "no memory");
    Ok(kib / 1024)
}
