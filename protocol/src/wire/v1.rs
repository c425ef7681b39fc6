//! Wire version 1: the messages of an agent–hub session.
//!
//! Every message but the batch is postcard. A batch frame (codec 1) is laid out so that its
//! payload is neither copied nor re-encoded between spool, wire and store:
//!
//! ```text
//! offset  size  field
//!      0     2  length h of the header, little-endian
//!      2     h  BatchHeader, postcard
//!    2+h    64  ECDSA P-256 signature (r ‖ s) over "zero-x batch 1" ‖ header bytes
//!   66+h     n  zstd of the items, each as u32 length, little-endian, and its bytes
//! ```
//! A batch whose header says [`Content::Lost`] holds one item, a [`Lost`], in place of all that its
//! sequences stood for.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::document::SetHash;
use crate::frame::{Frame, Lane};
use crate::ids::SourceId;
use crate::limits;
use crate::session::CloseCode;

/// Number of this wire version, the `schema` of its frames.
pub const SCHEMA: u8 = 1;

/// ALPN protocol name of a session.
pub const ALPN: &[u8] = b"zx/1";

/// Codec number of postcard messages.
pub const CODEC_POSTCARD: u8 = 0;

/// Codec number of signed batches.
pub const CODEC_BATCH: u8 = 1;

/// A random number that names one life of a spool or of a hub's store.
pub type Epoch = [u8; 16];

/// Message numbers.
pub mod kind {
    /// [`super::Hello`].
    pub const HELLO: u8 = 1;
    /// [`super::Welcome`].
    pub const WELCOME: u8 = 2;
    /// A signed batch ([`crate::batch`]).
    pub const BATCH: u8 = 3;
    /// [`super::Ack`].
    pub const ACK: u8 = 4;
    /// [`super::Refused`].
    pub const REFUSED: u8 = 5;
    /// [`super::Heartbeat`].
    pub const HEARTBEAT: u8 = 6;
    /// [`super::GoAway`].
    pub const GO_AWAY: u8 = 7;
    /// [`super::Resync`].
    pub const RESYNC: u8 = 8;
    /// [`super::Close`].
    pub const CLOSE: u8 = 9;
    /// [`super::Renew`].
    pub const RENEW: u8 = 10;
    /// [`super::Renewed`].
    pub const RENEWED: u8 = 11;
    /// [`super::NotRenewed`].
    pub const NOT_RENEWED: u8 = 12;
    /// [`super::Authority`].
    pub const AUTHORITY: u8 = 13;
}

/// First message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest and highest wire version that the agent speaks.
    pub versions: (u8, u8),
    /// The agent's program version, for display.
    pub agent_version: String,
    /// Epoch of the agent's spool: sequences of another epoch are another history.
    pub epoch: Epoch,
    /// Random number of the agent's process: two processes of one identity differ in it.
    pub process: u64,
    /// The furthest that the agent knows its organisation's store to have come.
    pub witness: Option<Witness>,
    /// The agent's clock, milliseconds since 1970 UTC.
    pub wall_ms: i64,
}

/// How far an organisation's store has come: what acknowledgements said last.
///
/// Agents remember it, so that a store that was set back does not go unnoticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The life of the hub's store that the rest belongs to.
    pub hub_epoch: Epoch,
    /// Number of the commit.
    pub commit: u64,
    /// Head of the organisation's audit chain at that commit.
    pub audit_head: [u8; 32],
}

/// The hub's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u8,
    /// Epoch of the hub's store. A change means that the hub may have lost what it acknowledged.
    pub hub_epoch: Epoch,
    /// Last commit of the agent's organisation.
    pub commit: u64,
    /// What is durably stored for the agent's epoch, per lane.
    pub high_water: Vec<HighWater>,
    /// What may be under way, per lane; a lane that is not named may not send.
    pub credits: Vec<Credit>,
    /// The hub's clock, milliseconds since 1970 UTC.
    pub wall_ms: i64,
}

/// The last item of a lane that is durably stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HighWater {
    /// Lane number.
    pub lane: u8,
    /// Spool epoch.
    pub epoch: Epoch,
    /// Sequence of the last stored item; 0 before the first.
    pub seq: u64,
}

/// Bytes of batch frames of a lane that may be sent and not yet acknowledged. A batch may be sent
/// as long as this is not exceeded, so one batch may reach beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Lane number.
    pub lane: u8,
    /// Bytes.
    pub bytes: u64,
}

/// What stands under the sequences of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// An item each.
    Items,
    /// Nothing any more: the payload holds one [`Lost`].
    Lost,
}

