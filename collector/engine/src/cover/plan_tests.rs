//! What a plan promises, on fabrics of several shapes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::*;
use crate::cover::clos::{Clos, clos};
use crate::cover::mix;
use crate::map::{Link, Nic, Node};

const LAB: Clos = Clos { rails: 2, leaves_per_rail: 2, hosts_per_leaf: 4, spines: 2 };

fn planned(fabric: &Fabric, endpoints: &[Endpoint], options: &Options) -> Plan {
    planned_with(fabric, endpoints, options, &BTreeMap::new(), &Suspects::default(), &[])
}

fn planned_with(
    fabric: &Fabric,
    endpoints: &[Endpoint],
    options: &Options,
    placements: &BTreeMap<Flow, Path>,
    suspects: &Suspects,
    before: &[PlannedFlow],
) -> Plan {
    checked(World { fabric, endpoints, placements, suspects, before, jobs: &[] }, options)
}

fn planned_for(
    fabric: &Fabric,
    endpoints: &[Endpoint],
    options: &Options,
    jobs: &[Job],
    before: &[PlannedFlow],
) -> Plan {
    let (placements, suspects) = (BTreeMap::new(), Suspects::default());
    checked(World { fabric, endpoints, placements: &placements, suspects: &suspects, before, jobs }, options)
}

fn checked(world: World<'_>, options: &Options) -> Plan {
    let (plan, endpoints) = (plan(world, options), world.endpoints);
    for (endpoint, packets_per_s) in endpoints.iter().zip(&plan.packets_per_s) {
        assert!(*packets_per_s <= options.packets_per_s_per_nic_max + 1e-6, "{}: {packets_per_s}", endpoint.port);
    }
    let ids: BTreeSet<_> = plan.flows.iter().map(|flow| flow.id).collect();
    assert_eq!(ids.len(), plan.flows.len(), "a flow is in a plan once");
    for flow in &plan.flows {
        assert_ne!(endpoints[flow.from].port.node, endpoints[flow.to].port.node, "a host does not probe itself");
    }
    let tuples: BTreeSet<_> = plan.flows.iter().map(|flow| (flow.from, flow.flow.source_port)).collect();
    assert_eq!(tuples.len(), plan.flows.len(), "a port is of one flow of its NIC");
    for (job, of_plan) in world.jobs.iter().zip(&plan.jobs) {
        assert_eq!(job.name, of_plan.name);
        assert!(of_plan.pairs_probed <= of_plan.pairs, "{of_plan:?}");
    }
    plan
}

fn job(name: &str, hosts: impl IntoIterator<Item = u32>) -> Job {
    Job { name: name.into(), hosts: hosts.into_iter().map(|host| format!("host{host}")).collect() }
}

/// Hosts of the pairs that are probed for a job, sender first, of one rail.
fn pairs_of(plan: &Plan, endpoints: &[Endpoint], job: &str, rail: &str) -> BTreeSet<(String, String)> {
    let flows = plan.flows.iter().filter(|flow| flow.job.as_deref() == Some(job) && endpoints[flow.from].rail == rail);
    flows.map(|flow| (endpoints[flow.from].port.node.clone(), endpoints[flow.to].port.node.clone())).collect()
}

fn packets_per_s(plan: &Plan) -> f64 {
    plan.packets_per_s.iter().sum()
}

fn ids(plan: &Plan) -> BTreeSet<u64> {
    plan.flows.iter().map(|flow| flow.id).collect()
}

fn at<'a>(fabric: &Fabric, plan: &'a Plan, name: &str) -> &'a Covered {
    plan.covered.iter().find(|covered| fabric.name(covered.direction) == name).unwrap()
}

