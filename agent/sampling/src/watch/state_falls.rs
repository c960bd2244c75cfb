//! A gauge of 1 (good) and 0 (bad) changes.

use super::{Pace, Seen, Told};
use crate::signal::{BURST, Severity};

#[derive(Clone, Debug)]
pub(super) struct StateFalls {
    raised: &'static str,
    cleared: &'static str,
    told: f64,
}

impl StateFalls {
    pub(super) fn new(raised: &'static str, cleared: &'static str) -> Self {
        Self { raised, cleared, told: 1.0 }
    }

    pub(super) fn observe(
        &mut self,
        seen: &Seen<'_>,
        pace: &mut Pace,
        previous: Option<f64>,
        value: f64,
    ) -> Option<Told> {
        let Some(previous) = previous else {
            self.told = value;
            return None;
        };
        #[expect(clippy::float_cmp, reason = "a state is exactly 0 or 1")]
        pace.note(previous != value);
        if !pace.has_untold() || !pace.may_speak(seen.moment.at_ns, BURST) {
            return None;
        }
        let previous = std::mem::replace(&mut self.told, value);
        let (name, severity, turn) = if value < 1.0 {
            (self.raised, seen.severity, "went down")
        } else {
            (self.cleared, Severity::Info, "is up again")
        };
        let summary = format!("{} {turn}{}", seen.subject(), seen.why());
        Some(Told { name, severity, value, previous, summary, cause: None })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::series::Kind;
    use crate::watch::testing::{STATE, at, def};
    use crate::watch::{Edge, Watch};

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
}
