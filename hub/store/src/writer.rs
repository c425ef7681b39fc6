//! One thread per owner that commits its writes, several at a time.
//!
//! ```text
//! submit ─▶ queue ─▶ turn of each, in order of arrival ─▶ one sync ─▶ everybody is answered
//! ```
//! While a sync runs, those who arrive wait and share the next one, so a busy owner pays one sync
//! for many writes and a quiet one waits for nothing. A write that is refused is answered after
//! the sync too: what refused it may stand in the same group and be lost with it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::{Engine, Group};
use crate::error::{EngineError, Fatal};
use crate::load::Pulse;

/// Most writes that share one sync.
const GROUP_WRITES: usize = 64;

/// How long a group takes in further writes. They hold up those that came first.
const GROUP_TIME: Duration = Duration::from_millis(5);

/// Writes that wait for their turn. Who comes when it is full waits, and with him the session
/// that he works for.
const QUEUE_WRITES: usize = GROUP_WRITES;

/// Why a write did not become durable.
#[derive(Debug, Clone)]
pub(crate) enum WriteFailure {
    /// Durability is lost.
    Fatal(Fatal),
    /// The engine failed; nothing was stored.
    Engine(EngineError),
    /// The store is closing.
    Closed,
}

/// Says once, and to everybody, that durability is lost.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    first: Arc<watch::Sender<Option<Fatal>>>,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Self {
            first: Arc::new(watch::Sender::new(None)),
        }
    }

    pub(crate) fn raised(&self) -> Option<Fatal> {
        self.first.borrow().clone()
    }

    pub(crate) fn raise(&self, fatal: Fatal) {
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                tracing::error!(reason = %fatal.reason, "durability is lost");
                *first = Some(fatal);
            }
            is_first
        });
    }

    /// Waits until it is raised.
    pub(crate) async fn wait(&self) -> Fatal {
        let mut first = self.first.subscribe();
        let raised = first
            .wait_for(Option::is_some)
            .await
            .map(|found| found.clone());
        match raised {
            Ok(Some(fatal)) => fatal,
            // The sender lives as long as `self`, and the condition says that it is set.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// The way to the writing thread of one owner.
pub(crate) struct Writer {
    queue: RwLock<Option<mpsc::Sender<Box<dyn Job>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    alarm: Alarm,
    pulse: Arc<Pulse>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        alarm: Alarm,
        pulse: Arc<Pulse>,
    ) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_WRITES);
        let (raising, noting) = (alarm.clone(), Arc::clone(&pulse));
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&*engine, jobs, &raising, &noting))?;
        Ok(Self {
            queue: RwLock::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            alarm,
            pulse,
        })
    }

    /// Returns how many writes wait for their turn.
    pub(crate) fn waiting(&self) -> usize {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        queue
            .as_ref()
            .map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    /// Runs `work` in its turn and returns what it came to, once that is durable. `work` may run
    /// more than once; `after` runs once, on the writing thread, in the order of the commits, and
    /// only if the work succeeded.
    ///
    /// Dropping the future does not take back a write that was queued.
    pub(crate) async fn submit<R, E, W, A>(
        &self,
        work: W,
        after: A,
    ) -> Result<Result<R, E>, WriteFailure>
    where
        R: Send + 'static,
        E: Send + 'static,
        W: FnMut(&mut dyn Group) -> Result<Result<R, E>, EngineError> + Send + 'static,
        A: FnOnce(&mut R) + Send + 'static,
    {
        if let Some(fatal) = self.alarm.raised() {
            return Err(WriteFailure::Fatal(fatal));
        }
        let queue = self
            .queue
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let queue = queue.ok_or(WriteFailure::Closed)?;
        let (answer, answered) = oneshot::channel();
        let task = Task {
            work,
            after,
            outcome: None,
            answer,
            came: Instant::now(),
            pulse: Arc::clone(&self.pulse),
        };
        queue.send(Box::new(task)).await.map_err(|_| self.ended())?;
        drop(queue);
        answered.await.map_err(|_| self.ended())?
    }

    /// Why a thread that is gone is gone.
    fn ended(&self) -> WriteFailure {
        self.alarm
            .raised()
            .map_or(WriteFailure::Closed, WriteFailure::Fatal)
    }

    /// Says whether writes wait for their turn.
    pub(crate) fn is_busy(&self) -> bool {
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner);
        let waits = |queue: &mpsc::Sender<_>| queue.capacity() < queue.max_capacity();
        queue.as_ref().is_some_and(waits)
    }

    /// Commits what waits and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        drop(
            self.queue
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            self.alarm.raise(Fatal {
                reason: "the writing thread panicked".into(),
            });
        }
    }
}