#[test]
fn every_direction_has_its_rate_in_each_size_for_the_least_and_within_the_budget() {
    for (sizes, packets_most) in [
        (LAB, 12.5),
        (Clos { rails: 1, leaves_per_rail: 2, hosts_per_leaf: 1, spines: 1 }, 10.5),
        (Clos { rails: 1, leaves_per_rail: 1, hosts_per_leaf: 3, spines: 1 }, 12.0),
        (Clos { rails: 4, leaves_per_rail: 4, hosts_per_leaf: 16, spines: 16 }, 30.0),
    ] {
        let (fabric, endpoints) = clos(sizes);
        let plan = planned(&fabric, &endpoints, &Options::default());
        let mean = plan.packets_per_s.iter().sum::<f64>() / plan.packets_per_s.len() as f64;
        assert!(mean <= packets_most, "{sizes:?}: {mean}");
        for covered in &plan.covered {
            let name = fabric.name(covered.direction);
            // One leaf alone: its spine is on nobody's way.
            if sizes.leaves_per_rail == 1 && name.contains("spine") {
                assert_eq!(covered.uncovered, Some(Uncovered::NoWay), "{name}");
                continue;
            }
            assert_eq!(covered.uncovered, None, "{sizes:?} {name}: {covered:?}");
            assert!(covered.certainty >= 0.999, "{name}: {covered:?}");
            assert!(covered.per_s_by_size.iter().all(|per_s| *per_s >= 5.0 - 1e-9), "{name}: {covered:?}");
        }
    }
}

#[test]
fn the_same_world_gives_the_same_plan_and_a_plan_made_again_keeps_all_its_flows() {
    let (fabric, endpoints) = clos(LAB);
    let first = planned(&fabric, &endpoints, &Options::default());
    assert_eq!(first, planned(&fabric, &endpoints, &Options::default()));
    let again =
        planned_with(&fabric, &endpoints, &Options::default(), &BTreeMap::new(), &Suspects::default(), &first.flows);
    assert_eq!(first.flows, again.flows);
}

#[test]
fn a_host_more_or_less_leaves_the_flows_of_the_others_as_they_are() {
    let (fabric, endpoints) = clos(LAB);
    let first = planned(&fabric, &endpoints, &Options::default());
    let fewer: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.port.node != "host3").cloned().collect();
    let options = Options::default();
    let without = planned_with(&fabric, &fewer, &options, &BTreeMap::new(), &Suspects::default(), &first.flows);
    let others: BTreeSet<_> = first
        .flows
        .iter()
        .filter(|flow| [flow.from, flow.to].iter().all(|end| endpoints[*end].port.node != "host3"))
        .map(|flow| flow.id)
        .collect();
    assert!(others.is_subset(&ids(&without)));
    let own = without.covered.iter().filter(|covered| covered.uncovered.is_some());
    assert!(own.map(|covered| fabric.name(covered.direction)).all(|name| name.contains("host3")));
}

#[test]
fn where_paths_are_known_coverage_is_exact_and_what_is_not_needed_goes() {
    let (fabric, endpoints) = clos(LAB);
    let options = Options::default();
    let unknown = planned(&fabric, &endpoints, &options);
    // As if traced: each flow takes one of its paths, chosen by its identifier.
    let mut placements = BTreeMap::new();
    for flow in &unknown.flows {
        for (from, to, tuple) in [(flow.from, flow.to, flow.flow.clone()), (flow.to, flow.from, flow.flow.reversed())] {
            let paths = fabric.paths(from, to, 16).paths;
            let chosen = (mix(flow.id ^ from as u64) % paths.len() as u64) as usize;
            placements.insert(tuple, paths[chosen].1.clone());
        }
    }
    let known = planned_with(&fabric, &endpoints, &options, &placements, &Suspects::default(), &unknown.flows);
    assert!(known.flows.len() <= unknown.flows.len());
    assert!(ids(&known).iter().filter(|id| ids(&unknown).contains(id)).count() > known.flows.len() / 2);
    for covered in &known.covered {
        assert_eq!((covered.uncovered, covered.certainty >= 0.999), (None, true), "{covered:?}");
    }
    let exact = known.covered.iter().filter(|covered| covered.sure_per_s >= 10.0 - 1e-9).count();
    assert!(exact * 10 >= known.covered.len() * 8, "{exact} of {} directions are exact", known.covered.len());
}

