//! One column of a block: N values of one series, as few bits as their shape allows.
//!
//! In: the values' 64 bits. Out: the same bits, exactly, for any values whatever. A counter is coded by its increases,
//! taken from their own mean or from each other and divided by what they have in common, as Golomb-Rice codes; one that
//! mostly stands still by the gaps between its movements. A gauge whose values are decimals or binary fractions is a
//! counter of its smallest step; any other is coded by the bits that changed. The cheapest is chosen by what it costs.

use crate::bits::{BitReader, BitWriter, rice_bits};

/// What a column's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Whole numbers.
    Whole,
    /// The bits of f64.
    Real,
}

/// How a column is coded.
const TAG_BITS: u32 = 3;
const CONSTANT: u64 = 0;
/// Increases less their mean.
const STEADY: u64 = 1;
/// Increases of increases.
const SECOND: u64 = 2;
/// Increases that are often zero: gaps and movements.
const SPARSE: u64 = 3;
/// 64 bits each.
const RAW: u64 = 4;
/// Real values as whole multiples of a step; the whole numbers follow.
const SCALED: u64 = 5;
/// Real values by the bits that changed.
const CHANGED: u64 = 6;

/// Steps that real values are tried as multiples of: 1, 1/256 (temperatures of optics), tenths to millionths.
const SCALES: [f64; 8] = [1.0, 256.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
/// Whole numbers up to here are exact as f64.
const EXACT_MAX: u64 = 1 << 53;
/// Bits of a Rice parameter.
const K_BITS: u32 = 6;

/// Memory for encoding columns of up to so many values.
#[derive(Debug)]
pub struct Scratch {
    deltas: Vec<i64>,
    reduced: Vec<i64>,
    folded: Vec<u64>,
    second: Vec<u64>,
    whole: Vec<u64>,
}

impl Scratch {
    /// For columns of `values` values.
    pub fn new(values: usize) -> Self {
        Self {
            deltas: Vec::with_capacity(values),
            reduced: Vec::with_capacity(values),
            folded: Vec::with_capacity(values),
            second: Vec::with_capacity(values),
            whole: Vec::with_capacity(values),
        }
    }
}

/// Writes the column.
pub fn encode(out: &mut BitWriter, values: &[u64], what: Values, scratch: &mut Scratch) {
    if values.iter().all(|value| *value == values[0]) {
        out.put(CONSTANT, TAG_BITS);
        out.put_long(values.first().copied().unwrap_or(0));
        return;
    }
    match what {
        Values::Whole => encode_whole(out, values, scratch),
        Values::Real => {
            let mut whole = std::mem::take(&mut scratch.whole);
            match scale(values, &mut whole) {
                Some(index) => {
                    out.put(SCALED, TAG_BITS);
                    out.put(index as u64, 3);
                    encode_whole(out, &whole, scratch);
                }
                None => encode_changed(out, values),
            }
            scratch.whole = whole;
        }
    }
}

/// Reads `count` values and hands each to `each`.
pub fn decode(bits: &mut BitReader<'_>, count: usize, values: &mut Vec<u64>) -> Option<()> {
    values.clear();
    match bits.get(TAG_BITS)? {
        CONSTANT => {
            let value = bits.get_long()?;
            values.resize(count, value);
            Some(())
        }
        SCALED => {
            let scale = SCALES[usize::try_from(bits.get(3)?).ok()?];
            let tag = bits.get(TAG_BITS)?;
            decode_whole(bits, tag, count, values)?;
            for value in values {
                *value = real(value.cast_signed(), scale).to_bits();
            }
            Some(())
        }
        CHANGED => decode_changed(bits, count, values),
        tag => decode_whole(bits, tag, count, values),
    }
}

fn fold(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

fn unfold(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn encode_whole(out: &mut BitWriter, values: &[u64], scratch: &mut Scratch) {
    let Scratch { deltas, reduced, folded, second, .. } = scratch;
    deltas.clear();
    deltas.extend(values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]).cast_signed()));
    let moved = deltas.iter().filter(|delta| **delta != 0).count();
    let (first, count) = (values[0], deltas.len() as u64);
    let zeros = deltas.len() - moved;
    // Often zero: coded by its movements, surely where there are few, else where that is cheaper than what follows.
    let sparse = (zeros * 8 > deltas.len()).then(|| Sparse::plan(deltas, moved, folded));
    if let Some(sparse) = sparse.as_ref().filter(|_| moved * 4 < deltas.len()) {
        sparse.write(out, first, deltas);
        return;
    }
    let common = common_divisor(deltas);
    reduced.clear();
    reduced.extend(deltas.iter().map(|delta| delta / common));
    let mean = mean(reduced.iter());
    folded.clear();
    folded.extend(reduced.iter().map(|delta| fold(delta.wrapping_sub(mean))));
    second.clear();
    second.extend(reduced.windows(2).map(|pair| fold(pair[1].wrapping_sub(pair[0]))));
    let length = |residuals: &[u64]| residuals.iter().map(|value| u64::from(64 - value.leading_zeros())).sum::<u64>();
    let is_second = length(second) + u64::from(64 - fold(reduced[0]).leading_zeros()) < length(folded);
    let residuals = if is_second { &*second } else { &*folded };
    let (k, bits) = best_k(residuals);
    if let Some(sparse) = sparse.filter(|sparse| sparse.bits < bits) {
        sparse.write(out, first, deltas);
        return;
    }
    if bits >= count * 64 {
        out.put(RAW, TAG_BITS);
        for value in values {
            out.put(*value, 64);
        }
        return;
    }
    out.put(if is_second { SECOND } else { STEADY }, TAG_BITS);
    out.put_long(first);
    out.put_long(common.cast_unsigned());
    out.put_long(fold(if is_second { reduced[0] } else { mean }));
    out.put(k.into(), K_BITS);
    for value in residuals {
        out.put_rice(*value, k);
    }
}

