//! Tries every call of the declared types once: may this source make it?
//!
//! EC2 is asked with its dry run, which answers the question and nothing else; the others with
//! the smallest page there is, about one resource where the call needs one.

use std::error::Error;
use std::future::Future;

use aws_sdk_ec2::types::{InstanceAttributeName, SnapshotAttributeName};
use aws_sdk_iam::types::EntityType;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use collect::Probe;
use serde_json::json;

use crate::caller;
use crate::fault::code_of;
use crate::sweep::Run;

/// What a call about one resource is asked about. A name that nothing has will do for IAM and
/// EC2, which check the right first; S3 says only that there is no such bucket.
struct Samples {
    user: String,
    key: Option<String>,
    bucket: Option<(String, aws_sdk_s3::Client)>,
}

const NO_USER: &str = "zero-x-probe";
const NO_INSTANCE: &str = "i-00000000000000000";
const NO_SNAPSHOT: &str = "snap-00000000000000000";
const NO_PREFIX_LIST: &str = "pl-00000000000000000";
const NO_ACCESS_POINT: &str = "zero-x-probe";

/// Codes by which a service answers, beside those that say that there is no such thing.
const ANSWERS: &[&str] = &[
    "DryRunOperation",
    "ReportInProgress",
    "ReportExpired",
    "CredentialReportNotPresentException",
    "ReportNotPresent",
    "AccountNotManagementOrDelegatedAdministratorException",
    "OrganizationNotInAllFeaturesModeException",
    "ServiceAccessNotEnabledException",
];

/// Tries every call.
pub(crate) async fn all(run: &Run<'_>) -> Vec<Probe> {
    let samples = Samples::find(run).await;
    let mut probes = Vec::new();
    for (call, permission) in crate::permissions() {
        let refused = match one(run, &samples, &call).await {
            Ok(()) => None,
            Err(code) if is_answer(&code) => None,
            Err(code) => Some(code),
        };
        probes.push(Probe {
            call,
            permission,
            refused,
        });
    }
    probes
}

fn is_answer(code: &str) -> bool {
    ANSWERS.contains(&code)
        || code.starts_with("NoSuch")
        || code.contains("NotFound")
        || code.starts_with("InvalidInstanceID")
        || code.starts_with("InvalidSnapshot")
        || code.starts_with("InvalidPrefixList")
}

impl Samples {
    async fn find(run: &Run<'_>) -> Self {
        let iam = run.clients.iam();
        let asked = iam
            .get_account_authorization_details()
            .filter(EntityType::User);
        let users = asked.max_items(1).send().await.ok();
        let user = users.and_then(|page| {
            let user = page.user_detail_list().first()?;
            user.user_name().map(str::to_owned)
        });
        let user = user.unwrap_or_else(|| NO_USER.to_owned());
        let asked = iam.list_access_keys().user_name(&user).max_items(1);
        let keys = asked.send().await.ok();
        let key = keys.and_then(|page| {
            let key = page.access_key_metadata().first()?;
            key.access_key_id().map(str::to_owned)
        });
        let home = run.clients.home();
        let asked = run.clients.s3(home).list_buckets().max_buckets(1);
        let buckets = asked.send().await.ok();
        let bucket = buckets.and_then(|page| {
            let bucket = page.buckets().first()?;
            let region = bucket.bucket_region().unwrap_or(home);
            Some((bucket.name()?.to_owned(), run.clients.s3(region)))
        });
        Self { user, key, bucket }
    }
}

/// Sends one call and forgets what it answers.
async fn sent<T, E>(
    request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<(), String>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    request.await.map(|_| ()).map_err(|error| code_of(&error))
}

async fn one(run: &Run<'_>, samples: &Samples, call: &str) -> Result<(), String> {
    match call.split_once(':').unwrap_or_default() {
        ("account", "GetAlternateContact") => account(run).await,
        ("ec2", operation) => ec2(run, operation).await,
        ("iam", operation) => iam(run, samples, operation).await,
        ("s3", "ListBuckets") => {
            let client = run.clients.s3(run.clients.home());
            sent(client.list_buckets().max_buckets(1).send()).await
        }
        ("s3", operation) => match &samples.bucket {
            Some((bucket, client)) => s3(client, bucket, operation).await,
            None => Err("untried: no bucket".to_owned()),
        },
        ("s3control", operation) => s3control(run, operation).await,
        _ => Err("untried".to_owned()),
    }
}

async fn account(run: &Run<'_>) -> Result<(), String> {
    let body = json!({"AlternateContactType": "SECURITY"});
    let (clients, path) = (&run.clients, "/getAlternateContact");
    let answer = caller::ACCOUNT.post(clients, &run.partition, path, &body);
    answer.await.map(|_| ())
}

