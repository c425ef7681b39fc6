//! Volumes, requests and replies: what survives, and that every damage is refused by name.

use super::*;
use crate::batch::tests::{TestKey, place, sealed};
use crate::batch::{BatchError, Signer};
use crate::enroll::Pin;
use crate::frame::Lane;
use crate::ids::{AgentId, OrgId, TokenId};
use crate::limits;
use crate::wire::v1::HighWater;
use proptest::prelude::*;

fn secret() -> HubSecret {
    HubSecret::derive(&[4; 32])
}

fn header() -> Header {
    Header {
        org: OrgId::from_bytes([1; 16]),
        agent: AgentId::from_bytes([2; 16]),
        epoch: [9; 16],
        number: 7,
        volume: 1,
        volumes: 2,
        made_at_ms: 1_700_000_000_000,
        released: 6,
        previous: [3; 32],
        certificates: vec![b"leaf".to_vec(), b"intermediate".to_vec()],
    }
}

fn notice() -> Notice {
    Notice {
        agent_version: "1.2.3".into(),
        spool_bytes: 300,
        oldest_ms: 1_699_999_999_000,
        reply_key: [8; 32],
    }
}

/// Writes a volume; the seed makes it the same every time but for the signature.
fn volume(key: &dyn Signer, header: &Header, frames: &[Vec<u8>]) -> (Vec<u8>, Digest) {
    let mut out = Vec::new();
    let mut writer = VolumeWriter::begin(header, &secret().public(), &[5; 32], &mut out).unwrap();
    writer.notice(&notice(), &mut out).unwrap();
    writer.renewal(b"request", &mut out).unwrap();
    for frame in frames {
        writer.frame(frame, &mut out).unwrap();
    }
    let digest = writer.finish(key, &mut out).unwrap();
    (out, digest)
}

/// Reads a volume, in pieces of `piece` bytes, as somebody who expects `public_key` to sign.
fn read(
    secret: Option<&HubSecret>,
    public_key: &[u8],
    bytes: &[u8],
    piece: usize,
) -> Result<(Header, Vec<Record>, Digest), BundleError> {
    let mut reader = VolumeReader::new(secret);
    let (mut header, mut records, mut digest) = (None, Vec::new(), None);
    for part in bytes.chunks(piece) {
        reader.push(part);
        while let Some(piece) = reader.pop()? {
            match piece {
                Piece::Header(found) => {
                    header = Some(*found);
                    reader.expect_signer(public_key.to_vec());
                }
                Piece::Records(found) => records.extend(found),
                Piece::End(found) => digest = Some(found),
            }
        }
    }
    reader.finish()?;
    Ok((header.unwrap(), records, digest.unwrap()))
}

fn frames(key: &TestKey, count: u64) -> Vec<Vec<u8>> {
    let item = |n: u64| vec![format!("item {n}")];
    let frame = |n| sealed(key, &place(Lane::Events, n), &item(n)).1;
    (1..=count).map(frame).collect()
}

#[test]
fn a_volume_comes_out_as_it_went_in_whatever_the_pieces() {
    let key = TestKey::new();
    let frames = frames(&key, 20);
    let (bytes, digest) = volume(&key, &header(), &frames);
    for piece in [1, 7, 4096, bytes.len()] {
        let (found, records, end) = read(Some(&secret()), &key.public(), &bytes, piece).unwrap();
        assert_eq!((found, end), (header(), digest));
        let said = [
            Record::Notice(notice()),
            Record::Renewal(b"request".to_vec()),
        ];
        let want: Vec<_> = said
            .into_iter()
            .chain(frames.iter().cloned().map(Record::Frame))
            .collect();
        assert_eq!(records, want);
    }
    // Without the hub's key nothing is read, but the volume is known to be whole and signed.
    let (_, records, end) = read(None, &key.public(), &bytes, 64).unwrap();
    assert!(records.is_empty() && end == digest);
    let shown = String::from_utf8_lossy(&bytes);
    assert!(!shown.contains("item") && !shown.contains("1.2.3"));
}

