//! The air gap: batches leave in files that somebody carries, and replies come back the same way.
//!
//! ```text
//! export  spool ─▶ volumes (FILE.part, synced) ─▶ FILE, FILE.2, … ─▶ ledger
//! import  reply ─▶ checked against the pinned root ─▶ release, forget, new epoch ─▶ ledger
//! ```
//! An export leaves its batches in the spool, and the next one holds them again, until a reply
//! says that the hub has them. Where no reply can come (`--diode`) they are let go once the files
//! are on the disk; the chain of bundles and the sequences then tell the hub what never came.
//!
//! The commands work on the state directory themselves. A daemon that has no link to its hub lends
//! it to them ([`Loan`]); one that has a link sends what waits by itself, and is left alone.
//! `--sync` reads the sources first, for hosts where no daemon runs.

mod ledger;
mod reply;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use collect::Until;
use protocol::bundle::{BundleError, HubKey, Piece, VolumeReader};
use protocol::frame::Lane;
use protocol::limits;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::{BundleExport, BundleVerb, Since};
use crate::config::Config;
use crate::connect::Connector;
use crate::exit::{Exit, Failure};
use crate::identity::{Identity, IdentityError};
use crate::layout::{Layout, LayoutError, Lock};
use crate::run::stop_on_signal;
use crate::show::{self, Format};
use crate::sources::Sources;
use crate::spool::{Opened, Place, Released, Spool, SpoolError};
use crate::status::{Answer, Loan};
use crate::sync::board::Board;
use crate::sync::{Syncer, chain};
use ledger::Ledger;

/// How often a sync before an export looks whether the spool is full.
const LOOK: Duration = Duration::from_secs(1);

