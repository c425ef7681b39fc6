//! Bundles at the hub: what agents without a way to it have had carried over.
//!
//! ```text
//! files ─▶ headers ─▶ certificate, positive list ─▶ chunks, signature ─▶ every batch: only looked at
//!                                                                            │ all of it is good
//!                                                                            ▼
//!                             chain and holes: refused by name, or ─▶ ingest::carried ─▶ store
//! ```
//! One import at a time. An import that is cut off has stored whole batches and no more; the same
//! bundle once more goes on behind them.

mod chain;
mod renewal;
mod reply;
mod request;
mod volumes;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use protocol::bundle::{BundleError, Header, HubSecret, Kind, Notice, Record};
use protocol::ids::{AgentId, OrgId};
use protocol::wire::v1::Epoch;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use store::error::{AdmitAgentError, CommitError, OpenError, ReadError};
use store::rows::access::AgentStatus;
use store::rows::audit::AuditAct;
use store::rows::carried::{AskedRenewal, Carried};
use store::rows::finding::Actor;
use store::{AdmittedAgent, Appliance, Store};
use tokio::sync::{Mutex, mpsc};
use tracing::info;

use crate::ca::spiffe::{Peer, PeerError, read_peer};
use crate::ca::{Authority, REQUEST_BYTES};
use crate::failure::{Exit, Explain};
use crate::identity::Identity;
use crate::ingest::carried::{CarriedError, Counted, Door, Hole, Known, Memory, Sieve, look};
use crate::live::{Changed, Live, What};
use chain::Standing;
pub(crate) use reply::Written;
use volumes::Digests;
pub(crate) use volumes::Volume;

/// How long after its end a certificate still vouches for a bundle. Files take their time, and
/// behind a diode nothing can be renewed; who may speak is decided by the positive list, at once.
const GRACE: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Chunks of records that may wait for the store.
const CHUNKS: usize = 2;

/// Most scopes that are remembered to be asked for; beyond it all are.
const RESYNC: usize = 1000;

