//! Two clocks: the collector's own timeline, and the estimate of each host's clock against it.
//!
//! [`Timeline`]: Unix nanoseconds that never step: CLOCK_REALTIME once at the start, CLOCK_MONOTONIC from then on.
//! [`Estimator`]: four stamps per exchange in (RFC 5905, section 8), the offset of the host's CLOCK_MONOTONIC and its
//! uncertainty out. A step of the host's CLOCK_REALTIME moves nothing here but [`Estimator::steps`]. No IO.

use railwatch_engine::Timestamp;
use std::{
    collections::VecDeque,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

static START: LazyLock<(Instant, u64)> = LazyLock::new(|| {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    (Instant::now(), nanoseconds(unix))
});

/// The collector's timeline, the same for the whole process.
#[derive(Clone, Copy, Debug)]
pub struct Timeline;

impl Timeline {
    /// Now.
    pub fn now() -> Timestamp {
        let (instant, unix_ns) = *START;
        Timestamp(unix_ns + nanoseconds(instant.elapsed()))
    }

    /// CLOCK_REALTIME less the timeline, nanoseconds: steps of this machine's own clock since the collector started.
    pub fn realtime_ahead_ns() -> i64 {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        difference(nanoseconds(unix), Self::now().0)
    }
}

/// A length of time as nanoseconds; the longest that fits where it does not.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn difference(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}

/// How far two undisciplined clocks may drift apart: 15 parts per million each (PHI of RFC 5905, section 11.1).
const DRIFT_PER_MILLION: u64 = 30;
/// Exchanges remembered: the best of them is used.
const EXCHANGES_MAX: usize = 32;
/// A change of CLOCK_REALTIME against CLOCK_MONOTONIC smaller than this is the noise of reading both.
const STEP_MIN_NS: u64 = 2_000_000;

/// The stamps of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// When the probe left, collector's timeline.
    pub sent: Timestamp,
    /// When the host received it, its CLOCK_MONOTONIC.
    pub received_mono_ns: u64,
    /// When the host answered, its CLOCK_MONOTONIC.
    pub answered_mono_ns: u64,
    /// The host's CLOCK_REALTIME beside `received_mono_ns`.
    pub received_unix_ns: u64,
    /// The host's CLOCK_REALTIME beside `answered_mono_ns`.
    pub answered_unix_ns: u64,
    /// When the answer arrived, collector's timeline.
    pub arrived: Timestamp,
}

/// Why an exchange was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "clock stamps contradict each other: the host answered before it received, or held the probe longer than the exchange took"
)]
pub struct Contradiction;

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Collector's timeline less the host's CLOCK_MONOTONIC.
    offset_ns: i64,
    round_trip_ns: u64,
    at: Timestamp,
}

/// What is known of a host's clock at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Add to the host's CLOCK_MONOTONIC to get the collector's timeline.
    pub offset_ns: i64,
    /// The true offset lies within ± this.
    pub uncertainty_ns: u64,
}

impl Estimate {
    /// An instant of the host's CLOCK_MONOTONIC on the collector's timeline.
    pub fn map(&self, mono_ns: u64) -> Timestamp {
        Timestamp(mono_ns.saturating_add_signed(self.offset_ns))
    }

    /// An instant of the collector's timeline on the host's CLOCK_MONOTONIC; what lies before its boot is 0.
    pub fn unmap(&self, at: Timestamp) -> u64 {
        at.0.saturating_add_signed(self.offset_ns.saturating_neg())
    }
}

/// The clock of one boot of one host.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    exchanges: VecDeque<Measured>,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC of the host.
    realtime_less_mono_ns: Option<i64>,
    /// Steps of the host's CLOCK_REALTIME.
    steps: u64,
}

