//! The same over TCP.

use std::num::NonZeroU64;

use protocol::limits;
use protocol::mux::{Demux, Piece};
use protocol::wire::v1::Close;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::ingest::{Quotas, Rates};

/// An agent's side of a TCP connection, by hand.
struct Stream {
    tls: TlsStream<TcpStream>,
    demux: Demux,
    decoder: Decoder,
    closed: Option<Close>,
}

impl Stream {
    async fn connect(hub: &Hub, agent: Option<&Agent>, alpn: &[u8]) -> Self {
        let connector = TlsConnector::from(Arc::new(client_tls(hub, agent, alpn)));
        let stream = TcpStream::connect(hub.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from(enroll::HUB_NAME).unwrap();
        Self {
            tls: connector.connect(name, stream).await.unwrap(),
            demux: Demux::default(),
            decoder: Decoder::new(Lane::Control),
            closed: None,
        }
    }

    async fn open(hub: &Hub, agent: &Agent) -> (Self, v1::Welcome) {
        let mut stream = Self::connect(hub, Some(agent), v1::ALPN).await;
        stream.write(&Message::Hello(hello()).encode()).await;
        let Some(Message::Welcome(welcome)) = stream.hear().await else {
            panic!("no welcome")
        };
        (stream, welcome)
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.tls.write_all(bytes).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    /// Returns the hub's next message; none once it has said farewell.
    async fn hear(&mut self) -> Option<Message> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.pop().unwrap() {
                let message = Message::decode(&frame).unwrap().unwrap();
                // The hub says whom to trust after each greeting.
                if !matches!(message, Message::Authority(_)) {
                    return Some(message);
                }
                continue;
            }
            if self.closed.is_some() {
                return None;
            }
            let read = tokio::time::timeout(PATIENCE, self.tls.read(&mut buffer));
            let length = read.await.expect("the hub says something").unwrap();
            assert!(length > 0, "the hub hung up without a farewell");
            for piece in self.demux.push(&buffer[..length]).unwrap() {
                match piece {
                    Piece::Bytes(lane, bytes) => {
                        assert_eq!(lane, Lane::Control);
                        self.decoder.push(&bytes);
                    }
                    Piece::Close(close) => self.closed = Some(close),
                }
            }
        }
    }

    /// Waits until the hub says farewell; returns its code and words.
    async fn closed(&mut self) -> (CloseCode, String) {
        while self.hear().await.is_some() {}
        let close = self.closed.clone().unwrap();
        (
            CloseCode::from_number(close.code.into()).unwrap(),
            close.reason,
        )
    }
}

