//! When which flow has its turn, and whether it may have it. Pure; times come in.
//!
//! In: flows with their intervals, the instant. Out: whose turn it is. Turns that fall into the same tick, [`TICK_MAX`] or shorter, come
//! together, so that one wake of the thread serves all of them. A turn that was missed is not made up for. Each NIC has a token bucket:
//! what goes beyond it is left out, and counted, whatever was planned. In one tick a NIC sends little more than its share of that: other
//! turns wait for the next. Never: a burst after a stall, or because a plan has all flows begin at once.

use crate::limit::Bucket;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Turns are rounded up to a multiple of it, or of the shortest interval of a flow where that is shorter. A wake of a thread that slept
/// costs more than a probe, so the longer the better: but a loss is told up to a tick late, and by default a NIC sends up to three packets
/// in one of these.
pub(crate) const TICK_MAX: Duration = Duration::from_millis(20);
const TICK_MAX_NS: u64 = TICK_MAX.as_nanos() as u64;
/// A NIC's packets of one tick, beyond its share.
const BEYOND_SHARE: u64 = 2;

/// Turns to come.
#[derive(Debug)]
pub(crate) struct Schedule {
    phase_ns: u64,
    tick_ns: u64,
    /// Rounded instant, exact instant, flow.
    due: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

impl Schedule {
    /// Its ticks are so far from those of one without: each prober draws its own, so that several with one clock do not send at once.
    pub(crate) fn new(phase_ns: u64) -> Self {
        Self { phase_ns, tick_ns: TICK_MAX_NS, due: BinaryHeap::new() }
    }

    /// None any more; those to come are of flows whose shortest interval is `interval_ns`, so that none has two turns in a tick.
    pub(crate) fn clear(&mut self, interval_ns: u64) {
        self.due.clear();
        self.tick_ns = interval_ns.clamp(1, TICK_MAX_NS);
    }

    /// How long a tick is.
    pub(crate) fn tick_ns(&self) -> u64 {
        self.tick_ns
    }

    /// The first tick at `at_ns` or after it.
    pub(crate) fn tick_at(&self, at_ns: u64) -> u64 {
        let before_ns = self.tick_ns - self.phase_ns % self.tick_ns;
        (at_ns + before_ns).next_multiple_of(self.tick_ns) - before_ns
    }

    /// A flow's turn comes at `at_ns`.
    pub(crate) fn add(&mut self, flow: usize, at_ns: u64) {
        self.due.push(Reverse((self.tick_at(at_ns), at_ns, flow)));
    }

    /// The turn that was taken comes at the tick after `now_ns` instead.
    pub(crate) fn put_off(&mut self, flow: usize, at_ns: u64, now_ns: u64) {
        self.due.push(Reverse((self.tick_at(now_ns + 1), at_ns, flow)));
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
    /// The tick in which it sent last, and how many packets.
    tick: (u64, u32),
}

impl Budget {
    /// So many packets a second.
    pub(crate) fn new(per_s: u32, now_ns: u64) -> Self {
        Self { per_s, bucket: Bucket::full(Self::burst(per_s), now_ns), tick: (0, 0) }
    }

    /// Another rate, from now on.
    pub(crate) fn set(&mut self, per_s: u32) {
        self.per_s = per_s;
    }

    /// Whether something may still go in the tick that `now_ns` is in.
    pub(crate) fn has_room(&self, now_ns: u64, tick_ns: u64) -> bool {
        let share = (u64::from(self.per_s) * tick_ns).div_ceil(1_000_000_000);
        self.tick.0 != now_ns / tick_ns || u64::from(self.tick.1) < share + BEYOND_SHARE
    }

    /// So many packets go in the tick that `now_ns` is in.
    pub(crate) fn note(&mut self, packets: u32, now_ns: u64, tick_ns: u64) {
        let tick = now_ns / tick_ns;
        let before = if self.tick.0 == tick { self.tick.1 } else { 0 };
        self.tick = (tick, before.saturating_add(packets));
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
    fn turns_within_a_tick_come_together_in_their_order() {
        let mut schedule = Schedule::new(0);
        schedule.clear(2 * MS);
        for (flow, at) in [(1, 3 * MS), (2, MS), (3, 2 * MS + 1), (4, 5 * MS)] {
            schedule.add(flow, at);
        }
        assert_eq!(schedule.next_ns(), Some(2 * MS));
        let mut at = |now| std::iter::from_fn(|| schedule.take(now).map(|(flow, _)| flow)).collect::<Vec<_>>();
        assert_eq!((at(2 * MS - 1), at(2 * MS), at(4 * MS)), (vec![], vec![2], vec![3, 1]));
        assert_eq!((at(100 * MS), schedule.next_ns()), (vec![4], None));
    }

    #[test]
    fn two_probers_of_one_clock_send_at_instants_of_their_own() {
        for (phase, at, expected) in [
            (0, 40 * MS, 40 * MS),
            (7 * MS, 40 * MS, 47 * MS),
            (7 * MS, 27 * MS, 27 * MS),
            (1 + 33 * MS, 0, 1 + 13 * MS),
        ] {
            assert_eq!(Schedule::new(phase).tick_at(at), expected, "{phase} {at}");
        }
    }

    #[test]
    fn no_flow_has_two_turns_in_a_tick_and_none_waits_long() {
        let mut schedule = Schedule::new(0);
        for (interval, tick) in [(1000 * MS, 20 * MS), (20 * MS, 20 * MS), (3 * MS, 3 * MS), (1, 1)] {
            schedule.clear(interval);
            assert_eq!(schedule.tick_ns(), tick);
            let mut at = 5 * MS;
            schedule.add(1, at);
            for turn in 1..=50 {
                let now = schedule.next_ns().unwrap_or(0);
                assert!((at..at + tick).contains(&now), "turn {turn} of {interval} ns");
                assert_eq!(schedule.take(now), Some((1, at)));
                assert_eq!(schedule.take(now), None);
                at = turn_after(at, interval, now);
                assert_eq!(at, 5 * MS + turn * interval, "none is missed");
                schedule.add(1, at);
            }
        }
    }

    #[test]
    fn what_a_nic_has_no_room_for_in_a_tick_goes_in_the_next_ones() {
        let (mut schedule, mut budget) = (Schedule::new(0), Budget::new(150, 0));
        (0..20).for_each(|flow| schedule.add(flow, 95 * MS));
        let mut sent = Vec::new();
        while let Some(now) = schedule.next_ns() {
            let mut of_tick = 0;
            while let Some((flow, at)) = schedule.take(now) {
                if budget.has_room(now, schedule.tick_ns()) {
                    budget.note(1, now, schedule.tick_ns());
                    of_tick += 1;
                } else {
                    schedule.put_off(flow, at, now);
                }
            }
            sent.push((now / MS, of_tick));
        }
        assert_eq!(sent, [(100, 5), (120, 5), (140, 5), (160, 5)]);
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
