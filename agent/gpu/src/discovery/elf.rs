//! Finds the functions of the table in one ELF file, as file offsets to probe.
//!
//! In: an opened file and the [`Wanted`] names. Out: [`ElfIndex`]: which names it defines, where, and what else decides
//! whether the object can be traced. The dynamic table is asked by its hash section, so that a library of 300,000
//! symbols costs as many page reads as there are names; the static table is streamed, up to a limit.
//!
//! The file belongs to whoever runs the job, so nothing in it is trusted: every offset is checked, the work is bounded,
//! and it is read with `pread` and never mapped, because a file cut short under a mapping kills its reader by SIGBUS.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::wanted::{SymbolId, Wanted};

/// Names of static symbols searched per object; a debug build of PyTorch has about 150 MiB of them.
const NAMES_BYTES_MAX: u64 = 192 << 20;
/// Places of wanted names per object; a sound one has one or two a name.
const NAMES_FOUND_MAX: usize = 16_384;
/// Static symbols looked at per object, where it has wanted names at all (24 bytes each).
const SYMBOLS_MAX: u64 = 8 << 20;
/// Hash-chain steps per object over all names; a sound table needs two or three a name.
const CHAIN_STEPS_MAX: u32 = 1 << 18;
/// Program headers looked at; real objects have about ten.
const SEGMENTS_MAX: u64 = 512;
/// Section headers looked at; real objects have about forty, those built with a section per function many more.
const SECTIONS_MAX: u64 = 65_536;
const BLOCK_BYTES: usize = 4096;
const STREAM_BYTES: usize = 256 * 1024;

/// A function of the table in this object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Which name.
    pub symbol: SymbolId,
    /// Where its first instruction lies in the file, in bytes.
    pub file_offset: u64,
}

/// What one object file offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElfIndex {
    /// Functions of the table, in table order, one per file offset (of aliases the first in the table).
    pub found: Vec<Found>,
    /// `EM_X86_64` or `EM_AARCH64`.
    pub machine: u16,
    /// It names an interpreter or has a fixed address: a program, not a library.
    pub is_program: bool,
    /// What became of its static symbol table.
    pub symtab: Symtab,
    /// File ranges (offset, length) loaded read-only: where the strings of a stripped runtime lie.
    pub read_only: Vec<(u64, u64)>,
}

/// The static symbol table (`.symtab`) of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symtab {
    /// Stripped.
    Absent,
    /// All of it was looked at.
    Searched,
    /// It has this many entries, and not all of them were looked at.
    CutOff(u64),
}

/// Why a file could not be indexed.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Not an ELF program or library.
    #[error("it is not an ELF program or library")]
    NotElf,
    /// A 32-bit object.
    #[error("it is a 32-bit object; only 64-bit ones are traced")]
    Not64Bit,
    /// Another processor, or big-endian.
    #[error("it is for another processor (ELF machine {0}); x86-64 (62) and arm64 (183) are traced")]
    Machine(u16),
    /// A size or an offset in it points outside the file or makes no sense.
    #[error("the ELF file is malformed: {0}")]
    Malformed(&'static str),
    /// Reading failed.
    #[error("reading the file failed: {0}")]
    Read(#[from] io::Error),
}

/// Bytes at an offset: a file, or a slice in tests.
pub trait ReadAt {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Indexes one object.
pub fn index<R: ReadAt + ?Sized>(file: &R, wanted: &Wanted) -> Result<ElfIndex, ElfError> {
    Reader::new(file)?.index(wanted)
}

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const SHN_UNDEF: u16 = 0;
const SHN_LORESERVE: u16 = 0xff00;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const SYMBOL_BYTES: u64 = 24;

struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
}

struct Table {
    symbols: u64,
    symbols_bytes: u64,
    strings: u64,
    strings_bytes: u64,
}

struct Symbol {
    name: u32,
    value: u64,
}

impl Symbol {
    /// A defined function, or nothing. An indirect function (STT_GNU_IFUNC) is none: its address is its resolver's.
    fn function(entry: &[u8; SYMBOL_BYTES as usize]) -> Option<Self> {
        let section = u16_at(entry, 6);
        let kind = entry[4] & 0xf;
        let defined = section != SHN_UNDEF && section < SHN_LORESERVE;
        (defined && matches!(kind, STT_FUNC | STT_NOTYPE))
            .then(|| Self { name: u32_at(entry, 0), value: u64_at(entry, 8) })
    }
}

/// A file with a few of its blocks kept: hash lookups come back to the same ones.
struct Reader<'a, R: ?Sized> {
    file: &'a R,
    size: u64,
    blocks: Vec<Block>,
    steps_left: u32,
}

