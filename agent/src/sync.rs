//! Reads the sources: each in a task of its own, when it is due, into the spool.
//!
//! [`sweep`] decides what of an inventory is told to the hub, [`timetable`] when the next sync
//! begins, [`cron`] reads fixed times, [`intake`] carries facts into the spool, [`scopes`]
//! keeps two sources from sweeping the same at the same time, [`board`] keeps what `status` shows.
//! This module owns the tasks.

pub(crate) mod board;
pub(crate) mod cron;
mod intake;
mod scopes;
pub(crate) mod sweep;
mod timetable;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use collect::{CollectError, Fault, Output, Summary, Until};
use jiff::Timestamp;
use protocol::batch::BatchBuilder;
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::wire::v1::{ReportItem, SourceReport};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info, info_span, warn};

use crate::connect::{Connected, Connector};
use crate::show::neutral;
use crate::sources::{Source, Sources, SourcesError};
use crate::spool::{Commit, Spool, SpoolError};
use board::{Board, Phase};
use scopes::Scopes;

/// Syncs that run at the same time. Each holds pages of answers in memory.
const SYNCS: usize = 2;

/// Facts that may queue between a collector and the spool; when full, the collector waits.
const FACTS: usize = 64;

/// The same for a tail, whose facts are a batch of events each.
const STEPS: usize = 8;

/// Most failed calls that one report lists.
const FAULTS: usize = 200;

/// Most different failed calls that the log names after one sync.
const FAULTS_LOGGED: usize = 10;

/// How often the list of sources is looked at for changes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Pause after a sync that failed because of the spool: it is tried again until it can be used.
const SPOOL_PAUSE: Duration = Duration::from_secs(10);

/// Shortest pause between two syncs that the hub asks for.
const RESYNC_PAUSE: Duration = Duration::from_secs(30);

/// When sources are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Pause between two syncs of a source without its own.
    pub(crate) interval: Duration,
    /// Longest random delay of a sync.
    pub(crate) jitter: Duration,
    /// How long `run --once` waits for the hub.
    pub(crate) once_timeout: Duration,
}

