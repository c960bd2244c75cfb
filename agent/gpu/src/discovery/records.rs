//! Decodes the kernel's records of what processes map, start and end.
//!
//! In: one record of a perf ring, as bytes (`PERF_RECORD_*` of `linux/perf_event.h`, written with
//! `sample_id_all` and `sample_type = PERF_SAMPLE_TIME`, so that each ends in a time). Out: a [`Record`]. It holds no
//! state and reads nothing else. A record that is too short or of an unknown kind is `None`.

/// `PERF_RECORD_*` kinds used here.
const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const MMAP2: u32 = 10;
/// `PERF_RECORD_MISC_COMM_EXEC`: the name changed because of an exec.
const MISC_COMM_EXEC: u16 = 1 << 13;

/// What happened. Processes are thread group ids in the pid namespace of the reader; times are CLOCK_MONOTONIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An executable mapping was made.
    Mapped(Mapped),
    /// A process was made (threads are left out).
    Forked {
        /// The new process.
        pid: u32,
        /// Whose mappings it inherits.
        parent: u32,
        /// When.
        at_ns: u64,
    },
    /// A process replaced its program: its mappings are gone.
    Executed {
        /// Which.
        pid: u32,
        /// When.
        at_ns: u64,
    },
    /// The first thread of a process ended, and mostly the process with it.
    Exited {
        /// Which.
        pid: u32,
    },
    /// The ring was full and this many records are missing.
    Lost {
        /// How many.
        records: u64,
    },
}

/// One executable mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// In which process.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// The file's device and inode, as in /proc/PID/maps.
    pub file: FileId,
    /// The inode's generation: tells a reused inode number apart, where the file system keeps one.
    pub generation: u64,
    /// Path as the kernel names it.
    pub path: Vec<u8>,
    /// When.
    pub at_ns: u64,
}

/// A file as the kernel names it in a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
}

/// Decodes one whole record, header included.
#[must_use]
pub fn decode(record: &[u8]) -> Option<Record> {
    let kind = u32_at(record, 0)?;
    let misc = u16_at(record, 4)?;
    let at_ns = || u64_at(record, record.len().checked_sub(8)?);
    let (pid, other) = (u32_at(record, 8)?, u32_at(record, 12)?);
    match kind {
        LOST => Some(Record::Lost { records: u64_at(record, 16)? }),
        COMM if misc & MISC_COMM_EXEC != 0 => Some(Record::Executed { pid, at_ns: at_ns()? }),
        EXIT if pid == u32_at(record, 16)? => Some(Record::Exited { pid }),
        FORK if pid != other => Some(Record::Forked { pid, parent: other, at_ns: at_ns()? }),
        MMAP2 => {
            let path = record.get(72..record.len().checked_sub(8)?)?;
            Some(Record::Mapped(Mapped {
                pid,
                start: u64_at(record, 16)?,
                length: u64_at(record, 24)?,
                file: FileId { major: u32_at(record, 40)?, minor: u32_at(record, 44)?, inode: u64_at(record, 48)? },
                generation: u64_at(record, 56)?,
                path: without_deleted(path.split(|byte| *byte == 0).next().unwrap_or_default()).to_vec(),
                at_ns: at_ns()?,
            }))
        }
        _ => None,
    }
}

/// A path without what the kernel adds to that of a deleted file.
pub(super) fn without_deleted(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u32, misc: u16, body: &[u64], tail: &[u8], at_ns: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(misc.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        body.iter().for_each(|word| bytes.extend(word.to_ne_bytes()));
        bytes.extend(tail);
        bytes.extend(at_ns.to_ne_bytes());
        bytes
    }

    fn pair(low: u32, high: u32) -> u64 {
        u64::from_ne_bytes([low.to_ne_bytes(), high.to_ne_bytes()].concat().try_into().expect("8 bytes"))
    }

    #[test]
    fn each_kind_of_record_is_understood() {
        let body = [pair(7, 8), 0x1000, 0x2000, 0, pair(254, 3), 99, 5, pair(5, 2)];
        let cases = [
            (
                record(MMAP2, 2, &body, b"/opt/libx.so\0\0\0\0", 42),
                Some(Record::Mapped(Mapped {
                    pid: 7,
                    start: 0x1000,
                    length: 0x2000,
                    file: FileId { major: 254, minor: 3, inode: 99 },
                    generation: 5,
                    path: b"/opt/libx.so".to_vec(),
                    at_ns: 42,
                })),
            ),
            (
                record(FORK, 0, &[pair(9, 7), pair(9, 7), 40], b"", 42),
                Some(Record::Forked { pid: 9, parent: 7, at_ns: 42 }),
            ),
            (record(FORK, 0, &[pair(7, 7), pair(9, 7), 40], b"", 42), None),
            (
                record(COMM, MISC_COMM_EXEC, &[pair(7, 7)], b"sh\0\0\0\0\0\0", 42),
                Some(Record::Executed { pid: 7, at_ns: 42 }),
            ),
            (record(COMM, 0, &[pair(7, 7)], b"sh\0\0\0\0\0\0", 42), None),
            (record(EXIT, 0, &[pair(7, 1), pair(7, 1), 40], b"", 42), Some(Record::Exited { pid: 7 })),
            (record(EXIT, 0, &[pair(7, 1), pair(8, 1), 40], b"", 42), None),
            (record(LOST, 0, &[1, 12], b"", 42), Some(Record::Lost { records: 12 })),
            (record(77, 0, &[1, 12], b"", 42), None),
            (vec![], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(decode(&bytes), expected, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(kind in 0_u32..20, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut record = kind.to_ne_bytes().to_vec();
            record.extend(bytes);
            let _ = decode(&record);
        }
    }
}
