//! The signals about a source that is read less often than it was asked to be.
//!
//! In: the time between reads, as asked and as it is, and which budget keeps them apart. Out: `source.slowed` when they part,
//! `source.restored` when they meet again, at most one pair a minute.

use crate::clock::Moment;
use crate::series::{Entity, SeriesId};
use crate::signal::{Severity, Signal};
use std::time::Duration;

/// A source was slowed down.
pub const SLOWED: &str = "source.slowed";
/// It is read as often as it was asked to be, again.
pub const RESTORED: &str = "source.restored";

/// From one `source.slowed` to the earliest next.
const REST_NS: u64 = 60_000_000_000;

/// Which budget a source went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Cpu,
    Rtnl,
}

/// What was told of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slowed {
    told: bool,
    rested_at_ns: u64,
    untold: u64,
    is_slow: bool,
}

impl Slowed {
    /// Takes how the source stands; a signal where that is news.
    pub(crate) fn judge(
        &mut self,
        source: &'static str,
        by: Option<Budget>,
        asked: Duration,
        now: Duration,
        at_ns: u64,
    ) -> Option<Signal> {
        let was_slow = std::mem::replace(&mut self.is_slow, by.is_some());
        self.untold += u64::from(by.is_some() && !was_slow);
        let entity = Entity { kind: "host", name: source.to_owned() };
        let (name, severity, cause, summary) = match by {
            Some(by) if !self.told && at_ns >= self.rested_at_ns => {
                self.rested_at_ns = at_ns.saturating_add(REST_NS);
                let (cause, why) = match by {
                    Budget::Cpu => ("cpu", "the sources' processor time is beyond its budget"),
                    Budget::Rtnl => ("rtnl", "its reads hold the kernel's lock on network interfaces too long"),
                };
                let text = format!("source {source} is read every {now:?} and not every {asked:?}: {why}");
                (SLOWED, Severity::Warning, Some(cause), text)
            }
            None if self.told => {
                let text = format!("source {source} is read every {now:?} again");
                (RESTORED, Severity::Info, None, text)
            }
            _ => return None,
        };
        self.told = by.is_some();
        let labels = [("source", source.to_owned())];
        let series = railwatch_wire::series::id("source.cadence", entity.kind, source, [("source", source)]);
        Some(Signal {
            name,
            series: SeriesId(series),
            entity,
            severity,
            moment: Moment { at_ns, half_width_ns: 0 },
            value: now.as_secs_f64(),
            previous: Some(asked.as_secs_f64()),
            unit: "s",
            summary,
            attributes: labels.into_iter().chain(cause.map(|cause| ("cause", cause.to_owned()))).collect(),
            incomplete_since_mono_ns: None,
            suppressed: std::mem::take(&mut self.untold).saturating_sub(u64::from(by.is_some())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, RESTORED, SLOWED, Slowed};
    use std::time::Duration;

    #[test]
    fn a_source_slowed_is_told_once_and_its_return_too_and_a_flutter_is_counted() {
        let mut slowed = Slowed::default();
        let mut told = Vec::new();
        for (second, by) in [
            (100, None),
            (101, Some(Budget::Cpu)),
            (102, Some(Budget::Cpu)),
            (103, None),
            (104, Some(Budget::Rtnl)),
            (105, None),
            (106, Some(Budget::Rtnl)),
            (161, Some(Budget::Rtnl)),
            (162, None),
        ] {
            let now = Duration::from_millis(if by.is_some() { 200 } else { 100 });
            let signal = slowed.judge("netdev", by, Duration::from_millis(100), now, second * 1_000_000_000);
            told.extend(signal.map(|signal| (second, signal.name, signal.suppressed)));
        }
        assert_eq!(told, [(101, SLOWED, 0), (103, RESTORED, 0), (161, SLOWED, 1), (162, RESTORED, 0)]);
    }

    #[test]
    fn the_sentence_says_how_often_it_is_read_and_why() {
        let (asked, now) = (Duration::from_millis(100), Duration::from_millis(800));
        let signal = Slowed::default().judge("rdma.hw", Some(Budget::Cpu), asked, now, 1).expect("news");
        assert_eq!(
            signal.summary,
            "source rdma.hw is read every 800ms and not every 100ms: the sources' processor time is beyond its budget"
        );
        assert_eq!((signal.value, signal.previous, signal.unit), (0.8, Some(0.1), "s"));
        assert_eq!(signal.attributes, [("source", "rdma.hw".to_owned()), ("cause", "cpu".to_owned())]);
    }
}