struct Block {
    number: u64,
    length: usize,
    bytes: Box<[u8; BLOCK_BYTES]>,
}

const BLOCKS_KEPT: u64 = 32;

impl<'a, R: ReadAt + ?Sized> Reader<'a, R> {
    fn new(file: &'a R) -> Result<Self, ElfError> {
        Ok(Self { file, size: file.size()?, blocks: Vec::new(), steps_left: CHAIN_STEPS_MAX })
    }

    fn index(&mut self, wanted: &Wanted) -> Result<ElfIndex, ElfError> {
        let mut header = [0; 64];
        if self.size < 64 {
            return Err(ElfError::NotElf);
        }
        self.read(0, &mut header)?;
        if header[..4] != *b"\x7fELF" {
            return Err(ElfError::NotElf);
        }
        if header[4] != 2 {
            return Err(ElfError::Not64Bit);
        }
        let machine = u16_at(&header, 18);
        if header[5] != 1 || !matches!(machine, EM_X86_64 | EM_AARCH64) {
            return Err(ElfError::Machine(if header[5] == 1 { machine } else { machine.swap_bytes() }));
        }
        let kind = u16_at(&header, 16);
        if !matches!(kind, ET_EXEC | ET_DYN) {
            return Err(ElfError::NotElf);
        }
        let segments = self.segments(&header)?;
        let mut found = Vec::new();
        if let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) {
            self.search_dynamic(dynamic, &segments, &header, wanted, &mut found)?;
        }
        let symtab = self.search_static(&segments, &header, wanted, &mut found)?;
        // Of aliases at one address the first in the table stands for all: a second probe there would count twice.
        found.sort_by_key(|point| (point.file_offset, point.symbol));
        found.dedup_by_key(|point| point.file_offset);
        found.sort_unstable();
        Ok(ElfIndex {
            found,
            machine,
            is_program: kind == ET_EXEC || segments.iter().any(|segment| segment.kind == PT_INTERP),
            symtab,
            read_only: segments
                .iter()
                .filter(|segment| segment.kind == PT_LOAD && segment.flags & PF_W == 0 && segment.file_bytes > 0)
                .map(|segment| (segment.offset, segment.file_bytes))
                .collect(),
        })
    }

    fn segments(&mut self, header: &[u8; 64]) -> Result<Vec<Segment>, ElfError> {
        let (start, entry_bytes) = (u64_at(header, 32), u64::from(u16_at(header, 54)));
        let count = u64::from(u16_at(header, 56)).min(SEGMENTS_MAX);
        if count > 0 && entry_bytes < 56 {
            return Err(ElfError::Malformed("program headers are shorter than 56 bytes"));
        }
        let mut segments = Vec::new();
        for number in 0..count {
            let mut entry = [0; 56];
            self.read(sum(start, number * entry_bytes)?, &mut entry)?;
            let segment = Segment {
                kind: u32_at(&entry, 0),
                flags: u32_at(&entry, 4),
                offset: u64_at(&entry, 8),
                address: u64_at(&entry, 16),
                file_bytes: u64_at(&entry, 32),
            };
            if matches!(segment.kind, PT_LOAD | PT_DYNAMIC | PT_INTERP) {
                segments.push(segment);
            }
        }
        Ok(segments)
    }

    fn search_dynamic(
        &mut self,
        dynamic: &Segment,
        segments: &[Segment],
        header: &[u8; 64],
        wanted: &Wanted,
        found: &mut Vec<Found>,
    ) -> Result<(), ElfError> {
        let (mut gnu, mut sysv, mut symbols, mut strings) = (None, None, None, None);
        for number in 0..(dynamic.file_bytes / 16).min(1024) {
            let mut entry = [0; 16];
            self.read(sum(dynamic.offset, number * 16)?, &mut entry)?;
            let value = u64_at(&entry, 8);
            match u64_at(&entry, 0) {
                0 => break,
                DT_GNU_HASH => gnu = Some(value),
                DT_HASH => sysv = Some(value),
                DT_SYMTAB => symbols = Some(value),
                DT_STRTAB => strings = Some(value),
                _ => {}
            }
        }
        let (Some(symbols), Some(strings)) = (symbols, strings) else { return Ok(()) };
        let placed = |address, what| file_offset(segments, address, 0).ok_or(ElfError::Malformed(what));
        let symbols = placed(symbols, "its dynamic symbol table lies in no segment")?;
        let strings = placed(strings, "its dynamic strings lie in no segment")?;
        let table = Table {
            symbols,
            symbols_bytes: self.size.saturating_sub(symbols),
            strings,
            strings_bytes: self.size.saturating_sub(strings),
        };
        if let Some(hash) = gnu {
            let hash = placed(hash, "its GNU hash table lies in no segment")?;
            self.search_gnu_hash(hash, &table, segments, wanted, found)
        } else if let Some(hash) = sysv {
            let hash = placed(hash, "its hash table lies in no segment")?;
            self.search_sysv_hash(hash, &table, segments, wanted, found)
        } else if let Some(table) = self.table_of(header, SHT_DYNSYM)? {
            self.stream(&table, segments, wanted, found).map(drop)
        } else {
            Ok(())
        }
    }

    /// DT_GNU_HASH: a Bloom filter answers most names; then a bucket, then a chain of hashes whose lowest bit ends it.
    fn search_gnu_hash(
        &mut self,
        hash: u64,
        table: &Table,
        segments: &[Segment],
        wanted: &Wanted,
        found: &mut Vec<Found>,
    ) -> Result<(), ElfError> {
        let mut head = [0; 16];
        self.read(hash, &mut head)?;
        let (buckets, first) = (u32_at(&head, 0), u32_at(&head, 4));
        let (bloom_words, bloom_shift) = (u32_at(&head, 8), u32_at(&head, 12));
        if buckets == 0 || bloom_words == 0 {
            return Ok(());
        }
        let bloom = sum(hash, 16)?;
        let bucket_table = sum(bloom, u64::from(bloom_words) * 8)?;
        let chain_table = sum(bucket_table, u64::from(buckets) * 4)?;
        for (id, name) in wanted.iter() {
            let bits = self.u64(sum(bloom, u64::from(name.gnu_hash / 64 % bloom_words) * 8)?)?;
            let shifted = name.gnu_hash.checked_shr(bloom_shift).unwrap_or(0);
            if bits >> (name.gnu_hash % 64) & bits >> (shifted % 64) & 1 == 0 {
                continue;
            }
            let mut number = self.u32(sum(bucket_table, u64::from(name.gnu_hash % buckets) * 4)?)?;
            if number < first {
                continue;
            }
            loop {
                self.step()?;
                let entry = self.u32(sum(chain_table, u64::from(number - first) * 4)?)?;
                if entry | 1 == name.gnu_hash | 1 {
                    self.take(table, number, id, &name.name, segments, found)?;
                }
                if entry & 1 == 1 {
                    break;
                }
                number = number.checked_add(1).ok_or(ElfError::Malformed("a hash chain has no end"))?;
            }
        }
        Ok(())
    }

    fn search_sysv_hash(
        &mut self,
        hash: u64,
        table: &Table,
        segments: &[Segment],
        wanted: &Wanted,
        found: &mut Vec<Found>,
    ) -> Result<(), ElfError> {
        let buckets = self.u32(hash)?;
        if buckets == 0 {
            return Ok(());
        }
        let chain_table = sum(hash, 8 + u64::from(buckets) * 4)?;
        for (id, name) in wanted.iter() {
            let mut number = self.u32(sum(hash, 8 + u64::from(name.sysv_hash % buckets) * 4)?)?;
            while number != 0 {
                self.step()?;
                self.take(table, number, id, &name.name, segments, found)?;
                number = self.u32(sum(chain_table, u64::from(number) * 4)?)?;
            }
        }
        Ok(())
    }

    /// Takes symbol `number` of the dynamic table if it is the function `name`.
    fn take(
        &mut self,
        table: &Table,
        number: u32,
        id: SymbolId,
        name: &[u8],
        segments: &[Segment],
        found: &mut Vec<Found>,
    ) -> Result<(), ElfError> {
        let mut entry = [0; SYMBOL_BYTES as usize];
        self.read(sum(table.symbols, u64::from(number) * SYMBOL_BYTES)?, &mut entry)?;
        let Some(symbol) = Symbol::function(&entry) else { return Ok(()) };
        let at = sum(table.strings, u64::from(symbol.name))?;
        let mut text = [0; 256];
        let Some(text) = text.get_mut(..=name.len()) else { return Ok(()) };
        self.read(at, text)?;
        if text[..name.len()] == *name && text[name.len()] == 0 {
            found.extend(self.point(segments, id, symbol.value));
        }
        Ok(())
    }

    fn search_static(
        &mut self,
        segments: &[Segment],
        header: &[u8; 64],
        wanted: &Wanted,
        found: &mut Vec<Found>,
    ) -> Result<Symtab, ElfError> {
        match self.table_of(header, SHT_SYMTAB) {
            Ok(Some(table)) => self.stream(&table, segments, wanted, found),
            // Section headers are not needed to run a program, and some packers damage them: then it counts as stripped.
            Ok(None) | Err(ElfError::Malformed(_)) => Ok(Symtab::Absent),
            Err(error) => Err(error),
        }
    }

    /// The first symbol table of a kind among the section headers, with its strings.
    fn table_of(&mut self, header: &[u8; 64], kind: u32) -> Result<Option<Table>, ElfError> {
        let (start, entry_bytes) = (u64_at(header, 40), u64::from(u16_at(header, 58)));
        let count = u64::from(u16_at(header, 60));
        if start == 0 {
            return Ok(None);
        }
        if entry_bytes < 64 {
            return Err(ElfError::Malformed("section headers are shorter than 64 bytes"));
        }
        let mut section = [0; 64];
        // With 65,280 sections or more the count stands in the first header's size (ELF-64, section 5).
        let count = if count == 0 {
            self.read(start, &mut section)?;
            u64_at(&section, 32)
        } else {
            count
        };
        let count = count.min(SECTIONS_MAX);
        for number in 0..count {
            self.read(sum(start, number * entry_bytes)?, &mut section)?;
            if u32_at(&section, 4) != kind {
                continue;
            }
            let (symbols, symbols_bytes) = (u64_at(&section, 24), u64_at(&section, 32));
            let link = u64::from(u32_at(&section, 40));
            if link >= count {
                return Err(ElfError::Malformed("a symbol table has no strings"));
            }
            self.read(sum(start, link * entry_bytes)?, &mut section)?;
            let (strings, strings_bytes) = (u64_at(&section, 24), u64_at(&section, 32));
            if sum(symbols, symbols_bytes)? > self.size || sum(strings, strings_bytes)? > self.size {
                return Err(ElfError::Malformed("a symbol table ends past the end of the file"));
            }
            return Ok(Some(Table { symbols, symbols_bytes, strings, strings_bytes }));
        }
        Ok(None)
    }

    /// Searches a table that has no hash: first the names from end to end, and only where a wanted one stands among
    /// them the symbols. Looking up the name of each symbol instead would jump about in the file.
    fn stream(
        &mut self,
        table: &Table,
        segments: &[Segment],
        wanted: &Wanted,
        found: &mut Vec<Found>,
    ) -> Result<Symtab, ElfError> {
        let mut buffer = vec![0; STREAM_BYTES];
        let strings = table.strings_bytes.min(NAMES_BYTES_MAX);
        let mut names: HashMap<u32, SymbolId> = HashMap::new();
        let mut start = 0;
        while start < strings && names.len() < NAMES_FOUND_MAX {
            let chunk = &mut buffer[..(strings - start).min(STREAM_BYTES as u64) as usize];
            self.read_through(sum(table.strings, start)?, chunk)?;
            wanted.search(chunk, |at, id| {
                // A symbol's name is a 32-bit offset: what lies beyond cannot be one.
                if let Ok(name) = u32::try_from(start + at as u64) {
                    names.insert(name, id);
                }
            });
            if start + chunk.len() as u64 == strings {
                start = strings;
                break;
            }
            // A name across the border is found in the next piece.
            start += (chunk.len() - wanted.longest() - 1) as u64;
        }
        let entries = table.symbols_bytes / SYMBOL_BYTES;
        let all_names = start == table.strings_bytes;
        if names.is_empty() {
            return Ok(if all_names { Symtab::Searched } else { Symtab::CutOff(entries) });
        }
        let looked_at = entries.min(SYMBOLS_MAX);
        let per_read = STREAM_BYTES as u64 / SYMBOL_BYTES;
        let mut number = 0;
        while number < looked_at {
            let count = per_read.min(looked_at - number);
            let chunk = &mut buffer[..(count * SYMBOL_BYTES) as usize];
            self.read_through(sum(table.symbols, number * SYMBOL_BYTES)?, chunk)?;
            for entry in chunk.as_chunks::<{ SYMBOL_BYTES as usize }>().0 {
                if let Some(symbol) = Symbol::function(entry)
                    && let Some(id) = names.get(&symbol.name)
                    && found.len() < NAMES_FOUND_MAX
                {
                    found.extend(self.point(segments, *id, symbol.value));
                }
            }
            number += count;
        }
        Ok(if all_names && looked_at == entries { Symtab::Searched } else { Symtab::CutOff(entries) })
    }

    /// A point to probe, if the address is code that lies in the file.
    fn point(&self, segments: &[Segment], symbol: SymbolId, address: u64) -> Option<Found> {
        let file_offset = file_offset(segments, address, PF_X).filter(|offset| *offset < self.size)?;
        Some(Found { symbol, file_offset })
    }

    fn step(&mut self) -> Result<(), ElfError> {
        self.steps_left = self.steps_left.checked_sub(1).ok_or(ElfError::Malformed("its hash chains are too long"))?;
        Ok(())
    }

    fn u32(&mut self, offset: u64) -> Result<u32, ElfError> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self, offset: u64) -> Result<u64, ElfError> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads exactly `buffer`, through the kept blocks.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ElfError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = sum(offset, done as u64)?;
            let within = (at % BLOCK_BYTES as u64) as usize;
            let block = self.block(at / BLOCK_BYTES as u64)?;
            let rest = block.bytes.get(within..block.length).unwrap_or_default();
            if rest.is_empty() {
                return Err(ElfError::Malformed("a table ends past the end of the file"));
            }
            let length = rest.len().min(buffer.len() - done);
            buffer[done..done + length].copy_from_slice(&rest[..length]);
            done += length;
        }
        Ok(())
    }

    fn block(&mut self, number: u64) -> Result<&Block, ElfError> {
        if self.blocks.is_empty() {
            self.blocks.extend((0..BLOCKS_KEPT).map(|_| Block {
                number: u64::MAX,
                length: 0,
                bytes: Box::new([0; BLOCK_BYTES]),
            }));
        }
        let block = &mut self.blocks[(number % BLOCKS_KEPT) as usize];
        if block.number != number {
            block.number = u64::MAX;
            block.length = fill(self.file, number * BLOCK_BYTES as u64, &mut block.bytes[..])?;
            block.number = number;
        }
        Ok(block)
    }

    /// Reads exactly `buffer`, past the kept blocks.
    fn read_through(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ElfError> {
        if fill(self.file, offset, buffer)? < buffer.len() {
            return Err(ElfError::Malformed("a table ends past the end of the file"));
        }
        Ok(())
    }
}

/// Reads until `buffer` is full or the file ends; gives what was read.
fn fill<R: ReadAt + ?Sized>(file: &R, offset: u64, buffer: &mut [u8]) -> Result<usize, ElfError> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], sum(offset, done as u64)?) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ElfError::Read(error)),
        }
    }
    Ok(done)
}

/// Where an address of the program lies in the file, in a loaded segment that has all of `flags`.
fn file_offset(segments: &[Segment], address: u64, flags: u32) -> Option<u64> {
    segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.flags & flags == flags).find_map(|segment| {
        let into = address.checked_sub(segment.address)?;
        (into < segment.file_bytes).then(|| segment.offset.checked_add(into))?
    })
}

fn sum(left: u64, right: u64) -> Result<u64, ElfError> {
    left.checked_add(right).ok_or(ElfError::Malformed("an offset does not fit in 64 bits"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
