//! `railwatch probes` and `railwatch coverage`: what became of probes, what is planned, and what can be sensed at all.
//!
//! Flows in: rows of the API. Flows out: tables, JSON, YAML, a picture ([`heatmap`]).

mod heatmap;

use crate::args::{Carrier, Format, Probes, ProbesInstead};
use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::listings::Listing;
use crate::output::{Output, shaped};
use crate::percent_encoded;
use crate::row::{Ordered, Row};
use crate::table::{self, Cell, Tone};
use crate::watch::now_ns;
use std::fmt::Write as _;

/// Rows of one answer at most.
const ROWS_MAX: usize = 10_000;
/// Lines of flows in the table of a plan.
const FLOWS_SHOWN: usize = 40;

/// Of pairs of a job.
const HEADS_OF_JOB: &[&str] = &[
    "RANKS",
    "FROM",
    "TO",
    "SENT",
    "LOST",
    "LOSS",
    "THERE",
    "BACK",
    "FABRIC p50",
    "p99",
    "ROUND TRIP p50",
    "p99",
    "PROBER p99",
    "ANSWERER p99",
    "FLOWS",
    "LOSS OVER",
];

/// `railwatch probes`.
pub static PROBES: Listing = Listing {
    path: "/v1/probes",
    fields: &[
        "source_host",
        "source_interface",
        "target_host",
        "target_interface",
        "sent",
        "lost",
        "loss",
        "fabric_us_p50",
        "fabric_us_p99",
        "round_trip_us_p50",
        "round_trip_us_p99",
        "prober_us_p99",
        "answerer_us_p99",
        "lost_there",
        "lost_back",
        "flows",
        "transports",
        "scopes",
        "jobs",
        "source_rank",
        "target_rank",
    ],
    fixed: false,
    // Who they are in a job is known where one is asked for.
    heads: HEADS_OF_JOB.split_at(1).1,
    line: |row, _| {
        let lost = row.number("lost").unwrap_or(0);
        let tone = if lost == 0 { Tone::Plain } else { Tone::Bad };
        vec![
            Cell::text(format!("{}:{}", row.text("source_host"), row.text("source_interface"))),
            Cell::text(format!("{}:{}", row.text("target_host"), row.text("target_interface"))),
            whole(row, "sent"),
            whole(row, "lost").tone(tone),
            Cell::number(loss(row)).tone(tone),
            whole(row, "lost_there"),
            whole(row, "lost_back"),
            us(row, "fabric_us_p50"),
            us(row, "fabric_us_p99"),
            us(row, "round_trip_us_p50"),
            us(row, "round_trip_us_p99"),
            us(row, "prober_us_p99"),
            us(row, "answerer_us_p99"),
            whole(row, "flows"),
            Cell::text(by_transport(row)),
        ]
    },
    nothing: "No probes are planned. `railwatch probes plan` says which hosts take part, and why others do not.",
};

/// `railwatch probes --job NAME`: who they are in the job comes first.
static PROBES_OF_JOB: Listing = Listing {
    path: PROBES.path,
    fields: PROBES.fields,
    fixed: false,
    heads: HEADS_OF_JOB,
    line: |row, now_ns| {
        let rank = |field| row.number(field).map_or("-".to_owned(), |rank| rank.to_string());
        let mut cells = (PROBES.line)(row, now_ns);
        cells.insert(0, Cell::text(format!("{} to {}", rank("source_rank"), rank("target_rank"))));
        cells
    },
    nothing: "No pair of this job's hosts is probed. `railwatch probes plan` says which pairs are, of which jobs.",
};

