//! What a signal is, and the rules that say when one is raised: data alone. What a rule remembers of its series, and when
//! it speaks, is the room `watch`'s.

use crate::clock::Moment;
use crate::series::{Entity, SeriesId};
use std::time::Duration;

/// How bad a signal is. Order matters: the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// May become a fault.
    Warning,
    /// Is a fault.
    Error,
    /// Stops work now.
    Critical,
}

/// An edge on an entity of this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// Canonical name: `nic.link.down`.
    pub name: &'static str,
    /// Series it was seen on.
    pub series: SeriesId,
    /// What it is about.
    pub entity: Entity,
    /// How bad.
    pub severity: Severity,
    /// When it was read, CLOCK_MONOTONIC.
    pub moment: Moment,
    /// The value seen, in `unit`.
    pub value: f64,
    /// The value before.
    pub previous: Option<f64>,
    /// Unit of both, UCUM.
    pub unit: &'static str,
    /// One plain sentence.
    pub summary: String,
    /// Labels of the series, and `cause` where the source knew one.
    pub attributes: Vec<(&'static str, String)>,
    /// Readings of the series have been lossy since then (CLOCK_MONOTONIC nanoseconds): no action may rest on it.
    pub incomplete_since_mono_ns: Option<u64>,
    /// Edges of this series held back since its last signal.
    pub suppressed: u64,
}

/// When a series raises a signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// A gauge of 1 (good) and 0 (bad) changes.
    StateFalls {
        /// Name of the signal at 0.
        raised: &'static str,
        /// Name of the signal at 1 again; of severity `Info`.
        cleared: &'static str,
    },
    /// A counter that should never move moves.
    Moves {
        /// Name of the signal.
        raised: &'static str,
        /// Name of the signal, of severity `Warning`, for a counter found at its maximum, which hides further errors.
        saturated: &'static str,
    },
    /// A counter moves faster than a limit, on average over a time. Cleared when it stays below half the limit for as long.
    RateAbove {
        /// Name of the signal.
        raised: &'static str,
        /// Name of the signal when it is over; of severity `Info`.
        cleared: &'static str,
        /// Canonical units of the counter per second. Of a counter of nanoseconds, 1e8 is a tenth of the time.
        limit_per_s: f64,
        /// Shortest time that a rate is taken over; a slower cadence or refresh makes it longer.
        over: Duration,
    },
    /// A gauge is below the best it ever showed. A gauge that shows 0 says nothing: it is not known then.
    BelowBest {
        /// Name of the signal.
        raised: &'static str,
        /// Name of the signal at its best again; of severity `Info`.
        cleared: &'static str,
    },
    /// A counter that may move moves by more than what leaks away (a leaky bucket as in ITU-T I.371): by over `burst` at
    /// once, or by over `per_s` for long. With 0 and 0, every movement is told.
    Floods {
        /// Name of the signal.
        raised: &'static str,
        /// What may come every second for ever, in units of the series.
        per_s: u32,
        /// What may come at once.
        burst: u32,
    },
    /// A gauge leaves the bounds that its source declared it with: beyond a warning with severity `Warning`, beyond an alarm
    /// with the rule's own.
    Leaves {
        /// Name of the signal; its attribute `cause` says which bound.
        raised: &'static str,
        /// Name of the signal when it is back within the warnings; of severity `Info`.
        cleared: &'static str,
    },
    /// A gauge is above a limit; told at the first reading too.
    LevelAbove {
        /// Name of the signal above the limit.
        raised: &'static str,
        /// Name of the signal at the limit or below it again; of severity `Info`.
        cleared: &'static str,
        /// Limit, in the unit of the series.
        above: f64,
    },
}

impl When {
    /// The names of the two signals it can raise.
    #[must_use]
    pub fn signals(&self) -> [&'static str; 2] {
        match *self {
            Self::StateFalls { raised, cleared }
            | Self::RateAbove { raised, cleared, .. }
            | Self::BelowBest { raised, cleared }
            | Self::Leaves { raised, cleared }
            | Self::LevelAbove { raised, cleared, .. } => [raised, cleared],
            Self::Moves { raised, saturated } => [raised, saturated],
            Self::Floods { raised, .. } => [raised, raised],
        }
    }
}

/// One row of a table of rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Canonical name of the series it watches.
    pub series: &'static str,
    /// What the series counts or says, for the sentence: "symbol errors", "the link".
    pub what: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// When it speaks.
    pub when: When,
}

/// Time over which one series may raise [`BURST`] signals.
pub const HOLD_OFF: Duration = Duration::from_secs(1);
/// Signals of one state series within the hold-off; a counter gets one.
pub const BURST: u64 = 4;
