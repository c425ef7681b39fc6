//! AWS collectors; nothing else depends on the AWS SDK.
//!
//! One source is one account, read in sweeps: every scope (type × region) has a collector in a
//! file of its own that lists, asks further per resource where the type declares it, and hands
//! everything to a [`collect::Draft`]. All requests go through `transport`, which holds the
//! budgets, deadlines and size limits. Calls only read; none of them changes anything in AWS,
//! with one shade: `iam:GenerateCredentialReport` makes AWS compute a report.
#![warn(missing_docs)]

mod account;
mod caller;
mod clients;
mod connect;
mod ec2;
mod fault;
mod iam;
mod pages;
mod probe;
mod regions;
mod s3;
mod settings;
mod sweep;
mod transport;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use async_trait::async_trait;
use collect::{CollectError, Detector, Inventory, Output, Probe, Summary};
use protocol::declare::{Declarations, Reach, ResourceType};
use tokio_util::sync::CancellationToken;

use clients::Clients;
use regions::Regions;
pub use settings::{KEYS, Settings, StaticCredentials};
use sweep::{Broken, Run, each};

/// Scopes that are swept at the same time. Each holds a page of its list in memory.
const SCOPES_AT_ONCE: usize = 24;

/// One AWS account, connected.
pub struct Aws {
    clients: Clients,
    regions: Option<Vec<String>>,
    account: String,
    partition: String,
    detector: Arc<Detector>,
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws")
            .field("account", &self.account)
            .field("partition", &self.partition)
            .field("regions", &self.regions)
            .finish_non_exhaustive()
    }
}

impl Aws {
    /// Finds credentials and asks AWS whose they are.
    ///
    /// # Errors
    ///
    /// When none are found (with what was tried), AWS refuses them, or it cannot be reached. Takes
    /// at most two minutes to say so.
    pub async fn connect(
        settings: Settings,
        detector: Arc<Detector>,
    ) -> Result<Self, CollectError> {
        let clients = connect::clients(&settings).await?;
        let (account, partition) = connect::identity(&clients).await?;
        Ok(Self {
            clients,
            regions: settings.regions,
            account,
            partition,
            detector,
        })
    }

    /// Returns the account number.
    pub fn account(&self) -> &str {
        &self.account
    }

    async fn run<'o>(&self, out: &'o Output) -> Result<Run<'o>, CollectError> {
        let clients = self.clients.fresh();
        let (account, partition) = connect::identity(&clients).await?;
        if account != self.account {
            return Err(CollectError::Credentials {
                reason: format!(
                    "they now belong to account {account}, and this source reads {}",
                    self.account
                ),
            });
        }
        let read = Regions::read(&clients).await;
        let identity = (account, partition);
        let mut run = Run::new(identity, clients, Arc::clone(&self.detector), out);
        run.regions = read.map_err(|fault| run.note(fault));
        Ok(run)
    }

    async fn sweep_all(&self, run: &Run<'_>) -> Result<(), CollectError> {
        let regions = regions::to_sweep(self.regions.as_deref(), &run.regions, &run.partition);
        let mut tasks: Vec<(&str, Option<&str>)> = Vec::new();
        // The long ones first: they decide how long the sync takes.
        let global = types().filter(|declared| declared.reach == Reach::Global);
        tasks.extend(GLOBAL.iter().map(|name| (*name, None)));
        tasks.extend(
            global
                .map(|declared| (declared.name.as_str(), None))
                .filter(|(name, _)| !GLOBAL.contains(name) && !TOGETHER.contains(name)),
        );
        for declared in types().filter(|declared| declared.reach == Reach::Region) {
            let here = regions
                .iter()
                .map(|region| (declared.name.as_str(), Some(region.as_str())));
            tasks.extend(here);
        }
        each(tasks, SCOPES_AT_ONCE, |(name, region)| async move {
            match region {
                None => sweep_global(run, name).await,
                Some(region) => sweep_region(run, name, region).await,
            }
        })
        .await
    }
}

/// Types that are swept once, the longest first.
const GLOBAL: &[&str] = &["aws.iam.user", "aws.s3.bucket", "aws.account"];

