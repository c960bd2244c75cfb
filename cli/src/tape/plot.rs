//! A picture of an answer: one panel per series under one axis of time.
//!
//! In: the collector's answer. Out: pixels. A counter is drawn as its rate between each two readings, over the time that
//! really lay between them; a gauge as its value at each reading. Never: a line where nothing was read.

use super::instant;
use super::png::{Canvas, Colour};
use crate::row::Row;
use serde_json::Value;

const WIDTH: i64 = 1200;
const PANEL: i64 = 170;
const LEFT: i64 = 120;
const RIGHT: i64 = 20;
const TOP: i64 = 34;
const BOTTOM: i64 = 46;
/// Between a panel's top and its plot: the title.
const TITLE: i64 = 24;
const SCALE: i64 = 2;
/// Height of a line of text.
const LINE: i64 = 8 * SCALE;

/// What is drawn: between two instants at one height, or a reading at one instant.
struct Step {
    from_ns: u64,
    to_ns: u64,
    height: f64,
}

/// Draws the answer, whose series are these.
pub fn picture(answer: &Row, series: &[Row]) -> Canvas {
    let count = i64::try_from(series.len()).unwrap_or(0);
    let height = TOP + count * PANEL + BOTTOM;
    let mut canvas = Canvas::new(WIDTH as usize, height as usize);
    let (from, to) = (answer.number("from").unwrap_or(0), answer.number("to").unwrap_or(1));
    let middle = from + (to - from) / 2;
    let clock_us = answer.number("clock_uncertainty_us").unwrap_or(0);
    let title = format!("{}  around {}  (clock +-{clock_us} us)", answer.text("host"), instant::rfc3339(middle));
    canvas.text(10, 10, SCALE, &title, Colour::Ink);
    let axis = Axis { from, to };
    for (index, row) in (0i64..).zip(series) {
        panel(&mut canvas, TOP + index * PANEL, row, axis, middle);
    }
    let bottom = TOP + count * PANEL;
    for (tick_ns, text) in axis.ticks(middle) {
        let width = i64::try_from(text.len()).unwrap_or(0) * 6 * SCALE;
        let x = (axis.x(tick_ns) - width / 2).clamp(0, WIDTH - width);
        canvas.text(x, bottom + 6, SCALE, &text, Colour::Ink);
    }
    canvas.text(LEFT, bottom + 26, SCALE, "seconds from the instant asked for", Colour::Ink);
    canvas
}

/// The axis of time.
#[derive(Clone, Copy)]
struct Axis {
    from: u64,
    to: u64,
}

impl Axis {
    fn x(self, at: u64) -> i64 {
        let share = at.saturating_sub(self.from) as f64 / (self.to - self.from).max(1) as f64;
        LEFT + (share * (WIDTH - LEFT - RIGHT) as f64).round() as i64
    }

    /// Round distances from the middle, and how they are written.
    fn ticks(self, middle: u64) -> Vec<(u64, String)> {
        let span_s = (self.to - self.from) as f64 / 1e9;
        let step_s = round_step(span_s / 10.0);
        let decimals = usize::try_from((-step_s.log10().floor()).max(0.0) as i64).unwrap_or(0);
        let count = (span_s / 2.0 / step_s).floor() as i64;
        (-count..=count)
            .map(|index| {
                let offset_s = index as f64 * step_s;
                let at = middle.saturating_add_signed((offset_s * 1e9) as i64);
                (at, if index == 0 { "0".to_owned() } else { format!("{offset_s:+.decimals$}") })
            })
            .collect()
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= least).unwrap_or(least)
}

fn panel(canvas: &mut Canvas, top: i64, row: &Row, axis: Axis, middle: u64) {
    let monotonic = row.flag("monotonic");
    let steps = if monotonic { rates(row) } else { values(row) };
    let readings = row.0.get("readings").and_then(Value::as_array).map_or(0, Vec::len);
    let unit = match (row.text("unit"), monotonic) {
        (unit, true) => format!("{unit}/s"),
        (unit, false) => unit.to_owned(),
    };
    let title = format!("{}  [{unit}]  {readings} readings", row.text("selector"));
    // What does not fit is cut; the selector comes first.
    let fitting: String = title.chars().take(usize::try_from((WIDTH - 20) / (6 * SCALE)).unwrap_or(0)).collect();
    canvas.text(10, top, SCALE, &fitting, Colour::Ink);
    let (upper, lower) = (top + TITLE, top + PANEL - 14);
    let (floor, ceiling) = range(&steps, monotonic);
    let y = |height: f64| lower - ((height - floor) / (ceiling - floor) * (lower - upper) as f64).round() as i64;
    for share in 0..=2 {
        let height = floor + (ceiling - floor) * f64::from(share) / 2.0;
        canvas.fill(LEFT, y(height), WIDTH - RIGHT, y(height), Colour::Grid);
        let text = number(height);
        let width = i64::try_from(text.len()).unwrap_or(0) * 6 * SCALE;
        canvas.text(LEFT - 8 - width, y(height) - LINE / 2 + 1, SCALE, &text, Colour::Ink);
    }
    for (tick, _) in axis.ticks(middle) {
        canvas.fill(axis.x(tick), upper, axis.x(tick), lower, Colour::Grid);
    }
    if monotonic {
        for Step { from_ns, to_ns, height } in &steps {
            canvas.fill(axis.x(*from_ns), y(*height), axis.x(*to_ns), lower, Colour::Shade);
        }
    }
    let mut before: Option<(i64, i64)> = None;
    for Step { from_ns, to_ns, height } in &steps {
        let (x0, x1, at) = (axis.x(*from_ns), axis.x(*to_ns), y(*height));
        if let Some((x, before)) = before.filter(|(x, _)| x0 - x <= 1) {
            canvas.fill(x, before, x, at, Colour::Line);
        }
        canvas.fill(x0, at, x1, at + 1, Colour::Line);
        before = Some((x1, at));
    }
    canvas.fill(axis.x(middle), upper, axis.x(middle), lower, Colour::Mark);
    canvas.fill(LEFT, upper, LEFT, lower, Colour::Ink);
    canvas.fill(LEFT, lower, WIDTH - RIGHT, lower, Colour::Ink);
    if steps.is_empty() {
        canvas.text(LEFT + 20, (upper + lower) / 2 - LINE / 2, SCALE, "nothing was read in this time", Colour::Ink);
    }
}

