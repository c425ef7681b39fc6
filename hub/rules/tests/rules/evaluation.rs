//! What an expression answers, and what it rests on.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use protocol::Document;
use rules::Verdict::{Broken, Fail, NotApplicable, Pass, Unknown};
use rules::{Outcome, Verdict};
use serde_json::{Value, json};

use crate::world::*;

fn judge(pass: &str, document: &Document) -> Outcome {
    Around::default().judge(&check_of("lab.yard.box", pass, ""), document)
}

/// Checks verdicts on a box with some fields changed.
fn check(changes: Value, want: Verdict, expressions: &[&str]) {
    let document = a_box(changes);
    for pass in expressions {
        let found = judge(pass, &document);
        assert_eq!(found.verdict, want, "{pass}: {:?}", found.gaps);
        assert_eq!(
            found.gaps.is_empty(),
            !matches!(want, Unknown | Broken),
            "{pass}"
        );
    }
}

#[test]
fn connectives_follow_kleenes_tables() {
    // `r.Size > 0` is true, `r.Size < 0` false, `r.On` unread.
    let document = without(&["On"]);
    for (pass, want) in [
        ("r.Size > 0 && r.Size > 0", Pass),
        ("r.Size > 0 && r.Size < 0", Fail),
        ("r.Size > 0 && r.On", Unknown),
        ("r.On && r.Size > 0", Unknown),
        ("r.Size < 0 && r.On", Fail),
        ("r.On && r.Size < 0", Fail),
        ("r.On && r.On", Unknown),
        ("r.Size > 0 || r.On", Pass),
        ("r.On || r.Size > 0", Pass),
        ("r.Size < 0 || r.On", Unknown),
        ("r.On || r.Size < 0", Unknown),
        ("!r.On", Unknown),
        ("!(r.On && r.Size < 0)", Pass),
        ("r.On ? r.Size > 0 : r.Size > 0", Pass),
        ("r.On ? r.Size < 0 : r.Size < 0", Fail),
        ("r.On ? r.Size > 0 : r.Size < 0", Unknown),
        ("r.Size > 0 ? r.Size > 0 : r.On", Pass),
        ("r.Size > 0 ? r.On : r.Size > 0", Unknown),
        ("(r.On ? 1 : 1) == 1", Pass),
        ("(r.On ? 1 : 2) == 1", Unknown),
        ("r.On == true", Unknown),
        ("(r.Size > 0 || r.On) == true", Pass),
        ("true", Pass),
        ("false && r.On", Fail),
    ] {
        assert_eq!(judge(pass, &document).verdict, want, "{pass}");
    }
}

#[test]
fn null_is_false_in_every_test_and_exact_in_equality() {
    check(
        json!({}),
        Fail,
        &[
            "r.Count > 3",
            "r.Count < 3",
            "r.Count + 1 > 0",
            "r.Name.startsWith('a')",
            "r.Name.lowerAscii().contains('')",
            "r.Name.matches('')",
            "r.Name in ['a']",
            "'a' in r.Words",
            "r.Words.exists(w, true)",
            "r.Name == 'a'",
            "r.Name != null",
            "r.Lid.Colour == 'red'",
            "r.Lid.Locked",
            "is_public_cidr(r.Name)",
            "cidr_contains('10.0.0.0/8', r.Name)",
            "cidr_prefix(r.Name) >= 0",
            "policy_public(r.Policy)",
            "timestamp(r.UsedAt) < now",
            "'k' in r.Labels",
            "r.Ratio >= 0.0",
            "r.Flag",
            "r.Flag == true",
            "int(r.Name) == 0",
        ],
    );
    check(
        json!({}),
        Pass,
        &[
            "r.Name != 'a'",
            "r.Flag != true",
            "r.Lid == null",
            "r.Lid.Colour == null",
            "r.Words == null || r.Words.all(w, w == 'a')",
            "r.Ports[9] == null",
            "r.Labels['k'] == null",
            "tags['none'] == null",
            "tags.none == null",
            "r.Free == null && r.Policy == null",
            "r.Name == null",
            "null == r.Name",
            "r.Count + 1 == null",
        ],
    );
}