#[test]
fn what_a_budget_does_not_allow_is_said_and_finer_flows_need_less_of_it() {
    let (fabric, endpoints) = clos(LAB);
    let little = Options { packets_per_s_per_nic_max: 4.0, ..Options::default() };
    let plan = planned(&fabric, &endpoints, &little);
    assert!(plan.coverage() < 1.0);
    assert!(plan.covered.iter().any(|covered| covered.uncovered == Some(Uncovered::Budget)));
    // 100 a second in each direction take 120 packets of each NIC where flows are coarse.
    let much = Options { per_direction_per_s: 100.0, packets_per_s_per_nic_max: 110.0, ..Options::default() };
    let plan = planned(&fabric, &endpoints, &much);
    let lacking: Vec<_> = plan.covered.iter().filter(|covered| covered.uncovered.is_some()).collect();
    assert!(lacking.is_empty(), "{lacking:?} {:?}", plan.packets_per_s);
}

#[test]
fn what_shares_a_way_with_a_suspect_is_sent_more_often_and_all_is_as_before_when_nothing_is_suspected() {
    let (fabric, endpoints) = clos(LAB);
    let options = Options::default();
    let calm = planned(&fabric, &endpoints, &options);
    let suspect = "leaf1:eth4>spine0:eth1";
    let directions = [at(&fabric, &calm, suspect).direction].into();
    let suspects = Suspects { directions, nics: BTreeSet::new() };
    let alarmed = planned_with(&fabric, &endpoints, &options, &BTreeMap::new(), &suspects, &calm.flows);
    assert_eq!(ids(&alarmed), ids(&calm), "no flow is new, so none loses its history");
    let (before, now) = (at(&fabric, &calm, suspect).per_s(), at(&fabric, &alarmed, suspect).per_s());
    assert!(now > 5.0 * before, "{before} to {now}");
    let elsewhere = "leaf2:eth4>spine0:eth2";
    assert_eq!(at(&fabric, &calm, elsewhere).per_s(), at(&fabric, &alarmed, elsewhere).per_s());
    let over = planned_with(&fabric, &endpoints, &options, &BTreeMap::new(), &Suspects::default(), &alarmed.flows);
    assert_eq!(over.flows, calm.flows);
    let nics = [endpoints[0].port.clone()].into();
    let of_nic = Suspects { directions: BTreeSet::new(), nics };
    let alarmed = planned_with(&fabric, &endpoints, &options, &BTreeMap::new(), &of_nic, &calm.flows);
    let dense = alarmed.flows.iter().filter(|flow| flow.dense);
    assert!(dense.clone().count() > 0 && dense.clone().all(|flow| flow.from == 0 || flow.to == 0));
}

#[test]
fn a_host_that_does_not_answer_is_no_target_and_its_links_are_covered_by_its_own_probes() {
    let (fabric, mut endpoints) = clos(LAB);
    endpoints.iter_mut().filter(|endpoint| endpoint.port.node == "host0").for_each(|endpoint| endpoint.answers = None);
    let plan = planned(&fabric, &endpoints, &Options::default());
    assert!(plan.flows.iter().all(|flow| endpoints[flow.to].port.node != "host0"));
    assert!((plan.coverage() - 1.0).abs() < 1e-9);
}

#[test]
fn a_link_that_is_down_is_no_way_and_the_others_are_covered() {
    let (fabric, endpoints) = clos(LAB);
    let name = "leaf0:eth4-spine0:eth0";
    let links: Vec<_> =
        fabric.links().iter().map(|link| Link { up: link.to_string() != name, ..link.clone() }).collect();
    let fabric = Fabric::new(fabric.nodes().to_vec(), links, fabric.nics().to_vec()).unwrap();
    let plan = planned(&fabric, &endpoints, &Options::default());
    for covered in &plan.covered {
        let is_down = fabric.links()[covered.direction.link].to_string() == name;
        assert_eq!(covered.uncovered, is_down.then_some(Uncovered::Down), "{}", fabric.name(covered.direction));
    }
    assert!((plan.coverage() - 1.0).abs() < 1e-9);
}