/// Says why a sync did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SyncError {
    /// The source could not be read at all.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// Its settings or secret cannot be used.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// Its secret cannot be read.
    #[error(transparent)]
    Vault(#[from] crate::vault::VaultError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// Reads sources into the spool.
#[derive(Debug)]
pub(crate) struct Syncer {
    pub(crate) spool: Spool,
    pub(crate) connector: Connector,
    pub(crate) config: Config,
    pub(crate) board: Arc<Board>,
    turns: Semaphore,
    scopes: Arc<Scopes>,
}

impl Syncer {
    pub(crate) fn new(
        spool: Spool,
        connector: Connector,
        config: Config,
        board: Arc<Board>,
    ) -> Self {
        Self {
            spool,
            connector,
            config,
            board,
            turns: Semaphore::new(SYNCS),
            scopes: Arc::default(),
        }
    }

    /// Keeps every source synced until `stop`; follows changes of the list.
    ///
    /// `wake` looks at the list at once; `resync` syncs everything soon.
    pub(crate) async fn run(
        self: Arc<Self>,
        wake: Arc<Notify>,
        resync: Arc<Notify>,
        stop: CancellationToken,
    ) {
        let tasks = TaskTracker::new();
        let mut running: BTreeMap<SourceId, (Source, CancellationToken)> = BTreeMap::new();
        let (again, _) = watch::channel(0u64);
        let mut last_resync: Option<Instant> = None;
        let mut warned = false;
        loop {
            match Sources::load(self.connector.layout()) {
                Ok(sources) => {
                    warned = false;
                    self.follow_list(&sources, &mut running, &tasks, &again, &stop)
                        .await;
                }
                // The last good list stays in force.
                Err(error) if !warned => {
                    warned = true;
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the list of sources cannot be read"
                    );
                }
                Err(_) => {}
            }
            let may_resync = last_resync.is_none_or(|at| at.elapsed() >= RESYNC_PAUSE);
            // Every branch may be cancelled: notifications are kept, sleeps have no effect.
            tokio::select! {
                () = stop.cancelled() => break,
                () = wake.notified() => {}
                () = resync.notified(), if may_resync => {
                    last_resync = Some(Instant::now());
                    again.send_modify(|count| *count += 1);
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn follow_list(
        self: &Arc<Self>,
        sources: &Sources,
        running: &mut BTreeMap<SourceId, (Source, CancellationToken)>,
        tasks: &TaskTracker,
        again: &watch::Sender<u64>,
        stop: &CancellationToken,
    ) {
        let gone: Vec<SourceId> = running
            .iter()
            .filter(|(_, (known, _))| sources.iter().all(|source| source != known))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some((source, token)) = running.remove(&id) else {
                continue;
            };
            token.cancel();
            self.board.remove(id);
            if sources.iter().all(|source| source.id != id) {
                info!(source = %source.name, "source removed");
                let forgotten = self
                    .spool
                    .call(move |engine| engine.forget_cursor(id))
                    .await;
                if let Err(error) = forgotten.and_then(|inner| inner) {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "a cursor could not be removed"
                    );
                }
            }
        }
        for source in sources.iter() {
            let Entry::Vacant(place) = running.entry(source.id) else {
                continue;
            };
            let token = stop.child_token();
            place.insert((source.clone(), token.clone()));
            self.board.add(source);
            let keeping = self.clone().keep(source.clone(), again.subscribe(), token);
            tasks.spawn(keeping.instrument(span(source)));
        }
    }

    /// Syncs one source whenever it is due.
    async fn keep(
        self: Arc<Self>,
        source: Source,
        mut again: watch::Receiver<u64>,
        stop: CancellationToken,
    ) {
        let mut failures = 0u32;
        loop {
            let result = self.sync(&source, Until::Stopped, &stop).await;
            if stop.is_cancelled() {
                return;
            }
            let is_spools = matches!(&result, Err(SyncError::Spool(error)) if error.passes());
            failures = match &result {
                // Not the source's fault: it is not tried more seldom for that.
                Err(_) if is_spools => failures,
                Err(_) => failures.saturating_add(1),
                Ok(_) => 0,
            };
            let pace = source
                .parsed()
                .map(|settings| settings.pace)
                .unwrap_or_default();
            let now = Timestamp::now();
            let random = u64::from_le_bytes(crate::seal::random());
            let next = if is_spools {
                now.checked_add(SPOOL_PAUSE).unwrap_or(now)
            } else {
                timetable::next(&pace, &self.config, now, failures, random)
            };
            self.board.wait_until(source.id, next);
            let pause = Duration::try_from(next.duration_since(now)).unwrap_or_default();
            // Every branch may be cancelled: the next turn of the loop decides anew.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                changed = again.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Syncs one source once, or follows a tail `until` told, and reports to the hub.
    ///
    /// # Errors
    ///
    /// When the source could not be read or stored; the report says so too, unless the spool is
    /// what failed.
    pub(crate) async fn sync(
        &self,
        source: &Source,
        until: Until,
        stop: &CancellationToken,
    ) -> Result<Summary, SyncError> {
        let started = Timestamp::now();
        self.board.phase(source.id, Phase::Connecting);
        let connecting = self.connector.connect(source);
        let result = match stop.run_until_cancelled(connecting).await {
            None => return Ok(Summary::default()),
            Some(Err(error)) => Err(error),
            Some(Ok(Connected::Inventory(inventory))) => {
                // A closed semaphore does not happen: nothing closes it.
                let turn = stop.run_until_cancelled(self.turns.acquire()).await;
                let Some(Ok(_turn)) = turn else {
                    return Ok(Summary::default());
                };
                self.board.phase(source.id, Phase::Syncing);
                let (out, facts) = Output::channel(FACTS);
                let sweeping = async move { inventory.sync(&out, stop).await };
                let hold = self.scopes.hold(&source.name);
                let taking = intake::sweeps(&self.spool, source.id, hold, facts);
                let (swept, taken) = tokio::join!(sweeping, taking);
                // The spool's failure is the cause where both failed.
                taken
                    .map_err(SyncError::from)
                    .and(swept.map_err(SyncError::from))
            }
            Some(Ok(Connected::Tail(tail))) => {
                self.board.phase(source.id, Phase::Following);
                self.report(source, started, &Ok(Summary::default()))
                    .await?;
                let id = source.id;
                let cursor = self.spool.call(move |engine| engine.cursor(id)).await??;
                let (out, facts) = Output::channel(STEPS);
                let following = async move { tail.follow(cursor, &out, until, stop).await };
                let taking = intake::events(&self.spool, source.id, facts, &self.board);
                let (followed, taken) = tokio::join!(following, taking);
                taken
                    .map_err(SyncError::from)
                    .and(followed.map_err(SyncError::from))
            }
        };
        if stop.is_cancelled() && result.is_err() {
            return Ok(Summary::default());
        }
        match &result {
            Ok(summary) => {
                info!(
                    documents = summary.documents,
                    calls = summary.calls,
                    failed_calls = summary.faults.len(),
                    took_ms = u64::try_from(summary.took.as_millis()).unwrap_or(u64::MAX),
                    "synced"
                );
                let (told, more) = failed_calls(&summary.faults);
                for (fault, times) in told {
                    warn!(
                        call = %neutral(&fault.call),
                        error = %neutral(&fault.code),
                        times,
                        "a call failed; what it reads is unknown"
                    );
                }
                if more > 0 {
                    warn!("… and {more} more");
                }
            }
            Err(error) => warn!(
                error = error as &dyn std::error::Error,
                "the source could not be synced"
            ),
        }
        self.board
            .finished(source.id, started, Timestamp::now(), &result);
        self.report(source, started, &result).await?;
        result
    }

    async fn report(
        &self,
        source: &Source,
        started: Timestamp,
        result: &Result<Summary, SyncError>,
    ) -> Result<(), SpoolError> {
        let (summary, error) = match result {
            Ok(summary) => (summary.clone(), String::new()),
            Err(SyncError::Spool(_)) => return Ok(()),
            Err(error) => (Summary::default(), chain(error)),
        };
        let faults = summary.faults.into_iter().take(FAULTS);
        let report = SourceReport {
            name: source.name.clone(),
            kind: source.kind.name().to_owned(),
            started_ms: started.as_millisecond(),
            finished_ms: Timestamp::now().as_millisecond(),
            calls: summary.calls,
            documents: summary.documents,
            faults: faults.map(|fault| (fault.call, fault.code)).collect(),
            error,
        };
        let mut builder = BatchBuilder::default();
        builder.push(&ReportItem::Source(report))?;
        let commit = Commit {
            batches: vec![(Lane::Results, builder)],
            effects: Vec::new(),
        };
        self.spool.commit(source.id, commit).await
    }
}

/// Returns the span that says in the log which source a line is about.
pub(crate) fn span(source: &Source) -> Span {
    info_span!("source", name = %source.name, kind = source.kind.name())
}

/// Returns each different failed call once, in the order in which they failed and with how often
/// it did, as far as the log names them, and how many more there are.
fn failed_calls(faults: &[Fault]) -> (Vec<(&Fault, usize)>, usize) {
    let mut place: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut different: Vec<(&Fault, usize)> = Vec::new();
    for fault in faults {
        let at = *place
            .entry((&fault.call, &fault.code))
            .or_insert(different.len());
        match different.get_mut(at) {
            Some((_, times)) => *times += 1,
            None => different.push((fault, 1)),
        }
    }
    let more = different.len().saturating_sub(FAULTS_LOGGED);
    different.truncate(FAULTS_LOGGED);
    (different, more)
}

/// Returns an error with its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    for _ in 0..16 {
        let Some(cause) = below else { break };
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failed_call_and_error_is_told_once_and_ten_at_most() {
        let fault = |call: String, code: &str| Fault {
            call,
            code: code.to_owned(),
        };
        let read = || "s3:GetBucketPolicy".to_owned();
        let mut faults = vec![
            fault(read(), "AccessDenied"),
            fault(read(), "Throttling"),
            fault(read(), "AccessDenied"),
        ];
        let (told, more) = failed_calls(&faults);
        assert_eq!(told, [(&faults[0], 2), (&faults[1], 1)]);
        assert_eq!(more, 0);
        faults.extend((0..12).map(|at| fault(format!("ec2:Call{at}"), "AccessDenied")));
        let (told, more) = failed_calls(&faults);
        assert_eq!((told.len(), more), (FAULTS_LOGGED, 4));
    }
}
