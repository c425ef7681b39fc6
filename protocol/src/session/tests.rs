//! Both halves against each other: a spool, a store, and a wire that drops connections.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::batch::seal_lost;
use crate::batch::tests::{TestKey, place, sealed};
use crate::frame::Decoder;
use crate::session::agent::{Certificate, Ended, StoredBatch};
use crate::session::hub::Duty;
use crate::wire::v1::{Content, Hello, HighWater, Lost, LostReason, Message, Witness};

const EPOCH: [u8; 16] = [9; 16];

/// An agent with its spool and a hub with its store, joined by a wire that a test can cut.
struct World {
    key: TestKey,
    agent: agent::Session,
    hub: Option<hub::Session>,
    spool: BTreeMap<(Lane, u64), StoredBatch>,
    released: BTreeMap<Lane, u64>,
    stored: BTreeMap<Lane, Vec<String>>,
    next_seq: BTreeMap<Lane, u64>,
    uncommitted: Vec<crate::batch::VerifiedBatch>,
    duty: Duty,
    /// What the hub answers to a request for a certificate: the end of the new one's validity.
    renews_until: Option<i64>,
    /// By the hub's clock.
    renewed_at: Vec<i64>,
    /// The hub's clock less the agent's.
    hub_ahead_ms: i64,
    now: Now,
    log: Vec<String>,
    /// Last commit of the hub's store.
    commit: u64,
    /// What the hub was told that it has lost.
    hub_saw: Option<Witness>,
    config: agent::Config,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant has no other origin; the test moves it by hand from here on"
    )]
    fn new() -> Self {
        let now = Now {
            at: Instant::now(),
            wall_ms: 1_700_000_000_000,
        };
        let config = agent::Config {
            agent_version: "0.0.0".into(),
            epoch: EPOCH,
            witness: None,
            process: 1,
            seed: 7,
            certificate: None,
            is_brief: false,
        };
        Self {
            key: TestKey::new(),
            agent: agent::Session::new(config.clone(), now),
            config,
            hub: None,
            spool: BTreeMap::new(),
            released: BTreeMap::new(),
            commit: 0,
            hub_saw: None,
            stored: BTreeMap::new(),
            next_seq: BTreeMap::new(),
            uncommitted: Vec::new(),
            duty: Duty::All,
            renews_until: None,
            renewed_at: Vec::new(),
            hub_ahead_ms: 0,
            now,
            log: Vec::new(),
        }
    }

    /// A world whose agent has a certificate that is valid for so many seconds from now on, by
    /// the hub's clock.
    fn with_certificate(seconds: i64, hub_ahead_ms: i64) -> Self {
        let world = Self::new();
        let from_ms = world.now.wall_ms + hub_ahead_ms;
        let config = agent::Config {
            agent_version: "0.0.0".into(),
            epoch: EPOCH,
            witness: None,
            process: 1,
            seed: 7,
            certificate: Some(certificate(from_ms, from_ms + seconds * 1000)),
            is_brief: false,
        };
        let agent = agent::Session::new(config.clone(), world.now);
        Self {
            agent,
            config,
            hub_ahead_ms,
            ..world
        }
    }

    /// What the hub's clock shows.
    fn hub_now(&self) -> Now {
        Now {
            at: self.now.at,
            wall_ms: self.now.wall_ms + self.hub_ahead_ms,
        }
    }

    fn hub_config(&self) -> hub::Config {
        hub::Config {
            hub_epoch: [5; 16],
            commit: self.commit,
            high_water: self.high_water(),
            duty: self.duty,
        }
    }

    fn spool(&mut self, lane: Lane, items: &[&str]) {
        let items: Vec<String> = items.iter().map(|item| (*item).to_owned()).collect();
        let first_seq = *self.next_seq.entry(lane).or_insert(1);
        let (header, frame) = sealed(&self.key, &place(lane, first_seq), &items);
        let last_seq = header.last_seq();
        self.next_seq.insert(lane, last_seq + 1);
        self.spool.insert(
            (lane, first_seq),
            StoredBatch {
                first_seq,
                last_seq,
                frame,
            },
        );
        self.agent.handle_spooled(lane);
    }

    fn wait(&mut self, span: Duration) {
        self.now.at += span;
        self.now.wall_ms += i64::try_from(span.as_millis()).unwrap();
        self.agent.handle_timeout(self.now);
    }

    fn high_water(&self) -> Vec<HighWater> {
        let count = |items: &Vec<String>| u64::try_from(items.len()).unwrap();
        let of = |(lane, items): (&Lane, &Vec<String>)| HighWater {
            lane: lane.number(),
            epoch: EPOCH,
            seq: count(items),
        };
        self.stored.iter().map(of).collect()
    }

    /// Spends one output of the budget; says whether the wire is cut instead.
    fn is_cut(budget: &mut Option<usize>) -> bool {
        match budget.as_mut() {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Moves bytes until both are quiet. `budget` bounds how many outputs are carried before the
    /// connection is cut (`None`: never).
    fn run(&mut self, mut budget: Option<usize>) {
        loop {
            let mut moved = false;
            while let Some(output) = self.agent.poll_output() {
                moved = true;
                if Self::is_cut(&mut budget) {
                    return self.cut();
                }
                self.do_agent(output);
            }
            while let Some(output) = self.hub.as_mut().and_then(hub::Session::poll_output) {
                moved = true;
                if Self::is_cut(&mut budget) {
                    return self.cut();
                }
                match output {
                    hub::Output::Send { lane, bytes } => {
                        self.agent.handle_bytes(lane, &bytes, self.now).unwrap();
                    }
                    hub::Output::Admit(batch) => {
                        let verified = batch.verify(&self.key.public()).unwrap();
                        self.uncommitted.push(verified);
                    }
                    hub::Output::Greeted(hello) => {
                        self.hub_saw = self.hub.as_ref().and_then(|hub| hub.set_back(&hello));
                    }
                    hub::Output::Beat(_) => {}
                    hub::Output::Renew(csr) => self.renew(&csr),
                }
            }
            if !self.uncommitted.is_empty() {
                moved = true;
                self.commit();
            }
            if !moved {
                return;
            }
        }
    }

    fn renew(&mut self, csr: &[u8]) {
        assert_eq!(csr, b"request");
        let at = self.hub_now().wall_ms;
        self.renewed_at.push(at);
        let hub = self.hub.as_mut().unwrap();
        match self.renews_until {
            Some(until) => hub.handle_renewed(vec![until.to_le_bytes().to_vec()]),
            None => hub.handle_not_renewed("not today".into()),
        }
    }

    fn commit(&mut self) {
        for batch in std::mem::take(&mut self.uncommitted) {
            let lane = Lane::from_number(batch.header().lane).unwrap();
            let items = self.stored.entry(lane).or_default();
            assert_eq!(
                batch.header().first_seq,
                u64::try_from(items.len()).unwrap() + 1
            );
            match batch.header().content {
                Content::Items => items.extend(batch.decode::<String>().map(Result::unwrap)),
                Content::Lost => {
                    let count = usize::try_from(batch.header().count).unwrap();
                    items.extend(std::iter::repeat_n("lost".to_owned(), count));
                }
            }
            self.commit += 1;
            let seq = u64::try_from(items.len()).unwrap();
            if let Some(hub) = self.hub.as_mut() {
                hub.handle_committed(lane, seq, self.commit, [0; 32]);
            }
        }
    }

    fn do_agent(&mut self, output: agent::Output) {
        match output {
            agent::Output::Dial => {
                self.hub = Some(hub::Session::new(self.hub_config(), self.hub_now()));
                self.agent.handle_connected(self.now);
            }
            agent::Output::Send { lane, bytes } => {
                let now = self.hub_now();
                if let Some(hub) = self.hub.as_mut() {
                    hub.handle_bytes(lane, &bytes, now).unwrap();
                }
            }
            agent::Output::Fetch { lane, after_seq } => {
                let range = (lane, after_seq + 1)..=(lane, u64::MAX);
                let batch = self
                    .spool
                    .range(range)
                    .next()
                    .map(|(_, batch)| batch.clone());
                self.agent.handle_batch(lane, batch);
            }
            agent::Output::Release { lane, through_seq } => {
                let stored = self.stored.get(&lane).map_or(0, Vec::len);
                assert!(
                    through_seq <= u64::try_from(stored).unwrap(),
                    "released before stored"
                );
                self.spool
                    .retain(|(l, _), batch| *l != lane || batch.last_seq > through_seq);
                self.released.insert(lane, through_seq);
            }
            agent::Output::StoreCertificate(chain) => {
                let until_ms = i64::from_le_bytes(chain[0].as_slice().try_into().unwrap());
                self.agent
                    .handle_certificate(certificate(self.hub_now().wall_ms, until_ms), self.now);
            }
            agent::Output::ComeBack => {
                self.log.push("comes back".into());
                self.cut();
            }
            agent::Output::Close { code, reason } => {
                self.log.push(format!("close {code}: {reason}"));
                self.cut();
            }
            agent::Output::Remember(_)
            | agent::Output::SetBack { .. }
            | agent::Output::Trust(_)
            | agent::Output::NotRenewed(_)
            | agent::Output::ShowOlder
            | agent::Output::ForgetScope(_)
            | agent::Output::Repair { .. }
            | agent::Output::Stop { .. } => self.log.push(format!("{output:?}")),
        }
    }

    /// Cuts the connection; what was handed to the store may still be committed or be lost.
    fn cut(&mut self) {
        self.hub = None;
        self.uncommitted.clear();
        let ended = Ended::Lost {
            reason: "cut".into(),
        };
        self.agent.handle_disconnected(ended, self.now);
    }
}

fn certificate(from_ms: i64, until_ms: i64) -> Certificate {
    Certificate {
        csr: b"request".to_vec(),
        from_ms,
        until_ms,
        older: 0,
    }
}

#[test]
fn a_batch_is_released_only_after_the_hub_has_stored_it() {
    let mut world = World::new();
    world.spool(Lane::Events, &["a", "b"]);
    world.wait(Duration::ZERO);
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a", "b"]);
    assert_eq!(world.released[&Lane::Events], 2);
    assert!(world.spool.is_empty());
}

#[test]
fn an_idle_session_beats_and_a_silent_one_is_closed() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    world.run(None);
    for _ in 0..10 {
        world.wait(crate::limits::HEARTBEAT);
        world.run(None);
    }
    assert!(world.agent.is_open());
    world.hub = None;
    for _ in 0..4 {
        world.wait(crate::limits::HEARTBEAT);
        world.run(None);
    }
    assert_eq!(
        world.log.last().unwrap(),
        "close silent for too long: nothing arrived for 70 seconds"
    );
}

