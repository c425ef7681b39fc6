//! From settings to clients: which credentials, which region, which account.

use std::error::Error;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_types::service_config::ServiceConfigKey;
use collect::CollectError;
use secrecy::ExposeSecret as _;

use crate::clients::Clients;
use crate::fault::code_of;
use crate::settings::{Settings, StaticCredentials};
use crate::transport::{CONNECT, https};

/// Longest time for the whole search for credentials and region. The last place that is asked,
/// the instance metadata service, is an address that simply does not answer outside EC2.
const SEARCH: Duration = Duration::from_secs(30);

/// Longest time for credentials to be renewed in the middle of a sync.
const RENEWAL: Duration = Duration::from_secs(20);

/// Longest time until an answer begins.
const FIRST_BYTE: Duration = Duration::from_secs(45);

/// Region of calls that have none, where neither settings nor environment name one.
const FALLBACK_REGION: &str = "us-east-1";

/// Longest chain of causes that an error shows, in characters.
const CAUSE_CHARS: usize = 400;

/// Makes the clients of a source, with credentials that were found.
pub(crate) async fn clients(settings: &Settings) -> Result<Clients, CollectError> {
    let too_long = |_| CollectError::Credentials {
        reason: format!(
            "the search took longer than {} s; {}",
            SEARCH.as_secs(),
            tried(settings)
        ),
    };
    let config = tokio::time::timeout(SEARCH, configuration(settings));
    let config = config.await.map_err(too_long)?;
    let provider = config.credentials_provider();
    let provider = provider.ok_or_else(|| CollectError::Credentials {
        reason: tried(settings),
    })?;
    let found = tokio::time::timeout(SEARCH, provider.provide_credentials());
    if let Err(error) = found.await.map_err(too_long)? {
        return Err(CollectError::Credentials {
            reason: format!("{}; {}", causes(&error), tried(settings)),
        });
    }
    let path_style = config.endpoint_url().is_some() || has_own_endpoint(&config);
    Ok(Clients::new(config, https(), path_style))
}

async fn configuration(settings: &Settings) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(FIRST_BYTE)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(https())
        .timeout_config(timeouts)
        .identity_cache(IdentityCache::lazy().load_timeout(RENEWAL).build())
        // Every answer is read whole under one deadline, so a slow one is noticed there.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .app_name(AppName::new("zero-x-agent").expect("the name has only allowed characters"));
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(region) = settings
        .regions
        .as_ref()
        .and_then(|regions| regions.first())
    {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(credentials) = &settings.static_credentials {
        loader = loader.credentials_provider(from_vault(credentials));
    }
    let mut config = loader.load().await;
    if config.region().is_none() {
        let region = Region::from_static(FALLBACK_REGION);
        config = config.to_builder().region(region).build();
    }
    match &settings.role_arn {
        None => config,
        Some(role) => {
            let mut provider = AssumeRoleProvider::builder(role)
                .configure(&config)
                .session_name("zero-x-agent");
            if let Some(id) = &settings.external_id {
                provider = provider.external_id(id);
            }
            let provider = match config.credentials_provider() {
                Some(source) => provider.build_from_provider(source).await,
                None => provider.build().await,
            };
            let provider = SharedCredentialsProvider::new(provider);
            config.to_builder().credentials_provider(provider).build()
        }
    }
}

fn from_vault(credentials: &StaticCredentials) -> Credentials {
    let token = credentials.session_token.as_ref();
    Credentials::new(
        credentials.access_key_id.clone(),
        credentials.secret_access_key.expose_secret(),
        token.map(|token| token.expose_secret().to_owned()),
        None,
        "vault",
    )
}

/// Whether the environment or the profile gives S3 an endpoint of its own.
fn has_own_endpoint(config: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build();
    let service = config.service_config();
    match (key, service) {
        (Ok(key), Some(service)) => service.load_config(key).is_some(),
        _ => false,
    }
}

/// Returns where credentials were looked for, without any value.
fn tried(settings: &Settings) -> String {
    let set = |name: &str| match std::env::var_os(name) {
        Some(_) => format!("{name} is set"),
        None => format!("{name} is not set"),
    };
    if settings.static_credentials.is_some() {
        return "tried the credentials in the agent's vault".to_owned();
    }
    let profile = match &settings.profile {
        Some(profile) => format!("the profile {profile} (profile=)"),
        None => format!("the shared profile ({})", set("AWS_PROFILE")),
    };
    format!(
        "tried the environment ({}), {profile}, a web identity token ({}), the container's \
         credentials ({}, {}), and the instance's role ({}); give the host a role, or the source \
         a profile or keys of its own",
        set("AWS_ACCESS_KEY_ID"),
        set("AWS_WEB_IDENTITY_TOKEN_FILE"),
        set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        set("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        set("AWS_EC2_METADATA_DISABLED"),
    )
}

/// Returns the chain of an error's causes, each once and not without end.
fn causes(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(level) = cause {
        let text = level.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = level.source();
    }
    said.chars().take(CAUSE_CHARS).collect()
}

/// Asks AWS whose credentials these are; returns account number and partition.
pub(crate) async fn identity(clients: &Clients) -> Result<(String, String), CollectError> {
    const CALL: &str = "sts:GetCallerIdentity";
    let answer = clients.sts().get_caller_identity().send().await;
    let answer = answer.map_err(|error| {
        let code = code_of(&error);
        // A call that needs no permission is refused only for what it is signed with.
        if error.as_service_error().is_some() && !code.starts_with("http status 5") {
            return CollectError::Credentials {
                reason: format!("{CALL} answered {code} in {}", clients.home()),
            };
        }
        CollectError::Unreachable {
            endpoint: match clients.config.endpoint_url() {
                Some(endpoint) => endpoint.to_owned(),
                None => format!("AWS STS in {}", clients.home()),
            },
            reason: causes(&error),
        }
    })?;
    let partition = answer.arn().and_then(|arn| arn.split(':').nth(1));
    match (answer.account(), partition) {
        (Some(account), Some(partition)) if !account.is_empty() && !partition.is_empty() => {
            Ok((account.to_owned(), partition.to_owned()))
        }
        _ => Err(CollectError::Credentials {
            reason: format!("{CALL} named no account"),
        }),
    }
}
