//! The piece of tape that the collector kept for an incident: readings by columns, instants as differences.

use crate::row::Row;
use serde_json::{Value, json};

/// Leaves the series that are named: by name, NAME@ENTITY or whole selector. All where none is named.
pub fn choose(piece: &mut Row, named: &[String]) {
    if named.is_empty() {
        return;
    }
    if let Some(Value::Array(series)) = piece.0.get_mut("series") {
        series.retain(|series| {
            let text = |field: &str| series.get(field).and_then(Value::as_str).unwrap_or_default();
            let short = format!("{}@{}", text("name"), text("entity"));
            named.iter().any(|name| [text("name"), text("selector"), &short].contains(&name.as_str()))
        });
    }
}

/// Gives each series of a kept piece the readings that a fresh one has.
pub fn readings(piece: &mut Row) {
    for series in piece.0.get_mut("series").and_then(Value::as_array_mut).into_iter().flatten() {
        let column = |name: &str| series.get(name).and_then(Value::as_array).cloned();
        let (Some(differences), Some(values)) = (column("at_differences"), column("value")) else { continue };
        let mut at = 0u64;
        let readings = differences.iter().zip(values).map(|(difference, value)| {
            at = at.wrapping_add_signed(difference.as_i64().unwrap_or(0));
            json!({"at": at, "value": value})
        });
        let readings: Vec<_> = readings.collect();
        series["readings"] = readings.into();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    fn piece() -> Row {
        let series = |selector: &str, name: &str| {
            json!({"selector": selector, "name": name, "entity": "eth0", "at_differences": [1000, 10, -1],
                "half_width_ns": [1, 1, 1], "value": [5, 6, u64::MAX]})
        };
        Row::one(
            json!({"series": [series("a{d=x}@eth0", "a"), series("a{d=y}@eth0", "a"), series("b@eth0", "b")]}),
            "x",
        )
        .unwrap()
    }

    #[test]
    fn columns_become_readings_with_instants_of_their_own() {
        let mut piece = piece();
        readings(&mut piece);
        let expected = json!([{"at": 1000, "value": 5}, {"at": 1010, "value": 6}, {"at": 1009, "value": u64::MAX}]);
        assert_eq!(piece.rows("series")[0].0["readings"], expected);
    }

    #[test]
    fn series_are_chosen_by_any_of_their_names() {
        for (named, count) in [(&[][..], 3), (&["a"], 2), (&["a@eth0", "b"], 3), (&["a{d=y}@eth0"], 1), (&["c"], 0)] {
            let mut piece = piece();
            choose(&mut piece, &named.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            assert_eq!(piece.rows("series").len(), count, "{named:?}");
        }
    }
}
