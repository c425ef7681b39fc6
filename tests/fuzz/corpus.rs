//! The corpus: what the project's own encoders make, and what a hostile peer would.

use protocol::batch::{BatchBuilder, BatchError, Place, Signer, seal_lost};
use protocol::bundle::{CarriedRequest, Header, HubSecret, VolumeWriter};
use protocol::document::SetHash;
use protocol::enroll::{Pin, Reply, Request, Token};
use protocol::event::EventRecord;
use protocol::frame::{HEADER_BYTES, Lane};
use protocol::ids::{AgentId, OrgId, SourceId, TokenId};
use protocol::session::CloseCode;
use protocol::spiffe::TrustDomain;
use protocol::wire::v1::{
    Ack, Authority, Close, Credit, GoAway, Heartbeat, Hello, HighWater, Lost, LostReason, Message,
    Refused, Renew, Renewed, ReportItem, Resync, SourceReport, SweepItem, Welcome, Witness, kind,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

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
        epoch: [9; 16],
        first_seq: 1,
        source: SourceId::from_bytes([3; 16]),
        made_at_ms: 1_700_000_000_000,
    }
}

fn messages() -> Vec<(&'static str, Message)> {
    let witness = Witness {
        hub_epoch: [5; 16],
        commit: 7,
        audit_head: [6; 32],
    };
    let hello = Hello {
        versions: (1, 1),
        agent_version: "0.1.0".into(),
        epoch: [9; 16],
        process: 77,
        witness: Some(witness),
        wall_ms: 1_700_000_000_000,
    };
    let welcome = Welcome {
        version: 1,
        hub_epoch: [5; 16],
        commit: 7,
        high_water: vec![HighWater {
            lane: 1,
            epoch: [9; 16],
            seq: 12,
        }],
        credits: vec![Credit {
            lane: 1,
            bytes: 4 << 20,
        }],
        wall_ms: 1_700_000_000_000,
    };
    let ack = Ack {
        lane: 1,
        seq: 12,
        commit: 8,
        audit_head: [6; 32],
    };
    let away = GoAway {
        code: 6,
        reason: "later".into(),
        retry_after_ms: 5_000,
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("welcome", Message::Welcome(welcome)),
        ("ack", Message::Ack(ack)),
        (
            "refused",
            Message::Refused(Refused {
                lane: 1,
                expected_seq: 5,
            }),
        ),
        (
            "heartbeat",
            Message::Heartbeat(Heartbeat {
                wall_ms: 1,
                spool_bytes: 2,
                oldest_ms: -3,
            }),
        ),
        ("go-away", Message::GoAway(away)),
        (
            "renew",
            Message::Renew(Renew {
                csr: vec![0x30, 0x82, 1, 2],
            }),
        ),
        (
            "renewed",
            Message::Renewed(Renewed {
                chain: vec![vec![0x30, 0], vec![]],
            }),
        ),
        (
            "authority",
            Message::Authority(Authority {
                roots: vec![vec![0x30, 0]],
                renew_within_ms: Some(u64::MAX),
            }),
        ),
        (
            "close",
            Message::Close(Close::new(CloseCode::Busy, "come back later")),
        ),
        (
            "resync",
            Message::Resync(Resync {
                scope: "aws/1/us-east-1/ec2.vpc".into(),
                sums: vec![1, u64::MAX],
            }),
        ),
    ]
}

/// Returns bytes as a piece of a session: lane, kind, length, payload.
fn spoken(frame: &[u8]) -> Vec<u8> {
    let (head, payload) = frame.split_at(HEADER_BYTES);
    let length = u8::try_from(payload.len()).unwrap();
    [&[head[5], head[6], length], payload].concat()
}

fn event() -> EventRecord {
    EventRecord {
        time_ms: 1_700_000_000_000,
        class_uid: 2004,
        severity: 4,
        action: "sshd: brute force".into(),
        src_ip: "192.0.2.7".into(),
        raw: "{}".into(),
        ..EventRecord::default()
    }
}

fn postcard<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

fn behind(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], bytes].concat()
}

