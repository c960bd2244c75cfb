//! A gauge leaves the bounds that its source declared it with, or returns within them.

use super::{Pace, Seen, Told};
use crate::bounds::{Bounds, Place};
use crate::signal::{BURST, Severity};

#[derive(Clone, Debug)]
pub(super) struct Leaves {
    raised: &'static str,
    cleared: &'static str,
    bounds: Option<Bounds>,
    place: Option<Place>,
    told: f64,
}

impl Leaves {
    pub(super) fn new(raised: &'static str, cleared: &'static str) -> Self {
        Self { raised, cleared, bounds: None, place: None, told: 1.0 }
    }

    pub(super) fn set_bounds(&mut self, bounds: Option<Bounds>) {
        self.bounds = bounds;
    }

    /// The series vanished: what was said of its bounds holds no longer.
    pub(super) fn forget(&mut self) {
        self.place = None;
    }

    pub(super) fn observe(
        &mut self,
        seen: &Seen<'_>,
        pace: &mut Pace,
        previous: Option<f64>,
        value: f64,
    ) -> Option<Told> {
        let bounds = self.bounds?;
        let Some(from) = self.place.or(previous.map(|_| Place::Within)) else {
            (self.place, self.told) = (Some(bounds.place(value, Place::Within)), value);
            return None;
        };
        let place = bounds.place(value, from);
        if !from.is_news(place) {
            // Better, and still not well: a return to worse is no news.
            self.place.get_or_insert(place);
            return None;
        }
        if !pace.may_speak(seen.moment.at_ns, BURST) {
            return None;
        }
        self.place = Some(place);
        let previous = std::mem::replace(&mut self.told, value);
        let (subject, unit) = (seen.subject(), if seen.def.unit() == "Cel" { "°C" } else { seen.def.unit() });
        let (name, severity, summary) = match bounds.beyond(place) {
            Some(bound) => {
                let side = if value > bound { "above" } else { "below" };
                let severity = if place.is_alarm() { seen.severity } else { Severity::Warning };
                let level = place.name().replace('_', " ");
                let text = format!("{subject} of {value} {unit} is {side} its {level} of {bound} {unit}");
                (self.raised, severity, text)
            }
            None => (self.cleared, Severity::Info, format!("{subject} of {value} {unit} is within its bounds again")),
        };
        Some(Told { name, severity, value, previous, summary, cause: Some(place.name()) })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::bounds::Bounds;
    use crate::series::{Entity, Kind, SeriesDef};
    use crate::signal::{Rule, Severity, When};
    use crate::watch::testing::at;
    use crate::watch::{Edge, Watch};

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
}
