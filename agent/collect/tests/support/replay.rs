//! For tests of the crates `gcp` and `azure`: the recorded cloud of the shared lab, and a gate
//! before it that can refuse or change single answers.
#![allow(
    dead_code,
    clippy::print_stdout,
    reason = "each test uses a part; a skip is printed"
)]

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use collect::{CollectError, Fact, Inventory, Output, Summary};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The shared data, or `None` after saying that `test` is skipped.
pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let folder = std::env::var_os("ZERO_X_SHARED").map_or_else(|| beside.into(), PathBuf::from);
    if folder.join("lab/gcp_azure/replay_cloud.py").exists() {
        return Some(folder);
    }
    println!("skipped: {test}: no shared data");
    None
}

/// The replay server; it ends with this value.
pub(crate) struct Replay {
    /// `http://127.0.0.1:<port>`.
    pub(crate) base: String,
    pub(crate) folder: PathBuf,
    _process: tokio::process::Child,
}

impl Replay {
    /// Starts the server on a free port with pages of three, and with credentials required.
    pub(crate) async fn start(test: &str, arguments: &[&str]) -> Option<Self> {
        let folder = shared(test)?.join("lab/gcp_azure");
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let mut process = tokio::process::Command::new("python3")
                .arg("-B")
                .arg(folder.join("replay_cloud.py"))
                .args(["--port", &port.to_string()])
                .args(["--page-size", "3", "--require-auth"])
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("python3 runs");
            while process.try_wait().unwrap().is_none() {
                if tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .is_ok()
                {
                    return Some(Self {
                        base: format!("http://127.0.0.1:{port}"),
                        folder,
                        _process: process,
                    });
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        panic!("the replay server did not start");
    }
}

/// What a gate does with a request: an answer of its own, or `None` to let it pass.
pub(crate) type Rule = dyn Fn(&Request<Bytes>) -> Option<Response<Bytes>> + Send + Sync;

/// Starts a server before `upstream` (a base URL) and returns its own base URL.
pub(crate) async fn gate(upstream: &str, rule: Box<Rule>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let upstream = upstream.to_owned();
    let rule: Arc<Rule> = rule.into();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (rule, upstream, client) = (Arc::clone(&rule), upstream.clone(), client.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (rule, upstream, client) =
                    (Arc::clone(&rule), upstream.clone(), client.clone());
                async move {
                    let (mut parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let whole = Request::from_parts(parts.clone(), body.clone());
                    if let Some(answer) = rule(&whole) {
                        return Ok::<_, Infallible>(answer.map(Full::new));
                    }
                    let path = parts.uri.path_and_query().unwrap().as_str();
                    parts.uri = format!("{upstream}{path}").parse().unwrap();
                    let request = Request::from_parts(parts, Full::new(body));
                    let answer = client.request(request).await.unwrap();
                    let (parts, body) = answer.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    Ok(Response::from_parts(parts, Full::new(body)))
                }
            });
            let serve = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serve.serve_connection(TokioIo::new(stream), service));
        }
    });
    base
}

/// An answer of a gate.
pub(crate) fn answer(status: u16, body: &serde_json::Value) -> Response<Bytes> {
    let body = Bytes::from(body.to_string());
    Response::builder().status(status).body(body).unwrap()
}

/// Runs one sync and returns everything that it sent.
pub(crate) async fn sync(source: &dyn Inventory) -> (Result<Summary, CollectError>, Vec<Fact>) {
    let (out, mut facts) = Output::channel(4);
    let stop = CancellationToken::new();
    let collect = async {
        let mut all = Vec::new();
        while let Some(fact) = facts.recv().await {
            all.push(fact);
        }
        all
    };
    let run = async move { source.sync(&out, &stop).await };
    tokio::join!(run, collect)
}

/// The facts as one line each: what began, came, ended and failed.
pub(crate) fn outline(facts: &[Fact]) -> Vec<String> {
    facts
        .iter()
        .map(|fact| match fact {
            Fact::Began { scope } => format!("began {scope}"),
            Fact::Document(document) => format!("document {}", document.urn),
            Fact::Ended { scope } => format!("ended {scope}"),
            Fact::Failed { scope, gap } => {
                format!("failed {scope}: {} answered {}", gap.call, gap.error)
            }
            Fact::Events { .. } => "events".to_owned(),
        })
        .collect()
}