#[test]
fn a_value_where_null_could_be_is_used_as_it_is() {
    check(
        json!({"Count": 4, "Flag": true, "Name": "ab", "Words": ["ab"], "Ratio": 2.0,
               "Lid": {"Locked": true, "Colour": "red"}, "UsedAt": "2026-05-01T00:00:00Z"}),
        Pass,
        &[
            "r.Count > 3",
            "r.Flag",
            "r.Name.startsWith('a')",
            "r.Name in ['ab']",
            "r.Words != null && r.Words.all(w, w.startsWith('a'))",
            "r.Lid.Colour == 'red' && r.Lid.Locked",
            "!(r.Lid != null && !r.Lid.Locked)",
            "r.Ratio > 1",
            "r.Ratio == 2",
            "timestamp(r.UsedAt) < now",
            "r.UsedAt < now",
        ],
    );
    check(
        json!({"Count": 4, "Lid": {"Locked": true, "Colour": null}}),
        Fail,
        &[
            "r.Count != null && !(r.Count > 3)",
            "r.Lid != null && !r.Lid.Locked",
            "r.Lid.Colour == 'red'",
        ],
    );
}

#[test]
fn arithmetic_text_and_lists_give_what_cel_gives() {
    let labels = json!({"abc": "x"});
    let data = json!([{"kind": "k", "place": "p", "fingerprint": "f"}]);
    check(
        json!({"Labels": labels}),
        Pass,
        &[
            "r.Size == 3.0",
            "r.Size * 2 + 1 == 7 && r.Size / 2 == 1 && r.Size % 2 == 1 && -r.Size == -3",
            "r.Kind + '!' == 'crate!' && size(r.Kind) == 5 && r.Kind.size() == 5",
            "size('ä€') == 2 && 'ABC'.lowerAscii() == 'abc' && 'é'.upperAscii() == 'é'",
            "r.Kind.matches('^cr') && !r.Kind.matches('^x') && r.Kind.endsWith('te')",
            "r.Ports.exists(p, p == 22) && r.Ports.exists_one(p, p > 50) && !r.Ports.all(p, p > 50)",
            "r.Ports.filter(p, p > 50).size() == 1 && size(r.Ports) == 2 && 80 in r.Ports",
            "r.Ports.map(p, p * 2).exists(p, p == 160) && r.Ports.map(p, p > 50, p + 1).all(p, p == 81)",
            "21 in r.Ports.map(p, p - 1) && r.Ports[0] == 22",
            "[20, 21, 22].exists(p, p in r.Ports)",
            "'a,b'.split(',').exists(x, x == 'b') && size('a,b'.split(',')) == 2",
            "int('12') == 12 && (r.Size > 2 ? r.Size : 0) == 3",
            "tags.env == 'prod' && 'env' in tags && tags['env'] == 'prod' && size(tags) == 1",
            "tags.exists(k, k == 'env') && account_id == '111122223333' && region == 'north'",
            "r.Labels != null && r.Labels.all(k, k.startsWith('a')) && r.Labels.abc == 'x'",
            "size(r.UserData) == 0",
            "duration('1h30m') == duration('90m') && r.MadeAt - r.MadeAt == duration('0s')",
            "r.MadeAt + duration('24h') == timestamp('2026-01-02T00:00:00Z')",
            "'b' > 'a' && 1 < 2 && 1.5 > 1 && -1 < 0 && !(2 <= 1)",
            "(r.Size == 3) == true && (r.Size == 4) != true",
        ],
    );
    check(
        json!({"UserData": data}),
        Fail,
        &[
            "size(r.UserData) == 0",
            "!r.UserData.exists(s, s.kind == 'k')",
        ],
    );
}