/// `railwatch coverage`.
pub static COVERAGE: Listing = Listing {
    path: "/v1/coverage",
    fields: &[
        "element",
        "kind",
        "fault_mode",
        "sensed",
        "expected_ms",
        "within_1_s",
        "by",
        "located_to",
        "located_to_count",
        "split_by",
        "reported_as",
    ],
    fixed: false,
    heads: &["ELEMENT", "FAULT", "WITHIN 1 s", "EXPECTED", "CHANCE", "BY", "LOCATED TO", "SPLIT BY"],
    line: |row, _| {
        let (word, tone) = if row.flag("sensed") { ("yes", Tone::Good) } else { ("no", Tone::Bad) };
        let expected = row.real("expected_ms").map_or("never".to_owned(), |ms| format!("{ms:.0} ms"));
        let located = match (row.number("located_to_count").unwrap_or(0), row.texts("located_to")) {
            (0, _) => "-".to_owned(),
            (1, _) => "itself".to_owned(),
            (count, names) => format!("{count}: {}", names.into_iter().take(4).collect::<Vec<_>>().join(", ")),
        };
        let split = row.row("split_by");
        vec![
            Cell::text(row.text("element")),
            Cell::text(row.text("fault_mode")),
            Cell::text(word).tone(tone),
            Cell::number(expected),
            Cell::number(format!("{:.0} %", row.real("within_1_s").unwrap_or(0.0) * 100.0)),
            Cell::text(row.texts("by").join(", ")),
            Cell::text(located),
            Cell::text(split.text("what")),
        ]
    },
    nothing: "No element is known: no host tells of its cables, or none takes part in probing (`railwatch probes plan`).",
};

static DIRECTIONS: Listing = Listing {
    path: "",
    fields: &[],
    fixed: false,
    heads: &["DIRECTION", "PACKETS/s", "SURE", "CERTAINTY", "NOT COVERED"],
    line: |row, _| {
        let why = match row.text("uncovered") {
            "down" => "its link is down",
            "no_way" => "on no known way between two NICs that probe",
            "budget" => "budget used up",
            "transport" => "no agents at both ends of a way there speak TCP",
            other => other,
        };
        let tone = if why.is_empty() { Tone::Plain } else { Tone::Bad };
        vec![
            Cell::text(row.text("direction")),
            one_digit(row, "per_s"),
            one_digit(row, "sure_per_s"),
            Cell::number(format!("{:.4}", row.real("certainty").unwrap_or(0.0))),
            Cell::text(why).tone(tone),
        ]
    },
    nothing: "No link is known.",
};

static FLOWS: Listing = Listing {
    path: "",
    fields: &[],
    fixed: false,
    heads: &["FROM", "TO", "OVER", "SOURCE PORT", "SIZE", "EVERY", "FOR", "PATH", ""],
    line: |row, _| {
        vec![
            Cell::text(row.text("source")),
            Cell::text(row.text("target")),
            Cell::text(row.text("transport")),
            whole(row, "source_port"),
            Cell::number(format!("{} B", row.number("size_bytes").unwrap_or(0))),
            Cell::number(format!("{:.1} ms", row.number("interval_us").unwrap_or(0) as f64 / 1e3)),
            Cell::text(match row.text("scope") {
                "job" => format!("job {}", row.text("job")),
                scope => scope.to_owned(),
            }),
            Cell::text(if row.flag("placed") { "known" } else { "" }),
            Cell::text(if row.flag("dense") { "denser, for a suspect" } else { "" }).tone(Tone::Warn),
        ]
    },
    nothing: "No flow.",
};

static JOBS: Listing = Listing {
    path: "",
    fields: &[],
    fixed: false,
    heads: &["JOB", "NICS", "HOSTS WITHOUT", "PAIRS", "PROBED", "NO ROOM FOR"],
    line: |row, _| {
        let tone = |field| if row.number(field).unwrap_or(0) == 0 { Tone::Plain } else { Tone::Warn };
        vec![
            Cell::text(row.text("job")),
            whole(row, "nics"),
            whole(row, "hosts_without").tone(tone("hosts_without")),
            whole(row, "pairs"),
            whole(row, "pairs_probed"),
            whole(row, "pairs_left_out").tone(tone("pairs_left_out")),
        ]
    },
    nothing: "No job runs on several hosts.",
};