/// Returns every case: target, name, bytes.
pub(crate) fn made() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut add = |target, name: &str, bytes: &[u8]| {
        cases.push((target, name.to_owned(), bytes.to_vec()));
    };
    let key = Key::new();
    let mut builder = BatchBuilder::default();
    for _ in 0..3 {
        builder.push(&event()).unwrap();
    }
    let (header, batch) = builder.seal(&place(), &key).unwrap();
    let lost = Lost {
        reason: LostReason::SpoolFull,
        from_ms: 1,
        to_ms: 2,
        unsequenced: 3,
    };
    let (_, lost_batch) = seal_lost(&place(), 70_000, &lost, &key).unwrap();

    let (mut all, mut bytes_of_all) = (Vec::new(), Vec::new());
    for (name, message) in messages() {
        let bytes = message.encode();
        add("frame", name, &bytes);
        add("demux", name, &bytes);
        bytes_of_all.extend_from_slice(&bytes);
        add("message", name, &behind(bytes[6], &bytes[HEADER_BYTES..]));
        add("hub_session", name, &behind(1, &spoken(&bytes)));
        let spoken = spoken(&bytes);
        all.extend_from_slice(&spoken);
        add("agent_session", name, &spoken);
        if name == "hello" {
            add("hub_session", "greets-itself", &behind(0, &spoken));
        }
    }
    add(
        "agent_session",
        "welcome-and-all",
        &[&all[all.len() / 4..], &all].concat(),
    );
    add("frame", "batch", &batch);
    let mixed = [batch.clone(), bytes_of_all, lost_batch.clone()].concat();
    add("demux", "mixed", &mixed);
    add(
        "demux",
        "long-close",
        &[0, 0, 0x10, 0, 1, 0, 9, 0, 1, 2, 3, 4, 5],
    );
    add(
        "frame",
        "two",
        &[batch.clone(), lost_batch.clone()].concat(),
    );
    add("frame", "cut", &batch[..batch.len() - 1]);
    add(
        "frame",
        "oversize",
        &[0, 0, 0x10, 0x80, 1, 1, 3, 1, 0, 0, 0, 0],
    );
    add("frame", "no-lane", &[0, 0, 0, 0, 1, 250, 3, 1, 0, 0, 0, 0]);
    add(
        "message",
        "long-list",
        &[kind::WELCOME, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    );
    add(
        "message",
        "long-text",
        &[kind::GO_AWAY, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, b'x'],
    );
    add("hub_session", "lost", &behind(1, &spoken(&lost_batch)));
    add("batch", "events", &batch[HEADER_BYTES..]);
    add("batch", "lost", &lost_batch[HEADER_BYTES..]);
    let mut bomb = BatchBuilder::default();
    while !bomb.is_full() {
        bomb.push_bytes(&[0; 60_000]).unwrap();
    }
    let (bomb, bytes) = bomb.compress().unwrap();
    add(
        "batch",
        "zeros",
        &[&bytes.to_le_bytes(), bomb.as_slice()].concat(),
    );
    add(
        "batch",
        "bomb",
        &[&(64u32 << 20).to_le_bytes(), bomb.as_slice()].concat(),
    );
    add(
        "batch",
        "too-many",
        &[&60_000u32.to_le_bytes(), bomb.as_slice()].concat(),
    );

    let items: Vec<u8> = [3u32, 0, 5]
        .iter()
        .flat_map(|length| {
            let length_bytes = length.to_le_bytes();
            length_bytes.into_iter().chain((0..*length).map(|_| b'x'))
        })
        .collect();
    add("batch", "items", &items);
    let mut one = vec![0; 3 << 20];
    one[..4].copy_from_slice(&((3u32 << 20) - 4).to_le_bytes());
    let zeros = zstd::bulk::compress(&one, 1).unwrap();
    let above_ratio = [&(3u32 << 20).to_le_bytes(), zeros.as_slice()].concat();
    add("batch", "above-ratio", &above_ratio);

    add("item", "event", &behind(0, &postcard(&event())));
    let scope = "aws/123456789012/us-east-1/ec2.security-group".to_owned();
    let steps = [
        SweepItem::Begin {
            scope: scope.clone(),
            generation: 3,
        },
        SweepItem::Gone {
            urn: format!("{scope}/sg-1"),
        },
        SweepItem::End {
            scope: scope.clone(),
            generation: 3,
            set: SetHash::default(),
            resent: None,
        },
        SweepItem::Failed {
            scope,
            generation: 3,
            call: "ec2:DescribeSecurityGroups".into(),
            error: "UnauthorizedOperation".into(),
        },
    ];
    for (number, step) in steps.iter().enumerate() {
        add(
            "item",
            &format!("sweep-{number}"),
            &behind(1, &postcard(step)),
        );
    }
    let report = ReportItem::Source(SourceReport {
        name: "prod".into(),
        kind: "aws".into(),
        started_ms: 1,
        finished_ms: 2,
        calls: 3,
        documents: 4,
        faults: vec![("ec2:DescribeVpcs".into(), "Throttling".into())],
        error: String::new(),
    });
    add("item", "report", &behind(2, &postcard(&report)));
    add("item", "lost", &behind(3, &postcard(&lost)));
    add("item", "header", &behind(4, &postcard(&header)));

    let token = Token {
        id: TokenId::from_bytes([1; 16]),
        seed: [2; 32],
        hubs: vec!["hub.example:7443".into()],
        pins: vec![Pin([3; 32])],
    };
    add("token", "text", token.to_text().as_bytes());
    add("token", "bytes", &postcard(&token));
    add("token", "pin", Pin([3; 32]).to_string().as_bytes());
    let request = Request {
        token: token.id,
        csr: vec![0x30, 0x82, 1, 2],
        signature: vec![7; 64],
        name: "web-1".into(),
        agent_version: "0.1.0".into(),
    };
    add("enroll", "request", &postcard(&request));
    let made = rcgen::generate_simple_self_signed(["zero-x-hub".to_owned()]).unwrap();
    let certificate = made.cert.der().to_vec();
    let issued = Reply::Issued {
        org: OrgId::from_bytes([1; 16]),
        agent: AgentId::from_bytes([2; 16]),
        chain: vec![certificate.clone()],
        roots: vec![vec![0x30, 3, 2, 1, 0], vec![0x30, 0]],
        not_after_ms: 1,
        bundle_key: [4; 32],
    };
    add("enroll", "issued", &postcard(&issued));
    let refused = Reply::Refused {
        code: "token_used".into(),
        reason: "was used".into(),
    };
    add("enroll", "refused", &postcard(&refused));
    add("certificate", "leaf", &certificate);
    add("certificate", "cut", &certificate[..certificate.len() / 2]);
    add(
        "certificate",
        "long",
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x30, 0x80],
    );

    let own = TrustDomain::of_root_key(Pin([7; 32]));
    let name = own.name_of(OrgId::from_bytes([1; 16]), AgentId::from_bytes([2; 16]));
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(name.as_str().try_into().unwrap())];
    let own_key = rcgen::KeyPair::generate().unwrap();
    let named = params.self_signed(&own_key).unwrap().der().to_vec();
    add("agent_name", "leaf", &named);
    add("agent_name", "other", &certificate);
    add("agent_name", "text", name.as_bytes());

    let carried = CarriedRequest {
        token: token.id,
        pin: Pin([3; 32]),
        csr: vec![0x30, 0x82, 1, 2],
        name: "web-1".into(),
        agent_version: "0.1.0".into(),
    };
    add("bundle", "request", &carried.encode(|_| [7; 64]).unwrap());
    let header = Header {
        org: OrgId::from_bytes([1; 16]),
        agent: AgentId::from_bytes([2; 16]),
        epoch: [9; 16],
        number: 1,
        volume: 1,
        volumes: 1,
        made_at_ms: 1_700_000_000_000,
        released: 0,
        previous: [0; 32],
        certificates: vec![certificate],
    };
    let secret = HubSecret::derive(&[7; 32]);
    let mut volume = Vec::new();
    let mut writer = VolumeWriter::begin(&header, &secret.public(), &[8; 32], &mut volume).unwrap();
    writer.frame(&batch, &mut volume).unwrap();
    writer.finish(&key, &mut volume).unwrap();
    add("bundle", "volume", &volume);
    add("bundle", "newer", b"ZXBUNDLE\x09\x01\0\0\x10\0\0\0");
    add("bundle", "long", b"ZXBUNDLE\x01\x01\0\0\xff\xff\xff\xff");
    texts(&mut add);
    cases
}