/// A write that waits for its turn.
trait Job: Send {
    /// Does its work. An error ends the group.
    fn run(&mut self, group: &mut dyn Group) -> Result<(), EngineError>;

    /// Answers who waits for it.
    fn end(self: Box<Self>, stored: Result<(), WriteFailure>);
}

struct Task<R, E, W, A> {
    work: W,
    after: A,
    outcome: Option<Result<R, E>>,
    answer: oneshot::Sender<Result<Result<R, E>, WriteFailure>>,
    came: Instant,
    pulse: Arc<Pulse>,
}

impl<R, E, W, A> Job for Task<R, E, W, A>
where
    R: Send,
    E: Send,
    W: FnMut(&mut dyn Group) -> Result<Result<R, E>, EngineError> + Send,
    A: FnOnce(&mut R) + Send,
{
    fn run(&mut self, group: &mut dyn Group) -> Result<(), EngineError> {
        self.outcome = None;
        self.outcome = Some((self.work)(group)?);
        Ok(())
    }

    fn end(self: Box<Self>, stored: Result<(), WriteFailure>) {
        let Self {
            after,
            outcome,
            answer,
            came,
            pulse,
            ..
        } = *self;
        match &stored {
            Ok(()) => pulse.writes.note(came.elapsed()),
            Err(_) => pulse.failed(),
        }
        let told = stored
            .and_then(|()| outcome.ok_or(WriteFailure::Closed))
            .map(|mut outcome| {
                if let Ok(done) = &mut outcome {
                    after(done);
                }
                outcome
            });
        // Nobody waits when the caller's future was dropped; the write stands all the same.
        let _ = answer.send(told);
    }
}

/// The writing thread.
fn run(engine: &dyn Engine, mut queue: mpsc::Receiver<Box<dyn Job>>, alarm: &Alarm, pulse: &Pulse) {
    while let Some(first) = queue.blocking_recv() {
        if let Some(fatal) = alarm.raised() {
            first.end(Err(WriteFailure::Fatal(fatal)));
            continue;
        }
        let mut jobs = vec![first];
        let begun = Instant::now();
        let stored = commit(engine, &mut jobs, Some(&mut queue));
        if stored.is_ok() {
            pulse.commits.note(begun.elapsed());
        }
        match stored {
            // One of them meets a damaged page. The others shall not share its fate.
            Err(EngineError::Damaged(_)) if jobs.len() > 1 => {
                for job in jobs {
                    let mut alone = vec![job];
                    let stored = commit(engine, &mut alone, None);
                    answer(alone, stored, alarm);
                }
            }
            stored => answer(jobs, stored, alarm),
        }
    }
}

/// Commits the jobs and those that wait, as far as they fit in.
fn commit(
    engine: &dyn Engine,
    jobs: &mut Vec<Box<dyn Job>>,
    mut queue: Option<&mut mpsc::Receiver<Box<dyn Job>>>,
) -> Result<(), EngineError> {
    engine.group(&mut |group| {
        let begun = Instant::now();
        for job in jobs.iter_mut() {
            job.run(group)?;
        }
        while jobs.len() < GROUP_WRITES && begun.elapsed() < GROUP_TIME {
            let next = queue.as_mut().and_then(|queue| queue.try_recv().ok());
            let Some(mut job) = next else { break };
            let ran = job.run(group);
            jobs.push(job);
            ran?;
        }
        Ok(())
    })
}

