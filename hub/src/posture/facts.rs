//! What a judgement reads: the resource, its account's document, its neighbours, and how far each
//! relation is known.
//!
//! A relation is only as known as what it rests on:
//!
//! - `linked(rel)`: the resource's own links were read, and each leads to a living resource.
//! - `linked_from(rel, type)`: resources of the same account, of which every scope from which such
//!   a link can come was swept completely, and none of its resources has unread links. Between two
//!   regional types a link stays in its region, but for the documents of regions themselves, which
//!   are read from everywhere. A link that may cross regions needs every region that the account's
//!   document says is in use.
//!
//! Whatever was not gathered is unknown, never empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::declare::{Declarations, Reach};
use protocol::document::{Gap, SetHash};
use protocol::{Document, Scope, Urn};
use rules::{Check, Direction, Neighbours, Relation, RuleSet};
use serde_json::Value;
use store::OrgReader;
use store::error::ReadError;
use store::rows::resource::{Resource, ScopeState, ScopeStatus};

/// Resources that one library keeps at hand; beyond it they are read again.
const KEPT: usize = 20_000;

/// `OptInStatus` of a region that the account does not use.
const NOT_IN_USE: &str = "not-opted-in";

/// Scopes whose unread links are remembered.
const KEPT_SCOPES: usize = 10_000;

/// What is remembered from one judgement to the next: for each content of a scope, the first of
/// its resources' gaps in links.
pub(super) type UnreadLinks = BTreeMap<Scope, (SetHash, Option<Gap>)>;

/// The other ends of one relation.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) resources: Vec<Arc<Resource>>,
    complete: Result<(), Gap>,
}

/// What the checks on one resource read besides it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) account: Option<Arc<Resource>>,
    pub(super) outgoing: BTreeMap<String, Ends>,
    pub(super) incoming: BTreeMap<String, Ends>,
}

impl Neighbours for Facts {
    fn linked(&self, rel: &str) -> Relation<'_> {
        relation(&self.outgoing, rel)
    }
    fn linked_from(&self, rel: &str) -> Relation<'_> {
        relation(&self.incoming, rel)
    }
}

fn relation<'a>(gathered: &'a BTreeMap<String, Ends>, rel: &str) -> Relation<'a> {
    match gathered.get(rel) {
        Some(ends) => Relation {
            documents: ends.resources.iter().map(|end| &end.document).collect(),
            complete: ends.complete.clone(),
        },
        None => Relation {
            documents: Vec::new(),
            complete: Err(gap(rel, "not gathered")),
        },
    }
}

fn gap(call: &str, error: &str) -> Gap {
    Gap {
        call: call.to_owned(),
        error: error.to_owned(),
    }
}

/// Reads facts at one snapshot, each but once.
pub(super) struct Library<'a> {
    pub(super) reader: &'a OrgReader,
    pub(super) rules: &'a RuleSet,
    declarations: &'static Declarations,
    resources: BTreeMap<Urn, Option<Arc<Resource>>>,
    scopes: Option<Arc<BTreeMap<Scope, ScopeStatus>>>,
    accounts: BTreeMap<Scope, Option<Arc<Resource>>>,
    unread_links: &'a mut UnreadLinks,
}

impl<'a> Library<'a> {
    pub(super) fn new(
        reader: &'a OrgReader,
        rules: &'a RuleSet,
        unread_links: &'a mut UnreadLinks,
    ) -> Self {
        Self {
            reader,
            rules,
            declarations: Declarations::builtin(),
            resources: BTreeMap::new(),
            scopes: None,
            accounts: BTreeMap::new(),
            unread_links,
        }
    }

    /// Returns every scope.
    pub(super) fn scopes(&mut self) -> Result<Arc<BTreeMap<Scope, ScopeStatus>>, ReadError> {
        if let Some(scopes) = &self.scopes {
            return Ok(Arc::clone(scopes));
        }
        let scopes = self.reader.scopes()?;
        let scopes: BTreeMap<_, _> = scopes
            .into_iter()
            .map(|status| (status.scope.clone(), status))
            .collect();
        Ok(Arc::clone(self.scopes.insert(Arc::new(scopes))))
    }

