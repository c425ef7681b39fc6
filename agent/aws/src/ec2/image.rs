//! `aws.ec2.image`: the account's own, disabled and deprecated ones too.

use aws_sdk_ec2::types::Image;
use collect::CollectError;
use serde_json::json;

use super::{PAGE, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep};
use crate::value::word;

const LIST: &str = "ec2:DescribeImages";

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.image", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client
        .describe_images()
        .owners("self")
        .include_deprecated(true)
        .include_disabled(true);
    let stream = asked.into_paginator().page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        for image in page.images.unwrap_or_default() {
            one(sweep, &image).await?;
        }
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, image: &Image) -> Result<(), CollectError> {
    let id = image.image_id().unwrap_or_default();
    let (partition, region) = (&sweep.run.partition, sweep.region());
    // Image ARNs have no account.
    let arn = format!("arn:{partition}:ec2:{region}::image/{id}");
    let mut draft = sweep.draft(id, &arn);
    draft.name(image.name().unwrap_or_default());
    draft.tags(tags(image.tags.as_ref()));
    let fields = json!({
        "ImageId": image.image_id(),
        "Name": image.name(),
        "Public": image.public(),
        "State": word(image.state()),
        "OwnerId": image.owner_id(),
        "CreationDate": image.creation_date(),
        "DeprecationTime": image.deprecation_time(),
        "ImdsSupport": word(image.imds_support()),
    });
    draft.answered(LIST, fields);
    sweep.send(draft).await
}
