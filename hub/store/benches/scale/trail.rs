//! CloudTrail events: variations of real ones where there are any beside the checkout, else of one
//! of our own.

use std::path::PathBuf;

use protocol::event::{EventRecord, severity};
use serde_json::Value;

/// Sizes of the real events that are varied, in bytes: those make some 1.1 KB in the mean.
const SIZES: std::ops::Range<usize> = 500..1_700;

/// OCSF 1.8: API Activity.
const CLASS: u32 = 6003;

/// What stands in for a real event: `@` marks what differs from event to event.
const OWN: &str = r#"{"eventVersion":"1.09","userIdentity":{"type":"AssumedRole","principalId":"AROAEXAMPLEEXAMPLE777:@user","arn":"arn:aws:sts::123456789012:assumed-role/deploy/@user","accountId":"123456789012","accessKeyId":"@key","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROAEXAMPLEEXAMPLE777","arn":"arn:aws:iam::123456789012:role/deploy","accountId":"123456789012","userName":"deploy"},"attributes":{"creationDate":"2026-01-01T00:00:00Z","mfaAuthenticated":"false"}}},"eventTime":"@time","eventSource":"ec2.amazonaws.com","eventName":"DescribeInstances","awsRegion":"eu-central-1","sourceIPAddress":"@ip","userAgent":"aws-sdk-go/1.55.5 (go1.23.1; linux; amd64)","requestParameters":{"instancesSet":{},"filterSet":{"items":[{"name":"tag:cluster","valueSet":{"items":[{"value":"main"}]}}]}},"responseElements":null,"requestID":"@request","eventID":"@event","readOnly":true,"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"123456789012","eventCategory":"Management","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"ec2.eu-central-1.amazonaws.com"}}"#;

/// What differs from event to event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    User,
    Key,
    Time,
    Address,
    Request,
    Event,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Slot(Slot),
}

/// One kind of event.
#[derive(Debug, Clone)]
struct Template {
    parts: Vec<Part>,
    action: String,
}

/// Where events come from.
#[derive(Debug, Clone)]
pub(crate) struct Trail {
    templates: Vec<Template>,
    /// Whether they are variations of real ones.
    pub(crate) is_real: bool,
}

/// An event of a trail, with what it can be found by.
pub(crate) struct Made {
    pub(crate) record: EventRecord,
    pub(crate) key: String,
}

impl Trail {
    pub(crate) fn find() -> Self {
        let templates = real();
        if !templates.is_empty() {
            return Self {
                templates,
                is_real: true,
            };
        }
        let marks = [
            ("@user", Slot::User),
            ("@key", Slot::Key),
            ("@time", Slot::Time),
            ("@ip", Slot::Address),
            ("@request", Slot::Request),
            ("@event", Slot::Event),
        ];
        let marks: Vec<(String, Slot)> = marks.map(|(mark, slot)| (mark.to_owned(), slot)).into();
        Self {
            templates: vec![template(OWN, &marks, "DescribeInstances".to_owned())],
            is_real: false,
        }
    }

    /// Makes the event of a number, always the same one.
    pub(crate) fn event(&self, n: u64, time_ms: i64) -> Made {
        let chance = mixed(n);
        // Some kinds are far more frequent than others.
        let count = u64::try_from(self.templates.len()).unwrap_or(1);
        let kind = (chance % count)
            .min(chance / 997 % count)
            .min(chance / 991_999 % count);
        let template = self.templates.get(usize::try_from(kind).unwrap_or(0));
        let template = template.expect("within the list");
        let who = mixed(chance % 400);
        let user = format!("person-{:03}", chance % 400);
        let key = format!("AKIA{:016X}", who);
        let address = format!(
            "198.{}.{}.{}",
            18 + who % 2,
            who / 7 % 256,
            chance / 400 % 5
        );
        let time = jiff::Timestamp::from_millisecond(time_ms).expect("a time");
        let time = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let uuid = |seed: u64| {
            let (high, low) = (mixed(seed), mixed(seed ^ u64::MAX));
            format!(
                "{:08x}-{:04x}-4{:03x}-9{:03x}-{:012x}",
                high >> 32,
                high >> 16 & 0xffff,
                high & 0xfff,
                low >> 48 & 0xfff,
                low & 0xffff_ffff_ffff
            )
        };
        let (request, event) = (uuid(n * 2 + 1), uuid(n * 2 + 2));
        let mut raw = String::with_capacity(1_600);
        for part in &template.parts {
            raw.push_str(match part {
                Part::Text(text) => text,
                Part::Slot(Slot::User) => &user,
                Part::Slot(Slot::Key) => &key,
                Part::Slot(Slot::Time) => &time,
                Part::Slot(Slot::Address) => &address,
                Part::Slot(Slot::Request) => &request,
                Part::Slot(Slot::Event) => &event,
            });
        }
        Made {
            record: EventRecord {
                time_ms,
                class_uid: CLASS,
                severity: severity::INFO,
                action: template.action.clone(),
                activity: String::new(),
                actor: format!("arn:aws:iam::123456789012:user/{user}"),
                resource: String::new(),
                src_ip: address,
                native_id: event,
                raw,
            },
            key,
        }
    }
}

/// A number that looks like chance and is the same each time.
pub(crate) fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Cuts a text where one of the marks stands.
fn template(text: &str, marks: &[(String, Slot)], action: String) -> Template {
    let mut parts = vec![Part::Text(text.to_owned())];
    for (mark, slot) in marks.iter().filter(|(mark, _)| !mark.is_empty()) {
        let mut cut = Vec::new();
        for part in parts {
            let Part::Text(text) = part else {
                cut.push(part);
                continue;
            };
            for (n, piece) in text.split(mark.as_str()).enumerate() {
                if n > 0 {
                    cut.push(Part::Slot(*slot));
                }
                cut.push(Part::Text(piece.to_owned()));
            }
        }
        parts = cut;
    }
    Template { parts, action }
}

fn real() -> Vec<Template> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("ZERO_X_SHARED").map_or(own, PathBuf::from);
    let Ok(folder) = std::fs::read_dir(shared.join("corpora/events")) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with("_cloudtrail.jsonl"));
    files.sort();
    let mut templates = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for line in text.lines() {
            let parsed: Option<Value> = serde_json::from_str(line).ok();
            let event = parsed.as_ref().and_then(|line| line.get("event"));
            templates.extend(event.and_then(of_event));
        }
    }
    templates
}

fn of_event(event: &Value) -> Option<Template> {
    let text = event.to_string();
    if !SIZES.contains(&text.len()) {
        return None;
    }
    let at = |path: &str| {
        event
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let marks = [
        ("/eventID", Slot::Event),
        ("/requestID", Slot::Request),
        ("/eventTime", Slot::Time),
        ("/sourceIPAddress", Slot::Address),
        ("/userIdentity/accessKeyId", Slot::Key),
        ("/userIdentity/userName", Slot::User),
    ];
    // A short mark would stand in other words too.
    let marks: Vec<(String, Slot)> = marks
        .into_iter()
        .map(|(path, slot)| (at(path).to_owned(), slot))
        .filter(|(mark, _)| mark.len() > 5)
        .collect();
    Some(template(&text, &marks, at("/eventName").to_owned()))
}
