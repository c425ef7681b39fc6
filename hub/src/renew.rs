//! Renewal: an agent's certificate buys the next one, over the session that it opened.
//!
//! ```text
//! Renew{request} → by the session's own key? → certificate → positive list → audit → Renewed{chain}
//! ```
//! The certificate that the agent shows stays in force until the new one was seen, so whichever of
//! the two an agent has after a crash lets it in.

use std::error::Error;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use store::error::ApplianceError;
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::{Appliance, OrgStore};
use tracing::{error, info, warn};

use crate::ca::spiffe::Peer;
use crate::ca::{Authority, CaError};

/// What a renewal needs of the hub.
pub(crate) struct Renewal<'a> {
    pub(crate) appliance: &'a Appliance,
    pub(crate) authority: &'a Authority,
    /// The store of the agent's organisation.
    pub(crate) store: &'a OrgStore,
    /// Who asks, by the certificate that it shows.
    pub(crate) peer: &'a Peer,
}

/// Makes a certificate for an agent's own key and puts it on the positive list; returns its chain,
/// leaf first.
///
/// # Errors
///
/// Why there is none, in words for the agent's operator.
pub(crate) async fn renew(
    renewal: Renewal<'_>,
    request: &[u8],
    now: Timestamp,
) -> Result<Vec<Vec<u8>>, String> {
    let Renewal {
        appliance,
        authority,
        store,
        peer,
    } = renewal;
    let (org, agent) = (peer.identity.org, peer.identity.agent);
    let made = authority.renew_agent_leaf(request, &peer.public_key, org, agent, now);
    let leaf = made.map_err(|error| {
        if matches!(error, CaError::Request { .. }) {
            warn!(%agent, %error, "no certificate was renewed");
            return error.to_string();
        }
        error!(%agent, error = &error as &dyn Error, "no certificate could be made");
        "the hub cannot make a certificate at the moment".to_owned()
    })?;
    let cannot_store = "the hub cannot store the new certificate at the moment";
    let listed = appliance.renew_agent(&peer.identity, leaf.certificate.clone());
    listed.await.map_err(|error| {
        if let ApplianceError::Conflict { .. } | ApplianceError::Missing { .. } = &error {
            warn!(%agent, "no certificate was renewed: the agent may not speak");
            return "this agent may not renew its certificate at the moment".to_owned();
        }
        error!(%agent, error = &error as &dyn Error, "a renewed certificate could not be stored");
        cannot_store.to_owned()
    })?;
    let until = leaf.certificate.not_after;
    let mut write = store.write();
    write.audit(AuditAct {
        at: now,
        actor: Actor::Agent(agent),
        action: "agent.renew".to_owned(),
        object: agent.to_string(),
        detail: format!(
            "certificate {} until {until}",
            HEXLOWER.encode(&leaf.certificate.serial)
        ),
    });
    // Nobody has the certificate yet: what is on the list without an entry here is worth nothing.
    write.commit().await.map_err(|error| {
        error!(%agent, error = &error as &dyn Error, "a renewal could not be audited");
        cannot_store.to_owned()
    })?;
    info!(%org, %agent, %until, "certificate renewed");
    Ok(leaf.chain.iter().map(|der| der.to_vec()).collect())
}
