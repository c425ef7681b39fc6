//! Golden bytes: everything that crosses the wire, as it was when it was frozen.
//!
//! `golden/v1/NAME.hex` holds the bytes of each, sixteen to a line. A test that fails here says that
//! agents and hubs which are in use would no longer understand each other: the way out is a new
//! wire version, not other bytes. `GOLDEN=write cargo test -p protocol --test golden` writes files
//! that are missing, and none that is there.

#![expect(
    clippy::disallowed_methods,
    reason = "a test reads its golden bytes; the core does no I/O"
)]

#[cfg(test)]
mod golden {
    use std::fmt::Debug;
    use std::fs;
    use std::path::PathBuf;

    use data_encoding::HEXLOWER;
    use protocol::batch::{
        BatchBuilder, BatchError, Place, SealedBatch, Signer, decode_item, seal_lost,
    };
    use protocol::document::SetHash;
    use protocol::enroll::{Pin, Reply, Request, Token, signed_message};
    use protocol::event::EventRecord;
    use protocol::frame::{Decoder, Frame, Lane};
    use protocol::ids::{AgentId, OrgId, SourceId, TokenId};
    use protocol::session::CloseCode;
    use protocol::wire::v1::{
        self, Ack, Authority, BatchHeader, Close, Content, Credit, GoAway, Heartbeat, Hello,
        HighWater, Lost, LostReason, Message, NotRenewed, Refused, Renew, Renewed, ReportItem,
        Resent, Resync, SourceReport, SweepItem, Welcome, Witness,
    };
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde::{Serialize, de::DeserializeOwned};

