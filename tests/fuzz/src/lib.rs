//! Bodies of the fuzz targets: one function for each decoder that reads what somebody else wrote.
//!
//! A body must not panic, must not hold more than the decoder's bound, and checks what the decoder
//! promises: what it accepts comes out the same when it is written and read again. The targets of
//! `cargo fuzz` (`fuzz/`, needs a nightly compiler) and the bounded run of `replay.rs` call the
//! same functions on the same corpus.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use protocol::batch::{SealedBatch, decode_item, open_payload};
use protocol::bundle::{
    CarriedRequest, HubSecret, PRELUDE_BYTES, SealedReply, VolumeReader, read_prelude,
};
use protocol::declare::Declarations;
use protocol::enroll::{Pin, Reply, Request, Token};
use protocol::event::EventRecord;
use protocol::filter::{FieldKind, FieldSpec, FieldValue, Filter, Row};
use protocol::frame::{Decoder, Frame, Lane};
use protocol::mux::{Demux, Piece};
use protocol::session::agent::{self, Ended};
use protocol::session::{Now, hub};
use protocol::spiffe::{self, NameError, TrustDomain};
use protocol::wire::v1::{
    self, BatchHeader, CODEC_BATCH, CODEC_POSTCARD, Hello, Lost, Message, ReportItem, SweepItem,
};
use protocol::{Document, Scope, Urn, limits};

#[path = "../../../agent/src/collect/wazuh/alert.rs"]
mod alert;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, of the file in `fuzz/fuzz_targets` and of the folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Its body.
    pub body: fn(&[u8]),
    /// Mutations in a normal test run: fewer where one of them takes long.
    pub mutations: u64,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("frame", frame, 20_000),
    target("demux", demux, 20_000),
    target("message", message, 20_000),
    target("batch", batch, 20_000),
    target("item", item, 20_000),
    target("hub_session", hub_session, 4_000),
    target("agent_session", agent_session, 4_000),
    target("document", document, 20_000),
    target("urn", urn, 20_000),
    target("filter", filter, 20_000),
    target("token", token, 20_000),
    target("enroll", enroll, 20_000),
    target("certificate", certificate, 20_000),
    target("agent_name", agent_name, 20_000),
    target("bundle", bundle, 5_000),
    target("check_file", check_file, 400),
    target("wazuh_alert", wazuh_alert, 10_000),
];

const fn target(name: &'static str, body: fn(&[u8]), mutations: u64) -> Target {
    Target {
        name,
        body,
        mutations,
    }
}

