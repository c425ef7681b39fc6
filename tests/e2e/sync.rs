//! What a sync calls, and what it sends.

use anyhow::Result;
use line::client::Client;
use line::process;
use line::relay::Relay;
use serde_json::Value;
use tests::Line;

/// The check results once the hub has judged what it has received.
pub(crate) fn settled(client: &Client) -> Result<Vec<Value>> {
    client.wait_judged()?;
    client.rows(&["check", "results"])
}

#[test]
fn a_sync_makes_no_call_that_writes() -> Result<()> {
    let line = Line::start()?;
    let account = line.account()?;
    let agent = line.agent("agent")?;
    agent.source_add(
        "aws",
        "shop",
        &[&format!("endpoint={}", account.endpoint())],
    )?;
    account.take_calls()?;
    agent.run_once()?;
    let calls = account.take_calls()?;
    let calls = calls.as_object().unwrap();
    assert!(calls.len() > 10, "{calls:?}");
    for call in calls.keys() {
        let (_, operation) = call.split_once(':').unwrap();
        // The one exception only has AWS make a report.
        let reads = ["Get", "List", "Describe", "Head"]
            .iter()
            .any(|verb| operation.starts_with(verb))
            || operation == "GenerateCredentialReport"
            || operation.starts_with("GET ");
        assert!(reads, "{call} is no reading call");
    }
    Ok(())
}

#[test]
fn a_second_sync_of_an_unchanged_account_sends_little() -> Result<()> {
    let line = Line::start()?;
    let account = line.account()?;
    let relay = Relay::start(&line.hub.agent_address())?;
    let agent = line.unenrolled("agent")?;
    let args = ["enroll", "--token-file", "-", "--hub", &relay.address()];
    process::success(agent.output(&args, &line.token()?)?, "zero-x-agent enroll")?;

    // What a run costs that has nothing to send: two padded initial packets, the agent's certificates and its proof.
    let empty = line.folder().join("alerts.json");
    std::fs::write(&empty, "")?;
    agent.source_add("wazuh", "nothing", &[&format!("path={}", empty.display())])?;
    let sent_by_a_run = || -> Result<u64> {
        let before = relay.traffic().up;
        agent.run_once()?;
        Ok(relay.traffic().up - before)
    };
    let bare = sent_by_a_run()?;
    assert!(bare > 0, "the agent does not go through the relay");

    agent.source_add(
        "aws",
        "shop",
        &[&format!("endpoint={}", account.endpoint())],
    )?;
    let first = sent_by_a_run()?;
    let second = sent_by_a_run()?;
    println!(
        "a run that sends nothing {bare} bytes of UDP payload, the first sync {first}, the second {second}"
    );
    assert!(first > 20_000, "the first sync sent only {first} bytes");
    // 8 KiB of frames, and as much again for packet headers, acknowledgements and retransmissions.
    assert!(
        second.saturating_sub(bare) < 16 * 1024,
        "the second sync sent {second} bytes, a bare run {bare}"
    );
    Ok(())
}

#[test]
fn a_deleted_resource_is_gone_after_the_next_sync_and_its_finding_resolved() -> Result<()> {
    let line = Line::start()?;
    let account = line.account()?;
    let agent = line.agent("agent")?;
    agent.source_add(
        "aws",
        "shop",
        &[&format!("endpoint={}", account.endpoint())],
    )?;
    agent.run_once()?;
    settled(&line.client)?;
    let urn = |row: &Value| row["urn"].as_str().unwrap_or_default().to_owned();
    let buckets = |rows: Vec<Value>| -> Vec<String> {
        rows.iter()
            .map(urn)
            .filter(|urn| urn.contains("demo-shop-uploads"))
            .collect()
    };
    assert_eq!(buckets(line.client.rows(&["resource", "list"])?).len(), 1);
    account.delete_bucket("demo-shop-uploads")?;
    agent.run_once()?;
    settled(&line.client)?;
    assert_eq!(
        buckets(line.client.rows(&["resource", "list"])?),
        Vec::<String>::new()
    );
    let open = line
        .client
        .rows(&["finding", "list", "--filter", "status=open"])?;
    assert!(
        !open
            .iter()
            .any(|row| row.to_string().contains("demo-shop-uploads"))
    );
    Ok(())
}
