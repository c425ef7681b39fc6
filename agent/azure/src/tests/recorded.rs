//! The collector against recordings of a real subscription.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::replay::Replay;
use super::small::{Told, settings, source, told_of};
use crate::*;

const SUBSCRIPTION: &str = "ea42f556-5106-4743-99b0-c129bfa71a47";

/// Returns the recorded resources of a type by their id in lower case, the first of each: what
/// the replay server answers with.
fn recorded(folder: &Path, kind: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut paths: Vec<_> = std::fs::read_dir(folder.join("recorded/azure"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let url = row["url"].as_str().unwrap();
            if !url.starts_with("https://management.azure.com/") {
                continue;
            }
            let list = row["body"]["value"].as_array().cloned();
            for item in list.unwrap_or_else(|| vec![row["body"].clone()]) {
                let id = item["id"].as_str().unwrap_or_default().to_lowercase();
                let type_name = item["type"].as_str().unwrap_or_default();
                let of_subscription = format!("/subscriptions/{SUBSCRIPTION}/");
                if type_name.eq_ignore_ascii_case(kind) && id.starts_with(&of_subscription) {
                    found.entry(id).or_insert(item);
                }
            }
        }
    }
    found
}

/// Checks that what was told is what was recorded: each value is the same, and each null is a
/// value that the recording does not have.
#[track_caller]
fn same(told: &Value, recorded: &Value, path: &str) {
    match (told, recorded) {
        (Value::Object(told), Value::Object(recorded)) => {
            for (name, value) in told {
                let there = recorded.get(name).unwrap_or(&Value::Null);
                same(value, there, &format!("{path}.{name}"));
            }
        }
        (Value::Array(told), Value::Array(recorded)) => {
            assert_eq!(told.len(), recorded.len(), "{path}");
            for (told, recorded) in told.iter().zip(recorded) {
                same(told, recorded, path);
            }
        }
        (Value::String(told), Value::String(recorded)) if told != recorded => {
            // Instants are written the shortest way.
            let instant = |text: &str| text.parse::<Timestamp>().ok();
            let (told_at, recorded_at) = (instant(told), instant(recorded));
            assert!(told_at.is_some(), "{path}: {told} for {recorded}");
            assert_eq!(told_at, recorded_at, "{path}");
        }
        (told, recorded) => assert_eq!(told, recorded, "{path}"),
    }
}

fn check(told: &Told, folder: &Path) {
    let codes: Vec<&str> = told
        .summary
        .faults
        .iter()
        .map(|fault| fault.code.as_str())
        .collect();
    assert_eq!(codes, ["incomplete"]);
    let (mut documents, mut incomplete) = (0, 0);
    for (type_name, kind) in TYPES {
        for (id, mut want) in recorded(folder, kind) {
            documents += 1;
            let document = told.documents.iter().find(|document| {
                document.type_name == type_name && document.native_id.to_lowercase() == id
            });
            let document = document.unwrap_or_else(|| panic!("{id} was not told"));
            if want["properties"].is_null() {
                // Recorded from a list that shows no settings, which is not to say that there are
                // none.
                incomplete += 1;
                assert_eq!(document.config, json!({}), "{id}");
                assert_eq!(document.gaps["config.properties"].error, "incomplete");
                continue;
            }
            // Resource Graph writes the group as a column of its own.
            want["resourceGroup"] = Value::from(id.split('/').nth(4).unwrap());
            same(&document.config, &want, &id);
            assert!(document.gaps.is_empty(), "{id}: {:?}", document.gaps);
            let tags: BTreeMap<String, String> =
                serde_json::from_value(want["tags"].clone()).unwrap_or_default();
            assert_eq!(document.tags, Some(tags), "{id}");
            assert_eq!(document.name.to_lowercase(), id.rsplit('/').next().unwrap());
            let ended = format!("ended {}", document.urn.scope);
            assert!(told.outline.contains(&ended), "{id}");
        }
    }
    assert_eq!(told.documents.len(), documents);
    assert!(incomplete > 0 && documents > 50 + incomplete, "{documents}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_subscription_is_told_as_it_was_recorded() {
    let name = "a_recorded_subscription_is_told_as_it_was_recorded";
    if let Some(replay) = Replay::start(name, &[]).await {
        let source = source(settings(&replay.base, &[SUBSCRIPTION]), 3).await;
        let told = told_of(&source).await;
        // In pages of three.
        assert!(told.summary.calls > 20, "{}", told.summary.calls);
        check(&told, &replay.folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_subscription_behind_throttling_is_told_just_the_same() {
    let name = "a_recorded_subscription_behind_throttling_is_told_just_the_same";
    let arguments = [
        "--page-size",
        "20",
        "--fault",
        "429:0.1,503:0.1",
        "--seed",
        "7",
    ];
    if let Some(replay) = Replay::start(name, &arguments).await {
        let source = source(settings(&replay.base, &[SUBSCRIPTION]), 8).await;
        let told = told_of(&source).await;
        check(&told, &replay.folder);
    }
}
