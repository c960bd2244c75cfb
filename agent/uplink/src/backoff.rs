//! When to dial again: exponential with full jitter, so that ten thousand agents do not come back as one.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(10);
/// A refusal that only a person can lift is tried again this seldom.
pub(crate) const PERMANENT: Duration = Duration::from_secs(60);

pub(crate) struct Backoff {
    ceiling: Duration,
    state: u64,
}

impl Backoff {
    pub fn new(seed: u64) -> Self {
        Self { ceiling: FIRST, state: seed | 1 }
    }

    /// A connection stood for a while: begin anew.
    pub fn reset(&mut self) {
        self.ceiling = FIRST;
    }

    /// How long to wait before the next dial: uniform up to a ceiling that doubles from 100 ms to 5 s.
    pub fn wait(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(LONGEST);
        self.jitter(ceiling).max(SHORTEST)
    }

    /// Uniform in 0..=`most`.
    pub fn jitter(&mut self, most: Duration) -> Duration {
        // xorshift64* (Vigna 2016): spread is all that is asked of it.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        most.mul_f64(random as f64 / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_spread_up_to_a_ceiling_that_doubles_and_stops() {
        let mut longest = Duration::ZERO;
        for seed in 1..200_u64 {
            let mut backoff = Backoff::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut ceiling = FIRST;
            for _ in 0..12 {
                let wait = backoff.wait();
                assert!((SHORTEST..=ceiling).contains(&wait), "{wait:?} over {ceiling:?}");
                ceiling = (ceiling * 2).min(LONGEST);
                longest = longest.max(wait);
            }
            backoff.reset();
            assert!(backoff.wait() <= FIRST);
        }
        assert!(longest > LONGEST.mul_f64(0.9), "{longest:?}");
    }
}
