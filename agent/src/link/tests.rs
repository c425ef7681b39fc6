use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

use protocol::enroll::HUB_NAME;
use protocol::frame::Frame;
use protocol::mux::{Demux, Piece};
use protocol::wire::v1;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint};
use rustls::crypto::ring::default_provider;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;

const ALPN: &[u8] = b"test";

/// Longer than anything here takes, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn config() -> Config {
    Config {
        gso: false,
        connect_timeout: Duration::from_secs(3),
        proxy: None,
        probe_quic_after: Duration::from_secs(60),
        return_after: Duration::from_secs(300),
        ping_every: None,
    }
}

/// Returns both sides' TLS settings.
fn tls() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
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
        .dangerous()
        .with_custom_certificate_verifier(tls::rooted(roots).unwrap())
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN.to_vec()];
    (Arc::new(server), Arc::new(client))
}

fn quic_hub(server: Arc<rustls::ServerConfig>) -> Endpoint {
    let crypto = QuicServerConfig::try_from(server).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

/// Takes one TCP connection through its handshake.
async fn accept(listener: &TcpListener, server: Arc<rustls::ServerConfig>) -> TlsStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    TlsAcceptor::from(server).accept(stream).await.unwrap()
}

/// Opens a port where UDP goes nowhere and TCP is listened to.
async fn without_udp() -> (TcpListener, UdpSocket, String) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (tcp, udp, address.to_string());
        }
    }
}

/// Reads a line's bytes until its farewell or its end.
async fn read(stream: &mut TlsStream<TcpStream>) -> (Vec<(Lane, usize)>, Option<v1::Close>) {
    let mut demux = Demux::default();
    let mut runs: Vec<(Lane, usize)> = Vec::new();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = stream.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return (runs, None);
        }
        for piece in demux.push(&buffer[..length]).unwrap() {
            match piece {
                Piece::Bytes(lane, bytes) => runs.push((lane, bytes.len())),
                Piece::Close(close) => return (runs, Some(close)),
            }
        }
    }
}

fn frame(lane: Lane, bytes: usize) -> Vec<u8> {
    Frame {
        schema: v1::SCHEMA,
        lane,
        kind: v1::kind::BATCH,
        codec: v1::CODEC_BATCH,
        payload: vec![7; bytes],
    }
    .encode()
}