impl Estimator {
    /// Takes an exchange. The step of the host's CLOCK_REALTIME since the one before, if it made one, is returned.
    pub fn observe(&mut self, exchange: Exchange) -> Result<Option<i64>, Contradiction> {
        let held = exchange.answered_mono_ns.checked_sub(exchange.received_mono_ns).ok_or(Contradiction)?;
        let took = exchange.arrived.0.checked_sub(exchange.sent.0).ok_or(Contradiction)?;
        let round_trip_ns = took.checked_sub(held).ok_or(Contradiction)?;
        let there = i128::from(exchange.sent.0) - i128::from(exchange.received_mono_ns);
        let back = i128::from(exchange.arrived.0) - i128::from(exchange.answered_mono_ns);
        let offset_ns = i64::try_from((there + back) / 2).map_err(|_| Contradiction)?;
        if self.exchanges.len() == EXCHANGES_MAX {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(Measured { offset_ns, round_trip_ns, at: exchange.arrived });
        Ok(self.observe_realtime(&exchange))
    }

    fn observe_realtime(&mut self, exchange: &Exchange) -> Option<i64> {
        // The host reads its two clocks one after the other; of the two pairs, the one nearer to what was known is
        // the one not interrupted between the readings.
        let pairs = [
            difference(exchange.received_unix_ns, exchange.received_mono_ns),
            difference(exchange.answered_unix_ns, exchange.answered_mono_ns),
        ];
        let Some(known) = self.realtime_less_mono_ns else {
            self.realtime_less_mono_ns = Some(pairs[1]);
            return None;
        };
        let nearest = if pairs[0].abs_diff(known) < pairs[1].abs_diff(known) { pairs[0] } else { pairs[1] };
        self.realtime_less_mono_ns = Some(nearest);
        (nearest.abs_diff(known) >= STEP_MIN_NS).then(|| {
            self.steps += 1;
            nearest.wrapping_sub(known)
        })
    }

    /// What is known at `now`: the exchange that bounds the offset most tightly, its age counted as drift. `None` before the first.
    pub fn estimate(&self, now: Timestamp) -> Option<Estimate> {
        self.exchanges
            .iter()
            .map(|measured| {
                let age = now.0.saturating_sub(measured.at.0);
                Estimate {
                    offset_ns: measured.offset_ns,
                    uncertainty_ns: measured.round_trip_ns / 2 + 1 + age / 1_000_000 * DRIFT_PER_MILLION,
                }
            })
            .min_by_key(|estimate| estimate.uncertainty_ns)
    }

    /// The host's CLOCK_REALTIME less the collector's timeline at `now`; `None` before the first exchange.
    pub fn realtime_offset_ns(&self, now: Timestamp) -> Option<i64> {
        Some(self.realtime_less_mono_ns?.wrapping_sub(self.estimate(now)?.offset_ns))
    }

    /// Steps of the host's CLOCK_REALTIME so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Contradiction, Estimator, Exchange, Timeline};
    use railwatch_engine::Timestamp;

    const SECOND: u64 = 1_000_000_000;
    const BASE: u64 = 1_700_000_000 * SECOND;

    /// An exchange with a host whose monotonic clock shows `timeline - BASE`, with these delays.
    fn exchange(at: u64, there_ns: u64, back_ns: u64, realtime_ahead_ns: i64) -> Exchange {
        let received_mono_ns = at + there_ns - BASE;
        let answered_mono_ns = received_mono_ns + 50_000;
        let unix = |mono: u64| (mono + BASE).saturating_add_signed(realtime_ahead_ns);
        Exchange {
            sent: Timestamp(at),
            received_mono_ns,
            answered_mono_ns,
            received_unix_ns: unix(received_mono_ns),
            answered_unix_ns: unix(answered_mono_ns),
            arrived: Timestamp(at + there_ns + 50_000 + back_ns),
        }
    }

    #[test]
    fn the_true_offset_lies_within_the_uncertainty_whatever_the_path_does() {
        for (there, back) in [(100_000, 100_000), (1, 5_000_000), (5_000_000, 1), (0, 0), (2 * SECOND, 7)] {
            let mut clock = Estimator::default();
            let taken = exchange(BASE + 5 * SECOND, there, back, 0);
            clock.observe(taken).unwrap();
            let estimate = clock.estimate(taken.arrived).unwrap();
            assert!(
                estimate.offset_ns.abs_diff(BASE.cast_signed()) <= estimate.uncertainty_ns,
                "{there} {back}: {estimate:?}"
            );
        }
    }

    #[test]
    fn the_quickest_exchange_wins_over_later_slow_ones() {
        let mut clock = Estimator::default();
        clock.observe(exchange(BASE + SECOND, 20_000, 20_000, 0)).unwrap();
        for n in 2..20 {
            clock.observe(exchange(BASE + n * SECOND, 9_000_000, 10, 0)).unwrap();
        }
        let estimate = clock.estimate(Timestamp(BASE + 20 * SECOND)).unwrap();
        assert_eq!(estimate.offset_ns, BASE.cast_signed());
        assert!(estimate.uncertainty_ns < SECOND / 1000, "{estimate:?}");
    }

    #[test]
    fn uncertainty_grows_with_age_and_a_fresh_exchange_takes_over() {
        let mut clock = Estimator::default();
        clock.observe(exchange(BASE + SECOND, 20_000, 20_000, 0)).unwrap();
        let soon = clock.estimate(Timestamp(BASE + 2 * SECOND)).unwrap();
        let late = clock.estimate(Timestamp(BASE + 3600 * SECOND)).unwrap();
        assert!(late.uncertainty_ns > soon.uncertainty_ns + 100_000_000, "{soon:?} {late:?}");
        clock.observe(exchange(BASE + 3600 * SECOND, 30_000, 30_000, 0)).unwrap();
        assert!(clock.estimate(Timestamp(BASE + 3601 * SECOND)).unwrap().uncertainty_ns < 100_000);
    }

    #[test]
    fn a_step_of_the_hosts_clock_is_reported_once_and_moves_no_mapping() {
        let mut clock = Estimator::default();
        assert_eq!(clock.observe(exchange(BASE + SECOND, 10_000, 10_000, 0)), Ok(None));
        let before = clock.estimate(Timestamp(BASE + 2 * SECOND)).unwrap().map(SECOND);
        let step = 3_600 * SECOND.cast_signed();
        assert_eq!(clock.observe(exchange(BASE + 2 * SECOND, 10_000, 10_000, step)), Ok(Some(step)));
        assert_eq!(clock.observe(exchange(BASE + 3 * SECOND, 10_000, 10_000, step)), Ok(None));
        assert_eq!(clock.steps(), 1);
        assert_eq!(clock.estimate(Timestamp(BASE + 3 * SECOND)).unwrap().map(SECOND), before);
        assert_eq!(clock.realtime_offset_ns(Timestamp(BASE + 3 * SECOND)), Some(step));
    }

    #[test]
    fn stamps_that_contradict_each_other_are_refused() {
        let good = exchange(BASE + SECOND, 10_000, 10_000, 0);
        for bad in [
            Exchange { answered_mono_ns: good.received_mono_ns - 1, ..good },
            Exchange { answered_mono_ns: good.received_mono_ns + SECOND, ..good },
            Exchange { arrived: Timestamp(good.sent.0 - 1), ..good },
        ] {
            let mut clock = Estimator::default();
            assert_eq!(clock.observe(bad), Err(Contradiction), "{bad:?}");
            assert_eq!(clock.estimate(good.arrived), None);
        }
    }

    #[test]
    fn the_timeline_never_goes_back_and_starts_at_unix_time() {
        let (first, second) = (Timeline::now(), Timeline::now());
        assert!(first <= second && first.0 > BASE);
        assert!(Timeline::realtime_ahead_ns().unsigned_abs() < SECOND);
    }
}
