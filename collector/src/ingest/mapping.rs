//! From what a host says to what the engine hears: names, severities, and instants on the collector's timeline.

use super::refusal::Refusal;
use crate::clock::Estimate;
use railwatch_engine as engine;
use railwatch_engine::Timestamp;
use railwatch_wire::v1;
use std::collections::BTreeMap;

/// How far behind the newest window of its stream a window may end: sources close theirs at different moments.
const WINDOW_BACKWARDS_MAX_NS: u64 = 10_000_000_000;
/// How far behind the newest signal of its stream a signal may be: some are told only when they are sure.
const SIGNAL_BACKWARDS_MAX_NS: u64 = 120_000_000_000;
/// How far ahead of now an instant may map, beyond what the clock's uncertainty explains.
const AHEAD_MAX_NS: u64 = 1_000_000_000;

/// The newest instants of a stream, CLOCK_MONOTONIC of its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Newest {
    window_ns: u64,
    signal_ns: u64,
}

/// When a signal was true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Collector's timeline.
    pub at: Timestamp,
    /// How wrong that can be because of the clocks.
    pub half_width_ns: u64,
    /// The stamp is of an earlier boot.
    pub earlier_boot: bool,
}

impl Newest {
    /// The end of a window, mapped, unless it is out of order.
    pub fn window(&mut self, mono_ns: u64, clock: &Estimate, now: Timestamp) -> Result<Timestamp, Refusal> {
        let at = Self::check(mono_ns, self.window_ns, WINDOW_BACKWARDS_MAX_NS, clock, now)?;
        self.window_ns = self.window_ns.max(mono_ns);
        Ok(at)
    }

    /// When a signal was true, unless it is out of order.
    ///
    /// A stamp ahead of now is of an earlier boot, whose last words are worth keeping: they were spoken before this
    /// boot began, and that is all that is known.
    pub fn signal(&mut self, mono_ns: u64, clock: &Estimate, now: Timestamp) -> Result<Observed, Refusal> {
        match Self::check(mono_ns, self.signal_ns, SIGNAL_BACKWARDS_MAX_NS, clock, now) {
            Ok(at) => {
                self.signal_ns = self.signal_ns.max(mono_ns);
                Ok(Observed { at, half_width_ns: clock.uncertainty_ns, earlier_boot: false })
            }
            Err(Refusal::TimeAhead) => Ok(Observed { at: clock.map(0), half_width_ns: mono_ns, earlier_boot: true }),
            Err(refusal) => Err(refusal),
        }
    }

    fn check(
        mono_ns: u64,
        newest_ns: u64,
        backwards_ns: u64,
        clock: &Estimate,
        now: Timestamp,
    ) -> Result<Timestamp, Refusal> {
        let at = clock.map(mono_ns);
        if at.0 > now.0.saturating_add(clock.uncertainty_ns).saturating_add(AHEAD_MAX_NS) {
            return Err(Refusal::TimeAhead);
        }
        if newest_ns.saturating_sub(mono_ns) > backwards_ns {
            return Err(Refusal::TimeBackwards);
        }
        Ok(at)
    }
}

/// A checked signal of `host` as the engine hears it.
pub fn signal(host: &str, wire: v1::Signal, observed: Observed, clock: &Estimate) -> engine::Signal {
    let severity = match wire.severity() {
        v1::Severity::Info => engine::Severity::Info,
        // A severity this version does not know is not a reason to lose the signal.
        v1::Severity::Warning | v1::Severity::Unspecified => engine::Severity::Warning,
        v1::Severity::Error => engine::Severity::Error,
        v1::Severity::Critical => engine::Severity::Critical,
    };
    let entity = wire.entity.unwrap_or_default();
    let mut attributes: BTreeMap<_, _> = wire.attributes.into_iter().collect();
    // No action may rest on what an earlier boot said.
    let earlier = observed.earlier_boot.then_some(observed.at);
    if observed.earlier_boot {
        attributes.insert("clock".to_owned(), "of an earlier boot".to_owned());
    }
    engine::Signal {
        name: wire.name,
        element: engine::Element { host: host.to_owned(), kind: entity.kind, name: entity.name },
        severity,
        observed: observed.at,
        half_width_ns: wire.half_width_ns.saturating_add(observed.half_width_ns),
        value: wire.value,
        previous: wire.previous,
        unit: wire.unit,
        summary: wire.summary,
        attributes,
        suppressed: wire.suppressed,
        incomplete_since: earlier.or(wire.incomplete_since_mono_ns.map(|at| clock.map(at))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Newest, Observed, signal};
    use crate::{clock::Estimate, ingest::refusal::Refusal};
    use railwatch_engine::{Severity, Timestamp};
    use railwatch_wire::v1;

    const SECOND: u64 = 1_000_000_000;
    const CLOCK: Estimate = Estimate { offset_ns: 1_000_000_000_000, uncertainty_ns: 500 };

    #[test]
    fn an_instant_out_of_order_is_refused_and_does_not_spoil_the_next() {
        let mut newest = Newest::default();
        let now = Timestamp(1_000_000_000_000 + 500 * SECOND);
        for (mono, expected) in [
            (490, Ok(())),
            (485, Ok(())),
            (470, Err(Refusal::TimeBackwards)),
            (9_000, Err(Refusal::TimeAhead)),
            (491, Ok(())),
        ] {
            assert_eq!(newest.window(mono * SECOND, &CLOCK, now).map(|_| ()), expected, "{mono} s");
        }
        assert!(newest.signal(300 * SECOND, &CLOCK, now).is_ok(), "signals and windows are ordered apart");
    }

    #[test]
    fn last_words_of_an_earlier_boot_are_kept_and_nothing_rests_on_them() {
        let now = Timestamp(1_000_000_000_000 + 5 * SECOND);
        let observed = Newest::default().signal(70 * SECOND, &CLOCK, now).expect("kept");
        assert_eq!(observed, Observed { at: CLOCK.map(0), half_width_ns: 70 * SECOND, earlier_boot: true });
        let heard = signal("h", v1::Signal::default(), observed, &CLOCK);
        assert_eq!(heard.incomplete_since, Some(CLOCK.map(0)));
    }

    #[test]
    fn the_clocks_uncertainty_widens_the_signal() {
        let wire = v1::Signal {
            half_width_ns: 7,
            severity: 99,
            incomplete_since_mono_ns: Some(5),
            suppressed: 3,
            ..v1::Signal::default()
        };
        let observed = Observed { at: Timestamp(9), half_width_ns: CLOCK.uncertainty_ns, earlier_boot: false };
        let heard = signal("h", wire, observed, &CLOCK);
        assert_eq!((heard.observed, heard.half_width_ns, heard.severity), (Timestamp(9), 507, Severity::Warning));
        assert_eq!(heard.incomplete_since, Some(Timestamp(1_000_000_000_005)));
        assert_eq!(heard.suppressed, 3);
    }
}
