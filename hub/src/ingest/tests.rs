//! Agents against the port: real QUIC and TCP on loopback, a real store in a folder of its own.

mod hostile;
mod pace;
mod parties;
mod renewal;
mod rotation;
mod standing;
mod tcp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use protocol::declare::Declarations;
use protocol::document::SetHash;
use protocol::enroll;
use protocol::event::EventRecord;
use protocol::frame::{Decoder, Frame, HEADER_BYTES, Lane};
use protocol::ids::{AgentId, SourceId, TokenId};
use protocol::parts::Sums;
use protocol::session::CloseCode;
use protocol::wire::v1::{
    self, HighWater, Lost, LostReason, Message, ReportItem, Resync, SourceReport, SweepItem,
};
use protocol::{Document, Scope, limits};
use quinn::ConnectionError;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use store::rows::AgentState;
use store::rows::event::EventQuery;
use store::rows::finding::Actor;
use store::rows::resource::{ScopeState, ScopeStatus};
use tokio_util::sync::CancellationToken;

use crate::ca::{Authority, Material};
use crate::live::EndSession;

use parties::*;

fn scope() -> Scope {
    Scope::of_type("aws.ec2.vpc", ACCOUNT, "us-east-1")
}

fn scope_text() -> String {
    scope().to_string()
}

fn document(id: &str, cidr: &str) -> Document {
    let declared = Declarations::builtin().get("aws.ec2.vpc").unwrap();
    let absent = declared
        .fields
        .keys()
        .map(|name| (name.clone(), Value::Null));
    let mut config: serde_json::Map<String, Value> = absent.collect();
    config.insert("CidrBlock".into(), json!(cidr));
    let scope = scope();
    Document {
        type_name: scope.type_name(),
        provider: scope.provider.clone(),
        account: scope.account.clone(),
        region: scope.region.clone(),
        id: id.into(),
        native_id: id.into(),
        name: id.into(),
        tags: Some(BTreeMap::new()),
        config: Value::Object(config),
        gaps: BTreeMap::new(),
        links: vec![],
        collected_at: Timestamp::UNIX_EPOCH,
        urn: scope.urn(id),
    }
}

fn changed(document: &Document) -> SweepItem {
    SweepItem::Changed {
        document: serde_json::to_string(document).unwrap(),
    }
}

fn begin(generation: u64) -> SweepItem {
    SweepItem::Begin {
        scope: scope_text(),
        generation,
    }
}

fn ended(generation: u64, documents: &[&Document]) -> SweepItem {
    let mut set = SetHash::default();
    for document in documents {
        set.add(&document.urn.to_string(), &document.content_hash());
    }
    SweepItem::End {
        scope: scope_text(),
        generation,
        set,
        resent: None,
    }
}

async fn living(hub: &Hub) -> Vec<String> {
    let found = hub.org_store().await.resources_in(&scope()).await.unwrap();
    let mut ids: Vec<String> = found.into_iter().map(|r| r.document.id).collect();
    ids.sort();
    ids
}

async fn status(hub: &Hub) -> ScopeStatus {
    let found = hub.org_store().await.scope(&scope()).await.unwrap();
    found.expect("a sweep of the scope was begun")
}

async fn state(hub: &Hub) -> ScopeState {
    status(hub).await.state
}

fn record(action: &str) -> EventRecord {
    EventRecord {
        time_ms: Timestamp::now().as_millisecond(),
        action: action.into(),
        raw: format!("raw {action}"),
        ..EventRecord::default()
    }
}

async fn events(hub: &Hub) -> Vec<String> {
    let query = EventQuery {
        limit: 100,
        ..EventQuery::default()
    };
    let page = hub.org_store().await.search_events(query).await.unwrap();
    let mut actions: Vec<String> = page.events.into_iter().map(|e| e.record.action).collect();
    actions.sort();
    actions
}