#[test]
fn a_greeting_that_does_not_come_is_waited_for_five_seconds_and_longer_each_time() {
    let mut world = World::new();
    let mut waited = Vec::new();
    for _ in 0..6 {
        // The handshake passes, and nothing after it.
        world.wait(Duration::from_secs(61));
        while let Some(output) = world.agent.poll_output() {
            if output == agent::Output::Dial {
                world.agent.handle_connected(world.now);
            }
        }
        let began = world.now.at;
        loop {
            world.wait(Duration::from_secs(1));
            match world.agent.poll_output() {
                Some(agent::Output::Close { code, reason }) => {
                    assert_eq!(code, CloseCode::Silent);
                    let seconds = (world.now.at - began).as_secs();
                    assert_eq!(reason, format!("no greeting within {seconds} s"));
                    waited.push(seconds);
                    break;
                }
                Some(output) => panic!("{output:?}"),
                None => {}
            }
        }
        world.cut();
    }
    assert_eq!(waited, [5, 10, 20, 40, 70, 70]);
    // One that works forgets it.
    world.wait(Duration::from_secs(61));
    world.run(None);
    assert!(world.agent.is_open());
}

#[test]
fn a_host_without_a_route_looks_every_other_second_and_one_that_is_not_answered_ever_less_often() {
    let dials = |ended: Ended| {
        let mut world = World::new();
        let mut dials = 0;
        for _ in 0..1200 {
            world.wait(Duration::from_millis(500));
            while let Some(output) = world.agent.poll_output() {
                assert_eq!(output, agent::Output::Dial);
                dials += 1;
                world.agent.handle_disconnected(ended.clone(), world.now);
            }
        }
        dials
    };
    let reason = String::new();
    let here = dials(Ended::Unrouted {
        reason: reason.clone(),
    });
    assert!((300..1200).contains(&here), "{here} in ten minutes");
    let there = dials(Ended::Lost { reason });
    assert!(there < 60, "{there} in ten minutes");
}

