//! The certificate that is being made for a session's agent, beside what else is under way.

use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use store::OrgStore;

use crate::ca::spiffe;
use crate::ingest::Hub;
use crate::renew::{Renewal, renew};

/// Ends with the chain, leaf first, or with words for the agent's operator.
pub(super) type Renewing = Pin<Box<dyn Future<Output = Result<Vec<Vec<u8>>, String>> + Send>>;

/// Begins to make a certificate.
pub(super) fn begin(hub: Arc<Hub>, store: OrgStore, peer: spiffe::Peer, csr: Vec<u8>) -> Renewing {
    Box::pin(async move {
        let renewal = Renewal {
            appliance: &hub.appliance,
            authority: &hub.authority,
            store: &store,
            peer: &peer,
        };
        renew(renewal, &csr, Timestamp::now()).await
    })
}

/// Waits for the certificate that is being made; for ever when none is.
///
/// # Cancel safety
///
/// Nothing is taken unless it is returned.
pub(super) async fn next_certificate(
    renewing: &mut Option<Renewing>,
) -> Result<Vec<Vec<u8>>, String> {
    match renewing {
        Some(renewed) => {
            let renewed = renewed.await;
            *renewing = None;
            renewed
        }
        None => std::future::pending().await,
    }
}
