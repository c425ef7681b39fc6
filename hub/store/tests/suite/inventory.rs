//! Documents, sweeps, retirement, history, links, the feed of changes.

use std::collections::BTreeMap;

use protocol::document::Gap;
use store::rows::resource::{Coverage, ScopeState, Subject, SweepResult};
use store::{List, Order, OrgStore, ResourceSort};

use crate::bench::{ACCOUNT, AGENT, Bench, SOURCE, Sweeper, at, document, from, scope, vpcs};

fn ids(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("vpc-{n:04}"))
}

async fn living(org: &OrgStore) -> Vec<String> {
    let found = org.resources_in(&vpcs()).await.unwrap();
    let mut ids: Vec<String> = found
        .into_iter()
        .map(|resource| resource.document.urn.id)
        .collect();
    ids.sort();
    ids
}

async fn state(org: &OrgStore) -> ScopeState {
    org.scope(&vpcs()).await.unwrap().unwrap().state
}

async fn listed(org: &OrgStore) -> Vec<String> {
    let list = List {
        sort: ResourceSort::Urn,
        ..List::default()
    };
    let page = org.resources(list).await.unwrap();
    page.items
        .into_iter()
        .map(|summary| summary.urn.id.to_string())
        .collect()
}

#[tokio::test]
async fn a_sweep_stores_what_there_is_and_the_next_retires_what_is_gone() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(5));
    assert_eq!(
        sweeper.sweep(&org, 1).await,
        SweepResult::Complete { retired: 0 }
    );
    assert_eq!(living(&org).await.len(), 5);
    sweeper.holds.remove("vpc-0002");
    sweeper.holds.insert("vpc-0003".into(), "2".into());
    assert_eq!(
        sweeper.sweep(&org, 2).await,
        SweepResult::Complete { retired: 1 }
    );
    assert_eq!(
        living(&org).await,
        ["vpc-0000", "vpc-0001", "vpc-0003", "vpc-0004"]
    );
    assert_eq!(listed(&org).await, living(&org).await);

    let gone = org
        .resource(&vpcs().urn("vpc-0002"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (gone.retired_at, gone.first_seen, gone.last_seen),
        (Some(at(2)), at(1), at(1))
    );
    let by_id = store::rows::resource::Resource::id_of(org.org(), &vpcs().urn("vpc-0002"));
    assert_eq!(org.resource_by_id(by_id).await.unwrap(), Some(gone));
    let changed = org
        .resource(&vpcs().urn("vpc-0003"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((changed.first_seen, changed.changed_at), (at(1), at(2)));
    assert_eq!(changed.document.config["Value"], "2");
    // Not sent again, but confirmed by the end of the sweep.
    let same = org
        .resource(&vpcs().urn("vpc-0000"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (same.changed_at, same.last_seen, same.generation),
        (at(1), at(2), 1)
    );

    let history = org.resource_history(&vpcs().urn("vpc-0003")).await.unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].since, history[0].until), (at(1), at(2)));
    assert_eq!(history[0].document.config["Value"], "1");
    let status = org.scope(&vpcs()).await.unwrap().unwrap();
    assert_eq!(
        (status.members, status.claimed),
        (sweeper.set(), Some(sweeper.set()))
    );
    assert!(status.is_known());
}

#[tokio::test]
async fn a_resource_that_returns_lives_again_with_its_first_day() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(2));
    sweeper.sweep(&org, 1).await;
    let value = sweeper.holds.remove("vpc-0001").unwrap();
    sweeper.sweep(&org, 2).await;
    sweeper.holds.insert("vpc-0001".into(), value);
    assert_eq!(
        sweeper.sweep(&org, 3).await,
        SweepResult::Complete { retired: 0 }
    );
    let back = org
        .resource(&vpcs().urn("vpc-0001"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (back.first_seen, back.changed_at, back.retired_at),
        (at(1), at(3), None)
    );
    let history = org.resource_history(&vpcs().urn("vpc-0001")).await.unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].since, history[0].until), (at(1), at(2)));
}

