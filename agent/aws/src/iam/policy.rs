//! `aws.iam.policy`: the account's own, and those of AWS that something in the account uses.

use std::collections::BTreeMap;

use aws_sdk_iam::types::ManagedPolicyDetail;
use collect::draft::NOT_CALLED;
use collect::{CollectError, Fault};
use serde_json::json;

use super::authorization::LIST;
use crate::sweep::Sweep;
use crate::value::{at, encoded_policy};

pub(super) async fn send(
    sweep: &Sweep<'_>,
    policy: &ManagedPolicyDetail,
) -> Result<(), CollectError> {
    let arn = policy.arn().unwrap_or_default();
    let of_aws = arn.contains(":iam::aws:policy/");
    let uses = [
        policy.attachment_count(),
        policy.permissions_boundary_usage_count(),
    ];
    if of_aws && uses.iter().all(|count| count.unwrap_or(0) == 0) {
        return Ok(());
    }
    // A policy of the account may have the name of one of AWS: only the ARN tells them apart.
    let mut draft = sweep.draft(arn, arn);
    draft.name(policy.policy_name().unwrap_or_default());
    if of_aws {
        draft.tags(BTreeMap::new());
    } else {
        // One more call for each policy, which no check needs.
        draft.tags_failed(Fault {
            call: "iam:ListPolicyTags".to_owned(),
            code: NOT_CALLED.to_owned(),
        });
    }
    let versions = policy.policy_version_list();
    let in_force = versions.iter().find(|version| version.is_default_version());
    let fields = json!({
        "PolicyName": policy.policy_name(),
        "PolicyId": policy.policy_id(),
        "Path": policy.path(),
        "Arn": policy.arn(),
        "DefaultVersionId": policy.default_version_id(),
        "AttachmentCount": policy.attachment_count(),
        "PermissionsBoundaryUsageCount": policy.permissions_boundary_usage_count(),
        "CreateDate": at(policy.create_date()),
        "UpdateDate": at(policy.update_date()),
        // A managed policy always has one; without it the field is a gap, not "no document".
        "Document": match in_force.and_then(|version| version.document()) {
            Some(document) => encoded_policy(Some(document)),
            None => json!(""),
        },
    });
    draft.answered(LIST, fields);
    sweep.send(draft).await
}
