"""Fills an emulated AWS account with a small company: a web shop in two regions, some of it well kept, some not.

    seed.py ENDPOINT

Everything is invented and the same on every run. The secret in the user data and the access keys open nothing. Prints
one JSON line with how many resources of each kind it made.
"""

import collections
import json
import sys
import urllib.request

import boto3
from botocore.config import Config

ENDPOINT = sys.argv[1]
HOME, SECOND = "eu-central-1", "us-east-1"
ACCOUNT = "123456789012"
PARTNER = "210987654321"
MADE = collections.Counter()

session = boto3.Session(aws_access_key_id="demo", aws_secret_access_key="demo", region_name=HOME)


def client(service, region=HOME):
    return session.client(
        service,
        region_name=region,
        endpoint_url=ENDPOINT,
        config=Config(s3={"addressing_style": "path"}, inject_host_prefix=False, proxies={}, retries={"max_attempts": 2}),
    )


def emulator(path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(urllib.request.Request(ENDPOINT + path, method="POST"), timeout=30).read()


def at(days_ago):
    """What is made after this call carries that date."""
    emulator(f"/_emulator/clock?days={-days_ago}")


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action, resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def trust(principal):
    return policy({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})


def tagged(kind, name, env, **more):
    tags = {"Name": name, "env": env, **more}
    return [{"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]


def identities():
    iam = client("iam")
    iam.update_account_password_policy(
        MinimumPasswordLength=8, RequireLowercaseCharacters=True, RequireNumbers=True, AllowUsersToChangePassword=True
    )
    break_glass = iam.create_policy(
        PolicyName="everything", PolicyDocument=policy(allow("*")), Description="Left over from the first week"
    )["Policy"]["Arn"]
    read_logs = iam.create_policy(
        PolicyName="read-logs",
        PolicyDocument=policy(allow(["logs:GetLogEvents", "logs:FilterLogEvents"], f"arn:aws:logs:*:{ACCOUNT}:*")),
    )["Policy"]["Arn"]
    MADE["iam policies"] += 2

    iam.create_group(GroupName="operators")
    iam.attach_group_policy(GroupName="operators", PolicyArn=read_logs)

    # name, days since made, console, second factor, keys, policy of the user's own
    people = [
        ("anna", 20, True, True, 0, None),
        ("boris", 60, True, False, 1, None),
        ("chiara", 15, True, True, 1, None),
        ("deploy", 400, False, False, 2, break_glass),
        ("legacy-backup", 700, False, False, 1, read_logs),
        ("metrics", 30, False, False, 1, None),
    ]
    for name, age, console, second_factor, keys, own_policy in people:
        at(age)
        iam.create_user(UserName=name, Tags=[{"Key": "team", "Value": "shop"}])
        iam.add_user_to_group(GroupName="operators", UserName=name)
        if console:
            iam.create_login_profile(UserName=name, Password="Not-a-real-Passw0rd!", PasswordResetRequired=False)
        if second_factor:
            serial = iam.create_virtual_mfa_device(VirtualMFADeviceName=name)["VirtualMFADevice"]["SerialNumber"]
            iam.enable_mfa_device(UserName=name, SerialNumber=serial, AuthenticationCode1="123456", AuthenticationCode2="654321")
        for _ in range(keys):
            iam.create_access_key(UserName=name)
        if own_policy:
            iam.attach_user_policy(UserName=name, PolicyArn=own_policy)
        MADE["iam users"] += 1
        MADE["access keys"] += keys
    at(0)
    iam.put_user_policy(
        UserName="metrics", PolicyName="assume-anything", PolicyDocument=policy(allow(["sts:AssumeRole", "iam:PassRole"]))
    )

    roles = [
        ("shop-web", {"Service": "ec2.amazonaws.com"}, None),
        ("shop-batch", {"Service": "ec2.amazonaws.com"}, "arn:aws:iam::aws:policy/AdministratorAccess"),
        ("partner-audit", {"AWS": f"arn:aws:iam::{PARTNER}:root"}, "arn:aws:iam::aws:policy/ReadOnlyAccess"),
        ("old-open-door", {"AWS": "*"}, read_logs),
    ]
    for name, principal, attached in roles:
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(principal))
        if attached:
            iam.attach_role_policy(RoleName=name, PolicyArn=attached)
        MADE["iam roles"] += 1
    for name in ("shop-web", "shop-batch"):
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    client("account").put_alternate_contact(
        AlternateContactType="BILLING",
        Name="Accounts",
        Title="Billing",
        EmailAddress="billing@example.com",
        PhoneNumber="+10000000000",
    )


def network(region, cidr, groups):
    """One VPC with a public and a private subnet and the security groups: name → [(port or None for all, source)]."""
    ec2 = client("ec2", region)
    vpc = ec2.create_vpc(CidrBlock=cidr + "0.0/16", TagSpecifications=tagged("vpc", "shop", "prod"))["Vpc"]["VpcId"]
    subnets = {}
    for index, kind in enumerate(("public", "private")):
        subnet = ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=f"{cidr}{index}.0/24",
            AvailabilityZone=region + "a",
            TagSpecifications=tagged("subnet", f"shop-{kind}", "prod"),
        )["Subnet"]["SubnetId"]
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": kind == "public"})
        subnets[kind] = subnet
    made = {}
    for name, rules in groups.items():
        made[name] = ec2.create_security_group(
            GroupName=name, Description=f"{name} of the shop", VpcId=vpc, TagSpecifications=tagged("security-group", name, "prod")
        )["GroupId"]
        for port, source in rules:
            rule = {"IpProtocol": "-1"} if port is None else {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
            key, field = ("Ipv6Ranges", "CidrIpv6") if ":" in source else ("IpRanges", "CidrIp")
            ec2.authorize_security_group_ingress(GroupId=made[name], IpPermissions=[{**rule, key: [{field: source}]}])
        MADE["security groups"] += 1
    MADE["vpcs"] += 1
    return ec2, subnets, made


# The planted secret: an invented value of the shape that scanners look for.
USER_DATA = """#!/bin/sh
export DB_HOST=db.internal.example
export DB_PASSWORD='demo-correct-horse-battery'
/opt/shop/start
"""


def machines(ec2, subnets, groups):
    # name, subnet, group, token required, user data, role, days since started
    plan = [
        ("web-1", "public", "web", False, USER_DATA, "shop-web", 210),
        ("web-2", "public", "web", True, None, "shop-web", 12),
        ("bastion", "public", "admin-open", False, None, None, 420),
        ("batch-1", "private", "internal", True, None, "shop-batch", 3),
        ("db-1", "private", "internal", True, None, "shop-web", 35),
    ]
    for name, subnet, group, token_required, user_data, role, age in plan:
        if subnet not in subnets or group not in groups:
            continue
        at(age)
        ec2.run_instances(
            ImageId="ami-0d3e0000000000001",
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.small",
            UserData=user_data or "",
            MetadataOptions={"HttpTokens": "required" if token_required else "optional", "HttpEndpoint": "enabled"},
            SubnetId=subnets[subnet],
            SecurityGroupIds=[groups[group]],
            TagSpecifications=tagged("instance", name, "prod"),
            **({"IamInstanceProfile": {"Name": role}} if role else {}),
        )
        MADE["instances"] += 1
    at(0)


def disks(ec2, region):
    for name, encrypted in (("data", True), ("scratch", False)):
        volume = ec2.create_volume(
            AvailabilityZone=region + "a", Size=20, Encrypted=encrypted, TagSpecifications=tagged("volume", name, "prod")
        )["VolumeId"]
        snapshot = ec2.create_snapshot(
            VolumeId=volume, Description=f"{name}, weekly", TagSpecifications=tagged("snapshot", f"{name}-weekly", "prod")
        )["SnapshotId"]
        if name == "scratch" and region == HOME:
            ec2.modify_snapshot_attribute(
                SnapshotId=snapshot, Attribute="createVolumePermission", OperationType="add", GroupNames=["all"]
            )
        MADE["volumes"] += 1
        MADE["snapshots"] += 1


def buckets():
    s3 = client("s3")
    wall = dict(BlockPublicAcls=True, IgnorePublicAcls=True, BlockPublicPolicy=True, RestrictPublicBuckets=True)
    names = "invoices", "site-assets", "uploads", "backups", "access-logs"
    for short in names:
        s3.create_bucket(Bucket=f"demo-shop-{short}", CreateBucketConfiguration={"LocationConstraint": HOME})
        MADE["buckets"] += 1

    def arn(short):
        return [f"arn:aws:s3:::demo-shop-{short}", f"arn:aws:s3:::demo-shop-{short}/*"]

    def tls_only(short):
        plain = {"Bool": {"aws:SecureTransport": "false"}}
        return {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": arn(short), "Condition": plain}

    # Before any policy: moto cannot read the principal "*" while it looks for permission to deliver logs.
    s3.put_bucket_acl(
        Bucket="demo-shop-access-logs",
        AccessControlPolicy={
            "Owner": s3.get_bucket_acl(Bucket="demo-shop-access-logs")["Owner"],
            "Grants": [
                {"Grantee": {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/s3/LogDelivery"}, "Permission": level}
                for level in ("WRITE", "READ_ACP")
            ],
        },
    )
    s3.put_bucket_logging(
        Bucket="demo-shop-invoices",
        BucketLoggingStatus={"LoggingEnabled": {"TargetBucket": "demo-shop-access-logs", "TargetPrefix": "invoices/"}},
    )
    # Well kept.
    for short in ("invoices", "access-logs"):
        bucket = f"demo-shop-{short}"
        s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=wall)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        s3.put_bucket_encryption(
            Bucket=bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}]
            },
        )
        s3.put_bucket_policy(Bucket=bucket, Policy=policy(tls_only(short)))
        s3.put_bucket_ownership_controls(
            Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
        )
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "env", "Value": "prod"}]})
    # Public to read on purpose, to write by mistake, and one shared with a partner.
    everyone = {"Effect": "Allow", "Principal": "*"}
    s3.put_bucket_policy(
        Bucket="demo-shop-site-assets", Policy=policy({**everyone, "Action": "s3:GetObject", "Resource": arn("site-assets")[1]})
    )
    s3.put_bucket_website(Bucket="demo-shop-site-assets", WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}})
    s3.put_bucket_policy(
        Bucket="demo-shop-uploads",
        Policy=policy({**everyone, "Action": ["s3:PutObject", "s3:DeleteObject"], "Resource": arn("uploads")[1]}),
    )
    everyone_group = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
    s3.put_bucket_acl(
        Bucket="demo-shop-uploads",
        AccessControlPolicy={
            "Owner": s3.get_bucket_acl(Bucket="demo-shop-uploads")["Owner"],
            "Grants": [{"Grantee": everyone_group, "Permission": level} for level in ("READ", "WRITE")],
        },
    )
    partner = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{PARTNER}:root"}}
    s3.put_bucket_policy(
        Bucket="demo-shop-backups", Policy=policy({**partner, "Action": "s3:GetObject", "Resource": arn("backups")[1]})
    )


def main():
    emulator("/moto-api/seed?a=7")
    at(0)
    identities()
    anywhere, six = "0.0.0.0/0", "::/0"
    groups = {
        "web": [(443, anywhere), (443, six)],
        "admin-open": [(22, anywhere), (3389, anywhere)],
        "internal": [(5432, "10.20.0.0/16")],
        "forgotten": [(None, anywhere)],
    }
    ec2, subnets, made = network(HOME, "10.20.", groups)
    machines(ec2, subnets, made)
    disks(ec2, HOME)
    ec2.enable_ebs_encryption_by_default()
    ec2, subnets, made = network(SECOND, "10.30.", {"web": [(443, anywhere)], "search": [(9200, anywhere)]})
    machines(ec2, subnets, {"web": made["search"]})
    disks(ec2, SECOND)
    buckets()
    print(json.dumps(MADE))


if __name__ == "__main__":
    main()
