//! The event log of an engine, and the replay of one.
//!
//! In: every event with its instant and effects. Out: the lines from which another engine repeats them. Hearings come by the ten thousand a second
//! and ticks mostly change nothing, so both are left out until they matter: hearings are told together, the last of
//! each host, before the judgement of silence that had effects; so are acknowledgements.

use crate::engine::Engine;
use crate::model::{Effect, Event, HostName, Restored, Timestamp};
use crate::options::Options;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "few, and most are the large one")]
pub enum Logged {
    /// An engine started from this; everything before belongs to another one.
    Restored(Box<Restored>),
    /// When hosts were heard last.
    Heard(BTreeMap<HostName, Timestamp>),
    /// The engine took this event.
    Event(Event),
    /// What the kernels of hosts whose agents were late acknowledged last.
    Acknowledged(BTreeMap<HostName, Timestamp>),
}

/// Decides which events become lines.
#[derive(Debug, Default)]
pub struct Recorder {
    heard: BTreeMap<HostName, Timestamp>,
    acknowledged: BTreeMap<HostName, Timestamp>,
}

impl Recorder {
    /// The lines for an event that was just taken and had `effects`.
    pub fn note(&mut self, event: &Event, effects: &[Effect]) -> Vec<Logged> {
        match event {
            Event::HostHeard { host, at } if effects.is_empty() => {
                latest(&mut self.heard, host, *at);
                vec![]
            }
            Event::HostAcknowledged { host, at } if effects.is_empty() => {
                latest(&mut self.acknowledged, host, *at);
                vec![]
            }
            Event::HostConnected { host, .. } => {
                // A new connection has acknowledged nothing yet.
                self.acknowledged.remove(host);
                vec![Logged::Event(event.clone())]
            }
            Event::Tick | Event::JudgeSilence if effects.is_empty() => vec![],
            // What they say rests on when hosts were heard.
            Event::JudgeSilence | Event::HostDisconnected { .. } if !effects.is_empty() => {
                let heard = std::mem::take(&mut self.heard);
                let acknowledged = std::mem::take(&mut self.acknowledged);
                let acknowledged = (!acknowledged.is_empty()).then_some(Logged::Acknowledged(acknowledged));
                [Logged::Heard(heard)].into_iter().chain(acknowledged).chain([Logged::Event(event.clone())]).collect()
            }
            _ => vec![Logged::Event(event.clone())],
        }
    }
}

fn latest(known: &mut BTreeMap<HostName, Timestamp>, host: &HostName, at: Timestamp) {
    match known.get_mut(host) {
        Some(last) => *last = at.max(*last),
        None => drop(known.insert(host.clone(), at)),
    }
}

/// Runs a log; returns the effects of each event that had some, with its instant. Lines before the first start are left out.
pub fn replay(options: &Options, log: impl IntoIterator<Item = (Timestamp, Logged)>) -> Vec<(Timestamp, Vec<Effect>)> {
    let mut engine: Option<Engine> = None;
    let mut told = Vec::new();
    for (now, line) in log {
        match (line, engine.as_mut()) {
            (Logged::Restored(restored), _) => engine = Some(Engine::restore(options.clone(), *restored)),
            (Logged::Heard(heard), Some(engine)) => {
                for (host, at) in heard {
                    engine.step(Event::HostHeard { host, at }, now);
                }
            }
            (Logged::Acknowledged(acknowledged), Some(engine)) => {
                for (host, at) in acknowledged {
                    engine.step(Event::HostAcknowledged { host, at }, now);
                }
            }
            (Logged::Event(event), Some(engine)) => {
                let effects = engine.step(event, now);
                if !effects.is_empty() {
                    told.push((now, effects));
                }
            }
            (_, None) => {}
        }
    }
    told
}