#[test]
fn a_volume_of_many_chunks_holds_whole_records_in_each() {
    let key = TestKey::new();
    let frames: Vec<Vec<u8>> = (0..9u8)
        .map(|n| vec![n; limits::FRAME_BYTES / 2 + 13])
        .collect();
    let (bytes, _) = volume(&key, &header(), &frames);
    let (_, records, _) = read(Some(&secret()), &key.public(), &bytes, 1 << 16).unwrap();
    let found = records.into_iter().filter_map(|record| match record {
        Record::Frame(frame) => Some(frame),
        Record::Notice(_) | Record::Renewal(_) => None,
    });
    assert_eq!(found.collect::<Vec<_>>(), frames);
    let mut out = Vec::new();
    let mut writer =
        VolumeWriter::begin(&header(), &secret().public(), &[5; 32], &mut out).unwrap();
    let large = writer.frame(&vec![0; limits::BUNDLE_CHUNK_BYTES], &mut out);
    assert!(matches!(large, Err(BundleError::TooLarge { .. })));
}

#[test]
fn another_hubs_bundle_and_a_bundle_by_another_key_are_named() {
    let (key, other) = (TestKey::new(), TestKey::new());
    let (bytes, _) = volume(&key, &header(), &frames(&key, 1));
    let elsewhere = HubSecret::derive(&[6; 32]);
    let told = read(Some(&elsewhere), &key.public(), &bytes, 512);
    assert!(matches!(told, Err(BundleError::OtherHub)));
    let told = read(Some(&secret()), &other.public(), &bytes, 512);
    assert!(matches!(told, Err(BundleError::Signature)));
    assert!(!format!("{elsewhere:?}").contains("secret:"));
}

#[test]
fn chunks_cannot_be_moved_dropped_or_taken_from_another_volume() {
    let key = TestKey::new();
    let frames: Vec<Vec<u8>> = (0..6u8).map(|n| vec![n; limits::FRAME_BYTES]).collect();
    let (bytes, _) = volume(&key, &header(), &frames);
    let next = Header {
        volume: 2,
        ..header()
    };
    let (other, _) = volume(&key, &next, &frames);
    let cuts = |bytes: &[u8]| -> Vec<Vec<u8>> {
        let head = PRELUDE_BYTES + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let mut parts = vec![bytes[..head].to_vec()];
        let mut at = head;
        while at + SIGNATURE_BYTES < bytes.len() {
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            parts.push(bytes[at..at + 5 + length].to_vec());
            at += 5 + length;
        }
        parts.push(bytes[at..].to_vec());
        parts
    };
    let (ours, theirs) = (cuts(&bytes), cuts(&other));
    assert!(ours.len() >= 5, "a header, three chunks and a signature");
    let told = |parts: &[&Vec<u8>]| {
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        read(Some(&secret()), &key.public(), &whole, 1 << 16).unwrap_err()
    };
    let all: Vec<&Vec<u8>> = ours.iter().collect();
    let swapped = [&[all[0], all[2], all[1]], &all[3..]].concat();
    assert!(matches!(told(&swapped), BundleError::Chunk { chunk: 0 }));
    let dropped = [&all[..2], &all[3..]].concat();
    assert!(matches!(told(&dropped), BundleError::Chunk { chunk: 1 }));
    let doubled = [&all[..2], &all[1..]].concat();
    assert!(matches!(told(&doubled), BundleError::Chunk { chunk: 1 }));
    let spliced = [&all[..2], &[&theirs[2]], &all[3..]].concat();
    assert!(matches!(told(&spliced), BundleError::Chunk { chunk: 1 }));
    // The signature of one volume does not fit the other's chunks.
    let foreign = [&[&theirs[0]], &all[1..]].concat();
    assert!(matches!(told(&foreign), BundleError::Chunk { chunk: 0 }));
    let unsigned = [&all[..all.len() - 1], &[theirs.last().unwrap()]].concat();
    assert!(matches!(told(&unsigned), BundleError::Signature));
    let longer = [all.clone(), vec![&ours[1]]].concat();
    assert!(matches!(told(&longer), BundleError::Trailing));
}

