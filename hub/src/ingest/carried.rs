//! The door for batches that come in files: the session's own core decides about order, signature
//! and root, and the intake stores, as for an agent that is connected.
//!
//! A [`Sieve`] decides without storing, for a bundle that is only looked at; a [`Door`] is a sieve
//! with an intake behind it.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use protocol::batch::{BatchError, SealedBatch};
use protocol::declare::Declarations;
use protocol::frame::{Decoder, Frame, FrameError, Lane};
use protocol::session::hub::{self, Duty, Output};
use protocol::session::{Now, SessionError};
use protocol::wire::v1::{self, BatchHeader, Epoch, Hello, HighWater, Message};
use store::error::ReadError;
use store::{AdmittedAgent, OrgStore, Stream};

use super::admit::Terms;
use super::intake::{Intake, IntakeError, Spoiled, Taken};
use crate::live::Live;

/// Where in a frame its lane stands ([`protocol::frame`]).
const LANE_AT: usize = 5;

/// Says why a carried frame is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CarriedError {
    /// It is no frame.
    #[error("it holds something that is no frame")]
    Frame(#[from] FrameError),
    /// It is no batch.
    #[error("it holds a frame that is no batch")]
    Batch(#[from] BatchError),
    /// A session would have been ended by it.
    #[error("it holds a batch that no session would take")]
    Session(#[from] SessionError),
    /// A frame has no place in a bundle.
    #[error("it holds {0}")]
    Place(&'static str),
    /// The store cannot be read.
    #[error("the organisation's store cannot be read")]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error("a batch could not be stored")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The hub's disk is full.
    #[error("the hub's disk is full")]
    Full,
    /// Another session stored something in between.
    #[error("a session of the same agent stored something at the same time")]
    Raced,
}

impl From<IntakeError> for CarriedError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Full => Self::Full,
            IntakeError::Breach(error) => Self::Session(error),
            error @ (IntakeError::Read(_) | IntakeError::Commit(_) | IntakeError::Examined(_)) => {
                Self::Store(Box::new(error))
            }
        }
    }
}

/// Items that are missing before a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Hole {
    /// Lane number.
    pub(crate) lane: u8,
    /// First missing item.
    pub(crate) first_seq: u64,
    /// Last missing item.
    pub(crate) last_seq: u64,
}

/// What is to be done with a frame.
#[derive(Debug)]
pub(crate) enum Sieved {
    /// To be stored; then [`Sieve::stored`] is told.
    Batch(Lane, Box<SealedBatch>),
    /// It is stored already.
    Repeat,
    /// Items before it are missing.
    Hole(Hole),
}

/// What the hub knows of an agent when a bundle of it comes.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    config: hub::Config,
    public_key: Vec<u8>,
    epoch: Epoch,
}

impl Known {
    /// Reads what is stored of an agent.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub(crate) async fn of(
        admitted: &AdmittedAgent,
        public_key: Vec<u8>,
        epoch: Epoch,
        hub_epoch: Epoch,
    ) -> Result<Self, ReadError> {
        let high_water = admitted.store.high_waters(admitted.agent.id).await?;
        let high_water = high_water.into_iter().map(|(stream, seq)| HighWater {
            lane: stream.lane,
            epoch: stream.epoch,
            seq,
        });
        let config = hub::Config {
            hub_epoch,
            commit: admitted.store.read(|reader| reader.commit()).await?,
            high_water: high_water.collect(),
            duty: Duty::All,
        };
        Ok(Self {
            config,
            public_key,
            epoch,
        })
    }
}

/// Decides about the frames of one bundle, in order.
pub(crate) struct Sieve {
    core: hub::Session,
    public_key: Vec<u8>,
    now: Now,
}

