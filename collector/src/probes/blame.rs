//! Which element explains the probes that are lost, told to the engine as it changes.
//!
//! In: the plan with the ways of its flows, and what became of their probes in the last seconds. Out: `LossExplained`, once two looks agree.
//! Probes of hosts whose agents are not heard say nothing: who does not run does not answer. A host alone is no finding here
//! either: its own signals tell of it. Never: a look while nothing is lost.

use super::recent::Sum;
use super::{Planned, Probes, lock};
use crate::clock::Timeline;
use crate::core::CoreHandle;
use railwatch_engine::cover::{PlannedFlow, crossings};
use railwatch_engine::locate::{Crossing, Explanation, Observation, Prior, Takes, locate};
use railwatch_engine::map::Direction;
use railwatch_engine::{Element, Suspect};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks while probes are lost.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is told is told again after so many looks, for a core that could not take it.
const AGAIN_AFTER: u32 = 10;
/// Longer payloads than this are long ones.
const LONG_BYTES: u32 = 1024;
/// A loss of so much is one of all.
const BLACKHOLE_RATE: f64 = 0.9;
/// Explanations as likely as the first, within this.
const EQUAL: f64 = 1e-6;

/// Looks until told to stop.
pub async fn follow(probes: Probes, core: CoreHandle, stop: CancellationToken) {
    // What was told last, what the last look found, and looks since.
    let (mut told, mut found, mut looks) = (Vec::new(), Vec::new(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let since = probes.lossy_since(Timeline::now());
        if since.is_none() && told.is_empty() {
            found.clear();
            continue;
        }
        let room = probes.clone();
        let look = move || if since.is_some() { room.explain() } else { Vec::new() };
        let Ok(suspects) = tokio::task::spawn_blocking(look).await else { continue };
        let named = leading(&suspects);
        looks += 1;
        let is_over = since.is_none();
        let agreed = !named.is_empty() && named == found;
        if is_over || (agreed && (named != told || looks >= AGAIN_AFTER)) {
            let at = since.unwrap_or_else(Timeline::now);
            if core.loss_explained(at, suspects).await.is_err() {
                return;
            }
            told.clone_from(&named);
            looks = 0;
        }
        found = named;
    }
}

/// What the first suspects, those that explain the loss alike, say: element and fault mode of each.
fn leading(suspects: &[Suspect]) -> Vec<(String, String)> {
    let equal = |suspect: &&Suspect| suspects[0].posterior - suspect.posterior <= EQUAL;
    let named = |suspect: &Suspect| (suspect.element.name.clone(), suspect.fault_mode.clone());
    suspects.iter().take_while(equal).map(named).collect()
}

impl Probes {
    /// What explains the losses of the last seconds, likeliest first.
    fn explain(&self) -> Vec<Suspect> {
        let now = Timeline::now();
        let sums = lock(&self.0.recent).sums(now);
        let heard: BTreeSet<String> = lock(&self.0.lines).keys().map(ToString::to_string).collect();
        explain(&self.planned(), &sums, &heard)
    }
}

/// An element by number: directions of links first, hosts after them.
enum Numbered {
    Direction(Direction),
    Host(usize),
}

fn explain(planned: &Planned, sums: &HashMap<u64, Sum>, heard: &BTreeSet<String>) -> Vec<Suspect> {
    let Planned { fabric, endpoints, placements, plan, .. } = planned;
    let host = |end: usize| endpoints[end].port.node.as_str();
    let speaks = |flow: &&PlannedFlow| heard.contains(host(flow.from)) && heard.contains(host(flow.to));
    let flows: Vec<_> = plan.flows.iter().filter(|flow| sums.contains_key(&flow.id)).filter(speaks).collect();
    let hosts: BTreeMap<&str, usize> =
        endpoints.iter().map(|end| end.port.node.as_str()).collect::<BTreeSet<_>>().into_iter().zip(0..).collect();
    let directions = fabric.links().len() * 2;
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let of_direction = |direction: Direction| number(direction.link * 2 + usize::from(direction.from_a));
    let of_host = |end: usize| number(hosts.get(host(end)).copied().unwrap_or(0));
    let mut seen = Vec::new();
    for (flow, [there, back]) in flows.iter().zip(crossings(fabric, endpoints, placements, &flows)) {
        let ends = [of_host(flow.from), of_host(flow.to)];
        let crossed = |with_there: bool, with_back: bool| {
            let mut likely: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
            for (direction, share) in there.iter().filter(|_| with_there) {
                likely.entry(of_direction(*direction)).or_default().0 = *share;
            }
            for (direction, share) in back.iter().filter(|_| with_back) {
                likely.entry(of_direction(*direction)).or_default().1 = *share;
            }
            for end in ends {
                let both = (f64::from(u8::from(with_there)), f64::from(u8::from(with_back)));
                likely.insert(number(directions).saturating_add(end), both);
            }
            likely.into_iter().map(|(element, (there, back))| Crossing { element, there, back }).collect()
        };
        let is_long = flow.size_bytes > LONG_BYTES;
        let observed = |sent, lost, crosses| Observation { sent, lost, is_long, ends, crosses };
        let Some(Sum { sent, lost, ways }) = sums.get(&flow.id).copied() else { continue };
        match ways {
            Some((lost_there, lost_back)) => {
                seen.push(observed(sent, lost_there, crossed(true, false)));
                seen.push(observed(sent.saturating_sub(lost_there), lost_back, crossed(false, true)));
            }
            None => seen.push(observed(sent, lost, crossed(true, true))),
        }
    }
    let names: Vec<&str> = hosts.into_keys().collect();
    let explanations = locate(&seen, Prior::default());
    let numbered = |explanation: &Explanation| {
        let at = usize::try_from(explanation.element).unwrap_or(usize::MAX);
        match at.checked_sub(directions) {
            None => Numbered::Direction(Direction { link: at / 2, from_a: at % 2 == 1 }),
            Some(host) => Numbered::Host(host),
        }
    };
    let first = explanations.first().map_or(0.0, |first| first.posterior);
    let leads = |explanation: &&Explanation| first - explanation.posterior <= EQUAL;
    if explanations.iter().take_while(leads).all(|it| matches!(numbered(it), Numbered::Host(_))) {
        return Vec::new();
    }
    let mut suspects: Vec<Suspect> = Vec::new();
    for (at, explanation) in explanations.iter().enumerate() {
        let (name, host, kind) = match numbered(explanation) {
            Numbered::Host(host) => {
                let name = names.get(host).copied().unwrap_or_default().to_owned();
                (name.clone(), name, "host")
            }
            Numbered::Direction(direction) => {
                let other = Direction { from_a: !direction.from_a, ..direction };
                let is_other = |it: &Explanation| it.element == of_direction(other) && it.takes == explanation.takes;
                let twin = explanations
                    .iter()
                    .position(|it| is_other(it) && (it.posterior - explanation.posterior).abs() <= EQUAL);
                match twin {
                    // Nothing tells the two directions apart: it is the cable.
                    Some(twin) if twin < at => continue,
                    Some(_) => (fabric.links()[direction.link].to_string(), String::new(), "link"),
                    None => (fabric.name(direction), String::new(), "link"),
                }
            }
        };
        let is_cable = kind == "link" && !name.contains('>');
        suspects.push(Suspect {
            element: Element { host, kind: kind.to_owned(), name },
            fault_mode: match explanation.takes {
                Takes::LongAlone => "path_long_packets_lost",
                Takes::Any if explanation.rate >= BLACKHOLE_RATE => "path_blackhole",
                Takes::Any => "path_loss",
            }
            .to_owned(),
            posterior: explanation.posterior * if is_cable { 2.0 } else { 1.0 },
            rate: explanation.rate,
            lossy_flows: explanation.lossy.0,
            other_lossy_flows: explanation.lossy.1,
            hosts: explanation.hosts,
        });
    }
    suspects.sort_by(|a, b| b.posterior.total_cmp(&a.posterior));
    suspects
}

#[cfg(test)]
mod tests;
