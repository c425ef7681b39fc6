//! Certificates that are renewed over the session, in time and after their end.

use jiff::{SignedDuration, Timestamp};
use protocol::frame::Lane;
use protocol::session::CloseCode;
use protocol::wire::v1;
use quinn::ConnectionError;
use store::rows::AgentState;

use super::parties::{Hub, PATIENCE, Talk, closed, connect, hub};
use super::{events, record};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// How many certificates of an agent are in force.
async fn in_force(hub: &Hub, agent: &super::Agent) -> usize {
    let row = hub.store.appliance().agent(agent.id).await.unwrap();
    row.unwrap().certificates.len()
}

#[tokio::test]
async fn the_old_certificate_is_good_until_the_new_one_was_seen() {
    let hub = hub().await;
    let old = hub.agent().await;
    let mut talk = Talk::open(&hub, &old).await;
    let root = hub.authority.roots()[0].to_vec();
    // The hub's roots come with the greeting.
    let lost = talk.renew(old.request()).await.unwrap();
    let told = talk.authority.as_ref().unwrap();
    assert_eq!((&told.roots, told.renew_within_ms), (&vec![root], None));
    assert_eq!(in_force(&hub, &old).await, 2);

    // The answer was lost with the agent: it asks again with what it has.
    let mut again = Talk::open(&hub, &old).await;
    let fresh = old.with_chain(again.renew(old.request()).await.unwrap());
    let (_endpoint, connection) = connect(&hub, Some(&old.with_chain(lost)), v1::ALPN)
        .await
        .unwrap();
    assert_eq!(closed(&connection).await.0, CloseCode::Unenrolled);
    let mut old_talk = Talk::open(&hub, &old).await;
    old_talk
        .send(Lane::Events, &[record("by the old one")])
        .await;

    let mut talk = Talk::open(&hub, &fresh).await;
    talk.send(Lane::Events, &[record("by the new one")]).await;
    assert_eq!(in_force(&hub, &old).await, 1);
    let (_endpoint, connection) = connect(&hub, Some(&old), v1::ALPN).await.unwrap();
    let (code, reason) = closed(&connection).await;
    assert_eq!(code, CloseCode::Unenrolled);
    assert_eq!(reason, "this certificate is not the agent's current one");

    let audit = hub.org_store().await.audit(1, 100).await.unwrap();
    let renewed = audit.iter().filter(|entry| entry.action == "agent.renew");
    assert_eq!(renewed.count(), 2);
    hub.stop().await;
}

#[tokio::test]
async fn a_request_for_another_key_and_one_of_a_suspended_agent_get_no_certificate() {
    let hub = hub().await;
    let (agent, other) = (hub.agent().await, hub.agent().await);
    let mut talk = Talk::open(&hub, &agent).await;
    let refused = talk.renew(other.request()).await.unwrap_err();
    assert!(refused.contains("another key"), "{refused}");
    let refused = talk.renew(b"no request".to_vec()).await.unwrap_err();
    assert!(refused.contains("malformed"), "{refused}");
    // Suspended by a hub that has not ended the session yet.
    let org = hub.org_store().await;
    for state in [AgentState::Suspended, AgentState::Revoked] {
        org.set_agent_state(agent.id, state).await.unwrap();
        let refused = talk.renew(agent.request()).await.unwrap_err();
        assert!(refused.contains("may not renew"), "{refused}");
    }
    assert_eq!(in_force(&hub, &agent).await, 1);
    hub.stop().await;
}

#[tokio::test]
async fn an_ended_certificate_buys_a_new_one_and_nothing_else() {
    let hub = hub().await;
    let ended = hub.agent_made_at(Timestamp::now() - DAY * 45).await;
    // A hostile agent sends what it may not.
    let mut talk = Talk::open(&hub, &ended).await;
    assert!(talk.welcome.credits.is_empty());
    let batch = talk.batch(Lane::Events, 1, &[record("too late")]);
    talk.write(Lane::Events, &batch).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    let want = "the agent's certificate has ended: all it may do is renew it";
    assert_eq!(reason, want);
    assert!(events(&hub).await.is_empty());

    let mut talk = Talk::open(&hub, &ended).await;
    let fresh = ended.with_chain(talk.renew(ended.request()).await.unwrap());
    let mut talk = Talk::open(&hub, &fresh).await;
    talk.send(Lane::Events, &[record("login")]).await;
    assert_eq!(events(&hub).await, ["login"]);
    hub.stop().await;
}

#[tokio::test]
async fn a_certificate_that_ended_over_30_days_ago_ends_the_handshake_as_expired() {
    let hub = hub().await;
    let ended = hub.agent_made_at(Timestamp::now() - DAY * 61).await;
    let said = match connect(&hub, Some(&ended), v1::ALPN).await {
        Ok((_endpoint, connection)) => tokio::time::timeout(PATIENCE, connection.closed())
            .await
            .unwrap(),
        Err(error) => error,
    };
    let ConnectionError::ConnectionClosed(close) = said else {
        panic!("{said}")
    };
    // Alert certificate_expired, 45, as QUIC carries it (RFC 9001 section 4.8).
    assert_eq!(u64::from(close.error_code), 0x100 + 45);
    hub.stop().await;
}
