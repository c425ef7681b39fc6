//! `aws.s3.access-point`

use aws_sdk_s3control::Client;
use aws_sdk_s3control::types::AccessPoint;
use collect::draft::NOT_CALLED;
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep, each};
use crate::value::{only, policy, record};

const LIST: &str = "s3control:ListAccessPoints";
const GET: &str = "s3control:GetAccessPoint";
const POLICY: &str = "s3control:GetAccessPointPolicy";

/// Items of a page. S3 allows 1,000.
const PAGE: i32 = 1000;

/// Access points whose further calls run at the same time.
const AT_ONCE: usize = 8;

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.s3.access-point", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let run = sweep.run;
    let client = &run.clients.s3control(sweep.region(), &run.account);
    let asked = client.list_access_points().account_id(&run.account);
    let stream = asked.into_paginator().page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(run).await? {
        let points = page.access_point_list();
        each(points, AT_ONCE, |point| one(sweep, client, point)).await?;
    }
    Ok(())
}

async fn one(sweep: &Sweep<'_>, client: &Client, point: &AccessPoint) -> Result<(), CollectError> {
    let run = sweep.run;
    let resource = format!("accesspoint/{}", point.name());
    let made = run.arn("s3", sweep.region(), &resource);
    let mut draft = sweep.draft(point.name(), point.access_point_arn().unwrap_or(&made));
    // One more call for each access point, which no check needs.
    draft.tags_failed(Fault {
        call: "s3control:ListTagsForResource".to_owned(),
        code: NOT_CALLED.to_owned(),
    });
    let vpc = point.vpc_configuration();
    let fields = json!({
        "Name": point.name(),
        "AccessPointArn": point.access_point_arn(),
        "Bucket": point.bucket(),
        "BucketAccountId": point.bucket_account_id(),
        "NetworkOrigin": point.network_origin().as_str(),
        "VpcConfiguration": record(vpc, |vpc| json!({"VpcId": vpc.vpc_id()})),
    });
    draft.answered(LIST, fields);
    let (block, policy) = tokio::join!(
        public_access_block(run, client, point.name()),
        policy_of(run, client, point.name()),
    );
    draft.outcome(GET, block);
    draft.outcome(POLICY, policy);
    // An access point may lead to a bucket of another account.
    let owner = point.bucket_account_id();
    if owner.is_none_or(|account| account == run.account) {
        draft.link("of_bucket", "global", point.bucket());
    }
    sweep.send(draft).await
}

async fn public_access_block(run: &Run<'_>, client: &Client, name: &str) -> Result<Value, Fault> {
    let asked = client.get_access_point().account_id(&run.account);
    let answer = run.call(GET, asked.name(name).send()).await?;
    let block = record(answer.public_access_block_configuration(), |block| {
        json!({
            "BlockPublicAcls": block.block_public_acls(),
            "IgnorePublicAcls": block.ignore_public_acls(),
            "BlockPublicPolicy": block.block_public_policy(),
            "RestrictPublicBuckets": block.restrict_public_buckets(),
        })
    });
    Ok(only("PublicAccessBlockConfiguration", block))
}

async fn policy_of(run: &Run<'_>, client: &Client, name: &str) -> Result<Value, Fault> {
    let asked = client.get_access_point_policy().account_id(&run.account);
    let absent = &["NoSuchAccessPointPolicy"];
    let answer = run.call_or_absent(POLICY, absent, asked.name(name).send());
    let text = answer.await?.and_then(|answer| answer.policy);
    Ok(only("Policy", policy(text.as_deref())))
}
