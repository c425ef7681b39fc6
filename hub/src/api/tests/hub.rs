//! A hub with a real store, two organisations and one of everything in the first, behind TLS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use protocol::api::{FindingStatus, ROLES, Role, Severity, Verdict};
use protocol::document::SetHash;
use protocol::enroll::Pin;
use protocol::event::EventRecord;
use protocol::ids::{
    AgentId, EventId, FindingId, HoldId, OrgId, ResourceId, SessionId, SourceId, TokenId, UserId,
};
use protocol::wire::v1::LostReason;
use protocol::{Document, Scope};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::SecretString;
use serde_json::{Value, json};
use store::rows::SourceState;
use store::rows::access::{AgentCertificate, EnrolToken, Enrolment, Session, User};
use store::rows::event::{EventBlock, Loss, Quarantined};
use store::rows::finding::{self, Finding, FindingChange};
use store::rows::resource::{Coverage, Provenance, Resource, Source, Subject, SweepEnd};
use store::rows::retention::{DataClass, Hold};
use store::rows::verdict::{Judged, VerdictRow};
use store::{MasterKey, OrgStore, Store, StoreConfig};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::api::access::AccessKeys;
use crate::api::throttle::{Throttle, Whose};
use crate::api::{self, State};
use crate::ca::{Authority, Material};
use crate::checkpoints::Signer;
use crate::expiry::HubCertificates;
use crate::live::Live;
use crate::password::Hasher;
use crate::retention::Retention;
use crate::serve::RulesInForce;

/// The password of everybody here.
pub(super) const PASSWORD: &str = "drums under wet gravel";

pub(super) const CHECK: &str =
    "aws.ec2.security-group-allow-ingress-from-internet-to-tcp-port-postgres-5432";

/// What a request is sent with.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) user: Option<UserId>,
    token: Option<String>,
}

impl Login {
    pub(super) fn none() -> Self {
        Self {
            user: None,
            token: None,
        }
    }

    /// Takes what a sign-in answered.
    pub(super) fn of(tokens: &Value) -> Self {
        let token = tokens["access_token"].as_str().expect("no access token");
        Self {
            user: None,
            token: Some(token.to_owned()),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) status: StatusCode,
    headers: http::HeaderMap,
    pub(super) text: String,
}

impl Asked {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The body without what differs in every answer.
    pub(super) fn without_id(&self) -> Value {
        let mut body: Value = serde_json::from_str(&self.text).unwrap();
        let id = body.as_object_mut().unwrap().remove("request_id").unwrap();
        assert_eq!(id, self.header("x-request-id"));
        body
    }

    #[track_caller]
    pub(super) fn assert_problem(&self, status: StatusCode, code: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.without_id();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status.as_u16());
        assert_eq!(body["type"], "about:blank");
    }
}

/// An id, or a path with one, of the same form that nothing has.
pub(super) fn missing(id: &str) -> String {
    let (head, tail) = id.split_at(id.len() - 8);
    let changed = tail.chars().map(|letter| match letter {
        'a' => 'b',
        'b'..='z' => 'a',
        '2' => '3',
        other if other.is_ascii_digit() => '2',
        other => other,
    });
    head.to_owned() + &changed.collect::<String>()
}

/// Ids of what the first organisation holds.
pub(super) struct Seeded {
    pub(super) agent: AgentId,
    pub(super) source: SourceId,
    pub(super) resource: ResourceId,
    pub(super) finding: FindingId,
    pub(super) event: EventId,
    pub(super) hold: HoldId,
}

pub(super) struct TestHub {
    pub(super) store: Store,
    pub(super) live: Arc<Live>,
    pub(super) stop: CancellationToken,
    pub(super) pin: Pin,
    /// The organisation with data.
    pub(super) own: OrgId,
    /// The organisation without.
    pub(super) foreign: OrgId,
    /// A member of the first for each role.
    pub(super) members: BTreeMap<Role, Login>,
    /// The admin of the second.
    pub(super) stranger: Login,
    /// A hub administrator without any role.
    pub(super) hub_admin: Login,
    pub(super) seeded: Seeded,
    state: Arc<State>,
    address: SocketAddr,
    tls: TlsConnector,
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
    _folder: tempfile::TempDir,
}

