//! Edges seen at sample rate: a rule and what it remembers of one series.
//!
//! In: a series' movement, reading by reading. Out: [`Signal`]s, at most a few per series and second, with what was held
//! back counted in the next one. One file per kind of rule; the pace at which a series may speak is theirs together.
//! Never: a signal from a first reading (history is not an edge) except for a counter that sits at its maximum and can
//! therefore hide what comes, or a level beyond its limit, which is wrong whenever it is found; and never a state that
//! differs from the last one read for longer than the hold-off.

mod below_best;
mod floods;
mod leaves;
mod level_above;
mod moves;
mod pace;
mod rate_above;
mod state_falls;

use crate::bounds::Bounds;
use crate::clock::Moment;
use crate::series::{Entity, SeriesDef};
use crate::signal::{Rule, Severity, Signal, When};
use below_best::BelowBest;
use floods::Floods;
use leaves::Leaves;
use level_above::LevelAbove;
use moves::Moves;
use pace::Pace;
use rate_above::RateAbove;
use state_falls::StateFalls;

/// What one reading showed of a series, as the rules see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edge {
    /// A gauge's value; `previous` is `None` at the first reading.
    State { previous: Option<f64>, value: f64 },
    /// A counter's movement since the last reading (0 where unknown) and its value.
    Count { delta: u64, total: u64, at_limit: bool },
}

/// One reading of one series under its rule.
struct Seen<'a> {
    def: &'a SeriesDef,
    /// What the series counts or says, for the sentence.
    what: &'static str,
    /// How bad it is.
    severity: Severity,
    moment: Moment,
    /// What the source knows about the cause.
    cause: Option<&'static str>,
}

impl Seen<'_> {
    /// How every sentence begins: "port eth0: symbol errors".
    fn subject(&self) -> String {
        let Entity { kind, name } = self.def.entity();
        format!("{kind} {name}: {}", self.what)
    }

    /// " (admin_down)", where a cause is known.
    fn why(&self) -> String {
        self.cause.map(|cause| format!(" ({cause})")).unwrap_or_default()
    }
}

/// What a rule has to say.
struct Told {
    name: &'static str,
    severity: Severity,
    value: f64,
    previous: f64,
    summary: String,
    /// What the rule itself knows about the cause; it goes before the source's.
    cause: Option<&'static str>,
}

/// The rule of one series, with what it remembers.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    rule: Rule,
    pace: Pace,
    machine: Machine,
}

/// What each kind of rule remembers.
#[derive(Clone, Debug)]
enum Machine {
    StateFalls(StateFalls),
    Moves(Moves),
    RateAbove(RateAbove),
    BelowBest(BelowBest),
    Floods(Floods),
    Leaves(Leaves),
    LevelAbove(LevelAbove),
}

impl Watch {
    pub(crate) fn new(rule: Rule) -> Self {
        let machine = match rule.when {
            When::StateFalls { raised, cleared } => Machine::StateFalls(StateFalls::new(raised, cleared)),
            When::Moves { raised, saturated } => Machine::Moves(Moves::new(raised, saturated)),
            When::RateAbove { raised, cleared, limit_per_s, over } => {
                Machine::RateAbove(RateAbove::new(raised, cleared, limit_per_s, over))
            }
            When::BelowBest { raised, cleared } => Machine::BelowBest(BelowBest::new(raised, cleared)),
            When::Floods { raised, per_s, burst } => Machine::Floods(Floods::new(raised, per_s, burst)),
            When::Leaves { raised, cleared } => Machine::Leaves(Leaves::new(raised, cleared)),
            When::LevelAbove { raised, cleared, above } => Machine::LevelAbove(LevelAbove::new(raised, cleared, above)),
        };
        Self { rule, pace: Pace::default(), machine }
    }

