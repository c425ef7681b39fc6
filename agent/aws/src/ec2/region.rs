//! `aws.region`: the defaults that EC2 keeps in each enabled region.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use crate::regions;
use crate::sweep::{Broken, Run, Sweep};
use crate::value::{only, record, word};

const EBS_ENCRYPTION: &str = "ec2:GetEbsEncryptionByDefault";
const SNAPSHOT_BLOCK: &str = "ec2:GetSnapshotBlockPublicAccessState";
const IMAGE_BLOCK: &str = "ec2:GetImageBlockPublicAccessState";
const METADATA: &str = "ec2:GetInstanceMetadataDefaults";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.region", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let region = sweep.region();
    match &sweep.run.regions {
        Err(fault) => Err(Broken::List(fault.clone())),
        // A region that the settings name and the account has not enabled is no resource.
        Ok(regions) if !regions.enabled().any(|enabled| enabled == region) => Ok(()),
        Ok(_) => Ok(one(sweep).await?),
    }
}

async fn one(sweep: &Sweep<'_>) -> Result<(), CollectError> {
    let (run, region) = (sweep.run, sweep.region());
    let client = run.clients.ec2(region);
    let (ebs, snapshots, images, metadata) = tokio::join!(
        ebs_encryption(run, &client),
        snapshot_block(run, &client),
        image_block(run, &client),
        metadata_defaults(run, &client),
    );
    let mut draft = sweep.draft(region, region);
    draft.tags(BTreeMap::new());
    draft.answered(regions::CALL, json!({"RegionName": region}));
    draft.outcome(EBS_ENCRYPTION, ebs);
    draft.outcome(SNAPSHOT_BLOCK, snapshots);
    draft.outcome(IMAGE_BLOCK, images);
    draft.outcome(METADATA, metadata);
    sweep.send(draft).await
}

async fn ebs_encryption(run: &Run<'_>, client: &Client) -> Result<Value, Fault> {
    let sent = client.get_ebs_encryption_by_default().send();
    let answer = run.call(EBS_ENCRYPTION, sent).await?;
    let on = json!(answer.ebs_encryption_by_default());
    Ok(only("EbsEncryptionByDefault", on))
}

async fn snapshot_block(run: &Run<'_>, client: &Client) -> Result<Value, Fault> {
    let sent = client.get_snapshot_block_public_access_state().send();
    let answer = run.call(SNAPSHOT_BLOCK, sent).await?;
    let state = json!(word(answer.state()));
    Ok(only("SnapshotBlockPublicAccessState", state))
}

async fn image_block(run: &Run<'_>, client: &Client) -> Result<Value, Fault> {
    let sent = client.get_image_block_public_access_state().send();
    let answer = run.call(IMAGE_BLOCK, sent).await?;
    let state = json!(answer.image_block_public_access_state());
    Ok(only("ImageBlockPublicAccessState", state))
}

async fn metadata_defaults(run: &Run<'_>, client: &Client) -> Result<Value, Fault> {
    let sent = client.get_instance_metadata_defaults().send();
    let answer = run.call(METADATA, sent).await?;
    let defaults = record(answer.account_level(), |level| {
        json!({
            "HttpTokens": word(level.http_tokens()),
            "HttpEndpoint": word(level.http_endpoint()),
            "HttpPutResponseHopLimit": level.http_put_response_hop_limit(),
            "InstanceMetadataTags": word(level.instance_metadata_tags()),
            "HttpTokensEnforced": word(level.http_tokens_enforced()),
            "ManagedBy": word(level.managed_by()),
        })
    });
    Ok(only("InstanceMetadataDefaults", defaults))
}
