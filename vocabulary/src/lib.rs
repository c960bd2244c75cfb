//! Every series and every metric by its one name: what it is called, counted in, about, and what it means.
//!
//! In: nothing; the table is data, in [`series`] (what the sources of the agents read) and [`own`] (what the daemons say of
//! themselves). Out: the row of a name, its name for Prometheus and for OpenTelemetry, a judgement of what a source declares
//! ([`check`]), and the page docs/metrics.md. Never: a dependency on a crate that declares series; they are checked
//! against this one, so that the arrow points one way.
//!
//! A source that reads something new adds its row to a section in `src/series/`, then runs `cargo xtask vocabulary build`.
#![forbid(unsafe_code)]

mod check;
pub mod convention;
pub mod own;
pub mod page;
pub mod prometheus;
pub mod series;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use check::{Declared, check, check_all};
pub use convention::Convention;

/// How the values of a series behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only grows.
    Counter,
    /// A value of its own at each reading.
    Gauge,
    /// A gauge between 0 and 1; its unit is `1`.
    Fraction,
    /// A gauge of 1 (yes, good) or 0; its unit is `1`.
    State,
    /// A gauge whose sum over entities means something (OpenTelemetry's up-down counter): bytes held, queue pairs.
    Amount,
}

impl Kind {
    /// Whether it only grows.
    #[must_use]
    pub const fn is_counter(self) -> bool {
        matches!(self, Self::Counter)
    }

    /// As docs/metrics.md writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Fraction => "gauge, 0 to 1",
            Self::State => "gauge, 1 or 0",
            Self::Amount => "amount",
        }
    }
}

/// A label of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: &'static str,
    /// All values it can have; empty where the set is open.
    pub values: &'static [&'static str],
    /// Whether the series may lack it.
    pub is_optional: bool,
}

/// A label with any value.
#[must_use]
pub const fn label(key: &'static str) -> Label {
    Label { key, values: &[], is_optional: false }
}

/// A label with one of these values.
#[must_use]
pub const fn one_of(key: &'static str, values: &'static [&'static str]) -> Label {
    Label { key, values, is_optional: false }
}

impl Label {
    /// The same label, which may be absent.
    #[must_use]
    pub const fn or_none(self) -> Self {
        Self { is_optional: true, ..self }
    }
}

/// Which test sees the metric move or be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The whole agent and collector against fixtures: `tests/tests/vocabulary.rs` finds it on a page.
    Whole,
    /// A test of its crate, by its path in the repository; the file must name the series.
    Test(&'static str),
    /// No test: what it would take to set it.
    Needs(&'static str),
}

/// Where dashboards show the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// In the panel of this title; metrics of one title share it.
    Titled(&'static str),
    /// Nowhere, for a reason.
    No(NoPanel),
}

/// Why a metric is on no dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPanel {
    /// Its labels are its content: it is joined to others, or read as a table.
    Labels,
    /// It takes as many shapes as a driver has counters: looked up when a panel points at it.
    Unbounded,
    /// A part of a sum that has a panel, needed only when that sum moves.
    Part,
    /// It is of a process, and no process is a label for Prometheus: in OTLP, the API and on the tape.
    Process,
}

impl NoPanel {
    /// As docs/metrics.md writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Labels => "none: its labels are its content",
            Self::Unbounded => "none: as many as a driver has counters",
            Self::Part => "none: a part of a sum that has one",
            Self::Process => "none: of a process, which is no label for Prometheus",
        }
    }
}

/// A dashboard of deploy/grafana.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Board {
    /// All hosts at a glance.
    Fleet,
    /// One host: pressure, memory, processors, disks, bus.
    Host,
    /// Interfaces and RDMA ports: traffic, loss, flow control, congestion.
    Nic,
    /// Optical modules.
    Optics,
    /// GPUs and NPUs: memory and health.
    Gpu,
    /// How the daemons themselves fare.
    Own,
}

impl Board {
    /// All of them, in the order of deploy/grafana.
    pub const ALL: [Self; 6] = [Self::Fleet, Self::Host, Self::Nic, Self::Optics, Self::Gpu, Self::Own];

    /// Title.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Fleet => "Railwatch: fleet",
            Self::Host => "Railwatch: host",
            Self::Nic => "Railwatch: NIC, RoCE and PFC",
            Self::Optics => "Railwatch: optics",
            Self::Gpu => "Railwatch: GPU and NPU",
            Self::Own => "Railwatch: agents and collector",
        }
    }

    /// Name of its file, and its UID in Grafana, without the prefix `railwatch-`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Host => "host",
            Self::Nic => "nic",
            Self::Optics => "optics",
            Self::Gpu => "gpu",
            Self::Own => "own",
        }
    }
}

