//! What an evaluation notes besides its answer: missing facts, due times, deciding neighbours.

use std::collections::BTreeMap;

use jiff::Timestamp;
use protocol::Document;
use protocol::document::Gap;

/// Missing facts that are named at most; one is enough to explain, and each may be long.
const GAPS: usize = 64;

/// Notes of one evaluation.
///
/// Notes are taken as parts are evaluated and dropped again when a part turns out not to have
/// mattered: a condition that is decided needs no missing fact.
#[derive(Debug, Default)]
pub(crate) struct Recorder<'a> {
    /// Whether anybody will read the notes.
    pub(crate) is_on: bool,
    gaps: Vec<(String, Gap)>,
    due: Option<Timestamp>,
    /// Relation and document that decided.
    witnesses: Vec<(usize, &'a Document)>,
    /// Why the check broke, the first reason.
    pub(crate) broken: Option<&'static str>,
}

/// A moment in the taking of notes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    gaps: usize,
    witnesses: usize,
    due: Option<Timestamp>,
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            ..Self::default()
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        if !self.is_on {
            return Mark::default();
        }
        Mark {
            gaps: self.gaps.len(),
            witnesses: self.witnesses.len(),
            due: self.due,
        }
    }

    /// Begins a part whose due time is to be told from those before it.
    pub(crate) fn begin(&mut self) -> Mark {
        let mark = self.mark();
        self.due = None;
        mark
    }

    /// Ends a part that did not decide: its notes join those before it.
    pub(crate) fn join(&mut self, before: &Mark) {
        self.due = earliest(self.due, before.due);
    }

    /// Drops what was noted between `start` and `before`: the part after that decided alone.
    pub(crate) fn decided_by(&mut self, start: &Mark, before: &Mark) {
        if !self.is_on {
            return;
        }
        self.gaps.truncate(start.gaps);
        if before.witnesses > start.witnesses {
            self.witnesses.drain(start.witnesses..before.witnesses);
        }
        self.due = earliest(self.due, start.due);
    }

    /// Drops the missing facts since `start`: all parts together decided without them.
    pub(crate) fn forget_gaps(&mut self, start: &Mark) {
        if self.is_on {
            self.gaps.truncate(start.gaps);
        }
    }

    /// Drops the deciding neighbours since `start`.
    pub(crate) fn forget_witnesses(&mut self, start: &Mark) {
        if self.is_on {
            self.witnesses.truncate(start.witnesses);
        }
    }

    pub(crate) fn add_witness(&mut self, relation: usize, document: &'a Document) {
        if self.is_on {
            self.witnesses.push((relation, document));
        }
    }

    pub(crate) fn add_due(&mut self, at: Option<Timestamp>) {
        self.due = earliest(self.due, at);
    }

    pub(crate) fn add_gap(&mut self, path: String, gap: Gap) {
        if self.is_on && self.gaps.len() < GAPS {
            self.gaps.push((path, gap));
        }
    }

    pub(crate) fn break_with(&mut self, reason: &'static str) {
        self.broken.get_or_insert(reason);
    }

    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.due
    }

    pub(crate) fn gaps(&self) -> BTreeMap<String, Gap> {
        self.gaps.iter().cloned().collect()
    }

    /// Returns the first document that decided by the relation.
    pub(crate) fn witness(&self, relation: usize) -> Option<&'a Document> {
        let mut found = self.witnesses.iter();
        found.find(|(of, _)| *of == relation).map(|(_, d)| *d)
    }
}

/// Finds why `place` (`config.Rules[2].From`) was not read: the document's gap for it, for a
/// record or list it lies in, or for the field at any position.
pub(crate) fn explain<'d>(gaps: &'d BTreeMap<String, Gap>, place: &str) -> Option<&'d Gap> {
    let mut at = place;
    loop {
        if let Some(gap) = gaps.get(at) {
            return Some(gap);
        }
        match at.rfind(['.', '[']) {
            Some(end) => at = at.get(..end).unwrap_or_default(),
            None => break,
        }
    }
    let place = without_positions(place);
    let mut found = gaps.iter();
    found
        .find(|(path, _)| is_within(&place, &without_positions(path)))
        .map(|(_, gap)| gap)
}

/// Whether `path` is `outer` or lies in it.
pub(crate) fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns `config.Rules[2].From` and `config.Rules[].From` as `config.Rules.From`.
pub(crate) fn without_positions(path: &str) -> String {
    let mut rest = path;
    let mut plain = String::with_capacity(path.len());
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        rest = after.split_once(']').map_or("", |(_, after)| after);
    }
    plain + rest
}