/// Says why a bundle was not written or a reply not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CarryError {
    /// The agent enrolled before hubs had such a key.
    #[error("this agent does not know the key that bundles for its hub are sealed to")]
    NoKey,
    /// A file is there already.
    #[error("{} is there already", path.display())]
    Exists { path: PathBuf },
    /// A file cannot be written.
    #[error("could not write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not taken", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: BundleError,
    },
    /// The bundle could not be made.
    #[error("the bundle could not be made")]
    Make(#[from] BundleError),
    /// A reply is for somebody else.
    #[error("this reply is for the agent {found}, and this is {own}")]
    Addressee { found: String, own: String },
    /// A reply is not by the hub.
    #[error("this reply is not by the hub that this agent trusts")]
    Hub(#[source] rustls::Error),
    /// The key cannot sign.
    #[error("the request for the next certificate could not be made")]
    Request(#[source] rcgen::Error),
    /// The certificate in a reply is none for this agent.
    #[error("the certificate in this reply could not be taken")]
    Certificate(#[from] IdentityError),
    /// More volumes than a bundle has.
    #[error("this would take more than {} volumes", limits::BUNDLE_VOLUMES)]
    Volumes,
    /// The spool cannot be used.
    #[error("the spool cannot be used")]
    Spool(#[from] SpoolError),
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    Layout(#[from] LayoutError),
    /// A reply enrols, and no enrolment is under way.
    #[error("this reply answers an enrolment request that this agent has not made")]
    NotAsked,
    /// The daemon is connected.
    #[error("the running agent has a link to its hub, and sends by itself what waits")]
    Online,
    /// The daemon lends to somebody else.
    #[error("another command has borrowed the running agent's state directory")]
    Taken,
    /// The daemon lends to its own user and root.
    #[error("the running agent lends its state directory to its own user and to root only")]
    Stranger,
    /// The ledger is not what this program writes.
    #[error("{} is damaged", path.display())]
    Ledger { path: PathBuf },
}

impl From<CarryError> for Failure {
    fn from(error: CarryError) -> Self {
        let fix = match &error {
            CarryError::NoKey => "enrol again: `zero-x-agent enroll --replace --token-file F`",
            CarryError::Exists { .. } => "name another file; a bundle is never written over",
            CarryError::Write { .. } => {
                "name a file in a folder that this user may write (run as root, the agent becomes \
                 the user that its state directory belongs to), on a disk with room; what was not \
                 exported stays in the spool"
            }
            CarryError::Read { .. } => {
                "the file should be readable for this user (run as root, the agent becomes the \
                 user that its state directory belongs to)"
            }
            CarryError::Refused { .. } => "nothing was changed; copy the file again, whole",
            CarryError::Addressee { .. } | CarryError::Hub(_) => {
                "nothing was changed; take it to the agent whose bundle it answers"
            }
            CarryError::Volumes => "give a larger --volume-size",
            CarryError::NotAsked => {
                "import it where `zero-x-agent enroll --bundle FILE` was run, with the same state \
                 directory"
            }
            CarryError::Online => {
                "nothing has to be carried; to carry it all the same, stop the agent first \
                 (`systemctl stop zero-x-agent`)"
            }
            CarryError::Taken => "wait until it has ended",
            CarryError::Stranger => "run as root or as zero-x-agent",
            CarryError::Ledger { .. } => {
                "move the file away; the numbering then begins anew, which the hub notices: import \
                 a reply before the next export"
            }
            CarryError::Make(_)
            | CarryError::Request(_)
            | CarryError::Certificate(_)
            | CarryError::Spool(_)
            | CarryError::Layout(_) => "run `zero-x-agent doctor`",
        };
        let exit = match &error {
            CarryError::Exists { .. } | CarryError::Volumes => Exit::Usage,
            CarryError::Refused { .. } | CarryError::Ledger { .. } => Exit::Data,
            CarryError::Addressee { .. }
            | CarryError::Hub(_)
            | CarryError::NotAsked
            | CarryError::Stranger => Exit::Forbidden,
            CarryError::NoKey => Exit::Config,
            CarryError::Write { .. }
            | CarryError::Read { .. }
            | CarryError::Online
            | CarryError::Taken
            | CarryError::Make(_)
            | CarryError::Request(_)
            | CarryError::Certificate(_)
            | CarryError::Spool(_)
            | CarryError::Layout(_) => Exit::No,
        };
        Failure::of(exit, "nothing was carried", error).fix(fix)
    }
}

/// Runs one verb.
///
/// # Errors
///
/// When it could not do what was asked.
pub(crate) async fn run(
    verb: BundleVerb,
    config: &Config,
    format: Format,
) -> Result<Exit, Failure> {
    match verb {
        BundleVerb::Export(args) => export(args, config, format).await,
        BundleVerb::Import { file } => reply::import(&file, config, format).await,
        BundleVerb::Verify { file } => verify(&file, config, format),
    }
}

/// The state directory in the hands of a command. Dropped in this order, so that the daemon finds
/// it free when it gets it back.
struct Held {
    _lock: Lock,
    _loan: Option<Loan>,
}

/// Takes the state directory, from the running daemon where there is one.
///
/// # Errors
///
/// When the daemon has a link to its hub, or another command has the state directory.
async fn hold(layout: &Layout, config: &Config) -> Result<Held, Failure> {
    let busy = match layout.lock() {
        Ok(lock) => {
            let (_lock, _loan) = (lock, None);
            return Ok(Held { _lock, _loan });
        }
        Err(busy @ LayoutError::Busy { .. }) => busy,
        Err(error) => return Err(error.into()),
    };
    let asked = Loan::ask(&config.runtime_dir()).await;
    // Whoever has it is no daemon.
    let Ok(answered) = asked else {
        return Err(busy.into());
    };
    let loan = answered.map_err(|no| match no {
        Answer::Online => CarryError::Online,
        Answer::Stranger => CarryError::Stranger,
        Answer::Taken | Answer::Lent => CarryError::Taken,
    })?;
    let _lock = layout.lock()?;
    let _loan = Some(loan);
    Ok(Held { _lock, _loan })
}

/// What an export wrote.
#[derive(Debug, Serialize)]
struct Report {
    bundle: u64,
    files: Vec<PathBuf>,
    batches: usize,
    bytes: u64,
    /// Whether the batches were let go.
    released: bool,
}

fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::of(Exit::No, "cannot write to standard output", error))
}

/// Closes the spool: what was written is on the disk when this returns.
fn close(spool: Spool, thread: std::thread::JoinHandle<()>) {
    drop(spool);
    if thread.join().is_err() {
        warn!("the spool's thread panicked at its end");
    }
}

fn unusable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::of(Exit::Data, "the identity cannot be used", error)
        .fix("enrol again: `zero-x-agent enroll --replace --token-file F`")
}

fn open(layout: &Layout, identity: &Identity, config: &Config) -> Result<Opened, Failure> {
    let signer = identity.signer().map_err(unusable)?;
    let opened = Spool::open(
        &layout.spool(),
        config.spool,
        identity.spool_key(),
        Box::new(signer),
    )?;
    Ok(opened)
}

async fn export(args: BundleExport, config: &Config, format: Format) -> Result<Exit, Failure> {
    let layout = Layout::new(&config.state_dir);
    let _held = hold(&layout, config).await?;
    Identity::recover(&layout)?;
    let identity = Identity::load(&layout)?;
    let key = identity.bundle_key.ok_or(CarryError::NoKey)?;
    if args.file.exists() {
        let path = args.file.clone();
        return Err(CarryError::Exists { path }.into());
    }
    let opened = open(&layout, &identity, config)?;
    let (spool, thread) = (opened.spool.clone(), opened.thread);
    let mut failed = Vec::new();
    if args.sync {
        failed = sync(&spool, &layout, config).await?;
    }
    let exported = write_out(&args, &layout, &identity, &key, &spool, spool.epoch()).await;
    drop(opened.spool);
    close(spool, thread);
    let report = exported?;
    info!(
        bundle = report.bundle,
        batches = report.batches,
        "bundle exported"
    );
    written(show::object(&report, format))?;
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    let clause = format!(
        "{} sources could not be synced; the bundle is written",
        failed.len()
    );
    Err(Failure::of(Exit::No, clause, failed.join("; "))
        .fix("`zero-x-agent source test NAME` shows what is missing"))
}

/// Syncs every source once, or until the spool is full. Returns what failed.
async fn sync(spool: &Spool, layout: &Layout, config: &Config) -> Result<Vec<String>, Failure> {
    let sources = Sources::load(layout)?;
    let stop = stop_on_signal()?;
    let board = Arc::new(Board::default());
    let connector = Connector::new(layout.clone(), config.vault.clone());
    let syncer = Syncer::new(spool.clone(), connector, config.sync, board.clone());
    let syncing = futures::future::join_all(sources.iter().map(|source| async {
        board.add(source);
        let synced = syncer.sync(source, Until::CaughtUp, &stop).await;
        synced.map_err(|error| format!("{}: {}", source.name, chain(&error)))
    }));
    // Dropped where the spool is full: a commit is stored whole or not at all.
    tokio::select! {
        outcomes = syncing => Ok(outcomes.into_iter().filter_map(Result::err).collect()),
        () = full(spool, &stop) => Ok(vec!["the spool is full; the rest is read after the next \
                                            export that a reply has acknowledged".to_owned()]),
    }
}

/// Waits until a source waits for room in the spool.
async fn full(spool: &Spool, stop: &CancellationToken) {
    while spool.report().waiting.is_empty() {
        tokio::time::sleep(LOOK).await;
    }
    stop.cancel();
}

/// Writes the bundle and takes note of it.
async fn write_out(
    args: &BundleExport,
    layout: &Layout,
    identity: &Identity,
    key: &HubKey,
    spool: &Spool,
    epoch: protocol::wire::v1::Epoch,
) -> Result<Report, CarryError> {
    let mut ledger = Ledger::load(layout, identity.agent)?;
    let waiting = spool.call(crate::spool::Engine::waiting_batches).await??;
    let places: Vec<Place> = match args.since {
        Since::Acknowledged => waiting,
        Since::Exported => {
            let is_new = |place: &Place| ledger.mark(epoch, place.lane) <= place.after_seq;
            waiting.into_iter().filter(is_new).collect()
        }
    };
    // A number is used once, also by an export that breaks off.
    ledger.number += 1;
    if args.diode {
        ledger.released = ledger.number;
    }
    ledger.store(layout)?;
    let place = write::Bundle {
        file: &args.file,
        volume_bytes: args.volume_size,
        identity,
        key,
        epoch,
        places: &places,
    };
    let done = place.write(&ledger, spool).await?;
    ledger.previous = done.digest;
    let mut marks: Vec<(u8, u64)> = Vec::new();
    for place in &places {
        let number = place.lane.number();
        marks.retain(|(lane, _)| *lane != number);
        marks.push((number, place.last_seq));
    }
    ledger.exported(epoch, &marks);
    ledger.store(layout)?;
    if args.diode {
        for (number, last_seq) in &marks {
            let Some(lane) = Lane::from_number(*number) else {
                continue;
            };
            match spool.release(lane, *last_seq).await? {
                Released::Done => {}
                Released::Ahead => warn!(?lane, "the spool ends before what was exported"),
            }
        }
    }
    Ok(Report {
        bundle: ledger.number,
        files: done.files,
        batches: places.len(),
        bytes: done.bytes,
        released: args.diode,
    })
}

/// Checks that a bundle of this agent is whole and signed, without the hub's key.
fn verify(file: &Path, config: &Config, format: Format) -> Result<Exit, Failure> {
    let identity = Identity::load(&Layout::new(&config.state_dir))?;
    let public_key = identity.public_key().map_err(unusable)?;
    let mut bundle = 0;
    let mut files = Vec::new();
    let mut volume = 1;
    loop {
        let path = write::volume_path(file, volume);
        let header = check(&path, &public_key)?;
        if (header.org, header.agent) != (identity.org, identity.agent) {
            let (found, own) = (header.agent.to_string(), identity.agent.to_string());
            return Err(CarryError::Addressee { found, own }.into());
        }
        files.push(path.clone());
        if header.volume != volume || (volume > 1 && header.number != bundle) {
            let source = BundleError::Header("it is not the next volume of this bundle");
            return Err(CarryError::Refused { path, source }.into());
        }
        bundle = header.number;
        if volume >= header.volumes {
            break;
        }
        volume += 1;
    }
    #[derive(Serialize)]
    struct Whole {
        bundle: u64,
        files: Vec<PathBuf>,
        outcome: &'static str,
    }
    let whole = Whole {
        bundle,
        files,
        outcome: "whole and signed by this agent",
    };
    written(show::object(&whole, format))?;
    Ok(Exit::Ok)
}

/// Reads one volume to its end.
fn check(path: &Path, public_key: &[u8]) -> Result<protocol::bundle::Header, CarryError> {
    use std::io::Read as _;
    let read = |source| CarryError::Read {
        path: path.to_owned(),
        source,
    };
    let refused = |source| CarryError::Refused {
        path: path.to_owned(),
        source,
    };
    let mut file = std::fs::File::open(path).map_err(read)?;
    let mut reader = VolumeReader::new(None);
    let mut buffer = vec![0; 64 << 10];
    let mut header = None;
    loop {
        let length = file.read(&mut buffer).map_err(read)?;
        if length == 0 {
            break;
        }
        reader.push(buffer.get(..length).unwrap_or_default());
        while let Some(piece) = reader.pop().map_err(refused)? {
            if let Piece::Header(found) = piece {
                header = Some(*found);
                reader.expect_signer(public_key.to_vec());
            }
        }
    }
    reader.finish().map_err(refused)?;
    header.ok_or_else(|| refused(BundleError::Cut))
}

#[cfg(test)]
mod tests;