    /// Gathers what some checks read besides the resource itself.
    pub(super) fn gather(
        &mut self,
        document: &Document,
        checks: &[&Check],
    ) -> Result<Facts, ReadError> {
        let mut outgoing = BTreeMap::<&str, BTreeSet<&str>>::new();
        let mut incoming = BTreeMap::<&str, BTreeSet<&str>>::new();
        let mut reads_account = false;
        for check in checks {
            reads_account |= check.reads_account();
            for (rel, direction, type_name) in check.relations() {
                match direction {
                    Direction::Outgoing => outgoing.entry(rel).or_default().insert(type_name),
                    Direction::Incoming => incoming.entry(rel).or_default().insert(type_name),
                    Direction::Account => false,
                };
            }
        }
        let mut facts = Facts::default();
        if reads_account {
            facts.account = self.account_of(document)?;
        }
        for rel in outgoing.into_keys() {
            facts
                .outgoing
                .insert(rel.to_owned(), self.outgoing(document, rel)?);
        }
        for (rel, types) in incoming {
            facts
                .incoming
                .insert(rel.to_owned(), self.incoming(document, rel, &types)?);
        }
        Ok(facts)
    }

    /// Returns a resource, a retired one too.
    pub(super) fn resource(&mut self, urn: &Urn) -> Result<Option<Arc<Resource>>, ReadError> {
        if let Some(known) = self.resources.get(urn) {
            return Ok(known.clone());
        }
        let found = self.reader.resource(urn)?.map(Arc::new);
        if self.resources.len() >= KEPT {
            self.resources.clear();
        }
        self.resources.insert(urn.clone(), found.clone());
        Ok(found)
    }

    /// Returns the document of the account that a resource lives in.
    fn account_of(&mut self, document: &Document) -> Result<Option<Arc<Resource>>, ReadError> {
        let type_name = format!("{}.account", document.provider);
        let scope = Scope::of_type(&type_name, &document.account, "global");
        if let Some(known) = self.accounts.get(&scope) {
            return Ok(known.clone());
        }
        let found = self.reader.resources_in(&scope)?;
        let found = found.into_iter().next().map(Arc::new);
        self.accounts.insert(scope, found.clone());
        Ok(found)
    }

    fn outgoing(&mut self, document: &Document, rel: &str) -> Result<Ends, ReadError> {
        let mut ends = Ends {
            resources: Vec::new(),
            complete: links_read(document),
        };
        for link in document.links.iter().filter(|link| link.rel == rel) {
            match self.resource(&link.urn)?.filter(|end| is_living(end)) {
                Some(end) => ends.resources.push(end),
                // It may be in an account that nobody reads, be younger than its scope's last
                // sweep, or be gone. Which of them is not known.
                None => {
                    let call = self.list_call(&link.urn.scope.type_name());
                    ends.complete = ends.complete.and(Err(gap(&call, "not in the inventory")));
                }
            }
        }
        Ok(ends)
    }

    fn incoming(
        &mut self,
        document: &Document,
        rel: &str,
        types: &BTreeSet<&str>,
    ) -> Result<Ends, ReadError> {
        let mut ends = Ends {
            resources: Vec::new(),
            complete: Ok(()),
        };
        for urn in self.reader.linked_from(&document.urn, rel)? {
            // An agent speaks for its own accounts alone, and a link speaks for its other end.
            if urn.scope.account != document.account || urn.scope.provider != document.provider {
                continue;
            }
            let Some(end) = self.resource(&urn)?.filter(|end| is_living(end)) else {
                continue;
            };
            ends.resources.push(end);
        }
        ends.resources
            .sort_by(|one, other| one.document.urn.cmp(&other.document.urn));
        for type_name in types {
            ends.complete = ends.complete.and(self.swept(document, type_name)?);
        }
        Ok(ends)
    }

    /// Says whether every resource of a type that may link to this one is known, with its links.
    fn swept(
        &mut self,
        document: &Document,
        type_name: &str,
    ) -> Result<Result<(), Gap>, ReadError> {
        let call = self.list_call(type_name);
        let scopes = self.scopes()?;
        let of_account = |scope: &&Scope| {
            scope.provider == document.provider && scope.account == document.account
        };
        let used;
        let mut needed = BTreeSet::new();
        if self.is_global(type_name) {
            needed.insert("global");
        } else if self.stays_in_region(&document.type_name, type_name) {
            needed.insert(document.region.as_str());
        } else {
            let regions = scopes
                .keys()
                .filter(of_account)
                .map(|scope| scope.region.as_str());
            needed.extend(regions.filter(|region| *region != "global"));
            if needed.is_empty() {
                return Ok(Err(gap(&call, "not swept")));
            }
            used = match self.regions_in_use(document)? {
                Ok(used) => used,
                Err(gap) => return Ok(Err(gap)),
            };
            needed.extend(used.iter().map(String::as_str));
        }
        for region in needed {
            let scope = Scope::of_type(type_name, &document.account, region);
            let status = scopes.get(&scope);
            if status.is_none() {
                return Ok(Err(gap(&call, &format!("not swept in {region}"))));
            }
            if let Err(gap) = standing(status, &call) {
                return Ok(Err(gap));
            }
            if let Some(status) = status
                && let Some(gap) = self.unread_links(status)?
            {
                return Ok(Err(gap));
            }
        }
        Ok(Ok(()))
    }

