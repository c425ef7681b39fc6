//! All lanes on one byte stream, for transports that have no streams of their own: TLS over TCP.
//!
//! ```text
//! frames, by lane ─▶ Mux: the most urgent lane first, frame by frame ─▶ one byte stream
//! one byte stream ─▶ Demux: by the headers ─▶ bytes of a lane ─▶ the session's decoder of the lane
//! ```
//! A QUIC connection is closed with a code and words. TCP has neither, so [`v1::Close`] carries
//! them in a frame of its own; it is taken out here and never reaches the session.

use std::collections::{BTreeMap, VecDeque};

use crate::frame::{Decoder, FrameError, HEADER_BYTES, Lane};
use crate::limits;
use crate::wire::v1::{self, Message};

/// Frames that wait for the stream, the most urgent lane first.
///
/// A frame that has begun is written to its end: what is urgent waits for one frame at most,
/// [`limits::FRAME_BYTES`].
///
/// Bounded by whoever pushes: the session sends no more than the peer's credit of each lane.
#[derive(Debug, Default)]
pub struct Mux {
    lanes: BTreeMap<Lane, VecDeque<Vec<u8>>>,
}

impl Mux {
    /// Appends whole frames of a lane.
    pub fn push(&mut self, lane: Lane, frames: Vec<u8>) {
        self.lanes.entry(lane).or_default().push_back(frames);
    }

    /// Returns what is to be written next.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.lanes.values_mut().find_map(VecDeque::pop_front)
    }

    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.values().all(VecDeque::is_empty)
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        self.lanes.clear();
    }
}

/// What came out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes of a lane, in order: any part of its frames.
    Bytes(Lane, Vec<u8>),
    /// The peer ends the connection; nothing follows.
    Close(v1::Close),
}

/// Where in a frame its lane and its kind stand ([`crate::frame`]).
const KNOWN_BYTES: usize = 8;

/// Longest farewell, in bytes of its payload: two numbers and [`limits::CLOSE_REASON_BYTES`].
const CLOSE_BYTES: usize = limits::CLOSE_REASON_BYTES + 16;

#[derive(Debug)]
enum State {
    /// Within the part of a header that says how long the frame is and whose.
    Head,
    /// So many bytes of a lane's frame are still to come.
    Lane { lane: Lane, left: usize },
    /// So many bytes of the farewell are still to come.
    Close { left: usize, held: Decoder },
    /// The farewell was read.
    Closed,
}

/// Sorts the bytes of a stream by lane.
///
/// Holds at most [`KNOWN_BYTES`] bytes, or a farewell: what belongs to a lane is passed on as it
/// comes, and whoever decodes it holds it.
#[derive(Debug)]
pub struct Demux {
    head: Vec<u8>,
    state: State,
}

impl Default for Demux {
    fn default() -> Self {
        Self {
            head: Vec::with_capacity(KNOWN_BYTES),
            state: State::Head,
        }
    }
}

impl Demux {
    /// Takes bytes that arrived and returns them by lane. Runs of one lane come as one piece.
    ///
    /// # Errors
    ///
    /// When a header announces too much or a lane that does not exist, or the farewell cannot be
    /// read; the stream must not be read further.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Piece>, FrameError> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head => {
                    let (some, rest) = split(bytes, KNOWN_BYTES - self.head.len());
                    self.head.extend_from_slice(some);
                    bytes = rest;
                    if let Some(head) = self.head.first_chunk::<KNOWN_BYTES>().copied() {
                        self.head.clear();
                        self.begin(head, &mut pieces)?;
                    }
                }
                State::Lane { lane, left } => {
                    let (some, rest) = split(bytes, *left);
                    append(&mut pieces, *lane, some);
                    bytes = rest;
                    *left -= some.len();
                    if *left == 0 {
                        self.state = State::Head;
                    }
                }
                State::Close { left, held } => {
                    let (some, rest) = split(bytes, *left);
                    held.push(some);
                    bytes = rest;
                    *left -= some.len();
                    if *left == 0 {
                        let close = farewell(held)?;
                        pieces.push(Piece::Close(close));
                        self.state = State::Closed;
                    }
                }
                State::Closed => return Ok(pieces),
            }
        }
        Ok(pieces)
    }

    fn begin(
        &mut self,
        head: [u8; KNOWN_BYTES],
        pieces: &mut Vec<Piece>,
    ) -> Result<(), FrameError> {
        let [l0, l1, l2, l3, schema, lane, kind, _codec] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let payload_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let lane = Lane::from_number(lane).ok_or(FrameError::Lane { lane })?;
        let is_close = (schema, lane, kind) == (v1::SCHEMA, Lane::Control, v1::kind::CLOSE);
        let most = if is_close {
            CLOSE_BYTES
        } else {
            limits::FRAME_BYTES
        };
        if payload_bytes > most {
            return Err(FrameError::TooLong { bytes: length });
        }
        let left = HEADER_BYTES - KNOWN_BYTES + payload_bytes;
        self.state = if is_close {
            let mut held = Decoder::new(Lane::Control);
            held.push(&head);
            State::Close { left, held }
        } else {
            append(pieces, lane, &head);
            State::Lane { lane, left }
        };
        Ok(())
    }
}

