//! The short way of a reading that shows nothing new: most counters of a host stand still most of the time.
//!
//! In: readings of a counter that show the value before. Out: their number and times, added to the series' window when it
//! moves or its window ends. What is told of a series is the same as by the long way, to the last bit; what is saved is
//! everything but one cache line. Never: the first reading of a window or one that a rule waits for.

use crate::batch::{Reading, Value};
use crate::series::{AtLimit, Counter};

/// Between two readings further apart, a narrow counter may have come round: that is for the long way to judge.
const APART_NS_MAX: u64 = 1_000_000_000;

/// What the short way knows of one series.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Still {
    /// The short way is open.
    is_open: bool,
    raw: u64,
    at_ns: u64,
    refresh_ns: u64,
    rate_from_ns: u64,
    half_width_ns: u64,
    readings: u32,
    rates: u32,
}

/// What came by the short way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Readings, all of the value before.
    pub(crate) readings: u32,
    /// Rates among them, all 0.
    pub(crate) rates: u32,
    /// When the last was read.
    pub(crate) at_ns: u64,
    /// From when the next rate is taken.
    pub(crate) rate_from_ns: u64,
    /// The widest of their uncertainties.
    pub(crate) half_width_ns: u64,
}

impl Still {
    /// Opens the short way after a reading of `raw` at `at_ns`.
    pub(crate) fn open(&mut self, counter: &Counter, raw: u64, at_ns: u64, rate_from_ns: u64) {
        let refresh_ns = counter.refresh_ns;
        *self = Self { is_open: true, raw, at_ns, refresh_ns, rate_from_ns, half_width_ns: 0, readings: 0, rates: 0 };
    }

    /// Takes a reading that shows nothing new; `false`, with nothing taken, for any other.
    pub(crate) fn take(&mut self, reading: &Reading) -> bool {
        let at_ns = reading.moment.at_ns;
        let is_still = self.is_open
            && reading.value == Value::Counter(self.raw)
            && at_ns > self.at_ns
            && at_ns - self.at_ns <= APART_NS_MAX;
        if is_still {
            self.at_ns = at_ns;
            self.readings += 1;
            self.half_width_ns = self.half_width_ns.max(reading.moment.half_width_ns);
            if at_ns - self.rate_from_ns >= self.refresh_ns {
                (self.rates, self.rate_from_ns) = (self.rates + 1, at_ns);
            }
        }
        is_still
    }

    /// Closes the short way; what came by it, if anything did.
    pub(crate) fn close(&mut self) -> Option<Passed> {
        let Self { is_open, raw: _, at_ns, refresh_ns: _, rate_from_ns, half_width_ns, readings, rates } = *self;
        self.is_open = false;
        (is_open && readings > 0).then_some(Passed { readings, rates, at_ns, rate_from_ns, half_width_ns })
    }
}

/// A counter that may go the short way where it shows `raw`: nothing hides behind the value, however often it is repeated.
pub(crate) fn may_be_still(counter: &Counter, raw: u64) -> bool {
    let never_comes_round = counter.bits >= 64 || {
        // As counter.rs judges a gap.
        let range = 2f64.powi(i32::from(counter.bits));
        counter.max_per_s * 3.0 < range
    };
    match counter.at_limit {
        AtLimit::Saturates => raw != counter.max_raw(),
        AtLimit::Wraps => never_comes_round,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::signal::{Rule, Severity, When};
    use crate::{Batch, Catalog, Counter, Entity, Kind, Moment, Output, Recorder, SeriesDef};
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::time::Duration;

    const fn rule(series: &'static str, when: When) -> Rule {
        Rule { series, what: "it", severity: Severity::Error, when }
    }

    const RULES: &[Rule] = &[
        rule("moves", When::Moves { raised: "moved", saturated: "full" }),
        rule(
            "rate",
            When::RateAbove { raised: "high", cleared: "low", limit_per_s: 50.0, over: Duration::from_millis(100) },
        ),
        rule("floods", When::Floods { raised: "flood", per_s: 10, burst: 5 }),
    ];

    fn series() -> Vec<(&'static str, Counter)> {
        vec![
            ("moves", Counter::wrapping(32)),
            ("moves_narrow", Counter::saturating(8)),
            ("rate", Counter::wrapping(64)),
            ("rate", Counter::wrapping(64).refreshed_every(Duration::from_millis(300))),
            ("floods", Counter::wrapping(16)),
            ("plain", Counter::wrapping(64).scaled(4)),
        ]
    }

    /// Records readings (milliseconds since the one before, value of each series) by the short way or without it.
    fn recorded(readings: &[(u64, Vec<u64>)], by_short_way: bool) -> Output {
        let mut recorder = Recorder::new("test", Duration::from_secs(1), RULES, Arc::new(Catalog::default()));
        let (mut out, mut handles) = (Output::default(), Vec::new());
        let declared = recorder.probe(0, &mut out, |declare| {
            for (place, (name, counter)) in series().into_iter().enumerate() {
                let entity = Entity { kind: "port", name: format!("p{place}") };
                handles.push(declare.series(SeriesDef::new(name, "1", Kind::Counter(counter), entity, [])).unwrap());
            }
            Ok::<(), Infallible>(())
        });
        assert_eq!(declared, Ok(()));
        let mut at_ns = 5_000_000_000;
        for (place, (ms, values)) in readings.iter().enumerate() {
            at_ns += ms * 1_000_000;
            let mut batch = Batch::with_capacity(100);
            for (handle, value) in handles.iter().zip(values) {
                batch.counter(*handle, *value, Moment { at_ns, half_width_ns: place as u64 % 7 });
            }
            recorder.record(&batch, &mut out);
            if !by_short_way {
                recorder.settle_all();
            }
        }
        recorder.finish(at_ns + 1, &mut out);
        out
    }

    proptest! {
        #[test]
        fn windows_and_signals_are_those_of_the_long_way(
            steps in prop::collection::vec((1u64..1_500, prop::collection::vec((0u8..8, 0u64..120), 6)), 1..150),
        ) {
            let mut values = vec![0u64, 250, 7, 8, 65_500, 3];
            let readings: Vec<(u64, Vec<u64>)> = steps
                .into_iter()
                .map(|(ms, moves)| {
                    for (value, (chance, by)) in values.iter_mut().zip(moves) {
                        *value += if chance == 0 { by } else { 0 };
                    }
                    (values[1], values[4]) = (values[1].min(255), values[4] % 65_536);
                    // Mostly the cadence of a fast source, sometimes a gap.
                    (if ms > 1_400 { ms } else { ms % 20 + 1 }, values.clone())
                })
                .collect();
            let (short, long) = (recorded(&readings, true), recorded(&readings, false));
            prop_assert_eq!(short.frames, long.frames);
            prop_assert_eq!(short.signals, long.signals);
        }
    }
}
