//! The credential report: a table of all users that AWS makes on demand, at most every four hours.
//!
//! Source: IAM User Guide, "Generate credential reports for your AWS account", read 2026-11.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_iam::Client;
use aws_sdk_iam::types::{ReportStateType, UserDetail};
use aws_smithy_types::DateTime;
use collect::Fault;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::sweep::Run;
use crate::value::{only, word};

/// The call that asks AWS to make the report.
pub(crate) const GENERATE: &str = "iam:GenerateCredentialReport";

/// The call that reads it.
pub(crate) const CALL: &str = "iam:GetCredentialReport";

/// Name of the row of the root user.
const ROOT: &str = "<root_account>";

/// Pauses between two looks whether the report is made: two minutes in all, a guess of ours. A
/// report that takes longer is a gap of this sync.
const PAUSES: [u64; 8] = [1, 2, 4, 8, 15, 30, 30, 30];

/// Age up to which the report is taken to say the same as asking for each user would. Between two
/// clocks, hence in both directions: a report from the future may be hours old.
const FRESH: SignedDuration = SignedDuration::from_mins(5);

/// What a column holds.
#[derive(Clone, Copy)]
enum Column {
    Flag,
    Instant,
    Text,
}

/// Columns that are kept. The types declare which of them each row has.
const COLUMNS: &[(&str, Column)] = &[
    ("user_creation_time", Column::Instant),
    ("password_enabled", Column::Flag),
    ("password_last_used", Column::Instant),
    ("password_last_changed", Column::Instant),
    ("password_next_rotation", Column::Instant),
    ("mfa_active", Column::Flag),
    ("access_key_1_active", Column::Flag),
    ("access_key_1_last_rotated", Column::Instant),
    ("access_key_1_last_used_date", Column::Instant),
    ("access_key_1_last_used_service", Column::Text),
    ("access_key_2_active", Column::Flag),
    ("access_key_2_last_rotated", Column::Instant),
    ("access_key_2_last_used_date", Column::Instant),
    ("access_key_2_last_used_service", Column::Text),
    ("cert_1_active", Column::Flag),
    ("cert_2_active", Column::Flag),
];

/// The report of an account, or why there is none.
#[derive(Debug)]
pub(crate) struct Report {
    /// What asking for it answered: the declared field of the account.
    pub(crate) state: Result<Value, Fault>,
    rows: Result<BTreeMap<String, Value>, Fault>,
    generated_at: Option<Timestamp>,
    fresh: bool,
}

impl Run<'_> {
    /// Returns the account's credential report; the first caller reads it.
    pub(crate) async fn credential_report(&self, client: &Client) -> &Report {
        self.report.get_or_init(|| Report::read(self, client)).await
    }
}

impl Report {
    async fn read(run: &Run<'_>, client: &Client) -> Self {
        let state = generate(run, client).await;
        // Without the right to make one, an older one may still be readable.
        let sent = client.get_credential_report().send();
        let answer = run.call(CALL, sent).await;
        let generated_at = answer
            .as_ref()
            .ok()
            .and_then(|answer| instant(answer.generated_time()));
        let rows = answer.and_then(|answer| {
            let content = answer.content().map(AsRef::as_ref).unwrap_or_default();
            parse(content).map_err(|reason| run.note(refused(reason)))
        });
        let fresh = generated_at.is_some_and(|made| is_fresh(made, run.started_at));
        Self {
            state,
            rows,
            generated_at,
            fresh,
        }
    }

    /// Returns the declared field of the account: the row of its root user.
    pub(crate) fn of_root(&self) -> Result<Value, Fault> {
        let rows = self.rows.as_ref().map_err(Clone::clone)?;
        let row = rows.get(ROOT).ok_or_else(|| refused("no such row"))?;
        Ok(only("RootCredentialReport", row.clone()))
    }

    /// Returns the declared field of a user. A user without a row is unknown, not without
    /// credentials: the report may be hours older than the user.
    pub(crate) fn of_user(&self, user: &UserDetail) -> Result<Value, Fault> {
        let rows = self.rows.as_ref().map_err(Clone::clone)?;
        let row = rows.get(user.user_name().unwrap_or_default());
        let newer = self.generated_at < instant(user.create_date());
        let missing = if newer {
            "older than the user"
        } else {
            "no such row"
        };
        let row = row.ok_or_else(|| refused(missing))?;
        Ok(only("CredentialReport", row.clone()))
    }

    /// Whether the report, made for this sync or just before it, says that a user has no MFA
    /// device.
    pub(crate) fn shows_no_mfa(&self, user: &str) -> bool {
        self.fresh_row(user)
            .is_some_and(|row| row.get("mfa_active") == Some(&Value::Bool(false)))
    }

    fn fresh_row(&self, user: &str) -> Option<&Value> {
        let rows = self.rows.as_ref().ok().filter(|_| self.fresh)?;
        rows.get(user)
    }
}

