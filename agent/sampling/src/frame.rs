//! One window of many series, by columns: what leaves the recorder once a second.

use crate::series::SeriesId;

/// What happened to a series within one window, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Its first reading: nothing to compare with.
    pub const BASELINE: Self = Self(1);
    /// A counter passed its width.
    pub const WRAPPED: Self = Self(1 << 1);
    /// A counter started again or jumped further than possible: the movement between is not in `delta`.
    pub const RESTARTED: Self = Self(1 << 2);
    /// A counter sits at its maximum: `delta` is a lower bound.
    pub const SATURATED: Self = Self(1 << 3);
    /// Readings so far apart that wraps may be missing from `delta`.
    pub const GAP: Self = Self(1 << 4);
    /// The window was cut short (stop) or begun late (start).
    pub const PARTIAL: Self = Self(1 << 5);

    /// Adds the bits of another.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// All bits of `other` are here.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One window of many series. The i-th entry of every column belongs to `series[i]`.
///
/// For a counter, `sum`, `min`, `max`, `first` and `last` are rates in its unit per second, each computed from the
/// times of two readings; `delta` is the exact movement in its unit, and `covered_ns` the time that movement took, so
/// that `delta / covered_ns` is the mean rate. For a gauge they are its values, and `delta` and `covered_ns` are 0.
///
/// Most counters of errors never move. A series that did not move in this window nor in that of its last row is left out,
/// for [`QUIET`](crate::QUIET) at most: absent means "as before, and still".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowFrame {
    /// Source the series belong to.
    pub source: &'static str,
    /// First instant of the window, CLOCK_MONOTONIC nanoseconds.
    pub start_mono_ns: u64,
    /// First instant after it.
    pub end_mono_ns: u64,
    /// Which series.
    pub series: Vec<SeriesId>,
    /// How many values went into `sum`, `min` and `max`; 0 where a counter had nothing to compare with.
    pub count: Vec<u32>,
    /// Their sum.
    pub sum: Vec<f64>,
    /// The smallest.
    pub min: Vec<f64>,
    /// The largest.
    pub max: Vec<f64>,
    /// The first.
    pub first: Vec<f64>,
    /// The last.
    pub last: Vec<f64>,
    /// When the first reading of the window was taken, CLOCK_MONOTONIC nanoseconds.
    pub first_at_ns: Vec<u64>,
    /// When the last reading of the window was taken.
    pub last_at_ns: Vec<u64>,
    /// The largest uncertainty of any of those times, nanoseconds.
    pub half_width_ns: Vec<u64>,
    /// Exact movement of a counter within the window, in its unit.
    pub delta: Vec<u64>,
    /// The time that `delta` took, nanoseconds.
    pub covered_ns: Vec<u64>,
    /// A counter's value at the last reading, in its unit, as the kernel shows it; 0 for a gauge.
    pub total: Vec<u64>,
    /// How often a counter started again.
    pub resets: Vec<u32>,
    /// What else happened.
    pub flags: Vec<Flags>,
}

impl WindowFrame {
    /// Number of series in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Holds no series.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// An empty frame with room for `rows` series.
    #[must_use]
    pub(crate) fn with_capacity(source: &'static str, start_mono_ns: u64, end_mono_ns: u64, rows: usize) -> Self {
        Self {
            source,
            start_mono_ns,
            end_mono_ns,
            series: Vec::with_capacity(rows),
            count: Vec::with_capacity(rows),
            sum: Vec::with_capacity(rows),
            min: Vec::with_capacity(rows),
            max: Vec::with_capacity(rows),
            first: Vec::with_capacity(rows),
            last: Vec::with_capacity(rows),
            first_at_ns: Vec::with_capacity(rows),
            last_at_ns: Vec::with_capacity(rows),
            half_width_ns: Vec::with_capacity(rows),
            delta: Vec::with_capacity(rows),
            covered_ns: Vec::with_capacity(rows),
            total: Vec::with_capacity(rows),
            resets: Vec::with_capacity(rows),
            flags: Vec::with_capacity(rows),
        }
    }
}
