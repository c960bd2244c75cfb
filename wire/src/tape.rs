//! Readings of one series as the columns of a `TapeColumn`, and back: the same on both ends.
//!
//! Instants and counters travel as differences, which a variable-length integer makes short. Never: a column whose parts
//! are of different lengths taken for good.

use crate::v1::TapeColumn;

/// One reading of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// CLOCK_MONOTONIC of its host, nanoseconds.
    pub at_mono_ns: u64,
    /// The value was read within this of `at_mono_ns`.
    pub half_width_ns: u64,
    /// A counter's raw steps, or the bits of a gauge's f64.
    pub bits: u64,
}

/// The parts of a column are not equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Packs readings.
pub fn pack(series: u64, gauge: bool, readings: impl IntoIterator<Item = Reading>) -> TapeColumn {
    let mut column = TapeColumn { series, gauge, ..TapeColumn::default() };
    let (mut at, mut bits) = (0u64, 0u64);
    for reading in readings {
        column.at_mono_ns.push(reading.at_mono_ns.wrapping_sub(at).cast_signed());
        column.half_width_ns.push(reading.half_width_ns);
        if gauge {
            column.value.push(f64::from_bits(reading.bits));
        } else {
            column.counter.push(reading.bits.wrapping_sub(bits).cast_signed());
        }
        (at, bits) = (reading.at_mono_ns, reading.bits);
    }
    column
}

/// Unpacks them.
pub fn unpack(column: &TapeColumn) -> Result<Vec<Reading>, Malformed> {
    let count = column.at_mono_ns.len();
    let (counters, values) = if column.gauge { (0, count) } else { (count, 0) };
    if (column.half_width_ns.len(), column.counter.len(), column.value.len()) != (count, counters, values) {
        return Err(Malformed);
    }
    let (mut at, mut bits) = (0u64, 0u64);
    let readings = (0..count).map(|index| {
        at = at.wrapping_add(column.at_mono_ns[index].cast_unsigned());
        bits = match column.counter.get(index) {
            Some(difference) => bits.wrapping_add(difference.cast_unsigned()),
            None => column.value[index].to_bits(),
        };
        Reading { at_mono_ns: at, half_width_ns: column.half_width_ns[index], bits }
    });
    Ok(readings.collect())
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Reading, pack, unpack};

    #[test]
    fn readings_come_back_and_uneven_columns_do_not() {
        let readings = [(5, 1, 0), (7, 0, u64::MAX), (6, 9, 3), (u64::MAX, u64::MAX, f64::NAN.to_bits())]
            .map(|(at_mono_ns, half_width_ns, bits)| Reading { at_mono_ns, half_width_ns, bits });
        for gauge in [false, true] {
            let mut column = pack(1, gauge, readings);
            assert_eq!(unpack(&column), Ok(readings.to_vec()), "gauge: {gauge}");
            column.half_width_ns.pop();
            assert_eq!(unpack(&column), Err(Malformed));
        }
        let wrong_kind = crate::v1::TapeColumn { gauge: true, ..pack(1, false, readings) };
        assert_eq!(unpack(&wrong_kind), Err(Malformed));
    }
}