    /// Returns the regions that the account's document says are in use: an agent may be set to
    /// read fewer. None for a provider whose accounts list no regions.
    fn regions_in_use(
        &mut self,
        document: &Document,
    ) -> Result<Result<Vec<String>, Gap>, ReadError> {
        let declared = self
            .declarations
            .get(&format!("{}.account", document.provider));
        let Some(field) = declared.and_then(|declared| declared.fields.get("Regions")) else {
            return Ok(Ok(Vec::new()));
        };
        let unread = || gap(&field.call, "not read");
        let Some(account) = self.account_of(document)? else {
            return Ok(Err(unread()));
        };
        let account = &account.document;
        let Some(regions) = account.config.get("Regions").and_then(Value::as_array) else {
            let known = account.gaps.get("config.Regions");
            return Ok(Err(known.cloned().unwrap_or_else(unread)));
        };
        let in_use = regions
            .iter()
            .filter(|region| region.get("OptInStatus").and_then(Value::as_str) != Some(NOT_IN_USE));
        let names = in_use.filter_map(|region| region.get("RegionName")?.as_str());
        Ok(Ok(names.map(str::to_owned).collect()))
    }

    /// Returns why a resource of a scope may have links that are not known.
    fn unread_links(&mut self, status: &ScopeStatus) -> Result<Option<Gap>, ReadError> {
        if let Some((members, gap)) = self.unread_links.get(&status.scope)
            && *members == status.members
        {
            return Ok(gap.clone());
        }
        let resources = self.reader.resources_in(&status.scope)?;
        let gap = resources
            .iter()
            .find_map(|resource| links_read(&resource.document).err());
        if self.unread_links.len() >= KEPT_SCOPES {
            self.unread_links.clear();
        }
        self.unread_links
            .insert(status.scope.clone(), (status.members, gap.clone()));
        Ok(gap)
    }

    pub(super) fn is_global(&self, type_name: &str) -> bool {
        self.declarations
            .get(type_name)
            .is_some_and(|declared| declared.reach == Reach::Global)
    }

    /// Returns the names of a provider's types that are swept in each region.
    pub(super) fn regional_types(&self, provider: &str) -> impl Iterator<Item = &'static str> {
        self.declarations
            .iter()
            .filter(move |declared| {
                declared.provider() == provider && declared.reach == Reach::Region
            })
            .map(|declared| declared.name.as_str())
    }

    /// Says whether links between two types stay in their region.
    pub(super) fn stays_in_region(&self, one: &str, other: &str) -> bool {
        let is_regional = |name: &str| !self.is_global(name) && !name.ends_with(".region");
        is_regional(one) && is_regional(other)
    }

    fn list_call(&self, type_name: &str) -> String {
        self.declarations
            .get(type_name)
            .map_or_else(|| type_name.to_owned(), |declared| declared.call.clone())
    }
}

/// Says whether a resource exists as far as the hub knows.
pub(super) fn is_living(resource: &Resource) -> bool {
    resource.retired_at.is_none()
}

/// Says whether a resource's links were read: they themselves, and the fields that some of them
/// are read from.
pub(super) fn links_read(document: &Document) -> Result<(), Gap> {
    let declared = Declarations::builtin().get(&document.type_name);
    let relations = declared.into_iter().flat_map(|of| of.links.values());
    let fields: Vec<&str> = relations.filter_map(|rel| rel.field.as_deref()).collect();
    let is_about = |path: &str| match path.strip_prefix("config.") {
        Some(path) => fields.contains(&path.split('.').next().unwrap_or_default()),
        None => path == "links" || path.starts_with("links."),
    };
    let unread = document.gaps.iter().find(|(path, _)| is_about(path));
    match unread {
        Some((_, gap)) => Err(gap.clone()),
        None => Ok(()),
    }
}

/// Says whether absence from a scope proves anything.
fn standing(status: Option<&ScopeStatus>, call: &str) -> Result<(), Gap> {
    let Some(status) = status else {
        return Err(gap(call, "not swept"));
    };
    match &status.state {
        ScopeState::Failed(gap) => Err(gap.clone()),
        ScopeState::Mismatched => Err(gap(call, "not swept as the agent says it is")),
        ScopeState::Sweeping | ScopeState::Complete | ScopeState::Held(_) => {
            if status.is_known() {
                Ok(())
            } else {
                Err(gap(call, "not swept"))
            }
        }
    }
}