#[test]
fn a_doubted_hub_is_asked_and_answers() {
    let mut world = World::new();
    world.agent.handle_doubt(world.now);
    assert_eq!(world.agent.poll_output(), None, "there is nobody to ask");
    world.wait(Duration::ZERO);
    world.run(None);
    world.agent.handle_doubt(world.now);
    let Some(agent::Output::Send { lane, bytes }) = world.agent.poll_output() else {
        panic!("nothing is asked")
    };
    let hub = world.hub.as_mut().unwrap();
    hub.handle_bytes(lane, &bytes, world.now).unwrap();
    assert!(matches!(hub.poll_output(), Some(hub::Output::Send { .. })));
}

#[test]
fn a_revoked_agent_stops_and_a_suspended_one_keeps_trying() {
    let check = |code: CloseCode, stops: bool| {
        let mut world = World::new();
        world.wait(Duration::ZERO);
        world.run(None);
        let ended = Ended::ByHub {
            code: Some(code),
            reason: "because".into(),
        };
        world.agent.handle_disconnected(ended, world.now);
        let stopped = matches!(world.agent.poll_output(), Some(agent::Output::Stop { .. }));
        assert_eq!(stopped, stops, "{code}");
        assert_eq!(world.agent.poll_timeout().is_none(), stops, "{code}");
    };
    check(CloseCode::Revoked, true);
    check(CloseCode::Unenrolled, true);
    check(CloseCode::Suspended, false);
    check(CloseCode::Busy, false);
}

#[test]
fn what_is_lost_is_acknowledged_in_its_place() {
    let mut world = World::new();
    world.spool(Lane::Events, &["a"]);
    let lost = Lost {
        reason: LostReason::SpoolFull,
        from_ms: 0,
        to_ms: 0,
        unsequenced: 0,
    };
    let (header, frame) = seal_lost(&place(Lane::Events, 2), 3, &lost, &world.key).unwrap();
    let batch = StoredBatch {
        first_seq: 2,
        last_seq: header.last_seq(),
        frame,
    };
    world.spool.insert((Lane::Events, 2), batch);
    world.next_seq.insert(Lane::Events, 5);
    world.spool(Lane::Events, &["b"]);
    world.wait(Duration::ZERO);
    world.run(None);
    let stored = &world.stored[&Lane::Events];
    assert_eq!(stored, &["a", "lost", "lost", "lost", "b"]);
    assert!(world.spool.is_empty());
}

#[test]
fn a_hub_that_was_set_back_is_noticed_on_both_sides() {
    let mut world = World::new();
    world.spool(Lane::Events, &["a"]);
    world.spool(Lane::Events, &["b"]);
    world.wait(Duration::ZERO);
    world.run(None);
    let seen = Witness {
        hub_epoch: [5; 16],
        commit: 2,
        audit_head: [0; 32],
    };
    assert!(
        world
            .log
            .contains(&format!("{:?}", agent::Output::Remember(seen)))
    );
    // Nothing is said of a hub that has come further.
    world.commit = 3;
    world.cut();
    world.wait(Duration::from_secs(61));
    world.run(None);
    assert!(!world.log.iter().any(|line| line.starts_with("SetBack")));
    world.commit = 1;
    world.cut();
    world.wait(Duration::from_secs(61));
    world.run(None);
    let set_back = agent::Output::SetBack { seen, commit: 1 };
    assert!(world.log.contains(&format!("{set_back:?}")));
    let forget = agent::Output::ForgetScope(String::new());
    assert!(world.log.contains(&format!("{forget:?}")));
    assert_eq!(world.hub_saw, Some(seen));
}

