//! `aws.ec2.snapshot`: the account's own.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Snapshot, SnapshotAttributeName};
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::{AT_ONCE, PAGE, name_of, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep, each};
use crate::value::{at, items, word};

const LIST: &str = "ec2:DescribeSnapshots";
const ATTRIBUTE: &str = "ec2:DescribeSnapshotAttribute";

/// What a copied snapshot is known to name as its volume. AWS promises only that it is arbitrary.
/// Source: EC2 API Reference, `Snapshot`, `VolumeId`; the value is from experience.
const NO_VOLUME: &str = "vol-ffffffff";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.snapshot", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_snapshots().owner_ids("self");
    let stream = asked.into_paginator().page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        let snapshots = page.snapshots.unwrap_or_default();
        each(snapshots, AT_ONCE, |snapshot| one(sweep, &client, snapshot)).await?;
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, client: &Client, snapshot: Snapshot) -> Result<(), CollectError> {
    let id = snapshot.snapshot_id().unwrap_or_default();
    let (partition, region) = (&sweep.run.partition, sweep.region());
    // Snapshot ARNs have no account.
    let arn = format!("arn:{partition}:ec2:{region}::snapshot/{id}");
    let mut draft = sweep.draft(id, &arn);
    let tags = tags(snapshot.tags.as_ref());
    draft.name(name_of(&tags)).tags(tags);
    let fields = json!({
        "SnapshotId": snapshot.snapshot_id(),
        "VolumeId": snapshot.volume_id(),
        "Encrypted": snapshot.encrypted(),
        "KmsKeyId": snapshot.kms_key_id(),
        "State": word(snapshot.state()),
        "StartTime": at(snapshot.start_time()),
        "VolumeSize": snapshot.volume_size(),
        "StorageTier": word(snapshot.storage_tier()),
        "OwnerId": snapshot.owner_id(),
    });
    draft.answered(LIST, fields);
    draft.outcome(ATTRIBUTE, permissions(sweep.run, client, id).await);
    if let Some(volume) = snapshot.volume_id().filter(|volume| *volume != NO_VOLUME) {
        draft.link("of_volume", region, volume);
    }
    sweep.send(draft).await
}

async fn permissions(run: &Run<'_>, client: &Client, id: &str) -> Result<Value, Fault> {
    let asked = client
        .describe_snapshot_attribute()
        .snapshot_id(id)
        .attribute(SnapshotAttributeName::CreateVolumePermission);
    let answer = run.call(ATTRIBUTE, asked.send()).await?;
    let permissions = items(answer.create_volume_permissions(), |permission| {
        json!({
            "Group": word(permission.group()),
            "UserId": permission.user_id(),
        })
    });
    Ok(json!({"CreateVolumePermissions": permissions}))
}
