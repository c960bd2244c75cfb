//! Edges seen at sample rate: rules as data in, signals out at once.
//!
//! In: a series' movement, reading by reading. Out: [`Signal`]s, at most a few per series and second, with what was held
//! back counted in the next one. Never: a signal from a first reading (history is not an edge) except for a counter that
//! sits at its maximum and can therefore hide what comes, or a level beyond its limit, which is wrong whenever it is
//! found; and never a state that differs from the last one read for longer than the hold-off.

use crate::clock::Moment;
use crate::series::{Entity, SeriesDef, SeriesId};
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
    /// A counter grows faster than a limit, on average over a time: told as soon as it has grown by that much within the
    /// time, and again when it has grown by less than half of it for as long.
    RateAbove {
        /// Name of the signal above the limit.
        raised: &'static str,
        /// Name of the signal when it is calm again; of severity `Info`.
        cleared: &'static str,
        /// Limit, in units of the series per second.
        per_s: f64,
        /// Time of the average.
        over: Duration,
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

const HOLD_OFF_NS: u64 = HOLD_OFF.as_secs() * 1_000_000_000;

/// What one reading showed of a series, as the rules see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edge {
    /// A gauge's value; `previous` is `None` at the first reading.
    State { previous: Option<f64>, value: f64 },
    /// A counter's movement since the last reading (0 where unknown) and its value.
    Count { delta: u64, total: u64, at_limit: bool },
}

/// The rule of one series, with what it remembers.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    rule: Rule,
    // Generic cell rate algorithm (ITU-T I.371): when the series will have its full burst again.
    full_burst_at_ns: u64,
    edges_untold: u64,
    growth_untold: u64,
    told_state: f64,
    told_at_limit: bool,
    is_above: bool,
    told_above: bool,
    growth: Growth,
}

/// How much a counter grew within a time that slides in steps of its half.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    half_from_ns: u64,
    observed_at_ns: u64,
    before: f64,
    recent: f64,
    raised_at_ns: u64,
}

impl Growth {
    /// Adds a movement; returns the growth over the last half to whole of `over_ns`.
    fn add(&mut self, now_ns: u64, delta: f64, over_ns: u64) -> f64 {
        let half_ns = (over_ns / 2).max(1);
        let since_last_ns = now_ns.saturating_sub(self.observed_at_ns);
        let is_first = std::mem::replace(&mut self.observed_at_ns, now_ns) == 0;
        if is_first {
            self.half_from_ns = now_ns;
        }
        let halves = now_ns.saturating_sub(self.half_from_ns) / half_ns;
        if halves > 0 {
            self.before = if halves == 1 { self.recent } else { 0.0 };
            self.recent = 0.0;
            self.half_from_ns += halves * half_ns;
        }
        // A movement over a longer time than the average's counts by its share.
        #[expect(clippy::cast_precision_loss, reason = "a share of two times")]
        let share = if is_first { 1.0 } else { (over_ns as f64 / since_last_ns.max(1) as f64).min(1.0) };
        self.recent += delta * share;
        self.before + self.recent
    }
}

impl Watch {
    pub(crate) fn new(rule: Rule) -> Self {
        Self {
            rule,
            full_burst_at_ns: 0,
            edges_untold: 0,
            growth_untold: 0,
            told_state: 1.0,
            told_at_limit: false,
            is_above: false,
            told_above: false,
            growth: Growth::default(),
        }
    }