/// Says why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ImportError {
    /// A file cannot be read.
    #[error("could not read {name}")]
    File {
        /// The file.
        name: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file is no good volume.
    #[error("{name} is not taken")]
    Volume {
        /// The file.
        name: String,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// A volume is not there.
    #[error("volume {volume} of {volumes} of bundle {number} is missing")]
    MissingVolume {
        /// Which.
        volume: u32,
        /// Of how many.
        volumes: u32,
        /// The bundle.
        number: u64,
    },
    /// The files are not of one bundle.
    #[error("{name} is not a volume of the same bundle as the first file")]
    OtherBundle {
        /// The file.
        name: String,
    },
    /// The certificate is not by this hub.
    #[error("the agent's certificate is not one of this hub, or was not valid")]
    Certificate(#[source] rustls::Error),
    /// Its certificate's authority is trusted no more.
    #[error(
        "the certificate of the agent {agent} was issued by a certificate authority that this hub \
         has replaced and retired"
    )]
    Retired {
        /// Which.
        agent: AgentId,
    },
    /// The certificate names no agent of this hub.
    #[error("the agent's certificate names no agent of this hub")]
    Peer(#[from] PeerError),
    /// The header and the certificate name different agents.
    #[error("the header names another agent than the certificate")]
    Names,
    /// The agent may not speak.
    #[error("this hub takes nothing from the agent {agent}")]
    Refused {
        /// Which.
        agent: AgentId,
        /// Why.
        #[source]
        source: AdmitAgentError,
    },
    /// It holds something that no session would take.
    #[error("the contents of bundle {number} are not taken")]
    Contents {
        /// The bundle.
        number: u64,
        /// What is wrong.
        #[source]
        source: CarriedError,
    },
    /// Another bundle with this number was taken.
    #[error("another bundle {number} of the agent {agent} was taken before")]
    Forked {
        /// The number.
        number: u64,
        /// The agent.
        agent: AgentId,
    },
    /// Something is missing before it.
    #[error("{}", missing_words(*number, missing, holes))]
    Missing {
        /// The bundle.
        number: u64,
        /// Bundles before it that never came.
        missing: Vec<u64>,
        /// Items that are missing.
        holes: Vec<Hole>,
    },
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    /// The outcome cannot be written.
    #[error("the bundle's place in the chain could not be stored")]
    Commit(#[from] CommitError),
    /// The token is of an authority that is trusted no more.
    #[error(
        "{name} was made with a token of a certificate authority that this hub has replaced and \
         retired"
    )]
    RetiredPin {
        /// The file.
        name: String,
    },
    /// The hub refused to enrol.
    #[error("the enrolment is refused: {reason} ({code})")]
    Enrolment {
        /// Stable code.
        code: String,
        /// Words.
        reason: String,
    },
    /// An organisation's store cannot be opened.
    #[error("an organisation's store cannot be opened")]
    Open(#[source] Arc<OpenError>),
    /// A thread of the import panicked.
    #[error("the import broke off")]
    Broken,
}

/// Lists numbers as an operator reads them: `2, 4 to 9`.
fn numbers(list: &[u64]) -> String {
    let mut text = String::new();
    let mut rest = list;
    while let Some((&first, behind)) = rest.split_first() {
        let run = behind
            .iter()
            .zip(first + 1..)
            .take_while(|(found, want)| *found == want);
        let length = run.count();
        let separator = if text.is_empty() { "" } else { ", " };
        text.push_str(&match length {
            0 => format!("{separator}{first}"),
            1 => format!("{separator}{first}, {}", first + 1),
            _ => format!("{separator}{first} to {}", first + length as u64),
        });
        rest = behind.get(length..).unwrap_or_default();
    }
    text
}

fn missing_words(number: u64, missing: &[u64], holes: &[Hole]) -> String {
    let mut text = match missing {
        [] => format!("items before bundle {number} never came"),
        [one] => format!("bundle {one} never came, and bundle {number} goes on behind it"),
        many => format!(
            "the bundles {} never came, and bundle {number} goes on behind them",
            numbers(many)
        ),
    };
    for hole in holes.iter().take(4) {
        let Hole {
            lane,
            first_seq,
            last_seq,
        } = hole;
        text.push_str(&format!("; items {first_seq} to {last_seq} of lane {lane}"));
    }
    if !holes.is_empty() {
        text.push_str(" are missing");
    }
    text
}

impl Explain for ImportError {
    fn exit(&self) -> Exit {
        match self {
            Self::Volume { .. } | Self::OtherBundle { .. } | Self::Contents { .. } => Exit::Data,
            Self::Certificate(_)
            | Self::Peer(_)
            | Self::Retired { .. }
            | Self::Names
            | Self::Refused { .. }
            | Self::RetiredPin { .. }
            | Self::Enrolment { .. } => Exit::Forbidden,
            Self::Read(error) => error.exit(),
            Self::File { .. }
            | Self::MissingVolume { .. }
            | Self::Forked { .. }
            | Self::Missing { .. }
            | Self::Commit(_)
            | Self::Open(_)
            | Self::Broken => Exit::Failed,
        }
    }

    fn fix(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } => "name a file that this user can read".to_owned(),
            Self::Volume { source, .. } => match source {
                BundleError::OtherHub => {
                    "take it to the hub where the agent is enrolled".to_owned()
                }
                BundleError::Newer { .. } => "update this hub to the agent's version".to_owned(),
                BundleError::Magic | BundleError::Kind { .. } => {
                    "name the first file that `zero-x-agent bundle export` wrote".to_owned()
                }
                BundleError::Cut
                | BundleError::Trailing
                | BundleError::Header(_)
                | BundleError::Chunk { .. }
                | BundleError::Contents(_)
                | BundleError::Signature
                | BundleError::Key
                | BundleError::TooLarge { .. }
                | BundleError::Sign(_)
                | _ => "nothing was stored; copy the file again from where it was exported. The \
                      agent still holds what no reply acknowledged, so a new `zero-x-agent bundle \
                      export` holds it too"
                    .to_owned(),
            },
            Self::MissingVolume { .. } | Self::OtherBundle { .. } => {
                "nothing was stored; put FILE, FILE.2, … of one export beside each other and \
                 name FILE"
                    .to_owned()
            }
            Self::Certificate(_) => {
                "if the certificate ended: renew the agent by a reply, or enrol it again".to_owned()
            }
            Self::Refused { .. } => "see `zero-x agent list`; nothing was stored".to_owned(),
            Self::Forked { .. } => {
                "the agent's state directory was copied or restored: write a reply (`zero-x-hub \
                 bundle reply FILE`), import it there, and export again"
                    .to_owned()
            }
            Self::Missing { .. } => {
                "nothing was stored; import the missing ones first. If they are lost: have the \
                 agent export again, or, where it keeps nothing (a one-way diode), give them up \
                 with --accept-gap"
                    .to_owned()
            }
            Self::Retired { .. } => {
                "nothing was stored; enrol that agent again: `zero-x-agent enroll --replace \
                 --bundle FILE` with a new token"
                    .to_owned()
            }
            Self::Enrolment { .. } | Self::RetiredPin { .. } => {
                "make a new token (`zero-x agent token create --org O`) and a new request with it"
                    .to_owned()
            }
            Self::Peer(_)
            | Self::Names
            | Self::Open(_)
            | Self::Contents { .. }
            | Self::Read(_)
            | Self::Commit(_)
            | Self::Broken => return None,
        })
    }
}

