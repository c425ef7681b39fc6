use protocol::ids::OrgId;
use store::rows::access::AgentCertificate;

use super::*;
use crate::ca::Material;

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn founded() -> Timestamp {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

fn agent(name: &str, not_after: Timestamp) -> Agent {
    Agent {
        id: AgentId::derived(&[name.as_bytes()]),
        org: OrgId::derived(&[b"acme"]),
        name: name.to_owned(),
        certificates: vec![AgentCertificate {
            serial: vec![1],
            not_after,
            root: protocol::enroll::Pin([0; 32]),
        }],
        state: AgentState::Active,
        enrolled_at: founded(),
        token: None,
        accounts: None,
        labels: BTreeMap::new(),
    }
}

/// A hub that was founded at [`founded`] and made its own certificate at another time.
fn hub(leaf_at: Option<Timestamp>, own_api: Option<Validity>) -> HubCertificates {
    let material = Material::generate(founded()).unwrap();
    let authority = Arc::new(Authority::load(&material).unwrap());
    let leaf = leaf_at.map(|at| CurrentLeaf::issue(Arc::clone(&authority), vec![], at).unwrap());
    HubCertificates::new(authority, leaf, own_api)
}

/// Goes through days, looking several times in each, and returns on which day what was said.
fn said(
    hub: &HubCertificates,
    agents: &[Agent],
    from: Timestamp,
    days: i32,
) -> Vec<(i32, u16, String)> {
    let (mut told, mut lines) = (Said::default(), Vec::new());
    for look in 0..days * 4 {
        let now = from + SignedDuration::from_hours(6) * look;
        for warning in told.news(hub, agents, now) {
            lines.push((look / 4, warning.within_days, warning.text));
        }
    }
    lines
}

fn days_of(lines: &[(i32, u16, String)], what: &str) -> Vec<(i32, u16)> {
    let of = |line: &&(i32, u16, String)| line.2.starts_with(what);
    lines
        .iter()
        .filter(of)
        .map(|line| (line.0, line.1))
        .collect()
}

#[test]
fn each_certificate_that_a_person_replaces_is_told_of_at_90_30_and_7_days_and_at_its_end_once() {
    let (root, intermediate) = hub(None, None).authority.validities();
    for (what, end) in [
        ("the hub's root CA", root.unwrap().until),
        ("the hub's intermediate CA", intermediate.unwrap().until),
    ] {
        let hub = hub(None, None);
        let lines = said(&hub, &[], end - DAY * 100, 110);
        let want = [(10, 90), (70, 30), (93, 7), (100, 0)];
        assert_eq!(days_of(&lines, what), want, "{what}");
        assert!(
            hub.warnings(end - DAY * 91)
                .iter()
                .all(|told| !told.text.starts_with(what))
        );
        let told = hub.warnings(end - DAY * 30);
        let told = told
            .iter()
            .find(|told| told.text.starts_with(what))
            .unwrap();
        assert!(told.text.contains("ends in 30 days"), "{}", told.text);
        assert!(told.fix.contains("ca rotate begin"));
    }
    let own = Validity {
        from: founded(),
        until: founded() + DAY * 398,
    };
    let hub = hub(None, Some(own));
    let lines = said(&hub, &[], own.until - DAY * 100, 110);
    let want = [(10, 90), (70, 30), (93, 7), (100, 0)];
    assert_eq!(days_of(&lines, "the API's certificate"), want);
    assert_eq!(lines.len(), 4, "nothing else is said: {lines:?}");
}

#[test]
fn the_hubs_own_certificate_is_told_of_when_its_renewal_fails_and_not_before() {
    let hub = hub(Some(founded()), None);
    let lines = said(&hub, &[], founded(), 95);
    // It lives for 90 days and is due from the 45th.
    assert_eq!(
        days_of(&lines, "the hub's own"),
        [(60, 30), (83, 7), (90, 0)]
    );
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn agents_that_do_not_renew_are_told_of_together_once_for_each_threshold() {
    let hub = hub(None, None);
    let end = founded() + DAY * 30;
    let mut agents: Vec<Agent> = (0..7).map(|n| agent(&format!("web-{n}"), end)).collect();
    agents[0].state = AgentState::Revoked;
    agents[1].certificates[0].not_after = end + DAY * 2;
    let lines = said(&hub, &agents, founded(), 40);
    assert_eq!(
        days_of(&lines, "the certificate"),
        [(20, 30), (22, 30), (23, 7), (25, 7), (30, 0), (32, 0)]
    );
    let text = &lines[0].2;
    assert!(
        text.contains("5 agents end within 30 days and were not renewed: web-"),
        "{text}"
    );
    assert!(!text.contains("web-0") && !text.contains("web-1"), "{text}");
    let text = &lines[1].2;
    assert!(text.contains("the agent web-1 (agt_"), "{text}");
    assert!(text.contains("ends in 9 days"), "{text}");
    assert!(lines[4].2.contains("5 agents have ended"));
    // What stands is told for as long as it stands.
    let standing = of_agents(&overdue(&agents, DAY * 30, end + DAY));
    let days: Vec<u16> = standing.iter().map(|told| told.within_days).collect();
    assert_eq!(days, [0, 7]);
}

#[test]
fn a_renewed_certificate_begins_anew_and_many_names_are_cut_short() {
    let hub = hub(None, None);
    let (mut told, end) = (Said::default(), founded() + DAY * 30);
    let mut agents = vec![agent("web", end)];
    assert_eq!(told.news(&hub, &agents, end - DAY).len(), 1);
    assert_eq!(told.news(&hub, &agents, end - DAY).len(), 0);
    agents[0].certificates[0].not_after = end + DAY * 30;
    assert_eq!(told.news(&hub, &agents, end).len(), 0);
    assert!(
        told.agents.is_empty(),
        "nothing is kept of those who renewed"
    );
    assert_eq!(told.news(&hub, &agents, end + DAY * 29).len(), 1);
    let many: Vec<Agent> = (0..2000).map(|n| agent(&format!("a-{n}"), end)).collect();
    let lines = told.news(&hub, &many, end);
    assert!(lines[0].text.contains("2000 agents have ended") && lines[0].text.len() < 400);
}
