//! What the agent and its helper for RDMA say to each other: one message a packet of a sequenced socket. Pure.
//!
//! Numbers are of this machine: both ends are one program. Never: a message beyond [`BYTES_MAX`].

use super::exchange::BODY_BYTES;
use std::net::{IpAddr, Ipv6Addr};

/// Of any message.
pub(super) const BYTES_MAX: usize = 512;
/// Of the reason that a helper gives.
pub(super) const TEXT_BYTES_MAX: usize = 400;
const ASK_BYTES: usize = 48 + BODY_BYTES;
const STATE: u8 = 1;
const ANSWER: u8 = 2;

/// A member's wish, whose code is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// By which the agent knows the answer.
    pub(super) tag: u64,
    pub(super) session: u64,
    /// Whose it is.
    pub(super) source: IpAddr,
    /// To which address of this host it came.
    pub(super) own: IpAddr,
    pub(super) body: [u8; BODY_BYTES],
}

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// What it can do: all, or nothing for this reason.
    State(Option<String>),
    /// What became of the wish with this tag.
    Answer(u64, [u8; BODY_BYTES]),
}

impl Ask {
    pub(super) fn encode(&self) -> [u8; ASK_BYTES] {
        let Self { tag, session, source, own, body } = self;
        let mut bytes = [0; ASK_BYTES];
        bytes[..8].copy_from_slice(&tag.to_ne_bytes());
        bytes[8..16].copy_from_slice(&session.to_ne_bytes());
        bytes[16..32].copy_from_slice(&super::port::gid(*source));
        bytes[32..48].copy_from_slice(&super::port::gid(*own));
        bytes[48..].copy_from_slice(body);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ASK_BYTES] = bytes.try_into().ok()?;
        let address = |at| {
            let octets: [u8; 16] = std::array::from_fn(|n| bytes[at + n]);
            Ipv6Addr::from(octets).to_canonical()
        };
        Some(Self {
            tag: u64::from_ne_bytes(std::array::from_fn(|n| bytes[n])),
            session: u64::from_ne_bytes(std::array::from_fn(|n| bytes[8 + n])),
            source: address(16),
            own: address(32),
            body: std::array::from_fn(|n| bytes[48 + n]),
        })
    }
}

impl Told {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::State(why) => {
                let why = why.as_deref().unwrap_or_default();
                [&[STATE], &why.as_bytes()[..why.floor_char_boundary(TEXT_BYTES_MAX)]].concat()
            }
            Self::Answer(tag, body) => [&[ANSWER][..], &tag.to_ne_bytes(), body].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            STATE => {
                let why = std::str::from_utf8(rest).ok()?;
                Some(Self::State((!why.is_empty()).then(|| why.to_owned())))
            }
            ANSWER => {
                let (tag, body) = rest.split_first_chunk::<8>()?;
                Some(Self::Answer(u64::from_ne_bytes(*tag), body.try_into().ok()?))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn what_was_said_is_heard() {
        let ask = Ask {
            tag: 7,
            session: u64::MAX,
            source: "10.77.0.1".parse().unwrap(),
            own: "fd00::2".parse().unwrap(),
            body: [3; BODY_BYTES],
        };
        assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        assert_eq!(Ask::decode(&ask.encode()[1..]), None);
        for told in [Told::State(None), Told::State(Some("no device".into())), Told::Answer(9, [1; BODY_BYTES])] {
            assert!(told.encode().len() <= BYTES_MAX);
            assert_eq!(Told::decode(&told.encode()), Some(told));
        }
        let long = Told::State(Some("ß".repeat(BYTES_MAX))).encode();
        assert!(long.len() <= BYTES_MAX && Told::decode(&long).is_some());
        assert_eq!(Told::decode(&[]), None);
        assert_eq!(Told::decode(&[ANSWER, 1]), None);
    }
}