#[test]
fn a_gap_is_refused_with_the_expected_sequence() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    world.run(None);
    let (_, second) = sealed(&world.key, &place(Lane::Events, 5), &["e".into()]);
    let hub = world.hub.as_mut().unwrap();
    hub.handle_bytes(Lane::Events, &second, world.now).unwrap();
    let Some(hub::Output::Send { bytes, .. }) = hub.poll_output() else {
        panic!("no answer")
    };
    let mut decoder = crate::frame::Decoder::new(Lane::Control);
    decoder.push(&bytes);
    let answer = crate::wire::v1::Message::decode(&decoder.pop().unwrap().unwrap()).unwrap();
    let want = crate::wire::v1::Refused {
        lane: Lane::Events.number(),
        expected_seq: 1,
    };
    assert_eq!(answer, Some(crate::wire::v1::Message::Refused(want)));
}

#[test]
fn a_spool_with_a_hole_is_asked_once_and_the_connection_given_up() {
    let mut world = World::new();
    world.spool(Lane::Events, &["a", "b"]);
    world.spool(Lane::Events, &["c"]);
    world.spool.remove(&(Lane::Events, 1));
    world.wait(Duration::ZERO);
    world.run(None);
    let hole = "close protocol violated: lane Events should go on at 1, but the spool has a batch \
                from 3 to 3";
    assert_eq!(world.log.last().unwrap(), hole);
    assert!(world.stored.is_empty() && !world.agent.is_open());
    assert!(world.agent.poll_timeout().is_some(), "it tries again later");
}

/// Makes a hub's session and gives it an agent's first bytes.
fn greeted_with(bytes: &[u8]) -> (hub::Session, Result<(), SessionError>) {
    let world = World::new();
    let config = hub::Config {
        hub_epoch: [5; 16],
        commit: 0,
        high_water: vec![],
        duty: Duty::All,
    };
    let mut hub = hub::Session::new(config, world.now);
    let result = hub.handle_bytes(Lane::Control, bytes, world.now);
    (hub, result)
}

fn hello(versions: (u8, u8)) -> Vec<u8> {
    let hello = crate::wire::v1::Hello {
        versions,
        agent_version: "9.9.9".into(),
        epoch: EPOCH,
        process: 1,
        witness: None,
        wall_ms: 0,
    };
    crate::wire::v1::Message::Hello(hello).encode()
}

/// Returns bytes of one frame as those of another version or kind.
fn with_head(frame: &[u8], change: impl FnOnce(&mut crate::frame::Frame)) -> Vec<u8> {
    let mut decoder = crate::frame::Decoder::new(Lane::Control);
    decoder.push(frame);
    let mut frame = decoder.pop().unwrap().unwrap();
    change(&mut frame);
    frame.encode()
}

