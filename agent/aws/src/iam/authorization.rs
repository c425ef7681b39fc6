//! `iam:GetAccountAuthorizationDetails`: one list that holds users, groups, roles and managed
//! policies, so their four scopes, and that of the users' keys, are swept together.

use std::sync::{Mutex, PoisonError};

use aws_sdk_iam::types::EntityType;
use collect::{CollectError, Fault};

use super::policy::Policies;
use super::{AT_ONCE, GLOBAL, access_key, group, role, user};
use crate::pages::Pages;
use crate::sweep::{Broken, Run, Sweep, each};

/// The call that lists all four.
pub(super) const LIST: &str = "iam:GetAccountAuthorizationDetails";

/// Entities of a page. They carry their policy documents, so a page of the 1,000 that IAM allows
/// can be many MiB. Source: IAM API Reference, `GetAccountAuthorizationDetails`, `MaxItems`.
const PAGE: i32 = 200;

/// The five scopes that one walk through the list fills.
struct Sweeps<'r> {
    users: Sweep<'r>,
    groups: Sweep<'r>,
    roles: Sweep<'r>,
    policies: Sweep<'r>,
    keys: Sweep<'r>,
}

/// Sweeps users, groups, roles, managed policies and access keys.
pub(crate) async fn sweep(run: &Run<'_>) -> Result<(), CollectError> {
    let sweeps = Sweeps {
        users: run.begin("aws.iam.user", GLOBAL).await?,
        groups: run.begin("aws.iam.group", GLOBAL).await?,
        roles: run.begin("aws.iam.role", GLOBAL).await?,
        policies: run.begin("aws.iam.policy", GLOBAL).await?,
        keys: run.begin("aws.iam.access-key", GLOBAL).await?,
    };
    let missed_keys = Mutex::new(None);
    let listed = match list(&sweeps, &missed_keys).await {
        Ok(()) => Ok(()),
        Err(Broken::List(fault)) => Err(fault),
        Err(Broken::Stopped(error)) => return Err(error),
    };
    let missed_keys = missed_keys
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let keys_listed = match missed_keys {
        Some(fault) => Err(fault),
        None => listed.clone(),
    };
    for sweep in [sweeps.users, sweeps.groups, sweeps.roles, sweeps.policies] {
        sweep.close(listed.clone().map_err(Broken::List)).await?;
    }
    sweeps.keys.close(keys_listed.map_err(Broken::List)).await
}

async fn list(sweeps: &Sweeps<'_>, missed_keys: &Mutex<Option<Fault>>) -> Result<(), Broken> {
    let run = sweeps.users.run;
    let client = &run.clients.iam();
    let durations = role::session_durations(run, client).await;
    let report = run.credential_report(client).await;
    let entities = [
        EntityType::User,
        EntityType::Group,
        EntityType::Role,
        EntityType::LocalManagedPolicy,
        EntityType::AwsManagedPolicy,
    ];
    let asked = client
        .get_account_authorization_details()
        .set_filter(Some(entities.to_vec()));
    let stream = asked.into_paginator().page_size(PAGE).send();
    let mut pages = Pages::new(LIST, stream, |page| page.is_truncated());
    let mut policies = Policies::default();
    while let Some(page) = pages.next(run).await? {
        for group in page.group_detail_list() {
            policies.name(group.attached_managed_policies(), None);
            group::send(&sweeps.groups, group).await?;
        }
        for role in page.role_detail_list() {
            policies.name(
                role.attached_managed_policies(),
                role.permissions_boundary(),
            );
            role::send(&sweeps.roles, role, &durations).await?;
        }
        for user in page.user_detail_list() {
            policies.name(
                user.attached_managed_policies(),
                user.permissions_boundary(),
            );
        }
        each(page.user_detail_list(), AT_ONCE, |user| async move {
            user::send(&sweeps.users, client, user, report).await?;
            match access_key::send_of(&sweeps.keys, client, user).await {
                Ok(()) => Ok(()),
                Err(Broken::List(fault)) => {
                    let mut missed = missed_keys.lock().unwrap_or_else(PoisonError::into_inner);
                    missed.get_or_insert(fault);
                    Ok(())
                }
                Err(Broken::Stopped(error)) => Err(error),
            }
        })
        .await?;
        for policy in page.policies.unwrap_or_default() {
            policies.take(&sweeps.policies, policy).await?;
        }
    }
    policies.finish(&sweeps.policies).await?;
    Ok(())
}
