//! Nothing unknown is called good.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;
use tests::Line;

use crate::sync::settled;

const CALL: &str = "s3:GetBucketPolicy";

fn text<'a>(row: &'a Value, pointer: &str) -> &'a str {
    row.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Whether the row's gaps name the denied call.
fn names_call(row: &Value) -> bool {
    row["gaps"]
        .as_object()
        .is_some_and(|gaps| gaps.values().any(|gap| text(gap, "/call") == CALL))
}

#[test]
fn a_denied_call_makes_verdicts_unknown_and_changes_nothing_else() -> Result<()> {
    let line = Line::start()?;
    let account = line.account()?;
    let agent = line.agent("agent")?;
    agent.source_add(
        "aws",
        "shop",
        &[&format!("endpoint={}", account.endpoint())],
    )?;

    agent.run_once()?;
    let results = settled(&line.client)?;
    let findings = line.client.rows(&["finding", "list"])?;
    let resources = line.client.rows(&["resource", "list"])?;
    assert!(!results.iter().any(names_call));
    let before: BTreeMap<_, _> = results
        .iter()
        .map(|row| {
            (
                (
                    text(row, "/check_id").to_owned(),
                    text(row, "/resource_urn").to_owned(),
                ),
                row.clone(),
            )
        })
        .collect();

    account.deny(CALL)?;
    agent.run_once()?;
    let results = settled(&line.client)?;

    let blinded: Vec<_> = results.iter().filter(|row| names_call(row)).collect();
    assert!(!blinded.is_empty(), "no check reads the bucket policy");
    for row in &blinded {
        assert_eq!(text(row, "/verdict"), "unknown", "{row}");
        let gap = row["gaps"]
            .as_object()
            .unwrap()
            .values()
            .find(|gap| text(gap, "/call") == CALL)
            .unwrap();
        assert!(text(gap, "/error").contains("AccessDenied"), "{gap}");
    }
    // A verdict that was decided by the policy alone is decided no more, for any bucket.
    for check in ["aws.s3.bucket-secure-transport-policy"] {
        let of_check: Vec<_> = results
            .iter()
            .filter(|row| text(row, "/check_id") == check)
            .collect();
        assert!(!of_check.is_empty(), "{check} is not there");
        for row in of_check {
            assert_eq!(text(row, "/verdict"), "unknown", "{row}");
        }
    }
    // Every other verdict is what it was.
    for row in results.iter().filter(|row| !names_call(row)) {
        let key = (
            text(row, "/check_id").to_owned(),
            text(row, "/resource_urn").to_owned(),
        );
        assert_eq!(
            before.get(&key).map(|old| text(old, "/verdict")),
            Some(text(row, "/verdict")),
            "{row}"
        );
    }

    // Nothing is retired and nothing is resolved; what can no longer be read says so.
    assert_eq!(
        line.client.rows(&["resource", "list"])?.len(),
        resources.len()
    );
    let after = line.client.rows(&["finding", "list"])?;
    assert_eq!(after.len(), findings.len());
    assert!(!after.is_empty());
    for row in &after {
        assert_ne!(text(row, "/status"), "resolved", "{row}");
    }
    let unknown: Vec<_> = after
        .iter()
        .filter(|row| text(row, "/verdict") == "unknown")
        .collect();
    assert!(
        !unknown.is_empty(),
        "no open finding says that its facts can no longer be read"
    );

    // And what was hidden comes back.
    account.allow(CALL)?;
    agent.run_once()?;
    let results = settled(&line.client)?;
    assert!(!results.iter().any(names_call));
    Ok(())
}

#[test]
fn a_denied_list_yields_an_unknown_for_its_scope_and_retires_nothing() -> Result<()> {
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
    let count = |kind: &str| -> Result<usize> {
        let rows = line.client.rows(&["resource", "list"])?;
        Ok(rows.iter().filter(|row| text(row, "/type") == kind).count())
    };
    let volumes = count("aws.ec2.volume")?;
    assert!(volumes > 0);

    account.deny("ec2:DescribeVolumes")?;
    agent.run_once()?;
    let results = settled(&line.client)?;
    assert_eq!(count("aws.ec2.volume")?, volumes);
    let unknown = results.iter().filter(|row| {
        text(row, "/verdict") == "unknown"
            && row["gaps"].as_object().is_some_and(|gaps| {
                gaps.values()
                    .any(|gap| text(gap, "/call") == "ec2:DescribeVolumes")
            })
    });
    assert!(
        unknown.count() > 0,
        "no check says that the volumes could not be listed"
    );
    Ok(())
}
