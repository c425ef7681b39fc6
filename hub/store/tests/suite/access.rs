//! Organisations, users, tokens, agents, sessions, the hub's keys.

use std::collections::BTreeMap;

use protocol::enroll::Pin;
use protocol::ids::{AgentId, OrgId, SessionId, TokenId, UserId};
use store::rows::access::{AgentCertificate, EnrolToken, Enrolment, Session};
use store::rows::audit::AuditAct;
use store::rows::finding::Actor;
use store::rows::{AgentState, Role};
use store::{
    AdmitAgentError, AdmitUserError, AgentIdentity, Appliance, ApplianceError, TokenError,
};
use zeroize::Zeroizing;

use crate::bench::{Bench, at, user};

pub(crate) fn token(org: OrgId, n: u8) -> EnrolToken {
    EnrolToken {
        id: TokenId::from_bytes([n; 16]),
        org,
        public_key: [n; 32],
        expires_at: at(100),
        uses_left: 1,
        bound_name: None,
        bound_accounts: Some(vec!["123456789012".into()]),
        labels: BTreeMap::from([("site".into(), "a".into())]),
        made_by: None,
        made_at: at(i64::from(n)),
    }
}

fn enrolment(n: u8) -> Enrolment {
    Enrolment {
        agent: AgentId::from_bytes([n; 16]),
        name: format!("agent {n}"),
        certificate: certificate(&[0, n, 1]),
    }
}

fn certificate(serial: &[u8]) -> AgentCertificate {
    AgentCertificate {
        serial: serial.to_vec(),
        not_after: at(1000),
        root: Pin([4; 32]),
    }
}

fn identity(org: OrgId, n: u8, serial: &[u8]) -> AgentIdentity {
    AgentIdentity {
        org,
        agent: AgentId::from_bytes([n; 16]),
        serial: serial.to_vec(),
    }
}

/// Enrols agent `n` with token `n`.
pub(crate) async fn enrol(bench: &Bench, org: &store::OrgStore, n: u8) {
    org.put_token(token(org.org(), n)).await.unwrap();
    let id = TokenId::from_bytes([n; 16]);
    bench
        .store
        .appliance()
        .redeem_token(id, enrolment(n), at(1))
        .await
        .unwrap();
}

#[tokio::test]
async fn names_and_addresses_are_unique_without_regard_to_case() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    let org = appliance.create_org("Acme", at(0)).await.unwrap();
    let taken = appliance.create_org("aCME", at(1)).await.unwrap_err();
    assert!(matches!(taken, ApplianceError::NameTaken));
    assert_eq!(appliance.orgs().await.unwrap(), std::slice::from_ref(&org));
    assert_eq!(appliance.org(org.id).await.unwrap(), Some(org));
    // Of two at once one wins, and no file without an owner is left.
    let racers: Vec<_> = (0..6)
        .map(|_| {
            let appliance = appliance.clone();
            tokio::spawn(async move { appliance.create_org("Globex", at(1)).await.is_ok() })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        won += usize::from(racer.await.unwrap());
    }
    assert_eq!(won, 1);
    let files = std::fs::read_dir(bench.data().join("orgs"))
        .unwrap()
        .count();
    assert_eq!((files, appliance.orgs().await.unwrap().len()), (2, 2));

    appliance
        .create_user(user(1, "Ann@Example.org", &[]))
        .await
        .unwrap();
    let taken = appliance
        .create_user(user(2, "ann@example.ORG", &[]))
        .await
        .unwrap_err();
    assert!(matches!(taken, ApplianceError::EmailTaken));
    let found = appliance
        .user_by_email("ANN@example.org")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.email.as_str(), found.id),
        ("ann@example.org", UserId::from_bytes([1; 16]))
    );
    assert_eq!(
        appliance.user_by_email("bob@example.org").await.unwrap(),
        None
    );
    let long = "x".repeat(300);
    let error = appliance.create_org(&long, at(0)).await.unwrap_err();
    assert!(matches!(error, ApplianceError::TooLarge { .. }));
    let error = appliance
        .create_user(user(3, &long, &[]))
        .await
        .unwrap_err();
    assert!(matches!(error, ApplianceError::TooLarge { .. }));
}

