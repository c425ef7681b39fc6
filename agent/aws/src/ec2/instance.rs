//! `aws.ec2.instance`

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Instance, InstanceAttributeName, InstanceNetworkInterface};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::{AT_ONCE, PAGE, name_of, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep, each};
use crate::value::{at, items, record, word};

const LIST: &str = "ec2:DescribeInstances";
const ATTRIBUTE: &str = "ec2:DescribeInstanceAttribute";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.instance", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_instances().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        let reservations = page.reservations.unwrap_or_default().into_iter();
        let instances =
            reservations.flat_map(|reservation| reservation.instances.unwrap_or_default());
        each(instances, AT_ONCE, |instance| one(sweep, &client, instance)).await?;
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, client: &Client, instance: Instance) -> Result<(), CollectError> {
    let id = instance.instance_id().unwrap_or_default();
    let run = sweep.run;
    let region = sweep.region();
    let mut draft = sweep.draft(id, &run.arn("ec2", region, &format!("instance/{id}")));
    let tags = tags(instance.tags.as_ref());
    draft.name(name_of(&tags)).tags(tags);
    draft.answered(LIST, fields(&instance));
    draft.outcome(ATTRIBUTE, user_data(run, client, id).await);
    let interfaces = instance.network_interfaces();
    let groups = interfaces.iter().flat_map(InstanceNetworkInterface::groups);
    for group in instance.security_groups().iter().chain(groups) {
        if let Some(group) = group.group_id() {
            draft.link("attached_sg", region, group);
        }
    }
    if let Some(vpc) = instance.vpc_id() {
        draft.link("in_vpc", region, vpc);
    }
    let subnets = interfaces
        .iter()
        .filter_map(InstanceNetworkInterface::subnet_id);
    for subnet in subnets.chain(instance.subnet_id()) {
        draft.link("in_subnet", region, subnet);
    }
    for device in instance.block_device_mappings() {
        if let Some(volume) = device.ebs().and_then(|ebs| ebs.volume_id()) {
            draft.link("attached_volume", region, volume);
        }
    }
    sweep.send(draft).await
}

fn fields(instance: &Instance) -> Value {
    json!({
        "InstanceId": instance.instance_id(),
        "InstanceType": word(instance.instance_type()),
        "ImageId": instance.image_id(),
        "State": record(instance.state(), |state| json!({"Name": word(state.name())})),
        "StateTransitionReason": instance.state_transition_reason(),
        "LaunchTime": at(instance.launch_time()),
        "PrivateIpAddress": instance.private_ip_address(),
        "PublicIpAddress": instance.public_ip_address(),
        "Ipv6Address": instance.ipv6_address(),
        "VpcId": instance.vpc_id(),
        "SubnetId": instance.subnet_id(),
        "IamInstanceProfile": record(instance.iam_instance_profile(), |profile| json!({
            "Arn": profile.arn(),
            "Id": profile.id(),
        })),
        "SecurityGroups": items(instance.security_groups(), |group| json!({
            "GroupId": group.group_id(),
            "GroupName": group.group_name(),
        })),
        "NetworkInterfaces": items(instance.network_interfaces(), interface),
        "MetadataOptions": record(instance.metadata_options(), |options| json!({
            "HttpTokens": word(options.http_tokens()),
            "HttpEndpoint": word(options.http_endpoint()),
            "HttpPutResponseHopLimit": options.http_put_response_hop_limit(),
            "HttpProtocolIpv6": word(options.http_protocol_ipv6()),
            "InstanceMetadataTags": word(options.instance_metadata_tags()),
        })),
        "Monitoring": record(instance.monitoring(), |monitoring| json!({
            "State": word(monitoring.state()),
        })),
        "BlockDeviceMappings": items(instance.block_device_mappings(), |device| json!({
            "DeviceName": device.device_name(),
            "Ebs": record(device.ebs(), |ebs| json!({
                "VolumeId": ebs.volume_id(),
                "DeleteOnTermination": ebs.delete_on_termination(),
            })),
        })),
        "EnclaveOptions": record(instance.enclave_options(), |enclave| json!({
            "Enabled": enclave.enabled(),
        })),
        "VirtualizationType": word(instance.virtualization_type()),
        "Architecture": word(instance.architecture()),
        "PlatformDetails": instance.platform_details(),
        "InstanceLifecycle": word(instance.instance_lifecycle()),
        "KeyName": instance.key_name(),
    })
}

fn interface(interface: &InstanceNetworkInterface) -> Value {
    json!({
        "NetworkInterfaceId": interface.network_interface_id(),
        "SubnetId": interface.subnet_id(),
        "PrivateIpAddress": interface.private_ip_address(),
        "Association": record(interface.association(), |association| json!({
            "PublicIp": association.public_ip(),
        })),
        "Ipv6Addresses": items(interface.ipv6_addresses(), |address| json!({
            "Ipv6Address": address.ipv6_address(),
        })),
        "Groups": items(interface.groups(), |group| json!({"GroupId": group.group_id()})),
    })
}

/// Reads the user data and returns what the detectors found in it; the text ends here.
async fn user_data(run: &Run<'_>, client: &Client, id: &str) -> Result<Value, Fault> {
    let asked = client
        .describe_instance_attribute()
        .instance_id(id)
        .attribute(InstanceAttributeName::UserData);
    let answer = run.call(ATTRIBUTE, asked.send()).await?;
    let encoded = answer.user_data().and_then(|value| value.value());
    let Some(encoded) = encoded.filter(|text| !text.is_empty()) else {
        return Ok(json!({"UserData": null}));
    };
    let refused = |code: String| Fault {
        call: ATTRIBUTE.to_owned(),
        code,
    };
    let folded: String = encoded.split_whitespace().collect();
    let bytes = STANDARD.decode(folded);
    let bytes = bytes.map_err(|_| run.note(refused("not base64".to_owned())))?;
    match run.detector.examine_bytes(&bytes) {
        Ok(findings) => Ok(json!({"UserData": findings})),
        Err(unexamined) => Err(run.note(refused(unexamined.to_string()))),
    }
}