#[tokio::test]
async fn a_session_over_tcp_stores_what_one_over_quic_does_and_goes_on_where_that_ended() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    talk.send(Lane::Events, &[record("one")]).await;
    let second = talk.batch(Lane::Events, 2, &[record("two")]);

    let (mut stream, welcome) = Stream::open(&hub, &agent).await;
    assert_eq!(closed(&talk.connection).await.0, CloseCode::Superseded);
    assert_eq!(welcome.high_water[0].seq, 1);
    // Two lanes on one stream, in pieces that end anywhere.
    let beat = Message::Heartbeat(v1::Heartbeat {
        wall_ms: 0,
        spool_bytes: 0,
        oldest_ms: 0,
    });
    for piece in [second, beat.encode()].concat().chunks(7) {
        stream.write(piece).await;
    }
    let mut heard = [stream.hear().await.unwrap(), stream.hear().await.unwrap()];
    heard.sort_by_key(|message| matches!(message, Message::Heartbeat(_)));
    let Message::Ack(ack) = &heard[0] else {
        panic!("{heard:?}")
    };
    assert_eq!((ack.lane, ack.seq), (Lane::Events.number(), 2));
    assert_eq!(events(&hub).await, ["one", "two"]);
    stream
        .write(&Message::Close(Close::new(CloseCode::Done, "bye")).encode())
        .await;
    drop(stream);
    let gone = tokio::time::timeout(PATIENCE, async {
        while hub.live.session_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    gone.await.expect("the session ends");
    assert_eq!(hub.status(&agent).await.unwrap().transport, "tcp");
    hub.stop().await;
}

#[tokio::test]
async fn a_token_enrols_over_tcp_with_a_signature_for_that_very_connection() {
    let hub = hub().await;
    let token = hub.token(|_| {}).await;
    for carried in [true, false] {
        let mut other = Stream::connect(&hub, None, enroll::ALPN).await;
        let mut stream = Stream::connect(&hub, None, enroll::ALPN).await;
        let signed_for = if carried { &mut other } else { &mut stream };
        let exporter = signed_for.tls.get_ref().1.export_keying_material(
            [0; 32],
            enroll::EXPORTER_LABEL,
            Some(b""),
        );
        let (request, key) = enrolment(&token, &exporter.unwrap());
        let length = u32::try_from(request.len()).unwrap();
        stream.tls.write_u32_le(length).await.unwrap();
        stream.write(&request).await;
        let mut reply = vec![0; stream.tls.read_u32_le().await.unwrap() as usize];
        stream.tls.read_exact(&mut reply).await.unwrap();
        match hub.issued(&reply, &key) {
            Err(code) => assert_eq!((carried, code.as_str()), (true, "signature")),
            Ok(agent) => {
                assert!(!carried);
                Stream::open(&hub, &agent).await;
            }
        }
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_refusal_and_a_breach_are_told_with_code_and_words() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut stream = Stream::connect(&hub, None, v1::ALPN).await;
    let (code, reason) = stream.closed().await;
    assert_eq!(code, CloseCode::Unenrolled);
    assert!(reason.contains("no client certificate"), "{reason}");

    let (mut stream, _) = Stream::open(&hub, &agent).await;
    stream.write(&[0xff; 8]).await;
    let (code, reason) = stream.closed().await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("there is no lane 255"), "{reason}");
    let (mut stream, _) = Stream::open(&hub, &agent).await;
    let mut head = [0; 12];
    head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    head[5] = Lane::Events.number();
    // More than fits into one read: the rest must not cost the agent the farewell.
    stream.write(&head).await;
    stream.write(&[0; 100_000]).await;
    let (code, reason) = stream.closed().await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("exceeds the limit"), "{reason}");

    let org = hub.org_store().await;
    org.set_agent_state(agent.id, AgentState::Revoked)
        .await
        .unwrap();
    let mut stream = Stream::connect(&hub, Some(&agent), v1::ALPN).await;
    assert_eq!(stream.closed().await.0, CloseCode::Revoked);
    hub.stop().await;
}

#[tokio::test]
async fn a_revoked_agents_session_over_tcp_is_closed_at_once_though_it_is_sending() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let (mut stream, _) = Stream::open(&hub, &agent).await;
    // The beginning of a frame of a megabyte that does not come to its end.
    let mut head = [0; 100];
    head[..4].copy_from_slice(&(1u32 << 20).to_le_bytes());
    head[4..8].copy_from_slice(&[v1::SCHEMA, Lane::Events.number(), v1::kind::BATCH, 1]);
    stream.write(&head).await;
    let end = EndSession {
        code: CloseCode::Revoked,
        reason: "revoked".to_owned(),
    };
    let began = std::time::Instant::now();
    assert!(hub.live.end(agent.id, end));
    let (code, reason) = stream.closed().await;
    assert_eq!((code, reason.as_str()), (CloseCode::Revoked, "revoked"));
    assert!(began.elapsed() < Duration::from_secs(1));
    hub.stop().await;
}

#[tokio::test]
async fn a_stopping_hub_says_over_tcp_when_to_come_back() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let (mut stream, _) = Stream::open(&hub, &agent).await;
    hub.stop.cancel();
    let Some(Message::GoAway(away)) = stream.hear().await else {
        panic!("no farewell")
    };
    assert_eq!(away.code, CloseCode::Done.number());
    let (code, reason) = stream.closed().await;
    assert_eq!(
        (code, reason.as_str()),
        (CloseCode::Done, "the hub is stopping")
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_connection_that_stays_silent_takes_no_other_sessions_place() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let mut silent = Stream::connect(&hub, Some(&agent), v1::ALPN).await;
    let (_endpoint, over_quic) = connect(&hub, Some(&agent), v1::ALPN).await.unwrap();
    let (code, reason) = silent.closed().await;
    assert_eq!(
        (code, reason.as_str()),
        (CloseCode::Silent, "no greeting within 10 s")
    );
    assert_eq!(closed(&over_quic).await.0, CloseCode::Silent);
    // A beginning of a greeting is none, though it takes the place.
    talk.send(Lane::Events, &[record("still here")]).await;
    let mut slow = Stream::connect(&hub, Some(&agent), v1::ALPN).await;
    slow.write(&Message::Hello(hello()).encode()[..20]).await;
    assert_eq!(slow.closed().await.0, CloseCode::Silent);
    hub.stop().await;
}