/// Does what is asked.
pub fn probes(client: &Client, asked: &Probes, out: &mut Output) -> Result<(), Failure> {
    let only = |host: &Option<String>, job: &Option<String>, transport: Option<Carrier>| {
        let transport = transport.map(|transport| transport.name().to_owned());
        let named = [("host", host), ("job", job), ("transport", &transport)].into_iter();
        named
            .filter_map(|(name, value)| Some(format!("{name}={}", percent_encoded(value.as_ref()?))))
            .collect::<Vec<_>>()
    };
    if let Some(ProbesInstead::Plan { host, job, transport, shape }) = &asked.instead {
        let only = only(host, job, *transport);
        let query = if only.is_empty() { String::new() } else { format!("?{}", only.join("&")) };
        let row = Row::one(client.get(&format!("/v1/probes/plan{query}"))?, "/v1/probes/plan")?;
        return out.write(&shaped(shape.output, &row.0, || plan(&row, out.colour))?);
    }
    let last_s = asked.last.as_secs_f64().ceil();
    let only = only(&asked.host, &asked.job, asked.transport);
    let query: Vec<_> = std::iter::once(format!("last_s={last_s:.0}")).chain(only).collect();
    let rows = Row::list(client.get(&format!("{}?{}", PROBES.path, query.join("&")))?, PROBES.path)?;
    if let Some(file) = &asked.heatmap {
        let picture = heatmap::picture(&rows).png();
        return std::fs::write(file, picture).map_err(|error| {
            Failure::new(Kind::Usage, format!("cannot write {}: {error}", file.display()), "name another file")
        });
    }
    let listing = if asked.job.is_some() { &PROBES_OF_JOB } else { &PROBES };
    show(listing, &rows, asked.shape.output, out)
}

/// What can be sensed; where a loss is asked for, of so many of 100 packets.
pub fn coverage(
    client: &Client,
    element: Option<&str>,
    loss_percent: Option<f64>,
    format: Format,
    out: &mut Output,
) -> Result<(), Failure> {
    let element = element.map(|element| format!("element={}", percent_encoded(element)));
    let loss = loss_percent.map(|percent| format!("loss={}", percent / 100.0));
    let query = element.into_iter().chain(loss).collect::<Vec<_>>().join("&");
    let rows = Row::list(client.get(&format!("{}?{query}", COVERAGE.path))?, COVERAGE.path)?;
    show(&COVERAGE, &rows, format, out)
}

fn show(listing: &Listing, rows: &[Row], format: Format, out: &mut Output) -> Result<(), Failure> {
    let ordered: Vec<_> = rows.iter().map(|row| Ordered { row, fields: listing.fields, open: true }).collect();
    out.write(&shaped(format, &ordered, || listing.table(rows, now_ns(), out.colour))?)?;
    if rows.len() >= ROWS_MAX && !out.closed {
        eprintln!(
            "railwatch: note: the first {ROWS_MAX} rows are shown, there may be more: --host, --job or --element narrows it"
        );
    }
    Ok(())
}

