//! Edges seen at sample rate: rules as data in, signals out at once.
//!
//! In: a series' movement, reading by reading. Out: [`Signal`]s, at most a few per series and second, with what was held
//! back counted in the next one. Never: a signal from a first reading (history is not an edge) except for a counter that
//! sits at its maximum and can therefore hide what comes, or a level beyond its limit, which is wrong whenever it is
//! found; and never a state that differs from the last one read for longer than the hold-off.

use crate::bounds::{Bounds, Place};
use crate::clock::Moment;
use crate::series::{Entity, Kind, SeriesDef, SeriesId};
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
    rate: Rate,
    best: f64,
    bucket: f64,
    bucket_at_ns: u64,
    bounds: Option<Bounds>,
    place: Option<Place>,
    is_above: bool,
    told_above: bool,
}

/// A counter's rate over the time since `since_ns`: when that is long enough, it starts again.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    since_ns: Option<u64>,
    growth: u64,
    is_above: bool,
}

impl Rate {
    /// Takes a movement. The rate since `since_ns`, and whether it is above (`Some(true)`) or, over a whole `over_ns`,
    /// below half of the limit (`Some(false)`). Nothing of an earlier time is told as if it were of this one: a gap between
    /// readings counts as time.
    fn take(&mut self, delta: u64, now_ns: u64, limit_per_s: f64, over_ns: u64) -> Option<(f64, bool)> {
        let Some(since_ns) = self.since_ns else {
            self.since_ns = Some(now_ns);
            return None;
        };
        self.growth = self.growth.saturating_add(delta);
        let elapsed_ns = now_ns.saturating_sub(since_ns);
        let per_s = as_f64(self.growth) * 1e9 / as_f64(elapsed_ns.max(over_ns));
        let is_whole = elapsed_ns >= over_ns;
        if is_whole {
            (self.since_ns, self.growth) = (Some(now_ns), 0);
        }
        match per_s {
            per_s if per_s >= limit_per_s => Some((per_s, true)),
            per_s if is_whole && per_s < limit_per_s / 2.0 => Some((per_s, false)),
            _ => None,
        }
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
            rate: Rate::default(),
            best: 0.0,
            bucket: 0.0,
            bucket_at_ns: 0,
            bounds: None,
            place: None,
            is_above: false,
            told_above: false,
        }
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
        let mut cause = cause;
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
            (When::RateAbove { raised, cleared, limit_per_s, over }, Edge::Count { delta, .. }) => {
                let refresh_ns = match def.kind() {
                    Kind::Counter(counter) => counter.refresh_ns,
                    Kind::Gauge => 0,
                };
                let over_ns = u64::try_from(over.as_nanos()).unwrap_or(u64::MAX).max(refresh_ns).max(1);
                let (per_s, is_above) = self.rate.take(delta, moment.at_ns, limit_per_s, over_ns)?;
                if is_above == self.rate.is_above || !self.may_speak(moment.at_ns, BURST) {
                    return None;
                }
                self.rate.is_above = is_above;
                let (of, why) = (where_in(def), cause.map(|cause| format!(" ({cause})")).unwrap_or_default());
                let told = rate_for_people(per_s, def.unit());
                if is_above {
                    let limit = rate_for_people(limit_per_s, def.unit());
                    let text = format!("{kind} {entity}: {what}{of} at {told}, above {limit}{why}");
                    Told(raised, severity, per_s, limit_per_s, text)
                } else {
                    let text = format!("{kind} {entity}: {what}{of} down to {told}");
                    Told(cleared, Severity::Info, per_s, limit_per_s, text)
                }
            }
            (When::BelowBest { raised, cleared }, Edge::State { value, .. }) => {
                // Below 1 it is unknown, or the series vanished.
                if value < 1.0 {
                    return None;
                }
                let (is_first, was_below) = (self.best < 1.0, self.told_state < self.best);
                self.best = self.best.max(value);
                if is_first || (value > self.told_state && !was_below) {
                    self.told_state = value;
                    return None;
                }
                if (value - self.told_state).abs() < 1.0 || !self.may_speak(moment.at_ns, BURST) {
                    return None;
                }
                self.told_state = value;
                let (best, is_below) = (self.best, value < self.best);
                let unit = def.unit();
                if is_below {
                    let text = format!("{kind} {entity}: {what} is {value} {unit} and was {best} {unit}");
                    Told(raised, severity, value, best, text)
                } else {
                    let text = format!("{kind} {entity}: {what} is {value} {unit} again");
                    Told(cleared, Severity::Info, value, best, text)
                }
            }
            (When::Floods { raised, per_s, burst }, Edge::Count { delta, total, .. }) => {
                let passed_s = Duration::from_nanos(moment.at_ns.saturating_sub(self.bucket_at_ns)).as_secs_f64();
                self.bucket_at_ns = moment.at_ns;
                self.bucket = (self.bucket - f64::from(per_s) * passed_s).max(0.0) + as_f64(delta);
                self.growth_untold += delta;
                if self.bucket <= f64::from(burst) {
                    // Nobody misses a trickle in what a later flood grew by.
                    self.growth_untold = if self.bucket > 0.0 { self.growth_untold } else { 0 };
                    if self.edges_untold == 0 {
                        return None;
                    }
                } else {
                    self.edges_untold += 1;
                }
                if !self.may_speak(moment.at_ns, 1) {
                    return None;
                }
                self.bucket = 0.0;
                let growth = std::mem::take(&mut self.growth_untold);
                let (value, previous) = (as_f64(total), as_f64(total.saturating_sub(growth)));
                let text = format!("{kind} {entity}: {what}: {growth} more, {total} in all");
                Told(raised, severity, value, previous, text)
            }
            (When::Leaves { raised, cleared }, Edge::State { previous, value }) => {
                let bounds = self.bounds?;
                let Some(from) = self.place.or(previous.map(|_| Place::Within)) else {
                    (self.place, self.told_state) = (Some(bounds.place(value, Place::Within)), value);
                    return None;
                };
                let place = bounds.place(value, from);
                if !from.is_news(place) {
                    // Better, and still not well: a return to worse is no news.
                    self.place.get_or_insert(place);
                    return None;
                }
                if !self.may_speak(moment.at_ns, BURST) {
                    return None;
                }
                self.place = Some(place);
                cause = Some(place.name());
                let previous = std::mem::replace(&mut self.told_state, value);
                let unit = if def.unit() == "Cel" { "°C" } else { def.unit() };
                match bounds.beyond(place) {
                    Some(bound) => {
                        let side = if value > bound { "above" } else { "below" };
                        let severity = if place.is_alarm() { severity } else { Severity::Warning };
                        let level = place.name().replace('_', " ");
                        let text = format!(
                            "{kind} {entity}: {what} of {value} {unit} is {side} its {level} of {bound} {unit}"
                        );
                        Told(raised, severity, value, previous, text)
                    }
                    None => {
                        let text = format!("{kind} {entity}: {what} of {value} {unit} is within its bounds again");
                        Told(cleared, Severity::Info, value, previous, text)
                    }
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
            (
                When::StateFalls { .. } | When::BelowBest { .. } | When::Leaves { .. } | When::LevelAbove { .. },
                Edge::Count { .. },
            )
            | (When::Moves { .. } | When::RateAbove { .. } | When::Floods { .. }, Edge::State { .. }) => return None,
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

    /// Takes the bounds its series was declared with.
    pub(crate) fn set_bounds(&mut self, bounds: Option<Bounds>) {
        self.bounds = bounds;
    }

    /// A series that vanishes falls by that. A level that vanishes says nothing more; what it said of its bounds is forgotten.
    pub(crate) fn falls_with_its_series(&mut self) -> bool {
        self.place = None;
        !matches!(self.rule.when, When::Leaves { .. } | When::LevelAbove { .. })
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

/// Which part of the entity a series is of, from its labels: " (priority 3, receive)".
fn where_in(def: &SeriesDef) -> String {
    let priority = def.label("network.priority").map(|priority| format!("priority {priority}"));
    let class = def.label("network.cos").map(|class| format!("class {class}"));
    let direction = def.label("network.io.direction").map(str::to_owned);
    let parts: Vec<_> = priority.into_iter().chain(class).chain(direction).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// "41.0 % of the time" for nanoseconds per second, "1234/s" for anything counted.
fn rate_for_people(per_s: f64, unit: &str) -> String {
    if unit == "ns" { format!("{:.1} % of the time", per_s / 1e7) } else { format!("{per_s:.0}/s") }
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
    use crate::series::Counter;

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
    fn a_flood_is_told_and_a_trickle_is_not() {
        let flood = |per_s, burst| Rule { when: When::Floods { raised: "flood", per_s, burst }, ..ERRORS };
        // Per reading of 100 ms: what comes, and at which readings it is told with how much growth.
        for (rule, comes, told) in [
            (flood(100, 1000), vec![10; 600], vec![]),
            (flood(100, 1000), vec![0, 500, 500, 0], vec![]),
            (flood(100, 1000), vec![0, 500, 600, 0], vec![(2, 1100.0)]),
            (flood(100, 1000), vec![2000, 2000, 2000, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![(0, 2000.0), (10, 4000.0)]),
            (flood(0, 0), vec![0, 1, 0, 0], vec![(1, 1.0)]),
        ] {
            let (def, mut watch) = (def(Kind::Counter(Counter::wrapping(64))), Watch::new(rule));
            let (mut total, mut seen) = (0, Vec::new());
            for (reading, delta) in comes.iter().copied().enumerate() {
                total += delta;
                let edge = Edge::Count { delta, total, at_limit: false };
                if let Some(s) = watch.observe(&def, edge, at(reading as u64 * 100), None, None) {
                    seen.push((reading, s.value - s.previous.unwrap()));
                }
            }
            assert_eq!(seen, told, "{:?} with {comes:?}", rule.when);
        }
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

    const DUTY: Rule = Rule {
        series: "pause",
        what: "pause",
        severity: Severity::Warning,
        when: When::RateAbove {
            raised: "nic.pfc.paused",
            cleared: "nic.pfc.flowing",
            limit_per_s: 1e8,
            over: Duration::from_millis(100),
        },
    };

    /// Feeds movements (nanoseconds of pause) at milliseconds; returns (millisecond, name, rate in per cent) of each signal.
    fn duties(counter: Counter, movements: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, &'static str, u64)> {
        let labels = [("network.priority", "3".to_owned()), ("network.io.direction", "receive".to_owned())];
        let entity = Entity { kind: "port", name: "eth0".into() };
        let def = SeriesDef::new("pause", "ns", Kind::Counter(counter), entity, labels);
        let mut watch = Watch::new(DUTY);
        let mut told = Vec::new();
        for (ms, delta) in movements {
            let edge = Edge::Count { delta, total: 0, at_limit: false };
            if let Some(signal) = watch.observe(&def, edge, at(ms), None, None) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small per cent")]
                told.push((ms, signal.name, (signal.value / 1e7).round() as u64));
            }
        }
        told
    }

    #[test]
    fn a_rate_speaks_when_it_crosses_and_when_it_is_over_and_not_between() {
        // 4.1 ms of pause in each 10 ms for 300 ms, then none.
        let readings = (0..80u64).map(|i| (i * 10, if (1..=30).contains(&i) { 4_100_000 } else { 0 }));
        let told = duties(Counter::wrapping(64), readings);
        assert_eq!(told.iter().map(|(_, name, _)| *name).collect::<Vec<_>>(), ["nic.pfc.paused", "nic.pfc.flowing"]);
        assert_eq!(told[0].0, 30, "as soon as the pause of 100 ms is reached, whatever follows: {told:?}");
        assert!((310..=510).contains(&told[1].0), "over a whole 100 ms: {told:?}");
    }

    #[test]
    fn a_little_pause_a_long_gap_and_a_first_reading_are_no_storm() {
        for (what, readings) in [
            ("5 % of the time", (0..100u64).map(|i| (i * 10, 500_000)).collect::<Vec<_>>()),
            ("12 ms of pause in 10 s without a reading", vec![(0, 0), (10, 0), (10_010, 12_000_000)]),
            ("a count that was there before", vec![(0, u64::MAX), (10, 0), (20, 0)]),
        ] {
            assert_eq!(duties(Counter::wrapping(64), readings), [], "{what}");
        }
    }

    #[test]
    fn what_is_refreshed_once_a_second_is_rated_over_a_second() {
        let slow = Counter::wrapping(64).refreshed_every(Duration::from_secs(1));
        // 60 ms of pause appear at once every second: 6 %, though 60 % of the 100 ms they appear in.
        let readings = (0..400u64).map(|i| (i * 10, if i % 100 == 99 { 60_000_000 } else { 0 }));
        assert_eq!(duties(slow, readings), []);
    }

    #[test]
    fn a_rate_just_around_its_limit_does_not_chatter() {
        let readings = (0..500u64).map(|i| (i * 10, if i / 10 % 2 == 0 { 1_100_000 } else { 900_000 }));
        let told = duties(Counter::wrapping(64), readings);
        assert_eq!(told.iter().map(|(_, name, _)| *name).collect::<Vec<_>>(), ["nic.pfc.paused"]);
    }

    #[test]
    fn a_rate_is_told_with_what_it_is_of() {
        let labels = [("network.priority", "3".to_owned()), ("network.io.direction", "receive".to_owned())];
        let entity = Entity { kind: "port", name: "eth0".into() };
        let def = SeriesDef::new("pause", "ns", Kind::Counter(Counter::wrapping(64)), entity, labels);
        let mut watch = Watch::new(DUTY);
        let edge = |delta| Edge::Count { delta, total: 0, at_limit: false };
        assert!(watch.observe(&def, edge(0), at(0), None, None).is_none());
        let signal = watch.observe(&def, edge(41_000_000), at(100), Some("drops_still"), None).unwrap();
        assert_eq!(
            signal.summary,
            "port eth0: pause (priority 3, receive) at 41.0 % of the time, above 10.0 % of the time (drops_still)"
        );
    }

    #[test]
    fn a_gauge_below_its_best_is_told_once_and_its_return_too() {
        let rule = Rule {
            when: When::BelowBest { raised: "nic.speed.reduced", cleared: "nic.speed.restored" },
            what: "the speed",
            ..STATE
        };
        for (readings, expected) in [
            (vec![400.0, 400.0, 200.0, 200.0, 400.0, 400.0], vec!["nic.speed.reduced", "nic.speed.restored"]),
            (vec![400.0, 200.0, 0.0, 200.0, 100.0], vec!["nic.speed.reduced", "nic.speed.reduced"]),
            (vec![100.0, 0.0, 100.0, 400.0], vec![]),
        ] {
            let (def, mut watch) = (def(Kind::Gauge), Watch::new(rule));
            let told: Vec<_> = readings
                .iter()
                .zip(0..)
                .filter_map(|(value, i)| {
                    let edge = Edge::State { previous: None, value: *value };
                    Some(watch.observe(&def, edge, at(i * 1000), None, None)?.name)
                })
                .collect();
            assert_eq!(told, expected, "{readings:?}");
        }
    }

    const LIMITS: Rule = Rule {
        series: "rx_power",
        what: "received power",
        severity: Severity::Error,
        when: When::Leaves { raised: "optics.limit.crossed", cleared: "optics.limit.kept" },
    };

    /// Feeds values 30 s apart; returns (name, severity, cause) of each signal.
    fn crossings(appeared: bool, values: &[f64]) -> Vec<(&'static str, Severity, String)> {
        let bounds =
            Bounds { high_alarm: Some(2.0), low_alarm: Some(0.1), high_warning: Some(1.5), low_warning: Some(0.2) };
        let entity = Entity { kind: "lane", name: "eth0/3".into() };
        let def = SeriesDef::new("rx_power", "mW", Kind::Gauge, entity, []).within(bounds);
        let (mut watch, mut previous) = (Watch::new(LIMITS), appeared.then_some(0.0));
        watch.set_bounds(def.bounds());
        let mut told = Vec::new();
        for (i, value) in (0..).zip(values) {
            let edge = Edge::State { previous, value: *value };
            if let Some(signal) = watch.observe(&def, edge, at(i * 30_000), None, None) {
                told.push((signal.name, signal.severity, signal.attributes[0].1.clone()));
            }
            previous = Some(*value);
        }
        told
    }

    #[test]
    fn a_gauge_beyond_its_bounds_is_told_when_it_gets_there_when_worse_and_when_well() {
        let (crossed, kept) = ("optics.limit.crossed", "optics.limit.kept");
        use Severity::{Error, Info, Warning};
        let low_warning = (crossed, Warning, "low_warning".to_owned());
        let low_alarm = (crossed, Error, "low_alarm".to_owned());
        let within = (kept, Info, "within".to_owned());
        for (what, appeared, values, expected) in [
            ("well throughout", false, &[1.0, 1.4, 0.21][..], vec![]),
            ("worse step by step", false, &[1.0, 0.15, 0.15, 0.05, 0.0], vec![low_warning.clone(), low_alarm.clone()]),
            ("better is not well", false, &[1.0, 0.05, 0.15, 0.05, 0.15, 1.0], vec![low_alarm.clone(), within.clone()]),
            ("around the bound", false, &[1.0, 0.199, 0.201, 0.199, 0.201], vec![low_warning.clone()]),
            ("history at start, then its end", false, &[0.0, 0.0, 1.0], vec![within.clone()]),
            ("a lane that came while we watched", true, &[0.0, 0.0, 1.0], vec![low_alarm.clone(), within.clone()]),
            ("from one end to the other", false, &[3.0, 0.0], vec![low_alarm]),
        ] {
            assert_eq!(crossings(appeared, values), expected, "{what}");
        }
    }

    #[test]
    fn a_crossing_names_the_value_and_the_bound_and_a_gauge_without_bounds_says_nothing() {
        let entity = Entity { kind: "module", name: "eth0".into() };
        let bounds = Bounds { high_alarm: Some(75.0), ..Bounds::default() };
        let def = SeriesDef::new("t", "Cel", Kind::Gauge, entity, []).within(bounds);
        let mut watch = Watch::new(Rule { what: "the temperature", ..LIMITS });
        let edge = Edge::State { previous: Some(40.0), value: 80.5 };
        assert!(watch.observe(&def, edge, at(0), None, None).is_none());
        watch.set_bounds(def.bounds());
        let signal = watch.observe(&def, edge, at(1000), None, None).unwrap();
        assert_eq!(signal.summary, "module eth0: the temperature of 80.5 °C is above its high alarm of 75 °C");
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
