//! Until when this agent and its hub can show each other who they are.

use jiff::Timestamp;
use protocol::expiry::{Ending, Renewal};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::Identity;

/// When the certificates of an identity end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Valid {
    /// Beginning and end of the agent's own.
    pub(crate) own: (Timestamp, Timestamp),
    /// End of the last of the hub's roots.
    pub(crate) roots_end: Option<Timestamp>,
}

fn end_of(der: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

impl Valid {
    /// Reads it off an identity.
    pub(crate) fn of(identity: &Identity) -> Self {
        Self {
            own: identity.valid,
            roots_end: identity.roots.iter().filter_map(end_of).max(),
        }
    }

    /// Looks at the agent's own, which is renewed by itself.
    pub(crate) fn own_ending(&self, now: Timestamp) -> Option<Ending> {
        let (from, until) = self.own;
        Ending::of(from, until, Renewal::ByItself, now)
    }

    /// Looks at the hub's roots, which its operator replaces.
    pub(crate) fn roots_ending(&self, now: Timestamp) -> Option<Ending> {
        let until = self.roots_end?;
        Ending::of(Timestamp::MIN, until, Renewal::ByHand, now)
    }

    /// Says in clauses what ends soon.
    pub(crate) fn warnings(&self, now: Timestamp) -> Vec<String> {
        let own = self.own_ending(now).map(|ending| match ending.within_days {
            0 => format!("this agent's certificate {ending}"),
            _ => format!("this agent's certificate {ending}, and was not renewed"),
        });
        let roots = self.roots_ending(now);
        let roots = roots.map(|ending| format!("the hub's root certificate {ending}"));
        own.into_iter().chain(roots).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    #[test]
    fn what_ends_soon_is_said_at_each_threshold_and_by_whom_it_is_replaced() {
        let from: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let until = from + DAY * 30;
        let valid = Valid {
            own: (from, until),
            roots_end: Some(from + DAY * 100),
        };
        let said = |day: i32| valid.warnings(from + DAY * day).join("; ");
        assert_eq!(said(9), "");
        let root = "the hub's root certificate ends in";
        assert_eq!(said(10), format!("{root} 90 days, at 2026-06-09T10:00:00Z"));
        assert!(said(21).starts_with("this agent's certificate ends in 9 days, at 2026-03-31"));
        assert!(said(21).contains("and was not renewed; the hub's root"));
        assert!(said(25).starts_with("this agent's certificate ends in 5 days"));
        assert!(said(30).starts_with("this agent's certificate ended at 2026-03-31"));
        assert!(said(70).ends_with(&format!("{root} 30 days, at 2026-06-09T10:00:00Z")));
        let days = |day: i32| {
            valid
                .roots_ending(from + DAY * day)
                .map(|told| told.within_days)
        };
        assert_eq!(
            [9, 10, 70, 93, 100].map(days),
            [None, Some(90), Some(30), Some(7), Some(0)]
        );
    }
}