/// The rate between each two readings. A counter that went back started again or wrapped: no rate.
fn rates(row: &Row) -> Vec<Step> {
    let readings: Vec<_> = row
        .rows("readings")
        .iter()
        .filter_map(|reading| Some((reading.number("at")?, reading.number("value")?)))
        .collect();
    let pairs = readings.windows(2).filter_map(|pair| {
        let ((from_ns, before), (to_ns, after)) = (pair[0], pair[1]);
        let elapsed_s = to_ns.checked_sub(from_ns).filter(|elapsed| *elapsed > 0)? as f64 / 1e9;
        Some(Step { from_ns, to_ns, height: after.checked_sub(before)? as f64 / elapsed_s })
    });
    pairs.collect()
}

/// The value from each reading to the next.
fn values(row: &Row) -> Vec<Step> {
    let readings: Vec<_> = row
        .rows("readings")
        .iter()
        .filter_map(|reading| Some((reading.number("at")?, reading.real("value")?)))
        .collect();
    let until = readings.iter().skip(1).map(|(at, _)| *at).chain(readings.last().map(|(at, _)| *at));
    readings.iter().zip(until).map(|((at, value), until)| Step { from_ns: *at, to_ns: until, height: *value }).collect()
}

/// Of the axis upwards: from zero for rates, with some room about a gauge.
fn range(steps: &[Step], monotonic: bool) -> (f64, f64) {
    let heights = || steps.iter().map(|step| step.height);
    let (least, most) = heights().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), h| (a.min(h), b.max(h)));
    if !least.is_finite() || !most.is_finite() {
        return (0.0, 1.0);
    }
    let floor = if monotonic || (least >= 0.0 && least < most / 2.0) { 0.0 } else { least };
    if most > floor { (floor, most) } else { (floor, floor + floor.abs().max(1.0)) }
}

/// Three digits and a prefix.
fn number(value: f64) -> String {
    let (scaled, prefix) = match value.abs() {
        a if a >= 1e12 => (value / 1e12, "T"),
        a if a >= 1e9 => (value / 1e9, "G"),
        a if a >= 1e6 => (value / 1e6, "M"),
        a if a >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        a if a == 0.0 || a >= 100.0 || (a.fract() == 0.0 && a >= 1.0) => 0,
        a if a >= 10.0 => 1,
        a if a >= 0.1 => 2,
        _ => 4,
    };
    format!("{scaled:.decimals$}{prefix}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        Row::one(value, "test").unwrap()
    }

    #[test]
    fn a_counter_is_drawn_by_the_time_that_really_passed() {
        let counter = row(json!({"readings": [
            {"at": 1_000_000_000u64, "value": 100}, {"at": 1_500_000_000u64, "value": 200},
            {"at": 3_500_000_000u64, "value": 200}, {"at": 4_500_000_000u64, "value": 5},
            {"at": 5_500_000_000u64, "value": 6}]}));
        let rates: Vec<_> = rates(&counter).iter().map(|step| (step.from_ns / 100_000_000, step.height)).collect();
        assert_eq!(rates, [(10, 200.0), (15, 0.0), (45, 1.0)], "the step back has no rate");
    }

    #[test]
    fn an_answer_becomes_a_picture_with_a_burst_where_it_was() {
        let readings: Vec<_> = (0..=100u64)
            .map(|i| json!({"at": 10_000_000_000 + i * 10_000_000, "value": if i > 50 { 1000 } else { 0 }}))
            .collect();
        let answer = row(json!({"host": "h", "from": 10_000_000_000u64, "to": 11_000_000_000u64,
            "clock_uncertainty_us": 5}));
        let series = [row(json!({"selector": "x@y", "unit": "By", "monotonic": true, "readings": readings}))];
        let canvas = picture(&answer, &series);
        let burst = axis_x(0.505);
        let (upper, lower) = ((TOP + TITLE) as usize, (TOP + PANEL - 14) as usize);
        let is_shaded = |x: usize| (upper..lower).filter(|y| canvas.at(x, *y) == Colour::Shade as u8).count() > 50;
        assert!(is_shaded(burst), "the burst");
        assert!(!is_shaded(axis_x(0.3)) && !is_shaded(axis_x(0.7)), "and nothing else");
        assert!(canvas.png().starts_with(b"\x89PNG"));
    }

    fn axis_x(share: f64) -> usize {
        (LEFT as f64 + share * (WIDTH - LEFT - RIGHT) as f64).round() as usize
    }

    #[test]
    fn numbers_and_ticks_are_round() {
        for (value, text) in
            [(0.0, "0"), (1.0, "1"), (999.0, "999"), (1500.0, "1.50k"), (2e9, "2G"), (0.25, "0.25"), (12.34, "12.3")]
        {
            assert_eq!(number(value), text);
        }
        for (least, step) in [(1.0, 1.0), (1.1, 2.0), (0.03, 0.05), (0.6, 1.0)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}");
        }
    }
}
