//! Detector of silent agents: words and weights for what `hosts.rs` found.

use crate::case::{hypothesis, ranked, seconds, tally};
use crate::hosts::Host;
use crate::model::{Element, Incident, Severity, Timestamp};

pub(crate) const SILENCES: &str = "silences";
pub(crate) const REBOOTS: &str = "reboots";

/// Describes one silent host.
pub(crate) fn describe_one(incident: &mut Incident, host: Option<&Host>, now: Timestamp) {
    let element = incident.element.clone();
    let silences = tally(incident, SILENCES);
    let broke_off = host.is_some_and(|host| host.broke_off);
    let seen = host.is_none_or(|host| host.seen);
    let mut evidence = vec![match (incident.quiet_since, host) {
        (None, Some(host)) => format!("nothing heard for {}", seconds(now.0.saturating_sub(host.last_heard.0))),
        (None, None) => "nothing heard".to_owned(),
        (Some(_), _) => "nothing was heard for a while; it is heard again".to_owned(),
    }];
    if silences > 1 {
        evidence.push(format!("it fell silent {silences} times"));
    }
    if !seen {
        evidence.push("it has not come back since the collector started".to_owned());
    }
    let closed = "its stream was closed from its side: a kernel there still answers".to_owned();
    let rebooted = tally(incident, REBOOTS) > 0;
    let with = |more: Option<String>| evidence.iter().cloned().chain(more).collect::<Vec<_>>();
    let (agent, down, uplink) = match (rebooted, broke_off) {
        (true, _) => (0.2, 18.0, 0.2),
        (false, true) => (7.0, 1.5, 1.0),
        (false, false) => (1.5, 4.5, 3.5),
    };
    incident.hypotheses = ranked(
        0.5,
        vec![
            (agent, hypothesis("agent_silent", &element, with(broke_off.then(|| closed.clone())), vec![])),
            (
                down,
                hypothesis(
                    "host_down",
                    &element,
                    with(rebooted.then(|| "it came back with another boot".to_owned())),
                    broke_off.then(|| closed.clone()).into_iter().collect(),
                ),
            ),
            (
                uplink,
                hypothesis("uplink_lost", &element, with(None), broke_off.then_some(closed).into_iter().collect()),
            ),
        ],
    );
    incident.severity = Severity::Error;
    let host = &element.host;
    incident.title = match (incident.quiet_since, rebooted) {
        (None, _) => format!("{host}: agent is silent"),
        (Some(_), true) => format!("{host}: rebooted"),
        (Some(_), false) => format!("{host}: agent was silent and is heard again"),
    };
}

/// Describes many hosts silent at once. `members` of `watched` fell silent, `silent` still are.
pub(crate) fn describe_many(incident: &mut Incident, names: &[String], members: usize, silent: usize, watched: usize) {
    if !names.is_empty() {
        // Who is blamed is settled when hosts fall, not when they return.
        let most = members * 2 > watched;
        incident.element = if most {
            Element { host: String::new(), kind: "collector".to_owned(), name: "uplink".to_owned() }
        } else {
            Element { host: String::new(), kind: "hosts".to_owned(), name: "shared network or power".to_owned() }
        };
        let examples = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = if names.len() > 8 { ", ..." } else { "" };
        let evidence =
            vec![format!("{members} of {watched} hosts fell silent together"), format!("among them {examples}{more}")];
        let (cut_off, shared) = if most { (9.0, 1.5) } else { (1.0, 8.0) };
        incident.hypotheses = ranked(
            0.5,
            vec![
                (cut_off, hypothesis("collector_cut_off", &incident.element, evidence.clone(), vec![])),
                (shared, hypothesis("shared_network_or_power", &incident.element, evidence, vec![])),
            ],
        );
    }
    incident.severity = Severity::Critical;
    incident.title = if incident.quiet_since.is_some() {
        format!("{members} hosts were silent together and are heard again")
    } else {
        format!("{silent} hosts are silent at once: not a fault of each, but of what they share")
    };
}
