//! Keeps the CPU time of all sources together within a budget.
//!
//! In: once a second, from each sampling thread, the share of one core it used. Out: whether that thread should read less
//! often, as before, or more often again. The dearest source that can still back off does so first; a source comes back
//! when its doubled share would leave a fifth of the budget free. Often it does not double (what lies still is read no more
//! often): so it is tried, too, after a while in which the budget was kept, and each try that fails makes that while twice as
//! long. Never: a source stopped, so no signal either.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Backing off doubles the time between reads; so many times at most.
pub(crate) const STEPS_MAX: u32 = 7;

/// Judgements, one a second, before a return is tried that may not fit; and the most.
const PATIENCE: u32 = 10;
const PATIENCE_MAX: u32 = 1280;

/// The budget and who uses how much of it.
#[derive(Debug)]
pub(crate) struct Governor {
    budget_share: f64,
    used: Mutex<BTreeMap<&'static str, Used>>,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    share: f64,
    can_back_off: bool,
    /// Judgements since the last change.
    waited: u32,
    patience: u32,
    /// The last change was a return that might not fit.
    is_trying: bool,
}

/// What a thread should do about its cadence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    BackOff,
    Stay,
    ComeBack,
}

impl Governor {
    /// A budget as share of one core.
    pub(crate) fn new(budget_share: f64) -> Self {
        Self { budget_share, used: Mutex::default() }
    }

    /// Takes a source's share of one core over the last second.
    pub(crate) fn judge(&self, source: &'static str, share: f64, can_back_off: bool) -> Verdict {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |used: &BTreeMap<_, Used>| used.values().map(|used| used.share).sum::<f64>();
        let new = Used { share, can_back_off, waited: 0, patience: PATIENCE, is_trying: false };
        let mut own = Used { share, can_back_off, ..used.get(source).copied().unwrap_or(new) };
        own.waited = own.waited.saturating_add(1);
        used.insert(source, own);
        let total = of(&used);
        let dearest = used.values().filter(|used| used.can_back_off).map(|used| used.share).fold(0.0, f64::max);
        let verdict = match () {
            () if total > self.budget_share && can_back_off && share >= dearest => Verdict::BackOff,
            () if total + share <= self.budget_share * 0.8 => Verdict::ComeBack,
            () if total <= self.budget_share * 0.9 && own.waited > own.patience => Verdict::ComeBack,
            () => Verdict::Stay,
        };
        if verdict == Verdict::BackOff {
            own.patience = if own.is_trying { (own.patience * 2).min(PATIENCE_MAX) } else { own.patience };
        } else if own.waited > 2 * PATIENCE_MAX {
            own.patience = PATIENCE;
        }
        if verdict != Verdict::Stay {
            own.waited = 0;
            own.is_trying = verdict == Verdict::ComeBack && total + share > self.budget_share * 0.8;
        }
        used.insert(source, own);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::{Governor, Verdict};

    #[test]
    fn the_dearest_source_that_can_backs_off_first_and_comes_back_when_there_is_room() {
        let governor = Governor::new(0.01);
        let cases = [
            ("a", 0.004, true, Verdict::ComeBack),
            ("b", 0.003, true, Verdict::Stay),
            ("c", 0.005, true, Verdict::BackOff),
            ("a", 0.004, true, Verdict::Stay),
            ("c", 0.005, false, Verdict::Stay),
            ("a", 0.004, true, Verdict::BackOff),
            ("c", 0.001, false, Verdict::Stay),
            ("a", 0.002, true, Verdict::ComeBack),
        ];
        for (place, (source, share, can, expected)) in cases.into_iter().enumerate() {
            assert_eq!(governor.judge(source, share, can), expected, "case {place}: {source} at {share}");
        }
    }

    /// How often a source changes its cadence in an hour, and the steps it ends at; its share at so many steps is given.
    fn hour(share_at: impl Fn(i32) -> f64) -> (usize, i32) {
        let governor = Governor::new(0.01);
        let (mut steps, mut changes) = (0i32, 0);
        for _ in 0..3600 {
            let next = match governor.judge("a", share_at(steps), steps < 7) {
                Verdict::BackOff => steps + 1,
                Verdict::ComeBack => (steps - 1).max(0),
                Verdict::Stay => steps,
            };
            changes += usize::from(next != steps);
            steps = next;
        }
        (changes, steps)
    }

    #[test]
    fn coming_back_hardly_oscillates() {
        // A source whose share halves and doubles with its cadence, alone on a budget of 1 %.
        for full_share in [0.5, 0.1, 0.02, 0.011, 0.009, 0.001] {
            let (changes, steps) = hour(|steps| full_share / 2f64.powi(steps));
            assert!(changes <= 26, "{full_share}: {changes} changes");
            assert!(full_share / 2f64.powi(steps) <= 0.01, "{full_share}: {steps} steps");
        }
    }

    #[test]
    fn a_source_that_fits_at_its_own_cadence_gets_it_back_though_half_of_it_is_not_half_the_cost() {
        // As with counters that lie still: the first seconds were dear, and 0.6 % at full cadence is 0.5 % at half of it.
        let first = std::cell::Cell::new(3);
        let share = |steps: i32| {
            first.set(first.get() - 1);
            if first.get() >= 0 {
                0.02
            } else {
                [0.006, 0.005, 0.0045][usize::try_from(steps).map_or(0, |steps| steps.min(2))]
            }
        };
        assert_eq!(hour(share).1, 0);
    }
}
