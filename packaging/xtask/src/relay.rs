//! A relay between agents and a hub, UDP and TCP on one port: counts the datagrams, can lose them all as a firewall does
//! or pass them on late, out of order and twice as a long way does, and can be pointed at another hub.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How many sockets of agents may speak through one relay; each attempt to connect has its own.
const CLIENTS: usize = 256;
/// The largest UDP datagram.
const DATAGRAM_BYTES: usize = 65_535;
/// How soon a thread notices that the relay is dropped.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many datagrams may be under way on a long way, each direction apart. A router drops what is above.
const UNDER_WAY: usize = 16_384;

/// A way that takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// How long a datagram takes, each direction.
    pub delay: Duration,
    /// How many of a hundred overtake those before them: they take half as long.
    pub overtaking: u64,
    /// How many of a hundred arrive twice.
    pub twice: u64,
}

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
    long: Mutex<Long>,
    due: Condvar,
}

/// What is under way on a long way.
#[derive(Debug)]
struct Long {
    way: Option<Way>,
    /// The order of what is due at the same instant is that in which it came.
    datagrams: BinaryHeap<Reverse<(Instant, u64)>>,
    contents: BTreeMap<u64, (Arc<UdpSocket>, SocketAddr, Vec<u8>)>,
    count: u64,
    /// xorshift64: the same choices in every run.
    chance: u64,
}

impl Long {
    /// Returns whether something happens that happens to so many of a hundred.
    fn happens(&mut self, of_hundred: u64) -> bool {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % 100 < of_hundred
    }

    fn send(&mut self, way: Way, socket: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]) {
        let copies = if self.happens(way.twice) { 2 } else { 1 };
        for _ in 0..copies {
            if self.contents.len() >= UNDER_WAY {
                return;
            }
            let takes = if self.happens(way.overtaking) {
                way.delay / 2
            } else {
                way.delay
            };
            self.count += 1;
            self.datagrams
                .push(Reverse((Instant::now() + takes, self.count)));
            let content = (Arc::clone(socket), to, bytes.to_vec());
            self.contents.insert(self.count, content);
        }
    }
}

impl Shared {
    fn long(&self) -> MutexGuard<'_, Long> {
        // No holder of this lock panics.
        self.long.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a datagram on, at once or later. Like a network, the relay may lose one.
    fn pass(&self, socket: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]) {
        let mut long = self.long();
        if let Some(way) = long.way {
            long.send(way, socket, to, bytes);
            self.due.notify_one();
        } else {
            drop(long);
            let _lost = socket.send_to(bytes, to);
        }
    }

    /// Passes on what was held back, until the relay ends.
    fn deliver(&self) {
        let mut long = self.long();
        while !self.ended.load(Ordering::Relaxed) {
            let now = Instant::now();
            let next = long.datagrams.peek().map(|Reverse((at, _))| *at);
            match next {
                Some(at) if at <= now => {
                    let number = long.datagrams.pop().map(|Reverse((_, number))| number);
                    let content = number.and_then(|number| long.contents.remove(&number));
                    drop(long);
                    if let Some((socket, to, bytes)) = content {
                        let _lost = socket.send_to(&bytes, to);
                    }
                    long = self.long();
                }
                _ => {
                    let pause = next.map_or(LOOK_EVERY, |at| (at - now).min(LOOK_EVERY));
                    let waited = self.due.wait_timeout(long, pause);
                    long = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
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
            long: Mutex::new(Long {
                way: None,
                datagrams: BinaryHeap::new(),
                contents: BTreeMap::new(),
                count: 0,
                chance: 0x9e37_79b9_7f4a_7c15,
            }),
            due: Condvar::new(),
        });
        let address = front.local_addr()?;
        let datagrams = Arc::clone(&shared);
        let streams = Arc::clone(&shared);
        let late = Arc::clone(&shared);
        let front = Arc::new(front);
        let threads = vec![
            thread::spawn(move || late.deliver()),
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

    /// Passes datagrams on as a long way does from here on. Of streams only the first bytes are late, by a round trip.
    pub fn lengthen(&self, way: Way) {
        self.shared.long().way = Some(way);
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
            let round_trip = shared
                .long()
                .way
                .map_or(Duration::ZERO, |way| way.delay * 2);
            scope.spawn(move || {
                thread::sleep(round_trip);
                pipe(&agent, &hub, &|| shared.ended.load(Ordering::Relaxed));
            });
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
fn forward(front: &Arc<UdpSocket>, shared: &Arc<Shared>) {
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
                        shared.pass(front, agent, bytes);
                    }
                });
            }
            if let Some(back) = backs.get(&agent) {
                shared.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                shared.pass(back, target, bytes);
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
    use std::time::{Duration, Instant};

    use super::{Relay, Traffic, Way};

    #[test]
    fn on_a_long_way_datagrams_are_late_and_some_overtake_or_come_twice() {
        let hub = UdpSocket::bind("127.0.0.1:0").unwrap();
        hub.set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let relay = Relay::start(&hub.local_addr().unwrap().to_string()).unwrap();
        let delay = Duration::from_millis(100);
        relay.lengthen(Way {
            delay,
            overtaking: 10,
            twice: 10,
        });
        let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        for number in 0..200u8 {
            agent.send_to(&[number], relay.address()).unwrap();
        }
        let mut came = Vec::new();
        let mut buffer = [0; 16];
        while hub.recv_from(&mut buffer).is_ok() {
            if came.is_empty() {
                assert!(begun.elapsed() >= delay / 2, "{:?}", begun.elapsed());
            }
            came.push(buffer[0]);
        }
        let each: std::collections::BTreeSet<u8> = came.iter().copied().collect();
        assert_eq!(each.len(), 200, "none is lost");
        assert!((205..240).contains(&came.len()), "{} came", came.len());
        let overtaken = came.windows(2).filter(|two| two[0] > two[1]).count();
        assert!(overtaken > 0, "all came in order");
    }

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