#[test]
fn a_hub_greets_who_speaks_its_version_and_tells_others_why_not() {
    for versions in [(1, 1), (0, 1), (1, 2), (0, 255)] {
        let (mut hub, result) = greeted_with(&hello(versions));
        result.unwrap();
        let Some(hub::Output::Send { bytes, .. }) = hub.poll_output() else {
            panic!("no greeting")
        };
        let mut decoder = crate::frame::Decoder::new(Lane::Control);
        decoder.push(&bytes);
        let answer = crate::wire::v1::Message::decode(&decoder.pop().unwrap().unwrap()).unwrap();
        let Some(crate::wire::v1::Message::Welcome(welcome)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(welcome.version, 1);
    }
    for versions in [(0, 0), (2, 3), (2, 1)] {
        let (mut hub, result) = greeted_with(&hello(versions));
        assert_eq!(result.unwrap_err().close_code(), CloseCode::Version);
        assert!(hub.poll_output().is_none());
    }
    // A greeting that this build cannot read, of an agent that no longer speaks version 1.
    let newer = with_head(&hello((2, 3)), |frame| {
        frame.schema = 2;
        frame.payload = vec![0xff; 40];
    });
    let (_, result) = greeted_with(&newer);
    assert_eq!(result.unwrap_err().close_code(), CloseCode::Version);
    // It may have been told to come back with another program: it does not stop for ever.
    assert!(!CloseCode::Version.is_final());
}

#[test]
fn messages_of_unknown_kinds_are_skipped_and_other_versions_are_refused() {
    let beat = crate::wire::v1::Message::Heartbeat(crate::wire::v1::Heartbeat {
        wall_ms: 0,
        spool_bytes: 0,
        oldest_ms: 0,
    });
    let unknown = with_head(&beat.encode(), |frame| {
        frame.kind = 200;
        frame.payload = vec![0xff; 3000];
    });
    let other = with_head(&beat.encode(), |frame| frame.schema = 2);
    let mut world = World::new();
    world.wait(Duration::ZERO);
    world.run(None);
    let now = world.now;
    let hub = world.hub.as_mut().unwrap();
    hub.handle_bytes(Lane::Control, &unknown, now).unwrap();
    assert!(hub.poll_output().is_none());
    hub.handle_bytes(Lane::Control, &beat.encode(), now)
        .unwrap();
    assert!(hub.poll_output().is_some(), "what follows is read");
    assert!(hub.handle_bytes(Lane::Control, &other, now).is_err());
    let agent = &mut world.agent;
    agent.handle_bytes(Lane::Control, &unknown, now).unwrap();
    agent
        .handle_bytes(Lane::Control, &beat.encode(), now)
        .unwrap();
    let refused = agent.handle_bytes(Lane::Control, &other, now);
    assert_eq!(refused.unwrap_err().close_code(), CloseCode::Protocol);
}

#[test]
fn a_batch_that_came_before_is_acknowledged_or_awaited_and_never_handed_over_twice() {
    let world = World::new();
    let mark = HighWater {
        lane: Lane::Events.number(),
        epoch: EPOCH,
        seq: 3,
    };
    let config = hub::Config {
        high_water: vec![mark],
        ..world.hub_config()
    };
    let mut hub = hub::Session::new(config, world.now);
    let hello = Message::Hello(Hello {
        versions: crate::wire::VERSIONS,
        agent_version: String::new(),
        epoch: EPOCH,
        process: 1,
        witness: None,
        wall_ms: 0,
    });
    hub.handle_bytes(Lane::Control, &hello.encode(), world.now)
        .unwrap();
    while hub.poll_output().is_some() {}
    // What the hub says to a batch: whether it hands it over, and its messages.
    let say = |hub: &mut hub::Session, first_seq: u64, count: usize| {
        let items = vec!["item".to_owned(); count];
        let (_, frame) = sealed(&world.key, &place(Lane::Events, first_seq), &items);
        hub.handle_bytes(Lane::Events, &frame, world.now).unwrap();
        said(hub)
    };
    let acked = |seq: u64| vec![format!("ack {seq}")];
    assert_eq!(say(&mut hub, 1, 3), acked(3), "stored before this session");
    assert_eq!(say(&mut hub, 4, 2), ["handed over"]);
    assert_eq!(
        say(&mut hub, 4, 2),
        Vec::<String>::new(),
        "it is being stored"
    );
    assert_eq!(say(&mut hub, 5, 1), Vec::<String>::new());
    hub.handle_committed(Lane::Events, 5, 9, [0; 32]);
    assert_eq!(said(&mut hub), acked(5));
    assert_eq!(say(&mut hub, 4, 2), acked(5));
    assert_eq!(say(&mut hub, 6, 1), ["handed over"]);
}

/// What a hub's core wants done, in words.
fn said(hub: &mut hub::Session) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(output) = hub.poll_output() {
        words.push(match &output {
            hub::Output::Admit(_) => "handed over".to_owned(),
            hub::Output::Send { bytes, .. } => {
                let mut decoder = Decoder::new(Lane::Control);
                decoder.push(bytes);
                let frame = decoder.pop().unwrap().unwrap();
                match Message::decode(&frame).unwrap() {
                    Some(Message::Ack(ack)) => format!("ack {}", ack.seq),
                    other => format!("{other:?}"),
                }
            }
            hub::Output::Greeted(_) | hub::Output::Beat(_) | hub::Output::Renew(_) => {
                format!("{output:?}")
            }
        });
    }
    words
}

#[test]
fn a_batch_that_announces_a_bomb_or_comes_before_the_greeting_ends_the_session() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    world.run(None);
    let (mut header, frame) = sealed(&world.key, &place(Lane::Events, 1), &["x".into()]);
    header.payload_bytes = u32::MAX;
    let header = postcard::to_stdvec(&header).unwrap();
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    let mut decoder = Decoder::new(Lane::Events);
    decoder.push(&frame);
    let mut bomb = decoder.pop().unwrap().unwrap();
    bomb.payload = [&length[..], &header, &[0; 100]].concat();
    let hub = world.hub.as_mut().unwrap();
    let error = hub
        .handle_bytes(Lane::Events, &bomb.encode(), world.now)
        .unwrap_err();
    assert_eq!(error.close_code(), CloseCode::Protocol);
    assert!(hub.poll_output().is_none());

    let config = hub::Config {
        commit: 0,
        high_water: vec![],
        ..world.hub_config()
    };
    let mut early = hub::Session::new(config, world.now);
    let (_, batch) = sealed(&world.key, &place(Lane::Events, 1), &["x".into()]);
    assert!(early.handle_bytes(Lane::Events, &batch, world.now).is_err());
}

#[test]
fn a_hub_that_greets_and_then_cannot_store_is_dialled_with_growing_pauses() {
    let mut world = World::new();
    world.spool(Lane::Events, &["a"]);
    let mut dials = 0;
    for _ in 0..600 {
        world.wait(Duration::from_millis(500));
        while let Some(output) = world.agent.poll_output() {
            dials += u32::from(output == agent::Output::Dial);
            world.do_agent(output);
        }
        let Some(mut hub) = world.hub.take() else {
            continue;
        };
        while let Some(hub::Output::Send { lane, bytes }) = hub.poll_output() {
            world.agent.handle_bytes(lane, &bytes, world.now).unwrap();
        }
        assert!(world.agent.is_open());
        let ended = Ended::ByHub {
            code: Some(CloseCode::Store),
            reason: "the hub's disk is full".into(),
        };
        world.agent.handle_disconnected(ended, world.now);
    }
    assert!((5..40).contains(&dials), "{dials} attempts in 300 s");
    world.wait(Duration::from_secs(61));
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a"]);
}

