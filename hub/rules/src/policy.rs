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

mod condition;
mod document;
mod escalation;
mod pattern;
mod power;
mod reach;

use std::borrow::Cow;

use serde_json::Value;

use self::document::Policy;

/// Says why a document is not a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// What can be asked of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Public,
    CrossAccount,
    Allows,
    AllowsAny,
    Admin,
    Escalates,
    RequiresTls,
    ConfusedDeputy,
    TrustsService,
    TrustsFederation,
}

/// Each question with its name, its use, and how many arguments follow the policy.
const QUESTIONS: [(Question, &str, &str, usize, usize); 10] = [
    (
        Question::Public,
        "policy_public",
        "policy_public(policy, 'action', …)",
        0,
        ARGUMENTS,
    ),
    (
        Question::CrossAccount,
        "policy_cross_account",
        "policy_cross_account(policy, account_id, 'action', …)",
        1,
        ARGUMENTS,
    ),
    (
        Question::Allows,
        "policy_allows",
        "policy_allows(policy, 'action', 'resource')",
        2,
        2,
    ),
    (
        Question::AllowsAny,
        "policy_allows_any",
        "policy_allows_any(policy, 'action', …)",
        1,
        ARGUMENTS,
    ),
    (
        Question::Admin,
        "policy_admin",
        "policy_admin(policy)",
        0,
        0,
    ),
    (
        Question::Escalates,
        "policy_escalates",
        "policy_escalates(policy)",
        0,
        0,
    ),
    (
        Question::RequiresTls,
        "policy_requires_tls",
        "policy_requires_tls(policy)",
        0,
        0,
    ),
    (
        Question::ConfusedDeputy,
        "policy_confused_deputy",
        "policy_confused_deputy(policy)",
        0,
        0,
    ),
    (
        Question::TrustsService,
        "policy_trusts_service",
        "policy_trusts_service(policy, 'service')",
        1,
        1,
    ),
    (
        Question::TrustsFederation,
        "policy_trusts_federation",
        "policy_trusts_federation(policy)",
        0,
        0,
    ),
];
/// Arguments at most.
const ARGUMENTS: usize = 64;

impl Question {
    pub(crate) fn named(name: &str) -> Option<Self> {
        QUESTIONS.iter().find(|q| q.1 == name).map(|q| q.0)
    }

    pub(crate) fn names() -> impl Iterator<Item = &'static str> + Clone {
        QUESTIONS.iter().map(|q| q.1)
    }

    /// Returns how it is written.
    pub(crate) fn usage(self) -> &'static str {
        QUESTIONS.iter().find(|q| q.0 == self).map_or("", |q| q.2)
    }

    /// Whether so many arguments may follow the policy.
    pub(crate) fn takes(self, arguments: usize) -> bool {
        let found = QUESTIONS.iter().find(|q| q.0 == self);
        found.is_some_and(|q| (q.3..=q.4).contains(&arguments))
    }
}

/// Asks a policy document.
///
/// # Errors
///
/// If it is not a policy: then nothing is known about it.
pub(crate) fn ask(
    question: Question,
    document: &Value,
    arguments: &[Cow<'_, str>],
) -> Result<bool, Malformed> {
    let policy = Policy::parse(document)?;
    let lower = |from: usize| -> Vec<String> {
        let rest = arguments.iter().skip(from);
        rest.map(|action| action.to_lowercase()).collect()
    };
    let argument = |at: usize| arguments.get(at).map_or("", |text| text.as_ref());
    Ok(match question {
        Question::Public => reach::is_public(&policy, &lower(0)),
        Question::CrossAccount => reach::is_cross_account(&policy, argument(0), &lower(1)),
        Question::Allows => power::allows(&policy, &argument(0).to_lowercase(), argument(1)),
        Question::AllowsAny => power::allows_any(&policy, &lower(0)),
        Question::Admin => power::is_admin(&policy),
        Question::Escalates => escalation::escalates(&policy),
        Question::RequiresTls => reach::requires_tls(&policy),
        Question::ConfusedDeputy => reach::confuses_deputy(&policy),
        Question::TrustsService => reach::trusts_service(&policy, argument(0)),
        Question::TrustsFederation => reach::trusts_federation(&policy),
    })
}