/// Types that are swept together with `aws.iam.user`, since one list holds them all.
const TOGETHER: &[&str] = &[
    "aws.iam.access-key",
    "aws.iam.group",
    "aws.iam.policy",
    "aws.iam.role",
];

async fn sweep_global(run: &Run<'_>, name: &str) -> Result<(), CollectError> {
    match name {
        "aws.account" => account::sweep(run).await,
        "aws.iam.user" => iam::authorization::sweep(run).await,
        "aws.s3.bucket" => s3::bucket::sweep(run).await,
        other => without_collector(run, other, "global").await,
    }
}

async fn sweep_region(run: &Run<'_>, name: &str, region: &str) -> Result<(), CollectError> {
    match name {
        "aws.ec2.image" => ec2::image::sweep(run, region).await,
        "aws.ec2.instance" => ec2::instance::sweep(run, region).await,
        "aws.ec2.network-acl" => ec2::network_acl::sweep(run, region).await,
        "aws.ec2.prefix-list" => ec2::prefix_list::sweep(run, region).await,
        "aws.ec2.security-group" => ec2::security_group::sweep(run, region).await,
        "aws.ec2.snapshot" => ec2::snapshot::sweep(run, region).await,
        "aws.ec2.subnet" => ec2::subnet::sweep(run, region).await,
        "aws.ec2.volume" => ec2::volume::sweep(run, region).await,
        "aws.ec2.vpc" => ec2::vpc::sweep(run, region).await,
        "aws.region" => ec2::region::sweep(run, region).await,
        "aws.s3.access-point" => s3::access_point::sweep(run, region).await,
        other => without_collector(run, other, region).await,
    }
}

/// Says of a type that is declared and has no collector that nothing is known of it.
async fn without_collector(run: &Run<'_>, name: &str, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin(name, region).await?;
    let fault = run.note(sweep.not_collected());
    sweep.close(Err(Broken::List(fault))).await
}

/// Returns the declared types of AWS.
fn types() -> impl Iterator<Item = &'static ResourceType> {
    let all = Declarations::builtin().iter();
    all.filter(|declared| declared.provider() == "aws")
}

/// Returns every call that a sync makes on resources, with the permission it needs.
pub fn permissions() -> BTreeMap<String, String> {
    types().flat_map(ResourceType::calls).collect()
}

/// Returns the calls without any of which no resource of a type is known.
///
/// Keys are looked for user by user, so that they need the list of users as well; the account has
/// one document, which is there whatever is refused.
pub fn listed_by(declared: &ResourceType) -> Vec<&str> {
    match declared.name.as_str() {
        "aws.account" => Vec::new(),
        "aws.iam.access-key" => vec![&declared.call, "iam:GetAccountAuthorizationDetails"],
        _ => vec![&declared.call],
    }
}

#[async_trait]
impl Inventory for Aws {
    fn types(&self) -> Vec<String> {
        types().map(|declared| declared.name.clone()).collect()
    }

    async fn sync(&self, out: &Output, stop: &CancellationToken) -> Result<Summary, CollectError> {
        let started = Instant::now();
        let calls_before = self.clients.calls.load(Ordering::Relaxed);
        let Some(run) = stop.run_until_cancelled(self.run(out)).await else {
            return Ok(Summary::default());
        };
        let run = run?;
        // Dropped in the middle when the agent stops: open scopes stay open.
        if let Some(swept) = stop.run_until_cancelled(self.sweep_all(&run)).await {
            swept?;
        }
        let (documents, scopes_ended, faults) = run.counted();
        Ok(Summary {
            calls: self.clients.calls.load(Ordering::Relaxed) - calls_before,
            documents,
            scopes_ended,
            faults,
            took: started.elapsed(),
        })
    }

    async fn probe(&self) -> Result<Vec<Probe>, CollectError> {
        // Probes send no facts; the channel is only there because a run has one.
        let (out, _facts) = Output::channel(1);
        let run = self.run(&out).await?;
        Ok(probe::all(&run).await)
    }
}
