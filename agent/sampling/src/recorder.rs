//! From readings to 1 s windows and signals.
//!
//! In: batches of raw readings of one source. Out: a [`WindowFrame`] per window and the [`Signal`]s of the rules, at once.
//! Never: a rate from a nominal interval, a negative or impossible rate, a wall-clock time, or an allocation while taking
//! a reading (frames and signals, rarer by orders of magnitude, do allocate). Series are bounded over all sources; a
//! series beyond the bound is refused, counted, and its readings never reach a window.

use crate::batch::{Batch, Reading, Value};
use crate::catalog::Catalog;
use crate::clock::Moment;
use crate::counter::{Step, step};
use crate::frame::{Flags, WindowFrame};
use crate::series::{AtLimit, Counter, Kind, SeriesDef, SeriesId};
use crate::signal::{Edge, Rule, Signal, Watch};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A declared series, as its source names it when pushing readings. Valid until the next probe of that source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesHandle(u32);

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
    by_id: HashMap<SeriesId, u32>,
    free: Vec<u32>,
    probe: u64,
    probed_before: bool,
    rules: &'static [Rule],
    catalog: Arc<Catalog>,
    rejects: Rejects,
}

struct Slot {
    def: Arc<SeriesDef>,
    probe: u64,
    retired: bool,
    appeared: bool,
    last: Option<Last>,
    incomplete_since_ns: Option<u64>,
    watch: Option<Watch>,
    window: Window,
    told: Told,
}

/// What the series' last row said, and of which window.
#[derive(Clone, Copy, Default)]
struct Told {
    was_still: bool,
    last: f64,
    start_ns: u64,
}

/// A series that does not move gets a row only this often.
pub const QUIET: Duration = Duration::from_secs(10);

/// What a series showed last.
#[derive(Clone, Copy)]
enum Last {
    Gauge { value: f64, at_ns: u64 },
    Counter { raw: u64, at_ns: u64, rate_from_ns: u64, unrated: u64 },
}