#[test]
fn an_impossible_operation_is_broken_and_never_passes() {
    for pass in [
        "r.Size / (r.Size - 3) == 0",
        "r.Size % (r.Size - 3) == 0",
        "r.Size * 9223372036854775807 > 0",
        "int(r.Kind) > 0",
        "timestamp(r.Kind) < now",
        "cidr_contains('10.0.0.0/8', r.Kind)",
        "!is_public_cidr(r.Kind)",
        "!(r.Size / 0 == 1)",
        "r.MadeAt + duration('99999999h') > now",
    ] {
        check(json!({}), Broken, &[pass]);
    }
    let found = judge("int(r.Kind) > 0", &a_box(json!({})));
    assert_eq!(found.gaps["check"].call, "lab.yard.probe");
    assert_eq!(
        found.gaps["check"].error,
        "a text is no number; test its form first"
    );
    // As in CEL, what decides by itself does so beside an error.
    check(
        json!({"On": true}),
        Pass,
        &["r.On || r.Size / 0 == 1", "r.Size / 0 == 1 || r.On"],
    );
    check(
        json!({"On": false}),
        Broken,
        &["r.On || r.Size / 0 == 1", "r.Size / 0 == 1 || r.On"],
    );
    check(
        json!({"On": false}),
        Fail,
        &["r.On && r.Size / 0 == 1", "r.Size / 0 == 1 && r.On"],
    );
    // Whether it breaks is not known while a fact is missing that decides.
    let unread = judge("r.On && r.Size / 0 == 1", &without(&["On"]));
    assert_eq!(unread.verdict, Unknown);
}

#[test]
fn lists_decide_as_soon_as_one_element_does() {
    // The first rule was read, of the second `Open` was not.
    let partly = |open: bool| {
        let mut document = a_box(json!({}));
        document.config["Rules"][0]["Open"] = open.into();
        let second = document.config["Rules"][1].as_object_mut().unwrap();
        second.remove("Open");
        document
            .gaps
            .insert("config.Rules[1].Open".into(), denied("yard:DescribeBoxes"));
        document
    };
    for (open, pass, want) in [
        (true, "r.Rules.exists(x, x.Open)", Pass),
        (false, "r.Rules.exists(x, x.Open)", Unknown),
        (true, "r.Rules.all(x, x.Open)", Unknown),
        (false, "r.Rules.all(x, x.Open)", Fail),
        (true, "r.Rules.exists_one(x, x.Open)", Unknown),
        (false, "r.Rules.exists_one(x, x.Open)", Unknown),
        (true, "r.Rules.filter(x, x.Open).size() == 1", Unknown),
        (
            true,
            "r.Rules.filter(x, x.Open).exists(x, x.Proto == 'tcp')",
            Pass,
        ),
        (
            true,
            "r.Rules.filter(x, x.Open).exists(x, x.Proto == 'udp')",
            Unknown,
        ),
        (
            true,
            "r.Rules.filter(x, x.Open).exists(x, x.Proto == 'icmp')",
            Fail,
        ),
        (
            true,
            "r.Rules.filter(x, x.Open).all(x, x.Proto == 'tcp')",
            Unknown,
        ),
        (
            true,
            "r.Rules.filter(x, x.Open).all(x, x.Proto == 'udp')",
            Fail,
        ),
        (true, "r.Rules.map(x, x.Open).exists(o, o)", Pass),
        (false, "r.Rules.map(x, x.Open).exists(o, o)", Unknown),
        (true, "true in r.Rules.map(x, x.Open)", Pass),
        (false, "true in r.Rules.map(x, x.Open)", Unknown),
        (true, "size(r.Rules) == 2", Pass),
    ] {
        let found = judge(pass, &partly(open));
        assert_eq!(found.verdict, want, "{open} {pass}");
        if want == Unknown {
            assert_eq!(
                found.gaps,
                BTreeMap::from([("config.Rules[1].Open".into(), denied("yard:DescribeBoxes"))]),
                "{pass}"
            );
        }
    }
    let unread = without(&["Rules"]);
    assert_eq!(judge("size(r.Rules) == 0", &unread).verdict, Unknown);
    assert_eq!(judge("r.Rules.exists(x, true)", &unread).verdict, Unknown);
    assert_eq!(judge("r.Rules.all(x, true)", &unread).verdict, Unknown);
}

