//! Which scopes are being swept, and for which sync.
//!
//! What was told of a scope, and its generation, belong to the scope and not to a source. Two
//! sweeps of it at the same time would take what the other found for gone. So a scope is swept
//! for one sync at a time, the first that names it, until that sync ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use collect::Fact;
use protocol::urn::Scope;
use tracing::warn;

#[derive(Debug, Default)]
struct Table {
    /// Number of the next sync. Ids of sources would not do: a source with a new secret is synced
    /// anew while its former sync still winds down.
    next: u64,
    /// Whose each scope is: the sync, and the name of its source.
    holders: BTreeMap<Scope, (u64, String)>,
}

/// The scopes that are being swept.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    table: Mutex<Table>,
}

impl Scopes {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of this lock panics")
    }

    /// Begins a sync of the source `name`, which holds no scope yet.
    pub(super) fn hold(self: &Arc<Self>, name: &str) -> Hold {
        let mut table = self.lock();
        let sync = table.next;
        table.next += 1;
        Hold {
            scopes: self.clone(),
            sync,
            name: name.to_owned(),
            refused: BTreeSet::new(),
            told: BTreeSet::new(),
        }
    }
}

/// The scopes of one sync; dropped, it gives them back.
#[derive(Debug)]
pub(super) struct Hold {
    scopes: Arc<Scopes>,
    sync: u64,
    name: String,
    /// Scopes that another sync had first. They stay refused when it ends: the facts before are
    /// not there, so that the rest would be a sweep with holes.
    refused: BTreeSet<Scope>,
    /// Names of the sources that a warning was written about.
    told: BTreeSet<String>,
}

impl Hold {
    /// Returns whether a fact may be taken. The first fact of a scope takes the scope.
    pub(super) fn admits(&mut self, fact: &Fact) -> bool {
        let scope = match fact {
            Fact::Began { scope } | Fact::Ended { scope } | Fact::Failed { scope, .. } => scope,
            Fact::Document(document) => &document.urn.scope,
            Fact::Events { .. } => return true,
        };
        if self.refused.contains(scope) {
            return false;
        }
        let other = {
            let mut table = self.scopes.lock();
            match table.holders.get(scope) {
                Some((sync, _)) if *sync == self.sync => return true,
                Some((_, name)) => name.clone(),
                None => {
                    let holder = (self.sync, self.name.clone());
                    table.holders.insert(scope.clone(), holder);
                    return true;
                }
            }
        };
        self.refused.insert(scope.clone());
        if self.told.insert(other.clone()) {
            warn!(
                source = %self.name,
                other = %other,
                %scope,
                "two sources read the same at the same time; what the second reads of it is left out"
            );
        }
        false
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut table = self.scopes.lock();
        table.holders.retain(|_, (sync, _)| *sync != self.sync);
    }
}
