//! The two parties of a test: a hub on loopback, and an agent that is driven by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use jiff::{SignedDuration, Timestamp};
use protocol::batch::{BatchBuilder, BatchError, Place, Signer, seal_lost};
use protocol::enroll;
use protocol::enroll::{EXPORTER_LABEL, HUB_NAME, Reply, Request, signed_message};
use protocol::frame::{Decoder, Lane};
use protocol::ids::{AgentId, OrgId, SourceId, TokenId};
use protocol::session::CloseCode;
use protocol::wire::v1::{self, Ack, HighWater, Lost, Message, SweepItem, Welcome};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use store::rows::access::{AgentStatus, EnrolToken, Enrolment};
use store::{AgentBounds, MasterKey, OrgStore, Store, StoreConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ca::Authority;
use crate::identity::{self, Identity};
use crate::ingest::{self, Quotas, Rates, open};
use crate::live::Live;
use crate::rotation::Rotation;
use crate::tls::{self, CurrentLeaf};

/// Longer than anything here takes, shorter than a person's patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const EPOCH: [u8; 16] = [9; 16];
pub(super) const SOURCE: SourceId = SourceId::from_bytes([3; 16]);
pub(super) const ACCOUNT: &str = "123456789012";

pub(super) struct Hub {
    pub(super) store: Store,
    pub(super) live: Arc<Live>,
    pub(super) authority: Arc<Authority>,
    pub(super) rotation: Rotation,
    pub(super) address: SocketAddr,
    pub(super) org: OrgId,
    pub(super) stop: CancellationToken,
    pub(super) serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// No limits.
pub(super) const NO_QUOTAS: Quotas = Quotas {
    agent: NO_RATES,
    org: NO_RATES,
    burst: Duration::from_secs(1),
};

const NO_RATES: Rates = Rates {
    bytes: None,
    events: None,
};

pub(super) async fn hub() -> Hub {
    hub_with(NO_QUOTAS).await
}

pub(super) async fn hub_with(quotas: Quotas) -> Hub {
    hub_of(quotas, AgentBounds::default()).await
}

pub(super) async fn hub_bounded(bounds: AgentBounds) -> Hub {
    hub_of(NO_QUOTAS, bounds).await
}

async fn hub_of(quotas: Quotas, agent_bounds: AgentBounds) -> Hub {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let master = MasterKey::create(&folder.path().join("master.key"), &data_dir).unwrap();
    let config = StoreConfig {
        agent_bounds,
        ..StoreConfig::new(&data_dir)
    };
    let store = Store::create(config, master).unwrap();
    let appliance = store.appliance();
    let now = Timestamp::now();
    let org = appliance.create_org("acme", now).await.unwrap().id;
    // Old enough to have signed certificates that have ended.
    let founded_at = now - SignedDuration::from_hours(365 * 24);
    identity::establish(&appliance, &[], founded_at)
        .await
        .unwrap();
    let (live, stop) = (Arc::new(Live::default()), CancellationToken::new());
    let any = "127.0.0.1:0".parse().unwrap();
    let (address, rotation, authority, serve) = port(&store, any, &live, &stop, quotas).await;
    Hub {
        rotation,
        store,
        live,
        authority,
        address,
        org,
        stop,
        serving: tokio::spawn(serve),
        _folder: folder,
    }
}

/// Opens the port of the hub whose store this is, as `serve` does.
pub(super) async fn port(
    store: &Store,
    address: SocketAddr,
    live: &Arc<Live>,
    stop: &CancellationToken,
    quotas: Quotas,
) -> (
    SocketAddr,
    Rotation,
    Arc<Authority>,
    impl Future<Output = ()> + Send + use<>,
) {
    let appliance = store.appliance();
    let identity = Identity::load(&appliance).await.unwrap();
    let authority = Arc::clone(&identity.authority);
    let leaf = CurrentLeaf::issue(Arc::clone(&authority), vec![], Timestamp::now()).unwrap();
    let tls = tls::for_agents(&authority, Arc::clone(&leaf)).unwrap();
    let port = open(address, &identity, tls).unwrap();
    let address = port.address();
    let parts = ingest::Hub {
        store: store.clone(),
        appliance,
        authority: Arc::clone(&authority),
        live: Arc::clone(live),
        epoch: identity.epoch,
        quotas,
        fair: Arc::default(),
        bundle_key: identity.bundle_key.public(),
    };
    let serve = ingest::serve(port, Arc::new(parts), stop.clone());
    let rotation = Rotation::new(store.clone(), Arc::clone(&authority), leaf);
    (address, rotation, authority, serve)
}

impl Hub {
    pub(super) async fn org_store(&self) -> OrgStore {
        self.store.maintenance(self.org).await.unwrap().unwrap()
    }

    pub(super) async fn token(
        &self,
        change: impl FnOnce(&mut EnrolToken),
    ) -> (TokenId, SigningKey) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let now = Timestamp::now();
        let mut token = EnrolToken {
            id: TokenId::from_bytes(uuid::Uuid::new_v4().into_bytes()),
            org: self.org,
            public_key: key.verifying_key().to_bytes(),
            expires_at: now + SignedDuration::from_hours(1),
            uses_left: 1,
            bound_name: None,
            bound_accounts: None,
            labels: BTreeMap::new(),
            made_by: None,
            made_at: now,
        };
        change(&mut token);
        let id = token.id;
        self.org_store().await.put_token(token).await.unwrap();
        (id, key)
    }

    /// Enrols over the wire as an agent does.
    pub(super) async fn enroll(&self, token: &(TokenId, SigningKey)) -> Result<Agent, String> {
        let (_endpoint, connection) = connect(self, None, enroll::ALPN).await.unwrap();
        let mut exporter = [0; 32];
        connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .unwrap();
        let (request, key) = enrolment(token, &exporter);
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let length = u32::try_from(request.len()).unwrap();
        send.write_all(&length.to_le_bytes()).await.unwrap();
        send.write_all(&request).await.unwrap();
        let reply = receive.read_to_end(enroll::MESSAGE_BYTES).await.unwrap();
        self.issued(&reply[4..], &key)
    }

    /// Reads the answer to an [`enrolment`].
    pub(super) fn issued(&self, reply: &[u8], key: &KeyPair) -> Result<Agent, String> {
        match postcard::from_bytes(reply).unwrap() {
            Reply::Issued {
                org,
                agent,
                chain,
                roots,
                ..
            } => {
                assert_eq!(org, self.org);
                let own = self.authority.roots();
                assert_eq!(
                    roots,
                    own.iter().map(|root| root.to_vec()).collect::<Vec<_>>()
                );
                Ok(Agent {
                    id: agent,
                    chain: chain.into_iter().map(CertificateDer::from).collect(),
                    roots: roots.into_iter().map(CertificateDer::from).collect(),
                    pkcs8: key.serialize_der(),
                })
            }
            Reply::Refused { code, .. } => Err(code),
        }
    }

    pub(super) async fn agent(&self) -> Agent {
        let token = self.token(|_| {}).await;
        self.enroll(&token).await.unwrap()
    }

    /// An agent that enrolled at another time.
    pub(super) async fn agent_made_at(&self, made_at: Timestamp) -> Agent {
        let token = self.token(|_| {}).await;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&key);
        let id = AgentId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        let leaf = self
            .authority
            .issue_agent_leaf(request.unwrap().der(), self.org, id, made_at)
            .unwrap();
        let enrolment = Enrolment {
            agent: id,
            name: "old".into(),
            certificate: leaf.certificate,
        };
        let appliance = self.store.appliance();
        let redeemed = appliance.redeem_token(token.0, enrolment, Timestamp::now());
        redeemed.await.unwrap();
        Agent {
            id,
            chain: leaf.chain,
            roots: self.authority.roots(),
            pkcs8: key.serialize_der(),
        }
    }

    pub(super) async fn status(&self, agent: &Agent) -> Option<AgentStatus> {
        let view = self.org_store().await.agent(agent.id).await.unwrap();
        view.unwrap().status
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.serving)
            .await
            .expect("the port ends")
            .unwrap();
        self.store.close().await;
    }
}

pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The hub's roots, as far as it knows them.
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) pkcs8: Vec<u8>,
}

pub(super) struct AgentKey(EcdsaKeyPair);

impl Signer for AgentKey {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        Ok(signature.as_ref().try_into().unwrap())
    }
}

impl Agent {
    /// A certificate request for this agent's key.
    pub(super) fn request(&self) -> Vec<u8> {
        let pkcs8 = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256);
        let request = CertificateParams::default().serialize_request(&key.unwrap());
        request.unwrap().der().to_vec()
    }

    /// The same agent with another certificate.
    pub(super) fn with_chain(&self, chain: Vec<Vec<u8>>) -> Self {
        Self {
            id: self.id,
            chain: chain.into_iter().map(CertificateDer::from).collect(),
            roots: self.roots.clone(),
            pkcs8: self.pkcs8.clone(),
        }
    }

    pub(super) fn signer(&self) -> AgentKey {
        let (rng, alg) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        AgentKey(EcdsaKeyPair::from_pkcs8(alg, &self.pkcs8, &rng).unwrap())
    }
}

/// Returns a request to enrol with a key of its own.
pub(super) fn enrolment(
    (id, token): &(TokenId, SigningKey),
    exporter: &[u8; 32],
) -> (Vec<u8>, KeyPair) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = CertificateParams::default().serialize_request(&key);
    let csr = request.unwrap().der().to_vec();
    let signature = token.sign(&signed_message(&csr, exporter)).to_vec();
    let request = Request {
        token: *id,
        csr,
        signature,
        name: "web-1".into(),
        agent_version: "1.2.3".into(),
    };
    (postcard::to_stdvec(&request).unwrap(), key)
}

