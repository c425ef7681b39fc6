//! `aws.ec2.prefix-list`

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::ManagedPrefixList;
use collect::{CollectError, Fault};
use serde_json::{Value, json};

use super::{AT_ONCE, tags};
use crate::pages::{Pages, leads_on};
use crate::sweep::{Broken, Run, Sweep, each};

const LIST: &str = "ec2:DescribeManagedPrefixLists";
const ENTRIES: &str = "ec2:GetManagedPrefixListEntries";

/// Items of a page: both calls allow 100.
const PAGE: i32 = 100;

pub(crate) async fn sweep(run: &Run<'_>, region: &str) -> Result<(), CollectError> {
    let sweep = run.begin("aws.ec2.prefix-list", region).await?;
    let listed = list(&sweep).await;
    sweep.close(listed).await
}

async fn list(sweep: &Sweep<'_>) -> Result<(), Broken> {
    let client = sweep.run.clients.ec2(sweep.region());
    let asked = client.describe_managed_prefix_lists().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| leads_on(page.next_token()));
    while let Some(page) = pages.next(sweep.run).await? {
        let lists = page.prefix_lists.unwrap_or_default();
        each(lists, AT_ONCE, |list| one(sweep, &client, list)).await?;
    }
    Ok(())
}

async fn one(
    sweep: &Sweep<'_>,
    client: &Client,
    list: ManagedPrefixList,
) -> Result<(), CollectError> {
    let id = list.prefix_list_id().unwrap_or_default();
    let resource = format!("prefix-list/{id}");
    let made = sweep.run.arn("ec2", sweep.region(), &resource);
    let mut draft = sweep.draft(id, list.prefix_list_arn().unwrap_or(&made));
    draft.name(list.prefix_list_name().unwrap_or_default());
    draft.tags(tags(list.tags.as_ref()));
    let fields = json!({
        "PrefixListId": list.prefix_list_id(),
        "PrefixListName": list.prefix_list_name(),
        "AddressFamily": list.address_family(),
        "OwnerId": list.owner_id(),
    });
    draft.answered(LIST, fields);
    draft.outcome(ENTRIES, entries(sweep.run, client, id).await);
    sweep.send(draft).await
}

async fn entries(run: &Run<'_>, client: &Client, id: &str) -> Result<Value, Fault> {
    let asked = client.get_managed_prefix_list_entries().prefix_list_id(id);
    let stream = asked.into_paginator().page_size(PAGE).send();
    let pages = Pages::new(ENTRIES, stream, |page| leads_on(page.next_token()));
    let taken = pages.all(run, |page| {
        let entries = page.entries.unwrap_or_default().into_iter();
        entries.map(|entry| json!({"Cidr": entry.cidr()})).collect()
    });
    Ok(json!({"Entries": taken.await?}))
}
