//! What is told when Azure answers, refuses, breaks off or answers nonsense.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use collect::{Fact, Output};
use http::Response;
use serde_json::{Value, json};

use super::replay::{answer, outline, sync};
use super::small::*;
use crate::*;

const QUERY: &str = "resourcegraph:Resources";
const SUBSCRIPTION: &str = "subscription:Subscriptions_Get";
const GROUPS: &str = "microsoft.network/networksecuritygroups";
const ACCOUNTS: &str = "microsoft.storage/storageaccounts";
const KINDS: [&str; 2] = ["network.network-security-group", "storage.account"];

fn scope(account: &str, kind: &str) -> String {
    format!("azure/{account}/global/{kind}")
}

/// The lines that close every scope of an account, ended.
fn ended(account: &str) -> [String; 2] {
    KINDS.map(|kind| format!("ended {}", scope(account, kind)))
}

/// The same, failed.
fn failed(account: &str, call: &str, code: &str) -> [String; 2] {
    KINDS.map(|kind| format!("failed {}: {call} answered {code}", scope(account, kind)))
}

fn sorted(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort();
    lines
}

#[track_caller]
fn closes(told: &Told, want: impl IntoIterator<Item = String>) {
    assert_eq!(sorted(told.closed()), sorted(want));
}

fn is_query(asked: &Asked, kind: &str) -> bool {
    matches!(asked, Asked::Query(query) if query.kind == kind)
}

#[tokio::test]
async fn two_subscriptions_are_told_whole_over_all_pages() {
    let told = told(|_| None).await;
    closes(&told, ended(ONE).into_iter().chain(ended(TWO)));
    let urns: Vec<String> = told
        .documents
        .iter()
        .map(|document| document.urn.to_string())
        .collect();
    let urn = |account, kind, name| format!("{}/rg%2F{name}", scope(account, kind));
    assert_eq!(
        urns,
        [
            urn(ONE, KINDS[0], "thing0"),
            urn(TWO, KINDS[0], "thing1"),
            urn(ONE, KINDS[1], "thing0"),
            urn(TWO, KINDS[1], "thing1"),
        ]
    );
    let account = told.document(&urns[3]);
    assert_eq!(account.name, "Thing1");
    assert_eq!(account.tags.as_ref().unwrap()["env"], "prod");
    assert_eq!(
        account.config["properties"]["supportsHttpsTrafficOnly"],
        true
    );
    assert_eq!(
        account.config["properties"]["minimumTlsVersion"],
        Value::Null
    );
    assert_eq!(account.config["properties"].get("primaryLocation"), None);
    assert_eq!(account.config["sku"]["tier"], "Standard");
    assert_eq!(
        account.native_id,
        format!(
            "/subscriptions/{TWO}/resourceGroups/RG/providers/Microsoft.Storage/storageAccounts/Thing1"
        )
    );
    for document in &told.documents {
        assert_eq!(document.gaps, BTreeMap::new(), "{}", document.urn);
    }
    assert_eq!(told.summary.documents, 4);
    assert_eq!(told.summary.scopes_ended, 4);
    // Two subscriptions, and two pages of two types.
    assert_eq!(told.summary.calls, 6);
    assert_eq!(told.summary.faults, []);
}

#[tokio::test]
async fn without_subscriptions_all_that_the_identity_sees_are_read() {
    let (base, asked) = azure(|_| None).await;
    let told = told_of(&source(settings(&base, &[]), 3).await).await;
    closes(&told, ended(ONE).into_iter().chain(ended(TWO)));
    let asked = asked.lock().unwrap();
    // The link to the second page names Microsoft's host, and the endpoint was asked.
    assert!(asked.contains(&Asked::Subscriptions(1)));
    let single = |asked: &&Asked| matches!(asked, Asked::Subscription(_));
    assert_eq!(asked.iter().find(single), None);
}

