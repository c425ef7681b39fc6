//! Files are compacted under agents that send; retention and legal holds from the command line.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use line::process;
use serde_json::{Value, json};
use tests::told::stored;
use tests::{Line, alerts, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Alerts that are written around each compaction, half before and half after.
const BURST: usize = 400;

#[test]
fn compacting_in_a_burst_loses_no_event_and_stores_none_twice() -> Result<()> {
    let mut line = Line::start()?;
    let agent = line.agent("agent")?;
    let file = line.folder().join("alerts.json");
    alerts::append(&file, std::iter::empty())?;
    agent.source_add("wazuh", "manager", &[&format!("path={}", file.display())])?;
    let daemon = agent.run()?;
    let mut written = 0;
    let burst = |written: &mut usize| -> Result<()> {
        alerts::append(&file, (*written..*written + BURST / 2).map(alerts::alert))?;
        *written += BURST / 2;
        Ok(())
    };
    burst(&mut written)?;
    wait_until("the first events arrive", PATIENCE, || {
        Ok((!stored(&line.client)?.is_empty()).then_some(()))
    })?;
    for _ in 0..6 {
        burst(&mut written)?;
        let command = line.hub.command("compact");
        let compacting = thread::spawn(move || process::output(command, "", PATIENCE));
        burst(&mut written)?;
        let done = compacting.join().expect("it does not panic")?;
        let rows: Value = serde_json::from_str(&process::success(done, "compact")?)?;
        ensure!(rows[0]["result"] == "compacted", "{rows}");
    }
    let wanted: BTreeMap<usize, usize> = (0..written).map(|number| (number, 1)).collect();
    wait_until("every event is stored", PATIENCE, || {
        let now = stored(&line.client)?;
        Ok((now.len() >= wanted.len()).then_some(()))
    })?;
    assert_eq!(stored(&line.client)?, wanted);
    daemon.stop(Duration::from_secs(30))?;
    // Without a hub the command opens the store itself.
    line.hub.stop()?;
    let done = process::output(line.hub.command("compact"), "", PATIENCE)?;
    process::success(done, "compact")?;
    let done = process::output(line.hub.command("verify"), "", PATIENCE)?;
    process::success(done, "verify")?;
    line.hub.serve()?;
    assert_eq!(stored(&line.client)?, wanted);
    Ok(())
}

#[test]
fn retention_and_legal_holds_are_set_shown_and_told_by_the_command_line() -> Result<()> {
    let line = Line::start()?;
    let client = &line.client;
    let class = |name: &str| -> Result<Value> {
        let filter = format!("class={name}");
        let rows = client.rows(&["retention", "list", "--filter", &filter])?;
        ensure!(rows.len() == 1, "{rows:?}");
        Ok(rows.into_iter().next().unwrap_or_default())
    };
    assert_eq!(class("events")?["days"], 90);
    client.json(&["retention", "set", "events", "30"])?;
    assert_eq!(class("events")?["days"], 30);
    let refused = client.output(&["retention", "set", "audit", "30"], "")?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("365 to 3660"),
        "{words}"
    );
    let unknown = client.output(&["retention", "set", "evnets", "30"], "")?;
    assert_eq!(unknown.status.code(), Some(64));

    let hold = client.json(&["hold", "set", "--class", "events", "--reason", "matter 7"])?;
    assert_eq!(class("events")?["held"], true);
    let due = client.json(&["retention", "run", "--dry-run"])?;
    let due: Vec<&Value> = due.as_array().into_iter().flatten().collect();
    assert_eq!(due.len(), 7);
    assert_eq!(due[0]["held"], "matter 7");
    assert_eq!(due[0]["bytes"], 0);
    let id = hold["id"].as_str().unwrap_or_default();
    client.json(&["hold", "lift", id, "--reason", "settled"])?;
    assert_eq!(client.rows(&["hold", "list"])?, Vec::<Value>::new());
    client.json(&["retention", "run"])?;
    let acts: Vec<Value> = client
        .rows(&["audit", "list"])?
        .into_iter()
        .map(|row| row["action"].clone())
        .filter(|action| {
            let action = action.as_str().unwrap_or_default();
            action.starts_with("hold.") || action.starts_with("retention.")
        })
        .collect();
    assert_eq!(
        acts,
        [
            json!("retention.set"),
            json!("hold.set"),
            json!("hold.lift")
        ]
    );
    Ok(())
}
