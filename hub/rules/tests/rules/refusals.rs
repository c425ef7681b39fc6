//! What is refused, where, and with which words.

use rules::{Check, RuleSet};

use crate::world::{check_of, file_of, refusal, types};

/// Leaves out the list of what would be accepted.
fn brief(message: &str) -> String {
    let Some((before, after)) = message.split_once("; one of ") else {
        return message.to_owned();
    };
    match after.split_once("; did you mean ") {
        Some((_, near)) => format!("{before}; did you mean {near}"),
        None => before.to_owned(),
    }
}

#[test]
fn expressions_are_refused_with_place_and_remedy() {
    // Columns are those of the expression, from 1.
    let check = |pass: &str, column: usize, want: &str| {
        let want = format!("probe.yaml:5:{}: pass: {want}", column + 7);
        assert_eq!(brief(&refusal(pass)), want, "{pass}");
    };
    check(
        "r.On && r.Rules.exists(x, x.Prot == 'tcp')",
        29,
        "Rules[] has no declared field Prot; did you mean Proto?",
    );
    check("res.On", 1, "unknown name res");
    check("r.Size == 'three'", 1, "int is never equal to string");
    check("r.Size", 1, "expected a condition, found int");
    check("r.Name > 3", 1, "string and int have no order");
    check(
        "r.Kind.startswith('a')",
        8,
        "unknown method startswith; did you mean startsWith?",
    );
    check("lenght(r.Kind) > 1", 1, "unknown function lenght");
    check("frobnicate(r.Kind)", 1, "unknown function frobnicate");
    check("r.Size + 'a' == 'b'", 1, "no int + string");
    check("r.Kind.foo == 1", 8, "string has no field foo");
    check(
        "r.Rules.Open",
        9,
        "a list has no field Open; use .exists(x, …) or .all(x, …)",
    );
    check(
        "r.Free.x == 1",
        8,
        "free-form JSON has no declared fields; only `== null` can be asked",
    );
    check(
        "r.Policy.Statement == 1",
        10,
        "a policy is asked through policy_… functions",
    );
    check(
        "account.Nfa",
        9,
        "lab.account has no declared field Nfa; did you mean Mfa?",
    );
    check(
        "linked('in_shet').exists(s, s.r.Dry)",
        8,
        "lab.yard.box has no link in_shet; did you mean in_shed?",
    );
    check(
        "linked('in_shed').exists(s, s.Dry)",
        31,
        "a linked document has no Dry; did you mean r.Dry?",
    );
    check(
        "linked_from('beside').exists(s, s.linked('in_shed').exists(t, t.r.Dry))",
        35,
        "unknown method linked",
    );
    check(
        "r.Rules.exists(r, r.Open)",
        16,
        "the name r is taken; choose another",
    );
    check(
        "r.Rules.exists(x, r.Rules.exists(x, x.Open))",
        34,
        "the name x is taken; choose another",
    );
    check(
        "r.Ports.exists(p, p == 'a')",
        19,
        "int is never equal to string",
    );
    check("'a' in r.Ports", 8, "a list of int holds no string");
    check(
        "[1, 'a'].exists(x, x == 1)",
        5,
        "a list of int holds no string",
    );
    check(
        "r.Size == 3u",
        11,
        "unsigned numbers are not part of the language; leave out u",
    );
    check(
        "r.Kind == b'a'",
        11,
        "bytes are not part of the language; leave out b",
    );
    check(
        "{'a': 1}.a == 1",
        1,
        "map and record literals are not part of the language",
    );
    check(
        "r.MadeAt < '2026-01-01T00:00:00Z'",
        1,
        "timestamp and string have no order; write timestamp('…')",
    );
    check(
        "now == r.MadeAt",
        1,
        "`now` is never equal twice; compare with < or >",
    );
    check(
        "now - (r.MadeAt - now) < now",
        1,
        "`now` may stand once in a comparison",
    );
    check(
        "now - r.MadeAt < duration('90d')",
        27,
        "expected a duration such as '24h', '90m' or '30s'",
    );
    check(
        "r.Kind.matches(r.Name)",
        16,
        "a regular expression stands in quotes",
    );
    check(
        "r.Kind.matches('(')",
        16,
        "not a regular expression: unclosed group",
    );
    check(
        "cidr_contains('10.0.0.0/33', r.Kind)",
        15,
        "'10.0.0.0/33' is no address range such as 10.0.0.0/8",
    );
    check("policy_public(r.Name)", 15, "expected policy, found string");
    check(
        "policy_allows(r.Policy, 'a')",
        1,
        "expected policy_allows(policy, 'action', 'resource')",
    );
    check(
        "(r.On ? r.Size : r.Kind) == 3",
        2,
        "both values must be of one type, not int and string",
    );
    check(
        "r.Rules == []",
        12,
        "a list stands only after `in` or before a list macro",
    );
    check(
        "has(r.Lid.Colour)",
        1,
        "has() would decide on an unread field; write `x != null`, or `'k' in tags` for a map",
    );
    check(
        "'Colour' in r.Lid",
        13,
        "`in` looks into lists and maps; a field of a record is tested with `r.x != null`",
    );
    check(
        "size(r.Lid) == 2",
        6,
        "a record has no size; its fields are declared",
    );
    check(
        "r.Lid.exists(k, k == 'Colour')",
        1,
        "a record is not a list or map; its fields are declared, test them one by one",
    );
    check(
        "r.?Lid.Colour == 'red'",
        1,
        "`?.` and `[?]` are not part of the language; a field of null is null",
    );
    check(
        "r.Lid == r.Lid",
        1,
        "a record can only be compared with null; compare its fields",
    );
    check(
        "r['On']",
        1,
        "a record is not a map; write its field after a dot",
    );
    check(
        "!r.Flag",
        2,
        "this can be null, and under `!` null would decide unsaid; write `… == false` or `… != true`",
    );
    check(
        "!(r.Count > 3)",
        3,
        "this can be null, and under `!` null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "!r.Name.startsWith('a')",
        2,
        "this can be null, and under `!` null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "!(r.Name in ['a'])",
        3,
        "this can be null, and under `!` null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "r.Words.all(w, w == 'a')",
        1,
        "this list can be null, and all() holds for null; write `list != null && list.all(…)` (null fails) or `list == null || list.all(…)` (null passes)",
    );
    check(
        "!r.Words.exists(w, w == 'a')",
        2,
        "this can be null, and under `!` null would decide unsaid; write `list != null && list.exists(…)` or `list == null || …`",
    );
    check(
        "r.Words.exists(w, w == 'a') == true",
        1,
        "this can be null, and here null would decide unsaid; write `list != null && list.exists(…)` or `list == null || …`",
    );
    check(
        "size(r.Words) == 0",
        6,
        "this can be null, and null has no size; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "r.Name == r.Lid.Colour",
        1,
        "both sides can be null, and null equals null; test one of them with `!= null &&`",
    );
    check(
        "!policy_public(r.Policy)",
        16,
        "say what a missing policy means: `x == null || …` or `x != null && …`",
    );
    check(
        "(r.Count > 3) ? r.On : !r.On",
        2,
        "this can be null, and here null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "!r.Rules.exists(x, x.Ranges.exists(y, y.Cidr == 'a'))",
        20,
        "this can be null, and under `!` null would decide unsaid; write `list != null && list.exists(…)` or `list == null || …`",
    );
    check(
        "r.Rules.exists_one(x, x.From > 3)",
        23,
        "this can be null, and here null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "r.Rules.filter(x, x.From > 3).size() == 0",
        19,
        "this can be null, and here null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "r.Rules.filter(x, x.From > 3).all(x, x.Open)",
        19,
        "this can be null, and under `!` null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "r.Rules.map(x, x.From).exists(p, p == 1)",
        16,
        "an element of a list must not be null; leave null out with map(x, x.f != null, x.f)",
    );
    check(
        "(r.Name != null || r.On) && !r.Name.startsWith('a')",
        30,
        "this can be null, and under `!` null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "!r.Lid.Locked",
        2,
        "this can be null, and under `!` null would decide unsaid; write `… == false` or `… != true`",
    );
    check("r.On &&", 8, "the expression ends too early");
    check("r.On & r.On", 6, "unexpected '& '");
    check(
        "r.Sise == 3",
        3,
        "lab.yard.box has no declared field Sise; did you mean Size?",
    );
    check(
        "r.Words.contains('a')",
        1,
        "a list has no contains(); write `x in list`",
    );
    check("now", 1, "expected a condition, found timestamp");
    check("now > 3", 1, "timestamp and int have no order");
    check(
        "[].exists(x, true)",
        1,
        "an empty list says nothing; use size(…) == 0",
    );
    check(
        "r.Kind.split()",
        1,
        "a list is used through exists(), all(), exists_one(), size() or `in`",
    );
    check(
        "r.Rules.exists(x)",
        9,
        "exists takes a variable and a condition",
    );
    check(
        "r.Rules.exists(3, true)",
        16,
        "expected the name of a variable",
    );
    check("r.Ports[-1] == 1", 10, "an index begins at 0");
    check(
        "r.Ports[r.Size] == 1",
        9,
        "an index into a list is a whole number",
    );
    check(
        "linked('in_shed') == null",
        1,
        "a list is used through exists(), all(), exists_one(), size() or `in`",
    );
    check(
        "linked(r.Kind).exists(x, true)",
        8,
        "expected the name of a relation in quotes",
    );
    check(
        "linked_from('in_shed').exists(x, true)",
        13,
        "no type has a link in_shed to lab.yard.box",
    );
    check("r.On ?: true", 7, "unexpected ':'");
    check("r.Size = 3", 8, "unexpected '= '");
    check("r.Name == 'a", 11, "unexpected ''a'");
    check("r.On)", 5, "unexpected ')'");
    check("'a' < 'b' < 'c'", 1, "bool and string have no order");
    check("account.Zone.foo", 14, "string has no field foo");
    check("x.y", 1, "unknown name x");
    check("port_in(1, 2)", 1, "expected port_in(from, to, port)");
    check(
        "port_in(r.Count, r.Count, r.Count)",
        27,
        "the port must not be null",
    );
    check("r.Kind.startsWith(3)", 19, "expected string, found int");
    check(
        "r.Rules.map(x, x.Lid).exists(y, true)",
        18,
        "Rules[] has no declared field Lid",
    );
    check(
        "r.Rules.map(x, x.Ranges).exists(y, true)",
        16,
        "a list is used through exists(), all(), exists_one(), size() or `in`",
    );
}