fn answer(jobs: Vec<Box<dyn Job>>, stored: Result<(), EngineError>, alarm: &Alarm) {
    let stored = stored.map_err(|error| match error {
        EngineError::Fatal(reason) => {
            let fatal = Fatal { reason };
            alarm.raise(fatal.clone());
            WriteFailure::Fatal(fatal)
        }
        EngineError::Full | EngineError::Damaged(_) | EngineError::Io(_) => {
            WriteFailure::Engine(error)
        }
    });
    for job in jobs {
        job.end(stored.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::MemoryEngine;
    use crate::engine::{Read, Work, WriteSet};
    use crate::tables::Table;
    use std::sync::mpsc as gate;

    /// A model whose syncs take as long as the test wants, and fail as it wants.
    struct Slow {
        model: MemoryEngine,
        /// Says that a sync has begun.
        begun: gate::SyncSender<()>,
        /// What the sync comes to.
        ends: Mutex<gate::Receiver<Result<(), EngineError>>>,
    }

    impl Engine for Slow {
        fn group(&self, work: &mut Work<'_>) -> Result<(), EngineError> {
            let mut synced = Ok(());
            self.model.group(&mut |group| {
                work(group)?;
                self.begun.send(()).unwrap();
                synced = self.ends.lock().unwrap().recv().unwrap();
                synced.clone()
            })
        }

        fn snapshot(&self) -> Result<Box<dyn Read>, EngineError> {
            self.model.snapshot()
        }

        fn close(&self) {}
    }

    struct Bench {
        writer: Arc<Writer>,
        engine: Arc<Slow>,
        begun: gate::Receiver<()>,
        ends: gate::SyncSender<Result<(), EngineError>>,
        alarm: Alarm,
    }

    fn start() -> Bench {
        let (begin, begun) = gate::sync_channel(100);
        let (ends, end) = gate::sync_channel(100);
        let engine = Arc::new(Slow {
            model: MemoryEngine::default(),
            begun: begin,
            ends: Mutex::new(end),
        });
        let alarm = Alarm::new();
        let running: Arc<dyn Engine> = engine.clone();
        let writer = Arc::new(Writer::start(running, alarm.clone(), Arc::default()).unwrap());
        Bench {
            writer,
            engine,
            begun,
            ends,
            alarm,
        }
    }

    type Answer = tokio::task::JoinHandle<Result<Result<u64, ()>, WriteFailure>>;

    /// Queues a write of one row; the answer is its commit.
    fn put(bench: &Bench, name: &str) -> Answer {
        let (writer, name) = (Arc::clone(&bench.writer), name.to_owned());
        tokio::spawn(async move {
            let work = move |group: &mut dyn Group| {
                let mut set = WriteSet::default();
                set.put(Table::Meta, name.clone().into_bytes(), vec![]);
                group.apply(&set).map(|applied| applied.map_err(drop))
            };
            writer.submit(work, |_| ()).await
        })
    }

    /// Waits until so many writes wait for their turn.
    async fn queued(bench: &Bench, count: usize) {
        while bench.writer.waiting() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn writes_that_wait_for_a_sync_share_the_next_one() {
        let bench = start();
        let first = put(&bench, "first");
        let bench = tokio::task::spawn_blocking(move || {
            bench.begun.recv().unwrap();
            bench
        })
        .await
        .unwrap();
        let mut rest: Vec<Answer> = Vec::new();
        for n in 0..10 {
            rest.push(put(&bench, &n.to_string()));
        }
        queued(&bench, 10).await;
        assert!(!first.is_finished());
        bench.ends.send(Ok(())).unwrap();
        bench.ends.send(Ok(())).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), Ok(1));
        let mut commits: Vec<u64> = Vec::new();
        for answer in rest {
            commits.push(answer.await.unwrap().unwrap().unwrap());
        }
        commits.sort_unstable();
        assert_eq!(commits, (2..=11).collect::<Vec<u64>>());
        // Eleven writes, two syncs.
        assert_eq!(bench.begun.try_iter().count(), 1);
    }

    #[tokio::test]
    async fn a_fatal_error_raises_the_alarm_and_refuses_everything_after_it() {
        let bench = start();
        bench
            .ends
            .send(Err(EngineError::Fatal("fsync failed".into())))
            .unwrap();
        let failed = put(&bench, "a").await.unwrap().unwrap_err();
        assert!(matches!(failed, WriteFailure::Fatal(_)));
        let want = Fatal {
            reason: "fsync failed".into(),
        };
        assert_eq!(bench.alarm.raised(), Some(want.clone()));
        assert_eq!(bench.alarm.wait().await, want);
        bench.ends.send(Ok(())).unwrap();
        let after = put(&bench, "b").await.unwrap().unwrap_err();
        assert!(matches!(after, WriteFailure::Fatal(fatal) if fatal == want));
        assert_eq!(bench.engine.snapshot().unwrap().last_commit().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_full_disk_is_said_and_passes() {
        let bench = start();
        bench.ends.send(Err(EngineError::Full)).unwrap();
        let failed = put(&bench, "a").await.unwrap().unwrap_err();
        assert!(matches!(failed, WriteFailure::Engine(EngineError::Full)));
        assert_eq!(bench.alarm.raised(), None);
        bench.ends.send(Ok(())).unwrap();
        assert_eq!(put(&bench, "a").await.unwrap().unwrap(), Ok(1));
    }

    #[tokio::test]
    async fn closing_commits_what_waits_and_refuses_what_comes() {
        let bench = start();
        let answers: Vec<Answer> = (0..5).map(|n| put(&bench, &n.to_string())).collect();
        let bench = tokio::task::spawn_blocking(move || {
            bench.begun.recv().unwrap();
            bench
        })
        .await
        .unwrap();
        for _ in 0..10 {
            bench.ends.send(Ok(())).unwrap();
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let writer = Arc::clone(&bench.writer);
        tokio::task::spawn_blocking(move || writer.close())
            .await
            .unwrap();
        for answer in answers {
            answer.await.unwrap().unwrap().unwrap();
        }
        assert_eq!(bench.engine.snapshot().unwrap().last_commit().unwrap(), 5);
        let late = put(&bench, "late").await.unwrap().unwrap_err();
        assert!(matches!(late, WriteFailure::Closed));
    }

    #[tokio::test]
    async fn one_write_that_meets_damage_does_not_take_the_others_with_it() {
        let bench = start();
        let blocker = put(&bench, "blocker");
        let bench = tokio::task::spawn_blocking(move || {
            bench.begun.recv().unwrap();
            bench
        })
        .await
        .unwrap();
        let writer = Arc::clone(&bench.writer);
        let hurt = tokio::spawn(async move {
            let work = |_: &mut dyn Group| -> Result<Result<u64, ()>, EngineError> {
                Err(EngineError::Damaged("a page".into()))
            };
            writer.submit(work, |_| ()).await
        });
        queued(&bench, 1).await;
        let sound = put(&bench, "sound");
        queued(&bench, 2).await;
        for _ in 0..4 {
            bench.ends.send(Ok(())).unwrap();
        }
        assert_eq!(blocker.await.unwrap().unwrap(), Ok(1));
        let failed = hurt.await.unwrap().unwrap_err();
        assert!(matches!(
            failed,
            WriteFailure::Engine(EngineError::Damaged(_))
        ));
        assert_eq!(sound.await.unwrap().unwrap(), Ok(2));
    }
}