fn pkcs8(seed: u8) -> Vec<u8> {
    use ed25519_dalek::pkcs8::EncodePrivateKey;
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    key.to_pkcs8_der().unwrap().as_bytes().to_vec()
}

/// The built-in checks, loaded once for all tests.
fn rules() -> Arc<RulesInForce> {
    static RULES: OnceLock<Arc<RulesInForce>> = OnceLock::new();
    let load = || Arc::new(RulesInForce::new("/nonexistent/checks.d".into()).unwrap());
    Arc::clone(RULES.get_or_init(load))
}

fn tls() -> (Arc<rustls::ServerConfig>, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let leaf: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&ring))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(leaf).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(ring)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), TlsConnector::from(Arc::new(client)))
}

async fn person(store: &Store, hash: &str, email: &str, roles: &[(OrgId, Role)]) -> UserId {
    let id = UserId::derived(&[email.as_bytes()]);
    let user = User {
        id,
        email: email.to_owned(),
        password_hash: hash.to_owned(),
        roles: roles.iter().copied().collect(),
        hub_admin: email.starts_with("root@"),
        created_at: Timestamp::now(),
        disabled: email.starts_with("disabled@"),
    };
    store.appliance().create_user(user).await.unwrap();
    id
}

impl TestHub {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let key = MasterKey::create(&folder.path().join("master.key"), &data).unwrap();
        let store = Store::create(StoreConfig::new(&data), key).unwrap();
        let appliance = store.appliance();
        let now = Timestamp::now();
        let own = appliance.create_org("own", now).await.unwrap().id;
        let foreign = appliance.create_org("foreign", now).await.unwrap().id;