/// A plan for people: what it comes to, what is not covered, then directions and flows.
fn plan(row: &Row, colour: bool) -> String {
    let real = |field| row.real(field).unwrap_or(0.0);
    let coverage = row.real("coverage").map_or("no link known".to_owned(), |part| format!("{:.1} %", part * 100.0));
    let suspects = row.texts("suspects");
    let mut facts = vec![
        ("wanted in each direction", format!("{:.1} packets/s", real("per_direction_per_s"))),
        ("directions covered", coverage),
        (
            "packets of a NIC",
            format!(
                "{:.1}/s on average, {:.1}/s at most, of {:.0}/s allowed (its probes, its answers, and acknowledgements)",
                real("packets_per_s_per_nic"),
                real("packets_per_s_per_nic_most"),
                real("packets_per_s_per_nic_max")
            ),
        ),
        ("NICs", row.number("nics").unwrap_or(0).to_string()),
        ("pairs of", row.texts("scopes").join(", ")),
        ("carried by", row.texts("transports").join(", ")),
        ("rails told apart by", row.text("rails").replace('_', " ")),
        ("planned in", format!("{:.1} ms", real("planned_in_ms"))),
    ];
    if let Some(pairs) = row.number("blind_pairs").filter(|pairs| *pairs > 0) {
        facts.push(("joined by nothing known", format!("{pairs} pairs of NICs: probed as a mesh")));
    }
    if let Some(jobs) = row.number("jobs_left_out").filter(|jobs| *jobs > 0) {
        facts.push(("jobs left out", format!("{jobs}: too many run at a time")));
    }
    if !suspects.is_empty() {
        facts.push(("suspects", suspects.join(", ")));
    }
    let facts: Vec<_> = facts.into_iter().map(|(name, value)| vec![Cell::text(name), Cell::text(value)]).collect();
    let mut text = table::render(&["PLAN", ""], &facts, colour);
    let left_out = row.row("left_out");
    if !left_out.0.is_empty() {
        let lines: Vec<_> = left_out
            .0
            .iter()
            .map(|(host, why)| vec![Cell::text(host), Cell::text(why.as_str().unwrap_or_default()).tone(Tone::Warn)])
            .collect();
        text.push('\n');
        text.push_str(&table::render(&["LEFT OUT", "WHY"], &lines, colour));
    }
    if row.texts("scopes").contains(&"job") {
        text.push('\n');
        text.push_str(&JOBS.table(&row.rows("jobs"), 0, colour));
    }
    text.push('\n');
    text.push_str(&DIRECTIONS.table(&row.rows("directions"), 0, colour));
    let flows = row.rows("flows");
    text.push('\n');
    text.push_str(&FLOWS.table(&flows[..flows.len().min(FLOWS_SHOWN)], 0, colour));
    if flows.len() > FLOWS_SHOWN {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "… and {} more: --host HOST, --job NAME, or -o json", flows.len() - FLOWS_SHOWN);
    }
    text
}

fn loss(row: &Row) -> String {
    row.real("loss").map_or("-".to_owned(), |loss| format!("{:.2} %", loss * 100.0))
}

