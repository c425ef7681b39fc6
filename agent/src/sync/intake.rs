//! Carries facts from a collector into the spool, a queue's worth at a time.

use collect::Fact;
use protocol::batch::BatchBuilder;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::wire::v1::ReportItem;
use tokio::sync::mpsc::Receiver;

use super::board::Board;
use super::scopes::Hold;
use super::sweep::Sweeps;
use super::{FACTS, STEPS};
use crate::spool::{Commit, Effect, Spool, SpoolError};

/// Takes the facts of one sync, of the scopes that are its own. Returns when the collector has
/// dropped its end, and gives the scopes back when all is stored.
///
/// # Errors
///
/// When the spool fails; the collector then finds its receiver gone.
pub(super) async fn sweeps(
    spool: &Spool,
    source: SourceId,
    mut hold: Hold,
    mut facts: Receiver<Fact>,
) -> Result<(), SpoolError> {
    let mut sweeps = Sweeps::default();
    loop {
        let mut page = Vec::with_capacity(FACTS);
        if facts.recv_many(&mut page, FACTS).await == 0 {
            break;
        }
        page.retain(|fact| hold.admits(fact));
        // Looked up and decided on the spool's thread: one trip for a page, not one for each.
        let decided = spool.call(move |engine| {
            let known = engine.known()?;
            let mut commits = Vec::new();
            for fact in page {
                sweeps.accept(fact, &known, &mut commits)?;
            }
            Ok::<_, SpoolError>((sweeps, commits))
        });
        let (back, commits) = decided.await??;
        sweeps = back;
        for commit in commits {
            spool.commit(source, commit).await?;
        }
    }
    match sweeps.finish() {
        Some(commit) => spool.commit(source, commit).await,
        None => Ok(()),
    }
}

