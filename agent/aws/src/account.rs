//! `aws.account`: one document of what exists once in an account.

use aws_sdk_iam::Client;
use aws_sdk_iam::types::{PasswordPolicy, PolicyGroup, PolicyRole, PolicyUsageType, PolicyUser};
use collect::draft::NOT_CALLED;
use collect::{CollectError, Fault};
use serde_json::{Map, Value, json};

use crate::caller;
use crate::fault::code_of;
use crate::iam::credential_report;
use crate::pages::Pages;
use crate::regions;
use crate::sweep::Run;
use crate::value::{at, items, only, record};

const SUMMARY: &str = "iam:GetAccountSummary";
const ALIASES: &str = "iam:ListAccountAliases";
const PASSWORD_POLICY: &str = "iam:GetAccountPasswordPolicy";
const VIRTUAL_MFA: &str = "iam:ListVirtualMFADevices";
const ENTITIES: &str = "iam:ListEntitiesForPolicy";
const CERTIFICATES: &str = "iam:ListServerCertificates";
const SAML: &str = "iam:ListSAMLProviders";
const FEATURES: &str = "iam:ListOrganizationsFeatures";
const PUBLIC_ACCESS: &str = "s3control:GetPublicAccessBlock";
const CONTACT: &str = "account:GetAlternateContact";

/// Policies of AWS whose holders account-wide rules ask about.
const ASKED_POLICIES: [&str; 3] = [
    "AWSSupportAccess",
    "AWSCloudShellFullAccess",
    "SecurityAudit",
];

/// Items of a page of IAM's lists.
const PAGE: i32 = 1000;

pub(crate) async fn sweep(run: &Run<'_>) -> Result<(), CollectError> {
    let sweep = run.begin("aws.account", "global").await?;
    let iam = &run.clients.iam();
    let arn = format!("arn:{}:iam::{}:root", run.partition, run.account);
    let mut draft = sweep.draft(&run.account, &arn);
    // An account's tags belong to its organisation.
    draft.tags_failed(Fault {
        call: "organizations:ListTagsForResource".to_owned(),
        code: NOT_CALLED.to_owned(),
    });
    let answers = tokio::join!(
        summary(run, iam),
        aliases(run, iam),
        password_policy(run, iam),
        root_virtual_mfa(run, iam),
        entities(run, iam),
        certificates(run, iam),
        saml_providers(run, iam),
        organization_features(run, iam),
        public_access_block(run),
        security_contact(run),
        run.credential_report(iam),
    );
    let (a, b, c, d, e, f, g, h, i, j, report) = answers;
    if let Ok(aliases) = &b
        && let Some(alias) = aliases.pointer("/AccountAliases/0").and_then(Value::as_str)
    {
        draft.name(alias);
    }
    let regions = run.regions.as_ref().map_err(Clone::clone);
    draft.outcome(regions::CALL, regions.map(|read| read.field()));
    draft.outcome(credential_report::GENERATE, report.state.clone());
    draft.outcome(credential_report::CALL, report.of_root());
    draft.outcome(SUMMARY, a);
    draft.outcome(ALIASES, b);
    draft.outcome(PASSWORD_POLICY, c);
    draft.outcome(VIRTUAL_MFA, d);
    draft.outcome(ENTITIES, e);
    draft.outcome(CERTIFICATES, f);
    draft.outcome(SAML, g);
    draft.outcome(FEATURES, h);
    draft.outcome(PUBLIC_ACCESS, i);
    draft.outcome(CONTACT, j);
    sweep.send(draft).await?;
    // That the account exists is known from its own credentials: nothing of the scope is missed.
    sweep.close(Ok(())).await
}

async fn summary(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let answer = run.call(SUMMARY, iam.get_account_summary().send()).await?;
    let counters = record(answer.summary_map(), |counters| {
        let counters = counters
            .iter()
            .map(|(key, count)| (key.as_str().to_owned(), json!(count)));
        Value::Object(counters.collect())
    });
    Ok(only("SummaryMap", counters))
}