#[test]
fn ports_and_ranges_are_asked_with_null_meaning_all() {
    let pass = "!r.Rules.exists(x, port_in(x.From, x.To, 22) && x.Ranges != null \
                && x.Ranges.exists(y, y.Cidr == '0.0.0.0/0'))";
    let rule = |from: Value, to: Value, cidr: &str| {
        json!({"Rules": [{"From": from, "To": to, "Proto": "tcp", "Open": true, "Cidr": null,
                          "Ranges": [{"Cidr": cidr}]}]})
    };
    check(rule(json!(22), json!(22), "0.0.0.0/0"), Fail, &[pass]);
    check(rule(json!(null), json!(null), "0.0.0.0/0"), Fail, &[pass]);
    check(rule(json!(-1), json!(-1), "0.0.0.0/0"), Fail, &[pass]);
    check(rule(json!(23), json!(80), "0.0.0.0/0"), Pass, &[pass]);
    check(rule(json!(22), json!(22), "10.0.0.0/8"), Pass, &[pass]);
    check(
        json!({}),
        Pass,
        &[
            "cidr_contains('10.0.0.0/8', '10.1.0.0/16') && is_any_cidr('::/0') && cidr_prefix('10.0.0.0/8') == 8",
        ],
    );
}

#[test]
fn an_unread_field_is_unknown_with_the_call_and_the_error() {
    let found = judge(
        "r.Policy == null || !policy_public(r.Policy)",
        &without(&["Policy"]),
    );
    assert_eq!(found.verdict, Unknown);
    assert_eq!(
        found.gaps,
        BTreeMap::from([("config.Policy".to_owned(), denied("yard:GetBoxPolicy"))])
    );
    assert_eq!(found.cause, None);
    assert!(
        !found.evidence.contains_key("Policy"),
        "what was not read is no evidence"
    );
    // A gap that the agent did not explain still names the declared call.
    let mut document = a_box(json!({}));
    document.config.as_object_mut().unwrap().remove("Policy");
    let found = judge("r.Policy == null", &document);
    assert_eq!(found.gaps["config.Policy"].call, "yard:GetBoxPolicy");
    assert_eq!(found.gaps["config.Policy"].error, "not read");
    // A gap over a record explains its fields.
    let mut document = a_box(json!({"Lid": {"Locked": true}}));
    document
        .gaps
        .insert("config.Lid".into(), denied("yard:GetLid"));
    let found = judge("r.Lid.Colour == 'red'", &document);
    assert_eq!(found.gaps["config.Lid.Colour"], denied("yard:GetLid"));
    // Tags.
    let mut document = a_box(json!({}));
    document.tags = None;
    document.gaps.insert("tags".into(), denied("yard:ListTags"));
    for pass in [
        "tags.env == 'prod'",
        "'env' in tags",
        "size(tags) == 1",
        "tags.all(k, true)",
    ] {
        let found = judge(pass, &document);
        assert_eq!(found.verdict, Unknown, "{pass}");
        assert_eq!(found.gaps["tags"], denied("yard:ListTags"), "{pass}");
    }
}

#[test]
fn gaps_name_only_what_the_answer_needed() {
    let names = |pass: &str, unread: &[&str]| -> Vec<String> {
        let found = judge(pass, &without(unread));
        assert_eq!(found.verdict, Unknown, "{pass}");
        found.gaps.into_keys().collect()
    };
    assert_eq!(
        names(
            "(r.Count == 1 && r.Size == 9) || r.Name == 'a'",
            &["Count", "Name"]
        ),
        ["config.Name"]
    );
    assert_eq!(
        names("r.Count == 1 && r.Name == 'a'", &["Count", "Name"]),
        ["config.Count", "config.Name"]
    );
    assert_eq!(
        names(
            "(r.Count == 1 || r.On) && r.Flag == true",
            &["Count", "Flag"]
        ),
        ["config.Flag"]
    );
    assert_eq!(
        names(
            "r.Rules.exists(x, r.Count == 1 && x.Proto == 'udp')",
            &["Count"]
        ),
        ["config.Count"]
    );
    assert!(
        judge("r.Count == 1 || r.On", &without(&["Count"]))
            .gaps
            .is_empty()
    );
}