    /// Whether a series that is gone has thereby fallen: true of states, not of levels.
    pub(crate) fn falls_with_its_series(&self) -> bool {
        matches!(self.rule.when, When::StateFalls { .. })
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
        let Rule { series: _, what, severity, when } = self.rule;
        let Entity { kind, name: entity } = def.entity();
        let told = match (when, edge) {
            (When::StateFalls { .. }, Edge::State { previous: None, value }) => {
                self.told_state = value;
                return None;
            }
            (When::StateFalls { raised, cleared }, Edge::State { previous: Some(previous), value }) => {
                #[expect(clippy::float_cmp, reason = "a state is exactly 0 or 1")]
                let changed = previous != value;
                self.edges_untold += u64::from(changed);
                if self.edges_untold == 0 || !self.may_speak(moment.at_ns, BURST) {
                    return None;
                }
                let previous = std::mem::replace(&mut self.told_state, value);
                let why = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
                if value < 1.0 {
                    Told(raised, severity, value, previous, format!("{kind} {entity}: {what} went down{why}"))
                } else {
                    Told(cleared, Severity::Info, value, previous, format!("{kind} {entity}: {what} is up again{why}"))
                }
            }
            (When::Moves { raised, saturated }, Edge::Count { delta, total, at_limit }) => {
                self.edges_untold += u64::from(delta > 0);
                self.growth_untold += delta;
                let tell_limit = at_limit && !self.told_at_limit;
                if (self.edges_untold == 0 && !tell_limit) || !self.may_speak(moment.at_ns, 1) {
                    return None;
                }
                let growth = std::mem::take(&mut self.growth_untold);
                let (value, previous) = (as_f64(total), as_f64(total.saturating_sub(growth)));
                if growth > 0 {
                    let text = format!("{kind} {entity}: {what} grew by {growth} to {total} and should never move");
                    Told(raised, severity, value, previous, text)
                } else {
                    self.told_at_limit = true;
                    let text = format!(
                        "{kind} {entity}: the counter of {what} is at its maximum {total} and hides further ones until it is cleared"
                    );
                    Told(saturated, Severity::Warning, value, previous, text)
                }
            }
            (When::RateAbove { raised, cleared, per_s, over }, Edge::Count { delta, total, at_limit: _ }) => {
                let over_ns = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX);
                let grown = self.growth.add(moment.at_ns, as_f64(delta), over_ns);
                let allowed = per_s * over.as_secs_f64();
                let (previous, unit) = ((as_f64(total) - grown).max(0.0), def.unit());
                let is_calm = grown < allowed / 2.0 && moment.at_ns >= self.growth.raised_at_ns.saturating_add(over_ns);
                if !self.told_above && grown > allowed && self.may_speak(moment.at_ns, BURST) {
                    (self.told_above, self.growth.raised_at_ns) = (true, moment.at_ns);
                    let text = format!(
                        "{kind} {entity}: {what} grew by {grown:.0} {unit} within {} s, more than {allowed:.0}",
                        over.as_secs_f64()
                    );
                    Told(raised, severity, as_f64(total), previous, text)
                } else if self.told_above && is_calm && self.may_speak(moment.at_ns, BURST) {
                    self.told_above = false;
                    let text = format!("{kind} {entity}: {what} grows by less than half of the limit again");
                    Told(cleared, Severity::Info, as_f64(total), previous, text)
                } else {
                    return None;
                }
            }
            (When::LevelAbove { raised, cleared, above }, Edge::State { previous, value }) => {
                let is_above = value > above;
                self.edges_untold += u64::from(std::mem::replace(&mut self.is_above, is_above) != is_above);
                if is_above == self.told_above || !self.may_speak(moment.at_ns, BURST) {
                    return None;
                }
                self.told_above = is_above;
                let previous = previous.unwrap_or(value);
                let why = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
                if is_above {
                    let text = format!("{kind} {entity}: {what}: {value}, more than {above}{why}");
                    Told(raised, severity, value, previous, text)
                } else {
                    let text = format!("{kind} {entity}: {what}: {value}, within the limit of {above} again{why}");
                    Told(cleared, Severity::Info, value, previous, text)
                }
            }
            // A rule of states on a counter, or the other way round: the table of rules is wrong, and silent here.
            (When::StateFalls { .. } | When::LevelAbove { .. }, Edge::Count { .. })
            | (When::Moves { .. } | When::RateAbove { .. }, Edge::State { .. }) => return None,
        };
        let Told(name, severity, value, previous, summary) = told;
        let cause = cause.map(|cause| ("cause", cause.to_owned()));
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
            suppressed: std::mem::take(&mut self.edges_untold).saturating_sub(1),
        })
    }

    /// The counter started again: its maximum, once reached, is news again.
    pub(crate) fn restarted(&mut self) {
        self.told_at_limit = false;
    }

    fn may_speak(&mut self, now_ns: u64, burst: u64) -> bool {
        let interval_ns = HOLD_OFF_NS / burst;
        let full_at_ns = self.full_burst_at_ns.max(now_ns);
        if full_at_ns + interval_ns > now_ns + HOLD_OFF_NS {
            return false;
        }
        self.full_burst_at_ns = full_at_ns + interval_ns;
        true
    }
}

