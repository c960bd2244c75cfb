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
use railwatch_engine::{Element, Suspect, alike};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks while probes are lost.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is told is told again after so many looks, for a core that could not take it.
const AGAIN_AFTER: u32 = 10;
/// After a change of the fabric, so long nothing is explained: what is summed up must be of the ways that are known now.
const SETTLED_NS: u64 = 6_000_000_000;
/// Longer payloads than this are long ones.
const LONG_BYTES: u32 = 1024;
/// A loss of so much is one of all.
const BLACKHOLE_RATE: f64 = 0.9;
/// A direction, or a whole link, is meant alone where it has so much of what both directions and the whole have together.
const APART: f64 = 0.9;
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
        // Of what was lost while links changed nobody knows the way.
        let is_steady = probes.steady_since().0.saturating_add(SETTLED_NS) <= Timeline::now().0;
        let look = move || if since.is_some() && is_steady { room.explain() } else { Vec::new() };
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
    alike(suspects).iter().map(|suspect| (suspect.element.name.clone(), suspect.fault_mode.clone())).collect()
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

/// An element by number: directions of links first, then whole links, then hosts.
enum Numbered {
    Direction(Direction),
    Cable(usize),
    Host(usize),
}

fn explain(planned: &Planned, sums: &HashMap<u64, Sum>, heard: &BTreeSet<String>) -> Vec<Suspect> {
    let Planned { fabric, endpoints, placements, plan, .. } = planned;
    let host = |end: usize| endpoints[end].port.node.as_str();
    let speaks = |flow: &&PlannedFlow| heard.contains(host(flow.from)) && heard.contains(host(flow.to));
    let flows: Vec<_> = plan.flows.iter().filter(|flow| sums.contains_key(&flow.id)).filter(speaks).collect();
    let hosts: BTreeMap<&str, usize> =
        endpoints.iter().map(|end| end.port.node.as_str()).collect::<BTreeSet<_>>().into_iter().zip(0..).collect();
    let links = fabric.links().len();
    let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let of_direction = |direction: Direction| number(direction.link * 2 + usize::from(direction.from_a));
    let of_host = |end: usize| number(hosts.get(host(end)).copied().unwrap_or(0));
    let of_cable = |link: usize| number(links * 2 + link);
    let mut seen = Vec::new();
    for (flow, [there, back]) in flows.iter().zip(crossings(fabric, endpoints, placements, &flows)) {
        let ends = [of_host(flow.from), of_host(flow.to)];
        let crossed = |with_there: bool, with_back: bool| {
            let mut likely: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
            for (direction, share) in there.iter().filter(|_| with_there) {
                likely.entry(of_direction(*direction)).or_default().0 = *share;
                likely.entry(of_cable(direction.link)).or_default().0 += *share;
            }
            for (direction, share) in back.iter().filter(|_| with_back) {
                likely.entry(of_direction(*direction)).or_default().1 = *share;
                likely.entry(of_cable(direction.link)).or_default().1 += *share;
            }
            for end in ends {
                let both = (f64::from(u8::from(with_there)), f64::from(u8::from(with_back)));
                likely.insert(number(links * 3).saturating_add(end), both);
            }
            likely.into_iter().map(|(element, (there, back))| Crossing { element, there, back }).collect()
        };
        let is_long = flow.size_bytes > LONG_BYTES;
        let observed = |sent, lost, crosses| Observation { sent, lost, is_long, prober: ends[0], crosses };
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
        match (at.checked_sub(links * 2), at.checked_sub(links * 3)) {
            (None, _) => Numbered::Direction(Direction { link: at / 2, from_a: at % 2 == 1 }),
            (Some(link), None) => Numbered::Cable(link),
            (_, Some(host)) => Numbered::Host(host),
        }
    };
    let first = explanations.first().map_or(0.0, |first| first.posterior);
    let leads = |explanation: &&Explanation| first - explanation.posterior <= EQUAL;
    if explanations.iter().take_while(leads).all(|it| matches!(numbered(it), Numbered::Host(_))) {
        return Vec::new();
    }
    let link_of = |explanation: &Explanation| match numbered(explanation) {
        Numbered::Direction(direction) => Some(direction.link),
        Numbered::Cable(link) => Some(link),
        Numbered::Host(_) => None,
    };
    let mut suspects: Vec<Suspect> = Vec::new();
    let mut told: BTreeSet<(usize, Takes)> = BTreeSet::new();
    for explanation in &explanations {
        let link = link_of(explanation);
        if link.is_some_and(|link| told.contains(&(link, explanation.takes))) {
            continue;
        }
        let of_link = |it: &&Explanation| link.is_some() && link_of(it) == link && it.takes == explanation.takes;
        let together: f64 = explanations.iter().filter(of_link).map(|it| it.posterior).sum();
        // Where nothing tells its directions and the whole apart, it is the link.
        let is_apart = explanation.posterior >= together * APART;
        let (name, host, kind) = match (numbered(explanation), link) {
            (Numbered::Host(host), _) => {
                let name = names.get(host).copied().unwrap_or_default().to_owned();
                (name.clone(), name, "host")
            }
            (Numbered::Direction(direction), _) if is_apart => (fabric.name(direction), String::new(), "link"),
            (_, Some(link)) => (fabric.links()[link].to_string(), String::new(), "link"),
            (_, None) => continue,
        };
        told.extend(link.map(|link| (link, explanation.takes)));
        suspects.push(Suspect {
            element: Element { host, kind: kind.to_owned(), name },
            fault_mode: match explanation.takes {
                Takes::LongAlone => "path_long_packets_lost",
                Takes::Any if explanation.rate >= BLACKHOLE_RATE => "path_blackhole",
                Takes::Any => "path_loss",
            }
            .to_owned(),
            posterior: if is_apart { explanation.posterior } else { together },
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