/// What an agent signs of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// Lane number.
    pub lane: u8,
    /// Spool epoch.
    pub epoch: Epoch,
    /// Sequence of the first item; sequences count items from 1.
    pub first_seq: u64,
    /// Sequences that the batch takes, at least 1.
    pub count: u32,
    /// What they stand for.
    pub content: Content,
    /// Merkle root of the items ([`crate::batch::merkle_root`]).
    pub root: [u8; 32],
    /// Size of the items before compression, in bytes.
    pub payload_bytes: u32,
    /// The source that all items come from.
    pub source: SourceId,
    /// The agent's clock when it closed the batch, milliseconds since 1970 UTC.
    pub made_at_ms: i64,
}

impl BatchHeader {
    /// Returns the sequence of the last item.
    pub fn last_seq(&self) -> u64 {
        self.first_seq
            .saturating_add(u64::from(self.count))
            .saturating_sub(1)
    }
}

/// The item of a batch of [`Content::Lost`]: the agent had items under these sequences and cannot
/// send them any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Why.
    pub reason: LostReason,
    /// When the first of them was made, milliseconds since 1970 UTC; 0 when that is not known.
    pub from_ms: i64,
    /// When the last of them was made; 0 when that is not known.
    pub to_ms: i64,
    /// Records that were never given a sequence, because there was no room for them: what this
    /// record tells of beyond its sequences.
    pub unsequenced: u64,
}

/// Why an agent cannot send items any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LostReason {
    /// The spool's bound was reached and its policy let the oldest or the newest go.
    SpoolFull,
    /// The hub had acknowledged them, and asked again after the agent had let them go.
    Released,
    /// The rows could not be read or unsealed.
    Damaged,
    /// The source dropped them before they could be read, as a rotated file does.
    Source,
    /// The bundle that held them never came, and an operator gave it up: said by the hub, whose
    /// agent does not know.
    Bundle,
}

impl LostReason {
    /// Returns the reason in words, as a clause.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "the agent's spool was full",
            Self::Released => {
                "the hub had acknowledged them and lost them, and the agent no longer has them"
            }
            Self::Damaged => "the agent's spool was damaged",
            Self::Source => "the source dropped them before they could be read",
            Self::Bundle => "the bundle that held them never came, and its gap was accepted",
        }
    }
}

/// The hub has durably stored everything up to `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Lane number.
    pub lane: u8,
    /// Sequence of the last stored item.
    pub seq: u64,
    /// The commit of the organisation's store that holds it.
    pub commit: u64,
    /// Head of the organisation's audit chain at that commit.
    pub audit_head: [u8; 32],
}

/// The hub refused a batch because items before it are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Lane number.
    pub lane: u8,
    /// The sequence that the hub expects next.
    pub expected_seq: u64,
}

/// Sent by the agent when it has been silent, and answered by the hub in kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's clock, milliseconds since 1970 UTC.
    pub wall_ms: i64,
    /// Bytes that wait in the agent's spool; 0 from the hub.
    pub spool_bytes: u64,
    /// When the oldest waiting batch was made; 0 when none waits, and from the hub.
    pub oldest_ms: i64,
}

/// The hub asks the agent to leave and come back later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// A [`crate::session::CloseCode`] number.
    pub code: u32,
    /// Words for the operator.
    pub reason: String,
    /// Pause before the next attempt, in milliseconds.
    pub retry_after_ms: u64,
}

/// The hub asks for a scope at its next sweep: for what lies in the parts that differ, or for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// The scope's text; empty for all scopes.
    pub scope: String,
    /// What the hub holds of the scope ([`crate::parts::Sums`]). Empty where the agent has to forget
    /// what it knows the hub to have, and to send everything.
    pub sums: Vec<u64>,
}

/// The parts of a scope of which a sweep sent every member ([`crate::parts`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// Into how many parts the scope is dealt.
    pub parts: u16,
    /// Numbers of the parts, rising.
    pub which: Vec<u16>,
}

/// The sender ends the connection. Only on transports that have no close of their own
/// ([`crate::mux`]); nothing follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// A [`CloseCode`] number.
    pub code: u32,
    /// Words for the operator, at most [`limits::CLOSE_REASON_BYTES`].
    pub reason: String,
}

impl Close {
    /// Makes a farewell; a longer reason is cut.
    pub fn new(code: CloseCode, reason: &str) -> Self {
        let mut end = reason.len().min(limits::CLOSE_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            code: code.number(),
            reason: reason.get(..end).unwrap_or_default().to_owned(),
        }
    }
}

/// The agent asks for a new certificate. The names come from the certificate of the session and
/// from nowhere else; so does the key, which a renewal does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// PKCS #10 request for the key of this session, DER. Its names are ignored.
    pub csr: Vec<u8>,
}

