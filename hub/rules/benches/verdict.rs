//! One check on one resource: the compiled tree beside the interpreter of the crate `cel`.
//!
//! Goal: 300 ns for the tree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Program};
use protocol::declare::Declarations;
use protocol::{Document, Scope};
use rules::{Alone, Check, Neighbours, Relation, RuleSet, Subject};
use serde_json::{Value, json};

fn main() {
    divan::main();
}

const OPEN_SSH: &str = "aws.ec2.security-group-allow-ingress-from-internet-to-tcp-port-22";

/// Four rules for private ranges: nothing decides before the last.
fn group() -> Document {
    let rule = |port: u16, range: &str| {
        json!({"IpProtocol": "tcp", "FromPort": port, "ToPort": port,
               "IpRanges": [{"CidrIp": range}], "Ipv6Ranges": [], "PrefixListIds": [],
               "UserIdGroupPairs": []})
    };
    let config = json!({
        "GroupId": "sg-1", "GroupName": "web", "Description": "web", "VpcId": "vpc-1",
        "OwnerId": "123456789012", "IpPermissionsEgress": [],
        "IpPermissions": [
            rule(443, "0.0.0.0/0"), rule(80, "0.0.0.0/0"), rule(22, "10.0.0.0/8"),
            rule(8443, "10.0.0.0/8"),
        ],
    });
    let urn = Scope::of_type("aws.ec2.security-group", "123456789012", "us-east-1").urn("sg-1");
    Document {
        type_name: "aws.ec2.security-group".into(),
        provider: "aws".into(),
        account: "123456789012".into(),
        region: "us-east-1".into(),
        id: "sg-1".into(),
        native_id: "sg-1".into(),
        name: "web".into(),
        tags: Some(BTreeMap::new()),
        config,
        gaps: BTreeMap::new(),
        links: Vec::new(),
        collected_at: jiff::Timestamp::UNIX_EPOCH,
        urn,
    }
}

fn subject(document: &Document) -> Subject<'_> {
    Subject {
        document,
        account: None,
        neighbours: &Alone,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn builtin() -> RuleSet {
    RuleSet::builtin(Declarations::builtin()).unwrap_or_default()
}

// Many judgements a sample, as a sweep makes them: the clock itself takes some 50 ns.
#[divan::bench(sample_size = 200)]
fn tree(bencher: divan::Bencher<'_, '_>) {
    let set = builtin();
    let document = group();
    let check: Option<&Arc<Check>> = set.get(OPEN_SSH);
    bencher.bench_local(|| check.map(|c| c.verdict(divan::black_box(&subject(&document)))));
}

#[divan::bench(sample_size = 200)]
fn tree_explained(bencher: divan::Bencher<'_, '_>) {
    let set = builtin();
    let document = group();
    let check: Option<&Arc<Check>> = set.get(OPEN_SSH);
    bencher.bench_local(|| check.map(|c| c.evaluate(divan::black_box(&subject(&document)))));
}

/// Every check of security groups on the group; the figure is for all of them together.
#[divan::bench(sample_size = 20)]
fn tree_of_every_check_of_the_type(bencher: divan::Bencher<'_, '_>) {
    let set = builtin();
    let document = group();
    let checks = set.for_type("aws.ec2.security-group");
    bencher
        .counter(divan::counter::ItemsCount::new(checks.len()))
        .bench_local(|| {
            for check in checks {
                divan::black_box(check.verdict(divan::black_box(&subject(&document))));
            }
        });
}

/// The simplest check: one field.
#[divan::bench(sample_size = 200)]
fn tree_of_one_field(bencher: divan::Bencher<'_, '_>) {
    let set = builtin();
    let mut document = group();
    document.config = json!({"Encrypted": true, "KmsKeyId": null});
    let check: Option<&Arc<Check>> = set.get("aws.ec2.ebs-volume-encryption");
    bencher.bench_local(|| check.map(|c| c.verdict(divan::black_box(&subject(&document)))));
}

/// Documents of a small account, as an agent read them from the demo's emulator.
const ACCOUNT: &str = include_str!("account.jsonl");

/// The relations among the documents of [`ACCOUNT`], all of them known.
struct Linked<'a> {
    document: &'a Document,
    all: &'a [Document],
}

impl Neighbours for Linked<'_> {
    fn linked(&self, rel: &str) -> Relation<'_> {
        let links = self.document.links.iter().filter(|link| link.rel == rel);
        let found = links.filter_map(|link| self.all.iter().find(|d| d.urn == link.urn));
        Relation {
            documents: found.collect(),
            complete: Ok(()),
        }
    }

    fn linked_from(&self, rel: &str) -> Relation<'_> {
        let to_us = |d: &&Document| {
            let mut links = d.links.iter();
            links.any(|link| link.rel == rel && link.urn == self.document.urn)
        };
        Relation {
            documents: self.all.iter().filter(to_us).collect(),
            complete: Ok(()),
        }
    }
}

/// Every check on every resource of an account, or on those of one type: the figure that counts.
#[divan::bench(
    sample_size = 5,
    args = ["", "aws.ec2.instance", "aws.ec2.security-group", "aws.s3.bucket", "aws.iam."],
)]
fn account(bencher: divan::Bencher<'_, '_>, types: &str) {
    let set = builtin();
    let lines = ACCOUNT.lines().map(serde_json::from_str::<Document>);
    let documents: Vec<Document> = lines.collect::<Result<_, _>>().unwrap_or_default();
    let around: Vec<_> = documents
        .iter()
        .filter(|document| document.type_name.starts_with(types))
        .map(|document| Linked {
            document,
            all: &documents,
        })
        .collect();
    let pairs: Vec<_> = around
        .iter()
        .flat_map(|at| {
            set.for_type(&at.document.type_name)
                .iter()
                .map(move |c| (at, c))
        })
        .collect();
    let account = documents.iter().find(|d| d.type_name == "aws.account");
    bencher
        .counter(divan::counter::ItemsCount::new(pairs.len()))
        .bench_local(|| {
            for (at, check) in &pairs {
                let subject = Subject {
                    document: at.document,
                    account,
                    neighbours: *at,
                    now: jiff::Timestamp::UNIX_EPOCH,
                };
                divan::black_box(check.verdict(divan::black_box(&subject)));
            }
        });
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(n) => cel::Value::Int(n.as_i64().unwrap_or_default()),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(k, v)| (Key::String(Arc::new(k.clone())), to_cel(v)));
            cel::Value::Map(Map {
                map: Arc::new(fields.collect::<HashMap<_, _>>()),
            })
        }
    }
}

/// The same question in plain CEL, with the facts converted beforehand.
#[divan::bench(sample_size = 200)]
fn interpreter(bencher: divan::Bencher<'_, '_>) {
    let program = Program::compile(
        "!r.IpPermissions.exists(p, (p.IpProtocol == '-1' || p.IpProtocol in ['tcp', '6'] \
         && p.FromPort <= 22 && p.ToPort >= 22) && (p.IpRanges.exists(i, i.CidrIp == '0.0.0.0/0') \
         || p.Ipv6Ranges.exists(i, i.CidrIpv6 == '::/0')))",
    );
    let mut context = Context::default();
    context.add_variable_from_value("r", to_cel(&group().config));
    bencher.bench_local(|| {
        program
            .as_ref()
            .map(|p| p.execute(divan::black_box(&context)))
    });
}
