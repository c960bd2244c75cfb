//! From readings to 1 s windows and signals.
//!
//! In: batches of raw readings of one source. Out: a [`WindowFrame`] per window and the [`Signal`]s of the rules, at once.
//! Never: a rate from a nominal interval, a negative or impossible rate, a wall-clock time, or an allocation while taking
//! a reading (frames and signals, rarer by orders of magnitude, do allocate). Series are bounded over all sources; a
//! series beyond the bound is refused, counted, and its readings never reach a window.

use crate::batch::{Batch, Reading};
use crate::catalog::Catalog;
use crate::frame::WindowFrame;
use crate::sampler::nanos;
use crate::series::{SeriesDef, SeriesId};
use crate::signal::{Rule, Signal};
use crate::slot::{Rejected, Slot};
use crate::still::Still;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A declared series, as its source names it when pushing readings. Valid until the next probe of that source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesHandle(u32);

impl SeriesHandle {
    /// A small number of its own among the series of its source, to index by.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the recorder hands out.
#[derive(Debug, Default)]
pub struct Output {
    /// Windows that ended.
    pub frames: Vec<WindowFrame>,
    /// Edges seen.
    pub signals: Vec<Signal>,
}

/// Readings that did not reach a window, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejects {
    /// Of a series that was retired or refused.
    pub unknown_series: u64,
    /// A value of the wrong kind, or not a number.
    pub wrong_kind: u64,
    /// Older than the series' last reading.
    pub out_of_order: u64,
}

/// Turns the readings of one source into windows and signals.
pub struct Recorder {
    source: &'static str,
    window_ns: u64,
    window_start_ns: Option<u64>,
    begun_late: bool,
    rows_last: usize,
    slots: Vec<Option<Slot>>,
    /// The short way of each slot, by the same index: together they are a fraction of the slots.
    still: Vec<Still>,
    by_id: HashMap<SeriesId, u32>,
    free: Vec<u32>,
    /// Series that this source may hold.
    series_max: usize,
    /// Declared in this probe beyond that.
    left_out: u64,
    probe: u64,
    probed_before: bool,
    rules: &'static [Rule],
    catalog: Arc<Catalog>,
    rejects: Rejects,
}

/// Memory of one series, bytes: its slot, and what it is called (here and in the catalog).
pub const SERIES_BYTES: usize = size_of::<Option<Slot>>() + size_of::<Still>() + 512;

/// Takes the declarations of one probe.
pub struct Declare<'a> {
    recorder: &'a mut Recorder,
}

impl Declare<'_> {
    /// Declares a series and returns its handle, the same as before where it was declared before. `None` where the
    /// bound on series is reached: counted, and the source leaves that value out.
    pub fn series(&mut self, def: SeriesDef) -> Option<SeriesHandle> {
        self.recorder.declare(def)
    }

    /// Declares what the probe before declared as this handle, unchanged, at a fraction of the cost. `false` where that probe did
    /// not: then the series is to be declared by what it is.
    pub fn again(&mut self, handle: SeriesHandle) -> bool {
        self.recorder.declare_again(handle)
    }
}

impl Recorder {
    /// A recorder for one source, with windows of this length, aligned to multiples of it on CLOCK_MONOTONIC.
    #[must_use]
    pub fn new(source: &'static str, window: Duration, rules: &'static [Rule], catalog: Arc<Catalog>) -> Self {
        Self {
            source,
            window_ns: nanos(window),
            window_start_ns: None,
            begun_late: true,
            rows_last: 0,
            slots: Vec::new(),
            still: Vec::new(),
            by_id: HashMap::new(),
            free: Vec::new(),
            series_max: usize::MAX,
            left_out: 0,
            probe: 0,
            probed_before: false,
            rules,
            catalog,
            rejects: Rejects::default(),
        }
    }

    /// The same, for at most so many series: those beyond are refused and counted.
    #[must_use]
    pub fn with_series_max(self, series_max: usize) -> Self {
        Self { series_max, ..self }
    }

