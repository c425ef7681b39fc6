//! Lists as of an instant, and what became of them between two.

use std::collections::BTreeMap;

use store::rows::FindingStatus;
use store::{Became, FindingList, OrgStore, ResourceList};

use crate::bench::{Bench, Sweeper, at, vpcs};
use crate::findings;

/// What the list of resources showed: id and document.
type Shown = BTreeMap<String, String>;

async fn now(org: &OrgStore) -> Shown {
    org.read(|reader| {
        let mut shown = Shown::new();
        reader.each_resource(&mut |row| {
            let document = row.document;
            shown.insert(document.id.clone(), document.config.to_string());
            true
        })?;
        Ok(shown)
    })
    .await
    .unwrap()
}

async fn then(org: &OrgStore, second: i64) -> Shown {
    org.read(move |reader| {
        let past = reader.as_of(at(second))?;
        let page = past.resources(&ResourceList::default())?;
        let mut shown = Shown::new();
        for row in page.items {
            let found = reader
                .resource_as_of(&row.urn.to_urn(), at(second))?
                .unwrap();
            assert!(found.last_seen <= at(second), "{found:?}");
            assert!(found.first_seen <= at(second), "{found:?}");
            shown.insert(row.urn.id.to_string(), found.document.config.to_string());
        }
        Ok(shown)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_resources_of_an_instant_are_those_that_the_list_showed_then() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let mut agent = Sweeper::new(vpcs());
    let lives: &[&[(&str, &str)]] = &[
        &[],
        &[("a", "1"), ("b", "1")],
        &[("a", "2"), ("b", "1"), ("c", "1")],
        &[("a", "2"), ("c", "1")],
        &[("a", "1"), ("b", "3"), ("c", "1")],
        &[("b", "3")],
        &[("a", "1"), ("b", "3")],
    ];
    let mut showed = Vec::new();
    for (round, holds) in lives.iter().enumerate() {
        agent.holds = holds
            .iter()
            .map(|(id, value)| ((*id).into(), (*value).into()))
            .collect();
        agent
            .sweep(&org, 10 * (i64::try_from(round).unwrap() + 1))
            .await;
        let shown = now(&org).await;
        assert_eq!(shown.len(), holds.len());
        showed.push(shown);
    }
    assert_eq!(then(&org, 9).await, Shown::new());
    for (round, shown) in showed.iter().enumerate() {
        let second = 10 * (i64::try_from(round).unwrap() + 1);
        for second in [second, second + 9] {
            assert_eq!(then(&org, second).await, *shown, "{second}");
        }
    }
    let changes = org.read(|reader| {
        let (first, second) = (reader.as_of(at(25))?, reader.as_of(at(55))?);
        let changes = first.resources_until(&second);
        let none = second.resources_until(&second);
        assert!(none.is_empty());
        Ok(changes
            .into_iter()
            .map(|(became, row)| (row.urn.id.to_string(), became))
            .collect::<Vec<_>>())
    });
    let want = [("b", Became::Changed), ("c", Became::Added)];
    let want = want.map(|(id, became)| (id.to_owned(), became));
    assert_eq!(changes.await.unwrap(), want);
    let gone = org.read(|reader| {
        let (first, second) = (reader.as_of(at(35))?, reader.as_of(at(65))?);
        let changes = first.resources_until(&second);
        let change =
            |(became, row): (Became, &store::ResourceSummary)| (row.urn.id.to_string(), became);
        Ok(changes.into_iter().map(change).collect::<Vec<_>>())
    });
    let want = [
        ("a", Became::Removed),
        ("b", Became::Changed),
        ("c", Became::Removed),
    ];
    let want = want.map(|(id, became)| (id.to_owned(), became));
    assert_eq!(gone.await.unwrap(), want);
}

#[tokio::test]
async fn a_finding_of_an_instant_has_the_status_that_it_had_and_no_evidence_of_today() {
    let bench = Bench::new();
    let org = bench.org("acme").await;
    let id = findings::opened(&org, 1).await;
    findings::resolve(&org, id).await;
    let seen = org.read(move |reader| {
        let status = |second| {
            let past = reader.as_of(at(second))?;
            let page = past.findings(&FindingList::default())?;
            Ok::<_, store::ReadError>(page.items.first().map(|row| (row.status, row.resolved_at)))
        };
        let (finding, history) = reader.finding_as_of(id, at(1))?.unwrap();
        assert!(finding.evidence.is_empty());
        assert_eq!((finding.status, history.len()), (FindingStatus::Open, 1));
        let (before, after) = (reader.as_of(at(1))?, reader.as_of(at(2))?);
        let changes = before.findings_until(&after);
        assert_eq!(changes.len(), 1);
        assert_eq!(
            changes[0].0.map(|row| row.status),
            Some(FindingStatus::Open)
        );
        assert_eq!(changes[0].1.status, FindingStatus::Resolved);
        assert_eq!(reader.as_of(at(0))?.findings_until(&before)[0].0, None);
        Ok([status(0)?, status(1)?, status(2)?])
    });
    let (open, resolved) = (FindingStatus::Open, FindingStatus::Resolved);
    assert_eq!(
        seen.await.unwrap(),
        [None, Some((open, None)), Some((resolved, Some(at(2))))]
    );
}
