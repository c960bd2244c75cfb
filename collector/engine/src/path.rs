//! Detector of loss that probes met on their way, blamed on the element that explains it.
//!
//! In: suspects as [`crate::locate`] ranks them, whenever they change. Out: what that changes in the one incident of lost probes.
//! An element beyond a host is blamed only on the word of two hosts or more, and only where it, or the few that nothing tells from
//! it, have nearly the whole of the likelihood. Never: an incident about a lost probe or two.

use crate::case::{count, hypothesis, ranked};
use crate::model::{Element, Incident, Severity, Suspect, Timestamp};
use crate::options::Limits;

/// Share of all explanations that the leading ones must have together before anybody is told.
const POSTERIOR_MIN: f64 = 0.9;
/// Suspects that are as likely as the first, within this.
const EQUAL: f64 = 1e-6;
/// Hosts that must have met the loss.
const HOSTS_MIN: u32 = 2;
/// More than so many that nothing tells apart are no finding.
const EQUALS_MAX: usize = 8;
const EXPLAINED: &str = "explanations";

/// Those that explain the loss as well as the first.
#[must_use]
pub fn alike(suspects: &[Suspect]) -> &[Suspect] {
    let Some(first) = suspects.first() else { return &[] };
    let count = suspects.iter().take_while(|it| it.posterior >= first.posterior * (1.0 - EQUAL)).count();
    &suspects[..count]
}

/// Those, where that is a finding; empty where it is not.
pub(crate) fn leading(suspects: &[Suspect]) -> &[Suspect] {
    let leading = alike(suspects);
    let Some(first) = leading.first() else { return &[] };
    let together: f64 = leading.iter().map(|it| it.posterior).sum();
    let is_finding = together >= POSTERIOR_MIN && first.hosts >= HOSTS_MIN && leading.len() <= EQUALS_MAX;
    if is_finding { leading } else { &[] }
}

/// Applies a finding to the incident.
pub(crate) fn apply(incident: &mut Incident, suspects: &[Suspect], now: Timestamp, limits: &Limits) {
    let leading = leading(suspects);
    let Some(first) = leading.first() else { return };
    incident.quiet_since = None;
    incident.updated = now;
    incident.severity =
        incident.severity.max(if first.fault_mode == "path_blackhole" { Severity::Critical } else { Severity::Error });
    count(incident, EXPLAINED, 1, limits);
    incident.element = if leading.len() == 1 { first.element.clone() } else { many(leading) };
    let weighted = suspects.iter().map(|suspect| {
        let Suspect { element, fault_mode, posterior, rate, lossy_flows, other_lossy_flows, hosts } = suspect;
        let mut against = Vec::new();
        if *other_lossy_flows > 0 {
            against.push(format!("{other_lossy_flows} flows lost probes and do not cross it"));
        }
        if leading.len() > 1 && *posterior >= first.posterior * (1.0 - EQUAL) {
            against.push(format!("every probe that crosses it crosses {} others, too", leading.len() - 1));
        }
        let evidence = vec![
            format!("{lossy_flows} flows that cross it lost probes, as if it lost {:.1} %", rate * 100.0),
            format!("{hosts} hosts met the loss"),
        ];
        (*posterior, hypothesis(fault_mode, element, evidence, against))
    });
    let explained: f64 = suspects.iter().map(|suspect| suspect.posterior).sum();
    incident.hypotheses = ranked((1.0 - explained).max(0.0), weighted.collect());
    let named = match leading {
        [only] => only.element.name.clone(),
        several => {
            let names: Vec<_> = several.iter().map(|suspect| suspect.element.name.as_str()).collect();
            format!("one of {}", names.join(", "))
        }
    };
    let what = match first.fault_mode.as_str() {
        "path_blackhole" => "lets nothing through".to_owned(),
        "path_long_packets_lost" => format!("loses {:.1} % of long packets", first.rate * 100.0),
        _ => format!("loses {:.1} % of its packets", first.rate * 100.0),
    };
    incident.title = format!("{named} {what}");
}

/// No probe is lost any more.
pub(crate) fn end(incident: &mut Incident, now: Timestamp) {
    incident.quiet_since = incident.quiet_since.or(Some(now));
    incident.updated = now;
}

/// What stands for several that nothing tells apart.
fn many(leading: &[Suspect]) -> Element {
    let names: Vec<_> = leading.iter().map(|suspect| suspect.element.name.as_str()).collect();
    Element { host: String::new(), kind: "links".to_owned(), name: names.join(" ") }
}
