//! A model of the agent's spool: what is durable, what a crash brings back, what is kept.

use std::collections::BTreeMap;
use std::rc::Rc;

use protocol::batch::{BatchBuilder, BatchError, Place, Signer, seal_lost};
use protocol::frame::Lane;
use protocol::ids::SourceId;
use protocol::session::agent::{StoredBatch, Waiting};
use protocol::wire::v1::{Epoch, Lost, LostReason, Witness};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::chance::Chance;

/// The key of an agent's certificate.
pub(crate) struct Key(EcdsaKeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        let (rng, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document =
            EcdsaKeyPair::generate_pkcs8(algorithm, &rng).expect("the system has chance");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &rng);
        Self(pair.expect("the key was made a line above"))
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], BatchError> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|_| BatchError::Sign)?;
        signature.as_ref().try_into().map_err(|_| BatchError::Sign)
    }
}

/// What a batch carries in place of an event: whose it is, which one, and some weight.
pub(crate) type Item = (u32, u64, Vec<u8>);

/// Returns an item; the same for the same number.
pub(crate) fn item(owner: u32, id: u64, largest: u64) -> Item {
    let mut chance = Chance::new(id);
    let length = chance.below(largest + 1);
    let filler = (0..length / 8).flat_map(|_| chance.number().to_le_bytes());
    (owner, id, filler.collect())
}

fn place(lane: Lane, epoch: Epoch, first_seq: u64) -> Place {
    Place {
        lane,
        epoch,
        first_seq,
        source: SourceId::from_bytes([1; 16]),
        made_at_ms: 0,
    }
}

/// A batch with the items that are in it.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) last_seq: u64,
    pub(crate) ids: Rc<Vec<u64>>,
    frame: Rc<Vec<u8>>,
    acked_at_ms: Option<u64>,
}

impl Batch {
    fn bytes(&self) -> u64 {
        u64::try_from(self.frame.len()).unwrap_or(u64::MAX)
    }
}

/// What the spool's file holds.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) epoch: Epoch,
    pub(crate) witness: Option<Witness>,
    /// The hub whose contents are remembered: the default before the first contact, none where
    /// nothing is remembered.
    pub(crate) known_to: Option<Epoch>,
    next: BTreeMap<Lane, u64>,
    /// The last item of each lane that may have been sent.
    sent: BTreeMap<Lane, u64>,
    pub(crate) batches: BTreeMap<(Lane, u64), Batch>,
}

impl State {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            witness: None,
            known_to: None,
            next: BTreeMap::new(),
            sent: BTreeMap::new(),
            batches: BTreeMap::new(),
        }
    }

    /// Returns the sequence of the next item of a lane.
    pub(crate) fn next(&self, lane: Lane) -> u64 {
        self.next.get(&lane).copied().unwrap_or(1)
    }

    /// Returns the last item of a lane that may have been sent.
    pub(crate) fn sent(&self, lane: Lane) -> u64 {
        self.sent.get(&lane).copied().unwrap_or(0)
    }

    /// Returns the items that are here, acknowledged ones included.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.batches
            .values()
            .flat_map(|batch| batch.ids.iter().copied())
    }
}

/// What a release did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    Done,
    /// The hub holds sequences that this spool has not sent.
    Ahead,
}

/// Why a commit has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Disk,
    Spool,
}

/// The spool of one agent.
pub(crate) struct Spool {
    /// What a crash leaves.
    pub(crate) durable: State,
    /// What the process sees.
    pub(crate) current: State,
    /// Until when the disk takes nothing.
    pub(crate) full_until_ms: u64,
    pub(crate) keep_ms: u64,
    pub(crate) max_bytes: u64,
    pub(crate) owner: u32,
    pub(crate) largest: u64,
    pub(crate) key: Key,
}