/// Cuts a stream into frames, in pieces, and writes each again.
pub fn frame(data: &[u8]) {
    for lane in Lane::ALL {
        let (mut whole, mut pieces) = (Decoder::new(lane), Decoder::new(lane));
        whole.push(data);
        let mut seen = Vec::new();
        let end = loop {
            match whole.pop() {
                Ok(Some(frame)) => {
                    assert!(frame.payload.len() <= limits::FRAME_BYTES);
                    let mut again = Decoder::new(lane);
                    again.push(&frame.encode());
                    assert_eq!(again.pop().as_ref(), Ok(&Some(frame.clone())));
                    seen.push(frame);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let mut cut = Vec::new();
        let mut cut_end = Ok(());
        'pieces: for piece in data.chunks(7) {
            pieces.push(piece);
            loop {
                match pieces.pop() {
                    Ok(Some(frame)) => cut.push(frame),
                    Ok(None) => break,
                    Err(error) => {
                        cut_end = Err(error);
                        break 'pieces;
                    }
                }
            }
        }
        assert_eq!(
            (seen, end),
            (cut, cut_end),
            "the cutting of bytes changes what is read"
        );
    }
}

/// Sorts a stream of all lanes.
pub fn demux(data: &[u8]) {
    let sorted = |chunk: usize| {
        let (mut demux, mut lanes, mut farewell) = (Demux::default(), BTreeMap::new(), None);
        for piece in data.chunks(chunk) {
            match demux.push(piece) {
                Ok(pieces) => {
                    for piece in pieces {
                        match piece {
                            Piece::Bytes(lane, bytes) => {
                                let all: &mut Vec<u8> = lanes.entry(lane).or_default();
                                all.extend(bytes);
                            }
                            Piece::Close(close) => farewell = Some(close),
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok((lanes, farewell))
    };
    assert_eq!(
        sorted(usize::MAX),
        sorted(5),
        "the cutting of bytes changes what is read"
    );
}

/// Splits off the first byte.
fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (*first, rest))
}

fn control(kind: u8, payload: &[u8]) -> Frame {
    Frame {
        schema: v1::SCHEMA,
        lane: Lane::Control,
        kind,
        codec: CODEC_POSTCARD,
        payload: payload.to_vec(),
    }
}

/// Reads a message: the first byte is its kind, the rest its payload.
pub fn message(data: &[u8]) {
    let (kind, payload) = split(data);
    let Ok(Some(read)) = Message::decode(&control(kind, payload)) else {
        return;
    };
    ends_and_is_sorted(kind, payload, &read);
    let mut decoder = Decoder::new(Lane::Control);
    decoder.push(&read.encode());
    let again = decoder
        .pop()
        .ok()
        .flatten()
        .map(|frame| Message::decode(&frame));
    assert_eq!(
        again,
        Some(Ok(Some(read))),
        "a message does not survive its own bytes"
    );
}

/// Checks that bytes behind an accepted message are refused, and that the farewell, and nothing
/// else, is taken out of a stream of all lanes.
fn ends_and_is_sorted(kind: u8, payload: &[u8], read: &Message) {
    let more = [payload, &[0]].concat();
    let more = Message::decode(&control(kind, &more));
    assert!(more.is_err(), "bytes are left over behind a message");
    let written = read.encode();
    let sorted = Demux::default().push(&written);
    if let Message::Close(close) = read {
        let is_short = close.reason.len() <= limits::CLOSE_REASON_BYTES;
        assert!(!is_short || sorted == Ok(vec![Piece::Close(close.clone())]));
    } else {
        assert_eq!(sorted, Ok(vec![Piece::Bytes(Lane::Control, written)]));
    }
}

/// Takes a batch apart: the bytes of a payload behind a made header, and the bytes as they are.
pub fn batch(data: &[u8]) {
    let frame = Frame {
        schema: v1::SCHEMA,
        lane: Lane::Events,
        kind: v1::kind::BATCH,
        codec: CODEC_BATCH,
        payload: data.to_vec(),
    };
    let announced = match SealedBatch::parse(&frame) {
        Ok(sealed) => {
            let bytes = sealed.header.payload_bytes;
            opened(&sealed.payload, bytes);
            let _ = sealed.verify(&[4; 65]);
            bytes
        }
        Err(_) => 300,
    };
    // The items themselves, which a change of compressed bytes hardly ever reaches.
    let packed = zstd::bulk::compress(data, 1).expect("memory is enough");
    opened(&packed, u32::try_from(data.len()).unwrap_or(u32::MAX));
    let (head, rest) = data.split_at_checked(4).unwrap_or((&[], data));
    let head: [u8; 4] = head.try_into().unwrap_or_default();
    opened(rest, u32::from_le_bytes(head));
    opened(data, announced);
}

fn opened(payload: &[u8], bytes: u32) {
    let Ok(items) = open_payload(payload, bytes) else {
        return;
    };
    let held: usize = items.iter().map(|item| item.len() + 4).sum();
    assert_eq!(
        u32::try_from(held),
        Ok(bytes),
        "another size than announced"
    );
    assert!(held <= limits::PAYLOAD_BYTES && items.len() <= limits::BATCH_ITEMS);
    let is_free = held <= limits::RATIO_FREE_BYTES;
    assert!(
        is_free || held <= payload.len() * limits::PAYLOAD_RATIO,
        "a bomb is taken"
    );
}

fn survives<T>(data: &[u8])
where
    T: serde_of::Both + PartialEq + std::fmt::Debug,
{
    let Ok(item) = decode_item::<T>(data) else {
        return;
    };
    let bytes = postcard::to_stdvec(&item).expect("what was read can be written");
    let again = decode_item::<T>(&bytes);
    assert_eq!(
        again.as_ref(),
        Ok(&item),
        "an item does not survive its own bytes"
    );
    let more = [data, &[0]].concat();
    assert!(decode_item::<T>(&more).is_err(), "bytes are left over");
}

/// What can be read and written.
mod serde_of {
    pub(crate) trait Both: serde::Serialize + serde::de::DeserializeOwned {}
    impl<T: serde::Serialize + serde::de::DeserializeOwned> Both for T {}
}

/// Reads an item of a batch: the first byte says of which lane.
pub fn item(data: &[u8]) {
    let (kind, rest) = split(data);
    match kind % 5 {
        0 => survives::<EventRecord>(rest),
        1 => survives::<SweepItem>(rest),
        2 => survives::<ReportItem>(rest),
        3 => survives::<Lost>(rest),
        _ => survives::<BatchHeader>(rest),
    }
}

/// Cuts bytes into frames with a right checksum: lane, kind, length, payload.
fn frames(mut data: &[u8]) -> Vec<(Lane, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [lane, kind, length, rest @ ..] = data {
        let lane = Lane::from_number(lane % 5).unwrap_or(Lane::Control);
        let length = usize::from(*length).min(rest.len());
        let (payload, rest) = rest.split_at(length);
        let codec = u8::from(*kind == v1::kind::BATCH);
        let frame = Frame {
            schema: v1::SCHEMA,
            lane,
            kind: *kind,
            codec,
            payload: payload.to_vec(),
        };
        frames.push((lane, frame.encode()));
        data = rest;
    }
    frames
}

fn now() -> Now {
    Now {
        at: Instant::now(),
        wall_ms: 1_700_000_000_000,
    }
}

/// Speaks to a hub's session, after a proper greeting.
pub fn hub_session(data: &[u8]) {
    let now = now();
    let config = hub::Config {
        hub_epoch: [5; 16],
        commit: 1,
        high_water: Vec::new(),
        duty: hub::Duty::All,
    };
    let mut session = hub::Session::new(config, now);
    let (greets, data) = split(data);
    if greets % 4 != 0 {
        let hello = Hello {
            versions: (v1::SCHEMA, v1::SCHEMA),
            agent_version: String::new(),
            epoch: [9; 16],
            process: 1,
            witness: None,
            wall_ms: 0,
        };
        let hello = Message::Hello(hello).encode();
        let greeted = session.handle_bytes(Lane::Control, &hello, now);
        assert!(greeted.is_ok(), "a proper greeting");
    }
    for (lane, bytes) in frames(data) {
        let result = session.handle_bytes(lane, &bytes, now);
        let mut outputs = 0;
        while let Some(output) = session.poll_output() {
            outputs += 1;
            if let hub::Output::Admit(batch) = output {
                let bound = limits::PAYLOAD_BYTES + limits::FRAME_BYTES;
                assert!(batch.held_bytes() <= bound, "a bomb waits for its turn");
                let verified = batch.verify(&[4; 65]);
                assert!(verified.is_err(), "a batch is taken that nobody signed");
            }
        }
        assert!(outputs <= 4, "one frame makes {outputs} outputs");
        if result.is_err() {
            return;
        }
    }
}

/// Speaks to an agent's session.
pub fn agent_session(data: &[u8]) {
    let mut now = now();
    let config = agent::Config {
        agent_version: String::new(),
        epoch: [9; 16],
        witness: None,
        process: 1,
        seed: 1,
        certificate: None,
        is_brief: false,
    };
    let mut session = agent::Session::new(config, now);
    session.handle_timeout(now);
    while session.poll_output().is_some() {}
    session.handle_connected(now);
    for (lane, bytes) in frames(data) {
        let result = session.handle_bytes(lane, &bytes, now);
        let mut outputs = 0;
        while let Some(output) = session.poll_output() {
            outputs += 1;
            assert!(outputs <= 40, "one frame makes no end of outputs");
            if let agent::Output::Fetch { lane, .. } = output {
                session.handle_batch(lane, None);
            }
        }
        if result.is_err() {
            break;
        }
        now.at += Duration::from_secs(1);
        session.handle_timeout(now);
    }
    let reason = String::new();
    session.handle_disconnected(Ended::Lost { reason }, now);
    let due = session.poll_timeout();
    let latest = now.at + limits::RECONNECT_MAX * 10;
    assert!(due.is_some_and(|due| due <= latest), "the agent comes back");
}

/// Reads a resource document.
pub fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(document) = serde_json::from_str::<Document>(text) else {
        return;
    };
    let written = serde_json::to_string(&document).expect("what was read can be written");
    let again: Document = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(
        document.content_hash(),
        again.content_hash(),
        "a document does not survive its own text"
    );
}

/// Reads a name and a scope.
pub fn urn(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(urn) = text.parse::<Urn>() {
        let written = urn.to_string();
        assert_eq!(written.parse().as_ref(), Ok(&urn), "{written}");
        assert_eq!(urn.scope.to_string().parse::<Scope>(), Ok(urn.scope));
    }
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.to_string().parse().as_ref(), Ok(&scope));
    }
}

struct Line;

impl Row for Line {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        match name {
            "name" => Some(FieldValue::Text("wéb-1")),
            "severity" => Some(FieldValue::Text("high")),
            "size" => Some(FieldValue::Number(-1.5)),
            "seen" => Some(FieldValue::Time(jiff::Timestamp::UNIX_EPOCH)),
            "open" => Some(FieldValue::Bool(true)),
            _ => None,
        }
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        look("w\u{e9}b-1")
    }
}

const FIELDS: &[FieldSpec] = &[
    field("name", FieldKind::Text),
    field("type", FieldKind::Type),
    field("severity", FieldKind::Enum(&["low", "high"])),
    field("size", FieldKind::Number),
    field("seen", FieldKind::Time),
    field("open", FieldKind::Bool),
];

const fn field(name: &'static str, kind: FieldKind) -> FieldSpec {
    FieldSpec { name, kind }
}

/// Reads a filter and applies it.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let now = jiff::Timestamp::UNIX_EPOCH;
    match Filter::parse(text, FIELDS, now) {
        Ok(filter) => {
            assert!(text.len() <= limits::FILTER_BYTES);
            let _ = (filter.matches(&Line), filter.time_bounds("seen"));
        }
        Err(error) => assert!(error.to_string().len() <= 3 * limits::FILTER_BYTES),
    }
}