#[tokio::test]
async fn a_token_enrols_one_agent_once_and_leaves_an_audit_entry() {
    let hub = hub().await;
    let token = hub.token(|_| {}).await;
    let agent = hub.enroll(&token).await.unwrap();
    assert_eq!(hub.enroll(&token).await.err().unwrap(), "token_used");
    let org = hub.org_store().await;
    let agents = org.agents().await.unwrap();
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].agent.id, agent.id);
    assert_eq!(agents[0].agent.name, "web-1");
    assert_eq!(agents[0].agent.token, Some(token.0));
    let audit = org.audit(1, 100).await.unwrap();
    let entry = audit.iter().find(|e| e.action == "agent.enrol").unwrap();
    assert_eq!(entry.object, agent.id.to_string());
    assert_eq!(entry.actor, Actor::Agent(agent.id));
    assert!(entry.detail.contains(&token.0.to_string()));
    hub.stop().await;
}

#[tokio::test]
async fn an_expired_an_unknown_and_a_stolen_token_are_refused_by_name() {
    let hub = hub().await;
    let expired = hub.token(|token| token.expires_at = Timestamp::now()).await;
    assert_eq!(hub.enroll(&expired).await.err().unwrap(), "token_expired");
    let unknown = (TokenId::derived(&[b"nobody"]), expired.1);
    assert_eq!(hub.enroll(&unknown).await.err().unwrap(), "token_unknown");
    let good = hub.token(|_| {}).await;
    let stolen = (good.0, SigningKey::from_bytes(&[8; 32]));
    assert_eq!(hub.enroll(&stolen).await.err().unwrap(), "signature");
    assert!(hub.org_store().await.agents().await.unwrap().is_empty());
    hub.enroll(&good).await.unwrap();
    hub.stop().await;
}

#[tokio::test]
async fn who_is_not_enrolled_here_is_told_so_in_words() {
    let hub = hub().await;
    let (_endpoint, connection) = connect(&hub, None, v1::ALPN).await.unwrap();
    let (code, reason) = closed(&connection).await;
    assert_eq!(code, CloseCode::Unenrolled);
    assert!(reason.contains("no client certificate"), "{reason}");

    let ghost = |authority: &Authority| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let request = CertificateParams::default().serialize_request(&key);
        let id = AgentId::derived(&[b"ghost"]);
        let request = request.unwrap();
        let leaf = authority.issue_agent_leaf(request.der(), hub.org, id, Timestamp::now());
        Agent {
            id,
            chain: leaf.unwrap().chain,
            roots: hub.authority.roots(),
            pkcs8: key.serialize_der(),
        }
    };
    // By this hub's own authority, but on no list: of a backup, for example.
    let (_endpoint, connection) = connect(&hub, Some(&ghost(&hub.authority)), v1::ALPN)
        .await
        .unwrap();
    let (code, reason) = closed(&connection).await;
    assert_eq!(code, CloseCode::Unenrolled);
    assert_eq!(reason, "this agent is not enrolled");

    let elsewhere = Authority::load(&Material::generate(Timestamp::now()).unwrap()).unwrap();
    let said = match connect(&hub, Some(&ghost(&elsewhere)), v1::ALPN).await {
        // The client's handshake ends before the hub has seen its certificate.
        Ok((_endpoint, connection)) => tokio::time::timeout(PATIENCE, connection.closed())
            .await
            .unwrap(),
        Err(error) => error,
    };
    let ConnectionError::ConnectionClosed(close) = said else {
        panic!("{said}")
    };
    // Alert unknown_ca, 48, as QUIC carries it (RFC 9001 section 4.8).
    assert_eq!(u64::from(close.error_code), 0x100 + 48);
    assert_eq!(hub.live.session_count(), 0);
    hub.stop().await;
}