/// What an import is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// Whether items that are missing are given up.
    pub(crate) accept_gap: bool,
    /// Whether nothing is to be stored.
    pub(crate) only_verify: bool,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// `taken`, `repeat`, `verified`, `enrolled`.
    pub(crate) outcome: String,
    pub(crate) org: OrgId,
    pub(crate) agent: AgentId,
    /// Number of the bundle.
    pub(crate) bundle: u64,
    pub(crate) volumes: u32,
    /// When it was made, by the agent's clock.
    pub(crate) made_at: Option<Timestamp>,
    /// Batches that were stored, or would be.
    pub(crate) batches: u64,
    /// Items in them.
    pub(crate) items: u64,
    /// Batches that had been stored before.
    pub(crate) repeats: u64,
    /// Bundles that never came, and may still.
    pub(crate) missing: Vec<u64>,
    /// Items that were given up.
    pub(crate) given_up: Vec<Hole>,
    /// More to know, in clauses.
    pub(crate) notes: Vec<String>,
}

/// Takes bundles for a hub.
pub(crate) struct Importer {
    store: Store,
    appliance: Appliance,
    authority: Arc<Authority>,
    secret: Arc<HubSecret>,
    live: Arc<Live>,
    epoch: Epoch,
    memory: Memory,
    one_at_a_time: Mutex<()>,
}

/// The certificate that vouches for a bundle.
struct Shown {
    peer: Peer,
    /// It, DER.
    leaf: Vec<u8>,
    admitted: AdmittedAgent,
    /// Whether it is from before the one that the agent has now.
    is_set_back: bool,
}

impl Shown {
    fn new(peer: Peer, leaf: Vec<u8>, admitted: AdmittedAgent, is_set_back: bool) -> Self {
        Self {
            peer,
            leaf,
            admitted,
            is_set_back,
        }
    }
}

/// A bundle that was looked at from end to end and is good.
struct Examined {
    digests: Digests,
    counted: Counted,
    notice: Option<Notice>,
    /// The request for the agent's next certificate.
    csr: Option<Vec<u8>>,
}

impl Importer {
    /// Makes the importer of a hub.
    pub(crate) fn new(store: &Store, identity: &Identity, live: Arc<Live>) -> Self {
        Self {
            store: store.clone(),
            appliance: store.appliance(),
            authority: Arc::clone(&identity.authority),
            secret: Arc::clone(&identity.bundle_key),
            live,
            epoch: identity.epoch,
            memory: Memory::default(),
            one_at_a_time: Mutex::new(()),
        }
    }

