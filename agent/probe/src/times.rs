//! Durations of one report: how many, the least, the greatest, the sum, and quantiles of as many as are kept. Pure.
//!
//! Never: more than [`KEPT_MAX`] kept; those beyond are in count, sum, least and greatest, not in the quantiles.

/// Durations kept for quantiles, of one flow and report.
const KEPT_MAX: usize = 512;
/// A least is forgotten after one to two of these: clocks of two hosts drift apart, tens of microseconds in a minute.
const LEAST_NS: u64 = 60_000_000_000;

/// Of a distribution, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimesResult {
    /// How many; the others are 0 where it is.
    pub count: u32,
    /// Least.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Greatest.
    pub max_ns: u64,
    /// All together.
    pub sum_ns: u64,
}

/// What is noted between two reports.
#[derive(Debug, Default)]
pub(crate) struct Times {
    result: TimesResult,
    kept: Vec<u64>,
}

impl Times {
    /// One more.
    pub(crate) fn note(&mut self, ns: u64) {
        let TimesResult { count, min_ns, max_ns, sum_ns, .. } = &mut self.result;
        *min_ns = if *count == 0 { ns } else { ns.min(*min_ns) };
        *max_ns = ns.max(*max_ns);
        *sum_ns = sum_ns.saturating_add(ns);
        *count += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(ns);
        }
    }

    /// None so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.result.count == 0
    }

    /// All of them, and begins anew.
    pub(crate) fn take(&mut self) -> TimesResult {
        self.kept.sort_unstable();
        // Nearest rank.
        let at = |percent: usize| self.kept.get((self.kept.len() * percent).div_ceil(100).saturating_sub(1));
        let [p50_ns, p99_ns] = [50, 99].map(|percent| at(percent).copied().unwrap_or(0));
        let result = TimesResult { p50_ns, p99_ns, ..self.result };
        self.kept.clear();
        self.result = TimesResult::default();
        result
    }
}

/// The least difference of two clocks lately, as a way's time has it beside their offset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Least {
    now: Option<(i64, u64)>,
    before: Option<i64>,
}

impl Least {
    /// By how much `difference_ns` is above the least, itself among them.
    pub(crate) fn above(&mut self, difference_ns: i64, mono_ns: u64) -> u64 {
        self.now = match self.now {
            Some((least, since)) if mono_ns.saturating_sub(since) < LEAST_NS => Some((least.min(difference_ns), since)),
            old => {
                self.before = old.map(|(least, _)| least);
                Some((difference_ns, mono_ns))
            }
        };
        let least = self.before.unwrap_or(i64::MAX).min(self.now.map_or(i64::MAX, |(least, _)| least));
        difference_ns.abs_diff(least.min(difference_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_nearest_rank_and_sums_of_all() {
        let mut times = Times::default();
        (1..=1000).rev().for_each(|ns| times.note(ns));
        let TimesResult { count, min_ns, p50_ns, p99_ns, max_ns, sum_ns } = times.take();
        assert_eq!((count, min_ns, max_ns, sum_ns), (1000, 1, 1000, 500_500));
        // Of the first 512: 489 to 1000.
        assert_eq!((p50_ns, p99_ns), (744, 995));
        assert_eq!(times.take(), TimesResult::default());
        times.note(5);
        let one = times.take();
        assert_eq!((one.p50_ns, one.p99_ns), (5, 5));
    }

    #[test]
    fn a_way_is_compared_with_its_shortest_of_the_last_minutes() {
        let mut least = Least::default();
        let minute = |n: u64| n * LEAST_NS;
        for (difference, at, above) in [
            (-1000, minute(1), 0),
            (-400, minute(1) + 1, 600),
            (-1500, minute(1) + 2, 0),
            (-1000, minute(2), 500),
            (-1000, minute(2) + 3, 500),
            (-1000, minute(4), 0),
        ] {
            assert_eq!(least.above(difference, at), above, "{difference} at {at}");
        }
    }
}
