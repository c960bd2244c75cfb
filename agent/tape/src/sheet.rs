//! A sheet: up to 96 series of one source that are read together, and their newest reads as they came.
//!
//! In: rows, from the one writer. Out: copies for readers; at its end a block of compressed columns. Readings whose
//! brackets lie within 50 µs share one time and one half-width (a group): a read of one port is one system call, and the
//! files of a port are read one right after the other. Never: a row shown before it is whole.

use crate::bits::{BitReader, BitWriter};
use crate::column::{self, Scratch, Values};
use crate::pool::{HEAD_WORDS, SEGMENT_WORDS};
use crate::{TIME_UNIT_NS, WORST_BITS};
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Series of a sheet at most.
pub const COLUMNS_MAX: usize = 96;
/// Times of a row at most.
pub const GROUPS_MAX: usize = 8;
/// Rows of a sheet, the most that its share of memory allows.
pub const ROWS: [usize; 3] = [256, 64, 16];
/// Words of a row that say which series were read.
const PRESENT_WORDS: usize = COLUMNS_MAX.div_ceil(64);

// The worst block fits into an empty segment: every column is of reals that share no bits, with 73 bits of head.
const _: () = assert!(
    HEAD_WORDS + (COLUMNS_MAX + 2 * GROUPS_MAX) * (ROWS[0] * WORST_BITS / 64 + 2) + PRESENT_WORDS * (ROWS[0] + 1)
        <= SEGMENT_WORDS
);

/// A series in a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Identifier of the series.
    pub series: u64,
    /// Counter or gauge.
    pub values: Values,
    /// Which of the row's times is its own.
    pub group: usize,
}

/// One reading as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub at_ns: u64,
    pub half_width_ns: u64,
    pub bits: u64,
}

/// What readers see of a sheet.
pub struct Sheet {
    pub id: u32,
    pub columns: Box<[Column]>,
    groups: usize,
    /// Rows not compressed yet; none where the writer has done with the sheet.
    open: ArcSwapOption<Open>,
    /// No reading came after this one once the sheet was done with.
    pub done_ns: AtomicU64,
}

/// The newest rows.
pub struct Open {
    generation: AtomicU64,
    rows: AtomicUsize,
    words: Box<[AtomicU64]>,
}

impl Sheet {
    /// A sheet for these columns, and its rows for the writer.
    pub fn new(id: u32, columns: Box<[Column]>, groups: usize, rows: usize) -> (Arc<Self>, Arc<Open>) {
        let stride = stride(columns.len(), groups);
        let open = Arc::new(Open {
            generation: AtomicU64::new(0),
            rows: AtomicUsize::new(0),
            words: (0..stride * rows).map(|_| AtomicU64::new(0)).collect(),
        });
        let shown = ArcSwapOption::from(Some(Arc::clone(&open)));
        (Arc::new(Self { id, columns, groups, open: shown, done_ns: AtomicU64::new(u64::MAX) }), open)
    }

    /// Memory of the rows of such a sheet, bytes.
    pub fn bytes(columns: usize, groups: usize, rows: usize) -> u64 {
        (stride(columns, groups) * rows * 8) as u64
    }

    /// Words of a row: a time and a half-width per group, who was read, the values.
    pub fn stride(&self) -> usize {
        stride(self.columns.len(), self.groups)
    }

    /// How many times a row has.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The writer is done: its rows are in a block.
    pub fn close(&self, last_ns: u64) {
        self.done_ns.store(last_ns, Relaxed);
        self.open.store(None);
    }

    /// The index of a series in it.
    pub fn column(&self, series: u64) -> Option<usize> {
        self.columns.iter().position(|column| column.series == series)
    }

    /// The rows that are in no block yet, and the generation of the block they will be in. A reader that was overtaken
    /// again and again gets none: they are in a block by then.
    pub fn copy_open(&self, into: &mut Vec<u64>) -> Option<u64> {
        let open = self.open.load_full()?;
        for _ in 0..4 {
            into.clear();
            let generation = open.generation.load(Acquire);
            let rows = open.rows.load(Acquire);
            let words = open.words.get(..rows * self.stride())?;
            into.extend(words.iter().map(|word| word.load(Relaxed)));
            fence(Acquire);
            if open.generation.load(Relaxed) == generation {
                return Some(generation);
            }
        }
        None
    }

    /// The time of the first row that is in no block yet, in units.
    pub fn oldest_open(&self) -> Option<u64> {
        let open = self.open.load_full()?;
        (open.rows.load(Acquire) > 0).then(|| open.get(0))
    }

    /// The readings of one column of open rows.
    pub fn open_column(&self, words: &[u64], column: usize, mut each: impl FnMut(Kept)) {
        let group = self.columns[column].group;
        for row in words.chunks_exact(self.stride()) {
            if row[2 * self.groups + column / 64] >> (column % 64) & 1 == 1 {
                each(kept(row[2 * group], row[2 * group + 1], row[2 * self.groups + PRESENT_WORDS + column]));
            }
        }
    }