#[test]
fn a_rail_whose_fabric_is_unknown_is_probed_as_a_mesh_and_that_is_said() {
    // Host links and leaves are known, what is above is not; and one host of which no cable is known.
    let (fabric, mut endpoints) = clos(LAB);
    let is_leaf_or_host = |node: &&Node| !node.name.starts_with("spine");
    let links: Vec<_> = fabric.links().iter().filter(|link| link.a.node.starts_with("host")).cloned().collect();
    let nodes = fabric.nodes().iter().filter(is_leaf_or_host).cloned().collect();
    let known: Vec<Nic> = fabric.nics().to_vec();
    let fabric = Fabric::new(nodes, links, known).unwrap();
    endpoints.iter_mut().filter(|endpoint| endpoint.port.node == "host7").for_each(|endpoint| endpoint.nic = None);
    for (per_direction_per_s, packets_least) in [(10.0, 30.0), (140.0, 139.0)] {
        let options = Options { per_direction_per_s, ..Options::default() };
        let plan = planned(&fabric, &endpoints, &options);
        assert!(plan.blind_pairs > 0);
        for (endpoint, packets_per_s) in endpoints.iter().zip(&plan.packets_per_s) {
            assert!(*packets_per_s > packets_least, "{}: {packets_per_s}", endpoint.port);
        }
        let both = |size: u32| plan.flows.iter().filter(|flow| flow.size_bytes == size).count() * 3 > plan.flows.len();
        assert!(both(64) && both(1458));
        assert!(plan.flows.iter().all(|flow| endpoints[flow.from].rail == endpoints[flow.to].rail));
        let leaf = |end: usize| endpoints[end].nic.map(|nic| fabric.head(fabric.outward(&fabric.nics()[nic])));
        let unknown = plan.flows.iter().filter(|flow| leaf(flow.from).is_none() || leaf(flow.from) != leaf(flow.to));
        assert!(unknown.count() * 10 > plan.flows.len() * 9, "what is unknown is what is probed");
        let again = planned_with(&fabric, &endpoints, &options, &BTreeMap::new(), &Suspects::default(), &plan.flows);
        assert_eq!(again.flows, plan.flows);
    }
}

#[test]
fn starts_are_spread_over_the_interval() {
    let (fabric, endpoints) = clos(LAB);
    let plan = planned(&fabric, &endpoints, &Options::default());
    let mut quarters = [0usize; 4];
    for flow in &plan.flows {
        assert!(flow.offset_us < flow.interval_us);
        quarters[(flow.offset_us / (flow.interval_us / 4 + 1)) as usize] += 1;
    }
    assert!(quarters.iter().all(|count| count * 8 > plan.flows.len()), "{quarters:?}");
}

#[test]
fn a_jobs_nics_are_probed_in_its_steps_by_rank_on_each_rail_in_each_size() {
    let (fabric, endpoints) = clos(LAB);
    let ring = &[(6, 1), (1, 4), (4, 6)][..];
    for (shape, expected) in [
        (Shape::Ring, ring),
        (Shape::Mesh, ring),
        (Shape::AllToAll, &[(6, 1), (1, 4), (4, 6), (1, 6), (4, 1), (6, 4)]),
        // Host 1 hands over to host 6 and hears of it last.
        (Shape::HalvingDoubling, &[(1, 6), (6, 4), (4, 6), (6, 1)]),
    ] {
        let options = Options { shape, ..Options::default() };
        let plan = planned_for(&fabric, &endpoints, &options, &[job("42", [6, 1, 4])], &[]);
        let expected: BTreeSet<_> = expected.iter().map(|(a, b)| (format!("host{a}"), format!("host{b}"))).collect();
        for rail in ["10.0.0.0/16", "10.1.0.0/16"] {
            let pairs = pairs_of(&plan, &endpoints, "42", rail);
            // In a mesh a pair has one sender, whoever that is.
            let either = |(a, b): &(String, String)| expected.contains(&(b.clone(), a.clone()));
            let is_right = pairs.iter().all(|pair| expected.contains(pair) || shape == Shape::Mesh && either(pair));
            assert!(is_right && pairs.len() == expected.len(), "{shape:?} {rail}: {pairs:?}");
        }
        let flows = plan.flows.iter().filter(|flow| flow.job.is_some());
        assert_eq!(flows.clone().count(), 2 * 2 * expected.len(), "each size on each rail: {shape:?}");
        assert!(flows.clone().all(|flow| flow.scope(&endpoints) == Scope::Job));
        let of_job = JobPlan {
            name: "42".into(),
            nics: 6,
            hosts_without: 0,
            pairs: 2 * expected.len(),
            pairs_probed: 2 * expected.len(),
        };
        assert_eq!(plan.jobs, [of_job]);
        assert!((plan.coverage() - 1.0).abs() < 1e-9);
    }
}