#[test]
fn a_value_that_does_not_fit_its_declaration_is_unknown() {
    for (changes, pass) in [
        (json!({"On": "yes"}), "!r.On"),
        (json!({"On": null}), "!r.On"),
        (json!({"On": null}), "r.On == false"),
        (json!({"Size": "3"}), "r.Size > 0"),
        (json!({"Size": 3.5}), "r.Size > 0"),
        (json!({"Size": u64::MAX}), "r.Size > 0"),
        (json!({"Lid": []}), "r.Lid == null"),
        (json!({"Lid": 3}), "r.Lid.Colour == null"),
        (json!({"Rules": {}}), "r.Rules.all(x, x.Open)"),
        (json!({"Rules": [null]}), "r.Rules.all(x, x.Open)"),
        (json!({"Ports": [null]}), "r.Ports.all(p, p > 0)"),
        (json!({"Ports": ["a"]}), "r.Ports.all(p, p > 0)"),
        (json!({"Ports": ["a"]}), "!(22 in r.Ports)"),
        (json!({"Labels": {"k": 3}}), "r.Labels.k == null"),
        (json!({"MadeAt": "soon"}), "r.MadeAt < now"),
        (
            json!({"Policy": "{}"}),
            "r.Policy == null || !policy_public(r.Policy)",
        ),
        (
            json!({"Policy": {"Version": "2012-10-17"}}),
            "r.Policy == null || !policy_public(r.Policy)",
        ),
        (
            json!({"Policy": {"Statement": [{"Effect": "allow"}]}}),
            "r.Policy == null || !policy_admin(r.Policy)",
        ),
    ] {
        check(changes, Unknown, &[pass]);
    }
    let policy = json!({"Policy": {"Version": "2012-10-17"}});
    let found = judge(
        "r.Policy == null || !policy_public(r.Policy)",
        &a_box(policy),
    );
    assert_eq!(
        found.gaps["config.Policy"].error,
        "malformed policy: Statement is missing"
    );
}

#[test]
fn the_account_is_unknown_until_its_document_is_read() {
    let probe = check_of("lab.yard.box", "account.Mfa", "");
    assert!(probe.reads_account());
    let found = Around::default().judge(&probe, &a_box(json!({})));
    assert_eq!(found.verdict, Unknown);
    assert_eq!(found.gaps["account"].call, "account:GetOwner");
    for (mfa, want) in [(true, Pass), (false, Fail)] {
        let account = document("lab.account", "me", json!({"Mfa": mfa, "Zone": null}));
        let around = Around {
            account: Some(account),
            ..Around::default()
        };
        let found = around.judge(&probe, &a_box(json!({})));
        assert_eq!(found.verdict, want);
        assert_eq!(found.evidence["account.Mfa"], mfa);
    }
    let mut account = document("lab.account", "me", json!({}));
    account
        .gaps
        .insert("config.Mfa".into(), denied("account:GetOwner"));
    let around = Around {
        account: Some(account),
        ..Around::default()
    };
    let found = around.judge(&probe, &a_box(json!({})));
    assert_eq!(found.verdict, Unknown);
    assert_eq!(found.gaps["account.Mfa"], denied("account:GetOwner"));
}

fn sheds(dry: &[bool]) -> Vec<Document> {
    let named = dry.iter().zip(["a", "b", "c"]);
    named.map(|(dry, id)| a_shed(id, *dry)).collect()
}