    /// Compresses rows into `out`.
    pub fn compress(&self, open: &Open, rows: usize, out: &mut BitWriter, memory: &mut Memory) {
        let stride = self.stride();
        let Memory { columns, scratch } = memory;
        let column = |first: usize, count: usize, columns: &mut [Vec<u64>; 8]| {
            columns.iter_mut().for_each(Vec::clear);
            // Eight neighbours at a time: a line of the cache.
            for row in open.words[..rows * stride].chunks_exact(stride) {
                for (column, word) in columns.iter_mut().zip(&row[first..first + count]) {
                    column.push(word.load(Relaxed));
                }
            }
        };
        out.clear();
        for group in 0..self.groups {
            column(2 * group, 2, columns);
            column::encode(out, &columns[0], Values::Whole, scratch);
            column::encode(out, &columns[1], Values::Whole, scratch);
        }
        let total = self.columns.len();
        for word in 0..total.div_ceil(64) {
            column(2 * self.groups + word, 1, columns);
            let all = u64::MAX >> (64 - (total - word * 64).min(64));
            let is_whole = columns[0].iter().all(|present| *present == all);
            out.put(u64::from(!is_whole), 1);
            if !is_whole {
                columns[0].iter().for_each(|present| out.put(*present, 64));
            }
        }
        for first in (0..total).step_by(8) {
            let count = (total - first).min(8);
            column(2 * self.groups + PRESENT_WORDS + first, count, columns);
            for (index, values) in columns[..count].iter().enumerate() {
                column::encode(out, values, self.columns[first + index].values, scratch);
            }
        }
    }

    /// The readings of the wanted columns of a block; `false` where the block is not whole.
    pub fn read_block(&self, bits: &[u64], rows: usize, wanted: &[usize], mut each: impl FnMut(usize, Kept)) -> bool {
        let mut bits = BitReader::new(bits);
        self.try_read_block(&mut bits, rows, wanted, &mut each).is_some()
    }

    fn try_read_block(
        &self,
        bits: &mut BitReader<'_>,
        rows: usize,
        wanted: &[usize],
        each: &mut dyn FnMut(usize, Kept),
    ) -> Option<()> {
        let mut times = Vec::with_capacity(self.groups);
        for _ in 0..self.groups {
            let (mut at, mut half) = (Vec::new(), Vec::new());
            column::decode(bits, rows, &mut at)?;
            column::decode(bits, rows, &mut half)?;
            times.push((at, half));
        }
        let total = self.columns.len();
        let mut present: [Option<Vec<u64>>; PRESENT_WORDS] = Default::default();
        for word in present.iter_mut().take(total.div_ceil(64)) {
            if bits.get(1)? == 1 {
                *word = Some((0..rows).map(|_| bits.get(64)).collect::<Option<_>>()?);
            }
        }
        let last = wanted.iter().max()?;
        let mut values = Vec::new();
        for (index, column) in self.columns.iter().enumerate().take(last + 1) {
            column::decode(bits, rows, &mut values)?;
            if !wanted.contains(&index) {
                continue;
            }
            let (at, half) = &times[column.group];
            for row in 0..rows {
                if present[index / 64].as_ref().is_none_or(|words| words[row] >> (index % 64) & 1 == 1) {
                    each(index, kept(at[row], half[row], values[row]));
                }
            }
        }
        Some(())
    }
}

fn kept(at: u64, half_width: u64, bits: u64) -> Kept {
    Kept { at_ns: at * TIME_UNIT_NS, half_width_ns: half_width * TIME_UNIT_NS, bits }
}

fn stride(columns: usize, groups: usize) -> usize {
    2 * groups + PRESENT_WORDS + columns
}

impl Open {
    /// Rows are shown up to here.
    pub fn publish(&self, rows: usize) {
        self.rows.store(rows, Release);
    }

    /// A word of the row that is not shown yet.
    pub fn set(&self, word: usize, value: u64) {
        self.words[word].store(value, Relaxed);
    }

    pub fn get(&self, word: usize) -> u64 {
        self.words[word].load(Relaxed)
    }

    /// The rows are in a block: the next ones overwrite them. In this order: whoever sees the new generation sees no
    /// rows, or new ones.
    pub fn begin_again(&self) {
        self.rows.store(0, Release);
        self.generation.fetch_add(1, Release);
        fence(Release);
    }

    /// Which block the rows will be in.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }
}

/// Where the present words and the values of a row begin, for the writer.
pub const fn offsets(groups: usize) -> (usize, usize) {
    (2 * groups, 2 * groups + PRESENT_WORDS)
}

/// Memory for compressing.
pub struct Memory {
    columns: [Vec<u64>; 8],
    scratch: Scratch,
}

impl Memory {
    pub fn new() -> Self {
        Self { columns: std::array::from_fn(|_| Vec::with_capacity(ROWS[0])), scratch: Scratch::new(ROWS[0]) }
    }
}
