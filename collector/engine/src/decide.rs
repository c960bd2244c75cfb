//! Which action, at what expected cost, and what must hold before it is carried out.
//!
//! In: an incident and what was done of late. Out: a table of alternatives and a list of guards, each with its reason.
//! Pure arithmetic over `faults.rs`: `cost(action) + Σ posterior × damage × time until cured`.

use crate::faults::{ACTIONS, Action, Cure, OBSERVE, action, fault_mode};
use crate::model::{Alternative, Element, Guard, Incident, IncidentState, PastOrder, Timestamp};
use crate::options::{MS, Options};
use std::collections::{BTreeSet, VecDeque};

const HOUR_NS: u64 = 3_600_000_000_000;

/// The alternatives, cheapest first, and the action to propose: the cheapest that its own evidence allows.
pub(crate) fn weigh(incident: &Incident, options: &Options) -> (&'static Action, Vec<Alternative>) {
    let mut rows: Vec<(f64, &'static Action, Option<String>)> = ACTIONS
        .iter()
        .filter(|action| !(action.on_host && incident.element.host.is_empty()))
        .map(|action| (expected_cost(incident, action, options), action, inadequate(incident, action)))
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let chosen = rows.iter().find(|(_, _, why_not)| why_not.is_none()).map_or(&ACTIONS[0], |row| row.1);
    let best_cost = rows.iter().find(|row| row.1.name == chosen.name).map_or(0.0, |row| row.0);
    let table = rows
        .into_iter()
        .map(|(cost, action, why_not)| Alternative {
            action: action.name.to_owned(),
            expected_cost_gpu_s: (cost * 10.0).round() / 10.0,
            reason: match why_not {
                _ if action.name == chosen.name => "the cheapest that the evidence allows".to_owned(),
                Some(why_not) => format!("the evidence does not allow it: {why_not}"),
                None => format!("costs {:.0} GPU-seconds more than {}", cost - best_cost, chosen.name),
            },
        })
        .collect();
    (chosen, table)
}

/// What the action acts on.
pub(crate) fn target(incident: &Incident, action: &Action) -> Element {
    if action.on_host {
        let host = incident.element.host.clone();
        return Element { name: host.clone(), host, kind: "host".to_owned() };
    }
    incident.element.clone()
}

fn expected_cost(incident: &Incident, action: &Action, options: &Options) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds of an horizon are few")]
    let horizon_s = options.horizon_s as f64;
    let all = f64::from(options.gpus_per_host);
    let mut known = 0.0;
    let mut cost = action.cost_gpu_s;
    for hypothesis in &incident.hypotheses {
        let Some(mode) = fault_mode(&hypothesis.fault_mode) else { continue };
        let gpus = mode.gpus.unwrap_or(all);
        let (cured, takes_s) = mode
            .cures
            .iter()
            .find(|cure| cure.action == action.name)
            .map_or((0.0, 0.0), |cure| (cure.probability, cure.takes_s));
        known += hypothesis.posterior;
        cost += hypothesis.posterior * gpus * (cured * takes_s + (1.0 - cured) * horizon_s);
    }
    // What is not explained costs a GPU, and nothing here cures it.
    cost + (1.0 - known).max(0.0) * horizon_s
}

fn inadequate(incident: &Incident, action: &Action) -> Option<String> {
    posterior(incident, action).err().or_else(|| evidence(incident, action).err())
}

fn posterior(incident: &Incident, action: &Action) -> Result<String, String> {
    let Some(leading) = incident.hypotheses.first() else {
        return if action.name == OBSERVE { Ok("none needed".into()) } else { Err("there is no hypothesis".into()) };
    };
    let said = format!(
        "{} has posterior {:.2}, {} needs {:.2}",
        leading.fault_mode, leading.posterior, action.name, action.posterior_min
    );
    let cures = |cure: &Cure| cure.action == action.name && cure.probability > 0.0;
    if fault_mode(&leading.fault_mode).is_some_and(|mode| !mode.cures.iter().any(cures)) {
        return Err(format!("{}, which {} does not cure", said, action.name));
    }
    if leading.posterior >= action.posterior_min { Ok(said) } else { Err(said) }
}

fn evidence(incident: &Incident, action: &Action) -> Result<String, String> {
    let pieces = incident.hypotheses.first().map_or(0, |leading| leading.evidence_for.len());
    let said = format!("{pieces} independent pieces of evidence, {} needs {}", action.name, action.evidence_min);
    if pieces >= action.evidence_min { Ok(said) } else { Err(said) }
}

/// Everything a guard looks at besides the incident.
pub(crate) struct Circumstances<'a> {
    pub now: Timestamp,
    pub halted_by: Option<&'a str>,
    /// Who approved, where someone did.
    pub approved_by: Option<&'a str>,
    pub past: &'a VecDeque<PastOrder>,
    pub hosts_watched: usize,
}