#[test]
fn what_does_not_exclude_null_is_not_taken_to_say_it() {
    for pass in [
        "r.Count == null && !(r.Count > 3)",
        "r.Count != null || !(r.Count > 3)",
        "r.Count != null ? r.On : !(r.Count > 3)",
        "r.Count != 3 && !(r.Count > 3)",
        "r.Count == 3 || !(r.Count > 3)",
        "!(r.Count > 0) || !(r.Count > 3)",
        "!(r.Count != null) && !(r.Count > 3)",
        "r.On && r.Count != null || !(r.Count > 3)",
        "r.Lid != null && !(r.Lid.Colour > 'a')",
        "r.Rules.exists(x, x.From != null) && !r.Rules.exists(x, x.From > 3)",
        "r.Words.exists(w, true) && r.Words.all(w, true) && !(r.Count > 3)",
        "tags.env != null && !tags.other.startsWith('p')",
        "r.Count == null",
    ] {
        let is_refused = Check::read("p", &file_of("lab.yard.box", pass, ""), types()).is_err();
        assert_eq!(is_refused, pass != "r.Count == null", "{pass}");
    }
}

#[test]
fn null_said_in_any_of_these_ways_is_accepted() {
    for pass in [
        "r.Flag",
        "r.Name.lowerAscii().contains('')",
        "'k' in r.Labels && !('k' in r.Labels)",
        "r.Kind == null",
        "r.Flag == true",
        "!(r.Flag == true)",
        "r.Count != null && !(r.Count > 3)",
        "!(r.Count == null) && !(r.Count > 3)",
        "r.Count == null || !(r.Count > 3)",
        "r.Count != null ? !(r.Count > 3) : r.On",
        "r.Count > 0 && !(r.Count > 3)",
        "r.Words != null && r.Words.all(w, w == 'a')",
        "r.Lid.Locked && !r.Lid.Locked",
        "r.Lid.Colour != null && !r.Lid.Locked",
        "r.Lid == null || (r.On && !r.Lid.Locked)",
        "!r.Rules.exists(x, x.Ranges != null && x.Ranges.exists(y, y.Cidr != null && y.Cidr.startsWith('a')))",
        "r.Words.exists(w, w == 'a')",
        "r.Rules.filter(x, x.From > 3).exists(x, x.Open)",
        "r.Rules.filter(x, x.From != null && x.From > 3).size() == 0",
        "r.Rules.map(x, x.From != null, x.From).exists(p, p == 1)",
        "tags.env != null && !tags['env'].startsWith('p')",
        "r.UsedAt != null && !(now - timestamp(r.UsedAt) > duration('1h'))",
        "r.Policy == null || !policy_public(r.Policy)",
        "(r.Name != null && r.On) && !r.Name.startsWith('a')",
        "!(r.Name == null || r.Name.startsWith('a'))",
    ] {
        check_of("lab.yard.box", pass, "");
    }
}

