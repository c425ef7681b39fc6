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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Asks a policy of some statements, each without its usual parts.
    fn asked(name: &str, arguments: &[&str], statements: Value) -> bool {
        let usual = json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                           "Resource": "arn:aws:s3:::b/*"});
        let statements = statements.as_array().unwrap().iter().map(|given| {
            let mut statement = usual.as_object().unwrap().clone();
            statement.extend(given.as_object().unwrap().clone());
            statement.retain(|_, value| !value.is_null());
            Value::Object(statement)
        });
        let policy = json!({"Version": "2012-10-17", "Statement": statements.collect::<Vec<_>>()});
        let arguments: Vec<Cow<'_, str>> = arguments.iter().map(|a| (*a).into()).collect();
        ask(Question::named(name).unwrap(), &policy, &arguments).unwrap()
    }

    fn is_public(statements: Value) -> bool {
        asked("policy_public", &[], statements)
    }

    #[test]
    fn a_condition_narrows_only_if_no_stranger_can_meet_it() {
        let with = |condition: Value| is_public(json!([{"Condition": condition}]));
        assert!(is_public(json!([{}])));
        for closed in [
            json!({"StringEquals": {"aws:PrincipalOrgID": "o-1"}}),
            json!({"StringLike": {"AWS:SourceVpce": ["vpce-1", "vpce-2"]}}),
            json!({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}),
            json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
            json!({"ArnLike": {"aws:SourceArn": "arn:aws:sns:us-east-1:123456789012:*"}}),
            json!({"ForAnyValue:StringEquals": {"aws:PrincipalOrgPaths": "o-1/r-1/"}}),
            json!({"Bool": {"aws:PrincipalIsAWSService": "true"}}),
            json!({"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-1/r-1/*"}}),
            json!({"StringLike": {"aws:userid": "AROAEXAMPLE:*"}}),
        ] {
            assert!(!with(closed.clone()), "{closed}");
        }
        for open in [
            json!({"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}}),
            json!({"ForAllValues:StringEquals": {"aws:PrincipalOrgID": "o-1"}}),
            json!({"StringEquals": {"aws:PrincipalOrgID": []}}),
            json!({"StringLike": {"aws:PrincipalOrgID": "*"}}),
            json!({"StringLike": {"aws:PrincipalOrgID": "o-*"}}),
            json!({"StringLike": {"aws:SourceVpce": ["vpce-1", "vpce-?*"]}}),
            json!({"StringLike": {"aws:PrincipalAccount": "1*"}}),
            json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::1*:role/app"}}),
            json!({"ArnLike": {"aws:SourceArn": "arn:aws:s3:::logs-*"}}),
            json!({"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-*/r-1/*"}}),
            json!({"StringLike": {"aws:userid": "A*:app"}}),
            json!({"StringEquals": {"aws:userid": "${aws:userid}"}}),
            json!({"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}),
            json!({"IpAddress": {"aws:SourceIp": ["192.0.2.0/24", "0.0.0.0/1"]}}),
            json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/app"}}),
            json!({"StringEquals": {"sts:ExternalId": "word"}}),
            json!({"Bool": {"aws:SecureTransport": "true"}}),
            json!({"Bool": {"aws:PrincipalIsAWSService": "false"}}),
        ] {
            assert!(with(open.clone()), "{open}");
        }
    }

    #[test]
    fn a_denial_takes_away_only_what_it_covers_wholly() {
        let denied = |denial: Value| {
            let mut denial = denial;
            denial["Effect"] = "Deny".into();
            !is_public(json!([{}, denial]))
        };
        assert!(denied(json!({})));
        assert!(denied(json!({"Action": "s3:*", "Resource": "*"})));
        assert!(denied(
            json!({"Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}})
        ));
        assert!(denied(json!({"Principal": null,
                              "NotPrincipal": {"AWS": "arn:aws:iam::123456789012:root"}})));
        assert!(!denied(
            json!({"Condition": {"StringNotLike": {"aws:PrincipalOrgID": "o-*"}}})
        ));
        assert!(!denied(json!({"Action": "s3:PutObject"})));
        assert!(!denied(json!({"Resource": "arn:aws:s3:::b/private/*"})));
        assert!(!denied(json!({"Principal": {"AWS": "123456789012"}})));
        assert!(!denied(
            json!({"Condition": {"Bool": {"aws:SecureTransport": "false"}}})
        ));
        assert!(!denied(
            json!({"Condition": {"ForAnyValue:StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}})
        ));

        let holder = json!({"Principal": null, "Action": "iam:CreateAccessKey", "Resource": "*"});
        let but = |mut denial: Value| {
            denial["Effect"] = "Deny".into();
            denial["Principal"] = Value::Null;
            asked("policy_escalates", &[], json!([holder, denial]))
        };
        assert!(!but(json!({"Action": "iam:*", "Resource": "*"})));
        assert!(but(
            json!({"Action": "iam:*", "Resource": "arn:aws:iam::*:user/a"})
        ));
        assert!(but(json!({"Action": "iam:Delete*", "Resource": "*"})));
        let mfa = json!({"BoolIfExists": {"aws:MultiFactorAuthPresent": "false"}});
        assert!(but(
            json!({"Action": "*", "Resource": "*", "Condition": mfa})
        ));
    }

    #[test]
    fn an_outsider_is_who_is_of_another_account() {
        let outside = |principal: Value| {
            let statements = json!([{"Principal": principal}]);
            asked("policy_cross_account", &["123456789012"], statements)
        };
        assert!(!outside(json!({"AWS": "123456789012"})));
        assert!(!outside(
            json!({"AWS": "arn:aws:iam::123456789012:role/app"})
        ));
        assert!(!outside(json!({"Service": "s3.amazonaws.com"})));
        assert!(outside(json!({"AWS": ["123456789012", "210987654321"]})));
        assert!(outside(json!({"AWS": "arn:aws:iam::210987654321:root"})));
        assert!(outside(json!({"CanonicalUser": "79a59d"})));
        assert!(outside(json!("*")));
        let own =
            json!([{"Condition": {"StringEquals": {"aws:PrincipalAccount": "123456789012"}}}]);
        assert!(!asked("policy_cross_account", &["123456789012"], own));
        let other =
            json!([{"Condition": {"StringEquals": {"aws:PrincipalAccount": "210987654321"}}}]);
        assert!(asked("policy_cross_account", &["123456789012"], other));
        let put = ["123456789012", "s3:PutObject"];
        assert!(!asked("policy_cross_account", &put, json!([{}])));
    }

    #[test]
    fn what_is_no_policy_answers_nothing() {
        for (document, reason) in [
            (json!([]), "not an object"),
            (json!({}), "Statement is missing"),
            (
                json!({"Statement": "a"}),
                "Statement is neither a list nor an object",
            ),
            (json!({"Statement": ["a"]}), "a statement is not an object"),
            (json!({"Statement": {"Action": "*"}}), "Effect is missing"),
            (
                json!({"Statement": {"Effect": "allow"}}),
                "Effect is neither Allow nor Deny",
            ),
            (
                json!({"Statement": {"Effect": "Allow"}}),
                "neither Action nor NotAction",
            ),
            (
                json!({"Statement": {"Effect": "Allow", "Action": 3}}),
                "neither text nor a list of texts",
            ),
            (
                json!({"Statement": {"Effect": "Allow", "Action": "*", "NotAction": "a"}}),
                "an element and its opposite",
            ),
            (
                json!({"Statement": {"Effect": "Allow", "Action": "*", "Principal": {"Aws": "*"}}}),
                "a principal of an unknown kind",
            ),
            (
                json!({"Statement": {"Effect": "Allow", "Action": "*", "Condition": []}}),
                "Condition is not an object",
            ),
        ] {
            let found = ask(Question::Public, &document, &[]).unwrap_err();
            assert_eq!(found.to_string(), reason, "{document}");
        }
    }
}