proptest! {
    #[test]
    fn every_changed_bit_and_every_cut_of_a_volume_is_refused(
        at in any::<proptest::sample::Index>(), bit in 0u8..8, cut in any::<proptest::sample::Index>(),
    ) {
        let key = TestKey::new();
        let (bytes, _) = volume(&key, &header(), &frames(&key, 3));
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(read(Some(&secret()), &key.public(), &changed, 999).is_err());
        let end = cut.index(bytes.len());
        let told = read(Some(&secret()), &key.public(), &bytes[..end], 999).unwrap_err();
        prop_assert!(matches!(told, BundleError::Cut), "{told:?} at {end}");
        // Who only checks that it is whole notices all of that too, but not what is sealed.
        prop_assert!(read(None, &key.public(), &changed, 999).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_bundle_and_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), keep in 0usize..60,
    ) {
        let key = TestKey::new();
        let (good, _) = volume(&key, &header(), &[]);
        let mixed = [&good[..keep], &bytes[..]].concat();
        prop_assert!(read(Some(&secret()), &key.public(), &mixed, 33).is_err());
        prop_assert!(CarriedRequest::decode(&mixed).is_err());
        prop_assert!(SealedReply::decode(&mixed).is_err());
    }

}

proptest! {
    // A case writes some megabytes.
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// However the frames are, the plan covers all of them, and a volume that is written after it
    /// keeps its bound.
    #[test]
    fn volumes_keep_their_bound(
        lengths in proptest::collection::vec(0usize..(1 << 19), 0..24),
    ) {
        let volume_bytes = limits::BUNDLE_VOLUME_MIN_BYTES;
        let plan = plan(lengths.iter().copied(), volume_bytes);
        prop_assert_eq!(plan.iter().sum::<usize>(), lengths.len());
        let mut rest = &lengths[..];
        for count in plan {
            let (these, others) = rest.split_at(count);
            rest = others;
            let mut out = Vec::new();
            let key = Fixed;
            let mut writer =
                VolumeWriter::begin(&header(), &secret().public(), &[5; 32], &mut out).unwrap();
            writer.notice(&notice(), &mut out).unwrap();
            for length in these {
                writer.frame(&vec![0; *length], &mut out).unwrap();
            }
            writer.finish(&key, &mut out).unwrap();
            prop_assert!(out.len() as u64 <= volume_bytes, "{} bytes", out.len());
        }
    }
}

/// Signs everything alike, for bytes that have to be the same every time.
struct Fixed;

impl Signer for Fixed {
    fn sign(&self, _: &[u8]) -> Result<[u8; 64], BatchError> {
        Ok([0xee; 64])
    }
}

#[test]
fn the_layout_of_a_volume_is_what_the_page_says() {
    // Golden: `docs/bundle-format.md` explains these bytes.
    let header = Header {
        certificates: vec![b"leaf".to_vec()],
        ..header()
    };
    let mut out = Vec::new();
    let mut writer = VolumeWriter::begin(&header, &secret().public(), &[5; 32], &mut out).unwrap();
    writer.frame(b"frame", &mut out).unwrap();
    let digest = writer.finish(&Fixed, &mut out).unwrap();
    let golden = format!("{}\n\ndigest\n{}", hex(&out), hex(&digest));
    insta::assert_snapshot!("volume", golden);
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(32)
        .map(|line| data_encoding::HEXLOWER.encode(line));
    lines.collect::<Vec<_>>().join("\n")
}

fn request() -> CarriedRequest {
    CarriedRequest {
        token: TokenId::from_bytes([1; 16]),
        pin: Pin([2; 32]),
        csr: b"request".to_vec(),
        name: "web-1".into(),
        agent_version: "1.2.3".into(),
    }
}