/// Reads a token: as text, and as the bytes of one with a right checksum.
pub fn token(data: &[u8]) {
    let check = blake3::hash(data);
    let mut bytes = data.to_vec();
    bytes.extend(check.as_bytes().iter().take(4));
    let made = format!("zxt1_{}", BASE64URL_NOPAD.encode(&bytes));
    let text = String::from_utf8_lossy(data);
    for text in [text.as_ref(), made.as_str()] {
        if let Ok(token) = Token::parse(text) {
            let again = Token::parse(&token.to_text());
            assert!(
                again.is_ok_and(|again| again == token),
                "a token does not survive its text"
            );
        }
    }
    let _ = text.parse::<Pin>();
}

/// Reads both messages of the enrolment.
pub fn enroll(data: &[u8]) {
    survives::<Request>(data);
    survives::<Reply>(data);
}

/// Reads a certificate's key.
pub fn certificate(data: &[u8]) {
    if let Ok(pin) = Pin::of_certificate(data) {
        assert_eq!(pin.to_string().parse(), Ok(pin));
    }
}

/// Reads who an agent is from its certificate, and from the name alone.
pub fn agent_name(data: &[u8]) {
    let own = TrustDomain::of_root_key(Pin([7; 32]));
    let written = |org, agent| {
        let name = own.name_of(org, agent);
        assert_eq!(own.agent_of(&name), Ok((org, agent)));
        name
    };
    if let Ok(named) = spiffe::read(data, &own) {
        written(named.org, named.agent);
        let other = TrustDomain::of_root_key(Pin([8; 32]));
        assert_eq!(spiffe::read(data, &other), Err(NameError::TrustDomain));
    }
    if let Ok(text) = str::from_utf8(data)
        && let Ok((org, agent)) = own.agent_of(text)
    {
        assert_eq!(written(org, agent), text, "a name has two spellings");
    }
}

