//! The two kernel clocks, read so that the uncertainty is known.
//!
//! In: nothing but `clock_gettime`. Out: CLOCK_MONOTONIC nanoseconds, a [`Moment`] for a reading bracketed by two
//! such reads, and a [`ClockPair`] that carries kernel packet timestamps (CLOCK_REALTIME) over to the monotonic
//! timeline. Never: a wall-clock time used as a measure of elapsed time.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC since an unspecified point (boot). Never goes back, never steps.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds of CLOCK_REALTIME since 1970. May step at any time.
#[must_use]
pub fn realtime_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// A length of time as nanoseconds; the longest that fits where it does not.
#[must_use]
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of the calling thread, nanoseconds.
#[must_use]
pub(crate) fn thread_cpu_ns() -> u64 {
    read_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read_ns(id: ClockId) -> u64 {
    // clock_gettime fails only for an unknown clock or a bad pointer; both clocks exist on every Linux.
    clock_gettime(id).map_or(0, |t| t.tv_sec().cast_unsigned() * 1_000_000_000 + t.tv_nsec().cast_unsigned())
}

/// When a reading was taken, and how sure of that we are: the true instant lies in `at_ns ± half_width_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Middle of the bracket, CLOCK_MONOTONIC nanoseconds.
    pub at_ns: u64,
    /// Half the width of the bracket, nanoseconds.
    pub half_width_ns: u64,
}

impl Moment {
    /// The moment of something that happened between the two monotonic readings.
    #[must_use]
    pub fn between(before_ns: u64, after_ns: u64) -> Self {
        let width_ns = after_ns.saturating_sub(before_ns);
        Self { at_ns: before_ns + width_ns / 2, half_width_ns: width_ns.div_ceil(2) }
    }
}

/// One simultaneous reading of CLOCK_REALTIME and CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPair {
    realtime_ns: u64,
    monotonic: Moment,
}

impl ClockPair {
    /// How far the difference of the two clocks may move over one batch before it counts as a step. Slewing moves
    /// both clocks alike, so that only a step (or a leap second) moves their difference.
    pub const STEP: Duration = Duration::from_millis(1);

    /// Reads both clocks, monotonic around realtime, up to five times, and keeps the tightest bracket.
    #[must_use]
    pub fn read() -> Self {
        let mut best = Self::read_once();
        for _ in 0..4 {
            let next = Self::read_once();
            if next.monotonic.half_width_ns < best.monotonic.half_width_ns {
                best = next;
            }
        }
        best
    }

    fn read_once() -> Self {
        let before_ns = monotonic_ns();
        let realtime_ns = realtime_ns();
        Self::from_readings(before_ns, realtime_ns, monotonic_ns())
    }

    /// A pair from three readings taken in this order.
    #[must_use]
    pub fn from_readings(monotonic_before_ns: u64, realtime_ns: u64, monotonic_after_ns: u64) -> Self {
        Self { realtime_ns, monotonic: Moment::between(monotonic_before_ns, monotonic_after_ns) }
    }

    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, nanoseconds.
    fn difference_ns(&self) -> i128 {
        i128::from(self.realtime_ns) - i128::from(self.monotonic.at_ns)
    }

    /// Carries a realtime timestamp over to the monotonic timeline, given the pair read before the batch that
    /// holds it (`self`) and the pair read after it (`after`).
    ///
    /// `None` where CLOCK_REALTIME was stepped between the two: no timestamp of that batch can be trusted, because
    /// nothing tells those taken before the step from those taken after. Also `None` for a timestamp that would
    /// lie before boot.
    #[must_use]
    pub fn to_monotonic(&self, after: &Self, timestamp_realtime_ns: u64) -> Option<Moment> {
        let moved_ns = after.difference_ns() - self.difference_ns();
        let reading_error_ns = i128::from(self.monotonic.half_width_ns + after.monotonic.half_width_ns);
        if moved_ns.abs() > ClockPair::STEP.as_nanos().cast_signed() + reading_error_ns {
            return None;
        }
        let at_ns = i128::from(timestamp_realtime_ns) - (self.difference_ns() + moved_ns / 2);
        Some(Moment {
            at_ns: u64::try_from(at_ns).ok()?,
            half_width_ns: u64::try_from(moved_ns.abs() / 2 + reading_error_ns).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const EPOCH: u64 = 1_700_000_000 * SECOND;

    #[test]
    fn a_bracket_holds_the_instant_in_its_middle() {
        for (before, after, at, half) in [(10, 20, 15, 5), (10, 11, 10, 1), (7, 7, 7, 0), (9, 3, 9, 0)] {
            assert_eq!(Moment::between(before, after), Moment { at_ns: at, half_width_ns: half });
        }
    }

    #[test]
    fn a_realtime_timestamp_lands_where_it_was_taken_on_the_monotonic_line() {
        let before = ClockPair::from_readings(100 * SECOND, EPOCH, 100 * SECOND);
        let after = ClockPair::from_readings(101 * SECOND, EPOCH + SECOND, 101 * SECOND);
        let moment = before.to_monotonic(&after, EPOCH + SECOND / 2).expect("no step");
        assert_eq!(moment.at_ns, 100 * SECOND + SECOND / 2);
        assert_eq!(moment.half_width_ns, 0);
    }

    #[test]
    fn a_batch_across_a_step_of_the_wall_clock_is_discarded() {
        let before = ClockPair::from_readings(100 * SECOND, EPOCH, 100 * SECOND + 200);
        for stepped in [EPOCH + SECOND + 5_000_000, EPOCH - 3600 * SECOND, EPOCH + 86_400 * SECOND] {
            let after = ClockPair::from_readings(101 * SECOND, stepped, 101 * SECOND + 200);
            assert_eq!(before.to_monotonic(&after, EPOCH), None);
        }
    }

    #[test]
    fn a_wide_bracket_widens_the_uncertainty_instead_of_looking_like_a_step() {
        let before = ClockPair::from_readings(100 * SECOND, EPOCH, 100 * SECOND + 40_000_000);
        let after = ClockPair::from_readings(101 * SECOND, EPOCH + SECOND, 101 * SECOND);
        let moment = before.to_monotonic(&after, EPOCH + 1).expect("explained by the wide bracket");
        assert!(moment.half_width_ns >= 20_000_000, "{moment:?}");
    }

    #[test]
    fn the_hosts_own_clocks_pair_to_now() {
        let before = ClockPair::read();
        let (now, wall) = (monotonic_ns(), realtime_ns());
        let moment = before.to_monotonic(&ClockPair::read(), wall).expect("nobody steps the clock during this test");
        assert!(moment.at_ns.abs_diff(now) <= 50_000_000, "{moment:?} against {now}");
    }
}
