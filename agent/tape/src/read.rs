//! Reading the tape while it is written.
//!
//! In: series, two instants, a bound. Out: the readings between the instants, in order of time, from compressed blocks and
//! from the rows that are in none yet; how the tape stands. Never: a wait for a writer or by one, or more readings than
//! the bound.

use crate::column::Values;
use crate::pool::{HEAD_WORDS, Head};
use crate::sheet::{Kept, Sheet};
use crate::{TIME_UNIT_NS, Tape};
use railwatch_sampling::{SeriesId, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Which series.
    pub series: &'a [SeriesId],
    /// No reading before this, CLOCK_MONOTONIC nanoseconds.
    pub from_ns: u64,
    /// Nor after this.
    pub to_ns: u64,
    /// Readings of all series together at most.
    pub samples_max: usize,
}

/// What a series' values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Raw steps of a counter.
    Counter,
    /// A gauge in its unit.
    Gauge,
}

/// One reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When: CLOCK_MONOTONIC nanoseconds, a multiple of [`TIME_UNIT_NS`].
    pub at_ns: u64,
    /// The value was read within this of `at_ns`, nanoseconds.
    pub half_width_ns: u64,
    /// The value, as read.
    pub value: Value,
}

/// What the tape has of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Which series.
    pub series: SeriesId,
    /// What its values are.
    pub kind: Kind,
    /// In order of time.
    pub samples: Vec<Sample>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// A piece for each series that the tape knows, in the order asked; without samples where it has none between the instants.
    pub pieces: Vec<Piece>,
    /// The bound was reached: readings between the instants are missing, the latest ones.
    pub is_cut: bool,
}

/// How the tape stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Memory in use.
    pub bytes: u64,
    /// The most it may use.
    pub bytes_max: u64,
    /// Readings written since the start.
    pub written: u64,
    /// Of these: compressed; the newest are not yet.
    pub compressed: u64,
    /// What the compressed ones took, bytes.
    pub compressed_bytes: u64,
    /// Of those written: let go, so that newer ones have room.
    pub evicted: u64,
    /// Of these: lost because every segment was being filled.
    pub lost: u64,
    /// Readings never written: of a series that was not declared, of the wrong kind, or beyond the memory for sheets.
    pub refused: u64,
    /// Every reading from this instant on is still there, CLOCK_MONOTONIC nanoseconds; absent before the first.
    pub complete_since_ns: Option<u64>,
}

/// Where the columns that are wanted lie: of a sheet, column and piece.
type Wanted = HashMap<u32, (Arc<Sheet>, Vec<(usize, usize)>)>;

/// Gathers samples up to the bound.
struct Gathered<'a> {
    query: &'a Query<'a>,
    pieces: Vec<Piece>,
    count: usize,
    is_cut: bool,
}

impl Gathered<'_> {
    fn add(&mut self, piece: usize, kept: Kept) {
        if !(self.query.from_ns..=self.query.to_ns).contains(&kept.at_ns) {
            return;
        }
        if self.count == self.query.samples_max {
            self.is_cut = true;
            return;
        }
        let piece = &mut self.pieces[piece];
        let value = match piece.kind {
            Kind::Counter => Value::Counter(kept.bits),
            Kind::Gauge => Value::Gauge(f64::from_bits(kept.bits)),
        };
        piece.samples.push(Sample { at_ns: kept.at_ns, half_width_ns: kept.half_width_ns, value });
        self.count += 1;
    }
}

