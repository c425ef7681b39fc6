//! Sweeps as decisions: facts of a collector in, items for the hub and what to remember out.
//!
//! This core does no I/O. What the hub is known to hold is asked through [`Known`]; what is to be
//! remembered comes back as [`Effect`]s beside the items that justify it, and the spool stores
//! both in one transaction. So the memory of the agent is never ahead of what it will send.
//!
//! ```text
//! Began              ─▶ Begin{generation + 1}
//! Document, unknown or other content ─▶ Changed       remember its content
//! Document, known content            ─▶ nothing, unless it lies in a part that the hub asked for
//! Ended              ─▶ Gone for each known and not seen … End{set}    forget those
//! Failed             ─▶ Failed                        nothing is forgotten
//! ```

use std::collections::BTreeMap;

use collect::Fact;
use protocol::batch::{BatchBuilder, BatchError};
use protocol::document::{ContentHash, Document, SetHash};
use protocol::frame::Lane;
use protocol::limits;
use protocol::urn::Scope;
use protocol::wire::v1::{ReportItem, Resent, SweepItem};

use crate::spool::{Commit, Effect};

/// What the agent remembers to have told the hub.
pub(crate) trait Known {
    /// Why it could not be looked up.
    type Error;

    /// Returns the content of a resource as it was last told.
    fn content(&self, scope: &str, id: &str) -> Result<Option<ContentHash>, Self::Error>;

    /// Returns the ids of all resources of a scope.
    fn ids(&self, scope: &str) -> Result<Vec<String>, Self::Error>;

    /// Returns the parts of a scope that the hub asked for and that were not sent whole since.
    fn asked(&self, scope: &str) -> Result<Option<Resent>, Self::Error>;

    /// Returns the generation of the last sweep of a scope that was begun; 0 for none.
    fn generation(&self, scope: &str) -> Result<u64, Self::Error>;
}

/// Call and error of a sweep that held a document too large to be sent.
const TOO_LARGE: (&str, &str) = ("agent", "document_too_large");

#[derive(Debug, Default)]
struct Open {
    generation: u64,
    seen: BTreeMap<String, ContentHash>,
    /// The parts that the hub asked for before the sweep began: all of them is sent.
    resent: Option<Resent>,
    /// A resource that could not be told: the set would not be the one the hub can have.
    spoilt: bool,
}

/// The sweeps of one sync of one source.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    open: BTreeMap<String, Open>,
    items: BatchBuilder,
    reports: BatchBuilder,
    effects: Vec<Effect>,
}

impl Sweeps {
    /// Takes one fact and appends a commit to `out` whenever a batch is full.
    ///
    /// # Errors
    ///
    /// When `known` fails; the sync is then to be given up, which loses nothing: what was not
    /// committed is found again by the next one.
    pub(crate) fn accept<K: Known>(
        &mut self,
        fact: Fact,
        known: &K,
        out: &mut Vec<Commit>,
    ) -> Result<(), K::Error> {
        match fact {
            Fact::Began { scope } => self.begin(&scope, known, out),
            Fact::Document(document) => self.document(&document, known, out),
            Fact::Ended { scope } => self.end(&scope, known, out),
            Fact::Failed { scope, gap } => {
                self.fail(&scope.to_string(), &gap.call, &gap.error, known, out)
            }
            // A sweep's source sends no events; a tail has its own way into the spool.
            Fact::Events { .. } => Ok(()),
        }
    }

    /// Returns what is left when the sync has ended, however it ended.
    pub(crate) fn finish(mut self) -> Option<Commit> {
        let mut out = Vec::new();
        self.close(&mut out);
        out.pop()
    }

    fn begin<K: Known>(
        &mut self,
        scope: &Scope,
        known: &K,
        out: &mut Vec<Commit>,
    ) -> Result<(), K::Error> {
        let scope = scope.to_string();
        let last = match self.open.get(&scope) {
            Some(open) => open.generation,
            None => known.generation(&scope)?,
        };
        let generation = last + 1;
        let item = SweepItem::Begin {
            scope: scope.clone(),
            generation,
        };
        let effect = Effect::Generation {
            scope: scope.clone(),
            generation,
        };
        self.push(&item, Some(effect), out);
        let resent = known.asked(&scope)?;
        let open = Open {
            generation,
            resent,
            ..Open::default()
        };
        self.open.insert(scope, open);
        Ok(())
    }

