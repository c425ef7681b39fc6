//! One alert: a line of JSON in, a scrubbed and normalised event out.

use std::borrow::Cow;
use std::sync::LazyLock;

use collect::pick::{Found, Picked, Picks};
use jiff::Timestamp;
use protocol::event::{EventView, severity};

/// OCSF class "Detection Finding": an alert is what a rule of the manager has found.
/// Source: OCSF 1.8 schema, class `detection_finding`.
const DETECTION_FINDING: u32 = 2004;

/// Longest normalised field, in bytes. The raw alert keeps the whole text; a few such fields beside
/// the longest alert must fit one batch.
const FIELD_BYTES: usize = 1024;

/// Where an actor stands, by the modules of the manager that name one.
const ACTORS: &[&str] = &[
    "/data/srcuser",
    "/data/dstuser",
    "/data/aws/userIdentity/arn",
    "/data/aws/userIdentity/userName",
    "/data/gcp/protoPayload/authenticationInfo/principalEmail",
    "/data/github/actor",
    "/data/office365/UserId",
    "/data/win/eventdata/subjectUserName",
    "/data/win/eventdata/targetUserName",
    "/syscheck/uname_after",
];

/// Where a source address stands.
const ADDRESSES: &[&str] = &[
    "/data/srcip",
    "/data/src_ip",
    "/data/aws/sourceIPAddress",
    "/data/aws/source_ip_address",
    "/data/gcp/protoPayload/requestMetadata/callerIp",
    "/data/office365/ClientIP",
    "/data/win/eventdata/ipAddress",
];

/// Where an outcome or the kind of an activity stands.
const ACTIVITIES: &[&str] = &[
    "/data/status",
    "/data/action",
    "/data/aws/eventName",
    "/data/gcp/protoPayload/methodName",
    "/data/github/action",
    "/data/office365/Operation",
    "/syscheck/event",
];

/// What is picked out of an alert, in the order of [`PICKS`].
#[derive(Debug, Clone, Copy)]
enum Part {
    Whole,
    Rule,
    Time,
    Level,
    Action,
    Activity,
    Actor,
    Resource,
    Address,
    Id,
}

static PICKS: LazyLock<Picks> = LazyLock::new(|| {
    Picks::new(&[
        &[""],
        &["/rule"],
        &["/timestamp"],
        &["/rule/level"],
        &["/rule/description", "/rule/id"],
        ACTIVITIES,
        ACTORS,
        &["/agent/name", "/agent/id", "/manager/name"],
        ADDRESSES,
        &["/id"],
    ])
});

/// Returns OCSF's severity of a rule's level, with the borders of the manager's own dashboard:
/// low 0 to 6, medium 7 to 11, high 12 to 14, critical 15 and above.
fn severity_of(level: u64) -> u8 {
    match level {
        0..=6 => severity::LOW,
        7..=11 => severity::MEDIUM,
        12..=14 => severity::HIGH,
        15.. => severity::CRITICAL,
    }
}

/// Returns the value of a part that stands in one place.
fn only<'p, 't>(alert: &'p Picked<'_, 't>, part: Part) -> Option<&'p Found<'t>> {
    alert.group(part as usize).next()
}

