//! Azure collectors, through Resource Graph.
//!
//! One source is one identity and the subscriptions that it was told to read, or all that it can
//! see. Each subscription is an account of its own. A sync asks Resource Manager for every
//! subscription, because Resource Graph answers with silence for one that the identity cannot
//! read; then it runs one query per type over all of them. Nothing here changes anything in Azure.
//!
//! Resource Graph shows the resources that the identity may read: a role on some resource groups
//! of a subscription gives those groups' resources and no sign of the others. A source should have
//! its role on the subscription.
//!
//! Called by the agent's `connect`; tokens come from `token`, calls go through `graph`.
#![warn(missing_docs)]

mod graph;
mod row;
mod sweep;
mod token;
mod transport;

use async_trait::async_trait;
use collect::http::{Endpoint, Failure};
use collect::{CollectError, Inventory, Output, Probe, Summary};
use protocol::declare::{Declarations, ResourceType};
use secrecy::SecretBox;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use graph::SUBSCRIPTIONS;
use graph::{CALL, Graph, fatal};
use sweep::Sweep;
use token::Tokens;

/// Resource types with their names in Resource Graph.
/// Source: https://learn.microsoft.com/azure/governance/resource-graph/reference/supported-tables-resources
const TYPES: [(&str, &str); 2] = [
    (
        "azure.network.network-security-group",
        "microsoft.network/networksecuritygroups",
    ),
    ("azure.storage.account", "microsoft.storage/storageaccounts"),
];

/// What finding subscriptions needs.
const READ_SUBSCRIPTIONS: &str = "Microsoft.Resources/subscriptions/read";

/// Longest name of a resource group, in characters.
/// Source: https://azure.github.io/PSRule.Rules.Azure/en/rules/Azure.Group.Naming/
const GROUP_CHARS: usize = 90;

/// The settings of an `azure` source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Directory (tenant) id. Needed with a client secret; other credentials know their own.
    pub tenant: Option<String>,
    /// Application id of the identity to use; needed with a client secret, and for one of several
    /// managed identities.
    pub client_id: Option<String>,
    /// Subscription ids; empty for all that the identity can see.
    pub subscriptions: Vec<String>,
    /// Resource groups to read in each subscription; empty for all. With some, a sweep tells what
    /// it read and ends as failed: the subscription as a whole stays unknown, and nothing in it is
    /// told as gone, whether it was in these groups or not.
    pub resource_groups: Vec<String>,
    /// Base URL under which the API hosts stand, `<base>/<host>/<path>`; without it Microsoft's
    /// own. A base on this host without TLS is asked for tokens too, at
    /// `<base>/<tenant>/oauth2/v2.0/token`.
    pub endpoint: Option<String>,
}

impl Settings {
    /// Returns the settings with ids in lower case and each name once, or refuses what cannot be
    /// one: they become parts of paths and of a query.
    fn checked(mut self) -> Result<Self, CollectError> {
        let refuse = |key: &str, reason: &str| CollectError::Setting {
            key: key.to_owned(),
            reason: reason.to_owned(),
        };
        let is_domain = |text: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
            text.contains('.') && !text.starts_with('.') && text.bytes().all(allowed)
        };
        if let Some(tenant) = &self.tenant
            && !is_guid(tenant)
            && !is_domain(tenant)
        {
            return Err(refuse(
                "tenant",
                "it is a directory id or one of its domains",
            ));
        }
        if let Some(id) = &self.client_id
            && !is_guid(id)
        {
            return Err(refuse(
                "client_id",
                "it is an application id such as 1b2c3d4e-0000-0000-0000-000000000000",
            ));
        }
        if !self.subscriptions.iter().all(|id| is_guid(id)) {
            return Err(refuse(
                "subscriptions",
                "each is an id such as 1b2c3d4e-0000-0000-0000-000000000000",
            ));
        }
        if !self.resource_groups.iter().all(|name| is_group(name)) {
            return Err(refuse(
                "resource_groups",
                "a name has letters, digits and _ - . ( )",
            ));
        }
        for list in [&mut self.subscriptions, &mut self.resource_groups] {
            for name in list.iter_mut() {
                *name = name.to_lowercase();
            }
            list.sort();
            list.dedup();
        }
        Ok(self)
    }
}