#[tokio::test]
async fn suspended_and_revoked_agents_are_refused_with_their_own_codes() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let org = hub.org_store().await;
    for (state, code) in [
        (AgentState::Suspended, Some(CloseCode::Suspended)),
        (AgentState::Quarantined, Some(CloseCode::Suspended)),
        (AgentState::Active, None),
        (AgentState::Revoked, Some(CloseCode::Revoked)),
    ] {
        org.set_agent_state(agent.id, state).await.unwrap();
        match code {
            Some(code) => {
                let (_endpoint, connection) = connect(&hub, Some(&agent), v1::ALPN).await.unwrap();
                assert_eq!(closed(&connection).await.0, code);
            }
            None => drop(Talk::open(&hub, &agent).await),
        }
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_sweep_is_stored_and_the_next_one_retires_what_it_names_gone() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let (one, two) = (
        document("vpc-1", "10.0.0.0/16"),
        document("vpc-2", "10.1.0.0/16"),
    );
    let ack = talk
        .sweep(&[
            begin(1),
            changed(&one),
            changed(&two),
            ended(1, &[&one, &two]),
        ])
        .await;
    assert!(ack.commit > 0);
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-2"]);
    assert_eq!(state(&hub).await, ScopeState::Complete);
    let org = hub.org_store().await;
    let stored = org.resource(&one.urn).await.unwrap().unwrap();
    assert_eq!((stored.agent, stored.source), (agent.id, SOURCE));
    assert_eq!(stored.document, one);

    let gone = SweepItem::Gone {
        urn: two.urn.to_string(),
    };
    talk.sweep(&[begin(2), gone]).await;
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-2"], "not before its end");
    talk.sweep(&[ended(2, &[&one])]).await;
    assert_eq!(living(&hub).await, ["vpc-1"]);
    assert_eq!(state(&hub).await, ScopeState::Complete);

    let failed = SweepItem::Failed {
        scope: scope_text(),
        generation: 3,
        call: "ec2:DescribeVpcs".into(),
        error: "AccessDenied".into(),
    };
    talk.sweep(&[begin(3), failed]).await;
    assert_eq!(living(&hub).await, ["vpc-1"]);
    assert!(matches!(state(&hub).await, ScopeState::Failed(gap) if gap.error == "AccessDenied"));
    hub.stop().await;
}

#[tokio::test]
async fn a_sweep_that_ends_with_another_set_is_asked_for_again_and_then_sent_whole() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let (one, two) = (
        document("vpc-1", "10.0.0.0/16"),
        document("vpc-2", "10.1.0.0/16"),
    );
    talk.sweep(&[
        begin(1),
        changed(&one),
        changed(&two),
        ended(1, &[&one, &two]),
    ])
    .await;

    // The agent holds another set than the hub and does not know it.
    let three = document("vpc-3", "10.2.0.0/16");
    talk.sweep(&[begin(2), ended(2, &[&one, &three])]).await;
    assert_eq!(state(&hub).await, ScopeState::Mismatched);
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-2"]);
    let asked = match talk.unheard.pop() {
        Some(message) => message,
        None => talk.hear().await,
    };
    let Message::Resync(resync) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(resync.scope, scope_text());

    talk.sweep(&[begin(3), changed(&one)]).await;
    talk.sweep(&[changed(&three), ended(3, &[&one, &three])])
        .await;
    assert_eq!(state(&hub).await, ScopeState::Complete);
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-3"]);
    assert!(talk.unheard.is_empty(), "{:?}", talk.unheard);
    hub.stop().await;
}

