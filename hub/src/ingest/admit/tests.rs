//! Batches as agents seal them, against small declarations.

use super::*;
use protocol::batch::{BatchError, Place, SealedBatch, Signer, open_payload};
use protocol::document::Link;
use protocol::event::EventRecord;
use protocol::frame::Decoder;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

const TYPES: &str = "
provider: aws
service: ec2
types:
  aws.ec2.volume:
    summary: A disk.
    source: https://example.org
    scope: region
    call: ec2:DescribeVolumes
    fields:
      VolumeId: {type: string, required: true, meaning: Its id.}
      Encrypted: {type: bool, meaning: Whether it is sealed.}
      Attachments:
        type: list
        meaning: Where it is in use.
        of:
          InstanceId: {type: string}
      State: {type: record, meaning: How it is., of: {Name: {type: string, call: 'ec2:Other'}}}
    links:
      attached_to: {to: aws.ec2.instance, meaning: The machine.}
  aws.ec2.instance:
    summary: A machine.
    source: https://example.org
    scope: region
    call: ec2:DescribeInstances
    fields:
      InstanceId: {type: string, meaning: Its id.}
";

struct Key(EcdsaKeyPair);

impl Key {
    fn new() -> Self {
        let (rng, alg) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &rng).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &rng).unwrap())
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        Ok(signature.as_ref().try_into().unwrap())
    }
}

fn batch(lane: Lane, items: &[Vec<u8>]) -> VerifiedBatch {
    let mut builder = BatchBuilder::default();
    for item in items {
        builder.push_bytes(item).unwrap();
    }
    let place = Place {
        lane,
        epoch: [9; 16],
        first_seq: 7,
        source: SourceId::from_bytes([3; 16]),
        made_at_ms: 0,
    };
    let key = Key::new();
    let (_, frame) = builder.seal(&place, &key).unwrap();
    let mut decoder = Decoder::new(lane);
    decoder.push(&frame);
    let sealed = SealedBatch::parse(&decoder.pop().unwrap().unwrap()).unwrap();
    sealed.verify(key.0.public_key().as_ref()).unwrap()
}

fn terms() -> Terms {
    let types = Declarations::parse([("ec2.yaml", TYPES)]).unwrap();
    Terms {
        agent: AgentId::from_bytes([1; 16]),
        public_key: Vec::new(),
        accounts: None,
        types: Box::leak(Box::new(types)),
    }
}

fn document(change: impl FnOnce(&mut Document)) -> Document {
    let scope = Scope::of_type("aws.ec2.volume", "123456789012", "us-east-1");
    let mut document = Document {
        type_name: "aws.ec2.volume".into(),
        provider: "aws".into(),
        account: "123456789012".into(),
        region: "us-east-1".into(),
        id: "vol-1".into(),
        native_id: "vol-1".into(),
        name: "data".into(),
        tags: Some(BTreeMap::new()),
        config: json!({
            "VolumeId": "vol-1",
            "Encrypted": true,
            "Attachments": [{"InstanceId": "i-1"}],
            "State": {"Name": null},
        }),
        gaps: BTreeMap::new(),
        links: vec![],
        collected_at: Timestamp::UNIX_EPOCH,
        urn: scope.urn("vol-1"),
    };
    change(&mut document);
    document
}

fn sent(items: &[SweepItem]) -> VerifiedBatch {
    let items: Vec<Vec<u8>> = items
        .iter()
        .map(|item| postcard::to_stdvec(item).unwrap())
        .collect();
    batch(Lane::Inventory, &items)
}

fn changed(document: &Document) -> SweepItem {
    SweepItem::Changed {
        document: serde_json::to_string(document).unwrap(),
    }
}

/// The reason of the one refusal; the document after it must land.
fn refused(change: impl FnOnce(&mut Document)) -> String {
    let rest = document(|_| {});
    let admitted = admit(
        &sent(&[changed(&document(change)), changed(&rest)]),
        &terms(),
    );
    let landed = [Item::Changed(Box::new(rest))];
    assert_eq!(admitted.items, landed, "the rest must land");
    let [refusal] = admitted.refused.as_slice() else {
        panic!("{:?}", admitted.refused)
    };
    refusal.reason.clone()
}