#[tokio::test]
async fn a_link_to_another_host_never_sees_the_token() {
    for link in [
        "https://management.azure.com.evil.example/subscriptions?api-version=1",
        "https://evil.example/subscriptions?api-version=1",
        "http://management.azure.com/subscriptions?api-version=1",
        "//evil.example/",
    ] {
        let (base, _) = azure(move |asked| {
            matches!(asked, Asked::Subscriptions(_))
                .then(|| answer(200, &json!({"value": [], "nextLink": link})))
        })
        .await;
        let told = told_of(&source(settings(&base, &[]), 3).await).await;
        closes(
            &told,
            failed("tenants%2Fcontoso.example", SUBSCRIPTION, "foreign_link"),
        );
    }
}

#[tokio::test]
async fn subscriptions_that_cannot_be_listed_leave_the_tenant_dark() {
    for (status, code) in [(403, "AuthorizationFailed"), (429, "TooManyRequests")] {
        let (base, _) = azure(move |asked| {
            matches!(asked, Asked::Subscriptions(_)).then(|| refusal(status, code))
        })
        .await;
        let told = told_of(&source(settings(&base, &[]), 3).await).await;
        closes(
            &told,
            failed("tenants%2Fcontoso.example", SUBSCRIPTION, code),
        );
        assert_eq!(told.documents.len(), 0);
    }
}

#[tokio::test]
async fn an_identity_that_sees_no_subscription_is_told_what_to_do() {
    let (base, _) = azure(|asked| {
        matches!(asked, Asked::Subscriptions(_)).then(|| answer(200, &json!({"value": []})))
    })
    .await;
    let (outcome, _) = sync(&source(settings(&base, &[]), 3).await).await;
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "subscriptions cannot be used: the identity sees none; give it the role Reader on one"
    );
}

#[tokio::test]
async fn a_subscription_that_cannot_be_seen_is_dark_and_the_other_is_told() {
    for (status, code) in [(403, "AuthorizationFailed"), (404, "SubscriptionNotFound")] {
        let (base, asked) = azure(move |asked| {
            (*asked == Asked::Subscription(TWO.to_owned())).then(|| refusal(status, code))
        })
        .await;
        let told = told_of(&source(settings(&base, &[ONE, TWO]), 3).await).await;
        closes(
            &told,
            ended(ONE)
                .into_iter()
                .chain(failed(TWO, SUBSCRIPTION, code)),
        );
        let asked = asked.lock().unwrap();
        for asked in asked.iter() {
            if let Asked::Query(query) = asked {
                assert_eq!(query.subscriptions, [ONE]);
            }
        }
    }
    // An answer about another subscription is none about this one.
    let told = told(|asked| {
        (*asked == Asked::Subscription(TWO.to_owned()))
            .then(|| answer(200, &json!({"subscriptionId": ONE})))
    })
    .await;
    closes(
        &told,
        ended(ONE)
            .into_iter()
            .chain(failed(TWO, SUBSCRIPTION, "unreadable")),
    );
}

#[tokio::test]
async fn each_query_that_is_refused_fails_the_scopes_of_its_type() {
    for (status, code) in [
        (403, "AuthorizationFailed"),
        (400, "BadRequest"),
        (429, "RateLimiting"),
    ] {
        for (index, kind) in [GROUPS, ACCOUNTS].into_iter().enumerate() {
            for page in [0, 1] {
                let told = told(move |asked| {
                    let refused =
                        |asked: &Asked| matches!(asked, Asked::Query(query) if query.page == page);
                    (is_query(asked, kind) && refused(asked)).then(|| refusal(status, code))
                })
                .await;
                let want = [ONE, TWO].into_iter().flat_map(|account| {
                    let mut lines = ended(account);
                    lines[index] = failed(account, QUERY, code)[index].clone();
                    lines
                });
                closes(&told, want);
                // What came before is told: it was read.
                assert_eq!(told.documents.len(), 2 + page);
            }
        }
    }
}

/// Syncs with one answer in place of every page of storage accounts.
async fn with_accounts(response: impl Fn() -> Response<Bytes> + Send + Sync + 'static) -> Told {
    told(move |asked| is_query(asked, ACCOUNTS).then(&response)).await
}

