//! Which frame got which sequence of the stream: written before the frame is sent, so that after a kill the same
//! frame is resent under the same sequence and no sequence is used twice.
//!
//! ```text
//! header, 64 bytes: magic 8 | stream id 16 | acknowledged u64 | next sequence u64 | next signal u64 | next windows u64 | 4 zero | CRC-32
//! entry,  32 bytes: tag u8, 3 zero | skipped u32 | sequence u64 | index u64 | 4 zero | CRC-32
//! ```
//! The file is made at full size, so that entries fit when the disk is full, and made anew every
//! [`ENTRIES_MAX`] entries with what is not acknowledged. An entry cut by a kill was not sent.

use crate::spool::Queue;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"RWJRNL\x00\x01";
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const ENTRIES_MAX: u64 = 4096;
const TAG_ACKNOWLEDGED: u8 = 3;
const RETRY: Duration = Duration::from_secs(5);

/// A frame that has a sequence and is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub sequence: u64,
    pub queue: Queue,
    pub index: u64,
    /// Frames of the same queue that were lost before it.
    pub skipped: u32,
}

/// All that must survive a kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Book {
    pub stream_id: [u8; 16],
    pub acknowledged: u64,
    pub next_sequence: u64,
    /// Per queue: the first index that has no sequence yet.
    pub next_signal: u64,
    pub next_windows: u64,
    /// Not acknowledged, ascending.
    pub assigned: VecDeque<Assigned>,
}

impl Book {
    pub fn new(stream_id: [u8; 16]) -> Self {
        Self {
            stream_id,
            acknowledged: 0,
            next_sequence: 1,
            next_signal: 1,
            next_windows: 1,
            assigned: VecDeque::new(),
        }
    }

    pub fn next_index(&mut self, queue: Queue) -> &mut u64 {
        match queue {
            Queue::Signals => &mut self.next_signal,
            Queue::Windows => &mut self.next_windows,
        }
    }

    pub fn assign(&mut self, assigned: Assigned) {
        self.next_sequence = assigned.sequence + 1;
        *self.next_index(assigned.queue) = assigned.index + 1;
        self.assigned.push_back(assigned);
    }

    /// Returns whether `through` is news.
    pub fn acknowledge(&mut self, through: u64) -> bool {
        if through <= self.acknowledged {
            return false;
        }
        self.acknowledged = through;
        self.next_sequence = self.next_sequence.max(through + 1);
        while self.assigned.front().is_some_and(|first| first.sequence <= through) {
            self.assigned.pop_front();
        }
        true
    }
}

pub(crate) struct Journal {
    path: Option<PathBuf>,
    file: Option<Arc<File>>,
    entries: u64,
    retry_at: Option<Instant>,
    dirty: bool,
    pub errors: u64,
}