#[tokio::test]
async fn sets_that_differ_are_repaired_by_what_lies_in_the_parts_that_differ() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let all: Vec<Document> = (0..200)
        .map(|n| document(&format!("vpc-{n:03}"), "10.0.0.0/16"))
        .collect();
    // The hub holds one that the agent knows nothing of, and lacks one that the agent holds.
    let (stale, first) = (&all[199], &all[..198]);
    let mut items = vec![begin(1)];
    items.extend(first.iter().chain([stale]).map(changed));
    let known: Vec<&Document> = first.iter().chain([stale]).collect();
    items.push(ended(1, &known));
    talk.sweep(&items).await;
    let ours: Vec<&Document> = all[..199].iter().collect();
    talk.sweep(&[begin(2), ended(2, &ours)]).await;
    let asked = match talk.unheard.pop() {
        Some(message) => message,
        None => talk.hear().await,
    };
    let Message::Resync(resync) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!(resync.sums.len(), 32, "some eight of 199 in a part");
    let mut sums = Sums::new(resync.sums.len()).unwrap();
    for document in &ours {
        sums.add(&document.urn.to_string(), &document.content_hash());
    }
    let resent = sums.differing(&resync.sums);
    assert!((1..=2).contains(&resent.which.len()), "{resent:?}");
    let covered: Vec<&Document> = ours
        .iter()
        .copied()
        .filter(|document| resent.covers(&document.urn.to_string()))
        .collect();
    assert!(covered.len() < 60, "{}", covered.len());
    let end = |generation, resent| {
        let SweepItem::End { scope, set, .. } = ended(generation, &ours) else {
            unreachable!("an end")
        };
        SweepItem::End {
            scope,
            generation,
            set,
            resent: Some(resent),
        }
    };

    // One of them is left out: nothing is gone, and the scope is asked for whole.
    let mut items = vec![begin(3)];
    items.extend(covered[1..].iter().map(|document| changed(document)));
    items.push(end(3, resent.clone()));
    talk.sweep(&items).await;
    assert_eq!(state(&hub).await, ScopeState::Mismatched);
    let asked = match talk.unheard.pop() {
        Some(message) => message,
        None => talk.hear().await,
    };
    assert!(matches!(asked, Message::Resync(Resync { ref sums, .. }) if sums.is_empty()));

    let mut items = vec![begin(4)];
    items.extend(covered.iter().map(|document| changed(document)));
    items.push(end(4, resent));
    talk.sweep(&items).await;
    assert_eq!(state(&hub).await, ScopeState::Complete);
    let living = living(&hub).await;
    assert_eq!(living.len(), 199);
    assert!(living.contains(&"vpc-198".to_owned()) && !living.contains(&"vpc-199".to_owned()));
    hub.stop().await;
}

#[tokio::test]
async fn a_sweep_goes_on_over_a_new_session_and_still_knows_what_it_sent() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let (one, two) = (
        document("vpc-1", "10.0.0.0/16"),
        document("vpc-2", "10.1.0.0/16"),
    );
    let stale = document("vpc-9", "10.9.0.0/16");
    talk.sweep(&[begin(1), changed(&stale), ended(1, &[&stale])])
        .await;
    talk.sweep(&[begin(2), changed(&one)]).await;
    let mut talk = Talk::open(&hub, &agent).await;
    // All that the agent holds was sent, so what it did not send is gone, named or not.
    talk.sweep(&[changed(&two), ended(2, &[&one, &two])]).await;
    assert_eq!(state(&hub).await, ScopeState::Complete);
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-2"]);

    let orphan = document("vpc-7", "10.7.0.0/16");
    talk.sweep(&[changed(&orphan)]).await;
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-2"]);
    let quarantine = hub.org_store().await.quarantine(10).await.unwrap();
    assert_eq!(quarantine[0].reason, "its sweep has not begun");
    hub.stop().await;
}

#[tokio::test]
async fn a_change_that_came_after_its_sweeps_end_is_asked_for_and_not_forgotten() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let (before, after) = (
        document("vpc-1", "10.0.0.0/16"),
        document("vpc-1", "10.1.0.0/16"),
    );
    // Two sources of one account sweep the same scope at the same time.
    talk.sweep(&[begin(1), begin(1), changed(&before), ended(1, &[&before])])
        .await;
    talk.sweep(&[changed(&after), ended(1, &[&after])]).await;
    // The agent holds that it has told this, and tells only what differs from it.
    talk.sweep(&[begin(2), ended(2, &[&after])]).await;
    assert_eq!(state(&hub).await, ScopeState::Mismatched);
    let asked = match talk.unheard.pop() {
        Some(message) => message,
        None => talk.hear().await,
    };
    assert!(matches!(asked, Message::Resync(_)), "{asked:?}");
    talk.sweep(&[begin(3), changed(&after), ended(3, &[&after])])
        .await;
    assert_eq!(state(&hub).await, ScopeState::Complete);
    hub.stop().await;
}

