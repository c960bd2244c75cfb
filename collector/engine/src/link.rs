//! Detector of ports: the link is down, flaps, or counts errors that should never move.
//!
//! In: `nic.link.down`, `nic.link.up`, `nic.errors`, `nic.counter.saturated`. Out: what they change in the port's incident. A port's incident is quiet
//! (`quiet_since`) whenever its link is up and no error was seen; it is down exactly while `quiet_since` is absent.

use crate::case::{count, hypothesis, ranked, tally};
use crate::model::{Element, Incident, Signal, Timestamp};
use crate::options::{Limits, MS, Options};

pub(crate) const DOWN: &str = "nic.link.down";
pub(crate) const UP: &str = "nic.link.up";
pub(crate) const ERRORS: &str = "nic.errors";
pub(crate) const SATURATED: &str = "nic.counter.saturated";
const TAKEN_DOWN: &str = "nic.link.down, taken down by an administrator";
const ERROR_COUNT: &str = "errors";

/// An RDMA port and its network device are one cable: both go under the device's name where it is known.
pub(crate) fn element(signal: &Signal) -> Element {
    match signal.attributes.get("netdev") {
        Some(netdev) if !netdev.is_empty() => {
            Element { host: signal.element.host.clone(), kind: "nic".to_owned(), name: netdev.clone() }
        }
        _ => signal.element.clone(),
    }
}

/// Applies a signal to the port's incident.
pub(crate) fn apply(incident: &mut Incident, signal: &Signal, observed: Timestamp, limits: &Limits) {
    // Half of the edges left out were falls.
    let hidden_falls = signal.suppressed / 2;
    match signal.name.as_str() {
        DOWN => {
            incident.quiet_since = None;
            count(incident, DOWN, 1 + hidden_falls, limits);
            if signal.attributes.get("cause").is_some_and(|cause| cause == "admin_down") {
                count(incident, TAKEN_DOWN, 1, limits);
            }
        }
        UP => {
            incident.quiet_since = incident.quiet_since.or(Some(observed));
            count(incident, UP, 1, limits);
            count(incident, DOWN, hidden_falls, limits);
        }
        _ => {
            if incident.quiet_since.is_some() || tally(incident, DOWN) == 0 {
                incident.quiet_since = Some(observed);
            }
            count(incident, &signal.name, 1, limits);
            if signal.name == ERRORS {
                count(incident, ERROR_COUNT, grown(signal), limits);
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits; for people")]
fn grown(signal: &Signal) -> u64 {
    let grown = signal.value - signal.previous.unwrap_or(0.0);
    if grown.is_finite() { grown.clamp(1.0, 1e15) as u64 } else { 1 }
}

/// How long the port must be good before its incident resolves.
pub(crate) fn quiet_ns(incident: &Incident, options: &Options) -> u64 {
    let falls = tally(incident, DOWN);
    let link = if falls > 0 { options.link_quiet_ms << (falls - 1).min(4) } else { 0 };
    let errors = if tally(incident, ERRORS) > 0 { options.errors_quiet_ms } else { 0 };
    link.max(errors) * MS
}

/// Says anew what is wrong with the port, from what was counted.
pub(crate) fn describe(incident: &mut Incident) {
    let (falls, rises, taken) = (tally(incident, DOWN), tally(incident, UP), tally(incident, TAKEN_DOWN));
    let (error_signals, errors) = (tally(incident, ERRORS), tally(incident, ERROR_COUNT));
    let down_now = incident.quiet_since.is_none();
    let element = incident.element.clone();

    let mut fell = Vec::new();
    if falls > 0 {
        fell.push(format!("the link went down {} and came up {}", times(falls), times(rises)));
    }
    let mut erred = Vec::new();
    if error_signals > 0 {
        erred.push(format!("counters that should never move grew by {errors} in {error_signals} readings"));
    }
    let both: Vec<String> = fell.iter().chain(&erred).cloned().collect();
    let by_hand = taken > 0 && taken >= falls;
    let up_now = if down_now { vec![] } else { vec!["the link is up now".to_owned()] };

    let flaps = falls >= 3;
    let weight = |there: bool, weight: f64| if there { weight } else { 0.0 };
    // Errors and falls of one port speak for each other, and rather for the link than for its errors alone.
    let confirmed = weight(error_signals > 0, 5.0);
    incident.hypotheses = ranked(
        1.0,
        vec![
            (
                weight(falls > 0 && !flaps, if by_hand { 1.0 } else { 9.0 + confirmed }),
                hypothesis(
                    "link_down",
                    &element,
                    both.clone(),
                    [up_now.clone(), if by_hand { vec!["an administrator took it down".to_owned()] } else { vec![] }]
                        .concat(),
                ),
            ),
            (weight(flaps && !by_hand, 12.0 + confirmed), hypothesis("link_flapping", &element, both.clone(), up_now)),
            (
                weight(by_hand, 12.0),
                hypothesis(
                    "link_taken_down",
                    &element,
                    vec![format!("an administrator took it down {}", times(taken))],
                    erred.clone(),
                ),
            ),
            (
                weight(error_signals > 0, if falls > 0 { 1.5 } else { 9.0 }),
                hypothesis("link_errors", &element, both, vec![]),
            ),
        ],
    );
    let Element { host, kind, name } = &element;
    incident.title = match (falls > 0, flaps, down_now) {
        (true, true, _) => format!("{host}: {kind} {name} flaps: down {}", times(falls)),
        (true, false, true) if by_hand => format!("{host}: {kind} {name} was taken down by an administrator"),
        (true, false, true) => format!("{host}: {kind} {name} is down"),
        (true, false, false) => format!("{host}: {kind} {name} was down and is up again"),
        (false, ..) => format!("{host}: {kind} {name} counted {errors} errors that should never happen"),
    };
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}