#[test]
fn a_batch_that_nobody_acknowledges_is_sent_again_on_another_connection() {
    let mut world = World::new();
    world.wait(Duration::ZERO);
    world.run(None);
    world.spool(Lane::Events, &["a"]);
    while let Some(output) = world.agent.poll_output() {
        if !matches!(
            output,
            agent::Output::Send {
                lane: Lane::Events,
                ..
            }
        ) {
            world.do_agent(output);
        }
    }
    let close = "close silent for too long: lane Events was not acknowledged for 300 seconds";
    let began = world.now.at;
    while world.log.last().is_none_or(|line| line != close) {
        assert!(world.stored.is_empty());
        world.wait(crate::limits::HEARTBEAT);
        world.run(None);
        assert!(world.now.at - began < crate::limits::ACK_TIMEOUT * 2);
    }
    assert!(world.now.at - began >= crate::limits::ACK_TIMEOUT);
    world.wait(Duration::from_secs(61));
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a"]);
}

#[test]
fn a_spool_that_failed_for_a_while_is_asked_again() {
    let mut world = World::new();
    world.spool(Lane::Events, &["a"]);
    world.wait(Duration::ZERO);
    world.run(None);
    assert!(world.spool.is_empty());
    // A failed write has brought back what was let go, and a batch could not be read.
    let batch = {
        let (header, frame) = sealed(&world.key, &place(Lane::Events, 1), &["a".into()]);
        StoredBatch {
            first_seq: 1,
            last_seq: header.last_seq(),
            frame,
        }
    };
    world.spool.insert((Lane::Events, 1), batch);
    world.spool(Lane::Events, &["b"]);
    assert_eq!(until_fetch(&mut world), 1);
    world.agent.handle_batch(Lane::Events, None);
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a"]);
    world.wait(crate::limits::HEARTBEAT);
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a", "b"]);
    assert!(world.spool.is_empty());
}

/// Takes outputs until the spool is asked for a batch of events; says after which.
fn until_fetch(world: &mut World) -> u64 {
    while let Some(output) = world.agent.poll_output() {
        if let agent::Output::Fetch {
            lane: Lane::Events,
            after_seq,
        } = output
        {
            return after_seq;
        }
        world.do_agent(output);
    }
    panic!("no fetch")
}

#[test]
fn an_empty_answer_of_the_spool_that_came_too_late_leaves_nothing_behind() {
    // Something was spooled while the spool was looking.
    let mut world = World::new();
    world.wait(Duration::ZERO);
    for _ in ["dial", "hello"] {
        let output = world.agent.poll_output().unwrap();
        world.do_agent(output);
    }
    let Some(hub::Output::Send { lane, bytes }) = world.hub.as_mut().unwrap().poll_output() else {
        panic!("no greeting")
    };
    world.agent.handle_bytes(lane, &bytes, world.now).unwrap();
    assert_eq!(until_fetch(&mut world), 0);
    world.spool(Lane::Events, &["a"]);
    world.agent.handle_batch(Lane::Events, None);
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a"]);

    // The lane was rewound while the spool was looking.
    world.spool(Lane::Events, &["b"]);
    assert_eq!(until_fetch(&mut world), 1);
    let b = world.spool[&(Lane::Events, 2)].clone();
    world.agent.handle_batch(Lane::Events, Some(b));
    let swallowed = world.agent.poll_output();
    assert!(matches!(swallowed, Some(agent::Output::Send { .. })));
    assert_eq!(until_fetch(&mut world), 2);
    let refused = crate::wire::v1::Refused {
        lane: Lane::Events.number(),
        expected_seq: 2,
    };
    let refused = crate::wire::v1::Message::Refused(refused).encode();
    let now = world.now;
    world
        .agent
        .handle_bytes(Lane::Control, &refused, now)
        .unwrap();
    world.agent.handle_batch(Lane::Events, None);
    world.run(None);
    assert_eq!(world.stored[&Lane::Events], ["a", "b"]);
}

#[test]
fn a_certificate_is_renewed_from_half_of_its_life_by_the_hubs_clock() {
    // The agent's clock is half a year wrong either way.
    for ahead in [0, -15_000_000_000, 15_000_000_000] {
        let mut world = World::with_certificate(2000, ahead);
        let begun = world.hub_now().wall_ms;
        world.renews_until = Some(begun + 10_000_000);
        world.wait(Duration::ZERO);
        world.run(None);
        for _ in 0..110 {
            world.wait(Duration::from_secs(10));
            world.run(None);
        }
        let waited: Vec<i64> = world.renewed_at.iter().map(|at| at - begun).collect();
        assert_eq!(waited, [1_000_000], "{ahead}");
        assert!(world.agent.is_open(), "it is back with the new one");
        let back = |line: &&String| *line == "comes back";
        assert_eq!(world.log.iter().filter(back).count(), 1);
    }
}

