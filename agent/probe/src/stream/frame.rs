//! How probes lie in a stream: each with its length before it. Pure.
//!
//! ```text
//!  0  length of what follows, big-endian, HEAD_BYTES to SIZE_MAX
//!  4  a packet as a datagram has it (`packet`): its code covers its head and that length
//! ```
//! In: bytes as they come, in whatever pieces. Out: each frame's head and length. Of a frame no more is kept than its head: what
//! follows is zeros, and is let go as it comes. Never: memory by what a stranger says of itself, or a byte past what is
//! no frame.

use crate::packet::{self, HEAD_BYTES, Key, Packet, SIZE_MAX};

const PREFIX_BYTES: usize = 4;
const START_BYTES: usize = PREFIX_BYTES + HEAD_BYTES;
static ZEROS: [u8; SIZE_MAX] = [0; SIZE_MAX];

/// These bytes are none of ours: nothing that follows in the stream can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAFrame;

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) head: [u8; HEAD_BYTES],
    /// Of the packet, without the prefix.
    pub(crate) length: usize,
}

impl Frame {
    /// Reads it.
    pub(crate) fn packet(&self, key: &Key) -> Result<Packet, packet::Foreign> {
        packet::decode_head(&self.head, self.length, key)
    }
}

/// What of the current frame has come.
#[derive(Debug)]
pub(crate) struct Frames {
    start: [u8; START_BYTES],
    filled: usize,
    /// Bytes after the head that are still to come.
    rest: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { start: [0; START_BYTES], filled: 0, rest: 0 }
    }
}

impl Frames {
    /// Takes from `bytes` what belongs to the current frame: how many that were, and the frame where it is whole now.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Frame>), NotAFrame> {
        let mut used = 0;
        if self.filled < START_BYTES {
            used = bytes.len().min(START_BYTES - self.filled);
            self.start[self.filled..self.filled + used].copy_from_slice(&bytes[..used]);
            self.filled += used;
            if self.filled >= PREFIX_BYTES && !(HEAD_BYTES..=SIZE_MAX).contains(&self.length()) {
                return Err(NotAFrame);
            }
            if self.filled < START_BYTES {
                return Ok((used, None));
            }
            if !packet::looks_like_a_probe(&self.start[PREFIX_BYTES..]) {
                return Err(NotAFrame);
            }
            self.rest = self.length() - HEAD_BYTES;
        }
        let let_go = self.rest.min(bytes.len() - used);
        self.rest -= let_go;
        used += let_go;
        if self.rest > 0 {
            return Ok((used, None));
        }
        self.filled = 0;
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&self.start[PREFIX_BYTES..]);
        Ok((used, Some(Frame { head, length: self.length() })))
    }

    fn length(&self) -> usize {
        let [a, b, c, d, ..] = self.start;
        u32::from_be_bytes([a, b, c, d]) as usize
    }
}

/// A frame on its way out, of which a part may have gone.
#[derive(Debug)]
pub(crate) struct Outgoing {
    start: [u8; START_BYTES],
    total: usize,
    gone: usize,
}

impl Outgoing {
    /// Of a packet of `length` bytes, [`HEAD_BYTES`] to [`SIZE_MAX`]; others are taken for the nearest.
    pub(crate) fn new(packet: &Packet, length: usize, key: &Key) -> Self {
        let length = length.clamp(HEAD_BYTES, SIZE_MAX);
        let mut start = [0; START_BYTES];
        start[..PREFIX_BYTES].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        packet::encode_head(packet, &mut start[PREFIX_BYTES..], length, key);
        Self { start, total: PREFIX_BYTES + length, gone: 0 }
    }

    /// What is still to go.
    pub(crate) fn rest(&self) -> [&[u8]; 2] {
        let zeros = self.total - self.gone.max(START_BYTES);
        [&self.start[self.gone.min(START_BYTES)..], &ZEROS[..zeros]]
    }

    /// So many more have gone; whether that is all.
    pub(crate) fn went(&mut self, bytes: usize) -> bool {
        self.gone = (self.gone + bytes).min(self.total);
        self.gone == self.total
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::packet::Request;

    fn key() -> Key {
        Key::new(b"0123456789abcdef").unwrap()
    }

    fn request(sequence: u64) -> Packet {
        Packet::Request(Request { session: 7, sequence })
    }

    fn bytes_of(mut outgoing: Outgoing, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let rest = outgoing.rest().concat();
            let piece = &rest[..rest.len().min(step)];
            bytes.extend_from_slice(piece);
            if outgoing.went(piece.len()) {
                return bytes;
            }
        }
    }

    #[test]
    fn frames_are_read_whatever_pieces_they_come_in() {
        let sizes = [HEAD_BYTES, HEAD_BYTES + 1, 1458, SIZE_MAX];
        let stream: Vec<u8> = (0u64..)
            .zip(sizes)
            .flat_map(|(n, size)| bytes_of(Outgoing::new(&request(n), size, &key()), 1000))
            .collect();
        assert_eq!(stream.len(), sizes.iter().sum::<usize>() + 4 * sizes.len());
        for step in [1, 3, 67, 68, 69, 4096, stream.len()] {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for mut piece in stream.chunks(step) {
                while !piece.is_empty() {
                    let (used, frame) = frames.take(piece).unwrap();
                    piece = &piece[used..];
                    found.extend(frame);
                }
            }
            let read: Vec<_> = found.iter().map(|frame| (frame.packet(&key()), frame.length)).collect();
            let expected: Vec<_> = (0u64..).zip(sizes).map(|(n, size)| (Ok(request(n)), size)).collect();
            assert_eq!(read, expected, "in pieces of {step}");
        }
    }

    #[test]
    fn what_is_no_frame_is_told_as_soon_as_it_shows() {
        let good = bytes_of(Outgoing::new(&request(1), 100, &key()), 1000);
        let length = |length: u32| [length.to_be_bytes().as_slice(), &good[4..]].concat();
        let other_magic = [&good[..4], b"HTTP", &good[8..]].concat();
        for (what, bytes, most) in [
            ("shorter than a head", length(63), 4),
            ("longer than a datagram", length(65_508), 4),
            ("a request of another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 4),
            ("another magic", other_magic, START_BYTES),
        ] {
            let mut frames = Frames::default();
            let at = bytes.iter().position(|byte| frames.take(&[*byte]).is_err());
            assert!(at.is_some_and(|at| at < most), "{what}: {at:?}");
        }
        // A length that was changed is found by the code.
        let changed = length(101);
        let (_, frame) = Frames::default().take(&[changed.as_slice(), &[0]].concat()).unwrap();
        assert_eq!(frame.unwrap().packet(&key()), Err(packet::Foreign::WrongCode));
    }
}
