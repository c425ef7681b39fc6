//! The SDK's clients, made when first needed and dropped with the sync, and the budgets, which
//! outlive it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::{Region, SdkConfig};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use collect::Budget;

use crate::transport::Metered;

/// Attempts of one call, the first included.
const ATTEMPTS: u32 = 5;

/// First pause between two attempts; doubles, with jitter, up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Calls per second, at once, and in flight.
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
    in_flight: usize,
}

/// A service with a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Account,
    Ec2,
    Iam,
    S3,
    S3Control,
    Sts,
}

impl Service {
    /// At most half of what AWS documents, so that the account's own programs keep the other half;
    /// a cautious guess of ours where no document was found.
    fn rate(self) -> Rate {
        let (per_second, burst, in_flight) = match self {
            // Source: AWS Account Management Reference, "Quotas", read 2026-11: GetAlternateContact
            // 10 a second and 15 at once, in China 3 and 5.
            Self::Account => (1, 5, 1),
            // Source: Amazon EC2 Developer Guide, "Request throttling", read 2026-11: non-mutating
            // actions have a bucket of 100 tokens each, refilled with 20 a second, per account and
            // region. All of ours together stay within half of one.
            Self::Ec2 => (10, 50, 10),
            // A guess: AWS gives no number.
            Self::Iam => (10, 50, 8),
            // A guess: AWS gives a number for reads of objects alone.
            Self::S3 => (100, 300, 32),
            // A guess, as is the next.
            Self::S3Control => (10, 20, 8),
            Self::Sts => (5, 10, 2),
        };
        Rate {
            per_second,
            burst,
            in_flight,
        }
    }
}

/// Budgets per service and region, shared by all syncs of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budgets {
    known: Arc<Mutex<BTreeMap<(Service, String), Budget>>>,
}

impl Budgets {
    pub(crate) fn of(&self, service: Service, region: &str) -> Budget {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = known
            .entry((service, region.to_owned()))
            .or_insert_with(|| {
                let rate = service.rate();
                let positive = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
                let (per_second, burst) = (positive(rate.per_second), positive(rate.burst));
                Budget::new(per_second, burst, rate.in_flight)
            });
        budget.clone()
    }
}

/// What all clients are made of.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    pub(crate) config: SdkConfig,
    http: SharedHttpClient,
    budgets: Budgets,
    /// Attempts made so far.
    pub(crate) calls: Arc<AtomicU64>,
    /// Whether S3 is behind an endpoint of the operator's, where bucket names are no host names.
    path_style: bool,
    s3: Arc<Mutex<BTreeMap<String, aws_sdk_s3::Client>>>,
    ec2: Arc<Mutex<BTreeMap<String, aws_sdk_ec2::Client>>>,
}

impl Clients {
    /// Prepares clients for one source.
    pub(crate) fn new(config: SdkConfig, http: SharedHttpClient, path_style: bool) -> Self {
        Self {
            config,
            http,
            budgets: Budgets::default(),
            calls: Arc::new(AtomicU64::new(0)),
            path_style,
            s3: Arc::default(),
            ec2: Arc::default(),
        }
    }

    /// Returns the same without any client made yet.
    pub(crate) fn fresh(&self) -> Self {
        Self {
            s3: Arc::default(),
            ec2: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns the region of calls that have none of their own.
    pub(crate) fn home(&self) -> &str {
        self.config.region().map_or("us-east-1", Region::as_ref)
    }

    /// Returns the HTTP client of a service in a region.
    pub(crate) fn metered(&self, service: Service, region: &str) -> Metered {
        let budget = self.budgets.of(service, region);
        Metered::new(self.http.clone(), budget, Arc::clone(&self.calls))
    }

    fn config(&self, service: Service, region: &str) -> SdkConfig {
        let retry = RetryConfig::standard()
            .with_max_attempts(ATTEMPTS)
            .with_initial_backoff(BACKOFF_MIN)
            .with_max_backoff(BACKOFF_MAX);
        self.config
            .to_builder()
            .region(Region::new(region.to_owned()))
            .http_client(self.metered(service, region))
            .retry_config(retry)
            .build()
    }

    pub(crate) fn sts(&self) -> aws_sdk_sts::Client {
        aws_sdk_sts::Client::new(&self.config(Service::Sts, self.home()))
    }

    pub(crate) fn iam(&self) -> aws_sdk_iam::Client {
        aws_sdk_iam::Client::new(&self.config(Service::Iam, self.home()))
    }

    pub(crate) fn ec2(&self, region: &str) -> aws_sdk_ec2::Client {
        let mut made = self.ec2.lock().unwrap_or_else(PoisonError::into_inner);
        let client = made
            .entry(region.to_owned())
            .or_insert_with(|| aws_sdk_ec2::Client::new(&self.config(Service::Ec2, region)));
        client.clone()
    }

    pub(crate) fn s3(&self, region: &str) -> aws_sdk_s3::Client {
        let mut made = self.s3.lock().unwrap_or_else(PoisonError::into_inner);
        let client = made.entry(region.to_owned()).or_insert_with(|| {
            let config = aws_sdk_s3::config::Builder::from(&self.config(Service::S3, region))
                .force_path_style(self.path_style)
                .build();
            aws_sdk_s3::Client::from_conf(config)
        });
        client.clone()
    }

    /// Returns the client of S3 Control. It writes the account number in front of the host, which
    /// an endpoint that is an address or `localhost` does not have.
    pub(crate) fn s3control(&self, region: &str, account: &str) -> aws_sdk_s3control::Client {
        let mut metered = self.metered(Service::S3Control, region);
        if self.config.endpoint_url().is_some_and(is_bare_host) {
            metered = metered.without_host_prefix(format!("{account}."));
        }
        let config = self.config(Service::S3Control, region);
        let config = config.to_builder().http_client(metered).build();
        aws_sdk_s3control::Client::new(&config)
    }
}

/// Whether an endpoint's host is an address or `localhost`, so that nothing can stand before it.
fn is_bare_host(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<http::Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
}
