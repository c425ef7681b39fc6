//! What is told when Google answers, refuses, breaks off or answers nonsense.

use std::collections::BTreeMap;

use bytes::Bytes;
use collect::{Fact, Output};
use http::Response;
use serde_json::{Value, json};

use super::google::*;
use super::replay::{answer, outline, sync};
use crate::*;

const RESOURCE: &str = "cloudasset:assets.list:RESOURCE";
const IAM_POLICY: &str = "cloudasset:assets.list:IAM_POLICY";

/// The outline of a sync in which all is well.
const WHOLE: [&str; 12] = [
    "began gcp/p101/global/cloudresourcemanager.project",
    "document gcp/p101/global/cloudresourcemanager.project/p101",
    "ended gcp/p101/global/cloudresourcemanager.project",
    "began gcp/p102/global/cloudresourcemanager.project",
    "document gcp/p102/global/cloudresourcemanager.project/p102",
    "ended gcp/p102/global/cloudresourcemanager.project",
    "began gcp/p101/global/storage.bucket",
    "began gcp/p102/global/storage.bucket",
    "document gcp/p101/global/storage.bucket/logs",
    "document gcp/p102/global/storage.bucket/data",
    "ended gcp/p101/global/storage.bucket",
    "ended gcp/p102/global/storage.bucket",
];

fn failed(scope: &str, call: &str, code: &str) -> String {
    format!("failed {scope}: {call} answered {code}")
}

/// Nothing but the parent's two scopes, failed.
fn dark(account: &str, code: &str) -> Vec<String> {
    let scopes = ["cloudresourcemanager.project", "storage.bucket"];
    let scopes = scopes.map(|kind| format!("gcp/{account}/global/{kind}"));
    scopes
        .iter()
        .flat_map(|scope| [format!("began {scope}"), failed(scope, RESOURCE, code)])
        .collect()
}

#[tokio::test]
async fn two_projects_with_a_bucket_each_are_told_whole() {
    let told = told(|_| None).await;
    assert_eq!(told.outline, WHOLE);
    let logs = told.document("logs");
    assert_eq!(logs.native_id, "//storage.googleapis.com/logs");
    assert_eq!(logs.config["projectNumber"], "101");
    assert_eq!(logs.config["versioning"], Value::Null);
    assert_eq!(
        logs.config["iamPolicy"],
        json!({"bindings": [
            {"role": "roles/viewer", "members": ["allUsers"], "condition": null},
        ]})
    );
    assert_eq!(logs.tags, Some(BTreeMap::new()));
    assert_eq!(
        logs.links[0].urn.to_string(),
        "gcp/p101/global/cloudresourcemanager.project/p101"
    );
    let project = told.document("p102");
    assert_eq!(project.name, "Project 102");
    assert_eq!(project.config["iamPolicy"], Value::Null);
    assert_eq!(
        project.config["ancestors"],
        json!(["projects/102", "organizations/9"])
    );
    assert_eq!(project.tags.as_ref().unwrap()["env"], "prod");
    for document in &told.documents {
        assert_eq!(document.gaps, BTreeMap::new(), "{}", document.urn);
    }
    assert_eq!(told.summary.documents, 4);
    assert_eq!(told.summary.scopes_ended, 4);
    assert_eq!(told.summary.calls, 6);
    assert_eq!(told.summary.faults, []);
}

#[tokio::test]
async fn every_list_is_of_the_moment_that_the_first_was_of() {
    let (base, asked) = google(Box::new(|_| None)).await;
    told_of(&source(&base, organisation())).await;
    let asked = asked.lock().unwrap().clone();
    let (projects, others) = asked.split_at(2);
    // The token of a page belongs to the parameters of the first.
    for asked in projects {
        assert_eq!(asked.moment, None, "{asked:?}");
    }
    for asked in others {
        assert_eq!(asked.moment.as_deref(), Some(MOMENT), "{asked:?}");
    }
    assert_eq!(others.len(), 4);
}

#[tokio::test]
async fn without_the_right_to_list_resources_both_types_are_dark() {
    let deny =
        |asked: &Asked| (asked.content == "RESOURCE").then(|| refusal(403, "PERMISSION_DENIED"));
    let told = told(deny).await;
    assert_eq!(told.outline, dark("organizations%2F9", "PERMISSION_DENIED"));
    assert_eq!(told.summary.faults.len(), 1);

    let (base, _) = google(Box::new(deny)).await;
    let project = source(&base, Parent::Project("p101".to_owned()));
    let told = told_of(&project).await;
    assert_eq!(told.outline, dark("p101", "PERMISSION_DENIED"));
}