#[tokio::test]
async fn what_an_agent_lost_is_kept_with_its_count_and_proves_nothing() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let lost = Lost {
        reason: LostReason::SpoolFull,
        from_ms: 1_700_000_000_000,
        to_ms: 0,
        unsequenced: 5,
    };
    talk.send(Lane::Events, &[record("before")]).await;
    talk.lose(Lane::Events, 70_000, &lost).await;
    talk.send(Lane::Events, &[record("after")]).await;
    assert_eq!(events(&hub).await.len(), 2);
    let org = hub.org_store().await;
    let losses = org.read(move |reader| reader.losses(10)).await.unwrap();
    let [loss] = losses.as_slice() else {
        panic!("{losses:?}")
    };
    assert_eq!((loss.first_seq, loss.last_seq), (2, 70_001));
    assert_eq!((loss.lane, loss.records()), (1, 70_005));
    assert_eq!((loss.agent, loss.reason), (agent.id, lost.reason));
    assert!(loss.from.is_some() && loss.to.is_none());
    assert_eq!(org.read(move |reader| reader.lost()).await.unwrap(), 70_005);

    // What is missing of a sweep may have been any resource of it.
    let one = document("vpc-1", "10.0.0.0/16");
    talk.sweep(&[begin(1), changed(&one), ended(1, &[&one])])
        .await;
    talk.sweep(&[begin(2)]).await;
    talk.lose(Lane::Inventory, 3, &lost).await;
    let two = document("vpc-2", "10.1.0.0/16");
    talk.sweep(&[ended(2, &[&two])]).await;
    let found = state(&hub).await;
    assert!(matches!(found, ScopeState::Failed(_)), "{found:?}");
    assert_eq!(living(&hub).await, ["vpc-1"]);
    // The next sweep sends no more than changed since, so the hub sees what it lacks and asks.
    talk.sweep(&[begin(3), ended(3, &[&two])]).await;
    assert_eq!(state(&hub).await, ScopeState::Mismatched);
    assert!(matches!(talk.hear().await, Message::Resync(_)));
    hub.stop().await;
}

#[tokio::test]
async fn streams_that_were_opened_and_stay_silent_disturb_nothing() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open_after(&hub, &agent, 3).await;
    for _ in 0..2 {
        std::mem::forget(talk.connection.open_bi().await.unwrap());
    }
    talk.send(Lane::Events, &[record("login")]).await;
    let one = document("vpc-1", "10.0.0.0/16");
    talk.sweep(&[begin(1), changed(&one), ended(1, &[&one])])
        .await;
    assert_eq!(events(&hub).await, ["login"]);
    assert_eq!(living(&hub).await, ["vpc-1"]);
    hub.stop().await;
}

#[tokio::test]
async fn a_bad_document_is_quarantined_the_rest_lands_and_absence_proves_nothing() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let good = document("vpc-1", "10.0.0.0/16");
    let mut bad = document("vpc-2", "10.1.0.0/16");
    bad.config["Password"] = json!("hunter2");
    talk.sweep(&[
        begin(1),
        changed(&good),
        changed(&bad),
        ended(1, &[&good, &bad]),
    ])
    .await;
    assert_eq!(living(&hub).await, ["vpc-1"]);
    let refused = |state: ScopeState| {
        let ScopeState::Failed(gap) = state else {
            panic!("{state:?}")
        };
        assert_eq!(gap.call, "hub:ingest");
        assert!(gap.error.starts_with("1 documents were refused"));
    };
    refused(state(&hub).await);
    assert!(!status(&hub).await.is_known());
    let org = hub.org_store().await;
    let quarantine = org.quarantine(10).await.unwrap();
    assert_eq!(quarantine.len(), 1);
    assert_eq!(quarantine[0].reason, "config.Password is not declared");
    assert!(quarantine[0].what.ends_with(&bad.urn.to_string()));
    assert!(!format!("{quarantine:?}").contains("hunter2"));

    // The agent believes that the hub has it and does not send it again.
    talk.sweep(&[begin(2), ended(2, &[&good, &bad])]).await;
    refused(state(&hub).await);
    assert!(talk.unheard.is_empty(), "nothing is asked for again");

    let mended = document("vpc-2", "10.1.0.0/16");
    talk.sweep(&[begin(3), changed(&mended), ended(3, &[&good, &mended])])
        .await;
    assert_eq!(state(&hub).await, ScopeState::Complete);
    assert_eq!(living(&hub).await, ["vpc-1", "vpc-2"]);
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_speaks_only_for_the_accounts_it_was_approved_for() {
    let hub = hub().await;
    let token = hub
        .token(|token| token.bound_accounts = Some(vec!["999999999999".into()]))
        .await;
    let agent = hub.enroll(&token).await.unwrap();
    let mut talk = Talk::open(&hub, &agent).await;
    let one = document("vpc-1", "10.0.0.0/16");
    talk.sweep(&[begin(1), changed(&one), ended(1, &[&one])])
        .await;
    assert!(living(&hub).await.is_empty());
    let org = hub.org_store().await;
    assert_eq!(org.scope(&scope()).await.unwrap(), None);
    let quarantine = org.quarantine(10).await.unwrap();
    assert_eq!(quarantine.len(), 3);
    let is_said = |reason: &str| reason.contains("not approved for this account");
    assert!(quarantine.iter().all(|item| is_said(&item.reason)));
    hub.stop().await;
}

