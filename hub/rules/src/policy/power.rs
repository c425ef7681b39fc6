//! What a policy lets its holder do.

use super::document::{Policy, Statement};
use super::pattern;

/// Whether a statement allows all of `action` on all of `resource`.
pub(super) fn allows(policy: &Policy, action: &str, resource: &str) -> bool {
    policy.allows().any(|statement| {
        (statement.actions.cover(action) || is_nearly_everything(statement, action))
            && statement.resources.cover(resource)
            && !policy.denies().any(|denial| {
                denial.conditions.is_empty()
                    && denial.actions.cover(action)
                    && denial.resources.cover(resource)
            })
    })
}

/// Whether a statement allows every action but some that do not matter for `action`.
///
/// All actions but a few are still those of an administrator, unless IAM is left out.
fn is_nearly_everything(statement: &Statement, action: &str) -> bool {
    action == "*"
        && statement.actions.left_out().is_some_and(|left_out| {
            !left_out
                .iter()
                .any(|p| pattern::is_anything(p) || pattern::covers(p, "iam:*"))
        })
}

/// Whether a statement allows at least part of one of `actions`, on any resource.
pub(super) fn allows_any(policy: &Policy, actions: &[String]) -> bool {
    actions.iter().any(|action| {
        policy.allows().any(|statement| {
            if !statement.actions.touch(action) {
                return false;
            }
            // What of the statement lies in the action, or the action where it lies in the
            // statement: one of them must be left.
            let named = statement.actions.named();
            let inner = named.iter().filter(|p| pattern::overlaps(p, action));
            let narrower: Vec<&str> = inner
                .map(|p| {
                    if pattern::covers(action, p) {
                        p.as_str()
                    } else {
                        action
                    }
                })
                .collect();
            let is_gone = |part: &str| policy.denies().any(|d| d.takes_away(part, statement));
            if narrower.is_empty() {
                return !is_gone(action);
            }
            narrower.into_iter().any(|part| !is_gone(part))
        })
    })
}

/// Whether a statement allows everything on everything.
pub(super) fn is_admin(policy: &Policy) -> bool {
    allows(policy, "*", "*") || allows(policy, "*:*", "*")
}

/// Whether one action is allowed on some resource.
pub(super) fn may(policy: &Policy, action: &str) -> bool {
    policy.allows().any(|statement| {
        statement.actions.cover(action) && !policy.denies().any(|d| d.takes_away(action, statement))
    })
}