#[tokio::test]
async fn a_difference_retires_nothing_and_a_whole_sweep_mends_it() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(5));
    sweeper.sweep(&org, 1).await;
    // The agent says that one is gone, and claims a set that lacks two.
    sweeper.holds.remove("vpc-0001");
    let mut write = org.write();
    sweeper.begin(&mut write, 2);
    sweeper.holds.remove("vpc-0002");
    write.end_sweep(sweeper.end(Coverage::Changes, 2));
    let outcome = write.commit().await.unwrap().sweeps.remove(0);
    assert!(matches!(outcome.result, SweepResult::Mismatched { ours } if ours.count == 4));
    assert_eq!(living(&org).await.len(), 5);
    assert_eq!(state(&org).await, ScopeState::Mismatched);
    assert!(!org.scope(&vpcs()).await.unwrap().unwrap().is_known());

    sweeper.forget();
    let mut write = org.write();
    sweeper.begin(&mut write, 3);
    write.end_sweep(sweeper.end(Coverage::Everything, 3));
    let outcome = write.commit().await.unwrap().sweeps.remove(0);
    assert_eq!(outcome.result, SweepResult::Complete { retired: 2 });
    assert_eq!(living(&org).await, ["vpc-0000", "vpc-0003", "vpc-0004"]);
    assert!(org.scope(&vpcs()).await.unwrap().unwrap().is_known());
}

#[tokio::test]
async fn an_end_that_would_retire_too_many_waits_for_a_person() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(100));
    sweeper.sweep(&org, 1).await;
    sweeper.holds.retain(|id, _| id.as_str() < "vpc-0060");
    assert_eq!(
        sweeper.sweep(&org, 2).await,
        SweepResult::Held { retiring: 40 }
    );
    assert_eq!(state(&org).await, ScopeState::Held(40));
    assert_eq!(living(&org).await.len(), 100);
    // What was complete before stays known.
    assert!(org.scope(&vpcs()).await.unwrap().unwrap().is_known());
    // The next sweep names nobody gone twice, and is held all the same.
    assert_eq!(
        sweeper.sweep(&org, 3).await,
        SweepResult::Held { retiring: 40 }
    );
    // Whoever saw another number confirms nothing.
    let mut write = org.write();
    write.confirm_retirement(&vpcs(), 39, at(4));
    write.commit().await.unwrap();
    assert_eq!(state(&org).await, ScopeState::Held(40));
    let mut write = org.write();
    write.confirm_retirement(&vpcs(), 40, at(4));
    write.commit().await.unwrap();
    assert_eq!(living(&org).await.len(), 60);
    assert_eq!(listed(&org).await.len(), 60);
    assert_eq!(state(&org).await, ScopeState::Complete);
    assert_eq!(
        org.scope(&vpcs()).await.unwrap().unwrap().members,
        sweeper.set()
    );
    // Confirming what is not held does nothing.
    let before = org.scope(&vpcs()).await.unwrap();
    let mut write = org.write();
    write.confirm_retirement(&vpcs(), 40, at(5));
    write.confirm_retirement(&scope("aws.ec2.subnet"), 0, at(5));
    write.commit().await.unwrap();
    assert_eq!(org.scope(&vpcs()).await.unwrap(), before);
}

#[tokio::test]
async fn a_confirmation_retires_only_what_was_held() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(60));
    sweeper.sweep(&org, 1).await;
    sweeper.holds.retain(|id, _| id.as_str() < "vpc-0030");
    assert_eq!(
        sweeper.sweep(&org, 2).await,
        SweepResult::Held { retiring: 30 }
    );
    // One of those comes back before anybody confirms.
    let mut write = org.write();
    write.put_resource(document(&vpcs().urn("vpc-0059"), "1", &[]), from(at(3)));
    write.commit().await.unwrap();
    let mut write = org.write();
    write.confirm_retirement(&vpcs(), 30, at(4));
    write.commit().await.unwrap();
    assert_eq!(living(&org).await.len(), 60);
    assert_eq!(state(&org).await, ScopeState::Mismatched);
}

