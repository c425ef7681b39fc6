//! The replacement of the authority, stage by stage, with agents that were there and agents that
//! were away.

use std::sync::Arc;

use jiff::Timestamp;
use protocol::enroll::{self, Pin};
use protocol::frame::Lane;
use protocol::session::CloseCode;
use protocol::wire::v1;
use quinn::ConnectionError;
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use super::parties::{Agent, Hub, NO_QUOTAS, Talk, closed, connect, hub, port};
use super::{events, record};
use crate::ca::{Authority, Material, Stage, Step};
use crate::failure::Explain as _;
use crate::identity;
use crate::rotation::{self, RotateError};

impl Hub {
    async fn rotate(&self, step: Step) {
        let now = Timestamp::now();
        self.rotation.step(step, None, now).await.unwrap();
    }

    async fn force(&self, count: u64) -> Result<(), RotateError> {
        let now = Timestamp::now();
        let taken = self.rotation.step(Step::Retire, Some(count), now).await;
        taken.map(drop)
    }

    /// Returns the actions of the authority's steps in the audit log.
    async fn audited(&self) -> Vec<String> {
        let entries = self.org_store().await.audit(1, 1000).await.unwrap();
        let actions = entries.into_iter().map(|entry| entry.action);
        actions.filter(|action| action.starts_with("ca.")).collect()
    }

    /// The root that an agent's newest certificate leads to.
    async fn root_of(&self, agent: &Agent) -> Pin {
        let row = self.store.appliance().agent(agent.id).await.unwrap();
        row.unwrap().newest().unwrap().root
    }

    /// Connects an agent and returns the words with which it is refused.
    async fn refusal(&self, agent: &Agent) -> (CloseCode, String) {
        let (_endpoint, connection) = connect(self, Some(agent), v1::ALPN).await.unwrap();
        closed(&connection).await
    }
}

fn pins(told: &v1::Authority) -> Vec<Pin> {
    let of = |root: &Vec<u8>| Pin::of_certificate(root).unwrap();
    told.roots.iter().map(of).collect()
}

/// Does what an agent does that is told to renew: takes the roots, renews, comes back.
async fn renewed(hub: &Hub, talk: &mut Talk, agent: &Agent) -> (Agent, Talk) {
    let told = talk.told().await;
    assert!(told.renew_within_ms.is_some());
    let chain = talk.renew(agent.request()).await.unwrap();
    let mut fresh = agent.with_chain(chain);
    fresh.roots = told.roots.into_iter().map(CertificateDer::from).collect();
    let talk = Talk::open(hub, &fresh).await;
    (fresh, talk)
}

const RETIRED: &str = "this agent's certificate was issued by a certificate authority that the hub has since \
     replaced and retired";

#[tokio::test]
async fn begun_both_roots_are_trusted_and_the_old_one_signs() {
    let hub = hub().await;
    let token = hub.token(|_| {}).await;
    let (live, away) = (hub.agent().await, hub.agent().await);
    let mut talk = Talk::open(&hub, &live).await;
    let old = hub.authority.pin();
    assert_eq!(pins(&talk.told().await), [old]);
    for early in [Step::Issue, Step::Retire] {
        let refused = hub.rotation.step(early, None, Timestamp::now()).await;
        let error = refused.unwrap_err();
        assert!(error.fix().unwrap().contains("ca rotate begin"), "{error}");
    }

    hub.rotate(Step::Begin).await;
    assert_eq!(hub.authority.stage(), Stage::Begun);
    assert_eq!(hub.authority.pin(), old);
    let said = talk.told().await;
    assert_eq!(pins(&said), hub.authority.pins());
    assert_eq!((pins(&said)[0], pins(&said).len()), (old, 2));
    assert_eq!(said.renew_within_ms, None, "nothing is to be renewed yet");
    talk.send(Lane::Events, &[record("live")]).await;

    // One that was away knows the old root alone, and is told of the new one.
    let mut talk = Talk::open(&hub, &away).await;
    assert_eq!(pins(&talk.told().await).len(), 2);
    talk.send(Lane::Events, &[record("away")]).await;
    // A token that was made before it enrols, and the agent learns both.
    let fresh = hub.enroll(&token).await.unwrap();
    assert_eq!(fresh.roots, hub.authority.roots());
    assert_eq!(hub.root_of(&fresh).await, old);
    Talk::open(&hub, &fresh).await;
    let again = hub.rotation.step(Step::Begin, None, Timestamp::now()).await;
    assert!(again.is_err(), "one rotation at a time");
    assert_eq!(events(&hub).await, ["away", "live"]);
    assert_eq!(hub.audited().await, ["ca.begin"]);
    hub.stop().await;
}

