//! Numbers as people read them: three significant digits, binary units for memory, ages rather than instants.
//! Never used for JSON or YAML, which keep raw units.

/// 1536 as "1.50 KiB".
pub fn bytes(value: u64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// 100000000000 as "100 Gb/s".
pub fn bits_per_second(value: u64) -> String {
    scaled(value, 1000.0, &["b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s", "Pb/s"])
}

fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.5 would print as "1000".
    while scaled >= step.min(999.5) && unit + 1 < units.len() {
        scaled /= step;
        unit += 1;
    }
    let decimals = match scaled {
        _ if scaled.fract() == 0.0 => 0,
        s if s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$} {}", units[unit])
}

/// A span as its largest unit or two: "85 ms", "12 s", "3 min", "2 h 05 min", "4 d 07 h".
pub fn span_ms(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3600 % 24),
    }
}

/// How long ago `then` was.
pub fn ago(then_ns: u64, now_ns: u64) -> String {
    format!("{} ago", span_ms(now_ns.saturating_sub(then_ns) / 1_000_000))
}

/// Signed microseconds: "+85 us", "-1.2 ms", "+3.4 s".
pub fn microseconds(us: i64) -> String {
    let sign = if us < 0 { '-' } else { '+' };
    format!("{sign}{}", unsigned_microseconds(us.unsigned_abs()))
}

/// Unsigned microseconds.
pub fn unsigned_microseconds(us: u64) -> String {
    match us {
        0..=9_999 => format!("{us} us"),
        10_000..=9_999_999 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// Unix nanoseconds as RFC 3339 in UTC, to the second.
/// Days to date: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
pub fn instant(unix_ns: u64) -> String {
    let s = unix_ns / 1_000_000_000;
    let (days, of_day) = (s / 86_400 + 719_468, s % 86_400);
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_binary_units_to_three_digits() {
        for (value, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1023, "1.00 KiB"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB"),
            (85_899_345_920, "80 GiB"),
            (85_899_345_921, "80.0 GiB"),
            (123_456_789_012, "115 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(value), expected, "{value}");
        }
        assert_eq!(bits_per_second(100_000_000_000), "100 Gb/s");
        assert_eq!(bits_per_second(2_500_000_000), "2.50 Gb/s");
    }

    #[test]
    fn spans_take_the_unit_a_person_would() {
        for (ms, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_500_000, "2 h 05 min"),
            (371_000_000, "4 d 07 h"),
        ] {
            assert_eq!(span_ms(ms), expected);
        }
        assert_eq!(ago(5_000_000_000, 4_000_000_000), "0 ms ago", "a clock ahead of ours is not an age");
        assert_eq!(
            [microseconds(85), microseconds(-12_345), unsigned_microseconds(3_400_000_000)],
            ["+85 us", "-12.3 ms", "3400.0 s"]
        );
    }

    #[test]
    fn instants_are_dates_across_leap_days_and_centuries() {
        for (s, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_335_878, "2026-11-22T08:24:38Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(instant(s * 1_000_000_000), expected);
        }
    }
}