#[test]
fn the_hub_hears_of_a_leave_over_quic_though_the_program_ends_right_after() {
    let (server, client) = tls();
    let hub = one_thread();
    let endpoint = hub.block_on(async { quic_hub(server) });
    let address = endpoint.local_addr().unwrap().to_string();
    let heard = std::thread::spawn(move || {
        hub.block_on(async {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            tokio::time::timeout(PATIENCE, connection.closed()).await
        })
    });
    let agent = one_thread();
    agent.block_on(async {
        let connection = dial(&address, client, &config(), Order::QuicFirst).await;
        let (line, _heard) = connection.unwrap().open();
        assert_eq!(line.transport(), Transport::Quic);
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

#[test]
fn the_hub_hears_of_a_leave_over_tcp_though_the_program_ends_right_after() {
    let (server, client) = tls();
    let hub = one_thread();
    let (listener, udp, address) = hub.block_on(without_udp());
    let heard = std::thread::spawn(move || {
        hub.block_on(async {
            let mut stream = accept(&listener, server).await;
            // What the agent does not read must not cost it its farewell.
            stream.write_all(&frame(Lane::Control, 500)).await.unwrap();
            stream.flush().await.unwrap();
            tokio::time::timeout(PATIENCE, read(&mut stream)).await
        })
    });
    let agent = one_thread();
    let began = Instant::now();
    agent.block_on(async {
        let connection = dial(&address, client, &config(), Order::QuicFirst).await;
        let (mut line, _heard) = connection.unwrap().open();
        assert_eq!(line.transport(), Transport::Tcp);
        assert!(began.elapsed() < Duration::from_secs(2), "with no UDP");
        line.send(Lane::Control, frame(Lane::Control, 10));
        tokio::time::sleep(Duration::from_millis(50)).await;
        line.leave(CloseCode::Done, "the agent is stopping").await;
    });
    // Nothing of the agent runs from here on.
    let (runs, close) = heard.join().unwrap().expect("the hub hears it at once");
    assert_eq!(runs, [(Lane::Control, 22)]);
    let close = close.expect("a farewell");
    assert_eq!(close.code, CloseCode::Done.number());
    assert_eq!(close.reason, "the agent is stopping");
    drop((agent, udp));
}

#[tokio::test]
async fn what_is_urgent_overtakes_bulk_on_one_tcp_connection() {
    let (server, client) = tls();
    let (listener, _udp, address) = without_udp().await;
    let config = config();
    let (mut stream, connection) = tokio::join!(
        accept(&listener, server),
        dial(&address, client, &config, Order::QuicFirst)
    );
    let (mut line, _heard) = connection.unwrap().open();
    const BULK: usize = 32;
    for _ in 0..BULK {
        line.send(Lane::Inventory, frame(Lane::Inventory, 1 << 20));
    }
    // Until the kernels on both sides hold what they want of it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    line.send(Lane::Events, frame(Lane::Events, 100));
    let reading = tokio::spawn(async move { read(&mut stream).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    line.leave(CloseCode::Done, "").await;
    let (runs, _) = tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    let at = runs.iter().position(|(lane, _)| *lane == Lane::Events);
    let before: usize = runs[..at.expect("the event arrived")]
        .iter()
        .map(|(_, bytes)| bytes)
        .sum();
    assert!(before < BULK << 19, "{before} bytes went before the event");
}

#[tokio::test]
async fn a_hub_that_answers_on_both_is_reached_over_quic_and_one_without_udp_over_tcp() {
    let (server, client) = tls();
    let endpoint = quic_hub(server.clone());
    let address = endpoint.local_addr().unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let hub = endpoint.clone();
    tokio::spawn(async move { hub.accept().await.unwrap().await });
    let (address, config) = (address.to_string(), config());
    let dialled = dial(&address, client.clone(), &config, Order::QuicFirst);
    assert_eq!(dialled.await.unwrap().transport(), Transport::Quic);

    // Nobody listens for UDP.
    let (tcp, udp, address) = without_udp().await;
    drop(udp);
    let (_stream, dialled) = tokio::join!(
        accept(&tcp, server),
        dial(&address, client, &config, Order::QuicFirst)
    );
    assert_eq!(dialled.unwrap().transport(), Transport::Tcp);
    drop(listener);
}

#[tokio::test]
async fn a_stranger_on_tcp_is_named_by_who_issued_its_certificate() {
    let (_, client) = tls();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = (rcgen::DnType::CommonName, "Acme Web Gateway \u{1b}[2J");
    params.distinguished_name.push(name.0, name.1);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![HUB_NAME.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let der = rustls_pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der());
    let mut inspector = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], der.unwrap())
        .unwrap();
    inspector.alpn_protocols = vec![ALPN.to_vec()];
    let (listener, udp, address) = without_udp().await;
    drop(udp);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(inspector)).accept(stream).await
    });
    let error = dial(&address, client, &config(), Order::QuicFirst)
        .await
        .unwrap_err();
    assert!(error.is_refusal());
    let told = Failure::from(error).lines();
    let want = "but issued by \"CN=Acme Web Gateway \\u{1b}[2J\"";
    assert!(told.contains(want), "{told}");
    assert!(
        told.contains("must exempt the hub from inspection"),
        "{told}"
    );
}

#[tokio::test]
async fn tcp_first_falls_back_to_quic_and_one_alone_does_not_go_around() {
    let (server, client) = tls();
    let endpoint = quic_hub(server);
    let address = endpoint.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let _ = incoming.await;
        }
    });
    let config = config();
    let dialled = dial(&address, client.clone(), &config, Order::TcpFirst);
    assert_eq!(dialled.await.unwrap().transport(), Transport::Quic);
    let alone = dial(&address, client, &config, Order::Only(Transport::Tcp));
    assert!(alone.await.is_err());
}

#[tokio::test]
async fn when_neither_way_answers_both_are_told() {
    let (tcp, udp, address) = without_udp().await;
    drop((tcp, udp));
    let (_, client) = tls();
    let error = dial(&address, client, &config(), Order::QuicFirst)
        .await
        .unwrap_err();
    let told = error.to_string();
    assert!(told.contains("over UDP"), "{told}");
    assert!(told.contains("refused (os error 111) over TCP"), "{told}");
    assert!(!error.is_refusal());
}
