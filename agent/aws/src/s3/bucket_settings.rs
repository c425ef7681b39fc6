//! What is asked about each bucket, call by call, each with the codes by which S3 says that there
//! is nothing to read.

use std::collections::BTreeMap;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_bucket_notification_configuration::GetBucketNotificationConfigurationOutput as Notifications;
use aws_sdk_s3::operation::get_bucket_website::GetBucketWebsiteOutput as Website;
use aws_sdk_s3::types::{
    CorsRule, Grant, ObjectLockConfiguration, PublicAccessBlockConfiguration,
    ReplicationConfiguration, ServerSideEncryptionConfiguration,
};
use collect::Fault;
use serde_json::{Value, json};

use crate::sweep::Run;
use crate::value::{items, items_or_null, only, policy, record, word};

/// A bucket to ask about, in its own region.
pub(super) struct Asked<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) client: &'a Client,
    pub(super) bucket: &'a str,
}

/// Makes one call about the bucket and turns its answer into one field. `absent` is the code of an
/// answer that there is none; then the field is null.
macro_rules! ask {
    ($asked:ident, $call:literal, $operation:ident, [$($absent:literal)?], $field:literal, $take:expr) => {
        async {
            let sent = $asked.client.$operation().bucket($asked.bucket).send();
            let answer = $asked.run.call_or_absent($call, &[$($absent)?], sent).await;
            let field = answer.map(|answer| only($field, record(answer, $take)));
            ($call, field)
        }
    };
}

/// Reads every setting; returns what each call answered, or why it did not.
pub(super) async fn read(asked: &Asked<'_>) -> Vec<(&'static str, Result<Value, Fault>)> {
    let answers = tokio::join!(
        acl(asked),
        ask!(
            asked,
            "s3:GetBucketPolicy",
            get_bucket_policy,
            ["NoSuchBucketPolicy"],
            "Policy",
            |answer| policy(answer.policy())
        ),
        ask!(
            asked,
            "s3:GetBucketPolicyStatus",
            get_bucket_policy_status,
            ["NoSuchBucketPolicy"],
            "PolicyStatus",
            |answer| record(answer.policy_status, |status| json!({
                "IsPublic": status.is_public(),
            }))
        ),
        ask!(
            asked,
            "s3:GetPublicAccessBlock",
            get_public_access_block,
            ["NoSuchPublicAccessBlockConfiguration"],
            "PublicAccessBlockConfiguration",
            |answer| record(
                answer.public_access_block_configuration(),
                public_access_block
            )
        ),
        ask!(
            asked,
            "s3:GetBucketOwnershipControls",
            get_bucket_ownership_controls,
            ["OwnershipControlsNotFoundError"],
            "OwnershipControls",
            |answer| record(answer.ownership_controls, |controls| json!({
                "Rules": items(controls.rules(), |rule| json!({
                    "ObjectOwnership": rule.object_ownership().as_str(),
                })),
            }))
        ),
        ask!(
            asked,
            "s3:GetBucketEncryption",
            get_bucket_encryption,
            ["ServerSideEncryptionConfigurationNotFoundError"],
            "ServerSideEncryptionConfiguration",
            |answer| record(answer.server_side_encryption_configuration(), encryption)
        ),
        ask!(
            asked,
            "s3:GetBucketVersioning",
            get_bucket_versioning,
            [],
            "Versioning",
            |answer| json!({
                "Status": word(answer.status()),
                "MFADelete": word(answer.mfa_delete()),
            })
        ),
        ask!(
            asked,
            "s3:GetBucketLogging",
            get_bucket_logging,
            [],
            "LoggingEnabled",
            |answer| record(answer.logging_enabled, |logging| json!({
                "TargetBucket": logging.target_bucket(),
                "TargetPrefix": logging.target_prefix(),
            }))
        ),
        ask!(
            asked,
            "s3:GetBucketLifecycleConfiguration",
            get_bucket_lifecycle_configuration,
            ["NoSuchLifecycleConfiguration"],
            "LifecycleRules",
            |answer| items_or_null(answer.rules.as_ref(), |rule| json!({
                "ID": rule.id(),
                "Status": rule.status().as_str(),
            }))
        ),
        ask!(
            asked,
            "s3:GetObjectLockConfiguration",
            get_object_lock_configuration,
            ["ObjectLockConfigurationNotFoundError"],
            "ObjectLockConfiguration",
            |answer| record(answer.object_lock_configuration(), object_lock)
        ),
        ask!(
            asked,
            "s3:GetBucketReplication",
            get_bucket_replication,
            ["ReplicationConfigurationNotFoundError"],
            "ReplicationConfiguration",
            |answer| record(answer.replication_configuration(), replication)
        ),
        ask!(
            asked,
            "s3:GetBucketNotificationConfiguration",
            get_bucket_notification_configuration,
            [],
            "NotificationConfiguration",
            notifications
        ),
        ask!(
            asked,
            "s3:GetBucketWebsite",
            get_bucket_website,
            ["NoSuchWebsiteConfiguration"],
            "Website",
            website
        ),
        ask!(
            asked,
            "s3:GetBucketCors",
            get_bucket_cors,
            ["NoSuchCORSConfiguration"],
            "CORSRules",
            |answer| items_or_null(answer.cors_rules.as_ref(), cors_rule)
        ),
    );
    let (a, b, c, d, e, f, g, h, i, j, k, l, m, n) = answers;
    vec![a, b, c, d, e, f, g, h, i, j, k, l, m, n]
}