    /// Takes a bundle: all of its volumes, in any order.
    ///
    /// # Errors
    ///
    /// See [`ImportError`]; nothing is stored then, but for an error of the store or the disk in
    /// the middle, after which the same bundle goes on where it stopped.
    pub(crate) async fn import(
        &self,
        volumes: Vec<Volume>,
        asked: Asked,
        now: Timestamp,
    ) -> Result<Report, ImportError> {
        let _turn = self.one_at_a_time.lock().await;
        let (kind, mut volumes) = blocking(move || volumes::kind(volumes)).await??;
        if kind == Kind::Request
            && !asked.only_verify
            && let Some(request) = volumes.pop()
        {
            return self.enrol(request, now).await;
        }
        let (mut volumes, header) = blocking(move || volumes::sort(volumes)).await??;
        let (org, agent) = (header.org, header.agent);
        let Shown {
            peer,
            leaf,
            admitted,
            is_set_back,
        } = self.admit(&header, now).await?;
        let store = admitted.store.clone();
        let public_key = peer.public_key;
        let known = Known::of(&admitted, public_key.clone(), header.epoch, self.epoch).await?;
        let examined = {
            let (secret, key, known) =
                (Arc::clone(&self.secret), public_key.clone(), known.clone());
            let number = header.number;
            let examine = blocking(move || {
                let examined = examine(&mut volumes, &secret, &key, known, number, now);
                examined.map(|examined| (examined, volumes))
            });
            let (examined, back) = examine.await??;
            volumes = back;
            examined
        };
        let carried = store.carried(agent).await?;
        let mut carried = carried.unwrap_or_else(|| Carried::none(agent));
        let last = examined.digests.last;
        let Standing { is_repeat, missing } =
            chain::standing(&carried, &header, last).ok_or(ImportError::Forked {
                number: header.number,
                agent,
            })?;
        let mut report = Report {
            outcome: "verified".to_owned(),
            org,
            agent,
            bundle: header.number,
            volumes: header.volumes,
            made_at: Timestamp::from_millisecond(header.made_at_ms).ok(),
            batches: examined.counted.batches,
            items: examined.counted.items,
            repeats: examined.counted.repeats,
            missing: carried.missing.clone(),
            given_up: Vec::new(),
            notes: Vec::new(),
        };
        if is_repeat && examined.counted.batches == 0 {
            report.outcome = "repeat".to_owned();
            report
                .notes
                .push("it was taken before; nothing changed".to_owned());
            return Ok(report);
        }
        let holes = examined.counted.holes;
        let is_lost = chain::is_lost(&carried, &header, &missing, !holes.is_empty());
        if is_lost && !asked.accept_gap {
            let before = carried.missing.iter().copied();
            let mut all: Vec<u64> = before.filter(|number| *number < header.number).collect();
            all.extend(&missing);
            return Err(ImportError::Missing {
                number: header.number,
                missing: all,
                holes,
            });
        }
        if asked.only_verify {
            chain::note(&mut carried, &header, last, &missing, is_lost, now);
            report.missing.clone_from(&carried.missing);
            report.given_up = holes;
            return Ok(report);
        }
        let door = Door::open(admitted, known, Arc::clone(&self.live), &self.memory, now);
        let door = door.map_err(|source| ImportError::Contents {
            number: header.number,
            source,
        })?;
        let counted = self
            .take(volumes, public_key, door, header.number, asked, now)
            .await?;
        let was_given_up = carried.given_up.contains(&header.number);
        chain::note(&mut carried, &header, last, &missing, is_lost, now);
        chain::ask(&mut carried, counted.resync);
        if carried.issued.first() == Some(&leaf) {
            // The agent has what was issued to it: this bundle was signed with it.
            carried.issued = Vec::new();
        }
        if let Some(csr) = examined.csr {
            carried.renewal = Some(AskedRenewal {
                csr,
                shown: leaf,
                is_set_back,
            });
        }
        if let Some(notice) = &examined.notice {
            carried.reply_key = Some(notice.reply_key);
        }
        report.outcome = "taken".to_owned();
        report.batches = counted.batches;
        report.items = counted.items;
        report.repeats = counted.repeats;
        report.missing.clone_from(&carried.missing);
        report.given_up = counted.holes;
        if was_given_up && counted.batches == 0 {
            let note = "it had been given up: what it held beyond that cannot be stored any more";
            report.notes.push(note.to_owned());
        }
        if !carried.missing.is_empty() {
            let words = numbers(&carried.missing);
            let note = format!("never came: {words}; no item is known to be missing by that");
            report.notes.push(note);
        }
        self.remember(&store, &header, carried, examined.notice, &report, now)
            .await?;
        Ok(report)
    }

