//! The names that discovery looks for, prepared once for fast lookups.
//!
//! In: function names in table order; the position of a name is its symbol id everywhere else. Out: hashes for the
//! dynamic symbol tables of object files, and a filter for streaming over static ones. It knows nothing about what a
//! symbol means: the table's owner does.

use std::collections::HashMap;

/// Position of a name in the table given to [`Wanted::new`].
pub type SymbolId = u16;

/// The table of names to find.
#[derive(Debug)]
pub struct Wanted {
    names: Vec<WantedName>,
    by_name: HashMap<Box<[u8]>, SymbolId>,
    /// One bit per hash of the first four bytes: nearly every place in ordinary text fails here.
    starts: Box<[u64; 1024]>,
    longest: usize,
}

/// No function of a C interface comes near.
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug)]
pub(super) struct WantedName {
    pub name: Box<[u8]>,
    pub gnu_hash: u32,
    pub sysv_hash: u32,
}

impl Wanted {
    /// Prepares `names`; a name's position is its [`SymbolId`]. A repeated name keeps its first position, names shorter
    /// than four bytes and those past 65,535 are never found.
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut wanted = Self { names: Vec::new(), by_name: HashMap::new(), starts: Box::new([0; 1024]), longest: 0 };
        for (id, name) in (0..SymbolId::MAX).zip(names) {
            let bytes: Box<[u8]> = name.as_ref().as_bytes().into();
            wanted.names.push(WantedName {
                gnu_hash: gnu_hash(&bytes),
                sysv_hash: sysv_hash(&bytes),
                name: bytes.clone(),
            });
            if let Some(start) = bytes.first_chunk()
                && bytes.len() <= NAME_BYTES_MAX
            {
                let (word, bit) = place(*start);
                wanted.starts[word] |= bit;
                wanted.longest = wanted.longest.max(bytes.len());
                wanted.by_name.entry(bytes).or_insert(id);
            }
        }
        wanted
    }

    /// The name of a symbol id, if the table has it.
    #[must_use]
    pub fn name(&self, id: SymbolId) -> Option<&str> {
        self.names.get(usize::from(id)).and_then(|wanted| str::from_utf8(&wanted.name).ok())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SymbolId, &WantedName)> {
        // A repeated name is looked for once, under its first position.
        (0..).zip(&self.names).filter(|(id, wanted)| self.by_name.get(&wanted.name) == Some(id))
    }

    /// Longest name in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Finds every place in `text` where a wanted name stands up to a zero byte or a version suffix (`name@@VERSION`).
    /// It may be the tail of a longer name: linkers let names share their ends.
    pub(super) fn search(&self, text: &[u8], mut hit: impl FnMut(usize, SymbolId)) {
        for (at, start) in text.array_windows().enumerate() {
            let (word, bit) = place(*start);
            if self.starts[word] & bit == 0 {
                continue;
            }
            let window = &text[at..text.len().min(at + self.longest + 1)];
            let Some(end) = window.iter().position(|byte| matches!(byte, 0 | b'@')) else { continue };
            if let Some(id) = self.by_name.get(&window[..end]) {
                hit(at, *id);
            }
        }
    }
}

/// Word and bit of a name's start in [`Wanted::starts`] (multiplicative hashing, Knuth vol. 3, section 6.4).
fn place(start: [u8; 4]) -> (usize, u64) {
    let hash = u32::from_le_bytes(start).wrapping_mul(0x9E37_79B1) >> 16;
    (hash as usize / 64, 1 << (hash % 64))
}

/// Hash of DT_GNU_HASH (binutils `bfd_elf_gnu_hash`).
fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash: u32, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)))
}

/// Hash of DT_HASH (System V ABI, chapter 5).
fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_format() {
        // Known values: `printf` and `exit` from the GNU hash documentation, and from the System V ABI.
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
        assert_eq!(gnu_hash(b"exit"), 0x7c96_7e3f);
        assert_eq!(sysv_hash(b"printf"), 0x077_905a6);
        assert_eq!(sysv_hash(b"exit"), 0x0006_cf04);
    }

    #[test]
    fn names_are_found_whole_without_their_version_and_as_tails() {
        let wanted = Wanted::new(["cudaMalloc", "cudaFree", "cudaMalloc", "cu"]);
        for (text, expected) in [
            (&b"\0cudaMalloc\0rest"[..], &[(1, 0)][..]),
            (b"cudaMalloc@@libcudart.so.12\0", &[(0, 0)]),
            (b"x\0pcudaFree\0cudaMalloc\0", &[(3, 1), (12, 0)]),
            (b"cudaFreeHost\0", &[]),
            (b"cudaMal\0", &[]),
            (b"cudaMalloc", &[]),
            (b"cu\0", &[]),
            (b"", &[]),
        ] {
            let mut found = Vec::new();
            wanted.search(text, |at, id| found.push((at, id)));
            assert_eq!(found, expected, "{}", text.escape_ascii());
        }
        assert_eq!(wanted.iter().count(), 2);
        assert_eq!(wanted.name(1), Some("cudaFree"));
    }
}