impl Journal {
    /// Opens the journal in `directory` and reads what it holds; `None` of a book when there is none that is whole.
    pub fn open(directory: Option<&Path>) -> io::Result<(Self, Option<Book>)> {
        let path = directory.map(|directory| directory.join("journal"));
        let book = match &path {
            Some(path) => match File::open(path) {
                Ok(file) => {
                    let mut bytes = Vec::new();
                    file.take(16 << 20).read_to_end(&mut bytes)?;
                    read(&bytes)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        Ok((Self { path, file: None, entries: 0, retry_at: None, dirty: false, errors: 0 }, book))
    }

    /// Makes the file anew from `book`.
    pub fn rewrite(&mut self, book: &Book) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut bytes = header(book);
        book.assigned.iter().for_each(|assigned| bytes.extend(entry(assigned)));
        self.entries = book.assigned.len() as u64;
        bytes.resize(bytes.len() + ENTRIES_MAX as usize * ENTRY_BYTES, 0);
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        fs::rename(&new, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        self.file = Some(Arc::new(file));
        Ok(())
    }

    /// Notes that `assigned`, the newest of `book`, is about to be sent.
    pub fn assign(&mut self, assigned: &Assigned, book: &Book) {
        self.append(entry(assigned), book);
    }

    /// Notes what `book` says is acknowledged.
    pub fn acknowledge(&mut self, book: &Book) {
        self.append(encode(TAG_ACKNOWLEDGED, 0, book.acknowledged, 0), book);
    }

    fn append(&mut self, bytes: [u8; ENTRY_BYTES], book: &Book) {
        if self.path.is_none() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let full = self.entries >= ENTRIES_MAX + book.assigned.len() as u64;
        let written = match self.file.as_ref().filter(|_| !full && self.retry_at.is_none()) {
            Some(file) => file.write_all_at(&bytes, HEADER_BYTES as u64 + self.entries * ENTRY_BYTES as u64),
            None => self.rewrite(book),
        };
        match written {
            Ok(()) => {
                // A rewrite holds the entry already; one more for it would leave a hole, and a hole ends a read.
                if !full && self.retry_at.is_none() {
                    self.entries += 1;
                }
                self.retry_at = None;
                self.dirty = true;
            }
            Err(error) => {
                self.errors += 1;
                self.retry_at = Some(Instant::now() + RETRY);
                tracing::error!(
                    "cannot write the spool's journal: {error}; if the agent is killed before it can, frames may arrive twice"
                );
            }
        }
    }

    /// The file, if it was written since the last call.
    pub fn take_dirty(&mut self) -> Option<Arc<File>> {
        std::mem::take(&mut self.dirty).then(|| self.file.clone()).flatten()
    }
}

fn header(book: &Book) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(book.stream_id);
    // The first assigned of a queue tells where its unassigned begin only from the entries on.
    for value in [book.acknowledged, book.next_sequence, book.next_signal, book.next_windows] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    let crc = crc32fast::hash(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

fn entry(assigned: &Assigned) -> [u8; ENTRY_BYTES] {
    encode(assigned.queue as u8, assigned.skipped, assigned.sequence, assigned.index)
}

fn encode(tag: u8, skipped: u32, sequence: u64, index: u64) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[0] = tag;
    bytes[4..8].copy_from_slice(&skipped.to_le_bytes());
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&index.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn crc_holds(bytes: &[u8]) -> bool {
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    crc32fast::hash(body).to_le_bytes() == crc
}

fn read(bytes: &[u8]) -> Option<Book> {
    let header = bytes.get(..HEADER_BYTES).filter(|header| header[..8] == *MAGIC && crc_holds(header))?;
    let mut stream_id = [0; 16];
    stream_id.copy_from_slice(&header[8..24]);
    let mut book = Book::new(stream_id);
    book.acknowledged = u64_at(header, 24);
    (book.next_sequence, book.next_signal, book.next_windows) =
        (u64_at(header, 32), u64_at(header, 40), u64_at(header, 48));
    for entry in bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES) {
        let queue = match entry[0] {
            _ if !crc_holds(entry) => break,
            TAG_ACKNOWLEDGED => {
                book.acknowledge(u64_at(entry, 8));
                continue;
            }
            tag if tag == Queue::Signals as u8 => Queue::Signals,
            tag if tag == Queue::Windows as u8 => Queue::Windows,
            _ => break,
        };
        let skipped = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let assigned = Assigned { sequence: u64_at(entry, 8), queue, index: u64_at(entry, 16), skipped };
        if book.assigned.back().is_some_and(|last| last.sequence >= assigned.sequence) {
            break;
        }
        // Entries carried over by a rewrite lie before what the header says.
        book.next_sequence = book.next_sequence.max(assigned.sequence.saturating_add(1));
        let next = book.next_index(queue);
        *next = (*next).max(assigned.index.saturating_add(1));
        if assigned.sequence > book.acknowledged {
            book.assigned.push_back(assigned);
        }
    }
    Some(book)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use proptest::prelude::*;

    fn reopen(directory: &Path) -> Book {
        Journal::open(Some(directory)).unwrap().1.unwrap()
    }

    #[test]
    fn what_was_noted_is_read_back_over_any_number_of_rewrites() {
        let directory = tempfile::TempDir::new().unwrap();
        let (mut journal, none) = Journal::open(Some(directory.path())).unwrap();
        assert!(none.is_none());
        let mut book = Book::new([7; 16]);
        journal.rewrite(&book).unwrap();
        for step in 1..=10_000u64 {
            let queue = if step % 7 == 0 { Queue::Signals } else { Queue::Windows };
            let index = *book.next_index(queue) + step % 3;
            let assigned = Assigned { sequence: book.next_sequence, queue, index, skipped: (step % 3) as u32 };
            book.assign(assigned);
            journal.assign(&assigned, &book);
            if step % 11 == 0 && book.acknowledge(book.next_sequence.saturating_sub(5)) {
                journal.acknowledge(&book);
            }
            if step % 997 == 0 || (4000..4200).contains(&step) {
                assert_eq!(reopen(directory.path()), book, "after {step}");
            }
        }
        assert_eq!(reopen(directory.path()), book);
        assert_eq!(journal.errors, 0);
    }

    proptest! {
        #[test]
        fn damage_never_panics_and_never_brings_a_sequence_back(at in 0usize..640, byte: u8) {
            let mut book = Book::new([1; 16]);
            let mut bytes = header(&book);
            for sequence in 1..=18 {
                let assigned = Assigned { sequence, queue: Queue::Signals, index: sequence, skipped: 0 };
                book.assign(assigned);
                bytes.extend(entry(&assigned));
            }
            bytes[at] = byte;
            if let Some(found) = read(&bytes) {
                prop_assert!(found.assigned.iter().zip(&book.assigned).all(|(a, b)| a == b));
                prop_assert_eq!(found.assigned.len() as u64 + 1, found.next_sequence);
            }
        }
    }
}
