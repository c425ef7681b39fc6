//! Retention and legal holds, as an admin and everybody else meets them.

use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use protocol::api::Role;
use protocol::event::EventRecord;
use serde_json::{Value, json};

use super::hub::{Login, TestHub, block};

async fn set(hub: &TestHub, login: &Login, class: &str, days: u32) -> super::Asked {
    let body = json!({"class": class, "days": days});
    hub.ask_as(login, Method::PUT, "/api/v1/retention", Some(&body))
        .await
}

async fn class(hub: &TestHub, name: &str) -> Value {
    let path = format!("/api/v1/retention?filter=class={name}");
    let found = hub.get(&hub.members[&Role::Viewer], &path).await.json();
    assert_eq!(found["total"], 1, "{found}");
    found["items"][0].clone()
}

async fn run(hub: &TestHub, dry_run: bool) -> Value {
    let admin = &hub.members[&Role::Admin];
    let body = json!({"dry_run": dry_run});
    let ran = hub.post_as(admin, "/api/v1/retention/run", &body).await;
    let ran = ran.json();
    assert_eq!(ran["dry_run"], dry_run);
    let items = ran["items"].as_array().unwrap();
    assert_eq!(items.len(), 7, "{ran}");
    let events = items.iter().find(|item| item["class"] == "events");
    events.unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_is_told_and_what_cannot_be_is_refused_with_the_reason() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    assert_eq!(class(&hub, "events").await["days"], 90);
    let now = set(&hub, admin, "events", 10).await.json();
    assert_eq!(
        (&now["days"], &now["default_days"]),
        (&json!(10), &json!(90))
    );
    assert_eq!(class(&hub, "events").await["days"], 10);
    assert_eq!(class(&hub, "losses").await["held"], true);
    assert_eq!(class(&hub, "audit").await["days"], 400);
    for (name, days, why) in [
        ("audit", 364, "365 to 3660"),
        ("events", 0, "1 to 3660"),
        ("batch_headers", 9, "evidence of events"),
    ] {
        let refused = set(&hub, admin, name, days).await;
        refused.assert_problem(StatusCode::UNPROCESSABLE_ENTITY, "bad_days");
        assert!(refused.text.contains(why), "{}", refused.text);
    }
    assert_eq!(class(&hub, "batch_headers").await["days"], 90);
    for reason in ["", "  ", "a\u{202e}b"] {
        let body = json!({"reason": reason});
        let refused = hub.post_as(admin, "/api/v1/holds", &body).await;
        refused.assert_problem(StatusCode::BAD_REQUEST, "bad_reason");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_behind_the_line_says_that_events_are_forgotten_and_a_hold_keeps_them() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let now = Timestamp::now();
    let old = now - SignedDuration::from_hours(24 * 40);
    let data = hub.store.maintenance(hub.own).await.unwrap().unwrap();
    let record = EventRecord {
        time_ms: old.as_millisecond(),
        class_uid: 2004,
        action: "an old one".to_owned(),
        ..EventRecord::default()
    };
    let mut stored = block(
        hub.seeded.agent,
        hub.seeded.source,
        std::slice::from_ref(&record),
    );
    stored.received_at = old;
    let mut write = data.write();
    write.put_events(stored, &[record.view()].into_iter().collect());
    write.commit().await.unwrap();
    let events = async |query: &str| {
        let path = format!("/api/v1/events{query}");
        hub.get(&hub.members[&Role::Viewer], &path).await.json()
    };
    let all = events("").await;
    assert_eq!(
        (&all["total"], &all["forgotten_before"]),
        (&json!(2), &Value::Null)
    );

    set(&hub, admin, "events", 30).await.json();
    let hold = json!({"class": "events", "reason": "matter 7"});
    let hold = hub.post_as(admin, "/api/v1/holds", &hold).await.json();
    let due = run(&hub, true).await;
    assert_eq!(
        (&due["rows"], &due["held"]),
        (&json!(1), &json!("matter 7"))
    );
    assert!(due["bytes"].as_u64().unwrap() > 100, "{due}");
    let kept = run(&hub, false).await;
    assert_eq!(
        (&kept["rows"], &kept["held"]),
        (&json!(0), &json!("matter 7"))
    );
    assert_eq!(events("").await, all);

    let id = hold["id"].as_str().unwrap();
    let path = format!("/api/v1/holds/{id}/lift");
    let lifted = hub
        .post_as(admin, &path, &json!({"reason": "settled"}))
        .await;
    assert_eq!(lifted.json()["id"], id);
    let gone = run(&hub, false).await;
    assert_eq!((&gone["rows"], &gone["held"]), (&json!(1), &Value::Null));
    let left = events("").await;
    assert_eq!(left["total"], 1);
    assert_eq!(left["forgotten_before"], gone["before"], "{left}");
    // One that does not reach so far back hides nothing.
    assert_eq!(
        events("?filter=time%3E%3D1h").await["forgotten_before"],
        Value::Null
    );
    assert_eq!(run(&hub, true).await["rows"], 0);

    let log = hub.get(admin, "/api/v1/audit?limit=1000").await.json();
    let acts: Vec<(&str, &str)> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            (
                line["action"].as_str().unwrap(),
                line["detail"].as_str().unwrap(),
            )
        })
        .filter(|(action, _)| action.starts_with("retention.") || action.starts_with("hold."))
        .collect();
    let told = format!(
        "1 blocks of events from before {}",
        gone["before"].as_str().unwrap()
    );
    let want = [
        ("retention.set", "30 days instead of 90"),
        ("hold.set", "events: \"matter 7\""),
        ("hold.lift", "\"settled\"; it was set for \"matter 7\""),
        ("retention.purge", told.as_str()),
    ];
    assert_eq!(acts, want);
}
