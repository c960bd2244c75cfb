//! Benchmarks: figures for docs/SPECIFICATION.md, each with its peer in the same run where there is one.

mod agent;
mod idle;
mod latency;
mod planner;
mod probe;
mod probes;
mod statistics;
mod tape;
mod uplink;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// What can be measured.
#[derive(clap::Subcommand)]
pub enum Bench {
    /// Cost of a traced call, against bpftrace doing the same accounting
    Probe(probe::Options),
    /// The collector's throughput on one core, and the time from an event to its incident
    Uplink(uplink::Options),
    /// What the agent costs on a host with 8 emulated NICs, in a burst, and beside Prometheus's node exporter
    Agent(agent::Options),
    /// What the agent costs while nothing happens
    Idle(idle::Options),
    /// The time from a counter's move to its signal at the collector, by kind of source
    Latency(latency::Options),
    /// How long planning probes takes, and what the plan costs and covers, on the lab's fabric and on one of 1,024 hosts
    Planner(planner::Options),
    /// What a reading costs on the tape, in bytes and nanoseconds, beside the other candidate
    Tape(tape::Options),
    /// What planned probes and their answers cost on a host with 8 NICs, beside a ping and the floor of the same fabric
    Probes(probes::Options),
}

/// Measures, and shows or writes the result.
pub fn bench(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Probe(options) => write(&options.json, &probe::measure(options)?),
        Bench::Uplink(options) => write(&options.json, &uplink::measure(options)?),
        Bench::Agent(options) => write(&options.json, &agent::measure(options)?),
        Bench::Idle(options) => write(&options.json, &idle::measure(options)?),
        Bench::Latency(options) => write(&options.json, &latency::measure(options)?),
        Bench::Planner(options) => write(&options.json, &planner::measure()?),
        Bench::Tape(options) => write(&options.json, &tape::measure()?),
        Bench::Probes(options) => write(&options.json, &probes::measure()?),
    }
}

/// Runs an example that measures and prints its result as JSON.
fn example(package: &str, example: &str) -> Result<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--package", package, "--example", example])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "the measurement failed: {}", output.status);
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("read what the example {example} of {package} printed"))
}

fn write(path: &Option<PathBuf>, result: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(result)?;
    println!("{text}");
    if let Some(path) = path {
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
