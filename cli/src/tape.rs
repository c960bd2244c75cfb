//! `railwatch tape`: a host's readings around an instant, as JSON or as a picture; or what series it has.
//!
//! In: a host, selectors, an instant as a person says it. Out: the collector's answer as it is, or a PNG of it ([`plot`]).
//! An instant relative to now is left to the collector's clock. Never: an instant computed with this machine's clock.

mod font;
pub mod instant;
mod kept;
mod plot;
mod png;

use crate::args::{Format, Tape, TapeFormat};
use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::output::{Output, shaped};
use crate::percent_encoded;
use crate::row::Row;
use serde_json::Value;
use std::io::{IsTerminal, stdout};

/// Series in one picture: more would be too small to read.
const PANELS_MAX: usize = 12;

/// Runs the command.
pub fn tape(client: &Client, tape: &Tape, out: &mut Output) -> Result<(), Failure> {
    if let Some(id) = tape.incident {
        let path = format!("/v1/incidents/{id}/tape");
        let mut row = Row::one(client.get(&path)?, &path)?;
        kept::choose(&mut row, &tape.series);
        return show(tape, row, out);
    }
    let host = percent_encoded(tape.host.as_deref().unwrap_or_default());
    if tape.list {
        return list(client, &host, tape.output, out);
    }
    if tape.output == Some(TapeFormat::Png) && tape.file.is_none() && stdout().is_terminal() {
        return Err(Failure::new(
            Kind::Usage,
            "a PNG cannot be shown on a terminal",
            "write it to a file: --file FILE, or > FILE",
        ));
    }
    let mut query: Vec<String> = tape.series.iter().map(|text| format!("series={}", percent_encoded(text))).collect();
    query.push(format!("span_ms={}", tape.span.as_millis()));
    query.extend(around(client, tape.around.as_deref().unwrap_or("-0s"))?);
    let path = format!("/v1/hosts/{host}/tape?{}", query.join("&"));
    let answer = client.get(&path)?;
    notes(&answer);
    show(tape, Row::one(answer, &path)?, out)
}

fn show(tape: &Tape, mut row: Row, out: &mut Output) -> Result<(), Failure> {
    if tape.output == Some(TapeFormat::Png) {
        kept::readings(&mut row);
        let series = row.rows("series");
        if series.len() > PANELS_MAX {
            return Err(Failure::new(
                Kind::Usage,
                format!("{} series match; a picture shows at most {PANELS_MAX}", series.len()),
                "name fewer: NAME{label=value}@ENTITY; --list shows them; -o json has no such limit",
            ));
        }
        return write(tape, &plot::picture(&row, &series).png(), out);
    }
    write(tape, shaped(Format::Json, &row.0, String::new)?.as_bytes(), out)
}

fn list(client: &Client, host: &str, format: Option<TapeFormat>, out: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/hosts/{host}/series");
    let answer = client.get(&path)?;
    if format == Some(TapeFormat::Json) {
        return out.write(&shaped(Format::Json, &answer, String::new)?);
    }
    let rows = Row::list(answer, &path)?;
    let lines: Vec<_> = rows.iter().map(|row| format!("{}  {}\n", row.text("selector"), row.text("unit"))).collect();
    out.write(&lines.concat())
}

/// The part of the query that says when.
fn around(client: &Client, text: &str) -> Result<Vec<String>, Failure> {
    Ok(match when(client, text)? {
        When::Instant(unix_ns) => vec![format!("around={unix_ns}")],
        When::Ago(ms) => vec![format!("ago_ms={ms}")],
    })
}

/// An instant as a person gave it, in Unix nanoseconds; an age counts from `now_ns`, by this host's clock.
pub fn instant_of(client: &Client, text: &str, now_ns: u64) -> Result<u64, Failure> {
    Ok(match when(client, text)? {
        When::Instant(unix_ns) => unix_ns,
        When::Ago(ms) => now_ns.saturating_sub(ms.saturating_mul(1_000_000)),
    })
}

enum When {
    /// Unix nanoseconds.
    Instant(u64),
    /// Milliseconds before now.
    Ago(u64),
}

fn when(client: &Client, text: &str) -> Result<When, Failure> {
    if let Some(id) = text.strip_prefix("incident:") {
        let Ok(id) = id.parse::<u64>() else {
            return Err(Failure::new(Kind::Usage, format!("--around {text}: expected incident:NUMBER"), ""));
        };
        let path = format!("/v1/incidents/{id}");
        let incident = Row::one(client.get(&path)?, &path)?;
        let Some(started_ns) = incident.number("started") else {
            let what = format!("the collector's answer to {path} lacks the field \"started\"");
            return Err(Failure::new(Kind::Unexpected, what, "compare versions with `railwatch version`"));
        };
        return Ok(When::Instant(started_ns));
    }
    if let Some(ago_ms) = instant::ago_ms(text) {
        return Ok(When::Ago(ago_ms));
    }
    instant::unix_ns(text).map(When::Instant).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("--around {text:?} is no instant"),
            "give an RFC 3339 time such as 2026-11-22T08:24:38.250Z, an age such as -30s, or incident:NUMBER",
        )
    })
}

/// What the answer lacks is said on standard error, beside it.
fn notes(answer: &Value) {
    if answer.get("cut") == Some(&Value::Bool(true)) {
        eprintln!(
            "railwatch: note: more readings were there than one answer holds: a shorter --span or fewer series show all"
        );
    }
    let (from, since) =
        (answer.get("from").and_then(Value::as_u64), answer.get("complete_since").and_then(Value::as_u64));
    if let (Some(from), Some(since)) = (from, since)
        && from < since
    {
        eprintln!("railwatch: note: the tape holds every reading only from {} on", instant::rfc3339(since));
    }
}

fn write(tape: &Tape, bytes: &[u8], out: &mut Output) -> Result<(), Failure> {
    match &tape.file {
        None => out.write_bytes(bytes),
        Some(path) => std::fs::write(path, bytes).map_err(|error| {
            Failure::new(Kind::Usage, format!("cannot write {}: {error}", path.display()), "name another file")
        }),
    }
}
