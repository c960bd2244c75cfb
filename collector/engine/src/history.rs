//! Stories that are told long after the fact: signals from a spool that was replayed after an outage.
//!
//! In: late signals. Out: incidents opened and resolved in the past. The exception is a link reported down and not up again within the settling time: as
//! far as anyone knows it still is, so it is handed back to be opened, marked late; nothing ever acts on that mark.

use crate::case::{self, Key};
use crate::engine::apply;
use crate::link;
use crate::model::{Effect, Element, Incident, IncidentState, Severity, Signal, Timestamp};
use crate::options::{Limits, MS, Options};
use std::collections::BTreeMap;

#[derive(Debug)]
struct History {
    incident: Incident,
    last_arrival: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Histories {
    histories: BTreeMap<Key, History>,
}

impl Histories {
    /// Takes a late signal other than a link's rise. `None` where too many stories are being told already.
    #[expect(clippy::too_many_arguments, reason = "a signal with its place, time and bounds")]
    pub(crate) fn tell(
        &mut self,
        key: Key,
        element: Element,
        frame: &str,
        signal: &Signal,
        observed: Timestamp,
        now: Timestamp,
        limits: &Limits,
        next_incident: &mut u64,
    ) -> Option<Vec<Effect>> {
        if !self.histories.contains_key(&key) && self.histories.len() >= limits.histories_max {
            return None;
        }
        let detector = key.detector.clone();
        let history = self.histories.entry(key).or_insert_with(|| History {
            incident: Incident { late: true, ..case::begin(&detector, element, observed, now) },
            last_arrival: now,
        });
        history.last_arrival = now;
        case::join(&mut history.incident, frame, signal, now, limits);
        apply(&mut history.incident, signal, observed, limits);
        Some(told(&mut history.incident, next_incident))
    }

    /// A link rose: the end of its story, where one is being told.
    #[expect(clippy::too_many_arguments, reason = "a signal with its place, time and bounds")]
    pub(crate) fn up(
        &mut self,
        key: &Key,
        frame: &str,
        signal: &Signal,
        observed: Timestamp,
        now: Timestamp,
        limits: &Limits,
        next_incident: &mut u64,
    ) -> Vec<Effect> {
        let Some(history) = self.histories.get_mut(key) else { return vec![] };
        history.last_arrival = now;
        let severity = history.incident.severity;
        case::join(&mut history.incident, frame, signal, now, limits);
        history.incident.severity = severity.max(Severity::Info);
        apply(&mut history.incident, signal, observed, limits);
        told(&mut history.incident, next_incident)
    }

    /// A signal that came in time tells of the same element: it takes the story over, with when that began if it was not over.
    pub(crate) fn taken_over(&mut self, key: &Key) -> Option<Timestamp> {
        let pending = self.histories.get(key)?.incident.quiet_since.is_none();
        let history = if pending { self.histories.remove(key) } else { None };
        history.map(|history| history.incident.started)
    }

    /// Ends the stories of which nothing more came, and hands back links that are still down as far as anyone knows.
    pub(crate) fn settle(&mut self, now: Timestamp, options: &Options) -> Vec<(Key, Incident)> {
        let settled: Vec<Key> = self
            .histories
            .iter()
            .filter(|(_, history)| now.0.saturating_sub(history.last_arrival.0) >= options.late_settle_ms * MS)
            .map(|(key, _)| key.clone())
            .collect();
        let mut still_down = Vec::new();
        for key in settled {
            let Some(History { mut incident, .. }) = self.histories.remove(&key) else { continue };
            if incident.quiet_since.is_none() && case::tally(&incident, link::DOWN) > 0 {
                incident.state = IncidentState::Open;
                incident.resolved = None;
                let behind = format!(
                    "reported {} after the fact, and nothing newer is known",
                    case::seconds(incident.updated.0.saturating_sub(incident.started.0))
                );
                for hypothesis in &mut incident.hypotheses {
                    hypothesis.evidence_against.push(behind.clone());
                }
                still_down.push((key, incident));
            }
        }
        still_down
    }
}

/// The effects that tell a story that is over; none while its end is not known.
fn told(incident: &mut Incident, next_incident: &mut u64) -> Vec<Effect> {
    if incident.quiet_since.is_none() {
        return vec![];
    }
    let first = incident.id == 0;
    if first {
        incident.id = *next_incident;
        *next_incident += 1;
    }
    incident.state = IncidentState::Resolved;
    incident.resolved = incident.quiet_since;
    let id = incident.id;
    let joined = |frame: &String| Effect::Joined { frame: frame.clone(), incident: id };
    let mut effects: Vec<Effect> = if first {
        incident.frames.iter().map(joined).collect()
    } else {
        incident.frames.last().map(joined).into_iter().collect()
    };
    effects.push(Effect::Incident(incident.clone()));
    effects
}
