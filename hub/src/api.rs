//! The HTTPS API: what the console and API clients talk to.
//!
//! `serve` calls [`serve`] with the listener, the TLS configuration and one [`State`].

use std::sync::Arc;

use protocol::enroll::Pin;
use store::{Appliance, Store};
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::password::Hasher;
use crate::serve::RulesInForce;

use access::AccessKeys;
use throttle::Throttle;

pub(crate) mod access;
pub(crate) mod throttle;

/// What every request may need.
pub(crate) struct State {
    /// The whole store; a request gets at data only through an admission of [`State::appliance`].
    pub(crate) store: Store,
    /// Users, sessions, admissions.
    pub(crate) appliance: Appliance,
    /// Open sessions and news.
    pub(crate) live: Arc<Live>,
    /// The checks in force.
    pub(crate) rules: Arc<RulesInForce>,
    /// Signs and checks access tokens.
    pub(crate) keys: AccessKeys,
    /// Slows guessing.
    pub(crate) throttle: Throttle,
    /// Hashes passwords, few at a time.
    pub(crate) hasher: Hasher,
    /// Pin of the root CA, for enrolment tokens.
    pub(crate) pin: Pin,
    /// Where agents reach this hub, `host:port`, for enrolment tokens.
    pub(crate) agent_hubs: Vec<String>,
    /// Ends streams when the hub stops.
    pub(crate) stop: CancellationToken,
}
