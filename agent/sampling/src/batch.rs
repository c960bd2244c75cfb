//! One read of a source: readings with their moments, and what could not be read.
//!
//! In: values pushed by a source. Out: what the recorder takes. Never: an allocation once it has reached its size,
//! more readings than its bound, or a loss that is not counted.

use crate::clock::Moment;
use crate::recorder::SeriesHandle;
use crate::signal::Signal;
use crate::source::ErrorReason;

/// Signals that one read may bring by itself; further ones are counted as over capacity.
const SIGNALS_MAX: usize = 64;

/// A value as read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of a counter, in raw steps.
    Counter(u64),
    /// Of a gauge, in its unit.
    Gauge(f64),
}

/// One value of one series at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Which series.
    pub series: SeriesHandle,
    /// Its value.
    pub value: Value,
    /// When, and how sure.
    pub moment: Moment,
    /// What the source knows about the cause (`admin_down`), for the signal it may raise.
    pub cause: Option<&'static str>,
}

/// What one read brought.
#[derive(Debug)]
pub struct Batch {
    readings: Vec<Reading>,
    capacity: usize,
    faults: [u32; ErrorReason::ALL.len()],
    over_capacity: u32,
    changed: bool,
    signals: Vec<Signal>,
    in_full: bool,
}

impl Batch {
    /// Room for this many readings of one read.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            readings: Vec::with_capacity(capacity),
            capacity,
            faults: [0; ErrorReason::ALL.len()],
            over_capacity: 0,
            changed: false,
            signals: Vec::new(),
            in_full: true,
        }
    }

    /// Everything is to be read, also what a source reads less often while nothing happens to it: in a burst, and where
    /// somebody set the source's cadence.
    #[must_use]
    pub fn in_full(&self) -> bool {
        self.in_full
    }

    pub(crate) fn set_in_full(&mut self, in_full: bool) {
        self.in_full = in_full;
    }

    /// A counter's raw value.
    pub fn counter(&mut self, series: SeriesHandle, value: u64, moment: Moment) {
        self.push(Reading { series, value: Value::Counter(value), moment, cause: None });
    }

    /// A gauge's value.
    pub fn gauge(&mut self, series: SeriesHandle, value: f64, moment: Moment) {
        self.push(Reading { series, value: Value::Gauge(value), moment, cause: None });
    }

    /// Any reading.
    pub fn push(&mut self, reading: Reading) {
        if self.readings.len() < self.capacity {
            self.readings.push(reading);
        } else {
            self.over_capacity += 1;
        }
    }

    /// An event that the kernel or a library told of by itself and that no rule on a series could word: it leaves with the
    /// edges of this read. Its source holds back what repeats itself.
    pub fn signal(&mut self, signal: Signal) {
        if self.signals.len() < SIGNALS_MAX {
            self.signals.push(signal);
        } else {
            self.over_capacity += 1;
        }
    }

    /// One part of the read failed and the rest went on.
    pub fn fault(&mut self, reason: ErrorReason) {
        self.faults[reason as usize] += 1;
    }

    /// What there is to read has changed: asks for a probe before the next read.
    pub fn ask_for_probe(&mut self) {
        self.changed = true;
    }

    /// The readings, in the order pushed.
    #[must_use]
    pub fn readings(&self) -> &[Reading] {
        &self.readings
    }

    /// The events, in the order told.
    #[must_use]
    pub fn signals(&self) -> &[Signal] {
        &self.signals
    }

    pub(crate) fn faults(&self) -> impl Iterator<Item = (ErrorReason, u32)> + '_ {
        ErrorReason::ALL.iter().map(|reason| (*reason, self.faults[*reason as usize]))
    }

    pub(crate) fn over_capacity(&self) -> u32 {
        self.over_capacity
    }

    pub(crate) fn probe_asked(&self) -> bool {
        self.changed
    }

    /// Empties it for the next read, keeping its memory.
    pub fn clear(&mut self) {
        let Self { readings, capacity: _, faults, over_capacity, changed, signals, in_full: _ } = self;
        readings.clear();
        signals.clear();
        *faults = [0; ErrorReason::ALL.len()];
        *over_capacity = 0;
        *changed = false;
    }
}
