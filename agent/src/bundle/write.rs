//! Writes the volumes of a bundle: all of them whole, or none under its name.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use protocol::bundle::{Digest, Header, HubKey, Notice, VolumeWriter, plan};
use protocol::limits;
use protocol::wire::v1::Epoch;

use super::CarryError;
use super::ledger::Ledger;
use crate::identity::Identity;
use crate::seal;
use crate::spool::{Fetched, Place, Spool};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A bundle to be written.
pub(super) struct Bundle<'a> {
    pub(super) file: &'a Path,
    pub(super) volume_bytes: u64,
    pub(super) identity: &'a Identity,
    pub(super) key: &'a HubKey,
    pub(super) epoch: Epoch,
    /// What goes into it, lane by lane.
    pub(super) places: &'a [Place],
}

/// A bundle that was written.
pub(super) struct Done {
    pub(super) files: Vec<PathBuf>,
    /// Digest of the last volume.
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Returns where a volume lies: `FILE`, `FILE.2`, …
pub(super) fn volume_path(file: &Path, volume: u32) -> PathBuf {
    if volume <= 1 {
        return file.to_owned();
    }
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{volume}"));
    PathBuf::from(name)
}

fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

/// A file that has not got its name yet; removed unless it gets it.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    is_named: bool,
}

impl Part {
    fn create(path: &Path) -> Result<Self, CarryError> {
        if path.exists() {
            return Err(CarryError::Exists {
                path: path.to_owned(),
            });
        }
        let part = part_path(path);
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part);
        let file = file.map_err(|source| CarryError::Write { path: part, source })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes: 0,
            is_named: false,
        })
    }

    fn failed(&self, source: std::io::Error) -> CarryError {
        CarryError::Write {
            path: self.path.clone(),
            source,
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), CarryError> {
        self.file
            .write_all(out)
            .map_err(|error| self.failed(error))?;
        self.bytes += u64::try_from(out.len()).unwrap_or(u64::MAX);
        out.clear();
        Ok(())
    }

    fn name(&mut self) -> Result<(), CarryError> {
        fs::rename(part_path(&self.path), &self.path).map_err(|error| self.failed(error))?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_named {
            // What is left of a failed export holds nothing that the spool does not.
            let _ = fs::remove_file(part_path(&self.path));
        }
    }
}

impl Bundle<'_> {
    /// Returns the certificates of the header: the agent's own, those above it, and its own from
    /// before the last renewal.
    fn certificates(&self) -> Vec<Vec<u8>> {
        let before = self
            .identity
            .earlier
            .first()
            .and_then(|chain| chain.first());
        let all = self.identity.chain.iter().chain(before);
        all.map(|der| der.to_vec()).collect()
    }

    /// Writes all volumes, syncs them, and then gives them their names.
    ///
    /// # Errors
    ///
    /// When a file or the spool fails; no file has its name then, unless the last step failed.
    pub(super) async fn write(&self, ledger: &Ledger, spool: &Spool) -> Result<Done, CarryError> {
        let lengths = self.places.iter().map(|place| place.frame_bytes);
        let plan = plan(lengths, self.volume_bytes);
        let volumes = u32::try_from(plan.len()).unwrap_or(u32::MAX);
        if volumes > limits::BUNDLE_VOLUMES {
            return Err(CarryError::Volumes);
        }
        let signer = self
            .identity
            .signer()
            .map_err(protocol::bundle::BundleError::Sign)?;
        let mut header = Header {
            org: self.identity.org,
            agent: self.identity.agent,
            epoch: self.epoch,
            number: ledger.number,
            volume: 0,
            volumes,
            made_at_ms: Timestamp::now().as_millisecond(),
            released: ledger.released,
            previous: ledger.previous,
            certificates: self.certificates(),
        };
        let csr = self.identity.request().map_err(CarryError::Request)?;
        let waiting = spool.waiting();
        let notice = Notice {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            spool_bytes: waiting.bytes,
            oldest_ms: waiting.oldest_ms,
            reply_key: ledger.reply_key().0,
        };
        let mut parts = Vec::new();
        let mut rest = self.places;
        for count in plan {
            let (places, behind) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = behind;
            header.volume += 1;
            let mut part = Part::create(&volume_path(self.file, header.volume))?;
            let mut out = Vec::with_capacity(BUFFER_BYTES);
            let seed = seal::random();
            let mut writer = VolumeWriter::begin(&header, self.key, &seed, &mut out)?;
            if header.volume == 1 {
                writer.notice(&notice, &mut out)?;
                writer.renewal(&csr, &mut out)?;
            }
            for place in places {
                let mut after_seq = place.after_seq;
                // More than once where a record of a loss comes before the batch.
                while after_seq < place.last_seq
                    && let Fetched::Batch(batch) = spool.fetch(place.lane, after_seq).await?
                {
                    after_seq = batch.last_seq;
                    writer.frame(&batch.frame, &mut out)?;
                    if out.len() >= BUFFER_BYTES {
                        part.flush(&mut out)?;
                    }
                }
            }
            header.previous = writer.finish(&signer, &mut out)?;
            part.flush(&mut out)?;
            part.file.sync_all().map_err(|error| part.failed(error))?;
            parts.push(part);
        }
        for part in &mut parts {
            part.name()?;
        }
        if let Some(part) = parts.last() {
            crate::layout::sync_parent(
                &std::path::absolute(&part.path).map_err(|error| part.failed(error))?,
            )
            .map_err(|error| part.failed(error))?;
        }
        Ok(Done {
            files: parts.iter().map(|part| part.path.clone()).collect(),
            digest: header.previous,
            bytes: parts.iter().map(|part| part.bytes).sum(),
        })
    }
}
