//! `aws.iam.access-key`

use std::collections::BTreeMap;

use aws_sdk_iam::Client;
use aws_sdk_iam::types::{AccessKeyMetadata, UserDetail};
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::{GLOBAL, PAGE};
use crate::pages::Pages;
use crate::sweep::{Broken, Run, Sweep};
use crate::value::{at, record, word};

const LIST: &str = "iam:ListAccessKeys";
const LAST_USED: &str = "iam:GetAccessKeyLastUsed";

/// Sends the keys of one user.
pub(super) async fn send_of(
    sweep: &Sweep<'_>,
    client: &Client,
    user: &UserDetail,
) -> Result<(), Broken> {
    // Asked for every user: the credential report shows a user whose keys are all inactive like
    // one without keys.
    // Source: IAM User Guide, "Generate credential reports", access_key_1_last_rotated.
    let name = user.user_name().unwrap_or_default();
    let asked = client.list_access_keys().user_name(name);
    let stream = asked.into_paginator().page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| page.is_truncated());
    while let Some(page) = pages.next(sweep.run).await? {
        for key in page.access_key_metadata() {
            one(sweep, client, key).await?;
        }
    }
    Ok(())
}

async fn one(
    sweep: &Sweep<'_>,
    client: &Client,
    key: &AccessKeyMetadata,
) -> Result<(), CollectError> {
    let id = key.access_key_id().unwrap_or_default();
    let mut draft = sweep.draft(id, id);
    // IAM has no tags on keys. Source: IAM API Reference, which has no call that lists any.
    draft.tags(BTreeMap::new());
    let fields = json!({
        "AccessKeyId": key.access_key_id(),
        "UserName": key.user_name(),
        "Status": word(key.status()),
        "CreateDate": at(key.create_date()),
    });
    draft.answered(LIST, fields);
    draft.outcome(LAST_USED, last_used(sweep.run, client, id).await);
    if let Some(user) = key.user_name() {
        draft.link("key_of", GLOBAL, user);
    }
    sweep.send(draft).await
}

async fn last_used(run: &Run<'_>, client: &Client, id: &str) -> Result<Value, Fault> {
    let sent = client.get_access_key_last_used().access_key_id(id).send();
    let answer = run.call(LAST_USED, sent).await?;
    let used = record(answer.access_key_last_used(), |used| {
        json!({
            "LastUsedDate": at(used.last_used_date()),
            "ServiceName": used.service_name(),
            "Region": used.region(),
        })
    });
    Ok(json!({"AccessKeyLastUsed": used}))
}