impl Sieve {
    /// Makes a sieve that knows what is stored.
    ///
    /// # Errors
    ///
    /// When the core refuses the greeting, which it does not.
    pub(crate) fn new(known: Known, wall: Timestamp) -> Result<Self, CarriedError> {
        // Nothing waits here, so that the instant does not matter.
        let now = Now {
            at: Instant::now(),
            wall_ms: wall.as_millisecond(),
        };
        let Known {
            config,
            public_key,
            epoch,
        } = known;
        let mut core = hub::Session::new(config, now);
        let hello = Hello {
            versions: (v1::SCHEMA, v1::SCHEMA),
            agent_version: String::new(),
            epoch,
            process: 0,
            witness: None,
            wall_ms: now.wall_ms,
        };
        let hello = Message::Hello(hello).encode();
        core.handle_bytes(Lane::Control, &hello, now)?;
        while core.poll_output().is_some() {}
        Ok(Self {
            core,
            public_key,
            now,
        })
    }

    /// Decides about a frame.
    ///
    /// # Errors
    ///
    /// When it is no batch of this agent.
    pub(crate) fn sieve(&mut self, bytes: &[u8]) -> Result<Sieved, CarriedError> {
        let (lane, frame) = whole(bytes)?;
        if frame.kind != v1::kind::BATCH || lane == Lane::Control {
            return Err(CarriedError::Place("a frame that is no batch"));
        }
        let header = SealedBatch::parse(&frame)?.header;
        self.core.handle_bytes(lane, bytes, self.now)?;
        let mut sieved = None;
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Admit(batch) => sieved = Some(Sieved::Batch(lane, batch)),
                Output::Send { bytes, .. } => match control(&bytes)? {
                    Some(Message::Refused(refused)) if refused.expected_seq < header.first_seq => {
                        sieved = Some(Sieved::Hole(Hole {
                            lane: lane.number(),
                            first_seq: refused.expected_seq,
                            last_seq: header.first_seq - 1,
                        }));
                    }
                    Some(Message::Refused(_)) => {
                        let what = "a batch that is stored in part";
                        return Err(CarriedError::Place(what));
                    }
                    Some(_) | None => sieved = sieved.or(Some(Sieved::Repeat)),
                },
                Output::Greeted(_) | Output::Beat(_) | Output::Renew(_) => {}
            }
        }
        Ok(sieved.unwrap_or(Sieved::Repeat))
    }

    /// Checks what the intake would check, for a batch that is only looked at.
    fn verify(&self, lane: Lane, batch: SealedBatch) -> Result<BatchHeader, CarriedError> {
        let refused = |source| SessionError::Batch { lane, source };
        let verified = batch.verify(&self.public_key).map_err(refused)?;
        Ok(verified.header().clone())
    }

    /// Takes note that everything of a lane up to `seq` is stored, or given up.
    pub(crate) fn stored(&mut self, lane: Lane, seq: u64) {
        self.core.handle_committed(lane, seq, 0, [0; 32]);
        while self.core.poll_output().is_some() {}
    }
}

/// Returns the one frame that bytes are, whole and alone.
fn whole(bytes: &[u8]) -> Result<(Lane, Frame), CarriedError> {
    let place = || CarriedError::Place("a frame that is cut off or too long");
    let number = *bytes.get(LANE_AT).ok_or_else(place)?;
    let lane = Lane::from_number(number).ok_or(FrameError::Lane { lane: number })?;
    let mut decoder = Decoder::new(lane);
    decoder.push(bytes);
    let frame = decoder.pop()?.ok_or_else(place)?;
    if frame.payload.len() + protocol::frame::HEADER_BYTES != bytes.len() {
        return Err(place());
    }
    Ok((lane, frame))
}

fn control(bytes: &[u8]) -> Result<Option<Message>, CarriedError> {
    let mut decoder = Decoder::new(Lane::Control);
    decoder.push(bytes);
    let frame = decoder.pop()?;
    let message = frame.map(|frame| Message::decode(&frame)).transpose();
    Ok(message.ok().flatten().flatten())
}

/// What became of a frame.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// Batches that were stored.
    pub(crate) batches: u64,
    /// Items in them.
    pub(crate) items: u64,
    /// Batches that had been stored before.
    pub(crate) repeats: u64,
    /// Items that are missing, in order.
    pub(crate) holes: Vec<Hole>,
    /// Scopes to ask for whole.
    pub(crate) resync: Vec<String>,
}

