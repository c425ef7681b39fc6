//! `aws.ec2.security-group`

use aws_sdk_ec2::types::{IpPermission, SecurityGroup};
use collect::CollectError;
use serde_json::{Value, json};

use super::{PAGE, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep};
use crate::value::items;

const LIST: &str = "ec2:DescribeSecurityGroups";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.security-group", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_security_groups().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        for group in page.security_groups.unwrap_or_default() {
            one(sweep, &group).await?;
        }
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, group: &SecurityGroup) -> Result<(), CollectError> {
    let id = group.group_id().unwrap_or_default();
    let region = sweep.region();
    let made = sweep
        .run
        .arn("ec2", region, &format!("security-group/{id}"));
    let mut draft = sweep.draft(id, group.security_group_arn().unwrap_or(&made));
    draft.name(group.group_name().unwrap_or_default());
    draft.tags(tags(group.tags.as_ref()));
    let fields = json!({
        "GroupId": group.group_id(),
        "GroupName": group.group_name(),
        "Description": group.description(),
        "VpcId": group.vpc_id(),
        "OwnerId": group.owner_id(),
        "IpPermissions": items(group.ip_permissions(), rule),
        "IpPermissionsEgress": items(group.ip_permissions_egress(), rule),
    });
    draft.answered(LIST, fields);
    if let Some(vpc) = group.vpc_id() {
        draft.link("in_vpc", region, vpc);
    }
    let (inbound, outbound) = (group.ip_permissions(), group.ip_permissions_egress());
    for rule in inbound.iter().chain(outbound) {
        for peer in rule.user_id_group_pairs() {
            // A group of another account is not among this account's resources.
            let account = peer.user_id();
            let own = account.is_none_or(|account| account == sweep.run.account);
            if let (true, Some(peer)) = (own, peer.group_id()) {
                draft.link("refers_to", region, peer);
            }
        }
    }
    for list in inbound.iter().flat_map(IpPermission::prefix_list_ids) {
        if let Some(list) = list.prefix_list_id() {
            draft.link("refers_to_prefix_list", region, list);
        }
    }
    sweep.send(draft).await
}

fn rule(rule: &IpPermission) -> Value {
    json!({
        "IpProtocol": rule.ip_protocol(),
        "FromPort": rule.from_port(),
        "ToPort": rule.to_port(),
        "IpRanges": items(rule.ip_ranges(), |range| json!({"CidrIp": range.cidr_ip()})),
        "Ipv6Ranges": items(rule.ipv6_ranges(), |range| json!({"CidrIpv6": range.cidr_ipv6()})),
        "PrefixListIds": items(rule.prefix_list_ids(), |list| json!({
            "PrefixListId": list.prefix_list_id(),
        })),
        "UserIdGroupPairs": items(rule.user_id_group_pairs(), |peer| json!({
            "GroupId": peer.group_id(),
            "UserId": peer.user_id(),
        })),
    })
}