/// Checks that the scopes of storage accounts failed with this code, and only these.
#[track_caller]
fn accounts_failed(told: &Told, code: &str) {
    let want = [ONE, TWO].into_iter().flat_map(|account| {
        let mut lines = ended(account);
        lines[1] = failed(account, QUERY, code)[1].clone();
        lines
    });
    closes(told, want);
}

#[tokio::test]
async fn an_answer_that_is_no_list_never_reads_as_an_empty_one() {
    let bodies: [&'static str; 9] = [
        "",
        "{}",
        "[]",
        "null",
        "<html>sign in</html>",
        r#"{"totalRecords": 0, "data": []}"#,
        r#"{"totalRecords": 0, "resultTruncated": "false", "data": [{"id": "x""#,
        r#"{"totalRecords": 0, "resultTruncated": "false", "data": {"columns": [], "rows": []}}"#,
        r#"{"totalRecords": 0, "resultTruncated": "maybe", "data": []}"#,
    ];
    for body in bodies {
        let told = with_accounts(move || Response::new(Bytes::from(body))).await;
        accounts_failed(&told, "unreadable");
    }
}

#[tokio::test]
async fn an_empty_list_is_a_fact() {
    let told = with_accounts(|| answer(200, &last_page(&[]))).await;
    closes(&told, ended(ONE).into_iter().chain(ended(TWO)));
    assert_eq!(told.documents.len(), 2);
    assert_eq!(told.summary.faults, []);
}

#[tokio::test]
async fn a_result_that_is_cut_is_never_a_whole_one() {
    // It says so itself.
    let told = with_accounts(|| {
        let mut page = last_page(&[row(ACCOUNTS, ONE, "a")]);
        page["resultTruncated"] = json!("true");
        answer(200, &page)
    })
    .await;
    accounts_failed(&told, "truncated");

    // It says that there are more rows than came.
    let told = with_accounts(|| {
        let mut page = last_page(&[row(ACCOUNTS, ONE, "a")]);
        page["totalRecords"] = json!(2);
        answer(200, &page)
    })
    .await;
    accounts_failed(&told, "truncated");
    assert_eq!(told.documents.len(), 3);

    // The number is right, and one row came twice in place of another.
    let told = with_accounts(|| {
        let a = row(ACCOUNTS, ONE, "a");
        answer(200, &last_page(&[a.clone(), a]))
    })
    .await;
    accounts_failed(&told, "truncated");
    assert_eq!(told.documents.len(), 3);

    // More subscriptions than one query may have.
    let told = with_accounts(|| {
        let mut answer = answer(200, &last_page(&[]));
        let limit = "x-ms-tenant-subscription-limit-hit";
        answer.headers_mut().insert(limit, "true".parse().unwrap());
        answer
    })
    .await;
    accounts_failed(&told, "truncated");

    // Round in a circle.
    let told = with_accounts(|| {
        let mut page = last_page(&[row(ACCOUNTS, ONE, "a")]);
        page["$skipToken"] = json!("7");
        answer(200, &page)
    })
    .await;
    accounts_failed(&told, "repeated_page");
}

#[tokio::test]
async fn a_row_that_belongs_nowhere_makes_the_answer_one_to_another_question() {
    let other = "33333333-0000-0000-0000-000000000003";
    for (rows, code) in [
        (
            vec![row(ACCOUNTS, other, "a")],
            "subscription_not_asked_for",
        ),
        (vec![row(GROUPS, ONE, "a")], "row_without_id"),
        (vec![json!({"name": "a"})], "row_without_id"),
        (vec![json!({"id": 7})], "row_without_id"),
    ] {
        let told = with_accounts(move || answer(200, &last_page(&rows))).await;
        accounts_failed(&told, code);
        assert_eq!(told.documents.len(), 2, "{code}");
    }
}

