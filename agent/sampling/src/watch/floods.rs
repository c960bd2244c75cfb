//! A counter that may move moves by more than what leaks away: a leaky bucket as in ITU-T I.371.

use super::{Pace, Seen, Told, as_f64};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Floods {
    raised: &'static str,
    per_s: u32,
    burst: u32,
    bucket: f64,
    bucket_at_ns: u64,
    growth_untold: u64,
}

impl Floods {
    pub(super) fn new(raised: &'static str, per_s: u32, burst: u32) -> Self {
        Self { raised, per_s, burst, bucket: 0.0, bucket_at_ns: 0, growth_untold: 0 }
    }

    /// The bucket is empty.
    pub(super) fn is_asleep(&self) -> bool {
        self.bucket <= 0.0 && self.growth_untold == 0
    }

    pub(super) fn was_still_until(&mut self, at_ns: u64) {
        self.bucket_at_ns = at_ns;
    }

    pub(super) fn observe(&mut self, seen: &Seen<'_>, pace: &mut Pace, delta: u64, total: u64) -> Option<Told> {
        let at_ns = seen.moment.at_ns;
        let passed_s = Duration::from_nanos(at_ns.saturating_sub(self.bucket_at_ns)).as_secs_f64();
        self.bucket_at_ns = at_ns;
        self.bucket = (self.bucket - f64::from(self.per_s) * passed_s).max(0.0) + as_f64(delta);
        self.growth_untold += delta;
        if self.bucket <= f64::from(self.burst) {
            // Nobody misses a trickle in what a later flood grew by.
            self.growth_untold = if self.bucket > 0.0 { self.growth_untold } else { 0 };
            if !pace.has_untold() {
                return None;
            }
        } else {
            pace.note(true);
        }
        if !pace.may_speak(at_ns, 1) {
            return None;
        }
        self.bucket = 0.0;
        let growth = std::mem::take(&mut self.growth_untold);
        let (value, previous) = (as_f64(total), as_f64(total.saturating_sub(growth)));
        let summary = format!("{}: {growth} more, {total} in all", seen.subject());
        Some(Told { name: self.raised, severity: seen.severity, value, previous, summary, cause: None })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::series::{Counter, Kind};
    use crate::signal::{Rule, When};
    use crate::watch::testing::{ERRORS, at, def};
    use crate::watch::{Edge, Watch};

    #[test]
    fn a_flood_is_told_and_a_trickle_is_not() {
        let flood = |per_s, burst| Rule { when: When::Floods { raised: "flood", per_s, burst }, ..ERRORS };
        // Per reading of 100 ms: what comes, and at which readings it is told with how much growth.
        for (rule, comes, told) in [
            (flood(100, 1000), vec![10; 600], vec![]),
            (flood(100, 1000), vec![0, 500, 500, 0], vec![]),
            (flood(100, 1000), vec![0, 500, 600, 0], vec![(2, 1100.0)]),
            (flood(100, 1000), vec![2000, 2000, 2000, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![(0, 2000.0), (10, 4000.0)]),
            (flood(0, 0), vec![0, 1, 0, 0], vec![(1, 1.0)]),
        ] {
            let (def, mut watch) = (def(Kind::Counter(Counter::wrapping(64))), Watch::new(rule));
            let (mut total, mut seen) = (0, Vec::new());
            for (reading, delta) in comes.iter().copied().enumerate() {
                total += delta;
                let edge = Edge::Count { delta, total, at_limit: false };
                if let Some(s) = watch.observe(&def, edge, at(reading as u64 * 100), None, None) {
                    seen.push((reading, s.value - s.previous.unwrap()));
                }
            }
            assert_eq!(seen, told, "{:?} with {comes:?}", rule.when);
        }
    }
}