/// Returns the TLS settings of an agent, or of one that has not enrolled.
pub(super) fn client_tls(hub: &Hub, agent: Option<&Agent>, alpn: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let known = agent.map_or_else(|| hub.authority.roots(), |agent| agent.roots.clone());
    for root in known {
        roots.add(root).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match agent {
        Some(agent) => {
            let key = PrivatePkcs8KeyDer::from(agent.pkcs8.clone()).into();
            config
                .with_client_auth_cert(agent.chain.clone(), key)
                .unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

pub(super) async fn connect(
    hub: &Hub,
    agent: Option<&Agent>,
    alpn: &[u8],
) -> Result<(Endpoint, Connection), ConnectionError> {
    let crypto = QuicClientConfig::try_from(client_tls(hub, agent, alpn)).unwrap();
    let config = ClientConfig::new(Arc::new(crypto));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint
        .connect_with(config, hub.address, HUB_NAME)
        .unwrap();
    let connection = tokio::time::timeout(PATIENCE, connecting).await;
    connection
        .expect("a handshake takes less")
        .map(|connection| (endpoint, connection))
}

/// Waits until the hub closes a connection; returns its code and words.
pub(super) async fn closed(connection: &Connection) -> (CloseCode, String) {
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
    let closed = closed.expect("the hub closes the connection");
    let ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed}")
    };
    (
        CloseCode::from_number(close.error_code.into_inner()).unwrap(),
        String::from_utf8(close.reason.to_vec()).unwrap(),
    )
}

/// The greeting of an agent whose clock is 90 s late.
pub(super) fn hello() -> v1::Hello {
    v1::Hello {
        versions: (v1::SCHEMA, v1::SCHEMA),
        agent_version: "1.2.3".into(),
        epoch: EPOCH,
        process: 1,
        witness: None,
        wall_ms: Timestamp::now().as_millisecond() - 90_000,
    }
}

/// The agent's side of a session, by hand.
pub(super) struct Talk {
    pub(super) connection: Connection,
    pub(super) signer: AgentKey,
    pub(super) lanes: BTreeMap<Lane, SendStream>,
    pub(super) control: RecvStream,
    pub(super) decoder: Decoder,
    pub(super) welcome: Welcome,
    pub(super) next_seq: BTreeMap<Lane, u64>,
    pub(super) source: SourceId,
    pub(super) authority: Option<v1::Authority>,
    /// What came while something else was waited for.
    pub(super) unheard: Vec<Message>,
    _endpoint: Endpoint,
}

impl Talk {
    pub(super) async fn open(hub: &Hub, agent: &Agent) -> Self {
        Self::open_after(hub, agent, 0).await
    }

    /// Opens a session as another run of the agent's program.
    pub(super) async fn open_as(hub: &Hub, agent: &Agent, process: u64) -> Self {
        let hello = v1::Hello { process, ..hello() };
        Self::open_with(hub, agent, 0, hello).await
    }

    /// Opens a session after so many streams that stay silent.
    pub(super) async fn open_after(hub: &Hub, agent: &Agent, silent: usize) -> Self {
        Self::open_with(hub, agent, silent, hello()).await
    }

    async fn open_with(hub: &Hub, agent: &Agent, silent: usize, hello: v1::Hello) -> Self {
        let (endpoint, connection) = connect(hub, Some(agent), v1::ALPN).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..silent {
            held.push(connection.open_bi().await.unwrap());
        }
        let (mut send, control) = connection.open_bi().await.unwrap();
        send.write_all(&Message::Hello(hello).encode())
            .await
            .unwrap();
        // They stay open as long as the connection does.
        std::mem::forget(held);
        let mut talk = Self {
            connection,
            signer: agent.signer(),
            lanes: BTreeMap::from([(Lane::Control, send)]),
            control,
            decoder: Decoder::new(Lane::Control),
            welcome: Welcome {
                version: 0,
                hub_epoch: [0; 16],
                high_water: vec![],
                commit: 0,
                credits: vec![],
                wall_ms: 0,
            },
            next_seq: BTreeMap::new(),
            source: SOURCE,
            authority: None,
            unheard: Vec::new(),
            _endpoint: endpoint,
        };
        let Message::Welcome(welcome) = talk.hear().await else {
            panic!("no welcome")
        };
        for HighWater { lane, seq, .. } in &welcome.high_water {
            let lane = Lane::from_number(*lane).unwrap();
            talk.next_seq.insert(lane, seq + 1);
        }
        talk.welcome = welcome;
        talk
    }

    /// Asks for a certificate and returns the answer.
    pub(super) async fn renew(&mut self, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
        let renew = Message::Renew(v1::Renew { csr }).encode();
        self.write(Lane::Control, &renew).await;
        let answer = self.hear().await;
        if let Message::Renewed(renewed) = answer {
            return Ok(renewed.chain);
        }
        let Message::NotRenewed(refused) = answer else {
            panic!("{answer:?}");
        };
        Err(refused.reason)
    }

    /// Returns the next message of the hub, but for what it says of its authority each time.
    pub(super) async fn hear(&mut self) -> Message {
        loop {
            if let Some(frame) = self.decoder.pop().unwrap() {
                let message = Message::decode(&frame).unwrap().unwrap();
                let Message::Authority(authority) = message else {
                    return message;
                };
                self.authority = Some(authority);
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.control.read_chunk(4096, true));
            let chunk = chunk.await.expect("the hub says something").unwrap();
            self.decoder.push(&chunk.expect("the stream is open").bytes);
        }
    }

    /// Returns what the hub says of its authority next.
    pub(super) async fn told(&mut self) -> v1::Authority {
        loop {
            if let Some(told) = self.authority.take() {
                return told;
            }
            while let Some(frame) = self.decoder.pop().unwrap() {
                let message = Message::decode(&frame).unwrap().unwrap();
                let Message::Authority(told) = message else {
                    self.unheard.push(message);
                    continue;
                };
                return told;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.control.read_chunk(4096, true));
            let chunk = chunk.await.expect("the hub says something").unwrap();
            self.decoder.push(&chunk.expect("the stream is open").bytes);
        }
    }

    pub(super) async fn write(&mut self, lane: Lane, bytes: &[u8]) {
        if !self.lanes.contains_key(&lane) {
            let (send, _) = self.connection.open_bi().await.unwrap();
            self.lanes.insert(lane, send);
        }
        let stream = self.lanes.get_mut(&lane).unwrap();
        // The hub may have closed; the test then looks at why.
        let _ = stream.write_all(bytes).await;
    }

    pub(super) fn batch<T: Serialize>(&self, lane: Lane, first_seq: u64, items: &[T]) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        for item in items {
            builder.push(item).unwrap();
        }
        let place = Place {
            lane,
            epoch: EPOCH,
            first_seq,
            source: self.source,
            made_at_ms: 0,
        };
        builder.seal(&place, &self.signer).unwrap().1
    }

    /// Says that the next `count` items of a lane are lost, and waits for the acknowledgement.
    pub(super) async fn lose(&mut self, lane: Lane, count: u32, lost: &Lost) -> Ack {
        let first_seq = *self.next_seq.entry(lane).or_insert(1);
        let place = Place {
            lane,
            epoch: EPOCH,
            first_seq,
            source: self.source,
            made_at_ms: 0,
        };
        let (header, frame) = seal_lost(&place, count, lost, &self.signer).unwrap();
        self.next_seq.insert(lane, header.last_seq() + 1);
        self.write(lane, &frame).await;
        self.acknowledged(lane, header.last_seq()).await
    }

    /// Sends items and waits for their acknowledgement.
    pub(super) async fn send<T: Serialize>(&mut self, lane: Lane, items: &[T]) -> Ack {
        let first_seq = *self.next_seq.entry(lane).or_insert(1);
        let frame = self.batch(lane, first_seq, items);
        let last_seq = first_seq + u64::try_from(items.len()).unwrap() - 1;
        self.next_seq.insert(lane, last_seq + 1);
        self.write(lane, &frame).await;
        self.acknowledged(lane, last_seq).await
    }

    async fn acknowledged(&mut self, lane: Lane, last_seq: u64) -> Ack {
        loop {
            let message = self.hear().await;
            assert!(!matches!(message, Message::Refused(_)), "{message:?}");
            if let Message::Ack(ack) = message {
                assert_eq!((ack.lane, ack.seq), (lane.number(), last_seq));
                return ack;
            }
            self.unheard.push(message);
        }
    }

    pub(super) async fn sweep(&mut self, items: &[SweepItem]) -> Ack {
        self.send(Lane::Inventory, items).await
    }
}