#[test]
fn files_are_refused_with_key_and_allowed_values() {
    let check = |from: &str, to: &str, want: &str| {
        let file = file_of("lab.yard.box", "r.On", "");
        assert!(file.contains(from), "{from}");
        let file = file.replacen(from, to, 1);
        match Check::read("p.yaml", &file, types()) {
            Ok(_) => panic!("{to} was accepted"),
            Err(errors) => assert_eq!(brief(&errors[0].to_string()), want, "{to}"),
        }
    };
    check(
        "severity: low",
        "severity: lo",
        "p.yaml:3:11: severity: unknown value `lo`; did you mean low?",
    );
    check(
        "severity: low",
        "severitty: low",
        "p.yaml:3:1: unknown key `severitty`; did you mean severity?",
    );
    check(
        "title: The probe",
        "title: [a]",
        "p.yaml:2:8: title: found sequence, expected a string",
    );
    check(
        "type: lab.yard.box",
        "type: lab.yard.bx",
        "p.yaml:4:7: type: no type lab.yard.bx is declared; did you mean lab.yard.box?",
    );
    check(
        "id: lab.yard.probe",
        "id: Lab.probe",
        "p.yaml:1:5: id: expected <provider>.<service>.<name> of a-z, 0-9 and '-'",
    );
    check(
        "id: lab.yard.probe",
        "id: aws.yard.probe",
        "p.yaml:1:5: id: the id of a check on lab.yard.box begins with lab.",
    );
    check(
        "why: To see.",
        "why: ''",
        "p.yaml:6:6: why: expected 1 to 4000 characters",
    );
    check(
        "fix: {cli: none}",
        "fix: {}",
        "p.yaml:7:6: fix: at least one way to mend it is needed",
    );
    check(
        "fix: {cli: none}",
        "fix: {clli: none}",
        "p.yaml:7:7: fix: unknown key `clli`; did you mean cli?",
    );
    check(
        "why: To see.",
        "why: To see.\nwhy: Twice.",
        "p.yaml:7:1: the key `why` is given twice",
    );
    check(
        "why: To see.",
        "why: To see.\nevidence: [Kin]",
        "p.yaml:7:11: evidence: no declared field Kin; did you mean Kind?",
    );
    check(
        "why: To see.",
        "why: To see.\nevidence: [Rules.Open]",
        "p.yaml:7:11: evidence: Rules.Open: evidence ends at Rules, which is no record",
    );
    check(
        "why: To see.",
        "why: To see.\ncause: linked('in_shed')",
        "p.yaml:7:8: cause: the cause is a relation that `pass` does not read",
    );
    check(
        "why: To see.",
        "why: To see.\ncause: linked('in_shd')",
        "p.yaml:7:8: cause: the cause is a relation that `pass` does not read",
    );
    check(
        "why: To see.",
        "why: To see.\ncause: them",
        "p.yaml:7:8: cause: expected self, linked('…') or linked_from('…')",
    );
    check(
        "why: To see.",
        "why: To see.\napplies: r.Count > 3",
        "p.yaml:7:10: applies: this can be null, and here null would decide unsaid; write `x != null && …` or `x == null || …` before it",
    );
    check(
        "pass: \"r.On\"",
        "pass: >-\n  r.On &&\n    r.Sise == 1",
        "p.yaml:7:7: pass: lab.yard.box has no declared field Sise; did you mean Size?",
    );
    check(
        "pass: \"r.On\"",
        "pass: 'r.On && r.Kind == ''a'' && r.Sise == 1'",
        "p.yaml:5:37: pass: lab.yard.box has no declared field Sise; did you mean Size?",
    );
    check(
        "tests: []",
        "tests: [{name: a, verdict: passes}]",
        "p.yaml:9:28: tests[0].verdict: unknown value `passes`; did you mean pass?",
    );
    check(
        "tests: []",
        "tests: [{name: a, verdict: pass, rr: {}}]",
        "p.yaml:9:34: tests[0]: unknown key `rr`; did you mean r?",
    );
    check("why: To see.\n", "", "p.yaml:1:1: the key `why` is missing");
    check(
        "title: The probe",
        "title: \"a\\nb\"",
        "p.yaml:2:9: title: a title is one line",
    );
    check(
        "title: The probe",
        "title: \"a\\u001bb\"",
        "p.yaml:2:9: title: control characters are not allowed",
    );
    check(
        "tests: []",
        "tests: [",
        "p.yaml:10:1: did not find expected node content",
    );
    let missing = Check::read("p.yaml", "", types()).unwrap_err();
    assert_eq!(missing[0].line, 1);
    let allowed = refusal("r.On && r.Rules.exists(x, x.Prot == 'tcp')");
    assert!(allowed.ends_with("; one of Cidr, From, Open, Proto, Ranges, To; did you mean Proto?"));
}