    const EPOCH: [u8; 16] = [0xe0; 16];
    const HUB_EPOCH: [u8; 16] = [0xe1; 16];
    const WALL_MS: i64 = 1_750_000_000_000;
    const SCOPE: &str = "aws/123456789012/us-east-1/ec2.security-group";

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
    }

    fn read(name: &str) -> Option<Vec<u8>> {
        let text = fs::read_to_string(folder().join(format!("{name}.hex"))).ok()?;
        let digits: String = text.split_whitespace().collect();
        Some(
            HEXLOWER
                .decode(digits.as_bytes())
                .expect("hexadecimal digits"),
        )
    }

    fn write(name: &str, bytes: &[u8]) {
        let lines = bytes.chunks(16).map(|line| HEXLOWER.encode(line) + "\n");
        fs::create_dir_all(folder()).unwrap();
        fs::write(
            folder().join(format!("{name}.hex")),
            lines.collect::<String>(),
        )
        .unwrap();
    }

    /// Returns the frozen bytes; writes those of `make` where there are none and that is wished.
    #[track_caller]
    fn golden(name: &str, make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        if let Some(bytes) = read(name) {
            return bytes;
        }
        assert!(
            std::env::var("GOLDEN").is_ok_and(|word| word == "write"),
            "{name}.hex is missing"
        );
        let bytes = make();
        write(name, &bytes);
        bytes
    }

    #[track_caller]
    fn frame_of(lane: Lane, bytes: &[u8]) -> Frame {
        let mut decoder = Decoder::new(lane);
        decoder.push(bytes);
        let frame = decoder.pop().unwrap().expect("one whole frame");
        assert_eq!(decoder.pop(), Ok(None));
        assert_eq!(frame.encode(), bytes, "a frame's layout has changed");
        frame
    }

    #[track_caller]
    fn check_message(name: &str, message: &Message) {
        let bytes = golden(name, || message.encode());
        let read = Message::decode(&frame_of(Lane::Control, &bytes)).unwrap();
        assert_eq!(read.as_ref(), Some(message), "{name} is read as another");
        assert_eq!(message.encode(), bytes, "{name} is written otherwise");
    }

    #[track_caller]
    fn check_item<T>(name: &str, item: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let encoded = postcard::to_stdvec(item).unwrap();
        let bytes = golden(name, || encoded.clone());
        assert_eq!(
            decode_item::<T>(&bytes).as_ref(),
            Ok(item),
            "{name} is read as another"
        );
        assert_eq!(encoded, bytes, "{name} is written otherwise");
    }

    fn witness() -> Witness {
        Witness {
            hub_epoch: HUB_EPOCH,
            commit: 300,
            audit_head: [0xad; 32],
        }
    }

    #[test]
    fn greetings_are_read_and_written_as_they_were_frozen() {
        let hello = Hello {
            versions: (1, 1),
            agent_version: "0.1.0".into(),
            epoch: EPOCH,
            process: 0x0102_0304_0506_0708,
            witness: Some(witness()),
            wall_ms: WALL_MS,
        };
        check_message("hello", &Message::Hello(hello.clone()));
        let first = Hello {
            witness: None,
            wall_ms: -1,
            ..hello
        };
        check_message("hello-first", &Message::Hello(first));
        let welcome = Welcome {
            version: 1,
            hub_epoch: HUB_EPOCH,
            commit: 300,
            high_water: vec![HighWater {
                lane: 1,
                epoch: EPOCH,
                seq: 1_000_000,
            }],
            credits: vec![
                Credit {
                    lane: 1,
                    bytes: 4 << 20,
                },
                Credit {
                    lane: 2,
                    bytes: 2 << 20,
                },
            ],
            wall_ms: WALL_MS,
        };
        check_message("welcome", &Message::Welcome(welcome));
    }

    #[test]
    fn messages_are_read_and_written_as_they_were_frozen() {
        let ack = Ack {
            lane: 1,
            seq: 1_000_250,
            commit: 301,
            audit_head: [0xad; 32],
        };
        check_message("ack", &Message::Ack(ack));
        let refused = Refused {
            lane: 2,
            expected_seq: 17,
        };
        check_message("refused", &Message::Refused(refused));
        let beat = Heartbeat {
            wall_ms: WALL_MS,
            spool_bytes: 1 << 30,
            oldest_ms: WALL_MS - 60_000,
        };
        check_message("heartbeat", &Message::Heartbeat(beat));
        let away = GoAway {
            code: CloseCode::Busy.number(),
            reason: "the hub is stopping".into(),
            retry_after_ms: 5_000,
        };
        check_message("go-away", &Message::GoAway(away));
        let whole = Resync {
            scope: String::new(),
            sums: vec![],
        };
        check_message("resync-all", &Message::Resync(whole));
        let parts = Resync {
            scope: SCOPE.into(),
            sums: vec![0, 1, u64::MAX],
        };
        check_message("resync-parts", &Message::Resync(parts));
        check_message(
            "close",
            &Message::Close(Close::new(CloseCode::Suspended, "suspended")),
        );
    }

    #[test]
    fn items_are_read_and_written_as_they_were_frozen() {
        let event = EventRecord {
            time_ms: WALL_MS,
            class_uid: 2004,
            severity: 4,
            action: "sshd: brute force".into(),
            activity: "failed".into(),
            actor: "root".into(),
            resource: "web-1".into(),
            src_ip: "192.0.2.7".into(),
            native_id: "1750000000.17".into(),
            raw: "{\"rule\":{}}".into(),
        };
        check_item("item-event", &event);
        let scope = || SCOPE.to_owned();
        let steps = [
            (
                "begin",
                SweepItem::Begin {
                    scope: scope(),
                    generation: 3,
                },
            ),
            (
                "changed",
                SweepItem::Changed {
                    document: "{}".into(),
                },
            ),
            (
                "gone",
                SweepItem::Gone {
                    urn: format!("{SCOPE}/sg-1"),
                },
            ),
            (
                "end",
                SweepItem::End {
                    scope: scope(),
                    generation: 3,
                    set: SetHash::default(),
                    resent: None,
                },
            ),
            (
                "end-repaired",
                SweepItem::End {
                    scope: scope(),
                    generation: 4,
                    set: SetHash::default(),
                    resent: Some(Resent {
                        parts: 16,
                        which: vec![0, 15],
                    }),
                },
            ),
            (
                "failed",
                SweepItem::Failed {
                    scope: scope(),
                    generation: 5,
                    call: "ec2:DescribeSecurityGroups".into(),
                    error: "UnauthorizedOperation".into(),
                },
            ),
        ];
        for (name, step) in &steps {
            check_item(&format!("item-sweep-{name}"), step);
        }
        let report = SourceReport {
            name: "prod".into(),
            kind: "aws".into(),
            started_ms: WALL_MS,
            finished_ms: WALL_MS + 1_000,
            calls: 120,
            documents: 4_000,
            faults: vec![("ec2:DescribeVpcs".into(), "Throttling".into())],
            error: String::new(),
        };
        check_item("item-report-source", &ReportItem::Source(report));
        let quarantined = ReportItem::Quarantined {
            place: "alerts.json:1024".into(),
            reason: "not JSON".into(),
            bytes: 300,
        };
        check_item("item-report-quarantined", &quarantined);
        for (name, reason) in [
            ("spool-full", LostReason::SpoolFull),
            ("released", LostReason::Released),
            ("damaged", LostReason::Damaged),
            ("source", LostReason::Source),
            ("bundle", LostReason::Bundle),
        ] {
            let lost = Lost {
                reason,
                from_ms: WALL_MS,
                to_ms: WALL_MS + 1,
                unsequenced: 7,
            };
            check_item(&format!("item-lost-{name}"), &lost);
        }
    }

    #[test]
    fn the_renewal_is_read_and_written_as_it_was_frozen() {
        let renew = Renew {
            csr: vec![0x30, 0x03, 0x02, 0x01, 0x00],
        };
        check_message("renew", &Message::Renew(renew));
        let renewed = Renewed {
            chain: vec![vec![0x30, 0x00], vec![0x30, 0x01, 0x00]],
        };
        check_message("renewed", &Message::Renewed(renewed));
        let refused = NotRenewed {
            reason: "the agent is revoked".into(),
        };
        check_message("not-renewed", &Message::NotRenewed(refused));
        let authority = Authority {
            roots: vec![vec![0x30, 0x00], vec![0x30, 0x01, 0x01]],
            renew_within_ms: Some(3_600_000),
        };
        check_message("authority-replaced", &Message::Authority(authority));
        let authority = Authority {
            roots: vec![vec![0x30, 0x00]],
            renew_within_ms: None,
        };
        check_message("authority", &Message::Authority(authority));
    }

    struct Key(EcdsaKeyPair);

    impl Key {
        fn new() -> Self {
            let (rng, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &rng).unwrap())
        }
    }

    impl Signer for Key {
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
            let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
            Ok(signature.as_ref().try_into().unwrap())
        }
    }

    fn place() -> Place {
        Place {
            lane: Lane::Events,
            epoch: EPOCH,
            first_seq: 1_000_001,
            source: SourceId::from_bytes([0x50; 16]),
            made_at_ms: WALL_MS,
        }
    }

    /// Signatures hold random numbers, so a batch is frozen with the public key behind it.
    fn signed(make: impl FnOnce(&Key) -> Vec<u8>) -> Vec<u8> {
        let key = Key::new();
        [make(&key), key.0.public_key().as_ref().to_vec()].concat()
    }

    /// Reads a frozen batch; returns its header and its items.
    #[track_caller]
    fn check_batch(name: &str, make: impl FnOnce(&Key) -> Vec<u8>) -> (BatchHeader, Vec<Vec<u8>>) {
        let bytes = golden(name, || signed(make));
        let (bytes, public_key) = bytes.split_last_chunk::<65>().unwrap();
        let frame = frame_of(Lane::Events, bytes);
        assert_eq!(
            (frame.kind, frame.codec),
            (v1::kind::BATCH, v1::CODEC_BATCH)
        );
        let sealed = SealedBatch::parse(&frame).unwrap();
        let header = postcard::to_stdvec(&sealed.header).unwrap();
        assert_eq!(
            header, sealed.header_bytes,
            "{name}: a header is written otherwise"
        );
        let layout = [
            &u16::try_from(header.len()).unwrap().to_le_bytes(),
            header.as_slice(),
            &sealed.signature,
            &sealed.payload,
        ];
        assert_eq!(
            layout.concat(),
            frame.payload,
            "{name}: the layout has changed"
        );
        let verified = sealed
            .verify(public_key)
            .expect("signature, root and payload");
        let items = verified.items().iter().map(<[u8]>::to_vec).collect();
        (verified.header().clone(), items)
    }

    #[test]
    fn batches_are_read_as_they_were_frozen() {
        let texts = ["one", "two", "three"];
        let (header, items) = check_batch("batch", |key| {
            let mut builder = BatchBuilder::default();
            for text in texts {
                builder.push(&text).unwrap();
            }
            builder.seal(&place(), key).unwrap().1
        });
        let want = BatchHeader {
            lane: Lane::Events.number(),
            epoch: EPOCH,
            first_seq: 1_000_001,
            count: 3,
            content: Content::Items,
            root: header.root,
            payload_bytes: 26,
            source: SourceId::from_bytes([0x50; 16]),
            made_at_ms: WALL_MS,
        };
        assert_eq!(header, want);
        let read: Vec<String> = items
            .iter()
            .map(|item| decode_item(item).unwrap())
            .collect();
        assert_eq!(read, texts);
        // The same items have the same root, whoever signs them.
        let mut builder = BatchBuilder::default();
        for text in texts {
            builder.push(&text).unwrap();
        }
        let (again, _) = builder.seal(&place(), &Key::new()).unwrap();
        assert_eq!(again.root, header.root, "the Merkle tree has changed");

        let lost = Lost {
            reason: LostReason::SpoolFull,
            from_ms: WALL_MS,
            to_ms: WALL_MS + 1,
            unsequenced: 7,
        };
        let (header, items) = check_batch("batch-lost", |key| {
            seal_lost(&place(), 70_000, &lost, key).unwrap().1
        });
        assert_eq!((header.content, header.count), (Content::Lost, 70_000));
        let read: Vec<Lost> = items
            .iter()
            .map(|item| decode_item(item).unwrap())
            .collect();
        assert_eq!(read, [lost]);
    }

    #[test]
    fn the_enrolment_is_read_and_written_as_it_was_frozen() {
        let token = Token {
            id: TokenId::from_bytes([0x70; 16]),
            seed: [0x5e; 32],
            hubs: vec!["hub.example:7443".into(), "192.0.2.1:7443".into()],
            pins: vec![Pin([0x91; 32])],
        };
        let text = golden("token", || token.to_text().into_bytes());
        let text = String::from_utf8(text).unwrap();
        assert_eq!(Token::parse(&text), Ok(token.clone()));
        assert_eq!(token.to_text(), text);
        let request = Request {
            token: token.id,
            csr: vec![0x30, 0x03, 0x02, 0x01, 0x00],
            signature: vec![0x51; 64],
            name: "web-1".into(),
            agent_version: "0.1.0".into(),
        };
        check_item("enroll-request", &request);
        let issued = Reply::Issued {
            org: OrgId::from_bytes([0x01; 16]),
            agent: AgentId::from_bytes([0x02; 16]),
            chain: vec![vec![0x30, 0x00], vec![0x30, 0x01, 0x00]],
            roots: vec![vec![0x30, 0x02, 0x05, 0x00], vec![0x30, 0x00]],
            not_after_ms: WALL_MS,
            bundle_key: [0xb0; 32],
        };
        check_item("enroll-issued", &issued);
        let refused = Reply::Refused {
            code: "token_used".into(),
            reason: "the token was used".into(),
        };
        check_item("enroll-refused", &refused);
        let message = golden("enroll-signed", || {
            signed_message(&request.csr, &[0xee; 32])
        });
        assert_eq!(signed_message(&request.csr, &[0xee; 32]), message);
    }

    #[test]
    fn the_page_about_the_format_shows_the_golden_bytes() {
        let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/wire-format.md");
        let page = fs::read_to_string(page).unwrap();
        for name in ["hello-first", "refused"] {
            let text = fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap();
            assert!(
                page.contains(&text),
                "the page shows other bytes than {name}.hex"
            );
        }
        for code in 0..64 {
            if let Some(code) = CloseCode::from_number(code) {
                let row = format!("| {} | {code} |", code.number());
                assert!(page.contains(&row), "no row: {row}");
            }
        }
    }

    /// A kind without golden bytes could change unnoticed.
    #[test]
    fn every_kind_of_message_has_golden_bytes() {
        let mut kinds = Vec::new();
        for entry in fs::read_dir(folder()).expect("golden bytes") {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            let name = name.strip_suffix(".hex").expect("only .hex files");
            if !["item-", "enroll-", "token"]
                .iter()
                .any(|other| name.starts_with(other))
            {
                kinds.push(read(name).unwrap()[6]);
            }
        }
        let empty = |kind| Frame {
            schema: v1::SCHEMA,
            lane: Lane::Control,
            kind,
            codec: v1::CODEC_POSTCARD,
            payload: vec![],
        };
        for kind in 0..=u8::MAX {
            let is_known = !matches!(Message::decode(&empty(kind)), Ok(None));
            if is_known || kind == v1::kind::BATCH {
                assert!(kinds.contains(&kind), "kind {kind} has no golden bytes");
            }
        }
    }
}
