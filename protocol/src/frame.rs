//! Frames: how bytes on a stream become messages, whatever the transport.
//!
//! ```text
//! offset  size  field
//!      0     4  payload length in bytes, little-endian, at most limits::FRAME_BYTES
//!      4     1  schema: version of the wire module that wrote the payload
//!      5     1  lane
//!      6     1  kind: which message (an unknown kind is skipped by its length)
//!      7     1  codec: 0 postcard, 1 signed batch (see wire::v1)
//!      8     4  CRC-32 (IEEE) of bytes 0..8 and the payload, little-endian
//!     12     n  payload
//! ```
//! The CRC finds accidents, not attackers: the transport authenticates, batches are signed.

use crate::limits;

/// Size of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 12;

/// A sequence space with its own window. Lower numbers go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Greetings, acknowledgements, heartbeats.
    Control = 0,
    /// Events.
    Events = 1,
    /// Resource sweeps.
    Inventory = 2,
    /// Costs.
    Cost = 3,
    /// Reports of the agent about its sources.
    Results = 4,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Lane; 5] = [
        Lane::Control,
        Lane::Events,
        Lane::Inventory,
        Lane::Cost,
        Lane::Results,
    ];

    /// The lanes that carry batches, most urgent first.
    pub const DATA: [Lane; 4] = [Lane::Events, Lane::Inventory, Lane::Cost, Lane::Results];

    /// Returns the lane's number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the lane of a number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.number() == number)
    }
}

/// One frame whose header and CRC have been checked; its payload has not been looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Version of the wire module that wrote the payload.
    pub schema: u8,
    /// Lane.
    pub lane: Lane,
    /// Message number.
    pub kind: u8,
    /// Codec number.
    pub codec: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

/// Says why bytes are not a frame. The stream cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length exceeds [`limits::FRAME_BYTES`].
    #[error(
        "a frame of {bytes} bytes exceeds the limit of {}",
        limits::FRAME_BYTES
    )]
    TooLong {
        /// The announced length.
        bytes: u32,
    },
    /// The lane does not exist.
    #[error("there is no lane {lane}")]
    Lane {
        /// The number found.
        lane: u8,
    },
    /// A frame of another lane arrived on this lane's stream.
    #[error("a frame of lane {found:?} arrived on the stream of lane {stream:?}")]
    WrongStream {
        /// The stream's lane.
        stream: Lane,
        /// The frame's lane.
        found: Lane,
    },
    /// The CRC does not match.
    #[error("the frame's checksum does not match its bytes")]
    Checksum,
    /// The frame that ends the connection cannot be read.
    #[error("the farewell cannot be read")]
    Farewell,
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

impl Frame {
    /// Writes the frame.
    ///
    /// # Panics
    ///
    /// If the payload exceeds [`limits::FRAME_BYTES`]; writers close batches long before that.
    pub fn encode(&self) -> Vec<u8> {
        assert!(
            self.payload.len() <= limits::FRAME_BYTES,
            "a frame of {}",
            self.payload.len()
        );
        let length = u32::try_from(self.payload.len()).expect("a frame's length fits 32 bits");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[self.schema, self.lane.number(), self.kind, self.codec]);
        let crc = checksum(&bytes, &self.payload);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Cuts the bytes of one lane's stream into frames.
///
/// Holds at most one incomplete frame and what the last `push` brought beyond it.
#[derive(Debug)]
pub struct Decoder {
    lane: Lane,
    pending: Vec<u8>,
    read: usize,
    frames: u64,
}

impl Decoder {
    /// Makes a decoder for the stream of `lane`.
    pub fn new(lane: Lane) -> Self {
        Self {
            lane,
            pending: Vec::new(),
            read: 0,
            frames: 0,
        }
    }

    /// Appends bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 && self.read == self.pending.len() {
            self.pending.clear();
            self.read = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Returns the number of the frame that has begun to arrive and is not whole, from 0.
    pub fn unfinished(&self) -> Option<u64> {
        (self.read < self.pending.len()).then_some(self.frames)
    }

    /// Returns the next complete frame.
    ///
    /// # Errors
    ///
    /// When the bytes are not a frame of this lane; the decoder must not be used any more.
    pub fn pop(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = self.pending.get(self.read..).unwrap_or_default();
        let Some((&head, rest)) = bytes.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, schema, lane, kind, codec] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if payload_bytes > limits::FRAME_BYTES {
            return Err(FrameError::TooLong { bytes: length });
        }
        let lane = Lane::from_number(lane).ok_or(FrameError::Lane { lane })?;
        if lane != self.lane {
            return Err(FrameError::WrongStream {
                stream: self.lane,
                found: lane,
            });
        }
        let Some((&crc, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let Some(payload) = rest.get(..payload_bytes) else {
            return Ok(None);
        };
        if checksum(&head, payload) != u32::from_le_bytes(crc) {
            return Err(FrameError::Checksum);
        }
        let frame = Frame {
            schema,
            lane,
            kind,
            codec,
            payload: payload.to_vec(),
        };
        self.frames += 1;
        self.read += HEADER_BYTES + payload_bytes;
        if self.read >= limits::FRAME_BYTES {
            self.pending.drain(..self.read);
            self.read = 0;
        }
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: Vec<u8>) -> Frame {
        Frame {
            schema: 1,
            lane: Lane::Events,
            kind: 3,
            codec: 1,
            payload,
        }
    }

    #[test]
    fn an_oversize_frame_is_refused_before_its_payload_is_held() {
        let mut head = frame(vec![]).encode();
        head[..4].copy_from_slice(&(2_000_000u32).to_le_bytes());
        let mut decoder = Decoder::new(Lane::Events);
        decoder.push(&head[..8]);
        assert_eq!(decoder.pop(), Err(FrameError::TooLong { bytes: 2_000_000 }));
    }

    #[test]
    fn a_flipped_bit_and_a_wrong_lane_are_refused() {
        let mut bytes = frame(b"hello".to_vec()).encode();
        *bytes.last_mut().unwrap() ^= 1;
        let mut decoder = Decoder::new(Lane::Events);
        decoder.push(&bytes);
        assert_eq!(decoder.pop(), Err(FrameError::Checksum));
        let mut decoder = Decoder::new(Lane::Control);
        decoder.push(&frame(vec![]).encode());
        assert!(matches!(decoder.pop(), Err(FrameError::WrongStream { .. })));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_their_bytes(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            cut in 1usize..64,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| frame(p.clone()).encode()).collect();
            let mut decoder = Decoder::new(Lane::Events);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.pop().unwrap() { seen.push(frame.payload); }
                let whole = u64::try_from(seen.len()).unwrap();
                prop_assert!(decoder.unfinished().is_none_or(|number| number == whole));
            }
            prop_assert_eq!(decoder.unfinished(), None);
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut decoder = Decoder::new(Lane::Inventory);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.pop() {}
        }
    }
}
