//! Agents that are sent away for a time: suspended ones, and identities that two machines use.

use protocol::frame::Lane;
use protocol::session::CloseCode;
use protocol::wire::v1::{self, Message};
use store::rows::AgentState;

use super::parties::{Talk, closed, connect, hub};
use super::record;
use crate::live::EndSession;

#[tokio::test]
async fn a_suspended_agent_is_told_when_to_come_back_and_comes_back_when_it_may() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let org = hub.org_store().await;
    let mut talk = Talk::open(&hub, &agent).await;
    org.set_agent_state(agent.id, AgentState::Suspended)
        .await
        .unwrap();
    let why = EndSession {
        code: CloseCode::Suspended,
        reason: "this agent was suspended".into(),
    };
    assert!(hub.live.end(agent.id, why));
    let Message::GoAway(away) = talk.hear().await else {
        panic!("no farewell")
    };
    assert_eq!(away.code, CloseCode::Suspended.number());
    assert!((10_000..20_000).contains(&away.retry_after_ms));
    org.set_agent_state(agent.id, AgentState::Active)
        .await
        .unwrap();
    let mut talk = Talk::open(&hub, &agent).await;
    talk.send(Lane::Events, &[record("back")]).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_copied_identity_is_quarantined_and_a_restarted_agent_is_not() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let state = async || {
        let row = hub.store.appliance().agent(agent.id).await.unwrap();
        row.unwrap().state
    };
    // Each takes the place of one that the hub believes alive.
    let mut held = Vec::new();
    for process in 1..8 {
        held.push(Talk::open_as(&hub, &agent, process).await);
    }
    assert_eq!(state().await, AgentState::Active);
    // The last one and a copy take turns.
    held.push(Talk::open_as(&hub, &agent, 99).await);
    held.push(Talk::open_as(&hub, &agent, 7).await);
    let mut copy = Talk::open_as(&hub, &agent, 99).await;
    let Message::GoAway(away) = copy.hear().await else {
        panic!("no farewell")
    };
    assert_eq!(away.code, CloseCode::Suspended.number());
    assert!(away.reason.contains("cloned"), "{}", away.reason);
    assert_eq!(state().await, AgentState::Quarantined);
    let (_endpoint, connection) = connect(&hub, Some(&agent), v1::ALPN).await.unwrap();
    assert_eq!(closed(&connection).await.0, CloseCode::Suspended);
    let audit = hub.org_store().await.audit(1, 100).await.unwrap();
    let entries = audit.iter().filter(|e| e.action == "agent.quarantine");
    assert_eq!(entries.count(), 1);
    // An operator has looked, and the copy is gone.
    let org = hub.org_store().await;
    org.set_agent_state(agent.id, AgentState::Active)
        .await
        .unwrap();
    let mut talk = Talk::open_as(&hub, &agent, 7).await;
    talk.send(Lane::Events, &[record("back")]).await;
    hub.stop().await;
}
