//! An agent with a valid identity that means harm: each of its ways is refused or set apart with
//! a reason, and costs the others nothing.

use std::net::UdpSocket;
use std::time::Instant;

use protocol::enroll;
use protocol::frame::Decoder;
use quinn::crypto::rustls::QuicClientConfig;
use store::AgentBounds;

use super::*;

/// Takes the padding off that an honest writer puts behind items that compress too well.
fn bomb_of(frame: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(Lane::Events);
    decoder.push(frame);
    let mut frame = decoder.pop().unwrap().unwrap();
    let padding = 0x184D_2A50_u32.to_le_bytes();
    let at = frame.payload.windows(4).position(|bytes| bytes == padding);
    frame.payload.truncate(at.expect("an honest writer pads"));
    frame.encode()
}

#[tokio::test]
async fn a_bomb_is_refused_before_it_is_opened() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let zeros = "0".repeat(250_000);
    let honest: Vec<EventRecord> = (0..20)
        .map(|_| EventRecord {
            raw: zeros.clone(),
            ..record("login")
        })
        .collect();
    let frame = talk.batch(Lane::Events, 1, &honest);
    let bomb = bomb_of(&frame);
    assert!(bomb.len() < 10_000, "it is small: {}", bomb.len());
    talk.write(Lane::Events, &bomb).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("over the limit"), "{reason}");
    assert_eq!(hub.status(&agent).await.unwrap().refused_batches, 1);
    // With the padding it is five megabytes, and honest.
    let mut talk = Talk::open(&hub, &agent).await;
    talk.write(Lane::Events, &frame).await;
    assert!(matches!(talk.hear().await, Message::Ack(ack) if ack.seq == 20));
    hub.stop().await;
}

#[tokio::test]
async fn sequences_that_jump_are_refused_with_the_one_that_fits_and_store_nothing() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    for first_seq in [2, 1_000, u64::MAX / 2, u64::MAX - 1] {
        let frame = talk.batch(Lane::Events, first_seq, &[record("jump")]);
        talk.write(Lane::Events, &frame).await;
        let said = talk.hear().await;
        assert!(
            matches!(&said, Message::Refused(refused) if refused.expected_seq == 1),
            "{said:?}"
        );
    }
    assert!(events(&hub).await.is_empty());
    talk.send(Lane::Events, &[record("fits")]).await;
    hub.stop().await;
}