#[tokio::test]
async fn issuing_agents_are_asked_to_renew_and_those_that_were_away_renew_by_themselves() {
    let hub = hub().await;
    let token = hub.token(|_| {}).await;
    let (live, away) = (hub.agent().await, hub.agent().await);
    let mut talk = Talk::open(&hub, &live).await;
    let old = hub.authority.pin();
    hub.rotate(Step::Begin).await;
    while pins(&talk.told().await).len() < 2 {}
    hub.rotate(Step::Issue).await;
    let new = hub.authority.pin();
    assert_ne!(new, old);
    assert_eq!(hub.rotation.status().await.unwrap().agents_behind, 2);

    let (fresh, mut talk) = renewed(&hub, &mut talk, &live).await;
    assert_eq!(hub.root_of(&fresh).await, new);
    let said = talk.told().await;
    assert_eq!(pins(&said), [new, old]);
    assert_eq!(said.renew_within_ms, None, "it has one of the new root");
    talk.send(Lane::Events, &[record("live")]).await;

    // It slept through the first step and the second: it knows the old root alone, and shows a
    // certificate of it.
    let mut talk = Talk::open(&hub, &away).await;
    talk.send(Lane::Events, &[record("away")]).await;
    let (fresh, mut talk) = renewed(&hub, &mut talk, &away).await;
    talk.send(Lane::Events, &[record("away, renewed")]).await;
    assert_eq!(hub.root_of(&fresh).await, new);
    assert_eq!(hub.rotation.status().await.unwrap().agents_behind, 0);

    // A token of the old root enrols under the new one.
    let late = hub.enroll(&token).await.unwrap();
    assert_eq!(hub.root_of(&late).await, new);
    assert_eq!(hub.audited().await, ["ca.begin", "ca.issue"]);
    hub.stop().await;
}

#[tokio::test]
async fn retiring_shuts_nobody_out_unless_their_number_is_named_and_then_they_are_told() {
    let hub = hub().await;
    let (live, away) = (hub.agent().await, hub.agent().await);
    let idle = hub.agent().await;
    let mut idle_talk = Talk::open(&hub, &idle).await;
    idle_talk.send(Lane::Events, &[record("idle")]).await;
    hub.rotate(Step::Begin).await;
    let before = identity::material(&hub.store.appliance()).await.unwrap();
    hub.rotate(Step::Issue).await;
    let mut talk = Talk::open(&hub, &live).await;
    let (live, mut talk) = renewed(&hub, &mut talk, &live).await;
    // One that was sent a certificate and never showed it may not have it.
    idle_talk.renew(idle.request()).await.unwrap();

    let now = Timestamp::now();
    let refused = hub.rotation.step(Step::Retire, None, now).await;
    let error = refused.unwrap_err();
    let RotateError::Behind { count, names } = &error else {
        panic!("{error}");
    };
    assert_eq!(*count, 2);
    for agent in [&away, &idle] {
        let id = agent.id.to_string();
        assert!(names.iter().any(|name| name.contains(&id)), "{names:?}");
    }
    assert!(error.fix().unwrap().contains("--force 2"));
    let miscounted = hub.force(1).await.unwrap_err().to_string();
    assert!(
        miscounted.contains("2 agents would be shut out, not 1"),
        "{miscounted}"
    );
    assert_eq!(hub.authority.stage(), Stage::Issuing, "nothing has changed");

    hub.force(2).await.unwrap();
    assert_eq!(hub.authority.stage(), Stage::Steady);
    let status = hub.rotation.status().await.unwrap();
    assert_eq!((status.agents_behind, status.agents_shut_out), (0, 1));
    while pins(&talk.told().await) != [hub.authority.pin()] {}
    talk.send(Lane::Events, &[record("live")]).await;

    // The session of one that is left behind ends, and says why.
    let told = (CloseCode::Unenrolled, RETIRED.to_owned());
    assert_eq!(closed(&idle_talk.connection).await, told);
    // One that was away through all of it still recognises its hub, and learns why it is refused.
    assert_eq!(hub.refusal(&away).await, told);
    // Whoever has the retired root's key mints nothing with it, whatever it names.
    let stolen = Authority::load(&before).unwrap();
    let minted = stolen.issue_agent_leaf(&live.request(), hub.org, live.id, now);
    let minted = minted
        .unwrap()
        .chain
        .iter()
        .map(|der| der.to_vec())
        .collect();
    assert_eq!(hub.refusal(&live.with_chain(minted)).await, told);

    // The next rotation begins as the first did, and counts those it shut out no more.
    hub.rotate(Step::Begin).await;
    hub.rotate(Step::Issue).await;
    let mut talk = Talk::open(&hub, &live).await;
    renewed(&hub, &mut talk, &live).await;
    let refused = hub.rotation.step(Step::Retire, None, now).await;
    let RotateError::Behind { names, .. } = refused.unwrap_err() else {
        panic!("the idle one was given a certificate of this root");
    };
    assert!(!names.concat().contains(&away.id.to_string()));
    hub.force(1).await.unwrap();
    // Two rotations later its hub is a stranger to it: it does not even say who it is.
    let error = connect(&hub, Some(&away), v1::ALPN).await.unwrap_err();
    assert!(
        matches!(error, ConnectionError::TransportError(_)),
        "{error}"
    );
    let want = ["begin", "issue", "retire", "begin", "issue", "retire"];
    assert_eq!(hub.audited().await, want.map(|step| format!("ca.{step}")));
    let entries = hub.org_store().await.audit(1, 1000).await.unwrap();
    let forced = entries.iter().find(|entry| entry.action == "ca.retire");
    assert!(forced.unwrap().detail.contains("2 agents"));
    hub.stop().await;
}

