//! How much a responder gives, and to whom. Pure; time comes in.
//!
//! In: a source's address and the instant. Out: whether to answer it. Token buckets: one for all checks of codes, so that a
//! flood of strangers costs a bounded share of a core, and one per member. Never more than [`SOURCES_MAX`] members
//! remembered: beyond it, the one not heard for longest is forgotten, and starts again with a full bucket.

use std::collections::HashMap;
use std::net::IpAddr;

/// Members whose buckets are remembered.
pub const SOURCES_MAX: usize = 16_384;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    at_ns: u64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(burst: u32, now_ns: u64) -> Self {
        Self { tokens: f64::from(burst), at_ns: now_ns }
    }

    /// Takes a token, where there is one.
    pub fn take(&mut self, per_s: u32, burst: u32, now_ns: u64) -> bool {
        self.take_many(1, per_s, burst, now_ns)
    }

    /// Takes `count` tokens, where there are as many, or the bucket is full: it owes the rest then.
    pub fn take_many(&mut self, count: u32, per_s: u32, burst: u32, now_ns: u64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a time between two packets")]
        let elapsed_s = now_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        self.at_ns = self.at_ns.max(now_ns);
        self.tokens = (self.tokens + elapsed_s * f64::from(per_s)).min(f64::from(burst));
        let has = self.tokens >= f64::from(count.min(burst).max(1));
        if has {
            self.tokens -= f64::from(count);
        }
        has
    }
}

/// Buckets by source.
#[derive(Debug)]
pub struct PerSource {
    per_s: u32,
    burst: u32,
    buckets: HashMap<IpAddr, Bucket>,
}

impl PerSource {
    /// So many a second for each source, and so many at once.
    #[must_use]
    pub fn new(per_s: u32, burst: u32) -> Self {
        Self { per_s, burst, buckets: HashMap::new() }
    }

    /// Takes a token of this source.
    pub fn take(&mut self, source: IpAddr, now_ns: u64) -> bool {
        if self.buckets.len() >= SOURCES_MAX && !self.buckets.contains_key(&source) {
            // Rare: a fleet has fewer members than that.
            let oldest = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at_ns).map(|(source, _)| *source);
            oldest.map(|source| self.buckets.remove(&source));
        }
        let (per_s, burst) = (self.per_s, self.burst);
        self.buckets.entry(source).or_insert_with(|| Bucket::full(burst, now_ns)).take(per_s, burst, now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn each_source_has_its_burst_and_then_its_rate() {
        let mut limit = PerSource::new(100, 20);
        let mut given = |n, at| (0..1000).filter(|_| limit.take(source(n), at)).count();
        assert_eq!(given(1, SECOND), 20);
        assert_eq!(given(1, SECOND), 0);
        assert_eq!(given(2, SECOND), 20, "another's flood takes nothing from it");
        assert_eq!(given(1, SECOND + SECOND / 10), 10);
        assert_eq!(given(1, 100 * SECOND), 20, "a long silence earns no more than a burst");
        assert_eq!(given(1, 0), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn memory_is_bounded_and_the_longest_silent_is_forgotten() {
        let mut limit = PerSource::new(1, 1);
        let most = u32::try_from(SOURCES_MAX).unwrap_or(u32::MAX);
        assert!((0..most).all(|n| limit.take(source(n), u64::from(n))));
        assert!(limit.take(source(most), u64::from(most)));
        assert_eq!(limit.buckets.len(), SOURCES_MAX);
        assert!(!limit.buckets.contains_key(&source(0)) && limit.buckets.contains_key(&source(1)));
    }
}