#[tokio::test]
async fn a_user_is_changed_but_not_renamed() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    appliance
        .create_user(user(1, "ann@example.org", &[]))
        .await
        .unwrap();
    let id = UserId::from_bytes([1; 16]);
    let changed = appliance
        .update_user(id, |user| {
            user.disabled = true;
            user.email = "other@example.org".into();
            user.id = UserId::from_bytes([9; 16]);
        })
        .await
        .unwrap();
    assert!(changed.disabled);
    assert_eq!(
        (changed.email.as_str(), changed.id),
        ("ann@example.org", id)
    );
    assert_eq!(appliance.users().await.unwrap(), [changed]);
    let nobody = appliance
        .update_user(UserId::from_bytes([9; 16]), |_| ())
        .await
        .unwrap_err();
    assert!(matches!(nobody, ApplianceError::Missing { .. }));
}

#[tokio::test]
async fn a_stranger_learns_nothing_about_organisations() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    let (ours, theirs) = (
        bench.org("ours").await.org(),
        bench.org("theirs").await.org(),
    );
    let mut disabled = user(2, "off@example.org", &[(ours, Role::Admin)]);
    disabled.disabled = true;
    let mut hub_admin = user(3, "hub@example.org", &[]);
    hub_admin.hub_admin = true;
    appliance
        .create_user(user(1, "ann@example.org", &[(ours, Role::Analyst)]))
        .await
        .unwrap();
    appliance.create_user(disabled).await.unwrap();
    appliance.create_user(hub_admin).await.unwrap();
    let id = |n: u8| UserId::from_bytes([n; 16]);
    let member = appliance.admit_user(id(1), ours).await.unwrap();
    assert_eq!((member.role, member.store.org()), (Role::Analyst, ours));
    let missing = OrgId::from_bytes([0xee; 16]);
    // A hub administrator has no data access either.
    for (who, org) in [
        (1, theirs),
        (1, missing),
        (2, ours),
        (3, ours),
        (3, missing),
        (99, ours),
        (99, missing),
    ] {
        let refused = appliance.admit_user(id(who), org).await.unwrap_err();
        assert!(
            matches!(refused, AdmitUserError::NoMembership),
            "{who}: {refused:?}"
        );
        assert_eq!(refused.to_string(), "no such organisation");
    }
    // A role in an organisation that is gone admits nobody.
    appliance
        .update_user(id(1), move |user| {
            user.roles.insert(missing, Role::Admin);
        })
        .await
        .unwrap();
    let refused = appliance.admit_user(id(1), missing).await.unwrap_err();
    assert!(matches!(refused, AdmitUserError::NoMembership));
}