const TESTED: &str = "
id: lab.yard.tested
title: It is on
severity: low
type: lab.yard.box
pass: r.On && linked('in_shed').all(s, s.r.Dry)
why: To see.
fix: {cli: none}
source: https://example.org
tests:
  - {name: on, verdict: pass, r: {On: true}}
  - {name: off, verdict: fail, r: {On: false}}
  - {name: wet, verdict: fail, r: {On: true}, linked: {in_shed: {documents: [{r: {Dry: false}}]}}}
  - {name: unread, verdict: unknown, r: {}, gaps: {config.On: {error: AccessDenied}}}
";

#[test]
fn a_set_is_loaded_whole_or_not_at_all_and_every_error_is_told() {
    let good = file_of("lab.yard.box", "r.On", "");
    let bad = file_of("lab.yard.cart", "r.Idd == 'a'", "");
    let files = [
        ("a.yaml", good.as_str()),
        ("b.yaml", bad.as_str()),
        ("c.yaml", good.as_str()),
    ];
    let errors = RuleSet::load(files, types()).unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "b.yaml:5:10: pass: lab.yard.cart has no declared field Idd; one of Id; did you mean Id?",
            "c.yaml:1:5: id: lab.yard.probe is already in a.yaml",
        ]
    );
    assert!(RuleSet::load([("a.yaml", good.as_str())], types()).is_ok());
}

