//! The certificates from before the last renewals: `identity/earlier.pem`, newest first.
//!
//! A hub that was restored from a backup knows none of the certificates that it issued since. It
//! still knows the one that it had in force then, and lets the agent renew with that.

use std::path::PathBuf;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Identity, IdentityError, names_of, pems, renewable_until};
use crate::layout::{self, Layout, LayoutError};

/// Chains that are kept. A certificate of 30 days that is renewed at half of its life may be
/// renewed for 60, in which four more are issued.
const KEPT: usize = 4;

/// A certificate with those above it, leaf first.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

fn path(layout: &Layout) -> PathBuf {
    layout.identity().join("earlier.pem")
}

/// Says whether a hub would still renew it, by this host's clock.
fn is_of_use(chain: &Chain, now: Timestamp) -> bool {
    let names = chain.first().and_then(|leaf| names_of(leaf).ok());
    names.is_some_and(|names| renewable_until(names.valid) >= now)
}

/// Reads the chains that are kept. A file that is damaged costs nothing but them.
///
/// # Errors
///
/// When others than its owner may read it, or it cannot be read.
pub(super) fn load(layout: &Layout, now: Timestamp) -> Result<Vec<Chain>, IdentityError> {
    let text = match layout::read_private(&path(layout)) {
        Err(LayoutError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        text => text?,
    };
    let mut chains: Vec<Chain> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text).map_while(Result::ok) {
        // Only a leaf names an agent.
        let is_leaf = names_of(&certificate).is_ok();
        match chains.last_mut() {
            Some(chain) if !is_leaf => chain.push(certificate),
            Some(_) | None if is_leaf => chains.push(vec![certificate]),
            Some(_) | None => {}
        }
    }
    chains.retain(|chain| is_of_use(chain, now));
    chains.truncate(KEPT);
    Ok(chains)
}

/// Adds the chain that an identity shows to those that are kept, durably; those that no hub would
/// renew any more go.
///
/// # Errors
///
/// When they cannot be written.
pub(super) fn keep(
    layout: &Layout,
    identity: &Identity,
    now: Timestamp,
) -> Result<Vec<Chain>, IdentityError> {
    let known = identity.earlier.iter().cloned();
    let mut chains = vec![identity.chain.clone()];
    chains.extend(known.filter(|chain| chain.first() != identity.chain.first()));
    chains.retain(|chain| is_of_use(chain, now));
    chains.truncate(KEPT);
    let text: String = chains.iter().map(|chain| pems(chain)).collect();
    layout::write_private(&path(layout), text.as_bytes())?;
    Ok(chains)
}