        let hasher = Hasher::default();
        let hash = hasher.hash(SecretString::from(PASSWORD)).await.unwrap();
        let authority = Authority::load(&Material::generate(now).unwrap()).unwrap();
        let authority = Arc::new(authority);
        let pin = authority.pin();
        let live = Arc::new(Live::default());
        let stop = CancellationToken::new();
        let state = Arc::new(State {
            store: store.clone(),
            appliance,
            live: Arc::clone(&live),
            rules: rules(),
            keys: AccessKeys::from_pkcs8(&pkcs8(1)).unwrap(),
            throttle: Throttle::new(),
            hasher,
            founding: Arc::default(),
            certificates: Arc::new(HubCertificates::new(Arc::clone(&authority), None, None)),
            authority,
            agent_hubs: vec!["hub.example:7443".to_owned()],
            retention: Arc::new(Retention::new(
                store.clone(),
                Arc::new(Signer::of_seed([3; 32])),
            )),
            stop: stop.clone(),
        });
        let mut members = BTreeMap::new();
        for word in ROLES {
            let role = Role::from_word(word).unwrap();
            let email = format!("{word}@example.org");
            let user = person(&store, &hash, &email, &[(own, role)]).await;
            members.insert(role, sign_in(&state, user).await);
        }
        let admin = [(foreign, Role::Admin)];
        let stranger = person(&store, &hash, "stranger@example.org", &admin).await;
        let stranger = sign_in(&state, stranger).await;
        let hub_admin = person(&store, &hash, "root@example.org", &[]).await;
        let hub_admin = sign_in(&state, hub_admin).await;
        let data = store.maintenance(own).await.unwrap().unwrap();
        let seeded = seed(&store, &data).await;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server_tls, tls) = tls();
        tokio::spawn(api::serve(
            listener,
            server_tls,
            Arc::clone(&state),
            stop.clone(),
        ));
        Self {
            store,
            live,
            stop,
            pin,
            own,
            foreign,
            members,
            stranger,
            hub_admin,
            seeded,
            state,
            address,
            tls,
            kept: Mutex::default(),
            _folder: folder,
        }
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.tls.connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(async move {
            // Whoever waits for an answer learns of the break from its own error.
            let _ = connection.await;
        });
        sender
    }

    fn request(login: &Login, method: Method, path: &str) -> http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost");
        if let Some(token) = &login.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Asked {
        let mut kept = self.kept.lock().unwrap().take();
        let is_open = match &mut kept {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        let mut sender = match kept {
            Some(sender) if is_open => sender,
            Some(_) | None => self.connect().await,
        };
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        *self.kept.lock().unwrap() = Some(sender);
        Asked {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(super) async fn ask_as(
        &self,
        login: &Login,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Asked {
        if path == "/api/v1/stream" || path.starts_with("/api/v1/stream?") {
            return self.open(login, path).await.0;
        }
        let mut request = Self::request(login, method, path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        self.send(request.body(Full::from(bytes)).unwrap()).await
    }

    /// Leaves a scope of so many resources held, of which all seem gone; returns its text.
    pub(super) async fn hold_back(&self, resources: u64) -> String {
        let data = self.store.maintenance(self.own).await.unwrap().unwrap();
        let scope = Scope::of_type("aws.ec2.vpc", "123456789012", "eu-west-1");
        let (agent, source, now) = (self.seeded.agent, self.seeded.source, Timestamp::now());
        let mut set = SetHash::default();
        for generation in [1, 2] {
            let mut write = data.write();
            write.begin_sweep(&scope, agent, source, generation, now);
            for n in 0..resources {
                if generation == 2 {
                    continue;
                }
                let document: Document = serde_json::from_value(json!({
                    "urn": scope.urn(&format!("vpc-{n}")).to_string(), "type": "aws.ec2.vpc",
                    "provider": "aws", "account": "123456789012", "region": "eu-west-1",
                    "id": format!("vpc-{n}"), "name": "", "tags": {}, "native_id": "",
                    "config": {}, "collected_at": "2026-01-01T00:00:00Z",
                }))
                .unwrap();
                set.add(&document.urn.to_string(), &document.content_hash());
                let from = Provenance {
                    agent,
                    source,
                    at: now,
                };
                write.put_resource(document, from);
            }
            write.end_sweep(SweepEnd {
                scope: scope.clone(),
                generation,
                claimed: std::mem::take(&mut set),
                coverage: Coverage::Everything,
                at: now,
            });
            write.commit().await.unwrap();
        }
        scope.to_string()
    }

    pub(super) async fn get(&self, login: &Login, path: &str) -> Asked {
        self.ask_as(login, Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Asked {
        self.post_as(&Login::none(), path, body).await
    }

    pub(super) async fn post_as(&self, login: &Login, path: &str, body: &Value) -> Asked {
        self.ask_as(login, Method::POST, path, Some(body)).await
    }

    pub(super) async fn write_once(
        &self,
        login: &Login,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Asked {
        let request = Self::request(login, Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key);
        self.send(request.body(Full::from(body.to_string())).unwrap())
            .await
    }

    pub(super) async fn send_text(
        &self,
        login: &Login,
        path: &str,
        kind: &str,
        body: &str,
    ) -> Asked {
        let request = Self::request(login, Method::POST, path).header(header::CONTENT_TYPE, kind);
        self.send(request.body(Full::from(body.to_owned())).unwrap())
            .await
    }

    /// Lets nobody's password be looked at until what it returns is dropped.
    pub(super) async fn hold_passwords(&self) -> tokio::sync::OwnedSemaphorePermit {
        self.state.hasher.hold().await
    }

    /// Sends a write and ends the connection before long.
    pub(super) async fn hang_up(
        &self,
        login: &Login,
        path: &str,
        body: &Value,
        patience: Duration,
    ) {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.tls.connect(name, stream).await.unwrap();
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Self::request(login, Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::<Bytes>::from(body.to_string()));
        let _ = tokio::time::timeout(patience, sender.send_request(request.unwrap())).await;
        connection.abort();
    }

    /// Asks for a stream, which has an end only when it is refused.
    async fn open(&self, login: &Login, path: &str) -> (Asked, Option<Incoming>) {
        let mut sender = self.connect().await;
        let request = Self::request(login, Method::GET, path);
        let request = request.body(Full::default()).unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let mut asked = Asked {
            status: parts.status,
            headers: parts.headers,
            text: String::new(),
        };
        if asked.status == StatusCode::OK {
            return (asked, Some(body));
        }
        let text = body.collect().await.unwrap().to_bytes();
        asked.text = String::from_utf8(text.to_vec()).unwrap();
        (asked, None)
    }

    pub(super) async fn stream(&self, login: &Login) -> Stream {
        let (asked, body) = self.open(login, "/api/v1/stream").await;
        assert_eq!(asked.header("content-type"), "text/event-stream");
        Stream(body.expect("the stream was refused"))
    }

    /// Stores events in blocks of fifty; every tenth is of high severity.
    pub(super) async fn add_events(&self, count: i64) {
        let data = self.store.maintenance(self.own).await.unwrap().unwrap();
        let records: Vec<EventRecord> = (0..count)
            .map(|n| EventRecord {
                time_ms: n,
                severity: if n % 10 == 0 { 4 } else { 1 },
                action: format!("burst {n}"),
                ..EventRecord::default()
            })
            .collect();
        for records in records.chunks(50) {
            let mut write = data.write();
            let block = block(self.seeded.agent, self.seeded.source, records);
            write.put_events(block, &records.iter().map(EventRecord::view).collect());
            write.commit().await.unwrap();
        }
    }

    /// Stores large events, in blocks of ten.
    pub(super) async fn add_large_events(&self, count: usize, bytes: usize) {
        let data = self.store.maintenance(self.own).await.unwrap().unwrap();
        let records: Vec<EventRecord> = (0..count)
            .map(|n| EventRecord {
                action: format!("large {n}"),
                raw: "x".repeat(bytes),
                ..EventRecord::default()
            })
            .collect();
        for records in records.chunks(10) {
            let mut write = data.write();
            let block = block(self.seeded.agent, self.seeded.source, records);
            write.put_events(block, &records.iter().map(EventRecord::view).collect());
            write.commit().await.unwrap();
        }
    }

    /// Stores resources of so many bytes each.
    pub(super) async fn add_large_resources(&self, count: usize, bytes: usize) {
        let data = self.store.maintenance(self.own).await.unwrap().unwrap();
        let (agent, source, now) = (self.seeded.agent, self.seeded.source, Timestamp::now());
        for n in 0..count {
            let document: Document = serde_json::from_value(json!({
                "urn": format!("aws/123456789012/us-east-1/ec2.vpc/vpc-{n}"),
                "type": "aws.ec2.vpc", "provider": "aws", "account": "123456789012",
                "region": "us-east-1", "id": format!("vpc-{n}"), "name": format!("{}", n % 3),
                "tags": {}, "native_id": format!("vpc-{n}"),
                "config": {"Description": "x".repeat(bytes)},
                "collected_at": "2026-01-01T00:00:00Z",
            }))
            .unwrap();
            let at = now;
            let mut write = data.write();
            write.begin_sweep(&document.urn.scope, agent, source, 1, now);
            write.put_resource(document, Provenance { agent, source, at });
            write.commit().await.unwrap();
        }
    }

    /// Stores three verdicts, one of each kind, on each of so many resources.
    pub(super) async fn add_verdicts(&self, count: usize) {
        let data = self.store.maintenance(self.own).await.unwrap().unwrap();
        let kinds = [Verdict::Pass, Verdict::Fail, Verdict::Unknown];
        let mut write = data.write();
        for n in 0..count {
            let urn = format!("aws/123456789012/us-east-1/ec2.vpc/vpc-{n}");
            let judged = kinds.into_iter().map(|verdict| Judged {
                check_id: format!("aws.ec2.vpc-{verdict}"),
                verdict,
                evaluated_at: Timestamp::now(),
                facts_hash: [0; 32],
                due_at: None,
                gaps: vec![],
            });
            write.put_verdicts(VerdictRow {
                subject: Subject::Resource(urn.parse().unwrap()),
                verdicts: judged.collect(),
            });
        }
        write.commit().await.unwrap();
    }

    /// Uses up what a person may ask for, for some time to come.
    pub(super) fn exhaust(&self, login: &Login) {
        let whose = Whose::User(login.user.unwrap());
        // Taken of a moment to come, so that nothing comes back while the test runs.
        let later = Instant::now() + Duration::from_secs(60);
        while self.state.throttle.take(whose, later).is_ok() {}
    }

    /// A token that was good once.
    pub(super) fn expired(&self, login: &Login) -> Login {
        let user = login.user.unwrap();
        let session = SessionId::derived(&[user.as_bytes()]);
        let long_ago = Timestamp::now() - SignedDuration::from_hours(1);
        let token = self.state.keys.sign(user, session, long_ago).unwrap();
        Login {
            user: Some(user),
            token: Some(token),
        }
    }

    /// A token of the same person and session, signed by another key.
    pub(super) fn forged(&self, login: &Login) -> Login {
        let user = login.user.unwrap();
        let session = SessionId::derived(&[user.as_bytes()]);
        let keys = AccessKeys::from_pkcs8(&pkcs8(2)).unwrap();
        Login {
            user: Some(user),
            token: Some(keys.sign(user, session, Timestamp::now()).unwrap()),
        }
    }

    /// A good token of a session that was ended.
    pub(super) async fn ended(&self, role: Role) -> Login {
        let email = format!("{role}@example.org");
        let body = json!({"email": email, "password": PASSWORD});
        let login = Login::of(&self.post("/api/v1/login", &body).await.json());
        let asked = self
            .ask_as(&login, Method::POST, "/api/v1/logout", None)
            .await;
        assert_eq!(asked.status, StatusCode::NO_CONTENT);
        login
    }

    /// A good token and session of an account that is disabled.
    pub(super) async fn disabled(&self) -> Login {
        let roles = [(self.own, Role::Admin)];
        let user = person(&self.store, "", "disabled@example.org", &roles).await;
        sign_in(&self.state, user).await
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// An open stream.
pub(super) struct Stream(Incoming);

impl Stream {
    /// The next event, or `None` at the end; keep-alive comments are left out.
    pub(super) async fn next(&mut self, patience: Duration) -> Option<String> {
        loop {
            let frame = tokio::time::timeout(patience, self.0.frame());
            let frame = frame.await.expect("nothing came in time")?;
            let text = frame.unwrap().into_data().unwrap_or_default();
            let text = String::from_utf8(text.to_vec()).unwrap();
            if !text.starts_with(':') && !text.is_empty() {
                return Some(text);
            }
        }
    }
}

/// Makes a session without the cost of a password.
async fn sign_in(state: &State, user: UserId) -> Login {
    let id = SessionId::derived(&[user.as_bytes()]);
    let now = Timestamp::now();
    let session = Session {
        id,
        user,
        expires_at: now + SignedDuration::from_mins(30),
        value: Vec::new(),
    };
    state.appliance.put_session(session).await.unwrap();
    Login {
        user: Some(user),
        token: Some(state.keys.sign(user, id, now).unwrap()),
    }
}

pub(super) fn block(agent: AgentId, source: SourceId, records: &[EventRecord]) -> EventBlock {
    let mut batch = protocol::batch::BatchBuilder::default();
    for record in records {
        batch.push(record).unwrap();
    }
    let (payload, payload_bytes) = batch.compress().unwrap();
    EventBlock {
        agent,
        source,
        received_at: Timestamp::now(),
        epoch: [1; 16],
        first_seq: 1,
        payload,
        payload_bytes,
    }
}

/// Puts one of everything into an organisation.
async fn seed(store: &Store, data: &OrgStore) -> Seeded {
    let now = Timestamp::now();
    let org = data.org();
    let token = TokenId::from_bytes([1; 16]);
    let agent = AgentId::from_bytes([2; 16]);
    let source = Source::id_of(agent, "shop");
    data.put_token(EnrolToken {
        id: token,
        org,
        public_key: [0; 32],
        expires_at: now + SignedDuration::from_hours(1),
        uses_left: 1,
        bound_name: None,
        bound_accounts: None,
        labels: BTreeMap::new(),
        made_by: None,
        made_at: now,
    })
    .await
    .unwrap();
    let enrolment = Enrolment {
        agent,
        name: "web".to_owned(),
        certificate: AgentCertificate {
            serial: vec![1],
            not_after: now + SignedDuration::from_hours(24 * 30),
            root: Pin([4; 32]),
        },
    };
    let appliance = store.appliance();
    appliance.redeem_token(token, enrolment, now).await.unwrap();

    let document: Document = serde_json::from_value(json!({
        "urn": "aws/123456789012/us-east-1/ec2.security-group/sg-0abc",
        "type": "aws.ec2.security-group", "provider": "aws", "account": "123456789012",
        "region": "us-east-1", "id": "sg-0abc", "name": "db", "tags": {"env": "prod"},
        "native_id": "arn:aws:ec2:us-east-1:123456789012:security-group/sg-0abc",
        "config": {"IpPermissions": []}, "collected_at": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    let urn = document.urn.clone();
    let finding = Finding::id_of(org, CHECK, &urn);
    let row = Finding {
        id: finding,
        check_id: CHECK.to_owned(),
        title: "PostgreSQL is open".to_owned(),
        severity: Severity::High,
        status: FindingStatus::Open,
        verdict: Verdict::Fail,
        unknown_since: None,
        cause: None,
        resource: finding::ResourceRef {
            urn: urn.clone(),
            type_name: document.type_name.clone(),
            name: document.name.clone(),
            account: document.account.clone(),
            region: document.region.clone(),
            provider: document.provider.clone(),
        },
        first_seen: now,
        last_seen: now,
        resolved_at: None,
        reopened: 0,
        evidence: BTreeMap::from([("IpPermissions".to_owned(), json!([]))]),
        gaps: BTreeMap::new(),
        facts_hash: document.content_hash(),
        risk: finding::Risk::default(),
        mute: None,
        owner: None,
    };
    let opened = finding::Transition {
        at: now,
        from: None,
        to: FindingStatus::Open,
        verdict: Verdict::Fail,
        by: finding::Actor::Hub,
        note: "the check fails".to_owned(),
    };
    let mut write = data.write();
    let reported = Source {
        id: source,
        agent,
        name: "shop".to_owned(),
        kind: "aws".to_owned(),
        state: SourceState::Ok,
        last_sync: Some(now),
        calls: 1,
        documents: 1,
        faults: vec![],
        error: None,
    };
    write.put_source(reported, now);
    write.begin_sweep(&urn.scope, agent, source, 1, now);
    let facts_hash = document.content_hash();
    let from = Provenance {
        agent,
        source,
        at: now,
    };
    write.put_resource(document, from);
    write.put_verdicts(VerdictRow {
        subject: Subject::Resource(urn.clone()),
        verdicts: vec![Judged {
            check_id: CHECK.to_owned(),
            verdict: Verdict::Fail,
            evaluated_at: now,
            facts_hash,
            due_at: None,
            gaps: vec![],
        }],
    });
    write.update_finding(finding, move |_| {
        Some(FindingChange {
            finding: row.clone(),
            transition: Some(opened.clone()),
        })
    });
    write.quarantine(Quarantined {
        at: now,
        agent,
        source: None,
        reason: "no JSON".to_owned(),
        what: "{".to_owned(),
    });
    write.put_loss(Loss {
        at: now,
        agent,
        source,
        lane: 1,
        epoch: [1; 16],
        first_seq: 10,
        last_seq: 19,
        unsequenced: 0,
        reason: LostReason::SpoolFull,
        from: None,
        to: None,
    });
    let record = EventRecord {
        time_ms: now.as_millisecond(),
        class_uid: 2004,
        severity: 4,
        action: "sshd: brute force".to_owned(),
        actor: "root".to_owned(),
        ..EventRecord::default()
    };
    let block = block(agent, source, std::slice::from_ref(&record));
    let event = write
        .put_events(block, &[record.view()].into_iter().collect())
        .event(0);
    let hold = HoldId::from_bytes([9; 16]);
    write.hold(Hold {
        id: hold,
        class: Some(DataClass::Losses),
        reason: "a matter".to_owned(),
        by: finding::Actor::Local,
        since: now,
    });
    write.commit().await.unwrap();
    Seeded {
        agent,
        source,
        resource: Resource::id_of(org, &urn),
        finding,
        event,
        hold,
    }
}