struct Told(&'static str, Severity, f64, f64, String);

#[expect(clippy::cast_precision_loss, reason = "a signal's value is for people; the exact one is in the window")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::series::{Counter, Kind};

    const MS: u64 = 1_000_000;
    const STATE: Rule = Rule {
        series: "up",
        what: "the link",
        severity: Severity::Critical,
        when: When::StateFalls { raised: "nic.link.down", cleared: "nic.link.up" },
    };
    const ERRORS: Rule = Rule {
        series: "errors",
        what: "symbol errors",
        severity: Severity::Error,
        when: When::Moves { raised: "nic.errors", saturated: "nic.counter.saturated" },
    };

    fn def(kind: Kind) -> SeriesDef {
        SeriesDef::new("x", "1", kind, Entity { kind: "port", name: "eth0".into() }, [])
    }

    fn at(ms: u64) -> Moment {
        Moment { at_ns: 1_000_000 * MS + ms * MS, half_width_ns: 5 }
    }

    /// Feeds states at milliseconds; returns (millisecond, name, suppressed) of each signal.
    fn states(readings: &[(u64, f64)]) -> Vec<(u64, &'static str, u64)> {
        let (def, mut watch, mut previous) = (def(Kind::Gauge), Watch::new(STATE), None);
        let mut told = Vec::new();
        for (ms, value) in readings {
            let edge = Edge::State { previous, value: *value };
            if let Some(s) = watch.observe(&def, edge, at(*ms), None, None) {
                told.push((*ms, s.name, s.suppressed));
            }
            previous = Some(*value);
        }
        told
    }

    #[test]
    fn a_state_found_down_at_start_is_no_edge_and_its_return_is() {
        assert_eq!(states(&[(0, 0.0), (10, 0.0), (20, 1.0)]), [(20, "nic.link.up", 0)]);
    }

    #[test]
    fn down_and_up_leave_at_once_and_in_order() {
        assert_eq!(
            states(&[(0, 1.0), (10, 0.0), (20, 0.0), (30, 1.0)]),
            [(10, "nic.link.down", 0), (30, "nic.link.up", 0)]
        );
    }

    #[test]
    fn a_flapping_link_is_held_back_counted_and_its_last_state_told() {
        let flaps: Vec<_> = (0..=20).map(|i| (i * 10, if i % 2 == 0 { 1.0 } else { 0.0 })).collect();
        let mut readings = flaps.clone();
        readings.extend((30..=200).map(|i| (i * 10, 1.0)));
        let told = states(&readings);
        assert_eq!(told.last().unwrap().1, "nic.link.up", "{told:?}");
        let counted: u64 = told.iter().map(|(_, _, suppressed)| suppressed + 1).sum();
        assert_eq!(counted, 20, "every change is told or counted: {told:?}");
        assert!(told.len() <= 6, "{told:?}");
    }

    #[test]
    fn growth_of_a_counter_is_told_once_and_the_rest_together_after_the_hold_off() {
        let (def, mut watch) = (def(Kind::Counter(Counter::wrapping(32))), Watch::new(ERRORS));
        let mut told = Vec::new();
        let mut total = 7;
        for i in 0..150u64 {
            let delta = if i < 50 { 2 } else { 0 };
            total += delta;
            let edge = Edge::Count { delta, total, at_limit: false };
            if let Some(s) = watch.observe(&def, edge, at(i * 10), None, None) {
                told.push((i * 10, s.value, s.previous.unwrap(), s.suppressed));
            }
        }
        assert_eq!(told, [(0, 9.0, 7.0, 0), (1000, 107.0, 9.0, 48)]);
    }

    #[test]
    fn a_counter_at_its_maximum_says_once_that_it_hides_errors() {
        let (def, mut watch) = (def(Kind::Counter(Counter::saturating(8))), Watch::new(ERRORS));
        let edge = Edge::Count { delta: 0, total: 255, at_limit: true };
        let told: Vec<_> = (0..5).filter_map(|i| watch.observe(&def, edge, at(i * 5000), None, None)).collect();
        assert_eq!(
            told.iter().map(|s| (s.name, s.severity)).collect::<Vec<_>>(),
            [("nic.counter.saturated", Severity::Warning)]
        );
        watch.restarted();
        assert!(watch.observe(&def, edge, at(60_000), None, None).is_some(), "news again after a reset");
    }

    #[test]
    fn a_rate_above_its_limit_is_told_once_early_and_its_end_once() {
        let when = When::RateAbove { raised: "high", cleared: "calm", per_s: 10.0, over: Duration::from_secs(10) };
        let rule = Rule { series: "x", what: "corrected errors", severity: Severity::Warning, when };
        // (seconds of growth, growth in each, seconds at which something is told)
        for (active, each, expected) in [
            (0..60, 9, &[][..]),
            (0..60, 11, &[(9, "high"), (69, "calm")]),
            (20..21, 101, &[(20, "high"), (30, "calm")]),
            (20..21, 99, &[]),
            // Half of the growth on either side of a step of the window.
            (24..26, 60, &[(25, "high"), (35, "calm")]),
        ] {
            let (def, mut watch) = (def(Kind::Counter(Counter::wrapping(32))), Watch::new(rule));
            let (mut told, mut total) = (Vec::new(), 0);
            for second in 0..120u64 {
                let delta = if active.contains(&second) { each } else { 0 };
                total += delta;
                let edge = Edge::Count { delta, total, at_limit: false };
                if let Some(signal) = watch.observe(&def, edge, at(second * 1000), None, None) {
                    told.push((second, signal.name));
                }
            }
            let names: Vec<_> = told.iter().map(|(_, name)| *name).collect();
            assert_eq!(
                names,
                expected.iter().map(|(_, name)| *name).collect::<Vec<_>>(),
                "{active:?} x {each}: {told:?}"
            );
            for ((got, _), (wanted, name)) in told.iter().zip(expected) {
                assert!(got.abs_diff(*wanted) <= 5, "{active:?} x {each}: {name} at {got}, expected near {wanted}");
            }
        }
    }

    #[test]
    fn growth_over_a_long_silence_is_no_burst() {
        let when = When::RateAbove { raised: "high", cleared: "calm", per_s: 10.0, over: Duration::from_secs(10) };
        let rule = Rule { series: "x", what: "corrected errors", severity: Severity::Warning, when };
        let (def, mut watch) = (def(Kind::Counter(Counter::wrapping(32))), Watch::new(rule));
        let edge = |delta| Edge::Count { delta, total: 5000, at_limit: false };
        assert!(watch.observe(&def, edge(0), at(0), None, None).is_none());
        assert!(watch.observe(&def, edge(900), at(100_000), None, None).is_none(), "9 a second over 100 s");
        assert!(watch.observe(&def, edge(1100), at(200_000), None, None).is_some(), "11 a second over 100 s");
    }

    #[test]
    fn a_level_beyond_its_limit_is_told_at_the_first_reading_and_when_it_is_back() {
        let when = When::LevelAbove { raised: "degraded", cleared: "whole", above: 0.0 };
        let rule = Rule { series: "x", what: "lanes missing", severity: Severity::Error, when };
        let (def, mut watch, mut previous) = (def(Kind::Gauge), Watch::new(rule), None);
        let mut told = Vec::new();
        for (second, value) in [(0, 8.0), (1, 8.0), (2, 0.0), (3, 0.0), (4, 12.0)] {
            let edge = Edge::State { previous, value };
            told.extend(watch.observe(&def, edge, at(second * 1000), None, None).map(|s| (second, s.name, s.severity)));
            previous = Some(value);
        }
        assert_eq!(
            told,
            [(0, "degraded", Severity::Error), (2, "whole", Severity::Info), (4, "degraded", Severity::Error)]
        );
    }

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
