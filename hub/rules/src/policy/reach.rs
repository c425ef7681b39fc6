//! Whom a policy lets in.

use super::document::{Policy, Principal, Principals, Statement};
use super::pattern;

/// Whether anyone may do at least one of `actions` (any action when there are none).
pub(super) fn is_public(policy: &Policy, actions: &[String]) -> bool {
    policy.allows().any(|statement| {
        statement.is_about_everyone()
            && concerns(statement, actions)
            && !statement.conditions.iter().any(|c| c.excludes_strangers())
            && !turned_away(policy, statement, actions)
    })
}

fn concerns(statement: &Statement, actions: &[String]) -> bool {
    actions.is_empty() || actions.iter().any(|a| statement.actions.touch(a))
}

/// Whether denials keep every stranger from what a statement allows of `actions`.
fn turned_away(policy: &Policy, allowed: &Statement, actions: &[String]) -> bool {
    policy.denies().any(|denial| {
        denial.is_about_everyone()
            && denial.conditions.iter().all(|c| c.holds_for_strangers())
            && denial.resources.contain(&allowed.resources)
            && covers_what(denial, allowed, actions)
    })
}

/// Whether a denial covers the actions that a statement allows, as far as they are asked for.
fn covers_what(denial: &Statement, allowed: &Statement, actions: &[String]) -> bool {
    if denial.actions.contain(&allowed.actions) {
        return true;
    }
    let mut asked = actions
        .iter()
        .filter(|a| allowed.actions.touch(a))
        .peekable();
    asked.peek().is_some() && asked.all(|action| denial.actions.cover(action))
}

/// Whether somebody outside `account` may do at least one of `actions`.
pub(super) fn is_cross_account(policy: &Policy, account: &str, actions: &[String]) -> bool {
    policy.allows().any(|statement| {
        let outsiders = match &statement.principals {
            Principals::Holder => false,
            Principals::Only(principals) => principals.iter().any(|p| is_foreign(p, account)),
            Principals::AllBut(_) => true,
        };
        outsiders
            && concerns(statement, actions)
            && !statement
                .conditions
                .iter()
                .any(|c| c.names_account(account))
            && !policy.denies().any(|denial| {
                denial.is_about_everyone()
                    && !matches!(denial.principals, Principals::AllBut(_))
                    && denial.conditions.is_empty()
                    && denial.resources.contain(&statement.resources)
                    && covers_what(denial, statement, actions)
            })
    })
}

/// Whether a principal is of another account.
fn is_foreign(principal: &Principal, account: &str) -> bool {
    match principal {
        Principal::Everyone | Principal::Canonical => true,
        Principal::Service(_) | Principal::Federated => false,
        Principal::Aws(name) => {
            let of = match name.strip_prefix("arn:") {
                // arn:aws:iam::123456789012:role/app
                Some(rest) => rest.split(':').nth(3).unwrap_or_default(),
                None => name,
            };
            // The identities of a CloudFront distribution have `cloudfront` for an account.
            of != account && of != "cloudfront"
        }
    }
}

/// Whether every request without TLS is denied.
pub(super) fn requires_tls(policy: &Policy) -> bool {
    let mut resources: Vec<&str> = Vec::new();
    for denial in policy.denies() {
        let is_for_all =
            denial.is_about_everyone() && !matches!(denial.principals, Principals::AllBut(_));
        let is_plain =
            !denial.conditions.is_empty() && denial.conditions.iter().all(|c| c.is_without_tls());
        let is_whole = denial.actions.cover("*")
            || denial.actions.cover("*:*")
            || denial.actions.named().iter().any(|a| is_service(a));
        if !is_for_all || !is_plain || !is_whole {
            continue;
        }
        if denial.resources.cover("*") {
            return true;
        }
        resources.extend(denial.resources.named().iter().map(String::as_str));
    }
    // A bucket and its objects are named apart.
    resources.iter().any(|of| match of.split_once(":s3:::") {
        Some((_, bucket)) if bucket.contains('/') => false,
        Some(_) => {
            let objects = format!("{of}/*");
            resources.iter().any(|r| pattern::covers(r, &objects))
        }
        None => true,
    })
}

/// Whether a pattern is all of one service: `s3:*`.
fn is_service(pattern: &str) -> bool {
    pattern
        .strip_suffix(":*")
        .is_some_and(|service| !service.is_empty() && !service.contains(['*', '?', ':']))
}

/// Whether an AWS service is trusted without saying for whose resources.
pub(super) fn confuses_deputy(policy: &Policy) -> bool {
    policy.allows().any(|statement| {
        has(statement, |p| matches!(p, Principal::Service(_)))
            && !statement.conditions.iter().any(|c| c.names_source())
    })
}

/// Whether a service may act by the policy.
pub(super) fn trusts_service(policy: &Policy, service: &str) -> bool {
    let service = service.to_lowercase();
    policy.allows().any(|statement| {
        has(statement, |p| match p {
            Principal::Service(name) => pattern::covers(name, &service),
            Principal::Everyone
            | Principal::Aws(_)
            | Principal::Federated
            | Principal::Canonical => false,
        })
    })
}

/// Whether the users of an identity provider may act by the policy.
pub(super) fn trusts_federation(policy: &Policy) -> bool {
    policy
        .allows()
        .any(|statement| has(statement, |p| matches!(p, Principal::Federated)))
}

fn has(statement: &Statement, wanted: impl Fn(&Principal) -> bool) -> bool {
    match &statement.principals {
        Principals::Only(principals) => principals.iter().any(wanted),
        Principals::Holder | Principals::AllBut(_) => false,
    }
}
