//! Who may speak to a hub, and what the others are told.

use std::process::Output;

use anyhow::Result;
use line::process;
use line::relay::Relay;
use tests::Line;

/// sysexits' EX_NOPERM, which the contract uses for "forbidden".
const FORBIDDEN: Option<i32> = Some(77);

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).to_lowercase()
}

#[track_caller]
fn assert_refused(done: &Output, words: &[&str]) {
    assert_eq!(done.status.code(), FORBIDDEN, "{done:?}");
    let said = said(done);
    assert!(
        words.iter().any(|word| said.contains(word)),
        "none of {words:?} in: {said}"
    );
}

#[test]
fn a_token_enrols_one_agent_once() -> Result<()> {
    let line = Line::start()?;
    let token = line.token()?;
    let first = line.unenrolled("first")?;
    process::success(first.enroll(&token)?, "zero-x-agent enroll")?;

    let second = line.unenrolled("second")?;
    assert_refused(&second.enroll(&token)?, &["token"]);
    // Nothing is left that could be taken for an identity.
    assert!(!second.state_dir().join("identity/agent.pem").exists());

    // The first one's second run changes nothing and says so.
    let again = first.enroll(&line.token()?)?;
    assert!(again.status.success(), "{again:?}");
    let told = String::from_utf8_lossy(&again.stdout).to_lowercase() + &said(&again);
    assert!(told.contains("already enrolled as agt_"), "{told}");
    Ok(())
}

#[test]
fn a_token_of_another_hub_is_refused_by_its_pin() -> Result<()> {
    let (line, other) = (Line::start()?, Line::start()?);
    let agent = line.unenrolled("agent")?;
    let args = [
        "enroll",
        "--token-file",
        "-",
        "--hub",
        &other.hub.agent_address(),
    ];
    assert_refused(&agent.output(&args, &line.token()?)?, &["pin"]);
    assert!(!agent.state_dir().join("identity/agent.pem").exists());
    Ok(())
}

#[test]
fn an_agent_that_meets_another_hub_at_its_hubs_address_refuses_it() -> Result<()> {
    let (line, other) = (Line::start()?, Line::start()?);
    let relay = Relay::start(&line.hub.agent_address())?;
    let agent = line.unenrolled("agent")?;
    let args = ["enroll", "--token-file", "-", "--hub", &relay.address()];
    process::success(agent.output(&args, &line.token()?)?, "zero-x-agent enroll")?;
    relay.point_at(&other.hub.agent_address())?;
    let done = agent.output(&["run", "--once"], "")?;
    assert!(matches!(done.status.code(), Some(69 | 77)), "{done:?}");
    let said = said(&done);
    assert!(
        said.contains("certificate") || said.contains("pin"),
        "{said}"
    );
    // The other hub has learned nothing.
    assert!(other.client.rows(&["agent", "list"])?.is_empty());
    Ok(())
}

#[test]
fn an_agent_without_an_identity_says_how_to_get_one() -> Result<()> {
    let line = Line::start()?;
    let agent = line.unenrolled("agent")?;
    let done = agent.output(&["run", "--once"], "")?;
    assert!(matches!(done.status.code(), Some(77 | 78)), "{done:?}");
    assert!(said(&done).contains("enroll"), "{done:?}");
    assert!(line.client.rows(&["agent", "list"])?.is_empty());
    Ok(())
}

#[test]
fn a_second_organisations_agent_speaks_for_that_organisation_only() -> Result<()> {
    let line = Line::start()?;
    let other = line.organisation("other")?;
    let account = line.account()?;
    let agent = line.agent_of(&other, "theirs")?;
    agent.source_add(
        "aws",
        "shop",
        &[&format!("endpoint={}", account.endpoint())],
    )?;
    agent.run_once()?;
    assert!(!other.client.rows(&["resource", "list"])?.is_empty());
    assert!(line.client.rows(&["resource", "list"])?.is_empty());
    assert!(line.client.rows(&["agent", "list"])?.is_empty());

    // A token of the first organisation does not move it there.
    let again = agent.enroll(&line.token()?)?;
    assert!(again.status.success(), "{again:?}");
    agent.run_once()?;
    assert!(line.client.rows(&["resource", "list"])?.is_empty());
    Ok(())
}

#[test]
fn a_login_without_the_right_pin_or_password_is_refused() -> Result<()> {
    let line = Line::start()?;
    let (url, email) = (line.hub.url(), line.hub.email.clone());
    let login = |name: &str, pin: &str, password: &str| -> Result<Output> {
        let home = line.folder().join(name);
        std::fs::create_dir_all(&home)?;
        let mut command = process::command(&line.programs().client, &home);
        command.args([
            "login",
            &url,
            "--ca-pin",
            pin,
            "--email",
            &email,
            "--password-stdin",
        ]);
        process::output(command, password, std::time::Duration::from_secs(60))
    };
    let wrong = format!(
        "sha256:{}",
        "0".repeat(line.hub.ca_pin.len() - "sha256:".len())
    );
    let done = login("pin", &wrong, &line.hub.password)?;
    assert!(!done.status.success(), "{done:?}");
    assert!(said(&done).contains("pin"), "{done:?}");
    assert_refused(
        &login("password", &line.hub.ca_pin, "not the password")?,
        &["password", "credentials"],
    );
    Ok(())
}
