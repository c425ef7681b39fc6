//! From a source's settings to its collector, with the secret out of the vault where it has one.
//!
//! A collector is made for one sync and dropped after it: nothing keeps a secret or a client's
//! memory while a source waits for its time.

use std::sync::Arc;

use collect::{CollectError, Detector, Inventory, Tail};
use secrecy::{ExposeSecret, SecretSlice, SecretString};

use crate::layout::Layout;
use crate::sources::{AwsKeys, Reads, SecretError, Source, SourcesError};
use crate::sync::SyncError;
use crate::vault::{self, Vault};

/// A collector, ready to read.
pub(crate) enum Connected {
    /// Read in sweeps.
    Inventory(Box<dyn Inventory>),
    /// Followed.
    Tail(Box<dyn Tail>),
}

/// Makes collectors.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    layout: Layout,
    vault: vault::Config,
}

impl Connector {
    pub(crate) fn new(layout: Layout, vault: vault::Config) -> Self {
        Self { layout, vault }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes the collector of a source; clouds are asked whose credentials these are.
    ///
    /// # Errors
    ///
    /// When settings, secret or credentials cannot be used, or the provider cannot be reached.
    pub(crate) async fn connect(&self, source: &Source) -> Result<Connected, SyncError> {
        let settings = source.parsed()?;
        let vault = Vault::open(&self.layout, &self.vault)?;
        let secret = if source.sealed_secret {
            Some(vault.get(source.id)?)
        } else {
            None
        };
        let detector = Arc::new(Detector::new(vault.fingerprint_key()));
        let inventory: Box<dyn Inventory> = match settings.reads {
            Reads::Aws {
                regions,
                profile,
                role_arn,
                external_id,
                endpoint,
            } => {
                let keys = secret.map(|secret| AwsKeys::from_vault(secret.expose_secret()));
                let keys = keys.transpose().map_err(|error| unfit(source, error))?;
                let settings = aws::Settings {
                    regions: Some(regions).filter(|regions| !regions.is_empty()),
                    profile,
                    role_arn,
                    external_id,
                    endpoint,
                    static_credentials: keys.map(|keys| aws::StaticCredentials {
                        access_key_id: keys.access_key_id.clone(),
                        secret_access_key: keys.secret(),
                        session_token: keys.session_token.as_deref().map(SecretString::from),
                    }),
                };
                Box::new(aws::Aws::connect(settings, detector).await?)
            }
            Reads::Gcp {
                parent,
                regions,
                endpoint,
            } => {
                let settings = gcp::Settings {
                    parent,
                    regions,
                    endpoint,
                };
                let credentials = match secret {
                    None => gcp::Credentials::Ambient,
                    Some(secret) => gcp::Credentials::Key(text(source, &secret)?),
                };
                Box::new(gcp::Gcp::connect(settings, credentials).await?)
            }
            Reads::Azure {
                tenant,
                client_id,
                subscriptions,
                resource_groups,
                endpoint,
            } => {
                let settings = azure::Settings {
                    tenant,
                    client_id,
                    subscriptions,
                    resource_groups,
                    endpoint,
                };
                let secret = secret.as_ref().map(|secret| text(source, secret));
                Box::new(azure::Azure::connect(settings, secret.transpose()?).await?)
            }
            Reads::Host => Box::new(crate::collect::host::Host::new()),
            Reads::Wazuh { path } => {
                let tail = crate::collect::wazuh::Wazuh::new(path);
                return Ok(Connected::Tail(Box::new(tail)));
            }
        };
        Ok(Connected::Inventory(inventory))
    }
}

fn unfit(source: &Source, error: SecretError) -> SourcesError {
    SourcesError::Secret {
        name: source.name.clone(),
        source: error,
    }
}

fn text(source: &Source, secret: &SecretSlice<u8>) -> Result<SecretString, CollectError> {
    match std::str::from_utf8(secret.expose_secret()) {
        Ok(text) => Ok(SecretString::from(text)),
        Err(_) => Err(CollectError::Credentials {
            reason: format!("the secret of {} is not text", source.name),
        }),
    }
}
