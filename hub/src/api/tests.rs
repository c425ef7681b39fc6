//! The API from outside: a real server with two organisations, asked over TLS.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use protocol::api::{ROLES, Role};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::access::{TABLE, Takes};
use super::turn::AT_ONCE;
use super::{CONNECTIONS, CONNECTIONS_OF_ONE, Crowd, Place};
use hub::{Asked, Login, TestHub, missing};

mod agents;
mod hub;
mod past;
mod retention;

/// Where each endpoint with an id in its path finds one that exists.
fn filled(hub: &TestHub, route: &str) -> String {
    let id = match route {
        "/api/v1/agents/{id}"
        | "/api/v1/agents/{id}/suspend"
        | "/api/v1/agents/{id}/resume"
        | "/api/v1/agents/{id}/revoke" => hub.seeded.agent.to_string(),
        "/api/v1/sources/{id}" => hub.seeded.source.to_string(),
        "/api/v1/resources/{id}" => hub.seeded.resource.to_string(),
        "/api/v1/findings/{id}" => hub.seeded.finding.to_string(),
        "/api/v1/events/{id}" => hub.seeded.event.to_string(),
        "/api/v1/holds/{id}/lift" => hub.seeded.hold.to_string(),
        "/api/v1/checks/{id}" => hub::CHECK.to_owned(),
        other => {
            assert!(!other.contains('{'), "no id is known for {other}");
            String::new()
        }
    };
    route.replace("{id}", &id)
}

/// A body that an endpoint takes, another one each time.
fn body(route: &str, number: usize) -> Option<Value> {
    match route {
        "/api/v1/orgs" => Some(json!({"name": format!("made {number}")})),
        "/api/v1/retention" => Some(json!({"class": "events", "days": 60})),
        "/api/v1/retention/run" => Some(json!({"dry_run": true})),
        "/api/v1/holds" | "/api/v1/holds/{id}/lift" => Some(json!({"reason": "a matter"})),
        "/api/v1/scopes/confirm" => Some(json!({
            "scope": "aws/123456789012/us-east-1/ec2.security-group", "retiring": 1,
        })),
        "/api/v1/users" => Some(json!({
            "email": format!("made{number}@example.org"), "role": "viewer",
            "password": "drums under wet gravel",
        })),
        "/api/v1/agent-tokens"
        | "/api/v1/agents/{id}/suspend"
        | "/api/v1/agents/{id}/resume"
        | "/api/v1/agents/{id}/revoke" => Some(json!({})),
        "/api/v1/login" | "/api/v1/refresh" | "/api/v1/logout" => None,
        other => panic!("no body is known for {other}"),
    }
}

async fn ask(hub: &TestHub, login: &Login, row: usize, org: Option<&str>, number: usize) -> Asked {
    let (method, route, _) = TABLE[row];
    let method: Method = method.parse().unwrap();
    let mut path = filled(hub, route);
    if let Some(org) = org {
        path = format!("{path}?org={org}");
    }
    let body = (method != Method::GET)
        .then(|| body(route, number))
        .flatten();
    hub.ask_as(login, method, &path, body.as_ref()).await
}

/// What the table promises to a member with a role, or to nobody in particular.
fn promised(takes: Takes, role: Option<Role>, is_hub_admin: bool) -> StatusCode {
    let (member, stranger) = (StatusCode::OK, StatusCode::NOT_FOUND);
    match (takes, role) {
        (Takes::Anyone | Takes::SignedIn, _) => member,
        (Takes::HubAdmin, _) if is_hub_admin => member,
        (Takes::HubAdmin, _) => StatusCode::FORBIDDEN,
        (Takes::RoleOrHubAdmin(_), _) if is_hub_admin => member,
        // The organisation that is asked for has an admin.
        (Takes::RoleOrFounder(_), None) if is_hub_admin => StatusCode::FORBIDDEN,
        (
            Takes::Role(roles) | Takes::RoleOrHubAdmin(roles) | Takes::RoleOrFounder(roles),
            Some(role),
        ) => {
            if roles.contains(&role) {
                member
            } else {
                StatusCode::FORBIDDEN
            }
        }
        (Takes::Role(_) | Takes::RoleOrHubAdmin(_) | Takes::RoleOrFounder(_), None) => stranger,
    }
}

/// The endpoints that the matrix is made of: a sign-in, a renewal and a sign-out have tests of
/// their own, and change who is asking.
fn rows() -> impl Iterator<Item = (usize, &'static str, Takes)> {
    let own = ["/api/v1/login", "/api/v1/refresh", "/api/v1/logout"];
    TABLE
        .iter()
        .enumerate()
        .filter(move |(_, (_, route, _))| !own.contains(route))
        .map(|(row, (_, route, takes))| (row, *route, *takes))
}

