//! A UDP relay between agents and a hub: counts what passes, and can be pointed at another hub.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// How many agents may speak through one relay.
const CLIENTS: usize = 16;
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
    ended: AtomicBool,
}

/// A running relay; dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts relaying to `target`.
    ///
    /// # Errors
    /// When `target` is no address or no port is free.
    pub fn start(target: &str) -> Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        front.set_read_timeout(Some(LOOK_EVERY))?;
        let shared = Arc::new(Shared {
            target: Mutex::new(
                target
                    .parse()
                    .with_context(|| format!("no address: {target}"))?,
            ),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let address = front.local_addr()?;
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || forward(&front, &shared)
        });
        Ok(Self {
            shared,
            address,
            thread: Some(thread),
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
        if let Some(thread) = self.thread.take() {
            // It fails only after a panic of its own, which has been printed.
            let _failed = thread.join();
        }
    }
}

/// Each agent gets a socket of its own, so that the hub sees as many peers as there are.
fn forward(front: &UdpSocket, shared: &Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut backs: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    thread::scope(|scope| {
        while let Some((bytes, agent)) = receive(front, &mut buffer, shared) {
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
    use std::net::UdpSocket;

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
}
