//! One sync: which subscriptions can be read, then one query per type over all of them.

use std::collections::{BTreeMap, BTreeSet};

use collect::draft::incomplete;
use collect::http::Failure;
use collect::{CollectError, Draft, Fact, Fault, Output, Summary};
use jiff::Timestamp;
use protocol::urn::Scope;
use serde_json::{Map, Value};

use crate::graph::{CALL, Graph, Pages, Query, fatal};
use crate::row::{Identity, draft};
use crate::{Settings, TYPES, declared};

/// Call and error of a sweep of some resource groups. What is outside them is not known, so that
/// the sweep of a subscription's scope never ends as a whole one.
const NARROWED: (&str, &str) = (
    "resource_groups",
    "only these groups are read; nothing outside them is known and nothing is told as gone",
);

/// Subscriptions in one query. A failure spoils the scopes of its query and no others, and a
/// tenant with a thousand subscriptions stays within its quota.
const TOGETHER: usize = 100;

/// One sync in progress.
pub(crate) struct Sweep<'a> {
    graph: &'a Graph,
    settings: &'a Settings,
    out: &'a Output,
    summary: Summary,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(graph: &'a Graph, settings: &'a Settings, out: &'a Output) -> Self {
        Self {
            graph,
            settings,
            out,
            summary: Summary::default(),
        }
    }

    pub(crate) fn into_summary(self) -> Summary {
        self.summary
    }

    /// Reads everything.
    ///
    /// # Errors
    ///
    /// When not even the first call could be made, no subscription can be seen, or the agent is
    /// stopping.
    pub(crate) async fn run(&mut self) -> Result<(), CollectError> {
        let accounts = self.subscriptions().await?;
        let mut seen = Vec::new();
        for (account, unseen) in accounts {
            match unseen {
                None => seen.push(account),
                Some(fault) => {
                    for (type_name, _) in TYPES {
                        let scope = Scope::of_type(type_name, &account, "global");
                        self.begin(&scope).await?;
                        self.fail(scope, fault.clone()).await?;
                    }
                }
            }
        }
        for (type_name, kind) in TYPES {
            for subscriptions in seen.chunks(TOGETHER) {
                self.sweep(type_name, kind, subscriptions).await?;
            }
        }
        Ok(())
    }

    /// Returns the accounts of this sync, each with the reason why it cannot be read, if it
    /// cannot. Where the subscriptions themselves cannot be listed, the tenant stands for them.
    async fn subscriptions(&mut self) -> Result<BTreeMap<String, Option<Fault>>, CollectError> {
        let mut accounts = BTreeMap::new();
        if self.settings.subscriptions.is_empty() {
            match self.graph.subscriptions().await {
                Ok(found) if found.is_empty() => {
                    return Err(CollectError::Setting {
                        key: "subscriptions".to_owned(),
                        reason: "the identity sees none; give it the role Reader on one".to_owned(),
                    });
                }
                Ok(found) => accounts.extend(found.into_iter().map(|id| (id, None))),
                Err(failure) => {
                    let tenant = self.settings.tenant.as_deref().unwrap_or("home");
                    let fault = self.unless_fatal(failure)?;
                    accounts.insert(format!("tenants/{tenant}"), Some(fault));
                }
            }
        }
        for id in &self.settings.subscriptions {
            let unseen = match self.graph.subscription(id).await {
                Ok(()) => None,
                Err(failure) => Some(self.unless_fatal(failure)?),
            };
            accounts.insert(id.clone(), unseen);
        }
        Ok(accounts)
    }

    fn unless_fatal(&mut self, failure: Failure) -> Result<Fault, CollectError> {
        match fatal(&failure, self.graph.endpoint()) {
            Some(error) => Err(error),
            None => Ok(self.note(failure.fault)),
        }
    }

    /// Sweeps one type in some subscriptions.
    async fn sweep(
        &mut self,
        type_name: &'static str,
        kind: &str,
        subscriptions: &[String],
    ) -> Result<(), CollectError> {
        let scopes: BTreeMap<&str, Scope> = subscriptions
            .iter()
            .map(|id| (id.as_str(), Scope::of_type(type_name, id, "global")))
            .collect();
        for scope in scopes.values() {
            self.begin(scope).await?;
        }
        let columns: Vec<&str> = declared(type_name)
            .fields
            .keys()
            .map(String::as_str)
            .collect();
        let groups = &self.settings.resource_groups;
        let query = Query::of(kind, &columns, subscriptions, groups);
        let mut pages = Pages::new(self.graph, query);
        let mut seen = BTreeSet::new();
        let whole = loop {
            let rows = match pages.next().await {
                Ok(Some(rows)) => rows,
                // Rows of a page may repeat while the list changes: each resource counts once.
                Ok(None) if u64::try_from(seen.len()).is_ok_and(|seen| seen < pages.total()) => {
                    break Err(fault("truncated"));
                }
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure.fault),
            };
            if let Err(fault) = self.rows(type_name, kind, rows, &scopes, &mut seen).await? {
                break Err(fault);
            }
        };
        let whole = whole.and_then(|()| self.unless_narrowed());
        for scope in scopes.into_values() {
            match &whole {
                Ok(()) => self.end(scope).await?,
                Err(fault) => self.fail(scope, fault.clone()).await?,
            }
        }
        Ok(())
    }

    /// Returns why a sweep to the last row is not one of the whole scope, if it is not.
    fn unless_narrowed(&self) -> Result<(), Fault> {
        if self.settings.resource_groups.is_empty() {
            return Ok(());
        }
        let (call, error) = NARROWED;
        Err(Fault {
            call: call.to_owned(),
            code: error.to_owned(),
        })
    }

    /// Sends the documents of one page. The inner error is a row that belongs nowhere: the answer
    /// is then not the one to the question.
    async fn rows(
        &mut self,
        type_name: &'static str,
        kind: &str,
        rows: Vec<Map<String, Value>>,
        scopes: &BTreeMap<&str, Scope>,
        seen: &mut BTreeSet<(String, String)>,
    ) -> Result<Result<(), Fault>, CollectError> {
        for row in rows {
            let Some(identity) = Identity::of(&row, kind) else {
                return Ok(Err(fault("row_without_id")));
            };
            let Some(scope) = scopes.get(identity.subscription.as_str()) else {
                return Ok(Err(fault("subscription_not_asked_for")));
            };
            if !seen.insert((identity.subscription.clone(), identity.id.clone())) {
                continue;
            }
            // A server that does not filter by group must not widen what the operator allowed.
            let groups = &self.settings.resource_groups;
            if !groups.is_empty() && !groups.contains(&identity.resource_group) {
                continue;
            }
            let (draft, wrong) = draft(declared(type_name), scope, &identity, row);
            if let Some(fault) = wrong {
                self.note(fault);
            }
            self.send(draft).await?;
        }
        Ok(Ok(()))
    }

    /// Notes a fault for the summary, each once.
    fn note(&mut self, fault: Fault) -> Fault {
        if !self.summary.faults.contains(&fault) {
            self.summary.faults.push(fault.clone());
        }
        fault
    }

    async fn begin(&self, scope: &Scope) -> Result<(), CollectError> {
        let scope = scope.clone();
        self.out.send(Fact::Began { scope }).await
    }

    async fn send(&mut self, draft: Draft) -> Result<(), CollectError> {
        let document = Box::new(draft.finish(Timestamp::now()));
        for fault in incomplete(&document) {
            self.note(fault);
        }
        self.out.send(Fact::Document(document)).await?;
        self.summary.documents += 1;
        Ok(())
    }

    async fn end(&mut self, scope: Scope) -> Result<(), CollectError> {
        self.out.send(Fact::Ended { scope }).await?;
        self.summary.scopes_ended += 1;
        Ok(())
    }

    async fn fail(&mut self, scope: Scope, fault: Fault) -> Result<(), CollectError> {
        let gap = self.note(fault).into();
        self.out.send(Fact::Failed { scope, gap }).await
    }
}

fn fault(code: &str) -> Fault {
    Fault {
        call: CALL.to_owned(),
        code: code.to_owned(),
    }
}
