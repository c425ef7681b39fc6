//! What of a batch may enter an organisation's store, decided without the store.
//!
//! Each item is checked on its own against the wire's types, the declarations, the limits and the
//! accounts that its agent was approved for. One that fails becomes a [`Refusal`] and its
//! neighbours land. A refusal says where the item was and which rule it broke; it quotes nothing
//! of the item but names that are declared, and a URN of an approved account.
//!
//! No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use protocol::batch::{BatchBuilder, VerifiedBatch, decode_item};
use protocol::declare::{Declarations, Field, Kind, ResourceType};
use protocol::document::{Gap, SetHash};
use protocol::event::{EventRecord, severity};
use protocol::frame::Lane;
use protocol::ids::{AgentId, SourceId};
use protocol::wire::v1::{BatchHeader, ReportItem, SourceReport, SweepItem};
use protocol::{Document, Scope, Urn, limits};
use serde_json::{Map, Value};
use store::rows::SourceState;
use store::rows::resource::Source;

/// Longest text of an event other than the raw record, in bytes.
const EVENT_TEXT_BYTES: usize = 16 << 10;

/// Longest text of a report that is kept, in bytes.
const REPORT_TEXT_BYTES: usize = 512;

/// Most failed calls of one sync that are kept.
const REPORT_FAULTS: usize = 256;

/// Longest name of an undeclared field or type that a refusal repeats, in bytes.
const SHOWN_BYTES: usize = 64;

/// What an agent may speak of.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// Which agent.
    pub(super) agent: AgentId,
    /// Accounts it was approved for; `None` for any.
    pub(super) accounts: Option<BTreeSet<String>>,
    /// The types that documents may have.
    pub(super) types: &'static Declarations,
}

/// An item that may be stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    /// A sweep starts.
    Begin { scope: Scope, generation: u64 },
    /// A document is new or has changed.
    Changed(Box<Document>),
    /// A resource is gone.
    Gone(Urn),
    /// A sweep was complete.
    End {
        scope: Scope,
        generation: u64,
        set: SetHash,
    },
    /// A list could not be read.
    Failed {
        scope: Scope,
        generation: u64,
        gap: Gap,
    },
    /// How a sync of a source went.
    Source(Box<Source>),
}

/// An item that may not be stored, or that the agent itself could not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Which item.
    pub(super) what: String,
    /// Why, in a clause.
    pub(super) reason: String,
    /// What the refusal does to the sweeps under way.
    pub(super) spoils: Spoils,
}

/// What a refused item leaves untold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spoils {
    /// Nothing that a sweep could be wrong about.
    Nothing,
    /// The facts of one resource.
    Resource(Urn),
    /// A document of unknown name: any sweep under way may lack it.
    Unknown,
}

/// A block of events to be stored.
#[derive(Debug, Clone)]
pub(super) struct Events {
    /// Compressed items: as the agent compressed them, but for refused ones, whose places are
    /// empty.
    pub(super) payload: Vec<u8>,
    /// Size of the payload before compression, in bytes.
    pub(super) payload_bytes: u32,
    /// Those that decoded, each with its place.
    pub(super) records: Vec<(u32, EventRecord)>,
}

/// What of a batch may be stored, and what may not.
#[derive(Debug, Clone, Default)]
pub(super) struct Admitted {
    /// In the batch's order.
    pub(super) items: Vec<Item>,
    /// Set for a batch of events of which at least one may be stored.
    pub(super) events: Option<Events>,
    /// In the batch's order.
    pub(super) refused: Vec<Refusal>,
}

/// Why an item is refused.
#[derive(Debug)]
struct No(String);