/// "udp 0.00 %, tcp 1.67 %", where there is more than one.
fn by_transport(row: &Row) -> String {
    let of = |row: &Row| format!("{} {}", row.text("transport"), loss(row));
    let transports = row.rows("transports");
    if transports.len() < 2 && transports.first().is_none_or(|only| only.text("transport") == "udp") {
        return String::new();
    }
    transports.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn whole(row: &Row, field: &str) -> Cell {
    Cell::number(row.number(field).map_or("-".into(), |number| number.to_string()))
}

fn us(row: &Row, field: &str) -> Cell {
    Cell::number(row.real(field).map_or("-".into(), |us| format!("{us:.0} µs")))
}

fn one_digit(row: &Row, field: &str) -> Cell {
    Cell::number(row.real(field).map_or("-".into(), |number| format!("{number:.1}")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pair_without_answers_shows_no_zero_delay() {
        let row = json!({"source_host": "a", "source_interface": "eth0", "target_host": "b", "target_interface": "eth0",
            "sent": 200, "lost": 200, "loss": 1.0, "fabric_us_p50": null, "lost_there": null, "flows": 3});
        let text = PROBES.table(&[Row::one(row, "").unwrap()], 0, false);
        let line: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            line,
            ["a:eth0", "b:eth0", "200", "200", "100.00", "%", "-", "-", "-", "-", "-", "-", "-", "-", "3", "-"]
        );
    }

    #[test]
    fn pairs_of_a_job_show_their_ranks() {
        let row = json!({"source_host": "a", "source_interface": "eth0", "target_host": "b", "target_interface": "eth0",
            "sent": 200, "lost": 0, "loss": 0.0, "flows": 3, "source_rank": 8, "target_rank": null});
        let text = PROBES_OF_JOB.table(&[Row::one(row, "").unwrap()], 0, false);
        assert!(text.lines().nth(1).unwrap().starts_with("8 to -  a:eth0  b:eth0"), "{text}");
        let row = json!({"sent": 20, "lost": 1, "flows": 2, "transports":
            [{"transport": "udp", "loss": 0.0}, {"transport": "tcp", "loss": 0.1}]});
        let text = PROBES.table(&[Row::one(row, "").unwrap()], 0, false);
        assert!(text.contains("udp 0.00 %, tcp 10.00 %"), "{text}");
        assert_eq!(PROBES_OF_JOB.heads[1..], *PROBES.heads);
    }

    #[test]
    fn a_plan_says_what_it_does_not_cover_and_why() {
        let row = json!({"per_direction_per_s": 10.0, "coverage": 0.5, "packets_per_s_per_nic": 12.0, "packets_per_s_per_nic_most": 12.5,
            "packets_per_s_per_nic_max": 150.0, "nics": 16, "rails": "prefix", "planned_in_ms": 0.2, "blind_pairs": 28,
            "suspects": ["leaf1:eth4>spine0:eth1"], "left_out": {"host3": "it does not answer probes"},
            "directions": [{"direction": "leaf0:eth4>spine0:eth0", "per_s": 0.0, "sure_per_s": 0.0, "certainty": 0.0, "uncovered": "no_way"}],
            "scopes": ["rail", "job"], "transports": ["udp", "tcp"], "jobs_left_out": 2,
            "jobs": [{"job": "42", "nics": 128, "hosts_without": 1, "pairs": 8128, "pairs_probed": 640, "pairs_left_out": 7488}],
            "flows": [{"scope": "job", "job": "42", "source": "a:eth0", "target": "b:eth0", "transport": "tcp", "source_port": 20480, "size_bytes": 64, "interval_us": 1000000, "dense": true, "placed": false}]});
        let text = plan(&Row::one(row, "").unwrap(), false);
        for part in [
            "50.0 %",
            "12.0/s on average, 12.5/s at most, of 150/s allowed",
            "28 pairs of NICs: probed as a mesh",
            "host3     it does not answer probes",
            "on no known way between two NICs that probe",
            "denser, for a suspect",
            "rail, job",
            "udp, tcp",
            "tcp         20480",
            "42    128              1   8128     640         7488",
            "2: too many run at a time",
            "job 42",
            "leaf1:eth4>spine0:eth1",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn coverage_says_what_is_not_sensed_and_what_would_split_a_set() {
        let rows = [
            json!({"element": "l0:e4>s0:e0", "fault_mode": "silent_loss", "sensed": false, "expected_ms": 8000.4, "within_1_s": 0.08,
                "by": ["probe.loss of probes"], "located_to": ["l0:e4>s0:e0", "s0:e1>l1:e4"], "located_to_count": 2,
                "split_by": {"by": "probe", "what": "a probe from h0:e0 to h1:e1", "packets_per_s": 2.0}}),
            json!({"element": "l0", "fault_mode": "slow_port", "sensed": false, "expected_ms": null, "within_1_s": 0.0, "by": [],
                "located_to": ["l0"], "located_to_count": 1, "split_by": null}),
        ];
        let rows: Vec<_> = rows.into_iter().map(|row| Row::one(row, "").unwrap()).collect();
        let text = COVERAGE.table(&rows, 0, false);
        for part in ["8000 ms", "8 %", "2: l0:e4>s0:e0, s0:e1>l1:e4", "a probe from h0:e0 to h1:e1", "never", "itself"]
        {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
