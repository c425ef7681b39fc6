//! Lists as of an instant, and comparisons of two.

use http::StatusCode;
use protocol::api::Role;
use serde_json::{Value, json};

use super::hub::{CHECK, TestHub};

/// Before anything was.
const LONG_AGO: &str = "2001-01-01T00:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_an_instant_shows_what_there_was_and_names_nothing_of_today_as_such() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    let now = jiff::Timestamp::now();
    let get = async |path: String| hub.get(viewer, &path).await.json();
    for (list, evidence) in [("resources", false), ("findings", true)] {
        let today = get(format!("/api/v1/{list}")).await;
        let then = get(format!("/api/v1/{list}?as_of={now}")).await;
        assert!(today["total"].as_u64().unwrap() > 0);
        assert_eq!(then["total"], today["total"], "{list}");
        for (then, today) in then["items"]
            .as_array()
            .unwrap()
            .iter()
            .zip(today["items"].as_array().unwrap())
        {
            for name in [
                "urn", "config", "id", "status", "verdict", "history", "title",
            ] {
                assert_eq!(then[name], today[name], "{list} {name}");
            }
            assert_eq!(evidence, then["evidence"] == json!({}), "{then}");
        }
        let before = get(format!("/api/v1/{list}?as_of={LONG_AGO}")).await;
        assert_eq!(before, json!({"items": [], "total": 0}), "{list}");
        let changes = get(format!("/api/v1/{list}/changes?from={LONG_AGO}&to={now}")).await;
        assert_eq!(changes["total"], today["total"], "{changes}");
        let none = get(format!("/api/v1/{list}/changes?from={now}&to={now}")).await;
        assert_eq!(none["total"], 0);
    }
    let added = get(format!(
        "/api/v1/resources/changes?from={LONG_AGO}&filter=change=added"
    ))
    .await;
    assert_eq!(added["items"][0]["change"], "added");
    assert_eq!(added["items"][0]["fields"], json!([]));
    let opened = get(format!("/api/v1/findings/changes?from={LONG_AGO}")).await;
    assert_eq!(opened["items"][0]["check_id"], CHECK);
    assert_eq!(opened["items"][0]["status_before"], Value::Null);
    assert_eq!(opened["items"][0]["status"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_that_is_none_or_to_come_is_refused() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    for (path, code) in [
        ("resources?as_of=2999-01-01T00:00:00Z", "bad_instant"),
        ("findings?as_of=2999-01-01T00:00:00Z", "bad_instant"),
        (
            "resources/changes?from=2001-01-01T00:00:00Z&to=2999-01-01T00:00:00Z",
            "bad_instant",
        ),
        (
            "findings/changes?from=2002-01-01T00:00:00Z&to=2001-01-01T00:00:00Z",
            "bad_instant",
        ),
        ("resources?as_of=yesterday", "bad_query"),
        ("agents?as_of=2001-01-01T00:00:00Z", "bad_query"),
    ] {
        let answer = hub.get(viewer, &format!("/api/v1/{path}")).await;
        answer.assert_problem(StatusCode::BAD_REQUEST, code);
    }
}