#[tokio::test]
async fn retired_with_nobody_behind_every_agent_goes_on_and_an_old_token_is_refused_by_its_pin() {
    let hub = hub().await;
    let old = hub.authority.roots();
    let agent = hub.agent().await;
    hub.rotate(Step::Begin).await;
    hub.rotate(Step::Issue).await;
    let mut talk = Talk::open(&hub, &agent).await;
    let (mut agent, mut talk) = renewed(&hub, &mut talk, &agent).await;
    hub.rotate(Step::Retire).await;
    while pins(&talk.told().await) != [hub.authority.pin()] {}
    agent.roots = hub.authority.roots();
    Talk::open(&hub, &agent).await;
    // What a token of before pins is not among what the hub shows any more.
    let (_endpoint, connection) = connect(&hub, None, enroll::ALPN).await.unwrap();
    let shown = connection.peer_identity().unwrap();
    let shown = shown.downcast::<Vec<CertificateDer<'static>>>().unwrap();
    assert!(!shown.contains(&old[0]) && shown.contains(&agent.roots[0]));
    hub.stop().await;
}

/// Takes a step as a hub does that is killed once the step is durable, before it has any effect.
async fn step_and_die(hub: &Hub, step: Step) -> Material {
    let appliance = hub.store.appliance();
    let mut material = identity::material(&appliance).await.unwrap();
    material.advance(step, 0, Timestamp::now()).unwrap();
    identity::put_material(&appliance, &material).await.unwrap();
    material
}

#[tokio::test]
async fn a_hub_that_is_killed_behind_any_step_goes_on_in_the_stage_that_the_step_led_to() {
    let mut hub = hub().await;
    let mut agent = hub.agent().await;
    let stages = [
        (Step::Begin, Stage::Begun),
        (Step::Issue, Stage::Issuing),
        (Step::Retire, Stage::Steady),
        (Step::Begin, Stage::Begun),
    ];
    for (step, stage) in stages {
        let material = step_and_die(&hub, step).await;
        let done = hub.audited().await.len();
        // The next start.
        rotation::audit(&hub.store).await.unwrap();
        let stop = CancellationToken::new();
        let live = Arc::default();
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, rotation, authority, serve) =
            port(&hub.store, any, &live, &stop, NO_QUOTAS).await;
        tokio::spawn(serve);
        hub.stop.cancel();
        (hub.address, hub.rotation, hub.authority) = (address, rotation, authority);
        (hub.live, hub.stop) = (live, stop);
        assert_eq!(hub.authority.stage(), stage);
        assert_eq!(hub.authority.pin(), material.pin().unwrap());
        let mut talk = Talk::open(&hub, &agent).await;
        talk.send(Lane::Events, &[record(step.word())]).await;
        if hub.root_of(&agent).await != hub.authority.pin() {
            (agent, _) = renewed(&hub, &mut talk, &agent).await;
        }
        // Said once, however often it starts.
        rotation::audit(&hub.store).await.unwrap();
        let audited = hub.audited().await;
        assert_eq!(audited.len(), done + 1);
        assert_eq!(audited.last().unwrap(), &format!("ca.{}", step.word()));
    }
    hub.stop.cancel();
    hub.store.close().await;
}