#[test]
fn what_is_probed_for_a_job_covers_links_and_the_total_is_less_than_that_of_both() {
    let (fabric, endpoints) = clos(LAB);
    let calm = planned(&fabric, &endpoints, &Options::default());
    let all = [job("all", 0..8)];
    let with = planned_for(&fabric, &endpoints, &Options::default(), &all, &calm.flows);
    assert_eq!((with.jobs[0].pairs, with.jobs[0].pairs_probed), (2 * 28, 2 * 28));
    assert!((with.coverage() - 1.0).abs() < 1e-9);
    // A mesh of eight is seven pairs of each NIC, a packet a second in each of two sizes.
    let alone = 16.0 * 7.0 * 2.0;
    assert!(packets_per_s(&with) >= alone);
    assert!(packets_per_s(&with) < 0.75 * (packets_per_s(&calm) + alone), "{} {alone}", packets_per_s(&with));
    for covered in &with.covered {
        assert!(covered.certainty >= 0.999, "{}: {covered:?}", fabric.name(covered.direction));
    }
}

#[test]
fn a_job_that_starts_or_ends_leaves_the_flows_of_other_jobs_and_takes_all_its_own_with_it() {
    let (fabric, endpoints) = clos(LAB);
    let options = Options::default();
    let (first, second) = (job("1", [0, 4, 1]), job("2", [2, 5, 6, 1]));
    let flows_of = |plan: &Plan, name: &str| -> BTreeSet<u64> {
        plan.flows.iter().filter(|flow| flow.job.as_deref() == Some(name)).map(|flow| flow.id).collect()
    };
    let calm = planned_for(&fabric, &endpoints, &options, &[], &[]);
    let one = planned_for(&fabric, &endpoints, &options, std::slice::from_ref(&first), &calm.flows);
    assert!(!flows_of(&one, "1").is_empty());
    let again = planned_for(&fabric, &endpoints, &options, std::slice::from_ref(&first), &one.flows);
    assert_eq!(one, again, "a plan made again keeps all its flows, in their order");
    let both = planned_for(&fabric, &endpoints, &options, &[first.clone(), second.clone()], &one.flows);
    assert_eq!(flows_of(&both, "1"), flows_of(&one, "1"));
    assert_eq!(both, planned_for(&fabric, &endpoints, &options, &[first, second.clone()], &both.flows));
    let other = planned_for(&fabric, &endpoints, &options, &[second], &both.flows);
    assert_eq!(flows_of(&other, "2"), flows_of(&both, "2"));
    assert!(flows_of(&other, "1").is_empty() && other.jobs.len() == 1);
    let over = planned_for(&fabric, &endpoints, &options, &[], &other.flows);
    assert!(over.flows.iter().all(|flow| flow.job.is_none()) && over.jobs.is_empty());
    assert!((over.coverage() - 1.0).abs() < 1e-9);
    assert!(packets_per_s(&over) <= 1.1 * packets_per_s(&calm), "{} {}", packets_per_s(&over), packets_per_s(&calm));
}

