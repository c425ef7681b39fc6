//! A relay between agents and a hub, UDP and TCP on one port: counts the datagrams, can lose them all as a firewall does,
//! and can be pointed at another hub.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// How many sockets of agents may speak through one relay; each attempt to connect has its own.
const CLIENTS: usize = 256;
/// The largest UDP datagram.
const DATAGRAM_BYTES: usize = 65_535;
/// How soon a thread notices that the relay is dropped.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What has passed, in bytes of UDP payload: handshakes, acknowledgements and encryption included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// From the agents to the hub.
    pub up: u64,
    /// From the hub to the agents.
    pub down: u64,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    up: AtomicU64,
    down: AtomicU64,
    udp_blocked: AtomicBool,
    ended: AtomicBool,
}

/// A running relay; dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts relaying to `target`.
    ///
    /// # Errors
    /// When `target` is no address or no port is free.
    pub fn start(target: &str) -> Result<Self> {
        let (front, listener) = both()?;
        front.set_read_timeout(Some(LOOK_EVERY))?;
        let shared = Arc::new(Shared {
            target: Mutex::new(
                target
                    .parse()
                    .with_context(|| format!("no address: {target}"))?,
            ),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            udp_blocked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let address = front.local_addr()?;
        let datagrams = Arc::clone(&shared);
        let streams = Arc::clone(&shared);
        let threads = vec![
            thread::spawn(move || forward(&front, &datagrams)),
            thread::spawn(move || pass_on(&listener, &streams)),
        ];
        Ok(Self {
            shared,
            address,
            threads,
        })
    }

    /// Where agents connect.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What has passed so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            up: self.shared.up.load(Ordering::Relaxed),
            down: self.shared.down.load(Ordering::Relaxed),
        }
    }

    /// Loses every datagram from here on, without a word, as many firewalls do; or lets them pass again.
    pub fn block_udp(&self, is_blocked: bool) {
        self.shared.udp_blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// Sends what arrives from here on to another hub.
    ///
    /// # Errors
    /// When `target` is no address.
    pub fn point_at(&self, target: &str) -> Result<()> {
        let target = target
            .parse()
            .with_context(|| format!("no address: {target}"))?;
        *self
            .shared
            .target
            .lock()
            .map_err(|_| anyhow::anyhow!("the relay has failed"))? = target;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It fails only after a panic of its own, which has been printed.
            let _failed = thread.join();
        }
    }
}

/// Binds one port for UDP and TCP.
fn both() -> Result<(UdpSocket, TcpListener)> {
    for _ in 0..64 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        if let Ok(tcp) = TcpListener::bind(udp.local_addr()?) {
            tcp.set_nonblocking(true)?;
            return Ok((udp, tcp));
        }
    }
    anyhow::bail!("no port is free for both UDP and TCP")
}

/// Connects every TCP connection to the hub, until the relay ends.
fn pass_on(listener: &TcpListener, shared: &Shared) {
    thread::scope(|scope| {
        while !shared.ended.load(Ordering::Relaxed) {
            let Ok((agent, _)) = listener.accept() else {
                thread::sleep(LOOK_EVERY);
                continue;
            };
            let Ok(target) = shared.target.lock().map(|target| *target) else {
                return;
            };
            // A hub that is away refuses, and so does the relay.
            let Ok(hub) = TcpStream::connect_timeout(&target, Duration::from_secs(1)) else {
                continue;
            };
            scope.spawn(move || pipe(&agent, &hub, &|| shared.ended.load(Ordering::Relaxed)));
        }
    });
}

/// Copies between two TCP connections, both ways, until one side ends or `is_over`.
pub fn pipe(one: &TcpStream, two: &TcpStream, is_over: &(impl Fn() -> bool + Sync)) {
    let copy = |from: &TcpStream, to: &TcpStream| {
        let (mut from_end, mut to_end) = (from, to);
        let mut buffer = [0; 16 * 1024];
        while !is_over() {
            match from_end.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let passed = buffer.get(..length).unwrap_or_default();
                    if to_end.write_all(passed).is_err() {
                        break;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        // Both fail only where the connection is gone already.
        let _gone = to.shutdown(Shutdown::Write);
    };
    for end in [one, two] {
        if end.set_nonblocking(false).is_err() || end.set_read_timeout(Some(LOOK_EVERY)).is_err() {
            return;
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(one, two));
        copy(two, one);
    });
}

/// Each agent gets a socket of its own, so that the hub sees as many peers as there are.
fn forward(front: &UdpSocket, shared: &Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    thread::scope(|scope| {
        while let Some((bytes, agent)) = receive(front, &mut buffer, shared) {
            if shared.udp_blocked.load(Ordering::Relaxed) {
                continue;
            }
            let Ok(target) = shared.target.lock().map(|target| *target) else {
                return;
            };
            if !backs.contains_key(&agent) && backs.len() < CLIENTS {
                let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(Arc::new) else {
                    return;
                };
                if back.set_read_timeout(Some(LOOK_EVERY)).is_err() {
                    return;
                }
                backs.insert(agent, Arc::clone(&back));
                scope.spawn(move || {
                    let mut buffer = vec![0; DATAGRAM_BYTES];
                    while let Some((bytes, _hub)) = receive(&back, &mut buffer, shared) {
                        if shared.udp_blocked.load(Ordering::Relaxed) {
                            continue;
                        }
                        shared.down.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        // Like a network, the relay may lose a datagram.
                        let _lost = front.send_to(bytes, agent);
                    }
                });
            }
            if let Some(back) = backs.get(&agent) {
                shared.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                let _lost = back.send_to(bytes, target);
            }
        }
    });
}

/// The next datagram, or nothing once the relay has ended.
fn receive<'a>(
    socket: &UdpSocket,
    buffer: &'a mut [u8],
    shared: &Shared,
) -> Option<(&'a [u8], SocketAddr)> {
    loop {
        if shared.ended.load(Ordering::Relaxed) {
            return None;
        }
        match socket.recv_from(buffer) {
            Ok((length, from)) => return Some((buffer.get(..length)?, from)),
            // A hub that is away answers with an ICMP error, which shows up as a refused connection.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock
                        | ErrorKind::TimedOut
                        | ErrorKind::ConnectionRefused
                        | ErrorKind::Interrupted
                ) => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::{Relay, Traffic};

    #[test]
    fn a_datagram_passes_both_ways_and_is_counted() {
        let hub = UdpSocket::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(&hub.local_addr().unwrap().to_string()).unwrap();
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        agent.send_to(b"hello", relay.address()).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = hub.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        hub.send_to(b"ok", from).unwrap();
        let (length, _) = agent.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"ok");
        assert_eq!(relay.traffic(), Traffic { up: 5, down: 2 });
    }

    #[test]
    fn with_udp_blocked_a_datagram_is_lost_and_a_stream_passes() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind(udp.local_addr().unwrap()).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let relay = Relay::start(&tcp.local_addr().unwrap().to_string()).unwrap();
        relay.block_udp(true);
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        agent.send_to(b"hello", relay.address()).unwrap();
        let mut agent = TcpStream::connect(relay.address()).unwrap();
        agent.write_all(b"hello").unwrap();
        let (mut hub, _) = tcp.accept().unwrap();
        let mut buffer = [0; 5];
        hub.read_exact(&mut buffer).unwrap();
        hub.write_all(b"ok").unwrap();
        drop(hub);
        let mut answer = String::new();
        agent.read_to_string(&mut answer).unwrap();
        assert_eq!((&buffer, answer.as_str()), (b"hello", "ok"));
        assert!(udp.recv_from(&mut buffer).is_err());
    }
}
