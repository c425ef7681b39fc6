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
        Self { first: Arc::new(watch::Sender::new(None)) }
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
        let raised = first.wait_for(Option::is_some).await.map(|found| found.clone());
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
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(engine: Arc<dyn Engine>, alarm: Alarm) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_WRITES);
        let raising = alarm.clone();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || run(&*engine, jobs, &raising))?;
        Ok(Self { queue: RwLock::new(Some(queue)), thread: Mutex::new(Some(thread)), alarm })
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
        let queue = self.queue.read().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or(WriteFailure::Closed)?;
        let (answer, answered) = oneshot::channel();
        let task = Task { work, after, outcome: None, answer };
        queue.send(Box::new(task)).await.map_err(|_| self.ended())?;
        drop(queue);
        answered.await.map_err(|_| self.ended())?
    }

    /// Why a thread that is gone is gone.
    fn ended(&self) -> WriteFailure {
        self.alarm.raised().map_or(WriteFailure::Closed, WriteFailure::Fatal)
    }

    /// Commits what waits and ends the thread. Blocks.
    pub(crate) fn close(&self) {
        drop(self.queue.write().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            self.alarm.raise(Fatal { reason: "the writing thread panicked".into() });
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
        let Self { after, outcome, answer, .. } = *self;
        let told = stored.and_then(|()| outcome.ok_or(WriteFailure::Closed)).map(|mut outcome| {
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
fn run(engine: &dyn Engine, mut queue: mpsc::Receiver<Box<dyn Job>>, alarm: &Alarm) {
    while let Some(first) = queue.blocking_recv() {
        if let Some(fatal) = alarm.raised() {
            first.end(Err(WriteFailure::Fatal(fatal)));
            continue;
        }
        let mut jobs = vec![first];
        let stored = commit(engine, &mut jobs, Some(&mut queue));
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
