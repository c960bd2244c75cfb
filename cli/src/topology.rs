//! `railwatch topology` and `railwatch path`: the map, and the ways of a flow.
//!
//! Flows in: answers of the API. Flows out: tables, JSON, YAML; the map as a picture ([`drawing`]) or for Graphviz. It knows no more of the
//! fabric than the answer says.

pub mod drawing;

use crate::args::{Format, Path, Topology, TopologyFormat};
use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::output::{Output, shaped};
use crate::row::Row;
use crate::table::{Cell, Tone, render};
use crate::tape::instant;
use crate::watch::now_ns;
use crate::{percent_encoded, tape};
use serde_json::Value;

/// Does what is asked of the map.
pub fn topology(client: &Client, asked: &Topology, out: &mut Output) -> Result<(), Failure> {
    let mut query = Vec::new();
    for (name, text) in [("at", &asked.at), ("since", &asked.since)] {
        if let Some(text) = text {
            query.push(format!("{name}={}", tape::instant_of(client, text, now_ns())?));
        }
    }
    let is_change = asked.since.is_some();
    let drawn = matches!(asked.output, TopologyFormat::Dot | TopologyFormat::Svg);
    if is_change && drawn {
        return Err(Failure::new(
            Kind::Usage,
            "what changed has no picture",
            "ask for a table or JSON, or draw the map --at an instant",
        ));
    }
    let path = if query.is_empty() { "/v1/topology".to_owned() } else { format!("/v1/topology?{}", query.join("&")) };
    let answer = client.get(&path)?;
    let row = Row::one(answer.clone(), &path)?;
    let text = match asked.output {
        TopologyFormat::Dot => drawing::dot(&row),
        TopologyFormat::Svg => drawing::svg(&row),
        TopologyFormat::Json => shaped(Format::Json, &answer, String::new)?,
        TopologyFormat::Yaml => shaped(Format::Yaml, &answer, String::new)?,
        TopologyFormat::Table if is_change => changes(&row, out.colour),
        TopologyFormat::Table => links(&row, out.colour),
    };
    out.write(&text)
}

fn sources(row: &Row) -> Cell {
    Cell::text(row.texts("sources").join(", "))
}

fn confidence(row: &Row) -> Cell {
    Cell::number(row.real("confidence").map_or_else(|| "-".to_owned(), |likely| format!("{likely:.4}")))
}

fn since(row: &Row) -> Cell {
    Cell::text(row.number("since").map(instant::rfc3339).unwrap_or_default())
}

fn links(row: &Row, colour: bool) -> String {
    let links = row.rows("links");
    let of = |kind: &str| row.rows("nodes").iter().filter(|node| node.text("kind") == kind).count();
    let mut text = format!("{} hosts, {} switches, {} links\n", of("host"), of("switch"), links.len());
    if !links.is_empty() {
        let line = |link: &Row| {
            let state = if link.flag("up") { Cell::text("up") } else { Cell::text("down").tone(Tone::Bad) };
            vec![Cell::text(link.text("name")), state, confidence(link), sources(link), since(link)]
        };
        let lines: Vec<_> = links.iter().map(line).collect();
        text += &render(&["LINK", "STATE", "CONFIDENCE", "SOURCES", "SINCE"], &lines, colour);
    }
    let contradictions = row.rows("contradictions");
    if !contradictions.is_empty() {
        let line = |found: &Row| {
            let cell = |field| Cell::text(found.text(field));
            vec![cell("kind").tone(Tone::Warn), cell("about"), cell("believed"), cell("other")]
        };
        let lines: Vec<_> = contradictions.iter().map(line).collect();
        text += &format!("\n{}", render(&["CONTRADICTION", "ABOUT", "BELIEVED", "NOT BELIEVED"], &lines, colour));
    }
    let unknown = row.rows("unknown");
    if !unknown.is_empty() {
        let line = |found: &Row| {
            vec![
                Cell::text(found.text("kind")).tone(Tone::Warn),
                Cell::text(found.text("about")),
                Cell::text(found.text("why")),
            ]
        };
        let lines: Vec<_> = unknown.iter().map(line).collect();
        text += &format!("\n{}", render(&["UNKNOWN", "ABOUT", "WHY"], &lines, colour));
    }
    if let Some(beyond) = row.number("beyond").filter(|beyond| *beyond > 0) {
        text += &format!("\nand {beyond} more contradictions and unknown things\n");
    }
    text
}

fn changes(row: &Row, colour: bool) -> String {
    let found = row.rows("changes");
    if found.is_empty() {
        return "Nothing of the map changed.\n".to_owned();
    }
    let said = |change: &Row, when: &str| {
        if change.0.get(when).is_none_or(Value::is_null) {
            return Cell::text("-");
        }
        let state = change.row(when).row("state").0;
        let shown = state.iter().filter(|(field, value)| {
            !matches!(field.as_str(), "kind" | "name" | "a" | "b" | "node" | "port" | "outer" | "inner")
                && !value.is_null()
        });
        let shown: Vec<_> = shown.map(|(field, value)| format!("{field}={value}")).collect();
        Cell::text(if shown.is_empty() { "there".to_owned() } else { shown.join(" ") })
    };
    let line = |change: &Row| {
        let at = Cell::text(change.number("at").map(instant::rfc3339).unwrap_or_default());
        vec![at, Cell::text(change.text("fact")), said(change, "before"), said(change, "after")]
    };
    let lines: Vec<_> = found.iter().map(line).collect();
    let mut text = render(&["AT", "FACT", "BEFORE", "AFTER"], &lines, colour);
    if row.flag("cut") {
        text += "and more: --at bounds them on the other side\n";
    }
    text
}

/// Does what is asked of a flow.
pub fn path(client: &Client, asked: &Path, out: &mut Output) -> Result<(), Failure> {
    let mut query =
        vec![format!("from={}", percent_encoded(&asked.source)), format!("to={}", percent_encoded(&asked.destination))];
    for (name, port) in [("source_port", asked.sport), ("destination_port", asked.dport)] {
        query.extend(port.map(|port| format!("{name}={port}")));
    }
    if asked.tcp {
        query.push("transport=tcp".to_owned());
    }
    let path = format!("/v1/path?{}", query.join("&"));
    let answer = client.get(&path)?;
    let row = Row::one(answer.clone(), &path)?;
    let text =
        shaped(asked.shape.output, &answer, || format!("there  {}back   {}", side(&row), side(&row.row("back"))))?;
    out.write(&text)
}

fn side(row: &Row) -> String {
    let how = if row.flag("exact") { "exact" } else { "one of these" };
    let mut text = format!("{how}: {}\n", crate::table::visible(row.text("why")));
    for path in row.rows("paths") {
        let likely = path.real("probability").unwrap_or_default();
        let elements = path.rows("elements");
        let names: Vec<_> = elements
            .iter()
            .filter(|element| matches!(element.text("kind"), "gpu" | "nic" | "link"))
            .map(|element| match element.text("kind") {
                "link" => element.text("direction").to_owned(),
                kind => format!("{kind} {}", element.text("name")),
            })
            .collect();
        text += &format!("{:>6.2} %  {}\n", likely * 100.0, crate::table::visible(&names.join("  ")));
    }
    if row.flag("cut") {
        text += "          and more\n";
    }
    text
}