#[tokio::test]
async fn a_failed_list_retires_nothing_and_names_its_gap() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(3));
    sweeper.sweep(&org, 1).await;
    sweeper.holds.clear();
    let gap = Gap {
        call: "ec2:DescribeVpcs".into(),
        error: "AccessDenied".into(),
    };
    let mut write = org.write();
    sweeper.begin(&mut write, 2);
    write.fail_sweep(
        &vpcs(),
        AGENT,
        SOURCE,
        sweeper.generation,
        gap.clone(),
        at(2),
    );
    // An end after all means nothing.
    write.end_sweep(sweeper.end(Coverage::Everything, 2));
    let outcome = write.commit().await.unwrap().sweeps.remove(0);
    assert_eq!(outcome.result, SweepResult::Superseded { current: 2 });
    assert_eq!(living(&org).await.len(), 3);
    assert_eq!(state(&org).await, ScopeState::Failed(gap));
    assert!(!org.scope(&vpcs()).await.unwrap().unwrap().is_known());
    // A first list that is denied makes a scope of which nothing is known.
    let denied = Gap {
        call: "ec2:DescribeSubnets".into(),
        error: "AccessDenied".into(),
    };
    let mut write = org.write();
    write.fail_sweep(&scope("aws.ec2.subnet"), AGENT, SOURCE, 1, denied, at(3));
    write.commit().await.unwrap();
    let status = org.scope(&scope("aws.ec2.subnet")).await.unwrap().unwrap();
    assert!(!status.is_known());
    assert_eq!(status.last_complete_at, None);
}

#[tokio::test]
async fn an_end_of_a_sweep_that_is_not_current_means_nothing() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(3));
    let mut write = org.write();
    write.end_sweep(sweeper.end(Coverage::Everything, 1));
    let outcome = write.commit().await.unwrap().sweeps.remove(0);
    assert_eq!(outcome.result, SweepResult::Superseded { current: 0 });
    sweeper.sweep(&org, 1).await;
    let late = sweeper.end(Coverage::Everything, 9);
    let mut write = org.write();
    sweeper.begin(&mut write, 2);
    write.end_sweep(late);
    write.end_sweep(sweeper.end(Coverage::Changes, 3));
    // And an end that is repeated.
    write.end_sweep(sweeper.end(Coverage::Everything, 4));
    let sweeps = write.commit().await.unwrap().sweeps;
    let results: Vec<SweepResult> = sweeps.into_iter().map(|outcome| outcome.result).collect();
    let superseded = SweepResult::Superseded { current: 2 };
    assert_eq!(
        results,
        [superseded, SweepResult::Complete { retired: 0 }, superseded]
    );
    assert_eq!(living(&org).await.len(), 3);
}

#[tokio::test]
async fn an_agent_that_was_cut_short_need_not_name_the_gone_twice() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(4));
    sweeper.sweep(&org, 1).await;
    sweeper.holds.remove("vpc-0003");
    let mut write = org.write();
    sweeper.begin(&mut write, 2);
    write.commit().await.unwrap();
    assert_eq!(
        sweeper.sweep(&org, 3).await,
        SweepResult::Complete { retired: 1 }
    );
    assert_eq!(living(&org).await.len(), 3);
}

#[tokio::test]
async fn one_that_reappears_unchanged_after_a_cut_sweep_is_not_retired() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(4));
    sweeper.sweep(&org, 1).await;
    // Named gone by a sweep without an end; an agent that keeps its hash until the end says
    // nothing of it in the next sweep, since nothing has changed.
    let mut write = org.write();
    write.begin_sweep(&vpcs(), AGENT, SOURCE, 2, at(2));
    write.stage_gone(&vpcs().urn("vpc-0001"));
    write.commit().await.unwrap();
    sweeper.generation = 2;
    assert_eq!(
        sweeper.sweep(&org, 3).await,
        SweepResult::Complete { retired: 0 }
    );
    assert_eq!(living(&org).await.len(), 4);
}

