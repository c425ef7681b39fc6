//! `aws.ec2.network-acl`

use aws_sdk_ec2::types::{NetworkAcl, NetworkAclEntry};
use collect::CollectError;
use serde_json::{Value, json};

use super::{PAGE, name_of, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep};
use crate::value::{items, record, word};

const LIST: &str = "ec2:DescribeNetworkAcls";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.network-acl", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_network_acls().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        for acl in page.network_acls.unwrap_or_default() {
            one(sweep, &acl).await?;
        }
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, acl: &NetworkAcl) -> Result<(), CollectError> {
    let id = acl.network_acl_id().unwrap_or_default();
    let region = sweep.region();
    let arn = sweep.run.arn("ec2", region, &format!("network-acl/{id}"));
    let mut draft = sweep.draft(id, &arn);
    let tags = tags(acl.tags.as_ref());
    draft.name(name_of(&tags)).tags(tags);
    let fields = json!({
        "NetworkAclId": acl.network_acl_id(),
        "VpcId": acl.vpc_id(),
        "IsDefault": acl.is_default(),
        "OwnerId": acl.owner_id(),
        "Associations": items(acl.associations(), |association| json!({
            "SubnetId": association.subnet_id(),
        })),
        "Entries": items(acl.entries(), entry),
    });
    draft.answered(LIST, fields);
    if let Some(vpc) = acl.vpc_id() {
        draft.link("in_vpc", region, vpc);
    }
    for association in acl.associations() {
        if let Some(subnet) = association.subnet_id() {
            draft.link("guards_subnet", region, subnet);
        }
    }
    sweep.send(draft).await
}

fn entry(entry: &NetworkAclEntry) -> Value {
    json!({
        "RuleNumber": entry.rule_number(),
        "Egress": entry.egress(),
        "Protocol": entry.protocol(),
        "RuleAction": word(entry.rule_action()),
        "CidrBlock": entry.cidr_block(),
        "Ipv6CidrBlock": entry.ipv6_cidr_block(),
        "PortRange": record(entry.port_range(), |range| json!({
            "From": range.from(),
            "To": range.to(),
        })),
    })
}
