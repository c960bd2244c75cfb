//! The second table: what the daemons say of themselves on their pages, by the names that Prometheus sees.
//!
//! The meaning of each is the HELP text of its page, word for word; `tests/tests/vocabulary.rs` compares them.

mod agent;
mod collector;
mod map;

use crate::{Board, NoPanel, Panel, Proof};

/// What a metric is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only grows.
    Counter,
    /// A value of its own.
    Gauge,
    /// Counts by bound.
    Histogram,
}

impl Kind {
    /// As a page's TYPE line writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Whole name, with unit and `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Keys of its labels, sorted.
    pub labels: &'static [&'static str],
    /// Its HELP text.
    pub meaning: &'static str,
    /// What sets it in a test.
    pub proof: Proof,
    /// Where it is shown.
    pub panel: Panel,
    /// The dashboard, where that is not its section's.
    pub board: Option<Board>,
}

const fn metric(kind: Kind, name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    Metric { name, kind, labels, meaning, proof: Proof::Whole, panel: Panel::No(NoPanel::Part), board: None }
}

const fn counter(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    metric(Kind::Counter, name, labels, meaning)
}

const fn gauge(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    metric(Kind::Gauge, name, labels, meaning)
}

const fn histogram(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    metric(Kind::Histogram, name, labels, meaning)
}

impl Metric {
    const fn on(self, title: &'static str) -> Self {
        Self { panel: Panel::Titled(title), ..self }
    }

    const fn unshown(self, why: NoPanel) -> Self {
        Self { panel: Panel::No(why), ..self }
    }

    const fn proven(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }

    const fn at(self, board: Board) -> Self {
        Self { board: Some(board), ..self }
    }
}

/// Metrics of one room of a daemon.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Heading in docs/metrics.md.
    pub title: &'static str,
    /// The dashboard that shows them.
    pub board: Board,
    /// The rows.
    pub metrics: &'static [Metric],
}

impl Section {
    /// The dashboard of one of its rows.
    #[must_use]
    pub fn board_of(&self, metric: &Metric) -> Board {
        metric.board.unwrap_or(self.board)
    }
}

/// Every section.
pub const ALL: &[&Section] = &[
    &agent::PROCESS,
    &agent::UPLINK,
    &agent::LOSS,
    &agent::SOURCES,
    &agent::TAPE,
    &agent::PROBE,
    &agent::GPU,
    &agent::PORTS,
    &collector::PROCESS,
    &collector::UPLINK,
    &collector::STORE,
    &collector::OVERLOAD,
    &collector::ENGINE,
    &collector::API,
    &collector::OTLP,
    &collector::TAPE,
    &collector::BURSTS,
    &collector::FLEET,
    &collector::SWITCHES,
    &map::MAP,
];

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Metric> {
    ALL.iter().flat_map(|section| section.metrics)
}

/// The row that a page must have for a metric it shows, ready to be pasted.
#[must_use]
pub fn row_to_add(name: &str, kind: &str, labels: &[String], help: &str) -> String {
    let daemon = if name.starts_with("railwatch_collector_") { "collector" } else { "agent" };
    let (kind, help) =
        (if kind == "counter" || kind == "histogram" { kind } else { "gauge" }, help.trim_end_matches('.'));
    format!(
        "metric {name} is not in the vocabulary: add to vocabulary/src/own/{daemon}.rs (or, of a source's series, to \
         vocabulary/src/series/) the row\n    {kind}({name:?}, &{labels:?}, {help:?}).on(\"PANEL\"),\nand run `cargo xtask \
         vocabulary build`"
    )
}
