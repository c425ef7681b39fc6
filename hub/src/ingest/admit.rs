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
use protocol::event::{EventView, severity};
use protocol::frame::Lane;
use protocol::ids::{AgentId, SourceId};
use protocol::wire::v1::{BatchHeader, Content, Lost, ReportItem, Resent, SourceReport, SweepItem};
use protocol::{Document, Scope, Urn, limits};
use serde_json::{Map, Value};
use store::rows::SourceState;
use store::rows::event::{EventIndex, IndexBuilder};
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
    /// That its certificate names: uncompressed P-256 point, 65 bytes.
    pub(super) public_key: Vec<u8>,
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
        resent: Option<Resent>,
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
    /// What a search knows of those that may be stored.
    pub(super) index: EventIndex,
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
    /// Set for a batch in place of items that the agent lost.
    pub(super) lost: Option<Lost>,
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
    if batch.header().content == Content::Lost {
        return match batch.decode::<Lost>().next() {
            Some(Ok(lost)) => Admitted {
                lost: Some(lost),
                ..Admitted::default()
            },
            Some(Err(_)) | None => refuse_all(batch.header(), "it cannot be decoded"),
        };
    }
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
            resent,
        } => {
            if resent
                .as_ref()
                .is_some_and(|resent| !resent.is_well_formed())
            {
                return Err("it names parts of a scope that cannot be".into());
            }
            Ok(Item::End {
                scope: read_scope(&scope, terms)?,
                generation,
                set,
                resent,
            })
        }
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
    if document.links.len() > limits::DOCUMENT_LINKS {
        let most = limits::DOCUMENT_LINKS;
        return Err(format!("it has more than {most} links").into());
    }
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
    let mut index_of = IndexBuilder::default();
    let mut refused_at = BTreeSet::new();
    for (index, bytes) in batch.items().iter().enumerate() {
        match event(bytes) {
            Ok(event) => index_of.add(&event),
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
    if refused_at.len() == batch.items().len() {
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
                index: index_of.done(),
            });
            admitted
        }
        None => refuse_all(header, "the block could not be packed again"),
    }
}

fn event(bytes: &[u8]) -> Result<EventView<'_>, No> {
    let record: EventView<'_> = decode_item(bytes).map_err(|_| "it cannot be decoded")?;
    if record.raw.len() > limits::EVENT_RAW_BYTES {
        let (has, most) = (record.raw.len(), limits::EVENT_RAW_BYTES);
        return Err(format!("its raw record has {has} bytes, more than {most}").into());
    }
    let texts = [
        ("action", record.action),
        ("activity", record.activity),
        ("actor", record.actor),
        ("resource", record.resource),
        ("source address", record.src_ip),
        ("native id", record.native_id),
    ];
    if let Some((name, _)) = texts.iter().find(|(_, text)| text.len() > EVENT_TEXT_BYTES) {
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
            Err(_) => admitted
                .refused
                .push(refusal("it cannot be decoded".into())),
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
mod tests;
