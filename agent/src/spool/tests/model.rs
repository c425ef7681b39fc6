//! The spool against a hub in memory: everything pushed is delivered once, still held, or covered
//! by exactly one record.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LANES: [Lane; 3] = [Lane::Events, Lane::Inventory, Lane::Results];

#[derive(Debug, Clone)]
enum Step {
    /// Items and bytes of each.
    Push(Lane, usize, usize),
    /// The hub stores so many batches.
    Deliver(Lane, usize),
    Acknowledge(Lane),
    RestartAgent,
    BackUpHub,
    RestoreHub,
    /// So many hours pass.
    Wait(u64),
    /// The disk is short from here on, or no longer.
    Disk(bool),
}

fn lane() -> impl Strategy<Value = Lane> {
    proptest::sample::select(LANES.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (lane(), 1usize..4, 1usize..60_000)
            .prop_map(|(lane, items, bytes)| Step::Push(lane, items, bytes)),
        4 => (lane(), 1usize..5).prop_map(|(lane, batches)| Step::Deliver(lane, batches)),
        4 => lane().prop_map(Step::Acknowledge),
        1 => Just(Step::RestartAgent),
        1 => Just(Step::BackUpHub),
        1 => Just(Step::RestoreHub),
        1 => (1u64..30).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Disk),
    ]
}

/// What the hub has stored: a text, or nothing where items were lost.
type Stored = BTreeMap<Lane, Vec<Option<String>>>;

struct World {
    folder: tempfile::TempDir,
    opened: Option<Opened>,
    config: Config,
    now: Timestamp,
    pushed: BTreeMap<Lane, Vec<String>>,
    hub: Stored,
    backup: Stored,
    was_restored: bool,
    serial: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Small enough that lanes become full and acknowledged batches have to go.
        let config = Config {
            max_bytes: 2 << 20,
            ..CONFIG
        };
        let opened = open_with(folder.path(), config, [7; 32]);
        Self {
            folder,
            opened: Some(opened),
            config,
            now: Timestamp::now(),
            pushed: BTreeMap::new(),
            hub: Stored::new(),
            backup: Stored::new(),
            was_restored: false,
            serial: 0,
        }
    }

    fn spool(&self) -> &Spool {
        &self.opened.as_ref().unwrap().spool
    }

    fn mark(&self, lane: Lane) -> u64 {
        u64::try_from(self.hub.get(&lane).map_or(0, Vec::len)).unwrap()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Push(lane, items, bytes) => {
                self.serial += 1;
                let serial = self.serial;
                let texts: Vec<String> = (0..items)
                    .map(|n| format!("{serial}.{n} {}", noise(serial, bytes)))
                    .collect();
                let commit = Commit {
                    batches: vec![(lane, batch_of(&texts))],
                    effects: vec![],
                };
                let spool = self.spool();
                let stored = spool.call(move |engine| engine.commit(serial, source(), &commit));
                if stored.await.unwrap().unwrap().is_ok() {
                    self.pushed.entry(lane).or_default().extend(texts);
                }
            }
            Step::Deliver(lane, batches) => {
                for _ in 0..batches {
                    if !self.deliver(lane).await {
                        return;
                    }
                }
            }
            Step::Acknowledge(lane) => {
                let mark = self.mark(lane);
                let released = self.spool().release(lane, mark).await.unwrap();
                assert_eq!(released, Released::Done);
            }
            Step::RestartAgent => self.restart(),
            Step::BackUpHub => self.backup = self.hub.clone(),
            Step::RestoreHub => {
                self.was_restored |= self.hub != self.backup;
                self.hub = self.backup.clone();
            }
            Step::Wait(hours) => {
                self.now += Duration::from_secs(hours * 3600);
                let now = self.now;
                let tended = self.spool().call(move |engine| engine.tend(now)).await;
                tended.unwrap().unwrap();
            }
            Step::Disk(is_short) => {
                self.config.keep_free_bytes = if is_short { u64::MAX } else { 0 };
                self.restart();
            }
        }
    }

    fn restart(&mut self) {
        close(self.opened.take().unwrap());
        self.opened = Some(open_with(self.folder.path(), self.config, [7; 32]));
    }

    /// The hub stores the next batch; returns whether there was one.
    async fn deliver(&mut self, lane: Lane) -> bool {
        let mark = self.mark(lane);
        let fetched = self.spool().fetch(lane, mark).await.unwrap();
        let Fetched::Batch(stored) = &fetched else {
            return false;
        };
        assert_eq!(stored.first_seq, mark + 1, "no gap");
        let items: Vec<Option<String>> = match lost_of(lane, &fetched) {
            Some((count, _)) => vec![None; usize::try_from(count).unwrap()],
            None => texts(lane, &fetched).into_iter().map(Some).collect(),
        };
        self.hub.entry(lane).or_default().extend(items);
        assert_eq!(self.mark(lane), stored.last_seq);
        true
    }

    /// Lets everything flow, and compares.
    async fn end(mut self) {
        for lane in LANES {
            while self.deliver(lane).await {}
            self.step(Step::Acknowledge(lane)).await;
            let line = lane_report(self.spool(), lane);
            assert_eq!((line.items, line.bytes), (0, 0));
            let pushed = self.pushed.remove(&lane).unwrap_or_default();
            let stored = self.hub.remove(&lane).unwrap_or_default();
            assert_eq!(stored.len(), pushed.len(), "{lane:?}");
            for (at, (stored, pushed)) in stored.iter().zip(&pushed).enumerate() {
                match stored {
                    Some(text) => assert!(text == pushed, "{lane:?} {at} is another item"),
                    None => assert!(self.was_restored, "{lane:?} {at} is lost"),
                }
            }
        }
        // The numbers in memory are those of the file.
        let numbers = |spool: &Spool| {
            let lanes = spool.report().lanes.into_iter();
            let number = |line: LaneReport| (line.lane, line.items, line.bytes, line.kept_bytes);
            lanes.map(number).collect::<Vec<_>>()
        };
        let before = numbers(self.spool());
        self.restart();
        assert_eq!(numbers(self.spool()), before);
        close(self.opened.take().unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn everything_pushed_is_delivered_once_or_covered_by_one_record(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        runtime().block_on(async {
            let mut world = World::new();
            for step in steps {
                world.step(step).await;
            }
            world.end().await;
        });
    }
}
