//! What a seed decides before anything happens.

use crate::chance::Chance;
use crate::fault::Kind;

/// The shape of one run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Agents of each organisation.
    pub(crate) orgs: Vec<usize>,
    /// How long faults strike, in milliseconds.
    pub(crate) faults_ms: u64,
    /// Pause between two faults.
    pub(crate) fault_pause_ms: (u64, u64),
    /// The faults that this run may have. A run with few of them goes deeper into each than one
    /// with all.
    pub(crate) kinds: Vec<Kind>,
    /// Pause between two commits of a source.
    pub(crate) source_pause_ms: (u64, u64),
    /// Most items in a batch.
    pub(crate) items: u64,
    /// Largest item, in bytes.
    pub(crate) item_bytes: u64,
    /// One way through the network.
    pub(crate) delay_ms: (u64, u64),
    /// Whether all lanes share one order, as on TCP, or each has its own, as on QUIC.
    pub(crate) one_order: bool,
    /// A commit of the store.
    pub(crate) store_ms: (u64, u64),
    /// How long the spool looks for a batch.
    pub(crate) fetch_ms: u64,
    /// How long the spool keeps what was acknowledged.
    pub(crate) keep_ms: u64,
    /// How long a certificate is valid. Its life once more is longer than any backup is old.
    pub(crate) card_ms: u64,
    /// Most bytes of a spool.
    pub(crate) spool_bytes: u64,
}

impl Plan {
    pub(crate) fn of(chance: &mut Chance) -> Self {
        let orgs = (0..chance.within((1, 3)))
            .map(|_| chance.index(3) + 1)
            .collect();
        let mut kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|_| chance.is_one_in(2))
            .collect();
        if kinds.is_empty() {
            kinds.extend(Kind::ALL);
        }
        // One in eight moves so much that the credits fill.
        let is_heavy = chance.is_one_in(8);
        let (items, item_bytes) = if is_heavy { (3, 300_000) } else { (6, 200) };
        let delay = *chance
            .pick(&[(0, 1), (5, 30), (50, 400), (0, 3_000)])
            .unwrap_or(&(0, 1));
        Self {
            orgs: if is_heavy { vec![1] } else { orgs },
            faults_ms: 60_000 * chance.within(if is_heavy { (1, 2) } else { (4, 12) }),
            fault_pause_ms: (100, chance.within((2_000, 40_000))),
            kinds,
            source_pause_ms: (0, chance.within((1_000, 12_000))),
            items,
            item_bytes,
            delay_ms: delay,
            one_order: chance.is_one_in(2),
            store_ms: (1, chance.within((2, 600))),
            fetch_ms: if chance.is_one_in(2) { 0 } else { 40 },
            keep_ms: *chance.pick(&[0, 60_000, 86_400_000]).unwrap_or(&0),
            card_ms: 60_000 * chance.pick(&[10, 15, 60]).copied().unwrap_or(60),
            spool_bytes: if chance.is_one_in(4) { 20_000 } else { 1 << 30 },
        }
    }
}
