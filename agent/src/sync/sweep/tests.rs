use std::collections::BTreeSet;
use std::convert::Infallible;

use jiff::Timestamp;
use proptest::prelude::*;
use protocol::document::Gap;
use protocol::wire::v1::SweepItem;
use serde_json::json;

use super::*;

/// The agent's memory and a hub that applies what it is told.
#[derive(Debug, Default)]
struct World {
    known: BTreeMap<(String, String), ContentHash>,
    generations: BTreeMap<String, u64>,
    hub: BTreeMap<String, ContentHash>,
    gone: BTreeSet<String>,
    /// What was sent in this sweep.
    sent: BTreeSet<String>,
    asked: Option<Resent>,
}

impl Known for World {
    type Error = Infallible;

    fn content(&self, scope: &str, id: &str) -> Result<Option<ContentHash>, Infallible> {
        Ok(self.known.get(&(scope.to_owned(), id.to_owned())).copied())
    }

    fn ids(&self, scope: &str) -> Result<Vec<String>, Infallible> {
        let known = self.known.keys().filter(|(of, _)| of == scope);
        Ok(known.map(|(_, id)| id.clone()).collect())
    }

    fn asked(&self, _: &str) -> Result<Option<Resent>, Infallible> {
        Ok(self.asked.clone())
    }

    fn generation(&self, scope: &str) -> Result<u64, Infallible> {
        Ok(self.generations.get(scope).copied().unwrap_or(0))
    }
}

impl World {
    /// Stores a commit as the spool does, lets the hub apply it, and returns what it said.
    fn apply(&mut self, commit: Commit) -> Vec<String> {
        for effect in commit.effects {
            match effect {
                Effect::Content { scope, id, content } => {
                    self.known.insert((scope, id), content);
                }
                Effect::Forgotten { scope, id } => {
                    self.known.remove(&(scope, id));
                }
                Effect::Generation { scope, generation } => {
                    self.generations.insert(scope, generation);
                }
                Effect::Resent { resent, .. } => {
                    assert_eq!(self.asked.take(), Some(resent));
                }
                Effect::Cursor { .. } => {}
            }
        }
        let mut said = Vec::new();
        for (lane, builder) in commit.batches {
            for item in crate::spool::tests::items_of(builder) {
                if lane == Lane::Inventory {
                    let item: SweepItem = protocol::batch::decode_item(&item).unwrap();
                    said.push(self.hear(item));
                } else {
                    let item: ReportItem = protocol::batch::decode_item(&item).unwrap();
                    said.push(format!("{item:?}"));
                }
            }
        }
        said
    }

    fn hear(&mut self, item: SweepItem) -> String {
        match item {
            SweepItem::Begin { generation, .. } => {
                self.gone.clear();
                self.sent.clear();
                format!("begin {generation}")
            }
            SweepItem::Changed { document } => {
                let document: Document = serde_json::from_str(&document).unwrap();
                let urn = document.urn.to_string();
                self.sent.insert(urn.clone());
                self.hub.insert(urn, document.content_hash());
                format!("changed {}", document.id)
            }
            SweepItem::Gone { urn } => {
                let said = format!("gone {}", urn.rsplit('/').next().unwrap());
                self.gone.insert(urn);
                said
            }
            SweepItem::End {
                generation,
                set,
                resent,
                ..
            } => {
                for urn in std::mem::take(&mut self.gone) {
                    self.hub.remove(&urn);
                }
                if let Some(resent) = resent {
                    let sent = &self.sent;
                    self.hub
                        .retain(|urn, _| sent.contains(urn) || !resent.covers(urn));
                }
                let mut own = SetHash::default();
                for (urn, content) in &self.hub {
                    own.add(urn, content);
                }
                assert_eq!(own, set, "the hub's set is the agent's");
                format!("end {generation} of {}", set.count)
            }
            SweepItem::Failed { call, error, .. } => format!("failed {call} {error}"),
        }
    }

