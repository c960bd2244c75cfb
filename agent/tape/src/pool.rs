//! The memory of compressed blocks: segments of one size, filled by one writer each, let go oldest first.
//!
//! In: finished blocks. Out: copies of a segment's words for readers. A segment is append-only until it is let go; then its
//! generation grows and it is filled anew by whoever needs it. Readers copy and look at the generation again (a sequence
//! lock over atomic words: Boehm, "Can seqlocks get along with programming language memory models?", 2012, section 4).
//! Never: a lock that readers take, or more memory than was given.

use arc_swap::ArcSwapOption;
use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Words of a segment: 256 KiB.
pub const SEGMENT_WORDS: usize = 32 * 1024;
const SEGMENT_BYTES: u64 = SEGMENT_WORDS as u64 * 8;
/// Words before a block's bits.
pub const HEAD_WORDS: usize = 4;

/// What a block says of itself before its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sheet it is of.
    pub sheet: u32,
    /// Which block of that sheet.
    pub generation: u64,
    /// Reads in it.
    pub rows: usize,
    /// No reading of it was taken before, CLOCK_MONOTONIC nanoseconds.
    pub first_ns: u64,
    /// Nor after.
    pub last_ns: u64,
}

impl Head {
    fn words(&self, total: usize) -> [u64; HEAD_WORDS] {
        [
            u64::from(self.sheet) << 32 | total as u64,
            self.generation << 16 | self.rows as u64,
            self.first_ns,
            self.last_ns,
        ]
    }

    /// From a segment's words; with it the words of the whole block.
    pub fn parse(words: &[u64]) -> Option<(Self, usize)> {
        let [place, count, first_ns, last_ns] = *words.first_chunk()?;
        let total = (place & u64::from(u32::MAX)) as usize;
        let head = Self {
            sheet: (place >> 32) as u32,
            generation: count >> 16,
            rows: (count & 0xffff) as usize,
            first_ns,
            last_ns,
        };
        (HEAD_WORDS..=words.len()).contains(&total).then_some((head, total))
    }
}

