//! The tape: every reading of every source over the last minutes, compressed, in bounded memory of this process.
//!
//! In: each batch as its sampling thread read it ([`railwatch_sampling::Tape`]). Out: the readings of any series between
//! two instants ([`Tape::read`]), while writing goes on. A reading keeps its value exactly, its time in units of
//! [`TIME_UNIT_NS`], and a half-width that is never narrower than what was read.
//!
//! ```text
//! sampling thread ── Writer ── sheets: up to 96 series of a source, 256 reads of them as they came
//!                                │ full: compressed, column by column
//!                                └─ segments of 256 KiB, shared by all writers; the oldest goes when memory is spent
//! ```
//! A writer never waits for a reader: what readers see lies in atomic words under sequence numbers, and a reader that was
//! overtaken looks again. Writers meet for an instant when one needs another segment. Once memory is spent and the series
//! stand, writing allocates nothing. What is let go, and what found no room, is counted ([`Status`]).
//!
//! Never: a disk, a rate, an unbounded answer, unsafe code.
#![forbid(unsafe_code)]

mod bits;
mod column;
mod pool;
mod read;
mod sheet;
mod writer;

pub use read::{Answer, Kind, Piece, Query, Sample, Status};

use arc_swap::ArcSwap;
use pool::Pool;
use railwatch_sampling::{Tape as Keeps, TapeWriter};
use sheet::Sheet;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

/// Times and half-widths are kept in this unit: a time is rounded, and the half-width widened by what that moved it.
pub const TIME_UNIT_NS: u64 = 256;
/// Least memory of a tape: below it the segments that writers hold open would be most of it.
pub const BYTES_MIN: u64 = 8 << 20;
/// Memory unless told otherwise.
pub const BYTES_DEFAULT: u64 = 32 << 20;

/// Bits that a value costs at most, beside its column's head; see [`column`].
const WORST_BITS: usize = 71;

/// The tape of an agent. Clones share it.
#[derive(Clone)]
pub struct Tape(Arc<Inner>);

struct Inner {
    pool: Pool,
    /// All sheets that memory may still hold blocks of. Changed under `registering`, read by anyone.
    sheets: ArcSwap<Vec<Arc<Sheet>>>,
    registering: Mutex<()>,
    next_sheet: AtomicU32,
    counts: Counts,
}

/// What is counted over the tape's life.
#[derive(Default)]
struct Counts {
    written: AtomicU64,
    compressed: AtomicU64,
    compressed_bytes: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
}

impl Tape {
    /// A tape that holds at most so many bytes, [`BYTES_MIN`] at least. Memory is taken as readings come.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Inner {
            pool: Pool::new(bytes_max.max(BYTES_MIN)),
            sheets: ArcSwap::default(),
            registering: Mutex::new(()),
            next_sheet: AtomicU32::new(0),
            counts: Counts::default(),
        }))
    }
}

impl Keeps for Tape {
    fn writer(&self, _source: &'static str) -> Box<dyn TapeWriter> {
        Box::new(writer::Writer::new(Arc::clone(&self.0)))
    }

    fn bytes_per_series(&self) -> usize {
        // Its column of a sheet of its own, as far as memory allows; times are shared by a group.
        sheet::ROWS[0] * size_of::<u64>()
    }
}