#[test]
fn inline_tests_run_and_name_what_is_wrong_or_missing() {
    let run = |from: &str, to: &str| -> Vec<String> {
        assert!(TESTED.contains(from), "{from}");
        let text = TESTED.replacen(from, to, 1);
        let set = RuleSet::load([("t.yaml", text.as_str())], types()).unwrap();
        let failed = set.run_tests(Some("tested")).into_iter();
        failed
            .filter_map(|t| Some(format!("{}: {}", t.name, t.result.err()?)))
            .collect()
    };
    assert_eq!(run("id: lab", "id: lab"), [""; 0]);
    assert_eq!(
        run(
            "verdict: pass, r: {On: true}",
            "verdict: fail, r: {On: true}"
        ),
        [
            "on: expected fail, found pass",
            "a test that passes: there is no such test"
        ]
    );
    assert_eq!(
        run("{On: false}", "{Onn: false}"),
        ["off: r has no declared field Onn; did you mean On?"]
    );
    assert_eq!(
        run("{On: false}", "{On: 3}"),
        ["off: r.On should be true or false, but is a number"]
    );
    assert_eq!(
        run("config.On", "config.Off"),
        [
            "unread: gaps: no declared field config.Off",
            "a test in which yard:DescribeBoxes is denied: there is no such test",
        ]
    );
    assert_eq!(
        run(
            "verdict: unknown, r: {}, gaps: {config.On: {error: AccessDenied}}",
            "verdict: fail, r: {On: false}"
        ),
        ["a test in which yard:DescribeBoxes is denied: there is no such test"]
    );
    assert_eq!(
        run("{in_shed:", "{beside:"),
        ["wet: the check does not read the relation beside"]
    );
    let set = RuleSet::load([("t.yaml", TESTED)], types()).unwrap();
    assert!(set.get("lab.yard.tested").is_some());
    assert!(set.run_tests(Some("nothing of the kind")).is_empty());
}

#[test]
fn a_changed_neighbour_leads_back_to_whom_it_concerns() {
    let named = |name: &str, type_name: &str, pass: &str| {
        file_of(type_name, pass, "").replace("probe\n", &format!("{name}\n"))
    };
    let cart = named("cart", "lab.yard.cart", "account.Mfa");
    let shed = named(
        "shed",
        "lab.yard.shed",
        "linked_from('in_shed', 'lab.yard.box').all(b, b.r.On)",
    );
    let files = [("a", TESTED), ("b", cart.as_str()), ("c", shed.as_str())];
    let set = RuleSet::load(files, types()).unwrap();
    let readers = |type_name: &str| -> Vec<String> {
        let readers = set.reads(type_name).iter();
        readers
            .map(|r| format!("{:?} {} {}", r.direction, r.relation, r.type_name))
            .collect()
    };
    assert_eq!(readers("lab.yard.shed"), ["Incoming in_shed lab.yard.box"]);
    assert_eq!(readers("lab.yard.box"), ["Outgoing in_shed lab.yard.shed"]);
    assert_eq!(readers("lab.account"), ["Account  lab.yard.cart"]);
    assert_eq!(readers("lab.yard.cart"), [""; 0]);
    assert_eq!(set.for_type("lab.yard.shed").len(), 1);
    assert_eq!(set.for_type("lab.yard.none").len(), 0);
}
