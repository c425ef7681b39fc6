//! The certificates from before the last renewals: `identity/earlier.pem`, newest first.
//!
//! A hub that was restored from a backup knows none of the certificates that it issued since. It
//! still knows the one that it had in force then, and lets the agent renew with that.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Identity, IdentityError, names_of, pems};
use crate::layout::{self, Layout, LayoutError};

/// Chains that are kept. A certificate of 30 days that is renewed at half of its life may be
/// renewed for 60, in which four more are issued.
const KEPT: usize = 4;

/// A certificate with those above it, leaf first.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

fn path(layout: &Layout) -> PathBuf {
    layout.identity().join("earlier.pem")
}

/// Reads the chains that are kept. A file that is damaged costs nothing but them.
///
/// # Errors
///
/// When others than its owner may read it, or it cannot be read.
pub(super) fn load(layout: &Layout) -> Result<Vec<Chain>, IdentityError> {
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
    chains.truncate(KEPT);
    Ok(chains)
}

/// Adds the chain that an identity shows to those that are kept, durably. The oldest goes, and no
/// other: whether a hub would still renew it is not for this host's clock to say.
///
/// # Errors
///
/// When they cannot be written.
pub(super) fn keep(layout: &Layout, identity: &Identity) -> Result<Vec<Chain>, IdentityError> {
    let known = identity.earlier.iter().cloned();
    let mut chains = vec![identity.chain.clone()];
    chains.extend(known.filter(|chain| chain.first() != identity.chain.first()));
    chains.truncate(KEPT);
    let text: String = chains.iter().map(|chain| pems(chain)).collect();
    layout::write_private(&path(layout), text.as_bytes())?;
    Ok(chains)
}
