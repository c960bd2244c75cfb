//! A signal whose origin keeps what it was made of until the spool has the signal.
//!
//! Flows in: the origin and the places there. Flows out: word to the origin, on the uplink's thread, after the append and
//! before the signal is sent. So a kill in between leaves the signal in the spool and its places at the origin, and
//! [`UplinkHandle::spooled`](crate::UplinkHandle::spooled) tells which of them the origin gives a second time.

use std::fmt;
use std::sync::Arc;

/// Keeps what signals are made of, over a kill of the agent.
pub trait Origin: Send + Sync {
    /// Tells it from every other origin of this boot; the same after a restart of the agent.
    fn number(&self) -> u64;

    /// The spool has what was made of these places. Returns the first place that it would still give again after a kill.
    /// Must not wait: it is called on the uplink's thread.
    fn settle(&self, places: &[u64]) -> u64;
}

/// What a signal was made of.
#[derive(Clone)]
pub struct Receipt {
    /// Who keeps it.
    pub origin: Arc<dyn Origin>,
    /// Where: each place is used once in the life of the origin.
    pub places: Vec<u64>,
}

impl Receipt {
    /// As kept in the spool: number of the origin and places, little endian.
    pub(crate) fn encode(&self) -> Vec<u8> {
        std::iter::once(self.origin.number()).chain(self.places.iter().copied()).flat_map(u64::to_le_bytes).collect()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Receipt({}: {:?})", self.origin.number(), self.places)
    }
}

/// A receipt in the spool whose places the origin may give again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Of the frame that it belongs to.
    pub index: u64,
    pub origin: u64,
    pub places: Vec<u64>,
}

impl Kept {
    /// Reads what [`Receipt::encode`] wrote.
    pub fn decode(index: u64, body: &[u8]) -> Option<Self> {
        let mut words =
            body.chunks_exact(8).map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        Some(Self { index, origin: words.next()?, places: words.collect() })
    }
}