fn is_fresh(made: Timestamp, now: Timestamp) -> bool {
    now.duration_since(made).abs() <= FRESH
}

async fn generate(run: &Run<'_>, client: &Client) -> Result<Value, Fault> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let sent = client.generate_credential_report().send();
        let answer = run.call(GENERATE, sent).await?;
        let made = answer.state() == Some(&ReportStateType::Complete);
        match pauses.next() {
            Some(seconds) if !made => tokio::time::sleep(Duration::from_secs(seconds)).await,
            _ => return Ok(json!({"CredentialReportState": word(answer.state())})),
        }
    }
}

fn refused(reason: &str) -> Fault {
    Fault {
        call: CALL.to_owned(),
        code: reason.to_owned(),
    }
}

fn instant(at: Option<&DateTime>) -> Option<Timestamp> {
    let at = at?;
    Timestamp::new(at.secs(), 0).ok()
}

/// Reads the table into one record for each user.
fn parse(content: &[u8]) -> Result<BTreeMap<String, Value>, &'static str> {
    let unreadable = |_| "unreadable report";
    let mut reader = csv::Reader::from_reader(content);
    let header = reader.headers().map_err(unreadable)?.clone();
    let column = |name: &str| header.iter().position(|title| title == name);
    let user = column("user").ok_or("unreadable report")?;
    let kept: Vec<(&str, Column, Option<usize>)> = COLUMNS
        .iter()
        .map(|(name, kind)| (*name, *kind, column(name)))
        .collect();
    let mut rows = BTreeMap::new();
    for line in reader.records() {
        let line = line.map_err(unreadable)?;
        let fields: Map<String, Value> = kept
            .iter()
            .map(|(name, kind, at)| {
                let text = at.and_then(|at| line.get(at));
                ((*name).to_owned(), cell(*kind, text))
            })
            .collect();
        let user = line.get(user).ok_or("unreadable report")?;
        rows.insert(user.to_owned(), Value::Object(fields));
    }
    Ok(rows)
}

/// Returns the value of a cell. What is neither a value nor one of the words for none becomes a
/// list, which no declared column is, so that the field is a gap.
fn cell(kind: Column, text: Option<&str>) -> Value {
    let unknown = || json!([]);
    let Some(text) = text else {
        return unknown();
    };
    if matches!(text, "N/A" | "no_information" | "not_supported" | "") {
        return Value::Null;
    }
    match kind {
        Column::Flag if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        Column::Flag if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        Column::Flag => unknown(),
        Column::Instant | Column::Text => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_none_are_null_and_an_unknown_word_or_missing_column_is_no_value() {
        let table = "user,mfa_active,password_enabled,password_last_used,access_key_1_last_used_service\n\
                     <root_account>,true,not_supported,2026-01-02T03:04:05+00:00,N/A\n\
                     ann,FALSE,maybe,no_information,s3\n";
        let rows = parse(table.as_bytes()).unwrap();
        let (root, ann) = (&rows["<root_account>"], &rows["ann"]);
        assert_eq!(root["mfa_active"], json!(true));
        assert_eq!(root["password_enabled"], json!(null));
        assert_eq!(
            root["password_last_used"],
            json!("2026-01-02T03:04:05+00:00")
        );
        assert_eq!(root["access_key_1_last_used_service"], json!(null));
        assert_eq!(ann["mfa_active"], json!(false));
        assert_eq!(ann["password_enabled"], json!([]));
        assert_eq!(ann["password_last_used"], json!(null));
        assert_eq!(ann["cert_1_active"], json!([]));
    }

    #[test]
    fn a_report_that_is_no_table_is_refused() {
        for content in ["<html></html>", "user,arn\na\n", ""] {
            assert_eq!(parse(content.as_bytes()).unwrap_err(), "unreadable report");
        }
    }

    #[test]
    fn only_a_fresh_report_spares_the_call_for_a_user() {
        let table = "user,mfa_active\nann,false\nbob,true\ndan,N/A\n";
        let mut report = Report {
            state: Ok(json!({})),
            rows: Ok(parse(table.as_bytes()).unwrap()),
            generated_at: None,
            fresh: true,
        };
        let spared = ["ann", "bob", "cid", "dan"].map(|user| report.shows_no_mfa(user));
        assert_eq!(spared, [true, false, false, false]);
        report.fresh = false;
        assert!(!report.shows_no_mfa("ann"));
    }

    #[test]
    fn a_report_of_hours_ago_is_not_fresh_whichever_clock_is_wrong() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let fresh = |minutes: i64| is_fresh(now + SignedDuration::from_mins(minutes), now);
        assert_eq!(
            [-240, -4, 0, 4, 240].map(fresh),
            [false, true, true, true, false]
        );
    }
}
