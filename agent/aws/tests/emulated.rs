//! The collectors against an emulated account (moto), with boto3 as the second opinion, and with
//! every call refused, throttled, cut short and left blank in turn.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "emulated/emulator.rs"]
mod emulator;
#[path = "emulated/facts.rs"]
mod facts;
#[path = "emulated/proxy.rs"]
mod proxy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use collect::{Fact, Inventory as _, Output};
use emulator::Emulator;
use facts::{Facts, connect, sync};
use futures::StreamExt as _;
use protocol::declare::{Declarations, Kind, ResourceType};
use protocol::document::Document;
use protocol::urn::Scope;
use proxy::{Answer, Memory, Proxy, Request, Rule, locked};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn nothing() -> Rule {
    Arc::new(|_| None)
}

fn declared(name: &str) -> &'static ResourceType {
    Declarations::builtin().get(name).unwrap()
}

fn types() -> impl Iterator<Item = &'static ResourceType> {
    let all = Declarations::builtin().iter();
    all.filter(|declared| declared.provider() == "aws")
}

/// A list that is empty and one that is absent say the same; the SDK does not tell them apart.
fn without_empty_lists(value: Value) -> Value {
    match value {
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => items.into_iter().map(without_empty_lists).collect(),
        Value::Object(map) => {
            let map = map.into_iter();
            Value::Object(map.map(|(k, v)| (k, without_empty_lists(v))).collect())
        }
        value @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => value,
    }
}

#[tokio::test]
async fn documents_say_what_boto3_says() {
    let Some(emulator) = Emulator::start("documents_say_what_boto3_says") else {
        return;
    };
    let regions = ["us-east-1", "eu-west-1"];
    let facts = sync(&emulator.endpoint, &regions).await;
    assert!(facts.failed.is_empty(), "{:?}", facts.failed);
    let mut seen = BTreeSet::new();
    let mut differences = Vec::new();
    for line in emulator.run("oracle.py", &regions).lines() {
        let oracle: Value = serde_json::from_str(line).unwrap();
        let of = |key: &str| oracle[key].as_str().unwrap();
        let scope = Scope::of_type(of("type"), "123456789012", of("region"));
        let urn = scope.urn(of("id")).to_string();
        match facts.documents.get(&urn) {
            Some(document) => compare(document, &oracle, &mut differences),
            None => differences.push(format!("{urn} is missing")),
        }
        seen.insert(urn);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let ours: BTreeSet<String> = facts.documents.keys().cloned().collect();
    assert_eq!(ours, seen);
    // S3 leaves each of the three out where it is empty.
    let mut empty = 0;
    for bucket in facts.of_type("aws.s3.bucket") {
        let targets = &bucket.config["NotificationConfiguration"];
        for name in ["Topic", "Queue", "LambdaFunction"] {
            let list = targets[format!("{name}Configurations")].as_array();
            empty += usize::from(list.unwrap().is_empty());
        }
    }
    assert!(empty > 3, "{empty} empty lists");
    for declared in types() {
        let some = facts.of_type(&declared.name).next();
        assert!(some.is_some(), "the account has no {}", declared.name);
    }
}

/// Adds to `differences` where a document says something else than boto3.
fn compare(document: &Document, oracle: &Value, differences: &mut Vec<String>) {
    let urn = &document.urn;
    let answers = oracle["answers"].as_object().unwrap();
    for (name, field) in &declared(&document.type_name).fields {
        let ours = document.config.get(name).cloned();
        if field.kind == Kind::Secret {
            let some = |found: Value| found.as_array().is_some_and(|found| !found.is_empty());
            let found = ours.map(some);
            if found != Some(!answers[name].is_null()) {
                differences.push(format!("{urn} {name}: {found:?}"));
            }
            continue;
        }
        // Left out by the oracle where the call failed, or absent from the answer of the list.
        let theirs = match answers.get(name) {
            None if field.call == declared(&document.type_name).call => Some(Value::Null),
            None => None,
            Some(value) => Some(field.kind.keep(value.clone(), name).unwrap()),
        };
        let ours = ours.map(without_empty_lists);
        let theirs = theirs.map(without_empty_lists);
        if ours != theirs {
            let gap = document.gaps.get(&format!("config.{name}"));
            differences.push(format!("{urn} {name}: {ours:?} {gap:?}, boto3: {theirs:?}"));
        }
    }
    let tags = serde_json::to_value(&document.tags).unwrap();
    if tags != oracle["tags"] {
        differences.push(format!("{urn} tags: {tags}, boto3: {}", oracle["tags"]));
    }
}

#[tokio::test]
async fn links_lead_to_documents_and_buckets_are_asked_in_their_own_region() {
    let Some(emulator) = Emulator::start("links_lead_to_documents") else {
        return;
    };
    let proxy = Proxy::start(&emulator.endpoint, &Memory::default(), true, nothing());
    let facts = sync(&proxy.endpoint, &["us-east-1", "eu-west-1"]).await;
    let mut relations: BTreeSet<(&str, &str)> = BTreeSet::new();
    for document in facts.documents.values() {
        for link in &document.links {
            let urn = link.urn.to_string();
            // A snapshot may outlive its volume.
            let known = facts.documents.contains_key(&urn) || link.rel == "of_volume";
            assert!(known, "{} {} {urn}", document.urn, link.rel);
            relations.insert((&document.type_name, &link.rel));
        }
    }
    for declared in types() {
        for name in declared.links.keys() {
            let relation = (declared.name.as_str(), name.as_str());
            // moto cannot give a user a boundary.
            let known = relation == ("aws.iam.user", "bounded_by");
            assert!(known || relations.contains(&relation), "no {relation:?}");
        }
    }
    let asked: BTreeSet<String> = locked(&proxy.seen)
        .iter()
        .filter(|(call, _)| call == "s3:GetBucketVersioning")
        .map(|(_, region)| region.clone())
        .collect();
    let both = ["us-east-1", "eu-west-1"].map(str::to_owned);
    assert_eq!(asked, BTreeSet::from(both));
}

#[tokio::test]
async fn user_data_never_leaves_and_what_is_in_it_is_named() {
    let Some(emulator) = Emulator::start("user_data_never_leaves") else {
        return;
    };
    let facts = sync(&emulator.endpoint, &["us-east-1"]).await;
    let found: Vec<&Value> = facts
        .of_type("aws.ec2.instance")
        .map(|instance| &instance.config["UserData"])
        .filter(|found| !found.is_null())
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0][0]["kind"], "password");
    assert_eq!(found[0][0]["place"], "line 2");
    for document in facts.documents.values() {
        let text = serde_json::to_string(document).unwrap();
        assert!(!text.contains("kernel-Panik"), "{}", document.urn);
    }
}