#[test]
fn a_relation_proves_what_exists_and_only_if_whole_what_does_not() {
    for (pass, dry, partial, want) in [
        (
            "linked('in_shed').exists(s, s.r.Dry)",
            &[true][..],
            true,
            Pass,
        ),
        (
            "linked('in_shed').exists(s, s.r.Dry)",
            &[false],
            true,
            Unknown,
        ),
        (
            "linked('in_shed').exists(s, s.r.Dry)",
            &[false],
            false,
            Fail,
        ),
        ("linked('in_shed').exists(s, s.r.Dry)", &[], true, Unknown),
        ("linked('in_shed').exists(s, s.r.Dry)", &[], false, Fail),
        ("linked('in_shed').all(s, s.r.Dry)", &[true], true, Unknown),
        (
            "linked('in_shed').all(s, s.r.Dry)",
            &[true, false],
            true,
            Fail,
        ),
        ("linked('in_shed').all(s, s.r.Dry)", &[true], false, Pass),
        ("linked('in_shed').all(s, s.r.Dry)", &[], false, Pass),
        ("size(linked('in_shed')) == 1", &[true], true, Unknown),
        ("size(linked('in_shed')) == 1", &[true], false, Pass),
        (
            "linked('in_shed').exists_one(s, s.r.Dry)",
            &[true],
            true,
            Unknown,
        ),
        (
            "linked('in_shed').exists_one(s, s.r.Dry)",
            &[true, true],
            true,
            Fail,
        ),
        (
            "linked('in_shed').exists_one(s, s.r.Dry)",
            &[true, false],
            false,
            Pass,
        ),
        ("'a' in linked('in_shed').map(s, s.id)", &[true], true, Pass),
        (
            "!('z' in linked('in_shed').map(s, s.id))",
            &[true],
            true,
            Unknown,
        ),
    ] {
        let around = Around {
            linked: BTreeMap::from([("in_shed", sheds(dry))]),
            partial: if partial { vec!["in_shed"] } else { vec![] },
            ..Around::default()
        };
        let found = around.judge(&check_of("lab.yard.box", pass, ""), &a_box(json!({})));
        assert_eq!(found.verdict, want, "{pass} {dry:?} {partial}");
        if want == Unknown {
            assert_eq!(
                found.gaps["linked.in_shed"],
                denied("yard:DescribeSheds"),
                "{pass}"
            );
        }
        assert_eq!(
            found.evidence["linked.in_shed"].as_array().unwrap().len(),
            dry.len()
        );
    }
    let around = Around {
        linked: BTreeMap::from([(
            "in_shed",
            vec![document(
                "lab.yard.shed",
                "s",
                json!({"Id": "s", "Dry": true, "Doors": [{"Open": true}]}),
            )],
        )]),
        ..Around::default()
    };
    let pass = "linked('in_shed').exists(s, s.id == 's' && s.tags.env == 'prod' && s.r.Doors.exists(d, d.Open))";
    let found = around.judge(&check_of("lab.yard.box", pass, ""), &a_box(json!({})));
    assert_eq!(found.verdict, Pass);
}

#[test]
fn a_gap_in_a_neighbour_is_named_after_it() {
    let mut shed = a_shed("s", true);
    shed.config.as_object_mut().unwrap().remove("Dry");
    let throttled = protocol::document::Gap {
        call: "yard:DescribeSheds".into(),
        error: "Throttling".into(),
    };
    shed.gaps.insert("config.Dry".into(), throttled.clone());
    let around = Around {
        linked: BTreeMap::from([("in_shed", vec![shed])]),
        ..Around::default()
    };
    let probe = check_of("lab.yard.box", "linked('in_shed').all(s, s.r.Dry)", "");
    let found = around.judge(&probe, &a_box(json!({})));
    assert_eq!(found.verdict, Unknown);
    let name = "lab/111122223333/north/yard.shed/s#config.Dry".to_owned();
    assert_eq!(found.gaps, BTreeMap::from([(name, throttled)]));
}

#[test]
fn links_are_followed_back_to_one_type() {
    let pass = "!linked_from('in_shed', 'lab.yard.box').exists(b, b.r.On)";
    let probe = check_of("lab.yard.shed", pass, "");
    let cart = document("lab.yard.cart", "c", json!({"Id": "c"}));
    let around = |ends: Vec<Document>| Around {
        linked_from: BTreeMap::from([("in_shed", ends)]),
        ..Around::default()
    };
    let shed = a_shed("s", true);
    let found = around(vec![cart.clone()]).judge(&probe, &shed);
    assert_eq!(found.verdict, Pass, "carts are no boxes");
    let found =
        around(vec![cart, document("lab.yard.box", "b-1", whole_box())]).judge(&probe, &shed);
    assert_eq!(found.verdict, Fail);
    assert_eq!(
        found.evidence["linked_from.in_shed"],
        json!(["lab/111122223333/north/yard.box/b-1"])
    );
}

