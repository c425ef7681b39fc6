//! `aws.ec2.subnet`

use aws_sdk_ec2::types::Subnet;
use collect::CollectError;
use serde_json::json;

use super::{PAGE, name_of, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep};

const LIST: &str = "ec2:DescribeSubnets";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.subnet", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_subnets().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        for subnet in page.subnets.unwrap_or_default() {
            one(sweep, &subnet).await?;
        }
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, subnet: &Subnet) -> Result<(), CollectError> {
    let id = subnet.subnet_id().unwrap_or_default();
    let made = sweep
        .run
        .arn("ec2", sweep.region(), &format!("subnet/{id}"));
    let mut draft = sweep.draft(id, subnet.subnet_arn().unwrap_or(&made));
    let tags = tags(subnet.tags.as_ref());
    draft.name(name_of(&tags)).tags(tags);
    let fields = json!({
        "SubnetId": subnet.subnet_id(),
        "VpcId": subnet.vpc_id(),
        "CidrBlock": subnet.cidr_block(),
        "AvailabilityZone": subnet.availability_zone(),
        "MapPublicIpOnLaunch": subnet.map_public_ip_on_launch(),
        "AssignIpv6AddressOnCreation": subnet.assign_ipv6_address_on_creation(),
        "DefaultForAz": subnet.default_for_az(),
        "OwnerId": subnet.owner_id(),
    });
    draft.answered(LIST, fields);
    if let Some(vpc) = subnet.vpc_id() {
        draft.link("in_vpc", sweep.region(), vpc);
    }
    sweep.send(draft).await
}