#[tokio::test]
async fn without_the_right_to_list_policies_every_document_has_one_gap() {
    let told =
        told(|asked| (asked.content == "IAM_POLICY").then(|| refusal(403, "PERMISSION_DENIED")))
            .await;
    assert_eq!(told.outline, WHOLE);
    for document in &told.documents {
        let gaps: Vec<_> = document.gaps.iter().collect();
        let [(path, gap)] = gaps.as_slice() else {
            panic!("{gaps:?}");
        };
        assert_eq!(*path, "config.iamPolicy");
        assert_eq!(
            (gap.call.as_str(), gap.error.as_str()),
            (IAM_POLICY, "PERMISSION_DENIED")
        );
        assert_eq!(document.config.get("iamPolicy"), None);
    }
    assert_eq!(told.documents.len(), 4);
}

#[tokio::test]
async fn each_page_that_is_refused_is_a_gap_or_a_failed_scope_and_the_rest_is_told() {
    for (status, code) in [(403, "PERMISSION_DENIED"), (429, "RESOURCE_EXHAUSTED")] {
        let refused = move |which: &'static str| {
            told(move |asked| (asked.text() == which).then(|| refusal(status, code)))
        };
        // A second page of projects: which projects there are is unknown.
        let told = refused("RESOURCE Project 1").await;
        assert_eq!(told.outline, dark("organizations%2F9", code));

        let told = refused("IAM_POLICY Project 0").await;
        assert_eq!(told.outline, WHOLE);
        assert_eq!(told.document("p102").gaps["config.iamPolicy"].error, code);
        assert!(told.document("logs").gaps.is_empty());

        let told = refused("IAM_POLICY Bucket 0").await;
        assert_eq!(told.outline, WHOLE);
        assert_eq!(told.document("data").gaps["config.iamPolicy"].error, code);
        assert!(told.document("p101").gaps.is_empty());

        // The first page of buckets was told; that it is all was not.
        let told = refused("RESOURCE Bucket 1").await;
        let mut want: Vec<String> = WHOLE[..9].iter().map(|line| (*line).to_owned()).collect();
        want.push(failed("gcp/p101/global/storage.bucket", RESOURCE, code));
        want.push(failed("gcp/p102/global/storage.bucket", RESOURCE, code));
        assert_eq!(told.outline, want);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_list_never_reads_as_an_empty_one() {
    let bodies: [&'static str; 8] = [
        "",
        "{}",
        "[]",
        "null",
        "<html>sign in</html>",
        r#"{"readTime": "2026-01-02T03:04:05Z", "assets": [{"name": "x""#,
        r#"{"readTime": "2026-01-02T03:04:05Z", "assets": "none"}"#,
        r#"{"assets": []}"#,
    ];
    for body in bodies {
        let nonsense = move |which: &'static str| {
            told(move |asked| {
                let is_it = asked.content == "RESOURCE" && asked.kind == which;
                is_it.then(|| Response::new(Bytes::from(body)))
            })
        };
        let told = nonsense("Project").await;
        assert_eq!(
            told.outline,
            dark("organizations%2F9", "unreadable"),
            "{body}"
        );
        let told = nonsense("Bucket").await;
        assert_eq!(
            told.outline[8..],
            [
                failed("gcp/p101/global/storage.bucket", RESOURCE, "unreadable"),
                failed("gcp/p102/global/storage.bucket", RESOURCE, "unreadable"),
            ],
            "{body}"
        );
    }
}

#[tokio::test]
async fn no_project_is_a_wrong_place_and_no_bucket_is_a_fact() {
    let empty = |which: &'static str| {
        told(move |asked| {
            let is_it = asked.content == "RESOURCE" && asked.kind == which;
            is_it.then(|| answer(200, &json!({"readTime": MOMENT})))
        })
    };
    let told = empty("Project").await;
    assert_eq!(told.outline, dark("organizations%2F9", "no_project_listed"));

    let told = empty("Bucket").await;
    let ended: Vec<&str> = WHOLE[..8].iter().chain(&WHOLE[10..]).copied().collect();
    assert_eq!(told.outline, ended);
    assert_eq!(told.summary.faults, []);
}

#[tokio::test]
async fn a_list_that_goes_round_in_a_circle_is_not_whole() {
    let told = told(|asked| {
        (asked.text() == "RESOURCE Bucket 1").then(|| {
            let mut page = page(asked);
            page["nextPageToken"] = json!("1");
            answer(200, &page)
        })
    })
    .await;
    let want = failed("gcp/p102/global/storage.bucket", RESOURCE, "repeated_page");
    assert_eq!(told.outline.last(), Some(&want));
    assert_eq!(told.summary.calls, 6);
}

