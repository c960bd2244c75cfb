//! Detector of silent agents: words and weights for what `hosts.rs` found.

use crate::case::{hypothesis, ranked, seconds, tally};
use crate::hosts::Host;
use crate::model::{Element, EndedBy, Incident, Severity, Timestamp};

pub(crate) const SILENCES: &str = "silences";
pub(crate) const REBOOTS: &str = "reboots";
/// The fault mode of an agent that does not run on a host that does.
pub(crate) const STALLED: &str = "agent_stalled";

/// Describes one silent host.
pub(crate) fn describe_one(incident: &mut Incident, host: Option<&Host>, now: Timestamp) {
    let element = incident.element.clone();
    let silences = tally(incident, SILENCES);
    let broke_off = host.and_then(|host| host.broke_off);
    let seen = host.is_none_or(|host| host.seen);
    let is_stalled = host.is_some_and(|host| host.stalled);
    // That nothing is acknowledged comes the same way as that nothing is heard: it is one piece of evidence with it.
    let acknowledged = host.and_then(|host| host.acknowledged);
    let is_open = matches!(broke_off, None | Some(EndedBy::Network)) && incident.quiet_since.is_none();
    let unanswered = acknowledged.filter(|_| is_open && !is_stalled);
    let unanswered = unanswered.map_or_else(String::new, |at| {
        format!(", and its kernel has acknowledged nothing for {}", seconds(now.0.saturating_sub(at.0)))
    });
    let mut evidence = vec![match (incident.quiet_since, host) {
        (None, Some(host)) => {
            format!("nothing heard for {}{unanswered}", seconds(now.0.saturating_sub(host.last_heard.0)))
        }
        (None, None) => "nothing heard".to_owned(),
        (Some(_), _) => "nothing was heard for a while; it is heard again".to_owned(),
    }];
    if silences > 1 {
        evidence.push(format!("it fell silent {silences} times"));
    }
    if !seen {
        evidence.push("it has not come back since the collector started".to_owned());
    }
    let closed = match broke_off {
        Some(EndedBy::Host) => Some("its stream was closed from its side: a kernel there still answers".to_owned()),
        Some(EndedBy::Collector) => Some("the collector itself ended its stream".to_owned()),
        Some(EndedBy::Network) | None => None,
    };
    let rebooted = tally(incident, REBOOTS) > 0;
    let with = |more: Option<String>| evidence.iter().cloned().chain(more).collect::<Vec<_>>();
    let against = || closed.clone().into_iter().collect::<Vec<_>>();
    let answers =
        "its kernel still acknowledges what is sent to it: the host is up, and its process does not run".to_owned();
    incident.hypotheses = if is_stalled && !rebooted {
        let big = "its kernel still acknowledges: only long packets can be lost on the way here".to_owned();
        ranked(
            0.5,
            vec![
                (9.0, hypothesis(STALLED, &element, with(Some(answers)), vec![])),
                (0.5, hypothesis("uplink_lost", &element, with(None), vec![big])),
            ],
        )
    } else {
        let (agent, down, uplink) = match (rebooted, closed.is_some(), acknowledged.is_some()) {
            (true, ..) => (0.2, 18.0, 0.2),
            (false, true, _) => (7.0, 1.5, 1.0),
            // A kernel without the process would have closed the stream, or said that there is none.
            (false, false, true) => (0.5, 4.5, 3.5),
            (false, false, false) => (1.5, 4.5, 3.5),
        };
        let reboot = rebooted.then(|| "it came back with another boot".to_owned());
        ranked(
            0.5,
            vec![
                (agent, hypothesis("agent_silent", &element, with(closed.clone()), vec![])),
                (down, hypothesis("host_down", &element, with(reboot), against())),
                (uplink, hypothesis("uplink_lost", &element, with(None), against())),
            ],
        )
    };
    // A host that is up and not looked at loses nothing by itself.
    incident.severity = if is_stalled { Severity::Warning } else { Severity::Error };
    let host = &element.host;
    incident.title = match (incident.quiet_since, rebooted, is_stalled) {
        (None, _, true) => format!("{host}: agent does not run; its host's kernel answers"),
        (None, _, false) => format!("{host}: agent is silent"),
        (Some(_), true, _) => format!("{host}: rebooted"),
        (Some(_), false, true) => format!("{host}: agent did not run for a while, and runs again"),
        (Some(_), false, false) => format!("{host}: agent was silent and is heard again"),
    };
}

/// Describes many hosts silent at once. `names` fell silent now, of `stalled` of them the kernel answers; `members` of `watched` did in all.
/// Who is blamed is settled when hosts fall, not when they return.
pub(crate) fn describe_many(incident: &mut Incident, names: &[String], stalled: usize, members: usize, watched: usize) {
    let most = members * 2 > watched;
    let are_stalled = stalled * 2 > names.len();
    let shared = |name: &str| Element { host: String::new(), kind: "hosts".to_owned(), name: name.to_owned() };
    incident.element = match (are_stalled, most) {
        (true, _) => shared("agents"),
        (false, true) => Element { host: String::new(), kind: "collector".to_owned(), name: "uplink".to_owned() },
        (false, false) => shared("shared network or power"),
    };
    let examples = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 8 { ", ..." } else { "" };
    let evidence =
        vec![format!("{members} of {watched} hosts fell silent together"), format!("among them {examples}{more}")];
    let answer = (stalled > 0)
        .then(|| format!("of {stalled} of the last {} the kernel still acknowledges what is sent to it", names.len()));
    let (stalls, cut_off, apart) = match (are_stalled, most) {
        (true, _) => (9.0, 0.3, 0.3),
        (false, true) => (0.0, 9.0, 1.5),
        (false, false) => (0.0, 1.0, 8.0),
    };
    let against: Vec<_> = answer.clone().into_iter().collect();
    incident.hypotheses = ranked(
        0.5,
        vec![
            (stalls, hypothesis(STALLED, &incident.element, evidence.iter().cloned().chain(answer).collect(), vec![])),
            (cut_off, hypothesis("collector_cut_off", &incident.element, evidence.clone(), against.clone())),
            (apart, hypothesis("shared_network_or_power", &incident.element, evidence, against)),
        ],
    );
    incident.severity = if are_stalled { Severity::Warning } else { Severity::Critical };
    still_many(incident, members, members);
}

/// Of many hosts silent at once so many still are.
pub(crate) fn still_many(incident: &mut Incident, members: usize, silent: usize) {
    incident.title = if incident.quiet_since.is_some() {
        format!("{members} hosts were silent together and are heard again")
    } else {
        format!("{silent} hosts are silent at once: not a fault of each, but of what they share")
    };
}
