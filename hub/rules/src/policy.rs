//! Policy documents of AWS: who may do what.
//!
//! Each function is a condition over a field of kind `policy`. A document that is not a policy
//! answers nothing: the condition is then unknown, never pass. A policy that is null makes the
//! condition false, which under `!` must be said (`r.Policy == null || !policy_public(r.Policy)`).
//!
//! | function | holds when |
//! |---|---|
//! | `policy_public(p, 's3:PutObject', …)` | anyone may do at least one of the actions (any action when none is given), and no condition narrows who |
//! | `policy_cross_account(p, account_id, 's3:GetObject', …)` | somebody outside the account may do at least one of the actions |
//! | `policy_allows(p, 'kms:*', '*')` | a statement allows all of this action on all of this resource |
//! | `policy_allows_any(p, 'kms:*', …)` | a statement allows at least part of one of the actions, on any resource |
//! | `policy_admin(p)` | a statement allows everything on everything |
//! | `policy_escalates(p)` | the statements let their holder gain more rights |
//! | `policy_requires_tls(p)` | every request without TLS is denied |
//! | `policy_confused_deputy(p)` | an AWS service is trusted without saying for whose resources |
//! | `policy_trusts_service(p, 'lambda.amazonaws.com')` | the service may act by it |
//! | `policy_trusts_federation(p)` | an identity provider's users may act by it |
//!
//! Actions match without regard to case, `*` and `?` are wildcards in actions, resources and
//! principals. A statement that denies takes away what it covers wholly and without condition.
//! Coverage is judged statement by statement: rights that only several statements together make
//! up are not added up, except for `policy_escalates`.
//!
//! Source: IAM User Guide, "IAM JSON policy elements reference" and "Policy evaluation logic";
//! Amazon S3 User Guide, "The meaning of public"; read 2026-11.

/// Says why a document is not a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a policy: {0}")]
pub struct Malformed(&'static str);