#[tokio::test]
async fn a_hub_administrator_runs_enrolment_and_nobody_else_without_a_role_does() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    let org = bench.org("acme").await;
    let mut admin = user(3, "hub@example.org", &[]);
    admin.hub_admin = true;
    appliance.create_user(admin).await.unwrap();
    appliance
        .create_user(user(1, "ann@example.org", &[(org.org(), Role::Admin)]))
        .await
        .unwrap();
    let id = |n: u8| UserId::from_bytes([n; 16]);
    let running = appliance
        .admit_administrator(id(3), org.org())
        .await
        .unwrap();
    running.put_token(token(org.org(), 1)).await.unwrap();
    assert_eq!(running.tokens().await.unwrap().len(), 1);
    let act = AuditAct {
        at: at(1),
        actor: Actor::User(id(3)),
        action: "token.create".into(),
        object: "tok".into(),
        detail: String::new(),
    };
    running.audit(act).await.unwrap();
    assert_eq!(org.audit_head().await.unwrap().seq, 1);
    let missing = OrgId::from_bytes([0xee; 16]);
    for (who, org) in [(1, org.org()), (3, missing), (99, org.org())] {
        let refused = appliance
            .admit_administrator(id(who), org)
            .await
            .unwrap_err();
        assert!(
            matches!(refused, AdmitUserError::NoMembership),
            "{who}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_token_enrols_as_often_as_it_says_and_only_in_its_time() {
    let bench = Bench::new();
    let (org, appliance) = (bench.org("acme").await, bench.store.appliance());
    org.put_token(EnrolToken {
        uses_left: 2,
        ..token(org.org(), 1)
    })
    .await
    .unwrap();
    let id = TokenId::from_bytes([1; 16]);
    let redeem =
        async |n: u8, second: i64| appliance.redeem_token(id, enrolment(n), at(second)).await;
    let agent = redeem(1, 1).await.unwrap();
    assert_eq!((agent.org, agent.state), (org.org(), AgentState::Active));
    assert_eq!(agent.accounts, Some(vec!["123456789012".into()]));
    assert_eq!(agent.certificates, [certificate(&[1, 1])]);
    // The same id again spends nothing.
    assert!(matches!(
        redeem(1, 1).await,
        Err(ApplianceError::Conflict { .. })
    ));
    let token_error = async |n, second| match redeem(n, second).await {
        Err(ApplianceError::Token(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(token_error(2, 100).await, TokenError::Expired);
    redeem(2, 99).await.unwrap();
    assert_eq!(token_error(3, 99).await, TokenError::Used);
    assert_eq!(appliance.token(id).await.unwrap().unwrap().uses_left, 0);
    let unknown = TokenId::from_bytes([9; 16]);
    let error = appliance
        .redeem_token(unknown, enrolment(3), at(1))
        .await
        .unwrap_err();
    assert!(matches!(error, ApplianceError::Token(TokenError::Unknown)));
    assert_eq!(org.agents().await.unwrap().len(), 2);
}

#[tokio::test]
async fn of_many_that_race_for_one_use_of_a_token_one_enrols() {
    let bench = Bench::new();
    let (org, appliance) = (bench.org("acme").await, bench.store.appliance());
    org.put_token(token(org.org(), 1)).await.unwrap();
    let racers: Vec<_> = (10..40)
        .map(|n| {
            let appliance = appliance.clone();
            let id = TokenId::from_bytes([1; 16]);
            tokio::spawn(async move { appliance.redeem_token(id, enrolment(n), at(1)).await })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => won += 1,
            Err(ApplianceError::Token(TokenError::Used)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((won, org.agents().await.unwrap().len()), (1, 1));
}

#[tokio::test]
async fn only_a_listed_agent_with_its_certificate_in_force_is_admitted() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.org("ours").await, bench.org("theirs").await);
    let appliance = bench.store.appliance();
    enrol(&bench, &ours, 1).await;
    let admit = async |identity: AgentIdentity| match appliance.admit_agent(&identity).await {
        Ok(admitted) => {
            assert_eq!(admitted.store.org(), ours.org());
            "admitted"
        }
        Err(AdmitAgentError::Unknown) => "unknown",
        Err(AdmitAgentError::Revoked) => "revoked",
        Err(AdmitAgentError::Suspended) => "suspended",
        Err(AdmitAgentError::Quarantined) => "quarantined",
        Err(AdmitAgentError::WrongSerial) => "wrong serial",
        Err(other) => panic!("{other:?}"),
    };
    let org = ours.org();
    assert_eq!(admit(identity(org, 1, &[1, 1])).await, "admitted");
    assert_eq!(admit(identity(org, 1, &[0, 0, 1, 1])).await, "admitted");
    assert_eq!(admit(identity(org, 1, &[1, 2])).await, "wrong serial");
    assert_eq!(admit(identity(org, 1, &[])).await, "wrong serial");
    assert_eq!(admit(identity(org, 2, &[1, 1])).await, "unknown");
    assert_eq!(admit(identity(theirs.org(), 1, &[1, 1])).await, "unknown");
    assert_eq!(
        admit(identity(OrgId::from_bytes([9; 16]), 1, &[1, 1])).await,
        "unknown"
    );

    let id = AgentId::from_bytes([1; 16]);
    let renew = async |shown: &[u8], fresh: u8| {
        let shown = identity(org, 1, shown);
        appliance.renew_agent(&shown, certificate(&[fresh])).await
    };
    // The answers to the first two were lost: the agent asks again with what it has.
    for fresh in 2..5u8 {
        renew(&[0, 1, 1], fresh).await.unwrap();
    }
    assert_eq!(admit(identity(org, 1, &[2])).await, "wrong serial");
    assert_eq!(admit(identity(org, 1, &[3])).await, "wrong serial");
    assert_eq!(admit(identity(org, 1, &[1, 1])).await, "admitted");
    assert_eq!(admit(identity(org, 1, &[1, 1])).await, "admitted");
    // The new one retires the old one, once it was seen.
    assert_eq!(admit(identity(org, 1, &[0, 4])).await, "admitted");
    assert_eq!(admit(identity(org, 1, &[1, 1])).await, "wrong serial");
    assert_eq!(admit(identity(org, 1, &[4])).await, "admitted");
    // What is not in force renews nothing.
    let refused = renew(&[1, 1], 5).await.unwrap_err();
    assert!(matches!(refused, ApplianceError::Conflict { .. }));
    let row = appliance.agent(id).await.unwrap().unwrap();
    assert_eq!(row.certificates, [certificate(&[4])]);

    for (state, want) in [
        (AgentState::Suspended, "suspended"),
        (AgentState::Quarantined, "quarantined"),
    ] {
        ours.set_agent_state(id, state).await.unwrap();
        assert_eq!(admit(identity(org, 1, &[4])).await, want);
        assert!(renew(&[4], 6).await.is_err());
        assert_eq!(admit(identity(org, 1, &[9])).await, "wrong serial");
    }
    ours.set_agent_state(id, AgentState::Active).await.unwrap();
    assert_eq!(admit(identity(org, 1, &[4])).await, "admitted");
    ours.set_agent_state(id, AgentState::Revoked).await.unwrap();
    assert_eq!(admit(identity(org, 1, &[4])).await, "revoked");
    // For good.
    for state in [
        AgentState::Active,
        AgentState::Suspended,
        AgentState::Quarantined,
    ] {
        let refused = appliance.set_agent_state(id, state).await.unwrap_err();
        assert!(matches!(refused, ApplianceError::Conflict { .. }));
    }
    assert!(renew(&[4], 7).await.is_err());
    assert_eq!(admit(identity(org, 1, &[4])).await, "revoked");
}

#[tokio::test]
async fn another_organisations_agents_and_tokens_are_as_good_as_missing() {
    let bench = Bench::new();
    let (ours, theirs) = (bench.org("ours").await, bench.org("theirs").await);
    enrol(&bench, &theirs, 1).await;
    theirs.put_token(token(theirs.org(), 2)).await.unwrap();
    let (agent, foreign) = (AgentId::from_bytes([1; 16]), TokenId::from_bytes([2; 16]));
    let (nobody, none) = (AgentId::from_bytes([99; 16]), TokenId::from_bytes([99; 16]));
    assert_eq!(ours.agents().await.unwrap(), []);
    assert_eq!(ours.tokens().await.unwrap(), []);
    for id in [agent, nobody] {
        assert_eq!(ours.agent(id).await.unwrap(), None);
        let refused = ours
            .set_agent_state(id, AgentState::Revoked)
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "the agent does not exist");
    }
    for id in [foreign, none] {
        assert!(!ours.delete_token(id).await.unwrap());
    }
    let refused = ours.put_token(token(theirs.org(), 3)).await.unwrap_err();
    assert!(matches!(refused, ApplianceError::Conflict { .. }));
    assert_eq!(
        theirs.agent(agent).await.unwrap().unwrap().agent.state,
        AgentState::Active
    );
    assert!(theirs.delete_token(foreign).await.unwrap());
    assert!(!theirs.delete_token(foreign).await.unwrap());
    assert_eq!(bench.store.appliance().token(foreign).await.unwrap(), None);
}

pub(crate) fn session(n: u8, user: u8, value: &str) -> Session {
    Session {
        id: SessionId::from_bytes([n; 16]),
        user: UserId::from_bytes([user; 16]),
        expires_at: at(i64::from(n)),
        value: value.as_bytes().to_vec(),
    }
}

async fn value(appliance: &Appliance, n: u8) -> Option<String> {
    let found = appliance
        .session(SessionId::from_bytes([n; 16]))
        .await
        .unwrap()?;
    Some(String::from_utf8(found.session.value).unwrap())
}

#[tokio::test]
async fn of_two_that_rotate_one_session_one_wins() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    appliance.put_session(session(1, 1, "first")).await.unwrap();
    let again = appliance
        .put_session(session(1, 1, "again"))
        .await
        .unwrap_err();
    assert!(matches!(again, ApplianceError::Conflict { .. }));
    let id = SessionId::from_bytes([1; 16]);
    let version = appliance.session(id).await.unwrap().unwrap().version;
    let racers: Vec<_> = (0..10)
        .map(|n| {
            let appliance = appliance.clone();
            let rotated = session(1, 1, &format!("rotated {n}"));
            tokio::spawn(async move { appliance.replace_session(rotated, version).await.is_ok() })
        })
        .collect();
    let mut won = Vec::new();
    for (n, racer) in racers.into_iter().enumerate() {
        if racer.await.unwrap() {
            won.push(n);
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(
        value(&appliance, 1).await,
        Some(format!("rotated {}", won[0]))
    );
    let now = appliance.session(id).await.unwrap().unwrap().version;
    // Nobody takes over another person's session.
    assert!(
        appliance
            .replace_session(session(1, 2, "stolen"), now)
            .await
            .is_err()
    );
    appliance
        .replace_session(session(1, 1, "next"), now)
        .await
        .unwrap();
    assert!(appliance.delete_session(id).await.unwrap());
    let gone = appliance
        .replace_session(session(1, 1, "late"), now)
        .await
        .unwrap_err();
    assert!(matches!(gone, ApplianceError::Missing { .. }));
}

#[tokio::test]
async fn sessions_end_by_person_and_by_time() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    for (n, user) in [(10, 1), (20, 1), (30, 2), (40, 2)] {
        appliance
            .put_session(session(n, user, "value"))
            .await
            .unwrap();
    }
    assert_eq!(
        appliance
            .delete_sessions_of(UserId::from_bytes([1; 16]))
            .await
            .unwrap(),
        2
    );
    assert_eq!(appliance.expire_sessions(at(30)).await.unwrap(), 0);
    assert_eq!(appliance.expire_sessions(at(31)).await.unwrap(), 1);
    assert_eq!(value(&appliance, 10).await, None);
    assert_eq!(value(&appliance, 40).await, Some("value".into()));
    assert!(
        !appliance
            .delete_session(SessionId::from_bytes([10; 16]))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn the_first_key_of_a_name_stays() {
    let bench = Bench::new();
    let appliance = bench.store.appliance();
    let key = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    assert_eq!(appliance.secret("ca").await.unwrap(), None);
    assert_eq!(
        appliance.secret_or("ca", key("first")).await.unwrap(),
        key("first")
    );
    assert_eq!(
        appliance.secret_or("ca", key("second")).await.unwrap(),
        key("first")
    );
    appliance.put_secret("ca", key("third")).await.unwrap();
    let bench = bench.reopened().await;
    let appliance = bench.store.appliance();
    assert_eq!(appliance.secret("ca").await.unwrap(), Some(key("third")));
    let large = Zeroizing::new(vec![0; 2 << 20]);
    let error = appliance.put_secret("large", large).await.unwrap_err();
    assert!(matches!(error, ApplianceError::TooLarge { .. }));
}
