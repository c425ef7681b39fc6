//! What the checks that ship with this version read: which of them a missing call blinds.
//!
//! The hub judges; the agent only says beforehand what the hub will not be able to judge. The
//! table is made from the check files when the agent is built. Checks that an operator adds at the
//! hub are not in it.

#[cfg(test)]
#[path = "../build/mentions.rs"]
mod mentions;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use protocol::declare::{Declarations, ResourceType};

/// Stands for every field of a document, where the table cannot tell which.
const ALL: &str = "*";
/// Stands for a document's tags.
const TAGS: &str = "#tags";

static TABLE: &[Check] = include!(concat!(env!("OUT_DIR"), "/checks.rs"));

/// What one check reads, as its expressions name it.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) id: &'static str,
    /// The type of the resources that it judges.
    type_name: &'static str,
    /// Outermost fields of such a resource.
    own: &'static [&'static str],
    /// Outermost fields of the account's document.
    account: &'static [&'static str],
    /// Outermost fields of documents at the other end of any of its relations.
    neighbours: &'static [&'static str],
    /// Relations that lead to others.
    linked: &'static [&'static str],
    /// Relations that lead here, with the type they come from where it is said, else nothing.
    linked_from: &'static [(&'static str, &'static str)],
}

/// One thing that a check needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    /// Which resources of a type there are.
    List(&'static str),
    /// A field of a type.
    Field(&'static str, &'static str),
    /// The tags of a type.
    Tags(&'static str),
}

/// Returns the checks on resources of a provider.
pub(crate) fn of_provider(provider: &str) -> impl Iterator<Item = &'static Check> {
    let is_its = move |check: &&Check| check.id.split('.').next() == Some(provider);
    TABLE.iter().filter(is_its)
}

impl Check {
    /// Returns everything that the check reads: without any of it, it may have to say UNKNOWN.
    pub(crate) fn reads(&self) -> BTreeSet<Fact> {
        let all = Declarations::builtin();
        let mut facts = BTreeSet::new();
        let Some(judged) = all.get(self.type_name) else {
            return facts;
        };
        read(judged, self.own, &mut facts);
        if !self.account.is_empty()
            && let Some(account) = all.get(&format!("{}.account", judged.provider()))
        {
            read(account, self.account, &mut facts);
        }
        for other in self.others(judged) {
            // A field that only another of the types has is not read of this one.
            let has =
                |name: &&&str| [ALL, TAGS].contains(*name) || other.fields.contains_key(**name);
            let fields: Vec<&str> = self.neighbours.iter().filter(has).copied().collect();
            read(other, &fields, &mut facts);
        }
        facts
    }

    /// Returns the types at the other ends of its relations.
    fn others(&self, judged: &ResourceType) -> Vec<&'static ResourceType> {
        let all = Declarations::builtin();
        let linked = self.linked.iter().filter_map(|name| {
            let link = judged.links.get(*name)?;
            all.get(&link.to)
        });
        let linked_from = self.linked_from.iter().flat_map(|(name, of)| {
            all.iter().filter(move |other| {
                let leads_here = |to: &str| to == judged.name;
                let link = other.links.get(*name);
                link.is_some_and(|link| leads_here(&link.to))
                    && (of.is_empty() || *of == other.name)
            })
        });
        linked.chain(linked_from).collect()
    }
}

/// Adds what is read of one type.
fn read(declared: &'static ResourceType, names: &[&str], facts: &mut BTreeSet<Fact>) {
    let of = declared.name.as_str();
    facts.insert(Fact::List(of));
    for name in names {
        match declared.fields.get_key_value(*name) {
            _ if *name == TAGS => {
                facts.insert(Fact::Tags(of));
            }
            Some((name, _)) => {
                facts.insert(Fact::Field(of, name));
            }
            // Any of them, as far as anybody can tell.
            None => facts.extend(declared.fields.keys().map(|name| Fact::Field(of, name))),
        }
    }
}
