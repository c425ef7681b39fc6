//! Google Cloud collectors, through Cloud Asset Inventory.
//!
//! One source is one project, folder or organisation. A sync makes four lists of it with
//! `assets.list`, all of the same moment (`readTime`): projects, their IAM policies, the buckets'
//! IAM policies, and buckets. Each project is an account of its own. What an asset is and what its
//! policy says are two permissions: without the second one every document still comes, with a gap
//! at `iamPolicy`. Nothing here changes anything in Google Cloud, and nothing reads objects.
//!
//! Called by the agent's `connect`; tokens come from `token`, calls go through `assets`.
#![warn(missing_docs)]

mod assets;
mod fit;
mod policies;
mod sweep;
mod token;

use std::num::NonZeroU32;
use std::path::PathBuf;

use async_trait::async_trait;
use collect::http::{Endpoint, Http, Limits};
use collect::{Budget, CollectError, Inventory, Output, Probe, Summary};
use protocol::declare::{Declarations, ResourceType};
use secrecy::SecretBox;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use assets::{Assets, Content, fatal};
use sweep::Sweep;
use token::Tokens;

/// Calls a second. `ListAssets` has 100 a minute per project that calls.
/// Source: https://cloud.google.com/asset-inventory/docs/quota
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN;

/// Calls at once after a pause, so that a small source does not wait at all.
const BURST: NonZeroU32 = NonZeroU32::new(20).expect("not zero");

/// Calls at the same time. A sync makes one after the other; a probe may run beside it.
const IN_FLIGHT: usize = 2;

/// Where tokens come from.
#[derive(Debug)]
pub enum Credentials {
    /// What the host offers: `GOOGLE_APPLICATION_CREDENTIALS`, application-default credentials,
    /// the metadata server, `gcloud`, in this order.
    Ambient,
    /// A service account's key in a file.
    KeyFile(PathBuf),
    /// A service account's key as JSON, out of the vault.
    Key(SecretBox<str>),
}

/// What a source reads below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    /// One project, by id or number.
    Project(String),
    /// A folder and everything below it, by number.
    Folder(String),
    /// An organisation, by number.
    Organization(String),
}

impl Parent {
    /// Returns the parent's name as the API writes it, `folders/123`.
    pub fn name(&self) -> String {
        match self {
            Self::Project(id) => format!("projects/{id}"),
            Self::Folder(number) => format!("folders/{number}"),
            Self::Organization(number) => format!("organizations/{number}"),
        }
    }

    /// Returns the account of scopes for which no project is known.
    fn account(&self) -> String {
        match self {
            Self::Project(id) => id.clone(),
            Self::Folder(_) | Self::Organization(_) => self.name(),
        }
    }

    /// Whether the project of this id and number is one that was asked for.
    fn covers(&self, id: &str, number: Option<&str>) -> bool {
        match self {
            Self::Project(asked) => asked == id || Some(asked.as_str()) == number,
            Self::Folder(_) | Self::Organization(_) => true,
        }
    }

    /// Refuses what cannot be an id: it becomes part of a path.
    fn check(&self) -> Result<(), CollectError> {
        let is_id = |text: &str| {
            let others = |b| matches!(b, b'-' | b'.' | b':');
            text.bytes().all(|b| b.is_ascii_alphanumeric() || others(b))
        };
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let (key, text, fits, want) = match self {
            Self::Project(id) => (
                "project",
                id,
                is_id(id),
                "it is an id such as my-project-123, or a number",
            ),
            Self::Folder(number) => (
                "folder",
                number,
                is_number(number),
                "it is a number, as `gcloud resource-manager folders list` shows it",
            ),
            Self::Organization(number) => (
                "organization",
                number,
                is_number(number),
                "it is a number, as `gcloud organizations list` shows it",
            ),
        };
        if fits && !text.is_empty() && text.bytes().any(|b| b.is_ascii_alphanumeric()) {
            return Ok(());
        }
        Err(CollectError::Setting {
            key: key.to_owned(),
            reason: want.to_owned(),
        })
    }
}

/// The settings of a `gcp` source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where to read.
    pub parent: Parent,
    /// Regions to sweep for types that have one. Projects and buckets have none (a bucket's
    /// location may be a continent), so they are read whatever stands here.
    pub regions: Vec<String>,
    /// Base URL under which the API hosts stand, `<base>/<host>/<path>`; without it Google's own.
    pub endpoint: Option<String>,
}

/// Google Cloud as one set of credentials sees it.
#[derive(Debug)]
pub struct Gcp {
    assets: Assets,
    parent: Parent,
}

impl Gcp {
    /// Finds credentials and gets a first token, so that a source that cannot work says so before
    /// any sweep.
    ///
    /// # Errors
    ///
    /// When a setting cannot be used or no credentials work.
    pub async fn connect(
        settings: Settings,
        credentials: Credentials,
    ) -> Result<Self, CollectError> {
        settings.parent.check()?;
        let endpoint = match &settings.endpoint {
            Some(text) => Endpoint::parse(text)?,
            None => Endpoint::default(),
        };
        let budget = Budget::new(PER_SECOND, BURST, IN_FLIGHT);
        let http = Http::new(budget, Limits::default())?;
        let tokens = Tokens::find(credentials).await?;
        tokens.bearer().await?;
        Ok(Self {
            assets: Assets::new(http, endpoint, tokens, settings.parent.name()),
            parent: settings.parent,
        })
    }
}

/// Returns the declaration of a type that this crate collects.
fn declared(name: &str) -> &'static ResourceType {
    let found = Declarations::builtin().get(name);
    found.expect("every type that is swept is declared: a test holds it")
}

#[async_trait]
impl Inventory for Gcp {
    fn types(&self) -> Vec<String> {
        vec![sweep::PROJECT.to_owned(), sweep::BUCKET.to_owned()]
    }

    async fn sync(&self, out: &Output, stop: &CancellationToken) -> Result<Summary, CollectError> {
        let started = Instant::now();
        let before = self.assets.attempts_made();
        let mut sweep = Sweep::new(&self.assets, &self.parent, out);
        // Dropped in the middle when the agent stops: open scopes stay open.
        if let Some(swept) = stop.run_until_cancelled(sweep.run()).await {
            swept?;
        }
        let mut summary = sweep.into_summary();
        summary.calls = self.assets.attempts_made() - before;
        summary.took = started.elapsed();
        Ok(summary)
    }

    async fn probe(&self) -> Result<Vec<Probe>, CollectError> {
        let mut probes = Vec::new();
        for content in [Content::Resource, Content::IamPolicy] {
            let refused = match self.assets.probe(content).await {
                Ok(()) => None,
                Err(failure) => match fatal(&failure, self.assets.endpoint()) {
                    Some(error) => return Err(error),
                    None => Some(failure.fault.code),
                },
            };
            probes.push(Probe {
                call: content.call().to_owned(),
                permission: content.permission().to_owned(),
                refused,
            });
        }
        Ok(probes)
    }
}

#[cfg(test)]
mod tests;