#[test]
fn every_endpoint_is_in_the_table_and_in_the_description_or_neither() {
    let (_, document) = super::endpoints();
    let document = serde_json::to_value(&document).unwrap();
    let mut described = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (path, verbs) in document["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            described.insert((verb.to_uppercase(), path.clone()));
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{name} names two operations");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                let words = answer["description"].as_str().unwrap_or_default();
                assert!(!words.is_empty(), "{name} does not describe {status}");
            }
        }
    }
    let tabled: BTreeSet<(String, String)> = TABLE
        .iter()
        .filter(|(_, path, _)| !["/healthz", "/readyz", "/api/v1/openapi.json"].contains(path))
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(described, tabled);
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_answers_each_role_as_the_table_says() {
    let hub = TestHub::start().await;
    let own = hub.own.to_string();
    let mut number = 0;
    for (row, route, takes) in rows() {
        let mut people: Vec<(&str, &Login, Option<Role>, bool)> = ROLES
            .iter()
            .map(|word| {
                let role = Role::from_word(word).unwrap();
                (*word, &hub.members[&role], Some(role), false)
            })
            .collect();
        people.push(("a stranger", &hub.stranger, None, false));
        people.push(("a hub administrator", &hub.hub_admin, None, true));
        for (who, login, role, is_hub_admin) in people {
            number += 1;
            let wanted = promised(takes, role, is_hub_admin);
            let asked = ask(&hub, login, row, Some(&own), number).await;
            let given = match asked.status {
                // What is told about the state of a thing is told to who may act on it.
                StatusCode::CREATED | StatusCode::CONFLICT => StatusCode::OK,
                status => status,
            };
            assert_eq!(given, wanted, "{route} asked by {who}: {}", asked.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_health_and_signing_in_answers_without_a_good_login() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let bad = [
        ("nobody", Login::none()),
        ("an expired token", hub.expired(admin)),
        ("an ended session", hub.ended(Role::Admin).await),
        ("a disabled account", hub.disabled().await),
        ("another hub's token", hub.forged(admin)),
    ];
    for (who, login) in &bad {
        for (row, route, takes) in rows() {
            let asked = ask(&hub, login, row, None, 0).await;
            if takes == Takes::Anyone {
                assert_eq!(asked.status, StatusCode::OK, "{route} asked by {who}");
            } else {
                asked.assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
            }
        }
        // A stranger does not even learn which paths there are.
        for path in ["/", "/api/v1/nothing", "/api/v1/findings/", "/admin"] {
            hub.ask_as(login, Method::GET, path, None)
                .await
                .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
        }
        hub.ask_as(login, Method::DELETE, "/api/v1/orgs", None)
            .await
            .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_id_answers_like_a_missing_one_on_every_path() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    for (row, route, takes) in rows().filter(|row| row.1.contains('{')) {
        let method: Method = TABLE[row].0.parse().unwrap();
        let body = (method == Method::POST).then(|| body(route, 0)).flatten();
        let ask =
            async |login, path: &str| hub.ask_as(login, method.clone(), path, body.as_ref()).await;
        let path = filled(&hub, route);
        let (base, act) = route.split_once("{id}").unwrap();
        let id = path.strip_prefix(base).unwrap().strip_suffix(act).unwrap();
        let own = ask(admin, &path).await;
        assert_eq!(own.status, StatusCode::OK, "{path}: {}", own.text);
        if takes == Takes::SignedIn {
            continue;
        }
        // The stranger has a good login, and an organisation of her own.
        let foreign = ask(&hub.stranger, &path).await;
        let absent = ask(&hub.stranger, &route.replace("{id}", &missing(id))).await;
        let nonsense = ask(&hub.stranger, &route.replace("{id}", "%FF%00x")).await;
        foreign.assert_problem(StatusCode::NOT_FOUND, "not_found");
        assert_eq!(foreign.without_id(), absent.without_id(), "{path}");
        assert_eq!(foreign.without_id(), nonsense.without_id(), "{path}");
    }
    // The organisation itself is no different, by id and by name.
    let own = hub.own.to_string();
    let answers = [&own, &missing(&own), "own", "no such name"];
    let mut seen = BTreeSet::new();
    for org in answers {
        let path = format!("/api/v1/findings?org={}", org.replace(' ', "%20"));
        let asked = hub.get(&hub.stranger, &path).await;
        asked.assert_problem(StatusCode::NOT_FOUND, "not_found");
        seen.insert(asked.without_id().to_string());
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_shows_anything_of_another_organisation() {
    let hub = TestHub::start().await;
    let lists = [
        "agents",
        "sources",
        "resources",
        "findings",
        "check-results",
        "events",
        "quarantine",
        "losses",
        "scopes",
        "holds",
    ];
    for list in lists {
        let path = format!("/api/v1/{list}");
        let own = hub.get(&hub.members[&Role::Viewer], &path).await.json();
        let foreign = hub.get(&hub.stranger, &path).await.json();
        assert_eq!(own["items"].as_array().unwrap().len(), 1, "{list}: {own}");
        assert_eq!(foreign, json!({"items": [], "total": 0}), "{list}");
    }
    let overview = hub.get(&hub.stranger, "/api/v1/overview").await.json();
    assert_eq!(overview["resources_by_type"], json!({}));
    assert_eq!(overview["attention"], json!([]));
    let orgs = hub.get(&hub.stranger, "/api/v1/orgs").await.json();
    assert_eq!(orgs["total"], 1, "{orgs}");
    assert!(!orgs.to_string().contains(&hub.own.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_a_password_and_ends_at_once() {
    let hub = TestHub::start().await;
    let sign_in = json!({"email": "ADMIN@example.org ", "password": hub::PASSWORD});
    let tokens = hub.post("/api/v1/login", &sign_in).await.json();
    assert_eq!(tokens["expires_in"], 600);
    let login = Login::of(&tokens);
    let who = hub.get(&login, "/api/v1/whoami").await.json();
    assert_eq!(who["email"], "admin@example.org");
    assert_eq!(who["orgs"][0]["role"], "admin");

    let asked = hub
        .ask_as(&login, Method::POST, "/api/v1/logout", None)
        .await;
    assert_eq!(asked.status, StatusCode::NO_CONTENT);
    hub.get(&login, "/api/v1/whoami")
        .await
        .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    let renewal = json!({"refresh_token": tokens["refresh_token"]});
    hub.post("/api/v1/refresh", &renewal)
        .await
        .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_shown_twice_ends_the_session() {
    let hub = TestHub::start().await;
    let sign_in = json!({"email": "admin@example.org", "password": hub::PASSWORD});
    let first = hub.post("/api/v1/login", &sign_in).await.json();
    let renew = async |tokens: &Value| {
        let renewal = json!({"refresh_token": tokens["refresh_token"]});
        hub.post("/api/v1/refresh", &renewal).await
    };
    let second = renew(&first).await.json();
    let third = renew(&second).await.json();
    assert_eq!(
        hub.get(&Login::of(&third), "/api/v1/whoami").await.status,
        StatusCode::OK
    );
    renew(&first)
        .await
        .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    // Thief and owner are out alike.
    for tokens in [&first, &second, &third] {
        hub.get(&Login::of(tokens), "/api/v1/whoami")
            .await
            .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
    }
    renew(&third)
        .await
        .assert_problem(StatusCode::UNAUTHORIZED, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_password_is_refused_alike_and_then_slowed() {
    let hub = TestHub::start().await;
    let try_as = async |email: &str| {
        let body = json!({"email": email, "password": "not the password"});
        hub.post("/api/v1/login", &body).await
    };
    let known = try_as("admin@example.org").await;
    let unknown = try_as("nobody@example.org").await;
    known.assert_problem(StatusCode::UNAUTHORIZED, "wrong_credentials");
    assert_eq!(known.without_id(), unknown.without_id());
    let mut last = known;
    for _ in 0..5 {
        last = try_as("admin@example.org").await;
    }
    last.assert_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests");
    let after: u64 = last.header("retry-after").parse().unwrap();
    assert!((1..=900).contains(&after), "{after}");
    // The unknown address is slowed no sooner and no later.
    for _ in 0..4 {
        last = try_as("nobody@example.org").await;
    }
    last.assert_problem(StatusCode::UNAUTHORIZED, "wrong_credentials");
    try_as("nobody@example.org")
        .await
        .assert_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests");
    // Who is signed in is not put out by it.
    let admin = &hub.members[&Role::Admin];
    assert_eq!(
        hub.get(admin, "/api/v1/whoami").await.status,
        StatusCode::OK
    );
}

/// What the first organisation's log says of sessions: actor, action, object and detail.
async fn session_acts(hub: &TestHub) -> Vec<[String; 4]> {
    let auditor = &hub.members[&Role::Auditor];
    let log = hub.get(auditor, "/api/v1/audit?limit=1000").await.json();
    let lines = log["items"].as_array().unwrap().iter();
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines
        .filter(|line| text(line, "action").starts_with("session."))
        .map(|line| ["actor", "action", "object", "detail"].map(|name| text(line, name)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_sign_outs_and_refused_ones_are_in_the_audit_log_without_a_secret() {
    let hub = TestHub::start().await;
    let admin = hub.members[&Role::Admin].user.unwrap().to_string();
    let guess = "not the password at all";
    // Wrong ones, then throttled ones: one entry for all of them.
    for _ in 0..12 {
        let body = json!({"email": "Admin@example.org", "password": guess});
        assert!(!hub.post("/api/v1/login", &body).await.status.is_success());
        // Of whom nobody has heard, nothing is said.
        let body = json!({"email": "nobody@example.org", "password": guess});
        assert!(!hub.post("/api/v1/login", &body).await.status.is_success());
    }
    // It is written aside.
    let mut acts = Vec::new();
    for _ in 0..500 {
        acts = session_acts(&hub).await;
        if !acts.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [refused] = <[_; 1]>::try_from(acts).unwrap();
    assert_eq!(refused[..3], ["hub", "session.refuse", admin.as_str()]);
    assert!(
        refused[3].starts_with("wrong password, from 127.0.0.1"),
        "{refused:?}"
    );

    let body = json!({"email": "operator@example.org", "password": hub::PASSWORD});
    let tokens = hub.post("/api/v1/login", &body).await.json();
    let login = Login::of(&tokens);
    hub.ask_as(&login, Method::POST, "/api/v1/logout", None)
        .await;
    let body = json!({"email": "viewer@example.org", "password": hub::PASSWORD});
    let stolen = hub.post("/api/v1/login", &body).await.json();
    let renewal = json!({"refresh_token": stolen["refresh_token"]});
    for _ in 0..2 {
        hub.post("/api/v1/refresh", &renewal).await;
    }

    let operator = hub.members[&Role::Operator].user.unwrap().to_string();
    let viewer = hub.members[&Role::Viewer].user.unwrap().to_string();
    let acts = session_acts(&hub).await;
    let told: Vec<[&str; 2]> = acts.iter().map(|act| [&act[0][..], &act[1][..]]).collect();
    let want = [
        ["hub", "session.refuse"],
        [&operator, "session.begin"],
        [&operator, "session.end"],
        [&viewer, "session.begin"],
        ["hub", "session.end"],
    ];
    assert_eq!(told, want);
    assert_eq!(acts[1][2], acts[2][2], "begin and end are of one session");
    let log = hub.get(&hub.members[&Role::Auditor], "/api/v1/audit").await;
    for secret in [
        guess,
        hub::PASSWORD,
        tokens["access_token"].as_str().unwrap(),
        tokens["refresh_token"].as_str().unwrap(),
        stolen["refresh_token"].as_str().unwrap(),
    ] {
        assert!(!log.text.contains(secret), "{secret}");
    }
    // Nothing of it is in an organisation that these people have no part in.
    let foreign = hub.get(&hub.stranger, "/api/v1/audit").await.json();
    assert_eq!(foreign["total"], 0, "{foreign}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_said_in_a_problem_document() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let cases = [
        ("/api/v1/nothing", 404, "not_found"),
        ("/api/v1/findings/fnd_x", 404, "not_found"),
        ("/api/v1/findings?filter=severty=high", 400, "bad_filter"),
        ("/api/v1/findings?sort=colour", 400, "bad_sort"),
        ("/api/v1/events?sort=time", 400, "bad_sort"),
        ("/api/v1/check-results?sort=check", 400, "bad_sort"),
        ("/api/v1/findings?limit=0", 400, "bad_limit"),
        ("/api/v1/findings?limit=1001", 400, "bad_limit"),
        ("/api/v1/findings?limit=ten", 400, "bad_query"),
        ("/api/v1/findings?colour=red", 400, "bad_query"),
        ("/api/v1/findings/fnd_x?colour=red", 400, "bad_query"),
        ("/api/v1/findings?org=a&org=b", 400, "bad_query"),
        ("/api/v1/findings?cursor=x", 400, "bad_cursor"),
        ("/api/v1/resources?cursor=x", 400, "bad_cursor"),
        ("/api/v1/events?cursor=x", 400, "bad_cursor"),
        ("/api/v1/check-results?cursor=x", 400, "bad_cursor"),
        ("/api/v1/agents?cursor=x", 400, "bad_cursor"),
        ("/api/v1/audit?cursor=x", 400, "bad_cursor"),
        ("/api/v1/check-results?resource=x", 400, "bad_urn"),
        ("/api/v1/orgs?filter=colour=red", 400, "bad_filter"),
        ("/api/v1/audit?filter=colour=red", 400, "bad_filter"),
        ("/api/v1/quarantine?filter=colour=red", 400, "bad_filter"),
        ("/api/v1/losses?filter=colour=red", 400, "bad_filter"),
        ("/api/v1/scopes?filter=colour=red", 400, "bad_filter"),
    ];
    for (path, status, code) in cases {
        let asked = hub.get(admin, path).await;
        asked.assert_problem(StatusCode::from_u16(status).unwrap(), code);
    }
    let nearest = hub.get(admin, "/api/v1/findings?filter=severty=high").await;
    assert!(
        nearest.text.contains("did you mean severity"),
        "{}",
        nearest.text
    );

    let wrong_method = hub
        .ask_as(admin, Method::DELETE, "/api/v1/orgs", None)
        .await;
    wrong_method.assert_problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
    assert_eq!(wrong_method.header("allow"), "GET,HEAD,POST");

    for (body, status, code) in [
        ("{", 400, "bad_body"),
        ("{}", 422, "bad_body"),
        (r#"{"name": 7}"#, 422, "bad_body"),
        (r#"{"name": "x", "nmae": "y"}"#, 422, "bad_body"),
        (r#"{"name": ""}"#, 400, "bad_name"),
        (
            &format!(r#"{{"name": "{}"}}"#, "x".repeat(70_000)),
            413,
            "body_too_large",
        ),
    ] {
        let asked = hub
            .send_text(&hub.hub_admin, "/api/v1/orgs", "application/json", body)
            .await;
        asked.assert_problem(StatusCode::from_u16(status).unwrap(), code);
    }
    hub.send_text(&hub.hub_admin, "/api/v1/orgs", "text/plain", "{}")
        .await
        .assert_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_body");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_to_keep_and_to_frame_it_and_says_the_pace() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    for path in ["/api/v1/whoami", "/api/v1/nothing", "/healthz"] {
        let asked = hub.get(admin, path).await;
        assert_eq!(asked.header("cache-control"), "no-store");
        assert_eq!(asked.header("x-content-type-options"), "nosniff");
        assert_eq!(asked.header("ratelimit-limit"), "600");
        assert!(
            asked
                .header("strict-transport-security")
                .starts_with("max-age=")
        );
        assert!(asked.header("content-security-policy").contains("'none'"));
        assert!(asked.header("x-request-id").starts_with("req_"));
    }
    let viewer = &hub.members[&Role::Viewer];
    hub.exhaust(viewer);
    let refused = hub.get(viewer, "/api/v1/whoami").await;
    refused.assert_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests");
    assert_eq!(refused.header("retry-after"), "1");
    // One who asks too much is not in the way of others.
    let other = hub.get(admin, "/api/v1/whoami").await;
    assert_eq!(other.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_token_holds_what_the_agent_needs_and_the_hub_keeps_its_public_half() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let asked = json!({"ttl_seconds": 60, "uses": 2, "name": "web"});
    let made = hub
        .post_as(admin, "/api/v1/agent-tokens", &asked)
        .await
        .json();
    let token: protocol::enroll::Token =
        protocol::enroll::Token::parse(made["token"].as_str().unwrap()).unwrap();
    assert_eq!(token.hubs, ["hub.example:7443"]);
    assert_eq!(token.pins, [hub.pin]);
    let stored = hub
        .store
        .appliance()
        .token(token.id)
        .await
        .unwrap()
        .unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&token.seed);
    assert_eq!(stored.public_key, key.verifying_key().to_bytes());
    assert_eq!(stored.org, hub.own);
    assert_eq!(
        (stored.uses_left, stored.bound_name.as_deref()),
        (2, Some("web"))
    );

    for (body, code) in [
        (json!({"ttl_seconds": 0}), "bad_ttl"),
        (json!({"ttl_seconds": 2_592_001}), "bad_ttl"),
        (json!({"uses": 0}), "bad_uses"),
        (json!({"uses": 10_001}), "bad_uses"),
        (json!({"name": ""}), "bad_name"),
    ] {
        hub.post_as(admin, "/api/v1/agent-tokens", &body)
            .await
            .assert_problem(StatusCode::BAD_REQUEST, code);
    }
    // Both who and what are in the log; the secret is not.
    let log = hub.get(&hub.members[&Role::Auditor], "/api/v1/audit").await;
    let lines = log.json();
    let last = lines["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["action"], "agent_token.create");
    assert_eq!(last["object"], made["id"]);
    assert!(!log.text.contains(made["token"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_sent_twice_with_one_key_happens_once() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let path = "/api/v1/agent-tokens";
    let first = hub.write_once(admin, path, "k1", &json!({})).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(first.header("idempotency-replayed"), "");
    let second = hub.write_once(admin, path, "k1", &json!({})).await;
    assert_eq!((second.status, &second.text), (first.status, &first.text));
    assert_eq!(second.header("idempotency-replayed"), "true");
    let other = hub.write_once(admin, path, "k2", &json!({})).await;
    assert_ne!(other.text, first.text);
    let data = hub.store.maintenance(hub.own).await.unwrap().unwrap();
    let made = data.tokens().await.unwrap();
    assert_eq!(
        made.iter().filter(|token| token.made_by.is_some()).count(),
        2
    );

    hub.write_once(admin, path, "k1", &json!({"uses": 2}))
        .await
        .assert_problem(StatusCode::UNPROCESSABLE_ENTITY, "key_reused");
    // Another person's key of the same text is another key.
    let operator = &hub.members[&Role::Operator];
    let theirs = hub.write_once(operator, path, "k1", &json!({})).await;
    assert_eq!(theirs.header("idempotency-replayed"), "");
    // What was refused may be mended and sent again.
    for body in [json!({"uses": 0}), json!({"uses": 1})] {
        let asked = hub.write_once(admin, path, "k3", &body).await;
        assert_eq!(asked.header("idempotency-replayed"), "", "{}", asked.text);
    }
    hub.write_once(admin, path, &"x".repeat(256), &json!({}))
        .await
        .assert_problem(StatusCode::BAD_REQUEST, "bad_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_administrator_makes_organisations_and_sees_no_data_in_them() {
    let hub = TestHub::start().await;
    let made = hub
        .post_as(&hub.hub_admin, "/api/v1/orgs", &json!({"name": "Third"}))
        .await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.json();
    assert_eq!(made["role"], Value::Null);
    let org = made["id"].as_str().unwrap();
    hub.post_as(&hub.hub_admin, "/api/v1/orgs", &json!({"name": "third"}))
        .await
        .assert_problem(StatusCode::CONFLICT, "name_taken");
    hub.get(&hub.hub_admin, &format!("/api/v1/findings?org={org}"))
        .await
        .assert_problem(StatusCode::NOT_FOUND, "not_found");

    let path = format!("/api/v1/users?org={org}");
    let user = json!({"email": "Chief@example.org", "role": "admin", "password": "drums under wet gravel"});
    let chief = hub.post_as(&hub.hub_admin, &path, &user).await;
    assert_eq!(chief.status, StatusCode::CREATED);
    assert_eq!(chief.json()["email"], "chief@example.org");
    let sign_in = json!({"email": "chief@example.org", "password": "drums under wet gravel"});
    let login = Login::of(&hub.post("/api/v1/login", &sign_in).await.json());
    // The new admin's own organisation is the one that is meant when none is named.
    let users = hub.get(&login, "/api/v1/users").await.json();
    assert_eq!(users["total"], 1, "{users}");
    let log = hub.get(&login, "/api/v1/audit").await.json();
    let acts: Vec<&str> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["action"].as_str().unwrap())
        .collect();
    assert_eq!(acts, ["org.create", "user.create", "session.begin"]);
    assert_eq!(
        log["items"][0]["actor"],
        hub.hub_admin.user.unwrap().to_string()
    );
}

/// Makes an organisation without anybody in it and returns its id.
async fn third(hub: &TestHub) -> String {
    let named = json!({"name": "Third"});
    let made = hub.post_as(&hub.hub_admin, "/api/v1/orgs", &named).await;
    made.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_administrator_makes_the_first_admin_of_an_organisation_and_nobody_else() {
    let hub = TestHub::start().await;
    let root = &hub.hub_admin;
    let phrase = "drums under wet gravel";
    let user = |email: &str, role: &str, password: &str| json!({"email": email, "role": role, "password": password});

    // Neither itself nor a helper of its own where there is an admin, by whatever role.
    for org in [hub.own, hub.foreign] {
        let path = format!("/api/v1/users?org={org}");
        for role in ["viewer", "admin"] {
            for named in [
                user("root@example.org", role, hub::PASSWORD),
                user("puppet@example.org", role, phrase),
                user("stranger@example.org", role, hub::PASSWORD),
            ] {
                let refused = hub.post_as(root, &path, &named).await;
                refused.assert_problem(StatusCode::FORBIDDEN, "forbidden");
                assert!(refused.text.contains("only its admins"), "{}", refused.text);
            }
        }
    }

    // Where there is none: no other role, and not itself.
    let org = third(&hub).await;
    let path = format!("/api/v1/users?org={org}");
    for named in [
        user("chief@example.org", "viewer", phrase),
        user("root@example.org", "admin", hub::PASSWORD),
        user(" ROOT@example.org ", "admin", hub::PASSWORD),
    ] {
        hub.post_as(root, &path, &named)
            .await
            .assert_problem(StatusCode::FORBIDDEN, "forbidden");
    }
    // Of two at once one is the first: both have come before either can be made.
    let held = hub.hold_passwords().await;
    let (one, two) = (
        user("chief@example.org", "admin", phrase),
        user("other@example.org", "admin", phrase),
    );
    let (one, two, ()) = tokio::join!(
        hub.post_as(root, &path, &one),
        hub.post_as(root, &path, &two),
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(held);
        }
    );
    let mut both = [one.status, two.status];
    both.sort();
    assert_eq!(both, [StatusCode::CREATED, StatusCode::FORBIDDEN]);
    let first = if one.status == StatusCode::CREATED {
        one.json()
    } else {
        two.json()
    };

    // That one makes the others.
    let sign_in = json!({"email": first["email"], "password": phrase});
    let chief = Login::of(&hub.post("/api/v1/login", &sign_in).await.json());
    let made = hub
        .post_as(&chief, &path, &user("next@example.org", "viewer", phrase))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let users = hub.get(&chief, "/api/v1/users").await.json();
    assert_eq!(users["total"], 2, "{users}");
    let who = hub.get(root, "/api/v1/whoami").await.json();
    assert_eq!(who["orgs"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_administrator_makes_users_where_it_is_an_admin_and_not_where_it_is_less() {
    let hub = TestHub::start().await;
    let root = &hub.hub_admin;
    let (own, foreign) = (hub.own, hub.foreign);
    let give = move |user: &mut store::rows::access::User| {
        user.roles.insert(own, Role::Admin);
        user.roles.insert(foreign, Role::Viewer);
    };
    let appliance = hub.store.appliance();
    appliance
        .update_user(root.user.unwrap(), give)
        .await
        .unwrap();
    let named = json!({"email": "next@example.org", "role": "viewer", "password": "drums under wet gravel"});
    hub.post_as(root, &format!("/api/v1/users?org={foreign}"), &named)
        .await
        .assert_problem(StatusCode::FORBIDDEN, "forbidden");
    let made = hub
        .post_as(root, &format!("/api/v1/users?org={own}"), &named)
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_cannot_take_a_stranger_into_the_organisation() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let named = json!({"email": "stranger@example.org", "role": "viewer", "password": "another phrase of the river"});
    // Whoever could would become the default of that person's commands.
    hub.post_as(admin, "/api/v1/users", &named)
        .await
        .assert_problem(StatusCode::CONFLICT, "email_taken");
    // The hub's administrator can, as the first admin of an organisation, with the person's own
    // password, which stays.
    let path = format!("/api/v1/users?org={}", third(&hub).await);
    let named =
        json!({"email": "stranger@example.org", "role": "admin", "password": hub::PASSWORD});
    let granted = hub.post_as(&hub.hub_admin, &path, &named).await;
    assert_eq!(granted.status, StatusCode::CREATED, "{}", granted.text);
    let sign_in = json!({"email": "stranger@example.org", "password": hub::PASSWORD});
    let login = Login::of(&hub.post("/api/v1/login", &sign_in).await.json());
    let own = hub.get(&login, "/api/v1/whoami").await.json();
    assert_eq!(own["orgs"].as_array().unwrap().len(), 2, "{own}");
    for (email, password, code) in [
        ("new@example.org", "short", "bad_password"),
        ("new@example.org", "password1234", "bad_password"),
        ("new-example.org", "drums under wet gravel", "bad_email"),
    ] {
        let body = json!({"email": email, "role": "viewer", "password": password});
        hub.post_as(admin, "/api/v1/users", &body)
            .await
            .assert_problem(StatusCode::BAD_REQUEST, code);
    }
}

#[test]
fn a_network_with_very_many_addresses_does_not_take_every_connection() {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let crowd = Arc::new(Crowd::default());
    let take = |address: String| Place::take(&places, &crowd, address.parse().unwrap());
    let held: Vec<_> = (0..CONNECTIONS)
        .map_while(|n| take(format!("2001:db8::{n:x}")))
        .collect();
    assert_eq!(held.len(), CONNECTIONS_OF_ONE);
    assert!(take("2001:db8:0:1::1".to_owned()).is_some());
    assert!(take("192.0.2.1".to_owned()).is_some());
    drop(held);
    assert!(take("2001:db8::1".to_owned()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_a_tenant_made_in_advance_gets_no_role_elsewhere() {
    let hub = TestHub::start().await;
    // An admin of one organisation makes the account of somebody who is awaited in another.
    let awaited = |password: &str| json!({"email": "chief@example.net", "role": "admin", "password": password});
    let made = awaited("a phrase that the tenant knows");
    let made = hub.post_as(&hub.stranger, "/api/v1/users", &made).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text);
    let org = third(&hub).await;
    let path = format!("/api/v1/users?org={org}");
    let wanted = awaited("a phrase for the chief alone");
    hub.post_as(&hub.hub_admin, &path, &wanted)
        .await
        .assert_problem(StatusCode::CONFLICT, "email_taken");
    let sign_in =
        json!({"email": "chief@example.net", "password": "a phrase that the tenant knows"});
    let login = Login::of(&hub.post("/api/v1/login", &sign_in).await.json());
    hub.get(&login, &format!("/api/v1/findings?org={org}"))
        .await
        .assert_problem(StatusCode::NOT_FOUND, "not_found");
    // Nor can the password of an account be guessed this way.
    let mut last = hub.post_as(&hub.hub_admin, &path, &wanted).await;
    for _ in 0..5 {
        last = hub.post_as(&hub.hub_admin, &path, &wanted).await;
    }
    last.assert_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_goes_on_to_its_audit_entry_when_its_sender_hangs_up() {
    let hub = TestHub::start().await;
    let admin = &hub.members[&Role::Admin];
    let ghost = json!({"email": "ghost@example.org", "role": "viewer", "password": hub::PASSWORD});
    // It waits for its turn, and its sender has gone before that comes.
    let held = hub.hold_passwords().await;
    hub.hang_up(admin, "/api/v1/users", &ghost, Duration::from_millis(500))
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(held);
    let mut log = String::new();
    for _ in 0..100 {
        log = hub.get(admin, "/api/v1/audit").await.text;
        if log.contains("user.create") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(log.contains("user.create"), "{log}");
    let users = hub.get(admin, "/api/v1/users").await.text;
    assert!(users.contains("ghost@example.org"), "{users}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_is_shown_with_its_facts_its_life_and_the_way_out() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    let path = format!("/api/v1/findings/{}", hub.seeded.finding);
    let shown = hub.get(viewer, &path).await.json();
    assert_eq!(shown["severity"], "high");
    assert_eq!(shown["evidence"], json!({"IpPermissions": []}));
    assert_eq!(shown["history"][0]["event"], "opened");
    assert_eq!(shown["cause"]["urn"], shown["resource"]["urn"]);
    assert!(!shown["why"].as_str().unwrap().is_empty());
    assert!(!shown["fix"]["cli"].as_str().unwrap().is_empty());
    let list = hub
        .get(viewer, "/api/v1/findings?filter=severity%3E%3Dhigh")
        .await
        .json();
    assert_eq!(list["items"][0], shown);
    let none = hub
        .get(viewer, "/api/v1/findings?filter=severity%3Ehigh")
        .await
        .json();
    assert_eq!(none, json!({"items": [], "total": 0}));

    let resource = hub
        .get(
            viewer,
            &format!("/api/v1/resources/{}", hub.seeded.resource),
        )
        .await
        .json();
    assert_eq!(resource["open_findings"], json!({"high": 1}));
    let encoded = resource["urn"].as_str().unwrap().replace('/', "%2F");
    let by_urn = hub
        .get(viewer, &format!("/api/v1/resources/{encoded}"))
        .await
        .json();
    assert_eq!(by_urn, resource);
    let overview = hub.get(viewer, "/api/v1/overview").await.json();
    assert_eq!(overview["open_by_severity"]["high"], 1);
    assert_eq!(overview["verdicts"], json!({"fail": 1}));
    assert_eq!(overview["attention"][0]["target"], shown["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_lost_is_told_with_its_count() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    let losses = hub.get(viewer, "/api/v1/losses?filter=lane=events").await;
    let loss = &losses.json()["items"][0];
    assert_eq!(loss["records"], 10);
    assert_eq!(loss["reason"], "the agent's spool was full");
    let overview = hub.get(viewer, "/api/v1/overview").await.json();
    let attention = overview["attention"].as_array().unwrap();
    let lost = attention.iter().find(|entry| entry["kind"] == "loss");
    let text = "10 records are lost; the last 10: the agent's spool was full";
    assert_eq!(lost.unwrap()["text"], text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_holds_much_back_is_confirmed_by_whoever_saw_how_much() {
    let hub = TestHub::start().await;
    let operator = &hub.members[&Role::Operator];
    let scope = hub.hold_back(30).await;
    let listed = hub.get(operator, "/api/v1/scopes?filter=state=held").await;
    let held = &listed.json()["items"][0];
    assert_eq!(held["scope"], scope);
    assert_eq!(
        (&held["retiring"], &held["resources"]),
        (&json!(30), &json!(30))
    );
    let confirm = async |login: &Login, scope: &str, retiring: u64| {
        let body = json!({"scope": scope, "retiring": retiring});
        hub.post_as(login, "/api/v1/scopes/confirm", &body).await
    };
    let viewer = &hub.members[&Role::Viewer];
    assert_eq!(
        confirm(viewer, &scope, 30).await.status,
        StatusCode::FORBIDDEN
    );
    for scope in [scope.as_str(), "aws/1/x/ec2.vpc"] {
        let foreign = confirm(&hub.stranger, scope, 30).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND);
        assert!(
            foreign.text.contains("there is no such object"),
            "{}",
            foreign.text
        );
    }
    let other = confirm(operator, &scope, 29).await;
    other.assert_problem(StatusCode::CONFLICT, "retiring_changed");
    let done = confirm(operator, &scope, 30).await.json();
    assert_eq!(
        (&done["state"], &done["resources"]),
        (&json!("complete"), &json!(0))
    );
    let again = confirm(operator, &scope, 30).await;
    again.assert_problem(StatusCode::CONFLICT, "not_held");
    let admin = &hub.members[&Role::Admin];
    let audit = hub
        .get(admin, "/api/v1/audit?filter=action=scope.confirm")
        .await;
    assert_eq!(audit.json()["total"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_found_by_every_name_that_an_answer_gives_it() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    let get = async |path: String| hub.get(viewer, &path).await;
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let id = hub.seeded.resource.to_string();
    let resource = get(format!("/api/v1/resources/{id}")).await.json();
    let text = |name: &str| resource[name].as_str().unwrap().to_owned();
    for name in [text("id"), text("native_id"), text("urn")] {
        let shown = get(format!("/api/v1/resources/{}", encode(&name))).await;
        assert_eq!(shown.json(), resource, "{name}");
    }
    for name in [text("id"), text("native_id"), id.clone()] {
        for field in ["id", "resource_id"] {
            let filter = encode(&format!("{field}={name}"));
            let list = get(format!("/api/v1/resources?filter={filter}"))
                .await
                .json();
            assert_eq!(list["items"], json!([resource]), "{field}={name}");
        }
    }
    for name in [text("id"), text("name"), text("urn"), id.clone()] {
        let filter = encode(&format!("resource=\"{name}\""));
        let list = get(format!("/api/v1/findings?filter={filter}"))
            .await
            .json();
        assert_eq!(list["total"], 1, "{name}");
        let filter = encode(&format!("resource!=\"{name}\""));
        let list = get(format!("/api/v1/findings?filter={filter}"))
            .await
            .json();
        assert_eq!(list["total"], 0, "{name}");
    }
    let filter = encode("type=aws.ec2.vcp");
    for list in ["findings", "resources", "checks"] {
        let answer = get(format!("/api/v1/{list}?filter={filter}")).await.text;
        assert!(answer.contains("did you mean aws.ec2.vpc?"), "{answer}");
    }
}

/// Follows a list to its end in pages of seven; every row is told by the given field.
async fn follow(hub: &TestHub, list: &str, filter: &str, field: &[&str]) -> Vec<String> {
    let viewer = &hub.members[&Role::Viewer];
    let filter = percent_encoding::utf8_percent_encode(filter, percent_encoding::NON_ALPHANUMERIC);
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    for _ in 0..200 {
        let path = format!("/api/v1/{list}?limit=7&filter={filter}{cursor}");
        let page = hub.get(viewer, &path).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        let told = |row: &Value| field.iter().map(|name| row[*name].to_string()).collect();
        seen.extend(items.iter().map(told));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return seen,
        }
    }
    panic!("the list does not end: {} rows", seen.len());
}

#[track_caller]
fn assert_once_each(seen: Vec<String>, wanted: usize) {
    assert_eq!(seen.len(), wanted);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_comes_page_by_page_to_every_event_once() {
    let hub = TestHub::start().await;
    hub.add_events(250).await;
    for (filter, wanted) in [
        ("burst", 250),
        ("BURST severity>=high", 25),
        ("nowhere", 0),
        // Bare text is whole words, also where it must not be; a part is asked of a field.
        ("burs", 0),
        ("\"burst 7\"", 1),
        ("burst !7", 249),
        ("burst !urst", 250),
        ("action~urst", 250),
        ("action~\"burst 7\" severity>=high", 1),
        ("actor=root", 1),
        ("actor!=root", 250),
    ] {
        assert_once_each(follow(&hub, "events", filter, &["id"]).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_needle_in_many_blocks_opens_few_of_them() {
    let hub = TestHub::start().await;
    hub.add_events(3000).await;
    let data = hub.store.maintenance(hub.own).await.unwrap().unwrap();
    for (text, wanted, most_blocks) in [
        ("1234", 1, 4),
        ("\"burst 1234\"", 1, 4),
        ("1234 !burst", 0, 4),
        ("absent", 0, 4),
        ("actor=ROOT", 1, 4),
        // What no index knows reads everything.
        ("action~1234", 1, 61),
    ] {
        let filter = protocol::filter::Filter::parse(
            text,
            protocol::api::EVENT_FIELDS,
            jiff::Timestamp::UNIX_EPOCH,
        );
        let filter = filter.unwrap();
        let found = data.read(move |reader| super::events::search(reader, &filter, 50, None));
        let found = found.await.unwrap();
        assert_eq!(found.events.len(), wanted, "{text}");
        assert_eq!(found.next, None, "{text}");
        assert!(
            found.blocks_opened <= most_blocks,
            "{text}: {} blocks",
            found.blocks_opened
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_verdicts_comes_page_by_page_to_every_verdict_once() {
    let hub = TestHub::start().await;
    // More rows than are read at once, more verdicts in a row than a page may have left.
    hub.add_verdicts(300).await;
    let field = ["resource_urn", "check_id"];
    for (filter, wanted) in [
        ("resource~/vpc-", 900),
        ("resource~/vpc- verdict=fail", 300),
        ("resource~/vpc-299", 3),
        ("nowhere", 0),
    ] {
        assert_once_each(follow(&hub, "check-results", filter, &field).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_largest_rows_ends_early_and_none_is_left_out() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    hub.add_large_resources(12, 900 << 10).await;
    hub.add_large_events(60, 200 << 10).await;
    for (list, mark, wanted) in [
        ("resources?filter=type%3Daws.ec2.vpc", "urn", 12),
        ("resources?filter=type%3Daws.ec2.vpc&sort=-name", "urn", 12),
        ("events?filter=action~large", "id", 60),
        ("events?filter=!action~brute", "id", 60),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/{list}&limit=1000{cursor}");
            let asked = hub.get(viewer, &path).await;
            assert!(asked.text.len() < 6 << 20, "{} bytes", asked.text.len());
            let page = asked.json();
            for item in page["items"].as_array().unwrap() {
                seen.push(item[mark].as_str().unwrap().to_owned());
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_once_each(seen, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_does_not_hold_every_place_and_gets_it_back() {
    let hub = TestHub::start().await;
    let viewer = &hub.members[&Role::Viewer];
    let mut streams = Vec::new();
    for _ in 0..AT_ONCE {
        streams.push(hub.stream(viewer).await);
    }
    let beyond = hub.get(viewer, "/api/v1/stream").await;
    beyond.assert_problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests");
    let whoami = hub.get(viewer, "/api/v1/whoami").await;
    assert_eq!(whoami.status, StatusCode::OK);
    let _theirs = hub.stream(&hub.members[&Role::Admin]).await;
    drop(streams);
    for _ in 0..100 {
        if hub.get(viewer, "/api/v1/stream").await.status == StatusCode::OK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no place came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_its_own_organisations_news_and_ends_with_the_hub() {
    let hub = TestHub::start().await;
    let mut stream = hub.stream(&hub.members[&Role::Viewer]).await;
    for org in [hub.foreign, hub.own] {
        hub.live.tell(crate::live::Changed {
            org,
            what: crate::live::What::Findings,
        });
    }
    let told = stream.next(Duration::from_secs(10)).await.unwrap();
    assert_eq!(told, "event: findings\ndata: {}\n\n");
    hub.stop.cancel();
    assert_eq!(stream.next(Duration::from_secs(10)).await, None);
}