async fn aliases(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let asked = iam.list_account_aliases().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let pages = Pages::new(ALIASES, stream, |page| page.is_truncated());
    let aliases = pages.all(run, |page| page.account_aliases).await?;
    Ok(json!({"AccountAliases": aliases}))
}

async fn password_policy(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let sent = iam.get_account_password_policy().send();
    let absent = &["NoSuchEntity"];
    let answer = run.call_or_absent(PASSWORD_POLICY, absent, sent).await?;
    let policy = answer.and_then(|answer| answer.password_policy);
    let policy = record(policy.as_ref(), password_fields);
    Ok(only("PasswordPolicy", policy))
}

fn password_fields(policy: &PasswordPolicy) -> Value {
    json!({
        "MinimumPasswordLength": policy.minimum_password_length(),
        "RequireSymbols": policy.require_symbols(),
        "RequireNumbers": policy.require_numbers(),
        "RequireUppercaseCharacters": policy.require_uppercase_characters(),
        "RequireLowercaseCharacters": policy.require_lowercase_characters(),
        "AllowUsersToChangePassword": policy.allow_users_to_change_password(),
        "ExpirePasswords": policy.expire_passwords(),
        "MaxPasswordAge": policy.max_password_age(),
        "PasswordReusePrevention": policy.password_reuse_prevention(),
        "HardExpiry": policy.hard_expiry(),
    })
}

async fn root_virtual_mfa(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let asked = iam.list_virtual_mfa_devices().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let pages = Pages::new(VIRTUAL_MFA, stream, |page| page.is_truncated());
    let of_root = pages.all(run, |page| {
        let devices = page.virtual_mfa_devices.into_iter().filter(|device| {
            device
                .user()
                .is_some_and(|user| user.arn().ends_with(":root"))
        });
        let devices = devices.map(|device| {
            json!({
                "SerialNumber": device.serial_number(),
                "EnableDate": at(device.enable_date()),
            })
        });
        devices.collect()
    });
    Ok(json!({"RootVirtualMFADevices": of_root.await?}))
}

async fn entities(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let mut by_policy = Map::new();
    for name in ASKED_POLICIES {
        let arn = format!("arn:{}:iam::aws:policy/{name}", run.partition);
        by_policy.insert(name.to_owned(), holders_of(run, iam, &arn).await?);
    }
    Ok(only("EntitiesForPolicy", Value::Object(by_policy)))
}

/// Returns who a policy is attached to; null where the partition has no such policy.
async fn holders_of(run: &Run<'_>, iam: &Client, arn: &str) -> Result<Value, Fault> {
    let (mut groups, mut users, mut roles) = (Vec::new(), Vec::new(), Vec::new());
    let group = |group: &PolicyGroup| json!({"GroupName": group.group_name()});
    let user = |user: &PolicyUser| json!({"UserName": user.user_name()});
    let role = |role: &PolicyRole| json!({"RoleName": role.role_name()});
    let mut marker: Option<String> = None;
    loop {
        let asked = iam
            .list_entities_for_policy()
            .policy_arn(arn)
            .policy_usage_filter(PolicyUsageType::PermissionsPolicy)
            .set_marker(marker.clone())
            .max_items(PAGE);
        let absent = &["NoSuchEntity"];
        let answer = run.call_or_absent(ENTITIES, absent, asked.send()).await?;
        let Some(page) = answer else {
            return Ok(Value::Null);
        };
        groups.extend(page.policy_groups().iter().map(group));
        users.extend(page.policy_users().iter().map(user));
        roles.extend(page.policy_roles().iter().map(role));
        if !page.is_truncated() {
            return Ok(json!({
                "PolicyGroups": groups,
                "PolicyUsers": users,
                "PolicyRoles": roles,
            }));
        }
        // A page that says there is more, and not where or again the same place.
        if page.marker.is_none() || page.marker == marker {
            return Err(run.note(Fault {
                call: ENTITIES.to_owned(),
                code: "truncated".to_owned(),
            }));
        }
        marker = page.marker;
    }
}

