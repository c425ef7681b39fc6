//! `aws.s3.bucket`: the list, and where each bucket's settings are asked for.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::Bucket;
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::bucket_settings::{self, Asked};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep, each};
use crate::value::{at, only};

const LIST: &str = "s3:ListBuckets";
const LOCATION: &str = "s3:GetBucketLocation";
const TAGS: &str = "s3:GetBucketTagging";

/// Buckets of a page. S3 allows 10,000; without a number it does not page at all.
const PAGE: i32 = 1000;

/// Buckets whose settings are read at the same time, 17 calls each. The budget bounds the calls.
const AT_ONCE: usize = 8;

pub(crate) async fn sweep(run: &Run<'_>) -> Result<(), CollectError> {
    let sweep = run.begin("aws.s3.bucket", "global").await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let run = sweep.run;
    let client = run.clients.s3(run.clients.home());
    let stream = client
        .list_buckets()
        .into_paginator()
        .page_size(PAGE)
        .send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.continuation_token()));
    while let Some(page) = pages.next(run).await? {
        each(page.buckets(), AT_ONCE, |bucket| one(sweep, bucket)).await?;
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, bucket: &Bucket) -> Result<(), CollectError> {
    let run = sweep.run;
    let name = bucket.name().unwrap_or_default();
    let made = format!("arn:{}:s3:::{name}", run.partition);
    let mut draft = sweep.draft(name, bucket.bucket_arn().unwrap_or(&made));
    let fields = json!({
        "Name": bucket.name(),
        "CreationDate": at(bucket.creation_date()),
    });
    draft.answered(LIST, fields);
    // S3 answers for a bucket only in the bucket's own region.
    let listed = bucket.bucket_region().filter(|region| !region.is_empty());
    let nearest = run.clients.s3(listed.unwrap_or(run.clients.home()));
    let located = location(run, &nearest, name).await;
    let client = match &located {
        Ok(region) => run.clients.s3(region),
        Err(_) => nearest,
    };
    let region = located.map(|region| only("BucketRegion", json!(region)));
    draft.outcome(LOCATION, region);
    let asked = Asked {
        run,
        client: &client,
        bucket: name,
    };
    for (call, outcome) in bucket_settings::read(&asked).await {
        if let Some(target) = outcome.as_ref().ok().and_then(log_target) {
            draft.link("logs_to", "global", &target);
        }
        draft.outcome(call, outcome);
    }
    match bucket_settings::tags(&asked, TAGS).await {
        Ok(tags) => draft.tags(tags),
        Err(fault) => draft.tags_failed(fault),
    };
    sweep.send(draft).await
}

/// Returns a bucket's region with the two historical spellings resolved.
///
/// Source: Amazon S3 API Reference, `GetBucketLocation`: no constraint means us-east-1, and EU is
/// eu-west-1.
async fn location(run: &Run<'_>, client: &Client, bucket: &str) -> Result<String, Fault> {
    let sent = client.get_bucket_location().bucket(bucket).send();
    let answer = run.call(LOCATION, sent).await?;
    let constraint = answer.location_constraint().map(AsRef::as_ref);
    let region = match constraint.unwrap_or_default() {
        "" => "us-east-1",
        "EU" => "eu-west-1",
        region => region,
    };
    Ok(region.to_owned())
}

/// Returns the bucket that gets the access logs. S3 accepts only buckets of the same account.
fn log_target(fields: &Value) -> Option<String> {
    let target = fields
        .get("LoggingEnabled")?
        .get("TargetBucket")?
        .as_str()?;
    Some(target.to_owned()).filter(|target| !target.is_empty())
}