fn farewell(held: &mut Decoder) -> Result<v1::Close, FrameError> {
    let frame = held.pop()?.ok_or(FrameError::Checksum)?;
    match Message::decode(&frame) {
        Ok(Some(Message::Close(close))) => Ok(close),
        // The checksum was right, so that it was written like this.
        Ok(_) | Err(_) => Err(FrameError::Farewell),
    }
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

fn append(pieces: &mut Vec<Piece>, lane: Lane, some: &[u8]) {
    if let Some(Piece::Bytes(of, bytes)) = pieces.last_mut()
        && *of == lane
    {
        bytes.extend_from_slice(some);
    } else {
        pieces.push(Piece::Bytes(lane, some.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use proptest::prelude::*;

    fn frame(lane: Lane, payload: Vec<u8>) -> Frame {
        Frame {
            schema: v1::SCHEMA,
            lane,
            kind: v1::kind::BATCH,
            codec: v1::CODEC_BATCH,
            payload,
        }
    }

    fn close(reason: &str) -> v1::Close {
        v1::Close {
            code: 4,
            reason: reason.to_owned(),
        }
    }

    /// Cuts a stream into chunks of the given lengths, over and over, and decodes every lane.
    fn read(stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<v1::Close>) {
        let mut demux = Demux::default();
        let mut decoders: BTreeMap<Lane, Decoder> = Lane::ALL
            .into_iter()
            .map(|lane| (lane, Decoder::new(lane)))
            .collect();
        let (mut frames, mut closed, mut rest) = (Vec::new(), None, stream);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = split(rest, *cut);
            rest = after;
            for piece in demux.push(chunk).unwrap() {
                assert!(closed.is_none(), "{piece:?} after the farewell");
                match piece {
                    Piece::Close(close) => closed = Some(close),
                    Piece::Bytes(lane, bytes) => {
                        let decoder = decoders.get_mut(&lane).unwrap();
                        decoder.push(&bytes);
                        while let Some(frame) = decoder.pop().unwrap() {
                            frames.push(frame);
                        }
                    }
                }
            }
        }
        (frames, closed)
    }

    #[test]
    fn the_most_urgent_lane_goes_first_and_each_lane_keeps_its_order() {
        let mut mux = Mux::default();
        for (lane, byte) in [
            (Lane::Inventory, 1),
            (Lane::Events, 2),
            (Lane::Inventory, 3),
            (Lane::Control, 4),
            (Lane::Events, 5),
        ] {
            mux.push(lane, vec![byte]);
        }
        let order: Vec<u8> = std::iter::from_fn(|| mux.pop()).flatten().collect();
        assert_eq!(order, [4, 2, 5, 1, 3]);
        assert!(mux.is_empty());
    }

    #[test]
    fn an_announced_length_is_judged_before_anything_is_held() {
        let mut head = frame(Lane::Events, vec![]).encode();
        head[..4].copy_from_slice(&(1u32 << 20).to_le_bytes());
        assert!(Demux::default().push(&head).is_ok());
        head[..4].copy_from_slice(&((1u32 << 20) + 1).to_le_bytes());
        let told = Demux::default().push(&head[..8]);
        assert_eq!(
            told,
            Err(FrameError::TooLong {
                bytes: (1 << 20) + 1
            })
        );
        head[5] = 77;
        head[..4].copy_from_slice(&[0; 4]);
        assert_eq!(
            Demux::default().push(&head),
            Err(FrameError::Lane { lane: 77 })
        );
        let mut farewell = Message::Close(close("")).encode();
        farewell[..4].copy_from_slice(&100_000u32.to_le_bytes());
        let told = Demux::default().push(&farewell);
        assert_eq!(told, Err(FrameError::TooLong { bytes: 100_000 }));
    }

    #[test]
    fn a_damaged_farewell_is_none() {
        let mut farewell = Message::Close(close("the hub is stopping")).encode();
        *farewell.last_mut().unwrap() ^= 1;
        assert_eq!(Demux::default().push(&farewell), Err(FrameError::Checksum));
        let odd = Frame {
            kind: v1::kind::CLOSE,
            codec: v1::CODEC_POSTCARD,
            payload: vec![0xff; 20],
            ..frame(Lane::Control, vec![])
        };
        assert_eq!(
            Demux::default().push(&odd.encode()),
            Err(FrameError::Farewell)
        );
    }

    proptest! {
        #[test]
        fn any_cutting_of_the_stream_gives_the_same_frames_and_the_same_farewell(
            payloads in proptest::collection::vec(
                (0usize..5, proptest::collection::vec(any::<u8>(), 0..300)), 0..12),
            cuts in proptest::collection::vec(1usize..400, 1..8),
            reason in "[a-z ]{0,40}",
        ) {
            let sent: Vec<Frame> = payloads
                .into_iter()
                .map(|(lane, payload)| frame(Lane::ALL[lane], payload))
                .collect();
            let mut stream: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
            stream.extend(Message::Close(close(&reason)).encode());
            stream.extend([7; 20]);
            let (seen, closed) = read(&stream, &cuts);
            prop_assert_eq!(closed, Some(close(&reason)));
            prop_assert_eq!(seen, sent);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_nothing_is_added_to_them(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            cut in 1usize..64,
        ) {
            let mut demux = Demux::default();
            let mut passed = 0;
            for chunk in bytes.chunks(cut) {
                let Ok(pieces) = demux.push(chunk) else { break };
                for piece in pieces {
                    if let Piece::Bytes(_, bytes) = piece { passed += bytes.len(); }
                }
            }
            prop_assert!(passed <= bytes.len());
        }
    }
}