impl Spool {
    /// Stores one batch in a durable transaction; returns the sequence of its first item.
    pub(crate) fn commit(&mut self, lane: Lane, ids: Vec<u64>, now_ms: u64) -> Result<u64, Full> {
        if now_ms < self.full_until_ms {
            // A failed write: the file is opened again, as it is on the disk.
            self.current = self.durable.clone();
            return Err(Full::Disk);
        }
        self.forget_old(now_ms);
        if self.waiting().bytes >= self.max_bytes {
            // Some sources cannot wait: their oldest goes.
            let Some(oldest) = self.oldest_event().filter(|_| lane == Lane::Events) else {
                return Err(Full::Spool);
            };
            self.current.batches.remove(&oldest);
        }
        let first_seq = self.current.next(lane);
        self.put(lane, first_seq, ids);
        if lane == Lane::Inventory && self.current.known_to.is_none() {
            let hub = self.current.witness.map(|witness| witness.hub_epoch);
            self.current.known_to = Some(hub.unwrap_or_default());
        }
        self.durable = self.current.clone();
        Ok(first_seq)
    }

    /// Makes a batch of nobody's items in another agent's history.
    pub(crate) fn forged(&self, lane: Lane, epoch: Epoch, first_seq: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        let pushed = builder.push(&item(self.owner, 0, 0));
        pushed.expect("an item without weight");
        let place = place(lane, epoch, first_seq);
        builder.seal(&place, &self.key).expect("one item").1
    }

    fn put(&mut self, lane: Lane, first_seq: u64, ids: Vec<u64>) {
        let mut builder = BatchBuilder::default();
        for id in &ids {
            let item = item(self.owner, *id, self.largest);
            builder.push(&item).expect("a plan's batches are small");
        }
        let place = place(lane, self.current.epoch, first_seq);
        let sealed = builder.seal(&place, &self.key);
        let (header, frame) = sealed.expect("a plan's batches fit a frame");
        let batch = Batch {
            last_seq: header.last_seq(),
            ids: Rc::new(ids),
            frame: Rc::new(frame),
            acked_at_ms: None,
        };
        self.current.next.insert(lane, batch.last_seq + 1);
        self.current.batches.insert((lane, first_seq), batch);
    }

    fn oldest_event(&self) -> Option<(Lane, u64)> {
        let events = (Lane::Events, 0)..=(Lane::Events, u64::MAX);
        let mut waiting = self.current.batches.range(events);
        waiting
            .find(|(_, batch)| batch.acked_at_ms.is_none())
            .map(|(place, _)| *place)
    }

    /// Lets go of what was acknowledged long ago.
    fn forget_old(&mut self, now_ms: u64) {
        let keep_ms = self.keep_ms;
        self.current.batches.retain(|_, batch| {
            batch
                .acked_at_ms
                .is_none_or(|acked| acked + keep_ms > now_ms)
        });
    }

    /// Returns what comes after a sequence: a batch, or a record in place of those that are gone;
    /// nothing where that cannot be written down.
    pub(crate) fn fetch(&mut self, lane: Lane, after_seq: u64, now_ms: u64) -> Option<StoredBatch> {
        if after_seq + 1 >= self.current.next(lane) {
            return None;
        }
        let range = (lane, after_seq + 1)..=(lane, u64::MAX);
        let found = self.current.batches.range(range).next();
        let first_seq = found.map_or(self.current.next(lane), |(&(_, first), _)| first);
        let is_lost = first_seq > after_seq + 1;
        let batch = match found {
            Some((_, batch)) if !is_lost => StoredBatch {
                first_seq,
                last_seq: batch.last_seq,
                frame: batch.frame.to_vec(),
            },
            _ => self.lost(lane, after_seq + 1, first_seq - 1),
        };
        // On the disk first: that it may have been sent, and that it is lost.
        if is_lost || batch.last_seq > self.current.sent(lane) {
            if now_ms < self.full_until_ms {
                self.current = self.durable.clone();
                return None;
            }
            let last = self.current.next(lane) - 1;
            self.current.sent.insert(lane, last);
            self.durable = self.current.clone();
        }
        Some(batch)
    }

