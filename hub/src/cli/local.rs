//! `status`: asks the running hub, else reads the store.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::output::{self, Format};
use crate::admin::{self, AdminError, Question};
use crate::config::Config;
use crate::expiry::HubCertificates;
use crate::failure::{Exit, Failure, Told};
use crate::identity::Identity;
use crate::status::{self, Known, Status, Work};
use crate::{opening, ruleset, tls};

/// Prints how the hub is doing.
///
/// # Errors
/// When neither the hub nor its store can be asked.
pub(super) async fn status(config: &Config, format: Format) -> Result<Exit, Failure> {
    let answer = match admin::ask(&config.data_dir, &Question::Status).await? {
        Some(answer) => answer,
        None => {
            serde_json::to_value(offline_status(config).await?).expect("a status always serialises")
        }
    };
    let status: Status = serde_json::from_value(answer.clone()).map_err(|_| AdminError::Form)?;
    output::print_object(format, &answer, &readable(&status))?;
    Ok(if status.trouble.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

async fn offline_status(config: &Config) -> Result<Status, Failure> {
    let opened = config.clone();
    let store = tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))??;
    let identity = Identity::load(&store.appliance()).await?;
    let rules = ruleset::load(&config.checks_dir);
    let own_api = config.tls.as_ref().and_then(tls::validity_of_own);
    let certificates = HubCertificates::new(Arc::clone(&identity.authority), None, own_api);
    let mut status = status::gather(Known {
        store: &store,
        data_dir: &config.data_dir,
        agent_listen: config.agent_listen.value,
        api_listen: config.api_listen.value,
        pin: identity.authority.pin(),
        certificates: &certificates,
        agent_leaf: config.agent_leaf,
        checks: rules.as_ref().map_or(0, |rules| rules.set.checks().len()),
        running: None,
    })
    .await?;
    if let Err(error) = rules {
        status.trouble.push(error.to_string());
    }
    store.close().await;
    Ok(status)
}

fn readable(status: &Status) -> Vec<(&'static str, String)> {
    let hub = match status.started_at {
        Some(at) => format!(
            "{} since {} (version {})",
            status.state,
            clock(at),
            status.version
        ),
        None => format!("{} (version {})", status.state, status.version),
    };
    let mut lines = vec![
        ("hub", hub),
        (
            "agents",
            format!(
                "{}, {} of {} connected",
                status.agent_listen, status.sessions, status.agents
            ),
        ),
        ("console, API", status.api_listen.to_string()),
        ("organisations", status.organisations.to_string()),
        ("checks", status.checks.to_string()),
        ("store", store_in_words(status)),
        ("last backup", last_backup(status, jiff::Timestamp::now())),
        ("CA pin", status.ca_pin.clone()),
    ];
    if let Some(work) = &status.work {
        lines.push(("queues", queues(work)));
        lines.push(("writes", writes(work)));
    }
    lines.extend(status.warnings.iter().map(|warning| {
        let line = format!("{}; to fix: {}", warning.text, warning.fix);
        ("certificate", line)
    }));
    lines.extend(
        status
            .trouble
            .iter()
            .map(|clause| ("trouble", clause.clone())),
    );
    lines
}

/// Says when the last backup was made, how long ago, and its size.
fn last_backup(status: &Status, now: jiff::Timestamp) -> String {
    let Some(last) = status.last_backup else {
        return "none was ever made".to_owned();
    };
    let hours = now.duration_since(last.made_at).as_hours();
    let ago = match hours {
        ..1 => "less than an hour ago".to_owned(),
        1..48 => format!("{hours} h ago"),
        _ => format!("{} days ago", hours / 24),
    };
    format!("{}, {ago}, {} bytes", clock(last.made_at), last.bytes)
}

fn store_in_words(status: &Status) -> String {
    let measured = status.files.iter().filter_map(|file| {
        let live = file.live_bytes?;
        Some((live, file.allocated_bytes))
    });
    let (count, live, allocated) = measured.fold((0, 0u64, 0u64), |(count, live, all), file| {
        (count + 1, live + file.0, all + file.1)
    });
    let bytes = format!("{} bytes", status.store_bytes);
    if count == 0 {
        return bytes;
    }
    format!("{bytes}; {live} live of {allocated} in the {count} files that were measured")
}

fn queues(work: &Work) -> String {
    let Work {
        waiting_batches,
        waiting_writes,
        waiting_reads,
        ..
    } = work;
    format!("{waiting_batches} batches, {waiting_writes} writes, {waiting_reads} reads wait")
}

fn writes(work: &Work) -> String {
    let within =
        |ms: Option<f64>| ms.map_or_else(|| "over 10 s".to_owned(), |ms| format!("{ms} ms"));
    match work.writes {
        0 => "none since the start".to_owned(),
        count => format!(
            "{count} since the start, half durable within {}, 99 % within {}",
            within(work.write_p50_ms),
            within(work.write_p99_ms)
        ),
    }
}

/// Returns an instant to the second, RFC 3339.
fn clock(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

/// Returns what the running hub answered: what was asked for, or why not.
///
/// # Errors
/// Why not.
pub(super) fn told<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    let answer: Result<Result<T, Told>, _> = serde_json::from_value(answer);
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(told)) => Err(told.into()),
        Err(_) => Err(AdminError::Form.into()),
    }
}

/// Returns rows that an answer of the admin socket holds.
///
/// # Errors
/// When it holds something else.
pub(super) fn rows_of(answer: Value) -> Result<Vec<Value>, AdminError> {
    match answer {
        Value::Array(rows) => Ok(rows),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(AdminError::Form)
        }
    }
}
