//! `aws.ec2.vpc`, with the flow logs of the region joined to their networks.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{FlowLog, Vpc};
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::{PAGE, name_of, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep};
use crate::value::{items_or_null, word};

const LIST: &str = "ec2:DescribeVpcs";
const FLOW_LOGS: &str = "ec2:DescribeFlowLogs";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.vpc", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

/// Flow logs by the network they watch. AWS allows two for each network.
type FlowLogs = Result<BTreeMap<String, Vec<Value>>, Fault>;

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let flow_logs = flow_logs(sweep.run, &client).await;
    let asked = client.describe_vpcs().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        for vpc in page.vpcs.unwrap_or_default() {
            one(sweep, &vpc, &flow_logs).await?;
        }
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, vpc: &Vpc, flow_logs: &FlowLogs) -> Result<(), CollectError> {
    let id = vpc.vpc_id().unwrap_or_default();
    let arn = sweep.run.arn("ec2", sweep.region(), &format!("vpc/{id}"));
    let mut draft = sweep.draft(id, &arn);
    let tags = tags(vpc.tags.as_ref());
    draft.name(name_of(&tags)).tags(tags);
    let fields = json!({
        "VpcId": vpc.vpc_id(),
        "CidrBlock": vpc.cidr_block(),
        "CidrBlockAssociationSet": items_or_null(
            vpc.cidr_block_association_set.as_ref(),
            |range| json!({"CidrBlock": range.cidr_block()}),
        ),
        "Ipv6CidrBlockAssociationSet": items_or_null(
            vpc.ipv6_cidr_block_association_set.as_ref(),
            |range| json!({"Ipv6CidrBlock": range.ipv6_cidr_block()}),
        ),
        "IsDefault": vpc.is_default(),
        "State": word(vpc.state()),
        "OwnerId": vpc.owner_id(),
    });
    draft.answered(LIST, fields);
    match flow_logs {
        Ok(by_vpc) => {
            let own = by_vpc.get(id).cloned().unwrap_or_default();
            draft.answered(FLOW_LOGS, json!({"FlowLogs": own}))
        }
        Err(fault) => draft.failed(fault),
    };
    sweep.send(draft).await
}

async fn flow_logs(run: &Run<'_>, client: &Client) -> FlowLogs {
    let asked = client.describe_flow_logs().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(FLOW_LOGS, stream, |page| leads_on(page.next_token()));
    let mut by_vpc: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    while let Some(page) = pages.next(run).await? {
        for log in page.flow_logs.unwrap_or_default() {
            // Those of subnets and interfaces are not a network's own.
            if let Some(vpc) = log.resource_id().filter(|id| id.starts_with("vpc-")) {
                by_vpc.entry(vpc.to_owned()).or_default().push(fields(&log));
            }
        }
    }
    Ok(by_vpc)
}

fn fields(log: &FlowLog) -> Value {
    json!({
        "FlowLogId": log.flow_log_id(),
        "FlowLogStatus": log.flow_log_status(),
        "TrafficType": word(log.traffic_type()),
        "LogDestinationType": word(log.log_destination_type()),
        "LogDestination": log.log_destination(),
        "DeliverLogsStatus": log.deliver_logs_status(),
    })
}