impl Last {
    fn at_ns(&self) -> u64 {
        match self {
            Self::Gauge { at_ns, .. } | Self::Counter { at_ns, .. } => *at_ns,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Window {
    readings: u32,
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
    first_at_ns: u64,
    last_at_ns: u64,
    half_width_ns: u64,
    delta: u64,
    covered_ns: u64,
    total: u64,
    resets: u32,
    flags: Flags,
}

impl Told {
    /// The window says something its series' last row did not, or that row is old. Notes it where it does.
    fn is_news(&mut self, kind: Kind, window: &Window, start_ns: u64) -> bool {
        #[expect(clippy::float_cmp, reason = "a gauge that repeats a value repeats it exactly")]
        let is_still = window.flags == Flags::default()
            && match kind {
                Kind::Counter(_) => window.delta == 0,
                Kind::Gauge => window.min == window.max && window.last == self.last,
            };
        let is_old = u128::from(start_ns.saturating_sub(self.start_ns)) >= QUIET.as_nanos();
        let is_news = !is_still || !self.was_still || is_old;
        if is_news {
            *self = Self { was_still: is_still, last: window.last, start_ns };
        }
        is_news
    }
}

impl Window {
    fn add(&mut self, value: f64) {
        if self.count == 0 {
            (self.first, self.min, self.max) = (value, value, value);
        }
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.last = value;
    }
}

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
}

impl Recorder {
    /// A recorder for one source, with windows of this length, aligned to multiples of it on CLOCK_MONOTONIC.
    #[must_use]
    pub fn new(source: &'static str, window: Duration, rules: &'static [Rule], catalog: Arc<Catalog>) -> Self {
        Self {
            source,
            window_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1),
            window_start_ns: None,
            begun_late: true,
            rows_last: 0,
            slots: Vec::new(),
            by_id: HashMap::new(),
            free: Vec::new(),
            probe: 0,
            probed_before: false,
            rules,
            catalog,
            rejects: Rejects::default(),
        }
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
            slot.probe = self.probe;
            if slot.retired {
                slot.retired = false;
                slot.appeared = true;
                slot.last = None;
            }
            return Some(SeriesHandle(index));
        }
        let def = self.catalog.admit(def)?;
        let watch = self.rules.iter().find(|rule| rule.series == def.name()).map(|rule| Watch::new(*rule));
        let id = def.id();
        let slot = Slot {
            def,
            probe: self.probe,
            retired: false,
            appeared: self.probed_before,
            last: None,
            incomplete_since_ns: None,
            watch,
            window: Window::default(),
            told: Told::default(),
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = Some(slot);
                index
            }
            None => {
                self.slots.push(Some(slot));
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        self.by_id.insert(id, index);
        Some(SeriesHandle(index))
    }

    fn retire(&mut self, now_ns: u64, out: &mut Output) {
        let probe = self.probe;
        for slot in self.slots.iter_mut().flatten().filter(|slot| slot.probe != probe && !slot.retired) {
            slot.retired = true;
            let Slot { def, last, watch, incomplete_since_ns, .. } = slot;
            if let (Some(watch), Some(Last::Gauge { value, at_ns })) = (watch, *last) {
                // It was seen at `at_ns` for the last time, and found gone now.
                let moment = Moment::between(at_ns.min(now_ns), now_ns);
                let edge = Edge::State { previous: Some(value), value: 0.0 };
                out.signals.extend(watch.observe(def, edge, moment, Some("vanished"), *incomplete_since_ns));
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

    /// Readings that did not reach a window so far.
    #[must_use]
    pub fn rejects(&self) -> Rejects {
        self.rejects
    }

    fn close(&mut self, start_ns: u64, end_ns: u64, cut_short: bool, out: &mut Output) {
        let partial = cut_short || std::mem::take(&mut self.begun_late);
        let mut frame = WindowFrame::with_capacity(self.source, start_ns, end_ns, self.rows_last);
        for slot in self.slots.iter_mut().flatten().filter(|slot| slot.window.readings > 0) {
            slot.window.flags.set(if partial { Flags::PARTIAL } else { Flags::default() });
            let window = std::mem::take(&mut slot.window);
            if slot.told.is_news(slot.def.kind(), &window, start_ns) {
                push_row(&mut frame, slot.def.id(), window);
            }
        }
        self.rows_last = frame.len();
        self.window_start_ns = None;
        if !frame.is_empty() {
            out.frames.push(frame);
        }
        self.free_retired();
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
        let Some(slot) = self.slots.get_mut(reading.series.0 as usize).and_then(Option::as_mut).filter(|s| !s.retired)
        else {
            self.rejects.unknown_series += 1;
            return;
        };
        if slot.last.is_some_and(|last| reading.moment.at_ns <= last.at_ns()) {
            self.rejects.out_of_order += 1;
            return;
        }
        let edge = match (slot.def.kind(), reading.value) {
            (Kind::Gauge, Value::Gauge(value)) if value.is_finite() => slot.gauge(value, reading.moment),
            (Kind::Counter(counter), Value::Counter(raw)) => slot.counter(&counter, raw, reading.moment),
            _ => {
                self.rejects.wrong_kind += 1;
                return;
            }
        };
        let Slot { def, watch, incomplete_since_ns, .. } = slot;
        if let Some(watch) = watch {
            out.signals.extend(watch.observe(def, edge, reading.moment, reading.cause, *incomplete_since_ns));
        }
    }
}

impl Slot {
    fn note(&mut self, moment: Moment) {
        let window = &mut self.window;
        if window.readings == 0 {
            window.first_at_ns = moment.at_ns;
        }
        window.readings += 1;
        window.last_at_ns = moment.at_ns;
        window.half_width_ns = window.half_width_ns.max(moment.half_width_ns);
    }

    fn gauge(&mut self, value: f64, moment: Moment) -> Edge {
        self.note(moment);
        self.window.add(value);
        let previous = match self.last.replace(Last::Gauge { value, at_ns: moment.at_ns }) {
            Some(Last::Gauge { value, .. }) => Some(value),
            _ => {
                self.window.flags.set(Flags::BASELINE);
                // A port that was not there before was not up before.
                self.appeared.then_some(0.0)
            }
        };
        Edge::State { previous, value }
    }

    fn counter(&mut self, counter: &Counter, raw: u64, moment: Moment) -> Edge {
        self.note(moment);
        let at_ns = moment.at_ns;
        let scale = u64::from(counter.scale);
        let total = raw.saturating_mul(scale);
        self.window.total = total;
        let saturates = counter.at_limit == AtLimit::Saturates;
        let at_limit = saturates && raw == counter.max_raw();
        let Some(Last::Counter { raw: before, at_ns: before_ns, rate_from_ns, unrated }) = self.last else {
            self.last = Some(Last::Counter { raw, at_ns, rate_from_ns: at_ns, unrated: 0 });
            self.window.flags.set(Flags::BASELINE);
            if at_limit {
                self.window.flags.set(Flags::SATURATED);
                self.incomplete_since_ns = Some(at_ns);
            }
            return Edge::Count { delta: 0, total, at_limit };
        };
        let outcome = step(counter, before, raw, at_ns - before_ns);
        let (moved, flags) = match outcome {
            Step::Advanced(delta) => (Some(delta), Flags::default()),
            Step::Wrapped(delta) => (Some(delta), Flags::WRAPPED),
            Step::ReachedLimit(delta) => (Some(delta), Flags::SATURATED),
            Step::AtLimit => (None, Flags::SATURATED),
            Step::Restarted => (None, Flags::RESTARTED),
            Step::Gap => (None, Flags::GAP),
        };
        self.window.flags.set(flags);
        match outcome {
            Step::Advanced(_) | Step::Wrapped(_) => {}
            Step::ReachedLimit(_) | Step::AtLimit => {
                self.incomplete_since_ns.get_or_insert(before_ns);
            }
            Step::Restarted => {
                self.window.resets += 1;
                // A reset is a fresh, complete start; what was lost lies before it.
                self.incomplete_since_ns = None;
                if let Some(watch) = &mut self.watch {
                    watch.restarted();
                }
            }
            Step::Gap => self.incomplete_since_ns = Some(before_ns),
        }
        let Some(delta) = moved.map(|delta| delta.saturating_mul(scale)) else {
            self.last = Some(Last::Counter { raw, at_ns, rate_from_ns: at_ns, unrated: 0 });
            return Edge::Count { delta: 0, total, at_limit };
        };
        self.window.delta = self.window.delta.saturating_add(delta);
        self.window.covered_ns += at_ns - before_ns;
        let unrated = unrated.saturating_add(delta);
        let span_ns = at_ns - rate_from_ns;
        if span_ns >= counter.refresh_ns {
            #[expect(clippy::cast_precision_loss, reason = "a rate; the exact count is in delta")]
            self.window.add(unrated as f64 * 1e9 / span_ns as f64);
            self.last = Some(Last::Counter { raw, at_ns, rate_from_ns: at_ns, unrated: 0 });
        } else {
            self.last = Some(Last::Counter { raw, at_ns, rate_from_ns, unrated });
        }
        Edge::Count { delta, total, at_limit }
    }
}

fn push_row(frame: &mut WindowFrame, id: SeriesId, window: Window) {
    let Window {
        readings: _,
        count,
        sum,
        min,
        max,
        first,
        last,
        first_at_ns,
        last_at_ns,
        half_width_ns,
        delta,
        covered_ns,
        total,
        resets,
        flags,
    } = window;
    frame.series.push(id);
    frame.count.push(count);
    frame.sum.push(sum);
    frame.min.push(min);
    frame.max.push(max);
    frame.first.push(first);
    frame.last.push(last);
    frame.first_at_ns.push(first_at_ns);
    frame.last_at_ns.push(last_at_ns);
    frame.half_width_ns.push(half_width_ns);
    frame.delta.push(delta);
    frame.covered_ns.push(covered_ns);
    frame.total.push(total);
    frame.resets.push(resets);
    frame.flags.push(flags);
}
