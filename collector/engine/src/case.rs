//! An open incident and what a detector may do to it: join a signal, count, turn quiet, be described anew.
//!
//! Everything a detector needs lies in the incident's record itself, so that a restarted engine goes on from it.

use crate::model::{Element, HostName, Hypothesis, Incident, IncidentState, Severity, Signal, Timestamp};
use crate::options::Limits;
use std::collections::BTreeMap;

pub(crate) const AGENT_SILENT: &str = "agent_silent";
pub(crate) const LINK: &str = "link";
pub(crate) const PATH_LOSS: &str = "path_loss";
pub(crate) const GPU_ALLOCATION: &str = "gpu_allocation";

/// What makes two observations one incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub detector: String,
    pub host: HostName,
    pub name: String,
}

impl Key {
    pub(crate) fn of(detector: &str, element: &Element) -> Self {
        // What many hosts share is one story, however it is blamed.
        let name = if element.host.is_empty() { String::new() } else { element.name.clone() };
        Self { detector: detector.to_owned(), host: element.host.clone(), name }
    }

    pub(crate) fn together() -> Self {
        Self { detector: AGENT_SILENT.to_owned(), host: String::new(), name: String::new() }
    }

    pub(crate) fn silent(host: &str) -> Self {
        Self { detector: AGENT_SILENT.to_owned(), host: host.to_owned(), name: host.to_owned() }
    }
}

/// An incident without identifier: one that nobody was told of yet.
pub(crate) fn begin(detector: &str, element: Element, started: Timestamp, now: Timestamp) -> Incident {
    Incident {
        id: 0,
        detector: detector.to_owned(),
        title: String::new(),
        severity: Severity::Info,
        state: IncidentState::Open,
        element,
        started,
        opened: now,
        updated: now,
        quiet_since: None,
        resolved: None,
        late: false,
        signal_count: 0,
        tally: BTreeMap::new(),
        frames: Vec::new(),
        hypotheses: Vec::new(),
        incomplete_since: None,
    }
}

/// Adds `by` to what is counted under `name`; beyond the bound, names share the count "others".
pub(crate) fn count(incident: &mut Incident, name: &str, by: u64, limits: &Limits) {
    let full = incident.tally.len() >= limits.tally_names_max && !incident.tally.contains_key(name);
    let counted = incident.tally.entry(if full { "others".to_owned() } else { name.to_owned() }).or_default();
    *counted = counted.saturating_add(by);
}

pub(crate) fn tally(incident: &Incident, name: &str) -> u64 {
    incident.tally.get(name).copied().unwrap_or(0)
}

/// Joins what every signal brings, whatever its detector makes of it.
pub(crate) fn join(incident: &mut Incident, frame: &str, signal: &Signal, now: Timestamp, limits: &Limits) {
    incident.signal_count += 1;
    incident.started = incident.started.min(signal.observed).min(now);
    incident.updated = now;
    incident.severity = incident.severity.max(signal.severity);
    if let Some(since) = signal.incomplete_since {
        incident.incomplete_since = Some(incident.incomplete_since.map_or(since, |earlier| earlier.min(since)));
    }
    if incident.frames.len() >= limits.frames_per_incident_max {
        incident.frames.remove(0);
    }
    incident.frames.push(frame.to_owned());
}

/// Fills in hypotheses from weights: each posterior is its share, `unknown` being the weight of what is not listed.
/// The most likely comes first.
pub(crate) fn ranked(unknown: f64, weighted: Vec<(f64, Hypothesis)>) -> Vec<Hypothesis> {
    let total: f64 = unknown + weighted.iter().map(|(weight, _)| weight).sum::<f64>();
    let mut hypotheses: Vec<Hypothesis> = weighted
        .into_iter()
        .filter(|(weight, _)| *weight > 0.0)
        .map(|(weight, hypothesis)| Hypothesis { posterior: round(weight / total), ..hypothesis })
        .collect();
    hypotheses.sort_by(|a, b| b.posterior.total_cmp(&a.posterior));
    hypotheses
}

/// Three digits, rounded down: shares must never sum to more than 1, and nobody reads the rest.
fn round(share: f64) -> f64 {
    (share * 1000.0).floor() / 1000.0
}

pub(crate) fn hypothesis(
    fault_mode: &str,
    element: &Element,
    evidence_for: Vec<String>,
    evidence_against: Vec<String>,
) -> Hypothesis {
    Hypothesis {
        fault_mode: fault_mode.to_owned(),
        element: element.clone(),
        posterior: 0.0,
        evidence_for,
        evidence_against,
    }
}

/// Nanoseconds as seconds, for sentences.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn seconds(ns: u64) -> String {
    format!("{:.1} s", ns as f64 / 1e9)
}