#[tokio::test]
async fn a_row_that_is_not_whole_has_gaps_and_no_nulls() {
    let told = told(|asked| {
        is_query(asked, GROUPS).then(|| {
            let mut without = row(GROUPS, ONE, "without");
            without["properties"] = json!({"subnets": []});
            let mut rule = row(GROUPS, ONE, "rule");
            rule["properties"]["securityRules"] = json!([{"name": "canary"}]);
            let mut odd = row(GROUPS, TWO, "odd");
            odd["properties"]["securityRules"] = json!("canary");
            odd["tags"] = json!(["canary"]);
            answer(200, &last_page(&[without, rule, odd]))
        })
    })
    .await;
    closes(&told, ended(ONE).into_iter().chain(ended(TWO)));
    for name in ["without", "rule"] {
        let document = told.document(&format!("{}/rg%2F{name}", scope(ONE, KINDS[0])));
        assert_eq!(document.config, json!({}));
        assert_eq!(document.gaps["config.properties"].error, "incomplete");
        assert_eq!(document.gaps["tags"].error, "incomplete");
    }
    let odd = told.document(&format!("{}/rg%2Fodd", scope(TWO, KINDS[0])));
    let gap = &odd.gaps["config.properties.securityRules"];
    assert!(gap.error.starts_with("unexpected shape"), "{gap:?}");
    assert_eq!(odd.config["properties"].get("securityRules"), None);
    assert_eq!(odd.gaps["tags"].error, "unreadable");
    let text = serde_json::to_string(odd).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let codes: Vec<&str> = told
        .summary
        .faults
        .iter()
        .map(|fault| fault.code.as_str())
        .collect();
    assert_eq!(codes, ["incomplete", "unreadable"]);
}

#[tokio::test]
async fn only_the_resource_groups_that_were_allowed_are_told_and_no_scope_is_whole() {
    let (base, asked) = azure(|asked| {
        // A server that does not filter.
        is_query(asked, ACCOUNTS).then(|| {
            let mut other = row(ACCOUNTS, ONE, "other");
            let id = other["id"].as_str().unwrap().replace("/RG/", "/private/");
            other["id"] = json!(id);
            answer(200, &last_page(&[row(ACCOUNTS, ONE, "a"), other]))
        })
    })
    .await;
    let mut settings = settings(&base, &[ONE]);
    settings.resource_groups = vec!["Rg".to_owned()];
    let told = told_of(&source(settings, 3).await).await;
    let why =
        "only these groups are read; nothing outside them is known and nothing is told as gone";
    closes(&told, failed(ONE, "resource_groups", why));
    assert_eq!(told.summary.scopes_ended, 0);
    assert_eq!(told.documents.len(), 2);
    for document in &told.documents {
        assert_eq!(document.gaps, BTreeMap::new(), "{}", document.urn);
    }
    let asked = asked.lock().unwrap();
    let text = asked.iter().find_map(|asked| match asked {
        Asked::Query(query) => Some(query.text.clone()),
        Asked::Token | Asked::Subscriptions(_) | Asked::Subscription(_) => None,
    });
    let text = text.unwrap();
    assert!(
        text.contains("| where resourceGroup in~ ('rg') |"),
        "{text}"
    );
}

#[tokio::test]
async fn a_used_up_quota_is_waited_for() {
    let (base, _) = azure(|asked| {
        is_query(asked, GROUPS).then(|| {
            let mut answer = answer(200, &last_page(&[]));
            let headers = answer.headers_mut();
            headers.insert("x-ms-user-quota-remaining", "0".parse().unwrap());
            headers.insert("x-ms-user-quota-resets-after", "00:00:01".parse().unwrap());
            answer
        })
    })
    .await;
    let told = told_of(&source(settings(&base, &[ONE]), 3).await).await;
    closes(&told, ended(ONE));
    assert!(
        told.summary.took >= Duration::from_millis(900),
        "{:?}",
        told.summary.took
    );
}

