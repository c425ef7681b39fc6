//! The client against a server that breaks the connection when it should not.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use protocol::enroll::Pin;
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::mpsc::{Sender, channel};
use tokio_rustls::TlsAcceptor;

use super::*;

/// What the server saw of a request: method, path and `Idempotency-Key`.
type Seen = (Method, String, Option<String>);

fn acceptor() -> (TlsAcceptor, Pin) {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = rcgen::CertifiedIssuer::self_signed(root, root_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &root)
        .unwrap();
    let pin = Pin::of_certificate(root.der()).unwrap();
    let chain = vec![leaf.der().clone(), root.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .unwrap();
    (TlsAcceptor::from(Arc::new(config)), pin)
}

/// Answers every request but the second, on which it hangs up after it has read it whole.
async fn serve(listener: tokio::net::TcpListener, acceptor: TlsAcceptor, seen: Sender<Seen>) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let service = service_fn(async |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            body.collect().await.unwrap();
            let key = head.headers.get("idempotency-key");
            let key = key.map(|key| key.to_str().unwrap().to_owned());
            seen.try_send((head.method, head.uri.to_string(), key))
                .unwrap();
            if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1 {
                return Err(std::io::Error::other("the answer is lost"));
            }
            Ok(http::Response::new(Full::new(Bytes::from_static(b"{}"))))
        });
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_sent_again_under_the_same_key() {
    let (acceptor, pin) = acceptor();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let (sender, mut seen) = channel(16);
    tokio::spawn(serve(listener, acceptor, sender));
    let endpoint = Endpoint::parse(&url, Some(&pin.to_string())).unwrap();
    let client = Client::anonymous(endpoint);

    // The first opens the connection that is then kept, and lost.
    let get = client.send(Method::GET, "/read", None, None).await.unwrap();
    assert_eq!(get.status, StatusCode::OK);
    for _ in 0..2 {
        let body = Some(Bytes::from_static(b"{}"));
        let post = client.send(Method::POST, "/write", body, None).await;
        assert_eq!(post.unwrap().status, StatusCode::OK);
    }

    let mut all = Vec::new();
    while let Ok(one) = seen.try_recv() {
        all.push(one);
    }
    let [read, lost, again, next] = <[Seen; 4]>::try_from(all).unwrap();
    assert_eq!(read, (Method::GET, "/read".to_owned(), None));
    assert_eq!(lost, again);
    assert!(
        lost.2.as_ref().is_some_and(|key| key.len() >= 16),
        "{lost:?}"
    );
    // Another write has another key, or the hub would not do it.
    assert_eq!(next.1, "/write");
    assert_ne!(next.2, lost.2);
}

#[tokio::test]
async fn a_wrong_pin_is_told_from_a_certificate_that_fails_for_another_reason() {
    let (acceptor, _) = acceptor();
    let (_, other) = self::acceptor();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(stream).await;
        }
    });
    let ask = async |pin: Option<&str>| {
        let client = Client::anonymous(Endpoint::parse(&url, pin).unwrap());
        match client.send(Method::GET, "/read", None, None).await {
            Err(ClientError::Tls { source, .. }) => is_wrong_pin(&source),
            other => panic!("{other:?}"),
        }
    };
    assert!(ask(Some(&other.to_string())).await);
    assert!(!ask(None).await);
}

/// Answers each request with the next of `pauses` as a 429, and with 200 when there is none left.
async fn serve_busy(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    pauses: &'static [&'static str],
    seen: Sender<Method>,
) {
    let count = std::sync::atomic::AtomicUsize::new(0);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let service = service_fn(async |request: Request<Incoming>| {
            seen.try_send(request.method().clone()).unwrap();
            let index = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut answer = http::Response::new(Full::new(Bytes::from_static(b"{}")));
            if let Some(pause) = pauses.get(index) {
                *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                let pause = http::HeaderValue::from_static(pause);
                answer.headers_mut().insert(header::RETRY_AFTER, pause);
                let problem = r#"{"type":"about:blank","title":"Too Many Requests","status":429,
                    "detail":"too many requests","code":"too_many_requests","request_id":"r1"}"#;
                *answer.body_mut() = Full::new(Bytes::from_static(problem.as_bytes()));
            }
            Ok::<_, std::io::Error>(answer)
        });
        let server = hyper::server::conn::http1::Builder::new();
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }
}

/// Sends one request to a server that is busy for a while: its answer, how often it was sent, and
/// how long that took.
async fn ask_busy(
    method: Method,
    pauses: &'static [&'static str],
) -> (Result<Value, ClientError>, usize, Duration) {
    let (acceptor, pin) = acceptor();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let (sender, mut seen) = channel(16);
    let server = tokio::spawn(serve_busy(listener, acceptor, pauses, sender));
    let client = Client::anonymous(Endpoint::parse(&url, Some(&pin.to_string())).unwrap());
    *client.session.lock().await = Some(Session {
        url,
        ca_pin: None,
        email: "mira@example.org".to_owned(),
        access_token: "access".to_owned(),
        refresh_token: "refresh".to_owned(),
        expires_at: Timestamp::now() + SignedDuration::from_hours(1),
    });
    let began = std::time::Instant::now();
    let answer = client.request(method, "/any", None).await;
    let took = began.elapsed();
    server.abort();
    let mut count = 0;
    while seen.try_recv().is_ok() {
        count += 1;
    }
    (answer.and_then(|answer| answer.read()), count, took)
}

#[tokio::test]
async fn a_question_to_a_busy_hub_is_asked_again_twice_as_late_as_the_hub_wants() {
    let (answer, asked, took) = ask_busy(Method::GET, &["1", "0"]).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(asked, 3);
    assert!(took >= Duration::from_secs(1), "{took:?}");

    let (answer, asked, _) = ask_busy(Method::GET, &["0", "0", "0"]).await;
    assert_eq!(asked, 3);
    let said = answer.unwrap_err().to_string();
    assert!(said.contains("too many requests"), "{said}");
}

#[tokio::test]
async fn neither_a_write_nor_a_long_wait_is_waited_out() {
    let (answer, asked, _) = ask_busy(Method::POST, &["0"]).await;
    assert!(answer.is_err());
    assert_eq!(asked, 1);
    let (answer, asked, took) = ask_busy(Method::GET, &["6"]).await;
    assert!(answer.is_err());
    assert_eq!(asked, 1);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