    /// Runs a probe; where it succeeds, retires the series it no longer declares. A retired series whose rule watches
    /// a state raises its signal if that state was good (what is gone is not up), and one that appears after the first
    /// probe clears it.
    ///
    /// # Errors
    /// What `declare` returns; nothing is retired then.
    pub fn probe<E>(
        &mut self,
        now_ns: u64,
        out: &mut Output,
        declare: impl FnOnce(&mut Declare<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.probe += 1;
        self.left_out = 0;
        declare(&mut Declare { recorder: self })?;
        self.probed_before = true;
        self.retire(now_ns, out);
        Ok(())
    }

    /// Retires everything: the source was switched off.
    pub fn retire_all(&mut self, now_ns: u64, out: &mut Output) {
        self.probe += 1;
        self.retire(now_ns, out);
    }

    fn declare(&mut self, def: SeriesDef) -> Option<SeriesHandle> {
        if let Some(index) = self.by_id.get(&def.id()).copied()
            && let Some(slot) = self.slots[index as usize].as_mut()
        {
            if slot.probe == self.probe {
                // Two values of one source under one name: the second would corrupt the first.
                self.catalog.refuse();
                return None;
            }
            slot.declare_again(self.probe, def.bounds(), &mut self.still[index as usize]);
            return Some(SeriesHandle(index));
        }
        if self.by_id.len() >= self.series_max {
            self.left_out += 1;
            self.catalog.refuse();
            return None;
        }
        let def = self.catalog.admit(def)?;
        let id = def.id();
        let slot = Slot::new(def, self.probe, self.probed_before, self.rules);
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(slot);
                self.still[index as usize] = Still::default();
                index
            }
            None => {
                self.slots.push(Some(slot));
                self.still.push(Still::default());
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        self.by_id.insert(id, index);
        Some(SeriesHandle(index))
    }

    fn declare_again(&mut self, handle: SeriesHandle) -> bool {
        let probe = self.probe;
        let slot = self.slots.get_mut(handle.index()).and_then(Option::as_mut);
        match slot.filter(|slot| !slot.retired && slot.probe + 1 == probe) {
            Some(slot) => {
                slot.probe = probe;
                true
            }
            None => false,
        }
    }

    fn retire(&mut self, now_ns: u64, out: &mut Output) {
        let probe = self.probe;
        for (slot, still) in self.slots.iter_mut().zip(&mut self.still) {
            if let Some(slot) = slot.as_mut().filter(|slot| slot.probe != probe && !slot.retired) {
                out.signals.extend(slot.retire(now_ns, still));
            }
        }
        if self.window_start_ns.is_none() {
            self.free_retired();
        }
    }

    /// Takes one batch. Readings of one window must not come after a batch of the next.
    pub fn record(&mut self, batch: &Batch, out: &mut Output) {
        for reading in batch.readings() {
            self.close_due(reading.moment.at_ns, out);
            if self.window_start_ns.is_none() {
                let at_ns = reading.moment.at_ns;
                self.window_start_ns = Some(at_ns - at_ns % self.window_ns);
            }
            self.take(reading, out);
        }
        out.signals.extend_from_slice(batch.signals());
    }

    /// Ends the open window if its time is over at `now_ns`.
    pub fn close_due(&mut self, now_ns: u64, out: &mut Output) {
        if let Some(start_ns) = self.window_start_ns
            && now_ns >= start_ns.saturating_add(self.window_ns)
        {
            self.close(start_ns, start_ns + self.window_ns, false, out);
        }
    }

    /// Ends the open window now, marked partial: the source stops.
    pub fn finish(&mut self, now_ns: u64, out: &mut Output) {
        if let Some(start_ns) = self.window_start_ns {
            self.close(start_ns, now_ns.clamp(start_ns, start_ns + self.window_ns), true, out);
        }
    }

    /// The series that are declared now.
    pub fn living(&self) -> impl Iterator<Item = (SeriesHandle, &SeriesDef)> {
        (0u32..).zip(&self.slots).filter_map(|(index, slot)| {
            slot.as_ref().filter(|slot| !slot.retired).map(|slot| (SeriesHandle(index), &*slot.def))
        })
    }

    /// How many series it holds, and how many its last probe declared beyond its bound.
    #[must_use]
    pub fn held(&self) -> (usize, u64) {
        (self.by_id.len(), self.left_out)
    }

    /// Readings that did not reach a window so far.
    #[must_use]
    pub fn rejects(&self) -> Rejects {
        self.rejects
    }

    fn close(&mut self, start_ns: u64, end_ns: u64, cut_short: bool, out: &mut Output) {
        let is_partial = cut_short || std::mem::take(&mut self.begun_late);
        let mut frame = WindowFrame::with_capacity(self.source, start_ns, end_ns, self.rows_last);
        for (slot, still) in self.slots.iter_mut().zip(&mut self.still) {
            if let Some(slot) = slot {
                slot.close(start_ns, is_partial, &mut frame, still);
            }
        }
        self.rows_last = frame.len();
        self.window_start_ns = None;
        if !frame.is_empty() {
            out.frames.push(frame);
        }
        self.free_retired();
    }

    /// Adds what came by the short way to each window, and closes it until the next reading.
    #[cfg(test)]
    pub(crate) fn settle_all(&mut self) {
        for (slot, still) in self.slots.iter_mut().zip(&mut self.still) {
            if let Some(slot) = slot {
                slot.settle(still);
            }
        }
    }

    fn free_retired(&mut self) {
        let Self { slots, by_id, free, catalog, .. } = self;
        for (index, place) in (0u32..).zip(slots.iter_mut()) {
            if let Some(slot) = place.take_if(|slot| slot.retired) {
                by_id.remove(&slot.def.id());
                free.push(index);
                catalog.release(slot.def.id());
            }
        }
    }

    fn take(&mut self, reading: &Reading, out: &mut Output) {
        let index = reading.series.0 as usize;
        let still = self.still.get_mut(index);
        // Closed with its series: what is retired goes the long way, and is rejected there.
        if let Some(still) = still
            && still.take(reading)
        {
            return;
        }
        let slot = self.slots.get_mut(index).and_then(Option::as_mut).filter(|slot| !slot.retired);
        let (Some(slot), Some(still)) = (slot, self.still.get_mut(index)) else {
            self.rejects.unknown_series += 1;
            return;
        };
        match slot.take(reading, still) {
            Ok(signal) => out.signals.extend(signal),
            Err(Rejected::OutOfOrder) => self.rejects.out_of_order += 1,
            Err(Rejected::WrongKind) => self.rejects.wrong_kind += 1,
        }
    }
}
