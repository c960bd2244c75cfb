//! One series as the recorder holds it: its last reading, its open window, and what it was last said of.
//!
//! In: readings of the series, in order of time. Out: what each showed (for the rules), and the finished window.

use crate::batch::{Reading, Value};
use crate::bounds::Bounds;
use crate::clock::Moment;
use crate::counter::{Step, step};
use crate::frame::{Flags, WindowFrame};
use crate::series::{AtLimit, Counter, Kind, SeriesDef, SeriesId};
use crate::signal::{Rule, Signal};
use crate::still::{Passed, Still, may_be_still};
use crate::watch::{Edge, Watch};
use std::sync::Arc;
use std::time::Duration;

/// A series with its state.
pub(crate) struct Slot {
    pub(crate) def: Arc<SeriesDef>,
    /// The probe that declared it last.
    pub(crate) probe: u64,
    pub(crate) retired: bool,
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

    fn push_row(self, id: SeriesId, frame: &mut WindowFrame) {
        let Self {
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
        } = self;
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
}

/// Why a reading did not reach the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    OutOfOrder,
    WrongKind,
}

impl Slot {
    /// A series that `probe` declared. `appeared`: it was not there when its source was first probed.
    pub(crate) fn new(def: Arc<SeriesDef>, probe: u64, appeared: bool, rules: &[Rule]) -> Self {
        let mut watch = rules.iter().find(|rule| rule.series == def.name()).map(|rule| Watch::new(*rule));
        if let Some(watch) = &mut watch {
            watch.set_bounds(def.bounds());
        }
        Self {
            def,
            probe,
            retired: false,
            appeared,
            last: None,
            incomplete_since_ns: None,
            watch,
            window: Window::default(),
            told: Told::default(),
        }
    }

    /// Declared again, perhaps with other bounds: where it was retired meanwhile, it starts anew.
    pub(crate) fn declare_again(&mut self, probe: u64, bounds: Option<Bounds>, still: &mut Still) {
        self.settle(still);
        self.probe = probe;
        if let Some(watch) = &mut self.watch {
            watch.set_bounds(bounds);
        }
        if std::mem::take(&mut self.retired) {
            self.appeared = true;
            self.last = None;
        }
    }

    /// No longer declared, found so at `now_ns`. A state that was good falls by that: what is gone is not up.
    pub(crate) fn retire(&mut self, now_ns: u64, still: &mut Still) -> Option<Signal> {
        self.settle(still);
        self.retired = true;
        let Self { def, last: Some(Last::Gauge { value, at_ns }), watch: Some(watch), .. } = self else { return None };
        if !watch.falls_with_its_series() {
            return None;
        }
        // It was seen at `at_ns` for the last time.
        let moment = Moment::between((*at_ns).min(now_ns), now_ns);
        let edge = Edge::State { previous: Some(*value), value: 0.0 };
        watch.observe(def, edge, moment, Some("vanished"), self.incomplete_since_ns)
    }

    /// Takes a reading that does not go the short way; returns the signal it raises.
    pub(crate) fn take(&mut self, reading: &Reading, still: &mut Still) -> Result<Option<Signal>, Rejected> {
        self.settle(still);
        let taken = self.take_alone(reading);
        self.open_short_way(still);
        taken
    }

    /// Opens the short way for readings that show the same again, where nothing waits for them.
    fn open_short_way(&self, still: &mut Still) {
        if let (Kind::Counter(counter), Some(Last::Counter { raw, at_ns, rate_from_ns, unrated: 0 })) =
            (self.def.kind(), self.last)
            && self.window.readings > 0
            && may_be_still(&counter, raw)
            && self.watch.as_ref().is_none_or(Watch::is_asleep)
        {
            still.open(&counter, raw, at_ns, rate_from_ns);
        }
    }

    /// Adds what came by the short way, as if it had come by the long one.
    pub(crate) fn settle(&mut self, still: &mut Still) {
        let Some(passed) = still.close() else { return };
        let Passed { readings, rates, at_ns, rate_from_ns, half_width_ns } = passed;
        let Some(Last::Counter { raw, at_ns: before_ns, .. }) = self.last else { return };
        self.last = Some(Last::Counter { raw, at_ns, rate_from_ns, unrated: 0 });
        let window = &mut self.window;
        window.readings += readings;
        window.last_at_ns = at_ns;
        window.half_width_ns = window.half_width_ns.max(half_width_ns);
        window.covered_ns += at_ns - before_ns;
        if rates > 0 {
            window.add(0.0);
            window.count += rates - 1;
        }
        if let Some(watch) = &mut self.watch {
            watch.was_still_until(at_ns);
        }
    }

    fn take_alone(&mut self, reading: &Reading) -> Result<Option<Signal>, Rejected> {
        let moment = reading.moment;
        if self.last.is_some_and(|last| moment.at_ns <= last.at_ns()) {
            return Err(Rejected::OutOfOrder);
        }
        let edge = match (self.def.kind(), reading.value) {
            (Kind::Gauge, Value::Gauge(value)) if value.is_finite() => self.gauge(value, moment),
            (Kind::Counter(counter), Value::Counter(raw)) => self.counter(&counter, raw, moment),
            _ => return Err(Rejected::WrongKind),
        };
        let Self { def, watch, incomplete_since_ns, .. } = self;
        Ok(watch.as_mut().and_then(|watch| watch.observe(def, edge, moment, reading.cause, *incomplete_since_ns)))
    }

    /// Ends its window, which began at `start_ns`; adds a row where it says something.
    pub(crate) fn close(&mut self, start_ns: u64, is_partial: bool, frame: &mut WindowFrame, still: &mut Still) {
        self.settle(still);
        let mut window = std::mem::take(&mut self.window);
        if window.readings == 0 {
            return;
        }
        if is_partial {
            window.flags.set(Flags::PARTIAL);
        }
        if self.told.is_news(self.def.kind(), &window, start_ns) {
            window.push_row(self.def.id(), frame);
        }
    }

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
