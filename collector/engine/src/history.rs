//! Stories that are told long after the fact: signals from a spool that was replayed after an outage.
//!
//! In: late signals. Out: incidents opened and resolved in the past. The exception is a link reported down and not up again within the settling time: as
//! far as anyone knows it still is, so it is handed back to be opened, marked late; nothing ever acts on that mark.

use crate::case::{self, Key};
use crate::engine::apply;
use crate::model::{Effect, Element, Incident, IncidentState, Severity, Signal, Timestamp};
use crate::options::{MS, Options};
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
        options: &Options,
        next_incident: &mut u64,
    ) -> Option<Vec<Effect>> {
        let limits = &options.limits;
        self.forget_over(&key, now, options);
        if !self.histories.contains_key(&key) && self.histories.len() >= limits.histories_max {
            self.histories.retain(|_, history| !history.is_over(now, options));
            if self.histories.len() >= limits.histories_max {
                return None;
            }
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
        options: &Options,
        next_incident: &mut u64,
    ) -> Vec<Effect> {
        let limits = &options.limits;
        self.forget_over(key, now, options);
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

    /// Ends the stories of which nothing more came, and hands back links that are still down as far as anyone knows, at most
    /// `room`. Whether a story that is over is forgotten here or only when next asked for makes no difference to anyone, so
    /// that a log may leave out ticks without effects.
    pub(crate) fn settle(&mut self, now: Timestamp, room: usize, options: &Options) -> Vec<(Key, Incident)> {
        self.histories.retain(|_, history| !history.is_over(now, options));
        let still_down: Vec<Key> = self
            .histories
            .iter()
            .filter(|(_, history)| history.has_settled(now, options))
            .map(|(key, _)| key.clone())
            .take(room)
            .collect();
        let take = |key: Key| {
            let mut incident = self.histories.remove(&key)?.incident;
            incident.state = IncidentState::Open;
            incident.resolved = None;
            let behind = format!(
                "reported {} after the fact, and nothing newer is known",
                case::seconds(incident.updated.0.saturating_sub(incident.started.0))
            );
            for hypothesis in &mut incident.hypotheses {
                hypothesis.evidence_against.push(behind.clone());
            }
            Some((key, incident))
        };
        still_down.into_iter().filter_map(take).collect()
    }

    fn forget_over(&mut self, key: &Key, now: Timestamp, options: &Options) {
        if self.histories.get(key).is_some_and(|history| history.is_over(now, options)) {
            self.histories.remove(key);
        }
    }
}

impl History {
    fn has_settled(&self, now: Timestamp, options: &Options) -> bool {
        now.0.saturating_sub(self.last_arrival.0) >= options.late_settle_ms * MS
    }

    /// Nothing more came, and its end is known.
    fn is_over(&self, now: Timestamp, options: &Options) -> bool {
        self.has_settled(now, options) && self.incident.quiet_since.is_some()
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
