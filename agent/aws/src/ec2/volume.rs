//! `aws.ec2.volume`

use aws_sdk_ec2::types::Volume;
use collect::CollectError;
use serde_json::json;

use super::{PAGE, name_of, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep};
use crate::value::{at, items, word};

const LIST: &str = "ec2:DescribeVolumes";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.volume", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_volumes().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        for volume in page.volumes.unwrap_or_default() {
            one(sweep, &volume).await?;
        }
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, volume: &Volume) -> Result<(), CollectError> {
    let id = volume.volume_id().unwrap_or_default();
    let made = sweep
        .run
        .arn("ec2", sweep.region(), &format!("volume/{id}"));
    let mut draft = sweep.draft(id, volume.volume_arn().unwrap_or(&made));
    let tags = tags(volume.tags.as_ref());
    draft.name(name_of(&tags)).tags(tags);
    let fields = json!({
        "VolumeId": volume.volume_id(),
        "Encrypted": volume.encrypted(),
        "KmsKeyId": volume.kms_key_id(),
        "State": word(volume.state()),
        "Size": volume.size(),
        "VolumeType": word(volume.volume_type()),
        "CreateTime": at(volume.create_time()),
        "SnapshotId": volume.snapshot_id(),
        "AvailabilityZone": volume.availability_zone(),
        "Attachments": items(volume.attachments(), |attachment| json!({
            "InstanceId": attachment.instance_id(),
            "Device": attachment.device(),
            "State": word(attachment.state()),
            "DeleteOnTermination": attachment.delete_on_termination(),
        })),
    });
    draft.answered(LIST, fields);
    for attachment in volume.attachments() {
        if let Some(instance) = attachment.instance_id() {
            draft.link("attached_to", sweep.region(), instance);
        }
    }
    sweep.send(draft).await
}
