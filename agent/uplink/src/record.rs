//! One record of a segment: a header of 28 bytes with its own checksum, then the body with its checksum.
//!
//! ```text
//! magic u32 | kind u8, 3 zero | body length u32 | index u64 | CRC-32 of the body | CRC-32 of the 24 bytes before
//! ```
//! Little endian. The header's own checksum lets a reader step over a damaged body, and find the next record after
//! a damaged header. Never: a panic or an allocation beyond the input, whatever the bytes are.

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 28;
const MAGIC: [u8; 4] = *b"RWR\x01";
/// Largest body: no message is larger.
const BODY_BYTES_MAX: usize = railwatch_wire::limits::MESSAGE_BYTES_MAX;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Where and when the segment was begun: see [`super::log`].
    Segment = 1,
    /// A signal or windows, as the log says.
    Frame = 2,
    /// `Definitions` of series that later frames of the segment use.
    Definitions = 3,
    /// What the frame of the same index was made of: see [`super::receipt`]. Counts only where that frame is whole.
    Receipt = 4,
}

/// A record that was found whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub kind: Kind,
    pub index: u64,
    pub body: &'a [u8],
    /// Where its header begins.
    pub offset: usize,
}

/// Appends a record to `out`.
pub(crate) fn write(out: &mut Vec<u8>, kind: Kind, index: u64, body: &[u8]) {
    debug_assert!(body.len() <= BODY_BYTES_MAX);
    let start = out.len();
    out.extend(MAGIC);
    out.extend([kind as u8, 0, 0, 0]);
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(index.to_le_bytes());
    out.extend(crc32fast::hash(body).to_le_bytes());
    let header = crc32fast::hash(&out[start..]);
    out.extend(header.to_le_bytes());
    out.extend(body);
}

struct Header {
    kind: Kind,
    length: usize,
    index: u64,
    body_crc: u32,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn header(bytes: &[u8]) -> Option<Header> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    if bytes[..4] != MAGIC || u32_at(bytes, 24) != crc32fast::hash(&bytes[..24]) {
        return None;
    }
    let kind = [Kind::Segment, Kind::Frame, Kind::Definitions, Kind::Receipt]
        .into_iter()
        .find(|kind| *kind as u8 == bytes[4])?;
    let length = u32_at(bytes, 8) as usize;
    let index = u64::from(u32_at(bytes, 12)) | u64::from(u32_at(bytes, 16)) << 32;
    (length <= BODY_BYTES_MAX).then_some(Header { kind, length, index, body_crc: u32_at(bytes, 20) })
}

/// What a scan of a whole segment met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Places where records are damaged; what was lost there shows as missing indexes.
    pub damaged: u64,
    /// The end is a record that was not written whole: it was never sent.
    pub torn: bool,
}

/// Calls `each` with every whole record, in order.
pub(crate) fn scan<'a>(bytes: &'a [u8], mut each: impl FnMut(Record<'a>)) -> Scan {
    let (mut offset, mut met) = (0, Scan::default());
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        match header(rest) {
            Some(Header { kind, length, index, body_crc }) => {
                let Some(body) = rest.get(HEADER_BYTES..HEADER_BYTES + length) else {
                    met.torn = true;
                    return met;
                };
                if crc32fast::hash(body) == body_crc {
                    each(Record { kind, index, body, offset });
                } else {
                    met.damaged += 1;
                }
                offset += HEADER_BYTES + length;
            }
            None => {
                let next = (1..rest.len()).find(|at| rest[*at..].starts_with(&MAGIC) && header(&rest[*at..]).is_some());
                match next {
                    Some(at) => {
                        met.damaged += 1;
                        offset += at;
                    }
                    None => {
                        met.torn = true;
                        return met;
                    }
                }
            }
        }
    }
    met
}

/// The body of the frame record with `index` at the beginning of `bytes`, if it is whole.
pub(crate) fn frame(bytes: &[u8], index: u64) -> Option<&[u8]> {
    let found = header(bytes).filter(|found| found.kind == Kind::Frame && found.index == index)?;
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + found.length)?;
    (crc32fast::hash(body) == found.body_crc).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, body) in bodies.iter().enumerate() {
            write(&mut bytes, Kind::Frame, index as u64, body);
        }
        bytes
    }

    fn indexes(bytes: &[u8]) -> (Vec<u64>, Scan) {
        let mut found = Vec::new();
        let met = scan(bytes, |record| found.push(record.index));
        (found, met)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            indexes(&bytes);
        }

        #[test]
        fn one_flipped_byte_loses_one_record_at_most(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 2..12),
            at: prop::sample::Index, flip in 1u8..,
        ) {
            let mut bytes = segment(&bodies);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let (found, met) = indexes(&bytes);
            prop_assert!(found.len() >= bodies.len() - 1, "{found:?} {met:?}");
            prop_assert!(found.len() == bodies.len() || met.damaged == 1 || met.torn);
        }

        #[test]
        fn a_cut_loses_only_what_is_behind_it(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..12),
            at: prop::sample::Index,
        ) {
            let bytes = segment(&bodies);
            let cut = at.index(bytes.len());
            let (found, met) = indexes(&bytes[..cut]);
            let mut whole = 0;
            let mut end = 0;
            for body in &bodies {
                end += HEADER_BYTES + body.len();
                whole += usize::from(end <= cut);
            }
            prop_assert_eq!(found.len(), whole);
            prop_assert_eq!(met.damaged, 0);
        }
    }
}