/// How increases that are often zero would be coded: the gaps between movements, and the movements less their mean.
struct Sparse {
    moved: usize,
    gap_k: u32,
    mean: i64,
    k: u32,
    /// What it costs beside its head.
    bits: u64,
}

impl Sparse {
    /// Leaves the folded movements in `folded`.
    fn plan(deltas: &[i64], moved: usize, folded: &mut Vec<u64>) -> Self {
        let movements = || deltas.iter().filter(|delta| **delta != 0);
        let mean = mean(movements());
        folded.clear();
        folded.extend(movements().map(|delta| fold(delta.wrapping_sub(mean))));
        let (k, value_bits) = best_k(folded);
        let gap_k = ((deltas.len() - moved) / moved.max(1)).max(1).ilog2();
        let mut plan = Self { moved, gap_k, mean, k, bits: value_bits };
        gaps(deltas, |gap, _| plan.bits += rice_bits(gap, gap_k));
        plan
    }

    fn write(&self, out: &mut BitWriter, first: u64, deltas: &[i64]) {
        let Self { moved, gap_k, mean, k, bits: _ } = *self;
        out.put(SPARSE, TAG_BITS);
        out.put_long(first);
        out.put_long(moved as u64);
        out.put_long(fold(mean));
        out.put(gap_k.into(), K_BITS);
        out.put(k.into(), K_BITS);
        gaps(deltas, |gap, delta| {
            out.put_rice(gap, gap_k);
            out.put_rice(fold(delta.wrapping_sub(mean)), k);
        });
    }
}

/// Each movement, and how many zeros are before it.
fn gaps(deltas: &[i64], mut each: impl FnMut(u64, i64)) {
    let mut since = 0;
    for delta in deltas {
        if *delta == 0 {
            since += 1;
        } else {
            each(std::mem::take(&mut since), *delta);
        }
    }
}

/// The mean, rounded down; the sum of so many cannot overflow 128 bits.
fn mean<'a>(values: impl Iterator<Item = &'a i64>) -> i64 {
    let (sum, count) = values.fold((0i128, 0i128), |(sum, count), value| (sum + i128::from(*value), count + 1));
    i64::try_from(sum.div_euclid(count.max(1))).unwrap_or(0)
}