#[tokio::test]
async fn a_source_belongs_to_the_agent_that_first_reported_it() {
    let hub = hub().await;
    let report = ReportItem::Source(SourceReport {
        name: "prod".into(),
        kind: "aws".into(),
        started_ms: 1_000,
        finished_ms: 2_000,
        calls: 5,
        documents: 3,
        faults: vec![],
        error: String::new(),
    });
    let (first, second) = (hub.agent().await, hub.agent().await);
    let mut talk = Talk::open(&hub, &first).await;
    talk.send(Lane::Results, std::slice::from_ref(&report))
        .await;
    let mut stranger = Talk::open(&hub, &second).await;
    stranger.send(Lane::Results, &[report]).await;
    stranger.send(Lane::Events, &[record("login")]).await;
    let org = hub.org_store().await;
    let sources = org.sources().await.unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!((sources[0].id, sources[0].agent), (SOURCE, first.id));
    assert!(events(&hub).await.is_empty());
    let quarantine = org.quarantine(10).await.unwrap();
    assert_eq!(quarantine.len(), 2);
    for item in &quarantine {
        assert_eq!(item.agent, second.id);
        assert_eq!(item.reason, "this source belongs to another agent");
    }
    hub.stop().await;
}

#[tokio::test]
async fn the_sources_of_a_revoked_agent_pass_to_the_one_that_takes_its_place() {
    let hub = hub().await;
    let report = ReportItem::Source(SourceReport {
        name: "prod".into(),
        kind: "wazuh".into(),
        started_ms: 1_000,
        finished_ms: 2_000,
        calls: 5,
        documents: 3,
        faults: vec![],
        error: String::new(),
    });
    let first = hub.agent().await;
    let mut talk = Talk::open(&hub, &first).await;
    talk.send(Lane::Results, std::slice::from_ref(&report))
        .await;
    let org = hub.org_store().await;
    org.set_agent_state(first.id, AgentState::Revoked)
        .await
        .unwrap();
    // The host enrols again: it has another identity and its old sources.
    let second = hub.agent().await;
    let mut talk = Talk::open(&hub, &second).await;
    talk.send(Lane::Events, &[record("login")]).await;
    talk.send(Lane::Results, &[report]).await;
    assert_eq!(events(&hub).await, ["login"]);
    assert_eq!(org.sources().await.unwrap()[0].agent, second.id);
    assert!(org.quarantine(10).await.unwrap().is_empty());
    hub.stop().await;
}

