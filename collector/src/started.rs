//! A collector that follows another says so: how the former one ended, and for how long nobody listened.
//!
//! In: what the former one left in the store. Out: `collector.started`. Agents keep what they have to tell meanwhile, and the engine
//! gives every host the time to come back (`engine.restart_grace_ms`): nobody is blamed for that silence. Never: a word where the store
//! is new.

use railwatch_engine::{Element, Severity, Signal, Timestamp};
use railwatch_store::{End, Former};
use std::collections::BTreeMap;
use std::time::Duration;

/// A collector begins where another one was.
pub const SIGNAL: &str = "collector.started";

/// What is told at `now`, when this one listens.
pub fn signal(former: Former, now: Timestamp) -> Signal {
    let Former { end, last_seen } = former;
    // A clock that was set back meanwhile says nothing of the time between.
    let gap_s =
        last_seen.and_then(|seen| now.0.checked_sub(seen.0)).map(|gap_ns| Duration::from_nanos(gap_ns).as_secs_f64());
    let (cause, severity, how) = match end {
        End::Stopped => ("stopped", Severity::Warning, "was stopped in order"),
        End::Broken => ("broken", Severity::Error, "ended without a word: killed, crashed, or its host was"),
        End::Unknown => ("unknown", Severity::Warning, "was of a version that does not say how it ended"),
    };
    let silence = match gap_s {
        Some(gap_s) => format!("for {gap_s:.1} s nobody listened"),
        None => "for how long nobody listened is not known".to_owned(),
    };
    let attributes = [("cause", Some(cause.to_owned())), ("silent_s", gap_s.map(|gap_s| format!("{gap_s:.1}")))];
    Signal {
        name: SIGNAL.to_owned(),
        // Of no host.
        element: Element { host: String::new(), kind: "collector".to_owned(), name: "collector".to_owned() },
        severity,
        observed: now,
        half_width_ns: 0,
        value: gap_s.unwrap_or(0.0),
        previous: None,
        unit: "s".to_owned(),
        summary: format!("the collector has started; the one before {how}, and {silence}"),
        attributes: attributes
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect::<BTreeMap<_, _>>(),
        incomplete_since: None,
        suppressed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_former_one_ended_and_how_long_nobody_listened_is_said() {
        let now = Timestamp(20_000_000_000);
        for (end, last_seen, severity, value, summary) in [
            (
                End::Stopped,
                Some(18_500_000_000),
                Severity::Warning,
                1.5,
                "the collector has started; the one before was stopped in order, and for 1.5 s nobody listened",
            ),
            (
                End::Broken,
                Some(10_000_000_000),
                Severity::Error,
                10.0,
                "the collector has started; the one before ended without a word: killed, crashed, or its host was, and for 10.0 s nobody listened",
            ),
            (
                End::Unknown,
                // The clock was set back.
                Some(30_000_000_000),
                Severity::Warning,
                0.0,
                "the collector has started; the one before was of a version that does not say how it ended, and for how long nobody listened is not known",
            ),
        ] {
            let told = signal(Former { end, last_seen: last_seen.map(Timestamp) }, now);
            assert_eq!((told.severity, told.value, told.summary.as_str()), (severity, value, summary));
        }
    }

    #[test]
    fn it_has_its_page() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/signals/{SIGNAL}.md"));
        let text = std::fs::read_to_string(page).unwrap_or_default();
        for part in ["**Look-alikes.**", "**What it cannot see.**", "**Confirm by hand.**"] {
            assert!(text.contains(part), "docs/signals/{SIGNAL}.md does not say {part:?}");
        }
    }
}
