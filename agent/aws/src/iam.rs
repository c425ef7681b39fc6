//! Collectors of IAM, which has no regions: one sweep in an account.

pub(crate) mod access_key;
pub(crate) mod authorization;
pub(crate) mod credential_report;
pub(crate) mod group;
pub(crate) mod policy;
pub(crate) mod role;
pub(crate) mod user;

use aws_sdk_iam::types::{AttachedPolicy, PolicyDetail};
use serde_json::{Value, json};

use crate::value::{encoded_policy, items};

/// Region of every IAM scope.
const GLOBAL: &str = "global";

/// Items of a page of short lists. IAM allows 1,000 and sends fewer when it likes.
const PAGE: i32 = 1000;

/// Users whose further calls run at the same time.
const AT_ONCE: usize = 8;

fn attached(policies: &[AttachedPolicy]) -> Value {
    items(policies, |policy| {
        json!({
            "PolicyName": policy.policy_name(),
            "PolicyArn": policy.policy_arn(),
        })
    })
}

fn inline(policies: &[PolicyDetail]) -> Value {
    items(policies, |policy| {
        json!({
            "PolicyName": policy.policy_name(),
            "PolicyDocument": encoded_policy(policy.policy_document()),
        })
    })
}
