"""Reads the same account with boto3 and prints what it says, for the collectors' documents to be compared with.

  oracle.py ENDPOINT REGION [REGION...]

Prints one JSON object a line: {"type", "region", "id", "tags", "answers": {field: value}}, the fields being top-level
names of the type declarations, with all that boto3 returned below them. Errors that say that a thing does not exist
become null; any other error leaves the field out, as it should leave a gap.
"""

import csv
import datetime
import io
import json
import re
import sys

import boto3
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

ENDPOINT, REGIONS = sys.argv[1], sys.argv[2:]
HOME = REGIONS[0]
ABSENT = {
    "NoSuchBucketPolicy", "NoSuchPublicAccessBlockConfiguration", "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchLifecycleConfiguration", "OwnershipControlsNotFoundError", "NoSuchTagSet", "ObjectLockConfigurationNotFoundError",
    "ReplicationConfigurationNotFoundError", "NoSuchWebsiteConfiguration", "NoSuchCORSConfiguration", "NoSuchEntity",
    "NoSuchAccessPointPolicy",
}  # fmt: skip


def client(service, region=HOME):
    made = boto3.client(
        service, region_name=region, endpoint_url=ENDPOINT, aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    if service == "s3control":
        # It puts the account number in front of the host, which a loopback address does not survive.
        made.meta.events.register("before-send.s3-control", bare_host)
    return made


def bare_host(request, **_):
    request.url = re.sub(r"//\d{12}\.", "//", request.url)


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return None
    raise TypeError(type(value))


def emit(kind, region, name, answers, tags):
    print(json.dumps({"type": kind, "region": region, "id": name, "answers": answers, "tags": tags}, default=plain))


def tags_of(resource):
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags") or []}


def ask(answers, call, take):
    """Adds what a call says to the answers; null for each field of a thing that does not exist."""
    try:
        answers.update(take(call()))
    except ClientError as error:
        if error.response["Error"]["Code"] in ABSENT:
            answers.update(take({}))
    except ResponseParserError:
        pass  # the emulator's page for an operation that it lacks


def pages(service, operation, key, **arguments):
    for page in service.get_paginator(operation).paginate(**arguments):
        yield from page.get(key) or []


def account():
    iam, answers = client("iam"), {}
    number = client("sts").get_caller_identity()["Account"]
    ask(answers, iam.get_account_summary, lambda a: {"SummaryMap": a.get("SummaryMap")})
    ask(answers, iam.list_account_aliases, lambda a: {"AccountAliases": a.get("AccountAliases")})
    ask(answers, iam.get_account_password_policy, lambda a: {"PasswordPolicy": a.get("PasswordPolicy")})
    ask(answers, lambda: client("ec2").describe_regions(AllRegions=True), lambda a: {"Regions": a["Regions"]})
    ask(answers, iam.generate_credential_report, lambda a: {"CredentialReportState": a["State"]})
    rows = report(iam)
    if "<root_account>" in rows:
        answers["RootCredentialReport"] = rows["<root_account>"]
    root = [d for d in iam.list_virtual_mfa_devices()["VirtualMFADevices"] if d.get("User", {}).get("Arn", "").endswith(":root")]
    answers["RootVirtualMFADevices"] = root
    holders = {}
    for name in ("AWSSupportAccess", "AWSCloudShellFullAccess", "SecurityAudit"):
        holders[name] = iam.list_entities_for_policy(
            PolicyArn=f"arn:aws:iam::aws:policy/{name}", PolicyUsageFilter="PermissionsPolicy"
        )
    answers["EntitiesForPolicy"] = holders
    ask(answers, iam.list_server_certificates, lambda a: {"ServerCertificateMetadataList": a["ServerCertificateMetadataList"]})
    ask(answers, iam.list_saml_providers, lambda a: {"SAMLProviderList": a["SAMLProviderList"]})
    ask(answers, iam.list_organizations_features, lambda a: {"EnabledFeatures": a["EnabledFeatures"]})
    ask(
        answers,
        lambda: client("s3control").get_public_access_block(AccountId=number),
        lambda a: {"PublicAccessBlockConfiguration": a.get("PublicAccessBlockConfiguration")},
    )
    try:
        client("account").get_alternate_contact(AlternateContactType="SECURITY")
        answers["SecurityContactRegistered"] = True
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            answers["SecurityContactRegistered"] = False
    emit("aws.account", "global", number, answers, None)
    identities(iam, rows)
    return number


def report(iam):
    text = iam.get_credential_report()["Content"].decode()
    words = {"N/A": None, "no_information": None, "not_supported": None, "": None, "true": True, "false": False}
    rows = csv.DictReader(io.StringIO(text))
    return {row["user"]: {name: words.get(cell, cell) for name, cell in row.items()} for row in rows}


def identities(iam, rows):
    kinds = ["User", "Group", "Role", "LocalManagedPolicy", "AWSManagedPolicy"]
    seconds = {role["RoleName"]: role["MaxSessionDuration"] for role in pages(iam, "list_roles", "Roles")}
    for page in iam.get_paginator("get_account_authorization_details").paginate(Filter=kinds):
        for user in page["UserDetailList"]:
            name = user["UserName"]
            devices = list(pages(iam, "list_mfa_devices", "MFADevices", UserName=name))
            emit("aws.iam.user", "global", name, {**user, "CredentialReport": rows[name], "MFADevices": devices}, tags_of(user))
            for key in pages(iam, "list_access_keys", "AccessKeyMetadata", UserName=name):
                used = iam.get_access_key_last_used(AccessKeyId=key["AccessKeyId"])["AccessKeyLastUsed"]
                emit("aws.iam.access-key", "global", key["AccessKeyId"], {**key, "AccessKeyLastUsed": used}, {})
        for group in page["GroupDetailList"]:
            emit("aws.iam.group", "global", group["GroupName"], group, {})
        for role in page["RoleDetailList"]:
            emit("aws.iam.role", "global", role["RoleName"], {**role, "MaxSessionDuration": seconds[role["RoleName"]]}, tags_of(role))
        for policy in page["Policies"]:
            of_aws = ":iam::aws:policy/" in policy["Arn"]
            if of_aws and not policy["AttachmentCount"] and not policy.get("PermissionsBoundaryUsageCount"):
                continue
            document = next(v["Document"] for v in policy["PolicyVersionList"] if v["IsDefaultVersion"])
            emit("aws.iam.policy", "global", policy["Arn"], {**policy, "Document": document}, {} if of_aws else None)


EC2 = [
    ("aws.ec2.security-group", "describe_security_groups", "SecurityGroups", "GroupId", {}),
    ("aws.ec2.volume", "describe_volumes", "Volumes", "VolumeId", {}),
    ("aws.ec2.image", "describe_images", "Images", "ImageId", {"Owners": ["self"], "IncludeDeprecated": True, "IncludeDisabled": True}),
    ("aws.ec2.subnet", "describe_subnets", "Subnets", "SubnetId", {}),
    ("aws.ec2.network-acl", "describe_network_acls", "NetworkAcls", "NetworkAclId", {}),
]


def region(name, number):
    ec2, answers = client("ec2", name), {"RegionName": name}
    ask(answers, ec2.get_ebs_encryption_by_default, lambda a: {"EbsEncryptionByDefault": a["EbsEncryptionByDefault"]})
    ask(answers, ec2.get_snapshot_block_public_access_state, lambda a: {"SnapshotBlockPublicAccessState": a["State"]})
    ask(answers, ec2.get_image_block_public_access_state, lambda a: {"ImageBlockPublicAccessState": a["ImageBlockPublicAccessState"]})
    ask(answers, ec2.get_instance_metadata_defaults, lambda a: {"InstanceMetadataDefaults": a["AccountLevel"]})
    emit("aws.region", name, name, answers, {})
    for kind, operation, key, identity, arguments in EC2:
        for resource in pages(ec2, operation, key, **arguments):
            emit(kind, name, resource[identity], resource, tags_of(resource))
    logs = list(pages(ec2, "describe_flow_logs", "FlowLogs"))
    for vpc in pages(ec2, "describe_vpcs", "Vpcs"):
        own = [log for log in logs if log["ResourceId"] == vpc["VpcId"]]
        emit("aws.ec2.vpc", name, vpc["VpcId"], {**vpc, "FlowLogs": own}, tags_of(vpc))
    for reservation in pages(ec2, "describe_instances", "Reservations"):
        for instance in reservation["Instances"]:
            ident = instance["InstanceId"]
            data = ec2.describe_instance_attribute(InstanceId=ident, Attribute="userData")["UserData"]
            # What the detectors found is checked by a test of its own: here only whether there was anything.
            answers = {**instance, "UserData": "examined" if data.get("Value") else None}
            emit("aws.ec2.instance", name, ident, answers, tags_of(instance))
    for snapshot in pages(ec2, "describe_snapshots", "Snapshots", OwnerIds=["self"]):
        ident = snapshot["SnapshotId"]
        shares = ec2.describe_snapshot_attribute(SnapshotId=ident, Attribute="createVolumePermission")["CreateVolumePermissions"]
        emit("aws.ec2.snapshot", name, ident, {**snapshot, "CreateVolumePermissions": shares}, tags_of(snapshot))
    for prefixes in pages(ec2, "describe_managed_prefix_lists", "PrefixLists"):
        ident = prefixes["PrefixListId"]
        entries = list(pages(ec2, "get_managed_prefix_list_entries", "Entries", PrefixListId=ident))
        emit("aws.ec2.prefix-list", name, ident, {**prefixes, "Entries": entries}, tags_of(prefixes))
    control = client("s3control", name)
    for point in control.list_access_points(AccountId=number)["AccessPointList"]:
        answers, which = dict(point), {"AccountId": number, "Name": point["Name"]}
        whole = "PublicAccessBlockConfiguration"
        ask(answers, lambda: control.get_access_point(**which), lambda a: {whole: a.get(whole)})
        ask(answers, lambda: control.get_access_point_policy(**which), lambda a: {"Policy": json.loads(a["Policy"]) if a else None})
        emit("aws.s3.access-point", name, point["Name"], answers, None)


def named(field):
    return lambda answer: {field: answer.get(field)}


def buckets():
    s3 = client("s3")
    for bucket in s3.list_buckets()["Buckets"]:
        name, answers = bucket["Name"], dict(bucket)
        place = s3.get_bucket_location(Bucket=name)["LocationConstraint"] or "us-east-1"
        answers["BucketRegion"] = place
        there = client("s3", place)
        calls = [
            (there.get_bucket_policy, lambda a: {"Policy": json.loads(a["Policy"]) if a else None}),
            (there.get_bucket_policy_status, named("PolicyStatus")),
            (there.get_bucket_acl, lambda a: {"Owner": a["Owner"], "Grants": a["Grants"]}),
            (there.get_public_access_block, named("PublicAccessBlockConfiguration")),
            (there.get_bucket_ownership_controls, named("OwnershipControls")),
            (there.get_bucket_encryption, named("ServerSideEncryptionConfiguration")),
            (there.get_bucket_versioning, lambda a: {"Versioning": a}),
            (there.get_bucket_logging, named("LoggingEnabled")),
            (there.get_bucket_lifecycle_configuration, lambda a: {"LifecycleRules": a.get("Rules")}),
            (there.get_object_lock_configuration, named("ObjectLockConfiguration")),
            (there.get_bucket_replication, named("ReplicationConfiguration")),
            (there.get_bucket_notification_configuration, lambda a: {"NotificationConfiguration": a}),
            (there.get_bucket_website, lambda a: {"Website": a or None}),
            (there.get_bucket_cors, named("CORSRules")),
        ]
        for call, take in calls:
            ask(answers, lambda: call(Bucket=name), take)
        tags = {}
        ask(tags, lambda: there.get_bucket_tagging(Bucket=name), lambda a: {t["Key"]: t["Value"] for t in a.get("TagSet", [])})
        emit("aws.s3.bucket", "global", name, answers, tags)


number = account()
for place in REGIONS:
    region(place, number)
buckets()
