//! A histogram of request times over some stretch, and its quantiles.
//!
//! In: the kernel half's buckets, which only grow and wrap. Out: what came since, and times in nanoseconds. A quantile is
//! the middle of the bucket that it lies in, at most 12 % beside the truth; the largest is the end of its bucket, so that
//! no request took longer. Never: a quantile of nothing.

use railwatch_abi::disk::{BUCKETS, bucket, bucket_from_ns};

/// Requests by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0 }
    }
}

impl Histogram {
    /// What came between two readings of the kernel half.
    #[must_use]
    pub fn between(before: &[u32; BUCKETS], after: &[u32; BUCKETS]) -> Self {
        let mut new = Self::default();
        for ((to, before), after) in new.buckets.iter_mut().zip(before).zip(after) {
            *to = u64::from(after.wrapping_sub(*before));
            new.count += *to;
        }
        new
    }

    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        for (to, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += more;
        }
        self.count += other.count;
    }

    /// Adds a request of this time.
    pub fn note(&mut self, time_ns: u64) {
        self.buckets[bucket(time_ns)] += 1;
        self.count += 1;
    }

    /// Requests in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Time that `per_thousand` of the requests do not exceed, nanoseconds.
    #[must_use]
    pub fn quantile_ns(&self, per_thousand: u64) -> Option<u64> {
        let rank = (self.count * per_thousand.min(1000)).div_ceil(1000).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(u64::midpoint(bucket_from_ns(bucket), bucket_from_ns(bucket + 1)))
    }

    /// A time that no request exceeded, nanoseconds; of requests beyond 17 s, 34 s.
    #[must_use]
    pub fn max_ns(&self) -> Option<u64> {
        let bucket = self.buckets.iter().rposition(|count| *count > 0)?;
        Some(bucket_from_ns(bucket + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times_us: &[(u64, u32)]) -> Histogram {
        let mut buckets = [0; BUCKETS];
        for (time_us, count) in times_us {
            buckets[bucket(time_us * 1000)] += count;
        }
        Histogram::between(&[0; BUCKETS], &buckets)
    }

    #[test]
    fn quantiles_lie_near_the_times_they_are_of() {
        let near = |found: Option<u64>, expected_us: u64| {
            let (found, expected) = (found.expect("not empty") as f64, expected_us as f64 * 1000.0);
            assert!((found / expected - 1.0).abs() < 0.13, "{found} for {expected}");
        };
        for (times, p50, p99) in [
            (&[(100, 1)][..], 100, 100),
            (&[(100, 98), (5_000, 2)], 100, 5_000),
            (&[(100, 99), (5_000, 1)], 100, 100),
            (&[(80, 10), (9_000, 10), (2_000_000, 10)], 9_000, 2_000_000),
        ] {
            let histogram = of(times);
            near(histogram.quantile_ns(500), p50);
            near(histogram.quantile_ns(990), p99);
            let longest = times.iter().map(|(time, _)| time * 1000).max();
            assert!(histogram.max_ns() >= longest, "{times:?}");
            assert!(histogram.max_ns().zip(longest).is_some_and(|(max, longest)| max <= longest * 5 / 4), "{times:?}");
        }
    }

    #[test]
    fn nothing_has_no_quantile_and_a_wrapped_bucket_is_what_came() {
        assert_eq!((Histogram::default().quantile_ns(500), Histogram::default().max_ns()), (None, None));
        let (mut before, mut after) = ([7; BUCKETS], [7; BUCKETS]);
        (before[3], after[3]) = (u32::MAX - 1, 3);
        assert_eq!(Histogram::between(&before, &after).count(), 5);
    }

    #[test]
    fn stretches_add_up() {
        let mut sum = of(&[(100, 3)]);
        sum.add(&of(&[(100, 1), (900, 2)]));
        assert_eq!(sum, of(&[(100, 4), (900, 2)]));
    }
}