#[tokio::test]
async fn a_repeated_batch_is_acknowledged_without_effect_over_a_new_session() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut talk = Talk::open(&hub, &agent).await;
    let first = talk.batch(Lane::Events, 1, &[record("login"), record("logout")]);
    talk.send(Lane::Events, &[record("login"), record("logout")])
        .await;

    let mut talk = Talk::open(&hub, &agent).await;
    let want = HighWater {
        lane: Lane::Events.number(),
        epoch: EPOCH,
        seq: 2,
    };
    assert_eq!(talk.welcome.high_water, [want]);
    talk.write(Lane::Events, &first).await;
    let Message::Ack(ack) = talk.hear().await else {
        panic!("no acknowledgement")
    };
    assert_eq!((ack.lane, ack.seq), (Lane::Events.number(), 2));
    assert_eq!(events(&hub).await, ["login", "logout"]);

    let ahead = talk.batch(Lane::Events, 9, &[record("later")]);
    talk.write(Lane::Events, &ahead).await;
    let Message::Refused(refused) = talk.hear().await else {
        panic!("no refusal")
    };
    assert_eq!((refused.lane, refused.expected_seq), (1, 3));
    talk.send(Lane::Events, &[record("next")]).await;
    assert_eq!(events(&hub).await, ["login", "logout", "next"]);
    hub.stop().await;
}

#[tokio::test]
async fn a_malformed_frame_ends_its_session_is_counted_and_harms_no_other() {
    let hub = hub().await;
    let (bad, good) = (hub.agent().await, hub.agent().await);
    let mut other = Talk::open(&hub, &good).await;
    let mut talk = Talk::open(&hub, &bad).await;
    let mut frame = talk.batch(Lane::Events, 1, &[record("login")]);
    *frame.last_mut().unwrap() ^= 1;
    talk.write(Lane::Events, &frame).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("checksum"), "{reason}");
    other.source = SourceId::from_bytes([4; 16]);
    other.send(Lane::Events, &[record("fine")]).await;
    assert_eq!(events(&hub).await, ["fine"]);

    // A second breach is counted on top of the first.
    let mut talk = Talk::open(&hub, &bad).await;
    let status = hub.status(&bad).await.unwrap();
    assert_eq!(
        (status.refused_batches, status.version.as_str()),
        (1, "1.2.3")
    );
    assert_eq!(status.transport, "quic");
    assert!((-95_000..=-90_000).contains(&status.clock_skew_ms));
    let greeting = Message::Hello(v1::Hello {
        versions: (1, 1),
        agent_version: String::new(),
        epoch: EPOCH,
        process: 1,
        witness: None,
        wall_ms: 0,
    });
    talk.write(Lane::Control, &greeting.encode()).await;
    assert_eq!(closed(&talk.connection).await.0, CloseCode::Protocol);
    other.send(Lane::Events, &[record("still fine")]).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_batch_with_a_foreign_signature_stores_nothing() {
    let hub = hub().await;
    let (agent, stranger) = (hub.agent().await, hub.agent().await);
    let mut talk = Talk::open(&hub, &agent).await;
    talk.signer = stranger.signer();
    let one = document("vpc-1", "10.0.0.0/16");
    let frame = talk.batch(Lane::Inventory, 1, &[begin(1), changed(&one)]);
    talk.write(Lane::Inventory, &frame).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(
        reason.contains("not signed by this agent's key"),
        "{reason}"
    );
    assert!(living(&hub).await.is_empty());
    hub.stop().await;
}

#[tokio::test]
async fn an_oversize_frame_and_an_unknown_lane_end_the_session() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let mut head = Frame {
        schema: v1::SCHEMA,
        lane: Lane::Events,
        kind: v1::kind::BATCH,
        codec: v1::CODEC_BATCH,
        payload: vec![],
    }
    .encode();
    assert_eq!(head.len(), HEADER_BYTES);
    let mut talk = Talk::open(&hub, &agent).await;
    let length = u32::try_from(limits::FRAME_BYTES).unwrap() + 1;
    head[..4].copy_from_slice(&length.to_le_bytes());
    talk.write(Lane::Events, &head).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert!(reason.contains("exceeds the limit"), "{reason}");

    let mut talk = Talk::open(&hub, &agent).await;
    head[5] = 77;
    talk.write(Lane::Cost, &head).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(
        (code, reason.as_str()),
        (CloseCode::Protocol, "there is no lane 77")
    );

    let mut talk = Talk::open(&hub, &agent).await;
    talk.send(Lane::Events, &[record("login")]).await;
    let (mut again, _) = talk.connection.open_bi().await.unwrap();
    let frame = talk.batch(Lane::Events, 2, &[record("logout")]);
    again.write_all(&frame).await.unwrap();
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Protocol);
    assert_eq!(reason, "a second stream of lane Events");
    hub.stop().await;
}

