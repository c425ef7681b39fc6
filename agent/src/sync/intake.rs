//! Carries facts from a collector into the spool, a queue's worth at a time.

use collect::Fact;
use protocol::batch::BatchBuilder;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::limits;
use protocol::wire::v1::ReportItem;
use tokio::sync::mpsc::Receiver;

use super::FACTS;
use super::board::Board;
use super::sweep::Sweeps;
use crate::spool::{Commit, Effect, Spool, SpoolError};

/// Takes the facts of one sync. Returns when the collector has dropped its end.
///
/// # Errors
///
/// When the spool fails; the collector then finds its receiver gone.
pub(super) async fn sweeps(
    spool: &Spool,
    source: SourceId,
    mut facts: Receiver<Fact>,
) -> Result<(), SpoolError> {
    let mut sweeps = Sweeps::default();
    loop {
        let mut page = Vec::with_capacity(FACTS);
        if facts.recv_many(&mut page, FACTS).await == 0 {
            break;
        }
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
        let mut page = Vec::with_capacity(FACTS);
        if facts.recv_many(&mut page, FACTS).await == 0 {
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
        for record in records {
            if record.raw.len() > limits::EVENT_RAW_BYTES {
                counted.quarantined += 1;
                reports.push(&ReportItem::Quarantined {
                    place: record.native_id,
                    reason: format!("a record of more than {} bytes", limits::EVENT_RAW_BYTES),
                    bytes: u64::try_from(record.raw.len()).unwrap_or(u64::MAX),
                });
            } else {
                counted.events += 1;
                events.push(&record);
            }
        }
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
            .expect("an event within EVENT_RAW_BYTES fits a batch that is not full");
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
    use super::*;
    use collect::Quarantined;
    use protocol::event::EventRecord;

    fn fact(raws: &[String], cursor: u8) -> Fact {
        let record = |raw: &String| EventRecord {
            raw: raw.clone(),
            ..EventRecord::default()
        };
        Fact::Events {
            events: raws.iter().map(record).collect(),
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
    fn a_burst_is_cut_into_batches_and_a_record_too_long_is_set_aside() {
        let long = "x".repeat(limits::EVENT_RAW_BYTES);
        let mut page = vec![fact(&[long.clone(), long.clone(), long.clone()], 1)];
        page.push(fact(&[format!("{long}x")], 2));
        page.push(Fact::Events {
            events: vec![],
            quarantined: vec![Quarantined {
                place: "f:1".into(),
                reason: "no JSON".into(),
                bytes: 3,
            }],
            cursor: vec![3],
        });
        let (commit, counted) = batch(source(), page);
        let want = Counted {
            events: 3,
            quarantined: 2,
        };
        assert_eq!(counted, want);
        let lanes: Vec<Lane> = commit.batches.iter().map(|(lane, _)| *lane).collect();
        let events = Lane::Events;
        assert_eq!(lanes, [events, events, events, Lane::Results]);
    }
}