#[tokio::test]
async fn links_are_found_from_both_ends_and_end_with_the_resource() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let subnets = scope("aws.ec2.subnet");
    let (vpc, subnet) = (vpcs().urn("vpc-1"), subnets.urn("subnet-1"));
    let far = scope("aws.ec2.route-table").urn("rtb-1");
    let put = |value: &'static str, links: Vec<(&'static str, protocol::Urn)>| {
        let (org, subnet) = (org.clone(), subnet.clone());
        async move {
            let mut write = org.write();
            write.put_resource(document(&subnet, value, &links), from(at(1)));
            write.commit().await.unwrap();
        }
    };
    put(
        "1",
        vec![("in_vpc", vpc.clone()), ("routed_by", far.clone())],
    )
    .await;
    // The far end need not be there.
    assert_eq!(
        org.linked(&subnet, "in_vpc").await.unwrap(),
        std::slice::from_ref(&vpc)
    );
    assert_eq!(org.linked(&subnet, "other").await.unwrap(), []);
    assert_eq!(
        org.linked_from(&vpc, "in_vpc").await.unwrap(),
        std::slice::from_ref(&subnet)
    );
    assert_eq!(
        org.linked_from(&far, "routed_by").await.unwrap(),
        std::slice::from_ref(&subnet)
    );
    put("2", vec![("in_vpc", vpc.clone())]).await;
    assert_eq!(org.linked_from(&far, "routed_by").await.unwrap(), []);
    assert_eq!(
        org.linked_from(&vpc, "in_vpc").await.unwrap(),
        std::slice::from_ref(&subnet)
    );
    let (out, back) = {
        let (subnet, vpc) = (subnet.clone(), vpc.clone());
        let both = org.read(move |read| Ok((read.links(&subnet)?, read.links_to(&vpc)?)));
        both.await.unwrap()
    };
    assert_eq!(
        (out[0].urn.clone(), back[0].urn.clone()),
        (vpc.clone(), subnet.clone())
    );
    // Retired: its links are gone at both ends.
    let mut sweeper = Sweeper::new(subnets.clone());
    let mut write = org.write();
    sweeper.begin(&mut write, 2);
    write.end_sweep(sweeper.end(Coverage::Everything, 2));
    let result = write.commit().await.unwrap().sweeps.remove(0).result;
    assert_eq!(result, SweepResult::Complete { retired: 1 });
    assert_eq!(org.linked_from(&vpc, "in_vpc").await.unwrap(), []);
    assert_eq!(org.linked(&subnet, "in_vpc").await.unwrap(), []);
}

#[tokio::test]
async fn the_feed_names_each_changed_subject_once_and_forgets_what_was_judged() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    // The file's own first rows are a commit.
    assert_eq!(*org.commits().borrow(), 1);
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(2));
    sweeper.sweep(&org, 1).await;
    sweeper.holds.insert("vpc-0001".into(), "2".into());
    sweeper.sweep(&org, 2).await;
    let named = |changes: Vec<store::rows::resource::Change>| -> Vec<(u64, String)> {
        let text = |subject: Subject| match subject {
            Subject::Resource(urn) => urn.id,
            Subject::Scope(scope) => scope.kind,
        };
        changes
            .into_iter()
            .map(|change| (change.commit, text(change.subject)))
            .collect()
    };
    let all = named(org.changes(0, 100).await.unwrap());
    let want = [(2, "vpc-0000"), (2, "ec2.vpc"), (3, "vpc-0001")];
    assert_eq!(all, want.map(|(commit, name)| (commit, name.to_owned())));
    // A sweep that finds nothing new changes nothing.
    sweeper.sweep(&org, 3).await;
    assert_eq!(org.changes(3, 100).await.unwrap(), []);
    // A commit is never cut.
    assert_eq!(named(org.changes(0, 1).await.unwrap()).len(), 3);
    let mut write = org.write();
    write.changes_judged(2);
    write.commit().await.unwrap();
    assert_eq!(org.judged_up_to().await.unwrap(), 2);
    assert_eq!(
        named(org.changes(0, 100).await.unwrap()),
        [(3, "vpc-0001".to_owned())]
    );
    // Nothing that is not committed can have been judged.
    let mut write = org.write();
    sweeper.holds.insert("vpc-0000".into(), "3".into());
    sweeper.begin(&mut write, 4);
    write.changes_judged(u64::MAX);
    let commit = write.commit().await.unwrap().commit;
    assert_eq!(org.judged_up_to().await.unwrap(), commit - 1);
    let rest = named(org.changes(0, 100).await.unwrap());
    assert_eq!(rest, [(commit, "vpc-0000".to_owned())]);
}

