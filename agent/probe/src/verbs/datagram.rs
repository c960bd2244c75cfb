//! What a probe over an unreliable datagram queue pair carries, and its answer. Pure.
//!
//! ```text
//!  0  magic "RWV1"   4  kind: 1 a probe, 2 its answer   8  session of the loan   16  sequence   24  zeros, to the size
//! ```
//! Who has the queue pair's number and key was given them for the cluster's key: it carries no code of its own. Numbers are big-endian.

use crate::packet::u64_at;

/// What is read of it, bytes.
pub(super) const HEAD_BYTES: usize = 24;
const MAGIC: &[u8; 4] = b"RWV1";
/// Where the kind stands.
const KIND_AT: usize = 4;

/// A probe's or an answer's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) is_answer: bool,
    pub(super) session: u64,
    pub(super) sequence: u64,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[KIND_AT] = if self.is_answer { 2 } else { 1 };
        bytes[8..16].copy_from_slice(&self.session.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// `None` of anything else.
    pub(super) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let is_answer = match bytes[KIND_AT] {
            1 => false,
            2 => true,
            _ => return None,
        };
        bytes.starts_with(MAGIC).then(|| Self { is_answer, session: u64_at(bytes, 8), sequence: u64_at(bytes, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        for is_answer in [false, true] {
            let head = Head { is_answer, session: u64::MAX - 1, sequence: 1 << 33 };
            assert_eq!(Head::decode(&head.encode()), Some(head));
            for at in 0..5 {
                let mut changed = head.encode();
                changed[at] ^= 0x10;
                assert_eq!(Head::decode(&changed), None, "byte {at}");
            }
        }
    }
}
