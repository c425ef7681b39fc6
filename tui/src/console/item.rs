//! The kinds of objects that lists show, each with its columns, and what a row says in them.

use protocol::api::{Agent, Event, Finding, Resource, Severity, Source};
use protocol::filter::{FieldSpec, FieldValue, Row};
use serde::de::DeserializeOwned;
use serde_json::Value;

mod columns;
mod detail;

use columns::{AGENT, EVENT, FINDING, Facts, RESOURCE, SOURCE};
pub(crate) use columns::{Column, Tone, age};
pub(crate) use detail::Line;

/// An object of any kind.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// A finding.
    Finding(Box<Finding>),
    /// A resource.
    Resource(Box<Resource>),
    /// An event.
    Event(Box<Event>),
    /// An agent.
    Agent(Box<Agent>),
    /// A source.
    Source(Box<Source>),
}

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Findings.
    Finding,
    /// Resources.
    Resource,
    /// Events.
    Event,
    /// Agents.
    Agent,
    /// Sources.
    Source,
}

/// Every kind, in the order of the screens.
pub(crate) const KINDS: [Kind; 5] = [
    Kind::Finding,
    Kind::Resource,
    Kind::Event,
    Kind::Agent,
    Kind::Source,
];

impl Kind {
    const fn facts(self) -> &'static Facts {
        match self {
            Self::Finding => &FINDING,
            Self::Resource => &RESOURCE,
            Self::Event => &EVENT,
            Self::Agent => &AGENT,
            Self::Source => &SOURCE,
        }
    }

    /// Returns the name of its screen, which is also its name in the stream of changes.
    pub(crate) const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Returns its noun on the command line.
    pub(crate) const fn noun(self) -> &'static str {
        self.facts().noun
    }

    /// Returns the path of its list.
    pub(crate) const fn path(self) -> &'static str {
        self.facts().path
    }

    /// Returns the fields that its filters know.
    pub(crate) const fn fields(self) -> &'static [FieldSpec] {
        self.facts().fields
    }

    /// Returns the filter of a list that nobody has filtered yet.
    pub(crate) const fn first_filter(self) -> &'static str {
        self.facts().filter
    }

    /// Returns the order of a list that nobody has sorted yet: field, and whether descending.
    pub(crate) const fn first_sort(self) -> Option<(&'static str, bool)> {
        self.facts().sort
    }

    /// Returns its columns.
    pub(crate) const fn columns(self) -> &'static [Column] {
        self.facts().columns
    }

    /// Reads one object of the API.
    ///
    /// # Errors
    ///
    /// When it is not of this kind.
    pub(crate) fn read(self, value: Value) -> Result<Item, serde_json::Error> {
        fn boxed<T: DeserializeOwned>(value: Value) -> Result<Box<T>, serde_json::Error> {
            serde_json::from_value(value).map(Box::new)
        }
        match self {
            Self::Finding => boxed(value).map(Item::Finding),
            Self::Resource => boxed(value).map(Item::Resource),
            Self::Event => boxed(value).map(Item::Event),
            Self::Agent => boxed(value).map(Item::Agent),
            Self::Source => boxed(value).map(Item::Source),
        }
    }
}

impl Item {
    /// Returns its id, by which the hub knows it.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::Finding(finding) => finding.id.to_string(),
            Self::Resource(resource) => resource.resource_id.to_string(),
            Self::Event(event) => event.id.to_string(),
            Self::Agent(agent) => agent.id.to_string(),
            Self::Source(source) => source.id.to_string(),
        }
    }

    /// Returns how bad it is, where that can be said.
    pub(crate) fn severity(&self) -> Option<Severity> {
        match self {
            Self::Finding(finding) => Some(finding.severity),
            // OCSF goes one step beyond ours.
            Self::Event(event) if event.severity == "fatal" => Some(Severity::Critical),
            Self::Event(event) => Severity::from_word(&event.severity),
            Self::Resource(_) | Self::Agent(_) | Self::Source(_) => None,
        }
    }

    fn row(&self) -> &dyn Row {
        match self {
            Self::Finding(finding) => finding.as_ref(),
            Self::Resource(resource) => resource.as_ref(),
            Self::Event(event) => event.as_ref(),
            Self::Agent(agent) => agent.as_ref(),
            Self::Source(source) => source.as_ref(),
        }
    }
}

impl Row for Item {
    fn field(&self, name: &str) -> Option<FieldValue<'_>> {
        self.row().field(name)
    }

    fn any_value(&self, name: &str, meets: &mut dyn FnMut(&FieldValue<'_>) -> bool) -> bool {
        self.row().any_value(name, meets)
    }

    fn tag(&self, name: &str) -> Option<&str> {
        self.row().tag(name)
    }

    fn any_text(&self, look: &mut dyn FnMut(&str) -> bool) -> bool {
        self.row().any_text(look)
    }
}