/// A Google whose buckets are these.
async fn with_buckets(buckets: Vec<Value>) -> Told {
    told(move |asked| {
        let is_it = asked.content == "RESOURCE" && asked.kind == "Bucket";
        is_it.then(|| answer(200, &last_page(&buckets)))
    })
    .await
}

#[tokio::test]
async fn a_bucket_that_belongs_nowhere_spoils_what_it_could_belong_to() {
    let ends = |told: &Told| {
        let ends = told.outline.iter().skip(8);
        let ends = ends.filter(|line| !line.starts_with("document"));
        ends.cloned().collect::<Vec<_>>()
    };
    let (first, second) = (
        "gcp/p101/global/storage.bucket",
        "gcp/p102/global/storage.bucket",
    );

    // Of a project that is not listed: nothing is known of that one, all of the others.
    let told = with_buckets(vec![bucket("logs", 101), bucket("other", 777)]).await;
    let parent = "gcp/organizations%2F9/global/storage.bucket";
    assert_eq!(
        ends(&told),
        [
            format!("ended {first}"),
            format!("ended {second}"),
            format!("began {parent}"),
            failed(parent, RESOURCE, "project_not_listed"),
        ]
    );

    // Of no project at all: it may be of any.
    let mut lost = bucket("lost", 101);
    lost.as_object_mut().unwrap().remove("ancestors");
    lost["resource"]["data"] = json!({"id": "lost", "name": "lost"});
    let told = with_buckets(vec![bucket("logs", 101), lost]).await;
    let code = "bucket_without_project";
    assert_eq!(
        ends(&told),
        [
            failed(first, RESOURCE, code),
            failed(second, RESOURCE, code)
        ]
    );

    // Without a name: its project is not whole.
    let mut nameless = bucket("", 102);
    nameless["resource"]["data"]["name"] = Value::Null;
    let told = with_buckets(vec![bucket("logs", 101), nameless]).await;
    assert_eq!(
        ends(&told),
        [
            format!("ended {first}"),
            failed(second, RESOURCE, "bucket_without_name"),
        ]
    );
}

#[tokio::test]
async fn a_bucket_whose_data_is_not_there_or_not_whole_has_gaps_and_no_nulls() {
    let mut without = bucket("a", 101);
    without["resource"] = Value::Null;
    let mut incomplete = bucket("b", 101);
    incomplete["resource"]["data"]["id"] = Value::Null;
    let mut odd = bucket("c", 101);
    odd["resource"]["data"]["iamConfiguration"] = json!("canary");
    odd["resource"]["data"]["labels"] = json!(["canary"]);
    let told = with_buckets(vec![without, incomplete, odd]).await;

    for (id, code) in [("a", "no_data"), ("b", "incomplete")] {
        let document = told.document(id);
        // The policy is another call's answer.
        assert_eq!(document.config, json!({"iamPolicy": null}), "{id}");
        assert_eq!(document.tags, None);
        assert_eq!(document.gaps["config.iamConfiguration"].error, code);
        assert_eq!(document.gaps["tags"].error, code);
    }
    let document = told.document("c");
    let gap = &document.gaps["config.iamConfiguration"];
    assert!(gap.error.starts_with("unexpected shape"), "{gap:?}");
    assert_eq!(document.config.get("iamConfiguration"), None);
    assert_eq!(document.config["location"], "EU");
    assert_eq!(document.gaps["tags"].error, "unreadable");
    let text = serde_json::to_string(document).unwrap();
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_policy_that_is_not_whole_is_a_gap() {
    let told = told(|asked| {
        (asked.text() == "IAM_POLICY Bucket 0").then(|| {
            let kind = "storage.googleapis.com/Bucket";
            let mut halved = policy("//storage.googleapis.com/logs", kind);
            halved["iamPolicy"]["bindings"][0] = json!({"role": "roles/viewer"});
            let mut absent = policy("//storage.googleapis.com/data", kind);
            absent.as_object_mut().unwrap().remove("iamPolicy");
            answer(200, &last_page(&[halved, absent]))
        })
    })
    .await;
    assert_eq!(
        told.document("logs").gaps["config.iamPolicy"].error,
        "incomplete"
    );
    assert_eq!(
        told.document("data").gaps["config.iamPolicy"].error,
        "no_data"
    );
}

#[tokio::test]
async fn an_asset_that_stands_on_two_pages_is_told_once() {
    let told = with_buckets(vec![bucket("logs", 101), bucket("logs", 101)]).await;
    assert_eq!(told.documents.len(), 3);
}

#[tokio::test]
async fn a_project_that_was_not_asked_for_is_not_told() {
    let (base, _) = google(Box::new(|_| None)).await;
    // By id and by number.
    for asked in ["p101", "101"] {
        let told = told_of(&source(&base, Parent::Project(asked.to_owned()))).await;
        let accounts: Vec<&str> = told
            .documents
            .iter()
            .map(|document| document.account.as_str())
            .collect();
        assert_eq!(accounts, ["p101", "p101"], "{asked}");
        let opened = told.outline.iter().filter(|line| line.starts_with("began"));
        assert_eq!(opened.count(), 2, "{:?}", told.outline);
        let codes: Vec<&str> = told
            .summary
            .faults
            .iter()
            .map(|fault| fault.code.as_str())
            .collect();
        assert_eq!(codes, ["project_not_asked_for", "project_not_listed"]);
    }
}

#[tokio::test]
async fn a_refused_token_and_nobody_there_end_the_sync_and_say_so() {
    let (base, _) = google(Box::new(|_| Some(refusal(401, "UNAUTHENTICATED")))).await;
    let (outcome, facts) = sync(&source(&base, organisation())).await;
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "no usable credentials: Google refused the token (UNAUTHENTICATED)"
    );
    assert_eq!(outline(&facts), Vec::<String>::new());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let gone = source(&base, organisation());
    let (outcome, _) = sync(&gone).await;
    let error = outcome.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot reach {base}: ")),
        "{error}"
    );
    assert!(gone.probe().await.is_err());
}

