//! What this agent remembers of its bundles: `bundles/ledger.json` in the state directory.

use data_encoding::HEXLOWER;
use protocol::bundle::{Digest, ReplyKey};
use protocol::frame::Lane;
use protocol::ids::AgentId;
use protocol::wire::v1::Epoch;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::CarryError;
use crate::layout::{self, Layout, LayoutError};
use crate::seal;

/// Version of the file.
const FORMAT: u32 = 1;

/// How far a bundle went, by lane number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exported {
    #[serde(with = "hex")]
    epoch: Epoch,
    marks: Vec<(u8, u64)>,
}

/// Where the chain stands. The key for replies makes the file a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    format: u32,
    /// Whose it is: another identity begins anew.
    agent: AgentId,
    /// The greatest number that was used.
    pub(super) number: u64,
    /// Digest of the last volume of the last bundle that was written whole.
    #[serde(with = "hex")]
    pub(super) previous: Digest,
    /// Bundles up to this one are not kept in the spool, and no reply was waited for.
    pub(super) released: u64,
    /// Made when the last reply that was taken was made, milliseconds since 1970 UTC.
    pub(super) answered_ms: i64,
    #[serde(with = "hex")]
    reply_key: [u8; 32],
    exported: Option<Exported>,
}

impl Ledger {
    /// Loads the ledger of an agent, or begins one.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(super) fn load(layout: &Layout, agent: AgentId) -> Result<Self, CarryError> {
        let path = layout.bundles().join("ledger.json");
        let fresh = Self {
            format: FORMAT,
            agent,
            number: 0,
            previous: Digest::default(),
            released: 0,
            answered_ms: 0,
            reply_key: seal::random(),
            exported: None,
        };
        let text = match layout::read_private(&path) {
            Err(LayoutError::Read { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(fresh);
            }
            text => text?,
        };
        let found: Self =
            serde_json::from_slice(&text).map_err(|_| CarryError::Ledger { path: path.clone() })?;
        if found.format != FORMAT {
            return Err(CarryError::Ledger { path });
        }
        Ok(if found.agent == agent { found } else { fresh })
    }

    /// Writes the ledger.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the old one then stays.
    pub(super) fn store(&self, layout: &Layout) -> Result<(), CarryError> {
        layout::make_private_dir(&layout.bundles())?;
        let text = serde_json::to_vec_pretty(self).expect("plain structs always serialise");
        layout::write_private(&layout.bundles().join("ledger.json"), &text)?;
        Ok(())
    }

    /// Returns the key that replies are sealed with.
    pub(super) fn reply_key(&self) -> ReplyKey {
        ReplyKey(self.reply_key)
    }

    /// Returns the last item of a lane that was exported.
    pub(super) fn mark(&self, epoch: Epoch, lane: Lane) -> u64 {
        let of_epoch = self.exported.as_ref().filter(|e| e.epoch == epoch);
        let marks = of_epoch.map_or(&[][..], |exported| &exported.marks);
        let found = marks.iter().find(|(number, _)| *number == lane.number());
        found.map_or(0, |(_, last_seq)| *last_seq)
    }

    /// Takes note of what was exported; marks only rise.
    pub(super) fn exported(&mut self, epoch: Epoch, marks: &[(u8, u64)]) {
        let before = self.exported.take().filter(|before| before.epoch == epoch);
        let mut all = before.map_or_else(Vec::new, |before| before.marks);
        for (lane, last_seq) in marks {
            match all.iter_mut().find(|(known, _)| known == lane) {
                Some((_, known)) => *known = (*known).max(*last_seq),
                None => all.push((*lane, *last_seq)),
            }
        }
        self.exported = Some(Exported { epoch, marks: all });
    }
}

/// Byte arrays as hexadecimal digits.
mod hex {
    use super::{Deserialize, Deserializer, HEXLOWER, Serializer};
    use serde::de::Error as _;

    pub(super) fn serialize<const N: usize, S: Serializer>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(super) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map_err(|_| D::Error::custom("another number of bytes"))
    }
}
