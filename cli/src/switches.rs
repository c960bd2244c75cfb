//! `railwatch switches`: what switches say of themselves, and the ports of one.
//!
//! Flows in: rows of the API. Flows out: tables, JSON, YAML.

use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::human;
use crate::listings::Listing;
use crate::output::{Output, shaped};
use crate::percent_encoded;
use crate::row::{Ordered, Row};
use crate::table::{Cell, Tone};
use crate::watch::now_ns;

/// Neighbours of a switch in its line; the ports of one switch show all.
const NEIGHBOURS_MAX: usize = 8;

/// `railwatch switches`.
pub static SWITCHES: Listing = Listing {
    path: "/v1/switches",
    fields: &[
        "name",
        "system_name",
        "address",
        "connected",
        "since",
        "why",
        "gnmi_version",
        "models",
        "sample_ms",
        "limitations",
        "ports",
        "modules",
        "parts",
        "sflow",
        "counts",
    ],
    fixed: false,
    heads: &["SWITCH", "STATE", "SINCE", "PORTS UP", "DROPS/s", "ERRORS/s", "NEIGHBOURS", "NOT OFFERED"],
    line: |row, _| {
        let (state, tone) = match (row.flag("connected"), row.text("address")) {
            (true, _) => ("connected".to_owned(), Tone::Good),
            (false, "") => ("sFlow alone".to_owned(), Tone::Plain),
            (false, _) => (format!("lost: {}", row.text("why")), Tone::Bad),
        };
        let ports: Vec<_> = row.rows("ports").into_iter().filter(|port| port.flag("fabric")).collect();
        let up = ports.iter().filter(|port| port.flag("up")).count();
        let limitations = row.rows("limitations");
        let limitations: Vec<_> = limitations.iter().map(|limitation| limitation.text("what")).collect();
        vec![
            Cell::text(row.text("system_name")),
            Cell::text(state).tone(tone),
            Cell::text(row.text("since")),
            Cell::number(format!("{up}/{}", ports.len())),
            rate(&ports, "hw.network.dropped"),
            rate(&ports, "hw.network.errors"),
            Cell::text(neighbours(&ports)),
            Cell::text(limitations.join(", ")).tone(Tone::Faint),
        ]
    },
    nothing: "No switch is configured. [[switches]] in collector.toml names them; docs/switches.md says how.",
};

/// The ports of one switch.
static PORTS: Listing = Listing {
    path: "/v1/switches",
    fields: &[],
    fixed: false,
    heads: &["PORT", "STATE", "SPEED", "RECEIVED/s", "SENT/s", "DROPS/s", "ERRORS/s", "PAUSE/s", "NEIGHBOUR"],
    line: |row, _| {
        let (state, tone) = match (row.0.get("up").and_then(serde_json::Value::as_bool), row.flag("fabric")) {
            (Some(true), true) => ("up", Tone::Good),
            (Some(true), false) => ("up, no part of the fabric", Tone::Plain),
            (Some(false), _) => ("down", Tone::Bad),
            (None, _) => ("-", Tone::Plain),
        };
        let ports = std::slice::from_ref(row);
        let io = |direction: &str| {
            let of = |series: &Row| {
                series.text("name") == "hw.network.io" && series.row("labels").text("network.io.direction") == direction
            };
            let rates = row.rows("series").into_iter().filter(of).filter_map(|series| series.real("per_s"));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes a second, for people")]
            let text = rates.reduce(|a, b| a + b).map_or("-".to_owned(), |rate| human::bytes(rate.max(0.0) as u64));
            Cell::number(text)
        };
        vec![
            Cell::text(row.text("name")),
            Cell::text(state).tone(tone),
            Cell::number(row.number("speed_bits_per_s").map_or("-".into(), human::bits_per_second)),
            io("receive"),
            io("transmit"),
            rate(ports, "hw.network.dropped"),
            rate(ports, "hw.network.errors"),
            rate(ports, "hw.network.pfc.pause_frames"),
            Cell::text(heard(row).join(" ")),
        ]
    },
    nothing: "The switch has said nothing of its ports yet.",
};

/// Does what is asked.
pub fn switches(
    client: &Client,
    switch: Option<&str>,
    format: crate::args::Format,
    out: &mut Output,
) -> Result<(), Failure> {
    let query = switch.map(|switch| format!("?switch={}", percent_encoded(switch))).unwrap_or_default();
    let rows = Row::list(client.get(&format!("{}{query}", SWITCHES.path))?, SWITCHES.path)?;
    if let (Some(switch), true) = (switch, rows.is_empty()) {
        let what = format!("no switch {switch:?} is configured");
        return Err(Failure::new(Kind::NotFound, what, "`railwatch switches` lists them"));
    }
    let ordered: Vec<_> = rows.iter().map(|row| Ordered { row, fields: SWITCHES.fields, open: true }).collect();
    let text = shaped(format, &ordered, || match switch {
        None => SWITCHES.table(&rows, now_ns(), out.colour),
        Some(_) => {
            let ports: Vec<_> = rows.iter().flat_map(|row| row.rows("ports")).collect();
            PORTS.table(&ports, now_ns(), out.colour)
        }
    })?;
    out.write(&text)
}

/// Sum of a counter's rates, or nothing where none is known.
fn rate(ports: &[Row], name: &str) -> Cell {
    let series = ports.iter().flat_map(|port| port.rows("series"));
    let rates = series.filter(|series| series.text("name") == name).filter_map(|series| series.real("per_s"));
    match rates.reduce(|a, b| a + b) {
        None => Cell::number("-".to_owned()),
        Some(rate) => Cell::number(format!("{rate:.0}")).tone(if rate >= 0.5 { Tone::Warn } else { Tone::Plain }),
    }
}

/// What is heard at a port: `host0:eth1`.
fn heard(port: &Row) -> Vec<String> {
    let shown = |neighbour: &Row| {
        let system = match neighbour.text("system_name") {
            "" => neighbour.text("chassis_id"),
            name => name,
        };
        format!("{system}:{}", neighbour.text("port_id"))
    };
    port.rows("neighbours").iter().map(shown).collect()
}

fn neighbours(ports: &[Row]) -> String {
    let all: Vec<_> = ports
        .iter()
        .flat_map(|port| heard(port).into_iter().map(move |far| format!("{}-{far}", port.text("name"))))
        .collect();
    let more = all.len().saturating_sub(NEIGHBOURS_MAX);
    let text = all[..all.len() - more].join(" ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}
