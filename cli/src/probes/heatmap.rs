//! A picture of all pairs: who loses, and whose packets take long.
//!
//! In: rows of pairs. Out: two squares of cells, senders down and targets across, by loss and by fabric delay against that of most pairs. A pair
//! that is not probed is white, one of which nothing is known grey. Never: a colour for what was not measured.

use crate::row::Row;
use crate::tape::font;
use crate::tape::png::{Canvas, Colour};
use std::collections::{BTreeMap, BTreeSet};

const MARGIN: i64 = 12;
const TOP: i64 = 44;
/// Widest square, pixels.
const SQUARE_MAX: i64 = 1400;
/// NICs whose names are written.
const NAMED_MAX: usize = 64;
/// From this on, loss is so bad: the first fault, then by tens.
const LOSS: [(f64, Colour, &str); 4] = [
    (0.1, Colour::Mark, ">= 10 %"),
    (0.01, Colour::Much, ">= 1 %"),
    (0.001, Colour::Some, ">= 0.1 %"),
    (0.0, Colour::Slight, "less"),
];
/// Against the median of all pairs' medians.
const DELAY: [(f64, Colour, &str); 4] = [
    (8.0, Colour::Mark, ">= 8 x"),
    (4.0, Colour::Much, ">= 4 x"),
    (2.0, Colour::Some, ">= 2 x"),
    (1.5, Colour::Slight, ">= 1.5 x"),
];

/// Draws the pairs.
pub(super) fn picture(rows: &[Row]) -> Canvas {
    let end_of = |row: &Row, end: &str| End {
        interface: row.text(&format!("{end}_interface")).to_owned(),
        rank: row.number(&format!("{end}_rank")).unwrap_or(u64::MAX),
        host: row.text(&format!("{end}_host")).to_owned(),
    };
    let pairs: BTreeMap<(End, End), &Row> =
        rows.iter().map(|row| ((end_of(row, "source"), end_of(row, "target")), row)).collect();
    let ends: BTreeSet<&End> = pairs.keys().flat_map(|(from, to)| [from, to]).collect();
    let ends: Vec<&End> = ends.into_iter().collect();
    let count = i64::try_from(ends.len()).unwrap_or(1).max(1);
    let is_named = ends.len() <= NAMED_MAX;
    let cell = (SQUARE_MAX / count).clamp(1, 14);
    let longest = ends.iter().map(|end| end.label().chars().count()).max().unwrap_or(0);
    let label = if is_named { i64::try_from(longest).unwrap_or(0) * font::ADVANCE + 8 } else { 0 };
    let side = (count * cell).max(330);
    let width = 2 * (label + side) + 3 * MARGIN;
    let height = TOP + count * cell + 40;
    let mut canvas = Canvas::new(usize::try_from(width).unwrap_or(1), usize::try_from(height).unwrap_or(1));
    let mut medians: Vec<f64> = rows.iter().filter_map(|row| row.real("fabric_us_p50")).collect();
    medians.sort_by(f64::total_cmp);
    let usual = medians.get(medians.len() / 2).copied().unwrap_or(0.0);
    let by_loss = |row: &Row| row.real("loss").map(|loss| if loss > 0.0 { grade(loss, &LOSS) } else { Colour::Fine });
    let by_delay = |row: &Row| row.real("fabric_us_p50").map(|us| grade(us / usual.max(f64::MIN_POSITIVE), &DELAY));
    let delay = format!("delay (usual: {usual:.0} us)");
    type Shade<'s> = &'s dyn Fn(&Row) -> Option<Colour>;
    let panels: [(&str, Shade<'_>, _); 2] = [("loss", &by_loss, &LOSS), (&delay, &by_delay, &DELAY)];
    for (at, (title, shade, grades)) in (0i64..).zip(panels) {
        let left = MARGIN + at * (label + side + MARGIN);
        canvas.text(left + label, 8, 2, title, Colour::Ink);
        for (row, from) in (0i64..).zip(&ends) {
            let y = TOP + row * cell;
            if is_named {
                canvas.text(left, y + (cell - 8) / 2, 1, &from.label(), Colour::Ink);
            }
            for (column, to) in (0i64..).zip(&ends) {
                let Some(pair) = pairs.get(&((*from).clone(), (*to).clone())) else { continue };
                let x = left + label + column * cell;
                let gap = i64::from(cell > 3);
                canvas.fill(x, y, x + cell - 1 - gap, y + cell - 1 - gap, shade(pair).unwrap_or(Colour::Grid));
            }
        }
        let mut x = left + label;
        let y = TOP + count * cell + 14;
        for (colour, text) in
            std::iter::once((Colour::Fine, "fine")).chain(grades.iter().rev().map(|(_, colour, text)| (*colour, *text)))
        {
            canvas.fill(x, y, x + 7, y + 7, colour);
            canvas.text(x + 11, y, 1, text, Colour::Ink);
            x += 20 + i64::try_from(text.len()).unwrap_or(0) * font::ADVANCE;
        }
    }
    canvas
}

/// A NIC. Pairs of one rail lie together, of a job in the order of its ranks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    interface: String,
    /// The greatest number where no job was asked for.
    rank: u64,
    host: String,
}

impl End {
    /// "eth0 host3", of a job "eth0 8 host3".
    fn label(&self) -> String {
        let Self { interface, rank, host } = self;
        if *rank == u64::MAX { format!("{interface} {host}") } else { format!("{interface} {rank} {host}") }
    }
}

/// The worst grade that is reached.
fn grade(value: f64, grades: &[(f64, Colour, &str)]) -> Colour {
    grades.iter().find(|(from, ..)| value >= *from).map_or(Colour::Fine, |(_, colour, _)| *colour)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pair_that_loses_stands_out_and_one_that_is_not_probed_stays_white() {
        let row = |from: &str, to: &str, loss: Option<f64>, us: Option<f64>| {
            let row = json!({"source_host": from, "source_interface": "e", "target_host": to, "target_interface": "e", "loss": loss, "fabric_us_p50": us});
            Row::one(row, "").unwrap()
        };
        let rows = [
            row("a", "b", Some(0.0), Some(20.0)),
            row("b", "a", Some(0.5), Some(20.0)),
            row("b", "c", None, None),
            row("c", "b", Some(0.004), Some(100.0)),
        ];
        let canvas = picture(&rows);
        let label = 3 * font::ADVANCE + 8;
        let at = |panel: i64, from: i64, to: i64| {
            let x = MARGIN + panel * (label + 330 + MARGIN) + label + to * 14 + 3;
            canvas.at(usize::try_from(x).unwrap(), usize::try_from(TOP + from * 14 + 3).unwrap())
        };
        for (panel, from, to, colour) in [
            (0, 0, 1, Colour::Fine),
            (0, 1, 0, Colour::Mark),
            (0, 1, 2, Colour::Grid),
            (0, 2, 1, Colour::Some),
            (0, 0, 2, Colour::Paper),
            (1, 0, 1, Colour::Fine),
            (1, 2, 1, Colour::Much),
        ] {
            assert_eq!(at(panel, from, to), colour as u8, "{panel} {from} {to}");
        }
        picture(&[]).png();
        let end = |rank, host: &str| End { interface: "eth0".into(), rank, host: host.into() };
        assert!(end(2, "b") < end(10, "a") && end(10, "a").label() == "eth0 10 a");
        assert_eq!(end(u64::MAX, "a").label(), "eth0 a");
    }
}
