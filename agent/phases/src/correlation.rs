//! Autocorrelation that is updated with each value and forgets exponentially.
//!
//! In: one value a slot, or none where it is missing. Out: the correlation at every lag, and from it the period. Values of
//! missing slots count as the mean: they neither support a period nor speak against it.

/// Correlation below which a lag shows no period.
const CORRELATION_MIN: f64 = 0.25;
/// A shorter period is taken instead of the best lag where its correlation is at least this share of the best.
const SHORTER_SHARE: f64 = 0.88;

/// The period found before is kept where its correlation is at least this share of the best: several explain a waveform of
/// micro-batches almost equally well, and to waver between them would look like a drift.
const KEPT_SHARE: f64 = 0.75;

/// A period in slots, and how well it explains the waveform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Peak {
    /// Slots, with a fraction.
    pub(crate) lag: f64,
    /// Correlation, at most 1.
    pub(crate) correlation: f64,
}

/// The state: the last values, and a sum of products for each lag.
#[derive(Clone, Debug)]
pub(crate) struct Correlation {
    keep: f64,
    mean: f64,
    weight: f64,
    /// Deviations from the mean, the newest at `next - 1`, kept twice so that any stretch lies in one piece.
    values: Vec<f64>,
    next: usize,
    products: Vec<f64>,
}

impl Correlation {
    /// For lags below `lags`, forgetting by a factor of e over `memory` slots.
    pub(crate) fn new(lags: usize, memory: f64) -> Self {
        Self {
            keep: (-1.0 / memory).exp(),
            mean: 0.0,
            weight: 0.0,
            values: vec![0.0; 2 * lags],
            next: 0,
            products: vec![0.0; lags],
        }
    }

    /// Adds the next slot.
    pub(crate) fn push(&mut self, value: Option<f64>) {
        let lags = self.products.len();
        let deviation = value.map_or(0.0, |value| {
            self.weight = self.weight * self.keep + 1.0;
            self.mean += (value - self.mean) / self.weight;
            value - self.mean
        });
        self.values[self.next] = deviation;
        self.values[self.next + lags] = deviation;
        // The last `lags` values, the newest last.
        let history = &self.values[self.next + 1..=self.next + lags];
        for (product, past) in self.products.iter_mut().zip(history.iter().rev()) {
            *product = *product * self.keep + deviation * past;
        }
        self.next = (self.next + 1) % lags;
    }

    /// Correlation at a lag.
    fn at(&self, lag: usize) -> f64 {
        match self.products.first() {
            Some(power) if *power > 0.0 => self.products.get(lag).map_or(0.0, |product| product / power),
            _ => 0.0,
        }
    }

    /// The highest point from `from` to `to`, between slots by a parabola through three.
    fn highest(&self, from: usize, to: usize) -> Peak {
        let to = to.min(self.products.len().saturating_sub(2));
        let best = (from..=to).max_by(|a, b| self.at(*a).total_cmp(&self.at(*b))).unwrap_or(from).max(1);
        let (before, here, after) = (self.at(best - 1), self.at(best), self.at(best + 1));
        let bend = before - 2.0 * here + after;
        let shift = if bend < 0.0 { (0.5 * (before - after) / bend).clamp(-0.5, 0.5) } else { 0.0 };
        Peak { lag: slots(best) + shift, correlation: here }
    }

    /// The period, where there is one; `before` is the one found last, in slots.
    pub(crate) fn period(&self, before: Option<f64>) -> Option<Peak> {
        // Past the lobe around lag 0: where it has fallen and begun to rise again.
        let lags = self.products.len();
        let fallen = (1..lags).find(|lag| self.at(*lag) < 0.1)?;
        let best = self.highest(fallen, lags);
        if best.correlation < CORRELATION_MIN {
            return None;
        }
        if let Some(kept) = before.filter(|lag| *lag > slots(fallen)).and_then(|lag| self.peak_near(lag, 0.04))
            && kept.correlation >= KEPT_SHARE * best.correlation
        {
            return Some(self.refined(kept));
        }
        // The best may be a multiple of the period: the shortest part of it that explains as much is taken.
        let mut found = best;
        for parts in (2..=32).rev() {
            let part = best.lag / f64::from(parts);
            if part < slots(fallen) {
                continue;
            }
            if let Some(candidate) = self.peak_near(part, 0.06)
                && candidate.correlation >= SHORTER_SHARE * best.correlation
            {
                found = candidate;
                break;
            }
        }
        Some(self.refined(found))
    }

    /// A lag that explains more than those well beside it, within a share of `lag`.
    fn peak_near(&self, lag: f64, share: f64) -> Option<Peak> {
        let around = (lag * share).max(1.0);
        let found = self.highest(whole(lag - around), whole(lag + around).max(1));
        let beside = |factor: f64| self.at(whole(found.lag * factor));
        (beside(0.75) < found.correlation && beside(1.25) < found.correlation).then_some(found)
    }

    /// The same period measured over several of it, as far as they still correlate.
    fn refined(&self, mut found: Peak) -> Peak {
        let correlation = found.correlation;
        let mut times = 2.0;
        while found.lag * (times + 0.3) < slots(self.products.len()) && times <= 8.0 {
            let (around, middle) = (found.lag * 0.2, found.lag * times);
            let further = self.highest(whole(middle - around), whole(middle + around));
            if further.correlation < 0.6 * correlation {
                break;
            }
            found.lag = further.lag / times;
            times *= 2.0;
        }
        found
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand slots")]
fn slots(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, not below zero, few")]
fn whole(lag: f64) -> usize {
    lag.round().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::Correlation;

    #[test]
    fn noise_and_silence_have_no_period() {
        let mut silent = Correlation::new(200, 1000.0);
        (0..2000).for_each(|_| silent.push(Some(5.0)));
        assert_eq!(silent.period(None), None);
        let (mut noisy, mut state) = (Correlation::new(200, 1000.0), 1u64);
        for _ in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noisy.push(Some(f64::from((state >> 40) as u32)));
        }
        assert_eq!(noisy.period(None), None);
    }

    #[test]
    fn the_period_is_the_shortest_that_explains_all() {
        for period in [7u32, 20, 33, 90] {
            let mut waveform = Correlation::new(300, 2000.0);
            (0..6000u32).for_each(|slot| waveform.push(Some(f64::from(u8::from(slot % period < period / 3)))));
            let found = waveform.period(None).map_or(0.0, |peak| peak.lag);
            assert!((found - f64::from(period)).abs() < 0.02 * f64::from(period), "{found} for {period}");
        }
    }
}