#[tokio::test]
async fn endless_new_names_fill_their_agents_measure_and_no_more() {
    let hub = hub_bounded(AgentBounds {
        sources: 2,
        scopes: 3,
        resources: 4,
    })
    .await;
    let (flood, other) = (hub.agent().await, hub.agent().await);
    let mut talk = Talk::open(&hub, &flood).await;
    // Six resources of one scope: four land.
    let documents: Vec<Document> = (0..6)
        .map(|n| document(&format!("vpc-{n}"), "10.0.0.0/16"))
        .collect();
    let mut items = vec![begin(1)];
    items.extend(documents.iter().map(changed));
    talk.sweep(&items).await;
    assert_eq!(
        living(&hub).await,
        ["vpc-0", "vpc-1", "vpc-2", "vpc-3"],
        "the first come first"
    );
    // Nothing is known to be absent from a scope that could not be stored whole.
    let all: Vec<&Document> = documents.iter().collect();
    talk.sweep(&[ended(1, &all)]).await;
    assert!(!status(&hub).await.is_known());
    // Five scopes: this one and two more.
    let begins: Vec<SweepItem> = (0..4)
        .map(|n| SweepItem::Begin {
            scope: Scope::of_type("aws.ec2.vpc", ACCOUNT, &format!("region-{n}")).to_string(),
            generation: 1,
        })
        .collect();
    talk.sweep(&begins).await;
    // Four sources: two land.
    for n in 0..4 {
        talk.source = SourceId::from_bytes([20 + n; 16]);
        let report = ReportItem::Source(SourceReport {
            name: format!("source {n}"),
            kind: "aws".into(),
            started_ms: 1_000,
            finished_ms: 2_000,
            calls: 1,
            documents: 0,
            faults: vec![],
            error: String::new(),
        });
        talk.send(Lane::Results, &[report]).await;
    }
    let org = hub.org_store().await;
    assert_eq!(org.scopes().await.unwrap().len(), 3);
    assert_eq!(org.sources().await.unwrap().len(), 2);
    let quarantine = org.quarantine(100).await.unwrap();
    let count = |reason: &str| {
        quarantine
            .iter()
            .filter(|item| item.reason == reason)
            .count()
    };
    assert_eq!(count("its agent has 4 resources and may have no more"), 2);
    assert_eq!(count("its agent has 3 scopes and may have no more"), 2);
    assert_eq!(count("its agent has 2 sources and may have no more"), 2);
    assert_eq!(quarantine.len(), 6);
    assert!(quarantine.iter().all(|item| item.agent == flood.id));

    // What it has it may change, and what is gone makes room.
    let moved = document("vpc-0", "10.9.0.0/16");
    talk.source = SOURCE;
    talk.sweep(&[begin(2), changed(&moved), ended(2, &[&moved])])
        .await;
    assert_eq!(living(&hub).await, ["vpc-0"]);
    let new = document("vpc-9", "10.0.0.0/16");
    talk.sweep(&[begin(3), changed(&new), ended(3, &[&moved, &new])])
        .await;
    assert_eq!(living(&hub).await, ["vpc-0", "vpc-9"]);
    assert_eq!(state(&hub).await, ScopeState::Complete);

    // Another agent of the organisation has its own measure.
    let mut talk = Talk::open(&hub, &other).await;
    talk.source = SourceId::from_bytes([99; 16]);
    talk.sweep(&[begin(1), changed(&documents[2])]).await;
    assert_eq!(living(&hub).await, ["vpc-0", "vpc-2", "vpc-9"]);
    hub.stop().await;
}

#[tokio::test]
async fn who_keeps_opening_and_resetting_streams_is_refused() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let talk = Talk::open(&hub, &agent).await;
    let opening = async {
        // The hub's answer ends it.
        while let Ok((mut send, mut receive)) = talk.connection.open_bi().await {
            let _ = send.write_all(&[0]).await;
            let _ = send.reset(0u8.into());
            let _ = receive.stop(0u8.into());
        }
    };
    tokio::time::timeout(PATIENCE, opening).await.unwrap();
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert_eq!(reason, "the agent keeps opening streams");
    hub.stop().await;
}