    fn sync(&mut self, facts: Vec<Fact>) -> Vec<String> {
        let mut sweeps = Sweeps::default();
        let mut said = Vec::new();
        for fact in facts {
            let mut out = Vec::new();
            sweeps.accept(fact, self, &mut out).unwrap();
            for commit in out {
                said.extend(self.apply(commit));
            }
        }
        if let Some(commit) = sweeps.finish() {
            said.extend(self.apply(commit));
        }
        said
    }
}

#[test]
fn parts_that_the_hub_asked_for_are_sent_whole_and_asked_for_once() {
    let mut world = World::default();
    let ids: Vec<String> = (0..40).map(|n| format!("vpc-{n}")).collect();
    let sweep = |ids: &[String]| {
        let documents = ids.iter().map(|id| document(id, "10.0.0.0/16"));
        std::iter::once(began())
            .chain(documents)
            .chain([ended()])
            .collect::<Vec<_>>()
    };
    world.sync(sweep(&ids));
    // The hub loses one and keeps another that is gone; the agent knows of neither.
    let (lost, kept) = (
        scope().urn("vpc-7").to_string(),
        scope().urn("old").to_string(),
    );
    world.hub.remove(&lost);
    world.hub.insert(kept.clone(), [1; 32]);
    let mut ours = protocol::parts::Sums::new(8).unwrap();
    let mut theirs = ours.clone();
    for ((_, id), content) in &world.known {
        ours.add(&scope().urn(id).to_string(), content);
    }
    for (urn, content) in &world.hub {
        theirs.add(urn, content);
    }
    world.asked = Some(ours.differing(&theirs.into_vec()));
    let said = world.sync(sweep(&ids));
    assert!(said.contains(&"changed vpc-7".to_owned()), "{said:?}");
    assert!(said.len() < 25, "{said:?}");
    assert!(world.hub.contains_key(&lost) && !world.hub.contains_key(&kept));
    let said = world.sync(sweep(&ids));
    assert_eq!(said, ["begin 3", "end 3 of 40"]);
}

fn scope() -> Scope {
    Scope::of_type("aws.ec2.vpc", "123456789012", "us-east-1")
}

fn document(id: &str, version: &str) -> Fact {
    let urn = scope().urn(id);
    Fact::Document(Box::new(Document {
        type_name: "aws.ec2.vpc".into(),
        provider: "aws".into(),
        account: "123456789012".into(),
        region: "us-east-1".into(),
        id: id.into(),
        native_id: id.into(),
        name: id.into(),
        tags: Some(BTreeMap::new()),
        config: json!({ "CidrBlock": version }),
        gaps: BTreeMap::new(),
        links: vec![],
        collected_at: Timestamp::now(),
        urn,
    }))
}

fn began() -> Fact {
    Fact::Began { scope: scope() }
}

fn ended() -> Fact {
    Fact::Ended { scope: scope() }
}

fn failed() -> Fact {
    Fact::Failed {
        scope: scope(),
        gap: Gap {
            call: "ec2:DescribeVpcs".into(),
            error: "AccessDenied".into(),
        },
    }
}

fn two() -> Vec<Fact> {
    vec![began(), document("a", "1"), document("b", "1"), ended()]
}

#[test]
fn only_what_changed_is_told_again_and_what_is_gone_once() {
    let mut world = World::default();
    let first = world.sync(two());
    assert_eq!(first, ["begin 1", "changed a", "changed b", "end 1 of 2"]);
    let same = world.sync(vec![
        began(),
        document("b", "1"),
        document("a", "1"),
        ended(),
    ]);
    assert_eq!(same, ["begin 2", "end 2 of 2"]);
    let other = world.sync(vec![began(), document("a", "2"), ended()]);
    assert_eq!(other, ["begin 3", "changed a", "gone b", "end 3 of 1"]);
    let again = world.sync(vec![began(), document("a", "2"), ended()]);
    assert_eq!(again, ["begin 4", "end 4 of 1"]);
}