impl From<String> for No {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

impl From<&str> for No {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

/// Decides about every item of a batch.
pub(super) fn admit(batch: &VerifiedBatch, terms: &Terms) -> Admitted {
    match Lane::from_number(batch.header().lane) {
        Some(Lane::Inventory) => sweep(batch, terms),
        Some(Lane::Events) => events(batch),
        Some(Lane::Results) => reports(batch, terms),
        Some(Lane::Cost | Lane::Control) | None => {
            refuse_all(batch.header(), "this hub takes no items of this lane")
        }
    }
}

/// Names an item by its sequence.
fn place(header: &BatchHeader, index: usize) -> String {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let seq = header.first_seq.saturating_add(index);
    format!("item {seq} of lane {}", header.lane)
}

/// Refuses a whole batch.
pub(super) fn refuse_all(header: &BatchHeader, reason: &str) -> Admitted {
    let spoils = match Lane::from_number(header.lane) {
        Some(Lane::Inventory) => Spoils::Unknown,
        Some(Lane::Control | Lane::Events | Lane::Cost | Lane::Results) | None => Spoils::Nothing,
    };
    let (first, last, lane) = (header.first_seq, header.last_seq(), header.lane);
    Admitted {
        refused: vec![Refusal {
            what: format!("items {first} to {last} of lane {lane}"),
            reason: reason.to_owned(),
            spoils,
        }],
        ..Admitted::default()
    }
}

fn sweep(batch: &VerifiedBatch, terms: &Terms) -> Admitted {
    let header = batch.header();
    let mut admitted = Admitted::default();
    for (index, item) in batch.decode::<SweepItem>().enumerate() {
        let what = place(header, index);
        let Ok(item) = item else {
            admitted.refused.push(Refusal {
                what,
                reason: "it cannot be decoded".to_owned(),
                spoils: Spoils::Unknown,
            });
            continue;
        };
        let document = if let SweepItem::Changed { document } = &item {
            Some(document.clone())
        } else {
            None
        };
        match sweep_item(item, terms) {
            Ok(item) => admitted.items.push(item),
            Err(No(reason)) => {
                let (what, spoils) = match document {
                    None => (what, Spoils::Nothing),
                    Some(text) => named(what, &text, terms),
                };
                admitted.refused.push(Refusal {
                    what,
                    reason,
                    spoils,
                });
            }
        }
    }
    admitted
}

/// Finds out which resource a refused document is about, as far as it says so.
fn named(what: String, text: &str, terms: &Terms) -> (String, Spoils) {
    #[derive(serde::Deserialize)]
    struct Named {
        urn: Urn,
    }
    if text.len() > limits::PAYLOAD_BYTES {
        return (what, Spoils::Unknown);
    }
    match serde_json::from_str::<Named>(text) {
        Ok(Named { urn }) if check_scope(&urn.scope, terms).is_ok() => {
            (format!("{what}: {urn}"), Spoils::Resource(urn))
        }
        // Its scope is none of this agent's, so no sweep of this agent can lack it.
        Ok(Named { .. }) => (what, Spoils::Nothing),
        Err(_) => (what, Spoils::Unknown),
    }
}

fn sweep_item(item: SweepItem, terms: &Terms) -> Result<Item, No> {
    match item {
        SweepItem::Begin { scope, generation } => Ok(Item::Begin {
            scope: read_scope(&scope, terms)?,
            generation,
        }),
        SweepItem::Changed { document } => {
            let document = read_document(&document)?;
            check_document(&document, terms)?;
            Ok(Item::Changed(Box::new(document)))
        }
        SweepItem::Gone { urn } => {
            let urn: Urn = urn.parse().map_err(|_| "its URN cannot be read")?;
            check_scope(&urn.scope, terms)?;
            Ok(Item::Gone(urn))
        }
        SweepItem::End {
            scope,
            generation,
            set,
        } => Ok(Item::End {
            scope: read_scope(&scope, terms)?,
            generation,
            set,
        }),
        SweepItem::Failed {
            scope,
            generation,
            call,
            error,
        } => Ok(Item::Failed {
            scope: read_scope(&scope, terms)?,
            generation,
            gap: Gap {
                call: clip(&call, REPORT_TEXT_BYTES),
                error: clip(&error, REPORT_TEXT_BYTES),
            },
        }),
    }
}

fn read_scope(text: &str, terms: &Terms) -> Result<Scope, No> {
    let scope: Scope = text.parse().map_err(|_| "its scope cannot be read")?;
    check_scope(&scope, terms)?;
    declared(&scope.type_name(), terms)?;
    Ok(scope)
}

fn check_scope(scope: &Scope, terms: &Terms) -> Result<(), No> {
    match &terms.accounts {
        Some(accounts) if !accounts.contains(&scope.account) => {
            Err("the agent was not approved for this account".into())
        }
        Some(_) | None => Ok(()),
    }
}

fn declared(name: &str, terms: &Terms) -> Result<&'static ResourceType, No> {
    let found = terms.types.get(name);
    found.ok_or_else(|| format!("the resource type {} is not declared", Shown(name)).into())
}

fn read_document(text: &str) -> Result<Document, No> {
    if text.len() > limits::DOCUMENT_BYTES {
        let (has, most) = (text.len(), limits::DOCUMENT_BYTES);
        return Err(format!("it has {has} bytes, more than {most}").into());
    }
    // The parser's own words would quote the document.
    serde_json::from_str(text).map_err(|_| "it cannot be decoded".into())
}

fn check_document(document: &Document, terms: &Terms) -> Result<(), No> {
    let Urn { scope, id } = &document.urn;
    check_scope(scope, terms)?;
    let same = [
        ("type", document.type_name == scope.type_name()),
        ("provider", document.provider == scope.provider),
        ("account", document.account == scope.account),
        ("region", document.region == scope.region),
        ("id", document.id == *id),
    ];
    if let Some((part, _)) = same.into_iter().find(|(_, same)| !same) {
        return Err(format!("its {part} is not the one that its URN names").into());
    }
    let declared = declared(&document.type_name, terms)?;
    if document.name.len().max(document.native_id.len()) > limits::URN_BYTES {
        let most = limits::URN_BYTES;
        return Err(format!("its name or native id is longer than {most} bytes").into());
    }
    check_gaps(&document.gaps)?;
    if document.tags.is_some() == document.gaps.contains_key("tags") {
        return Err("its tags are not either there or explained by a gap".into());
    }
    check_config(document, declared)?;
    check_links(document, declared)
}

/// A declared field is there, or is missing and explained; and nothing else is there.
fn check_config(document: &Document, declared: &ResourceType) -> Result<(), No> {
    let Value::Object(config) = &document.config else {
        return Err("its config is not an object".into());
    };
    if depth(&document.config) > limits::DOCUMENT_DEPTH {
        let most = limits::DOCUMENT_DEPTH;
        return Err(format!("its config is nested deeper than {most}").into());
    }
    check_fields(&declared.fields, config, "config", &document.gaps)
}

fn check_fields(
    fields: &BTreeMap<String, Field>,
    values: &Map<String, Value>,
    path: &str,
    gaps: &BTreeMap<String, Gap>,
) -> Result<(), No> {
    if let Some(name) = values.keys().find(|name| !fields.contains_key(*name)) {
        return Err(format!("{path}.{} is not declared", Shown(name)).into());
    }
    for (name, field) in fields {
        let path = format!("{path}.{name}");
        let value = values.get(name);
        if value.is_some() == gaps.contains_key(&path) {
            return Err(format!("{path} is not either there or explained by a gap").into());
        }
        match (&field.kind, value) {
            (_, None) => {}
            (Kind::Record(below), Some(Value::Object(values))) => {
                check_fields(below, values, &path, gaps)?;
            }
            (kind, Some(value)) => match kind.keep(value.clone(), &path) {
                Ok(kept) if kept == *value => {}
                Ok(_) => {
                    let why = "has fields that are not declared, or lacks declared ones";
                    return Err(format!("{path} {why}").into());
                }
                Err(misfit) => return Err(misfit.to_string().into()),
            },
        }
    }
    Ok(())
}

fn check_gaps(gaps: &BTreeMap<String, Gap>) -> Result<(), No> {
    let about = |path: &str| {
        matches!(path, "tags" | "links" | "name" | "config") || path.starts_with("config.")
    };
    if gaps.keys().all(|path| about(path)) {
        Ok(())
    } else {
        Err("a gap is not about config, tags, links or name".into())
    }
}

fn check_links(document: &Document, declared: &ResourceType) -> Result<(), No> {
    for link in &document.links {
        let Some(relation) = declared.links.get(&link.rel) else {
            return Err(format!("the link {} is not declared", Shown(&link.rel)).into());
        };
        if link.urn.scope.type_name() != relation.to {
            let rel = &link.rel;
            return Err(format!("the link {rel} leads to another type than declared").into());
        }
    }
    Ok(())
}

/// Returns how deep a value is nested. The parser refuses what is deeper than 128, so this
/// recursion is bounded.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    1 + below.unwrap_or(0)
}

