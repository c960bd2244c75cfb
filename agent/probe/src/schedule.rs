//! When which flow has its turn, and whether it may have it. Pure; times come in.
//!
//! In: flows with their intervals, the instant. Out: whose turn it is. Turns that fall into the same [`GRID`] come together, so
//! that one wake of the thread serves all of them. A turn that was missed is not made up for. Each NIC has a token bucket:
//! what goes beyond it is left out, and counted, whatever was planned. Never: a burst after a stall.

use crate::limit::Bucket;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Turns are rounded up to a multiple of it.
pub const GRID: Duration = Duration::from_millis(2);
const GRID_NS: u64 = GRID.as_nanos() as u64;

/// Turns to come.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Rounded instant, exact instant, flow.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

impl Schedule {
    /// None any more.
    pub(crate) fn clear(&mut self) {
        self.due.clear();
    }

    /// A flow's turn comes at `at_ns`.
    pub(crate) fn add(&mut self, flow: usize, at_ns: u64) {
        self.due.push(Reverse((at_ns.next_multiple_of(GRID_NS), at_ns, flow)));
    }

    /// When the next turn comes.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    /// A flow whose turn it is at `now_ns`, with the exact instant of that turn.
    pub(crate) fn take(&mut self, now_ns: u64) -> Option<(usize, u64)> {
        let Reverse((at, exact, flow)) = *self.due.peek()?;
        (at <= now_ns).then(|| {
            self.due.pop();
            (flow, exact)
        })
    }
}

/// The turn after the one at `at_ns`: in step with it, and not in the past.
#[must_use]
pub(crate) fn turn_after(at_ns: u64, interval_ns: u64, now_ns: u64) -> u64 {
    let missed = now_ns.saturating_sub(at_ns) / interval_ns.max(1);
    at_ns.saturating_add((missed + 1).saturating_mul(interval_ns.max(1)))
}

/// What one NIC may send.
#[derive(Debug)]
pub(crate) struct Budget {
    per_s: u32,
    bucket: Bucket,
}

impl Budget {
    /// So many packets a second.
    pub(crate) fn new(per_s: u32, now_ns: u64) -> Self {
        Self { per_s, bucket: Bucket::full(Self::burst(per_s), now_ns) }
    }

    /// Another rate, from now on.
    pub(crate) fn set(&mut self, per_s: u32) {
        self.per_s = per_s;
    }

    /// Takes `packets`: all or none. A train longer than the burst goes where the bucket is full, and is paid for afterwards.
    pub(crate) fn take(&mut self, packets: u32, now_ns: u64) -> bool {
        self.per_s > 0 && self.bucket.take_many(packets, self.per_s, Self::burst(self.per_s), now_ns)
    }

    /// A fifth of a second's: even a coarse plan stays within it.
    fn burst(per_s: u32) -> u32 {
        (per_s / 5).max(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn turns_within_the_grid_come_together_in_their_order() {
        let mut schedule = Schedule::default();
        for (flow, at) in [(1, 3 * MS), (2, MS), (3, 2 * MS + 1), (4, 5 * MS)] {
            schedule.add(flow, at);
        }
        assert_eq!(schedule.next_ns(), Some(2 * MS));
        let mut at = |now| std::iter::from_fn(|| schedule.take(now).map(|(flow, _)| flow)).collect::<Vec<_>>();
        assert_eq!((at(2 * MS - 1), at(2 * MS), at(4 * MS)), (vec![], vec![2], vec![3, 1]));
        assert_eq!((at(100 * MS), schedule.next_ns()), (vec![4], None));
    }

    #[test]
    fn a_missed_turn_is_not_made_up_for_and_the_step_is_kept() {
        for (at, interval, now, expected) in
            [(100, 10, 101, 110), (100, 10, 109, 110), (100, 10, 110, 120), (100, 10, 1_005, 1_010), (100, 10, 50, 110)]
        {
            assert_eq!(turn_after(at, interval, now), expected, "at {now}");
        }
    }

    #[test]
    fn a_nic_sends_no_more_than_its_budget_whatever_is_asked() {
        let mut budget = Budget::new(150, 0);
        let sent: u64 = (0..20_000u64).map(|n| u64::from(budget.take(1, n * MS / 2))).sum();
        // Ten seconds' worth, and one burst.
        assert!((1500..=1531).contains(&sent), "{sent}");
        let mut budget = Budget::new(150, 0);
        let trains = (0..20_000u64).filter(|n| budget.take(100, n * MS / 2)).count();
        assert!((14..=16).contains(&trains), "{trains} trains of 100 in ten seconds");
        budget.set(0);
        assert!(!budget.take(1, 1 << 60));
    }
}
