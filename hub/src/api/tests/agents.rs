//! Agents that operators send away, let back in, or refuse for good.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use protocol::api::Role;
use serde_json::{Value, json};
use store::AgentIdentity;
use store::rows::access::AgentCertificate;

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

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_did_not_renew_says_so_in_the_list_and_on_the_first_screen() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    let shown = async || {
        let list = hub.get(viewer, "/api/v1/agents").await.json();
        let overview = hub.get(viewer, "/api/v1/overview").await.json();
        let attention = overview["attention"].as_array().unwrap().clone();
        let ours = |entry: &&Value| entry["text"].as_str().unwrap().contains("certificate");
        let text = attention.iter().find(ours).map(|entry| {
            assert_eq!(entry["target"], hub.seeded.agent.to_string());
            entry["text"].as_str().unwrap().to_owned()
        });
        (list["items"][0]["certificate"]["warning"].clone(), text)
    };
    assert_eq!(shown().await, (Value::Null, None));
    let appliance = hub.store.appliance();
    let agent = appliance.agent(hub.seeded.agent).await.unwrap().unwrap();
    let identity = AgentIdentity {
        org: agent.org,
        agent: agent.id,
        serial: agent.newest().unwrap().serial.clone(),
    };
    let six_days = Timestamp::now() + SignedDuration::from_hours(24 * 6 + 1);
    let near = AgentCertificate {
        serial: vec![2],
        not_after: six_days,
        root: agent.newest().unwrap().root,
    };
    appliance.renew_agent(&identity, near).await.unwrap();
    let (warning, text) = shown().await;
    let warning = warning.as_str().unwrap();
    assert!(warning.starts_with("ends in 6 days, at "), "{warning}");
    let text = text.unwrap();
    assert_eq!(
        text,
        format!("web: its certificate {warning}; it was not renewed")
    );
    appliance
        .set_agent_state(agent.id, store::rows::AgentState::Revoked)
        .await
        .unwrap();
    assert_eq!(shown().await, (Value::Null, None));
}
