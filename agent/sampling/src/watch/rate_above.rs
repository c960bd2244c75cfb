//! A counter moves faster than a limit, on average over a time; over when it stays below half of it for as long.

use super::{Pace, Seen, Told, as_f64};
use crate::sampler::nanos;
use crate::series::{Kind, SeriesDef};
use crate::signal::{BURST, Severity};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct RateAbove {
    raised: &'static str,
    cleared: &'static str,
    limit_per_s: f64,
    over_ns: u64,
    /// Where the time begins over which the rate is taken: when that is long enough, it starts again.
    since_ns: Option<u64>,
    growth: u64,
    is_above: bool,
}

impl RateAbove {
    pub(super) fn new(raised: &'static str, cleared: &'static str, limit_per_s: f64, over: Duration) -> Self {
        let over_ns = nanos(over);
        Self { raised, cleared, limit_per_s, over_ns, since_ns: None, growth: 0, is_above: false }
    }

    pub(super) fn observe(&mut self, seen: &Seen<'_>, pace: &mut Pace, delta: u64) -> Option<Told> {
        let refresh_ns = match seen.def.kind() {
            Kind::Counter(counter) => counter.refresh_ns,
            Kind::Gauge => 0,
        };
        let (per_s, is_above) = self.take(delta, seen.moment.at_ns, self.over_ns.max(refresh_ns))?;
        if is_above == self.is_above || !pace.may_speak(seen.moment.at_ns, BURST) {
            return None;
        }
        self.is_above = is_above;
        let (of, unit) = (where_in(seen.def), seen.def.unit());
        let told = rate_for_people(per_s, unit);
        let (name, severity, summary) = if is_above {
            let limit = rate_for_people(self.limit_per_s, unit);
            let summary = format!("{}{of} at {told}, above {limit}{}", seen.subject(), seen.why());
            (self.raised, seen.severity, summary)
        } else {
            (self.cleared, Severity::Info, format!("{}{of} down to {told}", seen.subject()))
        };
        Some(Told { name, severity, value: per_s, previous: self.limit_per_s, summary, cause: None })
    }

    /// A reading without movement begins the time anew.
    pub(super) fn is_asleep(&self) -> bool {
        self.growth == 0 && !self.is_above
    }

    pub(super) fn was_still_until(&mut self, at_ns: u64) {
        self.since_ns = Some(at_ns);
    }

    /// Takes a movement. The rate since `since_ns`, and whether it is above (`Some(true)`) or, over a whole `over_ns`,
    /// below half of the limit (`Some(false)`). Nothing of an earlier time is told as if it were of this one: a gap between
    /// readings counts as time.
    fn take(&mut self, delta: u64, now_ns: u64, over_ns: u64) -> Option<(f64, bool)> {
        let Some(since_ns) = self.since_ns else {
            self.since_ns = Some(now_ns);
            return None;
        };
        if delta == 0 && self.is_asleep() {
            self.since_ns = Some(now_ns);
            return None;
        }
        self.growth = self.growth.saturating_add(delta);
        let elapsed_ns = now_ns.saturating_sub(since_ns);
        let per_s = as_f64(self.growth) * 1e9 / as_f64(elapsed_ns.max(over_ns));
        let is_whole = elapsed_ns >= over_ns;
        if is_whole {
            (self.since_ns, self.growth) = (Some(now_ns), 0);
        }
        match per_s {
            per_s if per_s >= self.limit_per_s => Some((per_s, true)),
            per_s if is_whole && per_s < self.limit_per_s / 2.0 => Some((per_s, false)),
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use crate::series::{Counter, Entity, Kind, SeriesDef};
    use crate::signal::{Rule, Severity, When};
    use crate::watch::testing::at;
    use crate::watch::{Edge, Watch};
    use std::time::Duration;

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
}