    /// Takes what one reading showed; returns a signal when there is something to tell and the hold-off allows it.
    /// What it does not allow goes out with a later reading, whether or not that one shows anything new.
    pub(crate) fn observe(
        &mut self,
        def: &SeriesDef,
        edge: Edge,
        moment: Moment,
        cause: Option<&'static str>,
        incomplete_since_mono_ns: Option<u64>,
    ) -> Option<Signal> {
        let Self { rule: Rule { series: _, what, severity, when: _ }, pace, machine } = self;
        let seen = Seen { def, what, severity: *severity, moment, cause };
        let told = match (machine, edge) {
            (Machine::StateFalls(rule), Edge::State { previous, value }) => rule.observe(&seen, pace, previous, value),
            (Machine::BelowBest(rule), Edge::State { value, .. }) => rule.observe(&seen, pace, value),
            (Machine::Leaves(rule), Edge::State { previous, value }) => rule.observe(&seen, pace, previous, value),
            (Machine::LevelAbove(rule), Edge::State { previous, value }) => rule.observe(&seen, pace, previous, value),
            (Machine::Moves(rule), Edge::Count { delta, total, at_limit }) => {
                rule.observe(&seen, pace, delta, total, at_limit)
            }
            (Machine::RateAbove(rule), Edge::Count { delta, .. }) => rule.observe(&seen, pace, delta),
            (Machine::Floods(rule), Edge::Count { delta, total, .. }) => rule.observe(&seen, pace, delta, total),
            // A rule of states on a counter, or the other way round: the table of rules is wrong, and silent here.
            (
                Machine::StateFalls(_) | Machine::BelowBest(_) | Machine::Leaves(_) | Machine::LevelAbove(_),
                Edge::Count { .. },
            )
            | (Machine::Moves(_) | Machine::RateAbove(_) | Machine::Floods(_), Edge::State { .. }) => None,
        };
        let Told { name, severity, value, previous, summary, cause } = told?;
        let cause = cause.or(seen.cause).map(|cause| ("cause", cause.to_owned()));
        Some(Signal {
            name,
            series: def.id(),
            entity: def.entity().clone(),
            severity,
            moment,
            value,
            previous: Some(previous),
            unit: def.unit(),
            summary,
            attributes: def.labels().iter().cloned().chain(cause).collect(),
            incomplete_since_mono_ns,
            suppressed: pace.take_untold().saturating_sub(1),
        })
    }

    /// Readings that show a counter standing still change nothing, and nothing waits for one to be told.
    pub(crate) fn is_asleep(&self) -> bool {
        !self.pace.has_untold()
            && match &self.machine {
                Machine::Moves(_) => true,
                Machine::RateAbove(rule) => rule.is_asleep(),
                Machine::Floods(rule) => rule.is_asleep(),
                Machine::StateFalls(_) | Machine::BelowBest(_) | Machine::Leaves(_) | Machine::LevelAbove(_) => false,
            }
    }

    /// Its counter was last read, still the same, at that instant.
    pub(crate) fn was_still_until(&mut self, at_ns: u64) {
        match &mut self.machine {
            Machine::RateAbove(rule) => rule.was_still_until(at_ns),
            Machine::Floods(rule) => rule.was_still_until(at_ns),
            _ => {}
        }
    }

    /// Takes the bounds its series was declared with.
    pub(crate) fn set_bounds(&mut self, bounds: Option<Bounds>) {
        if let Machine::Leaves(rule) = &mut self.machine {
            rule.set_bounds(bounds);
        }
    }

    /// A series that vanishes falls by that. A level that vanishes says nothing more; what it said of its bounds is forgotten.
    pub(crate) fn falls_with_its_series(&mut self) -> bool {
        match &mut self.machine {
            Machine::Leaves(rule) => {
                rule.forget();
                false
            }
            Machine::LevelAbove(_) => false,
            _ => true,
        }
    }

    /// The counter started again: its maximum, once reached, is news again.
    pub(crate) fn restarted(&mut self) {
        if let Machine::Moves(rule) = &mut self.machine {
            rule.restarted();
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a signal's value is for people; the exact one is in the window")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod testing {
    //! What the tests of several rules need.

    use crate::clock::Moment;
    use crate::series::{Entity, Kind, SeriesDef};
    use crate::signal::{Rule, Severity, When};

    pub(super) const STATE: Rule = Rule {
        series: "up",
        what: "the link",
        severity: Severity::Critical,
        when: When::StateFalls { raised: "nic.link.down", cleared: "nic.link.up" },
    };
    pub(super) const ERRORS: Rule = Rule {
        series: "errors",
        what: "symbol errors",
        severity: Severity::Error,
        when: When::Moves { raised: "nic.errors", saturated: "nic.counter.saturated" },
    };

    pub(super) fn def(kind: Kind) -> SeriesDef {
        SeriesDef::new("x", "1", kind, Entity { kind: "port", name: "eth0".into() }, [])
    }

    pub(super) fn at(ms: u64) -> Moment {
        Moment { at_ns: 1_000_000_000_000 + ms * 1_000_000, half_width_ns: 5 }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::testing::{STATE, at};
    use super::{Edge, Watch};
    use crate::series::{Entity, Kind, SeriesDef};

    #[test]
    fn a_signal_names_cause_labels_and_loss() {
        let entity = Entity { kind: "port", name: "eth0".into() };
        let def = SeriesDef::new("x", "1", Kind::Gauge, entity, [("network.interface.name", "eth0".to_owned())]);
        let mut watch = Watch::new(STATE);
        let edge = Edge::State { previous: Some(1.0), value: 0.0 };
        let signal = watch.observe(&def, edge, at(0), Some("admin_down"), Some(5)).unwrap();
        assert_eq!(signal.summary, "port eth0: the link went down (admin_down)");
        assert_eq!(
            signal.attributes,
            [("network.interface.name", "eth0".to_owned()), ("cause", "admin_down".to_owned())]
        );
        assert_eq!(signal.incomplete_since_mono_ns, Some(5));
    }
}
