//! `cargo xtask fuzz`: runs a fuzzer of the repository for a given time, from the kept seeds.
//!
//! The fuzz crates are apart from the workspace: they need a sanitizer, which this stable compiler has behind
//! RUSTC_BOOTSTRAP. What the fuzzer finds beyond the seeds stays in `corpus/` beside them, which git ignores; what breaks
//! the target is in `artifacts/`, and the command fails.

use crate::{packages, shell, shell::Step};
use anyhow::{Context, Result};
use std::{path::Path, process::Command, time::Duration};

/// What is fuzzed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Target {
    /// The decoder of module EEPROMs (agent/optics)
    Optics,
    /// The decoder of LLDP frames (agent/peers)
    Lldp,
}

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Options {
    /// What to fuzz
    #[arg(value_enum)]
    target: Target,
    /// How long
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    for_: Duration,
}

/// Fuzzes; fails on the first input that breaks the target.
pub fn fuzz(options: &Options) -> Result<()> {
    let (crate_dir, name, seeds) = match options.target {
        Target::Optics => (Path::new("agent/optics/fuzz"), "optics", &["seeds", "../fixtures"][..]),
        Target::Lldp => (Path::new("agent/peers/fuzz"), "lldp", &["seeds"][..]),
    };
    let tool = packages::cargo_tool("cargo-fuzz", "0.13.2", &["--debug"], &[])?;
    let corpus = crate_dir.join("corpus").join(name);
    std::fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
    let step = Step::begin(&format!("fuzz {name} for {} s", options.for_.as_secs()));
    let mut command = Command::new(tool);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["run", "--fuzz-dir"])
        .arg(crate_dir)
        .arg(name)
        .arg(&corpus)
        .args(seeds.iter().map(|seeds| crate_dir.join(seeds)))
        .args(["--", "-max_len=8192", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .arg(format!("-max_total_time={}", options.for_.as_secs()));
    shell::run(&mut command)?;
    step.done();
    Ok(())
}

fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number and a unit: 30s, 10m or 2h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(expected)?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(unit_s).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(expected)
}