/// How one call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    Denied,
    Throttled,
    CutShort,
    Blank,
    WrongPage,
}

const TROUBLES: [Trouble; 5] = [
    Trouble::Denied,
    Trouble::Throttled,
    Trouble::CutShort,
    Trouble::Blank,
    Trouble::WrongPage,
];

impl Trouble {
    /// Returns the rule that makes the trouble, given what was answered before.
    fn rule(self, call: &str, memory: &Memory) -> Rule {
        let (call, memory) = (call.to_owned(), Arc::clone(memory));
        Arc::new(move |request: &Request| {
            if request.call != call {
                return None;
            }
            let busy = match call.split(':').next() {
                Some("ec2" | "s3") => 503,
                _ => 400,
            };
            Some(match self {
                Self::Denied => Answer::refusal(&call, 403, denial(&call)),
                Self::Throttled => Answer::refusal(&call, busy, throttle(&call)),
                Self::CutShort => cut(&call, request, &memory),
                Self::Blank => Answer::xml(200, ""),
                Self::WrongPage => Answer::xml(200, "<html><body>Please log in</body></html>"),
            })
        })
    }

    /// Returns the error that the gap of a field should name, given what the field held.
    fn error_of(self, call: &str, before: Option<&Value>) -> &'static str {
        // S3 answers "no policy" in XML, which shows that it breaks off.
        let no_policy = call == "s3:GetBucketPolicy" && before == Some(&Value::Null);
        if self == Self::CutShort && no_policy {
            return "truncated";
        }
        self.error(call)
    }

    /// Returns the error that a gap should name.
    fn error(self, call: &str) -> &'static str {
        match self {
            Self::Denied => denial(call),
            Self::Throttled => throttle(call),
            // These two answer in JSON, which shows what is missing only when it is parsed.
            Self::CutShort | Self::WrongPage if call == "s3:GetBucketPolicy" => "unexpected shape",
            Self::CutShort | Self::WrongPage if call.starts_with("account:") => "unreadable answer",
            Self::CutShort | Self::Blank => "truncated",
            Self::WrongPage => "unreadable answer",
        }
    }
}

fn denial(call: &str) -> &'static str {
    match call.split(':').next() {
        Some("ec2") => "UnauthorizedOperation",
        Some("account") => "AccessDeniedException",
        _ => "AccessDenied",
    }
}

