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
    /// One bit per pair of first bytes: nearly every symbol of an ordinary program fails here.
    first_two: Box<[u64; 1024]>,
    longest: usize,
}

#[derive(Debug)]
pub(super) struct WantedName {
    pub name: Box<[u8]>,
    pub gnu_hash: u32,
    pub sysv_hash: u32,
}

impl Wanted {
    /// Prepares `names`; a name's position is its [`SymbolId`]. A repeated name keeps its first position, names shorter
    /// than two bytes and those past 65,535 are ignored.
    pub fn new<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut wanted =
            Self { names: Vec::new(), by_name: HashMap::new(), first_two: Box::new([0; 1024]), longest: 0 };
        for (id, name) in (0..SymbolId::MAX).zip(names) {
            let bytes: Box<[u8]> = name.as_ref().as_bytes().into();
            wanted.names.push(WantedName {
                gnu_hash: gnu_hash(&bytes),
                sysv_hash: sysv_hash(&bytes),
                name: bytes.clone(),
            });
            if let [first, second, ..] = *bytes {
                let pair = usize::from(u16::from_be_bytes([first, second]));
                wanted.first_two[pair / 64] |= 1 << (pair % 64);
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

    /// Looks up the NUL-terminated name at the start of `text`; a version suffix (`name@@VERSION`) is ignored.
    pub(super) fn find_at(&self, text: &[u8]) -> Option<SymbolId> {
        let pair = usize::from(u16::from_be_bytes([*text.first()?, *text.get(1)?]));
        if self.first_two[pair / 64] & (1 << (pair % 64)) == 0 {
            return None;
        }
        let window = &text[..text.len().min(self.longest + 1)];
        let end = window.iter().position(|byte| matches!(byte, 0 | b'@'))?;
        self.by_name.get(&window[..end]).copied()
    }
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
    fn a_name_is_found_whole_and_without_its_version() {
        let wanted = Wanted::new(["cudaMalloc", "cudaFree", "cudaMalloc"]);
        for (text, id) in [
            (&b"cudaMalloc\0rest"[..], Some(0)),
            (b"cudaMalloc@@libcudart.so.12\0", Some(0)),
            (b"cudaFree\0", Some(1)),
            (b"cudaFreeHost\0", None),
            (b"cudaMal\0", None),
            (b"cudaMalloc", None),
            (b"c", None),
            (b"", None),
        ] {
            assert_eq!(wanted.find_at(text), id, "{}", text.escape_ascii());
        }
        assert_eq!(wanted.iter().count(), 2);
        assert_eq!(wanted.name(1), Some("cudaFree"));
    }
}
