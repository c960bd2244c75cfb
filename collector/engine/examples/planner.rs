//! Measures the planner on the lab's default fabric and on a rail-optimised Clos of 1,024 hosts. Prints JSON; run by `cargo xtask bench planner`.

use railwatch_engine::cover::clos::{Clos, clos};
use railwatch_engine::cover::{Options, Suspects, World, plan};
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
    let figures: Vec<_> = fabrics.into_iter().map(|(name, sizes)| measure(name, sizes)).collect();
    println!("{}", json!(figures));
}

fn measure(name: &str, sizes: Clos) -> serde_json::Value {
    let (fabric, endpoints) = clos(sizes);
    let (placements, suspects, options) = (BTreeMap::new(), Suspects::default(), Options::default());
    let world =
        World { fabric: &fabric, endpoints: &endpoints, placements: &placements, suspects: &suspects, before: &[] };
    let mut times_ms = Vec::new();
    let mut made = None;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        made = Some(plan(world, &options));
        times_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let made = made.unwrap_or_default();
    let begun = Instant::now();
    let again = plan(World { before: &made.flows, ..world }, &options);
    let again_ms = begun.elapsed().as_secs_f64() * 1e3;
    times_ms.sort_by(f64::total_cmp);
    let mean = made.packets_per_s.iter().sum::<f64>() / made.packets_per_s.len() as f64;
    let most = made.packets_per_s.iter().copied().fold(0.0, f64::max);
    let least = made.covered.iter().map(|covered| covered.certainty).fold(1.0, f64::min);
    json!({
        "fabric": name,
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
