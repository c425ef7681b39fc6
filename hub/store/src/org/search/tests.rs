//! Terms, whole texts, and an index that excludes nothing wrongly.

use proptest::prelude::*;
use protocol::event::EventRecord;

use super::*;

/// Returns the row of an index.
fn index<'r>(records: impl IntoIterator<Item = &'r EventRecord>) -> Vec<u8> {
    let index: EventIndex = records.into_iter().map(EventRecord::view).collect();
    index.encode(SourceId::from_bytes([0; 16]))
}

fn may_hold(row: &[u8], wanted: &Wanted) -> bool {
    EventIndex::may_hold(row, wanted).unwrap()
}

fn matches(wanted: &Wanted, record: &EventRecord) -> bool {
    wanted.matches(&record.view(), &mut String::new())
}

fn record(raw: &str) -> EventRecord {
    EventRecord {
        raw: raw.into(),
        ..EventRecord::default()
    }
}

#[track_caller]
fn check(raw: &str, term: &str, want: bool) {
    let query = EventQuery {
        text: vec![term.into()],
        ..EventQuery::default()
    };
    let wanted = Wanted::new(&query);
    let record = record(raw);
    assert_eq!(matches(&wanted, &record), want, "{raw:?} {term:?}");
    assert_eq!(holds_words(raw, term), want, "{raw:?} {term:?}");
    let row = index([&record]);
    assert!(may_hold(&row, &wanted) || !want, "{raw:?} {term:?}");
}

#[test]
fn a_term_is_found_as_whole_words_only() {
    check("Failed login of root", "root", true);
    check("Failed login of root", "ROOT", true);
    check("chroot jail", "root", false);
    check("rooted", "root", false);
    check("sshd: brute_force", "brute", true);
    check("login of root", "login of", true);
    check("login for root of", "login of", false);
    check("from 10.0.0.1 port 22", "10.0.0.1", true);
    check("from 110.0.0.1 port 22", "10.0.0.1", false);
    check("from 10.0.0.12 port 22", "10.0.0.1", false);
    check("aroot root", "root", true);
    check("path /etc/shadow read", "/etc/shadow", true);
    check("path /etc/shadows read", "/etc/shadow", false);
    check("ΟΔΟΣ", "οδοσ", true);
    check("ΟΔΟΣ", "οδος", true);
    check("οδός", "ΟΔΌΣ", true);
    check("a -- b", "--", true);
    check("anything", "", true);
    check("", "root", false);
}

#[test]
fn an_actor_a_resource_and_an_address_are_looked_for_whole() {
    let held = EventRecord {
        actor: "arn:aws:iam::1:user/Ann".into(),
        resource: "web-1".into(),
        src_ip: "10.0.0.1".into(),
        severity: 3,
        time_ms: 1_000,
        ..EventRecord::default()
    };
    let check = |query: EventQuery, want: bool| {
        let wanted = Wanted::new(&query);
        assert_eq!(matches(&wanted, &held), want, "{query:?}");
        let row = index([&held]);
        assert!(may_hold(&row, &wanted) || !want, "{query:?}");
    };
    let none = EventQuery::default;
    check(none(), true);
    check(
        EventQuery {
            actor: Some("ARN:aws:iam::1:user/ann".into()),
            ..none()
        },
        true,
    );
    check(
        EventQuery {
            actor: Some("ann".into()),
            ..none()
        },
        false,
    );
    check(
        EventQuery {
            resource: Some("web-1".into()),
            ..none()
        },
        true,
    );
    check(
        EventQuery {
            resource: Some("web".into()),
            ..none()
        },
        false,
    );
    check(
        EventQuery {
            src_ip: Some("10.0.0.1".into()),
            ..none()
        },
        true,
    );
    check(
        EventQuery {
            src_ip: Some("10.0.0".into()),
            ..none()
        },
        false,
    );
    check(
        EventQuery {
            severity_at_least: Some(3),
            ..none()
        },
        true,
    );
    check(
        EventQuery {
            severity_at_least: Some(4),
            ..none()
        },
        false,
    );
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    check(
        EventQuery {
            since: at("1970-01-01T00:00:01Z"),
            ..none()
        },
        true,
    );
    check(
        EventQuery {
            since: at("1970-01-01T00:00:01.0001Z"),
            ..none()
        },
        false,
    );
    check(
        EventQuery {
            until: at("1970-01-01T00:00:01Z"),
            ..none()
        },
        false,
    );
    check(
        EventQuery {
            until: at("1970-01-01T00:00:01.0001Z"),
            ..none()
        },
        true,
    );
}

#[test]
fn the_filter_lets_few_absent_words_through() {
    let present: Vec<String> = (0..5_000).map(|n| format!("word{n}")).collect();
    let record = record(&present.join(" "));
    let row = index([&record]);
    let asks = |word: String| {
        Wanted::new(&EventQuery {
            text: vec![word],
            ..EventQuery::default()
        })
    };
    assert!(present.into_iter().all(|word| may_hold(&row, &asks(word))));
    let through = (0..10_000)
        .filter(|n| may_hold(&row, &asks(format!("absent{n}"))))
        .count();
    assert!(
        through < 200,
        "{through} of 10,000 absent words are let through"
    );
}

proptest! {
    #[test]
    fn the_index_never_excludes_a_block_that_holds_a_match(
        texts in proptest::collection::vec(
            proptest::string::string_regex("[aAbBİßΣς0-9._/ \u{301}-]{0,12}").unwrap(), 1..5),
        term in proptest::string::string_regex("[aAbBİßΣς0-9._/ -]{0,4}").unwrap(),
        by_actor: bool,
        severity in 0u8..7,
    ) {
        let records: Vec<EventRecord> = texts
            .iter()
            .map(|text| EventRecord {
                actor: text.clone(), raw: text.clone(), severity, ..EventRecord::default()
            })
            .collect();
        let row = index(&records);
        let mut query = EventQuery::default();
        if by_actor {
            query.actor = Some(term);
        } else {
            query.text = vec![term];
        }
        let wanted = Wanted::new(&query);
        if records.iter().any(|record| matches(&wanted, record)) {
            prop_assert!(may_hold(&row, &wanted));
        }
    }
}