#[test]
fn a_job_too_large_for_the_budget_has_an_even_part_of_its_pairs_and_what_is_left_out_is_counted() {
    let (fabric, endpoints) = clos(Clos { rails: 1, leaves_per_rail: 4, hosts_per_leaf: 16, spines: 2 });
    // Half of it is ten pairs of each NIC in both sizes, of 31 that a mesh of 32 has.
    let options = Options { packets_per_s_per_nic_max: 40.0, ..Options::default() };
    let jobs = [job("even", (0..64).step_by(2)), job("odd", (0..64).skip(1).step_by(2))];
    let plan = planned_for(&fabric, &endpoints, &options, &jobs, &[]);
    assert!((plan.coverage() - 1.0).abs() < 1e-9);
    for (of_plan, job) in plan.jobs.iter().zip(&jobs) {
        let pairs = pairs_of(&plan, &endpoints, &job.name, &endpoints[0].rail);
        assert_eq!((of_plan.pairs, of_plan.pairs_probed), (32 * 31 / 2, pairs.len()), "{}", job.name);
        for host in &job.hosts {
            let own = pairs.iter().filter(|(a, b)| a == host || b == host).count();
            assert!((8..=10).contains(&own), "{host} of {}: {own}", job.name);
        }
        // Neighbours by rank and far ones alike.
        let rank = |host: &String| job.hosts.iter().position(|of_job| of_job == host).unwrap();
        let near = pairs.iter().filter(|(a, b)| rank(a).abs_diff(rank(b)) <= 8).count();
        assert!((pairs.len() / 4..pairs.len() * 3 / 4).contains(&near), "{near} of {}", pairs.len());
    }
    let one = planned_for(&fabric, &endpoints, &options, &jobs[..1], &plan.flows);
    assert_eq!(one.jobs[0], plan.jobs[0], "what one has is not at the cost of another");
    // Fewer packets than links alone need: links come first.
    let (fabric, endpoints) = clos(LAB);
    for packets_per_s_per_nic_max in [4.0, 11.0, 13.0] {
        let options = Options { packets_per_s_per_nic_max, ..Options::default() };
        let calm = planned(&fabric, &endpoints, &options);
        let with = planned_for(&fabric, &endpoints, &options, &[job("all", 0..8)], &calm.flows);
        assert!(with.coverage() >= calm.coverage(), "{} {}", with.coverage(), calm.coverage());
        assert_eq!(with.flows, planned_for(&fabric, &endpoints, &options, &[job("all", 0..8)], &with.flows).flows);
    }
}

#[test]
fn a_pair_of_two_jobs_is_probed_once_and_who_cannot_answer_asks() {
    let (fabric, mut endpoints) = clos(LAB);
    for endpoint in &mut endpoints {
        let is_silent = ["host1", "host2"].contains(&endpoint.port.node.as_str());
        endpoint.answers = endpoint.answers.filter(|_| !is_silent);
    }
    // "away" is on no host that probes; one job is of one host alone.
    let mut jobs = [job("a", [0, 1, 2]), job("b", [1, 0, 5]), job("alone", [3])];
    jobs[1].hosts.push("away".to_owned());
    let plan = planned_for(&fabric, &endpoints, &Options::default(), &jobs, &[]);
    let pairs = |name| pairs_of(&plan, &endpoints, name, "10.0.0.0/16");
    let named = |pairs: &[(&str, &str)]| -> BTreeSet<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(pairs("a"), named(&[("host1", "host0"), ("host2", "host0")]));
    assert!(!pairs("b").contains(&("host1".to_owned(), "host0".to_owned())) && pairs("b").len() == 2);
    let counts: Vec<_> =
        plan.jobs.iter().map(|job| (job.nics, job.hosts_without, job.pairs, job.pairs_probed)).collect();
    assert_eq!(counts, [(6, 0, 6, 4), (6, 1, 6, 6), (2, 0, 0, 0)]);
}

