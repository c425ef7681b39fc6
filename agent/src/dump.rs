//! `collect`: one sync of one source to standard output, without a hub.

use std::io::{self, BufWriter, Write};

use collect::{CollectError, Fact, Output, Summary, Until};
use protocol::batch::decode_item;
use protocol::event::EventView;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::connect::{Connected, Connector};
use crate::exit::{Exit, Failure};
use crate::sources::Source;
use crate::sync::SyncError;

/// Facts that may queue between the collector and standard output.
const FACTS: usize = 64;

/// Most records that are named one by one.
pub(crate) const SHOWN: usize = 20;

/// How documents are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DumpForm {
    /// One a line.
    Lines,
    /// All in one JSON array.
    Array,
}

/// What went through.
#[derive(Debug, Default)]
pub(crate) struct Dumped {
    pub(crate) summary: Summary,
    /// Scopes that could not be read whole: scope, call, error.
    pub(crate) failed: Vec<(String, String, String)>,
    /// How many records were set aside.
    pub(crate) quarantined: u64,
    /// The first of them: place and reason.
    pub(crate) set_aside: Vec<(String, String)>,
}

/// Collects once and writes one document (or event) after the other.
///
/// # Errors
///
/// When the source cannot be read at all, or standard output fails.
pub(crate) async fn dump(
    connector: &Connector,
    source: &Source,
    form: DumpForm,
    stop: &CancellationToken,
) -> Result<Dumped, Failure> {
    let connected = connector
        .connect(source)
        .await
        .map_err(|error| failure(source, error))?;
    let (out, facts) = Output::channel(FACTS);
    let reading = async move {
        match connected {
            Connected::Inventory(inventory) => inventory.sync(&out, stop).await,
            Connected::Tail(tail) => tail.follow(None, &out, Until::CaughtUp, stop).await,
        }
    };
    let (read, written) = tokio::join!(reading, write(facts, form));
    let mut dumped = match written {
        Ok(dumped) => dumped,
        // `collect prod | head` is not a failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Dumped::default()),
        Err(error) => {
            let clause = "cannot write to standard output";
            return Err(Failure::of(Exit::No, clause, error));
        }
    };
    dumped.summary = read.map_err(|error| failure(source, error.into()))?;
    Ok(dumped)
}

async fn write(mut facts: Receiver<Fact>, form: DumpForm) -> io::Result<Dumped> {
    let mut out = BufWriter::new(io::stdout());
    let mut dumped = Dumped::default();
    let mut is_first = true;
    let mut line = |out: &mut BufWriter<io::Stdout>, text: String| match form {
        DumpForm::Lines => writeln!(out, "{text}"),
        DumpForm::Array => {
            let before = if is_first { "[" } else { ",\n" };
            is_first = false;
            write!(out, "{before}{text}")
        }
    };
    while let Some(fact) = facts.recv().await {
        match fact {
            Fact::Document(document) => {
                let text = serde_json::to_string(&document).map_err(io::Error::other)?;
                line(&mut out, text)?;
            }
            Fact::Events {
                events,
                quarantined,
                ..
            } => {
                for item in events.items() {
                    let event: EventView<'_> = decode_item(item).map_err(io::Error::other)?;
                    let text = serde_json::to_string(&event).map_err(io::Error::other)?;
                    line(&mut out, text)?;
                }
                dumped.quarantined += u64::try_from(quarantined.len()).unwrap_or(u64::MAX);
                for record in quarantined {
                    if dumped.set_aside.len() < SHOWN {
                        dumped.set_aside.push((record.place, record.reason));
                    }
                }
            }
            Fact::Failed { scope, gap } => {
                let failed = (scope.to_string(), gap.call, gap.error);
                dumped.failed.push(failed);
            }
            Fact::Began { .. } | Fact::Ended { .. } => {}
        }
        if facts.is_empty() {
            out.flush()?;
        }
    }
    if form == DumpForm::Array {
        writeln!(out, "{}", if is_first { "[]" } else { "]" })?;
    }
    out.flush()?;
    Ok(dumped)
}

/// Says which source could not be read, and how its error ends the program.
pub(crate) fn failure(source: &Source, error: SyncError) -> Failure {
    let name = &source.name;
    let exit = match &error {
        SyncError::Collect(CollectError::Credentials { .. }) => Exit::Forbidden,
        SyncError::Collect(CollectError::Unreachable { .. }) => Exit::Unreachable,
        SyncError::Collect(CollectError::Setting { .. }) | SyncError::Sources(_) => Exit::Config,
        SyncError::Collect(_) | SyncError::Vault(_) | SyncError::Spool(_) => Exit::No,
    };
    let fix = match &error {
        SyncError::Collect(CollectError::Credentials { .. }) => format!(
            "give this host a role, or a secret with `zero-x-agent source rotate {name} \
             --secret-file F`; `zero-x-agent source policy {name}` prints the rights it needs"
        ),
        SyncError::Collect(CollectError::Unreachable { .. }) => {
            "check the way out, or `endpoint=`".to_owned()
        }
        // Only a manager's alerts are a file.
        SyncError::Collect(CollectError::File { source, .. }) => {
            crate::manage::unreadable_alerts(source)
        }
        SyncError::Collect(_) | SyncError::Sources(_) => {
            "remove the source and add it again with other settings".to_owned()
        }
        SyncError::Vault(_) => {
            format!("give the secret again: `zero-x-agent source rotate {name} --secret-file F`")
        }
        SyncError::Spool(_) => "run `zero-x-agent doctor`".to_owned(),
    };
    Failure::of(exit, format!("the source {name} cannot be read"), error).fix(fix)
}