fn texts(add: &mut impl FnMut(&'static str, &str, &[u8])) {
    let group = "aws/123456789012/us-east-1/ec2.security-group/sg-0abc";
    add("urn", "group", group.as_bytes());
    add("urn", "escaped", b"aws/1/global/s3.bucket/a%2Fb%25%20c");
    add(
        "urn",
        "scope",
        b"gcp/my-project/europe-west1/storage.bucket",
    );
    add("urn", "half-escape", b"aws/1/global/s3.bucket/%c3");
    add("urn", "slashes", b"aws////");
    add("urn", "no-provider", b"AWS/1/r/t/i");

    for (number, text) in [
        "name=web severity>=high size<10 open=true",
        "name~we* -name=db tag:env=prod",
        "seen>2026-01-01T00:00:00Z seen<1h",
        "\"quoted words\" ~fuzzy type=aws.s3.bucket",
        "size>=1e308 size!=NaN name=\"\\\"\"",
        "name=\u{202e}\u{1b}[31m sev>=",
    ]
    .iter()
    .enumerate()
    {
        add("filter", &number.to_string(), text.as_bytes());
    }
    add("filter", "many", "name=a ".repeat(200).as_bytes());

    let document = r#"{"urn":"aws/1/us-east-1/ec2.security-group/sg-1","type":"aws.ec2.security-group","provider":"aws","account":"1","region":"us-east-1","id":"sg-1","native_id":"arn:aws:ec2:us-east-1:1:security-group/sg-1","name":"web","tags":{"env":"prod"},"config":{"ingress":[{"port":22,"from":"0.0.0.0/0"}],"vpc":null,"share":0.1},"links":[{"rel":"in_vpc","urn":"aws/1/us-east-1/ec2.vpc/vpc-1"}],"gaps":{"config.x":{"call":"ec2:DescribeVpcs","error":"UnauthorizedOperation"}},"collected_at":"2026-01-02T03:04:05Z"}"#;
    add("document", "group", document.as_bytes());
    add(
        "document",
        "deep",
        format!("{{\"config\":{}", "[".repeat(300)).as_bytes(),
    );
    add(
        "document",
        "twice",
        br#"{"urn":"a/b/c/d/e","urn":"a/b/c/d/f","config":{"a":1e999}}"#,
    );

    let files = rules::RuleSet::builtin_files();
    for (path, text) in files.iter().step_by(files.len() / 5) {
        add("check_file", &path.replace('/', "-"), text.as_bytes());
    }
    add(
        "check_file",
        "aliases",
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nid: *c\n",
    );
    let nested = format!(
        "id: a.b.c\npass: '{}true{}'\n",
        "(".repeat(400),
        ")".repeat(400)
    );
    add("check_file", "nested", nested.as_bytes());
    add("check_file", "nested-yaml", "[".repeat(600).as_bytes());

    let alert = r#"{"timestamp":"2022-05-11T12:29:19.905+0000","rule":{"level":10,"description":"sshd: brute force","id":"5712"},"agent":{"id":"001","name":"web-1"},"manager":{"name":"m"},"id":"1652272159.1549653","data":{"srcip":"192.0.2.7","dstuser":"paco","status":"failed"}}"#;
    add("wazuh_alert", "ssh", alert.as_bytes());
    add(
        "wazuh_alert",
        "no-rule",
        br#"{"timestamp":"2022-05-11T12:29:19Z"}"#,
    );
    add(
        "wazuh_alert",
        "no-utf8",
        b"{\"timestamp\":\"2022-05-11T12:29:19Z\",\"rule\":{\"id\":\"\xff\xfe\"}}",
    );
    add("wazuh_alert", "deep", "[".repeat(300).as_bytes());
    let escapes = r#"{"timestamp":"-9999-01-01T00:00:00.9+9999","rule":{"level":-1,"description":"\u0000\ud800\u001b[2J"}}"#;
    add("wazuh_alert", "escapes", escapes.as_bytes());
}
