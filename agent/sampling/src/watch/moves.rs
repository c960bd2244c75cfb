//! A counter that should never move moves, or is found at its maximum.

use super::{Pace, Seen, Told, as_f64};
use crate::signal::Severity;

#[derive(Clone, Debug)]
pub(super) struct Moves {
    raised: &'static str,
    saturated: &'static str,
    growth_untold: u64,
    told_at_limit: bool,
}

impl Moves {
    pub(super) fn new(raised: &'static str, saturated: &'static str) -> Self {
        Self { raised, saturated, growth_untold: 0, told_at_limit: false }
    }

    pub(super) fn observe(
        &mut self,
        seen: &Seen<'_>,
        pace: &mut Pace,
        delta: u64,
        total: u64,
        at_limit: bool,
    ) -> Option<Told> {
        pace.note(delta > 0);
        self.growth_untold += delta;
        let tell_limit = at_limit && !self.told_at_limit;
        if (!pace.has_untold() && !tell_limit) || !pace.may_speak(seen.moment.at_ns, 1) {
            return None;
        }
        let growth = std::mem::take(&mut self.growth_untold);
        let (value, previous) = (as_f64(total), as_f64(total.saturating_sub(growth)));
        if growth > 0 {
            let summary = format!("{} grew by {growth} to {total} and should never move", seen.subject());
            return Some(Told { name: self.raised, severity: seen.severity, value, previous, summary, cause: None });
        }
        self.told_at_limit = true;
        let (kind, entity, what) = (seen.def.entity().kind, &seen.def.entity().name, seen.what);
        let summary = format!(
            "{kind} {entity}: the counter of {what} is at its maximum {total} and hides further ones until it is cleared"
        );
        Some(Told { name: self.saturated, severity: Severity::Warning, value, previous, summary, cause: None })
    }

    /// The counter started again: its maximum, once reached, is news again.
    pub(super) fn restarted(&mut self) {
        self.told_at_limit = false;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::series::{Counter, Kind};
    use crate::signal::Severity;
    use crate::watch::testing::{ERRORS, at, def};
    use crate::watch::{Edge, Watch};

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
}