/// Reads the files of the air gap.
pub fn bundle(data: &[u8]) {
    if let Some(prelude) = data.first_chunk::<PRELUDE_BYTES>() {
        let _ = read_prelude(prelude);
    }
    let _ = (CarriedRequest::decode(data), SealedReply::decode(data));
    let secret = HubSecret::derive(&[7; 32]);
    for secret in [None, Some(&secret)] {
        let mut reader = VolumeReader::new(secret);
        reader.expect_signer(vec![4; 65]);
        let mut is_broken = false;
        'pieces: for piece in data.chunks(100) {
            reader.push(piece);
            loop {
                match reader.pop() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        is_broken = true;
                        break 'pieces;
                    }
                }
            }
        }
        if !is_broken {
            assert!(
                reader.finish().is_err(),
                "a volume is whole that nobody signed"
            );
        }
    }
}

/// Reads a check of an operator.
pub fn check_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Err(errors) = rules::Check::read("a.yaml", text, Declarations::builtin()) else {
        return;
    };
    assert!(!errors.is_empty(), "refused without a reason");
}

/// Reads a line of a Wazuh manager's alerts.
pub fn wazuh_alert(data: &[u8]) {
    let Ok(event) = alert::read(data, |event| event.to_record()) else {
        return;
    };
    for text in [&event.action, &event.actor, &event.resource, &event.src_ip] {
        assert!(text.len() <= 1024 + 4, "a field of {} bytes", text.len());
    }
    let bytes = postcard::to_stdvec(&event).expect("an event can be written");
    assert_eq!(decode_item::<EventRecord>(&bytes).as_ref(), Ok(&event));
}