#[test]
fn the_cause_is_the_neighbour_that_decided() {
    let cause = |pass: &str, dry: &[bool]| {
        let probe = check_of("lab.yard.box", pass, "cause: linked('in_shed')\n");
        let around = Around {
            linked: BTreeMap::from([("in_shed", sheds(dry))]),
            ..Around::default()
        };
        let found = around.judge(&probe, &a_box(json!({})));
        assert_eq!(found.verdict, Fail, "{pass}");
        found.cause.unwrap().to_string()
    };
    let b = "lab/111122223333/north/yard.shed/b";
    let itself = "lab/111122223333/north/yard.box/b";
    let wet = "!linked('in_shed').exists(s, !s.r.Dry)";
    assert_eq!(cause(wet, &[true, false, true]), b);
    // What the first part found is not what made the second fail.
    let both = "linked('in_shed').exists(s, s.r.Dry) && !linked('in_shed').exists(s, !s.r.Dry)";
    assert_eq!(cause(both, &[true, false]), b);
    let all = "linked('in_shed').all(s, s.r.Dry || s.id == 'a')";
    assert_eq!(cause(all, &[false, false]), b);
    assert_eq!(
        cause("linked('in_shed').exists(s, s.r.Dry)", &[false]),
        itself
    );
    assert_eq!(cause("size(linked('in_shed')) == 0", &[true]), itself);
    let plain = check_of("lab.yard.box", "r.Size == 9", "");
    let found = Around::default().judge(&plain, &a_box(json!({})));
    assert_eq!(found.cause.unwrap().to_string(), itself);
}

/// Judges a box at an instant: the verdict, and when it falls due.
fn at(pass: &str, now: &str) -> (Verdict, Option<String>) {
    let found = judge_at(
        &check_of("lab.yard.box", pass, ""),
        &a_box(json!({})),
        now.parse().unwrap(),
    );
    assert_eq!(found.evidence["now"], now);
    (found.verdict, found.due_at.map(|at| at.to_string()))
}

