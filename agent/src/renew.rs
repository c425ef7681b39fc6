//! This agent's identity while the link runs: renewals and a new authority of the hub change it.
//!
//! The session's state machine decides when to ask; this holds what is asked with and stores what
//! comes. The next connection shows it.

use std::sync::Arc;

use jiff::Timestamp;
use protocol::session::agent::Certificate;
use rustls_pki_types::CertificateDer;

use crate::expiry::Valid;
use crate::identity::{Identity, IdentityError};
use crate::layout::Layout;
use crate::link::tls;

/// The identity in use, with the place where it is stored.
#[derive(Debug)]
pub(crate) struct Keeper {
    layout: Layout,
    identity: Identity,
    request: Vec<u8>,
    /// How many certificates were found unknown to the hub, from the newest on.
    passed_over: usize,
}

fn ders(bytes: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    bytes.into_iter().map(CertificateDer::from).collect()
}

impl Keeper {
    /// Takes an identity in hand.
    ///
    /// # Errors
    ///
    /// When its key cannot sign.
    pub(crate) fn new(layout: Layout, identity: Identity) -> Result<Self, rcgen::Error> {
        let request = identity.request()?;
        Ok(Self {
            layout,
            identity,
            request,
            passed_over: 0,
        })
    }

    /// Returns the TLS settings of the next connection.
    ///
    /// # Errors
    ///
    /// When certificate and key do not fit each other.
    pub(crate) fn tls(&self) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        let older = self.passed_over.checked_sub(1);
        match older.and_then(|index| self.identity.earlier.get(index)) {
            Some(chain) => tls::for_session_as(&self.identity, chain),
            None => tls::for_session(&self.identity),
        }
    }

    /// Shows the certificate from before the one that was shown, which the hub does not know.
    pub(crate) fn show_older(&mut self) {
        self.passed_over += 1;
    }

    /// Says whether connections show another certificate than the newest.
    pub(crate) fn shows_older(&self) -> bool {
        self.passed_over > 0
    }

    /// Begins with the newest certificate again, and returns what a session renews.
    pub(crate) fn certificate(&mut self) -> Certificate {
        self.passed_over = 0;
        self.renewable()
    }

    /// Returns what a session renews.
    pub(crate) fn renewable(&self) -> Certificate {
        let (from, until) = self.identity.valid;
        Certificate {
            older: self.identity.earlier.len(),
            csr: self.request.clone(),
            from_ms: from.as_millisecond(),
            until_ms: until.as_millisecond(),
        }
    }

    /// Returns when the certificate ends.
    pub(crate) fn ends_at(&self) -> Timestamp {
        self.identity.valid.1
    }

    /// Returns when the certificates in use are valid.
    pub(crate) fn valid(&self) -> Valid {
        Valid::of(&self.identity)
    }

    /// Returns whether the certificate can no longer be renewed, by this host's clock.
    pub(crate) fn is_past_renewal(&self, now: Timestamp) -> bool {
        self.identity.renewable_until() < now
    }

    /// Stores a renewed chain, leaf first: durable on return. It is a few KB every other week, so
    /// it is written where it is received.
    ///
    /// # Errors
    ///
    /// When it does not fit or cannot be written; the old certificate stays.
    pub(crate) fn renew(&mut self, chain: Vec<Vec<u8>>) -> Result<(), IdentityError> {
        self.identity.renew(&self.layout, ders(chain))?;
        self.passed_over = 0;
        Ok(())
    }

    /// Stores the hub's roots, if they are others; says whether they are. Durable on return.
    ///
    /// # Errors
    ///
    /// When they cannot be used or written; the old ones stay.
    pub(crate) fn trust(&mut self, roots: Vec<Vec<u8>>) -> Result<bool, IdentityError> {
        self.identity.trust(&self.layout, ders(roots))
    }
}