#[tokio::test]
async fn a_probe_tries_each_permission_with_the_smallest_page() {
    let (base, asked) = google(Box::new(|asked: &Asked| {
        (asked.content == "IAM_POLICY").then(|| {
            let reason = json!([{"reason": "IAM_PERMISSION_DENIED"}]);
            let error = json!({"status": "PERMISSION_DENIED", "details": reason});
            answer(403, &json!({"error": error}))
        })
    }))
    .await;
    let probes = source(&base, organisation()).probe().await.unwrap();
    let text: Vec<String> = probes
        .into_iter()
        .map(|probe| format!("{} {} {:?}", probe.call, probe.permission, probe.refused))
        .collect();
    assert_eq!(
        text,
        [
            format!("{RESOURCE} cloudasset.assets.listResource None"),
            format!("{IAM_POLICY} cloudasset.assets.listIamPolicy Some(\"IAM_PERMISSION_DENIED\")"),
        ]
    );
    let sizes: Vec<String> = asked
        .lock()
        .unwrap()
        .iter()
        .map(|asked| asked.size.clone())
        .collect();
    assert_eq!(sizes, ["1", "1"]);
}

#[tokio::test]
async fn a_sync_that_is_stopped_leaves_its_scopes_open() {
    let (base, _) = google(Box::new(|_| None)).await;
    let source = source(&base, organisation());
    let (out, mut facts) = Output::channel(1);
    let stop = CancellationToken::new();
    let reader = async {
        let mut told = Vec::new();
        while let Some(fact) = facts.recv().await {
            if matches!(&fact, Fact::Began { scope } if scope.kind == "storage.bucket") {
                stop.cancel();
            }
            told.push(fact);
        }
        told
    };
    let run = async {
        let summary = source.sync(&out, &stop).await;
        drop(out);
        summary
    };
    let (summary, told) = tokio::join!(run, reader);
    assert_eq!(summary.unwrap().scopes_ended, 2);
    let told = outline(&told);
    assert!(told.iter().any(|line| line == WHOLE[6]), "{told:?}");
    let closed = told.iter().filter(|line| {
        line.contains("storage.bucket") && (line.starts_with("ended") || line.starts_with("failed"))
    });
    assert_eq!(closed.count(), 0, "{told:?}");
}

#[tokio::test]
async fn a_receiver_that_is_gone_ends_the_sync() {
    let (base, _) = google(Box::new(|_| None)).await;
    let (out, facts) = Output::channel(1);
    drop(facts);
    let outcome = source(&base, organisation())
        .sync(&out, &CancellationToken::new())
        .await;
    assert!(matches!(outcome, Err(CollectError::Stopped)), "{outcome:?}");
}

#[tokio::test]
async fn a_source_shows_no_token() {
    let source = source("http://127.0.0.1:1", organisation());
    assert!(!format!("{source:?}").contains("canary"));
}
