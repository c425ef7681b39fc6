//! From what changed to what must be judged again: the subject itself and every resource whose
//! checks read it.

use std::collections::BTreeSet;

use protocol::{Scope, Urn};
use rules::{Direction, Reader};
use store::error::ReadError;
use store::rows::resource::{Change, Subject};

use super::facts::{Library, links_read};

/// Returns every subject that the changes concern.
pub(super) fn subjects(
    library: &mut Library<'_>,
    changes: &[Change],
) -> Result<BTreeSet<Subject>, ReadError> {
    let mut subjects = BTreeSet::new();
    // Whole scopes and accounts are looked at once, however many of their resources changed.
    let mut scopes = BTreeSet::new();
    let mut accounts = BTreeSet::new();
    for change in changes {
        subjects.insert(change.subject.clone());
        match &change.subject {
            Subject::Resource(urn) => {
                readers_of(library, urn, &mut subjects, &mut scopes, &mut accounts)?;
            }
            Subject::Scope(scope) => {
                scopes.insert(scope.clone());
            }
        }
    }
    for scope in scopes {
        readers_of_scope(library, &scope, &mut accounts);
    }
    for wanted in accounts {
        of_account(library, &wanted, &mut subjects)?;
    }
    Ok(subjects)
}

/// Every resource of a type in an account; of one region alone where that is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    provider: String,
    account: String,
    type_name: String,
    region: Option<String>,
}

/// Finds the resources whose checks read a changed one.
fn readers_of(
    library: &mut Library<'_>,
    urn: &Urn,
    subjects: &mut BTreeSet<Subject>,
    scopes: &mut BTreeSet<Scope>,
    accounts: &mut BTreeSet<Wanted>,
) -> Result<(), ReadError> {
    let rules = library.rules;
    let readers = rules.reads(&urn.scope.type_name());
    let leads_out = readers
        .iter()
        .any(|reader| reader.direction == Direction::Outgoing);
    let mut links = BTreeSet::new();
    if leads_out {
        if let Some(found) = library.resource(urn)? {
            // Links that were not read may lead anywhere.
            if links_read(&found.document).is_err() {
                scopes.insert(urn.scope.clone());
            }
            links.extend(found.document.links.iter().cloned());
        }
        former_links(library, urn, &mut links, scopes)?;
    }
    if urn.scope.type_name() == format!("{}.account", urn.scope.provider) {
        read_from_everywhere(library, &urn.scope, accounts);
    }
    for Reader {
        relation,
        direction,
        type_name,
    } in readers
    {
        match direction {
            Direction::Outgoing => {
                let ends = links.iter().filter(|link| link.rel == *relation);
                let ends = ends.map(|link| &link.urn);
                subjects.extend(of_type(ends, type_name));
            }
            Direction::Incoming => {
                let origins = library.reader.linked_from(urn, relation)?;
                subjects.extend(of_type(&origins, type_name));
            }
            Direction::Account => {
                accounts.insert(Wanted {
                    provider: urn.scope.provider.clone(),
                    account: urn.scope.account.clone(),
                    type_name: type_name.clone(),
                    region: None,
                });
            }
        }
    }
    Ok(())
}

/// Finds whose relations rest on all regions of an account, which its document lists.
fn read_from_everywhere(library: &Library<'_>, account: &Scope, accounts: &mut BTreeSet<Wanted>) {
    for origin in library.regional_types(&account.provider) {
        for reader in library.rules.reads(origin) {
            let crosses = reader.direction == Direction::Outgoing
                && !library.stays_in_region(&reader.type_name, origin);
            if crosses {
                accounts.insert(Wanted {
                    provider: account.provider.clone(),
                    account: account.account.clone(),
                    type_name: reader.type_name.clone(),
                    region: None,
                });
            }
        }
    }
}

fn of_type<'u>(
    urns: impl IntoIterator<Item = &'u Urn>,
    type_name: &str,
) -> impl Iterator<Item = Subject> {
    urns.into_iter()
        .filter(move |urn| urn.scope.type_name() == type_name)
        .map(|urn| Subject::Resource(urn.clone()))
}

/// Adds the links that a resource had: what it no longer leads to must be judged again.
fn former_links(
    library: &Library<'_>,
    urn: &Urn,
    links: &mut BTreeSet<protocol::document::Link>,
    scopes: &mut BTreeSet<Scope>,
) -> Result<(), ReadError> {
    for past in library.reader.resource_history(urn)? {
        if links_read(&past.document).is_err() {
            scopes.insert(urn.scope.clone());
        }
        links.extend(past.document.links);
    }
    Ok(())
}

/// Finds whose relations read a scope: what becomes known of it, or unknown, decides whether
/// nothing links to them.
fn readers_of_scope(library: &Library<'_>, scope: &Scope, accounts: &mut BTreeSet<Wanted>) {
    let type_name = scope.type_name();
    for reader in library.rules.reads(&type_name) {
        if reader.direction == Direction::Outgoing {
            let stays = library.stays_in_region(&reader.type_name, &type_name);
            accounts.insert(Wanted {
                provider: scope.provider.clone(),
                account: scope.account.clone(),
                type_name: reader.type_name.clone(),
                region: stays.then(|| scope.region.clone()),
            });
        }
    }
}

fn of_account(
    library: &mut Library<'_>,
    wanted: &Wanted,
    subjects: &mut BTreeSet<Subject>,
) -> Result<(), ReadError> {
    let scopes = library.scopes()?;
    let is_wanted = |scope: &&Scope| {
        scope.provider == wanted.provider
            && scope.account == wanted.account
            && scope.type_name() == wanted.type_name
            && wanted
                .region
                .as_ref()
                .is_none_or(|region| scope.region == *region)
    };
    for scope in scopes.keys().filter(is_wanted) {
        let resources = library.reader.resources_in(scope)?;
        subjects.extend(
            resources
                .into_iter()
                .map(|resource| Subject::Resource(resource.document.urn)),
        );
    }
    Ok(())
}
