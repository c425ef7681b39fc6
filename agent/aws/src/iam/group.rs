//! `aws.iam.group`

use std::collections::BTreeMap;

use aws_sdk_iam::types::GroupDetail;
use collect::CollectError;
use serde_json::json;

use super::authorization::LIST;
use super::{GLOBAL, attached, inline};
use crate::sweep::Sweep;
use crate::value::at;

pub(super) async fn send(sweep: &Sweep<'_>, group: &GroupDetail) -> Result<(), CollectError> {
    let name = group.group_name().unwrap_or_default();
    let mut draft = sweep.draft(name, group.arn().unwrap_or_default());
    // IAM has no tags on groups. Source: IAM API Reference, which has no call that lists any.
    draft.tags(BTreeMap::new());
    let fields = json!({
        "GroupName": group.group_name(),
        "GroupId": group.group_id(),
        "Path": group.path(),
        "Arn": group.arn(),
        "CreateDate": at(group.create_date()),
        "AttachedManagedPolicies": attached(group.attached_managed_policies()),
        "GroupPolicyList": inline(group.group_policy_list()),
    });
    draft.answered(LIST, fields);
    for policy in group.attached_managed_policies() {
        if let Some(arn) = policy.policy_arn() {
            draft.link("attached_policy", GLOBAL, arn);
        }
    }
    sweep.send(draft).await
}