#[test]
fn a_request_comes_out_as_it_went_in_and_every_damage_is_noticed() {
    let mut signed = Vec::new();
    let bytes = request()
        .encode(|message| {
            signed = message.to_vec();
            [7; 64]
        })
        .unwrap();
    let (found, message, signature) = CarriedRequest::decode(&bytes).unwrap();
    assert_eq!(
        (found, message, signature),
        (request(), signed.clone(), [7; 64])
    );
    for end in 0..bytes.len() {
        let told = CarriedRequest::decode(&bytes[..end]).unwrap_err();
        assert!(matches!(told, BundleError::Cut), "{told} at {end}");
    }
    // A changed byte breaks the layout, or changes what was signed, or the signature.
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        if let Ok((_, message, signature)) = CarriedRequest::decode(&changed) {
            assert!(message != signed || signature != [7; 64], "at {at}");
        }
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(
        CarriedRequest::decode(&longer),
        Err(BundleError::Trailing)
    ));
    assert!(matches!(
        SealedReply::decode(&bytes),
        Err(BundleError::Kind {
            found: Kind::Request,
            wanted: Kind::Reply
        })
    ));
}

#[test]
fn a_reply_opens_with_its_own_keys_only() {
    let key = TestKey::new();
    let reply = Reply {
        hub_epoch: [1; 16],
        last: (7, [2; 32]),
        missing: vec![5],
        high_water: vec![HighWater {
            lane: 1,
            epoch: [9; 16],
            seq: 40,
        }],
        resync: vec!["aws/123456789012/us-east-1/ec2.vpc".into()],
        issued: None,
    };
    let envelope = Envelope {
        org: OrgId::from_bytes([1; 16]),
        agent: AgentId::from_bytes([2; 16]),
        made_at_ms: 5,
        chain: vec![b"leaf".to_vec()],
    };
    let ours = ReplyKey([8; 32]);
    let sign = |message: &[u8]| key.sign(message).map_err(BundleError::Sign);
    let sealed = reply
        .encode(envelope.clone(), Some((&ours, [3; 12])), sign)
        .unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("123456789012"));
    let read = SealedReply::decode(&sealed).unwrap();
    assert_eq!(read.addressee(), (envelope.org, envelope.agent));
    assert_eq!((read.made_at_ms(), read.chain()), (5, &envelope.chain[..]));
    assert_eq!(read.open(&key.public(), Some(&ours)).unwrap(), reply);
    let other = ReplyKey([9; 32]);
    for key_of_reply in [Some(&other), None] {
        let told = read.open(&key.public(), key_of_reply);
        assert!(matches!(told, Err(BundleError::Contents(_))));
    }
    let told = read.open(&TestKey::new().public(), Some(&ours));
    assert!(matches!(told, Err(BundleError::Signature)));
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        let told = SealedReply::decode(&changed)
            .and_then(|changed| changed.open(&key.public(), Some(&ours)));
        assert!(told.is_err(), "at {at}");
        assert!(SealedReply::decode(&sealed[..at]).is_err(), "cut at {at}");
    }
    let plain = reply.encode(envelope, None, sign).unwrap();
    let read = SealedReply::decode(&plain).unwrap();
    assert_eq!(read.open(&key.public(), None).unwrap(), reply);
}

#[test]
fn a_file_of_a_newer_program_and_a_file_of_another_kind_are_told_apart() {
    let key = TestKey::new();
    let (mut bytes, _) = volume(&key, &header(), &[]);
    bytes[8] = 2;
    let told = read(Some(&secret()), &key.public(), &bytes, 64).unwrap_err();
    assert!(matches!(told, BundleError::Newer { found: 2 }));
    let letter = request().encode(|_| [0; 64]).unwrap();
    let told = read(Some(&secret()), &key.public(), &letter, 64).unwrap_err();
    assert_eq!(
        told.to_string(),
        "this is an enrolment request, not a bundle"
    );
    let told = read(Some(&secret()), &key.public(), b"PK\x03\x04 something", 64).unwrap_err();
    assert!(matches!(told, BundleError::Magic));
    assert!(matches!(
        read(Some(&secret()), &key.public(), b"PK", 64).unwrap_err(),
        BundleError::Magic
    ));
    assert!(HubKey::from_bytes(&[0; 31]).is_err());
    let key = secret().public();
    assert_eq!(HubKey::from_bytes(key.as_bytes()).unwrap(), key);
}