fn decode_whole(bits: &mut BitReader<'_>, tag: u64, count: usize, values: &mut Vec<u64>) -> Option<()> {
    values.clear();
    match tag {
        RAW => {
            for _ in 0..count {
                values.push(bits.get(64)?);
            }
        }
        STEADY | SECOND => {
            let mut value = bits.get_long()?;
            let common = bits.get_long()?.cast_signed();
            let mut step = unfold(bits.get_long()?);
            let k = u32::try_from(bits.get(K_BITS)?).ok()?;
            values.push(value);
            let mut left = count.checked_sub(1)?;
            if tag == SECOND {
                value = value.wrapping_add(step.wrapping_mul(common).cast_unsigned());
                values.push(value);
                left = left.checked_sub(1)?;
            }
            for _ in 0..left {
                let residual = unfold(bits.get_rice(k)?);
                let delta = step.wrapping_add(residual);
                if tag == SECOND {
                    step = delta;
                }
                value = value.wrapping_add(delta.wrapping_mul(common).cast_unsigned());
                values.push(value);
            }
        }
        SPARSE => {
            let mut value = bits.get_long()?;
            let moved = bits.get_long()?;
            let mean = unfold(bits.get_long()?);
            let gap_k = u32::try_from(bits.get(K_BITS)?).ok()?;
            let k = u32::try_from(bits.get(K_BITS)?).ok()?;
            values.push(value);
            for _ in 0..moved {
                let gap = usize::try_from(bits.get_rice(gap_k)?).ok()?;
                let until = values.len().checked_add(gap).filter(|until| *until < count)?;
                values.resize(until, value);
                let delta = mean.wrapping_add(unfold(bits.get_rice(k)?));
                value = value.wrapping_add(delta.cast_unsigned());
                values.push(value);
            }
            values.resize(count, value);
        }
        _ => return None,
    }
    Some(())
}

/// The Rice parameter that costs least for these, of those around the median's length, and what it costs.
fn best_k(residuals: &[u64]) -> (u32, u64) {
    let mut lengths = [0usize; 65];
    for value in residuals {
        lengths[(64 - value.leading_zeros()) as usize] += 1;
    }
    let mut below = 0;
    let median = lengths.iter().position(|count| {
        below += count;
        below * 2 >= residuals.len()
    });
    let median = median.unwrap_or(0) as u32;
    (median.saturating_sub(2)..=(median + 1).min(63))
        .map(|k| (k, residuals.iter().map(|value| rice_bits(*value, k)).sum::<u64>()))
        .min_by_key(|(_, bits)| *bits)
        .unwrap_or((0, 0))
}

/// What all increases are multiples of, at least 1: packets of one size, words of a data counter.
fn common_divisor(deltas: &[i64]) -> i64 {
    let mut common = 0u64;
    for delta in deltas {
        let mut rest = delta.unsigned_abs();
        if common != 0 && rest.is_multiple_of(common) {
            continue;
        }
        while rest != 0 {
            (common, rest) = (rest, common % rest);
        }
        if common == 1 {
            return 1;
        }
    }
    i64::try_from(common).unwrap_or(1).max(1)
}

/// The first scale at which every value is a whole number that comes back to the same bits; the numbers in `whole`.
fn scale(values: &[u64], whole: &mut Vec<u64>) -> Option<usize> {
    SCALES.iter().position(|scale| {
        whole.clear();
        values.iter().all(|bits| {
            let value = f64::from_bits(*bits);
            // Not a number and the infinities become something that does not come back.
            #[expect(clippy::cast_possible_truncation, reason = "checked by the way back")]
            let number = (value * scale).round() as i64;
            whole.push(number.cast_unsigned());
            number.unsigned_abs() < EXACT_MAX && real(number, *scale).to_bits() == *bits
        })
    })
}

/// The value that is `number` steps.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn real(number: i64, scale: f64) -> f64 {
    number as f64 / scale
}

fn encode_changed(out: &mut BitWriter, values: &[u64]) {
    let changes = || values.windows(2).map(|pair| pair[1] ^ pair[0]);
    let shift = changes().filter(|change| *change != 0).map(u64::trailing_zeros).min().unwrap_or(0);
    out.put(CHANGED, TAG_BITS);
    out.put(values[0], 64);
    out.put(shift.into(), K_BITS);
    for change in changes() {
        if change == 0 {
            out.put(0, 1);
        } else {
            let rest = change >> shift;
            let length = 64 - rest.leading_zeros();
            out.put(1, 1);
            out.put(u64::from(length - 1), 6);
            out.put(rest, length);
        }
    }
}