    fn document<K: Known>(
        &mut self,
        document: &Document,
        known: &K,
        out: &mut Vec<Commit>,
    ) -> Result<(), K::Error> {
        let scope = document.urn.scope.to_string();
        if !self.open.contains_key(&scope) {
            self.begin(&document.urn.scope, known, out)?;
        }
        let id = document.urn.id.clone();
        let content = document.content_hash();
        let open = self.open.get(&scope);
        let seen = open.and_then(|open| open.seen.get(&id));
        let resent = open.and_then(|open| open.resent.as_ref());
        let told = match seen {
            Some(seen) => Some(*seen),
            None if resent.is_some_and(|resent| resent.covers(&document.urn.to_string())) => None,
            None => known.content(&scope, &id)?,
        };
        if told == Some(content) {
            self.see(&scope, id, content);
            return Ok(());
        }
        let text = serde_json::to_string(document).expect("a document has string keys");
        if text.len() > limits::DOCUMENT_BYTES {
            self.set_aside(&scope, document, text.len(), out);
            return Ok(());
        }
        let effect = Effect::Content {
            scope: scope.clone(),
            id: id.clone(),
            content,
        };
        self.push(&SweepItem::Changed { document: text }, Some(effect), out);
        self.see(&scope, id, content);
        Ok(())
    }

    fn see(&mut self, scope: &str, id: String, content: ContentHash) {
        if let Some(open) = self.open.get_mut(scope) {
            open.seen.insert(id, content);
        }
    }

    fn set_aside(&mut self, scope: &str, document: &Document, bytes: usize, out: &mut Vec<Commit>) {
        if let Some(open) = self.open.get_mut(scope) {
            open.spoilt = true;
        }
        let report = ReportItem::Quarantined {
            place: document.urn.to_string(),
            reason: format!("a document of more than {} bytes", limits::DOCUMENT_BYTES),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        };
        if self.reports.push(&report).is_ok() && self.reports.is_full() {
            self.close(out);
        }
    }

    fn end<K: Known>(
        &mut self,
        scope: &Scope,
        known: &K,
        out: &mut Vec<Commit>,
    ) -> Result<(), K::Error> {
        let text = scope.to_string();
        let spoilt = self.open.get(&text).is_some_and(|open| open.spoilt);
        if spoilt {
            let (call, error) = TOO_LARGE;
            return self.fail(&text, call, error, known, out);
        }
        if !self.open.contains_key(&text) {
            self.begin(scope, known, out)?;
        }
        let open = self.open.remove(&text).unwrap_or_default();
        let mut forgotten = Vec::new();
        for id in known.ids(&text)? {
            if !open.seen.contains_key(&id) {
                let urn = scope.urn(&id).to_string();
                self.push(&SweepItem::Gone { urn }, None, out);
                // Forgotten only with `End`: a crash before it must find them gone again.
                forgotten.push(Effect::Forgotten {
                    scope: text.clone(),
                    id,
                });
            }
        }
        let mut set = SetHash::default();
        for (id, content) in &open.seen {
            set.add(&scope.urn(id).to_string(), content);
        }
        if let Some(resent) = &open.resent {
            forgotten.push(Effect::Resent {
                scope: text.clone(),
                resent: resent.clone(),
            });
        }
        let item = SweepItem::End {
            scope: text,
            generation: open.generation,
            set,
            resent: open.resent,
        };
        self.push(&item, forgotten, out);
        Ok(())
    }

    fn fail<K: Known>(
        &mut self,
        scope: &str,
        call: &str,
        error: &str,
        known: &K,
        out: &mut Vec<Commit>,
    ) -> Result<(), K::Error> {
        let generation = match self.open.remove(scope) {
            Some(open) => open.generation,
            None => known.generation(scope)?,
        };
        let item = SweepItem::Failed {
            scope: scope.to_owned(),
            generation,
            call: call.to_owned(),
            error: error.to_owned(),
        };
        self.push(&item, None, out);
        Ok(())
    }

    /// Appends an item, and its effects so that all are in the same commit.
    fn push(
        &mut self,
        item: &SweepItem,
        effects: impl IntoIterator<Item = Effect>,
        out: &mut Vec<Commit>,
    ) {
        if let SweepItem::Changed { document } = item
            && document.len() > limits::BATCH_TARGET_BYTES
        {
            // A large document travels alone, so that it always fits a frame.
            self.close(out);
        }
        match self.items.push(item) {
            Ok(()) => {}
            Err(BatchError::TooLarge { .. }) => {
                self.close(out);
                self.items
                    .push(item)
                    .expect("an item within DOCUMENT_BYTES fits an empty batch");
            }
            Err(error) => unreachable!("plain structs always serialise: {error}"),
        }
        self.effects.extend(effects);
        if self.items.is_full() {
            self.close(out);
        }
    }

    fn close(&mut self, out: &mut Vec<Commit>) {
        let mut batches = Vec::new();
        if !self.items.is_empty() {
            batches.push((Lane::Inventory, std::mem::take(&mut self.items)));
        }
        if !self.reports.is_empty() {
            batches.push((Lane::Results, std::mem::take(&mut self.reports)));
        }
        let effects = std::mem::take(&mut self.effects);
        if !batches.is_empty() {
            out.push(Commit { batches, effects });
        }
    }
}

#[cfg(test)]
#[path = "sweep/tests.rs"]
mod tests;
