//! A gauge is above a limit; told at the first reading too.

use super::{Pace, Seen, Told};
use crate::signal::{BURST, Severity};

#[derive(Clone, Debug)]
pub(super) struct LevelAbove {
    raised: &'static str,
    cleared: &'static str,
    above: f64,
    is_above: bool,
    told_above: bool,
}

impl LevelAbove {
    pub(super) fn new(raised: &'static str, cleared: &'static str, above: f64) -> Self {
        Self { raised, cleared, above, is_above: false, told_above: false }
    }

    pub(super) fn observe(
        &mut self,
        seen: &Seen<'_>,
        pace: &mut Pace,
        previous: Option<f64>,
        value: f64,
    ) -> Option<Told> {
        let is_above = value > self.above;
        pace.note(std::mem::replace(&mut self.is_above, is_above) != is_above);
        if is_above == self.told_above || !pace.may_speak(seen.moment.at_ns, BURST) {
            return None;
        }
        self.told_above = is_above;
        let (previous, above, subject, why) = (previous.unwrap_or(value), self.above, seen.subject(), seen.why());
        let (name, severity, summary) = if is_above {
            (self.raised, seen.severity, format!("{subject}: {value}, more than {above}{why}"))
        } else {
            (self.cleared, Severity::Info, format!("{subject}: {value}, within the limit of {above} again{why}"))
        };
        Some(Told { name, severity, value, previous, summary, cause: None })
    }
}

#[cfg(test)]
mod tests {
    use crate::series::Kind;
    use crate::signal::{Rule, Severity, When};
    use crate::watch::testing::{at, def};
    use crate::watch::{Edge, Watch};

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
}