    /// Admits the agent whose bundle this is, by its certificate. A hub that was set back behind a
    /// renewal does not know that one; the one from before it is then as good, for the same key.
    async fn admit(&self, header: &Header, now: Timestamp) -> Result<Shown, ImportError> {
        let agent = header.agent;
        let admit = async |leaf: &Vec<u8>| {
            let peer = self.verify(leaf, &header.certificates, now)?;
            if (peer.identity.org, peer.identity.agent) != (header.org, agent) {
                return Err(ImportError::Names);
            }
            let admitted = self.appliance.admit_agent(&peer.identity).await;
            let admitted = admitted.map_err(|source| ImportError::Refused { agent, source })?;
            Ok((peer, admitted))
        };
        let first = header.certificates.first();
        let leaf = first.ok_or(ImportError::Peer(PeerError::Certificate))?;
        let unknown = match admit(leaf).await {
            Ok((peer, admitted)) => {
                let leaf = leaf.clone();
                return Ok(Shown::new(peer, leaf, admitted, false));
            }
            Err(error) => error,
        };
        if let ImportError::Refused { source, .. } = &unknown
            && matches!(source, AdmitAgentError::WrongSerial)
            && let Some(older) = header.certificates.get(1..).and_then(<[_]>::last)
            && let Ok((peer, admitted)) = admit(older).await
        {
            info!(%agent, "a bundle is by a certificate that this hub has lost");
            // Whose key the bundle is signed with is still to be checked.
            return Ok(Shown::new(peer, older.clone(), admitted, true));
        }
        Err(unknown)
    }

    /// Checks that a certificate is by this hub's authority. One that ended is good for a while.
    fn verify(&self, leaf: &[u8], chain: &[Vec<u8>], now: Timestamp) -> Result<Peer, ImportError> {
        let leaf = CertificateDer::from(leaf);
        let chain = chain.iter().map(|der| CertificateDer::from(der.as_slice()));
        let above: Vec<CertificateDer<'_>> = chain.filter(|der| *der != leaf).collect();
        let peer = read_peer(&leaf, self.authority.trust_domain())?;
        let at = if now <= peer.not_after {
            now
        } else if now.duration_since(peer.not_after) <= GRACE {
            peer.not_after
        } else {
            now
        };
        let seconds = u64::try_from(at.as_second()).unwrap_or(0);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let known = self.authority.known();
        let known = known.verify_client_cert(&leaf, &above, at);
        known.map_err(ImportError::Certificate)?;
        let mut trusted = self.authority.verifiers().into_iter();
        if trusted.any(|(_, root)| root.verify_client_cert(&leaf, &above, at).is_ok()) {
            return Ok(peer);
        }
        let agent = peer.identity.agent;
        Err(ImportError::Retired { agent })
    }

    /// Reads the volumes once more and stores what they hold.
    async fn take(
        &self,
        mut volumes: Vec<Volume>,
        public_key: Vec<u8>,
        mut door: Door,
        number: u64,
        asked: Asked,
        now: Timestamp,
    ) -> Result<Counted, ImportError> {
        let (chunks, mut coming) = mpsc::channel::<Vec<Record>>(CHUNKS);
        let secret = Arc::clone(&self.secret);
        let reading = tokio::task::spawn_blocking(move || {
            for volume in &mut volumes {
                // The other side is gone when the store failed, which it tells itself.
                volume.walk(&secret, &public_key, &mut |records| {
                    let _ = chunks.blocking_send(records);
                    Ok(())
                })?;
            }
            Ok::<_, ImportError>(())
        });
        let contents = |source| ImportError::Contents { number, source };
        while let Some(records) = coming.recv().await {
            for record in records {
                if let Record::Frame(frame) = record {
                    let taken = door.take(&frame, asked.accept_gap, now).await;
                    taken.map_err(contents)?;
                }
            }
        }
        reading.await.map_err(|_| ImportError::Broken)??;
        Ok(door.counted)
    }

