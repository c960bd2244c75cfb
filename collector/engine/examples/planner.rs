//! Measures the planner on the lab's default fabric and on a rail-optimised Clos of 1,024 hosts, without jobs, with one on all hosts, with 64
//! of 16 hosts each, and with pairs of the whole fleet. Prints JSON; run by `cargo xtask bench planner`.

use railwatch_engine::cover::clos::{Clos, clos};
use railwatch_engine::cover::{Job, Options, Suspects, World, plan};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

/// Each plan is made so often.
const ROUNDS: usize = 5;

fn main() {
    let fabrics = [
        ("lab", Clos { rails: 2, leaves_per_rail: 2, hosts_per_leaf: 4, spines: 2 }),
        ("1024 hosts", Clos { rails: 8, leaves_per_rail: 16, hosts_per_leaf: 64, spines: 64 }),
    ];
    let figures = fabrics.into_iter().flat_map(|(name, sizes)| {
        let hosts = sizes.leaves_per_rail * sizes.hosts_per_leaf;
        let of_16: Vec<_> = (0..hosts / 16).map(|number| job(number, hosts / 16, hosts)).collect();
        let plain = Options::default();
        [
            measure(name, sizes, "no job", &[], &plain),
            measure(name, sizes, "one job", &[job(0, 1, hosts)], &plain),
            measure(name, sizes, "jobs of 16 hosts", &of_16, &plain),
            measure(name, sizes, "fleet", &[], &Options { fleet: true, ..plain.clone() }),
        ]
    });
    let figures: Vec<_> = figures.collect();
    println!("{}", json!(figures));
}

/// Job number `first` of so many that a scheduler strews over `hosts`.
fn job(first: u32, step: u32, hosts: u32) -> Job {
    let hosts = (first..hosts).step_by(step as usize).map(|host| format!("host{host}"));
    Job { name: format!("{first}").into(), hosts: hosts.collect() }
}

fn measure(name: &str, sizes: Clos, with: &str, jobs: &[Job], options: &Options) -> serde_json::Value {
    let (fabric, endpoints) = clos(sizes);
    let (placements, suspects) = (BTreeMap::new(), Suspects::default());
    let world = World {
        fabric: &fabric,
        endpoints: &endpoints,
        placements: &placements,
        suspects: &suspects,
        before: &[],
        jobs,
    };
    let mut times_ms = Vec::new();
    let mut made = None;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        made = Some(plan(world, options));
        times_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let made = made.unwrap_or_default();
    let begun = Instant::now();
    let again = plan(World { before: &made.flows, ..world }, options);
    let again_ms = begun.elapsed().as_secs_f64() * 1e3;
    times_ms.sort_by(f64::total_cmp);
    let mean = made.packets_per_s.iter().sum::<f64>() / made.packets_per_s.len() as f64;
    let most = made.packets_per_s.iter().copied().fold(0.0, f64::max);
    let least = made.covered.iter().map(|covered| covered.certainty).fold(1.0, f64::min);
    json!({
        "fabric": name,
        "with": with,
        "pairs_of_jobs": made.jobs.iter().map(|job| job.pairs).sum::<usize>(),
        "pairs_of_jobs_probed": made.jobs.iter().map(|job| job.pairs_probed).sum::<usize>(),
        "hosts": sizes.leaves_per_rail * sizes.hosts_per_leaf,
        "nics": endpoints.len(),
        "directions": made.covered.len(),
        "plan_ms_median": times_ms[ROUNDS / 2],
        "plan_ms_max": times_ms[ROUNDS - 1],
        "plan_again_ms": again_ms,
        "kept_when_planned_again": again.flows == made.flows,
        "flows": made.flows.len(),
        "coverage": made.coverage(),
        "certainty_least": least,
        "per_direction_per_s": options.per_direction_per_s,
        "packets_per_s_per_nic_mean": mean,
        "packets_per_s_per_nic_most": most,
        "budget": options.packets_per_s_per_nic_max,
    })
}