/// Has an agent with so many older certificates turned away by each hub that it dials, until it
/// stops or gets in at the attempt with that number; returns what it did.
fn turned_away(older: usize, code: CloseCode, gets_in_at: usize) -> (Vec<String>, World) {
    let mut world = World::with_certificate(2000, 0);
    let mut config = world.config.clone();
    config.certificate.as_mut().unwrap().older = older;
    world.agent = agent::Session::new(config, world.now);
    world.renews_until = Some(world.now.wall_ms + 10_000_000);
    for attempt in 0.. {
        if world.agent.poll_timeout().is_none() {
            break;
        }
        world.wait(Duration::ZERO);
        if attempt == gets_in_at {
            world.run(None);
            break;
        }
        assert_eq!(world.agent.poll_output(), Some(agent::Output::Dial));
        world.log.push("dials".into());
        let reason = "unknown".to_owned();
        let ended = Ended::ByHub {
            code: Some(code),
            reason,
        };
        world.agent.handle_disconnected(ended, world.now);
        while let Some(output) = world.agent.poll_output() {
            world.do_agent(output);
        }
    }
    (std::mem::take(&mut world.log), world)
}

#[test]
fn a_hub_that_does_not_know_the_certificate_is_shown_the_older_ones_once_each() {
    let stop = |code: &str| format!("Stop {{ code: {code}, reason: \"unknown\" }}");
    let (log, _) = turned_away(2, CloseCode::Unenrolled, usize::MAX);
    let want = ["dials", "ShowOlder", "dials", "ShowOlder", "dials"];
    assert_eq!(log[..5], want);
    assert_eq!(log[5..], [stop("Unenrolled")]);
    // Revoked is revoked with any certificate.
    let (log, _) = turned_away(2, CloseCode::Revoked, usize::MAX);
    assert_eq!(log, ["dials".to_owned(), stop("Revoked")]);
    let (log, _) = turned_away(0, CloseCode::Unenrolled, usize::MAX);
    assert_eq!(log, ["dials".to_owned(), stop("Unenrolled")]);
}

#[test]
fn an_older_certificate_that_lets_the_agent_in_is_renewed_at_once() {
    let (log, mut world) = turned_away(3, CloseCode::Unenrolled, 2);
    assert_eq!(log.iter().filter(|line| *line == "ShowOlder").count(), 2);
    assert!(world.agent.is_open());
    // Half of the life of the one that the hub lost is far off.
    world.wait(Duration::ZERO);
    world.run(None);
    assert_eq!(world.renewed_at, [world.now.wall_ms]);
    world.wait(Duration::ZERO);
    world.run(None);
    assert!(world.agent.is_open(), "it is back with the new one");
    for _ in 0..50 {
        world.wait(Duration::from_secs(10));
        world.run(None);
    }
    assert_eq!(world.renewed_at.len(), 1);
}

#[test]
fn an_agent_that_runs_for_a_moment_waits_for_a_renewal_and_for_nothing_else() {
    let mut world = World::with_certificate(2000, 0);
    world.config.is_brief = true;
    let authority = |renew_within_ms| {
        crate::wire::v1::Message::Authority(crate::wire::v1::Authority {
            roots: vec![vec![1]],
            renew_within_ms,
        })
    };
    let tell = |world: &mut World, within_ms| {
        let bytes = authority(within_ms).encode();
        let now = world.now;
        world
            .agent
            .handle_bytes(Lane::Control, &bytes, now)
            .unwrap();
        world.agent.is_renewing(world.now)
    };
    let open = |world: &mut World| {
        world.agent = agent::Session::new(world.config.clone(), world.now);
        world.wait(Duration::ZERO);
        world.run(None);
        assert!(world.agent.is_open());
        // The hub may have more to say than its greeting.
        assert!(world.agent.is_renewing(world.now));
    };
    open(&mut world);
    assert!(!tell(&mut world, None), "half of its life is not over");
    // The hub wants one within a day: there may be no later.
    assert!(tell(&mut world, Some(86_400_000)));
    world.wait(Duration::from_secs(1));
    world.run(None);
    assert_eq!(world.renewed_at.len(), 1);
    assert!(!world.agent.is_renewing(world.now), "it was told no");

    world.renews_until = Some(world.now.wall_ms + 10_000_000);
    world.wait(Duration::from_secs(1000));
    open(&mut world);
    assert!(tell(&mut world, None), "half of its life is over");
    world.wait(Duration::ZERO);
    world.run(None);
    assert!(!world.agent.is_open(), "it comes back with the new one");
    world.wait(Duration::ZERO);
    world.run(None);
    assert!(!tell(&mut world, None));
    assert_eq!(world.renewed_at.len(), 2);
}