/// One segment.
pub struct Segment {
    slot: usize,
    generation: AtomicU64,
    used: AtomicUsize,
    samples: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl Segment {
    fn new(slot: usize) -> Self {
        Self {
            slot,
            generation: AtomicU64::new(0),
            used: AtomicUsize::new(0),
            samples: AtomicU64::new(0),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
            words: (0..SEGMENT_WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Appends a block; its bytes, or `None` where it does not fit. Only the writer that holds the segment does this.
    pub fn append(&self, head: &Head, samples: u64, bits: &[u64]) -> Option<u64> {
        let at = self.used.load(Relaxed);
        let total = HEAD_WORDS + bits.len();
        if total > self.words.len() - at {
            return None;
        }
        for (place, word) in self.words[at..].iter().zip(head.words(total).iter().chain(bits)) {
            place.store(*word, Relaxed);
        }
        self.samples.fetch_add(samples, Relaxed);
        self.first_ns.fetch_min(head.first_ns, Relaxed);
        self.last_ns.fetch_max(head.last_ns, Relaxed);
        self.used.store(at + total, Release);
        Some(size_of_val(&self.words[at..at + total]) as u64)
    }

    /// Lets its blocks go. Returns how many readings they held, and the newest instant among them.
    fn recycle(&self) -> (u64, u64) {
        self.used.store(0, Relaxed);
        self.generation.fetch_add(1, Relaxed);
        // A reader that sees any word written after this also sees the generation.
        fence(Release);
        self.first_ns.store(u64::MAX, Relaxed);
        (self.samples.swap(0, Relaxed), self.last_ns.swap(0, Relaxed))
    }

    /// Copies its words where any may lie between the two instants; `false` where none does, or where it was let go
    /// meanwhile.
    pub fn copy(&self, from_ns: u64, to_ns: u64, into: &mut Vec<u64>) -> bool {
        into.clear();
        let generation = self.generation.load(Acquire);
        let used = self.used.load(Acquire).min(self.words.len());
        if self.first_ns.load(Relaxed) > to_ns || self.last_ns.load(Relaxed) < from_ns {
            return false;
        }
        into.extend(self.words[..used].iter().map(|word| word.load(Relaxed)));
        fence(Acquire);
        self.generation.load(Relaxed) == generation && used > 0
    }

    /// The oldest instant in it, CLOCK_MONOTONIC nanoseconds.
    pub fn first_ns(&self) -> u64 {
        self.first_ns.load(Relaxed)
    }
}

/// All segments.
pub struct Pool {
    bytes_max: u64,
    slots: Box<[ArcSwapOption<Segment>]>,
    turns: Mutex<Turns>,
    /// Memory of the sheets: it counts against the same bound.
    sheet_bytes: AtomicU64,
    evicted: AtomicU64,
    evicted_until_ns: AtomicU64,
}

/// Whose turn it is; writers alone look here.
#[derive(Default)]
struct Turns {
    allocated: usize,
    /// Filled segments, the oldest first.
    full: VecDeque<Arc<Segment>>,
}

impl Pool {
    pub fn new(bytes_max: u64) -> Self {
        let count = usize::try_from(bytes_max / SEGMENT_BYTES).unwrap_or(0);
        let turns = Turns { allocated: 0, full: VecDeque::with_capacity(count) };
        Self {
            bytes_max,
            slots: (0..count).map(|_| ArcSwapOption::empty()).collect(),
            turns: Mutex::new(turns),
            sheet_bytes: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            evicted_until_ns: AtomicU64::new(0),
        }
    }

    /// Takes memory for a sheet, as long as all sheets hold no more than `quarters` of theirs, which is a quarter of all.
    pub fn reserve_sheet(&self, bytes: u64, quarters: u64) -> bool {
        let limit = self.bytes_max / 16 * quarters;
        self.sheet_bytes
            .fetch_update(Relaxed, Relaxed, |taken| Some(taken + bytes).filter(|taken| *taken <= limit))
            .is_ok()
    }

    /// Gives a sheet's memory back.
    pub fn release_sheet(&self, bytes: u64) {
        self.sheet_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Another segment for a writer whose own, if it had one, is full. `None` where all others are being filled.
    pub fn next(&self, filled: Option<Arc<Segment>>) -> Option<Arc<Segment>> {
        // Nothing is left half way by a panic here: counts and queue change last.
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.full.extend(filled);
        let sheets = self.sheet_bytes.load(Relaxed);
        let allowed = usize::try_from((self.bytes_max - sheets) / SEGMENT_BYTES).unwrap_or(0).min(self.slots.len());
        // The sheets have grown: their memory comes out of the segments.
        while turns.allocated > allowed {
            let Some(oldest) = turns.full.pop_front() else { break };
            self.evict(&oldest);
            self.slots[oldest.slot].store(None);
            turns.allocated -= 1;
        }
        if turns.allocated < allowed
            && let Some(slot) = self.slots.iter().position(|slot| slot.load().is_none())
        {
            let segment = Arc::new(Segment::new(slot));
            self.slots[slot].store(Some(Arc::clone(&segment)));
            turns.allocated += 1;
            return Some(segment);
        }
        let oldest = turns.full.pop_front()?;
        self.evict(&oldest);
        Some(oldest)
    }

    fn evict(&self, segment: &Segment) {
        let (samples, last_ns) = segment.recycle();
        self.evicted.fetch_add(samples, Relaxed);
        self.evicted_until_ns.fetch_max(last_ns, Relaxed);
    }

    /// A segment that its writer leaves for good: it goes when its turn comes.
    pub fn leave(&self, segment: Arc<Segment>) {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).full.push_back(segment);
    }

    /// Every segment there is now.
    pub fn segments(&self) -> impl Iterator<Item = Arc<Segment>> + '_ {
        self.slots.iter().filter_map(ArcSwapOption::load_full)
    }

    /// Memory in use, and the most that may be, bytes.
    pub fn bytes(&self) -> (u64, u64) {
        (self.segments().count() as u64 * SEGMENT_BYTES + self.sheet_bytes.load(Relaxed), self.bytes_max)
    }

    /// Readings that were let go so that newer ones had room, and the newest instant among them.
    pub fn evicted(&self) -> (u64, u64) {
        (self.evicted.load(Relaxed), self.evicted_until_ns.load(Relaxed))
    }
}