fn decode_changed(bits: &mut BitReader<'_>, count: usize, values: &mut Vec<u64>) -> Option<()> {
    let mut value = bits.get(64)?;
    let shift = bits.get(K_BITS)?;
    values.push(value);
    for _ in 1..count {
        if bits.get(1)? == 1 {
            let length = u32::try_from(bits.get(6)?).ok()? + 1;
            value ^= bits.get(length)? << shift;
        }
        values.push(value);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[u64], what: Values) -> usize {
        let mut out = BitWriter::default();
        encode(&mut out, values, what, &mut Scratch::new(values.len()));
        let words = out.finish().to_vec();
        let mut back = Vec::new();
        decode(&mut BitReader::new(&words), values.len(), &mut back).expect("decodes");
        assert_eq!(back, values);
        words.len() * 64
    }

    fn reals(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn what_is_told_of_each_shape_costs_little() {
        let still = vec![1 << 40; 256];
        let steady: Vec<u64> = (0..256).map(|i| 1 << 40 | (i * 5_000_000)).collect();
        let packets: Vec<u64> = (0..256)
            .scan(0, |sum, i| {
                Some({
                    *sum += 4_158 * (1_000 + i * 7 % 13);
                    *sum
                })
            })
            .collect();
        let bursts: Vec<u64> = (0..256)
            .scan(0, |sum, i| {
                Some({
                    *sum += if i % 10 < 4 { 120_000_000 + i * 7 % 13 } else { 0 };
                    *sum
                })
            })
            .collect();
        let rare: Vec<u64> = (0..256).map(|i| 77 + u64::from(i > 100) * 3).collect();
        let celsius = reals(&(0..256).map(|i| 45.0 + f64::from(i % 5) / 256.0).collect::<Vec<_>>());
        let milliwatt = reals(&(0..256).map(|i| f64::from(8_224 + i % 3) / 1e4).collect::<Vec<_>>());
        for (name, values, what, bits_max) in [
            ("still", still, Values::Whole, 64),
            ("steady", steady, Values::Whole, 256 + 192),
            ("packets of one size", packets, Values::Whole, 256 * 6),
            ("rare", rare, Values::Whole, 128),
            ("bursts", bursts, Values::Whole, 256 * 5),
            ("1/256 C", celsius, Values::Real, 256 * 5),
            ("0.1 uW", milliwatt, Values::Real, 256 * 4),
        ] {
            let bits = round_trip(&values, what);
            assert!(bits <= bits_max, "{name}: {bits} bits");
        }
    }

    #[test]
    fn values_at_the_edges_come_back() {
        let max = u64::MAX;
        for values in [
            vec![0],
            vec![max],
            vec![0, max],
            vec![max, 0, max, 0, 1 << 63, 1],
            vec![max - 1, max, 0, 1, 2],
            vec![1, 1 << 63, 1, 1 << 63],
            vec![0; 3],
        ] {
            round_trip(&values, Values::Whole);
            round_trip(&values, Values::Real);
        }
        let odd = [0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 5e-324, 0.1 + 0.2];
        round_trip(&reals(&odd), Values::Real);
    }

    #[test]
    fn no_column_costs_more_than_a_little_beyond_its_own_size() {
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 29
        };
        let values: Vec<u64> = (0..256).map(|_| noise()).collect();
        for what in [Values::Whole, Values::Real] {
            let bits = round_trip(&values, what);
            assert!(bits <= 256 * crate::WORST_BITS + 320, "{bits}");
        }
    }

    proptest! {
        #[test]
        fn any_whole_numbers_come_back(values in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..100, Just(u64::MAX)], 1..300)) {
            round_trip(&values, Values::Whole);
        }

        #[test]
        fn any_counter_with_wraps_and_resets_comes_back(
            first in any::<u64>(),
            steps in prop::collection::vec(prop_oneof![8 => Just(0u64), 8 => 1_000u64..1_100, 1 => any::<u64>()], 1..300),
        ) {
            let values: Vec<u64> = steps.iter().scan(first, |sum, step| { *sum = sum.wrapping_add(*step); Some(*sum) }).collect();
            round_trip(&values, Values::Whole);
        }

        #[test]
        fn any_reals_come_back(values in prop::collection::vec(prop_oneof![
            prop::num::f64::ANY, (-1000i32..1000).prop_map(|n| f64::from(n) / 100.0), Just(f64::NAN), Just(-0.0)
        ], 1..300)) {
            round_trip(&reals(&values), Values::Real);
        }

        #[test]
        fn words_that_nobody_wrote_never_panic(words in prop::collection::vec(any::<u64>(), 0..50), count in 0usize..300) {
            let _ = decode(&mut BitReader::new(&words), count, &mut Vec::new());
        }
    }
}