/// Reads the access control list, which holds two declared fields.
async fn acl(asked: &Asked<'_>) -> (&'static str, Result<Value, Fault>) {
    const CALL: &str = "s3:GetBucketAcl";
    let sent = asked.client.get_bucket_acl().bucket(asked.bucket).send();
    let answer = asked.run.call(CALL, sent).await;
    let fields = answer.map(|answer| {
        json!({
            "Owner": record(answer.owner(), |owner| json!({"ID": owner.id()})),
            "Grants": items(answer.grants(), grant),
        })
    });
    (CALL, fields)
}

/// Reads the bucket's tags; no tag set is an empty one.
pub(super) async fn tags(asked: &Asked<'_>, call: &str) -> Result<BTreeMap<String, String>, Fault> {
    let sent = asked.client.get_bucket_tagging().bucket(asked.bucket);
    let answer = asked
        .run
        .call_or_absent(call, &["NoSuchTagSet"], sent.send())
        .await?;
    let tags = answer.map(|answer| answer.tag_set).unwrap_or_default();
    let pairs = tags.iter().map(|tag| (Some(tag.key()), Some(tag.value())));
    Ok(crate::value::tags(pairs))
}

fn grant(grant: &Grant) -> Value {
    json!({
        "Permission": word(grant.permission()),
        "Grantee": record(grant.grantee(), |grantee| json!({
            "Type": grantee.r#type().as_str(),
            "ID": grantee.id(),
            "URI": grantee.uri(),
        })),
    })
}

fn public_access_block(block: &PublicAccessBlockConfiguration) -> Value {
    json!({
        "BlockPublicAcls": block.block_public_acls(),
        "IgnorePublicAcls": block.ignore_public_acls(),
        "BlockPublicPolicy": block.block_public_policy(),
        "RestrictPublicBuckets": block.restrict_public_buckets(),
    })
}

fn encryption(configuration: &ServerSideEncryptionConfiguration) -> Value {
    let rules = items(configuration.rules(), |rule| {
        let by_default = rule.apply_server_side_encryption_by_default();
        json!({
            "BucketKeyEnabled": rule.bucket_key_enabled(),
            "ApplyServerSideEncryptionByDefault": record(by_default, |default| json!({
                "SSEAlgorithm": default.sse_algorithm().as_str(),
                "KMSMasterKeyID": default.kms_master_key_id(),
            })),
        })
    });
    json!({"Rules": rules})
}

fn object_lock(lock: &ObjectLockConfiguration) -> Value {
    json!({
        "ObjectLockEnabled": word(lock.object_lock_enabled()),
        "Rule": record(lock.rule(), |rule| json!({
            "DefaultRetention": record(rule.default_retention(), |retention| json!({
                "Mode": word(retention.mode()),
                "Days": retention.days(),
                "Years": retention.years(),
            })),
        })),
    })
}

fn replication(configuration: &ReplicationConfiguration) -> Value {
    json!({
        "Role": configuration.role(),
        "Rules": items(configuration.rules(), |rule| json!({
            "ID": rule.id(),
            "Status": rule.status().as_str(),
            "Destination": record(rule.destination(), |destination| json!({
                "Bucket": destination.bucket(),
                "Account": destination.account(),
            })),
        })),
    })
}

fn notifications(targets: Notifications) -> Value {
    let (topics, queues) = (&targets.topic_configurations, &targets.queue_configurations);
    let functions = &targets.lambda_function_configurations;
    json!({
        "TopicConfigurations": items_or_null(topics.as_ref(), |target| json!({
            "TopicArn": target.topic_arn(),
        })),
        "QueueConfigurations": items_or_null(queues.as_ref(), |target| json!({
            "QueueArn": target.queue_arn(),
        })),
        "LambdaFunctionConfigurations": items_or_null(functions.as_ref(), |target| json!({
            "LambdaFunctionArn": target.lambda_function_arn(),
        })),
        "EventBridgeConfiguration": record(targets.event_bridge_configuration(), |_| json!({})),
    })
}

fn website(website: Website) -> Value {
    let redirect = website.redirect_all_requests_to();
    json!({
        "IndexDocument": record(website.index_document(), |index| json!({
            "Suffix": index.suffix(),
        })),
        "RedirectAllRequestsTo": record(redirect, |redirect| json!({
            "HostName": redirect.host_name(),
            "Protocol": word(redirect.protocol()),
        })),
    })
}

fn cors_rule(rule: &CorsRule) -> Value {
    json!({
        "AllowedOrigins": rule.allowed_origins(),
        "AllowedMethods": rule.allowed_methods(),
        "AllowedHeaders": rule.allowed_headers,
    })
}