#[test]
fn a_denied_list_retires_nothing_and_the_next_sweep_still_knows_all() {
    let mut world = World::default();
    world.sync(two());
    let denied = world.sync(vec![began(), failed()]);
    assert_eq!(denied, ["begin 2", "failed ec2:DescribeVpcs AccessDenied"]);
    assert_eq!(world.hub.len(), 2);
    assert_eq!(world.sync(two()), ["begin 3", "end 3 of 2"]);
}

#[test]
fn a_sync_that_was_cut_off_ends_no_scope() {
    let mut world = World::default();
    world.sync(two());
    let cut = world.sync(vec![began(), document("a", "1")]);
    assert_eq!(cut, ["begin 2"]);
    assert_eq!(world.hub.len(), 2);
}

#[test]
fn a_resource_listed_twice_counts_once() {
    let mut world = World::default();
    let said = world.sync(vec![
        began(),
        document("a", "1"),
        document("a", "1"),
        document("a", "2"),
        ended(),
    ]);
    assert_eq!(said, ["begin 1", "changed a", "changed a", "end 1 of 1"]);
}

#[test]
fn an_empty_scope_ends_with_an_empty_set() {
    let mut world = World::default();
    let said = world.sync(vec![began(), ended()]);
    assert_eq!(said, ["begin 1", "end 1 of 0"]);
}

#[test]
fn a_document_too_large_to_send_is_reported_and_its_scope_is_not_ended() {
    let mut world = World::default();
    world.sync(two());
    let large = "x".repeat(limits::DOCUMENT_BYTES);
    let said = world.sync(vec![began(), document("a", &large), ended()]);
    assert_eq!(said.len(), 3, "{said:?}");
    let is_told = |start: &str| said.iter().any(|line| line.starts_with(start));
    assert!(is_told("Quarantined"), "{said:?}");
    assert!(is_told("failed agent document_too_large"), "{said:?}");
    assert_eq!(world.hub.len(), 2, "b is not retired");
}

#[test]
fn a_crash_between_gone_and_end_finds_them_gone_again() {
    let mut world = World::default();
    let mut facts = vec![began()];
    facts.extend((0..6000).map(|n| document(&format!("{n:0>90}"), "1")));
    facts.push(ended());
    world.sync(facts);
    assert_eq!(world.hub.len(), 6000);
    // All gone at once: more than a batch of `Gone` items. Only the first commit survives.
    let mut sweeps = Sweeps::default();
    let mut out = Vec::new();
    sweeps.accept(began(), &world, &mut out).unwrap();
    sweeps.accept(ended(), &world, &mut out).unwrap();
    assert!(!out.is_empty(), "the gone ones fill a batch before the end");
    let said = world.apply(out.remove(0));
    assert!(said.iter().any(|line| line.starts_with("gone")));
    let again = world.sync(vec![began(), ended()]);
    let gone = again.iter().filter(|line| line.starts_with("gone"));
    assert_eq!(gone.count(), 6000);
    assert!(world.hub.is_empty());
}

proptest! {
    /// Whatever order and content the sweeps have, the hub ends up with exactly what was seen.
    #[test]
    fn the_hub_holds_what_the_last_whole_sweep_saw(
        sweeps in proptest::collection::vec(
            (proptest::collection::vec(("[a-e]", "[1-3]"), 0..8), 0u8..3), 1..8),
    ) {
        let mut world = World::default();
        let mut truth: BTreeMap<String, String> = BTreeMap::new();
        for (documents, outcome) in sweeps {
            let mut facts = vec![began()];
            let mut seen = BTreeMap::new();
            for (id, version) in documents {
                facts.push(document(&id, &version));
                seen.insert(id, version);
            }
            match outcome {
                0 => facts.push(failed()),
                1 => {}
                _ => {
                    facts.push(ended());
                    truth.clear();
                }
            }
            truth.extend(seen);
            world.sync(facts);
            let ids: BTreeSet<String> = world
                .hub
                .keys()
                .map(|urn| urn.rsplit('/').next().unwrap().to_owned())
                .collect();
            prop_assert_eq!(ids, truth.keys().cloned().collect::<BTreeSet<_>>());
        }
    }
}