fn throttle(call: &str) -> &'static str {
    match call.split(':').next() {
        Some("ec2") => "RequestLimitExceeded",
        Some("s3") => "SlowDown",
        Some("account") => "ThrottlingException",
        _ => "Throttling",
    }
}

/// Returns the first half of what was answered before, cut between two elements where there is
/// such a place: the cut that is hardest to notice.
fn cut(call: &str, request: &Request, memory: &Memory) -> Answer {
    let known = locked(memory);
    let start = format!("{call} {} {} ", request.region, request.path);
    let mut answers = known.iter();
    let whole = answers.find(|(key, _)| key.starts_with(&start));
    let text = whole.map(|(_, answer)| String::from_utf8_lossy(answer).into_owned());
    let text = text.unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let body = body.trim();
    let middle = (body.len() / 2).max(1);
    let half = body.get(..middle).unwrap_or("<A>");
    let half = half
        .rfind('>')
        .and_then(|at| half.get(..=at))
        .unwrap_or(half);
    match call.starts_with("account:") {
        true => Answer::json(200, half),
        false => Answer::xml(200, half),
    }
}

fn without_times(facts: &Facts) -> BTreeMap<String, Document> {
    let mut documents = facts.documents.clone();
    for document in documents.values_mut() {
        document.collected_at = jiff::Timestamp::UNIX_EPOCH;
    }
    documents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_leaves_gaps_of_its_own_fields_and_nothing_else() {
    let Some(emulator) = Emulator::start("a_call_that_fails_leaves_gaps") else {
        return;
    };
    let memory = &Memory::default();
    // The second round overwrites what the first one found in the making.
    for _ in 0..2 {
        let learning = Proxy::start(&emulator.endpoint, memory, true, nothing());
        sync(&learning.endpoint, &["us-east-1"]).await;
    }
    let plain = Proxy::start(&emulator.endpoint, memory, false, nothing());
    let whole = sync(&plain.endpoint, &["us-east-1"]).await;
    proxy::forget_unused_policies(memory);
    let baseline = Arc::new(sync(&plain.endpoint, &["us-east-1"]).await);
    assert_eq!(without_times(&baseline), without_times(&whole));
    let faults = baseline.summary.faults.iter();
    // moto lacks these operations; their fields are gaps in the baseline already, and no others.
    let unsupported: BTreeSet<&str> = faults.map(|fault| fault.call.as_str()).collect();
    let lacking = [
        "ec2:GetImageBlockPublicAccessState",
        "ec2:GetInstanceMetadataDefaults",
        "ec2:GetSnapshotBlockPublicAccessState",
        "iam:ListOrganizationsFeatures",
    ];
    assert_eq!(unsupported, BTreeSet::from(lacking));
    // moto's credential report has no row of the root user.
    let no_row = ("config.RootCredentialReport", "no such row");
    for document in baseline.documents.values() {
        let other = document.gaps.iter().find(|(path, gap)| {
            let is_known = unsupported.contains(gap.call.as_str())
                || (path.as_str(), gap.error.as_str()) == no_row;
            path.as_str() != "tags" && !is_known
        });
        assert!(other.is_none(), "{} {other:?}", document.urn);
    }
    let calls = aws::permissions();
    let calls = calls
        .keys()
        .filter(|call| !unsupported.contains(call.as_str()));
    let cases: Vec<(String, Trouble)> = calls
        .flat_map(|call| TROUBLES.map(|trouble| (call.clone(), trouble)))
        .collect();
    let checked = futures::stream::iter(cases.clone())
        .map(|(call, trouble)| {
            let rule = trouble.rule(&call, memory);
            let proxy = Proxy::start(&emulator.endpoint, memory, false, rule);
            let baseline = Arc::clone(&baseline);
            // A task each, so that they share out the processors.
            tokio::spawn(async move {
                let facts = sync(&proxy.endpoint, &["us-east-1"]).await;
                check_trouble(&call, trouble, &facts, &baseline);
            })
        })
        .buffer_unordered(12)
        .map(Result::unwrap)
        .count()
        .await;
    assert_eq!(checked, cases.len());
    assert!(cases.len() > 200);
}

fn check_trouble(call: &str, trouble: Trouble, facts: &Facts, baseline: &Facts) {
    let case = format!("{trouble:?} {call}");
    let error = trouble.error(call);
    let names =
        |found: &str, error: &str| found == error || found.starts_with(&format!("{error}: "));
    let about = |found: &str| names(found, error);
    let lists = |name: &str| aws::listed_by(declared(name)).contains(&call);
    for scope in &facts.began {
        let name = scope.parse::<Scope>().unwrap().type_name();
        let failed = facts.failed.contains_key(scope);
        assert_eq!(failed, lists(&name), "{case}: {scope}");
    }
    for (scope, gap) in &facts.failed {
        assert_eq!(gap.call, call, "{case}: {scope}");
        assert!(about(&gap.error), "{case}: {scope} {}", gap.error);
    }
    let mut touched = facts.failed.len();
    for (urn, before) in &baseline.documents {
        let Some(document) = facts.documents.get(urn) else {
            assert!(lists(&before.type_name), "{case}: {urn} is gone");
            continue;
        };
        let mut expected = before.clone();
        expected.collected_at = document.collected_at;
        for (name, field) in &declared(&before.type_name).fields {
            let config = expected.config.as_object_mut().unwrap();
            if field.call != call {
                continue;
            }
            let error = trouble.error_of(call, config.remove(name).as_ref());
            let path = format!("config.{name}");
            let gap = document.gaps.get(&path);
            let gap = gap.unwrap_or_else(|| panic!("{case}: {urn} {path}"));
            assert_eq!(gap.call, call, "{case}: {urn} {path}");
            assert!(
                names(&gap.error, error),
                "{case}: {urn} {path} {}",
                gap.error
            );
            expected.gaps.insert(path, gap.clone());
            touched += 1;
        }
        if call == "s3:GetBucketTagging" && before.type_name == "aws.s3.bucket" {
            let gap = document.gaps.get("tags").unwrap();
            assert!(gap.call == call && about(&gap.error), "{case}: {gap:?}");
            expected.tags = None;
            expected.gaps.insert("tags".to_owned(), gap.clone());
            touched += 1;
        }
        // What depends on a call without being one of its fields.
        match call {
            "iam:ListAccountAliases" => expected.name.clone_from(&document.name),
            "s3:GetBucketLogging" => expected.links.retain(|link| link.rel != "logs_to"),
            _ => {}
        }
        assert_eq!(*document, expected, "{case}");
    }
    assert!(touched > 0, "{case}: nothing was hidden");
    let mut faults = facts.summary.faults.iter();
    let noted = faults.any(|fault| fault.call == call);
    assert!(
        noted || error == "unexpected shape",
        "{case}: not in the summary"
    );
    let text = format!("{:?}", facts.summary);
    assert!(
        !text.contains("secret-words"),
        "{case}: a provider's message leaks"
    );
}

/// An account without anything, as far as its lists go; what a rule adds is all there is.
fn synthetic(rule: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Proxy {
    let rule = move |request: &Request| {
        let answer = rule(request).or_else(|| match request.call.as_str() {
            "sts:GetCallerIdentity" => Some(identity("aws-us-gov", 210_987_654_321)),
            // Made already: a sync waits minutes for one that is not.
            "iam:GenerateCredentialReport" => Some(Answer::xml(
                200,
                "<GenerateCredentialReportResponse><GenerateCredentialReportResult>\
                 <State>COMPLETE</State>\
                 </GenerateCredentialReportResult></GenerateCredentialReportResponse>",
            )),
            _ => None,
        });
        Some(answer.unwrap_or_else(|| empty(&request.call)))
    };
    let nowhere = "http://127.0.0.1:1";
    Proxy::start(nowhere, &Memory::default(), false, Arc::new(rule))
}

fn identity(partition: &str, account: u64) -> Answer {
    Answer::xml(
        200,
        format!(
            "<GetCallerIdentityResponse><GetCallerIdentityResult>\
             <Arn>arn:{partition}:iam::{account}:user/audit</Arn><Account>{account}</Account>\
             </GetCallerIdentityResult></GetCallerIdentityResponse>"
        ),
    )
}

/// The answer of a list without elements, in the service's own protocol.
fn empty(call: &str) -> Answer {
    let (service, operation) = call.split_once(':').unwrap_or_default();
    let answer = format!("{operation}Response");
    match service {
        "ec2" => Answer::xml(
            200,
            format!("<{answer}><requestId>0</requestId></{answer}>"),
        ),
        "iam" => Answer::xml(
            200,
            format!(
                "<{answer}><{operation}Result><IsTruncated>false</IsTruncated></{operation}Result></{answer}>"
            ),
        ),
        "s3" if operation == "ListBuckets" => Answer::xml(200, "<ListAllMyBucketsResult/>"),
        "s3control" if operation == "ListAccessPoints" => {
            Answer::xml(200, "<ListAccessPointsResult/>")
        }
        _ => Answer::refusal(call, 404, "NoSuchPublicAccessBlockConfiguration"),
    }
}

#[tokio::test]
async fn empty_lists_end_their_scopes_without_documents() {
    let proxy = synthetic(|_| None);
    let facts = sync(&proxy.endpoint, &["us-gov-west-1"]).await;
    assert!(facts.failed.is_empty(), "{:?}", facts.failed);
    let urns: Vec<&String> = facts.documents.keys().collect();
    assert_eq!(urns, ["aws/210987654321/global/account/210987654321"]);
    let account = facts.of_type("aws.account").next().unwrap();
    assert_eq!(account.native_id, "arn:aws-us-gov:iam::210987654321:root");
    // The partition has no endpoint for contacts: not read, which is not the same as none.
    let gap = &account.gaps["config.SecurityContactRegistered"];
    assert_eq!(gap.error, "no endpoint in this partition");
    assert_eq!(account.config["RootVirtualMFADevices"], json!([]));
    assert_eq!(
        account.config["PublicAccessBlockConfiguration"],
        Value::Null
    );
}

#[tokio::test]
async fn a_list_that_repeats_its_token_or_loses_it_is_not_whole() {
    let proxy = synthetic(|request| match request.call.as_str() {
        "ec2:DescribeVpcs" => Some(Answer::xml(
            200,
            "<DescribeVpcsResponse><vpcSet/><nextToken>again</nextToken></DescribeVpcsResponse>",
        )),
        "iam:GetAccountAuthorizationDetails" => Some(Answer::xml(
            200,
            "<GetAccountAuthorizationDetailsResponse><GetAccountAuthorizationDetailsResult>\
             <IsTruncated>true</IsTruncated>\
             <GroupDetailList><member><GroupName>a</GroupName></member></GroupDetailList>\
             </GetAccountAuthorizationDetailsResult></GetAccountAuthorizationDetailsResponse>",
        )),
        _ => None,
    });
    let facts = sync(&proxy.endpoint, &["us-gov-west-1"]).await;
    let scopes = facts.failed.keys();
    let failed: Vec<&str> = scopes
        .map(|scope| scope.rsplit('/').next().unwrap())
        .collect();
    let identities = [
        "iam.access-key",
        "iam.group",
        "iam.policy",
        "iam.role",
        "iam.user",
    ];
    assert_eq!(failed, [&identities[..], &["ec2.vpc"]].concat());
    assert!(facts.failed.values().all(|gap| gap.error == "truncated"));
    // What had arrived is true nevertheless.
    assert_eq!(facts.of_type("aws.iam.group").count(), 1);
}

/// The answer of `iam:GetAccountAuthorizationDetails` with these elements as its only page.
fn authorizations(elements: &str) -> Answer {
    Answer::xml(
        200,
        format!(
            "<GetAccountAuthorizationDetailsResponse><GetAccountAuthorizationDetailsResult>\
             <IsTruncated>false</IsTruncated>{elements}\
             </GetAccountAuthorizationDetailsResult></GetAccountAuthorizationDetailsResponse>"
        ),
    )
}

#[tokio::test]
async fn a_policy_of_aws_whose_uses_are_not_counted_is_judged_by_who_names_it() {
    let proxy = synthetic(|request| {
        let asked = request.call == "iam:GetAccountAuthorizationDetails";
        let policy = |name: &str, counts: &str| {
            format!(
                "<member><PolicyName>{name}</PolicyName>\
                 <Arn>arn:aws:iam::aws:policy/{name}</Arn>{counts}</member>"
            )
        };
        let unused = "<AttachmentCount>0</AttachmentCount>\
                      <PermissionsBoundaryUsageCount>0</PermissionsBoundaryUsageCount>";
        let half = "<AttachmentCount>0</AttachmentCount>";
        // The policies stand before those who name them.
        let policies = [
            policy("Counted", "<AttachmentCount>2</AttachmentCount>"),
            policy("Unused", unused),
            policy("Attached", ""),
            policy("Boundary", half),
            policy("NamedByNobody", half),
        ];
        let entities = "<GroupDetailList><member><GroupName>g</GroupName>\
             <AttachedManagedPolicies><member><PolicyArn>arn:aws:iam::aws:policy/Attached</PolicyArn>\
             </member></AttachedManagedPolicies></member></GroupDetailList>\
             <RoleDetailList><member><RoleName>r</RoleName><PermissionsBoundary>\
             <PermissionsBoundaryArn>arn:aws:iam::aws:policy/Boundary</PermissionsBoundaryArn>\
             </PermissionsBoundary></member></RoleDetailList>";
        let page = format!("<Policies>{}</Policies>{entities}", policies.concat());
        asked.then(|| authorizations(&page))
    });
    let facts = sync(&proxy.endpoint, &["us-gov-west-1"]).await;
    let sent = facts.of_type("aws.iam.policy");
    let sent: BTreeSet<&str> = sent.map(|policy| policy.name.as_str()).collect();
    assert_eq!(sent, BTreeSet::from(["Attached", "Boundary", "Counted"]));
    assert!(facts.ended.contains("aws/210987654321/global/iam.policy"));
}

#[tokio::test]
async fn a_fresh_report_spares_the_look_for_devices_it_denies_and_nothing_else() {
    use base64::Engine as _;
    let proxy = synthetic(|request| match request.call.as_str() {
        "iam:GetAccountAuthorizationDetails" => Some(authorizations(
            "<UserDetailList><member><UserName>ann</UserName></member>\
             <member><UserName>bob</UserName></member></UserDetailList>",
        )),
        "iam:GetCredentialReport" => {
            // Bob's one key is inactive, which the report does not show.
            let columns = "user,mfa_active,access_key_1_active,access_key_1_last_rotated";
            let rows = "ann,true,false,N/A\nbob,false,false,N/A\n";
            let table =
                base64::engine::general_purpose::STANDARD.encode(format!("{columns}\n{rows}"));
            let now = jiff::Timestamp::now();
            Some(Answer::xml(
                200,
                format!(
                    "<GetCredentialReportResponse><GetCredentialReportResult>\
                     <Content>{table}</Content><GeneratedTime>{now}</GeneratedTime>\
                     </GetCredentialReportResult></GetCredentialReportResponse>"
                ),
            ))
        }
        "iam:ListMFADevices" => Some(Answer::refusal(&request.call, 403, "AccessDenied")),
        "iam:ListAccessKeys" if request.body.contains("UserName=bob") => Some(Answer::xml(
            200,
            "<ListAccessKeysResponse><ListAccessKeysResult><IsTruncated>false</IsTruncated>\
             <AccessKeyMetadata><member><AccessKeyId>AKIA</AccessKeyId><UserName>bob</UserName>\
             <Status>Inactive</Status></member></AccessKeyMetadata>\
             </ListAccessKeysResult></ListAccessKeysResponse>",
        )),
        _ => None,
    });
    let facts = sync(&proxy.endpoint, &["us-gov-west-1"]).await;
    let devices = |name: &str| {
        let mut users = facts.of_type("aws.iam.user");
        let user = users.find(|user| user.name == name).unwrap();
        let gap = user.gaps.get("config.MFADevices");
        let gap = gap.map(|gap| gap.error.as_str());
        (user.config.get("MFADevices").cloned(), gap)
    };
    assert_eq!(devices("ann"), (None, Some("AccessDenied")));
    assert_eq!(devices("bob"), (Some(json!([])), None));
    let asked = |call: &str| {
        locked(&proxy.seen)
            .iter()
            .filter(|(seen, _)| seen == call)
            .count()
    };
    assert_eq!(asked("iam:ListMFADevices"), 1);
    assert_eq!(asked("iam:ListAccessKeys"), 2);
    let keys = facts.of_type("aws.iam.access-key");
    assert_eq!(
        keys.map(|key| key.id.as_str()).collect::<Vec<_>>(),
        ["AKIA"]
    );
}

#[tokio::test]
async fn a_page_of_an_operation_that_nobody_knows_is_not_asked_for_again() {
    let proxy = synthetic(|request| match request.call.as_str() {
        "iam:ListSAMLProviders" => Some(Answer::xml(
            500,
            "<!doctype html>\n<html lang=en><title>500 Internal Server Error</title></html>",
        )),
        "iam:GetAccountSummary" => Some(Answer::refusal(&request.call, 500, "ServiceFailure")),
        _ => None,
    });
    let facts = sync(&proxy.endpoint, &["us-gov-west-1"]).await;
    let asked = |call: &str| {
        locked(&proxy.seen)
            .iter()
            .filter(|(seen, _)| seen == call)
            .count()
    };
    assert_eq!(asked("iam:ListSAMLProviders"), 1);
    // A fault of the service itself may pass.
    assert_eq!(asked("iam:GetAccountSummary"), 5);
    let account = facts.of_type("aws.account").next().unwrap();
    let gap = |field: &str| account.gaps[field].error.as_str();
    assert_eq!(gap("config.SAMLProviderList"), "http status 500");
    assert_eq!(gap("config.SummaryMap"), "ServiceFailure");
}

#[tokio::test]
async fn a_resource_without_an_id_spoils_its_scope_and_is_not_sent() {
    let proxy = synthetic(|request| match request.call.as_str() {
        "ec2:DescribeVpcs" => Some(Answer::xml(
            200,
            "<DescribeVpcsResponse><vpcSet><item><cidrBlock>10.0.0.0/8</cidrBlock></item></vpcSet></DescribeVpcsResponse>",
        )),
        _ => None,
    });
    let facts = sync(&proxy.endpoint, &["us-gov-west-1"]).await;
    let gaps = facts.failed.values();
    let gaps: Vec<&str> = gaps.map(|gap| gap.error.as_str()).collect();
    assert_eq!(gaps, ["resource without id"]);
    assert_eq!(facts.of_type("aws.ec2.vpc").count(), 0);
}

#[tokio::test]
async fn without_the_right_to_list_regions_every_known_one_is_tried_and_the_fault_is_told() {
    let proxy = synthetic(|request| {
        let denied = request.call == "ec2:DescribeRegions";
        denied.then(|| Answer::refusal(&request.call, 403, "UnauthorizedOperation"))
    });
    let facts = sync(&proxy.endpoint, &[]).await;
    let account = "aws/210987654321";
    for region in ["us-gov-east-1", "us-gov-west-1"] {
        let networks = format!("{account}/{region}/ec2.vpc");
        assert!(facts.ended.contains(&networks));
        let gap = &facts.failed[&format!("{account}/{region}/region")];
        assert_eq!(gap.call, "ec2:DescribeRegions");
        assert_eq!(gap.error, "UnauthorizedOperation");
    }
    assert_eq!(facts.failed.len(), 2);
    let faults: Vec<String> = facts
        .summary
        .faults
        .iter()
        .map(ToString::to_string)
        .collect();
    let told = "ec2:DescribeRegions answered UnauthorizedOperation".to_owned();
    assert!(faults.contains(&told), "{faults:?}");
}

#[tokio::test]
async fn a_long_list_waits_while_nobody_takes_its_documents() {
    const PAGES: usize = 45;
    const GROUPS: usize = 100;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let proxy = synthetic(move |request| {
        if request.call != "iam:GetAccountAuthorizationDetails" {
            return None;
        }
        let page = counter.fetch_add(1, Ordering::SeqCst);
        let group = |n| {
            format!(
                "<member><GroupName>g{page}-{n}</GroupName><GroupId>AGPA{page}-{n}</GroupId><Path>/</Path>\
                 <CreateDate>2026-01-01T00:00:00Z</CreateDate>\
                 <Arn>arn:aws:iam::1:group/g{page}-{n}</Arn></member>"
            )
        };
        let groups: String = (0..GROUPS).map(group).collect();
        let more = page + 1 < PAGES;
        let marker = match more {
            true => format!("<Marker>m{page}</Marker>"),
            false => String::new(),
        };
        Some(Answer::xml(
            200,
            format!(
                "<GetAccountAuthorizationDetailsResponse><GetAccountAuthorizationDetailsResult>\
                 <IsTruncated>{more}</IsTruncated>{marker}<GroupDetailList>{groups}</GroupDetailList>\
                 </GetAccountAuthorizationDetailsResult></GetAccountAuthorizationDetailsResponse>"
            ),
        ))
    });
    let aws = connect(&proxy.endpoint, &["us-gov-west-1"]).await.unwrap();
    let (out, mut receiver) = Output::channel(8);
    let stop = CancellationToken::new();
    let working = async {
        let summary = aws.sync(&out, &stop).await.unwrap();
        drop(out);
        summary
    };
    let receiving = async {
        let (mut received, mut most_ahead) = (0, 0);
        while let Some(fact) = receiver.recv().await {
            let Fact::Document(document) = fact else {
                continue;
            };
            if document.type_name == "aws.iam.group" {
                received += 1;
                let pages = asked.load(Ordering::SeqCst);
                most_ahead = most_ahead.max(pages - received / GROUPS);
            }
        }
        (received, most_ahead)
    };
    let (summary, (received, most_ahead)) = tokio::join!(working, receiving);
    assert_eq!(received, PAGES * GROUPS);
    assert_eq!(asked.load(Ordering::SeqCst), PAGES);
    assert!(
        most_ahead <= 3,
        "{most_ahead} pages were read ahead of their documents"
    );
    let mut faults = summary.faults.iter();
    assert!(faults.all(|fault| !fault.call.contains("Authorization")));
}

#[tokio::test]
async fn a_sync_that_is_stopped_closes_nothing_it_has_not_finished() {
    let stop = CancellationToken::new();
    let trigger = stop.clone();
    let proxy = synthetic(move |request| {
        if request.call == "ec2:DescribeVpcs" {
            trigger.cancel();
        }
        None
    });
    let aws = connect(&proxy.endpoint, &["us-gov-west-1"]).await.unwrap();
    let (out, mut receiver) = Output::channel(1000);
    let summary = aws.sync(&out, &stop).await.unwrap();
    drop(out);
    let (mut began, mut closed) = (0, 0);
    while let Some(fact) = receiver.recv().await {
        match fact {
            Fact::Began { .. } => began += 1,
            Fact::Ended { .. } => closed += 1,
            Fact::Failed { scope, .. } => panic!("{scope} failed for no reason"),
            Fact::Document(_) | Fact::Events { .. } => {}
        }
    }
    assert!(closed < began, "{closed} of {began}");
    assert_eq!(summary.scopes_ended, closed);
}

#[tokio::test]
async fn credentials_that_aws_refuses_and_an_endpoint_that_is_away_are_told_apart() {
    let proxy = synthetic(|request| {
        let refused = request.call == "sts:GetCallerIdentity";
        refused.then(|| Answer::refusal(&request.call, 403, "InvalidClientTokenId"))
    });
    let error = connect(&proxy.endpoint, &["us-east-1"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no usable credentials: sts:GetCallerIdentity answered InvalidClientTokenId in us-east-1"
    );
    // Nothing listens on port 1.
    let away = "http://127.0.0.1:1";
    let error = connect(away, &["us-east-1"]).await.unwrap_err().to_string();
    let start = format!("cannot reach {away}: dispatch failure: ");
    assert!(error.starts_with(&start), "{error}");
}

#[tokio::test]
async fn an_account_that_changes_under_a_source_is_not_read() {
    let asked = AtomicUsize::new(0);
    let proxy = synthetic(move |request| {
        let which = request.call == "sts:GetCallerIdentity";
        which.then(|| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => identity("aws", 111_111_111_111),
            _ => identity("aws", 222_222_222_222),
        })
    });
    let aws = connect(&proxy.endpoint, &["us-east-1"]).await.unwrap();
    let (out, mut receiver) = Output::channel(8);
    let stop = CancellationToken::new();
    let error = aws.sync(&out, &stop).await.unwrap_err();
    drop(out);
    assert!(error.to_string().contains("222222222222"), "{error}");
    assert!(receiver.recv().await.is_none());
}

#[tokio::test]
async fn a_probe_tries_every_call_and_tells_which_are_refused() {
    let Some(emulator) = Emulator::start("a_probe_tries_every_call") else {
        return;
    };
    let refused = [
        "s3:GetBucketPolicy",
        "iam:ListMFADevices",
        "ec2:DescribeInstanceAttribute",
        "account:GetAlternateContact",
    ];
    let rule = move |request: &Request| {
        let call = request.call.as_str();
        let known = refused.contains(&call);
        known.then(|| Answer::refusal(call, 403, denial(call)))
    };
    let memory = Memory::default();
    let proxy = Proxy::start(&emulator.endpoint, &memory, true, Arc::new(rule));
    let aws = connect(&proxy.endpoint, &["us-east-1"]).await.unwrap();
    let probes = aws.probe().await.unwrap();
    let pairs = probes.iter();
    let tried: BTreeMap<String, String> = pairs
        .map(|probe| (probe.call.clone(), probe.permission.clone()))
        .collect();
    assert_eq!(tried, aws::permissions());
    assert_eq!(
        tried["s3control:GetPublicAccessBlock"],
        "s3:GetAccountPublicAccessBlock"
    );
    // moto answers a 500 to what it lacks.
    let missing = "http status 500";
    let said_no: BTreeSet<&str> = probes
        .iter()
        .filter(|probe| probe.refused.as_deref().is_some_and(|code| code != missing))
        .map(|probe| probe.call.as_str())
        .collect();
    assert_eq!(said_no, refused.into_iter().collect(), "{probes:#?}");
}

#[test]
fn every_declared_type_has_a_collector_and_every_call_a_probe() {
    let source = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        std::fs::read_to_string(folder.join(name)).unwrap()
    };
    let (lib, probe) = (source("lib.rs"), source("probe.rs"));
    for declared in types() {
        let named = lib.contains(&format!("{:?}", declared.name));
        assert!(named, "{} has no collector", declared.name);
    }
    for call in aws::permissions().keys() {
        let operation = call.split_once(':').unwrap().1;
        let named = probe.contains(&format!("{operation:?}"));
        assert!(named, "{call} is not probed");
    }
}