/// Every guard of `action` on `target`, passed or not.
pub(crate) fn guards(
    incident: &Incident,
    action_name: &str,
    target: &Element,
    around: &Circumstances<'_>,
    options: &Options,
) -> Vec<Guard> {
    let Some(action) = action(action_name) else {
        return vec![guard("action", Err(format!("this version knows no action {action_name:?}")))];
    };
    vec![
        guard("mode", approval(action, around, options)),
        guard(
            "halted",
            around
                .halted_by
                .map_or_else(|| Ok("acting is not halted".to_owned()), |by| Err(format!("{by} halted all acting"))),
        ),
        guard(
            "incident_open",
            if incident.state == IncidentState::Open {
                Ok("the incident is open".to_owned())
            } else {
                Err("the incident is resolved".to_owned())
            },
        ),
        guard("posterior", posterior(incident, action)),
        guard("independent_evidence", evidence(incident, action)),
        guard("evidence_complete", complete(incident)),
        guard(
            "fresh",
            if incident.late {
                Err("known only from signals that came long after the fact".to_owned())
            } else {
                Ok("the evidence came as it happened".to_owned())
            },
        ),
        guard("cooldown", cooldown(action, target, around, options)),
        guard("rate", rate(action, around)),
        guard("blast_radius", blast_radius(action, target, around)),
    ]
}

fn guard(name: &str, held: Result<String, String>) -> Guard {
    let (passed, reason) = match held {
        Ok(reason) => (true, reason),
        Err(reason) => (false, reason),
    };
    Guard { name: name.to_owned(), passed, reason }
}

fn approval(action: &Action, around: &Circumstances<'_>, options: &Options) -> Result<String, String> {
    match around.approved_by {
        Some(actor) => Ok(format!("approved by {actor}")),
        None if action.name == OBSERVE => Ok("observing needs no approval".to_owned()),
        None if options.automatic.contains(action.name) => {
            Ok(format!("{} is switched on without approval", action.name))
        }
        None => Err(format!("mode propose: {} waits for a person's approval", action.name)),
    }
}

fn complete(incident: &Incident) -> Result<String, String> {
    let Some(since) = incident.incomplete_since else { return Ok("nothing was lost on the way".to_owned()) };
    let leading = incident.hypotheses.first().map_or("", |leading| leading.fault_mode.as_str());
    if fault_mode(leading).is_some_and(|mode| mode.loss_is_symptom) {
        Ok(format!("observations were lost, which is what {leading} predicts"))
    } else {
        Err(format!("observations were lost since {} ns (Unix)", since.0))
    }
}

fn cooldown(
    action: &Action,
    target: &Element,
    around: &Circumstances<'_>,
    options: &Options,
) -> Result<String, String> {
    let last = around.past.iter().rev().find(|past| past.order.action == action.name && past.order.target == *target);
    match last.map(|past| around.now.0.saturating_sub(past.at.0)) {
        Some(ago) if ago < options.cooldown_ms * MS => Err(format!(
            "the same was ordered {} s ago; {} s must pass",
            ago / 1_000_000_000,
            options.cooldown_ms / 1000
        )),
        _ => Ok("no such order on this target of late".to_owned()),
    }
}

fn within_hour<'a>(action: &'a Action, around: &'a Circumstances<'_>) -> impl Iterator<Item = &'a PastOrder> {
    around
        .past
        .iter()
        .filter(|past| past.order.action == action.name && around.now.0.saturating_sub(past.at.0) < HOUR_NS)
}

fn rate(action: &Action, around: &Circumstances<'_>) -> Result<String, String> {
    let given = within_hour(action, around).count();
    let said = format!("{given} such orders within an hour, at most {}", action.per_hour_max);
    if action.per_hour_max == usize::MAX {
        Ok("no limit".to_owned())
    } else if given < action.per_hour_max {
        Ok(said)
    } else {
        Err(said)
    }
}

fn blast_radius(action: &Action, target: &Element, around: &Circumstances<'_>) -> Result<String, String> {
    let Some(percent) = action.hosts_percent_max else { return Ok("takes nothing out of service".to_owned()) };
    let mut hosts: BTreeSet<&str> = within_hour(action, around).map(|past| past.order.target.host.as_str()).collect();
    hosts.insert(&target.host);
    let most = (around.hosts_watched * percent / 100).max(1);
    let said = format!(
        "{} hosts within an hour, at most {most} ({percent} % of {} watched, at least 1)",
        hosts.len(),
        around.hosts_watched
    );
    if hosts.len() <= most { Ok(said) } else { Err(said) }
}
