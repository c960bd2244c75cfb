//! What a probe and its answer look like on the wire. Pure.
//!
//! ```text
//!  0  magic "RWP1"          4  kind            5  flags           8  session
//!                                               6  requests of this session that came to the answerer, modulo 2^16 (flag 1);
//!                                                  or (flag 2) segments that its kernel sent again on this stream, and of those how
//!                                                  many had come all the same, a byte each, modulo 2^8
//! 16  sequence             24  stamp, Unix ns of the answerer's kernel (a request: 0)
//! 32  two earlier answers: low half of the sequence, nanoseconds that the answerer's host held it
//! 48  HMAC-SHA256 over bytes 0 to 48 and the length of the datagram, its first 16 bytes
//! 64  zeros, to the size that is probed with
//! ```
//! Numbers are big-endian. An answer is as long as its request: it amplifies nothing. How long a host held an answer is
//! known only once the answer has left, so it rides with the next two of the session. How many requests came tells a loss on the
//! way there from one on the way back; on a stream, where every request comes in the end, what was sent again does. A flag that is not set, as older answerers leave it: not known. Never: a word believed before its
//! code is checked, or an answer answered.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest probe, and what every probe begins with, bytes.
pub const HEAD_BYTES: usize = 64;
/// The longest UDP payload over IPv4, bytes.
pub const SIZE_MAX: usize = 65_507;
/// Shortest key, bytes: as long as half of what SHA-256 gives.
pub const KEY_BYTES_MIN: usize = 16;

pub(crate) const MAGIC: &[u8; 4] = b"RWP1";
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
pub(crate) const SIGNED: usize = 48;
pub(crate) const CODE_BYTES: usize = HEAD_BYTES - SIGNED;
/// Held for longer than can be told, or not known.
const UNKNOWN: u32 = u32::MAX;
/// Flag: bytes 6 and 7 count requests.
const COUNTS: u8 = 1;
/// Flag: bytes 6 and 7 count what was sent again.
const RESENT: u8 = 2;

/// What members of one cluster share.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// From these bytes; `None` where they are fewer than [`KEY_BYTES_MIN`].
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= KEY_BYTES_MIN).then(|| Hmac::new_from_slice(bytes).ok().map(Self)).flatten()
    }
}

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Drawn by the prober at its start: answers to another's probes are not mistaken for its own.
    pub session: u64,
    /// Grows by one with each probe of the session.
    pub sequence: u64,
}

/// How long the answerer's host held an earlier answer of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Low half of that answer's sequence.
    pub sequence_low: u32,
    /// From its kernel's stamp of the request to its kernel's stamp of the answer, nanoseconds.
    pub held_ns: u32,
}

/// What an answerer's kernel sent again on a stream so far, segments modulo 2^8. Two numbers: while one more is sent again as
/// another turns out to have come, their difference stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// All of them.
    pub again: u8,
    /// Of those, how many the prober's kernel said had come all the same.
    pub undone: u8,
}

/// An answer to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the request.
    pub session: u64,
    /// Of the request.
    pub sequence: u64,
    /// When the answerer's kernel received the request, Unix nanoseconds of its clock.
    pub received_unix_ns: u64,
    /// Of earlier answers, where known.
    pub held: [Option<Held>; 2],
    /// Requests of the session that had come when it was given, this one among them, modulo 2^16; where the answerer counts.
    pub requests: Option<u16>,
    /// On a stream, in place of those: segments that the answerer's kernel had sent again, less those that had come all the same,
    /// modulo 2^16.
    pub resent: Option<Resent>,
}

/// Either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// To be answered.
    Request(Request),
    /// Not to be.
    Answer(Answer),
}

/// Why a datagram is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It is too short, or does not begin as ours do.
    NotAProbe,
    /// It was not made with the cluster's key, or was changed on its way.
    WrongCode,
}

/// Whether a datagram begins as ours do: cheap, before [`decode`].
#[must_use]
pub fn looks_like_a_probe(bytes: &[u8]) -> bool {
    bytes.len() >= HEAD_BYTES && bytes.starts_with(MAGIC) && matches!(bytes[4], REQUEST | ANSWER)
}

/// Reads a datagram.
///
/// # Errors
/// Why it is none of ours.
pub fn decode(bytes: &[u8], key: &Key) -> Result<Packet, Foreign> {
    if bytes.len() < HEAD_BYTES {
        return Err(Foreign::NotAProbe);
    }
    decode_head(&bytes[..HEAD_BYTES], bytes.len(), key)
}

/// Reads the head of a packet of so many bytes.
///
/// # Errors
/// Why it is none of ours.
pub(crate) fn decode_head(bytes: &[u8], length: usize, key: &Key) -> Result<Packet, Foreign> {
    if !looks_like_a_probe(bytes) {
        return Err(Foreign::NotAProbe);
    }
    let code = &bytes[SIGNED..HEAD_BYTES];
    signed(&bytes[..SIGNED], length, key).verify_truncated_left(code).map_err(|_| Foreign::WrongCode)?;
    let (session, sequence) = (u64_at(bytes, 8), u64_at(bytes, 16));
    Ok(match bytes[4] {
        REQUEST => Packet::Request(Request { session, sequence }),
        _ => Packet::Answer(Answer {
            session,
            sequence,
            received_unix_ns: u64_at(bytes, 24),
            held: [32, 40].map(|at| {
                let held = Held { sequence_low: u32_at(bytes, at), held_ns: u32_at(bytes, at + 4) };
                (held.held_ns != UNKNOWN).then_some(held)
            }),
            requests: (bytes[5] & COUNTS != 0).then(|| u16::from_be_bytes([bytes[6], bytes[7]])),
            resent: (bytes[5] & RESENT != 0).then(|| Resent { again: bytes[6], undone: bytes[7] }),
        }),
    })
}

