//! What the series of a port say of its health: errors, pause, forward error correction.
//!
//! In: the series of one port as its row shows them. Out: the derived fields of that row. Never: a zero where nothing was read.

use super::rows::{FecRow, PauseRow, SeriesRow};
use std::collections::BTreeMap;

/// Errors of all kinds. Interfaces count every kind in `hw.network.errors` already; RDMA ports do not.
pub(super) fn errors(series: &[SeriesRow]) -> Option<u64> {
    let counts = series.iter().filter(|series| {
        series.count > 0 && (series.name == "hw.network.errors" || series.name.starts_with("rdma.port.errors"))
    });
    counts.map(|series| series.delta).reduce(u64::saturating_add)
}

/// Priorities with flow control on.
pub(super) fn pfc_priorities(series: &[SeriesRow]) -> Option<Vec<u8>> {
    let told: Vec<_> = series.iter().filter(|series| series.name == "hw.network.pfc.enabled").collect();
    let is_on = |series: &&&SeriesRow| series.last.is_some_and(|last| last >= 1.0);
    (!told.is_empty()).then(|| told.iter().filter(is_on).filter_map(|series| priority(series)).collect())
}

/// Pause by kind, priority and direction.
pub(super) fn pause(series: &[SeriesRow]) -> Vec<PauseRow> {
    let mut rows: BTreeMap<_, PauseRow> = BTreeMap::new();
    for series in series {
        let (kind, is_time) = match series.name.as_str() {
            "hw.network.pfc.pause_frames" => ("pfc", false),
            "hw.network.pfc.pause_time" => ("pfc", true),
            "hw.network.pause_frames" => ("802.3x", false),
            "hw.network.pause_time" => ("802.3x", true),
            _ => continue,
        };
        let direction = series.labels.get("network.io.direction").cloned().unwrap_or_default();
        let priority = priority(series);
        let row = rows.entry((kind, priority, direction.clone())).or_insert_with(|| PauseRow {
            priority,
            direction,
            kind: kind.to_owned(),
            frames_per_s: None,
            time_percent: None,
        });
        if is_time {
            // Nanoseconds of pause per second.
            row.time_percent = series.mean.map(|mean| mean / 1e7);
        } else {
            row.frames_per_s = series.mean;
        }
    }
    rows.into_values().collect()
}

/// Forward error correction.
pub(super) fn fec(series: &[SeriesRow]) -> Option<FecRow> {
    let of = |name: &str| series.iter().find(|series| series.name.strip_prefix("hw.network.fec.") == Some(name));
    let (corrected, uncorrectable, bits) = (of("corrected_blocks"), of("uncorrectable_blocks"), of("corrected_bits"));
    let is_told = corrected.or(uncorrectable).or(bits).is_some();
    is_told.then(|| FecRow {
        corrected_blocks_per_s: corrected.and_then(|series| series.mean),
        uncorrectable_blocks_per_s: uncorrectable.and_then(|series| series.mean),
        corrected_bits_per_s: bits.and_then(|series| series.mean),
    })
}

fn priority(series: &SeriesRow) -> Option<u8> {
    series.labels.get("network.priority")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, labels: &[(&str, &str)], mean: f64, delta: u64) -> SeriesRow {
        SeriesRow {
            name: name.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            unit: String::new(),
            monotonic: true,
            count: 1,
            mean: Some(mean),
            min: None,
            max: None,
            last: Some(mean),
            delta,
            resets: 0,
            flags: Vec::new(),
            incomplete_since: None,
        }
    }

    #[test]
    fn frames_and_time_of_a_priority_are_one_row_and_what_is_not_told_is_null() {
        let received = [("network.priority", "3"), ("network.io.direction", "receive")];
        let series = [
            row("hw.network.pfc.pause_frames", &received, 700.0, 700),
            row("hw.network.pfc.pause_time", &received, 4.1e8, 410_000_000),
            row("hw.network.pause_frames", &received[1..], 5.0, 5),
            row("hw.network.pfc.enabled", &received[..1], 1.0, 0),
            row("hw.network.pfc.enabled", &[("network.priority", "4")], 0.0, 0),
            row("hw.network.fec.corrected_blocks", &received[1..], 9.0, 9),
        ];
        let told: Vec<_> = pause(&series)
            .into_iter()
            .map(|row| (row.kind, row.priority, row.direction, row.frames_per_s, row.time_percent))
            .collect();
        let receive = || "receive".to_owned();
        assert_eq!(
            told,
            [
                ("802.3x".to_owned(), None, receive(), Some(5.0), None),
                ("pfc".to_owned(), Some(3), receive(), Some(700.0), Some(41.0))
            ]
        );
        assert_eq!(pfc_priorities(&series), Some(vec![3]));
        let fec = fec(&series).map(|fec| (fec.corrected_blocks_per_s, fec.uncorrectable_blocks_per_s));
        assert_eq!(fec, Some((Some(9.0), None)));
    }

    #[test]
    fn a_port_that_says_nothing_has_nulls_and_no_zeros() {
        assert_eq!((errors(&[]), pfc_priorities(&[]), pause(&[]), fec(&[])), (None, None, Vec::new(), None));
        let rdma = [row("rdma.port.errors", &[], 0.0, 2), row("rdma.port.errors.symbol", &[], 0.0, 3)];
        assert_eq!(errors(&rdma), Some(5));
        assert_eq!(errors(&[row("hw.network.errors", &[], 0.0, 0)]), Some(0));
    }
}
