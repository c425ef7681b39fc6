//! An HTTP proxy that knows `CONNECT` only, as they stand between a company's hosts and the rest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use data_encoding::BASE64;
use line::relay::pipe;

/// How soon a thread notices that the proxy is dropped.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Longest head of a request, in bytes.
const HEAD_BYTES: usize = 8 << 10;

#[derive(Debug)]
struct Shared {
    /// The only `host:port` that it connects to.
    allowed: Mutex<String>,
    authorization: Option<String>,
    tunnels: AtomicUsize,
    ended: AtomicBool,
}

/// A running proxy; dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy that connects to `allowed` only, for who shows `user:password` where one is given.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(allowed: &str, credentials: Option<&str>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            allowed: Mutex::new(allowed.to_owned()),
            authorization: credentials
                .map(|text| format!("Basic {}", BASE64.encode(text.as_bytes()))),
            tunnels: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || serve(&listener, &serving));
        Ok(Self {
            shared,
            address,
            thread: Some(thread),
        })
    }

    /// `http://host:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections it has let through.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.shared.tunnels.load(Ordering::Relaxed)
    }

    /// Connects to another address only from here on.
    ///
    /// # Errors
    /// When the proxy has failed.
    pub fn allow(&self, address: &str) -> Result<()> {
        let allowed = self.shared.allowed.lock();
        *allowed.map_err(|_| anyhow::anyhow!("the proxy has failed"))? = address.to_owned();
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It fails only after a panic of its own, which has been printed.
            let _failed = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared) {
    thread::scope(|scope| {
        while !shared.ended.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((agent, _)) => {
                    scope.spawn(move || answer(agent, shared));
                }
                Err(_) => thread::sleep(LOOK_EVERY),
            }
        }
    });
}

fn answer(mut agent: TcpStream, shared: &Shared) {
    let Some(head) = head(&mut agent, shared) else {
        return;
    };
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let shown = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization")
            .then(|| value.trim().to_owned())
    });
    let is_allowed = shared
        .allowed
        .lock()
        .is_ok_and(|allowed| *allowed == target);
    let refusal = if method != Some("CONNECT") {
        "405 Method Not Allowed"
    } else if shared.authorization.is_some() && shown != shared.authorization {
        "407 Proxy Authentication Required"
    } else if !is_allowed {
        "403 Forbidden"
    } else {
        match TcpStream::connect(target) {
            Ok(hub) => {
                shared.tunnels.fetch_add(1, Ordering::Relaxed);
                if agent
                    .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    .is_ok()
                {
                    pipe(&agent, &hub, &|| shared.ended.load(Ordering::Relaxed));
                }
                return;
            }
            Err(_) => "502 Bad Gateway",
        }
    };
    // Whoever asked may have gone away.
    let _gone =
        agent.write_all(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").as_bytes());
}

/// Reads a request's head to its empty line.
fn head(agent: &mut TcpStream, shared: &Shared) -> Option<String> {
    agent.set_nonblocking(false).ok()?;
    agent.set_read_timeout(Some(LOOK_EVERY)).ok()?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_BYTES || shared.ended.load(Ordering::Relaxed) {
            return None;
        }
        match agent.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => head.extend(byte),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
    }
    String::from_utf8(head).ok()
}
