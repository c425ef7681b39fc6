//! What a source needs to be allowed, and what leaves this host: both made from the declarations
//! of the resource types, so that neither can say more or less than the collectors do.

use std::collections::{BTreeMap, BTreeSet};

use protocol::declare::{Declarations, Field, Kind as FieldKind, ResourceType};
use serde::Serialize;
use serde_json::{Value, json};

use crate::checks::{self, Fact};
use crate::cli::PolicyFormat;
use crate::sources::Kind;

/// What `azure` asks beside the declared types: the list of subscriptions that it reads.
/// Source: https://learn.microsoft.com/azure/role-based-access-control/permissions/management-and-governance
const AZURE_SUBSCRIPTIONS: &str = "Microsoft.Resources/subscriptions/read";

/// What the custom role or policy is called.
const NAME: &str = "zero-x-agent";

fn types(kind: Kind) -> impl Iterator<Item = &'static ResourceType> {
    let all = Declarations::builtin().iter();
    all.filter(move |declared| declared.provider() == kind.name())
}

/// Returns every permission that a source of `kind` needs.
pub(crate) fn permissions(kind: Kind) -> BTreeSet<String> {
    let declared = types(kind).flat_map(|declared| declared.calls().into_values());
    let mut needed: BTreeSet<String> = declared.collect();
    if kind == Kind::Azure {
        needed.insert(AZURE_SUBSCRIPTIONS.to_owned());
    }
    needed.remove("none");
    needed.remove("");
    needed
}

/// Returns the least-privilege document of a source, ready to paste.
///
/// # Errors
///
/// A clause that names the formats that the kind has.
pub(crate) fn policy(kind: Kind, format: PolicyFormat) -> Result<String, &'static str> {
    let needed: Vec<String> = permissions(kind).into_iter().collect();
    match (kind, format) {
        (Kind::Aws, PolicyFormat::Json) => Ok(pretty(&aws_policy(&needed))),
        (Kind::Aws, PolicyFormat::Terraform) => Ok(aws_terraform(&needed)),
        (Kind::Aws, PolicyFormat::Cloudformation) => Ok(pretty(&json!({
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": "What zero-x-agent may read",
            "Resources": {"ZeroXAgentPolicy": {
                "Type": "AWS::IAM::ManagedPolicy",
                "Properties": {"ManagedPolicyName": NAME, "PolicyDocument": aws_policy(&needed)},
            }},
        }))),
        (Kind::Aws, PolicyFormat::Bicep) => {
            Err("an aws source has json, terraform and cloudformation")
        }
        (Kind::Gcp, PolicyFormat::Json) => Ok(pretty(&json!({
            "title": NAME,
            "description": "What zero-x-agent may read",
            "stage": "GA",
            "includedPermissions": needed,
        }))),
        (Kind::Gcp, PolicyFormat::Terraform) => Ok(gcp_terraform(&needed)),
        (Kind::Gcp, PolicyFormat::Cloudformation | PolicyFormat::Bicep) => {
            Err("a gcp source has json and terraform")
        }
        (Kind::Azure, PolicyFormat::Json) => Ok(pretty(&json!({
            "Name": NAME,
            "IsCustom": true,
            "Description": "What zero-x-agent may read",
            "Actions": needed,
            "NotActions": [],
            "DataActions": [],
            "NotDataActions": [],
            "AssignableScopes": ["/subscriptions/SUBSCRIPTION_ID"],
        }))),
        (Kind::Azure, PolicyFormat::Terraform) => Ok(azure_terraform(&needed)),
        (Kind::Azure, PolicyFormat::Bicep) => Ok(azure_bicep(&needed)),
        (Kind::Azure, PolicyFormat::Cloudformation) => {
            Err("an azure source has json, terraform and bicep")
        }
        (Kind::Host, PolicyFormat::Json) => Ok(drop_in("host.conf")),
        (Kind::Wazuh, PolicyFormat::Json) => Ok(drop_in("wazuh.conf")),
        (
            Kind::Host | Kind::Wazuh,
            PolicyFormat::Terraform | PolicyFormat::Cloudformation | PolicyFormat::Bicep,
        ) => Err("a source of this host has json: the systemd drop-in that it needs"),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn aws_policy(actions: &[String]) -> Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "ZeroXRead", "Effect": "Allow", "Action": actions, "Resource": "*"},
        ],
    })
}

