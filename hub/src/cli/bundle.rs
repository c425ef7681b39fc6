//! `bundle`: takes what agents without a way to the hub have had carried over, and writes what is
//! carried back. Through the running hub, else on the store itself.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use protocol::bundle::{Piece, VolumeReader};
use protocol::ids::AgentId;
use serde_json::Value;
use store::Store;

use super::local::told;
use super::output::{self, Format};
use super::{Bundle, BundleImport};
use crate::admin::{self, AdminError, Question};
use crate::bundle::{Asked, ImportError, Importer, Report, Volume, Written};
use crate::config::Config;
use crate::failure::{Exit, Failure};
use crate::identity::Identity;
use crate::live::Live;
use crate::opening;

/// Runs one verb.
///
/// # Errors
/// When it could not do what was asked.
pub(super) async fn run(config: &Config, what: Bundle, format: Format) -> Result<Exit, Failure> {
    match what {
        Bundle::Import(args) => {
            let asked = Asked {
                accept_gap: args.accept_gap,
                only_verify: false,
            };
            import(config, &args, asked, format).await
        }
        Bundle::Verify(args) => {
            let asked = Asked {
                accept_gap: args.accept_gap,
                only_verify: true,
            };
            import(config, &args, asked, format).await
        }
        Bundle::Reply { file, agent } => reply(config, &file, agent, format).await,
    }
}

async fn import(
    config: &Config,
    args: &BundleImport,
    asked: Asked,
    format: Format,
) -> Result<Exit, Failure> {
    let paths = beside(&args.file)?;
    let mut files = Vec::new();
    for path in &paths {
        files.push((path.display().to_string(), open(path)?));
    }
    let volumes = u32::try_from(files.len()).unwrap_or(u32::MAX);
    let question = Question::Import { volumes, asked };
    let report: Report = match admin::send(&config.data_dir, &question, &mut files).await? {
        Some(answer) => told(answer)?,
        None => {
            let files = files.into_iter();
            let volumes = files.map(|(name, file)| Volume::new(name, file)).collect();
            let (store, importer) = importer(config).await?;
            let report = importer.import(volumes, asked, Timestamp::now()).await;
            store.close().await;
            report?
        }
    };
    for note in &report.notes {
        output::note(note);
    }
    let object = serde_json::to_value(&report).expect("a report always serialises");
    let list = |numbers: &[u64]| {
        let words: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        words.join(", ")
    };
    let given_up = report.given_up.iter().map(|hole| {
        format!(
            "items {} to {} of lane {}",
            hole.first_seq, hole.last_seq, hole.lane
        )
    });
    let given_up: Vec<String> = given_up.collect();
    output::print_object(
        format,
        &object,
        &[
            ("outcome", report.outcome.clone()),
            ("agent", report.agent.to_string()),
            (
                "bundle",
                format!("{} in {} volumes", report.bundle, report.volumes),
            ),
            (
                "batches",
                format!(
                    "{} with {} items, {} stored before",
                    report.batches, report.items, report.repeats
                ),
            ),
            ("missing", list(&report.missing)),
            ("given up", given_up.join("; ")),
        ],
    )?;
    Ok(Exit::Ok)
}

async fn reply(
    config: &Config,
    path: &Path,
    agent: Option<AgentId>,
    format: Format,
) -> Result<Exit, Failure> {
    let question = Question::Reply { agent };
    let written: Written = match admin::ask(&config.data_dir, &question).await? {
        Some(answer) => told(answer)?,
        None => {
            let (store, importer) = importer(config).await?;
            let written = importer.reply(&store, agent, Timestamp::now()).await;
            store.close().await;
            written?
        }
    };
    let bytes = data_encoding::BASE64.decode(written.file.as_bytes());
    let bytes = bytes.map_err(|_| AdminError::Form)?;
    write(path, &bytes).map_err(|error| {
        let what = format!("could not write {}", path.display());
        Failure::new(Exit::Failed, what)
            .caused_by(&error)
            .with_fix(format!(
                "write it once more with `--agent {}`",
                written.agent
            ))
    })?;
    for note in &written.notes {
        output::note(note);
    }
    let mut object = serde_json::to_value(&written).expect("a reply always serialises");
    if let Some(fields) = object.as_object_mut() {
        fields.insert("file".to_owned(), Value::from(path.display().to_string()));
    }
    output::print_object(
        format,
        &object,
        &[
            ("agent", written.agent.to_string()),
            ("up to bundle", written.bundle.to_string()),
            (
                "certificate",
                written.certificate.map_or_else(
                    || "none is due".to_owned(),
                    |until| format!("a new one, good until {until}"),
                ),
            ),
            ("file", path.display().to_string()),
        ],
    )?;
    Ok(Exit::Ok)
}

/// Writes a file whole or not at all, in place of one that is there.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}

async fn importer(config: &Config) -> Result<(Store, Importer), Failure> {
    let opened = config.clone();
    let store = tokio::task::spawn_blocking(move || opening::open(&opened))
        .await
        .map_err(|error| Failure::new(Exit::Failed, "cannot open the store").caused_by(&error))??;
    let identity = Identity::load(&store.appliance()).await?;
    let importer = Importer::new(&store, &identity, Arc::new(Live::default()));
    Ok((store, importer))
}

fn open(path: &Path) -> Result<File, ImportError> {
    File::open(path).map_err(|source| ImportError::File {
        name: path.display().to_string(),
        source,
    })
}

/// Returns the first file and those of its further volumes that lie beside it. What the first
/// one's header says is believed no further than that.
fn beside(first: &Path) -> Result<Vec<PathBuf>, ImportError> {
    use std::io::Read as _;
    let mut head = Vec::new();
    let limit = 2 * protocol::limits::BUNDLE_HEADER_BYTES as u64;
    let read = open(first)?.take(limit).read_to_end(&mut head);
    read.map_err(|source| ImportError::File {
        name: first.display().to_string(),
        source,
    })?;
    let mut reader = VolumeReader::new(None);
    reader.push(&head);
    let volumes = match reader.pop() {
        Ok(Some(Piece::Header(header))) => header.volumes,
        // The importer says what is wrong with it.
        Ok(_) | Err(_) => 1,
    };
    let mut paths = vec![first.to_owned()];
    for volume in 2..=volumes {
        let mut name = first.as_os_str().to_owned();
        name.push(format!(".{volume}"));
        let path = PathBuf::from(name);
        if path.exists() {
            paths.push(path);
        }
    }
    Ok(paths)
}