/// Takes the events of a tail: batches, quarantined records and the cursor in one commit.
///
/// # Errors
///
/// When the spool fails; the tail is then read again from the last committed cursor.
pub(super) async fn events(
    spool: &Spool,
    source: SourceId,
    mut facts: Receiver<Fact>,
    board: &Board,
) -> Result<(), SpoolError> {
    loop {
        let mut page = Vec::with_capacity(STEPS);
        if facts.recv_many(&mut page, STEPS).await == 0 {
            return Ok(());
        }
        let (commit, counted) = batch(source, page);
        spool.commit(source, commit).await?;
        board.events(source, counted.events, counted.quarantined);
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    events: u64,
    quarantined: u64,
}

/// Makes one commit of a page of a tail's facts.
fn batch(source: SourceId, page: Vec<Fact>) -> (Commit, Counted) {
    let mut events = Filling::new(Lane::Events);
    let mut reports = Filling::new(Lane::Results);
    let mut counted = Counted::default();
    let mut last = None;
    for fact in page {
        let Fact::Events {
            events: records,
            quarantined,
            cursor,
        } = fact
        else {
            // A tail sends events alone.
            continue;
        };
        counted.events += u64::try_from(records.len()).unwrap_or(u64::MAX);
        events.append(records);
        for record in quarantined {
            counted.quarantined += 1;
            reports.push(&ReportItem::Quarantined {
                place: record.place,
                reason: record.reason,
                bytes: record.bytes,
            });
        }
        last = Some(cursor);
    }
    let mut batches = events.done();
    batches.extend(reports.done());
    let effects = last.map(|cursor| Effect::Cursor { source, cursor });
    let effects = effects.into_iter().collect();
    (Commit { batches, effects }, counted)
}

/// Fills batches of one lane, each within its bounds.
struct Filling {
    lane: Lane,
    full: Vec<(Lane, BatchBuilder)>,
    current: BatchBuilder,
}

impl Filling {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            full: Vec::new(),
            current: BatchBuilder::default(),
        }
    }

    fn push<T: serde::Serialize>(&mut self, item: &T) {
        if self.current.is_full() {
            self.close();
        }
        self.current
            .push(item)
            .expect("a report fits a batch that is not full");
    }

    /// Adds the items of a batch behind those that wait, or closes these first.
    fn append(&mut self, items: BatchBuilder) {
        if let Err(items) = self.current.append(items) {
            self.close();
            self.current = items;
        }
    }

    fn close(&mut self) {
        let current = std::mem::take(&mut self.current);
        if !current.is_empty() {
            self.full.push((self.lane, current));
        }
    }

    fn done(mut self) -> Vec<(Lane, BatchBuilder)> {
        self.close();
        self.full
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use collect::Quarantined;
    use jiff::Timestamp;
    use protocol::document::Document;
    use protocol::event::EventRecord;
    use protocol::urn::Scope;
    use serde_json::json;
    use tokio::sync::mpsc::{Sender, channel};
    use tokio::task::JoinHandle;

    use protocol::batch::decode_item;
    use protocol::limits;

    use super::super::scopes::Scopes;
    use super::super::sweep::Known;
    use super::*;
    use crate::spool;

    fn fact(raws: &[String], cursor: u8) -> Fact {
        let mut events = BatchBuilder::default();
        for raw in raws {
            let record = EventRecord {
                raw: raw.clone(),
                ..EventRecord::default()
            };
            events.push(&record).unwrap();
        }
        Fact::Events {
            events,
            quarantined: vec![],
            cursor: vec![cursor],
        }
    }

    fn source() -> SourceId {
        SourceId::derived(&[b"w"])
    }

    #[test]
    fn a_page_is_one_commit_with_the_last_cursor() {
        let page = vec![fact(&["a".into()], 1), fact(&["b".into(), "c".into()], 2)];
        let (commit, counted) = batch(source(), page);
        let want = Counted {
            events: 3,
            quarantined: 0,
        };
        assert_eq!(counted, want);
        let sizes: Vec<(Lane, usize)> = commit
            .batches
            .iter()
            .map(|(lane, items)| (*lane, items.len()))
            .collect();
        assert_eq!(sizes, [(Lane::Events, 3)]);
        let cursor = Effect::Cursor {
            source: source(),
            cursor: vec![2],
        };
        assert_eq!(commit.effects, [cursor]);
    }

    #[test]
    fn a_burst_is_cut_into_batches_in_its_order_and_what_is_set_aside_is_told() {
        let text = |letter: &str, bytes: usize| vec![letter.repeat(bytes)];
        let half = limits::BATCH_TARGET_BYTES / 2;
        let page = vec![
            fact(&text("a", half - 100), 1),
            fact(&text("b", half - 100), 2),
            fact(&text("c", half + 100), 3),
            fact(&text("d", 1), 4),
            Fact::Events {
                events: BatchBuilder::default(),
                quarantined: vec![Quarantined {
                    place: "f:1".into(),
                    reason: "no JSON".into(),
                    bytes: 3,
                }],
                cursor: vec![5],
            },
        ];
        let (commit, counted) = batch(source(), page);
        let want = Counted {
            events: 4,
            quarantined: 1,
        };
        assert_eq!(counted, want);
        let lanes: Vec<Lane> = commit.batches.iter().map(|(lane, _)| *lane).collect();
        assert_eq!(lanes, [Lane::Events, Lane::Events, Lane::Results]);
        let events = commit.batches.iter().take(2);
        let letters: Vec<String> = events
            .map(|(_, items)| {
                let raws = items
                    .items()
                    .map(|item| decode_item::<EventRecord>(item).unwrap().raw);
                raws.map(|raw| raw[..1].to_owned()).collect()
            })
            .collect();
        assert_eq!(letters, ["ab", "cd"]);
    }

    fn scope() -> Scope {
        Scope::of_type("aws.ec2.vpc", "123456789012", "us-east-1")
    }

    fn found(id: &str) -> Fact {
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
            config: json!({}),
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

    /// One sync of a source under way: its collector's end, and its task.
    struct Sync(Sender<Fact>, JoinHandle<()>);

    impl Sync {
        fn start(spool: &Spool, scopes: &Arc<Scopes>, name: &str) -> Self {
            let (sender, facts) = channel(FACTS);
            let (spool, hold) = (spool.clone(), scopes.hold(name));
            let id = SourceId::derived(&[name.as_bytes()]);
            let taking = async move { sweeps(&spool, id, hold, facts).await.unwrap() };
            Self(sender, tokio::spawn(taking))
        }

        /// Sends facts and waits until they are taken.
        async fn send(&self, facts: Vec<Fact>) {
            for fact in facts {
                self.0.send(fact).await.unwrap();
            }
            while self.0.capacity() < self.0.max_capacity() {
                tokio::task::yield_now().await;
            }
        }

        async fn end(self) {
            drop(self.0);
            self.1.await.unwrap();
        }
    }

    async fn known(spool: &Spool) -> (Vec<String>, u64) {
        let known = spool.call(|engine| {
            let known = engine.known()?;
            let scope = scope().to_string();
            Ok::<_, SpoolError>((known.ids(&scope)?, known.generation(&scope)?))
        });
        known.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn an_older_list_of_another_source_retires_nothing_that_the_first_found() {
        let folder = tempfile::tempdir().unwrap();
        let opened = spool::tests::open(folder.path());
        let (spool, scopes) = (&opened.spool, Arc::default());
        let before = Sync::start(spool, &scopes, "prod");
        before.send(vec![began(), found("a"), ended()]).await;
        before.end().await;
        let prod = Sync::start(spool, &scopes, "prod");
        let twice = Sync::start(spool, &scopes, "twice");
        prod.send(vec![began(), found("a")]).await;
        twice.send(vec![began(), found("a")]).await;
        prod.send(vec![found("b"), ended()]).await;
        prod.end().await;
        assert_eq!(known(spool).await, (vec!["a".into(), "b".into()], 2));
        // What it began while the other read stays left out when the other is done.
        twice.send(vec![ended()]).await;
        twice.end().await;
        assert_eq!(known(spool).await, (vec!["a".into(), "b".into()], 2));
        let next = Sync::start(spool, &scopes, "twice");
        next.send(vec![began(), found("b"), ended()]).await;
        next.end().await;
        assert_eq!(known(spool).await, (vec!["b".into()], 3));
        spool::tests::close(opened);
    }

    #[tokio::test]
    async fn a_sync_that_is_cut_off_gives_its_scopes_back() {
        let folder = tempfile::tempdir().unwrap();
        let opened = spool::tests::open(folder.path());
        let (spool, scopes) = (&opened.spool, Arc::default());
        let cut = Sync::start(spool, &scopes, "prod");
        cut.send(vec![began()]).await;
        cut.1.abort();
        assert!(cut.1.await.unwrap_err().is_cancelled());
        let next = Sync::start(spool, &scopes, "twice");
        next.send(vec![began(), found("a"), ended()]).await;
        next.end().await;
        assert_eq!(known(spool).await, (vec!["a".into()], 1));
        spool::tests::close(opened);
    }
}
