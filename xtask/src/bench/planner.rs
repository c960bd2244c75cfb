//! `cargo xtask bench planner`: the planner of probes. The measuring is `collector/engine/examples/planner.rs`; it needs no fabric.

use anyhow::{Context, Result, ensure};
use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// Options of `bench planner`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Measures.
pub fn measure() -> Result<serde_json::Value> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--release", "--quiet", "--package", "railwatch-engine", "--example", "planner"])
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "the measurement failed: {}", output.status);
    serde_json::from_slice(&output.stdout).context("read what collector/engine/examples/planner.rs printed")
}
