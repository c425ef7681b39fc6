//! `aws.iam.policy`: the account's own, and those of AWS that something in the account uses.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_iam::types::{AttachedPermissionsBoundary, AttachedPolicy, ManagedPolicyDetail};
use collect::draft::NOT_CALLED;
use collect::{CollectError, Fault};
use serde_json::json;

use super::authorization::LIST;
use crate::sweep::Sweep;
use crate::value::{at, encoded_policy};

/// Most policies of AWS whose use is found out at the end of the list. Beyond it they are sent
/// whether anything uses them or not. AWS has some 1,500, and counts the uses of each itself.
const UNCOUNTED: usize = 5000;

/// Whether something in the account uses a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    Yes,
    No,
    /// A count is absent: who names it in the same list tells, once all of the list was read.
    Uncounted,
}

fn is_of_aws(arn: &str) -> bool {
    arn.contains(":iam::aws:policy/")
}

fn used(policy: &ManagedPolicyDetail) -> Used {
    let counts = [
        policy.attachment_count(),
        policy.permissions_boundary_usage_count(),
    ];
    if !is_of_aws(policy.arn().unwrap_or_default()) || counts.iter().any(|n| *n > Some(0)) {
        Used::Yes
    } else if counts.iter().all(|count| *count == Some(0)) {
        Used::No
    } else {
        Used::Uncounted
    }
}

/// The managed policies of one walk through the list.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// Policies of AWS that a user, group or role names.
    named: BTreeSet<String>,
    uncounted: Vec<ManagedPolicyDetail>,
}

impl Policies {
    /// Notes what an entity names.
    pub(super) fn name(
        &mut self,
        attached: &[AttachedPolicy],
        boundary: Option<&AttachedPermissionsBoundary>,
    ) {
        let attached = attached.iter().filter_map(AttachedPolicy::policy_arn);
        let boundary = boundary.and_then(AttachedPermissionsBoundary::permissions_boundary_arn);
        let all = attached.chain(boundary).filter(|arn| is_of_aws(arn));
        self.named.extend(all.map(str::to_owned));
    }

    /// Sends a policy that is used, leaves out one that is not, and keeps one of which that is not
    /// known yet.
    pub(super) async fn take(
        &mut self,
        sweep: &Sweep<'_>,
        policy: ManagedPolicyDetail,
    ) -> Result<(), CollectError> {
        match used(&policy) {
            Used::No => Ok(()),
            Used::Uncounted if self.uncounted.len() < UNCOUNTED => {
                self.uncounted.push(policy);
                Ok(())
            }
            Used::Uncounted | Used::Yes => send(sweep, &policy).await,
        }
    }

    /// Sends what was kept and is named, now that every entity of the account was read.
    pub(super) async fn finish(self, sweep: &Sweep<'_>) -> Result<(), CollectError> {
        for policy in &self.uncounted {
            if self.named.contains(policy.arn().unwrap_or_default()) {
                send(sweep, policy).await?;
            }
        }
        Ok(())
    }
}

async fn send(sweep: &Sweep<'_>, policy: &ManagedPolicyDetail) -> Result<(), CollectError> {
    let arn = policy.arn().unwrap_or_default();
    let of_aws = is_of_aws(arn);
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
