//! A gauge is below the best it ever showed. A gauge that shows 0 says nothing: it is not known then.

use super::{Pace, Seen, Told};
use crate::signal::{BURST, Severity};

#[derive(Clone, Debug)]
pub(super) struct BelowBest {
    raised: &'static str,
    cleared: &'static str,
    /// 0 before the first value.
    best: f64,
    told: f64,
}

impl BelowBest {
    pub(super) fn new(raised: &'static str, cleared: &'static str) -> Self {
        Self { raised, cleared, best: 0.0, told: 0.0 }
    }

    pub(super) fn observe(&mut self, seen: &Seen<'_>, pace: &mut Pace, value: f64) -> Option<Told> {
        // Below 1 it is unknown, or the series vanished.
        if value < 1.0 {
            return None;
        }
        let (is_first, was_below) = (self.best < 1.0, self.told < self.best);
        self.best = self.best.max(value);
        if is_first || (value > self.told && !was_below) {
            self.told = value;
            return None;
        }
        if (value - self.told).abs() < 1.0 || !pace.may_speak(seen.moment.at_ns, BURST) {
            return None;
        }
        self.told = value;
        let (best, subject, unit) = (self.best, seen.subject(), seen.def.unit());
        let (name, severity, summary) = if value < best {
            (self.raised, seen.severity, format!("{subject} is {value} {unit} and was {best} {unit}"))
        } else {
            (self.cleared, Severity::Info, format!("{subject} is {value} {unit} again"))
        };
        Some(Told { name, severity, value, previous: best, summary, cause: None })
    }
}

#[cfg(test)]
mod tests {
    use crate::series::Kind;
    use crate::signal::{Rule, When};
    use crate::watch::testing::{STATE, at, def};
    use crate::watch::{Edge, Watch};

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
}
