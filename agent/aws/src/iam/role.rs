//! `aws.iam.role`

use std::collections::BTreeMap;

use aws_sdk_iam::Client;
use aws_sdk_iam::types::RoleDetail;
use collect::{CollectError, Fault};
use serde_json::json;

use super::authorization::LIST;
use super::{GLOBAL, PAGE, attached, inline};
use crate::pages::Pages;
use crate::sweep::{Run, Sweep};
use crate::value::{at, encoded_policy, items, record, tags};

const ROLES: &str = "iam:ListRoles";

/// The longest session of each role, in seconds: the one declared fact that
/// `iam:GetAccountAuthorizationDetails` lacks. An account has at most some thousand roles.
pub(super) type SessionDurations = Result<BTreeMap<String, Option<i32>>, Fault>;

pub(super) async fn session_durations(run: &Run<'_>, client: &Client) -> SessionDurations {
    let stream = client.list_roles().into_paginator().page_size(PAGE).send();
    let mut pages = Pages::new(ROLES, stream, |page| page.is_truncated());
    let mut durations = BTreeMap::new();
    while let Some(page) = pages.next(run).await? {
        for role in page.roles {
            durations.insert(role.role_name, role.max_session_duration);
        }
    }
    Ok(durations)
}

pub(super) async fn send(
    sweep: &Sweep<'_>,
    role: &RoleDetail,
    durations: &SessionDurations,
) -> Result<(), CollectError> {
    let name = role.role_name().unwrap_or_default();
    let mut draft = sweep.draft(name, role.arn().unwrap_or_default());
    let pairs = role.tags().iter();
    draft.tags(tags(pairs.map(|tag| (Some(tag.key()), Some(tag.value())))));
    let boundary = role.permissions_boundary();
    let fields = json!({
        "RoleName": role.role_name(),
        "RoleId": role.role_id(),
        "Path": role.path(),
        "Arn": role.arn(),
        "CreateDate": at(role.create_date()),
        "AssumeRolePolicyDocument": encoded_policy(role.assume_role_policy_document()),
        "AttachedManagedPolicies": attached(role.attached_managed_policies()),
        "RolePolicyList": inline(role.role_policy_list()),
        "PermissionsBoundary": record(boundary, |boundary| json!({
            "PermissionsBoundaryArn": boundary.permissions_boundary_arn(),
        })),
        "InstanceProfileList": items(role.instance_profile_list(), |profile| json!({
            "InstanceProfileName": profile.instance_profile_name(),
            "Arn": profile.arn(),
        })),
        "RoleLastUsed": record(role.role_last_used(), |used| json!({
            "LastUsedDate": at(used.last_used_date()),
            "Region": used.region(),
        })),
    });
    draft.answered(LIST, fields);
    let duration = match durations {
        Err(fault) => Err(fault.clone()),
        Ok(listed) => match listed.get(name) {
            Some(seconds) => Ok(json!({"MaxSessionDuration": seconds})),
            // Made between the two lists.
            None => Err(Fault {
                call: ROLES.to_owned(),
                code: "not listed".to_owned(),
            }),
        },
    };
    draft.outcome(ROLES, duration);
    for policy in role.attached_managed_policies() {
        if let Some(arn) = policy.policy_arn() {
            draft.link("attached_policy", GLOBAL, arn);
        }
    }
    if let Some(arn) = boundary.and_then(|boundary| boundary.permissions_boundary_arn()) {
        draft.link("bounded_by", GLOBAL, arn);
    }
    sweep.send(draft).await
}