    /// Stores where the chain stands, what the agent says about itself, and the audit entry.
    async fn remember(
        &self,
        store: &store::OrgStore,
        header: &Header,
        carried: Carried,
        notice: Option<Notice>,
        report: &Report,
        now: Timestamp,
    ) -> Result<(), ImportError> {
        let agent = header.agent;
        let view = store.agent(agent).await?;
        let before = view.and_then(|view| view.status);
        let refused_batches = before.as_ref().map_or(0, |status| status.refused_batches);
        let mut write = store.write();
        if let Some(notice) = notice {
            write.put_agent_status(AgentStatus {
                agent,
                last_seen: now,
                version: shortened(&notice.agent_version),
                transport: "bundle".to_owned(),
                spool_bytes: notice.spool_bytes,
                spool_oldest: match notice.oldest_ms {
                    0 => None,
                    ms => Timestamp::from_millisecond(ms).ok(),
                },
                // A file says nothing about a clock: it may have lain anywhere for a while.
                clock_skew_ms: 0,
                refused_batches,
            });
        }
        write.put_carried(carried);
        let mut detail = format!(
            "bundle {}: {} batches with {} items, {} stored before",
            report.bundle, report.batches, report.items, report.repeats
        );
        if !report.given_up.is_empty() {
            let words = missing_words(report.bundle, &[], &report.given_up);
            detail.push_str(&format!("; gap accepted: {words}"));
        }
        write.audit(AuditAct {
            at: now,
            actor: Actor::Local,
            action: "bundle.import".to_owned(),
            object: agent.to_string(),
            detail,
        });
        write.commit().await?;
        info!(%agent, bundle = report.bundle, batches = report.batches, "bundle taken");
        self.live.tell(Changed {
            org: store.org(),
            what: What::Agents,
        });
        Ok(())
    }
}

/// Longest program version that is kept, in bytes.
const VERSION_BYTES: usize = 64;

fn shortened(text: &str) -> String {
    let end = text.floor_char_boundary(VERSION_BYTES);
    text.get(..end).unwrap_or_default().to_owned()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ImportError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImportError::Broken)
}

/// Reads every volume to its end and looks at every batch. Blocks.
fn examine(
    volumes: &mut [Volume],
    secret: &HubSecret,
    public_key: &[u8],
    known: Known,
    number: u64,
    now: Timestamp,
) -> Result<Examined, ImportError> {
    let contents = |source| ImportError::Contents { number, source };
    let mut digests = Digests::default();
    // What is not signed by the agent is not even decompressed.
    for volume in &mut *volumes {
        let end = volume.walk(secret, public_key, &mut |_| Ok(()))?;
        digests.add(volume, end)?;
    }
    let mut sieve = Sieve::new(known, now).map_err(contents)?;
    let mut counted = Counted::default();
    let (mut notice, mut csr) = (None, None);
    for volume in volumes {
        volume.walk(secret, public_key, &mut |records| {
            for record in records {
                match record {
                    Record::Frame(frame) => {
                        look(&mut sieve, &frame, &mut counted).map_err(contents)?;
                    }
                    Record::Notice(found) => notice = Some(found),
                    Record::Renewal(found) => csr = Some(found),
                }
            }
            Ok(())
        })?;
    }
    Ok(Examined {
        digests,
        counted,
        notice,
        csr: csr.filter(|csr| csr.len() <= REQUEST_BYTES),
    })
}

#[cfg(test)]
mod tests;