fn drop_in(file: &str) -> String {
    pretty(&json!({
        "systemd_drop_in": format!("/etc/systemd/system/zero-x-agent.service.d/{file}"),
        "shipped_as": format!("/usr/share/doc/zero-x-agent/zero-x-agent.service.d/{file}"),
    }))
}

fn quoted(items: &[String], indent: &str) -> String {
    let lines = items.iter().map(|item| format!("{indent}\"{item}\",\n"));
    lines.collect()
}

fn aws_terraform(actions: &[String]) -> String {
    format!(
        "data \"aws_iam_policy_document\" \"zero_x_agent\" {{\n  statement {{\n    \
         sid       = \"ZeroXRead\"\n    effect    = \"Allow\"\n    resources = [\"*\"]\n    \
         actions = [\n{}    ]\n  }}\n}}\n\n\
         resource \"aws_iam_policy\" \"zero_x_agent\" {{\n  name   = \"{NAME}\"\n  \
         policy = data.aws_iam_policy_document.zero_x_agent.json\n}}\n",
        quoted(actions, "      ")
    )
}

fn gcp_terraform(permissions: &[String]) -> String {
    format!(
        "variable \"org_id\" {{\n  type = string\n}}\n\n\
         resource \"google_organization_iam_custom_role\" \"zero_x_agent\" {{\n  \
         org_id      = var.org_id\n  role_id     = \"zeroXAgent\"\n  title       = \"{NAME}\"\n  \
         permissions = [\n{}  ]\n}}\n",
        quoted(permissions, "    ")
    )
}

fn azure_terraform(actions: &[String]) -> String {
    format!(
        "data \"azurerm_subscription\" \"current\" {{}}\n\n\
         resource \"azurerm_role_definition\" \"zero_x_agent\" {{\n  name  = \"{NAME}\"\n  \
         scope = data.azurerm_subscription.current.id\n\n  permissions {{\n    actions = [\n{}    \
         ]\n  }}\n\n  assignable_scopes = [data.azurerm_subscription.current.id]\n}}\n",
        quoted(actions, "      ")
    )
}

fn azure_bicep(actions: &[String]) -> String {
    let lines = actions
        .iter()
        .map(|action| format!("          '{action}'\n"));
    let lines: String = lines.collect();
    format!(
        "targetScope = 'subscription'\n\n\
         resource zeroXAgent 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {{\n  \
         name: guid(subscription().id, '{NAME}')\n  properties: {{\n    roleName: '{NAME}'\n    \
         type: 'CustomRole'\n    permissions: [\n      {{\n        actions: [\n{lines}        \
         ]\n      }}\n    ]\n    assignableScopes: [\n      subscription().id\n    ]\n  }}\n}}\n"
    )
}

/// One field that a source reads.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct DataRow {
    #[serde(rename = "type")]
    pub(crate) type_name: String,
    pub(crate) field: String,
    /// `leaves` or `examined here`: of the latter only kind, place and fingerprint leave.
    pub(crate) class: &'static str,
    pub(crate) call: String,
    pub(crate) meaning: String,
}

/// Returns every field of every type that a source of `kind` reads.
pub(crate) fn data(kind: Kind) -> Vec<DataRow> {
    if kind == Kind::Wazuh {
        return events();
    }
    let mut rows = Vec::new();
    for declared in types(kind) {
        for (name, field) in &declared.fields {
            data_of(&declared.name, name, field, &mut rows);
        }
        // A host has no tags.
        if kind != Kind::Host {
            rows.push(DataRow {
                type_name: declared.name.clone(),
                field: "tags".to_owned(),
                class: "leaves",
                call: declared
                    .tags_call
                    .as_ref()
                    .unwrap_or(&declared.call)
                    .clone(),
                meaning: "Tags or labels, all of them, where the type has any.".to_owned(),
            });
        }
    }
    rows
}