/// The hub's answer to [`Renew`]. The old certificate stays good until the new one was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Certificate chain, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

/// The hub gives no new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRenewed {
    /// Words for the operator.
    pub reason: String,
}

/// The hub's certificate authority, told after the greeting and when it changes. That it comes
/// through a session which both sides' certificates have opened is what makes it true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The root certificates that the agent is to trust from here on, DER: two while the
    /// authority is being replaced.
    pub roots: Vec<Vec<u8>>,
    /// Asks for a renewal within so many milliseconds, at a moment of the agent's choice.
    pub renew_within_ms: Option<u64>,
}

/// One step of a sweep, an item of lane [`Lane::Inventory`] (DESIGN 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SweepItem {
    /// A sweep starts.
    Begin {
        /// Text of the [`crate::Scope`].
        scope: String,
        /// Rises by one with every sweep of the scope.
        generation: u64,
    },
    /// A document is new or has changed.
    Changed {
        /// JSON of the [`crate::Document`].
        document: String,
    },
    /// A resource of the previous sweep was not seen. Applied at `End`.
    Gone {
        /// Text of the [`crate::Urn`].
        urn: String,
    },
    /// The sweep was complete and free of errors; the scope holds exactly this set.
    End {
        /// Text of the scope.
        scope: String,
        /// The sweep's generation.
        generation: u64,
        /// All resources of the scope, unchanged ones included.
        set: SetHash,
        /// The parts that were sent whole, where the hub asked for them: what it holds of them and
        /// was not sent is gone.
        resent: Option<Resent>,
    },
    /// The list could not be read whole: nothing may be retired.
    Failed {
        /// Text of the scope.
        scope: String,
        /// The sweep's generation.
        generation: u64,
        /// Service and operation.
        call: String,
        /// The provider's error code.
        error: String,
    },
}

/// What an agent reports about its sources, an item of lane [`Lane::Results`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportItem {
    /// A sync has finished, or could not run.
    Source(SourceReport),
    /// A record was kept apart because it could not be read.
    Quarantined {
        /// File and offset.
        place: String,
        /// Why.
        reason: String,
        /// Length of the record.
        bytes: u64,
    },
}

/// How one sync of one source went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The operator's name for the source.
    pub name: String,
    /// `aws`, `gcp`, `azure`, `host`, `wazuh`.
    pub kind: String,
    /// Start, milliseconds since 1970 UTC.
    pub started_ms: i64,
    /// End, milliseconds since 1970 UTC.
    pub finished_ms: i64,
    /// Calls made.
    pub calls: u64,
    /// Documents read, unchanged ones included.
    pub documents: u64,
    /// Calls that failed for good: call and code.
    pub faults: Vec<(String, String)>,
    /// Why the whole sync could not run; empty when it could.
    pub error: String,
}

macro_rules! messages {
    ($($name:ident => $kind:expr;)*) => {
        /// A control message of this version.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant holds the message of its name")]
        pub enum Message { $($name($name),)* }

        impl Message {
            /// Reads the message of a frame of [`SCHEMA`]; `None` for a kind that this version
            /// does not know, which is to be skipped.
            ///
            /// # Errors
            ///
            /// When the payload is not the message that its kind names, or has bytes left over.
            pub fn decode(frame: &Frame) -> Result<Option<Self>, postcard::Error> {
                fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, postcard::Error> {
                    match postcard::take_from_bytes(payload)? {
                        (message, []) => Ok(message),
                        (_, _) => Err(postcard::Error::DeserializeBadEncoding),
                    }
                }
                match frame.kind {
                    $(kind if kind == $kind => read(&frame.payload).map(|m| Some(Self::$name(m))),)*
                    _ => Ok(None),
                }
            }

            /// Writes the message as a frame of lane [`Lane::Control`].
            pub fn encode(&self) -> Vec<u8> {
                let (kind, payload) = match self {
                    $(Self::$name(message) => ($kind, postcard::to_stdvec(message)),)*
                };
                let payload = payload.expect("plain structs always serialise");
                Frame { schema: SCHEMA, lane: Lane::Control, kind, codec: CODEC_POSTCARD, payload }
                    .encode()
            }
        }
    };
}
messages! {
    Hello => kind::HELLO;
    Welcome => kind::WELCOME;
    Ack => kind::ACK;
    Refused => kind::REFUSED;
    Heartbeat => kind::HEARTBEAT;
    GoAway => kind::GO_AWAY;
    Resync => kind::RESYNC;
    Close => kind::CLOSE;
    Renew => kind::RENEW;
    Renewed => kind::RENEWED;
    NotRenewed => kind::NOT_RENEWED;
    Authority => kind::AUTHORITY;
}