/// A row: one series name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Series {
    /// Canonical name, dotted: `hw.network.io`. The identifier of a series is a hash of it.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// UCUM; of a counter, the unit of its count.
    pub unit: &'static str,
    /// Labels beside those of its section.
    pub more: &'static [Label],
    /// One line.
    pub meaning: &'static str,
    /// What OTLP calls it; the canonical name where there is no convention.
    pub convention: Option<Convention>,
    /// What sets it in a test; its section's where absent.
    pub proof: Option<Proof>,
    /// Where it is shown; a panel of its section's title where absent.
    pub panel: Option<Panel>,
}

const fn row(kind: Kind, name: &'static str, unit: &'static str, meaning: &'static str) -> Series {
    Series { name, kind, unit, more: &[], meaning, convention: None, proof: None, panel: None }
}

/// A row of a count that only grows.
#[must_use]
pub const fn counter(name: &'static str, unit: &'static str, meaning: &'static str) -> Series {
    row(Kind::Counter, name, unit, meaning)
}

/// A row of a value of its own at each reading.
#[must_use]
pub const fn gauge(name: &'static str, unit: &'static str, meaning: &'static str) -> Series {
    row(Kind::Gauge, name, unit, meaning)
}

/// A row of a share between 0 and 1.
#[must_use]
pub const fn fraction(name: &'static str, meaning: &'static str) -> Series {
    row(Kind::Fraction, name, "1", meaning)
}

/// A row of a yes (1) or no (0).
#[must_use]
pub const fn state(name: &'static str, meaning: &'static str) -> Series {
    row(Kind::State, name, "1", meaning)
}

/// A row of something that is held: sums over entities mean something.
#[must_use]
pub const fn amount(name: &'static str, unit: &'static str, meaning: &'static str) -> Series {
    row(Kind::Amount, name, unit, meaning)
}

impl Series {
    /// With these labels beside its section's.
    #[must_use]
    pub const fn by(self, more: &'static [Label]) -> Self {
        Self { more, ..self }
    }

    /// Exported over OTLP under this convention.
    #[must_use]
    pub const fn otel(self, convention: Convention) -> Self {
        Self { convention: Some(convention), ..self }
    }

    /// Set by something other than its section's tests.
    #[must_use]
    pub const fn proven(self, proof: Proof) -> Self {
        Self { proof: Some(proof), ..self }
    }

    /// Shown in the panel of this title.
    #[must_use]
    pub const fn on(self, title: &'static str) -> Self {
        Self { panel: Some(Panel::Titled(title)), ..self }
    }

    /// Shown nowhere.
    #[must_use]
    pub const fn unshown(self, why: NoPanel) -> Self {
        Self { panel: Some(Panel::No(why)), ..self }
    }
}

/// Series of one kind of thing, declared by one source or a few.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Heading in docs/metrics.md.
    pub title: &'static str,
    /// The sources that declare them.
    pub sources: &'static [&'static str],
    /// Kinds of entity they are about.
    pub entities: &'static [&'static str],
    /// What names such an entity.
    pub entity_is: &'static str,
    /// Labels of all of them.
    pub labels: &'static [Label],
    /// The dashboard that shows them.
    pub board: Board,
    /// What sets them in a test unless a row says otherwise.
    pub proof: Proof,
    /// The rows.
    pub series: &'static [Series],
}

impl Section {
    /// What sets one of its rows in a test.
    #[must_use]
    pub fn proof_of(&self, series: &Series) -> Proof {
        series.proof.unwrap_or(self.proof)
    }

    /// Where one of its rows is shown.
    #[must_use]
    pub fn panel_of(&self, series: &Series) -> Panel {
        series.panel.unwrap_or(Panel::Titled(self.title))
    }

    /// All labels of one of its rows.
    pub fn labels_of(&self, series: &Series) -> impl Iterator<Item = &'static Label> {
        self.labels.iter().chain(series.more)
    }
}

/// Every row with its section, in the order of the table.
pub fn rows() -> impl Iterator<Item = (&'static Section, &'static Series)> {
    series::ALL.iter().flat_map(|section| section.series.iter().map(move |series| (*section, series)))
}

/// The row of a canonical name. The collector asks for each series of each host: one look-up in a hash table.
#[must_use]
pub fn find(name: &str) -> Option<&'static Series> {
    static BY_NAME: LazyLock<HashMap<&str, &Series>> =
        LazyLock::new(|| rows().map(|(_, series)| (series.name, series)).collect());
    BY_NAME.get(name).copied()
}
