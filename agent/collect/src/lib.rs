//! The collector's seam: scopes, documents kept and gapped by their type, budgets, secret detectors.