async fn certificates(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let asked = iam.list_server_certificates().into_paginator();
    let stream = asked.page_size(PAGE).send();
    let pages = Pages::new(CERTIFICATES, stream, |page| page.is_truncated());
    let certificates = pages.all(run, |page| {
        let list = page.server_certificate_metadata_list.iter();
        let list = list.map(|certificate| {
            json!({
                "ServerCertificateName": certificate.server_certificate_name(),
                "ServerCertificateId": certificate.server_certificate_id(),
                "Arn": certificate.arn(),
                "UploadDate": at(certificate.upload_date()),
                "Expiration": at(certificate.expiration()),
            })
        });
        list.collect()
    });
    Ok(json!({"ServerCertificateMetadataList": certificates.await?}))
}

async fn saml_providers(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let answer = run.call(SAML, iam.list_saml_providers().send()).await?;
    let providers = items(answer.saml_provider_list(), |provider| {
        json!({
            "Arn": provider.arn(),
            "ValidUntil": at(provider.valid_until()),
        })
    });
    Ok(only("SAMLProviderList", providers))
}

/// Answers of an account that has no say in its organisation, or is in none: the field is null.
const NO_SAY: &[&str] = &[
    "AccountNotManagementOrDelegatedAdministratorException",
    "OrganizationNotFoundException",
    "OrganizationNotInAllFeaturesModeException",
];

/// The answer of an organisation that has not given IAM access: the list is empty.
const NOT_ENABLED: &str = "ServiceAccessNotEnabledException";

async fn organization_features(run: &Run<'_>, iam: &Client) -> Result<Value, Fault> {
    let sent = iam.list_organizations_features().send().await;
    if let Err(error) = &sent
        && code_of(error) == NOT_ENABLED
    {
        return Ok(only("EnabledFeatures", json!([])));
    }
    let sent = std::future::ready(sent);
    let answer = run.call_or_absent(FEATURES, NO_SAY, sent).await?;
    let features = record(answer, |answer| {
        items(answer.enabled_features(), |feature| json!(feature.as_str()))
    });
    Ok(only("EnabledFeatures", features))
}

async fn public_access_block(run: &Run<'_>) -> Result<Value, Fault> {
    let client = run.clients.s3control(run.clients.home(), &run.account);
    let asked = client.get_public_access_block().account_id(&run.account);
    let absent = &["NoSuchPublicAccessBlockConfiguration"];
    let answer = run
        .call_or_absent(PUBLIC_ACCESS, absent, asked.send())
        .await?;
    let block = answer.and_then(|answer| answer.public_access_block_configuration);
    let block = record(block, |block| {
        json!({
            "BlockPublicAcls": block.block_public_acls(),
            "IgnorePublicAcls": block.ignore_public_acls(),
            "BlockPublicPolicy": block.block_public_policy(),
            "RestrictPublicBuckets": block.restrict_public_buckets(),
        })
    });
    Ok(only("PublicAccessBlockConfiguration", block))
}

/// Reads whether there is a security contact. Who it is stays here.
async fn security_contact(run: &Run<'_>) -> Result<Value, Fault> {
    let body = json!({"AlternateContactType": "SECURITY"});
    let (clients, path) = (&run.clients, "/getAlternateContact");
    let answer = caller::ACCOUNT.post(clients, &run.partition, path, &body);
    let code = match answer.await {
        Ok(answer) => match answer.get("AlternateContact") {
            Some(Value::Object(_)) => {
                return Ok(only("SecurityContactRegistered", json!(true)));
            }
            _ => "unreadable answer".to_owned(),
        },
        Err(code) if code == "ResourceNotFoundException" => {
            return Ok(only("SecurityContactRegistered", json!(false)));
        }
        Err(code) => code,
    };
    Err(run.note(Fault {
        call: CONTACT.to_owned(),
        code,
    }))
}