#[tokio::test]
async fn who_floods_the_control_lane_is_refused() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let beat = Message::Heartbeat(v1::Heartbeat {
        wall_ms: 0,
        spool_bytes: 0,
        oldest_ms: 0,
    });
    let beats = beat.encode().repeat(1_000);
    let connection = talk.connection.clone();
    let flooding = async {
        while connection.close_reason().is_none() {
            talk.write(Lane::Control, &beats).await;
            // A stream that was stopped refuses at once, and the connection's end is still to come.
            tokio::task::yield_now().await;
        }
    };
    let closing = closed(&connection);
    let (code, reason) = tokio::select! {
        said = closing => said,
        () = flooding => closed(&connection).await,
    };
    assert_eq!(code, CloseCode::Protocol);
    // Whichever bound is met first: it does not read the answers either.
    assert!(
        reason.contains("more control messages") || reason.contains("does not read"),
        "{reason}"
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_storm_of_sessions_of_one_identity_is_slowed_and_harms_no_other() {
    let hub = hub().await;
    let (storm, good) = (hub.agent().await, hub.agent().await);
    let mut other = Talk::open(&hub, &good).await;
    let mut storming = Vec::new();
    let began = Instant::now();
    let refused = loop {
        assert!(began.elapsed() < PATIENCE, "nothing was refused");
        let (_endpoint, connection) = connect(&hub, Some(&storm), v1::ALPN).await.unwrap();
        storming.push((_endpoint, connection));
        other.send(Lane::Events, &[record("fine")]).await;
        let mut closed = storming.iter().filter_map(|(_, it)| it.close_reason());
        if let Some(ConnectionError::ApplicationClosed(close)) = closed.next() {
            break close;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(
        u64::from(refused.error_code),
        u64::from(CloseCode::Busy.number())
    );
    let reason = String::from_utf8_lossy(&refused.reason).into_owned();
    assert!(reason.contains("connects too often"), "{reason}");
    assert!(
        hub.live.session_count() <= 2,
        "the newest one and the other"
    );
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_begins_ever_new_spools_is_told_to_enrol_again() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let org = hub.org_store().await;
    for n in 0..limits::AGENT_STREAMS {
        let mut write = org.write();
        let stream = store::Stream {
            agent: agent.id,
            lane: 1,
            epoch: match n {
                0 => EPOCH,
                n => u128::try_from(n).unwrap().to_be_bytes(),
            },
        };
        let header = store::SignedHeader {
            received_at: Timestamp::now(),
            header: vec![],
            signature: vec![],
        };
        write.advance_high_water(stream, 1, 1, header);
        write.commit().await.unwrap();
    }
    let mut talk = Talk::open(&hub, &agent).await;
    talk.next_seq.insert(Lane::Events, 2);
    talk.send(Lane::Events, &[record("of a known one")]).await;
    let (_endpoint, connection) = connect(&hub, Some(&agent), v1::ALPN).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    let hello = Message::Hello(v1::Hello {
        versions: (v1::SCHEMA, v1::SCHEMA),
        agent_version: String::new(),
        epoch: [0xff; 16],
        process: 1,
        witness: None,
        wall_ms: 0,
    });
    send.write_all(&hello.encode()).await.unwrap();
    let (code, reason) = closed(&connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("begun more spools"), "{reason}");
    hub.stop().await;
}

/// The first packets of so many connections that go no further, as a flood sends them.
fn initials(hub: &Hub, count: usize) -> Vec<Vec<u8>> {
    let crypto = QuicClientConfig::try_from(client_tls(hub, None, v1::ALPN)).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, false, None);
    let now = Instant::now();
    let mut initials = Vec::new();
    for _ in 0..count {
        let connected = endpoint.connect(now, config.clone(), hub.address, enroll::HUB_NAME);
        let (_, mut connection) = connected.unwrap();
        let mut datagram = Vec::new();
        let sent = connection.poll_transmit(now, 1, &mut datagram);
        assert_eq!(sent.unwrap().size, datagram.len());
        initials.push(datagram);
    }
    initials
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_is_asked_to_prove_its_address_and_an_agent_gets_in() {
    let hub = hub().await;
    let (agent, talker) = (hub.agent().await, hub.agent().await);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let (address, packets) = (hub.address, initials(&hub, 3_000));
    let flood = tokio::task::spawn_blocking(move || {
        let (mut retries, mut others) = (0, 0);
        let mut datagram = [0; 2048];
        for (number, packet) in packets.iter().enumerate() {
            let _ = socket.send_to(packet, address);
            if number % 16 == 0 {
                // More at once would not fit into the socket's buffer.
                std::thread::sleep(Duration::from_millis(5));
            }
            while let Ok(length) = socket.recv(&mut datagram) {
                // A long header of type 3 (RFC 9000 section 17.2.5).
                if length > 0 && datagram[0] & 0xf0 == 0xf0 {
                    retries += 1;
                } else {
                    others += 1;
                }
            }
        }
        (retries, others)
    });
    let began = Instant::now();
    let mut inside = 0;
    while inside < 3 || !flood.is_finished() {
        assert!(began.elapsed() < PATIENCE, "{inside} sessions got in");
        // The hub may turn one away at the height of it; agents try again.
        let Ok((_endpoint, connection)) = connect(&hub, Some(&agent), v1::ALPN).await else {
            continue;
        };
        drop(connection);
        inside += 1;
        if inside == 1 {
            let mut talk = Talk::open(&hub, &talker).await;
            talk.send(Lane::Events, &[record("in")]).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (retries, others) = flood.await.unwrap();
    assert!(retries > 1_000, "{retries} retries, {others} other packets");
    hub.stop().await;
}