#[test]
fn pairs_of_the_whole_fleet_cover_links_as_well_and_cross_from_rail_to_rail() {
    let (fabric, endpoints) = clos(LAB);
    let options = Options { fleet: true, ..Options::default() };
    let plan = planned_for(&fabric, &endpoints, &options, &[], &[]);
    assert!((plan.coverage() - 1.0).abs() < 1e-9);
    let by_rail = planned(&fabric, &endpoints, &Options::default());
    assert!(
        packets_per_s(&plan) <= 1.25 * packets_per_s(&by_rail),
        "{} {}",
        packets_per_s(&plan),
        packets_per_s(&by_rail)
    );
    // Each leaf with each, of whatever rail.
    let leaf = |end: usize| fabric.head(fabric.outward(&fabric.nics()[endpoints[end].nic.unwrap()]));
    let leaves: BTreeSet<_> = plan
        .flows
        .iter()
        .map(|flow| (leaf(flow.from).min(leaf(flow.to)), leaf(flow.from).max(leaf(flow.to))))
        .collect();
    assert_eq!(leaves.iter().filter(|(a, b)| a != b).count(), 6, "{leaves:?}");
    let scopes: BTreeSet<_> = plan.flows.iter().map(|flow| flow.scope(&endpoints)).collect();
    assert_eq!(scopes, [Scope::Rail, Scope::Fleet].into());
    assert_eq!(planned_for(&fabric, &endpoints, &options, &[], &plan.flows).flows, plan.flows);
    let jobs = [job("1", 0..5)];
    let with = planned_for(&fabric, &endpoints, &options, &jobs, &plan.flows);
    assert!((with.coverage() - 1.0).abs() < 1e-9);
    assert_eq!(with, planned_for(&fabric, &endpoints, &options, &jobs, &with.flows));
}

#[test]
fn each_pair_is_probed_over_a_family_that_both_have_and_long_packets_are_equally_long() {
    let (fabric, mut endpoints) = clos(LAB);
    for (number, endpoint) in endpoints.iter_mut().enumerate() {
        let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::try_from(number).unwrap() + 1]);
        // Of each leaf: one host of IPv4 alone, one of IPv6 alone, and two of both.
        match number / 2 % 4 {
            0 => {}
            1 => endpoint.address = v6,
            _ => endpoint.address_v6 = Some(v6),
        }
    }
    let jobs = [job("1", [0, 1, 2, 3])];
    let options = Options::default();
    let plan = planned_for(&fabric, &endpoints, &options, &jobs, &[]);
    for flow in &plan.flows {
        let (from, to) = (&endpoints[flow.from], &endpoints[flow.to]);
        assert_eq!(Some((flow.flow.source, flow.flow.destination)), addresses_between(from, to));
        let expected = if flow.flow.source.is_ipv6() { [64, 1438] } else { [64, 1458] };
        assert!(expected.contains(&flow.size_bytes), "{flow:?}");
    }
    let over_v6 = plan.flows.iter().filter(|flow| flow.flow.source.is_ipv6()).count();
    assert!(over_v6 > 0 && over_v6 < plan.flows.len());
    // Host 0 and host 1 have no family in common.
    assert_eq!((plan.jobs[0].pairs, plan.jobs[0].pairs_probed), (12, 10));
    assert!((plan.coverage() - 1.0).abs() < 1e-9);
    assert_eq!(plan, planned_for(&fabric, &endpoints, &options, &jobs, &plan.flows));
    // Hosts that get an address of IPv4 are probed over that one from then on.
    for (number, endpoint) in endpoints.iter_mut().enumerate().filter(|(_, endpoint)| endpoint.address.is_ipv6()) {
        endpoint.address_v6 = Some(endpoint.address);
        endpoint.address = IpAddr::from([10, 77, 0, u8::try_from(number).unwrap()]);
    }
    let later = planned_for(&fabric, &endpoints, &options, &jobs, &plan.flows);
    assert!(later.flows.iter().all(|flow| flow.flow.source.is_ipv4()));
    let others: BTreeSet<_> =
        plan.flows.iter().filter(|flow| flow.job.is_some() && flow.flow.source.is_ipv4()).map(|flow| flow.id).collect();
    assert!(others.is_subset(&ids(&later)));
}

#[test]
fn a_size_that_is_another_when_shorter_stays_itself() {
    let options = Options { sizes_bytes: vec![64, 84, 1438, 1458], ..Options::default() };
    let v6 = IpAddr::from([0; 16]);
    let payloads: Vec<_> = (0..4).map(|size| options.payload_bytes(size, v6)).collect();
    assert_eq!(payloads, [64, 84, 1418, 1458]);
    assert!((0..4).all(|size| options.size_of(payloads[size], v6) == Some(size)));
    assert_eq!(options.size_of(1438, v6), None);
}
