//! What is quiet and what is busy, learnt from the values themselves.
//!
//! In: values on a logarithmic scale. Out: the level between quiet and busy, where the two differ. A histogram that forgets.

/// Bins of the histogram, each of [`WIDTH`].
const BINS: usize = 96;
/// Width of a bin: a third of a doubling.
const WIDTH: f64 = 1.0 / 3.0;
/// Quiet and busy must differ by at least two doublings.
const CONTRAST_MIN: f64 = 2.0;

#[derive(Clone, Debug)]
pub(crate) struct Levels {
    bins: [f64; BINS],
    weight: f64,
    gain: f64,
    growth: f64,
}

impl Levels {
    /// Forgetting by a factor of e over `memory` values.
    pub(crate) fn new(memory: f64) -> Self {
        Self { bins: [0.0; BINS], weight: 0.0, gain: 1.0, growth: (1.0 / memory).exp() }
    }

    pub(crate) fn push(&mut self, value: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not below zero, and bounded by BINS"
        )]
        let bin = ((value / WIDTH).max(0.0) as usize).min(BINS - 1);
        // The new weigh more instead of all others less: one addition a value, and a rescaling now and then.
        self.gain *= self.growth;
        self.bins[bin] += self.gain;
        self.weight += self.gain;
        if self.gain > 1e12 {
            self.bins.iter_mut().for_each(|weight| *weight /= self.gain);
            self.weight /= self.gain;
            self.gain = 1.0;
        }
    }

    /// Between quiet and busy; `None` while they are one.
    pub(crate) fn threshold(&self) -> Option<f64> {
        let (quiet, busy) = (self.quantile(0.05), self.quantile(0.97));
        (busy - quiet >= CONTRAST_MIN).then_some(f64::midpoint(quiet, busy))
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut below = 0.0;
        for (value, weight) in (0u8..).zip(self.bins) {
            below += weight;
            if below >= share * self.weight {
                return (f64::from(value) + 0.5) * WIDTH;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::Levels;

    #[test]
    fn a_threshold_lies_between_quiet_and_busy_and_follows_them() {
        let mut levels = Levels::new(500.0);
        (0..2000).for_each(|_| levels.push(3.0));
        assert_eq!(levels.threshold(), None);
        (0..2000u32).for_each(|slot| levels.push(if slot % 5 == 0 { 14.0 } else { 2.0 }));
        assert!(levels.threshold().is_some_and(|threshold| (6.0..10.0).contains(&threshold)), "{levels:?}");
        (0..200_000u32).for_each(|slot| levels.push(if slot % 5 == 0 { 8.0 } else { 2.0 }));
        assert!(levels.threshold().is_some_and(|threshold| (4.0..6.0).contains(&threshold)), "after rescaling");
    }
}