    /// Makes the record in place of items that are gone.
    fn lost(&self, lane: Lane, first_seq: u64, last_seq: u64) -> StoredBatch {
        let lost = Lost {
            reason: LostReason::Released,
            from_ms: 0,
            to_ms: 0,
            unsequenced: 0,
        };
        let place = place(lane, self.current.epoch, first_seq);
        let count = u32::try_from(last_seq - first_seq + 1).expect("a run makes few items");
        let (_, frame) = seal_lost(&place, count, &lost, &self.key).expect("the key signs");
        StoredBatch {
            first_seq,
            last_seq,
            frame,
        }
    }

    /// Takes note that the hub holds everything up to a sequence. Not durable by itself.
    pub(crate) fn release(&mut self, lane: Lane, through_seq: u64, now_ms: u64) -> Released {
        // What was sent before a disk was set back, the hub has as it is here.
        let told = through_seq.min(self.current.sent(lane));
        let range = (lane, 0)..=(lane, told);
        for (_, batch) in self.current.batches.range_mut(range) {
            if batch.last_seq <= told && batch.acked_at_ms.is_none() {
                batch.acked_at_ms = Some(now_ms);
            }
        }
        self.forget_old(now_ms);
        if through_seq > told {
            return Released::Ahead;
        }
        Released::Done
    }

    /// Remembers how far the hub has come, if the disk takes it.
    pub(crate) fn remember(&mut self, witness: Witness, now_ms: u64) {
        self.write(now_ms, |state| {
            state.witness = Some(witness);
            if state.known_to == Some(Epoch::default()) {
                state.known_to = Some(witness.hub_epoch);
            }
        });
    }

    /// Forgets what the hub is known to hold, if the disk takes it.
    pub(crate) fn forget_contents(&mut self, now_ms: u64) {
        self.write(now_ms, |state| state.known_to = None);
    }

    fn write(&mut self, now_ms: u64, change: impl FnOnce(&mut State)) {
        if now_ms < self.full_until_ms {
            self.current = self.durable.clone();
            return;
        }
        change(&mut self.current);
        self.durable = self.current.clone();
    }

    /// Numbers and signs anew what follows what the hub has of this history, under a new epoch;
    /// returns by how much each lane's numbers fall.
    pub(crate) fn roll(
        &mut self,
        epoch: Epoch,
        hub_has: impl Fn(Lane) -> u64,
    ) -> BTreeMap<Lane, u64> {
        let old = std::mem::replace(&mut self.current, State::new(epoch));
        self.current.witness = old.witness;
        let fall = |lane| (lane, old.sent(lane).min(hub_has(lane)));
        let falls = BTreeMap::from(Lane::DATA.map(fall));
        for (&(lane, first_seq), batch) in &old.batches {
            let fall = falls.get(&lane).copied().unwrap_or(0);
            if first_seq > fall {
                self.put(lane, first_seq - fall, batch.ids.to_vec());
            }
        }
        // What is gone behind the last batch stays a gap to be told.
        for (&lane, fall) in &falls {
            self.current.next.insert(lane, old.next(lane) - fall);
        }
        self.durable = self.current.clone();
        falls
    }

    /// What is left when the process ends without warning.
    pub(crate) fn crash(&mut self) {
        self.current = self.durable.clone();
    }

    /// Replaces the file.
    pub(crate) fn replace(&mut self, state: State) {
        self.durable = state;
        self.crash();
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let waiting = self.current.batches.values();
        let waiting = waiting.filter(|batch| batch.acked_at_ms.is_none());
        Waiting {
            bytes: waiting.map(Batch::bytes).sum(),
            oldest_ms: 0,
        }
    }

    /// Returns whether nothing waits.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting().bytes == 0
    }
}