/// Most holes that are named one by one.
const HOLES: usize = 64;

impl Counted {
    fn hole(&mut self, hole: Hole) {
        if self.holes.len() < HOLES {
            self.holes.push(hole);
        }
    }
}

/// Looks at a frame without storing it.
///
/// # Errors
///
/// When it is no batch of this agent.
pub(crate) fn look(
    sieve: &mut Sieve,
    frame: &[u8],
    counted: &mut Counted,
) -> Result<(), CarriedError> {
    loop {
        match sieve.sieve(frame)? {
            Sieved::Repeat => counted.repeats += 1,
            Sieved::Batch(lane, batch) => {
                let header = sieve.verify(lane, *batch)?;
                counted.batches += 1;
                counted.items += u64::from(header.count);
                sieve.stored(lane, header.last_seq());
            }
            Sieved::Hole(hole) => {
                counted.hole(hole);
                sieve.stored(lane_of(hole), hole.last_seq);
                continue;
            }
        }
        return Ok(());
    }
}

fn lane_of(hole: Hole) -> Lane {
    Lane::from_number(hole.lane).unwrap_or(Lane::Control)
}

/// Stores the frames of one bundle.
pub(crate) struct Door {
    sieve: Sieve,
    intake: Intake,
    agent: protocol::ids::AgentId,
    epoch: Epoch,
    /// What became of the frames so far.
    pub(crate) counted: Counted,
}

/// The memory of refused documents that one hub's imports share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Spoiled>);

impl Door {
    /// Opens the door for an agent that was admitted.
    ///
    /// # Errors
    ///
    /// As [`Sieve::new`].
    pub(crate) fn open(
        admitted: AdmittedAgent,
        known: Known,
        live: Arc<Live>,
        memory: &Memory,
        now: Timestamp,
    ) -> Result<Self, CarriedError> {
        let (agent, epoch) = (admitted.agent.id, known.epoch);
        let accounts = admitted.agent.accounts;
        let terms = Terms {
            agent,
            public_key: known.public_key.clone(),
            accounts: accounts.map(|accounts| accounts.into_iter().collect()),
            types: Declarations::builtin(),
        };
        let store: OrgStore = admitted.store;
        Ok(Self {
            sieve: Sieve::new(known, now)?,
            intake: Intake::new(store, terms, live, Arc::clone(&memory.0)),
            agent,
            epoch,
            counted: Counted::default(),
        })
    }

    /// Stores a frame; what is missing before it is given up if `gives_up`.
    ///
    /// # Errors
    ///
    /// When it is no batch of this agent, the store fails, or items before it are missing.
    pub(crate) async fn take(
        &mut self,
        frame: &[u8],
        gives_up: bool,
        now: Timestamp,
    ) -> Result<(), CarriedError> {
        loop {
            match self.sieve.sieve(frame)? {
                Sieved::Repeat => self.counted.repeats += 1,
                Sieved::Batch(lane, batch) => {
                    let (items, last) = (batch.header.count, batch.header.last_seq());
                    match self.intake.take(batch, now).await? {
                        Taken::Stored { resync, .. } => {
                            self.counted.batches += 1;
                            self.counted.items += u64::from(items);
                            // Whole: what the hub holds may change before a reply arrives.
                            let scopes = resync.iter().map(|(scope, _)| scope.to_string());
                            self.counted.resync.extend(scopes);
                        }
                        Taken::Repeat { .. } => self.counted.repeats += 1,
                        Taken::Gap { .. } => return Err(CarriedError::Raced),
                    }
                    self.sieve.stored(lane, last);
                }
                Sieved::Hole(_) if !gives_up => return Err(CarriedError::Raced),
                Sieved::Hole(hole) => {
                    let stream = Stream {
                        agent: self.agent,
                        lane: hole.lane,
                        epoch: self.epoch,
                    };
                    let range = (hole.first_seq, hole.last_seq);
                    self.intake.give_up(stream, range, now).await?;
                    self.counted.hole(hole);
                    self.sieve.stored(lane_of(hole), hole.last_seq);
                    continue;
                }
            }
            return Ok(());
        }
    }
}