fn gap() -> Gap {
    Gap {
        call: "ec2:DescribeVolumes".into(),
        error: "AccessDenied".into(),
    }
}

#[test]
fn a_document_is_refused_for_what_is_not_declared_and_its_neighbours_land() {
    let is = |want: &str, change: &dyn Fn(&mut Document)| assert_eq!(refused(change), want);
    is("config.Password is not declared", &|d| {
        d.config["Password"] = json!("hunter2");
    });
    is("config.(no name) is not declared", &|d| {
        d.config["the password is hunter2"] = json!(1);
    });
    is(
        "config.Encrypted should be true or false, but is text",
        &|d| d.config["Encrypted"] = json!("hunter2"),
    );
    let lacks = "config.Attachments has fields that are not declared, or lacks declared ones";
    is(lacks, &|d| {
        d.config["Attachments"] = json!([{"InstanceId": "i-1", "Secret": "hunter2"}]);
    });
    is(lacks, &|d| d.config["Attachments"] = json!([{}]));
    is("config.State.Reason is not declared", &|d| {
        d.config["State"]["Reason"] = json!("hunter2");
    });
    is("its config is not an object", &|d| d.config = json!([]));
    let part = |part: &str| format!("its {part} is not the one that its URN names");
    is(&part("account"), &|d| d.account = "999999999999".into());
    is(&part("region"), &|d| d.region = "eu-west-1".into());
    is(&part("provider"), &|d| d.provider = "gcp".into());
    is(&part("type"), &|d| d.type_name = "aws.ec2.vpc".into());
    is(&part("id"), &|d| d.id = "vol-2".into());
    is("the resource type aws.ec2.nothing is not declared", &|d| {
        d.type_name = "aws.ec2.nothing".into();
        d.urn.scope.kind = "ec2.nothing".into();
    });
    let link = |rel: &str, to: &str| Link {
        rel: rel.into(),
        urn: Scope::of_type(to, "123456789012", "us-east-1").urn("x"),
    };
    is("the link owns is not declared", &|d| {
        d.links = vec![link("owns", "aws.ec2.instance")];
    });
    is(
        "the link attached_to leads to another type than declared",
        &|d| d.links = vec![link("attached_to", "aws.ec2.vpc")],
    );
    is("a gap is not about config, tags, links or name", &|d| {
        d.gaps.insert("account".into(), gap());
    });
    is("its name or native id is longer than 4096 bytes", &|d| {
        d.name = "n".repeat(limits::URN_BYTES + 1)
    });
}

#[test]
fn a_field_is_either_there_or_explained_at_every_depth() {
    let either = |path: &str| format!("{path} is not either there or explained by a gap");
    let without = |d: &mut Document, field: &str| {
        d.config.as_object_mut().unwrap().remove(field).unwrap();
    };
    let missing = refused(|d| without(d, "Encrypted"));
    assert_eq!(missing, either("config.Encrypted"));
    let both = refused(|d| {
        d.gaps.insert("config.Encrypted".into(), gap());
    });
    assert_eq!(both, either("config.Encrypted"));
    let below = refused(|d| d.config["State"] = json!({}));
    assert_eq!(below, either("config.State.Name"));
    let tags = refused(|d| d.tags = None);
    assert_eq!(tags, "its tags are not either there or explained by a gap");
    let good = document(|d| {
        without(d, "Encrypted");
        d.gaps.insert("config.Encrypted".into(), gap());
        d.config["State"] = json!({});
        d.gaps.insert("config.State.Name".into(), gap());
        d.config["Attachments"] = Value::Null;
        d.tags = None;
        d.gaps.insert("tags".into(), gap());
        d.gaps.insert("links".into(), gap());
    });
    let admitted = admit(&sent(&[changed(&good)]), &terms());
    assert_eq!(admitted.refused, []);
    assert_eq!(admitted.items, [Item::Changed(Box::new(good))]);
}

