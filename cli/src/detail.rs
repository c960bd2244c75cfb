//! One incident or one decision, in full, for a person who has to judge it. Pure: rows in, text out.

use crate::human;
use crate::listings::{ALTERNATIVES, DECISIONS, GUARDS, INVENTORY_CHANGES, SIGNALS, decision_tone, severity_tone};
use crate::row::Row;
use crate::table::{Tone, visible};
use std::fmt::Write;

/// An incident with its hypotheses, evidence, decisions and signals.
pub fn incident(row: &Row, now_ns: u64, colour: bool) -> String {
    let mut out = String::new();
    let severity = row.text("severity");
    line(&mut out, format_args!("Incident {}: {}", id(row, "id"), visible(row.text("title"))));
    fact(&mut out, "severity", &severity_tone(severity).paint(severity, colour));
    fact(&mut out, "state", row.text("state"));
    fact(&mut out, "element", &visible(&row.element("element")));
    for (name, field) in
        [("began", "started"), ("opened", "opened"), ("quiet since", "quiet_since"), ("resolved", "resolved")]
    {
        if let Some(then) = row.number(field) {
            fact(&mut out, name, &format!("{} ({})", human::instant(then), human::ago(then, now_ns)));
        }
    }
    fact(&mut out, "detector", &format!("{}, {} signals joined", row.text("detector"), id(row, "signal_count")));
    if row.flag("late") {
        fact(&mut out, "late", "known only from signals that came long after the fact: nothing acts on it");
    }
    if row.flag("tape_kept") {
        fact(&mut out, "readings", &format!("kept: railwatch tape --incident {}", id(row, "id")));
    }
    if let Some(since) = row.number("incomplete_since") {
        let text = format!("some evidence was lossy since {}: no action rests on it", human::instant(since));
        fact(&mut out, "incomplete", &Tone::Warn.paint(&text, colour));
    }
    let changes = row.rows("changes");
    if !changes.is_empty() {
        section(
            &mut out,
            "Changed on its host, from 10 minutes before to one after",
            &INVENTORY_CHANGES.table(&changes, now_ns, colour),
        );
    }
    for hypothesis in row.rows("hypotheses") {
        let posterior = hypothesis.real("posterior").unwrap_or_default();
        line(
            &mut out,
            format_args!(
                "\n{posterior:.2}  {} on {}",
                hypothesis.text("fault_mode"),
                visible(&hypothesis.element("element"))
            ),
        );
        for (sign, field) in [("  + ", "evidence_for"), ("  - ", "evidence_against")] {
            for sentence in hypothesis.texts(field) {
                line(&mut out, format_args!("{sign}{}", visible(sentence)));
            }
        }
    }
    for decision in row.rows("decisions") {
        out.push('\n');
        out.push_str(&self::decision(&decision, now_ns, colour));
    }
    if row.number("signal_count") != Some(0) {
        section(&mut out, "Signals", &SIGNALS.table(&row.rows("signals"), now_ns, colour));
    }
    out
}

/// A decision with its alternatives and guards.
pub fn decision(row: &Row, now_ns: u64, colour: bool) -> String {
    let mut out = String::new();
    let state = row.text("state");
    line(
        &mut out,
        format_args!(
            "Decision {}: {} on {}",
            id(row, "id"),
            visible(row.text("action")),
            visible(&row.element("target"))
        ),
    );
    fact(&mut out, "state", &decision_tone(state).paint(state, colour));
    fact(&mut out, "incident", &id(row, "incident"));
    if let Some(then) = row.number("proposed") {
        fact(&mut out, "proposed", &format!("{} ({})", human::instant(then), human::ago(then, now_ns)));
    }
    for (name, field) in [("judged by", "actor"), ("outcome", "outcome")] {
        if !row.text(field).is_empty() {
            fact(&mut out, name, &visible(row.text(field)));
        }
    }
    section(&mut out, "Alternatives", &ALTERNATIVES.table(&row.rows("alternatives"), now_ns, colour));
    section(&mut out, "Guards", &GUARDS.table(&row.rows("guards"), now_ns, colour));
    if matches!(state, "proposed" | "withheld") {
        line(&mut out, format_args!("\n  railwatch approve {0}    or    railwatch reject {0}", id(row, "id")));
    }
    out
}

/// What a verdict came to, in one or two lines.
pub fn verdict(row: &Row, colour: bool) -> String {
    DECISIONS.table(std::slice::from_ref(row), row.number("updated").unwrap_or_default(), colour)
}

fn id(row: &Row, field: &str) -> String {
    row.number(field).map_or("?".into(), |number| number.to_string())
}

fn fact(out: &mut String, name: &str, text: &str) {
    line(out, format_args!("  {name:<12} {text}"));
}

fn section(out: &mut String, name: &str, body: &str) {
    line(out, format_args!("\n  {name}"));
    for text in body.lines() {
        line(out, format_args!("    {text}"));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}