#[tokio::test]
async fn peers_that_speak_no_tls_take_no_place_for_ever_and_the_others_are_served() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut mute = Vec::new();
    for _ in 0..100 {
        mute.push(TcpStream::connect(hub.address).await.unwrap());
    }
    mute[0].write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    Stream::open(&hub, &agent).await;
    let mut answer = Vec::new();
    // An alert and the end, long before the handshakes' time is over for the rest.
    mute[0].read_to_end(&mut answer).await.unwrap();
    let mut nothing = [0; 1];
    let ended = tokio::time::timeout(PATIENCE, mute[99].read(&mut nothing));
    assert_eq!(ended.await.expect("the hub hangs up").unwrap_or(0), 0);
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_not_read_for_want_of_quota_hears_that_the_hub_is_there() {
    let hub = hub_with(Quotas {
        agent: Rates {
            bytes: NonZeroU64::new(100),
            events: None,
        },
        ..NO_QUOTAS
    })
    .await;
    let agent = hub.agent().await;
    let talk = Talk::open(&hub, &agent).await;
    let batch: Vec<EventRecord> = (0..500).map(|_| record("login")).collect();
    let (mut stream, _) = Stream::open(&hub, &agent).await;
    // More pieces than wait anywhere, and what the agent asks stands behind them.
    for number in 0..12 {
        let next = talk.batch(Lane::Events, 1 + 500 * number, &batch);
        stream.write(&next).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let beat = v1::Heartbeat {
        wall_ms: 0,
        spool_bytes: 0,
        oldest_ms: 0,
    };
    stream.write(&Message::Heartbeat(beat).encode()).await;
    let began = std::time::Instant::now();
    let mut presences = 0;
    while presences < 2 {
        match stream.hear().await {
            Some(Message::Heartbeat(_)) => presences += 1,
            Some(Message::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(
        began.elapsed() >= limits::STILL_HERE,
        "the hub was asked and answered"
    );
    hub.stop().await;
}

#[tokio::test]
async fn mute_peers_keep_nobody_else_waiting_and_their_own_neighbours_two_seconds() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut mute = Vec::new();
    for _ in 0..300 {
        mute.push(TcpStream::connect(hub.address).await.unwrap());
    }
    let began = std::time::Instant::now();
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = elsewhere.connect(hub.address).await.unwrap();
    let tls = TlsConnector::from(Arc::new(client_tls(&hub, Some(&agent), v1::ALPN)));
    let name = rustls_pki_types::ServerName::try_from(enroll::HUB_NAME).unwrap();
    tls.connect(name.clone(), stream).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "another address");
    let same = loop {
        let stream = TcpStream::connect(hub.address).await.unwrap();
        match tls.connect(name.clone(), stream).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    assert!(began.elapsed() < Duration::from_secs(4), "the same address");
    drop((same, mute));
    hub.stop().await;
}

#[tokio::test]
async fn a_suspended_agent_that_greets_is_told_when_to_come_back_and_a_mute_one_why_it_is_cut_off()
{
    let hub = hub().await;
    let agent = hub.agent().await;
    let org = hub.org_store().await;
    org.set_agent_state(agent.id, AgentState::Suspended)
        .await
        .unwrap();
    let mut stream = Stream::connect(&hub, Some(&agent), v1::ALPN).await;
    stream.write(&Message::Hello(hello()).encode()).await;
    let Some(Message::GoAway(away)) = stream.hear().await else {
        panic!("no farewell")
    };
    assert_eq!(away.code, CloseCode::Suspended.number());
    assert_eq!(away.reason, "this agent is suspended");
    assert!((10_000..20_000).contains(&away.retry_after_ms));
    let mut mute = Stream::connect(&hub, Some(&agent), v1::ALPN).await;
    let words = (CloseCode::Suspended, "this agent is suspended".to_owned());
    assert_eq!(mute.closed().await, words);
    // And over QUIC.
    let (_endpoint, connection) = connect(&hub, Some(&agent), v1::ALPN).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let greeting = Message::Hello(hello()).encode();
    send.write_all(&greeting).await.unwrap();
    let mut decoder = Decoder::new(Lane::Control);
    let frame = loop {
        let chunk = receive.read_chunk(4096, true).await.unwrap().unwrap();
        decoder.push(&chunk.bytes);
        if let Some(frame) = decoder.pop().unwrap() {
            break frame;
        }
    };
    let told = Message::decode(&frame).unwrap();
    assert!(matches!(told, Some(Message::GoAway(_))), "{told:?}");
    hub.stop().await;
}