/// Returns what leaves of an alert: the fields of [`protocol::event::EventRecord`].
fn events() -> Vec<DataRow> {
    const FIELDS: [(&str, &str); 10] = [
        ("time_ms", "When it happened by the manager's clock."),
        ("class_uid", "OCSF class: 2004, Detection Finding."),
        ("severity", "The rule's level as OCSF's severity."),
        ("action", "The rule's description."),
        ("activity", "Outcome or kind, as the alert's data name it."),
        ("actor", "Who did it, as the alert's data name it."),
        ("resource", "The manager's agent it happened on."),
        ("src_ip", "Source address, as the alert's data name it."),
        ("native_id", "The manager's id of the alert."),
        (
            "raw",
            "The whole alert; session tokens, passwords and keys are scrubbed on this host.",
        ),
    ];
    let row = |(field, meaning): (&str, &str)| DataRow {
        type_name: "wazuh.alert".to_owned(),
        field: field.to_owned(),
        class: "leaves",
        call: "wazuh:alerts.json".to_owned(),
        meaning: meaning.to_owned(),
    };
    FIELDS.into_iter().map(row).collect()
}

fn data_of(type_name: &str, path: &str, field: &Field, rows: &mut Vec<DataRow>) {
    let below = if let FieldKind::Record(fields) = &field.kind {
        Some((path.to_owned(), fields))
    } else if let FieldKind::List(of) = &field.kind
        && let FieldKind::Record(fields) = of.as_ref()
    {
        Some((format!("{path}[]"), fields))
    } else {
        None
    };
    if let Some((path, fields)) = below {
        for (name, field) in fields {
            data_of(type_name, &format!("{path}.{name}"), field, rows);
        }
        return;
    }
    rows.push(DataRow {
        type_name: type_name.to_owned(),
        field: path.to_owned(),
        class: if field.kind == FieldKind::Secret {
            "examined here"
        } else {
            "leaves"
        },
        call: field.call.clone(),
        meaning: field.meaning.clone(),
    });
}

/// What stays unknown without one call.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Dark {
    /// `type` for a whole type whose list the call is, else `type: field, field`.
    pub(crate) fields: Vec<String>,
    /// Ids of the checks that may have to say UNKNOWN, in order.
    pub(crate) checks: BTreeSet<&'static str>,
}