impl Tape {
    /// The readings that are asked for. Series that the tape does not know have no piece.
    #[must_use]
    pub fn read(&self, query: &Query<'_>) -> Answer {
        let (wanted, pieces) = self.find(query.series);
        let mut gathered = Gathered { query, pieces, count: 0, is_cut: false };
        // Open rows first: what becomes a block meanwhile is found there, and known by its generation.
        let mut open: Vec<_> = Vec::new();
        for (sheet, columns) in wanted.values() {
            let mut words = Vec::new();
            if let Some(generation) = sheet.copy_open(&mut words) {
                open.push((sheet, columns, generation, words));
            }
        }
        let mut in_blocks: HashSet<(u32, u64)> = HashSet::new();
        let mut segments: Vec<_> = self.0.pool.segments().collect();
        segments.sort_by_key(|segment| segment.first_ns());
        let mut words = Vec::new();
        for segment in segments {
            if segment.copy(query.from_ns, query.to_ns, &mut words) {
                blocks(&words, &wanted, &mut in_blocks, &mut gathered);
            }
        }
        for (sheet, columns, generation, words) in open {
            if !in_blocks.contains(&(sheet.id, generation)) {
                for (column, piece) in columns {
                    sheet.open_column(&words, *column, |kept| gathered.add(*piece, kept));
                }
            }
        }
        let Gathered { mut pieces, is_cut, .. } = gathered;
        for piece in &mut pieces {
            piece.samples.sort_by_key(|sample| sample.at_ns);
        }
        Answer { pieces, is_cut }
    }

    /// Whether the tape has, or had lately, readings of this series.
    #[must_use]
    pub fn knows(&self, series: SeriesId) -> bool {
        self.0.sheets.load().iter().any(|sheet| sheet.column(series.0).is_some())
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let (bytes, bytes_max) = self.0.pool.bytes();
        let (evicted, evicted_until_ns) = self.0.pool.evicted();
        let counts = &self.0.counts;
        let complete_since_ns = if evicted > 0 { Some(evicted_until_ns + 1) } else { self.oldest_ns() };
        Status {
            bytes,
            bytes_max,
            written: counts.written.load(Relaxed),
            compressed: counts.compressed.load(Relaxed),
            compressed_bytes: counts.compressed_bytes.load(Relaxed),
            evicted,
            lost: counts.lost.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            complete_since_ns,
        }
    }

    fn oldest_ns(&self) -> Option<u64> {
        let sealed = self.0.pool.segments().map(|segment| segment.first_ns()).filter(|first_ns| *first_ns != u64::MAX);
        let sheets = self.0.sheets.load();
        let open = sheets.iter().filter_map(|sheet| sheet.oldest_open()).map(|time| time * TIME_UNIT_NS);
        sealed.chain(open).min()
    }

    fn find(&self, series: &[SeriesId]) -> (Wanted, Vec<Piece>) {
        let sheets = self.0.sheets.load();
        let (mut wanted, mut pieces) = (Wanted::new(), Vec::<Piece>::new());
        for id in series {
            if pieces.iter().any(|piece| piece.series == *id) {
                continue;
            }
            let mut places = sheets.iter().filter_map(|sheet| Some((sheet, sheet.column(id.0)?))).peekable();
            let Some((sheet, column)) = places.peek() else { continue };
            let kind = match sheet.columns[*column].values {
                Values::Whole => Kind::Counter,
                Values::Real => Kind::Gauge,
            };
            let piece = pieces.len();
            pieces.push(Piece { series: *id, kind, samples: Vec::new() });
            for (sheet, column) in places {
                let (_, columns) = wanted.entry(sheet.id).or_insert_with(|| (Arc::clone(sheet), Vec::new()));
                columns.push((column, piece));
            }
        }
        (wanted, pieces)
    }
}

/// The wanted readings of a segment's blocks.
fn blocks(words: &[u64], wanted: &Wanted, seen: &mut HashSet<(u32, u64)>, gathered: &mut Gathered<'_>) {
    let mut rest = words;
    while let Some((head, total)) = Head::parse(rest) {
        let (block, next) = rest.split_at(total);
        rest = next;
        let Some((sheet, columns)) = wanted.get(&head.sheet) else { continue };
        seen.insert((head.sheet, head.generation));
        if head.first_ns > gathered.query.to_ns || head.last_ns < gathered.query.from_ns {
            continue;
        }
        let indices: Vec<_> = columns.iter().map(|(column, _)| *column).collect();
        let is_whole = sheet.read_block(&block[HEAD_WORDS..], head.rows, &indices, |index, kept| {
            for (_, piece) in columns.iter().filter(|(column, _)| *column == index) {
                gathered.add(*piece, kept);
            }
        });
        // A segment that passed its generation check holds what its writer wrote.
        debug_assert!(is_whole, "a block of sheet {} does not decode", head.sheet);
    }
}