#[test]
fn what_is_under_way_is_acknowledged_before_the_session_is_made_anew() {
    let mut world = World::with_certificate(100, 0);
    world.wait(Duration::ZERO);
    world.run(None);
    let (_, first) = sealed(&world.key, &place(Lane::Events, 1), &["a".into()]);
    let batch = |frame| StoredBatch {
        first_seq: 1,
        last_seq: 1,
        frame,
    };
    world.agent.handle_spooled(Lane::Events);
    world.agent.handle_batch(Lane::Events, Some(batch(first)));
    let from = world.now.wall_ms;
    world
        .agent
        .handle_certificate(certificate(from, from + 1_000_000), world.now);
    let closes = |agent: &mut agent::Session| {
        let mut outputs = std::iter::from_fn(|| agent.poll_output());
        outputs.any(|output| output == agent::Output::ComeBack)
    };
    assert!(!closes(&mut world.agent), "a batch is under way");
    let ack = crate::wire::v1::Ack {
        lane: Lane::Events.number(),
        seq: 1,
        commit: 1,
        audit_head: [0; 32],
    };
    let ack = crate::wire::v1::Message::Ack(ack).encode();
    let (now, control) = (world.now, Lane::Control);
    world.agent.handle_bytes(control, &ack, now).unwrap();
    assert!(closes(&mut world.agent));
    // It comes back at once, not after a pause by chance.
    let ended = Ended::Lost {
        reason: "closed".into(),
    };
    world.agent.handle_disconnected(ended, now);
    assert_eq!(world.agent.poll_timeout(), Some(now.at));
}

#[test]
fn a_hub_that_gives_no_certificate_or_one_that_is_due_at_once_is_not_asked_without_end() {
    let mut refusing = World::with_certificate(2000, 0);
    let mut useless = World::with_certificate(2000, 0);
    useless.renews_until = Some(useless.now.wall_ms);
    for world in [&mut refusing, &mut useless] {
        world.wait(Duration::from_secs(1001));
        world.run(None);
        for _ in 0..500 {
            world.wait(Duration::from_secs(1));
            world.run(None);
        }
        let asked = world.renewed_at.len();
        assert!((2..=102).contains(&asked), "{asked}");
    }
}

#[test]
fn a_session_for_renewal_only_gives_a_certificate_and_takes_no_batch() {
    let mut world = World::with_certificate(0, 0);
    world.duty = Duty::RenewOnly;
    world.spool(Lane::Events, &["a"]);
    world.wait(Duration::ZERO);
    // An honest agent sends nothing: it has no credit.
    world.run(None);
    assert!(world.stored.is_empty() && world.spool.len() == 1);
    world.wait(Duration::ZERO);
    world.run(None);
    assert_eq!(world.renewed_at.len(), 1);

    let (_, batch) = sealed(&world.key, &place(Lane::Events, 1), &["a".into()]);
    let now = world.now;
    let hub = world.hub.as_mut().unwrap();
    let error = hub.handle_bytes(Lane::Events, &batch, now).unwrap_err();
    assert!(matches!(error, SessionError::RenewOnly), "{error}");
    assert_eq!(error.close_code(), CloseCode::Protocol);
    assert!(hub.poll_output().is_none(), "the batch was handed over");
}

#[test]
fn an_agent_that_asks_for_certificates_without_end_is_closed() {
    let world = World::new();
    let mut hub = hub::Session::new(world.hub_config(), world.now);
    let hello = crate::wire::v1::Hello {
        versions: (1, 1),
        agent_version: String::new(),
        epoch: EPOCH,
        wall_ms: 0,
        process: 1,
        witness: None,
    };
    let say = |message: crate::wire::v1::Message, hub: &mut hub::Session| {
        hub.handle_bytes(Lane::Control, &message.encode(), world.now)
    };
    say(crate::wire::v1::Message::Hello(hello), &mut hub).unwrap();
    let ask = || crate::wire::v1::Message::Renew(crate::wire::v1::Renew { csr: vec![1] });
    let mut answered = 0;
    while say(ask(), &mut hub).is_ok() {
        hub.handle_renewed(vec![]);
        answered += 1;
        assert!(answered < 100);
    }
    assert_eq!(answered, 8);
    let mut hub = hub::Session::new(world.hub_config(), world.now);
    let hello = crate::wire::v1::Hello {
        versions: (1, 1),
        agent_version: String::new(),
        epoch: EPOCH,
        wall_ms: 0,
        process: 1,
        witness: None,
    };
    say(crate::wire::v1::Message::Hello(hello), &mut hub).unwrap();
    say(ask(), &mut hub).unwrap();
    assert!(say(ask(), &mut hub).is_err(), "the first is not answered");
}

proptest! {
    /// Whatever is spooled and wherever the wire is cut, once it holds every item is stored
    /// exactly once and in order.
    #[test]
    fn every_item_is_stored_exactly_once(
        steps in proptest::collection::vec((0usize..3, 1usize..4, proptest::option::of(0usize..12)), 1..25),
    ) {
        let mut world = World::new();
        let mut want: BTreeMap<Lane, Vec<String>> = BTreeMap::new();
        for (index, (lane, count, budget)) in steps.into_iter().enumerate() {
            let lane = Lane::DATA[lane];
            let items: Vec<String> = (0..count).map(|n| format!("{index}.{n}")).collect();
            let texts: Vec<&str> = items.iter().map(String::as_str).collect();
            world.spool(lane, &texts);
            want.entry(lane).or_default().extend(items);
            world.wait(Duration::from_secs(61));
            world.run(budget);
        }
        for _ in 0..4 {
            world.wait(Duration::from_secs(61));
            world.run(None);
        }
        prop_assert_eq!(&world.stored, &want);
        prop_assert!(world.spool.is_empty());
    }
}