#[test]
fn a_refusal_never_quotes_the_document() {
    let text = |document: &str| SweepItem::Changed {
        document: document.to_owned(),
    };
    let items = [
        text(r#"{"urn": 5, "Secret": "hunter2"}"#),
        text("hunter2"),
        changed(&document(|d| d.config["Encrypted"] = json!("hunter2"))),
        changed(&document(|d| d.account = "hunter2".into())),
        SweepItem::Begin {
            scope: "hunter2".into(),
            generation: 1,
        },
        SweepItem::Gone {
            urn: "hunter2".into(),
        },
    ];
    let admitted = admit(&sent(&items), &terms());
    assert_eq!((admitted.items.len(), admitted.refused.len()), (0, 6));
    let said = format!("{:?}", admitted.refused);
    assert!(!said.contains("hunter2"), "{said}");
    assert!(said.contains("item 7 of lane 2") && said.contains("it cannot be decoded"));
    assert_eq!(admitted.refused[0].spoils, Spoils::Unknown);
    let urn = document(|_| {}).urn;
    assert_eq!(admitted.refused[2].spoils, Spoils::Resource(urn));
    assert_eq!(admitted.refused[5].spoils, Spoils::Nothing);
}

#[test]
fn deep_and_large_documents_are_refused() {
    let types = TYPES.replace("type: bool", "type: json");
    let types = Declarations::parse([("ec2.yaml", types.as_str())]).unwrap();
    let terms = Terms {
        types: Box::leak(Box::new(types)),
        ..terms()
    };
    let nested = |levels: usize| (0..levels).fold(json!(1), |value, _| json!([value]));
    let deep = |levels: usize| {
        let document = document(|d| d.config["Encrypted"] = nested(levels));
        admit(&sent(&[changed(&document)]), &terms)
    };
    assert_eq!(deep(limits::DOCUMENT_DEPTH - 1).refused, []);
    let reason = &deep(limits::DOCUMENT_DEPTH).refused[0].reason;
    assert_eq!(reason, "its config is nested deeper than 64");
    assert_eq!(deep(200).refused[0].reason, "it cannot be decoded");
    // Text that does not compress, so that the batch is no bomb.
    let noise: String = (0u32..40_000)
        .map(|n| blake3::hash(&n.to_le_bytes()).to_hex().to_string())
        .collect();
    let large = document(|d| {
        d.config["Encrypted"] = json!(noise[..=limits::DOCUMENT_BYTES]);
    });
    let admitted = admit(&sent(&[changed(&large)]), &terms);
    assert!(admitted.refused[0].reason.contains("bytes"));
    assert_eq!(admitted.refused[0].spoils, Spoils::Resource(large.urn));
}

#[test]
fn an_agent_with_approved_accounts_names_no_other_in_any_item() {
    let approved = Terms {
        accounts: Some(BTreeSet::from(["123456789012".to_owned()])),
        ..terms()
    };
    let foreign = document(|d| {
        d.account = "999999999999".into();
        d.urn.scope.account = "999999999999".into();
    });
    let scope = foreign.urn.scope.to_string();
    let items = [
        SweepItem::Begin {
            scope: scope.clone(),
            generation: 1,
        },
        changed(&foreign),
        SweepItem::Gone {
            urn: foreign.urn.to_string(),
        },
        SweepItem::End {
            scope: scope.clone(),
            generation: 1,
            set: SetHash::default(),
            resent: None,
        },
        SweepItem::Failed {
            scope,
            generation: 1,
            call: "ec2:DescribeVolumes".into(),
            error: "AccessDenied".into(),
        },
        changed(&document(|_| {})),
    ];
    let admitted = admit(&sent(&items), &approved);
    assert_eq!(admitted.items.len(), 1);
    assert_eq!(admitted.refused.len(), 5);
    for refusal in &admitted.refused {
        let want = "the agent was not approved for this account";
        assert_eq!(refusal.reason, want);
        assert_eq!(refusal.spoils, Spoils::Nothing);
        assert!(!refusal.what.contains("999999999999"), "{refusal:?}");
    }
    let anywhere = admit(&sent(&items), &terms());
    assert_eq!((anywhere.items.len(), anywhere.refused.len()), (6, 0));
}

fn record(action: &str) -> EventRecord {
    EventRecord {
        action: action.into(),
        ..EventRecord::default()
    }
}

fn packed(records: &[EventRecord]) -> VerifiedBatch {
    let items: Vec<Vec<u8>> = records
        .iter()
        .map(|record| postcard::to_stdvec(record).unwrap())
        .collect();
    batch(Lane::Events, &items)
}

#[test]
fn a_refused_event_leaves_its_place_empty_in_the_stored_block() {
    let severe = EventRecord {
        severity: 7,
        ..record("b")
    };
    let timeless = EventRecord {
        time_ms: i64::MAX,
        ..record("c")
    };
    let long = EventRecord {
        actor: "a".repeat(EVENT_TEXT_BYTES + 1),
        ..record("d")
    };
    let admitted = admit(
        &packed(&[record("a"), severe, timeless, long, record("e")]),
        &terms(),
    );
    let reasons: Vec<&str> = admitted
        .refused
        .iter()
        .map(|refusal| refusal.reason.as_str())
        .collect();
    let want = [
        "its severity is above 6",
        "its time is no instant",
        "its actor is longer than 16384 bytes",
    ];
    assert_eq!(reasons, want);
    let block = admitted.events.unwrap();
    let kept = [record("a"), record("e")];
    assert_eq!(block.index, kept.iter().map(EventRecord::view).collect());
    let stored = open_payload(&block.payload, block.payload_bytes).unwrap();
    let lengths: Vec<bool> = stored.iter().map(<[u8]>::is_empty).collect();
    assert_eq!(lengths, [false, true, true, true, false]);
    let last: EventRecord = decode_item(stored.iter().nth(4).unwrap()).unwrap();
    assert_eq!(last, record("e"));
}

#[test]
fn a_block_without_fault_is_stored_as_it_came() {
    let batch = packed(&[record("a"), record("b")]);
    let block = admit(&batch, &terms()).events.unwrap();
    assert_eq!(block.payload, batch.payload());
    assert_eq!(block.payload_bytes, batch.header().payload_bytes);
    let kept = [record("a"), record("b")];
    assert_eq!(block.index, kept.iter().map(EventRecord::view).collect());
}

#[test]
fn a_batch_of_which_nothing_can_be_stored_makes_no_block() {
    let admitted = admit(&batch(Lane::Events, &[b"\xff".to_vec()]), &terms());
    assert!(admitted.events.is_none());
    assert_eq!(admitted.refused.len(), 1);
    let cost = admit(&batch(Lane::Cost, &[vec![1], vec![2]]), &terms());
    assert_eq!(cost.refused[0].what, "items 7 to 8 of lane 3");
}

#[test]
fn a_source_that_failed_says_so() {
    let report = |faults: Vec<(String, String)>, error: &str| SourceReport {
        name: "prod".into(),
        kind: "aws".into(),
        started_ms: 1_000,
        finished_ms: 2_000,
        calls: 5,
        documents: 3,
        faults,
        error: error.into(),
    };
    let state = |report: SourceReport| {
        let item = postcard::to_stdvec(&ReportItem::Source(report)).unwrap();
        let admitted = admit(&batch(Lane::Results, &[item]), &terms());
        match admitted.items.as_slice() {
            [Item::Source(source)] => Ok(source.clone()),
            _ => Err(admitted.refused),
        }
    };
    let fine = state(report(vec![], "")).unwrap();
    assert_eq!((fine.state, &fine.error), (SourceState::Ok, &None));
    assert_eq!(fine.last_sync, Some(Timestamp::from_second(2).unwrap()));
    assert_eq!(fine.id, SourceId::from_bytes([3; 16]));
    let fault = ("s3:GetBucketPolicy".to_owned(), "AccessDenied".to_owned());
    let partial = state(report(vec![fault.clone()], "")).unwrap();
    assert_eq!(partial.state, SourceState::Partial);
    assert_eq!(partial.faults[0].error, "AccessDenied");
    let failed = state(report(vec![fault], "no credentials")).unwrap();
    assert_eq!(failed.state, SourceState::Failed);
    assert_eq!(failed.error.as_deref(), Some("no credentials"));
    let nameless = SourceReport {
        name: String::new(),
        ..report(vec![], "")
    };
    assert!(state(nameless).is_err());
}