#[tokio::test]
async fn who_follows_the_feed_in_small_steps_misses_nothing() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    // More than a page of the feed, and pages that end within a commit.
    for (commit, count) in [(0, 700), (1, 700), (2, 1), (3, 1100)] {
        let mut write = org.write();
        for n in 0..count {
            let urn = vpcs().urn(&format!("vpc-{commit}-{n}"));
            write.put_resource(document(&urn, "1", &[]), from(at(commit)));
        }
        write.commit().await.unwrap();
    }
    let (mut seen, mut since, mut steps) = (std::collections::BTreeSet::new(), 0, 0);
    loop {
        let changes = org.changes(since, 10).await.unwrap();
        let Some(last) = changes.last() else { break };
        since = last.commit;
        steps += 1;
        seen.extend(changes.into_iter().map(|change| change.subject));
    }
    // Every resource and the scope; the third step takes the small commit along.
    assert_eq!((seen.len(), steps), (700 + 700 + 1 + 1100 + 1, 3));
}

#[tokio::test]
async fn a_scope_is_in_the_feed_when_what_it_proves_has_changed() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs());
    let mut expect = BTreeMap::new();
    let mut last = 0;
    let mut note = async |what: &'static str| {
        let changes = org.changes(last, 100).await.unwrap();
        last = org.read(|reader| reader.commit()).await.unwrap();
        expect.insert(what, changes.len());
    };
    let gap = || Gap {
        call: "ec2:DescribeVpcs".into(),
        error: "AccessDenied".into(),
    };
    sweeper.sweep(&org, 1).await;
    note("1 first complete").await;
    sweeper.sweep(&org, 2).await;
    note("2 complete again").await;
    for (second, name) in [(3, "3 denied"), (4, "4 denied again")] {
        let mut write = org.write();
        write.fail_sweep(&vpcs(), AGENT, SOURCE, 9, gap(), at(second));
        write.commit().await.unwrap();
        note(name).await;
    }
    sweeper.generation = 9;
    sweeper.sweep(&org, 5).await;
    note("5 complete after all").await;
    let want = [
        ("1 first complete", 1),
        ("2 complete again", 0),
        ("3 denied", 1),
        ("4 denied again", 0),
        ("5 complete after all", 1),
    ];
    assert_eq!(expect, BTreeMap::from(want));
}

#[tokio::test]
async fn lists_in_memory_are_those_on_disk() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut sweeper = Sweeper::new(vpcs()).holding(ids(7));
    sweeper.sweep(&org, 1).await;
    // Read for the first time here: everything after reaches them through commits.
    assert_eq!(listed(&org).await.len(), 7);
    sweeper.holds.remove("vpc-0003");
    sweeper.holds.insert("vpc-0100".into(), "1".into());
    sweeper.holds.insert("vpc-0001".into(), "2".into());
    sweeper.sweep(&org, 2).await;
    let list = List {
        sort: ResourceSort::Name,
        order: Order::Descending,
        ..List::default()
    };
    let warm = org.resources(list.clone()).await.unwrap();
    assert_eq!(warm.total, Some(7));
    let id = org.org();
    let bench = bench.reopened().await;
    let org = bench.org_again(id).await;
    let cold = org.resources(list).await.unwrap();
    assert_eq!(warm, cold);
    assert!(cold.items.iter().all(|summary| summary.last_seen == at(2)));
    assert_eq!(cold.items[0].urn.scope.account, ACCOUNT);
}
