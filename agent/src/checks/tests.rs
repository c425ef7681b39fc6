//! The table against what the hub's compiler knows, and against the checks' own tests.

use std::collections::{BTreeMap, BTreeSet};

use protocol::declare::Declarations;
use rules::RuleSet;
use serde::Deserialize;

use super::mentions::Mentions;
use super::{Check, Fact, TABLE, of_provider};
use crate::rights;
use crate::sources::Kind;

fn mentions(expression: &str) -> Mentions {
    let mut found = Mentions::default();
    found.add(expression).unwrap();
    found
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn fields_are_named_by_whose_they_are() {
    let found = mentions(
        "!linked('attached_sg').exists(g, g.r . IpPermissions.exists(p, p.FromPort == r.Port.Low))
         && account.Block.IgnorePublicAcls == true && tags['env'] != 'prod'
         && linked_from(\"in_vpc\", 'aws.ec2.subnet').exists(s, s.tags.env == null)
         && linked_from('of_volume').exists(s, s.account == account_id)",
    );
    assert_eq!(found.own, set(&["Port", "#tags"]));
    assert_eq!(found.account, set(&["Block"]));
    assert_eq!(found.neighbours, set(&["IpPermissions", "#tags"]));
    assert_eq!(found.linked, set(&["attached_sg"]));
    let pair = |name: &str, of: &str| (name.to_owned(), of.to_owned());
    let wanted = [pair("in_vpc", "aws.ec2.subnet"), pair("of_volume", "")];
    assert_eq!(found.linked_from, BTreeSet::from(wanted));
}

#[test]
fn what_stands_in_quotes_or_in_a_remark_is_no_field() {
    let found = mentions(
        r#"r.A == 'r.B \' r.C' && r.D.matches(r'^\w+\.r.E$') // r.F
           && r.G == "it's r.H" && r.I == '''r.J ' " r.K''' && r.L.matches(R"\")"#,
    );
    assert_eq!(found.own, set(&["A", "D", "G", "I", "L"]));
}

#[test]
fn a_document_whose_field_cannot_be_told_is_read_whole() {
    for expression in ["(r).A", "r['A']", "r == null", "r?.A", "[r].map(x, x.A)"] {
        assert_eq!(mentions(expression).own, set(&["*"]), "{expression}");
    }
    let found = mentions("linked('in_vpc').map(d, d.r).exists(x, x.A)");
    assert_eq!(found.neighbours, set(&["*"]));
    // A field of that name is taken for a document as well, which names too much.
    let found = mentions("r.r.A");
    assert_eq!(found.own, set(&["r"]));
    assert_eq!(found.neighbours, set(&["A"]));
}

#[test]
fn an_expression_that_cannot_be_read_is_an_error() {
    for expression in [
        "r.A == 'x",
        "linked(name)",
        "linked()",
        "linked_from",
        "linked('a' + 'b')",
    ] {
        assert!(Mentions::default().add(expression).is_err(), "{expression}");
    }
}

#[test]
fn a_field_that_the_table_cannot_place_stands_for_all_fields_of_its_type() {
    let check = Check {
        id: "aws.ec2.example",
        type_name: "aws.ec2.volume",
        own: &["*"],
        account: &[],
        neighbours: &["#tags"],
        linked: &[],
        linked_from: &[("of_volume", "")],
    };
    let reads = check.reads();
    let volume = Declarations::builtin().get("aws.ec2.volume").unwrap();
    for name in volume.fields.keys() {
        assert!(reads.contains(&Fact::Field("aws.ec2.volume", name)));
    }
    assert!(reads.contains(&Fact::List("aws.ec2.snapshot")));
    assert!(reads.contains(&Fact::Tags("aws.ec2.snapshot")));
}

fn as_text(fact: &Fact) -> (String, String) {
    match fact {
        Fact::List(of) => ((*of).to_owned(), String::new()),
        Fact::Field(of, name) => ((*of).to_owned(), (*name).to_owned()),
        Fact::Tags(of) => ((*of).to_owned(), "tags".to_owned()),
    }
}

#[test]
fn the_table_names_exactly_what_the_compiler_of_the_hub_finds() {
    let compiled = RuleSet::builtin(Declarations::builtin()).unwrap();
    let ids: Vec<&str> = compiled.checks().map(|check| check.id()).collect();
    let table: BTreeMap<&str, &Check> = TABLE.iter().map(|check| (check.id, check)).collect();
    assert_eq!(table.keys().copied().collect::<Vec<_>>(), ids);
    let (mut pairs, mut missing, mut needless) = (0, Vec::new(), Vec::new());
    for check in compiled.checks() {
        let ours: BTreeSet<_> = table[check.id()].reads().iter().map(as_text).collect();
        let theirs = check.facts();
        pairs += theirs.len();
        missing.extend(
            theirs
                .difference(&ours)
                .map(|fact| (check.id(), fact.clone())),
        );
        needless.extend(
            ours.difference(theirs)
                .map(|fact| (check.id(), fact.clone())),
        );
    }
    assert!(pairs >= 500, "{pairs}");
    assert!(missing.is_empty(), "left out: {missing:#?}");
    assert!(needless.is_empty(), "named without need: {needless:#?}");
}

#[derive(Deserialize)]
struct File {
    id: String,
    tests: Vec<Trial>,
}

#[derive(Deserialize)]
struct Trial {
    verdict: String,
    #[serde(default)]
    gaps: BTreeMap<String, Gap>,
}

#[derive(Deserialize)]
struct Gap {
    call: Option<String>,
}

/// The authors of the checks wrote down which refused call makes each unknown.
#[test]
fn every_call_that_a_test_of_a_check_refuses_is_said_to_blind_it() {
    let mut tried = 0;
    for (name, text) in RuleSet::builtin_files() {
        let file: File = yaml_serde::from_str(text).unwrap();
        let kind = [Kind::Aws, Kind::Gcp, Kind::Azure, Kind::Host]
            .into_iter()
            .find(|kind| file.id.starts_with(kind.name()))
            .unwrap();
        let blinded = rights::blinded(kind);
        let unknown = file.tests.iter().filter(|trial| trial.verdict == "unknown");
        for call in
            unknown.flat_map(|trial| trial.gaps.values().filter_map(|gap| gap.call.as_ref()))
        {
            let mut by_call = blinded.iter().filter(|((named, _), _)| named == call);
            let is_named = by_call.any(|(_, dark)| dark.checks.contains(file.id.as_str()));
            assert!(is_named, "{name}: without {call} it says UNKNOWN");
            tried += 1;
        }
    }
    assert!(tried >= 150, "{tried}");
}

#[test]
fn every_check_belongs_to_a_kind_of_source() {
    let kinds = [Kind::Aws, Kind::Gcp, Kind::Azure, Kind::Host];
    let counted: usize = kinds
        .iter()
        .map(|kind| of_provider(kind.name()).count())
        .sum();
    assert_eq!(counted, TABLE.len());
}