fn events(batch: &VerifiedBatch) -> Admitted {
    let header = batch.header();
    let mut admitted = Admitted::default();
    let mut records = Vec::new();
    let mut refused_at = BTreeSet::new();
    for (index, bytes) in batch.items().iter().enumerate() {
        match event(bytes) {
            Ok(record) => {
                let place = u32::try_from(index).expect("limits::BATCH_ITEMS bounds a batch");
                records.push((place, record));
            }
            Err(No(reason)) => {
                refused_at.insert(index);
                admitted.refused.push(Refusal {
                    what: place(header, index),
                    reason,
                    spoils: Spoils::Nothing,
                });
            }
        }
    }
    if records.is_empty() {
        return admitted;
    }
    let packed = if refused_at.is_empty() {
        Some((batch.payload().to_vec(), header.payload_bytes))
    } else {
        pack(batch, &refused_at)
    };
    match packed {
        Some((payload, payload_bytes)) => {
            admitted.events = Some(Events {
                payload,
                payload_bytes,
                records,
            });
            admitted
        }
        None => refuse_all(header, "the block could not be packed again"),
    }
}

fn event(bytes: &[u8]) -> Result<EventRecord, No> {
    let record: EventRecord = decode_item(bytes).map_err(|_| "it cannot be decoded")?;
    if record.raw.len() > limits::EVENT_RAW_BYTES {
        let (has, most) = (record.raw.len(), limits::EVENT_RAW_BYTES);
        return Err(format!("its raw record has {has} bytes, more than {most}").into());
    }
    let texts = [
        ("action", &record.action),
        ("activity", &record.activity),
        ("actor", &record.actor),
        ("resource", &record.resource),
        ("source address", &record.src_ip),
        ("native id", &record.native_id),
    ];
    if let Some((name, _)) = texts
        .iter()
        .find(|(_, text)| text.len() > EVENT_TEXT_BYTES)
    {
        return Err(format!("its {name} is longer than {EVENT_TEXT_BYTES} bytes").into());
    }
    if record.severity > severity::FATAL {
        return Err("its severity is above 6".into());
    }
    if Timestamp::from_millisecond(record.time_ms).is_err() {
        return Err("its time is no instant".into());
    }
    Ok(record)
}

