//! Agents that operators send away, let back in, or refuse for good.

use http::StatusCode;
use protocol::api::Role;
use serde_json::{Value, json};

use super::hub::TestHub;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_suspended_resumed_and_revoked_and_each_act_is_in_the_log_once() {
    let hub = TestHub::start().await;
    let operator = &hub.members[&Role::Operator];
    let agent = hub.seeded.agent;
    let act = async |verb: &str, body: Value| {
        let path = format!("/api/v1/agents/{agent}/{verb}");
        hub.post_as(operator, &path, &body).await
    };
    let why = json!({"reason": " the host is being moved "});
    for _ in ["once", "and again"] {
        assert_eq!(
            act("suspend", why.clone()).await.json()["state"],
            "suspended"
        );
    }
    assert_eq!(act("resume", json!({})).await.json()["state"], "stale");
    assert_eq!(act("revoke", json!({})).await.json()["state"], "revoked");
    assert_eq!(act("revoke", json!({})).await.json()["state"], "revoked");
    for verb in ["resume", "suspend"] {
        let refused = act(verb, json!({})).await;
        refused.assert_problem(StatusCode::CONFLICT, "agent_revoked");
    }
    let long = json!({"reason": "x".repeat(1001)});
    let refused = act("revoke", long).await;
    refused.assert_problem(StatusCode::BAD_REQUEST, "bad_reason");

    let log = hub.get(&hub.members[&Role::Auditor], "/api/v1/audit").await;
    let log = log.json();
    let acts: Vec<(&str, &str)> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["object"] == agent.to_string())
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap();
            (text("action"), text("detail"))
        })
        .collect();
    assert_eq!(
        acts,
        [
            (
                "agent.suspend",
                "was active; reason: the host is being moved"
            ),
            ("agent.resume", "was suspended"),
            ("agent.revoke", "was active"),
        ]
    );
}