/// Whether a text is an id such as `1b2c3d4e-0000-0000-0000-000000000000`.
fn is_guid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts
            .iter()
            .zip(lengths)
            .all(|(part, length)| part.len() == length)
        && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn is_group(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '(' | ')');
    !name.is_empty() && name.chars().count() <= GROUP_CHARS && name.chars().all(allowed)
}

/// Azure as one identity sees it.
#[derive(Debug)]
pub struct Azure {
    graph: Graph,
    settings: Settings,
}

impl Azure {
    /// Finds credentials and gets a first token, so that a source that cannot work says so before
    /// any sweep.
    ///
    /// With a secret, the application `client_id` of `tenant` is used and nothing else: a refused
    /// secret must not fall back to an identity that happens to be attached to the host. Without
    /// one, workload identity, managed identity and the Azure CLI are tried in this order.
    ///
    /// # Errors
    ///
    /// When a setting cannot be used or no credentials work.
    pub async fn connect(
        settings: Settings,
        secret: Option<SecretBox<str>>,
    ) -> Result<Self, CollectError> {
        let settings = settings.checked()?;
        let endpoint = match &settings.endpoint {
            Some(text) => Endpoint::parse(text)?,
            None => Endpoint::default(),
        };
        let tokens = Tokens::find(&settings, secret, &endpoint).await?;
        Ok(Self {
            graph: Graph::new(endpoint, tokens)?,
            settings,
        })
    }
}

impl Azure {
    /// Returns the code of a refusal, or the error that ends all probing.
    fn refused(&self, tried: Result<(), Failure>) -> Result<Option<String>, CollectError> {
        match tried {
            Ok(()) => Ok(None),
            Err(failure) => match fatal(&failure, self.graph.endpoint()) {
                Some(error) => Err(error),
                None => Ok(Some(failure.fault.code)),
            },
        }
    }
}

/// Returns the declaration of a type that this crate collects.
fn declared(name: &str) -> &'static ResourceType {
    let found = Declarations::builtin().get(name);
    found.expect("every type that is swept is declared: a test holds it")
}

#[async_trait]
impl Inventory for Azure {
    fn types(&self) -> Vec<String> {
        TYPES.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    async fn sync(&self, out: &Output, stop: &CancellationToken) -> Result<Summary, CollectError> {
        let started = Instant::now();
        let before = self.graph.attempts_made();
        let mut sweep = Sweep::new(&self.graph, &self.settings, out);
        // Dropped in the middle when the agent stops: open scopes stay open.
        if let Some(swept) = stop.run_until_cancelled(sweep.run()).await {
            swept?;
        }
        let mut summary = sweep.into_summary();
        summary.calls = self.graph.attempts_made() - before;
        summary.took = started.elapsed();
        Ok(summary)
    }

    async fn probe(&self) -> Result<Vec<Probe>, CollectError> {
        // Resource Graph answers for what the identity may read and is silent about the rest, so
        // that the subscriptions say more than its answers do.
        let subscriptions = &self.settings.subscriptions;
        let mut probes = vec![Probe {
            call: SUBSCRIPTIONS.to_owned(),
            permission: READ_SUBSCRIPTIONS.to_owned(),
            refused: self.refused(self.graph.probe_subscriptions(subscriptions).await)?,
        }];
        for (name, kind) in TYPES {
            let permission = declared(name).calls().remove(CALL);
            probes.push(Probe {
                call: CALL.to_owned(),
                permission: permission.unwrap_or_default(),
                refused: self.refused(self.graph.probe(kind, subscriptions).await)?,
            });
        }
        Ok(probes)
    }
}

#[cfg(test)]
mod tests;