/// Returns what stays unknown without each call of a source. A key is the call and its
/// permission: Azure asks for several types by the same call, each with a permission of its own.
pub(crate) fn blinded(kind: Kind) -> BTreeMap<(String, String), Dark> {
    let checks: Vec<(&'static str, BTreeSet<Fact>)> = checks::of_provider(kind.name())
        .map(|check| (check.id, check.reads()))
        .collect();
    let mut dark: BTreeMap<(String, String), Dark> = BTreeMap::new();
    for declared in types(kind) {
        let permissions = declared.calls();
        let mut of_type: BTreeMap<&str, Vec<Fact>> = BTreeMap::new();
        for call in listed_by(kind, declared) {
            of_type
                .entry(call)
                .or_default()
                .push(Fact::List(&declared.name));
        }
        for (name, field) in &declared.fields {
            let fact = Fact::Field(&declared.name, name);
            for call in calls_of(field) {
                of_type.entry(call).or_default().push(fact);
            }
        }
        let call = declared.tags_call.as_ref().unwrap_or(&declared.call);
        of_type
            .entry(call)
            .or_default()
            .push(Fact::Tags(&declared.name));
        for (call, facts) in of_type {
            let permission = permissions.get(call).cloned();
            let key = (
                call.to_owned(),
                permission.unwrap_or_else(|| call.to_owned()),
            );
            let entry = dark.entry(key).or_default();
            entry.fields.push(described(declared, &facts));
            let is_blind = |reads: &BTreeSet<Fact>| facts.iter().any(|fact| reads.contains(fact));
            let blind = checks.iter().filter(|(_, reads)| is_blind(reads));
            entry.checks.extend(blind.map(|(id, _)| *id));
        }
    }
    if kind == Kind::Azure {
        // Without the list of subscriptions nothing is asked for.
        let everything = Dark {
            fields: types(kind).map(|declared| declared.name.clone()).collect(),
            checks: checks.iter().map(|(id, _)| *id).collect(),
        };
        let key = (
            azure::SUBSCRIPTIONS.to_owned(),
            AZURE_SUBSCRIPTIONS.to_owned(),
        );
        dark.insert(key, everything);
    }
    dark
}

fn listed_by(kind: Kind, declared: &ResourceType) -> Vec<&str> {
    match kind {
        Kind::Aws => aws::listed_by(declared),
        Kind::Gcp | Kind::Azure | Kind::Host | Kind::Wazuh => vec![&declared.call],
    }
}

/// Returns the calls that read a field or a part of it.
fn calls_of(field: &Field) -> BTreeSet<&str> {
    let below = fields_of(&field.kind)
        .into_iter()
        .flat_map(BTreeMap::values);
    let mut calls: BTreeSet<&str> = below.flat_map(calls_of).collect();
    calls.insert(&field.call);
    calls
}

/// Returns the fields of a record, or of each element of a list.
fn fields_of(kind: &FieldKind) -> Option<&BTreeMap<String, Field>> {
    let kind = if let FieldKind::List(of) = kind {
        of
    } else {
        kind
    };
    if let FieldKind::Record(fields) = kind {
        return Some(fields);
    }
    None
}

fn described(declared: &'static ResourceType, facts: &[Fact]) -> String {
    let name = &declared.name;
    if facts.contains(&Fact::List(name)) {
        return name.clone();
    }
    let parts: Vec<&str> = facts
        .iter()
        .map(|fact| match *fact {
            Fact::Field(_, field) => field,
            Fact::Tags(_) => "tags",
            Fact::List(_) => "",
        })
        .collect();
    format!("{name}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_aws_policy_allows_a_call_that_writes() {
        let reads = ["Get", "List", "Describe", "Generate", "Lookup", "Batch"];
        for action in permissions(Kind::Aws) {
            let (_, verb) = action.split_once(':').unwrap();
            assert!(reads.iter().any(|read| verb.starts_with(read)), "{action}");
            assert!(!action.contains('*'), "{action}");
        }
    }

    #[test]
    fn a_policy_names_every_declared_permission() {
        let text = policy(Kind::Aws, PolicyFormat::Json).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let actions = json["Statement"][0]["Action"].as_array().unwrap();
        for needed in [
            "ec2:DescribeVpcs",
            "s3:ListAllMyBuckets",
            "s3:GetBucketPolicy",
            "s3:GetBucketTagging",
        ] {
            assert!(actions.iter().any(|action| action == needed), "{needed}");
        }
        let has = |kind, format, needed: &str| policy(kind, format).unwrap().contains(needed);
        for format in [PolicyFormat::Terraform, PolicyFormat::Cloudformation] {
            assert!(has(Kind::Aws, format, "s3:ListAllMyBuckets"));
        }
        let needed = "cloudasset.assets.listResource";
        assert!(has(Kind::Gcp, PolicyFormat::Terraform, needed));
        let needed = "Microsoft.Storage/storageAccounts/read";
        assert!(has(Kind::Azure, PolicyFormat::Bicep, needed));
        assert!(policy(Kind::Aws, PolicyFormat::Bicep).is_err());
    }

    #[test]
    fn secret_fields_are_shown_as_examined_here_and_all_others_as_leaving() {
        let rows = data(Kind::Aws);
        let class = |type_name: &str, field: &str| {
            let found = rows
                .iter()
                .find(|row| row.type_name == type_name && row.field == field);
            found.map(|row| row.class)
        };
        let user_data = class("aws.ec2.instance", "UserData");
        assert_eq!(user_data, Some("examined here"));
        let nested = class(
            "aws.ec2.security-group",
            "IpPermissions[].IpRanges[].CidrIp",
        );
        assert_eq!(nested, Some("leaves"));
    }

    #[test]
    fn every_field_of_an_event_is_shown_as_leaving() {
        let event = protocol::event::EventRecord::default();
        let event = serde_json::to_value(event).unwrap();
        let fields: BTreeSet<&String> = event.as_object().unwrap().keys().collect();
        let rows = data(Kind::Wazuh);
        assert_eq!(fields, rows.iter().map(|row| &row.field).collect());
        // A bucket's tags come with a call of their own, and leave too.
        let rows = data(Kind::Aws);
        let mut tags = rows.iter().filter(|row| row.field == "tags");
        let bucket = tags.find(|row| row.type_name == "aws.s3.bucket");
        assert_eq!(
            bucket.map(|row| row.call.as_str()),
            Some("s3:GetBucketTagging")
        );
    }

    fn dark(kind: Kind, call: &str, permission: &str) -> Dark {
        blinded(kind)[&(call.to_owned(), permission.to_owned())].clone()
    }

    #[test]
    fn a_missing_permission_names_what_goes_dark() {
        let call = "s3:GetBucketPolicy";
        let policy = dark(Kind::Aws, call, call).fields;
        assert_eq!(policy, ["aws.s3.bucket: Policy"]);
        let call = "ec2:DescribeVpcs";
        assert_eq!(dark(Kind::Aws, call, call).fields, ["aws.ec2.vpc"]);
        let call = "s3:GetBucketTagging";
        assert_eq!(dark(Kind::Aws, call, call).fields, ["aws.s3.bucket: tags"]);
        // The account's document is there without its list; only what the list says is missing.
        let call = "iam:GetAccountSummary";
        let summary = dark(Kind::Aws, call, call).fields;
        assert!(summary[0].starts_with("aws.account: "), "{summary:?}");
    }

    #[test]
    fn a_missing_permission_names_the_checks_that_it_blinds_and_no_others() {
        let call = "account:GetAlternateContact";
        let blind = dark(Kind::Aws, call, call).checks;
        let contact = "aws.account.security-contact-information-registered";
        assert_eq!(blind, BTreeSet::from([contact]));
        // What a neighbour does not tell is missing too, and so is the account's own setting.
        let call = "ec2:DescribeSecurityGroups";
        let judged = |id: &str| id.starts_with("aws.ec2.instance-");
        assert!(dark(Kind::Aws, call, call).checks.into_iter().any(judged));
        let account = dark(
            Kind::Aws,
            "s3control:GetPublicAccessBlock",
            "s3:GetAccountPublicAccessBlock",
        );
        let judged = |id: &str| id.starts_with("aws.s3.bucket-");
        assert!(account.checks.into_iter().any(judged));
        // Keys are found through their users.
        let call = "iam:GetAccountAuthorizationDetails";
        let users = dark(Kind::Aws, call, call);
        let keys = dark(Kind::Aws, "iam:ListAccessKeys", "iam:ListAccessKeys");
        assert!(keys.checks.is_subset(&users.checks));
        assert!(users.fields.contains(&"aws.iam.access-key".to_owned()));
    }

    #[test]
    fn azure_types_of_one_call_go_dark_each_with_its_own_permission() {
        let call = "resourcegraph:Resources";
        let storage = dark(Kind::Azure, call, "Microsoft.Storage/storageAccounts/read");
        assert_eq!(storage.fields, ["azure.storage.account"]);
        let checks = &storage.checks;
        assert!(!checks.is_empty() && checks.iter().all(|id| id.starts_with("azure.storage.")));
        let all = dark(Kind::Azure, azure::SUBSCRIPTIONS, AZURE_SUBSCRIPTIONS);
        assert_eq!(all.checks.len(), checks::of_provider("azure").count());
    }

    #[test]
    fn a_gcp_source_without_policies_blinds_only_who_reads_them() {
        let policies = dark(
            Kind::Gcp,
            "cloudasset:assets.list:IAM_POLICY",
            "cloudasset.assets.listIamPolicy",
        );
        let resources = dark(
            Kind::Gcp,
            "cloudasset:assets.list:RESOURCE",
            "cloudasset.assets.listResource",
        );
        assert!(!policies.checks.is_empty());
        assert_eq!(resources.checks.len(), checks::of_provider("gcp").count());
        assert!(policies.checks.len() < resources.checks.len());
    }
}