#[tokio::test]
async fn the_newer_of_two_sessions_wins_and_a_stopping_hub_says_when_to_come_back() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let older = Talk::open(&hub, &agent).await;
    let mut newer = Talk::open(&hub, &agent).await;
    let (code, _) = closed(&older.connection).await;
    assert_eq!(code, CloseCode::Superseded);
    newer.send(Lane::Events, &[record("login")]).await;
    assert_eq!(hub.live.session_count(), 1);
    hub.stop.cancel();
    let Message::GoAway(away) = newer.hear().await else {
        panic!("no farewell")
    };
    assert_eq!(away.code, CloseCode::Done.number());
    assert!((1_000..5_000).contains(&away.retry_after_ms));
    newer.connection.close(0u8.into(), b"");
    hub.stop().await;
}

#[tokio::test]
async fn a_revoked_agents_session_is_closed_at_once() {
    let hub = hub().await;
    let agent = hub.agent().await;
    let talk = Talk::open(&hub, &agent).await;
    let org = hub.org_store().await;
    org.set_agent_state(agent.id, AgentState::Revoked)
        .await
        .unwrap();
    let end = EndSession {
        code: CloseCode::Revoked,
        reason: "revoked".to_owned(),
    };
    let began = std::time::Instant::now();
    assert!(hub.live.end(agent.id, end));
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!((code, reason.as_str()), (CloseCode::Revoked, "revoked"));
    assert!(began.elapsed() < Duration::from_secs(1));
    let (_endpoint, connection) = connect(&hub, Some(&agent), v1::ALPN).await.unwrap();
    assert_eq!(closed(&connection).await.0, CloseCode::Revoked);
    hub.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_certificate() {
    let hub = hub().await;
    let life = SignedDuration::from_hours(30 * 24);
    let agent = hub
        .agent_made_at(Timestamp::now() - life + SignedDuration::from_secs(3))
        .await;
    let mut talk = Talk::open(&hub, &agent).await;
    talk.send(Lane::Events, &[record("login")]).await;
    let (code, reason) = closed(&talk.connection).await;
    assert_eq!(code, CloseCode::Done);
    assert_eq!(reason, "this agent's certificate has expired");
    let row = hub
        .store
        .appliance()
        .agent(agent.id)
        .await
        .unwrap()
        .unwrap();
    assert!(Timestamp::now() >= row.newest().unwrap().not_after);
    hub.stop().await;
}

#[test]
fn agents_of_a_hub_that_was_killed_are_told_at_once_by_its_next_life() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (agents, first_life) = (runtime(), runtime());
    let hub = first_life.block_on(hub());
    let mut talk = agents.block_on(async {
        let agent = hub.agent().await;
        let mut talk = Talk::open(&hub, &agent).await;
        talk.send(Lane::Events, &[record("login")]).await;
        talk
    });
    // Nobody says farewell.
    first_life.shutdown_timeout(PATIENCE);
    agents.block_on(async {
        assert!(talk.connection.close_reason().is_none());
        let stop = CancellationToken::new();
        let (.., serve) = port(&hub.store, hub.address, &Arc::default(), &stop, NO_QUOTAS).await;
        let serving = tokio::spawn(serve);
        let began = std::time::Instant::now();
        talk.write(Lane::Events, &[0; 64]).await;
        let closed = tokio::time::timeout(PATIENCE, talk.connection.closed());
        let error = closed.await.expect("the agent is told");
        assert!(matches!(error, ConnectionError::Reset), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "at once");
        stop.cancel();
        serving.await.unwrap();
        hub.store.close().await;
    });
}