/// Writes a packet over the beginning of `bytes`, whose length is the datagram's and at least [`HEAD_BYTES`].
///
/// # Panics
/// Where it is shorter.
pub fn encode(packet: &Packet, bytes: &mut [u8], key: &Key) {
    let length = bytes.len();
    encode_head(packet, bytes, length, key);
}

/// Writes the head of a packet of so many bytes.
///
/// # Panics
/// Where `bytes` are fewer than [`HEAD_BYTES`].
pub(crate) fn encode_head(packet: &Packet, bytes: &mut [u8], length: usize, key: &Key) {
    bytes[..HEAD_BYTES].fill(0);
    bytes[..4].copy_from_slice(MAGIC);
    let (kind, session, sequence) = match packet {
        Packet::Request(request) => (REQUEST, request.session, request.sequence),
        Packet::Answer(answer) => (ANSWER, answer.session, answer.sequence),
    };
    bytes[4] = kind;
    bytes[8..16].copy_from_slice(&session.to_be_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_be_bytes());
    if let Packet::Answer(answer) = packet {
        let resent = answer.resent.map(|Resent { again, undone }| (RESENT, [again, undone]));
        if let Some((flag, counts)) = resent.or(answer.requests.map(|count| (COUNTS, count.to_be_bytes()))) {
            bytes[5] = flag;
            bytes[6..8].copy_from_slice(&counts);
        }
        bytes[24..32].copy_from_slice(&answer.received_unix_ns.to_be_bytes());
        for (at, held) in [32, 40].into_iter().zip(answer.held) {
            let Held { sequence_low, held_ns } = held.unwrap_or(Held { sequence_low: 0, held_ns: UNKNOWN });
            bytes[at..at + 4].copy_from_slice(&sequence_low.to_be_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&held_ns.to_be_bytes());
        }
    }
    let code = signed(&bytes[..SIGNED], length, key).finalize().into_bytes();
    bytes[SIGNED..HEAD_BYTES].copy_from_slice(&code[..CODE_BYTES]);
}

/// So many nanoseconds as a packet can tell.
#[must_use]
pub fn held_ns(nanoseconds: u64) -> Option<u32> {
    u32::try_from(nanoseconds).ok().filter(|held| *held != UNKNOWN)
}

pub(crate) fn signed(head: &[u8], length: usize, key: &Key) -> Hmac<Sha256> {
    let mut code = key.0.clone();
    code.update(head);
    code.update(&(length as u64).to_be_bytes());
    code
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (0..8).fold(0, |value, index| value << 8 | u64::from(bytes[at + index]))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    (0..4).fold(0, |value, index| value << 8 | u32::from(bytes[at + index]))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn key(bytes: &[u8]) -> Key {
        Key::new(bytes).unwrap()
    }

    #[test]
    fn what_was_written_is_read_at_every_size() {
        let key = key(b"0123456789abcdef");
        let request = Packet::Request(Request { session: u64::MAX, sequence: 7 });
        let answer = Packet::Answer(Answer {
            session: 3,
            sequence: 1 << 40,
            received_unix_ns: 1_800_000_000_000_000_001,
            held: [Some(Held { sequence_low: 6, held_ns: 12_345 }), None],
            requests: Some(0xfffe),
            resent: None,
        });
        let Packet::Answer(counted) = answer else { unreachable!("it is one") };
        let of_an_older_answerer = Packet::Answer(Answer { requests: None, ..counted });
        let of_a_stream =
            Packet::Answer(Answer { requests: None, resent: Some(Resent { again: 7, undone: 3 }), ..counted });
        for packet in [request, answer, of_an_older_answerer, of_a_stream] {
            for size in [HEAD_BYTES, 1458, SIZE_MAX] {
                let mut bytes = vec![0xee; size];
                encode(&packet, &mut bytes, &key);
                assert_eq!(decode(&bytes, &key), Ok(packet));
            }
        }
    }

    #[test]
    fn nothing_that_was_changed_or_made_by_a_stranger_is_believed() {
        let ours = key(b"0123456789abcdef");
        let mut bytes = [0; 128];
        encode(&Packet::Request(Request { session: 1, sequence: 2 }), &mut bytes, &ours);
        assert_eq!(decode(&bytes, &key(b"0123456789abcdeg")), Err(Foreign::WrongCode));
        for at in 0..HEAD_BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(decode(&changed, &ours).is_err(), "byte {at}");
        }
        assert_eq!(decode(&bytes[..HEAD_BYTES], &ours), Err(Foreign::WrongCode), "cut on its way");
        for length in 0..HEAD_BYTES {
            assert_eq!(decode(&bytes[..length], &ours), Err(Foreign::NotAProbe));
        }
        assert!(Key::new(b"too short").is_none());
    }

    #[test]
    fn what_is_held_too_long_to_tell_is_unknown() {
        assert_eq!(held_ns(5), Some(5));
        assert_eq!(held_ns(u64::from(u32::MAX)), None);
        assert_eq!(held_ns(u64::MAX), None);
    }
}
