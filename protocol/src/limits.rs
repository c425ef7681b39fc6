//! Every bound that two parts of Zero-X must agree on, with its reason.
//!
//! A bound that only one module knows stands beside that module's code.

use std::time::Duration;

use crate::frame::Lane;

/// Largest frame on the wire, compressed, in bytes.
///
/// Large enough for a full batch, small enough that a hostile peer cannot make the hub hold more
/// than this per lane before anything has been checked.
pub const FRAME_BYTES: usize = 1 << 20;

/// Largest payload after decompression, in bytes.
pub const PAYLOAD_BYTES: usize = 8 << 20;

/// Largest allowed ratio of decompressed to compressed bytes; beyond it a payload is a bomb.
///
/// Payloads below [`RATIO_FREE_BYTES`] are exempt: a short run of equal documents compresses
/// better than this without any malice.
pub const PAYLOAD_RATIO: usize = 64;

/// Decompressed size up to which [`PAYLOAD_RATIO`] is not applied, in bytes: more than an agent's
/// batch and its last item have together, so that no honest batch is taken for a bomb.
pub const RATIO_FREE_BYTES: usize = 2 << 20;

/// Largest number of items in one batch.
pub const BATCH_ITEMS: usize = 10_000;

/// Size at which the agent closes a batch, uncompressed, in bytes. A batch is a durable commit of
/// the hub and a block of its store: with half the size the hub took 3.0 instead of 2.2 CPU
/// seconds for a million events, and with twice the size a search reads twice as much for each
/// event that it finds.
pub const BATCH_TARGET_BYTES: usize = 512 << 10;

/// Largest single resource document, as JSON, in bytes. A larger one is quarantined.
pub const DOCUMENT_BYTES: usize = 1 << 20;

/// Largest raw text of one event, in bytes. A larger one is quarantined.
pub const EVENT_RAW_BYTES: usize = 256 << 10;

/// Longest URN, in bytes, percent-encoding included. S3 keys are the longest native ids (1,024
/// bytes, three times that when every byte is encoded).
pub const URN_BYTES: usize = 4096;

/// Deepest nesting in a document's configuration.
pub const DOCUMENT_DEPTH: usize = 64;

/// Returns the credit that the hub grants a lane, in bytes of frames not yet acknowledged.
///
/// Together what a hub may have to hold of one agent on a transport without windows of its own.
/// Events get the most: on a way of 100 ms they must not wait for acknowledgements at 40 MB/s.
pub const fn lane_credit_bytes(lane: Lane) -> u64 {
    match lane {
        Lane::Control => 0,
        Lane::Events => 4 << 20,
        Lane::Inventory => 2 << 20,
        Lane::Cost | Lane::Results => 512 << 10,
    }
}

/// The credits of all lanes, in bytes.
pub const CREDIT_BYTES: u64 = lane_credit_bytes(Lane::Events)
    + lane_credit_bytes(Lane::Inventory)
    + lane_credit_bytes(Lane::Cost)
    + lane_credit_bytes(Lane::Results);

/// Longest reason in a close, in bytes: on QUIC it travels in one packet.
pub const CLOSE_REASON_BYTES: usize = 512;

/// Time between two heartbeats on an idle session.
pub const HEARTBEAT: Duration = Duration::from_secs(20);

/// Time in which a frame that has begun to arrive must be whole, while its reader reads: enough
/// for the largest one at 28 kbit/s.
pub const FRAME_TIME: Duration = Duration::from_secs(300);

/// How long after its end an agent's certificate may still be renewed, at most. A certificate of
/// a shorter life may be renewed for as long again as it lived.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Silence after which a session is considered dead. Three heartbeats may be lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(70);

/// Time for the hub's greeting on a new connection: a network may let a handshake through and lose
/// what follows. Doubles with each connection in a row that achieved nothing, up to
/// [`IDLE_TIMEOUT`], for a hub that is slow.
pub const GREETING_TIME: Duration = Duration::from_secs(5);

/// Time after which a hub that does not read what an agent sends says that it is there.
pub const STILL_HERE: Duration = Duration::from_secs(5);

/// Time after which an agent gives up a connection on which a batch is not acknowledged. A hub
/// under load answers late, and to send everything once more would not help it.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(300);

/// First pause before a lost session is dialled again; doubles up to [`RECONNECT_MAX`], with
/// full jitter.
pub const RECONNECT_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two attempts to reach the hub.
pub const RECONNECT_MAX: Duration = Duration::from_secs(60);

/// Longest pause while this host has no way to send anything: nobody is spared by a longer one.
pub const UNROUTED_RETRY: Duration = Duration::from_secs(2);

/// Share of a scope above which an `end` that would retire that many resources is held for
/// confirmation: one tenth (DESIGN 4).
pub const RETIRE_SHARE: u64 = 10;

/// Number of resources up to which an `end` may retire any share of its scope.
pub const RETIRE_FREE: u64 = 20;

/// Most sources of one agent: a source is a cloud account or a file, and each is configured.
pub const AGENT_SOURCES: u64 = 1024;

/// Most scopes of one agent: 500 accounts, 20 regions, 25 types.
pub const AGENT_SCOPES: u64 = 250_000;

/// Most living resources of one agent. The hub's lists hold half a kilobyte of each in memory;
/// whoever has more lets several agents share the accounts.
pub const AGENT_RESOURCES: u64 = 500_000;

/// Most sequence spaces of one agent that the hub remembers: four for each life of its spool, and
/// they are read at every greeting.
pub const AGENT_STREAMS: usize = 1024;

/// Most links of one document.
pub const DOCUMENT_LINKS: usize = 4096;

/// Largest page of a list in the API.
pub const PAGE_ITEMS: usize = 1000;

/// Longest filter text, in bytes.
pub const FILTER_BYTES: usize = 4096;

/// Most terms in one filter.
pub const FILTER_TERMS: usize = 64;

/// Largest chunk of a bundle before it is sealed, in bytes: two of the largest frames. Whoever
/// reads a bundle holds one chunk at a time.
pub const BUNDLE_CHUNK_BYTES: usize = 2 << 20;

/// Largest header of a bundle's volume, in bytes: its certificates take some 1,200.
pub const BUNDLE_HEADER_BYTES: usize = 16 << 10;

/// Most volumes of one bundle.
pub const BUNDLE_VOLUMES: u32 = 4096;

/// Smallest volume that may be asked for, in bytes: room for the largest chunk.
pub const BUNDLE_VOLUME_MIN_BYTES: u64 = 4 << 20;

/// Largest volume, in bytes: what the file system of a plain memory stick (FAT32) holds.
pub const BUNDLE_VOLUME_MAX_BYTES: u64 = (4 << 30) - 1;

/// Largest reply to a bundle and largest enrolment request, in bytes.
pub const BUNDLE_LETTER_BYTES: usize = 1 << 20;
