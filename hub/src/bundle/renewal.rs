//! The next certificate of an agent that is never connected: a bundle asks for it, and a reply
//! carries it.
//!
//! It is made when the reply is written, not when the bundle is taken: behind a one-way diode there
//! is no reply, and the list of agents would name a certificate that nobody has. Every further
//! reply carries the same one, until a bundle is signed with it: the agent may get any of them.

use jiff::Timestamp;
use store::OrgStore;
use store::rows::access::Agent;
use store::rows::carried::{AskedRenewal, Carried};

use super::Importer;
use crate::ca::spiffe::read_peer;
use crate::ca::{is_due, validity_of};
use crate::renew::{Renewal, renew};

impl Importer {
    /// Sees to it that `carried` has the chain that the next reply is to carry, if one is due.
    ///
    /// # Errors
    ///
    /// Why there is none, in words for the agent's operator.
    pub(super) async fn renew(
        &self,
        store: &OrgStore,
        row: &Agent,
        carried: &mut Carried,
        now: Timestamp,
    ) -> Result<(), String> {
        let domain = self.authority.trust_domain();
        // In force, by the authority that signs now, and with half of its life left.
        let is_good = |leaf: &Vec<u8>| {
            let serial = read_peer(leaf, domain).map(|peer| peer.identity.serial);
            let mut known = row.certificates.iter();
            let listed = serial
                .ok()
                .and_then(|serial| known.find(|own| own.serial == serial));
            let has_time = validity_of(leaf).is_some_and(|validity| !is_due(validity, now));
            listed.is_some_and(|own| own.root == self.authority.pin()) && has_time
        };
        if carried.issued.first().is_some_and(is_good) {
            return Ok(());
        }
        let Some(AskedRenewal {
            csr,
            shown,
            is_set_back,
        }) = &carried.renewal
        else {
            return Ok(());
        };
        if is_good(shown) && !is_set_back {
            return Ok(());
        }
        let peer = read_peer(shown, domain).map_err(|error| error.to_string())?;
        let renewal = Renewal {
            appliance: &self.appliance,
            authority: &self.authority,
            store,
            peer: &peer,
        };
        carried.issued = renew(renewal, csr, now).await?;
        Ok(())
    }
}