async fn ec2(run: &Run<'_>, operation: &str) -> Result<(), String> {
    let client = run.clients.ec2(run.clients.home());
    macro_rules! dry {
        ($operation:ident $(, $argument:ident = $value:expr)*) => {
            sent(client.$operation().dry_run(true)$(.$argument($value))*.send()).await
        };
    }
    match operation {
        "DescribeFlowLogs" => dry!(describe_flow_logs),
        "DescribeImages" => dry!(describe_images, owners = "self"),
        "DescribeInstanceAttribute" => dry!(
            describe_instance_attribute,
            instance_id = NO_INSTANCE,
            attribute = InstanceAttributeName::UserData
        ),
        "DescribeInstances" => dry!(describe_instances),
        "DescribeManagedPrefixLists" => dry!(describe_managed_prefix_lists),
        "DescribeNetworkAcls" => dry!(describe_network_acls),
        "DescribeRegions" => dry!(describe_regions),
        "DescribeSecurityGroups" => dry!(describe_security_groups),
        "DescribeSnapshotAttribute" => dry!(
            describe_snapshot_attribute,
            snapshot_id = NO_SNAPSHOT,
            attribute = SnapshotAttributeName::CreateVolumePermission
        ),
        "DescribeSnapshots" => dry!(describe_snapshots, owner_ids = "self"),
        "DescribeSubnets" => dry!(describe_subnets),
        "DescribeVolumes" => dry!(describe_volumes),
        "DescribeVpcs" => dry!(describe_vpcs),
        "GetEbsEncryptionByDefault" => dry!(get_ebs_encryption_by_default),
        "GetImageBlockPublicAccessState" => dry!(get_image_block_public_access_state),
        "GetInstanceMetadataDefaults" => dry!(get_instance_metadata_defaults),
        "GetManagedPrefixListEntries" => dry!(
            get_managed_prefix_list_entries,
            prefix_list_id = NO_PREFIX_LIST
        ),
        "GetSnapshotBlockPublicAccessState" => dry!(get_snapshot_block_public_access_state),
        _ => Err("untried".to_owned()),
    }
}

async fn iam(run: &Run<'_>, samples: &Samples, operation: &str) -> Result<(), String> {
    let iam = run.clients.iam();
    let user = samples.user.as_str();
    macro_rules! page {
        ($operation:ident $(, $argument:ident = $value:expr)*) => {
            sent(iam.$operation().max_items(1)$(.$argument($value))*.send()).await
        };
    }
    match operation {
        "GenerateCredentialReport" => sent(iam.generate_credential_report().send()).await,
        "GetAccessKeyLastUsed" => match &samples.key {
            Some(key) => sent(iam.get_access_key_last_used().access_key_id(key).send()).await,
            None => Err("untried: no access key".to_owned()),
        },
        "GetAccountAuthorizationDetails" => page!(get_account_authorization_details),
        "GetAccountPasswordPolicy" => sent(iam.get_account_password_policy().send()).await,
        "GetAccountSummary" => sent(iam.get_account_summary().send()).await,
        "GetCredentialReport" => sent(iam.get_credential_report().send()).await,
        "ListAccessKeys" => page!(list_access_keys, user_name = user),
        "ListAccountAliases" => page!(list_account_aliases),
        "ListEntitiesForPolicy" => {
            let arn = format!("arn:{}:iam::aws:policy/SecurityAudit", run.partition);
            page!(list_entities_for_policy, policy_arn = arn)
        }
        "ListMFADevices" => page!(list_mfa_devices, user_name = user),
        "ListOrganizationsFeatures" => sent(iam.list_organizations_features().send()).await,
        "ListRoles" => page!(list_roles),
        "ListSAMLProviders" => sent(iam.list_saml_providers().send()).await,
        "ListServerCertificates" => page!(list_server_certificates),
        "ListVirtualMFADevices" => page!(list_virtual_mfa_devices),
        _ => Err("untried".to_owned()),
    }
}

async fn s3(client: &aws_sdk_s3::Client, bucket: &str, operation: &str) -> Result<(), String> {
    macro_rules! about {
        ($operation:ident) => {
            sent(client.$operation().bucket(bucket).send()).await
        };
    }
    match operation {
        "GetBucketAcl" => about!(get_bucket_acl),
        "GetBucketCors" => about!(get_bucket_cors),
        "GetBucketEncryption" => about!(get_bucket_encryption),
        "GetBucketLifecycleConfiguration" => about!(get_bucket_lifecycle_configuration),
        "GetBucketLocation" => about!(get_bucket_location),
        "GetBucketLogging" => about!(get_bucket_logging),
        "GetBucketNotificationConfiguration" => about!(get_bucket_notification_configuration),
        "GetBucketOwnershipControls" => about!(get_bucket_ownership_controls),
        "GetBucketPolicy" => about!(get_bucket_policy),
        "GetBucketPolicyStatus" => about!(get_bucket_policy_status),
        "GetBucketReplication" => about!(get_bucket_replication),
        "GetBucketTagging" => about!(get_bucket_tagging),
        "GetBucketVersioning" => about!(get_bucket_versioning),
        "GetBucketWebsite" => about!(get_bucket_website),
        "GetObjectLockConfiguration" => about!(get_object_lock_configuration),
        "GetPublicAccessBlock" => about!(get_public_access_block),
        _ => Err("untried".to_owned()),
    }
}

async fn s3control(run: &Run<'_>, operation: &str) -> Result<(), String> {
    let client = run.clients.s3control(run.clients.home(), &run.account);
    macro_rules! about {
        ($operation:ident $(, $argument:ident = $value:expr)*) => {
            sent(client.$operation().account_id(&run.account)$(.$argument($value))*.send()).await
        };
    }
    match operation {
        "GetAccessPoint" => about!(get_access_point, name = NO_ACCESS_POINT),
        "GetAccessPointPolicy" => about!(get_access_point_policy, name = NO_ACCESS_POINT),
        "GetPublicAccessBlock" => about!(get_public_access_block),
        "ListAccessPoints" => about!(list_access_points, max_results = 1),
        _ => Err("untried".to_owned()),
    }
}
