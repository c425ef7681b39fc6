"""Fills an emulated account for the tests of the collectors: each declared field present once and absent once.

  seed.py ENDPOINT
"""

import json
import re
import sys

import boto3

ENDPOINT = sys.argv[1]
HOME, SECOND = "us-east-1", "eu-west-1"
ACCOUNT = "123456789012"
EVERYONE = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::papers-open/*"}]}


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


def trust(principal):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}]})


def identities():
    iam = client("iam")
    iam.create_account_alias(AccountAlias="papermill")
    iam.update_account_password_policy(MinimumPasswordLength=12, RequireSymbols=True, MaxPasswordAge=90, PasswordReusePrevention=5)
    everything = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
    own = iam.create_policy(PolicyName="press+operators", Path="/floor/", PolicyDocument=everything, Tags=[{"Key": "team", "Value": "press"}])["Policy"]["Arn"]
    iam.create_group(GroupName="binders")
    iam.put_group_policy(GroupName="binders", PolicyName="inline", PolicyDocument=everything)
    iam.attach_group_policy(GroupName="binders", PolicyArn="arn:aws:iam::aws:policy/SecurityAudit")
    for name in ("ann", "bob", "cleo"):
        iam.create_user(UserName=name, Tags=[{"Key": "desk", "Value": name[0]}])
    iam.add_user_to_group(GroupName="binders", UserName="ann")
    iam.attach_user_policy(UserName="bob", PolicyArn=own)
    iam.put_user_policy(UserName="bob", PolicyName="inline", PolicyDocument=everything)
    iam.create_login_profile(UserName="ann", Password="never-used-Anywhere-1")
    device = iam.create_virtual_mfa_device(VirtualMFADeviceName="ann")["VirtualMFADevice"]["SerialNumber"]
    iam.enable_mfa_device(UserName="ann", SerialNumber=device, AuthenticationCode1="123456", AuthenticationCode2="234567")
    iam.create_access_key(UserName="ann")
    spare = iam.create_access_key(UserName="ann")["AccessKey"]["AccessKeyId"]
    iam.update_access_key(UserName="ann", AccessKeyId=spare, Status="Inactive")
    iam.create_access_key(UserName="bob")
    iam.create_role(RoleName="press", Path="/floor/", AssumeRolePolicyDocument=trust({"Service": "ec2.amazonaws.com"}), MaxSessionDuration=7200, Tags=[{"Key": "team", "Value": "press"}])
    iam.attach_role_policy(RoleName="press", PolicyArn="arn:aws:iam::aws:policy/SecurityAudit")
    iam.put_role_policy(RoleName="press", PolicyName="inline", PolicyDocument=everything)
    iam.create_instance_profile(InstanceProfileName="press")
    iam.add_role_to_instance_profile(InstanceProfileName="press", RoleName="press")
    iam.create_role(RoleName="visitor", AssumeRolePolicyDocument=trust({"AWS": "*"}), PermissionsBoundary=own)
    iam.create_saml_provider(Name="door", SAMLMetadataDocument="<EntityDescriptor>" + "x" * 1000 + "</EntityDescriptor>")
    client("s3control").put_public_access_block(
        AccountId=ACCOUNT,
        PublicAccessBlockConfiguration={"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": False, "RestrictPublicBuckets": False},
    )
    # The first call starts the report, the second finds it complete.
    iam.generate_credential_report()


def machines(region):
    ec2 = client("ec2", region)
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "mill"}]}])["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24")["Subnet"]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    ec2.create_flow_logs(
        ResourceIds=[vpc], ResourceType="VPC", TrafficType="REJECT", LogDestinationType="s3", LogDestination="arn:aws:s3:::papers-logs"
    )
    group = ec2.create_security_group(GroupName="press", Description="press hall", VpcId=vpc)["GroupId"]
    peer = ec2.create_security_group(GroupName="office", Description="office", VpcId=vpc)["GroupId"]
    lists = ec2.create_managed_prefix_list(
        PrefixListName="suppliers", MaxEntries=5, AddressFamily="IPv4", Entries=[{"Cidr": "203.0.113.0/24", "Description": "paper"}]
    )["PrefixList"]["PrefixListId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0", "Description": "Ann at home"}]},
            {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]},
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": peer}]},
            {"IpProtocol": "tcp", "FromPort": 631, "ToPort": 631, "PrefixListIds": [{"PrefixListId": lists}]},
        ],
    )
    acl = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
    ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=100, Protocol="6", RuleAction="allow", Egress=False, CidrBlock="0.0.0.0/0", PortRange={"From": 22, "To": 22})
    image = ec2.register_image(Name="press-base", RootDeviceName="/dev/xvda", Architecture="x86_64")["ImageId"]
    script = "#!/bin/sh\nexport DB_PASSWORD=" + "kernel-Panik-77" + "\n"
    first = ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.small", SubnetId=subnet, SecurityGroupIds=[group, peer], UserData=script,
        KeyName="press", IamInstanceProfile={"Name": "press"}, Monitoring={"Enabled": True},
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "HttpEndpoint": "enabled"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "press-1"}]}],
    )["Instances"][0]["InstanceId"]
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.micro")
    ended = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, InstanceType="t3.micro")["Instances"][0]["InstanceId"]
    ec2.terminate_instances(InstanceIds=[ended])
    loose = ec2.create_volume(Size=4, AvailabilityZone=region + "a", Encrypted=True)["VolumeId"]
    shared = ec2.create_snapshot(VolumeId=loose, Description="monthly")["SnapshotId"]
    ec2.modify_snapshot_attribute(SnapshotId=shared, Attribute="createVolumePermission", OperationType="add", GroupNames=["all"])
    ec2.modify_snapshot_attribute(SnapshotId=shared, Attribute="createVolumePermission", OperationType="add", UserIds=["210987654321"])
    ec2.create_snapshot(VolumeId=loose)
    ec2.create_image(InstanceId=first, Name="press-golden")
    ec2.enable_ebs_encryption_by_default()


def buckets():
    s3 = client("s3")
    s3.create_bucket(Bucket="papers-logs")
    s3.create_bucket(Bucket="papers-bare")
    away = client("s3", SECOND)
    away.create_bucket(Bucket="papers-open", CreateBucketConfiguration={"LocationConstraint": SECOND}, ObjectLockEnabledForBucket=True)
    s3.put_bucket_acl(Bucket="papers-logs", ACL="log-delivery-write")
    b = {"Bucket": "papers-open"}
    away.delete_public_access_block(**b)
    away.put_bucket_ownership_controls(**b, OwnershipControls={"Rules": [{"ObjectOwnership": "ObjectWriter"}]})
    away.put_bucket_policy(**b, Policy=json.dumps(EVERYONE))
    away.put_bucket_acl(**b, ACL="public-read")
    away.put_bucket_versioning(**b, VersioningConfiguration={"Status": "Enabled"})
    away.put_bucket_encryption(**b, ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/papers"}, "BucketKeyEnabled": True}]})
    away.put_object_lock_configuration(**b, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}})
    away.put_bucket_website(**b, WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}})
    away.put_bucket_cors(**b, CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "AllowedHeaders": ["x-a"]}]})
    away.put_bucket_lifecycle_configuration(**b, LifecycleConfiguration={"Rules": [{"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}]})
    away.put_bucket_tagging(**b, Tagging={"TagSet": [{"Key": "data", "Value": "public"}]})
    s3.put_bucket_logging(Bucket="papers-bare", BucketLoggingStatus={"LoggingEnabled": {"TargetBucket": "papers-logs", "TargetPrefix": "bare/"}})
    s3.put_bucket_notification_configuration(Bucket="papers-bare", NotificationConfiguration={"EventBridgeConfiguration": {}})
    s3.put_bucket_versioning(Bucket="papers-bare", VersioningConfiguration={"Status": "Enabled"})
    away.put_bucket_replication(
        **b,
        ReplicationConfiguration={
            "Role": f"arn:aws:iam::{ACCOUNT}:role/floor/press",
            "Rules": [{"ID": "copy", "Status": "Enabled", "Priority": 1, "Filter": {"Prefix": ""}, "DeleteMarkerReplication": {"Status": "Disabled"}, "Destination": {"Bucket": "arn:aws:s3:::papers-bare"}}],
        },
    )
    control = client("s3control")
    block = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}
    control.create_access_point(AccountId=ACCOUNT, Name="reading-room", Bucket="papers-bare", PublicAccessBlockConfiguration=block)
    control.create_access_point(AccountId=ACCOUNT, Name="vault-door", Bucket="papers-logs", VpcConfiguration={"VpcId": "vpc-1"})
    control.put_access_point_policy(AccountId=ACCOUNT, Name="reading-room", Policy=json.dumps(EVERYONE))


identities()
for place in (HOME, SECOND):
    machines(place)
buckets()