/// Returns the first text of a part that `fits`, cut to its bound; empty when there is none.
fn first<'p>(alert: &'p Picked<'_, '_>, part: Part, fits: fn(&str) -> bool) -> &'p str {
    let texts = alert.group(part as usize).filter_map(Found::text);
    let text = texts
        .map(str::trim)
        .find(|text| !text.is_empty() && fits(text));
    cut(text.unwrap_or_default())
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(FIELD_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn any(_: &str) -> bool {
    true
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

/// Returns an alert's time in milliseconds since 1970. The manager writes the offset without a
/// colon, `2022-05-11T12:29:19.905+0000`, which RFC 3339 does not allow.
fn time_ms(text: &str) -> Option<i64> {
    let at = text.len().checked_sub(5)?;
    let with_colon = match (text.get(..at), text.get(at..)) {
        (Some(before), Some(offset)) if offset.starts_with(['+', '-']) && !offset.contains(':') => {
            let (hours, minutes) = offset.split_at_checked(3)?;
            Cow::Owned([before, hours, ":", minutes].concat())
        }
        _ => Cow::Borrowed(text),
    };
    let at: Timestamp = with_colon.parse().ok()?;
    Some(at.as_millisecond())
}

/// Reads one line and hands over the event.
///
/// Bytes that are no UTF-8 are replaced rather than refused: what an attacker can write into a
/// log would else keep its own alert from being told.
///
/// # Errors
///
/// A reason that quotes nothing of the line.
pub(super) fn read<T>(
    line: &[u8],
    take: impl FnOnce(&EventView<'_>) -> T,
) -> Result<T, &'static str> {
    // The lossy reading is slow also where nothing is lost.
    let text = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line), Cow::Borrowed);
    let (raw, picked) =
        collect::scrub::scrub_and_pick(text.trim(), &PICKS).map_err(|_| "not JSON")?;
    let alert = match picked {
        Some(picked) => picked,
        None => PICKS.read(&raw).map_err(|_| "not JSON")?,
    };
    if only(&alert, Part::Whole) != Some(&Found::Object) {
        return Err("not an alert: no JSON object");
    }
    if only(&alert, Part::Rule) != Some(&Found::Object) {
        return Err("not an alert: it has no rule");
    }
    let time = only(&alert, Part::Time).and_then(Found::text);
    let time_ms = time_ms(time.ok_or("not an alert: it has no timestamp")?)
        .ok_or("the timestamp has an unknown form")?;
    let severity = match only(&alert, Part::Level) {
        Some(Found::Number(level)) => severity_of(*level),
        Some(Found::Nothing | Found::Text(_) | Found::Object | Found::Other) | None => {
            severity::UNKNOWN
        }
    };
    Ok(take(&EventView {
        time_ms,
        class_uid: DETECTION_FINDING,
        severity,
        action: first(&alert, Part::Action, any),
        activity: first(&alert, Part::Activity, any),
        actor: first(&alert, Part::Actor, any),
        resource: first(&alert, Part::Resource, any),
        src_ip: first(&alert, Part::Address, is_address),
        native_id: first(&alert, Part::Id, any),
        raw: &raw,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::event::EventRecord;
    use serde_json::Value;

    fn read(line: &[u8]) -> Result<EventRecord, &'static str> {
        super::read(line, |event| event.to_record())
    }

    const ALERT: &str = r#"{"timestamp":"2022-05-11T12:29:19.905+0000","rule":{"level":10,"description":"sshd: brute force","id":"5712"},"agent":{"id":"001","name":"web-1"},"manager":{"name":"m"},"id":"1652272159.1549653","data":{"srcip":"192.0.2.7","dstuser":"paco","status":"failed","aws":{"responseElements":{"credentials":{"sessionToken":"FwoGZXIvYXdzEJr0CANARYCANARYCANARY"}}}}}"#;

    #[test]
    fn an_alert_is_normalised_and_its_secrets_are_gone() {
        let event = read(ALERT.as_bytes()).unwrap();
        assert!(!event.raw.contains("CANARY"));
        assert!(event.raw.contains("192.0.2.7"));
        let want = EventRecord {
            time_ms: 1_652_272_159_905,
            class_uid: 2004,
            severity: severity::MEDIUM,
            action: "sshd: brute force".into(),
            activity: "failed".into(),
            actor: "paco".into(),
            resource: "web-1".into(),
            src_ip: "192.0.2.7".into(),
            native_id: "1652272159.1549653".into(),
            raw: event.raw.clone(),
        };
        assert_eq!(event, want);
    }

    #[test]
    fn every_form_of_the_time_is_read() {
        for text in [
            "2022-05-11T12:29:19.905+0000",
            "2022-05-11T14:29:19.905+0200",
            "2022-05-11T12:29:19.905Z",
            "2022-05-11T12:29:19.905+00:00",
        ] {
            assert_eq!(time_ms(text), Some(1_652_272_159_905), "{text}");
        }
        assert_eq!(time_ms("2022-05-11T12:29:19+0000"), Some(1_652_272_159_000));
        for text in ["2022 May 11 12:29:19", "", "+0000", "é+000"] {
            assert_eq!(time_ms(text), None, "{text}");
        }
    }

    #[test]
    fn levels_are_named_as_the_managers_own_dashboard_names_them() {
        let named = [0, 6, 7, 11, 12, 14, 15, 16].map(severity_of);
        let (low, medium) = (severity::LOW, severity::MEDIUM);
        let (high, critical) = (severity::HIGH, severity::CRITICAL);
        let want = [low, low, medium, medium, high, high, critical, critical];
        assert_eq!(named, want);
    }

    #[test]
    fn what_is_no_alert_is_refused_without_quoting_it() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"rule":{}}"#,
            r#"{"rule":{},"timestamp":"hunter2"}"#,
            r#"{"hunter2""#,
            r#"{"rule":"hunter2","timestamp":"2022-05-11T12:29:19.905Z"}"#,
        ] {
            let reason = read(line.as_bytes()).unwrap_err();
            assert!(!reason.contains("hunter2"), "{line}: {reason}");
        }
    }

    #[test]
    fn a_line_that_is_not_utf8_is_still_told_and_a_long_field_is_cut() {
        let long = "é".repeat(FIELD_BYTES);
        let mut line = ALERT.replace("sshd: brute force", &long).into_bytes();
        line.splice(2..2, *b"x\xff\":1,\"");
        let event = read(&line).unwrap();
        assert!(event.raw.contains("x\u{fffd}"));
        assert_eq!(event.action.len(), FIELD_BYTES);
        assert!(event.raw.contains(&long));
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "says what was not tested")]
    fn recorded_alerts_are_read_and_malformed_ones_are_refused() {
        let name = "recorded_alerts_are_read_and_malformed_ones_are_refused";
        let folder = std::env::var_os("ZERO_X_SHARED").map_or_else(
            || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
            std::path::PathBuf::from,
        );
        let mut counts = (0, 0);
        for file in ["wazuh_alerts_4x_upstream", "wazuh_alerts_4x_derived"] {
            let path = folder.join(format!("corpora/events/{file}.jsonl"));
            let Ok(text) = std::fs::read_to_string(path) else {
                println!("skipped: {name}: no shared data");
                return;
            };
            for line in text.lines() {
                let entry: Value = serde_json::from_str(line).unwrap();
                if entry["kind"] == "wazuh_alert_malformed" {
                    let raw = entry["raw"].as_str().unwrap();
                    assert!(read(raw.as_bytes()).is_err(), "{}", entry["id"]);
                    counts.1 += 1;
                } else {
                    let event = read(entry["event"].to_string().as_bytes()).unwrap();
                    assert!(!event.native_id.is_empty(), "{}", entry["id"]);
                    assert!(!event.action.is_empty(), "{}", entry["id"]);
                    counts.0 += 1;
                }
            }
        }
        assert!(counts.0 > 600 && counts.1 > 0, "{counts:?}");
    }
}