#[test]
fn a_verdict_falls_due_when_a_comparison_with_now_turns() {
    let due = |at: &str| Some(at.to_owned());
    // 4800 hours after 2026-01-01 it is 2026-07-20.
    for (pass, want) in [
        (
            "now - timestamp(r.MadeAt) < duration('4800h')",
            (Pass, due("2026-07-20T00:00:00Z")),
        ),
        (
            "now - r.MadeAt <= duration('4800h')",
            (Pass, due("2026-07-20T00:00:00.000000001Z")),
        ),
        (
            "now - r.MadeAt > duration('4800h')",
            (Fail, due("2026-07-20T00:00:00.000000001Z")),
        ),
        (
            "r.MadeAt > now - duration('4800h')",
            (Pass, due("2026-07-20T00:00:00Z")),
        ),
        (
            "r.MadeAt + duration('4800h') >= now",
            (Pass, due("2026-07-20T00:00:00.000000001Z")),
        ),
        (
            "r.MadeAt + duration('4800h') < now",
            (Fail, due("2026-07-20T00:00:00.000000001Z")),
        ),
        (
            "!(r.MadeAt > now - duration('4800h'))",
            (Fail, due("2026-07-20T00:00:00Z")),
        ),
        (
            "now < timestamp('2027-01-01T00:00:00Z')",
            (Pass, due("2027-01-01T00:00:00Z")),
        ),
        ("now - r.MadeAt < duration('24h')", (Fail, None)),
        (
            "now < timestamp('2027-01-01T00:00:00Z') && now - r.MadeAt < duration('4800h')",
            (Pass, due("2026-07-20T00:00:00Z")),
        ),
        (
            "now < timestamp('2027-01-01T00:00:00Z') || now - r.MadeAt < duration('4800h')",
            (Pass, due("2027-01-01T00:00:00Z")),
        ),
        (
            "(now < timestamp('2027-01-01T00:00:00Z') ? 'early' : 'late') in [r.Kind, 'early']",
            (Pass, due("2027-01-01T00:00:00Z")),
        ),
        (
            "r.UsedAt == null || now - r.UsedAt < duration('1h') || now < r.MadeAt",
            (Pass, None),
        ),
        (
            "r.Size == 9 && now < timestamp('2027-01-01T00:00:00Z')",
            (Fail, None),
        ),
    ] {
        assert_eq!(at(pass, NOW), want, "{pass}");
    }
    // An unread fact does not hide when the rest will decide.
    let probe = check_of(
        "lab.yard.box",
        "r.On && now < timestamp('2027-01-01T00:00:00Z')",
        "",
    );
    let found = judge_at(&probe, &without(&["On"]), NOW.parse().unwrap());
    assert_eq!(found.verdict, Unknown);
    assert_eq!(found.due_at, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert!(probe.reads_now());
}

#[test]
fn a_due_instant_is_the_first_at_which_the_verdict_differs() {
    let nano = SignedDuration::from_nanos(1);
    let document = a_box(json!({}));
    for order in ["<", "<=", ">", ">="] {
        for sides in [
            ("now - r.MadeAt", "duration('4800h')"),
            ("duration('4800h')", "now - r.MadeAt"),
            ("now", "r.MadeAt + duration('4800h')"),
            ("r.MadeAt - now", "duration('-4800h')"),
        ] {
            let probe = check_of(
                "lab.yard.box",
                &format!("{} {order} {}", sides.0, sides.1),
                "",
            );
            let verdict = |at: Timestamp| judge_at(&probe, &document, at).verdict;
            let now: Timestamp = NOW.parse().unwrap();
            let found = judge_at(&probe, &document, now);
            let due = found.due_at.unwrap();
            assert_eq!(verdict(due - nano), found.verdict, "{}", probe.pass_text());
            assert_ne!(verdict(due), found.verdict, "{}", probe.pass_text());
            // Afterwards nothing turns any more.
            assert_eq!(judge_at(&probe, &document, due).due_at, None);
        }
    }
}

#[test]
fn a_check_that_does_not_apply_says_so_and_one_that_may_not_is_unknown() {
    let probe = check_of("lab.yard.box", "r.On", "applies: r.Kind == 'crate'\n");
    let judge = |document: &Document| Around::default().judge(&probe, document).verdict;
    assert_eq!(judge(&a_box(json!({}))), Pass);
    assert_eq!(judge(&a_box(json!({"On": false}))), Fail);
    assert_eq!(judge(&a_box(json!({"Kind": "bag"}))), NotApplicable);
    assert_eq!(
        judge(&a_box(json!({"Kind": "bag", "On": false}))),
        NotApplicable
    );
    assert_eq!(judge(&without(&["Kind"])), Unknown);
    assert_eq!(judge(&without(&["On"])), Unknown);
    let mut bag = without(&["On"]);
    bag.config["Kind"] = "bag".into();
    assert_eq!(judge(&bag), NotApplicable);
}

#[test]
fn a_denied_scope_is_unknown_with_the_gap() {
    let probe = check_of("lab.yard.box", "r.On", "");
    let gap = denied("yard:DescribeBoxes");
    let found = probe.for_denied_scope(&gap);
    assert_eq!(found.verdict, Unknown);
    assert_eq!(found.gaps, BTreeMap::from([("config".to_owned(), gap)]));
    assert!(found.evidence.is_empty() && found.cause.is_none());
}

#[test]
fn long_evidence_is_cut_and_its_length_said() {
    let ports: Vec<u32> = (1..=5000).collect();
    let document = a_box(json!({"Ports": ports, "Name": "ä".repeat(10_000)}));
    let found = judge("size(r.Ports) == 0 || r.Name == 'x'", &document);
    assert_eq!(found.evidence["Ports"].as_array().unwrap().len(), 100);
    assert_eq!(found.evidence["Ports#total"], 5000);
    assert!(found.evidence["Name"].as_str().unwrap().len() < 5000);
    let short = judge("size(r.Ports) == 0", &a_box(json!({})));
    assert_eq!(
        short.evidence,
        BTreeMap::from([("Ports".to_owned(), json!([22, 80]))])
    );
}
