//! Medians, percentiles and bootstrap intervals of small samples.

/// The value below which `share` (0 to 1) of `values` lie; nearest rank.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The 95 % interval of `statistic` over resamplings of rounds 0..`rounds` with replacement (Efron 1979).
/// The same rounds give the same interval: the resampling is seeded.
pub fn interval(rounds: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 2] {
    const RESAMPLINGS: usize = 4000;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % rounds.max(1)
    };
    let values: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let chosen: Vec<usize> = (0..rounds).map(|_| next()).collect();
            statistic(&chosen)
        })
        .collect();
    [percentile(&values, 0.025), percentile(&values, 0.975)]
}

#[cfg(test)]
mod tests {
    use super::{interval, median, percentile};

    #[test]
    fn ranks_are_those_of_the_sorted_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(percentile(&values, 0.99), 5.0);
        assert_eq!(percentile(&values, 0.2), 1.0);
    }

    #[test]
    fn an_interval_holds_the_statistic_and_is_a_point_where_nothing_varies() {
        let varied = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let [low, high] = interval(7, |rounds| median(&rounds.iter().map(|r| varied[*r]).collect::<Vec<_>>()));
        assert!(low < 4.0 && 4.0 < high, "{low} {high}");
        assert_eq!(interval(7, |_| 2.5), [2.5, 2.5]);
    }
}
