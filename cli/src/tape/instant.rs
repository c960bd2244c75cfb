//! Instants as people write them: RFC 3339, or how long ago.

/// `-30s`, `-500ms`, `-2m`, `-1h`: milliseconds before now.
pub fn ago_ms(text: &str) -> Option<u64> {
    let rest = text.strip_prefix('-')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = rest.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// An RFC 3339 instant, section 5.6, with any number of decimals up to nanoseconds, as Unix nanoseconds.
pub fn unix_ns(text: &str) -> Option<u64> {
    let (date, time) = text.split_at_checked(10)?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (whole, decimals) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut of_day = whole.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (of_day.next()??, of_day.next()??, of_day.next()??);
    let offset_s = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let offset = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if zone.starts_with('-') { -offset } else { offset }
        }
    };
    let is_real = (1970..=2500).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let has_decimals = (1..=9).contains(&decimals.len()) && decimals.bytes().all(|byte| byte.is_ascii_digit());
    if !is_real || !has_decimals {
        return None;
    }
    let nanoseconds = decimals.parse::<u64>().ok()? * 10u64.pow(9 - u32::try_from(decimals.len()).ok()?);
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset_s;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// Days since 1970: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// With milliseconds, in UTC.
pub fn rfc3339(unix_ns: u64) -> String {
    let seconds = crate::human::instant(unix_ns);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), unix_ns / 1_000_000 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_as_rfc_3339_writes_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00.250Z", Some(951_782_400_250_000_000)),
            ("2000-02-29 01:00:00.000000001+01:00", Some(951_782_400_000_000_001)),
            ("2000-02-28T20:00:00-04:00", Some(951_782_400_000_000_000)),
            ("2026-11-22T08:24:38Z", Some(1_795_335_878_000_000_000)),
            ("2026-13-22T08:24:38Z", None),
            ("2026-11-22T08:24Z", None),
            ("2026-11-22T08:24:38", None),
            ("2026-11-22T08:24:38.Z", None),
            ("yesterday", None),
            ("é026-11-22T08:24:38Z", None),
            ("", None),
        ] {
            assert_eq!(unix_ns(text), expected, "{text}");
        }
        assert_eq!(rfc3339(951_782_400_250_000_000), "2000-02-29T00:00:00.250Z");
    }

    #[test]
    fn ages_have_a_sign_a_number_and_a_unit() {
        for (text, expected) in [
            ("-30s", Some(30_000)),
            ("-500ms", Some(500)),
            ("-2m", Some(120_000)),
            ("30s", None),
            ("-s", None),
            ("-3", None),
            ("-3d", None),
        ] {
            assert_eq!(ago_ms(text), expected, "{text}");
        }
    }
}
