//! Keeps the CPU time of all sources together within a budget.
//!
//! In: once a second, from each sampling thread, the share of one core it used. Out: whether that thread should read less
//! often, as before, or more often again. The dearest source that can still back off does so first; a source comes back
//! when its doubled share would leave a fifth of the budget free. Never: a source stopped, so no signal either.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Backing off doubles the time between reads; so many times at most.
pub(crate) const STEPS_MAX: u32 = 7;

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
        used.insert(source, Used { share, can_back_off });
        let total: f64 = used.values().map(|used| used.share).sum();
        let dearest = used.values().filter(|used| used.can_back_off).map(|used| used.share).fold(0.0, f64::max);
        match () {
            () if total > self.budget_share && can_back_off && share >= dearest => Verdict::BackOff,
            () if total + share <= self.budget_share * 0.8 => Verdict::ComeBack,
            () => Verdict::Stay,
        }
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

    #[test]
    fn coming_back_never_oscillates() {
        // A source whose share halves and doubles with its cadence, alone on a budget of 1 %.
        for full_share in [0.5, 0.1, 0.02, 0.011, 0.009, 0.001] {
            let governor = Governor::new(0.01);
            let mut steps = 0i32;
            let mut history = Vec::new();
            for _ in 0..40 {
                match governor.judge("a", full_share / 2f64.powi(steps), steps < 7) {
                    Verdict::BackOff => steps += 1,
                    Verdict::ComeBack => steps = (steps - 1).max(0),
                    Verdict::Stay => {}
                }
                history.push(steps);
            }
            assert!(history[20..].windows(2).all(|pair| pair[0] == pair[1]), "{full_share}: {history:?}");
            assert!(full_share / 2f64.powi(steps) <= 0.01, "{full_share}: {history:?}");
        }
    }
}
