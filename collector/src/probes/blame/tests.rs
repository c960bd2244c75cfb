//! Losses drawn on the lab's fabric, over the flows that the planner chooses for it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::*;
use railwatch_engine::cover::{self, Suspects, World, clos};
use railwatch_engine::map::{Fabric, Path};
use std::sync::Arc;

/// The plan for a fabric of two rails of four leaves each, and the ways of all flows, drawn.
fn planned() -> Planned {
    let sizes = clos::Clos { rails: 2, leaves_per_rail: 4, hosts_per_leaf: 2, spines: 2 };
    let (fabric, endpoints) = clos::clos(sizes);
    let options = cover::Options::default();
    let suspects = Suspects::default();
    let unplaced = BTreeMap::new();
    let world = World {
        fabric: &fabric,
        endpoints: &endpoints,
        placements: &unplaced,
        suspects: &suspects,
        before: &[],
        jobs: &[],
    };
    let plan = cover::plan(world, &options);
    let mut placements = BTreeMap::new();
    for flow in &plan.flows {
        let mut draw = |from: usize, to: usize, it: &railwatch_engine::map::Flow| {
            let [from, to] = [from, to].map(|end| endpoints[end].nic.unwrap());
            let paths = fabric.paths(from, to, 8).paths;
            let at = usize::from(it.source_port.wrapping_mul(31) ^ it.destination_port) % paths.len();
            placements.insert(it.clone(), paths[at].1.clone());
        };
        draw(flow.from, flow.to, &flow.flow);
        draw(flow.to, flow.from, &flow.flow.reversed());
    }
    Planned {
        fabric: Arc::new(fabric),
        placements: Arc::new(placements),
        endpoints,
        options,
        plan,
        ..Planned::default()
    }
}

fn direction(fabric: &Fabric, name: &str) -> Direction {
    let all = (0..fabric.links().len()).flat_map(|link| [true, false].map(|from_a| Direction { link, from_a }));
    all.into_iter().find(|direction| fabric.name(*direction) == name).unwrap()
}

/// Each flow sent forty probes; those over a lossy direction lost so many of them.
fn sums(planned: &Planned, lossy: impl Fn(&Path, u32) -> u32) -> HashMap<u64, Sum> {
    let of = |flow: &PlannedFlow| {
        let there = lossy(&planned.placements[&flow.flow], flow.size_bytes);
        let back = lossy(&planned.placements[&flow.flow.reversed()], flow.size_bytes).min(40 - there);
        (flow.id, Sum { sent: 40, lost: there + back, ways: Some((there, back)) })
    };
    planned.plan.flows.iter().map(of).collect()
}

fn hosts(planned: &Planned) -> BTreeSet<String> {
    planned.endpoints.iter().map(|end| end.port.node.clone()).collect()
}

#[test]
fn a_link_that_loses_is_named_with_what_it_takes() {
    let planned = planned();
    let all = hosts(&planned);
    for (name, lost, long_alone, mode) in [
        ("leaf0:eth2>spine1:eth0", 0, false, ""),
        ("leaf0:eth3>spine1:eth0", 4, false, "path_loss"),
        ("spine0:eth5>leaf5:eth2", 40, false, "path_blackhole"),
        ("leaf2:eth3>spine1:eth2", 20, true, "path_long_packets_lost"),
        ("leaf1:eth0>host2:eth0", 20, false, "path_loss"),
    ] {
        let at_fault = (lost > 0).then(|| direction(&planned.fabric, name));
        let lossy = |path: &Path, size: u32| match at_fault {
            Some(at_fault) if path.contains(&at_fault) && (!long_alone || size > LONG_BYTES) => lost,
            _ => 0,
        };
        let suspects = explain(&planned, &sums(&planned, lossy), &all);
        let said = leading(&suspects);
        match lost {
            0 => assert_eq!(suspects, []),
            _ => assert_eq!(said, [(name.to_owned(), mode.to_owned())], "{suspects:#?}"),
        }
    }
}

#[test]
fn a_cable_dead_both_ways_is_the_cable_and_a_host_that_does_not_answer_is_no_finding() {
    let planned = planned();
    let all = hosts(&planned);
    // Of what never came back nobody knows on which way it was lost.
    let no_ways = |mut sums: HashMap<u64, Sum>| {
        sums.values_mut().filter(|sum| sum.lost == sum.sent).for_each(|sum| sum.ways = None);
        sums
    };
    let cable = direction(&planned.fabric, "leaf1:eth0>host2:eth0").link;
    let over_cable = |path: &Path, _| if path.iter().any(|way| way.link == cable) { 40 } else { 0 };
    let suspects = explain(&planned, &no_ways(sums(&planned, over_cable)), &all);
    assert_eq!(
        leading(&suspects),
        [("host2:eth0-leaf1:eth0".to_owned(), "path_blackhole".to_owned())],
        "{suspects:#?}"
    );

    let of_host = |path: &Path, _| {
        let ends = path.iter().map(|way| planned.fabric.links()[way.link].a.node.as_str());
        if ends.into_iter().any(|node| node == "host2") { 40 } else { 0 }
    };
    let silent = no_ways(sums(&planned, of_host));
    assert_eq!(explain(&planned, &silent, &all), []);
    // Its agent is gone: what it did not answer says nothing at all.
    let others: BTreeSet<_> = all.into_iter().filter(|host| host != "host2").collect();
    assert_eq!(explain(&planned, &silent, &others), []);
}
