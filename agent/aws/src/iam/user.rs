//! `aws.iam.user`

use aws_sdk_iam::Client;
use aws_sdk_iam::types::UserDetail;
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::authorization::LIST;
use super::credential_report::{self, Report};
use super::{GLOBAL, PAGE, attached, inline};
use crate::pages::Pages;
use crate::sweep::{Run, Sweep};
use crate::value::{at, only, record, tags};

const MFA_DEVICES: &str = "iam:ListMFADevices";

pub(super) async fn send(
    sweep: &Sweep<'_>,
    client: &Client,
    user: &UserDetail,
    report: &Report,
) -> Result<(), CollectError> {
    let name = user.user_name().unwrap_or_default();
    let mut draft = sweep.draft(name, user.arn().unwrap_or_default());
    let pairs = user.tags().iter();
    draft.tags(tags(pairs.map(|tag| (Some(tag.key()), Some(tag.value())))));
    let boundary = user.permissions_boundary();
    let fields = json!({
        "UserName": user.user_name(),
        "UserId": user.user_id(),
        "Path": user.path(),
        "Arn": user.arn(),
        "CreateDate": at(user.create_date()),
        "GroupList": user.group_list(),
        "AttachedManagedPolicies": attached(user.attached_managed_policies()),
        "UserPolicyList": inline(user.user_policy_list()),
        "PermissionsBoundary": record(boundary, |boundary| json!({
            "PermissionsBoundaryArn": boundary.permissions_boundary_arn(),
        })),
    });
    draft.answered(LIST, fields);
    draft.outcome(credential_report::CALL, report.of_user(user));
    let devices = mfa_devices(sweep.run, client, name, report).await;
    draft.outcome(MFA_DEVICES, devices);
    for group in user.group_list() {
        draft.link("member_of", GLOBAL, group);
    }
    for policy in user.attached_managed_policies() {
        if let Some(arn) = policy.policy_arn() {
            draft.link("attached_policy", GLOBAL, arn);
        }
    }
    if let Some(arn) = boundary.and_then(|boundary| boundary.permissions_boundary_arn()) {
        draft.link("bounded_by", GLOBAL, arn);
    }
    sweep.send(draft).await
}

async fn mfa_devices(
    run: &Run<'_>,
    client: &Client,
    name: &str,
    report: &Report,
) -> Result<Value, Fault> {
    if report.shows_no_mfa(name) {
        return Ok(only("MFADevices", json!([])));
    }
    let asked = client.list_mfa_devices().user_name(name);
    let stream = asked.into_paginator().page_size(PAGE).send();
    let pages = Pages::new(MFA_DEVICES, stream, |page| page.is_truncated());
    let taken = pages.all(run, |page| {
        let devices = page.mfa_devices().iter().map(|device| {
            json!({
                "SerialNumber": device.serial_number(),
                "EnableDate": at(Some(device.enable_date())),
            })
        });
        devices.collect()
    });
    Ok(json!({"MFADevices": taken.await?}))
}