/// Compresses a block again with nothing in the places of refused events: the other places, hence
/// their ids and sequences, stay what the signed header says.
fn pack(batch: &VerifiedBatch, refused_at: &BTreeSet<usize>) -> Option<(Vec<u8>, u32)> {
    let mut block = BatchBuilder::default();
    for (index, bytes) in batch.items().iter().enumerate() {
        let bytes = if refused_at.contains(&index) {
            &[]
        } else {
            bytes
        };
        block.push_bytes(bytes).ok()?;
    }
    block.compress().ok()
}

fn reports(batch: &VerifiedBatch, terms: &Terms) -> Admitted {
    let header = batch.header();
    let mut admitted = Admitted::default();
    for (index, item) in batch.decode::<ReportItem>().enumerate() {
        let refusal = |reason: No| Refusal {
            what: place(header, index),
            reason: reason.0,
            spoils: Spoils::Nothing,
        };
        match item {
            Ok(ReportItem::Source(report)) => match source_row(report, header.source, terms) {
                Ok(source) => admitted.items.push(Item::Source(Box::new(source))),
                Err(reason) => admitted.refused.push(refusal(reason)),
            },
            Ok(ReportItem::Quarantined {
                place,
                reason,
                bytes,
            }) => admitted.refused.push(Refusal {
                what: clip(&place, REPORT_TEXT_BYTES),
                reason: format!(
                    "the agent kept it apart: {} ({bytes} bytes)",
                    clip(&reason, REPORT_TEXT_BYTES)
                ),
                // Where it was a document, the agent ends the sweep as failed.
                spoils: Spoils::Nothing,
            }),
            Err(_) => admitted.refused.push(refusal("it cannot be decoded".into())),
        }
    }
    admitted
}

fn source_row(report: SourceReport, id: SourceId, terms: &Terms) -> Result<Source, No> {
    if report.name.is_empty() || report.name.len() > REPORT_TEXT_BYTES {
        return Err("its source has no name, or one that is too long".into());
    }
    let ended = Timestamp::from_millisecond(report.finished_ms);
    let ended = ended.map_err(|_| "its time is no instant")?;
    let faults = report.faults.iter().take(REPORT_FAULTS);
    let faults: Vec<Gap> = faults
        .map(|(call, error)| Gap {
            call: clip(call, REPORT_TEXT_BYTES),
            error: clip(error, REPORT_TEXT_BYTES),
        })
        .collect();
    let error = Some(clip(&report.error, REPORT_TEXT_BYTES)).filter(|error| !error.is_empty());
    let state = match (&error, faults.is_empty()) {
        (Some(_), _) => SourceState::Failed,
        (None, false) => SourceState::Partial,
        (None, true) => SourceState::Ok,
    };
    Ok(Source {
        id,
        agent: terms.agent,
        name: report.name,
        kind: clip(&report.kind, REPORT_TEXT_BYTES),
        state,
        last_sync: Some(ended),
        calls: report.calls,
        documents: report.documents,
        faults,
        error,
    })
}

/// Cuts a text to at most so many bytes, at a character's edge.
pub(super) fn clip(text: &str, bytes: usize) -> String {
    let end = text.floor_char_boundary(bytes);
    text.get(..end).unwrap_or_default().to_owned()
}

/// Shows a name that is not declared only if it looks like one: what stands in its place could be
/// anything.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let looks = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_name = !self.0.is_empty() && self.0.len() <= SHOWN_BYTES;
        f.write_str(if is_name && self.0.bytes().all(looks) {
            self.0
        } else {
            "(no name)"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::batch::{BatchError, Place, SealedBatch, Signer, open_payload};
    use protocol::document::Link;
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
        let admitted = admit(&sent(&[changed(&document(change)), changed(&rest)]), &terms());
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
        let lacks =
            "config.Attachments has fields that are not declared, or lacks declared ones";
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
        is(
            "its name or native id is longer than 4096 bytes",
            &|d| d.name = "n".repeat(limits::URN_BYTES + 1),
        );
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
        let places: Vec<u32> = block.records.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [0, 4]);
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
        assert_eq!(block.records, [(0, record("a")), (1, record("b"))]);
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
}