#[tokio::test]
async fn a_refused_token_and_nobody_there_end_the_sync_and_say_so() {
    let (base, _) = azure(|asked| {
        (!matches!(asked, Asked::Token)).then(|| refusal(401, "InvalidAuthenticationToken"))
    })
    .await;
    for subscriptions in [&[ONE][..], &[]] {
        let source = source(settings(&base, subscriptions), 3).await;
        let (outcome, facts) = sync(&source).await;
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "no usable credentials: Azure refused the token (InvalidAuthenticationToken)"
        );
        assert_eq!(outline(&facts), Vec::<String>::new());
        assert!(source.probe().await.is_err());
    }
}

#[tokio::test]
async fn a_probe_tries_each_type_with_the_smallest_page() {
    let (base, asked) =
        azure(|asked| is_query(asked, ACCOUNTS).then(|| refusal(403, "AuthorizationFailed"))).await;
    let source = source(settings(&base, &[ONE]), 3).await;
    let probes = source.probe().await.unwrap();
    let text: Vec<String> = probes
        .into_iter()
        .map(|probe| format!("{} {} {:?}", probe.call, probe.permission, probe.refused))
        .collect();
    assert_eq!(
        text,
        [
            "subscription:Subscriptions_Get Microsoft.Resources/subscriptions/read None",
            "resourcegraph:Resources Microsoft.Network/networkSecurityGroups/read None",
            "resourcegraph:Resources Microsoft.Storage/storageAccounts/read \
             Some(\"AuthorizationFailed\")",
        ]
    );
    for asked in asked.lock().unwrap().iter() {
        if let Asked::Query(query) = asked {
            assert_eq!(
                (query.top, query.subscriptions.as_slice()),
                (1, &[ONE.to_owned()][..])
            );
        }
    }
}

#[tokio::test]
async fn a_probe_says_which_subscriptions_cannot_be_seen() {
    let (base, _) = azure(|asked| match asked {
        Asked::Subscription(id) if id == TWO => Some(refusal(404, "SubscriptionNotFound")),
        Asked::Subscriptions(_) => Some(answer(200, &json!({"value": []}))),
        Asked::Token | Asked::Subscription(_) | Asked::Query(_) => None,
    })
    .await;
    for (subscriptions, code) in [
        (&[ONE][..], None),
        (&[ONE, TWO], Some("SubscriptionNotFound")),
        (&[], Some("none_seen")),
    ] {
        let source = source(settings(&base, subscriptions), 3).await;
        let probes = source.probe().await.unwrap();
        assert_eq!(probes[0].refused.as_deref(), code);
        assert_eq!(probes[1].refused, None);
    }
}

#[tokio::test]
async fn a_sync_that_is_stopped_leaves_its_scopes_open() {
    let (base, _) = azure(|_| None).await;
    let source = source(settings(&base, &[ONE, TWO]), 3).await;
    let (out, mut facts) = Output::channel(1);
    let stop = CancellationToken::new();
    let reader = async {
        let mut told = Vec::new();
        while let Some(fact) = facts.recv().await {
            if matches!(&fact, Fact::Began { scope } if scope.kind == KINDS[1]) {
                stop.cancel();
            }
            told.push(fact);
        }
        outline(&told)
    };
    let run = async {
        let summary = source.sync(&out, &stop).await;
        drop(out);
        summary
    };
    let (summary, told) = tokio::join!(run, reader);
    assert_eq!(summary.unwrap().scopes_ended, 2);
    let of_accounts = told.iter().filter(|line| line.contains(KINDS[1]));
    assert!(of_accounts.clone().count() > 0, "{told:?}");
    for line in of_accounts {
        assert!(line.starts_with("began"), "{told:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_gone_ends_the_sync() {
    let (base, _) = azure(|_| None).await;
    let (out, facts) = Output::channel(1);
    drop(facts);
    let source = source(settings(&base, &[ONE]), 3).await;
    let outcome = source.sync(&out, &CancellationToken::new()).await;
    assert!(matches!(outcome, Err(CollectError::Stopped)), "{outcome:?}");
}
